//! From the counters of the table to what the detector is told: what has come since the last look.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::past::{Done, Past};
use super::routes::{NO_ROUTE, Routes};
use crate::caller::{EXEMPT, INVALID, OTHER, Provenance, UNKNOWN};
use crate::clock::Timestamp;
use crate::detect::{CallerId, Load, Observed, RouteDelta, RouteId, Row as Kind};
use crate::outcome::Class;
use crate::pipeline::Core;
use crate::record::histogram::ones;
use crate::record::lane::Lane;
use crate::record::route::RouteHash;
use crate::record::row::Row;
use crate::record::totals::{Flow, Totals};
use crate::registry::entry::{Entry, Trust};

/// What was seen last, and what has come since.
#[derive(Debug, Default)]
pub(super) struct Feed {
    seen: Vec<Seen>,
    free: Vec<u32>,
    round: u32,
    at: Timestamp,
    strangers: u64,
    routes: Routes,
    /// Of the present look: callers, and their routes one after another.
    callers: Vec<News>,
    deltas: Vec<RouteDelta>,
    /// Of the present caller: what its routes have come to.
    sums: Vec<Sum>,
}

/// What has ended on a route: by class, and nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    by_class: [u64; Class::COUNT],
    took: u64,
    /// Which classes there are any of, by bit.
    classes: u32,
}

/// One caller, as it was at the last look.
#[derive(Debug, Default)]
struct Seen {
    entry: Option<Arc<Entry>>,
    generation: u32,
    round: u32,
    flow: Flow,
    routes: Vec<SeenRoute>,
    /// What of the caller is in the row `__other__`.
    in_other: Option<Box<Totals>>,
}

#[derive(Debug)]
struct SeenRoute {
    hash: RouteHash,
    route: RouteId,
    by_class: [u64; Class::COUNT],
    /// Nanoseconds.
    took: u64,
    past: Past,
}

/// What one caller did since the last look.
#[derive(Debug)]
struct News {
    slot: u32,
    started: u32,
    new_names: u32,
    in_flight: u32,
    busy: f32,
    deltas: std::ops::Range<usize>,
}

fn small(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Feed {
    /// Looks at every caller. Returns the state of the service.
    pub(super) fn look(&mut self, core: &Core, now: Timestamp) -> Load {
        self.round = self.round.wrapping_add(1);
        if self.at == Timestamp::ZERO {
            self.at = now;
        }
        self.callers.clear();
        self.deltas.clear();
        let passed = now.since(self.at).as_secs_f32();
        let mut in_other = Totals::default();
        let mut other = None;
        for entry in core.registry.entries() {
            if entry.trust == Trust::Ours {
                match entry.name() {
                    EXEMPT => continue,
                    OTHER => {
                        other = Some(entry);
                        continue;
                    }
                    _ => {}
                }
            }
            self.look_at(&entry, now, passed, &mut in_other);
        }
        // The row `__other__` last: what is known of those in it is taken out.
        let strangers = core.registry.strangers();
        if let Some(entry) = other {
            self.look_at_others(&entry, now, &in_other, strangers - self.strangers);
        }
        self.strangers = strangers;
        self.at = now;
        self.forget_the_gone();
        let in_flight = self.callers.iter().map(|news| news.in_flight);
        match core.admission.ceiling() {
            Some((held, ceiling)) => Load {
                in_flight: held,
                ceiling: Some(ceiling.max_in_flight),
            },
            None => Load {
                in_flight: in_flight.fold(0, u32::saturating_add),
                ceiling: None,
            },
        }
    }

    /// Those who did anything, or have requests in flight.
    pub(super) fn observed(&self) -> Vec<Observed<'_>> {
        let observed = self.callers.iter().filter_map(|news| {
            let seen = self.seen.get(news.slot as usize)?;
            let entry = seen.entry.as_ref()?;
            let ours = entry.trust == Trust::Ours;
            Some(Observed {
                id: CallerId {
                    slot: news.slot,
                    generation: seen.generation,
                },
                name: entry.name(),
                provenance: entry.shown_as(),
                row: match entry.name() {
                    OTHER if ours => Kind::Other,
                    UNKNOWN | INVALID if ours => Kind::Unknown,
                    _ => Kind::Caller,
                },
                started: news.started,
                new_names: news.new_names,
                in_flight: news.in_flight,
                busy: news.busy,
                routes: self.deltas.get(news.deltas.clone())?,
            })
        });
        observed.collect()
    }

    /// The method and template of a route; `None` where there was no room for it.
    pub(super) fn route(&self, route: RouteId) -> Option<Arc<str>> {
        self.routes.name(route).cloned()
    }

    /// The number of a route by its name, in this process.
    pub(super) fn number(&mut self, core: &Core, route: &str) -> RouteId {
        core.registry
            .hash_of_route(route)
            .map_or(NO_ROUTE, |hash| self.routes.number(hash, || route.into()))
    }

    /// The name of a caller, as the detector keeps its past, and whether it is proven.
    pub(super) fn name(&self, id: CallerId) -> Option<(&str, bool)> {
        let seen = self
            .seen
            .get(id.slot as usize)
            .filter(|seen| seen.generation == id.generation)?;
        let entry = seen.entry.as_ref()?;
        Some((entry.name(), entry.shown_as() == Provenance::Verified))
    }

    pub(super) fn route_name(&self, route: RouteId) -> Option<&str> {
        self.routes.name(route).map(|name| &**name)
    }

    /// What the routes of a caller did in two spans of seconds.
    pub(super) fn done(
        &self,
        entry: &Arc<Entry>,
        before: (f64, f64),
        after: (f64, f64),
    ) -> Vec<(Option<Arc<str>>, Done, Done)> {
        let seen = self.seen(entry);
        let routes = seen.map_or(&[][..], |(_, seen)| &seen.routes);
        let done = routes.iter().map(|route| {
            let before = route.past.within(before.0, before.1);
            let after = route.past.within(after.0, after.1);
            (self.route(route.route), before, after)
        });
        done.collect()
    }

    /// Where an entry is kept, if it still is.
    fn seen(&self, entry: &Arc<Entry>) -> Option<(u32, &Seen)> {
        let slot = entry.watched.load(Ordering::Relaxed);
        let seen = self.seen.get(slot as usize)?;
        let own = seen.entry.as_ref()?;
        Arc::ptr_eq(own, entry).then_some((slot, seen))
    }

    /// The detector's name for an entry.
    pub(super) fn id(&self, entry: Option<&Arc<Entry>>) -> Option<CallerId> {
        let (slot, seen) = self.seen(entry?)?;
        let generation = seen.generation;
        Some(CallerId { slot, generation })
    }

    /// The entry of a name, as the detector knows it.
    pub(super) fn entry(&self, name: &str, provenance: Option<Provenance>) -> Option<Arc<Entry>> {
        let entries = self.seen.iter().filter_map(|seen| seen.entry.as_ref());
        let mut of_name = entries.filter(|entry| {
            entry.name() == name && provenance.is_none_or(|known| entry.shown_as() == known)
        });
        of_name.next().cloned()
    }

    /// Where the caller is kept, once it has had a request.
    fn slot(&mut self, entry: &Arc<Entry>, now: Timestamp) -> Option<u32> {
        let known = entry.watched.load(Ordering::Relaxed);
        let is_here = |seen: &&mut Seen| {
            seen.entry
                .as_ref()
                .is_some_and(|own| Arc::ptr_eq(own, entry))
        };
        if let Some(seen) = self.seen.get_mut(known as usize).filter(is_here) {
            seen.round = self.round;
            return Some(known);
        }
        let row = entry.row();
        let began = |row: &Arc<Row>| {
            row.with_lanes(|lanes| lanes.iter().any(|lane| lane.ever_started() > 0))
        };
        if !row.is_some_and(began) && entry.in_other().started == 0 {
            return None;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.seen.push(Seen::default());
            small(self.seen.len() as u64 - 1)
        });
        let seen = self.seen.get_mut(slot as usize)?;
        seen.entry = Some(Arc::clone(entry));
        seen.round = self.round;
        // Whoever came after the last look did everything since; what is older was before our time.
        seen.flow.at = self.at.min(now);
        entry.watched.store(slot, Ordering::Relaxed);
        Some(slot)
    }

    fn look_at(&mut self, entry: &Arc<Entry>, now: Timestamp, passed: f32, in_other: &mut Totals) {
        let Some(slot) = self.slot(entry, now) else {
            return;
        };
        let Some(seen) = self.seen.get_mut(slot as usize) else {
            return;
        };
        let mut news = News {
            slot,
            started: 0,
            new_names: 0,
            in_flight: 0,
            busy: 0.0,
            deltas: self.deltas.len()..self.deltas.len(),
        };
        if let Some(row) = entry.row() {
            let sums = &mut self.sums;
            seen.look_at_row(
                row,
                now,
                &mut news,
                sums,
                &mut self.deltas,
                &mut self.routes,
            );
        }
        if entry.row().is_none() || seen.in_other.is_some() {
            let totals = entry.in_other();
            let before = seen.in_other.get_or_insert_default();
            let delta = since(&totals, before);
            let (open_before, open) = (before.in_flight(), totals.in_flight());
            **before = totals;
            if entry.row().is_some() && open == 0 {
                seen.in_other = None;
            }
            news.started += small(delta.started);
            news.in_flight += small(open);
            news.busy += (open_before + open) as f32 / 2.0 * passed;
            if delta.by_class.iter().any(|&count| count > 0) {
                self.deltas.push(RouteDelta {
                    route: NO_ROUTE,
                    by_class: delta.by_class.map(small),
                    service_time: 0.0,
                });
            }
            in_other.add(&delta);
        }
        news.deltas.end = self.deltas.len();
        if news.started > 0 || news.in_flight > 0 || !news.deltas.is_empty() {
            self.callers.push(news);
        }
    }

    /// The row `__other__`, without the callers in it that are known by name.
    fn look_at_others(
        &mut self,
        entry: &Arc<Entry>,
        now: Timestamp,
        known: &Totals,
        strangers: u64,
    ) {
        let first = self.deltas.len();
        self.look_at(entry, now, 0.0, &mut Totals::default());
        let Some(news) = self
            .callers
            .last_mut()
            .filter(|news| news.deltas.start >= first)
        else {
            return;
        };
        if self.seen.get(news.slot as usize).is_none_or(|seen| {
            seen.entry
                .as_ref()
                .is_none_or(|own| !Arc::ptr_eq(own, entry))
        }) {
            return;
        }
        news.new_names = small(strangers);
        news.started = news.started.saturating_sub(small(known.started));
        let deltas = self.deltas.get_mut(news.deltas.clone()).unwrap_or_default();
        let mut all = [0_u64; Class::COUNT];
        for delta in deltas.iter() {
            for (sum, &count) in all.iter_mut().zip(&delta.by_class) {
                *sum += u64::from(count);
            }
        }
        // On which route the known ones were is not known: every route gives its part.
        let keep: [f64; Class::COUNT] = std::array::from_fn(|class| {
            let part = known.by_class[class] as f64 / (all[class].max(1)) as f64;
            1.0 - part.min(1.0)
        });
        for delta in deltas {
            let before = delta.by_class.iter().map(|&n| f64::from(n)).sum::<f64>();
            for (count, keep) in delta.by_class.iter_mut().zip(keep) {
                *count = (f64::from(*count) * keep).round() as u32;
            }
            let after = delta.by_class.iter().map(|&n| f64::from(n)).sum::<f64>();
            delta.service_time *= (after / before.max(1.0)) as f32;
        }
    }

    /// Lets go of callers that have left the table; another one in their place is another one.
    fn forget_the_gone(&mut self) {
        for (slot, seen) in self.seen.iter_mut().enumerate() {
            if seen.entry.is_some() && seen.round != self.round {
                let generation = seen.generation.wrapping_add(1);
                *seen = Seen {
                    generation,
                    ..Seen::default()
                };
                self.free.push(small(slot as u64));
            }
        }
    }
}

impl Seen {
    fn look_at_row(
        &mut self,
        row: &Row,
        now: Timestamp,
        news: &mut News,
        sums: &mut Vec<Sum>,
        deltas: &mut Vec<RouteDelta>,
        routes: &mut Routes,
    ) {
        row.with_lanes(|lanes| {
            let begun = |lanes: &[Arc<Lane>]| {
                let started = lanes.iter().map(|lane| lane.started());
                started.fold(0, u64::wrapping_add)
            };
            if begun(lanes) == self.flow.started && self.flow.in_flight() == 0 {
                // Nothing was open and nothing has begun: nothing can have ended.
                self.flow.at = now;
                return;
            }
            // What has ended before what has begun, so that there is never more of it.
            let ended = self.sum_up(lanes, sums, routes);
            let clock = lanes.iter().map(|lane| lane.clock());
            let flow = Flow {
                at: now,
                started: begun(lanes),
                ended,
                clock: clock.fold(0, u64::wrapping_add),
            };
            news.started = small(flow.started.saturating_sub(self.flow.started));
            news.in_flight = small(flow.in_flight());
            news.busy = flow.busy_since(&self.flow).as_secs_f32();
            self.flow = flow;
            self.tell_routes(sums, deltas);
        });
    }

    /// Sums up by route what has ended. Returns how much that is in all, with what was refused.
    fn sum_up(&mut self, lanes: &[Arc<Lane>], sums: &mut Vec<Sum>, routes: &mut Routes) -> u64 {
        sums.clear();
        sums.resize(self.routes.len(), Sum::default());
        let mut all = 0;
        // Lanes come in the order of their routes, more or less: the next one is looked at first.
        let mut at = 0;
        for lane in lanes {
            let hash = lane.route_hash();
            let known = self.routes.len();
            let found = (at..known).chain(0..at).find(|&place| {
                self.routes
                    .get(place)
                    .is_some_and(|route| route.hash == hash)
            });
            at = found.unwrap_or_else(|| {
                self.routes.push(SeenRoute {
                    hash,
                    route: routes.of(lane),
                    by_class: [0; Class::COUNT],
                    took: 0,
                    past: Past::default(),
                });
                sums.push(Sum::default());
                known
            });
            if let Some(sum) = sums.get_mut(at) {
                lane.ended(|class, count, took| {
                    sum.by_class[class] += count;
                    sum.took = sum.took.wrapping_add(took);
                    sum.classes |= 1 << class;
                    all += count;
                });
            }
            all += lane.refused();
        }
        all
    }

    fn tell_routes(&mut self, sums: &[Sum], deltas: &mut Vec<RouteDelta>) {
        for (seen, sum) in self.routes.iter_mut().zip(sums) {
            let mut delta = RouteDelta {
                route: seen.route,
                ..RouteDelta::default()
            };
            let mut any = false;
            for class in ones(u64::from(sum.classes)) {
                let count = small(sum.by_class[class].saturating_sub(seen.by_class[class]));
                delta.by_class[class] = count;
                any |= count > 0;
            }
            if any {
                delta.service_time = sum.took.wrapping_sub(seen.took) as f32 / 1e9;
                seen.past.count(self.flow.at.as_secs(), &delta);
                deltas.push(delta);
            }
            (seen.by_class, seen.took) = (sum.by_class, sum.took);
        }
    }
}

/// What has come between two readings.
fn since(now: &Totals, then: &Totals) -> Totals {
    let mut delta = Totals {
        started: now.started.saturating_sub(then.started),
        ..Totals::default()
    };
    for (class, count) in delta.by_class.iter_mut().enumerate() {
        *count = now.by_class[class].saturating_sub(then.by_class[class]);
    }
    delta
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{Caller, Source};

    #[test]
    fn an_entry_is_not_taken_for_the_one_that_has_its_place() {
        let [here, gone] = ["a", "b"].map(|name| {
            let caller = Caller::new(name, Provenance::Claimed, Source::Header, 1);
            let entry = Entry::new(caller, Trust::Weaker, false, Timestamp::ZERO);
            entry.watched.store(0, Ordering::Relaxed);
            Arc::new(entry)
        });
        let mut feed = Feed::default();
        feed.seen.push(Seen::default());
        feed.seen[0].entry = Some(Arc::clone(&here));
        assert!(feed.id(Some(&here)).is_some());
        assert_eq!(feed.id(Some(&gone)), None);
    }
}

//! Everything that is recorded of one caller who has a row of its own, or of those who share one.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::bounded::Bounded;
use super::flush::RowHandles;
use super::histogram::Histogram;
use super::lane::{Lane, SHARED};
use super::last_pins::LastPins;
use super::route::{Route, RouteHash, RouteRef};
use super::sample::{DETAILS, Detail, FailedRequest, Samples};
use super::totals::{Totals, totals};
use super::window::Series;
use crate::caller::{Provenance, Source};
use crate::clock::{Ticker, Timestamp};
use crate::events::Signal;
use crate::lock::lock;
use crate::outcome::{Class, ErrorDetail};

/// How often a caller has run away, and whether it does now, by signal.
#[derive(Debug, Default)]
pub(crate) struct Runaways {
    counts: [AtomicU32; Signal::ALL.len()],
    open: AtomicU8,
    /// Those that are worth waking somebody.
    pages: AtomicU8,
}

impl Runaways {
    /// Counts a runaway that begins, or notes that it has ended.
    pub(crate) fn note(&self, signal: Signal, begins: bool) {
        if begins {
            if let Some(count) = self.counts.get(signal as usize) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            self.open.fetch_or(signal.bit(), Ordering::Relaxed);
        } else {
            self.open.fetch_and(!signal.bit(), Ordering::Relaxed);
            self.note_page(signal, false);
        }
    }

    /// Notes whether a runaway is worth waking somebody.
    pub(crate) fn note_page(&self, signal: Signal, pages: bool) {
        if pages {
            self.pages.fetch_or(signal.bit(), Ordering::Relaxed);
        } else {
            self.pages.fetch_and(!signal.bit(), Ordering::Relaxed);
        }
    }

    /// Whether any is worth waking somebody.
    pub(crate) fn page(&self) -> bool {
        self.pages.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn read(&self, signal: Signal) -> (u64, bool) {
        let count = self.counts.get(signal as usize);
        let count = count.map_or(0, |count| count.load(Ordering::Relaxed));
        let open = self.open.load(Ordering::Relaxed) & signal.bit() != 0;
        (u64::from(count), open)
    }

    /// Whether there has been any.
    pub(crate) fn ever(&self) -> bool {
        let mut counts = self.counts.iter();
        counts.any(|count| count.load(Ordering::Relaxed) != 0)
    }

    /// Whether any has not ended.
    pub(crate) fn are_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) != 0
    }
}

/// A row of the export: the counters of one metric label `caller`.
pub(crate) struct Row {
    /// The value of the metric label `caller`.
    pub(crate) label: Box<str>,
    /// Whether its counters exist before the first request does.
    pub(crate) born_at_once: bool,
    lanes: RwLock<Vec<Arc<Lane>>>,
    details: Mutex<Bounded<Detail>>,
    samples: Mutex<Samples>,
    series: Mutex<Series>,
    handles: Mutex<RowHandles>,
    pub(crate) runaways: Runaways,
    pub(crate) last_pins: LastPins,
}

impl Row {
    pub(crate) fn new(label: &str, born_at_once: bool) -> Self {
        Self {
            label: label.into(),
            born_at_once,
            lanes: RwLock::default(),
            details: Mutex::new(Bounded::new(DETAILS)),
            samples: Mutex::default(),
            series: Mutex::default(),
            handles: Mutex::new(RowHandles::new(label)),
            runaways: Runaways::default(),
            last_pins: LastPins::default(),
        }
    }

    /// The lane for requests of this row on `route` from `source`: the one that `owner` writes, if it has one,
    /// or else the one that all may write. `None` where there is none yet.
    pub(crate) fn lane(
        &self,
        route: RouteHash,
        source: Source,
        provenance: Provenance,
        owner: u32,
    ) -> Option<Arc<Lane>> {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        find(&lanes, route, source, provenance, owner)
    }

    /// Makes the lane that all may write, unless there is one. Says whether the row has a new route with it.
    pub(crate) fn add_lane(
        self: &Arc<Self>,
        (route, hash): (RouteRef<'_>, RouteHash),
        source: Source,
        provenance: Provenance,
        ticker: &Ticker,
    ) -> (Arc<Lane>, bool) {
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = find(&lanes, hash, source, provenance, SHARED) {
            return (lane, false);
        }
        let same = lanes.iter().find(|lane| lane.route_hash() == hash);
        let is_new = same.is_none();
        let route = same.map_or_else(
            || Arc::new(Route::from(route)),
            |lane| Arc::clone(&lane.route),
        );
        let (row, ticker) = (Arc::clone(self), ticker.clone());
        let lane = Arc::new(Lane::shared(row, route, hash, source, provenance, ticker));
        lanes.push(Arc::clone(&lane));
        (lane, is_new)
    }

    pub(crate) fn has_route(&self, route: RouteHash) -> bool {
        self.with_lanes(|lanes| lanes.iter().any(|lane| lane.route_hash() == route))
    }

    /// A lane beside `shared` that thread `owner` alone writes; for callers who are hot on that thread.
    pub(crate) fn own_lane(&self, shared: &Arc<Lane>, owner: u32) -> Arc<Lane> {
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        let (route, source, provenance) = (shared.route_hash(), shared.source, shared.provenance);
        let found =
            find(&lanes, route, source, provenance, owner).filter(|lane| lane.owner() == owner);
        found.unwrap_or_else(|| {
            let lane = Arc::new(Lane::owned(shared, owner));
            lanes.push(Arc::clone(&lane));
            lane
        })
    }

    /// Folds lanes that no thread and no open request holds any more into the ones that all may write.
    pub(crate) fn fold_lanes(&self) {
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        // Under the write lock nobody can take a lane from this list, so a count of one stays one.
        lanes.retain(|lane| match lane.unowned() {
            Some(shared) if Arc::strong_count(lane) == 1 => {
                // The count is read without order: see everything that the last holder wrote before it let go.
                fence(Ordering::Acquire);
                shared.absorb(lane);
                false
            }
            _ => true,
        });
    }

    /// Whether only the row itself holds its lanes, and only they and the asker hold the row, so that nothing can be
    /// counted here any more: whoever has the entry that led here may still be about to take a lane.
    pub(crate) fn is_at_rest(self: &Arc<Self>) -> bool {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        let is_at_rest = Arc::strong_count(self) == 1 + lanes.len()
            && lanes
                .iter()
                .all(|lane| lane.unowned().is_none() && Arc::strong_count(lane) == 1);
        fence(Ordering::Acquire);
        is_at_rest
    }

    /// Breaks the circle of row and lanes, once nothing is counted here any more.
    pub(crate) fn dissolve(&self) {
        self.lanes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(crate) fn with_lanes<T>(&self, f: impl FnOnce(&[Arc<Lane>]) -> T) -> T {
        f(&self.lanes.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn totals(&self) -> Totals {
        self.with_lanes(totals)
    }

    /// Latency by class, of all routes.
    pub(crate) fn latency(&self, class: Class) -> Histogram {
        let mut total = Histogram::default();
        self.with_lanes(|lanes| {
            lanes
                .iter()
                .for_each(|lane| lane.read_latency(class.index(), &mut total))
        });
        total
    }

    pub(crate) fn first_byte(&self) -> Histogram {
        let mut total = Histogram::default();
        self.with_lanes(|lanes| {
            lanes
                .iter()
                .for_each(|lane| lane.read_first_byte(&mut total))
        });
        total
    }

    /// Requests by route and class, busiest route first.
    pub(crate) fn routes(&self) -> Vec<(Arc<Route>, [u64; Class::COUNT])> {
        let mut routes: Vec<(Arc<Route>, [u64; Class::COUNT])> = Vec::new();
        self.with_lanes(|lanes| {
            for lane in lanes {
                let at = routes
                    .iter()
                    .position(|(route, _)| Arc::ptr_eq(route, &lane.route));
                let at = at.unwrap_or_else(|| {
                    routes.push((Arc::clone(&lane.route), [0; Class::COUNT]));
                    routes.len() - 1
                });
                if let Some((_, counts)) = routes.get_mut(at) {
                    lane.ended(|class, count, _| counts[class] += count);
                }
            }
        });
        routes.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.iter().sum::<u64>()));
        routes
    }

    /// Keeps what is known of a request that failed. Where another thread is doing the same, the sample is left
    /// out rather than waited for.
    pub(crate) fn failed(&self, request: impl FnOnce() -> FailedRequest) {
        if let Ok(mut samples) = self.samples.try_lock() {
            samples.push(request());
        }
    }

    pub(crate) fn count_detail(&self, class: Class, detail: &ErrorDetail) {
        lock(&self.details).count(
            |known| known.is(class, detail),
            || Detail::new(class, detail),
        );
    }

    pub(crate) fn details(&self) -> Bounded<Detail> {
        lock(&self.details).clone()
    }

    pub(crate) fn samples(&self) -> Vec<FailedRequest> {
        lock(&self.samples).iter().rev().cloned().collect()
    }

    pub(crate) fn roll(&self, now: Timestamp, totals: &Totals) {
        lock(&self.series).roll(now, totals);
    }

    pub(crate) fn series(&self) -> MutexGuard<'_, Series> {
        lock(&self.series)
    }

    pub(crate) fn handles(&self) -> MutexGuard<'_, RowHandles> {
        lock(&self.handles)
    }
}

fn find(
    lanes: &[Arc<Lane>],
    route: RouteHash,
    source: Source,
    provenance: Provenance,
    owner: u32,
) -> Option<Arc<Lane>> {
    let mut shared = None;
    for lane in lanes {
        if lane.is_for(route, source, provenance) {
            if lane.owner() == owner {
                return Some(Arc::clone(lane));
            }
            if lane.owner() == SHARED {
                shared = Some(lane);
            }
        }
    }
    shared.map(Arc::clone)
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row")
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::lane::{Settlement, thread_number};
    use super::*;
    use crate::clock::MonotonicClock;

    fn settlement(class: Class) -> Settlement {
        Settlement {
            class,
            ended: Timestamp::ZERO + Duration::from_millis(3),
            took: Duration::from_millis(3),
            request_bytes: 2,
            response_bytes: 5,
        }
    }

    fn lane(row: &Arc<Row>) -> Arc<Lane> {
        let ticker = Ticker::Monotonic(MonotonicClock::new());
        let route = (RouteRef::UNMATCHED, RouteHash(0));
        row.add_lane(route, Source::Header, Provenance::Claimed, &ticker)
            .0
    }

    #[test]
    fn folding_the_lane_of_a_thread_that_is_gone_loses_nothing() {
        let row = Arc::new(Row::new("a", true));
        let shared = lane(&row);
        let owned = row.own_lane(&shared, thread_number());
        for _ in 0..10 {
            owned.start(Timestamp::ZERO);
            owned.first_byte(Duration::from_millis(1));
            owned.settle(settlement(Class::Validation));
        }
        // Another thread cannot write the owned lane: it writes the shared one.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                owned.start(Timestamp::ZERO);
                owned.settle(settlement(Class::Ok));
            });
        });
        let before = row.totals();
        assert_eq!(
            (before.started, before.ended(), before.response_bytes),
            (11, 11, 55)
        );
        row.fold_lanes();
        assert_eq!(row.with_lanes(<[_]>::len), 2, "a lane that is held stays");
        drop(owned);
        row.fold_lanes();
        assert_eq!(row.with_lanes(<[_]>::len), 1);
        assert_eq!(row.totals(), before);
        assert_eq!(row.latency(Class::Validation).count(), 10);
        assert_eq!(row.first_byte().count(), 10);
    }
}

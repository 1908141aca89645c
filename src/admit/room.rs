//! What is in flight in all, and whose turn it is when the ceiling is reached.
//!
//! Soft for light callers: at or above `max_in_flight` a request is let in only if its caller is below its fair
//! share, the max-min water level ([`fair`](super::fair)) of what callers have had in flight on average. Fairness has
//! two levels: proven callers each, and beside them one group for each weaker provenance, in it the names: a thousand invented names take one group's share.
//! Nothing queues. A request costs one shared addition, and beyond the ceiling a comparison with levels that are
//! computed every 20 to 100 ms, or earlier when a sixteenth of the ceiling has come or gone since: at most once in
//! a microsecond for each caller, so that what a request pays does not grow with the number of callers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::adaptive::Adaptive;
use super::ceiling::Ceiling;
use super::fair::{Demand, water_level};
use super::seat::Seat;
use crate::clock::Timestamp;
use crate::lock::lock;

/// Among whom a caller's share is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// A party of its own.
    Own,
    /// One of the names of a weaker provenance, by its place in [`Room::groups`].
    Member(usize),
}

/// After so many nanoseconds levels are computed anew, with few callers and with many.
const STALE: std::ops::RangeInclusive<u64> = 20_000_000..=100_000_000;
/// Nanoseconds for each active caller before levels are stale, and before they may be computed anew at all. To
/// compute takes a tenth of the latter.
const STALE_PER_CALLER: u64 = 20_000;
const REST_PER_CALLER: u64 = 1_000;
/// So long after its last request, or refusal, a caller has a share.
const ACTIVE: Duration = Duration::from_secs(1);

/// What is in flight, in all and by group, and the levels.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// 0 where there is no ceiling.
    max: AtomicU32,
    hard: AtomicU32,
    held: AtomicU32,
    /// The time that a request has read last, for those who need none better.
    clock: AtomicU64,
    groups: [AtomicU32; GROUPS],
    levels: Levels,
    /// The levels of the adaptive ceiling.
    adaptive_levels: Levels,
    adaptive: Adaptive,
    computed: AtomicU64,
    held_then: AtomicU32,
    /// How many callers are active, as of then.
    callers: AtomicU64,
    /// Callers that have become active since.
    arrived: Mutex<Vec<Arc<Seat>>>,
    active: Mutex<Active>,
}

/// The weaker provenances, each a group.
const GROUPS: usize = 3;

/// Shares under a ceiling.
#[derive(Debug, Default)]
struct Levels {
    level: Level,
    groups: [GroupLevels; GROUPS],
    /// When somebody had more than its share, or was refused more, last.
    crowded_at: AtomicU64,
}

impl Levels {
    fn crowded(&self, now: Timestamp) {
        self.crowded_at.fetch_max(now.as_nanos(), Ordering::Relaxed);
    }

    /// Whoever is held down is below its share at times, and has crowded the others out all the same: one 503 at such
    /// a moment, and a balancer would take the replica out.
    fn is_crowded(&self, now: Timestamp) -> bool {
        let at = self.crowded_at.load(Ordering::Relaxed);
        at > 0 && now.since(Timestamp::from_nanos(at)) < ACTIVE
    }
}

#[derive(Debug, Default)]
struct GroupLevels {
    share: Level,
    level: Level,
}

/// Callers with a share, and room to compute in.
#[derive(Debug, Default)]
struct Active {
    seats: Vec<Arc<Seat>>,
    parties: Vec<Demand>,
    members: [Vec<Demand>; GROUPS],
}

/// A number of requests, maybe infinite.
#[derive(Debug)]
pub(super) struct Level(AtomicU64);

impl Level {
    pub(super) const fn new(value: f64) -> Self {
        Self(AtomicU64::new(value.to_bits()))
    }

    pub(super) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl Default for Level {
    fn default() -> Self {
        Self::new(f64::INFINITY)
    }
}

/// There is no room for this caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// Whether a caller is to blame: this one, or another that has more than its share.
    pub(super) caused: bool,
}

impl Room {
    pub(super) fn set(&self, ceiling: Option<Ceiling>) {
        let hard = ceiling.map_or(0, |ceiling| ceiling.hard());
        self.hard.store(hard, Ordering::Relaxed);
        let max = ceiling.map_or(0, |ceiling| ceiling.max_in_flight);
        let bounds = ceiling.and_then(|ceiling| ceiling.adaptive);
        self.adaptive.set(bounds, max);
        self.max.store(max, Ordering::Release);
        self.computed.store(0, Ordering::Relaxed);
    }

    /// What counts against the ceiling.
    pub(crate) fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn adaptive(&self) -> &Adaptive {
        &self.adaptive
    }

    pub(super) fn note_time(&self, now: Timestamp) {
        self.clock.store(now.as_nanos(), Ordering::Relaxed);
    }

    pub(super) fn coarse_now(&self) -> Timestamp {
        Timestamp::from_nanos(self.clock.load(Ordering::Relaxed))
    }

    /// Lets a request of this caller in, if there is room; `always` for those who are never refused. What is let
    /// in is given back with [`Room::leave`].
    pub(super) fn enter(&self, seat: &Arc<Seat>, always: bool, now: Timestamp) -> Result<(), Full> {
        let max = self.max.load(Ordering::Acquire);
        let adaptive = self.adaptive.limit();
        let before = self.held.fetch_add(1, Ordering::AcqRel);
        self.adaptive.entered(before);
        // Without a ceiling: it was taken away after this request had seen it.
        if before < max.min(adaptive) || always || max == 0 {
            self.occupy(seat, now);
            return Ok(());
        }
        self.list(seat, now);
        self.refresh(before, max, now);
        let below_share = |levels, max| self.is_below_share(seat, levels, (before, max), now);
        if before >= adaptive && !below_share(&self.adaptive_levels, adaptive) {
            self.adaptive.would_refuse();
        }
        if before < max {
            self.occupy(seat, now);
            return Ok(());
        }
        let below_share = below_share(&self.levels, max);
        if below_share && before < self.hard.load(Ordering::Relaxed) {
            self.occupy(seat, now);
            return Ok(());
        }
        self.held.fetch_sub(1, Ordering::AcqRel);
        if !below_share {
            seat.refused_at.store(now.as_nanos(), Ordering::Relaxed);
            self.levels.crowded(now);
        }
        Err(Full {
            caused: self.levels.is_crowded(now),
        })
    }

    fn group_of(&self, seat: &Seat) -> Option<&AtomicU32> {
        match seat.party {
            Party::Own => None,
            Party::Member(group) => self.groups.get(group),
        }
    }

    fn occupy(&self, seat: &Arc<Seat>, now: Timestamp) {
        seat.occupied.fetch_add(1, Ordering::SeqCst);
        if let Some(group) = self.group_of(seat) {
            group.fetch_add(1, Ordering::AcqRel);
        }
        self.list(seat, now);
    }

    pub(super) fn leave(&self, seat: &Seat) {
        seat.occupied.fetch_sub(1, Ordering::SeqCst);
        if let Some(group) = self.group_of(seat) {
            group.fetch_sub(1, Ordering::AcqRel);
        }
        self.held.fetch_sub(1, Ordering::AcqRel);
    }

    fn list(&self, seat: &Arc<Seat>, now: Timestamp) {
        seat.seen.store(now.as_nanos(), Ordering::Relaxed);
        // A plain look first: the swap would take the cache line from every other thread.
        if !seat.listed.load(Ordering::SeqCst) && !seat.listed.swap(true, Ordering::SeqCst) {
            seat.sample(0, now);
            lock(&self.arrived).push(Arc::clone(seat));
        }
    }

    /// Whether a caller may have one more while so many are `held` under a ceiling of `max`. Those who were refused
    /// lately want more than their share, and leave room for what is over: light callers vary, and what they have
    /// more now than usual would wait for the greedy ones' requests.
    fn is_below_share(
        &self,
        seat: &Seat,
        levels: &Levels,
        (held, max): (u32, u32),
        now: Timestamp,
    ) -> bool {
        let over = f64::from(held.saturating_sub(max));
        let occupied = f64::from(seat.occupied.load(Ordering::SeqCst));
        let weight = seat.weight.get();
        let greedy = if seat.was_refused(now) { over } else { 0.0 };
        let Party::Member(group) = seat.party else {
            return occupied < (levels.level.get() * weight - greedy).max(1.0);
        };
        let (Some(held), Some(group)) = (self.groups.get(group), levels.groups.get(group)) else {
            return false;
        };
        let share = group.level.get() * weight;
        let held = f64::from(held.load(Ordering::Acquire));
        // Where the names are too many to have one each, the group's share bounds them. Where they are not, light
        // names may go beyond it, and leave half of the room up to the hard limit to the others: of all that is held,
        // since the share of a group that has just begun is what it has.
        let slack = f64::from(self.hard.load(Ordering::Relaxed).saturating_sub(max)) / 2.0;
        let light = share >= 1.0 && over < slack;
        let bound = group.share.get() + if light { slack } else { -over };
        occupied < (share - greedy).max(1.0) && held < bound.max(1.0)
    }

    /// Computes the levels anew, unless they are fresh or another thread is at it.
    fn refresh(&self, held: u32, max: u32, now: Timestamp) {
        let age = now
            .as_nanos()
            .saturating_sub(self.computed.load(Ordering::Relaxed));
        let callers = self.callers.load(Ordering::Relaxed);
        let stale = (callers * STALE_PER_CALLER).clamp(*STALE.start(), *STALE.end());
        let moved = held.abs_diff(self.held_then.load(Ordering::Relaxed)) >= (max / 16).max(1);
        if age < stale && !(moved && age >= callers * REST_PER_CALLER) {
            return;
        }
        if let Ok(mut active) = self.active.try_lock() {
            self.computed.store(now.as_nanos(), Ordering::Relaxed);
            self.held_then.store(held, Ordering::Relaxed);
            self.forget_idle(&mut active, now);
            let callers = active.seats.len() as u64;
            self.callers.store(callers, Ordering::Relaxed);
            self.compute(&mut active, f64::from(max), &self.levels, now);
            let adaptive = self.adaptive.limit();
            if adaptive != u32::MAX {
                let capacity = f64::from(adaptive);
                self.compute(&mut active, capacity, &self.adaptive_levels, now);
            }
        }
    }

    /// Lets go of every seat: a seat holds the room, and the room must not hold it for ever.
    pub(super) fn clear(&self) {
        lock(&self.arrived).clear();
        lock(&self.active).seats.clear();
    }

    /// Forgets who is gone, also where the ceiling is never reached; call it now and then.
    pub(super) fn tick(&self, now: Timestamp) {
        self.note_time(now);
        self.adaptive.tick(now);
        if let Ok(mut active) = self.active.try_lock() {
            self.forget_idle(&mut active, now);
        }
    }

    fn forget_idle(&self, active: &mut Active, now: Timestamp) {
        active.seats.append(&mut lock(&self.arrived));
        active.seats.retain(|seat| {
            seat.sample(seat.occupied.load(Ordering::SeqCst), now);
            let seen = Timestamp::from_nanos(seat.seen.load(Ordering::Relaxed));
            if seat.occupied.load(Ordering::SeqCst) > 0 || now.since(seen) < ACTIVE {
                return true;
            }
            seat.listed.store(false, Ordering::SeqCst);
            // A request that came just now saw it listed.
            seat.occupied.load(Ordering::SeqCst) > 0 && !seat.listed.swap(true, Ordering::SeqCst)
        });
    }

    fn compute(&self, active: &mut Active, max: f64, levels: &Levels, now: Timestamp) {
        // By what callers have at this moment, one that has a request now and then would count as one that always
        // has one, and many of them would leave no share to speak of.
        if !self.divide(active, max, false, (levels, now), |seat| seat.demand(now)) {
            // Less was asked for on average than is taken now: somebody has just begun, or all have some more than
            // usual. Whoever has most gets no more.
            self.divide(active, max, true, (levels, now), |seat| {
                seat.demand_at_once(now)
            });
        }
    }

    /// Sets the levels at which `max` is used up, or with `as_is` those at which everyone has what they have; says
    /// whether more is asked for than there is.
    fn divide(
        &self,
        active: &mut Active,
        max: f64,
        as_is: bool,
        (levels, now): (&Levels, Timestamp),
        demand: impl Fn(&Seat) -> Demand,
    ) -> bool {
        let Active {
            seats,
            parties,
            members,
        } = active;
        parties.clear();
        members.iter_mut().for_each(Vec::clear);
        for seat in &*seats {
            let demand = demand(seat);
            match seat.party {
                Party::Own => parties.push(demand),
                Party::Member(group) => members
                    .get_mut(group)
                    .into_iter()
                    .for_each(|names| names.push(demand)),
            }
        }
        let wants = |names: &[Demand]| names.iter().map(|name| name.wants).sum::<f64>();
        for names in members.iter().filter(|names| !names.is_empty()) {
            parties.push(Demand {
                wants: wants(names),
                weight: 1.0,
            });
        }
        let most = parties.iter().map(|party| party.wants / party.weight);
        let most = most.fold(0.0, f64::max);
        // Not from a sum: what leaves meanwhile would make it look as if there were enough for all.
        let level = if as_is && most.is_finite() {
            most
        } else {
            water_level(max, parties)
        };
        levels.level.set(level);
        let mut crowded_out = false;
        for ((group, held), names) in levels.groups.iter().zip(&self.groups).zip(members) {
            let share = wants(names).max(1.0).min(level).min(max);
            group.share.set(share);
            group.level.set(water_level(share, names));
            crowded_out |= is_too_much(held.load(Ordering::Acquire), share, wants(names));
        }
        crowded_out |= seats.iter().any(|seat| {
            let level = match seat.party {
                Party::Own => level,
                Party::Member(group) => levels.groups.get(group).map_or(level, |g| g.level.get()),
            };
            let share = level * seat.weight.get();
            let occupied = seat.occupied.load(Ordering::SeqCst);
            is_too_much(occupied, share, demand(seat).wants)
        });
        if crowded_out {
            levels.crowded(now);
        }
        level.is_finite()
    }
}

/// Whether a party leaves others less than their share: it has more than its own, or has all of it and was refused
/// more.
fn is_too_much(held: u32, share: f64, wants: f64) -> bool {
    let (held, share) = (f64::from(held), share.max(1.0));
    held > share || (held > 1.0 && held >= share && wants.is_infinite())
}

impl Seat {
    /// What it has on average; whatever it can get, where it was refused.
    fn demand(&self, now: Timestamp) -> Demand {
        Demand {
            wants: if self.was_refused(now) {
                f64::INFINITY
            } else {
                self.usual.get()
            },
            weight: self.weight.get(),
        }
    }

    fn was_refused(&self, now: Timestamp) -> bool {
        let refused = Timestamp::from_nanos(self.refused_at.load(Ordering::Relaxed));
        now.since(refused) < ACTIVE
    }

    /// What it has now, in place of the average.
    fn demand_at_once(&self, now: Timestamp) -> Demand {
        let demand = self.demand(now);
        let wants = if demand.wants.is_finite() {
            f64::from(self.occupied.load(Ordering::SeqCst))
        } else {
            demand.wants
        };
        Demand { wants, ..demand }
    }

    /// Notes that it has had so much in the ceiling since it was sampled last.
    fn sample(&self, occupied: u32, now: Timestamp) {
        let before = self.sampled.swap(now.as_nanos(), Ordering::Relaxed);
        let passed = now.since(Timestamp::from_nanos(before)).as_secs_f64();
        let part = passed / (passed + ACTIVE.as_secs_f64());
        let usual = self.usual.get();
        self.usual.set(usual + (f64::from(occupied) - usual) * part);
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::Subject;
    use super::*;
    use crate::caller::Provenance;

    fn seat(room: &Arc<Room>, name: &str) -> Arc<Seat> {
        let subject = Subject {
            name,
            provenance: Provenance::Verified,
            proven: true,
        };
        Arc::new(Seat::new(&subject, room))
    }

    #[test]
    fn a_ceiling_that_was_taken_away_meanwhile_refuses_nobody() {
        let room = Arc::<Room>::default();
        let seat = seat(&room, "a");
        let now = Timestamp::from_secs(1_000);
        room.set(Some(Ceiling::new(1).hard_max(1)));
        room.enter(&seat, false, now).unwrap();
        assert!(room.enter(&seat, false, now).is_err());
        room.set(None);
        room.enter(&seat, false, now).unwrap();
        room.leave(&seat);
        room.leave(&seat);
        assert_eq!(room.held(), 0);
        room.clear();
    }

    #[test]
    fn levels_rest_in_proportion_to_the_number_of_callers() {
        let room = Arc::<Room>::default();
        room.set(Some(Ceiling::new(16).hard_max(4_000)));
        let seats: Vec<_> = (0..2_000).map(|n| seat(&room, &n.to_string())).collect();
        let start = Timestamp::from_secs(1_000);
        let mut computed = 0;
        for (n, seat) in seats.iter().enumerate() {
            let before = room.computed.load(Ordering::Relaxed);
            room.enter(seat, false, start + Duration::from_micros(n as u64))
                .unwrap();
            computed += u32::from(room.computed.load(Ordering::Relaxed) != before);
        }
        // Each computation is followed by a microsecond of rest for every caller: they become rarer.
        assert!((5..30).contains(&computed), "{computed}");
        let much_later = start + Duration::from_millis(110);
        assert!(room.enter(&seats[0], false, much_later).is_err());
        assert_eq!(room.computed.load(Ordering::Relaxed), much_later.as_nanos());
        seats.iter().for_each(|seat| room.leave(seat));
        room.clear();
    }
}

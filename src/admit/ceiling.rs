//! The ceiling: how much the service takes in at once, and whose turn it is when that is reached.
//!
//! Soft for light callers: at or above `max_in_flight` a request is let in only if its caller is below its fair
//! share, the max-min water level ([`fair`](super::fair)) of what callers have had in flight on average. Fairness has two levels: proven callers each, and beside
//! them one group for each weaker provenance, in it the names: a thousand invented names take one group's share.
//! Nothing queues. A request costs one shared addition, and beyond the ceiling a comparison with levels that are
//! computed at most every 20 ms, or when a sixteenth of the ceiling has come or gone since.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::fair::{Demand, water_level};
use super::policy::Mode;
use super::seat::Seat;
use crate::clock::Timestamp;

/// How many requests the service takes in at once.
///
/// ```
/// use callerid::Ceiling;
///
/// let ceiling = Ceiling::new(512).shadow(); // counts what it would refuse, refuses nothing
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    pub(crate) max_in_flight: u32,
    pub(crate) hard_max: Option<u32>,
    pub(crate) mode: Mode,
}

impl Ceiling {
    /// From `max_in_flight` requests on, only callers below their fair share are let in; from twice that on, none.
    #[must_use]
    pub const fn new(max_in_flight: u32) -> Self {
        Self {
            max_in_flight,
            hard_max: None,
            mode: Mode::Enforce,
        }
    }

    /// How many requests are never exceeded, instead of twice `max_in_flight`.
    #[must_use]
    pub const fn hard_max(mut self, requests: u32) -> Self {
        self.hard_max = Some(requests);
        self
    }

    /// Counts what would be refused, and refuses nothing.
    #[must_use]
    pub const fn shadow(mut self) -> Self {
        self.mode = Mode::Shadow;
        self
    }

    pub(crate) fn hard(&self) -> u32 {
        let twice = self.max_in_flight.saturating_mul(2);
        self.hard_max.unwrap_or(twice)
    }

    pub(crate) fn problem(&self) -> Option<&'static str> {
        if self.max_in_flight == 0 {
            return Some("max_in_flight: 0 lets nothing through; use 1 or more");
        }
        (self.hard() < self.max_in_flight)
            .then_some("hard_max: is below max_in_flight; use at least as much")
    }
}

impl From<u32> for Ceiling {
    fn from(max_in_flight: u32) -> Self {
        Self::new(max_in_flight)
    }
}

/// Among whom a caller's share is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// A party of its own.
    Own,
    /// One of the names of a weaker provenance, by its place in [`Room::groups`].
    Member(usize),
}

/// After this long, levels are computed anew.
const STALE: u64 = 20_000_000;
/// So long after its last request, or refusal, a caller has a share.
const ACTIVE: Duration = Duration::from_secs(1);

/// What is in flight, in all and by group, and the levels.
#[derive(Debug)]
pub(crate) struct Room {
    /// 0 where there is no ceiling.
    max: AtomicU32,
    hard: AtomicU32,
    held: AtomicU32,
    /// The time that a request has read last, for those who need none better.
    clock: AtomicU64,
    level: Level,
    groups: [Group; 3],
    /// Somebody has more than its share.
    crowded_out: AtomicBool,
    computed: AtomicU64,
    held_then: AtomicU32,
    active: Mutex<Vec<Arc<Seat>>>,
}

#[derive(Debug, Default)]
struct Group {
    held: AtomicU32,
    share: Level,
    level: Level,
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
    pub(super) fn new() -> Self {
        Self {
            max: AtomicU32::new(0),
            hard: AtomicU32::new(0),
            held: AtomicU32::new(0),
            clock: AtomicU64::new(0),
            level: Level::default(),
            groups: Default::default(),
            crowded_out: AtomicBool::new(false),
            computed: AtomicU64::new(0),
            held_then: AtomicU32::new(0),
            active: Mutex::default(),
        }
    }

    pub(super) fn set(&self, ceiling: Option<Ceiling>) {
        let hard = ceiling.map_or(0, |ceiling| ceiling.hard());
        self.hard.store(hard, Ordering::Relaxed);
        let max = ceiling.map_or(0, |ceiling| ceiling.max_in_flight);
        self.max.store(max, Ordering::Release);
    }

    /// What counts against the ceiling.
    pub(crate) fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
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
        let before = self.held.fetch_add(1, Ordering::AcqRel);
        if before < max || always {
            self.occupy(seat, now);
            return Ok(());
        }
        self.list(seat, now);
        self.refresh(before, max, now);
        let hard = self.hard.load(Ordering::Relaxed);
        let below_share = self.is_below_share(seat, before.saturating_sub(max), now);
        let full = if before >= hard {
            Some(Full {
                caused: !below_share || self.crowded_out.load(Ordering::Relaxed),
            })
        } else if below_share {
            None
        } else {
            seat.refused_at.store(now.as_nanos(), Ordering::Relaxed);
            Some(Full { caused: true })
        };
        match full {
            None => {
                self.occupy(seat, now);
                Ok(())
            }
            Some(full) => {
                self.held.fetch_sub(1, Ordering::AcqRel);
                Err(full)
            }
        }
    }

    fn occupy(&self, seat: &Arc<Seat>, now: Timestamp) {
        seat.occupied.fetch_add(1, Ordering::SeqCst);
        if let Party::Member(group) = seat.party
            && let Some(group) = self.groups.get(group)
        {
            group.held.fetch_add(1, Ordering::AcqRel);
        }
        self.list(seat, now);
    }

    pub(super) fn leave(&self, seat: &Seat) {
        seat.occupied.fetch_sub(1, Ordering::SeqCst);
        if let Party::Member(group) = seat.party
            && let Some(group) = self.groups.get(group)
        {
            group.held.fetch_sub(1, Ordering::AcqRel);
        }
        self.held.fetch_sub(1, Ordering::AcqRel);
    }

    fn list(&self, seat: &Arc<Seat>, now: Timestamp) {
        seat.seen.store(now.as_nanos(), Ordering::Relaxed);
        // A plain look first: the swap would take the cache line from every other thread.
        if !seat.listed.load(Ordering::SeqCst) && !seat.listed.swap(true, Ordering::SeqCst) {
            seat.sample(0, now);
            super::lock(&self.active).push(Arc::clone(seat));
        }
    }

    /// Whether a caller may have one more while so many are `over` the ceiling. Those who were refused lately want
    /// more than their share, and leave room for what is over: light callers vary, and what they have more now than
    /// usual would wait for the greedy ones' requests.
    fn is_below_share(&self, seat: &Seat, over: u32, now: Timestamp) -> bool {
        let over = f64::from(over);
        let occupied = f64::from(seat.occupied.load(Ordering::SeqCst));
        let weight = seat.weight.get();
        let greedy = if seat.was_refused(now) { over } else { 0.0 };
        let Party::Member(group) = seat.party else {
            return occupied < (self.level.get() * weight - greedy).max(1.0);
        };
        let Some(group) = self.groups.get(group) else {
            return false;
        };
        let share = group.level.get() * weight;
        let held = f64::from(group.held.load(Ordering::Acquire));
        // Where the names are too many to have one each, the group's share bounds them. Where they are not, light
        // names may go beyond it, and leave half of the room up to the hard limit to the others.
        let max = self.max.load(Ordering::Relaxed);
        let slack = f64::from(self.hard.load(Ordering::Relaxed).saturating_sub(max)) / 2.0;
        let bound = group.share.get() + if share >= 1.0 { slack } else { -over };
        occupied < (share - greedy).max(1.0) && held < bound.max(1.0)
    }

    /// Computes the levels anew, unless they are fresh or another thread is at it.
    fn refresh(&self, held: u32, max: u32, now: Timestamp) {
        let age = now
            .as_nanos()
            .saturating_sub(self.computed.load(Ordering::Relaxed));
        let moved = held.abs_diff(self.held_then.load(Ordering::Relaxed));
        if age < STALE && moved < (max / 16).max(1) {
            return;
        }
        if let Ok(mut active) = self.active.try_lock() {
            self.computed.store(now.as_nanos(), Ordering::Relaxed);
            self.held_then.store(held, Ordering::Relaxed);
            self.forget_idle(&mut active, now);
            self.compute(&active, f64::from(max), now);
        }
    }

    /// Lets go of every seat: a seat holds the room, and the room must not hold it for ever.
    pub(super) fn clear(&self) {
        super::lock(&self.active).clear();
    }

    /// Forgets who is gone; call it now and then also where the ceiling is never reached.
    pub(super) fn tidy(&self, now: Timestamp) {
        self.note_time(now);
        if let Ok(mut active) = self.active.try_lock() {
            self.forget_idle(&mut active, now);
        }
    }

    fn forget_idle(&self, active: &mut Vec<Arc<Seat>>, now: Timestamp) {
        active.retain(|seat| {
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

    fn compute(&self, active: &[Arc<Seat>], max: f64, now: Timestamp) {
        // By what callers have at this moment, one that has a request now and then would count as one that always
        // has one, and many of them would leave no share to speak of.
        if !self.divide(active, max, |seat| seat.demand(now)) {
            // Less was asked for on average than is taken now: somebody has just begun.
            self.divide(active, max, |seat| seat.demand_at_once(now));
        }
    }

    /// Sets the levels; says whether more is asked for than there is.
    fn divide(&self, active: &[Arc<Seat>], max: f64, demand: impl Fn(&Seat) -> Demand) -> bool {
        let mut parties = Vec::new();
        let mut members: [Vec<Demand>; 3] = Default::default();
        for seat in active {
            let demand = demand(seat);
            match seat.party {
                Party::Own => parties.push(demand),
                Party::Member(group) => members
                    .get_mut(group)
                    .into_iter()
                    .for_each(|g| g.push(demand)),
            }
        }
        let wants = |names: &[Demand]| names.iter().map(|name| name.wants).sum::<f64>();
        for names in members.iter().filter(|names| !names.is_empty()) {
            parties.push(Demand {
                wants: wants(names),
                weight: 1.0,
            });
        }
        let level = water_level(max, &mut parties);
        self.level.set(level);
        for (group, names) in self.groups.iter().zip(&mut members) {
            let share = wants(names).max(1.0).min(level).min(max);
            group.share.set(share);
            group.level.set(water_level(share, names));
        }
        let above = |seat: &Arc<Seat>| {
            let level = match seat.party {
                Party::Own => level,
                Party::Member(group) => self.groups.get(group).map_or(level, |g| g.level.get()),
            };
            f64::from(seat.occupied.load(Ordering::SeqCst)) > (level * seat.weight.get()).max(1.0)
        };
        self.crowded_out
            .store(active.iter().any(above), Ordering::Relaxed);
        level.is_finite()
    }
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

//! One caller in the table: the per-caller state of every stage, side by side.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock};

use super::versions::Versions;
use crate::admit::{Seat, Subject};
use crate::caller::{Caller, Provenance};
use crate::clock::Timestamp;
use crate::lock::lock;
use crate::outcome::{Class, Reason};
use crate::record::lane::Lane;
use crate::record::row::Row;
use crate::record::totals::Totals;
use crate::record::window::Pace;

/// A caller in the table.
#[repr(C)] // what every request looks at comes first, side by side
pub(crate) struct Entry {
    /// The words that handlers see, for the source that brought the caller here.
    pub(crate) caller: Caller,
    /// The lane of the row that was asked for first: for most callers the only one, and one look.
    first_lane: OnceLock<Arc<Lane>>,
    row: OnceLock<Arc<Row>>,
    /// Grows when what a thread remembers of this entry is no longer true: it got a row, or left the table.
    epoch: AtomicU32,
    /// Whether it has been decided that the caller has a row from the beginning, or has none.
    pub(crate) placed: Once,
    /// Whether the name is keyed among the verified ones.
    pub(crate) trust: Trust,
    on_roster: AtomicBool,
    /// Whether the operator lets claims of the name reach the account.
    accepts_claims: AtomicBool,
    retired: AtomicBool,
    /// Where the table's list of entries has it.
    pub(crate) slot: AtomicUsize,
    tally: Tally,
    pace: Mutex<Pace>,
    idle_total: AtomicU64,
    idle_since: AtomicU64,
    seat: OnceLock<Arc<Seat>>,
    /// Where detection keeps what it saw last; `u32::MAX`: nowhere yet.
    pub(crate) watched: AtomicU32,
    pub(crate) versions: Versions,
}

/// Which of the names of the same spelling: a claim never reaches what is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    Verified,
    Weaker,
    /// `__other__`, `__unknown__`, `__invalid__`, `__exempt__`.
    Ours,
}

/// Counts of a caller while it has no row; its requests are recorded in the row `__other__`.
#[derive(Debug, Default)]
struct Tally {
    started: AtomicU64,
    moved: AtomicU64,
    by_class: [AtomicU64; Class::COUNT],
    refused: [AtomicU64; Reason::COUNT],
    would_refuse: [AtomicU64; Reason::COUNT],
}

impl Entry {
    pub(crate) fn new(caller: Caller, trust: Trust, on_roster: bool, now: Timestamp) -> Self {
        Self {
            caller,
            trust,
            on_roster: AtomicBool::new(on_roster),
            accepts_claims: AtomicBool::new(false),
            epoch: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            slot: AtomicUsize::new(usize::MAX),
            placed: Once::new(),
            row: OnceLock::new(),
            first_lane: OnceLock::new(),
            tally: Tally::default(),
            pace: Mutex::new(Pace::new(now)),
            idle_total: AtomicU64::new(0),
            idle_since: AtomicU64::new(now.as_secs()),
            seat: OnceLock::new(),
            watched: AtomicU32::new(u32::MAX),
            versions: Versions::default(),
        }
    }

    /// Looks at all that a request of this caller is going to need. Where more callers come than the processor's caches
    /// hold, their memory is waited for together, and not piece by piece: counting by reference waits for all that came
    /// before it.
    #[inline]
    pub(crate) fn fetch(&self) {
        black_box(self.caller.source());
        if let Some(lane) = self.first_lane.get() {
            black_box(Arc::strong_count(lane));
            lane.fetch();
        }
    }

    /// Whether the operator named the caller.
    pub(crate) fn on_roster(&self) -> bool {
        self.on_roster.load(Ordering::Acquire)
    }

    /// Puts the caller on the roster, or strikes it off. What threads remember of who reaches it is no longer true.
    #[cfg(feature = "config")]
    pub(super) fn set_on_roster(&self, on_roster: bool) {
        self.on_roster.store(on_roster, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Whom a policy is looked up for. What is for the proven is not for an account that claims may reach.
    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject {
            name: self.name(),
            provenance: self.shown_as(),
            proven: self.trust == Trust::Verified,
        }
    }

    /// What admission keeps of the caller, once a policy could have refused it.
    pub(crate) fn seat(&self) -> Option<&Arc<Seat>> {
        self.seat.get()
    }

    pub(crate) fn seat_or(&self, make: impl FnOnce() -> Arc<Seat>) -> &Arc<Seat> {
        self.seat.get_or_init(make)
    }

    /// Whether forgetting the caller would forgive it something.
    pub(crate) fn owes(&self, now: Timestamp) -> bool {
        self.seat().is_some_and(|seat| seat.owes(now))
    }

    pub(crate) fn name(&self) -> &str {
        self.caller.name()
    }

    pub(crate) fn provenance(&self) -> Provenance {
        self.caller.provenance()
    }

    pub(super) fn set_accepts_claims(&self, accepts: bool) {
        self.accepts_claims.store(accepts, Ordering::Release);
    }

    /// How sure it is that what is counted here is this caller's: an account that claims may reach is but claimed.
    pub(crate) fn shown_as(&self) -> Provenance {
        if self.accepts_claims.load(Ordering::Acquire) {
            Provenance::Claimed
        } else {
            self.provenance()
        }
    }

    /// The caller's own row, if it has one.
    #[inline]
    pub(crate) fn row(&self) -> Option<&Arc<Row>> {
        self.row.get()
    }

    #[inline]
    pub(crate) fn first_lane(&self) -> &OnceLock<Arc<Lane>> {
        &self.first_lane
    }

    /// Gives the caller a row. What was counted before stays in `__other__`.
    pub(crate) fn give_row(&self, row: Arc<Row>) {
        let _ = self.row.set(row);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Counts a request that is recorded in the row `__other__`; returns how many there have been.
    pub(crate) fn start(&self) -> u64 {
        self.tally.started.fetch_add(1, Ordering::Release) + 1
    }

    pub(crate) fn move_away(&self) {
        self.tally.moved.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn settle(&self, class: Class) {
        if let Some(count) = self.tally.by_class.get(class.index()) {
            count.fetch_add(1, Ordering::Release);
        }
    }

    pub(crate) fn refuse(&self, reason: Reason) {
        if let Some(count) = self.tally.refused.get(reason.index()) {
            count.fetch_add(1, Ordering::Release);
        }
    }

    pub(crate) fn would_refuse(&self, reason: Reason) {
        if let Some(count) = self.tally.would_refuse.get(reason.index()) {
            count.fetch_add(1, Ordering::Release);
        }
    }

    /// The caller's counts, with and without a row of its own.
    pub(crate) fn totals(&self) -> Totals {
        self.totals_and_in_other().0
    }

    /// The caller's counts, and what of them was recorded in the row `__other__`.
    pub(crate) fn totals_and_in_other(&self) -> (Totals, Totals) {
        let mut totals = self.row().map(|row| row.totals()).unwrap_or_default();
        let in_other = self.in_other();
        totals.add(&in_other);
        (totals, in_other)
    }

    /// What of the caller's counts was recorded in the row `__other__`.
    pub(crate) fn in_other(&self) -> Totals {
        let mut in_other = Totals::default();
        for (sum, count) in in_other.by_class.iter_mut().zip(&self.tally.by_class) {
            *sum = count.load(Ordering::Acquire);
        }
        for (sum, count) in in_other.refused.iter_mut().zip(&self.tally.refused) {
            *sum = count.load(Ordering::Acquire);
        }
        for (sum, count) in in_other
            .would_refuse
            .iter_mut()
            .zip(&self.tally.would_refuse)
        {
            *sum = count.load(Ordering::Acquire);
        }
        let moved = self.tally.moved.load(Ordering::Acquire);
        in_other.started = self.tally.started.load(Ordering::Acquire) - moved;
        in_other
    }

    /// How much the caller weighs against others: requests, fading to a half in five minutes.
    pub(crate) fn weight(&self) -> f64 {
        self.pace().weight(self.totals().started)
    }

    /// Seconds since the last request began, as of the last roll.
    pub(crate) fn idle_for(&self, now: Timestamp, started: u64) -> u64 {
        if self.idle_total.swap(started, Ordering::AcqRel) != started {
            self.idle_since.store(now.as_secs(), Ordering::Release);
        }
        now.as_secs()
            .saturating_sub(self.idle_since.load(Ordering::Acquire))
    }

    pub(crate) fn pace(&self) -> MutexGuard<'_, Pace> {
        lock(&self.pace)
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("caller", &self.caller)
            .field("trust", &self.trust)
            .field("on_roster", &self.on_roster())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Source;

    #[test]
    fn an_entry_keeps_to_its_share_of_a_kilobyte() {
        let name = 2 * crate::caller::MAX_NAME;
        let seat = crate::admit::MEMORY;
        assert!(
            size_of::<Entry>() + name + 64 <= 1024,
            "{}",
            size_of::<Entry>()
        );
        // What a caller adds once a policy may refuse it.
        assert!(seat <= 640, "{seat}");
    }

    #[test]
    fn counts_outlive_the_change_to_a_row() {
        let caller = Caller::new("a", Provenance::Claimed, Source::Header, 1);
        let entry = Entry::new(caller, Trust::Weaker, false, Timestamp::ZERO);
        entry.start();
        entry.settle(Class::Ok);
        entry.start();
        let before = entry.epoch();
        entry.give_row(Arc::new(Row::new("a", true)));
        assert_ne!(entry.epoch(), before);
        assert_eq!((entry.totals().started, entry.totals().in_flight()), (2, 1));
    }
}

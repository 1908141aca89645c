//! What the request path writes: counters of one caller on one route.
//!
//! A lane has at most one writer where it is hot: the thread that owns it, which then needs no locked
//! instruction and shares no cache line. The lane that nobody owns takes the rest: callers who are not hot,
//! and requests that end on another thread than the one that they began on. Sums over all lanes of a row are
//! the row's counts.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::histogram::{Histogram, HistogramCells, add, ones};
use super::route::{Route, RouteHash};
use super::row::Row;
use crate::caller::{Provenance, Source};
use crate::clock::{Ticker, Timestamp};
use crate::outcome::{Class, Reason};

/// The number of this thread, never used again after it.
#[inline]
pub(crate) fn thread_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    thread_local!(static NUMBER: Cell<u32> = const { Cell::new(SHARED) });
    NUMBER.with(|number| match number.get() {
        SHARED => {
            let new = NEXT.fetch_add(1, Ordering::Relaxed);
            number.set(new);
            new
        }
        known => known,
    })
}

/// The owner of a lane that every thread may write.
pub(crate) const SHARED: u32 = 0;

/// How a request ended, in figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settlement {
    pub(crate) class: Class,
    pub(crate) ended: Timestamp,
    pub(crate) took: Duration,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
}

pub(crate) struct Lane {
    pub(crate) row: Arc<Row>,
    pub(crate) route: Arc<Route>,
    pub(crate) ticker: Ticker,
    pub(crate) source: Source,
    pub(crate) provenance: Provenance,
    owner: u32,
    route_hash: RouteHash,
    /// The lane of the same row, route and source that nobody owns; `None` in that lane itself.
    shared: Option<Arc<Self>>,
    cells: Cells,
}

/// What is written. A request that ends well touches three cache lines of it.
#[derive(Debug, Default)]
#[repr(C, align(64))]
struct Cells {
    started: AtomicU64,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    /// Requests that a late identity took to another row.
    moved: AtomicU64,
    /// The times at which requests ended less those at which they began, in nanoseconds, modulo 2^64.
    clock: AtomicU64,
    /// Time to the head of the response.
    first_byte: HistogramCells,
    /// Time to the end of requests of class `ok`.
    ok: HistogramCells,
    /// Which of the other classes have had a request, by bit: most lanes know one class, and are read often.
    others: AtomicU32,
    /// The same as `ok` for the other classes, once there is a request of theirs.
    rest: [OnceLock<Box<HistogramCells>>; Class::COUNT - 1],
    refusals: OnceLock<Box<Refusals>>,
}

/// Requests that were refused, and that would have been in shadow, by reason.
#[derive(Debug, Default)]
struct Refusals {
    refused: [AtomicU64; Reason::COUNT],
    would_refuse: [AtomicU64; Reason::COUNT],
}

impl Cells {
    fn class(&self, class: usize) -> Option<&HistogramCells> {
        match class.checked_sub(1) {
            None => Some(&self.ok),
            Some(rest) => self.rest.get(rest)?.get().map(|cells| &**cells),
        }
    }

    #[inline]
    fn class_or_new(&self, class: usize) -> &HistogramCells {
        match class.checked_sub(1).and_then(|rest| self.rest.get(rest)) {
            None => &self.ok,
            Some(rest) => rest.get_or_init(|| {
                self.others.fetch_or(1 << class, Ordering::Release);
                Box::default()
            }),
        }
    }

    fn refusals(&self) -> &Refusals {
        self.refusals.get_or_init(Box::default)
    }
}

impl Lane {
    pub(crate) fn shared(
        row: Arc<Row>,
        route: Arc<Route>,
        route_hash: RouteHash,
        source: Source,
        provenance: Provenance,
        ticker: Ticker,
    ) -> Self {
        Self {
            row,
            route,
            ticker,
            source,
            provenance,
            owner: SHARED,
            route_hash,
            shared: None,
            cells: Cells::default(),
        }
    }

    /// A lane beside `shared` that only thread `owner` writes.
    pub(crate) fn owned(shared: &Arc<Self>, owner: u32) -> Self {
        Self {
            owner,
            shared: Some(Arc::clone(shared)),
            ..Self::shared(
                Arc::clone(&shared.row),
                Arc::clone(&shared.route),
                shared.route_hash,
                shared.source,
                shared.provenance,
                shared.ticker.clone(),
            )
        }
    }

    /// Whether requests on this route from this source belong here.
    #[inline]
    pub(crate) fn is_for(&self, route: RouteHash, source: Source, provenance: Provenance) -> bool {
        self.route_hash == route && self.source == source && self.provenance == provenance
    }

    pub(crate) fn route_hash(&self) -> RouteHash {
        self.route_hash
    }

    pub(crate) fn owner(&self) -> u32 {
        self.owner
    }

    pub(crate) fn unowned(&self) -> Option<&Arc<Self>> {
        self.shared.as_ref()
    }

    /// The lane that this thread may write, and whether it alone does.
    #[inline]
    fn mine(&self) -> (&Self, bool) {
        match &self.shared {
            None => (self, false),
            Some(_) if self.owner == thread_number() => (self, true),
            Some(shared) => (shared, false),
        }
    }

    /// Looks at what a request that ends well reads and writes here, so that its memory comes all at once.
    #[inline]
    pub(crate) fn fetch(&self) {
        black_box(self.source);
        black_box(self.cells.started.load(Ordering::Relaxed));
        black_box(self.cells.ok.count());
    }

    #[inline]
    pub(crate) fn start(&self, begun: Timestamp) {
        let (lane, own) = self.mine();
        add(&lane.cells.clock, begun.as_nanos().wrapping_neg(), own);
        add(&lane.cells.started, 1, own);
    }

    /// Puts the begin of a request that has been started back by so much.
    #[cfg(feature = "replay")]
    pub(crate) fn began_earlier(&self, by: Duration) {
        let (lane, own) = self.mine();
        add(&lane.cells.clock, by.as_nanos() as u64, own);
    }

    /// Takes back a start, because the request belongs to another row from now on.
    pub(crate) fn move_away(&self, begun: Timestamp) {
        let (lane, own) = self.mine();
        add(&lane.cells.clock, begun.as_nanos(), own);
        add(&lane.cells.moved, 1, own);
    }

    /// Counts a request that began and was refused at once.
    pub(crate) fn refuse(&self, reason: Reason) {
        let (lane, own) = self.mine();
        add(&lane.cells.started, 1, own);
        if let Some(count) = lane.cells.refusals().refused.get(reason.index()) {
            add(count, 1, own);
        }
    }

    /// Counts a request that was started, has waited until `now`, and was refused then.
    #[cfg(feature = "redis")]
    pub(crate) fn refuse_started(&self, reason: Reason, now: Timestamp) {
        let (lane, own) = self.mine();
        add(&lane.cells.clock, now.as_nanos(), own);
        if let Some(count) = lane.cells.refusals().refused.get(reason.index()) {
            add(count, 1, own);
        }
    }

    /// Counts a request that was let in and would have been refused, were its limit enforced.
    pub(crate) fn would_refuse(&self, reason: Reason) {
        let (lane, own) = self.mine();
        if let Some(count) = lane.cells.refusals().would_refuse.get(reason.index()) {
            add(count, 1, own);
        }
    }

    /// Refused requests, and those that would have been, by reason.
    pub(crate) fn read_refusals(
        &self,
        refused: &mut [u64; Reason::COUNT],
        would: &mut [u64; Reason::COUNT],
    ) {
        let Some(refusals) = self.cells.refusals.get() else {
            return;
        };
        let add = |sums: &mut [u64; Reason::COUNT], counts: &[AtomicU64; Reason::COUNT]| {
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count.load(Ordering::Acquire);
            }
        };
        add(refused, &refusals.refused);
        add(would, &refusals.would_refuse);
    }

    /// How many requests were refused.
    pub(crate) fn refused(&self) -> u64 {
        let refusals = self.cells.refusals.get();
        let counts = refusals.iter().flat_map(|refusals| &refusals.refused);
        counts.map(|count| count.load(Ordering::Acquire)).sum()
    }

    #[inline]
    pub(crate) fn first_byte(&self, took: Duration) {
        let (lane, own) = self.mine();
        lane.cells.first_byte.record(took, own);
    }

    #[inline]
    pub(crate) fn settle(&self, settlement: Settlement) {
        let (lane, own) = self.mine();
        let cells = &lane.cells;
        add(&cells.clock, settlement.ended.as_nanos(), own);
        if settlement.request_bytes > 0 {
            add(&cells.request_bytes, settlement.request_bytes, own);
        }
        if settlement.response_bytes > 0 {
            add(&cells.response_bytes, settlement.response_bytes, own);
        }
        cells
            .class_or_new(settlement.class.index())
            .record(settlement.took, own);
    }

    /// Calls `each` with the classes that requests have ended with, how many, and the sum of their durations in
    /// nanoseconds.
    #[inline]
    pub(crate) fn ended(&self, mut each: impl FnMut(usize, u64, u64)) {
        let cells = &self.cells;
        each(0, cells.ok.count(), cells.ok.sum_nanos());
        let others = cells.others.load(Ordering::Acquire);
        for class in ones(u64::from(others)) {
            if let Some(cells) = cells.class(class) {
                each(class, cells.count(), cells.sum_nanos());
            }
        }
    }

    /// See [`super::row::Totals::busy`].
    pub(crate) fn clock(&self) -> u64 {
        self.cells.clock.load(Ordering::Acquire)
    }

    pub(crate) fn read_latency(&self, class: usize, total: &mut Histogram) {
        if let Some(cells) = self.cells.class(class) {
            cells.read_into(total);
        }
    }

    pub(crate) fn first_bytes(&self) -> u64 {
        self.cells.first_byte.count()
    }

    pub(crate) fn read_first_byte(&self, total: &mut Histogram) {
        self.cells.first_byte.read_into(total);
    }

    /// Requests that began here and were not moved away. Read it after [`Lane::ended`], so that what has ended
    /// has begun.
    pub(crate) fn started(&self) -> u64 {
        let moved = self.cells.moved.load(Ordering::Acquire);
        self.ever_started().wrapping_sub(moved)
    }

    /// Requests that began here, wherever they ended.
    pub(crate) fn ever_started(&self) -> u64 {
        self.cells.started.load(Ordering::Acquire)
    }

    pub(crate) fn bytes(&self) -> (u64, u64) {
        let read = |cell: &AtomicU64| cell.load(Ordering::Acquire);
        (
            read(&self.cells.request_bytes),
            read(&self.cells.response_bytes),
        )
    }

    /// Takes over the counts of a lane whose owner is gone.
    pub(crate) fn absorb(&self, other: &Self) {
        let (mine, theirs) = (&self.cells, &other.cells);
        for class in 0..Class::COUNT {
            if let Some(theirs) = theirs.class(class) {
                mine.class_or_new(class).absorb(theirs);
            }
        }
        mine.first_byte.absorb(&theirs.first_byte);
        if let Some(theirs) = theirs.refusals.get() {
            let mine = mine.refusals();
            let pairs = mine.refused.iter().zip(&theirs.refused);
            for (mine, theirs) in pairs.chain(mine.would_refuse.iter().zip(&theirs.would_refuse)) {
                add(mine, theirs.load(Ordering::Acquire), false);
            }
        }
        let (request, response) = other.bytes();
        add(&mine.request_bytes, request, false);
        add(&mine.response_bytes, response, false);
        add(&mine.clock, other.clock(), false);
        add(&mine.moved, theirs.moved.load(Ordering::Acquire), false);
        add(&mine.started, other.ever_started(), false);
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("route", &self.route)
            .field("source", &self.source)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

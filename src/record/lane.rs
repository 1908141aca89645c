//! What the request path writes: counters of one caller on one route.
//!
//! A lane has at most one writer where it is hot: the thread that owns it, which then needs no locked
//! instruction and shares no cache line. The lane that nobody owns takes the rest: callers who are not hot,
//! and requests that end on another thread than the one that they began on. Sums over all lanes of a row are
//! the row's counts.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::histogram::{Histogram, HistogramCells, add};
use super::route::Route;
use super::row::Row;
use crate::caller::{Provenance, Source};
use crate::clock::Ticker;
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
    pub(crate) took: Duration,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
}

pub(crate) struct Lane {
    pub(crate) row: Arc<Row>,
    pub(crate) route: Arc<Route>,
    pub(crate) source: Source,
    pub(crate) provenance: Provenance,
    pub(crate) ticker: Ticker,
    owner: u32,
    /// The lane of the same row, route and source that nobody owns; `None` in that lane itself.
    shared: Option<Arc<Self>>,
    started: AtomicU64,
    /// Requests that a late identity took to another row.
    moved: AtomicU64,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    classes: [OnceLock<Box<HistogramCells>>; Class::COUNT],
    first_byte: OnceLock<Box<HistogramCells>>,
    refusals: OnceLock<Box<Refusals>>,
}

/// Requests that were refused, and that would have been in shadow, by reason.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    refused: [AtomicU64; Reason::COUNT],
    would_refuse: [AtomicU64; Reason::COUNT],
}

impl Lane {
    pub(crate) fn shared(
        row: Arc<Row>,
        route: Arc<Route>,
        source: Source,
        provenance: Provenance,
        ticker: Ticker,
    ) -> Self {
        Self {
            row,
            route,
            source,
            provenance,
            ticker,
            owner: SHARED,
            shared: None,
            started: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
            classes: [const { OnceLock::new() }; Class::COUNT],
            first_byte: OnceLock::new(),
            refusals: OnceLock::new(),
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
                shared.source,
                shared.provenance,
                shared.ticker.clone(),
            )
        }
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

    #[inline]
    pub(crate) fn start(&self) {
        let (lane, own) = self.mine();
        add(&lane.started, 1, own);
    }

    /// Takes back a start, because the request belongs to another row from now on.
    pub(crate) fn move_away(&self) {
        let (lane, own) = self.mine();
        add(&lane.moved, 1, own);
    }

    /// Counts a request that was refused, after its start.
    pub(crate) fn refuse(&self, reason: Reason) {
        let (lane, own) = self.mine();
        if let Some(count) = lane
            .refusals
            .get_or_init(Box::default)
            .refused
            .get(reason.index())
        {
            add(count, 1, own);
        }
    }

    /// Counts a request that was let in and would have been refused, were its limit enforced.
    pub(crate) fn would_refuse(&self, reason: Reason) {
        let (lane, own) = self.mine();
        if let Some(count) = lane
            .refusals
            .get_or_init(Box::default)
            .would_refuse
            .get(reason.index())
        {
            add(count, 1, own);
        }
    }

    /// Refused requests, and those that would have been, by reason.
    pub(crate) fn read_refusals(
        &self,
        refused: &mut [u64; Reason::COUNT],
        would: &mut [u64; Reason::COUNT],
    ) {
        let Some(refusals) = self.refusals.get() else {
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

    #[inline]
    pub(crate) fn first_byte(&self, took: Duration) {
        let (lane, own) = self.mine();
        lane.first_byte.get_or_init(Box::default).record(took, own);
    }

    #[inline]
    pub(crate) fn settle(&self, settlement: Settlement) {
        let (lane, own) = self.mine();
        if settlement.request_bytes > 0 {
            add(&lane.request_bytes, settlement.request_bytes, own);
        }
        if settlement.response_bytes > 0 {
            add(&lane.response_bytes, settlement.response_bytes, own);
        }
        if let Some(cells) = lane.classes.get(settlement.class.index()) {
            cells.get_or_init(Box::default).record(settlement.took, own);
        }
    }

    /// Requests that ended with `class`.
    #[inline]
    pub(crate) fn ended(&self, class: usize) -> u64 {
        self.classes
            .get(class)
            .and_then(OnceLock::get)
            .map_or(0, |cells| cells.count())
    }

    pub(crate) fn read_latency(&self, class: usize, total: &mut Histogram) {
        if let Some(cells) = self.classes.get(class).and_then(OnceLock::get) {
            cells.read_into(total);
        }
    }

    pub(crate) fn first_bytes(&self) -> u64 {
        self.first_byte.get().map_or(0, |cells| cells.count())
    }

    pub(crate) fn read_first_byte(&self, total: &mut Histogram) {
        if let Some(cells) = self.first_byte.get() {
            cells.read_into(total);
        }
    }

    /// Requests that began here and were not moved away. Read it after [`Lane::ended`], so that what has ended
    /// has begun.
    pub(crate) fn started(&self) -> u64 {
        let moved = self.moved.load(Ordering::Acquire);
        self.started.load(Ordering::Acquire).wrapping_sub(moved)
    }

    /// Requests that began here, wherever they ended.
    pub(crate) fn ever_started(&self) -> u64 {
        self.started.load(Ordering::Acquire)
    }

    pub(crate) fn bytes(&self) -> (u64, u64) {
        (
            self.request_bytes.load(Ordering::Acquire),
            self.response_bytes.load(Ordering::Acquire),
        )
    }

    /// Takes over the counts of a lane whose owner is gone.
    pub(crate) fn absorb(&self, other: &Self) {
        for (mine, theirs) in self.classes.iter().zip(&other.classes) {
            if let Some(theirs) = theirs.get() {
                mine.get_or_init(Box::default).absorb(theirs);
            }
        }
        if let Some(theirs) = other.first_byte.get() {
            self.first_byte.get_or_init(Box::default).absorb(theirs);
        }
        if let Some(theirs) = other.refusals.get() {
            let mine = self.refusals.get_or_init(Box::default);
            let pairs = mine.refused.iter().zip(&theirs.refused);
            for (mine, theirs) in pairs.chain(mine.would_refuse.iter().zip(&theirs.would_refuse)) {
                add(mine, theirs.load(Ordering::Acquire), false);
            }
        }
        let (request, response) = other.bytes();
        add(&self.request_bytes, request, false);
        add(&self.response_bytes, response, false);
        add(&self.moved, other.moved.load(Ordering::Acquire), false);
        add(&self.started, other.started.load(Ordering::Acquire), false);
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

//! What a thread remembers: the entry, the lane and the words for the callers it has seen last, so that a hot
//! caller needs neither the map nor a cache line that another thread writes.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::entry::{Entry, Trust};
use crate::admit::Remembered;
use crate::caller::{Caller, Provenance, Source};
use crate::record::lane::Lane;
use crate::record::route::RouteHash;

/// Slots per thread; a power of two.
const SLOTS: usize = 1024;

/// After this many finds in a row a caller is hot: the thread gets a lane of its own.
pub(crate) const HOT: u32 = 64;

/// What is looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Of everything below.
    pub(crate) hash: u64,
    /// Which table, of several in a process.
    pub(crate) table: u64,
    pub(crate) trust: Trust,
    pub(crate) name: &'a str,
    pub(crate) provenance: Provenance,
    pub(crate) source: Source,
    pub(crate) route: RouteHash,
}

/// What is remembered. It is taken out while a request is at it, and put back.
#[derive(Debug)]
pub(crate) struct Slot {
    hash: u64,
    table: u64,
    /// What was asked for: a row that accepts claims is reached by more than one, and the route `__other__` too.
    trust: Trust,
    route: RouteHash,
    epoch: u32,
    finds: u32,
    pub(crate) entry: Arc<Entry>,
    pub(crate) lane: Arc<Lane>,
    pub(crate) caller: Caller,
    /// Whether the lane is one of `__other__`, so that the entry counts beside it.
    rowless: bool,
    /// A hash of what the caller said last about its version.
    pub(crate) said: u64,
    /// Whether there was room for it.
    pub(crate) keep: bool,
    /// What applies to the caller, as admission knew it last.
    pub(crate) terms: Remembered,
}

/// A hot caller's version is looked at with every so many of its requests.
const VERSION_EVERY: u32 = 8;

impl Slot {
    pub(crate) fn new(
        wanted: &Wanted<'_>,
        epoch: u32,
        entry: Arc<Entry>,
        lane: Arc<Lane>,
        caller: Caller,
        rowless: bool,
    ) -> Self {
        Self {
            hash: wanted.hash,
            table: wanted.table,
            trust: wanted.trust,
            route: wanted.route,
            epoch,
            finds: 0,
            entry,
            lane,
            caller,
            rowless,
            said: 0,
            keep: true,
            terms: Remembered::default(),
        }
    }

    /// Whether it is time to look at what the caller says about its version.
    #[inline]
    pub(crate) fn is_due_for_version(&self) -> bool {
        self.finds < HOT || self.finds.is_multiple_of(VERSION_EVERY)
    }

    /// Whether this find is the one that makes the caller hot.
    #[inline]
    pub(crate) fn became_hot(&self) -> bool {
        self.finds == HOT
    }

    /// The entry, where it counts what its caller has no row for.
    #[inline]
    pub(crate) fn tracked(&self) -> Option<&Arc<Entry>> {
        self.rowless.then_some(&self.entry)
    }

    #[inline]
    pub(super) fn into_parts(self) -> (Arc<Lane>, Option<Arc<Entry>>, Caller) {
        (self.lane, self.rowless.then_some(self.entry), self.caller)
    }

    fn is_current(&self) -> bool {
        self.epoch == self.entry.epoch()
    }

    #[inline]
    fn is(&self, wanted: &Wanted<'_>) -> bool {
        self.table == wanted.table
            && self.is_current()
            && self.lane.source == wanted.source
            && self.lane.provenance == wanted.provenance
            && self.trust == wanted.trust
            && self.entry.name() == wanted.name
            && self.route == wanted.route
    }
}

/// A place that is taken is given away at every so many misses only: where more callers come than there are
/// places, remembering one would cost more than it saves.
const GIVE_AWAY: u32 = 8;

/// Where a slot is kept, with its hash: what is looked up and is not there need not be looked at.
#[derive(Default)]
struct Place {
    hash: u64,
    slot: Option<Box<Slot>>,
}

struct Cache {
    places: Vec<Place>,
    misses: u32,
    /// How many of [`DEPARTURES`] this thread knows of.
    departures: u32,
}

thread_local! {
    static CACHE: RefCell<Cache> = const { RefCell::new(Cache { places: Vec::new(), misses: 0, departures: 0 }) };
}

/// Takes what this thread remembers of `wanted`; [`put_back`] it. None where the thread is being torn down.
#[inline]
pub(crate) fn take(wanted: &Wanted<'_>) -> Option<Box<Slot>> {
    CACHE
        .try_with(|cache| {
            let mut cache = cache.try_borrow_mut().ok()?;
            let place = cache.places.get_mut(wanted.hash as usize % SLOTS)?;
            if place.hash != wanted.hash {
                return None;
            }
            let mut slot = place.slot.take_if(|slot| slot.is(wanted))?;
            slot.finds = slot.finds.checked_add(1).unwrap_or(HOT + 1);
            Some(slot)
        })
        .ok()
        .flatten()
}

/// Puts back what was taken, unless its place is taken by now.
#[inline]
pub(crate) fn put_back(slot: Box<Slot>) {
    if !slot.keep {
        return;
    }
    let left = CACHE.try_with(|cache| {
        let Ok(mut cache) = cache.try_borrow_mut() else {
            return Some(slot);
        };
        match cache.places.get_mut(slot.hash as usize % SLOTS) {
            Some(place @ Place { slot: None, .. }) => {
                *place = Place {
                    hash: slot.hash,
                    slot: Some(slot),
                };
                None
            }
            _ => Some(slot),
        }
    });
    // Dropped only now: the last owner of a table may be in it.
    drop(left);
}

/// How often a caller with a row has left a table. That is rare: a recorder cannot forget a series, so replacements
/// are budgeted.
static DEPARTURES: AtomicU32 = AtomicU32::new(0);

/// Tells the threads that a caller with a row has left: what they remember keeps the row from being forgotten.
pub(crate) fn caller_left() {
    DEPARTURES.fetch_add(1, Ordering::Release);
}

/// Whether to remember what hashes to this: its place is free, or given away now.
pub(crate) fn has_room(hash: u64) -> bool {
    let displaced = CACHE.try_with(|cache| {
        let mut cache = cache.try_borrow_mut().ok()?;
        let cache = &mut *cache;
        if cache.places.is_empty() {
            cache.places.resize_with(SLOTS, Place::default);
        }
        cache.misses = cache.misses.wrapping_add(1);
        let departures = DEPARTURES.load(Ordering::Acquire);
        if cache.departures != departures {
            cache.departures = departures;
            for place in &mut cache.places {
                place.slot.take_if(|slot| slot.entry.is_retired());
            }
        }
        let place = cache.places.get_mut(hash as usize % SLOTS)?;
        if place.slot.is_some() && !cache.misses.is_multiple_of(GIVE_AWAY) {
            return None;
        }
        Some(place.slot.take())
    });
    // Dropped only now: the last owner of a table may be in it.
    matches!(displaced, Ok(Some(_)))
}

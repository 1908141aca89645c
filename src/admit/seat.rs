//! What admission keeps of one caller.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;

use super::brake::Brake;
use super::patience::Patience;
use super::policy::{Subject, Terms};
use super::room::{Level, Party, Room};
use crate::caller::Provenance;
use crate::clock::Timestamp;

/// A caller as admission sees it. It is made at the first request that a policy may refuse; its memory is bounded
/// with the caller table.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(super) room: Arc<Room>,
    pub(super) party: Party,
    /// Whether it is several callers', of whom one must not answer for another.
    pub(super) shared: bool,
    /// What applies to the caller, of the policies of one generation.
    pub(super) terms: ArcSwapOption<Terms>,
    pub(super) renewing: Mutex<()>,
    /// Requests that count against the caller's own limit.
    pub(super) in_flight: AtomicU32,
    /// Requests that count against the brake on a runaway.
    pub(super) braked: AtomicU32,
    /// Requests that count against the ceiling.
    pub(super) occupied: AtomicU32,
    /// Long responses, which count against neither.
    pub(super) streams: AtomicU32,
    pub(super) weight: Level,
    /// What it has in the ceiling on average, over about a second up to `sampled`.
    pub(super) usual: Level,
    pub(super) sampled: AtomicU64,
    pub(super) refused_at: AtomicU64,
    pub(super) seen: AtomicU64,
    pub(super) listed: AtomicBool,
    pub(super) patience: Patience,
    /// What a runaway is held to.
    pub(super) brake: ArcSwapOption<Brake>,
}

impl Seat {
    pub(super) fn new(subject: &Subject<'_>, room: &Arc<Room>) -> Self {
        let party = match subject.provenance {
            _ if subject.proven => Party::Own,
            Provenance::Verified | Provenance::Claimed => Party::Member(0),
            Provenance::Inferred => Party::Member(1),
            Provenance::Unknown => Party::Member(2),
        };
        Self {
            room: Arc::clone(room),
            party,
            shared: subject.name.starts_with("__"),
            terms: ArcSwapOption::empty(),
            renewing: Mutex::default(),
            in_flight: AtomicU32::new(0),
            braked: AtomicU32::new(0),
            occupied: AtomicU32::new(0),
            streams: AtomicU32::new(0),
            weight: Level::new(1.0),
            usual: Level::new(0.0),
            sampled: AtomicU64::new(0),
            refused_at: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            patience: Patience::default(),
            brake: ArcSwapOption::empty(),
        }
    }

    /// Whether forgetting it would forgive something: tokens that are spent, requests in flight.
    pub(crate) fn owes(&self, now: Timestamp) -> bool {
        let held = [&self.in_flight, &self.braked, &self.occupied, &self.streams];
        held.iter().any(|count| count.load(Ordering::Acquire) > 0)
            || self
                .terms
                .load()
                .as_ref()
                .is_some_and(|terms| terms.has_debt(now))
    }

    /// What applies to the caller, once it had a request.
    pub(crate) fn terms(&self) -> Option<Arc<Terms>> {
        self.terms.load_full()
    }
}

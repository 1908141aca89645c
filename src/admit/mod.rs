//! What a caller may do, and the one place that says no.
//!
//! The order is: block, the caller's quota, its clamp, what it has in flight, the total of its provenance, the brake on a
//! runaway, the ceiling. The narrowest first, so that a refused runaway never spends what everybody shares; but what the
//! fleet has to be asked, and would be spent for nothing, comes last. A limit in shadow is looked at in
//! the same way, and takes from what it guards exactly what it would take if it were enforced; only the answer
//! differs.

mod adaptive;
mod answers;
mod brake;
mod bucket;
mod ceiling;
mod check;
mod clamp;
mod decide;
mod denial;
mod fair;
mod fields;
#[cfg(feature = "redis")]
pub(crate) mod fleet;
mod in_flight;
mod mode;
mod patience;
pub(crate) mod policy;
mod quota;
mod refusal;
mod room;
mod seat;
mod shown;
pub(crate) mod snapshot;
mod terms;
mod way;
mod words;

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

pub(crate) use self::answers::Reply;
pub use self::ceiling::Ceiling;
#[cfg(feature = "config")]
pub(crate) use self::check::at;
pub(crate) use self::clamp::Clamp;
use self::clamp::Clamps;
pub(crate) use self::decide::{Ask, Remembered, Verdict};
#[cfg(feature = "redis")]
pub(crate) use self::decide::{Heard, Waiting};
pub(crate) use self::denial::Denial;
pub(crate) use self::in_flight::Permit;
pub use self::mode::{Mode, ModeError};
pub(crate) use self::policy::{OnRunaway, Policies};
pub use self::policy::{Policy, Scope};
pub(crate) use self::policy::{Subject, Terms};
pub use self::quota::{Quota, QuotaError};
use self::refusal::Refused;
pub(crate) use self::refusal::{Form, RefusalFn, Style};
pub use self::refusal::{RateLimitHeaders, Refusal};
use self::room::Room;
pub(crate) use self::seat::Seat;
use self::terms::Totals;
use crate::caller::{Caller, Provenance};
use crate::clock::Timestamp;
use crate::lock::lock;

/// Bytes that a caller with a quota takes here, beside its entry: the seat, its terms and a bucket.
#[cfg(test)]
pub(crate) const MEMORY: usize =
    size_of::<Seat>() + size_of::<Terms>() + size_of::<bucket::Bucket>() + 64;

/// What a request meets at the door: one relaxed load where nothing is ever refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Gate {
    /// Counted, and let in.
    Open,
    /// Not even counted.
    Off,
    /// Policies are looked at.
    Guarded,
}

/// Policies in force, and what they guard.
#[derive(Debug)]
pub(crate) struct Admission {
    gate: AtomicU8,
    mode: AtomicU8,
    generation: AtomicU64,
    book: ArcSwap<Book>,
    changing: Mutex<()>,
    room: Arc<Room>,
    /// Those who have no entry, by provenance: overflow callers share a bucket.
    others: [Arc<Seat>; Provenance::ALL.len()],
    style: Style,
    /// Callers with a brake on.
    brakes: AtomicUsize,
    #[cfg(feature = "redis")]
    fleet: Option<fleet::Part>,
}

/// Policies of one generation.
#[derive(Debug)]
struct Book {
    policies: Arc<Policies>,
    clamps: Clamps,
    totals: Totals,
    /// When they came into force.
    since: Timestamp,
}

impl Book {
    fn limit_anything(&self) -> bool {
        self.clamps.any() || self.policies.limit_anything()
    }
}

impl Admission {
    /// The policies have no [`Policies::problems`].
    pub(crate) fn new(policies: Policies, mode: Mode, style: Style, now: Timestamp) -> Self {
        let room = Arc::<Room>::default();
        let others = Provenance::ALL.map(|provenance| {
            let subject = Subject {
                name: crate::caller::OTHER,
                provenance,
                proven: provenance == Provenance::Verified,
            };
            Arc::new(Seat::new(&subject, &room))
        });
        let admission = Self {
            gate: AtomicU8::new(Gate::Open as u8),
            mode: AtomicU8::new(mode as u8),
            generation: AtomicU64::new(0),
            book: ArcSwap::from_pointee(Book {
                policies: Arc::default(),
                clamps: Clamps::default(),
                totals: Totals::default(),
                since: now,
            }),
            changing: Mutex::default(),
            room,
            others,
            style,
            brakes: AtomicUsize::new(0),
            #[cfg(feature = "redis")]
            fleet: None,
        };
        admission.set_policies(policies, now);
        admission
    }

    #[cfg(feature = "redis")]
    pub(crate) fn with_fleet(mut self, fleet: fleet::Part) -> Self {
        self.fleet = Some(fleet);
        self
    }

    /// This replica's part in a fleet, if it can have one.
    #[cfg(feature = "redis")]
    pub(crate) fn fleet(&self) -> Option<&fleet::Part> {
        self.fleet.as_ref()
    }

    /// Puts other policies in force, and the fleet over which they are counted.
    #[cfg(all(feature = "config", feature = "redis"))]
    pub(crate) fn set_policies_of(&self, fleet: fleet::Next, policies: Policies, now: Timestamp) {
        let set = || self.set_policies(policies, now);
        match (&self.fleet, fleet) {
            (None, _) | (_, fleet::Next::Same) => set(),
            (Some(part), fleet::Next::Other(pool)) => {
                part.join(Some(pool));
                set();
            }
            (Some(part), fleet::Next::Nobody) => {
                // Nobody is asked first.
                set();
                part.join(None);
            }
        }
    }

    /// Puts other policies in force for the next request. Buckets whose quota stays are left as they are.
    pub(crate) fn set_policies(&self, policies: Policies, now: Timestamp) {
        let _one_at_a_time = lock(&self.changing);
        let clamps = self.book.load().clamps.clone();
        self.publish(Arc::new(policies), clamps, now);
    }

    /// Holds a caller for a while: to a quota beside the one that policies give, or to nothing.
    pub(crate) fn clamp(&self, clamp: Clamp, now: Timestamp) {
        self.change_clamps(now, |clamps| clamps.set(clamp));
    }

    /// Clamps and blocks in force.
    #[cfg(feature = "dashboard")]
    pub(crate) fn held(&self) -> Vec<Clamp> {
        self.book.load().clamps.held()
    }

    /// Ends a clamp before its time. Says whether there was one.
    pub(crate) fn lift_clamp(&self, name: &str, now: Timestamp) -> bool {
        self.change_clamps(now, |clamps| clamps.lift(name))
    }

    fn change_clamps<T>(&self, now: Timestamp, change: impl FnOnce(&mut Clamps) -> T) -> T {
        let _one_at_a_time = lock(&self.changing);
        let book = self.book.load_full();
        let mut clamps = book.clamps.clone();
        let changed = change(&mut clamps);
        self.publish(Arc::clone(&book.policies), clamps, now);
        changed
    }

    fn change_clamps_if_over(&self, now: Timestamp) -> Vec<String> {
        if self.book.load().clamps.clone().end(now).is_empty() {
            return Vec::new();
        }
        self.change_clamps(now, |clamps| clamps.end(now))
    }

    /// Call it with `changing` held.
    fn publish(&self, policies: Arc<Policies>, clamps: Clamps, now: Timestamp) {
        let before = self.book.load();
        let mut totals = Totals::default();
        let tables = policies.provenance.iter().zip(&before.totals);
        for (total, (table, old)) in totals.iter_mut().zip(tables) {
            *total = old.under(table, now);
        }
        self.room.set(policies.ceiling);
        self.book.store(Arc::new(Book {
            policies,
            clamps,
            totals,
            since: now,
        }));
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.set_gate();
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        let _one_at_a_time = lock(&self.changing);
        self.mode.store(mode as u8, Ordering::Release);
        self.set_gate();
    }

    fn guards_anything(&self) -> bool {
        self.brakes.load(Ordering::Acquire) > 0 || self.book.load().limit_anything()
    }

    fn set_gate(&self) {
        let gate = match self.mode() {
            Mode::Off => Gate::Off,
            Mode::Observe => Gate::Open,
            Mode::Shadow | Mode::Enforce if self.guards_anything() => Gate::Guarded,
            Mode::Shadow | Mode::Enforce => Gate::Open,
        };
        self.gate.store(gate as u8, Ordering::Release);
    }

    pub(crate) fn mode(&self) -> Mode {
        Mode::from_index(self.mode.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn gate(&self) -> Gate {
        match self.gate.load(Ordering::Relaxed) {
            1 => Gate::Off,
            2 => Gate::Guarded,
            _ => Gate::Open,
        }
    }

    /// A seat for a caller.
    pub(crate) fn seat(&self, subject: &Subject<'_>) -> Arc<Seat> {
        Arc::new(Seat::new(subject, &self.room))
    }

    /// The seat of callers of this provenance who have no entry.
    pub(crate) fn seat_of_others(&self, provenance: Provenance) -> &Arc<Seat> {
        let [first, ..] = &self.others;
        self.others.get(provenance as usize).unwrap_or(first)
    }

    /// The policies in force, as they were written.
    pub(crate) fn policies(&self) -> Arc<Policies> {
        Arc::clone(&self.book.load().policies)
    }

    /// Logs the mode and the quotas in force.
    pub(crate) fn show(&self) {
        let quotas = self.policies().quotas_in_words();
        tracing::info!(mode = %self.mode(), quotas, "callerid: limits in force");
    }

    /// The quota that policies and clamps give a caller, whether or not it had a request, and over what it is counted.
    pub(crate) fn quota_of(&self, subject: &Subject<'_>) -> Option<(Quota, Scope)> {
        let book = self.book.load();
        book.policies
            .in_force(subject, book.clamps.of(subject.name))
    }

    /// What counts against the ceiling, and the ceiling.
    pub(crate) fn ceiling(&self) -> Option<(u32, Ceiling)> {
        let ceiling = self.policies().ceiling?;
        Some((self.room.held(), ceiling))
    }

    /// Upkeep, a few times a second.
    pub(crate) fn tick(&self, now: Timestamp) {
        self.room.tick(now);
        if self.book.load().clamps.any() {
            let over = self.change_clamps_if_over(now);
            for name in over {
                tracing::info!(caller = %name, "callerid: a clamp has ended");
            }
        }
    }

    /// The answer to a request that is refused.
    #[inline]
    pub(crate) fn refusal<'c>(
        &self,
        denial: &Denial,
        seat: &Seat,
        caller: &'c Caller,
        form: Form,
        now: Timestamp,
    ) -> Refused<&'c Caller> {
        let told = denial
            .wait
            .map(|wait| seat.patience.refused(wait, now, fastrand::u16(..)));
        Refused {
            reason: denial.reason,
            status: denial.status,
            retry_after: told.map(|told| told.after),
            close: !seat.shared && told.is_some_and(|told| told.close),
            limit: denial.limit,
            left: denial.left,
            caller,
            head: form.head,
            http1: form.http1,
            grpc: form.grpc,
            headers: self.style.headers,
            envoy: self.style.envoy,
        }
    }

    /// The operator's own answer, if there is one.
    pub(crate) fn custom(&self) -> Option<&RefusalFn> {
        self.style.custom.as_deref()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.room.clear();
    }
}

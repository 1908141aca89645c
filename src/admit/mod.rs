//! What a caller may do, and the one place that says no.
//!
//! The order is: block, the caller's quota, what it has in flight, the total of its provenance, the ceiling. The
//! narrowest first, so that a refused runaway never spends what everybody shares. A limit in shadow is looked at in
//! the same way, and takes from what it guards exactly what it would take if it were enforced; only the answer
//! differs.

mod ceiling;
mod check;
mod clamp;
mod fair;
mod in_flight;
mod mode;
mod patience;
pub(crate) mod policy;
mod quota;
mod refusal;
mod seat;
pub(crate) mod snapshot;
mod terms;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::StatusCode;

pub use self::ceiling::Ceiling;
use self::ceiling::Room;
use self::clamp::Clamps;
pub(crate) use self::in_flight::Permit;
pub use self::mode::{Mode, ModeError};
pub(crate) use self::policy::Policies;
pub use self::policy::Policy;
use self::policy::blocked;
pub(crate) use self::policy::{Subject, Terms};
pub use self::quota::{Quota, QuotaError};
use self::refusal::Limit;
pub(crate) use self::refusal::{Form, RefusalFn, Style};
pub use self::refusal::{RateLimitHeaders, Refusal};
pub(crate) use self::seat::Seat;
use self::terms::{Found, Totals, renewed};
use crate::caller::{Caller, Provenance};
use crate::clock::Timestamp;
use crate::outcome::Reason;

/// Bytes that a caller with a quota takes here, beside its entry: the seat, its terms and a bucket.
#[cfg(test)]
pub(crate) const MEMORY: usize =
    size_of::<Seat>() + size_of::<Terms>() + size_of::<quota::Bucket>() + 64;

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
}

/// Policies of one generation.
#[derive(Debug)]
struct Book {
    policies: Policies,
    clamps: Clamps,
    totals: Totals,
}

impl Book {
    fn limit_anything(&self) -> bool {
        self.clamps.any() || self.policies.limit_anything()
    }
}

/// What is decided of a request.
#[derive(Debug)]
pub(crate) enum Verdict {
    Admit {
        permit: Option<Permit>,
        /// Why it would have been refused, were the limits in shadow enforced.
        would_refuse: Option<Reason>,
    },
    Refuse(Denial),
}

/// A request that is over a limit.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) reason: Reason,
    limit: Limit,
    /// Whole tokens that are left.
    left: u64,
    status: StatusCode,
    /// How long until it could be let in; `None` where waiting does not help.
    wait: Option<Duration>,
}

/// A request at the door.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) subject: Subject<'a>,
    pub(crate) method: &'a str,
    pub(crate) template: &'a str,
    /// What the operator's closure says of the cost, instead of the route's.
    pub(crate) cost: Option<u32>,
    pub(crate) now: Timestamp,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Admission {
    /// The policies have no [`Policies::problems`].
    pub(crate) fn new(policies: Policies, mode: Mode, style: Style, now: Timestamp) -> Self {
        let room = Arc::new(Room::new());
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
                policies: Policies::default(),
                clamps: Clamps::default(),
                totals: Totals::default(),
            }),
            changing: Mutex::default(),
            room,
            others,
            style,
        };
        admission.set_policies(policies, now);
        admission
    }

    /// Puts other policies in force for the next request. Buckets whose quota stays are left as they are.
    pub(crate) fn set_policies(&self, policies: Policies, now: Timestamp) {
        let _one_at_a_time = lock(&self.changing);
        let clamps = self.book.load().clamps.clone();
        self.publish(policies, clamps, now);
    }

    /// Holds a caller to a quota for a while, whatever policies say.
    pub(crate) fn clamp(&self, name: &str, quota: Quota, until: Timestamp, now: Timestamp) {
        self.change_clamps(now, |clamps| clamps.set(name, quota, until));
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
        self.publish(book.policies.clone(), clamps, now);
        changed
    }

    fn change_clamps_if_over(&self, now: Timestamp) -> Vec<String> {
        if self.book.load().clamps.clone().end(now).is_empty() {
            return Vec::new();
        }
        self.change_clamps(now, |clamps| clamps.end(now))
    }

    /// Call it with `changing` held.
    fn publish(&self, policies: Policies, clamps: Clamps, now: Timestamp) {
        let before = self.book.load();
        let mut totals = Totals::default();
        let tables = policies.provenance.iter().zip(&before.totals);
        for (total, (table, old)) in totals.iter_mut().zip(tables) {
            let bucket = renewed(table.total, old.as_ref().map(|(bucket, _)| bucket), now);
            *total = bucket.map(|bucket| (bucket, table.mode.unwrap_or_default()));
        }
        self.room.set(policies.ceiling);
        self.book.store(Arc::new(Book {
            policies,
            clamps,
            totals,
        }));
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.set_gate();
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        let _one_at_a_time = lock(&self.changing);
        self.mode.store(mode as u8, Ordering::Release);
        self.set_gate();
    }

    fn set_gate(&self) {
        let gate = match self.mode() {
            Mode::Off => Gate::Off,
            Mode::Observe => Gate::Open,
            Mode::Shadow | Mode::Enforce if self.book.load().limit_anything() => Gate::Guarded,
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
    pub(crate) fn seat_of_others(&self, provenance: Provenance) -> Arc<Seat> {
        let [first, ..] = &self.others;
        Arc::clone(self.others.get(provenance as usize).unwrap_or(first))
    }

    /// What counts against the ceiling, and the ceiling.
    pub(crate) fn ceiling(&self) -> Option<(u32, Ceiling)> {
        let book = self.book.load();
        book.policies
            .ceiling
            .map(|ceiling| (self.room.held(), ceiling))
    }

    /// Upkeep, a few times a second.
    pub(crate) fn tick(&self, now: Timestamp) {
        self.room.tidy(now);
        if self.book.load().clamps.any() {
            let over = self.change_clamps_if_over(now);
            for name in over {
                tracing::info!(caller = %name, "callerid: a clamp has ended");
            }
        }
    }

    /// Lets a request in, or says why not. A refusal takes nothing from the limit that it met.
    pub(crate) fn decide(&self, seat: Arc<Seat>, ask: &Ask<'_>) -> Verdict {
        let terms = self.terms(&seat, ask);
        let Some(terms) = terms.as_deref() else {
            return Verdict::Admit {
                permit: None,
                would_refuse: None,
            };
        };
        let switch = self.mode();
        let own = terms.mode.min(switch) == Mode::Enforce;
        self.room.note_time(ask.now);
        let mut permit = Permit::new(seat);
        let mut would_refuse = None;
        // What a limit finds: refused for good where it is enforced, noted where it is in shadow. A limit in shadow
        // is not asked about a request that would not have come so far.
        macro_rules! limit {
            ($enforced:expr, $check:expr) => {
                if $enforced || would_refuse.is_none() {
                    if let Err(denial) = $check {
                        if $enforced {
                            return Verdict::Refuse(denial);
                        }
                        would_refuse = Some(denial.reason);
                    }
                }
            };
        }
        if !terms.allow {
            limit!(own, block(terms, ask));
            limit!(own, quota(terms, ask));
            if let Some(max) = terms.max_in_flight {
                limit!(
                    own,
                    permit.take_place(max).map_err(|_| Denial::in_flight(max))
                );
            }
            if let Some((bucket, mode)) = &terms.total {
                limit!(
                    (*mode).min(switch) == Mode::Enforce,
                    take("group", bucket, 1, ask.now)
                );
            }
        }
        if let Some(mode) = terms.ceiling {
            let enforced = mode.min(switch) == Mode::Enforce;
            limit!(enforced, self.enter(&mut permit, terms.allow, ask.now));
        }
        if would_refuse.is_some() && !own {
            // Enforced, it would have given its place back.
            permit.leave_place();
        }
        Verdict::Admit {
            permit: permit.holds_any().then_some(permit),
            would_refuse,
        }
    }

    fn enter(&self, permit: &mut Permit, always: bool, now: Timestamp) -> Result<(), Denial> {
        match self.room.enter(permit.seat(), always, now) {
            Ok(()) => {
                permit.holds_ceiling();
                Ok(())
            }
            Err(full) => Err(Denial {
                reason: Reason::Ceiling,
                limit: Limit::Ceiling,
                left: 0,
                status: if full.caused {
                    StatusCode::TOO_MANY_REQUESTS
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                },
                wait: Some(Duration::ZERO),
            }),
        }
    }

    /// What applies to the caller now.
    #[inline]
    fn terms(&self, seat: &Seat, ask: &Ask<'_>) -> Guard<Option<Arc<Terms>>> {
        let generation = self.generation.load(Ordering::Acquire);
        let terms = seat.terms.load();
        if terms
            .as_ref()
            .is_some_and(|terms| terms.generation == generation)
        {
            return terms;
        }
        drop(terms);
        self.renew(seat, ask, generation);
        seat.terms.load()
    }

    /// One thread renews: two new buckets would be two bursts.
    #[cold]
    fn renew(&self, seat: &Seat, ask: &Ask<'_>, generation: u64) {
        let _one_at_a_time = lock(&seat.renewing);
        let before = seat.terms.load_full();
        if before
            .as_ref()
            .is_some_and(|terms| terms.generation >= generation)
        {
            return;
        }
        let book = self.book.load();
        let mut tables = book.policies.tables(&ask.subject);
        let clamp = book.clamps.of(ask.subject.name);
        tables.splice(0..0, clamp);
        let found = Found {
            tables: &tables,
            total: book
                .totals
                .get(ask.subject.provenance as usize)
                .cloned()
                .flatten(),
            ceiling: book.policies.ceiling.map(|ceiling| ceiling.mode),
            clamped: clamp.is_some(),
        };
        let terms = Terms::new(generation, found, before.as_deref(), ask.now);
        seat.weight.set(terms.weight);
        seat.terms.store(Some(Arc::new(terms)));
    }

    /// The answer to a request that is refused.
    pub(crate) fn refusal(
        &self,
        denial: &Denial,
        seat: &Seat,
        caller: Caller,
        form: &Form<'_>,
        now: Timestamp,
    ) -> Refusal {
        let told = denial
            .wait
            .map(|wait| seat.patience.refused(wait, now, fastrand::f64()));
        Refusal {
            reason: denial.reason,
            status: denial.status,
            retry_after: told.map(|told| told.after),
            close: told.is_some_and(|told| told.close),
            limit: denial.limit,
            left: denial.left,
            caller,
            head: form.method == http::Method::HEAD,
            http1: form.is_http1(),
            grpc: form.grpc_type(),
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

impl Denial {
    fn in_flight(max: u32) -> Self {
        Self {
            reason: Reason::InFlight,
            limit: Limit::InFlight(max),
            left: 0,
            status: StatusCode::TOO_MANY_REQUESTS,
            wait: Some(Duration::ZERO),
        }
    }
}

fn block(terms: &Terms, ask: &Ask<'_>) -> Result<(), Denial> {
    match blocked(terms.block, ask.now) {
        None => Ok(()),
        Some(left) => Err(Denial {
            reason: Reason::Blocked,
            limit: Limit::Block,
            left: 0,
            status: left.map_or(StatusCode::FORBIDDEN, |_| StatusCode::TOO_MANY_REQUESTS),
            wait: left,
        }),
    }
}

fn quota(terms: &Terms, ask: &Ask<'_>) -> Result<(), Denial> {
    let (bucket, cost) = terms.measure(ask.method, ask.template);
    match bucket {
        None => Ok(()),
        Some(bucket) => take("quota", bucket, ask.cost.unwrap_or(cost), ask.now),
    }
}

fn take(
    name: &'static str,
    bucket: &quota::Bucket,
    cost: u32,
    now: Timestamp,
) -> Result<(), Denial> {
    bucket.take(cost, now).map_err(|wait| Denial {
        reason: Reason::Quota,
        limit: Limit::Quota {
            name,
            quota: bucket.quota,
        },
        left: bucket.left(now),
        status: StatusCode::TOO_MANY_REQUESTS,
        wait: Some(wait),
    })
}

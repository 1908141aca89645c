//! One request at the door: which limits it meets, in which order, and what it takes from them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::Guard;
use http::StatusCode;

use super::bucket::Bucket;
use super::policy::{Mode, Subject, blocked};
use super::refusal::Limit;
use super::terms::{Found, Total};
use super::{Admission, Permit, Seat, Terms, lock};
use crate::clock::Timestamp;
use crate::outcome::Reason;

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
    pub(super) limit: Limit,
    /// Whole tokens that are left.
    pub(super) left: u64,
    pub(super) status: StatusCode,
    /// How long until it could be let in; `None` where waiting does not help.
    pub(super) wait: Option<Duration>,
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

impl Admission {
    /// Lets a request in, or says why not. A refusal takes nothing from any limit.
    pub(crate) fn decide(&self, seat: Arc<Seat>, ask: &Ask<'_>) -> Verdict {
        let brake = seat.brake.load();
        let terms = self.terms(&seat, &ask.subject);
        let Some(terms) = terms.as_deref() else {
            return Verdict::Admit {
                permit: None,
                would_refuse: None,
            };
        };
        let switch = self.mode();
        let enforces = |mode: Mode| mode.min(switch) == Mode::Enforce;
        let own = enforces(terms.mode);
        let by_quota = own || (terms.clamped && enforces(Mode::Enforce));
        self.room.note_time(ask.now);
        let mut permit = Permit::new(seat);
        let mut would_refuse = None;
        let (bucket, cost) = terms.measure(ask.method, ask.template);
        let cost = ask.cost.unwrap_or(cost);
        // What is taken, and whether by a limit that is enforced.
        let (mut of_caller, mut of_group, mut of_brake) = (None, None, None);
        let refused = 'way: {
            // What a limit finds: refused for good where it is enforced, noted where it is in shadow. A limit in
            // shadow is not asked about a request that would not have come so far.
            macro_rules! limit {
                ($enforced:expr, $check:expr) => {
                    if $enforced || would_refuse.is_none() {
                        if let Err(denial) = $check {
                            if $enforced {
                                break 'way Some(denial);
                            }
                            would_refuse = Some(denial.reason);
                        }
                    }
                };
            }
            if !terms.allow {
                limit!(own, block(terms, ask));
            }
            if (!terms.allow || terms.clamped)
                && let Some(bucket) = bucket
            {
                limit!(
                    by_quota,
                    take("quota", bucket, cost, ask.now)
                        .map(|()| of_caller = Some((&**bucket, by_quota)))
                );
            }
            if !terms.allow {
                if let Some(max) = terms.max_in_flight {
                    limit!(
                        own,
                        permit.take_place(max).map_err(|_| Denial::in_flight(max))
                    );
                }
                if let Some((bucket, mode)) = &terms.total {
                    let enforced = enforces(*mode);
                    limit!(
                        enforced,
                        take("group", bucket, cost, ask.now)
                            .map(|()| of_group = Some((&**bucket, enforced)))
                    );
                }
            }
            if let Some(brake) = brake.as_deref().filter(|_| !terms.allow) {
                let enforced = enforces(brake.mode);
                limit!(
                    enforced,
                    take("runaway", &brake.bucket, cost, ask.now)
                        .map(|()| of_brake = Some((&brake.bucket, enforced)))
                        .map_err(Denial::of_runaway)
                );
                if let Some(max) = brake.max_in_flight.filter(|_| !permit.has_place()) {
                    limit!(
                        enforced,
                        permit
                            .take_place(max)
                            .map_err(|_| Denial::in_flight(max).of_runaway())
                    );
                }
            }
            if let Some(mode) = terms.ceiling {
                limit!(
                    enforces(mode),
                    self.enter(&mut permit, terms.allow, ask.now)
                );
            }
            None
        };
        // Refusals consume nothing; in shadow, what would be refused does not either.
        for (bucket, enforced) in [of_caller, of_group, of_brake].into_iter().flatten() {
            if refused.is_some() || (would_refuse.is_some() && !enforced) {
                bucket.give_back(cost);
            }
        }
        if let Some(denial) = refused {
            return Verdict::Refuse(denial);
        }
        if would_refuse.is_some() && !own {
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

    /// What applies to a caller that had a request under a policy, as of the policies in force.
    pub(crate) fn terms_of(&self, seat: &Seat, subject: &Subject<'_>) -> Option<Arc<Terms>> {
        seat.terms()?;
        self.terms(seat, subject).clone()
    }

    /// What applies to the caller now.
    #[inline]
    fn terms(&self, seat: &Seat, subject: &Subject<'_>) -> Guard<Option<Arc<Terms>>> {
        let generation = self.generation.load(Ordering::Acquire);
        let terms = seat.terms.load();
        if terms
            .as_ref()
            .is_some_and(|terms| terms.generation == generation)
        {
            return terms;
        }
        drop(terms);
        self.renew(seat, subject, generation);
        seat.terms.load()
    }

    /// One thread renews: two new buckets would be two bursts.
    #[cold]
    fn renew(&self, seat: &Seat, subject: &Subject<'_>, generation: u64) {
        let _one_at_a_time = lock(&seat.renewing);
        let before = seat.terms.load_full();
        if before
            .as_ref()
            .is_some_and(|terms| terms.generation >= generation)
        {
            return;
        }
        let book = self.book.load();
        let mut tables = book.policies.tables(subject);
        let block = book.clamps.block_of(subject.name);
        tables.splice(0..0, &block);
        let total = book.totals.get(subject.provenance as usize);
        let found = Found {
            tables: &tables,
            total: total.and_then(Total::in_force),
            ceiling: book.policies.ceiling.map(|ceiling| ceiling.mode),
            clamp: book.clamps.of(subject.name),
        };
        // As of the change: a caller that has waited since then has waited under this quota.
        let terms = Terms::new(generation, found, before.as_deref(), book.since);
        seat.weight.set(terms.weight);
        seat.terms.store(Some(Arc::new(terms)));
    }
}

impl Denial {
    fn of_runaway(self) -> Self {
        Self {
            reason: Reason::Runaway,
            ..self
        }
    }

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

fn take(name: &'static str, bucket: &Bucket, cost: u32, now: Timestamp) -> Result<(), Denial> {
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

//! One request at the door: which limits it meets, in which order, and what it takes from them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
#[cfg(feature = "redis")]
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::Guard;
use http::StatusCode;

#[cfg(feature = "redis")]
use super::brake::Brake;
use super::denial::Denial;
#[cfg(feature = "redis")]
use super::denial::spent;
#[cfg(feature = "redis")]
use super::fleet;
use super::policy::{Mode, Subject};
#[cfg(feature = "redis")]
use super::quota::Quota;
use super::refusal::Limit;
#[cfg(feature = "redis")]
use super::terms::Measure;
use super::terms::{Found, Total};
#[cfg(feature = "redis")]
use super::way::Admitted;
use super::way::{Denied, Taken, Way};
use super::{Admission, Permit, Seat, Terms};
use crate::clock::Timestamp;
use crate::lock::lock;
use crate::outcome::Reason;

/// What is decided of a request.
#[derive(Debug)]
pub(crate) enum Verdict {
    Admit {
        permit: Option<Permit>,
        /// Why it would have been refused, were the limits in shadow enforced.
        would_refuse: Option<Reason>,
    },
    /// The denial says why.
    Refuse,
    /// The fleet is being asked: [`Admission::poll`], then [`Admission::resume`].
    #[cfg(feature = "redis")]
    Wait(Waiting),
}

/// A request that waits to hear of the quota that all replicas share.
#[cfg(feature = "redis")]
#[derive(Debug)]
pub(crate) struct Waiting {
    terms: Arc<Terms>,
    enforcing: bool,
    permit: Permit,
    would_refuse: Option<Reason>,
    taken: Taken,
    brake: Option<Arc<Brake>>,
    asked: fleet::Waiting,
    quota: Quota,
}

/// What the fleet has said.
#[cfg(feature = "redis")]
#[derive(Debug)]
pub(crate) struct Heard(Result<(), Duration>);

/// What of a caller's terms a thread remembers, so that it need not count a reference to them.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Option<Arc<Terms>>);

/// A request at the door.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) template: &'a str,
    /// What the operator's closure says of the cost, instead of the route's.
    pub(crate) cost: Option<u32>,
    pub(crate) now: Timestamp,
}

impl Admission {
    /// Lets a request in, or says why not. A refusal takes nothing from any limit.
    #[inline]
    pub(crate) fn decide<'s>(
        &self,
        seat: &Arc<Seat>,
        ask: &Ask<'_>,
        subject: impl FnOnce() -> Subject<'s>,
        remembered: &mut Remembered,
        denial: &mut Option<Denial>,
    ) -> Verdict {
        let generation = self.generation.load(Ordering::Acquire);
        let known = remembered.0.as_ref();
        if known.is_none_or(|terms| terms.generation != generation) {
            remembered.0.clone_from(&self.terms(seat, &subject()));
        }
        let Some(terms) = &remembered.0 else {
            return Verdict::Admit {
                permit: None,
                would_refuse: None,
            };
        };
        self.room.note_time(ask.now);
        let mut way = Way {
            enforcing: self.mode() == Mode::Enforce,
            permit: Permit::new(seat),
            would_refuse: None,
            denial,
            taken: Taken::default(),
            brake: None,
        };
        let (measure, cost) = terms.measure(ask.method, ask.template);
        let bucket = measure.bucket().map(|bucket| &**bucket);
        way.taken.cost = ask.cost.unwrap_or(cost);
        let met = way.own_limits(terms, bucket, ask);
        #[cfg(feature = "redis")]
        let met = met.and_then(|()| self.known_of_fleet(&mut way, terms, measure, ask.now));
        let met = met.and_then(|()| self.shared_limits(&mut way, terms, ask.now));
        // Who has no quota of the fleet's does not even look for the fleet.
        #[cfg(feature = "redis")]
        if let (Ok(()), Some(cell)) = (met, way.must_ask(terms, measure)) {
            match self.ask_fleet(cell, way.taken.cost, ask.now) {
                fleet::Asked::Known(known) => {
                    let _ = way.meet(terms.mode, |_| spent(known, cell.quota));
                }
                fleet::Asked::Later(asked) => {
                    return Verdict::Wait(Waiting {
                        quota: cell.quota,
                        terms: Arc::clone(terms),
                        enforcing: way.enforcing,
                        permit: way.permit.kept(),
                        would_refuse: way.would_refuse,
                        taken: way.taken,
                        brake: way.brake,
                        asked,
                    });
                }
            }
        }
        #[cfg(not(feature = "redis"))]
        let _ = met;
        match way.end(terms, bucket) {
            Some((permit, would_refuse)) => Verdict::Admit {
                permit,
                would_refuse,
            },
            None => Verdict::Refuse,
        }
    }

    /// What is refused by the quota that all replicas share, as far as this one knows. It comes before what everybody
    /// shares here; what has to be asked, and would be spent for nothing, after all the rest.
    #[cfg(feature = "redis")]
    fn known_of_fleet(
        &self,
        way: &mut Way<'_, &Arc<Seat>>,
        terms: &Terms,
        measure: Measure<'_>,
        now: Timestamp,
    ) -> Result<(), Denied> {
        let Some(cell) = way.must_ask(terms, measure) else {
            return Ok(());
        };
        let pool = self.fleet.as_ref().map(fleet::Part::pool);
        let Some(Some(pool)) = pool.as_deref() else {
            return Ok(());
        };
        let known = pool.look(cell, way.taken.cost, now);
        way.meet(terms.mode, |_| spent(known, cell.quota))
    }

    /// What the fleet says of a quota that it shares, and this replica's own bucket where there is none any more.
    #[cfg(feature = "redis")]
    #[inline(never)]
    fn ask_fleet(&self, cell: &Arc<fleet::Cell>, cost: u32, now: Timestamp) -> fleet::Asked {
        let pool = self.fleet.as_ref().map(fleet::Part::pool);
        match pool.as_deref() {
            Some(Some(pool)) => pool.ask(cell, cost, now),
            _ => fleet::Asked::Known(cell.take_own(cost, now)),
        }
    }

    /// What a request that waits for the fleet hears.
    #[cfg(feature = "redis")]
    pub(crate) fn poll(
        &self,
        waiting: &mut Waiting,
        now: impl FnOnce() -> Timestamp,
        cx: &mut Context<'_>,
    ) -> Poll<Heard> {
        let pool = self.fleet.as_ref().map(fleet::Part::pool);
        match pool.as_deref() {
            Some(Some(pool)) => pool.poll(&mut waiting.asked, now, cx).map(Heard),
            _ => Poll::Ready(Heard(waiting.asked.on_its_own(now()))),
        }
    }

    /// Goes on with a request that has waited.
    #[cfg(feature = "redis")]
    pub(crate) fn resume(
        &self,
        waiting: Waiting,
        heard: Heard,
        denial: &mut Option<Denial>,
    ) -> Option<Admitted> {
        let Waiting {
            terms,
            enforcing,
            permit,
            would_refuse,
            taken,
            brake,
            quota,
            ..
        } = waiting;
        let mut way = Way {
            enforcing,
            permit,
            would_refuse,
            denial,
            taken,
            brake,
        };
        // What was taken of the caller's was taken from the fleet.
        let _ = way.meet(terms.mode, |_| spent(heard.0, quota));
        way.end(&terms, None)
    }

    /// The limits that everybody shares, and the brake, which is there for their sake.
    #[inline]
    fn shared_limits(
        &self,
        way: &mut Way<'_, &Arc<Seat>>,
        terms: &Terms,
        now: Timestamp,
    ) -> Result<(), Denied> {
        if !terms.allow && self.brakes.load(Ordering::Acquire) > 0 {
            let brake = way.permit.seat().brake.load_full();
            brake.map_or(Ok(()), |brake| way.brake(&brake, now))?;
        }
        match terms.ceiling {
            Some(mode) => way.meet(mode, |permit| self.enter(permit, terms.allow, now)),
            None => Ok(()),
        }
    }

    fn enter(
        &self,
        permit: &mut Permit<&Arc<Seat>>,
        always: bool,
        now: Timestamp,
    ) -> Result<(), Denial> {
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
        #[cfg(feature = "redis")]
        let pool = self.fleet.as_ref().map(fleet::Part::pool);
        let found = Found {
            tables: &tables,
            total: total.and_then(Total::in_force),
            ceiling: book.policies.ceiling.map(|ceiling| ceiling.mode),
            clamp: book.clamps.of(subject.name),
            #[cfg(feature = "redis")]
            fleet: match pool.as_deref() {
                Some(Some(pool)) => Some((&**pool, subject, book.policies.scope)),
                _ => None,
            },
        };
        // As of the change: a caller that has waited since then has waited under this quota.
        let terms = Terms::new(generation, found, before.as_deref(), book.since);
        seat.weight.set(terms.weight);
        seat.terms.store(Some(Arc::new(terms)));
    }
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use super::fleet::Part;
    use super::*;
    use crate::admit::{Mode, Policies, Policy, Scope, Style};
    use crate::caller::Provenance;

    #[test]
    fn who_still_asks_a_fleet_that_is_gone_has_what_is_left_here() {
        let now = Timestamp::from_secs(1_700_000_000);
        let part = Part::of_the_only_one();
        let policies = Policies {
            default: Policy::new().quota(Quota::per_hour(1).burst(5)),
            scope: Scope::Fleet,
            ..Policies::default()
        };
        let admission = Admission::new(policies, Mode::Enforce, Style::default(), now);
        let admission = admission.with_fleet(part);
        let subject = Subject {
            name: "a",
            provenance: Provenance::Verified,
            proven: true,
        };
        let seat = admission.seat(&subject);
        let ask = Ask {
            method: "GET",
            template: "/",
            cost: None,
            now,
        };
        let mut admitted = Vec::new();
        for request in 0..20 {
            if request == 3 {
                admission.fleet().unwrap().join(None);
            }
            let (mut remembered, mut denial) = (Remembered::default(), None);
            let _ = admission.decide(&seat, &ask, || subject, &mut remembered, &mut denial);
            if denial.is_none() {
                admitted.push(request);
            }
        }
        assert_eq!(admitted, [0, 1, 2, 3, 4]);
    }
}

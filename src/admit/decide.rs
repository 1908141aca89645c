//! One request at the door: which limits it meets, in which order, and what it takes from them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
#[cfg(feature = "redis")]
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::Guard;
use http::StatusCode;

use super::brake::Brake;
use super::bucket::Bucket;
#[cfg(feature = "redis")]
use super::denial::spent;
use super::denial::{Denial, block, take};
#[cfg(feature = "redis")]
use super::fleet;
use super::policy::{Mode, Subject};
#[cfg(feature = "redis")]
use super::quota::Quota;
use super::refusal::Limit;
#[cfg(feature = "redis")]
use super::terms::Measure;
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
    /// The fleet is being asked: [`Admission::poll`], then [`Admission::resume`].
    #[cfg(feature = "redis")]
    Wait(Waiting),
}

/// What an admitted request holds, and why it would have been refused.
type Admitted = (Option<Permit>, Option<Reason>);

/// A request that waits to hear of the quota that all replicas share.
#[cfg(feature = "redis")]
#[derive(Debug)]
pub(crate) struct Waiting {
    terms: Arc<Terms>,
    way: Way,
    asked: fleet::Waiting,
    quota: Quota,
}

/// What the fleet has said.
#[cfg(feature = "redis")]
#[derive(Debug)]
pub(crate) struct Heard(Result<(), Duration>);

/// How far a request has come.
#[derive(Debug)]
struct Way {
    switch: Mode,
    permit: Permit,
    would_refuse: Option<Reason>,
    taken: Taken,
    /// What it was held by in a runaway.
    brake: Option<Arc<Brake>>,
}

/// Whether a request has taken tokens, and whether of a limit that is enforced.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    cost: u32,
    of_caller: Option<bool>,
    of_clamp: Option<bool>,
    of_group: Option<bool>,
    of_brake: Option<bool>,
}

impl Way {
    fn enforces(&self, mode: Mode) -> bool {
        mode.min(self.switch) == Mode::Enforce
    }

    /// What a limit finds: refused for good where it is enforced, noted where it is in shadow. A limit in shadow is
    /// not asked about a request that would not have come so far.
    #[inline]
    fn meet(
        &mut self,
        mode: Mode,
        check: impl FnOnce(&mut Permit) -> Result<(), Denial>,
    ) -> Result<(), Denial> {
        let enforced = self.enforces(mode);
        if enforced || self.would_refuse.is_none() {
            match check(&mut self.permit) {
                Err(denial) if enforced => return Err(denial),
                Err(denial) => self.would_refuse = Some(denial.reason),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Takes tokens of a bucket. Says whether any were taken, and whether of a limit that is enforced.
    #[inline]
    fn spend(
        &mut self,
        mode: Mode,
        limit: (&'static str, Reason),
        bucket: &Bucket,
        now: Timestamp,
    ) -> (Option<bool>, Result<(), Denial>) {
        let (cost, enforced) = (self.taken.cost, self.enforces(mode));
        let mut taken = None;
        let met = self.meet(mode, |_| {
            take(limit, bucket, cost, now)?;
            taken = Some(enforced);
            Ok(())
        });
        (taken, met)
    }

    /// The caller's own limits, and what its provenance shares.
    #[inline]
    fn own_limits(
        &mut self,
        terms: &Terms,
        bucket: Option<&Bucket>,
        ask: &Ask<'_>,
    ) -> Result<(), Denial> {
        if !terms.allow && terms.block.is_some() {
            self.meet(terms.mode, |_| block(terms, ask))?;
        }
        if let (false, Some(bucket)) = (terms.allow, bucket) {
            let (taken, met) = self.spend(terms.mode, ("quota", Reason::Quota), bucket, ask.now);
            self.taken.of_caller = taken;
            met?;
        }
        if let Some(bucket) = terms.clamp() {
            let (taken, met) = self.spend(Mode::Enforce, ("clamp", Reason::Quota), bucket, ask.now);
            self.taken.of_clamp = taken;
            met?;
        }
        if terms.allow {
            return Ok(());
        }
        if let Some(max) = terms.max_in_flight {
            self.meet(terms.mode, |permit| {
                permit.take_place(max).map_err(|_| Denial::in_flight(max))
            })?;
        }
        if let Some((bucket, mode)) = &terms.total {
            let (taken, met) = self.spend(*mode, ("group", Reason::Quota), bucket, ask.now);
            self.taken.of_group = taken;
            met?;
        }
        Ok(())
    }

    /// The quota that all replicas share, where it has to be asked.
    #[cfg(feature = "redis")]
    fn must_ask<'t>(&self, terms: &Terms, measure: Measure<'t>) -> Option<&'t Arc<fleet::Cell>> {
        match measure {
            Measure::Fleet(cell) => {
                let asked = self.enforces(terms.mode) || self.would_refuse.is_none();
                (asked && !terms.allow).then_some(cell)
            }
            _ => None,
        }
    }

    /// What a runaway is held to.
    fn brake(&mut self, brake: &Arc<Brake>, now: Timestamp) -> Result<(), Denial> {
        let limit = ("runaway", Reason::Runaway);
        let (taken, met) = self.spend(brake.mode, limit, &brake.bucket, now);
        self.taken.of_brake = taken;
        self.brake = Some(Arc::clone(brake));
        met?;
        match brake.max_in_flight {
            Some(max) if !self.permit.has_place() => self.meet(brake.mode, |permit| {
                let place = permit.take_place(max);
                place.map_err(|_| Denial::in_flight(max).of_runaway())
            }),
            _ => Ok(()),
        }
    }

    /// Refusals consume nothing; in shadow, what would be refused does not either.
    fn give_back(&self, terms: &Terms, bucket: Option<&Bucket>, wanted: impl Fn(bool) -> bool) {
        let Taken {
            cost,
            of_caller,
            of_clamp,
            of_group,
            of_brake,
        } = self.taken;
        let brake = self.brake.as_deref().map(|brake| &brake.bucket);
        let taken = [of_caller, of_clamp, of_group, of_brake];
        let buckets = [bucket, terms.clamp(), terms.total_bucket(), brake];
        for (taken, bucket) in taken.into_iter().zip(buckets) {
            if let (Some(enforced), Some(bucket)) = (taken, bucket)
                && wanted(enforced)
            {
                bucket.give_back(cost);
            }
        }
    }

    /// What is held, and what is given back.
    #[inline]
    fn end(
        mut self,
        met: Result<(), Denial>,
        terms: &Terms,
        bucket: Option<&Bucket>,
    ) -> Result<Admitted, Denial> {
        if let Err(denial) = met {
            self.give_back(terms, bucket, |_| true);
            return Err(denial);
        }
        if self.would_refuse.is_some() {
            self.give_back(terms, bucket, |enforced| !enforced);
            if !self.enforces(terms.mode) {
                self.permit.leave_place();
            }
            if terms.ceiling.is_some_and(|mode| !self.enforces(mode)) {
                self.permit.leave_ceiling();
            }
        }
        let Self {
            permit,
            would_refuse,
            ..
        } = self;
        Ok((permit.holds_any().then_some(permit), would_refuse))
    }
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
    #[inline]
    pub(crate) fn decide(&self, seat: &Arc<Seat>, ask: &Ask<'_>) -> Verdict {
        let terms = self.terms(seat, &ask.subject);
        let Some(terms) = terms.as_ref() else {
            return Verdict::Admit {
                permit: None,
                would_refuse: None,
            };
        };
        self.room.note_time(ask.now);
        let mut way = Way {
            switch: self.mode(),
            permit: Permit::new(Arc::clone(seat)),
            would_refuse: None,
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
        let met = match (met, way.must_ask(terms, measure)) {
            (Ok(()), Some(cell)) => match self.ask_fleet(cell, way.taken.cost, ask.now) {
                None => Ok(()),
                Some(fleet::Asked::Known(known)) => {
                    way.meet(terms.mode, |_| spent(known, cell.quota))
                }
                Some(fleet::Asked::Later(asked)) => {
                    return Verdict::Wait(Waiting {
                        quota: cell.quota,
                        terms: Arc::clone(terms),
                        way,
                        asked,
                    });
                }
            },
            (met, _) => met,
        };
        match way.end(met, terms, bucket) {
            Ok((permit, would_refuse)) => Verdict::Admit {
                permit,
                would_refuse,
            },
            Err(denial) => Verdict::Refuse(denial),
        }
    }

    /// What is refused by the quota that all replicas share, as far as this one knows. It comes before what everybody
    /// shares here; what has to be asked, and would be spent for nothing, after all the rest.
    #[cfg(feature = "redis")]
    fn known_of_fleet(
        &self,
        way: &mut Way,
        terms: &Terms,
        measure: Measure<'_>,
        now: Timestamp,
    ) -> Result<(), Denial> {
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

    /// What the fleet says of a quota that it shares; nothing where there is none any more.
    #[cfg(feature = "redis")]
    #[inline(never)]
    fn ask_fleet(
        &self,
        cell: &Arc<fleet::Cell>,
        cost: u32,
        now: Timestamp,
    ) -> Option<fleet::Asked> {
        let pool = self.fleet.as_ref().map(fleet::Part::pool);
        let pool = pool.as_deref()?.as_ref()?;
        Some(pool.ask(cell, cost, now))
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
            _ => Poll::Ready(Heard(Ok(()))),
        }
    }

    /// Goes on with a request that has waited.
    #[cfg(feature = "redis")]
    pub(crate) fn resume(&self, waiting: Waiting, heard: Heard) -> Result<Admitted, Denial> {
        let Waiting {
            terms,
            mut way,
            quota,
            ..
        } = waiting;
        // What was taken of the caller's was taken from the fleet.
        let met = way.meet(terms.mode, |_| spent(heard.0, quota));
        way.end(met, &terms, None)
    }

    /// The limits that everybody shares, and the brake, which is there for their sake.
    #[inline]
    fn shared_limits(&self, way: &mut Way, terms: &Terms, now: Timestamp) -> Result<(), Denial> {
        if !terms.allow && self.brakes.load(Ordering::Acquire) > 0 {
            let brake = way.permit.seat().brake.load_full();
            brake.map_or(Ok(()), |brake| way.brake(&brake, now))?;
        }
        match terms.ceiling {
            Some(mode) => way.meet(mode, |permit| self.enter(permit, terms.allow, now)),
            None => Ok(()),
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

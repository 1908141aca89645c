//! How far a request has come: which limits it has met, and what it holds of them.

use std::borrow::Borrow;
use std::sync::Arc;

use super::brake::Brake;
use super::bucket::Bucket;
use super::decide::Ask;
use super::denial::{Denial, block, take};
#[cfg(feature = "redis")]
use super::fleet;
use super::policy::Mode;
use super::refusal::Which;
#[cfg(feature = "redis")]
use super::terms::Measure;
use super::{Permit, Seat, Terms};
use crate::clock::Timestamp;
use crate::outcome::Reason;

/// What an admitted request holds, and why it would have been refused.
pub(super) type Admitted = (Option<Permit>, Option<Reason>);

/// How far a request has come.
#[derive(Debug)]
pub(super) struct Way<'d, S: Borrow<Arc<Seat>>> {
    /// Whether the switch lets limits refuse.
    pub(super) enforcing: bool,
    pub(super) permit: Permit<S>,
    pub(super) would_refuse: Option<Reason>,
    /// Why it is refused: written where it is read, since to move it would take longer than to make it.
    pub(super) denial: &'d mut Option<Denial>,
    pub(super) taken: Taken,
    /// What it was held by in a runaway.
    pub(super) brake: Option<Arc<Brake>>,
}

/// The request goes no further: [`Way::denial`] says why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Denied;

/// Whose tokens a request has taken, and whether of a limit that is enforced: a bit for each [`Whose`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    pub(super) cost: u32,
    taken: u32,
    enforced: u32,
}

/// The buckets that a request meets.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Caller,
    Clamp,
    Group,
    Brake,
}

impl Taken {
    fn note(&mut self, whose: Whose, enforced: bool) {
        self.taken |= 1 << whose as u32;
        self.enforced |= u32::from(enforced) << whose as u32;
    }

    fn of(self, whose: Whose) -> Option<bool> {
        let bit = |bits: u32| bits & 1 << whose as u32 != 0;
        bit(self.taken).then(|| bit(self.enforced))
    }
}

impl<S: Borrow<Arc<Seat>>> Way<'_, S> {
    fn enforces(&self, mode: Mode) -> bool {
        self.enforcing && mode == Mode::Enforce
    }

    /// What a limit finds: refused for good where it is enforced, noted where it is in shadow. A limit in shadow is
    /// not asked about a request that would not have come so far.
    #[inline]
    pub(super) fn meet(
        &mut self,
        mode: Mode,
        check: impl FnOnce(&mut Permit<S>) -> Result<(), Denial>,
    ) -> Result<(), Denied> {
        let enforced = self.enforces(mode);
        if (enforced || self.would_refuse.is_none())
            && let Err(denial) = check(&mut self.permit)
        {
            if enforced {
                *self.denial = Some(denial);
                return Err(Denied);
            }
            self.would_refuse = Some(denial.reason);
        }
        Ok(())
    }

    /// Takes tokens of a bucket.
    #[inline]
    fn spend(
        &mut self,
        mode: Mode,
        (whose, which, reason): (Whose, Which, Reason),
        bucket: &Bucket,
        now: Timestamp,
    ) -> Result<(), Denied> {
        let (cost, enforced) = (self.taken.cost, self.enforces(mode));
        let mut taken = false;
        let met = self.meet(mode, |_| {
            take((which, reason), bucket, cost, now)?;
            taken = true;
            Ok(())
        });
        if taken {
            self.taken.note(whose, enforced);
        }
        met
    }

    /// The caller's own limits, and what its provenance shares.
    #[inline]
    pub(super) fn own_limits(
        &mut self,
        terms: &Terms,
        bucket: Option<&Bucket>,
        ask: &Ask<'_>,
    ) -> Result<(), Denied> {
        if !terms.allow && terms.block.is_some() {
            self.meet(terms.mode, |_| block(terms, ask))?;
        }
        if let (false, Some(bucket)) = (terms.allow, bucket) {
            let limit = (Whose::Caller, Which::Quota, Reason::Quota);
            self.spend(terms.mode, limit, bucket, ask.now)?;
        }
        if let Some(bucket) = terms.clamp() {
            let limit = (Whose::Clamp, Which::Clamp, Reason::Quota);
            self.spend(Mode::Enforce, limit, bucket, ask.now)?;
        }
        if terms.allow {
            return Ok(());
        }
        if let Some(max) = terms.max_in_flight {
            self.meet(terms.mode, |permit| {
                if permit.take_place(max) {
                    return Ok(());
                }
                Err(Denial::in_flight(max))
            })?;
        }
        if let Some((bucket, mode)) = &terms.total {
            let limit = (Whose::Group, Which::Group, Reason::Quota);
            self.spend(*mode, limit, bucket, ask.now)?;
        }
        Ok(())
    }

    /// The quota that all replicas share, where it has to be asked.
    #[cfg(feature = "redis")]
    pub(super) fn must_ask<'t>(
        &self,
        terms: &Terms,
        measure: Measure<'t>,
    ) -> Option<&'t Arc<fleet::Cell>> {
        match measure {
            Measure::Fleet(cell) => {
                let asked = self.enforces(terms.mode) || self.would_refuse.is_none();
                (asked && !terms.allow).then_some(cell)
            }
            _ => None,
        }
    }

    /// What a runaway is held to.
    pub(super) fn brake(&mut self, brake: &Arc<Brake>, now: Timestamp) -> Result<(), Denied> {
        let limit = (Whose::Brake, Which::Runaway, Reason::Runaway);
        let met = self.spend(brake.mode, limit, &brake.bucket, now);
        self.brake = Some(Arc::clone(brake));
        met?;
        let (Some(max), Some(places)) = (brake.max_in_flight, brake.places()) else {
            return Ok(());
        };
        self.meet(brake.mode, |permit| {
            if permit.take_brake_place(places) {
                return Ok(());
            }
            Err(Denial::in_flight(max).of_runaway())
        })
    }

    /// Refusals consume nothing; in shadow, what would be refused does not either.
    fn give_back(&self, terms: &Terms, bucket: Option<&Bucket>, wanted: impl Fn(bool) -> bool) {
        if self.taken.taken == 0 {
            return;
        }
        let brake = self.brake.as_deref().map(|brake| &*brake.bucket);
        for (whose, bucket) in [
            (Whose::Caller, bucket),
            (Whose::Clamp, terms.clamp()),
            (Whose::Group, terms.total_bucket()),
            (Whose::Brake, brake),
        ] {
            if let (Some(enforced), Some(bucket)) = (self.taken.of(whose), bucket)
                && wanted(enforced)
            {
                bucket.give_back(self.taken.cost);
            }
        }
    }

    /// What is held, and what is given back; nothing is held of a request that is refused.
    #[inline]
    pub(super) fn end(&mut self, terms: &Terms, bucket: Option<&Bucket>) -> Option<Admitted> {
        if self.denial.is_some() {
            self.give_back(terms, bucket, |_| true);
            return None;
        }
        if self.would_refuse.is_some() {
            self.give_back(terms, bucket, |enforced| !enforced);
            if !self.enforces(terms.mode) {
                self.permit.leave_place();
            }
            let brake = self.brake.as_deref();
            if brake.is_some_and(|brake| !self.enforces(brake.mode)) {
                self.permit.leave_brake_place();
            }
            if terms.ceiling.is_some_and(|mode| !self.enforces(mode)) {
                self.permit.leave_ceiling();
            }
        }
        let permit = self.permit.holds_any().then(|| self.permit.kept());
        Some((permit, self.would_refuse))
    }
}

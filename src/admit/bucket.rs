//! The tokens of a caller, measured by GCRA.
//!
//! GCRA is the generic cell rate algorithm of ITU-T I.371, as [`governor`] has it: one number per caller, the
//! theoretical arrival time. In any window of time it admits at most `burst + rate x window`.

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, RateLimiter, StateStore};

use super::quota::Quota;
use crate::clock::Timestamp;

thread_local!(static NOW: Cell<u64> = const { Cell::new(0) });

/// The time that the pipeline has read for the request at hand; governor reads no clock of its own.
#[derive(Clone, Copy, Debug)]
struct PipelineClock;

impl Clock for PipelineClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(NOW.with(Cell::get))
    }
}

/// The theoretical arrival time, in nanoseconds since the Unix epoch; 0 before the first request. Unlike
/// governor's own store it can be read, which is what a bucket inherits by, and what eviction looks at.
#[derive(Debug, Default)]
struct Arrival(AtomicU64);

impl StateStore for Arrival {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut before = self.0.load(Ordering::Acquire);
        loop {
            // Runs again when another thread was faster: nothing may be counted in it.
            let (outcome, after) = decide((before != 0).then(|| Nanos::new(before)))?;
            let after = after.as_u64();
            match self
                .0
                .compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(outcome),
                Err(now) => before = now,
            }
        }
    }
}

/// The same number, in the limiter and beside it.
struct Store(Arc<Arrival>);

impl StateStore for Store {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, decide)
    }
}

/// The tokens of one caller, or of a group.
pub(crate) struct Bucket {
    pub(super) quota: Quota,
    /// It holds one of so many equal parts of the quota.
    #[cfg(feature = "redis")]
    parts: u32,
    /// Nanoseconds per token.
    period: u64,
    /// How many tokens it holds when it is full.
    burst: u32,
    arrival: Arc<Arrival>,
    limiter: RateLimiter<NotKeyed, Store, PipelineClock, NoOpMiddleware<Nanos>>,
    /// What an earlier, larger bucket lacks and this one cannot show: it comes to light when the quota grows again.
    deeper: Option<Lack>,
}

/// Tokens that are missing, and how they come back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lack {
    /// When none is missing any more.
    until: u64,
    period: u64,
}

impl Lack {
    pub(super) fn tokens(self, now: Timestamp) -> f64 {
        self.until.saturating_sub(now.as_nanos()) as f64 / self.period as f64
    }

    /// So many tokens less.
    #[cfg(feature = "redis")]
    pub(super) fn less(self, tokens: u32) -> Self {
        let nanos = self.period.saturating_mul(u64::from(tokens));
        Self {
            until: self.until.saturating_sub(nanos),
            ..self
        }
    }
}

impl Bucket {
    /// A full bucket. The quota has no [`Quota::problem`].
    pub(super) fn new(quota: Quota) -> Self {
        Self::share(quota, 1)
    }

    /// A full bucket of one of so many equal parts of a quota.
    pub(super) fn share(quota: Quota, parts: u32) -> Self {
        let parts = parts.max(1);
        let period = quota.period().saturating_mul(u64::from(parts));
        let burst = NonZeroU32::new(quota.max_burst() / parts).unwrap_or(NonZeroU32::MIN);
        let limit = governor::Quota::with_period(Duration::from_nanos(period))
            .unwrap_or(governor::Quota::per_second(NonZeroU32::MIN))
            .allow_burst(burst);
        let arrival = Arc::new(Arrival::default());
        NOW.set(0); // times are counted from the Unix epoch, not from the first request
        let limiter = RateLimiter::new(limit, Store(Arc::clone(&arrival)), PipelineClock);
        Self {
            quota,
            #[cfg(feature = "redis")]
            parts,
            period,
            burst: burst.get(),
            arrival,
            limiter,
            deeper: None,
        }
    }

    /// Nanoseconds that it takes to fill.
    fn capacity(&self) -> u64 {
        self.period.saturating_mul(u64::from(self.burst))
    }

    /// A bucket for a changed quota, with the tokens missing that were missing before: a change never hands out a
    /// full bucket, and neither do two, to and fro.
    pub(super) fn inheriting(quota: Quota, before: &Self, now: Timestamp) -> Self {
        Self::share_inheriting(quota, 1, before, now)
    }

    /// This bucket, if its quota stays; otherwise one that inherits.
    pub(super) fn under(self: &Arc<Self>, quota: Quota, now: Timestamp) -> Arc<Self> {
        if self.quota == quota {
            Arc::clone(self)
        } else {
            Arc::new(Self::inheriting(quota, self, now))
        }
    }

    /// The same for a share.
    pub(super) fn share_inheriting(
        quota: Quota,
        parts: u32,
        before: &Self,
        now: Timestamp,
    ) -> Self {
        let mut bucket = Self::share(quota, parts);
        let lack = before.lack(now);
        let missing = lack.tokens(now);
        let debt = (missing * bucket.period as f64).min(bucket.capacity() as f64);
        let arrival = now.as_nanos().saturating_add(debt.ceil() as u64);
        bucket.arrival.0.store(arrival, Ordering::Release);
        bucket.deeper = (missing > f64::from(bucket.burst)).then_some(lack);
        bucket
    }

    /// Takes `cost` tokens, or says how long it takes until they are there. A cost above the burst takes it all.
    #[inline]
    pub(super) fn take(&self, cost: u32, now: Timestamp) -> Result<(), Duration> {
        NOW.set(now.as_nanos());
        let cost = self.tokens_of(cost);
        let taken = match NonZeroU32::new(cost) {
            Some(cost) if cost.get() > 1 => self.limiter.check_n(cost).unwrap_or(Ok(())),
            _ => self.limiter.check(),
        };
        taken.map_err(|until| until.wait_time_from(Nanos::new(now.as_nanos())))
    }

    /// How long it takes until `cost` tokens are there, and takes none.
    #[cfg(feature = "redis")]
    pub(super) fn look(&self, cost: u32, now: Timestamp) -> Result<(), Duration> {
        let wanted = self.period.saturating_mul(u64::from(self.tokens_of(cost)));
        match (self.debt(now).saturating_add(wanted)).saturating_sub(self.capacity()) {
            0 => Ok(()),
            missing => Err(Duration::from_nanos(missing)),
        }
    }

    /// Puts back what was taken for a request that another limit then refused. The arrival time is at least now
    /// after a request was let in, so what comes back is never more than what it took.
    #[cold]
    pub(super) fn give_back(&self, cost: u32) {
        let tokens = u64::from(self.tokens_of(cost));
        let nanos = self.period.saturating_mul(tokens);
        self.arrival.0.fetch_sub(nanos, Ordering::AcqRel);
    }

    fn tokens_of(&self, cost: u32) -> u32 {
        cost.clamp(1, self.burst)
    }

    /// Nanoseconds until the bucket is full.
    fn debt(&self, now: Timestamp) -> u64 {
        let arrival = self.arrival.0.load(Ordering::Acquire);
        arrival.saturating_sub(now.as_nanos())
    }

    /// The most that is missing, here or in the bucket before.
    pub(super) fn lack(&self, now: Timestamp) -> Lack {
        let own = Lack {
            until: self.arrival.0.load(Ordering::Acquire),
            period: self.period,
        };
        let deeper = self.deeper.unwrap_or(own);
        if deeper.tokens(now) > own.tokens(now) {
            deeper
        } else {
            own
        }
    }

    pub(super) fn has_debt(&self, now: Timestamp) -> bool {
        self.lack(now).tokens(now) > 0.0
    }

    /// Whole tokens that are left.
    pub(super) fn left(&self, now: Timestamp) -> u64 {
        self.capacity().saturating_sub(self.debt(now)) / self.period
    }

    /// Takes tokens that were spent elsewhere, as far as there are any.
    #[cfg(feature = "redis")]
    pub(super) fn charge(&self, tokens: u64, now: Timestamp) {
        let now = now.as_nanos();
        let full = now.saturating_add(self.capacity());
        let spent = self.period.saturating_mul(tokens);
        let charged = |arrival: u64| Some(arrival.max(now).saturating_add(spent).min(full));
        // Never fails: the closure always has an answer.
        let _ = self
            .arrival
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, charged);
    }

    /// Of how many parts it holds one.
    #[cfg(feature = "redis")]
    pub(super) fn parts(&self) -> u32 {
        self.parts
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

/// The bucket of a quota, through all changes of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    in_force: Option<Arc<Bucket>>,
    /// What was in force before the quota was taken away: it may come back.
    resting: Option<Arc<Bucket>>,
}

impl Account {
    /// The account under another quota. A bucket whose quota stays is left as it is; a changed one inherits.
    pub(super) fn under(&self, quota: Option<Quota>, now: Timestamp) -> Self {
        let before = self.in_force.as_ref().or(self.resting.as_ref());
        let Some(quota) = quota else {
            return Self {
                in_force: None,
                resting: before.filter(|bucket| bucket.has_debt(now)).cloned(),
            };
        };
        let bucket = match before {
            Some(old) => old.under(quota, now),
            None => Arc::new(Bucket::new(quota)),
        };
        Self {
            in_force: Some(bucket),
            resting: None,
        }
    }

    /// An account whose quota is counted elsewhere for now.
    #[cfg(feature = "redis")]
    pub(super) fn resting(bucket: Arc<Bucket>) -> Self {
        Self {
            in_force: None,
            resting: Some(bucket),
        }
    }

    /// The bucket, in force or resting.
    #[cfg(feature = "redis")]
    pub(super) fn last(&self) -> Option<&Arc<Bucket>> {
        self.in_force.as_ref().or(self.resting.as_ref())
    }

    #[inline]
    pub(super) fn bucket(&self) -> Option<&Arc<Bucket>> {
        self.in_force.as_ref()
    }

    /// Whether forgetting it would forgive something.
    pub(super) fn owes(&self, now: Timestamp) -> bool {
        let buckets = self.in_force.iter().chain(&self.resting);
        buckets.into_iter().any(|bucket| bucket.has_debt(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_changed_bucket_inherits_the_debt_of_the_old_one() {
        let now = Timestamp::from_secs(1_000);
        let old = Bucket::new(Quota::per_second(10).burst(100));
        for _ in 0..80 {
            old.take(1, now).unwrap();
        }
        let wider = Bucket::inheriting(Quota::per_second(50).burst(200), &old, now);
        assert_eq!(wider.left(now), 120);
        let narrower = Bucket::inheriting(Quota::per_minute(1).burst(30), &old, now);
        assert_eq!(narrower.left(now), 0);
        assert!(narrower.take(1, now).is_err());
        // A bucket that was full stays full.
        let full = Bucket::inheriting(Quota::per_second(5), &wider, now + Duration::from_secs(60));
        assert_eq!(full.left(now + Duration::from_secs(60)), 5);
    }

    #[test]
    fn a_quota_that_shrinks_and_grows_again_gives_nothing_away() {
        let now = Timestamp::from_secs(1_000);
        let old = Bucket::new(Quota::per_hour(60).burst(100));
        for _ in 0..100 {
            old.take(1, now).unwrap();
        }
        let narrow = Bucket::inheriting(Quota::per_second(5), &old, now);
        let later = now + Duration::from_secs(600);
        assert_eq!(narrow.left(later), 5);
        assert!(narrow.has_debt(later), "the tokens of before are owed yet");
        let again = Bucket::inheriting(Quota::per_hour(60).burst(100), &narrow, later);
        assert_eq!(again.left(later), 10, "a token a minute, for ten minutes");
    }

    #[test]
    fn a_quota_that_is_gone_for_a_while_remembers() {
        let now = Timestamp::from_secs(1_000);
        let quota = Some(Quota::per_minute(1).burst(5));
        let account = Account::default().under(quota, now);
        account.bucket().unwrap().take(5, now).unwrap();
        let without = account.under(None, now);
        assert!(without.bucket().is_none() && without.owes(now));
        let again = without.under(quota, now);
        assert_eq!(again.bucket().unwrap().left(now), 0);
        let much_later = now + Duration::from_secs(301);
        assert!(!without.under(None, much_later).owes(much_later));
    }

    #[test]
    fn what_is_given_back_was_never_taken() {
        let now = Timestamp::from_secs(1_000);
        let bucket = Bucket::new(Quota::per_second(10).burst(100));
        bucket.take(90, now).unwrap();
        bucket.take(7, now).unwrap();
        bucket.give_back(7);
        assert_eq!(bucket.left(now), 10);
        let later = now + Duration::from_secs(60);
        bucket.take(1, later).unwrap();
        bucket.give_back(1);
        assert_eq!(bucket.left(later), 100, "and no more than the burst");
        bucket.take(1_000, later).unwrap();
        bucket.give_back(1_000);
        assert_eq!(bucket.left(later), 100);
    }

    #[test]
    fn the_largest_and_the_smallest_quota_are_measured_without_overflow() {
        let now = Timestamp::from_secs(2_000_000_000);
        for (quota, burst) in [
            (Quota::per_second(u32::MAX), u32::MAX),
            (Quota::per_second(1).burst(u32::MAX / 200), u32::MAX / 200),
            (Quota::per_hour(1).burst(8_000), 8_000),
        ] {
            assert_eq!(quota.problem(), None);
            let bucket = Bucket::new(quota);
            assert_eq!(bucket.left(now), u64::from(burst));
            bucket.take(u32::MAX, now).unwrap();
            assert_eq!(bucket.left(now), 0);
            assert!(bucket.take(1, now).is_err());
            // Time that stands back is no way to more, and none to a panic.
            assert!(bucket.take(1, Timestamp::from_secs(1)).is_err());
        }
    }

    #[test]
    fn trap_23_who_was_overtaken_decides_anew_on_what_is_there() {
        let arrival = Arrival::default();
        let mut decisions = Cell::new(0);
        let decided: Result<u64, ()> = arrival.measure_and_replace(&NotKeyed::NonKey, |before| {
            if decisions.replace(decisions.get() + 1) == 0 {
                arrival.0.store(7, Ordering::Release); // another thread, meanwhile
            }
            let before = before.map_or(0, Nanos::as_u64);
            Ok((before, Nanos::new(before + 1)))
        });
        assert_eq!((decided, arrival.0.into_inner()), (Ok(7), 8));
        assert!(*decisions.get_mut() >= 2);
    }

    proptest! {
        #[test]
        fn a_bucket_never_admits_more_than_burst_and_rate_times_window(
            count in 1u32..2_000,
            per in 0usize..3,
            burst in 1u32..50,
            steps in prop::collection::vec((0u64..400_000_000, 1u32..6), 1..300),
        ) {
            let per = [Quota::per_second, Quota::per_minute, Quota::per_hour][per];
            let quota = per(count).burst(burst);
            let bucket = Bucket::new(quota);
            let mut now = Timestamp::from_secs(1_700_000_000);
            let mut admitted = Vec::new();
            for (gap, cost) in steps {
                now = now + Duration::from_nanos(gap);
                let left = bucket.left(now);
                match bucket.take(cost, now) {
                    Ok(()) => admitted.push((now, cost.min(burst))),
                    Err(wait) => {
                        prop_assert_eq!(bucket.left(now), left, "a refusal consumes nothing");
                        // Not a moment before, and at that moment: what `Retry-After` promises.
                        prop_assert!(wait > Duration::ZERO);
                        prop_assert!(left < u64::from(cost.min(burst)));
                    }
                }
            }
            for (from, (start, _)) in admitted.iter().enumerate() {
                let mut sum = 0;
                for (at, cost) in &admitted[from..] {
                    sum += u64::from(*cost);
                    let bound = f64::from(burst) + quota.rate() * at.since(*start).as_secs_f64();
                    prop_assert!(sum as f64 <= bound + 1e-6, "{} > {}", sum, bound);
                }
            }
        }
    }
}

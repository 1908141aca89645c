//! A caller's quota: a rate and a burst, measured by GCRA.
//!
//! GCRA is the generic cell rate algorithm of ITU-T I.371, as [`governor`] has it: one number per caller, the
//! theoretical arrival time. In any window of time it admits at most `burst + rate x window`.

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, RateLimiter, StateStore};

use crate::clock::Timestamp;

/// The longest that an empty bucket may take to fill.
const LONGEST_FILL: Duration = Duration::from_secs(366 * 86_400);

/// How many requests, or tokens where routes have a cost, a caller may use: a steady rate, and how much of it at
/// once.
///
/// The burst is one second's worth by default, at least 1. In any window of time a bucket admits at most
/// `burst + rate x window`: `"100/min"` with a burst of 100 lets 200 through in the first minute of a flood.
///
/// ```
/// use callerid::Quota;
///
/// let quota = Quota::per_second(500).burst(1_000);
/// assert_eq!(quota.to_string(), "500/s, burst 1000");
/// assert_eq!("100/min".parse::<Quota>()?.to_string(), "100/min, burst 2");
/// # Ok::<(), callerid::QuotaError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    count: u32,
    per: Per,
    burst: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    Second,
    Minute,
    Hour,
}

impl Per {
    const fn secs(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }
}

impl Per {
    const fn unit(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "min",
            Self::Hour => "h",
        }
    }
}

impl Quota {
    /// So many requests a second.
    #[must_use]
    pub const fn per_second(count: u32) -> Self {
        Self::new(count, Per::Second)
    }

    /// So many requests a minute.
    #[must_use]
    pub const fn per_minute(count: u32) -> Self {
        Self::new(count, Per::Minute)
    }

    /// So many requests an hour.
    #[must_use]
    pub const fn per_hour(count: u32) -> Self {
        Self::new(count, Per::Hour)
    }

    const fn new(count: u32, per: Per) -> Self {
        Self {
            count,
            per,
            burst: None,
        }
    }

    /// How many requests may come at once.
    #[must_use]
    pub const fn burst(mut self, burst: u32) -> Self {
        self.burst = Some(burst);
        self
    }

    /// Requests per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        f64::from(self.count) / self.per.secs() as f64
    }

    /// How many requests may come at once: what was said, or one second's worth, at least 1.
    #[must_use]
    pub fn max_burst(&self) -> u32 {
        let second = u64::from(self.count).div_ceil(self.per.secs());
        let second = u32::try_from(second).unwrap_or(u32::MAX);
        self.burst.unwrap_or(second).max(1)
    }

    pub(super) fn with_burst(self, burst: Option<u32>) -> Self {
        Self { burst, ..self }
    }

    /// Nanoseconds per token, rounded up: never more than the rate.
    fn period(&self) -> u64 {
        (self.per.secs() * 1_000_000_000).div_ceil(u64::from(self.count.max(1)))
    }

    /// Nanoseconds that an empty bucket takes to fill.
    fn capacity(&self) -> u64 {
        self.period().saturating_mul(u64::from(self.max_burst()))
    }

    /// Whole seconds in which the burst comes back, and how many requests that is: the window of
    /// `RateLimit-Policy`.
    pub(super) fn window(&self) -> (u64, u64) {
        let secs = self.capacity().div_ceil(1_000_000_000).max(1);
        let quota = (self.rate() * secs as f64).floor().max(1.0);
        (quota as u64, secs)
    }

    /// What is wrong with it, and what to do.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if self.count == 0 {
            return Some("lets nothing through; use `block = true`, or leave the quota out");
        }
        if self.burst == Some(0) {
            return Some("has a burst of 0, which lets nothing through; use 1 or more");
        }
        (self.capacity() > LONGEST_FILL.as_nanos() as u64)
            .then_some("takes longer than a year to fill; use a smaller burst")
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = self.per.unit();
        write!(f, "{}/{per}, burst {}", self.count, self.max_burst())
    }
}

/// A text that is not a rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaError(String);

impl fmt::Display for QuotaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a rate; use N/s, N/min or N/h", self.0)
    }
}

impl QuotaError {
    pub(crate) fn of(quota: Quota) -> Self {
        Self(format!("{}/{}", quota.count, quota.per.unit()))
    }
}

impl std::error::Error for QuotaError {}

impl FromStr for Quota {
    type Err = QuotaError;

    /// Reads `500/s`, `100/min` or `20/h`.
    fn from_str(text: &str) -> Result<Self, QuotaError> {
        let parse = || {
            let (count, per) = text.split_once('/')?;
            let digits = count.bytes().all(|byte| byte.is_ascii_digit());
            let count = count.parse().ok().filter(|_| digits)?;
            let per = match per {
                "s" => Per::Second,
                "min" => Per::Minute,
                "h" => Per::Hour,
                _ => return None,
            };
            Some(Self::new(count, per))
        };
        parse().ok_or_else(|| QuotaError(text.to_owned()))
    }
}

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
    arrival: Arc<Arrival>,
    limiter: RateLimiter<NotKeyed, Store, PipelineClock, NoOpMiddleware<Nanos>>,
}

impl Bucket {
    /// A full bucket. The quota has no [`Quota::problem`].
    pub(super) fn new(quota: Quota) -> Self {
        let cells = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let period = Duration::from_nanos(quota.period());
        let limit = governor::Quota::with_period(period)
            .unwrap_or(governor::Quota::per_second(NonZeroU32::MIN))
            .allow_burst(cells(quota.max_burst()));
        let arrival = Arc::new(Arrival::default());
        NOW.set(0); // times are counted from the Unix epoch, not from the first request
        let limiter = RateLimiter::new(limit, Store(Arc::clone(&arrival)), PipelineClock);
        Self {
            quota,
            arrival,
            limiter,
        }
    }

    /// A bucket for a changed quota, with the tokens missing that were missing before: a change never hands out a
    /// full bucket.
    pub(super) fn inheriting(quota: Quota, before: &Self, now: Timestamp) -> Self {
        let bucket = Self::new(quota);
        let tokens = before.debt(now) as f64 / before.quota.period() as f64;
        let debt = (tokens * quota.period() as f64).min(quota.capacity() as f64);
        let arrival = now.as_nanos().saturating_add(debt.ceil() as u64);
        bucket.arrival.0.store(arrival, Ordering::Release);
        bucket
    }

    /// Takes `cost` tokens, or says how long it takes until they are there. A cost above the burst takes it all.
    #[inline]
    pub(super) fn take(&self, cost: u32, now: Timestamp) -> Result<(), Duration> {
        NOW.set(now.as_nanos());
        let cost = cost.clamp(1, self.quota.max_burst());
        let taken = match NonZeroU32::new(cost) {
            Some(cost) if cost.get() > 1 => self.limiter.check_n(cost).unwrap_or(Ok(())),
            _ => self.limiter.check(),
        };
        taken.map_err(|until| until.wait_time_from(Nanos::new(now.as_nanos())))
    }

    /// Nanoseconds until the bucket is full.
    fn debt(&self, now: Timestamp) -> u64 {
        let arrival = self.arrival.0.load(Ordering::Acquire);
        arrival.saturating_sub(now.as_nanos())
    }

    pub(super) fn has_debt(&self, now: Timestamp) -> bool {
        self.debt(now) > 0
    }

    /// Whole tokens that are left.
    pub(super) fn left(&self, now: Timestamp) -> u64 {
        self.quota.capacity().saturating_sub(self.debt(now)) / self.quota.period()
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn trap_26_rates_are_written_and_shown() {
        for (text, shown, rate) in [
            ("500/s", "500/s, burst 500", 500.0),
            ("90/min", "90/min, burst 2", 1.5),
            ("1800/h", "1800/h, burst 1", 0.5),
        ] {
            let quota: Quota = text.parse().unwrap();
            assert_eq!((quota.to_string().as_str(), quota.rate()), (shown, rate));
        }
        for bad in [
            "10/fortnight",
            "10",
            "/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            "10/S",
            "10 /s",
            "",
            "5000000000/s",
        ] {
            let error = bad.parse::<Quota>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("{bad:?} is not a rate; use N/s, N/min or N/h")
            );
        }
    }

    #[test]
    fn what_lets_nothing_through_or_never_fills_is_said() {
        assert!(Quota::per_second(0).problem().is_some());
        assert!(Quota::per_second(1).burst(0).problem().is_some());
        assert!(Quota::per_hour(1).burst(u32::MAX).problem().is_some());
        assert!(Quota::per_second(u32::MAX).problem().is_none());
    }

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
    fn trap_23_threads_that_race_for_the_last_tokens_get_no_more_than_there_are() {
        let bucket = Bucket::new(Quota::per_hour(1).burst(1_000));
        let now = Timestamp::from_secs(5);
        let admitted: usize = std::thread::scope(|scope| {
            let flood = || (0..1_000).filter(|_| bucket.take(1, now).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(flood)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(admitted, 1_000);
    }

    proptest! {
        #[test]
        fn a_bucket_never_admits_more_than_burst_and_rate_times_window(
            count in 1u32..2_000,
            per in 0usize..3,
            burst in 1u32..50,
            steps in prop::collection::vec((0u64..400_000_000, 1u32..6), 1..300),
        ) {
            let per = [Per::Second, Per::Minute, Per::Hour][per];
            let quota = Quota::new(count, per).burst(burst);
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

//! Time as a parameter. Nothing else in this crate reads the time, so that a test and a replayed log
//! run the very code that production runs.

mod counter;

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: nanoseconds since the Unix epoch, never running backwards within one [`Clock`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The Unix epoch.
    pub const ZERO: Self = Self(0);

    /// A point in time from nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// A point in time from whole seconds since the Unix epoch.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000_000
    }

    /// Seconds since the Unix epoch, with their fraction.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// As the system has it.
    #[cfg(feature = "dashboard")]
    pub(crate) fn to_system(self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_nanos(self.0))
    }

    /// The time from `earlier` to here; zero where `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self::ZERO + time.duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// Where the time comes from. The request path asks twice per request: at its head and at its end.
pub trait Clock: Send + Sync + 'static {
    /// The time now. Must not run backwards.
    fn now(&self) -> Timestamp;
}

/// The clock of production: the wall clock at its creation, carried on by the monotonic clock, so that a
/// correction of the wall clock never bends a duration. Where the system's monotonic clock is made of the processor's
/// counter, as on most machines with Linux, that is read, and brought in step four times a second.
///
/// Where the wall clock is set, or the machine sleeps, a warning says by how much the two have parted: times of events
/// and dates of blocks stay by the wall clock of the start until the service is restarted.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    /// What the wall clock would have shown when the counting began.
    origin: Timestamp,
}

impl MonotonicClock {
    /// A clock that starts at the wall clock's time.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "one of the two places that read the time"
    )]
    pub fn new() -> Self {
        let since = Duration::from_nanos(counter::nanos());
        Self {
            origin: Timestamp::from(SystemTime::now()) - since,
        }
    }
}

impl MonotonicClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "one of the two places that read the time"
    )]
    fn keep_in_step(self) {
        static PARTED: Parted = Parted(AtomicI64::new(0));
        counter::keep_in_step();
        if let Some(seconds) = PARTED.by(SystemTime::now().into(), self.now()) {
            tracing::warn!(
                seconds,
                "callerid: the wall clock was set since the start, or the machine has slept; times of events and dates of \
                 blocks are off by so much until the service is restarted"
            );
        }
    }
}

/// By how many seconds the wall clock was ahead when that was said last.
struct Parted(AtomicI64);

impl Parted {
    /// What is worth saying: a second is less than anybody looks at.
    const WORTH: i64 = 2;

    /// By how many seconds the wall clock is ahead, where that is news.
    fn by(&self, wall: Timestamp, own: Timestamp) -> Option<i64> {
        let seconds = |time: Timestamp| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let ahead = seconds(wall) - seconds(own);
        let news = (ahead - self.0.load(Ordering::Relaxed)).abs() >= Self::WORTH;
        news.then(|| self.0.store(ahead, Ordering::Relaxed))
            .map(|()| ahead)
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    #[inline]
    fn now(&self) -> Timestamp {
        Timestamp(self.origin.0.wrapping_add(counter::nanos()))
    }
}

/// A clock that stands still until it is moved. Clones show the same time.
#[cfg(any(test, feature = "replay", feature = "test-util"))]
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<std::sync::atomic::AtomicU64>);

#[cfg(any(test, feature = "replay", feature = "test-util"))]
impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn at(start: Timestamp) -> Self {
        Self(Arc::new(start.as_nanos().into()))
    }

    /// Moves the clock forward and returns the new time.
    pub fn advance(&self, by: Duration) -> Timestamp {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let before = self.0.fetch_add(by, Ordering::AcqRel);
        Timestamp::from_nanos(before.saturating_add(by))
    }
}

#[cfg(any(test, feature = "replay", feature = "test-util"))]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::Acquire))
    }
}

/// The clock that a pipeline holds: production's without a virtual call, any other behind one.
#[derive(Clone)]
pub(crate) enum Ticker {
    Monotonic(MonotonicClock),
    Other(Arc<dyn Clock>),
}

impl Ticker {
    #[inline]
    pub(crate) fn now(&self) -> Timestamp {
        match self {
            Self::Monotonic(clock) => clock.now(),
            Self::Other(clock) => clock.now(),
        }
    }
}

impl Ticker {
    /// Brings the clock in step with the system's. Call it a few times a second.
    pub(crate) fn keep_in_step(&self) {
        if let Self::Monotonic(clock) = self {
            clock.keep_in_step();
        }
    }
}

impl fmt::Debug for Ticker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Monotonic(_) => "MonotonicClock",
            Self::Other(_) => "Clock",
        })
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Years begin in March here, so that the leap day is the last.
#[cfg(any(test, feature = "config", feature = "replay"))]
pub(crate) fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leaps + (month * 153 + 2) / 5 + day - 719_469
}

/// Year, month and day, so many days after 1970-01-01.
pub(crate) fn date_of(days: u64) -> (u64, u64, u64) {
    // By eras of 400 years of 146,097 days that begin in March.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_was_set_is_said_once() {
        let parted = Parted(AtomicI64::new(0));
        let at = Timestamp::from_secs;
        let said = [
            (1_000, 1_000),
            (1_001, 1_000),
            (1_060, 1_000),
            (1_061, 1_001),
            (900, 1_002),
            (1_003, 1_003),
        ]
        .map(|(wall, own)| parted.by(at(wall), at(own)));
        assert_eq!(said, [None, None, Some(60), None, Some(-102), Some(0)]);
    }

    #[test]
    fn days_and_dates_agree_for_a_thousand_years() {
        assert_eq!(days_of(1970, 1, 1), 0);
        assert_eq!(days_of(2000, 2, 29), 11_016);
        let mut last = (1969, 12, 31);
        for days in 0..365_250 {
            let (year, month, day) = date_of(days);
            assert_eq!(days_of(year as i64, month as i64, day as i64), days as i64);
            assert!(last < (year, month, day) && month <= 12 && day <= 31);
            last = (year, month, day);
        }
    }

    #[test]
    fn manual_clock_moves_only_when_told_and_clones_agree() {
        let clock = ManualClock::at(Timestamp::from_secs(100));
        let twin = clock.clone();
        assert_eq!(clock.now(), twin.now());
        assert_eq!(clock.advance(Duration::from_millis(1500)), twin.now());
        assert_eq!(
            twin.now().since(Timestamp::from_secs(100)),
            Duration::from_millis(1500)
        );
    }

    #[test]
    fn time_that_runs_backwards_is_no_time() {
        let (early, late) = (Timestamp::from_secs(1), Timestamp::from_secs(2));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(Timestamp::ZERO - Duration::from_secs(1), Timestamp::ZERO);
    }

    #[test]
    fn monotonic_clock_shows_wall_time() {
        let clock = MonotonicClock::new();
        assert!(clock.now() >= Timestamp::from_secs(1_600_000_000));
        assert!(clock.now() <= clock.now());
    }
}

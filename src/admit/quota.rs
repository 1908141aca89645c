//! A caller's quota as it is written down: a rate and a burst.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

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
    pub(super) fn period(&self) -> u64 {
        (self.per.secs() * 1_000_000_000).div_ceil(u64::from(self.count.max(1)))
    }

    /// Nanoseconds that an empty bucket takes to fill.
    pub(super) fn capacity(&self) -> u64 {
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

#[cfg(test)]
mod tests {
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
}

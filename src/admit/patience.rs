//! How long a refused caller is told to wait, and when that has been said often enough.
//!
//! A constant would bring a herd back in step, and a caller that ignores it would cost as much for ever. So the
//! time is jittered upwards, never down, and grows while the caller comes before it is due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Timestamp;

/// The longest that a caller is told to wait on account of its hammering.
const LONGEST: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);
/// The least that a herd is spread over. `Retry-After` is in whole seconds: one second of jitter would be rounded up to
/// the same figure for everybody.
const SPREAD: Duration = Duration::from_secs(3);
/// A caller that has hammered for so long loses its connection too, on HTTP/1.
const IGNORES: Duration = Duration::from_secs(15);

/// Since when a caller comes before it is due.
#[derive(Debug, Default)]
pub(super) struct Patience {
    since: AtomicU64,
    /// When what it was told last is over.
    due: AtomicU64,
}

/// What a refused caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) after: Duration,
    /// It has been told often enough.
    pub(super) close: bool,
}

impl Patience {
    /// A refusal at `now` of a request that could be let in after `wait`, with `jitter` from nothing to all.
    pub(super) fn refused(&self, wait: Duration, now: Timestamp, jitter: u16) -> Told {
        let due = Timestamp::from_nanos(self.due.load(Ordering::Relaxed));
        if now >= due {
            self.since.store(now.as_nanos(), Ordering::Relaxed);
        }
        let hammered = now.since(Timestamp::from_nanos(self.since.load(Ordering::Relaxed)));
        let wait = nanos(wait);
        let least = wait
            .max(nanos(hammered) / 2)
            .min(wait.max(nanos(LONGEST)))
            .max(nanos(SECOND));
        let spread = (least / 2).clamp(nanos(SPREAD), nanos(LONGEST));
        let jitter = spread * u64::from(jitter) / u64::from(u16::MAX);
        let after = Duration::from_nanos(least.saturating_add(jitter));
        let least = Duration::from_nanos(least);
        // One that comes back within a second of its time has waited.
        self.due.store((now + least).as_nanos(), Ordering::Relaxed);
        Told {
            after,
            close: hammered >= IGNORES,
        }
    }
}

/// In 64 bits, which last for centuries: this runs on every refusal.
const fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// `Retry-After`: whole seconds, rounded up, at least 1 (RFC 9110, section 10.2.3).
pub(super) fn whole_seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    #[test]
    fn trap_16_retry_after_is_rounded_up_and_never_zero() {
        assert_eq!(whole_seconds(Duration::ZERO), 1);
        assert_eq!(whole_seconds(Duration::from_nanos(1)), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1_001)), 2);
        assert_eq!(whole_seconds(Duration::from_secs(7)), 7);
    }

    #[test]
    fn trap_16_a_herd_is_spread_and_nobody_comes_early() {
        let wait = Duration::from_millis(2_500);
        let told = |jitter| Patience::default().refused(wait, NOW, jitter).after;
        assert_eq!(told(0), wait);
        assert_eq!(told(u16::MAX), wait + SPREAD);
        let long = Duration::from_secs(20);
        let told = |jitter| Patience::default().refused(long, NOW, jitter).after;
        assert_eq!((told(0), told(u16::MAX)), (long, long + long / 2));
    }

    #[test]
    fn trap_16_the_time_grows_while_the_caller_hammers_and_shrinks_when_it_waits() {
        let patience = Patience::default();
        let mut now = NOW;
        let mut told = Vec::new();
        for _ in 0..1_000 {
            told.push(patience.refused(Duration::ZERO, now, 0));
            now = now + Duration::from_millis(100);
        }
        assert!(told.windows(2).all(|pair| pair[0].after <= pair[1].after));
        assert_eq!(told[0].after, Duration::from_secs(1));
        assert_eq!(told[100].after, Duration::from_secs(5));
        assert_eq!(told[999].after, LONGEST);
        assert_eq!((told[149].close, told[150].close), (false, true));
        let waited = patience.refused(Duration::ZERO, now + LONGEST, 0);
        assert_eq!(
            waited,
            Told {
                after: Duration::from_secs(1),
                close: false
            }
        );
    }
}

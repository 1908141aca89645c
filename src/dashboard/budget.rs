//! How often something may be done: so many times in a row, and then once in a while (GCRA).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;

/// Nanoseconds between two words about the same.
const SAID: u64 = 60_000_000_000;

#[derive(Default)]
pub(super) struct Budget {
    /// When all of it is there again, in nanoseconds.
    full: AtomicU64,
    said: AtomicU64,
}

impl Budget {
    /// Whether it may be done now: `burst` times in a row, then once in `every` nanoseconds.
    pub(super) fn take(&self, burst: u64, every: u64, now: Timestamp) -> bool {
        let now = now.as_nanos();
        let next = |before: u64| {
            let next = before.max(now) + every;
            (next <= now + burst * every).then_some(next)
        };
        let taken = self
            .full
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        taken.is_ok()
    }

    /// Whether to say that there is no more of it: once a minute.
    pub(super) fn say(&self, now: Timestamp) -> bool {
        let now = now.as_nanos();
        let due = |said: u64| (said == 0 || now >= said + SAID).then_some(now);
        let said = self
            .said
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, due);
        said.is_ok()
    }
}

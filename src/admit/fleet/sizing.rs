//! How large a lease to ask for: what is likely to be used until the next tick, and not much more, because what is
//! not used lapses.

use std::time::Duration;

use super::slots::MOST;
use crate::admit::quota::Quota;

/// After so many ticks without a request nothing is renewed any more.
const IDLE: u32 = 4;
/// The shortest time for which an empty bucket is not asked again.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);

/// What one quota asks for.
#[derive(Clone, Debug)]
pub(super) struct Sizing {
    size: u32,
    most: u32,
    idle: u32,
    dry: bool,
}

/// What a quota did since the last tick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tick {
    /// Tokens that were used.
    pub(super) used: u64,
    /// Tokens in hand that will still be good at the next tick.
    pub(super) left: u32,
    /// The bucket was empty a moment ago.
    pub(super) denied: bool,
}

impl Sizing {
    /// A lease is at most a quarter of the burst, so that one replica never holds what the others need.
    pub(super) fn new(quota: &Quota) -> Self {
        Self {
            size: 1,
            most: (quota.max_burst() / 4).clamp(1, MOST),
            idle: 0,
            dry: false,
        }
    }

    /// How many to ask for beyond what is waited for: nothing is in hand.
    pub(super) fn ran_dry(&mut self) -> u32 {
        if std::mem::replace(&mut self.dry, true) {
            self.size = self.size.saturating_mul(2).min(self.most);
        }
        self.idle = 0;
        self.size
    }

    /// How many to ask for ahead of time; `None` if nothing.
    pub(super) fn tick(&mut self, tick: Tick) -> Option<u32> {
        let dry = std::mem::take(&mut self.dry);
        if tick.used == 0 && !dry {
            self.idle = self.idle.saturating_add(1);
            self.size = (self.size / 2).max(1);
            return None;
        }
        self.idle = 0;
        let used = u32::try_from(tick.used).unwrap_or(u32::MAX);
        if used >= self.size {
            self.size = self.size.saturating_mul(2).min(self.most);
        } else if used < self.size / 2 {
            self.size = (self.size / 2).max(1);
        }
        let want = self.size.saturating_sub(tick.left);
        (!tick.denied && want > 0 && want >= self.size / 2).then_some(want)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.idle > IDLE
    }
}

/// For how long an empty bucket is not asked again: at most `tick`, and not until it is full again.
pub(super) fn pause(quota: &Quota, tick: Duration) -> Duration {
    let fills = Duration::from_secs_f64(f64::from(quota.max_burst()) / quota.rate());
    (fills / 4).clamp(SHORTEST_PAUSE, tick)
}

//! What the detector remembers of one caller: at most 512 bytes, whatever the caller does.

use super::errors::Errors;
use super::hold::Hold;
use super::memory::Numbers;
use super::observe::{Observed, RouteId, Row};
use super::rate::Rate;
use super::service::Pace;
use super::shares::Shares;

/// A name counts as new for its first requests.
const YOUNG: u32 = 20;

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) generation: u32,
    /// Requests so far, saturating; zero: the place is free.
    seen: u32,
    /// The detector's clock when this was last brought up to date.
    pub(super) at: f64,
    /// For so many seconds what waited for a service that hung may still come at once.
    pub(super) held_back: u8,
    /// Seconds for which it may have waited.
    pub(super) waited: u16,
    /// Signals with an open episode.
    pub(super) alarms: u8,
    pub(super) rate: Rate,
    pub(super) errors: Errors,
    pub(super) hold: Hold,
    pub(super) shares: Shares,
    pub(super) pace: Pace,
}

impl State {
    /// What outlives a restart.
    pub(super) fn keep(&self, all: &mut Numbers, place: &dyn Fn(RouteId) -> Option<u32>) {
        all.put_u32(self.seen);
        self.rate.keep(all);
        self.errors.keep(all);
        self.hold.keep(all);
        self.shares.keep(all, place);
    }

    pub(super) fn recall(all: &mut Numbers, routes: &[RouteId]) -> Option<Self> {
        Some(Self {
            seen: all.get_u32()?,
            rate: Rate::recall(all)?,
            errors: Errors::recall(all)?,
            hold: Hold::recall(all)?,
            shares: Shares::recall(all, routes)?,
            ..Self::default()
        })
    }

    pub(super) fn is_free(&self) -> bool {
        self.seen == 0
    }

    /// Counts requests and returns how many of them were among the first of a new name.
    pub(super) fn count_young(&mut self, seen: &Observed<'_>) -> u32 {
        let before = self.seen;
        self.seen = self.seen.saturating_add(seen.started).max(1);
        match seen.row {
            Row::Caller => YOUNG.saturating_sub(before).min(seen.started),
            Row::Other => seen.started,
            Row::Unknown => 0,
        }
    }

    pub(super) fn alarmed(&self) -> bool {
        self.alarms != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_costs_at_most_512_bytes() {
        assert!(size_of::<State>() <= 512, "{}", size_of::<State>());
    }
}

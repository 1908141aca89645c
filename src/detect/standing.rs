//! What the detector knows of a caller now, for whoever acts on a runaway.

use super::WARM;
use super::detector::Detector;
use super::event::{Harm, Signal};
use super::observe::CallerId;

/// Callers who send less than this many requests per second have no part in a fair share.
const IDLE: f32 = 0.05;

/// From this factor on, what rises is everybody.
const CROWD: f32 = 1.3;

/// How a caller stands, by what it offers and not by what is let in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Its usual requests per second.
    pub baseline: f32,
    /// Its usual requests in flight.
    pub in_flight: f32,
    /// The usual requests per second of the service, shared by all who are active.
    pub fair_share: f32,
    /// Whether ten minutes of its past are known.
    pub known: bool,
    /// Whether the service is near its ceiling, or the others suffer.
    pub hurt: bool,
    /// Whether everybody sends more than usual, or the service fails several.
    pub shared: bool,
}

impl Standing {
    /// Whether a runaway of such a caller may be held back: an alert is cheap, a limit needs more.
    #[must_use]
    pub fn may_be_held(&self) -> bool {
        self.known && self.hurt && !self.shared
    }
}

impl Detector {
    /// How a caller stands; `None` where it is not known.
    #[must_use]
    pub fn standing(&self, id: CallerId) -> Option<Standing> {
        let state = self.state(id)?;
        let active = self
            .callers
            .iter()
            .filter(|s| !s.is_free() && s.rate.mean() >= IDLE);
        let windows = WARM / f64::from(super::WINDOW);
        Some(Standing {
            baseline: state.rate.mean(),
            in_flight: state.hold.mean(),
            fair_share: self.world.total / active.count().max(1) as f32,
            known: self.clock >= WARM && f64::from(state.rate.age()) >= windows,
            shared: self.world.common >= CROWD
                || self.degraded.id.is_some()
                || self.crowd.id.is_some(),
            hurt: self.load.is_near_ceiling() || self.harm(Some(state)) == Harm::Harmed,
        })
    }

    /// How many times as much as usual the caller of an open episode sends, or holds in flight, over the last half
    /// minute.
    #[must_use]
    pub fn factor(&self, id: u64) -> Option<f64> {
        let episode = self.episodes.iter().find(|e| e.said.id == id)?;
        let state = self.state(episode.id)?;
        let lately = match episode.signal {
            Signal::Rate => state.rate.lately(),
            Signal::InFlight => state.hold.lately(),
            Signal::Errors | Signal::Names => return None,
        };
        let baseline = episode.said.baseline;
        (baseline > 0.0).then(|| f64::from(lately) / baseline)
    }

    /// Takes what a caller does now for its new past: its episode ends with the next second.
    pub fn accept(&mut self, id: CallerId, signal: Signal) {
        let mut of_caller = self.episodes.iter_mut();
        if let Some(episode) = of_caller.find(|e| e.id == id && e.signal == signal) {
            episode.expire();
        }
    }
}

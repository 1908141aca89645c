//! Renames, moves, mergers and divisions: who wins what others lose is not a runaway but their heir.

use super::detector::Detector;
use super::episode::Alarm;
use super::rate::Rate;

/// Who has won at most this much more than others have lost is their heir.
const PART: f32 = 0.6;
/// A rise younger than so many seconds is taken at its height, an older one at its rate.
const YOUNG: f32 = 10.0;
/// What has lasted for so many seconds is inherited.
const LASTS: f32 = 30.0;
/// Evidence in nats that a caller has fallen silent and does not just pause.
const SILENT: f32 = 8.0;
/// Windows before which nobody has anything to leave.
const AGE: u16 = 6;
/// Whoever loses less has lost nothing.
const LEAST: f32 = 0.5;

impl Rate {
    /// Requests per second that the caller has lost, given by how much everybody's have changed.
    fn lost(&self, common: f32) -> f32 {
        let usual = self.mean() * common;
        if self.age() < AGE || usual < LEAST {
            return 0.0;
        }
        let soon = self.fano() <= 6.0 && self.now() < 0.5 * usual;
        // Bursty callers pause, but not for ever.
        let missed = (usual - self.lately()) * 32.0 / self.fano();
        let surely = missed >= SILENT && self.lately().max(self.now()) < 0.5 * usual;
        if soon || surely {
            usual - self.now()
        } else {
            0.0
        }
    }
}

impl Detector {
    /// Whether others lost what this caller has won. What is so for long enough is inherited: their past is its past.
    pub(super) fn took_over(&self, slot: usize, rise: &Alarm) -> bool {
        // An idle caller's average is brought up to date once a second; that is soon enough.
        let lost: f32 = self
            .callers
            .iter()
            .enumerate()
            .filter(|(i, c)| *i != slot && !c.is_free())
            .map(|(_, c)| c.rate.lost(self.world.common * self.ebb))
            .sum();
        let mut observed = rise.observed;
        if let Some(heir) = self.callers.get(slot).filter(|_| rise.age >= YOUNG) {
            observed = observed.min(heir.rate.now());
        }
        lost >= PART * (observed - rise.baseline)
    }

    /// Lets a caller inherit the past of those whose traffic it has taken over.
    pub(super) fn inherit(&mut self, slot: usize) {
        let common = self.world.common * self.ebb;
        let Some(heir) = self.callers.get(slot) else {
            return;
        };
        if heir.rate.excursion() < LASTS || self.world.grace > 1.0 {
            return;
        }
        let won = heir.rate.lately().max(heir.rate.now()) - heir.rate.mean() * common;
        let mut past = Rate::default();
        let lost = |rate: &Rate| rate.lost(common);
        let all: f32 = self
            .callers
            .iter()
            .enumerate()
            .filter(|(i, c)| *i != slot && !c.is_free())
            .map(|(_, c)| lost(&c.rate))
            .sum();
        if won <= 0.0 || all < PART * won {
            return;
        }
        let part = (won / all).min(1.0);
        for (i, state) in self.callers.iter_mut().enumerate() {
            if i != slot && !state.is_free() && lost(&state.rate) > 0.0 {
                state.rate.leave(&mut past, part);
            }
        }
        if let Some(heir) = self.callers.get_mut(slot) {
            heir.rate.inherit(&past);
        }
    }
}

//! What is left of sums that fade. Most callers had a tick when the last one was: what takes exponentials is worked
//! out once for all of them.

use super::errors::{MEMORY, RECENT};
use super::math::{blend, decay};
use super::service::PACE;
use super::{hold, rate};

/// What is left after some seconds, by time constant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fade {
    /// Seconds.
    pub(super) dt: f32,
    pub(super) recent: f32,
    pub(super) pace: f32,
    pub(super) memory: f32,
    pub(super) rate: [f32; rate::SCALES.len()],
    pub(super) hold: [f32; hold::SCALES.len()],
}

impl From<f32> for Fade {
    fn from(dt: f32) -> Self {
        Self {
            dt,
            recent: decay(dt, RECENT),
            pace: decay(dt, PACE),
            memory: decay(dt, MEMORY),
            rate: rate::SCALES.map(|tau| decay(dt, tau)),
            hold: hold::SCALES.map(|tau| decay(dt, tau)),
        }
    }
}

impl Default for Fade {
    fn default() -> Self {
        Self::from(0.0)
    }
}

/// Those that were asked for last: within a second callers were quiet for one, two, three or four ticks.
#[derive(Debug, Default)]
pub(super) struct Fades {
    known: [Fade; 4],
    next: usize,
}

impl Fades {
    /// That of `dt` seconds.
    #[inline]
    pub(super) fn after(&mut self, dt: f32) -> Fade {
        let same = |fade: &&Fade| fade.dt.to_bits() == dt.to_bits();
        self.known.iter().find(same).copied().unwrap_or_else(|| {
            let fade = Fade::from(dt);
            self.next = (self.next + 1) % self.known.len();
            self.known[self.next] = fade;
            fade
        })
    }
}

impl Fade {
    /// See [`super::math::smooth`]; `keep` is what is left of it.
    #[inline]
    pub(super) fn smooth(&self, rate: &mut f32, count: f32, keep: f32, tau: f32) {
        blend(rate, count, self.dt, keep, tau);
    }
}

#[cfg(test)]
mod tests {
    use super::super::math::smooth;
    use super::*;

    #[test]
    fn it_smooths_as_if_it_were_worked_out_anew() {
        let mut fades = Fades::default();
        for dt in [0.25_f32, 0.25, 1.0, 0.25, 0.0, 90.0, 90.0, 0.5, 3.0, 0.25] {
            let fade = fades.after(dt);
            let one = [
                (fade.recent, RECENT),
                (fade.pace, PACE),
                (fade.memory, MEMORY),
            ];
            let rates = fade.rate.into_iter().zip(rate::SCALES);
            let holds = fade.hold.into_iter().zip(hold::SCALES);
            for (keep, tau) in one.into_iter().chain(rates).chain(holds) {
                let (mut one, mut other) = (3.0, 3.0);
                smooth(&mut one, 2.0, dt, tau);
                fade.smooth(&mut other, 2.0, keep, tau);
                assert_eq!(one, other, "{dt} {tau}");
            }
        }
    }
}

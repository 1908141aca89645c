//! Error classes against the caller's past and against what the other callers see on the same routes.
//!
//! One cumulative sum per class on the request clock, for a change of the class's share from `p0` to
//! `q = max(min(0.6, 8 p0), (1 + 2 p0) / 3)`: an error is worth `ln(q / p0)`, any other answer `ln((1 - q) / (1 - p0))`.
//! `p0` is the largest of the caller's own past share, 1.3 times the share that the *other* callers see on
//! the same route (the control group: an error that everybody gets is nobody's), and 3 %.

use super::World;
use super::episode::Alarm;
use super::event::Signal;
use super::fade::Fade;
use super::math::{Height, ratio};
use super::memory::Numbers;
use crate::outcome::{Class, Fault};

/// Error classes; [`Class::Ok`] is not among them.
const ERRORS: usize = Class::COUNT - 1;
/// Time constant of what is recent, in seconds.
pub(super) const RECENT: f32 = 4.0;
/// Time constant of what is usual, in seconds.
pub(super) const MEMORY: f32 = 1800.0;
/// Errors come in clusters (one batch of bad input); evidence is divided by this.
const CLUSTER: f32 = 1.5;
const LEAST_SHARE: f32 = 0.03;
const THRESHOLD: f32 = 17.0;
/// No burst of errors lasts for so many seconds.
const LASTS: f32 = 40.0;
/// Fewer errors per second are as good as none.
const LEAST: f32 = 0.01;
/// Own requests that make a past.
const ENOUGH: f32 = 30.0;

#[derive(Clone, Debug, Default)]
pub(super) struct Errors {
    evidence: [f32; ERRORS],
    /// Completed requests per second by class, over the last seconds.
    recent: [f32; Class::COUNT],
    /// The same over the last half hour, to be divided by `learned`.
    usual: [f32; Class::COUNT],
    learned: f32,
    /// Whole seconds since a class's evidence left zero.
    age: [u8; ERRORS],
    /// The highest rate in this excursion, and in excursions that ended by themselves; see [`Height`].
    burst: [Height; ERRORS],
    peak: [Height; ERRORS],
}

impl Errors {
    pub(super) fn recent(&self, class: Class) -> f32 {
        self.recent[class.index()]
    }

    pub(super) fn recent_all(&self) -> f32 {
        self.recent.iter().sum()
    }

    /// Requests of the past half hour.
    pub(super) fn known(&self) -> f32 {
        self.usual.iter().sum::<f32>() * MEMORY
    }

    /// Requests per second of a class in the past.
    pub(super) fn usual(&self, class: Class) -> f32 {
        ratio(self.usual[class.index()], self.learned)
    }

    /// How much of the past is known, 0 to 1; the divisor of every sum with the time constant [`MEMORY`].
    pub(super) fn learned(&self) -> f32 {
        self.learned
    }

    /// Errors per second in the past that speak against the caller.
    pub(super) fn usual_faults(&self) -> f32 {
        Class::ALL
            .into_iter()
            .filter(|c| c.fault() == Fault::Caller)
            .map(|c| self.usual(c))
            .sum()
    }

    /// The share of a class in the past.
    pub(super) fn share(&self, class: Class) -> f32 {
        let all: f32 = self.usual.iter().sum();
        let share = ratio(self.usual[class.index()], all);
        // Without a past nothing is unusual but nearly everything failing.
        if all * MEMORY < ENOUGH {
            share.max(0.5)
        } else {
            share
        }
    }

    /// Takes completed requests by class in `dt` seconds.
    pub(super) fn count(
        &mut self,
        by_class: &[f32; Class::COUNT],
        fade: impl Into<Fade>,
        learn: bool,
    ) {
        let fade = fade.into();
        for (recent, &n) in self.recent.iter_mut().zip(by_class) {
            fade.smooth(recent, n, fade.recent, RECENT);
        }
        if learn {
            let keep = fade.memory;
            for (usual, &n) in self.usual.iter_mut().zip(by_class) {
                *usual = *usual * keep + n / MEMORY;
            }
            self.learned = self.learned * keep + (1.0 - keep);
        }
    }

    /// Whether there is evidence about any class.
    pub(super) fn suspects_any(&self) -> bool {
        !none(&self.evidence)
    }

    /// Whether there is evidence about a class: else good answers change nothing.
    pub(super) fn suspects(&self, class: Class) -> bool {
        class
            .index()
            .checked_sub(1)
            .is_some_and(|i| self.evidence[i] > 0.0)
    }

    /// Weighs the answers of one route: `n` requests, `errors` of them of `class`, while other callers see
    /// the share `others` there.
    pub(super) fn weigh(&mut self, class: Class, n: f32, errors: f32, others: f32) {
        let Some(i) = class.index().checked_sub(1) else {
            return;
        };
        let p0 = self.share(class).max(1.3 * others).clamp(LEAST_SHARE, 0.7);
        let q = (8.0 * p0).min(0.6).max((1.0 + 2.0 * p0) / 3.0);
        let gain = errors * (q / p0).ln() + (n - errors) * ((1.0 - q) / (1.0 - p0)).ln();
        self.evidence[i] = (self.evidence[i] + gain / CLUSTER).clamp(0.0, 3.0 * THRESHOLD);
    }

    /// A burst of errors that ended by itself is remembered; one that was an alarm is not.
    pub(super) fn settle(&mut self, alarmed: bool) {
        if alarmed {
            self.burst = [Height::default(); ERRORS];
            return;
        }
        let [_, recent @ ..] = &self.recent;
        if none(recent) && none(&self.evidence) && self.burst == [Height::default(); ERRORS] {
            return; // most callers, in every tick
        }
        for i in 0..ERRORS {
            let now = self.recent[i + 1];
            if self.evidence[i] > 0.0 {
                self.burst[i].raise(now, self.peak[i]);
            } else {
                self.peak[i].raise(now, self.burst[i]);
                self.peak[i] = self.peak[i].max(std::mem::take(&mut self.burst[i]));
            }
        }
    }

    /// What outlives a restart.
    pub(super) fn keep(&self, all: &mut Numbers) {
        all.put_all(&self.usual);
        all.put(self.learned);
        all.put_all(&self.peak.map(Height::rate));
    }

    pub(super) fn recall(all: &mut Numbers) -> Option<Self> {
        Some(Self {
            usual: all.get_all()?.map(|n: f32| n.max(0.0)),
            learned: all.get()?.max(0.0),
            peak: all.get_all()?.map(Height::at_least),
            ..Self::default()
        })
    }

    /// Lowers the remembered bursts by a step.
    pub(super) fn forget(&mut self) {
        self.peak.iter_mut().for_each(Height::lower);
    }

    /// Counts the age of excursions, once a second.
    pub(super) fn grow_older(&mut self) {
        for (age, &evidence) in self.age.iter_mut().zip(&self.evidence) {
            *age = if evidence > 0.0 {
                age.saturating_add(1)
            } else {
                0
            };
        }
    }

    /// Takes evidence back, where it turns out that others suffer from the same.
    pub(super) fn acquit(&mut self, class: Class) {
        if let Some(i) = class.index().checked_sub(1) {
            self.evidence[i] = 0.0;
            self.age[i] = 0;
        }
    }

    /// The class in excess, if there is evidence enough.
    pub(super) fn excess(&self, world: &World, prior: f32) -> Option<Alarm> {
        if !self.suspects_any() && prior < THRESHOLD {
            return None; // nearly always
        }
        let (i, evidence) = self
            .evidence
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(b.1))?;
        if evidence + prior < THRESHOLD {
            return None;
        }
        let class = Class::ALL[i + 1];
        let all = self.recent_all();
        let baseline = self.share(class);
        let observed = ratio(self.recent(class), all);
        let least = (0.012 * world.total).max(0.3 * world.errors);
        let age = f32::from(self.age[i]);
        // Failures of the service need a control group, and time for it to show, which is as long as answers
        // take (Little's law); one batch of bad input is soon over.
        let ripe = if class.fault() == Fault::Service {
            6.0
        } else {
            ratio(world.concurrency, world.total).clamp(1.0, 6.0)
        };
        let peak = self.peak[i].rate();
        // Where bursts of several errors are known, the next may well be larger by a few.
        let margin = if peak >= 4.0 / RECENT {
            4.0 / RECENT
        } else {
            0.0
        };
        // A burst of good requests with their usual errors is as high, and soon over.
        let lasts = age >= LASTS && *evidence >= 2.0 * THRESHOLD;
        let unheard_of = lasts || self.recent(class) > 1.5 * peak + margin;
        if age < ripe
            || !unheard_of
            || self.recent(class) - baseline * all < least
            || observed < 2.0 * baseline
        {
            return None;
        }
        Some(Alarm {
            signal: Signal::Errors,
            class: Some(class),
            baseline,
            observed,
            age,
        })
    }

    pub(super) fn reset(&mut self) {
        self.evidence = [0.0; ERRORS];
        self.age = [0; ERRORS];
        self.burst = [Height::default(); ERRORS];
    }

    /// The change has become the rule.
    pub(super) fn accept(&mut self) {
        for (usual, recent) in self.usual.iter_mut().zip(self.recent) {
            *usual = recent * self.learned;
        }
        self.reset();
    }
}

/// Whether `bad` of `all` answers per second are back where they are usual, or as good as none.
pub(super) fn is_over(bad: f32, all: f32, baseline: f32) -> bool {
    bad <= ((2.0 * baseline).max(0.1) * all).max(LEAST)
}

/// Whether all are zero, without a branch for each.
fn none(all: &[f32; ERRORS]) -> bool {
    all.iter().fold(0, |bits, n| bits | n.to_bits()) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        World {
            total: 50.0,
            errors: 0.5,
            ..World::default()
        }
    }

    /// Takes `n` answers in a quarter of a second, `bad` of them of `class`.
    fn answer(errors: &mut Errors, class: Class, n: f32, bad: f32, others: f32) {
        let mut by_class = [0.0; Class::COUNT];
        by_class[0] = n - bad;
        by_class[class.index()] = bad;
        errors.count(&by_class, 0.25, true);
        errors.weigh(class, n, bad, others);
        errors.settle(false);
    }

    fn usual() -> Errors {
        let mut errors = Errors::default();
        for tick in 0..4800 {
            answer(
                &mut errors,
                Class::NotFound,
                1.0,
                f32::from(u8::from(tick % 100 == 0)),
                0.0,
            );
        }
        errors
    }

    fn delay(class: Class, others: f32) -> Option<f32> {
        delay_in(&world(), class, others)
    }

    fn delay_in(world: &World, class: Class, others: f32) -> Option<f32> {
        let mut errors = usual();
        (0..400_u16).find_map(|tick| {
            answer(
                &mut errors,
                class,
                1.0,
                f32::from(u8::from(tick % 5 > 0)),
                others,
            );
            if tick % 4 == 3 {
                errors.grow_older();
            }
            errors.excess(world, 0.0).map(|_| f32::from(tick) / 4.0)
        })
    }

    #[test]
    fn a_dozen_errors_are_enough() {
        assert!(delay(Class::Auth, 0.0).unwrap() < 5.0);
    }

    #[test]
    fn what_is_no_higher_than_former_bursts_is_said_when_it_lasts() {
        let mut errors = usual();
        errors.peak = [Height::of(4.0); ERRORS];
        let found = (0..400_u16).find(|&tick| {
            answer(&mut errors, Class::Auth, 1.0, 1.0, 0.0);
            if tick % 4 == 3 {
                errors.grow_older();
            }
            errors.excess(&world(), 0.0).is_some()
        });
        assert_eq!(found.map(|tick| (tick + 1) / 4), Some(40));
    }

    #[test]
    fn what_others_get_too_is_nobodys() {
        assert_eq!(delay(Class::Auth, 0.8), None);
    }

    #[test]
    fn where_answers_take_long_the_control_group_takes_as_long_to_show() {
        let slow = World {
            concurrency: 5.5 * world().total,
            ..world()
        };
        let hangs = World {
            concurrency: 60.0 * world().total,
            ..world()
        };
        let [usual, slow, hangs] =
            [&world(), &slow, &hangs].map(|world| delay_in(world, Class::Auth, 0.0).unwrap());
        assert!(usual < 4.5, "{usual}");
        assert!((5.5..6.5).contains(&slow), "{slow}");
        assert_eq!(
            hangs, slow,
            "nobody waits for longer, however long answers take"
        );
    }

    #[test]
    fn errors_that_come_all_at_once_wait_for_those_of_others_too() {
        let mut errors = usual();
        let said = (0..40_u16).find(|tick| {
            answer(&mut errors, Class::Auth, 20.0, 20.0, 0.0);
            if tick % 4 == 3 {
                errors.grow_older();
            }
            errors.excess(&world(), 0.0).is_some()
        });
        assert_eq!(said, Some(3));
    }

    #[test]
    fn failures_of_the_service_wait_for_the_control_group() {
        assert!(delay(Class::ServerError, 0.0).unwrap() >= 5.0);
    }
}

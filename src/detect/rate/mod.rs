//! Requests per second against the largest rate that would be harmless.
//!
//! Three cumulative sums (Page 1954) per caller, for a rise to k = 2, 5 and 15 times the reference. In an
//! interval with `n` requests
//!
//! ```text
//! S_k <- max(0, S_k + (n ln k - (k - 1) R0 dt) / phi)
//! ```
//!
//! which is the log-likelihood ratio of two Poisson processes, divided by the Fano factor `phi` (variance to
//! mean of the counts), because callers send in bursts: what looks like 17 nats of evidence under Poisson is a
//! usual afternoon for a caller with `phi` = 10. For known rates no test of the same false-alarm rate is
//! faster in the worst case (Lorden 1971, Moustakides 1986); the bank of three costs little for not knowing k.
//!
//! The reference `R0` is not the caller's mean but the largest rate that nobody would call a runaway: half as
//! much again as usual, or as usual and 8 % of all traffic on top; more for a caller who is too new to have
//! a past, and in proportion when everybody rises.
//!
//! Past bursts are remembered by height at four time scales. They do not raise the reference, which would let a
//! runaway as high as a former two-second burst hide for ever, but an alarm must exceed them at *some* scale:
//! a runaway as high as a cron job is found when it lasts longer than the cron job does.

use std::sync::LazyLock;

use super::episode::Alarm;
use super::event::Signal;
use super::fade::Fade;
use super::math::{Height, decay, ratio};
use super::memory::Numbers;
use super::{WINDOW, World};

/// The rises that the three sums look for.
const FACTORS: [f32; 3] = [2.0, 5.0, 15.0];
/// Time constants of the remembered bursts, in seconds.
pub(super) const SCALES: [f32; 4] = [2.0, 8.0, 32.0, 96.0];
/// An alarm must exceed the remembered bursts by this factor: the next one may be a little higher.
const OVER_PEAK: f32 = 1.5;
/// Time constant of the mean, in seconds.
const MEMORY: f32 = 1800.0;
/// A window counts for at most this many times the mean.
const WINSOR: f32 = 3.0;
/// This part of all traffic on top of the usual is harmless;
const ALLOWANCE: f32 = 0.08;
/// so much more for a caller without a past.
const NEWCOMER: f32 = 0.17;
/// Windows after which nothing of that is left.
const OLD: u16 = 200;
/// Where all callers rise, one may rise by this much more than the median.
const UNLIKE: f32 = 1.5;
/// Windows for which a caller is new.
const NEW: u16 = 60;
/// Windows before which its mean says nothing.
const UNKNOWN: u16 = 6;
const FANO_PRIOR: f32 = 3.0;
const FANO_PRIOR_WEIGHT: f32 = 40.0;
const FANO_MOST: f32 = 25.0;
/// Of the evidence for the Fano factor, what is left after a window (a time constant of an hour).
const FANO_KEEP: f32 = 0.9972;

/// Evidence in nats at which a rise is an alarm: one false alarm per caller and month, and some.
pub(super) const THRESHOLD: f32 = 17.0;
/// At least so many requests above expectation,
const LEAST_EXCESS: f32 = 20.0;
/// and up to so many times as many more where bursts have hardly been seen yet.
const UNSEEN_EXCESS: f32 = 5.0;
/// At least the traffic of the whole service in so many seconds.
const LEAST_SECONDS: f32 = 0.4;
/// So many seconds more for a caller whose bursts have hardly been seen yet.
const UNSEEN_SECONDS: f32 = 1.5;
/// Requests by which bursts are known half as well as ever.
const SEEN: f32 = 200.0;
/// At least this part of all traffic.
const LEAST_SHARE: f32 = 0.15;
/// and so much more where the evidence took a minute or more.
const SLOW_SHARE: f32 = 0.07;
/// and so much more where the caller has merely doubled: large callers swing.
const MILD_SHARE: f32 = 0.1;
/// What is not higher than remembered bursts but only longer must exceed them by this factor,
const LONGER: f32 = 2.5;
/// and be this part of all traffic.
const LONGER_SHARE: f32 = 0.3;

/// One caller's requests per second: its past, and the evidence that it departs from it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate {
    mean: f32,
    window: f32,
    previous: f32,
    fano: [f32; 2],
    fano_pending: [f32; 2],
    evidence: [f32; 3],
    count: [f32; 3],
    elapsed: [f32; 3],
    level: [f32; 4],
    burst: [Height; 4],
    peak: [Height; 4],
    age: u16,
}

impl Rate {
    /// Requests per second in the past.
    pub(super) fn mean(&self) -> f32 {
        self.mean
    }

    /// Requests per second over the last seconds.
    pub(super) fn now(&self) -> f32 {
        self.level[1]
    }

    /// Requests per second over the last half minute.
    pub(super) fn lately(&self) -> f32 {
        self.level[2]
    }

    /// Whether the caller still sends more than usual, be it harmless.
    pub(super) fn is_raised(&self) -> bool {
        self.lately() > 1.3 * self.mean
    }

    /// Whether the caller sends clearly more than usual.
    pub(super) fn brings_more(&self) -> bool {
        self.level[0].max(self.level[1]) > 2.0 * self.mean
    }

    /// How many times as much as usual the caller sends, where that is more than a harmless part of all
    /// traffic; else 1.
    pub(super) fn growth(&self, world: &World) -> f32 {
        if self.now() - self.mean > ALLOWANCE * world.total {
            ratio(self.now(), self.mean).max(1.0)
        } else {
            1.0
        }
    }

    /// Windows that the mean has seen.
    pub(super) fn age(&self) -> u16 {
        self.age
    }

    /// How bursty the caller is: variance to mean of its counts.
    pub(super) fn fano(&self) -> f32 {
        let [sum, weight] = self.fano;
        ratio(
            sum + FANO_PRIOR * FANO_PRIOR_WEIGHT,
            weight + FANO_PRIOR_WEIGHT,
        )
        .clamp(1.0, FANO_MOST)
    }

    /// The largest harmless rate.
    pub(super) fn reference(&self, world: &World) -> f32 {
        let usual = unlike(world) * self.mean;
        let allowance = allowance(self.age);
        let mut reference = (1.5 * usual).max(usual + allowance * world.total);
        if self.is_newcomer(world) {
            let others = (world.total - self.mean).max(0.0);
            reference = reference.min(unlike(world) * (ALLOWANCE + NEWCOMER) * others);
        }
        reference.max(0.02) * world.grace
    }

    /// A newcomer's mean follows it wherever it goes, so it is not asked for a while.
    fn is_newcomer(&self, world: &World) -> bool {
        self.age < NEW && world.age >= self.age.saturating_add(NEW)
    }

    /// What the caller would send if nothing were wrong.
    fn expected(&self, world: &World) -> f32 {
        let usual = world.common * self.mean;
        if self.age < UNKNOWN && self.is_newcomer(world) {
            usual.min(0.5 * self.reference(world))
        } else {
            usual
        }
    }

    /// Takes `n` requests in `dt` seconds. During an alarm nothing is learned.
    pub(super) fn observe(&mut self, n: f32, fade: impl Into<Fade>, world: &World) {
        let fade = fade.into();
        let dt = fade.dt;
        let reference = self.reference(world);
        let fano = self.fano();
        for (i, k) in FACTORS.into_iter().enumerate() {
            let gain = (n * k.ln() - (k - 1.0) * reference * dt) / fano;
            let sum = self.evidence[i] + gain;
            if sum > 0.0 {
                self.evidence[i] = sum.min(4.0 * THRESHOLD);
                self.count[i] += n;
                self.elapsed[i] += dt;
            } else {
                self.evidence[i] = 0.0;
                self.count[i] = 0.0;
                self.elapsed[i] = 0.0;
            }
        }
        self.window += n;
        for ((level, keep), tau) in self.level.iter_mut().zip(fade.rate).zip(SCALES) {
            fade.smooth(level, n, keep, tau);
        }
        // Only what is higher than what is remembered can matter.
        for ((burst, level), peak) in self.burst.iter_mut().zip(self.level).zip(self.peak) {
            burst.raise(level, peak);
        }
        // The sums of a bursty caller drain slowly; what is back to normal is over all the same.
        if self.level[0].max(self.level[1]) < 0.5 * reference && n <= 0.5 * reference * dt {
            self.clear();
        }
    }

    /// A burst that ended by itself is remembered. One that came with another alarm, or while references are raised
    /// so that nothing would have been said of it, is no proof of harmlessness.
    pub(super) fn settle(&mut self, alarmed: bool, proves_nothing: bool) {
        if alarmed || !self.calm() {
            return;
        }
        if proves_nothing {
            self.burst = [Height::default(); 4];
            return;
        }
        let scales = self.peak.iter_mut().zip(&mut self.burst).zip(self.level);
        for ((peak, burst), level) in scales {
            // A plateau on the way up has not ended.
            if *burst > Height::default() && level <= 0.5 * (self.mean + burst.rate()) {
                *peak = std::mem::take(burst).max(*peak);
            }
        }
    }

    fn remember(&mut self) {
        for (peak, burst) in self.peak.iter_mut().zip(&mut self.burst) {
            *peak = std::mem::take(burst).max(*peak);
        }
    }

    fn clear(&mut self) {
        self.evidence = [0.0; 3];
        self.count = [0.0; 3];
        self.elapsed = [0.0; 3];
    }

    fn calm(&self) -> bool {
        self.evidence.iter().all(|&s| s <= 0.0)
    }

    /// Closes a window of [`WINDOW`] seconds.
    pub(super) fn roll(&mut self, alarmed: bool) {
        let n = std::mem::take(&mut self.window);
        if alarmed {
            self.fano_pending = [0.0; 2];
            return;
        }
        if self.age > 0 {
            // Successive differences: a drift of the mean does not look like burstiness.
            let difference = n - self.previous;
            self.fano_pending[0] += difference * difference;
            self.fano_pending[1] += n + self.previous;
        }
        self.previous = n;
        if self.calm() {
            for (sum, pending) in self.fano.iter_mut().zip(&mut self.fano_pending) {
                *sum = *sum * FANO_KEEP + std::mem::take(pending);
            }
        }
        let mut rate = n / WINDOW;
        if self.age >= 6 {
            let noise = 3.0 * (self.fano() * self.mean / WINDOW).sqrt();
            rate = rate.min((WINSOR * self.mean).max(self.mean + noise + 0.1));
        }
        self.age = self.age.saturating_add(1);
        let weight = (WINDOW / MEMORY).max(1.0 / f32::from(self.age));
        self.mean += weight * (rate - self.mean);
    }

    /// What outlives a restart.
    pub(super) fn keep(&self, all: &mut Numbers) {
        all.put_all(&[self.mean, self.previous]);
        all.put_all(&self.fano);
        all.put_all(&self.fano_pending);
        all.put_all(&self.peak.map(Height::rate));
        all.put(f32::from(self.age));
    }

    pub(super) fn recall(all: &mut Numbers) -> Option<Self> {
        Some(Self {
            mean: all.get()?.max(0.0),
            previous: all.get()?.max(0.0),
            fano: all.get_all()?.map(|n: f32| n.max(0.0)),
            fano_pending: all.get_all()?.map(|n: f32| n.max(0.0)),
            peak: all.get_all()?.map(Height::at_least),
            age: all.get()? as u16,
            ..Self::default()
        })
    }

    /// Lowers the remembered bursts by a step.
    pub(super) fn forget(&mut self) {
        self.peak.iter_mut().for_each(Height::lower);
    }

    /// The rise, if there is evidence enough. `prior` is evidence in nats from elsewhere; so many requests that
    /// `waited` are none.
    pub(super) fn rise(&self, world: &World, prior: f32, waited: f32) -> Option<Alarm> {
        if self.evidence.iter().all(|sum| sum + prior < THRESHOLD) {
            return None; // nearly always
        }
        let expected = self.expected(world);
        let unseen = SEEN / (SEEN + self.fano[1]);
        let seconds = LEAST_SECONDS + UNSEEN_SECONDS * unseen;
        let least = (LEAST_EXCESS * (1.0 + UNSEEN_EXCESS * unseen))
            .max(seconds * world.total)
            .max(waited);
        (0..FACTORS.len())
            .filter(|&i| self.evidence[i] + prior >= THRESHOLD)
            .filter(|&i| self.count[i] - expected * self.elapsed[i] >= least)
            .filter_map(|i| {
                Some(Alarm {
                    signal: Signal::Rate,
                    class: None,
                    baseline: self.mean.min(expected),
                    observed: self.unheard_of(world, expected, self.elapsed[i])?,
                    age: self.elapsed[i],
                })
            })
            .min_by(|a, b| a.age.total_cmp(&b.age))
    }

    /// The highest level that is a relevant part of all traffic and more than the remembered bursts on its
    /// time scale. The scale must fit the age of the evidence: a spike at the end of a long busy period is
    /// not what the evidence is about.
    fn unheard_of(&self, world: &World, expected: f32, age: f32) -> Option<f32> {
        // What took long to become evident has done little, and must be more before it is said.
        let least = LEAST_SHARE + SLOW_SHARE * ((age - 20.0) / 70.0).clamp(0.0, 1.0);
        let over =
            |i: usize, factor: f32| self.level[i] > factor * unlike(world) * self.peak[i].rate();
        (0..SCALES.len())
            .filter(|&i| SCALES[i] >= age.min(64.0) / 4.0)
            .filter(|&i| {
                // As high as ever and only longer: durations are heavy-tailed, so this must be plainer and
                // matter more.
                let higher = (1..=i).all(|shorter| over(shorter, OVER_PEAK));
                let (factor, share) = if higher {
                    (OVER_PEAK, least)
                } else {
                    (LONGER, LONGER_SHARE)
                };
                let mild = (4.0 - ratio(self.level[i], expected.max(0.01))).clamp(0.0, 1.5) / 1.5;
                let share = share + MILD_SHARE * mild;
                over(i, factor) && self.level[i] - expected >= share * world.total
            })
            .map(|i| self.level[i])
            .max_by(f32::total_cmp)
    }

    /// Whether the rate is back where it is harmless. What raises references for a while, such as a service that this
    /// very caller slows down, raises none here.
    pub(super) fn is_over(&self, world: &World) -> bool {
        self.now() < 1.3 * self.reference(world) / world.grace
    }

    /// The same at the moment.
    pub(super) fn is_calm(&self, world: &World) -> bool {
        self.level[0] < 1.3 * self.reference(world) / world.grace
    }

    /// Ends an episode; `remember` its height where it turned out to be harmless.
    pub(super) fn end(&mut self, remember: bool) {
        self.clear();
        if remember {
            self.remember();
        }
        self.burst = [Height::default(); 4];
    }

    /// Seconds for which there has been evidence.
    pub(super) fn excursion(&self) -> f32 {
        self.elapsed.iter().copied().fold(0.0, f32::max)
    }

    /// Gives a part of what the caller has lost, and the habits that go with it, to an heir.
    pub(super) fn leave(&mut self, past: &mut Self, part: f32) {
        past.age = past.age.max(self.age);
        for i in 0..2 {
            past.fano[i] += part * self.fano[i];
        }
        // Bursts of several seldom coincide.
        for (sum, peak) in past.peak.iter_mut().zip(self.peak) {
            let over = part * (peak.rate() - self.mean).max(0.0);
            *sum = Height::of(sum.rate().hypot(over));
        }
        let moved = part * (self.mean - self.lately()).max(0.0);
        self.mean -= moved;
        past.mean += moved;
    }

    /// Takes what others have left.
    pub(super) fn inherit(&mut self, past: &Self) {
        self.mean += past.mean;
        self.age = self.age.max(past.age);
        for i in 0..2 {
            self.fano[i] += past.fano[i];
        }
        for (own, peak) in self.peak.iter_mut().zip(past.peak) {
            *own = Height::of(self.mean + peak.rate()).max(*own);
        }
        self.end(false);
    }

    /// The change has become the rule: what is now, is normal.
    pub(super) fn accept(&mut self) {
        self.mean = self.lately();
        self.peak = self.level.map(Height::of);
        self.end(false);
    }
}

/// The part of all traffic that may come on top of the usual. A caller without a past may bring a quarter; that
/// shrinks with the windows of its past.
fn allowance(age: u16) -> f32 {
    static NEWCOMERS: LazyLock<Vec<f32>> = LazyLock::new(|| {
        let ages = (0..OLD).map(|age| f32::from(age) * WINDOW);
        ages.map(|age| NEWCOMER * decay(age, 90.0)).collect()
    });
    ALLOWANCE + NEWCOMERS.get(usize::from(age)).copied().unwrap_or_default()
}

/// By how much a caller may rise where everybody does: not everybody rises alike, and the median comes late.
fn unlike(world: &World) -> f32 {
    1.0 + UNLIKE * (world.common - 1.0)
}

#[cfg(test)]
mod tests;

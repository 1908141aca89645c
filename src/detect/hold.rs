//! Requests in flight: few requests, each very slow.
//!
//! A cumulative sum over the seconds of request time, against what the caller's *present* number of
//! requests would hold at its usual duration: a caller that sends more is a matter of its rate, a caller
//! whose requests take longer, or who has moved to an expensive route, is a matter of this. Where the others'
//! requests take longer too, the reference grows as much: that is the service's fault.
//!
//! Evidence per tick is bounded: one very slow request, however slow, is not a runaway.
//!
//! A caller with few requests brings little evidence per second, however slow they are. So a second sum runs on
//! the request clock: the share of requests that take ten times as long as usual on their route, against the
//! share that the others and the caller's own past know.

use super::episode::Alarm;
use super::event::Signal;
use super::fade::Fade;
use super::math::{Height, ratio, smooth};
use super::memory::Numbers;
use super::{WINDOW, World};

/// The rise that the sum looks for.
const FACTOR: f32 = 3.0;
const THRESHOLD: f32 = 15.0;
/// Of a caller whose requests have become slow, this share is, at least.
const SLOW_SHARE: f32 = 0.4;
/// However rare slow requests have been, they may be this frequent.
const LEAST_SLOW: f32 = 3e-4;
/// Seconds before anybody is named: where the service itself becomes slow, the others' answers show it by then.
const RIPE: f32 = 5.0;
/// The same where a log tells of a slow request for the first time.
const FIRST_TOLD: f32 = 1.0;
/// That nobody else's requests are slow, in nats.
const LONE: f32 = 2.5;
/// The most that one tick is worth, in nats.
const MOST_PER_TICK: f32 = 6.0;
/// At least so many times what the whole service usually holds in flight must have been held in excess for a second.
const LEAST_SECONDS: f32 = 6.0;
/// At least this part of what the whole service usually holds in flight.
const LEAST_SHARE: f32 = 0.3;
pub(super) const SCALES: [f32; 2] = [8.0, 32.0];
const MEMORY: f32 = 1800.0;

#[derive(Clone, Debug, Default)]
pub(super) struct Hold {
    mean: f32,
    window: f32,
    previous: f32,
    spread: [f32; 2],
    spread_pending: [f32; 2],
    evidence: f32,
    /// Evidence on the request clock.
    slow: f32,
    /// Slow requests of the past half hour, and of this excursion.
    slow_past: f32,
    slow_now: u16,
    held: f32,
    elapsed: f32,
    level: [f32; 2],
    burst: [Height; 2],
    peak: [Height; 2],
    /// The request time of the longest requests in this excursion, as the grain of the evidence.
    coarse: f32,
    /// How many requests the excursion is about: the most in flight at once, or, in a log, the ticks in
    /// which slow ones ended.
    many: u16,
}

impl Hold {
    /// Requests in flight in the past, on average.
    pub(super) fn mean(&self) -> f32 {
        self.mean
    }

    /// Requests in flight over the last seconds.
    pub(super) fn now(&self) -> f32 {
        self.level[0]
    }

    pub(super) fn lately(&self) -> f32 {
        self.level[1]
    }

    /// Variance to mean of the seconds of request time: how long a request is, the long ones weighing more.
    fn grain(&self) -> f32 {
        ratio(self.spread[0] + 0.5 * 0.5, self.spread[1] + 0.5).clamp(0.02, 60.0)
    }

    fn reference(&self, world: &World, growth: f32) -> f32 {
        let usual = self.mean * growth.max(world.common).max(1.0) * world.slowdown;
        ((1.5 * usual).max(usual + 0.25 * world.concurrency) * world.grace).max(0.01)
    }

    /// Takes `busy` seconds of request time in `dt` seconds; `growth` is how many times as many requests as
    /// usual the caller sends.
    pub(super) fn observe(
        &mut self,
        busy: f32,
        in_flight: u32,
        fade: impl Into<Fade>,
        world: &World,
        growth: f32,
    ) {
        let fade = fade.into();
        let dt = fade.dt;
        let reference = self.reference(world, growth);
        let raw = busy * FACTOR.ln() - (FACTOR - 1.0) * reference * dt;
        // Where one tick would be worth more than it may, the excursion has coarser grain than the past.
        let grain = self.grain().max(self.coarse).max(raw / MOST_PER_TICK);
        let gain = raw / grain;
        self.evidence = (self.evidence + gain).clamp(0.0, 4.0 * THRESHOLD);
        self.coarse = if self.evidence > 0.0 { grain } else { 0.0 };
        if self.calm() {
            self.held = 0.0;
            self.elapsed = 0.0;
            self.many = 0;
        } else {
            self.held += busy;
            self.elapsed += dt;
            if in_flight > 0 {
                self.many = self.many.max(u16::try_from(in_flight).unwrap_or(u16::MAX));
            } else if gain > 1.0 {
                self.many = self.many.saturating_add(1);
            }
        }
        self.window += busy;
        // What is told of a log came in the tick alone, however long it was quiet before.
        let quiet = if busy > 0.0 { dt - world.tick } else { 0.0 };
        for (i, tau) in SCALES.into_iter().enumerate() {
            let level = &mut self.level[i];
            if quiet > 0.0 {
                smooth(level, 0.0, quiet, tau);
                smooth(level, busy, world.tick, tau);
            } else {
                fade.smooth(level, busy, fade.hold[i], tau);
            }
            self.burst[i].raise(*level, self.peak[i]);
        }
    }

    /// Takes `n` completed requests, `slow` of them much slower than usual on their route; of the requests of
    /// others, and of `own` in the past, the shares `others` were.
    pub(super) fn weigh(&mut self, n: f32, slow: f32, own: f32, others: f32) {
        let past = ratio(self.slow_past + 0.1, own + 100.0);
        let p0 = past.max(2.0 * others).clamp(LEAST_SLOW, 0.3);
        let q = SLOW_SHARE.max(1.3 * p0);
        let gain = slow * (q / p0).ln() + (n - slow).max(0.0) * ((1.0 - q) / (1.0 - p0)).ln();
        self.slow = (self.slow + gain).clamp(0.0, 2.0 * THRESHOLD);
        self.slow_now = self.slow_now.saturating_add(slow as u16);
    }

    /// Whether there is evidence on the request clock: else fast requests change nothing.
    pub(super) fn suspects(&self) -> bool {
        self.slow > 0.0
    }

    /// Slow requests of this excursion.
    pub(super) fn slow_lately(&self) -> f32 {
        f32::from(self.slow_now)
    }

    /// Slow requests of the past half hour.
    pub(super) fn slow_requests(&self) -> f32 {
        self.slow_past + f32::from(self.slow_now)
    }

    fn calm(&self) -> bool {
        self.evidence <= 0.0 && self.slow <= 0.0
    }

    pub(super) fn settle(&mut self, alarmed: bool) {
        if alarmed {
            self.burst = [Height::default(); 2];
            self.slow_now = 0;
        } else if self.calm() {
            self.slow_past += f32::from(std::mem::take(&mut self.slow_now));
            for (peak, burst) in self.peak.iter_mut().zip(&mut self.burst) {
                *peak = std::mem::take(burst).max(*peak);
            }
        }
    }

    /// Closes a window; `age` is how many the caller has seen before.
    pub(super) fn roll(&mut self, alarmed: bool, age: u16) {
        let busy = std::mem::take(&mut self.window);
        self.slow_past *= 1.0 - WINDOW / MEMORY;
        if alarmed {
            self.spread_pending = [0.0; 2];
            return;
        }
        if age > 0 {
            let difference = busy - self.previous;
            self.spread_pending[0] += difference * difference;
            self.spread_pending[1] += busy + self.previous;
        }
        self.previous = busy;
        if self.calm() {
            for (sum, pending) in self.spread.iter_mut().zip(&mut self.spread_pending) {
                *sum = *sum * 0.9972 + std::mem::take(pending);
            }
        }
        let mut level = busy / WINDOW;
        if age >= 6 {
            let noise = 3.0 * (self.grain() * self.mean / WINDOW).sqrt();
            level = level.min((3.0 * self.mean).max(self.mean + noise));
        }
        let weight = (WINDOW / MEMORY).max(1.0 / (f32::from(age) + 1.0));
        self.mean += weight * (level - self.mean);
    }

    /// What outlives a restart.
    pub(super) fn keep(&self, all: &mut Numbers) {
        all.put_all(&[self.mean, self.previous, self.slow_past]);
        all.put_all(&self.spread);
        all.put_all(&self.spread_pending);
        all.put_all(&self.peak.map(Height::rate));
    }

    pub(super) fn recall(all: &mut Numbers) -> Option<Self> {
        Some(Self {
            mean: all.get()?.max(0.0),
            previous: all.get()?.max(0.0),
            slow_past: all.get()?.max(0.0),
            spread: all.get_all()?.map(|n: f32| n.max(0.0)),
            spread_pending: all.get_all()?.map(|n: f32| n.max(0.0)),
            peak: all.get_all()?.map(Height::at_least),
            ..Self::default()
        })
    }

    /// Lowers the remembered bursts by a step.
    pub(super) fn forget(&mut self) {
        self.peak.iter_mut().for_each(Height::lower);
    }

    /// The holding, if there is evidence enough. `prior` is evidence in nats from elsewhere; `lone`, that in a log
    /// nobody else's requests have been slow.
    pub(super) fn holding(
        &self,
        world: &World,
        growth: f32,
        prior: f32,
        lone: bool,
    ) -> Option<Alarm> {
        let many = if prior > 0.0 || lone { 2 } else { 3 };
        // What ends in a log began before it was known.
        let age = self.elapsed + self.coarse * MOST_PER_TICK / FACTOR.ln();
        let slow = self.slow + if lone { LONE } else { 0.0 };
        let ripe = self.elapsed >= RIPE;
        // Where a route hangs for all, somebody's request is the first to be told of.
        let first = self.elapsed >= FIRST_TOLD && age >= RIPE;
        let enough = |evidence: f32| evidence + prior >= THRESHOLD;
        if !(enough(self.evidence.max(self.slow)) && ripe || lone && enough(slow) && first)
            || self.many < many
            || world.alone
        {
            return None;
        }
        let usual = self.mean * growth.max(world.common).max(1.0) * world.slowdown;
        let excess = self.held - usual * self.elapsed;
        let enough = (LEAST_SECONDS * world.concurrency).max(3.0);
        // In a log the first slow request says what it held before it was known.
        let rate = excess / self.elapsed.max(8.0);
        let others_usual = (world.concurrency - self.mean).max(0.0);
        let over_peak = self
            .level
            .iter()
            .zip(self.peak)
            .any(|(&level, peak)| level > 1.5 * peak.rate());
        if excess < enough
            || rate < LEAST_SHARE * world.concurrency.max(world.others_hold)
            // Where the others together hold half as much more than usual, it is not this one's doing.
            || rate < 2.0 * (world.others_hold - others_usual)
            || !over_peak
        {
            return None;
        }
        Some(Alarm {
            signal: Signal::InFlight,
            class: None,
            baseline: self.mean,
            observed: self.level[0].max(self.level[1]),
            age,
        })
    }

    pub(super) fn is_over(&self, world: &World, growth: f32) -> bool {
        self.lately() < 1.3 * self.reference(world, growth)
    }

    /// The same at the moment.
    pub(super) fn is_calm(&self, world: &World, growth: f32) -> bool {
        self.now() < 1.3 * self.reference(world, growth)
    }

    pub(super) fn reset(&mut self) {
        self.evidence = 0.0;
        self.slow = 0.0;
        self.slow_now = 0;
        self.held = 0.0;
        self.elapsed = 0.0;
        self.many = 0;
        self.coarse = 0.0;
        self.burst = [Height::default(); 2];
    }

    pub(super) fn accept(&mut self) {
        self.mean = self.lately();
        self.peak = self.level.map(Height::of);
        self.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        World {
            total: 50.0,
            concurrency: 2.0,
            ..World::default()
        }
    }

    /// A caller whose requests take 50 ms, for an hour.
    fn usual() -> Hold {
        let mut hold = Hold::default();
        for window in 0..360 {
            for _ in 0..40 {
                hold.observe(0.025, 0, 0.25, &world(), 1.0);
                hold.settle(false);
            }
            hold.roll(false, window);
        }
        hold
    }

    #[test]
    fn one_very_slow_request_is_not_a_runaway_and_several_are() {
        let mut hold = usual();
        assert!((hold.mean() - 0.1).abs() < 0.01);
        hold.observe(600.0, 0, 0.25, &world(), 1.0);
        assert!(hold.holding(&world(), 1.0, 0.0, false).is_none());
        let mut hold = usual();
        for _ in 0..5 {
            hold.observe(20.0, 0, 0.25, &world(), 1.0);
            hold.observe(0.05, 0, 2.0, &world(), 1.0);
        }
        let found = hold.holding(&world(), 1.0, 0.0, false).unwrap();
        assert!(found.observed > 2.0 && found.baseline < 0.2);
    }

    /// A slow request every `gap` seconds and two fast ones between; the seconds until it is said.
    fn delay(gap: u16, prior: f32, others: f32, lone: bool) -> Option<f32> {
        let mut hold = usual();
        (0..3000_u16).find_map(|tick| {
            let slow = tick % (4 * gap) == 0;
            let fast = tick % (2 * gap) == 1;
            let n = f32::from(u8::from(slow || fast));
            hold.observe(if slow { 20.0 } else { 0.05 * n }, 0, 0.25, &world(), 1.0);
            if n > 0.0 {
                hold.weigh(n, f32::from(u8::from(slow)), 500.0, others);
            }
            hold.settle(false);
            hold.holding(&world(), 1.0, prior, lone)
                .map(|_| f32::from(tick) / 4.0)
        })
    }

    #[test]
    fn a_light_caller_needs_three_slow_requests_or_two_after_its_deploy() {
        assert_eq!(delay(25, 0.0, 0.0, false), Some(50.0));
        assert_eq!(delay(25, 6.0, 0.0, false), Some(25.0));
        assert_eq!(delay(25, 0.0, 0.2, false), None);
    }

    #[test]
    fn in_a_log_two_are_enough_where_nobody_else_has_any() {
        assert_eq!(delay(2, 0.0, 0.0, true), Some(2.0));
        assert_eq!(delay(2, 0.0, 0.2, true), delay(2, 0.0, 0.2, false));
    }

    #[test]
    fn the_first_slow_requests_of_a_log_wait_a_second_for_those_of_others() {
        let mut hold = usual();
        let said = (0..20_u16).find(|&tick| {
            let slow = f32::from(u8::from(tick < 2));
            hold.observe(20.0 * slow, 0, 0.25, &world(), 1.0);
            hold.weigh(slow, slow, 500.0, 0.0);
            hold.settle(false);
            hold.holding(&world(), 1.0, 0.0, true).is_some()
        });
        assert_eq!(said, Some(3));
    }

    #[test]
    fn nobody_is_named_before_a_slow_service_would_show() {
        let said = delay(1, 0.0, 0.0, false).unwrap();
        assert!((4.5..8.0).contains(&said), "{said}");
    }

    /// Whether five requests that are held are this caller's doing, while others hold some too.
    fn its_own(others_hold: f32, alone: bool) -> bool {
        let mut hold = Hold {
            mean: 1.0,
            ..usual()
        };
        let world = World {
            others_hold,
            alone,
            ..world()
        };
        (0..40).any(|_| {
            hold.observe(5.0 * 0.25, 5, 0.25, &world, 1.0);
            hold.holding(&world, 1.0, 0.0, false).is_some()
        })
    }

    #[test]
    fn where_others_hold_more_too_or_there_are_none_it_is_nobodys() {
        assert!(its_own(1.0, false));
        assert!(!its_own(1.0 + 2.1, false));
        assert!(!its_own(0.0, true));
    }

    #[test]
    fn what_is_in_flight_counts_before_it_ends() {
        let mut hold = usual();
        let mut seconds = 0.0;
        while hold.holding(&world(), 1.0, 0.0, false).is_none() {
            hold.observe(5.0 * 0.25, 5, 0.25, &world(), 1.0);
            seconds += 0.25;
            assert!(seconds < 10.0);
        }
    }

    #[test]
    fn more_requests_of_the_usual_duration_are_not_held_against_the_caller() {
        let mut hold = usual();
        for _ in 0..400 {
            hold.observe(0.25, 0, 0.25, &world(), 10.0);
        }
        assert!(hold.holding(&world(), 10.0, 0.0, false).is_none());
    }
}

//! Time series of a caller, of bounded memory, fed once a second from the counters.

use std::collections::VecDeque;
use std::time::Duration;

use super::totals::Totals;
use crate::clock::Timestamp;
use crate::outcome::Class;

/// Seconds of the series with a point per second.
pub(crate) const FINE: usize = 120;
/// Points of the series with a point per ten seconds: an hour.
pub(crate) const COARSE: usize = 360;

/// Requests of the last 10 seconds, minute and ten minutes, and a weight to compare callers by. Small enough for
/// every tracked caller.
#[derive(Debug)]
pub(crate) struct Pace {
    seen: u64,
    born: u64,
    /// The second that is not over yet.
    second: u64,
    seconds: [u32; 10],
    tens: [u32; 6],
    minutes: [u32; 10],
    weight: f64,
}

/// By what factor a weight falls in a second: to a half in five minutes.
const FADE: f64 = 0.997_692;

impl Pace {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            seen: 0,
            born: now.as_secs(),
            second: now.as_secs(),
            seconds: [0; 10],
            tens: [0; 6],
            minutes: [0; 10],
            weight: 0.0,
        }
    }

    /// Counts what has come up to `now`, of which there are `total` since the beginning.
    pub(crate) fn roll(&mut self, now: Timestamp, total: u64) {
        let new = total.saturating_sub(self.seen);
        self.seen = total;
        let second = now.as_secs();
        if second > self.second {
            // A step of more than ten minutes leaves nothing of the past; do not walk through it.
            for passed in (self.second + 1).max(second.saturating_sub(600))..=second {
                clear(&mut self.seconds, passed);
                if passed % 10 == 0 {
                    clear(&mut self.tens, passed / 10);
                }
                if passed % 60 == 0 {
                    clear(&mut self.minutes, passed / 60);
                }
            }
            self.weight *= FADE.powf((second - self.second) as f64);
            self.second = second;
        }
        self.weight += new as f64;
        let new = u32::try_from(new).unwrap_or(u32::MAX);
        let second = self.second;
        count(&mut self.seconds, second, new);
        count(&mut self.tens, second / 10, new);
        count(&mut self.minutes, second / 60, new);
    }

    /// Requests per second over the last 10 seconds, minute and ten minutes; for a younger caller over its life.
    /// The windows end with the second that is not over yet.
    pub(crate) fn rates(&self) -> [f64; 3] {
        let age = (self.second - self.born + 1) as f64;
        let rate = |counts: &[u32], covered: u64| {
            let sum: u64 = counts.iter().map(|n| u64::from(*n)).sum();
            sum as f64 / (covered as f64).min(age).max(1.0)
        };
        [
            rate(&self.seconds, 10),
            rate(&self.tens, 50 + self.second % 10 + 1),
            rate(&self.minutes, 540 + self.second % 60 + 1),
        ]
    }

    /// A count of requests that fades to a half in five minutes, with what has come since the last roll.
    pub(crate) fn weight(&self, total: u64) -> f64 {
        self.weight + total.saturating_sub(self.seen) as f64
    }

    /// Seconds since the Unix epoch up to which this is counted.
    pub(crate) fn rolled_to(&self) -> u64 {
        self.second
    }
}

fn clear<const N: usize>(ring: &mut [u32; N], at: u64) {
    count_with(ring, at, |slot| *slot = 0);
}

fn count<const N: usize>(ring: &mut [u32; N], at: u64, by: u32) {
    count_with(ring, at, |slot| *slot = slot.saturating_add(by));
}

fn count_with<const N: usize>(ring: &mut [u32; N], at: u64, f: impl FnOnce(&mut u32)) {
    if let Some(slot) = ring.get_mut((at % N as u64) as usize) {
        f(slot);
    }
}

/// What happened in one step of a time series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Seconds since the Unix epoch at which the step begins.
    pub(crate) at: u64,
    pub(crate) started: u32,
    pub(crate) refused: u32,
    pub(crate) in_flight: u32,
    /// Milliseconds of request time that passed in flight.
    pub(crate) busy: u32,
    pub(crate) by_class: [u32; Class::COUNT],
}

/// Two time series: a step per second for two minutes, a step per ten seconds for an hour. A second in which
/// nothing happened has a step too, once the first request has come.
#[derive(Debug, Default)]
pub(crate) struct Series {
    before: Option<(Timestamp, Totals)>,
    fine: VecDeque<Step>,
    coarse: VecDeque<Step>,
}

impl Series {
    /// Closes the step that ends now. Seconds without a roll in between are empty steps, and what came in them
    /// counts in the last one.
    pub(crate) fn roll(&mut self, now: Timestamp, totals: &Totals) {
        let second = now.as_secs();
        let Some((then, before)) = self.before.replace((now, totals.clone())) else {
            return;
        };
        let last = then.as_secs();
        if second <= last {
            self.before = Some((then, before));
            return;
        }
        let delta =
            |now: u64, then: u64| u32::try_from(now.saturating_sub(then)).unwrap_or(u32::MAX);
        let mut step = Step {
            at: second - 1,
            started: delta(totals.started, before.started),
            refused: delta(totals.refused.iter().sum(), before.refused.iter().sum()),
            in_flight: u32::try_from(totals.in_flight()).unwrap_or(u32::MAX),
            busy: millis(totals.flow(now).busy_since(&before.flow(then))),
            ..Step::default()
        };
        for (class, (now, then)) in totals.by_class.iter().zip(&before.by_class).enumerate() {
            step.by_class[class] = delta(*now, *then);
        }
        let empty_from = last.max(second.saturating_sub(FINE as u64));
        for at in empty_from..second - 1 {
            self.push(Step {
                at,
                ..Step::default()
            });
        }
        self.push(step);
    }

    fn push(&mut self, step: Step) {
        append(&mut self.fine, FINE, step);
        let at = step.at - step.at % 10;
        match self.coarse.back_mut() {
            Some(open) if open.at == at => {
                open.started = open.started.saturating_add(step.started);
                open.refused = open.refused.saturating_add(step.refused);
                open.in_flight = open.in_flight.max(step.in_flight);
                open.busy = open.busy.saturating_add(step.busy);
                for (sum, new) in open.by_class.iter_mut().zip(step.by_class) {
                    *sum = sum.saturating_add(new);
                }
            }
            _ => append(&mut self.coarse, COARSE, Step { at, ..step }),
        }
    }

    pub(crate) fn fine(&self) -> impl Iterator<Item = &Step> {
        self.fine.iter()
    }

    pub(crate) fn coarse(&self) -> impl Iterator<Item = &Step> {
        self.coarse.iter()
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn append(ring: &mut VecDeque<Step>, room: usize, step: Step) {
    if ring.len() >= room {
        ring.pop_front();
    }
    ring.push_back(step);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_caller_has_its_rate_in_every_window() {
        let mut pace = Pace::new(Timestamp::from_secs(1_000));
        for second in 0..=1_200 {
            pace.roll(Timestamp::from_secs(1_000 + second), (second + 1) * 5);
        }
        for rate in pace.rates() {
            assert!((rate - 5.0).abs() < 0.01, "{:?}", pace.rates());
        }
    }

    #[test]
    fn a_young_caller_is_measured_over_its_life() {
        let mut pace = Pace::new(Timestamp::from_secs(1_000));
        pace.roll(Timestamp::from_secs(1_001), 10);
        assert_eq!(pace.rates(), [5.0, 5.0, 5.0]);
    }

    #[test]
    fn what_is_past_a_window_is_forgotten_also_after_a_long_gap() {
        let mut pace = Pace::new(Timestamp::from_secs(1_000));
        pace.roll(Timestamp::from_secs(1_000), 600);
        pace.roll(Timestamp::from_secs(1_030), 600);
        let [ten, minute, _] = pace.rates();
        assert_eq!(ten, 0.0);
        assert!(minute > 0.0);
        pace.roll(Timestamp::from_secs(1_000_000), 600);
        assert_eq!(pace.rates(), [0.0; 3]);
        // Time that runs backwards changes nothing.
        pace.roll(Timestamp::from_secs(5), 600);
        assert_eq!(pace.rates(), [0.0; 3]);
    }

    #[test]
    fn weight_halves_in_five_minutes() {
        let mut pace = Pace::new(Timestamp::from_secs(0));
        pace.roll(Timestamp::from_secs(0), 1_000);
        pace.roll(Timestamp::from_secs(300), 1_000);
        assert!((pace.weight(1_000) - 500.0).abs() < 1.0);
        assert!((pace.weight(1_100) - 600.0).abs() < 1.0);
    }

    #[test]
    fn series_are_bounded_and_hold_every_second() {
        let mut series = Series::default();
        let mut totals = Totals::default();
        for second in 0..5_000 {
            series.roll(Timestamp::from_secs(second), &totals);
            totals.started += 2;
            totals.by_class[0] += 2;
        }
        let fine: Vec<_> = series.fine().collect();
        assert_eq!(
            (fine.len(), fine[0].started, fine[119].at),
            (FINE, 2, 4_998)
        );
        let coarse: Vec<_> = series.coarse().collect();
        assert_eq!(coarse.len(), COARSE);
        assert!(
            coarse[..COARSE - 1]
                .iter()
                .all(|step| step.started == 20 && step.at % 10 == 0)
        );
    }

    #[test]
    fn a_gap_is_empty_steps_of_bounded_number() {
        let mut series = Series::default();
        series.roll(Timestamp::from_secs(10), &Totals::default());
        let totals = Totals {
            started: 7,
            ..Totals::default()
        };
        series.roll(Timestamp::from_secs(100_000), &totals);
        let fine: Vec<_> = series.fine().collect();
        assert_eq!(fine.len(), FINE);
        assert_eq!(fine.iter().map(|step| step.started).sum::<u32>(), 7);
    }
}

//! What every route of a caller did lately, in steps of ten seconds: blame asks where a rise comes from.

use crate::detect::RouteDelta;
use crate::outcome::Class;

/// Seconds of a step.
const STEP: u64 = 10;
/// Steps that are kept: twenty minutes.
const STEPS: usize = 120;

/// What was done, in the units of blame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Done {
    /// Requests that ended.
    pub(super) requests: f64,
    /// Those of them that ended other than well.
    pub(super) errors: f64,
    /// Seconds that they took.
    pub(super) busy: f64,
}

/// The past of one route of one caller.
#[derive(Debug)]
pub(super) struct Past(Box<[Step; STEPS]>);

#[derive(Clone, Copy, Debug, Default)]
struct Step {
    /// Which step since the Unix epoch; a ring is overwritten as it turns.
    number: u32,
    requests: u32,
    errors: u32,
    millis: u32,
}

impl Default for Past {
    fn default() -> Self {
        Self(Box::new([Step::default(); STEPS]))
    }
}

impl Past {
    pub(super) fn count(&mut self, second: u64, delta: &RouteDelta) {
        let number = second / STEP;
        let at = (number % STEPS as u64) as usize;
        let number = number as u32;
        let Some(step) = self.0.get_mut(at) else {
            return;
        };
        if step.number != number {
            *step = Step {
                number,
                ..Step::default()
            };
        }
        let all = delta
            .by_class
            .iter()
            .fold(0_u32, |sum, &n| sum.saturating_add(n));
        let good = delta.by_class[Class::Ok.index()];
        step.requests = step.requests.saturating_add(all);
        step.errors = step.errors.saturating_add(all - good);
        let millis = (delta.service_time.max(0.0) * 1e3) as u32;
        step.millis = step.millis.saturating_add(millis);
    }

    /// The first second of which all is still known at `now`, if anything is.
    pub(super) fn reaches_back_to(now: u64) -> u64 {
        (now / STEP).saturating_sub(STEPS as u64 - 1) * STEP
    }

    /// What was done in the steps that begin in a span of seconds.
    pub(super) fn within(&self, from: f64, to: f64) -> Done {
        let mut done = Done::default();
        for step in self.0.iter().filter(|step| step.number > 0) {
            let begin = f64::from(step.number) * STEP as f64;
            if begin >= from && begin < to {
                done.requests += f64::from(step.requests);
                done.errors += f64::from(step.errors);
                done.busy += f64::from(step.millis) / 1e3;
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_of_a_span_is_what_its_steps_hold_and_no_more_than_twenty_minutes() {
        let mut past = Past::default();
        let mut delta = RouteDelta {
            service_time: 0.5,
            ..RouteDelta::default()
        };
        delta.by_class[Class::Ok.index()] = 2;
        delta.by_class[Class::Validation.index()] = 1;
        for second in 1_000_000..1_003_000 {
            past.count(second, &delta);
        }
        let minute = past.within(1_002_940.0, 1_003_000.0);
        assert_eq!(
            minute,
            Done {
                requests: 180.0,
                errors: 60.0,
                busy: 30.0
            }
        );
        let all = past.within(0.0, 2e9);
        assert_eq!(all.requests, 3.0 * 1_200.0);
        let from = Past::reaches_back_to(1_002_999);
        assert_eq!(past.within(from as f64, 1_003_000.0), all);
        assert_eq!(Past::reaches_back_to(9), 0);
    }
}

//! What all callers have in common: a crowd, a service that fails.

use super::detector::Detector;
use super::episode::Alarm;
use super::event::{Event, Harm, Kind};
use super::math::{median, ratio};
use super::{FIRST, WARM, errors};
use crate::outcome::Class;

/// Below this part of its usual rate a caller is silent.
const SILENT: f32 = 0.05;

/// Below this part of their usual rates it is night for all callers,
const EBB: f32 = 0.6;
/// once it has been so for so many seconds: else they wait for something.
const EBBING: f64 = 240.0;

/// A condition of the whole service, said at its onset and at its end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Condition {
    pub(super) id: Option<u64>,
    /// Since when it has been otherwise than said.
    turning: Option<f64>,
}

impl Condition {
    /// Whether the condition turns now, given how it looks, after `rise` or `fall` seconds.
    pub(super) fn turns(&mut self, looks: bool, now: f64, rise: f64, fall: f64) -> bool {
        if looks == self.id.is_some() {
            self.turning = None;
            return false;
        }
        let since = *self.turning.get_or_insert(now);
        now - since >= if looks { rise } else { fall }
    }
}

/// A crowd that comes shows in the median of callers after so many seconds,
const MEDIAN: f32 = 30.0;
/// and in the sum when that has just grown by this part of what is usual.
const GROWS: f32 = 0.15;

impl Detector {
    /// Whether a rise may be the first of a crowd that comes: the others together have just grown too. What one of them
    /// adds beyond its usual does not count, lest two runaways hide each other.
    pub(super) fn one_of_many(&self, slot: usize, rise: &Alarm) -> bool {
        if rise.age >= MEDIAN {
            return false;
        }
        let (mut more, mut usual) = (0.0, 0.0);
        for (i, state) in self.callers.iter().enumerate() {
            if i != slot && !state.is_free() && state.rate.age() >= 6 {
                let mean = state.rate.mean();
                more += (state.rate.now() - state.rate.lately()).min(mean);
                usual += mean;
            }
        }
        usual > 0.0 && more >= GROWS * usual
    }

    pub(super) fn find_what_is_common(&mut self) {
        self.scratch.clear();
        let ratios = self
            .callers
            .iter()
            .filter(|s| !s.is_free() && s.rate.age() >= 6 && s.rate.mean() >= 0.25)
            .map(|s| s.rate.now() / s.rate.mean());
        self.scratch.extend(ratios);
        let few = self.scratch.len() < 4;
        let all = median(&mut self.scratch).filter(|_| !few);
        self.world.common = all.unwrap_or(1.0).clamp(1.0, 20.0);
        // Who has fallen silent may have been renamed, and says nothing about the others.
        let active = self.scratch.len();
        self.scratch.retain(|ratio| *ratio >= SILENT);
        let few = self.scratch.len() < 4;
        let rest = median(&mut self.scratch).filter(|_| !few);
        self.active = active;
        self.ebb = 1.0;
        match rest.filter(|rest| *rest < EBB) {
            Some(rest) if self.clock - *self.ebb_since.get_or_insert(self.clock) >= EBBING => {
                self.ebb = rest;
            }
            Some(_) => {}
            None => self.ebb_since = None,
        }
    }

    pub(super) fn judge_service(&mut self, out: &mut Vec<Event>) {
        let now = self.now;
        let (mut active, mut failing, mut failures) = (0, 0, 0.0);
        for state in self.callers.iter().filter(|s| !s.is_free() && !s.alarmed()) {
            let all = state.errors.recent_all();
            if all < 0.25 {
                continue;
            }
            active += 1;
            let bad = 1.0 - ratio(state.errors.recent(Class::Ok), all);
            let usual = 1.0 - state.errors.share(Class::Ok).min(1.0);
            if bad >= usual + 0.2 {
                failing += 1;
                failures += (bad - usual) * all * errors::RECENT;
            }
        }
        let warm = self.clock >= FIRST;
        // A few unlucky answers to a few callers are not a service that fails.
        let looks = warm && failing >= 3 && failures >= 8.0 && failing * 5 >= active * 2;
        if self.degraded.turns(looks, now, 2.0, 30.0) {
            let kinds = (Kind::ServiceDegraded, Kind::ServiceRecovered);
            let observed = ratio(failing as f32, active as f32);
            turn(
                &mut self.degraded,
                &mut self.next_id,
                kinds,
                now,
                (0.0, observed),
                out,
            );
        }
        let total = self.service.recent_all();
        let looks = self.clock >= WARM
            && self.active >= 8
            && self.degraded.id.is_none()
            && self.world.common >= if self.crowd.id.is_some() { 1.3 } else { 1.6 }
            && total >= 1.3 * self.world.total;
        if self.crowd.turns(looks, now, 5.0, 30.0) {
            let kinds = (Kind::Crowd, Kind::CrowdEnded);
            turn(
                &mut self.crowd,
                &mut self.next_id,
                kinds,
                now,
                (self.world.total, total),
                out,
            );
        }
    }
}

pub(super) fn turn(
    condition: &mut Condition,
    next_id: &mut u64,
    (onset, end): (Kind, Kind),
    now: f64,
    (baseline, observed): (f32, f32),
    out: &mut Vec<Event>,
) {
    let since = condition.turning.take().unwrap_or(now);
    let (kind, id) = match condition.id.take() {
        Some(id) => (end, id),
        None => {
            *next_id += 1;
            condition.id = Some(*next_id);
            (onset, *next_id)
        }
    };
    out.push(Event {
        id,
        t: now,
        kind,
        caller: None,
        provenance: None,
        signal: None,
        route: None,
        class: None,
        factor: (baseline > 0.0).then(|| f64::from(observed / baseline)),
        baseline: f64::from(baseline),
        observed: f64::from(observed),
        share_of_rise: None,
        harm: Harm::None,
        deploy: None,
        since,
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::event::Signal;
    use super::super::observe::{CallerId, Load, Observed, RouteDelta, Row, Tick};
    use super::*;
    use crate::caller::Provenance;
    use crate::clock::Timestamp;

    /// Ten callers, each with so many requests a second, for so many seconds.
    fn run(detector: &mut Detector, from: u64, seconds: u64, rate: u32) -> Vec<Event> {
        run_of(detector, from, seconds, [rate; 2])
    }

    /// The same, with the rate of the first of them and that of the others.
    fn run_of(detector: &mut Detector, from: u64, seconds: u64, rates: [u32; 2]) -> Vec<Event> {
        let routes = rates.map(|rate| {
            let mut delta = RouteDelta {
                service_time: 0.01 * rate as f32,
                ..RouteDelta::default()
            };
            delta.by_class[Class::Ok.index()] = rate;
            [delta]
        });
        let of = |slot: u32| usize::from(slot > 0);
        let seen = |slot| Observed {
            id: CallerId {
                slot,
                generation: 0,
            },
            name: "a",
            provenance: Provenance::Verified,
            row: Row::Caller,
            started: rates[of(slot)],
            new_names: 0,
            in_flight: 0,
            busy: routes[of(slot)][0].service_time,
            routes: &routes[of(slot)],
        };
        let callers: Vec<_> = (0..10).map(seen).collect();
        let mut events = Vec::new();
        for second in from..from + seconds {
            let now = Timestamp::from_secs(1_000_000) + Duration::from_secs(second);
            let load = Load::default();
            let callers = &callers;
            detector.tick(&Tick { now, load, callers }, &mut events);
        }
        events
    }

    #[test]
    fn when_everybody_rises_it_is_a_crowd_and_nobody_is_named() {
        let mut detector = Detector::new();
        assert_eq!(run(&mut detector, 0, 900, 4), []);
        let said = run(&mut detector, 900, 60, 12);
        let kinds: Vec<_> = said.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [Kind::Crowd], "{said:?}");
        assert!(said[0].t < 1_000_920.0, "{said:?}");
        let said = run(&mut detector, 960, 120, 4);
        assert_eq!(said[0].kind, Kind::CrowdEnded);
    }

    #[test]
    fn who_rises_as_a_crowd_comes_waits_for_the_median_and_who_rises_alone_does_not() {
        let waits = |others: u32, seconds: u64, age: f32| {
            let mut detector = Detector::new();
            run(&mut detector, 0, 900, 4);
            run_of(&mut detector, 900, seconds, [16, others]);
            let rise = Alarm {
                signal: Signal::Rate,
                class: None,
                baseline: 4.0,
                observed: 16.0,
                age,
            };
            detector.one_of_many(0, &rise)
        };
        assert!(waits(8, 4, 4.0));
        assert!(!waits(4, 4, 4.0));
        // What has lasted is judged by the median, and a crowd that has come is no news.
        assert!(!waits(8, 4, MEDIAN));
        assert!(!waits(8, 120, 4.0));
    }

    #[test]
    fn who_comes_first_of_a_crowd_is_not_named() {
        let mut detector = Detector::new();
        assert_eq!(run(&mut detector, 0, 900, 40), []);
        let mut said = Vec::new();
        // Nine climb to threefold; the tenth, which has climbed with them, is there at once.
        for second in 0..90 {
            let climbs = (40 + 2 * second as u32).min(120);
            let first = if second < 14 { climbs } else { 200 };
            said.extend(run_of(&mut detector, 900 + second, 1, [first, climbs]));
        }
        let kinds: Vec<_> = said.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [Kind::Crowd], "{said:?}");
    }

    #[test]
    fn a_lull_is_a_night_when_it_has_lasted() {
        let mut detector = Detector::new();
        run(&mut detector, 0, 900, 4);
        run(&mut detector, 900, 200, 1);
        assert_eq!(detector.ebb, 1.0);
        run(&mut detector, 1_100, 100, 1);
        assert!(detector.ebb < EBB, "{}", detector.ebb);
        run(&mut detector, 1_200, 60, 4);
        assert_eq!(detector.ebb, 1.0);
    }

    #[test]
    fn a_condition_turns_when_it_has_looked_otherwise_for_long_enough() {
        let mut condition = Condition::default();
        assert!(!condition.turns(true, 0.0, 2.0, 30.0));
        assert!(!condition.turns(false, 1.0, 2.0, 30.0));
        assert!(!condition.turns(true, 2.0, 2.0, 30.0));
        assert!(condition.turns(true, 4.0, 2.0, 30.0));
        let (mut id, mut out) = (7, Vec::new());
        turn(
            &mut condition,
            &mut id,
            (Kind::Crowd, Kind::CrowdEnded),
            4.0,
            (0.0, 1.0),
            &mut out,
        );
        assert!(!condition.turns(false, 10.0, 2.0, 30.0));
        assert!(condition.turns(false, 40.0, 2.0, 30.0));
        turn(
            &mut condition,
            &mut id,
            (Kind::Crowd, Kind::CrowdEnded),
            40.0,
            (0.0, 1.0),
            &mut out,
        );
        assert_eq!(
            out.iter()
                .map(|e| (e.kind, e.id, e.since))
                .collect::<Vec<_>>(),
            [(Kind::Crowd, 8, 2.0), (Kind::CrowdEnded, 8, 10.0)]
        );
        assert_eq!(out[0].factor, None);
    }
}

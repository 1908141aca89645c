//! Open episodes: what is new about them, and when they end.

use super::detector::Detector;
use super::episode::Course;
use super::errors::{RECENT, is_over};
use super::event::{Event, Kind, Signal};
use super::math::ratio;

impl Detector {
    pub(super) fn follow_episodes(&mut self, out: &mut Vec<Event>) {
        let now = self.now;
        let mut episodes = std::mem::take(&mut self.episodes);
        episodes.retain_mut(|episode| {
            let names = episode.signal == Signal::Names;
            let state = self.state(episode.id).filter(|_| !names);
            let world = self.world;
            let (over, calm) = match (state, episode.signal) {
                (_, Signal::Names) => (self.young.is_over(&world), self.young.is_calm(&world)),
                (None, _) => (true, true),
                (Some(s), Signal::Rate) => (s.rate.is_over(&world), s.rate.is_calm(&world)),
                (Some(s), Signal::Errors) => {
                    let recent = [
                        episode.class.map_or(0.0, |c| s.errors.recent(c)),
                        s.errors.recent_all(),
                    ];
                    let [bad, all] = episode.last_second(recent, RECENT);
                    let baseline = episode.said.baseline as f32;
                    (
                        is_over(recent[0], recent[1], baseline),
                        is_over(bad, all, baseline),
                    )
                }
                (Some(s), Signal::InFlight) => {
                    (s.hold.is_over(&world, 1.0), s.hold.is_calm(&world, 1.0))
                }
            };
            let course = episode.course(now, over, calm);
            let mut event = episode.said.clone();
            event.t = now;
            event.observed = f64::from(match (state, episode.signal) {
                (_, Signal::Names) => self.new_names,
                (None, _) => 0.0,
                (Some(s), Signal::Rate) => s.rate.now(),
                (Some(s), Signal::Errors) => ratio(
                    episode.class.map_or(0.0, |c| s.errors.recent(c)),
                    s.errors.recent_all(),
                ),
                (Some(s), Signal::InFlight) => s.hold.lately(),
            });
            event.harm = self.harm(state);
            if course == Course::GoesOn {
                event.deploy = self.deploys.explaining(&episode.name, event.since);
                self.blame(episode.id, &mut event);
                out.extend(episode.update(event));
                return true;
            }
            event.kind = Kind::RunawayEnded;
            event.factor = (event.baseline > 0.0).then(|| event.observed / event.baseline);
            out.push(event);
            if names {
                self.young.end(false);
            } else if let Some(s) = self.state_mut(episode.id) {
                s.alarms &= !episode.signal.bit();
                let accepted = course == Course::Accepted;
                match episode.signal {
                    Signal::Rate if accepted || (episode.lasted(now) && s.rate.is_raised()) => {
                        s.rate.accept();
                        s.shares.accept(s.errors.learned());
                    }
                    Signal::Errors if accepted => s.errors.accept(),
                    Signal::InFlight if accepted => s.hold.accept(),
                    Signal::Rate => s
                        .rate
                        .end(episode.was_a_harmless_burst(now) && s.alarms == 0),
                    Signal::Errors => s.errors.reset(),
                    Signal::InFlight => s.hold.reset(),
                    Signal::Names => {}
                }
            }
            false
        });
        self.episodes = episodes;
    }
}

#[cfg(test)]
mod tests {
    use super::super::episode::{Alarm, Episode};
    use super::super::event::Harm;
    use super::super::observe::{CallerId, Load, Observed, RouteDelta, Row, Tick};
    use super::*;
    use crate::caller::Provenance;
    use crate::clock::Timestamp;
    use crate::outcome::Class;

    const BEFORE: CallerId = CallerId {
        slot: 0,
        generation: 0,
    };
    const NOW: CallerId = CallerId {
        slot: 0,
        generation: 1,
    };

    fn open(detector: &mut Detector, id: CallerId) {
        let alarm = Alarm {
            signal: Signal::Rate,
            class: None,
            baseline: 1.0,
            observed: 10.0,
            age: 0.0,
        };
        let said = Event {
            caller: Some("a".into()),
            ..Event::begun(u64::from(id.generation), detector.now)
        };
        let episode = Episode::open(id, "a".into(), &alarm, said, false);
        detector.episodes.push(episode);
        if let Some(state) = detector.state_mut(id) {
            state.alarms |= Signal::Rate.bit();
        }
    }

    #[test]
    fn a_runaway_is_over_when_its_place_is_given_away_whatever_the_next_one_sends() {
        let (mut detector, mut out) = (Detector::new(), Vec::new());
        let mut run = |from: u64, seconds: u64, id: CallerId, name: &str, rate: u32| {
            let mut delta = RouteDelta {
                route: 7,
                service_time: 0.01 * rate as f32,
                ..RouteDelta::default()
            };
            delta.by_class[Class::Ok.index()] = rate;
            let routes = [delta];
            let callers = [Observed {
                id,
                name,
                provenance: Provenance::Verified,
                row: Row::Caller,
                started: rate,
                new_names: 0,
                in_flight: 0,
                busy: 0.01 * rate as f32,
                routes: &routes,
            }];
            for second in from..from + seconds {
                let tick = Tick {
                    now: Timestamp::from_secs(1_000_000 + second),
                    load: Load::default(),
                    callers: &callers,
                };
                detector.tick(&tick, &mut out);
            }
            std::mem::take(&mut out)
        };
        run(0, 900, BEFORE, "a", 4);
        let said = run(900, 20, BEFORE, "a", 80);
        let kinds: Vec<_> = said.iter().map(|event| event.kind).collect();
        assert_eq!(kinds.first(), Some(&Kind::RunawayStarted), "{said:?}");
        let said = run(920, 32, NOW, "b", 80);
        let ended = said.iter().find(|event| event.kind == Kind::RunawayEnded);
        let ended = ended.unwrap_or_else(|| panic!("{said:?}"));
        assert_eq!((ended.caller.as_deref(), ended.observed), (Some("a"), 0.0));
        assert_eq!(ended.harm, Harm::None);
    }

    #[test]
    fn what_ends_for_one_who_is_gone_changes_nothing_for_the_one_in_its_place() {
        let mut delta = RouteDelta {
            route: 7,
            service_time: 0.1,
            ..RouteDelta::default()
        };
        delta.by_class[Class::Ok.index()] = 10;
        let routes = [delta];
        let callers = [Observed {
            id: NOW,
            name: "b",
            provenance: Provenance::Verified,
            row: Row::Caller,
            started: 10,
            new_names: 0,
            in_flight: 0,
            busy: 0.1,
            routes: &routes,
        }];
        let (mut detector, mut out) = (Detector::new(), Vec::new());
        for second in 0..46 {
            let tick = Tick {
                now: Timestamp::from_secs(1_000_000 + second),
                load: Load::default(),
                callers: &callers,
            };
            detector.tick(&tick, &mut out);
            if second == 10 {
                open(&mut detector, BEFORE);
                assert_eq!(detector.state(NOW).map(|state| state.alarms), Some(0));
            } else if second == 20 {
                open(&mut detector, NOW);
            }
        }
        let ended = out.iter().find(|event| event.kind == Kind::RunawayEnded);
        assert!(ended.is_some_and(|ended| ended.id == 0 && ended.route.is_none()));
        let state = detector.state(NOW);
        assert_eq!(detector.episodes.len(), 1);
        assert_eq!(state.map(|state| state.alarms), Some(Signal::Rate.bit()));
    }
}

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
            let state = self
                .callers
                .get(episode.id.slot as usize)
                .filter(|s| !names && s.generation == episode.id.generation);
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
            } else if let Some(s) = self.callers.get_mut(episode.id.slot as usize) {
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

//! One episode per caller and signal, from the alarm to its end.

use std::sync::Arc;

use super::event::{Event, Harm, Kind, Signal};
use super::math::decay;
use super::observe::CallerId;
use crate::outcome::Class;

/// Seconds of calm that end an episode.
const CALM: f64 = 30.0;
/// Blame is looked at again for so long.
const SHARPENS: f64 = 12.0;
/// Time between two updates at least.
const PAUSE: f64 = 2.5;
/// A burst of good requests that is over after so many seconds may come again.
const HARMLESS: f64 = 60.0;
/// What lasts this long is the rule,
const LONGEST: f64 = 3600.0;
/// and what has lasted this long and falls a little is too.
const LONG: f64 = 900.0;

/// The place of an episode that no one caller is behind.
pub(super) const NOBODY: CallerId = CallerId {
    slot: u32::MAX,
    generation: 0,
};

/// Evidence enough, and of what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alarm {
    pub(super) signal: Signal,
    /// The class in excess, for [`Signal::Errors`].
    pub(super) class: Option<Class>,
    pub(super) baseline: f32,
    pub(super) observed: f32,
    /// Seconds since the change began.
    pub(super) age: f32,
}

/// Open episodes beyond this many are not opened: bounded whatever happens.
pub(super) const MOST_EPISODES: usize = 256;

#[derive(Debug)]
pub(super) struct Episode {
    pub(super) id: CallerId,
    pub(super) name: Arc<str>,
    pub(super) signal: Signal,
    pub(super) class: Option<Class>,
    /// What was last said.
    pub(super) said: Event,
    opened: f64,
    worst: Harm,
    /// Opened when there was hardly any past to depart from.
    early: bool,
    calm: Option<f64>,
    /// When it was last seen to go on, on the shortest scale.
    active: f64,
    /// Per second a second ago, of the class and of all; see [`Self::last_second`].
    recent: [f32; 2],
}

/// How an episode goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    GoesOn,
    /// Back to normal for long enough.
    Over,
    /// So long that it is the rule now.
    Accepted,
}

impl Episode {
    pub(super) fn open(
        id: CallerId,
        name: Arc<str>,
        alarm: &Alarm,
        said: Event,
        early: bool,
    ) -> Self {
        Self {
            id,
            name,
            signal: alarm.signal,
            class: alarm.class,
            opened: said.t,
            active: said.t,
            worst: said.harm,
            early,
            said,
            calm: None,
            recent: [0.0; 2],
        }
    }

    /// Makes it last as long as an episode may.
    pub(super) fn expire(&mut self) {
        self.opened = f64::NEG_INFINITY;
    }

    /// Whether it has lasted long enough not to be news again after a lull.
    pub(super) fn lasted(&self, now: f64) -> bool {
        now - CALM - self.opened >= LONG
    }

    /// `is_over` where it looks so on average, `is_calm` where nothing is left of it at the moment: averages come
    /// down late, and what began as soon as half a minute later is another runaway.
    pub(super) fn course(&mut self, now: f64, is_over: bool, is_calm: bool) -> Course {
        if !is_calm {
            self.active = now;
        }
        if !is_over {
            self.calm = None;
            if now - self.opened > LONGEST {
                return Course::Accepted;
            }
            return Course::GoesOn;
        }
        let since = *self.calm.get_or_insert(self.active);
        if now - since >= CALM {
            Course::Over
        } else {
            Course::GoesOn
        }
    }

    /// What came in the last second, given averages per second with time constant `tau`.
    pub(super) fn last_second(&mut self, recent: [f32; 2], tau: f32) -> [f32; 2] {
        let before = std::mem::replace(&mut self.recent, recent);
        let keep = decay(1.0, tau);
        std::array::from_fn(|i| ((recent[i] - before[i] * keep) / (1.0 - keep)).max(0.0))
    }

    /// Short, without harm, of good requests, without a deploy: what a new cron job looks like the first time.
    /// In the first minutes everything does, and whether it harms is not known well either.
    pub(super) fn was_a_harmless_burst(&self, now: f64) -> bool {
        now - CALM - self.opened <= HARMLESS
            && (self.early || self.worst == Harm::None)
            && self.said.class == Some(Class::Ok)
            && self.said.deploy.is_none()
    }

    /// What is to be said, if anything, given how things look now.
    pub(super) fn update(&mut self, mut now: Event) -> Option<Event> {
        self.worst = self.worst.max(now.harm);
        let said = &self.said;
        let pause = now.t - said.t;
        let sharpening = now.t - self.opened <= SHARPENS;
        // Later the picture blurs: a collapse that follows has other classes.
        if !sharpening || now.route.is_none() {
            now.route = said.route.or(now.route);
        }
        if !sharpening || now.class.is_none() {
            now.class = said.class.or(now.class);
        }
        // Who is slowed down or turned away by it, and tries again, rises too.
        now.share_of_rise = match (now.share_of_rise, said.share_of_rise) {
            (Some(now), Some(said)) if sharpening => Some(now.max(said)),
            (now, said) => said.or(now),
        };
        now.deploy = now.deploy.or_else(|| said.deploy.clone());
        let sharper =
            now.route != said.route || now.class != said.class || now.deploy != said.deploy;
        let grew = now.observed > 2.0 * said.observed;
        // Harm is what wakes people: it waits for nothing.
        let hurts = now.harm > said.harm;
        if pause < PAUSE || !(sharper || hurts || (grew && pause >= 4.0 * PAUSE)) {
            return None;
        }
        now.kind = Kind::RunawayUpdated;
        self.said = now.clone();
        Some(now)
    }
}

#[cfg(test)]
impl Event {
    /// For tests: a runaway of requests that has just begun, of nobody by name.
    pub(super) fn begun(id: u64, t: f64) -> Self {
        Self {
            id,
            t,
            kind: Kind::RunawayStarted,
            caller: None,
            provenance: None,
            signal: Some(Signal::Rate),
            route: None,
            class: Some(Class::Ok),
            factor: None,
            baseline: 1.0,
            observed: 10.0,
            share_of_rise: None,
            harm: Harm::None,
            deploy: None,
            since: t,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(t: f64) -> Event {
        Event::begun(1, t)
    }

    fn episode() -> Episode {
        let id = CallerId {
            slot: 0,
            generation: 0,
        };
        let alarm = Alarm {
            signal: Signal::Rate,
            class: None,
            baseline: 1.0,
            observed: 10.0,
            age: 0.0,
        };
        Episode::open(id, "a".into(), &alarm, said(100.0), false)
    }

    #[test]
    fn an_episode_ends_after_half_a_minute_of_calm() {
        let mut episode = episode();
        assert_eq!(episode.course(101.0, true, true), Course::GoesOn);
        assert_eq!(episode.course(120.0, false, false), Course::GoesOn);
        assert_eq!(episode.course(135.0, true, true), Course::GoesOn);
        assert_eq!(episode.course(149.0, true, true), Course::GoesOn);
        // Calm is counted from where it was last seen to go on.
        assert_eq!(episode.course(150.0, true, true), Course::Over);
        assert!(episode.was_a_harmless_burst(150.0) && !episode.lasted(150.0));
        assert!(episode.lasted(100.0 + LONG + CALM));
        assert_eq!(
            episode.course(100.0 + LONGEST + 1.0, false, false),
            Course::Accepted
        );
    }

    #[test]
    fn harm_is_said_as_soon_as_anything_may_be() {
        let hurt = |t: f64| Event {
            harm: Harm::Harmed,
            ..said(t)
        };
        assert_eq!(episode().update(hurt(100.0 + PAUSE - 0.25)), None);
        let update = episode().update(hurt(100.0 + PAUSE)).unwrap();
        assert_eq!(update.harm, Harm::Harmed);
    }

    #[test]
    fn its_share_is_not_diluted_by_those_it_slows_down() {
        let share = |t: f64, share_of_rise: Option<f64>, route: u32| Event {
            share_of_rise,
            route: Some(route),
            ..said(t)
        };
        let mut episode = episode();
        let mut update = |event| episode.update(event).unwrap().share_of_rise;
        assert_eq!(update(share(103.0, Some(0.9), 1)), Some(0.9));
        assert_eq!(update(share(106.0, Some(0.7), 2)), Some(0.9));
        assert_eq!(update(share(109.0, Some(0.95), 3)), Some(0.95));
        let late = Event {
            harm: Harm::Harmed,
            ..share(140.0, Some(1.0), 3)
        };
        assert_eq!(update(late), Some(0.95));
    }

    #[test]
    fn an_update_is_said_when_the_picture_sharpens_and_not_when_it_blurs() {
        let mut episode = episode();
        assert_eq!(episode.update(said(105.0)), None);
        let update = episode
            .update(Event {
                route: Some(3),
                ..said(106.0)
            })
            .unwrap();
        assert_eq!((update.kind, update.route), (Kind::RunawayUpdated, Some(3)));
        assert_eq!(
            episode.update(Event {
                route: Some(4),
                ..said(200.0)
            }),
            None
        );
        let update = episode
            .update(Event {
                harm: Harm::Harmed,
                ..said(201.0)
            })
            .unwrap();
        assert_eq!(update.route, Some(3));
        assert!(!episode.was_a_harmless_burst(160.0));
    }
}

//! One episode per caller and signal, from the alarm to its end.

use std::sync::Arc;

use super::event::{Event, Harm, Kind, Signal};
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
/// What lasts this long is the rule.
const LONGEST: f64 = 3600.0;

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
    calm: Option<f64>,
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
    pub(super) fn open(id: CallerId, name: Arc<str>, signal: Signal, class: Option<Class>, said: Event) -> Self {
        let (opened, worst) = (said.t, said.harm);
        Self { id, name, signal, class, said, opened, worst, calm: None }
    }

    pub(super) fn course(&mut self, now: f64, is_over: bool) -> Course {
        if !is_over {
            self.calm = None;
            if now - self.opened > LONGEST {
                return Course::Accepted;
            }
            return Course::GoesOn;
        }
        let since = *self.calm.get_or_insert(now);
        if now - since >= CALM { Course::Over } else { Course::GoesOn }
    }

    /// Short, without harm, of good requests, without a deploy: what a new cron job looks like the first time.
    pub(super) fn was_a_harmless_burst(&self, now: f64) -> bool {
        now - CALM - self.opened <= HARMLESS
            && self.worst == Harm::None
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
        now.deploy = now.deploy.or_else(|| said.deploy.clone());
        let sharper = now.route != said.route || now.class != said.class || now.deploy != said.deploy;
        let grew = now.harm > said.harm || now.observed > 2.0 * said.observed;
        if pause < PAUSE || !(sharper || (grew && pause >= 4.0 * PAUSE)) {
            return None;
        }
        now.kind = Kind::RunawayUpdated;
        self.said = now.clone();
        Some(now)
    }
}

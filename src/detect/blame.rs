//! What is said about an alarm: who, where, what, since when, and what the service suffers.

use std::sync::Arc;

use super::WARM;
use super::detector::Detector;
use super::episode::{Episode, MOST_EPISODES};
use super::event::{Event, Harm, Kind, Signal};
use super::judge::{Own, class_of_rise};
use super::math::ratio;
use super::observe::{CallerId, Load};
use super::state::State;
use crate::caller::Provenance;
use crate::outcome::{Class, Fault};

impl Detector {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn open(
        &mut self,
        id: CallerId,
        name: &str,
        provenance: Option<Provenance>,
        signal: Signal,
        class: Option<Class>,
        [baseline, observed, age]: [f32; 3],
        now: f64,
        load: &Load,
        out: &mut Vec<Event>,
    ) {
        let since = now - f64::from(age);
        let harm = self.harm(
            self.callers
                .get(id.slot as usize)
                .filter(|_| signal != Signal::Names),
            load,
        );
        if self.clock < WARM && harm == Harm::None || self.episodes.len() >= MOST_EPISODES {
            return;
        }
        self.next_id += 1;
        let name: Arc<str> = name.into();
        let mut event = Event {
            id: self.next_id,
            t: now,
            kind: Kind::RunawayStarted,
            caller: Some(Arc::clone(&name)),
            provenance,
            signal: Some(signal),
            route: None,
            class,
            factor: None,
            baseline: f64::from(baseline),
            observed: f64::from(observed),
            share_of_rise: None,
            harm,
            deploy: self.deploys.explaining(&name, since),
            since,
        };
        if let Some(state) = self
            .callers
            .get_mut(id.slot as usize)
            .filter(|_| signal != Signal::Names)
        {
            state.alarms |= signal.bit();
        }
        let mut episode = Episode::open(id, name, signal, class, event.clone());
        self.blame(&episode, &mut event);
        episode.said = event.clone();
        out.push(event);
        self.episodes.push(episode);
    }

    /// Fills in who and what explains the change, as it looks now.
    pub(super) fn blame(&self, episode: &Episode, event: &mut Event) {
        let Some(state) = self.callers.get(episode.id.slot as usize) else {
            return;
        };
        event.factor = (event.baseline > 0.0).then(|| event.observed / event.baseline);
        let learned = state.errors.learned();
        match episode.signal {
            Signal::Rate => {
                event.route = state.shares.of_rate(learned, self.world.common);
                event.class = class_of_rise(state);
                let rise = self.service.recent_all() - self.world.total;
                let excess = (event.observed - event.baseline) as f32;
                event.share_of_rise =
                    Some(f64::from(ratio(excess, rise.max(excess)).clamp(0.0, 1.0)));
            }
            Signal::Errors => {
                let fault = episode.class.map_or(Fault::Caller, Class::fault);
                event.route = state.shares.of_errors(fault);
            }
            Signal::InFlight => event.route = state.shares.of_busy(),
            Signal::Names => {}
        }
    }

    pub(super) fn harm(&self, state: Option<&State>, load: &Load) -> Harm {
        let (own, pace) = state.map_or_else(Default::default, |s| (Own::of(s), s.pace));
        let faults = self.service.others_faults(own.all, own.faults) - self.service.usual_faults();
        let slowdown = self.service.slowdown(&pace);
        if faults >= 0.02 || slowdown >= 2.0 {
            Harm::Harmed
        } else if faults >= 0.01
            || slowdown >= 1.5
            || load
                .ceiling
                .is_some_and(|most| f64::from(load.in_flight) >= 0.8 * f64::from(most))
        {
            Harm::AtRisk
        } else {
            Harm::None
        }
    }
}

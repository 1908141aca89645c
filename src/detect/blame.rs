//! What is said about an alarm: who, where, what, since when, and what the service suffers.

use std::sync::Arc;

use super::WARM;
use super::detector::Detector;
use super::episode::{Alarm, Episode, MOST_EPISODES};
use super::event::{Event, Harm, Kind, Signal};
use super::judge::{Own, class_of_rise};
use super::math::ratio;
use super::observe::CallerId;
use super::state::State;
use crate::caller::Provenance;
use crate::outcome::{Class, Fault};

impl Detector {
    /// Opens an episode and says so, unless it is too early for what does no harm.
    pub(super) fn open(
        &mut self,
        id: CallerId,
        name: &str,
        provenance: Option<Provenance>,
        alarm: &Alarm,
        out: &mut Vec<Event>,
    ) {
        let harm = self.harm(self.state(id));
        // What began before there was a past is part of it, unless it does harm.
        let early = self.clock - f64::from(alarm.age) < WARM;
        if (early && harm < Harm::Harmed) || self.episodes.len() >= MOST_EPISODES {
            return;
        }
        self.next_id += 1;
        let name: Arc<str> = name.into();
        let since = self.now - f64::from(alarm.age);
        let mut event = Event {
            id: self.next_id,
            t: self.now,
            kind: Kind::RunawayStarted,
            caller: Some(Arc::clone(&name)),
            provenance,
            signal: Some(alarm.signal),
            route: None,
            class: alarm.class,
            factor: None,
            baseline: f64::from(alarm.baseline),
            observed: f64::from(alarm.observed),
            share_of_rise: None,
            harm,
            deploy: self.deploys.explaining(&name, since),
            since,
        };
        if let Some(state) = self.state_mut(id) {
            state.alarms |= alarm.signal.bit();
        }
        self.blame(id, &mut event);
        out.push(event.clone());
        self.episodes
            .push(Episode::open(id, name, alarm, event, early));
    }

    /// Fills in who and what explains the change, as it looks now.
    pub(super) fn blame(&self, id: CallerId, event: &mut Event) {
        event.factor = (event.baseline > 0.0).then(|| event.observed / event.baseline);
        let (Some(state), Some(signal)) = (self.state(id), event.signal) else {
            return;
        };
        let learned = state.errors.learned();
        match signal {
            Signal::Rate => {
                event.route = state.shares.of_rate(learned, self.world.common);
                event.class = class_of_rise(state);
                let rise = self.service.recent_all() - self.world.total;
                let excess = (event.observed - event.baseline) as f32;
                event.share_of_rise =
                    Some(f64::from(ratio(excess, rise.max(excess)).clamp(0.0, 1.0)));
            }
            Signal::Errors => {
                let fault = event.class.map_or(Fault::Caller, Class::fault);
                event.route = state.shares.of_errors(fault);
            }
            Signal::InFlight => event.route = state.shares.of_busy(),
            Signal::Names => {}
        }
    }

    pub(super) fn harm(&self, state: Option<&State>) -> Harm {
        let (own, pace) = state.map_or_else(Default::default, |s| (Own::of(s), s.pace));
        let faults = self.service.excess_faults(own.all, own.faults);
        let slowdown = self.service.slowdown(&pace);
        if faults >= 0.02 || slowdown >= 2.0 {
            Harm::Harmed
        } else if faults >= 0.01 || slowdown >= 1.5 || self.load.is_near_ceiling() {
            Harm::AtRisk
        } else {
            Harm::None
        }
    }
}

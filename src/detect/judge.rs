//! From evidence to a name: every caller against the service of the moment, once per tick.

use super::detector::Detector;
use super::event::{Event, Signal};
use super::observe::{CallerId, Load, Observed};
use super::rate::Rise;
use super::state::State;
use super::{FIRST, WARM, World};
use crate::outcome::{Class, Fault};

/// A deploy of its own is worth this much evidence against a caller, in nats.
const DEPLOYED: f32 = 6.0;
/// Others this many times as slow as usual are a slow service.
pub(super) const SLOW: f32 = 2.5;

impl Detector {
    pub(super) fn judge(
        &mut self,
        seen: &Observed<'_>,
        now: f64,
        load: &Load,
        out: &mut Vec<Event>,
    ) {
        let slot = seen.id.slot as usize;
        let Some(state) = self.callers.get_mut(slot) else {
            return;
        };
        let dt = (self.clock - state.at) as f32;
        state.at = self.clock;
        let own = Own::of(state);
        let mut world = self.world;
        world.slowdown = self.service.slowdown(&state.pace).max(1.0);
        world.others_hold = self.service.others_hold(state.hold.now());
        for delta in seen.routes {
            let (requests, took) = state.shares.pace(delta.route);
            let there = self.service.slowdown_on(delta.route, requests, took);
            world.slowdown = world.slowdown.max(there);
        }
        let failing = self.service.fails_others(own.all, own.faults);
        let mut faults = 0.0;
        for delta in seen.routes {
            let n = delta.completed();
            for class in Class::ALL.into_iter().skip(1) {
                let errors = delta.by_class[class.index()] as f32;
                let service = class.fault() == Fault::Service;
                if service {
                    faults += errors;
                }
                let own_class = state.errors.recent(class);
                let own_there = state.shares.own(delta.route, class.fault());
                let others = self
                    .service
                    .others_on(delta.route, class, own_there, own_class)
                    .max(self.service.others(class, own.all, own_class));
                let excused = service || class == Class::Cancelled;
                if excused && (failing || others >= 0.1) {
                    state.errors.acquit(class);
                } else {
                    state.errors.weigh(class, n, errors, others);
                }
            }
        }
        let started = seen.started as f32;
        state.errors.settle(state.alarmed());
        // What a failing service makes callers repeat is not their doing.
        let demand = if failing {
            (started - faults).max(0.0)
        } else {
            started
        };
        state.rate.observe(demand, dt, &world);
        state.rate.settle(state.alarms & Signal::Rate.bit() != 0);
        let growth = state.rate.growth(&world);
        // Where the others' requests are much slower too, nobody's slow requests are their own doing.
        if failing || world.slowdown >= SLOW {
            state.hold.reset();
        }
        state
            .hold
            .observe(seen.held(), seen.in_flight, dt, &world, growth);
        state.hold.settle(state.alarmed());
        if self.clock >= FIRST {
            self.decide(seen, &world, growth, now, load, out);
        }
    }

    pub(super) fn decide(
        &mut self,
        seen: &Observed<'_>,
        world: &World,
        growth: f32,
        now: f64,
        load: &Load,
        out: &mut Vec<Event>,
    ) {
        let Some(state) = self.callers.get(seen.id.slot as usize) else {
            return;
        };
        let open = |signal: Signal| state.alarms & signal.bit() != 0;
        // The look-up is by name; most callers are nowhere near an alarm.
        let suspect = || self.deploys.suspect(seen.name, now);
        let prior = |hit: bool| if hit { DEPLOYED } else { 0.0 };
        let mut found: [Option<(Signal, Option<Class>, f32, f32, f32)>; 3] = [None; 3];
        if !open(Signal::Rate)
            && state.rate.rise(world, DEPLOYED).is_some()
            && let Some(rise) = state.rate.rise(world, prior(suspect()))
            && !self.took_over(seen.id.slot as usize, &rise)
        {
            found[0] = Some((Signal::Rate, None, rise.baseline, rise.observed, rise.age));
        }
        if !open(Signal::Errors)
            && state.errors.excess(world, DEPLOYED).is_some()
            && let Some(e) = state.errors.excess(world, prior(suspect()))
        {
            found[1] = Some((Signal::Errors, Some(e.class), e.baseline, e.observed, e.age));
        }
        if !open(Signal::InFlight)
            && !open(Signal::Rate)
            && found[0].is_none()
            && state.hold.holding(world, growth, DEPLOYED).is_some()
            && let Some(h) = state.hold.holding(world, growth, prior(suspect()))
        {
            found[2] = Some((Signal::InFlight, None, h.baseline, h.observed, h.age));
        }
        for (signal, class, baseline, observed, age) in found.into_iter().flatten() {
            self.open(
                seen.id,
                seen.name,
                Some(seen.provenance),
                signal,
                class,
                [baseline, observed, age],
                now,
                load,
                out,
            );
        }
    }

    /// Whether others lost what this caller has won: a rename or a move is not a runaway.
    pub(super) fn took_over(&self, slot: usize, rise: &Rise) -> bool {
        let lost: f32 = self
            .callers
            .iter()
            .enumerate()
            .filter(|(i, c)| {
                *i != slot && !c.is_free() && c.rate.age() >= 6 && c.rate.fano() <= 6.0
            })
            .map(|(_, c)| {
                let usual = c.rate.mean() * self.world.common;
                // An idle caller's average is brought up to date once a second; that is soon enough.
                if usual >= 0.5 && c.rate.now() < 0.5 * usual {
                    usual - c.rate.now()
                } else {
                    0.0
                }
            })
            .sum();
        lost >= 0.6 * (rise.observed - rise.baseline)
    }

    pub(super) fn judge_names(
        &mut self,
        young: f32,
        dt: f32,
        now: f64,
        load: &Load,
        out: &mut Vec<Event>,
    ) {
        let world = self.world;
        let open = self.episodes.iter().any(|e| e.signal == Signal::Names);
        if self.clock < WARM / 2.0 {
            // At first every name is new.
            return;
        }
        self.young.observe(young, dt, &world);
        self.young.settle(open);
        if open || self.clock < WARM || self.new_names < 1.0_f32.max(5.0 * self.usual_new_names) {
            return;
        }
        if let Some(rise) = self.young.rise(&world, 0.0) {
            let id = CallerId {
                slot: u32::MAX,
                generation: 0,
            };
            let levels = [self.usual_new_names, self.new_names, rise.age];
            self.open(
                id,
                "__other__",
                None,
                Signal::Names,
                None,
                levels,
                now,
                load,
                out,
            );
        }
    }
}

/// What of the recent answers was the caller's own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Own {
    pub(super) all: f32,
    pub(super) faults: f32,
}

impl Own {
    pub(super) fn of(state: &State) -> Self {
        let faults = Class::ALL
            .into_iter()
            .filter(|c| c.fault() == Fault::Service)
            .map(|c| state.errors.recent(c))
            .sum();
        Self {
            all: state.errors.recent_all(),
            faults,
        }
    }
}

/// The class that explains at least half of a rise in requests.
pub(super) fn class_of_rise(state: &State) -> Option<Class> {
    let excess = |c: Class| (state.errors.recent(c) - state.errors.usual(c)).max(0.0);
    let all: f32 = Class::ALL.into_iter().map(excess).sum();
    Class::ALL
        .into_iter()
        .find(|&c| all > 0.0 && excess(c) >= 0.5 * all)
}

//! From evidence to a name: every caller against the service of the moment, once per tick.

use super::detector::{Detector, SLOW_GRACE};
use super::episode::{Alarm, NOBODY};
use super::event::{Event, Signal};
use super::observe::{Observed, RouteDelta};
use super::service::{HANGS, SLOW_SERVICE};
use super::state::State;
use super::{FIRST, WARM, World};
use crate::outcome::{Class, Fault};

/// A deploy of its own is worth this much evidence against a caller, in nats.
const DEPLOYED: f32 = 6.0;
/// Where errors rise for the others by this part of what they rise by for one, it is not that one's doing.
const ALONE: f32 = 0.25;
/// For so many seconds after a request that hung, a caller may bring at once what waited for it:
const RUSH: u8 = 12;
/// no more than it usually brings in so many,
const WAITED: f32 = 45.0;
/// and in the time that its requests took, tried so often.
const TRIES: f32 = 2.0;
/// Later references of callers whose requests hung are raised by so much; more would hide who makes a service slow.
const AFTER_HANG: f32 = 3.0;

impl Detector {
    pub(super) fn judge(&mut self, seen: &Observed<'_>, out: &mut Vec<Event>) {
        let slot = seen.id.slot as usize;
        let Some(state) = self.callers.get_mut(slot) else {
            return;
        };
        let dt = self.fades.after((self.clock - state.at) as f32);
        state.at = self.clock;
        let own = Own::of(state);
        let mut world = self.world;
        world.slowdown = self.service.slowdown(&state.pace).max(1.0);
        for delta in seen.routes {
            let (requests, took) = state.shares.pace(delta.route);
            let there = self.service.slowdown_on(delta.route, requests, took);
            world.slowdown = world.slowdown.max(there);
        }
        // Who brings more than usual may be why the service hangs.
        let waited = seen.waited();
        if world.slowdown >= HANGS && waited > 0.0 && !state.rate.brings_more() {
            state.held_back = SLOW_GRACE;
            state.waited = state.waited.max(waited as u16);
        }
        if state.held_back > 0 {
            world.grace = world.grace.max(AFTER_HANG);
        } else {
            state.waited = 0;
        }
        let failing = self.service.fails_others(own.all, own.faults);
        let mut faults = 0.0;
        for delta in seen.routes {
            let n = delta.completed();
            if delta.is_good() && !state.errors.suspects_any() {
                continue; // nothing to weigh, for most callers in every tick
            }
            for class in Class::ALL.into_iter().skip(1) {
                let errors = delta.by_class[class.index()] as f32;
                let service = class.fault() == Fault::Service;
                if service {
                    faults += errors;
                }
                if errors <= 0.0 && !state.errors.suspects(class) {
                    continue;
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
        let rising = state.alarms & Signal::Rate.bit() != 0;
        // Of a runaway that makes the service slow the log tells late; it has not ended for that.
        let started = if rising {
            seen.started as f32
        } else {
            seen.fresh()
        };
        state.errors.settle(state.alarmed());
        let slow = seen
            .routes
            .iter()
            .filter(|delta| self.service.is_slow(delta))
            .count() as f32;
        if slow > 0.0 || state.hold.suspects() {
            let n = seen.routes.iter().map(RouteDelta::completed).sum();
            let known = state.errors.known();
            let others = self.service.others_slow(state.hold.slow_requests(), known);
            state.hold.weigh(n, slow, known, others);
        }
        // What a failing service makes callers repeat is not their doing.
        let demand = if failing {
            (started - faults).max(0.0)
        } else {
            started
        };
        state.rate.observe(demand, dt, &world);
        let alarmed = state.alarms & Signal::Rate.bit() != 0;
        let proves_nothing = state.alarmed() || world.grace > 1.0;
        state.rate.settle(alarmed, proves_nothing);
        let growth = state.rate.growth(&world);
        // Where the others' requests are much slower too, nobody's slow requests are their own doing.
        if failing || world.slowdown >= SLOW_SERVICE {
            state.hold.reset();
        }
        state
            .hold
            .observe(seen.held(), seen.in_flight, dt, &world, growth);
        state.hold.settle(state.alarmed());
        world.alone = state.rate.mean() > 0.95 * world.total;
        world.others_hold = self.service.others_hold(state.hold.now());
        if self.clock >= FIRST {
            self.decide(seen, &world, growth, out);
        }
    }

    fn decide(&mut self, seen: &Observed<'_>, world: &World, growth: f32, out: &mut Vec<Event>) {
        let slot = seen.id.slot as usize;
        let Some(state) = self.callers.get(slot) else {
            return;
        };
        let closed = |signal: Signal| state.alarms & signal.bit() == 0;
        // Deploys are looked up by name, and most callers are nowhere near an alarm: so first as if.
        let ask = |evidence: &dyn Fn(f32) -> Option<Alarm>| {
            evidence(DEPLOYED)?;
            let suspect = self.deploys.suspect(seen.name, self.now);
            evidence(if suspect { DEPLOYED } else { 0.0 })
        };
        let mut rate = None;
        let mut heir = false;
        let rushes = state.held_back > SLOW_GRACE - RUSH;
        if closed(Signal::Rate) {
            // What may have waited says nothing.
            let waited = if rushes {
                (WAITED + TRIES * f32::from(state.waited)) * state.rate.mean()
            } else {
                0.0
            };
            rate = ask(&|prior| state.rate.rise(world, prior, waited));
            heir = rate.is_some_and(|rise| self.took_over(slot, &rise));
            rate = rate.filter(|rise| !heir && !self.one_of_many(slot, rise));
        }
        let mut errors = None;
        if closed(Signal::Errors) {
            // At the first moment of what befalls everybody, the largest caller has the most evidence.
            let own = Own::of(state);
            let others = |class| {
                let recent = state.errors.recent(class);
                self.service.rise_of_others(class, own.all, recent)
            };
            let alone = |alarm: &Alarm| {
                let rise = ALONE * (alarm.observed - alarm.baseline);
                alarm.class.is_none_or(|class| others(class) < rise)
            };
            errors = ask(&|prior| state.errors.excess(world, prior)).filter(alone);
        }
        let mut hold = None;
        if closed(Signal::InFlight) && closed(Signal::Rate) && rate.is_none() {
            let lone =
                seen.in_flight == 0 && self.service.nobody_else_slow(state.hold.slow_lately());
            hold = ask(&|prior| state.hold.holding(world, growth, prior, lone));
        }
        for alarm in [rate, errors, hold].into_iter().flatten() {
            self.open(seen.id, seen.name, Some(seen.provenance), &alarm, out);
        }
        if heir {
            self.inherit(slot);
        }
    }

    /// Weighs `young` requests under names that are new.
    pub(super) fn judge_names(&mut self, young: f32, dt: f32, out: &mut Vec<Event>) {
        // At first every name is new.
        if self.clock < WARM / 2.0 {
            return;
        }
        let world = self.world;
        let open = self.episodes.iter().any(|e| e.signal == Signal::Names);
        self.young.observe(young, dt, &world);
        self.young.settle(open, false);
        if open || self.clock < WARM || self.new_names < 1.0_f32.max(5.0 * self.usual_new_names) {
            return;
        }
        if let Some(rise) = self.young.rise(&world, 0.0, 0.0) {
            let alarm = Alarm {
                signal: Signal::Names,
                baseline: self.usual_new_names,
                observed: self.new_names,
                ..rise
            };
            self.open(NOBODY, "__other__", None, &alarm, out);
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

#[cfg(test)]
mod tests {
    use super::super::event::Kind;
    use super::super::observe::{CallerId, Load, Row, Tick};
    use super::*;
    use crate::caller::Provenance;
    use crate::clock::Timestamp;

    /// What is said of so many callers with four requests a second of 50 ms each, once their answers stop coming
    /// while the first of them holds so many requests and the others so many each.
    fn held(callers: u32, held: [u32; 2]) -> Vec<(Kind, Option<Signal>)> {
        let mut usual = RouteDelta {
            route: 7,
            service_time: 0.05,
            ..RouteDelta::default()
        };
        usual.by_class[Class::Ok.index()] = 1;
        let usual = [usual];
        let (mut detector, mut out) = (Detector::new(), Vec::new());
        for tick in 0..3_660_u64 {
            let hangs = tick >= 3_600;
            let seen = |slot: u32| {
                let held = held[usize::from(slot > 0)];
                Observed {
                    id: CallerId {
                        slot,
                        generation: 0,
                    },
                    name: "a",
                    provenance: Provenance::Verified,
                    row: Row::Caller,
                    started: if hangs { 0 } else { 1 },
                    new_names: 0,
                    in_flight: if hangs { held } else { 0 },
                    busy: if hangs { 0.25 * held as f32 } else { 0.05 },
                    routes: if hangs { &[] } else { &usual },
                }
            };
            let callers: Vec<_> = (0..callers).map(seen).collect();
            let tick = Tick {
                now: Timestamp::from_nanos(1_000_000_000_000_000 + 250_000_000 * tick),
                load: Load::default(),
                callers: &callers,
            };
            detector.tick(&tick, &mut out);
        }
        out.iter().map(|event| (event.kind, event.signal)).collect()
    }

    #[test]
    fn who_holds_many_requests_is_named_unless_the_others_do_too_or_there_are_none() {
        let named = (Kind::RunawayStarted, Some(Signal::InFlight));
        assert_eq!(held(10, [6, 0]), [named]);
        assert_eq!(held(10, [6, 1]), []);
        assert_eq!(held(1, [6, 0]), []);
        // What one holds is not held by the others.
        assert_eq!(held(10, [30, 0]), [named]);
    }
}

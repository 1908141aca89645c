//! Who is behind a sudden rise? Change detection per caller, with the other callers as the control group.

mod deploys;
mod episode;
mod errors;
mod event;
mod hold;
mod math;
mod observe;
mod rate;
mod service;
mod shares;
mod state;

use std::sync::Arc;

use crate::caller::Provenance;
use crate::clock::Timestamp;
use crate::outcome::{Class, Fault};

pub use event::{Deploy, Event, Harm, Kind, Signal, Surroundings};
pub use observe::{CallerId, Load, Observed, RouteDelta, RouteId, Row, Tick};

use deploys::Deploys;
use episode::{Course, Episode};
use math::{median, ratio, smooth};
use rate::{Rate, Rise};
use service::Service;
use state::State;

/// Seconds over which the past is counted.
const WINDOW: f32 = 10.0;
/// After a pause of the whole stream everything is twice as strange for a while.
const GRACE: f64 = 90.0;
const SLOW_GRACE: f64 = 60.0;
const PAUSE: f64 = 20.0;
/// Before this nothing is known.
const FIRST: f64 = 60.0;
/// Before this only what is harmful is said.
const WARM: f64 = 600.0;
/// A deploy of its own is worth this much evidence against a caller, in nats.
const DEPLOYED: f32 = 6.0;
/// Windows after which remembered bursts of errors are lowered by a step: half in a day.
const FORGET: u32 = 780;
/// Others this many times as slow as usual are a slow service.
const SLOW: f32 = 2.5;
const MOST_EPISODES: usize = 256;

/// What is normal for the service, and what all callers have in common now.
#[derive(Clone, Copy, Debug)]
struct World {
    /// How many times as much as usual everybody sends; at least 1.
    common: f32,
    /// How many times as long as usual the others' requests take; at least 1.
    slowdown: f32,
    /// The factor by which references are raised after a gap.
    grace: f32,
    /// Usual requests per second.
    total: f32,
    /// Usual requests in flight.
    concurrency: f32,
    /// Usual errors per second that speak against callers.
    errors: f32,
    /// Requests that the others hold in flight now.
    others_hold: f32,
}

impl Default for World {
    fn default() -> Self {
        Self { common: 1.0, slowdown: 1.0, grace: 1.0, total: 0.0, concurrency: 0.0, errors: 0.0, others_hold: 0.0 }
    }
}

/// The detector: fed with ticks, it says events.
#[derive(Debug, Default)]
pub struct Detector {
    callers: Vec<State>,
    service: Service,
    deploys: Deploys,
    episodes: Vec<Episode>,
    world: World,
    young: Rate,
    new_names: f32,
    usual_new_names: f32,
    last: Option<Timestamp>,
    usual_tick: f64,
    /// Seconds of traffic seen: stands still while the whole stream does.
    clock: f64,
    silent: f64,
    grace_until: f64,
    slow_until: f64,
    second: f64,
    window: f64,
    windows: u32,
    degraded: Condition,
    crowd: Condition,
    next_id: u64,
    scratch: Vec<f32>,
}

/// A condition of the whole service, said at its onset and at its end.
#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    id: Option<u64>,
    /// Since when it has been otherwise than said.
    turning: Option<f64>,
}

impl Condition {
    /// Whether the condition turns now, given how it looks, after `rise` or `fall` seconds.
    fn turns(&mut self, looks: bool, now: f64, rise: f64, fall: f64) -> bool {
        if looks == self.id.is_some() {
            self.turning = None;
            return false;
        }
        let since = *self.turning.get_or_insert(now);
        now - since >= if looks { rise } else { fall }
    }
}

impl Detector {
    /// A detector that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells that a caller has deployed a version.
    pub fn deployed(&mut self, caller: &str, version: &str, t: Timestamp) {
        self.deploys.announce(caller, version, t.as_secs_f64());
    }

    /// Takes what has happened since the last tick and adds what there is to say.
    pub fn tick(&mut self, tick: &Tick<'_>, out: &mut Vec<Event>) {
        let now = tick.now.as_secs_f64();
        let started: u32 = tick.callers.iter().map(|c| c.started).fold(0, u32::saturating_add);
        let dt = self.advance(tick.now, started > 0);
        self.service.fade(dt as f32);
        let mut young = 0.0;
        let mut new_names = 0.0;
        for seen in tick.callers {
            let (requests, names) = self.count(seen);
            young += requests;
            new_names += names;
        }
        let busy = tick.callers.iter().map(Observed::held).sum();
        self.service.hold(busy, dt as f32);
        smooth(&mut self.new_names, new_names, dt as f32, 8.0);
        smooth(&mut self.usual_new_names, new_names, dt as f32, 1800.0);
        for seen in tick.callers {
            self.judge(seen, now, &tick.load, out);
        }
        self.judge_names(young, dt as f32, now, &tick.load, out);
        if self.clock - self.second >= 1.0 {
            self.second = self.clock;
            self.each_second(now, &tick.load, out);
        }
        if self.clock - self.window >= f64::from(WINDOW) {
            self.window = self.clock;
            self.each_window(now);
        }
    }

    /// Moves the clock and returns by how much.
    fn advance(&mut self, now: Timestamp, active: bool) -> f64 {
        let Some(last) = self.last else {
            self.last = Some(now);
            return 0.0;
        };
        // Time that stands still or runs backwards is taken for a tick like the last one.
        let mut dt = if now > last { now.since(last).as_secs_f64() } else { self.usual_tick };
        self.usual_tick = dt.min(1.0);
        self.last = Some(now);
        // Where it stops is expected of a small service, a pause is longer.
        let pause = PAUSE.max(20.0 / f64::from(self.world.total.max(0.02)));
        let silent = self.silent + dt;
        if active {
            if silent > pause {
                dt = (dt - (silent - pause)).max(0.0);
                self.grace_until = self.clock + dt + GRACE;
            }
            self.silent = 0.0;
        } else {
            if silent > pause {
                dt = (dt - (silent - pause)).max(0.0);
            }
            self.silent = silent;
        }
        self.clock += dt;
        // What waited for a slow service comes at once when it recovers.
        if self.service.slowdown(&service::Pace::default()) >= SLOW {
            self.slow_until = self.clock + SLOW_GRACE;
        }
        self.world.grace = if self.clock < self.grace_until {
            3.0
        } else if self.clock < self.slow_until {
            2.0
        } else {
            1.0
        };
        dt
    }

    /// The state of a caller, brought up to date but for the present tick; `None` past any sensible size.
    fn count(&mut self, seen: &Observed<'_>) -> (f32, f32) {
        let slot = seen.id.slot as usize;
        if slot >= self.callers.len() {
            if slot > 1 << 20 {
                return (0.0, 0.0);
            }
            self.callers.resize(slot + 1, State::default());
        }
        let Some(state) = self.callers.get_mut(slot) else {
            return (0.0, 0.0);
        };
        let fresh = state.is_free() || state.generation != seen.id.generation;
        if fresh {
            *state = State::default();
            state.generation = seen.id.generation;
            state.at = self.clock;
        }
        let learn = !state.alarmed();
        let dt = (self.clock - state.at) as f32;
        let young = state.count_young(seen) as f32;
        state.shares.fade(dt, learn);
        state.pace.fade(dt);
        let mut by_class = [0.0_f32; Class::COUNT];
        for delta in seen.routes {
            let usual = self.service.count(delta, learn);
            state.pace.count(delta.took().min(20.0 * usual), usual);
            state.shares.count(delta, learn);
            for (sum, &n) in by_class.iter_mut().zip(&delta.by_class) {
                *sum += n as f32;
            }
        }
        state.errors.count(&by_class, dt, learn);
        let is_new = fresh && seen.row == Row::Caller;
        (young, seen.new_names as f32 + if is_new { 1.0 } else { 0.0 })
    }

    fn judge(&mut self, seen: &Observed<'_>, now: f64, load: &Load, out: &mut Vec<Event>) {
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
        let demand = if failing { (started - faults).max(0.0) } else { started };
        state.rate.observe(demand, dt, &world);
        state.rate.settle(state.alarms & Signal::Rate.bit() != 0);
        let growth = ratio(state.rate.now(), state.rate.mean());
        // Where the others' requests are much slower too, nobody's slow requests are their own doing.
        if failing || world.slowdown >= SLOW {
            state.hold.reset();
        }
        state.hold.observe(seen.held(), seen.in_flight, dt, &world, growth);
        state.hold.settle(state.alarmed());
        if self.clock >= FIRST {
            self.decide(seen, &world, growth, now, load, out);
        }
    }

    fn decide(&mut self, seen: &Observed<'_>, world: &World, growth: f32, now: f64, load: &Load, out: &mut Vec<Event>) {
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
            self.open(seen.id, seen.name, Some(seen.provenance), signal, class, [baseline, observed, age], now, load, out);
        }
    }

    /// Whether others lost what this caller has won: a rename or a move is not a runaway.
    fn took_over(&self, slot: usize, rise: &Rise) -> bool {
        let lost: f32 = self
            .callers
            .iter()
            .enumerate()
            .filter(|(i, c)| *i != slot && !c.is_free() && c.rate.age() >= 6 && c.rate.fano() <= 6.0)
            .map(|(_, c)| {
                let usual = c.rate.mean() * self.world.common;
                // An idle caller's average is brought up to date once a second; that is soon enough.
                if usual >= 0.5 && c.rate.now() < 0.5 * usual { usual - c.rate.now() } else { 0.0 }
            })
            .sum();
        lost >= 0.6 * (rise.observed - rise.baseline)
    }

    #[allow(clippy::too_many_arguments)]
    fn open(
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
        let harm = self.harm(self.callers.get(id.slot as usize).filter(|_| signal != Signal::Names), load);
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
        if let Some(state) = self.callers.get_mut(id.slot as usize).filter(|_| signal != Signal::Names) {
            state.alarms |= signal.bit();
        }
        let mut episode = Episode::open(id, name, signal, class, event.clone());
        self.blame(&episode, &mut event);
        episode.said = event.clone();
        out.push(event);
        self.episodes.push(episode);
    }

    /// Fills in who and what explains the change, as it looks now.
    fn blame(&self, episode: &Episode, event: &mut Event) {
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
                event.share_of_rise = Some(f64::from(ratio(excess, rise.max(excess)).clamp(0.0, 1.0)));
            }
            Signal::Errors => {
                let fault = episode.class.map_or(Fault::Caller, Class::fault);
                event.route = state.shares.of_errors(fault);
            }
            Signal::InFlight => event.route = state.shares.of_busy(),
            Signal::Names => {}
        }
    }

    fn harm(&self, state: Option<&State>, load: &Load) -> Harm {
        let (own, pace) = state.map_or_else(Default::default, |s| (Own::of(s), s.pace));
        let faults = self.service.others_faults(own.all, own.faults) - self.service.usual_faults();
        let slowdown = self.service.slowdown(&pace);
        if faults >= 0.02 || slowdown >= 2.0 {
            Harm::Harmed
        } else if faults >= 0.01
            || slowdown >= 1.5
            || load.ceiling.is_some_and(|most| f64::from(load.in_flight) >= 0.8 * f64::from(most))
        {
            Harm::AtRisk
        } else {
            Harm::None
        }
    }

    fn judge_names(&mut self, young: f32, dt: f32, now: f64, load: &Load, out: &mut Vec<Event>) {
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
            let id = CallerId { slot: u32::MAX, generation: 0 };
            let levels = [self.usual_new_names, self.new_names, rise.age];
            self.open(id, "__other__", None, Signal::Names, None, levels, now, load, out);
        }
    }

    fn each_second(&mut self, now: f64, load: &Load, out: &mut Vec<Event>) {
        let world = self.world;
        for state in self.callers.iter_mut().filter(|s| !s.is_free()) {
            let dt = (self.clock - state.at) as f32;
            if dt > 0.0 {
                let learn = !state.alarmed();
                state.at = self.clock;
                state.shares.fade(dt, learn);
                state.pace.fade(dt);
                state.errors.count(&[0.0; Class::COUNT], dt, learn);
                state.errors.settle(!learn);
                state.rate.observe(0.0, dt, &world);
                state.rate.settle(state.alarms & Signal::Rate.bit() != 0);
                state.hold.observe(0.0, 0, dt, &world, 1.0);
                state.hold.settle(!learn);
            }
            state.errors.grow_older();
        }
        self.find_what_is_common();
        self.judge_service(now, out);
        self.follow_episodes(now, load, out);
    }

    fn find_what_is_common(&mut self) {
        self.scratch.clear();
        let ratios = self
            .callers
            .iter()
            .filter(|s| !s.is_free() && s.rate.age() >= 6 && s.rate.mean() >= 0.25)
            .map(|s| s.rate.now() / s.rate.mean());
        self.scratch.extend(ratios);
        self.world.common = if self.scratch.len() >= 4 {
            median(&mut self.scratch).unwrap_or(1.0).clamp(1.0, 20.0)
        } else {
            1.0
        };
    }

    fn judge_service(&mut self, now: f64, out: &mut Vec<Event>) {
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
            turn(&mut self.degraded, &mut self.next_id, kinds, now, (0.0, observed), out);
        }
        let total = self.service.recent_all();
        let looks = self.clock >= WARM
            && self.scratch.len() >= 8
            && self.degraded.id.is_none()
            && self.world.common >= if self.crowd.id.is_some() { 1.3 } else { 1.6 }
            && total >= 1.3 * self.world.total;
        if self.crowd.turns(looks, now, 5.0, 30.0) {
            let kinds = (Kind::Crowd, Kind::CrowdEnded);
            turn(&mut self.crowd, &mut self.next_id, kinds, now, (self.world.total, total), out);
        }
    }

    fn follow_episodes(&mut self, now: f64, load: &Load, out: &mut Vec<Event>) {
        let mut episodes = std::mem::take(&mut self.episodes);
        episodes.retain_mut(|episode| {
            let names = episode.signal == Signal::Names;
            let state = self
                .callers
                .get(episode.id.slot as usize)
                .filter(|s| !names && s.generation == episode.id.generation);
            let world = self.world;
            let over = match (state, episode.signal) {
                (_, Signal::Names) => self.young.is_over(&world),
                (None, _) => true,
                (Some(s), Signal::Rate) => s.rate.is_over(&world),
                (Some(s), Signal::Errors) => episode
                    .class
                    .is_none_or(|c| s.errors.is_over(c, episode.said.baseline as f32)),
                (Some(s), Signal::InFlight) => s.hold.is_over(&world, 1.0),
            };
            let course = episode.course(now, over);
            let mut event = episode.said.clone();
            event.t = now;
            event.observed = f64::from(match (state, episode.signal) {
                (_, Signal::Names) => self.new_names,
                (None, _) => 0.0,
                (Some(s), Signal::Rate) => s.rate.now(),
                (Some(s), Signal::Errors) => {
                    ratio(episode.class.map_or(0.0, |c| s.errors.recent(c)), s.errors.recent_all())
                }
                (Some(s), Signal::InFlight) => s.hold.lately(),
            });
            event.harm = self.harm(state, load);
            if course == Course::GoesOn {
                event.deploy = self.deploys.explaining(&episode.name, event.since);
                self.blame(episode, &mut event);
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
                    Signal::Rate if accepted => {
                        s.rate.accept();
                        s.shares.accept(s.errors.learned());
                    }
                    Signal::Errors if accepted => s.errors.accept(),
                    Signal::InFlight if accepted => s.hold.accept(),
                    Signal::Rate => s.rate.end(episode.was_a_harmless_burst(now) && s.alarms == 0),
                    Signal::Errors => s.errors.reset(),
                    Signal::InFlight => s.hold.reset(),
                    Signal::Names => {}
                }
            }
            false
        });
        self.episodes = episodes;
    }

    fn each_window(&mut self, now: f64) {
        let (mut total, mut concurrency, mut errors) = (0.0, 0.0, 0.0);
        let frozen = self.degraded.id.is_some() || self.crowd.id.is_some();
        for state in self.callers.iter_mut().filter(|s| !s.is_free()) {
            let age = state.rate.age();
            state.rate.roll(state.alarmed() || frozen);
            state.hold.roll(state.alarmed() || frozen, age);
            total += state.rate.mean();
            concurrency += state.hold.mean();
            errors += state.errors.usual_faults();
        }
        let open = self.episodes.iter().any(|e| e.signal == Signal::Names);
        self.young.roll(open);
        self.world.total = total;
        self.world.concurrency = concurrency;
        self.world.errors = errors;
        self.deploys.forget_old(now);
        self.windows = self.windows.wrapping_add(1);
        if self.windows.is_multiple_of(FORGET) {
            self.callers.iter_mut().for_each(|s| s.errors.forget());
        }
    }
}

/// What of the recent answers was the caller's own.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    all: f32,
    faults: f32,
}

impl Own {
    fn of(state: &State) -> Self {
        let faults = Class::ALL
            .into_iter()
            .filter(|c| c.fault() == Fault::Service)
            .map(|c| state.errors.recent(c))
            .sum();
        Self { all: state.errors.recent_all(), faults }
    }
}

/// The class that explains at least half of a rise in requests.
fn class_of_rise(state: &State) -> Option<Class> {
    let excess = |c: Class| (state.errors.recent(c) - state.errors.usual(c)).max(0.0);
    let all: f32 = Class::ALL.into_iter().map(excess).sum();
    Class::ALL
        .into_iter()
        .find(|&c| all > 0.0 && excess(c) >= 0.5 * all)
}

fn turn(
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

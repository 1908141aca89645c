//! The detector itself: its state, and the order in which a tick is taken.

use super::common::Condition;
use super::deploys::Deploys;
use super::episode::Episode;
use super::event::{Event, Signal};
use super::fade::Fades;
use super::math::smooth;
use super::memory::Unclaimed;
use super::observe::{CallerId, Load, Observed, Row, Tick};
use super::rate::Rate;
use super::service::{Pace, SLOW_SERVICE, Service};
use super::state::State;
use super::{WINDOW, World};
use crate::caller::Provenance;
use crate::clock::Timestamp;
use crate::outcome::Class;

/// After a pause of the whole stream references are raised for so many seconds,
const GRACE: f64 = 90.0;
/// and after a slow spell of the service for so many.
pub(super) const SLOW_GRACE: u8 = 60;
/// A service that has been slow for so many seconds is as it is now.
const SLOW_FOR_GOOD: f64 = 600.0;
/// A pause is at least so many seconds, and more where requests are few.
const PAUSE: f64 = 20.0;
/// Windows after which remembered bursts are lowered by a step of 6 %: half in three days.
const FORGET: u32 = 2400;
/// Places beyond this are not believed: a caller table is bounded far below.
const MOST_CALLERS: usize = 1 << 20;

/// The detector: fed with ticks, it says events.
#[derive(Debug, Default)]
pub struct Detector {
    pub(super) callers: Vec<State>,
    pub(super) service: Service,
    pub(super) deploys: Deploys,
    pub(super) episodes: Vec<Episode>,
    pub(super) world: World,
    pub(super) young: Rate,
    pub(super) new_names: f32,
    pub(super) usual_new_names: f32,
    /// The time and the load of the present tick.
    pub(super) now: f64,
    pub(super) load: Load,
    pub(super) last: Option<Timestamp>,
    pub(super) usual_tick: f64,
    /// Seconds of traffic seen: stands still while the whole stream does.
    pub(super) clock: f64,
    pub(super) silent: f64,
    pub(super) grace_until: f64,
    pub(super) slow_until: f64,
    pub(super) second: f64,
    pub(super) window: f64,
    pub(super) windows: u32,
    pub(super) degraded: Condition,
    pub(super) crowd: Condition,
    pub(super) next_id: u64,
    pub(super) scratch: Vec<f32>,
    pub(super) fades: Fades,
    /// Callers whose past and present are compared to find what is common.
    pub(super) active: usize,
    /// By how much everybody sends less than usual; at most 1, and meaningless before the first second.
    pub(super) ebb: f32,
    pub(super) ebb_since: Option<f64>,
    /// Since when the service has been slow without anybody to blame.
    pub(super) slow_since: Option<f64>,
    pub(super) unclaimed: Unclaimed,
}

impl Detector {
    /// A detector that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known of a caller, unless its place has another one by now.
    pub(super) fn state(&self, id: CallerId) -> Option<&State> {
        let state = self.callers.get(id.slot as usize)?;
        (state.generation == id.generation && !state.is_free()).then_some(state)
    }

    /// The same, to change it.
    pub(super) fn state_mut(&mut self, id: CallerId) -> Option<&mut State> {
        let state = self.callers.get_mut(id.slot as usize)?;
        (state.generation == id.generation && !state.is_free()).then_some(state)
    }

    /// Tells that a caller has deployed a version.
    pub fn deployed(&mut self, caller: &str, version: &str, t: Timestamp) {
        self.deploys.announce(caller, version, t.as_secs_f64());
    }

    /// Takes what has happened since the last tick and adds what there is to say.
    pub fn tick(&mut self, tick: &Tick<'_>, out: &mut Vec<Event>) {
        self.now = tick.now.as_secs_f64();
        self.load = tick.load;
        let started: u32 = tick
            .callers
            .iter()
            .map(|c| c.started)
            .fold(0, u32::saturating_add);
        let dt = self.advance(tick.now, started > 0);
        self.world.tick = dt as f32;
        self.service.fade(dt as f32);
        let mut young = 0.0;
        let mut new_names = 0.0;
        for seen in tick.callers {
            let (requests, names) = self.count(seen);
            young += requests;
            new_names += names;
        }
        let busy = tick.callers.iter().map(Observed::held).sum();
        self.service.take_stock(busy, dt as f32);
        self.forgive();
        smooth(&mut self.new_names, new_names, dt as f32, 8.0);
        smooth(&mut self.usual_new_names, new_names, dt as f32, 1800.0);
        for seen in tick.callers {
            self.judge(seen, out);
        }
        self.judge_names(young, dt as f32, out);
        if self.clock - self.second >= 1.0 {
            self.second = self.clock;
            self.each_second(out);
        }
        if self.clock - self.window >= f64::from(WINDOW) {
            self.window = self.clock;
            self.each_window();
        }
    }

    /// Moves the clock and returns by how much.
    fn advance(&mut self, now: Timestamp, active: bool) -> f64 {
        let Some(last) = self.last else {
            self.last = Some(now);
            return 0.0;
        };
        // Time that stands still or runs backwards is taken for a tick like the last one.
        let mut dt = if now > last {
            now.since(last).as_secs_f64()
        } else {
            self.usual_tick
        };
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
        dt
    }

    /// Raises references for what comes at once after a pause or a slow spell.
    fn forgive(&mut self) {
        // What waited for a slow service comes at once when it recovers.
        let slow = self.service.slowdown(&Pace::default()) >= SLOW_SERVICE;
        if slow {
            self.slow_until = self.clock + f64::from(SLOW_GRACE);
            let since = *self.slow_since.get_or_insert(self.clock);
            if self.clock - since >= SLOW_FOR_GOOD && self.episodes.is_empty() {
                self.service.forget_pace();
                self.slow_since = None;
            }
        } else {
            self.slow_since = None;
        }
        self.world.grace = if self.clock < self.grace_until {
            3.0
        } else if self.clock < self.slow_until {
            2.5
        } else {
            1.0
        };
    }

    /// The state of a caller, brought up to date but for the present tick; `None` past any sensible size.
    fn count(&mut self, seen: &Observed<'_>) -> (f32, f32) {
        let slot = seen.id.slot as usize;
        if slot >= self.callers.len() {
            if slot > MOST_CALLERS {
                return (0.0, 0.0);
            }
            self.callers.resize(slot + 1, State::default());
        }
        let Some(state) = self.callers.get_mut(slot) else {
            return (0.0, 0.0);
        };
        let fresh = state.is_free() || state.generation != seen.id.generation;
        if fresh {
            let proven = seen.provenance == Provenance::Verified;
            let past = self.unclaimed.claim(seen.name, proven, self.clock);
            *state = past.unwrap_or_default();
            state.generation = seen.id.generation;
            state.at = self.clock;
        }
        let learn = !state.alarmed();
        let dt = self.fades.after((self.clock - state.at) as f32);
        let young = state.count_young(seen) as f32;
        state.shares.fade(dt, learn);
        state.pace.fade(&dt);
        let mut by_class = [0.0_f32; Class::COUNT];
        for delta in seen.routes {
            let (took, usual) = self.service.count(delta, learn);
            state.pace.count(took, usual);
            state.shares.count(delta, took, learn);
            for (sum, &n) in by_class.iter_mut().zip(delta.counts()) {
                *sum += n as f32;
            }
        }
        state.errors.count(&by_class, dt, learn);
        let is_new = fresh && seen.row == Row::Caller;
        (
            young,
            seen.new_names as f32 + if is_new { 1.0 } else { 0.0 },
        )
    }

    fn each_second(&mut self, out: &mut Vec<Event>) {
        let world = self.world;
        for state in self.callers.iter_mut().filter(|s| !s.is_free()) {
            let dt = (self.clock - state.at) as f32;
            if dt > 0.0 {
                let learn = !state.alarmed();
                state.at = self.clock;
                state.shares.fade(dt, learn);
                let dt = self.fades.after(dt);
                state.pace.fade(&dt);
                state.errors.count(&[0.0; Class::COUNT], dt, learn);
                state.errors.settle(!learn);
                state.rate.observe(0.0, dt, &world);
                let alarmed = state.alarms & Signal::Rate.bit() != 0;
                state.rate.settle(alarmed, !learn || world.grace > 1.0);
                state.hold.observe(0.0, 0, dt, &world, 1.0);
                state.hold.settle(!learn);
            }
            state.errors.grow_older();
            state.held_back = state.held_back.saturating_sub(1);
        }
        self.find_what_is_common();
        self.judge_service(out);
        self.follow_episodes(out);
    }

    fn each_window(&mut self) {
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
        self.world.age = (self.clock / f64::from(WINDOW)) as u16;
        self.world.total = total;
        self.world.concurrency = concurrency;
        self.world.errors = errors;
        self.deploys.forget_old(self.now);
        self.windows = self.windows.wrapping_add(1);
        if self.windows.is_multiple_of(FORGET) {
            for state in &mut self.callers {
                state.rate.forget();
                state.errors.forget();
                state.hold.forget();
            }
            self.young.forget();
        }
    }
}

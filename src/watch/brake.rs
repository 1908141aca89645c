//! The clamp on a runaway. An alert is cheap, a limit needs more: it acts on a caller with a known past, and only
//! while the service is hurt; it is judged by what the caller offers, and ends by itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::open::Open;
use super::{Inner, Watch};
use crate::admit::{Mode, OnRunaway, Quota};
use crate::caller::Provenance;
use crate::clock::Timestamp;
use crate::detect::Standing;
use crate::events::{Body, Event, EventLog, Finding, Kind, OURSELVES, Signal};
use crate::lock::lock;
use crate::pipeline::Core;
use crate::registry::entry::{Entry, Trust};

/// After this long what a caller does is the rule: only a person holds it any longer.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// And for so long after that detection does not hold it again: its baseline learns.
const SPARED: Duration = Duration::from_secs(60 * 60);
/// A runaway is held when it has been one for so many seconds: by then a crowd has shown itself.
const CONFIRMED: f64 = 2.0;
/// Nobody is held to fewer requests per second.
const LEAST: f64 = 5.0;

/// A caller that is held for one thing that it does.
#[derive(Debug)]
pub(super) struct Held {
    entry: Arc<Entry>,
    signal: Signal,
    /// As it stood when it was held first.
    standing: Standing,
    rule: OnRunaway,
    until: Timestamp,
}

/// What a caller is held to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limits {
    /// Requests per second.
    rate: u32,
    in_flight: Option<u32>,
    mode: Mode,
}

/// The same, for people.
#[cfg(feature = "dashboard")]
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Clamped {
    #[serde(skip)]
    pub(crate) caller: String,
    pub(crate) quota: String,
    pub(crate) in_flight: Option<u32>,
    /// Unix seconds, at the latest.
    pub(crate) until: f64,
    /// Whether it refuses, or counts what it would refuse.
    pub(crate) mode: Mode,
}

impl Held {
    fn limits(&self) -> Limits {
        let Self { standing, rule, .. } = self;
        let usual = f64::from(standing.baseline) * rule.clamp;
        let rate = usual.max(f64::from(standing.fair_share)).max(LEAST).ceil();
        let in_flight = (f64::from(standing.in_flight) * rule.clamp)
            .max(LEAST)
            .ceil();
        Limits {
            // A cast from a float saturates.
            rate: rate as u32,
            in_flight: (self.signal == Signal::InFlight).then_some(in_flight as u32),
            mode: rule.mode,
        }
    }
}

impl Limits {
    /// Of two that hold the same caller, the narrower of each.
    fn and(self, other: Self) -> Self {
        Self {
            rate: self.rate.min(other.rate),
            in_flight: self.in_flight.into_iter().chain(other.in_flight).min(),
            mode: self.mode.min(other.mode),
        }
    }

    fn quota(self) -> Quota {
        Quota::per_second(self.rate)
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.quota())?;
        if let Some(most) = self.in_flight {
            write!(f, " and {most} in flight")?;
        }
        f.write_str(if self.mode == Mode::Enforce {
            ""
        } else {
            " in shadow"
        })
    }
}

impl Watch {
    /// Those that are held by themselves.
    #[cfg(feature = "dashboard")]
    pub(crate) fn clamped(&self) -> Vec<Clamped> {
        let inner = lock(&self.inner);
        let mut callers: Vec<&Held> = Vec::new();
        for held in inner.held() {
            match callers
                .iter_mut()
                .find(|known| Arc::ptr_eq(&known.entry, &held.entry))
            {
                Some(known) if known.until < held.until => *known = held,
                Some(_) => {}
                None => callers.push(held),
            }
        }
        let clamped = callers.into_iter().map(|held| {
            let limits = inner.limits_of(&held.entry).unwrap_or(held.limits());
            let quota = limits.quota().to_string();
            Clamped {
                caller: held.entry.name().to_owned(),
                quota: quota.split(',').next().unwrap_or_default().to_owned(),
                in_flight: limits.in_flight,
                until: held.until.as_secs_f64(),
                mode: limits.mode,
            }
        });
        clamped.collect()
    }

    /// A person lets go of a caller that is held by itself. Says whether there is one.
    pub(crate) fn release(&self, core: &Core, caller: &str, now: Timestamp) -> bool {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let mut released: Vec<(Held, Arc<Event>)> = Vec::new();
        for open in inner.open.values_mut() {
            if let Some(held) = open.held.take_if(|held| held.entry.name() == caller) {
                released.push((held, Arc::clone(&open.said)));
            }
        }
        // A caller that was held for two things is let go once.
        released.dedup_by(|a, b| Arc::ptr_eq(&a.0.entry, &b.0.entry));
        for (held, said) in &released {
            inner.let_go(held, said, &self.log, core, now);
            inner.spared.push((Arc::clone(&held.entry), now + SPARED));
        }
        !released.is_empty()
    }
}

impl Inner {
    /// Holds callers in a runaway, and lets go of those that need it no longer.
    pub(super) fn brake(&mut self, log: &EventLog, core: &Core, now: Timestamp) {
        let rule = core.admission.policies().on_runaway;
        if rule.is_none() && self.held().next().is_none() {
            return;
        }
        self.spared.retain(|(_, until)| now < *until);
        let open: Vec<u64> = self.open.keys().copied().collect();
        for id in open {
            match (
                self.open.get(&id).is_some_and(|open| open.held.is_some()),
                rule,
            ) {
                (true, _) => self.look_at_held(id, rule, log, core, now),
                (false, Some(rule)) => self.hold(id, rule, log, core, now),
                (false, None) => {}
            }
        }
    }

    /// Lets go of a caller whose time is over, who was announced meanwhile, or of whom no rule says more that it is
    /// to be held; a rule that has changed is in force at once.
    fn look_at_held(
        &mut self,
        id: u64,
        rule: Option<OnRunaway>,
        log: &EventLog,
        core: &Core,
        now: Timestamp,
    ) {
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        let announced = open.suspect().is_none();
        let Some(held) = &mut open.held else {
            return;
        };
        let over = now >= held.until;
        if let Some(rule) = rule.filter(|_| !over && !announced) {
            if held.rule != rule {
                held.rule = rule;
                let (entry, said) = (Arc::clone(&held.entry), Arc::clone(&open.said));
                self.enforce(&entry, &said, log, core, now);
            } else if let Some(seat) = held.entry.seat() {
                let open = || held.entry.totals().in_flight();
                core.admission.look_at_brake(seat, open);
            }
            return;
        }
        let Some(held) = open.held.take() else {
            return;
        };
        let said = Arc::clone(&open.said);
        self.let_go(&held, &said, log, core, now);
        if over {
            if let Some(id) = self.feed.id(Some(&held.entry)) {
                self.detector.accept(id, held.signal);
            }
            self.spared.push((held.entry, now + SPARED));
        }
    }

    /// Holds the caller of an episode, where that is called for.
    fn hold(&mut self, id: u64, rule: OnRunaway, log: &EventLog, core: &Core, now: Timestamp) {
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        let confirmed = now.as_secs_f64() - open.since >= CONFIRMED;
        let Some((entry, signal)) = open.suspect().filter(|_| confirmed) else {
            return;
        };
        let id = self.feed.id(Some(&entry));
        let Some(standing) = id.and_then(|id| self.detector.standing(id)) else {
            return;
        };
        let mut spared = self.spared.iter();
        if !standing.may_be_held() || spared.any(|(known, _)| Arc::ptr_eq(known, &entry)) {
            return;
        }
        open.held = Some(Held {
            entry: Arc::clone(&entry),
            signal,
            standing,
            rule,
            until: now + LONGEST,
        });
        let said = Arc::clone(&open.said);
        self.enforce(&entry, &said, log, core, now);
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        self.open.values().filter_map(|open| open.held.as_ref())
    }

    /// What all episodes of a caller together hold it to.
    fn limits_of(&self, entry: &Arc<Entry>) -> Option<Limits> {
        let of = self.held().filter(|held| Arc::ptr_eq(&held.entry, entry));
        of.map(Held::limits).reduce(Limits::and)
    }

    /// Puts in force what a caller is held to. It has one brake, however many episodes hold it.
    fn put_in_force(&self, entry: &Arc<Entry>, core: &Core, now: Timestamp) -> Option<Limits> {
        let limits = self.limits_of(entry);
        if let Some(limits) = limits {
            let seat = entry.seat_or(|| core.admission.seat(&entry.subject()));
            let Limits {
                in_flight, mode, ..
            } = limits;
            let open = || entry.totals().in_flight();
            core.admission
                .brake(seat, limits.quota(), in_flight, mode, open, now);
        } else if let Some(seat) = entry.seat() {
            core.admission.release(seat);
        }
        limits
    }

    fn enforce(
        &self,
        entry: &Arc<Entry>,
        said: &Event,
        log: &EventLog,
        core: &Core,
        now: Timestamp,
    ) {
        if let Some(limits) = self.put_in_force(entry, core, now) {
            say(said, log, &format!("runaway clamped to {limits}"), now);
        }
    }

    /// Lets go of whom an episode holds; another one may hold it still.
    pub(super) fn let_go(
        &self,
        held: &Held,
        said: &Event,
        log: &EventLog,
        core: &Core,
        now: Timestamp,
    ) {
        let change = match self.put_in_force(&held.entry, core, now) {
            None => "runaway clamp ended".to_owned(),
            Some(limits) => format!("runaway clamp ended, still clamped to {limits}"),
        };
        say(said, log, &change, now);
    }
}

impl Open {
    fn signal(&self) -> Option<Signal> {
        self.said.finding().and_then(|finding| finding.signal)
    }

    /// Whom a clamp would hold: one caller by name, who was not announced.
    fn suspect(&self) -> Option<(Arc<Entry>, Signal)> {
        let (entry, signal) = (self.entry.as_ref()?, self.signal()?);
        let finding = self.said.finding()?;
        let load = matches!(signal, Signal::Rate | Signal::InFlight);
        let named = entry.trust != Trust::Ours && entry.provenance() != Provenance::Unknown;
        (load && named && !finding.expected).then(|| (Arc::clone(entry), signal))
    }
}

fn say(of: &Event, log: &EventLog, change: &str, now: Timestamp) {
    let caller = of
        .finding()
        .and_then(|finding: &Finding| finding.caller.clone());
    let body = Body::Policy {
        caller,
        change: change.into(),
        author: OURSELVES.into(),
    };
    log.say(log.fresh_id(), now.as_secs_f64(), Kind::Policy, body);
}

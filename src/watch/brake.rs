//! The clamp on a runaway. An alert is cheap, a limit needs more: it acts on a caller with a known past, and only
//! while the service is hurt; it is judged by what the caller offers, and ends by itself.

use std::sync::Arc;
use std::time::Duration;

use super::open::Open;
use super::{Inner, Watch};
use crate::admit::{Mode, OnRunaway, Quota};
use crate::caller::Provenance;
use crate::clock::Timestamp;
use crate::detect::Standing;
use crate::events::{Body, EventLog, Finding, Kind, OURSELVES, Signal};
use crate::pipeline::Core;
use crate::record::row::lock;
use crate::registry::entry::{Entry, Trust};

/// After this long what a caller does is the rule: only a person holds it any longer.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// And for so long after that detection does not hold it again: its baseline learns.
const SPARED: Duration = Duration::from_secs(60 * 60);
/// A runaway is held when it has been one for so many seconds: by then a crowd has shown itself.
const CONFIRMED: f64 = 2.0;
/// Nobody is held to fewer requests per second.
const LEAST: f64 = 5.0;

/// A caller that is held.
#[derive(Debug)]
pub(super) struct Held {
    entry: Arc<Entry>,
    until: Timestamp,
    #[cfg(feature = "dashboard")]
    clamped: Clamped,
}

/// What it is held to.
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

impl Watch {
    /// Those that are held by themselves.
    #[cfg(feature = "dashboard")]
    pub(crate) fn clamped(&self) -> Vec<Clamped> {
        let inner = lock(&self.inner);
        let held = inner.open.values().filter_map(|open| open.held.as_ref());
        held.map(|held| held.clamped.clone()).collect()
    }

    /// A person lets go of a caller that is held by itself. Says whether there is one.
    pub(crate) fn release(&self, core: &Core, caller: &str, now: Timestamp) -> bool {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let mut released = false;
        for open in inner.open.values_mut() {
            let Some(held) = &open.held else { continue };
            if held.entry.name() == caller {
                let entry = Arc::clone(&held.entry);
                inner.spared.push((entry, now + SPARED));
                let_go(open, &self.log, core, now);
                released = true;
            }
        }
        released
    }
}

impl Inner {
    /// Holds callers in a runaway, and lets go of those that need it no longer.
    pub(super) fn brake(&mut self, log: &EventLog, core: &Core, now: Timestamp) {
        let rule = core.admission.policies().on_runaway;
        if rule.is_none() && self.open.values().all(|open| open.held.is_none()) {
            return;
        }
        self.spared.retain(|(_, until)| now < *until);
        for open in self.open.values_mut() {
            if open.held.is_some() && open.suspect().is_none() {
                let_go(open, log, core, now); // it was announced meanwhile
            }
            if let Some(held) = &open.held {
                if now >= held.until {
                    let_go(open, log, core, now);
                    if let (Some(entry), Some(signal)) = (&open.entry, open.signal()) {
                        self.spared.push((Arc::clone(entry), now + SPARED));
                        if let Some(id) = self.feed.id(Some(entry)) {
                            self.detector.accept(id, signal);
                        }
                    }
                }
                continue;
            }
            let Some(rule) = rule.filter(|_| now.as_secs_f64() - open.since >= CONFIRMED) else {
                continue;
            };
            let Some((entry, signal)) = open.suspect() else {
                continue;
            };
            let standing = self
                .feed
                .id(Some(&entry))
                .and_then(|id| self.detector.standing(id));
            let spared = self
                .spared
                .iter()
                .any(|(known, _)| Arc::ptr_eq(known, &entry));
            if let Some(standing) = standing.filter(|standing| standing.may_be_held() && !spared) {
                hold(open, entry, signal, (&standing, rule), log, core, now);
            }
        }
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

fn hold(
    open: &mut Open,
    entry: Arc<Entry>,
    signal: Signal,
    (standing, rule): (&Standing, OnRunaway),
    log: &EventLog,
    core: &Core,
    now: Timestamp,
) {
    let usual = f64::from(standing.baseline) * rule.clamp;
    let rate = usual.max(f64::from(standing.fair_share)).max(LEAST).ceil();
    // A cast from a float saturates.
    let quota = Quota::per_second(rate as u32);
    let in_flight = f64::from(standing.in_flight) * rule.clamp;
    let in_flight = (signal == Signal::InFlight).then(|| in_flight.max(LEAST).ceil() as u32);
    let seat = entry.seat_or(|| core.admission.seat(&entry.subject()));
    core.admission.brake(seat, quota, in_flight, rule.mode);
    let shadow = if rule.mode == Mode::Enforce {
        ""
    } else {
        " in shadow"
    };
    let most = in_flight.map_or_else(String::new, |most| format!(" and {most} in flight"));
    say(
        open,
        log,
        &format!("runaway clamped to {quota}{most}{shadow}"),
        now,
    );
    let until = now + LONGEST;
    open.held = Some(Held {
        #[cfg(feature = "dashboard")]
        clamped: Clamped {
            caller: entry.name().to_owned(),
            quota: quota
                .to_string()
                .split(',')
                .next()
                .unwrap_or_default()
                .to_owned(),
            in_flight,
            until: until.as_secs_f64(),
            mode: rule.mode,
        },
        entry,
        until,
    });
}

/// Lets go of whom an episode holds.
pub(super) fn let_go(open: &mut Open, log: &EventLog, core: &Core, now: Timestamp) {
    let Some(held) = open.held.take() else {
        return;
    };
    if let Some(seat) = held.entry.seat() {
        core.admission.release(seat);
    }
    say(open, log, "runaway clamp ended", now);
}

fn say(open: &Open, log: &EventLog, change: &str, now: Timestamp) {
    let caller = open
        .said
        .finding()
        .and_then(|finding: &Finding| finding.caller.clone());
    let body = Body::Policy {
        caller,
        change: change.into(),
        author: OURSELVES.into(),
    };
    log.say(log.fresh_id(), now.as_secs_f64(), Kind::Policy, body);
}

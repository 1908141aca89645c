//! From the accounts of a tick to the detector, and from what it says to a verdict.

use std::collections::BTreeMap;

use callerid::detect::{CallerId, Detector, Event, Kind, Load, Observed, RouteDelta, Row, Tick};
use callerid::{Provenance, Timestamp};

use super::Account;

pub(super) fn feed(
    detector: &mut Detector,
    accounts: &BTreeMap<u32, Account>,
    names: &[String],
    live: bool,
    in_flight: u32,
    now: Timestamp,
    events: &mut Vec<Event>,
) {
    let routes: Vec<Vec<RouteDelta>> = accounts
        .values()
        .map(|a| a.routes.values().copied().collect())
        .collect();
    let observed: Vec<Observed<'_>> = accounts
        .iter()
        .zip(&routes)
        .filter(|((_, a), _)| a.started > 0 || !a.routes.is_empty() || (live && a.in_flight > 0))
        .map(|((&slot, a), routes)| Observed {
            id: CallerId {
                slot,
                generation: 0,
            },
            name: &names[slot as usize],
            provenance: Provenance::Verified,
            row: Row::Caller,
            started: a.started,
            new_names: 0,
            in_flight: if live { a.in_flight } else { 0 },
            busy: a.busy.max(0.0) as f32,
            routes,
        })
        .collect();
    let load = Load {
        in_flight: if live { in_flight } else { 0 },
        ceiling: None,
    };
    detector.tick(
        &Tick {
            now,
            load,
            callers: &observed,
        },
        events,
    );
}

/// Who was named first at or after `from`, in seconds from there, and everybody else who was named.
pub(crate) fn verdict(
    events: &[Event],
    who: &str,
    from: f64,
    to: f64,
) -> (Option<f64>, Vec<String>) {
    let started = || {
        events
            .iter()
            .filter(|e| e.kind == Kind::RunawayStarted && e.t >= 600.0)
    };
    let found = started()
        .find(|e| e.caller.as_deref() == Some(who) && e.t >= from && e.t <= to)
        .map(|e| e.t - from);
    let others = started()
        .filter(|e| e.caller.as_deref() != Some(who) || e.t < from || e.t > to + 60.0)
        .map(|e| {
            format!(
                "{} {:?} at {:.1}",
                e.caller.as_deref().unwrap_or("?"),
                e.signal,
                e.t
            )
        })
        .collect();
    (found, others)
}

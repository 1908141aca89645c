//! From the accounts of a tick to the detector, and from what it says to a verdict.

use std::collections::BTreeMap;

use callerid::detect::{CallerId, Detector, Event, Load, Observed, RouteDelta, Row, Tick};
use callerid::{Provenance, Timestamp};

use super::{Account, OTHER, UNKNOWN};

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
            row: match slot {
                OTHER => Row::Other,
                UNKNOWN => Row::Unknown,
                _ => Row::Caller,
            },
            started: a.started,
            new_names: a.new_names,
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

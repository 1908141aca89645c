//! From the accounts of a tick to the detector, and from what it says to a verdict.

use std::collections::BTreeMap;

use callerid::detect::{
    CallerId, Detector, Event, Kind, Load, Observed, RouteDelta, Row, Signal, Tick,
};
use callerid::{Provenance, Timestamp};

use super::{Account, OTHER, Said, UNKNOWN};

pub(super) fn feed(
    detector: &mut Detector,
    accounts: &BTreeMap<u32, Account>,
    names: &[String],
    live: bool,
    in_flight: u32,
    now: Timestamp,
    said: &mut Said,
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
        &mut said.events,
    );
    let ended = |id| {
        let of = |e: &&Event| e.id == id && e.kind == Kind::RunawayEnded;
        said.events.iter().rfind(of).is_some()
    };
    // The pipeline's clamp asks the same, two seconds after an onset and then at every tick.
    for e in &said.events {
        let load = matches!(e.signal, Some(Signal::Rate | Signal::InFlight));
        let open = load && e.kind == Kind::RunawayStarted && e.t + 2.0 <= now.as_secs_f64();
        let Some(name) = e.caller.as_deref().filter(|_| open && !ended(e.id)) else {
            continue;
        };
        let slot = names.iter().position(|known| known == name);
        let slot = slot.filter(|&slot| slot != OTHER as usize && slot != UNKNOWN as usize);
        let standing = slot.and_then(|slot| {
            detector.standing(CallerId {
                slot: slot as u32,
                generation: 0,
            })
        });
        if standing.is_some_and(|standing| standing.may_be_held()) {
            said.held.push((now.as_secs_f64(), name.to_owned()));
        }
    }
}

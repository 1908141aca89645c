//! What a caller sees of itself: only that, from that very request.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::{Request, StatusCode};
use serde_json::{Value, json};

use super::access::Own;
use super::answer::Problem;
use super::budget::Budget;
use crate::admit::Subject;
use crate::caller::Provenance;
use crate::callers::Callers;
use crate::clock::Timestamp;
use crate::events::Kind;
use crate::incidents::Incident;
use crate::snapshot::CallerSnapshot;

/// Questions in a row, and nanoseconds until there is another.
const BURST: u64 = 10;
const EVERY: u64 = 1_000_000_000;

/// How often callers ask about themselves. Callers that share a place share its limit; there are few who ask at once.
pub(super) struct Asked([Budget; 256]);

impl Default for Asked {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Budget::default()))
    }
}

impl Asked {
    fn may(&self, caller: &str, now: Timestamp) -> bool {
        let mut hasher = DefaultHasher::new();
        caller.hash(&mut hasher);
        let place = self.0.get((hasher.finish() % 256) as usize);
        place.is_none_or(|place| place.take(BURST, EVERY, now))
    }
}

/// The caller of a request, if it may see itself.
pub(super) fn who(
    callers: &Callers,
    head: &Request<()>,
    own: Own,
    asked: &Asked,
) -> Result<(String, Provenance), Problem> {
    let core = &callers.upkeep().core;
    let now = callers.now();
    let refused = |detail| Problem::new(StatusCode::FORBIDDEN, detail);
    let Some((name, provenance)) = core.caller_of(head, now) else {
        return Err(refused(
            "this request says not who you are; send it as you send your other requests",
        ));
    };
    if provenance != Provenance::Verified && own != Own::Claimed {
        return Err(refused(
            "your name is not verified: anybody could have sent it, so nothing is shown",
        ));
    }
    if !asked.may(&name, now) {
        return Err(Problem::slow_down(1));
    }
    Ok((name, provenance))
}

/// Its own usage.
pub(super) fn usage(callers: &Callers, name: &str, provenance: Provenance) -> Value {
    let now = callers.now();
    let upkeep = callers.upkeep();
    upkeep.roll(now);
    let registry = &upkeep.core.registry;
    let entry = registry.reached(name, provenance);
    let caller = entry
        .as_ref()
        .map(|entry| CallerSnapshot::take(entry, registry, &upkeep.core.admission));
    let terms = entry.as_ref().and_then(|entry| entry.seat()?.terms());
    let policy = caller.as_ref().and_then(|caller| caller.policy);
    let limits = policy.map(|policy| {
        let in_flight = caller.as_ref().map_or(0, |caller| caller.counts.in_flight);
        let more = |most: u32| u64::from(most).saturating_sub(in_flight);
        json!({
            "quota": policy.quota,
            "burst": policy.burst,
            "left": terms.as_ref().and_then(|terms| terms.left(now)),
            "max_in_flight": policy.max_in_flight,
            "left_in_flight": policy.max_in_flight.map(more),
            "mode": policy.mode.min(callers.mode()),
        })
    });
    // Who has sent nothing yet is told what awaits it.
    let limits = limits.or_else(|| {
        let unknown = Subject {
            name,
            provenance,
            proven: provenance == Provenance::Verified,
        };
        let subject = entry.as_ref().map_or(unknown, |entry| entry.subject());
        let (quota, _) = upkeep.core.admission.quota_of(&subject)?;
        Some(json!({ "quota": quota.rate() }))
    });
    let brake = callers
        .brakes()
        .into_iter()
        .find(|brake| brake.caller == name)
        .map(|brake| json!({"caller": name, "quota": brake.quota, "until": brake.until}));
    let clamped = upkeep.watch.clamped();
    let clamped = clamped.into_iter().find(|of| of.caller == name);
    let events = upkeep.watch.log.events();
    let pins = events
        .iter()
        .filter(|event| event.kind == Kind::Pin && event.caller() == Some(name))
        .filter_map(|event| Some(json!({ "t": event.happened(), "pin": event.pin()? })));
    let incidents = callers.incidents();
    let open: Vec<_> = incidents
        .iter()
        .filter(|incident| incident.is_open())
        .map(open)
        .collect();
    json!({
        "v": 1,
        "at": now.as_secs_f64(),
        "service": &*upkeep.watch.log.service,
        "scope": "replica",
        "instance": &*upkeep.watch.log.instance,
        "caller": name,
        "provenance": provenance,
        "rates": caller.as_ref().map(|caller| caller.rates),
        "counts": caller.as_ref().map(|caller| caller.counts),
        "errors": caller.as_ref().map(|caller| &caller.details),
        "routes": caller.as_ref().map(|caller| &caller.routes),
        "latency": caller.as_ref().map(|caller| &caller.latency),
        "failures": caller.as_ref().map(|caller| &caller.failures),
        "last_two_minutes": caller.as_ref().map(|caller| &caller.seconds),
        "last_hour": caller.as_ref().map(|caller| &caller.ten_seconds),
        "limits": limits,
        "held": brake,
        "clamped": clamped,
        "pins": pins.collect::<Vec<_>>(),
        "incidents": open,
    })
}

/// An incident, without the names of those who wrote.
fn open(incident: &Incident) -> Value {
    let last = incident.updates.last().map(|update| &update.body);
    json!({
        "name": incident.name, "state": incident.state, "impact": incident.impact,
        "created_at": incident.created_at, "eta": incident.eta, "fallback": incident.fallback, "said": last,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_asks_too_often_waits_and_the_others_do_not() {
        let asked = Asked::default();
        let now = Timestamp::from_secs(1_000);
        let asks = (0..100).filter(|_| asked.may("a", now)).count();
        assert_eq!(asks as u64, BURST);
        assert!(asked.may("b", now));
        assert!(asked.may("a", now + Duration::from_secs(1)));
        assert!(!asked.may("a", now + Duration::from_secs(1)));
    }
}

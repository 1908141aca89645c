//! All that is known of one caller.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::admit::Mode;
use crate::caller::UNKNOWN;
use crate::callers::Callers;
use crate::events::{Event, Kind};
use crate::outcome::Class;
use crate::snapshot::{CallerSnapshot, CeilingSnapshot, UnknownSnapshot};

/// How many changes are told.
const LATEST: usize = 20;

type Buckets = Vec<(Option<f64>, u64)>;

#[derive(Serialize)]
struct Drill<'a> {
    v: u8,
    at: f64,
    #[serde(flatten)]
    caller: &'a CallerSnapshot,
    /// By class: upper bounds in seconds (none for the last), and how many were within, since the beginning.
    histograms: Vec<(Class, Buckets)>,
    runbook: Option<&'a str>,
    tier: Option<&'a str>,
    /// What its limits do, which the switch may say less of.
    acts: Option<Mode>,
    ceiling: Option<CeilingSnapshot>,
    /// Its latest pins, and what was done about it.
    events: Vec<Value>,
    /// What requests without identity look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<UnknownSnapshot>,
}

/// As JSON; `None` where nobody has that name.
pub(super) fn of(callers: &Callers, name: &str) -> Option<String> {
    let now = callers.now();
    callers.upkeep().roll(now);
    let core = &callers.upkeep().core;
    let registry = &core.registry;
    let entry = registry.named(name)?;
    let caller = CallerSnapshot::take(&entry, registry, &core.admission);
    let roster = registry.roster();
    let account = caller.on_roster.then(|| roster.account(name)).flatten();
    let histograms = entry.row().map(|row| {
        let of = |class| {
            let latency = row.latency(class);
            (latency.count() > 0).then(|| (class, latency.buckets().collect()))
        };
        Class::ALL.into_iter().filter_map(of).collect()
    });
    let label = registry.label(&entry);
    let events = callers.events();
    let own = events.iter().rev().filter(|event| {
        matches!(event.kind, Kind::Pin | Kind::Policy)
            && event
                .caller()
                .is_some_and(|of| of == name || Some(of) == label.as_deref())
    });
    let told = |event: &Arc<Event>| serde_json::from_str(&event.to_json()).ok();
    let mut own: Vec<_> = own.take(LATEST).filter_map(told).collect();
    own.reverse();
    let drill = Drill {
        v: 1,
        at: now.as_secs_f64(),
        caller: &caller,
        histograms: histograms.unwrap_or_default(),
        runbook: account.and_then(|account| account.runbook.as_deref()),
        tier: account.and_then(|account| account.tier.as_deref()),
        acts: caller.policy.map(|policy| policy.mode.min(callers.mode())),
        ceiling: CeilingSnapshot::take(&core.admission),
        events: own,
        unknown: (name == UNKNOWN).then(|| UnknownSnapshot::take(registry)),
    };
    serde_json::to_string(&drill).ok()
}

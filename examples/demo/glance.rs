//! The few lines that are printed every few seconds: who is it?

use std::collections::BTreeMap;
use std::sync::Arc;

use callerid::events::{Body, Change, Event, Kind};
use callerid::snapshot::{CallerSnapshot, RouteSnapshot};
use callerid::{Callers, Class, Snapshot};

use crate::columns::{aligned, clean, duration};

/// How much of the past a glance shows, in seconds.
const SPAN: usize = 10;
const BAR: usize = 30;
const SHOWN: usize = 12;

/// Alarms that have not ended, by their ids.
#[derive(Default)]
pub(crate) struct Open(BTreeMap<Arc<str>, String>);

impl Open {
    /// A finding, a deploy or a change of a limit, as a line; `None` for what is only an update, and for the end of
    /// one alarm while the same caller has another.
    pub(crate) fn told(&mut self, callers: &Callers, event: &Event) -> Option<String> {
        let who = clean(event.caller().unwrap_or("the service"));
        let line = match (event.kind, event.finding(), event.pin()) {
            (Kind::RunawayStarted | Kind::RunawayUpdated, Some(found), _) => {
                self.0.insert(Arc::clone(&event.id), who);
                let words = clean(&callers.in_words(event)?);
                let after = event.t - found.since;
                format!("!! {words} [{} after {after:.1} s]", event.kind.as_str())
            }
            (Kind::RunawayEnded, ..) => {
                self.0.remove(&event.id);
                if self.0.values().any(|open| *open == who) {
                    return None;
                }
                format!("ok {who} is back to its past")
            }
            (Kind::ServiceDegraded, ..) => {
                "!! the service fails several callers: nobody to blame".to_owned()
            }
            (Kind::ServiceRecovered, ..) => "ok the service works again".to_owned(),
            (Kind::Crowd, ..) => "-- everybody sends more".to_owned(),
            (Kind::CrowdEnded, ..) => "-- everybody sends as usual".to_owned(),
            (Kind::Pin, _, Some(pin)) => {
                let what = pin.version.as_deref().or(pin.text.as_deref());
                let what = clean(what.unwrap_or("something"));
                match pin.pin {
                    Change::Deploy => format!("-- {who} has deployed {what}"),
                    kind => format!("-- {who} has changed something ({}): {what}", kind.as_str()),
                }
            }
            (_, _, None) => {
                let Body::Policy { change, author, .. } = &event.body else {
                    return None;
                };
                format!(
                    "-- {} changed what {who} may do: {}",
                    clean(author),
                    clean(change)
                )
            }
            _ => return None,
        };
        Some(format!("\n{line}\n"))
    }
}

/// Who sent how much in the last ten seconds, busiest first. Routes and errors are those since `before`.
pub(crate) fn render(snapshot: &Snapshot, before: Option<&Snapshot>, act: &str) -> String {
    let mut callers: Vec<_> = snapshot
        .callers
        .iter()
        .filter(|caller| caller.rates.minute > 0.0 && caller.name != "__exempt__")
        .collect();
    callers.sort_by(|a, b| b.rates.ten_seconds.total_cmp(&a.rates.ten_seconds));
    let total: f64 = callers.iter().map(|caller| caller.rates.ten_seconds).sum();
    let header = [
        "caller",
        "req/s",
        "share",
        "",
        "failed",
        "p99",
        "busiest route",
        "error",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(callers.iter().take(SHOWN).map(|caller| {
        let before = before.and_then(|before| before.caller(&caller.name));
        cells(caller, before, total)
    }));
    let table = aligned(&rows, &[false, true, true, false, true, true, false, false]);
    format!("\n{total:.0} requests/s. {act}\n{table}")
}

fn cells(caller: &CallerSnapshot, before: Option<&CallerSnapshot>, total: f64) -> [String; 8] {
    let rate = caller.rates.ten_seconds;
    let share = if total > 0.0 { rate / total } else { 0.0 };
    let dash = || "-".to_owned();
    let ok = caller.latency.iter().find(|of| of.class == Class::Ok);
    [
        clean(&caller.name),
        format!("{rate:.1}"),
        format!("{:.0}%", share * 100.0),
        "#".repeat((share * BAR as f64).round() as usize),
        failed(caller).map_or_else(dash, |failed| format!("{:.0}%", failed * 100.0)),
        ok.map_or_else(dash, |ok| duration(ok.quantiles.p99)),
        busiest(caller, before).unwrap_or_else(dash),
        error(caller, before).unwrap_or_else(dash),
    ]
}

/// The route of most of the requests that ended since `before`.
fn busiest(caller: &CallerSnapshot, before: Option<&CallerSnapshot>) -> Option<String> {
    let since = |route: &RouteSnapshot| {
        let then = before.and_then(|then| then.routes.iter().find(|of| of.route == route.route));
        route.by_class.total() - then.map_or(0, |then| then.by_class.total())
    };
    let busiest = caller.routes.iter().max_by_key(|route| since(route))?;
    (since(busiest) > 0).then(|| busiest.route.clone())
}

/// The most frequent failure since `before`, and what the service said of it.
fn error(caller: &CallerSnapshot, before: Option<&CallerSnapshot>) -> Option<String> {
    let counts = |class| {
        caller.counts.by_class[class] - before.map_or(0, |then| then.counts.by_class[class])
    };
    let failures = Class::ALL.into_iter().filter(|class| *class != Class::Ok);
    let class = failures.max_by_key(|class| counts(*class))?;
    if counts(class) == 0 {
        return None;
    }
    let said = caller.details.iter().find(|detail| detail.class == class);
    Some(said.map_or_else(
        || class.to_string(),
        |detail| match &detail.field {
            Some(field) => format!("{class}: {} {field}", detail.code),
            None => format!("{class}: {}", detail.code),
        },
    ))
}

/// The share of what ended in the span that did not end well.
fn failed(caller: &CallerSnapshot) -> Option<f64> {
    let points = || caller.seconds.iter().rev().take(SPAN);
    let ended: u64 = points().map(|point| point.by_class.total()).sum();
    let ok: u64 = points().map(|point| point.by_class[Class::Ok]).sum();
    (ended > 0).then(|| (ended - ok) as f64 / ended as f64)
}

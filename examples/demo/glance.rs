//! The few lines that are printed every few seconds: who is it?

use callerid::{Class, Snapshot, snapshot::CallerSnapshot};

use crate::table::{aligned, duration, name};

/// How much of the past a glance shows, in seconds.
const SPAN: usize = 10;
const BAR: usize = 30;
const SHOWN: usize = 12;

/// Who sent how much in the last ten seconds, busiest first.
pub(crate) fn render(snapshot: &Snapshot, act: &str) -> String {
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
        "busiest now",
        "most frequent error",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(
        callers
            .iter()
            .take(SHOWN)
            .map(|caller| cells(caller, total)),
    );
    let table = aligned(&rows, &[false, true, true, false, true, true, false, false]);
    format!("\n{total:.0} requests/s. {act}\n{table}")
}

fn cells(caller: &CallerSnapshot, total: f64) -> [String; 8] {
    let rate = caller.rates.ten_seconds;
    let share = if total > 0.0 { rate / total } else { 0.0 };
    let dash = || "-".to_owned();
    let p99 = caller.latency.iter().find(|of| of.class == Class::Ok);
    [
        name(caller),
        format!("{rate:.1}"),
        format!("{:.0}%", share * 100.0),
        "#".repeat((share * BAR as f64).round() as usize),
        failed(caller).map_or_else(dash, |failed| format!("{:.0}%", failed * 100.0)),
        p99.map_or_else(dash, |ok| duration(ok.quantiles.p99)),
        caller
            .routes
            .first()
            .map_or_else(dash, |route| route.route.clone()),
        recent_error(caller).map_or_else(dash, |class| match caller.details.first() {
            Some(detail) if detail.class == class => {
                let field = detail.field.as_deref().unwrap_or_default();
                format!("{class}: {field} {}", detail.code)
            }
            _ => class.to_string(),
        }),
    ]
}

/// The share of what ended in the span that did not end well.
fn failed(caller: &CallerSnapshot) -> Option<f64> {
    let points = || caller.seconds.iter().rev().take(SPAN);
    let ended: u64 = points().map(|point| point.by_class.total()).sum();
    let ok: u64 = points().map(|point| point.by_class[Class::Ok]).sum();
    (ended > 0).then(|| (ended - ok) as f64 / ended as f64)
}

/// The class of most of the span's failures.
fn recent_error(caller: &CallerSnapshot) -> Option<Class> {
    let count = |class: Class| -> u64 {
        let points = caller.seconds.iter().rev().take(SPAN);
        points.map(|point| point.by_class[class]).sum()
    };
    Class::ALL
        .into_iter()
        .filter(|class| *class != Class::Ok)
        .map(|class| (class, count(class)))
        .filter(|(_, count)| *count > 0)
        .max_by_key(|(_, count)| *count)
        .map(|(class, _)| class)
}

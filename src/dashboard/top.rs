//! Every caller on a line of text.

use std::fmt::Write;

use super::columns::{aligned, clean, duration};
use crate::outcome::Class;
use crate::snapshot::{CallerSnapshot, Snapshot};

/// Columns, and whether they are numbers.
const COLUMNS: [(&str, bool); 13] = [
    ("caller", false),
    ("provenance", false),
    ("rate_10s", true),
    ("rate_1m", true),
    ("in_flight", true),
    ("started", true),
    ("ok", true),
    ("errors", false),
    ("refused", false),
    ("ok_p50", true),
    ("ok_p99", true),
    ("top_route", false),
    ("top_detail", false),
];

/// The table, heaviest caller first. Cells are at least two spaces apart and have at most single ones inside;
/// lines that are not a caller's begin with `#`.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let mut rows = vec![COLUMNS.map(|(name, _)| name.to_owned())];
    rows.extend(snapshot.callers.iter().map(cells));
    if let Some(first) = rows.first_mut().and_then(|header| header.first_mut()) {
        first.insert_str(0, "# ");
    }
    let mut text = format!(
        "# callers: {} tracked, {} requests without a row of their own, {} impersonations\n",
        snapshot.tracked, snapshot.overflow, snapshot.impersonations
    );
    text.push_str(&aligned(&rows, &COLUMNS.map(|(_, number)| number)));
    for (what, seen) in unknown(snapshot) {
        let _ = writeln!(text, "# __unknown__ by {what}: {seen}");
    }
    text
}

fn cells(caller: &CallerSnapshot) -> [String; 13] {
    let ok = caller.latency.iter().find(|of| of.class == Class::Ok);
    let time = |seconds: Option<f64>| seconds.map_or_else(nothing, duration);
    let route = caller.routes.first().map(|route| clean(&route.route));
    let detail = caller.details.first().map(|detail| {
        let field = detail.field.as_deref().unwrap_or("-");
        format!(
            "{} {} {} x{}",
            detail.class,
            clean(&detail.code),
            clean(field),
            detail.count
        )
    });
    [
        name(caller),
        caller.provenance.to_string(),
        format!("{:.1}", caller.rates.ten_seconds),
        format!("{:.1}", caller.rates.minute),
        caller.counts.in_flight.to_string(),
        caller.counts.started.to_string(),
        caller.counts.by_class[Class::Ok].to_string(),
        errors(caller),
        counted(caller.counts.refused.iter()),
        time(ok.map(|ok| ok.quantiles.p50)),
        time(ok.map(|ok| ok.quantiles.p99)),
        route.unwrap_or_else(nothing),
        detail.unwrap_or_else(nothing),
    ]
}

/// A caller's name, which its client may have chosen: visible ASCII, but it must not begin a line like a comment.
fn name(caller: &CallerSnapshot) -> String {
    let name = clean(&caller.name);
    if name.starts_with('#') {
        format!("\\{name}")
    } else {
        name
    }
}

fn errors(caller: &CallerSnapshot) -> String {
    let classes = caller.counts.by_class.iter();
    counted(classes.filter(|(class, _)| *class != Class::Ok))
}

/// `validation=12,cancelled=1`, most frequent first.
fn counted<T: std::fmt::Display>(counts: impl Iterator<Item = (T, u64)>) -> String {
    let mut counts: Vec<_> = counts.collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let counts: Vec<_> = counts
        .into_iter()
        .map(|(what, count)| format!("{what}={count}"))
        .collect();
    if counts.is_empty() {
        nothing()
    } else {
        counts.join(",")
    }
}

/// What requests without an identity look like.
fn unknown(snapshot: &Snapshot) -> impl Iterator<Item = (&'static str, String)> {
    const SHOWN: usize = 5;
    let list = |of: &mut dyn Iterator<Item = (String, u64)>| {
        of.take(SHOWN)
            .map(|(value, count)| format!("{} x{count}", clean(&value)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let seen = &snapshot.unknown;
    let mut peers = seen
        .peers
        .iter()
        .map(|(ip, count)| (ip.to_string(), *count));
    let mut agents = seen.agents.iter().cloned();
    [
        ("peer", list(&mut peers)),
        ("user agent", list(&mut agents)),
    ]
    .into_iter()
    .filter(|(_, seen)| !seen.is_empty())
}

fn nothing() -> String {
    "-".to_owned()
}

//! What a caller sees of itself, as a page for a browser.

use std::fmt::Write;

use serde_json::Value;

use super::html::{document, escape, section, time};

/// Rows of a table.
const SHOWN: usize = 20;

/// The page, from what the same caller gets as JSON.
pub(super) fn page(usage: &Value) -> String {
    let name = text(&usage["caller"]);
    let mut body = incidents(usage);
    let _ = write!(
        body,
        "<section><h2>{name}</h2><p class=\"hint\">Your own usage, on replica {}, as of {}.</p><dl>{}</dl></section>",
        text(&usage["instance"]),
        usage["at"].as_f64().map_or_else(String::new, time),
        facts(usage),
    );
    body.push_str(&section(
        "How your requests end",
        "None has ended yet.",
        &["class", "last two minutes", "share", "in all"],
        &[1, 2, 3],
        &classes(usage),
    ));
    body.push_str(&section(
        "What was said about your errors",
        "Nothing.",
        &["class", "code", "field", "times"],
        &[3],
        &rows(&usage["errors"], |of| {
            let fields = ["class", "code", "field", "count"];
            fields.map(|field| text(&of[field])).to_vec()
        }),
    ));
    let refused = [
        ("refused", ""),
        ("would_refuse", ", were the limit in force"),
    ];
    let refused = refused.into_iter().flat_map(|(field, more)| {
        let counts = usage["counts"][field].as_object().into_iter().flatten();
        counts.map(move |(reason, count)| vec![format!("{}{more}", escape(reason)), text(count)])
    });
    body.push_str(&section(
        "What was refused",
        "None of your requests.",
        &["limit", "times"],
        &[1],
        &refused.collect::<Vec<_>>(),
    ));
    body.push_str(&section(
        "Your routes",
        "None is known.",
        &["route", "ended", "errors"],
        &[1],
        &rows(&usage["routes"], route),
    ));
    body.push_str(&section(
        "Your last failures",
        "None is known.",
        &["ended", "route", "status", "why", "trace id"],
        &[],
        &rows(&usage["failures"], failure),
    ));
    body.push_str(&section(
        "Your deploys and other changes",
        "None is known.",
        &["when", "what"],
        &[],
        &rows(&usage["pins"], pin),
    ));
    document(&format!("{name} at {}", text(&usage["service"])), &body)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => escape(text),
        value => escape(&value.to_string()),
    }
}

fn number(value: &Value) -> Option<String> {
    let value = value.as_f64()?;
    let text = if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    };
    Some(text)
}

fn rows(list: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    let list = list.as_array().into_iter().flatten();
    list.take(SHOWN).map(row).collect()
}

fn facts(usage: &Value) -> String {
    let mut facts = String::new();
    let mut fact = |term: &str, value: String| {
        let _ = write!(facts, "<dt>{term}</dt><dd>{value}</dd>");
    };
    let rate = |window: &str| number(&usage["rates"][window]).unwrap_or_else(|| "0".to_owned());
    let (now, minutes) = (rate("ten_seconds"), rate("ten_minutes"));
    fact(
        "requests/s",
        format!("{now} now, {minutes} over ten minutes"),
    );
    let limits = &usage["limits"];
    let quota = number(&limits["quota"]).map(|quota| {
        let burst = number(&limits["burst"]).map(|burst| format!(", {burst} at once"));
        let left = number(&limits["left"]).map(|left| format!(", of which {left} are left"));
        let (burst, left) = (burst.unwrap_or_default(), left.unwrap_or_default());
        format!("{quota} requests/s{burst}{left}")
    });
    fact("quota", quota.unwrap_or_else(|| "none".to_owned()));
    let in_flight = number(&usage["counts"]["in_flight"]).unwrap_or_else(|| "0".to_owned());
    let most = number(&limits["max_in_flight"]);
    fact(
        "in flight",
        match most {
            Some(most) => format!("{in_flight} of at most {most}"),
            None => format!("{in_flight}; no limit of your own"),
        },
    );
    if limits["mode"]
        .as_str()
        .is_some_and(|mode| mode != "enforce")
    {
        fact(
            "your limits",
            "only count what they would refuse".to_owned(),
        );
    }
    if let Some(held) = usage["held"].as_object() {
        let until = held.get("until").and_then(Value::as_f64).map(time);
        let until = until.map_or_else(String::new, |until| format!(", until {until}"));
        let what = match held.get("quota").and_then(Value::as_str) {
            Some(quota) => format!("to {}{until}", escape(quota)),
            None => format!("everything is refused{until}"),
        };
        fact("<b>held</b>", what);
    }
    let clamped = &usage["clamped"];
    if clamped["mode"] == "enforce" {
        let until = clamped["until"].as_f64().map_or_else(String::new, time);
        let quota = text(&clamped["quota"]);
        fact(
            "<b>held</b>",
            format!("to {quota}, since you run away; until {until} at the latest"),
        );
    }
    for latency in usage["latency"].as_array().into_iter().flatten() {
        let millis = |of: &str| latency[of].as_f64().unwrap_or_default() * 1e3;
        fact(
            &format!("latency, {}", text(&latency["class"])),
            format!("p50 {:.1} ms, p99 {:.1} ms", millis("p50"), millis("p99")),
        );
    }
    facts
}

fn classes(usage: &Value) -> Vec<Vec<String>> {
    let mut now = std::collections::BTreeMap::<&str, u64>::new();
    for point in usage["last_two_minutes"].as_array().into_iter().flatten() {
        for (class, count) in point["by_class"].as_object().into_iter().flatten() {
            *now.entry(class).or_default() += count.as_u64().unwrap_or_default();
        }
    }
    let all: u64 = now.values().sum();
    let ever = usage["counts"]["by_class"]
        .as_object()
        .into_iter()
        .flatten();
    ever.map(|(class, ever)| {
        let recent = now.get(&**class).copied().unwrap_or_default();
        let share = (all > 0).then(|| format!("{:.0} %", 100.0 * recent as f64 / all as f64));
        let share = share.unwrap_or_else(|| "–".to_owned());
        vec![escape(class), recent.to_string(), share, text(ever)]
    })
    .collect()
}

fn route(of: &Value) -> Vec<String> {
    let counts = of["by_class"].as_object().into_iter().flatten();
    let counts: Vec<_> = counts
        .map(|(class, count)| (class, count.as_u64().unwrap_or_default()))
        .collect();
    let ended: u64 = counts.iter().map(|(_, count)| count).sum();
    let errors = counts.iter().filter(|(class, _)| *class != "ok");
    let errors: Vec<_> = errors
        .map(|(class, count)| format!("{} {count}", escape(class)))
        .collect();
    let errors = match errors.is_empty() {
        true => "–".to_owned(),
        false => errors.join(", "),
    };
    vec![text(&of["route"]), ended.to_string(), errors]
}

fn failure(of: &Value) -> Vec<String> {
    let why = match of["code"].as_str() {
        Some(code) => format!("{}: {}", text(&of["class"]), escape(code)),
        None => text(&of["class"]),
    };
    vec![
        of["at"].as_f64().map_or_else(String::new, time),
        text(&of["route"]),
        text(&of["status"]),
        why,
        text(&of["trace_id"]),
    ]
}

fn pin(of: &Value) -> Vec<String> {
    let pin = &of["pin"];
    let words = ["pin", "version", "text"].map(|field| pin[field].as_str().map(escape));
    let on = pin["on"].as_bool().map(|on| if on { "on" } else { "off" });
    let words = words.into_iter().flatten().chain(on.map(str::to_owned));
    let when = of["t"].as_f64().map_or_else(String::new, time);
    vec![when, words.collect::<Vec<_>>().join(" ")]
}

fn incidents(usage: &Value) -> String {
    let mut text_of = String::new();
    for incident in usage["incidents"].as_array().into_iter().flatten() {
        let eta = incident["eta"].as_f64().map_or_else(
            || "no estimate yet".to_owned(),
            |eta| format!("expected to be over: {}", time(eta)),
        );
        let fallback = incident["fallback"]
            .as_str()
            .map_or_else(String::new, |text| {
                format!("<p>Meanwhile: {}</p>", escape(text))
            });
        let _ = write!(
            text_of,
            "<article class=\"incident\"><h3>{}</h3><p>{}, {eta}</p>{fallback}<p>{}</p></article>",
            text(&incident["name"]),
            text(&incident["state"]),
            text(&incident["said"]),
        );
    }
    if text_of.is_empty() {
        return text_of;
    }
    format!("<section><h2>What is going on</h2>{text_of}</section>")
}

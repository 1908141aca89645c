//! The report, as people and as programs read it.

use std::fmt::Write as _;
use std::sync::Arc;

use super::Report;
use crate::clock::date_of;
use crate::events::{Body, Event, PROGRAM};
use crate::json::Line;
use crate::watch::words::in_words;

impl Report {
    /// The report for people.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        let finding = &self.finding;
        let or = |text: &Option<Arc<str>>| escape(text.as_deref().unwrap_or("-"));
        let _ = writeln!(text, "# Runaway of {}\n", or(&finding.caller));
        let _ = writeln!(
            text,
            "{}\n",
            escape(&in_words(finding, self.ours.as_ref(), self.said.0))
        );
        let _ = writeln!(text, "| | |\n|---|---|");
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "| {name} | {value} |");
        };
        row("id", escape(&self.id));
        row("owner", or(&finding.owner));
        row("contact", or(&finding.contact));
        row("began", utc(finding.since));
        row("said", utc(self.said.0));
        row(
            "ended",
            self.said.1.map_or_else(|| "not yet".to_owned(), utc),
        );
        row("harm", finding.harm.as_str().to_owned());
        row("refused", self.refused.to_string());
        let _ = writeln!(text, "\n## Timeline\n");
        for event in &self.timeline {
            let _ = writeln!(text, "* {} {}", utc(event.happened()), escape(&line(event)));
        }
        if !self.details.is_empty() {
            let _ = writeln!(
                text,
                "\n## What handlers said of its errors since\n\n| code | field | requests |\n|---|---|--:|"
            );
            for (code, field, count) in &self.details {
                let field = field.as_deref().unwrap_or("-");
                let _ = writeln!(text, "| {} | {} | {count} |", escape(code), escape(field));
            }
        }
        let _ = writeln!(text, "\n## Who was hurt\n");
        if self.hurt.is_empty() {
            let _ = writeln!(text, "Nobody, as far as answers and times show.");
        } else {
            let _ = writeln!(
                text,
                "| caller | failed by the service, before | since | mean time, before | since | refused |\n|---|--:|--:|--:|--:|--:|"
            );
        }
        for hurt in &self.hurt {
            let _ = writeln!(
                text,
                "| {} | {:.1} % | {:.1} % | {:.0} ms | {:.0} ms | {} |",
                escape(&hurt.caller),
                100.0 * hurt.faults.0,
                100.0 * hurt.faults.1,
                1e3 * hurt.time.0,
                1e3 * hurt.time.1,
                hurt.refused
            );
        }
        let _ = writeln!(
            text,
            "\n## Requests in steps of ten seconds\n\n| time | all | caller | its errors | all the others |\n|---|--:|--:|--:|--:|"
        );
        for point in &self.series {
            let rest = point.total.saturating_sub(point.caller);
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {rest} |",
                utc(point.at as f64),
                point.total,
                point.caller,
                point.errors
            );
        }
        text
    }

    /// The report for programs: one JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        let mut all = Line::new();
        all.raw("v", "1");
        all.text("id", Some(&self.id));
        all.number("said", Some(self.said.0));
        all.number("ended", self.said.1);
        let mut finding = Line::new();
        self.finding.write(&mut finding);
        all.raw("finding", &finding.end());
        all.text(
            "words",
            Some(&in_words(&self.finding, self.ours.as_ref(), self.said.0)),
        );
        all.array(
            "timeline",
            self.timeline.iter().map(|event| event.to_json()),
        );
        all.number("refused", Some(self.refused as f64));
        let details = self.details.iter().map(|(code, field, count)| {
            let mut detail = Line::new();
            detail.text("code", Some(code));
            detail.text("field", field.as_deref());
            detail.number("count", Some(*count as f64));
            detail.end()
        });
        all.array("details", details);
        let hurt = self.hurt.iter().map(|hurt| {
            let mut one = Line::new();
            one.text("caller", Some(&hurt.caller));
            one.number("faults_before", Some(hurt.faults.0));
            one.number("faults_since", Some(hurt.faults.1));
            one.number("time_before", Some(hurt.time.0));
            one.number("time_since", Some(hurt.time.1));
            one.number("refused", Some(hurt.refused as f64));
            one.end()
        });
        all.array("hurt", hurt);
        let series = self.series.iter().map(|point| {
            let mut one = Line::new();
            one.number("at", Some(point.at as f64));
            one.number("total", Some(point.total as f64));
            one.number("caller", Some(point.caller as f64));
            one.number("errors", Some(point.errors as f64));
            one.end()
        });
        all.array("series", series);
        all.end()
    }
}

/// One event of the timeline.
fn line(event: &Event) -> String {
    let who = event.caller().unwrap_or("we");
    match (&event.body, event.finding(), event.pin()) {
        (_, Some(finding), _) => format!(
            "{}: {} observed {:.4}, baseline {:.4}, harm {}",
            event.kind.as_str(),
            finding.signal.map_or("-", crate::events::Signal::as_str),
            finding.observed,
            finding.baseline,
            finding.harm.as_str()
        ),
        (_, _, Some(pin)) => {
            let words = [
                Some(pin.pin.as_str()),
                pin.version.as_deref(),
                pin.text.as_deref(),
            ];
            let words: Vec<_> = words.into_iter().flatten().collect();
            let author = pin.author.as_deref().filter(|by| *by != PROGRAM);
            let author = author.map_or_else(String::new, |by| format!(" (by {by})"));
            format!("{who}: {}{author}", words.join(" "))
        }
        (Body::Incident { said, author, .. }, ..) => format!("{author} told people: {said}"),
        (Body::Policy { change, author, .. }, ..) => {
            let who = event.caller().unwrap_or("everybody");
            format!("{author} changed what {who} may do: {change}")
        }
        (Body::Finding(_) | Body::Pin(_), ..) => event.kind.as_str().to_owned(),
    }
}

/// Names come from outside, and Markdown is code.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => safe.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '!' | '&' => {
                safe.push('\\');
                safe.push(c);
            }
            c => safe.push(c),
        }
    }
    safe
}

/// A time of day and date in UTC.
pub(crate) fn utc(t: f64) -> String {
    let secs = t.max(0.0) as u64;
    let (days, second) = (secs / 86_400, secs % 86_400);
    let (year, month, date) = date_of(days);
    let (hour, minute) = (second / 3_600, second % 3_600 / 60);
    format!(
        "{year:04}-{month:02}-{date:02} {hour:02}:{minute:02}:{:02}Z",
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0.0), "1970-01-01 00:00:00Z");
        assert_eq!(utc(951_782_399.9), "2000-02-28 23:59:59Z");
        assert_eq!(utc(951_782_400.0), "2000-02-29 00:00:00Z");
        assert_eq!(utc(1_761_112_930.0), "2025-10-22 06:02:10Z");
    }

    #[test]
    fn names_are_text_and_not_markdown() {
        assert_eq!(escape("<img>|x\n`"), "\\<img\\>\\|x \\`");
    }
}

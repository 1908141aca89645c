//! The report of a runaway, for the post-mortem.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::blame::{OwnChange, ours};
use super::words::in_words;
use super::{Inner, Watch};
use crate::caller::EXEMPT;
use crate::events::{Event, Finding, Kind};
use crate::json::Line;
use crate::outcome::{Class, Fault};
use crate::pipeline::Core;
use crate::record::row::{Row, lock};
use crate::record::window::Step;
use crate::registry::entry::Entry;

/// Reports that are kept, the latest.
const KEPT: usize = 32;
/// Seconds before the onset with which the series begin.
const BEFORE: u64 = 600;
/// A caller suffers whose share of the service's faults rose by so much,
const FAULTS: f64 = 0.02;
/// or whose requests took so many times as long,
const SLOWER: f64 = 2.0;
/// in at least so many requests.
const FEW: f64 = 5.0;

/// What happened in a runaway: what was said of it, what was done, and who was hurt. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The id of the runaway.
    pub id: Arc<str>,
    /// The last that was said of it.
    pub finding: Finding,
    /// When it was first said, and when its end was; `None` while it lasts.
    pub said: (f64, Option<f64>),
    /// Everything that was said and done from ten minutes before on: the runaway, pins of the caller and of ours,
    /// changes of limits, incidents.
    pub timeline: Vec<Arc<Event>>,
    /// Our own last change before it.
    pub ours: Option<OwnChange>,
    /// Requests of the caller that were refused since the onset.
    pub refused: u64,
    /// What handlers said of the caller's errors, most frequent first: code, field and count since the caller was
    /// first seen.
    pub details: Vec<(String, Option<String>, u64)>,
    /// Other callers who suffered since the onset.
    pub hurt: Vec<Hurt>,
    /// The series in steps of ten seconds, from ten minutes before the onset.
    pub series: Vec<ReportPoint>,
}

/// Another caller who suffered.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Hurt {
    /// The caller, as metrics show it.
    pub caller: String,
    /// The share of its requests that the service failed, before and since the onset.
    pub faults: (f64, f64),
    /// The mean time of its requests in seconds, before and since the onset.
    pub time: (f64, f64),
    /// Its requests that were refused since the onset.
    pub refused: u64,
}

/// Ten seconds of the series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportPoint {
    /// When they began, in Unix seconds.
    pub at: u64,
    /// Requests of everybody.
    pub total: u64,
    /// Requests of the caller.
    pub caller: u64,
    /// Requests of the caller that did not end well.
    pub errors: u64,
}

/// What is kept of a runaway.
#[derive(Debug)]
pub(super) struct Record {
    id: Arc<str>,
    entry: Option<Arc<Entry>>,
    first: Arc<Event>,
    /// The series when it was first said: later they are forgotten.
    frozen: BTreeMap<u64, ReportPoint>,
    /// Everything, once it is over.
    done: Option<Report>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    requests: f64,
    ended: f64,
    faults: f64,
    refused: u64,
    busy: f64,
}

impl Sums {
    fn add(&mut self, step: &Step) {
        self.requests += f64::from(step.started);
        self.refused += u64::from(step.refused);
        self.busy += f64::from(step.busy) / 1e3;
        for class in Class::ALL {
            let count = f64::from(step.by_class[class.index()]);
            self.ended += count;
            if class.fault() == Fault::Service {
                self.faults += count;
            }
        }
    }

    fn fault_share(&self) -> f64 {
        if self.ended > 0.0 {
            self.faults / self.ended
        } else {
            0.0
        }
    }

    fn time(&self) -> f64 {
        if self.requests > 0.0 {
            self.busy / self.requests
        } else {
            0.0
        }
    }
}

impl Record {
    fn new(core: &Core, entry: Option<&Arc<Entry>>, first: &Arc<Event>) -> Self {
        let mut record = Self {
            id: Arc::clone(&first.id),
            entry: entry.cloned(),
            first: Arc::clone(first),
            frozen: BTreeMap::new(),
            done: None,
        };
        record.frozen = record.series(core);
        record
    }

    fn since(&self) -> f64 {
        self.first
            .finding()
            .map_or(self.first.t, |finding| finding.since)
    }

    fn row(&self) -> Option<&Arc<Row>> {
        self.entry.as_ref()?.row()
    }

    fn is_own(&self, row: &Arc<Row>) -> bool {
        self.row().is_some_and(|own| Arc::ptr_eq(own, row))
    }

    /// The series from ten minutes before the onset, as far as they are known now.
    fn series(&self, core: &Core) -> BTreeMap<u64, ReportPoint> {
        let from = (self.since() as u64).saturating_sub(BEFORE);
        let mut points = self.frozen.clone();
        let mut fresh: BTreeMap<u64, ReportPoint> = BTreeMap::new();
        for row in core.registry.rows() {
            let own = self.is_own(&row);
            for step in row.series().coarse().filter(|step| step.at >= from) {
                let point = fresh.entry(step.at).or_default();
                point.at = step.at;
                point.total += u64::from(step.started);
                if own {
                    point.caller += u64::from(step.started);
                    let bad = step.by_class.iter().skip(1).map(|&count| u64::from(count));
                    point.errors += bad.sum::<u64>();
                }
            }
        }
        points.append(&mut fresh);
        points
    }

    /// Who else suffered since the onset.
    fn hurt(&self, core: &Core) -> Vec<Hurt> {
        let onset = self.since() as u64;
        let others = core.registry.rows();
        let others = others
            .iter()
            .filter(|row| !self.is_own(row) && *row.label != *EXEMPT);
        let hurt = others.filter_map(|row| {
            let (mut before, mut since) = (Sums::default(), Sums::default());
            for step in row.series().coarse() {
                if step.at + 10 <= onset && step.at + BEFORE >= onset {
                    before.add(step);
                } else if step.at + 10 > onset {
                    since.add(step);
                }
            }
            let failed = since.fault_share() >= before.fault_share() + FAULTS;
            let slow = before.time() > 0.0 && since.time() >= SLOWER * before.time();
            let enough = since.requests >= FEW;
            (enough && (failed || slow || since.refused > 0)).then(|| Hurt {
                caller: row.label.to_string(),
                faults: (before.fault_share(), since.fault_share()),
                time: (before.time(), since.time()),
                refused: since.refused,
            })
        });
        let mut hurt: Vec<_> = hurt.collect();
        hurt.sort_by(|a, b| b.faults.1.total_cmp(&a.faults.1));
        hurt
    }

    fn report(&self, core: &Core, events: &[Arc<Event>]) -> Option<Report> {
        let from = self.since() - BEFORE as f64;
        let of_it = || events.iter().rev().filter(|event| event.id == self.id);
        let last = of_it().next().unwrap_or(&self.first);
        let finding = last.finding()?.clone();
        let end = of_it().find(|event| event.kind == Kind::RunawayEnded);
        let end = end.map(|event| event.t);
        let caller = finding.caller.clone();
        let concerns = |event: &&Arc<Event>| {
            let of_caller = event.caller().is_none() || event.caller() == caller.as_deref();
            event.id == self.id || (event.finding().is_none() && of_caller)
        };
        let inside =
            |event: &&Arc<Event>| event.t >= from && end.is_none_or(|end| event.t <= end + 1.0);
        let before: Vec<_> = events
            .iter()
            .filter(|event| event.t <= self.first.t)
            .cloned()
            .collect();
        let mut refused = 0;
        let mut details = Vec::new();
        if let Some(row) = self.row() {
            let onset = self.since() as u64;
            let steps = row.series();
            let since = steps.coarse().filter(|step| step.at + 10 > onset);
            refused = since.map(|step| u64::from(step.refused)).sum();
            drop(steps);
            let said = row.details();
            details = said
                .most()
                .into_iter()
                .map(|(detail, count)| {
                    let field = detail.field.as_deref().map(str::to_owned);
                    (detail.code.to_string(), field, count)
                })
                .collect();
        }
        Some(Report {
            id: Arc::clone(&self.id),
            said: (self.first.t, end),
            timeline: events
                .iter()
                .filter(concerns)
                .filter(inside)
                .cloned()
                .collect(),
            ours: ours(&before),
            refused,
            details,
            hurt: self.hurt(core),
            series: self.series(core).into_values().collect(),
            finding,
        })
    }
}

impl Inner {
    /// Begins to keep what the report of a runaway needs.
    pub(super) fn record(&mut self, core: &Core, entry: Option<&Arc<Entry>>, first: &Arc<Event>) {
        if self.records.len() >= KEPT {
            self.records.pop_front();
        }
        self.records.push_back(Record::new(core, entry, first));
    }

    /// Closes the report of a runaway that has ended.
    pub(super) fn close_record(&mut self, core: &Core, events: &[Arc<Event>], id: &str) {
        if let Some(record) = self.records.iter_mut().find(|record| *record.id == *id) {
            record.done = record.report(core, events);
        }
    }
}

impl Watch {
    /// The report of a runaway, of the last 32.
    pub(crate) fn report(&self, core: &Core, id: &str) -> Option<Report> {
        let events = self.log.events();
        let inner = lock(&self.inner);
        let record = inner.records.iter().find(|record| *record.id == *id)?;
        record.done.clone().or_else(|| record.report(core, &events))
    }
}

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
            let _ = writeln!(text, "* {} {}", utc(event.t), escape(&line(event)));
        }
        if !self.details.is_empty() {
            let _ = writeln!(
                text,
                "\n## What handlers said of its errors\n\n| code | field | requests |\n|---|---|--:|"
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
            format!("{who}: {}", words.join(" "))
        }
        (crate::events::Body::Policy { change, author, .. }, ..) => {
            let who = event.caller().unwrap_or("everybody");
            format!("{author} changed what {who} may do: {change}")
        }
        _ => event.kind.as_str().to_owned(),
    }
}

/// Names come from outside, and Markdown is code.
fn escape(text: &str) -> String {
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
fn utc(t: f64) -> String {
    let secs = t.max(0.0) as u64;
    let (days, second) = (secs / 86_400, secs % 86_400);
    // The civil calendar from days since 1970-01-01, by eras of 400 years of 146,097 days that begin in March.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
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

//! The outcome, for people.

use std::fmt;
use std::fmt::Write as _;

use super::outcome::{Caller, Outcome};
use crate::events::Kind;
use crate::watch::report::text::{escape, utc};

/// Callers that are listed.
const LISTED: usize = 30;
/// Smaller times are not since 1970 but since whatever the log begins with.
const SINCE_1970: f64 = 1e8;

fn time(t: f64) -> String {
    if t < SINCE_1970 {
        return format!("{t:.1} s");
    }
    utc(t)
}

fn percent(part: u64, of: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / of.max(1) as f64)
}

fn millis(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |p99| format!("{:.0} ms", 1e3 * p99))
}

fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::Crowd => "everybody rises",
        Kind::ServiceDegraded => "the service itself",
        _ => "runaway",
    }
}

impl Outcome {
    fn head(&self) -> String {
        let read = &self.read;
        let mut text = format!(
            "{} lines, {} bad, {} callers, {} events",
            read.lines,
            read.bad_lines,
            self.callers.len(),
            self.said
        );
        if let Some((first, last)) = self.span {
            let _ = write!(text, ", from {} to {}", time(first), time(last));
        }
        if let Some(why) = &read.broken_off {
            let _ = write!(text, "; the log breaks off there: {why}");
        }
        text
    }

    fn rows(&self) -> impl Iterator<Item = [String; 4]> + '_ {
        self.callers.iter().take(LISTED).map(|caller| {
            [
                caller.name.clone(),
                caller.requests.to_string(),
                percent(caller.errors, caller.requests),
                millis(caller.p99),
            ]
        })
    }

    /// Callers that are not listed, and those that were not tracked to the end.
    fn rest(&self) -> String {
        let more = self.callers.iter().skip(LISTED);
        let (count, requests) = more.fold((0_u64, 0_u64), |(count, sum), caller| {
            (count + 1, sum + caller.requests)
        });
        let mut text = String::new();
        if count > 0 {
            let _ = writeln!(text, "and {count} more with {requests} requests");
        }
        if self.forgotten > 0 {
            let _ = writeln!(
                text,
                "and {} requests of callers that had left the table at the end",
                self.forgotten
            );
        }
        text
    }

    /// What was found, each in a line.
    fn findings(&self) -> impl Iterator<Item = String> + '_ {
        self.episodes.iter().map(|episode| {
            let until = match episode.ended {
                Some(ended) => format!("ended {}", time(ended)),
                None => "lasts".to_owned(),
            };
            format!(
                "{} ({until}), {}: {}",
                time(episode.said),
                what(episode.kind),
                episode.words
            )
        })
    }

    fn refused(&self) -> impl Iterator<Item = (&Caller, &'static str, u64)> + '_ {
        self.callers.iter().flat_map(|caller| {
            let reasons = caller.would_refuse.iter();
            reasons.map(move |&(reason, count)| (caller, reason, count))
        })
    }

    /// The report as Markdown: callers, what was found, what limits would have refused, and a report of each runaway.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("# Replay\n\n{}\n", self.head());
        for bad in &self.read.first_bad {
            let _ = writeln!(text, "\n* line {}: {}", bad.number, escape(&bad.problem));
        }
        text.push_str("\n## Callers\n\n| caller | requests | errors | p99 of good ones |\n|---|--:|--:|--:|\n");
        for [name, requests, errors, p99] in self.rows() {
            let _ = writeln!(
                text,
                "| {} | {requests} | {errors} | {p99} |",
                escape(&name)
            );
        }
        let _ = writeln!(text, "\n{}", self.rest());
        text.push_str("## Who ran away\n\n");
        for finding in self.findings() {
            let _ = writeln!(text, "* {}", escape(&finding));
        }
        if self.episodes.is_empty() {
            text.push_str("Nobody.\n");
        }
        if self.more_episodes > 0 {
            let _ = writeln!(text, "* and {} more", self.more_episodes);
        }
        if self.limits {
            text.push_str("\n## What limits would have refused\n\n| caller | reason | requests | of its requests |\n|---|---|--:|--:|\n");
            for (caller, reason, count) in self.refused() {
                let share = percent(count, caller.requests);
                let _ = writeln!(
                    text,
                    "| {} | {reason} | {count} | {share} |",
                    escape(&caller.name)
                );
            }
        }
        for report in self
            .episodes
            .iter()
            .filter_map(|episode| episode.report.as_ref())
        {
            text.push('\n');
            for line in report.lines() {
                // Headings go one level down.
                let level = if line.starts_with('#') { "#" } else { "" };
                let _ = writeln!(text, "{level}{line}");
            }
        }
        text
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.head())?;
        for bad in &self.read.first_bad {
            writeln!(f, "  line {}: {}", bad.number, bad.problem)?;
        }
        writeln!(
            f,
            "\n{:<40} {:>12} {:>8} {:>10}",
            "caller", "requests", "errors", "p99 (ok)"
        )?;
        for [name, requests, errors, p99] in self.rows() {
            writeln!(f, "{name:<40} {requests:>12} {errors:>8} {p99:>10}")?;
        }
        f.write_str(&self.rest())?;
        writeln!(f, "\nWho ran away:")?;
        for finding in self.findings() {
            writeln!(f, "  {finding}")?;
        }
        if self.episodes.is_empty() {
            writeln!(f, "  nobody")?;
        }
        if self.more_episodes > 0 {
            writeln!(f, "  and {} more", self.more_episodes)?;
        }
        if self.limits {
            writeln!(f, "\nWhat limits would have refused:")?;
            for (caller, reason, count) in self.refused() {
                let share = percent(count, caller.requests);
                writeln!(f, "  {}: {count} ({share}), {reason}", caller.name)?;
            }
            if self.refused().next().is_none() {
                writeln!(f, "  nothing")?;
            }
        }
        Ok(())
    }
}

//! What came of a replay.

use std::sync::Arc;

use crate::caller::OTHER;
use crate::events::{Event, Finding, Kind};
use crate::outcome::Class;
use crate::snapshot::{CallerSnapshot, Counts, Snapshot};

/// A line that is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadLine {
    /// Its number, from 1.
    pub number: u64,
    /// What is wrong with it.
    pub problem: String,
}

/// What has been read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) lines: u64,
    pub(super) requests: u64,
    pub(super) bad_lines: u64,
    pub(super) first_bad: Vec<BadLine>,
    /// Why the log could not be read to its end.
    pub(super) broken_off: Option<String>,
}

impl Read {
    pub(super) fn bad(&mut self, problem: String) {
        self.bad_lines += 1;
        if self.first_bad.len() < super::SHOWN {
            self.first_bad.push(BadLine {
                number: self.lines,
                problem,
            });
        }
    }
}

/// A runaway, or a state of the service that nobody is to blame for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Episode {
    /// The id that its events share.
    pub id: Arc<str>,
    /// How it began.
    pub kind: Kind,
    /// When it was first said, in seconds of the log.
    pub said: f64,
    /// When its end was said; `None` where it lasted to the end of the log.
    pub ended: Option<f64>,
    /// The last that was said of it before its end.
    pub finding: Finding,
    /// That in a sentence.
    pub words: String,
    /// The report of a runaway, where one was asked for.
    pub(super) report: Option<String>,
}

impl Episode {
    pub(super) fn new(event: &Event, finding: &Finding) -> Self {
        Self {
            id: Arc::clone(&event.id),
            kind: event.kind,
            said: event.t,
            ended: None,
            finding: finding.clone(),
            words: String::new(),
            report: None,
        }
    }
}

/// A caller, by what it did in the whole log.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) requests: u64,
    pub(super) errors: u64,
    /// Of requests that ended well, in seconds; `None` where the log has no latency.
    pub(super) p99: Option<f64>,
    /// Requests that limits would have refused, by reason.
    pub(super) would_refuse: Vec<(&'static str, u64)>,
}

fn errors(counts: &Counts) -> u64 {
    counts.by_class.total() - counts.by_class[Class::Ok]
}

impl Caller {
    /// `known` are those of the row `__other__` that are told of by name: their requests and errors.
    fn new(caller: &CallerSnapshot, known: (u64, u64)) -> Self {
        let known = if caller.name == OTHER { known } else { (0, 0) };
        let mut latency = caller.latency.iter();
        let ok = latency.find(|latency| latency.class == Class::Ok);
        let refused = caller.counts.would_refuse.iter();
        Self {
            name: caller.name.clone(),
            requests: caller.counts.started.saturating_sub(known.0),
            errors: errors(&caller.counts).saturating_sub(known.1),
            p99: ok.map(|ok| ok.quantiles.p99),
            would_refuse: refused
                .map(|(reason, count)| (reason.as_str(), count))
                .collect(),
        }
    }
}

/// What a replay found. Its text is for people.
#[derive(Debug)]
pub struct Outcome {
    pub(super) read: Read,
    /// The times of the first request and the last.
    pub(super) span: Option<(f64, f64)>,
    pub(super) callers: Vec<Caller>,
    pub(super) episodes: Vec<Episode>,
    pub(super) said: u64,
    pub(super) more_episodes: u64,
    /// Requests of callers that were not tracked to the end.
    pub(super) forgotten: u64,
    pub(super) limits: bool,
}

impl Outcome {
    pub(super) fn new(
        read: Read,
        span: (f64, f64),
        snapshot: &Snapshot,
        episodes: Vec<Episode>,
        (said, more_episodes): (u64, u64),
        limits: bool,
    ) -> Self {
        let in_other = snapshot.callers.iter().map(|caller| &caller.in_other);
        let known = in_other.fold((0, 0), |sum, counts| {
            (sum.0 + counts.started, sum.1 + errors(counts))
        });
        let mut callers: Vec<_> = snapshot
            .callers
            .iter()
            .map(|caller| Caller::new(caller, known))
            .filter(|caller| caller.requests > 0)
            .collect();
        callers.sort_by(|a, b| (b.requests, &a.name).cmp(&(a.requests, &b.name)));
        Self {
            span: (read.requests > 0).then_some(span),
            read,
            callers,
            episodes,
            said,
            more_episodes,
            forgotten: snapshot.forgotten.started,
            limits,
        }
    }

    /// Lines that were read, empty ones included.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.read.lines
    }

    /// Lines that are no request, and the first ones of them.
    #[must_use]
    pub fn bad_lines(&self) -> (u64, &[BadLine]) {
        (self.read.bad_lines, &self.read.first_bad)
    }

    /// Why the log could not be read to its end: a packed file that is cut, a disk that fails. What stands before is
    /// in the outcome.
    #[must_use]
    pub fn broken_off(&self) -> Option<&str> {
        self.read.broken_off.as_deref()
    }

    /// Events that were said.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.said
    }

    /// What was found, in the order in which it was said; at most 1,000.
    #[must_use]
    pub fn episodes(&self) -> &[Episode] {
        &self.episodes
    }
}

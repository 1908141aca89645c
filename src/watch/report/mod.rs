//! The report of a runaway, for the post-mortem.

pub(crate) mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::changes::{LATE, OwnChange, ours};
use super::{Inner, Watch};
use crate::caller::EXEMPT;
use crate::events::{Event, Finding, Kind, Signal};
use crate::lock::lock;
use crate::outcome::{Class, Fault};
use crate::pipeline::Core;
use crate::record::row::Row;
use crate::record::window::Step;
use crate::registry::entry::Entry;

/// Reports that are kept, the latest.
const KEPT: usize = 32;
/// Seconds before the onset with which the series begin.
const BEFORE: u64 = 600;
/// Seconds of a point of the series.
const STEP: f64 = 10.0;
/// A caller suffers whose share of the service's faults rose by so much,
const FAULTS: f64 = 0.02;
/// or whose requests took so many times as long,
const SLOWER: f64 = 2.0;
/// in at least so many requests.
const FEW: f64 = 5.0;

/// Code, field and count.
type Detail = (String, Option<String>, u64);

/// What happened in a runaway: what was said of it, what was done, and who was hurt. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The id of the runaway.
    pub id: Arc<str>,
    /// The worst of it: what was said, by harm and then by what was observed, with the most requests in ten seconds
    /// where it is about requests; and the deploy, route and pattern that were known in the end.
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
    /// What handlers said of the caller's errors, most frequent first: code, field and count since the runaway was
    /// first said.
    pub details: Vec<Detail>,
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
    /// What handlers had said of the caller's errors by then.
    before: Vec<Detail>,
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
            before: Vec::new(),
            done: None,
        };
        record.frozen = record.series(core);
        record.before = record.details();
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

    /// What handlers said of the caller's errors that had not been said before, most frequent first.
    fn details(&self) -> Vec<Detail> {
        let Some(row) = self.row() else {
            return Vec::new();
        };
        let said = row.details();
        let fresh = said.most().into_iter().filter_map(|(detail, count)| {
            let code = detail.code.to_string();
            let field = detail.field.as_deref().map(str::to_owned);
            let mut before = self.before.iter();
            let known = before.find(|known| known.0 == code && known.1 == field);
            let count = count - known.map_or(0, |known| known.2).min(count);
            (count > 0).then_some((code, field, count))
        });
        let mut fresh: Vec<_> = fresh.collect();
        fresh.sort_by_key(|detail| std::cmp::Reverse(detail.2));
        fresh
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
        let mut finding = worst(of_it(), &self.first)?;
        let series: Vec<_> = self.series(core).into_values().collect();
        if finding.signal == Some(Signal::Rate) {
            // What was said is older than the peak: little is said of what goes on.
            let since = series
                .iter()
                .filter(|point| point.at as f64 >= finding.since);
            let most = since.map(|point| point.caller).max().unwrap_or_default();
            finding.observed = finding.observed.max(most as f64 / STEP);
            finding.factor = finding.factor.map(|_| finding.observed / finding.baseline);
        }
        let end = of_it().find(|event| event.kind == Kind::RunawayEnded);
        let end = end.map(|event| event.t);
        let caller = finding.caller.clone();
        let concerns = |event: &&Arc<Event>| {
            let of_caller = event.caller().is_none() || event.caller() == caller.as_deref();
            event.id == self.id || (event.finding().is_none() && of_caller)
        };
        let inside = |event: &&Arc<Event>| {
            event.happened() >= from && end.is_none_or(|end| event.happened() <= end + 1.0)
        };
        let mut refused = 0;
        if let Some(row) = self.row() {
            let onset = self.since() as u64;
            let steps = row.series();
            let since = steps.coarse().filter(|step| step.at + 10 > onset);
            refused = since.map(|step| u64::from(step.refused)).sum();
        }
        let timeline = events.iter().filter(concerns).filter(inside);
        let mut timeline: Vec<_> = timeline.cloned().collect();
        timeline.sort_by(|a, b| a.happened().total_cmp(&b.happened()));
        Some(Report {
            id: Arc::clone(&self.id),
            said: (self.first.t, end),
            timeline,
            ours: ours(events, self.since() + LATE),
            refused,
            details: self.details(),
            hurt: self.hurt(core),
            series,
            finding,
        })
    }
}

/// What was said of a runaway when it was worst, with what was found out later.
fn worst<'e>(said: impl Iterator<Item = &'e Arc<Event>>, first: &'e Arc<Event>) -> Option<Finding> {
    let (mut worst, mut last): (Option<Finding>, Option<Finding>) = (None, None);
    // From the latest to the earliest.
    for event in said.chain([first]) {
        let Some(finding) = event.finding() else {
            continue;
        };
        last.get_or_insert_with(|| finding.clone());
        let beyond = |known: &Finding| {
            let by_harm = finding.harm.cmp(&known.harm);
            by_harm
                .then(finding.observed.total_cmp(&known.observed))
                .is_gt()
        };
        // Its end says that it is calm.
        if event.kind != Kind::RunawayEnded && worst.as_ref().is_none_or(beyond) {
            worst = Some(finding.clone());
        }
    }
    let (last, worst) = (last?, worst?);
    Some(Finding {
        route: last.route.or(worst.route),
        pattern: last.pattern.or(worst.pattern),
        deploy: last.deploy.or(worst.deploy),
        expected: last.expected,
        acknowledged_by: last.acknowledged_by,
        ..worst
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Body, Deploy, Harm};

    fn said(kind: Kind, harm: Harm, observed: f64, deploy: Option<&str>) -> Arc<Event> {
        let deploy = deploy.map(|version| Deploy {
            version: version.into(),
            t: 1.0,
        });
        let finding = Finding {
            caller: Some("checkout".into()),
            provenance: None,
            owner: None,
            contact: None,
            signal: Some(Signal::Errors),
            route: None,
            class: None,
            factor: None,
            baseline: 0.1,
            observed,
            share_of_rise: None,
            harm,
            pattern: None,
            deploy,
            since: 1.0,
            expected: false,
            acknowledged_by: None,
        };
        Arc::new(Event {
            id: "1".into(),
            t: 1.0,
            kind,
            service: "prices".into(),
            instance: "a".into(),
            body: Body::Finding(Box::new(finding)),
        })
    }

    #[test]
    fn the_headline_is_the_worst_with_what_was_found_out_later() {
        let first = said(Kind::RunawayStarted, Harm::None, 0.9, None);
        let later = [
            said(Kind::RunawayEnded, Harm::Harmed, 0.99, Some("v42")),
            said(Kind::RunawayUpdated, Harm::AtRisk, 0.8, None),
            said(Kind::RunawayUpdated, Harm::Harmed, 0.5, None),
            said(Kind::RunawayUpdated, Harm::Harmed, 0.4, None),
        ];
        let worst = |events: &[Arc<Event>]| worst(events.iter(), &first).unwrap();
        let all = worst(&later);
        assert_eq!((all.harm, all.observed), (Harm::Harmed, 0.5));
        assert_eq!(&*all.deploy.unwrap().version, "v42");
        let alone = worst(&[]);
        assert_eq!((alone.harm, alone.observed), (Harm::None, 0.9));
    }
}

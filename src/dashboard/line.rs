//! A caller as a line of the table.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::caller::{EXEMPT, Provenance};
use crate::clock::Timestamp;
use crate::outcome::{Class, Reason};
use crate::record::histogram::Histogram;
use crate::record::window::Step;
use crate::registry::Registry;
use crate::registry::entry::{Entry, Trust};

/// Seconds that count as now.
const RECENT: usize = 60;
/// Steps of ten seconds before which there is no normal.
const LEAST_PAST: usize = 6;

/// One caller, now.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    pub(super) caller: String,
    /// What metrics and events call it.
    #[serde(skip)]
    pub(super) label: Option<String>,
    pub(super) provenance: Provenance,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) contact: Option<String>,
    /// Requests per second that came, over ten seconds.
    pub(super) rate: f64,
    /// Its median of the last hour, the last minute left out.
    pub(super) baseline: Option<f64>,
    /// The share of each error class in what ended within the last minute.
    pub(super) errors: BTreeMap<&'static str, f64>,
    /// Seconds; of the requests since it was looked at first, a minute ago or more.
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) in_flight: u64,
    /// Requests refused within the last minute,
    pub(super) refused: u64,
    /// since the beginning,
    pub(super) refused_total: u64,
    /// and those that would have been, were no limit in shadow.
    pub(super) would_refuse_total: u64,
    pub(super) started_total: u64,
    /// Fading to a half in five minutes; the order of the table.
    #[serde(skip)]
    pub(super) weight: f64,
    #[serde(skip)]
    pub(super) latency: Option<Histogram>,
}

impl Line {
    /// `None` where there is nothing to see.
    pub(super) fn of(entry: &Entry, registry: &Registry, now: Timestamp) -> Option<Self> {
        let (totals, _) = entry.totals_and_in_other();
        let ours = entry.trust == Trust::Ours;
        if entry.name() == EXEMPT || (totals.started == 0 && (ours || !entry.on_roster())) {
            return None;
        }
        let account = registry.account(entry);
        let (rates, weight) = {
            let pace = entry.pace();
            (pace.rates(), pace.weight(totals.started))
        };
        let mut line = Self {
            caller: entry.name().to_owned(),
            label: registry.label(entry),
            provenance: entry.shown_as(),
            owner: account.as_ref().and_then(|account| account.owner.clone()),
            contact: account.and_then(|account| account.contact.clone()),
            rate: round(rates[0], 100.0),
            baseline: None,
            errors: BTreeMap::new(),
            p50: None,
            p99: None,
            in_flight: totals.in_flight(),
            refused: 0,
            refused_total: sum(&totals.refused),
            would_refuse_total: sum(&totals.would_refuse),
            started_total: totals.started,
            weight,
            latency: None,
        };
        if let Some(row) = entry.row() {
            let series = row.series();
            line.look_back(series.fine(), series.coarse(), now.as_secs());
            drop(series);
            let mut latency = Histogram::default();
            Class::ALL
                .into_iter()
                .for_each(|class| latency.merge(&row.latency(class)));
            line.latency = Some(latency);
        }
        Some(line)
    }

    fn look_back<'s>(
        &mut self,
        fine: impl Iterator<Item = &'s Step>,
        coarse: impl Iterator<Item = &'s Step>,
        now: u64,
    ) {
        let recent = now.saturating_sub(RECENT as u64);
        let mut ended = [0_u64; Class::COUNT];
        for step in fine.filter(|step| step.at >= recent) {
            self.refused += u64::from(step.refused);
            for (sum, count) in ended.iter_mut().zip(step.by_class) {
                *sum += u64::from(count);
            }
        }
        let all: u64 = ended.iter().sum();
        for (class, count) in Class::ALL.into_iter().zip(ended) {
            if class != Class::Ok && count > 0 {
                let share = round(count as f64 / all as f64, 1e4);
                self.errors.insert(class.as_str(), share);
            }
        }
        let mut past: Vec<_> = coarse
            .filter(|step| step.at + 10 <= recent)
            .map(|step| step.started)
            .collect();
        if past.len() >= LEAST_PAST {
            past.sort_unstable();
            let middle = past.get(past.len() / 2).copied().unwrap_or(0);
            self.baseline = Some(f64::from(middle) / 10.0);
        }
    }

    /// The quantiles of what came since `before`, if anything did.
    pub(super) fn time(&mut self, before: Option<&Histogram>) {
        let Some(latency) = &self.latency else { return };
        // The row may have been another caller's in between, and this one has begun anew.
        let before = before.filter(|before| latency.follows(before));
        let recent = before.map(|before| latency.since(before));
        let of = recent.filter(|recent| recent.count() > 0);
        let of = of.as_ref().unwrap_or(latency);
        self.p50 = of.quantile(0.5).map(|secs| round(secs, 1e6));
        self.p99 = of.quantile(0.99).map(|secs| round(secs, 1e6));
    }
}

fn sum(counts: &[u64; Reason::COUNT]) -> u64 {
    counts.iter().sum()
}

fn round(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::record::histogram::HistogramCells;

    fn line(latency: Histogram) -> Line {
        Line {
            caller: "a".to_owned(),
            label: None,
            provenance: Provenance::Verified,
            owner: None,
            contact: None,
            rate: 0.0,
            baseline: None,
            errors: BTreeMap::new(),
            p50: None,
            p99: None,
            in_flight: 0,
            refused: 0,
            refused_total: 0,
            would_refuse_total: 0,
            started_total: 0,
            weight: 0.0,
            latency: Some(latency),
        }
    }

    fn latency(requests: usize, took: Duration) -> Histogram {
        let cells = HistogramCells::default();
        (0..requests).for_each(|_| cells.record(took, true));
        let mut read = Histogram::default();
        cells.read_into(&mut read);
        read
    }

    #[test]
    fn a_caller_whose_row_is_new_is_not_compared_with_the_one_before() {
        let [fast, slow] = [1, 4_000].map(Duration::from_millis);
        let mut line = line(latency(5, fast));
        line.time(Some(&latency(3, fast)));
        assert!(line.p99.is_some_and(|p99| p99 < 0.01), "{:?}", line.p99);
        line.time(Some(&latency(900, slow)));
        assert!(line.p99.is_some_and(|p99| p99 < 0.01), "{:?}", line.p99);
    }
}

//! Requests per caller over time: the heaviest as lines, the rest as one.

use std::collections::HashMap;

use serde::Serialize;

use crate::caller::EXEMPT;
use crate::outcome::Class;
use crate::record::window::{Series, Step};
use crate::registry::entry::Entry;

/// Lines of their own.
const LINES: usize = 12;

/// How much of the past is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// In steps of a second.
    TwoMinutes,
    /// In steps of ten seconds.
    QuarterHour,
    Hour,
}

impl Span {
    pub(super) const ALL: [Self; 3] = [Self::TwoMinutes, Self::QuarterHour, Self::Hour];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|span| span.name() == name)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::TwoMinutes => "2m",
            Self::QuarterHour => "15m",
            Self::Hour => "1h",
        }
    }

    pub(super) const fn seconds(self) -> u64 {
        match self {
            Self::TwoMinutes => 120,
            Self::QuarterHour => 900,
            Self::Hour => 3_600,
        }
    }

    const fn step(self) -> u64 {
        match self {
            Self::TwoMinutes => 1,
            Self::QuarterHour | Self::Hour => 10,
        }
    }
}

/// A chart up to the last second that is over. Values are per second.
#[derive(Debug, Serialize)]
pub(super) struct Chart {
    span: &'static str,
    /// When each step began, in Unix seconds.
    t: Vec<u64>,
    total: Curve,
    /// Heaviest first; callers in a runaway are always among them.
    lines: Vec<Line>,
    /// Everybody else.
    rest: Curve,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Curve {
    /// Requests that came.
    offered: Vec<f64>,
    /// Requests of these that were refused.
    refused: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Line {
    caller: String,
    #[serde(flatten)]
    curve: Curve,
    /// For a caller in a runaway: its errors of the class that explains it, or all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<f64>>,
}

/// The steps of a chart.
struct Grid {
    from: u64,
    step: u64,
    steps: usize,
    /// Seconds of the last step that are over.
    last: u64,
}

impl Grid {
    /// Steps on round times; `now` is the second that is not over.
    fn new(span: Span, now: u64) -> Self {
        let step = span.step();
        let open = now - now % step;
        let last = now - open;
        // A step that has hardly begun is a number that jumps.
        let (end, last) = if last * 3 >= step && last > 0 {
            (open + step, last)
        } else {
            (open, step)
        };
        let steps = span.seconds() / step;
        Self {
            from: end.saturating_sub(steps * step),
            step,
            steps: steps as usize,
            last,
        }
    }

    fn times(&self) -> Vec<u64> {
        (0..self.steps as u64)
            .map(|n| self.from + n * self.step)
            .collect()
    }

    fn empty(&self) -> Vec<f64> {
        vec![0.0; self.steps]
    }

    /// What `of` says of each step.
    fn add<'s>(
        &self,
        sums: &mut [f64],
        steps: impl Iterator<Item = &'s Step>,
        of: impl Fn(&Step) -> u32,
    ) {
        for step in steps {
            let Some(since) = step.at.checked_sub(self.from) else {
                continue;
            };
            if let Some(sum) = sums.get_mut((since / self.step) as usize) {
                *sum += f64::from(of(step));
            }
        }
    }

    /// Counts as rates.
    fn rates(&self, mut counts: Vec<f64>) -> Vec<f64> {
        let last = counts.len().saturating_sub(1);
        for (at, value) in counts.iter_mut().enumerate() {
            let seconds = if at == last { self.last } else { self.step };
            *value = (*value * 100.0 / seconds as f64).round() / 100.0;
        }
        counts
    }

    fn curve(&self, series: &Series) -> Curve {
        let mut curve = Curve {
            offered: self.empty(),
            refused: self.empty(),
        };
        self.add(&mut curve.offered, self.of(series), |step| step.started);
        self.add(&mut curve.refused, self.of(series), |step| step.refused);
        curve
    }

    fn of<'s>(&self, series: &'s Series) -> Box<dyn Iterator<Item = &'s Step> + 's> {
        if self.step == 1 {
            Box::new(series.fine())
        } else {
            Box::new(series.coarse())
        }
    }
}

impl Chart {
    /// `suspects` are the callers in a runaway, with the class that explains it.
    pub(super) fn draw<E: AsRef<Entry>>(
        entries: &[E],
        suspects: &HashMap<String, Option<Class>>,
        span: Span,
        now: u64,
    ) -> Self {
        let grid = Grid::new(span, now);
        let mut total = Curve {
            offered: grid.empty(),
            refused: grid.empty(),
        };
        let mut curves = Vec::new();
        for entry in entries.iter().map(AsRef::as_ref) {
            let Some(row) = entry.row().filter(|_| entry.name() != EXEMPT) else {
                continue;
            };
            let curve = grid.curve(&row.series());
            let weight: f64 = curve.offered.iter().sum();
            if weight == 0.0 {
                continue;
            }
            add(&mut total, &curve, 1.0);
            curves.push((suspects.contains_key(entry.name()), weight, entry, curve));
        }
        curves.sort_by(|a, b| (b.0.cmp(&a.0)).then(b.1.total_cmp(&a.1)));
        curves.truncate(LINES);
        curves.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut rest = total.clone();
        let lines = curves
            .into_iter()
            .map(|(_, _, entry, curve)| {
                add(&mut rest, &curve, -1.0);
                let errors = suspects.get(entry.name()).map(|class| {
                    let mut errors = grid.empty();
                    if let Some(row) = entry.row() {
                        let series = row.series();
                        grid.add(&mut errors, grid.of(&series), |step| failed(step, *class));
                    }
                    grid.rates(errors)
                });
                Line {
                    caller: entry.name().to_owned(),
                    curve: grid.finish(curve),
                    errors,
                }
            })
            .collect();
        Self {
            span: span.name(),
            t: grid.times(),
            total: grid.finish(total),
            lines,
            rest: grid.finish(rest),
        }
    }
}

impl Grid {
    fn finish(&self, curve: Curve) -> Curve {
        Curve {
            offered: self.rates(curve.offered),
            refused: self.rates(curve.refused),
        }
    }
}

fn failed(step: &Step, class: Option<Class>) -> u32 {
    match class {
        Some(class) => step.by_class.get(class.index()).copied().unwrap_or(0),
        None => Class::ALL
            .iter()
            .zip(step.by_class)
            .filter(|(class, _)| **class != Class::Ok)
            .map(|(_, count)| count)
            .sum(),
    }
}

fn add(sum: &mut Curve, curve: &Curve, sign: f64) {
    for (sums, values) in [
        (&mut sum.offered, &curve.offered),
        (&mut sum.refused, &curve.refused),
    ] {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += sign * value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_ends_with_what_is_over() {
        let grid = Grid::new(Span::TwoMinutes, 1_000);
        assert_eq!((grid.times()[0], grid.times()[119]), (880, 999));
        // Of the open step of ten seconds four are over: it counts, over four seconds.
        let grid = Grid::new(Span::QuarterHour, 1_004);
        assert_eq!((grid.times()[89], grid.last), (1_000, 4));
        let mut counts = grid.empty();
        counts[88] = 20.0;
        counts[89] = 20.0;
        assert_eq!(grid.rates(counts)[88..], [2.0, 5.0]);
        // One is not enough.
        let grid = Grid::new(Span::QuarterHour, 1_001);
        assert_eq!((grid.times()[89], grid.last), (990, 10));
    }
}

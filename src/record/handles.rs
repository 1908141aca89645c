//! Counters, gauges and histograms of the recorder of the `metrics` facade, and how far each has come.
//!
//! Handles are kept between flushes, because resolving one costs twenty times an increment; they are resolved
//! again when another recorder is found, every 30 seconds, and before an increment after two seconds of silence,
//! because an exporter with an idle timeout leaves the old handle counting into nothing.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram as Handle, Key, Label, Level, Metadata, Recorder};

use super::histogram::Histogram;
use crate::caller::{Provenance, Source};
use crate::clock::Timestamp;

pub(crate) static METADATA: Metadata<'static> =
    Metadata::new("callerid", Level::INFO, Some("callerid"));

/// A handle that was silent for longer may have been dropped by the exporter.
const SILENCE: Duration = Duration::from_secs(2);

/// Requests by source and provenance.
pub(crate) type Sources = [[u64; Provenance::ALL.len()]; Source::ALL.len()];

/// One flush, as the handles see it.
pub(crate) struct Flush<'a> {
    pub(crate) recorder: &'a dyn Recorder,
    pub(crate) now: Timestamp,
    /// Every handle is resolved again.
    pub(crate) renew: bool,
    /// How many histogram samples may still be handed over; the rest waits for the next flush.
    pub(crate) samples: u64,
    /// Whether histograms are handed over whose last time was a moment ago.
    pub(crate) at_once: bool,
    /// How many series of [`names::ROUTE_REQUESTS`] may still be registered.
    pub(crate) route_series: usize,
    /// Whether anything may be refused: then the counters of refusals exist, at 0 at first.
    pub(crate) limits: bool,
    /// Requests by source and provenance.
    pub(crate) identified: Sources,
}

/// A counter of the recorder's, and how far it has come.
#[derive(Debug)]
pub(crate) struct CounterHandle {
    key: Key,
    handle: Option<Counter>,
    used: Timestamp,
    told: u64,
}

impl CounterHandle {
    pub(crate) fn new(name: &'static str, labels: Vec<Label>) -> Self {
        Self {
            key: Key::from_parts(name, labels),
            handle: None,
            used: Timestamp::ZERO,
            told: 0,
        }
    }

    /// Brings the recorder's counter to `total`. The first call brings it into being, also at 0: `increase()`
    /// cannot see a counter that is born at 1.
    #[inline]
    pub(crate) fn bring_to(&mut self, total: u64, flush: &Flush<'_>) {
        if total == self.told && self.handle.is_some() && !flush.renew {
            return; // most counters, most of the time
        }
        self.tell(total, flush);
    }

    fn tell(&mut self, total: u64, flush: &Flush<'_>) {
        // Less than before: requests went to a late identity. A counter never goes back; it waits.
        let new = total.saturating_sub(self.told);
        let stale = flush.renew || (new > 0 && flush.now.since(self.used) >= SILENCE);
        if self.handle.is_none() || stale {
            self.handle = Some(flush.recorder.register_counter(&self.key, &METADATA));
        } else if new == 0 {
            return;
        }
        if let Some(counter) = &self.handle {
            counter.increment(new);
        }
        self.told += new;
        self.used = flush.now;
    }
}

/// A gauge of the recorder's.
#[derive(Debug)]
pub(crate) struct GaugeHandle {
    key: Key,
    handle: Option<Gauge>,
    used: Timestamp,
    told: Option<f64>,
}

impl GaugeHandle {
    pub(crate) fn new(name: &'static str, labels: Vec<Label>) -> Self {
        Self {
            key: Key::from_parts(name, labels),
            handle: None,
            used: Timestamp::ZERO,
            told: None,
        }
    }

    /// Sets the recorder's gauge: at every flush while it is not zero, and when it becomes zero.
    pub(crate) fn set(&mut self, value: f64, flush: &Flush<'_>) {
        let stale = flush.renew || flush.now.since(self.used) >= SILENCE;
        if !flush.renew && value == 0.0 && self.told == Some(0.0) {
            return;
        }
        if self.handle.is_none() || stale {
            self.handle = Some(flush.recorder.register_gauge(&self.key, &METADATA));
        }
        if let Some(gauge) = &self.handle {
            gauge.set(value);
        }
        self.told = Some(value);
        self.used = flush.now;
    }
}

/// A histogram of the recorder's, and what it has been given.
#[derive(Debug)]
pub(super) struct HistogramHandle {
    key: Key,
    handle: Option<Handle>,
    used: Timestamp,
    told: Box<Histogram>,
    count: u64,
}

impl HistogramHandle {
    pub(super) fn new(name: &'static str, labels: Vec<Label>) -> Self {
        Self {
            key: Key::from_parts(name, labels),
            handle: None,
            used: Timestamp::ZERO,
            told: Box::default(),
            count: 0,
        }
    }

    /// How many samples the recorder has been given.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Resolves the handle again.
    pub(super) fn renew(&mut self, flush: &Flush<'_>) {
        self.handle = Some(flush.recorder.register_histogram(&self.key, &METADATA));
        self.used = flush.now;
    }

    /// Hands over what is new in `total`, as far as this flush has room.
    pub(super) fn bring_to(&mut self, total: &Histogram, flush: &mut Flush<'_>) {
        if self.handle.is_none() || flush.renew || flush.now.since(self.used) >= SILENCE {
            self.renew(flush);
        }
        if let Some(histogram) = &self.handle {
            let handed = total
                .since(&self.told)
                .drain(flush.samples, |value, samples| {
                    histogram.record_many(value, usize::try_from(samples).unwrap_or(usize::MAX));
                });
            let samples = handed.count();
            flush.samples -= samples;
            self.count += samples;
            self.told.merge(&handed);
        }
        self.used = flush.now;
    }
}

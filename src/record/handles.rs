//! The flush: from our own cells to the recorder of the `metrics` facade.
//!
//! Handles are kept between flushes, because resolving one costs twenty times an increment; they are resolved
//! again when another recorder is found, every 30 seconds, and before an increment after a second of silence,
//! because an exporter with an idle timeout leaves the old handle counting into nothing.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram as Handle, Key, Label, Level, Metadata, Recorder};

use super::histogram::Histogram;
use super::lane::Lane;
use super::names;
use super::route::{Route, RouteRef};
use super::row::{Row, Totals};
use crate::caller::{Provenance, Source};
use crate::clock::Timestamp;
use crate::outcome::{Class, Fault};

pub(crate) static METADATA: Metadata<'static> =
    Metadata::new("callerid", Level::INFO, Some("callerid"));

/// A handle that was silent for longer may have been dropped by the exporter.
const SILENCE: Duration = Duration::from_secs(1);

/// One flush, as the handles see it.
pub(crate) struct Flush<'a> {
    pub(crate) recorder: &'a dyn Recorder,
    pub(crate) now: Timestamp,
    /// Every handle is resolved again.
    pub(crate) renew: bool,
    /// How many histogram samples may still be handed over; the rest waits for the next flush.
    pub(crate) samples: u64,
    /// How many series of [`names::ROUTE_REQUESTS`] may still be registered.
    pub(crate) route_series: usize,
    /// Requests by source and provenance.
    pub(crate) identified: [[u64; Provenance::ALL.len()]; Source::ALL.len()],
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
    pub(crate) fn bring_to(&mut self, total: u64, flush: &Flush<'_>) {
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
struct HistogramHandle {
    key: Key,
    handle: Option<Handle>,
    used: Timestamp,
    told: Box<Histogram>,
}

impl HistogramHandle {
    fn new(name: &'static str, labels: Vec<Label>) -> Self {
        Self {
            key: Key::from_parts(name, labels),
            handle: None,
            used: Timestamp::ZERO,
            told: Box::default(),
        }
    }

    fn bring_to(&mut self, total: &Histogram, flush: &mut Flush<'_>) {
        let new = total.since(&self.told);
        if self.handle.is_none() || flush.renew || flush.now.since(self.used) >= SILENCE {
            self.handle = Some(flush.recorder.register_histogram(&self.key, &METADATA));
        }
        if let Some(histogram) = &self.handle {
            let handed = new.drain(flush.samples, |value, samples| {
                histogram.record_many(value, usize::try_from(samples).unwrap_or(usize::MAX));
            });
            flush.samples -= handed.count();
            self.told.merge(&handed);
        }
        self.used = flush.now;
    }
}

/// The handles of one row.
#[derive(Debug)]
pub(crate) struct RowHandles {
    label: Arc<str>,
    seen: Totals,
    first_bytes: u64,
    /// Samples were left over for want of room in the last flush.
    behind: bool,
    started: CounterHandle,
    in_flight: GaugeHandle,
    request_bytes: CounterHandle,
    response_bytes: CounterHandle,
    first_byte: Option<HistogramHandle>,
    classes: Vec<ClassHandles>,
    routes: Vec<RouteHandles>,
}

#[derive(Debug)]
struct ClassHandles {
    requests: CounterHandle,
    duration: Option<HistogramHandle>,
}

#[derive(Debug)]
struct RouteHandles {
    route: Arc<Route>,
    faults: [Option<CounterHandle>; Fault::ALL.len()],
}

impl RowHandles {
    pub(crate) fn new(label: &str) -> Self {
        let label: Arc<str> = label.into();
        let caller = || vec![Label::new("caller", Arc::clone(&label))];
        Self {
            started: CounterHandle::new(names::STARTED, caller()),
            in_flight: GaugeHandle::new(names::IN_FLIGHT, caller()),
            request_bytes: CounterHandle::new(names::REQUEST_BYTES, caller()),
            response_bytes: CounterHandle::new(names::RESPONSE_BYTES, caller()),
            first_byte: None,
            classes: Vec::new(),
            routes: Vec::new(),
            seen: Totals::default(),
            first_bytes: 0,
            behind: false,
            label,
        }
    }

    fn labels(&self, more: impl IntoIterator<Item = Label>) -> Vec<Label> {
        [Label::new("caller", Arc::clone(&self.label))]
            .into_iter()
            .chain(more)
            .collect()
    }

    /// Tells the recorder what has come since the last flush.
    pub(crate) fn flush(&mut self, row: &Row, flush: &mut Flush<'_>) {
        row.with_lanes(|lanes| {
            let totals = super::row::totals(lanes);
            let first_bytes: u64 = lanes.iter().map(|lane| lane.first_bytes()).sum();
            for lane in lanes {
                flush.identified[lane.source as usize][lane.provenance as usize] +=
                    lane.ever_started();
            }
            // A row of ours that never had a request has no series.
            if lanes.is_empty() && !row.born_at_once {
                return;
            }
            let quiet = totals == self.seen && first_bytes == self.first_bytes && !self.behind;
            if quiet && !flush.renew && self.started.handle.is_some() {
                self.in_flight.set(totals.in_flight() as f64, flush);
                return;
            }
            self.behind = false;
            self.started.bring_to(totals.started, flush);
            self.in_flight.set(totals.in_flight() as f64, flush);
            self.request_bytes.bring_to(totals.request_bytes, flush);
            self.response_bytes.bring_to(totals.response_bytes, flush);
            self.flush_first_byte(lanes, first_bytes, flush);
            self.flush_classes(lanes, &totals, flush);
            self.flush_routes(lanes, flush);
            self.seen = totals;
            self.first_bytes = first_bytes;
        });
    }

    fn flush_first_byte(&mut self, lanes: &[Arc<Lane>], first_bytes: u64, flush: &mut Flush<'_>) {
        if first_bytes == 0 {
            return;
        }
        let labels = self.labels([]);
        let handle = self
            .first_byte
            .get_or_insert_with(|| HistogramHandle::new(names::FIRST_BYTE, labels));
        let mut total = Histogram::default();
        lanes
            .iter()
            .for_each(|lane| lane.read_first_byte(&mut total));
        handle.bring_to(&total, flush);
        self.behind |= handle.told.count() < total.count();
    }

    fn flush_classes(&mut self, lanes: &[Arc<Lane>], totals: &Totals, flush: &mut Flush<'_>) {
        if self.classes.is_empty() {
            self.classes = Class::ALL
                .into_iter()
                .map(|class| ClassHandles {
                    requests: CounterHandle::new(
                        names::REQUESTS,
                        self.labels([Label::from_static_parts("class", class.as_str())]),
                    ),
                    duration: None,
                })
                .collect();
        }
        let caller = Label::new("caller", Arc::clone(&self.label));
        for (class, handles) in Class::ALL.into_iter().zip(&mut self.classes) {
            let requests = totals.by_class[class.index()];
            handles.requests.bring_to(requests, flush);
            let told = handles
                .duration
                .as_ref()
                .map_or(0, |duration| duration.told.count());
            if requests == told && !(flush.renew && requests > 0) {
                continue;
            }
            let duration = handles.duration.get_or_insert_with(|| {
                let class = Label::from_static_parts("class", class.as_str());
                HistogramHandle::new(names::DURATION, vec![caller.clone(), class])
            });
            let mut total = Histogram::default();
            lanes
                .iter()
                .for_each(|lane| lane.read_latency(class.index(), &mut total));
            duration.bring_to(&total, flush);
            self.behind |= duration.told.count() < total.count();
        }
    }

    /// Routes by fault. A series beyond the budget is counted under this caller's route `__other__`, whose three
    /// series are kept free for every row.
    fn flush_routes(&mut self, lanes: &[Arc<Lane>], flush: &mut Flush<'_>) {
        let mut sums: Vec<(Arc<Route>, [u64; Fault::ALL.len()])> = vec![(
            Arc::new(Route::from(RouteRef::OTHER)),
            [0; Fault::ALL.len()],
        )];
        for lane in lanes {
            let other = lane.route.is(RouteRef::OTHER);
            let at = if other {
                Some(0)
            } else {
                sums.iter().position(|(r, _)| Arc::ptr_eq(r, &lane.route))
            };
            let at = at.unwrap_or_else(|| {
                sums.push((Arc::clone(&lane.route), [0; Fault::ALL.len()]));
                sums.len() - 1
            });
            for class in Class::ALL {
                sums[at].1[class.fault().index()] += lane.ended(class.index());
            }
        }
        let mut folded = [0; Fault::ALL.len()];
        for (route, counts) in sums.drain(1..).collect::<Vec<_>>() {
            let handles = self.route(&route);
            for fault in Fault::ALL {
                let (at, count) = (fault.index(), counts[fault.index()]);
                match &mut self.routes[handles].faults[at] {
                    Some(handle) => handle.bring_to(count, flush),
                    None if count == 0 => {}
                    None if flush.route_series > 0 => {
                        flush.route_series -= 1;
                        let mut handle = self.route_counter(&route, fault);
                        handle.bring_to(count, flush);
                        self.routes[handles].faults[at] = Some(handle);
                    }
                    None => folded[at] += count,
                }
            }
        }
        let (other, counts) = sums.swap_remove(0);
        let handles = self.route(&other);
        for fault in Fault::ALL {
            let at = fault.index();
            let count = counts[at] + folded[at];
            if count > 0 {
                let mut handle = self.routes[handles].faults[at]
                    .take()
                    .unwrap_or_else(|| self.route_counter(&other, fault));
                handle.bring_to(count, flush);
                self.routes[handles].faults[at] = Some(handle);
            }
        }
    }

    fn route(&mut self, route: &Arc<Route>) -> usize {
        self.routes
            .iter()
            .position(|known| known.route == *route)
            .unwrap_or_else(|| {
                self.routes.push(RouteHandles {
                    route: Arc::clone(route),
                    faults: [const { None }; 3],
                });
                self.routes.len() - 1
            })
    }

    fn route_counter(&self, route: &Route, fault: Fault) -> CounterHandle {
        let labels = self.labels([
            Label::new("route", route.to_string()),
            Label::from_static_parts("fault", fault.as_str()),
        ]);
        CounterHandle::new(names::ROUTE_REQUESTS, labels)
    }
}

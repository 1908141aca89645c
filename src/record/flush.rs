//! The flush of a row: its cells are read under the lock of its lanes, and told to the recorder without it.

use std::sync::Arc;
use std::time::Duration;

use metrics::Label;

use super::handles::{CounterHandle, Flush, GaugeHandle, HistogramHandle, Sources};
use super::histogram::Histogram;
use super::lane::Lane;
use super::last_pins::LastPinHandles;
use super::names;
use super::route::{Route, RouteRef};
use super::row::Row;
use super::totals::{Totals, totals};
use crate::caller::{self, EXEMPT};
use crate::clock::Timestamp;
use crate::events::Signal;
use crate::outcome::{Class, Fault, Reason};

/// What is read of a row; kept between rows, so that a flush allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    totals: Totals,
    first_bytes: u64,
    first_byte: Histogram,
    latency: [Histogram; Class::COUNT],
}

/// What a reading tells.
enum News {
    /// A row of ours that never had a request has no series.
    Unborn,
    /// Nothing but, perhaps, requests in flight.
    Quiet,
    Changed,
}

/// The handles of one row.
#[derive(Debug)]
pub(crate) struct RowHandles {
    label: Arc<str>,
    seen: Totals,
    first_bytes: u64,
    born: bool,
    /// Samples are left over from the last flush: there was no room, or it was not yet time.
    behind: bool,
    /// When histograms were handed over last.
    handed: Timestamp,
    started: CounterHandle,
    in_flight: GaugeHandle,
    request_bytes: CounterHandle,
    response_bytes: CounterHandle,
    first_byte: HistogramHandle,
    classes: Vec<ClassHandles>,
    /// Made when something may be refused, or was.
    refusals: Option<Box<[RefusalHandles; Reason::COUNT]>>,
    routes: Vec<RouteHandles>,
    runaways: Vec<RunawayHandles>,
    /// Whether the counters of runaways exist.
    has_runaways: bool,
    /// Made when the caller runs away for the first time.
    pages: Option<GaugeHandle>,
    last_pins: LastPinHandles,
}

#[derive(Debug)]
struct RunawayHandles {
    signal: Signal,
    count: CounterHandle,
    /// Made when the caller runs away for the first time.
    now: Option<GaugeHandle>,
}

#[derive(Debug)]
struct ClassHandles {
    requests: CounterHandle,
    /// Made when the first request has ended in this way.
    duration: Option<HistogramHandle>,
}

impl ClassHandles {
    /// How many durations the recorder has been given.
    fn told(&self) -> u64 {
        self.duration.as_ref().map_or(0, HistogramHandle::count)
    }
}

#[derive(Debug)]
struct RefusalHandles {
    refused: CounterHandle,
    would_refuse: CounterHandle,
}

impl RefusalHandles {
    fn new(label: &Arc<str>, reason: Reason) -> Self {
        let counter = |name| {
            let caller = Label::new("caller", Arc::clone(label));
            let reason = Label::from_static_parts("reason", reason.as_str());
            CounterHandle::new(name, vec![caller, reason])
        };
        Self {
            refused: counter(names::REFUSED),
            would_refuse: counter(names::WOULD_REFUSE),
        }
    }
}

#[derive(Debug)]
struct RouteHandles {
    route: Arc<Route>,
    counts: [u64; Fault::ALL.len()],
    faults: [Option<CounterHandle>; Fault::ALL.len()],
}

impl RouteHandles {
    fn new(route: Arc<Route>) -> Self {
        Self {
            route,
            counts: [0; Fault::ALL.len()],
            faults: [const { None }; Fault::ALL.len()],
        }
    }
}

/// So long after its samples were handed over a row's new ones wait, unless everything is asked for.
const BETWEEN_SAMPLES: Duration = Duration::from_millis(900);

/// Where the route `__other__` is among a row's routes.
const OTHER: usize = 0;

impl RowHandles {
    pub(crate) fn new(label: &str) -> Self {
        let label: Arc<str> = label.into();
        let caller = Label::new("caller", Arc::clone(&label));
        let by_caller = || vec![caller.clone()];
        let by_class = |class: Class| {
            vec![
                caller.clone(),
                Label::from_static_parts("class", class.as_str()),
            ]
        };
        let classes = Class::ALL.map(|class| ClassHandles {
            requests: CounterHandle::new(names::REQUESTS, by_class(class)),
            duration: None,
        });
        let other = RouteHandles::new(Arc::new(Route::from(RouteRef::OTHER)));
        Self {
            started: CounterHandle::new(names::STARTED, by_caller()),
            in_flight: GaugeHandle::new(names::IN_FLIGHT, by_caller()),
            request_bytes: CounterHandle::new(names::REQUEST_BYTES, by_caller()),
            response_bytes: CounterHandle::new(names::RESPONSE_BYTES, by_caller()),
            first_byte: HistogramHandle::new(names::FIRST_BYTE, by_caller()),
            classes: classes.into(),
            refusals: None,
            routes: vec![other],
            runaways: signals_of(&label)
                .map(|signal| RunawayHandles {
                    signal,
                    count: CounterHandle::new(names::RUNAWAYS, by_signal(&label, signal)),
                    now: None,
                })
                .collect(),
            has_runaways: false,
            pages: None,
            last_pins: LastPinHandles::default(),
            seen: Totals::default(),
            first_bytes: 0,
            born: false,
            behind: false,
            handed: Timestamp::ZERO,
            label,
        }
    }

    /// Tells the recorder what has come since the last flush.
    pub(crate) fn flush(&mut self, row: &Row, flush: &mut Flush<'_>, reading: &mut Reading) {
        let news = row.with_lanes(|lanes| {
            count_sources(row, lanes, &mut flush.identified);
            if lanes.is_empty() && !row.born_at_once {
                return News::Unborn;
            }
            let renew = flush.renew || (flush.limits && self.refusals.is_none());
            let samples = self.hands_over(flush);
            self.read(lanes, renew, samples, reading)
        });
        match news {
            News::Unborn => return,
            News::Quiet => self.in_flight.set(self.seen.in_flight() as f64, flush),
            News::Changed => self.tell(reading, flush),
        }
        self.tell_runaways(row, flush);
        self.last_pins.tell(&self.label, &row.last_pins, flush);
    }

    /// Whether it is time for histograms. They cost most of a flush, and a scrape finds the counters sooner.
    fn hands_over(&self, flush: &Flush<'_>) -> bool {
        flush.at_once || flush.renew || flush.now.since(self.handed) >= BETWEEN_SAMPLES
    }

    fn read(
        &mut self,
        lanes: &[Arc<Lane>],
        renew: bool,
        samples: bool,
        reading: &mut Reading,
    ) -> News {
        let wanted = !self.born || (self.behind && samples) || renew;
        let started = lanes.iter().map(|lane| lane.started());
        let started = started.fold(0, u64::wrapping_add);
        if !wanted && started == self.seen.started && self.seen.in_flight() == 0 {
            // Nothing was open and nothing has begun: nothing can have ended.
            return News::Quiet;
        }
        reading.totals = totals(lanes);
        reading.first_bytes = lanes.iter().map(|lane| lane.first_bytes()).sum();
        let changed = reading.totals != self.seen || reading.first_bytes != self.first_bytes;
        if !wanted && !changed {
            return News::Quiet;
        }
        if samples {
            self.read_samples(lanes, reading);
        }
        for route in &mut self.routes {
            route.counts = [0; Fault::ALL.len()];
        }
        for lane in lanes {
            let at = self.route(&lane.route);
            let counts = &mut self.routes[at].counts;
            lane.ended(|class, count, _| counts[Class::ALL[class].fault().index()] += count);
        }
        News::Changed
    }

    fn read_samples(&self, lanes: &[Arc<Lane>], reading: &mut Reading) {
        reading.first_byte = Histogram::default();
        for lane in lanes {
            lane.read_first_byte(&mut reading.first_byte);
        }
        for (class, handles) in self.classes.iter().enumerate() {
            if reading.totals.by_class[class] > handles.told() {
                let latency = &mut reading.latency[class];
                *latency = Histogram::default();
                for lane in lanes {
                    lane.read_latency(class, latency);
                }
            }
        }
    }

    fn route(&mut self, route: &Arc<Route>) -> usize {
        let known = self
            .routes
            .iter()
            .position(|known| Arc::ptr_eq(&known.route, route));
        known.unwrap_or_else(|| {
            if route.is(RouteRef::OTHER) {
                self.routes[OTHER].route = Arc::clone(route);
                return OTHER;
            }
            self.routes.push(RouteHandles::new(Arc::clone(route)));
            self.routes.len() - 1
        })
    }

    fn tell(&mut self, reading: &Reading, flush: &mut Flush<'_>) {
        let totals = &reading.totals;
        self.started.bring_to(totals.started, flush);
        self.in_flight.set(totals.in_flight() as f64, flush);
        self.request_bytes.bring_to(totals.request_bytes, flush);
        self.response_bytes.bring_to(totals.response_bytes, flush);
        // Most handles have nothing to do, and each is a cache line or two that need not be looked at.
        let all = !self.born || flush.renew;
        let seen = totals.by_class.iter().zip(&self.seen.by_class);
        for (handles, (ended, seen)) in self.classes.iter_mut().zip(seen) {
            if all || ended != seen {
                handles.requests.bring_to(*ended, flush);
            }
        }
        if self.hands_over(flush) {
            self.tell_samples(reading, flush);
        } else {
            self.behind = true;
        }
        self.tell_refusals(totals, flush);
        self.tell_routes(flush);
        self.seen.clone_from(totals);
        self.first_bytes = reading.first_bytes;
        self.born = true;
    }

    fn tell_samples(&mut self, reading: &Reading, flush: &mut Flush<'_>) {
        self.handed = flush.now;
        self.behind = false;
        if reading.first_bytes > 0 && (reading.first_bytes > self.first_byte.count() || flush.renew)
        {
            self.first_byte.bring_to(&reading.first_byte, flush);
            self.behind |= self.first_byte.count() < reading.first_bytes;
        }
        for (class, handles) in self.classes.iter_mut().enumerate() {
            let ended = reading.totals.by_class[class];
            if ended > handles.told() {
                let duration = handles.duration.get_or_insert_with(|| {
                    let class = Label::from_static_parts("class", Class::ALL[class].as_str());
                    let caller = Label::new("caller", Arc::clone(&self.label));
                    HistogramHandle::new(names::DURATION, vec![caller, class])
                });
                duration.bring_to(&reading.latency[class], flush);
                self.behind |= duration.count() < ended;
            } else if let Some(duration) = &mut handles.duration
                && flush.renew
            {
                duration.renew(flush);
            }
        }
        if self.behind {
            self.handed = Timestamp::ZERO; // what is left over is next
        }
    }

    fn tell_runaways(&mut self, row: &Row, flush: &Flush<'_>) {
        if !row.runaways.ever() && self.has_runaways && !flush.renew {
            return;
        }
        self.has_runaways = true;
        let mut ever = false;
        for handles in &mut self.runaways {
            let (count, open) = row.runaways.read(handles.signal);
            handles.count.bring_to(count, flush);
            if count > 0 {
                ever = true;
                let labels = || by_signal(&self.label, handles.signal);
                let now = handles
                    .now
                    .get_or_insert_with(|| GaugeHandle::new(names::RUNAWAY, labels()));
                now.set(if open { 1.0 } else { 0.0 }, flush);
            }
        }
        if ever {
            let label = || vec![Label::new("caller", Arc::clone(&self.label))];
            let pages = self
                .pages
                .get_or_insert_with(|| GaugeHandle::new(names::RUNAWAY_PAGES, label()));
            pages.set(if row.runaways.page() { 1.0 } else { 0.0 }, flush);
        }
    }

    fn tell_refusals(&mut self, totals: &Totals, flush: &Flush<'_>) {
        let mut counts = totals.refused.iter().chain(&totals.would_refuse);
        let quiet = if self.refusals.is_none() {
            !flush.limits && counts.all(|count| *count == 0)
        } else {
            let seen = &self.seen;
            let same = totals.refused == seen.refused && totals.would_refuse == seen.would_refuse;
            same && !flush.renew
        };
        if quiet {
            return;
        }
        let handles = self.refusals.get_or_insert_with(|| {
            Box::new(Reason::ALL.map(|reason| RefusalHandles::new(&self.label, reason)))
        });
        for (handles, reason) in handles.iter_mut().zip(Reason::ALL) {
            let at = reason.index();
            handles.refused.bring_to(totals.refused[at], flush);
            handles
                .would_refuse
                .bring_to(totals.would_refuse[at], flush);
        }
    }

    /// Routes by fault. A series beyond the budget is counted under this caller's route `__other__`, whose three
    /// series are kept free for every row.
    fn tell_routes(&mut self, flush: &mut Flush<'_>) {
        let Some((other, routes)) = self.routes.split_first_mut() else {
            return;
        };
        for RouteHandles {
            route,
            counts,
            faults,
        } in routes
        {
            for fault in Fault::ALL {
                let (count, handle) = (counts[fault.index()], &mut faults[fault.index()]);
                if handle.is_none() && count > 0 && flush.route_series > 0 {
                    flush.route_series -= 1;
                    *handle = Some(route_counter(&self.label, route, fault));
                }
                match handle {
                    Some(handle) => handle.bring_to(count, flush),
                    None => other.counts[fault.index()] += count,
                }
            }
        }
        for fault in Fault::ALL {
            let (count, handle) = (
                other.counts[fault.index()],
                &mut other.faults[fault.index()],
            );
            if count > 0 {
                handle
                    .get_or_insert_with(|| route_counter(&self.label, &other.route, fault))
                    .bring_to(count, flush);
            }
        }
    }
}

/// Adds how the callers of a row were identified. Probes and scrapes are nobody's, and are asked for no name.
pub(crate) fn count_sources(row: &Row, lanes: &[Arc<Lane>], sum: &mut Sources) {
    if *row.label != *EXEMPT {
        for lane in lanes {
            sum[lane.source as usize][lane.provenance as usize] += lane.ever_started();
        }
    }
}

/// In what a row can run away: names are invented behind `__other__`, and probes do nothing of the kind.
fn signals_of(label: &str) -> impl Iterator<Item = Signal> {
    let (probe, other) = (label == EXEMPT, label == caller::OTHER);
    let of_row = move |signal: &Signal| !probe && (*signal != Signal::Names || other);
    Signal::ALL.into_iter().filter(of_row)
}

fn by_signal(label: &Arc<str>, signal: Signal) -> Vec<Label> {
    vec![
        Label::new("caller", Arc::clone(label)),
        Label::from_static_parts("signal", signal.as_str()),
    ]
}

fn route_counter(label: &Arc<str>, route: &Route, fault: Fault) -> CounterHandle {
    let labels = vec![
        Label::new("caller", Arc::clone(label)),
        Label::new("route", route.to_string()),
        Label::from_static_parts("fault", fault.as_str()),
    ];
    CounterHandle::new(names::ROUTE_REQUESTS, labels)
}

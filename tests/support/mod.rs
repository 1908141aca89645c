//! What the tests from the outside share: services and bodies that follow a script, a table on a clock that stands
//! still, and a recorder that is read back.

#![allow(
    dead_code,
    missing_debug_implementations,
    unreachable_pub,
    reason = "each test binary uses its part"
)]

pub mod log;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use callerid::clock::ManualClock;
use callerid::middleware::{CallerService, ResponseBody};
use callerid::snapshot::{CallerSnapshot, Counts};
use callerid::{Builder, Callers, Class, Timestamp, identify};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tower::{Layer, Service};

/// What a scripted body does when it is polled.
#[derive(Debug)]
pub enum Step {
    Data(&'static str),
    Trailers(HeaderMap),
    Fail,
    Panic,
    Wait,
}

/// The error of everything that follows a script.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {}

/// A body that follows a script, and ends after it.
#[derive(Debug, Default)]
pub struct Script {
    steps: VecDeque<Step>,
    /// Whether `is_end_stream` says so as soon as the script is over, as bodies of a known length do.
    announces_end: bool,
    hint: Option<u64>,
}

impl Script {
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            announces_end: false,
            hint: None,
        }
    }

    pub fn announces_end(mut self) -> Self {
        self.announces_end = true;
        self
    }

    pub fn hint(mut self, exact: u64) -> Self {
        self.hint = Some(exact);
        self
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Poll::Ready(match self.steps.pop_front() {
            None => None,
            Some(Step::Data(text)) => Some(Ok(Frame::data(Bytes::from_static(text.as_bytes())))),
            Some(Step::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Step::Fail) => Some(Err(Broken)),
            Some(Step::Panic) => panic!("the script says: panic in poll_frame"),
            Some(Step::Wait) => return Poll::Pending,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.announces_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// What a scripted service does with a request.
pub enum Answer {
    Respond(Response<Script>),
    Fail,
    PanicInCall,
    PanicInPoll,
    Never,
}

impl Answer {
    pub fn ok(steps: impl IntoIterator<Item = Step>) -> Self {
        Self::Respond(Response::new(Script::new(steps)))
    }

    pub fn status(status: u16) -> Self {
        let mut response = Response::new(Script::default());
        *response.status_mut() = status.try_into().unwrap();
        Self::Respond(response)
    }
}

type Brain = dyn Fn(Request<String>) -> Answer + Send + Sync;

/// A service that follows a script.
#[derive(Clone)]
pub struct Inner(Arc<Brain>);

impl Inner {
    pub fn new(brain: impl Fn(Request<String>) -> Answer + Send + Sync + 'static) -> Self {
        Self(Arc::new(brain))
    }
}

impl Service<Request<String>> for Inner {
    type Response = Response<Script>;
    type Error = Broken;
    type Future = InnerFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> InnerFuture {
        match (self.0)(request) {
            Answer::PanicInCall => panic!("the script says: panic in call"),
            answer => InnerFuture(Some(answer)),
        }
    }
}

pub struct InnerFuture(Option<Answer>);

impl Future for InnerFuture {
    type Output = Result<Response<Script>, Broken>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.take() {
            Some(Answer::Respond(response)) => Poll::Ready(Ok(response)),
            Some(Answer::Fail) => Poll::Ready(Err(Broken)),
            Some(Answer::Never) => {
                self.0 = Some(Answer::Never);
                Poll::Pending
            }
            Some(Answer::PanicInPoll) => panic!("the script says: panic in poll"),
            Some(Answer::PanicInCall) | None => panic!("polled after its end"),
        }
    }
}

/// Polls once, with a waker that wakes nobody.
pub fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// The output of a future that is ready.
pub fn now<F: Future>(future: F) -> F::Output {
    match poll_once(std::pin::pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future waits"),
    }
}

/// The next frame of a body, which must not wait.
pub fn frame<B: Body + Unpin>(body: &mut B) -> Option<Result<Frame<B::Data>, B::Error>> {
    match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(frame) => frame,
        Poll::Pending => panic!("the body waits"),
    }
}

/// Polls a body to its end or to its first error.
pub fn drain<B: Body + Unpin>(body: &mut B) {
    while let Some(Ok(_)) = frame(body) {}
}

/// The time at which every table here begins.
pub const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// A table of callers on a clock that only the test moves.
pub struct Table {
    pub callers: Callers,
    pub clock: ManualClock,
}

impl Table {
    /// Callers are named by the header `x-client-id`, as a gateway would set it.
    pub fn new() -> Self {
        Self::with(|builder| builder.identify(identify::header("x-client-id").verified()))
    }

    pub fn with(settings: impl FnOnce(Builder) -> Builder) -> Self {
        let clock = ManualClock::at(START);
        let builder = Callers::builder().clock(clock.clone()).manual_tick();
        let callers = settings(builder).build().unwrap();
        Self { callers, clock }
    }

    pub fn layered(
        &self,
        brain: impl Fn(Request<String>) -> Answer + Send + Sync + 'static,
    ) -> CallerService<Inner> {
        self.callers.layer().layer(Inner::new(brain))
    }

    /// A service that answers everything with an empty 200.
    pub fn trivial(&self) -> CallerService<Inner> {
        self.layered(|_| Answer::status(200))
    }

    /// Sends a request through a service with this answer, and reads the response to its end.
    pub fn send(
        &self,
        request: Request<String>,
        answer: impl Fn(Request<String>) -> Answer + Send + Sync + 'static,
    ) {
        if let Ok(response) = now(self.layered(answer).call(request)) {
            drain(&mut response.into_body());
        }
    }

    /// Moves the clock and does what is due.
    pub fn tick_after(&self, time: Duration) {
        let now = self.clock.advance(time);
        self.callers.tick(now);
    }

    pub fn caller(&self, name: &str) -> CallerSnapshot {
        let snapshot = self.callers.snapshot();
        let found = snapshot.caller(name).cloned();
        found.unwrap_or_else(|| panic!("{name} is not in the table"))
    }

    /// How the requests of a caller ended. Asserts that none is open and that every one is accounted for.
    pub fn ended(&self, name: &str) -> Vec<(Class, u64)> {
        let counts = self.caller(name).counts;
        assert_balanced(name, &counts);
        assert_eq!(counts.in_flight, 0, "{name} has open requests: {counts:?}");
        counts.by_class.iter().collect()
    }
}

/// `started = sum over classes + in flight`.
pub fn assert_balanced(name: &str, counts: &Counts) {
    assert_eq!(
        counts.started,
        counts.by_class.total() + counts.in_flight,
        "{name}: {counts:?}"
    );
}

pub fn request(name: &str) -> Request<String> {
    Request::builder()
        .header("x-client-id", name)
        .body(String::new())
        .unwrap()
}

/// Sends `count` requests of a caller through a service.
pub fn send_many(service: &mut CallerService<Inner>, name: &str, count: usize) {
    for _ in 0..count {
        send_one(service, request(name));
    }
}

pub fn send_one(service: &mut CallerService<Inner>, request: Request<String>) {
    if let Ok(response) = now(service.call(request)) {
        drain(&mut response.into_body());
    }
}

/// The response of a service to a request, which must be ready and good.
pub fn respond(
    service: &mut CallerService<Inner>,
    request: Request<String>,
) -> Response<ResponseBody<Script>> {
    now(service.call(request)).unwrap()
}

pub fn headers<const N: usize>(pairs: [(&'static str, &'static str); N]) -> HeaderMap {
    let pairs = pairs.map(|(name, value)| {
        (
            http::HeaderName::from_static(name),
            http::HeaderValue::from_static(value),
        )
    });
    pairs.into_iter().collect()
}

/// Whether `f` panics.
pub fn panics<T>(f: impl FnOnce() -> T) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err()
}

/// A series: the metric's name, and its labels, sorted.
pub type Series = (String, Vec<(String, String)>);

pub fn series(name: &str, labels: &[(&str, &str)]) -> Series {
    let mut labels: Vec<_> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    labels.sort();
    (name.to_owned(), labels)
}

/// A recorder of the `metrics` facade for one thread, and everything that it has been told so far.
pub struct Recorded {
    recorder: DebuggingRecorder,
    snapshotter: Snapshotter,
    pub kinds: BTreeMap<Series, MetricKind>,
    pub counters: BTreeMap<Series, u64>,
    pub gauges: BTreeMap<Series, f64>,
    pub histograms: BTreeMap<Series, Vec<f64>>,
    pub described: BTreeMap<String, String>,
}

impl Recorded {
    pub fn new() -> Self {
        let recorder = DebuggingRecorder::new();
        Self {
            snapshotter: recorder.snapshotter(),
            recorder,
            kinds: BTreeMap::new(),
            counters: BTreeMap::new(),
            gauges: BTreeMap::new(),
            histograms: BTreeMap::new(),
            described: BTreeMap::new(),
        }
    }

    /// Runs `f` with this recorder installed on this thread.
    pub fn installed<T>(&self, f: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&self.recorder, f)
    }

    /// Flushes a table into this recorder, and reads it.
    pub fn flush(&mut self, callers: &Callers) {
        self.installed(|| callers.flush());
        self.read();
    }

    /// Reads what has come. A read of this recorder empties it, so sums are kept here.
    pub fn read(&mut self) {
        for (key, _, description, value) in self.snapshotter.snapshot().into_vec() {
            let labels: Vec<_> = key
                .key()
                .labels()
                .map(|label| (label.key(), label.value()))
                .collect();
            let series = series(key.key().name(), &labels);
            self.kinds.insert(series.clone(), key.kind());
            self.described.insert(
                series.0.clone(),
                description.map(|text| text.to_string()).unwrap_or_default(),
            );
            match value {
                DebugValue::Counter(new) => *self.counters.entry(series).or_default() += new,
                DebugValue::Gauge(value) => drop(self.gauges.insert(series, value.into_inner())),
                DebugValue::Histogram(new) => self
                    .histograms
                    .entry(series)
                    .or_default()
                    .extend(new.into_iter().map(|value| value.into_inner())),
            }
        }
    }

    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        self.counters.get(&series(name, labels)).copied()
    }

    pub fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.gauges.get(&series(name, labels)).copied()
    }

    pub fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let found = self.histograms.get(&series(name, labels));
        found.cloned().unwrap_or_default()
    }

    /// The sum of a counter over all its series.
    pub fn total(&self, name: &str) -> u64 {
        let of_name = self.counters.iter().filter(|((found, _), _)| found == name);
        of_name.map(|(_, count)| count).sum()
    }

    /// How many series each metric has.
    pub fn series_by_metric(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (name, _) in self.kinds.keys() {
            *counts.entry(name.clone()).or_default() += 1;
        }
        counts
    }

    /// The values of a label over all series of a metric.
    pub fn values(&self, name: &str, label: &str) -> Vec<String> {
        let mut values: Vec<_> = self
            .kinds
            .keys()
            .filter(|(found, _)| found == name)
            .flat_map(|(_, labels)| labels.iter().filter(|(key, _)| key == label))
            .map(|(_, value)| value.clone())
            .collect();
        values.sort();
        values.dedup();
        values
    }
}

/// A service's answer that gives the class in the request's header `x-class`; for [`Class::Cancelled`] it never comes.
pub fn answer_by_class(request: Request<String>) -> Answer {
    let class = request.headers()["x-class"].to_str().unwrap().to_owned();
    match class.as_str() {
        "ok" => Answer::status(200),
        "validation" => Answer::status(422),
        "auth" => Answer::status(401),
        "not_found" => Answer::status(404),
        "conflict" => Answer::status(409),
        "throttled" => Answer::status(429),
        "client_error" => Answer::status(418),
        "timeout" => Answer::status(504),
        "unavailable" => Answer::status(503),
        "server_error" => Answer::status(500),
        "failed" => Answer::Fail,
        _ => Answer::Never,
    }
}

/// Sends a request that ends with `class` through a service that [answers so](answer_by_class), on a route that
/// the table knows by the header `x-route`.
pub fn send_class(service: &mut CallerService<Inner>, name: &str, class: Class, route: &str) {
    let request = Request::builder()
        .header("x-client-id", name)
        .header("x-class", class.as_str())
        .header("x-route", route)
        .body(String::new())
        .unwrap();
    let mut future = std::pin::pin!(service.call(request));
    if let Poll::Ready(Ok(response)) = poll_once(future.as_mut()) {
        drain(&mut response.into_body());
    }
}

/// The route that the header `x-route` names.
pub fn route_of_header<'h>(head: &'h identify::Head<'_>) -> Option<&'h str> {
    head.headers().get("x-route")?.to_str().ok()
}

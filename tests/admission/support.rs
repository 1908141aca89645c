//! A table of callers on a clock that stands still, with a service behind it.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use callerid::clock::ManualClock;
use callerid::middleware::ResponseBody;
use callerid::snapshot::{CallerSnapshot, Counts};
use callerid::{Builder, Callers, Timestamp, identify};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service};

pub type Answer = Response<ResponseBody<Full<Bytes>>>;

pub const START: Timestamp = Timestamp::from_secs(1_700_000_000);

/// A file that goes when the test does.
pub struct File(pub PathBuf);

impl File {
    pub fn new(text: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("callerid-{}-{number}.toml", std::process::id());
        let file = Self(std::env::temp_dir().join(name));
        file.write(text);
        file
    }

    pub fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub struct Rig {
    pub callers: Callers,
    pub clock: ManualClock,
    /// Requests that the inner service has seen.
    pub reached: Arc<AtomicU64>,
}

/// A builder with a proven source, a claimed one, and time that stands still.
pub fn builder(clock: &ManualClock) -> Builder {
    Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .identify(identify::header("x-claimed"))
        .route(|head| Some(head.uri().path()))
        .clock(clock.clone())
        .manual_tick()
}

impl Rig {
    pub fn new(set: impl FnOnce(Builder) -> Builder) -> Self {
        let clock = ManualClock::at(START);
        Self {
            callers: set(builder(&clock)).build().unwrap(),
            clock,
            reached: Arc::default(),
        }
    }

    pub fn send(&self, request: Request<String>) -> Answer {
        let reached = Arc::clone(&self.reached);
        let mut service =
            self.callers
                .layer()
                .layer(tower::service_fn(move |_: Request<String>| {
                    reached.fetch_add(1, Ordering::Relaxed);
                    async {
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
                    }
                }));
        now(service.call(request)).unwrap()
    }

    /// Sends a request and reads its answer to the end.
    pub fn ask(&self, request: Request<String>) -> (u16, String) {
        let response = self.send(request);
        let status = response.status().as_u16();
        (status, text(response))
    }

    pub fn get(&self, caller: &str) -> u16 {
        self.ask(from(caller)).0
    }

    /// How many of so many requests at once are let in.
    pub fn burst(&self, caller: &str, requests: usize) -> usize {
        (0..requests).filter(|_| self.get(caller) == 200).count()
    }

    pub fn wait(&self, millis: u64) {
        let now = self.clock.advance(Duration::from_millis(millis));
        self.callers.tick(now);
    }

    pub fn caller(&self, name: &str) -> CallerSnapshot {
        self.callers.snapshot().caller(name).unwrap().clone()
    }

    pub fn counts(&self, name: &str) -> Counts {
        self.caller(name).counts
    }

    pub fn reached(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }
}

pub fn text(response: Answer) -> String {
    let bytes = now(response.into_body().collect()).unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn from(caller: &str) -> Request<String> {
    let request = Request::get("/v1/prices").header("x-client-id", caller);
    request.body(String::new()).unwrap()
}

pub fn claimed(caller: &str) -> Request<String> {
    let request = Request::get("/v1/prices").header("x-claimed", caller);
    request.body(String::new()).unwrap()
}

pub fn header<'a>(response: &'a Answer, name: &str) -> Option<&'a str> {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
}

/// What a future that does not wait gives.
pub fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("must not wait"),
    }
}

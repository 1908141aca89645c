//! Load: an open loop that sends when it is time to, whatever became of what was sent before, and counts from that
//! moment; and a herd, which sends again when it is refused.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Requests that one source has open at most; what is due beyond is lost. A thousand are five seconds of the service's
/// work, far beyond what a client waits for.
const OPEN: usize = 1_000;
/// After so long a client gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What became of the requests of one side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) ok: u64,
    /// 429.
    pub(crate) refused: u64,
    /// Every other answer.
    pub(crate) failed: u64,
    /// No answer in time, or a connection that broke.
    pub(crate) lost: u64,
    /// Of those that were served, in milliseconds.
    pub(crate) latencies: Vec<f64>,
    /// Of those that were not: when they were due, and what they were told, if anything.
    pub(crate) unserved: Vec<(f64, Option<u16>)>,
    /// By how much requests went out later than they should, in milliseconds.
    pub(crate) late: Vec<f64>,
}

pub(crate) type Shared = Arc<Mutex<Tally>>;

impl Tally {
    pub(crate) fn quantile(samples: &mut [f64], quantile: f64) -> f64 {
        samples.sort_by(f64::total_cmp);
        let at = (samples.len() as f64 * quantile) as usize;
        samples
            .get(at.min(samples.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

fn with<T>(tally: &Shared, change: impl FnOnce(&mut Tally) -> T) -> T {
    change(&mut tally.lock().unwrap_or_else(PoisonError::into_inner))
}

/// One side of the load: where from, as whom, and how.
#[derive(Clone)]
pub(crate) struct Source {
    client: Client<HttpConnector, Body>,
    uri: String,
    name: Name,
    slow: bool,
    begun: Instant,
    tally: Shared,
}

#[derive(Clone)]
pub(crate) enum Name {
    /// A gateway has proven it.
    Proven(String),
    /// One of so many that the client thinks up.
    Invented(u64),
}

impl Source {
    pub(crate) fn new(target: &str, from: [u8; 4], name: Name, tally: &Shared) -> Self {
        Self::over(target, from, name, tally, false)
    }

    /// Everything over one h2 connection.
    pub(crate) fn over_h2(target: &str, from: [u8; 4], name: Name, tally: &Shared) -> Self {
        Self::over(target, from, name, tally, true)
    }

    fn over(target: &str, from: [u8; 4], name: Name, tally: &Shared, h2: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_local_address(Some(IpAddr::V4(Ipv4Addr::from(from))));
        Self {
            client: Client::builder(TokioExecutor::new())
                .http2_only(h2)
                .build(connector),
            uri: format!("http://{target}/v1/prices"),
            name,
            slow: false,
            begun: Instant::now(),
            tally: Arc::clone(tally),
        }
    }

    /// Sends bodies that take two seconds.
    pub(crate) fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    fn request(&self) -> Request<Body> {
        let request = Request::builder().uri(&self.uri);
        let request = match &self.name {
            Name::Proven(name) => request.header("x-client-id", name),
            Name::Invented(names) => {
                request.header("x-app", format!("invented-{}", fastrand::u64(..names)))
            }
        };
        let request = if self.slow {
            request.method("POST").body(trickle())
        } else {
            request.body(Full::default().boxed_unsync())
        };
        request.expect("a valid request")
    }

    /// Sends one request that was due at `due`; says whether it was served, and what it is told to wait.
    async fn send(&self, due: Instant) -> (bool, Option<Duration>) {
        let patience = if self.slow {
            PATIENCE + Duration::from_secs(2)
        } else {
            PATIENCE
        };
        let left = (due + patience).saturating_duration_since(Instant::now());
        let late = due.elapsed();
        let exchange = async {
            let response = self.client.request(self.request()).await.ok()?;
            let (head, body) = response.into_parts();
            body.collect().await.ok()?;
            Some(head)
        };
        let head = timeout(left, exchange).await.ok().flatten();
        let after = head
            .as_ref()
            .and_then(|head| head.headers.get("retry-after")?.to_str().ok()?.parse().ok());
        let status = head.map(|head| head.status.as_u16());
        with(&self.tally, |tally| {
            tally.sent += 1;
            tally.late.push(late.as_secs_f64() * 1e3);
            if status != Some(200) {
                tally
                    .unserved
                    .push(((due - self.begun).as_secs_f64(), status));
            }
            match status {
                Some(200) => {
                    tally.ok += 1;
                    tally.latencies.push(due.elapsed().as_secs_f64() * 1e3);
                }
                Some(429) => tally.refused += 1,
                Some(_) => tally.failed += 1,
                None => tally.lost += 1,
            }
        });
        (status == Some(200), after.map(Duration::from_secs))
    }

    /// Counts from then when requests were due.
    fn since(mut self, begun: Instant) -> Self {
        self.begun = begun;
        self
    }

    /// Sends `rate` requests a second on average, at random times, and waits for the last.
    pub(crate) async fn steady(self, rate: f64, from: Instant, to: Instant, seed: u64) {
        let this = self.since(from);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut due = from;
        let mut open = tokio::task::JoinSet::new();
        loop {
            due += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate);
            if due >= to {
                break;
            }
            sleep_until(due).await;
            while open.try_join_next().is_some() {}
            if open.len() >= OPEN {
                with(&this.tally, |tally| {
                    tally.sent += 1;
                    tally
                        .unserved
                        .push(((due - this.begun).as_secs_f64(), None));
                    tally.lost += 1;
                });
                continue;
            }
            let source = this.clone();
            open.spawn(async move { source.send(due).await });
        }
        while open.join_next().await.is_some() {}
    }

    /// Wants so many answers, one after another, and asks again until it has them: when it is told to, and at once
    /// where it is told nothing.
    pub(crate) async fn herd(self, answers: usize, from: Instant, to: Instant) {
        sleep_until(from).await;
        let mut had = 0;
        while had < answers && Instant::now() < to {
            let (served, after) = self.send(Instant::now()).await;
            had += usize::from(served);
            if !served {
                sleep(after.unwrap_or(Duration::from_millis(50))).await;
            }
        }
    }
}

/// Twenty bytes, one every 100 ms.
fn trickle() -> Body {
    let bytes = futures_util::stream::unfold(0, async |sent| {
        sleep(Duration::from_millis(100)).await;
        (sent < 20).then(|| (Ok(Frame::data(Bytes::from_static(b"x"))), sent + 1))
    });
    StreamBody::new(bytes).boxed_unsync()
}

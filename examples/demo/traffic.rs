//! The crowd: eight teams that call the API over real sockets, one of which causes two outages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, StatusCode, Uri};
use callerid::clock::MonotonicClock;
use callerid::{Callers, Clock as _};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{glance, say};

/// A client gives up after this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests that one team has under way at the most.
const IN_FLIGHT: usize = 64;
const GLANCE: Duration = Duration::from_secs(5);
const SKUS: u32 = 40;

/// What happens, and until which second of the story, which is told again and again.
const STORY: [(u64, &str, Act); 7] = [
    (75, "A calm day.", Act::Calm),
    (
        135,
        "Wednesday: a buggy feature of checkout, just deployed, calls /v1/orders in every situation.",
        Act::EveryOrder,
    ),
    (195, "The feature is switched off.", Act::Calm),
    (
        220,
        "It is redeployed by accident, and happens again.",
        Act::EveryOrder,
    ),
    (280, "Calm.", Act::Calm),
    (
        310,
        "Monday: checkout's cache evicts every price.",
        Act::LostCache,
    ),
    (370, "Calm.", Act::Calm),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Calm,
    EveryOrder,
    LostCache,
}

/// A team and what it sends: calls with their requests per second.
pub(crate) struct Team {
    /// `None` sends no identity.
    pub(crate) name: Option<&'static str>,
    pub(crate) calls: &'static [(f64, Call)],
}

#[derive(Clone, Copy)]
pub(crate) enum Call {
    Price,
    /// The same article again and again.
    SamePrice,
    Order,
    BadOrder,
    Slow,
    Stream,
    /// Reads the beginning of a stream and goes away.
    Abandon,
    Fail,
    OldPath,
    Probe,
}

const CHECKOUT: &str = "checkout";

/// Whom to call about some of the teams.
pub(crate) const ROSTER: [(&str, &str, &str); 3] = [
    (CHECKOUT, "Payments", "#payments-oncall"),
    ("search", "Discovery", "#search-oncall"),
    ("mobile-bff", "Apps", "+1 555 0100"),
];

pub(crate) const TEAMS: [Team; 10] = [
    Team {
        name: Some(CHECKOUT),
        calls: &[
            (16.0, Call::Price),
            (8.0, Call::Order),
            (0.2, Call::BadOrder),
        ],
    },
    Team {
        name: Some("search"),
        calls: &[(7.0, Call::Price)],
    },
    Team {
        name: Some("mobile-bff"),
        calls: &[(4.0, Call::Price), (1.0, Call::Order), (0.3, Call::Abandon)],
    },
    Team {
        name: Some("web-shop"),
        calls: &[
            (3.0, Call::Price),
            (0.7, Call::Order),
            (0.1, Call::BadOrder),
        ],
    },
    Team {
        name: Some("recommendations"),
        calls: &[(3.0, Call::Price), (0.2, Call::Slow)],
    },
    Team {
        name: Some("partner-feed"),
        calls: &[(1.0, Call::Stream), (0.2, Call::OldPath)],
    },
    Team {
        name: Some("pricing-board"),
        calls: &[(1.0, Call::Price), (0.1, Call::Fail)],
    },
    Team {
        name: Some("night-batch"),
        calls: &[(1.5, Call::Price), (0.3, Call::Slow)],
    },
    Team {
        name: None,
        calls: &[(0.5, Call::Price)],
    },
    Team {
        name: None,
        calls: &[(1.0, Call::Probe)],
    },
];

/// What the acts add to what checkout always sends: six times as much.
const EVERY_ORDER: [(f64, Call); 2] = [(135.0, Call::BadOrder), (10.0, Call::Order)];
const LOST_CACHE: [(f64, Call); 1] = [(145.0, Call::SamePrice)];

type Http = Client<HttpConnector, Full<Bytes>>;

/// Sends until it is aborted, and shows every few seconds who sends how much.
pub(crate) async fn run(address: SocketAddr, callers: Callers) {
    let began = Instant::now();
    let mut crowd = JoinSet::new();
    for team in &TEAMS {
        let limit = Arc::new(Semaphore::new(IN_FLIGHT));
        let http: Http = Client::builder(TokioExecutor::new()).build_http();
        let sender = Sender {
            http,
            address,
            name: team.name,
            limit,
        };
        let mut calls: Vec<_> = team.calls.iter().map(|call| (*call, None)).collect();
        if team.name == Some(CHECKOUT) {
            calls.extend(EVERY_ORDER.map(|call| (call, Some(Act::EveryOrder))));
            calls.extend(LOST_CACHE.map(|call| (call, Some(Act::LostCache))));
        }
        for ((rate, call), during) in calls {
            crowd.spawn(repeat(sender.clone(), began, rate, call, during));
        }
    }
    crowd.spawn(announce(began));
    let mut before = None;
    loop {
        sleep(GLANCE).await;
        let (_, act, _) = now_playing(began);
        let snapshot = callers.snapshot();
        say(&glance::render(&snapshot, before.as_ref(), act));
        before = Some(snapshot);
    }
}

/// Says when an act begins, to the millisecond, so that whoever hears of it later can tell how much later.
async fn announce(began: Instant) {
    let mut cycle = Duration::ZERO;
    loop {
        let mut from = 0;
        for (until, text, act) in STORY {
            sleep_until(began + cycle + Duration::from_secs(from)).await;
            if act != Act::Calm {
                let now = MonotonicClock::new().now().as_secs_f64();
                say(&format!("\n== [{now:.3}] {text}\n"));
            }
            from = until;
        }
        cycle += Duration::from_secs(from);
    }
}

/// The act that is on, and how often the story was told before.
fn now_playing(began: Instant) -> (Act, &'static str, u64) {
    let length = STORY.iter().map(|(until, ..)| *until).max().unwrap_or(1);
    let second = began.elapsed().as_secs();
    let (told, second) = (second / length, second % length);
    STORY
        .iter()
        .find(|(until, ..)| second < *until)
        .map_or((Act::Calm, "", told), |(_, text, act)| (*act, *text, told))
}

/// Sends one kind of call at a mean rate, at random times as independent people would.
async fn repeat(sender: Sender, began: Instant, rate: f64, call: Call, during: Option<Act>) {
    let mut due = began;
    loop {
        let wait = -(1.0 - fastrand::f64()).ln() / rate;
        // After a sleep of the whole machine nobody sends what was missed.
        let earliest = Instant::now().checked_sub(Duration::from_secs(1));
        due = (due + Duration::from_secs_f64(wait)).max(earliest.unwrap_or(due));
        sleep_until(due).await;
        let (act, _, told) = now_playing(began);
        if during.is_some_and(|during| during != act) {
            sleep(Duration::from_millis(200)).await;
            due = Instant::now();
            continue;
        }
        let buggy = (act == Act::EveryOrder).then_some(told);
        sender.clone().send(call, buggy);
    }
}

/// As a client that is traced sends it.
fn traceparent() -> String {
    let (trace, span) = (fastrand::u128(1..), fastrand::u64(1..));
    format!("00-{trace:032x}-{span:016x}-01")
}

/// The program of a team; checkout's buggy feature is a version of its own, and another one each time that the story
/// is told.
pub(crate) fn agent(team: Option<&str>, buggy: Option<u64>) -> String {
    match (team.unwrap_or("curl"), buggy) {
        (CHECKOUT, Some(told)) => format!("{CHECKOUT}/4.{}.0", 2 + told),
        (name, _) => format!("{name}/4.1.7"),
    }
}

#[derive(Clone)]
struct Sender {
    http: Http,
    address: SocketAddr,
    name: Option<&'static str>,
    limit: Arc<Semaphore>,
}

impl Sender {
    /// Sends without waiting for the answer; a client whose requests pile up sends less.
    fn send(self, call: Call, buggy: Option<u64>) {
        let Ok(permit) = Arc::clone(&self.limit).try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            if let Err(error) = self.exchange(call, buggy).await {
                tracing::debug!("a simulated client: {error}");
            }
            drop(permit);
        });
    }

    async fn exchange(&self, call: Call, buggy: Option<u64>) -> Result<(), crate::Error> {
        let (method, path, body) = call.request();
        let uri: Uri = format!("http://{}{path}", self.address).parse()?;
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("user-agent", agent(self.name, buggy))
            .header("traceparent", traceparent());
        if let Some(name) = self.name {
            request = request.header("x-client-id", name);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let response = timeout(PATIENCE, self.http.request(request)).await??;
        let mut body = response.into_body();
        if matches!(call, Call::Abandon) {
            body.frame().await.transpose()?;
        } else {
            timeout(PATIENCE, body.collect()).await??;
        }
        Ok(())
    }
}

impl Call {
    /// Method, path, route, status and time of a call, as the demo answers it on a calm day.
    pub(crate) fn simulated(self) -> (Method, String, &'static str, StatusCode, Duration) {
        let (method, path, _) = self.request();
        let (route, status, ms) = match self {
            Self::Price | Self::SamePrice => ("/v1/prices/{sku}", StatusCode::OK, 60..66),
            Self::Order => ("/v1/orders", StatusCode::CREATED, 6..9),
            Self::BadOrder => ("/v1/orders", StatusCode::UNPROCESSABLE_ENTITY, 66..72),
            Self::Slow => ("/v1/slow", StatusCode::OK, 200..800),
            Self::Stream | Self::Abandon => ("/v1/stream", StatusCode::OK, 600..800),
            Self::Fail => ("/v1/fail", StatusCode::INTERNAL_SERVER_ERROR, 1..3),
            Self::OldPath => ("unmatched", StatusCode::NOT_FOUND, 1..3),
            Self::Probe => ("/healthz", StatusCode::OK, 1..2),
        };
        (
            method,
            path,
            route,
            status,
            Duration::from_millis(fastrand::u64(ms)),
        )
    }

    fn request(self) -> (Method, String, String) {
        let get = |path: String| (Method::GET, path, String::new());
        let post = |body: String| (Method::POST, "/v1/orders".to_owned(), body);
        match self {
            Self::Price => get(format!("/v1/prices/sku-{}", fastrand::u32(..SKUS))),
            Self::SamePrice => get(format!("/v1/prices/sku-{}", fastrand::u32(..3))),
            Self::Order => post(format!(
                r#"{{"sku": "sku-{}", "quantity": {}}}"#,
                fastrand::u32(..SKUS),
                fastrand::u32(1..5)
            )),
            // Nothing is in the basket yet.
            Self::BadOrder => post(r#"{"sku": null, "quantity": 1}"#.to_owned()),
            Self::Slow => get(format!("/v1/slow?ms={}", fastrand::u32(200..800))),
            Self::Stream => get("/v1/stream?chunks=8&ms=100".to_owned()),
            Self::Abandon => get("/v1/stream?chunks=50&ms=50".to_owned()),
            Self::Fail => get("/v1/fail".to_owned()),
            Self::OldPath => get(format!("/prices/sku-{}", fastrand::u32(..SKUS))),
            Self::Probe => get("/healthz".to_owned()),
        }
    }
}

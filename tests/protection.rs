//! Over real sockets: whatever floods, calm callers are all served, and everything that was sent is accounted for.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use callerid::snapshot::Counts;
use callerid::{Builder, Callers, Ceiling, Policy, Provenance, Quota, Reason, identify};
use http::Request;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

const CALM: usize = 50;
const REQUESTS: usize = 15;
/// Requests that the service answers at once, which is the ceiling too.
const WORKERS: u32 = 16;
/// Above the ceiling, and half of that again for names of a group, and all calm callers.
const HARD: u32 = 128;

fn ceiling(builder: Builder) -> Builder {
    builder.ceiling(Ceiling::new(WORKERS).hard_max(HARD))
}

/// A token a minute, should the machine be as slow as that.
const QUOTA: std::ops::Range<u64> = 60..70;

fn quota(builder: Builder) -> Builder {
    builder.quota(Quota::per_hour(60).burst(60))
}

/// A service of known capacity.
async fn serve(set: impl FnOnce(Builder) -> Builder) -> (SocketAddr, Callers) {
    let builder = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .identify(identify::header("x-app"));
    let callers = set(builder).build().unwrap();
    let workers = Arc::new(Semaphore::new(WORKERS as usize));
    let work = move |_: Bytes| {
        let workers = Arc::clone(&workers);
        async move {
            let _worker = workers.acquire().await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            "done"
        }
    };
    let app = Router::new()
        .route("/v1/prices", get(work.clone()).post(work))
        .layer(callers.layer());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    (address, callers)
}

#[derive(Clone)]
struct Source {
    client: Client<HttpConnector, Body>,
    address: SocketAddr,
}

impl Source {
    fn new(address: SocketAddr, h2: bool) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(h2)
            .build_http();
        Self { client, address }
    }

    async fn send(&self, header: &str, name: &str, body: Option<Body>) -> u16 {
        let method = if body.is_some() { "POST" } else { "GET" };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}/v1/prices", self.address));
        let body = body.unwrap_or_else(|| Empty::new().boxed_unsync());
        let response = self
            .client
            .request(request.header(header, name).body(body).unwrap())
            .await
            .unwrap();
        let status = response.status().as_u16();
        // A body that is refused unread may cost the connection, after the head has been seen.
        let _ = response.into_body().collect().await;
        status
    }
}

/// What a flood was told.
#[derive(Debug, Default)]
struct Told {
    served: AtomicU64,
    refused: AtomicU64,
}

impl Told {
    fn note(&self, status: u16) {
        match status {
            200 => self.served.fetch_add(1, Ordering::Relaxed),
            429 => self.refused.fetch_add(1, Ordering::Relaxed),
            other => panic!("{other}"),
        };
    }
}

/// Floods with so many requests at a time, of callers that `name` thinks up, until the calm ones have had all of
/// their answers.
async fn beside_a_flood(
    address: SocketAddr,
    at_once: usize,
    h2: bool,
    name: fn(u64) -> (&'static str, String),
) -> Told {
    let source = Source::new(address, h2);
    flood_from(address, vec![source; at_once], u64::MAX, name).await
}

/// The same from each of these, until it has had so many answers.
async fn flood_from(
    address: SocketAddr,
    sources: Vec<Source>,
    answers: u64,
    name: fn(u64) -> (&'static str, String),
) -> Told {
    let told = Arc::new(Told::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut flood = tokio::task::JoinSet::new();
    for source in sources {
        let (told, stop) = (Arc::clone(&told), Arc::clone(&stop));
        flood.spawn(async move {
            let mut had = 0;
            while had < answers && !stop.load(Ordering::Relaxed) {
                let (header, name) = name(fastrand::u64(..1_000));
                let status = source.send(header, &name, None).await;
                had += u64::from(status == 200);
                told.note(status);
            }
        });
    }
    // The flood is there before the calm ones come.
    while told.refused.load(Ordering::Relaxed) < 100 {
        let served = told.served.load(Ordering::Relaxed);
        assert!(served < 20_000, "nothing holds the flood: {told:?}");
        tokio::task::yield_now().await;
    }
    all_calm_callers_are_served(address).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = flood.join_next().await {
        ended.unwrap();
    }
    Arc::into_inner(told).unwrap()
}

async fn all_calm_callers_are_served(address: SocketAddr) {
    let mut calm = tokio::task::JoinSet::new();
    for caller in 0..CALM {
        calm.spawn(async move {
            let source = Source::new(address, false);
            for request in 0..REQUESTS {
                let status = source
                    .send("x-client-id", &format!("calm{caller}"), None)
                    .await;
                assert_eq!(status, 200, "request {request} of calm{caller}");
            }
        });
    }
    while let Some(ended) = calm.join_next().await {
        ended.unwrap();
    }
}

/// The counts of all callers whose name begins so, added up, once nothing is in flight.
fn counts(callers: &Callers, prefix: &str) -> (u64, u64, u64) {
    let snapshot = callers.snapshot();
    let counts = snapshot
        .callers
        .iter()
        .filter(|caller| caller.name.starts_with(prefix))
        .map(|caller| caller.counts);
    let sum = |field: fn(&Counts) -> u64| counts.clone().map(|counts| field(&counts)).sum();
    (
        sum(|counts| counts.started),
        sum(|counts| counts.by_class.total()),
        sum(|counts| counts.refused.total()),
    )
}

/// What the callers were told, what the table says, and what the calm ones had.
fn assert_conserved(callers: &Callers, prefix: &str, told: &Told) {
    let (served, refused) = (
        told.served.load(Ordering::Relaxed),
        told.refused.load(Ordering::Relaxed),
    );
    assert_eq!(counts(callers, prefix), (served + refused, served, refused));
    let calm = (CALM * REQUESTS) as u64;
    assert_eq!(counts(callers, "calm"), (calm, calm, 0));
}

fn runaway(_: u64) -> (&'static str, String) {
    ("x-client-id", "runaway".to_owned())
}

async fn one_caller_floods(h2: bool) {
    let (address, callers) = serve(ceiling).await;
    let told = beside_a_flood(address, 100, h2, runaway).await;
    assert_conserved(&callers, "runaway", &told);
    let (address, callers) = serve(quota).await;
    let told = beside_a_flood(address, 100, h2, runaway).await;
    assert_conserved(&callers, "runaway", &told);
    assert!(
        QUOTA.contains(&told.served.load(Ordering::Relaxed)),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_caller_floods_a_ceiling_and_a_quota() {
    one_caller_floods(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_caller_floods_a_ceiling_and_a_quota_over_one_h2_connection() {
    one_caller_floods(true).await;
}

/// A hundred instances of one caller, a connection each, that ask until they have had five answers.
async fn herd(address: SocketAddr) -> Told {
    let instances = (0..100).map(|_| Source::new(address, false));
    flood_from(address, instances.collect(), 5, runaway).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_comes_back_to_a_ceiling() {
    let (address, callers) = serve(ceiling).await;
    let told = herd(address).await;
    assert_conserved(&callers, "runaway", &told);
    assert!(told.served.load(Ordering::Relaxed) <= 500, "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_comes_back_to_a_quota() {
    let (address, callers) = serve(quota).await;
    let told = herd(address).await;
    assert_conserved(&callers, "runaway", &told);
    assert!(
        QUOTA.contains(&told.served.load(Ordering::Relaxed)),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_invented_names_flood_a_ceiling() {
    let (address, callers) = serve(ceiling).await;
    let told = beside_a_flood(address, 100, false, |number| {
        ("x-app", format!("invented{number}"))
    })
    .await;
    assert_conserved(&callers, "invented", &told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_invented_names_flood_a_total() {
    let total = Policy::new().total(Quota::per_hour(60).burst(60));
    let (address, _callers) = serve(|builder| builder.provenance(Provenance::Claimed, total)).await;
    let told = beside_a_flood(address, 100, false, |number| {
        ("x-app", format!("invented{number}"))
    })
    .await;
    assert!(
        QUOTA.contains(&told.served.load(Ordering::Relaxed)),
        "{told:?}"
    );
}

/// Two hundred bodies that do not come until all calm callers are served, of which so many are let in.
async fn slow_bodies(address: SocketAddr, let_in: u64) -> Told {
    let told = Arc::new(Told::default());
    let (release, end) = tokio::sync::watch::channel(());
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (source, told, mut end) = (Source::new(address, false), Arc::clone(&told), end.clone());
        flood.spawn(async move {
            let rest = futures_util::stream::once(async move {
                let _ = end.changed().await;
                Ok(http_body::Frame::data(Bytes::from_static(b"x")))
            });
            let body = StreamBody::new(rest).boxed_unsync();
            told.note(source.send("x-client-id", "runaway", Some(body)).await);
        });
    }
    // All that will be refused have been; the others' bodies have not come.
    while told.refused.load(Ordering::Relaxed) < 200 - let_in {
        tokio::task::yield_now().await;
    }
    all_calm_callers_are_served(address).await;
    assert_eq!(told.served.load(Ordering::Relaxed), 0);
    drop(release);
    while let Some(ended) = flood.join_next().await {
        ended.unwrap();
    }
    Arc::into_inner(told).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_hold_no_more_than_a_share() {
    let (address, callers) = serve(ceiling).await;
    let told = slow_bodies(address, WORKERS.into()).await;
    assert_conserved(&callers, "runaway", &told);
    let refused = callers.snapshot().caller("runaway").unwrap().counts.refused;
    assert_eq!(refused[Reason::Ceiling], refused.total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_hold_no_more_than_a_caller_may() {
    let (address, callers) = serve(|builder| quota(builder).max_in_flight(5)).await;
    let told = slow_bodies(address, 5).await;
    assert_conserved(&callers, "runaway", &told);
    assert_eq!(told.served.load(Ordering::Relaxed), 5);
    let refused = callers.snapshot().caller("runaway").unwrap().counts.refused;
    assert_eq!(refused[Reason::InFlight], refused.total());
}

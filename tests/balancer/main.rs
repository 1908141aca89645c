//! Behind real load balancers that try again elsewhere and take replicas out: our refusals cause neither.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic)]
#![allow(
    clippy::disallowed_methods,
    reason = "deadlines of tests are in real time"
)]

#[path = "../programs/balancer.rs"]
mod balancer;

use std::net::SocketAddr;

use axum::Router;
use axum::routing::get;
use balancer::Balancer;
use bytes::Bytes;
use callerid::{Callers, Ceiling, Quota, Reason, identify};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

const FLOOD: usize = 1_000;
/// Requests of the flood that are open at once.
const AT_ONCE: usize = 20;
const CALM: usize = 150;

/// A replica, and its table of callers.
async fn replica(
    set: impl FnOnce(callerid::Builder) -> callerid::Builder,
) -> (SocketAddr, Callers) {
    let builder = Callers::builder().identify(identify::header("x-client-id").verified());
    let callers = set(builder).build().unwrap();
    let app = Router::new()
        .route("/v1/prices", get(async || "ok").post(async |_: Bytes| "ok"))
        .route("/busy", get(async || StatusCode::SERVICE_UNAVAILABLE))
        .route("/healthz", get(async || "ok"))
        .layer(callers.layer());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    (address, callers)
}

struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    name: String,
}

impl Caller {
    fn new(address: SocketAddr, name: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self {
            client,
            address,
            name: name.to_owned(),
        }
    }

    async fn get(&self, path: &str) -> u16 {
        self.send(Method::GET, path, Bytes::new()).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> u16 {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("x-client-id", &self.name)
            .body(Full::new(body));
        let response = self.client.request(request.unwrap()).await.unwrap();
        let status = response.status().as_u16();
        response.into_body().collect().await.unwrap();
        status
    }
}

/// A flood of requests with a body of so many bytes, over many connections, and calm callers beside it, through the
/// balancer. Returns how many of the flood were refused.
async fn flood(address: SocketAddr, bytes: usize) -> usize {
    let mut flood = tokio::task::JoinSet::new();
    let body = Bytes::from(vec![b'x'; bytes]);
    for _ in 0..AT_ONCE {
        let body = body.clone();
        flood.spawn(async move {
            let runaway = Caller::new(address, "runaway");
            let mut refused = 0;
            for _ in 0..FLOOD / AT_ONCE {
                let method = if bytes > 0 { Method::POST } else { Method::GET };
                match runaway.send(method, "/v1/prices", body.clone()).await {
                    200 => {}
                    429 => refused += 1,
                    other => panic!("{other} reached the caller"),
                }
            }
            refused
        });
    }
    let calm: Vec<_> = (0..10)
        .map(|name| Caller::new(address, &format!("calm{name}")))
        .collect();
    for calm in calm.iter().cycle().take(CALM) {
        assert_eq!(calm.get("/v1/prices").await, 200, "{}", calm.name);
    }
    flood.join_all().await.into_iter().sum()
}

/// Each refusal was asked for once: admitted and refused, over the replicas, is what the callers sent.
fn assert_sent_once(tables: &[Callers], refused: usize) {
    let counts = |name: &str| -> (u64, u64) {
        let snapshots = tables.iter().map(Callers::snapshot);
        let counts = snapshots.filter_map(|snapshot| Some(snapshot.caller(name)?.counts));
        counts.fold((0, 0), |sum, counts| {
            (
                sum.0 + counts.started,
                sum.1 + counts.refused[Reason::Quota],
            )
        })
    };
    assert_eq!(counts("runaway"), (FLOOD as u64, refused as u64));
    let calm: u64 = (0..10).map(|name| counts(&format!("calm{name}")).0).sum();
    assert_eq!(calm, CALM as u64);
}

async fn replicas() -> (Vec<SocketAddr>, Vec<Callers>) {
    let quota = |builder: callerid::Builder| {
        builder
            .quota(Quota::per_hour(40).burst(40))
            .ceiling(Ceiling::new(64))
    };
    let (one, first) = replica(quota).await;
    let (two, second) = replica(quota).await;
    (vec![one, two], vec![first, second])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_takes_no_replica_out_and_tries_nothing_again_for_a_refusal() {
    let (addresses, tables) = replicas().await;
    let balancer = Balancer::haproxy(&addresses);
    let refused = flood(balancer.address, 0).await;
    assert_eq!(refused, FLOOD - 80);
    assert_sent_once(&tables, refused);
    let replicas = balancer.replicas();
    assert_eq!(replicas.len(), 2);
    assert_all_in(&replicas);
    for replica in &replicas {
        assert!(replica.answered >= FLOOD as u64 / 4, "{replica:?}");
    }
    // The same balancer does take a replica out for 503s, so that it would have been seen.
    let busy = Caller::new(balancer.address, "busy");
    let counted = || {
        let counts = |replica: &balancer::Replica| replica.times_down + replica.retries > 0;
        balancer.replicas().iter().any(counts)
    };
    for _ in 0..10 {
        if !counted() {
            assert_eq!(busy.get("/busy").await, 503);
        }
    }
    assert!(counted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_takes_no_replica_out_and_tries_nothing_again_for_a_refusal() {
    let (addresses, tables) = replicas().await;
    let balancer = Balancer::nginx(&addresses);
    let refused = flood(balancer.address, 0).await;
    assert_eq!(refused, FLOOD - 80);
    assert_sent_once(&tables, refused);
    assert_eq!(balancer.log(), "");
    let busy = Caller::new(balancer.address, "busy");
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(busy.get("/busy").await);
    }
    // nginx has marked both: it says so, and answers 502 by itself.
    assert!(statuses.contains(&502), "{statuses:?}");
    assert!(
        balancer.log().contains("no live upstreams"),
        "{}",
        balancer.log()
    );
}

/// Larger than what comes with the head, and than what a balancer keeps in memory.
const BODIES: [usize; 2] = [20_000, 400_000];

/// Floods two replicas with bodies that are still being sent when they are refused.
async fn flood_of_bodies(start: fn(&[SocketAddr]) -> Balancer, at_its_end: impl Fn(&Balancer)) {
    for bytes in BODIES {
        let (addresses, tables) = replicas().await;
        let balancer = start(&addresses);
        let refused = flood(balancer.address, bytes).await;
        assert_eq!(refused, FLOOD - 80);
        assert_sent_once(&tables, refused);
        at_its_end(&balancer);
    }
}

fn assert_all_in(replicas: &[balancer::Replica]) {
    for replica in replicas {
        assert!(replica.status.starts_with("UP"), "{replica:?}");
        assert_eq!((replica.times_down, replica.retries), (0, 0), "{replica:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_hears_a_refusal_while_it_still_sends_the_body() {
    flood_of_bodies(Balancer::haproxy, |balancer| {
        assert_all_in(&balancer.replicas());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_hears_a_refusal_while_it_still_sends_the_body() {
    flood_of_bodies(Balancer::nginx, |balancer| {
        let log = balancer.log();
        let mut lines = log.lines();
        let other = lines.find(|line| !line.contains("buffered to a temporary file"));
        assert_eq!(other, None);
    })
    .await;
}

//! Over real sockets: what a caller sees, and what becomes of the others.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use callerid::{Callers, Ceiling, Quota, Reason, identify};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

fn callers(set: impl FnOnce(callerid::Builder) -> callerid::Builder) -> Callers {
    let builder = Callers::builder().identify(identify::header("x-client-id").verified());
    set(builder).build().unwrap()
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    address
}

struct Client(hyper::client::conn::http1::SendRequest<Empty<bytes::Bytes>>);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self(send)
    }

    async fn ask(&mut self, method: &str, caller: &str) -> (http::response::Parts, String) {
        self.0.ready().await.unwrap();
        let request = http::Request::builder().method(method).uri("/v1/prices");
        let request = request.header("host", "test").header("x-client-id", caller);
        let response = self
            .0
            .send_request(request.body(Empty::new()).unwrap())
            .await
            .unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head, String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn a_quota_refuses_with_429_over_a_real_socket() {
    let callers = callers(|builder| builder.quota(Quota::per_hour(3).burst(3)));
    let app = Router::new()
        .route("/v1/prices", get(async || "ok"))
        .layer(callers.layer());
    let mut client = Client::connect(serve(app).await).await;
    for _ in 0..3 {
        assert_eq!(client.ask("GET", "runaway").await.0.status, 200);
    }
    let (head, body) = client.ask("GET", "runaway").await;
    assert_eq!(head.status, 429);
    assert!(
        head.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1_000
    );
    assert!(body.contains("quota-exceeded"), "{body}");
    // The same connection goes on, also after a refused HEAD.
    assert_eq!(client.ask("HEAD", "runaway").await.0.status, 429);
    assert_eq!(client.ask("GET", "calm").await.0.status, 200);
    let counts = callers.snapshot().caller("runaway").unwrap().counts;
    assert_eq!((counts.started, counts.refused[Reason::Quota]), (5, 2));
}

/// A service of a known capacity, one caller that floods it, and calm ones beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calm_callers_all_succeed_beside_a_flood_at_the_ceiling() {
    const CALM: usize = 10;
    const REQUESTS: usize = 20;
    let callers = callers(|builder| builder.ceiling(Ceiling::new(16)));
    let capacity = Arc::new(Semaphore::new(16));
    let handler = move || {
        let capacity = Arc::clone(&capacity);
        async move {
            let _place = capacity.acquire().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            "ok"
        }
    };
    let app = Router::new()
        .route("/v1/prices", get(handler))
        .layer(callers.layer());
    let address = serve(app).await;
    let stop = Arc::new(AtomicU64::new(0));
    let flood: Vec<_> = (0..64)
        .map(|_| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut sent = 0_u64;
                while stop.load(Ordering::Relaxed) == 0 {
                    client.ask("GET", "flood").await;
                    sent += 1;
                    tokio::task::yield_now().await;
                }
                sent
            })
        })
        .collect();
    // The flood is there before the calm ones come.
    while callers
        .snapshot()
        .caller("flood")
        .is_none_or(|flood| flood.counts.refused.total() < 100)
    {
        tokio::task::yield_now().await;
    }
    let calm: Vec<_> = (0..CALM)
        .map(|name| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut ok = 0;
                for _ in 0..REQUESTS {
                    let (head, _) = client.ask("GET", &format!("calm{name}")).await;
                    ok += usize::from(head.status == 200);
                }
                ok
            })
        })
        .collect();
    let mut ok = 0;
    for calm in calm {
        ok += calm.await.unwrap();
    }
    stop.store(1, Ordering::Relaxed);
    let mut sent = 0;
    for flood in flood {
        sent += flood.await.unwrap();
    }
    assert_eq!(ok, CALM * REQUESTS);
    let counts = callers.snapshot().caller("flood").unwrap().counts;
    assert_eq!(
        counts.by_class.total() + counts.refused.total(),
        sent,
        "admitted and refused are what was sent"
    );
    assert_eq!(counts.refused[Reason::Ceiling], counts.refused.total());
    assert_eq!(counts.in_flight, 0);
}

#[tokio::test]
async fn a_tonic_client_reads_resource_exhausted_and_the_pushback() {
    use tonic::client::Grpc;
    use tonic::transport::Channel;

    let callers = callers(|builder| builder.quota(Quota::per_hour(1).burst(1)));
    let answer = async || {
        let empty = Empty::<bytes::Bytes>::new();
        let mut response = http::Response::new(axum::body::Body::new(empty));
        response
            .headers_mut()
            .insert("content-type", "application/grpc".parse().unwrap());
        response
            .headers_mut()
            .insert("grpc-status", "12".parse().unwrap());
        Ok::<_, Infallible>(response)
    };
    let app = Router::new()
        .fallback_service(tower::service_fn(move |_: axum::extract::Request| answer()));
    let address = serve(app.layer(callers.layer())).await;
    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut grpc = Grpc::new(channel);
    let mut call = async || {
        grpc.ready().await.unwrap();
        let mut request = tonic::Request::new(());
        request
            .metadata_mut()
            .insert("x-client-id", "runaway".parse().unwrap());
        let path = http::uri::PathAndQuery::from_static("/pkg.Svc/Method");
        let answer: Result<tonic::Response<()>, _> = grpc.unary(request, path, Nothing).await;
        answer.unwrap_err()
    };
    assert_eq!(call().await.code(), tonic::Code::Unimplemented, "let in");
    let status = call().await;
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert_eq!(status.message(), "the quota of 1/h, burst 1 is spent");
    let pushback = status
        .metadata()
        .get("grpc-retry-pushback-ms")
        .unwrap()
        .to_str()
        .unwrap();
    assert!(pushback.parse::<u64>().unwrap() >= 1_000, "{pushback}");
}

/// Messages of no bytes.
struct Nothing;

impl tonic::codec::Codec for Nothing {
    type Encode = ();
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Nothing {
    type Item = ();
    type Error = tonic::Status;

    fn encode(&mut self, (): (), _: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        Ok(())
    }
}

impl tonic::codec::Decoder for Nothing {
    type Item = ();
    type Error = tonic::Status;

    fn decode(&mut self, _: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
        Ok(Some(()))
    }
}

//! What the benches share: realistic requests, the contenders, and the loop that serves a request to its end.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each bench uses its part, and nobody else sees it"
)]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use callerid::{Builder, Callers, LATENCY_BUCKETS, identify};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use tower::Service;
use tower_governor::GovernorError;
use tower_governor::key_extractor::KeyExtractor;

pub mod contenders;
pub mod figures;
pub mod proc;

/// The header that names the caller.
pub const IDENTITY: HeaderName = HeaderName::from_static("x-client-id");
/// What the service answers.
const ANSWER: &[u8] = br#"{"sku":"ABC","price":1299,"currency":"EUR"}"#;

/// What goes into a service: requests with ten headers, the identity among them. They are made one by one, so that
/// the allocator sees what it sees in a server; what that costs is measured too, and taken off.
#[derive(Clone)]
pub struct Requests {
    template: Request<()>,
    clients: Clients,
}

#[derive(Clone)]
enum Clients {
    /// They take turns, or come at random.
    Known(Vec<HeaderValue>, Order, usize),
    /// Every request has a name that was never seen before.
    Invented(u64),
    /// No request says who it is from.
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    InTurns,
    Random,
}

/// More callers than this come at random, unless they are to take turns.
const FEW: usize = 100;

impl Requests {
    fn new(clients: Clients) -> Self {
        static HEADERS: [(&str, &str); 9] = [
            ("host", "prices.example"),
            ("user-agent", "checkout/2.31 (linux; x86_64)"),
            ("accept", "application/json"),
            ("accept-encoding", "gzip, br"),
            ("accept-language", "en"),
            (
                "authorization",
                "Bearer eyJhbGciOiJFUzI1NiJ9.e30.c2lnbmF0dXJl",
            ),
            ("cache-control", "no-cache"),
            ("x-request-id", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736"),
            (
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ),
        ];
        let mut template = Request::new(());
        *template.method_mut() = Method::GET;
        *template.uri_mut() = Uri::from_static("/v1/prices/ABC");
        let headers = template.headers_mut();
        headers.reserve(10);
        for (name, value) in HEADERS {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        if !matches!(clients, Clients::Nobody) {
            headers.insert(IDENTITY, HeaderValue::from_static("client"));
        }
        Self { template, clients }
    }

    /// From so many clients, whose names start with `prefix`.
    pub fn of(prefix: &str, clients: usize) -> Self {
        let names = (0..clients).map(|client| format!("{prefix}-{client:05}"));
        // Leaked, so that a clone counts no references; a server's clones do not share theirs across threads.
        let names = names.map(|name| HeaderValue::from_static(name.leak()));
        let order = if clients > FEW {
            Order::Random
        } else {
            Order::InTurns
        };
        Self::new(Clients::Known(names.collect(), order, 0))
    }

    /// However many they are, they take turns.
    #[must_use]
    pub fn in_turns(mut self) -> Self {
        if let Clients::Known(_, order, _) = &mut self.clients {
            *order = Order::InTurns;
        }
        self
    }

    pub fn invented() -> Self {
        Self::new(Clients::Invented(0))
    }

    pub fn of_nobody() -> Self {
        Self::new(Clients::Nobody)
    }

    #[inline]
    pub fn next(&mut self) -> Request<Body> {
        let client = match &mut self.clients {
            Clients::Known(names, order, turn) => {
                *turn = match order {
                    Order::Random => fastrand::usize(..names.len()),
                    Order::InTurns => (*turn + 1) % names.len(),
                };
                Some(names[*turn].clone())
            }
            Clients::Invented(number) => {
                *number += 1;
                HeaderValue::from_str(&format!("invented-{number:011}")).ok()
            }
            Clients::Nobody => None,
        };
        let mut request = self.template.clone().map(|()| Body::empty());
        if let Some(client) = client {
            request.headers_mut().insert(IDENTITY, client);
        }
        request
    }
}

/// A service that answers at once.
#[derive(Clone, Debug)]
pub struct Answer;

impl Service<Request<Body>> for Answer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        black_box(request.headers().len());
        ready(Ok(Response::new(Body::from(Bytes::from_static(ANSWER)))))
    }
}

/// A service that gives the answer of a function.
#[derive(Clone, Debug)]
pub struct Fixed<F>(pub F);

impl<F: Fn() -> Response<Body>> Service<Request<Body>> for Fixed<F> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Ok((self.0)()))
    }
}

async fn price() -> &'static [u8] {
    ANSWER
}

/// An axum router with a few routes, one of which the requests match.
pub fn router() -> Router {
    Router::new()
        .route("/v1/prices/{sku}", get(price))
        .route("/v1/orders", get(price).post(price))
        .route("/v1/orders/{id}", get(price))
        .route("/healthz", get(price))
}

/// Calls the service and takes the response to its end, without a runtime: everything is ready.
#[inline]
pub fn serve<S, B>(service: &mut S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<B>>,
    B: http_body::Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(
        service.poll_ready(&mut cx).is_ready(),
        "the service is always ready"
    );
    let mut response = pin!(service.call(request));
    let response = loop {
        match response.as_mut().poll(&mut cx) {
            Poll::Ready(Ok(response)) => break response,
            Poll::Ready(Err(_)) => unreachable!("the service never fails"),
            // The first of a caller whose quota a fleet shares waits for the Redis.
            Poll::Pending => std::thread::yield_now(),
        }
    };
    assert!(
        matches!(response.status().as_u16(), 200 | 422 | 429),
        "served, or refused on purpose"
    );
    let mut body = pin!(response.into_body());
    while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) {
        black_box(frame.is_data());
    }
}

/// callerid as a service would set it up: a verified header, and the matched route where there is no router.
pub fn builder() -> Builder {
    Callers::builder().identify(identify::header(IDENTITY.as_str()).verified())
}

/// The same outside of axum, where a route has to be named.
pub fn builder_with_route() -> Builder {
    builder().route(|_| Some("/v1/prices/{sku}"))
}

/// Room for `callers` with a row each.
pub fn roomy(builder: Builder, callers: usize) -> Builder {
    builder
        .max_tracked(callers + 100)
        .max_exported(callers + 100)
}

/// The Prometheus exporter with the buckets that callerid documents.
///
/// # Panics
///
/// Never: there are buckets.
pub fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &LATENCY_BUCKETS)
        .expect("there are buckets")
        .build_recorder()
}

/// Installs [`recorder`] for the process.
///
/// # Panics
///
/// When there is one already.
pub fn install_recorder() -> PrometheusHandle {
    let recorder = recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).expect("one recorder per process");
    handle
}

/// tower_governor's key: the same header.
#[derive(Clone, Copy, Debug)]
pub struct ByClient;

impl KeyExtractor for ByClient {
    type Key = String;

    fn extract<T>(&self, request: &Request<T>) -> Result<String, GovernorError> {
        request
            .headers()
            .get(IDENTITY)
            .and_then(|client| client.to_str().ok())
            .map(str::to_owned)
            .ok_or(GovernorError::UnableToExtractKey)
    }
}

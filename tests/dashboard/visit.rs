//! A table on a clock that stands still, and visits to its page.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::ConnectInfo;
use callerid::clock::ManualClock;
use callerid::dashboard::{Access, Dashboard};
use callerid::{Builder, Callers, Timestamp, identify};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::{Layer, ServiceExt};

pub(crate) const NOW: u64 = 1_760_000_000;

pub(crate) struct Table {
    pub(crate) callers: Callers,
    pub(crate) clock: ManualClock,
}

pub(crate) fn table(more: impl FnOnce(Builder) -> Builder) -> Table {
    let clock = ManualClock::at(Timestamp::from_secs(NOW));
    let builder = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .identify(identify::header("x-claimed-id"))
        .clock(clock.clone())
        .manual_tick();
    let callers = more(builder).build().unwrap();
    Table { callers, clock }
}

impl Table {
    pub(crate) fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            let now = self.clock.advance(Duration::from_secs(1));
            self.callers.tick(now);
        }
    }

    /// Sends requests of a caller, which are answered with this status.
    pub(crate) async fn send(&self, header: &'static str, caller: &str, status: u16, times: u32) {
        let service = self.callers.layer().layer(tower::service_fn(
            move |_: Request<Full<bytes::Bytes>>| async move {
                let mut response = Response::new(Full::<bytes::Bytes>::default());
                *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
                Ok::<_, std::convert::Infallible>(response)
            },
        ));
        for _ in 0..times {
            let mut request = Request::new(Full::default());
            request
                .headers_mut()
                .insert(header, caller.parse().unwrap());
            let response = service.clone().oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
    }

    pub(crate) fn page(&self, access: Access) -> Page {
        Page(self.callers.dashboard().access(access))
    }
}

pub(crate) struct Page(pub(crate) Dashboard);

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The detail of a problem of RFC 9457.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// A visitor at this address, with this `Host`.
pub(crate) fn request(method: &str, path: &str, peer: Option<&str>) -> Request<Full<bytes::Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost:3000")
        .body(Full::default())
        .unwrap();
    if let Some(peer) = peer {
        let peer: IpAddr = peer.parse().unwrap();
        let peer = ConnectInfo(SocketAddr::from((peer, 40_000)));
        request.extensions_mut().insert(peer);
    }
    request
}

pub(crate) fn with(
    mut request: Request<Full<bytes::Bytes>>,
    headers: &[(&'static str, &str)],
) -> Request<Full<bytes::Bytes>> {
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

impl Page {
    pub(crate) async fn ask(&self, request: Request<Full<bytes::Bytes>>) -> Answer {
        let (head, body) = self.0.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    /// From this machine.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(request("GET", path, Some("127.0.0.1"))).await
    }
}

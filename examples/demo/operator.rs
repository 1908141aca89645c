//! What the operator looks at: the scrape, and the callers as plain text. Mounted outside the layer.

use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use callerid::Callers;
use metrics_exporter_prometheus::PrometheusHandle;

use crate::table;

pub(crate) fn routes(callers: Callers, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/callerid/top.txt", get(top))
        .with_state((callers, metrics))
}

type Shared = State<(Callers, PrometheusHandle)>;

async fn scrape(State((callers, metrics)): Shared) -> Response {
    callers.flush();
    let format = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (format, metrics.render()).into_response()
}

/// Shows names, which are nobody else's business: only to this machine, and not through a proxy on it.
async fn top(
    State((callers, _)): Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    if !is_local(peer.ip(), &headers) {
        return (StatusCode::FORBIDDEN, "shown on this machine only\n").into_response();
    }
    let format = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (format, table::render(&callers.snapshot())).into_response()
}

fn is_local(peer: IpAddr, headers: &HeaderMap) -> bool {
    let forwards = |name: &HeaderName| {
        let name = name.as_str();
        ["x-forwarded", "x-envoy-"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            || ["forwarded", "via", "x-real-ip"].contains(&name)
    };
    peer.to_canonical().is_loopback() && !headers.keys().any(forwards)
}

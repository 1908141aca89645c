//! What `--check` adds to the small examples: it calls the server over a real socket and compares what was counted.

use std::net::SocketAddr;

use callerid::{Callers, Class};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use metrics_exporter_prometheus::PrometheusHandle;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Whether the program was asked to check itself and end.
pub(crate) fn wanted() -> bool {
    std::env::args().any(|arg| arg == "--check")
}

/// Asks for a path as a caller, and reads the whole answer.
#[allow(dead_code, reason = "gRPC has a client of its own")]
pub(crate) async fn get(
    address: SocketAddr,
    path: &str,
    caller: &str,
    http2: bool,
) -> Result<(u16, String), Error> {
    let client = Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .build_http();
    let request = http::Request::get(format!("http://{address}{path}"))
        .header("x-client-id", caller)
        .body(Empty::<bytes::Bytes>::new())?;
    let response = client.request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Prints callers and metrics, and compares them with what was sent: caller, route, class, how often.
pub(crate) fn compare(
    callers: &Callers,
    metrics: &PrometheusHandle,
    sent: &[(&str, &str, Class, u64)],
) -> Result<(), Error> {
    let snapshot = callers.snapshot();
    for caller in &snapshot.callers {
        let classes: Vec<_> = caller.counts.by_class.iter().collect();
        println!("{} ({}): {classes:?}", caller.name, caller.provenance);
    }
    callers.flush();
    let text = metrics.render();
    print!("{text}");
    for (name, route, class, count) in sent {
        let caller = snapshot.caller(name);
        let routes = caller.iter().flat_map(|caller| &caller.routes);
        let seen = routes
            .filter(|of| of.route == *route)
            .map(|of| of.by_class[*class]);
        let seen: u64 = seen.sum();
        if seen != *count {
            return Err(format!("{name} {route} {class}: {seen} counted, {count} sent").into());
        }
        let line = format!(r#"callerid_requests_total{{caller="{name}",class="{class}"}} "#);
        if !text.contains(&line) {
            return Err(format!("no line {line}").into());
        }
    }
    Ok(())
}

//! callerid on axum: one layer on the router. `--check` makes the program call itself and end.

mod check;

use std::net::SocketAddr;

use axum::{Json, Router, http::StatusCode, routing::get};
use callerid::{Caller, Callers, Class, LATENCY_BUCKETS, identify};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

async fn price(caller: Caller) -> Json<String> {
    Json(format!("a price for {}", caller.name()))
}

#[tokio::main]
async fn main() -> Result<(), check::Error> {
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &LATENCY_BUCKETS)?
        .install_recorder()?;
    let callers = Callers::builder()
        .identify(identify::header("x-client-id").verified()) // a gateway sets it
        .identify(identify::peer_addr()) // who has none is told apart by address
        .build()?;

    let (scraped, rendered) = (callers.clone(), metrics.clone());
    let app = Router::new()
        .route("/v1/prices/{sku}", get(price))
        .route("/v1/orders", get(async || StatusCode::UNPROCESSABLE_ENTITY))
        .layer(callers.layer())
        .route(
            "/metrics", // after the layer, so not counted
            get(async move || {
                scraped.flush();
                rendered.render()
            }),
        )
        .into_make_service_with_connect_info::<SocketAddr>();

    let port = if check::wanted() { 0 } else { 3000 };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    let server = axum::serve(listener, app);
    if !check::wanted() {
        return Ok(server.await?);
    }

    tokio::spawn(server.into_future());
    for (path, caller, status) in [
        ("/v1/prices/1", "checkout", 200),
        ("/v1/orders", "checkout", 422),
        ("/v1/prices/2", "search", 200),
        ("/v1/nowhere", "search", 404),
    ] {
        assert_eq!(check::get(address, path, caller, false).await?.0, status);
    }
    check::compare(
        &callers,
        &metrics,
        &[
            ("checkout", "GET /v1/prices/{sku}", Class::Ok, 1),
            ("checkout", "GET /v1/orders", Class::Validation, 1),
            ("search", "GET /v1/prices/{sku}", Class::Ok, 1),
            ("search", "unmatched", Class::NotFound, 1),
        ],
    )
}

//! callerid on tonic: the same layer, for unary and streaming methods. `--check` makes the program call itself and end.

mod check;
#[path = "check/grpc.rs"]
mod grpc;

use std::convert::Infallible;

use callerid::{Callers, Class, LATENCY_BUCKETS, identify};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::grpc::{Price, Sku};

async fn get(request: Request<Sku>) -> Result<Response<Price>, Status> {
    match request.get_ref().sku.as_str() {
        "" => Err(Status::invalid_argument("sku is missing")),
        _ => Ok(Response::new(Price { cents: 995 })),
    }
}

type Prices = tokio_stream::Iter<std::vec::IntoIter<Result<Price, Status>>>;

/// Ends with an error after three prices: the status is in the trailers.
async fn watch(_: Request<Sku>) -> Result<Response<Prices>, Status> {
    let mut prices: Vec<_> = [995, 990, 985].map(|cents| Ok(Price { cents })).into();
    prices.push(Err(Status::unavailable("the price store went away")));
    Ok(Response::new(tokio_stream::iter(prices)))
}

/// What generated code does: `PricesServer`.
async fn prices(
    request: http::Request<axum::body::Body>,
) -> Result<http::Response<Body>, Infallible> {
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<Price, Sku>::default());
    Ok(match request.uri().path() {
        "/shop.Prices/Get" => grpc.unary(service_fn(get), request).await,
        "/shop.Prices/Watch" => grpc.server_streaming(service_fn(watch), request).await,
        _ => Status::unimplemented("no such method").into_http(),
    })
}

#[tokio::main]
async fn main() -> Result<(), check::Error> {
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &LATENCY_BUCKETS)?
        .install_recorder()?; // render it where your monitoring scrapes, after `callers.flush()`
    let callers = Callers::builder()
        .identify(identify::header("x-client-id").verified()) // a gateway sets it
        .build()?;

    let port = if check::wanted() { 0 } else { 3000 };
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], port).into())?;
    let address = incoming.local_addr()?;
    println!("listening on http://{address}");
    let router = axum::Router::new().fallback_service(service_fn(prices));
    let server = Server::builder()
        .layer(callers.layer())
        .add_routes(Routes::from(router)) // with generated code `.add_service(PricesServer::new(..))`
        .serve_with_incoming(incoming);
    if !check::wanted() {
        return Ok(server.await?);
    }

    tokio::spawn(server);
    grpc::call(address, "checkout").await?;
    let sent = [
        ("checkout", "POST /shop.Prices/Get", Class::Ok, 1),
        ("checkout", "POST /shop.Prices/Get", Class::Validation, 1),
        ("checkout", "POST /shop.Prices/Watch", Class::Unavailable, 1),
        ("checkout", "unmatched", Class::NotFound, 1),
    ];
    check::compare(&callers, &metrics, &sent)
}

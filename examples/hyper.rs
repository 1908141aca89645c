//! callerid on plain hyper, HTTP/1 and HTTP/2: the layer, and a name for each route. `--check` makes the program
//! call itself and end.

mod check;

use callerid::{Caller, Callers, Class, LATENCY_BUCKETS, identify};
use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tokio::net::TcpListener;

async fn handle(request: Request<hyper::body::Incoming>) -> Result<Response<String>, check::Error> {
    let caller = request.extensions().get::<Caller>();
    let name = caller.map_or("nobody", Caller::name);
    let known = route(request.uri().path()).is_some();
    let mut response = Response::new(format!("hello {name}"));
    *response.status_mut() = if known { 200 } else { 404 }.try_into()?;
    Ok(response)
}

/// The template of a path: never the path itself, which clients can invent.
fn route(path: &str) -> Option<&'static str> {
    path.starts_with("/v1/prices/")
        .then_some("/v1/prices/{sku}")
}

async fn serve(listener: TcpListener, callers: Callers) {
    let service = tower::ServiceBuilder::new()
        .layer(callers.layer())
        .service_fn(handle);
    loop {
        let accepted = listener.accept().await;
        let Ok((stream, _)) = accepted.inspect_err(|error| eprintln!("accept: {error}")) else {
            // No descriptor is left, or the client has gone again: both pass.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
            connection.await.inspect_err(|error| eprintln!("{error}"))
        });
    }
}

#[tokio::main]
async fn main() -> Result<(), check::Error> {
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &LATENCY_BUCKETS)?
        .install_recorder()?; // render it where your monitoring scrapes, after `callers.flush()`
    let callers = Callers::builder()
        .identify(identify::header("x-client-id").verified()) // a gateway sets it
        .route(|head| route(head.uri().path()))
        .build()?;
    let port = if check::wanted() { 0 } else { 3000 };
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    if !check::wanted() {
        serve(listener, callers).await;
        return Ok(());
    }

    tokio::spawn(serve(listener, callers.clone()));
    for http2 in [false, true] {
        let (_, text) = check::get(address, "/v1/prices/1", "checkout", http2).await?;
        assert_eq!(text, "hello checkout");
        assert_eq!(check::get(address, "/x", "search", http2).await?.0, 404);
    }
    let sent = [
        ("checkout", "GET /v1/prices/{sku}", Class::Ok, 2),
        ("search", "unmatched", Class::NotFound, 2),
    ];
    check::compare(&callers, &metrics, &sent)
}

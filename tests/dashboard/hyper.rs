//! The page in plain hyper, on a listener of its own, over real sockets.

use std::net::SocketAddr;

use callerid::dashboard::Access;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use super::programs;
use super::visit::{Table, table};

/// Who has connected: what the listener knows, and the page is told.
#[derive(Clone, Copy)]
struct Peer(SocketAddr);

fn service() -> Table {
    table(|builder| builder.peer(|extensions| Some(extensions.get::<Peer>()?.0.ip())))
}

/// Serves the page alone.
async fn serve(table: &Table) -> SocketAddr {
    let page = table.callers.dashboard().access(Access::local_operator());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let page = page
                .clone()
                .map_request(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(Peer(peer));
                    request
                });
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let service = TowerToHyperService::new(page);
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn call(
    address: SocketAddr,
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
) -> programs::Answer {
    let ask = move || programs::call(address, method, path, &headers, &body);
    tokio::task::spawn_blocking(ask).await.unwrap()
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn plain_hyper_serves_it_below_its_mount_and_takes_what_operators_do() {
    let table = service();
    table.send("x-client-id", "checkout", 200, 3).await;
    let address = serve(&table).await;
    for path in ["/callerid/", "/callerid/top.txt", "/callerid/v1/overview"] {
        let answer = call(address, "GET", path, vec![], String::new()).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body.contains("checkout"), "{path}: {}", answer.body);
    }
    let bare = call(address, "GET", "/callerid", vec![], String::new()).await;
    assert_eq!(
        (bare.status, &*bare.headers["location"]),
        (308, "./callerid/")
    );
    let script = call(address, "GET", "/callerid/main.js", vec![], String::new()).await;
    assert_eq!(
        script.headers["content-type"],
        "text/javascript; charset=utf-8"
    );
    let proxied = vec![("cf-connecting-ip", "127.0.0.1")];
    let proxied = call(address, "GET", "/callerid/top.txt", proxied, String::new()).await;
    assert_eq!(proxied.status, 403);

    let block = r#"{"caller": "checkout", "seconds": 60}"#.to_owned();
    let done = call(address, "POST", "/callerid/v1/do/block", vec![JSON], block).await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert!(done.body.contains(r#""scope":"replica""#), "{}", done.body);
    assert!(
        table.callers.snapshot().caller("checkout").is_some()
            && table
                .callers
                .events()
                .iter()
                .any(|event| event.to_json().contains("\"author\": \"local\""))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_says_its_length_is_cut_at_the_limit_and_said_to_be_too_long() {
    let table = service();
    table.send("x-client-id", "checkout", 200, 1).await;
    let address = serve(&table).await;
    // A whole request at first, and then white space without an end.
    let mut body = r#"{"caller": "checkout", "seconds": 60}"#.to_owned();
    for (padding, status) in [(60_000, 200), (70_000, 413)] {
        body.truncate(37);
        body.push_str(&" ".repeat(padding));
        let chunks: String = body
            .as_bytes()
            .chunks(1_000)
            .map(|chunk| {
                format!(
                    "{:x}\r\n{}\r\n",
                    chunk.len(),
                    std::str::from_utf8(chunk).unwrap()
                )
            })
            .collect();
        let headers = vec![JSON, ("transfer-encoding", "chunked")];
        let answer = tokio::task::spawn_blocking(move || {
            let stream = programs::open(address, "POST", "/callerid/v1/do/block", &headers, "");
            programs::finish(stream, &format!("{chunks}0\r\n\r\n"))
        });
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.body);
        if status == 413 {
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            assert!(
                answer.body.contains("65536 bytes at most"),
                "{}",
                answer.body
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_the_host_is_that_of_the_address() {
    let table = service();
    table.send("x-client-id", "checkout", 200, 1).await;
    let address = serve(&table).await;
    for (host, status) in [("localhost", 200), ("evil.example", 403)] {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                .await
                .unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("http://{host}/callerid/top.txt"))
            .body(Full::<bytes::Bytes>::default())
            .unwrap();
        let response: Response<Incoming> = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), status, "{host}");
        response.into_body().collect().await.unwrap();
    }
}

//! Upgraded connections: a request ends with the head of its answer, and what goes through the tunnel after that counts
//! against no limit.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use callerid::{Callers, Ceiling, Class, Policy, identify};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::Layer;

/// A service that opens a tunnel which says everything again, to who asks for one.
async fn echo(
    mut request: Request<hyper::body::Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut answer = Response::new(Full::default());
    if request.method() == Method::CONNECT || request.headers().contains_key("upgrade") {
        if request.method() != Method::CONNECT {
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = answer.headers_mut();
            headers.insert("connection", "upgrade".parse().unwrap());
            headers.insert("upgrade", "echo".parse().unwrap());
        }
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut tunnel = TokioIo::new(upgrade.await.unwrap());
            let mut said = [0; 64];
            while let Ok(read @ 1..) = tunnel.read(&mut said).await {
                tunnel.write_all(&said[..read]).await.unwrap();
            }
        });
    }
    Ok(answer)
}

/// One request of each caller at a time, and one stream.
async fn served() -> (std::net::SocketAddr, Callers) {
    let callers = Callers::builder()
        .identify(identify::header("x-client-id").verified())
        .default_policy(Policy::new().max_in_flight(1).max_streams(1))
        .ceiling(Ceiling::new(1).hard_max(1))
        .build()
        .unwrap();
    let layer = callers.layer();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(layer.layer(tower::service_fn(echo)));
            tokio::spawn(async move {
                let mut server = auto::Builder::new(TokioExecutor::new());
                server.http2().enable_connect_protocol();
                let io = TokioIo::new(stream);
                let _ = server.serve_connection_with_upgrades(io, service).await;
            });
        }
    });
    (address, callers)
}

async fn says_again(tunnel: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    tunnel.write_all(b"again").await.unwrap();
    let mut said = [0; 5];
    tunnel.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"again");
}

/// So many requests have ended, and nothing is held.
async fn all_have_ended(callers: &Callers, requests: u64) {
    let counts = || callers.snapshot().caller("a").unwrap().counts;
    // The server may let go of an answer a moment after its head was read.
    let ended = async {
        while counts().by_class[Class::Ok] < requests {
            tokio::task::yield_now().await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
    let counts = counts();
    assert!(ended.is_ok(), "{counts:?}");
    assert_eq!((counts.started, counts.in_flight), (requests, 0));
    assert_eq!(counts.refused.total(), 0);
    assert_eq!(callers.snapshot().ceiling.unwrap().in_flight, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgraded_connection_holds_no_place_while_it_is_open() {
    let (address, callers) = served().await;
    let ask = "GET / HTTP/1.1\r\nhost: x\r\nx-client-id: a\r\n";
    let upgrade = format!("{ask}connection: upgrade\r\nupgrade: echo\r\n\r\n");
    let head = async |stream: &mut TcpStream, request: &str, status: &str| {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(status.as_bytes()));
    };
    let mut tunnels = Vec::new();
    for open in 1..=3 {
        let mut tunnel = TcpStream::connect(address).await.unwrap();
        head(&mut tunnel, &upgrade, "HTTP/1.1 101 ").await;
        says_again(&mut tunnel).await;
        all_have_ended(&callers, open).await;
        tunnels.push(tunnel);
    }
    let mut beside = TcpStream::connect(address).await.unwrap();
    head(&mut beside, &format!("{ask}\r\n"), "HTTP/1.1 200 ").await;
    all_have_ended(&callers, 4).await;
    for tunnel in &mut tunnels {
        says_again(tunnel).await;
    }
    drop(tunnels);
    head(&mut beside, &format!("{ask}\r\n"), "HTTP/1.1 200 ").await;
    all_have_ended(&callers, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_of_h2_holds_no_place_while_it_is_open() {
    let (address, callers) = served().await;
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut client, connection) = client.await.unwrap();
    tokio::spawn(connection);
    let request = |method: Method| {
        let request = Request::builder().method(method).uri("http://x:80/");
        let request = request.header("x-client-id", "a");
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    let mut tunnels = Vec::new();
    for open in 1..=3 {
        let answer = client.send_request(request(Method::CONNECT)).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut tunnel = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        says_again(&mut tunnel).await;
        all_have_ended(&callers, open).await;
        tunnels.push(tunnel);
    }
    let beside = client.send_request(request(Method::GET)).await.unwrap();
    assert_eq!(beside.status(), 200);
    for tunnel in &mut tunnels {
        says_again(tunnel).await;
    }
    drop(tunnels);
    all_have_ended(&callers, 4).await;
}

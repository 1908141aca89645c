//! Clients that do everything that clients do, and know what they did.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What clients are sure of, by caller.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that were answered at least with a head: the server has counted them.
    pub answered: u64,
    /// Requests of which nobody knows whether they reached the server.
    pub perhaps: u64,
}

pub type Tallies = Arc<Mutex<BTreeMap<String, Tally>>>;

fn tell(tallies: &Tallies, name: &str, change: impl FnOnce(&mut Tally)) {
    change(tallies.lock().unwrap().entry(name.to_owned()).or_default());
}

/// A request whose client goes away at some point.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Reads the answer to its end.
    Patient,
    /// Drops the request after so many milliseconds, wherever it is.
    Impatient(u64),
    /// Reads the head and one frame, and drops the rest.
    Nibbler,
}

pub const PATHS: [&str; 9] = [
    "ok", "ok", "invalid", "broken", "slow", "stream", "panic", "error", "break",
];

pub const GRPC: &str = "application/grpc";

/// Sends requests over one connection, one after the other. HTTP/2 and HTTP/1 alike; a connection that breaks is
/// made anew.
pub async fn client(
    address: SocketAddr,
    http2: bool,
    grpc: bool,
    name: &str,
    seed: u64,
    requests: usize,
    tallies: &Tallies,
) {
    let mut random = fastrand_like(seed);
    let mut sender = None;
    for _ in 0..requests {
        let path = match random() % 12 {
            index @ 0..9 => PATHS[index as usize],
            9 => "endless",
            10 => "panic-in-body",
            _ => "hang",
        };
        let manner = match random() % 4 {
            _ if path == "hang" => Manner::Impatient(random() % 6),
            _ if path == "endless" => Manner::Nibbler,
            0 => Manner::Impatient(random() % 8),
            1 => Manner::Nibbler,
            _ => Manner::Patient,
        };
        let mut connected = match sender.take() {
            Some(sender) => sender,
            None => Sender::connect(address, http2).await,
        };
        let request = request(address, grpc, name, path);
        if !connected.ready().await {
            continue;
        }
        let answered = std::sync::atomic::AtomicBool::new(false);
        let exchange = async {
            let response = connected.send(request).await.ok()?;
            answered.store(true, std::sync::atomic::Ordering::Relaxed);
            let mut body = response.into_body();
            if matches!(manner, Manner::Nibbler) {
                let _ = body.frame().await;
                return Some(());
            }
            while let Some(frame) = body.frame().await {
                frame.ok()?;
            }
            Some(())
        };
        let limit = match manner {
            Manner::Impatient(millis) => Duration::from_millis(millis),
            _ => Duration::from_secs(20),
        };
        let done = timeout(limit, exchange).await;
        let answered = answered.into_inner();
        tell(tallies, name, |tally| match answered {
            true => tally.answered += 1,
            false => tally.perhaps += 1,
        });
        assert!(
            done.is_ok() || matches!(manner, Manner::Impatient(_)),
            "{name}: {path} took 20 s"
        );
        // After a good end the connection goes on; HTTP/2 survives a cancelled stream as well.
        if http2 || (matches!(done, Ok(Some(()))) && matches!(manner, Manner::Patient)) {
            sender = Some(connected);
        }
    }
}

/// Sends one request over a new connection and reads the answer to its end. Servers accept connections in the order
/// in which they were made: none that was made before this one waits to be accepted any more.
pub async fn last(address: SocketAddr, http2: bool, grpc: bool, name: &str, tallies: &Tallies) {
    let mut connected = Sender::connect(address, http2).await;
    assert!(connected.ready().await);
    let response = connected.send(request(address, grpc, name, "ok")).await;
    response.unwrap().into_body().collect().await.unwrap();
    tell(tallies, name, |tally| tally.answered += 1);
}

fn request(address: SocketAddr, grpc: bool, name: &str, path: &str) -> Request<Sending> {
    let method = if grpc { "POST" } else { "GET" };
    let uri = if grpc {
        format!("http://{address}/test.Wishes/{path}")
    } else {
        format!("http://{address}/{path}")
    };
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header("host", "localhost")
        .header("x-client-id", name);
    if grpc {
        request = request
            .header("content-type", GRPC)
            .header("te", "trailers");
    }
    let body = if grpc {
        // One empty message: not compressed, of length zero.
        http_body_util::Full::new(Bytes::from_static(&[0; 5])).boxed()
    } else {
        Empty::new().boxed()
    };
    request.body(body).unwrap()
}

/// Opens connections and cuts them with a reset in the middle of an answer.
pub async fn resetting(address: SocketAddr, name: &str, requests: usize, tallies: &Tallies) {
    for index in 0..requests {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let path = ["stream", "hang", "endless"][index % 3];
        let head =
            format!("GET /{path} HTTP/1.1\r\nhost: localhost\r\nx-client-id: {name}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(index as u64 % 7)).await;
        // Unread data, or lingering for no time at all, makes the close a reset.
        stream.set_zero_linger().unwrap();
        drop(stream);
        tell(tallies, name, |tally| tally.perhaps += 1);
    }
}

type Sending = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Sending>),
    Http2(hyper::client::conn::http2::SendRequest<Sending>),
}

impl Sender {
    async fn connect(address: SocketAddr, http2: bool) -> Self {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        if http2 {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                    .await
                    .unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(
        &mut self,
        request: Request<Sending>,
    ) -> hyper::Result<http::Response<hyper::body::Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

/// The same numbers in every run.
fn fastrand_like(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 11
    }
}

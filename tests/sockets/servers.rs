//! The same small service on axum, on hyper and on tonic. What happens to a request is its own wish, in its path.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::routing::{get, post};
use bytes::Bytes;
use callerid::{CallerLayer, ErrorDetail};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

/// A body that a task feeds, frame by frame, or that panics or breaks off.
pub struct Fed(mpsc::Receiver<Result<Bytes, Fault>>);

#[derive(Debug)]
pub enum Fault {
    Error,
    Panic,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the body broke off")
    }
}

impl std::error::Error for Fault {}

impl Body for Fed {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.0.poll_recv(cx).map(|item| match item? {
            Err(Fault::Panic) => panic!("the service panics in its body"),
            item => Some(item.map(Frame::data)),
        })
    }
}

/// What the service does on each path.
async fn serve(path: String) -> Result<Response<Fed>, Fault> {
    let (feed, body) = mpsc::channel(4);
    let mut response = Response::new(Fed(body));
    let status = |response: &mut Response<Fed>, code| {
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
    };
    let chunk = Bytes::from_static(&[b'x'; 512]);
    match path.trim_start_matches('/') {
        "ok" => feed.send(Ok(chunk)).await.unwrap(),
        "invalid" => {
            status(&mut response, 422);
            let detail = ErrorDetail::new("missing").field("sku");
            response.extensions_mut().insert(detail);
        }
        "broken" => status(&mut response, 500),
        "slow" => sleep(Duration::from_millis(5)).await,
        "hang" => sleep(Duration::from_secs(60)).await,
        "panic" => panic!("the service panics"),
        "error" => return Err(Fault::Error),
        "stream" | "endless" => {
            let frames = if path.ends_with("stream") {
                20
            } else {
                1_000_000
            };
            tokio::spawn(async move {
                for _ in 0..frames {
                    sleep(Duration::from_millis(1)).await;
                    if feed.send(Ok(chunk.clone())).await.is_err() {
                        break;
                    }
                }
            });
        }
        "break" => {
            feed.send(Ok(chunk)).await.unwrap();
            feed.send(Err(Fault::Error)).await.unwrap();
        }
        "panic-in-body" => {
            feed.send(Ok(chunk)).await.unwrap();
            feed.send(Err(Fault::Panic)).await.unwrap();
        }
        other => panic!("no such path: {other}"),
    }
    Ok(response)
}

/// Listens on a port that is free.
async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub async fn axum(layer: CallerLayer) -> SocketAddr {
    async fn answer(
        path: axum::extract::Path<String>,
    ) -> Result<Response<axum::body::Body>, StatusCode> {
        match serve(path.0).await {
            Ok(response) => Ok(response.map(axum::body::Body::new)),
            Err(_) => Err(StatusCode::BAD_GATEWAY),
        }
    }
    let app = axum::Router::new()
        .route("/{what}", get(answer).post(answer))
        .route("/orders", post(|| async { "created" }))
        .layer(layer)
        .layer(CatchPanicLayer::new());
    let (listener, address) = listen().await;
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Hyper, HTTP/1 and HTTP/2 on one port.
pub async fn hyper(layer: CallerLayer) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = ServiceBuilder::new()
                .layer(CatchPanicLayer::new())
                .layer(layer.clone())
                .service_fn(|request: Request<hyper::body::Incoming>| {
                    serve(request.uri().path().to_owned())
                });
            tokio::spawn(async move {
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                    .await;
            });
        }
    });
    address
}

/// A gRPC service without generated code: messages are bytes, a method is a wish.
#[derive(Clone)]
pub struct Wishes;

impl tonic::server::NamedService for Wishes {
    const NAME: &'static str = "test.Wishes";
}

type Stream = Pin<Box<dyn futures_util::Stream<Item = Result<Bytes, tonic::Status>> + Send>>;

struct Wish(String);

impl tonic::server::ServerStreamingService<Bytes> for Wish {
    type Response = Bytes;
    type ResponseStream = Stream;
    type Future =
        Pin<Box<dyn Future<Output = Result<tonic::Response<Stream>, tonic::Status>> + Send>>;

    fn call(&mut self, _: tonic::Request<Bytes>) -> Self::Future {
        let wish = self.0.clone();
        Box::pin(async move {
            let response = match wish.as_str() {
                "invalid" => return Err(tonic::Status::invalid_argument("sku")),
                other => serve(other.to_owned()).await,
            };
            let body = response
                .map_err(|_| tonic::Status::unavailable("try again"))?
                .into_body();
            let stream = futures_util::stream::unfold(body.0, |mut feed| async move {
                let item = match feed.recv().await? {
                    Err(Fault::Panic) => panic!("the service panics in its stream"),
                    item => item.map_err(|_| tonic::Status::internal("broke off")),
                };
                Some((item, feed))
            });
            Ok(tonic::Response::new(Box::pin(stream) as Stream))
        })
    }
}

impl tower::Service<Request<tonic::body::Body>> for Wishes {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        let wish = Wish(method.to_owned());
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw);
            Ok(grpc.server_streaming(wish, request).await)
        })
    }
}

/// Messages as they are.
#[derive(Clone, Default)]
pub struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(
        &mut self,
        item: Bytes,
        target: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), tonic::Status> {
        bytes::BufMut::put(target, item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(
        &mut self,
        source: &mut tonic::codec::DecodeBuf<'_>,
    ) -> Result<Option<Bytes>, tonic::Status> {
        let length = bytes::Buf::remaining(source);
        Ok(Some(bytes::Buf::copy_to_bytes(source, length)))
    }
}

pub async fn tonic(layer: CallerLayer) -> SocketAddr {
    let (listener, address) = listen().await;
    let incoming = futures_util::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    tokio::spawn(async move {
        tonic::transport::Server::builder()
            .layer(CatchPanicLayer::custom(
                |_: Box<dyn std::any::Any + Send>| {
                    tonic::Status::internal("panicked").into_http::<tonic::body::Body>()
                },
            ))
            .layer(layer)
            .add_service(Wishes)
            .serve_with_incoming(incoming)
            .await
    });
    address
}

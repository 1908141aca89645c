//! Who is refused over HTTP/1 may still be sending: its connection is not cut off before the answer has been read.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use callerid::{Clock as _, Quota};
use http::{Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::Full;
use tower::{Layer, Service};

use crate::support::{Rig, now};

const TICK: Duration = Duration::from_millis(250);

/// A body of which some frames have come. The server closes the connection when it goes before its end.
struct Sent {
    come: VecDeque<usize>,
    /// Bytes that are still on their way.
    coming: usize,
    open: Arc<AtomicUsize>,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.come.pop_front() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(vec![0; bytes].into())))),
            None if self.coming == 0 => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.come.is_empty() && self.coming == 0
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Sender {
    rig: Rig,
    /// Bodies that have not been dropped.
    open: Arc<AtomicUsize>,
}

impl Sender {
    /// A service that refuses everybody.
    fn new() -> Self {
        let rig = Rig::new(|builder| builder.quota(Quota::per_hour(1)));
        let sender = Self {
            rig,
            open: Arc::default(),
        };
        assert_eq!(sender.send(&[], 0, |_| {}).status(), 200);
        sender
    }

    fn send(
        &self,
        come: &[usize],
        coming: usize,
        set: impl FnOnce(&mut Request<Sent>),
    ) -> Response<()> {
        self.open.fetch_add(1, Ordering::Relaxed);
        let body = Sent {
            come: come.iter().copied().collect(),
            coming,
            open: Arc::clone(&self.open),
        };
        let mut request = Request::post("/v1/orders")
            .header("x-client-id", "a")
            .body(body)
            .unwrap();
        set(&mut request);
        let inner = tower::service_fn(async |_: Request<Sent>| {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        });
        let answer = now(self.rig.callers.layer().layer(inner).call(request)).unwrap();
        answer.map(drop)
    }

    fn refuse(
        &self,
        come: &[usize],
        coming: usize,
        set: impl FnOnce(&mut Request<Sent>),
    ) -> Option<String> {
        let answer = self.send(come, coming, set);
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        let connection = answer.headers().get("connection");
        connection.map(|value| value.to_str().unwrap().to_owned())
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn tick(&self) {
        self.rig.clock.advance(TICK);
        self.rig.callers.tick(self.rig.clock.now());
    }
}

#[test]
fn what_is_still_coming_is_left_alone_for_half_a_second_on_a_connection_that_serves_nobody_else() {
    let sender = Sender::new();
    assert_eq!(
        sender.refuse(&[8_000], 12_000, |_| {}).as_deref(),
        Some("close")
    );
    assert_eq!(sender.open(), 1);
    sender.tick();
    assert_eq!(sender.open(), 1);
    sender.tick();
    assert_eq!(sender.open(), 0);
}

#[test]
fn what_has_come_is_thrown_away_and_the_connection_goes_on() {
    let sender = Sender::new();
    for come in [&[][..], &[500], &[8_000, 8_000, 4_000]] {
        assert_eq!(sender.refuse(come, 0, |_| {}), None, "{come:?}");
        assert_eq!(sender.open(), 0);
    }
}

#[test]
fn a_body_that_never_ends_is_not_read_on_and_on() {
    let sender = Sender::new();
    assert_eq!(
        sender.refuse(&[1; 1_000], 0, |_| {}).as_deref(),
        Some("close")
    );
    assert_eq!(sender.open(), 1);
}

#[test]
fn who_waits_for_a_continue_has_sent_nothing() {
    let sender = Sender::new();
    let waits = |request: &mut Request<Sent>| {
        request
            .headers_mut()
            .insert("expect", "100-continue".parse().unwrap());
    };
    assert_eq!(sender.refuse(&[], 12_000, waits), None);
    assert_eq!(sender.open(), 0);
}

#[test]
fn a_stream_of_http2_ends_by_itself() {
    let sender = Sender::new();
    let http2 = |request: &mut Request<Sent>| *request.version_mut() = Version::HTTP_2;
    assert_eq!(sender.refuse(&[], 12_000, http2), None);
    assert_eq!(sender.open(), 0);
}

#[test]
fn so_many_connections_are_left_alone_and_the_oldest_make_room() {
    let sender = Sender::new();
    for _ in 0..1_000 {
        sender.refuse(&[], 12_000, |_| {});
    }
    assert_eq!(sender.open(), 256);
    drop(sender.rig);
    assert_eq!(sender.open.load(Ordering::Relaxed), 0);
}

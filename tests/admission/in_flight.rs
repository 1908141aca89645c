//! What a caller has in flight, to the end of its bodies.

use callerid::{Policy, Reason};
use http::Request;

use crate::support::{Rig, from};

#[test]
fn in_flight_counts_to_the_end_of_the_body() {
    let rig = Rig::new(|builder| builder.max_in_flight(2));
    let first = rig.send(from("a"));
    let second = rig.send(from("a"));
    assert_eq!(rig.get("a"), 429);
    assert_eq!(rig.counts("a").refused[Reason::InFlight], 1);
    assert_eq!(rig.get("b"), 200);
    drop(first); // cancelled: that frees a place too
    assert_eq!(rig.get("a"), 200);
    crate::support::text(second);
    assert_eq!(rig.burst("a", 3), 3);
    assert_eq!(rig.counts("a").in_flight, 0);
}

/// A body that never ends.
pub struct Endless;

impl http_body::Body for Endless {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        let frame = http_body::Frame::data(bytes::Bytes::from_static(b"tick"));
        std::task::Poll::Ready(Some(Ok(frame)))
    }
}

#[test]
fn a_stream_leaves_the_counts_after_ten_seconds_while_there_is_room_for_streams() {
    use http_body_util::BodyExt;
    use tower::{Layer, Service};
    let rig = Rig::new(|builder| {
        let policy = Policy::new().max_in_flight(2).max_streams(1);
        builder.default_policy(policy).ceiling(9)
    });
    let inner = tower::service_fn(async |_: Request<String>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(Endless))
    });
    let mut service = rig.callers.layer().layer(inner);
    let mut open = || {
        crate::support::now(service.call(from("a")))
            .unwrap()
            .into_body()
    };
    let (mut first, mut second) = (open(), open());
    let read = |body: &mut callerid::middleware::ResponseBody<Endless>| {
        crate::support::now(body.frame()).unwrap().unwrap();
    };
    let held = || rig.callers.snapshot().ceiling.unwrap().in_flight;
    rig.wait(9_999);
    read(&mut first);
    assert_eq!((held(), rig.get("a")), (2, 429));
    rig.wait(1);
    read(&mut first);
    assert_eq!((held(), rig.get("a")), (1, 200));
    read(&mut second);
    assert_eq!(held(), 1, "one stream may leave, the other stays");
    assert_eq!(rig.counts("a").in_flight, 2, "the gauge counts both");
    drop(first);
    read(&mut second);
    assert_eq!(held(), 0);
    drop(second);
    assert_eq!((held(), rig.counts("a").in_flight), (0, 0));
}

#[test]
fn without_a_number_of_streams_they_leave_the_ceiling_and_stay_the_callers() {
    use http_body_util::BodyExt;
    use tower::{Layer, Service};
    let rig = Rig::new(|builder| builder.max_in_flight(2).ceiling(9));
    let inner = tower::service_fn(async |_: Request<String>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(Endless))
    });
    let mut service = rig.callers.layer().layer(inner);
    let mut open = || {
        crate::support::now(service.call(from("a")))
            .unwrap()
            .into_body()
    };
    let mut held = [open(), open()];
    rig.wait(10_000);
    for body in &mut held {
        crate::support::now(body.frame()).unwrap().unwrap();
        crate::support::now(body.frame()).unwrap().unwrap();
    }
    assert_eq!(rig.callers.snapshot().ceiling.unwrap().in_flight, 0);
    assert_eq!(
        rig.get("a"),
        429,
        "slow readers do not get around the limit"
    );
    drop(held);
    assert_eq!(rig.get("a"), 200);
}

#[test]
fn a_late_identity_takes_its_place_in_flight_along() {
    use callerid::CallerSlot;
    use tower::{Layer, Service};
    let rig = Rig::new(|builder| builder.max_in_flight(1).ceiling(9).late_identity());
    let inner = tower::service_fn(async |request: Request<String>| {
        let slot = request.extensions().get::<CallerSlot>().unwrap();
        slot.verified("late").unwrap();
        let body = http_body_util::Full::new(bytes::Bytes::from_static(b"ok"));
        Ok::<_, std::convert::Infallible>(http::Response::new(body))
    });
    let mut service = rig.callers.layer().layer(inner);
    let held = crate::support::now(service.call(from("early"))).unwrap();
    assert_eq!(rig.get("early"), 200, "its place is free");
    assert_eq!(rig.get("late"), 429, "this one is taken");
    assert_eq!(rig.callers.snapshot().ceiling.unwrap().in_flight, 1);
    drop(held);
    assert_eq!(rig.get("late"), 200);
    assert_eq!(rig.callers.snapshot().ceiling.unwrap().in_flight, 0);
}

//! Who is refused after it has waited for the fleet may still be sending.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use callerid::clock::MonotonicClock;
use callerid::{Callers, Clock as _, Fleet, FleetMode, Quota, Scope, identify};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::Full;
use tower::{Layer, Service, service_fn};

use crate::reload::late;
use crate::server::Redis;
use crate::sharing::{block_on, undisturbed};

/// A body that is on its way, until it is dropped.
struct Coming(#[allow(dead_code, reason = "counted")] Arc<()>);

impl http_body::Body for Coming {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

#[test]
fn what_is_still_coming_after_a_refusal_of_the_fleet_is_left_alone() {
    let redis = Redis::start();
    let seen = undisturbed(|| {
        redis.say(&["FLUSHALL"]);
        let callers = Callers::builder()
            .identify(identify::header("x-client-id").verified())
            .quota(Quota::per_hour(1).burst(1))
            .scope(Scope::Fleet)
            .fleet(
                Fleet::new("unread")
                    .redis(redis.url())
                    .mode(FleetMode::Strict),
            )
            .manual_tick()
            .build()
            .unwrap();
        let mut service = callers
            .layer()
            .layer(service_fn(async |request: Request<Coming>| {
                drop(request);
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
            }));
        let open = Arc::new(());
        let mut seen = Vec::new();
        // The second asks the fleet and is refused by it; what the third is told is known here.
        for _ in 0..3 {
            let request = Request::post("/v1/orders").header("x-client-id", "a");
            let request = request.body(Coming(Arc::clone(&open))).unwrap();
            let answer = block_on(service.call(request)).unwrap();
            let closes = answer.headers().contains_key("connection");
            seen.push((
                answer.status().as_u16(),
                closes,
                Arc::strong_count(&open) - 1,
            ));
        }
        callers.tick(MonotonicClock::new().now() + Duration::from_secs(1));
        assert_eq!(Arc::strong_count(&open), 1);
        (late(&callers), seen)
    });
    assert_eq!(seen, [(200, false, 0), (429, true, 1), (429, true, 2)]);
}

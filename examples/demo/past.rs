//! A past for the demo: twenty minutes of the calm crowd on a clock of its own, through the very same layer, so that
//! detection knows everybody before the story begins. A real service learns it from its traffic, or has kept it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, Response, StatusCode};
use callerid::clock::MonotonicClock;
use callerid::{Builder, Callers, Clock, Timestamp};
use futures_util::FutureExt as _;
use http_body_util::{BodyExt, Empty, Full};
use tower::{Layer, Service, service_fn};

use crate::traffic::{TEAMS, agent};

const LENGTH: Duration = Duration::from_secs(20 * 60);
const TICK: Duration = Duration::from_millis(250);

/// A clock that the past moves.
#[derive(Clone, Default)]
struct Rehearsal(Arc<AtomicU64>);

impl Clock for Rehearsal {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// The route of a simulated request.
#[derive(Clone, Copy)]
struct Template(&'static str);

/// What detection has learned after twenty calm minutes, given how the demo identifies its callers.
pub(crate) fn learn(builder: Builder) -> Result<Vec<u8>, crate::Error> {
    let clock = Rehearsal::default();
    let begin = MonotonicClock::new().now() - LENGTH;
    clock.0.store(begin.as_nanos(), Ordering::Relaxed);
    let callers = builder
        .clock(clock.clone())
        .manual_tick()
        .route(|head| head.extensions().get().map(|Template(name)| *name))
        .build()?;
    play(&callers, &clock, begin);
    Ok(callers.export_state())
}

fn play(callers: &Callers, clock: &Rehearsal, begin: Timestamp) {
    let mut service = callers
        .layer()
        .layer(service_fn(async |request: Request<Empty<Bytes>>| {
            let mut response = Response::new(Full::new(Bytes::from_static(b"x")));
            let status = request.extensions().get::<StatusCode>().copied();
            *response.status_mut() = status.unwrap_or_default();
            Ok::<_, Infallible>(response)
        }));
    let calls: Vec<_> = TEAMS
        .iter()
        .flat_map(|team| {
            team.calls
                .iter()
                .map(|(rate, call)| (team.name, *rate, *call))
        })
        .collect();
    let mut due: BinaryHeap<Reverse<(Timestamp, usize)>> = calls
        .iter()
        .enumerate()
        .map(|(at, (_, rate, _))| Reverse((begin + pause(*rate), at)))
        .collect();
    let mut open = BTreeMap::new();
    let mut tick = begin + TICK;
    let mut number = 0_u64;
    while let Some(Reverse((t, at))) = due.pop() {
        while tick <= t {
            close(&mut open, clock, tick);
            clock.0.store(tick.as_nanos(), Ordering::Relaxed);
            callers.tick(tick);
            tick = tick + TICK;
        }
        if t >= begin + LENGTH {
            return;
        }
        close(&mut open, clock, t);
        clock.0.store(t.as_nanos(), Ordering::Relaxed);
        let (name, rate, call) = calls[at];
        due.push(Reverse((t + pause(rate), at)));
        let (method, path, template, status, took) = call.simulated();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("user-agent", agent(name, None))
            .extension(Template(template))
            .extension(status);
        if let Some(name) = name {
            request = request.header("x-client-id", name);
        }
        let Ok(request) = request.body(Empty::new()) else {
            continue;
        };
        if let Some(Ok(response)) = service.call(request).now_or_never() {
            open.insert((t + took, number), response);
            number += 1;
        }
    }
}

/// Reads the answers that are due to their ends.
fn close<B: BodyExt>(
    open: &mut BTreeMap<(Timestamp, u64), Response<B>>,
    clock: &Rehearsal,
    until: Timestamp,
) {
    while let Some(first) = open.first_entry().filter(|first| first.key().0 <= until) {
        let ((t, _), response) = first.remove_entry();
        clock.0.store(t.as_nanos(), Ordering::Relaxed);
        let _ = response.into_body().collect().now_or_never();
    }
}

/// The time to the next of independent requests.
fn pause(rate: f64) -> Duration {
    Duration::from_secs_f64(-(1.0 - fastrand::f64()).ln() / rate)
}

//! Who is compared: the service alone, callerid, and what people install today.

use std::hint::black_box;

use axum::Router;
use axum::body::Body;
use axum_prometheus::BaseMetricLayer;
use callerid::{Callers, Quota};
use http::{Request, Response};
use tower::{Layer, Service};
use tower_governor::GovernorLayer;
use tower_governor::governor::GovernorConfigBuilder;
use tower_http::trace::TraceLayer;

use super::{Answer, ByClient, Requests, builder, builder_with_route, roomy, router, serve};

/// What is measured, in the order of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bare,
    Callerid,
    Limited,
    Trace,
    Prometheus,
    Governor,
    Stack,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Bare,
        Self::Callerid,
        Self::Limited,
        Self::Trace,
        Self::Prometheus,
        Self::Governor,
        Self::Stack,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare service",
            Self::Callerid => "callerid, observed",
            Self::Limited => "callerid, with limits",
            Self::Trace => "tower-http TraceLayer",
            Self::Prometheus => "axum-prometheus 0.10",
            Self::Governor => "tower_governor 0.8",
            Self::Stack => "governor + prometheus",
        }
    }
}

/// A service with its layers, whatever their types.
pub trait Contender: Send {
    /// Makes so many requests and takes each to its end.
    fn serve(&mut self, requests: &mut Requests, count: usize);
    /// The same service for another thread.
    fn twin(&self) -> Box<dyn Contender>;
}

struct Holder<S>(S);

impl<S, B> Contender for Holder<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    B: http_body::Body,
{
    fn serve(&mut self, requests: &mut Requests, count: usize) {
        for _ in 0..count {
            serve(&mut self.0, requests.next());
        }
    }

    fn twin(&self) -> Box<dyn Contender> {
        Box::new(Self(self.0.clone()))
    }
}

/// Requests are made and dropped: what has to be taken off everybody.
struct Nothing;

impl Contender for Nothing {
    fn serve(&mut self, requests: &mut Requests, count: usize) {
        for _ in 0..count {
            drop(black_box(requests.next()));
        }
    }

    fn twin(&self) -> Box<dyn Contender> {
        Box::new(Self)
    }
}

pub fn nothing() -> Box<dyn Contender> {
    Box::new(Nothing)
}

/// Forgets the type of a service.
pub fn hold<S, B>(service: S) -> Box<dyn Contender>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    B: http_body::Body,
{
    Box::new(Holder(service))
}

/// tower_governor by the same header, with a quota that nobody exhausts.
macro_rules! governor {
    () => {
        governor!(per_nanosecond(1), 1_000_000_000)
    };
    ($per:ident($period:literal), $burst:literal) => {
        GovernorLayer::new(
            GovernorConfigBuilder::default()
                .$per($period)
                .burst_size($burst)
                .key_extractor(ByClient)
                .finish()
                .expect("a period and a burst"),
        )
    };
}

/// callerid with a quota, a limit in flight and a ceiling, none of which anybody meets.
///
/// # Panics
///
/// Never: the settings are valid.
pub fn limited(builder: callerid::Builder) -> Callers {
    roomy(builder, 10_000)
        .quota(Quota::per_second(1_000_000_000))
        .max_in_flight(1_000)
        .ceiling(1_000)
        .build()
        .expect("valid settings")
}

/// A service that has refused and goes on to: callerid, or tower_governor.
///
/// # Panics
///
/// Never: the settings are valid.
pub fn refusing(kind: Kind, axum: bool, builder: callerid::Builder) -> Box<dyn Contender> {
    if kind == Kind::Governor {
        let governor = governor!(per_second(3_600), 1);
        if axum {
            hold(router().layer(governor))
        } else {
            hold(governor.layer(Answer))
        }
    } else {
        let callers = builder.quota(Quota::per_hour(1)).build();
        let callers = callers.expect("valid settings").layer();
        if axum {
            hold(router().layer(callers))
        } else {
            hold(callers.layer(Answer))
        }
    }
}

/// The contender over a service that answers at once.
///
/// # Panics
///
/// Never: the quota has a period and a burst.
pub fn on_tower(kind: Kind, callers: &Callers) -> Box<dyn Contender> {
    match kind {
        Kind::Bare => hold(Answer),
        Kind::Callerid => hold(callers.layer().layer(Answer)),
        Kind::Limited => hold(limited(builder_with_route()).layer().layer(Answer)),
        Kind::Trace => hold(TraceLayer::new_for_http().layer(Answer)),
        Kind::Prometheus => hold(BaseMetricLayer::new().layer(Answer)),
        Kind::Governor => hold(governor!().layer(Answer)),
        Kind::Stack => hold(BaseMetricLayer::new().layer(governor!().layer(Answer))),
    }
}

/// The contender as layers of an axum router.
///
/// # Panics
///
/// Never: the quota has a period and a burst.
pub fn routed(kind: Kind, callers: &Callers) -> Router {
    match kind {
        Kind::Bare => router(),
        Kind::Callerid => router().layer(callers.layer()),
        Kind::Limited => router().layer(limited(builder()).layer()),
        Kind::Trace => router().layer(TraceLayer::new_for_http()),
        Kind::Prometheus => router().layer(BaseMetricLayer::new()),
        Kind::Governor => router().layer(governor!()),
        Kind::Stack => router().layer(governor!()).layer(BaseMetricLayer::new()),
    }
}

/// [`routed`], to be called as a service.
pub fn on_axum(kind: Kind, callers: &Callers) -> Box<dyn Contender> {
    hold(routed(kind, callers))
}

//! **callerid** tells a service which client is calling, and what each client costs and breaks: one tower layer for
//! axum, hyper and tonic, measured by caller through the [`metrics`] facade that you already export.
//!
//! ```
//! use callerid::{Callers, identify};
//!
//! # fn main() -> Result<(), callerid::BuildError> {
//! let callers = Callers::builder()
//!     .identify(identify::header("x-client-id").verified()) // who; "verified": your gateway sets it
//!     .build()?;
//!
//! let service = tower::ServiceBuilder::new()
//!     .layer(callers.layer()) // the same layer for axum, hyper and tonic
//!     .service_fn(async |_request: http::Request<()>| {
//!         Ok::<_, std::convert::Infallible>(http::Response::new(String::from("hello")))
//!     });
//! # drop(service);
//! # Ok(()) }
//! ```
//!
//! On axum put it on the router (`Router::layer`), where the matched route can be seen. Elsewhere too it belongs
//! on the outside: above authentication, inside a panic catcher. Nothing is refused until a policy says so:
//!
//! ```
//! # use callerid::{Callers, identify};
//! use callerid::{Mode, Quota};
//!
//! # fn main() -> Result<(), callerid::BuildError> {
//! let callers = Callers::builder()
//!     .identify(identify::header("x-client-id").verified())
//!     .quota(Quota::per_second(500).burst(1_000)) // each caller
//!     .ceiling(512) // all together, fairly shared
//!     .mode(Mode::Shadow) // count what would be refused; then `callers.set_mode(Mode::Enforce)`
//!     .build()?;
//! # Ok(()) }
//! ```
//!
//! # The way of a request
//!
//! ```text
//!            head                                                            last frame, error, drop
//!             |                                                                        |
//!         identify  --->  caller table  --->  inner service  --->  classify  --->   record
//!     header, key, ...    entry and row        sees Caller       status, gRPC,    cells of one thread
//!                                             in extensions      ErrorDetail            |
//!                                                                          every 250 ms | flush
//!                                                                                   recorder
//! ```
//!
//! Every request that enters is counted once as started, and once as ended, whatever happens: its body ended, with
//! trailers or an error; it was dropped on the way; the inner service returned an error or panicked. The end is
//! the end of the **body**. The listing of this crate's folders is this picture.
//!
//! # Limits
//!
//! Between the caller table and the inner service stands admission, the narrowest limit first: a block, the caller's
//! quota ([`Quota`]), a person's clamp, what it has in flight, the total of its provenance, what is known to be spent of
//! a quota that a fleet shares, the brake on a runaway, the service's [`Ceiling`]; and at last the fleet is asked, since
//! that may wait. A [`Policy`] is found field by field: by caller, tier, provenance, default. Requests without
//! identity are refused by a policy for [`Provenance::Unknown`], by the ceiling, and while a person holds
//! `__unknown__`; by nothing else. What is refused is answered with 429, or status 8 over gRPC, without waiting
//! for the body ([`Refusal`]), and counted apart ([`Reason`]): never as an error of its caller. A refusal takes nothing
//! from any limit. [`Callers::set_mode`] is the switch; [`Callers::clamp`] is for an incident.
//!
//! # Who did it
//!
//! Every caller is compared with its own past, and with the others, four times a second. Who departs from it is said,
//! with the route, class and deploy that explain it and with what the service suffers ([`events`],
//! [`Callers::subscribe`], [`docs::detection`]). [`Callers::blame`] compares two windows, [`Callers::report`] is for the
//! post-mortem, [`Builder::clamp_runaways`] holds a runaway while the service is hurt.
//!
//! # Metrics
//!
//! | name | kind | labels |
//! |---|---|---|
//! | `callerid_requests_started_total` | counter | `caller` |
//! | `callerid_requests_total` | counter | `caller`, `class` |
//! | `callerid_request_duration_seconds` | histogram | `caller`, `class` |
//! | `callerid_time_to_first_byte_seconds` | histogram | `caller` |
//! | `callerid_route_requests_total` | counter | `caller`, `route`, `fault` |
//! | `callerid_in_flight_requests` | gauge | `caller` |
//! | `callerid_request_body_bytes_total` | counter | `caller` |
//! | `callerid_response_body_bytes_total` | counter | `caller` |
//! | `callerid_refused_total` | counter | `caller`, `reason` |
//! | `callerid_would_refuse_total` | counter | `caller`, `reason` |
//! | `callerid_quota_limit` | gauge | `caller`, `scope` |
//! | `callerid_runaway` | gauge | `caller`, `signal` |
//! | `callerid_runaway_pages` | gauge | `caller` |
//! | `callerid_runaways_total` | counter | `caller`, `signal` |
//! | `callerid_last_pin_timestamp_seconds` | gauge | `caller`, `pin` |
//! | `callerid_mode` | gauge | `mode` |
//! | `callerid_limiter_degraded` | gauge | |
//! | `callerid_limiter_backend_errors_total` | counter | `kind` |
//! | `callerid_config_info` | gauge | `hash` |
//! | `callerid_config_last_reload_successful` | gauge | |
//! | `callerid_caller_info` | gauge | `caller`, `owner`, `contact`, `tier`, `provenance` |
//! | `callerid_identified_total` | counter | `source`, `provenance` |
//! | `callerid_impersonations_total` | counter | |
//! | `callerid_callers_tracked` | gauge | |
//! | `callerid_callers_overflow_total` | counter | |
//! | `callerid_api_key_last_used_timestamp_seconds` | gauge | `caller`, `key_id` |
//! | `callerid_build_info` | gauge | `version` |
//!
//! `class` is how a request ended ([`Class`]), `fault` whom that speaks against ([`Fault`]), `source` and
//! `provenance` how the caller is known ([`Source`], [`Provenance`]). `route` is the method and the matched
//! template (`GET /v1/prices/{sku}`), `unmatched`, or `__other__` where there is no room for another pair; never a
//! raw path. Give the exporter [`LATENCY_BUCKETS`], and call [`Callers::flush`] before a render.
//!
//! Callers share a row where they must: `__other__` (no room), `__unknown__` (no identity), `__invalid__` (an
//! identity that is no name), `__exempt__` (probes and scrapes).
//!
//! # What bounds it
//!
//! Nothing that clients invent makes memory or label sets grow. By default 4,096 callers are tracked and 150 rows
//! exported (four of them ours, 32 kept free), with 1,000 pairs of caller and route; [`docs::limits`] has the
//! arithmetic. A name that comes late and is heavy gets its row within its first 1,000 requests, in place of
//! the lightest idle one.
//!
//! # Features
//!
//! None is on by default.
//!
//! * `axum`: [`Caller`] and [`RequireCaller`] as extractors, routes from `MatchedPath`, addresses from
//!   `ConnectInfo`.
//! * `config`: policies and the roster in `callerid.toml` ([`Builder::config`], [`Callers::reload`]).
//! * `dashboard`: the page, as a tower service that you mount ([`Callers::dashboard`]).
//! * `redis`: quotas, and with `dashboard` what a person said, that all replicas share ([`Fleet`], [`docs::fleet`]).
//! * `replay`: access logs through the same pipeline on log time ([`replay::Replay`]).
//! * `serde`: `Serialize` for [`Snapshot`] and the words in it.
//! * `test-util`: [`clock::ManualClock`], time that a test sets.
//! * `full`: `axum`, `config`, `dashboard`, `redis`, `replay` and `serde`.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod admit;
mod builder;
pub mod caller;
mod callers;
mod classify;
pub mod clock;
#[cfg(feature = "config")]
mod config;
#[cfg(feature = "dashboard")]
#[cfg_attr(docsrs, doc(cfg(feature = "dashboard")))]
pub mod dashboard;
// Public for the tests, which feed it by itself.
#[doc(hidden)]
pub mod detect;
pub mod docs;
pub mod events;
#[cfg(feature = "axum")]
mod extract;
mod gauges;
pub mod identify;
#[cfg(feature = "dashboard")]
#[cfg_attr(docsrs, doc(cfg(feature = "dashboard")))]
pub mod incidents;
mod json;
#[cfg(feature = "dashboard")]
mod kept;
mod lock;
pub mod middleware;
mod outcome;
mod pipeline;
mod record;
mod registry;
#[cfg(feature = "dashboard")]
mod remember;
#[cfg(feature = "replay")]
#[cfg_attr(docsrs, doc(cfg(feature = "replay")))]
pub mod replay;
mod roster;
#[cfg(all(feature = "dashboard", feature = "redis"))]
mod shared;
pub mod snapshot;
mod span;
mod upkeep;
mod watch;

#[cfg(feature = "redis")]
pub use admit::fleet::{Fleet, FleetMode, OnFailure};
pub use admit::{
    Ceiling, Mode, ModeError, Policy, Quota, QuotaError, RateLimitHeaders, Refusal, Scope,
};
pub use builder::{BuildError, Builder};
#[doc(inline)]
pub use caller::{Caller, Provenance, Source};
pub use callers::Callers;
pub use clock::{Clock, Timestamp};
#[cfg(feature = "config")]
pub use config::ConfigError;
pub use detect::memory::StateError;
#[cfg(feature = "axum")]
pub use extract::{CallerRequired, RequireCaller};
pub use middleware::CallerLayer;
pub use outcome::{Class, ErrorDetail, Fault, Reason};
pub use pipeline::CallerSlot;
pub use record::histogram::LATENCY_BUCKETS;
pub use registry::InferredLabel;
#[cfg(feature = "dashboard")]
pub use remember::ChangeError;
pub use roster::{Account, ApiKey};
#[doc(inline)]
pub use snapshot::Snapshot;
pub use span::make_span;
pub use watch::blame::{Blame, Culprit, Rise, Window};
pub use watch::changes::OwnChange;
pub use watch::report::{Hurt, Report, ReportPoint};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

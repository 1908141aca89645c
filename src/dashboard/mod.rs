//! The page: who is calling, who is behind it, whom to call, and the brake. A tower service with everything embedded.
//!
//! ```
//! # use callerid::{Callers, identify};
//! use callerid::dashboard::Access;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let callers = Callers::builder()
//!     .identify(identify::header("x-client-id").verified())
//!     .build()?;
//! let app: axum::Router = axum::Router::new()
//!     .route("/v1/prices", axum::routing::get(async || "12"))
//!     .layer(callers.layer());
//!
//! // Outside the layer: never counted, never refused. Best on a listener of its own, so that it answers when
//! // the service is drowning.
//! let page = callers.dashboard().access(Access::local());
//! let operators: axum::Router = axum::Router::new().nest_service("/callerid", page);
//! # drop((app, operators));
//! # Ok(()) }
//! ```
//!
//! On hyper hand it the requests whose path begins with `/callerid`, as they are ([`Dashboard::mount`] names another
//! place). It needs a tokio runtime. Nothing is answered but to this machine until [`Access`] says otherwise, and with
//! [`Access::local`] it must know the peer's address (`into_make_service_with_connect_info::<SocketAddr>()`, or
//! [`Builder::peer`](crate::Builder::peer)).
//!
//! # What is answered
//!
//! Below the mount; JSON unless said otherwise, and errors as `application/problem+json`. Fields may be added within
//! a version.
//!
//! | request | who may | answer |
//! |---|---|---|
//! | `GET /` | read | the page; with tokens everybody, as it is empty without one |
//! | `GET /top.txt` | read | the callers as text, heaviest first |
//! | `GET /me` | self-service | the requester's own usage; a page for a browser |
//! | `GET /v1/you` | who may do anything | what the requester may do: `{"read", "operate", "author"}` |
//! | `GET /v1/overview?span=2m` | read | callers, and requests over time: `2m`, `15m` or `1h`; changes once a second |
//! | `GET /v1/caller?name=checkout` | read | all that is known of one caller |
//! | `GET /v1/report?id=` | read | the report of a runaway, as Markdown; `&format=json` as JSON |
//! | `GET /v1/events?after=` | read | events after the one that `next` of the last answer named; all that are known without it |
//! | `GET /status`, `GET /summary.json`, `GET /v1/incidents` | read | incidents: a page; what is open in the shape of Statuspage (version 2), with `eta` and `fallback` added; all of them |
//! | `POST /v1/do/clamp` `{"caller", "quota": "50/s", "seconds"}` | operate | holds a caller to a rate for a while |
//! | `POST /v1/do/block` `{"caller", "seconds"}` | operate | refuses everything that it sends |
//! | `POST /v1/do/release` `{"caller"}` | operate | ends either |
//! | `POST /v1/do/expect` `{"caller", "factor", "seconds"}` | operate | announces load, which then wakes nobody |
//! | `POST /v1/do/ack` `{"id"}` | operate | takes a runaway in hand |
//! | `POST /v1/do/pin` `{"caller", "pin": "deploy", "version", "text", "on", "t"}` | operate | marks a change; all but `pin` and one of `version` and `text` may be left out |
//! | `POST /v1/do/mode` `{"mode": "observe"}` | operate | moves the switch |
//! | `POST /v1/do/incident` [`Post`](crate::incidents::Post) | operate | opens an incident, or adds to one |
//!
//! Whoever operates is answered `{"scope": "replica" | "fleet", "instance", "author"}`, and is the author of the event that it
//! is; a clamp also with `"in_force": {"quota", "scope", "by": "clamp" | "policy"}`, since a quota that is smaller stays in
//! force under it. A clamp and a block are answered with the switch as `"mode"` too: under another than `enforce` they
//! refuse nothing. A `POST` is JSON of at most 64 KiB, from the page itself or from no page: one with a foreign `Origin` or
//! `Sec-Fetch-Site` is refused. Clamps, blocks and incidents are written to the
//! [state file](crate::Builder::state_file) first: where that fails nothing is done, unless a clamp, block or release
//! says `"keep": false`. Pins, announced load and what is in hand are there within a second, and on all replicas of a
//! fleet within two.

mod access;
mod alone;
mod answer;
mod ask;
mod assets;
mod budget;
mod chart;
mod columns;
mod drill;
mod html;
mod line;
mod live;
mod operate;
mod own;
mod own_page;
mod service;
mod status;
mod top;

use std::fmt;
use std::sync::Arc;

pub use self::access::{Access, Grant, Token, TokenError};
pub use self::alone::StatusPage;
pub use self::answer::Body;
pub use self::ask::Ask;
use self::live::Live;
use self::own::Asked;
pub use self::service::ResponseFuture;
use crate::callers::Callers;

/// The page of a table of callers, as a tower service.
///
/// A clone shares what it shows: the table is looked at once a second at the most, however many look on.
#[derive(Clone)]
pub struct Dashboard {
    callers: Callers,
    access: Arc<Access>,
    mount: Arc<str>,
    fleet: Option<Arc<str>>,
    live: Arc<Live>,
    asked: Arc<Asked>,
}

impl Callers {
    /// The page of this table. See [`dashboard`](crate::dashboard).
    #[must_use]
    #[cfg_attr(docsrs, doc(cfg(feature = "dashboard")))]
    pub fn dashboard(&self) -> Dashboard {
        Dashboard {
            live: Arc::new(Live::new(self.clone())),
            callers: self.clone(),
            access: Arc::default(),
            mount: "/callerid".into(),
            fleet: None,
            asked: Arc::default(),
        }
    }
}

impl Dashboard {
    /// Who may do what; default [`Access::local`].
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = Arc::new(access);
        self
    }

    /// Where it is mounted, if the router leaves the whole path; default `/callerid`.
    #[must_use]
    pub fn mount(mut self, path: &str) -> Self {
        self.mount = format!("/{}", path.trim_matches('/')).into();
        self
    }

    /// Where the traffic of all replicas is seen, such as the address of a Grafana dashboard: the page, which shows
    /// this replica's, links to it. Only `http` and `https`.
    #[must_use]
    pub fn fleet_view(mut self, url: &str) -> Self {
        let web = url.starts_with("https://") || url.starts_with("http://");
        self.fleet = web.then(|| url.into());
        self
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard")
            .field("access", &self.access)
            .field("mount", &self.mount)
            .finish_non_exhaustive()
    }
}

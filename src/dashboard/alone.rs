//! The status alone, from the state file of a service: a program of its own, so that it outlives the service.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::{Request, Response};

use super::access::{Access, Ask};
use super::answer::{Body, Problem};
use super::assets;
use super::live::aside;
use super::status::Status;
use crate::clock::{Clock, MonotonicClock};
use crate::kept;
use crate::pipeline::PeerFn;

/// The status page of a service, from the file that [`Builder::state_file`](crate::Builder::state_file) names: a tower
/// service that answers `/`, `/summary.json` and `/v1/incidents`. It reads the file anew with every request.
///
/// ```
/// use callerid::dashboard::{Access, Grant, StatusPage};
///
/// // Everybody who reaches it may read it.
/// let page = StatusPage::new("/var/lib/prices/callerid.json")
///     .access(Access::from_fn(|_| Grant::nothing().read()));
/// let app: axum::Router = axum::Router::new().fallback_service(page);
/// # drop(app);
/// ```
#[derive(Clone)]
pub struct StatusPage {
    path: PathBuf,
    access: Arc<Access>,
    peer: Option<Arc<PeerFn>>,
    clock: MonotonicClock,
}

impl StatusPage {
    /// The status that is kept in this file.
    #[must_use]
    pub fn new(state_file: impl Into<PathBuf>) -> Self {
        Self {
            path: state_file.into(),
            access: Arc::default(),
            peer: crate::builder::default_peer().map(Arc::from),
            clock: MonotonicClock::new(),
        }
    }

    /// Who may read; default [`Access::local`].
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = Arc::new(access);
        self
    }

    /// Tells the peer's address, from what the listener left; with feature `axum` the default is
    /// `ConnectInfo<SocketAddr>`.
    #[must_use]
    pub fn peer(
        mut self,
        peer: impl Fn(&http::Extensions) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        self.peer = Some(Arc::new(peer));
        self
    }

    pub(super) async fn answer(&self, head: &Request<()>) -> Result<Response<Body>, Problem> {
        let peer = self.peer.as_ref();
        let ask = Ask::of(head, peer.and_then(|peer| peer(head.extensions())));
        if !matches!(*head.method(), http::Method::GET | http::Method::HEAD) {
            return Err(Problem::method("GET, HEAD"));
        }
        if !self.access.grant(&ask).read {
            let status = http::StatusCode::FORBIDDEN;
            return Err(Problem::new(status, self.access.refusal(&ask)));
        }
        let path = head.uri().path().trim_start_matches('/');
        if let Some(asset) = assets::find(path, head.headers()) {
            return Ok(asset);
        }
        if ![
            "",
            "status",
            "summary.json",
            "api/v2/summary.json",
            "v1/incidents",
        ]
        .contains(&path)
        {
            return Err(Problem::not_found("there is nothing here"));
        }
        let file = self.path.clone();
        let kept = aside(move || kept::read(&file)).await?;
        let kept = kept.map_err(|error| {
            let detail = format!("the state file cannot be read: {error}");
            Problem::new(http::StatusCode::SERVICE_UNAVAILABLE, detail)
        })?;
        let status = Status {
            incidents: kept.incidents.iter().cloned().collect(),
            service: kept.service,
            now: self.clock.now().as_secs_f64(),
        };
        status.answer(path)
    }
}

impl fmt::Debug for StatusPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusPage")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

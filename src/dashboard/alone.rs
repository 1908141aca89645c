//! The status alone, from the state file of a service or from the Redis of its fleet: a program of its own, so that it
//! outlives the service.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::{Request, Response};

use super::access::Access;
use super::answer::{Body, Problem};
use super::ask::Ask;
use super::assets;
use super::live::aside;
use super::status::Status;
#[cfg(feature = "redis")]
use crate::admit::fleet::{Fleet, reader::Reader};
#[cfg(feature = "redis")]
use crate::builder::BuildError;
use crate::clock::{Clock, MonotonicClock};
use crate::kept::{self, Kept};
use crate::pipeline::PeerFn;

/// The status page of a service, from the file that [`Builder::state_file`](crate::Builder::state_file) names, or from
/// the Redis of its fleet: a tower service that answers `/`, `/summary.json` and `/v1/incidents`. It reads anew with
/// every request.
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
    source: Source,
    access: Arc<Access>,
    peer: Option<Arc<PeerFn>>,
    clock: MonotonicClock,
}

/// Where the state is.
#[derive(Clone)]
enum Source {
    File(PathBuf),
    #[cfg(feature = "redis")]
    Fleet(Arc<Reader>),
}

impl Source {
    async fn read(&self) -> Result<Kept, Problem> {
        let away = |detail| Problem::new(http::StatusCode::SERVICE_UNAVAILABLE, detail);
        match self {
            Self::File(path) => {
                let path = path.clone();
                let kept = aside(move || kept::read(&path)).await?;
                kept.map_err(|error| away(format!("the state file cannot be read: {error}")))
            }
            #[cfg(feature = "redis")]
            Self::Fleet(reader) => {
                let text = reader.text().await;
                let text =
                    text.ok_or_else(|| away("the Redis of the fleet does not answer".to_owned()))?;
                if text.is_empty() {
                    return Ok(Kept::default());
                }
                let kept = serde_json::from_str(&text);
                kept.map_err(|error| away(format!("what replicas share makes no sense: {error}")))
            }
        }
    }
}

impl StatusPage {
    /// The status that is kept in this file.
    #[must_use]
    pub fn new(state_file: impl Into<PathBuf>) -> Self {
        Self::of(Source::File(state_file.into()))
    }

    /// The status that the replicas of a fleet share. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the fleet, or that it has no Redis.
    #[cfg(feature = "redis")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
    pub fn of_fleet(fleet: &Fleet) -> Result<Self, BuildError> {
        let reader = Reader::new(fleet).map_err(BuildError::of)?;
        Ok(Self::of(Source::Fleet(Arc::new(reader))))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
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
        let grant = self.access.grant(&ask);
        if self.access.is_guessed(&ask, &grant, self.clock.now()) {
            return Err(Problem::slow_down(1));
        }
        if !grant.read {
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
        let kept = self.source.read().await?;
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
        let mut shown = f.debug_struct("StatusPage");
        match &self.source {
            Source::File(path) => shown.field("path", path),
            #[cfg(feature = "redis")]
            Source::Fleet(_) => &mut shown,
        }
        .finish_non_exhaustive()
    }
}

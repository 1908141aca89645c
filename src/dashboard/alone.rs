//! The status alone, from the state file of a service or from the Redis of its fleet: a program of its own, so that it
//! outlives the service.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
use crate::clock::{Clock, MonotonicClock, Timestamp};
use crate::kept::{self, Kept};
use crate::lock::lock;
use crate::pipeline::PeerFn;

const AWAY: http::StatusCode = http::StatusCode::SERVICE_UNAVAILABLE;
/// How long a source that is away is not asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// The status page of a service, from the file that [`Builder::state_file`](crate::Builder::state_file) names, or from
/// the Redis of its fleet: a tower service that answers `/`, `/summary.json` and `/v1/incidents`. It reads anew with
/// every request. Where it cannot, it answers what it read last: the page says as of when, the JSON has it as
/// `page.as_of` and says in `page.stale` why, and the header `age` counts the seconds. Only who never read anything
/// answers 503.
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
    last: Arc<Mutex<Last>>,
}

/// What was read last.
#[derive(Default)]
struct Last {
    known: Option<(Arc<Kept>, Timestamp)>,
    failed: Option<(Problem, Timestamp)>,
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
        let away = |detail| Problem::new(AWAY, detail);
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
            last: Arc::default(),
        }
    }

    /// What is kept, as of when, and why nothing newer is known. Where the source is away, nobody waits for it twice
    /// within a second.
    async fn read(&self) -> Result<(Arc<Kept>, Timestamp, Option<String>), Problem> {
        let now = self.clock.now();
        let failed = lock(&self.last).failed.clone();
        let again = failed.filter(|(_, at)| now.since(*at) < AGAIN);
        let read = match again {
            Some((problem, _)) => Err(problem),
            None => self.source.read().await,
        };
        let now = self.clock.now();
        let mut last = lock(&self.last);
        // A store that has come back empty knows of nothing, which is not the same as that all is well.
        let lost = |kept: &Kept| {
            let known = last.known.as_ref().map(|(known, _)| known);
            *kept == Kept::default() && known.is_some_and(|known| **known != *kept)
        };
        let problem = match read {
            Ok(kept) if lost(&kept) => Problem::new(AWAY, "what was known is there no more"),
            Ok(kept) => {
                let kept = Arc::new(kept);
                last.known = Some((Arc::clone(&kept), now));
                last.failed = None;
                return Ok((kept, now, None));
            }
            Err(problem) => problem,
        };
        let since = last.failed.as_ref().map(|(_, at)| *at);
        let since = since.filter(|at| now.since(*at) < AGAIN).unwrap_or(now);
        last.failed = Some((problem.clone(), since));
        match &last.known {
            Some((kept, at)) => Ok((Arc::clone(kept), *at, Some(problem.detail().to_owned()))),
            None => Err(problem),
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
        let grant = self.access.grant(&ask);
        if self.access.is_guessed(&ask, &grant, self.clock.now()) {
            return Err(Problem::slow_down(1));
        }
        if !grant.read {
            let status = http::StatusCode::FORBIDDEN;
            return Err(Problem::new(status, self.access.refusal(&ask)));
        }
        if !matches!(*head.method(), http::Method::GET | http::Method::HEAD) {
            return Err(Problem::method("GET, HEAD"));
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
        let (kept, as_of, stale) = self.read().await?;
        let age = stale.as_ref().map(|_| self.clock.now().since(as_of));
        let status = Status {
            incidents: kept.incidents.iter().cloned().collect(),
            service: kept.service.clone(),
            as_of: as_of.as_secs_f64(),
            stale,
        };
        let mut answer = status.answer(path)?;
        if let Some(age) = age {
            let headers = answer.headers_mut();
            headers.insert(http::header::AGE, age.as_secs().into());
        }
        Ok(answer)
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

//! How a table of callers comes to be.

mod build;
mod limits;

use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "redis")]
use crate::admit::fleet::Fleet;
use crate::admit::{Mode, Policies, Style};
use crate::clock::Clock;
use crate::identify::{Head, Identify};
use crate::pipeline::{CostFn, DEFAULT_EXEMPT, PeerFn, RouteFn};
use crate::registry::InferredLabel;
use crate::roster::Account;
use crate::watch;

/// The caps that a series budget of 2,000 gives.
const SERIES: usize = 2_000;
const EXPORTED: usize = 150;
const PAIRS: usize = 1_000;
const TRACKED: usize = 4_096;
/// Rows that are kept for callers in a runaway.
const RESERVED: usize = 32;
const IDLE: Duration = Duration::from_secs(600);

/// Settings of [`Callers`](crate::Callers); every one but [`Builder::identify`] has a default.
#[must_use = "a builder does nothing until it is built"]
pub struct Builder {
    sources: Vec<Box<dyn Identify>>,
    accounts: Vec<Account>,
    exempt: Vec<String>,
    route: Option<Box<RouteFn>>,
    peer: Option<Box<PeerFn>>,
    late_identity: bool,
    response_header: Option<String>,
    tracked: usize,
    series: usize,
    exported: Option<usize>,
    idle: Duration,
    inferred: InferredLabel,
    inferred_key: Option<Vec<u8>>,
    clock: Option<Arc<dyn Clock>>,
    manual_tick: bool,
    policies: Policies,
    mode: Option<Mode>,
    style: Style,
    cost: Option<Box<CostFn>>,
    pub(crate) watch: watch::Settings,
    #[cfg(feature = "redis")]
    pub(crate) fleet: Option<Fleet>,
    #[cfg(feature = "config")]
    pub(crate) config: Option<crate::config::Loaded>,
    #[cfg(feature = "dashboard")]
    pub(crate) state_file: Option<std::path::PathBuf>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            sources: Vec::new(),
            accounts: Vec::new(),
            exempt: DEFAULT_EXEMPT.map(str::to_owned).to_vec(),
            route: None,
            peer: default_peer(),
            late_identity: false,
            response_header: None,
            tracked: TRACKED,
            series: SERIES,
            exported: None,
            idle: IDLE,
            inferred: InferredLabel::default(),
            inferred_key: None,
            clock: None,
            manual_tick: false,
            policies: Policies::default(),
            mode: None,
            style: Style::default(),
            cost: None,
            watch: watch::Settings::default(),
            #[cfg(feature = "redis")]
            fleet: None,
            #[cfg(feature = "config")]
            config: None,
            #[cfg(feature = "dashboard")]
            state_file: None,
        }
    }

    /// Adds a source of identity. Sources are asked in the order in which they were added; the first that answers
    /// decides.
    pub fn identify(mut self, source: impl Identify) -> Self {
        self.sources.push(Box::new(source));
        self
    }

    /// Puts a caller on the roster: it always has a row of its own, and a claim of its name does not reach it.
    pub fn caller(mut self, account: Account) -> Self {
        self.accounts.push(account);
        self
    }

    /// The paths that are counted as `__exempt__` and left alone, instead of `/healthz`, `/livez`, `/readyz`,
    /// `/metrics`, `/callerid/*` and `/grpc.health.v1.Health/*`. A trailing `*` stands for any rest.
    pub fn exempt<S: Into<String>>(mut self, paths: impl IntoIterator<Item = S>) -> Self {
        self.exempt = paths.into_iter().map(Into::into).collect();
        self
    }

    /// Names the route of a request, for stacks that leave none in the extensions: a template such as
    /// `/v1/prices/{sku}`, never a raw path, which clients can invent. `None` counts as `unmatched`.
    ///
    /// On axum the matched path is used without this, and gRPC methods are learnt.
    pub fn route(
        mut self,
        name: impl for<'h> Fn(&'h Head<'_>) -> Option<&'h str> + Send + Sync + 'static,
    ) -> Self {
        self.route = Some(Box::new(name));
        self
    }

    /// Tells the peer's address of requests without identity, so that the snapshot can show where they come from.
    /// With feature `axum` the default is `ConnectInfo<SocketAddr>`.
    pub fn peer(
        mut self,
        peer: impl Fn(&http::Extensions) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        self.peer = Some(Box::new(peer));
        self
    }

    /// Puts a [`CallerSlot`](crate::CallerSlot) into the extensions of every request, so that a service that
    /// authenticates inside can say afterwards who the caller is. Costs two allocations a request.
    pub fn late_identity(mut self) -> Self {
        self.late_identity = true;
        self
    }

    /// Tells the caller who it was taken for at the head of its request, in this header of the response; an identity
    /// that comes late is not in it.
    pub fn response_header(mut self, name: impl Into<String>) -> Self {
        self.response_header = Some(name.into());
        self
    }

    /// How callers whose name is inferred appear in metrics; default [`InferredLabel::Hash`].
    pub fn inferred(mut self, label: InferredLabel) -> Self {
        self.inferred = label;
        self
    }

    /// The key of the hash that stands for an inferred name. Random by default, so that the labels of two
    /// replicas, and of one before and after a restart, differ; give all replicas the same secret to compare them.
    /// It also keeps names from being guessed from the keys of a fleet.
    pub fn inferred_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.inferred_key = Some(key.into());
        self
    }

    /// How many callers are tracked; default 4,096, at most 1 KiB each.
    pub fn max_tracked(mut self, callers: usize) -> Self {
        self.tracked = callers;
        self
    }

    /// How many callers have a row of their own in the metrics, instead of what the series budget gives. 36 of
    /// them are set aside: four rows are ours, 32 are for callers in a runaway.
    pub fn max_exported(mut self, callers: usize) -> Self {
        self.exported = Some(callers);
        self
    }

    /// How many series one metric may have; default 2,000, past which the OpenTelemetry SDK folds everything into
    /// one. It gives `N * 150 / 2000` rows of twelve classes, and `N / 2` pairs of caller and route.
    pub fn series_budget(mut self, series: usize) -> Self {
        self.series = series;
        self
    }

    /// After how long without a request a caller without a row leaves the table; default ten minutes.
    pub fn idle_after(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Another clock than the system's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Starts no thread: whoever says this calls [`Callers::tick`](crate::Callers::tick).
    pub fn manual_tick(mut self) -> Self {
        self.manual_tick = true;
        self
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("sources", &self.sources.len())
            .field("accounts", &self.accounts)
            .field("exempt", &self.exempt)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "axum")]
pub(crate) fn default_peer() -> Option<Box<PeerFn>> {
    use axum::extract::ConnectInfo;
    use std::net::SocketAddr;
    Some(Box::new(|extensions| {
        extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|info| info.0.ip())
    }))
}

#[cfg(not(feature = "axum"))]
pub(crate) fn default_peer() -> Option<Box<PeerFn>> {
    None
}

/// Settings that cannot be built, every problem at once.
#[derive(Debug)]
pub struct BuildError {
    problems: Vec<String>,
}

impl BuildError {
    pub(crate) fn of(problems: Vec<String>) -> Self {
        let problems = problems.into_iter().map(visible).collect();
        Self { problems }
    }

    /// Each problem, with what it is about and what to do.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(String::as_str)
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("; "))
    }
}

impl std::error::Error for BuildError {}

/// What a file says is quoted in errors, which end in terminals and logs.
pub(crate) fn visible(text: String) -> String {
    // Marks that turn the direction of what follows, or are not seen, are as good as controls.
    let hides = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if !text.contains(hides) {
        return text;
    }
    let shown = text.chars().map(|c| match c {
        c if hides(c) => c.escape_default().to_string(),
        c => c.to_string(),
    });
    shown.collect()
}

fn random_key() -> Vec<u8> {
    // Keyed by the operating system: from one's own address and label the key must not be found by trying.
    let keyed = std::hash::RandomState::new();
    let words = [keyed.hash_one(0_u8), keyed.hash_one(1_u8)];
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

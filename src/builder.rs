//! How a table of callers comes to be.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Response};

#[cfg(feature = "redis")]
use crate::admit::fleet::{Fleet, Pool};
use crate::admit::policy::CallerPolicy;
use crate::admit::{
    Admission, Ceiling, Mode, OnRunaway, Policies, Policy, Quota, RateLimitHeaders, Refusal, Scope,
    Style,
};
use crate::caller::Provenance;
use crate::callers::Callers;
use crate::clock::{Clock, MonotonicClock, Ticker};
use crate::identify::{Head, Identify};
use crate::outcome::{Class, Fault};
use crate::pipeline::{Core, CostFn, DEFAULT_EXEMPT, Exempt, PeerFn, RouteFn, Standing};
use crate::registry::{InferredLabel, Limits, OURS, Registry};
use crate::roster::{Account, Roster};
use crate::upkeep::Upkeep;
use crate::watch::{self, Watch};

/// The caps that a series budget of 2,000 gives.
const SERIES: usize = 2_000;
const EXPORTED: usize = 150;
const PAIRS: usize = 1_000;
const TRACKED: usize = 4_096;
/// Rows that are kept for callers in a runaway.
const RESERVED: usize = 32;
const IDLE: Duration = Duration::from_secs(600);

/// Settings of [`Callers`]; every one but [`Builder::identify`] has a default.
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

    /// The quota of every caller that nothing narrower names. Requests without identity are not a caller's: they
    /// have the quota of [`Provenance::Unknown`], if there is one.
    pub fn quota(mut self, quota: Quota) -> Self {
        self.policies.default.quota = Some(quota);
        self
    }

    /// How many requests of every caller that nothing narrower names may be in flight, to the end of their bodies.
    pub fn max_in_flight(mut self, requests: u32) -> Self {
        self.policies.default.max_in_flight = Some(requests);
        self
    }

    /// How many requests the service takes in at once, fairly shared: `.ceiling(512)`. This protects without a
    /// quota for anybody.
    pub fn ceiling(mut self, ceiling: impl Into<Ceiling>) -> Self {
        self.policies.ceiling = Some(ceiling.into());
        self
    }

    /// What every caller may do that nothing narrower names.
    pub fn default_policy(mut self, policy: Policy) -> Self {
        self.policies.default = policy;
        self
    }

    /// What callers of this provenance may do, each; and together, with [`Policy::total`].
    pub fn provenance(mut self, provenance: Provenance, policy: Policy) -> Self {
        if let Some(table) = self.policies.provenance.get_mut(provenance as usize) {
            *table = policy;
        }
        self
    }

    /// What callers of a tier may do, each ([`Account::tier`]).
    pub fn tier(mut self, name: impl Into<String>, policy: Policy) -> Self {
        self.policies.tiers.insert(name.into(), policy);
        self
    }

    /// What is done about a caller in a runaway of requests, or of requests in flight, while the service is hurt: it is
    /// held to `factor` times its own baseline, and never to less than a fair share or 5/s. In [`Mode::Shadow`] what
    /// that would refuse is counted. Nothing is done by default.
    pub fn clamp_runaways(mut self, factor: f64, mode: Mode) -> Self {
        self.policies.on_runaway = Some(OnRunaway {
            clamp: factor,
            mode,
        });
        self
    }

    /// The switch, which caps every narrower mode; [`Callers::set_mode`] moves it later. Default
    /// [`Mode::Enforce`]: what is written down is meant. Nothing is refused where nothing is written down.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// The scope of quotas that do not say their own ([`Policy::scope`]); default [`Scope::Instance`].
    pub fn scope(mut self, scope: Scope) -> Self {
        self.policies.scope = scope;
        self
    }

    /// The fleet that this replica is one of, for quotas of the scope `Scope::Fleet`. Starts a thread named
    /// `callerid-fleet`, also under [`Builder::manual_tick`]. Waits up to half a second for the Redis.
    #[cfg(feature = "redis")]
    pub fn fleet(mut self, fleet: Fleet) -> Self {
        self.fleet = Some(fleet);
        self
    }

    /// How many tokens of its quota a request takes, from its head, instead of what policies say of its route. At
    /// least 1, at most the burst.
    pub fn cost(mut self, cost: impl Fn(&Head<'_>) -> u32 + Send + Sync + 'static) -> Self {
        self.cost = Some(Box::new(cost));
        self
    }

    /// Gives the answer to a refused request, instead of [`Refusal::response`], which it may start from.
    pub fn refusal(
        mut self,
        respond: impl Fn(&Refusal) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        self.style.custom = Some(Box::new(respond));
        self
    }

    /// Which header fields of a refusal tell the caller about its quota.
    pub fn rate_limit_headers(mut self, headers: RateLimitHeaders) -> Self {
        self.style.headers = headers;
        self
    }

    /// Whether refusals carry `x-envoy-ratelimited: true`, which keeps Envoy from trying again; default yes.
    pub fn envoy_ratelimited(mut self, told: bool) -> Self {
        self.style.envoy = told;
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

    /// Starts no thread: whoever says this calls [`Callers::tick`].
    pub fn manual_tick(mut self) -> Self {
        self.manual_tick = true;
        self
    }

    /// The table.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the settings, at once; among it that no source of identity was given.
    pub fn build(mut self) -> Result<Callers, BuildError> {
        let mut problems = Vec::new();
        #[cfg(feature = "config")]
        let config = self.apply_config();
        #[cfg(feature = "dashboard")]
        let keeper = self.keeper().map_err(|problem| problems.push(problem)).ok();
        if self.sources.is_empty() {
            problems.push(
                "identify: no source of identity; add one, such as `.identify(identify::header(\"x-client-id\"))`"
                    .to_owned(),
            );
        }
        problems.extend(self.sources.iter().filter_map(|source| source.problem()));
        let keep = |result: Result<_, Vec<String>>, problems: &mut Vec<String>| {
            result.map_err(|found| problems.extend(found)).ok()
        };
        for account in &self.accounts {
            let policy = CallerPolicy {
                policy: account.policy.clone(),
                tier: account.tier.clone(),
            };
            self.policies.callers.insert(account.name.clone(), policy);
        }
        let roster = keep(Roster::new(self.accounts), &mut problems);
        let exempt = Exempt::new(&self.exempt)
            .map_err(|found| problems.extend(found))
            .ok();
        let response_header = self.response_header.and_then(|name| {
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| {
                    problems.push(format!("response_header: {name:?} is not a header name"))
                })
                .ok()
        });
        let version_header = self.watch.version_header();
        problems.extend(version_header.as_ref().err().cloned());
        let exported = self.exported.unwrap_or(self.series * EXPORTED / SERIES);
        let least = OURS + RESERVED + 1;
        if exported < least {
            problems.push(format!(
                "max_exported: {exported} rows are too few; use at least {least}"
            ));
        }
        let ticker = match self.clock {
            None => Ticker::Monotonic(MonotonicClock::new()),
            Some(clock) => Ticker::Other(clock),
        };
        let now = ticker.now();
        problems.extend(self.policies.problems(now));
        #[cfg(feature = "redis")]
        problems.extend(self.policies.problems_of_fleet(self.fleet.as_ref()));
        let (Some(roster), Some(exempt), true) = (roster, exempt, problems.is_empty()) else {
            return Err(BuildError { problems });
        };
        #[cfg(feature = "redis")]
        let fleet = Pool::of(self.fleet.as_ref(), self.inferred_key.as_deref(), &ticker)
            .map_err(|problems| BuildError { problems })?;
        let limits = Limits {
            tracked: self.tracked,
            exported,
            reserved: RESERVED,
            pairs: self.series.max(exported * SERIES / EXPORTED) * PAIRS / SERIES,
            idle: self.idle,
            inferred: self.inferred,
            inferred_key: self.inferred_key.unwrap_or_else(random_key),
        };
        let roster = Arc::new(roster);
        let registry = Registry::new(Arc::clone(&roster), limits, ticker.clone());
        let standing = Standing { roster, exempt };
        // Every row's route `__other__` has its series kept free.
        let series = self.series.max(registry.limits().exported * Class::COUNT);
        let route_series = series.saturating_sub(registry.limits().exported * Fault::ALL.len());
        let mode = self.mode.unwrap_or_default();
        let admission = Admission::new(self.policies, mode, self.style, now);
        #[cfg(feature = "redis")]
        let admission = admission.with_fleet(fleet);
        let mut core = Core::new(registry, ticker, self.sources.into(), standing, admission);
        core.cost = self.cost;
        core.version_header = version_header.ok().flatten();
        core.route = self.route;
        core.peer = self.peer;
        core.late_identity = self.late_identity;
        core.response_header = response_header;
        let version = self.watch.version.clone();
        let watch = Watch::new(self.watch.log(now));
        watch.started(version.as_deref(), now);
        let upkeep = Upkeep::new(Arc::new(core), watch, route_series);
        #[cfg(feature = "config")]
        let upkeep = upkeep.with_config(config);
        #[cfg(feature = "dashboard")]
        let upkeep = upkeep.with_keeper(keeper.unwrap_or_default());
        #[cfg(feature = "dashboard")]
        upkeep.restore(now);
        let upkeep = Arc::new(upkeep);
        if !self.manual_tick {
            upkeep.start().map_err(|error| BuildError {
                problems: vec![format!(
                    "the thread `callerid` could not be started: {error}"
                )],
            })?;
        }
        Ok(Callers::new(upkeep))
    }
}

#[cfg(feature = "config")]
impl Builder {
    /// The time by the clock that was set, or else the system's.
    pub(crate) fn time(&self) -> crate::clock::Timestamp {
        let clock = self.clock.as_ref();
        clock.map_or_else(crate::config::wall_time, |clock| clock.now())
    }

    /// Lays the files over what the program says, and keeps the latter for a reload.
    fn apply_config(&mut self) -> crate::config::Config {
        let loaded = self.config.take();
        let base = crate::config::Base {
            policies: self.policies.clone(),
            accounts: self.accounts.clone(),
            mode: self.mode,
            exempt: self.exempt.clone(),
        };
        if let Some(contents) = loaded.as_ref().map(|loaded| &loaded.contents) {
            (self.policies, self.accounts) = contents.over(&self.policies, &self.accounts);
            self.mode = contents.mode.or(self.mode);
            if let Some(exempt) = &contents.exempt {
                self.exempt.clone_from(exempt);
            }
            #[cfg(feature = "redis")]
            if let Some(fleet) = &contents.fleet {
                self.fleet = Some(fleet.clone().over(self.fleet.as_ref()));
            }
        }
        crate::config::Config::new(base, loaded.as_ref())
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

fn random_key() -> Vec<u8> {
    fastrand::u128(..).to_le_bytes().to_vec()
}

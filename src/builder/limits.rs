//! What callers may do.

use bytes::Bytes;
use http::Response;

use super::Builder;
#[cfg(feature = "redis")]
use crate::admit::fleet::Fleet;
use crate::admit::{Ceiling, Mode, OnRunaway, Policy, Quota, RateLimitHeaders, Refusal, Scope};
use crate::caller::Provenance;
use crate::identify::Head;

impl Builder {
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

    /// What callers of a tier may do, each ([`Account::tier`](crate::Account::tier)).
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

    /// The switch, which caps every narrower mode; [`Callers::set_mode`](crate::Callers::set_mode) moves it later. Default
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
}

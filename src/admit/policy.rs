//! What a caller may do. A policy is found field by field: what the caller's own table leaves open, its tier says,
//! then the table of its provenance, then the default.

use std::collections::HashMap;
use std::time::Duration;

use super::ceiling::Ceiling;
pub(crate) use super::mode::Mode;
use super::quota::Quota;
use crate::caller::Provenance;
use crate::clock::Timestamp;

pub(crate) use super::terms::{Subject, Terms};

/// What callers may do; every field that is left out is found in the next wider table.
///
/// ```
/// use callerid::{Policy, Quota};
///
/// let batch = Policy::new()
///     .quota(Quota::per_minute(600))
///     .max_in_flight(20)
///     .weight(0.5)
///     .cost("POST /v1/orders", 5)
///     .route_quota("POST /v1/exports", Quota::per_hour(10));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    pub(crate) quota: Option<Quota>,
    pub(crate) burst: Option<u32>,
    pub(crate) max_in_flight: Option<u32>,
    pub(crate) max_streams: Option<u32>,
    pub(crate) weight: Option<f64>,
    pub(crate) mode: Option<Mode>,
    pub(crate) block: Option<Block>,
    pub(crate) allow: Option<bool>,
    pub(crate) costs: Vec<(String, u32)>,
    pub(crate) routes: Vec<(String, RoutePolicy)>,
    pub(crate) total: Option<Quota>,
    pub(crate) scope: Option<Scope>,
}

/// Over what a quota is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Each replica counts for itself.
    #[default]
    Instance,
    /// All replicas of a fleet together.
    #[cfg(feature = "redis")]
    Fleet,
}

impl Scope {
    /// The value of the metric label `scope`, and the word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            #[cfg(feature = "redis")]
            Self::Fleet => "fleet",
        }
    }
}

/// Whether, and until when, a caller is kept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    No,
    Yes,
    Until(Timestamp),
}

/// What applies to one route.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RoutePolicy {
    pub(crate) quota: Option<Quota>,
    pub(crate) burst: Option<u32>,
}

impl Policy {
    /// A policy that leaves everything open.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The rate and burst that each caller may use.
    #[must_use]
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// The burst alone, of a quota that a wider table gives.
    #[must_use]
    pub fn burst(mut self, burst: u32) -> Self {
        self.burst = Some(burst);
        self
    }

    /// How many requests of a caller may be in flight, to the end of their bodies.
    #[must_use]
    pub fn max_in_flight(mut self, requests: u32) -> Self {
        self.max_in_flight = Some(requests);
        self
    }

    /// How many of a caller's responses that still stream after ten seconds are counted apart: they leave the
    /// count of [`Policy::max_in_flight`] and the ceiling's. Those beyond stay in both. Without this all of them
    /// leave the ceiling's count and stay in the caller's own.
    ///
    /// An upgraded connection (101, or a 2xx to `CONNECT`) is none of them: its request ends with the head of the answer,
    /// and nobody tells a layer when the tunnel ends. A [`Policy::route_quota`] bounds how often one is opened; how many
    /// are open is for the handler to count.
    #[must_use]
    pub fn max_streams(mut self, streams: u32) -> Self {
        self.max_streams = Some(streams);
        self
    }

    /// How much of the ceiling is fair, against others; default 1.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = Some(weight);
        self
    }

    /// How many tokens a request of this route takes (`"POST /v1/orders"`); default 1.
    #[must_use]
    pub fn cost(mut self, route: impl Into<String>, tokens: u32) -> Self {
        self.costs.push((route.into(), tokens));
        self
    }

    /// A quota for one route (`"POST /v1/orders"`), in place of the caller's for all others: its requests are
    /// measured by this one alone.
    #[must_use]
    pub fn route_quota(mut self, route: impl Into<String>, quota: Quota) -> Self {
        let quota = RoutePolicy {
            quota: Some(quota),
            burst: None,
        };
        self.routes.push((route.into(), quota));
        self
    }

    /// What all callers of a provenance may use together; only in the policy of a provenance.
    #[must_use]
    pub fn total(mut self, total: Quota) -> Self {
        self.total = Some(total);
        self
    }

    /// Keeps the caller out: 403.
    #[must_use]
    pub fn block(mut self) -> Self {
        self.block = Some(Block::Yes);
        self
    }

    /// Keeps the caller out until then: 429, with the time to it.
    #[must_use]
    pub fn block_until(mut self, end: impl Into<Timestamp>) -> Self {
        self.block = Some(Block::Until(end.into()));
        self
    }

    /// Lifts a block that a wider table gives.
    #[must_use]
    pub fn unblock(mut self) -> Self {
        self.block = Some(Block::No);
        self
    }

    /// Never refuses, also at the ceiling.
    #[must_use]
    pub fn allow(mut self) -> Self {
        self.allow = Some(true);
        self
    }

    /// Counts what would be refused, and lets it in.
    #[must_use]
    pub fn shadow(mut self) -> Self {
        self.mode = Some(Mode::Shadow);
        self
    }

    /// Refuses what is over a limit, also where a wider table says shadow.
    #[must_use]
    pub fn enforce(mut self) -> Self {
        self.mode = Some(Mode::Enforce);
        self
    }

    /// Over what quotas are counted, those of routes included; the total of a provenance is each replica's own.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// A block that is over is none, and leaves those of wider tables aside as before.
    #[cfg(feature = "config")]
    pub(crate) fn end_block(&mut self, now: Timestamp) {
        if matches!(self.block, Some(Block::Until(end)) if end <= now) {
            self.block = Some(Block::No);
        }
    }

    /// Whether it may refuse anything.
    fn limits(&self) -> bool {
        self.quota.is_some()
            || self.max_in_flight.is_some()
            || self.total.is_some()
            || matches!(self.block, Some(Block::Yes | Block::Until(_)))
            || self.routes.iter().any(|(_, route)| route.quota.is_some())
    }
}

/// All policies, as they were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Policies {
    pub(crate) default: Policy,
    pub(crate) provenance: [Policy; Provenance::ALL.len()],
    pub(crate) tiers: HashMap<String, Policy>,
    pub(crate) callers: HashMap<String, CallerPolicy>,
    pub(crate) ceiling: Option<Ceiling>,
    pub(crate) on_runaway: Option<OnRunaway>,
    /// Of quotas that no table says it of.
    pub(crate) scope: Scope,
}

/// What is done about a caller in a runaway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OnRunaway {
    /// Times the caller's own baseline.
    pub(crate) clamp: f64,
    pub(crate) mode: Mode,
}

/// What one caller by name may do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CallerPolicy {
    pub(crate) policy: Policy,
    pub(crate) tier: Option<String>,
    /// Verified, or claimed where claims of the name reach it.
    pub(crate) provenance: Provenance,
}

impl Policies {
    /// Whether there is anything that may refuse a request.
    pub(crate) fn limit_anything(&self) -> bool {
        let tables = [&self.default]
            .into_iter()
            .chain(&self.provenance)
            .chain(self.tiers.values());
        let callers = self.callers.values().map(|caller| &caller.policy);
        self.ceiling.is_some() || tables.chain(callers).any(Policy::limits)
    }

    /// The quota that is in force for a caller, under its clamp if there is one, and over what it is counted.
    pub(super) fn in_force(
        &self,
        subject: &Subject<'_>,
        clamp: Option<Quota>,
    ) -> Option<(Quota, Scope)> {
        let tables = self.tables(subject);
        let written = quota_of(tables.iter().map(|table| (table.quota, table.burst)));
        let mode = tables.iter().find_map(|table| table.mode);
        let allow = tables.iter().find_map(|table| table.allow);
        let rules = (mode.unwrap_or_default(), allow.unwrap_or(false));
        match clamp.filter(|clamp| clamp_binds(*clamp, written, rules)) {
            Some(clamp) => Some((clamp, Scope::Instance)),
            None => written.map(|quota| (quota, scope_of(&tables, self.scope))),
        }
    }

    pub(super) fn quota_of(&self, subject: &Subject<'_>) -> Option<Quota> {
        let tables = self.tables(subject);
        quota_of(tables.iter().map(|table| (table.quota, table.burst)))
    }

    /// The tables that apply, the narrowest first. The default does not reach requests without a caller: they may
    /// be a whole proxy's, and only a policy that names them refuses them.
    pub(super) fn tables(&self, subject: &Subject<'_>) -> Vec<&Policy> {
        let named = subject
            .proven
            .then(|| self.callers.get(subject.name))
            .flatten();
        let tier = named.and_then(|caller| self.tiers.get(caller.tier.as_deref()?));
        let default = (subject.provenance != Provenance::Unknown).then_some(&self.default);
        [
            named.map(|caller| &caller.policy),
            tier,
            self.provenance.get(subject.provenance as usize),
            default,
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The quota that the tables give, the narrowest first: of the first that has one; with the burst of the same, or
/// of a narrower one.
pub(super) fn quota_of(
    tables: impl Iterator<Item = (Option<Quota>, Option<u32>)>,
) -> Option<Quota> {
    let mut narrower = None;
    for (quota, burst) in tables {
        narrower = narrower.or(burst);
        if let Some(quota) = quota {
            return Some(match narrower {
                Some(burst) => quota.with_burst(Some(burst)),
                None => quota,
            });
        }
    }
    None
}

/// Whether a clamp is what holds a caller: a quota that is enforced stays in force under it, and the smaller holds.
pub(super) fn clamp_binds(
    clamp: Quota,
    written: Option<Quota>,
    (mode, allow): (Mode, bool),
) -> bool {
    let enforced = written.filter(|_| mode == Mode::Enforce && !allow);
    enforced.is_none_or(|written| clamp.rate() <= written.rate())
}

/// A block that is in force, with what is left of it.
pub(super) fn blocked(block: Option<Block>, now: Timestamp) -> Option<Option<Duration>> {
    match block {
        None | Some(Block::No) => None,
        Some(Block::Yes) => Some(None),
        Some(Block::Until(end)) => (now < end).then(|| Some(end.since(now))),
    }
}

/// The scope that the tables give, the narrowest first.
pub(super) fn scope_of(tables: &[&Policy], default: Scope) -> Scope {
    tables
        .iter()
        .find_map(|table| table.scope)
        .unwrap_or(default)
}

//! The words of events.

use std::sync::Arc;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Kind {
    /// A caller departs from its own past far enough.
    RunawayStarted,
    /// More is known about a runaway than when it was first said.
    RunawayUpdated,
    /// A runaway is over.
    RunawayEnded,
    /// The service fails for several callers: nobody to blame.
    ServiceDegraded,
    /// The service works again.
    ServiceRecovered,
    /// Everybody rises.
    Crowd,
    /// The rise of everybody is over.
    CrowdEnded,
    /// A change on the time line: a caller's deploy, flag, cache, configuration.
    Pin,
    /// An incident was opened, updated or resolved by a person.
    Incident,
    /// A limit was changed, by a person or by a guard.
    Policy,
    /// A change of ours: start-up, version, configuration.
    Ours,
}

impl Kind {
    /// The value of the field `kind`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RunawayStarted => "runaway_started",
            Self::RunawayUpdated => "runaway_updated",
            Self::RunawayEnded => "runaway_ended",
            Self::ServiceDegraded => "service_degraded",
            Self::ServiceRecovered => "service_recovered",
            Self::Crowd => "crowd",
            Self::CrowdEnded => "crowd_ended",
            Self::Pin => "pin",
            Self::Incident => "incident",
            Self::Policy => "policy",
            Self::Ours => "ours",
        }
    }
}

/// In what a caller departs from its past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Signal {
    /// Requests per second.
    Rate,
    /// The share of one error class.
    Errors,
    /// Requests in flight: few requests, each very slow.
    InFlight,
    /// A flood of invented names.
    Names,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 4] = [Self::Rate, Self::Errors, Self::InFlight, Self::Names];

    /// The value of the field `signal`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Errors => "errors",
            Self::InFlight => "in_flight",
            Self::Names => "names",
        }
    }

    pub(crate) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What the service suffers. Only the last two are worth waking somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Harm {
    /// Nothing that can be seen.
    #[default]
    None,
    /// The service is near its ceiling, or the other callers begin to suffer.
    AtRisk,
    /// The other callers suffer.
    Harmed,
}

impl Harm {
    /// The value of the field `harm`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::AtRisk => "at_risk",
            Self::Harmed => "harmed",
        }
    }
}

/// A version change of a caller.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Deploy {
    /// What was deployed.
    pub version: Arc<str>,
    /// When, in Unix seconds.
    pub t: f64,
}

/// What a [`Pin`](super::Pin) marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Change {
    /// A new version.
    #[default]
    Deploy,
    /// A feature flag.
    Flag,
    /// A configuration.
    Config,
    /// A cache was emptied, filled, resized.
    Cache,
    /// Anything else.
    Other,
}

impl Change {
    /// Every kind of change.
    pub const ALL: [Self; 5] = [
        Self::Deploy,
        Self::Flag,
        Self::Config,
        Self::Cache,
        Self::Other,
    ];

    /// The value of the field `pin`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Flag => "flag",
            Self::Config => "config",
            Self::Cache => "cache",
            Self::Other => "other",
        }
    }
}

/// What a person calls a pattern of path parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Pattern {
    /// The same keys again and again: a lost cache, a retry loop.
    Repeat,
    /// Never the same key: a crawl, a migration.
    Scan,
}

impl Pattern {
    /// The value of the field `pattern`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Repeat => "repeat",
            Self::Scan => "scan",
        }
    }
}

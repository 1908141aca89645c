//! What a snapshot shows of limits.

use std::ops::Index;

use super::{Admission, Mode, Terms};
use crate::outcome::Reason;

/// The ceiling.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CeilingSnapshot {
    /// Requests that count against it.
    pub in_flight: u32,
    /// From this many on, only callers below their fair share are let in.
    pub max_in_flight: u32,
    /// From this many on, nobody is.
    pub hard_max: u32,
    /// Whether it refuses, or counts what it would refuse.
    pub mode: Mode,
    /// The adaptive ceiling that is computed beside it.
    pub adaptive: Option<AdaptiveSnapshot>,
}

/// An adaptive ceiling, which refuses nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AdaptiveSnapshot {
    /// What `max_in_flight` would be now.
    pub max_in_flight: u32,
    /// The least that it may be.
    pub min: u32,
    /// The most.
    pub max: u32,
    /// Requests that it would have refused: they came when it was reached, from callers with their fair share of it.
    /// More than an enforced one would, since those that it would have refused take room here.
    pub would_refuse: u64,
}

/// What applies to a caller.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PolicySnapshot {
    /// The quota, in requests per second.
    pub quota: Option<f64>,
    /// How many requests may come at once.
    pub burst: Option<u32>,
    /// How many may be in flight.
    pub max_in_flight: Option<u32>,
    /// The share of the ceiling.
    pub weight: f64,
    /// Whether these limits refuse, or count what they would refuse; the switch may say less.
    pub mode: Mode,
}

/// A count for every [`Reason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByReason([u64; Reason::COUNT]);

impl ByReason {
    /// Reasons with a count, in the order of [`Reason::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        let all = Reason::ALL.into_iter().map(|reason| (reason, self[reason]));
        all.filter(|(_, count)| *count > 0)
    }

    /// The sum over all reasons.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Index<Reason> for ByReason {
    type Output = u64;

    fn index(&self, reason: Reason) -> &u64 {
        &self.0[reason.index()]
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for ByReason {
    /// As a map of the reasons that have a count.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl From<[u64; Reason::COUNT]> for ByReason {
    fn from(counts: [u64; Reason::COUNT]) -> Self {
        Self(counts)
    }
}

impl CeilingSnapshot {
    pub(crate) fn take(admission: &Admission) -> Option<Self> {
        let (in_flight, ceiling) = admission.ceiling()?;
        let adaptive = |(limit, (min, max), would_refuse)| AdaptiveSnapshot {
            max_in_flight: limit,
            min,
            max,
            would_refuse,
        };
        Some(Self {
            in_flight,
            max_in_flight: ceiling.max_in_flight,
            hard_max: ceiling.hard(),
            mode: ceiling.mode,
            adaptive: admission.room.adaptive().read().map(adaptive),
        })
    }
}

impl From<&Terms> for PolicySnapshot {
    fn from(terms: &Terms) -> Self {
        let quota = terms.quota();
        Self {
            quota: quota.map(|quota| quota.rate()),
            burst: quota.map(|quota| quota.max_burst()),
            max_in_flight: terms.max_in_flight(),
            weight: terms.weight(),
            mode: terms.mode(),
        }
    }
}

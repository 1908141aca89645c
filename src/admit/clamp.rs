//! Emergency quotas and blocks: set by a person in an incident, over every policy, until they end by themselves.

use std::sync::Arc;

use super::policy::{Block, Mode, Policy};
use super::quota::Quota;
use crate::clock::Timestamp;

/// A quota for one name, or a block, for a while.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Clamp {
    pub(crate) name: String,
    pub(crate) until: Timestamp,
    /// `None` lets nothing through.
    pub(crate) quota: Option<Quota>,
    pub(crate) author: Arc<str>,
}

/// The clamps in force. There are as many as people have set.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Clamps(Vec<Clamp>);

impl Clamps {
    /// Sets a clamp or a block in place of an earlier one of the same name.
    pub(super) fn set(&mut self, clamp: Clamp) {
        self.lift(&clamp.name);
        self.0.push(clamp);
    }

    /// What is in force.
    #[cfg(feature = "dashboard")]
    pub(super) fn held(&self) -> Vec<Clamp> {
        self.0.clone()
    }

    /// Says whether there was one.
    pub(super) fn lift(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|clamp| clamp.name != name);
        self.0.len() < before
    }

    /// Ends what is over; returns the names.
    pub(super) fn end(&mut self, now: Timestamp) -> Vec<String> {
        let over = self.0.iter().filter(|clamp| clamp.until <= now);
        let over: Vec<_> = over.map(|clamp| clamp.name.clone()).collect();
        self.0.retain(|clamp| clamp.until > now);
        over
    }

    /// The quota that goes before all others, for this name.
    pub(super) fn of(&self, name: &str) -> Option<Quota> {
        let clamp = self.0.iter().find(|clamp| clamp.name == name);
        clamp.and_then(|clamp| clamp.quota)
    }

    /// The policy that goes before all others, for a name that is blocked.
    pub(super) fn block_of(&self, name: &str) -> Option<Policy> {
        let mut blocks = self.0.iter().filter(|clamp| clamp.quota.is_none());
        let block = blocks.find(|clamp| clamp.name == name)?;
        Some(Policy {
            block: Some(Block::Until(block.until)),
            allow: Some(false),
            mode: Some(Mode::Enforce),
            ..Policy::default()
        })
    }

    pub(super) fn any(&self) -> bool {
        !self.0.is_empty()
    }
}

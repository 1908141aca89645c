//! Emergency quotas and blocks: set by a person in an incident, over every policy, until they end by themselves.

use super::policy::{Block, Mode, Policy};
use super::quota::Quota;
use crate::clock::Timestamp;

/// A quota for one name, or a block, for a while.
#[derive(Clone, Debug, PartialEq)]
struct Clamp {
    name: String,
    until: Timestamp,
    /// `None` lets nothing through.
    quota: Option<Quota>,
}

/// The clamps in force. There are as many as people have set.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Clamps(Vec<Clamp>);

impl Clamps {
    /// Sets a clamp in place of an earlier one of the same name.
    pub(super) fn set(&mut self, name: &str, quota: Quota, until: Timestamp) {
        self.lift(name);
        self.0.push(Clamp {
            name: name.to_owned(),
            until,
            quota: Some(quota),
        });
    }

    /// Lets nothing of a caller through, in place of an earlier clamp of the same name.
    pub(super) fn block(&mut self, name: &str, until: Timestamp) {
        self.lift(name);
        self.0.push(Clamp {
            name: name.to_owned(),
            until,
            quota: None,
        });
    }

    /// What is in force: whom it holds, to which quota (none is a block), and until when.
    #[cfg(feature = "dashboard")]
    pub(super) fn held(&self) -> Vec<(String, Option<Quota>, Timestamp)> {
        let held = |clamp: &Clamp| (clamp.name.clone(), clamp.quota, clamp.until);
        self.0.iter().map(held).collect()
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

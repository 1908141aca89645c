//! Emergency quotas: set by a person in an incident, over every policy, until they end by themselves.

use super::quota::Quota;
use crate::clock::Timestamp;

/// A quota for one name, for a while.
#[derive(Clone, Debug, PartialEq)]
struct Clamp {
    name: String,
    until: Timestamp,
    quota: Quota,
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
            quota,
        });
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
        clamp.map(|clamp| clamp.quota)
    }

    pub(super) fn any(&self) -> bool {
        !self.0.is_empty()
    }
}

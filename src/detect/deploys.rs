//! Deploys that were announced, for as long as they can explain anything.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::Deploy;

/// Deploys beyond this many are forgotten, oldest first: announcements come from outside.
const MOST: usize = 1024;
/// A deploy this long before an onset may have caused it.
const BEFORE: f64 = 120.0;
/// An onset is an estimate; a deploy may seem to come this long after it.
const AFTER: f64 = 10.0;
/// For so long after its own deploy a caller's change needs less evidence.
const SUSPECT: f64 = 300.0;
/// For so long deploys are kept.
const KEEP: f64 = 3600.0;

#[derive(Debug, Default)]
pub(super) struct Deploys(VecDeque<(Arc<str>, Deploy)>);

impl Deploys {
    pub(super) fn announce(&mut self, caller: &str, version: &str, t: f64) {
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        let version = version.into();
        self.0.push_back((caller.into(), Deploy { version, t }));
    }

    pub(super) fn forget_old(&mut self, now: f64) {
        while self.0.front().is_some_and(|(_, d)| now - d.t > KEEP) {
            self.0.pop_front();
        }
    }

    fn of<'a>(&'a self, caller: &'a str) -> impl Iterator<Item = &'a Deploy> {
        self.0
            .iter()
            .filter(move |(name, _)| &**name == caller)
            .map(|(_, deploy)| deploy)
    }

    /// Whether the caller has deployed lately.
    pub(super) fn suspect(&self, caller: &str, now: f64) -> bool {
        self.of(caller)
            .any(|d| d.t <= now + AFTER && now - d.t <= SUSPECT)
    }

    /// The caller's last deploy that may have caused a change that began at `onset`.
    pub(super) fn explaining(&self, caller: &str, onset: f64) -> Option<Deploy> {
        self.of(caller)
            .filter(|d| d.t >= onset - BEFORE && d.t <= onset + AFTER)
            .max_by(|a, b| a.t.total_cmp(&b.t))
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_callers_own_deploy_around_the_onset_explains_it() {
        let mut deploys = Deploys::default();
        deploys.announce("a", "v1", 100.0);
        deploys.announce("b", "v7", 195.0);
        deploys.announce("a", "v2", 195.0);
        deploys.announce("a", "v3", 215.0);
        let found = deploys.explaining("a", 200.0).unwrap();
        assert_eq!(&*found.version, "v2");
        assert!(deploys.explaining("c", 200.0).is_none());
        assert!(deploys.explaining("a", 400.0).is_none());
        assert!(deploys.suspect("a", 400.0));
        assert!(!deploys.suspect("a", 600.0));
    }

    #[test]
    fn announcements_are_bounded() {
        let mut deploys = Deploys::default();
        for t in 0..10_000 {
            deploys.announce("a", "v", f64::from(t));
        }
        assert_eq!(deploys.0.len(), MOST);
        deploys.forget_old(1e9);
        assert!(deploys.0.is_empty());
    }
}

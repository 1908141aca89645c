//! What upkeep and the snapshot read of the table.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use dashmap::DashMap;

use super::Registry;
use super::entry::{Entry, Trust};
#[cfg(feature = "dashboard")]
use crate::caller::Provenance;
use crate::lock::lock;
use crate::record::route::{RouteHash, RouteRef};
use crate::record::row::Row;
use crate::record::totals::Totals;
use crate::roster::Account;

impl Registry {
    /// What a route by this name is looked up by; `None` for a method that is none.
    pub(crate) fn hash_of_route(&self, name: &str) -> Option<RouteHash> {
        let route = match name.split_once(' ') {
            Some((method, template)) => RouteRef::new(&method.parse().ok()?, template),
            None => RouteRef::UNMATCHED,
        };
        Some(route.hashed(&self.hasher))
    }

    /// The entry of those who have none.
    pub(crate) fn others(&self) -> &Arc<Entry> {
        &self.ours.other
    }

    pub(crate) fn tracked(&self) -> usize {
        self.tracked.load(Ordering::Relaxed)
    }

    pub(crate) fn impersonations(&self) -> u64 {
        self.impersonations.load(Ordering::Relaxed)
    }

    /// Requests that were counted under `__other__`.
    pub(crate) fn overflow(&self) -> u64 {
        self.other_row()
            .with_lanes(|lanes| lanes.iter().map(|lane| lane.ever_started()).sum())
    }

    /// Whom to call about a caller.
    pub(crate) fn account(&self, entry: &Entry) -> Option<Arc<Account>> {
        let proven = entry.trust == Trust::Verified;
        let roster = self.roster.load();
        proven
            .then(|| roster.account(entry.name()))
            .flatten()
            .cloned()
    }

    /// Names without an entry that were new, as far as the sketch can tell.
    pub(crate) fn strangers(&self) -> u64 {
        self.strangers.load(Ordering::Relaxed)
    }

    /// Every entry, the four of ours first.
    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        let ours = [
            &self.ours.other,
            &self.ours.unknown,
            &self.ours.invalid,
            &self.ours.exempt,
        ];
        ours.into_iter()
            .chain(lock(&self.entries).iter())
            .cloned()
            .collect()
    }

    /// Whether the name is that of a proven caller, or on the roster.
    pub(super) fn is_proven(&self, name: &str) -> bool {
        self.verified.contains_key(name) || self.roster.load().account(name).is_some()
    }

    /// The name that a request of this name and provenance is counted under: a claim of a proven name is none of its
    /// account, unless the roster says so.
    #[cfg(feature = "dashboard")]
    pub(crate) fn counted_as(&self, name: &str, provenance: Provenance) -> String {
        let roster = self.roster.load();
        let account = roster.account(name);
        let accepted = account.is_some_and(|account| account.accept_claimed);
        if provenance == Provenance::Verified || accepted || !self.is_proven(name) {
            name.to_owned()
        } else {
            format!("claimed:{name}")
        }
    }

    /// The entry that a request of this name and provenance reaches, if it has one.
    #[cfg(feature = "dashboard")]
    pub(crate) fn reached(&self, name: &str, provenance: Provenance) -> Option<Arc<Entry>> {
        let proven =
            provenance == Provenance::Verified || self.roster.load().account(name).is_some();
        let map = if proven { &self.verified } else { &self.weaker };
        map.get(name).map(|entry| Arc::clone(&entry))
    }

    /// The entry of a caller by its name; the proven one, if a claimed one has the same.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Entry>> {
        if name.starts_with("__") {
            let ours = self.ours.named(name);
            return (ours.name() == name).then(|| Arc::clone(ours));
        }
        let found = |map: &DashMap<_, Arc<Entry>>| map.get(name).map(|entry| Arc::clone(&entry));
        found(&self.verified).or_else(|| found(&self.weaker))
    }

    /// Every row, of callers in the table and of those that are leaving it.
    pub(crate) fn rows(&self) -> Vec<Arc<Row>> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        rows.iter()
            .chain(lock(&self.leaving).iter())
            .cloned()
            .collect()
    }

    /// Counts of rows whose caller has left, whether or not the last request has.
    pub(crate) fn forgotten(&self) -> Totals {
        let leaving = lock(&self.leaving);
        let mut totals = lock(&self.forgotten).clone();
        leaving.iter().for_each(|row| totals.add(&row.totals()));
        totals
    }
}

//! The only place that forgets: who leaves the table, and who gets a row.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::entry::{Entry, Trust};
use super::{Registry, cache};
use crate::clock::Timestamp;
use crate::lock::lock;
use crate::record::route::{Route, RouteRef};
use crate::record::row::Row;

/// So many requests of a name without an entry must be certain before it may displace another.
pub(super) const HEAVY: u32 = 64;
/// A name that is heavy enough tries at every such request.
pub(super) const TRY_EVERY: u32 = 16;
/// A caller without a row tries for one at every such request.
const TRY_ROW_EVERY: u64 = 128;
/// Entries that are looked at for the lightest.
const SAMPLE: usize = 24;

/// Rows beyond the first filling of the table: a recorder can register a series and never remove one.
const REPLACEMENTS: f64 = 16.0;
const REPLACEMENTS_PER_SEC: f64 = 1.0 / 60.0;

/// The places for rows of callers that are not on the roster.
#[derive(Debug)]
pub(crate) struct Places {
    room: usize,
    taken: Vec<Arc<Entry>>,
    /// Labels that were ever handed out.
    labels: usize,
    replacements: f64,
    refilled: Timestamp,
    /// Labels of the reserve that were handed out.
    promoted: usize,
}

impl Places {
    pub(super) fn new(room: usize, now: Timestamp) -> Self {
        Self {
            room,
            taken: Vec::new(),
            labels: 0,
            replacements: REPLACEMENTS,
            refilled: now,
            promoted: 0,
        }
    }

    /// Whether another label may be handed out: the first filling of the table is free, the rest is budgeted.
    fn may_label(&mut self, now: Timestamp) -> bool {
        if self.labels < self.room {
            return true;
        }
        let earned = now.since(self.refilled).as_secs_f64() * REPLACEMENTS_PER_SEC;
        self.replacements = (self.replacements + earned).min(REPLACEMENTS);
        self.refilled = self.refilled.max(now);
        self.replacements >= 1.0
    }

    /// The roster has another length, and the others have what it leaves.
    #[cfg(feature = "config")]
    pub(super) fn set_room(&mut self, room: usize) {
        self.room = room;
    }

    fn take(&mut self, entry: &Arc<Entry>) {
        if self.labels >= self.room {
            self.replacements -= 1.0;
        }
        self.labels += 1;
        self.taken.push(Arc::clone(entry));
    }
}

impl Registry {
    /// Decides once whether a new entry has a row from the beginning. Who finds the entry before that is decided
    /// waits: a first request that another thread was faster with belongs in the row too.
    pub(super) fn place_once(&self, entry: &Arc<Entry>, now: Timestamp) {
        entry.placed.call_once(|| self.give_row_if_room(entry, now));
    }

    /// Gives a new entry a row: always to a caller on the roster, to others while there is room.
    fn give_row_if_room(&self, entry: &Arc<Entry>, now: Timestamp) {
        let Some(label) = self.label(entry) else {
            return;
        };
        // Held until the row is there: who is retired meanwhile would leave it behind.
        let mut places = lock(&self.places);
        if entry.row().is_some() || entry.is_retired() {
            return;
        }
        if !entry.on_roster() {
            if places.taken.len() >= places.room || !places.may_label(now) {
                return;
            }
            places.take(entry);
        }
        self.give_row(entry, &label);
    }

    /// A caller in the table is on the roster from now on, or no longer.
    #[cfg(feature = "config")]
    pub(super) fn set_on_roster(&self, entry: &Arc<Entry>, on_roster: bool) {
        let mut places = lock(&self.places);
        entry.set_on_roster(on_roster);
        places.taken.retain(|taken| !Arc::ptr_eq(taken, entry));
        match entry.row() {
            Some(_) if on_roster => {}
            Some(_) => places.taken.push(Arc::clone(entry)),
            None if on_roster => {
                if let Some(label) = self.label(entry) {
                    self.give_row(entry, &label);
                }
            }
            None => {}
        }
    }

    /// Call it with `places` held.
    fn give_row(&self, entry: &Entry, label: &str) {
        let row = Arc::new(Row::new(label, true));
        self.rows
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&row));
        entry.give_row(row);
    }

    /// Counts a request of a caller that has no row, and gives it one when it has become heavy.
    pub(super) fn started_without_row(&self, entry: &Arc<Entry>, now: Timestamp) {
        if !entry.start().is_multiple_of(TRY_ROW_EVERY) {
            return;
        }
        let Some(label) = self.label(entry) else {
            return;
        };
        let mut places = lock(&self.places);
        // Another thread may have been faster.
        if entry.row().is_some() || entry.is_retired() || !places.may_label(now) {
            return;
        }
        let full = places.taken.len() >= places.room;
        if full && !self.displace(&mut places, entry.weight(), now) {
            return;
        }
        places.take(entry);
        self.give_row(entry, &label);
    }

    /// The lightest idle caller with a row leaves, if it is lighter than this. Says whether one did.
    fn displace(&self, places: &mut Places, weight: f64, now: Timestamp) -> bool {
        let lightest = places.taken.iter().filter(|taken| may_leave(taken, now));
        let lightest = lightest
            .map(|taken| (taken.weight(), taken))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((_, taken)) = lightest.filter(|(least, _)| *least < weight) else {
            return false;
        };
        let taken = Arc::clone(taken);
        self.retire_from(&taken, places)
    }

    /// Gives a caller in a runaway a row: of the reserve while there is one, then that of the lightest idle caller.
    /// Says whether it has one now.
    pub(crate) fn promote(&self, entry: &Arc<Entry>, now: Timestamp) -> bool {
        let Some(label) = self.label(entry) else {
            return false;
        };
        let mut places = lock(&self.places);
        if entry.row().is_some() {
            return true;
        }
        let of_reserve = places.promoted < self.limits.reserved;
        if entry.is_retired() || !(of_reserve || places.may_label(now)) {
            return false;
        }
        let full = places.taken.len() >= places.room + self.limits.reserved;
        if full && !self.displace(&mut places, f64::INFINITY, now) {
            return false;
        }
        if of_reserve {
            places.promoted += 1;
            places.taken.push(Arc::clone(entry));
        } else {
            places.take(entry);
        }
        self.give_row(entry, &label);
        true
    }

    /// Makes room in the table for a name of this weight: the lightest of a sample of idle entries leaves, if it is
    /// lighter. Says whether one did.
    pub(super) fn make_room(&self, weight: f64, now: Timestamp) -> bool {
        let sample: Vec<_> = {
            let entries = lock(&self.entries);
            (0..SAMPLE)
                .filter_map(|_| {
                    entries
                        .get(fastrand::usize(..entries.len().max(1)))
                        .cloned()
                })
                .collect()
        };
        let lightest = sample
            .iter()
            .filter(|entry| may_leave(entry, now))
            .map(|entry| (entry.row().is_some(), entry.weight(), entry))
            .min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        match lightest {
            Some((_, least, entry)) if least < weight => self.retire(entry),
            _ => false,
        }
    }

    /// Takes an entry out of the table. Says whether it was in.
    pub(super) fn retire(&self, entry: &Arc<Entry>) -> bool {
        let mut places = lock(&self.places);
        self.retire_from(entry, &mut places)
    }

    fn retire_from(&self, entry: &Arc<Entry>, places: &mut Places) -> bool {
        let map = match entry.trust {
            Trust::Verified => &self.verified,
            Trust::Weaker => &self.weaker,
            Trust::Ours => return false,
        };
        if entry.on_roster()
            || map
                .remove_if(entry.name(), |_, known| Arc::ptr_eq(known, entry))
                .is_none()
        {
            return false;
        }
        entry.retire();
        {
            let mut entries = lock(&self.entries);
            let slot = entry.slot.load(Ordering::Acquire);
            if entries
                .get(slot)
                .is_some_and(|known| Arc::ptr_eq(known, entry))
            {
                entries.swap_remove(slot);
                if let Some(moved) = entries.get(slot) {
                    moved.slot.store(slot, Ordering::Release);
                }
            }
        }
        self.tracked.fetch_sub(1, Ordering::AcqRel);
        if let Some(row) = entry.row() {
            cache::caller_left();
            places.taken.retain(|taken| !Arc::ptr_eq(taken, entry));
            // A request that found the entry just before still counts in its row: the row leaves when it is at rest.
            lock(&self.leaving).push(Arc::clone(row));
            self.rows
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|known| !Arc::ptr_eq(known, row));
        }
        true
    }

    /// Upkeep of a second: rates, time series, lanes of threads that are gone, entries that have been idle.
    pub(crate) fn roll(&self, now: Timestamp) {
        let idle = self.limits.idle.as_secs();
        for entry in self.entries() {
            let totals = entry.totals();
            {
                let mut pace = entry.pace();
                if pace.rolled_to() >= now.as_secs() {
                    continue;
                }
                pace.roll(now, totals.started);
            }
            match entry.row() {
                Some(row) => {
                    row.roll(now, &totals);
                    row.fold_lanes();
                }
                None if entry.idle_for(now, totals.started) >= idle && may_leave(&entry, now) => {
                    self.retire(&entry);
                }
                None => {}
            }
        }
    }

    /// Lets rows go whose caller has left and whose last request has ended, except for the `keep` that left last;
    /// call it with the lock of the flush, so that nobody reads half. `last` is told their counts once more before
    /// they are gone.
    pub(crate) fn dismiss(&self, keep: usize, mut last: impl FnMut(&Row)) {
        let mut leaving = lock(&self.leaving);
        let mut may_go = leaving.len().saturating_sub(keep);
        leaving.retain(|row| {
            if may_go == 0 {
                return true;
            }
            may_go -= 1;
            row.fold_lanes();
            if !row.is_at_rest() {
                return true;
            }
            last(row);
            let totals = row.totals();
            lock(&self.forgotten).add(&totals);
            // What was not counted on the way in is not given back: `unmatched` and `__other__` need no room.
            let special =
                |route: &Route| route.is(RouteRef::UNMATCHED) || route.is(RouteRef::OTHER);
            let routes = row.routes();
            let pairs = routes.iter().filter(|(route, _)| !special(route)).count();
            let _ = self
                .pairs
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |all| {
                    Some(all.saturating_sub(pairs))
                });
            row.dissolve();
            false
        });
    }
}

/// Only an idle caller leaves, and never one that the operator named, nor one with a debt: to be forgotten must not
/// be an amnesty; nor one in a runaway, whose row is what people look at.
fn may_leave(entry: &Entry, now: Timestamp) -> bool {
    let runs_away = entry.row().is_some_and(|row| row.runaways.are_open());
    let keeps = entry.on_roster() || entry.is_retired() || runs_away || entry.owes(now);
    !keeps && entry.totals().in_flight() == 0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::caller::{Provenance, Source};
    use crate::clock::{ManualClock, Ticker};
    use crate::events::Signal;
    use crate::registry::{Limits, Who};
    use crate::roster::Roster;

    fn table(clock: &ManualClock) -> Registry {
        let limits = Limits {
            reserved: 32,
            ..Limits::of(1_000, 40)
        };
        let roster = Arc::new(Roster::new(Vec::new()).unwrap());
        Registry::new(roster, limits, Ticker::Other(Arc::new(clock.clone())))
    }

    fn entry(table: &Registry, name: &str, now: Timestamp) -> Arc<Entry> {
        let who = Who {
            trust: Trust::Verified,
            name,
            provenance: Provenance::Verified,
            source: Source::Header,
        };
        table.entry(&who, now).unwrap()
    }

    #[test]
    fn the_rows_for_runaways_are_used_again() {
        let clock = ManualClock::at(Timestamp::from_secs(1_000));
        let table = table(&clock);
        let now = table.ticker.now();
        let names: Vec<_> = (0..60).map(|n| format!("c{n}")).collect();
        let entries = names.iter().map(|name| entry(&table, name, now));
        let entries: Vec<_> = entries.collect();
        assert_eq!(entries.iter().filter(|e| e.row().is_some()).count(), 4);
        // One that does not end: its row stays, however light it is.
        let lasting = &entries[4];
        assert!(table.promote(lasting, now));
        lasting.row().unwrap().runaways.note(Signal::Rate, true);
        for (number, entry) in entries.iter().enumerate().skip(5).take(40) {
            let now = clock.advance(Duration::from_secs(600));
            assert!(table.promote(entry, now), "runaway {number} had no row");
            let row = entry.row().unwrap();
            row.runaways.note(Signal::Rate, true);
            table.roll(clock.advance(Duration::from_secs(60)));
            row.runaways.note(Signal::Rate, false);
            assert!(lock(&table.places).taken.len() <= 36);
        }
        assert!(!lasting.is_retired());
        // None is left where all last, and no label is handed out for nothing.
        for entry in lock(&table.places).taken.clone() {
            entry.row().unwrap().runaways.note(Signal::Rate, true);
        }
        let labels = lock(&table.places).labels;
        assert!(!table.promote(&entries[50], table.ticker.now()));
        assert_eq!(lock(&table.places).labels, labels);
    }

    #[test]
    fn a_row_is_in_the_table_for_as_long_as_its_caller_only() {
        let clock = ManualClock::at(Timestamp::from_secs(1_000));
        let table = table(&clock);
        let now = table.ticker.now();
        let rows = table.rows().len();
        let made = |name, on_roster| {
            let caller =
                crate::caller::Caller::new(name, Provenance::Verified, Source::Header, table.id);
            Arc::new(Entry::new(caller, Trust::Verified, on_roster, now))
        };
        // A reload was faster.
        let named = made("named", true);
        table.set_on_roster(&named, true);
        table.place_once(&named, now);
        assert_eq!(table.rows().len(), rows + 1);
        // It left before it was decided whether it has a row.
        let gone = made("gone", true);
        gone.retire();
        table.place_once(&gone, now);
        assert!(gone.row().is_none());
        assert_eq!(table.rows().len(), rows + 1);
    }

    #[test]
    fn labels_for_runaways_are_budgeted() {
        let clock = ManualClock::at(Timestamp::from_secs(1_000));
        let table = table(&clock);
        let now = table.ticker.now();
        let promoted = (0..200)
            .map(|n| entry(&table, &format!("c{n}"), now))
            .filter(|entry| entry.row().is_none() && table.promote(entry, now));
        assert_eq!(promoted.count(), 32 + REPLACEMENTS as usize);
    }
}

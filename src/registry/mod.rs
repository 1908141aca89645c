//! The caller table: names to entries, bounded.
//!
//! | | room | memory |
//! |---|---|---|
//! | tracked callers: identity, counts, rates | 4,096 | at most 1 KiB each |
//! | callers with a row: series, routes, latency, failures | 150, with the four rows of ours | about 55 KiB each, after an hour of traffic |
//! | pairs of caller and route | 1,000 | about 1 KiB each |
//! | names without an entry | any number | 64 KiB in all |
//!
//! A thread on which a caller is hot adds a lane of its own, of about 1 KiB, for at most 1,024 pairs.
//!
//! While there is room, a name gets an entry, and with it a row, at its first request. When the table is full, a
//! heavy-hitter sketch ([`heavy`]) tells which name deserves the place of the lightest idle entry; [`evict`] alone
//! forgets.

mod cache;
#[cfg(feature = "config")]
mod enrol;
pub(crate) mod entry;
pub(crate) mod evict;
pub(crate) mod faces;
mod heavy;
mod label;
mod lanes;
mod place;
mod reading;
pub(crate) mod versions;

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;

use self::cache::{Slot, Wanted};
use self::entry::{Entry, Trust};
use self::evict::Places;
use self::faces::Faces;
use self::heavy::HeavyHitters;
pub(crate) use self::place::Place;
use self::versions::{Said, Sightings};
use crate::caller::{Caller, EXEMPT, INVALID, OTHER, Provenance, Source, UNKNOWN};
use crate::clock::{Ticker, Timestamp};
use crate::lock::lock;
use crate::record::lane::thread_number;
use crate::record::route::{RouteHash, RouteRef};
use crate::record::row::Row;
use crate::record::totals::Totals;
use crate::roster::Roster;

/// How callers whose name is inferred appear in metrics. Addresses are personal data; the snapshot shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InferredLabel {
    /// As a short keyed hash of the name: `ip:5f3a9c1e`.
    #[default]
    Hash,
    /// As they are: `ip:203.0.113.7`.
    Export,
    /// Not at all: they are counted under `__other__`.
    Hide,
}

/// What bounds the table. Not shown, since a secret is among it.
#[derive(Clone)]
pub(crate) struct Limits {
    /// Callers with an entry.
    pub(crate) tracked: usize,
    /// Callers with a row, the four rows of ours included.
    pub(crate) exported: usize,
    /// Rows of these that are kept for callers in a runaway.
    pub(crate) reserved: usize,
    /// Pairs of caller and route.
    pub(crate) pairs: usize,
    /// After this long without a request an entry without a row leaves.
    pub(crate) idle: Duration,
    pub(crate) inferred: InferredLabel,
    pub(crate) inferred_key: Vec<u8>,
}

#[cfg(test)]
impl Limits {
    /// For tests: room for so many callers and rows.
    pub(crate) fn of(tracked: usize, exported: usize) -> Self {
        Self {
            tracked,
            exported,
            reserved: 0,
            pairs: 100,
            idle: Duration::MAX,
            inferred: InferredLabel::Hash,
            inferred_key: Vec::new(),
        }
    }
}

/// Who a request is from, as the pipeline has decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who<'a> {
    pub(crate) trust: Trust,
    pub(crate) name: &'a str,
    pub(crate) provenance: Provenance,
    pub(crate) source: Source,
}

impl<'a> Who<'a> {
    /// A caller on the roster, before its first request.
    fn named(name: &'a str) -> Self {
        Self {
            trust: Trust::Verified,
            name,
            provenance: Provenance::Verified,
            source: Source::None,
        }
    }

    /// One of the rows that are ours.
    pub(crate) fn ours(name: &'a str, source: Source) -> Self {
        Self {
            trust: Trust::Ours,
            name,
            provenance: Provenance::Unknown,
            source,
        }
    }
}

pub(crate) struct Registry {
    id: u64,
    limits: Limits,
    roster: ArcSwap<Roster>,
    ticker: Ticker,
    hasher: foldhash::quality::RandomState,
    route_other: RouteHash,
    verified: DashMap<Box<str>, Arc<Entry>>,
    weaker: DashMap<Box<str>, Arc<Entry>>,
    ours: Ours,
    tracked: AtomicUsize,
    entries: Mutex<Vec<Arc<Entry>>>,
    places: Mutex<Places>,
    rows: RwLock<Vec<Arc<Row>>>,
    /// Rows whose caller has left, until the last request has.
    leaving: Mutex<Vec<Arc<Row>>>,
    /// What was counted in rows that are gone.
    forgotten: Mutex<Totals>,
    pairs: AtomicUsize,
    heavy: HeavyHitters,
    pub(crate) faces: Faces,
    impersonations: AtomicU64,
    /// Names that had no entry and were not known a moment ago.
    strangers: AtomicU64,
    pub(crate) sightings: Sightings,
}

/// The four entries that are always there.
struct Ours {
    other_row: Arc<Row>,
    other: Arc<Entry>,
    unknown: Arc<Entry>,
    invalid: Arc<Entry>,
    exempt: Arc<Entry>,
}

impl Registry {
    pub(crate) fn new(roster: Arc<Roster>, mut limits: Limits, ticker: Ticker) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let now = ticker.now();
        let hasher = foldhash::quality::RandomState::default();
        // A caller on the roster always has a row, and leaves the others theirs.
        let named = roster.len();
        limits.exported = limits.exported.max(named + limits.reserved + 2 * OURS);
        limits.tracked = limits.tracked.max(limits.exported);
        let mut rows = Vec::new();
        let mut ours = |name, source| {
            let caller = Caller::new(name, Provenance::Unknown, source, id);
            let entry = Arc::new(Entry::new(caller, Trust::Ours, true, now));
            let row = Arc::new(Row::new(name, false));
            entry.give_row(Arc::clone(&row));
            rows.push(Arc::clone(&row));
            (entry, row)
        };
        let (other, other_row) = ours(OTHER, Source::None);
        let (unknown, _) = ours(UNKNOWN, Source::None);
        let (invalid, _) = ours(INVALID, Source::Invalid);
        let (exempt, _) = ours(EXEMPT, Source::None);
        let ours = Ours {
            other_row,
            other,
            unknown,
            invalid,
            exempt,
        };
        let room = limits.exported - OURS - limits.reserved - named;
        let registry = Self {
            id,
            limits,
            ticker,
            route_other: RouteRef::OTHER.hashed(&hasher),
            hasher,
            verified: DashMap::new(),
            weaker: DashMap::new(),
            ours,
            tracked: AtomicUsize::new(0),
            entries: Mutex::default(),
            places: Mutex::new(Places::new(room, now)),
            rows: RwLock::new(rows),
            leaving: Mutex::default(),
            forgotten: Mutex::default(),
            pairs: AtomicUsize::new(0),
            heavy: HeavyHitters::new(),
            faces: Faces::new(),
            impersonations: AtomicU64::new(0),
            strangers: AtomicU64::new(0),
            sightings: Sightings::default(),
            roster: ArcSwap::new(Arc::clone(&roster)),
        };
        for account in roster.accounts() {
            let entry = registry.insert(&Who::named(&account.name), true, now);
            if let Some(entry) = entry {
                entry.set_accepts_claims(account.accept_claimed);
            }
        }
        registry
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The roster in force. The request path has it from the pipeline.
    pub(crate) fn roster(&self) -> Arc<Roster> {
        self.roster.load_full()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where a request is counted: one look-up in what this thread remembers, or one in the map.
    #[inline]
    pub(crate) fn place<'s>(
        &self,
        who: &Who<'_>,
        route: RouteRef<'_>,
        said: impl Fn() -> Option<Said<'s>>,
        now: Timestamp,
    ) -> Place {
        let route_hash = route.hashed(&self.hasher);
        let wanted = Wanted {
            hash: self.hash(who, route_hash),
            table: self.id,
            trust: who.trust,
            name: who.name,
            provenance: who.provenance,
            source: who.source,
            route: route_hash,
        };
        let place = match cache::take(&wanted) {
            Some(mut slot) => {
                self.found_again(&mut slot, said, now);
                Place::of(slot)
            }
            None => self.look_up(who, route, &wanted, &said, now),
        };
        if let Some(entry) = place.tracked() {
            self.started_without_row(entry, now);
        }
        place
    }

    /// What is due for a caller that this thread remembers.
    #[inline]
    fn found_again<'s>(
        &self,
        slot: &mut Slot,
        said: impl Fn() -> Option<Said<'s>>,
        now: Timestamp,
    ) {
        if slot.became_hot() {
            slot.lane = slot.lane.row.own_lane(&slot.lane, thread_number());
            slot.caller = slot.caller.detached();
        }
        if slot.is_due_for_version()
            && let Some(said) = said()
        {
            let hash = self.hash_said(&said);
            if slot.said != hash {
                slot.said = hash;
                self.saw(&slot.entry, &said, now);
            }
        }
    }

    fn look_up<'s>(
        &self,
        who: &Who<'_>,
        route: RouteRef<'_>,
        wanted: &Wanted<'_>,
        said: &dyn Fn() -> Option<Said<'s>>,
        now: Timestamp,
    ) -> Place {
        let claim;
        let mut who = *who;
        let roster = self.roster.load();
        if who.trust == Trust::Weaker {
            let account = roster.account(who.name);
            if account.is_some_and(|account| account.accept_claimed) {
                who.trust = Trust::Verified;
            } else if self.is_proven(who.name) {
                // A claim of a proven name never reaches its account.
                let on_roster = u64::from(account.is_some());
                self.impersonations.fetch_add(on_roster, Ordering::Relaxed);
                claim = format!("claimed:{}", who.name);
                who.name = &claim;
            }
        }
        let Some(entry) = self.entry(&who, now) else {
            // No room: the words are this request's own, the counts are everybody's.
            let caller = Caller::new(who.name, who.provenance, who.source, self.id);
            let others = Who {
                trust: Trust::Ours,
                name: OTHER,
                ..who
            };
            return self.place(&others, route, || None, now).said_by(caller);
        };
        let epoch = entry.epoch();
        if who.trust == Trust::Weaker && self.is_proven(entry.name()) {
            // Proven just now: the next request looks again.
            self.retire(&entry);
        }
        // Looked at once: what is counted in `__other__` is counted in the entry too.
        let own = entry.row();
        let rowless = own.is_none();
        let lane = self.lane_of(&entry, own, (route, wanted.route), &who);
        let caller = if entry.caller.source() == who.source && entry.provenance() == who.provenance
        {
            entry.caller.clone()
        } else {
            Caller::new(who.name, who.provenance, who.source, self.id)
        };
        let mut slot = Box::new(Slot::new(wanted, epoch, entry, lane, caller, rowless));
        // A claim of a proven name is never remembered: one of a name on the roster is counted each time.
        // Nor what a roster says that was replaced since: the epoch may be of after that.
        let in_force = Arc::ptr_eq(&roster, &self.roster.load());
        let keep = who.name == wanted.name && in_force && cache::has_room(wanted.hash);
        if keep && let Some(said) = said() {
            slot.said = self.hash_said(&said);
            self.saw(&slot.entry, &said, now);
        }
        slot.keep = keep;
        Place::of(slot)
    }

    /// The entry of a caller, which is made if there is room or if the caller is heavy.
    fn entry(&self, who: &Who<'_>, now: Timestamp) -> Option<Arc<Entry>> {
        let map = match who.trust {
            Trust::Verified => &self.verified,
            Trust::Weaker => &self.weaker,
            Trust::Ours => return Some(Arc::clone(self.ours.named(who.name))),
        };
        let known = map.get(who.name).map(|entry| {
            entry.fetch();
            Arc::clone(&entry)
        });
        if let Some(entry) = known {
            self.place_once(&entry, now);
            return Some(entry);
        }
        if self.tracked.load(Ordering::Relaxed) < self.limits.tracked {
            return self.insert(who, false, now);
        }
        let hash = self.hash(who, self.route_other);
        let certain = self.heavy.count(hash);
        if certain == 1 {
            self.strangers.fetch_add(1, Ordering::Relaxed);
        }
        if certain < evict::HEAVY
            || !certain.is_multiple_of(evict::TRY_EVERY)
            || !self.make_room(f64::from(certain), now)
        {
            return None;
        }
        self.heavy.forget(hash);
        self.insert(who, false, now)
    }

    fn insert(&self, who: &Who<'_>, on_roster: bool, now: Timestamp) -> Option<Arc<Entry>> {
        // A caller on the roster has its place whoever is there already: there are as many as the operator named.
        let room = |tracked: usize| on_roster || tracked < self.limits.tracked;
        let reserve = |tracked: usize| room(tracked).then_some(tracked + 1);
        self.tracked
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, reserve)
            .ok()?;
        let (map, twins) = match who.trust {
            Trust::Verified => (&self.verified, Some(&self.weaker)),
            _ => (&self.weaker, None),
        };
        let mut made = false;
        let entry = Arc::clone(&map.entry(who.name.into()).or_insert_with(|| {
            made = true;
            let caller = Caller::new(who.name, who.provenance, who.source, self.id);
            Arc::new(Entry::new(caller, who.trust, on_roster, now))
        }));
        if !made {
            self.tracked.fetch_sub(1, Ordering::AcqRel);
            self.place_once(&entry, now);
            return Some(entry);
        }
        {
            let mut entries = lock(&self.entries);
            // A claim may have been retired already, by the proven caller of the same name.
            if !entry.is_retired() {
                entry.slot.store(entries.len(), Ordering::Release);
                entries.push(Arc::clone(&entry));
            }
        }
        // A claim that was here first has the proven name: it comes back as `claimed:…`.
        if let Some(twin) =
            twins.and_then(|twins| twins.get(who.name).map(|twin| Arc::clone(&twin)))
        {
            self.retire(&twin);
        }
        self.place_once(&entry, now);
        Some(entry)
    }

    #[inline]
    fn hash(&self, who: &Who<'_>, route: RouteHash) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(who.name.as_bytes());
        let kind = who.trust as u64 | (who.source as u64) << 8 | (who.provenance as u64) << 16;
        hasher.write_u64(route.0 ^ kind);
        hasher.finish()
    }

    fn other_row(&self) -> &Arc<Row> {
        &self.ours.other_row
    }
}

/// How many rows are ours.
pub(crate) const OURS: usize = 4;

impl Ours {
    fn named(&self, name: &str) -> &Arc<Entry> {
        match name {
            UNKNOWN => &self.unknown,
            INVALID => &self.invalid,
            EXEMPT => &self.exempt,
            _ => &self.other,
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        for row in self.rows() {
            row.dissolve();
        }
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("tracked", &self.tracked)
            .finish_non_exhaustive()
    }
}

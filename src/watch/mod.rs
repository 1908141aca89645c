//! Detection on the live service: the table feeds the detector at every tick, and what it finds is said.

pub(crate) mod blame;
mod brake;
pub(crate) mod changes;
mod feed;
pub(crate) mod hand;
mod open;
mod past;
pub(crate) mod report;
mod routes;
mod settings;
pub(crate) mod words;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use self::feed::Feed;
use self::hand::Hand;
pub(crate) use self::open::Expectation;
use self::open::Open;
use self::report::Record;
pub(crate) use self::settings::Settings;
use crate::clock::Timestamp;
use crate::detect::memory::StateError;
use crate::detect::{self, Detector, Tick};
use crate::events::{Body, Change, Event, EventLog, Finding, Kind, Pin};
use crate::lock::lock;
use crate::pipeline::Core;
use crate::record::last_pins::LastPins;
use crate::registry::entry::Entry;
use crate::registry::versions::Sighting;

/// The detector, what it sees, and what it says.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) log: EventLog,
    /// What we changed ourselves.
    pub(crate) ours: LastPins,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    detector: Detector,
    feed: Feed,
    found: Vec<detect::Event>,
    /// Episodes and conditions that have not ended, by the detector's number.
    open: BTreeMap<u64, Open>,
    expected: Vec<Expectation>,
    hands: Vec<Hand>,
    records: VecDeque<Record>,
    /// Whom a clamp has held for as long as it may, and until when it does not again.
    spared: Vec<(Arc<Entry>, Timestamp)>,
}

impl Watch {
    pub(crate) fn new(log: EventLog) -> Self {
        Self {
            log,
            ours: LastPins::default(),
            inner: Mutex::default(),
        }
    }

    /// Looks at what has happened since the last tick, and says what there is to say.
    pub(crate) fn tick(&self, core: &Core, now: Timestamp) {
        let mut inner = lock(&self.inner);
        for sighting in core.registry.sightings.take() {
            self.deployed_by_itself(&mut inner, core, &sighting, now);
        }
        let inner = &mut *inner;
        let load = inner.feed.look(core, now);
        let tick = Tick {
            now,
            load,
            callers: &inner.feed.observed(),
        };
        inner.detector.tick(&tick, &mut inner.found);
        for found in std::mem::take(&mut inner.found) {
            inner.publish(&self.log, core, found, now);
        }
        inner.look_at_expected(&self.log, core, now);
        inner.look_at_paths(&self.log, core, now);
        inner.brake(&self.log, core, now);
        inner.open.values().for_each(|open| open.note_page(core));
    }

    /// Says that a caller has changed something, or that we have. Deploys are evidence.
    pub(crate) fn pin(&self, core: &Core, mut pin: Pin, now: Timestamp) -> Arc<Event> {
        let now = now.as_secs_f64();
        pin.at = pin.at.filter(|at| at.is_finite());
        self.learn(core, &pin, pin.at.unwrap_or(now));
        self.say_pin(Kind::Pin, now, pin)
    }

    /// Takes a pin that was kept or told by another replica.
    #[cfg(feature = "dashboard")]
    pub(crate) fn restore_pin(&self, core: &Core, pin: Pin, said: f64) {
        self.learn(core, &pin, pin.at.unwrap_or(said));
        let id = self.log.fresh_id();
        self.log.say_again(id, said, Kind::Pin, Body::Pin(pin));
    }

    /// A deploy is evidence, and every change is on the time line of the metrics.
    fn learn(&self, core: &Core, pin: &Pin, t: f64) {
        match &pin.caller {
            None => self.ours.note(pin.pin, t),
            Some(caller) => {
                let entry = core.registry.named(caller);
                if let Some(row) = entry.as_ref().and_then(|entry| entry.row()) {
                    row.last_pins.note(pin.pin, t);
                }
            }
        }
        if let (Some(caller), Change::Deploy, Some(version)) = (&pin.caller, pin.pin, &pin.version)
        {
            let at = Timestamp::from_nanos((t.max(0.0) * 1e9) as u64);
            lock(&self.inner).detector.deployed(caller, version, at);
        }
    }

    /// Says that the service has started.
    pub(crate) fn started(&self, version: Option<&str>, now: Timestamp) {
        let mut pin = Pin::new(Change::Deploy).text("started");
        pin.version = version.map(Arc::from);
        self.ours(pin, now);
    }

    /// Says that something of ours has changed.
    pub(crate) fn ours(&self, pin: Pin, now: Timestamp) {
        self.ours.note(pin.pin, now.as_secs_f64());
        self.say_pin(Kind::Ours, now.as_secs_f64(), pin);
    }

    fn say_pin(&self, kind: Kind, t: f64, pin: Pin) -> Arc<Event> {
        self.log.say(self.log.fresh_id(), t, kind, Body::Pin(pin))
    }

    /// Says that a limit was changed.
    pub(crate) fn policy(&self, caller: Option<&str>, change: &str, author: &str, now: Timestamp) {
        let body = Body::Policy {
            caller: caller.map(Arc::from),
            change: change.into(),
            author: author.into(),
        };
        let id = self.log.fresh_id();
        self.log.say(id, now.as_secs_f64(), Kind::Policy, body);
    }

    fn deployed_by_itself(
        &self,
        inner: &mut Inner,
        core: &Core,
        sighting: &Sighting,
        now: Timestamp,
    ) {
        let Sighting { entry, version, at } = sighting;
        inner.detector.deployed(entry.name(), version, *at);
        if let Some(row) = entry.row() {
            row.last_pins.note(Change::Deploy, at.as_secs_f64());
        }
        let name = shown(core, entry);
        let pin = Pin::new(Change::Deploy).caller(&name).version(version);
        let pin = pin.text("first seen in requests").at(at.as_secs_f64());
        self.say_pin(Kind::Pin, now.as_secs_f64(), pin);
    }

    /// The last word on every open episode, the oldest first.
    pub(crate) fn open(&self) -> Vec<Arc<Event>> {
        let inner = lock(&self.inner);
        let mut open: Vec<_> = inner
            .open
            .values()
            .map(|open| Arc::clone(&open.said))
            .collect();
        open.sort_by(|a, b| a.t.total_cmp(&b.t));
        open
    }

    /// The pasts of all callers.
    pub(crate) fn export(&self, now: Timestamp) -> Vec<u8> {
        let inner = lock(&self.inner);
        let feed = &inner.feed;
        inner
            .detector
            .export(now, |id| feed.name(id), |route| feed.route_name(route))
    }

    /// Takes over the pasts of callers.
    pub(crate) fn restore(
        &self,
        core: &Core,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<(), StateError> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let route = |name: &str| inner.feed.number(core, name);
        inner.detector.restore(bytes, now, route)
    }

    /// Announces load: what it explains is said, and wakes nobody.
    pub(crate) fn expect(&self, expectation: Expectation) {
        lock(&self.inner).expect(expectation);
    }
}

/// The name of a caller as events show it: that of the metrics, so that an address stays what it is.
fn shown(core: &Core, entry: &Entry) -> String {
    let label = core.registry.label(entry);
    label.unwrap_or_else(|| crate::caller::OTHER.to_owned())
}

impl Inner {
    /// Says what the detector has found.
    fn publish(&mut self, log: &EventLog, core: &Core, found: detect::Event, now: Timestamp) {
        // A reload may change the provenance of an account while its episode is open.
        let known = self.open.get(&found.id).and_then(|open| open.entry.clone());
        let entry = known.or_else(|| {
            let name = found.caller.as_deref()?;
            self.feed.entry(name, found.provenance)
        });
        let finding = self.finding(core, &found, entry.as_ref(), now);
        match found.kind {
            Kind::RunawayStarted | Kind::ServiceDegraded | Kind::Crowd => {
                if let Some(entry) = &entry {
                    core.registry.promote(entry, now);
                }
                let id = log.fresh_id();
                let open = Open::begin(log, id, found.kind, finding, entry, found.t);
                if found.kind == Kind::RunawayStarted {
                    self.record(core, open.entry.as_ref(), &open.said);
                }
                open.watch_paths(core);
                open.count(core, true);
                self.open.insert(found.id, open);
            }
            Kind::RunawayUpdated => {
                if let Some(open) = self.open.get_mut(&found.id) {
                    open.say(log, found.kind, finding, found.t);
                }
            }
            _ => {
                if let Some(mut open) = self.open.remove(&found.id) {
                    open.say(log, found.kind, finding, found.t);
                    open.forget_paths(core);
                    if let Some(held) = open.held.take() {
                        self.let_go(&held, &open.said, log, core, now);
                    }
                    self.forget_hand(&open);
                    self.close_record(core, &log.events(), &open.said.id);
                    open.count(core, false);
                }
            }
        }
    }

    fn finding(
        &self,
        core: &Core,
        found: &detect::Event,
        entry: Option<&Arc<Entry>>,
        now: Timestamp,
    ) -> Finding {
        let account = entry.and_then(|entry| core.registry.account(entry));
        let text = |text: Option<&String>| text.map(|text| text.as_str().into());
        let caller: Option<Arc<str>> = match entry {
            Some(entry) => Some(shown(core, entry).into()),
            None => found.caller.clone(),
        };
        let known = self
            .open
            .get(&found.id)
            .and_then(|open| open.said.finding());
        Finding {
            owner: text(account.as_ref().and_then(|account| account.owner.as_ref())),
            contact: text(
                account
                    .as_ref()
                    .and_then(|account| account.contact.as_ref()),
            ),
            route: found.route.and_then(|route| self.feed.route(route)),
            pattern: known.and_then(|known| known.pattern),
            expected: self.is_expected(core, entry, found.signal, found.factor, now),
            acknowledged_by: known
                .and_then(|known| known.acknowledged_by.clone())
                .or_else(|| self.in_hand(entry, caller.as_ref(), now)),
            caller,
            provenance: found.provenance,
            signal: found.signal,
            class: found.class,
            factor: found.factor,
            baseline: found.baseline,
            observed: found.observed,
            share_of_rise: found.share_of_rise,
            harm: found.harm,
            deploy: found.deploy.clone(),
            since: found.since,
        }
    }
}

//! What has begun and not ended: episodes, what was announced, and who has taken what in hand.

use std::sync::Arc;

use super::Inner;
use super::brake::Held;
use crate::clock::Timestamp;
use crate::events::{Body, Event, EventLog, Finding, Kind, Signal};
use crate::pipeline::Core;
use crate::record::row::Runaways;
use crate::registry::entry::Entry;

/// Announcements beyond this many are forgotten, oldest first.
const MOST_EXPECTED: usize = 1_024;

/// An episode, or a state of the service, that has not ended.
#[derive(Debug)]
pub(super) struct Open {
    /// The last that was said of it.
    pub(super) said: Arc<Event>,
    /// Who it is.
    pub(super) entry: Option<Arc<Entry>>,
    /// When it was first said.
    pub(super) since: f64,
    pub(super) held: Option<Held>,
    /// How many times its usual load it has been over half a minute, at most.
    most: f64,
}

/// Load that was announced.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expectation {
    pub(crate) caller: String,
    /// Up to so many times the baseline.
    pub(crate) factor: f64,
    pub(crate) until: Timestamp,
    pub(crate) author: Arc<str>,
}

impl Open {
    pub(super) fn begin(
        log: &EventLog,
        id: Arc<str>,
        kind: Kind,
        finding: Finding,
        entry: Option<Arc<Entry>>,
        t: f64,
    ) -> Self {
        Self {
            said: log.say(id, t, kind, Body::Finding(Box::new(finding))),
            entry,
            since: t,
            held: None,
            most: 0.0,
        }
    }

    pub(super) fn say(&mut self, log: &EventLog, kind: Kind, finding: Finding, t: f64) {
        let id = Arc::clone(&self.said.id);
        self.said = log.say(id, t, kind, Body::Finding(Box::new(finding)));
    }

    /// Counts a runaway that begins, or notes that it has ended.
    pub(super) fn count(&self, core: &Core, begins: bool) {
        self.with_runaways(core, |runaways, signal| runaways.note(signal, begins));
    }

    /// Notes whether it is worth waking somebody.
    pub(super) fn note_page(&self, core: &Core) {
        let pages = self.said.finding().is_some_and(Finding::pages);
        self.with_runaways(core, |runaways, signal| runaways.note_page(signal, pages));
    }

    fn with_runaways(&self, core: &Core, note: impl FnOnce(&Runaways, Signal)) {
        let Some(signal) = self.said.finding().and_then(|finding| finding.signal) else {
            return;
        };
        let others = core.registry.others();
        let row = match (self.row(), signal) {
            (_, Signal::Names) => others.row(),
            (row, _) => row,
        };
        if let Some(row) = row {
            note(&row.runaways, signal);
        }
    }

    fn row(&self) -> Option<&Arc<crate::record::row::Row>> {
        self.entry.as_ref()?.row()
    }

    pub(super) fn watch_paths(&self, core: &Core) {
        if let Some(row) = self.row() {
            core.paths.watch(row);
        }
    }

    pub(super) fn forget_paths(&self, core: &Core) {
        if let Some(row) = self.row() {
            core.paths.forget(row);
        }
    }
}

impl Inner {
    /// Says what the paths of runaways look like, once they look like something.
    pub(super) fn look_at_paths(&mut self, log: &EventLog, core: &Core, now: Timestamp) {
        if !core.paths.are_watched() {
            return;
        }
        for open in self.open.values_mut() {
            // Where the suspect route has no parameter, its keys are not in the path.
            let plain = |route: &Arc<str>| !route.contains(['{', ':', '*']);
            let Some(finding) = open.said.finding().filter(|finding| {
                finding.pattern.is_none() && !finding.route.as_ref().is_some_and(plain)
            }) else {
                continue;
            };
            let Some(pattern) = open.row().and_then(|row| core.paths.pattern(row)) else {
                continue;
            };
            let finding = Finding {
                pattern: Some(pattern),
                ..finding.clone()
            };
            open.say(log, Kind::RunawayUpdated, finding, now.as_secs_f64());
        }
    }

    pub(super) fn expect(&mut self, expectation: Expectation) {
        self.expected
            .retain(|known| known.caller != expectation.caller);
        if self.expected.len() >= MOST_EXPECTED {
            self.expected.remove(0);
        }
        self.expected.push(expectation);
    }

    /// What was announced may end, be exceeded, or be announced when it has begun.
    pub(super) fn look_at_expected(&mut self, log: &EventLog, core: &Core, now: Timestamp) {
        for (id, open) in &mut self.open {
            open.most = open.most.max(self.detector.factor(*id).unwrap_or_default());
        }
        let turned = |(id, open): (&u64, &Open)| {
            let finding = open.said.finding()?;
            let factor = finding.factor.map(|factor| factor.max(open.most));
            let expected = self.is_expected(core, open.entry.as_ref(), finding.signal, factor, now);
            (expected != finding.expected).then_some(*id)
        };
        let turned: Vec<u64> = self.open.iter().filter_map(turned).collect();
        for id in turned {
            if let Some(open) = self.open.get_mut(&id)
                && let Some(finding) = open.said.finding()
            {
                let finding = Finding {
                    expected: !finding.expected,
                    ..finding.clone()
                };
                open.say(log, Kind::RunawayUpdated, finding, now.as_secs_f64());
            }
        }
    }

    /// Whether load was announced that explains a finding: more requests, or more of them at once.
    pub(super) fn is_expected(
        &self,
        core: &Core,
        entry: Option<&Arc<Entry>>,
        signal: Option<Signal>,
        factor: Option<f64>,
        now: Timestamp,
    ) -> bool {
        let Some(entry) = entry else {
            return false;
        };
        let load = matches!(signal, Some(Signal::Rate | Signal::InFlight));
        let explains =
            |most: f64, until: Timestamp| now < until && factor.is_none_or(|factor| factor <= most);
        let account = core.registry.account(entry);
        let written = account.and_then(|account| account.expect);
        let written = written.is_some_and(|expect| explains(expect.factor, expect.until));
        let mut said = self
            .expected
            .iter()
            .filter(|said| said.caller == entry.name());
        load && (written || said.any(|said| explains(said.factor, said.until)))
    }
}

//! Who has which runaway in hand: all signals of that caller, also those that show later.

use std::sync::Arc;

#[cfg(feature = "dashboard")]
use super::open::Expectation;
use super::open::Open;
use super::{Inner, Watch};
use crate::clock::Timestamp;
use crate::events::{EventLog, Finding, Kind};
use crate::lock::lock;
use crate::registry::entry::Entry;

/// Seconds after which a signal that begins is news again, unless another has not ended since.
pub(crate) const LASTS: f64 = 15.0 * 60.0;
/// Runaways in hand beyond this many are forgotten, oldest first.
const MOST: usize = 256;

/// A caller whose runaway somebody has in hand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hand {
    /// As events call it.
    pub(crate) caller: Arc<str>,
    pub(crate) author: Arc<str>,
    /// Since when, in Unix seconds.
    pub(crate) t: f64,
    /// Whether it was said here: then it ends here, with the runaway.
    pub(crate) here: bool,
}

#[cfg(feature = "dashboard")]
impl Watch {
    /// Announced load and runaways in hand that are not over; none while somebody else looks, who may be waiting for us.
    pub(crate) fn said(&self, now: Timestamp) -> Option<(Vec<Expectation>, Vec<Hand>)> {
        let inner = self.inner.try_lock().ok()?;
        let expected = inner.expected.iter().filter(|of| now < of.until);
        let now = now.as_secs_f64();
        let hands = inner.hands.iter().filter(|hand| hand.lasts(now));
        Some((expected.cloned().collect(), hands.cloned().collect()))
    }

    /// Takes over what was said before a restart, or on another replica.
    pub(crate) fn take_in_hand(&self, hand: Hand, now: Timestamp) {
        let mut inner = lock(&self.inner);
        let of_caller = |open: &&mut Open| {
            let finding = open.said.finding();
            finding.is_some_and(|finding| {
                finding.caller.as_ref() == Some(&hand.caller) && finding.acknowledged_by.is_none()
            })
        };
        for open in inner.open.values_mut().filter(of_caller) {
            open.take(&self.log, &hand.author, now);
        }
        inner.keep_hand(hand);
    }

    /// Another replica says that it is over.
    #[cfg(feature = "redis")]
    pub(crate) fn let_out_of_hand(&self, caller: &str) {
        lock(&self.inner)
            .hands
            .retain(|hand| *hand.caller != *caller);
    }
}

impl Watch {
    /// Takes a runaway in hand. Says whether there is one of this id.
    pub(crate) fn acknowledge(&self, id: &str, author: &str, now: Timestamp) -> bool {
        let mut inner = lock(&self.inner);
        let mut of_id = inner.open.values_mut().filter(|open| *open.said.id == *id);
        let Some(open) = of_id.next() else {
            return false;
        };
        let author = Arc::from(author);
        open.take(&self.log, &author, now);
        if let Some(caller) = open.said.caller().map(Arc::from) {
            inner.keep_hand(Hand {
                caller,
                author,
                t: now.as_secs_f64(),
                here: true,
            });
        }
        true
    }
}

impl Hand {
    fn lasts(&self, now: f64) -> bool {
        now - self.t < LASTS
    }
}

impl Open {
    /// Says who has it in hand.
    fn take(&mut self, log: &EventLog, author: &Arc<str>, now: Timestamp) {
        let Some(finding) = self.said.finding() else {
            return;
        };
        let finding = Finding {
            acknowledged_by: Some(Arc::clone(author)),
            ..finding.clone()
        };
        // A state of the service is no runaway.
        let kind = match self.said.kind {
            kind @ (Kind::ServiceDegraded | Kind::Crowd) => kind,
            _ => Kind::RunawayUpdated,
        };
        self.say(log, kind, finding, now.as_secs_f64());
    }
}

impl Inner {
    fn keep_hand(&mut self, hand: Hand) {
        self.hands.retain(|known| known.caller != hand.caller);
        if self.hands.len() >= MOST {
            self.hands.remove(0);
        }
        self.hands.push(hand);
    }

    /// Who has a runaway of this caller in hand.
    pub(super) fn in_hand(
        &self,
        entry: Option<&Arc<Entry>>,
        caller: Option<&Arc<str>>,
        now: Timestamp,
    ) -> Option<Arc<str>> {
        let (entry, caller) = (entry?, caller?);
        let now = now.as_secs_f64();
        let mut hands = self.hands.iter();
        let hand = hands.find(|hand| hand.caller == *caller && hand.lasts(now));
        hand.map(|hand| Arc::clone(&hand.author)).or_else(|| {
            let mut open = self.open_of(entry);
            open.find_map(|open| open.said.finding()?.acknowledged_by.clone())
        })
    }

    fn open_of(&self, entry: &Arc<Entry>) -> impl Iterator<Item = &Open> {
        let of_caller = move |open: &&Open| {
            let known = open.entry.as_ref();
            known.is_some_and(|known| Arc::ptr_eq(known, entry))
        };
        self.open.values().filter(of_caller)
    }

    /// With the last episode of a caller its runaway is out of hand.
    pub(super) fn forget_hand(&mut self, ended: &Open) {
        let (Some(entry), Some(caller)) = (&ended.entry, ended.said.caller()) else {
            return;
        };
        if self.open_of(entry).next().is_none() {
            self.hands
                .retain(|hand| !hand.here || *hand.caller != *caller);
        }
    }
}

//! What a person has said on one replica holds on all, through the Redis of the fleet.
//!
//! What all share is one document. A replica that learns of a new one does what has changed in it, and tells what it
//! has changed itself: three-way, against what was the same the last time.

use std::io;
use std::sync::Arc;

use serde_json::Map;

use crate::admit::fleet::board::{Board, Note, Put};
use crate::clock::Timestamp;
use crate::events::{Body, PROGRAM, RELEASED};
use crate::kept::{Brake, Expected, InHand, Keeper, Kept, KeptPin, PINS, Released};
use crate::lock::lock;
use crate::upkeep::Upkeep;
use crate::watch::hand::LASTS;

/// Seconds within which the same pin of two replicas is one: each notices a deploy by itself.
const SAME_PIN: f64 = 60.0;
/// Seconds after its end that a brake is kept, since clocks differ.
const OVER: f64 = 60.0;
/// Blocks and clamps, announcements, runaways in hand that are shared.
const MOST: usize = 1_000;

impl Keeper {
    /// Puts it where all replicas see it; false where another was first, whose version is known then.
    pub(crate) fn publish(&self, next: &Kept) -> io::Result<bool> {
        let Some(board) = self.board() else {
            return Ok(false);
        };
        let token = lock(&self.token).clone();
        match board.put(token, &serde_json::to_string(next)?) {
            Put::Done(token) => *lock(&self.token) = token,
            Put::Other(note) => {
                self.adopt(note);
                return Ok(false);
            }
            Put::Away => {
                let what = "the Redis of the fleet does not answer";
                return Err(io::Error::new(io::ErrorKind::NotConnected, what));
            }
            Put::TooLarge => return Err(io::Error::other("it is too large to be shared")),
        }
        Ok(true)
    }

    /// Takes over what others have written. What makes no sense is told to be gone, and is overwritten.
    fn adopt(&self, note: Note) {
        if !note.text.is_empty() {
            match serde_json::from_str(&note.text) {
                Ok(kept) => *self.kept() = kept,
                Err(error) => {
                    tracing::error!(%error, "callerid: what replicas share makes no sense; it is written anew");
                }
            }
        }
        *lock(&self.token) = note.token;
    }

    /// Where replicas share it, while there is a fleet with a Redis.
    pub(crate) fn board(&self) -> Option<&Arc<Board>> {
        self.board.as_ref().filter(|board| board.is_there())
    }

    /// Whether changes are made on all replicas, as far as is known.
    pub(crate) fn is_shared(&self) -> bool {
        self.board().is_some_and(|board| board.is_up())
    }
}

impl Kept {
    /// Notes who has ended the brake of a caller, or that it has another.
    pub(crate) fn release(&mut self, caller: &str, author: Option<&str>, now: f64) {
        self.released
            .retain(|of| of.caller != caller && of.t > now - OVER);
        self.released.extend(author.map(|author| Released {
            caller: caller.to_owned(),
            author: author.to_owned(),
            t: now,
            more: Map::new(),
        }));
    }
}

/// What was said of a caller, one thing at a time.
trait Said: Clone {
    fn caller(&self) -> &str;
    /// Another version may round times to seconds.
    fn same(&self, other: &Self) -> bool;
    fn until(&self) -> f64;
}

impl Said for Brake {
    fn caller(&self) -> &str {
        &self.caller
    }

    fn same(&self, other: &Self) -> bool {
        self.quota == other.quota && (self.until - other.until).abs() < 1.5
    }

    fn until(&self) -> f64 {
        self.until
    }
}

impl Said for Expected {
    fn caller(&self) -> &str {
        &self.caller
    }

    fn same(&self, other: &Self) -> bool {
        self.factor == other.factor && (self.until - other.until).abs() < 1.5
    }

    fn until(&self) -> f64 {
        self.until
    }
}

impl Said for InHand {
    fn caller(&self) -> &str {
        &self.caller
    }

    fn same(&self, other: &Self) -> bool {
        self.author == other.author && (self.t - other.t).abs() < 1.5
    }

    fn until(&self) -> f64 {
        self.t + LASTS
    }
}

/// By caller: what there is now, or that there is nothing any more.
type Changes<T> = Vec<(String, Option<T>)>;

/// What was changed here and what was changed there, since both were the same. Where both were, it is what is here.
fn changes<T: Said>(here: &[T], there: &[T], before: &[T], now: f64) -> (Changes<T>, Changes<T>) {
    let (mut own, mut news) = (Vec::new(), Vec::new());
    let lists = [here, there, before];
    let mut callers: Vec<_> = lists.into_iter().flatten().map(T::caller).collect();
    callers.sort_unstable();
    callers.dedup();
    let find = |list: &[T], caller: &str| {
        let mut lasting = list.iter().filter(|of| of.until() > now);
        lasting.find(|of| of.caller() == caller).cloned()
    };
    let same = |a: &Option<T>, b: &Option<T>| match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.same(b),
        _ => false,
    };
    for caller in callers {
        let (here, there) = (find(here, caller), find(there, caller));
        if same(&here, &there) {
            continue;
        }
        if same(&here, &find(before, caller)) {
            news.push((caller.to_owned(), there));
        } else {
            own.push((caller.to_owned(), here));
        }
    }
    (own, news)
}

fn change<T: Said>(list: &mut Vec<T>, changes: &Changes<T>, now: f64) {
    for (caller, new) in changes {
        list.retain(|known| known.caller() != caller);
        list.extend(new.clone());
    }
    list.retain(|of| of.until() > now - OVER);
    let many = list.len().saturating_sub(MOST);
    list.drain(..many);
}

/// What this replica has changed by itself.
#[derive(Default)]
struct Own {
    brakes: Changes<Brake>,
    /// Who has released whom.
    authors: Vec<(String, Arc<str>)>,
    expected: Changes<Expected>,
    hands: Changes<InHand>,
    pins: Vec<KeptPin>,
}

impl Own {
    fn is_empty(&self) -> bool {
        self.brakes.is_empty()
            && self.expected.is_empty()
            && self.hands.is_empty()
            && self.pins.is_empty()
    }

    fn add_to(&self, kept: &mut Kept, now: f64) {
        change(&mut kept.brakes, &self.brakes, now);
        for (caller, _) in &self.brakes {
            let mut authors = self.authors.iter();
            let author = authors.find(|(of, _)| of == caller);
            kept.release(caller, author.map(|(_, author)| &**author), now);
        }
        change(&mut kept.expected, &self.expected, now);
        change(&mut kept.hands, &self.hands, now);
        for pin in &self.pins {
            if !kept.pins.iter().any(|known| same_pin(known, pin)) {
                kept.pins.push(pin.clone());
            }
        }
        kept.pins.sort_by(|a, b| a.t.total_cmp(&b.t));
        let many = kept.pins.len().saturating_sub(PINS);
        kept.pins.drain(..many);
    }
}

fn same_pin(a: &KeptPin, b: &KeptPin) -> bool {
    (a.t - b.t).abs() < SAME_PIN
        && (&a.caller, &a.pin, &a.version, &a.text, a.on)
            == (&b.caller, &b.pin, &b.version, &b.text, b.on)
}

impl Upkeep {
    /// Learns what the other replicas have done, and tells them what was done here. Waits for nothing.
    pub(crate) fn share(&self, now: Timestamp) {
        let Some(board) = self.keeper.board() else {
            return;
        };
        let Some(alone) = self.keeper.try_alone() else {
            return;
        };
        let known = lock(&self.keeper.token).clone();
        let news = board.news().filter(|note| note.token != known);
        let learned = news.is_some();
        if let Some(note) = news {
            self.keeper.adopt(note);
        }
        let token = lock(&self.keeper.token).clone();
        board.look(token.clone());
        if !board.is_up() && !learned {
            return;
        }
        let own = self.merge(now);
        let kept = self.keeper.kept().clone();
        drop(alone);
        let has = !own.is_empty();
        let gone = board.is_up() && token.len() < 32 && kept != Kept::default();
        if !(has || gone || learned && self.keeper.has_file()) || !self.keeper.begin() {
            return;
        }
        let keeper = Arc::clone(&self.keeper);
        let now = now.as_secs_f64();
        let work = move || {
            // Where it fails, the next tick finds the same to do.
            let told = keeper.change(|kept| {
                own.add_to(kept, now);
                Ok::<_, io::Error>(())
            });
            if let Err(error) = told {
                tracing::debug!(%error, "callerid: what was done here is not shared yet");
            }
            if let (true, Some(_alone)) = (gone, keeper.try_alone()) {
                let kept = keeper.kept().clone();
                let missing = lock(&keeper.token).len() < 32;
                let told = if missing {
                    keeper.publish(&kept)
                } else {
                    Ok(true)
                };
                if let Err(error) = told {
                    tracing::debug!(%error, "callerid: what is shared is not written anew yet");
                }
            }
            if learned {
                keeper.save();
            }
            keeper.end();
        };
        let thread = std::thread::Builder::new().name("callerid-state".into());
        if thread.spawn(work).is_err() {
            self.keeper.end();
        }
    }

    /// Who has released a caller here; none where its brake has ended by itself.
    fn releaser(&self, caller: &str) -> Option<Arc<str>> {
        let events = self.watch.log.events();
        events.iter().rev().find_map(|event| match &event.body {
            Body::Policy {
                caller: Some(of),
                change,
                author,
            } if **of == *caller => Some((&**change == RELEASED).then(|| Arc::clone(author))),
            _ => None,
        })?
    }

    /// Does here what others have done, and says what was done here.
    fn merge(&self, now: Timestamp) -> Own {
        let seconds = now.as_secs_f64();
        let theirs = self.keeper.kept().clone();
        let mut own = Own::default();
        let Some(ours) = self.said(now) else {
            return own;
        };
        let own_pins = ours.pins;
        let mut base = lock(&self.keeper.base);
        let news;
        (own.brakes, news) = changes(&ours.brakes, &theirs.brakes, &base.brakes, seconds);
        let gone = own.brakes.iter().filter(|(_, brake)| brake.is_none());
        own.authors = gone
            .filter_map(|(caller, _)| Some((caller.clone(), self.releaser(caller)?)))
            .collect();
        for (caller, brake) in news {
            let mut released = theirs.released.iter().rev();
            let by = released.find(|of| of.caller == caller);
            let (change, author) = match &brake {
                Some(brake) if self.hold(brake, now) => {
                    ("held, as on the other replicas", brake.author.as_str())
                }
                None if self.core.admission.lift_clamp(&caller, now) => {
                    let author = by.map_or(PROGRAM, |by| by.author.as_str());
                    ("released, as on the other replicas", author)
                }
                _ => continue,
            };
            self.watch.policy(Some(&caller), change, author, now);
        }
        let news;
        (own.expected, news) = changes(&ours.expected, &theirs.expected, &base.expected, seconds);
        for expected in news.into_iter().filter_map(|(_, expected)| expected) {
            self.expect(&expected, "as on the other replicas", now);
        }
        let news;
        (own.hands, news) = changes(&ours.hands, &theirs.hands, &base.hands, seconds);
        for (caller, hand) in news {
            match hand {
                Some(hand) => self.take_in_hand(&hand, false, now),
                None => self.watch.let_out_of_hand(&caller),
            }
        }
        for pin in &theirs.pins {
            let known = base.pins.iter().chain(&own_pins);
            if !known.into_iter().any(|known| same_pin(known, pin)) {
                self.restore_pin(pin.clone());
            }
        }
        // What had to make room is not told again.
        let full = theirs.pins.len() >= PINS;
        let oldest = theirs.pins.first().map_or(0.0, |pin| pin.t);
        for pin in own_pins {
            if full && pin.t < oldest {
                continue;
            }
            let known = base.pins.iter().chain(&theirs.pins);
            if !known.into_iter().any(|known| same_pin(known, &pin)) {
                own.pins.push(pin);
            }
        }
        base.brakes = theirs.brakes;
        base.expected = theirs.expected;
        base.hands = theirs.hands;
        base.pins = theirs.pins;
        own
    }
}

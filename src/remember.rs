//! What a person has said is kept, and comes back after a restart.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Map;

use crate::admit::{Clamp, Quota};
use crate::builder::Builder;
use crate::callers::Callers;
use crate::clock::Timestamp;
use crate::events::{Body, Change, Event, Kind, Pin};
use crate::incidents::{Incident, Post, PostError};
use crate::kept::{Brake, Expected, InHand, Keeper, Kept, KeptPin, PINS, instant, seconds};
#[cfg(feature = "redis")]
use crate::lock::lock;
use crate::upkeep::Upkeep;
use crate::watch::Expectation;
use crate::watch::hand::Hand;

/// Why something that a person said was not done.
#[derive(Debug)]
#[non_exhaustive]
pub enum ChangeError {
    /// It makes no sense.
    Post(PostError),
    /// It could not be kept, so it was not done.
    Keep(io::Error),
}

impl From<io::Error> for ChangeError {
    fn from(error: io::Error) -> Self {
        Self::Keep(error)
    }
}

impl From<PostError> for ChangeError {
    fn from(error: PostError) -> Self {
        Self::Post(error)
    }
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Post(error) => error.fmt(f),
            Self::Keep(error) if error.kind() == io::ErrorKind::NotConnected => {
                write!(f, "the shared state is unavailable: {error}")
            }
            Self::Keep(error) => write!(f, "the state file could not be written: {error}"),
        }
    }
}

impl std::error::Error for ChangeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Post(_) => None,
            Self::Keep(error) => Some(error),
        }
    }
}

impl Builder {
    /// Where incidents, pins, clamps, blocks, announced load and what somebody has in hand are kept over a restart: a
    /// small file that is replaced as a whole.
    /// Without it they are kept in memory alone. One process writes it; others may read it, as
    /// [`StatusPage`](crate::dashboard::StatusPage) does. [`Builder::build`] fails where it is no regular file, or no
    /// file could be written beside it.
    #[cfg_attr(docsrs, doc(cfg(feature = "dashboard")))]
    pub fn state_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = Some(path.into());
        self
    }

    /// What was kept before.
    pub(crate) fn keeper(&mut self) -> Result<Keeper, String> {
        let Some(path) = self.state_file.take() else {
            return Ok(Keeper::default());
        };
        Keeper::open(path).map_err(|problem| format!("state_file: {problem}"))
    }
}

impl Callers {
    /// Where a change that is kept is in force: `fleet` or `replica`.
    pub(crate) fn scope(&self) -> &'static str {
        #[cfg(feature = "redis")]
        if self.upkeep().keeper.is_shared() {
            return "fleet";
        }
        "replica"
    }

    /// Incidents, oldest first: at most 200.
    #[must_use]
    #[cfg_attr(docsrs, doc(cfg(feature = "dashboard")))]
    pub fn incidents(&self) -> Vec<Incident> {
        let kept = self.upkeep().keeper.kept();
        kept.incidents.iter().cloned().collect()
    }

    /// Opens an incident, or adds to one. It is an event, and on the status page at once. Writes the state file, if
    /// there is one, before it returns.
    ///
    /// # Errors
    ///
    /// What was posted makes no sense, or could not be written; then nothing has changed.
    #[cfg_attr(docsrs, doc(cfg(feature = "dashboard")))]
    pub fn post_incident(&self, post: Post) -> Result<Incident, ChangeError> {
        let now = self.now().as_secs_f64();
        let log = &self.upkeep().watch.log;
        let id = log.fresh_id();
        let posted = self.upkeep().keeper.change(|kept| {
            log.service.as_ref().clone_into(&mut kept.service);
            let short = id.rsplit('/').next().unwrap_or_default();
            let own = format!("{}-{short}", log.instance);
            Ok::<_, ChangeError>(
                kept.incidents
                    .post(post.clone(), &own, self.author(), now)?,
            )
        })?;
        let json = serde_json::to_string(&posted).unwrap_or_else(|_| "{}".to_owned());
        let last = posted.updates.last().map_or("", |last| last.body.as_str());
        let said = format!("{} ({}) {last}", posted.name, posted.state.as_str());
        let body = Body::Incident {
            incident: json.into(),
            said: said.trim_end().into(),
            author: self.author().into(),
        };
        log.say(id, now, Kind::Incident, body);
        log.tell();
        Ok(posted)
    }

    /// Keeps a brake, or forgets the one that there is. Does not set it.
    pub(crate) fn keep_brake(&self, caller: &str, brake: Option<Brake>) -> io::Result<()> {
        self.upkeep().keeper.change(|kept| {
            kept.brakes.retain(|known| known.caller != caller);
            kept.brakes.extend(brake.clone());
            #[cfg(feature = "redis")]
            if self.upkeep().keeper.board().is_some() {
                let author = brake.is_none().then(|| self.author());
                kept.release(caller, author, self.now().as_secs_f64());
            }
            Ok(())
        })
    }

    /// Clamps and blocks in force.
    pub(crate) fn brakes(&self) -> Vec<Brake> {
        self.upkeep().brakes()
    }
}

impl Brake {
    /// A clamp to a rate, or a block.
    pub(crate) fn new(caller: &str, quota: Option<Quota>, until: Timestamp, author: &str) -> Self {
        // `500/s, burst 500` is how a quota is shown; the rate is how it is written.
        let rate = |quota: Quota| {
            let text = quota.to_string();
            text.split(',').next().unwrap_or_default().to_owned()
        };
        Self {
            caller: caller.to_owned(),
            quota: quota.map(rate),
            until: seconds(until),
            author: author.to_owned(),
            more: Map::new(),
        }
    }
}

impl Upkeep {
    pub(crate) fn with_keeper(mut self, keeper: Keeper) -> Self {
        #[cfg(feature = "redis")]
        let keeper = {
            let mut keeper = keeper;
            let part = self.core.admission.fleet();
            keeper.board = part.map(|part| Arc::clone(part.board()));
            let kept = keeper.kept().clone();
            *lock(&keeper.base) = kept;
            keeper
        };
        self.keeper = Arc::new(keeper);
        self
    }

    /// Puts in force and on the time line what was kept.
    pub(crate) fn restore(&self, now: Timestamp) {
        let kept = self.keeper.kept().clone();
        for pin in kept.pins {
            self.restore_pin(pin);
        }
        for brake in kept.brakes {
            if self.hold(&brake, now) {
                let change = "still held, as before the restart";
                self.watch
                    .policy(Some(&brake.caller), change, &brake.author, now);
            }
        }
        for expected in &kept.expected {
            self.expect(expected, "as before the restart", now);
        }
        for hand in &kept.hands {
            self.take_in_hand(hand, true, now);
        }
    }

    /// Announces load, unless its time is over.
    pub(crate) fn expect(&self, expected: &Expected, how: &str, now: Timestamp) {
        let until = instant(expected.until);
        let factor = expected.factor;
        if until <= now || !factor.is_finite() {
            return;
        }
        self.watch.expect(Expectation {
            caller: expected.caller.clone(),
            factor,
            until,
            author: expected.author.as_str().into(),
        });
        let change = format!("up to {factor} times the load expected, {how}");
        let caller = Some(&*expected.caller);
        self.watch.policy(caller, &change, &expected.author, now);
    }

    pub(crate) fn take_in_hand(&self, hand: &InHand, here: bool, now: Timestamp) {
        let hand = Hand {
            caller: hand.caller.as_str().into(),
            author: hand.author.as_str().into(),
            t: hand.t,
            here,
        };
        self.watch.take_in_hand(hand, now);
    }

    /// What people have said and what holds, but for incidents; none where it is being changed.
    pub(crate) fn said(&self, now: Timestamp) -> Option<Kept> {
        let (expected, hands) = self.watch.said(now)?;
        let expected = expected.into_iter().map(|of| Expected {
            caller: of.caller,
            factor: of.factor,
            until: seconds(of.until),
            author: of.author.as_ref().into(),
            more: Map::new(),
        });
        let hands = hands.into_iter().map(|hand| InHand {
            caller: hand.caller.as_ref().into(),
            author: hand.author.as_ref().into(),
            t: hand.t,
            more: Map::new(),
        });
        Some(Kept {
            brakes: self.brakes(),
            pins: pins(&self.watch.log.events()),
            expected: expected.collect(),
            hands: hands.collect(),
            ..Kept::default()
        })
    }

    pub(crate) fn restore_pin(&self, pin: KeptPin) {
        let restored = Pin {
            caller: pin.caller.as_deref().map(Into::into),
            pin: change_named(&pin.pin),
            version: pin.version.as_deref().map(Into::into),
            text: pin.text.as_deref().map(Into::into),
            on: pin.on,
            at: Some(pin.t),
            author: pin.author.as_deref().map(Into::into),
        };
        let said = pin.said.unwrap_or(pin.t);
        self.watch.restore_pin(&self.core, restored, said);
    }

    /// Sets a brake, unless it is over or makes no sense.
    pub(crate) fn hold(&self, brake: &Brake, now: Timestamp) -> bool {
        let until = instant(brake.until);
        if until <= now || !brake.until.is_finite() {
            return false;
        }
        let quota = match brake.quota.as_deref().map(str::parse::<Quota>) {
            None => None,
            Some(Ok(quota)) if quota.problem().is_none() => Some(quota),
            Some(_) => return false,
        };
        let clamp = Clamp {
            name: brake.caller.clone(),
            until,
            quota,
            author: brake.author.as_str().into(),
        };
        self.core.admission.clamp(clamp, now);
        true
    }

    pub(crate) fn brakes(&self) -> Vec<Brake> {
        let held = self.core.admission.held();
        let brakes = held.iter();
        brakes
            .map(|of| Brake::new(&of.name, of.quota, of.until, &of.author))
            .collect()
    }

    /// Keeps what has changed, now. What replicas share is told by the next tick.
    pub(crate) fn remember_now(&self) -> io::Result<()> {
        #[cfg(feature = "redis")]
        if self.keeper.board().is_some() {
            return Ok(());
        }
        match self.said(self.core.ticker.now()) {
            Some(said) if self.keeper.has_file() => keep(&self.keeper, &said),
            _ => Ok(()),
        }
    }

    /// Keeps what has changed since the last time, on a thread of its own: a disk that hangs stalls nothing.
    pub(crate) fn remember(&self) {
        #[cfg(feature = "redis")]
        if self.keeper.board().is_some() {
            return;
        }
        if !self.keeper.has_file() {
            return;
        }
        let Some(said) = self.said(self.core.ticker.now()) else {
            return;
        };
        let same = |kept: &Kept| {
            (&kept.brakes, &kept.pins, &kept.expected, &kept.hands)
                == (&said.brakes, &said.pins, &said.expected, &said.hands)
        };
        if self.keeper.looks(same) || !self.keeper.begin() {
            return;
        }
        let keeper = Arc::clone(&self.keeper);
        let write = move || {
            if let Err(error) = keep(&keeper, &said) {
                keeper.say_once(&error);
            }
            keeper.end();
        };
        let thread = std::thread::Builder::new().name("callerid-state".into());
        if thread.spawn(write).is_err() {
            self.keeper.end();
        }
    }
}

fn keep(keeper: &Keeper, said: &Kept) -> io::Result<()> {
    keeper.change(|kept| {
        let said = said.clone();
        (kept.brakes, kept.pins) = (said.brakes, said.pins);
        (kept.expected, kept.hands) = (said.expected, said.hands);
        Ok(())
    })
}

/// The latest pins of callers and of people; our own start is said anew.
pub(crate) fn pins(events: &[Arc<Event>]) -> Vec<KeptPin> {
    let mut pins: Vec<_> = events
        .iter()
        .filter(|event| event.kind == Kind::Pin)
        .filter_map(|event| {
            let pin = event.pin()?;
            let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
            Some(KeptPin {
                t: event.happened(),
                said: Some(event.t).filter(|said| *said != event.happened()),
                caller: text(&pin.caller),
                pin: pin.pin.as_str().to_owned(),
                version: text(&pin.version),
                text: text(&pin.text),
                on: pin.on,
                author: text(&pin.author),
                more: Map::new(),
            })
        })
        .collect();
    pins.drain(..pins.len().saturating_sub(PINS));
    pins
}

/// The change of this name; an unknown one is `other`.
pub(crate) fn change_named(name: &str) -> Change {
    let found = Change::ALL
        .into_iter()
        .find(|change| change.as_str() == name);
    found.unwrap_or(Change::Other)
}

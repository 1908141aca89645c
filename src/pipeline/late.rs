//! Late identity: the service says who the caller is after its own authentication inside.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::Core;
use crate::admit::{Gate, Seat};
use crate::caller::{Caller, Provenance, Source, valid_name};
use crate::lock::lock;
use crate::record::lane::Lane;
use crate::registry::Who;
use crate::registry::entry::{Entry, Trust};

/// Where a service puts the caller that it has verified itself. In the request's extensions where the builder
/// says [`late_identity`](crate::Builder::late_identity); a clone is the same slot.
///
/// ```
/// use callerid::CallerSlot;
///
/// fn after_authentication(extensions: &http::Extensions, subject: &str) {
///     if let Some(slot) = extensions.get::<CallerSlot>() {
///         slot.verified(subject);
///     }
/// }
/// ```
#[derive(Clone)]
pub struct CallerSlot(Arc<Slot>);

struct Slot {
    core: Arc<Core>,
    state: Mutex<State>,
}

enum State {
    Open(Booking),
    Moved(Moved),
    Closed,
}

struct Booking {
    lane: Arc<Lane>,
    tracked: Option<Arc<Entry>>,
}

/// Where a request is counted after its identity came late.
pub(super) struct Moved {
    pub(super) lane: Arc<Lane>,
    pub(super) tracked: Option<Arc<Entry>>,
    /// Where its places in limits go.
    pub(super) seat: Option<Arc<Seat>>,
}

impl CallerSlot {
    pub(super) fn open(core: Arc<Core>, lane: Arc<Lane>, tracked: Option<Arc<Entry>>) -> Self {
        Self(Arc::new(Slot {
            core,
            state: Mutex::new(State::Open(Booking { lane, tracked })),
        }))
    }

    /// Says that the caller is `name`, proven. The open request, in flight included, moves to that caller in one
    /// step: it is classified, timed and counted there.
    ///
    /// Returns the caller, or `None` and changes nothing where it was said before, where the response is on its
    /// way already, or where `name` is not a valid name.
    pub fn verified(&self, name: &str) -> Option<Caller> {
        let name = valid_name(name.as_bytes())?;
        let mut state = lock(&self.0.state);
        let State::Open(from) = &*state else {
            return None;
        };
        let who = Who {
            trust: Trust::Verified,
            name,
            provenance: Provenance::Verified,
            source: Source::Late,
        };
        let core = &self.0.core;
        let guarded = core.admission.gate() == Gate::Guarded;
        let (route, now) = (from.lane.route.borrowed(), core.ticker.now());
        let to = core.registry.place(&who, route, || None, now);
        let (lane, caller) = (to.lane(), to.caller().clone());
        let seat = guarded
            .then(|| core.seat(to.entry(), lane.provenance))
            .flatten();
        lane.start(now);
        from.lane.move_away(now);
        if let Some(entry) = &from.tracked {
            entry.move_away();
        }
        *state = State::Moved(Moved {
            lane: Arc::clone(lane),
            tracked: to.tracked().cloned(),
            seat: seat.cloned(),
        });
        drop(state);
        to.leave();
        crate::span::record_caller(caller.name());
        Some(caller)
    }

    /// Ends the time in which an identity may come; returns where the request has moved to.
    pub(super) fn close(&self) -> Option<Moved> {
        match std::mem::replace(&mut *lock(&self.0.state), State::Closed) {
            State::Moved(moved) => Some(moved),
            State::Open(_) | State::Closed => None,
        }
    }
}

impl fmt::Debug for CallerSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerSlot")
    }
}

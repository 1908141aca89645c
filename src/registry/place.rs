//! Where a request is counted, while it is looked at.

use std::sync::Arc;

use super::cache::{self, Slot};
use super::entry::Entry;
use crate::admit::Remembered;
use crate::caller::Caller;
use crate::record::lane::Lane;

/// Where a request is counted. Nothing in it is counted by reference for a request that goes no further.
#[derive(Debug)]
pub(crate) struct Place {
    slot: Box<Slot>,
    /// The words of a request whose caller has no entry: the slot is that of `__other__`.
    own: Option<Caller>,
}

impl Place {
    #[inline]
    pub(super) fn of(slot: Box<Slot>) -> Self {
        Self { slot, own: None }
    }

    /// The same for a caller who has no entry.
    pub(super) fn said_by(self, caller: Caller) -> Self {
        Self {
            own: Some(caller),
            ..self
        }
    }

    #[inline]
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.slot.lane
    }

    /// The entry of a caller who has no row: the lane is one of `__other__`.
    #[inline]
    pub(crate) fn tracked(&self) -> Option<&Arc<Entry>> {
        self.slot.tracked()
    }

    #[inline]
    pub(crate) fn caller(&self) -> &Caller {
        self.own.as_ref().unwrap_or(&self.slot.caller)
    }

    #[inline]
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.slot.entry
    }

    /// What admission remembers of the caller.
    #[inline]
    pub(crate) fn terms(&mut self) -> &mut Remembered {
        &mut self.slot.terms
    }

    /// Ends the look.
    #[inline]
    pub(crate) fn leave(self) {
        cache::put_back(self.slot);
    }

    /// Ends the look with what a request that goes on takes along. Of what no thread remembers nothing is counted by
    /// reference once more.
    #[inline]
    pub(crate) fn depart(self) -> (Arc<Lane>, Option<Arc<Entry>>, Caller) {
        let Self { slot, own } = self;
        if slot.keep {
            let caller = own.unwrap_or_else(|| slot.caller.clone());
            let parts = (Arc::clone(&slot.lane), slot.tracked().cloned(), caller);
            cache::put_back(slot);
            return parts;
        }
        let (lane, tracked, caller) = slot.into_parts();
        (lane, tracked, own.unwrap_or(caller))
    }
}

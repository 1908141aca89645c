//! What the operator may change while requests come in, beside the policies: put in force for the next request, and
//! kept by every thread, so that a request counts no reference to it.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::Exempt;
use crate::roster::Roster;

#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) roster: Arc<Roster>,
    pub(crate) exempt: Exempt,
}

/// What is in force.
pub(crate) struct InForce {
    standing: ArcSwap<Standing>,
    /// Of all that ever were in force in this process, so that threads need not tell tables apart.
    generation: AtomicU64,
}

thread_local!(static KEPT: Cell<Option<Held>> = const { Cell::new(None) });

/// What a request holds while it is decided; [`Held::leave`] keeps it for the thread's next one.
pub(super) struct Held {
    generation: u64,
    pub(super) standing: Arc<Standing>,
}

fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl InForce {
    pub(super) fn new(standing: Standing) -> Self {
        Self {
            standing: ArcSwap::from_pointee(standing),
            generation: AtomicU64::new(next_generation()),
        }
    }

    #[cfg(feature = "config")]
    pub(super) fn set(&self, standing: Standing) {
        self.standing.store(Arc::new(standing));
        // After it: whoever sees the new number finds what it stands for, or something newer.
        self.generation.store(next_generation(), Ordering::Release);
    }

    #[inline]
    pub(super) fn held(&self) -> Held {
        let generation = self.generation.load(Ordering::Acquire);
        match KEPT.try_with(Cell::take) {
            Ok(Some(held)) if held.generation == generation => held,
            _ => Held {
                generation,
                standing: self.standing.load_full(),
            },
        }
    }
}

impl Held {
    #[inline]
    pub(super) fn leave(self) {
        let _ = KEPT.try_with(|kept| kept.set(Some(self)));
    }
}

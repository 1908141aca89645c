//! What the request path knows of the Redis: a few numbers, written by the thread that talks to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Why the Redis was of no help. A metric label, hence a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No answer within the budget.
    Timeout,
    /// No connection, or it was closed; a wrong password too.
    Connect,
    /// An answer that says no: out of memory, read only, no right to the key.
    Script,
    /// An answer that is none of ours.
    Protocol,
}

impl Trouble {
    pub(crate) const ALL: [Self; 4] = [Self::Timeout, Self::Connect, Self::Script, Self::Protocol];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Script => "script",
            Self::Protocol => "protocol",
        }
    }
}

/// The state of the connection.
#[derive(Debug)]
pub(crate) struct Link {
    up: AtomicBool,
    replicas: AtomicU32,
    /// Another connection takes this one's place: the replica is not gone.
    stays: AtomicBool,
    troubles: Arc<Troubles>,
}

/// How often the Redis was of no help, since the start.
#[derive(Debug, Default)]
pub(crate) struct Troubles([AtomicU64; Trouble::ALL.len()]);

impl Troubles {
    fn count(&self, trouble: Trouble) {
        if let Some(count) = self.0.get(trouble as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn totals(&self) -> [u64; Trouble::ALL.len()] {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

impl Link {
    pub(super) fn new(up: bool, replicas: u32, troubles: Arc<Troubles>) -> Self {
        Self {
            up: AtomicBool::new(up),
            replicas: AtomicU32::new(replicas.max(1)),
            stays: AtomicBool::new(false),
            troubles,
        }
    }

    pub(super) fn stay(&self) {
        self.stays.store(true, Ordering::Release);
    }

    pub(super) fn stays(&self) -> bool {
        self.stays.load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Returns whether that is news.
    pub(super) fn set_up(&self, up: bool) -> bool {
        self.up.swap(up, Ordering::AcqRel) != up
    }

    pub(super) fn replicas(&self) -> u32 {
        self.replicas.load(Ordering::Relaxed)
    }

    pub(super) fn set_replicas(&self, replicas: u32) {
        self.replicas.store(replicas.max(1), Ordering::Relaxed);
    }

    pub(super) fn count(&self, trouble: Trouble) {
        self.troubles.count(trouble);
    }
}

//! One quota of one caller, as one replica of the fleet sees it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::slots::Slots;
use crate::admit::bucket::Bucket;
use crate::admit::quota::Quota;
use crate::clock::Timestamp;

/// What it holds of the quota that all replicas share.
pub(crate) struct Cell {
    pub(crate) quota: Quota,
    /// Of its key; replicas agree on it.
    pub(super) digest: [u8; 16],
    slots: Slots,
    /// The shared bucket is empty until then.
    denied_until: AtomicU64,
    /// Tokens used since the last tick.
    used: AtomicU64,
    /// This replica's share, for when nobody can be asked. What is used of leases is charged to it too, so that an
    /// outage hands out nothing anew.
    share: ArcSwap<Bucket>,
}

/// What a replica can say by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Granted,
    /// The bucket is empty for so long.
    Denied(Duration),
    Unknown,
}

fn millis(time: Timestamp) -> u64 {
    time.as_nanos() / 1_000_000
}

impl Cell {
    /// A cell with nothing in hand. What `before` has spent of its share stays spent.
    pub(super) fn new(
        quota: Quota,
        digest: [u8; 16],
        replicas: u32,
        before: Option<&Bucket>,
        now: Timestamp,
    ) -> Self {
        let share = match before {
            Some(before) => Bucket::share_inheriting(quota, replicas, before, now),
            None => Bucket::share(quota, replicas),
        };
        Self {
            quota,
            digest,
            slots: Slots::new(),
            denied_until: AtomicU64::new(0),
            used: AtomicU64::new(0),
            share: ArcSwap::from_pointee(share),
        }
    }

    /// Takes tokens that are in hand.
    #[inline]
    pub(super) fn take(&self, cost: u32, now: Timestamp) -> Known {
        if self.slots.take(cost, millis(now)) {
            self.use_up(cost);
            return Known::Granted;
        }
        self.denied(now)
    }

    pub(super) fn denied(&self, now: Timestamp) -> Known {
        let until = Timestamp::from_nanos(self.denied_until.load(Ordering::Acquire));
        match until.since(now) {
            Duration::ZERO => Known::Unknown,
            left => Known::Denied(left),
        }
    }

    pub(super) fn use_up(&self, tokens: u32) {
        self.used.fetch_add(u64::from(tokens), Ordering::Relaxed);
    }

    /// Puts tokens in hand that lapse at `end`.
    pub(super) fn grant(&self, tokens: u32, end: Timestamp, now: Timestamp) {
        self.slots.grant(tokens, millis(end), millis(now));
    }

    pub(super) fn deny_until(&self, time: Timestamp) {
        self.denied_until.store(time.as_nanos(), Ordering::Release);
    }

    /// Tokens in hand that are still good at `time`.
    pub(super) fn left(&self, time: Timestamp) -> u32 {
        self.slots.left(millis(time))
    }

    /// Charges what was used since the last tick to the share, and says how much that was.
    pub(super) fn settle(&self, replicas: u32, now: Timestamp) -> u64 {
        let used = self.used.swap(0, Ordering::Relaxed);
        if used > 0 {
            self.share_of(replicas, now).charge(used, now);
        }
        used
    }

    /// Takes tokens of this replica's share.
    pub(super) fn take_share(
        &self,
        cost: u32,
        replicas: u32,
        now: Timestamp,
    ) -> Result<(), Duration> {
        self.share_of(replicas, now).take(cost, now)
    }

    /// Whether they are there.
    pub(super) fn look_at_share(
        &self,
        cost: u32,
        replicas: u32,
        now: Timestamp,
    ) -> Result<(), Duration> {
        self.share_of(replicas, now).look(cost, now)
    }

    /// The share, for the number of replicas that there are now.
    fn share_of(&self, replicas: u32, now: Timestamp) -> Arc<Bucket> {
        let share = self.share.load_full();
        if share.parts() == replicas {
            return share;
        }
        let other = Bucket::share_inheriting(self.quota, replicas, &share, now);
        self.share.compare_and_swap(&share, Arc::new(other));
        self.share.load_full()
    }

    /// The share, with all that was used charged to it.
    pub(crate) fn settled(&self, now: Timestamp) -> Arc<Bucket> {
        let share = self.share();
        self.settle(share.parts(), now);
        share
    }

    pub(crate) fn share(&self) -> Arc<Bucket> {
        self.share.load_full()
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cell")
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

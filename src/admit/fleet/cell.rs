//! One quota of one caller, as one replica of the fleet sees it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::slots::Slots;
use crate::admit::bucket::{Bucket, Lack};
use crate::admit::quota::Quota;
use crate::clock::Timestamp;

/// What it holds of the quota that all replicas share.
pub(crate) struct Cell {
    pub(crate) quota: Quota,
    /// Of its key; replicas agree on it.
    pub(super) digest: [u8; 16],
    slots: Slots,
    /// Tokens used since the last tick.
    used: AtomicU64,
    /// This replica's share, for when nobody can be asked. What is used of leases is charged to it too, so that an
    /// outage hands out nothing anew.
    share: ArcSwap<Bucket>,
    /// What the bucket would be, were the quota this replica's own: all that it has let in is charged to it, so that
    /// neither another scope nor another fleet hands out anything anew.
    own: Arc<Bucket>,
    /// Of that, what the fleet has not heard of yet: it was spent elsewhere, or while the fleet was away.
    unheard: AtomicU32,
    /// Another measures the quota by now; who was under way may still use tokens of this one.
    left: AtomicBool,
    home: Option<Home>,
}

/// Where the shared bucket is: by a hash of the Redis and the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home(pub(super) [u8; 16]);

/// What a fleet knows of a bucket that it does not measure any more: it was spent there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    home: Home,
    lack: Lack,
}

impl Told {
    /// Tokens that this fleet still knows to be missing.
    pub(super) fn to(self, home: Home, now: Timestamp) -> f64 {
        if self.home == home {
            self.lack.tokens(now)
        } else {
            0.0
        }
    }
}

/// What a replica can say by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Granted,
    /// The bucket is empty for so long.
    Denied(Duration),
    Unknown,
}

fn denied(until: u64, now: Timestamp) -> Known {
    match Timestamp::from_nanos(until).since(now) {
        Duration::ZERO => Known::Unknown,
        left => Known::Denied(left),
    }
}

fn millis(time: Timestamp) -> u64 {
    time.as_nanos() / 1_000_000
}

impl Cell {
    /// A cell with nothing in hand. What this replica has spent `before` stays spent.
    pub(super) fn new(
        quota: Quota,
        digest: [u8; 16],
        home: Option<Home>,
        replicas: u32,
        before: Option<&Arc<Bucket>>,
        now: Timestamp,
    ) -> Self {
        let (share, own) = match before {
            Some(before) => (
                Bucket::share_inheriting(quota, replicas, before, now),
                before.under(quota, now),
            ),
            None => (Bucket::share(quota, replicas), Arc::new(Bucket::new(quota))),
        };
        Self {
            quota,
            digest,
            slots: Slots::new(),
            used: AtomicU64::new(0),
            share: ArcSwap::from_pointee(share),
            own,
            unheard: AtomicU32::new(0),
            left: AtomicBool::new(false),
            home,
        }
    }

    /// Takes tokens that are in hand.
    #[inline]
    pub(super) fn take(&self, cost: u32, now: Timestamp) -> Known {
        match self.slots.take(cost, millis(now)) {
            Ok(()) => {
                self.use_up(cost, now);
                Known::Granted
            }
            Err(until) => denied(until, now),
        }
    }

    pub(super) fn denied(&self, now: Timestamp) -> Known {
        denied(self.slots.denied_until(), now)
    }

    pub(super) fn use_up(&self, tokens: u32, now: Timestamp) {
        self.used.fetch_add(u64::from(tokens), Ordering::AcqRel);
        if self.left.load(Ordering::Acquire) {
            self.settled(now);
        }
    }

    /// Puts tokens in hand that lapse at `end`.
    pub(super) fn grant(&self, tokens: u32, end: Timestamp, now: Timestamp) {
        self.slots.grant(tokens, millis(end), millis(now));
    }

    pub(super) fn deny_until(&self, time: Timestamp) {
        self.slots.deny_until(time.as_nanos());
    }

    /// Tokens in hand that are still good at `time`.
    pub(super) fn left(&self, time: Timestamp) -> u32 {
        self.slots.left(millis(time))
    }

    /// Charges what was used since the last tick to the share, and says how much that was.
    pub(super) fn settle(&self, replicas: u32, now: Timestamp) -> u64 {
        let used = self.used.swap(0, Ordering::AcqRel);
        if used > 0 {
            self.share_of(replicas, now).charge(used, now);
            self.own.charge(used, now);
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
        // What was used a moment ago is not there for the asking.
        self.settle(replicas, now);
        self.share_of(replicas, now).take(cost, now)?;
        self.let_in(cost, now);
        if self.home.is_some() {
            self.tell(cost);
        }
        Ok(())
    }

    /// Takes tokens where there is no fleet any more.
    pub(crate) fn take_own(&self, cost: u32, now: Timestamp) -> Result<(), Duration> {
        self.settled(now).take(cost, now)
    }

    /// The fleet is to hear of tokens that were spent without it, with the next question.
    pub(super) fn tell(&self, tokens: u32) {
        self.unheard.fetch_add(tokens, Ordering::AcqRel);
    }

    /// What the fleet is to hear of, once, as far as it has not come back since.
    pub(super) fn news(&self, now: Timestamp) -> u32 {
        match self.unheard.load(Ordering::Acquire) {
            0 => 0,
            _ => self
                .unheard
                .swap(0, Ordering::AcqRel)
                .min(self.missing(now)),
        }
    }

    /// Another cell measures the quota from now on.
    pub(crate) fn leave(&self, now: Timestamp) {
        self.left.store(true, Ordering::Release);
        self.settled(now);
    }

    /// Notes what was let in without asking anybody.
    pub(super) fn let_in(&self, cost: u32, now: Timestamp) {
        self.own.charge(u64::from(cost), now);
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

    /// Whether it measures this quota there.
    pub(crate) fn is_of(&self, quota: Quota, home: Option<Home>) -> bool {
        self.quota == quota && self.home == home
    }

    /// All that this replica has let in.
    pub(crate) fn settled(&self, now: Timestamp) -> &Arc<Bucket> {
        self.settle(self.share.load().parts(), now);
        &self.own
    }

    /// Tokens that this replica has let in and that have not come back.
    fn missing(&self, now: Timestamp) -> u32 {
        self.own.lack(now).tokens(now).ceil() as u32
    }

    /// What the fleet knows of what was settled, if there is one.
    pub(crate) fn told(&self, now: Timestamp) -> Option<Told> {
        self.home.map(|home| Told {
            home,
            lack: self
                .own
                .lack(now)
                .less(self.unheard.load(Ordering::Acquire)),
        })
    }

    pub(crate) fn owes(&self, now: Timestamp) -> bool {
        self.own.has_debt(now) || self.share.load().has_debt(now)
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cell")
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

//! Tokens in hand: two leases, each with its end; and until when there are no others.
//!
//! Two, so that the next one can come while the last one is still being used: added together they would have one
//! end, and tokens that are carried from lease to lease would never lapse. A lease is one number, so that its tokens
//! and its end are read and written in one step.

use super::atomic::{AtomicU64, Ordering};

/// Bits for the tokens of a lease; the rest is its end, in milliseconds since the Unix epoch (up to the year 2109).
const BITS: u32 = 22;
/// The most tokens that a lease can hold.
pub(crate) const MOST: u32 = (1 << BITS) - 1;

fn pack(end: u64, tokens: u32) -> u64 {
    (end << BITS) | u64::from(tokens.min(MOST))
}

fn end_of(lease: u64) -> u64 {
    lease >> BITS
}

fn tokens_of(lease: u64) -> u32 {
    (lease & u64::from(MOST)) as u32
}

/// What is left of a lease at `now`.
fn alive(lease: u64, now: u64) -> u32 {
    if now < end_of(lease) {
        tokens_of(lease)
    } else {
        0
    }
}

/// The leases of one quota. Any thread takes; one thread grants. Times are milliseconds since the Unix epoch.
#[derive(Debug)]
pub(crate) struct Slots {
    leases: [AtomicU64; 2],
    /// The shared bucket is empty until then, in nanoseconds since the Unix epoch.
    denied_until: AtomicU64,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            leases: [AtomicU64::new(0), AtomicU64::new(0)],
            denied_until: AtomicU64::new(0),
        }
    }

    /// Takes `cost` tokens, or says until when there are none, as far as is known.
    pub(crate) fn take(&self, cost: u32, now: u64) -> Result<(), u64> {
        if self.take_in_hand(cost, now) {
            return Ok(());
        }
        match self.denied_until() {
            0 => Err(0),
            // The last tokens may have come since, and with them that there are no others.
            _ if self.take_in_hand(cost, now) => Ok(()),
            until => Err(until),
        }
    }

    pub(crate) fn denied_until(&self) -> u64 {
        self.denied_until.load(Ordering::Acquire)
    }

    /// Nobody asks until then: after what was granted has been put in hand.
    pub(crate) fn deny_until(&self, nanos: u64) {
        self.denied_until.store(nanos, Ordering::Release);
    }

    /// Takes `cost` tokens, those that lapse first before the others; or none.
    fn take_in_hand(&self, cost: u32, now: u64) -> bool {
        let [a, b] = &self.leases;
        let (a_end, b_end) = (
            end_of(a.load(Ordering::Acquire)),
            end_of(b.load(Ordering::Acquire)),
        );
        let (first, second) = if a_end <= b_end { (a, b) } else { (b, a) };
        let (taken, end) = take_up_to(first, cost, now);
        let missing = cost - taken;
        if missing == 0 {
            return true;
        }
        let (rest, rest_end) = take_up_to(second, missing, now);
        if rest == missing {
            return true;
        }
        put_back(first, taken, end);
        put_back(second, rest, rest_end);
        false
    }

    /// Puts tokens in hand that lapse at `end`. Where both leases have tokens left, the new ones join the one that
    /// ends later, and lapse with it: sooner than they must, never later.
    pub(crate) fn grant(&self, tokens: u32, end: u64, now: u64) {
        let [a, b] = &self.leases;
        let (a_is, b_is) = (a.load(Ordering::Acquire), b.load(Ordering::Acquire));
        for (slot, lease) in [(a, a_is), (b, b_is)] {
            if alive(lease, now) == 0 {
                slot.store(pack(end, tokens), Ordering::Release);
                return;
            }
        }
        let (slot, mut lease) = if end_of(a_is) >= end_of(b_is) {
            (a, a_is)
        } else {
            (b, b_is)
        };
        loop {
            let sum = tokens_of(lease).saturating_add(tokens);
            let joined = pack(end_of(lease).min(end), sum);
            match slot.compare_exchange(lease, joined, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(is) => lease = is,
            }
        }
    }

    /// How many tokens are in hand that have not lapsed at `time`.
    pub(crate) fn left(&self, time: u64) -> u32 {
        let [a, b] = &self.leases;
        let of = |slot: &AtomicU64| alive(slot.load(Ordering::Acquire), time);
        of(a).saturating_add(of(b))
    }
}

/// Takes as many as there are, and says from a lease of which end.
fn take_up_to(slot: &AtomicU64, most: u32, now: u64) -> (u32, u64) {
    let mut lease = slot.load(Ordering::Acquire);
    loop {
        let taken = alive(lease, now).min(most);
        if taken == 0 {
            return (0, 0);
        }
        let less = lease - u64::from(taken);
        match slot.compare_exchange(lease, less, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return (taken, end_of(lease)),
            Err(is) => lease = is,
        }
    }
}

/// Undoes a taking. Where there is another lease by now, the tokens lapse.
fn put_back(slot: &AtomicU64, tokens: u32, end: u64) {
    let mut lease = slot.load(Ordering::Acquire);
    while tokens > 0 && end_of(lease) == end {
        let more = pack(end, tokens_of(lease).saturating_add(tokens));
        match slot.compare_exchange(lease, more, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(is) => lease = is,
        }
    }
}

//! Who of those without an entry is heavy? Space-Saving, decayed, in a fixed amount of memory.
//!
//! Space-Saving (Metwally, Agrawal, El Abbadi, ICDT 2005) keeps a fixed number of counters; a name without one
//! takes over the least, and inherits its count as a possible error. Here the counters are split into sets of
//! eight by a keyed hash, so that an update touches one cache line or two. A sketch admits to the table and does
//! nothing else: nobody is blamed or refused on an estimate.

use std::sync::Mutex;

use crate::lock::lock;

const WAYS: usize = 8;
const SETS: usize = 512;
/// Sets that share a lock.
const STRIPES: usize = 16;

/// After this many names without room, every count is halved, so that what was heavy once is not heavy for ever.
const HALVE_AFTER: u32 = 1 << 20;

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    hash: u64,
    count: u32,
    /// By how much `count` may be too high.
    error: u32,
}

#[derive(Debug)]
struct Stripe {
    sets: Box<[[Counter; WAYS]]>,
    seen: u32,
}

/// Counts of names without an entry; 64 KiB in all.
#[derive(Debug)]
pub(crate) struct HeavyHitters(Box<[Mutex<Stripe>]>);

impl HeavyHitters {
    pub(crate) fn new() -> Self {
        let stripe = || {
            let sets = vec![[Counter::default(); WAYS]; SETS / STRIPES].into_boxed_slice();
            Mutex::new(Stripe { sets, seen: 0 })
        };
        Self((0..STRIPES).map(|_| stripe()).collect())
    }

    /// Counts a request of the name with this hash, and returns how many there have been for certain.
    pub(crate) fn count(&self, hash: u64) -> u32 {
        let Some(stripe) = self.0.get(hash as usize % STRIPES) else {
            return 0;
        };
        let mut stripe = lock(stripe);
        stripe.seen += 1;
        if stripe.seen >= HALVE_AFTER / STRIPES as u32 {
            stripe.seen = 0;
            for counter in stripe.sets.iter_mut().flatten() {
                counter.count /= 2;
                counter.error /= 2;
            }
        }
        let at = (hash >> 32) as usize % stripe.sets.len();
        let Some(set) = stripe.sets.get_mut(at) else {
            return 0;
        };
        if let Some(found) = set
            .iter_mut()
            .find(|counter| counter.count > 0 && counter.hash == hash)
        {
            found.count += 1;
            return found.count - found.error;
        }
        if let Some(least) = set.iter_mut().min_by_key(|counter| counter.count) {
            *least = Counter {
                hash,
                count: least.count + 1,
                error: least.count,
            };
        }
        1
    }

    /// Forgets a name that has got an entry.
    pub(crate) fn forget(&self, hash: u64) {
        let Some(stripe) = self.0.get(hash as usize % STRIPES) else {
            return;
        };
        for counter in lock(stripe)
            .sets
            .iter_mut()
            .flatten()
            .filter(|counter| counter.hash == hash)
        {
            *counter = Counter::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trap_22_a_sketch_never_overstates_what_is_certain() {
        let heavy = HeavyHitters::new();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..200_000 {
            assert!(
                heavy.count(random.u64(..)) <= 1,
                "a name that came once is never certain of more"
            );
        }
    }

    #[test]
    fn one_in_a_thousand_is_found_in_a_flood_within_its_first_thousand() {
        for seed in 0..5 {
            let heavy = HeavyHitters::new();
            let mut random = fastrand::Rng::with_seed(seed);
            let late = random.u64(..);
            (0..500_000).for_each(|_| _ = heavy.count(random.u64(..)));
            let mut certain = 0;
            for _ in 0..1_000 {
                (0..1_000).for_each(|_| _ = heavy.count(random.u64(..)));
                certain = certain.max(heavy.count(late));
            }
            assert!(certain >= 64, "seed {seed}: {certain}");
        }
    }

    #[test]
    fn what_is_forgotten_starts_anew() {
        let heavy = HeavyHitters::new();
        (0..10).for_each(|_| _ = heavy.count(7));
        heavy.forget(7);
        assert_eq!(heavy.count(7), 1);
    }
}

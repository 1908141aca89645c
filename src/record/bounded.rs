//! Counts by key, for a bounded number of keys.

/// Counts by key with room for a fixed number of keys. A new key that finds no room takes the place of the one
/// with the least count, which goes to the rest: the sum over keys and rest is exact, and a key that comes
/// often stays.
#[derive(Clone, Debug)]
pub(crate) struct Bounded<K> {
    room: usize,
    counts: Vec<(K, u64)>,
    rest: u64,
}

impl<K> Bounded<K> {
    pub(crate) const fn new(room: usize) -> Self {
        Self {
            room,
            counts: Vec::new(),
            rest: 0,
        }
    }

    /// Counts one for the key that `is` recognises, or for the one that `make` makes.
    pub(crate) fn count(&mut self, is: impl Fn(&K) -> bool, make: impl FnOnce() -> K) {
        if let Some(found) = self.counts.iter().position(|(key, _)| is(key)) {
            if let Some((_, count)) = self.counts.get_mut(found) {
                *count += 1;
            }
            // A key that comes often is found early.
            if let Some(before) = found.checked_sub(1) {
                self.counts.swap(before, found);
            }
            return;
        }
        if self.counts.len() < self.room {
            self.counts.push((make(), 1));
        } else if let Some(least) = self.counts.iter_mut().min_by_key(|(_, count)| *count) {
            self.rest += least.1;
            *least = (make(), 1);
        }
    }

    /// Keys and counts, most first.
    pub(crate) fn most(&self) -> Vec<(&K, u64)> {
        let mut most: Vec<_> = self
            .counts
            .iter()
            .map(|(key, count)| (key, *count))
            .collect();
        most.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        most
    }

    /// What is counted under no key.
    pub(crate) fn rest(&self) -> u64 {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_comes_often_survives_a_flood_and_nothing_is_lost() {
        let mut counts = Bounded::new(4);
        for flood in 0..1_000u32 {
            counts.count(|key| *key == flood + 10, || flood + 10);
            counts.count(|key| *key == 1, || 1);
        }
        let most = counts.most();
        assert_eq!(most.len(), 4);
        assert_eq!(most[0], (&1, 1_000));
        assert_eq!(
            most.iter().map(|(_, count)| count).sum::<u64>() + counts.rest(),
            2_000
        );
    }
}

//! What the parameters in the paths of a runaway look like: the same keys again and again, or never the same.
//!
//! Only while an episode lasts, and only the first requests of it; of each path a keyed hash of 32 bits is kept.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::events::Pattern;
use crate::lock::lock;
use crate::record::lane::Lane;
use crate::record::row::Row;

/// Paths that are looked at per episode.
const SAMPLE: usize = 512;
/// Fewer say nothing.
const LEAST: usize = 64;
/// Episodes whose paths are looked at, at the same time.
const MOST: usize = 32;

/// Paths of the callers that are being watched.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    any: AtomicBool,
    /// Whether there are none to look at: a log has routes.
    none: AtomicBool,
    keys: foldhash::quality::RandomState,
    watched: Mutex<Vec<Watched>>,
}

#[derive(Debug)]
struct Watched {
    row: Arc<Row>,
    hashes: Vec<u32>,
}

impl Paths {
    /// Whether there is anybody to look at: one relaxed load.
    #[inline]
    pub(crate) fn are_watched(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Never looks at any.
    #[cfg(feature = "replay")]
    pub(crate) fn close(&self) {
        self.none.store(true, Ordering::Relaxed);
    }

    /// Begins to look at the paths of a row.
    pub(crate) fn watch(&self, row: &Arc<Row>) {
        if self.none.load(Ordering::Relaxed) {
            return;
        }
        let mut watched = lock(&self.watched);
        if watched.len() >= MOST || watched.iter().any(|known| Arc::ptr_eq(&known.row, row)) {
            return;
        }
        watched.push(Watched {
            row: Arc::clone(row),
            hashes: Vec::with_capacity(SAMPLE),
        });
        self.any.store(true, Ordering::Relaxed);
    }

    /// Ends it.
    pub(crate) fn forget(&self, row: &Arc<Row>) {
        let mut watched = lock(&self.watched);
        watched.retain(|known| !Arc::ptr_eq(&known.row, row));
        self.any.store(!watched.is_empty(), Ordering::Relaxed);
    }

    /// Takes note of a path, where the row is watched and the route has a parameter.
    #[cold]
    pub(crate) fn note(&self, lane: &Lane, path: &str) {
        if !lane.route.borrowed().template().contains(['{', ':', '*']) {
            return;
        }
        // Where another thread is at it, this request is not in the sample.
        let Ok(mut watched) = self.watched.try_lock() else {
            return;
        };
        let of_row = |known: &&mut Watched| Arc::ptr_eq(&known.row, &lane.row);
        if let Some(known) = watched.iter_mut().find(of_row)
            && known.hashes.len() < SAMPLE
        {
            known.hashes.push(self.keys.hash_one(path) as u32);
        }
    }

    /// What the paths of a row look like, if they look like anything.
    pub(crate) fn pattern(&self, row: &Arc<Row>) -> Option<Pattern> {
        let watched = lock(&self.watched);
        let hashes = &watched
            .iter()
            .find(|known| Arc::ptr_eq(&known.row, row))?
            .hashes;
        pattern(hashes)
    }
}

/// Nearly all different, or each four times and more.
fn pattern(hashes: &[u32]) -> Option<Pattern> {
    if hashes.len() < LEAST {
        return None;
    }
    let mut sorted = hashes.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let (all, distinct) = (hashes.len(), sorted.len());
    if distinct * 20 >= all * 19 {
        Some(Pattern::Scan)
    } else if distinct * 4 <= all {
        Some(Pattern::Repeat)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_come_again_and_keys_that_never_do() {
        let of = |keys: u32| pattern(&(0..400).map(|n| n % keys).collect::<Vec<_>>());
        assert_eq!(of(10), Some(Pattern::Repeat));
        assert_eq!(of(200), None);
        assert_eq!(of(400), Some(Pattern::Scan));
        assert_eq!(pattern(&[1; 63]), None);
    }
}

//! Which versions of a caller's program were seen: a version that is new is a deploy, on every replica by itself.

use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, OnceLock};

use super::Registry;
use super::entry::{Entry, Trust};
use crate::caller::Provenance;
use crate::clock::Timestamp;
use crate::record::row::lock;

/// Versions of a caller that are told apart.
const KNOWN: usize = 8;
/// Versions beyond this many in an hour are no deploys: somebody's programs are many, or invented.
const MOST_PER_HOUR: u32 = 4;
/// Longer ones are no versions.
const LONGEST: usize = 48;
/// Sightings that wait for the next tick.
const WAITING: usize = 256;

/// The versions of one caller, once one was seen.
#[derive(Debug, Default)]
pub(crate) struct Versions(OnceLock<Box<Mutex<Known>>>);

#[derive(Debug, Default)]
struct Known {
    hashes: [u64; KNOWN],
    next: usize,
    hour: u64,
    new: u32,
}

/// What a request says about its version, and how that is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    pub(crate) text: &'a [u8],
    /// A header for the purpose, and not `User-Agent`.
    pub(crate) plain: bool,
}

/// A version that was seen for the first time, of a caller that had another one before.
#[derive(Debug)]
pub(crate) struct Sighting {
    pub(crate) entry: Arc<Entry>,
    pub(crate) version: Box<str>,
    pub(crate) at: Timestamp,
}

/// Sightings that nobody has looked at yet.
#[derive(Debug, Default)]
pub(crate) struct Sightings(Mutex<Vec<Sighting>>);

impl Sightings {
    pub(crate) fn take(&self) -> Vec<Sighting> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl Said<'_> {
    /// The version, if there is one: the whole of a header for the purpose, or what follows the slash of the first
    /// product of a `User-Agent`.
    fn version(&self) -> Option<&str> {
        let text = std::str::from_utf8(self.text).ok()?.trim();
        let version = if self.plain {
            text
        } else {
            let product = text.split_whitespace().next()?;
            let (name, version) = product.split_once('/')?;
            // Every browser says so, whatever it is.
            if name == "Mozilla" {
                return None;
            }
            version
        };
        let fits = !version.is_empty() && version.len() <= LONGEST;
        (fits && version.bytes().all(|byte| byte.is_ascii_graphic())).then_some(version)
    }
}

impl Registry {
    pub(super) fn hash_said(&self, said: &Said<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(said.text);
        hasher.finish()
    }

    /// Looks at what a request says about its version, where that differs from what the thread has seen last.
    #[cold]
    pub(super) fn saw(&self, entry: &Arc<Entry>, said: &Said<'_>, now: Timestamp) {
        if entry.trust == Trust::Ours || entry.provenance() == Provenance::Inferred {
            return;
        }
        let Some(version) = said.version() else {
            return;
        };
        let mut hasher = self.hasher.build_hasher();
        hasher.write(version.as_bytes());
        let hash = hasher.finish().max(1);
        let known = entry.versions.0.get_or_init(Box::default);
        let is_deploy = lock(known).see(hash, now);
        if is_deploy {
            let mut waiting = lock(&self.sightings.0);
            if waiting.len() < WAITING {
                waiting.push(Sighting {
                    entry: Arc::clone(entry),
                    version: version.into(),
                    at: now,
                });
            }
        }
    }
}

impl Known {
    /// Says whether this is a deploy: a version that is not known, after one that is.
    fn see(&mut self, hash: u64, now: Timestamp) -> bool {
        if self.hashes.contains(&hash) {
            return false;
        }
        let first = self.hashes.iter().all(|known| *known == 0);
        if let Some(place) = self.hashes.get_mut(self.next % KNOWN) {
            *place = hash;
        }
        self.next = (self.next + 1) % KNOWN;
        let hour = now.as_secs() / 3_600;
        if self.hour != hour {
            (self.hour, self.new) = (hour, 0);
        }
        self.new += 1;
        !first && self.new <= MOST_PER_HOUR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str, plain: bool) -> Option<String> {
        let said = Said {
            text: text.as_bytes(),
            plain,
        };
        said.version().map(str::to_owned)
    }

    #[test]
    fn a_version_is_what_the_first_product_says() {
        assert_eq!(
            version("checkout/v42 (linux) hyper/1", false).as_deref(),
            Some("v42")
        );
        assert_eq!(version("checkout", false), None);
        assert_eq!(version("Mozilla/5.0 (X11)", false), None);
        assert_eq!(version("a/", false), None);
        assert_eq!(version(" 2026.11-3 ", true).as_deref(), Some("2026.11-3"));
        assert_eq!(version(&"9".repeat(100), true), None);
        assert_eq!(version("a b", true), None);
    }

    #[test]
    fn the_first_version_is_no_deploy_and_every_other_is_one_once() {
        let mut known = Known::default();
        let now = Timestamp::from_secs(1_000);
        assert!(!known.see(1, now));
        assert!(known.see(2, now));
        assert!(!known.see(1, now));
        assert!(!known.see(2, now));
    }

    #[test]
    fn who_invents_versions_deploys_four_an_hour_at_most() {
        let mut known = Known::default();
        let deploys = |known: &mut Known, hour: u64| {
            (0..1_000_u64)
                .filter(|n| known.see(1 + hour * 1_000 + n, Timestamp::from_secs(hour * 3_600)))
                .count()
        };
        assert_eq!(deploys(&mut known, 1), 3);
        assert_eq!(deploys(&mut known, 2), 4);
    }
}

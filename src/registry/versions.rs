//! Which versions of a caller's program were seen: a version that is new is a deploy, on every replica by itself.

use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, OnceLock};

use super::Registry;
use super::entry::{Entry, Trust};
use crate::caller::Provenance;
use crate::clock::Timestamp;
use crate::lock::lock;

/// Versions of a caller that are told apart.
const KNOWN: usize = 8;
/// Versions beyond this many in an hour are no deploys: somebody's programs are many, or invented.
const MOST_PER_HOUR: u32 = 4;
/// The same for all callers together that nobody vouches for: a thousand names that a client invents would push
/// everything else out of the log.
const MOST_UNPROVEN_PER_HOUR: u32 = 30;
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
pub(crate) struct Sightings(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    waiting: Vec<Sighting>,
    hour: u64,
    unproven: u32,
}

impl Sightings {
    pub(crate) fn take(&self) -> Vec<Sighting> {
        std::mem::take(&mut lock(&self.0).waiting)
    }

    fn note(&self, sighting: Sighting) {
        let mut seen = lock(&self.0);
        if sighting.entry.trust != Trust::Verified {
            let hour = sighting.at.as_secs() / 3_600;
            if seen.hour != hour {
                (seen.hour, seen.unproven) = (hour, 0);
            }
            if seen.unproven >= MOST_UNPROVEN_PER_HOUR {
                return;
            }
            seen.unproven += 1;
        }
        if seen.waiting.len() < WAITING {
            seen.waiting.push(sighting);
        }
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
            self.sightings.note(Sighting {
                entry: Arc::clone(entry),
                version: version.into(),
                at: now,
            });
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
    use std::time::Duration;

    use super::*;
    use crate::caller::Source;
    use crate::clock::{ManualClock, Ticker};
    use crate::registry::{Limits, Who};
    use crate::roster::{Account, Roster};

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
    fn a_thousand_callers_that_invent_versions_deploy_little_together() {
        let clock = ManualClock::at(Timestamp::from_secs(7_200));
        let limits = Limits::of(2_000, 40);
        let named = Account::new("named").accept_claimed();
        let roster = Arc::new(Roster::new(vec![named]).unwrap());
        let table = Registry::new(roster, limits, Ticker::Other(Arc::new(clock.clone())));
        let see = |trust, name: &str, version: &str| {
            let provenance = match trust {
                Trust::Verified => Provenance::Verified,
                _ => Provenance::Claimed,
            };
            let who = Who {
                trust,
                name,
                provenance,
                source: Source::Header,
            };
            let now = table.ticker.now();
            let entry = table.entry(&who, now).unwrap();
            let said = Said {
                text: version.as_bytes(),
                plain: true,
            };
            table.saw(&entry, &said, now);
        };
        for hour in 0..3 {
            let mut seen = 0;
            for caller in 0..1_000 {
                let name = format!("c{caller}");
                for version in 0..10 {
                    see(Trust::Weaker, &name, &format!("v{hour}.{version}"));
                }
                seen += table.sightings.take().len();
            }
            assert_eq!(seen, MOST_UNPROVEN_PER_HOUR as usize);
            // Who is proven, or named by the operator, has what it had.
            for name in ["proven", "named"] {
                let before = format!("{hour}");
                see(Trust::Verified, name, &before);
                table.sightings.take();
                see(Trust::Verified, name, &format!("{hour}.1"));
                let seen = table.sightings.take();
                assert_eq!(seen.len(), 1, "{name}");
                assert_eq!(&*seen[0].version, format!("{hour}.1"));
            }
            clock.advance(Duration::from_secs(3_600));
        }
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

//! The callers that the operator named: they always have a row of their own, and somebody to call.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::admit::{Policy, Quota};
use crate::caller::{Provenance, valid_name};
use crate::clock::Timestamp;

/// A caller that the operator named.
///
/// ```
/// use callerid::{Account, ApiKey};
///
/// let checkout = Account::new("checkout")
///     .owner("Payments")
///     .contact("#payments-oncall")
///     .api_key(ApiKey::sha256(
///         "2026-11",
///         "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
///     ));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub(crate) name: String,
    pub(crate) owner: Option<String>,
    pub(crate) contact: Option<String>,
    pub(crate) runbook: Option<String>,
    pub(crate) tier: Option<String>,
    pub(crate) accept_claimed: bool,
    pub(crate) keys: Vec<ApiKey>,
    pub(crate) policy: Policy,
    pub(crate) expect: Option<Expect>,
}

/// A rise that was announced, such as a load test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Expect {
    /// Times the caller's own baseline.
    pub(crate) factor: f64,
    pub(crate) until: Timestamp,
}

pub(crate) const BASELINE: &str = "the caller's own baseline";
pub(crate) const NO_FACTOR: &str = "is not a factor; use 1 or more";
pub(crate) const EXPECTED_BEFORE: &str = "is in the past; use a later time, or leave `expect` out";

pub(crate) fn is_factor(factor: f64) -> bool {
    factor >= 1.0 && factor.is_finite()
}

impl Account {
    /// A caller on the roster, under this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// The team that answers for it.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// Where that team is reached.
    #[must_use]
    pub fn contact(mut self, contact: impl Into<String>) -> Self {
        self.contact = Some(contact.into());
        self
    }

    /// Where it is written down what to do when it misbehaves.
    #[must_use]
    pub fn runbook(mut self, runbook: impl Into<String>) -> Self {
        self.runbook = Some(runbook.into());
        self
    }

    /// The tier that it belongs to.
    #[must_use]
    pub fn tier(mut self, tier: impl Into<String>) -> Self {
        self.tier = Some(tier.into());
        self
    }

    /// What it may do, where that differs from its tier, its provenance and the default.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Its quota.
    #[must_use]
    pub fn quota(mut self, quota: Quota) -> Self {
        self.policy = self.policy.quota(quota);
        self
    }

    /// How many of its requests may be in flight.
    #[must_use]
    pub fn max_in_flight(mut self, requests: u32) -> Self {
        self.policy = self.policy.max_in_flight(requests);
        self
    }

    /// An API key of this caller; several at once make a rotation possible.
    #[must_use]
    pub fn api_key(mut self, key: ApiKey) -> Self {
        self.keys.push(key);
        self
    }

    /// Announces load of up to `factor` times the caller's own baseline until then, such as a load test: a rise of it is
    /// an event, wakes nobody and is not held. [`Callers::expect`](crate::Callers::expect) does so while the service
    /// runs.
    #[must_use]
    pub fn expect(mut self, factor: f64, until: impl Into<Timestamp>) -> Self {
        self.expect = Some(Expect {
            factor,
            until: until.into(),
        });
        self
    }

    /// What is wrong with what is expected of it, with the paths of the configuration.
    pub(crate) fn problems(&self, now: Timestamp) -> Vec<String> {
        let path = format!("caller.{}.expect", self.name);
        let mut problems = Vec::new();
        let Some(Expect { factor, until }) = self.expect else {
            return problems;
        };
        if !is_factor(factor) {
            problems.push(format!("{path}.factor: {NO_FACTOR}, times {BASELINE}"));
        }
        if until <= now {
            problems.push(format!("{path}.until: {EXPECTED_BEFORE}"));
        }
        problems
    }

    /// Lets this row be reached by a source that is only claimed; snapshots and events show the caller as claimed then,
    /// and it is under the policy of claimed callers where neither its own nor its tier's says more.
    /// Without it, a claim of this name is counted as `claimed:<name>`.
    #[must_use]
    pub fn accept_claimed(mut self) -> Self {
        self.accept_claimed = true;
        self
    }

    /// How sure it is that what is counted for it is its own.
    pub(crate) fn provenance(&self) -> Provenance {
        if self.accept_claimed {
            Provenance::Claimed
        } else {
            Provenance::Verified
        }
    }
}

/// An API key, held as its SHA-256 hash: the key itself is a secret that this crate never keeps.
#[derive(Clone)]
pub struct ApiKey {
    id: String,
    sha256: String,
    not_after: Option<Timestamp>,
}

impl ApiKey {
    /// A key by an id for people (`2026-11`) and the hash of its bytes in hexadecimal.
    #[must_use]
    pub fn sha256(id: impl Into<String>, hex: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            sha256: hex.into(),
            not_after: None,
        }
    }

    /// The moment from which the key is as good as unknown.
    #[must_use]
    pub fn not_after(mut self, end: impl Into<Timestamp>) -> Self {
        self.not_after = Some(end.into());
        self
    }
}

impl fmt::Debug for ApiKey {
    /// Names the key and leaves the hash out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A roster in force: accounts by name, keys by hash.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    accounts: HashMap<String, Arc<Account>>,
    keys: HashMap<[u8; 32], Key>,
}

/// One API key in force.
pub(crate) struct Key {
    pub(crate) caller: String,
    pub(crate) id: String,
    not_after: Option<Timestamp>,
    /// Whole seconds since the Unix epoch; 0 is never. Seconds, so that a busy key is written once a second.
    last_used: AtomicU64,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("caller", &self.caller)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Roster {
    /// The roster of these accounts, or everything that is wrong with them.
    pub(crate) fn new(accounts: Vec<Account>) -> Result<Self, Vec<String>> {
        let mut roster = Self::default();
        let mut problems = Vec::new();
        for account in accounts {
            let path = format!("caller.{}", account.name);
            if valid_name(account.name.as_bytes()) != Some(account.name.as_str()) {
                problems.push(format!(
                    "{path}: not a name; use 1 to 64 bytes of visible ASCII, not starting with `__`, `claimed:`, `ip:` or `ua:`"
                ));
                continue;
            }
            for key in &account.keys {
                let at = format!("{path}.api_key {:?}", key.id);
                match parse_sha256(&key.sha256) {
                    None => problems.push(format!(
                        "{at}: not a SHA-256 hash; use 64 hexadecimal digits"
                    )),
                    Some(hash) => {
                        let entry = Key {
                            caller: account.name.clone(),
                            id: key.id.clone(),
                            not_after: key.not_after,
                            last_used: AtomicU64::new(0),
                        };
                        if let Some(twin) = roster.keys.insert(hash, entry) {
                            problems.push(format!("{at}: is also a key of caller.{}", twin.caller));
                        }
                    }
                }
            }
            if roster
                .accounts
                .insert(account.name.clone(), Arc::new(account))
                .is_some()
            {
                problems.push(format!("{path}: is named twice"));
            }
        }
        if problems.is_empty() {
            Ok(roster)
        } else {
            Err(problems)
        }
    }

    /// Takes over when the keys of an earlier roster were last used.
    #[cfg(feature = "config")]
    pub(crate) fn remember(&self, before: &Self) {
        for (hash, key) in &self.keys {
            let known = before.keys.get(hash).filter(|old| old.caller == key.caller);
            if let Some(secs) = known.and_then(Key::last_used) {
                key.last_used.fetch_max(secs, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.accounts.len()
    }

    pub(crate) fn account(&self, name: &str) -> Option<&Arc<Account>> {
        self.accounts.get(name)
    }

    pub(crate) fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values().map(|account| &**account)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.values()
    }

    /// The key with this hash, if it is on the roster and has not expired. The look-up is by the hash, so
    /// its timing tells nothing about a key.
    pub(crate) fn key(&self, sha256: &[u8; 32], now: Timestamp) -> Option<&Key> {
        let key = self.keys.get(sha256)?;
        if key.not_after.is_some_and(|end| now >= end) {
            return None;
        }
        let secs = now.as_secs();
        if key.last_used.load(Ordering::Relaxed) < secs {
            key.last_used.store(secs, Ordering::Relaxed);
        }
        Some(key)
    }
}

impl Key {
    /// Seconds since the Unix epoch at which the key was last seen, if ever.
    pub(crate) fn last_used(&self) -> Option<u64> {
        match self.last_used.load(Ordering::Relaxed) {
            0 => None,
            secs => Some(secs),
        }
    }
}

fn parse_sha256(hex: &str) -> Option<[u8; 32]> {
    let digits = hex.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(value(pair[0])? * 16 + value(pair[1])?).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_key_is_found_by_its_hash_until_it_ends() {
        let end = Timestamp::from_secs(100);
        let account = Account::new("checkout").api_key(ApiKey::sha256("k1", HASH).not_after(end));
        let roster = Roster::new(vec![account]).unwrap();
        let hash = parse_sha256(HASH).unwrap();
        let key = roster.key(&hash, Timestamp::from_secs(99)).unwrap();
        assert_eq!(
            (key.caller.as_str(), key.id.as_str(), key.last_used()),
            ("checkout", "k1", Some(99))
        );
        assert!(roster.key(&hash, end).is_none());
        assert!(roster.key(&[0; 32], Timestamp::ZERO).is_none());
    }

    #[test]
    fn every_problem_is_said_at_once_with_its_path() {
        let problems = Roster::new(vec![
            Account::new("ip:1"),
            Account::new("a").api_key(ApiKey::sha256("k", "xyz")),
            Account::new("b").api_key(ApiKey::sha256("k1", HASH)),
            Account::new("b").api_key(ApiKey::sha256("k2", HASH)),
        ])
        .unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems[0].starts_with("caller.ip:1: not a name"));
        assert!(problems[1].starts_with("caller.a.api_key \"k\": not a SHA-256"));
        assert!(problems[2].contains("is also a key of caller.b"));
        assert!(problems[3].contains("named twice"));
    }

    #[test]
    fn debug_shows_neither_key_nor_hash() {
        let account = Account::new("checkout").api_key(ApiKey::sha256("k1", HASH));
        let roster = Roster::new(vec![account.clone()]).unwrap();
        let shown = format!("{account:?} {:?}", roster.keys().collect::<Vec<_>>());
        assert!(
            shown.contains("k1") && !shown.contains(&HASH[..8]),
            "{shown}"
        );
    }
}

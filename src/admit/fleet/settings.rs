//! What an operator says of a fleet.

use std::fmt;

use sha2::{Digest, Sha256};

use super::cell::Home;

/// The longest name of a fleet.
const LONGEST: usize = 64;

/// The replicas that share quotas, and the Redis or Valkey through which they do.
///
/// ```no_run
/// use callerid::{Callers, Fleet, Quota, Scope, identify};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let callers = Callers::builder()
///     .identify(identify::header("x-client-id").verified())
///     .quota(Quota::per_second(500)) // each caller, over all replicas
///     .scope(Scope::Fleet)
///     .fleet(Fleet::new("prices-prod").redis(std::env::var("REDIS_URL")?))
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq)]
pub struct Fleet {
    pub(crate) namespace: Option<String>,
    pub(crate) redis: Option<String>,
    /// The variable that should have held the address and did not.
    pub(crate) unset: Option<String>,
    pub(crate) mode: Option<FleetMode>,
    pub(crate) on_failure: Option<OnFailure>,
    pub(crate) replicas: Option<u32>,
}

/// How replicas share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FleetMode {
    /// Replicas take tokens ahead of time, a few at once, which lapse after half a second. In any window `W` all of
    /// them together admit at most `B + r(W + 0.5 s)`. Only a caller that was silent waits for an answer.
    #[default]
    Leased,
    /// Every request asks, and waits for the answer: exact.
    Strict,
    /// Nobody asks: each replica has its share of the quota, by their number.
    Local,
}

/// What becomes of a request whose quota cannot be asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// The replica has its share of the quota, by the number of replicas that was known last.
    #[default]
    LocalShare,
    /// It is let in.
    Open,
    /// It is refused.
    Closed,
}

macro_rules! words {
    ($kind:ident: $($variant:ident = $word:literal),*) => {
        impl $kind {
            /// The words in the configuration.
            #[cfg_attr(not(feature = "config"), allow(dead_code, reason = "read from files"))]
            pub(crate) const WORDS: &[&str] = &[$($word),*];

            /// The word in the configuration.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            #[cfg_attr(not(feature = "config"), allow(dead_code, reason = "read from files"))]
            pub(crate) fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words!(FleetMode: Leased = "leased", Strict = "strict", Local = "local");
words!(OnFailure: LocalShare = "local_share", Open = "open", Closed = "closed");

impl Fleet {
    /// A fleet by its name: the service and its environment, such as `prices-prod`. Replicas of the same name share;
    /// many services may use one Redis.
    #[must_use]
    pub fn new(namespace: impl Into<String>) -> Self {
        Self {
            namespace: Some(namespace.into()),
            ..Self::unnamed()
        }
    }

    pub(crate) const fn unnamed() -> Self {
        Self {
            namespace: None,
            redis: None,
            unset: None,
            mode: None,
            on_failure: None,
            replicas: None,
        }
    }

    /// The address: `redis://host:6379`, with a user and a password where there are any. It is never shown.
    #[must_use]
    pub fn redis(mut self, url: impl Into<String>) -> Self {
        self.redis = Some(url.into());
        self
    }

    /// How replicas share; default [`FleetMode::Leased`].
    #[must_use]
    pub fn mode(mut self, mode: FleetMode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// What becomes of requests while the Redis does not answer; default [`OnFailure::LocalShare`].
    #[must_use]
    pub fn on_failure(mut self, policy: OnFailure) -> Self {
        self.on_failure = Some(policy);
        self
    }

    /// How many replicas there are, for the share of each. By default they count each other through the Redis.
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = Some(replicas);
        self
    }

    /// This one, with what it leaves open from `wider`.
    #[cfg(feature = "config")]
    pub(crate) fn over(self, wider: Option<&Self>) -> Self {
        let Some(wider) = wider.cloned() else {
            return self;
        };
        Self {
            namespace: self.namespace.or(wider.namespace),
            unset: self.unset.filter(|_| wider.redis.is_none()),
            redis: self.redis.or(wider.redis),
            mode: self.mode.or(wider.mode),
            on_failure: self.on_failure.or(wider.on_failure),
            replicas: self.replicas.or(wider.replicas),
        }
    }

    /// Everything that is wrong with it, with the paths of the configuration.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = self.wrong();
        problems.extend(self.missing());
        problems
    }

    /// What is said and cannot be. Never shows the address.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(name) = self.namespace.as_deref().filter(|name| !is_name(name)) {
            problems.push(format!(
                "fleet.namespace: {name:?} is not a name; use 1 to {LONGEST} letters, digits, `-`, `_` and `.`"
            ));
        }
        if self.replicas == Some(0) {
            problems
                .push("fleet.replicas: 0 is not a number of replicas; use 1 or more".to_owned());
        }
        let client = self.redis.as_deref().map(redis::Client::open);
        if client.is_some_and(|client| client.is_err()) {
            problems.push(
                "fleet.redis: is not an address; use one such as redis://host:6379, in { env = \"REDIS_URL\" } where it has a password".to_owned(),
            );
        }
        problems
    }

    /// What must be said and is not.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.namespace.is_none() {
            problems.push(
                "fleet.namespace: is missing; name the service and its environment, such as \"prices-prod\"".to_owned(),
            );
        }
        let local = self.mode == Some(FleetMode::Local);
        match (&self.redis, &self.unset) {
            (Some(_), _) => {}
            (None, Some(variable)) => problems.push(format!(
                "fleet.redis: {variable} is not set; put the address into the environment"
            )),
            (None, None) if !local => problems.push(
                "fleet.redis: is missing; use { env = \"REDIS_URL\" } or \"redis://host:6379\""
                    .to_owned(),
            ),
            (None, None) if self.replicas.is_none() => problems.push(
                "fleet.replicas: is missing; without a Redis replicas cannot count each other"
                    .to_owned(),
            ),
            (None, None) => {}
        }
        problems
    }
}

impl Fleet {
    /// The Redis and the namespace, hashed.
    pub(super) fn home(&self) -> Home {
        let parts = [&self.redis, &self.namespace].map(|part| part.as_deref().unwrap_or_default());
        Home(digest(&[], &parts.map(str::as_bytes)))
    }
}

fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=LONGEST).contains(&name.len()) && name.bytes().all(known)
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("namespace", &self.namespace)
            .field("mode", &self.mode)
            .field("on_failure", &self.on_failure)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

/// What a key says of whose bucket it is: a hash, so that it is bounded and shows no name. With a `secret` that all
/// replicas have, a name cannot be guessed from it either.
pub(super) fn digest(secret: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in [secret].iter().chain(parts) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    short
}

//! Who may look, and who may act.

use std::fmt;

use sha2::{Digest, Sha256};

use super::ask::Ask;
use super::budget::Budget;
use crate::clock::Timestamp;

/// Wrong tokens in a row that are answered as such, and nanoseconds until there may be another.
const GUESSES: u64 = 20;
const GUESS: u64 = 1_000_000_000;

/// What somebody may do. Three permissions, each by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    pub(super) read: bool,
    pub(super) own: Option<Own>,
    pub(super) author: Option<String>,
}

/// Whose own usage is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Own {
    Verified,
    Claimed,
}

impl Grant {
    /// Nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Everybody's traffic, incidents, the report.
    #[must_use]
    pub fn read(mut self) -> Self {
        self.read = true;
        self
    }

    /// The requester's own usage, if its identity is verified.
    #[must_use]
    pub fn self_service(mut self) -> Self {
        self.own = self.own.max(Some(Own::Verified));
        self
    }

    /// The requester's own usage, also where its name is only claimed: whoever says the name sees its usage.
    #[must_use]
    pub fn self_service_claimed(mut self) -> Self {
        self.own = Some(Own::Claimed);
        self
    }

    /// The brake, incidents and pins, under this name, which stands beside everything that is done.
    #[must_use]
    pub fn operate(mut self, author: impl Into<String>) -> Self {
        self.author = Some(author.into());
        self
    }
}

/// A bearer token, held as its SHA-256 hash.
#[derive(Clone)]
pub struct Token {
    sha256: [u8; 32],
    grant: Grant,
}

impl Token {
    /// A token that may read. `sha256` is the hash of the token, as 64 hexadecimal digits
    /// (`printf %s "$TOKEN" | sha256sum`); the token itself should be 32 random bytes or more.
    ///
    /// # Errors
    ///
    /// The hash is not one.
    pub fn reader(sha256: &str) -> Result<Self, TokenError> {
        Ok(Self {
            sha256: unhex(sha256).ok_or(TokenError(()))?,
            grant: Grant::nothing().read(),
        })
    }

    /// A token that may read and operate; what is done with it is done by `author`.
    ///
    /// # Errors
    ///
    /// The hash is not one.
    pub fn operator(author: &str, sha256: &str) -> Result<Self, TokenError> {
        let mut token = Self::reader(sha256)?;
        token.grant = token.grant.operate(author);
        Ok(token)
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let [high, low] = pair else { return None };
        let digit = |digit: &u8| char::from(*digit).to_digit(16);
        *byte = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
    }
    Some(bytes)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}

/// The hash of a token that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenError(());

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the SHA-256 hash of a token; use its 64 hexadecimal digits")
    }
}

impl std::error::Error for TokenError {}

type Hook = dyn Fn(&Ask<'_>) -> Grant + Send + Sync;

/// Who may do what on the page.
///
/// ```
/// use callerid::dashboard::{Access, Grant, Token};
///
/// // The tokens of people; a client team sees its own usage by its own identity.
/// let access = Access::tokens([
///     Token::reader("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")?,
///     Token::operator("alice", "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752")?,
/// ])
/// .self_service();
///
/// // Or your own authentication, which has left what it knows.
/// #[derive(Clone)]
/// struct Employee { name: String }
/// let access = Access::from_fn(|ask| match ask.extensions().get::<Employee>() {
///     Some(person) => Grant::nothing().read().operate(&person.name),
///     None => Grant::nothing(),
/// });
/// # Ok::<(), callerid::dashboard::TokenError>(())
/// ```
///
/// No cookie is set or believed here. A closure may ask what a browser sends by itself (the session of a proxy, a client's
/// certificate): the page sends it along, and writes from a foreign page are refused by `Origin` and `Sec-Fetch-Site`.
pub struct Access {
    rule: Rule,
    own: bool,
    guesses: Budget,
}

enum Rule {
    Local { operate: bool },
    Tokens(Vec<Token>),
    Hook(Box<Hook>),
}

impl Default for Access {
    fn default() -> Self {
        Self::local()
    }
}

impl Access {
    /// The default: whoever is on this machine may read, and see its own usage; nobody may operate.
    ///
    /// **With a sidecar, a balancer or a tunnel on this machine every peer is on this machine: use
    /// [`Access::tokens`] there.** Proxies that add a header of theirs (`Forwarded`, `X-Forwarded-*`, `X-Real-IP`,
    /// `Via`, `X-Envoy-*`, `CF-Connecting-IP`, `True-Client-IP` and their like), that speak HTTP/1.0 as nginx does
    /// unless told otherwise, or that pass on the name of a public host, are seen through and get nothing. **What passes
    /// bytes alone is not seen through** (HAProxy in TCP mode, nginx `stream`, `ssh -L`, `socat`, `kubectl
    /// port-forward`), **nor is a proxy that adds nothing, speaks HTTP/1.1 and leaves the `Host` to the client or makes
    /// it `localhost`**: whoever reaches that reaches this.
    #[must_use]
    pub fn local() -> Self {
        Self {
            rule: Rule::Local { operate: false },
            own: false,
            guesses: Budget::default(),
        }
    }

    /// Whoever is on this machine may operate too: for a machine of one's own.
    #[must_use]
    pub fn local_operator() -> Self {
        Self {
            rule: Rule::Local { operate: true },
            own: false,
            guesses: Budget::default(),
        }
    }

    /// Whoever has one of these tokens may do what it says; nobody else may do anything. The page asks for it, and
    /// keeps it in memory alone.
    ///
    /// Wrong ones beyond twenty in a row and one a second, whoever sends them, are answered with a 429, and the log
    /// says that somebody tries. A right one is never held up by that: nobody can lock out who operates by
    /// guessing, so what keeps guesses from being right is the length of the token alone.
    #[must_use]
    pub fn tokens(tokens: impl IntoIterator<Item = Token>) -> Self {
        Self {
            rule: Rule::Tokens(tokens.into_iter().collect()),
            own: false,
            guesses: Budget::default(),
        }
    }

    /// What this closure says.
    #[must_use]
    pub fn from_fn(hook: impl Fn(&Ask<'_>) -> Grant + Send + Sync + 'static) -> Self {
        Self {
            rule: Rule::Hook(Box::new(hook)),
            own: false,
            guesses: Budget::default(),
        }
    }

    /// Every caller whose identity is verified may see its own usage, wherever it comes from.
    #[must_use]
    pub fn self_service(mut self) -> Self {
        self.own = true;
        self
    }

    pub(super) fn grant(&self, ask: &Ask<'_>) -> Grant {
        let grant = match &self.rule {
            Rule::Local { operate } if ask.is_local() => {
                let grant = Grant::nothing().read().self_service();
                if *operate {
                    grant.operate("local")
                } else {
                    grant
                }
            }
            Rule::Local { .. } => Grant::nothing(),
            Rule::Tokens(tokens) => ask.bearer().map_or_else(Grant::nothing, |token| {
                let hash: [u8; 32] = Sha256::digest(token).into();
                let right = |found, token: &'_ Token| {
                    let grant = same(&token.sha256, &hash).then(|| token.grant.clone());
                    grant.or(found)
                };
                tokens.iter().fold(None, right).unwrap_or_default()
            }),
            Rule::Hook(hook) => hook(ask),
        };
        if self.own {
            grant.self_service()
        } else {
            grant
        }
    }

    /// Whether the token that was sent is one wrong one too many.
    pub(super) fn is_guessed(&self, ask: &Ask<'_>, grant: &Grant, now: Timestamp) -> bool {
        let wrong = matches!(self.rule, Rule::Tokens(_)) && ask.bearer().is_some() && !grant.read;
        if !wrong || self.guesses.take(GUESSES, GUESS, now) {
            return false;
        }
        if self.guesses.say(now) {
            tracing::warn!(peer = ?ask.peer(), "callerid: somebody tries wrong tokens on the page, again and again");
        }
        true
    }

    /// Whether a browser may have the empty page, to ask for a token in it.
    pub(super) fn asks_for_token(&self) -> bool {
        matches!(self.rule, Rule::Tokens(_))
    }

    /// Why nothing was granted, and what to do.
    pub(super) fn refusal(&self, ask: &Ask<'_>) -> String {
        let said = match &self.rule {
            Rule::Tokens(_) => "a bearer token that may do this is needed",
            Rule::Hook(_) => "not allowed",
            Rule::Local { .. } if ask.peer().is_none() => {
                "the peer's address is not known, and only this machine is answered: serve with \
                 `into_make_service_with_connect_info::<SocketAddr>()`, or give `Builder::peer`"
            }
            Rule::Local { .. } if ask.is_local() => {
                "looking is allowed from this machine, operating is not: see `Access::local_operator` and `Access::tokens`"
            }
            Rule::Local { .. } => {
                "only this machine is answered, straight and by its loopback name; for others see `Access::tokens`"
            }
        };
        said.to_owned()
    }
}

/// Looks at every byte, so that time tells nothing.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let differing = a.iter().zip(b).fold(0, |seen, (a, b)| seen | (a ^ b));
    std::hint::black_box(differing) == 0
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.rule {
            Rule::Local { operate: false } => "Access::local",
            Rule::Local { operate: true } => "Access::local_operator",
            Rule::Tokens(_) => "Access::tokens",
            Rule::Hook(_) => "Access::from_fn",
        })
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::super::ask::{FORWARDING, FORWARDING_FAMILIES};
    use super::*;

    fn granted(access: &Access, peer: Option<&str>, headers: &[(&str, &str)]) -> Grant {
        let mut request = Request::new(());
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        access.grant(&Ask::of(&request, peer.map(|peer| peer.parse().unwrap())))
    }

    #[test]
    fn the_default_answers_this_machine_alone_and_lets_nobody_write() {
        let access = Access::default();
        let host = ("host", "localhost:3000");
        let local = Grant::nothing().read().self_service();
        for peer in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.9.9.9"] {
            assert_eq!(granted(&access, Some(peer), &[host]), local, "{peer}");
        }
        for peer in [None, Some("10.0.0.1"), Some("2001:db8::1")] {
            assert_eq!(granted(&access, peer, &[host]), Grant::nothing());
        }
        let families = FORWARDING_FAMILIES.map(|family| format!("{family}-for"));
        let families = families.iter().map(String::as_str);
        for header in FORWARDING.into_iter().chain(families) {
            let headers = [host, (header, "127.0.0.1")];
            assert_eq!(
                granted(&access, Some("127.0.0.1"), &headers),
                Grant::nothing()
            );
        }
    }

    #[test]
    fn a_foreign_name_for_this_machine_is_not_this_machine() {
        let access = Access::local_operator();
        for host in [
            "evil.example",
            "evil.example:3000",
            "127.0.0.1.evil.example",
            "",
        ] {
            let granted = granted(&access, Some("127.0.0.1"), &[("host", host)]);
            assert_eq!(granted, Grant::nothing(), "{host}");
        }
        for host in [
            "127.0.0.1:3000",
            "[::1]:3000",
            "[::1]",
            "LOCALHOST",
            "localhost",
        ] {
            let granted = granted(&access, Some("127.0.0.1"), &[("host", host)]);
            assert_eq!(granted.author.as_deref(), Some("local"), "{host}");
        }
    }

    #[test]
    fn a_token_does_what_it_says_and_nothing_else_does() {
        let hash = |text: &str| {
            let digest = Sha256::digest(text);
            digest
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let access = Access::tokens([
            Token::reader(&hash("look")).unwrap(),
            Token::operator("alice", &hash("act")).unwrap(),
        ]);
        let with = |value: &str| granted(&access, Some("127.0.0.1"), &[("authorization", value)]);
        assert_eq!(with("Bearer look"), Grant::nothing().read());
        assert_eq!(with("bearer act"), Grant::nothing().read().operate("alice"));
        for wrong in ["Bearer", "Bearer ", "Bearer lookk", "Basic look", "look"] {
            assert_eq!(with(wrong), Grant::nothing(), "{wrong}");
        }
        assert_eq!(
            granted(&access, Some("127.0.0.1"), &[("host", "localhost")]),
            Grant::nothing()
        );
        assert!(Token::reader("xyz").is_err());
        assert!(!format!("{access:?}").contains("look"));
    }
}

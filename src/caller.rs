//! Who is calling: a name, and how sure we are of it.

use std::fmt;
use std::sync::Arc;

/// The longest name, in bytes, that a caller can have.
pub const MAX_NAME: usize = 64;

/// The row that callers without a row of their own share.
pub const OTHER: &str = "__other__";
/// The row of requests without an identity.
pub const UNKNOWN: &str = "__unknown__";
/// The row of requests whose identity is not a valid name.
pub const INVALID: &str = "__invalid__";
/// The row of requests to exempt routes, such as probes.
pub const EXEMPT: &str = "__exempt__";

/// Prefixes of names that are ours: a client cannot claim one.
const RESERVED: [&str; 4] = ["__", "claimed:", "ip:", "ua:"];

/// How we know who is calling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
#[repr(u8)]
pub enum Provenance {
    /// Proven: mutual TLS, a validated token, an API key on the roster, a header that a gateway sets.
    Verified,
    /// A header that anyone can set.
    Claimed,
    /// Concluded from the address or the user agent.
    Inferred,
    /// Not known.
    Unknown,
}

impl Provenance {
    /// Every provenance, strongest first.
    pub const ALL: [Self; 4] = [Self::Verified, Self::Claimed, Self::Inferred, Self::Unknown];

    /// The value of the metric label `provenance`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Claimed => "claimed",
            Self::Inferred => "inferred",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which part of the request said who is calling. A metric label, hence a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
#[repr(u8)]
pub enum Source {
    /// A header.
    Header,
    /// An API key on the roster.
    ApiKey,
    /// An API key that nobody has, or that has expired.
    ApiKeyUnknown,
    /// An extension that the service's own authentication left in the request.
    Extension,
    /// Envoy's `x-forwarded-client-cert`.
    Xfcc,
    /// A peer certificate.
    Certificate,
    /// A forwarded address.
    Forwarded,
    /// The peer's address.
    Peer,
    /// The `User-Agent` header.
    UserAgent,
    /// A closure of the service's own.
    Custom,
    /// The service itself, after authentication inside.
    Late,
    /// No source answered.
    None,
    /// A source answered with something that is not a name.
    Invalid,
}

impl Source {
    /// Every source, in the order of its discriminant.
    pub const ALL: [Self; 13] = [
        Self::Header,
        Self::ApiKey,
        Self::ApiKeyUnknown,
        Self::Extension,
        Self::Xfcc,
        Self::Certificate,
        Self::Forwarded,
        Self::Peer,
        Self::UserAgent,
        Self::Custom,
        Self::Late,
        Self::None,
        Self::Invalid,
    ];

    /// The value of the metric label `source`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::ApiKey => "api_key",
            Self::ApiKeyUnknown => "api_key_unknown",
            Self::Extension => "extension",
            Self::Xfcc => "xfcc",
            Self::Certificate => "certificate",
            Self::Forwarded => "forwarded",
            Self::Peer => "peer",
            Self::UserAgent => "user_agent",
            Self::Custom => "custom",
            Self::Late => "late",
            Self::None => "none",
            Self::Invalid => "invalid",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The caller of a request, as handlers see it: in the request's extensions, and with feature `axum` as an
/// extractor. A clone is a reference count.
///
/// The name is what a service may show and log; it never is a secret. A request without identity has the
/// caller `__unknown__`, so code that only wants a name needs no special case.
#[derive(Clone)]
pub struct Caller(Arc<Inner>);

struct Inner {
    name: Box<str>,
    provenance: Provenance,
    source: Source,
    /// Which [`Callers`](crate::Callers) attributed the request: a second layer of the same one must not
    /// count it again.
    by: u64,
}

impl Caller {
    pub(crate) fn new(name: &str, provenance: Provenance, source: Source, by: u64) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            provenance,
            source,
            by,
        }))
    }

    /// The caller that nothing is known of.
    #[must_use]
    pub fn unknown() -> Self {
        Self::new(UNKNOWN, Provenance::Unknown, Source::None, 0)
    }

    /// The caller's name: 1 to 64 bytes of visible ASCII; of a claim to a proven name `claimed:` and that name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How we know.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        self.0.provenance
    }

    /// Which part of the request said so.
    #[must_use]
    pub fn source(&self) -> Source {
        self.0.source
    }

    /// Whether the name is proven, not only claimed or concluded.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.0.provenance == Provenance::Verified
    }

    /// Whether the request has an identity at all.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.0.provenance != Provenance::Unknown
    }

    pub(crate) fn attributed_by(&self) -> u64 {
        self.0.by
    }

    /// The same words in an allocation of its own, so that threads need not share a reference count.
    pub(crate) fn detached(&self) -> Self {
        Self::new(&self.0.name, self.0.provenance, self.0.source, self.0.by)
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("name", &self.name())
            .field("provenance", &self.0.provenance)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.0.provenance == other.0.provenance
    }
}

impl Eq for Caller {}

/// `raw` without surrounding white space, if that is a name that a client may have: 1 to 64 bytes of visible
/// ASCII, outside of the prefixes that are ours. Looks at no more than it needs, however long `raw` is.
#[must_use]
pub fn valid_name(raw: &[u8]) -> Option<&str> {
    valid_token(raw).filter(|name| !is_ours(name))
}

/// Like [`valid_name`], for what is known to be text: that check is half the cost of a short name.
#[inline]
pub(crate) fn valid_name_in(text: &str) -> Option<&str> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let bytes = text.as_bytes();
    if bytes.first().is_some_and(blank) || bytes.last().is_some_and(blank) {
        return valid_name(bytes); // a server has trimmed its headers: not worth a second way
    }
    let fits = (1..=MAX_NAME).contains(&bytes.len());
    (fits && all_visible(bytes) && !is_ours(text)).then_some(text)
}

/// Whether all of it is visible ASCII. Eight bytes at a time: this runs on every request.
#[inline]
fn all_visible(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    let (words, rest) = bytes.as_chunks();
    // The last eight, some of them for the second time.
    let last = bytes.last_chunk();
    let visible = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word);
        // The highest bit of a byte is set where it is not ASCII, is DEL, or is below `!`. What one byte takes of or gives
        // to the next changes nothing: the highest bit of the one is set then.
        let wrong = word | word.wrapping_add(ONES) | word.wrapping_sub(ONES * u64::from(b'!'));
        wrong & (ONES << 7) == 0
    };
    match last {
        Some(last) => words.iter().all(visible) && visible(last),
        None => rest.iter().all(u8::is_ascii_graphic),
    }
}

/// Whether a name begins with a prefix of ours.
#[inline]
fn is_ours(name: &str) -> bool {
    // A few bytes rule out nearly every name, `client-7` too, before four prefixes are compared.
    matches!(
        name.as_bytes(),
        [b'_', b'_', ..] | [b'c', b'l', b'a', ..] | [b'i', b'p', b':', ..] | [b'u', b'a', b':', ..]
    ) && RESERVED.iter().any(|ours| name.starts_with(ours))
}

/// Like [`valid_name`], with our own prefixes allowed: for names that this crate makes.
pub(crate) fn valid_token(raw: &[u8]) -> Option<&str> {
    let trimmed = trim(raw);
    if trimmed.is_empty() || trimmed.len() > MAX_NAME {
        return None;
    }
    if !trimmed.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    std::str::from_utf8(trimmed).ok()
}

/// Trims at most a name's worth of blanks on either side: a header of a megabyte of blanks is no name.
fn trim(mut raw: &[u8]) -> &[u8] {
    for _ in 0..MAX_NAME {
        match raw {
            [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] => raw = rest,
            _ => break,
        }
    }
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_the_word_that_is_promised() {
        let words = "header api_key api_key_unknown extension xfcc certificate forwarded peer user_agent custom late \
                     none invalid";
        assert_eq!(Source::ALL.map(Source::as_str).join(" "), words);
    }

    #[test]
    fn names_are_visible_ascii_of_bounded_length() {
        assert_eq!(valid_name(b"checkout"), Some("checkout"));
        assert_eq!(valid_name(b" \tcheckout "), Some("checkout"));
        assert_eq!(valid_name(&[b'a'; 64]).map(str::len), Some(64));
        for bad in [
            &b""[..],
            b"  ",
            &[b'a'; 65],
            b"a b",
            b"a\nb",
            b"a\0",
            "grüß".as_bytes(),
            &[0xff, 0xfe],
            b"\x7f",
        ] {
            assert_eq!(valid_name(bad), None, "{bad:?}");
            assert_eq!(std::str::from_utf8(bad).ok().and_then(valid_name_in), None);
        }
        assert_eq!(valid_name_in(" \tcheckout "), Some("checkout"));
        assert_eq!(valid_name_in("checkout"), Some("checkout"));
        assert_eq!(valid_name_in("ip:checkout"), None);
    }

    #[test]
    fn eight_bytes_at_a_time_are_what_they_are_one_by_one() {
        for at in 0..20 {
            for byte in 0..=u8::MAX {
                let mut name = *b"checkout-of-the-shop";
                name[at] = byte;
                let wanted = name.iter().all(u8::is_ascii_graphic);
                assert_eq!(all_visible(&name), wanted, "{byte:#x} at {at}");
            }
        }
    }

    #[test]
    fn a_client_cannot_claim_a_name_that_is_ours() {
        for ours in [
            "__other__",
            "__unknown__",
            "__x",
            "claimed:checkout",
            "ip:10.0.0.1",
            "ua:curl",
        ] {
            assert_eq!(valid_name(ours.as_bytes()), None, "{ours}");
            assert_eq!(valid_token(ours.as_bytes()), Some(ours));
        }
        for theirs in ["_x", "claimed", "ipsum", "uart", "checkout__"] {
            assert_eq!(valid_name(theirs.as_bytes()), Some(theirs));
        }
    }

    #[test]
    fn a_megabyte_of_blanks_is_no_name() {
        let after = |blanks| [vec![b' '; blanks], b"checkout".to_vec()].concat();
        assert_eq!(valid_name(&after(MAX_NAME)), Some("checkout"));
        assert_eq!(valid_name(&after(1 << 20)), None);
        assert_eq!(valid_name(&vec![b' '; 1 << 20]), None);
    }

    #[test]
    fn discriminants_index_the_lists_of_all() {
        for (index, source) in Source::ALL.into_iter().enumerate() {
            assert_eq!(source as usize, index);
        }
        for (index, provenance) in Provenance::ALL.into_iter().enumerate() {
            assert_eq!(provenance as usize, index);
        }
    }
}

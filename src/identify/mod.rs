//! Who is calling? A source reads the head of a request and answers with an [`Identity`], or not at all.
//!
//! Sources are asked in the order in which they were added; the first that answers decides. A source that
//! finds its evidence but cannot use it (a malformed name, an API key that nobody has) answers too, with
//! [`Identity::invalid`] or [`Identity::unknown`]: a request never falls through to a weaker source because
//! its stronger one was broken.
//!
//! | source | provenance | the request is from |
//! |---|---|---|
//! | [`header`] | claimed, or verified where a gateway sets it | whatever the header names |
//! | [`api_key`] | verified | the caller on the roster who has the key |
//! | [`extension`] | verified | what the service's own authentication or TLS acceptor left |
//! | [`xfcc`] | verified, from a trusted proxy | the certificate's SPIFFE id, URI, DNS name or subject |
//! | [`forwarded`] | inferred | the nearest address that is not a trusted proxy |
//! | [`peer_addr_with`] | inferred | the peer's address |
//! | [`user_agent`] | inferred | the product token of `User-Agent` |
//! | [`from_fn`] | as the closure says | as the closure says |
//!
//! Nothing here allocates in proportion to a header, and nothing panics.

mod api_key;
#[cfg(feature = "axum")]
mod connect_info;
mod extension;
mod forwarded;
mod header;
mod hops;
mod list;
mod peer;
mod spiffe;
#[cfg(test)]
mod testing;
mod trust;
mod user_agent;
mod xfcc;

use std::fmt;
use std::sync::LazyLock;

use http::{Extensions, HeaderMap, Method, Uri, Version};

use crate::caller::{
    INVALID, MAX_NAME, Provenance, Source, UNKNOWN, valid_name, valid_name_in, valid_token,
};
use crate::clock::Timestamp;
use crate::roster::Roster;

pub use api_key::{ApiKeySource, api_key};
#[cfg(feature = "axum")]
pub use connect_info::peer_addr;
pub use extension::{ExtensionSource, extension};
pub use forwarded::{ForwardedSource, forwarded};
pub use header::{HeaderSource, header};
pub use hops::ForwardedHeader;
pub use peer::{Address, PeerSource, peer_addr_with};
pub use user_agent::{UserAgentSource, user_agent};
pub use xfcc::{XfccSource, xfcc};

/// Tells who is calling, from the head of a request.
///
/// Implement it for a scheme of your own, or pass a closure to [`from_fn`]. It runs on every request, before
/// anything else of the service: do no I/O, take no lock that is held for long. A panic in it makes the
/// request `__unknown__`, whatever weaker sources would have said.
pub trait Identify: Send + Sync + 'static {
    /// The identity that this source finds, or `None` where the request carries nothing of its kind.
    fn identify<'h>(&self, head: &'h Head<'_>) -> Option<Identity<'h>>;

    /// What is wrong with this source's own configuration, such as a header name that is none. Asked once, when
    /// [`Callers`](crate::Callers) are built; a source with a problem must still not panic on a request.
    fn problem(&self) -> Option<String> {
        None
    }
}

impl Identify for Box<dyn Identify> {
    fn identify<'h>(&self, head: &'h Head<'_>) -> Option<Identity<'h>> {
        (**self).identify(head)
    }

    fn problem(&self) -> Option<String> {
        (**self).problem()
    }
}

/// What a source may look at: the head of a request, borrowed.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
    roster: &'a Roster,
    now: Timestamp,
}

impl<'a> Head<'a> {
    /// The head of a request, for testing a source by itself; its roster is empty and its time is zero.
    #[must_use]
    pub fn of<B>(request: &'a http::Request<B>) -> Self {
        static NOBODY: LazyLock<Roster> = LazyLock::new(Roster::default);
        Self::new(request, &NOBODY, Timestamp::ZERO)
    }

    pub(crate) fn new<B>(
        request: &'a http::Request<B>,
        roster: &'a Roster,
        now: Timestamp,
    ) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
            roster,
            now,
        }
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The URI.
    #[must_use]
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// The version of HTTP.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// The extensions that outer layers, the router or the listener left.
    #[must_use]
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }

    /// When the request arrived.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn roster(&self) -> &'a Roster {
        self.roster
    }
}

impl fmt::Debug for Head<'_> {
    /// Leaves headers out: they hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("method", self.method)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What a source found: a name that is borrowed from the request or written in place, how sure it is, and
/// where it comes from. Never on the heap.
#[derive(Clone)]
pub struct Identity<'h> {
    name: Name<'h>,
    provenance: Provenance,
    source: Source,
}

#[derive(Clone)]
enum Name<'h> {
    Borrowed(&'h str),
    Inline { bytes: [u8; MAX_NAME], len: u8 },
    Unknown,
    Invalid,
}

impl<'h> Identity<'h> {
    /// A proven name, from [`from_fn`]: a validated claim, a peer certificate.
    #[must_use]
    pub fn verified(name: &'h str) -> Self {
        Self::named_in(name, Provenance::Verified, Source::Custom)
    }

    /// A name that anyone could have given.
    #[must_use]
    pub fn claimed(name: &'h str) -> Self {
        Self::named_in(name, Provenance::Claimed, Source::Custom)
    }

    /// A request whose caller this source cannot tell, although it found evidence: no weaker source is asked.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            name: Name::Unknown,
            provenance: Provenance::Unknown,
            source: Source::None,
        }
    }

    /// A request whose identity is not a valid name: no weaker source is asked.
    #[must_use]
    pub fn invalid() -> Self {
        Self {
            name: Name::Invalid,
            provenance: Provenance::Unknown,
            source: Source::Invalid,
        }
    }

    /// The same identity, said to come from `source`.
    #[must_use]
    pub fn from_source(mut self, source: Source) -> Self {
        // What is not a name stays countable as such.
        if !matches!(self.name, Name::Invalid) {
            self.source = source;
        }
        self
    }

    /// A name of the client's choosing: anything that is not a valid name is [`Identity::invalid`].
    #[must_use]
    pub(crate) fn named(raw: &'h [u8], provenance: Provenance, source: Source) -> Self {
        match valid_name(raw) {
            Some(name) => Self::of_valid(name, provenance, source),
            None => Self::invalid(),
        }
    }

    /// A name that [`valid_name`] has passed.
    #[inline]
    pub(crate) fn of_valid(name: &'h str, provenance: Provenance, source: Source) -> Self {
        Self {
            name: Name::Borrowed(name),
            provenance,
            source,
        }
    }

    /// Like [`Identity::named`], for what is known to be text.
    pub(crate) fn named_in(text: &'h str, provenance: Provenance, source: Source) -> Self {
        match valid_name_in(text) {
            Some(name) => Self::of_valid(name, provenance, source),
            None => Self::invalid(),
        }
    }

    /// A name that this crate makes of `parts`, prefix included (`ip:…`, `ua:…`).
    pub(crate) fn inline(parts: &[&str], provenance: Provenance, source: Source) -> Self {
        let mut bytes = [0; MAX_NAME];
        let mut len = 0;
        for part in parts {
            let Some(room) = bytes.get_mut(len..len + part.len()) else {
                return Self::invalid();
            };
            room.copy_from_slice(part.as_bytes());
            len += part.len();
        }
        if valid_token(&bytes[..len]).is_none() {
            return Self::invalid();
        }
        Self {
            name: Name::Inline {
                bytes,
                len: len as u8,
            },
            provenance,
            source,
        }
    }

    /// The caller's name; `__unknown__` or `__invalid__` where there is none.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.name {
            Name::Borrowed(name) => name,
            Name::Inline { bytes, len } => {
                std::str::from_utf8(&bytes[..usize::from(*len)]).unwrap_or(INVALID)
            }
            Name::Unknown => UNKNOWN,
            Name::Invalid => INVALID,
        }
    }

    /// How sure the source is.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        self.provenance
    }

    /// Where the name comes from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// Whether this is a name, rather than `__unknown__` or `__invalid__`.
    #[must_use]
    pub fn is_named(&self) -> bool {
        matches!(self.name, Name::Borrowed(_) | Name::Inline { .. })
    }

    /// The name, where it is the request's own.
    #[inline]
    pub(crate) fn borrowed(&self) -> Option<&'h str> {
        match self.name {
            Name::Borrowed(name) => Some(name),
            _ => None,
        }
    }

    pub(crate) fn is_invalid(&self) -> bool {
        matches!(self.name, Name::Invalid)
    }
}

impl fmt::Debug for Identity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name())
            .field("provenance", &self.provenance)
            .field("source", &self.source)
            .finish()
    }
}

/// A closure as a source.
///
/// ```
/// use callerid::identify::{self, Identity};
///
/// #[derive(Clone)]
/// struct Claims { sub: String } // left in the extensions by the service's own authentication
///
/// let source = identify::from_fn(|head| {
///     let claims = head.extensions().get::<Claims>()?;
///     Some(Identity::verified(&claims.sub))
/// });
/// ```
pub fn from_fn<F>(f: F) -> FromFn<F>
where
    F: for<'h> Fn(&'h Head<'_>) -> Option<Identity<'h>> + Send + Sync + 'static,
{
    FromFn(f)
}

/// A source made by [`from_fn`].
#[derive(Clone)]
pub struct FromFn<F>(F);

impl<F> Identify for FromFn<F>
where
    F: for<'h> Fn(&'h Head<'_>) -> Option<Identity<'h>> + Send + Sync + 'static,
{
    fn identify<'h>(&self, head: &'h Head<'_>) -> Option<Identity<'h>> {
        (self.0)(head)
    }
}

impl<F> fmt::Debug for FromFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FromFn")
    }
}

/// Several sources as one: the first that answers decides.
pub fn first_of(sources: impl IntoIterator<Item = Box<dyn Identify>>) -> FirstOf {
    FirstOf(sources.into_iter().collect())
}

/// A source made by [`first_of`].
pub struct FirstOf(Box<[Box<dyn Identify>]>);

impl Identify for FirstOf {
    fn identify<'h>(&self, head: &'h Head<'_>) -> Option<Identity<'h>> {
        self.0.iter().find_map(|source| source.identify(head))
    }

    fn problem(&self) -> Option<String> {
        joined(self.0.iter().filter_map(Identify::problem))
    }
}

impl fmt::Debug for FirstOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FirstOf({} sources)", self.0.len())
    }
}

/// Several problems as one.
fn joined(problems: impl IntoIterator<Item = String>) -> Option<String> {
    problems
        .into_iter()
        .reduce(|all, one| format!("{all}; {one}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_borrowed_or_written_in_place() {
        let verified = Identity::verified("checkout");
        assert_eq!((verified.name(), verified.is_named()), ("checkout", true));
        let inline = Identity::inline(&["ip:", "10.0.0.1"], Provenance::Inferred, Source::Peer);
        assert_eq!(
            (inline.name(), inline.source()),
            ("ip:10.0.0.1", Source::Peer)
        );
        let long = Identity::inline(
            &["ua:", &"x".repeat(62)],
            Provenance::Inferred,
            Source::UserAgent,
        );
        assert!(long.is_invalid());
    }

    #[test]
    fn what_is_no_name_is_invalid_and_stays_countable_as_such() {
        for bad in ["", "a b", "__other__", "ip:1.2.3.4", &"x".repeat(65)] {
            let identity = Identity::verified(bad).from_source(Source::Extension);
            assert_eq!(
                (identity.name(), identity.source()),
                (INVALID, Source::Invalid),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_first_source_that_answers_decides() {
        let request = http::Request::new(());
        let head = Head::of(&request);
        let silent: Box<dyn Identify> = Box::new(from_fn(|_| None));
        let first: Box<dyn Identify> = Box::new(from_fn(|_| Some(Identity::unknown())));
        let second: Box<dyn Identify> = Box::new(from_fn(|_| Some(Identity::verified("b"))));
        let found = first_of([silent, first, second]).identify(&head).unwrap();
        assert_eq!(found.name(), UNKNOWN);
    }

    #[test]
    fn problems_of_every_source_are_said_together() {
        let bad: Box<dyn Identify> = Box::new(header("x y"));
        let good: Box<dyn Identify> = Box::new(header("x-client-id"));
        let worse: Box<dyn Identify> = Box::new(header(""));
        assert_eq!(good.problem(), None);
        let both = first_of([bad, good, worse]).problem().unwrap();
        assert!(
            both.contains("\"x y\"") && both.contains("; header \"\""),
            "{both}"
        );
    }
}

//! A header that names the client.

use http::HeaderValue;
use http::header::{HeaderMap, HeaderName, ValueIter};

use super::{Head, Identify, Identity};
use crate::caller::{MAX_NAME, Provenance, Source, valid_name_in};

/// The client's name is the value of the header `name`.
///
/// Anyone can set a header, so the name is [`Claimed`](Provenance::Claimed); a service behind a gateway that
/// authenticates its clients and sets the header itself, whatever the client sent, says [`HeaderSource::verified`].
///
/// A request without the header is for the next source. One whose header is empty, too long or not visible
/// ASCII is [`Identity::invalid`], and so is one that carries the header twice with different values: a gateway
/// that checks one line and a service that reads the other is how names are smuggled.
///
/// Costs one look-up in the header map; the name is borrowed.
///
/// ```
/// use callerid::identify::{self, Head, Identify};
///
/// let request = http::Request::builder().header("x-client-id", "checkout").body(()).unwrap();
/// let head = Head::of(&request);
/// let caller = identify::header("x-client-id").verified().identify(&head).unwrap();
/// assert_eq!(caller.name(), "checkout");
/// ```
#[must_use]
pub fn header(name: &str) -> HeaderSource {
    HeaderSource {
        header: NamedHeader::new(name),
        provenance: Provenance::Claimed,
    }
}

/// A source made by [`header`].
#[derive(Clone, Debug)]
pub struct HeaderSource {
    header: NamedHeader,
    provenance: Provenance,
}

impl HeaderSource {
    /// Says that a gateway sets the header and overwrites what a client sends.
    #[must_use]
    pub fn verified(mut self) -> Self {
        self.provenance = Provenance::Verified;
        self
    }
}

impl Identify for HeaderSource {
    #[inline]
    fn identify<'h>(&self, head: &'h Head<'_>) -> Option<Identity<'h>> {
        let header = self.header.name()?;
        let headers = head.headers();
        let Some(name) = name_in(headers.get(header)?) else {
            return Some(Identity::invalid());
        };
        // With as many lines as names no header is there twice.
        if headers.len() > headers.keys_len()
            && headers
                .get_all(header)
                .iter()
                .any(|line| name_in(line) != Some(name))
        {
            return Some(Identity::invalid());
        }
        Some(Identity::of_valid(name, self.provenance, Source::Header))
    }

    fn problem(&self) -> Option<String> {
        self.header.problem()
    }
}

/// The name that a header line is.
#[inline]
fn name_in(line: &HeaderValue) -> Option<&str> {
    // `to_str` looks at every byte; what is longer than this is no name, blanks around it or not.
    let short = line.len() <= 2 * MAX_NAME;
    short
        .then(|| line.to_str().ok())
        .flatten()
        .and_then(valid_name_in)
}

/// The name of a header, or what was given for one: building a source has no `Result`, so the mistake is kept
/// until the configuration is checked.
#[derive(Clone, Debug)]
pub(super) struct NamedHeader(Result<HeaderName, Box<str>>);

impl NamedHeader {
    pub(super) fn new(name: &str) -> Self {
        Self(HeaderName::from_bytes(name.as_bytes()).map_err(|_| name.into()))
    }

    pub(super) fn is(&self, name: &HeaderName) -> bool {
        self.0.as_ref().is_ok_and(|own| own == name)
    }

    pub(super) fn name(&self) -> Option<&HeaderName> {
        self.0.as_ref().ok()
    }

    /// The header's lines, after one look-up; none where the name is none.
    #[inline]
    pub(super) fn lines<'h>(&self, headers: &'h HeaderMap) -> Option<ValueIter<'h, HeaderValue>> {
        let name = self.0.as_ref().ok()?;
        Some(headers.get_all(name).iter())
    }

    pub(super) fn problem(&self) -> Option<String> {
        let wrong = self.0.as_ref().err()?;
        Some(format!("header {wrong:?} is not a header name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::INVALID;
    use crate::identify::testing::request;

    fn name_of(lines: &[&[u8]]) -> Option<String> {
        let lines: Vec<_> = lines.iter().map(|line| ("x-client-id", *line)).collect();
        let request = request(&lines);
        let head = Head::of(&request);
        let found = header("X-Client-Id").identify(&head)?;
        Some(found.name().to_owned())
    }

    #[test]
    fn the_header_names_the_caller_as_claimed_or_verified() {
        let request = request(&[("x-client-id", b" checkout ")]);
        let head = Head::of(&request);
        let claimed = header("x-client-id").identify(&head).unwrap();
        assert_eq!(claimed.name(), "checkout");
        assert_eq!(claimed.provenance(), Provenance::Claimed);
        assert_eq!(claimed.source(), Source::Header);
        let verified = header("x-client-id").verified().identify(&head).unwrap();
        assert_eq!(verified.provenance(), Provenance::Verified);
    }

    #[test]
    fn an_absent_header_is_for_the_next_source() {
        assert_eq!(name_of(&[]), None);
    }

    #[test]
    fn a_header_that_is_no_name_is_invalid() {
        for bad in [
            &b""[..],
            b"  ",
            b"a b",
            b"\xff",
            b"__other__",
            b"ip:1.2.3.4",
            &[b'a'; 65],
        ] {
            assert_eq!(name_of(&[bad]).as_deref(), Some(INVALID), "{bad:?}");
        }
    }

    #[test]
    fn two_lines_must_agree() {
        assert_eq!(name_of(&[b"a", b"a"]).as_deref(), Some("a"));
        assert_eq!(name_of(&[b"a", b"b"]).as_deref(), Some(INVALID));
        assert_eq!(name_of(&[b"a", b"a", b"b"]).as_deref(), Some(INVALID));
        assert_eq!(name_of(&[b"", b"a"]).as_deref(), Some(INVALID));
        assert_eq!(name_of(&[b"a", b""]).as_deref(), Some(INVALID));
    }

    #[test]
    fn a_name_that_is_no_header_name_is_a_problem_and_never_a_panic() {
        let source = header("x y");
        assert_eq!(
            source.problem().as_deref(),
            Some("header \"x y\" is not a header name")
        );
        let request = request(&[("x-client-id", b"checkout")]);
        assert!(source.identify(&Head::of(&request)).is_none());
        assert_eq!(header("X-Client-Id").problem(), None);
    }
}

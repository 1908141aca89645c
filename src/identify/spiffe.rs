//! SPIFFE ids (<https://spiffe.io/docs/latest/spiffe-specs/spiffe-id/>, section 2), checked by hand: a library
//! for them brings an error type and an allocation.

const SCHEME: &[u8] = b"spiffe://";
/// The longest id that an implementation must support.
const MAX_ID: usize = 2048;
const MAX_TRUST_DOMAIN: usize = 255;

/// Whether `uri` says that it is a SPIFFE id, valid or not. The scheme is not case-sensitive.
pub(super) fn claims_to_be(uri: &[u8]) -> bool {
    uri.get(..SCHEME.len())
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

/// A valid SPIFFE id, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpiffeId<'h> {
    /// Trust domain and path, without the scheme.
    pub(super) whole: &'h str,
    path: &'h str,
}

impl<'h> SpiffeId<'h> {
    /// The id that `uri` is, in the normal form that the specification asks of everyone who makes one: scheme and
    /// trust domain in lower case, no port, user, query or fragment, no empty or relative segment.
    pub(super) fn parse(uri: &'h [u8]) -> Option<Self> {
        if uri.len() > MAX_ID {
            return None;
        }
        let whole = std::str::from_utf8(uri.strip_prefix(SCHEME)?).ok()?;
        let (domain, path) = match whole.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (whole, None),
        };
        let in_domain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let length = 1..=MAX_TRUST_DOMAIN;
        let valid = length.contains(&domain.len())
            && domain.bytes().all(in_domain)
            && path.is_none_or(|path| path.split('/').all(is_segment));
        valid.then_some(Self {
            whole,
            path: path.unwrap_or_default(),
        })
    }

    /// The workload alone: what follows the path's `sa` (`/ns/shop/sa/checkout`, as Istio has it), or else the
    /// last segment. `None` for the id of a trust domain.
    pub(super) fn workload(self) -> Option<&'h str> {
        let last = self.path.rsplit('/').next();
        let account = self.path.split_once("/sa/").map(|(_, account)| account);
        account
            .or_else(|| self.path.strip_prefix("sa/"))
            .or(last)
            .filter(|workload| !workload.is_empty())
    }
}

fn is_segment(segment: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !matches!(segment, "" | "." | "..") && segment.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Option<SpiffeId<'_>> {
        SpiffeId::parse(uri.as_bytes())
    }

    #[test]
    fn ids_in_normal_form_are_valid() {
        for good in [
            "spiffe://example.org",
            "spiffe://cluster.local/ns/shop/sa/checkout",
            "spiffe://a_b-1.c/9eebccd2-12bf-40a6-b262-65fe0487d453",
            "spiffe://td/...",
            "spiffe://td/A.b_C-d",
        ] {
            assert_eq!(
                parse(good).map(|id| id.whole),
                good.strip_prefix("spiffe://")
            );
        }
    }

    #[test]
    fn ids_that_the_specification_forbids_are_none() {
        let long = format!("spiffe://{}", "a".repeat(256));
        let endless = format!("spiffe://td/{}", "a".repeat(2048));
        for bad in [
            "",
            "spiffe://",
            "spiffe:///a",
            "https://example.org/a",
            "SPIFFE://td/a",
            "spiffe://Td/a",
            "spiffe://td:443/a",
            "spiffe://me@td/a",
            "spiffe://td/a?b",
            "spiffe://td/a#b",
            "spiffe://td/",
            "spiffe://td//a",
            "spiffe://td/a/",
            "spiffe://td/./a",
            "spiffe://td/a/..",
            "spiffe://td/%41",
            "spiffe://td/a b",
            "spiffe://td/é",
            "spiffe://[::1]/a",
            "spiffe:/td/a",
            &long,
            &endless,
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_claims_to_be_an_id_is_held_to_it() {
        assert!(claims_to_be(b"spiffe://td") && claims_to_be(b"SPIFFE://x"));
        assert!(!claims_to_be(b"spiffe:/td") && !claims_to_be(b"https://td"));
    }

    #[test]
    fn the_workload_is_the_account_or_the_last_segment() {
        for (id, workload) in [
            (
                "spiffe://cluster.local/ns/shop/sa/checkout",
                Some("checkout"),
            ),
            ("spiffe://td/sa/checkout", Some("checkout")),
            ("spiffe://td/region/eu/checkout", Some("checkout")),
            ("spiffe://td/ns/a/sa/b/c", Some("b/c")),
            ("spiffe://td", None),
        ] {
            assert_eq!(parse(id).unwrap().workload(), workload, "{id}");
        }
    }
}

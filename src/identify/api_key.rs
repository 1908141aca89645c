//! An API key on the roster.

use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

use super::header::NamedHeader;
use super::{Head, Identify, Identity};
use crate::caller::{Provenance, Source};

/// The longest key that is hashed: what is longer is nobody's.
const MAX_KEY: usize = 4096;
/// The length of the longer of the two schemes, `Bearer` and `ApiKey`.
const MAX_SCHEME: usize = 6;

/// The client is the account on the roster that has the API key in the header `name`.
///
/// The roster holds SHA-256 hashes of the keys, so the value is hashed and looked up: its timing tells nothing
/// about a key, and neither the key nor the hash gets into a name, a label, a log line or a `Debug` output.
/// Proof of a key is [`Verified`](Provenance::Verified). A key that nobody has, that has ended, or that is
/// longer than 4096 bytes is `__unknown__` from source `api_key_unknown`; no weaker source is asked then, so a
/// client with a stale key cannot pass for somebody else with a header. Two lines with different keys are such
/// a key too.
///
/// In the header `authorization` the key follows the scheme `Bearer` or `ApiKey` in any letter case; another
/// scheme is for the next source. Where bearer tokens are also JSON web tokens, put the source that reads them
/// in front.
///
/// ```
/// use callerid::identify;
///
/// let source = identify::api_key("x-api-key");
/// ```
#[must_use]
pub fn api_key(name: &str) -> ApiKeySource {
    let header = NamedHeader::new(name);
    ApiKeySource {
        scheme: header.is(&AUTHORIZATION),
        header,
    }
}

/// A source made by [`api_key`].
#[derive(Clone, Debug)]
pub struct ApiKeySource {
    header: NamedHeader,
    scheme: bool,
}

impl ApiKeySource {
    /// The key in a header line; `None` where the line holds something else.
    fn key<'h>(&self, line: &'h [u8]) -> Option<&'h [u8]> {
        let line = line.trim_ascii();
        if !self.scheme {
            return Some(line);
        }
        let longest = line.iter().take(MAX_SCHEME + 1);
        let end = longest.clone().position(|byte| *byte == b' ');
        let (scheme, key) = line.split_at_checked(end.unwrap_or(longest.len()))?;
        let ours = scheme.eq_ignore_ascii_case(b"bearer") || scheme.eq_ignore_ascii_case(b"apikey");
        ours.then(|| key.trim_ascii())
    }
}

impl Identify for ApiKeySource {
    fn identify<'h>(&self, head: &'h Head<'_>) -> Option<Identity<'h>> {
        let nobody = || Some(Identity::unknown().from_source(Source::ApiKeyUnknown));
        let mut keys = self
            .header
            .lines(head.headers())?
            .filter_map(|line| self.key(line.as_bytes()));
        let key = keys.next()?;
        if key.is_empty() || key.len() > MAX_KEY || keys.any(|other| other != key) {
            return nobody();
        }
        let hash = Sha256::digest(key).into();
        match head.roster().key(&hash, head.now()) {
            Some(known) => Some(Identity::named_in(
                &known.caller,
                Provenance::Verified,
                Source::ApiKey,
            )),
            None => nobody(),
        }
    }

    fn problem(&self) -> Option<String> {
        self.header.problem()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::identify::testing::request;
    use crate::roster::{Account, ApiKey, Roster};

    const END: Timestamp = Timestamp::from_secs(100);

    /// Who has the key, and by which source: `checkout` has `test` until [`END`].
    fn who(name: &str, lines: &[&[u8]], now: Timestamp) -> Option<(String, Source)> {
        let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let key = ApiKey::sha256("k1", hash).not_after(END);
        let roster = Roster::new(vec![Account::new("checkout").api_key(key)]).unwrap();
        let lines: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
        let request = request(&lines);
        let head = Head::new(&request, &roster, now);
        let found = api_key(name).identify(&head)?;
        Some((found.name().to_owned(), found.source()))
    }

    fn checkout() -> Option<(String, Source)> {
        Some(("checkout".to_owned(), Source::ApiKey))
    }

    fn nobody() -> Option<(String, Source)> {
        Some(("__unknown__".to_owned(), Source::ApiKeyUnknown))
    }

    #[test]
    fn a_key_on_the_roster_is_its_account() {
        assert_eq!(who("x-api-key", &[b" test "], Timestamp::ZERO), checkout());
        assert_eq!(
            who("x-api-key", &[b"test", b"test"], Timestamp::ZERO),
            checkout()
        );
    }

    #[test]
    fn a_key_that_nobody_has_or_that_ended_is_unknown_and_ends_the_search() {
        for bad in [&b"other"[..], b"", &[b'a'; 5000], b"test\xff"] {
            assert_eq!(who("x-api-key", &[bad], Timestamp::ZERO), nobody());
        }
        assert_eq!(who("x-api-key", &[b"test"], END), nobody());
        assert_eq!(
            who("x-api-key", &[b"test", b"other"], Timestamp::ZERO),
            nobody()
        );
    }

    #[test]
    fn an_absent_key_is_for_the_next_source() {
        assert_eq!(who("x-api-key", &[], Timestamp::ZERO), None);
    }

    #[test]
    fn authorization_is_read_by_its_scheme() {
        for good in ["Bearer test", "bearer  test", "ApiKey test", "APIKEY test "] {
            assert_eq!(
                who("Authorization", &[good.as_bytes()], Timestamp::ZERO),
                checkout(),
                "{good}"
            );
        }
        for bad in ["Bearer", "Bearer ", "apikey wrong", "Bearer test test"] {
            assert_eq!(
                who("authorization", &[bad.as_bytes()], Timestamp::ZERO),
                nobody(),
                "{bad}"
            );
        }
        for other in ["Basic dGVzdA==", "test", "", "Bearertest"] {
            assert_eq!(
                who("authorization", &[other.as_bytes()], Timestamp::ZERO),
                None,
                "{other}"
            );
        }
    }

    #[test]
    fn a_key_of_the_longest_length_is_still_hashed() {
        let source = api_key("x-api-key");
        assert_eq!(source.key(&[b'a'; MAX_KEY]).map(<[u8]>::len), Some(MAX_KEY));
        assert!(
            source
                .key(&[b'a'; MAX_KEY * 2])
                .is_some_and(|key| key.len() > MAX_KEY)
        );
    }

    #[test]
    fn debug_shows_no_key() {
        let request = request(&[("x-api-key", b"hunter2")]);
        let head = Head::of(&request);
        let source = api_key("x-api-key");
        let shown = format!("{source:?} {head:?} {:?}", source.identify(&head));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

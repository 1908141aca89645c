//! The product that `User-Agent` names: a label of last resort.

use http::header::USER_AGENT;

use super::{Head, Identify, Identity};
use crate::caller::{MAX_NAME, Provenance, Source};

const PREFIX: &str = "ua:";
const MAX_PRODUCT: usize = MAX_NAME - PREFIX.len();

/// The client is named by the first product of its `User-Agent` (RFC 9110, section 10.1.5), without the
/// version and in lower case: `Checkout-Client/4.2 (linux)` is `ua:checkout-client`.
///
/// A client writes there what it likes, and many share one library: the name is
/// [`Inferred`](Provenance::Inferred) and says which software calls, not who runs it. Browsers are all
/// `ua:mozilla`. A value that does not begin with a product, or with one longer than 61 bytes, is
/// [`Identity::invalid`]; a request without the header is for the next source.
#[must_use]
pub fn user_agent() -> UserAgentSource {
    UserAgentSource(())
}

/// A source made by [`user_agent`].
#[derive(Clone, Debug)]
pub struct UserAgentSource(());

impl Identify for UserAgentSource {
    fn identify<'h>(&self, head: &'h Head<'_>) -> Option<Identity<'h>> {
        let agent = head.headers().get(USER_AGENT)?.as_bytes();
        let mut product = [0; MAX_PRODUCT];
        Some(match lower_product(agent, &mut product) {
            Some(product) => {
                Identity::inline(&[PREFIX, product], Provenance::Inferred, Source::UserAgent)
            }
            None => Identity::invalid(),
        })
    }
}

/// Writes the first product of `agent` into `room`, in lower case. Looks at no more bytes than fit.
fn lower_product<'r>(agent: &[u8], room: &'r mut [u8; MAX_PRODUCT]) -> Option<&'r str> {
    let mut len = 0;
    for byte in agent {
        match byte {
            b'/' | b' ' | b'\t' => break,
            byte if is_token(*byte) => *room.get_mut(len)? = byte.to_ascii_lowercase(),
            _ => return None,
        }
        len += 1;
    }
    let product = room.get(..len).filter(|product| !product.is_empty())?;
    std::str::from_utf8(product).ok()
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::INVALID;
    use crate::identify::testing::request;

    fn who(agent: &[u8]) -> String {
        let request = request(&[("user-agent", agent)]);
        let head = Head::of(&request);
        user_agent().identify(&head).unwrap().name().to_owned()
    }

    #[test]
    fn the_first_product_is_the_name_without_its_version() {
        for (agent, name) in [
            ("Checkout-Client/4.2 (linux)", "ua:checkout-client"),
            ("curl/8.5.0", "ua:curl"),
            ("okhttp", "ua:okhttp"),
            ("My App/1.0", "ua:my"),
            ("Mozilla/5.0 (X11; Linux) Gecko/1", "ua:mozilla"),
        ] {
            assert_eq!(who(agent.as_bytes()), name);
        }
        assert_eq!(who(&[b'a'; 61]), format!("ua:{}", "a".repeat(61)));
    }

    #[test]
    fn what_does_not_begin_with_a_product_is_invalid() {
        for bad in [
            &b""[..],
            b" curl",
            b"/1.0",
            b"(linux)",
            b"a\"b",
            b"caf\xc3\xa9",
            &[b'a'; 62],
        ] {
            assert_eq!(who(bad), INVALID, "{bad:?}");
        }
    }

    #[test]
    fn an_absent_header_is_for_the_next_source() {
        let request = http::Request::new(());
        assert!(user_agent().identify(&Head::of(&request)).is_none());
    }
}

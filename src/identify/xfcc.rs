//! The client certificate that a proxy has checked: Envoy's `x-forwarded-client-cert`.

use http::header::HeaderName;

use super::list::{Malformed, Pairs, last_comma};
use super::peer::{Address, Peer, Seen};
use super::spiffe::{self, SpiffeId};
use super::trust::{Networks, Once};
use super::{Head, Identify, Identity, joined};
use crate::caller::{Provenance, Source};

static XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// No certificate with its chain is longer.
const MAX_ELEMENT: usize = 32 * 1024;

/// The client is named by the certificate that a trusted proxy has checked and tells of in
/// [`x-forwarded-client-cert`](https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert);
/// `trusted` are the proxies' networks in CIDR notation.
///
/// Only the last element counts, which is the nearest hop's; whatever stands to the left of it came with the
/// request. The name is, in this order, the SPIFFE id without its scheme
/// (`cluster.local/ns/shop/sa/checkout`; see [`XfccSource::spiffe_path`]), another URI, a DNS name, the `CN` of the
/// subject; of several of one kind the first. It is [`Verified`](Provenance::Verified).
///
/// | the header | the caller |
/// |---|---|
/// | absent | for the next source |
/// | from a peer that is not trusted, or whose address is not known | `__unknown__`: worth nothing; one warning |
/// | malformed, with a wrong SPIFFE id or with two, or a name that is none (longer than 64 bytes, blanks) | `__invalid__` |
/// | of a certificate without any of these names | `__unknown__` |
///
/// A proxy has to sanitize the header (`forward_client_cert_details: SANITIZE_SET` or `APPEND_FORWARD`), since
/// with `ALWAYS_FORWARD_ONLY` the client is who it says it is.
///
/// The peer's address comes from axum's `ConnectInfo` (feature `axum`), or from an extension that
/// [`XfccSource::peer_with`] names.
pub fn xfcc(trusted: impl IntoIterator<Item = impl AsRef<str>>) -> XfccSource {
    XfccSource {
        trusted: Networks::new(trusted),
        peer: Some(Peer::usual()),
        workload: false,
        warned: Once::default(),
    }
}

/// A source made by [`xfcc`].
#[derive(Debug)]
pub struct XfccSource {
    trusted: Networks,
    /// `None` where every peer is a proxy.
    peer: Option<Peer>,
    workload: bool,
    warned: Once,
}

impl XfccSource {
    /// Reads the peer's address from the extension of type `T`.
    #[must_use]
    pub fn peer_with<T, A>(mut self, read: impl Fn(&T) -> A + Send + Sync + 'static) -> Self
    where
        T: Send + Sync + 'static,
        A: Address,
    {
        self.peer = Some(Peer::with(read));
        self
    }

    /// Says that every peer is a proxy of yours, whatever its address: a sidecar on a Unix socket, or a TLS
    /// acceptor of the service itself that writes the header. Without such a guarantee any client can name itself.
    #[must_use]
    pub fn any_peer(mut self) -> Self {
        self.peer = None;
        self
    }

    /// Calls a workload by the end of its SPIFFE id's path alone: `checkout` for
    /// `spiffe://cluster.local/ns/shop/sa/checkout`, and the last segment where there is no `/sa/`. Shorter; but
    /// equal accounts of different namespaces and trust domains become one caller.
    #[must_use]
    pub fn spiffe_path(mut self) -> Self {
        self.workload = true;
        self
    }

    fn trusts(&self, head: &Head<'_>) -> bool {
        let Some(peer) = &self.peer else {
            return true;
        };
        // `see` has said its own warning where the address is missing.
        let Seen::At(ip) = peer.see(head.extensions()) else {
            return false;
        };
        let trusted = self.trusted.contain(ip);
        if !trusted && self.warned.first() {
            let bits = if ip.is_ipv4() { 32 } else { 128 };
            tracing::warn!(
                "{ip} sends `x-forwarded-client-cert` and is not trusted: its requests are counted as `__unknown__`; \
                 if it is a proxy of yours, trust it: `identify::xfcc([\"{ip}/{bits}\"])`"
            );
        }
        trusted
    }

    fn name<'h>(&self, element: &'h [u8]) -> Identity<'h> {
        let Ok(certificate) = Certificate::parse(element) else {
            return Identity::invalid();
        };
        let name = if let Some(uri) = certificate.spiffe {
            let id = SpiffeId::parse(uri);
            let name = id.and_then(|id| {
                if self.workload {
                    id.workload()
                } else {
                    Some(id.whole)
                }
            });
            name.map(str::as_bytes)
        } else if let Some(name) = certificate.uri.or(certificate.dns) {
            Some(name)
        } else {
            match certificate.subject.map(common_name) {
                None | Some(Ok(None)) => return Identity::unknown().from_source(Source::Xfcc),
                Some(Ok(name)) => name,
                Some(Err(Malformed)) => None,
            }
        };
        match name {
            // Nothing that needs an escape is a name that anybody wants.
            Some(name) if !name.iter().any(|byte| matches!(byte, b'\\' | b'"')) => {
                Identity::named(name, Provenance::Verified, Source::Xfcc)
            }
            _ => Identity::invalid(),
        }
    }
}

impl Identify for XfccSource {
    fn identify<'h>(&self, head: &'h Head<'_>) -> Option<Identity<'h>> {
        let list = head.headers().get_all(&XFCC).iter().next_back()?.as_bytes();
        if !self.trusts(head) {
            return Some(Identity::unknown().from_source(Source::Xfcc));
        }
        let hidden = list.len().saturating_sub(MAX_ELEMENT);
        let window = list.get(hidden..).unwrap_or_default();
        let element = match last_comma(window, true) {
            Some(comma) => window.get(comma + 1..).unwrap_or_default(),
            None if hidden > 0 => return Some(Identity::invalid()),
            None => window,
        };
        Some(self.name(element))
    }

    fn problem(&self) -> Option<String> {
        let peer = self.peer.as_ref().and_then(Peer::problem);
        joined(peer.into_iter().chain(self.trusted.problems()))
    }
}

/// What one element says of a certificate: the first of each kind.
#[derive(Default)]
struct Certificate<'h> {
    spiffe: Option<&'h [u8]>,
    uri: Option<&'h [u8]>,
    dns: Option<&'h [u8]>,
    subject: Option<&'h [u8]>,
}

impl<'h> Certificate<'h> {
    fn parse(element: &'h [u8]) -> Result<Self, Malformed> {
        let mut found = Self::default();
        let mut pairs = 0;
        for pair in Pairs::of(element) {
            let (key, value) = pair?;
            pairs += 1;
            let is = |name: &str| key.eq_ignore_ascii_case(name.as_bytes());
            // Envoy writes `URI=` for a certificate that has none.
            if value.is_empty() {
                continue;
            } else if is("uri") && spiffe::claims_to_be(value) {
                // A certificate with two is no SVID (X.509-SVID, section 5.2).
                if *found.spiffe.get_or_insert(value) != value {
                    return Err(Malformed);
                }
            } else if is("uri") {
                found.uri.get_or_insert(value);
            } else if is("dns") {
                found.dns.get_or_insert(value);
            } else if is("subject") {
                found.subject.get_or_insert(value);
            }
        }
        if pairs == 0 {
            Err(Malformed)
        } else {
            Ok(found)
        }
    }
}

/// The `CN` of a subject in the notation of RFC 2253 (`CN=checkout,OU=shop`), as Envoy writes it. Proxies differ in
/// how they escape: a separator after any backslash is held for none, a quote in the subject for malformed, so that
/// no organisation can be called `x, CN=admin`. So are two different ones. OpenSSL's `/C=US/CN=checkout` cannot be
/// told from such an organisation, and has no name here.
fn common_name(subject: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    if subject.contains(&b'"') {
        return Err(Malformed);
    }
    let mut found = None;
    let mut escaped = false;
    let parts = subject.split(|byte| {
        let separates = matches!(byte, b',' | b'+') && !escaped;
        escaped = *byte == b'\\';
        separates
    });
    for part in parts {
        let Some(equals) = part.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let (key, value) = part.split_at_checked(equals).ok_or(Malformed)?;
        if key.trim_ascii().eq_ignore_ascii_case(b"cn") {
            let value = value.strip_prefix(b"=").unwrap_or(value).trim_ascii();
            if *found.get_or_insert(value) != value {
                return Err(Malformed);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::identify::testing::{request, warnings};

    #[derive(Clone)]
    struct From(IpAddr);

    fn source() -> XfccSource {
        xfcc(["10.0.0.0/8"]).peer_with(|from: &From| from.0)
    }

    fn who(source: &XfccSource, peer: &str, lines: &[&str]) -> Option<(String, Source)> {
        let lines: Vec<_> = lines
            .iter()
            .map(|line| ("x-forwarded-client-cert", line.as_bytes()))
            .collect();
        let mut request = request(&lines);
        request.extensions_mut().insert(From(peer.parse().unwrap()));
        let head = Head::of(&request);
        let found = source.identify(&head)?;
        assert_eq!(found.is_named(), found.provenance() == Provenance::Verified);
        Some((found.name().to_owned(), found.source()))
    }

    fn name(line: &str) -> String {
        who(&source(), "10.0.0.1", &[line]).unwrap().0
    }

    #[test]
    fn the_best_name_of_the_certificate_is_the_caller() {
        let spiffe = "By=spiffe://td/x;Hash=ab;Subject=\"CN=cn,O=a\";URI=https://a;uri=spiffe://td/ns/a/sa/b;DNS=d";
        assert_eq!(name(spiffe), "td/ns/a/sa/b");
        assert_eq!(
            name("Hash=ab;DNS=d.example;URI=https://a/b;Subject=\"CN=cn\""),
            "https://a/b"
        );
        assert_eq!(
            name("Hash=ab;URI=;DNS=d.example;DNS=e.example;Subject=\"CN=cn\""),
            "d.example"
        );
        assert_eq!(
            name("Hash=ab;Subject=\"OU=a+cn=checkout,O=Acme\\, Inc.\";URI="),
            "checkout"
        );
        assert_eq!(name("Hash=ab"), "__unknown__");
        assert_eq!(name("Subject=\"\""), "__unknown__");
        assert_eq!(name("Subject=\"O=a\""), "__unknown__");
    }

    #[test]
    fn the_last_element_is_the_nearest_hop() {
        assert_eq!(
            name("URI=spiffe://td/far,Subject=\"O=a,b\\\"\";URI=spiffe://td/near"),
            "td/near"
        );
        assert_eq!(name("URI=\",URI=spiffe://td/near"), "td/near");
        let lines = ["URI=spiffe://td/far", "URI=spiffe://td/near"];
        assert_eq!(who(&source(), "10.0.0.1", &lines).unwrap().0, "td/near");
    }

    #[test]
    fn what_is_malformed_or_no_name_is_invalid() {
        let long = format!("URI=spiffe://td/{}", "a".repeat(64));
        let endless = format!("URI=spiffe://td/a;Cert=\"{}\"", "a".repeat(MAX_ELEMENT));
        for bad in [
            "",
            " ",
            ";",
            "URI=spiffe://td/a,",
            "URI",
            "URI=\"spiffe://td/a",
            "URI=spiffe://TD/a",
            "URI=SPIFFE://td/a",
            "URI=spiffe://td/../a",
            "URI=spiffe://td/a;URI=spiffe://td/b",
            "DNS=a b",
            "DNS=\"a\\\"b\"",
            "DNS=__other__",
            "Subject=\"CN=two words\"",
            "Subject=\"CN=a,CN=b\"",
            "Subject=\"CN=\"",
            &long,
            &endless,
        ] {
            assert_eq!(name(bad), "__invalid__", "{bad}");
        }
    }

    #[test]
    fn no_organisation_can_pass_for_a_common_name() {
        for other in [
            "O=x\\, CN=admin",
            "O=x\\\\, CN=admin",
            "/O=x/CN=admin",
            "O=x\\+CN=admin",
        ] {
            assert_eq!(
                name(&format!("Subject=\"{other}\"")),
                "__unknown__",
                "{other}"
            );
        }
        assert_eq!(name("Subject=\"O=\\\"x, CN=admin, y\\\"\""), "__invalid__");
    }

    #[test]
    fn a_workload_can_be_called_by_its_path_alone() {
        let short = source().spiffe_path();
        let of = |line: &str| who(&short, "10.0.0.1", &[line]).unwrap().0;
        let long = format!("URI=spiffe://{}/ns/shop/sa/checkout", "a".repeat(60));
        assert_eq!(of(&long), "checkout");
        assert_eq!(of("URI=spiffe://td"), "__invalid__");
    }

    #[test]
    fn the_header_is_worth_nothing_from_a_peer_that_is_not_trusted() {
        let source = source();
        let line = ["URI=spiffe://td/a"];
        let nobody = Some(("__unknown__".to_owned(), Source::Xfcc));
        let said = warnings(|| {
            assert_eq!(who(&source, "192.0.2.1", &line), nobody);
            assert_eq!(who(&source, "192.0.2.1", &line), nobody);
        });
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("\"192.0.2.1/32\""), "{said:?}");
        assert_eq!(who(&source, "192.0.2.1", &[]), None);
        assert_eq!(
            who(&source.any_peer(), "192.0.2.1", &line).unwrap().0,
            "td/a"
        );
    }

    #[test]
    fn the_header_is_worth_nothing_where_the_peer_is_not_known() {
        let request = request(&[("x-forwarded-client-cert", b"URI=spiffe://td/a")]);
        let source = source();
        let said = warnings(|| {
            assert_eq!(
                source.identify(&Head::of(&request)).unwrap().name(),
                "__unknown__"
            );
        });
        assert_eq!(said.len(), 1, "{said:?}");
    }
}

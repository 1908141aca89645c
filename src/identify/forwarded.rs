//! The address for which trusted proxies speak.

use super::hops::{ForwardedHeader, Walk, walk};
use super::peer::{Address, Peer, Seen};
use super::trust::{Ipv6Prefix, Networks, Once, speaks_for_others, undeclared_proxy};
use super::{Head, Identify, Identity, joined};
use crate::caller::Source;

/// The client is the nearest address that is not one of your proxies; `trusted` are the proxies' networks in
/// CIDR notation.
///
/// Proxies append to `X-Forwarded-For` (or to `Forwarded`, RFC 7239; see [`ForwardedSource::header`]) the
/// address that they were called from. So the list is walked from the right, over all of its lines, past
/// trusted addresses: the first that is not trusted was seen by a proxy of yours, and everything to the left of
/// it a client can forge. Where all are trusted, the leftmost is the caller. The name is `ip:…` as with
/// [`peer_addr_with`](super::peer_addr_with), and [`Inferred`](crate::Provenance::Inferred).
///
/// | the peer | forwarding headers | the caller |
/// |---|---|---|
/// | is trusted | say an address | that address |
/// | is trusted | `unknown`, an obfuscated name, garbage, or more than 64 hops | `__unknown__` |
/// | is trusted | none: the proxy itself, such as its health check | `__unknown__` |
/// | is not trusted | none | the peer |
/// | is not trusted | any | `__unknown__`: **a proxy is not a caller**; one warning names the network to trust |
///
/// The peer's address comes from axum's `ConnectInfo` (feature `axum`), or from an extension that
/// [`ForwardedSource::peer_with`] names. A request without it is for the next source, after one warning.
///
/// ```
/// use std::net::SocketAddr;
/// use callerid::identify;
///
/// #[derive(Clone)]
/// struct Accepted { from: SocketAddr }
///
/// let source = identify::forwarded(["10.0.0.0/8"]).peer_with(|accepted: &Accepted| accepted.from);
/// ```
pub fn forwarded(trusted: impl IntoIterator<Item = impl AsRef<str>>) -> ForwardedSource {
    ForwardedSource {
        trusted: Networks::new(trusted),
        peer: Some(Peer::usual()),
        header: ForwardedHeader::default(),
        prefix: Ipv6Prefix::default(),
        undeclared: Once::default(),
    }
}

/// A source made by [`forwarded`].
#[derive(Debug)]
pub struct ForwardedSource {
    trusted: Networks,
    /// `None` where every peer is a proxy.
    peer: Option<Peer>,
    header: ForwardedHeader,
    prefix: Ipv6Prefix,
    undeclared: Once,
}

impl ForwardedSource {
    /// Names the header that your proxies write; `X-Forwarded-For` by default. The other one is never read.
    #[must_use]
    pub fn header(mut self, header: ForwardedHeader) -> Self {
        self.header = header;
        self
    }

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

    /// Says that every peer is a proxy of yours, whatever its address: nobody else can reach the service, as
    /// behind a Unix socket or on a platform that routes all traffic. Without such a guarantee any client can
    /// name itself.
    #[must_use]
    pub fn any_peer(mut self) -> Self {
        self.peer = None;
        self
    }

    /// How many bits of an IPv6 address are one client: 64 by default, 128 for each address apart.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.prefix = Ipv6Prefix::new(bits);
        self
    }
}

impl Identify for ForwardedSource {
    fn identify<'h>(&self, head: &'h Head<'_>) -> Option<Identity<'h>> {
        if let Some(peer) = &self.peer {
            let Seen::At(ip) = peer.see(head.extensions()) else {
                return None;
            };
            if !self.trusted.contain(ip) {
                return Some(if speaks_for_others(head.headers()) {
                    undeclared_proxy(&self.undeclared, ip, Source::Peer)
                } else {
                    self.prefix.name(ip, Source::Peer)
                });
            }
        }
        Some(match walk(head.headers(), self.header, &self.trusted) {
            Walk::At(ip) => self.prefix.name(ip, Source::Forwarded),
            Walk::Unclear | Walk::Nowhere => Identity::unknown().from_source(Source::Forwarded),
        })
    }

    fn problem(&self) -> Option<String> {
        let peer = self.peer.as_ref().and_then(Peer::problem);
        let own = peer.into_iter().chain(self.prefix.problem());
        joined(own.chain(self.trusted.problems()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::identify::testing::{request, warnings};

    #[derive(Clone)]
    struct From(IpAddr);

    const PROXY: From = From(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)));
    const CLIENT: From = From(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));

    fn source() -> ForwardedSource {
        forwarded(["10.0.0.0/8"]).peer_with(|from: &From| from.0)
    }

    fn who(source: &ForwardedSource, peer: From, headers: &[(&str, &str)]) -> (String, Source) {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        let mut request = request(&headers);
        request.extensions_mut().insert(peer);
        let head = Head::of(&request);
        let found = source.identify(&head).unwrap();
        (found.name().to_owned(), found.source())
    }

    fn unknown(source: Source) -> (String, Source) {
        ("__unknown__".to_owned(), source)
    }

    #[test]
    fn a_trusted_proxy_is_believed() {
        let headers = [("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.0.0.1")];
        assert_eq!(
            who(&source(), PROXY, &headers),
            ("ip:192.0.2.7".to_owned(), Source::Forwarded)
        );
        let v6 = [("x-forwarded-for", "2001:db8:1:2:3::4")];
        assert_eq!(who(&source(), PROXY, &v6).0, "ip:2001:db8:1:2::/64");
        assert_eq!(
            who(&source().ipv6_prefix(48), PROXY, &v6).0,
            "ip:2001:db8:1::/48"
        );
    }

    #[test]
    fn a_trusted_proxy_is_known_on_a_listener_for_both_families() {
        let mapped = From("::ffff:10.0.0.9".parse().unwrap());
        let headers = [("x-forwarded-for", "192.0.2.7, ::ffff:10.0.0.1")];
        assert_eq!(who(&source(), mapped, &headers).0, "ip:192.0.2.7");
    }

    #[test]
    fn only_the_named_header_is_read() {
        let both = [("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "2.2.2.2")];
        assert_eq!(who(&source(), PROXY, &both).0, "ip:2.2.2.2");
        let rfc = source().header(ForwardedHeader::Forwarded);
        assert_eq!(who(&rfc, PROXY, &both).0, "ip:1.1.1.1");
        assert_eq!(who(&rfc, PROXY, &both[1..]), unknown(Source::Forwarded));
    }

    #[test]
    fn a_proxy_that_speaks_for_nobody_or_unclearly_is_nobody() {
        assert_eq!(who(&source(), PROXY, &[]), unknown(Source::Forwarded));
        assert_eq!(
            who(&source(), PROXY, &[("x-forwarded-for", "unknown")]),
            unknown(Source::Forwarded)
        );
    }

    #[test]
    fn a_peer_that_is_no_proxy_is_the_caller() {
        assert_eq!(
            who(&source(), CLIENT, &[]),
            ("ip:192.0.2.1".to_owned(), Source::Peer)
        );
    }

    #[test]
    fn an_undeclared_proxy_is_nobody_and_one_warning_names_it() {
        let source = source();
        let said = warnings(|| {
            for header in ["x-forwarded-for", "forwarded", "x-envoy-external-address"] {
                assert_eq!(
                    who(&source, CLIENT, &[(header, "1.2.3.4")]),
                    unknown(Source::Peer)
                );
            }
        });
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("\"192.0.2.1/32\""), "{said:?}");
    }

    #[test]
    fn where_any_peer_is_a_proxy_no_address_of_it_is_needed() {
        let request = request(&[("x-forwarded-for", b"1.2.3.4")]);
        let head = Head::of(&request);
        let found = forwarded(["10.0.0.0/8"]).any_peer();
        assert_eq!(found.problem(), None);
        assert_eq!(found.identify(&head).unwrap().name(), "ip:1.2.3.4");
    }

    #[test]
    fn a_missing_peer_is_for_the_next_source_and_one_warning_says_how_to_fix_it() {
        let source = source();
        let request = request(&[("x-forwarded-for", b"1.2.3.4")]);
        let said = warnings(|| {
            for _ in 0..2 {
                assert!(source.identify(&Head::of(&request)).is_none());
            }
        });
        assert_eq!(said.len(), 1, "{said:?}");
    }

    #[test]
    fn what_is_wrong_with_the_configuration_is_a_problem() {
        let problem = source().ipv6_prefix(200).problem().unwrap();
        assert!(problem.contains("ipv6_prefix(200)"));
        assert!(
            forwarded(["10/8"])
                .problem()
                .unwrap()
                .contains("\"10/8\" is not a network")
        );
        let unsaid = forwarded(["10.0.0.0/8"]).problem();
        assert_eq!(unsaid.is_none(), cfg!(feature = "axum"), "{unsaid:?}");
    }
}

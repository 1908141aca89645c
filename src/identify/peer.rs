//! The peer's address: who is at the other end of the connection.

use std::any::type_name;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::Extensions;

use super::trust::{Ipv6Prefix, Networks, Once, speaks_for_others, undeclared_proxy};
use super::{Head, Identify, Identity, joined};
use crate::caller::Source;

/// The client is the peer's address, which `read` finds in the extension of type `T` that the listener left.
///
/// The name is `ip:10.1.2.3` or, as one host has a whole IPv6 network to choose from, `ip:2001:db8:1:2::/64`;
/// the provenance is [`Inferred`](crate::Provenance::Inferred). An address cannot be forged over TCP, but many
/// clients may share one, and a proxy hides them all.
///
/// **A proxy is not a caller**: a request that carries `Forwarded`, `X-Forwarded-For` or `X-Envoy-*` comes
/// through a proxy, so it is `__unknown__`, and one warning says which network to trust with [`forwarded`]
/// instead. A client that sends such a header itself hides among `__unknown__`, which share one policy.
///
/// A request without a `T` is for the next source, and one warning says what the listener is missing.
///
/// ```
/// use std::net::SocketAddr;
/// use callerid::identify;
///
/// #[derive(Clone)]
/// struct Accepted { from: SocketAddr } // inserted for each connection
///
/// let source = identify::peer_addr_with(|accepted: &Accepted| accepted.from);
/// ```
///
/// On tonic: `peer_addr_with(|info: &TcpConnectInfo| info.remote_addr())`.
///
/// [`forwarded`]: super::forwarded
pub fn peer_addr_with<T, A>(read: impl Fn(&T) -> A + Send + Sync + 'static) -> PeerSource
where
    T: Send + Sync + 'static,
    A: Address,
{
    PeerSource::new(Peer::with(read))
}

/// What holds the address of a peer, perhaps: one on a Unix socket has none.
pub trait Address {
    /// The address, without its port.
    fn into_ip(self) -> Option<IpAddr>;
}

impl Address for IpAddr {
    fn into_ip(self) -> Option<IpAddr> {
        Some(self)
    }
}

impl Address for SocketAddr {
    fn into_ip(self) -> Option<IpAddr> {
        Some(self.ip())
    }
}

impl<A: Address> Address for Option<A> {
    fn into_ip(self) -> Option<IpAddr> {
        self.and_then(A::into_ip)
    }
}

/// A source made by [`peer_addr_with`] or, with feature `axum`, by `peer_addr`.
#[derive(Debug)]
pub struct PeerSource {
    peer: Peer,
    sidecars: Networks,
    prefix: Ipv6Prefix,
    undeclared: Once,
}

impl PeerSource {
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            peer,
            sidecars: Networks::default(),
            prefix: Ipv6Prefix::default(),
            undeclared: Once::default(),
        }
    }

    /// How many bits of an IPv6 address are one client: 64 by default, 128 for each address apart.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.prefix = Ipv6Prefix::new(bits);
        self
    }

    /// Trusts peers in these networks, in CIDR notation, to be callers although they send forwarding headers:
    /// in a service mesh the client's own sidecar adds them, and its address is the client's.
    ///
    /// Not for a load balancer: it would be blamed for what its clients do. That is what
    /// [`forwarded`](super::forwarded) is for.
    #[must_use]
    pub fn sidecars(mut self, networks: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.sidecars = Networks::new(networks);
        self
    }
}

impl Identify for PeerSource {
    fn identify<'h>(&self, head: &'h Head<'_>) -> Option<Identity<'h>> {
        let Seen::At(ip) = self.peer.see(head.extensions()) else {
            return None;
        };
        if speaks_for_others(head.headers()) && !self.sidecars.contain(ip) {
            return Some(undeclared_proxy(&self.undeclared, ip, Source::Peer));
        }
        Some(self.prefix.name(ip, Source::Peer))
    }

    fn problem(&self) -> Option<String> {
        let own = self.peer.problem().into_iter().chain(self.prefix.problem());
        joined(own.chain(self.sidecars.problems()))
    }
}

/// Where a listener leaves the address of its peer.
pub(super) struct Peer {
    /// `None` where nobody has said it.
    read: Option<Box<ReadPeer>>,
    what: &'static str,
    missing: Once,
}

type ReadPeer = dyn Fn(&Extensions) -> Seen + Send + Sync;

/// What a listener left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// An address, in canonical form.
    At(IpAddr),
    /// Word of a peer that has no address, such as one on a Unix socket.
    Nowhere,
    /// Nothing: the listener was not told to.
    Missing,
}

impl Peer {
    pub(super) fn with<T, A>(read: impl Fn(&T) -> A + Send + Sync + 'static) -> Self
    where
        T: Send + Sync + 'static,
        A: Address,
    {
        let seen = move |extensions: &Extensions| match extensions.get::<T>() {
            None => Seen::Missing,
            Some(left) => match read(left).into_ip() {
                Some(ip) => Seen::At(ip.to_canonical()),
                None => Seen::Nowhere,
            },
        };
        Self {
            read: Some(Box::new(seen)),
            what: type_name::<T>(),
            missing: Once::default(),
        }
    }

    /// Axum's `ConnectInfo` with feature `axum`; otherwise the operator has to say where.
    pub(super) fn usual() -> Self {
        #[cfg(feature = "axum")]
        let usual = super::connect_info::peer();
        #[cfg(not(feature = "axum"))]
        let usual = Self {
            read: None,
            what: "nothing",
            missing: Once::default(),
        };
        usual
    }

    /// The peer of a request. Warns once where the listener left nothing.
    pub(super) fn see(&self, extensions: &Extensions) -> Seen {
        let Some(read) = &self.read else {
            return Seen::Missing;
        };
        let seen = read(extensions);
        if seen == Seen::Missing && self.missing.first() {
            tracing::warn!(
                "requests carry no `{}`, so the peer's address is not known; on axum, serve with \
                 `app.into_make_service_with_connect_info::<SocketAddr>()`",
                self.what
            );
        }
        seen
    }

    pub(super) fn problem(&self) -> Option<String> {
        let unsaid = self.read.is_none();
        unsaid.then(|| {
            "no extension is named that holds the peer's address; use `peer_with(..)`, or feature `axum`".to_owned()
        })
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({})", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::testing::{request, warnings};

    #[derive(Clone)]
    struct From(SocketAddr);

    fn source() -> PeerSource {
        peer_addr_with(|from: &From| from.0)
    }

    fn who(source: &PeerSource, peer: &str, headers: &[(&str, &[u8])]) -> String {
        let mut request = request(headers);
        request.extensions_mut().insert(From(peer.parse().unwrap()));
        let head = Head::of(&request);
        let found = source.identify(&head).unwrap();
        assert_eq!(found.source(), Source::Peer);
        found.name().to_owned()
    }

    #[test]
    fn the_peer_is_the_caller() {
        assert_eq!(who(&source(), "10.1.2.3:80", &[]), "ip:10.1.2.3");
        assert_eq!(who(&source(), "[2001:db8::1]:80", &[]), "ip:2001:db8::/64");
        assert_eq!(who(&source(), "[::ffff:10.1.2.3]:80", &[]), "ip:10.1.2.3");
        assert_eq!(
            who(&source().ipv6_prefix(128), "[2001:db8::1]:80", &[]),
            "ip:2001:db8::1"
        );
    }

    #[test]
    fn an_undeclared_proxy_is_nobody_and_one_warning_names_it() {
        let source = source();
        let said = warnings(|| {
            for header in ["forwarded", "x-forwarded-for", "x-envoy-peer-metadata"] {
                assert_eq!(
                    who(&source, "10.1.2.3:80", &[(header, b"1.2.3.4")]),
                    "__unknown__"
                );
            }
        });
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].contains("identify::forwarded([\"10.1.2.3/32\"])"),
            "{said:?}"
        );
    }

    #[test]
    fn a_client_with_a_sidecar_is_the_caller() {
        let source = source().sidecars(["10.0.0.0/8"]);
        let headers: &[(&str, &[u8])] = &[("x-envoy-attempt-count", b"1")];
        assert_eq!(who(&source, "10.1.2.3:80", headers), "ip:10.1.2.3");
        assert_eq!(who(&source, "192.0.2.1:80", headers), "__unknown__");
    }

    #[test]
    fn a_missing_address_is_for_the_next_source_and_one_warning_says_how_to_fix_it() {
        let source = source();
        let bare = http::Request::new(());
        let said = warnings(|| {
            assert!(source.identify(&Head::of(&bare)).is_none());
            assert!(source.identify(&Head::of(&bare)).is_none());
        });
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("into_make_service_with_connect_info::<SocketAddr>()"));
    }

    #[test]
    fn a_peer_without_an_address_is_for_the_next_source_in_silence() {
        let source = peer_addr_with(|_: &From| None::<IpAddr>);
        let mut request = http::Request::new(());
        request
            .extensions_mut()
            .insert(From(([127, 0, 0, 1], 1).into()));
        let said = warnings(|| assert!(source.identify(&Head::of(&request)).is_none()));
        assert!(said.is_empty(), "{said:?}");
    }

    #[test]
    fn what_is_wrong_with_the_configuration_is_a_problem() {
        let problem = source().ipv6_prefix(129).sidecars(["x"]).problem().unwrap();
        assert!(
            problem.contains("ipv6_prefix(129)") && problem.contains("\"x\""),
            "{problem}"
        );
        assert_eq!(source().problem(), None);
    }
}

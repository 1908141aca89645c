//! Who asks, and whether from this machine.

use std::fmt;
use std::net::IpAddr;

use http::{Extensions, HeaderMap, Method, Request, Version, header};

/// Headers that proxies add, with their families. Whoever sends one is not straight from this machine.
pub(super) const FORWARDING: [&str; 24] = [
    "cdn-loop",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-ray",
    "client-ip",
    "do-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "proxy-client-ip",
    "true-client-ip",
    "via",
    "wl-proxy-client-ip",
    "x-amz-cf-id",
    "x-amzn-trace-id",
    "x-client-ip",
    "x-cloud-trace-context",
    "x-cluster-client-ip",
    "x-nf-client-connection-ip",
    "x-original-host",
    "x-original-url",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-remote-addr",
];
pub(super) const FORWARDING_FAMILIES: [&str; 5] = [
    "x-appengine-",
    "x-azure-",
    "x-envoy-",
    "x-forwarded",
    "x-original-forwarded",
];
/// A request to the page, as [`Access`](super::Access) sees it.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    method: &'a Method,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
    version: Version,
    pub(super) host: Option<&'a str>,
    peer: Option<IpAddr>,
}

impl<'a> Ask<'a> {
    pub(super) fn of(head: &'a Request<()>, peer: Option<IpAddr>) -> Self {
        // The host that the client means: of the URI over HTTP/2, of `Host` before.
        let host = match head.uri().authority() {
            Some(authority) => Some(authority.as_str()),
            None => head
                .headers()
                .get(header::HOST)
                .and_then(|host| host.to_str().ok()),
        };
        Self {
            method: head.method(),
            headers: head.headers(),
            extensions: head.extensions(),
            version: head.version(),
            host,
            peer,
        }
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// What the listener and outer layers left: the place for your own authentication to say who it is.
    #[must_use]
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }

    /// The peer's address, where the listener left one that [`Builder::peer`](crate::Builder::peer) finds. A proxy's
    /// or sidecar's, if there is one.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// The token of `Authorization: Bearer`.
    #[must_use]
    pub fn bearer(&self) -> Option<&'a str> {
        let value = self.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    }

    /// Whether it comes from this machine, straight: a loopback peer, no header that a proxy adds, not HTTP/1.0, which
    /// plain nginx speaks to what is behind it, and a `Host` that is this machine too, so that no foreign page reaches
    /// it by a name of its own.
    ///
    /// A proxy on this machine that does none of this cannot be told from a browser: see [`Access::local`](super::Access::local).
    #[must_use]
    pub fn is_local(&self) -> bool {
        let mut hosts = self.headers.get_all(header::HOST).iter();
        self.peer.is_some_and(|ip| ip.to_canonical().is_loopback())
            && self.version > Version::HTTP_10
            && !self.is_forwarded()
            && self.host.is_some_and(is_loopback_host)
            && hosts.all(|host| host.to_str().is_ok_and(is_loopback_host))
    }

    fn is_forwarded(&self) -> bool {
        self.headers.keys().any(|name| {
            let name = name.as_str();
            FORWARDING.contains(&name)
                || FORWARDING_FAMILIES
                    .iter()
                    .any(|family| name.starts_with(family))
        })
    }
}

/// Whether the host of an authority is a name or address of the loopback interface.
fn is_loopback_host(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

impl fmt::Debug for Ask<'_> {
    /// Leaves headers out: they hold tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask")
            .field("method", self.method)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

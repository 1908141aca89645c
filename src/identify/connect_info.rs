//! The peer's address as axum leaves it.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;

use super::peer::{Peer, PeerSource};

/// The client is the peer's address, which axum leaves in the extensions where the service is made by
/// `app.into_make_service_with_connect_info::<SocketAddr>()`. See [`peer_addr_with`](super::peer_addr_with) for
/// the name, and for what a proxy in between does to it.
#[must_use]
#[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
pub fn peer_addr() -> PeerSource {
    PeerSource::new(peer())
}

pub(super) fn peer() -> Peer {
    Peer::with(|peer: &ConnectInfo<SocketAddr>| peer.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::{Head, Identify};

    #[test]
    fn connect_info_is_the_peer() {
        let mut request = http::Request::new(());
        let peer: SocketAddr = "10.1.2.3:80".parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        let source = peer_addr();
        assert_eq!(
            source.identify(&Head::of(&request)).unwrap().name(),
            "ip:10.1.2.3"
        );
        assert_eq!(source.problem(), None);
    }
}

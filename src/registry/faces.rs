//! Faces of those without a name: what requests of `__unknown__` look like, so that a failed key rotation or a
//! flood behind it can be told apart.

use std::net::IpAddr;
use std::sync::Mutex;

use crate::lock::lock;
use crate::record::bounded::Bounded;

/// How many values are kept of each kind.
const ROOM: usize = 32;

/// What is known of a request without identity.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Face<'a> {
    pub(crate) peer: Option<IpAddr>,
    pub(crate) agent: Option<&'a str>,
    pub(crate) claimed: Option<&'a str>,
}

/// Counts of faces, bounded.
#[derive(Debug)]
pub(crate) struct Faces(Mutex<Inner>);

#[derive(Clone, Debug)]
pub(crate) struct Inner {
    pub(crate) peers: Bounded<IpAddr>,
    pub(crate) agents: Bounded<Box<str>>,
    pub(crate) claimed: Bounded<Box<str>>,
}

impl Faces {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Inner {
            peers: Bounded::new(ROOM),
            agents: Bounded::new(ROOM),
            claimed: Bounded::new(ROOM),
        }))
    }

    /// Counts a face. Where another thread is doing the same, this one is left out: these are for looking at.
    pub(crate) fn count(&self, face: Face<'_>) {
        let Ok(mut faces) = self.0.try_lock() else {
            return;
        };
        if let Some(peer) = face.peer {
            faces.peers.count(|known| *known == peer, || peer);
        }
        if let Some(agent) = face.agent {
            faces
                .agents
                .count(|known| **known == *agent, || agent.into());
        }
        if let Some(claimed) = face.claimed {
            faces
                .claimed
                .count(|known| **known == *claimed, || claimed.into());
        }
    }

    pub(crate) fn read(&self) -> Inner {
        lock(&self.0).clone()
    }
}

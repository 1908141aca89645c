//! A request that a log tells of, when it has ended.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};

use super::{Core, Entrance};
use crate::caller::Caller;

/// What some servers log where the client went away before the answer.
const WENT_AWAY: u16 = 499;

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Logged {
    pub(crate) status: StatusCode,
    pub(crate) took: Duration,
    pub(crate) response_bytes: u64,
}

impl Core {
    /// Takes a request that ends now through all stages.
    pub(crate) fn replay(self: &Arc<Self>, request: &mut Request<()>, logged: Logged) {
        request.extensions_mut().remove::<Caller>();
        let Entrance::Open(mut open) = self.admit(request) else {
            return;
        };
        let Some(ticket) = open.get() else {
            return;
        };
        ticket.began_earlier(logged.took);
        if logged.status.as_u16() == WENT_AWAY {
            return;
        }
        if !ticket.response(logged.status, &HeaderMap::new(), None) {
            ticket.data(usize::try_from(logged.response_bytes).unwrap_or(usize::MAX));
            ticket.end(None);
        }
    }
}

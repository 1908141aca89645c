//! A request that is over a limit: which one, and what is said of it.

use std::time::Duration;

use http::StatusCode;

use super::bucket::Bucket;
use super::decide::Ask;
use super::policy::blocked;
#[cfg(feature = "redis")]
use super::quota::Quota;
use super::refusal::{Limit, Which};
use super::terms::Terms;
use crate::clock::Timestamp;
use crate::outcome::Reason;

/// A request that is over a limit.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) reason: Reason,
    pub(super) limit: Limit,
    /// Whole tokens that are left.
    pub(super) left: u64,
    pub(super) status: StatusCode,
    /// How long until it could be let in; `None` where waiting does not help.
    pub(super) wait: Option<Duration>,
}

impl Denial {
    pub(super) fn of_runaway(self) -> Self {
        Self {
            reason: Reason::Runaway,
            ..self
        }
    }

    pub(super) fn in_flight(max: u32) -> Self {
        Self {
            reason: Reason::InFlight,
            limit: Limit::InFlight(max),
            left: 0,
            status: StatusCode::TOO_MANY_REQUESTS,
            wait: Some(Duration::ZERO),
        }
    }
}

pub(super) fn block(terms: &Terms, ask: &Ask<'_>) -> Result<(), Denial> {
    match blocked(terms.block, ask.now) {
        None => Ok(()),
        Some(left) => Err(Denial {
            reason: Reason::Blocked,
            limit: Limit::Block,
            left: 0,
            status: left.map_or(StatusCode::FORBIDDEN, |_| StatusCode::TOO_MANY_REQUESTS),
            wait: left,
        }),
    }
}

#[cfg(feature = "redis")]
pub(super) fn spent(known: Result<(), Duration>, quota: Quota) -> Result<(), Denial> {
    known.map_err(|wait| Denial {
        reason: Reason::Fleet,
        limit: Limit::Quota {
            which: Which::Fleet,
            quota,
        },
        left: 0,
        status: StatusCode::TOO_MANY_REQUESTS,
        wait: Some(wait),
    })
}

#[inline]
pub(super) fn take(
    (which, reason): (Which, Reason),
    bucket: &Bucket,
    cost: u32,
    now: Timestamp,
) -> Result<(), Denial> {
    bucket.take(cost, now).map_err(|wait| Denial {
        reason,
        limit: Limit::Quota {
            which,
            quota: bucket.quota,
        },
        // Who is refused one token has none.
        left: if cost > 1 { bucket.left(now) } else { 0 },
        status: StatusCode::TOO_MANY_REQUESTS,
        wait: Some(wait),
    })
}

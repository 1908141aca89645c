//! Bodies of refused requests over HTTP/1, whose callers may still be sending.
//!
//! A server that closes a connection with unread bytes in it resets it. A balancer that is still writing takes this for
//! a failure of the replica before it has read the answer, and so does a client. So what has come of the body is thrown
//! away, and the rest is left alone for a moment: by then the answer has been read.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::EXPECT;
use http::{Request, Version};
use http_body::Body;

use super::Core;
use crate::clock::Timestamp;
use crate::lock::lock;

/// How long at the least a body is left alone: longer than an answer is on its way.
const LASTS: Duration = Duration::from_millis(500);
/// Bodies that are left alone at once, each with its connection and what came of it; the oldest makes room.
const MOST: usize = 256;
/// Frames that are thrown away before an answer, at the most.
const FRAMES: usize = 16;

/// A body of which only the end matters.
trait Rest: Send {
    /// Throws away what has come. Pending where more is to come.
    fn poll_end(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()>;
}

impl<B: Body + Send> Rest for B {
    fn poll_end(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..FRAMES {
            match ready!(self.as_mut().poll_frame(context)) {
                Some(Ok(_)) if !self.is_end_stream() => {}
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

/// Whether more of a request is on its way: not without a body, not where it waits for a `100 Continue`, and not of a
/// stream of HTTP/2, which ends by itself.
#[inline]
pub(crate) fn is_coming<B: Body>(request: &Request<B>) -> bool {
    request.version() <= Version::HTTP_11
        && !request.body().is_end_stream()
        && !request.headers().contains_key(EXPECT)
}

/// The body of a request that is refused.
pub(crate) struct Unread {
    /// A future that holds it is as `Sync` as the inner one.
    rest: Mutex<Pin<Box<dyn Rest>>>,
    core: Arc<Core>,
}

impl Unread {
    #[cold]
    pub(crate) fn new<B: Body + Send + 'static>(
        request: Request<B>,
        core: &Arc<Core>,
    ) -> Box<Self> {
        Box::new(Self {
            rest: Mutex::new(Box::pin(request.into_body())),
            core: Arc::clone(core),
        })
    }

    /// Throws away what has come, and leaves the rest alone. Says whether there is a rest, so that the connection
    /// serves no other request.
    pub(crate) fn leave(self, context: &mut Context<'_>) -> bool {
        let mut rest = self
            .rest
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let is_coming = rest.as_mut().poll_end(context).is_pending();
        if is_coming {
            self.core.leave_alone(rest);
        }
        is_coming
    }
}

impl Core {
    /// Ends something that holds the body of a refused request, a moment later.
    pub(crate) fn leave_alone(&self, rest: impl Send + 'static) {
        self.left_alone.keep(Box::new(rest), self.ticker.now());
    }
}

/// What is left alone, the oldest first.
#[derive(Default)]
pub(crate) struct LeftAlone(Mutex<VecDeque<(Timestamp, Box<dyn Send>)>>);

impl LeftAlone {
    fn keep(&self, rest: Box<dyn Send>, now: Timestamp) {
        let mut kept = lock(&self.0);
        let oldest = if kept.len() >= MOST {
            kept.pop_front()
        } else {
            None
        };
        kept.push_back((now, rest));
        drop(kept);
        drop(oldest); // code of the server's
    }

    /// Ends what has been left alone for long enough.
    pub(crate) fn sweep(&self, now: Timestamp) {
        let over = {
            let mut kept = lock(&self.0);
            let lasting = kept.iter().position(|(since, _)| now.since(*since) < LASTS);
            let over = lasting.unwrap_or(kept.len());
            kept.drain(..over).collect::<Vec<_>>()
        };
        drop(over);
    }
}

impl fmt::Debug for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unread").finish_non_exhaustive()
    }
}

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::pipeline::{Ticket, Unwinding};

pin_project! {
    /// The response body of [`CallerService`](super::CallerService): the inner one, carrying the open account of
    /// its request to the end.
    ///
    /// The request ends with the body: at its end, at its trailers, at an error, or when its last frame has passed
    /// (hyper does not ask a complete body again, and drops it). Dropping it before counts as cancelled.
    pub struct ResponseBody<B> {
        #[pin]
        inner: B,
        ticket: Option<Ticket>,
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(inner: B, ticket: Option<Ticket>) -> Self {
        Self { inner, ticket }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let polled = ready!(Unwinding::guard(this.ticket, || this
            .inner
            .as_mut()
            .poll_frame(cx)));
        let Some(ticket) = this.ticket.as_mut() else {
            return Poll::Ready(polled);
        };
        let ended = match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let complete = ticket.data(data.remaining()) || this.inner.is_end_stream();
                    if complete {
                        ticket.end(None);
                    }
                    complete
                } else if let Some(trailers) = frame.trailers_ref() {
                    ticket.end(Some(trailers));
                    true
                } else {
                    false
                }
            }
            Some(Err(_)) => {
                ticket.fail();
                true
            }
            None => {
                ticket.end(None);
                true
            }
        };
        if ended {
            *this.ticket = None;
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self {
            inner: B::default(),
            ticket: None,
        }
    }
}

impl<B: fmt::Debug> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::pipeline::Open;

pin_project! {
    /// The response body of [`CallerService`](super::CallerService): the inner one, carrying the open account of
    /// its request to the end, or that of a refusal.
    ///
    /// The request ends with the body: at its end, at its trailers, at an error, or when its last frame has passed
    /// (hyper does not ask a complete body again, and drops it). Dropping it before counts as cancelled.
    pub struct ResponseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        Inner {
            #[pin]
            inner: B,
            open: Open,
        },
        Refusal { bytes: Bytes },
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(inner: B, open: Open) -> Self {
        Self {
            kind: Kind::Inner { inner, open },
        }
    }

    pub(super) fn refusal(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Refusal { bytes },
        }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let (mut inner, open) = match self.project().kind.project() {
            KindProjection::Inner { inner, open } => (inner, open),
            KindProjection::Refusal { bytes } if bytes.is_empty() => return Poll::Ready(None),
            KindProjection::Refusal { bytes } => {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
            }
        };
        let guard = open.guarded();
        let polled = inner.as_mut().poll_frame(cx);
        guard.passed();
        let Some(ticket) = open.get() else {
            return polled;
        };
        let Poll::Ready(polled) = polled else {
            ticket.head_goes_out();
            return Poll::Pending;
        };
        let ended = match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let complete = ticket.data(data.len()) || inner.is_end_stream();
                    if complete {
                        ticket.end(None);
                    } else {
                        ticket.head_goes_out();
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
            open.close();
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { inner, .. } => inner.is_end_stream(),
            Kind::Refusal { bytes } => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { inner, .. } => inner.size_hint(),
            Kind::Refusal { bytes } => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self {
            kind: Kind::Inner {
                inner: B::default(),
                open: Open::NONE,
            },
        }
    }
}

impl<B: fmt::Debug> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ResponseBody");
        match &self.kind {
            Kind::Inner { inner, .. } => shown.field("inner", inner),
            Kind::Refusal { bytes } => shown.field("refusal", bytes),
        };
        shown.finish_non_exhaustive()
    }
}

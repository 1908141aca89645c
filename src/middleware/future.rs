use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::ResponseBody;
use crate::admit::Reply;
use crate::outcome::ErrorDetail;
use crate::pipeline::Open;

pin_project! {
    /// The response future of [`CallerService`](super::CallerService). Dropping it before it is ready counts the
    /// request as cancelled.
    pub struct ResponseFuture<F> {
        #[pin]
        way: Way<F>,
    }
}

pin_project! {
    #[project = WayProjection]
    enum Way<F> {
        Inner {
            #[pin]
            inner: F,
            open: Open,
        },
        // Taken by the poll that hands it out.
        Refused { reply: Option<Reply> },
    }
}

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn new(inner: F, open: Open) -> Self {
        Self {
            way: Way::Inner { inner, open },
        }
    }

    /// The answer to a request that the inner service never sees.
    #[inline]
    pub(super) fn refused(reply: Reply) -> Self {
        Self {
            way: Way::Refused { reply: Some(reply) },
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let WayProjection::Inner { open, .. } = self.as_mut().project().way.project()
            && let Some(ticket) = open.get()
            && let Some(refused) = ready!(ticket.poll_admission(cx))
        {
            // The inner future, which was never polled, goes; and the account, which is closed.
            self.project().way.set(Way::Refused { reply: None });
            return Poll::Ready(Ok(refused.into_response(ResponseBody::refusal)));
        }
        let (inner, open) = match self.project().way.project() {
            WayProjection::Inner { inner, open } => (inner, open),
            WayProjection::Refused { reply } => {
                return match reply.take() {
                    Some(reply) => Poll::Ready(Ok(reply.into_response(ResponseBody::refusal))),
                    None => Poll::Pending, // polled again after its end, against the contract of futures
                };
            }
        };
        let result = ready!(open.guard(|| inner.poll(cx)));
        let mut response = match result {
            Ok(response) => response,
            Err(error) => {
                if let Some(ticket) = open.get() {
                    ticket.fail();
                }
                open.close();
                return Poll::Ready(Err(error));
            }
        };
        if let Some(ticket) = open.get() {
            ticket.echo(response.headers_mut());
            let detail = response.extensions().get::<ErrorDetail>();
            let body_ended = response.body().is_end_stream();
            let ended = ticket.response(response.status(), response.headers(), detail);
            // A body that has ended already may never be polled.
            if ended || body_ended {
                ticket.end(None);
                open.close();
            }
        }
        let open = open.take();
        Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, open))))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::ResponseBody;
use crate::caller::Caller;
use crate::outcome::ErrorDetail;
use crate::pipeline::{Ticket, Unwinding};

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
            ticket: Option<Ticket>,
            echo: Option<(HeaderName, Caller)>,
        },
        // Taken by the poll that hands it out.
        Refused { response: Option<Response<Bytes>> },
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(
        inner: F,
        ticket: Option<Ticket>,
        echo: Option<(HeaderName, Caller)>,
    ) -> Self {
        Self {
            way: Way::Inner {
                inner,
                ticket,
                echo,
            },
        }
    }

    /// The answer to a request that the inner service never sees.
    pub(super) fn refused(response: Response<Bytes>) -> Self {
        Self {
            way: Way::Refused {
                response: Some(response),
            },
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
        if let WayProjection::Inner {
            ticket: Some(ticket),
            ..
        } = self.as_mut().project().way.project()
            && let Some(refused) = ready!(ticket.poll_admission(cx))
        {
            // The inner future, which was never polled, goes; and the account, which is closed.
            self.project().way.set(Way::Refused { response: None });
            return Poll::Ready(Ok(refused.map(ResponseBody::refusal)));
        }
        let (inner, open, echo) = match self.project().way.project() {
            WayProjection::Inner {
                inner,
                ticket,
                echo,
            } => (inner, ticket, echo),
            WayProjection::Refused { response } => {
                return match response.take() {
                    Some(response) => Poll::Ready(Ok(response.map(ResponseBody::refusal))),
                    None => Poll::Pending, // polled again after its end, against the contract of futures
                };
            }
        };
        let result = ready!(Unwinding::guard(open, || inner.poll(cx)));
        let mut response = match result {
            Ok(response) => response,
            Err(error) => {
                if let Some(mut ticket) = open.take() {
                    ticket.fail();
                }
                return Poll::Ready(Err(error));
            }
        };
        if let Some((name, caller)) = echo.take() {
            // A caller's name is visible ASCII, which every header value may hold.
            if let Ok(value) = HeaderValue::from_str(caller.name()) {
                response.headers_mut().insert(name, value);
            }
        }
        if let Some(ticket) = open {
            let detail = response.extensions().get::<ErrorDetail>();
            let body_ended = response.body().is_end_stream();
            let ended = ticket.response(response.status(), response.headers(), detail);
            // A body that has ended already may never be polled.
            if ended || body_ended {
                ticket.end(None);
                *open = None;
            }
        }
        let ticket = open.take();
        Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, ticket))))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

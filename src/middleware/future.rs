use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

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
        inner: F,
        ticket: Option<Ticket>,
        echo: Option<(HeaderName, Caller)>,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(
        inner: F,
        ticket: Option<Ticket>,
        echo: Option<(HeaderName, Caller)>,
    ) -> Self {
        Self {
            inner,
            ticket,
            echo,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(Unwinding::guard(this.ticket, || this.inner.poll(cx)));
        let mut response = match result {
            Ok(response) => response,
            Err(error) => {
                if let Some(mut ticket) = this.ticket.take() {
                    ticket.fail();
                }
                return Poll::Ready(Err(error));
            }
        };
        if let Some((name, caller)) = this.echo.take() {
            // A caller's name is visible ASCII, which every header value may hold.
            if let Ok(value) = HeaderValue::from_str(caller.name()) {
                response.headers_mut().insert(name, value);
            }
        }
        if let Some(ticket) = this.ticket {
            let detail = response.extensions().get::<ErrorDetail>();
            let body_ended = response.body().is_end_stream();
            let ended = ticket.response(response.status(), response.headers(), detail);
            // A body that has ended already may never be polled.
            if ended || body_ended {
                ticket.end(None);
                *this.ticket = None;
            }
        }
        let ticket = this.ticket.take();
        Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, ticket))))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

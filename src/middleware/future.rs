use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http::header::{CONNECTION, HeaderValue};
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::ResponseBody;
use crate::admit::Reply;
use crate::outcome::ErrorDetail;
use crate::pipeline::{Core, Open, Unread};

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
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "a fleet needs Redis"))]
    enum Way<F> {
        Inner {
            #[pin]
            inner: F,
            open: Open,
        },
        // Its caller is still sending while it waits for the fleet: where it is refused, it is left alone.
        Waiting {
            inner: Option<Pin<Box<F>>>,
            open: Open,
            core: Arc<Core>,
        },
        // Taken by the poll that hands it out.
        Refused {
            reply: Option<Reply>,
            unread: Option<Box<Unread>>,
        },
    }
}

/// With feature `redis`, a future of a service that lives as long as it likes: who is refused while it waits for the
/// fleet may still be sending, and is not cut off at once.
#[cfg(feature = "redis")]
pub trait MayWait: Send + 'static {}
#[cfg(feature = "redis")]
impl<F: Send + 'static> MayWait for F {}

/// With feature `redis`, a future of a service that is `Send`.
#[cfg(not(feature = "redis"))]
pub trait MayWait {}
#[cfg(not(feature = "redis"))]
impl<F> MayWait for F {}

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn new(inner: F, open: Open) -> Self {
        Self {
            way: Way::Inner { inner, open },
        }
    }

    #[cfg(feature = "redis")]
    pub(super) fn waiting(inner: Pin<Box<F>>, open: Open, core: Arc<Core>) -> Self {
        Self {
            way: Way::Waiting {
                inner: Some(inner),
                open,
                core,
            },
        }
    }

    /// The answer to a request that the inner service never sees.
    #[inline]
    pub(super) fn refused(reply: Reply, unread: Option<Box<Unread>>) -> Self {
        Self {
            way: Way::Refused {
                reply: Some(reply),
                unread,
            },
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>> + MayWait,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let refused = match self.as_mut().project().way.project() {
            WayProjection::Inner { inner, open } => match ready!(poll_admission(open, cx)) {
                None => return poll_inner(inner, open, cx),
                Some(reply) => reply.into_response(ResponseBody::refusal),
            },
            WayProjection::Waiting { inner, open, core } => {
                let refused = ready!(poll_admission(open, cx));
                let Some(mut future) = inner.take() else {
                    return Poll::Pending;
                };
                match refused {
                    None => {
                        let polled = poll_inner(future.as_mut(), open, cx);
                        *inner = Some(future);
                        return polled;
                    }
                    Some(reply) => {
                        #[cfg(feature = "redis")]
                        core.leave_alone(future);
                        #[cfg(not(feature = "redis"))]
                        let _ = (core, future);
                        closing(reply.into_response(ResponseBody::refusal))
                    }
                }
            }
            WayProjection::Refused { reply, unread } => {
                let Some(reply) = reply.take() else {
                    return Poll::Pending; // polled again after its end, against the contract of futures
                };
                return match unread.take() {
                    None => Poll::Ready(Ok(reply.into_response(ResponseBody::refusal))),
                    Some(unread) => Poll::Ready(Ok(answer_sender(*unread, reply, cx))),
                };
            }
        };
        // The inner future, which was never polled, goes; and the account, which is closed.
        let (reply, unread) = (None, None);
        self.project().way.set(Way::Refused { reply, unread });
        Poll::Ready(Ok(refused))
    }
}

/// The answer, where the request had to wait for the fleet and is refused.
#[inline]
fn poll_admission(open: &mut Open, cx: &mut Context<'_>) -> Poll<Option<Reply>> {
    match open.get() {
        Some(ticket) => ticket.poll_admission(cx),
        None => Poll::Ready(None),
    }
}

#[inline]
fn poll_inner<F, B, E>(
    inner: Pin<&mut F>,
    open: &mut Open,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<ResponseBody<B>>, E>>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    let guard = open.guarded();
    let result = inner.poll(cx);
    guard.passed();
    let mut response = match ready!(result) {
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

/// The answer to who may still be sending.
#[cold]
fn answer_sender<B>(
    unread: Unread,
    reply: Reply,
    cx: &mut Context<'_>,
) -> Response<ResponseBody<B>> {
    let response = reply.into_response(ResponseBody::refusal);
    if unread.leave(cx) {
        closing(response)
    } else {
        response
    }
}

/// The last answer on a connection.
fn closing<B>(mut response: Response<B>) -> Response<B> {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::body::ResponseBody;
use super::future::{MayWait, ResponseFuture};
use crate::pipeline::{Entrance, Open, Unread, is_coming};
use crate::upkeep::Upkeep;

/// The service of [`CallerLayer`](super::CallerLayer). Errors are the inner service's own, readiness is forwarded
/// untouched, and the inner service need not be `Clone`.
#[derive(Clone, Debug)]
pub struct CallerService<S> {
    inner: S,
    upkeep: Arc<Upkeep>,
}

impl<S> CallerService<S> {
    pub(super) fn new(inner: S, upkeep: Arc<Upkeep>) -> Self {
        Self { inner, upkeep }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for CallerService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Future: MayWait,
    ReqBody: Body + Send + 'static,
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let mut open = match self.upkeep.core.admit(&mut request) {
            Entrance::Pass => Open::NONE,
            Entrance::Open(open) => open,
            Entrance::Refused(reply) => {
                if is_coming(&request) {
                    let unread = Unread::new(request, &self.upkeep.core);
                    return ResponseFuture::refused(reply, Some(unread));
                }
                return ResponseFuture::refused(reply, None);
            }
        };
        #[cfg(feature = "redis")]
        if open.get().is_some_and(|ticket| ticket.waits()) && is_coming(&request) {
            let guard = open.guarded();
            let inner = Box::pin(self.inner.call(request));
            guard.passed();
            return ResponseFuture::waiting(inner, open, Arc::clone(&self.upkeep.core));
        }
        let guard = open.guarded();
        let inner = self.inner.call(request);
        guard.passed();
        ResponseFuture::new(inner, open)
    }
}

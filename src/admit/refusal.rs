//! The answer to a request that is refused.
//!
//! 429 (RFC 6585) with problem details (RFC 9457) and `Retry-After`, also for a caller above its fair share: load
//! balancers try a 503 again elsewhere and eject the replica for it. `RateLimit` and `RateLimit-Policy` and the
//! problem types are those of draft-ietf-httpapi-ratelimit-headers-11. To gRPC it is HTTP 200 with status 8 in the
//! headers, and `grpc-retry-pushback-ms` (gRFC A6): clients take a bare 429 for UNAVAILABLE and try again.

use std::borrow::Borrow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, Version};

use super::answers::{Look, Reply, again};
use super::fields;
use super::patience::whole_seconds;
use super::quota::Quota;
use super::words::{Words, with_words};
use crate::caller::Caller;
use crate::outcome::Reason;

static ENVOY_RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Makes a response of a refusal.
pub(crate) type RefusalFn = dyn Fn(&Refusal) -> Response<Bytes> + Send + Sync;

/// Which header fields tell a caller about its quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RateLimitHeaders {
    /// `RateLimit` and `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers-11, on refusals.
    #[default]
    Draft11,
    /// None.
    Off,
}

/// How refusals look.
pub(crate) struct Style {
    pub(crate) headers: RateLimitHeaders,
    pub(crate) envoy: bool,
    pub(crate) custom: Option<Box<RefusalFn>>,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            headers: RateLimitHeaders::default(),
            envoy: true,
            custom: None,
        }
    }
}

impl fmt::Debug for Style {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Style")
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// Which of a caller's quotas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "redis"),
    allow(dead_code, reason = "a fleet needs Redis")
)]
pub(super) enum Which {
    Quota,
    Clamp,
    Group,
    Runaway,
    Fleet,
}

impl Which {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Clamp => "clamp",
            Self::Group => "group",
            Self::Runaway => "runaway",
            Self::Fleet => "fleet",
        }
    }
}

/// The limit that was met, as far as its caller may know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    Quota { which: Which, quota: Quota },
    InFlight(u32),
    Ceiling,
    Block,
}

impl Limit {
    /// Tells kinds of limits apart, up to eight.
    #[inline]
    pub(super) fn number(self) -> usize {
        match self {
            Self::Quota { which, .. } => which as usize,
            Self::InFlight(_) => 5,
            Self::Ceiling => 6,
            Self::Block => 7,
        }
    }
}

/// A request that is refused, and why. [`Refusal::response`] is the answer unless a closure gives another
/// ([`Builder::refusal`](crate::Builder::refusal)).
#[derive(Clone, Debug)]
pub struct Refusal(Refused<Caller>);

/// The same with a caller that may be borrowed: only a closure needs it for itself.
#[derive(Clone, Debug)]
pub(crate) struct Refused<C> {
    pub(super) reason: Reason,
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) close: bool,
    pub(super) limit: Limit,
    /// Whole tokens that are left.
    pub(super) left: u64,
    pub(super) caller: C,
    pub(super) head: bool,
    pub(super) http1: bool,
    pub(super) grpc: Option<HeaderValue>,
    pub(super) headers: RateLimitHeaders,
    pub(super) envoy: bool,
}

/// What of a request's head decides how its refusal looks.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    pub(super) head: bool,
    pub(super) http1: bool,
    /// The content type of a gRPC request, which the answer has too.
    pub(super) grpc: Option<HeaderValue>,
}

impl Form {
    #[inline]
    pub(crate) fn new(method: &Method, version: Version, headers: &HeaderMap, grpc: bool) -> Self {
        let grpc = grpc.then(|| {
            let sent = headers.get(CONTENT_TYPE).cloned();
            sent.unwrap_or(HeaderValue::from_static("application/grpc"))
        });
        Self {
            head: method == Method::HEAD,
            http1: version <= Version::HTTP_11,
            grpc,
        }
    }
}

impl Refusal {
    /// Why.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The status of the answer over HTTP: 429; 503 where the service is full and no caller has had more than its
    /// share within a second; 403 for a caller who is blocked without an end.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// How long the caller is asked to wait; `None` where waiting does not help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Who is refused.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// Whether the request is a call of gRPC, whose answer is HTTP 200.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.0.grpc.is_some()
    }

    /// The answer that is given unless a closure gives another.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        self.0.reply().into_response(|body| body)
    }
}

impl Refused<&Caller> {
    /// The refusal as a closure sees it.
    #[cold]
    pub(crate) fn kept(&self) -> Refusal {
        Refusal(Refused {
            reason: self.reason,
            status: self.status,
            retry_after: self.retry_after,
            close: self.close,
            limit: self.limit,
            left: self.left,
            caller: self.caller.clone(),
            head: self.head,
            http1: self.http1,
            grpc: self.grpc.clone(),
            headers: self.headers,
            envoy: self.envoy,
        })
    }
}

impl<C: Borrow<Caller>> Refused<C> {
    /// The answer that is given unless a closure gives another.
    #[inline]
    pub(crate) fn reply(&self) -> Reply {
        match &self.grpc {
            None => self.http(),
            Some(content_type) => {
                let response = self.words(|words| self.grpc(content_type, words));
                Reply::Own(Box::new(response))
            }
        }
    }

    fn words<T>(&self, use_them: impl FnOnce(&Words) -> T) -> T {
        with_words(self.limit, self.status, use_them)
    }

    fn grpc(&self, content_type: &HeaderValue, words: &Words) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.headers_mut() = HeaderMap::with_capacity(FIELDS);
        self.fill_grpc(&mut response, content_type, words);
        self.fill_any(response.headers_mut(), words);
        response
    }

    /// The answer over HTTP: what was said last in the same case is said again.
    #[inline]
    fn http(&self) -> Reply {
        let look = Look {
            limit: self.limit,
            status: self.status,
            after: self.retry_after.map(whole_seconds),
            left: self.left,
            close: self.close && self.http1,
            headers: self.headers,
            envoy: self.envoy,
        };
        let name = self.told_name();
        let headers = || self.words(|words| self.headers(look.after, words));
        let body = || self.words(|words| words.problem(look.after, name)).into();
        let reply = Reply::Kept(again(look, name, headers, body));
        if !self.head {
            return reply;
        }
        reply.changed(|response| {
            // Of another answer the server knows the length by its body.
            let length = HeaderValue::from(response.body().len());
            response.headers_mut().insert(CONTENT_LENGTH, length);
            *response.body_mut() = Bytes::new();
        })
    }

    #[cold]
    fn headers(&self, after: Option<u64>, words: &Words) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(FIELDS);
        let problem = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, problem);
        if let Some(after) = after.and_then(|after| fields::value(&after.to_string())) {
            headers.insert(RETRY_AFTER, after);
        }
        self.fill_any(&mut headers, words);
        headers
    }

    /// Who only claims a name need not learn what it was taken for.
    fn told_name(&self) -> Option<&str> {
        let caller = self.caller.borrow();
        caller.is_verified().then(|| caller.name())
    }

    /// What is said over HTTP and to gRPC alike.
    fn fill_any(&self, headers: &mut HeaderMap, words: &Words) {
        if self.envoy && self.status != StatusCode::FORBIDDEN {
            headers.insert(ENVOY_RATELIMITED.clone(), HeaderValue::from_static("true"));
        }
        if self.headers == RateLimitHeaders::Draft11 {
            self.add_rate_limit(headers, words);
        }
        if self.close && self.http1 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    fn fill_grpc(&self, response: &mut Response<Bytes>, content_type: &HeaderValue, words: &Words) {
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, content_type.clone());
        let status = if self.reason == Reason::Blocked {
            "7"
        } else {
            "8"
        };
        headers.insert(GRPC_STATUS.clone(), HeaderValue::from_static(status));
        headers.insert(GRPC_MESSAGE.clone(), words.message.clone());
        if let Some(after) = self.retry_after {
            let millis = u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            headers.insert(GRPC_PUSHBACK.clone(), HeaderValue::from(millis));
        }
    }

    /// Two structured fields (RFC 9651): lists of one item each, a string with parameters.
    fn add_rate_limit(&self, headers: &mut HeaderMap, words: &Words) {
        let Some((policy, name)) = &words.policy else {
            return;
        };
        headers.insert(RATELIMIT_POLICY.clone(), policy.clone());
        let after = self.retry_after.map_or(1, whole_seconds);
        let limit = format!("\"{name}\";r={};t={after}", self.left);
        if let Some(limit) = fields::value(&limit) {
            headers.insert(RATELIMIT.clone(), limit);
        }
    }
}

/// Room for the header fields of a refusal.
const FIELDS: usize = 8;

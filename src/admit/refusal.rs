//! The answer to a request that is refused.
//!
//! 429 (RFC 6585) with problem details (RFC 9457) and `Retry-After`, also for a caller above its fair share: load
//! balancers try a 503 again elsewhere and eject the replica for it. `RateLimit` and `RateLimit-Policy` and the
//! problem types are those of draft-ietf-httpapi-ratelimit-headers-11. To gRPC it is HTTP 200 with status 8 in the
//! headers, and `grpc-retry-pushback-ms` (gRFC A6): clients take a bare 429 for UNAVAILABLE and try again.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, Version};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::patience::whole_seconds;
use super::quota::Quota;
use crate::caller::Caller;
use crate::outcome::Reason;

static ENVOY_RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

const TYPES: &str = "https://iana.org/assignments/http-problem-types#";

/// What the gRPC protocol wants encoded in a message, beside what is not ASCII.
const GRPC_ENCODED: &AsciiSet = &CONTROLS.add(b'%');

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

/// The limit that was met, as far as its caller may know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    Quota {
        name: &'static str,
        quota: Quota,
        left: u64,
    },
    InFlight(u32),
    Ceiling,
    Block,
}

/// A request that is refused, and why. [`Refusal::response`] is the answer unless a closure gives another
/// ([`Builder::refusal`](crate::Builder::refusal)).
#[derive(Clone, Debug)]
pub struct Refusal {
    pub(super) reason: Reason,
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) close: bool,
    pub(super) limit: Limit,
    pub(super) caller: Caller,
    pub(super) head: bool,
    pub(super) http1: bool,
    pub(super) grpc: Option<HeaderValue>,
    pub(super) headers: RateLimitHeaders,
    pub(super) envoy: bool,
}

/// What of a request's head decides how its refusal looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form<'a> {
    pub(crate) method: &'a Method,
    pub(crate) version: Version,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) grpc: bool,
}

impl Form<'_> {
    pub(super) fn is_http1(&self) -> bool {
        self.version <= Version::HTTP_11
    }

    /// The content type of a gRPC request, which the answer has too.
    pub(super) fn grpc_type(&self) -> Option<HeaderValue> {
        let grpc = self.grpc.then(|| self.headers.get(CONTENT_TYPE));
        grpc.map(|sent| {
            sent.cloned()
                .unwrap_or(HeaderValue::from_static("application/grpc"))
        })
    }
}

impl Refusal {
    /// Why.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The status of the answer over HTTP: 429; 503 where the service is full and no caller has more than its
    /// share; 403 for a caller who is blocked without an end.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// How long the caller is asked to wait; `None` where waiting does not help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Who is refused.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether the request is a call of gRPC, whose answer is HTTP 200.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.grpc.is_some()
    }

    /// The answer that is given unless a closure gives another.
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        let mut response = match &self.grpc {
            Some(content_type) => self.grpc_response(content_type),
            None => self.http_response(),
        };
        let headers = response.headers_mut();
        if self.envoy && self.status != StatusCode::FORBIDDEN {
            headers.insert(ENVOY_RATELIMITED.clone(), HeaderValue::from_static("true"));
        }
        if self.headers == RateLimitHeaders::Draft11 {
            self.add_rate_limit(headers);
        }
        if self.close && self.http1 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn http_response(&self) -> Response<Bytes> {
        let body = Bytes::from(self.problem());
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
        }
        if !self.head {
            *response.body_mut() = body;
        }
        response
    }

    fn grpc_response(&self, content_type: &HeaderValue) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, content_type.clone());
        let status = if self.reason == Reason::Blocked {
            7_u16
        } else {
            8
        };
        headers.insert(GRPC_STATUS.clone(), HeaderValue::from(status));
        let message = utf8_percent_encode(&self.detail(), GRPC_ENCODED).to_string();
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert(GRPC_MESSAGE.clone(), message);
        }
        if let Some(after) = self.retry_after {
            let millis = u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            headers.insert(GRPC_PUSHBACK.clone(), HeaderValue::from(millis));
        }
        response
    }

    /// Two structured fields (RFC 9651): lists of one item each, a string with parameters.
    fn add_rate_limit(&self, headers: &mut HeaderMap) {
        let after = self.retry_after.map_or(1, whole_seconds);
        let (policy, limit) = match self.limit {
            Limit::Quota { name, quota, left } => {
                let (count, secs) = quota.window();
                (
                    format!("\"{name}\";q={count};w={secs}"),
                    format!("\"{name}\";r={left};t={after}"),
                )
            }
            Limit::InFlight(max) => (
                format!("\"in-flight\";q={max};qu=\"concurrent-requests\""),
                format!("\"in-flight\";r=0;t={after}"),
            ),
            Limit::Ceiling | Limit::Block => return,
        };
        for (name, value) in [(&RATELIMIT_POLICY, policy), (&RATELIMIT, limit)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name.clone(), value);
            }
        }
    }

    /// A sentence for people.
    fn detail(&self) -> String {
        match self.limit {
            Limit::Quota { quota, .. } => format!("the quota of {quota} is spent"),
            Limit::InFlight(max) => format!("{max} requests are in flight already"),
            Limit::Ceiling if self.status == StatusCode::SERVICE_UNAVAILABLE => {
                "the service is full".to_owned()
            }
            Limit::Ceiling => "the service is full, and this caller has its fair share".to_owned(),
            Limit::Block => "this caller is blocked".to_owned(),
        }
    }

    /// The body: problem details of RFC 9457.
    fn problem(&self) -> String {
        let (kind, title, violated) = match self.limit {
            Limit::Block => ("about:blank", "Caller is blocked", None),
            Limit::Ceiling if self.status == StatusCode::SERVICE_UNAVAILABLE => (
                "temporary-reduced-capacity",
                "Request cannot be satisfied due to temporary server capacity constraints",
                Some("ceiling"),
            ),
            Limit::Ceiling => ("quota-exceeded", QUOTA_EXCEEDED, Some("ceiling")),
            Limit::InFlight(_) => ("quota-exceeded", QUOTA_EXCEEDED, Some("in-flight")),
            Limit::Quota { name, .. } => ("quota-exceeded", QUOTA_EXCEEDED, Some(name)),
        };
        let types = if violated.is_some() { TYPES } else { "" };
        let mut json = format!(
            "{{\"type\":\"{types}{kind}\",\"title\":\"{title}\",\"status\":{},\"detail\":\"{}\"",
            self.status.as_u16(),
            self.detail(),
        );
        if let Some(violated) = violated {
            json.push_str(&format!(",\"violated-policies\":[\"{violated}\"]"));
        }
        if let Some(after) = self.retry_after {
            json.push_str(&format!(",\"retry-after\":{}", whole_seconds(after)));
        }
        // Who only claims a name need not learn what it was taken for.
        if self.caller.is_verified() {
            let name = self
                .caller
                .name()
                .replace('\\', "\\\\")
                .replace('"', "\\\"");
            json.push_str(&format!(",\"caller\":\"{name}\""));
        }
        json.push('}');
        json
    }
}

const QUOTA_EXCEEDED: &str = "Request cannot be satisfied as assigned quota has been exceeded";

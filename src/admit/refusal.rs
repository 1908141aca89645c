//! The answer to a request that is refused.
//!
//! 429 (RFC 6585) with problem details (RFC 9457) and `Retry-After`, also for a caller above its fair share: load
//! balancers try a 503 again elsewhere and eject the replica for it. `RateLimit` and `RateLimit-Policy` and the
//! problem types are those of draft-ietf-httpapi-ratelimit-headers-11. To gRPC it is HTTP 200 with status 8 in the
//! headers, and `grpc-retry-pushback-ms` (gRFC A6): clients take a bare 429 for UNAVAILABLE and try again.

use std::cell::RefCell;
use std::fmt::{self, Write};
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
    Quota { name: &'static str, quota: Quota },
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
    /// Whole tokens that are left.
    pub(super) left: u64,
    pub(super) caller: Caller,
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
        with_words(self.limit, self.status, |words| {
            let mut response = Response::new(Bytes::new());
            *response.headers_mut() = HeaderMap::with_capacity(FIELDS);
            match &self.grpc {
                Some(content_type) => self.fill_grpc(&mut response, content_type, words),
                None => self.fill_http(&mut response, words),
            }
            let headers = response.headers_mut();
            if self.envoy && self.status != StatusCode::FORBIDDEN {
                headers.insert(ENVOY_RATELIMITED.clone(), HeaderValue::from_static("true"));
            }
            if self.headers == RateLimitHeaders::Draft11 {
                self.add_rate_limit(headers, words);
            }
            if self.close && self.http1 {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        })
    }

    fn fill_http(&self, response: &mut Response<Bytes>, words: &Words) {
        *response.status_mut() = self.status;
        let body = self.problem(words);
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds(whole_seconds(after)));
        }
        if self.head {
            // Of another answer the server knows the length by its body.
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        } else {
            *response.body_mut() = Bytes::from(body);
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
        if let Ok(limit) = HeaderValue::try_from(limit) {
            headers.insert(RATELIMIT.clone(), limit);
        }
    }

    /// The body: problem details of RFC 9457.
    fn problem(&self, words: &Words) -> String {
        let name = self.caller.name();
        let mut json = String::with_capacity(words.problem.len() + name.len() + 48);
        json.push_str(&words.problem);
        if let Some(after) = self.retry_after {
            let _ = write!(json, ",\"retry-after\":{}", whole_seconds(after));
        }
        // Who only claims a name need not learn what it was taken for.
        if self.caller.is_verified() {
            json.push_str(",\"caller\":\"");
            for letter in name.chars() {
                if matches!(letter, '"' | '\\') {
                    json.push('\\');
                }
                json.push(letter);
            }
            json.push('"');
        }
        json.push('}');
        json
    }
}

/// Room for the header fields of a refusal.
const FIELDS: usize = 8;

/// A small number as a field's value, without an allocation.
fn seconds(seconds: u64) -> HeaderValue {
    const SMALL: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let small = usize::try_from(seconds).ok().and_then(|at| SMALL.get(at));
    small.map_or_else(
        || HeaderValue::from(seconds),
        |text| HeaderValue::from_static(text),
    )
}

/// What a limit always says, whoever meets it.
struct Words {
    limit: Limit,
    status: StatusCode,
    /// The field `RateLimit-Policy`, and the policy's name in it.
    policy: Option<(HeaderValue, &'static str)>,
    /// The problem, up to what differs from request to request.
    problem: String,
    /// The same for gRPC.
    message: HeaderValue,
}

/// Limits whose words a thread keeps: a flood meets the same one again and again, and to refuse must be cheaper
/// than to serve.
const KEPT: usize = 8;

thread_local!(static WORDS: RefCell<Vec<Words>> = const { RefCell::new(Vec::new()) });

/// Takes the words out and puts them back, so that nothing is borrowed meanwhile.
fn with_words<T>(limit: Limit, status: StatusCode, use_them: impl FnOnce(&Words) -> T) -> T {
    let kept = WORDS.try_with(|kept| {
        let mut kept = kept.try_borrow_mut().ok()?;
        let known = |words: &Words| words.limit == limit && words.status == status;
        let at = kept.iter().position(known)?;
        Some(kept.swap_remove(at))
    });
    let words = kept
        .ok()
        .flatten()
        .unwrap_or_else(|| Words::new(limit, status));
    let used = use_them(&words);
    // Where the thread is being torn down they are dropped.
    let _ = WORDS.try_with(|kept| {
        if let Ok(mut kept) = kept.try_borrow_mut() {
            kept.truncate(KEPT - 1);
            kept.push(words);
        }
    });
    used
}

impl Words {
    fn new(limit: Limit, status: StatusCode) -> Self {
        let full = status == StatusCode::SERVICE_UNAVAILABLE;
        let (policy, violated, detail) = match limit {
            Limit::Quota { name, quota } => {
                let (count, secs) = quota.window();
                let policy = format!("\"{name}\";q={count};w={secs}");
                (
                    Some((policy, name)),
                    name,
                    format!("the quota of {quota} is spent"),
                )
            }
            Limit::InFlight(max) => {
                let name = "in-flight";
                let policy = format!("\"{name}\";q={max};qu=\"concurrent-requests\"");
                (
                    Some((policy, name)),
                    name,
                    format!("{max} requests are in flight already"),
                )
            }
            Limit::Ceiling if full => (None, "ceiling", "the service is full".to_owned()),
            Limit::Ceiling => {
                let detail = "the service is full, and this caller has its fair share";
                (None, "ceiling", detail.to_owned())
            }
            Limit::Block => (None, "", "this caller is blocked".to_owned()),
        };
        let (kind, title) = match limit {
            Limit::Block => ("about:blank".to_owned(), "Caller is blocked"),
            Limit::Ceiling if full => (
                format!("{TYPES}temporary-reduced-capacity"),
                REDUCED_CAPACITY,
            ),
            _ => (format!("{TYPES}quota-exceeded"), QUOTA_EXCEEDED),
        };
        let code = status.as_u16();
        let mut problem = format!(
            "{{\"type\":\"{kind}\",\"title\":\"{title}\",\"status\":{code},\"detail\":\"{detail}\""
        );
        if !violated.is_empty() {
            let _ = write!(problem, ",\"violated-policies\":[\"{violated}\"]");
        }
        let value = |text: &str| HeaderValue::from_str(text).ok();
        let message = utf8_percent_encode(&detail, GRPC_ENCODED).to_string();
        Self {
            limit,
            status,
            policy: policy.and_then(|(policy, name)| Some((value(&policy)?, name))),
            problem,
            message: value(&message).unwrap_or(HeaderValue::from_static("refused")),
        }
    }
}

const REDUCED_CAPACITY: &str =
    "Request cannot be satisfied due to temporary server capacity constraints";
const QUOTA_EXCEEDED: &str = "Request cannot be satisfied as assigned quota has been exceeded";

//! What refusals say, kept by every thread: a flood meets the same limit again and again, and to refuse must be cheaper
//! than to serve.

use std::cell::Cell;
use std::fmt::Write;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{HeaderMap, Response, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::refusal::{Limit, RateLimitHeaders};

const TYPES: &str = "https://iana.org/assignments/http-problem-types#";

/// What the gRPC protocol wants encoded in a message, beside what is not ASCII.
const GRPC_ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// Limits whose words a thread keeps.
const KEPT: usize = 8;

/// Answers that are kept of a limit, by the seconds that they tell: as many as the jitter of a long wait spreads
/// over, of less than 1 KiB each.
const ANSWERS: usize = 32;

thread_local!(static WORDS: Cell<Vec<Box<Words>>> = const { Cell::new(Vec::new()) });

/// Calls `use_them` with the words of a limit: those that the thread keeps, or new ones.
#[inline]
pub(super) fn with_words<T>(
    limit: Limit,
    status: StatusCode,
    use_them: impl FnOnce(&mut Words) -> T,
) -> T {
    // Where the thread is being torn down nothing is kept.
    let mut kept = WORDS.try_with(Cell::take).unwrap_or_default();
    let known = kept
        .iter()
        .position(|words| words.status == status && words.limit == limit);
    let used = match known.and_then(|at| kept.get_mut(at)) {
        Some(words) => use_them(words),
        None => {
            let mut words = Box::new(Words::new(limit, status));
            let used = use_them(&mut words);
            if kept.len() >= KEPT {
                kept.swap_remove(fastrand::usize(..KEPT));
            }
            kept.push(words);
            used
        }
    };
    let _ = WORDS.try_with(|words| words.set(kept));
    used
}

/// What a limit always says, whoever meets it.
pub(super) struct Words {
    limit: Limit,
    status: StatusCode,
    /// The field `RateLimit-Policy`, and the policy's name in it.
    pub(super) policy: Option<(HeaderValue, &'static str)>,
    /// The problem, up to what differs from request to request.
    problem: String,
    /// The same for gRPC.
    pub(super) message: HeaderValue,
    answers: [Option<Answer>; ANSWERS],
}

/// What makes the header fields of one answer over HTTP differ from those of another under the same limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    /// Whole seconds.
    pub(super) after: Option<u64>,
    pub(super) left: u64,
    pub(super) close: bool,
    pub(super) headers: RateLimitHeaders,
    pub(super) envoy: bool,
}

/// An answer that was given.
struct Answer {
    look: Look,
    /// Whose name is in the body, if one is.
    name: Option<Box<str>>,
    response: Response<Bytes>,
}

impl Words {
    /// An answer with a body; `headers` makes its header fields where nothing like it was given before.
    pub(super) fn answer(
        &mut self,
        look: Look,
        name: Option<&str>,
        headers: impl FnOnce(&Self) -> HeaderMap,
    ) -> Response<Bytes> {
        let at = look.after.unwrap_or(0) as usize % ANSWERS;
        let known = self.answers.get(at).and_then(Option::as_ref);
        let alike = known.filter(|answer| answer.look == look);
        if let Some(answer) = alike.filter(|answer| answer.name.as_deref() == name) {
            return answer.response.clone();
        }
        let headers = match alike {
            Some(answer) => answer.response.headers().clone(),
            None => headers(self),
        };
        let mut response = Response::new(Bytes::from(self.problem(look.after, name)));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        if let Some(place) = self.answers.get_mut(at) {
            *place = Some(Answer {
                look,
                name: name.map(Into::into),
                response: response.clone(),
            });
        }
        response
    }

    /// The body: problem details of RFC 9457.
    fn problem(&self, after: Option<u64>, name: Option<&str>) -> String {
        let named = name.map_or(0, |name| 16 + name.len());
        let mut json = String::with_capacity(self.problem.len() + named + 40);
        json.push_str(&self.problem);
        if let Some(after) = after {
            let _ = write!(json, ",\"retry-after\":{after}");
        }
        if let Some(name) = name {
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
            answers: [const { None }; ANSWERS],
        }
    }
}

const REDUCED_CAPACITY: &str =
    "Request cannot be satisfied due to temporary server capacity constraints";
const QUOTA_EXCEEDED: &str = "Request cannot be satisfied as assigned quota has been exceeded";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_would_be_said_anew() {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let limit = Limit::InFlight(7);
        let look = |turn: u64| Look {
            after: (!turn.is_multiple_of(5)).then_some(turn % 70),
            left: turn % 2,
            close: turn.is_multiple_of(3),
            headers: RateLimitHeaders::Draft11,
            envoy: true,
        };
        let headers = |look: Look| {
            let mut headers = HeaderMap::new();
            headers.insert("look", HeaderValue::try_from(format!("{look:?}")).unwrap());
            headers
        };
        for turn in 0..2_000 {
            let (look, name) = (
                look(turn),
                [None, Some("a"), Some("b\"\\")][turn as usize % 3],
            );
            let kept = with_words(limit, status, |words| {
                words.answer(look, name, |_| headers(look))
            });
            let fresh = Words::new(limit, status).problem(look.after, name);
            assert_eq!(kept.status(), status);
            assert_eq!(*kept.headers(), headers(look), "{turn}");
            assert_eq!(kept.into_body(), Bytes::from(fresh), "{turn}");
        }
    }
}

//! What refusals say, kept by every thread: a flood meets the same limit again and again.

use std::cell::Cell;
use std::fmt::Write;

use http::StatusCode;
use http::header::HeaderValue;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::fields;
use super::refusal::Limit;

const TYPES: &str = "https://iana.org/assignments/http-problem-types#";

/// What the gRPC protocol wants encoded in a message, beside what is not ASCII.
const GRPC_ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// Limits whose words a thread keeps.
const KEPT: usize = 8;

thread_local!(static WORDS: Cell<Vec<Words>> = const { Cell::new(Vec::new()) });

/// Calls `use_them` with the words of a limit: those that the thread keeps, or new ones.
#[inline]
pub(super) fn with_words<T>(
    limit: Limit,
    status: StatusCode,
    use_them: impl FnOnce(&Words) -> T,
) -> T {
    // Where the thread is being torn down nothing is kept.
    let mut kept = WORDS.try_with(Cell::take).unwrap_or_default();
    let known = kept
        .iter()
        .position(|words| words.status == status && words.limit == limit);
    let used = match known.and_then(|at| kept.get(at)) {
        Some(words) => use_them(words),
        None => {
            let words = Words::new(limit, status);
            let used = use_them(&words);
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
}

impl Words {
    /// The body: problem details of RFC 9457.
    pub(super) fn problem(&self, after: Option<u64>, name: Option<&str>) -> String {
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
            Limit::Quota { which, quota } => {
                let name = which.as_str();
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
        let value = fields::value;
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

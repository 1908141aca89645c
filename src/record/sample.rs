//! The last failing requests of a caller: at night one needs three trace ids.

use std::collections::VecDeque;
use std::sync::Arc;

use super::route::Route;
use crate::clock::Timestamp;
use crate::outcome::{Class, ErrorDetail};

/// How many failing requests are kept per caller.
pub(crate) const SAMPLES: usize = 8;
/// How many distinct details (class, code, field) are counted per caller.
pub(crate) const DETAILS: usize = 32;
/// The longest code or field, in bytes, that is kept.
const LONGEST: usize = 64;

/// One failing request.
#[derive(Clone, Debug)]
pub(crate) struct FailedRequest {
    pub(crate) at: Timestamp,
    pub(crate) route: Arc<Route>,
    pub(crate) status: Option<u16>,
    pub(crate) class: Class,
    pub(crate) code: Option<Box<str>>,
    pub(crate) trace_id: TraceId,
}

/// The last few, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Samples(VecDeque<FailedRequest>);

impl Samples {
    pub(crate) fn push(&mut self, failed: FailedRequest) {
        if self.0.len() >= SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(failed);
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &FailedRequest> {
        self.0.iter()
    }
}

/// What handlers said about errors, as it is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Detail {
    pub(crate) class: Class,
    pub(crate) code: Box<str>,
    pub(crate) field: Option<Box<str>>,
}

impl Detail {
    pub(crate) fn new(class: Class, detail: &ErrorDetail) -> Self {
        Self {
            class,
            code: short(&detail.code).into(),
            field: detail.field.as_deref().map(|f| short(f).into()),
        }
    }

    pub(crate) fn is(&self, class: Class, detail: &ErrorDetail) -> bool {
        self.class == class
            && *self.code == *short(&detail.code)
            && self.field.as_deref() == detail.field.as_deref().map(short)
    }
}

/// At most [`LONGEST`] bytes of `text`, cut between characters.
pub(crate) fn short(text: &str) -> &str {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The trace id of a request, as it stands in `traceparent`: copied on every request, read where one fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TraceId([u8; 32]);

impl TraceId {
    /// Copies the place where a W3C `traceparent` has its trace id.
    /// <https://www.w3.org/TR/trace-context/#traceparent-header>
    #[inline]
    pub(crate) fn in_traceparent(traceparent: &[u8]) -> Self {
        match traceparent {
            [_, _, b'-', rest @ ..] if rest.get(32) == Some(&b'-') => rest
                .first_chunk()
                .map_or_else(Self::default, |id| Self(*id)),
            _ => Self::default(),
        }
    }

    /// The id, if it is one: 32 digits, hexadecimal and lower case, not all of them zero.
    pub(crate) fn read(&self) -> Option<&str> {
        let digits = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        let is_id = self.0.iter().all(digits) && self.0.iter().any(|digit| *digit != b'0');
        is_id.then(|| std::str::from_utf8(&self.0).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::super::route::RouteRef;
    use super::*;

    #[test]
    fn trace_ids_are_read_strictly() {
        let read = |text: &str| {
            TraceId::in_traceparent(text.as_bytes())
                .read()
                .map(str::to_owned)
        };
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(
            read(&format!("00-{id}-00f067aa0ba902b7-01")).as_deref(),
            Some(id)
        );
        for bad in [
            "",
            "00",
            "00-",
            &format!("00-{id}"),
            &format!("00_{id}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{}_-00f067aa0ba902b7-01", &id[1..]),
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(short("sku"), "sku");
        assert_eq!(short(&"ü".repeat(40)).len(), 64);
        assert_eq!(short(&format!("a{}", "ü".repeat(40))).len(), 63);
    }

    #[test]
    fn only_the_last_failures_are_kept() {
        let mut samples = Samples::default();
        for second in 0..20 {
            samples.push(FailedRequest {
                at: Timestamp::from_secs(second),
                route: Arc::new(Route::from(RouteRef::UNMATCHED)),
                status: Some(500),
                class: Class::ServerError,
                code: None,
                trace_id: TraceId::default(),
            });
        }
        let kept: Vec<_> = samples.iter().map(|failed| failed.at.as_secs()).collect();
        assert_eq!(kept, (12..20).collect::<Vec<_>>());
    }
}

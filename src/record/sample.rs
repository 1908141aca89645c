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
    /// The trace id of `traceparent`; 0 where there was none.
    pub(crate) trace_id: u128,
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

/// The trace id of a W3C `traceparent`, or 0. <https://www.w3.org/TR/trace-context/#traceparent-header>
#[inline]
pub(crate) fn trace_id(traceparent: &[u8]) -> u128 {
    let Some((b"-", rest)) = traceparent
        .get(2..)
        .and_then(|rest| rest.split_at_checked(1))
    else {
        return 0;
    };
    let Some((id, b"-")) = rest.get(..33).and_then(|rest| rest.split_at_checked(32)) else {
        return 0;
    };
    let mut value: u128 = 0;
    for digit in id {
        // The digits are lower case: RFC 9110 aside, upper case is invalid here.
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return 0,
        };
        value = (value << 4) | u128::from(nibble);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::route::RouteRef;
    use super::*;

    #[test]
    fn trace_ids_are_read_strictly() {
        let id = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
        assert_eq!(
            trace_id(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            id
        );
        for bad in [
            &b""[..],
            b"00",
            b"00-",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736",
            b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e47_6-00f067aa0ba902b7-01",
        ] {
            assert_eq!(trace_id(bad), 0, "{bad:?}");
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
                trace_id: 0,
            });
        }
        let kept: Vec<_> = samples.iter().map(|failed| failed.at.as_secs()).collect();
        assert_eq!(kept, (12..20).collect::<Vec<_>>());
    }
}

//! What refusals tell again and again: values of header fields and bodies that are never given back, so that a copy counts no
//! reference, which takes as long as all the rest of it. There is a bound to them.

use std::collections::HashSet;
use std::sync::Mutex;

use bytes::Bytes;
use http::header::HeaderValue;

use crate::lock::lock;

static VALUES: Texts<1_024, 64> = Texts(Mutex::new(None));
static BODIES: Texts<256, 512> = Texts(Mutex::new(None));

/// `ROOM` texts, in the whole process, of at most `LONGEST` bytes.
struct Texts<const ROOM: usize, const LONGEST: usize>(Mutex<Option<HashSet<&'static str>>>);

impl<const ROOM: usize, const LONGEST: usize> Texts<ROOM, LONGEST> {
    /// The text for as long as the process lives, while there is room.
    fn lasting(&self, text: &str) -> Option<&'static str> {
        let mut known = lock(&self.0);
        let known = known.get_or_insert_default();
        if let Some(text) = known.get(text) {
            return Some(text);
        }
        if known.len() >= ROOM || text.len() > LONGEST {
            return None;
        }
        let text: &'static str = text.to_owned().leak();
        known.insert(text);
        Some(text)
    }
}

/// A text as a value, if it can be one.
pub(super) fn value(text: &str) -> Option<HeaderValue> {
    let own = HeaderValue::from_str(text).ok()?;
    // A static value is ASCII.
    let lasting = own.to_str().ok().and_then(|text| VALUES.lasting(text));
    Some(lasting.map_or(own, HeaderValue::from_static))
}

/// The body, which is going to be told again.
pub(super) fn body(body: Bytes) -> Bytes {
    let text = std::str::from_utf8(&body).ok();
    match text.and_then(|text| BODIES.lasting(text)) {
        Some(text) => Bytes::from_static(text.as_bytes()),
        None => body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_its_text_within_the_bound_and_past_it() {
        assert_eq!(value("grüß").unwrap(), "grüß");
        for turn in 0..2_048 {
            for text in [format!("{turn}"), format!("{turn:0>100}")] {
                assert_eq!(value(&text).unwrap(), text);
                assert_eq!(value(&text).unwrap(), text);
            }
        }
        assert_eq!(value("a\nb"), None);
        let known = lock(&VALUES.0);
        let known = known.as_ref().unwrap();
        assert_eq!(known.len(), 1_024);
        assert!(known.iter().all(|text| text.len() <= 64));
    }

    #[test]
    fn a_body_is_its_text_within_the_bound_and_past_it() {
        for turn in 0..512 {
            for text in [format!("{turn}"), format!("{turn:0>600}")] {
                assert_eq!(body(text.clone().into()), text);
                assert_eq!(body(text.clone().into()), text);
            }
        }
        assert_eq!(body(Bytes::from_static(b"\xff")), &b"\xff"[..]);
        let known = lock(&BODIES.0);
        let known = known.as_ref().unwrap();
        assert_eq!(known.len(), 256);
        assert!(known.iter().all(|text| text.len() <= 512));
    }
}

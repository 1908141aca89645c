//! Values of header fields that refusals tell again and again: texts that are never given back, so that a copy counts no
//! reference, which takes as long as all the rest of it. There is a bound to them.

use std::collections::HashSet;
use std::sync::Mutex;

use http::header::HeaderValue;

use crate::lock::lock;

/// How many texts, in the whole process.
const ROOM: usize = 1_024;
/// The longest text, in bytes.
const LONGEST: usize = 64;

static KNOWN: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);

/// A text as a value, if it can be one.
pub(super) fn value(text: &str) -> Option<HeaderValue> {
    let own = HeaderValue::from_str(text).ok()?;
    let mut known = lock(&KNOWN);
    let known = known.get_or_insert_default();
    if let Some(text) = known.get(text) {
        return Some(HeaderValue::from_static(text));
    }
    if known.len() >= ROOM || text.len() > LONGEST || own.to_str().is_err() {
        return Some(own);
    }
    let text: &'static str = text.to_owned().leak();
    known.insert(text);
    Some(HeaderValue::from_static(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_its_text_within_the_bound_and_past_it() {
        assert_eq!(value("grüß").unwrap(), "grüß");
        for turn in 0..2 * ROOM {
            for text in [format!("{turn}"), format!("{turn:0>100}")] {
                assert_eq!(value(&text).unwrap(), text);
                assert_eq!(value(&text).unwrap(), text);
            }
        }
        assert_eq!(value("a\nb"), None);
        let known = lock(&KNOWN);
        let known = known.as_ref().unwrap();
        assert_eq!(known.len(), ROOM);
        assert!(known.iter().all(|text| text.len() <= LONGEST));
    }
}

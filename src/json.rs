//! JSON, written by the one place that needs no parser: events are lines that other programs read.

use std::fmt::Write as _;

/// A JSON object that is being written.
pub(crate) struct Line(String);

impl Line {
    pub(crate) fn new() -> Self {
        Self(String::from("{"))
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push_str(", ");
        }
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\": ");
    }

    /// A value that is JSON already.
    pub(crate) fn raw(&mut self, key: &str, value: &str) {
        self.key(key);
        self.0.push_str(value);
    }

    pub(crate) fn number(&mut self, key: &str, value: Option<f64>) {
        self.key(key);
        // Four significant digits after the point are more than any of these is known to.
        let rounded = value.map(|value| (value * 1e4).round() / 1e4);
        match rounded.filter(|value| value.is_finite()) {
            Some(rounded) => {
                let _ = write!(self.0, "{rounded}");
            }
            None => self.0.push_str("null"),
        }
    }

    pub(crate) fn text(&mut self, key: &str, value: Option<&str>) {
        self.key(key);
        let Some(value) = value else {
            self.0.push_str("null");
            return;
        };
        self.0.push('"');
        for c in value.chars() {
            match c {
                '"' | '\\' => {
                    self.0.push('\\');
                    self.0.push(c);
                }
                c if u32::from(c) < 0x20 => {
                    let _ = write!(self.0, "\\u{:04x}", u32::from(c));
                }
                c => self.0.push(c),
            }
        }
        self.0.push('"');
    }

    /// Values that are JSON already.
    pub(crate) fn array(&mut self, key: &str, values: impl Iterator<Item = String>) {
        let values: Vec<_> = values.collect();
        self.raw(key, &format!("[{}]", values.join(", ")));
    }

    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_finite_or_null() {
        let mut line = Line::new();
        // The last two are finite, and their ten thousandfold is not.
        for value in [1.23456, f64::INFINITY, f64::NAN, f64::MAX, -1e305] {
            line.number("n", Some(value));
        }
        let read = "{'n': 1.2346, 'n': null, 'n': null, 'n': null, 'n': null}";
        assert_eq!(line.end(), read.replace('\'', "\""));
    }
}

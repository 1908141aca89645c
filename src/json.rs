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
        match value.filter(|v| v.is_finite()) {
            // Four significant digits after the point are more than any of these is known to.
            Some(value) => {
                let rounded = (value * 1e4).round() / 1e4;
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

//! Reading a table field by field: every problem is noted with its path, and reading goes on.

use std::fmt::Display;
use std::str::FromStr;

use toml::{Table, Value};

use crate::admit::at;
use crate::clock::{Timestamp, days_of};

/// A table that is being read.
pub(super) struct Reader<'a> {
    path: String,
    table: &'a Table,
    known: Vec<&'static str>,
    problems: &'a mut Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &str, table: &'a Table, problems: &'a mut Vec<String>) -> Self {
        Self {
            path: path.to_owned(),
            table,
            known: Vec::new(),
            problems,
        }
    }

    /// Notes what is wrong with a field.
    pub(super) fn say(&mut self, key: &str, problem: impl Display) {
        let at = at(&self.path, key);
        self.problems.push(format!("{at}: {problem}"));
    }

    fn field<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        self.known.push(key);
        let value = self.table.get(key)?;
        let found = read(value);
        if found.is_none() {
            // A list, a table: a secret may stand where one should be, and is not shown.
            let shown = match value {
                Value::Array(_) | Value::Table(_) => "this".to_owned(),
                _ if wanted.starts_with("a list") => "this".to_owned(),
                value => value.to_string(),
            };
            self.say(key, format!("{shown} is not {wanted}"));
        }
        found
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        self.field(key, "a text; put it in quotes", Value::as_str)
    }

    /// A text of a form of its own.
    pub(super) fn parsed<T>(&mut self, key: &'static str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let parsed = self.text(key)?.parse();
        parsed.map_err(|error| self.say(key, error)).ok()
    }

    /// One of a few words.
    pub(super) fn word(&mut self, key: &'static str, words: &[&str]) -> Option<&'a str> {
        let text = self.text(key)?;
        let known = words.contains(&text);
        if !known {
            self.say(key, format!("{text:?} is none of {}", words.join(", ")));
        }
        known.then_some(text)
    }

    pub(super) fn count(&mut self, key: &'static str) -> Option<u32> {
        let whole = "a whole number; use 1 to 4294967295";
        self.field(key, whole, count_of)
    }

    pub(super) fn number(&mut self, key: &'static str) -> Option<f64> {
        let read = |value: &Value| {
            value
                .as_float()
                .or_else(|| Some(value.as_integer()? as f64))
        };
        self.field(key, "a number", read)
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.field(key, "true or false", Value::as_bool)
    }

    pub(super) fn time(&mut self, key: &'static str) -> Option<Timestamp> {
        let wanted = "a time; use one such as \"2026-12-01T00:00:00Z\"";
        self.field(key, wanted, time_of)
    }

    pub(super) fn list(&mut self, key: &'static str) -> Option<&'a [Value]> {
        self.field(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    pub(super) fn table(&mut self, key: &'static str) -> Option<&'a Table> {
        self.field(key, "a table", Value::as_table)
    }

    pub(super) fn any(&mut self, key: &'static str) -> Option<&'a Value> {
        self.field(key, "", Some)
    }

    /// Reads a table of this one.
    pub(super) fn within<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'_>) -> T,
    ) -> Option<T> {
        let table = self.table(key)?;
        let path = at(&self.path, key);
        let mut inner = Reader::new(&path, table, self.problems);
        let found = read(&mut inner);
        inner.finish();
        Some(found)
    }

    /// Reads a table whose keys are names.
    pub(super) fn each<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&str, &mut Reader<'_>) -> T,
    ) -> Vec<(String, T)> {
        let Some(named) = self.table(key) else {
            return Vec::new();
        };
        let path = at(&self.path, key);
        let mut all = Vec::new();
        for (name, value) in named {
            let at = at(&path, name);
            let Some(table) = value.as_table() else {
                self.problems.push(format!("{at}: is not a table"));
                continue;
            };
            let mut inner = Reader::new(&at, table, self.problems);
            all.push((name.clone(), read(name, &mut inner)));
            inner.finish();
        }
        all
    }

    /// Reads a table of names and counts.
    pub(super) fn counts(&mut self, key: &'static str) -> Vec<(String, u32)> {
        let Some(named) = self.table(key) else {
            return Vec::new();
        };
        let path = at(&self.path, key);
        let mut all = Vec::new();
        for (name, value) in named {
            match count_of(value) {
                Some(count) => all.push((name.clone(), count)),
                None => {
                    let at = at(&path, name);
                    self.problems.push(format!(
                        "{at}: {value} is not a whole number; use 1 to 4294967295"
                    ));
                }
            }
        }
        all
    }

    /// Notes every field that nobody asked for.
    fn finish(self) {
        let mut known = self.known;
        known.sort_unstable();
        for key in self
            .table
            .keys()
            .filter(|key| !known.contains(&key.as_str()))
        {
            let at = at(&self.path, key);
            self.problems.push(format!(
                "{at}: is not a field; use one of {}",
                known.join(", ")
            ));
        }
    }

    /// The end of the outermost table.
    pub(super) fn end(self) {
        self.finish();
    }
}

fn count_of(value: &Value) -> Option<u32> {
    u32::try_from(value.as_integer()?).ok()
}

/// A time of RFC 3339 with its offset, in quotes or as TOML's own.
pub(super) fn time_of(value: &Value) -> Option<Timestamp> {
    let time = match value {
        Value::Datetime(time) => *time,
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    let (date, clock) = (time.date?, time.time?);
    let minutes = match time.offset? {
        toml::value::Offset::Z => 0,
        toml::value::Offset::Custom { minutes } => i64::from(minutes),
    };
    let days = days_of(
        i64::from(date.year),
        i64::from(date.month),
        i64::from(date.day),
    );
    let of_day = i64::from(clock.hour) * 3_600 + i64::from(clock.minute) * 60;
    let secs = days * 86_400 + of_day + i64::from(clock.second.unwrap_or(0)) - minutes * 60;
    Some(Timestamp::from_secs(u64::try_from(secs).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_rfc_3339() {
        let time = |text: &str| time_of(&Value::String(text.into())).map(Timestamp::as_secs);
        assert_eq!(time("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(time("2026-12-01T00:00:00Z"), Some(1_796_083_200));
        assert_eq!(time("2026-12-01T01:30:00+01:30"), Some(1_796_083_200));
        assert_eq!(time("2000-02-29T12:00:00.5Z"), Some(951_825_600));
        for bad in [
            "2026-12-01",
            "2026-12-01T00:00:00",
            "soon",
            "2026-02-30T00:00:00Z",
            "1960-01-01T00:00:00Z",
        ] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }
}

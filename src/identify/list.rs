//! Lists of `key=value;key=value` with quoted values, as `Forwarded` and `x-forwarded-client-cert` are written,
//! read from the right.
//!
//! From the right, because only the right end is our proxies' own: what they append must read the same whatever
//! a client sent in front of it. An unbalanced quote of the client's swallows the rest of the list when it is
//! read from the left; from the right, nothing to the left of an element can change where that element begins.

/// The comma that begins the last element of `list`, if one does. With `quotes`, a comma in a quoted value is
/// none: going left, a `"` closes a value, and the next one that is not escaped opens it. (In a well-formed list
/// an opening quote follows a `=`, never a backslash.)
pub(super) fn last_comma(list: &[u8], quotes: bool) -> Option<usize> {
    let mut quoted = false;
    for (at, byte) in list.iter().enumerate().rev() {
        match byte {
            b'"' if quotes => {
                let escaped = at.checked_sub(1).and_then(|left| list.get(left)) == Some(&b'\\');
                quoted = !quoted || escaped;
            }
            b',' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// The pairs of one element, from the left: keys as they are, values without their quotes and with their
/// escapes. Empty pairs (`;;`) are passed over. The first pair that is malformed is the last item.
pub(super) struct Pairs<'h>(Option<&'h [u8]>);

/// A pair that is not `key=value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl<'h> Pairs<'h> {
    pub(super) fn of(element: &'h [u8]) -> Self {
        Self(Some(element))
    }

    /// The pair at the beginning of `text`, which is neither empty nor begins with a blank, and what follows.
    fn split(text: &'h [u8]) -> Option<(Pair<'h>, Option<&'h [u8]>)> {
        let equals = text
            .iter()
            .position(|byte| matches!(byte, b'=' | b';' | b'"'))?;
        let (key, rest) = text.split_at_checked(equals)?;
        let value = rest.strip_prefix(b"=")?;
        let key = key.trim_ascii();
        if key.is_empty() {
            return None;
        }
        if let Some(inside) = value.trim_ascii_start().strip_prefix(b"\"") {
            let (value, rest) = inside.split_at_checked(closing_quote(inside)?)?;
            let rest = rest.strip_prefix(b"\"")?.trim_ascii_start();
            return match rest {
                [] => Some(((key, value), None)),
                [b';', rest @ ..] => Some(((key, value), Some(rest))),
                _ => None,
            };
        }
        let end = value
            .iter()
            .position(|byte| *byte == b';')
            .unwrap_or(value.len());
        let (value, rest) = value.split_at_checked(end)?;
        let whole = !value.contains(&b'"');
        whole.then(|| ((key, value.trim_ascii()), rest.strip_prefix(b";")))
    }
}

type Pair<'h> = (&'h [u8], &'h [u8]);

impl<'h> Iterator for Pairs<'h> {
    type Item = Result<Pair<'h>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.take()?.trim_ascii_start() {
                [] => return None,
                [b';', rest @ ..] => self.0 = Some(rest),
                text => {
                    let Some((pair, rest)) = Self::split(text) else {
                        return Some(Err(Malformed));
                    };
                    self.0 = rest;
                    return Some(Ok(pair));
                }
            }
        }
    }
}

fn closing_quote(inside: &[u8]) -> Option<usize> {
    let mut escaped = false;
    inside.iter().position(|byte| {
        let closes = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(list: &str) -> &str {
        let from = last_comma(list.as_bytes(), true).map_or(0, |at| at + 1);
        &list[from..]
    }

    fn pairs(element: &str) -> Vec<Result<(&str, &str), Malformed>> {
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        Pairs::of(element.as_bytes())
            .map(|pair| pair.map(|(key, value)| (text(key), text(value))))
            .collect()
    }

    #[test]
    fn a_comma_in_a_quoted_value_separates_nothing() {
        assert_eq!(last("a=1,b=2"), "b=2");
        assert_eq!(last(r#"a=1,b="2,3""#), r#"b="2,3""#);
        assert_eq!(last(r#"a=1,b="2\",3";c="4,""#), r#"b="2\",3";c="4,""#);
        assert_eq!(last(r#"a=1,b="2\\";c=",""#), r#"b="2\\";c=",""#);
    }

    #[test]
    fn what_a_client_sent_in_front_does_not_change_the_last_element() {
        for front in ["\"", "a=\"", "a=\"\\", ",\"", "a=\\\"", "\"\"\""] {
            assert_eq!(last(&format!("{front},b=\"2,3\"")), "b=\"2,3\"", "{front}");
        }
    }

    #[test]
    fn pairs_are_split_outside_of_quotes() {
        assert_eq!(
            pairs(r#" For="[::1]:80" ; by=1;;host="a;b\"c";"#),
            [
                Ok(("For", "[::1]:80")),
                Ok(("by", "1")),
                Ok(("host", r#"a;b\"c"#))
            ]
        );
        assert_eq!(pairs(" ; "), []);
        assert_eq!(pairs("uri=a=b"), [Ok(("uri", "a=b"))]);
    }

    #[test]
    fn the_first_malformed_pair_is_the_last() {
        for bad in [
            "a",
            "=1",
            "a\"=1",
            "b=\"1",
            "b=\"1\"2",
            "b=1\"2\"",
            "\"",
            "a;b=1",
            "b=\"1\\\"",
        ] {
            assert_eq!(
                pairs(&format!("x=1;{bad};c=1")).last(),
                Some(&Err(Malformed)),
                "{bad}"
            );
        }
    }
}

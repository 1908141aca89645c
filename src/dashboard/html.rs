//! Pages for readers without a script. Names are those of clients: every text is escaped.

use std::fmt::Write;

use super::line::Line;

/// Text within HTML, in attributes too.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The callers as the rows of a table.
pub(super) fn table(lines: &[Line]) -> String {
    let mut rows = String::new();
    for line in lines {
        let contact = [&line.owner, &line.contact];
        let contact: Vec<_> = contact
            .into_iter()
            .flatten()
            .map(|text| escape(text))
            .collect();
        let mut errors: Vec<_> = line.errors.iter().collect();
        errors.sort_by(|a, b| b.1.total_cmp(a.1));
        let errors: Vec<_> = errors
            .into_iter()
            .map(|(class, share)| format!("{class} {:.0} %", share * 100.0))
            .collect();
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{:.1}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&line.caller),
            contact.join(", "),
            line.rate,
            errors.join(", "),
            line.in_flight,
            line.refused,
        );
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_text() {
        assert_eq!(
            escape(r#"<img src=x onerror="a('&')">"#),
            "&lt;img src=x onerror=&quot;a(&#39;&amp;&#39;)&quot;&gt;"
        );
    }
}

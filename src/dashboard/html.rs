//! Pages for readers without a script. Names are those of clients: every text is escaped.

use std::fmt::Write;

use super::line::Line;
use crate::clock::Timestamp;

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

/// A time as people and programs read it: `2026-11-22T19:30:00Z`.
pub(super) fn utc(seconds: f64) -> String {
    // From 1970 to 2554; what lies outside is no time of ours.
    let time = Timestamp::from_nanos((seconds.max(0.0) * 1e9) as u64).to_system();
    time.map_or_else(String::new, |time| {
        humantime::format_rfc3339_seconds(time).to_string()
    })
}

/// A time for people: `2026-11-22 19:30 UTC`.
pub(super) fn time(seconds: f64) -> String {
    let exact = utc(seconds);
    let shown = exact.get(..16).unwrap_or_default().replace('T', " ");
    format!("<time datetime=\"{exact}\">{shown} UTC</time>")
}

/// A page of its own. Both are HTML already.
pub(super) fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\
         <link rel=\"icon\" href=\"icon.svg\" type=\"image/svg+xml\">\
         <link rel=\"stylesheet\" href=\"style.css\"></head>\
         <body><header><h1>{title}</h1></header><main>{body}</main></body></html>"
    )
}

/// A table under a heading. Cells are HTML already; `numbers` are the columns of numbers.
pub(super) fn section(
    title: &str,
    nothing: &str,
    heads: &[&str],
    numbers: &[usize],
    rows: &[Vec<String>],
) -> String {
    if rows.is_empty() {
        return format!("<section><h2>{title}</h2><p class=\"hint\">{nothing}</p></section>");
    }
    let class = |at| match numbers.contains(&at) {
        true => " class=\"number\"",
        false => "",
    };
    let mut text = format!(
        "<section><h2>{title}</h2><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\">\
         <table class=\"own\"><thead><tr>"
    );
    for (at, head) in heads.iter().enumerate() {
        let _ = write!(text, "<th scope=\"col\"{}>{head}</th>", class(at));
    }
    text.push_str("</tr></thead><tbody>");
    for row in rows {
        text.push_str("<tr>");
        for (at, cell) in row.iter().enumerate() {
            let _ = write!(text, "<td{}>{cell}</td>", class(at));
        }
        text.push_str("</tr>");
    }
    text.push_str("</tbody></table></div></section>");
    text
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
            "<tr><td>{}</td><td>{}</td><td class=\"number\">{:.1}</td><td>{}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
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

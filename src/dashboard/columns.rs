//! Text in columns, for a terminal. The demo prints with the same file.

use std::fmt::Write;

/// Rows of cells as lines of columns.
pub(crate) fn aligned<const N: usize>(rows: &[[String; N]], numbers: &[bool; N]) -> String {
    let width = |column: usize| {
        let lengths = rows.iter().map(|row| row[column].chars().count());
        lengths.max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for ((cell, width), number) in row.iter().zip(widths).zip(numbers) {
            let _ = if *number {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Text of others, so that it can neither end a line nor look like another cell.
pub(crate) fn clean(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    let visible = |c: char| if c.is_control() { '?' } else { c };
    let text: String = words.join(" ").chars().map(visible).collect();
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 0.000_999_5 {
        format!("{:.0}us", seconds * 1e6)
    } else if seconds < 0.999_5 {
        format!("{:.1}ms", seconds * 1e3)
    } else {
        format!("{seconds:.1}s")
    }
}

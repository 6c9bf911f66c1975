//! How results look: tables, colours, plans, errors.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::args::{Common, Format};

/// Writes a result to stdout. A closed pipe is an error like any other; the caller ends quietly on it.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Prints `value` for programs, as the format says; `text` for people.
pub fn print_as<T: Serialize>(common: &Common, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    match common.output {
        Format::Json => print(&serde_json::to_string_pretty(value)?),
        Format::Yaml => print(&serde_yaml::to_string(value)?),
        Format::Text | Format::Wide => print(&text()),
    }
}

/// An error and its causes, on stderr.
pub fn print_error(error: &anyhow::Error, common: &Common) {
    let paint = Paint::stderr(common);
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str("\n  because ");
            text.push_str(&cause);
        }
    }
    eprintln!("{} {}", paint.red("error:"), readable(&text));
}

/// Text from elsewhere without control characters, so that nothing reaches the terminal as a command.
pub fn readable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Colours, where they are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// For stdout.
    pub fn stdout(common: &Common) -> Self {
        Self { on: common.colors(std::io::stdout().is_terminal()) }
    }

    /// For stderr.
    pub fn stderr(common: &Common) -> Self {
        Self { on: common.colors(std::io::stderr().is_terminal()) }
    }

    /// No colours.
    pub fn none() -> Self {
        Self { on: false }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub fn cyan(self, text: &str) -> String {
        self.paint("36", text)
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Whether colours are on.
    pub fn is_on(self) -> bool {
        self.on
    }
}

/// A table of text; the last column may be as long as it likes.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    aligned(std::iter::once(&head).chain(rows), &widths)
}

/// Rows that line up, without a head.
pub fn rows_text(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    aligned(rows.iter(), &widths)
}

fn aligned<'a>(rows: impl Iterator<Item = &'a Vec<String>>, widths: &[usize]) -> String {
    let mut text = String::new();
    for row in rows {
        let last = row.len().saturating_sub(1);
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            let cell = readable(cell).replace('\n', " ");
            if at == last {
                text.push_str(&cell);
            } else {
                let pad = width.saturating_sub(cell.chars().count()) + 3;
                text.push_str(&cell);
                text.extend(std::iter::repeat_n(' ', pad));
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// `1 database`, `2 databases`.
pub fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["a".to_owned(), "long message".to_owned()], vec!["long-key".to_owned(), String::new()]];
        assert_eq!(table(&["KEY", "MESSAGE"], &rows), "KEY        MESSAGE\na          long message\nlong-key\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(readable("a\x1b[31mb"), "a\u{fffd}[31mb");
    }
}

//! Findings as data. Rooms make them; `diag` and the faces render them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stretch of bytes in a file, with the line and column of its ends. Lines and columns count from 1; columns count
/// characters, as editors do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// Byte offsets into the file, end exclusive.
    pub start: usize,
    pub end: usize,
    pub line: usize,
    pub column: usize,
    pub end_line: usize,
    pub end_column: usize,
}

impl Span {
    /// The span of `start..end` in `text`. Offsets past the end, or inside a character, are moved to a border.
    pub fn locate(text: &str, start: usize, end: usize) -> Self {
        let start = floor_border(text, start);
        let end = floor_border(text, end).max(start);
        let (line, column) = position(text, start);
        let (end_line, end_column) = position(text, end);
        Self { start, end, line, column, end_line, end_column }
    }
}

fn floor_border(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.bytes().filter(|byte| *byte == b'\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The resource cannot be used.
    Error,
    /// It can; somebody should look.
    Warning,
}

/// A stable name of a kind of finding, in CamelCase. Each room has the ones of its findings, explained.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub std::borrow::Cow<'static, str>);

impl Code {
    /// A code; use the constants of the rooms.
    pub const fn new(name: &'static str) -> Self {
        Self(std::borrow::Cow::Borrowed(name))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Another place that a finding speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Related {
    pub message: String,
    pub file: String,
    pub span: Option<Span>,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    pub code: Code,
    pub severity: Severity,
    /// One sentence that says what is wrong.
    pub message: String,
    /// Path inside the repository; empty when it is about no file.
    pub file: String,
    pub span: Option<Span>,
    /// What to do about it.
    pub help: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
}

impl Diagnostic {
    /// The files it speaks of.
    pub fn files(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.file).chain(self.related.iter().map(|related| &related.file))
    }

    /// The message with its place in front: one line, for lists.
    pub fn located(&self) -> String {
        match (&self.file, self.span) {
            (file, _) if file.is_empty() => self.message.clone(),
            (file, Some(span)) => format!("{file}:{}:{}: {}", span.line, span.column, self.message),
            (file, None) => format!("{file}: {}", self.message),
        }
    }

    /// An error about `file`.
    pub fn error(code: Code, file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            file: file.into(),
            span: None,
            help: None,
            related: Vec::new(),
        }
    }

    /// A warning about `file`.
    pub fn warning(code: Code, file: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, file, message) }
    }

    /// The same, at `span`.
    #[must_use]
    pub fn at(self, span: Option<Span>) -> Self {
        Self { span, ..self }
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// The same, with another place.
    #[must_use]
    pub fn related(mut self, message: impl Into<String>, file: impl Into<String>, span: Option<Span>) -> Self {
        self.related.push(Related { message: message.into(), file: file.into(), span });
        self
    }

    /// Whether it keeps its resource from being used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_count_characters_not_bytes() {
        let span = Span::locate("a: 1\nü: größe\n", 9, 16);
        assert_eq!((span.line, span.column, span.end_line, span.end_column), (2, 4, 2, 9));
    }

    #[test]
    fn spans_past_the_end_stop_there() {
        let span = Span::locate("ab", 1, 99);
        assert_eq!((span.start, span.end, span.end_column), (1, 2, 3));
    }
}

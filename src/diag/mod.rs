//! The names of findings, and how findings are shown: as text with the source around them, and as JSON.
//!
//! What always holds: nothing that comes from a file or a message reaches a terminal raw; control characters and
//! those that turn the direction of writing are replaced.

pub mod codes;
mod text;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::model::{Diagnostic, Related, Severity, Span};

pub use text::text;

/// Orders findings as people read them: by file, then line, then code.
pub fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by(|a, b| {
        fn key(diagnostic: &Diagnostic) -> (&str, Option<usize>, &str, Option<usize>, &str) {
            let Diagnostic { code, severity: _, message, file, span, help: _, related: _ } = diagnostic;
            (file, span.map(|span| span.line), &code.0, span.map(|span| span.column), message)
        }
        key(a).cmp(&key(b))
    });
}

/// How many there are: `2 errors, 1 warning in 3 files`.
pub fn summary(diagnostics: &[Diagnostic]) -> String {
    let of = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let files: BTreeSet<&str> =
        diagnostics.iter().map(|diagnostic| diagnostic.file.as_str()).filter(|file| !file.is_empty()).collect();
    let counts: Vec<String> = [(of(Severity::Error), "error"), (of(Severity::Warning), "warning")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| counted(count, what))
        .collect();
    match (counts.is_empty(), files.len()) {
        (true, _) => "nothing found".to_owned(),
        (false, 0) => counts.join(", "),
        (false, files) => format!("{} in {}", counts.join(", "), counted(files, "file")),
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The findings as `{"diagnostics": [...]}`; lines and columns count from 1, what is not known is `null`.
pub fn json(diagnostics: &[Diagnostic]) -> Value {
    json!({ "diagnostics": diagnostics.iter().map(one).collect::<Vec<_>>() })
}

/// One finding, as [`json`] gives it.
pub fn one(diagnostic: &Diagnostic) -> Value {
    let Diagnostic { code, severity, message, file, span, help, related } = diagnostic;
    let mut value = json!({ "code": code, "severity": severity, "message": message });
    place(&mut value, file, *span);
    value["help"] = json!(help);
    value["related"] = related
        .iter()
        .map(|Related { message, file, span }| {
            let mut value = json!({ "message": message });
            place(&mut value, file, *span);
            value
        })
        .collect();
    value
}

fn place(value: &mut Value, file: &str, span: Option<Span>) {
    value["file"] = if file.is_empty() { Value::Null } else { json!(file) };
    value["line"] = json!(span.map(|span| span.line));
    value["column"] = json!(span.map(|span| span.column));
    value["endLine"] = json!(span.map(|span| span.end_line));
    value["endColumn"] = json!(span.map(|span| span.end_column));
}

#[cfg(test)]
mod tests;

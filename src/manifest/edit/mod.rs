//! Edits that keep everything else as it is: comments, order, quotes, line ends.
//!
//! What always holds: an edit replaces ranges of the text, so nothing outside of them changes; and no text is given
//! out that does not read back as the old fields with exactly the asked changes, every other document untouched.

mod insert;
mod locate;
mod remove;
mod render;
mod replace;

use std::ops::Range;

use serde_json::Value;

use super::split::{self, BOM};
use super::tree::{Problem, Tree};
use crate::model::{FieldPath, Fields, KindInfo};
use locate::Lookup;

/// One change of a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// The field, with members of lists by name, as [`KindInfo::flatten`] gives it. For a removal also a member.
    pub path: FieldPath,
    /// The new value; `None` removes the field or member. A member of a set is `true`.
    pub to: Option<Value>,
}

/// Why an edit was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// There is no such document in the file.
    #[error("the file has no document {0}")]
    NoDocument(usize),
    /// The document is not valid YAML.
    #[error("document {document} cannot be read: {message}")]
    Unreadable { document: usize, message: String },
    /// Changing the value would change another place too.
    #[error("{path} is shared with another place of the document by an anchor and its aliases")]
    Aliased { path: FieldPath },
    /// The change cannot be written without touching more than it should.
    #[error("the change of {path} cannot be written into the document as it is laid out")]
    NotExpressible { path: FieldPath },
}

/// A range of the text, and what it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Splice {
    range: Range<usize>,
    with: String,
}

impl Splice {
    fn new(range: Range<usize>, with: impl Into<String>) -> Self {
        Self { range, with: with.into() }
    }
}

/// Why one edit was not made; [`EditError`] adds to it which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Aliased,
    NotExpressible,
}

/// Edits fields of one document of a file. `document` is its index as in [`super::Document`].
///
/// # Errors
/// When there is no such document, it is unreadable, or an edit cannot be made on its own. Then nothing is changed.
pub fn edit(text: &str, document: usize, info: &KindInfo, edits: &[Edit]) -> Result<String, EditError> {
    let part = super::part_of(text, document).ok_or(EditError::NoDocument(document))?;
    let unreadable = |problems: Vec<Problem>| EditError::Unreadable {
        document,
        message: problems.into_iter().next().map(|problem| problem.message).unwrap_or_default(),
    };
    let before = super::read(&text[part.range.clone()]).map_err(unreadable)?;
    let mut expected = flatten(info, &before);
    let mut current = text[part.range.clone()].to_owned();
    for edit in edits {
        let tree = Tree::parse(&current).map_err(unreadable)?;
        let context = Context { text: &current, tree: &tree, info };
        let splices = context.splices(edit).map_err(|refusal| match refusal {
            Refusal::Aliased => EditError::Aliased { path: edit.path.clone() },
            Refusal::NotExpressible => EditError::NotExpressible { path: edit.path.clone() },
        })?;
        current = apply(&current, splices);
        // Each edit is checked, so that the error names the right one.
        change(info, &mut expected, edit);
        if !is_as_expected(info, &before, &expected, &current) {
            return Err(EditError::NotExpressible { path: edit.path.clone() });
        }
    }
    let (head, tail) = (&text[..part.range.start], &text[part.range.end..]);
    let edited = format!("{head}{current}{tail}");
    let lengths = |text: &str| -> Vec<usize> {
        let parts = split::parts(text);
        parts.iter().map(|part| if part.range.start == head.len() { 0 } else { part.range.len() }).collect()
    };
    // What was inserted must not have moved the borders of the other documents.
    match edits.first() {
        Some(edit) if lengths(text) != lengths(&edited) => Err(EditError::NotExpressible { path: edit.path.clone() }),
        Some(_) | None => Ok(edited),
    }
}

/// Removes one document of a file, with the comments that stand in it. `None` when no document is left: the file
/// should be deleted. A `document` that is not there changes nothing.
pub fn remove_document(text: &str, document: usize) -> Option<String> {
    let documents = split::documents(text);
    let Some(part) = documents.get(document) else { return Some(text.to_owned()) };
    if documents.len() == 1 {
        return None;
    }
    let body = &text[part.range.clone()];
    let is_first = part.range.start <= BOM.len();
    // A comment that opens the file, set apart by a blank line, speaks of the file.
    let header = if is_first { header_len(body) } else { 0 };
    // The document after a `...` may have no `---` of its own, or have directives, which need the `...` before them.
    let end = match part.end_marker {
        Some(marker) if !is_first => marker,
        Some(_) | None => part.range.end,
    };
    let mut left = format!("{}{}", &text[..part.range.start + header], &text[end..]);
    // The part before the last one, with its own final line break, now ends the file.
    if part.range.end == text.len() && !text.ends_with('\n') && left.ends_with('\n') {
        left.truncate(left.trim_end_matches(['\r', '\n']).len());
    }
    Some(left)
}

/// The length of the comments that open `body` and are followed by a blank line, that line included.
fn header_len(body: &str) -> usize {
    let mut position = 0;
    let mut header = 0;
    let mut has_comment = false;
    for line in body.split_inclusive('\n').take_while(|line| split::is_blank_or_comment(line)) {
        position += line.len();
        match line.trim_ascii().is_empty() {
            true if has_comment => header = position,
            true => {}
            false => has_comment = true,
        }
    }
    header
}

fn apply(text: &str, mut splices: Vec<Splice>) -> String {
    splices.sort_by_key(|splice| splice.range.start);
    let mut edited = String::with_capacity(text.len());
    let mut position = 0;
    for Splice { range, with } in splices {
        edited.push_str(&text[position..range.start.max(position)]);
        edited.push_str(&with);
        position = range.end.max(position);
    }
    edited.push_str(&text[position..]);
    edited
}

fn flatten(info: &KindInfo, document: &Value) -> Fields {
    document.get("spec").map(|spec| info.flatten(spec)).unwrap_or_default()
}

/// What `edit` does to flat fields.
fn change(info: &KindInfo, fields: &mut Fields, edit: &Edit) {
    match &edit.to {
        Some(value) => fields.insert(edit.path.clone(), canonical(info, &edit.path, value)),
        None => fields.0.retain(|path, _| !path.is_within(edit.path.as_str())),
    }
}

/// The value as flattening spells it.
fn canonical(info: &KindInfo, path: &FieldPath, value: &Value) -> Value {
    let nested = path
        .segments()
        .into_iter()
        .skip(1)
        .rev()
        .fold(value.clone(), |inner, segment| Value::Object(std::iter::once((segment, inner)).collect()));
    info.flatten(&nested).get(path.as_str()).unwrap_or(value).clone()
}

/// Whether `text` is a document with the `expected` fields and all else, what Plumb is steered by included, as
/// `before`.
fn is_as_expected(info: &KindInfo, before: &Value, expected: &Fields, text: &str) -> bool {
    let Ok(after) = super::read(text) else { return false };
    flatten(info, &after) == *expected && without_fields(info, before) == without_fields(info, &after)
}

/// The parts of a document that are no fields.
fn without_fields(info: &KindInfo, document: &Value) -> Value {
    let mut rest = document.clone();
    let Some(spec) = rest.as_object_mut().and_then(|document| document.get_mut("spec")) else { return rest };
    let steering: serde_json::Map<String, Value> = spec
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| {
            !value.is_null() && {
                let one: Value = Value::Object(std::iter::once(((*name).clone(), Value::from(1))).collect());
                info.flatten(&one).0.is_empty()
            }
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if steering.is_empty() {
        // A spec without fields is as good as none: it may come or go.
        if let Some(document) = rest.as_object_mut() {
            document.shift_remove("spec");
        }
    } else {
        *spec = Value::Object(steering);
    }
    rest
}

/// One document while it is edited.
struct Context<'a> {
    text: &'a str,
    tree: &'a Tree,
    info: &'a KindInfo,
}

impl Context<'_> {
    fn splices(&self, edit: &Edit) -> Result<Vec<Splice>, Refusal> {
        match (&edit.to, self.locate(&edit.path)?) {
            (None, Lookup::Found(hops)) => self.remove(&hops),
            (None, Lookup::Missing { .. }) => Ok(Vec::new()),
            (Some(value), Lookup::Found(hops)) => self.replace(&hops, &edit.path, value),
            (Some(value), Lookup::Missing { hops, container, pointer, rest }) => {
                self.insert(&hops, container, &pointer, &rest, value)
            }
        }
    }

    /// Where the line begins that `at` is on.
    fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |newline| newline + 1)
    }

    /// Behind the line break of the line that `at` is on; the end of the text, when there is none.
    fn line_end(&self, at: usize) -> usize {
        self.text[at..].find('\n').map_or(self.text.len(), |newline| at + newline + 1)
    }

    /// How the line that `at` is on ends; on the last line, how the document's lines end.
    fn line_break(&self, at: usize) -> &'static str {
        let line = &self.text[..self.line_end(at)];
        let crlf = if line.ends_with('\n') { line.ends_with("\r\n") } else { self.text.contains("\r\n") };
        if crlf { "\r\n" } else { "\n" }
    }

    /// How many characters stand before `at` on its line.
    fn column(&self, at: usize) -> usize {
        self.text[self.line_start(at)..at].chars().count()
    }

    /// Whether nothing but blanks stands before `at` on its line.
    fn begins_line(&self, at: usize) -> bool {
        self.text[self.line_start(at)..at].bytes().all(|byte| byte == b' ')
    }
}

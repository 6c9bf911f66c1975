//! YAML to documents with spans, and edits that keep everything else as it is. Pure: text in, values out.
//!
//! What always holds: a document that cannot be read is reported and does not hide the others; while there is one,
//! the file is `unreadable` and nothing may be pruned (R9); no input, however hostile, takes long or recurses deep.
//!
//! Values, spans and edits come from one stream of parser events (`saphyr-parser`), so that they cannot disagree.
//! `yamlpatch` rewrites flow mappings, cannot append to `[a]` and mixes line ends in CRLF files; `yaml-edit` does
//! better but moves anchors and keeps the text in a tree of its own; and `yaml_serde`, which has no spans, takes most
//! of a minute over a megabyte of `[`. Edits replace ranges of the text, so that what they do not name cannot change.

mod edit;
mod lines;
mod scalar;
mod split;
mod tree;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

pub use edit::{Edit, EditError, edit, remove_document};

use crate::diag::codes;
use crate::model::{Code, Diagnostic, Span};
use lines::Lines;
use split::Part;
use tree::{Problem, Tree};

/// The largest file that is read. A manifest is a few kilobytes; a larger file is generated, or meant to hurt.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// How many documents one file may have. A repository has fewer resources than twice this.
const MAX_DOCUMENTS: usize = 10_000;

/// After how many findings the rest of a file is not read. Nobody reads more, and hostile files make many.
const MAX_FINDINGS: usize = 200;

/// What a file holds.
#[derive(Clone, Debug)]
pub struct ParsedFile {
    /// Its path, as diagnostics name it.
    pub file: String,
    /// Its text, without a byte order mark; all offsets are into it.
    pub text: Arc<str>,
    /// The documents that could be read, in order.
    pub documents: Vec<Document>,
    pub diagnostics: Vec<Diagnostic>,
    /// Some document could not be read: nothing may be pruned (R9).
    pub unreadable: bool,
    lines: OnceLock<Lines>,
    /// By document index; made when a span is asked for.
    trees: BTreeMap<usize, OnceLock<Option<Tree>>>,
}

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its position in the file, from 0, counting documents that could not be read, but not empty ones.
    pub index: usize,
    /// Where it stands in the text, its markers included.
    pub range: Range<usize>,
    /// Its content: a mapping.
    pub value: Arc<Value>,
}

/// Reads the documents of a file. Never fails: what is wrong is in the diagnostics.
pub fn parse(file: &str, bytes: &[u8]) -> ParsedFile {
    let mut parsed = ParsedFile {
        file: file.to_owned(),
        text: Arc::from(""),
        documents: Vec::new(),
        diagnostics: Vec::new(),
        unreadable: false,
        lines: OnceLock::new(),
        trees: BTreeMap::new(),
    };
    let text = match decode(bytes) {
        Ok(text) => text,
        Err(unreadable) => {
            parsed.text = Arc::from(unreadable.shown);
            parsed.refuse(0, *unreadable.problem);
            return parsed;
        }
    };
    parsed.text = Arc::from(text);
    let parts = split::documents(text);
    if parts.len() > MAX_DOCUMENTS {
        let message = format!("the file has {} documents; it may have {MAX_DOCUMENTS}", parts.len());
        parsed.refuse(0, Problem::new(codes::TOO_MANY_DOCUMENTS, message, 0..0, "split it into several files"));
        return parsed;
    }
    for (index, part) in parts.into_iter().enumerate() {
        if parsed.diagnostics.len() >= MAX_FINDINGS {
            let message = format!("the file has more than {MAX_FINDINGS} findings; it is not read from here on");
            let help = "correct the findings above first";
            parsed.refuse(part.range.start, Problem::new(codes::TOO_MANY_FINDINGS, message, 0..0, help));
            break;
        }
        match read(&text[part.range.clone()]) {
            Ok(value) => {
                parsed.trees.insert(index, OnceLock::new());
                parsed.documents.push(Document { index, range: part.range, value: Arc::new(value) });
            }
            Err(problems) => problems.into_iter().for_each(|problem| parsed.refuse(part.range.start, problem)),
        }
    }
    parsed
}

impl ParsedFile {
    /// Where the value at a JSON pointer stands (`/spec/roles/0/access`); where nothing is written as the value, its
    /// key. `None` when there is no such value.
    pub fn span(&self, document: &Document, pointer: &str) -> Option<Span> {
        let place = self.tree(document)?.place(pointer)?;
        Some(self.at(document.range.start, &place))
    }

    /// Where the key of the last segment of a JSON pointer stands. `None` for members of lists, and when there is
    /// no such field.
    pub fn key_span(&self, document: &Document, pointer: &str) -> Option<Span> {
        let place = self.tree(document)?.key_place(pointer)?;
        Some(self.at(document.range.start, &place))
    }

    /// The first line of the document's content.
    pub fn document_span(&self, document: &Document) -> Span {
        let start = self.tree(document).map_or(0, |tree| tree.node(Tree::ROOT).range.start);
        let text = self.text.get(document.range.clone()).and_then(|text| text.get(start..)).unwrap_or_default();
        let len = text.lines().next().map_or(0, |line| line.trim_end().len());
        self.at(document.range.start, &(start..start + len))
    }

    fn tree(&self, document: &Document) -> Option<&Tree> {
        let text = self.text.get(document.range.clone())?;
        self.trees.get(&document.index)?.get_or_init(|| Tree::parse(text).ok()).as_ref()
    }

    fn at(&self, offset: usize, range: &Range<usize>) -> Span {
        let lines = self.lines.get_or_init(|| Lines::of(&self.text));
        lines.span(&self.text, offset + range.start, offset + range.end)
    }

    fn refuse(&mut self, offset: usize, problem: Problem) {
        let Problem { code, message, range, help, related } = problem;
        let mut diagnostic =
            Diagnostic::error(code, self.file.as_str(), message).at(Some(self.at(offset, &range))).help(help);
        if let Some((message, range)) = related {
            diagnostic = diagnostic.related(message, self.file.as_str(), Some(self.at(offset, &range)));
        }
        self.diagnostics.push(diagnostic);
        self.unreadable = true;
    }
}

/// The value of one document's text.
fn read(text: &str) -> Result<Value, Vec<Problem>> {
    let tree = Tree::parse(text)?;
    let value = tree.value().map_err(|problem| vec![problem])?;
    if value.is_object() {
        return Ok(value);
    }
    let what = match value {
        Value::Array(_) => "a list",
        Value::Null => "null",
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => "a single value",
    };
    Err(vec![Problem::new(
        codes::NOT_A_MAPPING,
        format!("the document is {what}, not a mapping"),
        tree.node(Tree::ROOT).range.clone(),
        "a document begins with apiVersion, kind, metadata and spec",
    )])
}

/// Why the bytes of a file are no text, and as much of them as can be shown.
struct NotText {
    problem: Box<Problem>,
    shown: String,
}

impl NotText {
    fn new(code: Code, message: String, range: Range<usize>, help: &'static str, shown: &str) -> Self {
        Self { problem: Box::new(Problem::new(code, message, range, help)), shown: shown.to_owned() }
    }
}

/// The text of a file, without a byte order mark.
fn decode(bytes: &[u8]) -> Result<&str, NotText> {
    const HELP: &str = "manifests are text files in UTF-8; save it as such, or list it in .plumbignore";
    if bytes.len() > MAX_FILE_BYTES {
        let message = format!("the file has {} bytes; a manifest may have {MAX_FILE_BYTES}", bytes.len());
        let help = "split it, or list it in .plumbignore if it is no manifest";
        return Err(NotText::new(codes::FILE_TOO_LARGE, message, 0..0, help, ""));
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(NotText::new(codes::NOT_TEXT, "the file is in UTF-16, not in UTF-8".to_owned(), 0..0, HELP, ""));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        // What comes before is fine; it is shown, so that the place can be found.
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let at = before.len();
        NotText::new(codes::NOT_TEXT, "the file is not UTF-8 from here on".to_owned(), at..at, HELP, &before)
    })?;
    let text = text.strip_prefix(split::BOM).unwrap_or(text);
    match first_forbidden(text) {
        None => Ok(text),
        Some((at, what)) => {
            let message = format!("the file holds {what}, which YAML does not allow");
            let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
            Err(NotText::new(codes::NOT_TEXT, message, at..end, HELP, text))
        }
    }
}

/// The first character that may not stand in a YAML file.
fn first_forbidden(text: &str) -> Option<(usize, String)> {
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\n' | '\t' | '\u{85}' => {}
            '\r' if characters.peek().is_some_and(|(_, next)| *next == '\n') => {}
            '\r' => return Some((at, "a carriage return without a line feed".to_owned())),
            '\u{fffe}' | '\u{ffff}' => return Some((at, format!("the character U+{:04X}", u32::from(character)))),
            control if control.is_control() => {
                return Some((at, format!("the control character U+{:04X}", u32::from(control))));
            }
            _ => {}
        }
    }
    None
}

/// Offsets of a document's text in its file.
fn part_of(text: &str, document: usize) -> Option<Part> {
    split::documents(text).into_iter().nth(document)
}

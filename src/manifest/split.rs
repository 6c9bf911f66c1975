//! Cuts a file into its documents by text alone, so that a document that cannot be parsed does not hide the others.
//!
//! `---` and `...` at the start of a line, followed by a space or the end of the line, are document markers
//! everywhere in YAML, even inside block scalars and quotes.

use std::ops::Range;

/// The byte order mark, which may open a file.
pub(super) const BOM: &str = "\u{feff}";

/// A stretch of the file between document markers: the directives and the `---` before the content, the content, and
/// the `...` after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub range: Range<usize>,
    /// Whether there is more in it than comments, blank lines and markers.
    pub has_content: bool,
    /// Where its `...` line begins, when it ends in one.
    pub end_marker: Option<usize>,
}

/// Which of the two markers a line is.
enum Marker {
    /// `---`, with what follows it on the line.
    Start { has_content: bool },
    /// `...`
    End,
}

/// All parts of `text`, in order. Together they are the whole text after the byte order mark.
pub(super) fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut position = if text.starts_with(BOM) { BOM.len() } else { 0 };
    let mut current = Part { range: position..position, has_content: false, end_marker: None };
    // Before `---` there may be directives and comments; they belong to the document that follows.
    let mut in_preamble = true;
    for line in text[position..].split_inclusive('\n') {
        let line_start = position;
        position += line.len();
        match marker(line) {
            Some(Marker::Start { has_content }) => {
                if !in_preamble {
                    parts.push(std::mem::replace(
                        &mut current,
                        Part { range: line_start..line_start, has_content: false, end_marker: None },
                    ));
                }
                in_preamble = false;
                current.has_content |= has_content;
                current.range.end = position;
            }
            Some(Marker::End) => {
                current.range.end = position;
                current.end_marker = Some(line_start);
                parts.push(std::mem::replace(
                    &mut current,
                    Part { range: position..position, has_content: false, end_marker: None },
                ));
                in_preamble = true;
            }
            None => {
                current.range.end = position;
                if !is_blank_or_comment(line) {
                    current.has_content = true;
                    in_preamble &= line.starts_with('%');
                }
            }
        }
    }
    if !current.range.is_empty() {
        parts.push(current);
    }
    parts
}

/// The parts that hold a document. A document's index is its place among these.
pub(super) fn documents(text: &str) -> Vec<Part> {
    parts(text).into_iter().filter(|part| part.has_content).collect()
}

/// Whether a line says nothing: blank, or only a comment.
pub(super) fn is_blank_or_comment(line: &str) -> bool {
    let content = line.trim_ascii_start();
    content.is_empty() || content.starts_with('#')
}

fn marker(line: &str) -> Option<Marker> {
    let line = line.trim_end_matches(['\n', '\r']);
    let (head, rest) = line.split_at_checked(3)?;
    if !(rest.is_empty() || rest.starts_with([' ', '\t'])) {
        return None;
    }
    match head {
        "---" => Some(Marker::Start { has_content: !is_blank_or_comment(rest) }),
        "..." => Some(Marker::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(text: &str) -> Vec<&str> {
        documents(text).into_iter().map(|part| &text[part.range]).collect()
    }

    #[test]
    fn documents_are_cut_at_markers_only() {
        assert_eq!(contents("a: 1\n---\nb: 2\n--- # c\nc: 3"), ["a: 1\n", "---\nb: 2\n", "--- # c\nc: 3"]);
        assert_eq!(contents("a: |\n  ---\n ---\nb: ----\n----: 1\n"), ["a: |\n  ---\n ---\nb: ----\n----: 1\n"]);
        assert_eq!(contents("---\r\na: 1\r\n---\r\nb: 2\r\n"), ["---\r\na: 1\r\n", "---\r\nb: 2\r\n"]);
    }

    #[test]
    fn a_marker_inside_a_block_scalar_still_ends_the_document() {
        assert_eq!(contents("a: |\n  x\n---\nb: 2\n"), ["a: |\n  x\n", "---\nb: 2\n"]);
    }

    #[test]
    fn documents_without_content_are_skipped() {
        assert!(contents("").is_empty());
        assert!(contents("# only\n\n---\n# this\n---\n...\n---   # and this\n").is_empty());
        assert_eq!(contents("---\n---\na: 1\n---\n"), ["---\na: 1\n"]);
    }

    #[test]
    fn directives_belong_to_the_document_after_them() {
        assert_eq!(
            contents("a: 1\n...\n# second\n%YAML 1.2\n---\nb: 2\n"),
            ["a: 1\n...\n", "# second\n%YAML 1.2\n---\nb: 2\n"]
        );
    }

    #[test]
    fn parts_are_the_whole_text() {
        for text in ["\u{feff}a: 1\n---\n", "x\n...\n...\n---\n--- y", "---", "...", "\n\n%\n---\n"] {
            let whole: String = parts(text).into_iter().map(|part| &text[part.range]).collect();
            assert_eq!(whole, text.trim_start_matches(BOM));
        }
    }
}

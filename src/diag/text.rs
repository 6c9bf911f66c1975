//! Findings as text: a headline, the place, an excerpt of the source, other places, and what to do.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Element, Level, Origin, Renderer, Snippet};

use crate::model::{Diagnostic, Related, Severity, Span};

/// How much of a line is shown, in characters; enough for any line that a person wrote.
const MAX_LINE: usize = 160;

/// How much of a long line is shown before the place that is meant.
const LEAD: usize = 60;

/// Findings whose lines hold a password, or may: an address that cannot be read hides where one is.
const SECRET_CODES: [&str; 2] = ["PasswordInUrl", "InvalidUrl"];

/// A line with one of these is not shown.
const SECRET_WORDS: [&str; 4] = ["password", "passwd", "credentials", "token"];

/// How many lines above one are looked at for what it stands within.
const LINES_ABOVE: usize = 50;

/// How much of a message or help is shown. Messages may quote what they complain of.
const MAX_MESSAGE: usize = 2000;

/// Renders findings one below the other. `sources` gives the text of a file, where it is at hand; without it only the
/// place is named. With `color`, for a terminal that shows it.
pub fn text(diagnostics: &[Diagnostic], sources: &dyn Fn(&str) -> Option<Arc<str>>, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut output = String::new();
    for diagnostic in diagnostics {
        if !output.is_empty() {
            output.push('\n');
        }
        output.push_str(&render(&renderer, diagnostic, sources));
        output.push('\n');
    }
    output
}

fn render(renderer: &Renderer, diagnostic: &Diagnostic, sources: &dyn Fn(&str) -> Option<Arc<str>>) -> String {
    let Diagnostic { code, severity, message, file, span, help, related } = diagnostic;
    let level = match severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let shown = |file: &str| sources(file).filter(|_| !SECRET_CODES.contains(&code.0.as_ref()));
    let mut group = level.primary_title(clean_message(message)).id(clean(&code.0)).elements(place(file, *span, &shown));
    for Related { message, file, span } in related {
        group = group.element(Level::NOTE.message(clean_message(message))).elements(place(file, *span, &shown));
    }
    if let Some(help) = help {
        group = group.element(Level::HELP.message(clean_message(help)));
    }
    // Lines without an excerpt or an underline would otherwise end in blanks.
    let rendered = renderer.render(&[group]);
    rendered.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Where it is: `--> file:line:column`, and the line itself when its source is at hand.
fn place<'a>(file: &str, span: Option<Span>, sources: &dyn Fn(&str) -> Option<Arc<str>>) -> Vec<Element<'a>> {
    if file.is_empty() {
        return Vec::new();
    }
    let origin = Origin::path(clean(file).into_owned());
    let Some(span) = span else { return vec![origin.into()] };
    let origin = origin.line(span.line).char_column(span.column);
    let Some(Excerpt { line, marked, start }) = sources(file).and_then(|source| excerpt(&source, span)) else {
        return vec![origin.into()];
    };
    let snippet = Snippet::source(line).line_start(span.line).annotation(AnnotationKind::Primary.span(marked));
    match start {
        // The renderer takes the column from the excerpt.
        Start::Whole => vec![snippet.path(clean(file).into_owned()).into()],
        Start::Cut => vec![origin.into(), snippet.into()],
    }
}

/// Whether an excerpt begins where its line begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Whole,
    Cut,
}

/// One line of a source, fit to be shown.
#[derive(Debug, PartialEq, Eq)]
struct Excerpt {
    line: String,
    /// What is underlined, in bytes of `line`.
    marked: Range<usize>,
    start: Start,
}

/// The line that `span` begins on. A span over several lines is underlined to the end of the first; of a long line
/// only what is around the span is kept. `None` when the span does not lie in the source.
fn excerpt(source: &str, span: Span) -> Option<Excerpt> {
    const CUT: &str = "...";
    let (before, after) = (source.get(..span.start)?, source.get(span.start..)?);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let rest = after.split('\n').next().unwrap_or_default().trim_end_matches('\r');
    let lead = &source[line_start..span.start];
    if may_hold_password(lead) || may_hold_password(rest) || is_within_credentials(&source[..line_start], lead) {
        return None;
    }
    // Both ends are cut before anything is done with each character: the line may be a megabyte.
    let lead_chars = lead.chars().rev().take(MAX_LINE - LEAD + 1).count();
    let (start, lead_cut, lead) =
        if lead_chars > MAX_LINE - LEAD { (Start::Cut, CUT, last_chars(lead, LEAD)) } else { (Start::Whole, "", lead) };
    let room = MAX_LINE - lead.chars().count();
    let (rest, rest_cut) = match rest.char_indices().nth(room) {
        Some((end, _)) => (&rest[..end], CUT),
        None => (rest, ""),
    };
    let marked_len = source.get(span.start..span.end).map_or(0, str::len).min(rest.len());
    let (marked, tail) = rest.split_at_checked(marked_len)?;
    let lead = format!("{lead_cut}{}", clean(lead));
    let marked = clean(marked);
    let place = lead.len()..lead.len() + marked.len();
    Some(Excerpt { line: format!("{lead}{marked}{}{rest_cut}", clean(tail)), marked: place, start })
}

/// Whether a password may stand in a part of a line: what is shown goes into logs that many read.
fn may_hold_password(text: &str) -> bool {
    let has_login = text.split("://").skip(1).any(|rest| {
        let before_at = rest.split_once('@').map(|(login, _)| login);
        before_at.is_some_and(|login| login.contains(':'))
    });
    has_login || SECRET_WORDS.iter().any(|word| contains_ignoring_case(text, word))
}

/// Whether a line stands below a key that is about credentials, in lines that are indented less and less.
fn is_within_credentials(before: &str, lead: &str) -> bool {
    let indent_of = |line: &str| line.len() - line.trim_start_matches([' ', '-']).len();
    let mut indent = indent_of(lead);
    for line in before.lines().rev().take(LINES_ABOVE).filter(|line| !line.trim().is_empty()) {
        if indent_of(line) < indent {
            indent = indent_of(line);
            if contains_ignoring_case(line, "credentials") {
                return true;
            }
        }
    }
    false
}

fn contains_ignoring_case(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

fn last_chars(text: &str, count: usize) -> &str {
    text.char_indices().rev().nth(count.saturating_sub(1)).map_or(text, |(start, _)| &text[start..])
}

/// Replaces what could steer a terminal or hide something from the reader.
fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let picture = |c: char| match u32::from(c) {
        control @ 0..=0x1f => char::from_u32(0x2400 + control).unwrap_or(char::REPLACEMENT_CHARACTER),
        0x7f => '\u{2421}',
        _ => char::REPLACEMENT_CHARACTER,
    };
    Cow::Owned(text.chars().map(|c| if is_unsafe(c) { picture(c) } else { c }).collect())
}

/// [`clean`], keeping line breaks, and cut where it is endless.
fn clean_message(text: &str) -> String {
    let cut = text.char_indices().nth(MAX_MESSAGE).map(|(end, _)| end);
    let shown = &text[..cut.unwrap_or(text.len())];
    let lines: Vec<Cow<'_, str>> = shown.split('\n').map(clean).collect();
    format!("{}{}", lines.join("\n"), if cut.is_some() { "..." } else { "" })
}

/// Control characters but tabs, and those that turn the direction of writing or are not seen.
fn is_unsafe(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(source: &str, start: usize, end: usize) -> (String, String) {
        let Excerpt { line, marked, start: _ } = excerpt(source, Span::locate(source, start, end)).unwrap();
        (line[marked].to_owned(), line)
    }

    #[test]
    fn an_excerpt_is_the_line_that_the_span_begins_on() {
        assert_eq!(marked("a: 1\r\nb: größe\r\nc: 3", 9, 16), ("größe".to_owned(), "b: größe".to_owned()));
        assert_eq!(marked("a:\n  b: 1\n  c: 2\n", 5, 16), ("b: 1".to_owned(), "  b: 1".to_owned()));
    }

    #[test]
    fn long_lines_are_cut_around_the_span() {
        let source = format!("{}X{}", "ü".repeat(500_000), "ö".repeat(500_000));
        let (marked, line) = marked(&source, 1_000_000, 1_000_001);
        assert_eq!(marked, "X");
        assert!(line.chars().count() <= MAX_LINE + 6, "{}", line.len());
        assert!(line.starts_with("...ü") && line.ends_with("ö..."));
    }

    #[test]
    fn a_line_that_may_hold_a_password_is_not_shown() {
        let place = |source: &str, marked: &str| {
            let start = source.find(marked).unwrap();
            excerpt(source, Span::locate(source, start, start + marked.len()))
        };
        for source in [
            "spec: {type: postgres, url: postgres://plumb:hunter2@db, foo: 1}",
            "url: postgres://db/a?password=hunter2 # foo",
            "credentials: {password: hunter2, foo: x}",
            "credentials:\n  password: hunter2 # foo\n",
            "readCredentials:\n  # why\n  foo: hunter2\n",
            "spec:\n  credentials:\n    env:\n      - foo: hunter2\n",
        ] {
            assert_eq!(place(source, "foo"), None, "{source}");
        }
        for source in [
            "spec:\n  url: postgres://plumb@db:5432/postgres\n  foo: 1\n",
            "  credentials:\n    env: NAME\n  foo: 1\n",
            "url: redis://default@cache.example.com:6379 # foo",
        ] {
            assert!(place(source, "foo").is_some(), "{source}");
        }
        let span = Some(Span::locate("url: hunter2", 5, 12));
        for code in SECRET_CODES {
            let finding = Diagnostic::error(crate::model::Code::new(code), "a.yaml", "url cannot be read").at(span);
            let told = text(&[finding], &|_| Some("url: hunter2".into()), false);
            assert!(told.contains("a.yaml:1:6") && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn a_span_outside_of_the_source_has_no_excerpt() {
        let span = Span { start: 50, end: 60, line: 9, column: 1, end_line: 9, end_column: 11 };
        assert_eq!(excerpt("short", span), None);
    }

    #[test]
    fn what_steers_a_terminal_is_replaced() {
        assert_eq!(clean("a\x1b[31mb\u{202e}c\x7f\u{9b}\td"), "a␛[31mb\u{fffd}c␡\u{fffd}\td");
        assert_eq!(clean_message("one\ntwo\r"), "one\ntwo␍");
        assert!(clean_message(&"x".repeat(1_000_000)).len() < 3000);
    }
}

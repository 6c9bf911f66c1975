use super::*;
use crate::model::Code;

const SOURCE: &str = "kind: Database\nspec:\n  connectionLimit: \"many\"   # why\n  größe: 1\n  größe: 2\n";

fn sources(file: &str) -> Option<std::sync::Arc<str>> {
    (file == "staging/orders.yaml").then(|| SOURCE.into())
}

fn at(needle: &str, occurrence: usize) -> Option<Span> {
    let (start, text) = SOURCE.match_indices(needle).nth(occurrence)?;
    Some(Span::locate(SOURCE, start, start + text.len()))
}

fn findings() -> Vec<Diagnostic> {
    vec![
        Diagnostic::error(codes::DUPLICATE_KEY, "staging/orders.yaml", "the key `größe` is given twice")
            .at(at("größe", 1))
            .help("keep one of the two")
            .related("it is given here first", "staging/orders.yaml", at("größe", 0)),
        Diagnostic::warning(Code::new("SchemaViolation"), "staging/orders.yaml", "\"many\" is not a number")
            .at(at("\"many\"", 0)),
        Diagnostic::error(codes::NOT_TEXT, "b.yaml", "the file is not UTF-8\x1b[2J from here on")
            .at(Some(Span { start: 7, end: 7, line: 2, column: 3, end_line: 2, end_column: 3 }))
            .help("save it as UTF-8"),
        Diagnostic::warning(Code::new("NoTenants"), "", "the platform has no tenants"),
    ]
}

#[test]
fn text_shows_the_source_around_each_finding() {
    insta::assert_snapshot!(text(&findings(), &sources, false));
}

#[test]
fn colored_text_says_the_same_as_plain_text() {
    let colored = text(&findings(), &sources, true);
    assert!(colored.contains('\x1b'));
    let mut stripped = String::new();
    let mut rest = colored.as_str();
    while let Some((before, escape)) = rest.split_once('\x1b') {
        stripped.push_str(before);
        rest = escape.split_once('m').map_or("", |(_, after)| after);
    }
    stripped.push_str(rest);
    let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    assert_eq!(trimmed(&stripped), trimmed(&text(&findings(), &sources, false)));
}

#[test]
fn json_gives_places_from_one_and_null_where_unknown() {
    let text = serde_json::to_string_pretty(&json(&findings())).unwrap();
    insta::assert_snapshot!(text);
}

#[test]
fn findings_are_sorted_by_file_line_and_code() {
    let mut sorted = findings();
    sort(&mut sorted);
    let order: Vec<(&str, &str)> = sorted.iter().map(|d| (d.file.as_str(), d.code.0.as_ref())).collect();
    assert_eq!(
        order,
        [
            ("", "NoTenants"),
            ("b.yaml", "NotText"),
            ("staging/orders.yaml", "SchemaViolation"),
            ("staging/orders.yaml", "DuplicateKey")
        ]
    );
}

#[test]
fn the_summary_counts_errors_warnings_and_files() {
    assert_eq!(summary(&findings()), "2 errors, 2 warnings in 2 files");
    assert_eq!(summary(&findings()[1..2]), "1 warning in 1 file");
    assert_eq!(summary(&findings()[3..]), "1 warning");
    assert_eq!(summary(&[]), "nothing found");
}

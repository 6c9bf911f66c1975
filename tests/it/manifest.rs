//! Reading manifests, as the other rooms do it.

mod edits;

use std::time::{Duration, Instant};

use plumb::diag::codes;
use plumb::manifest::{self, MAX_FILE_BYTES, ParsedFile};
use plumb::model::{Code, Span};
use proptest::prelude::*;
use serde_json::{Value, json};

fn parse(text: &str) -> ParsedFile {
    manifest::parse("staging/orders.yaml", text.as_bytes())
}

fn codes_of(parsed: &ParsedFile) -> Vec<&str> {
    parsed.diagnostics.iter().map(|diagnostic| diagnostic.code.0.as_ref()).collect()
}

fn slice(parsed: &ParsedFile, span: Option<Span>) -> Option<&str> {
    span.map(|span| &parsed.text[span.start..span.end])
}

const HARD: &str = "\u{feff}# for größe\r\n%YAML 1.2\r\n---\r\n\"apiVersion\": plumb.dev/v1 # ☃\r\nspec:\r\n  limit: &l 20 # why\r\n  same: *l\r\n  text: |\r\n    --- no\r\n     marker\r\n\r\n  # between\r\n  folded: >-\r\n    a\r\n    b\r\n  'single ''quoted''': 'it''s' # c\r\n  double: \"a\\\"b # no\"\r\n  plain: two\r\n    lines # c\r\n  flow: {a: [1, 'ü', {b: c}], d: } # c\r\n  empty:\r\n  list:\r\n  - x # y\r\n  - - nested\r\n  - k: v\r\n    l: &m\r\n      deep: 1\r\n  - *m\r\n  a/b~c: slash\r\n";

#[test]
fn values_and_places_of_a_hard_document_are_exact() {
    let parsed = parse(HARD);
    assert_eq!(parsed.diagnostics, []);
    let document = &parsed.documents[0];
    assert_eq!(
        *document.value,
        json!({
            "apiVersion": "plumb.dev/v1",
            "spec": {
                "limit": 20, "same": 20, "text": "--- no\n marker\n", "folded": "a b", "single 'quoted'": "it's",
                "double": "a\"b # no", "plain": "two lines", "flow": {"a": [1, "ü", {"b": "c"}], "d": null},
                "empty": null, "list": ["x", ["nested"], {"k": "v", "l": {"deep": 1}}, {"deep": 1}], "a/b~c": "slash",
            },
        })
    );
    for (pointer, value, key) in [
        ("/apiVersion", "plumb.dev/v1", Some("\"apiVersion\"")),
        ("/spec/limit", "20", Some("limit")),
        ("/spec/same", "*l", Some("same")),
        ("/spec/text", "|\r\n    --- no\r\n     marker", Some("text")),
        ("/spec/folded", ">-\r\n    a\r\n    b", Some("folded")),
        ("/spec/single 'quoted'", "'it''s'", Some("'single ''quoted'''")),
        ("/spec/double", "\"a\\\"b # no\"", Some("double")),
        ("/spec/plain", "two\r\n    lines", Some("plain")),
        ("/spec/flow", "{a: [1, 'ü', {b: c}], d: }", Some("flow")),
        ("/spec/flow/a", "[1, 'ü', {b: c}]", Some("a")),
        ("/spec/flow/a/1", "'ü'", None),
        ("/spec/flow/a/2/b", "c", Some("b")),
        ("/spec/flow/d", "d", Some("d")),
        ("/spec/empty", "empty", Some("empty")),
        ("/spec/list/0", "x", None),
        ("/spec/list/1/0", "nested", None),
        ("/spec/list/2/l/deep", "1", Some("deep")),
        ("/spec/list/3", "*m", None),
        ("/spec/list/3/deep", "1", Some("deep")),
        ("/spec/a~1b~0c", "slash", Some("a/b~c")),
    ] {
        assert_eq!(slice(&parsed, parsed.span(document, pointer)), Some(value), "{pointer}");
        assert_eq!(slice(&parsed, parsed.key_span(document, pointer)), key, "{pointer}");
    }
    for pointer in ["/nothing", "/spec/list/9", "/spec/list/x", "/spec/limit/deeper", "nonsense/x"] {
        assert_eq!(parsed.span(document, pointer), None, "{pointer}");
    }
    let span = parsed.span(document, "/spec/flow/a/1").unwrap();
    assert_eq!((span.line, span.column, span.end_column), (20, 17, 20));
    let first = parsed.document_span(document);
    assert_eq!(slice(&parsed, Some(first)), Some("\"apiVersion\": plumb.dev/v1 # ☃"));
    assert_eq!(first.line, 4);
}

#[test]
fn our_values_are_those_of_serde_yaml() {
    for text in [
        HARD,
        "a: 1\nb: [1.5, -2, 0x1F, 0o17, 007, 1e3, ~, yes, 'no', \"\\u00e9\\n\", 2024-01-01]\n",
        "a: |+\n  x\n\n\nb: >\n  folded\n  text\n\n  para\nc: |2\n    ind\n",
        "a: {b, c: , ? d : e}\nf: [[], {}, [[]]]\n",
        "? explicit\n: - 1\n  - 2\n",
        "a:\n- b:\n  - c: d\n",
        "a: http://x:80/#y\nb: a#b\nc: 'multi\n\n  line'\nd: \"fold\n  ed \\\n  esc\"\n",
        "a: !x\n".trim_end_matches(" !x\n"),
    ] {
        let ours = parse(text);
        let theirs: Result<Value, _> = serde_yaml::from_str(text.trim_start_matches('\u{feff}'));
        match theirs {
            Ok(value @ Value::Object(_)) => assert_eq!(*ours.documents[0].value, value, "{text}"),
            Ok(_) | Err(_) => assert!(ours.unreadable, "{text}"),
        }
    }
}

#[test]
fn a_bad_document_does_not_hide_the_others() {
    let text =
        "a: 1\n---\nb: [1\n---\n# nothing\n---\nc: 3\n---\nd: 1\nd: 2\ne: {x: 1, x: 2}\n---\n- list\n---\nf: 6\n";
    let parsed = parse(text);
    assert!(parsed.unreadable);
    let documents: Vec<_> =
        parsed.documents.iter().map(|document| (document.index, (*document.value).clone())).collect();
    assert_eq!(documents, [(0, json!({"a": 1})), (2, json!({"c": 3})), (5, json!({"f": 6}))]);
    assert_eq!(&text[parsed.documents[1].range.clone()], "---\nc: 3\n");
    assert_eq!(codes_of(&parsed), ["YamlSyntax", "DuplicateKey", "DuplicateKey", "NotAMapping"]);
    let lines: Vec<_> = parsed.diagnostics.iter().map(|diagnostic| diagnostic.span.unwrap().line).collect();
    assert_eq!(lines, [3, 11, 10, 13]);
    for diagnostic in &parsed.diagnostics {
        assert!(diagnostic.help.is_some() && diagnostic.file == "staging/orders.yaml" && diagnostic.is_error());
    }
}

#[test]
fn a_duplicate_key_shows_both_places() {
    let parsed = parse("spec:\n  größe: 1\n  b: 2\n  \"größe\": 3\n");
    let [diagnostic] = &parsed.diagnostics[..] else { panic!("{:?}", parsed.diagnostics) };
    assert_eq!(diagnostic.code, codes::DUPLICATE_KEY);
    assert_eq!(slice(&parsed, diagnostic.span), Some("\"größe\""));
    assert_eq!(slice(&parsed, diagnostic.related[0].span), Some("größe"));
    assert_eq!(diagnostic.related[0].span.unwrap().line, 2);
}

#[test]
fn what_is_not_supported_is_refused_at_its_place() {
    for (text, code, place) in [
        ("a: !foo bar\n", codes::YAML_TAG, "!foo"),
        ("a: !!str 1\n", codes::YAML_TAG, "!!str"),
        ("a: &x !foo\n  b: 1\n", codes::YAML_TAG, "!foo"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", codes::MERGE_KEY, "<<"),
        ("1: x\n", codes::NON_STRING_KEY, "1"),
        ("a:\n  ~: x\n", codes::NON_STRING_KEY, "~"),
        ("a: {[1]: x}\n", codes::NON_STRING_KEY, "[1]"),
        ("a: &x b\n*x : c\n", codes::NON_STRING_KEY, "*x"),
        ("a: .inf\n", codes::NUMBER_OUT_OF_RANGE, ".inf"),
        ("a: [.NaN]\n", codes::NUMBER_OUT_OF_RANGE, ".NaN"),
        ("a: 99999999999999999999\n", codes::NUMBER_OUT_OF_RANGE, "99999999999999999999"),
        ("a: &x [*x]\n", codes::RECURSIVE_ALIAS, "*x"),
        ("a: *nobody\n", codes::YAML_SYNTAX, "*nobody"),
        ("just text\n", codes::NOT_A_MAPPING, "just text"),
        ("--- ~\n", codes::NOT_A_MAPPING, "~"),
        ("a:\n\tb: 1\n", codes::YAML_SYNTAX, "b:"),
        ("a: 1\n b: 2\n", codes::YAML_SYNTAX, ""),
        ("a: 'open\nb: 1\n", codes::YAML_SYNTAX, ""),
        ("a: 1\n--- |\n text\n", codes::NOT_A_MAPPING, "|\n text"),
    ] {
        let parsed = parse(text);
        let first = parsed.diagnostics.first().unwrap_or_else(|| panic!("{text:?} is refused"));
        assert_eq!(first.code, code, "{text:?}: {}", first.message);
        if !place.is_empty() {
            assert_eq!(slice(&parsed, first.span), Some(place), "{text:?}");
        }
        assert!(parsed.unreadable && first.span.is_some() && first.help.is_some(), "{text:?}");
    }
    let quoted = parse("\"<<\": 1\n'1': 2\n");
    assert_eq!(*quoted.documents[0].value, json!({"<<": 1, "1": 2}));
}

#[test]
fn files_that_are_no_text_are_refused() {
    for (bytes, code) in [
        (&b"a: 1\nb: \xff\xfe\n"[..], codes::NOT_TEXT),
        (b"\xff\xfea\0:\0", codes::NOT_TEXT),
        (b"a: \0\n", codes::NOT_TEXT),
        (b"a: \x1b[31m\n", codes::NOT_TEXT),
        (b"a: 1\rb: 2\n", codes::NOT_TEXT),
        (&vec![b'#'; MAX_FILE_BYTES + 1], codes::FILE_TOO_LARGE),
    ] {
        let parsed = manifest::parse("x.yaml", bytes);
        assert_eq!(parsed.diagnostics.len(), 1);
        assert_eq!(parsed.diagnostics[0].code, code);
        assert!(parsed.unreadable && parsed.documents.is_empty() && parsed.diagnostics[0].span.is_some());
    }
    let parsed = manifest::parse("x.yaml", b"a: 1\nb: \xff\n");
    assert_eq!(parsed.diagnostics[0].span.map(|span| (span.line, span.column)), Some((2, 4)));
}

#[test]
fn a_file_with_very_many_findings_is_read_no_further_and_says_where_it_was_left() {
    let faulty = "- a list\n---\n";
    // The first two hundred are told one by one.
    let parsed = parse(&(faulty.repeat(300) + "kind: Database\n"));
    let (last, told) = parsed.diagnostics.split_last().unwrap();
    assert_eq!(told.len(), 200);
    assert!(told.iter().all(|finding| finding.code == codes::NOT_A_MAPPING));
    assert_eq!((last.code.clone(), last.span.unwrap().line), (codes::TOO_MANY_FINDINGS, 400), "{last:?}");
    assert_eq!(last.help.as_deref(), Some("correct the findings above first"));
    assert!(parsed.documents.is_empty() && parsed.unreadable, "what comes after it is not known");
    // As many as are told are not too many.
    let parsed = parse(&(faulty.repeat(199) + "- a list\n"));
    assert_eq!(parsed.diagnostics.len(), 200);
    assert!(parsed.diagnostics.iter().all(|finding| finding.code == codes::NOT_A_MAPPING));
}

#[test]
fn files_without_documents_are_fine() {
    for text in ["", "\u{feff}", "# only\n", "---\n...\n---\n# x\n", "\r\n\r\n"] {
        let parsed = parse(text);
        assert!(parsed.documents.is_empty() && parsed.diagnostics.is_empty() && !parsed.unreadable, "{text:?}");
    }
}

/// A megabyte of each of many things. The bound is wide, since the machine may be busy; what it catches takes minutes.
#[test]
fn documents_that_bomb_end_in_a_diagnostic() {
    const LIMIT: Duration = Duration::from_secs(20);
    let fill = |unit: &str| unit.repeat(MAX_FILE_BYTES / unit.len());
    let laughs: String =
        (1..30).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","))).collect();
    let bombs: Vec<(String, Option<Code>)> = vec![
        (fill("["), Some(codes::NESTED_TOO_DEEP)),
        (fill("{"), None),
        (fill("{a: "), Some(codes::NESTED_TOO_DEEP)),
        (fill("- "), Some(codes::NESTED_TOO_DEEP)),
        (fill("? "), Some(codes::NESTED_TOO_DEEP)),
        (fill("[? "), None),
        (fill("- a: "), None),
        ((0..1400).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect(), Some(codes::NESTED_TOO_DEEP)),
        (format!("a0: &a0 [x,x,x,x,x,x,x,x,x]\n{laughs}"), Some(codes::TOO_MANY_ALIASES)),
        (format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(40_000), "*a,".repeat(40_000)), Some(codes::TOO_MANY_ALIASES)),
        (format!("a: &a '{}'\nb: [{}]\n", "x".repeat(500_000), "*a,".repeat(90_000)), Some(codes::TOO_MANY_ALIASES)),
        (
            (0..90).map(|i| format!("a{i}: &a{i} {}*a{}{}\n", "[".repeat(50), i - 1, "]".repeat(50))).skip(1).collect(),
            None,
        ),
        (fill("k: v\n"), Some(codes::DOCUMENT_TOO_LARGE)),
        ("k: v\n".repeat(40_000), Some(codes::DUPLICATE_KEY)),
        (fill("1: v\n"), Some(codes::NON_STRING_KEY)),
        (format!("a: [{}]", fill(" !x y,")).chars().take(MAX_FILE_BYTES).collect(), None),
        (fill("x"), Some(codes::NOT_A_MAPPING)),
        (fill("x "), Some(codes::NOT_A_MAPPING)),
        (fill("x\n"), Some(codes::NOT_A_MAPPING)),
        (fill("- x\n"), Some(codes::DOCUMENT_TOO_LARGE)),
        (fill("--- x\n"), Some(codes::TOO_MANY_DOCUMENTS)),
        ("--- x\n".repeat(9000), Some(codes::NOT_A_MAPPING)),
        (fill("\t"), None),
        (fill("!"), None),
        (fill("&a "), None),
        (fill("*a "), None),
        (fill("%"), None),
        (fill("'"), None),
        (fill("\""), None),
        (fill(": "), None),
        (fill("]"), None),
        (fill("a: [x,\n"), None),
        (fill("|\n"), None),
        (fill("é: "), None),
    ];
    for (text, code) in bombs {
        let shown: String = text.chars().take(20).collect();
        let start = Instant::now();
        let parsed = parse(&text);
        assert!(start.elapsed() < LIMIT, "{shown:?} took {:?}", start.elapsed());
        assert!(parsed.unreadable || parsed.documents.is_empty(), "{shown:?}");
        if let Some(code) = code {
            assert_eq!(parsed.diagnostics[0].code, code, "{shown:?}: {}", parsed.diagnostics[0].message);
        }
    }
}

#[test]
fn many_findings_in_one_long_line_are_located_quickly() {
    let text = format!("{{{}}}", (0..40_000).map(|i| format!("k{i}: v,")).collect::<String>());
    let parsed = parse(&text);
    let document = &parsed.documents[0];
    let start = Instant::now();
    for i in (0..40_000).step_by(400) {
        assert_eq!(slice(&parsed, parsed.key_span(document, &format!("/k{i}"))), Some(format!("k{i}").as_str()));
    }
    assert!(start.elapsed() < Duration::from_secs(20));
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in "([a-c:\\-?,#&*!|>'\"%@`\\[\\]{} \n\t]|é|\r\n|\\.\\.\\.|---|: |<<){0,60}") {
        let parsed = parse(&text);
        for document in &parsed.documents {
            prop_assert!(document.value.is_object());
            let whole = parsed.span(document, "").unwrap();
            prop_assert!(document.range.start <= whole.start && whole.end <= document.range.end);
            parsed.document_span(document);
        }
        prop_assert_eq!(parsed.unreadable, !parsed.diagnostics.is_empty());
    }
}

//! Editing manifests: what is asked for changes, and nothing else.

mod page;

use plumb::manifest::{Edit, EditError, edit, remove_document};
use plumb::model::{Fields, Kind};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::parse;
use page::{Page, pages};

fn set(path: &str, to: impl Into<Value>) -> Edit {
    Edit { path: path.into(), to: Some(to.into()) }
}

fn unset(path: &str) -> Edit {
    Edit { path: path.into(), to: None }
}

fn fields(text: &str, document: usize) -> Fields {
    let parsed = parse(text);
    let document = parsed.documents.iter().find(|found| found.index == document).expect("the document is readable");
    document.value.get("spec").map(|spec| Kind::Database.info().flatten(spec)).unwrap_or_default()
}

/// The lines that differ: `-` and `+`.
fn changed(before: &str, after: &str) -> String {
    similar::TextDiff::from_lines(before, after)
        .iter_all_changes()
        .filter(|change| change.tag() != similar::ChangeTag::Equal)
        .map(|change| format!("{}{}", change.tag(), change.value().replace('\n', "\\n")))
        .collect::<Vec<_>>()
        .join("\n")
}

const ORDERS: &str = "# The orders.\napiVersion: plumb.dev/v1\nkind: Database\nmetadata: {name: orders}\nspec:\n  provider: pg-main # where\n\n  # How many.\n  connectionLimit: 20 # why\n\n  extensions: [pgcrypto, 'citext'] # ext\n  roles:\n    # The application.\n    - {name: app, access: readwrite} # rw\n    - name: ro # r\n      access: 'read' # only\n      # tail\n  settings:\n    work_mem: \"64MB\" # mem\n    # between\n    statement_timeout: 5000\n    jit: true\n# The end.\n";

#[test]
fn a_member_below_its_dash_goes_with_it() {
    let text = "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {name: orders}\nspec:\n  roles:\n  -\n    name: app\n    access: read\n  -\n    name: ro\n    access: read\n";
    let after = |edits: &[Edit]| changed(text, &edit(text, 0, Kind::Database.info(), edits).unwrap());
    assert_eq!(after(&[unset("/spec/roles/ro")]), "-  -\\n\n-    name: ro\\n\n-    access: read\\n");
    assert_eq!(after(&[unset("/spec/roles/app/access")]), "-    name: app\\n\n-    access: read\\n\n-  -\\n");
    assert_eq!(after(&[set("/spec/roles/etl/access", "read")]), "+  - {name: etl, access: read}\\n");
}

#[test]
fn an_edit_changes_only_its_lines() {
    let table: &[(&[Edit], &str)] = &[
        (&[set("/spec/connectionLimit", 30)], "-  connectionLimit: 20 # why\\n\n+  connectionLimit: 30 # why\\n"),
        (&[unset("/spec/connectionLimit")], "-  connectionLimit: 20 # why\\n"),
        (&[set("/spec/journalMode", "wal")], "+  journalMode: wal\\n"),
        (
            &[set("/spec/roles/app/access", "read")],
            "-    - {name: app, access: readwrite} # rw\\n\n+    - {name: app, access: read} # rw\\n",
        ),
        (&[set("/spec/roles/ro/access", "admin")], "-      access: 'read' # only\\n\n+      access: 'admin' # only\\n"),
        (&[unset("/spec/roles/app/access")], "-    - {name: app, access: readwrite} # rw\\n"),
        (&[unset("/spec/roles/ro")], "-    - name: ro # r\\n\n-      access: 'read' # only\\n"),
        (&[set("/spec/roles/etl/access", "read")], "+    - name: etl\\n\n+      access: read\\n"),
        (
            &[unset("/spec/roles/ro/access"), set("/spec/roles/etl/access", "read")],
            "-    - name: ro # r\\n\n-      access: 'read' # only\\n\n+    - {name: etl, access: read}\\n",
        ),
        (
            &[set("/spec/extensions/uuid-ossp", true)],
            "-  extensions: [pgcrypto, 'citext'] # ext\\n\n+  extensions: [pgcrypto, 'citext', 'uuid-ossp'] # ext\\n",
        ),
        (
            &[unset("/spec/extensions/pgcrypto")],
            "-  extensions: [pgcrypto, 'citext'] # ext\\n\n+  extensions: ['citext'] # ext\\n",
        ),
        (
            &[unset("/spec/extensions/citext"), unset("/spec/extensions/pgcrypto")],
            "-  extensions: [pgcrypto, 'citext'] # ext\\n\n+  extensions: [] # ext\\n",
        ),
        (
            &[set("/spec/settings/work_mem", "128MB")],
            "-    work_mem: \"64MB\" # mem\\n\n+    work_mem: \"128MB\" # mem\\n",
        ),
        (
            &[set("/spec/settings/statement_timeout", "6000")],
            "-    statement_timeout: 5000\\n\n+    statement_timeout: 6000\\n",
        ),
        (
            &[set("/spec/settings/statement_timeout", "6s")],
            "-    statement_timeout: 5000\\n\n+    statement_timeout: 6s\\n",
        ),
        (&[set("/spec/settings/jit", "off")], "-    jit: true\\n\n+    jit: false\\n"),
        (&[set("/spec/settings/lock_timeout", "10")], "+    lock_timeout: \"10\"\\n"),
        (&[unset("/spec/settings/work_mem")], "-    work_mem: \"64MB\" # mem\\n"),
        (
            &[unset("/spec/settings/work_mem"), unset("/spec/settings/statement_timeout"), unset("/spec/settings/jit")],
            "-  settings:\\n\n-    work_mem: \"64MB\" # mem\\n\n+  settings: {}\\n\n-    statement_timeout: 5000\\n\n-    jit: true\\n",
        ),
        (&[unset("/spec/nothing"), set("/spec/extensions/citext", true), unset("/spec/roles/none")], ""),
        (
            &[unset("/spec/roles/app"), unset("/spec/roles/ro")],
            "-  roles:\\n\n+  roles: []\\n\n-    - {name: app, access: readwrite} # rw\\n\n-    - name: ro # r\\n\n-      access: 'read' # only\\n",
        ),
    ];
    for (edits, expected) in table {
        let edited = edit(ORDERS, 0, Kind::Database.info(), edits).unwrap_or_else(|error| panic!("{edits:?}: {error}"));
        assert_eq!(changed(ORDERS, &edited), *expected, "{edits:?}");
        // In a file with Windows line ends, between other documents.
        let other = "a: 1 # broken\n b: [\n";
        let file = |middle: &str| format!("{other}---\n{middle}---\n{other}").replace('\n', "\r\n");
        let crlf = edit(&file(ORDERS), 1, Kind::Database.info(), edits).unwrap();
        assert_eq!(crlf, file(&edited), "{edits:?}");
    }
}

#[test]
fn layouts_of_all_kinds_are_edited_in_their_own_style() {
    let table: &[(&str, Edit, &str)] = &[
        (
            "spec:\n    connectionLimit: 1",
            set("/spec/userVersion", 2),
            "spec:\n    connectionLimit: 1\n    userVersion: 2",
        ),
        ("spec: {connectionLimit: 1}\n", set("/spec/userVersion", 2), "spec: {connectionLimit: 1, userVersion: 2}\n"),
        ("spec: { connectionLimit: 1 }\n", unset("/spec/connectionLimit"), "spec: {}\n"),
        ("spec: {}\n", set("/spec/userVersion", 2), "spec: {userVersion: 2}\n"),
        ("spec:\n", set("/spec/userVersion", 2), "spec:\n  userVersion: 2\n"),
        ("spec: # c\nkind: Database\n", set("/spec/userVersion", 2), "spec: # c\n  userVersion: 2\nkind: Database\n"),
        ("spec: ~ # c\n", set("/spec/userVersion", 2), "spec: {userVersion: 2} # c\n"),
        ("kind: Database\n", set("/spec/userVersion", 2), "kind: Database\nspec:\n  userVersion: 2\n"),
        (
            "kind: Database\n",
            set("/spec/roles/a/access", "read"),
            "kind: Database\nspec:\n  roles:\n    - {name: a, access: read}\n",
        ),
        ("spec:\n  userVersion: 1\n", unset("/spec/userVersion"), "spec: {}\n"),
        ("spec:\n  userVersion: # c\n", set("/spec/userVersion", 2), "spec:\n  userVersion: 2 # c\n"),
        (
            "spec:\n  extensions:\n  - b # c\n",
            set("/spec/extensions/a", true),
            "spec:\n  extensions:\n  - b # c\n  - a\n",
        ),
        ("spec:\n  extensions: # c\n  - b\n", unset("/spec/extensions/b"), "spec:\n  extensions: [] # c\n"),
        ("spec:\n  extensions: []\n", set("/spec/extensions/a", true), "spec:\n  extensions: [a]\n"),
        ("spec:\n  extensions:\n", set("/spec/extensions/a", true), "spec:\n  extensions: [a]\n"),
        (
            "spec:\n  userVersion: 1\n",
            set("/spec/extensions/a b", true),
            "spec:\n  userVersion: 1\n  extensions: [a b]\n",
        ),
        (
            "spec:\n  extensions: [\n    a, # c\n    b\n  ]\n",
            unset("/spec/extensions/a"),
            "spec:\n  extensions: [\n    b\n  ]\n",
        ),
        (
            "spec:\n  extensions: [\n    a, # c\n    b # d\n  ]\n",
            unset("/spec/extensions/b"),
            "spec:\n  extensions: [\n    a, # c\n  ]\n",
        ),
        (
            "spec:\n  extensions: [\n    a, # c\n    b # d\n  ]\n",
            set("/spec/extensions/e", true),
            "spec:\n  extensions: [\n    a, # c\n    b, e # d\n  ]\n",
        ),
        ("spec:\n  extensions: [a, b, c]\n", unset("/spec/extensions/b"), "spec:\n  extensions: [a, c]\n"),
        ("spec:\n  extensions: [a, b, c]\n", unset("/spec/extensions/c"), "spec:\n  extensions: [a, b]\n"),
        (
            "spec:\n  roles: [{name: a, access: read}]\n",
            set("/spec/roles/b/access", "admin"),
            "spec:\n  roles: [{name: a, access: read}, {name: b, access: admin}]\n",
        ),
        (
            "spec:\n  roles:\n  - { name: a, access: read }\n",
            set("/spec/roles/b/access", "admin"),
            "spec:\n  roles:\n  - { name: a, access: read }\n  - { name: b, access: admin }\n",
        ),
        (
            "spec:\n  roles:\n  -   name: a\n      access: read\n",
            set("/spec/roles/b/access", "admin"),
            "spec:\n  roles:\n  -   name: a\n      access: read\n  -   name: b\n      access: admin\n",
        ),
        ("spec:\n  roles: []\n", set("/spec/roles/b/access", "admin"), "spec:\n  roles: [{name: b, access: admin}]\n"),
        (
            "spec:\n  roles:\n  - access: read\n    name: a\n    x: 1\n",
            unset("/spec/roles/a/access"),
            "spec:\n  roles:\n  - name: a\n    x: 1\n",
        ),
        (
            "spec:\n  roles:\n  - access: read\n    name: a\n  - name: b\n    access: read",
            unset("/spec/roles/b"),
            "spec:\n  roles:\n  - access: read\n    name: a",
        ),
        (
            "spec:\n  settings: {a: 'x', b: y}\n",
            set("/spec/settings/a", "it's"),
            "spec:\n  settings: {a: 'it''s', b: y}\n",
        ),
        (
            "spec:\n  settings: {a: 'x', b: y}\n",
            set("/spec/settings/b", "p, q"),
            "spec:\n  settings: {a: 'x', b: \"p, q\"}\n",
        ),
        ("spec:\n  settings: {a: 'x', b: y}\n", unset("/spec/settings/a"), "spec:\n  settings: {b: y}\n"),
        (
            "spec:\n  settings:\n    a: |\n      x\n      y\n    b: 1\n",
            set("/spec/settings/a", "z"),
            "spec:\n  settings:\n    a: z\n    b: 1\n",
        ),
        (
            "spec:\n  settings:\n    a: >-\n      x\n\n      y\n\n    # c\n    b: 1\n",
            unset("/spec/settings/a"),
            "spec:\n  settings:\n\n    # c\n    b: 1\n",
        ),
        (
            "spec:\n  settings:\n    a: >\n# c\nkind: Database\n",
            set("/spec/settings/b", "z"),
            "spec:\n  settings:\n    a: >\n    b: z\n# c\nkind: Database\n",
        ),
        (
            "spec:\n  settings:\n    a: x\n",
            set("/spec/settings/search_path", "\"$user\", public"),
            "spec:\n  settings:\n    a: x\n    search_path: \"\\\"$user\\\", public\"\n",
        ),
        (
            "\"spec\":\n  'connectionLimit': 1 # ü\n",
            set("/spec/connectionLimit", -1),
            "\"spec\":\n  'connectionLimit': -1 # ü\n",
        ),
        ("spec:\n  foreignKeys: yes please\n", set("/spec/foreignKeys", true), "spec:\n  foreignKeys: true\n"),
        ("spec:\n  connectionLimit: &x 1\n", set("/spec/connectionLimit", 2), "spec:\n  connectionLimit: &x 2\n"),
        (
            "base: &x 1\nspec:\n  connectionLimit: *x # c\n",
            set("/spec/connectionLimit", 2),
            "base: &x 1\nspec:\n  connectionLimit: 2 # c\n",
        ),
        (
            "base: &x 1\nspec:\n  connectionLimit: *x # c\n  userVersion: 1\n",
            unset("/spec/connectionLimit"),
            "base: &x 1\nspec:\n  userVersion: 1\n",
        ),
        (
            "\u{feff}spec:\n  userVersion: 1\n...\n",
            set("/spec/userVersion", 2),
            "\u{feff}spec:\n  userVersion: 2\n...\n",
        ),
        (
            "%YAML 1.2\n---\nspec:\n  userVersion: 1\n",
            set("/spec/connectionLimit", 2),
            "%YAML 1.2\n---\nspec:\n  userVersion: 1\n  connectionLimit: 2\n",
        ),
    ];
    for (before, change, after) in table {
        let edited = edit(before, 0, Kind::Database.info(), std::slice::from_ref(change));
        assert_eq!(edited.as_deref(), Ok(*after), "{before:?} {change:?}");
    }
}

#[test]
fn a_value_that_another_place_shares_is_not_edited() {
    for (text, change) in [
        ("spec:\n  connectionLimit: &x 1\n  userVersion: *x\n", set("/spec/connectionLimit", 2)),
        ("spec:\n  connectionLimit: &x 1\n  userVersion: *x\n", unset("/spec/connectionLimit")),
        ("a: &r [{name: app, access: read}]\nspec:\n  roles: *r\n", set("/spec/roles/app/access", "admin")),
        ("spec:\n  roles: &r [{name: app, access: read}]\nb: *r\n", set("/spec/roles/app/access", "admin")),
        ("spec:\n  roles: &r [{name: app, access: read}]\nb: *r\n", set("/spec/roles/new/access", "admin")),
        ("a: &e [x]\nspec:\n  extensions: *e\n", set("/spec/extensions/y", true)),
        ("spec:\n  settings:\n    a: &x 1\n  userVersion: *x\n", unset("/spec/settings/a")),
    ] {
        let refused = edit(text, 0, Kind::Database.info(), std::slice::from_ref(&change));
        assert_eq!(refused, Err(EditError::Aliased { path: change.path.clone() }), "{text:?}");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let not_expressible = |path: &str| Err(EditError::NotExpressible { path: path.into() });
    let database = Kind::Database.info();
    for change in [
        set("/spec/roles/app", true),
        set("/spec/extensions/pgcrypto", false),
        set("/spec/connectionLimit", json!([1])),
        set("/spec/connectionLimit", Value::Null),
        set("/spec/connectionLimit/deeper", 1),
        set("/spec/settings", "x"),
        set("/metadata/name", "x"),
        unset("/kind"),
        set("/spec/provider", "x"),
    ] {
        let path = change.path.as_str().to_owned();
        assert_eq!(edit(ORDERS, 0, database, &[change]), not_expressible(&path), "{path}");
    }
    assert_eq!(edit(ORDERS, 1, database, &[]), Err(EditError::NoDocument(1)));
    assert!(matches!(edit("a: [", 0, database, &[]), Err(EditError::Unreadable { document: 0, .. })));
    assert_eq!(edit(ORDERS, 0, database, &[]).as_deref(), Ok(ORDERS));
}

#[test]
fn removing_a_document_leaves_the_others_as_they_are() {
    for (text, document, left) in [
        ("a: 1\n", 0, None),
        ("# c\n---\na: 1\n...\n# d\n---\n", 0, None),
        ("a: 1\n---\nb: 2 # c\n", 0, Some("---\nb: 2 # c\n")),
        ("# licence\n\n# about a\na: 1\n---\nb: 2\n", 0, Some("# licence\n\n---\nb: 2\n")),
        ("a: 1\n---\nb: 2\n---\nc: 3", 1, Some("a: 1\n---\nc: 3")),
        ("a: 1\n---\nb: 2\n---\nc: 3", 2, Some("a: 1\n---\nb: 2")),
        ("a: 1\r\n---\r\n# x\r\n---\r\nb: 2\r\n", 1, Some("a: 1\r\n---\r\n# x\r\n")),
        ("a: 1\n---\nb: 2\n...\nc: 3\n", 1, Some("a: 1\n...\nc: 3\n")),
        ("a: 1\n...\nc: 3\n", 0, Some("c: 3\n")),
        ("a: [\n---\nb: 2\n", 1, Some("a: [\n")),
        ("a: 1\n---\nb: 2\n", 7, Some("a: 1\n---\nb: 2\n")),
    ] {
        assert_eq!(remove_document(text, document).as_deref(), left, "{text:?}");
    }
}

fn changes() -> impl Strategy<Value = Edit> {
    (0..8_usize, 0..6_usize).prop_map(|(what, i)| {
        let (path, to) = match what {
            0 => ("/spec/connectionLimit".to_owned(), Some(json!(i))),
            1 => ("/spec/connectionLimit".to_owned(), None),
            2 => (format!("/spec/extensions/ext{i}"), Some(json!(true))),
            3 => (format!("/spec/extensions/ext{i}"), None),
            4 => (format!("/spec/roles/role{i}/access"), Some(json!("admin"))),
            5 => (format!("/spec/roles/role{i}"), None),
            6 => (format!("/spec/settings/set{i}"), Some(json!("2MB"))),
            _ => (format!("/spec/settings/set{i}"), None),
        };
        Edit { path: path.as_str().into(), to }
    })
}

/// What an edit does to the fields of a document.
fn change(fields: &mut Fields, Edit { path, to }: &Edit) {
    match to {
        Some(value) => fields.insert(path.clone(), value.clone()),
        None => fields.0.retain(|field, _| !field.is_within(path.as_str())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn edits_come_to_the_exact_text_and_the_exact_values(mut page in pages(), edits in prop::collection::vec(changes(), 1..6)) {
        let line_break = if page.crlf { "\r\n" } else { "\n" };
        let file = |page: &Page| format!("a: &x 1{line_break}---{line_break}{}{line_break}---{line_break}b: [broken", page.text());
        let text = file(&page);
        let edited = edit(&text, 1, Kind::Database.info(), &edits).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        let mut expected = fields(&text, 1);
        for edit in &edits {
            page.change(edit);
            change(&mut expected, edit);
        }
        prop_assert_eq!(&edited, &file(&page), "{:#?} of\n{}", edits, text);
        prop_assert_eq!(fields(&edited, 1), expected);
    }

    #[test]
    fn edits_of_any_readable_text_are_right_or_refused(noise in "([a-c]|spec|roles|name|access|: |- |\n  |\n    |\n|#|&a|\\*a|[{}\\[\\],'\"|>]|\r\n){0,40}", value in "[ -~]{0,6}") {
        let head = "# head\nmetadata: {name: 'x'} # m\nspec:\n  roles:\n";
        let tail = "\n# tail\nkind: Database # k\n---\nother: [ 1 ] # o";
        let text = format!("{head}{noise}{tail}");
        let rest = |text: &str| -> Vec<Value> {
            let mut values: Vec<Value> = parse(text).documents.into_iter().map(|document| (*document.value).clone()).collect();
            if let Some(document) = values[0].as_object_mut() {
                document.remove("spec");
            }
            values
        };
        for path in ["/spec/connectionLimit", "/spec/roles/b/access", "/spec/extensions/c", "/spec/settings/a"] {
            for to in [Some(json!(value)), Some(json!(true)), None] {
                let asked = Edit { path: path.into(), to };
                if let Ok(edited) = edit(&text, 0, Kind::Database.info(), std::slice::from_ref(&asked)) {
                    // All before the spec and behind it is the same, byte for byte.
                    let before = "# head\nmetadata: {name: 'x'} # m\nspec:";
                    prop_assert!(edited.starts_with(before) && edited.ends_with(tail), "{asked:?} of\n{text}\ngave\n{edited}");
                    prop_assert_eq!(rest(&edited), rest(&text));
                    let mut expected = fields(&text, 0);
                    // A setting is text, and its servers say `on`.
                    let is_on = path == "/spec/settings/a" && asked.to == Some(json!(true));
                    change(&mut expected, &if is_on { set(path, "on") } else { asked.clone() });
                    prop_assert_eq!(fields(&edited, 0), expected, "{:?} of\n{}", asked, text);
                }
            }
        }
    }
}

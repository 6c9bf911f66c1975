//! What is said of a document alone.

use super::{assert_told, check, told};

/// A Database with this metadata and spec.
fn database(metadata: &str, spec: &str) -> String {
    format!("apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {{{metadata}}}\nspec:\n{spec}")
}

fn of_spec(spec: &str) -> Vec<String> {
    told(&check("a.yaml", &database("name: orders", spec)).diagnostics)
}

fn of_metadata(metadata: &str) -> Vec<String> {
    told(&check("a.yaml", &database(metadata, "  connectionLimit: 5\n")).diagnostics)
}

#[test]
fn a_full_document_is_fine() {
    let text = r#"
apiVersion: plumb.dev/v1
kind: Database
metadata:
  name: orders
  environment: staging
  labels: {owner: team-shop, anything: goes}
  annotations:
    example.com/free: text
    plumb.dev/drift: revert
    plumb.dev/drift-ignore: /spec/connectionLimit, /spec/settings/work_mem
    plumb.dev/deletion: retain
    plumb.dev/adopt: "true"
    plumb.dev/suspend: "false"
    plumb.dev/rotate: "2024-05"
spec:
  provider: pg-main
  connectionLimit: 20
  extensions: [pgcrypto]
  settings: {work_mem: 64MB, jit: false, statement_timeout: 5000, seq_page_cost: 1.5}
  roles:
    - {name: app, access: readwrite}
    - {name: ro, access: read}
  dependsOn: [Cache/sessions]
---
apiVersion: plumb.dev/v1
kind: Cache
metadata: {name: sessions}
spec: {keyPrefix: "s:", categories: [read, write]}
---
"#;
    assert_told(&check("a.yaml", text).diagnostics, &[]);
}

#[test]
fn an_unknown_kind_gets_a_suggestion() {
    let text = "apiVersion: plumb.dev/v1\nkind: Databse\nmetadata: {name: a}\nspec: {}\n";
    assert_told(
        &check("a.yaml", text).diagnostics,
        &["a.yaml:2:7 UnknownKind: unknown kind \"Databse\" | did you mean \"Database\"?"],
    );
}

#[test]
fn an_unknown_version_says_which_there_is() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {}\n";
    assert_told(
        &check("a.yaml", text).diagnostics,
        &[
            "a.yaml:2:7 UnknownKind: unknown kind \"Deployment\" | kinds are Platform, Tenant, Provider, Database and Cache",
            "a.yaml:1:13 UnknownVersion: unknown apiVersion \"apps/v1\" | write apiVersion: plumb.dev/v1, or name the file in .plumbignore if it is not meant for Plumb",
        ],
    );
}

#[test]
fn missing_fields_are_told_at_their_parent() {
    let text = "metadata:\n  labels: {a: b}\n";
    let lines = told(&check("a.yaml", text).diagnostics);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("a.yaml:1:1 MissingField: the document needs the field \"kind\""), "{lines:?}");
    assert!(lines[1].starts_with("a.yaml:1:1 MissingField: the document needs the field \"apiVersion\""), "{lines:?}");

    let text = "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  labels: {a: b}\n";
    assert_told(
        &check("a.yaml", text).diagnostics,
        &[
            "a.yaml:1:1 MissingField: the document needs the field \"spec\" | spec: The settings of the Database; {} where nothing is to be set.",
            "a.yaml:4:3 MissingField: metadata needs the field \"name\" | name: What it is called, an RFC 1123 label.",
        ],
    );
}

#[test]
fn an_unknown_field_is_told_at_its_key_with_a_suggestion() {
    assert_eq!(
        of_spec("  conectionLimit: 5\n"),
        ["a.yaml:5:3 UnknownField: spec has no field \"conectionLimit\" | did you mean \"connectionLimit\"?"]
    );
    assert_eq!(
        of_spec("  roles: [{name: app, access: read, login: true}]\n"),
        ["a.yaml:5:37 UnknownField: roles[0] has no field \"login\" | its fields are name and access"]
    );
    assert_eq!(
        of_metadata("name: orders, namespace: x"),
        [
            "a.yaml:3:26 UnknownField: metadata has no field \"namespace\" | its fields are name, environment, labels and annotations"
        ]
    );
}

#[test]
fn a_number_out_of_range_says_the_range() {
    let help = "connectionLimit (PostgreSQL): how many connections at once; -1 is unlimited.";
    assert_eq!(
        of_spec("  connectionLimit: -5\n"),
        [format!("a.yaml:5:20 InvalidValue: connectionLimit must be at least -1, not -5 | {help}")]
    );
    assert_eq!(
        of_spec("  connectionLimit: 1000000\n"),
        [format!("a.yaml:5:20 InvalidValue: connectionLimit must be at most 262143, not 1000000 | {help}")]
    );
    assert_eq!(
        of_spec("  connectionLimit: many\n"),
        [format!("a.yaml:5:20 InvalidValue: connectionLimit must be a whole number, not \"many\" | {help}")]
    );
    assert_eq!(
        of_spec("  userVersion: 3000000000\n"),
        [
            "a.yaml:5:16 InvalidValue: userVersion must be at most 2147483647, not 3000000000 | userVersion (SQLite): the application's own version number (`PRAGMA user_version`)."
        ]
    );
}

#[test]
fn a_whole_number_that_is_written_as_a_decimal_is_told_where_it_stands() {
    assert_eq!(
        of_spec("  connectionLimit: 1e2\n  settings: {seq_page_cost: 1.0}\n"),
        [
            "a.yaml:5:20 InvalidValue: connectionLimit must be a whole number, and is written as a decimal one | write 100"
        ]
    );
    assert_eq!(of_spec("  settings: {seq_page_cost: 1.0}\n"), [""; 0], "a server takes it as text");
}

#[test]
fn a_setting_that_no_server_takes_is_told_before_anything_is_made() {
    for (name, why) in [
        ("'work_mem\"'", "\"work_mem\\\"\" is not the name of a setting"),
        ("a b", "\"a b\" is not the name of a setting"),
        ("Role", "the setting Role says who a session is; give roles their access instead"),
    ] {
        let said = of_spec(&format!("  settings: {{{name}: x}}\n"));
        let help = "settings are those that ALTER DATABASE ... SET takes, such as work_mem";
        assert_eq!(said, [format!("a.yaml:5:14 InvalidValue: {why} | {help}")]);
    }
    assert_eq!(of_spec("  settings: {app.tenant: x, Work_Mem: 4MB}\n"), [""; 0]);
}

#[test]
fn a_choice_lists_what_there_is() {
    assert_eq!(
        of_spec("  roles:\n    - {name: app, access: write}\n"),
        [
            "a.yaml:6:27 InvalidValue: roles[0].access must be \"read\", \"readwrite\" or \"admin\", not \"write\" | access: What it may do with the data."
        ]
    );
    let lines = of_spec("  journalMode: memory\n");
    assert!(
        lines[0].starts_with("a.yaml:5:16 InvalidValue: journalMode must be \"delete\" or \"wal\", not \"memory\""),
        "{lines:?}"
    );
    let lines = of_spec("  settings: {work_mem: [1]}\n");
    assert!(
        lines[0].starts_with(
            "a.yaml:5:24 InvalidValue: settings.work_mem must be text, a whole number, a number or true or false, not a list"
        ),
        "{lines:?}"
    );
}

#[test]
fn names_are_labels() {
    for name in ["Orders", "a_b", "-a", "a-", "\"\"", "ü"] {
        let lines = of_metadata(&format!("name: {name}"));
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        assert!(
            lines[0].starts_with(
                "a.yaml:3:18 InvalidValue: metadata.name must be lower-case letters, digits and dashes, with a letter or digit at both ends, at most 63 characters, not "
            ),
            "{lines:?}"
        );
    }
    assert_eq!(of_metadata("name: 5").len(), 1);
    assert_eq!(of_metadata(&format!("name: {}", "a".repeat(64))).len(), 1);
    assert!(of_metadata(&format!("name: {}", "a".repeat(63))).is_empty());
}

#[test]
fn every_finding_of_a_document_is_told() {
    let lines =
        of_spec("  connectionLimit: -5\n  pageSize: 1000\n  extension: []\n  roles: [{name: owner, access: none}]\n");
    let codes: Vec<&str> = lines.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(codes.len(), 5, "{lines:?}");
    assert!(codes.contains(&"UnknownField:") && codes.contains(&"ReservedRole:"), "{lines:?}");
}

#[test]
fn a_bad_document_does_not_hide_the_next_one() {
    let text = format!("{}---\n{}", database("name: a", "  pageSize: x\n"), database("name: b", "  pageSize: y\n"));
    let lines = told(&check("a.yaml", &text).diagnostics);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].starts_with("a.yaml:11:13 "), "{lines:?}");
}

#[test]
fn labels_and_annotations_are_text() {
    let lines = of_metadata("name: a, labels: {cost: 5}, annotations: {note: [x]}");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("3:36 InvalidValue: metadata.labels.cost must be text, not 5"), "{lines:?}");
    assert!(lines[1].contains("InvalidValue: metadata.annotations.note must be text, not a list"), "{lines:?}");
}

#[test]
fn annotations_of_plumb_are_known_and_hold_what_they_can() {
    let of = |annotation: &str| {
        let lines = of_metadata(&format!("name: a, annotations: {{{annotation}}}"));
        assert_eq!(lines.len(), 1, "{annotation}: {lines:?}");
        lines[0].clone()
    };
    assert_eq!(
        of("plumb.dev/deletoin: delete"),
        "a.yaml:3:35 UnknownAnnotation: there is no annotation \"plumb.dev/deletoin\" | did you mean \"plumb.dev/deletion\"?"
    );
    assert_eq!(
        of("plumb.dev/deletion: always"),
        "a.yaml:3:55 InvalidAnnotation: plumb.dev/deletion cannot be \"always\" | its values are protect, delete and retain"
    );
    assert_eq!(
        of("plumb.dev/drift: reverts"),
        "a.yaml:3:52 InvalidAnnotation: plumb.dev/drift cannot be \"reverts\" | did you mean \"revert\"?"
    );
    assert_eq!(
        of("plumb.dev/adopt: true"),
        "a.yaml:3:52 InvalidAnnotation: plumb.dev/adopt must be text, not true | put it in quotes: \"true\""
    );
    assert_eq!(
        of("plumb.dev/suspend: \"yes\""),
        "a.yaml:3:54 InvalidAnnotation: plumb.dev/suspend cannot be \"yes\" | its values are true and false"
    );
    assert_eq!(
        of("plumb.dev/drift-ignore: /spec/extnsions"),
        "a.yaml:3:59 InvalidAnnotation: plumb.dev/drift-ignore names \"/spec/extnsions\", which a Database does not have | did you mean \"extensions\"?"
    );
    assert!(of("plumb.dev/drift-ignore: connectionLimit").contains("write paths of fields"));
    let provider = "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {name: a, annotations: {plumb.dev/drift: revert}}\nspec: {type: sqlite, url: \"sqlite:x\"}\n";
    assert_told(
        &check("a.yaml", provider).diagnostics,
        &[
            "a.yaml:3:35 UnknownAnnotation: \"plumb.dev/drift\" means nothing on a Provider | it belongs on the resources of tenants",
        ],
    );
}

#[test]
fn a_role_cannot_be_the_owner() {
    assert_eq!(
        of_spec("  roles: [{name: owner, access: admin}]\n"),
        [
            "a.yaml:5:18 ReservedRole: a role cannot be called \"owner\": the role that owns the database is | choose another name; access: admin makes a role a member of the owner"
        ]
    );
}

#[test]
fn lists_name_each_member_once() {
    assert_eq!(
        of_spec("  extensions: [pgcrypto, citext, pgcrypto]\n"),
        ["a.yaml:5:34 DuplicateMember: extensions names \"pgcrypto\" twice | remove one of the two"]
    );
    assert_eq!(
        of_spec("  roles:\n    - {name: app, access: read}\n    - {name: app, access: admin}\n"),
        ["a.yaml:7:14 DuplicateMember: roles names \"app\" twice | remove one of the two"]
    );
    assert_eq!(
        of_spec("  dependsOn: [Cache/a, Cache/a]\n"),
        ["a.yaml:5:24 DuplicateMember: dependsOn names \"Cache/a\" twice | remove one of the two"]
    );
    assert_eq!(
        of_spec("  settings:\n    timezone: UTC\n    TimeZone: CET\n"),
        [
            "a.yaml:7:15 DuplicateMember: settings names \"timezone\" and \"TimeZone\", which are one to the server | remove one of the two"
        ]
    );
}

#[test]
fn depends_on_names_a_kind_and_a_name() {
    assert_eq!(
        of_spec("  dependsOn: [sessions]\n"),
        ["a.yaml:5:15 InvalidValue: dependsOn cannot read \"sessions\" | write Kind/name, such as Cache/sessions"]
    );
    assert_eq!(
        of_spec("  dependsOn: [Cahce/sessions]\n"),
        ["a.yaml:5:15 UnknownKind: dependsOn names the unknown kind \"Cahce\" | did you mean \"Cache\"?"]
    );
}

#[test]
fn a_page_size_is_a_power_of_two() {
    assert_eq!(
        of_spec("  pageSize: 5000\n"),
        [
            "a.yaml:5:13 InvalidValue: pageSize must be a power of two, not 5000 | SQLite knows 512, 1024, 2048, 4096, 8192, 16384, 32768 and 65536"
        ]
    );
}

#[test]
fn credentials_are_references() {
    let text = "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {name: a}\nspec:\n  type: postgres\n  url: postgres://a@b/c\n  credentials: hunter2\n";
    let lines = told(&check("a.yaml", text).diagnostics);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("a.yaml:7:16 InvalidValue: credentials must be {env: ...} or {file: ...}, not "),
        "{lines:?}"
    );
    assert!(!lines[0].contains("hunter2"), "a secret in the wrong place is not repeated: {lines:?}");
}

#[test]
fn quotas_are_of_kinds() {
    let text = "apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {name: a}\nspec:\n  repository: {url: /x}\n  environments: [staging]\n  providers: []\n  quotas: {Databases: 5}\n";
    assert_told(
        &check("a.yaml", text).diagnostics,
        &["a.yaml:8:12 UnknownField: quotas has no field \"Databases\" | did you mean \"Database\"?"],
    );
}

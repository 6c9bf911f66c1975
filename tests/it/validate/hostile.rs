//! Nothing that people write makes it panic, recurse without end or take long.

use std::collections::BTreeMap;
use std::sync::Arc;

use plumb::manifest;
use plumb::model::PlatformId;
use plumb::validate::{CheckedFile, assemble_platform};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{BUILTIN, Shop, VALIDATOR, check, told};

/// Words that mean something, and some that do not, so that documents get past the first checks.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "apiVersion",
            "kind",
            "metadata",
            "spec",
            "name",
            "environment",
            "labels",
            "annotations",
            "plumb.dev/v1",
            "Database",
            "Cache",
            "Tenant",
            "Provider",
            "Platform",
            "staging",
            "production",
            "provider",
            "pg-main",
            "files",
            "roles",
            "access",
            "read",
            "owner",
            "extensions",
            "dependsOn",
            "Database/orders",
            "connectionLimit",
            "settings",
            "repository",
            "url",
            "environments",
            "providers",
            "quotas",
            "serves",
            "windows",
            "schedule",
            "* * * * *",
            "postgres://u:p@h/d",
            "ext::sh",
            "plumb.dev/drift",
            "plumb.dev/drift-ignore",
            "/spec/x",
            "",
            "$serde_json::private::Number",
            "~1",
            "/",
            "orders",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,8}",
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((word(), inner), 0..5).prop_map(|fields| fields.into_iter().collect::<Value>()),
        ]
    })
}

/// A document whose outline is right and whose inside is anything.
fn document() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec!["Database", "Cache", "Tenant", "Provider", "Platform"]);
    prop_oneof![
        1 => json(),
        3 => (kind, word(), json(), json(), json()).prop_map(|(kind, name, labels, annotations, spec)| json!({
            "apiVersion": "plumb.dev/v1",
            "kind": kind,
            "metadata": {"name": name, "environment": "staging", "labels": labels, "annotations": annotations},
            "spec": spec,
        })),
        3 => (word(), word(), prop::collection::vec(word(), 0..3), prop::option::of(-3_i64..10)).prop_map(
            |(name, role, depends_on, limit)| json!({
                "apiVersion": "plumb.dev/v1",
                "kind": "Database",
                "metadata": {"name": name, "environment": "staging"},
                "spec": {"roles": [{"name": role, "access": "read"}], "dependsOn": depends_on, "connectionLimit": limit},
            })
        ),
    ]
}

fn written(documents: &[Value]) -> Arc<CheckedFile> {
    let text: Vec<String> = documents.iter().map(Value::to_string).collect();
    check("a.yaml", &text.join("\n---\n"))
}

proptest! {
    #[test]
    fn any_documents_are_answered(documents in prop::collection::vec(document(), 0..6)) {
        let files = [written(&documents)];
        let mut shop = Shop::new();
        let state = shop.assemble(&files, &BUILTIN);
        // What has an error is not used; what is used has none but a policy's.
        for (key, resource) in &state.resources {
            prop_assert_eq!(&resource.key, key);
            prop_assert!(!state.rejected.contains_key(key));
            for dependency in &resource.depends_on {
                prop_assert!(state.resources.contains_key(dependency) || state.rejected.contains_key(dependency));
            }
        }
        for finding in &state.diagnostics {
            prop_assert!(!finding.message.is_empty());
        }
        let again = shop.assemble(&files, &BUILTIN);
        prop_assert_eq!(told(&state.diagnostics), told(&again.diagnostics));
        prop_assert_eq!(&state.resources, &again.resources);

        let (platform, diagnostics) =
            assemble_platform(&files, &BTreeMap::new(), None, PlatformId("x".to_owned()));
        prop_assert_eq!(platform.is_none(), diagnostics.iter().any(|finding| finding.is_error()));
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let file = Arc::new(VALIDATOR.check_file(&manifest::parse("a.yaml", text.as_bytes())));
        let state = Shop::new().assemble(&[file], &BUILTIN);
        prop_assert!(state.resources.is_empty());
    }
}

#[test]
fn a_thousand_unknown_fields_are_not_a_thousand_findings() {
    let fields: Vec<String> = (0..1000).map(|at| format!("  f{at}: {at}\n")).collect();
    let text = format!("apiVersion: plumb.dev/v1\nkind: Cache\nmetadata: {{name: a}}\nspec:\n{}", fields.concat());
    let lines = told(&check("a.yaml", &text).diagnostics);
    assert_eq!(lines.len(), 50);
    assert!(lines[49].contains("(and 950 more findings in this document)"), "{}", lines[49]);
}

#[test]
fn long_words_are_cut() {
    let long = "x".repeat(100_000);
    let text = format!(
        "apiVersion: plumb.dev/v1\nkind: {long}\nmetadata: {{name: {long}, {long}: {long}, annotations: {{plumb.dev/{long}: {long}}}}}\nspec: {{{long}: {long}}}\n"
    );
    for text in [&text, &text.replacen(&long, "Database", 1)] {
        for line in told(&check("a.yaml", text).diagnostics) {
            assert!(line.len() < 1000, "{}", line.len());
        }
    }
}

#[test]
fn a_long_chain_is_no_cycle() {
    let documents: Vec<String> = (0..2_000)
        .map(|at| {
            let depends_on = if at == 0 { String::new() } else { format!("dependsOn: [Cache/c{}]", at - 1) };
            format!("apiVersion: plumb.dev/v1\nkind: Cache\nmetadata: {{name: c{at}, environment: staging, labels: {{owner: x}}}}\nspec: {{{depends_on}}}\n")
        })
        .collect();
    let files: Vec<_> = documents.iter().enumerate().map(|(at, text)| check(&format!("{at}.yaml"), text)).collect();
    let state = Shop::new().assemble(&files, &BUILTIN);
    assert_eq!(told(&state.diagnostics), Vec::<String>::new());
    assert_eq!(state.resources.len(), 2_000);
}

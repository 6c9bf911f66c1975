use serde_json::{Value, json};

use super::*;
use crate::model::{Kind, ProviderType, ResourceKey};

fn own(text: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("policies/own.rego".to_owned(), text.to_owned())])
}

fn ask(modules: &BTreeMap<String, String>, environment: &str, resource: &Value) -> Vec<PolicyFinding> {
    let key = ResourceKey::new("shop", environment, Kind::Database, "orders");
    let tenant = tenant_input("shop", None);
    let input = PolicyInput {
        key: &key,
        resource,
        previous: None,
        tenant: &tenant,
        provider: Some(("main", ProviderType::Postgres)),
    };
    PolicySet::compile(modules).unwrap().evaluate(&input)
}

fn orders() -> Value {
    json!({"kind": "Database", "metadata": {"name": "orders", "labels": {"owner": "shop"}}, "spec": {"connectionLimit": 5}})
}

fn own_findings(text: &str) -> Vec<(Effect, String)> {
    ask(&own(text), "staging", &orders()).into_iter().map(|finding| (finding.effect, finding.message)).collect()
}

fn refusal(text: &str) -> String {
    PolicySet::compile(&own(text))
        .unwrap_err()
        .into_iter()
        .map(|finding| finding.message)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_tests_of_the_built_in_policies_pass() {
    let tests = PolicySet::test(&BTreeMap::new()).unwrap();
    assert!(tests.len() >= 15, "{tests:?}");
    for test in tests {
        assert_eq!(test.outcome, TestOutcome::Passed, "{test:?}");
    }
}

#[test]
fn a_good_resource_hears_nothing() {
    assert_eq!(ask(&BTreeMap::new(), "production", &orders()), []);
}

#[test]
fn built_in_policies_deny_and_warn_with_the_field() {
    let mut resource = orders();
    resource["metadata"] = json!({"name": "orders", "annotations": {"plumb.dev/deletion": "delete"}});
    let findings = ask(&BTreeMap::new(), "production", &resource);
    let said: Vec<_> =
        findings.iter().map(|finding| (finding.effect, finding.policy.as_str(), finding.path.as_deref())).collect();
    assert_eq!(
        said,
        [
            (Effect::Deny, "plumb.deletion", Some("/metadata/annotations/plumb.dev~1deletion")),
            (Effect::Warn, "plumb.owner", Some("/metadata")),
        ]
    );
}

#[test]
fn the_platform_frees_a_key_from_a_built_in_policy() {
    let mut resource = orders();
    resource["metadata"]["annotations"] = json!({"plumb.dev/deletion": "delete"});
    let exception = own("package plumb.exceptions\ndeletion contains \"shop/production/Database/orders\"\n");
    assert_eq!(ask(&exception, "production", &resource), []);
}

#[test]
fn own_policies_are_asked_beside_the_built_in_ones() {
    let text = r#"package plumb.own
deny contains {"msg": msg, "path": "/spec"} if {
	input.environment == "staging"
	input.tenant.name == "shop"
	input.provider.type == "postgres"
	input.plan.action == "create"
	input.previous == null
	msg := "no"
}
warn contains "short form"
"#;
    assert_eq!(own_findings(text), [(Effect::Deny, "no".to_owned()), (Effect::Warn, "short form".to_owned())]);
}

#[test]
fn the_plan_names_what_changed() {
    let text = r#"package plumb.own
warn contains sprintf("%s %v", [input.plan.action, input.plan.changes])
"#;
    let key = ResourceKey::new("shop", "staging", Kind::Database, "orders");
    let tenant = tenant_input("shop", None);
    let set = PolicySet::compile(&own(text)).unwrap();
    let (resource, mut previous) = (orders(), orders());
    previous["spec"] = json!({"connectionLimit": 4, "extensions": ["pgcrypto"]});
    let input =
        PolicyInput { key: &key, resource: &resource, previous: Some(&previous), tenant: &tenant, provider: None };
    assert_eq!(set.evaluate(&input)[0].message, r#"update ["/spec/connectionLimit", "/spec/extensions/pgcrypto"]"#);
}

#[test]
fn a_rule_that_thinks_for_too_long_denies() {
    let text = r#"package plumb.own
deny contains "never" if {
	some a in numbers.range(1, 2000)
	some b in numbers.range(1, 2000)
	some c in numbers.range(1, 2000)
	a * b * c == -1
}
"#;
    let findings = ask(&own(text), "staging", &orders());
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!((findings[0].effect, findings[0].basis), (Effect::Deny, Basis::Failure));
    assert_eq!(findings[0].message, "the policy ran out of time");
}

#[test]
fn a_rule_that_runs_out_of_time_again_and_again_is_given_up_on_all_threads() {
    let text = r#"package plumb.own
deny contains "never" if {
	some a in numbers.range(1, 5000)
	some b in numbers.range(1, 5000)
	a * b == -1
}
"#;
    let set = PolicySet::compile(&own(text)).unwrap();
    let (key, tenant, resource) =
        (ResourceKey::new("shop", "staging", Kind::Database, "orders"), tenant_input("shop", None), orders());
    let input = PolicyInput { key: &key, resource: &resource, previous: None, tenant: &tenant, provider: None };
    let timeouts = set.timeouts();
    for _ in 0..TIMEOUTS_BEFORE_GIVING_UP {
        assert_eq!(set.evaluator(&timeouts).evaluate(&input)[0].message, "the policy ran out of time");
    }
    let last = set.evaluator(&timeouts).evaluate(&input);
    assert_eq!(last[0].message, "the policy ran out of time several times and is not asked again");
    assert_eq!(last[0].effect, Effect::Deny);
}

#[test]
fn a_rule_that_fails_denies_and_others_are_still_asked() {
    let text = r#"package plumb.own
deny contains "x" if to_number("many") > 1
warn contains "still here"
"#;
    let findings = ask(&own(text), "staging", &orders());
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert_eq!((findings[0].effect, findings[0].basis), (Effect::Deny, Basis::Failure));
    assert_eq!(findings[1].message, "still here");
}

#[test]
fn an_answer_of_the_wrong_shape_denies() {
    for text in [
        "package plumb.own\ndeny if 1 == 1\n",
        "package plumb.own\nwarn contains {\"message\": \"x\"}\n",
        "package plumb.own\ndeny := \"x\"\n",
        "package plumb.own\nwarn := [\"x\"]\n",
    ] {
        let findings = own_findings(text);
        assert_eq!(findings.len(), 1, "{text}");
        assert_eq!(findings[0].0, Effect::Deny, "{text}");
        assert!(findings[0].1.ends_with("does not yield a set of {\"msg\", \"path\"}"), "{findings:?}");
    }
    assert_eq!(own_findings("package plumb.own\ndeny := false\nwarn := []\n"), []);
}

#[test]
fn a_call_that_would_fill_the_memory_denies() {
    for expression in [
        "numbers.range(1, 100000000000)",
        "numbers.range(0, -9223372036854775807)",
        "sprintf(\"%99999999d\", [1])",
        "concat(\",\", [l | some _ in numbers.range(1, 9000); l := sprintf(\"%900d\", [1])])",
        "replace(concat(\"\", [\"a\" | some _ in numbers.range(1, 9000)]), \"a\", sprintf(\"%900d\", [1]))",
    ] {
        let findings =
            own_findings(&format!("package plumb.own\ndeny contains \"x\" if {{\n\tcount({expression}) < 0\n}}\n"));
        assert_eq!(findings.len(), 1, "{expression}: {findings:?}");
        assert_eq!(findings[0].0, Effect::Deny);
        assert!(findings[0].1.starts_with("the policy "), "{expression}: {findings:?}");
    }
}

#[test]
fn policies_reach_nothing_outside() {
    for call in ["http.send({})", "time.now_ns()", "rand.intn(\"a\", 5)", "opa.runtime()", "print(1)"] {
        let message = refusal(&format!("package plumb.own\ndeny contains \"x\" if {call}\n"));
        assert!(message.contains("there is no function"), "{call}: {message}");
    }
}

#[test]
fn a_misspelt_function_gets_a_suggestion() {
    let diagnostics =
        PolicySet::compile(&own("package plumb.own\ndeny contains \"x\" if startwith(\"a\", \"b\")\n")).unwrap_err();
    assert_eq!(diagnostics[0].message, "this policy cannot be used: there is no function \"startwith\" here");
    assert_eq!(diagnostics[0].help.as_deref(), Some("did you mean \"startswith\"?"));
    let span = diagnostics[0].span.unwrap();
    assert_eq!((span.line, span.column), (2, 22));
}

#[test]
fn functions_that_call_themselves_are_refused() {
    let message = refusal("package plumb.own\nf(x) := g(x)\ng(x) := f(x + 1)\ndeny contains \"x\" if f(1) == 2\n");
    assert!(message.contains("calls itself"), "{message}");
    let through_data =
        refusal("package plumb.own\nf(x) := data.plumb.own.f(x + 1)\ndeny contains \"x\" if f(1) == 2\n");
    assert!(through_data.contains("calls itself"), "{through_data}");
}

#[test]
fn rules_that_need_themselves_deny() {
    let findings = own_findings("package plumb.own\nf(x) := r + x\nr := f(1)\ndeny contains \"x\" if r == 2\n");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].0, Effect::Deny);
}

#[test]
fn a_module_that_cannot_be_parsed_is_shown_at_its_line() {
    let diagnostics = PolicySet::compile(&own("package plumb.own\n\ndeny contains {\n")).unwrap_err();
    assert_eq!(diagnostics[0].file, "policies/own.rego");
    assert!(diagnostics[0].span.is_some_and(|span| span.line >= 3), "{diagnostics:?}");
}

#[test]
fn a_module_outside_of_plumb_is_refused() {
    assert!(refusal("package kubernetes.admission\ndeny contains \"x\"\n").contains("is not below plumb"));
}

#[test]
fn with_is_for_tests_only() {
    assert!(
        refusal("package plumb.own\ndeny contains \"x\" if input.a == 1 with input as {}\n")
            .contains("`with` belongs in tests")
    );
}

#[test]
fn failing_and_broken_tests_say_so() {
    let modules = BTreeMap::from([
        ("policies/own.rego".to_owned(), "package plumb.own\nn := 1\n".to_owned()),
        (
            "policies/own_test.rego".to_owned(),
            "package plumb.own_test\nimport data.plumb.own\ntest_good if own.n == 1\ntest_bad if own.n == 2\ntest_broken if to_number(\"x\") == 1\n"
                .to_owned(),
        ),
    ]);
    let tests = PolicySet::test(&modules).unwrap();
    let outcome = |name: &str| tests.iter().find(|test| test.name == name).unwrap().outcome;
    assert_eq!(outcome("test_good"), TestOutcome::Passed);
    assert_eq!(outcome("test_bad"), TestOutcome::Failed);
    assert_eq!(outcome("test_broken"), TestOutcome::Error);
}

#[test]
fn the_id_follows_the_modules() {
    let id = |modules: &BTreeMap<String, String>| PolicySet::compile(modules).unwrap().id().to_owned();
    assert_eq!(id(&BTreeMap::new()), PolicySet::builtin().id());
    assert_ne!(id(&own("package plumb.own\n")), id(&own("package plumb.own\n\n")));
}

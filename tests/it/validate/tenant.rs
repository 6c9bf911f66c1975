//! What is said of a tenant's documents together.

use std::collections::BTreeMap;
use std::sync::Arc;

use plumb::model::{Deletion, ProviderType};
use plumb::validate::codes;
use plumb::validate::{PolicySet, TenantCache, TenantContext, assemble_tenant};
use serde_json::json;

use super::{BUILTIN, Shop, assert_told, check, key, told};

fn document(kind: &str, name: &str, environment: &str, spec: &str) -> String {
    format!(
        "apiVersion: plumb.dev/v1\nkind: {kind}\nmetadata:\n  name: {name}\n  environment: {environment}\n  labels: {{owner: shop}}\nspec: {{{spec}}}\n"
    )
}

fn staging(kind: &str, name: &str, spec: &str) -> String {
    document(kind, name, "staging", spec)
}

#[test]
fn resources_have_keys_providers_and_fields() {
    let orders = "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: orders\n  labels: {owner: shop}\n  annotations: {plumb.dev/deletion: retain}\nspec:\n  connectionLimit: 20\n  roles: [{name: app, access: read}]\n  dependsOn: [Cache/sessions]\n";
    let state =
        Shop::of(&[("environments/staging/orders.yaml", orders), ("cache.yaml", &staging("Cache", "sessions", ""))]);
    assert_told(&state.diagnostics, &[]);
    let orders = &state.resources[&key("shop/staging/Database/orders")];
    assert_eq!(orders.provider, "pg-main");
    assert_eq!(orders.fields.get("/spec/roles/app/access"), Some(&json!("read")));
    assert_eq!(orders.depends_on, [key("shop/staging/Cache/sessions")]);
    assert_eq!(orders.annotations.deletion, Some(Deletion::Retain));
    assert_eq!((orders.origin.file.as_str(), orders.origin.document), ("environments/staging/orders.yaml", 0));
    assert_eq!(state.resources[&key("shop/staging/Cache/sessions")].provider, "redis-main");
    assert!(state.rejected.is_empty() && state.unreadable.is_empty() && state.denied.is_empty());
}

#[test]
fn the_path_and_the_metadata_agree_on_the_environment() {
    let state = Shop::of(&[("environments/production/a.yaml", &staging("Cache", "a", ""))]);
    assert_told(
        &state.diagnostics,
        &[
            "environments/production/a.yaml:5:16 EnvironmentMismatch: the path says environment \"production\", metadata.environment says \"staging\" | move the file, or remove metadata.environment",
        ],
    );
    assert_eq!(state.unreadable, ["document 1 of environments/production/a.yaml: which resource it is cannot be told"]);
    assert!(state.resources.is_empty());
}

#[test]
fn an_environment_may_be_left_out_where_there_is_one() {
    let text = "apiVersion: plumb.dev/v1\nkind: Cache\nmetadata:\n  name: a\n  labels: {owner: shop}\nspec: {}\n";
    let state = Shop::of(&[("a.yaml", text)]);
    assert_told(
        &state.diagnostics,
        &[
            "a.yaml:4:3 EnvironmentMissing: which environment this belongs to is not said | set metadata.environment to one of staging, production, or put the file below environments/<environment>/",
        ],
    );
    assert_eq!(state.unreadable.len(), 1);

    let mut shop = Shop::new();
    shop.platform.tenants.get_mut("shop").unwrap().environments = vec!["production".to_owned()];
    let state = shop.assemble(&[check("a.yaml", text)], &BUILTIN);
    assert_told(&state.diagnostics, &[]);
    assert!(state.resources.contains_key(&key("shop/production/Cache/a")));
}

#[test]
fn an_unknown_environment_gets_a_suggestion() {
    let state = Shop::of(&[("a.yaml", &document("Cache", "a", "stagging", ""))]);
    assert_told(
        &state.diagnostics,
        &[
            "a.yaml:5:16 UnknownEnvironment: the tenant shop has no environment \"stagging\" | did you mean \"staging\"?",
        ],
    );
    assert!(state.rejected.contains_key(&key("shop/stagging/Cache/a")));
    assert_eq!(state.unreadable, ["document 1 of a.yaml: its environment does not exist"]);
}

#[test]
fn under_a_misspelt_name_it_may_be_any_resource() {
    let state = Shop::of(&[("a.yaml", &staging("Cache", "A", ""))]);
    assert!(told(&state.diagnostics)[0].contains("metadata.name must be lower-case"));
    assert_eq!(state.unreadable, ["document 1 of a.yaml: which resource it is cannot be told"]);
    assert!(state.rejected.is_empty());
}

#[test]
fn a_resource_that_is_described_twice_is_used_in_neither_way() {
    let state = Shop::of(&[("a.yaml", &staging("Cache", "a", "")), ("b.yaml", &staging("Cache", "a", "keyPrefix: x"))]);
    assert_told(
        &state.diagnostics,
        &[
            "b.yaml:4:9 DuplicateResource: shop/staging/Cache/a is described twice | remove one of the two, or give it another name (it is described here too a.yaml:4:9)",
        ],
    );
    assert!(state.resources.is_empty());
    assert_eq!(state.rejected[&key("shop/staging/Cache/a")], "shop/staging/Cache/a is described twice");
}

#[test]
fn two_keys_with_one_name_on_a_server_are_told() {
    let mut shop = Shop::new();
    shop.platform.tenants.get_mut("shop").unwrap().environments.push("staging-eu".to_owned());
    let files = [
        check("a.yaml", &document("Database", "eu-orders", "staging", "provider: pg-main")),
        check("b.yaml", &document("Database", "orders", "staging-eu", "provider: pg-main")),
    ];
    let state = shop.assemble(&files, &BUILTIN);
    let lines = told(&state.diagnostics);
    assert_eq!(
        lines[0],
        "b.yaml:4:9 NameCollision: shop/staging/Database/eu-orders and shop/staging-eu/Database/orders both need the database \"shop_staging_eu_orders\" on the server | names are {tenant}_{environment}_{name} with dashes as underscores; rename one of them (the other one is here a.yaml:4:9)"
    );
    assert!(state.resources.contains_key(&key("shop/staging/Database/eu-orders")));
    assert!(state.rejected.contains_key(&key("shop/staging-eu/Database/orders")));

    // The one that was there first keeps the name.
    shop.previous.insert(key("shop/staging-eu/Database/orders"), (&json!({})).into());
    let state = shop.assemble(&files, &BUILTIN);
    assert!(state.resources.contains_key(&key("shop/staging-eu/Database/orders")));
    assert!(state.rejected.contains_key(&key("shop/staging/Database/eu-orders")));
}

#[test]
fn roles_share_their_names_across_databases() {
    let state = Shop::of(&[
        ("a.yaml", &staging("Database", "orders", "roles: [{name: x-app, access: read}]")),
        ("b.yaml", &staging("Database", "orders-x", "roles: [{name: app, access: read}]")),
        ("c.yaml", &staging("Database", "c", "roles: [{name: a-b, access: read}, {name: a_b, access: read}]")),
    ]);
    assert_told(
        &state.diagnostics,
        &[
            "b.yaml:7:8 NameCollision: shop/staging/Database/orders and shop/staging/Database/orders-x both need the role \"shop_staging_orders_x_app\" on the server | names are {tenant}_{environment}_{name} with dashes as underscores; rename one of them (the other one is here a.yaml:7:8)",
            "c.yaml:7:8 NameCollision: two roles of shop/staging/Database/c are called \"shop_staging_c_a_b\" on the server | dashes become underscores there; rename one of them",
        ]
        .map(|line| line.replace(":7:8", ":7:15"))
        .each_ref()
        .map(String::as_str),
    );
}

#[test]
fn what_is_in_use_is_not_spelled_anew() {
    let mut shop = Shop::new();
    let orders = key("shop/staging/Database/orders");
    let before = json!({"spec": {
        "roles": [{"name": "web-app", "access": "readwrite"}, {"name": "ro", "access": "read"}],
        "settings": {"TimeZone": "UTC"},
    }});
    shop.previous.insert(orders.clone(), (&before).into());
    let said = |roles: &str| [check("a.yaml", &staging("Database", "orders", roles))];
    let state = shop.assemble(&said("roles: [{name: web_app, access: read}]"), &BUILTIN);
    assert_told(
        &state.diagnostics,
        &[
            "a.yaml:7:15 NameCollision: \"web_app\" is another spelling of \"web-app\", which was applied; the server has one for both | keep calling it \"web-app\"; or remove it, wait until that is applied, and add \"web_app\" then",
        ],
    );
    assert!(state.rejected.contains_key(&orders));
    let state = shop.assemble(&said("settings: {timezone: UTC}"), &BUILTIN);
    assert!(told(&state.diagnostics)[0].contains("\"timezone\" is another spelling of \"TimeZone\""));
    for roles in ["roles: [{name: web-app, access: read}]", "roles: [{name: app, access: read}]", "connectionLimit: 5"]
    {
        assert!(shop.assemble(&said(roles), &BUILTIN).rejected.is_empty(), "{roles}");
    }
}

#[test]
fn a_missing_provider_gets_a_suggestion() {
    let state = Shop::of(&[("a.yaml", &staging("Database", "a", "provider: pg-mian"))]);
    assert_told(
        &state.diagnostics,
        &["a.yaml:7:18 ProviderMissing: there is no Provider \"pg-mian\" | did you mean \"pg-main\"?"],
    );
}

#[test]
fn a_provider_of_others_is_refused() {
    let state = Shop::of(&[("a.yaml", &staging("Database", "a", "provider: pg-other"))]);
    assert_told(
        &state.diagnostics,
        &[
            "a.yaml:7:18 ProviderNotAllowed: the tenant shop may not use the Provider \"pg-other\" | it may use pg-main, files and redis-main; the platform can allow more in the Tenant's spec.providers",
        ],
    );
    assert!(state.rejected.contains_key(&key("shop/staging/Database/a")));
}

#[test]
fn without_one_default_a_provider_must_be_named() {
    let production = document("Database", "a", "production", "connectionLimit: 5");
    let state = Shop::of(&[("a.yaml", &production)]);
    assert_told(
        &state.diagnostics,
        &[
            "a.yaml:7:7 NoDefaultProvider: spec names no provider, and none serves Database in production by default | set spec.provider; this tenant may use pg-main, files and redis-main",
        ],
    );
    let mut shop = Shop::new();
    shop.platform.tenants.get_mut("shop").unwrap().providers.push("pg-other".to_owned());
    let serves = shop.platform.providers["pg-main"].serves.clone();
    shop.platform.providers.get_mut("pg-other").unwrap().serves = serves;
    let state = shop.assemble(&[check("a.yaml", &staging("Database", "a", ""))], &BUILTIN);
    assert!(
        told(&state.diagnostics)[0].contains(
            "NoDefaultProvider: spec names no provider, and several serve Database in staging: pg-main and pg-other"
        ),
        "{:?}",
        state.diagnostics
    );
}

#[test]
fn what_a_provider_cannot_do_is_told_at_the_field() {
    let state =
        Shop::of(&[("a.yaml", &staging("Database", "a", "provider: files, connectionLimit: 5, journalMode: wal"))]);
    assert_told(
        &state.diagnostics,
        &[
            "a.yaml:7:42 UnsupportedByProvider: the Provider \"files\" is of type sqlite, which knows no connectionLimit | remove it; sqlite knows journalMode, pageSize, userVersion and foreignKeys",
        ],
    );
    let state = Shop::of(&[("a.yaml", &staging("Cache", "a", "provider: pg-main"))]);
    assert_told(
        &state.diagnostics,
        &[
            "a.yaml:7:18 UnsupportedByProvider: the Provider \"pg-main\" is of type postgres, which serves no Cache | Cache can live on redis-main",
        ],
    );
}

#[test]
fn a_missing_dependency_gets_a_suggestion() {
    let state = Shop::of(&[
        ("a.yaml", &staging("Database", "a", "dependsOn: [Cache/sesions]")),
        ("b.yaml", &staging("Cache", "sessions", "")),
    ]);
    assert_told(
        &state.diagnostics,
        &[
            "a.yaml:7:20 DependencyMissing: dependsOn names Cache/sesions, which is not there | did you mean \"Cache/sessions\"?",
        ],
    );
    assert!(state.rejected.contains_key(&key("shop/staging/Database/a")));
}

#[test]
fn a_dependency_that_is_invalid_is_there() {
    let state = Shop::of(&[
        ("a.yaml", &staging("Database", "a", "dependsOn: [Cache/b]")),
        ("b.yaml", &staging("Cache", "b", "keyPrefix: 5")),
    ]);
    assert!(state.resources.contains_key(&key("shop/staging/Database/a")));
    assert!(state.rejected.contains_key(&key("shop/staging/Cache/b")));
}

#[test]
fn a_key_prefix_stays_with_its_tenant() {
    let state = Shop::of(&[
        ("a.yaml", &staging("Cache", "a", "keyPrefix: \"other:\"")),
        ("b.yaml", &staging("Cache", "b", "keyPrefix: \"shop:sessions:\"")),
        ("c.yaml", &staging("Cache", "c", "")),
    ]);
    let finding = state.diagnostics.iter().find(|finding| finding.is_error()).unwrap();
    assert_eq!(finding.code, codes::FOREIGN_KEY_PREFIX);
    assert!(state.rejected.contains_key(&key("shop/staging/Cache/a")));
    let prefix = |name: &str| state.resources[&key(name)].fields.get("/spec/keyPrefix").cloned();
    assert_eq!(prefix("shop/staging/Cache/b"), Some("shop:sessions:".into()));
    assert_eq!(prefix("shop/staging/Cache/c"), Some("shop_staging_c:".into()), "managed though git does not set it");
}

#[test]
fn a_cycle_is_shown_whole() {
    let state = Shop::of(&[
        ("a.yaml", &staging("Database", "a", "dependsOn: [Database/b]")),
        ("b.yaml", &staging("Database", "b", "dependsOn: [Cache/c]")),
        ("c.yaml", &staging("Cache", "c", "dependsOn: [Database/a]")),
        ("d.yaml", &staging("Cache", "d", "dependsOn: [Database/a]")),
        ("e.yaml", &staging("Cache", "e", "dependsOn: [Cache/e]")),
    ]);
    assert_told(
        &state.diagnostics,
        &[
            "a.yaml:7:19 DependencyCycle: these resources wait for each other: Database/a -> Database/b -> Cache/c -> Database/a | remove one of the dependencies (Database/b depends on the next one here b.yaml:7:19) (Cache/c depends on the next one here c.yaml:7:19)",
            "e.yaml:7:19 DependencyCycle: these resources wait for each other: Cache/e -> Cache/e | remove one of the dependencies",
        ],
    );
    assert_eq!(state.rejected.len(), 4);
    assert!(state.resources.contains_key(&key("shop/staging/Cache/d")), "what waits for the cycle stays");
}

#[test]
fn kinds_of_the_platform_do_not_belong_here() {
    let state = Shop::of(&[(
        "a.yaml",
        "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {name: a}\nspec: {type: sqlite, url: \"sqlite:x\"}\n",
    )]);
    assert_told(
        &state.diagnostics,
        &[
            "a.yaml:2:7 WrongRepository: a Provider belongs in the platform repository, not in a tenant's | move it there, or name the file in .plumbignore",
        ],
    );
    assert!(state.unreadable.is_empty());
}

#[test]
fn over_the_quota_the_new_keys_are_named_and_nothing_is_rejected() {
    let names = ["a", "b", "c", "d", "e"];
    let files: Vec<_> =
        names.iter().map(|name| check(&format!("{name}.yaml"), &staging("Database", name, ""))).collect();
    let mut shop = Shop::new();
    for name in ["c", "e"] {
        shop.previous.insert(key(&format!("shop/staging/Database/{name}")), (&json!({})).into());
    }
    let state = shop.assemble(&files, &BUILTIN);
    assert_told(
        &state.diagnostics,
        &[
            "b.yaml:4:9 QuotaExceeded: the tenant shop has 5 resources of kind Database; its quota is 3; over it are shop/staging/Database/b and shop/staging/Database/d | remove some, or ask the platform to raise spec.quotas of the Tenant",
        ],
    );
    assert_eq!(state.resources.len(), 5);

    for name in names {
        shop.previous.insert(key(&format!("shop/staging/Database/{name}")), (&json!({})).into());
    }
    let state = shop.assemble(&files, &BUILTIN);
    assert_told(
        &state.diagnostics,
        &[
            "e.yaml:4:9 warning QuotaExceeded: the tenant shop has 5 resources of kind Database; its quota is 3 | remove some, or ask the platform to raise spec.quotas of the Tenant",
        ],
    );
}

#[test]
fn policies_deny_and_warn_at_the_field() {
    let text = "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: orders\n  environment: production\n  annotations:\n    plumb.dev/deletion: delete\nspec:\n  provider: pg-main\n  connectionLimit: -1\n";
    let state = Shop::of(&[("a.yaml", text)]);
    let lines = told(&state.diagnostics);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines[0].starts_with("a.yaml:4:3 warning PolicyWarning: plumb.owner: the label owner is missing"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("a.yaml:7:25 PolicyDenied: plumb.deletion: shop/production/Database/orders holds data"),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with("a.yaml:10:20 PolicyDenied: plumb.connections: connectionLimit is unlimited"),
        "{lines:?}"
    );
    let orders = key("shop/production/Database/orders");
    assert!(state.resources.contains_key(&orders), "denied is not rejected: the gate holds it");
    assert!(
        state.denied[&orders].contains("plumb.connections: ") && state.denied[&orders].contains("plumb.deletion: ")
    );
}

#[test]
fn policies_name_fields_in_any_of_three_ways() {
    let policies = r#"package plumb.own
warn contains {"msg": "pointer", "path": "/spec/roles/0/access"}
warn contains {"msg": "name", "path": "/spec/roles/ro/access"}
warn contains {"msg": "dots", "path": "spec.extensions.citext"}
warn contains {"msg": "nowhere", "path": "/spec/nowhere/at/all"}
"#;
    let policies = PolicySet::compile(&BTreeMap::from([("own.rego".to_owned(), policies.to_owned())])).unwrap();
    let text = staging(
        "Database",
        "a",
        "\n  roles: [{name: app, access: read},\n    {name: ro, access: read}],\n  extensions: [\n    citext]\n",
    );
    let state = Shop::new().assemble(&[check("a.yaml", &text)], &policies);
    let places: Vec<(String, usize)> = state
        .diagnostics
        .iter()
        .map(|finding| (finding.message.replace("plumb.own: ", ""), finding.span.unwrap().line))
        .collect();
    let expected = [("nowhere", 7), ("pointer", 8), ("name", 9), ("dots", 11)];
    assert_eq!(places, expected.map(|(message, line)| (message.to_owned(), line)));
}

#[test]
fn unreadable_files_are_told_and_the_others_go_on() {
    let state = Shop::of(&[("a.yaml", "a: [\n"), ("b.yaml", &staging("Cache", "b", "")), ("c.yaml", "kind: Nope\n")]);
    assert!(state.resources.contains_key(&key("shop/staging/Cache/b")));
    assert_eq!(
        state.unreadable,
        ["a.yaml could not be read whole", "document 1 of c.yaml: which resource it is cannot be told"]
    );
}

#[test]
fn without_a_platform_what_depends_on_one_is_left_unsaid() {
    let files = [
        check("a.yaml", &document("Database", "a", "anywhere", "provider: whoever, dependsOn: [Cache/b]")),
        check("b.yaml", "apiVersion: plumb.dev/v1\nkind: Cache\nmetadata: {name: b, labels: {owner: x}}\nspec: {}\n"),
    ];
    let previous = BTreeMap::new();
    let cx = TenantContext {
        platform: None,
        tenant: "local",
        spec: None,
        path: ".",
        commit: None,
        previous: &previous,
        policies: &BUILTIN,
    };
    let state = assemble_tenant(&cx, &files, &mut TenantCache::default());
    let lines = told(&state.diagnostics);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("DependencyMissing"), "{lines:?}");
    assert!(state.resources.contains_key(&key("local/default/Cache/b")));
}

#[test]
fn what_is_kept_changes_no_answer() {
    let mut shop = Shop::new();
    let mut orders = check("a.yaml", &document("Database", "orders", "production", "provider: pg-main"));
    let first = shop.assemble(std::slice::from_ref(&orders), &BUILTIN);
    let again = shop.assemble(std::slice::from_ref(&orders), &BUILTIN);
    let at = key("shop/production/Database/orders");
    assert_eq!(told(&first.diagnostics), told(&again.diagnostics));
    assert!(told(&first.diagnostics)[0].contains("plumb.connections"));
    assert!(Arc::ptr_eq(&first.resources[&at], &again.resources[&at]));

    // The same document further down: the same words, another line.
    orders = check("a.yaml", &format!("\n\n{}", document("Database", "orders", "production", "provider: pg-main")));
    let moved = shop.assemble(std::slice::from_ref(&orders), &BUILTIN);
    assert_eq!(moved.diagnostics[0].span.unwrap().line, first.diagnostics[0].span.unwrap().line + 2);

    // Another type of provider, another answer.
    shop.platform.providers.get_mut("pg-main").unwrap().provider_type = ProviderType::Sqlite;
    assert_told(&shop.assemble(std::slice::from_ref(&orders), &BUILTIN).diagnostics, &[]);

    // Another previous document, another policy: asked again.
    let text = "package plumb.own\nwarn contains sprintf(\"%v\", [input.plan.action])\n";
    let own = PolicySet::compile(&BTreeMap::from([("own.rego".to_owned(), text.to_owned())])).unwrap();
    assert_eq!(shop.assemble(std::slice::from_ref(&orders), &own).diagnostics[0].message, "plumb.own: create");
    shop.previous.insert(at, (&json!({"spec": {"connectionLimit": 5}})).into());
    assert_eq!(shop.assemble(std::slice::from_ref(&orders), &own).diagnostics[0].message, "plumb.own: update");
}

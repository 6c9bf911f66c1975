//! Prints how long 10,000 documents take; run with `--ignored --nocapture` in a release build. Budgets are measured by
//! benches, never by a test that may fail on a busy machine.

use std::collections::BTreeMap;
use std::time::Instant;

use plumb::manifest;
use plumb::validate::{PolicySet, Validator};
use std::sync::Arc;

use super::Shop;

#[test]
#[ignore = "prints times; asserts none"]
fn ten_thousand_documents() {
    let texts: Vec<String> = (0..10_000)
        .map(|at| {
            format!(
                "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: orders-{at}\n  environment: staging\n  labels: {{owner: team-shop}}\nspec:\n  provider: pg-main\n  connectionLimit: {}\n  extensions: [pgcrypto, citext]\n  settings: {{work_mem: 64MB}}\n  roles:\n    - {{name: app, access: readwrite}}\n    - {{name: ro, access: read}}\n",
                at % 100
            )
        })
        .collect();
    let own: BTreeMap<String, String> = (0..6)
        .map(|at| {
            let text = format!(
                "package plumb.own{at}\ndeny contains {{\"msg\": msg, \"path\": \"/spec/roles\"}} if {{\n\tinput.environment == \"staging\"\n\tsome role in input.resource.spec.roles\n\trole.access == \"admin\"\n\tmsg := sprintf(\"no admin: %s\", [role.name])\n}}\n"
            );
            (format!("own{at}.rego"), text)
        })
        .collect();
    let mut shop = Shop::new();
    shop.platform.tenants.get_mut("shop").unwrap().quotas.clear();

    let cold = Instant::now();
    let validator = Validator::new();
    let policies = PolicySet::compile(&own).unwrap();
    println!("compile        {:?}", cold.elapsed());
    let started = Instant::now();
    let parsed: Vec<_> =
        texts.iter().enumerate().map(|(at, text)| manifest::parse(&format!("{at}.yaml"), text.as_bytes())).collect();
    println!("parse          {:?}", started.elapsed());
    let started = Instant::now();
    let files: Vec<_> = parsed.iter().map(|parsed| Arc::new(validator.check_file(parsed))).collect();
    println!("check          {:?}", started.elapsed());
    let started = Instant::now();
    let state = shop.assemble(&files, &policies);
    println!("assemble       {:?}", started.elapsed());
    println!("all, cold      {:?}", cold.elapsed());
    assert_eq!(state.resources.len(), 10_000, "{:?}", state.diagnostics.first());
    for _ in 0..3 {
        let started = Instant::now();
        let state = shop.assemble(&files, &policies);
        println!("assemble again {:?}", started.elapsed());
        assert_eq!(state.resources.len(), 10_000);
    }
    shop.previous = state.resources.iter().map(|(key, resource)| (key.clone(), (&*resource.document).into())).collect();
    for _ in 0..3 {
        let started = Instant::now();
        shop.assemble(&files, &policies);
        println!("with previous  {:?}", started.elapsed());
    }
}

//! A commit that edits a few files leads to what reading all of it leads to.

use std::sync::Arc;

use plumb::model::{DesiredState, ResourceKey};
use plumb::validate::{CheckedFile, revise_tenant};
use proptest::prelude::*;
use serde_json::json;

use super::{BUILTIN, Shop, check, key, told};

fn database(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {{name: {name}, environment: staging, labels: {{owner: \
         x}}}}\nspec: {{{spec}}}\n"
    )
}

/// What each of the three files may hold; the first is what it holds at the beginning.
fn contents(file: usize) -> Vec<String> {
    let names = ["one", "two", "three"];
    let (own, other) = (names[file], names[(file + 1) % names.len()]);
    vec![
        database(own, "provider: pg-main, connectionLimit: 5"),
        database(own, "provider: pg-main, connectionLimit: 6"),
        format!("# a comment\n{}", database(own, "provider: pg-main, connectionLimit: 6")),
        database(own, "provider: pg-main, roles: [{name: app, access: read}]"),
        database(own, "provider: pg-main, roles: [{name: app, access: readwrite}]"),
        database(own, &format!("provider: pg-main, dependsOn: [Database/{other}]")),
        database(own, "provider: files, userVersion: 3"),
        database(own, "provider: files, connectionLimit: 3"),
        database(other, "provider: pg-main"),
        format!("{}---\n{}", database(own, "provider: pg-main"), database("four", "provider: pg-main")),
        database(own, "provider: pg-main, connectionLimit: many"),
        database("system", "provider: pg-main"),
        "a: [".to_owned(),
        String::new(),
    ]
}

fn file(at: usize, variant: usize) -> Arc<CheckedFile> {
    check(&format!("{at}.yaml"), &contents(at)[variant])
}

fn assert_same(left: &DesiredState, right: &DesiredState) {
    assert_eq!(left.resources, right.resources);
    assert_eq!((&left.rejected, &left.unreadable, &left.denied), (&right.rejected, &right.unreadable, &right.denied));
    assert_eq!(told(&left.diagnostics), told(&right.diagnostics));
}

impl Shop {
    /// `state` after an edit, if it can be told without reading all again.
    fn revise(
        &mut self,
        state: &DesiredState,
        before: &[Arc<CheckedFile>],
        after: &[Arc<CheckedFile>],
    ) -> Option<DesiredState> {
        let Self { platform, previous, cache } = self;
        let resources = revise_tenant(&Self::context(platform, previous, &BUILTIN), state, before, after, cache)?;
        let mut state = state.clone();
        state.resources.extend(resources.into_iter().map(|resource| (resource.key.clone(), resource)));
        Some(state)
    }
}

#[test]
fn an_edited_value_is_told_from_the_edited_file_alone() {
    let mut shop = Shop::new();
    let mut files = [file(0, 0), file(1, 0), file(2, 0)];
    let first = shop.assemble(&files, &BUILTIN);
    let before = std::mem::replace(&mut files[1], file(1, 1));
    let revised = shop.revise(&first, &[before], &files[1..2]).expect("only a value was edited");
    assert_eq!(
        revised.resources[&key("shop/staging/Database/two")].fields.get("/spec/connectionLimit"),
        Some(&json!(6))
    );
    assert_same(&revised, &Shop::new().assemble(&files, &BUILTIN));
}

#[test]
fn an_edit_that_others_are_checked_against_asks_for_all_of_them() {
    let mut shop = Shop::new();
    let files = [file(0, 0), file(1, 0), file(2, 0)];
    let first = shop.assemble(&files, &BUILTIN);
    for variant in [3, 5, 6, 7, 8, 9, 10, 11, 12, 13] {
        let revised = shop.revise(&first, &files[..1], &[file(0, variant)]);
        assert!(revised.is_none(), "{}", contents(0)[variant]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edits_lead_where_reading_all_leads(
        edits in prop::collection::vec((0..3_usize, 0..14_usize, any::<bool>(), 0..3_usize), 1..12),
    ) {
        let mut shop = Shop::new();
        let mut files = vec![file(0, 0), file(1, 0), file(2, 0)];
        let mut state = shop.assemble(&files, &BUILTIN);
        for (at, variant, tried_elsewhere, recorded) in edits {
            if tried_elsewhere {
                // A proposal looks at what an edit would lead to, with the same cache.
                let mut tried = files.clone();
                tried[at] = file(at, (variant + 1) % 14);
                shop.assemble(&tried, &BUILTIN);
            }
            let before = std::mem::replace(&mut files[at], file(at, variant));
            let (mut was, mut is) = (vec![before], vec![Arc::clone(&files[at])]);
            if recorded != at {
                // A pass recorded another resource: what policies call `previous` changed.
                let key: ResourceKey = format!("shop/staging/Database/{}", ["one", "two", "three"][recorded]).parse().unwrap();
                shop.previous.insert(key, (&json!({"spec": {"connectionLimit": variant}})).into());
                was.push(Arc::clone(&files[recorded]));
                is.push(Arc::clone(&files[recorded]));
            }
            let revised = shop.revise(&state, &was, &is);
            state = shop.assemble(&files, &BUILTIN);
            let mut fresh = Shop::new();
            fresh.previous = shop.previous.clone();
            assert_same(&state, &fresh.assemble(&files, &BUILTIN));
            if let Some(revised) = revised {
                assert_same(&revised, &state);
            }
        }
    }
}

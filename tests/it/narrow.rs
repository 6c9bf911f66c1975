//! An engine that lives long and looks only at what changed comes to what a new one sees that reads everything.

use std::collections::BTreeMap;

use plumb::engine::Width;
use plumb::model::{ConditionStatus, ConditionType, DesiredState, EventKind, Reason, ResourceKey, ResourceStatus};
use plumb::store::Scope;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::harness::world::World;

/// What people do to the repositories between two looks.
fn change_something(world: &World, random: &mut StdRng) -> String {
    const FILES: [&str; 4] = ["a", "b", "c", "d"];
    let file = format!("environments/staging/{}.yaml", FILES.choose(random).unwrap());
    let name = *["one", "two", "three"].choose(random).unwrap();
    let version = random.random_range(1..4);
    let document = |name: &str, more: &str| {
        format!(
            "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: {name}\n  labels: {{owner: x}}\n  annotations: \
             {{plumb.dev/deletion: delete}}\nspec:\n  userVersion: {version}\n{more}"
        )
    };
    let content = match random.random_range(0..10) {
        0..=3 => document(name, ""),
        4 => document(name, "  dependsOn: [Database/two]\n"),
        5 => format!("{}---\n{}", document(name, ""), document("four", "")),
        6 => format!("# {version}\n{}", document(name, "")),
        7 => "kind: [".to_owned(),
        8 => {
            if world.tenant.work().join(&file).exists() {
                world.tenant.remove(&file);
            }
            return format!("remove {file}");
        }
        _ => {
            // A policy that looks at what was in force before.
            let text = format!(
                "package plumb.own\n\nimport rego.v1\n\nwarn contains {{\"msg\": \"up\", \"path\": \"/spec\"}} if {{\n\t\
                 input.previous.spec.userVersion < input.resource.spec.userVersion + {version}\n}}\n"
            );
            world.platform.write("policies/own.rego", text);
            world.platform.commit("Another policy");
            return format!("policy {version}");
        }
    };
    world.tenant.write(&file, &content);
    format!("{file}: {content}")
}

fn told(desired: &DesiredState) -> impl PartialEq + std::fmt::Debug {
    let findings: Vec<String> = desired.diagnostics.iter().map(|finding| format!("{finding:?}")).collect();
    (desired.resources.clone(), desired.rejected.clone(), desired.unreadable.clone(), findings)
}

fn readiness(statuses: BTreeMap<ResourceKey, ResourceStatus>) -> Vec<(ResourceKey, ConditionStatus, Option<Reason>)> {
    let ready = |status: ResourceStatus| {
        let condition = status.condition(ConditionType::Ready).expect("each is ready or not");
        // What was just applied is in plumb the next time.
        let reason = (condition.status != ConditionStatus::True).then_some(condition.reason);
        (status.key.clone(), condition.status, reason)
    };
    statuses.into_values().map(ready).collect()
}

async fn stored(world: &World) -> (Vec<(ResourceKey, ConditionStatus, Option<Reason>)>, plumb::model::Inventory) {
    let mut tx = world.store().read(Scope::Tenant(world.name.clone())).await.unwrap();
    (readiness(tx.statuses().await.unwrap()), tx.inventory().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_what_changed_comes_to_what_looking_at_everything_comes_to() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let world = World::with_files().await;
        world.tenant.write("README.md", "A tenant\n");
        world.tenant.commit("Begin");
        let mut done = Vec::new();
        for _ in 0..12 {
            for _ in 0..random.random_range(1..3) {
                done.push(change_something(&world, &mut random));
            }
            world.tenant.commit("Change something");
            let narrowed = world.look(Width::Changed).await.unwrap();
            let (story, preview) = (format!("seed {seed}: {done:#?}"), world.plan().await);
            assert!(preview.plan.steps.is_empty(), "{story}\n{:#?}", preview.plan);
            assert_eq!(narrowed.desired.resources, preview.desired.resources, "{story}");
            assert_eq!(narrowed.desired.rejected, preview.desired.rejected, "{story}");
            if random.random_ratio(1, 3) {
                let before = stored(&world).await;
                let whole = world.apply().await;
                assert_eq!(whole.done, 0, "{story}\n{:#?}", whole.plan);
                assert_eq!(told(&preview.desired), told(&whole.desired), "{story}");
                assert_eq!(stored(&world).await, before, "{story}");
            }
        }
    }
}

/// How many files the tenant has, and how many of them were parsed, in each look since this was asked last.
fn read(world: &World) -> Vec<(usize, usize)> {
    let counts = world.events().into_iter().filter_map(|event| match event.kind {
        EventKind::SourceRead { files, changed, .. } => Some((files, changed)),
        _ => None,
    });
    counts.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_blobs_that_changed_are_parsed() {
    const MANY: usize = 30;
    let mut world = World::with_files().await;
    for number in 0..MANY {
        world.write_database("staging", &format!("d{number:02}"), "userVersion: 1");
    }
    world.tenant.commit("Add many");
    world.in_sync().await;
    assert_eq!(read(&world), [(MANY, MANY)], "the first look parses them all");
    world.look(Width::Changed).await.unwrap();
    world.apply().await;
    assert_eq!(read(&world), [(MANY, 0), (MANY, 0)], "a parse is kept, also by a full pass");

    let what_is_parsed = async |change: &str| {
        world.tenant.commit(change);
        world.look(Width::Changed).await.unwrap();
        read(&world)
    };
    world.write_database("staging", "d07", "userVersion: 2");
    assert_eq!(what_is_parsed("Edit one").await, [(MANY, 1)]);
    assert_eq!(world.number("staging", "d07", "PRAGMA user_version").await, 2);
    world.tenant.write("README.md", "No manifest\n");
    assert_eq!(what_is_parsed("Write about it").await, [(MANY, 0)]);
    world.write_database("staging", "new", "");
    assert_eq!(what_is_parsed("Add one").await, [(MANY + 1, 1)]);
    world.write_database("staging", "d07", "userVersion: 3");
    world.write_database("staging", "d08", "userVersion: 3");
    assert_eq!(what_is_parsed("Edit two").await, [(MANY + 1, 2)]);
    // Another process knows nothing yet.
    world.restart().await;
    world.look(Width::Changed).await.unwrap();
    assert_eq!(read(&world), [(MANY + 1, MANY + 1)]);
}

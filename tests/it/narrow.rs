//! An engine that lives long and looks only at what changed comes to what a new one sees that reads everything.

use std::collections::BTreeMap;

use plumb::engine::Width;
use plumb::model::{ConditionStatus, ConditionType, DesiredState, Reason, ResourceKey, ResourceStatus};
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

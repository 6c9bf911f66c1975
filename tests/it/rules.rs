//! The rules R1 to R14 that protect live data, each kept by the whole engine on real repositories, files and servers.
//! R14, about decisions, is in `drift.rs`.

mod identity;
mod kill;
mod loss;
mod marks;
mod passwords;
mod removals;
mod renames;
mod three_way;
mod unknown;

use plumb::model::{EventKind, Reason};

use crate::harness::world::World;

const VERSION: &str = "PRAGMA user_version";
/// What lets a later commit delete a database.
const DELETE: &str = "plumb.dev/deletion: delete";

/// A tenant with these databases in staging, all at version 1 and in plumb.
async fn world_with(names: &[&str], annotations: &str) -> World {
    let world = World::with_files().await;
    for name in names {
        world.write_resource("staging", "Database", name, annotations, "userVersion: 1");
    }
    world.tenant.commit("Add databases");
    world.in_sync().await;
    world
}

/// Removes the documents of these databases of staging, without a commit.
fn remove(world: &World, names: &[&str]) {
    for name in names {
        world.tenant.remove(&format!("environments/staging/{name}.yaml"));
    }
}

/// As what a resource was recorded, since events were asked for last.
fn recorded(world: &World, key: &str) -> Vec<Reason> {
    let about_it =
        world.events().into_iter().filter(|event| event.key.as_ref().is_some_and(|of| of.to_string() == key));
    let reasons = about_it.filter_map(|event| match event.kind {
        EventKind::Recorded { reason } => Some(reason),
        _ => None,
    });
    reasons.collect()
}

/// Which of these databases of staging have a file.
fn live<'a>(world: &World, names: &[&'a str]) -> Vec<&'a str> {
    names.iter().filter(|name| world.file("staging", name).exists()).copied().collect()
}

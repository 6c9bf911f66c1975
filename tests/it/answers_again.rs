//! What is no answer, though it looks like one; and what is not forgotten with a question.

use plumb::model::{ProposalKind, ProposalStatus};

use crate::drift::{BRANCH, ORDERS, VERSION, world_with, world_with_proposal};
use crate::harness::world::World;

async fn ignoring_what_is_closed(world: &World) {
    world.write_tenant("providers: [files]\nonClose: ignore");
    world.platform.commit("Ignore what is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_was_moved_to_a_later_commit_of_main_is_not_merged() {
    let world = world_with_proposal().await;
    ignoring_what_is_closed(&world).await;
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Something else");
    world.tenant.git(&["push", "--force", "origin", &format!("main:{BRANCH}")]);
    for look in 0..2 {
        world.apply().await;
        assert_eq!(world.number("staging", "orders", VERSION).await, 42, "look {look}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_branches_that_move_to_main_at_once_are_an_accident() {
    let world = World::with_files().await;
    let names = ["a", "b", "c", "d"];
    for name in names {
        world.write_database("staging", name, "userVersion: 7");
    }
    world.tenant.commit("Add");
    world.in_sync().await;
    for name in names {
        world.by_hand("staging", name, "PRAGMA user_version = 42").await;
    }
    world.apply().await;
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Something else");
    for name in names {
        world.tenant.git(&["push", "--force", "origin", &format!("main:plumb/drift/staging/database-{name}")]);
    }
    for look in 0..2 {
        world.apply().await;
        for name in names {
            assert_eq!(world.number("staging", name, VERSION).await, 42, "{name}, look {look}");
        }
    }
    let main = world.tenant.remote_head("main");
    for name in names {
        assert_ne!(world.tenant.remote_head(&format!("plumb/drift/staging/database-{name}")), main, "pushed again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_a_branch_that_vanishes_with_a_history_that_says_otherwise_decides_nothing() {
    let world = world_with("").await;
    let old = world.tenant.head();
    world.write_database("staging", "orders", "journalMode: wal\nuserVersion: 9");
    world.tenant.commit("Nine");
    world.in_sync().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    world.tenant.git(&["push", "--force", "origin", &format!("{old}:main")]);
    world.tenant.delete_branch(BRANCH);
    for look in 0..2 {
        world.apply().await;
        assert_eq!(world.number("staging", "orders", VERSION).await, 42, "look {look}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_history_without_the_document_does_not_let_go_of_what_is_missing() {
    let world = World::with_files().await;
    world.write_database("staging", "other", "userVersion: 1");
    let old = world.tenant.commit("Other");
    world.write_database("staging", "orders", "userVersion: 7");
    let new = world.tenant.commit("Add orders");
    world.in_sync().await;
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().kind, ProposalKind::Missing);
    // An old backup of the repository is put in its place, and then the right one.
    world.tenant.git(&["push", "--force", "origin", &format!("{old}:main")]);
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    world.tenant.git(&["push", "--force", "origin", &format!("{new}:main")]);
    for look in 0..2 {
        world.apply().await;
        assert!(!world.file("staging", "orders").exists(), "look {look}: made again empty");
    }
}

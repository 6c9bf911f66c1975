//! What lets go of lost data, and what does not: approvals, merges and removals, in all orders.

use plumb::model::{ApprovalKind, ProposalKind, ProposalStatus, Reason};

use crate::answers::gone_and_forgotten;
use crate::drift::{BRANCH, MANIFEST, ORDERS, world_with};
use crate::harness::git::MergeHow;
use crate::harness::world::{World, held, unseen};
use crate::histories::{
    amend_on_the_branch, is_not_made_again, lose_orders, merge_and_revert, note_on_the_branch, rewrite_to, world_of_two,
};

/// Nobody has wanted its data deleted, so a person is asked for a word.
async fn is_kept_until_approved(world: &World) {
    for look in 0..2 {
        let report = world.apply().await;
        assert!(world.file("staging", "orders").exists(), "look {look}: nobody wanted its data deleted");
        assert_eq!(held(&report.plan, ORDERS), Some(Reason::DeletionsHeld), "look {look}");
    }
    let plan = world.apply().await.plan.id;
    world.approve(ApprovalKind::Deletes, &plan);
    world.apply().await;
    assert!(!world.file("staging", "orders").exists());
}

/// Orders are gone, and asked about. With the commits before and with their document.
pub async fn lost_since_it_was_added() -> (World, String, String) {
    let world = World::with_files().await;
    world.write_database("staging", "other", "userVersion: 1");
    let old = world.tenant.commit("Other");
    world.write_database("staging", "orders", "userVersion: 7");
    let new = world.tenant.commit("Add orders");
    world.in_sync().await;
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().kind, ProposalKind::Missing);
    (world, old, new)
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_history_without_the_document_keeps_what_only_a_question_remembers() {
    let (mut world, old, new) = lost_since_it_was_added().await;
    world.lose_state().await;
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().kind, ProposalKind::Missing);
    for _ in 0..2 {
        rewrite_to(&world, &old);
        for _ in 0..2 {
            world.apply().await;
        }
        rewrite_to(&world, &new);
        is_not_made_again(&world).await;
    }
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_an_empty_tree_lets_go_of_nothing() {
    let world = gone_and_forgotten().await;
    world.tenant.remove(MANIFEST);
    world.tenant.remove("environments/staging/other.yaml");
    world.tenant.commit("Remove all");
    for _ in 0..2 {
        world.apply().await;
    }
    world.tenant.git(&["revert", "--no-edit", "HEAD"]);
    world.tenant.git(&["push", "origin", "main"]);
    is_not_made_again(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_an_approval_that_a_rewritten_history_has_again_counts_once() {
    let world = world_of_two("").await;
    lose_orders(&world).await;
    let plan = world.apply().await.plan.id;
    world.approve(ApprovalKind::Create, &plan);
    world.in_sync().await;
    assert!(world.file("staging", "orders").exists(), "made again, with a person's word");
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    world.apply().await;
    world.tenant.git(&["commit", "--amend", "--allow-empty", "--no-edit", "--date", "2001-01-01T00:00:00"]);
    world.tenant.push_force();
    is_not_made_again(&world).await;
    // Given once more, it counts once more.
    let plan = world.apply().await.plan.id;
    world.approve(ApprovalKind::Create, &plan);
    world.apply().await;
    assert!(world.file("staging", "orders").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_removal_that_is_merged_after_its_question_has_ended_deletes_nothing() {
    let world = world_of_two("plumb.dev/deletion: delete").await;
    let away = lose_orders(&world).await;
    // A reviewer has the branch.
    let removal = world.tenant.remote_head(BRANCH).unwrap();
    world.tenant.git(&["fetch", "origin"]);
    std::fs::rename(&away, world.file("staging", "orders")).unwrap();
    world.in_sync().await;
    assert!(world.proposal(ORDERS).await.is_none());
    world.tenant.git(&["merge", "--ff-only", &removal]);
    world.tenant.git(&["push", "origin", "main"]);
    is_kept_until_approved(&world).await;
    world.in_sync().await;
    assert!(world.proposal(ORDERS).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_removal_that_is_merged_after_its_question_has_ended_deletes_nothing_where_its_branch_stayed() {
    let world = world_of_two("plumb.dev/deletion: delete").await;
    let away = lose_orders(&world).await;
    world.tenant.remote_git(&["config", "receive.denyDeletes", "true"]);
    std::fs::rename(&away, world.file("staging", "orders")).unwrap();
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Closed);
    assert!(world.tenant.branches().contains(&BRANCH.to_owned()), "it could not be deleted");
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    is_kept_until_approved(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_what_was_gone_before_nobody_could_look_does_not_let_it_be_deleted_when_it_came_back() {
    let world = world_of_two("plumb.dev/deletion: delete\nplumb.dev/drift: observe").await;
    let away = world.data().join("away.db");
    std::fs::rename(world.file("staging", "orders"), &away).unwrap();
    world.apply().await;
    assert!(world.proposal(ORDERS).await.is_none(), "it is only observed");
    // Nobody answers while it is brought back.
    let folder = world.data().join("elsewhere");
    std::fs::rename(world.databases(), &folder).unwrap();
    std::fs::write(world.databases(), "no folder").unwrap();
    let report = world.apply().await;
    assert!(unseen(&report.plan, ORDERS).is_some(), "{:#?}", report.plan);
    std::fs::remove_file(world.databases()).unwrap();
    std::fs::rename(&folder, world.databases()).unwrap();
    std::fs::rename(&away, world.file("staging", "orders")).unwrap();
    world.tenant.remove(MANIFEST);
    world.tenant.commit("Let go of it then");
    is_kept_until_approved(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_an_approval_to_let_go_of_what_is_gone_does_not_delete_what_came_back() {
    let world = world_with("plumb.dev/deletion: delete").await;
    let away = lose_orders(&world).await;
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    let report = world.apply().await;
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::EmptyTree));
    std::fs::rename(&away, world.file("staging", "orders")).unwrap();
    world.approve(ApprovalKind::Deletes, &report.plan.id);
    is_kept_until_approved(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_removal_that_could_not_be_offered_does_not_delete_what_came_back() {
    let world = world_of_two("plumb.dev/deletion: delete").await;
    world.write_database("staging", "reports", "dependsOn: [Database/orders]");
    world.tenant.commit("Add reports");
    world.in_sync().await;
    let away = world.data().join("away.db");
    std::fs::rename(world.file("staging", "orders"), &away).unwrap();
    world.apply().await;
    assert!(world.proposal(ORDERS).await.is_none(), "reports would break without it");
    std::fs::rename(&away, world.file("staging", "orders")).unwrap();
    world.tenant.remove(MANIFEST);
    world.write_database("staging", "reports", "userVersion: 1");
    world.tenant.commit("Do without orders");
    is_kept_until_approved(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_removal_with_a_persons_commit_that_was_merged_and_reverted_is_remembered() {
    let mut world = world_of_two("").await;
    lose_orders(&world).await;
    note_on_the_branch(&world);
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    world.tenant.git(&["revert", "--no-edit", "HEAD", "HEAD~"]);
    world.tenant.git(&["push", "origin", "main"]);
    world.lose_state().await;
    is_not_made_again(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_an_amended_removal_that_was_merged_and_reverted_is_remembered() {
    let mut world = world_of_two("").await;
    lose_orders(&world).await;
    amend_on_the_branch(&world);
    merge_and_revert(&world);
    world.lose_state().await;
    is_not_made_again(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_question_on_a_branch_of_a_former_path_is_remembered() {
    let mut world = gone_and_forgotten().await;
    world.read_from("path: environments");
    world.lose_state().await;
    is_not_made_again(&world).await;
}

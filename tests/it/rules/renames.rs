//! R10: what looks like a rename is held; a resource is rebound to the same server and never moved to another.

use plumb::engine::Width;
use plumb::model::{ApprovalKind, EventKind, Reason};

use super::{live, remove, world_with};
use crate::harness::world::{FILES, World, held, held_message, unseen};
use crate::waits::names_rule;

const ORDERS: &str = "checkout/staging/Database/orders";
const RENAMED: &str = "checkout/staging/Database/renamed";

#[tokio::test(flavor = "multi_thread")]
async fn r10_a_rename_in_git_is_held_on_both_sides() {
    let world = world_with(&["orders", "payments"], "").await;
    world.write_database("staging", "orders", "userVersion: 5");
    world.tenant.commit("Make it one of a kind");
    world.in_sync().await;
    remove(&world, &["orders"]);
    world.write_database("staging", "renamed", "userVersion: 5");
    world.tenant.commit("Rename orders");
    let report = world.apply().await;
    assert_eq!(report.done, 0);
    for key in [ORDERS, RENAMED] {
        assert_eq!(held(&report.plan, key), Some(Reason::PossibleRename), "{:#?}", report.plan);
        names_rule(&world, key, Reason::PossibleRename, "R10").await;
    }
    assert_eq!(live(&world, &["orders", "renamed"]), ["orders"]);

    // Who really wants an empty new one says so; the old one stays.
    assert!(held_message(&report.plan, RENAMED).contains("Plumb-Approve-Create"));
    world.approve(ApprovalKind::Create, &report.plan.id);
    assert_eq!(world.apply().await.done, 1);
    assert_eq!(live(&world, &["orders", "renamed"]), ["orders", "renamed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r10_letting_go_of_the_old_one_first_lets_the_new_one_pass() {
    let world = world_with(&["orders", "payments"], "plumb.dev/deletion: retain").await;
    remove(&world, &["orders"]);
    world.tenant.commit("Let go of orders");
    world.in_sync().await;
    world.write_database("staging", "renamed", "userVersion: 1");
    world.tenant.commit("Add another");
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(live(&world, &["orders", "renamed"]), ["orders", "renamed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r10_a_renamed_provider_with_the_same_identity_is_rebound_without_a_step() {
    let world = world_with(&["orders", "payments"], "").await;
    let before = std::fs::read(world.file("staging", "orders")).unwrap();
    world.platform.write("providers.yaml", FILES.replace("name: files", "name: disk"));
    world.write_tenant("providers: [disk]");
    world.platform.commit("Rename the provider");
    world.events();
    assert_eq!(world.in_sync().await, 0);
    let rebound =
        world.events().iter().filter(|e| matches!(e.kind, EventKind::Recorded { reason: Reason::Rebound })).count();
    assert_eq!(rebound, 2);
    assert!(world.inventory().await.records.values().all(|record| record.provider == "disk"));
    assert_eq!(std::fs::read(world.file("staging", "orders")).unwrap(), before);
    assert_eq!(world.in_sync().await, 0);
}

/// A second folder beside the first.
pub(super) fn other() -> String {
    FILES
        .replace("name: files", "name: other")
        .replace("sqlite:databases", "sqlite:elsewhere")
        .replace("  serves: [{kind: Database}]\n", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn r10_a_resource_is_never_moved_to_another_server() {
    let mut world = World::new(&format!("{FILES}---{}", other()), "[files, other]").await;
    for name in ["orders", "payments"] {
        world.write_database("staging", name, "provider: files\nuserVersion: 1");
    }
    world.tenant.commit("Add two");
    world.in_sync().await;
    world.write_database("staging", "orders", "provider: other\nuserVersion: 1");
    world.tenant.commit("Move orders");
    let refused = |plan: &plumb::model::Plan| {
        assert_eq!(held(plan, ORDERS), Some(Reason::MoveRefused), "{plan:#?}");
        assert!(held_message(plan, ORDERS).contains("set provider back to files"));
    };
    // A folder that was never used, and one that was.
    let report = world.apply().await;
    assert_eq!(report.done, 0);
    refused(&report.plan);
    world.write_database("staging", "third", "provider: other\nuserVersion: 3");
    world.tenant.commit("Use the other folder");
    world.apply().await;
    refused(&world.apply().await.plan);
    // Nor after a loss of the state: the one that is there is not made a second time.
    world.lose_state().await;
    let report = world.apply().await;
    assert_eq!(report.done, 0, "{:#?}", report.plan);
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::MoveRefused), "{:#?}", report.plan);
    assert!(!world.data().join("elsewhere/checkout_staging_orders.db").exists());
    assert!(world.file("staging", "orders").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn r10_a_provider_pointed_at_another_folder_is_seen_as_another_server() {
    let world = world_with(&["orders", "payments"], "").await;
    world.platform.write("providers.yaml", FILES.replace("sqlite:databases", "sqlite:elsewhere"));
    world.platform.commit("Another folder");
    let report = world.apply().await;
    assert_eq!(report.done, 0);
    assert_eq!(unseen(&report.plan, ORDERS), Some(Reason::ProviderIdentityChanged));
    assert!(!world.data().join("elsewhere").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn r10_what_is_moved_to_another_environment_is_not_made_again_empty_after_a_loss() {
    for width in [Width::Deep, Width::Changed] {
        let mut world = world_with(&["orders", "payments"], "").await;
        remove(&world, &["orders"]);
        world.write_database("production", "orders", "userVersion: 1");
        world.tenant.commit("Go to production");
        world.lose_state().await;
        let report = world.look(width).await.unwrap();
        let moved = "checkout/production/Database/orders";
        assert_eq!(held(&report.plan, moved), Some(Reason::PossibleRename), "{:#?}", report.plan);
        assert!(!world.file("production", "orders").exists());
        assert_eq!(world.orphans().await.len(), 1, "what is left is listed");
        world.approve(ApprovalKind::Create, &report.plan.id);
        assert_eq!(world.apply().await.done, 1);
        assert_eq!(live(&world, &["orders"]), ["orders"], "it stays");
    }
}

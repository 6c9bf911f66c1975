//! R10: what may be a rename is held; a renamed provider is rebound; nothing moves to another server.

use super::world::*;
use crate::model::{Action, ApprovalKind, Deletion, Kind, PlanScope, ProviderIdentity, Reason, ResourceKey, Settle};

fn in_production(name: &str) -> ResourceKey {
    ResourceKey::new("checkout", "production", Kind::Database, name)
}

/// `orders` with a spec of its own, removed, and `to` added in the same commit.
fn renamed(to: &ResourceKey, deletion: Option<Deletion>, limit: i64) -> World {
    let orders = document(&db("orders")).with(LIMIT, 20).saying(|a| a.deletion = deletion);
    let mut world = World::in_plumb([orders, document(&db("unrelated")).with(LIMIT, 7)]);
    world.git_removes(&db("orders"));
    world.git_has(document(to).with(LIMIT, limit));
    world.vanishes(to);
    world
}

#[track_caller]
fn assert_both_held(world: &World, to: &ResourceKey) {
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty(), "{plan:#?}");
    assert_eq!(plan.reasons(&db("orders")), [Reason::PossibleRename]);
    assert_eq!(plan.reasons(to), [Reason::PossibleRename]);
    assert_eq!(plan.blocked(to).step.as_ref().map(|step| step.action), Some(Action::Create));
}

#[test]
fn r10_the_same_spec_under_another_name_is_a_possible_rename() {
    for deletion in [None, Some(Deletion::Delete), Some(Deletion::Retain)] {
        let mut world = renamed(&db("payments"), deletion, 20);
        assert_both_held(&world, &db("payments"));
        world.reconciles();
        assert_both_held(&world, &db("payments"));
    }
}

#[test]
fn r10_the_same_name_in_another_environment_is_a_possible_rename() {
    for deletion in [None, Some(Deletion::Delete), Some(Deletion::Retain)] {
        let world = renamed(&in_production("orders"), deletion, 99);
        assert_both_held(&world, &in_production("orders"));
    }
}

#[test]
fn r10_held_halves_show_what_would_be_done() {
    let plan = renamed(&db("payments"), None, 20).plan();
    assert_eq!(plan.blocked(&db("orders")).step.as_ref().map(|step| step.action), Some(Action::Delete));
    let message = &plan.blocked(&db("payments")).message;
    assert!(message.contains(&format!("Plumb-Approve-Create: {}", plan.id)), "{message}");
    assert_eq!(plan.awaiting(ApprovalKind::Create), [db("payments")].into());
}

#[test]
fn r10_another_name_and_another_spec_are_no_rename() {
    let world = renamed(&db("payments"), Some(Deletion::Delete), 99);
    let plan = world.plan();
    assert_eq!(plan.action(&db("payments")), Some(Action::Create));
    assert_eq!(plan.action(&db("orders")), Some(Action::Delete));
}

#[test]
fn r10_a_cache_holds_no_data_and_may_be_renamed() {
    let mut world = World::in_plumb([document(&cache("sessions")), document(&cache("other"))]);
    world.git_removes(&cache("sessions"));
    world.git_has(document(&cache("renamed")));
    world.vanishes(&cache("renamed"));
    let plan = world.plan();
    assert_eq!(plan.order(), [&cache("renamed"), &cache("sessions")]);
}

#[test]
fn r10_every_removed_resource_that_may_be_the_old_one_is_kept() {
    let mut world = renamed(&db("payments"), Some(Deletion::Delete), 20);
    world.is_in_plumb(document(&db("twin")).with(LIMIT, 20).saying(|a| a.deletion = Some(Deletion::Delete)));
    world.git_removes(&db("twin"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    for key in ["orders", "twin", "payments"] {
        assert_eq!(plan.reasons(&db(key)), [Reason::PossibleRename]);
    }
}

#[test]
fn r10_one_removed_resource_holds_every_new_one_that_is_like_it() {
    let mut world = renamed(&db("payments"), Some(Deletion::Delete), 20);
    world.git_has(document(&db("refunds")).with(LIMIT, 20));
    world.vanishes(&db("refunds"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    for key in ["orders", "payments", "refunds"] {
        assert_eq!(plan.reasons(&db(key)), [Reason::PossibleRename]);
    }
}

#[test]
fn r10_an_approval_lets_the_new_one_be_made_and_the_old_one_stays_for_this_plan() {
    let mut world = renamed(&db("payments"), Some(Deletion::Delete), 20);
    world.commit_approves(ApprovalKind::Create, &world.plan());
    let plan = world.reconciles();
    assert_eq!(plan.order(), [&db("payments")]);
    assert_eq!(plan.reasons(&db("orders")), [Reason::PossibleRename]);
    assert_eq!(world.plan().action(&db("orders")), Some(Action::Delete));
}

#[test]
fn r10_letting_go_first_in_a_commit_of_its_own_is_a_way_out() {
    let mut world = renamed(&db("payments"), Some(Deletion::Retain), 20);
    world.git_removes(&db("payments"));
    assert_eq!(world.reconciles().settled(&db("orders")), Some(Reason::Retained));
    world.git_has(document(&db("payments")).with(LIMIT, 20));
    assert_eq!(world.plan().action(&db("payments")), Some(Action::Create));
}

#[test]
fn r10_a_rename_is_seen_though_the_old_half_cannot_be_seen() {
    let mut world = renamed(&db("payments"), Some(Deletion::Delete), 20);
    world.cannot_be_seen(&db("orders"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("payments")), [Reason::PossibleRename]);
}

#[test]
fn r10_a_rename_is_seen_though_a_manifest_is_unreadable() {
    let mut world = renamed(&db("payments"), Some(Deletion::Delete), 20);
    world.desired.unreadable.push("a.yaml is not YAML".to_owned());
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("payments")), [Reason::PossibleRename]);
    assert_eq!(plan.reasons(&db("orders")), [Reason::UnreadableManifest]);
}

#[test]
fn r10_a_rename_is_seen_by_a_narrowed_plan() {
    let mut world = renamed(&db("payments"), Some(Deletion::Delete), 20);
    world.scope = PlanScope::Keys([db("payments")].into());
    world.live.objects.remove(&db("orders"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("payments")), [Reason::PossibleRename]);
}

#[test]
fn r10_a_renamed_environment_is_a_possible_rename_by_name_and_not_by_spec() {
    let mut world = renamed(&in_production("orders"), None, 99);
    world.git_removes(&db("unrelated"));
    world.git_has(document(&in_production("payments")).with(LIMIT, 20));
    world.vanishes(&in_production("payments"));
    world.tenant.environments.retain(|environment| environment != "staging");
    let plan = world.plan();
    assert_eq!(plan.order(), [&in_production("payments")]);
    assert_eq!(plan.reasons(&in_production("orders")), [Reason::PossibleRename]);
    assert_eq!(plan.reasons(&db("orders")), [Reason::EnvironmentRemoved]);
}

#[test]
fn r10_what_is_gone_leaves_nothing_behind_and_is_no_rename() {
    let mut world = renamed(&db("payments"), None, 20);
    world.vanishes(&db("orders"));
    let plan = world.plan();
    assert_eq!(plan.action(&db("payments")), Some(Action::Create));
    assert_eq!(plan.settled(&db("orders")), Some(Reason::Gone));
}

#[test]
fn r10_a_renamed_provider_is_rebound_without_a_step() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.document_mut(&db("orders")).provider = "pg-renamed".to_owned();
    let identity = world.live.identities.remove("pg-main").unwrap();
    world.live.identities.insert("pg-renamed".to_owned(), identity);
    let plan = world.reconciles();
    assert!(plan.is_in_sync());
    assert!(matches!(&plan.settles[..], [Settle::Record { reason: Reason::Rebound, remark: None, .. }]));
    assert_eq!(world.record_mut(&db("orders")).provider, "pg-renamed");
    assert!(world.plan().is_quiet());
}

#[test]
fn r10_a_renamed_provider_without_the_mark_is_not_rebound() {
    let mut world = World::in_plumb([document(&db("orders"))]);
    world.document_mut(&db("orders")).provider = "pg-renamed".to_owned();
    let identity = world.live.identities["pg-main"].clone();
    world.live.identities.insert("pg-renamed".to_owned(), identity);
    world.live_mut(&db("orders")).ownership = crate::model::Ownership::Unmarked;
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty());
    assert_eq!(plan.reasons(&db("orders")), [Reason::NotOwned]);
}

#[test]
fn r10_a_move_to_another_server_is_refused() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.document_mut(&db("orders")).provider = "pg-other".to_owned();
    world.vanishes(&db("orders"));
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty() && plan.drift.is_empty());
    let blocked = plan.blocked(&db("orders"));
    assert_eq!(blocked.reason, Reason::MoveRefused);
    assert!(blocked.message.contains("pg-main") && blocked.message.contains("pg-other"), "{}", blocked.message);
}

#[test]
fn r10_a_move_is_refused_whatever_is_approved_and_confirmed() {
    let mut world = World::in_plumb([document(&db("orders"))]);
    world.document_mut(&db("orders")).provider = "pg-other".to_owned();
    world.vanishes(&db("orders"));
    let plan = world.plan();
    world.approve(ApprovalKind::Create, plan.id, [db("orders")]);
    let other: ProviderIdentity = world.live.identities["pg-other"].clone();
    world.platform.providers.get_mut("pg-other").unwrap().identity = Some(other.0);
    assert_eq!(world.plan().reasons(&db("orders")), [Reason::MoveRefused]);
}

/// What was made before the inventory was lost, and git has in another environment by now.
fn moved_after_a_loss() -> (World, ResourceKey) {
    let moved = in_production("orders");
    let mut world = World::in_plumb([document(&db("unrelated"))]);
    world.a_stray_bears_the_mark_of(&db("orders"));
    world.git_has(document(&moved));
    world.vanishes(&moved);
    (world, moved)
}

#[test]
fn r10_after_a_loss_what_was_moved_is_not_made_again_empty() {
    let (mut world, moved) = moved_after_a_loss();
    world.scope = PlanScope::Keys([moved.clone()].into());
    assert_eq!(world.plan().reasons(&moved), [Reason::PossibleRename], "in a narrowed plan too");
    world.scope = PlanScope::Full;
    let plan = world.plan();
    assert!(plan.steps.is_empty(), "{plan:#?}");
    assert_eq!(plan.reasons(&moved), [Reason::PossibleRename]);
    assert!(plan.blocked(&moved).message.contains("checkout/staging/Database/orders"));
    assert_eq!(plan.reasons(&db("orders")), [Reason::Orphaned], "what is left is an orphan as before");
    world.commit_approves(ApprovalKind::Create, &plan);
    let plan = world.reconciles();
    assert_eq!(plan.order(), [&moved]);
    assert_eq!(plan.reasons(&db("orders")), [Reason::Orphaned]);
}

#[test]
fn r10_an_orphan_without_data_holds_nothing() {
    let moved = ResourceKey::new("checkout", "production", Kind::Cache, "sessions");
    let mut world = World::in_plumb([document(&db("unrelated"))]);
    world.a_stray_bears_the_mark_of(&cache("sessions"));
    world.git_has(document(&moved));
    world.vanishes(&moved);
    assert_eq!(world.plan().order(), [&moved]);
}

#[test]
fn r10_beside_an_orphan_the_message_tells_what_keeps_the_data_and_what_does_not() {
    let (mut world, moved) = moved_after_a_loss();
    let message = world.plan().blocked(&moved).message.clone();
    assert!(message.contains("commit the document of checkout/staging/Database/orders again"), "{message}");
    assert!(message.contains("new and empty. To let it happen"), "{message}");
    // A document in an environment that is not the tenant's would be refused.
    world.tenant.environments.retain(|environment| environment != "staging");
    let message = world.plan().blocked(&moved).message.clone();
    assert!(!message.contains("again") && message.contains("new and empty. To let it happen"), "{message}");
}

//! R4: without the inventory the marks are the base; what exists is not made again; orphans wait for a person.

use serde_json::json;

use super::world::*;
use crate::model::{Action, ApprovalKind, DriftMode, FieldHash, FieldPath, Ownership, Reason, Settle};

/// One database whose record is lost.
fn forgotten() -> World {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20).with(APP_ACCESS, "read")]);
    world.inventory_is_lost();
    world
}

#[test]
fn r4_what_is_as_git_says_is_only_recorded_again() {
    let mut world = forgotten();
    let before = World::in_plumb([document(&db("orders")).with(LIMIT, 20).with(APP_ACCESS, "read")]).prior;
    let plan = world.reconciles();
    assert!(plan.is_in_sync());
    assert!(matches!(&plan.settles[..], [Settle::Record { reason: Reason::Recovered, remark: None, .. }]));
    assert_eq!(world.prior, before);
    assert!(world.plan().is_quiet());
}

#[test]
fn r4_git_changed_meanwhile_is_applied_on_the_hash_of_the_mark() {
    let mut world = forgotten();
    world.git_sets(&db("orders"), LIMIT, 30);
    let plan = world.reconciles();
    assert_eq!(plan.action(&db("orders")), Some(Action::Update));
    assert_eq!(plan.changes(&db("orders")), [(LIMIT, Some(&json!(30)))]);
    assert!(world.plan().is_quiet());
}

#[test]
fn r4_live_changed_meanwhile_is_drift_on_the_hash_of_the_mark() {
    let mut world = forgotten();
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.reconciles();
    assert!(plan.steps.is_empty());
    assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
    let drifted = &plan.drift(&db("orders")).fields[0];
    assert_eq!((&drifted.base, drifted.conflict), (&None, false));

    let path = FieldPath::from(LIMIT);
    assert_eq!(world.record_mut(&db("orders")).unsettled[&path], Some(FieldHash::of(&json!(20))));
    let again = world.plan();
    assert!(again.steps.is_empty() && again.settles.is_empty());
    assert_held(&again, &db("orders"), LIMIT, DriftMode::Propose);
}

#[test]
fn r4_both_changed_meanwhile_is_held() {
    let mut world = forgotten();
    world.git_sets(&db("orders"), LIMIT, 30);
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
    assert!(plan.drift(&db("orders")).fields[0].conflict);
}

#[test]
fn r4_both_changed_meanwhile_and_equal_is_only_recorded() {
    let mut world = forgotten();
    world.git_sets(&db("orders"), LIMIT, 50);
    world.live_becomes(&db("orders"), LIMIT, 50);
    assert!(world.reconciles().steps.is_empty());
    assert!(world.plan().is_quiet());
}

#[test]
fn r4_no_base_and_different_is_held_and_never_applied() {
    for mode in [DriftMode::Propose, DriftMode::Revert, DriftMode::Observe] {
        let mut world = forgotten();
        world.decisions.drift = mode;
        world.mark_mut(&db("orders")).hashes.clear();
        world.live_becomes(&db("orders"), LIMIT, 50);
        for _ in 0..2 {
            let plan = world.reconciles();
            assert!(plan.steps.is_empty());
            assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
            assert!(plan.drift(&db("orders")).fields[0].conflict);
        }
    }
}

#[test]
fn r4_no_base_and_equal_is_recorded_with_a_new_mark() {
    let mut world = forgotten();
    world.mark_mut(&db("orders")).hashes.clear();
    let plan = world.reconciles();
    assert!(matches!(&plan.settles[..], [Settle::Record { reason: Reason::Recovered, remark: Some(_), .. }]));
    assert_eq!(world.mark_mut(&db("orders")).hashes.len(), 2);
    assert!(world.plan().is_quiet());
}

#[test]
fn r4_a_decision_settles_a_field_without_a_base() {
    let mut world = forgotten();
    world.mark_mut(&db("orders")).hashes.clear();
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.reconciles();
    world.decision_lifts(&db("orders"), field(LIMIT, None, Some(json!(20)), Some(json!(50))));
    assert_eq!(world.reconciles().changes(&db("orders")), [(LIMIT, Some(&json!(20)))]);
    world.decisions.lifted.clear();
    assert!(world.plan().is_quiet());
    assert!(world.record_mut(&db("orders")).unsettled.is_empty());
}

#[test]
fn r4_a_role_that_vanished_meanwhile_is_drift_and_one_that_never_was_is_made() {
    let mut world = forgotten();
    world.live_loses(&db("orders"), APP_ACCESS);
    world.git_sets(&db("orders"), "/spec/roles/ro/access", "read");
    let plan = world.plan();
    assert_eq!(plan.changes(&db("orders")), [("/spec/roles/ro/access", Some(&json!("read")))]);
    assert_held(&plan, &db("orders"), APP_ACCESS, DriftMode::Propose);
}

#[test]
fn r4_a_field_removed_meanwhile_goes_to_its_default() {
    let mut world = forgotten();
    world.git_unsets(&db("orders"), LIMIT);
    world.git_unsets(&db("orders"), APP_ACCESS);
    let plan = world.plan();
    assert_eq!(plan.changes(&db("orders")), [(LIMIT, Some(&json!(-1))), (APP_ACCESS, None)]);
    assert_eq!(plan.step(&db("orders")).destructive, ["drops role app"]);
}

#[test]
fn r4_a_shallow_look_after_the_loss_keeps_the_hashes_until_a_deep_one() {
    let mut world = forgotten();
    world.field_cannot_be_seen(&db("orders"), "/spec/roles", Reason::NotObserved);
    let plan = world.reconciles();
    assert!(plan.is_in_sync(), "{plan:#?}");
    let path = FieldPath::from(APP_ACCESS);
    assert_eq!(world.record_mut(&db("orders")).unsettled[&path], Some(FieldHash::of(&json!("read"))));
    assert!(world.plan().settles.is_empty());

    world.live_mut(&db("orders")).unknown.clear();
    world.live_becomes(&db("orders"), APP_ACCESS, "admin");
    assert_held(&world.plan(), &db("orders"), APP_ACCESS, DriftMode::Propose);
    world.live_becomes(&db("orders"), APP_ACCESS, "read");
    world.reconciles();
    assert!(world.plan().is_quiet());
}

#[test]
fn r4_a_marked_object_that_nobody_speaks_of_is_deleted_only_by_approval() {
    let mut world = World::in_plumb([document(&db("orders"))]);
    world.a_stray_bears_the_mark_of(&db("old"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    let blocked = plan.blocked(&db("old"));
    assert_eq!(blocked.reason, Reason::Orphaned);
    assert!(blocked.message.contains(&format!("Plumb-Approve-Deletes: {}", plan.id)), "{}", blocked.message);

    world.commit_approves(ApprovalKind::Deletes, &plan);
    assert_eq!(world.reconciles().action(&db("old")), Some(Action::Delete));
    assert!(world.plan().is_quiet());
}

#[test]
fn r4_an_approval_covers_each_orphan_for_itself() {
    let mut world = World::in_plumb([document(&db("orders"))]);
    world.a_stray_bears_the_mark_of(&db("old"));
    world.commit_approves(ApprovalKind::Deletes, &world.plan());
    world.a_stray_bears_the_mark_of(&db("older"));
    let plan = world.plan();
    assert_eq!(plan.order(), [&db("old")]);
    assert_eq!(plan.reasons(&db("older")), [Reason::Orphaned]);
}

#[test]
fn r4_an_approval_to_create_deletes_no_orphan() {
    let mut world = World::in_plumb([document(&db("orders"))]);
    world.a_stray_bears_the_mark_of(&db("old"));
    let plan = world.plan();
    world.approve(ApprovalKind::Create, plan.id, [db("old")]);
    assert!(world.plan().steps.is_empty());
}

#[test]
fn r4_what_git_the_inventory_or_a_refused_document_speaks_of_is_no_orphan() {
    let mut world = World::in_plumb([document(&db("orders")), document(&db("kept"))]);
    world.git_removes(&db("kept"));
    world.record_mut(&db("kept")).retained = true;
    world.desired.rejected.insert(db("broken"), "it is broken".to_owned());
    for key in [db("orders"), db("kept"), db("broken")] {
        world.a_stray_bears_the_mark_of(&key);
        world.approve(ApprovalKind::Deletes, world.plan().id, [key]);
    }
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("broken")), [Reason::InvalidManifest]);
    assert!(plan.reasons(&db("kept")).is_empty() && plan.reasons(&db("orders")).is_empty());
}

#[test]
fn r4_an_object_that_is_elsewhere_under_the_keys_mark_is_not_made_again() {
    let mut world = World::new();
    world.git_has(document(&db("orders")));
    world.document_mut(&db("orders")).provider = "pg-other".to_owned();
    world.vanishes(&db("orders"));
    world.a_stray_bears_the_mark_of(&db("orders"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.blocked(&db("orders")).reason, Reason::MoveRefused);
}

#[test]
fn r4_a_retained_object_whose_document_comes_back_is_recovered() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.record_mut(&db("orders")).retained = true;
    let plan = world.reconciles();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.settled(&db("orders")), Some(Reason::Recovered));
    assert!(!world.record_mut(&db("orders")).retained);
    assert!(world.plan().is_quiet());
}

#[test]
fn r4_what_a_retained_record_knew_is_no_base_when_the_document_comes_back() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.record_mut(&db("orders")).retained = true;
    world.mark_mut(&db("orders")).hashes.clear();
    world.live_becomes(&db("orders"), LIMIT, 50);
    for _ in 0..2 {
        let plan = world.reconciles();
        assert!(plan.steps.is_empty());
        assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
        assert_eq!(plan.drift(&db("orders")).fields[0].base, None);
    }
}

#[test]
fn r4_another_platforms_object_is_not_recovered() {
    let mut world = forgotten();
    world.mark_mut(&db("orders")).platform.0 = "another".to_owned();
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty());
    assert!(matches!(world.live_mut(&db("orders")).ownership, Ownership::Marked(_)));
    assert_eq!(plan.reasons(&db("orders")), [Reason::OwnedByOther]);
}

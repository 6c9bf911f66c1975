//! R3: the three-way comparison, field by field, and what people say about it.

use std::collections::BTreeSet;

use serde_json::json;

use super::world::*;
use crate::model::{Action, Change, DriftMode, FieldHash, FieldPath, ProposedField, Reason, Settle, Suspend};

/// One database with `connectionLimit: 20`, everything in plumb.
fn orders() -> World {
    World::in_plumb([document(&db("orders")).with(LIMIT, 20)])
}

fn limits(base: i64, git: i64, live: i64) -> ProposedField {
    field(LIMIT, Some(json!(base)), Some(json!(git)), Some(json!(live)))
}

#[track_caller]
fn assert_applies(world: &World, value: i64) {
    let plan = world.plan();
    assert_eq!(plan.changes(&db("orders")), [(LIMIT, Some(&json!(value)))]);
    assert!(plan.drift.is_empty() && plan.held.is_empty());
}

#[test]
fn r3_nothing_changed_is_nothing_to_do() {
    let plan = orders().plan();
    assert!(plan.is_quiet(), "{plan:#?}");
    assert_eq!(plan.summary().unchanged, 1);
}

#[test]
fn r3_git_changed_is_applied() {
    let mut world = orders();
    world.git_sets(&db("orders"), LIMIT, 30);
    assert_applies(&world, 30);
    assert_eq!(world.plan().step(&db("orders")).changes[0].from, Some(json!(20)));
    assert_eq!(world.reconciles().action(&db("orders")), Some(Action::Update));
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_what_a_hand_changes_beside_a_step_while_it_runs_is_drift() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20).with(WORK_MEM, "6MB")]);
    world.git_sets(&db("orders"), LIMIT, 30);
    let (seen, plan) = (world.live.clone(), world.plan());
    world.live_becomes(&db("orders"), WORK_MEM, "9MB");
    world.applies_as_planned_on(&seen, plan);
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.drift[0].fields[0].path.as_str(), WORK_MEM);
}

#[test]
fn r3_a_document_that_changed_without_a_field_is_recorded_once() {
    let mut world = orders();
    let relabelled = json!({"metadata": {"labels": {"owner": "team-checkout"}}});
    world.document_mut(&db("orders")).document = relabelled.clone().into();
    world.desired.denied.insert(db("orders"), "no".to_owned());
    assert!(world.plan().settles.is_empty(), "what policies deny is not taken for what was in force");
    world.desired.denied.clear();
    let plan = world.reconciles();
    assert!(plan.steps.is_empty() && plan.drift.is_empty());
    let [Settle::Record { reason: Reason::Recorded, remark: None, .. }] = &plan.settles[..] else {
        panic!("{:#?}", plan.settles)
    };
    assert!(world.record_mut(&db("orders")).document.is(&relabelled));
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_live_changed_is_drift_and_proposed() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty());
    assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
    let drifted = &plan.drift(&db("orders")).fields[0];
    assert_eq!((&drifted.base, &drifted.git), (&Some(json!(20)), &Some(json!(20))));
    assert_eq!((&drifted.live, drifted.conflict), (&Some(json!(50)), false));
}

#[test]
fn r3_both_changed_and_equal_is_only_recorded() {
    let mut world = orders();
    world.git_sets(&db("orders"), LIMIT, 50);
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.reconciles();
    assert!(plan.steps.is_empty() && plan.drift.is_empty() && plan.held.is_empty());
    let [Settle::Record { reason: Reason::Recorded, remark: Some(remark), .. }] = &plan.settles[..] else {
        panic!("{:#?}", plan.settles)
    };
    assert_eq!(remark.mark.hashes[&FieldPath::from(LIMIT)], FieldHash::of(&json!(50)));
    assert_eq!(world.record_mut(&db("orders")).applied.get(LIMIT), Some(&json!(50)));
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_both_changed_and_different_is_held_and_shows_three_values() {
    let mut world = orders();
    world.git_sets(&db("orders"), LIMIT, 30);
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
    let drifted = &plan.drift(&db("orders")).fields[0];
    assert_eq!(
        (&drifted.base, &drifted.git, &drifted.live, drifted.conflict),
        (&Some(json!(20)), &Some(json!(30)), &Some(json!(50)), true)
    );
}

#[test]
fn r3_a_held_conflict_stays_held_after_everything_else_is_applied() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20).with(APP_ACCESS, "read")]);
    world.git_sets(&db("orders"), LIMIT, 30);
    world.git_sets(&db("orders"), APP_ACCESS, "readwrite");
    world.live_becomes(&db("orders"), LIMIT, 50);
    assert_eq!(world.reconciles().changes(&db("orders")), [(APP_ACCESS, Some(&json!("readwrite")))]);
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty(), "{plan:#?}");
    assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
    assert_eq!(plan.drift(&db("orders")).fields[0].base, Some(json!(20)), "the base is kept");
    let kept = FieldHash::of(&json!(20));
    assert_eq!(world.mark_mut(&db("orders")).hashes[&FieldPath::from(LIMIT)], kept, "in the mark too");
}

#[test]
fn r3_other_fields_of_a_drifted_resource_keep_reconciling() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20).with(APP_ACCESS, "read")]);
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.git_sets(&db("orders"), APP_ACCESS, "admin");
    let plan = world.plan();
    assert_eq!(plan.changes(&db("orders")), [(APP_ACCESS, Some(&json!("admin")))]);
    assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
}

#[test]
fn r3_a_field_that_git_sets_for_the_first_time_is_applied() {
    let mut world = World::in_plumb([document(&db("orders"))]);
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.git_sets(&db("orders"), LIMIT, 20);
    assert_applies(&world, 20);
}

#[test]
fn r3_a_field_that_git_does_not_set_is_not_managed() {
    let mut world = World::in_plumb([document(&db("orders"))]);
    world.live_becomes(&db("orders"), LIMIT, 50);
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_a_removed_field_goes_to_its_default_once_and_is_then_unmanaged() {
    let mut world = orders();
    world.git_unsets(&db("orders"), LIMIT);
    assert_applies(&world, -1);
    world.reconciles();
    assert!(world.plan().is_quiet());
    assert!(!world.mark_mut(&db("orders")).hashes.contains_key(LIMIT));
    world.live_becomes(&db("orders"), LIMIT, 50);
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_a_removed_field_that_is_at_its_default_already_is_only_recorded() {
    let mut world = orders();
    world.git_unsets(&db("orders"), LIMIT);
    world.live_becomes(&db("orders"), LIMIT, -1);
    let plan = world.reconciles();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.settled(&db("orders")), Some(Reason::Recorded));
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_a_removed_field_that_live_changed_too_is_held() {
    let mut world = orders();
    world.git_unsets(&db("orders"), LIMIT);
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
    assert_eq!(plan.drift(&db("orders")).fields[0].git, None);
}

#[test]
fn r3_an_added_member_is_made_and_a_removed_one_is_dropped_and_flagged() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.git_sets(&db("orders"), APP_ACCESS, "read");
    world.git_sets(&db("orders"), PGCRYPTO, true);
    let plan = world.reconciles();
    assert_eq!(plan.changes(&db("orders")), [(PGCRYPTO, Some(&json!(true))), (APP_ACCESS, Some(&json!("read")))]);
    assert!(plan.step(&db("orders")).destructive.is_empty());

    world.git_unsets(&db("orders"), APP_ACCESS);
    world.git_unsets(&db("orders"), PGCRYPTO);
    let plan = world.reconciles();
    assert_eq!(plan.changes(&db("orders")), [(PGCRYPTO, None), (APP_ACCESS, None)]);
    assert_eq!(plan.step(&db("orders")).destructive, ["drops extension pgcrypto", "drops role app"]);
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_live_members_that_git_never_named_are_ignored() {
    let mut world = orders();
    world.live_becomes(&db("orders"), "/spec/roles/someone/access", "admin");
    world.live_becomes(&db("orders"), "/spec/extensions/postgis", true);
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_a_member_that_vanished_is_drift_and_not_made_again() {
    let mut world = World::in_plumb([document(&db("orders")).with(APP_ACCESS, "read")]);
    world.live_loses(&db("orders"), APP_ACCESS);
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_held(&plan, &db("orders"), APP_ACCESS, DriftMode::Propose);
    assert_eq!(plan.drift(&db("orders")).fields[0].live, None);
}

#[test]
fn r3_a_member_removed_from_git_and_gone_from_live_is_only_recorded() {
    let mut world = World::in_plumb([document(&db("orders")).with(APP_ACCESS, "read")]);
    world.git_unsets(&db("orders"), APP_ACCESS);
    world.live_loses(&db("orders"), APP_ACCESS);
    let plan = world.reconciles();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.settled(&db("orders")), Some(Reason::Recorded));
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_what_the_server_normalises_is_no_drift() {
    let mut world = World::in_plumb([document(&db("orders"))]);
    world.git_sets(&db("orders"), WORK_MEM, "64mb");
    world.reconciles();
    assert_eq!(world.live_mut(&db("orders")).fields.get(WORK_MEM), Some(&json!("64MB")));
    assert!(world.plan().is_quiet());
    world.live_becomes(&db("orders"), WORK_MEM, "128MB");
    let plan = world.plan();
    assert_held(&plan, &db("orders"), WORK_MEM, DriftMode::Propose);
    assert_eq!(plan.drift(&db("orders")).fields[0].base, Some(json!("64MB")));
}

#[test]
fn r3_a_member_that_an_apply_left_out_is_applied_again() {
    let mut world = World::in_plumb([document(&db("orders"))]);
    world.git_sets(&db("orders"), APP_ACCESS, "read");
    let plan = world.plan();
    let mut half = plan.clone();
    half.steps[0].changes.clear();
    world.applies(half);
    assert_eq!(world.plan().changes(&db("orders")), plan.changes(&db("orders")));
}

#[test]
fn r3_a_field_that_could_not_be_read_back_counts_as_applied() {
    let mut world = World::in_plumb([document(&db("orders")).with(APP_ACCESS, "read")]);
    world.field_cannot_be_seen(&db("orders"), "/spec/roles", Reason::TimedOut);
    world.prior.records.clear();
    world.record(&db("orders"), &BTreeSet::new());

    world.live_mut(&db("orders")).unknown.clear();
    world.live_becomes(&db("orders"), APP_ACCESS, "admin");
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_held(&plan, &db("orders"), APP_ACCESS, DriftMode::Propose);
    assert_eq!(plan.drift(&db("orders")).fields[0].base, Some(json!("read")));
}

#[test]
fn r3_drift_of_an_ignored_field_is_not_looked_at() {
    let mut world = orders();
    world.git_says(&db("orders"), |a| a.drift_ignore = vec!["/spec".into()]);
    world.reconciles();
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.plan();
    assert!(plan.is_in_sync() && plan.settles.is_empty());

    world.git_sets(&db("orders"), LIMIT, 30);
    assert_applies(&world, 30);
}

#[test]
fn r3_drift_shows_again_once_the_field_is_no_longer_ignored() {
    let mut world = orders();
    world.git_says(&db("orders"), |a| a.drift_ignore = vec![LIMIT.into()]);
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.reconciles();
    world.git_says(&db("orders"), |a| a.drift_ignore = Vec::new());
    assert_held(&world.plan(), &db("orders"), LIMIT, DriftMode::Propose);
}

#[test]
fn r3_revert_puts_live_back_and_tells() {
    let mut world = orders();
    world.decisions.drift = DriftMode::Revert;
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.reconciles();
    assert_eq!(plan.changes(&db("orders")), [(LIMIT, Some(&json!(20)))]);
    assert_eq!(plan.drift(&db("orders")).mode, DriftMode::Revert);
    assert!(plan.held.is_empty());
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_the_resource_says_what_is_done_about_drift_before_the_tenant() {
    let mut world = orders();
    world.decisions.drift = DriftMode::Revert;
    world.git_says(&db("orders"), |a| a.drift = Some(DriftMode::Observe));
    world.reconciles();
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_held(&plan, &db("orders"), LIMIT, DriftMode::Observe);
}

#[test]
fn r3_observe_still_asks_about_conflicts_and_only_about_them() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20).with(APP_ACCESS, "read")]);
    world.decisions.drift = DriftMode::Observe;
    world.git_sets(&db("orders"), LIMIT, 30);
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.live_becomes(&db("orders"), APP_ACCESS, "admin");
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    let told: Vec<_> = plan.drift.iter().map(|drift| (drift.mode, drift.fields[0].path.as_str())).collect();
    assert_eq!(told, [(DriftMode::Propose, LIMIT), (DriftMode::Observe, APP_ACCESS)]);
    assert!(plan.drift.iter().all(|drift| drift.fields.len() == 1));
}

#[test]
fn r3_a_suspended_resource_is_changed_in_nothing_and_asks_nobody() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20).with(APP_ACCESS, "read")]);
    world.decisions.drift = DriftMode::Revert;
    world.git_says(&db("orders"), |a| a.suspend = true);
    world.reconciles();
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.git_sets(&db("orders"), LIMIT, 30);
    world.git_sets(&db("orders"), APP_ACCESS, "admin");
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.blocked(&db("orders")).reason, Reason::Suspended);
    assert_held(&plan, &db("orders"), LIMIT, DriftMode::Observe);
}

#[test]
fn r3_a_commit_that_is_suspended_is_not_taken_for_applied_when_live_changed_too() {
    let mut world = orders();
    world.git_says(&db("orders"), |a| a.suspend = true);
    world.reconciles();
    world.live_becomes(&db("orders"), LIMIT, 50);
    assert!(world.plan().blocked.is_empty(), "git asks for nothing");
    world.git_sets(&db("orders"), LIMIT, 30);
    let mut by_tenant = world.clone();
    by_tenant.git_says(&db("orders"), |a| a.suspend = false);
    by_tenant.tenant.suspend = Suspend::Everywhere(true);
    for (world, said) in [(world, "plumb.dev/suspend is set"), (by_tenant, "is suspended")] {
        let plan = world.plan();
        let held = plan.blocked(&db("orders"));
        assert_eq!((held.reason, &held.step), (Reason::Suspended, &None));
        assert!(held.message.contains(said), "{}", held.message);
        assert_held(&plan, &db("orders"), LIMIT, DriftMode::Observe);
    }
}

#[test]
fn r3_the_mark_of_a_suspended_resource_is_not_rewritten() {
    let mut world = orders();
    world.git_says(&db("orders"), |a| a.suspend = true);
    world.git_sets(&db("orders"), LIMIT, 50);
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.reconciles();
    assert!(matches!(&plan.settles[..], [Settle::Record { remark: None, .. }]), "{:#?}", plan.settles);
    assert!(world.plan().is_quiet());
    world.git_says(&db("orders"), |a| a.suspend = false);
    let plan = world.reconciles();
    assert!(matches!(&plan.settles[..], [Settle::Record { remark: Some(_), .. }]), "{:#?}", plan.settles);
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_an_open_proposal_keeps_the_field_held() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.proposal_is_open(&db("orders"), limits(20, 20, 50));
    assert_held(&world.plan(), &db("orders"), LIMIT, DriftMode::Propose);
}

#[test]
fn r3_git_decides_when_it_sets_the_field_after_the_proposal_opened() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.proposal_is_open(&db("orders"), limits(20, 20, 50));
    world.git_sets(&db("orders"), LIMIT, 30);
    assert_applies(&world, 30);
}

#[test]
fn r3_git_decides_a_conflict_by_taking_its_own_change_back() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.proposal_is_open(&db("orders"), limits(20, 30, 50));
    assert_applies(&world, 20);
}

#[test]
fn r3_git_decides_by_no_longer_setting_the_field() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.proposal_is_open(&db("orders"), limits(20, 20, 50));
    world.git_unsets(&db("orders"), LIMIT);
    assert_applies(&world, -1);
}

#[test]
fn r3_a_proposal_about_one_field_says_nothing_of_another() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20).with(APP_ACCESS, "read")]);
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.live_becomes(&db("orders"), APP_ACCESS, "admin");
    world.git_sets(&db("orders"), APP_ACCESS, "readwrite");
    world.proposal_is_open(&db("orders"), limits(20, 20, 50));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.drift(&db("orders")).fields.len(), 2);
}

#[test]
fn r3_a_proposal_on_an_older_base_says_nothing_of_new_drift() {
    let mut world = orders();
    world.proposal_is_open(&db("orders"), limits(10, 10, 50));
    world.decision_lifts(&db("orders"), limits(10, 10, 99));
    world.live_becomes(&db("orders"), LIMIT, 99);
    assert_held(&world.plan(), &db("orders"), LIMIT, DriftMode::Propose);
}

#[test]
fn r3_a_closed_proposal_restores_git_while_live_is_what_the_person_saw() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.decision_lifts(&db("orders"), limits(20, 20, 50));
    assert_applies(&world, 20);
    world.reconciles();
    world.decisions.lifted.clear();
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_a_closed_proposal_does_not_restore_over_a_value_that_the_person_never_saw() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 70);
    world.decision_lifts(&db("orders"), limits(20, 20, 50));
    assert_held(&world.plan(), &db("orders"), LIMIT, DriftMode::Propose);
}

#[test]
fn r3_a_merged_proposal_is_only_recorded() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.decision_lifts(&db("orders"), limits(20, 20, 50));
    world.git_sets(&db("orders"), LIMIT, 50);
    let plan = world.reconciles();
    assert!(plan.steps.is_empty() && plan.drift.is_empty());
    assert_eq!(plan.settled(&db("orders")), Some(Reason::Recorded));
    world.decisions.lifted.clear();
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_a_proposal_merged_with_an_edit_applies_the_edit() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.decision_lifts(&db("orders"), limits(20, 20, 50));
    world.git_sets(&db("orders"), LIMIT, 40);
    assert_applies(&world, 40);
}

#[test]
fn r3_a_merged_proposal_accepts_no_value_that_came_after_it() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 60);
    world.git_sets(&db("orders"), LIMIT, 50);
    let offered = || limits(20, 20, 50);
    // Merged, or merged in part or by hand while the question is still out.
    let mut open = world.clone();
    open.proposal_is_open(&db("orders"), offered());
    world.decision_lifts(&db("orders"), offered());
    for asked in [&world, &open] {
        let plan = asked.plan();
        assert!(plan.steps.is_empty(), "{plan:#?}");
        assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
        let drifted = &plan.drift(&db("orders")).fields[0];
        assert_eq!(
            (&drifted.base, &drifted.git, &drifted.live, drifted.conflict),
            (&Some(json!(20)), &Some(json!(50)), &Some(json!(60)), true)
        );
    }
    // The new question has its own answers.
    world.decisions.lifted.clear();
    world.proposal_is_open(&db("orders"), limits(20, 50, 60));
    assert_held(&world.plan(), &db("orders"), LIMIT, DriftMode::Propose);
    world.decisions.open.clear();
    world.decision_lifts(&db("orders"), limits(20, 50, 60));
    assert_applies(&world, 50);
}

#[test]
fn r3_a_proposal_merged_with_an_edit_applies_the_edit_whatever_is_live_by_then() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 60);
    world.decision_lifts(&db("orders"), limits(20, 20, 50));
    world.git_sets(&db("orders"), LIMIT, 40);
    assert_applies(&world, 40);
}

#[test]
fn r3_a_merged_value_is_applied_over_the_one_that_everybody_knew() {
    let mut world = orders();
    world.decision_lifts(&db("orders"), limits(20, 20, 50));
    world.git_sets(&db("orders"), LIMIT, 50);
    assert_applies(&world, 50);
}

#[test]
fn r3_what_was_accepted_as_gone_is_not_dropped_when_it_is_there_again() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20).with(PGCRYPTO, true)]);
    let gone = || field(PGCRYPTO, Some(json!(true)), Some(json!(true)), None);
    world.git_unsets(&db("orders"), PGCRYPTO);
    assert_eq!(world.plan().changes(&db("orders")), [(PGCRYPTO, None)], "nobody was asked about it");
    world.decision_lifts(&db("orders"), gone());
    let plan = world.plan();
    assert!(plan.steps.is_empty(), "{plan:#?}");
    assert_held(&plan, &db("orders"), PGCRYPTO, DriftMode::Propose);
    // It stays while that is asked, and goes once a person says so.
    world.decisions.lifted.clear();
    let there = || field(PGCRYPTO, Some(json!(true)), None, Some(json!(true)));
    world.proposal_is_open(&db("orders"), there());
    assert_held(&world.plan(), &db("orders"), PGCRYPTO, DriftMode::Propose);
    world.decisions.open.clear();
    world.decision_lifts(&db("orders"), there());
    assert_eq!(world.reconciles().changes(&db("orders")), [(PGCRYPTO, None)]);
    world.decisions.lifted.clear();
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_a_member_of_somebody_else_that_git_names_no_more_is_let_go_of() {
    for reason in [Reason::NotOwned, Reason::OwnedByOther] {
        let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20).with(APP_ACCESS, "read")]);
        world.live_loses(&db("orders"), APP_ACCESS);
        world.field_cannot_be_seen(&db("orders"), "/spec/roles/app", reason);
        assert_eq!(world.plan().blocked(&db("orders")).reason, reason);
        world.git_unsets(&db("orders"), APP_ACCESS);
        let plan = world.reconciles();
        assert!(plan.steps.is_empty() && plan.blocked.is_empty() && plan.held.is_empty(), "{plan:#?}");
        assert_eq!(plan.settled(&db("orders")), Some(Reason::Recorded));
        assert_eq!(world.record_mut(&db("orders")).applied.get(APP_ACCESS), None);
        assert!(!world.mark_mut(&db("orders")).hashes.contains_key(APP_ACCESS));
        assert!(world.plan().is_quiet());
    }
}

#[test]
fn r3_an_ignored_difference_is_silent_until_it_changes() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.person_ignores(&db("orders"), limits(20, 20, 50));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
    assert!(plan.drift(&db("orders")).silenced);

    world.live_becomes(&db("orders"), LIMIT, 60);
    let plan = world.plan();
    assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
    assert!(!plan.drift(&db("orders")).silenced);
}

#[test]
fn r3_git_decides_over_an_ignored_difference() {
    let mut world = orders();
    world.live_becomes(&db("orders"), LIMIT, 50);
    world.person_ignores(&db("orders"), limits(20, 20, 50));
    world.git_sets(&db("orders"), LIMIT, 30);
    assert_applies(&world, 30);
}

#[test]
fn r3_what_is_undone_of_a_field_that_nobody_managed_goes_back_to_what_it_was() {
    let undone = || Change { path: LIMIT.into(), from: Some(json!(7)), to: Some(json!(20)) };
    // The step was done, and recorded.
    let mut world = orders();
    world.git_unsets(&db("orders"), LIMIT);
    world.decisions.unmanaged_before.insert(db("orders"), vec![undone()]);
    assert_applies(&world, 7);
    world.reconciles();
    assert!(world.plan().is_quiet(), "it is nobody's again");
    // What a step left that was half done is put back; what a person set since is not.
    world.live_becomes(&db("orders"), LIMIT, 20);
    assert_applies(&world, 7);
    world.live_becomes(&db("orders"), LIMIT, 8);
    assert!(world.plan().is_quiet());
}

/// A step began that gives the limit 50, and nobody wrote down how it ended.
fn begun() -> World {
    let mut world = orders();
    let record = world.record_mut(&db("orders"));
    record.begun.add(&[Change { path: LIMIT.into(), from: Some(json!(20)), to: Some(json!(50)) }], false);
    world
}

#[test]
fn r3_what_a_step_left_of_which_nobody_wrote_the_end_is_no_drift() {
    // It was done, and git wants that still, or what was before, or something else.
    for (git, done) in [(50, None), (20, Some(20)), (30, Some(30))] {
        let mut world = begun();
        world.git_sets(&db("orders"), LIMIT, git);
        world.live_becomes(&db("orders"), LIMIT, 50);
        match done {
            Some(value) => assert_applies(&world, value),
            None => assert!(world.plan().steps.is_empty() && world.plan().drift.is_empty()),
        }
        world.reconciles();
        assert!(world.plan().is_quiet(), "{git}");
        assert!(world.record_mut(&db("orders")).begun.is_empty(), "{git}");
    }
    // It was not done: git decides as before, and what is live then is somebody's doing.
    let mut world = begun();
    assert_eq!(world.reconciles().settled(&db("orders")), Some(Reason::Recorded));
    world.live_becomes(&db("orders"), LIMIT, 50);
    assert_eq!(world.plan().drift(&db("orders")).fields.len(), 1);
    // A person was quicker.
    let mut world = begun();
    world.live_becomes(&db("orders"), LIMIT, 7);
    assert_eq!(world.plan().drift(&db("orders")).fields.len(), 1);
}

#[test]
fn r3_what_a_step_began_stays_open_while_it_cannot_be_seen() {
    let mut world = begun();
    world.field_cannot_be_seen(&db("orders"), LIMIT, Reason::NotObserved);
    let plan = world.reconciles();
    assert!(plan.steps.is_empty() && plan.settles.is_empty(), "{plan:#?}");
    assert!(!world.record_mut(&db("orders")).begun.is_empty());
}

#[test]
fn r3_a_member_that_a_step_added_of_which_nobody_wrote_the_end_is_gits_to_drop() {
    const ROLE: &str = "/spec/roles/app/access";
    let mut world = orders();
    world.live_becomes(&db("orders"), ROLE, "read");
    assert!(world.plan().is_quiet(), "it is nobody's");
    let added = [Change { path: ROLE.into(), from: None, to: Some(json!("read")) }];
    world.record_mut(&db("orders")).begun.add(&added, false);
    assert_eq!(world.plan().changes(&db("orders")), [(ROLE, None)]);
    // What is undone keeps what it added, and remembers whose it is.
    world.decisions.rolled_back.insert(db("orders"), "it failed for good".to_owned());
    let plan = world.reconciles();
    assert_eq!((plan.steps.len(), plan.settled(&db("orders"))), (0, Some(Reason::Recorded)));
    world.decisions.rolled_back.clear();
    assert_eq!(world.plan().changes(&db("orders")), [(ROLE, None)]);
    // An extension bears no mark: it may be somebody's by now.
    const EXTENSION: &str = "/spec/extensions/pgcrypto";
    let mut world = orders();
    world.live_becomes(&db("orders"), EXTENSION, true);
    let added = [Change { path: EXTENSION.into(), from: None, to: Some(json!(true)) }];
    world.record_mut(&db("orders")).begun.add(&added, false);
    assert!(world.reconciles().steps.is_empty());
    assert!(world.plan().is_quiet());
}

#[test]
fn r12_new_passwords_that_may_have_been_set_are_set_again_where_git_asks_for_some() {
    let mut world = orders();
    world.record_mut(&db("orders")).begun.passwords = true;
    assert!(world.plan().is_quiet(), "nobody asks for others");
    let rotation = |world: &World| world.plan().step(&db("orders")).rotate.clone();
    world.git_says(&db("orders"), |a| a.rotate = Some("one".to_owned()));
    world.record_mut(&db("orders")).annotations.rotate = Some("one".to_owned());
    assert_eq!(rotation(&world).as_deref(), Some("one"), "those that were asked for last");
    world.git_says(&db("orders"), |a| a.rotate = Some("two".to_owned()));
    assert_eq!(rotation(&world).as_deref(), Some("two"));
    world.reconciles();
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_live_that_returns_by_itself_needs_nothing() {
    let mut world = orders();
    world.proposal_is_open(&db("orders"), limits(20, 20, 50));
    assert!(world.plan().is_quiet());
}

#[test]
fn r3_what_git_only_says_about_a_resource_is_recorded() {
    let mut world = orders();
    world.git_says(&db("orders"), |a| a.drift = Some(DriftMode::Revert));
    world.document_mut(&db("orders")).origin.file = "moved/orders.yaml".to_owned();
    let plan = world.reconciles();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.settled(&db("orders")), Some(Reason::Recorded));
    assert_eq!(world.record_mut(&db("orders")).file, "moved/orders.yaml");
    assert!(world.plan().is_quiet());
}

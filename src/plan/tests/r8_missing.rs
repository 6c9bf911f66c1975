//! R8: data that is gone is not made again empty on its own.

use super::world::*;
use crate::model::{Action, ApprovalKind, DriftMode, PlanId, Reason};

fn gone() -> World {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20), document(&db("unrelated"))]);
    world.vanishes(&db("orders"));
    world
}

#[test]
fn r8_data_that_is_gone_is_missing_and_its_removal_is_proposed() {
    let plan = gone().plan();
    assert!(plan.steps.is_empty());
    let blocked = plan.blocked(&db("orders"));
    assert_eq!(blocked.reason, Reason::DataMissing);
    assert!(blocked.message.contains(&format!("Plumb-Approve-Create: {}", plan.id)), "{}", blocked.message);
    let drift = plan.drift(&db("orders"));
    assert!(drift.missing && drift.fields.is_empty() && !drift.silenced);
    assert_eq!(drift.mode, DriftMode::Propose);
}

#[test]
fn r8_missing_data_is_never_put_back_by_revert() {
    let mut world = gone();
    world.decisions.drift = DriftMode::Revert;
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.drift(&db("orders")).mode, DriftMode::Propose);
    world.decisions.drift = DriftMode::Observe;
    assert_eq!(world.plan().drift(&db("orders")).mode, DriftMode::Observe);
    assert!(world.plan().steps.is_empty());
}

#[test]
fn r8_a_trace_of_lost_data_counts_when_the_inventory_is_lost_too() {
    let mut world = gone();
    world.inventory_is_lost();
    world.vanishes_with_a_trace(&db("orders"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("orders")), [Reason::DataMissing]);
}

#[test]
fn r8_a_conversation_about_lost_data_counts_when_the_inventory_is_lost_too() {
    let mut world = gone();
    world.inventory_is_lost();
    assert_eq!(world.plan().action(&db("orders")), Some(Action::Create), "nobody knows that it was there");
    world.decisions.were_there.insert(db("orders"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("orders")), [Reason::DataMissing]);
}

#[test]
fn r8_an_approval_lets_it_be_made_again() {
    let mut world = gone();
    let plan = world.plan();
    assert_eq!(plan.awaiting(ApprovalKind::Create), [db("orders")].into());
    world.commit_approves(ApprovalKind::Create, &plan);
    assert_eq!(world.reconciles().action(&db("orders")), Some(Action::Create));
    assert!(world.plan().is_quiet());
}

#[test]
fn r8_an_approval_covers_each_missing_object_for_itself() {
    let mut world = gone();
    world.approve(ApprovalKind::Create, PlanId("another".to_owned()), [db("orders")]);
    world.vanishes(&db("unrelated"));
    let plan = world.plan();
    assert_eq!(plan.order(), [&db("orders")]);
    assert_eq!(plan.reasons(&db("unrelated")), [Reason::DataMissing]);
}

#[test]
fn r8_an_approval_of_deletions_makes_nothing() {
    let mut world = gone();
    world.approve(ApprovalKind::Deletes, world.plan().id, [db("orders")]);
    assert!(world.plan().steps.is_empty());
}

#[test]
fn r8_a_proposal_decided_against_is_not_made_again_and_makes_nothing() {
    let mut world = gone();
    world.decisions.kept_missing.insert(db("orders"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert!(plan.drift(&db("orders")).silenced);
    assert_eq!(plan.reasons(&db("orders")), [Reason::DataMissing]);
}

#[test]
fn r8_removing_the_document_clears_the_inventory() {
    let mut world = gone();
    world.git_removes(&db("orders"));
    let plan = world.reconciles();
    assert!(plan.steps.is_empty() && plan.blocked.is_empty());
    assert_eq!(plan.settled(&db("orders")), Some(Reason::Gone));
    assert!(world.prior.get(&db("orders")).is_none());
    assert!(world.plan().is_quiet());
}

#[test]
fn r8_nothing_is_forgotten_while_deletions_are_held() {
    let mut world = gone();
    world.git_removes(&db("orders"));
    world.decisions.prune_holds.push((Reason::SourceChanged, "the branch is another".to_owned()));
    let plan = world.plan();
    assert!(plan.settles.is_empty());
    assert_eq!(plan.reasons(&db("orders")), [Reason::SourceChanged]);
    world.commit_approves(ApprovalKind::Deletes, &plan);
    assert_eq!(world.plan().settled(&db("orders")), Some(Reason::Gone));
}

#[test]
fn r8_a_cache_that_is_gone_is_made_again() {
    let mut world = World::in_plumb([document(&cache("sessions"))]);
    world.vanishes(&cache("sessions"));
    assert_eq!(world.plan().drift[0].mode, DriftMode::Revert, "it is told");
    let plan = world.reconciles();
    assert_eq!(plan.action(&cache("sessions")), Some(Action::Create));
    assert!(world.plan().is_quiet());
}

#[test]
fn r8_a_cache_that_is_gone_is_only_told_when_it_is_observed() {
    let mut world = World::in_plumb([document(&cache("sessions"))]);
    world.decisions.drift = DriftMode::Observe;
    world.vanishes(&cache("sessions"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert!(plan.drift(&cache("sessions")).missing);
}

#[test]
fn r8_what_needs_missing_data_waits_for_it() {
    let mut world = gone();
    world.git_has(document(&db("reports")).with(LIMIT, 5).needing(&db("orders")));
    world.vanishes(&db("reports"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("reports")), [Reason::DependencyNotReady]);
    world.commit_approves(ApprovalKind::Create, &plan);
    assert_eq!(world.plan().order(), [&db("orders"), &db("reports")]);
}

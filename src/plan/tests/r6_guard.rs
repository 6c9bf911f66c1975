//! R6: how much may go at once without a person.

use super::world::*;
use crate::model::{Action, ApprovalKind, Deletion, PlanId, PlanScope, Reason, ResourceKey};

fn caches(count: usize) -> Vec<ResourceKey> {
    (0..count).map(|number| cache(&format!("c{number:03}"))).collect()
}

/// A tenant with `all` caches in plumb, of which git has removed the first `gone`.
fn removing(gone: usize, all: usize) -> World {
    let mut world = World::in_plumb(caches(all).iter().map(document));
    caches(gone).iter().for_each(|key| world.git_removes(key));
    world
}

#[track_caller]
fn assert_all_held(world: &World, count: usize) {
    let plan = world.plan();
    assert!(plan.steps.is_empty(), "{:?}", plan.order());
    assert_eq!(plan.blocked.len(), count);
    assert!(plan.blocked.iter().all(|blocked| blocked.reason == Reason::DeletionsHeld));
    assert!(plan.blocked[0].message.contains(&format!("Plumb-Approve-Deletes: {}", plan.id)));
}

#[track_caller]
fn assert_deletes(world: &World, count: usize) {
    let plan = world.plan();
    assert!(plan.blocked.is_empty(), "{:?}", plan.blocked);
    assert_eq!(plan.summary().delete, count);
}

#[test]
fn r6_five_deletions_pass_whatever_their_share() {
    assert_deletes(&removing(5, 6), 5);
}

#[test]
fn r6_six_deletions_pass_up_to_a_tenth() {
    assert_deletes(&removing(6, 60), 6);
}

#[test]
fn r6_six_deletions_and_more_than_a_tenth_are_held() {
    assert_all_held(&removing(6, 59), 6);
}

#[test]
fn r6_all_of_them_are_held_however_few() {
    assert_all_held(&removing(1, 1), 1);
    assert_all_held(&removing(2, 2), 2);
}

#[test]
fn r6_the_platform_sets_the_thresholds() {
    let mut world = removing(2, 10);
    world.platform.spec.deletion_guard.count = 1;
    assert_all_held(&world, 2);
    world.platform.spec.deletion_guard.percent = 20;
    assert_deletes(&world, 2);
}

#[test]
fn r6_replacements_and_dropped_members_count_as_deletions() {
    let mut world = World::new();
    let names = ["a", "b", "c", "d"].map(db);
    for key in &names {
        let document = document(key).with(PAGE_SIZE, 4096).with(APP_ACCESS, "read").with(PGCRYPTO, true);
        world.is_in_plumb(document.saying(|a| a.deletion = Some(Deletion::Delete)));
    }
    world.git_sets(&names[0], PAGE_SIZE, 8192);
    world.git_unsets(&names[1], APP_ACCESS);
    world.git_unsets(&names[1], PGCRYPTO);
    world.git_unsets(&names[2], APP_ACCESS);
    world.git_unsets(&names[2], PGCRYPTO);
    let plan = world.plan();
    assert_eq!(plan.steps.len(), 3, "five losses pass");
    assert_eq!(plan.action(&names[0]), Some(Action::Replace));

    world.git_unsets(&names[3], APP_ACCESS);
    assert_all_held(&world, 4);
}

#[test]
fn r6_a_step_that_loses_nothing_passes_beside_held_deletions() {
    let mut world = removing(6, 10);
    world.is_in_plumb(document(&db("orders")).with(LIMIT, 20));
    world.git_sets(&db("orders"), LIMIT, 30);
    let plan = world.plan();
    assert_eq!(plan.order(), [&db("orders")]);
    assert_eq!(plan.blocked.len(), 6);
}

#[test]
fn r6_a_dropped_role_of_a_tenants_only_resource_is_not_all_of_them() {
    let mut world = World::in_plumb([document(&db("orders")).with(APP_ACCESS, "read")]);
    world.git_unsets(&db("orders"), APP_ACCESS);
    assert_eq!(world.plan().action(&db("orders")), Some(Action::Update));
    world.inventory_is_lost();
    assert_eq!(world.plan().action(&db("orders")), Some(Action::Update), "with the inventory lost as well");
}

#[test]
fn r6_an_approval_by_the_id_of_the_plan_lets_all_of_it_pass() {
    let mut world = removing(6, 10);
    let plan = world.plan();
    world.approve(ApprovalKind::Deletes, plan.id.clone(), []);
    assert_deletes(&world, 6);
    assert_eq!(world.plan().id, plan.id, "the approval does not change what was approved");
    world.reconciles();
    assert!(world.plan().is_quiet());
}

#[test]
fn r6_the_commit_that_approves_leaves_the_id_as_it_was() {
    let mut world = removing(6, 10);
    let plan = world.plan();
    world.desired.commit = Some("the approving commit".to_owned());
    world.commit_approves(ApprovalKind::Deletes, &plan);
    assert_eq!(world.plan().id, plan.id);
    assert_deletes(&world, 6);
}

#[test]
fn r6_an_approval_covers_its_keys_and_their_subsets() {
    let mut world = removing(8, 10);
    world.approve(ApprovalKind::Deletes, PlanId("another".to_owned()), caches(8));
    assert_deletes(&world, 8);
    world.git_has(document(&caches(1)[0]));
    assert_deletes(&world, 7);
}

#[test]
fn r6_an_approval_that_lacks_one_key_covers_none() {
    let mut world = removing(8, 10);
    world.approve(ApprovalKind::Deletes, PlanId("another".to_owned()), caches(7));
    assert_all_held(&world, 8);
}

#[test]
fn r6_two_approvals_do_not_add_up() {
    let mut world = removing(8, 10);
    world.approve(ApprovalKind::Deletes, PlanId("one".to_owned()), caches(7));
    world.approve(ApprovalKind::Deletes, PlanId("two".to_owned()), caches(8).split_off(7));
    assert_all_held(&world, 8);
}

#[test]
fn r6_an_approval_without_keys_covers_only_its_own_plan() {
    let mut world = removing(8, 10);
    world.approve(ApprovalKind::Deletes, PlanId("forgotten".to_owned()), []);
    assert_all_held(&world, 8);
}

#[test]
fn r6_an_approval_to_create_lets_no_deletion_pass() {
    let mut world = removing(8, 10);
    world.approve(ApprovalKind::Create, world.plan().id, caches(8));
    assert_all_held(&world, 8);
}

#[test]
fn r6_held_deletions_stay_held_when_the_tenant_grows_meanwhile() {
    let mut world = removing(1, 1);
    world.git_has(document(&cache("new")));
    world.vanishes(&cache("new"));
    let first = world.reconciles();
    assert_eq!(first.order(), [&cache("new")]);
    assert_all_held(&world, 1);
    world.commit_approves(ApprovalKind::Deletes, &world.plan());
    assert_deletes(&world, 1);
}

#[test]
fn r6_a_suspended_deletion_is_not_counted_and_not_done() {
    let mut world = removing(5, 20);
    world.is_in_plumb(document(&cache("asleep")).saying(|a| a.suspend = true));
    world.git_removes(&cache("asleep"));
    let plan = world.plan();
    assert_eq!(plan.summary().delete, 5);
    assert_eq!(plan.reasons(&cache("asleep")), [Reason::Suspended]);
}

#[test]
fn r6_a_narrowed_plan_loses_nothing() {
    let mut world = World::in_plumb([document(&cache("sessions")), document(&db("orders")).with(APP_ACCESS, "read")]);
    world.git_removes(&cache("sessions"));
    world.git_unsets(&db("orders"), APP_ACCESS);
    world.scope = PlanScope::Keys([cache("sessions"), db("orders")].into());
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty());
    assert_eq!(plan.reasons(&db("orders")), [Reason::DeletionsHeld]);
    assert!(plan.awaiting(ApprovalKind::Deletes).is_empty(), "it cannot be approved");
    world.approve(ApprovalKind::Deletes, plan.id, [cache("sessions"), db("orders")]);
    assert!(world.plan().steps.is_empty());

    world.scope = PlanScope::Full;
    assert_eq!(world.plan().steps.len(), 2);
}

#[test]
fn r6_what_awaits_an_approval_is_what_the_trailer_covers() {
    let mut world = removing(6, 10);
    world.a_stray_bears_the_mark_of(&cache("stray"));
    let plan = world.plan();
    let mut expected = caches(6);
    expected.push(cache("stray"));
    assert_eq!(plan.awaiting(ApprovalKind::Deletes), expected.into_iter().collect());
    assert!(plan.awaiting(ApprovalKind::Create).is_empty());
    world.approve(ApprovalKind::Deletes, PlanId("an older id".to_owned()), plan.awaiting(ApprovalKind::Deletes));
    assert_deletes(&world, 7);
}

//! What may pass now: quota, policies, windows, suspension.

use std::collections::BTreeMap;

use serde_json::json;

use super::world::*;
use crate::model::{Action, DriftMode, Hold, Kind, PlanScope, Reason, Suspend};

fn closed_until_eight() -> Hold {
    let until = "2030-01-01T08:00:00Z".parse().ok();
    Hold { until, ..Hold::by(Reason::WindowClosed, "opens at 08:00") }
}

fn new_caches(world: &mut World, names: &[&str]) {
    for name in names {
        world.git_has(document(&cache(name)));
        world.vanishes(&cache(name));
    }
}

#[test]
fn gate_over_the_quota_only_new_keys_are_blocked_in_key_order() {
    let mut world = World::in_plumb([document(&cache("m")), document(&cache("z"))]);
    new_caches(&mut world, &["c", "a", "b"]);
    world.tenant.quotas = BTreeMap::from([(Kind::Cache, 4)]);
    let plan = world.plan();
    assert_eq!(plan.order(), [&cache("a"), &cache("b")]);
    assert_eq!(plan.reasons(&cache("c")), [Reason::QuotaExceeded]);
}

#[test]
fn gate_a_quota_below_what_is_there_stops_no_change_and_no_deletion() {
    let mut world = World::in_plumb(["a", "b", "c"].map(|name| document(&db(name)).with(LIMIT, 20)));
    world.tenant.quotas = BTreeMap::from([(Kind::Database, 1)]);
    world.git_sets(&db("a"), LIMIT, 30);
    world.is_in_plumb(document(&cache("sessions")));
    world.git_removes(&cache("sessions"));
    let plan = world.plan();
    assert_eq!(plan.order(), [&db("a"), &cache("sessions")]);
    assert!(plan.blocked.is_empty());
}

#[test]
fn gate_a_quota_of_one_kind_says_nothing_of_another() {
    let mut world = World::new();
    new_caches(&mut world, &["a"]);
    world.tenant.quotas = BTreeMap::from([(Kind::Database, 0)]);
    assert_eq!(world.plan().order(), [&cache("a")]);
}

#[test]
fn gate_an_adoption_counts_as_a_new_key() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).saying(|a| a.adopt = true));
    world.somebody_made(&db("orders"), &[]);
    world.tenant.quotas = BTreeMap::from([(Kind::Database, 0)]);
    assert_eq!(world.plan().reasons(&db("orders")), [Reason::QuotaExceeded]);
}

#[test]
fn gate_what_a_lost_inventory_forgot_still_fills_the_quota() {
    let mut world = World::in_plumb([document(&cache("a")), document(&cache("b"))]);
    new_caches(&mut world, &["c"]);
    world.tenant.quotas = BTreeMap::from([(Kind::Cache, 2)]);
    world.inventory_is_lost();
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&cache("c")), [Reason::QuotaExceeded]);
}

#[test]
fn gate_a_creation_that_began_within_the_quota_is_finished() {
    let mut world = World::new();
    new_caches(&mut world, &["a"]);
    let mut mark = world.mark(&cache("a"), &[]);
    mark.unfinished = true;
    world.stands(&cache("a"), crate::model::Ownership::Marked(mark), &[]);
    world.tenant.quotas = BTreeMap::from([(Kind::Cache, 1)]);
    assert_eq!(world.plan().order(), [&cache("a")]);
}

#[test]
fn gate_missing_data_keeps_its_place_in_the_quota() {
    let mut world = World::in_plumb([document(&cache("a"))]);
    world.vanishes(&cache("a"));
    world.tenant.quotas = BTreeMap::from([(Kind::Cache, 1)]);
    assert_eq!(world.plan().action(&cache("a")), Some(Action::Create));
}

#[test]
fn gate_a_policy_denies_a_step_with_its_message() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.desired.denied.insert(db("orders"), "connection limits above 25 need a review".to_owned());
    world.reconciles();
    assert!(world.plan().is_quiet(), "what needs no step is not in the way");
    world.git_sets(&db("orders"), LIMIT, 30);
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    let blocked = plan.blocked(&db("orders"));
    assert_eq!(
        (blocked.reason, blocked.message.as_str()),
        (Reason::PolicyDenied, "connection limits above 25 need a review")
    );
}

#[test]
fn gate_a_denied_resource_is_not_even_marked_anew() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.desired.denied.insert(db("orders"), "no".to_owned());
    world.git_sets(&db("orders"), LIMIT, 50);
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.plan();
    assert!(matches!(&plan.settles[..], [crate::model::Settle::Record { remark: None, .. }]));
}

#[test]
fn gate_outside_a_window_nothing_of_that_environment_is_changed() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20), document(&cache("sessions"))]);
    world.is_in_plumb(document(&cache("second")));
    world.git_sets(&db("orders"), LIMIT, 30);
    world.git_removes(&cache("sessions"));
    let open = world.plan();
    world.decisions.closed_windows.insert("staging".to_owned(), closed_until_eight());
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("orders")), [Reason::WindowClosed]);
    let held = plan.blocked(&cache("sessions"));
    assert_eq!((held.message.as_str(), held.until), ("opens at 08:00", closed_until_eight().until));
    assert_eq!(plan.goes_on_at(), closed_until_eight().until);
    assert_eq!(plan.id, open.id, "a window does not change what the plan is");
}

#[test]
fn gate_what_no_window_lets_go_on_says_so_while_one_is_closed() {
    let mut world = World::in_plumb(["a", "b", "c"].map(|name| document(&db(name)).with(LIMIT, 20)));
    for name in ["a", "b", "c"] {
        world.git_sets(&db(name), LIMIT, 30);
    }
    world.decisions.closed_windows.insert("staging".to_owned(), closed_until_eight());
    world.decisions.not_now.insert(db("a"), Hold::by(Reason::DeadLetter, "no more"));
    let until = "2030-01-01T07:00:00Z".parse().ok();
    world.decisions.not_now.insert(db("b"), Hold { until, ..Hold::by(Reason::BackingOff, "later") });
    let plan = world.plan();
    assert_eq!(plan.blocked(&db("a")).until, None);
    let told = ["a", "b", "c"].map(|name| plan.blocked(&db(name)).reason);
    assert_eq!(told, [Reason::DeadLetter, Reason::WindowClosed, Reason::WindowClosed]);
}

#[test]
fn gate_what_keeps_something_from_being_undone_is_told_in_place_of_that() {
    let names = ["done", "due", "stopped", "unseen"];
    let mut world = World::in_plumb(names.map(|name| document(&db(name)).with(LIMIT, 20)));
    for name in names {
        world.decisions.rolled_back.insert(db(name), "it failed for good".to_owned());
    }
    for name in ["due", "stopped"] {
        world.git_sets(&db(name), LIMIT, 30);
    }
    world.decisions.not_now.insert(db("stopped"), Hold::by(Reason::DeadLetter, "no more"));
    world.cannot_be_seen(&db("unseen"));
    let plan = world.plan();
    assert_eq!(plan.order(), [&db("due")]);
    let told = names.map(|name| plan.reasons(&db(name)));
    let (undone, stopped) = (vec![Reason::RolledBack], vec![Reason::DeadLetter]);
    assert_eq!(told, [undone.clone(), undone, stopped, Vec::new()]);
    assert!(names.iter().all(|name| plan.rolls_back(&db(name))));
}

#[test]
fn gate_outside_a_window_no_mark_is_rewritten() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.decisions.closed_windows.insert("staging".to_owned(), closed_until_eight());
    world.git_sets(&db("orders"), LIMIT, 50);
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.reconciles();
    assert!(matches!(&plan.settles[..], [crate::model::Settle::Record { remark: None, .. }]));
    assert!(world.plan().is_quiet());
}

#[test]
fn gate_the_window_of_another_environment_says_nothing() {
    let mut world = World::new();
    new_caches(&mut world, &["a"]);
    world.decisions.closed_windows.insert("production".to_owned(), closed_until_eight());
    assert_eq!(world.plan().order(), [&cache("a")]);
}

#[test]
fn gate_a_suspended_resource_is_neither_made_nor_changed_nor_deleted() {
    let mut world = World::in_plumb(["a", "b", "c"].map(|name| document(&cache(name)).saying(|a| a.suspend = true)));
    new_caches(&mut world, &["new"]);
    world.git_says(&cache("new"), |a| a.suspend = true);
    world.git_sets(&cache("a"), "/spec/categories/read", true);
    world.git_removes(&cache("b"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    for key in ["a", "b", "new"] {
        assert_eq!(plan.reasons(&cache(key)), [Reason::Suspended]);
    }
}

#[test]
fn gate_of_a_suspended_tenant_nothing_is_made_changed_put_back_rotated_or_deleted() {
    let mut world = World::in_plumb(["a", "b", "c"].map(|name| document(&cache(name))));
    world.is_in_plumb(document(&db("d")).with(LIMIT, 20));
    world.decisions.drift = DriftMode::Revert;
    new_caches(&mut world, &["new"]);
    world.git_sets(&cache("a"), "/spec/categories/read", true);
    world.git_removes(&cache("b"));
    world.git_says(&cache("c"), |a| a.rotate = Some("june".to_owned()));
    world.live_becomes(&db("d"), LIMIT, 50);
    let open = world.plan();
    assert_eq!(open.steps.len(), 5, "{open:#?}");
    world.tenant.suspend = Suspend::Everywhere(true);
    world.tenant.suspend_reason = Some("INC-42".to_owned());
    let plan = world.plan();
    assert!(plan.steps.is_empty(), "{:#?}", plan.steps);
    for key in ["a", "b", "c", "new"] {
        assert_eq!(plan.reasons(&cache(key)), [Reason::Suspended]);
    }
    assert_eq!(
        plan.blocked(&cache("a")).message,
        "tenant checkout is suspended (INC-42); to go on, remove spec.suspend of its Tenant in the platform repository"
    );
    let told: Vec<_> = plan.drift.iter().map(|drift| (&drift.key, drift.mode)).collect();
    assert_eq!(told, [(&db("d"), DriftMode::Observe)]);
    world.tenant.suspend = Suspend::Everywhere(false);
    assert_eq!(world.plan(), open);
}

#[test]
fn gate_a_suspended_environment_holds_no_other() {
    let mut world = World::new();
    new_caches(&mut world, &["a"]);
    world.tenant.suspend = Suspend::Environments(vec!["production".to_owned()]);
    assert_eq!(world.plan().order(), [&cache("a")]);
    world.tenant.suspend = Suspend::Environments(vec!["production".to_owned(), "staging".to_owned()]);
    let plan = world.plan();
    assert_eq!(
        plan.blocked(&cache("a")).message,
        "staging of tenant checkout is suspended; to go on, remove staging from spec.suspend of its Tenant in the \
         platform repository"
    );
}

#[test]
fn gate_a_blocked_step_is_shown_whole() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.git_sets(&db("orders"), LIMIT, 30);
    world.git_says(&db("orders"), |a| a.suspend = true);
    let plan = world.plan();
    let step = plan.blocked(&db("orders")).step.as_ref().unwrap();
    assert_eq!(step.changes[0].to, Some(json!(30)));
}

#[test]
fn gate_a_narrowed_plan_looks_at_its_keys_alone() {
    let mut world = World::in_plumb([document(&db("a")).with(LIMIT, 20), document(&db("b")).with(LIMIT, 20)]);
    world.git_sets(&db("a"), LIMIT, 30);
    world.git_sets(&db("b"), LIMIT, 30);
    world.desired.rejected.insert(db("c"), "broken".to_owned());
    world.scope = PlanScope::Keys([db("a")].into());
    let plan = world.plan();
    assert_eq!(plan.order(), [&db("a")]);
    assert!(plan.blocked.is_empty() && plan.unknown.is_empty());
}

#[test]
fn gate_a_narrowed_plan_forgets_nothing() {
    let mut world = World::in_plumb([document(&cache("a"))]);
    world.git_removes(&cache("a"));
    world.vanishes(&cache("a"));
    world.scope = PlanScope::Keys([cache("a")].into());
    assert!(world.plan().settles.is_empty());
}

#[test]
fn gate_a_step_that_failed_waits_for_its_turn_and_what_needs_it_waits_too() {
    let mut world = World::new();
    for (name, needs) in [("a", Some("b")), ("b", None)] {
        let mut document = document(&db(name)).with(LIMIT, 1);
        document.depends_on = needs.into_iter().map(db).collect();
        world.git_has(document);
        world.vanishes(&db(name));
    }
    let id = world.plan().id;
    world.decisions.not_now.insert(db("b"), Hold::by(Reason::BackingOff, "later"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("b")), [Reason::BackingOff]);
    assert_eq!(plan.reasons(&db("a")), [Reason::DependencyNotReady]);
    assert_eq!(plan.id, id, "a closed gate does not change what a plan is");
}

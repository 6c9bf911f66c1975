//! The order of steps, and waiting for others.

use super::world::*;
use crate::model::{Action, Deletion, Hold, Reason};

#[test]
fn order_dependencies_come_first_and_keys_break_ties() {
    let mut world = World::new();
    for (name, needs) in [("a", Some("z")), ("b", None), ("z", None)] {
        let mut document = document(&db(name)).with(LIMIT, name.len() as i64);
        document.depends_on = needs.into_iter().map(db).collect();
        world.git_has(document);
        world.vanishes(&db(name));
    }
    let plan = world.plan();
    assert_eq!(plan.order(), [&db("b"), &db("z"), &db("a")]);
    assert_eq!(plan.step(&db("a")).depends_on, [db("z")]);
    assert!(plan.step(&db("b")).depends_on.is_empty());
}

#[test]
fn order_an_update_waits_for_the_update_of_what_it_needs() {
    let mut world =
        World::in_plumb([document(&db("a")).with(LIMIT, 1).needing(&db("b")), document(&db("b")).with(LIMIT, 1)]);
    world.git_sets(&db("a"), LIMIT, 2);
    world.git_sets(&db("b"), LIMIT, 2);
    assert_eq!(world.plan().order(), [&db("b"), &db("a")]);
}

#[test]
fn order_what_is_undone_goes_the_other_way_round_and_is_held_from_going_on() {
    let mut world =
        World::in_plumb([document(&db("a")).with(LIMIT, 1).needing(&db("b")), document(&db("b")).with(LIMIT, 1)]);
    for name in ["a", "b"] {
        world.git_sets(&db(name), LIMIT, 2);
        world.decisions.rolled_back.insert(db(name), "it failed for good".to_owned());
    }
    let plan = world.plan();
    assert_eq!(plan.order(), [&db("a"), &db("b")]);
    assert_eq!(plan.step(&db("b")).depends_on, [db("a")]);
    assert_eq!(plan.reasons(&db("a")), [Reason::RolledBack]);
    assert!(plan.rolls_back(&db("b")) && !plan.is_in_sync());
}

#[test]
fn order_deletions_go_the_other_way_round() {
    let mut world = World::in_plumb([
        document(&cache("base")),
        document(&cache("middle")).needing(&cache("base")),
        document(&cache("top")).needing(&cache("middle")),
        document(&cache("x")),
    ]);
    for name in ["base", "middle", "top"] {
        world.git_removes(&cache(name));
    }
    let plan = world.reconciles();
    assert_eq!(plan.order(), [&cache("top"), &cache("middle"), &cache("base")]);
    assert_eq!(plan.step(&cache("base")).depends_on, [cache("middle")]);
    assert!(world.plan().is_quiet());
}

#[test]
fn order_what_was_never_made_keeps_nothing_from_being_undone() {
    let mut world = World::in_plumb([document(&cache("sessions")), document(&cache("x"))]);
    world.git_removes(&cache("sessions"));
    world.git_has(document(&db("reports")).needing(&cache("sessions")));
    world.vanishes(&db("reports"));
    world.decisions.not_now.insert(db("reports"), Hold::by(Reason::RolledBack, "it is not begun"));
    assert_eq!(world.plan().action(&cache("sessions")), Some(Action::Delete));
}

#[test]
fn order_a_new_resource_waits_for_what_is_not_there() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).needing(&cache("sessions")));
    world.vanishes(&db("orders"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    let blocked = plan.blocked(&db("orders"));
    assert_eq!(blocked.reason, Reason::DependencyNotReady);
    assert!(blocked.message.contains(&cache("sessions").to_string()), "{}", blocked.message);
}

#[test]
fn order_waiting_goes_on_to_those_who_wait() {
    let mut world = World::new();
    world.git_has(document(&db("a")).with(LIMIT, 1).needing(&db("b")));
    world.git_has(document(&db("b")).with(LIMIT, 2).needing(&db("c")));
    world.git_has(document(&db("c")).with(LIMIT, 3).saying(|a| a.suspend = true));
    world.git_has(document(&db("d")).with(LIMIT, 4));
    for name in ["a", "b", "c", "d"] {
        world.vanishes(&db(name));
    }
    let plan = world.plan();
    assert_eq!(plan.order(), [&db("d")]);
    assert_eq!(plan.reasons(&db("c")), [Reason::Suspended]);
    assert_eq!(plan.reasons(&db("b")), [Reason::DependencyNotReady]);
    assert_eq!(plan.reasons(&db("a")), [Reason::DependencyNotReady]);
}

#[test]
fn order_an_existing_resource_is_kept_up_whatever_becomes_of_its_dependencies() {
    let mut world = World::in_plumb([
        document(&cache("sessions")),
        document(&db("orders")).with(LIMIT, 20).needing(&cache("sessions")),
    ]);
    world.cannot_be_seen(&cache("sessions"));
    world.git_sets(&db("orders"), LIMIT, 30);
    assert_eq!(world.plan().action(&db("orders")), Some(Action::Update));
}

#[test]
fn r2_order_an_unfinished_or_foreign_dependency_does_not_count_as_there() {
    for (unfinished, reason) in [(true, Reason::DependencyUnfinished), (false, Reason::DependencyNotReady)] {
        let mut world = World::new();
        world.git_has(document(&cache("sessions")).saying(|a| a.suspend = true));
        world.git_has(document(&db("orders")).needing(&cache("sessions")));
        world.vanishes(&db("orders"));
        let mut mark = world.mark(&cache("sessions"), &[]);
        match unfinished {
            true => mark.unfinished = true,
            false => mark.platform.0 = "another".to_owned(),
        }
        world.stands(&cache("sessions"), crate::model::Ownership::Marked(mark), &[]);
        assert_eq!(world.plan().reasons(&db("orders")), [reason]);
    }
}

#[test]
fn order_what_stays_keeps_what_it_needs() {
    let mut world = World::in_plumb([
        document(&cache("sessions")),
        document(&db("orders")).needing(&cache("sessions")),
        document(&cache("x")),
    ]);
    world.git_removes(&cache("sessions"));
    world.git_removes(&db("orders"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("orders")), [Reason::DeletionProtected]);
    let blocked = plan.blocked(&cache("sessions"));
    assert_eq!(blocked.reason, Reason::DependencyNotReady);
    assert!(blocked.message.contains(&db("orders").to_string()), "{}", blocked.message);
}

#[test]
fn order_what_a_resource_no_longer_needs_goes_with_the_same_commit() {
    let mut world = World::in_plumb([
        document(&cache("sessions")),
        document(&db("orders")).with(LIMIT, 20).needing(&cache("sessions")),
        document(&cache("x")),
    ]);
    world.git_removes(&cache("sessions"));
    world.document_mut(&db("orders")).depends_on.clear();
    assert_eq!(world.plan().order(), [&cache("sessions")]);

    world.git_sets(&db("orders"), LIMIT, 30);
    let plan = world.plan();
    assert_eq!(plan.order(), [&db("orders"), &cache("sessions")], "after it was changed");
    assert_eq!(plan.step(&cache("sessions")).depends_on, [db("orders")]);

    world.git_says(&db("orders"), |a| a.suspend = true);
    let plan = world.plan();
    assert!(plan.steps.is_empty(), "not while the change is held");
    assert_eq!(plan.reasons(&cache("sessions")), [Reason::DependencyNotReady]);
}

#[test]
fn order_a_dependent_that_is_let_go_of_keeps_nothing() {
    let mut world = World::in_plumb([
        document(&cache("sessions")),
        document(&db("orders")).needing(&cache("sessions")).saying(|a| a.deletion = Some(Deletion::Retain)),
        document(&cache("x")),
    ]);
    world.git_removes(&cache("sessions"));
    world.git_removes(&db("orders"));
    assert_eq!(world.reconciles().order(), [&cache("sessions")]);
    assert!(world.plan().is_quiet());
}

#[test]
fn order_a_dependent_that_is_gone_keeps_nothing() {
    let mut world = World::in_plumb([
        document(&cache("sessions")),
        document(&db("orders")).needing(&cache("sessions")),
        document(&cache("x")),
    ]);
    world.git_removes(&cache("sessions"));
    world.git_removes(&db("orders"));
    world.vanishes(&db("orders"));
    assert_eq!(world.plan().order(), [&cache("sessions")]);
}

#[test]
fn order_a_cycle_that_came_about_over_several_commits_is_cut() {
    let mut world = World::in_plumb([
        document(&cache("a")).needing(&cache("b")),
        document(&cache("b")).needing(&cache("a")),
        document(&cache("c")),
    ]);
    world.git_removes(&cache("a"));
    world.git_removes(&cache("b"));
    let plan = world.plan();
    assert_eq!(plan.order(), [&cache("a"), &cache("b")]);
    assert!(plan.step(&cache("a")).depends_on.is_empty());
    assert_eq!(plan.step(&cache("b")).depends_on, [cache("a")]);
}

#[test]
fn order_a_plan_names_the_same_things_in_the_same_way_twice() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(LIMIT, 20));
    world.vanishes(&db("orders"));
    let plan = world.plan();
    assert_eq!(plan, world.plan());
    assert_eq!(plan.id.0.len(), 12);
    world.git_sets(&db("orders"), LIMIT, 30);
    assert_ne!(plan.id, world.plan().id, "another plan has another name");
}

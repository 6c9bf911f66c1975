//! R9: unreadable is not absent, and a tree that is not the one we know deletes nothing.

use super::world::*;
use crate::model::{Action, ApprovalKind, Deletion, Reason};

/// Four caches, of which git has removed one.
fn one_removed() -> World {
    let mut world = World::in_plumb(["a", "b", "c", "d"].map(|name| document(&cache(name))));
    world.git_removes(&cache("a"));
    world
}

#[test]
fn r9_an_unreadable_manifest_anywhere_prunes_nothing() {
    let mut world = one_removed();
    world.desired.unreadable.push("b.yaml is not YAML".to_owned());
    for gone in [false, true] {
        if gone {
            world.vanishes(&cache("a"));
        }
        let plan = world.plan();
        assert!(plan.steps.is_empty() && plan.settles.is_empty());
        let blocked = plan.blocked(&cache("a"));
        assert_eq!(blocked.reason, Reason::UnreadableManifest);
        assert!(blocked.message.contains("b.yaml is not YAML"), "{}", blocked.message);
    }
}

#[test]
fn r9_an_unreadable_manifest_does_not_stop_the_others() {
    let mut world = one_removed();
    world.is_in_plumb(document(&db("orders")).with(LIMIT, 20));
    world.git_sets(&db("orders"), LIMIT, 30);
    world.git_has(document(&db("new")));
    world.vanishes(&db("new"));
    world.desired.unreadable.push("b.yaml is not YAML".to_owned());
    let plan = world.plan();
    assert_eq!(plan.order(), [&db("new"), &db("orders")]);
}

#[test]
fn r9_no_approval_prunes_while_a_manifest_is_unreadable() {
    let mut world = one_removed();
    world.a_stray_bears_the_mark_of(&cache("stray"));
    world.approve(ApprovalKind::Deletes, world.plan().id, [cache("a"), cache("stray")]);
    assert_eq!(world.plan().summary().delete, 2);
    world.desired.unreadable.push("b.yaml is not YAML".to_owned());
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&cache("stray")), [Reason::UnreadableManifest]);
}

#[test]
fn r9_a_refused_document_is_neither_changed_nor_pruned() {
    let mut world = one_removed();
    world.desired.rejected.insert(cache("a"), "its spec is wrong".to_owned());
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty());
    assert_eq!(plan.blocked(&cache("a")).reason, Reason::InvalidManifest);
    assert_eq!(plan.blocked(&cache("a")).message, "its spec is wrong");
}

#[test]
fn r9_a_refused_document_is_not_changed_though_a_valid_one_has_its_key() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.git_sets(&db("orders"), LIMIT, 30);
    world.desired.rejected.insert(db("orders"), "it is there twice".to_owned());
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("orders")), [Reason::InvalidManifest]);
}

#[test]
fn r9_an_empty_tree_a_changed_source_and_a_rewritten_history_hold_all_deletes() {
    for reason in [Reason::EmptyTree, Reason::SourceChanged, Reason::HistoryRewritten] {
        let mut world = one_removed();
        world.is_in_plumb(document(&db("orders")).with(APP_ACCESS, "read"));
        world.git_unsets(&db("orders"), APP_ACCESS);
        world.git_has(document(&cache("new")));
        world.vanishes(&cache("new"));
        world.decisions.prune_holds.push((reason, "this is not the tree we know".to_owned()));
        let plan = world.plan();
        assert_eq!(plan.order(), [&cache("new")], "what loses nothing goes on");
        assert_eq!(plan.reasons(&cache("a")), [reason]);
        assert_eq!(plan.reasons(&db("orders")), [reason], "a dropped role is a deletion too");
        let message = &plan.blocked(&cache("a")).message;
        assert!(message.starts_with("this is not the tree we know. "), "{message}");
        assert!(message.contains(&format!("Plumb-Approve-Deletes: {}", plan.id)), "{message}");

        world.commit_approves(ApprovalKind::Deletes, &plan);
        assert_eq!(world.plan().steps.len(), 3);
    }
}

#[test]
fn r9_retained_objects_are_not_let_go_of_while_deletes_are_held() {
    let mut world = World::in_plumb([document(&db("orders")).saying(|a| a.deletion = Some(Deletion::Retain))]);
    world.git_removes(&db("orders"));
    world.decisions.prune_holds.push((Reason::EmptyTree, "the tree is empty".to_owned()));
    let plan = world.plan();
    assert!(plan.settles.is_empty());
    assert_eq!(plan.reasons(&db("orders")), [Reason::EmptyTree]);
    world.commit_approves(ApprovalKind::Deletes, &plan);
    assert_eq!(world.plan().settled(&db("orders")), Some(Reason::Retained));
}

#[test]
fn r9_the_resources_of_an_environment_that_was_taken_away_are_frozen() {
    let mut world = one_removed();
    world.tenant.environments.retain(|environment| environment != "staging");
    world.a_stray_bears_the_mark_of(&cache("stray"));
    world.approve(ApprovalKind::Deletes, world.plan().id, [cache("a"), cache("stray")]);
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty());
    assert_eq!(plan.reasons(&cache("a")), [Reason::EnvironmentRemoved]);
    assert_eq!(plan.reasons(&cache("stray")), [Reason::EnvironmentRemoved]);
    world.vanishes(&cache("a"));
    assert!(world.plan().settles.is_empty(), "nor are they forgotten");
}

#[test]
fn r9_what_is_removed_from_a_tree_that_was_read_whole_goes() {
    let mut world = one_removed();
    assert_eq!(world.reconciles().action(&cache("a")), Some(Action::Delete));
    assert!(world.plan().is_quiet());
}

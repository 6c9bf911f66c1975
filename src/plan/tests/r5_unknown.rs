//! R5: what is unknown leads to nothing. R11: a server that was swapped makes everything on it unknown.

use serde_json::json;

use super::world::*;
use crate::model::{Action, DriftMode, ProviderIdentity, Reason};

#[test]
fn r5_an_object_that_cannot_be_seen_is_not_touched() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.git_sets(&db("orders"), LIMIT, 30);
    world.cannot_be_seen(&db("orders"));
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty() && plan.drift.is_empty() && plan.blocked.is_empty());
    assert_eq!(plan.unknown[0].0, db("orders"));
    assert_eq!(plan.unknown[0].1.reason, Reason::ProviderUnreachable);
}

#[test]
fn r5_a_new_resource_that_cannot_be_seen_is_not_made() {
    let mut world = World::new();
    world.git_has(document(&db("orders")));
    world.cannot_be_seen(&db("orders"));
    assert!(world.plan().steps.is_empty());
    world.live.objects.remove(&db("orders"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.unknown[0].1.reason, Reason::NotObserved);
}

#[test]
fn r5_a_removed_resource_that_cannot_be_seen_is_neither_deleted_nor_forgotten() {
    let mut world = World::in_plumb([document(&cache("sessions")), document(&cache("other"))]);
    world.git_removes(&cache("sessions"));
    world.cannot_be_seen(&cache("sessions"));
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty());
    assert_eq!(plan.unknown.len(), 1);
    world.live.objects.remove(&cache("sessions"));
    assert!(world.plan().steps.is_empty() && world.plan().settles.is_empty());
}

#[test]
fn r5_a_field_that_cannot_be_seen_is_held_and_the_others_go_on() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20).with(PGCRYPTO, true)]);
    world.git_sets(&db("orders"), LIMIT, 30);
    world.git_sets(&db("orders"), APP_ACCESS, "read");
    world.field_cannot_be_seen(&db("orders"), "/spec/extensions", Reason::PermissionDenied);
    world.field_cannot_be_seen(&db("orders"), "/spec/roles", Reason::PermissionDenied);
    let plan = world.reconciles();
    assert_eq!(plan.changes(&db("orders")), [(LIMIT, Some(&json!(30)))]);
    assert!(plan.held[&db("orders")].contains(PGCRYPTO) && plan.held[&db("orders")].contains(APP_ACCESS));
    assert_eq!(plan.unknown.len(), 2);
    assert!(world.record_mut(&db("orders")).applied.get(PGCRYPTO).is_some(), "the base is kept");

    world.live_mut(&db("orders")).unknown.clear();
    world.live_becomes(&db("orders"), PGCRYPTO, true);
    assert_eq!(world.reconciles().changes(&db("orders")), [(APP_ACCESS, Some(&json!("read")))]);
    assert!(world.plan().is_quiet());
}

#[test]
fn r5_a_field_left_out_of_a_shallow_look_is_nobodys_concern() {
    let mut world = World::in_plumb([document(&db("orders")).with(PGCRYPTO, true)]);
    world.field_cannot_be_seen(&db("orders"), "/spec/extensions", Reason::NotObserved);
    let plan = world.plan();
    assert!(plan.is_in_sync() && plan.settles.is_empty());
}

#[test]
fn r5_a_field_left_out_of_a_shallow_look_is_told_when_git_changes_it() {
    let mut world = World::in_plumb([document(&db("orders")).with(PGCRYPTO, true)]);
    world.git_unsets(&db("orders"), PGCRYPTO);
    world.field_cannot_be_seen(&db("orders"), "/spec/extensions", Reason::NotObserved);
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.unknown[0].1.reason, Reason::NotObserved);
}

#[test]
fn r5_a_role_of_somebody_else_blocks_only_itself() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.git_sets(&db("orders"), APP_ACCESS, "read");
    world.git_sets(&db("orders"), LIMIT, 30);
    world.field_cannot_be_seen(&db("orders"), "/spec/roles/app", Reason::OwnedByOther);
    let plan = world.plan();
    assert_eq!(plan.changes(&db("orders")), [(LIMIT, Some(&json!(30)))]);
    assert_eq!(plan.reasons(&db("orders")), [Reason::OwnedByOther]);
}

#[test]
fn r5_a_replacement_waits_for_what_cannot_be_seen_and_for_what_is_not_decided() {
    for unseen in [true, false] {
        let mut world = World::in_plumb([document(&db("orders"))
            .with(PAGE_SIZE, 4096)
            .with(LIMIT, 20)
            .saying(|a| a.deletion = Some(crate::model::Deletion::Delete))]);
        world.is_in_plumb(document(&db("another")));
        world.git_sets(&db("orders"), PAGE_SIZE, 8192);
        assert_eq!(world.plan().action(&db("orders")), Some(Action::Replace));
        match unseen {
            true => world.field_cannot_be_seen(&db("orders"), LIMIT, Reason::TimedOut),
            false => world.live_becomes(&db("orders"), LIMIT, 50),
        }
        let plan = world.plan();
        assert!(plan.steps.is_empty());
        assert_eq!(plan.blocked(&db("orders")).reason, Reason::ConflictHeld);
    }
}

#[test]
fn r5_a_dependency_that_cannot_be_seen_does_not_count_as_there() {
    let mut world = World::in_plumb([document(&cache("sessions"))]);
    world.git_has(document(&db("orders")).needing(&cache("sessions")));
    world.vanishes(&db("orders"));
    world.cannot_be_seen(&cache("sessions"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("orders")), [Reason::DependencyNotReady]);
}

#[test]
fn r5_a_dependent_that_cannot_be_seen_keeps_what_it_needs() {
    let mut world = World::in_plumb([
        document(&cache("sessions")),
        document(&cache("front")).needing(&cache("sessions")),
        document(&cache("third")),
    ]);
    world.git_removes(&cache("sessions"));
    world.git_removes(&cache("front"));
    world.cannot_be_seen(&cache("front"));
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&cache("sessions")), [Reason::DependencyNotReady]);
}

#[test]
fn r5_a_provider_that_does_not_answer_moves_nothing() {
    let mut world = World::in_plumb([document(&db("orders"))]);
    world.document_mut(&db("orders")).provider = "pg-other".to_owned();
    world.live.identities.remove("pg-other");
    world.cannot_be_seen(&db("orders"));
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.blocked.is_empty() && plan.drift.is_empty());
    assert_eq!(plan.unknown[0].1.reason, Reason::ProviderUnreachable);
}

#[test]
fn r11_on_a_server_that_was_swapped_everything_is_unknown_until_it_is_confirmed() {
    let mut world = World::in_plumb([document(&cache("sessions")), document(&cache("front")), document(&cache("z"))]);
    world.git_removes(&cache("front"));
    let swapped = ProviderIdentity("a new server".to_owned());
    world.live.identities.insert("redis-main".to_owned(), swapped.clone());
    world.vanishes(&cache("sessions"));
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty() && plan.drift.is_empty());
    assert_eq!(plan.unknown.len(), 3);
    assert!(plan.unknown.iter().all(|(_, unknown)| unknown.reason == Reason::ProviderIdentityChanged));

    world.platform.providers.get_mut("redis-main").unwrap().identity = Some(swapped.0.clone());
    let plan = world.reconciles();
    assert_eq!(plan.action(&cache("sessions")), Some(Action::Create));
    assert_eq!(plan.action(&cache("front")), Some(Action::Delete));
    assert_eq!(world.record_mut(&cache("z")).identity, swapped, "the new identity is recorded");
    world.platform.providers.get_mut("redis-main").unwrap().identity = None;
    assert!(world.plan().is_quiet());
}

#[test]
fn r5_an_adopted_field_that_could_not_be_seen_has_no_base_later() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(WORK_MEM, "64MB").saying(|a| a.adopt = true));
    world.somebody_made(&db("orders"), &[]);
    world.field_cannot_be_seen(&db("orders"), "/spec/settings", Reason::TimedOut);
    world.reconciles();
    world.live_mut(&db("orders")).unknown.clear();
    world.live_becomes(&db("orders"), WORK_MEM, "128MB");
    assert_held(&world.plan(), &db("orders"), WORK_MEM, DriftMode::Propose);
}

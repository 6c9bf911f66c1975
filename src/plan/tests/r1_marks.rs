//! R1: nothing without our mark is touched; adoption. R2: an unfinished creation goes on. R12: rotation.

use serde_json::json;

use super::world::*;
use crate::model::{Action, DriftMode, Expect, Ownership, PlatformId, Reason};

#[test]
fn r1_a_new_document_makes_an_object_with_its_mark() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(LIMIT, 20));
    world.vanishes(&db("orders"));
    let plan = world.plan();
    let step = plan.step(&db("orders"));
    assert_eq!((step.action, &step.expect), (Action::Create, &Expect::Absent));
    assert_eq!(step.object_name, "checkout_staging_orders");
    assert_eq!(plan.changes(&db("orders")), [(LIMIT, Some(&json!(20)))]);
    assert_eq!(step.mark, world.mark(&db("orders"), &[(LIMIT, json!(20))]));
}

#[test]
fn r1_an_unmarked_object_is_refused_and_the_message_says_how_to_adopt() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(LIMIT, 20));
    world.somebody_made(&db("orders"), &[]);
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty());
    let blocked = plan.blocked(&db("orders"));
    assert_eq!(blocked.reason, Reason::NotOwned);
    assert!(blocked.message.contains("plumb.dev/adopt"), "{}", blocked.message);
}

#[test]
fn r1_an_unmarked_object_is_refused_even_when_it_is_equal() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(LIMIT, 20));
    world.somebody_made(&db("orders"), &[(LIMIT, json!(20))]);
    assert_eq!(world.plan().reasons(&db("orders")), [Reason::NotOwned]);
}

#[test]
fn r1_adoption_shows_the_difference_and_marks_the_object() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(LIMIT, 20).with(APP_ACCESS, "read").saying(|a| a.adopt = true));
    world.somebody_made(&db("orders"), &[(LIMIT, json!(50)), (APP_ACCESS, json!("read"))]);
    let object = world.live_mut(&db("orders")).object.clone();
    let plan = world.reconciles();
    let step = plan.step(&db("orders"));
    assert_eq!((step.action, &step.expect), (Action::Adopt, &Expect::Unmarked(object)));
    assert_eq!(step.changes.len(), 1);
    assert_eq!((&step.changes[0].from, &step.changes[0].to), (&Some(json!(50)), &Some(json!(20))));
    assert!(step.mark.hashes.contains_key(APP_ACCESS), "what was equal is marked too");

    let after = world.plan();
    assert!(after.steps.is_empty() && after.is_in_sync(), "{after:#?}");
}

#[test]
fn r1_a_leftover_adopt_is_a_warning() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20).saying(|a| a.adopt = true)]);
    let plan = world.plan();
    assert!(plan.is_in_sync());
    assert_eq!(plan.warnings.len(), 1);
    assert_eq!(plan.warnings[0].1, Reason::LeftoverAdopt);
    world.git_says(&db("orders"), |a| a.adopt = false);
    assert!(world.plan().warnings.is_empty());
}

#[test]
fn r1_the_mark_of_another_key_is_never_touched_whatever_is_asked() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(LIMIT, 20).saying(|a| a.adopt = true));
    let mark = world.mark(&db("payments"), &[]);
    world.stands(&db("orders"), Ownership::Marked(mark), &[]);
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty());
    assert_eq!(plan.blocked(&db("orders")).reason, Reason::OwnedByOther);
}

#[test]
fn r1_the_mark_of_another_platform_is_never_touched_whatever_is_asked() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(LIMIT, 20).saying(|a| a.adopt = true));
    let mut mark = world.mark(&db("orders"), &[]);
    mark.platform = PlatformId("another".to_owned());
    world.stands(&db("orders"), Ownership::Marked(mark), &[]);
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.settles.is_empty());
    assert_eq!(plan.blocked(&db("orders")).reason, Reason::OwnedByOther);
}

#[test]
fn r1_an_object_whose_mark_was_removed_is_refused_until_it_is_adopted_again() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20)]);
    world.live_mut(&db("orders")).ownership = Ownership::Unmarked;
    world.git_sets(&db("orders"), LIMIT, 30);
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    let blocked = plan.blocked(&db("orders"));
    assert_eq!(blocked.reason, Reason::NotOwned);
    assert!(blocked.message.contains("was removed"), "{}", blocked.message);

    world.git_says(&db("orders"), |a| a.adopt = true);
    assert_eq!(world.reconciles().action(&db("orders")), Some(Action::Adopt));
    assert!(world.plan().is_in_sync());
}

#[test]
fn r1_a_removed_document_of_an_object_without_our_mark_only_forgets_it() {
    for foreign in [false, true] {
        let mut world = World::in_plumb([document(&cache("sessions"))]);
        world.git_removes(&cache("sessions"));
        world.live_mut(&cache("sessions")).ownership = match foreign {
            true => Ownership::Marked(World::new().mark(&cache("others"), &[])),
            false => Ownership::Unmarked,
        };
        let plan = world.plan();
        assert!(plan.steps.is_empty() && plan.blocked.is_empty());
        let reason = if foreign { Reason::OwnedByOther } else { Reason::NotOwned };
        assert_eq!(plan.settled(&cache("sessions")), Some(reason));
    }
}

#[test]
fn r1_adoption_leaves_a_role_alone_that_belongs_to_somebody_else() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(LIMIT, 20).with(APP_ACCESS, "read").saying(|a| a.adopt = true));
    world.somebody_made(&db("orders"), &[]);
    world.field_cannot_be_seen(&db("orders"), "/spec/roles/app", Reason::NotOwned);
    let plan = world.reconciles();
    assert_eq!(plan.changes(&db("orders")), [(LIMIT, Some(&json!(20)))]);
    assert!(!plan.step(&db("orders")).mark.hashes.contains_key(APP_ACCESS));
    assert_eq!(plan.reasons(&db("orders")), [Reason::NotOwned]);
    let after = world.plan();
    assert!(after.steps.is_empty());
    assert_eq!(after.reasons(&db("orders")), [Reason::NotOwned]);
}

#[test]
fn r1_adoption_never_replaces_what_it_takes_over() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(PAGE_SIZE, 8192).saying(|a| a.adopt = true));
    world.somebody_made(&db("orders"), &[(PAGE_SIZE, json!(4096))]);
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.blocked(&db("orders")).reason, Reason::ReplaceProtected);
}

#[test]
fn r2_an_unfinished_creation_goes_on() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(LIMIT, 20).with(APP_ACCESS, "read"));
    let mut mark = world.mark(&db("orders"), &[]);
    mark.unfinished = true;
    world.stands(&db("orders"), Ownership::Marked(mark), &[]);
    let plan = world.reconciles();
    let step = plan.step(&db("orders"));
    assert_eq!((step.action, &step.expect), (Action::Create, &Expect::Absent));
    assert_eq!(step.changes.len(), 2);
    assert!(!step.mark.unfinished);
    assert!(world.plan().is_quiet());
}

#[test]
fn r2_an_unfinished_creation_leaves_out_what_cannot_be_seen_until_it_can() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(LIMIT, 20).with(PGCRYPTO, true));
    let mut mark = world.mark(&db("orders"), &[]);
    mark.unfinished = true;
    world.stands(&db("orders"), Ownership::Marked(mark), &[]);
    world.field_cannot_be_seen(&db("orders"), "/spec/extensions", Reason::TimedOut);
    assert_eq!(world.reconciles().changes(&db("orders")), [(LIMIT, Some(&json!(20)))]);
    assert!(world.plan().steps.is_empty());

    world.live_mut(&db("orders")).unknown.clear();
    assert_eq!(world.reconciles().changes(&db("orders")), [(PGCRYPTO, Some(&json!(true)))]);
    assert!(world.plan().is_quiet());
}

#[test]
fn r12_a_new_value_of_rotate_asks_for_new_passwords_once() {
    let mut world = World::in_plumb([document(&db("orders")).with(APP_ACCESS, "read")]);
    world.git_says(&db("orders"), |a| a.rotate = Some("may".to_owned()));
    let plan = world.reconciles();
    let step = plan.step(&db("orders"));
    assert_eq!((step.action, step.changes.len()), (Action::Update, 0));
    assert_eq!(step.rotate.as_deref(), Some("may"));
    assert!(world.plan().is_quiet());
}

#[test]
fn r12_a_lost_inventory_rotates_nothing_that_was_rotated() {
    let mut world = World::in_plumb([document(&db("orders")).saying(|a| a.rotate = Some("may".to_owned()))]);
    world.inventory_is_lost();
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.settled(&db("orders")), Some(Reason::Recovered));
}

#[test]
fn r12_a_lost_inventory_rotates_nothing_of_which_the_mark_says_nothing() {
    let mut world = World::in_plumb([document(&db("orders"))]);
    world.git_says(&db("orders"), |a| a.rotate = Some("may".to_owned()));
    world.inventory_is_lost();
    let plan = world.reconciles();
    assert!(plan.steps.is_empty());
    assert!(world.plan().is_quiet());
}

#[test]
fn r12_a_lost_inventory_still_rotates_when_the_mark_bears_another_value() {
    let mut world = World::in_plumb([document(&db("orders")).saying(|a| a.rotate = Some("may".to_owned()))]);
    world.git_says(&db("orders"), |a| a.rotate = Some("june".to_owned()));
    world.inventory_is_lost();
    assert_eq!(world.plan().step(&db("orders")).rotate.as_deref(), Some("june"));
}

#[test]
fn r12_adoption_resets_no_password() {
    let mut world = World::new();
    world.git_has(document(&db("orders")).with(APP_ACCESS, "read").saying(|a| {
        a.adopt = true;
        a.rotate = Some("may".to_owned());
    }));
    world.somebody_made(&db("orders"), &[(APP_ACCESS, json!("read"))]);
    assert_eq!(world.reconciles().step(&db("orders")).rotate, None);
    assert!(world.plan().steps.is_empty());
}

#[test]
fn r12_rotation_goes_with_other_changes_in_one_step_and_leaves_drift_held() {
    let mut world = World::in_plumb([document(&db("orders")).with(LIMIT, 20).with(APP_ACCESS, "read")]);
    world.git_says(&db("orders"), |a| a.rotate = Some("may".to_owned()));
    world.git_sets(&db("orders"), APP_ACCESS, "readwrite");
    world.live_becomes(&db("orders"), LIMIT, 50);
    let plan = world.plan();
    assert_eq!(plan.changes(&db("orders")), [(APP_ACCESS, Some(&json!("readwrite")))]);
    assert_eq!(plan.step(&db("orders")).rotate.as_deref(), Some("may"));
    assert_held(&plan, &db("orders"), LIMIT, DriftMode::Propose);
}

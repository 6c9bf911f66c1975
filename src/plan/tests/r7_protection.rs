//! R7: data is deleted or replaced only when an earlier commit has said so.

use serde_json::json;

use super::world::*;
use crate::model::{Action, ApprovalKind, Blocked, Deletion, DriftMode, Expect, FieldHash, PlanId, PlanScope, Reason};

/// Two databases, so that removing one is not removing all.
fn two(deletion: Option<Deletion>) -> World {
    let orders = document(&db("orders")).with(PAGE_SIZE, 4096).saying(|a| a.deletion = deletion);
    World::in_plumb([orders, document(&db("unrelated"))])
}

#[test]
fn r7_a_removed_database_is_protected_and_the_message_shows_the_way_out() {
    let mut world = two(None);
    world.git_removes(&db("orders"));
    let plan = world.reconciles();
    assert!(plan.steps.is_empty() && plan.settles.is_empty());
    let blocked = plan.blocked(&db("orders"));
    assert_eq!(blocked.reason, Reason::DeletionProtected);
    assert!(blocked.message.contains("plumb.dev/deletion: delete"), "{}", blocked.message);
    assert!(blocked.step.is_some(), "it shows what would be done");
    assert_eq!(world.plan().reasons(&db("orders")), [Reason::DeletionProtected], "and stays so");
}

#[test]
fn r7_no_approval_deletes_what_is_protected() {
    let mut world = two(None);
    world.git_removes(&db("orders"));
    let plan = world.plan();
    world.approve(ApprovalKind::Deletes, plan.id, [db("orders")]);
    assert!(world.plan().steps.is_empty());
}

#[test]
fn r7_a_database_goes_when_an_earlier_commit_allowed_it() {
    let mut world = two(Some(Deletion::Delete));
    let object = world.live_mut(&db("orders")).object.clone();
    world.git_removes(&db("orders"));
    let plan = world.reconciles();
    let step = plan.step(&db("orders"));
    assert_eq!((step.action, &step.expect), (Action::Delete, &Expect::Marked(object)));
    assert_eq!(step.destructive, ["deletes checkout_staging_orders"]);
    assert!(world.plan().is_quiet());
}

#[test]
fn r7_what_a_deletion_that_was_cut_short_left_is_dropped_and_needs_nobody() {
    let orders = db("orders");
    let mut world = World::in_plumb([document(&orders).saying(|a| a.deletion = Some(Deletion::Delete))]);
    world.git_removes(&orders);
    world.is_absent(&orders, false, true);
    // All that the tenant has is more than the guard lets pass; of this there is nothing to lose.
    let plan = world.plan();
    assert_eq!(plan.action(&orders), Some(Action::Delete));
    assert_eq!(plan.steps[0].destructive, ["drops what is left of checkout_staging_orders"]);
    assert!(plan.settles.is_empty(), "it is remembered until nothing is left");
    world.decisions.prune_holds.push((Reason::SourceChanged, "the branch is another".to_owned()));
    assert!(world.plan().steps.is_empty());
    world.decisions.prune_holds.clear();
    world.reconciles();
    assert!(world.prior.get(&orders).is_none());
    assert!(world.plan().is_quiet());
}

#[test]
fn r7_what_is_left_of_an_object_that_is_protected_or_that_somebody_dropped_stays() {
    for (deletion, lost) in [(None, false), (None, true), (Some(Deletion::Delete), true)] {
        let mut world = two(deletion);
        world.git_removes(&db("orders"));
        world.is_absent(&db("orders"), lost, true);
        let plan = world.plan();
        assert!(plan.steps.is_empty());
        assert_eq!(plan.settled(&db("orders")), Some(Reason::Gone));
    }
}

#[test]
fn r7_the_two_commit_way_out_works() {
    let mut world = two(None);
    world.git_says(&db("orders"), |a| a.deletion = Some(Deletion::Delete));
    assert!(world.reconciles().steps.is_empty());
    world.git_removes(&db("orders"));
    assert_eq!(world.plan().action(&db("orders")), Some(Action::Delete));
}

#[test]
fn r7_a_permission_that_was_never_recorded_does_not_count() {
    let mut world = two(None);
    world.git_says(&db("orders"), |a| a.deletion = Some(Deletion::Delete));
    world.git_removes(&db("orders"));
    assert_eq!(world.plan().reasons(&db("orders")), [Reason::DeletionProtected]);
}

#[test]
fn r7_a_permission_that_was_taken_back_does_not_count() {
    let mut world = two(Some(Deletion::Delete));
    world.git_says(&db("orders"), |a| a.deletion = None);
    world.reconciles();
    world.git_removes(&db("orders"));
    assert_eq!(world.plan().reasons(&db("orders")), [Reason::DeletionProtected]);
}

#[test]
fn r7_a_permission_that_a_policy_denies_is_not_recorded() {
    for deletion in [Deletion::Delete, Deletion::Retain] {
        let mut world = two(None);
        world.git_says(&db("orders"), |a| a.deletion = Some(deletion));
        world.desired.denied.insert(db("orders"), "no".to_owned());
        assert!(world.reconciles().steps.is_empty());
        assert!(world.plan().is_quiet(), "what is not taken over is not recorded again and again");
        world.git_removes(&db("orders"));
        assert_eq!(world.plan().reasons(&db("orders")), [Reason::DeletionProtected], "{deletion:?}");
    }
}

#[test]
fn r7_a_permission_lapses_when_a_policy_denies_it_later() {
    let mut world = two(Some(Deletion::Delete));
    world.desired.denied.insert(db("orders"), "no".to_owned());
    world.reconciles();
    world.git_removes(&db("orders"));
    assert_eq!(world.plan().reasons(&db("orders")), [Reason::DeletionProtected]);
}

#[test]
fn r7_a_denied_document_can_protect_and_not_take_protection_away() {
    let mut world = World::in_plumb([document(&cache("a")), document(&cache("b"))]);
    for name in ["a", "b"] {
        world.desired.denied.insert(cache(name), "no".to_owned());
    }
    world.git_says(&cache("a"), |a| a.deletion = Some(Deletion::Protect));
    world.reconciles();
    world.git_says(&cache("a"), |a| a.deletion = None);
    world.reconciles();
    world.git_removes(&cache("a"));
    world.git_removes(&cache("b"));
    let plan = world.plan();
    assert_eq!(plan.reasons(&cache("a")), [Reason::DeletionProtected]);
    assert_eq!(plan.action(&cache("b")), Some(Action::Delete), "it holds no data");
}

#[test]
fn r7_a_denied_document_does_not_turn_retain_into_a_deletion() {
    for now in [None, Some(Deletion::Delete), Some(Deletion::Retain)] {
        let retained = |key| document(&key).saying(|a| a.deletion = Some(Deletion::Retain));
        let mut world = World::in_plumb([retained(cache("a")), retained(db("a")), document(&db("unrelated"))]);
        for key in [cache("a"), db("a")] {
            world.git_says(&key, |a| a.deletion = now);
            world.desired.denied.insert(key, "no".to_owned());
        }
        world.reconciles();
        assert!(world.plan().is_quiet(), "{now:?}");
        world.git_removes(&cache("a"));
        world.git_removes(&db("a"));
        let plan = world.plan();
        assert!(plan.steps.is_empty(), "{now:?}: {plan:#?}");
        assert_eq!(plan.settled(&cache("a")), Some(Reason::Retained), "{now:?}");
        assert_eq!(plan.reasons(&db("a")), [Reason::DeletionProtected], "data is protected where nothing is allowed");
    }
}

#[test]
fn r7_a_denied_document_can_have_a_cache_retained() {
    let mut world = World::in_plumb([document(&cache("a")), document(&cache("b"))]);
    world.git_says(&cache("a"), |a| a.deletion = Some(Deletion::Retain));
    world.desired.denied.insert(cache("a"), "no".to_owned());
    world.reconciles();
    world.git_removes(&cache("a"));
    assert_eq!(world.plan().settled(&cache("a")), Some(Reason::Retained));
}

#[test]
fn r7_retain_forgets_the_object_and_keeps_its_mark() {
    let mut world = two(Some(Deletion::Retain));
    world.git_removes(&db("orders"));
    let mark = world.mark_mut(&db("orders")).clone();
    let plan = world.reconciles();
    assert!(plan.steps.is_empty() && plan.blocked.is_empty());
    assert_eq!(plan.settled(&db("orders")), Some(Reason::Retained));
    assert_eq!(*world.mark_mut(&db("orders")), mark);
    world.a_stray_bears_the_mark_of(&db("orders"));
    assert!(world.plan().is_quiet(), "and it is no orphan");
}

#[test]
fn r7_a_cache_goes_unless_it_is_protected() {
    let mut world = World::in_plumb([document(&cache("a")), document(&cache("b")), document(&cache("c"))]);
    world.git_says(&cache("b"), |a| a.deletion = Some(Deletion::Protect));
    world.reconciles();
    world.git_removes(&cache("a"));
    world.git_removes(&cache("b"));
    let plan = world.plan();
    assert_eq!(plan.order(), [&cache("a")]);
    assert_eq!(plan.reasons(&cache("b")), [Reason::DeletionProtected]);
}

#[test]
fn r7_a_replacement_is_refused_while_the_data_is_protected() {
    for deletion in [None, Some(Deletion::Protect), Some(Deletion::Retain)] {
        let mut world = two(deletion);
        world.git_sets(&db("orders"), PAGE_SIZE, 8192);
        let plan = world.plan();
        assert!(plan.steps.is_empty());
        let blocked = plan.blocked(&db("orders"));
        assert_eq!(blocked.reason, Reason::ReplaceProtected);
        assert!(blocked.message.contains(PAGE_SIZE), "{}", blocked.message);
        assert_eq!(blocked.step.as_ref().map(|step| step.action), Some(Action::Replace));
    }
}

#[test]
fn r7_a_replacement_is_refused_when_the_same_commit_allows_it() {
    let mut world = two(None);
    world.git_sets(&db("orders"), PAGE_SIZE, 8192);
    world.git_says(&db("orders"), |a| a.deletion = Some(Deletion::Delete));
    assert_eq!(world.reconciles().reasons(&db("orders")), [Reason::ReplaceProtected]);
    assert_eq!(world.plan().reasons(&db("orders")), [Reason::ReplaceProtected], "in later passes too");
}

#[test]
fn r7_a_replacement_is_refused_after_the_inventory_was_lost() {
    let mut world = two(Some(Deletion::Delete));
    world.git_sets(&db("orders"), PAGE_SIZE, 8192);
    world.inventory_is_lost();
    assert_eq!(world.plan().reasons(&db("orders")), [Reason::ReplaceProtected]);
}

#[test]
fn r7_a_replacement_that_was_allowed_before_is_flagged_and_done() {
    let mut world = two(Some(Deletion::Delete));
    world.git_sets(&db("orders"), PAGE_SIZE, 8192);
    let plan = world.reconciles();
    let step = plan.step(&db("orders"));
    assert_eq!(step.action, Action::Replace);
    assert_eq!(step.destructive, ["deletes checkout_staging_orders and makes it again"]);
    assert_eq!(plan.changes(&db("orders")), [(PAGE_SIZE, Some(&json!(8192)))]);
    assert!(world.plan().is_quiet());
}

#[test]
fn r7_a_replacement_leaves_nothing_open_of_a_field_that_is_not_looked_at() {
    let mut world = two(Some(Deletion::Delete));
    world.git_sets(&db("orders"), "/spec/connectionLimit", 20);
    world.reconciles();
    world.git_says(&db("orders"), |a| a.drift_ignore = vec!["/spec/connectionLimit".into()]);
    // A mark of another time than the record: somebody put a backup back.
    let hash = FieldHash::of(&json!(50));
    world.mark_mut(&db("orders")).hashes.insert("/spec/connectionLimit".into(), hash);
    world.live_becomes(&db("orders"), "/spec/connectionLimit", 50);
    world.git_sets(&db("orders"), PAGE_SIZE, 8192);
    assert_eq!(world.reconciles().step(&db("orders")).action, Action::Replace);
    assert!(world.plan().is_quiet(), "what is made again has git's values throughout");
}

#[test]
fn r7_revert_does_not_replace_what_is_protected() {
    let mut world = two(None);
    world.decisions.drift = DriftMode::Revert;
    world.live_becomes(&db("orders"), PAGE_SIZE, 8192);
    let plan = world.plan();
    assert!(plan.steps.is_empty());
    assert_eq!(plan.reasons(&db("orders")), [Reason::ReplaceProtected]);
}

/// The id that the message of what is held tells people to commit.
fn way_out(blocked: &Blocked) -> PlanId {
    let (_, said) = blocked.message.split_once("Plumb-Approve-Deletes: ").expect("it says how to approve it");
    PlanId(said.chars().take_while(char::is_ascii_hexdigit).collect())
}

/// Somebody gave the file larger pages, and git's value is to be put back.
fn with_larger_pages() -> World {
    let mut world = two(Some(Deletion::Delete));
    world.decisions.drift = DriftMode::Revert;
    world.live_becomes(&db("orders"), PAGE_SIZE, 8192);
    world
}

#[test]
fn r7_an_approval_of_what_else_is_held_replaces_nothing() {
    let mut world = with_larger_pages();
    world.a_stray_bears_the_mark_of(&db("left"));
    let plan = world.plan();
    assert_eq!(plan.reasons(&db("orders")), [Reason::ReplaceProtected]);
    let stray = plan.blocked(&db("left"));
    assert!(!stray.message.contains("orders"), "{}", stray.message);
    assert_eq!(plan.awaiting(ApprovalKind::Deletes), [db("left")].into());

    world.approve(ApprovalKind::Deletes, way_out(stray), []);
    let plan = world.reconciles();
    assert_eq!(plan.order(), [&db("left")]);
    assert_eq!(plan.reasons(&db("orders")), [Reason::ReplaceProtected]);

    world.approve(ApprovalKind::Deletes, way_out(plan.blocked(&db("orders"))), []);
    assert_eq!(world.reconciles().action(&db("orders")), Some(Action::Replace));
    assert!(world.plan().is_quiet());
}

#[test]
fn r7_what_approves_a_replacement_stays_the_same_while_other_things_are_done() {
    let mut world = with_larger_pages();
    world.git_sets(&db("unrelated"), LIMIT, 30);
    let plan = world.reconciles();
    assert_eq!(plan.order(), [&db("unrelated")]);
    world.approve(ApprovalKind::Deletes, way_out(plan.blocked(&db("orders"))), []);
    world.git_sets(&db("unrelated"), LIMIT, 40);
    assert_eq!(world.plan().action(&db("orders")), Some(Action::Replace));

    // It was given to that step: with what somebody set by hand since, it is another.
    world.live_becomes(&db("orders"), PAGE_SIZE, 16384);
    assert_eq!(world.plan().reasons(&db("orders")), [Reason::ReplaceProtected]);
}

#[test]
fn r7_a_replacement_that_is_all_there_is_is_approved_as_the_plan() {
    let mut world = with_larger_pages();
    let plan = world.plan();
    assert_eq!(way_out(plan.blocked(&db("orders"))), plan.id);
    assert_eq!(plan.awaiting(ApprovalKind::Deletes), [db("orders")].into());
    world.commit_approves(ApprovalKind::Deletes, &plan);
    assert_eq!(world.plan().action(&db("orders")), Some(Action::Replace));
}

/// Git asks for pages of another size, and live has got a third one meanwhile.
fn with_two_new_sizes(deletion: Option<Deletion>) -> World {
    let mut world = two(deletion);
    world.git_sets(&db("orders"), PAGE_SIZE, 8192);
    world.live_becomes(&db("orders"), PAGE_SIZE, 16384);
    world
}

#[test]
fn r7_an_answer_to_a_conflict_replaces_nothing_by_itself() {
    let mut world = with_two_new_sizes(Some(Deletion::Delete));
    assert_held(&world.reconciles(), &db("orders"), PAGE_SIZE, DriftMode::Propose);
    world.decision_lifts(&db("orders"), field(PAGE_SIZE, Some(json!(4096)), Some(json!(8192)), Some(json!(16384))));
    let plan = world.plan();
    assert!(plan.steps.is_empty(), "{plan:#?}");
    let blocked = plan.blocked(&db("orders"));
    assert_eq!(blocked.reason, Reason::ReplaceProtected);
    world.approve(ApprovalKind::Deletes, way_out(blocked), []);
    assert_eq!(world.plan().action(&db("orders")), Some(Action::Replace));
}

#[test]
fn r7_a_size_that_a_commit_sets_after_the_question_is_no_answer_and_is_applied() {
    let mut world = with_two_new_sizes(Some(Deletion::Delete));
    world.reconciles();
    world.proposal_is_open(&db("orders"), field(PAGE_SIZE, Some(json!(4096)), Some(json!(8192)), Some(json!(16384))));
    world.git_sets(&db("orders"), PAGE_SIZE, 32768);
    assert_eq!(world.plan().action(&db("orders")), Some(Action::Replace));
}

#[test]
fn r7_an_answer_about_a_lost_base_replaces_nothing_by_itself() {
    let mut world = with_two_new_sizes(Some(Deletion::Delete));
    world.mark_mut(&db("orders")).hashes.clear();
    world.inventory_is_lost();
    world.reconciles();
    world.decision_lifts(&db("orders"), field(PAGE_SIZE, None, Some(json!(8192)), Some(json!(16384))));
    for _ in 0..2 {
        let plan = world.reconciles();
        assert!(plan.steps.is_empty(), "{plan:#?}");
        assert_eq!(plan.reasons(&db("orders")), [Reason::ReplaceProtected]);
    }
}

#[test]
fn r7_a_permission_is_not_recorded_while_what_came_with_it_is_asked_about() {
    for lost in [false, true] {
        let mut world = with_two_new_sizes(None);
        world.git_says(&db("orders"), |a| a.deletion = Some(Deletion::Delete));
        if lost {
            world.inventory_is_lost();
        }
        world.reconciles();
        assert!(world.plan().settles.is_empty(), "what is not taken over is not recorded again and again");
        // Without the conflict it is the replacement that the same commit allowed.
        let mut undone = world.clone();
        undone.live_becomes(&db("orders"), PAGE_SIZE, 4096);
        let plan = undone.reconciles();
        assert!(plan.steps.is_empty(), "{plan:#?}");
        assert_eq!(plan.reasons(&db("orders")), [Reason::ReplaceProtected]);

        let mut removed = world.clone();
        removed.git_removes(&db("orders"));
        assert_eq!(removed.plan().reasons(&db("orders")), [Reason::DeletionProtected]);

        // Once it is decided, the permission stands by itself.
        world.git_sets(&db("orders"), PAGE_SIZE, 16384);
        world.reconciles();
        world.git_removes(&db("orders"));
        assert_eq!(world.plan().action(&db("orders")), Some(Action::Delete));
    }
}

#[test]
fn r7_a_word_that_protects_is_recorded_while_a_conflict_is_asked_about() {
    let mut world = with_two_new_sizes(Some(Deletion::Delete));
    world.reconciles();
    world.git_says(&db("orders"), |a| a.deletion = Some(Deletion::Protect));
    world.reconciles();
    world.git_removes(&db("orders"));
    assert_eq!(world.plan().reasons(&db("orders")), [Reason::DeletionProtected]);
}

#[test]
fn r7_a_narrowed_plan_replaces_nothing_whatever_is_approved() {
    let mut world = with_larger_pages();
    let plan = world.plan();
    world.approve(ApprovalKind::Deletes, way_out(plan.blocked(&db("orders"))), []);
    world.scope = PlanScope::Keys([db("orders")].into());
    let plan = world.plan();
    assert!(plan.steps.is_empty() && plan.holds_losses(), "{plan:#?}");
    world.scope = PlanScope::Full;
    assert_eq!(world.plan().action(&db("orders")), Some(Action::Replace));
}

#[test]
fn r7_a_permission_that_is_not_recorded_says_what_has_to_be_decided_first() {
    for silenced in [false, true] {
        let mut world = with_two_new_sizes(None);
        if silenced {
            let left = field(PAGE_SIZE, Some(json!(4096)), Some(json!(8192)), Some(json!(16384)));
            world.person_ignores(&db("orders"), left);
        }
        assert!(world.reconciles().warnings.is_empty(), "nothing is asked for yet");
        world.git_says(&db("orders"), |a| a.deletion = Some(Deletion::Delete));
        let plan = world.reconciles();
        let [(key, Reason::DeletionProtected, said)] = &plan.warnings[..] else { panic!("{plan:#?}") };
        assert_eq!(*key, db("orders"));
        assert!(said.contains(PAGE_SIZE) && said.contains("16384"), "{said}");

        // Live going back by itself is no commit that makes use of it.
        let mut back = world.clone();
        back.live_becomes(&db("orders"), PAGE_SIZE, 4096);
        let plan = back.reconciles();
        assert_eq!((plan.steps.len(), plan.reasons(&db("orders"))), (0, vec![Reason::ReplaceProtected]));

        // What the warning says is a way out.
        world.git_sets(&db("orders"), PAGE_SIZE, 16384);
        assert!(world.reconciles().warnings.is_empty());
        world.git_removes(&db("orders"));
        assert_eq!(world.plan().action(&db("orders")), Some(Action::Delete), "silenced: {silenced}");
    }
}

//! `plumb.dev/on-failure: rollback`: a change that fails for good is undone.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use plumb::engine::view::{self, AttentionKind, DeadLetterView, LetterState};
use plumb::engine::{Reapplied, Which};
use plumb::managers::ManagerError;
use plumb::model::{
    ApprovalKind, ConditionStatus, ConditionType, Event, EventKind, ExecutionOutcome, ProposalStatus, Reason, Saga,
};
use plumb::store::Scope;
use sqlx::Row;

use crate::drift::BRANCH;
use crate::harness::clock::SetClock;
use crate::harness::faulty::Faults;
use crate::harness::git::MergeHow;
use crate::harness::postgres::PostgresServer;
use crate::harness::redis::{RedisOptions, RedisServer};
use crate::harness::running::Running;
use crate::harness::world::{FILES, World, held, held_message, parse, unseen};

const ROLLBACK: &str = "plumb.dev/on-failure: rollback";
const VERSION: &str = "PRAGMA user_version";
const ORDERS: &str = "checkout/staging/Database/orders";
const CARTS: &str = "checkout/staging/Database/carts";

/// Orders, carts that need orders, and payments, which stay as they are when something fails.
async fn world_at(version: u32) -> (World, Arc<Faults>) {
    let mut world = World::with_files().await;
    let faults = Faults::new();
    world.connect = Some(faults.connect());
    world.restart().await;
    write(&world, version);
    world.tenant.commit("Begin");
    world.in_sync().await;
    (world, faults)
}

/// The same, where the change to version 2 failed at carts and was undone.
async fn undone() -> (World, Arc<Faults>) {
    let (world, faults) = world_at(1).await;
    write(&world, 2);
    world.tenant.commit("Want version 2");
    faults.fail("carts", refused());
    world.scheduled().await;
    assert_eq!(versions(&world).await, [1, 1, 2]);
    (world, faults)
}

fn write(world: &World, version: u32) {
    world.write_resource("staging", "Database", "orders", ROLLBACK, &format!("userVersion: {version}"));
    let carts = format!("userVersion: {version}\ndependsOn: [Database/orders]");
    world.write_resource("staging", "Database", "carts", ROLLBACK, &carts);
    world.write_resource("staging", "Database", "payments", "", &format!("userVersion: {version}"));
}

fn refused() -> ManagerError {
    ManagerError::terminal(Reason::Rejected, "no such page size")
}

/// Orders fail from the moment on that they are to be undone.
fn break_the_undoing_of_orders(world: &World, faults: &Arc<Faults>) {
    let faults = Arc::clone(faults);
    world.on_event(move |event| {
        if matches!(event.kind, EventKind::RollbackStarted { .. }) {
            faults.fail("orders", refused());
        }
    });
}

async fn versions(world: &World) -> [i64; 3] {
    let mut versions = [0; 3];
    for (version, name) in versions.iter_mut().zip(["orders", "carts", "payments"]) {
        *version = world.number("staging", name, VERSION).await;
    }
    versions
}

/// Whether this is the end of a step of that resource.
fn is_done(event: &Event, name: &str) -> bool {
    matches!(event.kind, EventKind::StepDone { .. }) && event.key.as_ref().is_some_and(|key| key.name == name)
}

/// The steps that were done, in order, and where the undoing began.
fn story(events: &[Event]) -> Vec<String> {
    let told = events.iter().filter_map(|event| match &event.kind {
        EventKind::StepDone { action, .. } => Some(format!("{action} {}", event.key.as_ref().unwrap().name)),
        EventKind::StepFailed { .. } => Some(format!("failed {}", event.key.as_ref().unwrap().name)),
        EventKind::RollbackStarted { keys, .. } => Some(format!("undo {}", keys.len())),
        _ => None,
    });
    told.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_commit_did_is_undone_in_reverse_and_stays_so_until_the_next() {
    let (world, faults) = world_at(1).await;
    // Three that go together; the last one cannot work.
    write(&world, 2);
    let baskets = "userVersion: 2\ndependsOn: [Database/carts]";
    world.write_resource("staging", "Database", "baskets", ROLLBACK, baskets);
    world.tenant.commit("Want version 2");
    faults.fail("baskets", refused());
    world.events();
    let report = world.scheduled().await;
    let story = story(&world.events());
    let payments = story.iter().position(|step| step == "update payments").expect("it is done");
    let mut rest = story.clone();
    rest.remove(payments);
    assert_eq!(rest, ["update orders", "update carts", "failed baskets", "undo 2", "update carts", "update orders"]);
    assert_eq!(versions(&world).await, [1, 1, 2]);
    assert_eq!(report.outcome, ExecutionOutcome::Blocked);
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::RolledBack));
    assert!(held_message(&report.plan, ORDERS).contains("baskets failed for good: no such page size (Rejected)"));
    let status = world.status(CARTS).await.unwrap();
    let stalled = status.condition(ConditionType::Stalled).unwrap();
    assert_eq!((stalled.status, stalled.reason), (ConditionStatus::True, Reason::RolledBack));
    // Nothing moves, in this process or another.
    let (mut world, connect) = (world, faults.connect());
    world.connect = Some(connect);
    world.restart().await;
    for _ in 0..2 {
        assert_eq!(world.scheduled().await.done, 0);
        assert_eq!(versions(&world).await, [1, 1, 2]);
    }
    // What works is applied.
    faults.mend("baskets");
    write(&world, 3);
    world.tenant.commit("Want version 3");
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert_eq!(versions(&world).await, [3, 3, 3]);
    let mut tx = world.store().read(Scope::Tenant(world.name.clone())).await.unwrap();
    assert!(tx.sagas().await.unwrap().into_iter().all(|saga| saga.failure.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_does_a_change_that_was_undone_once_more() {
    let (world, faults) = undone().await;
    faults.mend("carts");
    let carts = parse(CARTS);
    let retried =
        plumb::engine::retry(world.store(), world.clock.as_ref(), &world.name, Which::Resource(&carts), "ada")
            .await
            .unwrap();
    assert_eq!(retried.keys, [carts]);
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert_eq!(versions(&world).await, [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_again_and_undone_brings_no_newer_commit_with_it() {
    let (world, faults) = undone().await;
    let retry = async || {
        plumb::engine::retry(world.store(), world.clock.as_ref(), &world.name, Which::All, "ada").await.unwrap();
    };
    retry().await;
    let failed = world.scheduled().await;
    assert_eq!(versions(&world).await, [1, 1, 2], "undone once more");
    retry().await;
    let (about, replayed) = world.engine().replay(failed.execution, None).await.unwrap().expect("it is there");
    // Somebody commits while what was seen is applied.
    write(&world, 3);
    world.tenant.commit_locally("Want version 3");
    let work = world.tenant.work();
    world.on_event(move |event| {
        if matches!(event.kind, EventKind::StepFailed { .. }) {
            let push =
                std::process::Command::new("git").arg("-C").arg(&work).args(["push", "-q", "origin", "HEAD"]).status();
            assert!(push.unwrap().success());
        }
    });
    let applied = world.engine().apply_again(&world.in_force().await, &about, &replayed).await.unwrap();
    world.on_event(|_| {});
    assert!(matches!(applied, Reapplied::Done(_)), "{applied:#?}");
    assert_eq!(versions(&world).await, [2, 1, 2], "nobody has seen what version 3 would do");
    // That is for the next look, which is due.
    assert_eq!(world.store().until_due().await.unwrap(), Some(Duration::ZERO));
    faults.mend("carts");
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert_eq!(versions(&world).await, [3, 3, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_leaves_a_change_that_was_undone_as_it_is() {
    let (world, faults) = undone().await;
    faults.tried();
    // As cron does at the same commit.
    for _ in 0..3 {
        let report = world.apply().await;
        assert_eq!((report.outcome, report.done), (ExecutionOutcome::Blocked, 0), "{:#?}", report.plan);
        assert_eq!((faults.tried(), versions(&world).await), (Vec::new(), [1, 1, 2]));
    }
    let plan = world.plan().await.plan;
    assert!(plan.steps.is_empty(), "a plan says what an apply would do: {plan:#?}");
    assert_eq!((held(&plan, ORDERS), held(&plan, CARTS)), (Some(Reason::RolledBack), Some(Reason::RolledBack)));
    // What the message names does it again.
    faults.mend("carts");
    plumb::engine::retry(world.store(), world.clock.as_ref(), &world.name, Which::All, "ada").await.unwrap();
    assert_eq!(world.plan().await.plan.steps.len(), 2);
    world.in_sync().await;
    assert_eq!(versions(&world).await, [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_under_applies_alone_is_undone_once_its_tries_are_over() {
    let (world, faults) = world_at(1).await;
    write(&world, 2);
    world.tenant.commit("Want version 2");
    faults.fail("carts", ManagerError::retry(Reason::TimedOut, "the disk is busy"));
    let mut applies = 0;
    while world.apply().await.outcome == ExecutionOutcome::Failed {
        applies += 1;
        assert!(applies < 100, "it ends");
        assert_eq!(versions(&world).await, [2, 1, 2]);
    }
    assert_eq!((applies, versions(&world).await), (9, [1, 1, 2]), "the tenth failed for good");
    faults.tried();
    for _ in 0..2 {
        assert_eq!(world.apply().await.done, 0);
        assert_eq!((faults.tried(), versions(&world).await), (Vec::new(), [1, 1, 2]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_failed_for_good_neither_undoes_what_is_tried_anew() {
    let (world, faults) = world_at(1).await;
    write(&world, 2);
    for name in ["baskets", "coupons"] {
        world.write_resource("staging", "Database", name, ROLLBACK, "userVersion: 2");
        faults.fail(name, refused());
    }
    world.tenant.commit("Want version 2, baskets and coupons");
    world.scheduled().await;
    assert_eq!(versions(&world).await, [1, 1, 2]);
    let letters = letters(&world).await;
    let told: Vec<_> = letters.iter().map(|letter| (letter.key.clone(), letter.state)).collect();
    let [(failed, LetterState::Undone)] = told.as_slice() else { panic!("{letters:#?}") };
    for name in ["baskets", "coupons"] {
        faults.mend(name);
    }
    plumb::engine::retry(world.store(), world.clock.as_ref(), &world.name, Which::Resource(failed), "ada")
        .await
        .unwrap();
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert_eq!(versions(&world).await, [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_while_the_last_try_is_under_way_keeps_a_change_from_being_undone() {
    let (mut world, faults) = world_at(1).await;
    let clock = SetClock::at("2030-03-05T09:00:00Z");
    world.clock = clock.clone();
    world.restart().await;
    write(&world, 2);
    world.tenant.commit("Want version 2");
    faults.fail("carts", ManagerError::retry(Reason::TimedOut, "the disk is busy"));
    world.scheduled().await;
    clock.forward(TimeDelta::minutes(1));
    faults.fail("carts", refused());
    let mended = Arc::clone(&faults);
    world.retry_as_steps_fail(move || mended.mend("carts"));
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert_eq!(versions(&world).await, [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undoing_that_fails_is_a_dead_letter_of_its_own() {
    let (world, faults) = world_at(1).await;
    write(&world, 2);
    world.tenant.commit("Want version 2");
    faults.fail("carts", refused());
    // Orders is done before carts fails, and cannot be undone after.
    break_the_undoing_of_orders(&world, &faults);
    let report = world.scheduled().await;
    assert_eq!(report.outcome, ExecutionOutcome::Failed);
    assert_eq!(versions(&world).await, [2, 1, 2]);
    let letters = letters(&world).await;
    let told: Vec<_> = letters.iter().map(|letter| (letter.key.to_string(), letter.state)).collect();
    assert_eq!(told, [(CARTS.to_owned(), LetterState::Undone), (ORDERS.to_owned(), LetterState::NotUndone)]);
    assert_eq!(letters[1].said(), "it could not be undone: no such page size");
    // It is told so, and what to do, however often it is looked at.
    for _ in 0..2 {
        let status = world.status(ORDERS).await.unwrap();
        let stalled = status.condition(ConditionType::Stalled).unwrap();
        assert_eq!((stalled.status, stalled.reason), (ConditionStatus::True, Reason::DeadLetter));
        let explained = view::explain(world.store(), &parse(ORDERS), world.clock.as_ref()).await.unwrap().unwrap();
        assert!(explained.answer.contains(&format!("plumb retry {ORDERS}")), "{explained:#?}");
        let status = world.status(CARTS).await.unwrap();
        assert_eq!(status.condition(ConditionType::Stalled).unwrap().reason, Reason::RolledBack);
        world.scheduled().await;
    }
    // Nobody knows how it is while nobody answers.
    faults.silence(Some(ManagerError::retry(Reason::ProviderUnreachable, "nobody is there")));
    world.scheduled().await;
    for key in [ORDERS, CARTS] {
        let status = world.status(key).await.unwrap();
        let ready = status.condition(ConditionType::Ready).unwrap();
        assert_eq!((ready.status, ready.reason), (ConditionStatus::Unknown, Reason::ProviderUnreachable));
    }
    faults.silence(None);
    // Mended, it is undone by a retry of it alone.
    faults.mend("orders");
    let orders = parse(ORDERS);
    plumb::engine::retry(world.store(), world.clock.as_ref(), &world.name, Which::Resource(&orders), "ada")
        .await
        .unwrap();
    world.scheduled().await;
    assert_eq!(versions(&world).await, [1, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_annotation_what_was_done_stays() {
    let (world, faults) = world_at(1).await;
    write(&world, 2);
    world.write_resource("staging", "Database", "carts", "", "userVersion: 2\ndependsOn: [Database/orders]");
    world.tenant.commit("Want version 2");
    faults.fail("carts", refused());
    world.scheduled().await;
    assert_eq!(versions(&world).await, [2, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_with_a_change_that_was_undone_is_not_begun_later() {
    let (mut world, faults) = world_at(1).await;
    let clock = SetClock::at("2030-03-05T09:00:00Z");
    world.clock = clock.clone();
    world.restart().await;
    // One that waits for another, which goes with nothing and fails for a while.
    write(&world, 2);
    world.write_resource("staging", "Database", "base", "", "userVersion: 2");
    let late = "userVersion: 2\ndependsOn: [Database/base]";
    world.write_resource("staging", "Database", "late", ROLLBACK, late);
    world.tenant.commit("Want version 2");
    faults.fail("carts", refused());
    faults.fail("base", ManagerError::retry(Reason::TimedOut, "the disk is busy"));
    world.scheduled().await;
    assert_eq!(versions(&world).await, [1, 1, 2]);
    faults.mend("base");
    clock.forward(TimeDelta::minutes(10));
    let report = world.scheduled().await;
    assert!(world.file("staging", "base").exists());
    assert!(!world.file("staging", "late").exists(), "it was begun");
    assert_eq!(held(&report.plan, &world.key("staging/Database/late")), Some(Reason::RolledBack));
    // What works is applied, and all that goes with it.
    faults.mend("carts");
    write(&world, 3);
    world.tenant.commit("Want version 3");
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert_eq!(versions(&world).await, [3, 3, 3]);
    assert!(world.file("staging", "late").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_in_the_middle_of_undoing_is_gone_on_from() {
    let (mut world, faults) = world_at(1).await;
    write(&world, 2);
    world.tenant.commit("Want version 2");
    faults.fail("carts", refused());
    // The process dies when the undoing is told of, before it is written down.
    world.on_event(|event| {
        assert!(!matches!(event.kind, EventKind::RollbackStarted { .. }), "it dies here");
    });
    assert!(world.try_apply().await.is_err());
    world.on_event(|_| {});
    world.restart().await;
    assert_eq!(versions(&world).await, [2, 1, 2]);
    world.scheduled().await;
    assert_eq!(versions(&world).await, [1, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_a_stop_has_cut_in_two_is_undone_whole_by_whoever_goes_on() {
    let (mut world, faults) = world_at(1).await;
    write(&world, 2);
    world.tenant.commit("Want version 2");
    Running::until(&world, |event| is_done(event, "orders")).await;
    assert_eq!(versions(&world).await[..2], [2, 1]);
    assert_eq!(sagas(&world).await.len(), 1, "it is under way");
    world.restart().await;
    faults.fail("carts", refused());
    world.scheduled().await;
    assert_eq!(versions(&world).await, [1, 1, 2]);
    assert_eq!(
        world.status(ORDERS).await.unwrap().condition(ConditionType::Stalled).unwrap().reason,
        Reason::RolledBack
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undoing_that_a_stop_has_cut_in_two_is_gone_on_with() {
    let (mut world, faults) = world_at(1).await;
    write(&world, 2);
    let baskets = "userVersion: 2\ndependsOn: [Database/carts]";
    world.write_resource("staging", "Database", "baskets", ROLLBACK, baskets);
    world.tenant.commit("Want version 2");
    faults.fail("baskets", refused());
    let mut undoes = false;
    Running::until(&world, move |event| {
        undoes |= matches!(event.kind, EventKind::RollbackStarted { .. });
        undoes && is_done(event, "carts")
    })
    .await;
    assert_eq!(versions(&world).await, [2, 1, 2], "carts are undone, and orders not yet");
    world.restart().await;
    world.events();
    world.scheduled().await;
    assert_eq!(story(&world.events()), ["update orders"]);
    assert_eq!(versions(&world).await, [1, 1, 2]);
    // As it would be without the stop.
    let told: Vec<_> = letters(&world).await.iter().map(|letter| (letter.key.name.clone(), letter.state)).collect();
    assert_eq!(told, [("baskets".to_owned(), LetterState::Undone)]);
    assert_eq!(world.scheduled().await.done, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_done_whole_is_not_undone_when_something_fails_later() {
    let (world, faults) = world_at(1).await;
    let reverts = format!("{ROLLBACK}\nplumb.dev/drift: revert");
    write(&world, 2);
    world.write_resource("staging", "Database", "carts", &reverts, "userVersion: 2");
    world.tenant.commit("Want version 2");
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert!(sagas(&world).await.is_empty(), "it is over");
    // Days later, at the same commit, what somebody did to carts cannot be put back.
    world.by_hand("staging", "carts", "PRAGMA user_version = 7").await;
    faults.fail("carts", refused());
    let report = world.apply().await;
    assert_eq!(report.outcome, ExecutionOutcome::Failed);
    assert_eq!(versions(&world).await, [2, 7, 2], "orders are in use as they are");
    assert!(sagas(&world).await.is_empty(), "putting back is no change to undo");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_while_a_change_is_under_way_forgets_nothing_of_it() {
    let (world, faults) = world_at(1).await;
    write(&world, 2);
    world.tenant.commit("Want version 2");
    faults.fail("carts", ManagerError::retry(Reason::TimedOut, "the disk is busy"));
    world.scheduled().await;
    assert_eq!(versions(&world).await, [2, 1, 2]);
    // Something else is committed, all of it waits for a while, and another resource is wanted otherwise.
    world.tenant.write("README.md", "Something else\n");
    world.tenant.commit("Write something else");
    world.scheduled().await;
    for suspend in ["true", "false"] {
        world.write_tenant(&format!("providers: [files]\nsuspend: {suspend}"));
        world.platform.commit("Suspend it, or go on");
        world.scheduled().await;
    }
    world.write_resource("staging", "Database", "payments", ROLLBACK, "userVersion: 3");
    world.tenant.commit("Want version 3 of payments, which go with it");
    world.scheduled().await;
    assert_eq!(versions(&world).await, [2, 1, 3]);
    faults.fail("carts", refused());
    assert_eq!(world.apply().await.outcome, ExecutionOutcome::Blocked);
    assert_eq!(versions(&world).await, [1, 1, 2]);
    // Another word on orders is a change of its own, and what works ends all of it.
    faults.mend("carts");
    write(&world, 4);
    world.tenant.commit("Want version 4");
    world.in_sync().await;
    assert_eq!((versions(&world).await, sagas(&world).await), ([4, 4, 4], Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_word_of_git_on_a_resource_is_a_change_of_its_own() {
    let (world, faults) = world_at(1).await;
    write(&world, 2);
    world.tenant.commit("Want version 2");
    faults.fail("carts", ManagerError::retry(Reason::TimedOut, "the disk is busy"));
    world.scheduled().await;
    world.write_resource("staging", "Database", "orders", ROLLBACK, "userVersion: 3");
    world.tenant.commit("Want version 3 of orders");
    faults.fail("carts", refused());
    world.scheduled().await;
    assert_eq!(versions(&world).await, [2, 1, 2], "as they were before the last commit");
}

/// Version 2 was wanted and failed for good, and orders could not be undone; now they could.
async fn world_half_undone() -> World {
    let (world, faults) = world_at(1).await;
    write(&world, 2);
    world.tenant.commit("Want version 2");
    faults.fail("carts", refused());
    break_the_undoing_of_orders(&world, &faults);
    world.scheduled().await;
    world.on_event(|_| {});
    assert_eq!(versions(&world).await, [2, 1, 2], "orders could not be undone");
    faults.mend("orders");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_undone_is_undone_with_the_next_commit_that_fails() {
    let world = world_half_undone().await;
    world.tenant.write("README.md", "Something else\n");
    world.tenant.commit("Write something else");
    world.scheduled().await;
    assert_eq!(versions(&world).await, [1, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_at_another_commit_undoes_nothing_of_this_one() {
    let mut world = World::with_files().await;
    let faults = Faults::new();
    world.connect = Some(faults.connect());
    world.restart().await;
    let more = FILES.replace("name: files", "name: more").replace("sqlite:databases", "sqlite:more");
    let more = more.replace("  serves: [{kind: Database}]\n", "");
    let login = format!("  credentials: {{file: {}}}\n", world.login_file().display());
    world.write_login("anything");
    world.platform.write("providers.yaml", format!("{FILES}---{more}{login}"));
    world.write_tenant("providers: [files, more]");
    world.platform.commit("Have one more");
    write(&world, 1);
    world.tenant.commit("Begin");
    world.in_sync().await;
    // Baskets fail for good, and cannot be seen any more.
    world.write_resource("staging", "Database", "baskets", ROLLBACK, "provider: more\nuserVersion: 1");
    world.tenant.commit("Want baskets");
    faults.fail("baskets", refused());
    world.scheduled().await;
    std::fs::remove_file(world.login_file()).unwrap();
    write(&world, 2);
    world.tenant.commit("Want version 2 of the rest");
    let report = world.scheduled().await;
    assert_eq!(unseen(&report.plan, "checkout/staging/Database/baskets"), Some(Reason::CredentialMissing));
    assert_eq!(versions(&world).await, [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_in_the_middle_of_undoing_forgets_nothing_that_may_have_to_be_undone() {
    let world = world_half_undone().await;
    plumb::engine::retry(world.store(), world.clock.as_ref(), &world.name, Which::All, "ada").await.unwrap();
    world.scheduled().await;
    assert_eq!(versions(&world).await, [1, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn undoing_that_this_look_has_no_room_for_is_the_next_looks() {
    let (world, faults) = world_at(1).await;
    write(&world, 2);
    world.tenant.commit("Want version 2");
    faults.fail("carts", ManagerError::conflict("it moved"));
    let (broken, mut plans) = (Arc::clone(&faults), 0);
    world.on_event(move |event| {
        plans += usize::from(matches!(event.kind, EventKind::Planned { .. }));
        if plans == 4 {
            broken.fail("carts", refused());
        }
    });
    let report = world.scheduled().await;
    assert_eq!(versions(&world).await, [2, 1, 2]);
    assert_eq!(report.next_try, Some(Duration::ZERO));
    world.scheduled().await;
    assert_eq!(versions(&world).await, [1, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_undone_is_a_dead_letter_until_it_is_retried_or_another_is_committed() {
    let (world, faults) = undone().await;
    let letters = letters(&world).await;
    let [letter] = letters.as_slice() else { panic!("{letters:#?}") };
    assert_eq!((letter.key.to_string().as_str(), letter.state), (CARTS, LetterState::Undone));
    assert_eq!((letter.reason, letter.provider.as_str(), letter.failures), (Reason::Rejected, "files", 1));
    assert_eq!(letter.undone, [parse(CARTS), parse(ORDERS)]);
    assert!(letter.help.contains(&format!("plumb retry {CARTS}")), "{letter:?}");
    // The page says so too, with what a person can do.
    let overview = view::overview(world.store(), world.clock.as_ref()).await.unwrap();
    let shown = overview.attention.iter().find(|one| one.key == Some(parse(CARTS))).expect("it is shown");
    assert_eq!((shown.kind, shown.reason), (AttentionKind::Stalled, Some(Reason::Rejected)));
    assert_eq!((&shown.message, shown.help.as_ref()), (&letter.said(), Some(&letter.help)));
    // A database that could not be made has nothing to undo, and is told of once.
    faults.mend("carts");
    write(&world, 3);
    world.write_resource("staging", "Database", "baskets", ROLLBACK, "userVersion: 3\ndependsOn: [Database/carts]");
    world.tenant.commit("Want version 3, and baskets");
    faults.fail("baskets", refused());
    world.scheduled().await;
    let letters = self::letters(&world).await;
    let told: Vec<_> = letters.iter().map(|letter| (letter.key.name.as_str(), letter.state)).collect();
    assert_eq!(told, [("baskets", LetterState::Undone)], "{letters:#?}");
    faults.mend("baskets");
    plumb::engine::retry(world.store(), world.clock.as_ref(), &world.name, Which::All, "ada").await.unwrap();
    world.scheduled().await;
    assert_eq!((versions(&world).await, self::letters(&world).await), ([3, 3, 3], Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_nobody_managed_is_undone_to_what_it_was_live_and_is_nobodys_again() {
    let (world, faults) = world_at(1).await;
    // The version of orders is somebody else's from now on.
    world.write_resource("staging", "Database", "orders", ROLLBACK, "");
    world.tenant.commit("Leave the version of orders alone");
    world.in_sync().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 41").await;
    world.in_sync().await;
    write(&world, 2);
    world.tenant.commit("Want version 2");
    faults.fail("carts", refused());
    world.scheduled().await;
    assert_eq!(versions(&world).await, [41, 1, 2]);
    for _ in 0..2 {
        assert_eq!((world.scheduled().await.done, versions(&world).await), (0, [41, 1, 2]));
    }
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    faults.mend("carts");
    world.write_resource("staging", "Database", "orders", ROLLBACK, "");
    world.tenant.commit("Want version 2 of carts alone");
    world.in_sync().await;
    assert_eq!(versions(&world).await, [42, 2, 2]);
}

/// Orders, which go together with carts, with a change made by hand that was asked about.
async fn asked_about_orders() -> (World, Arc<Faults>) {
    let (world, faults) = world_at(1).await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 40").await;
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    (world, faults)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_with_an_edit_that_fails_is_not_put_back() {
    let (world, faults) = asked_about_orders().await;
    world.tenant.merge(BRANCH, MergeHow::Squash);
    world.tenant.pull();
    world.write_resource("staging", "Database", "orders", ROLLBACK, "userVersion: 30");
    world.tenant.commit("Accept it, with another value");
    world.tenant.delete_branch(BRANCH);
    faults.fail("orders", refused());
    for look in 0..3 {
        world.scheduled().await;
        assert_eq!(versions(&world).await[0], 40, "look {look}: nobody asked for what was before");
    }
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()), "nobody is asked while it is undone");
    // What works is applied.
    faults.mend("orders");
    world.write_resource("staging", "Database", "orders", ROLLBACK, "userVersion: 31");
    world.tenant.commit("Another value that works");
    world.scheduled().await;
    assert_eq!(versions(&world).await[0], 31);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_beside_a_change_that_fails_stays_accepted() {
    let (world, faults) = asked_about_orders().await;
    world.tenant.merge(BRANCH, MergeHow::Squash);
    world.tenant.delete_branch(BRANCH);
    world.write_resource("staging", "Database", "orders", ROLLBACK, "userVersion: 40\njournalMode: delete");
    let carts = "userVersion: 2\ndependsOn: [Database/orders]";
    world.write_resource("staging", "Database", "carts", ROLLBACK, carts);
    world.tenant.commit("Accept it, and change more");
    faults.fail("carts", refused());
    for look in 0..3 {
        world.scheduled().await;
        assert_eq!(versions(&world).await[0], 40, "look {look}: it was accepted");
    }
    assert_eq!(held(&world.scheduled().await.plan, CARTS), Some(Reason::RolledBack));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_with_another_value_is_undone_to_what_was_live() {
    let (world, faults) = asked_about_orders().await;
    world.tenant.merge(BRANCH, MergeHow::Squash);
    world.tenant.pull();
    write(&world, 30);
    world.tenant.commit("Accept it, with another value");
    world.tenant.delete_branch(BRANCH);
    faults.fail("carts", refused());
    for look in 0..3 {
        world.scheduled().await;
        assert_eq!(versions(&world).await, [40, 1, 30], "look {look}: nobody wanted what was before");
    }
    // What works is applied.
    faults.mend("carts");
    write(&world, 31);
    world.tenant.commit("Another value that works");
    world.scheduled().await;
    assert_eq!(versions(&world).await, [31, 31, 31]);
}

async fn letters(world: &World) -> Vec<DeadLetterView> {
    view::dead_letters(world.store(), Some(&world.name), world.clock.as_ref()).await.unwrap()
}

async fn sagas(world: &World) -> Vec<Saga> {
    world.store().read(Scope::Tenant(world.name.clone())).await.unwrap().sagas().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_an_undoing_goes_back_to_where_drift_is_reverted() {
    let (world, faults) = world_at(1).await;
    world.write_tenant("providers: [files]\ndrift: revert");
    world.platform.commit("Put back what differs");
    world.by_hand("staging", "orders", "PRAGMA user_version = 40").await;
    write(&world, 2);
    world.tenant.commit("Want version 2");
    faults.fail("carts", refused());
    break_the_undoing_of_orders(&world, &faults);
    world.scheduled().await;
    world.on_event(|_| {});
    assert_eq!(versions(&world).await, [2, 1, 2], "orders could not be undone");
    faults.mend("orders");
    let planned = world.plan().await.plan;
    let report = world.apply().await;
    assert_eq!((&planned.id, &planned.steps), (&report.plan.id, &report.plan.steps));
    assert_eq!(versions(&world).await, [1, 1, 2], "nobody wanted what was done by hand");
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_undoing_that_the_guard_holds_is_done_once_a_commit_approves_it() {
    let server = RedisServer::start(RedisOptions { aclfile: true, password: None });
    let mut world = World::with_redis(&server).await;
    let faults = Faults::new();
    world.connect = Some(faults.connect());
    world.restart().await;
    // All that the tenant has is made by a commit that fails.
    for cache in ["a", "b"] {
        world.write_resource("staging", "Cache", cache, ROLLBACK, "categories: [read]");
    }
    world.write_resource("staging", "Database", "orders", ROLLBACK, "dependsOn: [Cache/a, Cache/b]");
    world.tenant.commit("Begin");
    faults.fail("orders", refused());
    let users = || server.cli(&["ACL", "USERS"]).matches("checkout_staging").count();
    let report = world.scheduled().await;
    let cache = "checkout/staging/Cache/a";
    assert_eq!((users(), held(&report.plan, cache)), (2, Some(Reason::DeletionsHeld)));
    let why = held_message(&report.plan, cache);
    assert!(why.contains(&format!("Plumb-Approve-Deletes: {}", report.plan.id)), "{why}");
    assert!(why.contains("orders failed for good: no such page size (Rejected)"), "{why}");
    world.approve(ApprovalKind::Deletes, &report.plan.id);
    let report = world.scheduled().await;
    assert_eq!((users(), held(&report.plan, cache)), (0, Some(Reason::RolledBack)));
    assert_eq!(world.scheduled().await.done, 0);
    // What was approved is over: another failure is another question.
    world.tenant.commit("Once more");
    let report = world.scheduled().await;
    assert_eq!((users(), held(&report.plan, cache)), (2, Some(Reason::DeletionsHeld)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_only_be_dropped_with_what_is_in_it_stays_when_a_change_is_undone() {
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    let key = world.key("staging/Database/orders");
    let name = world.object("staging", "orders");
    world.write_resource("staging", "Database", "orders", ROLLBACK, "connectionLimit: 5");
    world.tenant.commit("Begin");
    world.in_sync().await;
    let more = "connectionLimit: 7\nextensions: [hstore]\nroles: [{name: app, access: readwrite}]";
    world.write_resource("staging", "Database", "orders", ROLLBACK, more);
    let impossible = "connectionLimit: 5\nextensions: [no_such_extension]\ndependsOn: [Database/orders]";
    world.write_resource("staging", "Database", "broken", ROLLBACK, impossible);
    world.tenant.commit("More of orders, and what cannot be made");
    let report = world.scheduled().await;
    assert_eq!(held(&report.plan, &key), Some(Reason::RolledBack));
    let there = format!(
        "SELECT (SELECT datconnlimit FROM pg_database WHERE datname = '{name}'), (SELECT count(*) FROM pg_extension WHERE \
         extname = 'hstore'), (SELECT count(*) FROM pg_roles WHERE rolname = '{name}_app')"
    );
    let seen = async || {
        let row = server.query(&name, &there).await.remove(0);
        (row.get::<i32, _>(0), row.get::<i64, _>(1), row.get::<i64, _>(2))
    };
    assert_eq!(seen().await, (5, 1, 1));
    let told = held_message(&report.plan, &key);
    let stays =
        "what was added stays where it is there, and is yours to drop: /spec/extensions/hstore, /spec/roles/app/access";
    assert!(told.contains(stays), "{told}");
    assert_eq!(world.scheduled().await.done, 0, "it rests");
    assert_eq!(world.proposal(&key).await, None);
    // The next commit decides: it wants one of them.
    world.write_resource("staging", "Database", "broken", ROLLBACK, "connectionLimit: 5");
    world.write_resource("staging", "Database", "orders", ROLLBACK, "connectionLimit: 7\nextensions: [hstore]");
    world.tenant.commit("Without a role");
    let report = world.scheduled().await;
    assert_eq!(report.outcome, ExecutionOutcome::InSync, "{:#?}", report.plan.blocked);
    assert_eq!(seen().await, (7, 1, 0));
}

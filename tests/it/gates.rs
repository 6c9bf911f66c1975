//! What may pass when: change windows in their time zones, and suspension by the platform.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use plumb::engine::view;
use plumb::model::{
    ConditionStatus, ConditionType, DriftMode, Event, EventKind, ExecutionOutcome, ProposalStatus, Reason,
};
use plumb::store::Scope;
use plumb::store::audit::{AuditAction, AuditFilter};

use crate::harness::clock::{SetClock, moment};
use crate::harness::world::{FILES, World, held, held_message, parse};
use crate::simulation::faulty::{Call, Fate, FaultyStore, Points};

const ORDERS: &str = "checkout/staging/Database/orders";
const LEDGER: &str = "checkout/production/Database/ledger";
const VERSION: &str = "PRAGMA user_version";
const BRANCH: &str = "plumb/drift/staging/database-orders";

/// A database in staging and one in production, on a clock that the test moves.
async fn world_at(time: &str) -> (World, Arc<SetClock>) {
    let mut world = World::with_files().await;
    let clock = SetClock::at(time);
    world.clock = clock.clone();
    world.restart().await;
    want(&world, 1);
    world.in_sync().await;
    (world, clock)
}

fn want(world: &World, version: u32) {
    world.write_database("staging", "orders", &format!("userVersion: {version}"));
    world.write_database("production", "ledger", &format!("userVersion: {version}"));
    world.tenant.commit(&format!("Want version {version}"));
}

async fn versions(world: &World) -> (i64, i64) {
    (world.number("staging", "orders", VERSION).await, world.number("production", "ledger", VERSION).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_window_holds_says_when_it_goes_on_and_then_does() {
    // A Friday evening in Berlin, in winter.
    let (world, clock) = world_at("2030-01-04T17:00:00Z").await;
    world.write_platform(
        "id: test-platform\nwindows:\n  - {mode: allow, schedule: \"0 9 * * 1-5\", duration: 8h, timezone: Europe/Berlin, \
         environments: [production]}\n  - {mode: deny, schedule: \"0 0 7 1 *\", duration: 24h, timezone: Europe/Berlin}",
    );
    world.platform.commit("Office hours, and a holiday");
    want(&world, 2);
    let report = world.scheduled().await;
    assert_eq!(versions(&world).await, (2, 1));
    // Monday is the holiday.
    let opens = moment("2030-01-08T08:00:00Z");
    let blocked = report.plan.blocked.iter().find(|blocked| blocked.key == parse(LEDGER)).unwrap();
    assert_eq!((blocked.reason, blocked.until), (Reason::WindowClosed, Some(opens)));
    assert_eq!(blocked.message, "changes are applied from 2030-01-08T08:00:00Z (2030-01-08 09:00 in Europe/Berlin) on");
    assert_eq!(report.next_try, (opens - moment("2030-01-04T17:00:00Z")).to_std().ok());
    assert!(!report.wants_retry, "it is no failure that to wait longer for helps");
    let status = world.status(LEDGER).await.unwrap();
    assert_eq!(status.until, Some(opens));
    let reconciling = status.condition(ConditionType::Reconciling).unwrap();
    assert_eq!((reconciling.status, reconciling.reason), (ConditionStatus::True, Reason::WindowClosed));
    let explained = view::explain(world.store(), &parse(LEDGER), world.clock.as_ref()).await.unwrap().unwrap();
    assert_eq!(explained.chain[0].next_at, Some(opens));
    assert_eq!(explained.answer, format!("{LEDGER} is not as git says: {}", blocked.message), "the time is said once");
    // In staging the holiday counts alone.
    clock.set("2030-01-07T12:00:00Z");
    want(&world, 3);
    let report = world.scheduled().await;
    assert_eq!(
        held_message(&report.plan, ORDERS),
        "changes are closed until 2030-01-07T23:00:00Z (2030-01-08 00:00 in Europe/Berlin)"
    );
    assert_eq!(report.plan.goes_on_at(), Some(moment("2030-01-07T23:00:00Z")), "the first of both");
    clock.set("2030-01-08T08:00:00Z");
    let report = world.scheduled().await;
    assert_eq!((report.done, report.next_try, versions(&world).await), (2, None, (3, 3)), "{:#?}", report.plan);
    assert_eq!(world.status(LEDGER).await.unwrap().until, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_suspended_tenant_nothing_is_written_and_all_is_seen() {
    let (world, _clock) = world_at("2030-01-04T17:00:00Z").await;
    world.write_tenant("providers: [files]\ndrift: revert\nsuspend: true\nsuspendReason: moving to another server");
    world.platform.commit("Suspend the tenant");
    world.write_database("production", "ledger", "userVersion: 2");
    world.write_database("staging", "new", "userVersion: 5");
    world.tenant.commit("Change one, add one");
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    let report = world.apply().await;
    assert_eq!((report.done, report.next_try, report.wants_retry), (0, None, false));
    assert_eq!(held(&report.plan, LEDGER), Some(Reason::Suspended));
    assert_eq!(
        held_message(&report.plan, LEDGER),
        "tenant checkout is suspended (moving to another server); to go on, remove spec.suspend of its Tenant in the \
         platform repository"
    );
    assert!(!world.file("staging", "new").exists());
    assert_eq!(versions(&world).await, (42, 1), "drift is not put back");
    assert_eq!(report.plan.drift[0].mode, DriftMode::Observe);
    let drifted = world.status(ORDERS).await.unwrap().condition(ConditionType::Drifted).unwrap().clone();
    assert_eq!((drifted.status, drifted.reason), (ConditionStatus::True, Reason::DriftObserved));
    let ledger = world.status(LEDGER).await.unwrap();
    assert_eq!((ledger.condition(ConditionType::Stalled).unwrap().status, ledger.until), (ConditionStatus::True, None));
    let explained = view::explain(world.store(), &parse(LEDGER), world.clock.as_ref()).await.unwrap().unwrap();
    assert!(explained.answer.contains("(moving to another server); to go on, remove spec.suspend"), "{explained:#?}");
    // Nor is what git removes deleted.
    world.tenant.remove("environments/production/ledger.yaml");
    world.tenant.commit("Remove the ledger");
    assert_eq!(world.apply().await.done, 0);
    assert!(world.file("production", "ledger").exists());
    world.write_tenant("providers: [files]\ndrift: revert");
    world.platform.commit("Go on");
    assert_eq!(world.apply().await.done, 2, "what was added, and what drifted");
    assert_eq!(versions(&world).await, (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_environment_keeps_its_proposals_and_others_go_on() {
    let (world, _clock) = world_at("2030-01-04T17:00:00Z").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    let tip = world.tenant.remote_head(BRANCH);
    world.write_tenant("providers: [files]\nsuspend: [staging]");
    world.platform.commit("Suspend staging");
    world.write_database("production", "ledger", "userVersion: 2");
    world.tenant.commit("Change production");
    world.by_hand("staging", "orders", "PRAGMA user_version = 43").await;
    assert_eq!(world.apply().await.done, 1);
    assert_eq!(versions(&world).await, (43, 2));
    assert_eq!(world.tenant.remote_head(BRANCH), tip, "it is left as it is");
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    // What is decided meanwhile waits with the rest.
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.tenant.delete_branch(BRANCH);
    let report = world.apply().await;
    assert_eq!((report.done, held(&report.plan, ORDERS)), (0, Some(Reason::Suspended)), "{:#?}", report.plan);
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Restored);
    world.write_tenant("providers: [files]");
    world.platform.commit("Go on");
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(versions(&world).await, (1, 2));
}

/// Five databases in production and one in staging, whose steps run one after the other, two minutes before production's
/// window closes. When what `closes` is true of happens first, it has closed.
async fn world_before_closing(closes: fn(&Event) -> bool) -> (World, Arc<SetClock>) {
    let mut world = World::new(&format!("{FILES}  maxConcurrency: 1\n"), "[files]").await;
    let clock = SetClock::at("2030-01-02T16:58:00Z");
    world.clock = clock.clone();
    world.restart().await;
    world.write_platform(
        "id: test-platform\nwindows:\n  - {mode: allow, schedule: \"0 9 * * *\", duration: 8h, environments: [production]}",
    );
    world.platform.commit("Office hours");
    for name in ["a", "b", "c", "d", "e"] {
        world.write_database("production", name, "userVersion: 1");
    }
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Add them");
    let (moved, mut is_open) = (clock.clone(), true);
    world.on_event(move |event| {
        if is_open && event.key.as_ref().is_some_and(|key| key.environment == "production") && closes(event) {
            moved.set("2030-01-02T17:00:00Z");
            is_open = false;
        }
    });
    (world, clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_step_begins_once_its_window_has_closed() {
    let (world, clock) = world_before_closing(|event| matches!(event.kind, EventKind::StepDone { .. })).await;
    let report = world.scheduled().await;
    let in_production = |name: &str| world.file("production", name).exists();
    let made = ["a", "b", "c", "d", "e"].into_iter().filter(|name| in_production(name)).count();
    assert_eq!((report.done, made, world.file("staging", "orders").exists()), (2, 1, true), "{report:#?}");
    assert_eq!((report.outcome, report.failed.len()), (ExecutionOutcome::Blocked, 0));
    // It says when it goes on, and why it did not.
    let opens = moment("2030-01-03T09:00:00Z");
    assert_eq!(report.put_off.len(), 4);
    for (key, hold) in &report.put_off {
        assert_eq!(
            (key.environment.as_str(), hold.reason, hold.until),
            ("production", Reason::WindowClosed, Some(opens))
        );
        let status = world.status(&key.to_string()).await.unwrap();
        assert_eq!(status.until, Some(opens));
        let ready = status.condition(ConditionType::Ready).unwrap();
        assert_eq!((ready.reason, ready.message.as_str()), (hold.reason, hold.message.as_str()));
        let reconciling = status.condition(ConditionType::Reconciling).unwrap();
        assert_eq!(reconciling.status, ConditionStatus::True);
        let explained = view::explain(world.store(), key, world.clock.as_ref()).await.unwrap().unwrap();
        assert_eq!(explained.chain[0].next_at, Some(opens));
    }
    assert_eq!(report.next_try, (opens - moment("2030-01-02T17:00:00Z")).to_std().ok());
    assert!(!report.wants_retry, "to look again earlier helps nothing");
    let events = world.events();
    let begun = events.iter().filter(|event| matches!(event.kind, EventKind::StepStarted { .. })).count();
    let held = events.iter().filter(|event| matches!(event.kind, EventKind::Blocked { .. })).count();
    assert_eq!((begun, held), (2, 4));
    // Nothing more is done before it opens, and then all of it.
    assert_eq!((world.scheduled().await.done, in_production("e")), (0, false));
    clock.set("2030-01-03T09:00:00Z");
    let report = world.scheduled().await;
    assert_eq!((report.done, report.outcome, report.next_try), (4, ExecutionOutcome::InSync, None), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_was_not_written_down_before_its_window_closed_does_not_begin() {
    let (world, clock) = world_before_closing(|event| matches!(event.kind, EventKind::StepStarted { .. })).await;
    let report = world.scheduled().await;
    assert_eq!((report.done, report.put_off.len(), report.failed.len()), (1, 5, 0), "{report:#?}");
    assert!(!world.file("production", "a").exists());
    let untold = |event: &&Event| matches!(event.kind, EventKind::StepFailed { reason: Reason::WindowClosed, .. });
    assert_eq!(world.events().iter().filter(untold).count(), 1, "what is on record as begun has an end");
    assert_eq!(changed(&world).await, ["checkout/staging/Database/orders"], "nothing else was changed");
    assert!(!report.wants_retry, "{report:#?}");
    clock.set("2030-01-03T09:00:00Z");
    assert_eq!(world.in_sync().await, 5, "and no failure counts against it");
}

/// What the audit log says that Plumb changed.
async fn changed(world: &World) -> Vec<String> {
    let all = AuditFilter { limit: 1000, ..AuditFilter::default() };
    let rows = world.store().read(Scope::Platform).await.unwrap().audit(&all).await.unwrap();
    let changes = rows.into_iter().filter(|row| row.action == AuditAction::Change);
    changes.filter_map(|row| row.key).map(|key| key.to_string()).collect()
}

/// A store that does not take down events from when the first step is to begin, as often as is tried.
struct FullOfEvents {
    begins: Arc<AtomicBool>,
    refusals: AtomicUsize,
}

#[async_trait]
impl Points for FullOfEvents {
    async fn before(&self, _: Call, what: &'static str) -> Fate {
        if what != "append_events" || !self.begins.load(Ordering::SeqCst) {
            return Fate::Go;
        }
        let is_left =
            self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if is_left { Fate::Fail } else { Fate::Go }
    }

    async fn after(&self, _: Call, _: &'static str) -> Fate {
        Fate::Go
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_beginning_cannot_be_written_down_is_put_off_and_has_not_failed() {
    let mut world = World::with_files().await;
    let begins = Arc::new(AtomicBool::new(false));
    let full = Arc::new(FullOfEvents { begins: Arc::clone(&begins), refusals: AtomicUsize::new(11) });
    world.around_store = Some(Box::new(move |store| Arc::new(FaultyStore::new(store, full.clone()))));
    world.restart().await;
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Add orders");
    world.on_event(move |event| {
        if matches!(event.kind, EventKind::StepStarted { .. }) {
            begins.store(true, Ordering::SeqCst);
        }
    });
    let report = world.scheduled().await;
    assert!(!world.file("staging", "orders").exists());
    let put_off = report.put_off.values().map(|hold| hold.reason).collect::<Vec<_>>();
    assert_eq!((report.failed.len(), put_off), (0, vec![Reason::Pending]), "{report:#?}");
    assert!(report.wants_retry);
    assert!(world.store().read(Scope::Platform).await.unwrap().attempts().await.unwrap().is_empty());
    assert!(changed(&world).await.is_empty(), "nothing was changed");
    assert_eq!(world.in_sync().await, 1);
}

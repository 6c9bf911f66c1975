//! The schedule of `plumb serve`, on a clock that the test moves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DurationRound, TimeDelta};
use plumb::engine::schedule::Schedule;
use plumb::engine::{Ask, LEASE, Width, view};
use plumb::model::{
    Action, Clock, ConditionType, Event, EventKind, Execution, ExecutionOutcome, Place, ProposalStatus, Reason,
    ResourceKey, ResourceStatus, SystemClock, Trigger,
};
use plumb::store::audit::{AuditAction, AuditEntry, AuditFilter, PLATFORM_CHAIN};
use plumb::store::{HistoryFilter, Scope};
use sqlx::Row;
use tokio::sync::{mpsc, oneshot};

use crate::harness::clock::{SetClock, moment};
use crate::harness::faulty::Faults;
use crate::harness::git::{GitHttpServer, GitRepo, Request};
use crate::harness::postgres::PostgresServer;
use crate::harness::running::Running;
use crate::harness::world::{World, run_sql};
use crate::simulation::faulty::{Call, Fate, FaultyStore, Points};

/// Long enough for a loaded machine; what is waited for comes within a second or two.
const PATIENCE: Duration = Duration::from_secs(90);
const ORDERS: &str = "checkout/staging/Database/orders";
const MANIFEST: &str = "environments/staging/orders.yaml";
const BRANCH: &str = "plumb/drift/staging/database-orders";

/// What was looked at, and why, oldest first.
async fn looks(world: &World) -> Vec<Execution> {
    let mut tx = world.store().read(Scope::Tenant(world.name.clone())).await.unwrap();
    let mut looks = tx.executions(&HistoryFilter { limit: 100, ..HistoryFilter::default() }).await.unwrap();
    looks.reverse();
    looks
}

/// A tenant with a database, shortly before noon, when it is scanned; its engine is not started yet.
async fn scanned_at_noon() -> (World, Arc<SetClock>) {
    let mut world = World::with_files().await;
    world.stop();
    let clock = SetClock::at("2030-01-01T11:59:30Z");
    world.clock = clock.clone();
    // Polls wake the schedule often, so that it sees that the clock was set.
    world.write_platform("id: test-platform\npollInterval: 200ms\ndrift: {schedule: \"0 12 * * *\", jitter: 1s}");
    world.platform.commit("Scan at noon");
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
    (world, clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drift_scan_comes_by_its_cron_schedule_and_pushes_a_proposal() {
    let (mut world, clock) = scanned_at_noon().await;
    world.start().await;

    let (opened, mut proposals) = mpsc::unbounded_channel();
    world.on_event(move |event| {
        if let EventKind::ProposalOpened { branch, .. } = &event.kind {
            // Nobody waits any more once the first has come.
            let _ = opened.send((event.execution, branch.clone()));
        }
    });
    let running = Running::start(&world).await;
    assert_eq!(world.number("staging", "orders", "PRAGMA user_version").await, 7);

    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    clock.set("2030-01-01T12:00:01Z");
    let (execution, branch) =
        tokio::time::timeout(PATIENCE, proposals.recv()).await.expect("the scan finds the drift").unwrap();
    running.stop().await;

    assert_eq!(branch, BRANCH);
    assert!(world.tenant.show(&format!("{BRANCH}:{MANIFEST}")).contains("userVersion: 42"));
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    assert_eq!(world.number("staging", "orders", "PRAGMA user_version").await, 42, "held, not overwritten");
    let looks = looks(&world).await;
    let scan = looks.iter().find(|look| look.id == execution).unwrap();
    assert_eq!((scan.trigger, scan.started_at), (Trigger::DriftScan, moment("2030-01-01T12:00:01Z")));
    // Until noon there was one look, the first: a poll that sees no new commit does not scan.
    let before: Vec<Trigger> = looks.iter().filter(|look| look.id < execution).map(|look| look.trigger).collect();
    assert_eq!(before, [Trigger::Start]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_window_holds_is_applied_when_it_opens() {
    let mut world = World::with_files().await;
    world.stop();
    // Clocks in Berlin are an hour ahead: seven by UTC is eight there.
    let clock = SetClock::at("2030-01-02T06:59:58Z");
    world.clock = clock.clone();
    // Neither a poll nor a scan comes by.
    world.write_platform(
        "id: test-platform\npollInterval: 1h\ndrift: {schedule: \"0 0 1 6 *\", jitter: 1s}\nwindows:\n  - {mode: allow, \
         schedule: \"0 8 * * *\", duration: 1h, timezone: Europe/Berlin}",
    );
    world.platform.commit("Open at eight");
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
    world.start().await;
    let (told, mut done) = mpsc::unbounded_channel();
    world.on_event(move |event| {
        if let EventKind::StepDone { .. } = &event.kind {
            // Nobody waits any more once the first has come.
            let _ = told.send(event.execution);
        }
    });
    let running = Running::start(&world).await;
    assert!(!world.file("staging", "orders").exists());
    let status = world.status(ORDERS).await.unwrap();
    assert_eq!(status.until, Some(moment("2030-01-02T07:00:00Z")));
    clock.set("2030-01-02T07:00:00Z");
    let execution = tokio::time::timeout(PATIENCE, done.recv()).await.expect("it wakes").unwrap();
    running.stop().await;
    assert_eq!(world.number("staging", "orders", "PRAGMA user_version").await, 7);
    assert_eq!(world.status(ORDERS).await.unwrap().until, None);
    let looks = looks(&world).await;
    let look = looks.iter().find(|look| look.id == execution).unwrap();
    assert_eq!((look.trigger, look.started_at), (Trigger::Retry, moment("2030-01-02T07:00:00Z")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_looked_at_at_once_when_it_is_suspended_no_more() {
    let mut world = suspended_world().await;
    world.start().await;
    let (told, mut done) = mpsc::unbounded_channel();
    world.on_event(move |event| {
        if let EventKind::StepDone { .. } = &event.kind {
            // Nobody waits any more once the first has come.
            let _ = told.send(());
        }
    });
    let running = Running::start(&world).await;
    assert!(!world.file("staging", "orders").exists());
    world.write_tenant("providers: [files]");
    world.platform.commit("Go on");
    tokio::time::timeout(PATIENCE, done.recv()).await.expect("it is looked at").unwrap();
    running.stop().await;
    assert_eq!(world.number("staging", "orders", "PRAGMA user_version").await, 7);
    assert!(looks(&world).await.iter().all(|look| look.trigger != Trigger::DriftScan));
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_polls_ask_for_the_refs_alone_and_what_has_moved_is_read_in_one_conversation() {
    let mut world = World::with_files().await;
    world.stop();
    let server = GitHttpServer::start(world.tenant.remote().parent().unwrap(), None);
    let url = server.url("remote.git");
    world.write_tenant_spec(&format!("repository: {{url: \"{url}\"}}\nenvironments: [staging]\nproviders: [files]"));
    world.write_platform("id: test-platform\npollInterval: 200ms\ndrift: {schedule: \"0 0 1 6 *\", jitter: 1s}");
    world.platform.commit("Poll over http");
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
    world.start().await;
    let running = Running::start(&world).await;
    until("rest", async || world.store().places().await.unwrap().iter().all(Place::is_idle)).await;

    // The first of these polls may have begun before.
    server.requests();
    let mut polls = Vec::new();
    until("polls", async || {
        polls.extend(server.requests());
        polls.iter().filter(|request| **request == Request::LsRefs).count() > 3
    })
    .await;
    assert!(polls.iter().all(|request| matches!(request, Request::Handshake | Request::LsRefs)), "{polls:?}");

    world.write_database("staging", "orders", "userVersion: 8");
    world.tenant.commit("Expect 8");
    let mut asked = Vec::new();
    until("the look", async || {
        asked.extend(server.requests());
        world.number("staging", "orders", "PRAGMA user_version").await == 8
    })
    .await;
    running.stop().await;
    asked.extend(server.requests());
    let is = |wanted: Request| move |request: &&Request| **request == wanted;
    assert_eq!(asked.iter().filter(is(Request::Fetch)).count(), 1, "{asked:?}");
    let before = asked.iter().take_while(|request| **request != Request::Fetch).filter(is(Request::LsRefs)).count();
    assert!(before >= 2, "the poll that saw it fetched it: {asked:?}");
    assert!(!asked.iter().any(|request| matches!(request, Request::Other(_))), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_looks_inside_each_object_now_and_then_however_short_each_replica_leads() {
    let server = PostgresServer::shared();
    let mut world = World::with_postgres(server).await;
    world.stop();
    // Close to the time that the state is in, and not before it.
    let begin = SystemClock.now().duration_trunc(TimeDelta::minutes(1)).unwrap() + TimeDelta::minutes(1);
    let clock = SetClock::at(&begin.to_rfc3339());
    world.clock = clock.clone();
    let platform = world.platform.show("main:platform.yaml");
    let scans = "  pollInterval: 200ms\n  drift: {schedule: \"* * * * *\", jitter: 1s}\n";
    world.platform.write("platform.yaml", format!("{}\n{scans}", platform.trim_end()));
    world.platform.commit("Scan every minute");
    world.write_database("staging", "orders", "extensions: [pgcrypto]");
    world.tenant.commit("Add orders");
    world.start().await;

    let (told, mut events) = mpsc::unbounded_channel();
    world.on_event(move |event| {
        // Nobody waits any more at the end.
        let _ = told.send(event.clone());
    });
    let mut drifted = Vec::new();
    for minute in 1..=8 {
        let before = looks(&world).await.len();
        let running = Running::start(&world).await;
        // The look of the start comes a little later, and would be one with the scan.
        let is_idle = async || world.store().place(&world.name).await.unwrap().unwrap().is_idle();
        until("the look of the start", async || looks(&world).await.len() > before && is_idle().await).await;
        while events.try_recv().is_ok() {}
        clock.set(&(begin + TimeDelta::minutes(minute) + TimeDelta::seconds(5)).to_rfc3339());
        let mut planned = async || loop {
            if let EventKind::Planned { drifted, .. } = events.recv().await.unwrap().kind {
                return drifted;
            }
        };
        drifted.push(tokio::time::timeout(PATIENCE, planned()).await.expect("the scan comes"));
        until("its end", &is_idle).await;
        running.stop().await;
        if minute == 1 {
            // Only a look inside of the database can see that this is gone.
            server.psql_in(&world.object("staging", "orders"), "DROP EXTENSION pgcrypto").await;
        }
    }
    // Every sixth since the first, by whatever clock that was.
    assert!(drifted[..4].iter().all(|drifted| *drifted == 0) && drifted[7] == 1, "{drifted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_it_is_kept_goes_soon_after_a_start() {
    let mut world = World::with_files().await;
    world.write_platform("id: test-platform\npollInterval: 200ms");
    world.platform.commit("Poll often");
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    world.in_sync().await;
    let first = looks(&world).await[0].id;
    world.stop();
    world.clock = SetClock::at("2090-01-01T12:00:00Z");
    world.start().await;
    let running = Running::start(&world).await;
    let gone = async {
        let is_cut = |row: &AuditEntry| row.details["what"] == "audit log";
        while looks(&world).await.iter().any(|look| look.id == first) || !pruned(&world).await.iter().any(is_cut) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it does not wait for an hour");
    running.stop().await;
    // How much of what went, and up to when, is on record.
    let rows = pruned(&world).await;
    let mut what: Vec<&str> = rows.iter().map(|row| row.details["what"].as_str().unwrap()).collect();
    // The look that comes meanwhile is the newest, and the one before it goes too.
    what.dedup();
    assert_eq!(what, ["executions", "audit log"], "{rows:#?}");
    for row in rows {
        assert_eq!((row.actor.as_str(), row.tenant.as_str()), ("plumb", PLATFORM_CHAIN));
        assert!(row.details["rows"].as_u64() >= Some(1), "{row:?}");
        let before = row.details["before"].as_str().unwrap();
        assert!(before > "2080" && before < "2090", "{row:?}");
    }
    world.stop();
    let verified = || world.plumb(&["audit", "--verify"]).output().unwrap();
    assert!(verified().status.success(), "the chains are whole");
    // What somebody cuts off beside it shows, though the chain is whole from there on.
    let cut = "UPDATE audit_heads SET first_previous = (SELECT hash FROM audit WHERE tenant = '' AND id = first_id), \
               first_id = first_id + 1 WHERE tenant = ''; \
               DELETE FROM audit WHERE tenant = '' AND id < (SELECT first_id FROM audit_heads WHERE tenant = '')";
    run_sql(&world.data().join("plumb.db"), cut).await;
    let broken = verified();
    let told = String::from_utf8_lossy(&broken.stdout);
    assert!(!broken.status.success() && told.contains("of the platform tells of another number of rows"), "{told}");
}

/// The rows of the audit log about what was forgotten.
async fn pruned(world: &World) -> Vec<AuditEntry> {
    let all = AuditFilter { limit: 1000, ..AuditFilter::default() };
    let rows = world.store().read(Scope::Platform).await.unwrap().audit(&all).await.unwrap();
    rows.into_iter().filter(|row| row.action == AuditAction::Pruned).collect()
}

/// A queue that takes no requests while it is shut.
#[derive(Default)]
struct Queue {
    is_shut: AtomicBool,
    refused: AtomicUsize,
    /// How often somebody asked which platform is in force: who reads its repository does so first.
    readings: AtomicUsize,
}

#[async_trait]
impl Points for Queue {
    async fn before(&self, _: Call, what: &'static str) -> Fate {
        if what == "platform" {
            self.readings.fetch_add(1, Ordering::SeqCst);
        }
        if what != "request" || !self.is_shut.load(Ordering::SeqCst) {
            return Fate::Go;
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
        Fate::Fail
    }

    async fn after(&self, _: Call, _: &'static str) -> Fate {
        Fate::Go
    }
}

/// Hears nothing of what comes into the queue.
struct Unwoken;

#[async_trait]
impl Points for Unwoken {
    async fn before(&self, _: Call, _: &'static str) -> Fate {
        Fate::Go
    }

    async fn after(&self, _: Call, _: &'static str) -> Fate {
        Fate::Go
    }

    fn hears(&self) -> bool {
        false
    }
}

/// A history that is being forgotten for as long as the door is shut.
#[derive(Default)]
struct Archive {
    is_open: AtomicBool,
    asked: AtomicUsize,
}

#[async_trait]
impl Points for Archive {
    async fn before(&self, _: Call, what: &'static str) -> Fate {
        if what == "prune_history" {
            self.asked.fetch_add(1, Ordering::SeqCst);
            while !self.is_open.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Fate::Go
    }

    async fn after(&self, _: Call, _: &'static str) -> Fate {
        Fate::Go
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn to_forget_what_is_old_keeps_nobody_from_stopping() {
    let mut world = World::with_files().await;
    world.stop();
    let archive = Arc::new(Archive::default());
    let shut = Arc::clone(&archive);
    world.around_store = Some(Box::new(move |store| Arc::new(FaultyStore::new(store, shut.clone()))));
    world.start().await;
    let (schedule, _looks, _ready) = Schedule::new(Arc::clone(world.engine()));
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(schedule.run(async move { stopped.await.unwrap() }));
    until("the pruning", async || archive.asked.load(Ordering::SeqCst) > 0).await;
    stop.send(()).unwrap();
    let stopped = tokio::time::timeout(PATIENCE, running).await;
    archive.is_open.store(true, Ordering::SeqCst);
    stopped.expect("it does not wait for the end of it").unwrap();
    // What was under way is undone by then, and nobody waits for it.
    let mut tx = world.store().begin(Scope::Platform).await.unwrap();
    assert_eq!(tx.prune_history(moment("2001-01-01T00:00:00Z")).await.unwrap(), 0);
}

/// A store that hears no sign of life, and writes down what was seen for as long as a lease lasts, once.
struct Deaf {
    lease: Duration,
    is_slow: AtomicBool,
}

#[async_trait]
impl Points for Deaf {
    async fn before(&self, _: Call, what: &'static str) -> Fate {
        if what == "put_statuses" && self.is_slow.swap(false, Ordering::SeqCst) {
            tokio::time::sleep(self.lease).await;
        }
        if what == "renew" { Fate::Fail } else { Fate::Go }
    }

    async fn after(&self, _: Call, _: &'static str) -> Fate {
        Fate::Go
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_look_did_not_ask_since_its_lease_may_have_ended_is_asked_by_one_that_comes_by_itself() {
    let mut world = World::with_files().await;
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.stop();
    world.lease = Duration::from_millis(500);
    let deaf = Arc::new(Deaf { lease: world.lease, is_slow: AtomicBool::new(true) });
    world.around_store = Some(Box::new(move |store| Arc::new(FaultyStore::new(store, deaf.clone()))));
    world.start().await;

    let report = world.apply().await;
    assert!(!report.plan.drift.is_empty() && world.proposal(ORDERS).await.is_none(), "{report:?}");
    // Nobody else has claimed the tenant, and nobody scans before minutes have passed.
    let place = world.store().place(&world.name).await.unwrap().unwrap();
    let asked = place.asked.expect("another look is asked for");
    assert_eq!(asked, Ask { trigger: Trigger::Retry, width: Width::Changed });
    world.stop();
    (world.lease, world.around_store) = (LEASE, None);
    world.start().await;
    world.scheduled().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
}

async fn until(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let seen = async {
        while !seen().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("{what} does not come"));
}

/// A tenant whose staging is suspended, on a platform that is read often and scans never.
async fn suspended_world() -> World {
    let mut world = World::with_files().await;
    world.stop();
    world.write_platform("id: test-platform\npollInterval: 200ms\ndrift: {schedule: \"0 0 1 6 *\", jitter: 1s}");
    world.write_tenant("providers: [files]\nsuspend: [staging]");
    world.platform.commit("Suspend staging");
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_of_the_platform_is_not_forgotten_while_the_queue_cannot_be_asked() {
    let mut world = suspended_world().await;
    let queue = Arc::new(Queue::default());
    let shut = Arc::clone(&queue);
    world.around_store = Some(Box::new(move |store| Arc::new(FaultyStore::new(store, shut.clone()))));
    world.start().await;
    let running = Running::start(&world).await;
    queue.is_shut.store(true, Ordering::SeqCst);
    world.write_tenant("providers: [files]");
    world.platform.commit("Go on");
    until("the refusal", async || queue.refused.load(Ordering::SeqCst) > 0).await;
    // It is in force by now, and later readings of it find nothing new: the first of two is over when the second begins.
    let before = queue.readings.load(Ordering::SeqCst);
    until("later readings", async || queue.readings.load(Ordering::SeqCst) >= before + 2).await;
    assert!(!world.file("staging", "orders").exists());
    queue.is_shut.store(false, Ordering::SeqCst);
    until("the look", async || world.file("staging", "orders").exists()).await;
    running.stop().await;
    let looks = looks(&world).await;
    assert_eq!(looks.last().map(|look| look.trigger), Some(Trigger::Commit), "{looks:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_was_asked_for_is_done_once_the_store_is_back_and_never_without_who_asked() {
    let mut world = suspended_world().await;
    let queue = Arc::new(Queue::default());
    let shut = Arc::clone(&queue);
    world.around_store = Some(Box::new(move |store| Arc::new(FaultyStore::new(store, shut.clone()))));
    world.start().await;
    let (schedule, asks, mut ready) = Schedule::new(Arc::clone(world.engine()));
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(schedule.run(async move { stopped.await.unwrap() }));
    tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)).await.expect("the first look ends").unwrap();
    let before = looks(&world).await.len();
    queue.is_shut.store(true, Ordering::SeqCst);
    assert!(asks.ask(Some(&world.name), "ada"), "she is told that there will be a look");
    until("the refusals", async || queue.refused.load(Ordering::SeqCst) > 1).await;
    queue.is_shut.store(false, Ordering::SeqCst);
    until("the look", async || looks(&world).await.len() > before).await;
    stop.send(()).unwrap();
    running.await.unwrap();
    assert_eq!(looks(&world).await[before].trigger, Trigger::Request);
    let all = AuditFilter { limit: 1000, ..AuditFilter::default() };
    let rows = world.store().read(Scope::Platform).await.unwrap().audit(&all).await.unwrap();
    let asked = rows.iter().filter(|row| row.action == AuditAction::Request);
    assert_eq!(asked.map(|row| row.actor.as_str()).collect::<Vec<_>>(), ["ada"], "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_of_one_tenant_keeps_neither_others_nor_scans_waiting() {
    let (mut world, clock) = scanned_at_noon().await;
    world.start().await;
    let (schedule, asks, mut ready) = Schedule::new(Arc::clone(world.engine()));
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(schedule.run(async move { stopped.await.unwrap() }));
    tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)).await.expect("the first look ends").unwrap();
    let damage = "CREATE TRIGGER damaged BEFORE INSERT ON audit WHEN NEW.tenant = 'checkout' AND NEW.action = 'request' \
                  BEGIN SELECT RAISE(ABORT, 'damaged'); END";
    run_sql(&world.data().join("plumb.db"), damage).await;
    // Due before all others, and asked for as only a newer version does.
    let newer = "INSERT INTO queue (tenant, generation, trigger_kind, width, due_at) \
                 VALUES ('billing', 1, 'weather', 7, '2020-01-01T00:00:00.000000000Z')";
    run_sql(&world.data().join("plumb.db"), newer).await;
    assert!(asks.ask(Some(&world.name), "ada"), "nobody knows yet that it cannot be written down");
    // Who asks for all is in the chain of the platform.
    assert!(asks.ask(None, "bob"));
    let is = |trigger: Trigger| move |look: &Execution| look.trigger == trigger;
    until("what bob asked for", async || looks(&world).await.iter().any(is(Trigger::Request))).await;
    clock.set("2030-01-01T12:00:02Z");
    until("the scan", async || looks(&world).await.iter().any(is(Trigger::DriftScan))).await;
    // Once it is mended, ada's look comes too.
    let before = looks(&world).await.len();
    run_sql(&world.data().join("plumb.db"), "DROP TRIGGER damaged").await;
    until("what ada asked for", async || looks(&world).await[before..].iter().any(is(Trigger::Request))).await;
    stop.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_is_woken_for_is_found_by_looking_into_the_queue() {
    let mut world = suspended_world().await;
    world.around_store = Some(Box::new(|store| Arc::new(FaultyStore::new(store, Arc::new(Unwoken)))));
    world.start().await;
    let running = Running::start(&world).await;
    let before = looks(&world).await.len();
    // Another process asks, so that nobody in this one is woken by it.
    assert!(world.plumb(&["retry"]).output().unwrap().status.success());
    until("the look", async || looks(&world).await.len() > before).await;
    running.stop().await;
    assert_eq!(looks(&world).await[before].trigger, Trigger::Request);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_the_queue_does_not_take_is_asked_for_again() {
    let (mut world, clock) = scanned_at_noon().await;
    let queue = Arc::new(Queue::default());
    let shut = Arc::clone(&queue);
    world.around_store = Some(Box::new(move |store| Arc::new(FaultyStore::new(store, shut.clone()))));
    world.start().await;
    let running = Running::start(&world).await;
    queue.is_shut.store(true, Ordering::SeqCst);
    clock.set("2030-01-01T12:00:02Z");
    until("the refusal", async || queue.refused.load(Ordering::SeqCst) > 0).await;
    queue.is_shut.store(false, Ordering::SeqCst);
    let is_scan = |look: &Execution| look.trigger == Trigger::DriftScan;
    until("the scan", async || looks(&world).await.iter().any(is_scan)).await;
    running.stop().await;
    assert_eq!(looks(&world).await.iter().filter(|look| is_scan(look)).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leads_next_looks_at_everything_though_it_knows_what_is_new() {
    let mut world = World::with_files().await;
    world.stop();
    world.write_platform("id: test-platform\npollInterval: 200ms\ndrift: {schedule: \"0 0 1 6 *\", jitter: 1s}");
    world.platform.commit("Scan once a year");
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
    world.start().await;
    Running::start(&world).await.stop().await;
    // What was due while nobody led was asked for by nobody.
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    let before = looks(&world).await.len();
    let running = Running::start(&world).await;
    until("the look", async || looks(&world).await.iter().any(|look| look.id > before as i64)).await;
    until("rest", async || world.store().place(&world.name).await.unwrap().unwrap().is_idle()).await;
    running.stop().await;
    assert!(world.events().iter().any(|event| matches!(event.kind, EventKind::DriftFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_are_looked_at_where_another_revision_was_in_force_in_between() {
    let mut world = suspended_world().await;
    world.start().await;
    let older = world.in_force().await.platform.commit.clone();
    let state = world.store().read(Scope::Platform).await.unwrap().platform().await.unwrap().unwrap();
    world.write_tenant("providers: [files]");
    let newer = world.platform.commit("Go on");
    let running = Running::start(&world).await;
    until("the first looks", async || world.file("staging", "orders").exists()).await;
    until("rest", async || world.store().place(&world.name).await.unwrap().unwrap().is_idle()).await;
    let before = looks(&world).await.len();
    // As another process does that has read the head while it was set back.
    assert_eq!(older.as_ref(), Some(&state.commit));
    let mut tx = world.store().begin(Scope::Platform).await.unwrap();
    tx.put_platform(&state).await.unwrap();
    tx.commit().await.unwrap();
    until("the look", async || looks(&world).await.len() > before).await;
    running.stop().await;
    assert_eq!(looks(&world).await[before].trigger, Trigger::Commit);
    let state = world.store().read(Scope::Platform).await.unwrap().platform().await.unwrap().unwrap();
    assert_eq!(state.commit, newer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_step_that_runs_and_leaves_the_rest_due_at_once() {
    const DATABASES: usize = 5;
    let mut world = World::with_files().await;
    world.write_tenant("providers: [files]\nmaxConcurrency: 1");
    world.platform.commit("One at a time");
    for number in 0..DATABASES {
        world.write_database("staging", &format!("r{number}"), "userVersion: 1");
    }
    world.tenant.commit("Add them");
    Running::until(&world, |event| matches!(event.kind, EventKind::StepDone { .. })).await;
    let created = |events: &[Event]| {
        let is_it = |event: &&Event| matches!(event.kind, EventKind::StepDone { action: Action::Create, .. });
        events.iter().filter(is_it).count()
    };
    assert_eq!(created(&world.events()), 1);
    let place = world.store().place(&world.name).await.unwrap().unwrap();
    assert_eq!((place.holder, place.failures), (None, 0), "it is given back, and has not failed");
    assert_eq!(place.asked, Some(Ask { trigger: Trigger::Retry, width: Width::Changed }));
    assert_eq!(world.store().until_due().await.unwrap(), Some(Duration::ZERO), "it is due");

    // It is on record, and said of what is left.
    let look = looks(&world).await.pop().unwrap();
    assert_eq!(look.outcome, ExecutionOutcome::Blocked);
    let filter = HistoryFilter { execution: Some(look.id), limit: 1000, ..HistoryFilter::default() };
    let events = world.store().read(Scope::Platform).await.unwrap().events(&filter).await.unwrap();
    let told: Vec<String> = events
        .iter()
        .filter(|event| event.key.is_none() && matches!(event.kind, EventKind::Blocked { .. }))
        .map(|event| view::describe(&event.kind).1)
        .collect();
    let said = "not begun: the process that looked was told to stop; the next look goes on at once";
    assert_eq!(told, [format!("Held: 4 steps were {said}")]);
    let statuses = world.store().read(Scope::Platform).await.unwrap().statuses().await.unwrap();
    let pending: Vec<ResourceKey> = statuses
        .values()
        .filter(|status| status.condition(ConditionType::Ready).unwrap().reason == Reason::Pending)
        .map(|status| status.key.clone())
        .collect();
    assert_eq!(pending.len(), DATABASES - 1);
    let explained = view::explain(world.store(), &pending[0], world.clock.as_ref()).await.unwrap().unwrap();
    assert_eq!(explained.chain[0].message, said);
    assert!(explained.chain.iter().any(|link| link.reason == Reason::LookDue), "{explained:#?}");

    // Another process does the rest, and no more.
    world.restart().await;
    let report = world.scheduled().await;
    assert_eq!((report.done, report.outcome), (DATABASES - 1, ExecutionOutcome::InSync), "{report:#?}");
    assert_eq!(created(&world.events()), DATABASES - 1);
}

/// Has the platform describe a second tenant, `billing`, beside that of the world; both have nothing yet.
fn two_tenants(world: &World) -> GitRepo {
    let billing = GitRepo::new();
    for repository in [&world.tenant, &billing] {
        repository.write("README.md", "Nothing yet\n");
        repository.commit("Begin");
    }
    world.write_platform("id: test-platform\npollInterval: 200ms");
    world.write_tenant("providers: [files]\nmaxConcurrency: 1");
    let document = format!(
        "apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: billing}}\nspec:\n  repository: {{url: \"{}\"}}\n  \
         environments: [staging]\n  providers: [files]\n",
        billing.url()
    );
    world.platform.write("billing.yaml", document);
    world.platform.commit("Two tenants");
    billing
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_start_what_was_committed_meanwhile_goes_first() {
    let mut world = World::with_files().await;
    world.stop();
    world.places = Some((1, PATIENCE));
    let _billing = two_tenants(&world);
    world.start().await;
    let running = Running::start(&world).await;
    let is_at_rest = async || world.store().places().await.unwrap().iter().all(Place::is_idle);
    until("rest", is_at_rest).await;
    running.stop().await;

    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders while nobody is there");
    world.restart().await;
    let (told, mut read) = mpsc::unbounded_channel();
    world.on_event(move |event| {
        if let EventKind::SourceRead { .. } = &event.kind {
            // Nobody waits any more at the end.
            let _ = told.send(event.tenant.clone());
        }
    });
    let running = Running::start(&world).await;
    let mut next = async || tokio::time::timeout(PATIENCE, read.recv()).await.expect("a look begins").unwrap();
    // By name, and by all that the queue knows at the start, the other one would be first.
    assert_eq!([next().await, next().await], [world.name.clone(), "billing".to_owned()]);
    running.stop().await;
    assert_eq!(world.number("staging", "orders", "PRAGMA user_version").await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_push_makes_room_for_a_small_one_after_a_slice_and_goes_on_after_it() {
    const LONG: usize = 100;
    const STEP: Duration = Duration::from_millis(50);
    const SLICE: Duration = Duration::from_millis(250);
    let mut world = World::with_files().await;
    world.stop();
    let faults = Faults::new();
    (world.connect, world.places) = (Some(faults.connect()), Some((1, SLICE)));
    faults.slow_down(STEP);
    let billing = two_tenants(&world);
    world.start().await;
    let (told, mut done) = mpsc::unbounded_channel();
    world.on_event(move |event| {
        if let EventKind::StepDone { .. } = &event.kind {
            // Nobody waits any more at the end.
            let _ = told.send(event.tenant.clone());
        }
    });
    let running = Running::start(&world).await;
    let mut next = async || tokio::time::timeout(PATIENCE, done.recv()).await.expect("a step is done").unwrap();

    // One begins a long push; another wants one thing, and waits for a slice of it.
    for number in 0..LONG {
        world.write_database("staging", &format!("r{number}"), "userVersion: 1");
    }
    world.tenant.commit("Add many");
    assert_eq!(next().await, world.name);
    let invoices =
        "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {name: invoices, labels: {owner: x}}\nspec: {}\n";
    billing.write("environments/staging/invoices.yaml", invoices);
    billing.commit("Add one");
    let mut long = 1;
    while next().await != "billing" {
        long += 1;
    }
    assert!(long < LONG / 2, "{long} steps were done before");
    // What is left says so.
    let said = "not begun: others wait for their turn; it goes on after them";
    let statuses = world.store().read(Scope::Platform).await.unwrap().statuses().await.unwrap();
    let is_left = |status: &&ResourceStatus| status.condition(ConditionType::Ready).unwrap().message == said;
    let left: Vec<ResourceKey> = statuses.values().filter(is_left).map(|status| status.key.clone()).collect();
    assert!(!left.is_empty(), "{statuses:#?}");
    let explained = view::explain(world.store(), &left[0], world.clock.as_ref()).await.unwrap().unwrap();
    assert_eq!(explained.chain[0].message, said);
    while long < LONG {
        assert_eq!(next().await, world.name);
        long += 1;
    }
    running.stop().await;
    assert_eq!(world.inventory().await.records.len(), LONG, "nothing is lost");

    // On record: the push made room once, with an end that says why, and went on after the other.
    let all = HistoryFilter { limit: 10_000, ..HistoryFilter::default() };
    let events = world.store().read(Scope::Platform).await.unwrap().events(&all).await.unwrap();
    let made_room: Vec<i64> = events
        .iter()
        .filter(|event| event.key.is_none() && view::describe(&event.kind).1.ends_with(said))
        .map(|event| event.execution)
        .collect();
    let [made_room] = made_room[..] else { panic!("{made_room:?}") };
    let small =
        events.iter().find(|event| event.tenant == "billing" && matches!(event.kind, EventKind::StepDone { .. }));
    let small = small.expect("it is done").execution;
    let executions = world.store().read(Scope::Platform).await.unwrap().executions(&all).await.unwrap();
    let look = |id: i64| executions.iter().find(|look| look.id == id).expect("it is on record");
    assert_eq!((look(made_room).outcome, look(small).outcome), (ExecutionOutcome::Blocked, ExecutionOutcome::InSync));
    assert!(look(small).started_at >= look(made_room).finished_at.unwrap());
    let after =
        executions.iter().filter(|look| look.tenant == world.name && look.id > made_room).min_by_key(|look| look.id);
    assert!(after.expect("it goes on").started_at >= look(small).finished_at.unwrap());
    // Nothing was tried twice.
    let made: BTreeSet<_> = events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::StepDone { action: Action::Create, .. }))
        .map(|event| &event.key)
        .collect();
    assert_eq!((made.len(), faults.tried().len()), (LONG + 1, LONG + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_under_way_ends_at_a_newer_commit() {
    const DATABASES: usize = 100;
    let mut world = World::with_files().await;
    world.stop();
    let faults = Faults::new();
    // However long a lease is, what is new is heard of in seconds.
    (world.connect, world.lease) = (Some(faults.connect()), Duration::from_secs(600));
    world.write_platform("id: test-platform\npollInterval: 200ms");
    world.write_tenant("providers: [files]\nmaxConcurrency: 1");
    world.platform.commit("One at a time");
    world.tenant.write("README.md", "Nothing yet\n");
    world.tenant.commit("Begin");
    world.start().await;
    let (told, mut events) = mpsc::unbounded_channel();
    world.on_event(move |event| {
        // Nobody waits any more at the end.
        let _ = told.send(event.kind.clone());
    });
    let running = Running::start(&world).await;
    let mut next = async || tokio::time::timeout(PATIENCE, events.recv()).await.expect("it goes on").unwrap();
    let want = |version: usize| {
        for number in 0..DATABASES {
            world.write_database("staging", &format!("r{number}"), &format!("userVersion: {version}"));
        }
        world.tenant.commit(&format!("Want version {version}"))
    };

    faults.slow_down(Duration::from_millis(200));
    let bad = want(1);
    let mut made = 0;
    while made < 3 {
        made += usize::from(matches!(next().await, EventKind::StepDone { .. }));
    }
    let fix = want(2);
    loop {
        match next().await {
            EventKind::StepDone { .. } => made += 1,
            EventKind::SourceRead { commit, .. } if commit == fix => break,
            _ => {}
        }
    }
    faults.slow_down(Duration::ZERO);
    assert!(made < DATABASES / 2, "{made} steps of the bad commit were done");
    let is_fixed = |look: &Execution| look.commit.as_ref() == Some(&fix) && look.outcome == ExecutionOutcome::InSync;
    until("the fix", async || looks(&world).await.iter().any(is_fixed)).await;
    running.stop().await;

    // The look at the bad commit ended early, and the next was for the fix.
    let looks = looks(&world).await;
    let bad = looks.iter().position(|look| look.commit.as_ref() == Some(&bad)).expect("it was looked at");
    assert_eq!(looks[bad].outcome, ExecutionOutcome::Blocked, "{looks:#?}");
    assert_eq!((looks[bad + 1].trigger, looks[bad + 1].commit.as_ref()), (Trigger::Commit, Some(&fix)), "{looks:#?}");
    // Each was made once, and what had been made by then was changed once.
    let all = HistoryFilter { limit: 10_000, ..HistoryFilter::default() };
    let events = world.store().read(Scope::Platform).await.unwrap().events(&all).await.unwrap();
    let of = |wanted: Action| {
        let is_it = |event: &&Event| matches!(event.kind, EventKind::StepDone { action, .. } if action == wanted);
        events.iter().filter(is_it).map(|event| event.key.clone()).collect::<Vec<_>>()
    };
    let (created, updated) = (of(Action::Create), of(Action::Update));
    assert_eq!((created.len(), created.iter().collect::<BTreeSet<_>>().len()), (DATABASES, DATABASES));
    assert_eq!((updated.len(), faults.tried().len()), (made, DATABASES + made));
    for number in 0..DATABASES {
        assert_eq!(world.number("staging", &format!("r{number}"), "PRAGMA user_version").await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leads_makes_the_months_to_come() {
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    server.psql(&format!("CREATE DATABASE state_to_come OWNER {login}")).await;
    let mut world = World::with_files().await;
    world.stop();
    world.database = Some(format!("postgres://{login}:{password}@127.0.0.1:{}/state_to_come", server.port()));
    world.clock = SetClock::at("2090-01-15T12:00:00Z");
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
    world.start().await;
    let running = Running::start(&world).await;
    let made = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relname LIKE '%\\_2090\\_%' ORDER BY 1";
    let months = ["audit", "events"].map(|table| ["01", "02", "03"].map(|month| format!("{table}_2090_{month}")));
    let months = months.concat();
    until("the months", async || {
        let rows = server.query("state_to_come", made).await;
        rows.iter().map(|row| row.get::<String, _>(0)).eq(months.iter().cloned())
    })
    .await;
    running.stop().await;
    // What was written before they were there is in its month too.
    for table in ["audit", "events"] {
        let filled = format!("SELECT DISTINCT tableoid::regclass::text FROM plumb.{table}");
        let rows = server.query("state_to_come", &filled).await;
        let filled: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(filled, [format!("plumb.{table}_2090_01")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_kept_for_as_long_as_the_platform_says() {
    let mut world = World::with_files().await;
    world.stop();
    let clock = SetClock::at("2030-01-01T12:00:00Z");
    world.clock = clock.clone();
    world.write_platform("id: test-platform\npollInterval: 200ms\nretention: 10d\nauditRetention: 50d");
    world.platform.commit("Keep little");
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
    world.start().await;
    world.in_sync().await;
    world.in_sync().await;
    let first = looks(&world).await[0].id;
    let log = async || {
        let all = AuditFilter { limit: 1000, ..AuditFilter::default() };
        world.store().read(Scope::Platform).await.unwrap().audit(&all).await.unwrap()
    };
    let (day, before) = (moment("2030-01-01T12:00:00Z"), moment("2030-01-11T12:00:00Z"));
    let of_that_day = log().await.iter().filter(|row| row.at == day).count();
    assert!(of_that_day > 1, "the commit, and the change");

    // Twenty days on the first look is old, and what is on record of it is not.
    clock.set("2030-01-21T12:00:00Z");
    let running = Running::start(&world).await;
    until("the end of the first look", async || looks(&world).await.iter().all(|look| look.id != first)).await;
    running.stop().await;
    let gone = async || -> Vec<(String, String)> {
        let text = |row: &AuditEntry, name: &str| row.details[name].as_str().unwrap().to_owned();
        let rows = log().await.into_iter().filter(|row| row.action == AuditAction::Pruned);
        rows.map(|row| (text(&row, "what"), text(&row, "before"))).collect()
    };
    let is_before = |(_, told): &(String, String)| moment(told) == before;
    let executions = gone().await;
    assert!(executions.iter().all(|row| row.0 == "executions" && is_before(row)), "{executions:?}");
    assert_eq!(log().await.iter().filter(|row| row.at == day).count(), of_that_day);

    // Sixty days on it is.
    clock.set("2030-03-02T12:00:00Z");
    let running = Running::start(&world).await;
    until("the end of its rows", async || log().await.iter().all(|row| row.at > before)).await;
    running.stop().await;
    let rows = log().await;
    let told = rows.iter().rfind(|row| row.details.get("what").is_some_and(|what| what == "audit log"));
    assert_eq!(told.expect("it is told").details["chains"], 1, "a tenant has one");
    let gone = gone().await;
    let log: Vec<_> = gone.iter().filter(|row| row.0 == "audit log").collect();
    assert!(!log.is_empty() && log.into_iter().all(is_before), "{gone:?}");
}

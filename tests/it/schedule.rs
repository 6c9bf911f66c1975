//! The schedule of `plumb serve`, on a clock that the test moves.

use std::time::Duration;

use plumb::model::{EventKind, Execution, ProposalStatus, Trigger};
use plumb::store::{HistoryFilter, Scope};
use tokio::sync::mpsc;

use crate::harness::clock::{SetClock, moment};
use crate::harness::postgres::PostgresServer;
use crate::harness::running::Running;
use crate::harness::world::World;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_drift_scan_comes_by_its_cron_schedule_and_pushes_a_proposal() {
    let mut world = World::with_files().await;
    world.stop();
    let clock = SetClock::at("2030-01-01T11:59:30Z");
    world.clock = clock.clone();
    // Polls wake the schedule often, so that it sees that the clock was set.
    world.write_platform("id: test-platform\npollInterval: 200ms\ndrift: {schedule: \"0 12 * * *\", jitter: 1s}");
    world.platform.commit("Scan at noon");
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
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
    let mut world = World::with_files().await;
    world.stop();
    world.write_platform("id: test-platform\npollInterval: 200ms\ndrift: {schedule: \"0 0 1 6 *\", jitter: 1s}");
    world.write_tenant("providers: [files]\nsuspend: [staging]");
    world.platform.commit("Suspend staging");
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
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
async fn every_sixth_scan_looks_inside_each_object() {
    let server = PostgresServer::shared();
    let mut world = World::with_postgres(server).await;
    world.stop();
    let clock = SetClock::at("2030-01-01T11:59:30Z");
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
    let running = Running::start(&world).await;
    // Only a look inside of the database can see that this is gone.
    server.psql_in(&world.object("staging", "orders"), "DROP EXTENSION pgcrypto").await;
    while events.try_recv().is_ok() {}
    let mut drifted = Vec::new();
    for minute in 0..6 {
        clock.set(&format!("2030-01-01T12:{minute:02}:02Z"));
        let mut planned = async || loop {
            if let EventKind::Planned { drifted, .. } = events.recv().await.unwrap().kind {
                return drifted;
            }
        };
        drifted.push(tokio::time::timeout(PATIENCE, planned()).await.expect("the scan comes"));
    }
    running.stop().await;
    assert_eq!(drifted, [0, 0, 0, 0, 0, 1]);
    let triggers: Vec<Trigger> = looks(&world).await.iter().map(|look| look.trigger).collect();
    assert_eq!(triggers[1..], [Trigger::DriftScan; 6]);
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
        while looks(&world).await.iter().any(|look| look.id == first) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it does not wait for an hour");
    running.stop().await;
}

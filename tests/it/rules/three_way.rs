//! R3: git, live and what was applied are compared field by field. R13: a step is done only on what it was planned on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use plumb::model::{EventKind, ExecutionOutcome, Reason};
use serde_json::json;
use sqlx::Row;

use super::{VERSION, world_with};
use crate::harness::git::MergeHow;
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{World, parse, run_sql};

const ORDERS: &str = "checkout/staging/Database/orders";

#[tokio::test(flavor = "multi_thread")]
async fn r3_each_field_of_one_database_goes_its_own_way() {
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    let spec = |limit: u32, both: &str, different: &str| {
        format!(
            "connectionLimit: {limit}\nsettings:\n  work_mem: 8MB\n  statement_timeout: {both}\n  lock_timeout: {different}"
        )
    };
    world.write_database("staging", "orders", &spec(20, "5s", "5s"));
    world.tenant.commit("Add orders");
    world.in_sync().await;

    world.write_database("staging", "orders", &spec(30, "7s", "6s"));
    world.tenant.commit("Raise what we need");
    for setting in ["work_mem = '16MB'", "statement_timeout = '7s'", "lock_timeout = '9s'"] {
        server.psql(&format!("ALTER DATABASE {name} SET {setting}")).await;
    }
    let report = world.apply().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::Blocked, 1), "{:#?}", report.plan);

    // Git alone changed: applied, and nothing else with it.
    let changed: Vec<&str> = report.plan.steps[0].changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(changed, ["/spec/connectionLimit"]);
    // Live alone changed: drift. Both, to the same: converged. Both, and different: held, with three values.
    let drifted: Vec<_> = report.plan.drift[0].fields.iter().collect();
    assert_eq!(drifted.len(), 2, "{drifted:#?}");
    let of = |path: &str| *drifted.iter().find(|field| field.path.as_str() == path).unwrap();
    let conflict = of("/spec/settings/lock_timeout");
    assert!(conflict.conflict);
    assert_eq!(
        (&conflict.base, &conflict.git, &conflict.live),
        (&Some(json!("5s")), &Some(json!("6s")), &Some(json!("9s")))
    );
    let drift = of("/spec/settings/work_mem");
    assert!(!drift.conflict);
    assert_eq!((&drift.git, &drift.live), (&Some(json!("8MB")), &Some(json!("16MB"))));
    let settings = format!(
        "SELECT s.setconfig::text FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase \
         WHERE d.datname = '{name}' AND s.setrole = 0"
    );
    let now: String = server.query("postgres", &settings).await[0].get(0);
    for held in ["work_mem=16MB", "statement_timeout=7s", "lock_timeout=9s"] {
        assert!(now.contains(held), "{now}");
    }

    // One merge accepts both.
    let branch = world.proposal(&key).await.unwrap().branch;
    world.tenant.merge(&branch, MergeHow::MergeCommit);
    assert_eq!(world.in_sync().await, 0);
    let text = world.tenant.show("main:environments/staging/orders.yaml");
    assert!(text.contains("work_mem: 16MB") && text.contains("lock_timeout: 9s"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_a_field_that_both_changed_to_the_same_value_is_only_recorded() {
    let world = world_with(&["orders"], "").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 2").await;
    world.write_database("staging", "orders", "userVersion: 2");
    world.tenant.commit("Say what is");
    assert_eq!(world.in_sync().await, 0);
    assert!(world.proposal(ORDERS).await.is_none());
    let record = &world.inventory().await.records[&ORDERS.parse().unwrap()];
    assert_eq!(record.applied.get("/spec/userVersion"), Some(&json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_a_field_that_git_stops_setting_goes_to_its_default_once_and_is_unmanaged_then() {
    let world = world_with(&["orders"], "").await;
    world.write_database("staging", "orders", "");
    world.tenant.commit("Stop caring for the version");
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(world.number("staging", "orders", VERSION).await, 0);
    world.by_hand("staging", "orders", "PRAGMA user_version = 9").await;
    assert_eq!(world.in_sync().await, 0);
    assert_eq!(world.number("staging", "orders", VERSION).await, 9);
}

/// Runs SQL from inside a listener, which cannot wait for a future.
fn run_now(file: PathBuf, sql: &'static str) {
    let done = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run_sql(&file, sql));
    });
    done.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn r13_live_that_changes_between_plan_and_apply_is_a_conflict_and_planned_anew() {
    let world = world_with(&["orders", "other"], "").await;
    world.write_database("staging", "orders", "userVersion: 2");
    world.write_database("staging", "other", "userVersion: 2");
    world.tenant.commit("Want version 2");
    let (file, starts) = (world.file("staging", "orders"), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&starts);
    world.on_event(move |event| {
        let is_orders = event.key.as_ref().is_some_and(|key| key.name == "orders");
        if is_orders
            && matches!(event.kind, EventKind::StepStarted { .. })
            && counted.fetch_add(1, Ordering::SeqCst) == 0
        {
            run_now(file.clone(), "PRAGMA user_version = 42");
        }
    });
    world.events();
    let report = world.apply().await;

    // The step found another value than it was planned on, and did nothing.
    let conflicts: Vec<_> = world
        .events()
        .into_iter()
        .filter(|event| matches!(event.kind, EventKind::StepFailed { reason: Reason::Conflict, .. }))
        .collect();
    assert_eq!(conflicts.len(), 1);
    assert_eq!(starts.load(Ordering::SeqCst), 1, "the new plan has no step for it");
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    // The same pass planned anew: both changed, so a person is asked. The other one was applied, by the first plan.
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::Blocked, 1), "{report:#?}");
    assert!(report.plan.drift[0].fields[0].conflict);
    assert!(world.proposal(ORDERS).await.is_some());
    assert_eq!(world.number("staging", "other", VERSION).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn r13_a_drop_checks_again_that_it_is_the_object_it_was_planned_for() {
    let world = world_with(&["orders", "other", "third"], super::DELETE).await;
    super::remove(&world, &["orders"]);
    world.tenant.commit("Remove orders");
    let file = world.file("staging", "orders");
    let target = file.clone();
    world.on_event(move |event| {
        if matches!(event.kind, EventKind::StepStarted { .. }) && target.exists() {
            // Somebody puts a database of their own in its place.
            std::fs::remove_file(&target).unwrap();
            run_now(target.clone(), "CREATE TABLE theirs (id INTEGER)");
        }
    });
    let report = world.apply().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::InSync, 0), "{report:#?}");
    assert!(file.exists(), "what is not ours stays");
    assert!(!world.inventory().await.records.contains_key(&ORDERS.parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_spelled_otherwise_is_kept_even_after_a_loss_of_the_state() {
    let server = PostgresServer::shared();
    let mut world = World::with_postgres(server).await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    let spec = |role: &str, setting: &str, zone: &str| {
        format!("roles:\n  - {{name: {role}, access: readwrite}}\nsettings: {{{setting}: {zone}}}")
    };
    world.write_database("staging", "orders", &spec("web-app", "TimeZone", "UTC"));
    world.tenant.commit("Add orders");
    world.in_sync().await;
    let password = world.password(&key, "web-app").await.unwrap();
    let live = format!(
        "SELECT array_to_string(setconfig, ' ') FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase \
         WHERE d.datname = '{name}' AND s.setrole = 0"
    );
    let logs_in = async || server.connect(&name, &format!("{name}_web_app"), &password).await.is_ok();

    world.write_database("staging", "orders", &spec("web_app", "timezone", "CET"));
    world.tenant.commit("Spell both otherwise");
    let report = world.apply().await;
    assert!(report.desired.rejected.contains_key(&parse(&key)), "{report:#?}");
    assert!(logs_in().await);

    // Nobody knows now what was applied.
    world.write_database("staging", "orders", &spec("web_app", "timezone", "UTC"));
    world.tenant.commit("Spell them otherwise alone");
    world.lose_state().await;
    world.apply().await;
    world.apply().await;
    assert!(logs_in().await, "it is the same role, with the password it had");
    assert_eq!(server.query("postgres", &live).await[0].get::<String, _>(0).to_lowercase(), "timezone=utc");
}

#[tokio::test(flavor = "multi_thread")]
async fn r13_postgres_checks_the_start_of_a_step_under_its_lock() {
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    world.write_database("staging", "orders", "connectionLimit: 20");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    world.write_database("staging", "orders", "connectionLimit: 30");
    world.tenant.commit("Raise it");
    let statement = format!("ALTER DATABASE {name} CONNECTION LIMIT 50");
    let mut pending = Some(statement);
    world.on_event(move |event| {
        if matches!(event.kind, EventKind::StepStarted { .. })
            && let Some(statement) = pending.take()
        {
            let done = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(PostgresServer::shared().psql(&statement));
            });
            done.join().unwrap();
        }
    });
    let report = world.apply().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::Blocked, 0), "{report:#?}");
    let limit = format!("SELECT datconnlimit FROM pg_database WHERE datname = '{name}'");
    assert_eq!(server.query("postgres", &limit).await[0].get::<i32, _>(0), 50);
    assert!(world.proposal(&key).await.unwrap().fields[0].base.is_some());
}

//! R2: killed at any moment, the next start goes on; nothing is doubled, lost or unowned.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use plumb::model::{ApprovalKind, Event, EventKind, ExecutionOutcome, Mark, Reason};
use plumb::store::audit::{AuditAction, AuditFilter};
use plumb::store::sqlite::SqliteStore;
use plumb::store::{HistoryFilter, Mode, Scope, Store};
use serde_json::Value;
use sqlx::{Connection, Row};

use super::{DELETE, VERSION};
use crate::harness::postgres::PostgresServer;
use crate::harness::redis::{RedisOptions, RedisServer};
use crate::harness::world::World;
use crate::waits::names_rule;

/// Lines of progress after which an apply is killed, one run after another; each run goes on where the last one died.
const DEATHS: [usize; 6] = [1, 2, 4, 7, 11, 19];
/// A fast machine may be done with a small rest before it is killed; so many runs die on every one.
const FEWEST_DEATHS: usize = 3;
const SIGKILL: i32 = 9;
/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a run of the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Killed,
    ByItself,
}

/// Runs `plumb apply` and kills it once it has told of `lines` events.
fn apply_and_kill(world: &World, lines: usize) -> Ended {
    let mut child = world.plumb(&["apply"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    for line in told.by_ref().take(lines) {
        line.unwrap();
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    if status.signal() == Some(SIGKILL) { Ended::Killed } else { Ended::ByItself }
}

/// Runs `plumb apply` to its end.
fn apply(world: &World) -> Output {
    world.plumb(&["apply", "-o", "json"]).output().unwrap()
}

/// Applies to the end; everything is in plumb then, and a second apply does nothing.
fn finish(world: &World) {
    let output = apply(world);
    assert!(output.status.success(), "{output:?}");
    let again = apply(world);
    assert!(again.status.success(), "{again:?}");
    let told: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&told[0]["done"], &told[0]["outcome"]), (&0.into(), &"InSync".into()), "{told:#}");
}

/// Approves what the plan deletes.
fn approve_deletions(world: &World) {
    let plan: Value = serde_json::from_slice(&world.plumb(&["plan", "-o", "json"]).output().unwrap().stdout).unwrap();
    world.approve(ApprovalKind::Deletes, &serde_json::from_value(plan[0]["id"].clone()).unwrap());
}

/// Dies at several places; calls `check` after each death. Most deaths are real ones.
async fn die_often(world: &World, mut check: impl AsyncFnMut()) {
    let mut killed = 0;
    for lines in DEATHS {
        killed += usize::from(apply_and_kill(world, lines) == Ended::Killed);
        check().await;
    }
    assert!(killed >= FEWEST_DEATHS, "{killed} of {} runs died, the others were over before", DEATHS.len());
}

/// The live files, by name; each bears a mark. `hidden` are files that are being made or deleted.
async fn marked_files(world: &World) -> (BTreeSet<String>, usize) {
    let (mut files, mut hidden) = (BTreeSet::new(), 0);
    let Ok(entries) = std::fs::read_dir(world.databases()) else { return (files, hidden) };
    for entry in entries.map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if name.contains(".plumb-new") || name.contains(".plumb-old") {
            hidden += 1;
        } else if let Some(name) = name.strip_suffix(".db") {
            let short = name.strip_prefix("checkout_staging_").unwrap();
            assert_eq!(world.number("staging", short, "SELECT count(*) FROM plumb_mark").await, 1, "{name}");
            files.insert(short.to_owned());
        }
    }
    (files, hidden)
}

/// No execution is left running, and the deaths are on record.
async fn executions_are_closed(world: &mut World) {
    world.start().await;
    let filter = HistoryFilter { limit: 100, ..HistoryFilter::default() };
    let executions = world.store().read(Scope::Platform).await.unwrap().executions(&filter).await.unwrap();
    let with = |outcome| executions.iter().filter(|execution| execution.outcome == outcome).count();
    assert_eq!(with(ExecutionOutcome::Running), 0);
    assert!(with(ExecutionOutcome::Interrupted) > 0);
    world.stop();
}

/// Waits until a step of `name` has begun in a look after this one, by what is on record of it.
async fn until_begun(world: &World, name: &str, after: i64) {
    let start = Instant::now();
    loop {
        let store = SqliteStore::open(world.data(), Mode::ReadOnly).await.unwrap();
        let newest_first = HistoryFilter { limit: 100, ..HistoryFilter::default() };
        let is_it = |event: &Event| {
            matches!(event.kind, EventKind::StepStarted { .. })
                && event.key.as_ref().is_some_and(|key| key.name == name)
        };
        let current = store.read(Scope::Platform).await.unwrap().events(&newest_first).await.unwrap();
        if current.iter().any(|event| event.execution > after && is_it(event)) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{current:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_ran_when_its_process_was_killed_is_on_record_with_what_was_done_before() {
    let mut world = World::with_files().await;
    let write = |version: u32| {
        world.write_database("staging", "first", &format!("userVersion: {version}"));
        world.write_database("staging", "second", &format!("userVersion: {version}\ndependsOn: [Database/first]"));
        world.tenant.commit(&format!("Want version {version}"));
    };
    write(1);
    let before = world.apply().await;
    assert_eq!(before.done, 2);
    write(2);
    world.stop();
    // Somebody writes to the second, so its step waits.
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(world.file("staging", "second"));
    let mut writer = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut writer).await.unwrap();
    let mut child = world.plumb(&["apply", "-q"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until_begun(&world, "second", before.execution).await;
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
    writer.close().await.unwrap();

    world.start().await;
    let mut tx = world.store().read(Scope::Platform).await.unwrap();
    let last = tx.executions(&HistoryFilter { limit: 1, ..HistoryFilter::default() }).await.unwrap().remove(0);
    let of_it = HistoryFilter { execution: Some(last.id), limit: 100, ..HistoryFilter::default() };
    let told: Vec<String> = tx.events(&of_it).await.unwrap().iter().rev().filter_map(step_of).collect();
    assert_eq!(told, ["began first", "did first", "began second"]);
    let audit = tx.audit(&AuditFilter { limit: 100, ..AuditFilter::default() }).await.unwrap();
    let changes = audit.iter().filter(|row| row.action == AuditAction::Change && row.details["execution"] == last.id);
    let changes: Vec<&str> = changes.map(|row| row.key.as_ref().unwrap().name.as_str()).collect();
    assert_eq!(changes, ["first"]);
    drop(tx);
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(world.number("staging", "second", "PRAGMA user_version").await, 2);
    // The next look finds that nobody knows how the second ended.
    let mut tx = world.store().read(Scope::Platform).await.unwrap();
    let audit = tx.audit(&AuditFilter { limit: 100, ..AuditFilter::default() }).await.unwrap();
    let changes = audit.iter().filter(|row| row.action == AuditAction::Change && row.details["execution"] == last.id);
    let ends = changes.map(|row| (row.key.as_ref().unwrap().name.as_str(), row.details.get("end").cloned()));
    assert_eq!(ends.collect::<Vec<_>>(), [("first", None), ("second", Some("unknown".into()))]);
    drop(tx);
    world.stop();
    assert!(world.plumb(&["audit", "--verify"]).output().unwrap().status.success());
}

/// What an event says of a step.
fn step_of(event: &Event) -> Option<String> {
    let name = &event.key.as_ref()?.name;
    match event.kind {
        EventKind::StepStarted { .. } => Some(format!("began {name}")),
        EventKind::StepDone { .. } => Some(format!("did {name}")),
        EventKind::StepFailed { .. } => Some(format!("failed {name}")),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_sqlite_files_survive_deaths_while_they_are_made_changed_and_deleted() {
    let mut world = World::with_files().await;
    world.stop();
    let names: Vec<String> = (0..24).map(|n| format!("db{n:02}")).collect();
    let write = |version: u32| {
        for name in &names {
            world.write_resource("staging", "Database", name, DELETE, &format!("userVersion: {version}"));
        }
    };
    write(1);
    world.tenant.commit("Add them");
    die_often(&world, async || {
        marked_files(&world).await;
    })
    .await;
    finish(&world);
    let all: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(marked_files(&world).await, (all.clone(), 0));

    write(2);
    world.tenant.commit("Change them");
    die_often(&world, async || {
        for name in &names {
            assert!([1, 2].contains(&world.number("staging", name, VERSION).await));
        }
    })
    .await;
    finish(&world);
    for name in &names {
        assert_eq!(world.number("staging", name, VERSION).await, 2);
    }

    for name in &names[4..] {
        world.tenant.remove(&format!("environments/staging/{name}.yaml"));
    }
    world.tenant.commit("Delete most of them");
    assert_eq!(apply(&world).status.code(), Some(1), "held");
    let plan: Value = serde_json::from_slice(&world.plumb(&["plan", "-o", "json"]).output().unwrap().stdout).unwrap();
    let plan = serde_json::from_value(plan[0]["id"].clone()).unwrap();
    world.approve(ApprovalKind::Deletes, &plan);
    die_often(&world, async || {
        marked_files(&world).await;
    })
    .await;
    finish(&world);
    assert_eq!(marked_files(&world).await, (names[..4].iter().cloned().collect(), 0));

    executions_are_closed(&mut world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_a_death_between_proposals_leaves_each_of_them_once() {
    let mut world = super::world_with(&["a", "b", "c", "d"], "").await;
    for name in ["a", "b", "c", "d"] {
        world.by_hand("staging", name, "PRAGMA user_version = 5").await;
    }
    world.stop();
    // The first lines tell of the tree and of four drifts; then the branches are pushed, one by one.
    let mut killed = 0;
    for lines in [5, 6, 6, 7] {
        killed += usize::from(apply_and_kill(&world, lines) == Ended::Killed);
    }
    assert!(killed >= FEWEST_DEATHS, "{killed} runs died, the others were over before");
    let output = apply(&world);
    assert_eq!(output.status.code(), Some(1), "people are asked: {output:?}");
    let branches: Vec<String> = world.tenant.branches().into_iter().filter(|branch| branch != "main").collect();
    assert_eq!(branches, ["a", "b", "c", "d"].map(|name| format!("plumb/drift/staging/database-{name}")));
    for branch in &branches {
        assert_eq!(world.tenant.log(branch).len(), world.tenant.log("main").len() + 1);
    }
    world.start().await;
    for name in ["a", "b", "c", "d"] {
        assert_eq!(world.number("staging", name, VERSION).await, 5, "no branch that was late was taken for a decision");
        assert!(world.proposal(&world.key(&format!("staging/Database/{name}"))).await.is_some());
    }
}

/// Databases and roles of the world; each is marked, or owned by a role that is.
async fn marked_objects(world: &World) -> (BTreeSet<String>, BTreeSet<String>, usize) {
    let server = PostgresServer::shared();
    let prefix = format!("{}\\_%", world.name);
    let roles = format!(
        "SELECT rolname::text, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname LIKE '{prefix}'"
    );
    let (mut names, mut unfinished) = (BTreeSet::new(), 0);
    for row in server.query("postgres", &roles).await {
        let (name, comment): (String, Option<String>) = (row.get(0), row.get(1));
        let mark = comment.as_deref().and_then(Mark::from_text).unwrap_or_else(|| panic!("{name} has no mark"));
        assert_eq!(mark.key.tenant, world.name);
        unfinished += usize::from(mark.unfinished);
        names.insert(name);
    }
    let databases =
        format!("SELECT datname::text, pg_get_userbyid(datdba)::text FROM pg_database WHERE datname LIKE '{prefix}'");
    let mut found = BTreeSet::new();
    for row in server.query("postgres", &databases).await {
        let (name, owner): (String, String) = (row.get(0), row.get(1));
        assert!(names.contains(&owner), "{name} belongs to {owner}, which bears no mark");
        found.insert(name);
    }
    (found, names, unfinished)
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_postgres_databases_and_roles_survive_deaths_while_they_are_made_changed_and_deleted() {
    let server = PostgresServer::shared();
    let mut world = World::with_postgres(server).await;
    world.stop();
    let names: Vec<String> = (0..8).map(|n| format!("db{n}")).collect();
    let write = |spec: &str| {
        for name in &names {
            world.write_database("staging", name, spec);
        }
    };
    write("connectionLimit: 20\nroles:\n  - {name: app, access: readwrite}\n  - {name: ro, access: read}");
    world.tenant.commit("Add them");
    die_often(&world, async || {
        marked_objects(&world).await;
    })
    .await;
    finish(&world);
    let databases: BTreeSet<String> = names.iter().map(|name| world.object("staging", name)).collect();
    let roles = |of: &[&str]| -> BTreeSet<String> {
        databases.iter().flat_map(|name| of.iter().map(move |role| format!("{name}_{role}"))).collect()
    };
    assert_eq!(marked_objects(&world).await, (databases.clone(), roles(&["owner", "app", "ro"]), 0));

    write("connectionLimit: 30\nroles:\n  - {name: app, access: admin}\n  - {name: jobs, access: readwrite}");
    world.tenant.commit("Change them");
    approve_deletions(&world);
    die_often(&world, async || {
        marked_objects(&world).await;
    })
    .await;
    finish(&world);
    assert_eq!(marked_objects(&world).await, (databases.clone(), roles(&["owner", "app", "jobs"]), 0));

    // Every password that is stored is the one that its role has (R12).
    world.start().await;
    for name in &names {
        for role in ["app", "jobs"] {
            let password = world.password(&world.key(&format!("staging/Database/{name}")), role).await.unwrap();
            let database = world.object("staging", name);
            let connection = server.connect(&database, &format!("{database}_{role}"), &password).await;
            connection.expect("it logs in").close().await.unwrap();
        }
    }
    world.stop();

    for name in &names {
        world.write_resource("staging", "Database", name, super::DELETE, "connectionLimit: 30");
    }
    world.tenant.commit("Allow their deletion, and drop roles");
    approve_deletions(&world);
    finish(&world);
    for name in &names[1..] {
        world.tenant.remove(&format!("environments/staging/{name}.yaml"));
    }
    world.tenant.commit("Delete all but one");
    approve_deletions(&world);
    die_often(&world, async || {
        marked_objects(&world).await;
    })
    .await;
    finish(&world);
    let kept = world.object("staging", &names[0]);
    assert_eq!(marked_objects(&world).await, ([kept.clone()].into(), [format!("{kept}_owner")].into(), 0));
    executions_are_closed(&mut world).await;
}

/// Has the mark of a database's owner say that it is begun, and not whole.
async fn mark_as_begun(name: &str) {
    let server = PostgresServer::shared();
    let comment = format!("SELECT shobj_description('{name}_owner'::regrole, 'pg_authid')");
    let comment: String = server.query("postgres", &comment).await[0].get(0);
    let unfinished = Mark { unfinished: true, ..Mark::from_text(&comment).unwrap() }.to_text();
    server.psql(&format!("COMMENT ON ROLE {name}_owner IS '{unfinished}'")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_what_is_not_whole_yet_is_used_by_nobody() {
    // What a death between a creation and its last mark leaves, of something that is not to go on.
    let server = PostgresServer::shared();
    let mut world = World::with_postgres(server).await;
    let name = world.object("staging", "orders");
    world.write_database("staging", "orders", "connectionLimit: 20");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    server.psql(&format!("COMMENT ON DATABASE {name} IS NULL")).await;
    mark_as_begun(&name).await;
    world.lose_state().await;
    world.write_resource("staging", "Database", "orders", "plumb.dev/suspend: \"true\"", "connectionLimit: 20");
    world.write_database("staging", "reports", "provider: files\nuserVersion: 1\ndependsOn: [Database/orders]");
    world.tenant.commit("Want reports of them");
    assert_eq!(world.apply().await.done, 0);
    names_rule(&world, &world.key("staging/Database/reports"), Reason::DependencyUnfinished, "R2").await;
    world.write_database("staging", "orders", "connectionLimit: 20");
    world.tenant.commit("Go on");
    assert_eq!(world.in_sync().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_an_owner_without_its_database_is_finished_by_the_next_start() {
    // What a death between the two statements of a creation leaves.
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    let name = world.object("staging", "orders");
    world.write_database("staging", "orders", "connectionLimit: 20");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    server.psql(&format!("DROP DATABASE {name}")).await;
    mark_as_begun(&name).await;
    let mut world = world;
    world.lose_state().await;
    assert_eq!(world.in_sync().await, 1, "it never was whole, so no data is missing");
    let (databases, roles, unfinished) = marked_objects(&world).await;
    assert_eq!((databases, roles, unfinished), ([name.clone()].into(), [format!("{name}_owner")].into(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_reconciler_on_a_data_directory_stops_and_says_why_and_readers_go_on() {
    let world = super::world_with(&["orders"], "").await;
    let second = world.plumb(&["apply"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another plumb is reconciling") && said.contains("--data-dir"), "{said}");
    assert!(second.stdout.is_empty());
    let reader = world.plumb(&["get"]).output().unwrap();
    assert!(reader.status.success() && String::from_utf8_lossy(&reader.stdout).contains("Database/orders"));
    assert_eq!(world.in_sync().await, 0, "the first one is not disturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn r2_redis_users_survive_deaths_while_they_are_made_changed_and_removed() {
    let server = RedisServer::start(RedisOptions { aclfile: true, password: None });
    let mut world = World::with_redis(&server).await;
    world.stop();
    let names: Vec<String> = (0..16).map(|number| format!("c{number:02}")).collect();
    let write = |spec: &str| {
        for name in &names {
            world.write_resource("staging", "Cache", name, "", spec);
        }
        world.tenant.commit("Write them");
    };
    // What Redis has of the tenant: each user bears a mark, and none is there twice.
    let users = || -> BTreeSet<String> {
        let list = server.cli(&["ACL", "LIST"]);
        let ours = list.lines().filter_map(|line| Some((line, line.split_once("user checkout_staging_")?.1)));
        ours.map(|(line, rest)| {
            assert!(line.contains("plumb:mark:"), "{line}");
            rest.split_whitespace().next().unwrap().to_owned()
        })
        .collect()
    };
    // The locks of the dead run out by themselves after seconds; that is waited for once.
    let unlock = || {
        for lock in server.cli(&["KEYS", "plumb:lock:*"]).lines().filter(|lock| !lock.is_empty()) {
            server.cli(&["DEL", lock]);
        }
    };
    let may_write = |name: &String| {
        let user = format!("checkout_staging_{name}");
        server.cli(&["ACL", "DRYRUN", &user, "SET", &format!("{user}:x"), "1"]).trim() == "OK"
    };
    let all: BTreeSet<String> = names.iter().cloned().collect();

    write("categories: [read]");
    die_often(&world, async || {
        unlock();
        assert!(users().is_subset(&all));
    })
    .await;
    finish(&world);
    assert_eq!(users(), all);
    write("categories: [read, write]");
    die_often(&world, async || {
        unlock();
        assert_eq!(users(), all);
    })
    .await;
    finish(&world);
    assert!(names.iter().all(may_write));
    write("categories: [read]");
    apply_and_kill(&world, 4);
    finish(&world);
    assert!(!names.iter().any(may_write));

    for name in &names[4..] {
        world.tenant.remove(&format!("environments/staging/{name}.yaml"));
    }
    world.tenant.commit("Remove most of them");
    let plan: Value = serde_json::from_slice(&world.plumb(&["plan", "-o", "json"]).output().unwrap().stdout).unwrap();
    world.approve(ApprovalKind::Deletes, &serde_json::from_value(plan[0]["id"].clone()).unwrap());
    die_often(&world, async || {
        unlock();
        assert!(users().is_subset(&all));
    })
    .await;
    finish(&world);
    assert_eq!(users(), names[..4].iter().cloned().collect());
    executions_are_closed(&mut world).await;
}

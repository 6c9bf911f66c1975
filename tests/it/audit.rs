//! The audit log of a world that did things: what is in it, and that nothing of it is lost or changed unseen.

use std::time::{Duration, Instant};

use plumb::managers::ManagerError;
use plumb::model::{Ask, Clock, EventKind, Reason, Replica, SystemClock, Trigger, Width};
use plumb::store::audit::{
    ALL_CHAINS, ALL_CUT, AuditAction, AuditFilter, AuditHead, NewAudit, PLATFORM_CHAIN, StoredAudit,
};
use plumb::store::sqlite::SqliteStore;
use plumb::store::{Mode, Scope, Store};
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::harness::desk::Desk;
use crate::harness::faulty::Faults;
use crate::harness::running::Running;
use crate::harness::world::{World, run_sql};

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
const ORDERS: &str = "environments/staging/orders.yaml";

/// The rows that `plumb audit` exports.
fn exported(desk: &Desk, args: &[&str]) -> Vec<Value> {
    let said = desk.plumb(&[&["audit", "-o", "json"], args].concat());
    assert_eq!(said.code, 0, "{said:?}");
    said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of<'a>(rows: &'a [Value], action: &'a str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row["action"] == action).collect()
}

/// A history of so many commits on top of the branch, and of a branch beside it that was merged in, as `git
/// fast-import` reads it. Their clocks went backwards.
fn many_commits(desk: &Desk, number: usize) -> usize {
    let (head, base) = (desk.tenant.head(), 1_900_000_000);
    let mut stream = String::new();
    let mut add = |branch: &str, mark: usize, from: &str, merged: Option<usize>| {
        let subject = format!("Commit {mark}");
        let merged = merged.map(|mark| format!("merge :{mark}\n")).unwrap_or_default();
        stream.push_str(&format!(
            "commit refs/heads/{branch}\nmark :{mark}\ncommitter Ada <ada@example.com> {} +0000\ndata {}\n{subject}\nfrom {from}\n{merged}\n",
            base - mark,
            subject.len()
        ));
    };
    for mark in 1..=number {
        let from = if mark == 1 { head.clone() } else { format!(":{}", mark - 1) };
        add("main", mark, &from, None);
    }
    add("beside", number + 1, &head, None);
    add("main", number + 2, &format!(":{number}"), Some(number + 1));
    let file = desk.folder().join("history");
    std::fs::write(&file, stream).unwrap();
    let import = format!("git fast-import --quiet < {}", file.display());
    desk.tenant.git(&["-c", &format!("alias.import=!{import}"), "import"]);
    desk.tenant.git(&["push", "--quiet", "origin", "main"]);
    number + 2
}

#[test]
fn however_many_commits_come_at_once_all_are_written_down() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let number = many_commits(&desk, 10_020);
    let applied = desk.plumb(&["apply"]);
    assert_eq!(applied.code, 0, "{applied:?}");
    let rows = exported(&desk, &["-t", "checkout"]);
    let commits: Vec<&str> = of(&rows, "commit").iter().map(|row| row["details"]["commit"].as_str().unwrap()).collect();
    let distinct: std::collections::BTreeSet<&str> = commits.iter().copied().collect();
    assert_eq!((commits.len(), distinct.len()), (1 + number, 1 + number));
    assert_eq!(commits.last(), Some(&desk.tenant.remote_head("main").unwrap().as_str()));
    assert_eq!(desk.plumb(&["audit", "--verify"]).code, 0);
    // Once.
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    assert_eq!(of(&exported(&desk, &["-t", "checkout"]), "commit").len(), 1 + number);
}

#[test]
fn the_newest_rows_are_shown_and_that_there_are_more_is_said() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let mut all = exported(&desk, &[]);
    all.sort_by_key(|row| (row["at"].to_string(), row["tenant"].to_string(), row["id"].as_i64()));
    let said = desk.plumb(&["audit", "-o", "yaml", "--limit", "2"]);
    let shown: Vec<Value> = serde_yaml::from_str(&said.stdout).unwrap();
    assert_eq!(shown, all[all.len() - 2..]);
    let older = format!("{} older rows not shown; give --limit or --since", all.len() - 2);
    assert!(said.stderr.contains(&older), "{said:?}");
    // Whoever has them all is told nothing.
    for limit in ["0", "1000"] {
        let said = desk.plumb(&["audit", "-o", "yaml", "--limit", limit]);
        let shown: Vec<Value> = serde_yaml::from_str(&said.stdout).unwrap();
        assert_eq!((shown, said.stderr.as_str()), (all.clone(), ""));
    }
    assert_eq!(exported(&desk, &["--limit", "2"]).len(), all.len(), "lines are all rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_ends_the_look_of_an_apply_that_was_killed_has_not_asked_for_it() {
    let world = World::with_files().await;
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Add orders");
    // Somebody's `plumb apply` is killed, right after its claim.
    let ask = Ask { trigger: Trigger::CommandLine, width: Width::Deep };
    let apply = Replica("of ada".to_owned());
    world.store().claim_tenant(&world.name, ask, &apply, Duration::ZERO).await.unwrap().expect("it is free");
    let running = Running::start(&world).await;
    running.stop().await;
    assert!(world.file("staging", "orders").exists(), "the look was ended");
    let all = AuditFilter { limit: 1000, ..AuditFilter::default() };
    let rows = world.store().read(Scope::Platform).await.unwrap().audit(&all).await.unwrap();
    let applied: Vec<_> = rows.iter().filter(|row| row.action == AuditAction::Applied).collect();
    assert!(applied.is_empty(), "{applied:#?}");
    // A narrow apply that ends a wide look is one all the same.
    let scan = Ask { trigger: Trigger::DriftScan, width: Width::Deep };
    world.store().claim_tenant(&world.name, scan, &apply, Duration::ZERO).await.unwrap().expect("it is free");
    world.look(Width::Changed).await.unwrap();
    let rows = world.store().read(Scope::Platform).await.unwrap().audit(&all).await.unwrap();
    let applied = rows.iter().filter(|row| row.action == AuditAction::Applied);
    assert_eq!(applied.map(|row| row.actor.as_str()).collect::<Vec<_>>(), ["tester"]);
}

/// Runs a statement as somebody with the `sqlite3` shell would.
async fn by_hand(desk: &Desk, sql: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(desk.data("plumb.db"));
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_and_who_did_it_is_written_down_once() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let rows = exported(&desk, &[]);
    assert_eq!(of(&rows, "commit").len(), 1, "a commit is read once");
    assert_eq!(of(&rows, "commit")[0]["details"]["subject"], "Start with Plumb");
    assert_eq!(of(&rows, "change").len(), 2);
    assert_eq!(
        (&of(&rows, "change")[0]["actor"], &of(&rows, "change")[0]["details"]["execution"]),
        (&Value::from("plumb"), &Value::from(1))
    );
    assert_eq!(of(&rows, "platform").len(), 1);
    assert_eq!(of(&rows, "platform")[0]["tenant"], "");
    let applied = of(&rows, "applied");
    assert!(applied.iter().all(|row| row["tenant"] == "checkout" && row["actor"].as_str().unwrap().contains("uid ")));
    let details: Vec<&Value> = applied.iter().map(|row| &row["details"]).collect();
    assert_eq!(details, [&json!({"command": "apply", "execution": 1}), &json!({"command": "apply", "execution": 2})]);

    // Two commits, and a history that was rewritten.
    let text = desk.tenant.show(&format!("main:{ORDERS}"));
    desk.tenant.write(ORDERS, format!("{text}# one\n"));
    desk.tenant.commit("One");
    desk.tenant.write(ORDERS, format!("{text}# two\n"));
    desk.tenant.commit("Two\n\nPlumb-Approve-Deletes: 0123456789ab");
    desk.plumb(&["apply"]);
    let rows = exported(&desk, &["-t", "checkout"]);
    let subjects: Vec<_> = of(&rows, "commit").iter().map(|row| row["details"]["subject"].clone()).collect();
    assert_eq!(subjects, ["Start with Plumb", "One", "Two"]);
    let approvals = of(&rows, "approval");
    assert_eq!((approvals.len(), &approvals[0]["details"]["plan"]), (1, &Value::from("0123456789ab")));
    assert!(rows.iter().all(|row| row["details"].get("historyRewritten").is_none()));
    desk.tenant.git(&["commit", "--amend", "-q", "-m", "Two, again"]);
    desk.tenant.push_force();
    desk.plumb(&["apply"]);
    let rows = exported(&desk, &["-t", "checkout"]);
    let last = of(&rows, "commit").pop().unwrap();
    assert_eq!(
        (&last["details"]["subject"], &last["details"]["historyRewritten"]),
        (&Value::from("Two, again"), &Value::from(true))
    );
    assert!(exported(&desk, &["--since", "2999-01-01T00:00:00Z"]).is_empty());
    assert_eq!(exported(&desk, &["--since", "1d"]).len(), exported(&desk, &[]).len());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_for_a_look_is_written_down_and_who_may_not_is_not() {
    let desk = Desk::with_starter();
    let server = desk.serve();
    plumb::source::init_tls();
    let client = reqwest::Client::new();
    let ask = async |path: &str, purpose: Option<&str>| {
        let request = client.post(format!("{}/api/v1/{path}", server.address));
        let request = purpose.into_iter().fold(request, |request, purpose| request.header("x-plumb-request", purpose));
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask("tenants/checkout/reconcile", None).await, 403);
    assert_eq!(ask("tenants/nobody/reconcile", Some("1")).await, 404);
    assert_eq!(ask("tenants/checkout/reconcile", Some("1")).await, 202);
    assert_eq!(ask("reconcile", Some("1")).await, 202);
    assert_eq!(desk.plumb(&["reconcile", "checkout", "--server", &server.address]).code, 0);
    // They are answered before they are written down, one after another.
    let start = Instant::now();
    let asked = loop {
        let rows = exported(&desk, &[]);
        let asked: Vec<(Value, Value, Value)> = of(&rows, "request")
            .into_iter()
            .map(|row| (row["tenant"].clone(), row["actor"].clone(), row["details"]["look"].clone()))
            .collect();
        if asked.len() >= 3 {
            break asked;
        }
        assert!(start.elapsed() < PATIENCE, "{rows:#?}");
    };
    let wanted = [
        ("", "127.0.0.1", "every tenant"),
        ("checkout", "127.0.0.1", "checkout"),
        ("checkout", "command line", "checkout"),
    ];
    assert_eq!(asked, wanted.map(|(tenant, by, look)| (tenant.into(), by.into(), look.into())));
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(desk.plumb(&["audit", "--verify"]).code, 0);
    assert_eq!(of(&exported(&desk, &[]), "request").len(), 3);
    // So does a retry, whether or not something has failed.
    assert_eq!(desk.plumb(&["retry"]).code, 0);
    let rows = exported(&desk, &["-t", "checkout"]);
    let last = of(&rows, "request").pop().unwrap();
    assert!(last["actor"].as_str().unwrap().contains("uid "), "{last}");
    assert!(of(&rows, "retried").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_changed_or_removed_shows() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let whole = desk.plumb(&["audit", "--verify"]);
    assert_eq!((whole.code, whole.stdout.matches(", whole").count()), (0, 2), "{whole:?}");
    by_hand(&desk, "PRAGMA wal_checkpoint(TRUNCATE)").await;
    let copy = std::fs::read(desk.data("plumb.db")).unwrap();
    for (sql, told) in [
        ("UPDATE audit SET actor = 'Eve' WHERE tenant = 'checkout' AND id = 2", "row 2 of tenant checkout was changed"),
        ("DELETE FROM audit WHERE tenant = 'checkout' AND id = 2", "row 2 of tenant checkout is missing"),
        ("DELETE FROM audit WHERE tenant = 'checkout' AND id = 4", "row 4 of tenant checkout is missing, at the end"),
        ("DELETE FROM audit WHERE tenant = 'checkout' AND id = 1", "row 1 of tenant checkout is missing"),
        ("DELETE FROM audit WHERE tenant = ''", "row 1 of the platform is missing, at the end"),
        (
            "DELETE FROM audit_heads WHERE tenant = 'checkout'",
            "row 1 of tenant checkout belongs to a chain whose head is missing",
        ),
    ] {
        by_hand(&desk, sql).await;
        let broken = desk.plumb(&["audit", "--verify"]);
        assert_eq!((broken.code, broken.stdout.contains(told)), (1, true), "{sql}: {broken:?}");
        std::fs::write(desk.data("plumb.db"), &copy).unwrap();
    }
    assert_eq!(desk.plumb(&["audit", "--verify"]).code, 0);
}

/// The changes in a world's audit log: the resource, how its step ended where that is said, and why.
async fn changes(world: &World) -> Vec<[String; 3]> {
    let filter = AuditFilter { limit: 1000, ..AuditFilter::default() };
    let rows = world.store().read(Scope::Tenant(world.name.clone())).await.unwrap().audit(&filter).await.unwrap();
    let changes = rows.into_iter().filter(|row| row.action == AuditAction::Change).map(|row| {
        let said = |name: &str| row.details.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        [row.key.as_ref().unwrap().name.clone(), said("end"), said("reason")]
    });
    changes.collect()
}

fn row(name: &str, end: &str, reason: &str) -> [String; 3] {
    [name, end, reason].map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_changed_is_written_down_too() {
    let mut world = World::with_files().await;
    let faults = Faults::new();
    world.connect = Some(faults.connect());
    world.restart().await;
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Add orders");
    // A step that fails may have done half of its work; one that never began has not.
    faults.fail("orders", ManagerError::retry(Reason::TimedOut, "the disk is busy"));
    world.apply().await;
    assert_eq!(changes(&world).await, [row("orders", "failed", "TimedOut")]);
    faults.mend("orders");
    // The process dies when the step is done, before that is written down.
    world.on_event(|event| assert!(!matches!(event.kind, EventKind::StepDone { .. }), "it dies here"));
    assert!(world.try_apply().await.is_err());
    world.on_event(|_| {});
    world.restart().await;
    assert!(world.file("staging", "orders").exists());
    assert_eq!(world.in_sync().await, 0, "it was done");
    let unknown = row("orders", "unknown", "");
    assert_eq!(changes(&world).await, [row("orders", "failed", "TimedOut"), unknown.clone()]);
    // Its end cannot be written down.
    world.write_database("staging", "orders", "userVersion: 2");
    world.tenant.commit("Want version 2");
    run_sql(
        &world.data().join("plumb.db"),
        "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.document LIKE '%stepDone%' \
         BEGIN SELECT RAISE(ABORT, 'full'); END",
    )
    .await;
    assert!(world.try_apply().await.is_err());
    run_sql(&world.data().join("plumb.db"), "DROP TRIGGER full").await;
    world.in_sync().await;
    assert_eq!(changes(&world).await, [row("orders", "failed", "TimedOut"), unknown.clone(), unknown]);
    world.stop();
    assert!(world.plumb(&["audit", "--verify"]).output().unwrap().status.success());
}

/// Removes a chain whole, as whoever may write the file can.
async fn remove_chain(desk: &Desk, chain: &str) {
    let url = format!("sqlite:{}", desk.data("plumb.db").display());
    let mut state = sqlx::SqliteConnection::connect(&url).await.unwrap();
    for table in ["audit", "audit_heads"] {
        let gone = sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table} WHERE tenant = '{chain}'")));
        assert!(gone.execute(&mut state).await.unwrap().rows_affected() > 0);
    }
    state.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_was_removed_whole_is_missed() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let whole = desk.plumb(&["audit", "--verify"]);
    assert_eq!((whole.code, whole.stdout.contains("tenant checkout: ")), (0, true), "{whole:?}");
    let unknown = desk.plumb(&["audit", "-t", "nosuch"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (1, ""), "{unknown:?}");
    assert!(unknown.stderr.contains("there is no tenant \"nosuch\"; the state knows checkout"), "{unknown:?}");

    remove_chain(&desk, "checkout").await;
    let missed = desk.plumb(&["audit", "--verify"]);
    assert_eq!(missed.code, 1, "{missed:?}");
    let said = "BROKEN: row 1 of tenant checkout is missing, with its whole chain, of which the platform's tells\n";
    assert!(missed.stdout.contains(said), "{missed:?}");
    // Somebody has Plumb begin another in its place.
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let again = desk.plumb(&["audit", "--verify"]);
    assert_eq!((again.code, again.stdout.contains("the chain began twice")), (1, true), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platforms_chain_is_missed_though_nothing_tells_of_it() {
    let desk = Desk::with_starter();
    // One that did nothing has none.
    assert_eq!(desk.plumb(&["db", "migrate"]).code, 0);
    let fresh = desk.plumb(&["audit", "--verify"]);
    assert_eq!((fresh.code, fresh.stdout.as_str()), (0, "nothing was audited yet\n"), "{fresh:?}");
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    for chain in ["", "checkout"] {
        remove_chain(&desk, chain).await;
        let missed = desk.plumb(&["audit", "--verify"]);
        let said = "BROKEN: row 1 of the platform is missing, with its whole chain";
        assert_eq!((missed.code, missed.stdout.matches(said).count()), (1, 1), "{chain:?}: {missed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_from_before_the_audit_log_begins_the_platforms_chain_when_it_is_migrated() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    remove_chain(&desk, "").await;
    remove_chain(&desk, "checkout").await;
    by_hand(&desk, "DROP TABLE audit; DROP TABLE audit_heads; DELETE FROM _sqlx_migrations WHERE version = 5").await;
    // There is nothing to do, so nothing else is written down of the platform.
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let rows = exported(&desk, &[]);
    assert_eq!(of(&rows, "database")[0]["details"]["applied"], json!(["0005 audit"]), "{rows:#?}");
    let whole = desk.plumb(&["audit", "--verify"]);
    assert_eq!((whole.code, whole.stdout.matches(", whole").count()), (0, 2), "{whole:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_hides_no_other() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    by_hand(&desk, "PRAGMA wal_checkpoint(TRUNCATE)").await;
    let copy = std::fs::read(desk.data("plumb.db")).unwrap();
    for (sql, told) in [
        ("UPDATE audit SET details = '{x' WHERE tenant = '' AND id = 1", "row 1 of the platform cannot be read"),
        ("UPDATE audit SET action = 'zork' WHERE tenant = '' AND id = 1", "row 1 of the platform was changed"),
        ("UPDATE audit SET at = 'foo' WHERE tenant = '' AND id = 1", "row 1 of the platform was changed"),
        ("UPDATE audit SET key = 'a/b' WHERE tenant = '' AND id = 1", "row 1 of the platform was changed"),
    ] {
        by_hand(&desk, sql).await;
        let broken = desk.plumb(&["audit", "--verify"]);
        let is_told = broken.stdout.contains(told) && broken.stdout.contains("tenant checkout: 4 rows, whole");
        assert_eq!((broken.code, is_told), (1, true), "{sql}: {broken:?}");
        for output in ["text", "json"] {
            let shown = desk.plumb(&["audit", "-o", output]);
            let said = "row 1 of the platform in the audit log cannot be read";
            assert_eq!((shown.code, shown.stderr.contains(said)), (1, true), "{sql}: {shown:?}");
        }
        std::fs::write(desk.data("plumb.db"), &copy).unwrap();
    }
    // What a newer version wrote fits its chain.
    let mut row: StoredAudit = {
        let store = SqliteStore::open(desk.data(""), Mode::ReadOnly).await.unwrap();
        let all = AuditFilter { limit: 1000, ..AuditFilter::default() };
        let rows = store.read(Scope::Tenant("checkout".into())).await.unwrap().audit_as_stored(&all).await.unwrap();
        rows.into_iter().next_back().unwrap()
    };
    row.action = "reviewed".to_owned();
    let hash = row.computed_hash().unwrap();
    let url = format!("sqlite:{}", desk.data("plumb.db").display());
    let mut state = sqlx::SqliteConnection::connect(&url).await.unwrap();
    for sql in [
        "UPDATE audit SET action = 'reviewed', hash = $1 WHERE tenant = 'checkout' AND id = $2",
        "UPDATE audit_heads SET last_hash = $1 WHERE tenant = 'checkout' AND last_id = $2",
    ] {
        let done = sqlx::query(sql).bind(&hash).bind(row.id).execute(&mut state).await.unwrap();
        assert_eq!(done.rows_affected(), 1);
    }
    state.close().await.unwrap();
    let whole = desk.plumb(&["audit", "--verify"]);
    assert_eq!((whole.code, whole.stdout.contains("tenant checkout: 4 rows, whole")), (0, true), "{whole:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_missing_shows_though_what_told_of_its_beginning_was_forgotten() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    // Its beginnings are old.
    let store = SqliteStore::open(desk.data(""), Mode::Reconcile).await.unwrap();
    let mut tx = store.begin(Scope::Platform).await.unwrap();
    assert!(tx.prune_audit(SystemClock.now() + chrono::TimeDelta::days(1)).await.unwrap() > 0);
    let chains = tx.audit_heads().await.unwrap();
    let told = [
        ("what".to_owned(), json!("audit log")),
        ("rows".to_owned(), json!(0)),
        (ALL_CUT.to_owned(), json!(chains.iter().map(AuditHead::cut).sum::<i64>())),
        (ALL_CHAINS.to_owned(), json!(1)),
    ];
    let (at, actor, action) = (SystemClock.now(), "plumb".to_owned(), AuditAction::Pruned);
    let pruned = NewAudit { at, actor, action, key: None, details: told.into_iter().collect() };
    tx.append_audit(PLATFORM_CHAIN, &[pruned]).await.unwrap();
    tx.commit().await.unwrap();
    store.close().await;
    let living = desk.plumb(&["audit", "--verify"]);
    assert_eq!(living.code, 0, "{living:?}");
    let url = format!("sqlite:{}", desk.data("plumb.db").display());
    let mut state = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::query("DELETE FROM audit_heads WHERE tenant = 'checkout'").execute(&mut state).await.unwrap();
    state.close().await.unwrap();
    let missed = desk.plumb(&["audit", "--verify"]);
    assert_eq!((missed.code, missed.stdout.contains("tells of more chains of tenants")), (1, true), "{missed:?}");
}

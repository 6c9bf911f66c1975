//! The months of PostgreSQL: events and the audit log in partitions, which are made ahead, dropped whole, and as closed to
//! other tenants as the tables are.

use std::time::Duration;

use futures::TryStreamExt;
use plumb::model::{ExecutionOutcome, Trigger};
use plumb::store::postgres::PostgresStore;
use plumb::store::{Mode, Scope};
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::audit::{entry, verified};
use super::postgres::{count, run};
use super::sample::{at, event, events, key, summary};
use super::{ALL, Fixture, begin, read};
use crate::harness::postgres::PostgresServer;

const DAY: i64 = 86_400;

/// The partitions that hold rows, with how many.
async fn filled(service: &mut PgConnection, parent: &str) -> Vec<(String, i64)> {
    run(service, "BEGIN; SET LOCAL plumb.scope = 'platform'".to_owned()).await.unwrap();
    let sql = format!("SELECT tableoid::regclass::text, count(*) FROM {parent} GROUP BY 1 ORDER BY 1");
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *service).await.unwrap();
    run(service, "ROLLBACK".to_owned()).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn named(rows: &[(&str, i64)]) -> Vec<(String, i64)> {
    rows.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test]
async fn rows_go_to_their_month_and_no_row_is_refused() {
    let fixture = Fixture::postgres().await;
    let store = &*fixture.store;
    let mut service = fixture.as_service().await;
    // at(0) is in November 2023, of which there is no partition yet.
    let mut tx = begin(store).await;
    let execution = tx.start_execution("checkout", Trigger::Poll, None, at(0)).await.unwrap();
    for seconds in [0, 31 * DAY, 400 * DAY] {
        tx.append_event(execution, "checkout", event(None, at(seconds), &events()[0])).await.unwrap();
        tx.append_audit("checkout", &[entry(seconds)]).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(filled(&mut service, "events").await, named(&[("events_default", 3)]));

    // Made late, it takes its rows over.
    let mut tx = begin(store).await;
    tx.make_months(at(0)).await.unwrap();
    tx.make_months(at(0)).await.unwrap();
    tx.commit().await.unwrap();
    for parent in ["events", "audit"] {
        let months = [format!("{parent}_2023_11"), format!("{parent}_2023_12"), format!("{parent}_default")];
        // The first row of a chain is told of in the platform's.
        let rows = |name: &str| if name == "audit_2023_11" { 2 } else { 1 };
        let expected: Vec<_> = months.iter().map(|name| (name.clone(), rows(name))).collect();
        assert_eq!(filled(&mut service, parent).await, expected);
    }
    let mut tx = read(store).await;
    let seen: Vec<_> = tx.events(&ALL).await.unwrap().iter().map(|event| event.at).collect();
    assert_eq!(seen, [at(400 * DAY), at(31 * DAY), at(0)]);
    drop(tx);
    verified(store).await.unwrap();
}

#[tokio::test]
async fn a_partition_that_is_asked_by_its_name_shows_no_other_tenants_rows() {
    let fixture = Fixture::postgres().await;
    let store = &*fixture.store;
    let mut tx = begin(store).await;
    tx.make_months(at(0)).await.unwrap();
    for name in ["checkout", "billing"] {
        let execution = tx.start_execution(name, Trigger::Poll, None, at(0)).await.unwrap();
        for seconds in [0, 400 * DAY] {
            tx.append_event(execution, name, event(None, at(seconds), &events()[0])).await.unwrap();
            tx.append_audit(name, &[entry(seconds)]).await.unwrap();
        }
    }
    tx.commit().await.unwrap();
    // A start grants what has been made since.
    PostgresStore::open(&fixture.url, Mode::Reconcile).await.unwrap();
    let mut service = fixture.as_service().await;
    for table in ["events_2023_11", "events_default", "audit_2023_11", "audit_default"] {
        let all = format!("SELECT count(*) FROM {table}");
        assert_eq!(count(&mut service, all.clone()).await, 0, "{table}: without a scope there is nothing");
        let enter = "BEGIN; SET LOCAL plumb.scope = 'tenant'; SET LOCAL plumb.tenant = 'checkout'";
        run(&mut service, enter.to_owned()).await.unwrap();
        assert_eq!(count(&mut service, all).await, 1, "{table}");
        let others = format!("DELETE FROM {table} WHERE tenant = 'billing'");
        assert_eq!(run(&mut service, others).await.unwrap(), 0, "{table}");
        // An own row, given to another.
        let columns = if table.starts_with("events") {
            "execution, 'billing', key, at, document FROM events"
        } else {
            "'billing', id + 1, at, actor, action, key, details, previous, hash FROM audit"
        };
        let into = if table.starts_with("events") { "(execution, tenant, key, at, document)" } else { "" };
        let place = if table.ends_with("default") { "at > '2024'" } else { "at < '2024'" };
        let give = format!("INSERT INTO {table} {into} SELECT {columns} WHERE {place}");
        let given = run(&mut service, give).await.unwrap_err();
        assert!(given.to_string().contains("row-level security"), "{table}: {given}");
        run(&mut service, "ROLLBACK".to_owned()).await.unwrap();
    }
    let open = "SELECT count(*) FROM pg_class WHERE relnamespace = 'plumb'::regnamespace AND relkind IN ('r', 'p') \
                AND NOT (relrowsecurity AND relforcerowsecurity) AND relname <> '_sqlx_migrations'";
    assert_eq!(count(&mut service, open.to_owned()).await, 0);
    // What works as the owner works for the platform alone, and with nothing but months.
    for call in ["make_months('2024-01', 0)", "drop_months('events', '2999-01')"] {
        for scope in ["SET LOCAL plumb.scope = 'tenant'; SET LOCAL plumb.tenant = 'checkout'", "SELECT 1"] {
            let refused = run(&mut service, format!("BEGIN; {scope}; SELECT {call}")).await.unwrap_err();
            assert!(refused.to_string().contains("for the platform alone"), "{call}: {refused}");
            run(&mut service, "ROLLBACK".to_owned()).await.unwrap();
        }
    }
    for call in ["make_months('x; DROP TABLE events', 0)", "make_month('events', '2024-01')", "guard_rows('events')"] {
        let platform = format!("BEGIN; SET LOCAL plumb.scope = 'platform'; SELECT {call}");
        run(&mut service, platform).await.unwrap_err();
        run(&mut service, "ROLLBACK".to_owned()).await.unwrap();
    }
}

#[tokio::test]
async fn the_service_neither_changes_nor_removes_what_is_on_record() {
    let fixture = Fixture::postgres().await;
    let store = &*fixture.store;
    let mut tx = begin(store).await;
    tx.make_months(at(0)).await.unwrap();
    for seconds in [0, 400 * DAY] {
        let execution = tx.start_execution("checkout", Trigger::Poll, None, at(seconds)).await.unwrap();
        tx.append_event(execution, "checkout", event(None, at(seconds), &events()[0])).await.unwrap();
        tx.append_audit("checkout", &[entry(seconds)]).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut service = fixture.as_service().await;
    const TENANT: &str = "SET LOCAL plumb.scope = 'tenant'; SET LOCAL plumb.tenant = 'checkout'";
    const PLATFORM: &str = "SET LOCAL plumb.scope = 'platform'";
    for (scope, statement) in [
        (TENANT, "UPDATE events SET document = '{}'"),
        (TENANT, "DELETE FROM events"),
        (TENANT, "UPDATE audit SET actor = 'eve'"),
        (TENANT, "DELETE FROM audit"),
        (PLATFORM, "UPDATE events SET document = '{}'"),
        (PLATFORM, "UPDATE audit SET actor = 'eve'"),
        (PLATFORM, "DELETE FROM audit WHERE id = 2"),
        (PLATFORM, "DELETE FROM audit_2023_11"),
        (PLATFORM, "DELETE FROM audit_default"),
        (TENANT, "UPDATE audit_heads SET first_id = 2"),
        (TENANT, "UPDATE audit_heads SET last_hash = 'none'"),
        (TENANT, "UPDATE audit_heads SET first_previous = 'none'"),
        (TENANT, "DELETE FROM audit_heads"),
        (PLATFORM, "DELETE FROM audit_heads"),
        (PLATFORM, "UPDATE audit_heads SET last_id = 1, last_hash = 'none'"),
        (PLATFORM, "UPDATE audit_heads SET first_id = 2; UPDATE audit_heads SET first_id = 1"),
    ] {
        let refused = run(&mut service, format!("BEGIN; {scope}; {statement}")).await.unwrap_err();
        assert!(refused.to_string().contains("neither changed nor removed"), "{statement}: {refused}");
        run(&mut service, "ROLLBACK".to_owned()).await.unwrap();
    }
    let truncated = run(&mut service, "TRUNCATE audit".to_owned()).await.unwrap_err();
    assert!(truncated.to_string().contains("permission denied"), "{truncated}");
    verified(store).await.unwrap();
    // Retention goes on, row by row as well as by months.
    let mut tx = store.begin(Scope::Platform).await.unwrap();
    assert_eq!(tx.prune_audit(at(399 * DAY)).await.unwrap(), 2);
    tx.commit().await.unwrap();
    assert!(verified(store).await.unwrap().iter().all(|head| head.first_id == 2));
}

#[tokio::test]
async fn a_month_of_which_nothing_is_kept_is_dropped_whole() {
    let fixture = Fixture::postgres().await;
    let store = &*fixture.store;
    let mut service = fixture.as_service().await;
    let mut tx = begin(store).await;
    tx.make_months(at(0)).await.unwrap();
    for seconds in [0, 1, 31 * DAY, 62 * DAY] {
        let execution = tx.start_execution("checkout", Trigger::Poll, None, at(seconds)).await.unwrap();
        tx.append_event(execution, "checkout", event(Some(&key("checkout", "orders")), at(seconds), &events()[0]))
            .await
            .unwrap();
        tx.finish_execution(execution, ExecutionOutcome::InSync, None, None, summary(), at(seconds)).await.unwrap();
        tx.append_audit("checkout", &[entry(seconds)]).await.unwrap();
    }
    tx.commit().await.unwrap();
    let prune = async |seconds| {
        let mut tx = store.begin(Scope::Platform).await.unwrap();
        let gone = (tx.prune_history(at(seconds)).await.unwrap(), tx.prune_audit(at(seconds)).await.unwrap());
        tx.commit().await.unwrap();
        gone
    };
    // A part of a month: rows.
    assert_eq!(prune(1).await, (1, 2));
    assert_eq!(
        filled(&mut service, "events").await,
        named(&[("events_2023_11", 1), ("events_2023_12", 1), ("events_2024_01", 1)])
    );
    // The rest of it, and a part of the next.
    assert_eq!(prune(32 * DAY).await, (2, 2));
    // Months go when no row is left to go.
    assert_eq!(prune(32 * DAY).await, (0, 0));
    for parent in ["events", "audit"] {
        assert_eq!(filled(&mut service, parent).await, [(format!("{parent}_2024_01"), 1)]);
        let is_there = |month: &str| format!("SELECT count(*) FROM pg_class WHERE relname = '{parent}_{month}'");
        assert_eq!(count(&mut service, is_there("2023_11")).await, 0, "dropped");
        assert_eq!(count(&mut service, is_there("2023_12")).await, 1, "not over at that time");
    }
    // The newest execution of a tenant is kept with its events, however old.
    assert_eq!(prune(300 * DAY).await, (0, 1));
    assert_eq!(filled(&mut service, "events").await, named(&[("events_2024_01", 1)]));
    let checkout = verified(store).await.unwrap().remove(1);
    assert_eq!((checkout.first_id, checkout.last_id), (5, 4));
}

#[tokio::test]
async fn a_month_that_has_the_newest_look_stays_though_a_secret_was_shown_since() {
    let fixture = Fixture::postgres().await;
    let store = &*fixture.store;
    let mut service = fixture.as_service().await;
    let mut tx = begin(store).await;
    tx.make_months(at(0)).await.unwrap();
    for (trigger, seconds) in [(Trigger::Poll, 0), (Trigger::SecretShown, 31 * DAY)] {
        let execution = tx.start_execution("checkout", trigger, None, at(seconds)).await.unwrap();
        tx.append_event(execution, "checkout", event(None, at(seconds), &events()[0])).await.unwrap();
        tx.finish_execution(execution, ExecutionOutcome::InSync, None, None, summary(), at(seconds)).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut tx = begin(store).await;
    assert_eq!(tx.prune_history(at(300 * DAY)).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(filled(&mut service, "events").await, named(&[("events_2023_11", 1)]));
}

#[tokio::test]
async fn what_was_there_before_the_months_moves_into_them() {
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    server.psql(&format!("CREATE DATABASE state_unparted OWNER {login}")).await;
    let mut owner = server.connect("state_unparted", login, password).await.unwrap();
    run(&mut owner, "CREATE SCHEMA plumb; SET search_path = plumb".to_owned()).await.unwrap();
    for migration in [
        include_str!("../../../migrations/postgres/0001_initial.sql"),
        include_str!("../../../migrations/postgres/0005_audit.sql"),
    ] {
        run(&mut owner, migration.to_owned()).await.unwrap();
    }
    let rows = "SET plumb.scope = 'platform';
        INSERT INTO executions (tenant, trigger_kind, outcome, summary, started_at) VALUES ('checkout', 'poll', 'InSync', '{}', '');
        INSERT INTO events (execution, tenant, at, document) VALUES
            (1, 'checkout', '2023-11-14T22:13:20.000000000Z', '{}'), (1, 'checkout', '2024-02-01T00:00:00.000000000Z', '{}');
        INSERT INTO events (execution, tenant, at, document) VALUES (1, 'checkout', '2024-02-01T00:00:00.000000000Z', '{}');
        DELETE FROM events WHERE id = 3;
        INSERT INTO audit VALUES ('checkout', 1, '2024-02-01T00:00:00.000000000Z', 'a', 'commit', NULL, '{}', 'p', 'h')";
    run(&mut owner, rows.to_owned()).await.unwrap();
    run(&mut owner, "RESET plumb.scope".to_owned()).await.unwrap();
    // A replica of the version before, whose statements are prepared already.
    let mut older = server.connect("state_unparted", login, password).await.unwrap();
    run(&mut older, "SET search_path = plumb; SET plumb.scope = 'platform'".to_owned()).await.unwrap();
    let by_older = async |older: &mut PgConnection| {
        let seen = sqlx::query("SELECT id, key, at, document FROM events WHERE tenant = $1 ORDER BY id DESC");
        let seen = seen.bind("checkout").fetch_all(&mut *older).await.unwrap().len();
        let add =
            sqlx::query("INSERT INTO events (execution, tenant, key, at, document) VALUES ($1, $2, NULL, $3, '{}')");
        let at = "2023-11-14T22:13:20.000000000Z";
        let added = add.bind(1_i64).bind("checkout").bind(at).execute(&mut *older).await.unwrap().rows_affected();
        (seen, added)
    };
    assert_eq!(by_older(&mut older).await, (2, 1));
    let months = include_str!("../../../migrations/postgres/0006_months.sql");
    run(&mut owner, format!("BEGIN; {months}; COMMIT")).await.unwrap();
    assert_eq!(filled(&mut owner, "events").await, named(&[("events_2023_11", 2), ("events_2024_02", 1)]));
    assert_eq!(by_older(&mut older).await, (3, 1), "it goes on as before");
    assert_eq!(filled(&mut owner, "audit").await, named(&[("audit_2024_02", 1)]));
    run(&mut owner, "SET plumb.scope = 'platform'".to_owned()).await.unwrap();
    let add = "INSERT INTO events (execution, tenant, at, document) VALUES (1, 'checkout', 'x', '{}') RETURNING id";
    assert_eq!(count(&mut owner, add.to_owned()).await, 6, "numbers are never given twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_all_rows_for_long_keeps_months_and_not_writers() {
    let fixture = Fixture::postgres().await;
    let store = &*fixture.store;
    let mut tx = begin(store).await;
    tx.make_months(at(0)).await.unwrap();
    for _ in 0..2 {
        let execution = tx.start_execution("checkout", Trigger::Poll, None, at(0)).await.unwrap();
        tx.append_event(execution, "checkout", event(None, at(0), &events()[0])).await.unwrap();
        tx.finish_execution(execution, ExecutionOutcome::InSync, None, None, summary(), at(0)).await.unwrap();
        tx.append_audit("checkout", &[entry(0)]).await.unwrap();
    }
    let newest = tx.start_execution("checkout", Trigger::Poll, None, at(400 * DAY)).await.unwrap();
    tx.finish_execution(newest, ExecutionOutcome::InSync, None, None, summary(), at(400 * DAY)).await.unwrap();
    tx.commit().await.unwrap();
    // A backup to somebody who is slow.
    let mut reading = store.snapshot().await.unwrap();
    let tables = reading.tables().await.unwrap();
    for name in ["events", "audit"] {
        let table = tables.iter().find(|table| table.name == name).unwrap();
        assert!(reading.read(table).try_next().await.unwrap().is_some());
    }
    // What is old goes meanwhile, and stays gone though the month that it was in cannot.
    for rows in [Some(2), None] {
        for is_audit in [false, true] {
            // And the one that tells of the chain.
            let gone = rows.map(|rows| rows + u64::from(is_audit));
            let mut tx = begin(store).await;
            let pruning = async {
                match is_audit {
                    false => tx.prune_history(at(300 * DAY)).await,
                    true => tx.prune_audit(at(300 * DAY)).await,
                }
            };
            let pruned = tokio::time::timeout(Duration::from_secs(30), pruning).await.expect("it gives up");
            assert_eq!(pruned.ok(), gone, "of the audit log: {is_audit}");
            if gone.is_some() {
                tx.commit().await.unwrap();
            }
        }
    }
    assert!(read(store).await.events(&ALL).await.unwrap().is_empty());
    let heads = verified(store).await.unwrap();
    assert_eq!(heads.iter().map(|head| (&*head.tenant, head.first_id)).collect::<Vec<_>>(), [("", 2), ("checkout", 3)]);
    drop(reading);
    let mut tx = begin(store).await;
    assert_eq!((tx.prune_history(at(300 * DAY)).await.unwrap(), tx.prune_audit(at(300 * DAY)).await.unwrap()), (0, 0));
    tx.commit().await.unwrap();
    let months = "SELECT count(*) FROM pg_class WHERE relname IN ('events_2023_11', 'audit_2023_11')";
    assert_eq!(count(&mut fixture.as_service().await, months.to_owned()).await, 0);
}

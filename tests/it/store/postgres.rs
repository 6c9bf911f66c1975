//! What is PostgreSQL's own: rows that the database itself keeps apart, one reconciler, a login without superuser.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use plumb::engine::vault::{SecretsError, StoredSecrets, Vault, system_rng};
use plumb::model::{Ask, Release, Replica, Request, SystemClock, Trigger, Width};
use plumb::store::Mode;
use plumb::store::postgres::PostgresStore;
use plumb::store::{Queue, Scope, Store, StoreError};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::sync::Notify;

use super::audit::entry;
use super::queue::{self, claimed};
use super::sample::tenant_state;
use super::{Fixture, isolation, tenant};
use crate::harness::desk::{Desk, PLUMB};
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{FILES, World};
use crate::simulation::faulty::{Call, Fate, FaultyStore, Points};

/// Tables, parts of them too, in which a row is a tenant's.
const OF_TENANTS: &str = "SELECT c.oid FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid \
                          WHERE c.relnamespace = 'plumb'::regnamespace AND c.relkind IN ('r', 'p') AND a.attname = 'tenant'";
/// All others, but for that of the migrations.
const OF_NOBODY: &str = "SELECT relname::text FROM pg_class AS c WHERE relnamespace = 'plumb'::regnamespace \
                         AND relkind IN ('r', 'p') AND relname <> '_sqlx_migrations' AND NOT EXISTS \
                         (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'tenant') ORDER BY 1";
/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

const RELEASE: Release = Release { seen: None, retry: None, news: None };

/// As many as one process opens.
const CONNECTIONS: usize = 12;

impl Fixture {
    pub(super) fn database(&self) -> &str {
        self.url.rsplit('/').next().unwrap()
    }

    /// A connection of the login, working as the service does.
    pub(super) async fn as_service(&self) -> PgConnection {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let role = format!("SET ROLE plumb_{}_service; SET search_path = plumb", self.database());
        sqlx::raw_sql(AssertSqlSafe(role)).execute(&mut connection).await.unwrap();
        connection
    }
}

pub(super) async fn run(connection: &mut PgConnection, sql: String) -> Result<u64, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|done| done.rows_affected())
}

pub(super) async fn count(connection: &mut PgConnection, sql: String) -> i64 {
    sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await.unwrap().get(0)
}

async fn names(connection: &mut PgConnection, sql: String) -> Vec<String> {
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn every_table_shows_a_tenant_its_own_rows_and_lets_it_write_no_other() {
    let fixture = Fixture::postgres().await;
    let mut service = fixture.as_service().await;
    // What policies say, and of tables without one that they have none.
    let policies = |tables: &str| {
        format!(
            "SELECT concat_ws('; ', p.permissive, p.cmd, 'reads ' || p.qual, 'writes ' || p.with_check) FROM pg_class AS c \
             LEFT JOIN pg_policies AS p ON p.schemaname = 'plumb' AND p.tablename = c.relname \
             WHERE c.relnamespace = 'plumb'::regnamespace AND {tables} GROUP BY 1 ORDER BY 1"
        )
    };
    let own = names(&mut service, policies(&format!("c.oid IN ({OF_TENANTS})"))).await;
    assert_eq!(own, ["PERMISSIVE; ALL; reads works_for(tenant); writes works_for(tenant)"]);
    let shared = names(&mut service, policies(&format!("c.relname::text IN (SELECT * FROM ({OF_NOBODY}) AS t)"))).await;
    let expected =
        ["PERMISSIVE; ALL; reads works_for_platform(); writes works_for_platform()", "PERMISSIVE; SELECT; reads true"];
    assert_eq!(shared, expected);
    let both = format!(
        "SELECT count(*) FROM pg_policies WHERE schemaname = 'plumb' AND tablename IN (SELECT * FROM ({OF_NOBODY}) AS t)"
    );
    let tables = names(&mut service, OF_NOBODY.to_owned()).await.len();
    assert_eq!(count(&mut service, both).await, 2 * tables as i64, "each of them has both");
    let one_each = format!(
        "SELECT count(*) FROM pg_policies WHERE schemaname = 'plumb' AND ('plumb.' || tablename)::regclass IN ({OF_TENANTS})"
    );
    let tables = count(&mut service, format!("SELECT count(*) FROM ({OF_TENANTS}) AS t")).await;
    assert_eq!(count(&mut service, one_each).await, tables, "each of them has one");
}

#[tokio::test]
async fn the_database_keeps_tenants_apart_whatever_is_asked() {
    let fixture = Fixture::postgres().await;
    isolation::fill(&*fixture.store).await;
    let look = Ask { trigger: Trigger::Start, width: Width::Deep };
    let request = |name: &str| Request { tenant: name.to_owned(), ask: look, delay: Duration::ZERO, news: None };
    fixture.store.request(&[request("checkout"), request("billing")]).await.unwrap();
    for name in ["checkout", "billing"] {
        let lease = claimed(&*fixture.store, name).await;
        assert!(fixture.store.take_slot("pg", 2, &lease).await.unwrap().is_some());
    }
    let mut service = fixture.as_service().await;
    let abandoned = "BEGIN; SET LOCAL plumb.scope = 'platform';
                     INSERT INTO abandoned VALUES ('checkout', 1), ('billing', 1); COMMIT";
    run(&mut service, abandoned.to_owned()).await.unwrap();
    // Parts of tables have tests of their own, with the months.
    let tables = format!("SELECT oid::regclass::text FROM pg_class WHERE oid IN ({OF_TENANTS}) AND NOT relispartition");
    for table in names(&mut service, tables).await {
        let table = table.as_str();
        let all = format!("SELECT count(*) FROM {table}");
        assert_eq!(count(&mut service, all.clone()).await, 0, "{table}: without a scope there is nothing");
        run(&mut service, "BEGIN; SET LOCAL plumb.scope = 'platform'".to_owned()).await.unwrap();
        let everything = count(&mut service, all.clone()).await;
        run(
            &mut service,
            "ROLLBACK; BEGIN; SET LOCAL plumb.scope = 'tenant'; SET LOCAL plumb.tenant = 'checkout'".to_owned(),
        )
        .await
        .unwrap();
        let own = count(&mut service, format!("{all} WHERE tenant = 'checkout'")).await;
        assert!(own > 0 && everything > own, "{table} holds rows of both");
        assert_eq!(count(&mut service, all).await, own, "{table}");
        let gone = run(&mut service, format!("DELETE FROM {table} WHERE tenant = 'billing'")).await.unwrap();
        assert_eq!(gone, 0, "{table}");
        // What is on record nobody changes, own rows or others'.
        if !["events", "audit"].contains(&table) {
            let touched = run(&mut service, format!("UPDATE {table} SET tenant = tenant")).await.unwrap();
            assert_eq!(touched as i64, own, "{table}");
        }
        let given_away = run(&mut service, format!("UPDATE {table} SET tenant = 'billing'")).await.unwrap_err();
        let why =
            if ["events", "audit", "audit_heads"].contains(&table) { "neither changed" } else { "row-level security" };
        assert!(given_away.to_string().contains(why), "{table}: {given_away}");
        run(&mut service, "ROLLBACK".to_owned()).await.unwrap();
    }
}

#[tokio::test]
async fn what_belongs_to_no_tenant_is_read_in_its_scope_and_never_written() {
    let fixture = Fixture::postgres().await;
    isolation::fill(&*fixture.store).await;
    fixture.behind_its_back("INSERT INTO moved VALUES (1, 'elsewhere', '2026')").await;
    let mut service = fixture.as_service().await;
    for table in names(&mut service, OF_NOBODY.to_owned()).await {
        let scope = "BEGIN; SET LOCAL plumb.scope = 'tenant'; SET LOCAL plumb.tenant = 'checkout'";
        run(&mut service, scope.to_owned()).await.unwrap();
        assert_eq!(count(&mut service, format!("SELECT count(*) FROM {table}")).await, 1, "{table}");
        assert_eq!(run(&mut service, format!("DELETE FROM {table}")).await.unwrap(), 0, "{table}");
        let added = run(&mut service, format!("INSERT INTO {table} SELECT * FROM {table}")).await.unwrap_err();
        assert!(added.to_string().contains("row-level security"), "{table}: {added}");
        run(&mut service, "ROLLBACK".to_owned()).await.unwrap();
    }
}

/// A database as it was left by a Plumb that knew the migrations up to `last`, with its role.
async fn of_an_older_plumb(database: &str, last: &str) -> (String, PgConnection) {
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    server.psql(&format!("CREATE DATABASE {database} OWNER {login}")).await;
    let mut owner = server.connect(database, login, password).await.unwrap();
    let known = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres")).unwrap() {
        let file = file.unwrap();
        if file.file_name().to_str().unwrap() <= last {
            std::fs::copy(file.path(), known.path().join(file.file_name())).unwrap();
        }
    }
    run(&mut owner, "CREATE SCHEMA plumb; SET search_path = plumb".to_owned()).await.unwrap();
    sqlx::migrate::Migrator::new(known.path()).await.unwrap().run(&mut owner).await.unwrap();
    let role = format!("plumb_{database}_service");
    let grants = format!(
        "CREATE ROLE {role} NOLOGIN; GRANT {role} TO CURRENT_USER; GRANT USAGE ON SCHEMA plumb TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA plumb TO {role};
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA plumb TO {role}"
    );
    run(&mut owner, grants).await.unwrap();
    (format!("postgres://{login}:{password}@127.0.0.1:{}/{database}", server.port()), owner)
}

/// What a replica of the version whose last migration was `0005_audit.sql` does, transaction by transaction: it claims a
/// tenant, gives a sign of life, writes events and the audit log under the lease, and forgets what is older than the
/// `round`th time that it did.
fn a_round_of_an_older_plumb(round: usize) -> [String; 4] {
    /// The lock of writers of the state.
    const WRITERS: i64 = 0x70_6c_75_6d_63;
    const QUEUE: &str = "BEGIN; SET LOCAL plumb.scope = 'platform'";
    const AT: &str = "2023-11-14T22:13:20.000000000Z";
    let platform = format!("BEGIN; SELECT pg_advisory_xact_lock({WRITERS}); SET LOCAL plumb.scope = 'platform'");
    let tenant = format!(
        "BEGIN; SELECT pg_advisory_xact_lock_shared({WRITERS}), \
         pg_advisory_xact_lock(hashtextextended('checkout', {WRITERS})); \
         SET LOCAL plumb.scope = 'tenant'; SET LOCAL plumb.tenant = 'checkout'"
    );
    let held = format!("tenant = 'checkout' AND generation = {round} AND holder = 'older'");
    [
        format!(
            "{QUEUE}; INSERT INTO queue (tenant, trigger_kind, width, due_at) VALUES ('checkout', 'poll', 0, '{AT}') \
             ON CONFLICT (tenant) DO UPDATE SET due_at = excluded.due_at; \
             SELECT tenant FROM queue WHERE due_at <= '{AT}' ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED; \
             UPDATE queue SET generation = {round}, holder = 'older', lease_until = '{AT}', claimed_at = '{AT}', \
             claimed_trigger = trigger_kind, claimed_width = width WHERE tenant = 'checkout'; \
             SELECT pg_notify('plumb_queue', ''); COMMIT"
        ),
        format!("{QUEUE}; UPDATE queue SET lease_until = '{AT}' WHERE {held}; COMMIT"),
        format!(
            "{tenant}; SELECT 1 FROM queue WHERE {held} FOR KEY SHARE; \
             WITH look AS (INSERT INTO executions (tenant, trigger_kind, outcome, summary, started_at, finished_at) \
             VALUES ('checkout', 'poll', 'InSync', '{{}}', '{AT}', '{AT}') RETURNING id) \
             INSERT INTO events (execution, tenant, key, at, document) SELECT id, 'checkout', NULL, '{AT}', '{{}}' FROM look; \
             INSERT INTO audit (tenant, id, at, actor, action, key, details, previous, hash) \
             VALUES ('checkout', {round}, '{AT}', 'a', 'commit', NULL, '{{}}', 'p{round}', 'h{round}'); \
             INSERT INTO audit_heads (tenant, first_id, first_previous, last_id, last_hash) \
             VALUES ('checkout', 1, 'p', {round}, 'h{round}') ON CONFLICT (tenant) DO UPDATE SET \
             last_id = excluded.last_id, last_hash = excluded.last_hash; COMMIT"
        ),
        format!(
            "{platform}; DELETE FROM events WHERE execution < (SELECT max(id) FROM executions WHERE tenant = 'checkout'); \
             DELETE FROM executions WHERE id < (SELECT max(id) FROM executions WHERE tenant = 'checkout'); \
             UPDATE audit_heads SET first_id = {round}, first_previous = 'p{round}' WHERE tenant = 'checkout' AND first_id < {round}; \
             DELETE FROM audit WHERE tenant = 'checkout' AND id < {round}; COMMIT"
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_the_version_before_are_refused_nothing_while_the_schema_is_migrated() {
    const AFTER: usize = 10;
    let (url, mut replica) = of_an_older_plumb("state_growing", "0005_audit.sql").await;
    let mut service = PgConnection::connect(&url).await.unwrap();
    for connection in [&mut replica, &mut service] {
        run(connection, "SET ROLE plumb_state_growing_service; SET search_path = plumb".to_owned()).await.unwrap();
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (told, mut rounds) = tokio::sync::watch::channel(0_usize);
    let works_on = tokio::spawn(async move {
        let (mut round, mut after, mut refused) = (0, 0, BTreeSet::new());
        while after < AFTER {
            after += usize::from(*stopped.borrow());
            round += 1;
            for does in a_round_of_an_older_plumb(round) {
                if let Err(error) = run(&mut replica, does).await {
                    refused.insert(error.to_string());
                    run(&mut replica, "ROLLBACK".to_owned()).await.unwrap();
                }
            }
            told.send_replace(round);
        }
        (round, refused)
    });
    rounds.wait_for(|rounds| *rounds > 0).await.unwrap();
    let store = PostgresStore::open(&url, Mode::Reconcile).await.unwrap();
    assert!(store.migrated().iter().any(|name| name.contains("months")), "{:?}", store.migrated());
    let meanwhile = *rounds.borrow();
    stop.send_replace(true);
    let (rounds, refused) = works_on.await.unwrap();
    assert!(refused.is_empty(), "{refused:?}, of {rounds}");
    // All of it is there, and what it forgot is gone.
    run(&mut service, "BEGIN; SET LOCAL plumb.scope = 'platform'".to_owned()).await.unwrap();
    for table in ["executions", "events", "audit"] {
        assert_eq!(count(&mut service, format!("SELECT count(*) FROM {table}")).await, 1, "{table}");
    }
    let ends = "SELECT last_id FROM audit_heads WHERE tenant = 'checkout' AND first_id = last_id";
    assert_eq!(count(&mut service, ends.to_owned()).await, rounds as i64);
    assert_eq!(count(&mut service, "SELECT generation FROM queue".to_owned()).await, rounds as i64);
    println!("{meanwhile} rounds before the end of the migrations, {rounds} in all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_somebody_keeps_waiting_says_who_does() {
    let held = [
        ("state_read", "BEGIN; SELECT count(*) FROM plumb.queue"),
        ("state_written", "BEGIN; SELECT pg_advisory_xact_lock_shared(482855972195)"),
    ];
    let migrates = held.map(|(database, holds)| async move {
        let (url, mut other) = of_an_older_plumb(database, "0015_on_record.sql").await;
        run(&mut other, format!("SET application_name = 'a slow backup'; {holds}")).await.unwrap();
        let refused = PostgresStore::open(&url, Mode::Reconcile).await.expect_err("it is in use");
        assert!(matches!(refused, StoreError::Busy { .. }), "{refused:?}");
        let told = refused.to_string();
        assert!(
            told.contains("is used by a slow backup (process ") && told.contains(", login plumb, since 20"),
            "{told}"
        );
        run(&mut other, "ROLLBACK".to_owned()).await.unwrap();
        let store = PostgresStore::open(&url, Mode::Reconcile).await.unwrap();
        assert!(store.migrated().iter().any(|name| name.contains("looks")), "{:?}", store.migrated());
    });
    futures::future::join_all(migrates).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_hears_of_other_processes_and_is_woken_when_the_connection_was_lost() {
    let fixture = Fixture::postgres().await;
    let mut woken = fixture.store.woken();
    // What was asked for while nobody listened was missed, so it is as if something had been.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
               AND query LIKE 'LISTEN %'";
    let is_ended =
        async { while PostgresServer::shared().query(fixture.database(), end).await[0].get::<i64, _>(0) == 0 {} };
    tokio::time::timeout(PATIENCE, is_ended).await.expect("nobody listens");
    tokio::time::timeout(PATIENCE, woken.changed()).await.expect("it does not listen again").unwrap();
    let beside = PostgresStore::open(&fixture.url, Mode::Reconcile).await.unwrap();
    queue::hears_of(&*fixture.store, &beside).await;
}

#[tokio::test]
async fn a_provider_has_so_many_slots_over_all_replicas_and_those_of_a_lost_lease_are_free() {
    let fixture = Fixture::postgres().await;
    let beside = PostgresStore::open(&fixture.url, Mode::Append).await.unwrap();
    queue::slots_are_counted_over_all_replicas_and_those_of_a_lost_lease_are_free(&*fixture.store, &beside).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_another_took_while_a_statement_stalled_is_not_taken_from_it() {
    /// Keeps `checkout` from writing a slot, after its statement has seen what is free.
    const STALL: i64 = 77;
    let fixture = Fixture::postgres().await;
    let stall = format!(
        "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.tenant = 'checkout' THEN PERFORM \
         pg_advisory_xact_lock_shared({STALL}); END IF; RETURN NEW; END $$; CREATE TRIGGER stall BEFORE INSERT ON slots FOR \
         EACH ROW EXECUTE FUNCTION stall()"
    );
    fixture.behind_its_back(&stall).await;
    // The slot was taken once, by somebody who is gone, or never.
    for was_taken in [false, true] {
        let slow = claimed(&*fixture.store, "checkout").await;
        if was_taken {
            let gone = claimed(&*fixture.store, "search").await;
            assert!(fixture.store.take_slot("pg", 1, &gone).await.unwrap().is_some());
            fixture.store.release(&gone, &RELEASE).await.unwrap();
        }
        let mut holds = PgConnection::connect(&fixture.url).await.unwrap();
        run(&mut holds, format!("SELECT pg_advisory_lock({STALL})")).await.unwrap();
        let (store, lease) = (Arc::clone(&fixture.store), slow.clone());
        let stalls = tokio::spawn(async move { store.take_slot("pg", 1, &lease).await.unwrap() });
        let waits =
            format!("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {STALL} AND NOT granted");
        while count(&mut holds, waits.clone()).await == 0 {}
        // Claimed since.
        let quick = claimed(&*fixture.store, "billing").await;
        assert!(fixture.store.take_slot("pg", 1, &quick).await.unwrap().is_some());
        holds.close().await.unwrap();
        assert_eq!(stalls.await.unwrap(), None, "it is taken");
        assert_eq!(fixture.store.take_slot("pg", 1, &slow).await.unwrap(), None);
        for lease in [&slow, &quick] {
            fixture.store.release(lease, &RELEASE).await.unwrap();
        }
        fixture.behind_its_back("DELETE FROM slots").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_return_was_lost_keeps_nobody_waiting() {
    let one_at_a_time = FILES.replace("  serves:", "  maxConcurrency: 1\n  serves:");
    let mut world = World::new(&one_at_a_time, "[files]").await;
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    server.psql("CREATE DATABASE state_lost_slot OWNER plumb").await;
    world.database = Some(format!("postgres://{login}:{password}@127.0.0.1:{}/state_lost_slot", server.port()));
    world.restart().await;
    // The first slot that is given back is not.
    let once = "CREATE SEQUENCE plumb.returns; CREATE FUNCTION plumb.fail_once() RETURNS trigger LANGUAGE plpgsql \
                SECURITY DEFINER AS $$ BEGIN IF nextval('plumb.returns') = 1 THEN RAISE EXCEPTION 'it is restarted'; \
                END IF; RETURN OLD; END $$; CREATE TRIGGER fail_once BEFORE DELETE ON plumb.slots FOR EACH ROW \
                EXECUTE FUNCTION plumb.fail_once()";
    server.psql_in("state_lost_slot", once).await;
    for name in ["orders", "carts", "payments"] {
        world.write_database("staging", name, "userVersion: 1");
    }
    world.tenant.commit("Add three");
    let done = tokio::time::timeout(Duration::from_secs(60), world.in_sync()).await;
    assert_eq!(done.expect("nobody waits for a slot that nobody uses"), 3);
}

/// One step has a slot and cannot be written down; one that could not ask for a slot is about to make sure which it has;
/// and one is asking for a slot until the first has given up.
#[derive(Default)]
struct Jam {
    asked: AtomicU32,
    failed: AtomicU32,
    given_up: Notify,
}

/// One more than a look tries to write something down before it gives up.
const WRITES: u32 = 11;

#[async_trait]
impl Points for Jam {
    async fn before(&self, _: Call, what: &'static str) -> Fate {
        match what {
            "take_slot" => match self.asked.fetch_add(1, Ordering::SeqCst) {
                1 => return Fate::Fail,
                2 => self.given_up.notified().await,
                _ => {}
            },
            "append_events" if self.asked.load(Ordering::SeqCst) > 2 => {
                let failed = self.failed.fetch_add(1, Ordering::SeqCst) + 1;
                if failed == WRITES {
                    self.given_up.notify_one();
                }
                if failed <= WRITES {
                    return Fate::Fail;
                }
            }
            _ => {}
        }
        Fate::Go
    }

    async fn after(&self, _: Call, _: &'static str) -> Fate {
        Fate::Go
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_ask_for_slots_of_two_providers_never_wait_for_one_that_gives_its_own_back() {
    let more = FILES.replace("name: files", "name: more").replace("sqlite:databases", "sqlite:more");
    let more = more.replace("  serves: [{kind: Database}]\n", "");
    let mut world = World::new(&format!("{FILES}---{more}"), "[files, more]").await;
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    server.psql("CREATE DATABASE state_jam OWNER plumb").await;
    let url = format!("postgres://{login}:{password}@127.0.0.1:{}/state_jam", server.port());
    world.database = Some(url.clone());
    let jam = Arc::new(Jam::default());
    let points = Arc::clone(&jam);
    world.around_store = Some(Box::new(move |store| Arc::new(FaultyStore::new(store, points.clone()))));
    world.restart().await;
    world.write_database("staging", "a", "provider: files");
    world.write_database("staging", "b", "provider: more");
    world.write_database("staging", "c", "provider: files");
    world.tenant.commit("Add three");
    let look = tokio::time::timeout(Duration::from_secs(60), world.scheduled()).await;
    let report = look.expect("the look ends");
    assert_eq!(jam.failed.load(Ordering::SeqCst).min(WRITES), WRITES, "the first could not be written down");
    assert_eq!((report.done, report.put_off.len()), (2, 1), "{report:#?}");
    assert_eq!(world.in_sync().await, 1);
    // Another replica finds all room free.
    let beside = PostgresStore::open(&url, Mode::Append).await.unwrap();
    let other = claimed(&beside, "billing").await;
    for provider in ["files", "more"] {
        assert!(beside.take_slot(provider, 1, &other).await.unwrap().is_some(), "{provider}");
    }
    let taken = "SELECT 1 FROM plumb.slots WHERE tenant <> 'billing'";
    assert!(server.query("state_jam", taken).await.is_empty(), "all was given back");
}

#[tokio::test]
async fn the_service_owns_nothing_and_bypasses_nothing() {
    let fixture = Fixture::postgres().await;
    let mut service = fixture.as_service().await;
    let free = "SELECT count(*) FROM pg_roles WHERE rolname = current_user AND NOT (rolsuper OR rolbypassrls OR rolcanlogin OR \
                rolcreaterole OR rolcreatedb)";
    assert_eq!(count(&mut service, free.to_owned()).await, 1);
    let guarded = "FROM pg_class WHERE relnamespace = 'plumb'::regnamespace AND relkind IN ('r', 'p')";
    let owned = format!("SELECT count(*) {guarded} AND pg_has_role(current_user, relowner, 'MEMBER')");
    assert_eq!(count(&mut service, owned).await, 0);
    let open = format!(
        "SELECT count(*) {guarded} AND NOT (relrowsecurity AND relforcerowsecurity) AND relname <> '_sqlx_migrations'"
    );
    assert_eq!(count(&mut service, open).await, 0, "row-level security is forced on every table");
    for statement in
        ["DELETE FROM _sqlx_migrations", "ALTER TABLE events DISABLE ROW LEVEL SECURITY", "CREATE TABLE more ()"]
    {
        let refused = run(&mut service, statement.to_owned()).await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {refused}");
    }
}

#[tokio::test]
async fn replicas_and_readers_find_what_another_wrote() {
    let fixture = Fixture::postgres().await;
    isolation::fill(&*fixture.store).await;
    let reader = PostgresStore::open(&fixture.url, Mode::ReadOnly).await.unwrap();
    assert!(matches!(reader.begin(tenant("checkout")).await.err(), Some(StoreError::ReadOnly)));
    let beside = PostgresStore::open(&fixture.url, Mode::Append).await.unwrap();
    beside.begin(tenant("checkout")).await.unwrap().commit().await.unwrap();
    let replica = PostgresStore::open(&fixture.url, Mode::Reconcile).await.unwrap();
    let before = reader.read(tenant("checkout")).await.unwrap().inventory().await.unwrap();
    assert_eq!(replica.read(tenant("checkout")).await.unwrap().inventory().await.unwrap(), before);
}

#[tokio::test]
async fn a_transaction_that_hangs_keeps_a_tenant_for_seconds_and_writes_nothing() {
    let fixture = Fixture::postgres().await;
    let ask = Ask { trigger: Trigger::Start, width: Width::Deep };
    let (hung, other) = (Replica("hung".to_owned()), Replica("other".to_owned()));
    let claim = fixture.store.claim_tenant("checkout", ask, &hung, Duration::ZERO).await.unwrap().unwrap();
    let mut open = fixture.store.begin(Scope::Leased(claim.lease)).await.unwrap();
    open.put_tenant(&tenant_state("checkout")).await.unwrap();
    let long = Duration::from_secs(600);
    assert_eq!(fixture.store.claim(&other, long).await.unwrap(), None, "it is being written to");
    while fixture.store.claim(&other, long).await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(open.commit().await.is_err());
    assert!(fixture.store.read(tenant("checkout")).await.unwrap().tenants().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_at_once_set_up_one_after_another() {
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    for round in 0..3 {
        server.psql(&format!("CREATE DATABASE state_at_once_{round} OWNER {login}")).await;
        let url = format!("postgres://{login}:{password}@127.0.0.1:{}/state_at_once_{round}", server.port());
        let opened = futures::future::join_all((0..6).map(|_| PostgresStore::open(&url, Mode::Reconcile))).await;
        for store in opened {
            store.unwrap();
        }
    }
}

#[tokio::test]
async fn one_replica_leads_until_its_connection_is_lost() {
    let fixture = Fixture::postgres().await;
    let other = PostgresStore::open(&fixture.url, Mode::Reconcile).await.unwrap();
    let mut lead = fixture.store.lead().await.unwrap().expect("nobody leads yet");
    assert!(lead.still_leads().await);
    assert!(other.lead().await.unwrap().is_none());
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM \
               pg_database WHERE datname = current_database())";
    PostgresServer::shared().psql_in(fixture.database(), end).await;
    assert!(!lead.still_leads().await);
    // The server lets go of the lock a moment after the connection has ended.
    while other.lead().await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_read_that_is_given_up_on_the_way_leaves_every_connection_fit_for_writing() {
    let fixture = Fixture::postgres().await;
    write_on_every_connection(&*fixture.store).await;
    let mut polls = 0;
    while is_given_up_after(polls, fixture.store.read(tenant("checkout"))).await {
        write_on_every_connection(&*fixture.store).await;
        polls += 1;
    }
    assert!(polls > 1, "it was given up on the way");
}

async fn write_on_every_connection(store: &dyn Store) {
    let mut open = Vec::new();
    for name in (0..CONNECTIONS).map(|number| format!("tenant-{number}")) {
        let mut tx = store.begin(tenant(&name)).await.unwrap();
        tx.put_tenant(&tenant_state(&name)).await.unwrap();
        open.push(tx);
    }
}

/// Drops `future` where it goes on after this many polls, whose cause has come by then; or it is over before.
async fn is_given_up_after(polls: usize, future: impl Future) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| match left.checked_sub(1) {
        None => Poll::Ready(true),
        Some(fewer) => {
            left = fewer;
            future.as_mut().poll(cx).map(|_| false)
        }
    })
    .await
}

#[tokio::test]
async fn what_cannot_be_opened_is_explained_without_the_password() {
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    let port = server.port();
    server.psql("CREATE DATABASE state_empty OWNER plumb").await;
    let empty = format!("postgres://{login}:{password}@127.0.0.1:{port}/state_empty");
    let missing = PostgresStore::open(&empty, Mode::ReadOnly).await.expect_err("nothing is there");
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing:?}");
    for url in [
        format!("postgres://{login}:hunter2@127.0.0.1:{port}/state_empty"),
        format!("postgres://{login}:hunter2@127.0.0.1:1/state_empty"),
        "postgres://plumb:hunter2@[::".to_owned(),
    ] {
        let error = PostgresStore::open(&url, Mode::Reconcile).await.expect_err("it cannot be opened");
        assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn a_role_whose_making_was_cut_short_is_taken_all_the_same() {
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    server.psql("CREATE DATABASE state_cut OWNER plumb").await;
    let mut connection = server.connect("state_cut", login, password).await.unwrap();
    run(&mut connection, "CREATE ROLE plumb_state_cut_service NOLOGIN".to_owned()).await.unwrap();
    let url = format!("postgres://{login}:{password}@127.0.0.1:{}/state_cut", server.port());
    let store = PostgresStore::open(&url, Mode::Reconcile).await.unwrap();
    store.begin(tenant("checkout")).await.unwrap().put_tenant(&tenant_state("checkout")).await.unwrap();
}

#[tokio::test]
async fn a_role_that_could_see_more_than_one_tenant_is_not_worked_with() {
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    let role = "plumb_state_strong_service";
    server.psql(&format!("CREATE DATABASE state_strong OWNER {login}")).await;
    server.psql(&format!("CREATE ROLE {role} SUPERUSER BYPASSRLS; GRANT {role} TO {login}")).await;
    let url = format!("postgres://{login}:{password}@127.0.0.1:{}/state_strong", server.port());
    let refused = async |mode: Mode| {
        let refused = PostgresStore::open(&url, mode).await.expect_err("it may do too much");
        assert!(matches!(refused, StoreError::Unconfined { .. }), "{refused:?}");
        refused.to_string()
    };
    let mends = async |told: String, mend: &str| {
        assert!(told.ends_with(&format!("run: {mend}")), "{told}");
        server.psql(mend).await;
    };
    // At the first start, where nothing is made yet.
    mends(refused(Mode::Reconcile).await, &format!("ALTER ROLE \"{role}\" NOSUPERUSER NOBYPASSRLS")).await;
    let store = PostgresStore::open(&url, Mode::Reconcile).await.unwrap();
    isolation::fill(&store).await;
    // And at each that comes after it, whatever it is for.
    server.psql(&format!("ALTER ROLE {role} BYPASSRLS")).await;
    refused(Mode::Reconcile).await;
    mends(refused(Mode::ReadOnly).await, &format!("ALTER ROLE \"{role}\" NOBYPASSRLS")).await;
    let owner = "owner_of_state_strong";
    server.psql(&format!("CREATE ROLE {owner}; GRANT {owner} TO {role}")).await;
    PostgresStore::open(&url, Mode::Append).await.unwrap();
    server.psql_in("state_strong", &format!("ALTER TABLE plumb.vault OWNER TO {owner}")).await;
    mends(refused(Mode::Append).await, &format!("REVOKE \"{owner}\" FROM \"{role}\"")).await;
    PostgresStore::open(&url, Mode::Append).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_keeps_its_state_there() {
    let fixture = Fixture::postgres().await;
    let Fixture { store, url, folder: _folder } = fixture;
    drop(store);
    let desk = Desk::with_starter();
    let platform = desk.platform.url();
    let plumb = |args: &[&str]| desk.plumb_with(args, &[("PLUMB_PLATFORM", &platform), ("PLUMB_DATABASE", &url)]);
    let first = plumb(&["apply"]);
    assert_eq!((first.code, first.stdout.contains("2 steps done")), (0, true), "{first:?}");
    assert!(!desk.data("plumb.db").exists());
    let second = plumb(&["apply"]);
    assert!(second.stdout.contains("nothing to do"), "{second:?}");
    let got = plumb(&["get", "-o", "json"]);
    assert_eq!(got.stdout.matches("\"ready\": \"True\"").count(), 2, "{got:?}");
    let doctor = plumb(&["doctor"]);
    assert_eq!((doctor.code, doctor.stdout.contains("state database: is there")), (0, true), "{doctor:?}");
    let elsewhere = desk.plumb_with(&["get"], &[("PLUMB_DATABASE", "mysql://somewhere")]);
    assert_eq!(
        (elsewhere.code, elsewhere.stderr.contains("postgres://login@host/database")),
        (1, true),
        "{elsewhere:?}"
    );
}

/// A key of its own for each number.
async fn with_key(url: &str, number: u8) -> Result<StoredSecrets, SecretsError> {
    let store = Arc::new(PostgresStore::open(url, Mode::Reconcile).await.unwrap());
    let key = format!("{number:02x}").repeat(32);
    let vault = Vault::open(std::path::Path::new("/nowhere"), Some(key.into()), &mut system_rng()).unwrap();
    StoredSecrets::open(store, Arc::new(vault), Arc::new(SystemClock), system_rng()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_of_replicas_that_start_at_once_with_keys_of_their_own_one_works() {
    let fixture = Fixture::postgres().await;
    let started = futures::future::join_all((0..5).map(|number| with_key(&fixture.url, number))).await;
    assert_eq!(started.iter().filter(|started| started.is_ok()).count(), 1);
    let works = started.iter().position(Result::is_ok).unwrap();
    with_key(&fixture.url, works as u8).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_a_replica_with_a_key_of_its_own_is_told_to_share_before_any_password_is_stored() {
    let Fixture { store, url, folder: _folder } = Fixture::postgres().await;
    drop(store);
    let desk = Desk::with_starter();
    let files = format!("sqlite://{}/databases", desk.folder().display());
    desk.platform
        .write("providers.yaml", desk.platform.show("main:providers.yaml").replace("sqlite:databases", &files));
    desk.platform.commit("Share the files");
    let platform = desk.platform.url();
    let apply = |data: &str, key: Option<&str>| {
        let mut variables =
            vec![("PLUMB_PLATFORM", platform.as_str()), ("PLUMB_DATABASE", &url), ("PLUMB_DATA_DIR", data)];
        variables.extend(key.map(|key| ("PLUMB_SECRET_KEY", key)));
        desk.plumb_with(&["apply"], &variables)
    };
    let first = apply("one", None);
    assert_eq!(first.code, 0, "{first:?}");
    let refused = apply("other", None);
    let told = "all that reconcile with one state share one key";
    assert_eq!((refused.code, refused.stderr.contains(told)), (1, true), "{refused:?}");
    let [one, other] = ["one", "other"].map(|data| desk.folder().join(data).join("secret.key"));
    std::fs::copy(&one, other).unwrap();
    let key = std::fs::read_to_string(one).unwrap();
    for said in [apply("other", None), apply("third", Some(key.trim()))] {
        assert_eq!(said.code, 0, "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_exported_whole_to_whoever_is_slow() {
    const ROWS: usize = 3000;
    let fixture = Fixture::postgres().await;
    let mut tx = fixture.store.begin(Scope::Tenant("checkout".to_owned())).await.unwrap();
    let entries: Vec<_> = (0..ROWS).map(|number| entry(number as i64)).collect();
    tx.append_audit("checkout", &entries).await.unwrap();
    tx.commit().await.unwrap();
    let mut export = std::process::Command::new(PLUMB);
    export.args(["audit", "-o", "json"]).env("PLUMB_DATABASE", &fixture.url).stdout(std::process::Stdio::piped());
    let export = export.spawn().unwrap();
    // Longer than the database lets a transaction idle.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let output = tokio::task::spawn_blocking(|| export.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success());
    // One more tells that the chain began.
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), ROWS + 1);
}

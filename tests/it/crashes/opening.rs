//! The same of the very beginning: a process that makes its state, its schema and its key is killed at each statement.
//!
//! On SQLite the statements are events of the log. On PostgreSQL, where they are not logged, the process speaks to the
//! server through a relay, which kills it once a message of its own was passed on: what the message asks for happens, and
//! nobody hears that it did.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use plumb::engine::vault::{StoredSecrets, Vault, system_rng};
use plumb::model::SystemClock;
use plumb::store::postgres::PostgresStore;
use plumb::store::sqlite::{DATABASE_FILE, SqliteStore};
use plumb::store::{Mode, Scope, Store};
use sqlx::{Connection, Row, SqliteConnection};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::relay::Relay;
use super::{DATABASE, POINT, WORLD, die, open_store, run_here, was_killed};
use crate::harness::postgres::PostgresServer;

/// Every so many messages to PostgreSQL are the last: each death takes a database of its own.
const EVERY: usize = 7;
/// By so many messages an opening may have less to say than the first had.
const FEWER: usize = 20;
/// Statements and the key of a whole opening; fewer than this would be a sign that they are not heard.
const AT_LEAST: usize = 40;

/// Kills the process at one of the statements that it has run.
struct Statements {
    at: Option<usize>,
    number: AtomicUsize,
}

impl Statements {
    fn point(&self) {
        if self.at == Some(self.number.fetch_add(1, Ordering::SeqCst)) {
            die();
        }
    }
}

/// Hears of each statement once it has run.
struct Heard(Arc<Statements>);

impl<S: Subscriber> Layer<S> for Heard {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
        self.0.point();
    }
}

/// The process that is killed: it opens all that is needed to reconcile.
#[tokio::test]
#[ignore = "started by the tests beside it"]
async fn child() {
    let Some(world) = std::env::var_os(WORLD).map(PathBuf::from) else { return };
    let at = std::env::var(POINT).ok().map(|at| at.parse().unwrap());
    let statements = Arc::new(Statements { at, number: AtomicUsize::new(0) });
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Heard(Arc::clone(&statements))))
        .unwrap();
    let store = open_store(&world, Mode::Reconcile).await;
    statements.point();
    let vault = Vault::open(&world.join("data"), None, &mut system_rng()).unwrap();
    statements.point();
    StoredSecrets::open(store, Arc::new(vault), Arc::new(SystemClock), system_rng()).await.unwrap();
    std::fs::write(world.join("told"), statements.number.load(Ordering::SeqCst).to_string()).unwrap();
}

fn start(world: &Path, point: Option<usize>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crashes::opening::child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(WORLD, world).env_remove(POINT).envs(point.map(|point| (POINT, point.to_string())));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn empty_world(folder: &Path) -> PathBuf {
    let world = folder.join("world");
    let _ = std::fs::remove_dir_all(&world);
    std::fs::create_dir_all(world.join("data")).unwrap();
    world
}

/// Opens what a process left whose opening was cut short; what it was to make is whole, and serves.
async fn expect_it_serves(world: &Path, store: Arc<dyn Store>) {
    let vault = Arc::new(Vault::open(&world.join("data"), None, &mut system_rng()).unwrap());
    StoredSecrets::open(Arc::clone(&store), vault, Arc::new(SystemClock), system_rng()).await.unwrap();
    let mut tx = store.begin(Scope::Platform).await.unwrap();
    tx.put_identity("files", &plumb::model::ProviderIdentity("here".to_owned())).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.read(Scope::Platform).await.unwrap().identities().await.unwrap().len(), 1);
}

/// All that a schema is made of, and the migrations that it has had.
async fn sqlite_schema(file: &Path) -> Vec<String> {
    let mut connection = SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    let parts = "SELECT type || ' ' || name || ': ' || COALESCE(sql, '') AS part FROM sqlite_master UNION ALL \
                 SELECT 'migration ' || version || ' ' || success FROM _sqlx_migrations ORDER BY part";
    let rows = sqlx::query(parts).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_state_on_sqlite_whose_making_is_cut_short_anywhere_is_made_by_the_next_process() {
    let folder = crate::simulation::folder();
    let world = empty_world(folder.path());
    assert!(start(&world, None).wait().unwrap().success());
    let statements: usize = std::fs::read_to_string(world.join("told")).unwrap().parse().unwrap();
    assert!(statements >= AT_LEAST, "{statements}");
    let file = world.join("data").join(DATABASE_FILE);
    let whole = run_here(sqlite_schema(&file));
    for point in 0..statements {
        let world = empty_world(folder.path());
        let ended = start(&world, Some(point)).wait().unwrap();
        // The connections of a pool say what they do in no order of their own, and the last ones may say less.
        assert!(was_killed(ended) || point + 5 > statements, "{point}: {ended}");
        run_here(async {
            let store = SqliteStore::open(world.join("data"), Mode::Reconcile).await;
            let store = store.unwrap_or_else(|error| panic!("killed after statement {point}: {error}"));
            expect_it_serves(&world, Arc::new(store)).await;
        });
        assert_eq!(run_here(sqlite_schema(&file)), whole, "killed after statement {point}");
    }
    println!("killed after each of {statements} statements");
}

/// What `pg_dump` says of the schema, less the names of the database and its role.
fn postgres_schema(server: &PostgresServer, database: &str) -> String {
    let dump = server.tool("pg_dump").args(["--schema-only", database]).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8(dump.stdout).unwrap().replace(database, "DATABASE");
    // Newer ones begin and end with a word made by chance.
    text.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_schema_on_postgres_whose_making_is_cut_short_is_made_by_the_next_process() {
    let server = PostgresServer::start();
    let (login, password) = server.login();
    let folder = crate::simulation::folder();
    let opened = |number: usize, last: usize| {
        let database = format!("opened_{number:03}");
        run_here(server.psql(&format!("CREATE DATABASE {database} OWNER {login}")));
        let (victim, relay) = (Arc::new(OnceLock::new()), Relay::to(server.port()));
        relay.kill_after(last, {
            let victim = Arc::clone(&victim);
            move || *victim.wait()
        });
        let world = empty_world(folder.path());
        let url = |port| format!("postgres://{login}:{password}@127.0.0.1:{port}/{database}");
        std::fs::write(world.join(DATABASE), url(relay.port())).unwrap();
        let mut child = start(&world, None);
        victim.set(child.id()).unwrap();
        let ended = child.wait().unwrap();
        (world, url(server.port()), database, ended, relay.passed())
    };
    let (_, _, database, ended, messages) = opened(0, usize::MAX);
    assert!(ended.success() && messages >= AT_LEAST, "{ended}, {messages}");
    let whole = postgres_schema(&server, &database);
    assert!(whole.contains("FORCE ROW LEVEL SECURITY"), "{whole}");
    for last in (1..=messages).step_by(EVERY) {
        let (world, url, database, ended, passed) = opened(last, last);
        // Some of them go together at times.
        assert!(was_killed(ended) || messages - last < FEWER, "{last}: {ended}, {passed} were passed on");
        run_here(async {
            let store = PostgresStore::open(&url, Mode::Reconcile).await;
            let store = store.unwrap_or_else(|error| panic!("killed after message {last}: {error}"));
            expect_it_serves(&world, Arc::new(store)).await;
        });
        assert_eq!(postgres_schema(&server, &database), whole, "killed after message {last}");
    }
    println!("killed after one in {EVERY} of {messages} messages");
}

//! A process that is stopped in the middle of a step, and hears nothing: its lock on the object goes, another takes over
//! and finishes, and when it goes on it does no harm.

use std::path::Path;
use std::time::{Duration, Instant};

use plumb::model::{Action, EventKind, Place, Reason};
use plumb::store::postgres::PostgresStore;
use plumb::store::{HistoryFilter, Mode, Queue, Scope, Store};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};

use crate::harness::desk::Desk;
use crate::harness::postgres::PostgresServer;
use crate::harness::replica::Replica;

const LEASE: Duration = Duration::from_secs(2);
/// How long PostgreSQL has to answer; a lock of one who says nothing lasts four times as long.
const TIMEOUT: Duration = Duration::from_secs(2);
const LOCK: Duration = TIMEOUT.saturating_mul(4);
/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
const OBJECT: &str = "team_staging_orders";
/// How many statements of steps wait for a lock.
const WAITING: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'plumb' AND wait_event = 'relation'";

/// One tenant with one database on a server that holds the state too.
struct Scene {
    server: PostgresServer,
    desk: Desk,
    url: String,
    store: PostgresStore,
    credentials: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let server = PostgresServer::start();
        let (login, password) = server.login();
        server.psql(&format!("CREATE DATABASE state OWNER {login}")).await;
        server.psql(&format!("ALTER ROLE {login} SET log_statement = 'ddl'")).await;
        let (desk, credentials) = (Desk::empty(), tempfile::tempdir().unwrap());
        let login_file = credentials.path().join("login");
        std::fs::write(&login_file, password).unwrap();
        write_platform(&desk, &server, &login_file);
        let url = format!("postgres://{login}:{password}@127.0.0.1:{}/state", server.port());
        drop(PostgresStore::open(&url, Mode::Reconcile).await.unwrap());
        let store = PostgresStore::open(&url, Mode::ReadOnly).await.unwrap();
        Self { server, desk, url, store, credentials }
    }

    fn replica(&self) -> Replica {
        Replica::start(&self.desk, &self.url, LEASE, &self.credentials.path().join("login"))
    }

    fn commit(&self, spec: &str) {
        self.desk.tenant.write(
            "environments/staging/orders.yaml",
            format!(
                "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {{name: orders, labels: {{owner: x}}}}\nspec: {{provider: \
                 pg{spec}}}\n"
            ),
        );
        self.desk.tenant.commit("Want something else");
    }

    async fn number(&self, sql: &str) -> i64 {
        self.server.query("postgres", sql).await[0].get(0)
    }

    async fn until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !is_so().await {
            assert!(start.elapsed() < PATIENCE, "{what}: {:#?}", self.events().await);
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    async fn events(&self) -> Vec<EventKind> {
        let all = HistoryFilter { limit: 10_000, ..HistoryFilter::default() };
        let events = self.store.read(Scope::Platform).await.unwrap().events(&all).await.unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }

    async fn until_done(&self, wanted: Action) {
        let is_it = |kind: &EventKind| matches!(kind, EventKind::StepDone { action, .. } if *action == wanted);
        self.until("it is not done", async || {
            let is_done = self.events().await.iter().any(is_it);
            is_done && self.store.places().await.unwrap().iter().all(Place::is_idle)
        })
        .await;
    }

    /// Keeps everybody from marking anything until this is closed.
    async fn no_marks(&self) -> PgConnection {
        let mut blocker = PgConnection::connect(&self.server.superuser_url()).await.unwrap();
        sqlx::raw_sql("BEGIN; LOCK TABLE pg_shdescription IN SHARE MODE").execute(&mut blocker).await.unwrap();
        blocker
    }
}

fn write_platform(desk: &Desk, server: &PostgresServer, login: &Path) {
    desk.tenant.write("README.md", "Nothing yet\n");
    desk.tenant.commit("Begin");
    desk.platform.write(
        "platform.yaml",
        format!(
            "apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {{name: test}}\nspec: {{id: stopped, pollInterval: 1s}}\n---\n\
             apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: pg}}\nspec: {{type: postgres, url: \"{}\", \
             credentials: {{file: {}}}, timeout: {}s}}\n---\n\
             apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: team}}\nspec:\n  repository: {{url: \"{}\"}}\n  \
             environments: [staging]\n  providers: [pg]\n",
            server.url(),
            login.display(),
            TIMEOUT.as_secs(),
            desk.tenant.url(),
        ),
    );
    desk.platform.commit("Start the platform");
}

/// Stops a process while a statement of its step waits, and lets the statement go on.
async fn stopped_in_a_step(before: Option<&str>, spec: &str, action: Action) {
    let scene = Scene::new().await;
    let mut first = scene.replica();
    if let Some(before) = before {
        scene.commit(before);
        scene.until_done(Action::Create).await;
    }
    let blocker = scene.no_marks().await;
    scene.commit(spec);
    scene.until("no step waits", async || scene.number(WAITING).await > 0).await;
    first.signal("STOP");
    blocker.close().await.unwrap();
    scene.until("it waits still", async || scene.number(WAITING).await == 0).await;
    // Its sessions in databases of the tenant, and the one that holds the lock on the object.
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                 WHERE l.locktype = 'advisory' AND d.datname = 'postgres' AND l.granted";
    assert_eq!(scene.number(locks).await, 1, "it has the lock, and is silent");
    let start = Instant::now();

    let mut second = scene.replica();
    scene.until_done(action).await;
    let took = start.elapsed();
    assert!(took >= LOCK / 2, "the lock was waited for: {took:?}");
    let databases = format!("SELECT oid::int8 FROM pg_database WHERE datname = '{OBJECT}'");
    let database = scene.number(&databases).await;
    // On a slow disk one may be given up and tried again.
    let made = format!("CREATE DATABASE \"{OBJECT}\"");
    let tried_before = scene.server.log().matches(&made).count();
    assert!(tried_before >= 1);

    // It goes on, and finds its session gone; the lease is another's too.
    let told = first.log().len();
    first.signal("CONT");
    scene
        .until("it does not notice", async || first.log()[told..].contains("the tenant could not be reconciled"))
        .await;
    for replica in [&mut first, &mut second] {
        assert_eq!(replica.terminate(), Some(0));
    }
    assert_eq!(scene.number(&databases).await, database);
    assert_eq!(scene.server.log().matches(&made).count(), tried_before, "it made nothing when it went on");
    assert_eq!(scene.number(locks).await, 0);
    let events = scene.events().await;
    let done = events.iter().filter(|kind| matches!(kind, EventKind::StepDone { .. })).count();
    assert_eq!(done, 1 + usize::from(before.is_some()), "{events:#?}");
    let locked = |kind: &&EventKind| matches!(kind, EventKind::StepFailed { reason: Reason::Locked, .. });
    let tries = events.iter().filter(locked).count();
    let key = "11".repeat(32);
    let again = scene.desk.plumb_with(
        &["apply", "-o", "json"],
        &[("PLUMB_PLATFORM", &scene.desk.platform.url()), ("PLUMB_DATABASE", &scene.url), ("PLUMB_SECRET_KEY", &key)],
    );
    assert_eq!(again.code, 0, "{again:?}");
    let told: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(told[0]["done"], 0, "{told:#}");
    println!(
        "{action:?}: finished by another {took:?} after the stop (the lock of the silent lasts {LOCK:?}); {tries} tries"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_stopped_between_two_statements_gives_its_lock_up() {
    // The owner is made, and the database is not.
    stopped_in_a_step(None, "", Action::Create).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_stopped_inside_a_database_gives_its_lock_up() {
    // The role is made, in a transaction that is open.
    stopped_in_a_step(Some(""), ", roles: [{name: app, access: read}]", Action::Update).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_told_to_stop_waits_for_its_step_and_ends_at_once_when_it_is_told_twice() {
    let scene = Scene::new().await;
    let mut first = scene.replica();
    let blocker = scene.no_marks().await;
    scene.commit("");
    scene.until("no step waits", async || scene.number(WAITING).await > 0).await;
    first.signal("TERM");
    scene.until("it does not hear", async || first.log().contains("stopping:")).await;
    first.signal("TERM");
    assert_eq!(first.end(), Some(1), "it has not waited for its step");
    assert!(first.log().contains("told to stop a second time"), "{}", first.log());
    blocker.close().await.unwrap();
    // The next finishes what it began.
    let mut second = scene.replica();
    scene.until_done(Action::Create).await;
    assert_eq!(second.terminate(), Some(0));
    let made = format!("SELECT count(*) FROM pg_database WHERE datname = '{OBJECT}'");
    assert_eq!(scene.number(&made).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_is_succeeded() {
    const LEADS: &str = "this replica leads";
    let scene = Scene::new().await;
    let mut replicas = [scene.replica(), scene.replica()];
    replicas.iter().for_each(|replica| drop(replica.address()));
    scene.until("nobody leads", async || replicas.iter().any(|replica| replica.log().contains(LEADS))).await;
    let is_at_rest = async || {
        let places = scene.store.places().await.unwrap();
        !places.is_empty() && places.iter().all(|place| place.looked_at.is_some() && place.is_idle())
    };
    scene.until("no first look", is_at_rest).await;
    let leader = usize::from(replicas[1].log().contains(LEADS));
    let other = 1 - leader;
    assert!(!replicas[other].log().contains(LEADS), "one leads");

    // Nobody but who leads asks the repositories for their heads.
    replicas[leader].signal("STOP");
    let start = Instant::now();
    scene.commit("");
    scene.until_done(Action::Create).await;
    let took = start.elapsed();
    assert!(replicas[other].log().contains(LEADS), "{}", replicas[other].log());

    // It goes on, finds its session gone, and works as the others do.
    let before = replicas[leader].log().len();
    replicas[leader].signal("CONT");
    let is_over = async || replicas[leader].log()[before..].contains("this replica does not lead any more");
    scene.until("it leads still", is_over).await;
    scene.commit(", connectionLimit: 5");
    scene.until_done(Action::Update).await;
    for replica in &mut replicas {
        assert_eq!(replica.terminate(), Some(0));
    }
    assert_eq!(replicas.iter().map(|replica| replica.log().matches(LEADS).count()).sum::<usize>(), 2);
    let events = scene.events().await;
    let done = events.iter().filter(|kind| matches!(kind, EventKind::StepDone { .. })).count();
    assert_eq!(done, 2, "{events:#?}");
    println!("a commit was applied {took:?} after the leader was stopped");
}

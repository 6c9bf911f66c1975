//! PostgreSQL is restarted, in peace and as by a crash, while two replicas work through a push of many resources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use plumb::model::{
    Action, ConditionStatus, ConditionType, Event, EventKind, Execution, ExecutionOutcome, Place, Reason, ResourceKey,
};
use plumb::store::postgres::PostgresStore;
use plumb::store::{HistoryFilter, Mode, Queue, Scope, Store};
use sqlx::Row;

use crate::harness::desk::Desk;
use crate::harness::git::GitRepo;
use crate::harness::postgres::PostgresServer;
use crate::harness::replica::Replica;

const TENANTS: usize = 3;
/// Of each tenant.
const DATABASES: usize = 8;
const FILES: usize = 12;
const ALL: usize = TENANTS * (DATABASES + FILES);
/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// How long an answer of `/ready` may take: who asks gives it a few seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Two servers, two replicas, and tenants that have no resource yet.
struct Works {
    /// Of the state, and of the databases.
    state: PostgresServer,
    target: PostgresServer,
    url: String,
    desk: Desk,
    tenants: Vec<GitRepo>,
    replicas: Vec<Replica>,
    files: tempfile::TempDir,
    _credentials: tempfile::TempDir,
}

impl Works {
    /// Starts all of it; both replicas are ready then.
    async fn start(lease: Duration) -> Self {
        let (state, target) = std::thread::scope(|scope| {
            let other = scope.spawn(PostgresServer::start);
            (PostgresServer::start(), other.join().unwrap())
        });
        let (login, password) = state.login();
        state.psql(&format!("CREATE DATABASE state OWNER {login}")).await;
        target.psql(&format!("ALTER ROLE {login} SET log_statement = 'ddl'")).await;
        let url = format!("postgres://{login}:{password}@127.0.0.1:{}/state", state.port());
        let (files, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let login_file = credentials.path().join("login");
        std::fs::write(&login_file, password).unwrap();
        let desk = Desk::empty();
        let tenants: Vec<GitRepo> = (0..TENANTS).map(|_| GitRepo::new()).collect();
        write_platform(&desk, &tenants, &target, files.path(), &login_file);
        let replicas = (0..2).map(|_| Replica::start(&desk, &url, lease, &login_file)).collect();
        let works = Self { state, target, url, desk, tenants, replicas, files, _credentials: credentials };
        for replica in &works.replicas {
            works.until_ready(replica, 200).await;
        }
        works
    }

    /// What reads the state beside the replicas.
    async fn store(&self) -> PostgresStore {
        PostgresStore::open(&self.url, Mode::ReadOnly).await.unwrap()
    }

    /// Waits until `/ready` gives this.
    async fn until_ready(&self, replica: &Replica, wanted: u16) {
        let page = format!("{}/ready", replica.address());
        let start = Instant::now();
        loop {
            plumb::source::init_tls();
            let client = reqwest::Client::builder().timeout(ANSWER_WITHIN).build().unwrap();
            let status = client.get(&page).send().await.map(|answer| answer.status().as_u16());
            if status.as_ref().is_ok_and(|status| *status == wanted) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{page} does not give {wanted}, but {status:?}");
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Commits everything, and waits until a part of it is made.
    async fn push(&self, part: usize) {
        for repository in &self.tenants {
            for number in 0..DATABASES + FILES {
                let provider = if number < DATABASES { "pg" } else { "files" };
                repository.write(&format!("environments/staging/r{number}.yaml"), document(number, provider));
            }
            repository.commit("Add them");
        }
        let start = Instant::now();
        while self.databases().await.len() < part {
            assert!(start.elapsed() < PATIENCE, "nothing is made");
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// The databases of tenants, with their numbers on the server.
    async fn databases(&self) -> BTreeMap<String, u32> {
        let sql = "SELECT datname::text, oid FROM pg_database WHERE datname LIKE 'team%'";
        let rows = self.target.query("postgres", sql).await;
        rows.iter().map(|row| (row.get::<String, _>(0), row.get::<sqlx::postgres::types::Oid, _>(1).0)).collect()
    }

    /// Waits until everything is ready and nobody works.
    async fn until_rest(&self, store: &PostgresStore) {
        let start = Instant::now();
        loop {
            let ready = match store.read(Scope::Platform).await {
                Ok(mut tx) => tx.statuses().await.map_or(0, |all| all.values().filter(|s| is_ready(s)).count()),
                Err(_) => 0,
            };
            let places = store.places().await.unwrap_or_default();
            if ready == ALL && !places.is_empty() && places.iter().all(Place::is_idle) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{ready} of {ALL} are ready: {places:#?}");
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// What must hold at the end. Gives how many looks were cut short.
    async fn expect_all_made_once(&mut self, store: &PostgresStore) -> usize {
        // Live has what git says, whole, and no more.
        let names = |range: std::ops::Range<usize>| -> BTreeSet<String> {
            (0..TENANTS).flat_map(|t| range.clone().map(move |r| format!("team{t}_staging_r{r}"))).collect()
        };
        let databases = self.databases().await;
        assert_eq!(databases.keys().cloned().collect::<BTreeSet<_>>(), names(0..DATABASES));
        let unmarked = "SELECT datname::text FROM pg_database WHERE datname LIKE 'team%' \
                        AND shobj_description(oid, 'pg_database') IS NULL";
        assert!(self.target.query("postgres", unmarked).await.is_empty());
        let live: BTreeSet<String> = std::fs::read_dir(self.files.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        let wanted = names(DATABASES..DATABASES + FILES).into_iter().map(|name| name + ".db").collect();
        assert_eq!(live, wanted);

        // The record tells the same.
        let mut tx = store.read(Scope::Platform).await.unwrap();
        let all = HistoryFilter { limit: 100_000, ..HistoryFilter::default() };
        let (events, executions) = (tx.events(&all).await.unwrap(), tx.executions(&all).await.unwrap());
        let records = tx.inventory().await.unwrap().records;
        drop(tx);
        assert_eq!(records.len(), ALL);
        let broken = not_whole(&events, &executions);
        assert!(broken.is_empty(), "{}", broken.join("\n"));

        // Both replicas work still, and nothing is left to do.
        for replica in &self.replicas {
            self.until_ready(replica, 200).await;
        }
        for replica in &mut self.replicas {
            assert_eq!(replica.terminate(), Some(0));
        }
        self.desk.applies_nothing_more(&self.url);
        let audit = self.desk.plumb_with(&["audit", "--verify"], &[("PLUMB_DATABASE", &self.url)]);
        assert_eq!(audit.code, 0, "{audit:?}");
        executions.iter().filter(|execution| execution.outcome == ExecutionOutcome::Interrupted).count()
    }
}

fn write_platform(desk: &Desk, tenants: &[GitRepo], target: &PostgresServer, files: &Path, login: &Path) {
    let mut text = format!(
        "apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {{name: test}}\nspec: {{id: outages, pollInterval: 1s}}\n---\n\
         apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: files}}\nspec: {{type: sqlite, url: \"sqlite://{}\"}}\n\
         ---\napiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: pg}}\nspec: {{type: postgres, url: \"{}\", \
         credentials: {{file: {}}}, timeout: 10s, maxConcurrency: 4}}\n",
        files.display(),
        target.url(),
        login.display()
    );
    for (number, repository) in tenants.iter().enumerate() {
        repository.write("README.md", "Nothing yet\n");
        repository.commit("Begin");
        text.push_str(&format!(
            "---\napiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: team{number}}}\nspec:\n  repository: {{url: \
             \"{}\"}}\n  environments: [staging]\n  providers: [files, pg]\n",
            repository.url()
        ));
    }
    desk.platform.write("platform.yaml", text);
    desk.platform.commit("Start the platform");
}

fn document(number: usize, provider: &str) -> String {
    format!(
        "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {{name: r{number}, labels: {{owner: x}}}}\nspec: {{provider: \
         {provider}}}\n"
    )
}

fn is_ready(status: &plumb::model::ResourceStatus) -> bool {
    status.condition(ConditionType::Ready).is_some_and(|ready| ready.status == ConditionStatus::True)
}

/// What is wrong with a history: something made twice, told twice, or begun and never ended.
fn not_whole(events: &[Event], executions: &[Execution]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut made: BTreeMap<&ResourceKey, usize> = BTreeMap::new();
    for event in events {
        if let (Some(key), EventKind::StepDone { action: Action::Create, .. }) = (&event.key, &event.kind) {
            *made.entry(key).or_default() += 1;
        }
    }
    broken.extend(
        made.iter().filter(|(_, times)| **times > 1).map(|(key, times)| format!("{key} was made {times} times")),
    );
    for execution in executions {
        let of = |kind: fn(&EventKind) -> bool| -> Vec<&Event> {
            events.iter().filter(|event| event.execution == execution.id && kind(&event.kind)).collect()
        };
        let begun = of(|kind| matches!(kind, EventKind::StepStarted { .. }));
        let ended = of(|kind| matches!(kind, EventKind::StepDone { .. } | EventKind::StepFailed { .. }));
        match execution.outcome {
            ExecutionOutcome::Running => broken.push(format!("execution {} never ended", execution.id)),
            // What was begun may have had no time to end.
            ExecutionOutcome::Interrupted if begun.len() >= ended.len() => {}
            _ if begun.len() == ended.len() => {}
            outcome => broken.push(format!(
                "execution {} ({outcome:?}) began {} steps and ended {}",
                execution.id,
                begun.len(),
                ended.len()
            )),
        }
        if execution.finished_at.is_none() && execution.outcome != ExecutionOutcome::Running {
            broken.push(format!("execution {} has no end", execution.id));
        }
    }
    broken
}

/// How PostgreSQL goes away.
#[derive(Clone, Copy, Debug)]
enum How {
    InPeace,
    AsByACrash,
}

fn stop(server: &PostgresServer, how: How) {
    match how {
        How::InPeace => server.shut_down(),
        How::AsByACrash => server.stop(),
    }
}

/// Restarts the state's server in the middle of a push; it is away for `away`, once nobody is ready any more.
async fn restart_the_state(how: How, lease: Duration, away: Duration) {
    let mut works = Works::start(lease).await;
    works.push(ALL / 15).await;
    let start = Instant::now();
    stop(&works.state, how);
    for replica in &works.replicas {
        works.until_ready(replica, 503).await;
    }
    let noticed = start.elapsed();
    tokio::time::sleep(away.saturating_sub(noticed)).await;
    let before = works.databases().await;
    works.state.restart();
    let start = Instant::now();
    let store = works.store().await;
    works.until_rest(&store).await;
    let rest = start.elapsed();
    let after = works.databases().await;
    assert!(before.iter().all(|(name, oid)| after.get(name) == Some(oid)), "{before:?}, then {after:?}");
    assert!(before.len() < TENANTS * DATABASES, "the restart came in the middle: {}", before.len());
    let cut_short = works.expect_all_made_once(&store).await;
    // Each was made by one statement.
    let log = works.target.log();
    for name in after.keys() {
        assert_eq!(log.matches(&format!("CREATE DATABASE \"{name}\"")).count(), 1, "{name}");
    }
    println!(
        "{how:?}: not ready after {noticed:?}; {} were made by then; at rest after {rest:?}; {cut_short} looks cut short",
        before.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_is_restarted_in_peace_while_replicas_work() {
    restart_the_state(How::InPeace, Duration::from_secs(15), Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_crashes_and_is_away_for_longer_than_a_lease_while_replicas_work() {
    restart_the_state(How::AsByACrash, Duration::from_secs(2), Duration::from_secs(4)).await;
}

/// Restarts the databases' server in the middle of a push.
async fn restart_the_target(how: How) {
    let mut works = Works::start(Duration::from_secs(15)).await;
    works.push(ALL / 15).await;
    // What is there by then has something in it, which nobody may lose.
    let name = works.databases().await.into_keys().next().unwrap();
    works.target.psql_in(&name, "CREATE TABLE orders AS SELECT 7 AS number").await;
    let before = works.databases().await;
    stop(&works.target, how);
    let store = works.store().await;
    let start = Instant::now();
    // Somebody notices, and says so.
    loop {
        let all = HistoryFilter { limit: 100_000, ..HistoryFilter::default() };
        let events = store.read(Scope::Platform).await.unwrap().events(&all).await.unwrap();
        // In a step, or before one.
        let noticed = |event: &Event| match &event.kind {
            EventKind::StepFailed { reason, .. } | EventKind::Unknown { reason, .. } => {
                *reason == Reason::ProviderUnreachable
            }
            _ => false,
        };
        if events.iter().any(noticed) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "nobody notices");
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    for replica in &works.replicas {
        works.until_ready(replica, 200).await;
    }
    works.target.restart();
    let start = Instant::now();
    works.until_rest(&store).await;
    let rest = start.elapsed();
    let after = works.databases().await;
    assert!(before.iter().all(|(name, oid)| after.get(name) == Some(oid)), "{before:?}, then {after:?}");
    assert!(before.len() < TENANTS * DATABASES, "the restart came in the middle: {}", before.len());
    let number: i32 = works.target.query(&name, "SELECT number FROM orders").await[0].get(0);
    assert_eq!(number, 7);
    let cut_short = works.expect_all_made_once(&store).await;
    println!(
        "the target, {how:?}: {} were made by then; at rest after {rest:?}; {cut_short} looks cut short",
        before.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_is_restarted_in_peace_while_replicas_work() {
    restart_the_target(How::InPeace).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_crashes_while_replicas_work() {
    restart_the_target(How::AsByACrash).await;
}

/// Sets the clock of the state's server, seen from what is written in the queue, which is all that it is compared with.
async fn set_clock(server: &PostgresServer, by: &str) {
    let later = |column: &str| {
        format!(
            "{column} = to_char(({column}::timestamptz AT TIME ZONE 'UTC') - interval '{by}', \
             'YYYY-MM-DD\"T\"HH24:MI:SS.US\"000Z\"')"
        )
    };
    let columns = ["due_at", "lease_until", "alive_at", "asked_at"].map(later);
    let sql = format!("UPDATE plumb.queue SET {}", columns.join(", "));
    server.psql_in("state", &sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_the_state_is_set_while_replicas_work() {
    let mut works = Works::start(Duration::from_secs(3)).await;
    works.push(1).await;
    let store = works.store().await;
    let generations = async || -> BTreeMap<String, i64> {
        let places = store.places().await.unwrap();
        places.into_iter().map(|place| (place.tenant, place.generation)).collect()
    };
    let mut before = generations().await;
    let mut made = 1;
    for by in ["-30 minutes", "-1 day", "1 day", "-1 hour", "1 hour"] {
        set_clock(&works.state, by).await;
        let now = generations().await;
        assert!(before.iter().all(|(tenant, number)| now.get(tenant) >= Some(number)), "{before:?}, then {now:?}");
        before = now;
        // It goes on, whoever has the tenants now.
        let start = Instant::now();
        while works.databases().await.len() <= made && made < TENANTS * DATABASES {
            assert!(start.elapsed() < PATIENCE, "nothing more is made after {by}");
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        made = works.databases().await.len();
    }
    works.until_rest(&store).await;
    let cut_short = works.expect_all_made_once(&store).await;
    let log = works.target.log();
    for name in works.databases().await.keys() {
        assert_eq!(log.matches(&format!("CREATE DATABASE \"{name}\"")).count(), 1, "{name}");
    }
    println!("the clock was set five times; {cut_short} looks cut short");
}

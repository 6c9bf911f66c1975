//! Several replicas on one PostgreSQL: one is killed and one is paused for longer than its lease while they work, and
//! everything is made once all the same; and what is in force of the platform is what was read of it last.

mod stopped;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use plumb::engine::{Engine, NoPasswords, Settings};
use plumb::model::{Action, EventKind, ExecutionOutcome, Place, Reason, Replica as ReplicaId, SystemClock};
use plumb::store::postgres::PostgresStore;
use plumb::store::{HistoryFilter, Mode, Queue, Scope, Store};
use tokio::sync::Mutex;

use crate::harness::desk::Desk;
use crate::harness::git::GitRepo;
use crate::harness::postgres::PostgresServer;
use crate::harness::replica::Replica;
use crate::harness::world::{World, held};
use crate::simulation::faulty::{Call, Fate, FaultyStore, Points};

const TENANTS: usize = 10;
/// Of each tenant.
const FILES: usize = 44;
const DATABASES: usize = 6;
const LEASE: Duration = Duration::from_secs(4);
/// What it may take beyond a lease until a look is begun anew: what the paused one left open is ended by the server after
/// five seconds, and where it holds the lock on an object the third waits for that for three quarters of [`TIMEOUT`].
const GRACE: Duration = Duration::from_secs(15);
/// How long PostgreSQL has to answer.
const TIMEOUT: &str = "10s";
/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(180);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Ten tenants with fifty resources each.
fn world(server: &PostgresServer, files: &Path, login: &Path) -> (Desk, Vec<GitRepo>) {
    let desk = Desk::empty();
    std::fs::write(login, server.login().1).unwrap();
    desk.platform.write(
        "platform.yaml",
        "apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {name: test}\nspec: {id: replicas, pollInterval: 1s}\n",
    );
    desk.platform.write(
        "providers.yaml",
        format!(
            "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: files}}\nspec: {{type: sqlite, url: \"sqlite://{}\"}}\n\
             ---\napiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: pg}}\nspec: {{type: postgres, url: \"{}\", \
             credentials: {{file: {}}}, timeout: {TIMEOUT}}}\n",
            files.display(),
            server.url(),
            login.display()
        ),
    );
    let mut tenants = String::new();
    let mut repositories = Vec::new();
    for number in 0..TENANTS {
        let repository = GitRepo::new();
        for resource in 0..FILES + DATABASES {
            let provider = if resource < FILES { "files" } else { "pg" };
            repository.write(
                &format!("environments/staging/r{resource}.yaml"),
                format!(
                    "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {{name: r{resource}, labels: {{owner: x}}}}\nspec: \
                     {{provider: {provider}}}\n"
                ),
            );
        }
        repository.commit("Add them");
        tenants.push_str(&format!(
            "---\napiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: team{number}}}\nspec:\n  repository: {{url: \
             \"{}\"}}\n  environments: [staging]\n  providers: [files, pg]\n",
            repository.url()
        ));
        repositories.push(repository);
    }
    desk.platform.write("tenants.yaml", tenants);
    desk.platform.commit("Start the platform");
    (desk, repositories)
}

/// Looks at all places until `seen` is content; gives how long that took.
async fn until(store: &PostgresStore, what: &str, mut seen: impl FnMut(&[Place]) -> bool) -> Duration {
    let start = Instant::now();
    loop {
        let places = store.places().await.unwrap();
        if seen(&places) {
            return start.elapsed();
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not come: {places:#?}");
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// The tenants whose steps are being done, or are done.
async fn planned_tenants(store: &PostgresStore) -> BTreeSet<String> {
    let filter = HistoryFilter { limit: 100_000, ..HistoryFilter::default() };
    let events = store.read(Scope::Platform).await.unwrap().events(&filter).await.unwrap();
    let planned = events.into_iter().filter(|event| matches!(event.kind, EventKind::Planned { .. }));
    planned.map(|event| event.tenant).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_make_everything_once_though_one_is_killed_and_one_is_paused() {
    let server = PostgresServer::start();
    let (login, password) = server.login();
    server.psql(&format!("CREATE DATABASE state OWNER {login}")).await;
    server.psql(&format!("ALTER ROLE {login} SET log_statement = 'ddl'")).await;
    let (files, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let login_file = credentials.path().join("login");
    let (desk, _repositories) = world(&server, files.path(), &login_file);
    let url = format!("postgres://{login}:{password}@127.0.0.1:{}/state", server.port());
    drop(PostgresStore::open(&url, Mode::Reconcile).await.unwrap());
    let store = PostgresStore::open(&url, Mode::ReadOnly).await.unwrap();
    let mut replicas: Vec<Replica> = (0..3).map(|_| Replica::start(&desk, &url, LEASE, &login_file)).collect();

    // Of two that work one is killed and one is paused, until the third has what they held; then the paused one goes on,
    // and may write nothing of that any more.
    let mut working = Vec::new();
    let places = |replica: &Replica, places: &[Place]| -> Vec<Place> {
        places.iter().filter(|place| replica.holds(place)).cloned().collect()
    };
    let start = Instant::now();
    while working.len() < 2 {
        assert!(start.elapsed() < PATIENCE, "no two replicas work");
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let begun = planned_tenants(&store).await;
        let now = store.places().await.unwrap();
        let is_at_work = |at: &usize| places(&replicas[*at], &now).iter().any(|place| begun.contains(&place.tenant));
        working = (0..replicas.len()).filter(is_at_work).collect();
    }
    let (killed, paused) = (working[0], working[1]);
    replicas[killed].signal("KILL");
    replicas[paused].signal("STOP");
    let now = store.places().await.unwrap();
    let held = [places(&replicas[killed], &now), places(&replicas[paused], &now)].concat();
    let is_taken_over = |before: &Place, places: &[Place]| {
        let now = places.iter().find(|place| place.tenant == before.tenant);
        now.is_some_and(|now| now.generation > before.generation || now.holder.is_none())
    };
    // One replica takes over eight tenants at a time; the first are begun within a lease.
    let took = until(&store, "a takeover", |now| held.iter().any(|before| is_taken_over(before, now))).await;
    assert!(took <= LEASE + GRACE, "{took:?}");
    let took_all =
        until(&store, "the other takeovers", |now| held.iter().all(|before| is_taken_over(before, now))).await;
    replicas[paused].signal("CONT");

    // Everything is there, once.
    let all = TENANTS * (FILES + DATABASES);
    let start = Instant::now();
    loop {
        let statuses = store.read(Scope::Platform).await.unwrap().statuses().await.unwrap();
        let ready = statuses.values().filter(|status| {
            status.conditions.iter().any(|condition| {
                condition.condition_type == plumb::model::ConditionType::Ready
                    && condition.status == plumb::model::ConditionStatus::True
            })
        });
        if ready.count() == all {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "not all are ready: {}", statuses.len());
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    until(&store, "rest", |places| places.iter().all(Place::is_idle)).await;
    replicas.remove(killed);
    for replica in &mut replicas {
        assert_eq!(replica.terminate(), Some(0));
    }
    let live: BTreeSet<String> = std::fs::read_dir(files.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    let wanted: BTreeSet<String> =
        (0..TENANTS).flat_map(|t| (0..FILES).map(move |r| format!("team{t}_staging_r{r}.db"))).collect();
    assert_eq!(live, wanted);
    let log = server.log();
    for tenant in 0..TENANTS {
        for resource in FILES..FILES + DATABASES {
            let made = format!("CREATE DATABASE \"team{tenant}_staging_r{resource}\"");
            assert_eq!(log.matches(&made).count(), 1, "{made}");
        }
    }

    // The record tells the same: nothing was made twice, and no look is left open.
    let mut tx = store.read(Scope::Platform).await.unwrap();
    let filter = HistoryFilter { limit: 100_000, ..HistoryFilter::default() };
    let mut made: BTreeMap<String, usize> = BTreeMap::new();
    for event in tx.events(&filter).await.unwrap() {
        if let (Some(key), EventKind::StepDone { action: Action::Create, .. }) = (event.key, event.kind) {
            *made.entry(key.to_string()).or_default() += 1;
        }
    }
    assert!(made.values().all(|times| *times == 1), "{made:?}");
    let outcomes: Vec<ExecutionOutcome> =
        tx.executions(&filter).await.unwrap().into_iter().map(|execution| execution.outcome).collect();
    assert!(!outcomes.contains(&ExecutionOutcome::Running));
    assert!(outcomes.contains(&ExecutionOutcome::Interrupted), "the killed one was at work");
    drop(tx);
    let key = "11".repeat(32);
    let again = desk.plumb_with(
        &["apply", "-o", "json"],
        &[("PLUMB_PLATFORM", &desk.platform.url()), ("PLUMB_DATABASE", &url), ("PLUMB_SECRET_KEY", &key)],
    );
    assert_eq!(again.code, 0, "{again:?}");
    let told: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert!(told.as_array().unwrap().iter().all(|tenant| tenant["done"] == 0), "{told:#}");
    println!(
        "{all} resources of {TENANTS} tenants; of {} that two replicas held the first was taken over after {took:?}, the last \
         {took_all:?} later (lease {LEASE:?}); {} looks, {} cut short",
        held.len(),
        outcomes.len(),
        outcomes.iter().filter(|outcome| **outcome == ExecutionOutcome::Interrupted).count()
    );
}

/// What happens before the first transaction that writes.
struct BeforeWriting(Mutex<Option<BoxFuture<'static, ()>>>);

#[async_trait]
impl Points for BeforeWriting {
    async fn before(&self, _: Call, what: &'static str) -> Fate {
        if what == "begin"
            && let Some(work) = self.0.lock().await.take()
        {
            work.await;
        }
        Fate::Go
    }

    async fn after(&self, _: Call, _: &'static str) -> Fate {
        Fate::Go
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_revision_of_the_platform_never_replaces_a_newer_one() {
    const ORDERS: &str = "checkout/staging/Database/orders";
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    server.psql(&format!("CREATE DATABASE revisions OWNER {login}")).await;
    let url = format!("postgres://{login}:{password}@127.0.0.1:{}/revisions", server.port());
    let mut world = World::with_files().await;
    world.database = Some(url.clone());
    world.restart().await;
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    let world = Arc::new(world);

    // Another process has read the first of two commits, and is about to put it in force when the second is, which
    // suspends a tenant and brings a new one that is looked at already.
    world.write_platform("id: test-platform\npollInterval: 7s");
    let older = world.platform.commit("Poll often");
    let second = GitRepo::new();
    second.write("readme.txt", "nothing yet");
    second.commit("Start");
    let meanwhile = {
        let world = Arc::clone(&world);
        let document = format!(
            "apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: billing}}\nspec:\n  repository: {{url: \"{}\"}}\n  \
             environments: [staging]\n  providers: [files]\n",
            second.url()
        );
        async move {
            world.write_tenant("providers: [files]\nsuspend: [staging]");
            world.platform.write("billing.yaml", document);
            world.platform.commit("Suspend one, add one");
            let in_force = world.in_force().await;
            let ask = plumb::engine::Ask { trigger: plumb::model::Trigger::Commit, width: plumb::engine::Width::Deep };
            world.engine().reconcile(&in_force, "billing", ask).await.unwrap();
        }
        .boxed()
    };
    let data = tempfile::tempdir().unwrap();
    let settings = Settings {
        platform: world.platform.url(),
        platform_branch: None,
        platform_token: None,
        data_dir: data.path().to_owned(),
        replica: ReplicaId("late".to_owned()),
        person: "late".to_owned(),
        lease: LEASE,
    };
    let store = PostgresStore::open(&url, Mode::Reconcile).await.unwrap();
    let points = Arc::new(BeforeWriting(Mutex::new(Some(meanwhile))));
    let store: Arc<dyn Store> = Arc::new(FaultyStore::new(Arc::new(store), points));
    let late = Engine::new(settings, store, Arc::new(NoPasswords), Arc::new(SystemClock), Arc::new(|_| {}));
    let read = late.platform().await.unwrap();
    let newer = world.platform.head();
    assert_ne!(older, newer);
    assert_eq!(read.platform.commit.as_ref(), Some(&newer), "it has read once more");
    let mut tx = world.store().read(Scope::Platform).await.unwrap();
    assert_eq!(tx.platform().await.unwrap().unwrap().commit, newer);
    assert!(!tx.tenants().await.unwrap()["billing"].removed);
    drop(tx);
    world.write_database("staging", "orders", "userVersion: 2");
    world.tenant.commit("Want version 2");
    assert_eq!(held(&world.apply().await.plan, ORDERS), Some(Reason::Suspended));

    // A head that was set back is what people say last.
    world.platform.reset(&older);
    world.platform.push_force();
    let read = late.platform().await.unwrap();
    assert_eq!(read.platform.commit.as_ref(), Some(&older));
    assert_eq!(world.in_sync().await, 1, "it is suspended no more");
    let mut tx = world.store().read(Scope::Platform).await.unwrap();
    assert_eq!(tx.platform().await.unwrap().unwrap().commit, older);
    assert!(tx.tenants().await.unwrap()["billing"].removed);
}

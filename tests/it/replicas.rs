//! Several replicas on one PostgreSQL: one is killed and one is paused for longer than its lease while they work, and
//! everything is made once all the same, by others within one lease; they are restarted in turn; and what is in force of the platform is what was read of it last.

mod restarted;
mod stopped;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use futures::future::BoxFuture;
use notify::event::{ModifyKind, RenameMode};
use notify::{RecursiveMode, Watcher as _};
use plumb::engine::schedule::Schedule;
use plumb::engine::{Engine, NoPasswords, Settings};
use plumb::model::{
    Action, ConditionStatus, ConditionType, EventKind, ExecutionOutcome, Place, Reason, Replica as ReplicaId,
    ResourceStatus, SystemClock,
};
use plumb::store::postgres::PostgresStore;
use plumb::store::{HistoryFilter, Mode, Queue, Scope, Store};
use tokio::sync::{Mutex, oneshot};

use crate::harness::desk::Desk;
use crate::harness::git::GitRepo;
use crate::harness::postgres::PostgresServer;
use crate::harness::replica::Replica;
use crate::harness::running::Running;
use crate::harness::world::{World, held};
use crate::simulation::faulty::{Call, Fate, FaultyStore, Points};

/// As many as one replica looks at at once, so that the one that is left need not wait for room to take over all others'.
const TENANTS: usize = 8;
/// Of each tenant.
const FILES: usize = 56;
const DATABASES: usize = 7;
/// Longer than the five seconds after which the server ends what a paused replica has left open, which nobody can pass by.
const LEASE: Duration = Duration::from_secs(6);
/// How long after the end of a lease its tenant's next look may begin: who sleeps until then sleeps a tenth longer, looks
/// into the queue, and a loaded machine takes its time for that.
const MARGIN: TimeDelta = TimeDelta::seconds(3);
/// How long PostgreSQL has to answer.
const TIMEOUT: &str = "10s";
/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long it takes at most until it is told that a file has appeared.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Enough for every row of a test.
const ALL_OF_THEM: u32 = 100_000;

/// Where a resource is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum On {
    Files,
    Postgres,
}

/// Tenants, what they want, and the PostgreSQL server that some of it is made on and that the state is on too.
struct Scene {
    server: PostgresServer,
    files: tempfile::TempDir,
    appearances: Appearances,
    credentials: tempfile::TempDir,
    desk: Desk,
    repositories: Vec<GitRepo>,
    url: String,
    store: PostgresStore,
    /// By tenant and name.
    wanted: BTreeSet<(usize, usize, On)>,
}

impl Scene {
    /// With all that is wanted committed, and nobody at work.
    async fn start() -> Self {
        let mut scene = Self::empty().await;
        scene.want(FILES, DATABASES);
        scene.write_platform();
        scene
    }

    /// With nothing committed yet.
    async fn empty() -> Self {
        let server = PostgresServer::start();
        let (login, password) = server.login();
        server.psql(&format!("CREATE DATABASE state OWNER {login}")).await;
        server.psql(&format!("ALTER ROLE {login} SET log_statement = 'ddl'")).await;
        let url = format!("postgres://{login}:{password}@127.0.0.1:{}/state", server.port());
        drop(PostgresStore::open(&url, Mode::Reconcile).await.unwrap());
        let store = PostgresStore::open(&url, Mode::ReadOnly).await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let scene = Self {
            server,
            appearances: Appearances::in_folder(files.path()),
            files,
            credentials: tempfile::tempdir().unwrap(),
            desk: Desk::empty(),
            repositories: (0..TENANTS).map(|_| GitRepo::new()).collect(),
            url,
            store,
            wanted: BTreeSet::new(),
        };
        std::fs::write(scene.login_file(), password).unwrap();
        scene
    }

    fn login_file(&self) -> PathBuf {
        self.credentials.path().join("login")
    }

    fn replica(&self, lease: Duration) -> Replica {
        Replica::start(&self.desk, &self.url, lease, &self.login_file())
    }

    fn write_platform(&self) {
        let mut documents = format!(
            "apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {{name: test}}\nspec: {{id: replicas, pollInterval: 1s}}\n---\n\
             apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: files}}\nspec: {{type: sqlite, url: \"sqlite://{}\"}}\n\
             ---\napiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: pg}}\nspec: {{type: postgres, url: \"{}\", \
             credentials: {{file: {}}}, timeout: {TIMEOUT}}}\n",
            self.files.path().display(),
            self.server.url(),
            self.login_file().display()
        );
        for (number, repository) in self.repositories.iter().enumerate() {
            documents.push_str(&format!(
                "---\napiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: team{number}}}\nspec:\n  repository: {{url: \
                 \"{}\"}}\n  environments: [staging]\n  providers: [files, pg]\n",
                repository.url()
            ));
        }
        self.desk.platform.write("platform.yaml", documents);
        self.desk.platform.commit("Start the platform");
    }

    /// Has every tenant want so many files and databases more.
    fn want(&mut self, files: usize, databases: usize) {
        let before = self.wanted.len() / TENANTS;
        for (tenant, repository) in self.repositories.iter().enumerate() {
            for resource in before..before + files + databases {
                let (on, provider) =
                    if resource < before + files { (On::Files, "files") } else { (On::Postgres, "pg") };
                repository.write(
                    &format!("environments/staging/r{resource}.yaml"),
                    format!(
                        "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {{name: r{resource}, labels: {{owner: x}}}}\n\
                         spec: {{provider: {provider}}}\n"
                    ),
                );
                self.wanted.insert((tenant, resource, on));
            }
            repository.commit("Add them");
        }
    }

    /// The names of the objects that are wanted there.
    fn names(&self, wanted: On) -> BTreeSet<String> {
        let there = self.wanted.iter().filter(|(_, _, on)| *on == wanted);
        there.map(|(tenant, resource, _)| format!("team{tenant}_staging_r{resource}")).collect()
    }

    async fn until_all_ready(&self) {
        let start = Instant::now();
        loop {
            let statuses = self.store.read(Scope::Platform).await.unwrap().statuses().await.unwrap();
            let is_ready = |status: &&ResourceStatus| {
                status.condition(ConditionType::Ready).is_some_and(|ready| ready.status == ConditionStatus::True)
            };
            if statuses.values().filter(is_ready).count() == self.wanted.len() {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "not all are ready: {}", statuses.len());
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Once all replicas have ended: everything is there and was made once, as the live systems see it; the record tells
    /// the same, and nothing is left to do.
    async fn expect_all_made_once(&self) {
        let live: BTreeSet<String> = std::fs::read_dir(self.files.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        assert_eq!(live, self.names(On::Files).into_iter().map(|name| name + ".db").collect());
        let once: BTreeMap<String, usize> = live.into_iter().map(|name| (name, 1)).collect();
        assert_eq!(self.appearances.counted(once.len()), once);
        let log = self.server.log();
        for name in self.names(On::Postgres) {
            let made = format!("CREATE DATABASE \"{name}\"");
            assert_eq!(log.matches(&made).count(), 1, "{made}");
        }
        let all = HistoryFilter { limit: ALL_OF_THEM, ..HistoryFilter::default() };
        let mut made: BTreeMap<String, usize> = BTreeMap::new();
        for event in self.store.read(Scope::Platform).await.unwrap().events(&all).await.unwrap() {
            if let (Some(key), EventKind::StepDone { action: Action::Create, .. }) = (event.key, event.kind) {
                *made.entry(key.to_string()).or_default() += 1;
            }
        }
        assert!(made.values().all(|times| *times == 1), "{made:?}");
        self.desk.applies_nothing_more(&self.url);
    }
}

/// How often each file has appeared in a folder under its name, as the system that holds it tells.
struct Appearances {
    counts: Arc<std::sync::Mutex<BTreeMap<String, usize>>>,
    _watcher: notify::RecommendedWatcher,
}

impl Appearances {
    fn in_folder(folder: &Path) -> Self {
        let counts = Arc::<std::sync::Mutex<BTreeMap<String, usize>>>::default();
        let counted = Arc::clone(&counts);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let event = event.expect("the folder is watched");
            assert!(!event.need_rescan(), "more came at once than is told");
            let Some(path) = event.paths.last().filter(|_| has_appeared(event.kind)) else { return };
            let name = path.file_name().expect("it is in the folder").to_string_lossy().into_owned();
            if name.ends_with(".db") && !name.starts_with('.') {
                *counted.lock().unwrap().entry(name).or_default() += 1;
            }
        })
        .unwrap();
        watcher.watch(folder, RecursiveMode::NonRecursive).unwrap();
        Self { counts, _watcher: watcher }
    }

    /// The counts, once there are so many: what is told comes a little later than what it is of.
    fn counted(&self, files: usize) -> BTreeMap<String, usize> {
        let start = Instant::now();
        while self.counts.lock().unwrap().len() < files && start.elapsed() < TOLD_WITHIN {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        self.counts.lock().unwrap().clone()
    }
}

/// Whether something is there under its last name that was not, or in the place of what was.
fn has_appeared(kind: notify::EventKind) -> bool {
    let by_name = ModifyKind::Name(RenameMode::To);
    matches!(kind, notify::EventKind::Create(_)) || kind == notify::EventKind::Modify(by_name)
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
async fn tenants_at_work(store: &PostgresStore) -> BTreeSet<String> {
    let filter = HistoryFilter { limit: ALL_OF_THEM, ..HistoryFilter::default() };
    let events = store.read(Scope::Platform).await.unwrap().events(&filter).await.unwrap();
    let begun = events.into_iter().filter(|event| matches!(event.kind, EventKind::StepStarted { .. }));
    begun.map(|event| event.tenant).collect()
}

/// What was held by a replica that is dead or paused.
struct Lost {
    tenant: String,
    generation: i64,
    /// Until when it is nobody else's, by the clock of the store.
    lease_until: DateTime<Utc>,
    /// The newest look at it then.
    look: Option<i64>,
}

/// What these replicas hold.
async fn held_by(store: &PostgresStore, replicas: &[&Replica]) -> Vec<Lost> {
    let mut held = Vec::new();
    for place in store.places().await.unwrap() {
        if !replicas.iter().any(|replica| replica.holds(&place)) {
            continue;
        }
        let newest = HistoryFilter { limit: 1, ..HistoryFilter::default() };
        let scope = Scope::Tenant(place.tenant.clone());
        let looks = store.read(scope).await.unwrap().executions(&newest).await.unwrap();
        held.push(Lost {
            generation: place.generation,
            lease_until: place.lease_until.expect("it is held"),
            look: looks.first().map(|look| look.id),
            tenant: place.tenant,
        });
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_make_everything_once_though_one_is_killed_and_one_is_paused() {
    let mut scene = Scene::empty().await;
    for repository in &scene.repositories {
        repository.write("README.md", "Nothing yet\n");
        repository.commit("Begin");
    }
    scene.write_platform();
    let mut replicas: Vec<Replica> = (0..3).map(|_| scene.replica(LEASE)).collect();
    // On a loaded machine the first to be there would have all tenants before the others are.
    replicas.iter().for_each(|replica| drop(replica.address()));
    until(&scene.store, "the first looks", |places| {
        places.len() == TENANTS && places.iter().all(|place| place.looked_at.is_some() && place.is_idle())
    })
    .await;
    scene.want(FILES, DATABASES);
    let store = &scene.store;

    // Of two that work one is killed and one is paused, until the third has what they held; then the paused one goes on,
    // and may write nothing of that any more.
    let mut working = Vec::new();
    let start = Instant::now();
    while working.len() < 2 {
        assert!(start.elapsed() < PATIENCE, "no two replicas work");
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let begun = tenants_at_work(store).await;
        let now = store.places().await.unwrap();
        let is_at_work =
            |at: &usize| now.iter().any(|place| replicas[*at].holds(place) && begun.contains(&place.tenant));
        working = (0..replicas.len()).filter(is_at_work).collect();
    }
    let (killed, paused) = (working[0], working[1]);
    replicas[killed].signal("KILL");
    replicas[paused].signal("STOP");
    let mut lost = held_by(store, &[&replicas[killed], &replicas[paused]]).await;
    let of_paused = held_by(store, &[&replicas[paused]]).await;
    let third = (0..replicas.len()).find(|at| ![killed, paused].contains(at)).unwrap();
    let took = until(store, "the takeovers", |places| {
        let place = |of: &Lost| places.iter().find(|place| place.tenant == of.tenant).expect("it has a place");
        // What was on its way to the server when the signals came has arrived since: signs of life, and last words.
        lost.retain(|before| place(before).generation > before.generation || place(before).holder.is_some());
        for before in &mut lost {
            let now = place(before);
            if now.generation == before.generation {
                before.lease_until = before.lease_until.max(now.lease_until.expect("it is held"));
            }
        }
        // It is seen with a tenant, or has left it since.
        let is_the_thirds = |place: &Place| place.holder.is_none() || replicas[third].holds(place);
        lost.iter().all(|before| place(before).generation > before.generation && is_the_thirds(place(before)))
    })
    .await;
    let is_lost = |held: &&Lost| lost.iter().any(|lost| lost.tenant == held.tenant);
    let of_paused: Vec<&str> = of_paused.iter().filter(is_lost).map(|held| held.tenant.as_str()).collect();
    assert!(!of_paused.is_empty() && of_paused.len() < lost.len(), "{of_paused:?} of {}", lost.len());
    replicas[paused].signal("CONT");

    // Everything is there, once.
    scene.until_all_ready().await;
    until(store, "rest", |places| places.iter().all(Place::is_idle)).await;
    for at in [paused, third] {
        assert_eq!(replicas[at].terminate(), Some(0));
    }
    let log = replicas[paused].log();
    let is_told = |tenant: &&str| log.contains(&format!("the lease on tenant {tenant} was lost"));
    assert!(of_paused.iter().any(is_told), "it was idle when it was paused");
    replicas.remove(killed);
    scene.expect_all_made_once().await;

    // The record tells that no look is left open, and that each tenant was looked at by another within one lease: the look
    // after the one that was cut short begins when that one's lease has run out.
    let mut tx = store.read(Scope::Platform).await.unwrap();
    let all = HistoryFilter { limit: ALL_OF_THEM, ..HistoryFilter::default() };
    let mut looks = tx.executions(&all).await.unwrap();
    looks.sort_by_key(|look| look.id);
    assert!(looks.iter().all(|look| look.outcome != ExecutionOutcome::Running));
    let interrupted = looks.iter().filter(|look| look.outcome == ExecutionOutcome::Interrupted).count();
    assert!(interrupted > 0, "the killed one was at work");
    let mut latest = TimeDelta::MIN;
    for Lost { tenant, lease_until, look, .. } in &lost {
        let next =
            looks.iter().find(|next| next.tenant == *tenant && Some(next.id) > *look).expect("it was taken over");
        let late = next.started_at - *lease_until;
        assert!(late <= MARGIN, "{tenant}: its lease ran out at {lease_until}, and the next look was {next:#?}");
        latest = latest.max(late);
    }
    println!(
        "{} resources of {TENANTS} tenants; all {} that two replicas held were taken over within {took:?}, the latest {} ms \
         after its lease of {LEASE:?} had run out; {} looks, {interrupted} cut short",
        scene.wanted.len(),
        lost.len(),
        latest.num_milliseconds(),
        looks.len(),
    );
}

/// The URL of a new database.
async fn database(name: &str) -> String {
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    server.psql(&format!("CREATE DATABASE {name} OWNER {login}")).await;
    format!("postgres://{login}:{password}@127.0.0.1:{}/{name}", server.port())
}

/// A replica beside the one of `world`, on the same database.
async fn beside(world: &World, data: &Path, points: Arc<dyn Points>) -> Engine {
    let settings = Settings {
        platform: world.platform.url(),
        platform_branch: None,
        platform_token: None,
        data_dir: data.to_owned(),
        replica: ReplicaId("beside".to_owned()),
        person: "somebody".to_owned(),
        lease: LEASE,
    };
    let store = PostgresStore::open(world.database.as_ref().unwrap(), Mode::Reconcile).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(FaultyStore::new(Arc::new(store), points));
    Engine::new(settings, store, Arc::new(NoPasswords), Arc::new(SystemClock), Arc::new(|_| {}))
}

/// Counts how often a replica has tried to lead, and has done what one does for all.
#[derive(Default)]
struct ForAll {
    tries: AtomicUsize,
    places: AtomicUsize,
    forgets: AtomicUsize,
}

impl ForAll {
    fn done(&self) -> (usize, usize) {
        (self.places.load(Ordering::SeqCst), self.forgets.load(Ordering::SeqCst))
    }

    /// Waits until `seen` is content.
    async fn until(&self, what: &str, seen: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !seen(self) {
            assert!(start.elapsed() < PATIENCE, "{what} does not come");
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }
}

#[async_trait]
impl Points for ForAll {
    async fn before(&self, _: Call, what: &'static str) -> Fate {
        match what {
            "keep_only" => drop(self.places.fetch_add(1, Ordering::SeqCst)),
            "prune_history" => drop(self.forgets.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
        Fate::Go
    }

    async fn after(&self, _: Call, _: &'static str) -> Fate {
        Fate::Go
    }

    fn leads(&self) -> Option<bool> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_does_for_all_is_done_by_one_until_it_is_gone_and_then_by_another() {
    let mut world = World::with_files().await;
    world.database = Some(database("singletons").await);
    let (first, second) = (Arc::new(ForAll::default()), Arc::new(ForAll::default()));
    let counted = Arc::clone(&first);
    world.around_store = Some(Box::new(move |store| Arc::new(FaultyStore::new(store, counted.clone()))));
    world.restart().await;
    let leading = Running::start(&world).await;
    first.until("forgetting", |first| first.done().1 > 0).await;
    let data = tempfile::tempdir().unwrap();
    let waiting = Arc::new(beside(&world, data.path(), second.clone()).await);
    let (schedule, _looks, _ready) = Schedule::new(waiting);
    let (stop, stopped) = oneshot::channel::<()>();
    let waiting = tokio::spawn(schedule.run(async move { stopped.await.unwrap() }));
    second.until("a second try to lead", |second| second.tries.load(Ordering::SeqCst) > 1).await;
    assert_eq!(second.done(), (0, 0), "there is one that leads");
    leading.stop().await;
    second.until("another that leads", |second| second.done().0 > 0 && second.done().1 > 0).await;
    stop.send(()).unwrap();
    waiting.await.unwrap();
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
    let mut world = World::with_files().await;
    world.database = Some(database("revisions").await);
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
    let late = beside(&world, data.path(), Arc::new(BeforeWriting(Mutex::new(Some(meanwhile))))).await;
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

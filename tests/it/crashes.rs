//! Crash everywhere: a process of its own looks at a tenant and is killed before, or after, each call to a system and each
//! write to its store, one after the other; the next one has to bring everything to where it would have come.
//!
//! The process is this very binary ([`child`]), which counts the points that it comes by and kills itself at the one that
//! it is told. Whatever it was about to do is not done, and whatever it did stays: the state, the files and git are real.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use plumb::engine::vault::{StoredSecrets, Vault, system_rng};
use plumb::engine::{Ask, Engine, LEASE, PreviewSource, Settings, Width};
use plumb::managers::{Cx, Found, ManagerError, Outcome, ResourceManager, connect};
use plumb::model::{
    ApprovalKind, ConditionStatus, ConditionType, Depth, EventKind, ExecutionOutcome, Kind, Mark, Observation,
    ProviderIdentity, Replica, ResourceKey, Step, SystemClock, Target, Trigger,
};
use plumb::store::sqlite::SqliteStore;
use plumb::store::{HistoryFilter, Mode, Scope, Store};
use serde::{Deserialize, Serialize};
use sqlx::Connection;

use crate::harness::postgres::PostgresServer;
use crate::harness::redis::{RedisOptions, RedisServer};
use crate::simulation::faulty::{Call, Fate, FaultyStore, Points};
use crate::simulation::repository::Repository;

/// The folder of the world that the child looks at, and the point at which it kills itself; without one it lives.
const WORLD: &str = "PLUMB_CRASH_WORLD";
const POINT: &str = "PLUMB_CRASH_POINT";
const SIGKILL: i32 = 9;
const TENANT: &str = "crash";

/// What a child tells before it ends by itself.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    /// How its last look ended, and whether that did nothing and left nothing to do.
    outcome: ExecutionOutcome,
    rests: bool,
    failed: Vec<String>,
    /// What a plan would be now.
    plan: String,
    /// What it came by in its first look, in order.
    points: Vec<String>,
}

/// Counts the points that this process comes by, and kills it at one of them.
struct Killer {
    at: Option<usize>,
    came_by: AtomicUsize,
    points: Mutex<Vec<String>>,
}

impl Killer {
    fn point(&self, when: &str, what: &str) {
        let number = self.came_by.fetch_add(1, Ordering::SeqCst);
        self.points.lock().unwrap().push(format!("{when} {what}"));
        if self.at == Some(number) {
            let me = std::process::id().to_string();
            let _ = Command::new("kill").args(["-KILL", &me]).status();
            // The signal is on its way.
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    }
}

#[async_trait]
impl Points for Killer {
    async fn before(&self, call: Call, what: &'static str) -> Fate {
        if call == Call::Write {
            self.point("before", what);
        }
        Fate::Go
    }

    async fn after(&self, call: Call, what: &'static str) -> Fate {
        if call == Call::Write {
            self.point("after", what);
        }
        Fate::Go
    }
}

/// A manager whose every call is a point.
struct Watched {
    inner: Arc<dyn ResourceManager>,
    killer: Arc<Killer>,
}

impl Watched {
    async fn call<T>(&self, what: &str, call: impl Future<Output = T>) -> T {
        self.killer.point("before", what);
        let done = call.await;
        self.killer.point("after", what);
        done
    }
}

#[async_trait]
impl ResourceManager for Watched {
    fn kinds(&self) -> &'static [Kind] {
        self.inner.kinds()
    }

    async fn identity(&self) -> Result<Option<ProviderIdentity>, ManagerError> {
        self.call("identity", self.inner.identity()).await
    }

    async fn observe(&self, targets: &[Target], depth: Depth, cx: &Cx<'_>) -> Result<Vec<Observation>, ManagerError> {
        self.call("observe", self.inner.observe(targets, depth, cx)).await
    }

    async fn discover(&self, in_place: &BTreeSet<String>, cx: &Cx<'_>) -> Result<Vec<Found>, ManagerError> {
        self.call("discover", self.inner.discover(in_place, cx)).await
    }

    async fn apply(&self, step: &Step, cx: &Cx<'_>) -> Result<Outcome, ManagerError> {
        self.call(&format!("apply: {} {}", step.action, step.key), self.inner.apply(step, cx)).await
    }

    async fn tidy(&self) -> Result<(), ManagerError> {
        self.call("tidy", self.inner.tidy()).await
    }

    fn outputs(&self, target: &Target) -> BTreeMap<String, String> {
        self.inner.outputs(target)
    }
}

/// The process that is killed: it looks, deep, at the one tenant of the world; where nobody kills it, until a look does
/// nothing.
#[tokio::test]
#[ignore = "started by the tests beside it"]
async fn child() {
    let Some(world) = std::env::var_os(WORLD).map(PathBuf::from) else { return };
    let at = std::env::var(POINT).ok().map(|at| at.parse().unwrap());
    let killer = Arc::new(Killer { at, came_by: AtomicUsize::new(0), points: Mutex::default() });
    let data = world.join("data");
    std::fs::write(world.join("pid"), std::process::id().to_string()).unwrap();
    let store = SqliteStore::open(&data, Mode::Reconcile).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(FaultyStore::new(Arc::new(store), killer.clone()));
    let vault = Vault::open(&data, None, &mut system_rng()).unwrap();
    let secrets =
        StoredSecrets::open(Arc::clone(&store), Arc::new(vault), Arc::new(SystemClock), system_rng()).await.unwrap();
    let settings = Settings {
        platform: world.join("platform.git").display().to_string(),
        platform_branch: Some("main".to_owned()),
        platform_token: None,
        data_dir: data,
        replica: Replica(format!("process {}", std::process::id())),
        person: "somebody".to_owned(),
        lease: LEASE,
    };
    let watcher = Arc::clone(&killer);
    let engine = Engine::new(settings, store, Arc::new(secrets), Arc::new(SystemClock), Arc::new(|_| {}))
        .with_managers(Arc::new(move |endpoint| {
            Ok(Arc::new(Watched { inner: connect(endpoint)?, killer: Arc::clone(&watcher) })
                as Arc<dyn ResourceManager>)
        }));
    let in_force = engine.platform().await.unwrap();
    let ask = Ask { trigger: Trigger::CommandLine, width: Width::Deep };
    let tenant = std::fs::read_to_string(world.join("tenant")).unwrap();
    let mut points = None;
    let mut looks = 0;
    let told = loop {
        let report = engine.reconcile(&in_force, &tenant, ask).await.unwrap();
        looks += 1;
        points.get_or_insert_with(|| killer.points.lock().unwrap().clone());
        let left = engine.preview(&in_force, &tenant, &PreviewSource::Head).await.unwrap().plan;
        let failed = report.failed.into_iter();
        let told = Told {
            outcome: report.outcome,
            rests: report.done == 0 && left.steps.is_empty() && left.settles.is_empty(),
            failed: failed.map(|(key, (reason, message))| format!("{key}: {reason}: {message}")).collect(),
            plan: left.id.0.clone(),
            points: points.clone().unwrap_or_default(),
        };
        if told.rests || at.is_some() || looks == LOOKS {
            break told;
        }
    };
    std::fs::write(world.join("told"), serde_json::to_vec(&told).unwrap()).unwrap();
}

/// A platform, a tenant and their state in one folder. What is known of it has its path in it, so a copy of it is put back
/// to where it was made.
struct World {
    folder: PathBuf,
    tenant: Repository,
    files: BTreeMap<String, String>,
    commits: i64,
}

/// How a child ended.
#[derive(Debug)]
enum Ended {
    Killed,
    Lived(Told),
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

impl World {
    fn make(folder: &Path, name: &str, providers: &str, allowed: &str) -> Self {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder.join("data")).unwrap();
        std::fs::write(folder.join("tenant"), name).unwrap();
        let platform = Repository::make(&folder.join("platform.git"));
        let tenant = folder.join("tenant.git");
        let text = format!(
            "apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {{name: crash}}\nspec: {{id: crash-platform}}\n---\n{providers}---\n\
             apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  repository: {{url: \
             \"{}\"}}\n  environments: [staging]\n  providers: {allowed}\n",
            tenant.display()
        );
        platform.commit(&[("platform.yaml".to_owned(), text)].into(), "Start", at(0));
        Self { folder: folder.to_owned(), tenant: Repository::make(&tenant), files: BTreeMap::new(), commits: 0 }
    }

    fn write(&mut self, kind: Kind, name: &str, annotations: &str, spec: &str) {
        let text = format!(
            "apiVersion: plumb.dev/v1\nkind: {kind}\nmetadata:\n  name: {name}\n  labels: {{owner: team-crash}}\n  \
             annotations: {{{annotations}}}\nspec: {{{spec}}}\n"
        );
        self.files.insert(format!("environments/staging/{name}.yaml"), text);
    }

    fn remove(&mut self, name: &str) {
        self.files.remove(&format!("environments/staging/{name}.yaml"));
    }

    fn commit(&mut self, message: &str) {
        self.commits += 1;
        let mut files = self.files.clone();
        files.insert("README.md".to_owned(), self.commits.to_string());
        self.tenant.commit(&files, message, at(60 * self.commits));
    }

    fn start(&self, point: Option<usize>) -> Ended {
        let told = self.folder.join("told");
        let _ = std::fs::remove_file(&told);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crashes::child", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(WORLD, &self.folder).env_remove(POINT).stdin(Stdio::null());
        command.envs(point.map(|point| (POINT, point.to_string())));
        let output = command.output().unwrap();
        match (was_killed(output.status), std::fs::read(told)) {
            (true, _) => Ended::Killed,
            (false, Ok(told)) => Ended::Lived(serde_json::from_slice(&told).unwrap()),
            (false, Err(_)) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// A look that nobody kills.
    fn look(&self) -> Told {
        match self.start(None) {
            Ended::Lived(told) => told,
            Ended::Killed => panic!("nobody killed it"),
        }
    }

    fn databases(&self) -> PathBuf {
        self.folder.join("data/databases")
    }
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(SIGKILL)
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

const FILES: &str = "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {name: files}\nspec: {type: sqlite, url: \
                     \"sqlite:databases\", serves: [{kind: Database}]}\n";
const DELETE: &str = "plumb.dev/deletion: delete";

/// One act of the scenario: what was committed or done before the look that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Three databases are made, one after another.
    Create,
    /// One is changed, one made anew since its page size changes, one removed.
    Change,
    /// All are removed, and that is approved.
    Remove,
    /// One was changed by hand: people are asked.
    Ask,
    /// They said yes.
    Accept,
    /// They said no.
    Refuse,
}

const ACTS: [Act; 6] = [Act::Create, Act::Change, Act::Remove, Act::Ask, Act::Accept, Act::Refuse];
const BRANCH: &str = "plumb/drift/staging/database-a";

impl Act {
    /// The world as it is before the look.
    fn prepare(self, world: &mut World) {
        match self {
            Act::Create => {
                world.write(Kind::Database, "a", DELETE, "userVersion: 1");
                world.write(Kind::Database, "b", DELETE, "userVersion: 1, dependsOn: [Database/a]");
                world.write(Kind::Database, "c", DELETE, "userVersion: 1, journalMode: wal");
                world.commit("Add them");
            }
            Act::Change => {
                Act::Create.come_to_rest(world);
                world.write(Kind::Database, "a", DELETE, "userVersion: 2");
                world.write(Kind::Database, "b", DELETE, "userVersion: 1, pageSize: 8192");
                world.remove("c");
                world.commit("Change them");
            }
            Act::Remove => {
                Act::Create.come_to_rest(world);
                for name in ["a", "b", "c"] {
                    world.remove(name);
                }
                world.write(Kind::Database, "d", DELETE, "userVersion: 9");
                world.commit("Another");
                world.look();
                world.remove("d");
                world.commit("Remove them");
                let told = world.look();
                assert_eq!(told.outcome, ExecutionOutcome::Blocked, "{told:?}");
                world.commit(&format!("Go on\n\n{}: {}", ApprovalKind::Deletes.trailer(), told.plan));
            }
            Act::Ask => {
                Act::Create.come_to_rest(world);
                run_sql(&world.databases().join("crash_staging_a.db"), "PRAGMA user_version = 7");
            }
            Act::Accept => {
                Act::Ask.prepare(world);
                world.look();
                let tip = world.tenant.tip(BRANCH).expect("people are asked");
                world.tenant.set_tip("main", Some(&tip));
            }
            Act::Refuse => {
                Act::Ask.prepare(world);
                world.look();
                world.tenant.set_tip(BRANCH, None);
            }
        }
    }

    fn come_to_rest(self, world: &mut World) {
        self.prepare(world);
        let told = world.look();
        assert_eq!(told.outcome, ExecutionOutcome::InSync, "{told:?}");
    }

    /// The databases that are there in the end, with their version.
    fn wanted(self) -> BTreeMap<&'static str, i64> {
        match self {
            Act::Create => [("a", 1), ("b", 1), ("c", 1)].into(),
            Act::Change => [("a", 2), ("b", 1)].into(),
            Act::Remove => [].into(),
            Act::Ask | Act::Accept => [("a", 7), ("b", 1), ("c", 1)].into(),
            Act::Refuse => [("a", 1), ("b", 1), ("c", 1)].into(),
        }
    }

    fn outcome(self) -> ExecutionOutcome {
        match self {
            Act::Ask => ExecutionOutcome::Blocked,
            Act::Create | Act::Change | Act::Remove | Act::Accept | Act::Refuse => ExecutionOutcome::InSync,
        }
    }

    /// The branches that are there in the end, beside `main`.
    fn branches(self) -> Vec<String> {
        match self {
            Act::Ask => vec![BRANCH.to_owned()],
            Act::Create | Act::Change | Act::Remove | Act::Accept | Act::Refuse => Vec::new(),
        }
    }
}

fn run_sql(file: &Path, sql: &'static str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(crate::harness::world::run_sql(file, sql));
}

/// How many looks there may be until one does nothing. What was open at a death may take one to be seen and one to be done.
const LOOKS: usize = 5;

/// Brings a world to rest whose process was killed, and says what is not as it should be.
fn recover(world: &World, wanted: ExecutionOutcome) -> Vec<String> {
    let told = world.look();
    let rests = told.rests && told.outcome == wanted;
    if rests { Vec::new() } else { vec![format!("it does not come to rest: {told:?}")] }
}

/// What must hold of the state, whatever the systems are.
async fn state_is_whole(world: &World, wanted: &BTreeSet<ResourceKey>, asked: bool) -> Vec<String> {
    let store = SqliteStore::open(world.folder.join("data"), Mode::ReadOnly).await.unwrap();
    let mut tx = store.read(Scope::Platform).await.unwrap();
    let mut broken = Vec::new();
    let known: BTreeSet<ResourceKey> = tx.inventory().await.unwrap().records.into_keys().collect();
    if known != *wanted {
        broken.push(format!("the inventory has {known:?}"));
    }
    let statuses = tx.statuses().await.unwrap();
    if !statuses.keys().eq(wanted) {
        broken.push(format!("there are statuses of {:?}", statuses.keys()));
    }
    for (key, status) in statuses.iter().filter(|_| !asked) {
        let ready = status.condition(ConditionType::Ready).map(|ready| ready.status);
        if ready != Some(ConditionStatus::True) {
            broken.push(format!("{key} is not ready: {status:?}"));
        }
    }
    let all = HistoryFilter { limit: 10_000, ..HistoryFilter::default() };
    let executions = tx.executions(&all).await.unwrap();
    if executions.iter().any(|execution| execution.outcome == ExecutionOutcome::Running) {
        broken.push("an execution is running still".to_owned());
    }
    let mut events = tx.events(&all).await.unwrap();
    events.reverse();
    if !events.is_sorted_by(|before, after| before.id < after.id) {
        broken.push("numbers of events do not rise".to_owned());
    }
    for execution in executions.iter().filter(|execution| execution.outcome != ExecutionOutcome::Interrupted) {
        let of = |kind: fn(&EventKind) -> bool| {
            events.iter().filter(|event| event.execution == execution.id && kind(&event.kind)).count()
        };
        let begun = of(|kind| matches!(kind, EventKind::StepStarted { .. }));
        let ended = of(|kind| matches!(kind, EventKind::StepDone { .. } | EventKind::StepFailed { .. }));
        if begun != ended {
            broken.push(format!("execution {} began {begun} steps and ended {ended}", execution.id));
        }
    }
    broken
}

/// The files of databases: each whole, marked once, and no other beside them.
async fn files_are_whole(world: &World, wanted: &BTreeMap<&str, i64>) -> Vec<String> {
    let mut broken = Vec::new();
    let mut found: BTreeMap<String, i64> = BTreeMap::new();
    for entry in std::fs::read_dir(world.databases()).into_iter().flatten().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let is_side = [".db-wal", ".db-shm"].iter().any(|end| name.ends_with(end));
        if name == ".plumb-root" || name.starts_with(".plumb-lock") || name.ends_with(".lock") || is_side {
            continue;
        }
        let Some(short) = name.strip_prefix("crash_staging_").and_then(|name| name.strip_suffix(".db")) else {
            broken.push(format!("{name} was left"));
            continue;
        };
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(entry.path());
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        let marks: Vec<String> =
            sqlx::query_scalar("SELECT mark FROM plumb_mark").fetch_all(&mut connection).await.unwrap();
        let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let key = ResourceKey::new(TENANT, "staging", Kind::Database, short);
        let is_ours = |text: &String| Mark::from_text(text).is_some_and(|mark| mark.key == key && !mark.unfinished);
        if marks.len() != 1 || !marks.iter().all(is_ours) {
            broken.push(format!("{name} bears {marks:?}"));
        }
        found.insert(short.to_owned(), version);
    }
    let wanted: BTreeMap<String, i64> = wanted.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect();
    if found != wanted {
        broken.push(format!("there is {found:?}, and not {wanted:?}"));
    }
    broken
}

/// Leftovers of git in the mirrors.
fn mirrors_are_clean(world: &World) -> Vec<String> {
    let mut folders = vec![world.folder.join("data/mirrors")];
    let mut broken = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|end| end == "lock" && path.parent().is_some_and(|p| !p.ends_with("mirrors")))
            {
                broken.push(format!("{} was left", path.display()));
            }
        }
    }
    broken
}

fn key(name: &str) -> ResourceKey {
    ResourceKey::new(TENANT, "staging", Kind::Database, name)
}

/// Visits every point of `act` whose number is `share` modulo `shares`; gives how many there were.
fn visit(act: Act, folder: &Path, share: usize, shares: usize, broken: &Mutex<Vec<String>>) -> usize {
    let (place, base) = (folder.join("world"), folder.join("base"));
    let mut world = World::make(&place, TENANT, FILES, "[files]");
    act.prepare(&mut world);
    copy(&place, &base);
    let whole = world.look();
    let points = whole.points.len();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for point in (0..points).filter(|point| point % shares == share) {
        copy(&base, &place);
        let mut wrong = match world.start(Some(point)) {
            Ended::Killed => Vec::new(),
            Ended::Lived(told) => vec![format!("it was not killed: {told:?}")],
        };
        wrong.extend(recover(&world, act.outcome()));
        let wanted = act.wanted();
        let keys = wanted.keys().map(|name| key(name)).collect();
        wrong.extend(runtime.block_on(state_is_whole(&world, &keys, act == Act::Ask)));
        wrong.extend(runtime.block_on(files_are_whole(&world, &wanted)));
        wrong.extend(mirrors_are_clean(&world));
        let branches = world.tenant.branches("plumb");
        if branches != act.branches() {
            wrong.push(format!("there are branches {branches:?}"));
        }
        if !wrong.is_empty() {
            let place = &whole.points[point];
            let told = format!("{act:?}, point {point} ({place}):\n    {}", wrong.join("\n    "));
            println!("{told}");
            broken.lock().unwrap().push(told);
        }
    }
    points
}

#[test]
fn a_process_that_is_killed_at_any_point_leaves_what_the_next_one_brings_to_rest() {
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let broken = Mutex::new(Vec::new());
    for act in ACTS {
        let points = std::thread::scope(|scope| {
            let broken = &broken;
            let workers: Vec<_> = (0..threads)
                .map(|share| {
                    scope.spawn(move || {
                        let folder = tempfile::tempdir().unwrap();
                        visit(act, folder.path(), share, threads, broken)
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).max().unwrap()
        });
        println!("{act:?}: {points} points, {:?} since the start", started.elapsed());
    }
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Every so many points are visited where each takes a server.
const EVERY: usize = 7;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_at_work_on_servers_leaves_what_the_next_one_brings_to_rest() {
    let (postgres, redis) =
        (PostgresServer::shared(), RedisServer::start(RedisOptions { aclfile: true, password: None }));
    let folder = tempfile::tempdir().unwrap();
    let login = folder.path().join("login");
    std::fs::write(&login, postgres.login().1).unwrap();
    let providers = format!(
        "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: pg}}\nspec: {{type: postgres, url: \"{}\", credentials: \
         {{file: \"{}\"}}, serves: [{{kind: Database}}]}}\n---\n\
         apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: redis}}\nspec: {{type: redis, url: \"{}\", serves: \
         [{{kind: Cache}}]}}\n",
        postgres.url(),
        login.display(),
        redis.url("default")
    );
    let (mut point, mut points, mut visited, mut broken) = (0, usize::MAX, 0, Vec::new());
    while point < points {
        // Nothing on a server can be put back to where it was, so each run is of a tenant of its own.
        let tenant = format!("crash{point}");
        let mut world = World::make(&folder.path().join("world"), &tenant, &providers, "[pg, redis]");
        world.write(Kind::Database, "orders", DELETE, "connectionLimit: 20, roles: [{name: app, access: readwrite}]");
        world.write(Kind::Cache, "sessions", DELETE, "categories: [read], dependsOn: [Database/orders]");
        world.commit("Add them");
        let ended = world.start(Some(point));
        let was_killed = matches!(ended, Ended::Killed);
        if let Ended::Lived(told) = ended {
            points = told.points.len();
        }
        // The locks of the dead run out by themselves after seconds.
        for lock in redis.cli(&["KEYS", "plumb:lock:*"]).lines().filter(|lock| !lock.is_empty()) {
            redis.cli(&["DEL", lock]);
        }
        let mut wrong = recover(&world, ExecutionOutcome::InSync);
        let wanted = [Kind::Database, Kind::Cache].into_iter().zip(["orders", "sessions"]);
        let wanted = wanted.map(|(kind, name)| ResourceKey::new(&tenant, "staging", kind, name)).collect();
        wrong.extend(state_is_whole(&world, &wanted, false).await);
        wrong.extend(servers_are_whole(postgres, &redis, &tenant).await);
        if !wrong.is_empty() {
            broken.push(format!("point {point}:\n    {}", wrong.join("\n    ")));
        }
        visited += usize::from(was_killed);
        point += EVERY;
    }
    println!("{visited} of {points} points, on PostgreSQL and Redis");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(visited > 5, "{visited}");
}

/// One database with its roles, and one user: each marked, and none beside them.
async fn servers_are_whole(postgres: &PostgresServer, redis: &RedisServer, tenant: &str) -> Vec<String> {
    use sqlx::Row;
    let mut broken = Vec::new();
    let names = format!("SELECT datname::text FROM pg_database WHERE datname LIKE '{tenant}\\_%'");
    let databases: Vec<String> = postgres.query("postgres", &names).await.iter().map(|row| row.get(0)).collect();
    if databases != [format!("{tenant}_staging_orders")] {
        broken.push(format!("there are databases {databases:?}"));
    }
    let roles = format!(
        "SELECT rolname::text, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname LIKE '{tenant}\\_%' ORDER BY 1"
    );
    let mut found = Vec::new();
    for row in postgres.query("postgres", &roles).await {
        let (name, comment): (String, Option<String>) = (row.get(0), row.get(1));
        if comment.as_deref().and_then(Mark::from_text).is_none_or(|mark| mark.unfinished) {
            broken.push(format!("the role {name} bears no mark, or one that is not whole"));
        }
        found.push(name);
    }
    if found != ["app", "owner"].map(|role| format!("{tenant}_staging_orders_{role}")) {
        broken.push(format!("there are roles {found:?}"));
    }
    let list = redis.cli(&["ACL", "LIST"]);
    let users: Vec<&str> = list.lines().filter(|line| line.contains(&format!("user {tenant}_"))).collect();
    if users.len() != 1 || !users[0].contains("plumb:mark:") {
        broken.push(format!("there are users {users:?}"));
    }
    broken
}

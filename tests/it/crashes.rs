//! Crash everywhere: a process of its own looks at a tenant and is killed before, or after, each call to a system or to git
//! and each write to its store, one after the other; the next one has to bring everything to where it would have come.
//!
//! The process is this very binary ([`child`]), which counts the points that it comes by and kills itself at the one that
//! it is told. Whatever it was about to do is not done, and whatever it did stays: the state, the files and git are real.
//! Another ([`serving`]) is a whole `plumb serve`, but for its page.

mod acts;
mod commands;
mod opening;
mod relay;
mod servers;
mod serving;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use plumb::engine::vault::{StoredSecrets, Vault, system_rng};
use plumb::engine::{Ask, Engine, LEASE, PreviewSource, Settings, Width};
use plumb::managers::{Cx, Found, ManagerError, Outcome, ResourceManager, connect};
use plumb::model::{
    Action, Depth, ExecutionOutcome, Kind, Observation, ProviderIdentity, Reason, Replica, ResourceKey, Step,
    SystemClock, Target, Trigger,
};
use plumb::store::postgres::PostgresStore;
use plumb::store::sqlite::SqliteStore;
use plumb::store::{Mode, Store};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::span::{Attributes, Id};
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use self::acts::{ACTS, Act, FILES};
use self::whole::{files_are_whole, mirrors_are_clean, nothing_is_done_twice, state_is_whole};
use crate::simulation::faulty::{ASKED, Call, Fate, FaultyStore, Points};
use crate::simulation::repository::Repository;

/// The folder of the world that the child looks at, and the point at which it kills itself; without one it lives.
const WORLD: &str = "PLUMB_CRASH_WORLD";
const POINT: &str = "PLUMB_CRASH_POINT";
/// How the last look of one that serves ends.
const UNTIL: &str = "PLUMB_CRASH_UNTIL";
const SIGKILL: i32 = 9;
const TENANT: &str = "crash";

/// In the folder of a world: the names of the resources whose steps fail for good.
const REFUSED: &str = "refused";
/// What was done to the systems, a line for each thing.
const EFFECTS: &str = "effects";
/// What the process was killed at.
const KILLED: &str = "killed";
/// The number of the process that looks.
const PROCESS: &str = "process";
/// The address of the PostgreSQL that the state is on, where it is not SQLite's.
const DATABASE: &str = "database";

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

/// On which side of a call a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

/// Counts the points that this process comes by, and kills it at one of them.
struct Killer {
    world: PathBuf,
    at: Option<usize>,
    came_by: Mutex<CameBy>,
    /// How many points there were.
    number: watch::Sender<usize>,
    /// How many signs of life its leases had, and whether a step is to wait for one still.
    beats: watch::Sender<usize>,
    waits_for_beat: AtomicBool,
}

#[derive(Default)]
struct CameBy {
    points: Vec<String>,
    /// How many calls have begun and not ended.
    under_way: usize,
    is_silent: bool,
}

/// A sign of life of a lease. It ends with its look, and may never hear an answer.
const BEAT: &str = "renew";

impl Killer {
    /// That of this process, which hears of all calls to git, and to files, from now on.
    fn of(world: &Path) -> Arc<Self> {
        let killer = Arc::new(Self {
            world: world.to_owned(),
            at: std::env::var(POINT).ok().map(|at| at.parse().unwrap()),
            came_by: Mutex::default(),
            number: watch::Sender::new(0),
            beats: watch::Sender::new(0),
            waits_for_beat: AtomicBool::new(false),
        });
        let listening = tracing_subscriber::registry().with(CallsInside(Arc::clone(&killer)));
        tracing::subscriber::set_global_default(listening).unwrap();
        killer
    }

    fn point(&self, side: Side, what: &str) {
        let mut came_by = self.came_by();
        if came_by.is_silent {
            return;
        }
        let name = match side {
            Side::Before => format!("before {what}"),
            Side::After => format!("after {what}"),
        };
        if self.at == Some(came_by.points.len()) {
            std::fs::write(self.world.join(KILLED), name).unwrap();
            return die();
        }
        came_by.points.push(name);
        match side {
            _ if what == BEAT => {}
            Side::Before => came_by.under_way += 1,
            Side::After => came_by.under_way -= 1,
        }
        let number = came_by.points.len();
        drop(came_by);
        self.number.send_replace(number);
        if (side, what) == (Side::After, BEAT) {
            self.beats.send_modify(|beats| *beats += 1);
        }
    }

    fn came_by(&self) -> MutexGuard<'_, CameBy> {
        self.came_by.lock().unwrap()
    }

    fn points(&self) -> Vec<String> {
        self.came_by().points.clone()
    }

    /// How many points it came by, as that grows.
    fn number(&self) -> watch::Receiver<usize> {
        self.number.subscribe()
    }

    fn is_under_way(&self) -> bool {
        self.came_by().under_way > 0
    }

    /// What it does from now on has no points; gives those that it came by.
    fn fall_silent(&self) -> Vec<String> {
        let mut came_by = self.came_by();
        came_by.is_silent = true;
        came_by.points.clone()
    }

    /// From now on the first step takes so long that its look gives a sign of life meanwhile.
    fn have_a_step_wait(&self) {
        self.waits_for_beat.store(true, Ordering::SeqCst);
    }

    async fn beat(&self) {
        if self.waits_for_beat.swap(false, Ordering::SeqCst) {
            let mut beats = self.beats.subscribe();
            beats.mark_unchanged();
            beats.changed().await.unwrap();
        }
    }
}

#[async_trait]
impl Points for Killer {
    async fn before(&self, call: Call, what: &'static str) -> Fate {
        if is_point(call, what) {
            self.point(Side::Before, what);
        }
        Fate::Go
    }

    async fn after(&self, call: Call, what: &'static str) -> Fate {
        if is_point(call, what) {
            self.point(Side::After, what);
        }
        Fate::Go
    }
}

/// Whether a call to the store changes something: who leads is a lock.
fn is_point(call: Call, what: &str) -> bool {
    call == Call::Write || matches!(what, "lead" | "still leads")
}

/// Hears of the calls to git, and of what is done to database files inside a step, which are spans of the log: each begins
/// and ends once.
struct CallsInside(Arc<Killer>);

impl CallsInside {
    fn is_one(metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && ["git.", "file."].iter().any(|kind| metadata.name().starts_with(kind))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for CallsInside {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Self::is_one(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        Self::is_one(metadata)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.0.point(Side::Before, attributes.metadata().name());
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).expect("it is closed after this");
        self.0.point(Side::After, span.name());
    }
}

/// Something that was done to a system, as whoever did it saw it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Effect {
    key: String,
    action: String,
    /// What was set, by field.
    to: Vec<String>,
}

/// A manager whose every call is a point, and which fails where the world says so.
struct Watched {
    inner: Arc<dyn ResourceManager>,
    killer: Arc<Killer>,
    world: PathBuf,
}

impl Watched {
    async fn call<T>(&self, what: &str, call: impl Future<Output = T>) -> T {
        self.killer.point(Side::Before, what);
        let done = call.await;
        self.killer.point(Side::After, what);
        done
    }

    async fn work(&self, step: &Step, cx: &Cx<'_>) -> Result<Outcome, ManagerError> {
        let refused = std::fs::read_to_string(self.world.join(REFUSED)).unwrap_or_default();
        if refused.lines().any(|name| name == step.key.name) {
            return Err(ManagerError::terminal(Reason::Rejected, "it is refused"));
        }
        self.killer.beat().await;
        let done = self.inner.apply(step, cx).await?;
        self.tell(step);
        Ok(done)
    }

    /// Writes down what was done; that a mark was brought up to date is nothing.
    fn tell(&self, step: &Step) {
        let Step { key, action, changes, rotate, .. } = step;
        if *action == Action::Update && changes.is_empty() && rotate.is_none() {
            return;
        }
        let to = changes.iter().map(|change| format!("{}: {:?}", change.path, change.to));
        let effect = Effect { key: key.to_string(), action: action.to_string(), to: to.collect() };
        let line = serde_json::to_string(&effect).unwrap() + "\n";
        let mut file = std::fs::File::options().append(true).create(true).open(self.world.join(EFFECTS)).unwrap();
        file.write_all(line.as_bytes()).unwrap();
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
        self.call(&format!("apply: {} {}", step.action, step.key), self.work(step, cx)).await
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
    std::fs::write(world.join(PROCESS), std::process::id().to_string()).unwrap();
    let killer = Killer::of(&world);
    let (engine, _) = engine_of(&world, &killer, LEASE).await;
    let in_force = engine.platform().await.unwrap();
    let ask = Ask { trigger: Trigger::CommandLine, width: Width::Deep };
    let tenant = std::fs::read_to_string(world.join("tenant")).unwrap();
    let mut points = None;
    let mut looks = 0;
    let told = loop {
        let report = engine.reconcile(&in_force, &tenant, ask).await.unwrap();
        looks += 1;
        points.get_or_insert_with(|| killer.points());
        let left = engine.preview(&in_force, &tenant, &PreviewSource::Head).await.unwrap().plan;
        let failed = report.failed.into_iter();
        let told = Told {
            outcome: report.outcome,
            rests: report.done == 0 && left.steps.is_empty() && left.settles.is_empty(),
            failed: failed.map(|(key, (reason, message))| format!("{key}: {reason}: {message}")).collect(),
            plan: left.id.0.clone(),
            points: points.clone().unwrap_or_default(),
        };
        if told.rests || killer.at.is_some() || looks == LOOKS {
            break told;
        }
    };
    std::fs::write(world.join("told"), serde_json::to_vec(&told).unwrap()).unwrap();
}

/// The engine of a process in this folder, all of whose calls are points, and its store, where none is.
async fn engine_of(world: &Path, killer: &Arc<Killer>, lease: Duration) -> (Engine, Arc<dyn Store>) {
    let data = world.join("data");
    let inner = open_store(world, Mode::Reconcile).await;
    let store: Arc<dyn Store> = Arc::new(FaultyStore::new(Arc::clone(&inner), killer.clone()));
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
        lease,
    };
    let (watcher, folder) = (Arc::clone(killer), world.to_owned());
    let engine = Engine::new(settings, store, Arc::new(secrets), Arc::new(SystemClock), Arc::new(|_| {}))
        .with_managers(Arc::new(move |endpoint| {
            let (inner, killer, world) = (connect(endpoint)?, Arc::clone(&watcher), folder.clone());
            Ok(Arc::new(Watched { inner, killer, world }) as Arc<dyn ResourceManager>)
        }));
    (engine, inner)
}

/// The state of the world in this folder.
async fn open_store(world: &Path, mode: Mode) -> Arc<dyn Store> {
    match database(world) {
        Some(url) => Arc::new(PostgresStore::open(&url, mode).await.unwrap()),
        None => Arc::new(SqliteStore::open(world.join("data"), mode).await.unwrap()),
    }
}

/// Works on the state of the world in this folder between two processes: it is closed afterwards, so that the folder can be
/// copied.
async fn with_store<T>(world: &Path, mode: Mode, work: impl AsyncFnOnce(&dyn Store) -> T) -> T {
    match database(world) {
        Some(url) => work(&PostgresStore::open(&url, mode).await.unwrap()).await,
        None => {
            let store = SqliteStore::open(world.join("data"), mode).await.unwrap();
            let done = work(&store).await;
            store.close().await;
            done
        }
    }
}

fn database(world: &Path) -> Option<String> {
    std::fs::read_to_string(world.join(DATABASE)).ok()
}

/// A platform, a tenant and their state in one folder. What is known of it has its path in it, so a copy of it is put back
/// to where it was made.
struct World {
    folder: PathBuf,
    tenant: Repository,
    files: BTreeMap<String, String>,
    commits: Vec<String>,
}

/// How a child ended.
#[derive(Debug)]
enum Ended {
    Killed { at: String },
    Lived(Told),
}

/// What a child does until it rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// It looks.
    Look,
    /// It serves, until a look has ended so.
    Serve { until: ExecutionOutcome },
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
            "apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {{name: crash}}\nspec: {{id: crash-platform, pollInterval: 100ms}}\n---\n{providers}---\n\
             apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  repository: {{url: \
             \"{}\"}}\n  environments: [staging]\n  providers: {allowed}\n",
            tenant.display()
        );
        platform.commit(&[("platform.yaml".to_owned(), text)].into(), "Start", at(0));
        Self {
            folder: folder.to_owned(),
            tenant: Repository::make(&tenant),
            files: BTreeMap::new(),
            commits: Vec::new(),
        }
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
        let number = self.commits.len() + 1;
        let mut files = self.files.clone();
        files.insert("README.md".to_owned(), number.to_string());
        self.commits.push(self.tenant.commit(&files, message, at(60 * number as i64)));
    }

    /// From now on the steps of these resources fail for good, and no others.
    fn refuse(&self, names: &[&str]) {
        std::fs::write(self.folder.join(REFUSED), names.join("\n")).unwrap();
    }

    /// What was done to the systems.
    fn effects(&self) -> Vec<Effect> {
        let text = std::fs::read_to_string(self.folder.join(EFFECTS)).unwrap_or_default();
        let mut effects: Vec<Effect> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        effects.sort();
        effects
    }

    fn start(&self, work: Work, point: Option<usize>) -> Ended {
        let told = self.folder.join("told");
        let _ = std::fs::remove_file(&told);
        let mut command = Command::new(std::env::current_exe().unwrap());
        let child = match work {
            Work::Look => "crashes::child",
            Work::Serve { until } => {
                command.env(UNTIL, serde_json::to_string(&until).unwrap());
                "crashes::serving::child"
            }
        };
        command.args(["--exact", child, "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(WORLD, &self.folder).env_remove(POINT).stdin(Stdio::null());
        command.envs(point.map(|point| (POINT, point.to_string())));
        let output = command.output().unwrap();
        match (was_killed(output.status), std::fs::read(told)) {
            // Not all that kill say at what.
            (true, _) => Ended::Killed { at: std::fs::read_to_string(self.folder.join(KILLED)).unwrap_or_default() },
            (false, Ok(told)) => Ended::Lived(serde_json::from_slice(&told).unwrap()),
            (false, Err(_)) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// A look that nobody kills.
    fn look(&self) -> Told {
        self.work(Work::Look)
    }

    /// What a process does that nobody kills.
    fn work(&self, work: Work) -> Told {
        match self.start(work, None) {
            Ended::Lived(told) => told,
            Ended::Killed { at } => panic!("nobody killed it, {at}"),
        }
    }

    fn databases(&self) -> PathBuf {
        self.folder.join("data/databases")
    }
}

fn kill(process: u32) {
    let _ = Command::new("kill").args(["-KILL", &process.to_string()]).status();
}

/// Kills this process.
fn die() {
    kill(std::process::id());
    // The signal is on its way.
    std::thread::sleep(Duration::from_secs(60));
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

/// Runs a future to its end.
fn run_here<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn run_sql(file: &Path, sql: &'static str) {
    run_here(crate::harness::world::run_sql(file, sql));
}

/// How many looks there may be until one does nothing. What was open at a death may take one to be seen and one to be done.
const LOOKS: usize = 5;

/// Brings a world to rest whose process was killed, and says what is not as it should be.
fn recover(world: &World, work: Work, wanted: ExecutionOutcome) -> Vec<String> {
    let told = world.work(work);
    // What failed is tried again at each look that somebody asks for, so with that it never does nothing.
    let rests = (told.rests || wanted == ExecutionOutcome::Failed) && told.outcome == wanted;
    if rests { Vec::new() } else { vec![format!("it does not come to rest: {told:?}")] }
}

fn key(name: &str) -> ResourceKey {
    ResourceKey::new(TENANT, "staging", Kind::Database, name)
}

/// What is not as it should be where `act` has come to rest, and these things were to be done once.
fn what_is_broken(act: Act, world: &World, effects: Vec<Effect>) -> Vec<String> {
    let wanted = act.wanted();
    let keys = wanted.keys().map(|name| key(name)).collect();
    let mut broken = run_here(state_is_whole(world, &keys, &keys, &act.rest()));
    broken.extend(run_here(files_are_whole(world, &wanted)));
    if act != Act::Overtake {
        // There it follows from when the process died what is to be done.
        broken.extend(nothing_is_done_twice(world, effects));
    }
    broken.extend(mirrors_are_clean(world));
    let branches = world.tenant.branches("plumb");
    if branches != act.branches() {
        broken.push(format!("there are branches {branches:?}"));
    }
    broken
}

/// Visits every point of `act` whose number is `share` modulo `shares`; gives all that there were.
fn visit(act: Act, folder: &Path, share: usize, shares: usize, broken: &Mutex<Vec<String>>) -> Vec<String> {
    let (place, base) = (folder.join("world"), folder.join("base"));
    let mut world = World::make(&place, TENANT, FILES, "[files]");
    act.prepare(&mut world);
    copy(&place, &base);
    let whole = world.look();
    let effects = world.effects();
    let (files, commits) = (world.files.clone(), world.commits.clone());
    for point in (0..whole.points.len()).filter(|point| point % shares == share && act.visits(&whole.points[*point])) {
        copy(&base, &place);
        (world.files, world.commits) = (files.clone(), commits.clone());
        let mut wrong = match world.start(Work::Look, Some(point)) {
            Ended::Killed { .. } => Vec::new(),
            Ended::Lived(told) => vec![format!("it was not killed: {told:?}")],
        };
        act.overtake(&mut world);
        wrong.extend(recover(&world, Work::Look, act.outcome()));
        wrong.extend(what_is_broken(act, &world, effects.clone()));
        if !wrong.is_empty() {
            let place = &whole.points[point];
            let told = format!("{act:?}, point {point} ({place}):\n    {}", wrong.join("\n    "));
            println!("{told}");
            broken.lock().unwrap().push(told);
        }
    }
    whole.points
}

/// Writes that no act comes by, and the tests that do.
const ELSEWHERE: [(&str, &str); 6] = [
    ("put_circuit", "crashes::serving"),
    ("remove_circuit", "crashes::serving"),
    ("prune_audit", "crashes::serving"),
    ("make_months", "crashes::serving"),
    ("put_secret", "crashes::servers"),
    ("prune_history", "crashes::serving"),
];

#[test]
fn a_process_that_is_killed_at_any_point_leaves_what_the_next_one_brings_to_rest() {
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let broken = Mutex::new(Vec::new());
    let mut came_by = BTreeSet::new();
    for act in ACTS {
        let points = std::thread::scope(|scope| {
            let broken = &broken;
            let workers: Vec<_> = (0..threads)
                .map(|share| {
                    scope.spawn(move || {
                        let folder = crate::simulation::folder();
                        visit(act, folder.path(), share, threads, broken)
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).max_by_key(Vec::len).unwrap()
        });
        println!("{act:?}: {} points, {:?} since the start", points.len(), started.elapsed());
        came_by.extend(points);
    }
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let writes = ASKED.iter().filter(|(call, _)| *call == Call::Write).map(|(_, name)| *name);
    let never: Vec<&str> = writes.filter(|name| !came_by.contains(&format!("before {name}"))).collect();
    assert_eq!(never, ELSEWHERE.map(|(name, _)| name), "each write is visited here or there");
}

//! One run: replicas of the engine over one store and one set of systems, people who commit, and a driver that lets things
//! go wrong for a while and then asks whether everything is as it should be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use plumb::engine::schedule::Schedule;
use plumb::engine::vault::{StoredSecrets, Vault};
use plumb::engine::{Ask, Engine, PreviewSource, Settings, Width};
use plumb::model::{
    ApprovalKind, Clock, DriftMode, Mark, Plan, PlatformId, ProviderType, Reason, Replica, ResourceKey, Trigger,
};
use plumb::source::{Mirror, Remote};
use plumb::store::{Queue, Scope, Store};
use rand::SeedableRng;
use rand::rngs::StdRng;
use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::chaos::{Chaos, Life, OfLife, Rates};
use super::faulty::{FaultyStore, never};
use super::invariants;
use super::memory::{MOST_LOOKS, MemoryStore};
use super::repository::Repository;
use super::system::{Object, PLATFORM, Refusal, System, Windows, another, blank, name_of};
use super::wish::{CACHE, Document, ENVIRONMENT, FILES, GUEST, NAMES, OTHER, PG, TENANT, Wish, key_of};

/// How many processes share the store.
const REPLICAS: usize = 2;
/// Long enough for the slowest look, as in production.
const LEASE: Duration = Duration::from_secs(15);
/// How often, at most, a person is asked before everything must be in plumb.
const ROUNDS: usize = 12;
/// How many looks of a run are planned again.
const REPLAYS: usize = 3;
/// How long a look may take when nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a process that is told to stop has until it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(120);
/// Another tenant, of which nothing is known but that somebody works on it.
const NEIGHBOUR: &str = "neighbour";

/// What all runs of one thread share: a folder, and the platform's repository in it.
pub struct Ground {
    folder: PathBuf,
    platform: Repository,
    platform_mirror: PathBuf,
}

/// How many steps run at once, by provider and for the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    pg: usize,
    files: usize,
    tenant: usize,
}

impl Ground {
    /// Makes the platform's repository in `folder`.
    pub fn new(folder: &Path) -> Self {
        let platform = Repository::make(&folder.join("platform.git"));
        let url = folder.join("platform.git").display().to_string();
        let mirror = Mirror::open(&folder.join("data/mirrors"), Remote::new(url)).unwrap();
        Self { folder: folder.to_owned(), platform, platform_mirror: mirror.path().to_owned() }
    }

    /// What the platform says.
    fn platform(&self, windows: Windows, limits: Limits) -> BTreeMap<String, String> {
        let Limits { pg, files, tenant } = limits;
        let text = format!(
            "apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {{name: sim}}\nspec:\n  id: {PLATFORM}\n  \
             pollInterval: 20s\n  drift: {{schedule: \"* * * * *\", jitter: 5s}}\n{}---\n\
             apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: {PG}}}\nspec: {{type: postgres, url: \
             \"postgres://plumb@pg.invalid:5432/postgres\", maxConcurrency: {pg}}}\n---\n\
             apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: {FILES}}}\nspec: {{type: sqlite, url: \
             \"sqlite:databases\", maxConcurrency: {files}}}\n---\n\
             apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: {CACHE}}}\nspec: {{type: redis, url: \
             \"redis://default@cache.invalid:6379\"}}\n---\n\
             apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: {TENANT}}}\nspec:\n  repository: {{url: \
             \"{}\"}}\n  environments: [{ENVIRONMENT}]\n  providers: [{PG}, {FILES}, {CACHE}]\n  drift: revert\n  \
             maxConcurrency: {tenant}\n",
            windows.spec(),
            self.folder.join("tenant.git").display()
        );
        [("platform.yaml".to_owned(), text)].into()
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Forgets what the run before left.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(self.data().join("mirrors")) else { return };
        for entry in entries.map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() && path != self.platform_mirror {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
    }
}

/// When every run begins.
fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
}

/// The runtime's time, which only passes when nothing else happens.
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> DateTime<Utc> {
        start() + TimeDelta::from_std(self.0.elapsed()).expect("a run is short")
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What broke, empty when nothing did.
    pub broken: Vec<String>,
    /// A hash over everything that was told and all that is live.
    pub hash: String,
    pub looks: usize,
    pub events: usize,
    pub effects: usize,
    pub faults: usize,
    pub commits: usize,
    pub lives: usize,
    /// How often a change was undone.
    pub undone: usize,
    /// The timeline.
    pub told: Vec<String>,
}

/// Runs `seed` to its end.
pub fn run(seed: u64, ground: &Ground) -> Ended {
    ground.sweep();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let ended = runtime.block_on(async { World::new(seed, ground).live().await });
    // Processes that died wait for ever.
    runtime.shutdown_background();
    ended
}

struct World<'a> {
    seed: u64,
    ground: &'a Ground,
    chaos: Arc<Chaos>,
    deaths: mpsc::UnboundedReceiver<Life>,
    store: MemoryStore,
    system: Arc<System>,
    repository: Repository,
    wish: Wish,
    clock: Arc<PausedClock>,
    lives: Life,
    /// The process of each replica, and when the next one begins where it died.
    replicas: [Option<Process>; REPLICAS],
    reborn: [Option<Instant>; REPLICAS],
    windows: Windows,
    limits: Limits,
    deeds: Deeds,
    /// The number of the last look that something may have gone wrong in.
    calm_since: i64,
}

/// A process that lives.
struct Process {
    life: Life,
    /// Tells it to stop; `None` once it was told.
    stop: Option<oneshot::Sender<()>>,
    /// When it is killed, once it was told, and how much had gone wrong by then.
    killed_at: Option<(Instant, usize)>,
}

impl<'a> World<'a> {
    fn new(seed: u64, ground: &'a Ground) -> Self {
        let (chaos, deaths) = Chaos::new(seed);
        let chaos = Arc::new(chaos);
        let store = MemoryStore::new(start());
        let windows =
            *chaos.pick(&[Windows::Always, Windows::Always, Windows::DeniedInEvenMinutes, Windows::AllowedEachMinute]);
        let limits = some_limits(&chaos);
        if ground.platform.tip("main").is_some() {
            ground.platform.set_tip("main", None);
        }
        ground.platform.commit(&ground.platform(windows, limits), "Start", start());
        let system = Arc::new(System::new(Arc::clone(&chaos), store.clone(), windows, start()));
        {
            let mut state = system.state();
            let name = key_of(GUEST, plumb::model::Kind::Database).object_name(63);
            state.plant(PG, &name, blank(ProviderType::Postgres, &name), None);
            let key = key_of(OTHER, plumb::model::Kind::Cache);
            let name = key.object_name(63);
            let mark =
                Mark { platform: PlatformId("another".into()), key, hashes: Default::default(), unfinished: false };
            state.plant(CACHE, &name, blank(ProviderType::Redis, &name), Some(mark));
            state.plant(FILES, "somebody_elses", blank(ProviderType::Sqlite, "x"), None);
        }
        Self {
            seed,
            ground,
            store,
            system,
            repository: Repository::make(&ground.folder.join("tenant.git")),
            wish: Wish::first(&chaos),
            chaos,
            deaths,
            clock: Arc::new(PausedClock(Instant::now())),
            lives: 0,
            replicas: [const { None }; REPLICAS],
            reborn: [None; REPLICAS],
            windows,
            limits,
            deeds: Deeds::default(),
            calm_since: 0,
        }
    }

    async fn live(mut self) -> Ended {
        self.commit("Start");
        for at in 0..REPLICAS {
            self.start(at).await;
        }
        self.pass(Duration::from_secs(8)).await;
        for _ in 0..4 + self.chaos.below(8) {
            self.chaos.set_rates(self.some_rates());
            self.act().await;
            let wait = self.chaos.millis(0, 20_000);
            self.pass(wait).await;
        }
        self.calm_down().await;
        let broken = match self.come_to_rest().await {
            Ok(()) => self.check().await,
            Err(broken) => broken,
        };
        self.end(broken)
    }

    /// How bad the next while is.
    fn some_rates(&self) -> Rates {
        match self.chaos.below(4) {
            0 => Rates { delay: 0.1, ..Rates::CALM },
            1 => Rates { delay: 0.1, error: 0.01, lost_answer: 0.01, sick: 0.05, ..Rates::CALM },
            2 => Rates { delay: 0.1, error: 0.002, lost_answer: 0.002, death: 0.005, sick: 0.01, pause: 0.001 },
            _ => Rates { delay: 0.3, error: 0.02, lost_answer: 0.02, death: 0.01, sick: 0.05, pause: 0.002 },
        }
    }

    /// One thing that somebody does, or that breaks.
    async fn act(&mut self) {
        match self.chaos.below(26) {
            0..7 => {
                // A burst: nobody may see the ones in between.
                for _ in 0..1 + self.chaos.below(3) {
                    self.wish.change(&self.chaos);
                    self.commit("Change");
                    if self.chaos.chance(0.3) {
                        let wait = self.chaos.millis(1, 3000);
                        self.pass(wait).await;
                    }
                }
            }
            7..10 => self.change_by_hand(),
            10 => self.lose_by_hand(),
            11 | 12 => {
                let server = *self.chaos.pick(&[PG, FILES, CACHE]);
                let mut state = self.system.state();
                let server = state.servers.entry(server.to_owned()).or_default();
                server.down = !server.down;
            }
            13 => {
                self.store.end_lease(TENANT);
            }
            // A look that has seen the one server and works on the other could not tell them apart.
            15 | 16 if !self.store.is_held(TENANT) && !self.chaos.is_anyone_paused() => {
                let provider = *self.chaos.pick(&[PG, FILES, CACHE]);
                if self.store.knows(provider) {
                    let mut state = self.system.state();
                    let server = state.servers.entry(provider.to_owned()).or_default();
                    server.replaced = !server.replaced;
                }
            }
            14 => {
                let at = self.chaos.below(REPLICAS);
                if let Some(process) = &self.replicas[at] {
                    self.chaos.kill(process.life);
                }
            }
            17..20 => {
                self.refuse();
                self.wish.change_together(&self.chaos);
                self.commit("Change together");
            }
            20 | 21 => self.tell_to_stop(),
            22 => self.retry().await,
            23 => {
                self.limits = some_limits(&self.chaos);
                let files = self.ground.platform(self.windows, self.limits);
                self.ground.platform.commit(&files, "Other limits", self.clock.now());
            }
            24 => self.crowd().await,
            _ => self.ask(Width::Deep).await,
        }
    }

    /// Somebody changes a field of an object of ours.
    fn change_by_hand(&self) {
        let nobody_looks = !self.store.is_held(TENANT) && !self.chaos.is_anyone_paused();
        let mut state = self.system.state();
        let owned: Vec<(String, String)> = state
            .owned()
            .into_values()
            .flatten()
            .filter(|(.., object)| object.is_at_rest() || nobody_looks)
            .map(|(server, name, _)| (server.to_owned(), name.to_owned()))
            .collect();
        if owned.is_empty() {
            return;
        }
        let (server, name) = self.chaos.pick(&owned);
        let (path, value) = another(type_of(server), &self.chaos);
        let server = state.servers.get_mut(server).expect("it is there");
        server.objects.get_mut(name).expect("it is there").fields.insert(path, value);
    }

    /// Somebody deletes an object of ours.
    fn lose_by_hand(&self) {
        let mut state = self.system.state();
        let owned: Vec<(ResourceKey, String, String)> = state
            .owned()
            .into_iter()
            .flat_map(|(key, all)| {
                all.into_iter().map(move |(server, name, object)| (key.clone(), server, name, object))
            })
            .filter(|(.., object)| object.mark.as_ref().is_some_and(|mark| !mark.unfinished))
            .map(|(key, server, name, _)| (key, server.to_owned(), name.to_owned()))
            .collect();
        if owned.is_empty() {
            return;
        }
        let (key, server, name) = self.chaos.pick(&owned).clone();
        state.servers.get_mut(&server).expect("it is there").objects.remove(&name);
        let heads = state.heads.len();
        // Where nobody recorded that it was there, nobody can know that it is gone.
        if self.store.has_record(&key) {
            state.lost.insert(key, heads);
        }
    }

    /// A server refuses the steps of some resource for good from now on, or no more: mostly one that goes with others.
    fn refuse(&self) {
        let documents = || self.wish.documents.values();
        let together: Vec<&Document> = documents().filter(|document| document.goes_with_others()).collect();
        let some = if together.is_empty() { documents().collect() } else { together };
        if some.is_empty() {
            return;
        }
        let (key, refusal) = (self.chaos.pick(&some).key(), *self.chaos.pick(&[Refusal::AtOnce, Refusal::HalfWay]));
        let mut state = self.system.state();
        if state.refused.remove(&key).is_none() {
            state.refused.insert(key, refusal);
        }
    }

    /// Somebody tells a process to stop, as a rolling restart does.
    fn tell_to_stop(&mut self) {
        let at = self.chaos.below(REPLICAS);
        if let Some(process) = &mut self.replicas[at]
            && let Some(stop) = process.stop.take()
        {
            // One that has ended by itself hears nothing.
            let _ = stop.send(());
            process.killed_at = Some((Instant::now() + STOP_PATIENCE, self.chaos.faults()));
        }
    }

    /// Somebody has all that failed tried again.
    async fn retry(&mut self) {
        let by = format!("person {}", self.deeds.retries.len());
        let keys =
            plumb::engine::retry(&self.store, &*self.clock, TENANT, plumb::engine::Which::All, &by).await.unwrap().keys;
        self.deeds.retries.push((by, keys));
        self.ask(Width::Changed).await;
    }

    /// Somebody works on another tenant, and on all that a provider has room for, and is not heard of again.
    async fn crowd(&self) {
        let ask = Ask { trigger: Trigger::Request, width: Width::Deep };
        let (holder, length) = (Replica(NEIGHBOUR.to_owned()), self.chaos.millis(1_000, 30_000));
        let claim = self.store.claim_tenant(NEIGHBOUR, ask, &holder, length).await.unwrap();
        let provider = *self.chaos.pick(&[PG, FILES]);
        let limit = if provider == PG { self.limits.pg } else { self.limits.files };
        if let Some(claim) = claim {
            while self.store.take_slot(provider, limit, &claim.lease).await.unwrap().is_some() {}
        }
    }

    /// Commits what is wanted.
    fn commit(&mut self, message: &str) {
        let mut files = self.wish.files();
        files.insert("README.md".to_owned(), format!("{}\n", self.deeds.commits.len()));
        self.deeds.commits.push(self.repository.commit(&files, message, self.clock.now()));
        self.system.state().heads.push(self.wish.clone());
    }

    /// Starts the process of a replica anew.
    async fn start(&mut self, at: usize) {
        self.lives += 1;
        let life = self.lives;
        let (stop, told) = oneshot::channel();
        let process = Process { life, stop: Some(stop), killed_at: None };
        (self.replicas[at], self.reborn[at]) = (Some(process), None);
        let points = Arc::new(OfLife { chaos: Arc::clone(&self.chaos), life });
        let store: Arc<dyn Store> = Arc::new(FaultyStore::new(Arc::new(self.store.clone()), points));
        let opening = self.opening(life, Arc::clone(&store));
        let (chaos, system) = (Arc::clone(&self.chaos), Arc::clone(&self.system));
        tokio::spawn(async move {
            let engine = loop {
                // A process that cannot open its store ends, and is started again.
                match opening.open().await {
                    Some(engine) => break Arc::new(engine),
                    None => tokio::time::sleep(Duration::from_secs(2)).await,
                }
            };
            let (schedule, _looks, _ready) = Schedule::new(engine);
            let stopped = async {
                if told.await.is_err() {
                    // Nobody is left to tell it.
                    never::<()>().await;
                }
                system.state().stopping.insert(life);
            };
            schedule.run(stopped).await;
            chaos.kill(life);
        });
    }

    fn opening(&self, life: Life, store: Arc<dyn Store>) -> Opening {
        Opening {
            settings: Settings {
                platform: self.ground.folder.join("platform.git").display().to_string(),
                platform_branch: Some("main".to_owned()),
                platform_token: None,
                data_dir: self.ground.data(),
                replica: Replica(name_of(life)),
                person: "somebody".to_owned(),
                lease: LEASE,
            },
            seed: self.seed.wrapping_mul(1000).wrapping_add(u64::from(life)),
            life,
            store,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            system: Arc::clone(&self.system),
        }
    }

    /// Lets time pass, and processes that died begin anew.
    async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let kills = self.replicas.iter().flatten().filter_map(|process| process.killed_at).map(|(at, _)| at);
            let next = self.reborn.iter().flatten().copied().chain(kills).min().unwrap_or(until).min(until);
            tokio::select! {
                biased;
                Some(life) = self.deaths.recv() => {
                    let is_of = |process: &Option<Process>| process.as_ref().is_some_and(|process| process.life == life);
                    if let Some(at) = self.replicas.iter().position(is_of) {
                        self.replicas[at] = None;
                        self.reborn[at] = Some(Instant::now() + self.chaos.millis(100, 15_000));
                    }
                }
                () = tokio::time::sleep_until(next) => {
                    self.kill_who_does_not_stop();
                    let due = |reborn: &Option<Instant>| reborn.is_some_and(|at| at <= Instant::now());
                    while let Some(at) = self.reborn.iter().position(due) {
                        self.start(at).await;
                    }
                    if Instant::now() >= until {
                        return;
                    }
                }
            }
        }
    }

    /// Invariant: a process that is told to stop ends, if nothing goes wrong.
    fn kill_who_does_not_stop(&mut self) {
        let faults = self.chaos.faults();
        for process in self.replicas.iter_mut().flatten() {
            if let Some((_, before)) = process.killed_at.take_if(|(at, _)| *at <= Instant::now()) {
                self.chaos.kill(process.life);
                if faults == before {
                    let what = format!("life {} was told to stop, and went on for {STOP_PATIENCE:?}", process.life);
                    self.system.state().violations.push(what);
                }
            }
        }
    }

    async fn ask(&mut self, width: Width) {
        let ask = Ask { trigger: Trigger::Request, width };
        let by = format!("asker {}", self.deeds.asks.len());
        let tenants = [TENANT.to_owned()];
        plumb::engine::request_looks(&self.store, &*self.clock, &tenants, ask, &by).await.unwrap();
        self.deeds.asks.push(by);
    }
}

impl World<'_> {
    /// Nothing goes wrong any more, and every process is up.
    async fn calm_down(&mut self) {
        self.chaos.set_rates(Rates::CALM);
        for server in self.system.state().servers.values_mut() {
            (server.down, server.replaced) = (false, false);
        }
        // Longer than anybody leaves a provider alone that did not answer.
        self.pass(Duration::from_secs(90)).await;
        let place = self.store.place(TENANT).await.expect("it answers");
        self.calm_since = place.map_or(0, |place| place.generation);
    }

    /// Lets what was undone come to rest, and then everything.
    async fn come_to_rest(&mut self) -> Result<(), Vec<String>> {
        if self.store.read(Scope::Platform).await.expect("it answers").sagas().await.expect("it answers").is_empty() {
            return self.converge().await;
        }
        // While what failed would fail still.
        self.settle().await?;
        let inspector = self.inspector().await;
        let in_force = inspector.platform().await.map_err(|error| vec![format!("no platform: {error}")])?;
        let preview = inspector.preview(&in_force, TENANT, &PreviewSource::Head).await;
        let plan = preview.map_err(|error| vec![format!("no plan: {error}")])?.plan;
        let sagas = self.store.read(Scope::Platform).await.expect("it answers").sagas().await.expect("it answers");
        let broken = invariants::what_was_undone_is_as_it_was(&self.system.state(), &self.store, &sagas, &plan);
        if broken.is_empty() { self.converge().await } else { Err(broken) }
    }

    /// Asks people until everything is in plumb.
    async fn converge(&mut self) -> Result<(), Vec<String>> {
        // What nobody can decide for them, people put right: documents that cannot be read, drift that is only recorded.
        self.wish.documents.values_mut().for_each(Document::put_right);
        self.system.state().refused.clear();
        self.commit("Put right");
        let inspector = self.inspector().await;
        let mut plan = None;
        for round in 0..ROUNDS {
            self.settle().await?;
            let in_force = inspector.platform().await.map_err(|error| vec![format!("no platform: {error}")])?;
            let preview = inspector.preview(&in_force, TENANT, &PreviewSource::Head).await;
            let now = preview.map_err(|error| vec![format!("no plan: {error}")])?.plan;
            if now.is_in_sync() && now.settles.is_empty() {
                return Ok(());
            }
            let opening = now.blocked.iter().filter(|blocked| blocked.reason == Reason::WindowClosed);
            if let Some(until) = opening.filter_map(|blocked| blocked.until).max() {
                let wait = (until - self.clock.now()).to_std().unwrap_or_default();
                self.pass(wait + Duration::from_secs(1)).await;
                continue;
            }
            self.decide(&now, round);
            plan = Some(now);
        }
        Err(vec![format!("it does not converge: {}", told(&plan.expect("there were rounds")))])
    }

    /// Waits until a deep look at the tenant is over.
    async fn settle(&mut self) -> Result<(), Vec<String>> {
        self.ask(Width::Deep).await;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            self.pass(Duration::from_secs(1)).await;
            let place = self.store.place(TENANT).await.expect("it answers").expect("it was asked for");
            if !place.has_look_coming() {
                return Ok(());
            }
        }
        let place = self.store.place(TENANT).await.expect("it answers");
        Err(vec![format!("a look does not end: {place:?}")])
    }

    /// What people do about what is held.
    fn decide(&mut self, plan: &Plan, round: usize) {
        for kind in [ApprovalKind::Deletes, ApprovalKind::Create] {
            let waiting = plan.awaiting(kind);
            if waiting.is_empty() {
                continue;
            }
            match kind {
                ApprovalKind::Create => self.system.state().approved.extend(waiting),
                ApprovalKind::Deletes => {
                    let orphans = plan.blocked.iter().filter(|blocked| blocked.reason == Reason::Orphaned);
                    self.system.state().let_go.extend(orphans.map(|blocked| blocked.key.clone()));
                }
            }
            self.commit(&format!("Go on\n\n{}: {}", kind.trailer(), plan.id));
            let commit = self.deeds.commits.last().expect("it was just made").clone();
            return self.deeds.approvals.push((commit, kind));
        }
        let mut changed = false;
        for blocked in &plan.blocked {
            let key = &blocked.key;
            let name = NAMES.iter().find(|(name, ..)| *name == key.name).expect("a name").0;
            match blocked.reason {
                // It holds data: it is wanted after all.
                Reason::DeletionProtected | Reason::PossibleRename if self.wish.get(key).is_none() => {
                    changed |= self.want_again(key);
                }
                Reason::ReplaceProtected => {
                    if let Some(document) = self.wish.get_mut(key) {
                        document.spec.insert("pageSize", 4096.into());
                        let size = self
                            .system
                            .state()
                            .owned()
                            .get(key)
                            .and_then(|all| all[0].2.fields.get("/spec/pageSize").cloned());
                        document.spec.insert("pageSize", size.unwrap_or(4096.into()));
                        changed = true;
                    }
                }
                Reason::NotOwned => {
                    if let Some(document) = self.wish.get_mut(key) {
                        document.annotations.insert("adopt", "true".to_owned());
                        changed = true;
                    }
                }
                Reason::OwnedByOther => {
                    self.wish.remove(name);
                    changed = true;
                }
                Reason::Suspended => {
                    match self.wish.get_mut(key) {
                        Some(document) => document.put_right(),
                        None => drop(self.want_again(key)),
                    }
                    changed = true;
                }
                _ => {}
            }
        }
        if changed {
            return self.commit("Answer");
        }
        // Asked about drift, people close every proposal.
        let asked = self.repository.branches("plumb");
        let decided = !asked.is_empty();
        for branch in asked {
            self.repository.set_tip(&branch, None);
        }
        let conflicts = plan.drift.iter().any(|drift| drift.mode == DriftMode::Propose);
        if !decided && conflicts && round > 2 {
            // Git decides.
            for drift in &plan.drift {
                if let Some(document) = self.wish.get_mut(&drift.key) {
                    document.annotations.insert("drift", "revert".to_owned());
                }
            }
            self.commit("Decide");
        }
    }

    /// Wants a resource again as a commit wanted it last; says whether one did.
    fn want_again(&mut self, key: &ResourceKey) -> bool {
        let before = self.system.state().heads.iter().rev().find_map(|head| head.get(key).cloned());
        let Some(mut document) = before else { return false };
        document.put_right();
        document.depends_on = None;
        self.wish.documents.insert(document.name, document);
        true
    }

    async fn inspector(&mut self) -> Engine {
        self.lives += 1;
        let store: Arc<dyn Store> = Arc::new(self.store.clone());
        self.opening(self.lives, store).open().await.expect("nothing goes wrong any more")
    }

    /// What must hold once everything has come to rest.
    async fn check(&mut self) -> Vec<String> {
        for process in self.replicas.iter().flatten() {
            self.chaos.kill(process.life);
        }
        let before = self.system.state().effects;
        let inspector = self.inspector().await;
        let ask = Ask { trigger: Trigger::CommandLine, width: Width::Deep };
        let in_force = inspector.platform().await.expect("it is there");
        let again = inspector.reconcile(&in_force, TENANT, ask).await;
        let mut broken = match again {
            Ok(report) if report.done == 0 => Vec::new(),
            Ok(report) => vec![format!("a further look did something: {}", told(&report.plan))],
            Err(error) => vec![format!("a further look failed: {error}")],
        };
        for execution in self.some_executions() {
            match inspector.replay(execution, None).await {
                Ok(Some((_, replayed))) => {
                    let others = replayed.into_iter().filter(|again| again.preview.plan.id != again.then);
                    broken.extend(others.map(|again| {
                        format!("execution {execution} planned {} and again: {}", again.then, told(&again.preview.plan))
                    }));
                }
                Ok(None) => broken.push(format!("execution {execution} is gone")),
                Err(error) => broken.push(format!("execution {execution} cannot be planned again: {error}")),
            }
        }
        let effects = self.system.state().effects - before;
        if effects > 0 {
            broken.push(format!("a further look touched {effects} things"));
        }
        let mut known = self.store.read(Scope::Platform).await.expect("it answers");
        let inventory = known.inventory().await.expect("it answers");
        broken.extend(invariants::of_the_servers(&self.system.state(), &self.wish, &inventory));
        broken.extend(invariants::of_the_record(&self.wish, &self.store).await);
        broken.extend(invariants::of_the_audit_log(&self.deeds, &self.store).await);
        broken.extend(invariants::what_was_taken_is_given_back(&self.store.slots_since(TENANT, self.calm_since)));
        broken
    }

    /// A few of the looks that there were, to be planned again.
    fn some_executions(&self) -> Vec<i64> {
        let (executions, _) = self.store.history();
        (0..REPLAYS).map(|_| self.chaos.pick(&executions).id).collect()
    }

    fn end(self, mut broken: Vec<String>) -> Ended {
        let (executions, events) = self.store.history();
        let state = self.system.state();
        broken.extend(state.violations.iter().cloned());
        broken.extend(self.store.violations());
        if executions.len() >= usize::try_from(MOST_LOOKS).expect("it is small") {
            broken.push(format!("it was looked at {MOST_LOOKS} times: looks without a wait between them"));
        }
        let told: Vec<String> = events
            .iter()
            .map(|event| {
                let place = self.ground.folder.display().to_string();
                format!("{event:?}").replace(&place, "FOLDER")
            })
            .collect();
        let mut hash = sha2::Sha256::default();
        for line in &told {
            sha2::Digest::update(&mut hash, line);
        }
        for (name, server) in &state.servers {
            for (object_name, object) in &server.objects {
                let Object { id, mark, fields, passwords, .. } = object;
                let shown = format!("{name} {object_name} {id} {mark:?} {fields:?} {passwords:?}");
                sha2::Digest::update(&mut hash, shown);
            }
        }
        Ended {
            broken,
            hash: hex::encode(sha2::Digest::finalize(hash)),
            looks: executions.len(),
            events: events.len(),
            effects: state.effects,
            faults: self.chaos.faults(),
            commits: self.deeds.commits.len(),
            undone: self.store.undone().len(),
            lives: self.lives as usize,
            told,
        }
    }
}

/// What people did.
#[derive(Default)]
pub struct Deeds {
    /// The commits of the tenant's branch, oldest first.
    pub commits: Vec<String>,
    /// Those that approved a plan, and of what.
    pub approvals: Vec<(String, ApprovalKind)>,
    /// Who had what tried again.
    pub retries: Vec<(String, Vec<ResourceKey>)>,
    /// Who asked for looks.
    pub asks: Vec<String>,
}

fn some_limits(chaos: &Chaos) -> Limits {
    Limits { pg: 1 + chaos.below(4), files: 1 + chaos.below(2), tenant: 1 + chaos.below(8) }
}

/// All that it takes to open an engine.
struct Opening {
    settings: Settings,
    seed: u64,
    life: Life,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    system: Arc<System>,
}

impl Opening {
    /// `None` when the store does not answer.
    async fn open(&self) -> Option<Engine> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let key = SecretString::from("11".repeat(32));
        let vault = Vault::open(&self.settings.data_dir, Some(key), &mut rng).expect("it is a key");
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let secrets = StoredSecrets::open(store, Arc::new(vault), Arc::clone(&clock), Box::new(rng)).await.ok()?;
        let store = Arc::clone(&self.store);
        let engine = Engine::new(self.settings.clone(), store, Arc::new(secrets), clock, Arc::new(|_| {}));
        Some(engine.with_managers(self.system.connect(self.life)))
    }
}

fn type_of(server: &str) -> ProviderType {
    match server {
        PG => ProviderType::Postgres,
        FILES => ProviderType::Sqlite,
        _ => ProviderType::Redis,
    }
}

/// A plan in few words.
fn told(plan: &Plan) -> String {
    let steps: Vec<String> = plan.steps.iter().map(|step| format!("{} {}", step.action, step.key)).collect();
    let blocked: Vec<String> =
        plan.blocked.iter().map(|blocked| format!("{} {}: {}", blocked.reason, blocked.key, blocked.message)).collect();
    format!(
        "steps {steps:?}, blocked {blocked:#?}, drift {:#?}, settles {:?}, unknown {:?}",
        plan.drift, plan.settles, plan.unknown
    )
}

//! A whole Plumb in a temporary folder: a platform repository, a tenant's repository, and the engine over them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use plumb::engine::vault::{StoredSecrets, Vault, system_rng};
use plumb::engine::{
    Ask, Connect, Engine, EngineError, LEASE, PlatformStatus, Preview, PreviewSource, Report, Settings, Which, Width,
    view,
};
use plumb::model::{
    ApprovalKind, Clock, Event, EventKind, ExecutionOutcome, Inventory, Plan, PlanId, Proposal, Reason, Replica,
    ResourceKey, ResourceStatus, SystemClock, Trigger,
};
use plumb::store::Mode;
use plumb::store::postgres::PostgresStore;
use plumb::store::sqlite::SqliteStore;
use plumb::store::{Scope, Store};
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;

use super::git::GitRepo;
use super::postgres::PostgresServer;
use super::redis::RedisServer;

/// How long the rest of a look may keep the state after its engine ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// The tenant's name in every world.
pub const TENANT: &str = "checkout";

/// A platform with one tenant, and the engine that reconciles it.
pub struct World {
    pub platform: GitRepo,
    pub tenant: GitRepo,
    /// The tenant's name.
    pub name: String,
    data: TempDir,
    /// Where credential files are.
    credentials: TempDir,
    /// What the engine takes for the time.
    pub clock: Arc<dyn Clock>,
    /// What makes managers, where it is not the usual.
    pub connect: Option<Connect>,
    /// How many tenants are looked at at once, and how long each does steps while others wait, where it is not the usual.
    pub places: Option<(usize, Duration)>,
    /// How long it keeps a tenant without a sign of life.
    pub lease: Duration,
    /// The PostgreSQL database that the state is in, where it is not in a file.
    pub database: Option<String>,
    /// What is put around the store, where something is.
    pub around_store: Option<AroundStore>,
    running: Option<Running>,
    events: Arc<Mutex<Vec<Event>>>,
    hook: Arc<Mutex<Option<Hook>>>,
}

/// Does something at the moment an event happens, before the engine goes on.
type Hook = Box<dyn FnMut(&Event) + Send>;

/// Puts something around a store.
type AroundStore = Box<dyn Fn(Arc<dyn Store>) -> Arc<dyn Store> + Send + Sync>;

struct Running {
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
    secrets: Arc<StoredSecrets>,
}

/// A provider of SQLite files below the data directory.
pub const FILES: &str = "
apiVersion: plumb.dev/v1
kind: Provider
metadata: {name: files}
spec:
  type: sqlite
  url: sqlite:databases
  serves: [{kind: Database}]
";

impl World {
    /// A world whose tenant has SQLite files.
    pub async fn with_files() -> Self {
        Self::new(FILES, "[files]").await
    }

    /// A world with those of [`FILES`], and caches on a server.
    pub async fn with_redis(server: &RedisServer) -> Self {
        let redis = format!(
            "---\napiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: redis}}\nspec:\n  type: redis\n  url: {}\n  \
             serves: [{{kind: Cache}}]\n",
            server.url("default")
        );
        Self::new(&format!("{FILES}{redis}"), "[files, redis]").await
    }

    /// A world with these Provider documents; the tenant may use `allowed`.
    pub async fn new(providers: &str, allowed: &str) -> Self {
        let mut world = Self::unstarted(TENANT);
        world.write_platform("id: test-platform");
        world.platform.write("providers.yaml", providers);
        world.write_tenant(&format!("providers: {allowed}"));
        world.platform.commit("Start the platform");
        world.start().await;
        world
    }

    /// A world whose tenant has databases on `server`, under names that no other world on it has; [`FILES`] are there
    /// for resources that name `provider: files`.
    pub async fn with_postgres(server: &PostgresServer) -> Self {
        Self::with_slow_postgres(server, "30s").await
    }

    /// The same, with a server that has this long to answer.
    pub async fn with_slow_postgres(server: &PostgresServer, timeout: &str) -> Self {
        static WORLDS: AtomicUsize = AtomicUsize::new(0);
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let mut world = Self::unstarted(&format!("team{number}"));
        world.write_platform(&format!("id: test-platform-{number}"));
        world.write_login(server.login().1);
        let files = FILES.replace("  serves: [{kind: Database}]\n", "");
        let postgres = format!(
            "---\napiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: pg}}\nspec:\n  type: postgres\n  url: {}\n  \
             credentials: {{file: {}}}\n  timeout: {timeout}\n  serves: [{{kind: Database}}]\n",
            server.url(),
            world.login_file().display()
        );
        world.platform.write("providers.yaml", files + &postgres);
        world.write_tenant("providers: [files, pg]");
        world.platform.commit("Start the platform");
        world.start().await;
        world
    }

    fn unstarted(tenant: &str) -> Self {
        Self {
            platform: GitRepo::new(),
            tenant: GitRepo::new(),
            name: tenant.to_owned(),
            data: tempfile::tempdir().unwrap(),
            credentials: tempfile::tempdir().unwrap(),
            clock: Arc::new(SystemClock),
            connect: None,
            places: None,
            lease: LEASE,
            database: None,
            around_store: None,
            running: None,
            events: Arc::default(),
            hook: Arc::default(),
        }
    }

    /// Where the password of the PostgreSQL login is read from.
    pub fn login_file(&self) -> PathBuf {
        self.credentials.path().join("pg-password")
    }

    /// Changes that password, in the file.
    pub fn write_login(&self, password: &str) {
        std::fs::write(self.login_file(), password).unwrap();
    }

    /// Writes the Platform document with these lines in its spec; the caller commits.
    pub fn write_platform(&self, spec: &str) {
        let spec = indent(spec, "  ");
        self.platform.write(
            "platform.yaml",
            format!("apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {{name: test}}\nspec:\n{spec}"),
        );
    }

    /// The key of a resource of the tenant, from `staging/Database/orders`.
    pub fn key(&self, rest: &str) -> String {
        format!("{}/{rest}", self.name)
    }

    /// The name that a resource of the tenant has on a server.
    pub fn object(&self, environment: &str, name: &str) -> String {
        format!("{}_{environment}_{name}", self.name)
    }

    /// Writes the Tenant document, with `more` lines in its spec; the caller commits.
    pub fn write_tenant(&self, more: &str) {
        let url = self.tenant.url();
        self.write_tenant_spec(&format!("repository: {{url: \"{url}\"}}\nenvironments: [staging, production]\n{more}"));
    }

    /// Has the tenant read from another place of its repository: `branch: release`, `path: environments`.
    pub fn read_from(&self, place: &str) {
        let url = self.tenant.url();
        self.write_tenant_spec(&format!(
            "repository: {{url: \"{url}\", {place}}}\nenvironments: [staging, production]\nproviders: [files]"
        ));
        self.platform.commit(&format!("Read from {place}"));
    }

    /// Writes the Tenant document with this spec and no other; the caller commits.
    pub fn write_tenant_spec(&self, spec: &str) {
        let (name, spec) = (&self.name, indent(spec, "  "));
        self.platform.write(
            "tenants.yaml",
            format!("apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n{spec}"),
        );
    }

    /// Where state, mirrors and embedded databases are.
    pub fn data(&self) -> PathBuf {
        self.data.path().to_owned()
    }

    /// The live file of a database of the tenant.
    pub fn file(&self, environment: &str, name: &str) -> PathBuf {
        self.databases().join(format!("{}.db", self.object(environment, name)))
    }

    /// The folder of live database files.
    pub fn databases(&self) -> PathBuf {
        self.data().join("databases")
    }

    /// Starts the engine.
    pub async fn start(&mut self) {
        let store: Arc<dyn Store> = match &self.database {
            None => Arc::new(SqliteStore::open(self.data(), Mode::Reconcile).await.unwrap()),
            Some(url) => Arc::new(PostgresStore::open(url, Mode::Reconcile).await.unwrap()),
        };
        let store = match &self.around_store {
            None => store,
            Some(around) => around(store),
        };
        let clock = Arc::clone(&self.clock);
        let vault = Vault::open(&self.data(), None, &mut system_rng()).unwrap();
        let secrets = Arc::new(
            StoredSecrets::open(Arc::clone(&store), Arc::new(vault), Arc::clone(&clock), system_rng()).await.unwrap(),
        );
        let settings = Settings {
            platform: self.platform.url(),
            platform_branch: None,
            platform_token: None,
            data_dir: self.data(),
            replica: Replica("test".to_owned()),
            person: "tester".to_owned(),
            lease: self.lease,
        };
        let (events, hook) = (Arc::clone(&self.events), Arc::clone(&self.hook));
        let listener = Arc::new(move |event: &Event| {
            events.lock().unwrap().push(event.clone());
            // A hook may panic, to see what becomes of that.
            if let Some(hook) = hook.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                hook(event);
            }
        });
        let passwords: Arc<dyn plumb::engine::Passwords> = secrets.clone();
        let engine = Engine::new(settings, Arc::clone(&store), passwords, clock, listener);
        let engine = match &self.connect {
            Some(connect) => engine.with_managers(Arc::clone(connect)),
            None => engine,
        };
        let engine = Arc::new(match self.places {
            Some((places, slice)) => engine.with_places(places, slice),
            None => engine,
        });
        self.running = Some(Running { engine, store, secrets });
    }

    /// Ends the engine, as a new process would find things. What is left of a look that was given up may have the state a
    /// little longer; it is waited for.
    pub fn stop(&mut self) {
        let Some(Running { engine, store, secrets }) = self.running.take() else { return };
        let left = Arc::downgrade(&store);
        drop((engine, store, secrets));
        let until = Instant::now() + PATIENCE;
        while left.strong_count() > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A new process.
    pub async fn restart(&mut self) {
        self.stop();
        self.start().await;
    }

    /// Deletes the state database (the key of passwords stays), and starts anew.
    pub async fn lose_state(&mut self) {
        self.stop();
        for name in ["plumb.db", "plumb.db-wal", "plumb.db-shm"] {
            let _ = std::fs::remove_file(self.data().join(name));
        }
        self.start().await;
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.running.as_ref().expect("the world is started").engine
    }

    pub fn store(&self) -> &dyn Store {
        self.running.as_ref().expect("the world is started").store.as_ref()
    }

    /// Has failed steps of the tenant tried again, as `plumb retry` does, at the moment that a step fails from now on, and
    /// calls `then`.
    pub fn retry_as_steps_fail(&self, mut then: impl FnMut() + Send + 'static) {
        let store = Arc::clone(&self.running.as_ref().expect("the world is started").store);
        let (clock, tenant) = (Arc::clone(&self.clock), self.name.clone());
        self.on_event(move |event| {
            if matches!(event.kind, EventKind::StepFailed { .. }) {
                let retry = plumb::engine::retry(store.as_ref(), clock.as_ref(), &tenant, Which::All, "ada");
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(retry)).unwrap();
                then();
            }
        });
    }

    /// The platform in force.
    pub async fn in_force(&self) -> PlatformStatus {
        self.engine().platform().await.unwrap()
    }

    /// Applies; everything is in plumb then. Gives how many steps that took.
    pub async fn in_sync(&self) -> usize {
        let report = self.apply().await;
        assert_eq!(report.outcome, ExecutionOutcome::InSync, "{report:#?}");
        report.done
    }

    /// One deep look at the tenant.
    pub async fn apply(&self) -> Report {
        self.try_apply().await.unwrap()
    }

    pub async fn try_apply(&self) -> Result<Report, EngineError> {
        self.look(Width::Deep).await
    }

    /// One look of that width, as from the command line.
    pub async fn look(&self, width: Width) -> Result<Report, EngineError> {
        self.look_for(Trigger::CommandLine, width).await
    }

    /// One look as the schedule asks for: what failed before waits for its turn.
    pub async fn scheduled(&self) -> Report {
        self.look_for(Trigger::Poll, Width::Changed).await.unwrap()
    }

    async fn look_for(&self, trigger: Trigger, width: Width) -> Result<Report, EngineError> {
        let in_force = self.engine().platform().await?;
        let report = self.engine().reconcile(&in_force, &self.name, Ask { trigger, width }).await?;
        self.plans_again(&report).await;
        Ok(report)
    }

    /// Whatever a look planned can be planned again from what was kept of it, and comes out the same.
    async fn plans_again(&self, report: &Report) {
        let (_, replayed) = self.engine().replay(report.execution, None).await.unwrap().expect("it is there");
        for again in &replayed {
            assert_eq!(again.preview.plan.id, again.then, "{:#?} beside {report:#?}", again.preview.plan);
        }
        let Plan { steps, blocked, drift, settles, unknown, .. } = &report.plan;
        match replayed.last().map(|again| &again.preview.plan) {
            Some(again) => {
                assert_eq!((&again.steps, &again.blocked, &again.drift), (steps, blocked, drift));
                assert_eq!((&again.settles, &again.unknown), (settles, unknown));
            }
            None => assert!(report.plan.is_in_sync() && settles.is_empty(), "{:#?} was not kept", report.plan),
        }
    }

    /// What an apply would do.
    pub async fn plan(&self) -> Preview {
        self.preview(PreviewSource::Head).await.unwrap()
    }

    /// What an apply of `source` would do.
    pub async fn preview(&self, source: PreviewSource) -> Result<Preview, EngineError> {
        self.engine().preview(&self.in_force().await, &self.name, &source).await
    }

    /// Hears every event from now on, before the engine goes on.
    pub fn on_event(&self, hook: impl FnMut(&Event) + Send + 'static) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(hook));
    }

    /// Commits nothing but a trailer.
    pub fn approve(&self, kind: ApprovalKind, plan: &PlanId) {
        self.tenant.commit(&format!("Go on\n\n{}: {plan}", kind.trailer()));
    }

    /// What `plumb get --orphans` lists.
    pub async fn orphans(&self) -> Vec<view::OrphanView> {
        view::orphans(self.store(), Some(&self.name), &SystemClock).await.unwrap()
    }

    /// The program, set up for this world. The engine must be stopped first, or the program finds the data directory
    /// in use.
    pub fn plumb(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumb"));
        command.args(arguments).env_clear();
        for name in ["PATH", "TMPDIR"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.env("HOME", self.credentials.path()).env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("PLUMB_PLATFORM", self.platform.url()).env("PLUMB_DATA_DIR", self.data()).env("NO_COLOR", "1");
        command.stdin(Stdio::null());
        command
    }

    /// The files of the data directory that hold `text`.
    pub fn files_with(&self, text: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.data()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else if contains(&std::fs::read(entry.path()).unwrap(), text.as_bytes()) {
                    found.push(entry.path());
                }
            }
        }
        found
    }

    /// Events since the last call.
    pub fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    pub async fn inventory(&self) -> Inventory {
        self.store().read(Scope::Tenant(self.name.clone())).await.unwrap().inventory().await.unwrap()
    }

    pub async fn status(&self, key: &str) -> Option<ResourceStatus> {
        let mut tx = self.store().read(Scope::Tenant(self.name.clone())).await.unwrap();
        tx.statuses().await.unwrap().remove(&parse(key))
    }

    pub async fn proposal(&self, key: &str) -> Option<Proposal> {
        let mut tx = self.store().read(Scope::Tenant(self.name.clone())).await.unwrap();
        tx.proposals().await.unwrap().remove(&parse(key))
    }

    /// The password that `plumb secret get` would show.
    pub async fn password(&self, key: &str, role: &str) -> Option<String> {
        let secrets = &self.running.as_ref().expect("the world is started").secrets;
        let password: Option<SecretString> = secrets.reveal(&parse(key), role).await.unwrap();
        password.map(|password| password.expose_secret().to_owned())
    }

    /// A database manifest at its usual place, with these lines in its spec.
    pub fn write_database(&self, environment: &str, name: &str, spec: &str) {
        self.write_resource(environment, "Database", name, "", spec);
    }

    /// A manifest `environments/<environment>/<name>.yaml`, with lines in `metadata.annotations` and `spec`.
    pub fn write_resource(&self, environment: &str, kind: &str, name: &str, annotations: &str, spec: &str) {
        let annotations = match annotations {
            "" => String::new(),
            lines => format!("  annotations:\n{}", indent(lines, "    ")),
        };
        let spec = match spec {
            "" => "spec: {}\n".to_owned(),
            lines => format!("spec:\n{}", indent(lines, "  ")),
        };
        self.tenant.write(
            &format!("environments/{environment}/{name}.yaml"),
            format!(
                "apiVersion: plumb.dev/v1\nkind: {kind}\nmetadata:\n  name: {name}\n  labels: {{owner: team-checkout}}\n{annotations}{spec}"
            ),
        );
    }

    /// Runs SQL in a live database file, as somebody behind git's back. Makes the file if it is not there.
    pub async fn by_hand(&self, environment: &str, name: &str, sql: &'static str) {
        run_sql(&self.file(environment, name), sql).await;
    }

    /// One number that SQL gives in a live database file.
    pub async fn number(&self, environment: &str, name: &str, sql: &'static str) -> i64 {
        number_in(&self.file(environment, name), sql).await
    }
}

/// One number that SQL gives in an SQLite file.
pub async fn number_in(file: &Path, sql: &'static str) -> i64 {
    use sqlx::{Connection, Row};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let number = sqlx::query(sql).fetch_one(&mut connection).await.unwrap().get(0);
    connection.close().await.unwrap();
    number
}

/// Runs SQL in an SQLite file.
pub async fn run_sql(file: &Path, sql: &str) {
    use sqlx::Connection;
    std::fs::create_dir_all(file.parent().expect("a folder")).unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn indent(text: &str, by: &str) -> String {
    text.lines().map(|line| format!("{by}{line}\n")).collect()
}

/// Whether `bytes` hold `part`.
pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A key from its text.
pub fn parse(key: &str) -> ResourceKey {
    key.parse().unwrap()
}

/// Why `key` is held in a plan.
pub fn held(plan: &Plan, key: &str) -> Option<Reason> {
    plan.blocked.iter().find(|blocked| blocked.key.to_string() == key).map(|blocked| blocked.reason)
}

/// What a plan says of why `key` is held; nothing when it is not.
pub fn held_message(plan: &Plan, key: &str) -> String {
    let blocked = plan.blocked.iter().find(|blocked| blocked.key.to_string() == key);
    blocked.map(|blocked| blocked.message.clone()).unwrap_or_default()
}

/// Why `key` could not be seen in a pass.
pub fn unseen(plan: &Plan, key: &str) -> Option<Reason> {
    plan.unknown.iter().find(|(unknown, _)| unknown.to_string() == key).map(|(_, unknown)| unknown.reason)
}

//! A whole Plumb in a temporary folder: a platform repository, a tenant's repository, and the engine over them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use plumb::engine::vault::{StoredSecrets, Vault, system_rng};
use plumb::engine::{Ask, Engine, EngineError, PlatformStatus, Preview, PreviewSource, Report, Settings, Width};
use plumb::model::{Clock, Event, Inventory, Proposal, Reason, ResourceKey, ResourceStatus, SystemClock, Trigger};
use plumb::store::sqlite::{Mode, SqliteStore};
use plumb::store::{Scope, Store};
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;

use super::git::GitRepo;

/// The tenant's name in every world.
pub const TENANT: &str = "checkout";

/// A platform with one tenant, and the engine that reconciles it.
pub struct World {
    pub platform: GitRepo,
    pub tenant: GitRepo,
    data: TempDir,
    running: Option<Running>,
    events: Arc<Mutex<Vec<Event>>>,
}

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

    /// A world with these Provider documents; the tenant may use `allowed`.
    pub async fn new(providers: &str, allowed: &str) -> Self {
        let world = Self {
            platform: GitRepo::new(),
            tenant: GitRepo::new(),
            data: tempfile::tempdir().unwrap(),
            running: None,
            events: Arc::default(),
        };
        world.platform.write(
            "platform.yaml",
            "apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {name: test}\nspec: {id: test-platform}\n",
        );
        world.platform.write("providers.yaml", providers);
        world.write_tenant(&format!("providers: {allowed}"));
        world.platform.commit("Start the platform");
        let mut world = world;
        world.start().await;
        world
    }

    /// Writes the Tenant document, with `more` lines in its spec; the caller commits.
    pub fn write_tenant(&self, more: &str) {
        let url = self.tenant.url();
        let more = more.lines().map(|line| format!("  {line}\n")).collect::<String>();
        self.platform.write(
            "tenants.yaml",
            format!(
                "apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: {TENANT}}}\nspec:\n  repository: {{url: \"{url}\"}}\n  \
                 environments: [staging, production]\n{more}"
            ),
        );
    }

    /// Where state, mirrors and embedded databases are.
    pub fn data(&self) -> PathBuf {
        self.data.path().to_owned()
    }

    /// The live file of a database of the tenant.
    pub fn file(&self, environment: &str, name: &str) -> PathBuf {
        self.data().join(format!("databases/{TENANT}_{environment}_{name}.db"))
    }

    /// Starts the engine.
    pub async fn start(&mut self) {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(self.data(), Mode::Reconcile).await.unwrap());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let vault = Vault::open(&self.data(), None, &mut system_rng()).unwrap();
        let secrets = Arc::new(
            StoredSecrets::open(Arc::clone(&store), Arc::new(vault), Arc::clone(&clock), system_rng()).await.unwrap(),
        );
        let settings = Settings {
            platform: self.platform.url(),
            platform_branch: None,
            platform_token: None,
            data_dir: self.data(),
        };
        let events = Arc::clone(&self.events);
        let listener = Arc::new(move |event: &Event| events.lock().unwrap().push(event.clone()));
        let passwords: Arc<dyn plumb::managers::Secrets> = secrets.clone();
        let engine = Arc::new(Engine::new(settings, Arc::clone(&store), passwords, clock, listener));
        self.running = Some(Running { engine, store, secrets });
    }

    /// Ends the engine, as a new process would find things.
    pub fn stop(&mut self) {
        self.running = None;
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

    /// The platform in force.
    pub async fn in_force(&self) -> PlatformStatus {
        self.engine().platform().await.unwrap()
    }

    /// One deep look at the tenant.
    pub async fn apply(&self) -> Report {
        self.try_apply().await.unwrap()
    }

    pub async fn try_apply(&self) -> Result<Report, EngineError> {
        self.look(Width::Deep).await
    }

    /// One look of that width.
    pub async fn look(&self, width: Width) -> Result<Report, EngineError> {
        let in_force = self.engine().platform().await?;
        self.engine().reconcile(&in_force, TENANT, Ask { trigger: Trigger::CommandLine, width }).await
    }

    /// What an apply would do.
    pub async fn plan(&self) -> Preview {
        self.engine().preview(&self.in_force().await, TENANT, &PreviewSource::Head).await.unwrap()
    }

    /// Events since the last call.
    pub fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    pub async fn inventory(&self) -> Inventory {
        self.store().read(Scope::Tenant(TENANT.to_owned())).await.unwrap().inventory().await.unwrap()
    }

    pub async fn status(&self, key: &str) -> Option<ResourceStatus> {
        let mut tx = self.store().read(Scope::Tenant(TENANT.to_owned())).await.unwrap();
        tx.statuses().await.unwrap().remove(&parse(key))
    }

    pub async fn proposal(&self, key: &str) -> Option<Proposal> {
        let mut tx = self.store().read(Scope::Tenant(TENANT.to_owned())).await.unwrap();
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
        let indent = |text: &str, by: &str| text.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
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

    /// Runs SQL in a live database file, as somebody behind git's back.
    pub async fn by_hand(&self, environment: &str, name: &str, sql: &'static str) {
        use sqlx::Connection;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.file(environment, name));
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// One number that SQL gives in a live database file.
    pub async fn number(&self, environment: &str, name: &str, sql: &'static str) -> i64 {
        use sqlx::{Connection, Row};
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.file(environment, name));
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        let number = sqlx::query(sql).fetch_one(&mut connection).await.unwrap().get(0);
        connection.close().await.unwrap();
        number
    }
}

/// A key from its text.
pub fn parse(key: &str) -> ResourceKey {
    key.parse().unwrap()
}

/// Why `key` is held in a plan.
pub fn held(plan: &plumb::model::Plan, key: &str) -> Option<Reason> {
    plan.blocked.iter().find(|blocked| blocked.key.to_string() == key).map(|blocked| blocked.reason)
}

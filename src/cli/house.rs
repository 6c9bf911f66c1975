//! The wiring: which store, which secrets, which engine a command works with.

use std::sync::{Arc, Once};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rand::RngCore;
use secrecy::SecretString;

use tokio::sync::watch;

use crate::engine::schedule::Looks;
use crate::engine::vault::{KEY_VARIABLE, StoredSecrets, Vault, VaultError, system_rng};
use crate::engine::{Engine, LEASE, Listener, NoPasswords, Settings};
use crate::model::{Clock, Replica, SystemClock};
use crate::store::lock::DirectoryLock;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Mode, Store, StoreError};

use crate::web::{Look, Metrics, WebState};

use super::args::{Common, Database};
use super::db;

/// What plans with: it reads, and has no password to give.
pub struct House {
    pub engine: Arc<Engine>,
    pub store: Arc<dyn Store>,
    /// Keeps other reconcilers out of the data directory.
    _lock: Option<DirectoryLock>,
    /// Holds the folder of a store that lives only as long as the command.
    _borrowed: Option<tempfile::TempDir>,
}

/// The settings of the engine from the flags.
pub fn settings(common: &Common) -> anyhow::Result<Settings> {
    let Some(platform) = &common.platform else {
        bail!(
            "which platform? Give --platform URL|DIR (or PLUMB_PLATFORM); `plumb init DIR` makes one to start from, \
             and `plumb demo` shows one at work"
        );
    };
    // A folder is meant from here, wherever the data directory is.
    let platform = match std::fs::canonicalize(platform) {
        Ok(folder) if folder.is_dir() => folder.display().to_string(),
        Ok(_) => bail!("--platform {platform} is a file; give the repository's folder or its URL"),
        // With a colon it may be a URL, or host:path; the rest can only be meant as a folder.
        Err(error) if !platform.contains(':') => bail!("--platform {platform} cannot be used as a folder: {error}"),
        Err(_) => platform.clone(),
    };
    Ok(Settings {
        platform,
        platform_branch: common.platform_branch.clone(),
        platform_token: std::env::var("PLUMB_PLATFORM_TOKEN").ok().filter(|t| !t.is_empty()).map(SecretString::from),
        data_dir: common.data_dir()?,
        replica: replica(),
        person: person(),
        lease: LEASE,
    })
}

impl House {
    /// A house that reconciles: the data directory is locked for it, and passwords can be made.
    pub async fn reconciling(common: &Common, listener: Listener) -> anyhow::Result<Self> {
        Self::reconciling_with(common, listener, LEASE).await
    }

    /// The same, with leases of that length.
    pub async fn reconciling_with(common: &Common, listener: Listener, lease: Duration) -> anyhow::Result<Self> {
        let settings = Settings { lease, ..settings(common)? };
        let database = common.database()?;
        let lock = match &database {
            // The store takes it.
            Database::Sqlite(folder) if *folder == settings.data_dir => None,
            Database::Sqlite(_) | Database::Postgres(_) => Some(DirectoryLock::take(&settings.data_dir)?),
        };
        let store = open(&database, Mode::Reconcile).await?;
        db::audit_migrations(store.as_ref()).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let passwords = Arc::new(stored_secrets(common, Arc::clone(&store), Arc::clone(&clock)).await?);
        let engine = Arc::new(Engine::new(settings, Arc::clone(&store), passwords, clock, listener));
        Ok(Self { engine, store, _lock: lock, _borrowed: None })
    }

    /// A house that only plans. Where nothing was reconciled yet it plans from marks and live values alone, as on a
    /// fresh CI runner.
    pub async fn planning(common: &Common) -> anyhow::Result<Self> {
        let settings = settings(common)?;
        let (store, borrowed) = match open(&common.database()?, Mode::ReadOnly).await {
            Ok(store) => {
                tell_of_a_move(store.as_ref(), common).await?;
                (store, None)
            }
            Err(StoreError::Missing { .. }) => {
                let folder = tempfile::tempdir().context("a temporary folder could not be made")?;
                (open(&Database::Sqlite(folder.path().to_owned()), Mode::Reconcile).await?, Some(folder))
            }
            Err(error) => return Err(error.into()),
        };
        let engine =
            Engine::new(settings, Arc::clone(&store), Arc::new(NoPasswords), Arc::new(SystemClock), Arc::new(|_| {}));
        Ok(Self { engine: Arc::new(engine), store, _lock: None, _borrowed: borrowed })
    }
}

/// The store of a command that reads.
pub async fn reading(common: &Common) -> anyhow::Result<Arc<dyn Store>> {
    let store = existing_store(common, Mode::ReadOnly).await?;
    tell_of_a_move(store.as_ref(), common).await?;
    Ok(store)
}

/// Says once that a state was moved away: what is read of it is as it was then.
async fn tell_of_a_move(store: &dyn Store, common: &Common) -> anyhow::Result<()> {
    static TELL: Once = Once::new();
    if let (Some((place, at)), false) = (store.moved().await?, common.quiet) {
        TELL.call_once(|| {
            eprintln!("the state was moved to {place} at {at}, and is shown as it was then: give --database {place}")
        });
    }
    Ok(())
}

/// The store of that database.
pub async fn open(database: &Database, mode: Mode) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match database {
        Database::Sqlite(folder) => Arc::new(SqliteStore::open(folder, mode).await?),
        Database::Postgres(url) => Arc::new(PostgresStore::open(url, mode).await?),
    })
}

/// The store that a reconciler made, for those who make none.
pub async fn existing_store(common: &Common, mode: Mode) -> anyhow::Result<Arc<dyn Store>> {
    open(&common.database()?, mode).await.map_err(|error| match error {
        StoreError::Missing { .. } => anyhow!(
            "{error}\n  `plumb apply` makes it; name another folder with --data-dir, another database with --database, or \
             ask a running server with --server URL"
        ),
        other => other.into(),
    })
}

/// The key of passwords, for a command that only reads them: none is made.
pub fn existing_vault(common: &Common) -> anyhow::Result<Vault> {
    Ok(Vault::open_existing(&common.data_dir()?, key_variable())?)
}

/// Which key opens the passwords of a state, where there are any; refuses where it is not at hand. Without any, whether the
/// key that is there can be used.
pub async fn check_vault(common: &Common, store: Option<&dyn Store>) -> anyhow::Result<Option<String>> {
    let (folder, key) = (
        common.data_dir()?,
        match store {
            Some(store) => StoredSecrets::key_of(store).await?,
            None => None,
        },
    );
    match &key {
        Some(key) => drop(Vault::open_key(&folder, key_variable(), key)?),
        None => match Vault::open_existing(&folder, key_variable()) {
            Ok(_) | Err(VaultError::NoKey { .. }) => {}
            Err(error) => return Err(error.into()),
        },
    }
    Ok(key)
}

/// The passwords in a store, with the key from [`KEY_VARIABLE`] or the data directory.
async fn stored_secrets(
    common: &Common,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<StoredSecrets> {
    // A key that is made beside passwords of another would open none of them.
    let vault = match StoredSecrets::key_of(store.as_ref()).await? {
        Some(key) => Vault::open_key(&common.data_dir()?, key_variable(), &key)?,
        None => Vault::open(&common.data_dir()?, key_variable(), &mut system_rng())?,
    };
    Ok(StoredSecrets::open(store, Arc::new(vault), clock, system_rng()).await?)
}

fn key_variable() -> Option<SecretString> {
    std::env::var(KEY_VARIABLE).ok().map(SecretString::from)
}

/// Who runs this process, as the operating system knows it: for the audit log.
pub fn person() -> String {
    use std::os::unix::fs::MetadataExt;
    let Ok(own) = std::fs::metadata("/proc/self") else { return "command line".to_owned() };
    let (uid, users) = (own.uid().to_string(), std::fs::read_to_string("/etc/passwd").unwrap_or_default());
    let mut users = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    match users.find(|user| user.get(2) == Some(&uid.as_str())) {
        Some(user) => format!("{} (uid {uid})", user[0]),
        None => format!("uid {uid}"),
    }
}

/// A name for this process among all that share a store.
fn replica() -> Replica {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "plumb",
        host => host,
    };
    // A process of the same number may have been there before.
    let mut once = [0; 3];
    system_rng().fill_bytes(&mut once);
    Replica(format!("{host}/{}/{}", std::process::id(), hex::encode(once)))
}

/// What the status page works with.
pub fn web_state(store: Arc<dyn Store>, ready: watch::Receiver<bool>, looks: Looks) -> WebState {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Arc::new(Metrics::new(clock.as_ref()));
    WebState { store, clock, ready, look: Arc::new(Marks(looks)), metrics }
}

/// Lets the web ask the schedule for a look.
struct Marks(Looks);

impl Look for Marks {
    fn look(&self, tenant: Option<&str>, by: &str) -> bool {
        self.0.ask(tenant, by)
    }
}

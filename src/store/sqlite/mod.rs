//! The state in one SQLite file, `<data-dir>/plumb.db`: nothing to install, one reconciler, any number of readers.
//!
//! What always holds: one process at a time reconciles (the [`DirectoryLock`]); there is one writing connection, so that writers wait in a queue of their own
//! and never fail on each other; readers see a snapshot and neither wait for the writer nor stop it (WAL).
//!
//! Commits are synced to the disk (`synchronous = FULL`). With `NORMAL` a power loss could take back the last
//! transactions; for records and statuses that would do no harm, they are rebuilt, but a password that was stored just
//! before its role was made (R12) would be lost while the role keeps it. A sync costs a few milliseconds a commit, so
//! what belongs together should be committed together.

#[path = "../chains.rs"]
#[allow(clippy::duplicate_mod, reason = "compiled once for each database")]
mod chains;
#[path = "../dump.rs"]
#[allow(clippy::duplicate_mod, reason = "compiled once for each database")]
mod dump;
#[path = "../moved.rs"]
#[allow(clippy::duplicate_mod, reason = "compiled once for each database")]
mod moved;
#[path = "../places.rs"]
#[allow(clippy::duplicate_mod, reason = "compiled once for each database")]
mod places;
#[path = "../rows.rs"]
#[allow(clippy::duplicate_mod, reason = "compiled once for each database")]
mod rows;
#[path = "../statements.rs"]
#[allow(clippy::duplicate_mod, reason = "compiled once for each database")]
mod statements;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, Sqlite, SqliteConnection, Transaction};
use tokio::sync::watch;

use self::dump::AllRows;
use self::statements::{Access, SqlTx};
use super::columns::time;
use super::copy::Rows;
use super::lock::{DirectoryLock, private_file};
use super::{Lead, Mode, Queue, Scope, Store, StoreError, Tx};
use crate::model::{Ask, Claim, Clock, Lease, Place, Release, Replica, Request, SystemClock};

/// The database of the statements.
type Db = Sqlite;

/// The database's file in the data directory.
pub const DATABASE_FILE: &str = "plumb.db";
/// How a transaction begins whose commit is synced to the disk.
const BEGIN_DURABLE: &str = "PRAGMA synchronous = FULL; BEGIN IMMEDIATE";
/// How one over the queue begins. What a power loss takes back of it is asked for anew at the start.
const BEGIN_QUEUE: &str = "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE";
/// There is one writer, so no row of the queue needs a lock of its own.
const SKIP_LOCKED: &str = "";
const KEY_SHARE: &str = "";
/// Nothing but the store keeps tenants apart.
const FOR_PLATFORM: Option<&str> = None;
const FOR_TENANT: Option<&str> = None;
/// There are no partitions.
const MAKE_MONTHS: Option<&str> = None;
const DROP_MONTHS: Option<&str> = None;
const MONTHS_WAIT: Option<&str> = None;

/// Tables, their columns, and the columns' types.
const SHAPES: &str = "SELECT m.name, c.name, c.type FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c \
                      WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND m.name NOT IN ('_sqlx_migrations', 'moved')";
/// How rows are written with numbers of their own.
const AS_GIVEN: &str = "";
/// Nobody owns tables.
const AS_OWNER: Option<&str> = None;
/// Whoever comes while another writes is refused after some seconds.
const KEEPS_WAITING: Option<&str> = None;
/// The highest numbers that were given.
const NUMBERS: &str = "SELECT name, seq FROM sqlite_sequence WHERE seq > 0";
const SET_NUMBER: &[&str] = &[
    "DELETE FROM sqlite_sequence WHERE name = $1 AND $2 IS NOT NULL",
    "INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)",
];

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a statement waits for another process that has the database locked: a person's `sqlite3`, a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a transaction waits for a connection: longer than the longest transaction, a full pass over 10,000
/// resources on a slow disk.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Reading connections: as many as a small machine has cores to read with.
const READERS: u32 = 4;
/// Rows that a connection reads ahead; lists have thousands of rows, and a short queue costs a switch of threads a row.
const ROWS_AHEAD: usize = 1024;
/// Rows that are read ahead where all rows are read: one alone may have some ten MiB.
const ALL_ROWS_AHEAD: usize = 4;
/// What the write-ahead log is cut back to after a checkpoint, in bytes, so that one large pass does not leave it large.
const LOG_LIMIT: &str = "67108864";

/// When a look is due that another process than the reconciling one asks for, which may take another time for now: from
/// when on it is seen, behind what is due by then.
const WHEN_SEEN: DateTime<Utc> = DateTime::UNIX_EPOCH;

const QUEUE: &str = "the queue";

/// The state in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    path: Arc<str>,
    readers: SqlitePool,
    writer: Writer,
    time: Time,
    /// Counts what may be there to claim.
    wake: watch::Sender<u64>,
    migrated: Vec<String>,
}

#[derive(Clone, Debug)]
enum Writer {
    /// The one writing connection, and the lock that it stands under.
    Open {
        pool: SqlitePool,
        lock: Option<Arc<DirectoryLock>>,
    },
    None,
}

/// What the queue takes for the time: the machine's clock when the store was opened, and what has passed since. A clock
/// that is set while Plumb runs moves no lease and no wait.
#[derive(Clone, Copy, Debug)]
struct Time {
    opened: DateTime<Utc>,
    since: Instant,
}

impl Time {
    fn start() -> Self {
        Self { opened: SystemClock.now(), since: Instant::now() }
    }

    fn now(self) -> DateTime<Utc> {
        self.opened + TimeDelta::from_std(self.since.elapsed()).unwrap_or(TimeDelta::MAX)
    }
}

impl SqliteStore {
    /// Opens the store of a data directory.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process reconciles there; [`StoreError::Missing`], [`StoreError::Older`] or
    /// [`StoreError::Newer`] when the database is not there or not of this version; others when it cannot be used.
    pub async fn open(data_dir: impl AsRef<Path>, mode: Mode) -> Result<Self, StoreError> {
        let data_dir = data_dir.as_ref();
        // An absolute path cannot be taken for an SQLite URI or a name with a meaning of its own, such as `:memory:`.
        let data_dir = std::path::absolute(data_dir).map_err(|source| directory(data_dir, source))?;
        match mode {
            Mode::Reconcile => {
                let store = Self::open_to_reconcile(&data_dir).await?;
                store.expect_here().await?;
                Ok(store)
            }
            Mode::Settle => Self::open_to_reconcile(&data_dir).await,
            Mode::Append => {
                let store = Self::open_to_read(&data_dir).await?;
                store.expect_here().await?;
                let file = data_dir.join(DATABASE_FILE);
                let pool = writing_pool(&file).await.map_err(|source| cannot_open(&store.path, source))?;
                Ok(Self { writer: Writer::Open { pool, lock: None }, ..store })
            }
            Mode::ReadOnly => Self::open_to_read(&data_dir).await,
        }
    }

    async fn open_to_reconcile(data_dir: &Path) -> Result<Self, StoreError> {
        let lock = Some(Arc::new(DirectoryLock::take(data_dir)?));
        let file = data_dir.join(DATABASE_FILE);
        // Made here, since SQLite would make it readable by others. Its companions take the mode of the database.
        private_file(&file).map_err(|source| directory(&file, source))?;

        let path: Arc<str> = file.display().to_string().into();
        let pool = writing_pool(&file).await.map_err(|source| cannot_open(&path, source))?;
        let migrated = migrate(&pool, &path).await?;
        let readers = reading_pool(&file).await.map_err(|source| cannot_open(&path, source))?;
        let store = Self { writer: Writer::Open { pool, lock }, migrated, ..Self::reader(path, readers) };
        // Whoever held a lease here is dead, or there would have been no lock to take.
        let mut queue = store.queue().await?;
        free_all(&mut queue, store.time.now()).await.map_err(|source| failed(&store.path, QUEUE, source))?;
        store.end(queue).await?;
        Ok(store)
    }

    async fn open_to_read(data_dir: &Path) -> Result<Self, StoreError> {
        let file = data_dir.join(DATABASE_FILE);
        let path: Arc<str> = file.display().to_string().into();
        match std::fs::metadata(&file) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing { path: path.to_string() });
            }
            Err(source) => return Err(directory(&file, source)),
        }
        let readers = reading_pool(&file).await.map_err(|source| cannot_open(&path, source))?;
        expect_this_version(&readers, &path).await?;
        Ok(Self::reader(path, readers))
    }

    fn reader(path: Arc<str>, readers: SqlitePool) -> Self {
        Self {
            path,
            readers,
            writer: Writer::None,
            time: Time::start(),
            wake: watch::Sender::default(),
            migrated: Vec::new(),
        }
    }

    /// Refuses a state that was moved away.
    async fn expect_here(&self) -> Result<(), StoreError> {
        let mut reader = self.readers.acquire().await.map_err(|source| self.cannot_begin(source))?;
        moved::expect_here(&mut reader, &self.path).await
    }

    /// Ends all connections, after the transactions that are under way. The database is then one file, without a log.
    /// A store that is dropped instead loses nothing either.
    pub async fn close(self) {
        self.readers.close().await;
        match self.writer {
            Writer::Open { pool, lock: _lock } => pool.close().await,
            Writer::None => {}
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn begin(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError> {
        match &self.writer {
            Writer::Open { pool, lock } => {
                let mut inner = pool.begin_with(BEGIN_DURABLE).await.map_err(|source| self.cannot_begin(source))?;
                // It may have waited for whoever moved the state away, which nobody can beside a reconciler.
                if self.is_beside() {
                    moved::expect_here(&mut inner, &self.path).await?;
                }
                if let Scope::Leased(lease) = &scope {
                    places::expect_held(&mut inner, lease).await?;
                }
                let access = Access::Write { _lock: lock.clone() };
                Ok(Box::new(SqlTx::new(inner, scope, access, Arc::clone(&self.path))))
            }
            Writer::None => Err(StoreError::ReadOnly),
        }
    }

    async fn read(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError> {
        let inner = self.readers.begin().await.map_err(|source| self.cannot_begin(source))?;
        Ok(Box::new(SqlTx::new(inner, scope, Access::Read, Arc::clone(&self.path))))
    }

    async fn snapshot(&self) -> Result<Box<dyn Rows>, StoreError> {
        let inner = begin_alone(&self.readers, "BEGIN").await.map_err(|source| self.cannot_begin(source))?;
        Ok(Box::new(AllRows::new(inner, ())))
    }

    async fn exclusive(&self) -> Result<Box<dyn Rows>, StoreError> {
        match &self.writer {
            Writer::Open { pool, lock } => {
                let inner = begin_alone(pool, BEGIN_DURABLE).await.map_err(|source| self.cannot_begin(source))?;
                Ok(Box::new(AllRows::new(inner, lock.clone())))
            }
            Writer::None => Err(StoreError::ReadOnly),
        }
    }

    async fn moved(&self) -> Result<Option<(String, String)>, StoreError> {
        let mut reader = self.readers.acquire().await.map_err(|source| self.cannot_begin(source))?;
        moved::away(&mut reader).await
    }

    fn migrated(&self) -> &[String] {
        &self.migrated
    }
}

#[async_trait]
impl Queue for SqliteStore {
    async fn request(&self, requests: &[Request]) -> Result<(), StoreError> {
        let mut queue = self.queue().await?;
        let now = self.time.now();
        let due = |delay: Duration| match self.is_beside() {
            true if delay.is_zero() => WHEN_SEEN,
            true | false => places::after(now, delay),
        };
        places::request(&mut queue, requests, now, due).await?;
        self.end(queue).await?;
        self.wake();
        Ok(())
    }

    async fn claim(&self, holder: &Replica, lease: Duration) -> Result<Option<Claim>, StoreError> {
        let (mut queue, now) = (self.queue().await?, self.time.now());
        self.date_what_is_seen(&mut queue, now).await?;
        let claim = places::claim(&mut queue, holder, None, now, lease).await?;
        self.end(queue).await?;
        Ok(claim)
    }

    async fn claim_tenant(
        &self,
        tenant: &str,
        ask: Ask,
        holder: &Replica,
        lease: Duration,
    ) -> Result<Option<Claim>, StoreError> {
        let (mut queue, now) = (self.queue().await?, self.time.now());
        self.date_what_is_seen(&mut queue, now).await?;
        let claim = places::claim(&mut queue, holder, Some((tenant, ask)), now, lease).await?;
        self.end(queue).await?;
        Ok(claim)
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Option<String>, StoreError> {
        let mut queue = self.queue().await?;
        let news = places::renew(&mut queue, lease, self.time.now(), length).await?;
        self.end(queue).await?;
        Ok(news)
    }

    async fn release(&self, lease: &Lease, release: &Release) -> Result<(), StoreError> {
        let mut queue = self.queue().await?;
        places::release(&mut queue, lease, release, self.time.now()).await?;
        self.end(queue).await?;
        self.wake();
        Ok(())
    }

    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(self.time.now())
    }

    async fn places(&self) -> Result<Vec<Place>, StoreError> {
        let mut reader = self.readers.acquire().await.map_err(|source| self.cannot_begin(source))?;
        places::all(&mut reader).await
    }

    async fn place(&self, tenant: &str) -> Result<Option<Place>, StoreError> {
        let mut reader = self.readers.acquire().await.map_err(|source| self.cannot_begin(source))?;
        places::of(&mut reader, tenant).await
    }

    async fn until_due(&self) -> Result<Option<Duration>, StoreError> {
        let mut reader = self.readers.acquire().await.map_err(|source| self.cannot_begin(source))?;
        places::until_due(&mut reader, self.time.now()).await
    }

    async fn keep_only(&self, tenants: &[&str]) -> Result<(), StoreError> {
        let mut queue = self.queue().await?;
        places::keep_only(&mut queue, tenants).await?;
        self.end(queue).await
    }

    fn woken(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    async fn lead(&self) -> Result<Option<Box<dyn Lead>>, StoreError> {
        Ok(Some(Box::new(Alone)))
    }
}

/// The one process that reconciles leads for as long as it lives.
struct Alone;

#[async_trait]
impl Lead for Alone {
    async fn still_leads(&mut self) -> bool {
        true
    }
}

impl SqliteStore {
    /// A transaction over the queue alone.
    async fn queue(&self) -> Result<Transaction<'static, Db>, StoreError> {
        match &self.writer {
            Writer::Open { pool, .. } => pool.begin_with(BEGIN_QUEUE).await.map_err(|source| self.cannot_begin(source)),
            Writer::None => Err(StoreError::ReadOnly),
        }
    }

    /// Whether another process may reconcile meanwhile, whose time began when it opened the store.
    fn is_beside(&self) -> bool {
        matches!(self.writer, Writer::Open { lock: None, .. })
    }

    /// Has what is due [`WHEN_SEEN`] be due now.
    async fn date_what_is_seen(&self, queue: &mut SqliteConnection, now: DateTime<Utc>) -> Result<(), StoreError> {
        let sql = "UPDATE queue SET due_at = $1 WHERE due_at = $2";
        let dated = sqlx::query(sql).bind(time(now)).bind(time(WHEN_SEEN)).execute(queue).await;
        dated.map(drop).map_err(|source| failed(&self.path, QUEUE, source))
    }

    async fn end(&self, queue: Transaction<'static, Db>) -> Result<(), StoreError> {
        queue.commit().await.map_err(|source| failed(&self.path, "a commit", source))
    }

    fn wake(&self) {
        self.wake.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn cannot_begin(&self, source: sqlx::Error) -> StoreError {
        failed(&self.path, "a transaction", source)
    }
}

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(file).foreign_keys(true).busy_timeout(BUSY_TIMEOUT).row_buffer_size(ROWS_AHEAD)
}

fn pool() -> SqlitePoolOptions {
    // Connections to a file do not age.
    SqlitePoolOptions::new().acquire_timeout(CONNECTION_TIMEOUT).idle_timeout(None).max_lifetime(None)
}

async fn writing_pool(file: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = options(file)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", LOG_LIMIT);
    pool()
        .max_connections(1)
        // SQLite rolls a transaction back by itself on some errors (a full disk). The connection then still counts one,
        // and would refuse every further BEGIN: it is replaced.
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
        .connect_with(options)
        .await
}

async fn reading_pool(file: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = options(file).read_only(true).pragma("query_only", "ON");
    pool()
        .max_connections(READERS)
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
        .connect_with(options)
        .await
}

/// Begins a transaction over all rows, on a connection of its own: what the others read ahead would be most of a table.
async fn begin_alone(like: &SqlitePool, begin: &'static str) -> Result<Transaction<'static, Db>, sqlx::Error> {
    let options = SqliteConnectOptions::clone(&like.connect_options()).row_buffer_size(ALL_ROWS_AHEAD);
    pool().max_connections(1).connect_with(options).await?.begin_with(begin).await
}

/// Applies what is missing; says what that was.
async fn migrate(pool: &SqlitePool, path: &Arc<str>) -> Result<Vec<String>, StoreError> {
    const APPLIED: &str = "SELECT version, description FROM _sqlx_migrations WHERE success ORDER BY version";
    // A database in which nothing was made yet has no such table.
    let before: Vec<(i64, String)> = sqlx::query_as(APPLIED).fetch_all(pool).await.unwrap_or_default();
    match MIGRATIONS.run(pool).await {
        Ok(()) => {
            let after = sqlx::query_as(APPLIED).fetch_all(pool).await;
            let after = after.map_err(|source| failed(path, "its version", source))?;
            Ok(super::applied_since(&before.iter().map(|(version, _)| *version).collect::<Vec<_>>(), after))
        }
        Err(MigrateError::VersionMissing(_)) => Err(StoreError::Newer { path: path.to_string() }),
        Err(MigrateError::Execute(source)) if is_damage(&source) => {
            Err(StoreError::Damaged { path: path.to_string(), source })
        }
        Err(error) => Err(StoreError::Migrate(error)),
    }
}

/// Refuses a database that this version's statements would not fit.
async fn expect_this_version(pool: &SqlitePool, path: &Arc<str>) -> Result<(), StoreError> {
    const WHAT: &str = "its version";
    let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table'")
        .fetch_all(pool)
        .await
        .map_err(|source| failed(path, WHAT, source))?;
    if tables.is_empty() {
        return Err(StoreError::Missing { path: path.to_string() });
    }
    if !tables.iter().any(|name| name == "_sqlx_migrations") {
        return Err(StoreError::Older { path: path.to_string() });
    }
    let applied: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
        .fetch_all(pool)
        .await
        .map_err(|source| failed(path, WHAT, source))?;
    super::expect_this_version(&MIGRATIONS, &applied, path)
}

/// Frees what is held in the queue, since whoever held it is dead: the looks that were begun are due at once, and so is
/// all that waits, whatever the clock was set to since. What has ended the processes before this one waits on, for no
/// longer than such a thing ever waits.
async fn free_all(connection: &mut SqliteConnection, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let wait = "UPDATE queue SET due_at = MIN(due_at, $1) WHERE due_at IS NOT NULL AND tenant ";
    let suspects = "(SELECT tenant FROM abandoned WHERE looks > 1)";
    for (sql, latest) in [
        ("UPDATE queue SET lease_until = MIN(lease_until, $1) WHERE holder IS NOT NULL".to_owned(), now),
        (format!("{wait} NOT IN {suspects}"), now),
        (format!("{wait} IN {suspects}"), now + places::AFTER_MANY_DEATHS * 3 / 2),
    ] {
        sqlx::query(AssertSqlSafe(sql)).bind(time(latest)).execute(&mut *connection).await?;
    }
    Ok(())
}

fn directory(path: &Path, source: io::Error) -> StoreError {
    StoreError::Directory { path: path.display().to_string(), source }
}

fn cannot_open(path: &Arc<str>, source: sqlx::Error) -> StoreError {
    if is_damage(&source) {
        StoreError::Damaged { path: path.to_string(), source }
    } else {
        StoreError::Open { path: path.to_string(), source }
    }
}

/// A question that failed, told apart from a file that is damaged.
fn failed(path: &Arc<str>, what: &'static str, source: sqlx::Error) -> StoreError {
    if is_damage(&source) {
        StoreError::Damaged { path: path.to_string(), source }
    } else {
        StoreError::Query { what, source }
    }
}

/// Whether SQLite says that the file is malformed (`SQLITE_CORRUPT`) or no database at all (`SQLITE_NOTADB`).
fn is_damage(error: &sqlx::Error) -> bool {
    const CORRUPT: i32 = 11;
    const NOT_A_DATABASE: i32 = 26;
    // An extended code has the primary one in its lowest byte.
    const PRIMARY: i32 = 0xff;
    error
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<i32>().ok())
        .is_some_and(|code| matches!(code & PRIMARY, CORRUPT | NOT_A_DATABASE))
}

#[cfg(test)]
mod tests;

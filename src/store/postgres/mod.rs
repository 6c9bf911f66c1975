//! The state in the schema `plumb` of a PostgreSQL database.
//!
//! What always holds: every transaction works as a role that owns nothing, has no login and cannot bypass row-level
//! security, and sees the rows of its own tenant alone (`migrations/postgres`). Any number of replicas reconcile: a tenant
//! is worked on under a lease, and what is written under one that was lost is refused in the transaction that would write
//! it, by the row of the queue that the transaction has locked. Times are the server's.
//!
//! The login of the URL makes and migrates the schema, and makes the role `plumb_<database>_service`, for which it needs
//! `CREATE` on the database and, the first time, `CREATEROLE`. It needs no superuser.

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
mod slots;
#[path = "../statements.rs"]
#[allow(clippy::duplicate_mod, reason = "compiled once for each database")]
mod statements;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Postgres, Transaction};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use self::dump::AllRows;
use self::statements::{Access, SqlTx};
use super::columns::read_time;
use super::copy::Rows;
use super::{Lead, Mode, Queue, Scope, Store, StoreError, Tx};
use crate::model::{Ask, Claim, Lease, Place, Release, Replica, Request, Slot};

/// The database of the statements.
type Db = Postgres;

/// Tables, their columns, and the columns' types; partitions are parts of their tables.
const SHAPES: &str = "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, NULL) FROM pg_class AS c \
                      JOIN pg_attribute AS a ON a.attrelid = c.oid WHERE c.relnamespace = 'plumb'::regnamespace \
                      AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname NOT IN ('_sqlx_migrations', 'moved') \
                      AND a.attnum > 0 AND NOT a.attisdropped";
/// How rows are written with numbers of their own.
const AS_GIVEN: &str = " OVERRIDING SYSTEM VALUE";
/// The service may not set the numbers that rows get.
const AS_OWNER: Option<&str> = Some("SET LOCAL ROLE NONE");
/// Who waits for a lock of this transaction: writers do.
const KEEPS_WAITING: Option<&str> =
    Some("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY (pg_blocking_pids(pid)))");
/// The highest numbers that were given.
const NUMBERS: &str = "SELECT t.relname::text, s.last_value FROM pg_sequences AS s \
                       JOIN pg_class AS q ON q.relname = s.sequencename AND q.relnamespace = 'plumb'::regnamespace \
                       JOIN pg_depend AS d ON d.objid = q.oid AND d.classid = 'pg_class'::regclass \
                       AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'i' \
                       JOIN pg_class AS t ON t.oid = d.refobjid WHERE s.schemaname = 'plumb' AND s.last_value IS NOT NULL";
const SET_NUMBER: &[&str] = &["SELECT setval(pg_get_serial_sequence('plumb.' || quote_ident($1), 'id'), $2)"];

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// The schema that holds everything.
const SCHEMA: &str = "plumb";
/// The advisory lock of the replica that leads; the letters of "plumb".
const LEADER: i64 = 0x70_6c_75_6d_62;
/// The advisory lock of writers: shared by those of tenants, taken alone by those of the platform, and by migrations.
const WRITERS: i64 = LEADER + 1;
/// The advisory lock of the replica that makes the schema and the role.
const SET_UP: i64 = LEADER + 2;
/// What is told when something may be there to claim.
const CHANNEL: &str = "plumb_queue";
/// How rows of the queue are locked: others pass by a row that is being claimed, or written under.
const SKIP_LOCKED: &str = " FOR UPDATE SKIP LOCKED";
/// Keeps a claim (`FOR UPDATE`) away until the transaction ends, and no sign of life.
const KEY_SHARE: &str = " FOR KEY SHARE";
/// Lets a transaction of a tenant write into the platform's chain, one at a time: whoever works for the platform waits for
/// all that work for tenants, and these do not wait for each other elsewhere.
const FOR_PLATFORM: Option<&str> = Some(
    "SELECT set_config('plumb.scope', 'platform', true), \
            pg_advisory_xact_lock(hashtextextended('the chain of the platform', 0))",
);
/// Has it work for its tenant again.
const FOR_TENANT: Option<&str> = Some("SELECT set_config('plumb.scope', 'tenant', true)");
/// Makes the partition of a month and of the ones after it (`migrations/postgres/0006_months.sql`).
const MAKE_MONTHS: Option<&str> = Some("SELECT make_months($1, $2)");
/// Drops the partitions of a table that hold nothing any more that is kept; gives the number of rows in them.
const DROP_MONTHS: Option<&str> = Some("SELECT drop_months($1, $2)");
/// How long the server waits for the next statement of a transaction before it ends the connection. A replica that hangs
/// in the middle of one holds rows and locks that others wait for, and no lease would end that. Transactions are short, and
/// nothing slow is awaited in them.
const IDLE_IN_TRANSACTION: &str = "5s";
/// How long making and dropping months waits for those who read the table: everybody who writes, and whoever comes to read
/// after it, waits with it. Somebody tries again later.
const MONTHS_WAIT: Option<&str> = Some("SET LOCAL lock_timeout = '2s'");
/// How long the server waits for a sign of life of the leader, which gives one every few seconds. PostgreSQL 13 cannot:
/// there keepalives find a host that is gone, and a process that is stopped leads on.
const IDLE_LEADER: &str = "20s";
/// The first version that ends idle sessions, as `server_version_num`.
const ENDS_IDLE_SESSIONS: i32 = 140_000;
/// Probes of the leader's connection, in seconds where they are times: a host that does not answer is gone after about as
/// long as [`IDLE_LEADER`].
const KEEPALIVES: [(&str, &str); 3] =
    [("tcp_keepalives_idle", "5"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3")];
/// How long to wait before listening again, where it failed.
const LISTEN_AGAIN: Duration = Duration::from_secs(2);
/// How transactions begin, whatever the defaults of the database or the login.
const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// What the role does with rows.
const ROWS: &str = "SELECT, INSERT, UPDATE, DELETE";
/// The longest name that PostgreSQL keeps whole, in bytes.
const LONGEST_NAME: usize = 63;
/// How long is waited for a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of one process for transactions.
const CONNECTIONS: u32 = 12;

/// The state in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    name: Arc<str>,
    options: PgConnectOptions,
    pool: PgPool,
    mode: Mode,
    /// Counts what may be there to claim.
    wake: watch::Sender<u64>,
    _listener: Option<AbortOnDropHandle<()>>,
    migrated: Vec<String>,
}

impl PostgresStore {
    /// Opens the store that `url` names: `postgres://login@host:port/database`. A password may be in the variable
    /// `PGPASSWORD`.
    ///
    /// # Errors
    /// [`StoreError::Role`] when the login cannot make or take the role it has to work as, [`StoreError::Unconfined`] when
    /// that may do too much; [`StoreError::Missing`], [`StoreError::Older`] or [`StoreError::Newer`] when the schema is not
    /// there or not of this version; others when the database cannot be used.
    pub async fn open(url: &str, mode: Mode) -> Result<Self, StoreError> {
        let options: PgConnectOptions =
            url.parse().map_err(|source| StoreError::Open { path: without_password(url), source })?;
        let options = options
            .application_name("plumb")
            .options([("search_path", SCHEMA), ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION)])
            .disable_statement_logging();
        let name: Arc<str> = without_password(url).into();
        let cannot_open = |source| StoreError::Open { path: name.to_string(), source };
        let mut login = connect(&options).await.map_err(cannot_open)?;
        let database: String =
            sqlx::query_scalar("SELECT current_database()").fetch_one(&mut login).await.map_err(cannot_open)?;
        let role = service_role(&database);
        let mut migrated = Vec::new();
        match mode {
            Mode::Reconcile | Mode::Settle => {
                wait_for_set_up(&mut login, &name).await?;
                // A login that owns nothing there works in what the owner made, and gave it the role for.
                let is_guest = is_up_to_date(&mut login, &name).await? && !owns_schema(&mut login, &name).await?;
                if !is_guest {
                    make_schema(&mut login, &name).await?;
                    // Before the migrations: replicas of the version before work on in what these make.
                    provide_role(&mut login, &role, &name).await?;
                    expect_confined(&mut login, &role, &name).await?;
                    migrated = migrate(&mut login, &name).await?;
                    grant(&mut login, &role, &name).await?;
                }
            }
            Mode::Append | Mode::ReadOnly => expect_this_version(&mut login, &name).await?,
        }
        // What goes wrong with the role is told here, and not as a pool that gives no connection.
        let cannot_take = |source| StoreError::Role { path: name.to_string(), role: role.clone(), source };
        take_role(&mut login, &role).await.map_err(cannot_take)?;
        expect_confined(&mut login, &role, &name).await?;
        match mode {
            Mode::Reconcile | Mode::Append => moved::expect_here(&mut login, &name).await?,
            Mode::Settle | Mode::ReadOnly => {}
        }
        login.close().await.map_err(cannot_open)?;
        let pool = PgPoolOptions::new()
            // One of them listens.
            .max_connections(CONNECTIONS + 1)
            .acquire_timeout(CONNECTION_TIMEOUT)
            .after_connect(move |connection, _| {
                let role = role.clone();
                Box::pin(async move { take_role(connection, &role).await })
            })
            .connect_with(options.clone())
            .await
            .map_err(cannot_open)?;
        let wake = watch::Sender::default();
        let listener = match mode {
            Mode::Reconcile => Some(AbortOnDropHandle::new(tokio::spawn(listen(pool.clone(), wake.clone())))),
            Mode::Settle | Mode::Append | Mode::ReadOnly => None,
        };
        Ok(Self { name, options, pool, mode, wake, _listener: listener, migrated })
    }

    /// Ends all connections, after the transactions that are under way.
    pub async fn close(self) {
        self.pool.close().await;
    }

    /// Begins a transaction, in a task of its own: one that is cut short by the end of its caller is begun all the
    /// same, and rolled back. Left to itself, the pool would take the connection back inside a transaction that it does
    /// not know of, and the next one on it would be that one.
    async fn start(&self, statement: &'static str) -> Result<Transaction<'static, Db>, StoreError> {
        let pool = self.pool.clone();
        let begun = tokio::spawn(async move { pool.begin_with(statement).await });
        // A task that never ends: the process is about to.
        let begun = begun.await.unwrap_or(Err(sqlx::Error::WorkerCrashed));
        begun.map_err(|source| self.cannot_begin(source))
    }

    /// Waits until no other writes what this is about to write.
    async fn wait_for_writers(&self, connection: &mut PgConnection, scope: &Scope) -> Result<(), StoreError> {
        let wait = match scope.tenant() {
            None => sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(WRITERS),
            Some(tenant) => {
                sqlx::query("SELECT pg_advisory_xact_lock_shared($1), pg_advisory_xact_lock(hashtextextended($2, $1))")
                    .bind(WRITERS)
                    .bind(tenant)
            }
        };
        wait.execute(connection).await.map_err(|source| self.cannot_begin(source))?;
        Ok(())
    }

    /// Sets what the rest of the transaction may see and change; says whether the state was moved away, to where and when.
    async fn enter(
        &self,
        connection: &mut PgConnection,
        scope: &Scope,
    ) -> Result<Option<(String, String)>, StoreError> {
        let (kind, tenant) = scope.tenant().map_or(("platform", ""), |tenant| ("tenant", tenant));
        let sql = "SELECT set_config('plumb.scope', $1, true), set_config('plumb.tenant', $2, true), \
                   (SELECT place FROM moved), (SELECT moved_at FROM moved)";
        let entered = sqlx::query_as(sql).bind(kind).bind(tenant).fetch_one(connection).await;
        let (_, _, place, at): (String, String, Option<String>, Option<String>) =
            entered.map_err(|source| self.cannot_begin(source))?;
        Ok(place.zip(at))
    }

    /// The same for one that writes, which may have waited for whoever moved the state away.
    async fn enter_to_write(&self, connection: &mut PgConnection, scope: &Scope) -> Result<(), StoreError> {
        match (self.enter(connection, scope).await?, self.mode) {
            (None, _) | (Some(_), Mode::Settle) => Ok(()),
            (Some((place, at)), Mode::Reconcile | Mode::Append | Mode::ReadOnly) => {
                Err(StoreError::Moved { path: self.name.to_string(), place, at })
            }
        }
    }

    /// Lets a transaction wait for as long as the other database of a copy takes.
    async fn take_time(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let sql = "SET LOCAL idle_in_transaction_session_timeout = 0";
        sqlx::query(sql).execute(connection).await.map(drop).map_err(|source| self.cannot_begin(source))
    }

    fn expect_writable(&self) -> Result<(), StoreError> {
        match self.mode {
            Mode::Reconcile | Mode::Settle | Mode::Append => Ok(()),
            Mode::ReadOnly => Err(StoreError::ReadOnly),
        }
    }

    /// A transaction over the queue alone, which waits for no writer, and the server's time.
    async fn queue(&self) -> Result<(Transaction<'static, Db>, DateTime<Utc>), StoreError> {
        self.expect_writable()?;
        let mut inner = self.start(BEGIN_WRITE).await?;
        self.enter_to_write(&mut inner, &Scope::Platform).await?;
        let now = self.time(&mut inner).await?;
        Ok((inner, now))
    }

    async fn time(&self, connection: &mut PgConnection) -> Result<DateTime<Utc>, StoreError> {
        const WHAT: &str = "the time";
        let text: String = sqlx::query_scalar(
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        )
        .fetch_one(connection)
        .await
        .map_err(|source| failed(&self.name, WHAT, source))?;
        read_time(WHAT, &text)
    }

    /// Ends a transaction over the queue.
    async fn end(&self, queue: Transaction<'static, Db>) -> Result<(), StoreError> {
        queue.commit().await.map_err(|source| failed(&self.name, "a commit", source))
    }

    /// Tells all replicas, this one too, once the transaction is committed.
    async fn tell(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let told = sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(connection).await;
        told.map(drop).map_err(|source| failed(&self.name, "the queue", source))
    }

    fn cannot_begin(&self, source: sqlx::Error) -> StoreError {
        failed(&self.name, "a transaction", source)
    }
}

#[async_trait]
impl Queue for PostgresStore {
    async fn request(&self, requests: &[Request]) -> Result<(), StoreError> {
        let (mut queue, now) = self.queue().await?;
        places::request(&mut queue, requests, now, |delay| places::after(now, delay)).await?;
        self.tell(&mut queue).await?;
        self.end(queue).await
    }

    async fn claim(&self, holder: &Replica, lease: Duration) -> Result<Option<Claim>, StoreError> {
        let (mut queue, now) = self.queue().await?;
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
        let (mut queue, now) = self.queue().await?;
        let claim = places::claim(&mut queue, holder, Some((tenant, ask)), now, lease).await?;
        self.end(queue).await?;
        Ok(claim)
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Option<String>, StoreError> {
        let (mut queue, now) = self.queue().await?;
        let news = places::renew(&mut queue, lease, now, length).await?;
        self.end(queue).await?;
        Ok(news)
    }

    async fn release(&self, lease: &Lease, release: &Release) -> Result<(), StoreError> {
        let (mut queue, now) = self.queue().await?;
        places::release(&mut queue, lease, release, now).await?;
        self.tell(&mut queue).await?;
        self.end(queue).await
    }

    async fn take_slot(&self, provider: &str, limit: usize, lease: &Lease) -> Result<Option<Slot>, StoreError> {
        let (mut queue, now) = self.queue().await?;
        let slot = slots::take(&mut queue, provider, limit, lease, now).await?;
        self.end(queue).await?;
        Ok(slot)
    }

    async fn give_slot(&self, slot: &Slot) -> Result<(), StoreError> {
        let (mut queue, _) = self.queue().await?;
        slots::give(&mut queue, slot).await?;
        self.end(queue).await
    }

    async fn give_slots_but(&self, provider: &str, used: &[i64], lease: &Lease) -> Result<(), StoreError> {
        let (mut queue, _) = self.queue().await?;
        slots::give_all_but(&mut queue, provider, used, lease).await?;
        self.end(queue).await
    }

    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        let mut reading = self.start(BEGIN_READ).await?;
        self.time(&mut reading).await
    }

    async fn places(&self) -> Result<Vec<Place>, StoreError> {
        let mut queue = self.start(BEGIN_READ).await?;
        self.enter(&mut queue, &Scope::Platform).await?;
        places::all(&mut queue).await
    }

    async fn place(&self, tenant: &str) -> Result<Option<Place>, StoreError> {
        let mut queue = self.start(BEGIN_READ).await?;
        self.enter(&mut queue, &Scope::Platform).await?;
        places::of(&mut queue, tenant).await
    }

    async fn until_due(&self) -> Result<Option<Duration>, StoreError> {
        let mut queue = self.start(BEGIN_READ).await?;
        self.enter(&mut queue, &Scope::Platform).await?;
        let now = self.time(&mut queue).await?;
        places::until_due(&mut queue, now).await
    }

    async fn keep_only(&self, tenants: &[&str]) -> Result<(), StoreError> {
        let (mut queue, _) = self.queue().await?;
        places::keep_only(&mut queue, tenants).await?;
        self.end(queue).await
    }

    fn woken(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    async fn lead(&self) -> Result<Option<Box<dyn Lead>>, StoreError> {
        self.expect_writable()?;
        let failed = |source| failed(&self.name, "its lock", source);
        let options = self.options.clone().options(KEEPALIVES);
        let mut connection = connect(&options).await.map_err(failed)?;
        let leads: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(LEADER)
            .fetch_one(&mut connection)
            .await
            .map_err(failed)?;
        if !leads {
            return Ok(None);
        }
        sqlx::query("SELECT set_config('idle_session_timeout', $1, false) WHERE current_setting('server_version_num')::int >= $2")
            .bind(IDLE_LEADER)
            .bind(ENDS_IDLE_SESSIONS)
            .execute(&mut connection)
            .await
            .map_err(failed)?;
        Ok(Some(Box::new(Leader(connection))))
    }
}

/// The connection that holds the leader's lock for as long as it is open.
struct Leader(PgConnection);

#[async_trait]
impl Lead for Leader {
    async fn still_leads(&mut self) -> bool {
        self.0.ping().await.is_ok()
    }
}

/// Connects beside the pool. A server that takes connections and says nothing, or a host that drops what it is sent, would
/// be waited for without end.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let silent = |_| {
        let said = format!("the server did not answer for {} s", CONNECTION_TIMEOUT.as_secs());
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, said)))
    };
    tokio::time::timeout(CONNECTION_TIMEOUT, PgConnection::connect_with(options)).await.unwrap_or_else(silent)
}

/// Hears of what other replicas ask for. While it cannot listen, the polls of those who wait find it.
async fn listen(pool: PgPool, wake: watch::Sender<u64>) {
    loop {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            // A connection that was lost and made again (`None`) may have missed something.
            while listener.try_recv().await.is_ok() {
                wake.send_modify(|count| *count = count.wrapping_add(1));
            }
        }
        if pool.is_closed() {
            return;
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn begin(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError> {
        self.expect_writable()?;
        let mut inner = self.start(BEGIN_WRITE).await?;
        self.wait_for_writers(&mut inner, &scope).await?;
        self.enter_to_write(&mut inner, &scope).await?;
        // After the wait: another replica may have claimed the tenant meanwhile.
        if let Scope::Leased(lease) = &scope {
            places::expect_held(&mut inner, lease).await?;
        }
        Ok(Box::new(SqlTx::new(inner, scope, Access::Write { _lock: None }, Arc::clone(&self.name))))
    }

    async fn read(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError> {
        let mut inner = self.start(BEGIN_READ).await?;
        self.enter(&mut inner, &scope).await?;
        Ok(Box::new(SqlTx::new(inner, scope, Access::Read, Arc::clone(&self.name))))
    }

    async fn snapshot(&self) -> Result<Box<dyn Rows>, StoreError> {
        let mut inner = self.start(BEGIN_READ).await?;
        self.enter(&mut inner, &Scope::Platform).await?;
        self.take_time(&mut inner).await?;
        Ok(Box::new(AllRows::new(inner, ())))
    }

    async fn exclusive(&self) -> Result<Box<dyn Rows>, StoreError> {
        self.expect_writable()?;
        let mut inner = self.start(BEGIN_WRITE).await?;
        self.wait_for_writers(&mut inner, &Scope::Platform).await?;
        self.enter_to_write(&mut inner, &Scope::Platform).await?;
        self.take_time(&mut inner).await?;
        Ok(Box::new(AllRows::new(inner, ())))
    }

    async fn moved(&self) -> Result<Option<(String, String)>, StoreError> {
        let mut inner = self.start(BEGIN_READ).await?;
        self.enter(&mut inner, &Scope::Platform).await
    }

    fn migrated(&self) -> &[String] {
        &self.migrated
    }
}

/// The role that the tables are used with. Roles are of a whole server, so it has the database's name in it: whole where it
/// fits, else its beginning and a hash, since two databases may begin alike.
fn service_role(database: &str) -> String {
    const END: &str = "_service";
    const HASH_BYTES: usize = 4;
    let start = format!("plumb_{database}");
    if start.len() + END.len() <= LONGEST_NAME {
        return format!("{start}{END}");
    }
    let end = format!("_{}{END}", hex::encode(&Sha256::digest(database)[..HASH_BYTES]));
    format!("{}{end}", &start[..start.floor_char_boundary(LONGEST_NAME - end.len())])
}

async fn take_role(connection: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    let set = AssertSqlSafe(format!("SET ROLE {}", quoted(role)));
    sqlx::query(set).execute(&mut *connection).await?;
    Ok(())
}

/// Waits until no other replica makes the schema or the role: two that grant the same at once fail. The lock goes with the
/// connection, and one that hangs with it keeps others waiting for no longer than [`CONNECTION_TIMEOUT`].
async fn wait_for_set_up(login: &mut PgConnection, name: &Arc<str>) -> Result<(), StoreError> {
    const WHAT: &str = "its set-up";
    sqlx::query("SELECT set_config('lock_timeout', $1, false)")
        .bind(format!("{}ms", CONNECTION_TIMEOUT.as_millis()))
        .execute(&mut *login)
        .await
        .map_err(|source| failed(name, WHAT, source))?;
    wait_for(login, SET_UP, WHAT, name).await
}

/// Takes an advisory lock until the connection ends.
async fn wait_for(login: &mut PgConnection, lock: i64, what: &'static str, name: &Arc<str>) -> Result<(), StoreError> {
    match sqlx::query("SELECT pg_advisory_lock($1)").bind(lock).execute(&mut *login).await {
        Ok(_) => Ok(()),
        Err(source) if has_waited(&source) => Err(busy(login, name, source).await),
        Err(source) => Err(failed(name, what, source)),
    }
}

/// Whether a lock was waited for as long as anybody waits for one.
fn has_waited(error: &sqlx::Error) -> bool {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == LOCK_NOT_AVAILABLE)
}

/// Says who keeps the schema from being made or migrated.
async fn busy(login: &mut PgConnection, name: &Arc<str>, source: sqlx::Error) -> StoreError {
    // Whoever holds a table, or one of the locks that are taken for that; of other logins the server may tell little.
    let sql = "SELECT DISTINCT format('%s (process %s on the server, login %s%s)', \
                   COALESCE(NULLIF(a.application_name, ''), 'a program'), a.pid, a.usename, \
                   to_char(a.xact_start AT TIME ZONE 'UTC', '\", since \"YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')) \
               FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid \
               WHERE l.granted AND l.pid <> pg_backend_pid() AND a.datname = current_database() \
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND ((l.locktype = 'relation' AND l.relation IN \
                        (SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace($1))) \
                    OR (l.locktype = 'advisory' AND (l.classid::bigint << 32 | l.objid::bigint) = ANY ($2)))";
    let found: Result<Vec<String>, _> =
        sqlx::query_scalar(sql).bind(SCHEMA).bind([SET_UP, WRITERS].as_slice()).fetch_all(login).await;
    let who = match found {
        Ok(found) if !found.is_empty() => found.join(", "),
        Ok(_) | Err(_) => "somebody".to_owned(),
    };
    StoreError::Busy { path: name.to_string(), who, seconds: CONNECTION_TIMEOUT.as_secs(), source }
}

/// Whether every migration is applied already.
async fn is_up_to_date(login: &mut PgConnection, name: &Arc<str>) -> Result<bool, StoreError> {
    match expect_this_version(login, name).await {
        Ok(()) => Ok(true),
        Err(StoreError::Missing { .. } | StoreError::Older { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the login owns the schema, or may act as who does.
async fn owns_schema(login: &mut PgConnection, name: &Arc<str>) -> Result<bool, StoreError> {
    let sql = "SELECT COALESCE((SELECT pg_has_role(current_user, nspowner, 'USAGE') FROM pg_namespace WHERE nspname = $1), true)";
    sqlx::query_scalar(sql)
        .bind(SCHEMA)
        .fetch_one(login)
        .await
        .map_err(|source| failed(name, "the owner of its schema", source))
}

/// Makes the schema, if it is not there and the login may.
async fn make_schema(login: &mut PgConnection, name: &Arc<str>) -> Result<(), StoreError> {
    if !owns_schema(login, name).await? {
        return Err(StoreError::MayNotMigrate { path: name.to_string() });
    }
    let make = AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS {SCHEMA}"));
    sqlx::query(make).execute(&mut *login).await.map(drop).map_err(|source| failed(name, "its schema", source))
}

/// Applies what is missing; says what that was.
async fn migrate(login: &mut PgConnection, name: &Arc<str>) -> Result<Vec<String>, StoreError> {
    const APPLIED: &str = "SELECT version, description FROM plumb._sqlx_migrations WHERE success ORDER BY version";
    // A schema in which nothing was made yet has no such table.
    let before: Vec<(i64, String)> = sqlx::query_as(APPLIED).fetch_all(&mut *login).await.unwrap_or_default();
    if MIGRATIONS.iter().any(|migration| before.iter().all(|(version, _)| *version != migration.version)) {
        // Who writes and who migrates lock tables in orders of their own: each would wait for the other, and one of them would
        // be refused. The lock goes with the connection.
        wait_for(login, WRITERS, "its writers", name).await?;
    }
    match MIGRATIONS.run(&mut *login).await {
        Ok(()) => {
            let after = sqlx::query_as(APPLIED).fetch_all(&mut *login).await;
            let after = after.map_err(|source| failed(name, "its version", source))?;
            Ok(super::applied_since(&before.iter().map(|(version, _)| *version).collect::<Vec<_>>(), after))
        }
        Err(MigrateError::VersionMissing(_)) => Err(StoreError::Newer { path: name.to_string() }),
        Err(MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _)) if has_waited(&source) => {
            Err(busy(login, name, source).await)
        }
        Err(error) => Err(StoreError::Migrate(error)),
    }
}

/// Makes the role, if it is not there, and lets it use every table from the moment on that it is made.
async fn provide_role(login: &mut PgConnection, role: &str, name: &Arc<str>) -> Result<(), StoreError> {
    let cannot = |source| StoreError::Role { path: name.to_string(), role: role.to_owned(), source };
    let mut tx = login.begin().await.map_err(cannot)?;
    let is_there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)")
        .bind(role)
        .fetch_one(&mut *tx)
        .await
        .map_err(cannot)?;
    let quoted = quoted(role);
    if !is_there {
        let make = AssertSqlSafe(format!("CREATE ROLE {quoted} NOLOGIN"));
        sqlx::query(make).execute(&mut *tx).await.map_err(cannot)?;
    }
    // Whoever makes a role may give it to itself, and may not take it before that.
    let may_take: bool = sqlx::query_scalar(
        "SELECT pg_has_role(current_user, $1::name, \
         CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)",
    )
    .bind(role)
    .fetch_one(&mut *tx)
    .await
    .map_err(cannot)?;
    let role = quoted;
    let mut statements = Vec::new();
    if !may_take {
        statements.push(format!("GRANT {role} TO CURRENT_USER"));
    }
    statements.push(format!("GRANT USAGE ON SCHEMA {SCHEMA} TO {role}"));
    let from_now_on = format!("ALTER DEFAULT PRIVILEGES IN SCHEMA {SCHEMA} GRANT");
    statements.push(format!("{from_now_on} {ROWS} ON TABLES TO {role}"));
    statements.push(format!("{from_now_on} USAGE ON SEQUENCES TO {role}"));
    for statement in statements {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await.map_err(cannot)?;
    }
    tx.commit().await.map_err(cannot)
}

/// Refuses a role that row-level security does not bind, or that could lift it. One that is there already may be anything.
async fn expect_confined(connection: &mut PgConnection, role: &str, name: &Arc<str>) -> Result<(), StoreError> {
    let sql = "SELECT r.rolsuper, r.rolbypassrls, (SELECT pg_get_userbyid(o.owner)::text FROM \
                   (SELECT relowner AS owner FROM pg_class WHERE relnamespace = to_regnamespace($2) \
                    UNION SELECT nspowner FROM pg_namespace WHERE nspname = $2) AS o \
                   WHERE pg_has_role(r.oid, o.owner, 'MEMBER') LIMIT 1), session_user::text \
               FROM pg_roles AS r WHERE r.rolname = $1";
    let found: Option<(bool, bool, Option<String>, String)> = sqlx::query_as(sql)
        .bind(role)
        .bind(SCHEMA)
        .fetch_optional(connection)
        .await
        .map_err(|source| failed(name, "its role", source))?;
    let quoted_role = quoted(role);
    let (may, mend) = match found {
        None | Some((false, false, None, _)) => return Ok(()),
        Some((true, ..)) => ("is a superuser".to_owned(), format!("ALTER ROLE {quoted_role} NOSUPERUSER NOBYPASSRLS")),
        Some((_, true, ..)) => {
            ("bypasses row-level security".to_owned(), format!("ALTER ROLE {quoted_role} NOBYPASSRLS"))
        }
        Some((_, _, Some(owner), login)) if owner == role => {
            ("owns what is in it".to_owned(), format!("REASSIGN OWNED BY {quoted_role} TO {}", quoted(&login)))
        }
        Some((_, _, Some(owner), _)) => {
            let may = format!("may act as {owner}, which owns what is in it");
            (may, format!("REVOKE {} FROM {quoted_role}", quoted(&owner)))
        }
    };
    Err(StoreError::Unconfined { path: name.to_string(), role: role.to_owned(), may, mend })
}

/// Lets the role use what is there; its rows are the policies' to choose.
async fn grant(login: &mut PgConnection, role: &str, name: &Arc<str>) -> Result<(), StoreError> {
    let cannot = |source| StoreError::Role { path: name.to_string(), role: role.to_owned(), source };
    let role = quoted(role);
    let mut tx = login.begin().await.map_err(cannot)?;
    let mut statements = vec![
        format!("GRANT {ROWS} ON ALL TABLES IN SCHEMA {SCHEMA} TO {role}"),
        format!("GRANT USAGE ON ALL SEQUENCES IN SCHEMA {SCHEMA} TO {role}"),
        format!("REVOKE INSERT, UPDATE, DELETE ON {SCHEMA}._sqlx_migrations FROM {role}"),
    ];
    for function in ["make_months(text, integer)", "drop_months(text, text)"] {
        statements.push(format!("GRANT EXECUTE ON FUNCTION {SCHEMA}.{function} TO {role}"));
    }
    for statement in statements {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await.map_err(cannot)?;
    }
    tx.commit().await.map_err(cannot)
}

/// Refuses a schema that this version's statements would not fit.
async fn expect_this_version(login: &mut PgConnection, name: &Arc<str>) -> Result<(), StoreError> {
    let failed = |source| failed(name, "its version", source);
    let is_there: bool = sqlx::query_scalar("SELECT to_regclass('plumb._sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *login)
        .await
        .map_err(failed)?;
    if !is_there {
        return Err(StoreError::Missing { path: name.to_string() });
    }
    let applied: Vec<i64> = sqlx::query_scalar("SELECT version FROM plumb._sqlx_migrations WHERE success")
        .fetch_all(&mut *login)
        .await
        .map_err(failed)?;
    super::expect_this_version(&MIGRATIONS, &applied, name)
}

fn failed(_: &Arc<str>, what: &'static str, source: sqlx::Error) -> StoreError {
    StoreError::Query { what, source }
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// The URL as it may be shown.
pub fn without_password(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut shown) => {
            // Only URLs without a host have no place for one.
            let _ = shown.set_password(None);
            shown.set_query(None);
            shown.to_string()
        }
        Err(_) => "the given database".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_have_roles_of_their_own_however_long_their_names() {
        let longest = "d".repeat(LONGEST_NAME - "plumb_".len() - "_service".len());
        assert_eq!(service_role("state"), "plumb_state_service");
        assert_eq!(service_role(&longest), format!("plumb_{longest}_service"));
        let (one, other) = (service_role(&format!("{longest}_one")), service_role(&format!("{longest}_other")));
        assert!(one != other && one.len() == LONGEST_NAME && one.ends_with("_service"), "{one}, {other}");
        assert!(service_role(&"ü".repeat(31)).len() <= LONGEST_NAME);
    }
}

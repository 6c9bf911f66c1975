//! The state in the schema `plumb` of a PostgreSQL database.
//!
//! What always holds: every transaction works as a role that owns nothing, has no login and cannot bypass row-level
//! security, and sees the rows of its own tenant alone (`migrations/postgres`); one process at a time reconciles (an
//! advisory lock that ends with its connection, and is looked for in every transaction that writes).
//!
//! The login of the URL makes and migrates the schema, and makes the role `plumb_<database>_service`, for which it needs
//! `CREATE` on the database and, the first time, `CREATEROLE`. It needs no superuser.

#[path = "../rows.rs"]
#[allow(clippy::duplicate_mod, reason = "compiled once for each database")]
mod rows;
#[path = "../statements.rs"]
#[allow(clippy::duplicate_mod, reason = "compiled once for each database")]
mod statements;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Postgres, Transaction};

use self::statements::{Access, SqlTx};
use super::{Mode, Scope, Store, StoreError, Tx};

/// The database of the statements.
type Db = Postgres;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// The schema that holds everything.
const SCHEMA: &str = "plumb";
/// The advisory lock of the reconciler; the letters of "plumb".
const LOCK: i64 = 0x70_6c_75_6d_62;
/// The advisory lock of writers: shared by those of tenants, taken alone by those of the platform.
const WRITERS: i64 = LOCK + 1;
/// How transactions begin, whatever the defaults of the database or the login.
const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// The longest name that PostgreSQL keeps whole, in bytes.
const LONGEST_NAME: usize = 63;
/// How long a transaction waits for a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of one process.
const CONNECTIONS: u32 = 12;

/// The state in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    name: Arc<str>,
    pool: PgPool,
    writes: Writes,
}

#[derive(Clone, Debug)]
enum Writes {
    /// Under the lock of the one reconciler.
    Locked(Arc<Lock>),
    /// Beside a reconciler.
    Beside,
    Never,
}

/// The connection that keeps other reconcilers out for as long as it is open, and the server's number for it.
#[derive(Debug)]
struct Lock {
    _connection: PgConnection,
    backend: i32,
}

impl PostgresStore {
    /// Opens the store that `url` names: `postgres://login@host:port/database`. A password may be in the variable
    /// `PGPASSWORD`.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process reconciles with it; [`StoreError::Role`] when the login cannot make
    /// or take the role it has to work as; [`StoreError::Missing`], [`StoreError::Older`] or [`StoreError::Newer`] when
    /// the schema is not there or not of this version; others when the database cannot be used.
    pub async fn open(url: &str, mode: Mode) -> Result<Self, StoreError> {
        let options: PgConnectOptions =
            url.parse().map_err(|source| StoreError::Open { path: without_password(url), source })?;
        let options = options.application_name("plumb").options([("search_path", SCHEMA)]).disable_statement_logging();
        let name: Arc<str> = without_password(url).into();
        let cannot_open = |source| StoreError::Open { path: name.to_string(), source };
        let mut login = PgConnection::connect_with(&options).await.map_err(cannot_open)?;
        let database: String =
            sqlx::query_scalar("SELECT current_database()").fetch_one(&mut login).await.map_err(cannot_open)?;
        let role = service_role(&database);
        let writes = match mode {
            Mode::Reconcile => {
                let lock = lock(&options, &name).await?;
                migrate(&mut login, &name).await?;
                provide_role(&mut login, &role, &name).await?;
                Writes::Locked(Arc::new(lock))
            }
            Mode::Append | Mode::ReadOnly => {
                expect_this_version(&mut login, &name).await?;
                if mode == Mode::Append { Writes::Beside } else { Writes::Never }
            }
        };
        // What goes wrong with the role is told here, and not as a pool that gives no connection.
        let cannot_take = |source| StoreError::Role { path: name.to_string(), role: role.clone(), source };
        take_role(&mut login, &role).await.map_err(cannot_take)?;
        login.close().await.map_err(cannot_open)?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(CONNECTION_TIMEOUT)
            .after_connect(move |connection, _| {
                let role = role.clone();
                Box::pin(async move { take_role(connection, &role).await })
            })
            .connect_with(options)
            .await
            .map_err(cannot_open)?;
        Ok(Self { name, pool, writes })
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
        let wait = match scope {
            Scope::Platform => sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(WRITERS),
            Scope::Tenant(tenant) => {
                sqlx::query("SELECT pg_advisory_xact_lock_shared($1), pg_advisory_xact_lock(hashtextextended($2, $1))")
                    .bind(WRITERS)
                    .bind(tenant)
            }
        };
        wait.execute(connection).await.map_err(|source| self.cannot_begin(source))?;
        Ok(())
    }

    async fn expect_lock(&self, connection: &mut PgConnection, lock: &Lock) -> Result<(), StoreError> {
        // The two halves of the lock's number are two columns.
        let held: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = $1 \
             AND (classid::bigint << 32 | objid::bigint) = $2)",
        )
        .bind(lock.backend)
        .bind(LOCK)
        .fetch_one(connection)
        .await
        .map_err(|source| self.cannot_begin(source))?;
        if held { Ok(()) } else { Err(StoreError::LostLock { path: self.name.to_string() }) }
    }

    /// Sets what the rest of the transaction may see and change.
    async fn enter(&self, connection: &mut PgConnection, scope: &Scope) -> Result<(), StoreError> {
        let (kind, tenant) = match scope {
            Scope::Platform => ("platform", ""),
            Scope::Tenant(tenant) => ("tenant", tenant.as_str()),
        };
        sqlx::query("SELECT set_config('plumb.scope', $1, true), set_config('plumb.tenant', $2, true)")
            .bind(kind)
            .bind(tenant)
            .execute(connection)
            .await
            .map_err(|source| self.cannot_begin(source))?;
        Ok(())
    }

    fn cannot_begin(&self, source: sqlx::Error) -> StoreError {
        failed(&self.name, "a transaction", source)
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn begin(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError> {
        let lock = match &self.writes {
            Writes::Locked(lock) => Some(Arc::clone(lock)),
            Writes::Beside => None,
            Writes::Never => return Err(StoreError::ReadOnly),
        };
        let mut inner = self.start(BEGIN_WRITE).await?;
        self.wait_for_writers(&mut inner, &scope).await?;
        // After the wait: the lock may have been lost meanwhile, and another process may have written.
        if let Some(lock) = &lock {
            self.expect_lock(&mut inner, lock).await?;
        }
        self.enter(&mut inner, &scope).await?;
        Ok(Box::new(SqlTx::new(inner, scope, Access::Write { _lock: lock }, Arc::clone(&self.name))))
    }

    async fn read(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError> {
        let mut inner = self.start(BEGIN_READ).await?;
        self.enter(&mut inner, &scope).await?;
        Ok(Box::new(SqlTx::new(inner, scope, Access::Read, Arc::clone(&self.name))))
    }
}

/// The role that the tables are used with. Roles are of a whole server, so it has the database's name in it.
fn service_role(database: &str) -> String {
    const END: &str = "_service";
    let start = format!("plumb_{database}");
    let fits = start.floor_char_boundary(LONGEST_NAME - END.len());
    format!("{}{END}", &start[..fits])
}

async fn take_role(connection: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    let set = AssertSqlSafe(format!("SET ROLE {}", quoted(role)));
    sqlx::query(set).execute(&mut *connection).await?;
    Ok(())
}

/// Takes the lock of the reconciler, on a connection of its own.
async fn lock(options: &PgConnectOptions, name: &Arc<str>) -> Result<Lock, StoreError> {
    let failed = |source| failed(name, "its lock", source);
    let mut connection = PgConnection::connect_with(options).await.map_err(failed)?;
    let (is_locked, backend): (bool, i32) = sqlx::query_as("SELECT pg_try_advisory_lock($1), pg_backend_pid()")
        .bind(LOCK)
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
    match is_locked {
        true => Ok(Lock { _connection: connection, backend }),
        false => Err(StoreError::Locked { path: name.to_string() }),
    }
}

async fn migrate(login: &mut PgConnection, name: &Arc<str>) -> Result<(), StoreError> {
    let make = AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS {SCHEMA}"));
    sqlx::query(make).execute(&mut *login).await.map_err(|source| failed(name, "its schema", source))?;
    match MIGRATIONS.run(&mut *login).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(_)) => Err(StoreError::Newer { path: name.to_string() }),
        Err(error) => Err(StoreError::Migrate(error)),
    }
}

/// Makes the role, if it is not there, and lets it use the tables; its rows are the policies' to choose.
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
    statements.push(format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO {role}"));
    statements.push(format!("GRANT USAGE ON ALL SEQUENCES IN SCHEMA {SCHEMA} TO {role}"));
    statements.push(format!("REVOKE INSERT, UPDATE, DELETE ON {SCHEMA}._sqlx_migrations FROM {role}"));
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
fn without_password(url: &str) -> String {
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

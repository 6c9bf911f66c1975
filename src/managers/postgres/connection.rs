//! The way to the server: a few kept connections to the maintenance database, and short ones into each database.
//!
//! What always holds: at most `max_concurrency` of each at a time; every question is bounded in time, on both ends; a
//! connection that saw a failure, or whose work was abandoned, is closed and never used again, so that no lock, no
//! open transaction and no setting outlives the work it was for; and nothing that a database or role carries as its
//! default (`search_path`, `role`, read-only transactions) steers what is done here.
//!
//! **A lock outlives nobody for long.** A session holds one between statements, so the server is told to end it when it
//! says nothing for [`LOCK_SILENCES`] times the timeout; work in another session gives signs of life here meanwhile
//! ([`Session::meanwhile`]). A session inside a database is ended after one timeout, so whatever stops this process, what
//! it was about to do there is over before the lock is another's: a statement that runs takes less than a timeout, and
//! the last sign of life is at most one and a half old when it begins. Before PostgreSQL 14 no server ends idle sessions;
//! there keepalives find a host that is gone, and a process that is stopped keeps its lock.

use std::pin::pin;
use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Postgres};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use url::Url;

use super::errors::{Cause, Failure};
use crate::managers::{Endpoint, ManagerError};
use crate::model::Reason;

/// The maintenance database when the URL names none.
const DEFAULT_DATABASE: &str = "postgres";
const DEFAULT_PORT: u16 = 5432;

/// How many timeouts the server waits for a sign of life of a session that holds a lock.
const LOCK_SILENCES: u32 = 4;
/// So many signs of life in one timeout, while work goes on in another session.
const SIGNS_OF_LIFE: u32 = 2;
/// How many unanswered probes of a connection find that the other host is gone.
const KEEPALIVES: u32 = 3;

/// One server. Not `Debug`: the options hold the login's password.
pub(super) struct Server {
    name: String,
    options: PgConnectOptions,
    timeout: Duration,
    concurrency: usize,
    idle: Mutex<Vec<PgConnection>>,
    maintenance_slots: Semaphore,
    database_slots: Semaphore,
}

impl Server {
    /// A server at `endpoint`; nothing is connected yet.
    pub fn new(endpoint: &Endpoint) -> Result<Self, ManagerError> {
        let concurrency = endpoint.max_concurrency.max(1);
        Ok(Self {
            name: endpoint.name.clone(),
            options: connect_options(endpoint)?,
            timeout: endpoint.timeout,
            concurrency,
            idle: Mutex::new(Vec::new()),
            maintenance_slots: Semaphore::new(concurrency),
            database_slots: Semaphore::new(concurrency),
        })
    }

    /// How many connections of each sort at a time.
    pub fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// The database that marks are looked for and locks are taken in.
    pub fn maintenance_database(&self) -> &str {
        self.options.get_database().unwrap_or(DEFAULT_DATABASE)
    }

    /// The login, as it is called on the server.
    pub fn login(&self) -> &str {
        self.options.get_username()
    }

    /// The host, or the folder of the socket.
    pub fn host(&self) -> String {
        match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => self.options.get_host().to_owned(),
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.options.get_port()
    }

    /// A session in the maintenance database: a kept one that still answers, else a new one.
    pub async fn maintenance(&self) -> Result<Lease<'_>, Failure> {
        let slot = acquire(&self.maintenance_slots).await;
        let kept = self.idle.lock().await.pop();
        if let Some(mut connection) = kept
            && matches!(tokio::time::timeout(self.timeout, connection.ping()).await, Ok(Ok(())))
        {
            return Ok(Lease { session: self.session(connection), server: self, _slot: slot });
        }
        let session = self.open(self.options.clone(), "connect").await?;
        Ok(Lease { session, server: self, _slot: slot })
    }

    /// A session in `database`, to be closed after use.
    pub async fn database(&self, database: &str) -> Result<Inside<'_>, Failure> {
        let slot = acquire(&self.database_slots).await;
        let options = self.options.clone().database(database);
        let session = self.open(options, &format!("connect to the database {database:?}")).await?;
        Ok(Inside { session, _slot: slot })
    }

    async fn open(&self, options: PgConnectOptions, doing: &str) -> Result<Session, Failure> {
        let cause = match tokio::time::timeout(self.timeout, options.connect()).await {
            Ok(Ok(connection)) => return Ok(self.session(connection)),
            Ok(Err(error)) => Cause::Sql(error),
            Err(_) => Cause::Timeout(self.timeout),
        };
        Err(Failure { provider: self.name.clone(), doing: doing.to_owned(), cause })
    }

    fn session(&self, connection: PgConnection) -> Session {
        Session { provider: self.name.clone(), connection, timeout: self.timeout }
    }
}

async fn acquire(slots: &Semaphore) -> SemaphorePermit<'_> {
    slots.acquire().await.expect("the semaphores are never closed")
}

/// A maintenance session, given back by [`Lease::give_back`] and closed otherwise.
pub(super) struct Lease<'a> {
    pub session: Session,
    server: &'a Server,
    _slot: SemaphorePermit<'a>,
}

impl Lease<'_> {
    /// Keeps the connection for the next use: only after work that went well and left no lock.
    pub async fn give_back(self) {
        self.server.idle.lock().await.push(self.session.connection);
    }
}

/// A session inside one of the databases.
pub(super) struct Inside<'a> {
    pub session: Session,
    _slot: SemaphorePermit<'a>,
}

impl Inside<'_> {
    /// Says goodbye. That the server hears it soon matters: an open session stands in the way of `DROP DATABASE`.
    pub async fn close(self) {
        let Session { connection, timeout, .. } = self.session;
        // A goodbye that fails or takes too long leaves a closed socket, which is all that is wanted.
        drop(tokio::time::timeout(timeout, connection.close()).await);
    }
}

/// One connection, whose every question is bounded.
#[derive(Debug)]
pub(super) struct Session {
    provider: String,
    connection: PgConnection,
    timeout: Duration,
}

impl Session {
    /// Runs statements in one round trip; without `BEGIN` they are one transaction.
    pub async fn run(&mut self, doing: &str, sql: String) -> Result<(), Failure> {
        if sql.contains('\0') {
            return Err(self.failure(doing, Cause::Nul));
        }
        // Every statement is built by `sql`'s quoting helpers.
        let work = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection);
        match tokio::time::timeout(self.timeout, work).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.failure(doing, Cause::Sql(error))),
            Err(_) => Err(self.failure(doing, Cause::Timeout(self.timeout))),
        }
    }

    /// Takes a lock for as long as this session lives; the server ends it once it is silent for too long.
    pub async fn lock(&mut self, doing: &str, lock: i64) -> Result<(), Failure> {
        let silence = end_after(Some(self.timeout * LOCK_SILENCES));
        self.run(doing, format!("{silence};\nSELECT pg_advisory_lock({lock})")).await
    }

    /// Gives the lock back, and may be silent again for as long as it likes.
    pub async fn unlock(&mut self, lock: i64) -> Result<(), Failure> {
        let sql = format!("SELECT pg_advisory_unlock({lock});\n{}", end_after(None));
        self.run("give the lock back", sql).await
    }

    /// Has the server end this session once it is silent for a timeout.
    pub async fn expect_signs_of_life(&mut self) -> Result<(), Failure> {
        self.run("limit how long the session may be idle", end_after(Some(self.timeout))).await
    }

    /// Waits for `work` in another session under the lock that this one holds. Gives signs of life meanwhile, and gives
    /// the work up where they are not answered, since the lock may be another's by then.
    pub async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = Result<T, ManagerError>>,
    ) -> Result<T, ManagerError> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                // A process that was stopped for long finds out before it goes on.
                biased;
                () = tokio::time::sleep(self.timeout / SIGNS_OF_LIFE) => {}
                done = &mut work => return done,
            }
            self.run("keep the lock", "SELECT 1".to_owned()).await?;
        }
    }

    /// Asks a question.
    pub async fn rows(&mut self, doing: &str, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, Failure> {
        match tokio::time::timeout(self.timeout, query.fetch_all(&mut self.connection)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => Err(self.failure(doing, Cause::Sql(error))),
            Err(_) => Err(self.failure(doing, Cause::Timeout(self.timeout))),
        }
    }

    /// Something that went wrong while `doing`.
    pub fn failure(&self, doing: &str, cause: Cause) -> Failure {
        Failure { provider: self.provider.clone(), doing: doing.to_owned(), cause }
    }
}

/// Has the server end the session once it is silent for this long, or never again. Servers that know of no such thing
/// are left alone.
fn end_after(silence: Option<Duration>) -> String {
    let value = silence.map_or("NULL".to_owned(), |silence| format!("'{}'", milliseconds(silence)));
    format!(
        "SELECT set_config('idle_session_timeout', {value}, false) \
         WHERE current_setting('server_version_num')::int >= 140000"
    )
}

fn milliseconds(time: Duration) -> String {
    time.as_millis().max(1).to_string()
}

fn seconds(time: Duration) -> String {
    time.as_secs().max(1).to_string()
}

/// What to connect with. Nothing is taken from the environment (`PGPASSWORD` and the like) or a password file: a
/// Provider's credentials go to that Provider alone.
fn connect_options(endpoint: &Endpoint) -> Result<PgConnectOptions, ManagerError> {
    let refuse = |why: &str| {
        let message =
            format!("{}: spec.url {why}; write it like postgres://plumb@db.example.org:5432/postgres", endpoint.name);
        ManagerError::terminal(Reason::Rejected, message)
    };
    // The parser's own errors are not shown: they may repeat the text, and a password by mistake in it.
    let url = Url::parse(&endpoint.url).map_err(|_| refuse("cannot be read"))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(refuse("is not of PostgreSQL"));
    }
    let asks_for = |name: &str| url.query_pairs().any(|(key, _)| key == name);
    if url.password().is_some() || asks_for("password") {
        return Err(refuse("holds a password; name it in spec.credentials instead"));
    }
    if url.username().is_empty() && !asks_for("user") {
        return Err(refuse("names no login"));
    }
    if url.host_str().is_none_or(str::is_empty) && !asks_for("host") && !asks_for("hostaddr") {
        return Err(refuse("names no host"));
    }
    let mut options: PgConnectOptions =
        endpoint.url.parse().map_err(|_| refuse("has an option that cannot be read"))?;
    if url.port().is_none() && !asks_for("port") {
        options = options.port(DEFAULT_PORT);
    }
    if url.path().trim_start_matches('/').is_empty() && !asks_for("dbname") {
        options = options.database(DEFAULT_DATABASE);
    }
    let password = endpoint.password.as_ref().map_or("", |password| password.expose_secret());
    // The server gives up a little before we stop listening, so that it is the one to say why.
    let statement_timeout = endpoint.timeout.mul_f32(0.9);
    let lock_timeout = endpoint.timeout.mul_f32(0.75);
    Ok(options
        .password(password)
        .application_name("plumb")
        .options([
            ("search_path", "pg_catalog".to_owned()),
            ("role", "none".to_owned()),
            ("default_transaction_read_only", "off".to_owned()),
            ("standard_conforming_strings", "on".to_owned()),
            ("row_security", "on".to_owned()),
            ("statement_timeout", milliseconds(statement_timeout)),
            ("lock_timeout", milliseconds(lock_timeout)),
            ("idle_in_transaction_session_timeout", milliseconds(endpoint.timeout)),
            ("tcp_keepalives_idle", seconds(endpoint.timeout)),
            ("tcp_keepalives_interval", seconds(endpoint.timeout / KEEPALIVES)),
            ("tcp_keepalives_count", KEEPALIVES.to_string()),
            ("tcp_user_timeout", milliseconds(endpoint.timeout * 2)),
        ])
        // Statements carry SCRAM verifiers; no log gets them.
        .disable_statement_logging())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use secrecy::SecretString;

    use super::*;
    use crate::model::ProviderType;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint {
            name: "pg-main".to_owned(),
            provider_type: ProviderType::Postgres,
            url: url.to_owned(),
            password: Some(SecretString::from("s3cret")),
            base_dir: PathBuf::new(),
            max_concurrency: 2,
            timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn an_address_is_read_whole() {
        let server = Server::new(&endpoint("postgres://plumb@db.example.org/")).unwrap();
        assert_eq!(
            (server.host().as_str(), server.port(), server.login(), server.maintenance_database()),
            ("db.example.org", 5432, "plumb", "postgres")
        );
        let server = Server::new(&endpoint("postgres:///admin?host=/run/postgresql&user=plumb&port=5433")).unwrap();
        assert_eq!(
            (server.host().as_str(), server.port(), server.login(), server.maintenance_database()),
            ("/run/postgresql", 5433, "plumb", "admin")
        );
    }

    #[test]
    fn an_address_that_cannot_be_used_is_refused_without_repeating_it() {
        for url in [
            "postgres://plumb:hunter2@db/postgres",
            "postgres://plumb@db/postgres?password=hunter2",
            "postgres://db/postgres",
            "postgres:///postgres?user=plumb",
            "mysql://plumb@db/hunter2",
            "hunter2",
            "postgres://plumb@db/postgres?sslmode=hunter2",
        ] {
            let error = Server::new(&endpoint(url)).err().expect("a refusal");
            assert_eq!(error.reason(), Reason::Rejected, "{url}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}

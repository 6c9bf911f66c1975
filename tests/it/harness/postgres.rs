//! A real PostgreSQL server of the tests' own: scram passwords, a free port, a temporary folder.
//!
//! ```ignore
//! let server = PostgresServer::shared();                  // one for the whole test binary: use names of your own
//! let manager = connect(server.endpoint("pg-main"))?;     // as `plumb`, with CREATEDB and CREATEROLE and no more
//! server.psql("CREATE ROLE someone").await;               // as the superuser, in the database postgres
//! let mut app = server.connect("orders", "orders_app", "its password").await?;
//! let own = PostgresServer::start();                      // one that this test alone may stop or pause
//! ```
//!
//! What always holds: a server ends with the test process that started it, however that ends, and its folder goes with
//! it. Beside each server waits a shell that reads from a pipe which only the test process holds open.
//!
//! PostgreSQL refuses to run as root, so it is run as the user `postgres` there. `PLUMB_TEST_POSTGRES_BIN` names a
//! folder of binaries to use instead of the newest in /usr/lib/postgresql.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use plumb::managers::Endpoint;
use plumb::model::ProviderType;
use secrecy::SecretString;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

const SUPERUSER: &str = "postgres";
const SUPERUSER_PASSWORD: &str = "superuser-of-the-tests";
const LOGIN: &str = "plumb";
const LOGIN_PASSWORD: &str = "login-of-the-tests";
/// Long enough for a loaded machine to run initdb, short enough to fail a test that hangs.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// A server, and the process that ends it.
pub struct PostgresServer {
    folder: PathBuf,
    port: u16,
    /// `None` while it is stopped.
    watchdog: Mutex<Option<Child>>,
}

impl PostgresServer {
    /// The server that all tests share; make databases and roles with names of your own in it, and never stop it.
    pub fn shared() -> &'static PostgresServer {
        static SHARED: OnceLock<PostgresServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server of the caller's own, ready to be connected to. It is stopped when dropped.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("plumb-pg-").tempdir().expect("a temporary folder").keep();
        give_to_postgres(&folder);
        let password_file = folder.join("password");
        std::fs::File::create(&password_file)
            .and_then(|mut file| file.write_all(SUPERUSER_PASSWORD.as_bytes()))
            .expect("the password file");
        let initdb = as_postgres(&binaries().join("initdb"))
            .current_dir(&folder)
            .arg("--pgdata")
            .arg(folder.join("data"))
            .args(["--username", SUPERUSER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .arg(format!("--pwfile={}", password_file.display()))
            .output()
            .expect("initdb runs");
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        let server = Self { port: free_port(), folder, watchdog: Mutex::new(None) };
        server.restart();
        let login = format!("CREATE ROLE {LOGIN} LOGIN CREATEDB CREATEROLE PASSWORD '{LOGIN_PASSWORD}'");
        on_a_thread(async { server.psql(&login).await });
        server
    }

    /// Starts the stopped server again, on the same port.
    pub fn restart(&self) {
        let mut watchdog = self.watchdog();
        assert!(watchdog.is_none(), "the server runs already");
        // The shell outlives nobody: when the pipe closes, however the tests end, it stops the server and cleans up.
        let script = "exec 3<&0; \"$@\" </dev/null >>\"$LOG\" 2>&1 & server=$!; read -r order <&3; \
                      kill -CONT $(cat \"$FOLDER/stopped\" 2>/dev/null) 2>/dev/null; \
                      if [ \"$order\" = shut ]; then kill -INT $server; else kill -QUIT $server; fi 2>/dev/null; \
                      wait $server; if [ -z \"$order\" ]; then rm -rf \"$FOLDER\"; fi";
        let child = as_postgres(Path::new("/bin/sh"))
            .args(["-c", script, "watchdog"])
            .arg(binaries().join("postgres"))
            .arg("-D")
            .arg(self.folder.join("data"))
            .arg("-p")
            .arg(self.port.to_string())
            .arg("-k")
            .arg(&self.folder)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200"])
            .current_dir(&self.folder)
            .env("FOLDER", &self.folder)
            .env("LOG", self.folder.join("log"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("the server starts");
        *watchdog = Some(child);
        drop(watchdog);
        on_a_thread(self.until_ready());
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap()
    }

    async fn until_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.connect(SUPERUSER, SUPERUSER, SUPERUSER_PASSWORD).await {
                Ok(_) => return,
                Err(error) => {
                    let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                    assert!(Instant::now() < deadline, "the server is not ready: {error}\n{log}");
                    tokio::time::sleep(BETWEEN_LOOKS).await;
                }
            }
        }
    }

    /// Stops the server at once, as a crash would, and keeps its data for [`PostgresServer::restart`].
    pub fn stop(&self) {
        let Some(mut child) = self.watchdog().take() else { return };
        end(&mut child, "keep\n");
    }

    /// Shuts the server down as an administrator does: sessions are ended, nothing is waited for, what is committed is
    /// written. Keeps its data for [`PostgresServer::restart`].
    pub fn shut_down(&self) {
        let Some(mut child) = self.watchdog().take() else { return };
        end(&mut child, "shut\n");
    }

    /// Stops every process of the server in its tracks: connections stay open and nothing answers.
    pub fn pause(&self) {
        let processes = self.processes();
        std::fs::write(self.folder.join("stopped"), processes.join(" ")).expect("the list of stopped processes");
        signal("-STOP", &processes);
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        signal("-CONT", &self.processes());
    }

    /// The server's own process and those of its sessions.
    fn processes(&self) -> Vec<String> {
        let file = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).expect("the server runs");
        let main = file.lines().next().expect("a process id").to_owned();
        let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap_or_default();
        std::iter::once(main).chain(children.split_whitespace().map(str::to_owned)).collect()
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix socket.
    pub fn socket_folder(&self) -> &Path {
        &self.folder
    }

    /// The address for a superuser, password included: for tests' own tools, never for a Provider.
    pub fn superuser_url(&self) -> String {
        format!("postgres://{SUPERUSER}:{SUPERUSER_PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }

    /// The name and password of the login that Plumb uses: CREATEDB and CREATEROLE, no superuser.
    pub fn login(&self) -> (&'static str, &'static str) {
        (LOGIN, LOGIN_PASSWORD)
    }

    /// The address for that login, as `spec.url` of a Provider.
    pub fn url(&self) -> String {
        format!("postgres://{LOGIN}@127.0.0.1:{}/postgres", self.port)
    }

    /// What a manager connects to.
    pub fn endpoint(&self, name: &str) -> Endpoint {
        Endpoint {
            name: name.to_owned(),
            provider_type: ProviderType::Postgres,
            url: self.url(),
            password: Some(SecretString::from(LOGIN_PASSWORD)),
            base_dir: PathBuf::from("/nonexistent"),
            max_concurrency: 4,
            timeout: Duration::from_secs(30),
        }
    }

    /// A connection as anybody: how an application logs in.
    pub async fn connect(&self, database: &str, user: &str, password: &str) -> Result<PgConnection, sqlx::Error> {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .database(database)
            .username(user)
            .password(password)
            .disable_statement_logging()
            .connect()
            .await
    }

    /// Runs statements as the superuser in the database `postgres`.
    pub async fn psql(&self, sql: &str) {
        self.psql_in("postgres", sql).await;
    }

    /// Runs statements as the superuser in `database`. Several are one transaction.
    pub async fn psql_in(&self, database: &str, sql: &str) {
        let mut connection = self.superuser(database).await;
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        connection.close().await.expect("a goodbye");
    }

    /// Asks as the superuser in `database`.
    pub async fn query(&self, database: &str, sql: &str) -> Vec<PgRow> {
        let mut connection = self.superuser(database).await;
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await;
        connection.close().await.expect("a goodbye");
        rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// One of PostgreSQL's own programs, as the superuser.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(binaries().join(name));
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string());
        command.env("PGUSER", SUPERUSER).env("PGPASSWORD", SUPERUSER_PASSWORD);
        command
    }

    async fn superuser(&self, database: &str) -> PgConnection {
        let options: PgConnectOptions = self.superuser_url().parse().expect("an address of ours");
        options.database(database).connect().await.expect("the superuser connects")
    }

    fn watchdog(&self) -> MutexGuard<'_, Option<Child>> {
        self.watchdog.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        match self.watchdog().take() {
            Some(mut child) => end(&mut child, ""),
            None => drop(std::fs::remove_dir_all(&self.folder)),
        }
    }
}

/// Gives the watchdog its last order and waits until the server is gone.
fn end(child: &mut Child, order: &str) {
    if let Some(mut pipe) = child.stdin.take() {
        // A watchdog that is gone already has done its work.
        drop(pipe.write_all(order.as_bytes()));
    }
    drop(child.wait());
}

/// The newest server on this machine, or the one that the environment names.
fn binaries() -> PathBuf {
    if let Some(folder) = std::env::var_os("PLUMB_TEST_POSTGRES_BIN") {
        return PathBuf::from(folder);
    }
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed: apt-get install postgresql");
    let newest = versions
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder)| folder.join("initdb").exists())
        .max();
    newest.expect("PostgreSQL is installed: apt-get install postgresql").1
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A command, run as the user `postgres` where we are root.
fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
    command
}

fn give_to_postgres(folder: &Path) {
    if is_root() {
        let status = Command::new("chown").arg("postgres:").arg(folder).status().expect("chown runs");
        assert!(status.success(), "chown of {}", folder.display());
    }
}

fn signal(signal: &str, processes: &[String]) {
    // A session may have ended since it was listed.
    Command::new("sh")
        .args(["-c", "kill \"$@\" 2>/dev/null || true", "kill", signal])
        .args(processes)
        .status()
        .expect("kill runs");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Runs a future to its end from anywhere, inside a runtime or not.
fn on_a_thread<F: Future<Output = ()> + Send>(future: F) {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future);
        });
        if let Err(panic) = worker.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

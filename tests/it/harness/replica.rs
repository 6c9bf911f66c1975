//! A real `plumb serve` that shares its state with others of its kind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plumb::model::Place;

use super::desk::{Desk, PLUMB};

/// In the data directory.
const LOG: &str = "log";
/// Long enough for a loaded machine to start a program.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// A `plumb serve` with a data directory of its own; killed when dropped, and its log is shown where a test failed.
pub struct Replica {
    process: Child,
    data: tempfile::TempDir,
}

impl Replica {
    /// Starts one that keeps its state in the PostgreSQL `database` and the password of its providers in `login`.
    pub fn start(desk: &Desk, database: &str, lease: Duration, login: &Path) -> Self {
        let data = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(data.path().join(LOG)).unwrap();
        let process = Command::new(PLUMB)
            .args(["serve", "--listen", "127.0.0.1:0", "--lease", &format!("{}ms", lease.as_millis())])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", desk.folder())
            .env("PLUMB_PLATFORM", desk.platform.url())
            .env("PLUMB_DATABASE", database)
            .env("PLUMB_DATA_DIR", data.path())
            .env("PLUMB_SECRET_KEY", "11".repeat(32))
            .env("PG_LOGIN", login)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, data }
    }

    /// Sends it a signal: `KILL`, `STOP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Tells it to stop, and waits until it has; gives its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.end()
    }

    /// Waits until it has ended; gives its exit code.
    pub fn end(&mut self) -> Option<i32> {
        self.process.wait().unwrap().code()
    }

    /// Whether it is this one that looks at a tenant.
    pub fn holds(&self, place: &Place) -> bool {
        let number = format!("/{}/", self.process.id());
        place.holder.as_ref().is_some_and(|holder| holder.0.contains(&number))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Where its page is, once it is there: `http://127.0.0.1:port`.
    pub fn address(&self) -> String {
        let start = Instant::now();
        loop {
            if let Some((_, rest)) = self.log().split_once("serving the status page at ")
                && let Some((address, _)) = rest.split_once("/\n").or_else(|| rest.split_once("/ "))
            {
                return address.to_owned();
            }
            assert!(start.elapsed() < PATIENCE, "it does not serve: {}", self.log());
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    fn log_file(&self) -> PathBuf {
        self.data.path().join(LOG)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the log of {}:\n{}", self.process.id(), self.log());
        }
        // It may be dead already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

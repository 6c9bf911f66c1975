//! A Redis server of a test's own: on a free port of this machine, in a temporary folder, gone with the test.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::server::once_ready;

/// How many ports are tried: another program may take one between its choice and its use.
const PORTS: usize = 5;

/// How a server is set up.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Whether users are kept in a file.
    pub aclfile: bool,
    /// The password of the user `default`; without one, anybody may log in.
    pub password: Option<String>,
}

/// A running server.
pub struct RedisServer {
    pub port: u16,
    options: RedisOptions,
    directory: TempDir,
    child: Child,
}

impl RedisServer {
    /// Starts a server and waits until it takes connections.
    pub fn start(options: RedisOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        if options.aclfile {
            let password = options.password.as_ref().map_or("nopass".to_owned(), |password| format!(">{password}"));
            std::fs::write(directory.path().join("users.acl"), format!("user default on {password} ~* &* +@all\n"))
                .unwrap();
        }
        for _ in 0..PORTS {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if let Some(child) = launch(&directory, port, &options) {
                return Self { port, options, directory, child };
            }
        }
        panic!("redis-server does not start; is it installed?");
    }

    /// `redis://{user}@...`, as a Provider names it.
    pub fn url(&self, user: &str) -> String {
        format!("redis://{user}@127.0.0.1:{}", self.port)
    }

    /// The file that users are kept in.
    pub fn aclfile(&self) -> PathBuf {
        self.directory.path().join("users.acl")
    }

    /// Kills the server and starts it again on the same port.
    pub fn restart(&mut self) {
        self.stop();
        self.child = launch(&self.directory, self.port, &self.options).expect("the server starts again");
    }

    /// Kills the server.
    pub fn stop(&mut self) {
        // It may be dead already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Makes the server answer nothing, with its connections open.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// What redis-cli prints as the user `default`.
    pub fn cli(&self, arguments: &[&str]) -> String {
        self.cli_as("default", self.options.password.as_deref().unwrap_or("any"), arguments)
    }

    /// What redis-cli prints, as another user.
    pub fn cli_as(&self, user: &str, password: &str, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "--user", user, "--no-auth-warning"])
            .args(arguments)
            .env("REDISCLI_AUTH", password)
            .output()
            .expect("redis-cli is installed");
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        text.trim_end().to_owned()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a server that dies with this test, however that ends; `None` when it could not have the port.
fn launch(directory: &TempDir, port: u16, options: &RedisOptions) -> Option<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "redis-server", "--bind", "127.0.0.1", "--port", &port.to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(directory.path());
    match (options.aclfile, &options.password) {
        (true, _) => {
            command.arg("--aclfile").arg(directory.path().join("users.acl"));
        }
        (false, Some(password)) => {
            command.args(["--requirepass", password]);
        }
        (false, None) => {}
    }
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("setpriv and redis-server are installed");
    let log = child.stdout.take().unwrap();
    once_ready("redis-server", child, log, |line| line.contains("Ready to accept connections"))
}

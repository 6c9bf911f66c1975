//! A person at a terminal: the real program, two repositories, and an environment that holds no surprises.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::git::GitRepo;
use super::postgres::PostgresServer;

/// The program that is tested.
pub const PLUMB: &str = env!("CARGO_BIN_EXE_plumb");

/// The repositories of `examples/starter`, and a folder to work in.
pub struct Desk {
    pub platform: GitRepo,
    pub tenant: GitRepo,
    folder: TempDir,
}

/// What the program said.
#[derive(Debug)]
pub struct Said {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl Desk {
    /// A folder with nothing in it, and two repositories without a commit.
    pub fn empty() -> Self {
        Self { platform: GitRepo::new(), tenant: GitRepo::new(), folder: TempDir::new().expect("a temporary folder") }
    }

    /// The starter's platform and its tenant `checkout`, committed.
    pub fn with_starter() -> Self {
        let desk = Self::empty();
        let starter = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/starter");
        let read = |path: &str| std::fs::read_to_string(starter.join(path)).expect("a file of the starter");
        for file in ["platform.yaml", "providers.yaml", "tenants.yaml"] {
            let text = read(&format!("platform/{file}"));
            desk.platform.write(file, text.replace("file:///srv/git/checkout.git", &desk.tenant.url()));
        }
        desk.platform.commit("Start the platform");
        for environment in ["staging", "production"] {
            let file = format!("environments/{environment}/orders.yaml");
            desk.tenant.write(&file, read(&format!("checkout/{file}")));
        }
        desk.tenant.commit("Start with Plumb");
        desk
    }

    /// Adds a Provider to the platform, with these lines in its spec, for the tenant to use.
    pub fn add_provider(&self, name: &str, spec: &str) {
        let provider =
            format!("---\napiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: {name}}}\nspec:\n{spec}");
        self.platform.write("providers.yaml", self.platform.show("main:providers.yaml") + &provider);
        let tenants = self.platform.show("main:tenants.yaml");
        self.platform
            .write("tenants.yaml", tenants.replace("providers: [files", &format!("providers: [files, {name}")));
        self.platform.commit("Add a provider");
    }

    /// Adds the Provider `pg`, which is a server, for the tenant to use.
    pub fn add_postgres(&self, server: &PostgresServer) {
        let login = self.folder().join("login");
        std::fs::write(&login, server.login().1).expect("the file can be written");
        let credentials = format!("{{file: {}}}", login.display());
        self.add_provider("pg", &format!("  type: postgres\n  url: {}\n  credentials: {credentials}\n", server.url()));
    }

    /// Writes a document of staging; the caller commits.
    pub fn want(&self, kind: &str, name: &str, spec: &str) {
        let document = format!(
            "apiVersion: plumb.dev/v1\nkind: {kind}\nmetadata:\n  name: {name}\n  labels: {{owner: team-checkout}}\nspec: \
             {{{spec}}}\n"
        );
        self.tenant.write(&format!("environments/staging/{name}.yaml"), document);
    }

    /// Where commands are run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in the data directory.
    pub fn data(&self, path: &str) -> PathBuf {
        self.folder().join("plumb-data").join(path)
    }

    /// Runs the program with the platform set.
    pub fn plumb(&self, args: &[&str]) -> Said {
        self.plumb_with(args, &[("PLUMB_PLATFORM", &self.platform.url())])
    }

    /// Runs the program with these variables and no others of Plumb's.
    pub fn plumb_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Said {
        said(self.command(args, variables).output().expect("the program starts"))
    }

    /// Runs the program on a terminal of its own, where nobody types anything. What it says on stderr stands between what it
    /// prints, as people see it.
    pub fn on_a_terminal(&self, args: &[&str], variables: &[(&str, &str)]) -> Said {
        let line: Vec<String> = [PLUMB].iter().chain(args).map(|word| format!("'{word}'")).collect();
        let mut command = self.surrounded(Command::new("script"), variables);
        command.args(["--quiet", "--return", "--command", &format!("exec {}", line.join(" ")), "/dev/null"]);
        if !variables.iter().any(|(name, _)| *name == "TERM") {
            command.env("TERM", "xterm");
        }
        said(command.output().expect("script is installed; Debian has it in bsdutils"))
    }

    /// Runs the program, with the platform set, as somebody for whom permissions hold: they do not for root.
    pub fn plumb_within_permissions(&self, args: &[&str]) -> Said {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-dac_override,-dac_read_search", "--"]);
        command.arg(PLUMB).args(args);
        let variables = [("PLUMB_PLATFORM", &*self.platform.url())];
        said(self.surrounded(command, &variables).output().expect("setpriv is installed"))
    }

    /// Applies once more what replicas have made, with their database and key; there is nothing left to do.
    pub fn applies_nothing_more(&self, database: &str) {
        let key = "11".repeat(32);
        let again = self.plumb_with(
            &["apply", "-o", "json"],
            &[("PLUMB_PLATFORM", &self.platform.url()), ("PLUMB_DATABASE", database), ("PLUMB_SECRET_KEY", &key)],
        );
        assert_eq!(again.code, 0, "{again:?}");
        let told: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
        assert!(told.as_array().unwrap().iter().all(|tenant| tenant["done"] == 0), "{told:#}");
    }

    /// The same as [`Self::plumb_with`]; gives the most memory that it had, in bytes, too.
    pub fn plumb_measured(&self, args: &[&str], variables: &[(&str, &str)]) -> (Said, usize) {
        let mut command = self.command(args, variables);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let status = format!("/proc/{}/status", child.id());
        let mut most = 0;
        while child.try_wait().expect("it is there").is_none() {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let peak =
                text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
            most = most.max(peak.unwrap_or(0_usize) << 10);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        (said(child.wait_with_output().expect("it has ended")), most)
    }

    /// Starts `plumb serve` on a free port, and waits until its first look is over.
    pub fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    /// The same, with more variables.
    pub fn serve_with(&self, variables: &[(&str, &str)]) -> Server {
        let args = ["serve", "--listen", "127.0.0.1:0"];
        let mut child = self
            .command(&args, &[("PLUMB_PLATFORM", &self.platform.url())])
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let mut until = |told: &str| loop {
            let line = lines.next().expect("it tells that before it ends").expect("text");
            if let Some((_, rest)) = line.split_once(told) {
                return rest.to_owned();
            }
        };
        let served = until("serving the status page at ");
        let address = served.split_whitespace().next().expect("an address").trim_end_matches('/').to_owned();
        until("looked tenant=");
        // Reads on, so that the server never waits for a reader of its log.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Server { child, address }
    }

    /// Starts the program with the platform set; gives it, and what it prints line by line.
    pub fn start(&self, args: &[&str]) -> (Started, impl Iterator<Item = String> + use<>) {
        let mut command = self.command(args, &[("PLUMB_PLATFORM", &self.platform.url())]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        (Started(child), lines.map_while(Result::ok))
    }

    /// The program with these words; nothing is started yet.
    pub fn command(&self, args: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(PLUMB);
        command.args(args);
        self.surrounded(command, variables)
    }

    /// A command in the folder to work in, with the environment that holds no surprises.
    pub fn surrounded(&self, mut command: Command, variables: &[(&str, &str)]) -> Command {
        command.current_dir(self.folder()).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.folder()).env("TMPDIR", std::env::temp_dir());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C.UTF-8");
        command.envs(variables.iter().copied());
        command
    }
}

/// What a program said that has ended.
pub fn said(output: std::process::Output) -> Said {
    Said {
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
        code: output.status.code().expect("it ends by itself"),
    }
}

/// A program that runs until this is dropped.
pub struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `plumb serve`.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:port`
    pub address: String,
}

impl Server {
    /// Ends it as a service manager does; gives its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let sent = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(sent.success());
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

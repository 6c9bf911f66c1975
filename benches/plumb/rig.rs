//! What the benches stand on: a platform and a tenant in a temporary folder, and programs measured whole.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plumb::engine::vault::{StoredSecrets, Vault, system_rng};
use plumb::engine::{Engine, LEASE, Settings};
use plumb::model::{Clock, Event, Replica, SystemClock};
use plumb::store::Mode;
use plumb::store::Store;
use plumb::store::sqlite::SqliteStore;
use tempfile::TempDir;

/// A program, run to its end.
pub struct Run {
    pub time: Duration,
    /// The most resident memory it was seen with, in MiB.
    pub peak_mib: u64,
}

/// Runs a program and measures it whole. One that fails ends the bench.
pub fn measured(mut command: Command) -> Run {
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let status_file = format!("/proc/{}/status", child.id());
    let watch = std::thread::spawn(move || {
        let mut peak = 0;
        while let Some(now) = resident_peak(&status_file) {
            peak = peak.max(now);
            std::thread::sleep(Duration::from_millis(10));
        }
        peak
    });
    let mut said = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().expect("piped"), &mut said).expect("text");
    let status = child.wait().expect("the program ends");
    let time = start.elapsed();
    assert!(status.success(), "{command:?} ended with {status}: {said}");
    Run { time, peak_mib: watch.join().expect("the watch ends") / 1024 }
}

/// The run in the middle, by time.
pub fn median(mut runs: Vec<Run>) -> Run {
    runs.sort_by_key(|run| run.time);
    runs.swap_remove(runs.len() / 2)
}

/// `VmHWM` in KiB; `None` once the process is gone.
pub fn resident_peak(status_file: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status_file).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Where all that is measured stands until everything has been: ext4 walks past each inode that was freed within the
/// last minute when it makes a file, so a bench that ran after another's ten thousand files were deleted would measure
/// that.
pub struct Ground(TempDir);

impl Ground {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    /// A new folder, empty.
    pub fn folder(&self) -> PathBuf {
        tempfile::tempdir_in(self.0.path()).expect("a temporary folder").keep()
    }
}

/// A platform with one tenant, `bench`.
pub struct Rig {
    folder: PathBuf,
}

impl Rig {
    pub fn new(ground: &Ground) -> Self {
        Self { folder: ground.folder() }
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }

    fn tenant(&self) -> PathBuf {
        self.path().join("tenant")
    }

    fn write(&self, path: &str, text: &str) {
        let file = self.path().join(path);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("the folder can be made");
        std::fs::write(file, text).expect("the file can be written");
    }

    /// A platform whose provider is a folder of SQLite files.
    pub fn write_platform(&self) {
        self.write_provider(
            "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {name: main}\nspec:\n  type: sqlite\n  url: sqlite:databases\n  \
             serves: [{kind: Database}]\n",
        );
    }

    /// A platform with this provider, which has to be called `main`.
    pub fn write_provider(&self, provider: &str) {
        self.write(
            "platform/platform.yaml",
            "apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {name: bench}\nspec: {id: bench}\n",
        );
        self.write("platform/provider.yaml", provider);
        let tenant = format!(
            "apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: bench}}\nspec:\n  repository: {{url: \"{}\"}}\n  \
             environments: [staging]\n  providers: [main]\n",
            self.tenant().display()
        );
        self.write("platform/tenant.yaml", &tenant);
    }

    /// Six policies beside the four built-in ones.
    pub fn write_policies(&self) {
        for number in 0..6 {
            let text = format!(
                "package plumb.bench{number}\n\nimport rego.v1\n\ndeny contains {{\"msg\": \"too many\", \"path\": \"/spec/userVersion\"}} if {{\n\t\
                 input.resource.spec.userVersion > {}\n}}\n",
                1_000_000 + number
            );
            self.write(&format!("platform/policies/bench{number}.rego"), &text);
        }
    }

    /// `count` databases, a hundred a folder.
    pub fn write_databases(&self, count: usize) {
        for number in 0..count {
            self.write_database(number, "");
        }
    }

    fn write_database(&self, number: usize, more: &str) {
        let text = format!(
            "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: db-{number}\n  environment: staging\n  labels: {{owner: \
             team-bench}}\nspec:\n  # the schema of the application\n  userVersion: {number}\n{more}"
        );
        self.write(&format!("tenant/group-{}/db-{number}.yaml", number / 100), &text);
    }

    /// A platform with many tenants, `team-0` and so on, on one provider.
    pub fn write_tenants(&self, count: usize, platform: &str, provider: &str) {
        self.write(
            "platform/platform.yaml",
            &format!(
                "apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {{name: bench}}\nspec: {{id: bench, {platform}}}\n---\n\
                 apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: main}}\nspec: {{{provider}, serves: [{{kind: \
                 Database}}]}}\n"
            ),
        );
        for number in 0..count {
            let tenant = format!(
                "apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: team-{number}}}\nspec:\n  repository: {{url: \
                 \"{}\"}}\n  environments: [staging]\n  providers: [main]\n",
                self.team(number).display()
            );
            self.write(&format!("platform/tenants/team-{number}.yaml"), &tenant);
        }
    }

    fn team(&self, number: usize) -> PathBuf {
        self.path().join(format!("teams/team-{number}"))
    }

    /// `count` databases of a tenant among many, a hundred a folder, each with a spec of its own.
    pub fn write_in(&self, team: usize, count: usize, spec: impl Fn(usize) -> String) {
        self.write(&format!("teams/team-{team}/README.md"), "Databases\n");
        for number in 0..count {
            self.write_one(team, number, &spec(number));
        }
    }

    /// One of them.
    pub fn write_one(&self, team: usize, number: usize, spec: &str) {
        let text = format!(
            "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: db-{number}\n  environment: staging\n  labels: {{owner: \
             team-bench}}\nspec:\n  provider: main\n{spec}"
        );
        self.write(&format!("teams/team-{team}/group-{}/db-{number}.yaml", number / 100), &text);
    }

    /// Commits what changed of the platform and of every tenant among many.
    pub fn commit_many(&self) {
        let teams = std::fs::read_dir(self.path().join("teams")).expect("there are teams");
        let mut folders: Vec<PathBuf> = teams.map(|team| team.expect("a team").path()).collect();
        folders.push(self.path().join("platform"));
        in_parallel(&folders, |folder| {
            git(folder, &["init", "--quiet", "--initial-branch=main"]);
            if !git(folder, &["status", "--porcelain"]).is_empty() {
                commit_all(folder);
            }
        });
    }

    /// Any manifest of the tenant.
    pub fn write_manifest(&self, name: &str, text: &str) {
        self.write(&format!("tenant/{name}.yaml"), text);
    }

    /// Commits both repositories; gives the tenant's head.
    pub fn commit(&self) -> String {
        for repository in ["platform", "tenant"] {
            let folder = self.path().join(repository);
            git(&folder, &["init", "--quiet", "--initial-branch=main"]);
            commit_all(&folder);
        }
        self.git(&["rev-parse", "HEAD"])
    }

    /// Changes one database of the tenant and commits; gives the head.
    pub fn change_one(&self) -> String {
        let commits: usize = self.git(&["rev-list", "--count", "HEAD"]).parse().expect("a number");
        self.write_database(4_242, &format!("  foreignKeys: {}\n", commits % 2 == 1));
        commit_all(&self.tenant());
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git in the tenant's repository.
    pub fn git(&self, args: &[&str]) -> String {
        git(&self.tenant(), args)
    }

    /// The program, at home in this rig.
    pub fn plumb(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plumb"));
        command.current_dir(self.path()).args(args).env("PLUMB_PLATFORM", "platform").env("PLUMB_DATA_DIR", "data");
        command
    }

    /// An engine over this rig, in this process, that tells `listener` what it does.
    pub async fn engine(&self, listener: impl Fn(&Event) + Send + Sync + 'static) -> Engine {
        let data_dir = self.path().join("data");
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&data_dir, Mode::Reconcile).await.expect("a store"));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let vault = Arc::new(Vault::open(&data_dir, None, &mut system_rng()).expect("a vault"));
        let secrets = StoredSecrets::open(Arc::clone(&store), vault, Arc::clone(&clock), system_rng()).await;
        let settings = Settings {
            platform: self.path().join("platform").display().to_string(),
            platform_branch: None,
            platform_token: None,
            data_dir,
            replica: Replica("bench".to_owned()),
            person: "bench".to_owned(),
            lease: LEASE,
        };
        Engine::new(settings, store, Arc::new(secrets.expect("secrets")), clock, Arc::new(listener))
    }
}

/// Works on each folder, on all cores: a thousand programs take their time one after the other.
fn in_parallel(folders: &[PathBuf], work: impl Fn(&Path) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for some in folders.chunks(folders.len().div_ceil(threads).max(1)) {
            scope.spawn(|| some.iter().for_each(|folder| work(folder)));
        }
    });
}

fn commit_all(folder: &Path) {
    git(folder, &["add", "--all"]);
    let who = ["-c", "user.name=bench", "-c", "user.email=bench@example.invalid", "-c", "commit.gpgsign=false"];
    git(folder, &[&who[..], &["commit", "--quiet", "--message", "Bench"]].concat());
}

fn git(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(folder).args(args).output().expect("git starts");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

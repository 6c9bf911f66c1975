//! The disk is full: of the state, of embedded databases, or of both. It is said what to do, what is live is whole and is
//! found again, and once there is room everything goes on.
//!
//! The small disk is a tmpfs in a mount namespace of its own. Where none may be mounted, a limit on the size of files
//! stands for it: what would grow beyond it is refused by the system as well.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plumb::model::{EventKind, ExecutionOutcome, Mark};
use plumb::store::sqlite::SqliteStore;
use plumb::store::{HistoryFilter, Mode, Scope, Store};
use sqlx::Connection;

use crate::harness::desk::PLUMB;
use crate::harness::git::GitRepo;

/// Long enough for a loaded machine; what is waited for comes within seconds.
const PATIENCE: Duration = Duration::from_secs(90);
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// Room for a state and some databases.
const MIB: u64 = 12;
const KIB: u64 = 1024;
/// Of each provider.
const DATABASES: usize = 4;
/// What is said where there is no room.
const ADVICE: &str = "make room";

/// A disk that can be filled.
enum Disk {
    /// The process that holds the namespace, until its pipe closes.
    Mounted {
        holder: Child,
        folder: tempfile::TempDir,
    },
    Limited {
        folder: tempfile::TempDir,
        most: Option<u64>,
    },
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = "mount -t tmpfs -o size=$0,mode=777 plumb-test \"$1\" && echo mounted && read -r end";
        let mut command = Command::new("unshare");
        if !is_root() {
            command.arg("--map-root-user");
        }
        let started = command
            .args(["--mount", "sh", "-c", mount, &format!("{MIB}m")])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(mut holder) = started {
            let mut told = String::new();
            BufReader::new(holder.stdout.take().unwrap()).read_line(&mut told).unwrap();
            if told.trim() == "mounted" {
                return Self::Mounted { holder, folder };
            }
            holder.wait().unwrap();
        }
        println!("nothing may be mounted here; a limit on the size of files stands for a full disk");
        Self::Limited { folder, most: None }
    }

    /// Where it is for a program on it.
    fn path(&self) -> &Path {
        match self {
            Self::Mounted { folder, .. } | Self::Limited { folder, .. } => folder.path(),
        }
    }

    /// Where it is for the test.
    fn seen(&self) -> PathBuf {
        match self {
            Self::Mounted { holder, folder } => Path::new("/proc")
                .join(holder.id().to_string())
                .join("root")
                .join(folder.path().strip_prefix("/").unwrap()),
            Self::Limited { folder, .. } => folder.path().to_owned(),
        }
    }

    /// A command that finds the disk.
    fn command(&self, program: &str) -> Command {
        match self {
            Self::Mounted { holder, .. } => {
                let mut command = Command::new("nsenter");
                command.args(["--mount", "--target", &holder.id().to_string()]);
                if !is_root() {
                    command.args(["--user", "--preserve-credentials"]);
                }
                command.args(["--", program]);
                command
            }
            Self::Limited { most, .. } => {
                let limit = most.map_or("unlimited".to_owned(), |most| most.to_string());
                let mut command = Command::new("sh");
                command.args(["-c", "trap '' XFSZ; exec prlimit --fsize=\"$0:\" \"$@\"", &limit, program]);
                command
            }
        }
    }

    /// Leaves so many bytes free, for those that run and those that begin.
    fn fill(&mut self, left: u64, running: Option<u32>) {
        match self {
            Self::Mounted { .. } => {
                let mut filler = File::create(self.seen().join("filler")).unwrap();
                let (block, mut written) = (vec![0; 4096], 0);
                while filler.write_all(&block).is_ok() {
                    written += 4096;
                }
                filler.set_len(u64::saturating_sub(written, left)).unwrap();
            }
            Self::Limited { most, .. } => *most = Some(left.max(1)),
        }
        self.limit(running);
    }

    fn make_room(&mut self, running: Option<u32>) {
        match self {
            Self::Mounted { .. } => std::fs::remove_file(self.seen().join("filler")).unwrap(),
            Self::Limited { most, .. } => *most = None,
        }
        self.limit(running);
    }

    fn limit(&self, running: Option<u32>) {
        if let (Self::Limited { most, .. }, Some(process)) = (self, running) {
            let limit = most.map_or("unlimited".to_owned(), |most| most.to_string());
            let set =
                Command::new("prlimit").args(["--pid", &process.to_string(), &format!("--fsize={limit}:")]).status();
            assert!(set.unwrap().success());
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Self::Mounted { holder, .. } = self {
            drop(holder.stdin.take());
            let _ = holder.wait();
        }
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A platform with two providers: one on the disk of the state, one elsewhere.
struct Works {
    disk: Disk,
    elsewhere: tempfile::TempDir,
    platform: GitRepo,
    tenant: GitRepo,
    home: tempfile::TempDir,
    /// The name of the data directory; each has folders of databases of its own.
    data: String,
}

impl Works {
    fn new() -> Self {
        let (platform, tenant) = (GitRepo::new(), GitRepo::new());
        let works = Self {
            disk: Disk::new(),
            elsewhere: tempfile::tempdir().unwrap(),
            platform,
            tenant,
            home: tempfile::tempdir().unwrap(),
            data: String::new(),
        };
        works.write(1);
        works
    }

    /// Begins anew, with nothing.
    fn anew(&mut self, data: &str) {
        self.data = data.to_owned();
        let provider = |name: &str, folder: &Path| {
            format!(
                "---\napiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: {name}}}\nspec: {{type: sqlite, url: \
                 \"sqlite://{}\"}}\n",
                folder.display()
            )
        };
        self.platform.write(
            "platform.yaml",
            format!(
                "apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {{name: test}}\nspec: {{id: disks, pollInterval: 500ms}}\n\
                 {}{}---\napiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: team}}\nspec:\n  repository: {{url: \
                 \"{}\"}}\n  environments: [staging]\n  providers: [here, elsewhere]\n",
                provider("here", &self.disk.path().join(data).join("databases")),
                provider("elsewhere", &self.elsewhere.path().join(data)),
                self.tenant.url()
            ),
        );
        self.platform.commit(&format!("Begin {data}"));
    }

    /// Wants this version of all databases.
    fn write(&self, version: i64) {
        for provider in ["here", "elsewhere"] {
            for number in 0..DATABASES {
                let name = format!("{provider}{number}");
                let text = format!(
                    "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {{name: {name}, labels: {{owner: x}}}}\nspec: \
                     {{provider: {provider}, userVersion: {version}}}\n"
                );
                self.tenant.write(&format!("environments/staging/{name}.yaml"), text);
            }
        }
        self.tenant.commit(&format!("Want version {version}"));
    }

    fn plumb(&self, args: &[&str]) -> Command {
        let mut command = self.disk.command(PLUMB);
        command.args(args).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.home.path());
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("NO_COLOR", "1");
        command.env("PLUMB_PLATFORM", self.platform.url()).env("PLUMB_DATA_DIR", self.disk.path().join(&self.data));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.plumb(args).output().unwrap()
    }

    /// Live databases by their names, whole: the id that each got when it was made, and its version.
    async fn live(&self) -> BTreeMap<String, (String, i64)> {
        let mut live = BTreeMap::new();
        for folder in [self.disk.seen().join(&self.data).join("databases"), self.elsewhere.path().join(&self.data)] {
            for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
                let name = entry.file_name().into_string().unwrap();
                if name.starts_with('.') || !name.ends_with(".db") {
                    continue;
                }
                let (_copy, mut connection) = open_copy(&entry.path()).await;
                is_sound(&mut connection, &name).await;
                let (id, mark): (String, String) =
                    sqlx::query_as("SELECT id, mark FROM plumb_mark").fetch_one(&mut connection).await.unwrap();
                assert!(!Mark::from_text(&mark).expect("a mark").unfinished, "{name}");
                let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                live.insert(name, (id, version));
            }
        }
        live
    }

    /// The state is sound, where there is one.
    async fn state_is_sound(&self) {
        let file = self.disk.seen().join(&self.data).join("plumb.db");
        if std::fs::metadata(&file).is_ok_and(|file| file.len() > 0) {
            let (_copy, mut connection) = open_copy(&file).await;
            is_sound(&mut connection, "the state").await;
            connection.close().await.unwrap();
        }
    }

    /// With room again, one look brings everything to this version, and makes nothing a second time.
    async fn expect_all_once(&mut self, version: i64, when: &str) {
        let before = self.live().await;
        self.state_is_sound().await;
        let said = self.run(&["apply", "-o", "json"]);
        assert_eq!(said.status.code(), Some(0), "{when}: {said:?}");
        let live = self.live().await;
        assert_eq!(live.len(), 2 * DATABASES, "{when}: {live:?}");
        assert!(live.values().all(|(_, now)| *now == version), "{when}: {live:?}");
        for (name, (id, _)) in &before {
            assert_eq!(live[name].0, *id, "{when}: {name} was made a second time");
        }
        let again = self.run(&["apply", "-o", "json"]);
        let told: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
        assert_eq!((again.status.code(), &told[0]["done"]), (Some(0), &serde_json::json!(0)), "{when}: {told:#}");
        assert_eq!(self.run(&["audit", "--verify"]).status.code(), Some(0), "{when}");
        self.history_is_whole(when).await;
    }

    async fn history_is_whole(&self, when: &str) {
        let copy = copy_of(&self.disk.seen().join(&self.data).join("plumb.db"));
        let store = SqliteStore::open(copy.path(), Mode::ReadOnly).await.unwrap();
        let mut tx = store.read(Scope::Platform).await.unwrap();
        assert_eq!(tx.inventory().await.unwrap().records.len(), 2 * DATABASES, "{when}");
        let all = HistoryFilter { limit: 10_000, ..HistoryFilter::default() };
        let events = tx.events(&all).await.unwrap();
        for execution in tx.executions(&all).await.unwrap() {
            let of = |kind: fn(&EventKind) -> bool| {
                events.iter().filter(|event| event.execution == execution.id && kind(&event.kind)).count()
            };
            let begun = of(|kind| matches!(kind, EventKind::StepStarted { .. }));
            let ended = of(|kind| matches!(kind, EventKind::StepDone { .. } | EventKind::StepFailed { .. }));
            assert_ne!(execution.outcome, ExecutionOutcome::Running, "{when}");
            if execution.outcome != ExecutionOutcome::Interrupted {
                assert_eq!(begun, ended, "{when}: {execution:?}");
            }
        }
    }
}

/// A database with its log, copied: SQLite would look for the file itself where the link to the other namespace leads
/// here.
fn copy_of(file: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    for name in [name.to_owned(), format!("{name}-wal"), format!("{name}-journal")] {
        match std::fs::copy(file.with_file_name(&name), copy.path().join(&name)) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{name}: {error}"),
        }
    }
    copy
}

async fn open_copy(file: &Path) -> (tempfile::TempDir, sqlx::SqliteConnection) {
    let copy = copy_of(file);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(copy.path().join(file.file_name().unwrap()));
    (copy, sqlx::SqliteConnection::connect_with(&options).await.unwrap())
}

async fn is_sound(connection: &mut sqlx::SqliteConnection, what: &str) {
    let sound: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(connection).await.unwrap();
    assert_eq!(sound, "ok", "{what}");
}

/// How much the files below a folder hold.
fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let sizes = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => size_of(&entry.path()),
        false => entry.metadata().unwrap().len(),
    });
    sizes.sum()
}

/// Expects that a run without room said what to do; gives whether it had room enough.
fn had_room(said: &Output, when: &str) -> bool {
    let told = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    if said.status.code() == Some(0) {
        return true;
    }
    println!("{when}: {}", told.replace('\n', "\n    "));
    assert_eq!(said.status.code(), Some(1), "{when}: {told}");
    assert!(told.contains(ADVICE), "{when}: {told}");
    assert!(!told.contains("panicked"), "{when}: {told}");
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_apply_on_a_disk_that_fills_up_says_so_and_is_gone_on_from() {
    let mut works = Works::new();
    works.anew("whole");
    works.expect_all_once(1, "with room").await;
    let needs = size_of(&works.disk.seen());
    std::fs::remove_dir_all(works.disk.seen().join("whole")).unwrap();
    let mut short = 0;
    for (number, share) in [0, 5, 60, 130, 180, 220, 260, 300, 350].into_iter().enumerate() {
        works.anew(&format!("d{number}"));
        let left = needs * share / 100;
        works.disk.fill(left, None);
        let when = format!("{} KiB left of {}", left / KIB, needs / KIB);
        let said = works.run(&["apply"]);
        short += usize::from(!had_room(&said, &when));
        works.disk.make_room(None);
        works.expect_all_once(1, &when).await;
        std::fs::remove_dir_all(works.disk.seen().join(&works.data)).unwrap();
    }
    assert!(short >= 3, "the disk was full {short} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_a_disk_that_fills_up_says_so_and_is_gone_on_from() {
    let mut works = Works::new();
    works.anew("data");
    works.expect_all_once(1, "with room").await;
    let (mut short, mut version) = (0, 1);
    for left in [0, 8, 24, 64, 128] {
        version += 1;
        works.write(version);
        works.disk.fill(left * KIB, None);
        let when = format!("{left} KiB left");
        let said = works.run(&["apply"]);
        short += usize::from(!had_room(&said, &when));
        // Nobody is left between two versions.
        works.disk.make_room(None);
        assert!(works.live().await.values().all(|(_, now)| [version - 1, version].contains(now)), "{when}");
        works.expect_all_once(version, &when).await;
    }
    assert!(short >= 2, "the disk was full {short} times");
}

/// A `plumb serve`, and what it logs.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_disk_was_full_goes_on_by_itself() {
    let mut works = Works::new();
    works.anew("data");
    works.expect_all_once(1, "with room").await;
    let mut serving = works.plumb(&["serve", "--listen", "127.0.0.1:0"]);
    let mut process = serving.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = Arc::new(Mutex::new(String::new()));
    let (lines, heard) = (BufReader::new(process.stderr.take().unwrap()).lines(), Arc::clone(&log));
    std::thread::spawn(move || {
        lines.map_while(Result::ok).for_each(|line| heard.lock().unwrap().push_str(&format!("{line}\n")));
    });
    let server = Server(process);
    let told = || log.lock().unwrap().clone();
    until("its first look", async || told().contains("looked tenant=")).await;
    works.disk.fill(0, Some(server.0.id()));
    works.write(2);
    until("what to do", async || told().contains(ADVICE)).await;
    works.disk.make_room(Some(server.0.id()));
    let looks = told().matches("outcome=InSync").count();
    until("a look that finds all in place", async || told().matches("outcome=InSync").count() > looks).await;
    let stop = Command::new("kill").args(["-TERM", &server.0.id().to_string()]).status().unwrap();
    assert!(stop.success());
    let mut server = server;
    assert_eq!(server.0.wait().unwrap().code(), Some(0), "{}", told());
    works.history_is_whole("served").await;
    works.expect_all_once(2, "served").await;
}

async fn until(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !seen().await {
        assert!(start.elapsed() < PATIENCE, "{what} does not come");
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

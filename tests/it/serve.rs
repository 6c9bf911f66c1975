//! `plumb serve` as a process: it polls, answers drift, shows its page, keeps others out, and stops when told.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::git::{GitHttpServer, MergeHow};
use crate::harness::postgres::PostgresServer;
use crate::harness::redis::{RedisOptions, RedisServer};
use crate::harness::world::World;

/// Long enough for a loaded machine; what is waited for comes within a second or two.
const PATIENCE: Duration = Duration::from_secs(90);
const BRANCH: &str = "plumb/drift/staging/database-orders";

/// A running server, and what it logs.
struct Server {
    process: Child,
    log: Receiver<String>,
    /// All that it has logged.
    told: Arc<Mutex<String>>,
    url: String,
}

impl Server {
    fn start(world: &World) -> Self {
        Self::start_with(world, "info")
    }

    /// One that logs this much.
    fn start_with(world: &World, level: &str) -> Self {
        let mut process = plumb(world, &["serve", "--listen", "127.0.0.1:0"])
            .env("PLUMB_LOG", level)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stderr = process.stderr.take().unwrap();
        let (lines, log) = channel();
        let told = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&told);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                *heard.lock().unwrap() += &format!("{line}\n");
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        let mut server = Self { process, log, told, url: String::new() };
        let line = server.wait_for(&["serving the status page at "]);
        let start = line.find("http://").unwrap();
        server.url = line[start..].split_whitespace().next().unwrap().trim_end_matches('/').to_owned();
        server
    }

    /// The next line of the log that holds all of `words`.
    fn wait_for(&self, words: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) if words.iter().all(|word| line.contains(word)) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("{words:?} did not come; the log: {seen:#?}"),
            }
        }
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        plumb::source::init_tls();
        reqwest::get(format!("{}{path}", self.url)).await.unwrap()
    }

    fn stop(mut self) -> Option<i32> {
        let status = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status().unwrap();
        assert!(status.success());
        self.process.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed leaves no server behind; one that is stopped already cannot be killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn plumb(world: &World, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plumb"));
    command
        .args(args)
        .env("PLUMB_PLATFORM", world.platform.url())
        .env("PLUMB_DATA_DIR", world.data())
        .env("NO_COLOR", "1")
        .env_remove("PLUMB_LOG")
        .stdin(Stdio::null());
    command
}

/// A world with one database, and a server that polls often and has made it.
async fn served_world() -> (World, Server) {
    let mut world = World::with_files().await;
    world.stop();
    world.platform.write(
        "platform.yaml",
        "apiVersion: plumb.dev/v1\nkind: Platform\nmetadata: {name: test}\nspec: {id: test-platform, pollInterval: 200ms}\n",
    );
    world.platform.commit("Poll often");
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
    let server = Server::start(&world);
    server.wait_for(&["looked", "done=1"]);
    (world, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_follows_commits_and_drift_and_stops_when_told() {
    let (world, server) = served_world().await;

    // A commit is seen by polling alone.
    world.write_database("staging", "orders", "userVersion: 8");
    world.tenant.commit("Expect 8");
    server.wait_for(&["looked", "done=1"]);
    assert_eq!(world.number("staging", "orders", "PRAGMA user_version").await, 8);

    // A look on demand finds what was changed by hand; the merge is seen by polling.
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    let asked = plumb(&world, &["reconcile", "checkout", "--server", &server.url]).output().unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    server.wait_for(&["looked", "drifted=1"]);
    assert!(world.tenant.branches().contains(&BRANCH.to_owned()));
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    server.wait_for(&["looked", "drifted=0", "blocked=0"]);

    // The page and its API.
    let resources: Value = server.get("/api/v1/resources").await.json().await.unwrap();
    assert_eq!(resources["items"][0]["key"], "checkout/staging/Database/orders");
    assert_eq!(resources["items"][0]["ready"], "True");
    assert_eq!(server.get("/health").await.status(), 200);
    assert_eq!(server.get("/ready").await.status(), 200);
    assert!(server.get("/metrics").await.text().await.unwrap().contains("plumb_resources"));
    assert!(server.get("/").await.text().await.unwrap().contains("<html"));

    // Two reconcilers on one data directory: the second stops.
    let second = plumb(&world, &["apply"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another plumb is reconciling"), "{said}");

    // The command line reads the same from the server and beside it.
    for more in [&["--server", server.url.as_str()][..], &[]] {
        let got = plumb(&world, &[&["get", "-o", "json"], more].concat()).output().unwrap();
        let got: Value = serde_json::from_slice(&got.stdout).unwrap();
        assert_eq!(got[0]["key"], "checkout/staging/Database/orders");
    }
    assert_eq!(server.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_vanishes_is_waited_for() {
    let (world, server) = served_world().await;
    world.tenant.vanish();
    server.wait_for(&["could not be reconciled", "no git repository"]);
    assert_eq!(world.number("staging", "orders", "PRAGMA user_version").await, 7, "nothing is pruned");
    world.tenant.come_back();
    world.write_database("staging", "orders", "userVersion: 9");
    world.tenant.commit("Expect 9");
    server.wait_for(&["looked", "done=1"]);
    assert_eq!(server.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_the_log_the_api_the_metrics_or_the_state() {
    const TOKEN: &str = "planted-token-5e1f";
    const REDIS: &str = "planted-redis-90ab";
    const WRONG: &str = "planted-wrong-77cd";
    let login = PostgresServer::shared().login().1;
    let redis = RedisServer::start(RedisOptions { aclfile: true, password: Some(REDIS.to_owned()) });
    let mut world = World::with_postgres(PostgresServer::shared()).await;
    world.stop();
    world.tenant.remote_git(&["config", "http.receivepack", "true"]);
    let git = GitHttpServer::start(world.tenant.remote().parent().unwrap(), Some(&format!("x-access-token:{TOKEN}")));
    let credentials = tempfile::tempdir().unwrap();
    let planted = |name: &str, secret: &str| {
        let file = credentials.path().join(name);
        std::fs::write(&file, secret).unwrap();
        file.display().to_string()
    };
    let (token, password) = (planted("token", TOKEN), planted("redis", REDIS));
    let id = world.platform.show("main:platform.yaml");
    world.platform.write("platform.yaml", id.trim_end().to_owned() + "\n  pollInterval: 200ms\n");
    let provider = format!(
        "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: redis}}\nspec:\n  type: redis\n  url: {}\n  \
         credentials: {{file: {password}}}\n  serves: [{{kind: Cache}}]\n",
        redis.url("default")
    );
    world.platform.write("redis.yaml", provider);
    let spec = format!(
        "repository: {{url: \"{}\", credentials: {{file: {token}}}}}\nenvironments: [staging, production]\n\
         providers: [files, pg, redis]",
        git.url("remote.git")
    );
    world.write_tenant_spec(&spec);
    world.platform.commit("Plant secrets");
    let database =
        |limit: u32| format!("provider: pg\nconnectionLimit: {limit}\nroles:\n  - {{name: app, access: read}}");
    world.write_database("staging", "orders", &database(20));
    world.write_resource("staging", "Cache", "sessions", "", "categories: [read]");
    world.tenant.commit("Add both");
    let server = Server::start_with(&world, "trace");
    server.wait_for(&["looked", "done=2"]);

    // What goes wrong is told too: a proposal is pushed, logins are refused, the repository too.
    let orders = world.object("staging", "orders");
    PostgresServer::shared().psql(&format!("ALTER DATABASE {orders} CONNECTION LIMIT 50")).await;
    let look = || assert!(plumb(&world, &["reconcile", "--server", &server.url]).output().unwrap().status.success());
    look();
    server.wait_for(&["looked", "drifted=1"]);
    world.write_login(WRONG);
    planted("redis", WRONG);
    look();
    server.wait_for(&["looked", "Blocked", "unchanged=0"]);
    let mut told = String::new();
    let key = world.key("staging/Database/orders");
    let pages = ["overview", "tenants", "resources", "proposals", "orphans", "executions", "executions/2", "events"];
    for page in
        pages.map(str::to_owned).into_iter().chain([format!("tenants/{}", world.name), format!("resources/{key}")])
    {
        let answer = server.get(&format!("/api/v1/{page}")).await;
        assert_eq!(answer.status(), 200, "{page}");
        told += &answer.text().await.unwrap();
    }
    assert!(told.contains("AuthenticationFailed"), "{told}");
    told += &server.get("/metrics").await.text().await.unwrap();
    planted("token", WRONG);
    look();
    server.wait_for(&["could not be reconciled"]);
    told += &server.get(&format!("/api/v1/tenants/{}", world.name)).await.text().await.unwrap();
    let log = Arc::clone(&server.told);
    assert_eq!(server.stop(), Some(0));
    told += &log.lock().unwrap();
    assert!(told.contains("TRACE") && told.contains("plumb_resources"), "all of it was looked at");
    for secret in [TOKEN, REDIS, WRONG, login] {
        assert!(!told.contains(secret), "{secret} in {}", told.lines().find(|line| line.contains(secret)).unwrap());
        assert!(world.files_with(secret).is_empty(), "{secret} in {:?}", world.files_with(secret));
    }
    assert!(!world.files_with(&key).is_empty(), "the search finds what is there");
}

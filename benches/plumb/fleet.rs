//! The engine as a service: how fast a mark is claimed and events are written, how replicas share a push, and what a large
//! or an idle fleet costs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use plumb::model::{
    Annotations, AppliedDocument, Ask, Attempt, Condition, ConditionStatus, ConditionType, EventKind, Fields, Kind,
    ObjectId, ProviderIdentity, Reason, Record, Release, Replica, Request, ResourceKey, ResourceStatus, SystemClock,
    Trigger, Width,
};
use plumb::store::postgres::PostgresStore;
use plumb::store::sqlite::SqliteStore;
use plumb::store::{Mode, NewEvent, Scope, Store, TenantState};

use super::postgres::server::PostgresServer;
use super::postgres::{as_script, log_statements, psql};
use super::rig::{Ground, Rig, measured, resident_peak};
use super::{Row, ratio, shown};

/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(900);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// A database for the state, and its address.
async fn state_database(server: &PostgresServer) -> String {
    let (login, password) = server.login();
    server.psql(&format!("CREATE DATABASE state OWNER {login}")).await;
    format!("postgres://{login}:{password}@127.0.0.1:{}/state", server.port())
}

/// Two handles on one store: as two processes have on PostgreSQL, and one process has on SQLite.
type Stores = (&'static str, Arc<dyn Store>, Arc<dyn Store>);

async fn stores(ground: &Ground, server: &PostgresServer) -> [Stores; 2] {
    let sqlite: Arc<dyn Store> =
        Arc::new(SqliteStore::open(ground.folder(), Mode::Reconcile).await.expect("a SQLite store"));
    let url = state_database(server).await;
    let postgres = || async { PostgresStore::open(&url, Mode::Reconcile).await.expect("a PostgreSQL store") };
    let (one, other): (Arc<dyn Store>, Arc<dyn Store>) = (Arc::new(postgres().await), Arc::new(postgres().await));
    [("SQLite", Arc::clone(&sqlite), sqlite), ("PostgreSQL", one, other)]
}

/// From the mark that says that a tenant needs a look to its claim.
pub fn queue(ground: &Ground) -> Vec<Row> {
    const MARKS: usize = 500;
    let server = PostgresServer::start();
    runtime().block_on(async {
        let mut rows = Vec::new();
        for (name, asks, works) in stores(ground, &server).await {
            let (claimed, mut claims) = tokio::sync::mpsc::unbounded_channel();
            let worker = tokio::spawn(async move {
                let (replica, mut woken) = (Replica("bench".to_owned()), works.woken());
                loop {
                    woken.mark_unchanged();
                    match works.claim(&replica, Duration::from_secs(60)).await.expect("a claim") {
                        Some(claim) => {
                            let _ = claimed.send(Instant::now());
                            let release = Release { seen: None, retry: None, news: None };
                            works.release(&claim.lease, &release).await.expect("a release");
                        }
                        None => drop(woken.changed().await),
                    }
                }
            });
            let mut waits = Vec::with_capacity(MARKS);
            for number in 0..MARKS {
                // Long enough for the worker to be at rest, and never in step.
                tokio::time::sleep(Duration::from_micros(3000 + (number as u64 * 7919) % 4000)).await;
                let ask = Ask { trigger: Trigger::Commit, width: Width::Changed };
                let start = Instant::now();
                asks.request(&[Request::at_once(&format!("team-{}", number % 50), ask)]).await.expect("a mark");
                waits.push(claims.recv().await.expect("it is claimed") - start);
            }
            worker.abort();
            waits.sort();
            rows.push(Row {
                what: format!("mark to claimed, {name}, of {MARKS} marks"),
                ours: format!("p50 {}, p99 {}", shown(waits[MARKS / 2]), shown(waits[MARKS * 99 / 100])),
                yardstick: "-".into(),
                ratio: "-".into(),
                budget: "-",
            });
        }
        rows
    })
}

/// Events written, a hundred in a transaction and each in its own.
pub fn events(ground: &Ground) -> Vec<Row> {
    let server = PostgresServer::start();
    runtime().block_on(async {
        let mut rows = Vec::new();
        for (name, store, _) in stores(ground, &server).await {
            let key = ResourceKey::new("bench", "staging", Kind::Database, "orders");
            let scope = || Scope::Tenant("bench".to_owned());
            let mut tx = store.begin(scope()).await.expect("a transaction");
            let at = chrono::DateTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            let execution = tx.start_execution("bench", Trigger::Poll, None, at).await.expect("an execution");
            tx.commit().await.expect("a commit");
            let mut rates = Vec::new();
            for (many, transactions) in [(100, 200), (1, 1000)] {
                let event = || NewEvent {
                    key: Some(key.clone()),
                    at,
                    kind: EventKind::Blocked { reason: Reason::WindowClosed, message: "the window is closed".into() },
                };
                let start = Instant::now();
                for _ in 0..transactions {
                    let events: Vec<NewEvent> = (0..many).map(|_| event()).collect();
                    let mut tx = store.begin(scope()).await.expect("a transaction");
                    tx.append_events(execution, "bench", &events).await.expect("they are written");
                    tx.commit().await.expect("a commit");
                }
                rates.push((many * transactions) as f64 / start.elapsed().as_secs_f64());
            }
            rows.push(Row {
                what: format!("events written a second, {name}"),
                ours: format!("{:.0} in hundreds, {:.0} one by one", rates[0], rates[1]),
                yardstick: "-".into(),
                ratio: "-".into(),
                budget: "-",
            });
        }
        rows
    })
}

/// A `plumb serve`; killed when dropped.
struct Serving {
    process: Child,
    log: PathBuf,
}

impl Serving {
    fn start(rig: &Rig, data: &str, more: &[(&str, &str)]) -> Self {
        let log = rig.path().join(format!("{data}.log"));
        let file = std::fs::File::create(&log).expect("a log");
        let mut command = rig.plumb(&["serve", "--listen", "127.0.0.1:0"]);
        command.env("PLUMB_DATA_DIR", data).envs(more.iter().copied());
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().expect("the program starts");
        Self { process, log }
    }

    /// Waits until its page says that it is ready; gives how long that took from `start`.
    fn ready(&self, start: Instant) -> Duration {
        until("it is ready", || {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let address = log.split_once("serving the status page at http://")?.1.split(['/', ' ']).next()?.to_owned();
            let mut stream = std::net::TcpStream::connect(address).ok()?;
            stream.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
            let mut answer = String::new();
            std::io::Read::read_to_string(&mut stream, &mut answer).ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        });
        start.elapsed()
    }

    fn status(&self) -> String {
        format!("/proc/{}/status", self.process.id())
    }

    /// Resident memory now, in MiB.
    fn resident(&self) -> u64 {
        let text = std::fs::read_to_string(self.status()).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or("VmRSS: 0 kB");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
    }

    fn peak(&self) -> u64 {
        resident_peak(&self.status()).unwrap_or(0) / 1024
    }

    /// The processor time that it has used.
    fn processor_time(&self) -> Duration {
        // Ticks of a hundredth of a second, as Linux tells them to everybody.
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks until there is an answer.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "it took too long until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How many resources are ready.
async fn ready(store: &dyn Store) -> usize {
    let statuses = store.read(Scope::Platform).await.expect("a transaction").statuses().await.expect("statuses");
    let is_ready = |status: &&plumb::model::ResourceStatus| {
        status.condition(ConditionType::Ready).is_some_and(|ready| ready.status == ConditionStatus::True)
    };
    statuses.values().filter(is_ready).count()
}

/// A thousand databases, pushed to one tenant and a hundred to each of ten, and one, two and four replicas make them.
/// One tenant's push is one replica's work, however many there are; those of several tenants are shared.
pub fn replicas(ground: &Ground) -> Vec<Row> {
    let sql = {
        let server = PostgresServer::start();
        log_statements(&server);
        push(ground, &server, 1, [1, 1_000]);
        let log = std::fs::read(server.socket_folder().join("log")).expect("the server's log");
        as_script(&String::from_utf8_lossy(&log), |database| database != "state")
    };
    let theirs = psql(&PostgresServer::start(), &sql);
    let mut rows = Vec::new();
    for [tenants, each] in [[1, 1_000], [10, 100]] {
        for replicas in [1, 2, 4] {
            let Pushed { time, peak } = push(ground, &PostgresServer::start(), replicas, [tenants, each]);
            rows.push(Row {
                what: format!(
                    "1,000 PostgreSQL databases, {each} in one push to each of {tenants} tenants, {replicas} replicas"
                ),
                ours: format!("{}, {} MiB each at most", shown(time), peak),
                yardstick: format!("the same SQL through one psql {}", shown(theirs)),
                ratio: ratio(time, theirs),
                budget: "within 1.2x",
            });
        }
    }
    rows
}

struct Pushed {
    time: Duration,
    /// The most resident memory of any replica, in MiB.
    peak: u64,
}

/// From the push of so many databases to each of so many tenants until all are ready.
fn push(ground: &Ground, server: &PostgresServer, replicas: usize, [tenants, each]: [usize; 2]) -> Pushed {
    let runtime = runtime();
    let url = runtime.block_on(state_database(server));
    let rig = Rig::new(ground);
    rig.write_tenants(tenants, "pollInterval: 1s", &rig_provider(server));
    for tenant in 0..tenants {
        rig.write_in(tenant, 0, |_| String::new());
    }
    rig.commit_many();
    drop(runtime.block_on(PostgresStore::open(&url, Mode::Reconcile)).expect("a store"));
    let store = runtime.block_on(PostgresStore::open(&url, Mode::ReadOnly)).expect("a store");
    let password = server.login().1;
    let key = "11".repeat(32);
    let more = [("BENCH_PASSWORD", password), ("PLUMB_DATABASE", &*url), ("PLUMB_SECRET_KEY", &*key)];
    let serving: Vec<Serving> =
        (0..replicas).map(|number| Serving::start(&rig, &format!("data{number}"), &more)).collect();
    for replica in &serving {
        replica.ready(Instant::now());
    }
    // Every tenant has been looked at once.
    until("the first looks", || {
        let places = runtime.block_on(plumb::store::Queue::places(&store)).ok()?;
        let looked: BTreeSet<&str> =
            places.iter().filter(|place| place.looked_at.is_some()).map(|place| place.tenant.as_str()).collect();
        (looked.len() == tenants).then_some(())
    });
    for tenant in 0..tenants {
        rig.write_in(tenant, each, |_| "  connectionLimit: 20\n".to_owned());
    }
    rig.commit_many();
    let start = Instant::now();
    until("all are ready", || (runtime.block_on(ready(&store)) == tenants * each).then_some(()));
    Pushed { time: start.elapsed(), peak: serving.iter().map(Serving::peak).max().unwrap_or(0) }
}

fn rig_provider(server: &PostgresServer) -> String {
    format!("type: postgres, url: \"{}\", credentials: {{env: BENCH_PASSWORD}}", server.url())
}

/// A hundred thousand resources of ten tenants: a restart, and a pass that finds nothing to do.
pub fn large(ground: &Ground) -> Vec<Row> {
    const TENANTS: usize = 10;
    const EACH: usize = 10_000;
    let rig = Rig::new(ground);
    rig.write_tenants(TENANTS, "pollInterval: 1s", "type: sqlite, url: \"sqlite:databases\"");
    for tenant in 0..TENANTS {
        rig.write_in(tenant, EACH, |number| format!("  userVersion: {number}\n"));
    }
    rig.commit_many();
    let apply = measured(rig.plumb(&["apply", "-q"]));
    let pass = measured(rig.plumb(&["apply", "-q"]));
    // A commit that came while nobody was there.
    rig.write_one(7, 4_242, "  userVersion: 1000000\n");
    rig.commit_many();
    let start = Instant::now();
    let serving = Serving::start(&rig, "data", &[]);
    let ready = serving.ready(start);
    let object = rig.path().join("data/databases/team-7_staging_db_4242.db");
    let object = if object.exists() { object } else { rig.path().join("data/databases/team_7_staging_db_4242.db") };
    until("the commit is applied", || (user_version(&object)? == 1_000_000).then_some(()));
    let applied = start.elapsed();
    let runtime = runtime();
    let store = runtime.block_on(SqliteStore::open(rig.path().join("data"), Mode::ReadOnly)).expect("a store");
    until("all were looked at", || {
        let places = runtime.block_on(plumb::store::Queue::places(&store)).ok()?;
        (places.len() == TENANTS && places.iter().all(|place| place.is_idle())).then_some(())
    });
    let all = start.elapsed();
    let row = |what: &str, ours: String, budget| Row {
        what: format!("100,000 embedded resources of 10 tenants: {what}"),
        ours,
        yardstick: "-".into(),
        ratio: "-".into(),
        budget,
    };
    vec![
        row("first apply", format!("{}, {} MiB", shown(apply.time), apply.peak_mib), "-"),
        row("a pass that finds nothing to do, cold", format!("{}, {} MiB", shown(pass.time), pass.peak_mib), "-"),
        row("restart to ready", shown(ready), "working within 5 s"),
        row("restart to a waiting commit applied", shown(applied), "-"),
        row("restart to every tenant looked at", format!("{}, {} MiB", shown(all), serving.peak()), "-"),
    ]
}

/// A tenant of a hundred thousand resources of which many have failed: one of them is explained, and all are tried again.
pub fn failing(ground: &Ground) -> Vec<Row> {
    const RESOURCES: usize = 100_000;
    const FAILED: usize = 20_000;
    const EXPLAINED: usize = 11;
    let server = PostgresServer::start();
    let at = chrono::DateTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let keys: Vec<ResourceKey> = (0..RESOURCES)
        .map(|number| ResourceKey::new("bench", "staging", Kind::Database, format!("db-{number}")))
        .collect();
    runtime().block_on(async {
        let mut rows = Vec::new();
        for (name, store, _) in stores(ground, &server).await {
            let scope = || Scope::Tenant("bench".to_owned());
            let mut tx = store.begin(scope()).await.expect("a transaction");
            tx.put_tenant(&tenant("bench", at)).await.expect("a tenant");
            for some in keys.chunks(10_000) {
                let statuses: Vec<ResourceStatus> = some.iter().map(|key| status(key, at)).collect();
                tx.put_statuses(&statuses).await.expect("statuses");
                let records: Vec<Record> = some.iter().map(|key| record(key, at)).collect();
                tx.put_records(&records).await.expect("records");
            }
            tx.commit().await.expect("a commit");
            let attempts: Vec<Attempt> = keys.iter().take(FAILED).map(|key| attempt(key, at)).collect();
            let start = Instant::now();
            let mut tx = store.begin(scope()).await.expect("a transaction");
            tx.put_attempts(&attempts).await.expect("attempts");
            tx.commit().await.expect("a commit");
            let written = start.elapsed();
            let mut explained = Vec::new();
            for key in keys.iter().step_by(RESOURCES / EXPLAINED).take(EXPLAINED) {
                let start = Instant::now();
                let answer = plumb::engine::view::explain(store.as_ref(), key, &SystemClock).await;
                answer.expect("an answer").expect("it is known");
                explained.push(start.elapsed());
            }
            explained.sort();
            let start = Instant::now();
            let retried =
                plumb::engine::retry(store.as_ref(), &SystemClock, "bench", plumb::engine::Which::All, "bench").await;
            assert_eq!(retried.expect("they are tried again").keys.len(), FAILED);
            let retried = start.elapsed();
            let row = |what: String, ours: String| Row {
                what: format!("{what}, of a tenant of {RESOURCES} resources, {name}"),
                ours,
                yardstick: "-".into(),
                ratio: "-".into(),
                budget: "-",
            };
            rows.push(row("one resource explained".into(), format!("p50 {}", shown(explained[EXPLAINED / 2]))));
            rows.push(row(format!("{FAILED} failed steps written down"), shown(written)));
            rows.push(row(format!("{FAILED} failed steps tried again, and audited"), shown(retried)));
        }
        rows
    })
}

fn tenant(name: &str, at: DateTime<Utc>) -> TenantState {
    TenantState {
        url: "https://git.example/bench.git".to_owned(),
        branch: "main".to_owned(),
        path: ".".to_owned(),
        head: Some("c0ffee".into()),
        ..TenantState::of_name(name, at)
    }
}

fn fields() -> Fields {
    let mut fields = Fields::new();
    fields.insert("/spec/connectionLimit", 20);
    fields.insert("/spec/extensions/pgcrypto", true);
    fields
}

fn status(key: &ResourceKey, at: DateTime<Utc>) -> ResourceStatus {
    let ready = Condition {
        condition_type: ConditionType::Ready,
        status: ConditionStatus::False,
        reason: Reason::Rejected,
        message: "the server refused it".to_owned(),
        last_transition_time: at,
    };
    ResourceStatus {
        key: key.clone(),
        revision: "main@sha1:c0ffee".to_owned(),
        provider: "pg-main".to_owned(),
        object_name: key.object_name(63),
        depends_on: Vec::new(),
        conditions: vec![ready],
        reason_since: Some(at),
        until: None,
        desired: fields(),
        live: fields(),
        outputs: BTreeMap::new(),
        file: format!("environments/staging/{}.yaml", key.name),
        updated_at: at,
    }
}

fn record(key: &ResourceKey, at: DateTime<Utc>) -> Record {
    Record {
        key: key.clone(),
        provider: "pg-main".to_owned(),
        identity: ProviderIdentity("bench".to_owned()),
        object_name: key.object_name(63),
        object: ObjectId(String::new()),
        applied: fields(),
        readback: fields(),
        unsettled: BTreeMap::new(),
        begun: Default::default(),
        annotations: Annotations::default(),
        document: AppliedDocument::default(),
        depends_on: Vec::new(),
        file: format!("environments/staging/{}.yaml", key.name),
        commit: "c0ffee".into(),
        retained: false,
        updated_at: at,
    }
}

fn attempt(key: &ResourceKey, at: DateTime<Utc>) -> Attempt {
    Attempt {
        key: key.clone(),
        provider: "pg-main".to_owned(),
        commit: Some("c0ffee".into()),
        platform: Some("c0ffee".into()),
        failures: 1,
        reason: Reason::Rejected,
        message: "the server refused it".to_owned(),
        first_at: at,
        last_at: at,
        next_at: None,
    }
}

/// The application's version in a SQLite file, which stands in its header.
fn user_version(file: &Path) -> Option<u32> {
    const AT: usize = 60;
    let bytes = std::fs::read(file).ok()?;
    Some(u32::from_be_bytes(bytes.get(AT..AT + 4)?.try_into().ok()?))
}

/// A thousand repositories in which nothing happens.
pub fn idle(ground: &Ground) -> Vec<Row> {
    const TENANTS: usize = 1_000;
    const INTERVAL: Duration = Duration::from_secs(10);
    const ROUNDS: u32 = 3;
    let rig = Rig::new(ground);
    rig.write_tenants(
        TENANTS,
        &format!("pollInterval: {}s, drift: {{schedule: \"0 3 1 1 *\"}}", INTERVAL.as_secs()),
        "type: sqlite, url: \"sqlite:databases\"",
    );
    for tenant in 0..TENANTS {
        rig.write_in(tenant, 1, |_| String::new());
    }
    rig.commit_many();
    let serving = Serving::start(&rig, "data", &[]);
    serving.ready(Instant::now());
    let runtime = runtime();
    let store = runtime.block_on(SqliteStore::open(rig.path().join("data"), Mode::ReadOnly)).expect("a store");
    until("all were looked at", || {
        let places = runtime.block_on(plumb::store::Queue::places(&store)).ok()?;
        let at_rest = |place: &plumb::model::Place| place.looked_at.is_some() && place.is_idle();
        (places.len() == TENANTS && places.iter().all(at_rest)).then_some(())
    });
    // The looks after the first ones are over too.
    std::thread::sleep(INTERVAL);
    let before = serving.processor_time();
    std::thread::sleep(INTERVAL * ROUNDS);
    let round = (serving.processor_time() - before) / ROUNDS;
    vec![Row {
        what: "1,000 idle repositories: processor time of a poll round, resident memory".into(),
        ours: format!("{}, {} MiB (at most {} MiB)", shown(round), serving.resident(), serving.peak()),
        yardstick: "-".into(),
        ratio: "-".into(),
        budget: "under 2 s, under 150 MiB",
    }]
}

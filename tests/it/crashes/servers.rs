//! The same on real servers, at every so many points: the resources and the state are on PostgreSQL and Redis, which have
//! room for one step at a time.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use plumb::model::{ExecutionOutcome, Kind, Mark, ResourceKey};
use plumb::store::Mode;
use plumb::store::postgres::PostgresStore;
use sqlx::Row;

use super::acts::{DELETE, TOGETHER};
use super::relay::Relay;
use super::serving::{is_at_peace, leave_work};
use super::whole::{Rest, state_is_whole};
use super::{DATABASE, Ended, PROCESS, Work, World, recover};
use crate::harness::postgres::PostgresServer;
use crate::harness::redis::{RedisOptions, RedisServer};

/// Every so many points are visited where each takes a server, and every so many where each takes a look before it too.
const EVERY: usize = 7;
const EVERY_LATER: usize = 13;
/// The same of processes that serve, which come by several times as many.
const EVERY_SERVING: usize = 41;
/// After which message to a server it is killed first, and every so many are visited.
const FIRST_INSIDE: usize = 5;
const EVERY_INSIDE: usize = 17;

/// What is under way on the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// A database with a role, and a user of Redis that needs it.
    Make,
    /// The database is changed and the user made together with another database, which is refused; all of it is undone.
    Undo,
}

/// The servers that all worlds share.
struct Servers {
    postgres: &'static PostgresServer,
    redis: RedisServer,
    /// What the resources' managers speak to, each.
    relays: [Relay; 2],
    folder: tempfile::TempDir,
}

impl Servers {
    fn start() -> Self {
        let redis = RedisServer::start(RedisOptions { aclfile: true, password: None });
        let postgres = PostgresServer::shared();
        let relays = [postgres.port(), redis.port].map(Relay::to);
        let servers = Self { postgres, redis, relays, folder: crate::simulation::folder() };
        std::fs::write(servers.login_file(), servers.postgres.login().1).unwrap();
        servers
    }

    fn login_file(&self) -> PathBuf {
        self.folder.path().join("login")
    }

    fn providers(&self) -> String {
        let [postgres, redis] = &self.relays;
        format!(
            "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: pg}}\nspec: {{type: postgres, url: \"{}\", \
             credentials: {{file: \"{}\"}}, serves: [{{kind: Database}}], maxConcurrency: 1}}\n---\n\
             apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: redis}}\nspec: {{type: redis, url: \"{}\", \
             serves: [{{kind: Cache}}], maxConcurrency: 1}}\n",
            self.postgres.url().replace(&self.postgres.port().to_string(), &postgres.port().to_string()),
            self.login_file().display(),
            self.redis.url("default").replace(&self.redis.port.to_string(), &redis.port().to_string())
        )
    }

    /// A world as it is before the look that is killed. Nothing on a server can be put back to where it was, so each is of
    /// a tenant, and has a database for its state, of its own.
    async fn world(&self, act: Act, tenant: &str) -> World {
        let (login, password) = self.postgres.login();
        self.postgres.psql(&format!("CREATE DATABASE state_{tenant} OWNER {login}")).await;
        let state = format!("postgres://{login}:{password}@127.0.0.1:{}/state_{tenant}", self.postgres.port());
        drop(PostgresStore::open(&state, Mode::Reconcile).await.unwrap());
        let mut world = World::make(&self.folder.path().join("world"), tenant, &self.providers(), "[pg, redis]");
        std::fs::write(world.folder.join(DATABASE), state).unwrap();
        match act {
            Act::Make => {
                world.write(Kind::Database, "orders", DELETE, ORDERS);
                world.write(Kind::Cache, "sessions", DELETE, SESSIONS);
                world.commit("Add them");
            }
            Act::Undo => {
                world.write(Kind::Database, "orders", TOGETHER, ORDERS);
                world.commit("Add orders");
                let told = world.look();
                assert_eq!(told.outcome, ExecutionOutcome::InSync, "{told:?}");
                world.write(Kind::Database, "orders", TOGETHER, &ORDERS.replace("20", "30"));
                world.write(Kind::Cache, "sessions", TOGETHER, SESSIONS);
                world.write(Kind::Database, "reports", TOGETHER, "dependsOn: [Cache/sessions]");
                world.commit("Add more, which goes together");
                world.refuse(&["reports"]);
            }
        }
        world
    }

    /// Forgets what the dead had, which runs out by itself after seconds.
    async fn bury(&self, tenant: &str) {
        self.give_locks_back();
        let over = "UPDATE plumb.queue SET lease_until = claimed_at";
        self.postgres.psql_in(&format!("state_{tenant}"), over).await;
    }

    fn give_locks_back(&self) {
        for lock in self.redis.cli(&["KEYS", "plumb:lock:*"]).lines().filter(|lock| !lock.is_empty()) {
            self.redis.cli(&["DEL", lock]);
        }
    }
}

/// How many connections orders has, where nothing is under way.
const LIMIT: i32 = 20;
const ORDERS: &str = "connectionLimit: 20, roles: [{name: app, access: readwrite}]";
const SESSIONS: &str = "categories: [read], dependsOn: [Database/orders]";

impl Act {
    fn every(self) -> usize {
        match self {
            Act::Make => EVERY,
            Act::Undo => EVERY_LATER,
        }
    }

    fn outcome(self) -> ExecutionOutcome {
        match self {
            Act::Make => ExecutionOutcome::InSync,
            Act::Undo => ExecutionOutcome::Blocked,
        }
    }

    /// What is done where nobody dies.
    fn effects(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Act::Make => vec![("create", "Database/orders"), ("create", "Cache/sessions")],
            Act::Undo => vec![
                ("create", "Database/orders"),
                ("update", "Database/orders"),
                ("create", "Cache/sessions"),
                ("delete", "Cache/sessions"),
                ("update", "Database/orders"),
            ],
        }
    }

    /// What is not as it should be in the end.
    async fn broken(self, servers: &Servers, world: &World, tenant: &str) -> Vec<String> {
        let key = |kind, name| ResourceKey::new(tenant, "staging", kind, name);
        let (orders, sessions) = (key(Kind::Database, "orders"), key(Kind::Cache, "sessions"));
        let reports = key(Kind::Database, "reports");
        let (known, wanted, rest) = match self {
            Act::Make => {
                let both = BTreeSet::from([orders, sessions]);
                (both.clone(), both, Rest::Ready)
            }
            Act::Undo => {
                let rest = Rest::Undone { failed: reports.clone() };
                (BTreeSet::from([orders.clone()]), BTreeSet::from([orders, sessions, reports]), rest)
            }
        };
        let mut broken = state_is_whole(world, &known, &wanted, &rest).await;
        let users = known.iter().filter(|key| key.kind == Kind::Cache).count();
        broken.extend(servers_are_whole(servers, tenant, users).await);
        broken.extend(no_slot_is_taken(servers.postgres, tenant).await);
        let mut left: Vec<(String, String)> = self
            .effects()
            .into_iter()
            .map(|(action, name)| (action.to_owned(), format!("{tenant}/staging/{name}")))
            .collect();
        for effect in world.effects() {
            match left.iter().position(|(action, key)| (action, key) == (&effect.action, &effect.key)) {
                Some(at) => drop(left.swap_remove(at)),
                None => broken.push(format!("this was done once too often: {effect:?}")),
            }
        }
        broken
    }
}

/// Visits some points of `act`; gives how many of how many.
async fn visit(act: Act, servers: &Servers, broken: &mut Vec<String>) -> (usize, usize) {
    let (mut point, mut points, mut visited) = (0, usize::MAX, 0);
    while point < points {
        let tenant = format!("{act:?}{point}").to_lowercase();
        let world = servers.world(act, &tenant).await;
        match world.start(Work::Look, Some(point)) {
            Ended::Killed { .. } => visited += 1,
            Ended::Lived(told) => points = told.points.len(),
        }
        servers.bury(&tenant).await;
        let mut wrong = recover(&world, Work::Look, act.outcome());
        wrong.extend(act.broken(servers, &world, &tenant).await);
        if !wrong.is_empty() {
            broken.push(format!("{act:?}, point {point}:\n    {}", wrong.join("\n    ")));
        }
        point += act.every();
    }
    (visited, points)
}

/// Visits messages to a server inside the steps of `act`: the process is dead once one of them was passed on. Gives how
/// many of how many.
async fn visit_inside(act: Act, servers: &Servers, broken: &mut Vec<String>) -> (usize, usize) {
    let (mut visited, mut all) = (0, 0);
    for (number, relay) in servers.relays.iter().enumerate() {
        let mut last = FIRST_INSIDE;
        loop {
            let tenant = format!("{act:?}inside{number}x{last}").to_lowercase();
            let world = servers.world(act, &tenant).await;
            let process = world.folder.join(PROCESS);
            relay.kill_after(last, move || std::fs::read_to_string(&process).unwrap().parse().unwrap());
            let ended = world.start(Work::Look, None);
            let passed = relay.passed();
            relay.let_live();
            let is_over = matches!(ended, Ended::Lived(_));
            visited += usize::from(!is_over);
            servers.bury(&tenant).await;
            let mut wrong = recover(&world, Work::Look, act.outcome());
            wrong.extend(act.broken(servers, &world, &tenant).await);
            if !wrong.is_empty() {
                broken.push(format!("{act:?}, message {last} to server {number}:\n    {}", wrong.join("\n    ")));
            }
            if is_over {
                all += passed;
                break;
            }
            last += EVERY_INSIDE;
        }
    }
    (visited, all)
}

/// Visits some points of processes that serve; gives at what they were killed. Leases and the lead of the dead are left to
/// end by themselves.
async fn visit_serving(act: Act, servers: &Servers, broken: &mut Vec<String>) -> Vec<String> {
    let work = Work::Serve { until: act.outcome() };
    let mut killed = Vec::new();
    for point in (0..).step_by(EVERY_SERVING) {
        let tenant = format!("{act:?}serving{point}").to_lowercase();
        let world = servers.world(act, &tenant).await;
        leave_work(&world, &[]).await;
        let (at, mut wrong) = match world.start(work, Some(point)) {
            Ended::Killed { at } => {
                servers.give_locks_back();
                killed.push(at.clone());
                (at, recover(&world, work, act.outcome()))
            }
            Ended::Lived(told) if told.rests => break,
            Ended::Lived(told) => ("not killed".to_owned(), vec![format!("it does not rest: {told:?}")]),
        };
        wrong.extend(act.broken(servers, &world, &tenant).await);
        wrong.extend(is_at_peace(&world, 2).await);
        if !wrong.is_empty() {
            broken.push(format!("{act:?} serving, point {point} ({at}):\n    {}", wrong.join("\n    ")));
        }
    }
    killed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serving_process_that_is_killed_at_work_on_servers_leaves_what_the_next_one_brings_to_rest() {
    let servers = Servers::start();
    let (started, mut broken) = (Instant::now(), Vec::new());
    let killed = visit_serving(Act::Make, &servers, &mut broken).await;
    println!("serving, on PostgreSQL and Redis: {} points, {:?}: {killed:?}", killed.len(), started.elapsed());
    assert!(killed.len() > 5, "{killed:?}");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_inside_a_step_leaves_what_the_next_one_brings_to_rest() {
    let servers = Servers::start();
    let (started, mut broken) = (Instant::now(), Vec::new());
    let (visited, messages) = visit_inside(Act::Make, &servers, &mut broken).await;
    println!("inside steps: after {visited} of {messages} messages to PostgreSQL and Redis, {:?}", started.elapsed());
    assert!(visited > 8, "{visited} of {messages}");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_at_work_on_servers_leaves_what_the_next_one_brings_to_rest() {
    let servers = Servers::start();
    let (started, mut broken) = (Instant::now(), Vec::new());
    for act in [Act::Make, Act::Undo] {
        let (visited, points) = visit(act, &servers, &mut broken).await;
        println!(
            "{act:?}: {visited} of {points} points, on PostgreSQL and Redis, {:?} since the start",
            started.elapsed()
        );
        assert!(visited > 5, "{visited}");
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// One database with its roles, and so many users: each marked, and none beside them.
async fn servers_are_whole(servers: &Servers, tenant: &str, users: usize) -> Vec<String> {
    let postgres = servers.postgres;
    let mut broken = Vec::new();
    let names =
        format!("SELECT datname::text, datconnlimit FROM pg_database WHERE datname LIKE '{tenant}\\_%' ORDER BY 1");
    let databases: Vec<(String, i32)> =
        postgres.query("postgres", &names).await.iter().map(|row| (row.get(0), row.get(1))).collect();
    if databases != [(format!("{tenant}_staging_orders"), LIMIT)] {
        broken.push(format!("there are databases {databases:?}"));
    }
    let roles = format!(
        "SELECT rolname::text, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname LIKE '{tenant}\\_%' ORDER BY 1"
    );
    let mut found = Vec::new();
    for row in postgres.query("postgres", &roles).await {
        let (name, comment): (String, Option<String>) = (row.get(0), row.get(1));
        if comment.as_deref().and_then(Mark::from_text).is_none_or(|mark| mark.unfinished) {
            broken.push(format!("the role {name} bears no mark, or one that is not whole"));
        }
        found.push(name);
    }
    if found != ["app", "owner"].map(|role| format!("{tenant}_staging_orders_{role}")) {
        broken.push(format!("there are roles {found:?}"));
    }
    let list = servers.redis.cli(&["ACL", "LIST"]);
    let there: Vec<&str> = list.lines().filter(|line| line.contains(&format!("user {tenant}_"))).collect();
    if there.len() != users || !there.iter().all(|user| user.contains("plumb:mark:")) {
        broken.push(format!("there are users {there:?}"));
    }
    broken
}

/// What the dead had taken is free with their lease, and the last look has given back what it took.
async fn no_slot_is_taken(postgres: &PostgresServer, tenant: &str) -> Vec<String> {
    let taken = "SELECT provider FROM plumb.slots JOIN plumb.queue USING (tenant) \
                 WHERE slots.generation = queue.generation OR queue.holder IS NOT NULL";
    let taken = postgres.query(&format!("state_{tenant}"), taken).await;
    taken.iter().map(|row| format!("a slot of {} is taken still", row.get::<String, _>(0))).collect()
}

//! `plumb db`: a state that did things is backed up, restored and moved, and goes on where it was.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::DateTime;
use plumb::model::Trigger;
use plumb::store::inputs::PackedInputs;
use plumb::store::lock::DirectoryLock;
use plumb::store::postgres::PostgresStore;
use plumb::store::sqlite::SqliteStore;
use plumb::store::{HistoryFilter, Mode, Queue, Scope, Store, StoreError, TenantState};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::harness::desk::{Desk, PLUMB, Said};
use crate::harness::postgres::PostgresServer;
use crate::harness::redis::{RedisOptions, RedisServer};
use crate::harness::world::run_sql;

pub const SESSIONS: &str = "checkout/staging/Cache/sessions";

/// A desk whose state is in a database, with a Cache whose password Plumb made.
pub struct Office {
    pub desk: Desk,
    redis: RedisServer,
}

impl Office {
    pub fn open() -> Self {
        let desk = Desk::with_starter();
        let redis = RedisServer::start(RedisOptions { aclfile: true, password: None });
        let spec = format!("  type: redis\n  url: {}\n  serves: [{{kind: Cache}}]\n", redis.url("default"));
        desk.add_provider("redis", &spec);
        desk.want("Cache", "sessions", "");
        desk.tenant.commit("Add a cache");
        Self { desk, redis }
    }

    pub fn plumb(&self, database: &str, args: &[&str]) -> Said {
        let platform = self.desk.platform.url();
        self.desk.plumb_with(args, &[("PLUMB_PLATFORM", &platform), ("PLUMB_DATABASE", database)])
    }

    pub fn did(&self, database: &str, args: &[&str]) -> String {
        let said = self.plumb(database, args);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.stdout
    }

    /// The rows of a database, sorted, and the end of its backup less its hash. Without the audit log of the platform, which
    /// every backup is written into.
    pub fn rows(&self, database: &str) -> (Vec<String>, serde_json::Value) {
        const LOG: [&str; 2] = ["audit", "audit_heads"];
        let text = self.did(database, &["db", "backup", "-"]);
        let mut lines: Vec<String> = text.lines().skip(1).map(str::to_owned).collect();
        let mut end: serde_json::Value = serde_json::from_str(&lines.pop().unwrap()).unwrap();
        end["sha256"].take();
        LOG.iter().for_each(|table| drop(end["rows"][table].take()));
        lines.retain(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            !(LOG.iter().any(|table| line["table"] == *table) && line["row"]["tenant"] == "")
        });
        lines.sort();
        (lines, end)
    }

    /// What was done to a database as a whole, as its audit log says: by whom, and the command with the other details.
    fn done_to(&self, database: &str) -> Vec<(String, serde_json::Value)> {
        let rows = self.did(database, &["audit", "-o", "json"]);
        let rows = rows.lines().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap());
        let of_database = rows.filter(|row| row["action"] == "database");
        of_database.map(|row| (row["actor"].as_str().unwrap().to_owned(), row["details"].clone())).collect()
    }

    fn password(&self, database: &str) -> String {
        let password = self.did(database, &["secret", "get", SESSIONS, "user"]).trim().to_owned();
        let set = ["SET", "checkout_staging_sessions:1", "x"];
        assert_eq!(self.redis.cli_as("checkout_staging_sessions", &password, &set), "OK");
        password
    }

    pub fn sqlite(&self, name: &str) -> String {
        format!("sqlite:{}/{name}", self.desk.folder().display())
    }
}

/// A PostgreSQL database with nothing in it.
async fn empty_postgres() -> String {
    static DATABASES: AtomicUsize = AtomicUsize::new(0);
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    let database = format!("copied_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    server.psql(&format!("CREATE DATABASE {database} OWNER {login}")).await;
    format!("postgres://{login}:{password}@127.0.0.1:{}/{database}", server.port())
}

/// Runs SQL in a database as whoever owns it, behind Plumb's back.
async fn behind_its_back(database: &str, sql: &'static str) {
    match database.strip_prefix("sqlite:") {
        Some(folder) => run_sql(&Path::new(folder).join("plumb.db"), sql).await,
        None => {
            let mut owner = sqlx::PgConnection::connect(database).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut owner).await.unwrap();
            owner.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_either_database_is_restored_whole_in_either() {
    let office = Office::open();
    for (from, to) in [
        (office.sqlite("a"), empty_postgres().await),
        (empty_postgres().await, office.sqlite("b")),
        (office.sqlite("c"), office.sqlite("d")),
    ] {
        office.did(&from, &["apply"]);
        let known = office.plumb(&from, &["secret", "get", SESSIONS, "user"]);
        let before = office.rows(&from);
        assert!(before.0.len() > 10, "{before:?}");
        let file = office.desk.folder().join("state.backup");
        let path = file.display().to_string();
        let said = office.plumb(&from, &["db", "backup", &path]);
        assert_eq!((said.code, said.stderr.contains("PLUMB_SECRET_KEY")), (0, true), "{said:?}");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        if known.code == 0 {
            assert!(!text.contains(known.stdout.trim()), "no password is in it");
        }
        let key = std::fs::read_to_string(office.desk.data("secret.key")).unwrap();
        assert!(!text.contains(key.trim()), "nor is the key");
        let again = office.plumb(&from, &["db", "backup", &path]);
        assert_eq!((again.code, again.stderr.contains("already")), (1, true), "{again:?}");

        office.did(&to, &["db", "restore", &path]);
        assert_eq!(office.rows(&to), before);
        let full = office.plumb(&to, &["db", "restore", &path]);
        assert_eq!((full.code, full.stderr.contains("is not empty")), (1, true), "{full:?}");
        assert!(office.did(&to, &["apply"]).contains("nothing to do"));
        assert_eq!(office.plumb(&to, &["secret", "get", SESSIONS, "user"]).stdout, known.stdout);
        office.did(&to, &["audit", "--verify"]);
        let done = office.done_to(&to);
        let commands: Vec<&str> = done.iter().map(|(_, told)| told["command"].as_str().unwrap()).collect();
        // The first three were taken of where it came from, the last of where it is.
        assert_eq!(commands, ["db backup", "db backup", "db restore", "db backup"], "{done:#?}");
        assert!(done.iter().all(|(by, _)| by.contains("uid ")), "{done:#?}");
        assert_eq!((&done[0].1["file"], &done[1].1["file"]), (&"-".into(), &path.as_str().into()));
        assert!(done[2].1["takenAt"].is_string() && done[2].1["file"] == path.as_str());
        let other = [("PLUMB_PLATFORM", office.desk.platform.url()), ("PLUMB_DATABASE", to.clone())];
        let other = other.each_ref().map(|(name, value)| (*name, value.as_str()));
        let key = "22".repeat(32);
        let refused = office.desk.plumb_with(&["apply"], &[&other[..], &[("PLUMB_SECRET_KEY", &key)]].concat());
        assert_eq!((refused.code, refused.stderr.contains("share one key")), (1, true), "{refused:?}");
        std::fs::remove_file(file).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_damaged_foreign_or_newer_leaves_the_database_empty() {
    let office = Office::open();
    let (from, to) = (office.sqlite("from"), office.sqlite("to"));
    office.did(&from, &["apply"]);
    let whole = office.did(&from, &["db", "backup", "-"]);
    let lines: Vec<&str> = whole.lines().collect();
    let header = |from: &str, to: &str| whole.replacen(from, to, 1);
    let schema = lines[0].split("\"schema\":").nth(1).unwrap().split(',').next().unwrap();
    let schema = format!("\"schema\":{schema}");
    for (text, told) in [
        (String::new(), "is empty"),
        ("{\"some\": \"json\"}\n".to_owned(), "no backup of plumb"),
        ("-- PostgreSQL database dump\n".to_owned(), "no backup of plumb"),
        (header("\"version\":1", "\"version\":2"), "use a newer one"),
        (header(&schema, "\"schema\":9999"), "made by a newer plumb"),
        (header(&schema, "\"schema\":1"), "made by an older plumb"),
        (lines[..lines.len() - 1].join("\n") + "\n", "ends in the middle"),
        (whole[..whole.len() / 2].to_owned(), "is damaged"),
        ([&lines[..3], &lines[4..]].concat().join("\n") + "\n", "nothing was"),
        (whole.replacen("checkout", "chekcout", 1), "nothing was"),
    ] {
        let file = office.desk.folder().join("broken.backup");
        std::fs::write(&file, &text).unwrap();
        let said = office.plumb(&to, &["db", "restore", &file.display().to_string()]);
        assert_eq!((said.code, said.stderr.contains(told)), (1, true), "{told}: {said:?}");
    }
    let file = office.desk.folder().join("whole.backup");
    std::fs::write(&file, &whole).unwrap();
    office.did(&to, &["db", "restore", &file.display().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_moves_there_and_back_and_goes_on() {
    let office = Office::open();
    let (home, away, back) = (office.sqlite("home"), empty_postgres().await, office.sqlite("back"));
    office.did(&home, &["apply"]);
    let password = office.password(&home);
    let before = office.rows(&home);
    let moved = office.did(&home, &["db", "move", "--to", &away]);
    for table in ["secrets", "vault"] {
        assert!(moved.lines().any(|line| line.starts_with(table) && line.contains('1')), "{moved}");
    }
    assert_eq!(office.rows(&away), before);
    assert_eq!(office.rows(&home), before, "it is left as it was");
    assert!(office.did(&away, &["apply"]).contains("nothing to do"));
    assert_eq!(office.password(&away), password);
    office.did(&away, &["audit", "--verify"]);
    let done = office.done_to(&away);
    let moved: Vec<_> = done.iter().filter(|(_, told)| told["command"] == "db move").collect();
    assert_eq!(moved.len(), 1, "{done:#?}");
    assert_eq!(moved[0].1["from"], home.as_str());
    assert!(office.done_to(&home).iter().all(|(_, told)| told["command"] != "db move"), "it is left as it was");
    let other = office.sqlite("other");
    office.did(&other, &["apply"]);
    let full = office.plumb(&other, &["db", "move", "--to", &away]);
    assert_eq!((full.code, full.stderr.contains("is not empty")), (1, true), "{full:?}");

    let there = office.rows(&away);
    office.did(&away, &["db", "move", "--to", &back]);
    assert_eq!(office.rows(&back), there);
    assert!(office.did(&back, &["apply"]).contains("nothing to do"));
    assert_eq!(office.password(&back), password);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_was_moved_away_is_not_worked_with_until_somebody_says_so() {
    let office = Office::open();
    let (home, away) = (office.sqlite("home"), empty_postgres().await);
    for (from, to) in [(&home, &away), (&away, &office.sqlite("back"))] {
        office.did(from, &["apply"]);
        let store = match from.strip_prefix("sqlite:") {
            Some(_) => None,
            None => Some(PostgresStore::open(from, Mode::Reconcile).await.unwrap()),
        };
        office.did(from, &["db", "move", "--to", to]);
        let shown = to.replace(&format!(":{}@", PostgresServer::shared().login().1), "@");
        for command in
            [&["apply"][..], &["retry"], &["secret", "get", SESSIONS, "user"], &["db", "move", "--to", "sqlite:b"]]
        {
            let refused = office.plumb(from, command);
            let told = refused.stderr.contains("was moved to") && refused.stderr.contains("`plumb db reopen`");
            assert_eq!(
                (refused.code, told, refused.stderr.contains(&shown)),
                (1, true, true),
                "{command:?}: {refused:?}"
            );
        }
        // One that was there already, and waited, does not go on either.
        if let Some(store) = store {
            let refused = store.begin(Scope::Platform).await.err().expect("it is not here");
            assert!(matches!(refused, StoreError::Moved { .. }), "{refused:?}");
            let refused = store.request(&[]).await.expect_err("it is not here");
            assert!(matches!(refused, StoreError::Moved { .. }), "{refused:?}");
        }
        // What was is read, and kept.
        let told = format!("the state was moved to {shown} at ");
        for command in [&["get"][..], &["plan"], &["explain", SESSIONS]] {
            let read = office.plumb(from, command);
            assert!(read.stdout.contains(if command[0] == "plan" { "nothing to do" } else { SESSIONS }), "{read:?}");
            assert_eq!((read.code, read.stderr.matches(&told).count()), (0, 1), "{command:?}: {read:?}");
            let quiet = office.plumb(from, &[command, &["-q"]].concat());
            assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""), "{command:?}: {quiet:?}");
        }
        let doctor = office.plumb(from, &["doctor"]);
        assert_eq!((doctor.code, doctor.stdout.contains(&told)), (1, true), "{doctor:?}");
        office.did(to, &["apply"]);
        let reopened = office.did(from, &["db", "reopen"]);
        assert!(reopened.contains("is worked with again"), "{reopened}");
        office.did(from, &["apply"]);
        assert!(office.did(from, &["db", "reopen"]).contains("was not moved away"));
        assert!(office.done_to(from).iter().any(|(_, told)| told["command"] == "db reopen"));
        office.did(from, &["db", "move", "--to", &office.sqlite(&format!("other {}", from.len()))]);
    }
    // It can be put there again where nothing is left.
    let file = office.desk.folder().join("state.backup").display().to_string();
    assert_eq!(office.plumb(&away, &["db", "backup", &file]).code, 0);
    let emptied = "DO $$ DECLARE t text; BEGIN FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'plumb' AND tablename \
                   NOT IN ('_sqlx_migrations', 'moved') LOOP EXECUTE format('TRUNCATE plumb.%I CASCADE', t); END LOOP; END $$";
    behind_its_back(&away, emptied).await;
    office.did(&away, &["db", "restore", &file]);
    office.did(&away, &["apply"]);
}

/// Adds so many scenes, as large as those of large tenants.
async fn add_scenes(folder: &Path, scenes: usize, bytes: usize) {
    let store = SqliteStore::open(folder, Mode::Reconcile).await.unwrap();
    for number in 0..scenes {
        let mut tx = store.begin(Scope::Platform).await.unwrap();
        let execution = tx.start_execution("checkout", Trigger::Poll, None, DateTime::UNIX_EPOCH).await.unwrap();
        let packed = PackedInputs { inputs: vec![1], scene: vec![number as u8; bytes], hash: number.to_string() };
        tx.put_plan_inputs(execution, "checkout", 0, &packed).await.unwrap();
        tx.commit().await.unwrap();
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_state_is_backed_up_restored_and_moved_a_few_rows_at_a_time() {
    const SCENES: usize = 20;
    const LARGE: usize = 2 << 20;
    let office = Office::open();
    let mut usual = Vec::new();
    for (name, scenes) in [("small", 1), ("large", SCENES)] {
        let home = office.sqlite(name);
        office.did(&home, &["apply"]);
        add_scenes(&office.desk.folder().join(name), scenes, if scenes == 1 { 1 } else { LARGE }).await;
        let file = office.desk.folder().join(format!("{name}.backup")).display().to_string();
        let (away, back) = (empty_postgres().await, office.sqlite(&format!("{name} again")));
        let acts = [
            (&home, vec!["db", "backup", &file]),
            (&away, vec!["db", "restore", &file]),
            (&away, vec!["db", "move", "--to", &back]),
        ];
        let mut peaks = Vec::new();
        for (database, act) in acts {
            let (said, peak) = office.desk.plumb_measured(&act, &[("PLUMB_DATABASE", database)]);
            assert_eq!(said.code, 0, "{act:?}: {said:?}");
            peaks.push((act[1].to_owned(), peak));
        }
        assert!(office.did(&back, &["db", "migrate"]).contains("is up to date"));
        let count = |database: String| async move {
            let store = SqliteStore::open(database.strip_prefix("sqlite:").unwrap(), Mode::ReadOnly).await.unwrap();
            let all = HistoryFilter { limit: 1_000, ..HistoryFilter::default() };
            let mut tx = store.read(Scope::Platform).await.unwrap();
            let mut bytes = 0;
            for execution in tx.executions(&all).await.unwrap() {
                bytes +=
                    tx.plan_inputs(execution.id).await.unwrap().iter().map(|packed| packed.scene.len()).sum::<usize>();
            }
            bytes
        };
        assert_eq!(count(back).await, count(home).await);
        println!("{name}: {peaks:?}");
        match scenes {
            1 => usual = peaks,
            _ => {
                for ((act, usual), (_, peak)) in usual.iter().zip(peaks) {
                    // Whoever holds it whole has it more than three times: as read, as text, and on its way.
                    let most = usual + 2 * SCENES * LARGE;
                    assert!(peak < most, "db {act} held it whole: {peak} bytes, and {usual} else");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_moves_while_somebody_reconciles() {
    let office = Office::open();
    let (home, away) = (office.sqlite("home"), office.sqlite("away"));
    office.did(&home, &["apply"]);
    let lock = DirectoryLock::take(&office.desk.folder().join("home")).unwrap();
    let refused = office.plumb(&home, &["db", "move", "--to", &away]);
    assert_eq!((refused.code, refused.stderr.contains("another plumb is reconciling")), (1, true), "{refused:?}");
    drop(lock);
    let replicas = empty_postgres().await;
    office.did(&home, &["db", "move", "--to", &replicas]);
    let store = plumb::store::postgres::PostgresStore::open(&replicas, plumb::store::Mode::Reconcile).await.unwrap();
    let lead = plumb::store::Queue::lead(&store).await.unwrap().unwrap();
    let refused = office.plumb(&replicas, &["db", "move", "--to", &away]);
    assert_eq!((refused.code, refused.stderr.contains("stop every replica first")), (1, true), "{refused:?}");
    drop(lead);
    // One that leads nobody, as `plumb apply` does.
    let ask = plumb::engine::Ask { trigger: plumb::model::Trigger::CommandLine, width: plumb::engine::Width::Deep };
    let (replica, long) = (plumb::model::Replica("host/1/abc".to_owned()), std::time::Duration::from_secs(600));
    let claim = plumb::store::Queue::claim_tenant(&store, "checkout", ask, &replica, long).await.unwrap().unwrap();
    let refused = office.plumb(&replicas, &["db", "move", "--to", &away]);
    assert_eq!((refused.code, refused.stderr.contains("host/1/abc looks at checkout")), (1, true), "{refused:?}");
    let release = plumb::model::Release { seen: None, retry: None, news: None };
    plumb::store::Queue::release(&store, &claim.lease, &release).await.unwrap();
    office.did(&replicas, &["db", "move", "--to", &away]);
}

/// Whether a transaction of a database waits for a lock.
async fn somebody_waits(connection: &mut sqlx::PgConnection) -> bool {
    let waiting =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    sqlx::query_scalar(waiting).fetch_one(connection).await.unwrap()
}

fn late_tenant(name: &str) -> TenantState {
    TenantState { branch: "main".into(), path: ".".into(), ..TenantState::of_name(name, DateTime::UNIX_EPOCH) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_a_state_moves_is_moved_or_nothing_is() {
    /// The lock of writers of the state in PostgreSQL.
    const WRITERS: i64 = 0x70_6c_75_6d_63;
    let office = Arc::new(Office::open());
    let (home, replicas, away) = (office.sqlite("home"), empty_postgres().await, empty_postgres().await);
    office.did(&home, &["apply"]);
    office.did(&home, &["db", "move", "--to", &replicas]);
    office.did(&away, &["db", "migrate"]);
    let from = Arc::new(PostgresStore::open(&replicas, Mode::Reconcile).await.unwrap());
    let to = PostgresStore::open(&away, Mode::ReadOnly).await.unwrap();
    let mut at_source = sqlx::PgConnection::connect(&replicas).await.unwrap();
    let mut at_target = sqlx::PgConnection::connect(&away).await.unwrap();
    let moves = || {
        let (office, replicas, away) = (Arc::clone(&office), replicas.clone(), away.clone());
        tokio::task::spawn_blocking(move || office.plumb(&replicas, &["db", "move", "--to", &away]))
    };
    let write = async |name: &str| {
        let mut tx = from.begin(Scope::Tenant(name.to_owned())).await.unwrap();
        tx.put_tenant(&late_tenant(name)).await.unwrap();
        tx
    };

    // Somebody comes while it is copied, which takes long: what they are about to write would be lost.
    let lock = sqlx::query("SELECT pg_advisory_lock($1)").bind(WRITERS);
    lock.execute(&mut at_target).await.unwrap();
    let moving = moves();
    while !somebody_waits(&mut at_target).await {}
    let unlocks = async {
        while !somebody_waits(&mut at_source).await {}
        at_target.close().await.unwrap();
    };
    let (late, ()) = tokio::join!(write("late"), unlocks);
    late.commit().await.unwrap();
    let refused = moving.await.unwrap();
    let told = refused.stderr.contains("began to write to") && refused.stderr.contains("so nothing was moved");
    assert_eq!((refused.code, told), (1, true), "{refused:?}");
    assert!(to.read(Scope::Platform).await.unwrap().tenants().await.unwrap().is_empty());

    // Somebody is there already: it waits for them, and takes what they wrote.
    let mut early = write("early").await;
    let moving = moves();
    while !somebody_waits(&mut at_source).await {
        early.tenants().await.unwrap();
    }
    early.commit().await.unwrap();
    let moved = moving.await.unwrap();
    assert_eq!(moved.code, 0, "{moved:?}");
    let there: Vec<String> = to.read(Scope::Platform).await.unwrap().tenants().await.unwrap().into_keys().collect();
    assert_eq!(there, ["checkout", "early", "late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_restored_beneath_somebody_who_reconciles() {
    let office = Office::open();
    let (home, target) = (office.sqlite("home"), empty_postgres().await);
    office.did(&home, &["apply"]);
    let file = office.desk.folder().join("state.backup").display().to_string();
    assert_eq!(office.plumb(&home, &["db", "backup", &file]).code, 0);
    // A replica that leads, and has found no platform yet.
    let store = plumb::store::postgres::PostgresStore::open(&target, plumb::store::Mode::Reconcile).await.unwrap();
    let lead = plumb::store::Queue::lead(&store).await.unwrap().unwrap();
    let refused = office.plumb(&target, &["db", "restore", &file]);
    assert_eq!((refused.code, refused.stderr.contains("stop every replica first")), (1, true), "{refused:?}");
    drop(lead);
    let ask = plumb::engine::Ask { trigger: plumb::model::Trigger::CommandLine, width: plumb::engine::Width::Deep };
    let (replica, long) = (plumb::model::Replica("host/1/abc".to_owned()), std::time::Duration::from_secs(600));
    let claim = plumb::store::Queue::claim_tenant(&store, "checkout", ask, &replica, long).await.unwrap().unwrap();
    let refused = office.plumb(&target, &["db", "restore", &file]);
    assert_eq!((refused.code, refused.stderr.contains("host/1/abc looks at checkout")), (1, true), "{refused:?}");
    let release = plumb::model::Release { seen: None, retry: None, news: None };
    plumb::store::Queue::release(&store, &claim.lease, &release).await.unwrap();
    plumb::store::Queue::keep_only(&store, &[]).await.unwrap();
    office.did(&target, &["db", "restore", &file]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_leads_while_a_restore_takes_long_and_one_that_others_may_have_led_beside_is_not_kept() {
    /// Longer than the database waits for a sign of life of whoever leads.
    const LONG: Duration = Duration::from_secs(23);
    /// Whether somebody leads: the low half of the lock's number, of this database.
    const LED: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1819635042 AND granted AND \
                       database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    const END: &str = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1819635042 AND \
                       database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let office = Office::open();
    let home = office.sqlite("home");
    office.did(&home, &["apply"]);
    let text = office.did(&home, &["db", "backup", "-"]);
    let (first, rest) = text.split_at(text.find('\n').unwrap() + 1);
    for is_lost in [false, true] {
        let target = empty_postgres().await;
        let store = PostgresStore::open(&target, Mode::Reconcile).await.unwrap();
        let mut watcher = sqlx::PgConnection::connect(&target).await.unwrap();
        let mut is_led = async || sqlx::query_scalar::<_, bool>(LED).fetch_one(&mut watcher).await.unwrap();
        let mut restore = std::process::Command::new(PLUMB);
        restore.args(["db", "restore", "-"]).current_dir(office.desk.folder()).env("PLUMB_DATABASE", &target);
        restore.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut restore = restore.spawn().unwrap();
        let mut slowly = restore.stdin.take().unwrap();
        slowly.write_all(first.as_bytes()).unwrap();
        while !is_led().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if is_lost {
            behind_its_back(&target, END).await;
        }
        let could_lead = async {
            while is_led().await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        assert_eq!(tokio::time::timeout(LONG, could_lead).await.is_ok(), is_lost, "whether a replica could lead");
        slowly.write_all(rest.as_bytes()).unwrap();
        drop(slowly);
        let said = restore.wait_with_output().unwrap();
        let told = String::from_utf8(said.stderr).unwrap();
        assert_eq!(said.status.success(), !is_lost, "{told}");
        assert_eq!(told.contains("the connection was lost that kept every plumb from"), is_lost, "{told}");
        let there = store.read(Scope::Platform).await.unwrap().tenants().await.unwrap();
        assert_eq!(there.is_empty(), is_lost);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_are_told_and_a_login_that_may_not_run_them_says_who_can() {
    let office = Office::open();
    let home = office.sqlite("home");
    let first = office.did(&home, &["db", "migrate"]);
    assert!(first.contains("applied 0001 initial") && first.contains("0006 months"), "{first}");
    let second = office.did(&home, &["db", "migrate"]);
    assert!(second.contains("is up to date"), "{second}");

    // One that was there is brought up to date by somebody.
    assert!(office.done_to(&home).is_empty(), "it was only made");
    let older = "DROP TABLE vault; DELETE FROM _sqlx_migrations WHERE version = 11";
    run_sql(&office.desk.folder().join("home/plumb.db"), older).await;
    assert!(office.did(&home, &["db", "migrate"]).contains("applied 0011 vault"));
    let done = office.done_to(&home);
    assert_eq!((done.len(), &done[0].1["command"]), (1, &"db migrate".into()), "{done:#?}");
    assert_eq!(done[0].1["applied"][0], "0011 vault");

    let owner = empty_postgres().await;
    assert!(office.did(&owner, &["db", "migrate"]).contains("0005 audit"));
    // A login that owns nothing, and may work as the service.
    let server = PostgresServer::shared();
    let database = owner.rsplit('/').next().unwrap();
    let guest = format!("guest_of_{database}");
    server
        .psql(&format!("CREATE ROLE {guest} LOGIN PASSWORD 'guest'; GRANT plumb_{database}_service TO {guest}"))
        .await;
    let as_guest = format!("postgres://{guest}:guest@127.0.0.1:{}/{database}", server.port());
    office.did(&as_guest, &["apply"]);
    let mut connection = sqlx::PgConnection::connect(&owner).await.unwrap();
    let undo = "DELETE FROM plumb._sqlx_migrations WHERE version = (SELECT max(version) FROM plumb._sqlx_migrations)";
    sqlx::raw_sql(AssertSqlSafe(undo)).execute(&mut connection).await.unwrap();
    let refused = office.plumb(&as_guest, &["apply"]);
    assert_eq!((refused.code, refused.stderr.contains("plumb db migrate")), (1, true), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_not_moved_to_where_it_is_by_another_name() {
    let office = Office::open();
    let (home, away) = (office.sqlite("home"), empty_postgres().await);
    office.did(&home, &["apply"]);
    std::os::unix::fs::symlink(office.desk.folder().join("home"), office.desk.folder().join("link")).unwrap();
    for also in [office.sqlite("link"), "sqlite:home".to_owned(), office.sqlite("link/../home")] {
        let refused = office.plumb(&home, &["db", "move", "--to", &also]);
        assert_eq!((refused.code, refused.stderr.contains("where the state is already")), (1, true), "{refused:?}");
    }
    office.did(&away, &["apply"]);
    let also = away.replace("127.0.0.1", "localhost");
    for (from, to) in [(&away, &also), (&also, &away)] {
        let refused = office.plumb(from, &["db", "move", "--to", to]);
        assert_eq!((refused.code, refused.stderr.contains("by another name")), (1, true), "{refused:?}");
    }
    // Where the data directory is, there may be a state as well.
    let data = format!("sqlite:{}", office.desk.data("").display());
    office.did(&away, &["db", "move", "--to", &data]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_not_the_same_is_not_kept() {
    let office = Office::open();
    let home = office.sqlite("home");
    office.did(&home, &["apply"]);
    let before = office.rows(&home);
    let on_postgres = |function: &str| {
        let make = format!(
            "CREATE FUNCTION plumb.spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {function} END $$; CREATE TRIGGER \
             spoil BEFORE INSERT ON plumb.statuses FOR EACH ROW EXECUTE FUNCTION plumb.spoil()"
        );
        // As long as the tests run.
        &*make.leak()
    };
    let on_sqlite = "CREATE TRIGGER spoil AFTER INSERT ON statuses BEGIN DELETE FROM statuses WHERE key = NEW.key; END";
    // A row that is another one there, and rows that are not there.
    let other = on_postgres("NEW.document := replace(NEW.document, 'orders', 'ordres'); RETURN NEW;");
    for (away, spoil, mend, there) in [
        (empty_postgres().await, other, "DROP TRIGGER spoil ON plumb.statuses", 3),
        (empty_postgres().await, on_postgres("RETURN NULL;"), "DROP TRIGGER spoil ON plumb.statuses", 0),
        (office.sqlite("away"), on_sqlite, "DROP TRIGGER spoil", 0),
    ] {
        office.did(&away, &["db", "migrate"]);
        behind_its_back(&away, spoil).await;
        let refused = office.plumb(&home, &["db", "move", "--to", &away]);
        let told =
            format!("table statuses differs after the copy, so nothing was kept: 3 rows were read, {there} are there");
        assert_eq!((refused.code, refused.stderr.contains(&told)), (1, true), "{refused:?}");
        // It is empty still, or nothing would be moved there.
        behind_its_back(&away, mend).await;
        office.did(&home, &["db", "move", "--to", &away]);
        assert_eq!(office.rows(&away), before);
        office.did(&home, &["db", "reopen"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_moved_or_restored_without_a_row_that_says_by_whom() {
    let office = Office::open();
    let home = office.sqlite("home");
    office.did(&home, &["apply"]);
    let before = office.rows(&home);
    let file = office.desk.folder().join("state.backup").display().to_string();
    assert_eq!(office.plumb(&home, &["db", "backup", &file]).code, 0);
    // The log takes no row of what is done to a database, but those that it had before.
    let on_postgres = "CREATE FUNCTION plumb.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the log is shut'; \
                       END $$; CREATE TRIGGER refuse BEFORE INSERT ON plumb.audit FOR EACH ROW WHEN (NEW.details LIKE \
                       '%\"db move\"%' OR NEW.details LIKE '%\"db restore\"%') EXECUTE FUNCTION plumb.refuse()";
    let on_sqlite = "CREATE TRIGGER refuse BEFORE INSERT ON audit WHEN NEW.details LIKE '%\"db move\"%' OR NEW.details LIKE \
                     '%\"db restore\"%' BEGIN SELECT RAISE(ABORT, 'the log is shut'); END";
    for (number, act) in ["db move", "db restore"].into_iter().enumerate() {
        for (away, shut, open) in [
            (empty_postgres().await, on_postgres, "DROP TRIGGER refuse ON plumb.audit"),
            (office.sqlite(&format!("away {number}")), on_sqlite, "DROP TRIGGER refuse"),
        ] {
            office.did(&away, &["db", "migrate"]);
            behind_its_back(&away, shut).await;
            let tries = || match act {
                "db move" => office.plumb(&home, &["db", "move", "--to", &away]),
                _ => office.plumb(&away, &["db", "restore", &file]),
            };
            let refused = tries();
            assert_eq!((refused.code, refused.stderr.contains("the log is shut")), (1, true), "{act}: {refused:?}");
            // It is empty still, or nothing would be put there.
            behind_its_back(&away, open).await;
            let done = tries();
            assert_eq!(done.code, 0, "{act}: {done:?}");
            assert_eq!(office.rows(&away), before, "{act}");
            let told = office.done_to(&away);
            assert_eq!(told.iter().filter(|(_, told)| told["command"] == act).count(), 1, "{told:#?}");
            office.did(&home, &["db", "reopen"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_cannot_be_made_is_none() {
    let office = Office::open();
    let home = office.sqlite("home");
    office.did(&home, &["apply"]);
    let nowhere = office.plumb(&home, &["db", "backup", "/nonexistent/x"]);
    assert_eq!(
        (nowhere.code, nowhere.stderr.contains("no file can be made in /nonexistent")),
        (1, true),
        "{nowhere:?}"
    );
    assert!(office.done_to(&home).is_empty(), "none was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_says_nothing_is_given_up() {
    let office = Office::open();
    let server = PostgresServer::start();
    let (login, password) = server.login();
    server.psql(&format!("CREATE DATABASE state OWNER {login}")).await;
    let database = format!("postgres://{login}:{password}@127.0.0.1:{}/state", server.port());
    office.did(&database, &["db", "migrate"]);
    server.pause();
    let said = office.plumb(&database, &["get", "--providers"]);
    server.resume();
    let told = said.stderr.contains(&format!("127.0.0.1:{}/state", server.port()))
        && said.stderr.contains("the server did not answer for 30 s");
    assert_eq!((said.code, told, said.stderr.contains(password)), (1, true, false), "{said:?}");
}

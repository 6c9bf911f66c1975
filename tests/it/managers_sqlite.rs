//! The SQLite manager against real files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use plumb::managers::sqlite::{Sqlite, connect};
use plumb::managers::{Cx, Endpoint, ManagerError, ResourceManager, Secrets};
use plumb::model::{
    Action, Change, Depth, Expect, Fields, Kind, Live, Mark, ObjectId, Observation, Ownership, PlatformId,
    ProviderType, Reason, ResourceKey, Step, Target,
};
use plumb::store::lock::LOCK_FILE;
use plumb::store::sqlite::DATABASE_FILE;
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection};
use tempfile::TempDir;

/// An SQLite file has no roles; asking for a password is a fault.
struct NoSecrets;

#[async_trait]
impl Secrets for NoSecrets {
    async fn password(&self, _: &ResourceKey, role: &str, _: Option<&str>) -> Result<SecretString, ManagerError> {
        panic!("asked for the password of {role}")
    }
}

struct Bench {
    _directory: TempDir,
    folder: PathBuf,
    manager: Sqlite,
    platform: PlatformId,
}

impl Bench {
    fn new() -> Self {
        Self::with_timeout(Duration::from_secs(5))
    }

    fn with_timeout(timeout: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("databases");
        let manager = manager(directory.path(), "sqlite:databases", timeout);
        Self { _directory: directory, folder, manager, platform: PlatformId("acme".into()) }
    }

    fn cx(&self) -> Cx<'_> {
        Cx { platform: &self.platform, secrets: &NoSecrets }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("t_e_{name}.db"))
    }

    async fn see(&self, name: &str, depth: Depth) -> Observation {
        let targets = [target(name)];
        let mut seen = self.manager.observe(&targets, depth, &self.cx()).await.unwrap();
        assert_eq!(seen.len(), 1);
        seen.remove(0)
    }

    /// Both looks, which have to agree.
    async fn live(&self, name: &str) -> Live {
        let shallow = self.see(name, Depth::Shallow).await;
        let deep = self.see(name, Depth::Deep).await;
        assert_eq!(shallow, deep);
        match shallow {
            Observation::Present(live) => *live,
            other => panic!("{name} is not there: {other:?}"),
        }
    }

    async fn apply(&self, step: &Step) -> Result<(), ManagerError> {
        self.manager.apply(step, &self.cx()).await.map(|outcome| assert!(outcome.notes.is_empty()))
    }

    async fn create(&self, name: &str, spec: Value) -> Live {
        self.apply(&step(name, Action::Create, Expect::Absent, &spec, None)).await.unwrap();
        self.live(name).await
    }

    async fn open(&self, name: &str) -> SqliteConnection {
        SqliteConnectOptions::new().filename(self.path(name)).create_if_missing(true).connect().await.unwrap()
    }

    async fn by_hand(&self, name: &str, sql: &str) {
        let mut connection = self.open(name).await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    fn files(&self) -> BTreeSet<String> {
        fs::read_dir(&self.folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| ![".plumb-root", ".plumb-locks"].contains(&name.as_str()))
            .collect()
    }
}

fn manager(base: &Path, url: &str, timeout: Duration) -> Sqlite {
    connect(Endpoint {
        name: "files".into(),
        provider_type: ProviderType::Sqlite,
        url: url.into(),
        password: None,
        base_dir: base.to_owned(),
        max_concurrency: 8,
        timeout,
    })
    .unwrap()
}

fn key(name: &str) -> ResourceKey {
    ResourceKey::new("t", "e", Kind::Database, name)
}

fn target(name: &str) -> Target {
    Target { key: key(name), object_name: format!("t_e_{name}"), fields: BTreeSet::new() }
}

fn flat(spec: &Value) -> Fields {
    Kind::Database.info().flatten(spec)
}

/// A step that makes `spec` true of what is `live`, as a planner would write it.
fn step(name: &str, action: Action, expect: Expect, spec: &Value, live: Option<&Live>) -> Step {
    let desired = flat(spec);
    let changes = desired
        .iter()
        .filter(|(path, value)| live.and_then(|live| live.fields.get(path.as_str())) != Some(value))
        .map(|(path, value)| Change {
            path: path.clone(),
            from: live.and_then(|live| live.fields.get(path.as_str())).cloned(),
            to: Some(value.clone()),
        })
        .collect();
    Step {
        key: key(name),
        action,
        provider: "files".into(),
        object_name: format!("t_e_{name}"),
        expect,
        changes,
        mark: Mark { platform: PlatformId("acme".into()), key: key(name), hashes: desired.hashes(), unfinished: false },
        desired,
        depends_on: vec![],
        destructive: vec![],
        rotate: None,
    }
}

fn on(name: &str, action: Action, spec: &Value, live: &Live) -> Step {
    let expect = match live.ownership {
        Ownership::Marked(_) => Expect::Marked(live.object.clone()),
        Ownership::Unmarked => Expect::Unmarked(live.object.clone()),
    };
    step(name, action, expect, spec, Some(live))
}

fn mark_of(live: &Live) -> &Mark {
    match &live.ownership {
        Ownership::Marked(mark) => mark,
        Ownership::Unmarked => panic!("no mark on {live:?}"),
    }
}

fn assert_conflict(result: Result<(), ManagerError>) {
    assert!(matches!(result, Err(ManagerError::Conflict { .. })), "{result:?}");
}

fn unknown(observation: Observation) -> (Reason, String) {
    match observation {
        Observation::Unknown(unknown) => (unknown.reason, unknown.message),
        other => panic!("seen: {other:?}"),
    }
}

#[tokio::test]
async fn a_database_is_created_seen_changed_and_deleted() {
    let bench = Bench::new();
    assert_eq!(bench.manager.identity().await.unwrap(), None);
    assert_eq!(bench.see("orders", Depth::Shallow).await, Observation::Absent { lost: false, left: None });
    assert!(!bench.folder.exists(), "looking made the folder");

    let spec = json!({"journalMode": "wal", "userVersion": 3, "pageSize": 8192});
    let live = bench.create("orders", spec.clone()).await;
    assert_eq!(
        live.fields,
        flat(&json!({"journalMode": "wal", "userVersion": 3, "pageSize": 8192, "foreignKeys": false}))
    );
    assert_eq!(mark_of(&live).hashes, flat(&spec).hashes());
    assert_eq!(live.outputs["file"], bench.path("orders").display().to_string());
    assert!(Path::new(&live.outputs["file"]).is_absolute());
    assert!(bench.manager.identity().await.unwrap().is_some());

    bench.by_hand("orders", "CREATE TABLE t (x); INSERT INTO t VALUES (42)").await;
    let spec = json!({"journalMode": "delete", "userVersion": -4, "pageSize": 8192, "foreignKeys": true});
    bench.apply(&on("orders", Action::Update, &spec, &live)).await.unwrap();
    let changed = bench.live("orders").await;
    assert_eq!(changed.fields, flat(&spec));
    assert_eq!(changed.object, live.object, "the same object");
    assert_eq!(mark_of(&changed).hashes, flat(&spec).hashes());
    let mut connection = bench.open("orders").await;
    let kept: i64 = sqlx::query_scalar("SELECT x FROM t").fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    assert_eq!(kept, 42);

    bench.apply(&on("orders", Action::Delete, &json!({}), &changed)).await.unwrap();
    assert_eq!(bench.see("orders", Depth::Shallow).await, Observation::Absent { lost: false, left: None });
    assert_eq!(bench.files(), BTreeSet::new());
}

#[tokio::test]
async fn a_removed_field_goes_to_its_default() {
    let bench = Bench::new();
    let live = bench.create("orders", json!({"journalMode": "wal", "userVersion": 3, "foreignKeys": true})).await;
    let mut step = on("orders", Action::Update, &json!({}), &live);
    for path in ["/spec/journalMode", "/spec/userVersion", "/spec/foreignKeys"] {
        step.changes.push(Change { path: path.into(), from: live.fields.get(path).cloned(), to: None });
    }
    bench.apply(&step).await.unwrap();
    assert_eq!(
        bench.live("orders").await.fields,
        flat(&json!({"journalMode": "delete", "userVersion": 0, "pageSize": 4096, "foreignKeys": false}))
    );
}

#[tokio::test]
async fn every_page_size_can_be_made_and_seen() {
    let bench = Bench::new();
    for size in [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536] {
        for mode in ["delete", "wal"] {
            let name = format!("{mode}{size}");
            let spec = json!({"pageSize": size, "journalMode": mode, "userVersion": size, "foreignKeys": true});
            assert_eq!(bench.create(&name, spec.clone()).await.fields, flat(&spec));
        }
    }
}

#[tokio::test]
async fn a_made_file_passes_sqlites_own_check() {
    let bench = Bench::new();
    for mode in ["delete", "wal"] {
        bench.create(mode, json!({"journalMode": mode})).await;
        let mut connection = bench.open(mode).await;
        let check: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap();
        let now: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        assert_eq!((check.as_str(), now.as_str()), ("ok", mode));
    }
}

#[tokio::test]
async fn r1_an_unmarked_file_is_shown_and_not_touched() {
    let bench = Bench::new();
    bench.create("first", json!({})).await;
    bench.by_hand("orders", "PRAGMA user_version = 7; CREATE TABLE theirs (x)").await;
    let before = fs::read(bench.path("orders")).unwrap();
    let live = bench.live("orders").await;
    assert_eq!(live.ownership, Ownership::Unmarked);
    assert_eq!(live.fields.get("/spec/userVersion"), Some(&json!(7)));

    assert_conflict(bench.apply(&step("orders", Action::Create, Expect::Absent, &json!({}), None)).await);
    for action in [Action::Update, Action::Replace, Action::Delete] {
        let expect = Expect::Marked(live.object.clone());
        assert_conflict(bench.apply(&step("orders", action, expect, &json!({}), Some(&live))).await);
    }
    assert_eq!(fs::read(bench.path("orders")).unwrap(), before);
}

#[tokio::test]
async fn r1_a_file_with_anothers_mark_is_never_touched() {
    let bench = Bench::new();
    let live = bench.create("orders", json!({})).await;
    let before = fs::read(bench.path("orders")).unwrap();
    let stranger = PlatformId("stranger".into());
    let cx = Cx { platform: &stranger, secrets: &NoSecrets };
    for action in [Action::Update, Action::Replace, Action::Delete] {
        let refused = bench.manager.apply(&on("orders", action, &json!({"userVersion": 1}), &live), &cx).await;
        assert_eq!(refused.unwrap_err().reason(), Reason::OwnedByOther, "{action}");

        let mut other = on("orders", action, &json!({"userVersion": 1}), &live);
        other.key = key("someone-else");
        assert_eq!(bench.apply(&other).await.unwrap_err().reason(), Reason::OwnedByOther, "{action}");
    }
    let adoption = step("orders", Action::Adopt, Expect::Unmarked(live.object.clone()), &json!({}), None);
    assert_conflict(bench.apply(&adoption).await);
    assert_eq!(fs::read(bench.path("orders")).unwrap(), before);
}

#[tokio::test]
async fn an_unmarked_file_is_adopted_with_its_data() {
    let bench = Bench::new();
    bench.create("first", json!({})).await;
    bench.by_hand("orders", "PRAGMA user_version = 7; CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").await;
    let live = bench.live("orders").await;
    let spec = json!({"userVersion": 8, "journalMode": "wal", "foreignKeys": true});
    bench.apply(&on("orders", Action::Adopt, &spec, &live)).await.unwrap();
    let adopted = bench.live("orders").await;
    assert_eq!(mark_of(&adopted).key, key("orders"));
    assert_ne!(adopted.object, live.object);
    for (path, value) in flat(&spec).iter() {
        assert_eq!(adopted.fields.get(path.as_str()), Some(value));
    }
    let mut connection = bench.open("orders").await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM theirs").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 1);
    connection.close().await.unwrap();
    let wrong_page = on("orders", Action::Update, &json!({"pageSize": 8192}), &adopted);
    assert_eq!(bench.apply(&wrong_page).await.unwrap_err().reason(), Reason::UnsupportedByProvider);
}

#[tokio::test]
async fn an_empty_file_is_an_unmarked_database_and_can_be_adopted() {
    let bench = Bench::new();
    bench.create("first", json!({})).await;
    for mode in ["delete", "wal"] {
        fs::write(bench.path(mode), "").unwrap();
        let live = bench.live(mode).await;
        assert_eq!(live.ownership, Ownership::Unmarked);
        assert_conflict(bench.apply(&step(mode, Action::Create, Expect::Absent, &json!({}), None)).await);
        assert_eq!(fs::metadata(bench.path(mode)).unwrap().len(), 0);
        let spec = json!({"pageSize": 8192, "journalMode": mode, "userVersion": 5});
        bench.apply(&on(mode, Action::Adopt, &spec, &live)).await.unwrap();
        let adopted = bench.live(mode).await;
        for (path, value) in flat(&spec).iter() {
            assert_eq!(adopted.fields.get(path.as_str()), Some(value), "{path}");
        }
    }
}

#[tokio::test]
async fn a_replacement_is_a_new_object_with_nothing_of_the_old() {
    let bench = Bench::new();
    for mode in ["delete", "wal"] {
        let live = bench.create(mode, json!({"journalMode": mode})).await;
        bench.by_hand(mode, "CREATE TABLE t (x)").await;
        let spec = json!({"journalMode": mode, "pageSize": 1024});
        bench.apply(&on(mode, Action::Replace, &spec, &live)).await.unwrap();
        let replaced = bench.live(mode).await;
        assert_ne!(replaced.object, live.object);
        assert_eq!(replaced.fields.get("/spec/pageSize"), Some(&json!(1024)));
        let mut connection = bench.open(mode).await;
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = 't'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        assert_eq!(tables, 0);
    }
    assert_eq!(bench.files(), ["t_e_delete.db", "t_e_wal.db"].map(String::from).into());
}

#[tokio::test]
async fn r13_a_change_between_plan_and_apply_is_a_conflict() {
    let bench = Bench::new();
    let live = bench.create("orders", json!({"userVersion": 1})).await;
    let planned = on("orders", Action::Update, &json!({"userVersion": 2}), &live);
    bench.by_hand("orders", "PRAGMA user_version = 9").await;
    assert_conflict(bench.apply(&planned).await);
    assert_eq!(bench.live("orders").await.fields.get("/spec/userVersion"), Some(&json!(9)));
}

#[tokio::test]
async fn r13_another_object_of_that_name_is_a_conflict() {
    let bench = Bench::new();
    let first = bench.create("orders", json!({})).await;
    bench.apply(&on("orders", Action::Delete, &json!({}), &first)).await.unwrap();
    assert_conflict(bench.apply(&on("orders", Action::Update, &json!({"userVersion": 2}), &first)).await);
    let second = bench.create("orders", json!({})).await;
    assert_ne!(first.object, second.object);
    for action in [Action::Update, Action::Replace, Action::Delete] {
        assert_conflict(bench.apply(&on("orders", action, &json!({"userVersion": 2}), &first)).await);
    }
    assert_eq!(bench.live("orders").await, second);
}

#[tokio::test]
async fn a_lost_mark_is_seen_and_the_file_is_no_longer_ours() {
    let bench = Bench::new();
    let live = bench.create("orders", json!({})).await;
    bench.by_hand("orders", "DELETE FROM plumb_mark").await;
    assert_eq!(bench.live("orders").await.ownership, Ownership::Unmarked);
    assert_conflict(bench.apply(&on("orders", Action::Delete, &json!({}), &live)).await);
    let unmarked = bench.live("orders").await;
    bench.apply(&on("orders", Action::Adopt, &json!({"userVersion": 1}), &unmarked)).await.unwrap();
    assert_eq!(mark_of(&bench.live("orders").await).key, key("orders"));
}

#[tokio::test]
async fn r2_what_a_killed_creation_leaves_is_cleared_and_never_taken_for_a_database() {
    let bench = Bench::new();
    bench.create("first", json!({})).await;
    let draft = bench.folder.join(".t_e_orders.plumb-new");
    fs::write(&draft, "half of a database").unwrap();
    assert_eq!(bench.see("orders", Depth::Deep).await, Observation::Absent { lost: false, left: None });
    bench.create("orders", json!({})).await;
    assert!(!draft.exists());

    // Killed between the link and the removal of the draft: the object is whole and its own.
    fs::hard_link(bench.path("orders"), &draft).unwrap();
    let live = bench.live("orders").await;
    assert_eq!(mark_of(&live).key, key("orders"));
    bench.apply(&on("orders", Action::Update, &json!({"userVersion": 6}), &live)).await.unwrap();
    assert!(!draft.exists());
    assert_eq!(bench.live("orders").await.fields.get("/spec/userVersion"), Some(&json!(6)));
}

#[tokio::test]
async fn r2_what_a_killed_deletion_leaves_is_cleared_by_the_next_process() {
    let bench = Bench::new();
    bench.create("orders", json!({})).await;
    fs::rename(bench.path("orders"), bench.folder.join(".t_e_orders.plumb-old")).unwrap();
    assert_eq!(bench.see("orders", Depth::Shallow).await, Observation::Absent { lost: false, left: None });

    let next = manager(bench.folder.parent().unwrap(), "sqlite:databases", Duration::from_secs(5));
    let other = step("other", Action::Create, Expect::Absent, &json!({}), None);
    assert!(next.apply(&other, &bench.cx()).await.is_ok());
    assert_eq!(bench.files(), ["t_e_other.db"].map(String::from).into());
}

#[tokio::test]
async fn r5_what_is_no_database_is_unknown_and_left_alone() {
    let bench = Bench::new();
    bench.create("first", json!({})).await;
    fs::write(bench.path("text"), "a shopping list\n".repeat(1000)).unwrap();
    fs::create_dir(bench.path("folder")).unwrap();
    std::os::unix::fs::symlink(bench.path("first"), bench.path("link")).unwrap();
    std::os::unix::fs::symlink("/nowhere", bench.path("dangling")).unwrap();
    bench.create("cut", json!({})).await;
    let whole = fs::read(bench.path("cut")).unwrap();
    fs::write(bench.path("cut"), &whole[..4096]).unwrap();
    bench.create("scratched", json!({})).await;
    let mut scratched = fs::read(bench.path("scratched")).unwrap();
    scratched[100..4096].fill(0xee);
    fs::write(bench.path("scratched"), &scratched).unwrap();

    for name in ["text", "folder", "link", "dangling", "cut", "scratched"] {
        for depth in [Depth::Shallow, Depth::Deep] {
            let (reason, message) = unknown(bench.see(name, depth).await);
            assert_eq!(reason, Reason::Rejected, "{name}: {message}");
            assert!(message.contains(&format!("t_e_{name}.db")), "{message}");
        }
        let files = bench.files();
        for action in [Action::Update, Action::Replace, Action::Delete] {
            let expect = Expect::Marked(ObjectId("any".into()));
            assert!(bench.apply(&step(name, action, expect, &json!({}), None)).await.is_err(), "{name} {action}");
        }
        assert!(bench.apply(&step(name, Action::Create, Expect::Absent, &json!({}), None)).await.is_err(), "{name}");
        assert_eq!(bench.files(), files);
    }
    assert_eq!(fs::read(bench.path("scratched")).unwrap(), scratched);
    assert_eq!(fs::read_link(bench.path("link")).unwrap(), bench.path("first"));
}

#[tokio::test]
async fn r5_one_sick_file_does_not_hide_the_others() {
    let bench = Bench::new();
    bench.create("well", json!({})).await;
    fs::write(bench.path("sick"), "no database".repeat(100)).unwrap();
    let targets = [target("sick"), target("well"), target("missing")];
    let seen = bench.manager.observe(&targets, Depth::Shallow, &bench.cx()).await.unwrap();
    assert!(matches!(
        seen[..],
        [Observation::Unknown(_), Observation::Present(_), Observation::Absent { lost: false, left: None }]
    ));
}

#[tokio::test]
async fn r5_a_mark_that_cannot_be_read_makes_a_file_unknown() {
    let bench = Bench::new();
    bench.create("orders", json!({})).await;
    bench.by_hand("orders", "UPDATE plumb_mark SET mark = 'plumb:{half'").await;
    for depth in [Depth::Shallow, Depth::Deep] {
        assert_eq!(unknown(bench.see("orders", depth).await).0, Reason::Rejected);
    }
    bench.by_hand("theirs", "CREATE TABLE plumb_mark (colour)").await;
    assert_eq!(unknown(bench.see("theirs", Depth::Shallow).await).0, Reason::Rejected);
}

#[tokio::test]
async fn a_file_that_another_program_writes_is_waited_for_no_longer_than_the_timeout() {
    let bench = Bench::with_timeout(Duration::from_millis(300));
    let live = bench.create("orders", json!({})).await;
    let mut writer = bench.open("orders").await;
    // Small enough a cache that the pages are written, and all readers shut out, before the commit.
    sqlx::raw_sql(
        "PRAGMA cache_size = 1; CREATE TABLE t (x); BEGIN EXCLUSIVE; \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
         INSERT INTO t SELECT randomblob(1000) FROM n",
    )
    .execute(&mut writer)
    .await
    .unwrap();

    let start = Instant::now();
    for depth in [Depth::Shallow, Depth::Deep] {
        assert_eq!(unknown(bench.see("orders", depth).await).0, Reason::TimedOut);
    }
    for action in [Action::Update, Action::Delete] {
        let step = on("orders", action, &json!({"userVersion": 2}), &live);
        let refused = bench.apply(&step).await.unwrap_err();
        assert!(matches!(refused, ManagerError::Retry { reason: Reason::TimedOut, .. }), "{refused:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    writer.close().await.unwrap();
    bench.apply(&on("orders", Action::Update, &json!({"userVersion": 2}), &live)).await.unwrap();
    assert_eq!(bench.live("orders").await.fields.get("/spec/userVersion"), Some(&json!(2)));
}

#[tokio::test]
async fn what_an_open_write_ahead_log_holds_is_seen() {
    let bench = Bench::new();
    let live = bench.create("orders", json!({"journalMode": "wal"})).await;
    let mut application = bench.open("orders").await;
    sqlx::raw_sql("PRAGMA user_version = 12").execute(&mut application).await.unwrap();
    assert!(fs::metadata(bench.folder.join("t_e_orders.db-wal")).unwrap().len() > 0);
    let now = bench.live("orders").await;
    assert_eq!(now.fields.get("/spec/userVersion"), Some(&json!(12)));
    assert_eq!(now.object, live.object);

    // In use: it can be changed beside the application, and not taken from under it.
    bench.apply(&on("orders", Action::Update, &json!({"userVersion": 13}), &now)).await.unwrap();
    let now = bench.live("orders").await;
    let refused = bench.apply(&on("orders", Action::Delete, &json!({}), &now)).await.unwrap_err();
    assert!(matches!(refused, ManagerError::Retry { .. }), "{refused:?}");
    application.close().await.unwrap();
    bench.apply(&on("orders", Action::Delete, &json!({}), &now)).await.unwrap();
    assert_eq!(bench.files(), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_seen_without_sqlite_is_what_sqlite_says() {
    let bench = Bench::new();
    let filled = "CREATE TABLE t (a, b); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
                  INSERT INTO t SELECT i, hex(randomblob(40)) FROM n; CREATE INDEX i ON t (b);";
    let many = (0..200).map(|n| format!("CREATE TABLE t{n} (a PRIMARY KEY, b UNIQUE);")).collect::<String>();
    let by_hand = [
        String::new(),
        filled.to_owned(),
        many,
        format!("PRAGMA journal_mode = DELETE; PRAGMA page_size = 65536; {filled} VACUUM;"),
        "PRAGMA journal_mode = DELETE; PRAGMA page_size = 512; PRAGMA auto_vacuum = FULL; VACUUM; CREATE TABLE t (a);"
            .to_owned(),
        format!("{filled} DROP TABLE t; PRAGMA user_version = -7;"),
        "PRAGMA journal_mode = WAL; CREATE TABLE t (a);".to_owned(),
        "PRAGMA journal_mode = PERSIST; CREATE TABLE t (a); INSERT INTO t VALUES (1);".to_owned(),
    ];
    for (number, sql) in by_hand.iter().enumerate() {
        let name = format!("db{number}");
        bench.create(&name, json!({"userVersion": number, "foreignKeys": true})).await;
        bench.by_hand(&name, sql).await;
        let seen = bench.live(&name).await;
        let mut connection = bench.open(&name).await;
        for (field, pragma) in [("/spec/pageSize", "PRAGMA page_size"), ("/spec/userVersion", "PRAGMA user_version")] {
            let said: i64 = sqlx::query(pragma).fetch_one(&mut connection).await.unwrap().get(0);
            assert_eq!(seen.fields.get(field), Some(&json!(said)), "{field} after {sql}");
        }
        let mode: String = sqlx::query("PRAGMA journal_mode").fetch_one(&mut connection).await.unwrap().get(0);
        let is_wal = seen.fields.get("/spec/journalMode") == Some(&json!("wal"));
        assert_eq!(is_wal, mode == "wal", "the journal mode after {sql}");
        let id: String = sqlx::query("SELECT id FROM plumb_mark").fetch_one(&mut connection).await.unwrap().get(0);
        assert_eq!((id, &mark_of(&seen).key), (seen.object.0.clone(), &key(&name)), "after {sql}");
        connection.close().await.unwrap();

        // Cut off, it is never taken for gone.
        let whole = fs::read(bench.path(&name)).unwrap();
        for length in [1, 99, 100, whole.len() / 2, whole.len() - 1] {
            fs::write(bench.path(&name), &whole[..length]).unwrap();
            let seen = bench.see(&name, Depth::Deep).await;
            let is_gone = matches!(seen, Observation::Absent { .. });
            assert!(!is_gone, "{length} bytes of {}, after {sql}", whole.len());
        }
    }
}

#[tokio::test]
async fn looking_creates_no_file() {
    let bench = Bench::new();
    bench.create("delete", json!({})).await;
    bench.create("wal", json!({"journalMode": "wal"})).await;
    bench.by_hand("unmarked", "PRAGMA journal_mode = wal; CREATE TABLE t (x)").await;
    let before = bench.files();
    for name in ["delete", "wal", "unmarked"] {
        bench.live(name).await;
    }
    assert_eq!(bench.manager.discover(&BTreeSet::new(), &bench.cx()).await.unwrap().len(), 2);
    assert_eq!(bench.files(), before);
}

#[tokio::test]
async fn a_transaction_that_was_cut_short_is_undone_and_the_file_seen() {
    let bench = Bench::new();
    bench.create("orders", json!({"userVersion": 1})).await;
    let mut writer = bench.open("orders").await;
    sqlx::raw_sql(
        "PRAGMA cache_size = 1; CREATE TABLE t (x); BEGIN IMMEDIATE; PRAGMA user_version = 99; \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
         INSERT INTO t SELECT randomblob(1000) FROM n",
    )
    .execute(&mut writer)
    .await
    .unwrap();
    // What a death at this moment leaves on the disk, under another name.
    let database = fs::read(bench.path("orders")).unwrap();
    let journal = fs::read(bench.folder.join("t_e_orders.db-journal")).unwrap();
    writer.close().await.unwrap();
    fs::write(bench.path("dead"), database).unwrap();
    fs::write(bench.folder.join("t_e_dead.db-journal"), journal).unwrap();

    let Observation::Present(live) = bench.see("dead", Depth::Shallow).await else { panic!("not seen") };
    assert_eq!(live.fields.get("/spec/userVersion"), Some(&json!(1)));
}

#[tokio::test]
async fn a_log_without_its_database_is_not_played_into_a_new_one() {
    let bench = Bench::new();
    bench.create("first", json!({})).await;
    let log = bench.folder.join("t_e_orders.db-wal");
    fs::write(&log, "pages of a database that was moved away").unwrap();
    let create = step("orders", Action::Create, Expect::Absent, &json!({}), None);
    assert_eq!(bench.apply(&create).await.unwrap_err().reason(), Reason::Rejected);
    assert!(log.exists() && !bench.path("orders").exists());
    fs::write(&log, "").unwrap();
    bench.apply(&create).await.unwrap();
    assert!(!log.exists());
}

#[tokio::test]
async fn hostile_names_stay_inside_the_folder_and_work_where_they_can() {
    let bench = Bench::new();
    bench.create("first", json!({})).await;
    let outside = bench.folder.parent().unwrap().join("outside.db");
    fs::write(&outside, "").unwrap();
    for name in ["../outside", "/etc/passwd", "", ".", "..", "nul\0", "line\nbreak"] {
        let mut hostile = step("x", Action::Create, Expect::Absent, &json!({}), None);
        hostile.object_name = name.into();
        assert_eq!(bench.apply(&hostile).await.unwrap_err().reason(), Reason::Rejected, "{name:?}");
        let aim = Target { object_name: name.into(), ..target("x") };
        let seen = bench.manager.observe(&[aim], Depth::Deep, &bench.cx()).await.unwrap();
        assert!(matches!(seen[..], [Observation::Unknown(_)]), "{name:?}");
    }
    assert_eq!(fs::metadata(&outside).unwrap().len(), 0);

    for name in ["a'; DROP TABLE plumb_mark; --", "?mode=memory#x", "%2e%2e", "ü b", ":memory:", "file:x?mode=ro"] {
        let mut hostile = step("x", Action::Create, Expect::Absent, &json!({"journalMode": "wal"}), None);
        hostile.object_name = name.into();
        bench.apply(&hostile).await.unwrap();
        assert!(bench.folder.join(format!("{name}.db")).is_file(), "{name:?}");
        let aim = Target { object_name: name.into(), ..target("x") };
        let seen = bench.manager.observe(&[aim], Depth::Deep, &bench.cx()).await.unwrap();
        assert!(matches!(seen[..], [Observation::Present(_)]), "{name:?}: {seen:?}");
    }
}

#[tokio::test]
async fn discovery_lists_this_platforms_objects_and_not_their_copies() {
    let bench = Bench::new();
    assert_eq!(bench.manager.discover(&BTreeSet::new(), &bench.cx()).await.unwrap(), vec![]);
    let live = bench.create("orders", json!({})).await;
    fs::copy(bench.path("orders"), bench.path("backup")).unwrap();
    bench.by_hand("theirs", "CREATE TABLE t (x)").await;
    fs::write(bench.path("sick"), "no database".repeat(100)).unwrap();
    let mut foreign = step("foreign", Action::Create, Expect::Absent, &json!({}), None);
    foreign.mark.platform = PlatformId("stranger".into());
    bench.apply(&foreign).await.unwrap();

    let found = bench.manager.discover(&BTreeSet::new(), &bench.cx()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].mark, &found[0].object), (mark_of(&live), &live.object));
    assert_eq!(found[0].object_name, "t_e_orders");
}

#[tokio::test]
async fn r11_a_folder_that_lost_its_marker_has_no_identity_and_is_not_written_to() {
    let bench = Bench::new();
    bench.create("orders", json!({})).await;
    let identity = bench.manager.identity().await.unwrap();
    let next = manager(bench.folder.parent().unwrap(), "sqlite:databases", Duration::from_secs(5));
    assert_eq!(next.identity().await.unwrap(), identity, "the identity outlives the process");

    // The disk is gone and the bare mount point is there.
    let away = bench.folder.with_extension("away");
    fs::rename(&bench.folder, &away).unwrap();
    fs::create_dir(&bench.folder).unwrap();
    assert_eq!(bench.manager.identity().await.unwrap(), None);
    let create = step("orders", Action::Create, Expect::Absent, &json!({}), None);
    assert_eq!(bench.apply(&create).await.unwrap_err().reason(), Reason::ProviderIdentityChanged);
    assert_eq!(fs::read_dir(&bench.folder).unwrap().count(), 0);
}

#[tokio::test]
async fn a_url_is_read_relative_to_the_base_or_absolute() {
    let directory = tempfile::tempdir().unwrap();
    let file = |url: &str| manager(directory.path(), url, Duration::from_secs(1)).outputs(&target("a"))["file"].clone();
    let inside = directory.path().join("x/y/t_e_a.db").display().to_string();
    assert_eq!(file("sqlite:x/y"), inside);
    assert_eq!(file("sqlite:///srv/db"), "/srv/db/t_e_a.db");
    for url in ["sqlite:", "sqlite://", "postgres://x", "sqlite:x?mode=memory", "x"] {
        let endpoint = Endpoint {
            name: "files".into(),
            provider_type: ProviderType::Sqlite,
            url: url.into(),
            password: None,
            base_dir: directory.path().into(),
            max_concurrency: 1,
            timeout: Duration::from_secs(1),
        };
        assert_eq!(connect(endpoint).err().map(|error| error.reason()), Some(Reason::Rejected), "{url}");
    }
}

#[test]
fn the_folder_of_the_state_is_refused_wherever_it_is() {
    let directory = tempfile::tempdir().unwrap();
    for file in [DATABASE_FILE, LOCK_FILE] {
        let state = directory.path().join(format!("of-{file}"));
        fs::create_dir(&state).unwrap();
        fs::write(state.join(file), "").unwrap();
        let link = directory.path().join(format!("link-to-{file}"));
        std::os::unix::fs::symlink(&state, &link).unwrap();
        for folder in [state, link] {
            let endpoint = Endpoint {
                name: "files".into(),
                provider_type: ProviderType::Sqlite,
                url: format!("sqlite://{}", folder.display()),
                password: None,
                base_dir: directory.path().join("plumb-data"),
                max_concurrency: 1,
                timeout: Duration::from_secs(1),
            };
            let refused = connect(endpoint).err().expect("it is refused");
            assert_eq!(refused.reason(), Reason::Rejected);
            assert!(refused.to_string().contains("Plumb keeps its own state"), "{refused}");
        }
    }
}

#[tokio::test]
async fn many_are_created_at_once_and_none_twice() {
    use futures::StreamExt;
    let bench = Bench::new();
    let names: Vec<String> = (0..100).flat_map(|n| [format!("n{n}"), format!("n{n}")]).collect();
    let outcomes: Vec<Result<(), ManagerError>> = futures::stream::iter(&names)
        .map(|name| {
            let create = step(name, Action::Create, Expect::Absent, &json!({"userVersion": 1}), None);
            let bench = &bench;
            async move { bench.apply(&create).await }
        })
        .buffer_unordered(16)
        .collect()
        .await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 100);
    let lost: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(lost.iter().all(|error| matches!(error, ManagerError::Conflict { .. })), "{lost:?}");
    assert_eq!(bench.files().len(), 100);
    let marks: BTreeSet<ObjectId> = bench
        .manager
        .discover(&BTreeSet::new(), &bench.cx())
        .await
        .unwrap()
        .into_iter()
        .map(|found| found.object)
        .collect();
    assert_eq!(marks.len(), 100);
}

//! What is SQLite's own: one reconciler, readers of other processes, files for their owner alone, deaths.

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use plumb::model::{Ask, Clock, Replica, Request, SystemClock, Trigger, Width};
use plumb::store::Mode;
use plumb::store::lock::LOCK_FILE;
use plumb::store::sqlite::{DATABASE_FILE, SqliteStore};
use plumb::store::{Queue, Scope, Store, StoreError};

use super::sample::{key, record, secret};
use super::{begin, read};

async fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(folder, Mode::Reconcile).await.unwrap()
}

async fn refusal(folder: &Path, mode: Mode) -> StoreError {
    SqliteStore::open(folder, mode).await.expect_err("it is refused")
}

/// Runs statements by hand, as somebody with the `sqlite3` shell would.
pub(super) async fn by_hand(folder: &Path, sql: impl Into<String>) {
    use sqlx::Connection as _;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join(DATABASE_FILE));
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.into())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn what_it_makes_is_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("new/plumb-data");
    let store = open(&data_dir).await;
    let mut tx = begin(&store).await;
    tx.put_record(&record(&key("checkout", "orders"))).await.unwrap();
    tx.commit().await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data_dir), 0o700);
    let mut files = 0;
    for entry in std::fs::read_dir(&data_dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 4, "the database, its log, its index and the lock");
}

#[tokio::test]
async fn what_was_written_is_there_after_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut tx = begin(&store).await;
    tx.put_record(&record(&key("checkout", "orders"))).await.unwrap();
    tx.commit().await.unwrap();
    store.close().await;
    assert!(!folder.path().join("plumb.db-wal").exists(), "a closed store is one file");
    assert_eq!(read(&open(folder.path()).await).await.inventory().await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn a_second_reconciler_is_told_that_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).await;
    let refused = refusal(folder.path(), Mode::Reconcile).await;
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused:?}");
    let message = refused.to_string();
    assert!(message.contains(&folder.path().display().to_string()) && message.contains("--data-dir"), "{message}");
    drop(first);
    open(folder.path()).await;
}

#[tokio::test]
async fn the_lock_is_held_for_as_long_as_a_transaction_could_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let tx = begin(&store).await;
    drop(store);
    assert!(matches!(refusal(folder.path(), Mode::Reconcile).await, StoreError::Locked { .. }));
    tx.commit().await.unwrap();
    open(folder.path()).await;
}

#[tokio::test]
async fn a_reader_of_a_folder_where_nothing_was_reconciled_is_told_so_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for data_dir in [folder.path(), &missing] {
        let refused = refusal(data_dir, Mode::ReadOnly).await;
        assert!(matches!(refused, StoreError::Missing { .. }), "{refused:?}");
        assert!(refused.to_string().starts_with("nothing has been reconciled here yet"), "{refused}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // A reconciler that made the file a moment ago and has not written to it yet.
    std::fs::write(folder.path().join(DATABASE_FILE), "").unwrap();
    assert!(matches!(refusal(folder.path(), Mode::ReadOnly).await, StoreError::Missing { .. }));
}

#[tokio::test]
async fn a_reader_reads_while_a_reconciler_writes_and_after_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let reconciler = open(folder.path()).await;
    let reader = SqliteStore::open(folder.path(), Mode::ReadOnly).await.unwrap();
    let mut writing = begin(&reconciler).await;
    writing.put_record(&record(&key("checkout", "orders"))).await.unwrap();
    assert!(read(&reader).await.inventory().await.unwrap().records.is_empty());
    writing.commit().await.unwrap();
    assert_eq!(read(&reader).await.inventory().await.unwrap().records.len(), 1);
    drop(reader);
    reconciler.close().await;
    let late = SqliteStore::open(folder.path(), Mode::ReadOnly).await.unwrap();
    assert_eq!(read(&late).await.inventory().await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn a_reader_neither_writes_nor_keeps_a_reconciler_out() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).await.close().await;
    std::fs::remove_file(folder.path().join(LOCK_FILE)).unwrap();
    let reader = SqliteStore::open(folder.path(), Mode::ReadOnly).await.unwrap();
    assert!(matches!(reader.begin(Scope::Platform).await.err(), Some(StoreError::ReadOnly)));
    assert!(!folder.path().join(LOCK_FILE).exists());
    open(folder.path()).await;
}

#[tokio::test]
async fn a_database_of_a_newer_plumb_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).await.close().await;
    by_hand(
        folder.path(),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'of the future', TRUE, x'00', 0)",
    )
    .await;
    let before = std::fs::read(folder.path().join(DATABASE_FILE)).unwrap();
    for mode in [Mode::Reconcile, Mode::ReadOnly] {
        let refused = refusal(folder.path(), mode).await;
        assert!(matches!(refused, StoreError::Newer { .. }), "{mode:?}: {refused:?}");
    }
    assert_eq!(std::fs::read(folder.path().join(DATABASE_FILE)).unwrap(), before);
}

#[tokio::test]
async fn a_database_of_an_older_plumb_is_not_migrated_by_a_reader() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).await.close().await;
    by_hand(folder.path(), "DELETE FROM _sqlx_migrations").await;
    let refused = refusal(folder.path(), Mode::ReadOnly).await;
    assert!(matches!(refused, StoreError::Older { .. }), "{refused:?}");
    by_hand(folder.path(), "DROP TABLE _sqlx_migrations").await;
    let refused = refusal(folder.path(), Mode::ReadOnly).await;
    assert!(matches!(refused, StoreError::Older { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(DATABASE_FILE);
    let text = "this is no database, whatever its name says\n".repeat(200);
    std::fs::write(&file, &text).unwrap();
    for mode in [Mode::Reconcile, Mode::ReadOnly] {
        let refused = refusal(folder.path(), mode).await;
        assert!(matches!(refused, StoreError::Damaged { .. }), "{mode:?}: {refused:?}");
        assert!(refused.to_string().contains("is damaged; move it away"), "{refused}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
}

#[tokio::test]
async fn a_database_with_overwritten_pages_is_an_error_and_not_a_panic() {
    const ROWS: usize = 2000;
    const HEADER: usize = 4096;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut tx = begin(&store).await;
    for number in 0..ROWS {
        tx.put_record(&record(&key("checkout", &format!("db-{number}")))).await.unwrap();
    }
    tx.commit().await.unwrap();
    store.close().await;
    let file = folder.path().join(DATABASE_FILE);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[HEADER..].iter_mut().for_each(|byte| *byte ^= 0x5a);
    std::fs::write(&file, bytes).unwrap();
    for mode in [Mode::Reconcile, Mode::ReadOnly] {
        let error = match SqliteStore::open(folder.path(), mode).await {
            Err(error) => error,
            Ok(store) => read(&store).await.inventory().await.expect_err("the pages are gone"),
        };
        assert!(matches!(error, StoreError::Damaged { .. }), "{mode:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named_and_stops_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let orders = key("checkout", "orders");
    let mut tx = begin(&store).await;
    tx.put_record(&record(&orders)).await.unwrap();
    tx.put_secret(&secret(&orders, "app", "", b"sealed")).await.unwrap();
    tx.commit().await.unwrap();
    store.close().await;
    by_hand(folder.path(), "UPDATE inventory SET document = '{\"key\": 1}'; UPDATE secrets SET created_at = 'then'")
        .await;
    let store = open(folder.path()).await;
    let mut tx = begin(&store).await;
    assert!(matches!(tx.inventory().await, Err(StoreError::Decode { what: "the inventory", .. })));
    assert!(matches!(tx.secrets(&orders, "app").await, Err(StoreError::Decode { what: "secrets", .. })));
    tx.put_record(&record(&orders)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(read(&store).await.inventory().await.unwrap().records.len(), 1);
}

#[tokio::test]
async fn a_data_directory_that_is_a_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("taken");
    std::fs::write(&file, "").unwrap();
    for mode in [Mode::Reconcile, Mode::ReadOnly] {
        let refused = refusal(&file, mode).await;
        assert!(matches!(refused, StoreError::Directory { .. }), "{mode:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_folder_with_a_name_that_sqlite_would_read_otherwise_is_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["file:x?mode=memory", ":memory:", "a b%20c#d", "漢"] {
        let data_dir = folder.path().join(name);
        let store = open(&data_dir).await;
        let mut tx = begin(&store).await;
        tx.put_record(&record(&key("checkout", "orders"))).await.unwrap();
        tx.commit().await.unwrap();
        store.close().await;
        assert!(std::fs::metadata(data_dir.join(DATABASE_FILE)).unwrap().len() > 0, "{name}");
    }
}

/// Which part this test binary plays when a test has started it again; see [`start_child`].
const PART: &str = "PLUMB_TEST_STORE_PART";
const DATA_DIR: &str = "PLUMB_TEST_STORE_DATA_DIR";

/// More than SQLite keeps in memory, so that a transaction's rows reach the log before it ends.
const LARGE: usize = 5000;
/// Rows that each generation rewrites in one transaction.
const GENERATION: usize = 50;

fn generation_of(number: usize) -> String {
    format!("generation-{number}")
}

/// The part of the process that is killed. Says on its standard output what it has done, then goes on.
#[tokio::test]
#[ignore = "a part that other tests start in a process of its own"]
async fn child() {
    let part = std::env::var(PART).expect("started by `start_child`");
    let data_dir = std::env::var_os(DATA_DIR).expect("started by `start_child`");
    let store = open(Path::new(&data_dir)).await;
    let say = |text: &str| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nchild: {text}").unwrap();
        out.flush().unwrap();
    };
    match part.as_str() {
        "open transaction" => {
            let mut tx = begin(&store).await;
            tx.put_record(&record(&key("checkout", "committed"))).await.unwrap();
            tx.commit().await.unwrap();
            let mut tx = begin(&store).await;
            tx.forget(&key("checkout", "committed")).await.unwrap();
            for number in 0..LARGE {
                tx.put_record(&record(&key("checkout", &format!("db-{number}")))).await.unwrap();
            }
            say("in the middle");
            std::future::pending::<()>().await;
        }
        "generations" => {
            for generation in 0.. {
                let mut tx = begin(&store).await;
                for number in 0..GENERATION {
                    let mut record = record(&key("checkout", &format!("db-{number}")));
                    record.commit = generation_of(generation);
                    tx.put_record(&record).await.unwrap();
                }
                tx.commit().await.unwrap();
                say(&generation.to_string());
            }
        }
        other => panic!("no such part: {other}"),
    }
}

fn start_child(part: &str, data_dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::sqlite::child", "--ignored", "--nocapture"])
        .env(PART, part)
        .env(DATA_DIR, data_dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the child has said `count` things, then kills it as `kill -9` does; gives the last it said.
fn kill_after(child: &mut Child, count: usize) -> String {
    let out = BufReader::new(child.stdout.take().unwrap());
    let said = out
        .lines()
        .map(Result::unwrap)
        .filter_map(|line| line.strip_prefix("child: ").map(str::to_owned))
        .nth(count - 1)
        .expect("the child lives until it is killed");
    child.kill().unwrap();
    child.wait().unwrap();
    said
}

#[tokio::test]
async fn a_death_in_the_middle_of_a_transaction_leaves_what_was_committed_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start_child("open transaction", folder.path());
    assert_eq!(kill_after(&mut child, 1), "in the middle");
    let log = std::fs::metadata(folder.path().join("plumb.db-wal")).unwrap().len();
    assert!(log > 1_000_000, "rows of the open transaction had reached the disk: {log}");

    // Whoever comes first finds it whole: somebody who only reads, or the next reconciler.
    for mode in [Mode::ReadOnly, Mode::Reconcile] {
        let store = SqliteStore::open(folder.path(), mode).await.unwrap();
        let records = read(&store).await.inventory().await.unwrap().records;
        assert_eq!(records.into_keys().collect::<Vec<_>>(), [key("checkout", "committed")], "{mode:?}");
    }
}

#[tokio::test]
async fn a_death_at_any_moment_leaves_whole_transactions_and_none_that_ended_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    for kill_at in [1, 2, 5, 9, 20] {
        let mut child = start_child("generations", folder.path());
        let said: usize = kill_after(&mut child, kill_at).parse().unwrap();
        let store = open(folder.path()).await;
        let records = read(&store).await.inventory().await.unwrap().records;
        assert_eq!(records.len(), GENERATION);
        let first = records.values().next().unwrap().commit.clone();
        assert!(records.values().all(|record| record.commit == first), "half a transaction was kept");
        let kept: usize = first.strip_prefix("generation-").unwrap().parse().unwrap();
        assert!(kept >= said, "generation {said} had ended and {kept} is there");
        store.close().await;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join(DATABASE_FILE));
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        let check: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&pool).await.unwrap();
        assert_eq!(check, "ok");
        pool.close().await;
    }
}

#[tokio::test]
async fn whoever_asks_beside_it_is_answered_though_their_clocks_differ() {
    let folder = tempfile::tempdir().unwrap();
    let reconciling = open(folder.path()).await;
    let asking = SqliteStore::open(folder.path(), Mode::Append).await.unwrap();
    let ask = Ask { trigger: Trigger::Request, width: Width::Deep };
    asking.request(&[Request::at_once("checkout", ask)]).await.unwrap();
    // As if its clock had gone on for a while before it came.
    let due = reconciling.place("checkout").await.unwrap().unwrap().due.unwrap();
    assert!(due < SystemClock.now() - chrono::TimeDelta::days(1), "{due}: due for whoever reads it");
    // What was asked for here before that goes first all the same, and nothing says that it has waited since 1970.
    reconciling.request(&[Request::at_once("payments", ask)]).await.unwrap();
    let replica = Replica("one".to_owned());
    let claimed = async || reconciling.claim(&replica, Duration::from_secs(600)).await.unwrap().expect("it is due");
    let (first, second) = (claimed().await, claimed().await);
    assert_eq!((first.lease.tenant.as_str(), second.lease.tenant.as_str()), ("payments", "checkout"));
    assert!(SystemClock.now() - second.due < chrono::TimeDelta::minutes(1), "{second:?}");
    // What can wait does.
    let later = Request { delay: Duration::from_secs(600), ..Request::at_once("billing", ask) };
    asking.request(&[later]).await.unwrap();
    let due = reconciling.place("billing").await.unwrap().unwrap().due.unwrap();
    assert!(due > SystemClock.now() + chrono::TimeDelta::seconds(300), "{due}");
}

#[tokio::test]
async fn a_tenant_that_ends_one_process_after_the_other_waits_in_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let deep = Ask { trigger: Trigger::Start, width: Width::Deep };
    let mut claims = 0;
    for _ in 0..4 {
        // What a start does, and then it dies.
        let store = open(folder.path()).await;
        store.request(&[Request::at_once("checkout", deep)]).await.unwrap();
        let replica = Replica("one after the other".to_owned());
        claims += usize::from(store.claim(&replica, Duration::from_secs(600)).await.unwrap().is_some());
    }
    assert_eq!(claims, 2, "once more, since a process may end for any reason");
    // A clock that is set back in between has it wait no longer than ever.
    let late = "UPDATE queue SET due_at = '2999-01-01T00:00:00.000000000Z'";
    crate::harness::world::run_sql(&folder.path().join(DATABASE_FILE), late).await;
    let due = open(folder.path()).await.place("checkout").await.unwrap().unwrap().due.unwrap();
    assert!(due <= SystemClock.now() + chrono::TimeDelta::seconds(450), "{due}");
}

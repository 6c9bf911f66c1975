//! What only the inside can be asked; what every store does is tested in `tests/it/store.rs`.

use super::*;

async fn store() -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path(), Mode::Reconcile).await.unwrap();
    (folder, store)
}

fn writer(store: &SqliteStore) -> &SqlitePool {
    match &store.writer {
        Writer::Open { pool, .. } => pool,
        Writer::None => panic!("opened to reconcile"),
    }
}

async fn pragma(pool: &SqlitePool, sql: &'static str) -> String {
    sqlx::query_scalar::<_, String>(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn commits_are_synced_and_references_are_checked() {
    let (_folder, store) = store().await;
    let pool = writer(&store);
    assert_eq!(pragma(pool, "SELECT journal_mode FROM pragma_journal_mode").await, "wal");
    // 2 is FULL; what the queue loses to a power loss (1, NORMAL) is asked for anew.
    const SYNCHRONOUS: &str = "SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous";
    for _ in 0..2 {
        drop(store.begin(Scope::Platform).await.unwrap());
        assert_eq!(pragma(pool, SYNCHRONOUS).await, "2");
        drop(store.queue().await.unwrap());
        assert_eq!(pragma(pool, SYNCHRONOUS).await, "1");
    }
    assert_eq!(pragma(pool, "SELECT CAST(foreign_keys AS TEXT) FROM pragma_foreign_keys").await, "1");
}

#[tokio::test]
async fn a_reading_connection_cannot_write_whatever_it_is_told() {
    let (_folder, store) = store().await;
    assert!(sqlx::query("DELETE FROM inventory").execute(&store.readers).await.is_err());
    assert!(sqlx::query("PRAGMA query_only = OFF").execute(&store.readers).await.is_ok());
    assert!(sqlx::query("DELETE FROM inventory").execute(&store.readers).await.is_err());
}

#[tokio::test]
async fn a_transaction_that_sqlite_rolled_back_by_itself_does_not_stop_the_next() {
    let (_folder, store) = store().await;
    let mut transaction = writer(&store).begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::raw_sql("ROLLBACK").execute(&mut *transaction).await.unwrap();
    drop(transaction);
    store.begin(Scope::Platform).await.unwrap().commit().await.unwrap();
}

#[tokio::test]
async fn lists_are_found_by_an_index() {
    let (_folder, store) = store().await;
    for (sql, index) in [
        ("SELECT document FROM inventory WHERE tenant = 'a'", "sqlite_autoindex_inventory"),
        ("SELECT id FROM executions WHERE tenant = 'a' ORDER BY id DESC LIMIT 1", "executions_by_tenant"),
        ("SELECT id FROM events WHERE tenant = 'a' ORDER BY id DESC LIMIT 1", "events_by_tenant"),
        ("SELECT id FROM events WHERE execution = 1 ORDER BY id DESC LIMIT 1", "events_by_execution"),
        ("SELECT id FROM events WHERE key = 'a' ORDER BY id DESC LIMIT 1", "events_by_key"),
        ("SELECT id FROM executions WHERE outcome = 'Running'", "executions_running"),
        ("SELECT id FROM executions WHERE finished_at < 'a'", "executions_by_end"),
        ("SELECT id FROM secrets WHERE tenant = 'a' AND key = 'b' AND role = 'c'", "sqlite_autoindex_secrets"),
    ] {
        let mut plan = sqlx::QueryBuilder::<sqlx::Sqlite>::new("EXPLAIN QUERY PLAN ");
        let rows = plan.push(sql).build().fetch_all(&store.readers).await.unwrap();
        let detail: String = sqlx::Row::get(&rows[0], "detail");
        assert!(detail.contains("USING") && detail.contains(index), "{sql}: {detail}");
        assert_eq!(rows.len(), 1, "nothing is sorted afterwards: {sql}");
    }
}

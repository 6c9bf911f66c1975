//! The state store: what every store does, whichever database it stands on, and what is SQLite's own.

mod audit;
mod contract;
mod isolation;
mod mistaken;
mod months;
mod postgres;
mod queue;
mod retention;
mod sample;
mod sqlite;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use plumb::store::Mode;
use plumb::store::postgres::PostgresStore;
use plumb::store::sqlite::SqliteStore;
use plumb::store::{HistoryFilter, Scope, Store, Tx};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::harness::postgres::PostgresServer;
use crate::harness::world::run_sql;
use crate::simulation::memory::MemoryStore;

/// All of the history.
const ALL: HistoryFilter =
    HistoryFilter { execution: None, key: None, environment: None, looks: false, before: None, limit: 1000 };

/// A store for one test, with what it stands on.
struct Fixture {
    store: Arc<dyn Store>,
    /// Where it is, for those that have an address.
    url: String,
    /// The data directory; removed after the store is gone.
    folder: tempfile::TempDir,
}

impl Fixture {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path(), Mode::Reconcile).await.unwrap();
        Self { store: Arc::new(store), url: String::new(), folder }
    }

    /// The store of the simulation, which has to do what the real ones do.
    fn memory() -> Self {
        let store = MemoryStore::new(sample::at(0));
        Self { store: Arc::new(store), url: String::new(), folder: tempfile::tempdir().unwrap() }
    }

    /// A database of its own on the server that all tests share.
    async fn postgres() -> Self {
        static DATABASES: AtomicUsize = AtomicUsize::new(0);
        let server = PostgresServer::shared();
        let database = format!("state_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let (login, password) = server.login();
        server.psql(&format!("CREATE DATABASE {database} OWNER {login}")).await;
        let url = format!("postgres://{login}:{password}@127.0.0.1:{}/{database}", server.port());
        let store = PostgresStore::open(&url, Mode::Reconcile).await.unwrap();
        Self { store: Arc::new(store), url, folder: tempfile::tempdir().unwrap() }
    }
}

impl Fixture {
    /// Runs SQL in the database as whoever owns it, behind the store's back.
    async fn behind_its_back(&self, sql: &str) {
        if self.url.is_empty() {
            return run_sql(&self.folder.path().join("plumb.db"), sql).await;
        }
        let mut owner = PgConnection::connect(&self.url).await.unwrap();
        let sql = format!("SET search_path = plumb; SET plumb.scope = 'platform'; {sql}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut owner).await.unwrap();
        owner.close().await.unwrap();
    }
}

/// A transaction that writes, over all tenants.
async fn begin(store: &dyn Store) -> Box<dyn Tx> {
    store.begin(Scope::Platform).await.unwrap()
}

/// A transaction that reads, over all tenants.
async fn read(store: &dyn Store) -> Box<dyn Tx> {
    store.read(Scope::Platform).await.unwrap()
}

fn tenant(name: &str) -> Scope {
    Scope::Tenant(name.to_owned())
}

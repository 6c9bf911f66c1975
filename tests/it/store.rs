//! The state store: what every store does, whichever database it stands on, and what is SQLite's own.

mod contract;
mod isolation;
mod sample;
mod sqlite;

use std::sync::Arc;

use plumb::store::sqlite::{Mode, SqliteStore};
use plumb::store::{HistoryFilter, Scope, Store, Tx};

/// All of the history.
const ALL: HistoryFilter = HistoryFilter { execution: None, key: None, before: None, limit: 1000 };

/// A store for one test, with what it stands on.
struct Fixture {
    store: Arc<dyn Store>,
    /// The data directory; removed after the store is gone.
    _folder: tempfile::TempDir,
}

impl Fixture {
    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path(), Mode::Reconcile).await.unwrap();
        Self { store: Arc::new(store), _folder: folder }
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

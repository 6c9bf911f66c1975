//! The bytes of a new database file, made by SQLite in memory: what is written to disk is whole and marked from its
//! first byte on, and needs one sync.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, SqliteConnection};
use tokio::sync::Mutex;

use super::settings::Settings;
use crate::model::{JournalMode, Mark};

/// The table of the mark, as SQLite keeps its text. One row.
pub(super) const MARK_TABLE: &str = "CREATE TABLE plumb_mark (one INTEGER PRIMARY KEY CHECK (one = 1), \
     id TEXT NOT NULL, mark TEXT NOT NULL, foreign_keys INTEGER NOT NULL)";

/// Sets the mark's row.
pub(super) const PUT_MARK: &str =
    "INSERT OR REPLACE INTO plumb_mark (one, id, mark, foreign_keys) VALUES (1, $1, $2, $3)";

/// Where the header says how the file is journalled, for writers and for readers, and the value for a write-ahead log.
pub(super) const WRITE_VERSION: usize = 18;
pub(super) const READ_VERSION: usize = 19;
pub(super) const WAL_VERSION: u8 = 2;

/// Makes images; keeps one database in memory for each page size in use.
#[derive(Clone, Default)]
pub(super) struct Press(Arc<Mutex<BTreeMap<u32, SqliteConnection>>>);

impl Press {
    /// The bytes of a file with these settings and this mark.
    pub(super) async fn image(&self, settings: &Settings, id: &str, mark: &Mark) -> Result<Vec<u8>, sqlx::Error> {
        let Settings { journal_mode, page_size, user_version, foreign_keys } = *settings;
        let mut sheets = self.0.lock().await;
        // Taken out, so that a database that failed half-way is not used again.
        let mut sheet = match sheets.remove(&page_size) {
            Some(sheet) => sheet,
            None => Self::blank(page_size).await?,
        };
        sqlx::query(PUT_MARK).bind(id).bind(mark.to_text()).bind(foreign_keys).execute(&mut sheet).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("PRAGMA user_version = {user_version}"))).execute(&mut sheet).await?;
        let mut bytes = sheet.serialize(None).await?.to_vec();
        sheets.insert(page_size, sheet);
        if let (JournalMode::Wal, Some(versions)) = (journal_mode, bytes.get_mut(WRITE_VERSION..=READ_VERSION)) {
            versions.fill(WAL_VERSION);
        }
        Ok(bytes)
    }

    /// A database with an empty mark table. What an earlier mark leaves free is zeroed: it names other resources.
    async fn blank(page_size: u32) -> Result<SqliteConnection, sqlx::Error> {
        let mut sheet = SqliteConnectOptions::new()
            .page_size(page_size)
            .pragma("secure_delete", "ON")
            .disable_statement_logging()
            .connect()
            .await?;
        sqlx::raw_sql(MARK_TABLE).execute(&mut sheet).await?;
        Ok(sheet)
    }
}

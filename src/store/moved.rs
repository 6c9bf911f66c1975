//! Where the state went, once it was moved to another database; compiled once for each database, as the statements are.
//!
//! What always holds: it is said of the database that the state is not in any more. It is no part of the state, and is not
//! copied with it.

use chrono::{DateTime, Utc};
use sqlx::{Database, query};

use super::Db;
use super::rows::column;
use crate::store::StoreError;
use crate::store::columns::time;

type Connection = <Db as Database>::Connection;

const WHAT: &str = "where it was moved to";

/// Refuses a database whose state was moved away.
pub(super) async fn expect_here(connection: &mut Connection, path: &str) -> Result<(), StoreError> {
    match away(connection).await? {
        None => Ok(()),
        Some((place, at)) => Err(StoreError::Moved { path: path.to_owned(), place, at }),
    }
}

/// Where the state went, and when.
pub(super) async fn away(connection: &mut Connection) -> Result<Option<(String, String)>, StoreError> {
    let row = query("SELECT place, moved_at FROM moved").fetch_optional(connection).await.map_err(failed)?;
    row.map(|row| Ok((column(WHAT, &row, 0)?, column(WHAT, &row, 1)?))).transpose()
}

/// Says that the state is at that place now.
pub(super) async fn leave(connection: &mut Connection, place: &str, at: DateTime<Utc>) -> Result<(), StoreError> {
    let sql = "INSERT INTO moved (id, place, moved_at) VALUES (1, $1, $2)";
    query(sql).bind(place).bind(time(at)).execute(connection).await.map(drop).map_err(failed)
}

/// Says that the state is here; gives the place where it was before, if it was away.
pub(super) async fn settle(connection: &mut Connection) -> Result<Option<String>, StoreError> {
    let row = query("DELETE FROM moved RETURNING place").fetch_optional(connection).await.map_err(failed)?;
    row.as_ref().map(|row| column(WHAT, row, 0)).transpose()
}

fn failed(source: sqlx::Error) -> StoreError {
    StoreError::Query { what: WHAT, source }
}

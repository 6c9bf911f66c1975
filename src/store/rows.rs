//! Rows, read back into what was written; compiled once for each database, as the statements are.

use sqlx::{ColumnIndex, Database, Decode, Row as _, Type};

use super::Db;
use crate::model::{Event, Execution, PlanId};
use crate::store::columns::{read_document, read_key, read_time, read_trigger, read_word};
use crate::store::{StoreError, StoredSecret};

type Row = <Db as Database>::Row;

/// A column's value.
pub(super) fn column<'r, T, I>(what: &'static str, row: &'r Row, index: I) -> Result<T, StoreError>
where
    T: Decode<'r, Db> + Type<Db>,
    I: ColumnIndex<Row>,
{
    row.try_get(index).map_err(|source| StoreError::Query { what, source })
}

pub(super) fn read_secret(row: &Row) -> Result<StoredSecret, StoreError> {
    const WHAT: &str = "secrets";
    Ok(StoredSecret {
        key: read_key(WHAT, column(WHAT, row, "key")?)?,
        role: column(WHAT, row, "role")?,
        rotation: column(WHAT, row, "rotation")?,
        ciphertext: column(WHAT, row, "ciphertext")?,
        created_at: read_time(WHAT, column(WHAT, row, "created_at")?)?,
    })
}

pub(super) fn read_execution(row: &Row) -> Result<Execution, StoreError> {
    const WHAT: &str = "executions";
    let finished_at: Option<&str> = column(WHAT, row, "finished_at")?;
    Ok(Execution {
        id: column(WHAT, row, "id")?,
        tenant: column(WHAT, row, "tenant")?,
        trigger: read_trigger(column(WHAT, row, "trigger_kind")?),
        commit: column(WHAT, row, "commit_id")?,
        plan: column::<Option<String>, _>(WHAT, row, "plan_id")?.map(PlanId),
        outcome: read_word(WHAT, column(WHAT, row, "outcome")?)?,
        summary: read_document(WHAT, column(WHAT, row, "summary")?)?,
        started_at: read_time(WHAT, column(WHAT, row, "started_at")?)?,
        finished_at: finished_at.map(|text| read_time(WHAT, text)).transpose()?,
    })
}

pub(super) fn read_event(row: &Row) -> Result<Event, StoreError> {
    const WHAT: &str = "events";
    let key: Option<&str> = column(WHAT, row, "key")?;
    Ok(Event {
        id: column(WHAT, row, "id")?,
        execution: column(WHAT, row, "execution")?,
        tenant: column(WHAT, row, "tenant")?,
        at: read_time(WHAT, column(WHAT, row, "at")?)?,
        key: key.map(|text| read_key(WHAT, text)).transpose()?,
        kind: read_document(WHAT, column(WHAT, row, "document")?)?,
    })
}

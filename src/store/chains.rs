//! The statements of the audit log, compiled once for each database, as `statements.rs` is. Who writes to a chain holds
//! its tenant, so a chain grows by one writer at a time.

use chrono::{DateTime, Utc};
use sqlx::{Database, QueryBuilder, query};

use super::Db;
use super::rows::column;
use crate::store::StoreError;
use crate::store::audit::{AuditAction, AuditEntry, AuditFilter, AuditHead, NewAudit, ORIGIN, StoredAudit};
use crate::store::columns::{document, time, word};

type Connection = <Db as Database>::Connection;
type Row = <Db as Database>::Row;

const WHAT: &str = "the audit log";

/// How many rows one statement writes: nine values each.
const ROWS_AT_ONCE: usize = 200;

const COLUMNS: &str = "tenant, id, at, actor, action, key, details, previous, hash";
const HEAD_COLUMNS: &str = "tenant, first_id, first_previous, last_id, last_hash";

/// What became of a chain.
pub(super) enum Growth {
    Begun,
    Longer,
}

/// Adds to the end of a chain.
pub(super) async fn append(
    connection: &mut Connection,
    tenant: &str,
    entries: &[NewAudit],
) -> Result<Growth, StoreError> {
    let known = head(connection, tenant).await?;
    let growth = if known.is_some() { Growth::Longer } else { Growth::Begun };
    let (mut last_id, mut last_hash) =
        known.map_or_else(|| (0, ORIGIN.to_owned()), |head| (head.last_id, head.last_hash));
    for some in entries.chunks(ROWS_AT_ONCE) {
        let mut rows = Vec::with_capacity(some.len());
        for new in some {
            let entry = AuditEntry::after(tenant, last_id + 1, &last_hash, new);
            last_id = entry.id;
            last_hash.clone_from(&entry.hash);
            rows.push((word(WHAT, entry.action)?, document(WHAT, &entry.details)?, entry));
        }
        let mut sql = QueryBuilder::<Db>::new(format!("INSERT INTO audit ({COLUMNS}) "));
        sql.push_values(rows, |mut row, (action, details, entry)| {
            row.push_bind(entry.tenant).push_bind(entry.id).push_bind(time(entry.at)).push_bind(entry.actor);
            row.push_bind(action).push_bind(entry.key.map(|key| key.to_string())).push_bind(details);
            row.push_bind(entry.previous).push_bind(entry.hash);
        });
        sql.build().execute(&mut *connection).await.map_err(failed)?;
    }
    query(
        "INSERT INTO audit_heads (tenant, first_id, first_previous, last_id, last_hash) VALUES ($1, 1, $2, $3, $4) \
         ON CONFLICT (tenant) DO UPDATE SET last_id = excluded.last_id, last_hash = excluded.last_hash",
    )
    .bind(tenant)
    .bind(ORIGIN)
    .bind(last_id)
    .bind(&last_hash)
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    Ok(growth)
}

/// Rows of one chain or of all, a chain after the other, oldest first.
pub(super) async fn entries(
    connection: &mut Connection,
    tenant: Option<&str>,
    filter: &AuditFilter,
) -> Result<Vec<StoredAudit>, StoreError> {
    let AuditFilter { since, after, limit } = filter;
    let mut sql = QueryBuilder::<Db>::new(format!("SELECT {COLUMNS} FROM audit WHERE 1 = 1"));
    if let Some(tenant) = tenant {
        sql.push(" AND tenant = ").push_bind(tenant);
    }
    if let Some(since) = since {
        sql.push(" AND at >= ").push_bind(time(*since));
    }
    if let Some((chain, id)) = after {
        sql.push(" AND (tenant, id) > (").push_bind(chain).push(", ").push_bind(*id).push(")");
    }
    sql.push(" ORDER BY tenant, id LIMIT ").push_bind(i64::from(*limit));
    let rows = sql.build().fetch_all(&mut *connection).await.map_err(failed)?;
    rows.iter().map(read_row).collect()
}

/// The newest row of an action in a chain.
pub(super) async fn last(
    connection: &mut Connection,
    tenant: &str,
    action: AuditAction,
) -> Result<Option<AuditEntry>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM audit WHERE tenant = $1 AND action = $2 ORDER BY id DESC LIMIT 1");
    let row = query(sqlx::AssertSqlSafe(sql))
        .bind(tenant)
        .bind(word(WHAT, action)?)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    row.as_ref().map(|row| read_row(row)?.read()).transpose()
}

/// Where each chain begins and ends.
pub(super) async fn heads(connection: &mut Connection, tenant: Option<&str>) -> Result<Vec<AuditHead>, StoreError> {
    let sql = format!("SELECT {HEAD_COLUMNS} FROM audit_heads WHERE $1 IS NULL OR tenant = $1 ORDER BY tenant");
    let rows = query(sqlx::AssertSqlSafe(sql)).bind(tenant).fetch_all(&mut *connection).await.map_err(failed)?;
    rows.iter().map(read_head).collect()
}

async fn head(connection: &mut Connection, tenant: &str) -> Result<Option<AuditHead>, StoreError> {
    Ok(heads(connection, Some(tenant)).await?.pop())
}

/// Moves the beginnings of chains to their first rows that are not older than `before`, over `most` rows in all. The rows
/// that are cut off are removed by [`sweep`].
pub(super) async fn cut(
    connection: &mut Connection,
    tenant: Option<&str>,
    before: DateTime<Utc>,
    most: i64,
) -> Result<(), StoreError> {
    let mut left = most;
    for head in heads(connection, tenant).await? {
        let sql = "SELECT id, previous FROM audit WHERE tenant = $1 AND id >= $2 AND (at >= $3 OR id >= $4) \
                   ORDER BY id LIMIT 1";
        let kept = query(sql)
            .bind(&head.tenant)
            .bind(head.first_id)
            .bind(time(before))
            .bind(head.first_id + left)
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed)?;
        let (first_id, first_previous) = match kept {
            Some(row) => (column::<i64, _>(WHAT, &row, 0)?, column::<String, _>(WHAT, &row, 1)?),
            None => (head.last_id + 1, head.last_hash),
        };
        if first_id > head.first_id {
            left -= first_id - head.first_id;
            query("UPDATE audit_heads SET first_id = $1, first_previous = $2 WHERE tenant = $3")
                .bind(first_id)
                .bind(first_previous)
                .bind(&head.tenant)
                .execute(&mut *connection)
                .await
                .map_err(failed)?;
        }
        if left <= 0 {
            break;
        }
    }
    Ok(())
}

/// Removes what stands before the beginning of its chain; says how many rows that were.
pub(super) async fn sweep(connection: &mut Connection, tenant: Option<&str>) -> Result<u64, StoreError> {
    let mut gone = 0;
    for head in heads(connection, tenant).await? {
        let done = query("DELETE FROM audit WHERE tenant = $1 AND id < $2")
            .bind(&head.tenant)
            .bind(head.first_id)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        gone += done.rows_affected();
    }
    Ok(gone)
}

fn read_row(row: &Row) -> Result<StoredAudit, StoreError> {
    Ok(StoredAudit {
        tenant: column(WHAT, row, "tenant")?,
        id: column(WHAT, row, "id")?,
        at: column(WHAT, row, "at")?,
        actor: column(WHAT, row, "actor")?,
        action: column(WHAT, row, "action")?,
        key: column(WHAT, row, "key")?,
        details: column(WHAT, row, "details")?,
        previous: column(WHAT, row, "previous")?,
        hash: column(WHAT, row, "hash")?,
    })
}

fn read_head(row: &Row) -> Result<AuditHead, StoreError> {
    Ok(AuditHead {
        tenant: column(WHAT, row, "tenant")?,
        first_id: column(WHAT, row, "first_id")?,
        first_previous: column(WHAT, row, "first_previous")?,
        last_id: column(WHAT, row, "last_id")?,
        last_hash: column(WHAT, row, "last_hash")?,
    })
}

fn failed(source: sqlx::Error) -> StoreError {
    StoreError::Query { what: WHAT, source }
}

//! Reading and writing all rows, compiled once for each database, as `statements.rs` is.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::BoxStream;
use sqlx::{AssertSqlSafe, Database, QueryBuilder, Row as _, Transaction, query, query_as};

use super::{AS_GIVEN, AS_OWNER, Db, KEEPS_WAITING, NUMBERS, SET_NUMBER, SHAPES};
use super::{chains, moved};
use crate::store::StoreError;
use crate::store::audit::NewAudit;
use crate::store::copy::{Batch, Cell, Cells, ColumnKind, CopyError, Rows, TableShape, expect_columns, in_order};

type Row = <Db as Database>::Row;

const WHAT: &str = "its rows";

/// All rows, in one transaction; what keeps others out meanwhile goes with it.
pub(super) struct AllRows<G: Send> {
    inner: Transaction<'static, Db>,
    _guard: G,
}

impl<G: Send> AllRows<G> {
    pub(super) fn new(inner: Transaction<'static, Db>, guard: G) -> Self {
        Self { inner, _guard: guard }
    }
}

#[async_trait]
impl<G: Send> Rows for AllRows<G> {
    async fn schema(&mut self) -> Result<i64, StoreError> {
        let sql = "SELECT MAX(version) FROM _sqlx_migrations WHERE success";
        query(sql).fetch_one(&mut *self.inner).await.and_then(|row| row.try_get(0)).map_err(failed)
    }

    async fn tables(&mut self) -> Result<Vec<TableShape>, StoreError> {
        let columns: Vec<(String, String, String)> =
            query_as(SHAPES).fetch_all(&mut *self.inner).await.map_err(failed)?;
        let mut tables: BTreeMap<String, BTreeMap<String, ColumnKind>> = BTreeMap::new();
        for (table, column, kind) in columns {
            let kind = ColumnKind::of(&kind).ok_or_else(|| failed(unknown_type(&table, &column, &kind)))?;
            tables.entry(table).or_default().insert(column, kind);
        }
        Ok(in_order(tables.into_iter().map(|(name, columns)| TableShape { name, columns }).collect()))
    }

    fn read<'r>(&'r mut self, table: &'r TableShape) -> BoxStream<'r, Result<Cells, StoreError>> {
        let sql = format!("SELECT {} FROM {}", names(table), quoted(&table.name));
        let rows = query(AssertSqlSafe(sql)).fetch(&mut *self.inner);
        rows.map(|row| row.and_then(|row| cells(table, &row)).map_err(failed)).boxed()
    }

    async fn write(&mut self, batch: &Batch) -> Result<(), CopyError> {
        let table = batch.table();
        for row in batch.rows() {
            expect_columns(table, row)?;
        }
        if batch.rows().is_empty() {
            return Ok(());
        }
        let mut sql =
            QueryBuilder::<Db>::new(format!("INSERT INTO {} ({}){AS_GIVEN} ", quoted(&table.name), names(table)));
        let mut misfit = None;
        sql.push_values(batch.rows(), |mut values, row| {
            for (column, kind) in &table.columns {
                let cell = row.get(column).unwrap_or(&Cell::Null);
                match (kind, cell) {
                    (ColumnKind::Text, Cell::Text(text)) => values.push_bind(text.clone()),
                    (ColumnKind::Text, Cell::Null) => values.push_bind(None::<String>),
                    (ColumnKind::Number, Cell::Number(number)) => values.push_bind(*number),
                    (ColumnKind::Number, Cell::Null) => values.push_bind(None::<i64>),
                    (ColumnKind::Bytes, Cell::Null) => values.push_bind(None::<Vec<u8>>),
                    (kind, cell) => match (kind, cell.bytes()) {
                        (ColumnKind::Bytes, Some(bytes)) => values.push_bind(bytes),
                        (ColumnKind::Text | ColumnKind::Number | ColumnKind::Bytes, _) => {
                            misfit = Some(column.clone());
                            values.push_bind(None::<String>)
                        }
                    },
                };
            }
        });
        if let Some(column) = misfit {
            let why = format!("what stands in {column} is of another type");
            return Err(CopyError::Misfit { table: table.name.clone(), why });
        }
        sql.build().execute(&mut *self.inner).await.map_err(failed)?;
        Ok(())
    }

    async fn numbers(&mut self) -> Result<BTreeMap<String, i64>, StoreError> {
        let numbers: Vec<(String, i64)> = query_as(NUMBERS).fetch_all(&mut *self.inner).await.map_err(failed)?;
        Ok(numbers.into_iter().collect())
    }

    async fn set_numbers(&mut self, numbers: &BTreeMap<String, i64>) -> Result<(), StoreError> {
        if let Some(sql) = AS_OWNER {
            query(sql).execute(&mut *self.inner).await.map_err(failed)?;
        }
        for (table, number) in numbers {
            for sql in SET_NUMBER {
                query(*sql).bind(table).bind(number).execute(&mut *self.inner).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn append_audit(&mut self, chain: &str, entries: &[NewAudit]) -> Result<(), StoreError> {
        chains::append(&mut self.inner, chain, entries).await.map(drop)
    }

    async fn leave(&mut self, place: &str, at: DateTime<Utc>) -> Result<(), StoreError> {
        moved::leave(&mut self.inner, place, at).await
    }

    async fn settle(&mut self) -> Result<Option<String>, StoreError> {
        moved::settle(&mut self.inner).await
    }

    async fn keeps_waiting(&mut self) -> Result<bool, StoreError> {
        let Some(sql) = KEEPS_WAITING else { return Ok(false) };
        query(sql).fetch_one(&mut *self.inner).await.and_then(|row| row.try_get(0)).map_err(failed)
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.commit().await.map_err(failed)
    }
}

fn cells(table: &TableShape, row: &Row) -> Result<Cells, sqlx::Error> {
    let mut cells = Cells::new();
    for (at, (column, kind)) in table.columns.iter().enumerate() {
        let cell = match kind {
            ColumnKind::Text => row.try_get::<Option<String>, _>(at)?.map(Cell::Text),
            ColumnKind::Number => row.try_get::<Option<i64>, _>(at)?.map(Cell::Number),
            ColumnKind::Bytes => row.try_get::<Option<Vec<u8>>, _>(at)?.map(|bytes| Cell::of_bytes(&bytes)),
        };
        cells.insert(column.clone(), cell.unwrap_or(Cell::Null));
    }
    Ok(cells)
}

fn names(table: &TableShape) -> String {
    table.columns.keys().map(|column| quoted(column)).collect::<Vec<_>>().join(", ")
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

fn unknown_type(table: &str, column: &str, kind: &str) -> sqlx::Error {
    sqlx::Error::Protocol(format!("column {column} of {table} is of type {kind}, which this version cannot copy"))
}

fn failed(source: sqlx::Error) -> StoreError {
    StoreError::Query { what: WHAT, source }
}

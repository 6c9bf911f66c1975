//! All rows of a store, whichever database it stands on: for backups, and for moving from one database to another.
//!
//! What always holds: what tables and columns there are is asked of the database, so that nothing that a migration adds is
//! left out; rows are read from one snapshot and written in one transaction; numbers that were given are not given again;
//! of a table, however large, no more than a [`Batch`] is in memory.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::StoreError;
use super::audit::NewAudit;

/// Tables that others refer to: these are written first.
const FIRST: &[&str] = &["executions"];

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    Text,
    Number,
    Bytes,
}

impl ColumnKind {
    /// The kind of a type as the databases name it; `None` for a type that no table has so far.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "text" => Some(Self::Text),
            "integer" | "bigint" => Some(Self::Number),
            "blob" | "bytea" => Some(Self::Bytes),
            _ => None,
        }
    }
}

/// A table, and its columns by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableShape {
    pub name: String,
    pub columns: BTreeMap<String, ColumnKind>,
}

/// A value in a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    Null,
    Number(i64),
    Text(String),
    Bytes { base64: String },
}

impl Cell {
    /// Bytes, as a cell.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self::Bytes { base64: STANDARD.encode(bytes) }
    }

    /// About how many bytes it takes.
    fn size(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Number(_) => size_of::<i64>(),
            Self::Text(text) | Self::Bytes { base64: text } => text.len(),
        }
    }

    /// Its bytes; `None` when it holds none.
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Bytes { base64 } => STANDARD.decode(base64).ok(),
            Self::Null | Self::Number(_) | Self::Text(_) => None,
        }
    }
}

/// A row: a cell of each column, by name.
pub type Cells = BTreeMap<String, Cell>;

/// How many values one statement takes; databases take some more.
const VALUES_AT_ONCE: usize = 8_000;
/// How many bytes one statement takes. PostgreSQL refuses a gigabyte, and both sides hold a statement whole, more than once;
/// from some MiB on, larger ones are no faster.
const BYTES_AT_ONCE: usize = 8 << 20;

/// Rows of a table that are written by one statement.
#[derive(Debug)]
pub struct Batch {
    table: TableShape,
    rows: Vec<Cells>,
    bytes: usize,
}

impl Batch {
    /// One without a row so far.
    pub fn of(table: &TableShape) -> Self {
        Self { table: table.clone(), rows: Vec::new(), bytes: 0 }
    }

    pub fn table(&self) -> &TableShape {
        &self.table
    }

    pub fn rows(&self) -> &[Cells] {
        &self.rows
    }

    /// Adds a row; gives the rows before it, where it does not go with them any more. One that is larger than a batch may
    /// be goes by itself.
    pub fn push(&mut self, row: Cells) -> Option<Self> {
        let bytes = row.values().map(Cell::size).sum::<usize>();
        let values = (self.rows.len() + 1) * self.table.columns.len();
        let fits = values <= VALUES_AT_ONCE && self.bytes + bytes <= BYTES_AT_ONCE;
        let full = (!fits && !self.rows.is_empty()).then(|| {
            let next = Self::of(&self.table);
            std::mem::replace(self, next)
        });
        self.rows.push(row);
        self.bytes += bytes;
        full
    }
}

/// All rows of a store, in one transaction.
#[async_trait]
pub trait Rows: Send {
    /// The number of the newest migration.
    async fn schema(&mut self) -> Result<i64, StoreError>;
    /// Every table of the state, in an order in which they can be written.
    async fn tables(&mut self) -> Result<Vec<TableShape>, StoreError>;
    /// Every row of a table, one after another.
    fn read<'r>(&'r mut self, table: &'r TableShape) -> BoxStream<'r, Result<Cells, StoreError>>;
    /// Writes rows as they are, with their numbers.
    async fn write(&mut self, batch: &Batch) -> Result<(), CopyError>;
    /// The highest number that was given in each table that gives numbers.
    async fn numbers(&mut self) -> Result<BTreeMap<String, i64>, StoreError>;
    /// Goes on after these numbers.
    async fn set_numbers(&mut self, numbers: &BTreeMap<String, i64>) -> Result<(), StoreError>;
    /// Adds to the end of a chain of the audit log: nothing is put there without what tells who did it.
    async fn append_audit(&mut self, chain: &str, entries: &[NewAudit]) -> Result<(), StoreError>;
    /// Says that the state is at `place` now, as whoever opens this one to reconcile is told.
    async fn leave(&mut self, place: &str, at: DateTime<Utc>) -> Result<(), StoreError>;
    /// Says that the state is here; gives the place that it had been moved to, if it had.
    async fn settle(&mut self) -> Result<Option<String>, StoreError>;
    /// Whether somebody waits for the end of this transaction, to write. Where nobody can wait for it, whoever tries is
    /// told that they cannot.
    async fn keeps_waiting(&mut self) -> Result<bool, StoreError>;
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// Why rows could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row that does not fit the table.
    #[error("a row of {table} does not fit the table: {why}")]
    Misfit { table: String, why: String },
    /// The target holds something.
    #[error("{place} is not empty: its table {table} has rows; choose a database without state in it")]
    NotEmpty { place: String, table: String },
    /// What was written is not what was read.
    #[error("table {table} differs after the copy, so nothing was kept: {read} rows were read, {written} are there")]
    Differs { table: String, read: u64, written: u64 },
    /// The schemas are of different versions.
    #[error(
        "one database is of schema {source_schema}, the other of {target_schema}; run `plumb db migrate` on both with one version"
    )]
    Schemas { source_schema: i64, target_schema: i64 },
}

/// Puts the tables into an order in which they can be written.
pub(super) fn in_order(mut tables: Vec<TableShape>) -> Vec<TableShape> {
    tables.sort_by_key(|table| (!FIRST.contains(&table.name.as_str()), table.name.clone()));
    tables
}

/// How many rows, and a sum of their hashes that does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub rows: u64,
    sum: [u64; 4],
}

impl Tally {
    /// Counts a row in.
    pub fn add(&mut self, row: &Cells) {
        self.rows += 1;
        let digest = Sha256::digest(serde_json::to_vec(row).unwrap_or_default());
        for (sum, part) in self.sum.iter_mut().zip(digest.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*part));
        }
    }
}

/// Refuses a store in which there is anything.
///
/// # Errors
/// [`CopyError::NotEmpty`], or when it cannot be read.
pub async fn expect_empty(rows: &mut dyn Rows, place: &str) -> Result<(), CopyError> {
    for table in rows.tables().await? {
        let first = rows.read(&table).try_next().await?;
        if first.is_some() {
            return Err(CopyError::NotEmpty { place: place.to_owned(), table: table.name });
        }
    }
    Ok(())
}

/// What is in a table.
async fn tally(rows: &mut dyn Rows, table: &TableShape) -> Result<Tally, CopyError> {
    let (mut tally, mut all) = (Tally::default(), rows.read(table));
    while let Some(row) = all.try_next().await? {
        tally.add(&row);
    }
    Ok(tally)
}

/// Writes all rows of a table into another while they are read; says what was read.
async fn pour(
    source: &mut dyn Rows,
    table: &TableShape,
    target: &mut dyn Rows,
    into: &TableShape,
) -> Result<Tally, CopyError> {
    let (mut read, mut batch) = (Tally::default(), Batch::of(into));
    let mut rows = source.read(table);
    while let Some(row) = rows.try_next().await? {
        read.add(&row);
        if let Some(full) = batch.push(row) {
            target.write(&full).await?;
        }
    }
    target.write(&batch).await?;
    Ok(read)
}

/// Copies everything from one store to another that is empty, then compares both, table by table. The caller commits.
///
/// # Errors
/// When something is in the target, or a table differs afterwards, or a store fails.
pub async fn copy(
    source: &mut dyn Rows,
    target: &mut dyn Rows,
    place: &str,
) -> Result<BTreeMap<String, u64>, CopyError> {
    let (source_schema, target_schema) = (source.schema().await?, target.schema().await?);
    if source_schema != target_schema {
        return Err(CopyError::Schemas { source_schema, target_schema });
    }
    expect_empty(target, place).await?;
    let mut counts = BTreeMap::new();
    let into: BTreeMap<String, TableShape> =
        target.tables().await?.into_iter().map(|table| (table.name.clone(), table)).collect();
    for table in source.tables().await? {
        let misfit = || CopyError::Misfit { table: table.name.clone(), why: "there is no such table".to_owned() };
        let shape = into.get(&table.name).ok_or_else(misfit)?;
        let read = pour(source, &table, target, shape).await?;
        let written = tally(target, shape).await?;
        if written != read {
            return Err(CopyError::Differs { table: table.name, read: read.rows, written: written.rows });
        }
        counts.insert(table.name, read.rows);
    }
    target.set_numbers(&source.numbers().await?).await?;
    Ok(counts)
}

/// Refuses a row whose columns are not the table's.
pub(super) fn expect_columns(table: &TableShape, row: &Cells) -> Result<(), CopyError> {
    let (known, given): (BTreeSet<&String>, BTreeSet<&String>) = (table.columns.keys().collect(), row.keys().collect());
    let misfit = |why: String| Err(CopyError::Misfit { table: table.name.clone(), why });
    match known.symmetric_difference(&given).next() {
        Some(column) => misfit(format!("column {column} is only on one side")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// How many rows there are in each batch, of rows of so many bytes.
    fn batches(columns: usize, sizes: &[usize]) -> Vec<usize> {
        let columns = (0..columns).map(|number| (format!("c{number}"), ColumnKind::Text)).collect();
        let table = TableShape { name: "scenes".into(), columns };
        let mut batch = Batch::of(&table);
        let row = |size: usize| Cells::from([("c0".to_owned(), Cell::Text("x".repeat(size)))]);
        let mut written: Vec<usize> =
            sizes.iter().filter_map(|size| batch.push(row(*size))).map(|full| full.rows().len()).collect();
        written.push(batch.rows().len());
        assert!(written.iter().all(|rows| *rows > 0), "none is empty");
        written
    }

    #[test]
    fn batches_are_cut_at_some_mib_however_many_rows_that_are() {
        assert_eq!(batches(2, &[3 * MIB; 7]), [2, 2, 2, 1]);
        assert_eq!(batches(2, &[4 * MIB, 4 * MIB, 1]), [2, 1]);
        // One that is larger goes by itself.
        assert_eq!(batches(2, &[10, 32 * MIB, 32 * MIB, 10, 10]), [1, 1, 1, 2]);
    }

    #[test]
    fn batches_are_cut_at_some_thousand_values() {
        assert_eq!(batches(8, &[1; 2_500]), [1_000, 1_000, 500]);
        assert_eq!(batches(3 * VALUES_AT_ONCE, &[1; 2]), [1, 1]);
    }
}

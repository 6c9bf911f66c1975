//! `plumb db`: brings the state database up to date, backs it up, restores it, moves it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::vault::{KEY_FILE, KEY_VARIABLE};
use crate::model::{Clock, SystemClock};
use crate::store::audit::{AuditAction, AuditDetails, NewAudit, PLATFORM_CHAIN};
use crate::store::copy::{self, Batch, Cells, Rows, TableShape};
use crate::store::lock::DirectoryLock;
use crate::store::{Lead, Mode, Scope, Store};

use super::args::{Common, Database};
use super::{house, output};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: DbCommand,
}

#[derive(Debug, Subcommand)]
enum DbCommand {
    /// Bring the state database up to date with this version of plumb.
    ///
    /// `plumb serve` and `plumb apply` do so by themselves where their login may. Migrations add and keep: replicas of the
    /// version before go on working meanwhile. An older plumb that is started after it refuses to: have whatever restarts
    /// replicas start the new version.
    Migrate,
    /// Write all of the state into one file.
    ///
    /// One snapshot, taken while plumb runs or not: JSON lines, for their owner alone. Passwords are in it as ciphertext;
    /// their key is not.
    Backup {
        /// The file, which must not be there yet; - for stdout
        file: PathBuf,
    },
    /// Put the state of a backup into an empty database.
    ///
    /// All or nothing: a file that is damaged, half written or of another version leaves the database empty. Refused while
    /// plumb reconciles with that database.
    Restore {
        /// The file; - for stdin
        file: PathBuf,
    },
    /// Copy the state into another, empty database, and compare both.
    ///
    /// Refused while plumb reconciles with the state. Nothing is removed from where it was, but plumb does not reconcile there
    /// any more: it says where the state is now.
    Move {
        /// Where to: postgres://login@host/database, its password in PGPASSWORD, or sqlite:DIR
        #[arg(long, value_name = "URL")]
        to: String,
    },
    /// Go on with a state that was moved away, where it was before.
    ///
    /// As it was left: what was done since is known only where it was moved to. Stop whatever works there first, or two would
    /// reconcile the same systems.
    Reopen,
}

/// Does what is asked.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    match args.command {
        DbCommand::Migrate => migrate(common).await?,
        DbCommand::Backup { file } => backup(&file, common).await?,
        DbCommand::Restore { file } => restore(&file, common).await?,
        DbCommand::Move { to } => move_to(&to, common).await?,
        DbCommand::Reopen => reopen(common).await?,
    }
    Ok(0)
}

async fn migrate(common: &Common) -> anyhow::Result<()> {
    let database = common.database()?;
    let store = house::open(&database, Mode::Reconcile).await?;
    let applied = store.migrated();
    audit_migrations(store.as_ref()).await?;
    let told = json!({"database": database.shown(), "applied": applied});
    output::print_as(common, &told, || match applied {
        [] => format!("{} is up to date", database.shown()),
        applied => format!("{}: applied {}", database.shown(), applied.join(", ")),
    })
}

/// Writes down which migrations opening a store applied. So the chain of the platform begins with them where the state is from
/// before there was an audit log.
pub async fn audit_migrations(store: &dyn Store) -> anyhow::Result<()> {
    let applied = store.migrated();
    // One that was just made has no past, and may still be restored into.
    let is_new = applied.iter().any(|migration| migration.starts_with(FIRST));
    if !applied.is_empty() && !is_new {
        audit(store, "migrate", &[("applied", json!(applied))]).await?;
    }
    Ok(())
}

/// What the audit log of the platform says of what this person does to a database.
fn done(did: &str, more: &[(&str, Value)]) -> NewAudit {
    let mut details = AuditDetails::from([("command".to_owned(), json!(format!("db {did}")))]);
    details.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let (at, actor) = (SystemClock.now(), house::person());
    NewAudit { at, actor, action: AuditAction::Database, key: None, details }
}

/// Writes it there.
async fn audit(store: &dyn Store, did: &str, more: &[(&str, Value)]) -> anyhow::Result<()> {
    let mut tx = store.begin(Scope::Platform).await?;
    tx.append_audit(PLATFORM_CHAIN, &[done(did, more)]).await?;
    Ok(tx.commit().await?)
}

/// How the migration that makes a database begins.
const FIRST: &str = "0001 ";

const FORMAT: &str = "plumb-backup";
/// The only version of the format so far.
const VERSION: u32 = 1;

/// The first line of a backup.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format: String,
    version: u32,
    /// The newest migration of the database that it was taken of.
    schema: i64,
    taken_at: DateTime<Utc>,
}

/// A row of a backup.
#[derive(Debug, Serialize, Deserialize)]
struct RowLine {
    table: String,
    row: Cells,
}

/// The last line of a backup, by which one that is whole is known.
#[derive(Debug, Serialize, Deserialize)]
struct End {
    /// How many rows there are of each table.
    rows: BTreeMap<String, u64>,
    /// The highest number that was given in each table.
    numbers: BTreeMap<String, i64>,
    /// Of all lines before this one.
    sha256: String,
}

/// How the name of a backup ends that is being written, or was when its process died.
const UNFINISHED: &str = ".unfinished";

async fn backup(file: &Path, common: &Common) -> anyhow::Result<()> {
    let store = house::existing_store(common, Mode::ReadOnly).await?;
    let to_stdout = file == Path::new("-");
    ensure!(to_stdout || !file.exists(), "there is a file {} already; name another one", file.display());
    let rows = if to_stdout {
        tell_of_backup(file, common).await;
        write_backup(store.as_ref(), BufWriter::new(io::stdout())).await?
    } else {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = file.file_name().with_context(|| format!("{} is no name of a file", file.display()))?;
        // Made for its owner alone, and given its name once it is whole.
        let mut whole = tempfile::Builder::new()
            .prefix(&[name, OsStr::new(".")].join(OsStr::new("")))
            .suffix(UNFINISHED)
            .tempfile_in(folder)
            .with_context(|| format!("no file can be made in {}", folder.display()))?;
        tell_of_backup(file, common).await;
        let cannot_write = || format!("{} cannot be written", file.display());
        let written = write_backup(store.as_ref(), BufWriter::new(whole.as_file_mut())).await;
        let rows = written.with_context(cannot_write)?;
        whole.as_file().sync_all().with_context(cannot_write)?;
        whole.persist_noclobber(file).with_context(|| format!("{} cannot be made", file.display()))?;
        rows
    };
    if !common.quiet {
        eprintln!(
            "{} backed up; the key of the passwords is not among them: keep {KEY_VARIABLE}, or {KEY_FILE} of the data \
             directory, beside the backup and not in it",
            output::count(usize::try_from(rows)?, "row")
        );
    }
    Ok(())
}

/// Writes down that a backup is taken, before it is, so that this is in it. One that is taken in an emergency is taken all the
/// same.
async fn tell_of_backup(file: &Path, common: &Common) {
    if let Err(error) = audit_backup(file, common).await {
        eprintln!("that a backup is taken could not be written into the audit log: {error:#}");
    }
}

async fn audit_backup(file: &Path, common: &Common) -> anyhow::Result<()> {
    let store = house::existing_store(common, Mode::Append).await?;
    audit(store.as_ref(), "backup", &[("file", json!(file.display().to_string()))]).await
}

/// Writes lines, and hashes them.
struct Lines<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Lines<W> {
    fn put(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        self.hash.update(&line);
        self.out.write_all(&line)
    }
}

async fn write_backup(store: &dyn Store, out: impl Write + Send) -> anyhow::Result<u64> {
    let mut rows = store.snapshot().await?;
    let mut lines = Lines { out, hash: Sha256::new() };
    let schema = rows.schema().await?;
    lines.put(&Header { format: FORMAT.to_owned(), version: VERSION, schema, taken_at: SystemClock.now() })?;
    let mut counts = BTreeMap::new();
    for table in rows.tables().await? {
        let mut count = 0;
        let mut all = rows.read(&table);
        while let Some(row) = all.try_next().await? {
            count += 1;
            lines.put(&RowLine { table: table.name.clone(), row })?;
        }
        drop(all);
        counts.insert(table.name, count);
    }
    let all = counts.values().sum();
    let sha256 = hex::encode(lines.hash.clone().finalize());
    lines.put(&End { rows: counts, numbers: rows.numbers().await?, sha256 })?;
    lines.out.flush()?;
    Ok(all)
}

async fn restore(file: &Path, common: &Common) -> anyhow::Result<()> {
    let reader: Box<dyn BufRead + Send> = if file == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(file).with_context(|| format!("{} cannot be read", file.display()))?))
    };
    let mut backup = Backup { reader, hash: Sha256::new(), line: String::new(), number: 0 };
    let header = backup.header()?;
    let database = common.database()?;
    let _lock = lock_beside(&[&database], common)?;
    let store = house::open(&database, Mode::Settle).await?;
    let alone = alone(store.as_ref(), &database).await?;
    let mut rows = store.exclusive().await?;
    let schema = rows.schema().await?;
    ensure!(
        header.schema <= schema,
        "the backup was made by a newer plumb (schema {}, this one has {schema}); use that version, or a newer one",
        header.schema
    );
    ensure!(
        header.schema == schema,
        "the backup was made by an older plumb (schema {}, this one has {schema}); restore it with that version, then run \
         `plumb db migrate` with this one",
        header.schema
    );
    copy::expect_empty(rows.as_mut(), &database.shown()).await?;
    let counts = backup.read_into(rows.as_mut()).await?;
    expect_nobody_came(&alone, store.as_ref(), rows.as_mut(), &database, "restored").await?;
    let told = [("file", json!(file.display().to_string())), ("takenAt", json!(header.taken_at))];
    rows.append_audit(PLATFORM_CHAIN, &[done("restore", &told)]).await?;
    rows.settle().await?;
    rows.commit().await?;
    tell(common, &database, &counts, "restored", header.taken_at)
}

/// A backup that is read line by line.
struct Backup {
    reader: Box<dyn BufRead + Send>,
    hash: Sha256,
    line: String,
    number: usize,
}

impl Backup {
    /// Reads the next line, with its end; false after the last one.
    fn next(&mut self) -> anyhow::Result<bool> {
        self.line.clear();
        self.number += 1;
        let read = self.reader.read_line(&mut self.line).context("the backup cannot be read")?;
        Ok(read > 0)
    }

    fn header(&mut self) -> anyhow::Result<Header> {
        const FOREIGN: &str = "this is no backup of plumb: its first line says something else";
        ensure!(self.next().context(FOREIGN)?, "the backup is empty");
        let header: Header = serde_json::from_str(&self.line).context(FOREIGN)?;
        ensure!(header.format == FORMAT, FOREIGN);
        ensure!(
            header.version <= VERSION,
            "the backup is in format {}, and this plumb knows {VERSION}; use a newer one",
            header.version
        );
        self.hash.update(&self.line);
        Ok(header)
    }

    /// Writes all rows of it; the caller commits.
    async fn read_into(&mut self, rows: &mut dyn Rows) -> anyhow::Result<BTreeMap<String, u64>> {
        let shapes: BTreeMap<String, TableShape> =
            rows.tables().await?.into_iter().map(|table| (table.name.clone(), table)).collect();
        let mut counts: BTreeMap<String, u64> = shapes.keys().map(|name| (name.clone(), 0)).collect();
        let mut waiting: Option<Batch> = None;
        while self.next()? {
            let damaged = || format!("line {} of the backup is damaged", self.number);
            if let Ok(RowLine { table, row }) = serde_json::from_str(&self.line) {
                self.hash.update(&self.line);
                *counts.get_mut(&table).with_context(damaged)? += 1;
                if waiting.as_ref().is_none_or(|batch| batch.table().name != table) {
                    put(rows, waiting.take()).await?;
                    waiting = shapes.get(&table).map(Batch::of);
                }
                put(rows, waiting.as_mut().and_then(|batch| batch.push(row))).await?;
                continue;
            }
            let end: End = serde_json::from_str(&self.line).with_context(damaged)?;
            put(rows, waiting.take()).await?;
            let sha256 = hex::encode(self.hash.clone().finalize());
            ensure!(
                end.sha256 == sha256 && end.rows == counts,
                "the backup was changed or damaged; nothing was restored"
            );
            rows.set_numbers(&end.numbers).await?;
            return Ok(counts);
        }
        bail!("the backup ends in the middle: its last line is missing; nothing was restored")
    }
}

/// Writes rows, where there are some.
async fn put(rows: &mut dyn Rows, batch: Option<Batch>) -> anyhow::Result<()> {
    match batch {
        Some(batch) => rows.write(&batch).await.context("the backup cannot be restored; nothing was"),
        None => Ok(()),
    }
}

async fn move_to(to: &str, common: &Common) -> anyhow::Result<()> {
    let (from, to) = (common.database()?, Database::of(to, "--to")?);
    ensure!(!is_one_place(&from, &to), "{} is where the state is already", to.shown());
    if let Database::Sqlite(folder) = &from {
        let file = folder.join(crate::store::sqlite::DATABASE_FILE);
        ensure!(file.exists(), "there is no state database at {}", file.display());
    }
    let _lock = lock_beside(&[&from, &to], common)?;
    let source = house::open(&from, Mode::Reconcile).await?;
    let alone = alone(source.as_ref(), &from).await?;
    let target = house::open(&to, Mode::Settle).await?;
    // One database by two names would wait for itself.
    let Some(lead) = target.lead().await? else {
        bail!(
            "{} is {} by another name, or a plumb is reconciling with it; name another database, or stop every replica there",
            to.shown(),
            from.shown()
        );
    };
    let _alone_there = Alone::with(lead);
    let (mut rows, mut written) = (source.exclusive().await?, target.exclusive().await?);
    let counts = copy::copy(rows.as_mut(), written.as_mut(), &to.shown()).await?;
    expect_nobody_came(&alone, source.as_ref(), rows.as_mut(), &from, "moved").await?;
    written.append_audit(PLATFORM_CHAIN, &[done("move", &[("from", json!(from.shown()))])]).await?;
    written.settle().await?;
    written.commit().await?;
    // Two databases commit one after the other: between them both could be gone on with. Whoever waits to write where the state
    // was is told, since only now it need not wait any more.
    let now = SystemClock.now();
    let left = async {
        rows.leave(&to.shown(), now).await?;
        rows.commit().await
    };
    left.await.with_context(|| {
        format!(
            "the state is in {} now, but that could not be written down in {}: do not start plumb there",
            to.shown(),
            from.shown()
        )
    })?;
    tell(common, &to, &counts, "moved and compared", now)?;
    if !common.quiet {
        eprintln!(
            "start plumb with --database {} from now on, and with the same key of passwords; {} is left as it was, and plumb does \
             not work with it any more",
            to.shown(),
            from.shown()
        );
    }
    Ok(())
}

async fn reopen(common: &Common) -> anyhow::Result<()> {
    let database = common.database()?;
    let _lock = lock_beside(&[&database], common)?;
    let store = house::open(&database, Mode::Settle).await?;
    let _alone = alone(store.as_ref(), &database).await?;
    let mut rows = store.exclusive().await?;
    let place = rows.settle().await?;
    if let Some(place) = &place {
        rows.append_audit(PLATFORM_CHAIN, &[done("reopen", &[("movedTo", json!(place))])]).await?;
        rows.commit().await?;
    }
    output::print_as(common, &json!({"database": database.shown(), "movedTo": place}), || match &place {
        Some(place) => format!("{} is worked with again, as it was when it was moved to {place}", database.shown()),
        None => format!("{} was not moved away", database.shown()),
    })
}

/// How often whoever keeps replicas from leading gives a sign of life: well within the time that a database waits for one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Keeps replicas from leading, for as long as it is there.
struct Alone {
    lead: Arc<Mutex<Box<dyn Lead>>>,
    _signs: AbortOnDropHandle<()>,
}

impl Alone {
    fn with(lead: Box<dyn Lead>) -> Self {
        let lead = Arc::new(Mutex::new(lead));
        let kept = Arc::clone(&lead);
        let signs = tokio::spawn(async move {
            while kept.lock().await.still_leads().await {
                tokio::time::sleep(SIGN_OF_LIFE).await;
            }
        });
        Self { lead, _signs: AbortOnDropHandle::new(signs) }
    }

    /// Whether no replica led since. What was lost once is not had again.
    async fn is_it_still(&self) -> bool {
        self.lead.lock().await.still_leads().await
    }
}

/// Refuses while anybody reconciles with a database, and keeps replicas from beginning to.
async fn alone(store: &dyn Store, database: &Database) -> anyhow::Result<Alone> {
    // On PostgreSQL one replica leads wherever any runs.
    let Some(lead) = store.lead().await? else {
        bail!("a plumb is reconciling with {}; stop every replica first", database.shown());
    };
    let alone = Alone::with(lead);
    expect_at_rest(store, database).await?;
    Ok(alone)
}

/// Refuses where somebody came while `rows` kept writers waiting, or may have begun to lead: what they write once it is over,
/// such as a password, would be missing where the state is then, or stand beside what was restored.
async fn expect_nobody_came(
    alone: &Alone,
    store: &dyn Store,
    rows: &mut dyn Rows,
    database: &Database,
    done: &str,
) -> anyhow::Result<()> {
    ensure!(
        alone.is_it_still().await,
        "the connection was lost that kept every plumb from beginning to work with {}, so nothing was {done}; try again",
        database.shown()
    );
    expect_at_rest(store, database).await?;
    ensure!(
        !rows.keeps_waiting().await?,
        "a plumb began to write to {} meanwhile, so nothing was {done}; stop every replica and every `plumb apply` first",
        database.shown()
    );
    Ok(())
}

/// Refuses while a replica looks at a tenant: one that leads nobody, as `plumb apply`, does so too.
async fn expect_at_rest(store: &dyn Store, from: &Database) -> anyhow::Result<()> {
    // By the clock that leases are by.
    let now = store.now().await?;
    for place in store.places().await? {
        if let (Some(holder), Some(until)) = (place.holder, place.lease_until)
            && until > now
        {
            bail!(
                "{holder} looks at {} with {}; stop every replica and every `plumb apply` first, and one that was killed \
                 is over at {}",
                place.tenant,
                from.shown(),
                until.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
            );
        }
    }
    Ok(())
}

/// The lock of the data directory, so that nobody reconciles there, unless one of these stores takes it.
fn lock_beside(databases: &[&Database], common: &Common) -> anyhow::Result<Option<DirectoryLock>> {
    let data_dir = common.data_dir()?;
    let own = Database::Sqlite(data_dir.clone());
    let is_taken = databases.iter().any(|database| is_one_place(database, &own));
    Ok(if is_taken { None } else { Some(DirectoryLock::take(&data_dir)?) })
}

/// Whether two addresses lead to one database: a folder may be spelled in many ways.
fn is_one_place(one: &Database, other: &Database) -> bool {
    let folder = |database: &Database| match database {
        Database::Sqlite(folder) => std::fs::canonicalize(folder).ok(),
        Database::Postgres(_) => None,
    };
    one == other || folder(one).is_some_and(|one| folder(other) == Some(one))
}

/// Says how many rows of each table are where now.
fn tell(
    common: &Common,
    database: &Database,
    counts: &BTreeMap<String, u64>,
    done: &str,
    as_of: DateTime<Utc>,
) -> anyhow::Result<()> {
    let told = json!({"database": database.shown(), "asOf": as_of, "rows": counts});
    output::print_as(common, &told, || {
        let rows: Vec<Vec<String>> =
            counts.iter().map(|(table, rows)| vec![table.clone(), rows.to_string(), done.to_owned()]).collect();
        output::table(&["TABLE", "ROWS", "STATUS"], &rows)
    })
}

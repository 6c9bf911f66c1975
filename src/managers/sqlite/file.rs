//! One database file: what is at its path, and what it holds.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use super::peek::{Peek, peek};
use super::settings::{Settings, page_size};
use super::{error, gate};
use crate::managers::ManagerError;
use crate::model::{JournalMode, Live, Mark, ObjectId, Ownership, Reason};

/// What SQLite keeps beside a database while it is in use, or after a death.
pub(super) const JOURNAL: &str = "-journal";
pub(super) const WAL: &str = "-wal";
pub(super) const WAL_INDEX: &str = "-shm";

/// How often a look that SQLite could not lock is repeated when the file changed meanwhile.
const LOOKS: usize = 3;

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The mark's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MarkRow {
    pub id: String,
    pub mark: Mark,
    pub foreign_keys: bool,
}

impl MarkRow {
    pub(super) fn object(&self) -> ObjectId {
        ObjectId(self.id.clone())
    }
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub file: FileId,
    pub settings: Settings,
    pub marked: Option<MarkRow>,
}

impl Seen {
    pub(super) fn object(&self) -> ObjectId {
        match &self.marked {
            Some(row) => row.object(),
            None => ObjectId(format!("{}:{}", self.file.device, self.file.inode)),
        }
    }

    pub(super) fn into_live(self, outputs: BTreeMap<String, String>) -> Live {
        Live {
            object: self.object(),
            fields: self.settings.fields(),
            ownership: match self.marked {
                Some(row) => Ownership::Marked(row.mark),
                None => Ownership::Unmarked,
            },
            unknown: BTreeMap::new(),
            outputs,
        }
    }
}

/// What is at a path.
#[derive(Debug)]
pub(super) enum Place {
    Absent,
    File(Seen),
    /// Something else, which is left alone; what it is.
    Odd(&'static str),
}

/// What a look without SQLite gave.
#[derive(Debug)]
pub(super) enum Glimpse {
    Placed(Place),
    /// Only SQLite can tell what this file holds.
    Ask(Asked),
    Failed(ManagerError),
}

/// A file for SQLite to look into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub file: FileId,
    /// What its header says, where there is one.
    pub journal_mode: Option<JournalMode>,
}

/// What is at `path`, as a plain name of the file system.
pub(super) enum Entry {
    Absent,
    Empty(FileId),
    File(FileId),
    Odd(&'static str),
}

/// Follows no link.
pub(super) fn entry(path: &Path) -> io::Result<Entry> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Entry::Absent),
        Err(error) => return Err(error),
    };
    let kind = metadata.file_type();
    Ok(if kind.is_symlink() {
        Entry::Odd("it is a symbolic link")
    } else if kind.is_dir() {
        Entry::Odd("it is a folder")
    } else if !kind.is_file() {
        Entry::Odd("it is a device, a socket or a pipe")
    } else if metadata.len() == 0 && !pending(path)? {
        Entry::Empty(FileId::of(&metadata))
    } else {
        Entry::File(FileId::of(&metadata))
    })
}

/// Whether a journal or a write-ahead log beside `path` holds anything.
pub(super) fn pending(path: &Path) -> io::Result<bool> {
    Ok(holds_something(&sibling(path, WAL))? || holds_something(&sibling(path, JOURNAL))?)
}

pub(super) fn holds_something(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(metadata.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn sibling(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

/// Looks at `path` without waiting for anything but the disk.
pub(super) fn glimpse(path: &Path) -> Glimpse {
    let looked = entry(path).and_then(|entry| {
        Ok(match entry {
            Entry::Absent => Glimpse::Placed(Place::Absent),
            Entry::Odd(why) => Glimpse::Placed(Place::Odd(why)),
            Entry::Empty(file) => Glimpse::Placed(Place::File(empty(file))),
            Entry::File(file) => match peek(path, file)? {
                Peek::Seen(seen) => Glimpse::Placed(Place::File(seen)),
                Peek::Ask(journal_mode) => Glimpse::Ask(Asked { file, journal_mode }),
            },
        })
    });
    match looked {
        Ok(glimpse) => glimpse,
        // It went away between two looks.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Glimpse::Placed(Place::Absent),
        Err(error) => Glimpse::Failed(error::io("look at", path, &error)),
    }
}

/// An empty file is an empty database to SQLite.
pub(super) fn empty(file: FileId) -> Seen {
    Seen { file, settings: Settings::default(), marked: None }
}

/// How to open a file for a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// At rest with a write-ahead log switched on: an ordinary reader would create the log. Read as it is, without
    /// locks, and look again when that was too bold.
    AtRest,
    /// With SQLite's locks.
    Reader,
    /// A journal is there. A transaction that was cut short has to be undone before anything can be read.
    Recovering,
}

impl Opening {
    fn of(path: &Path, journal_mode: Option<JournalMode>) -> io::Result<Self> {
        Ok(if holds_something(&sibling(path, JOURNAL))? {
            Self::Recovering
        } else if journal_mode == Some(JournalMode::Wal) && !sibling(path, WAL).try_exists()? {
            Self::AtRest
        } else {
            Self::Reader
        })
    }
}

/// What the file at `path` holds, by SQLite. Waits at most `patience` for locks, and `timeout` in all; goes on in the
/// background when the caller stops waiting, so that the gate stays shut for as long as the connection is open.
pub(super) async fn read(
    path: PathBuf,
    asked: Asked,
    patience: Duration,
    timeout: Duration,
) -> Result<Seen, ManagerError> {
    let shown = path.clone();
    let reading = tokio::spawn(async move {
        let _open = gate::connection(&path).await;
        let mut journal_mode = asked.journal_mode;
        for _ in 0..LOOKS {
            let opening = Opening::of(&path, journal_mode).map_err(|error| error::io("look at", &path, &error))?;
            let seen = read_once(&path, asked.file, opening, patience).await;
            let restless = Opening::of(&path, journal_mode).map_err(|error| error::io("look at", &path, &error))?;
            if opening != Opening::AtRest || restless == Opening::AtRest {
                return seen;
            }
            // Somebody began to write while it was read without locks.
            journal_mode = None;
        }
        Err(ManagerError::retry(Reason::TimedOut, format!("{} changes too quickly to be read", path.display())))
    });
    match tokio::time::timeout(timeout, reading).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(error)) => Err(error::task(&error)),
        Err(_) => Err(ManagerError::retry(
            Reason::TimedOut,
            format!("cannot read {}: it did not answer in {timeout:?}", shown.display()),
        )),
    }
}

async fn read_once(path: &Path, file: FileId, opening: Opening, patience: Duration) -> Result<Seen, ManagerError> {
    let failed = |error: sqlx::Error| error::sqlite("read", path, &error);
    let options = options(path, patience);
    let options = match opening {
        Opening::AtRest => options.read_only(true).immutable(true),
        Opening::Reader => options.read_only(true),
        Opening::Recovering => options,
    };
    let mut connection = options.connect().await.map_err(failed)?;
    let contents = async {
        sqlx::raw_sql("BEGIN").execute(&mut connection).await?;
        let contents = contents(&mut connection).await?;
        sqlx::raw_sql("COMMIT").execute(&mut connection).await?;
        Ok(contents)
    }
    .await;
    // The look is over either way; a failure to close would say nothing about the file.
    let _ = connection.close().await;
    let mut seen = contents.map_err(failed)?.seen(path, file)?;
    if opening == Opening::AtRest {
        seen.settings.journal_mode = JournalMode::Wal;
    }
    match entry(path).map_err(|error| error::io("look at", path, &error))? {
        Entry::File(now) | Entry::Empty(now) if now == file => Ok(seen),
        Entry::File(_) | Entry::Empty(_) | Entry::Absent | Entry::Odd(_) => {
            Err(ManagerError::conflict(format!("{} was replaced while it was read", path.display())))
        }
    }
}

/// A connection that never creates the file, changes no pragma and logs no statement.
pub(super) fn options(path: &Path, patience: Duration) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(false)
        .busy_timeout(patience)
        .statement_cache_capacity(0)
        .disable_statement_logging()
}

/// The rows a look is made of, not yet judged.
pub(super) struct Contents {
    page_size: i64,
    user_version: i32,
    journal_mode: String,
    mark: Option<(String, String, i64)>,
}

/// Reads inside a transaction that is open.
pub(super) async fn contents(connection: &mut SqliteConnection) -> Result<Contents, sqlx::Error> {
    // The first of these that reads the file is also where SQLite says that it is none of its own.
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'plumb_mark'")
            .fetch_one(&mut *connection)
            .await?;
    let mark = if tables == 0 {
        None
    } else {
        sqlx::query_as("SELECT id, mark, foreign_keys FROM plumb_mark WHERE one = 1")
            .fetch_optional(&mut *connection)
            .await?
    };
    Ok(Contents {
        page_size: sqlx::query_scalar("PRAGMA page_size").fetch_one(&mut *connection).await?,
        user_version: sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?,
        journal_mode: sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?,
        mark,
    })
}

impl Contents {
    /// A mark that cannot be read may be anybody's: the file is then unknown, not unmarked.
    pub(super) fn seen(self, path: &Path, file: FileId) -> Result<Seen, ManagerError> {
        let Self { page_size: bytes, user_version, journal_mode, mark } = self;
        let unreadable = |what: &str| {
            ManagerError::terminal(Reason::Rejected, format!("{}: its {what} cannot be read", path.display()))
        };
        let marked = match mark {
            None => None,
            Some((id, text, foreign_keys)) => Some(MarkRow {
                id,
                mark: Mark::from_text(&text).ok_or_else(|| unreadable("plumb_mark"))?,
                foreign_keys: foreign_keys != 0,
            }),
        };
        let settings = Settings {
            journal_mode: if journal_mode == "wal" { JournalMode::Wal } else { JournalMode::Delete },
            page_size: u64::try_from(bytes).ok().and_then(page_size).ok_or_else(|| unreadable("page size"))?,
            user_version,
            foreign_keys: marked.as_ref().is_some_and(|row| row.foreign_keys),
        };
        Ok(Seen { file, settings, marked })
    }
}

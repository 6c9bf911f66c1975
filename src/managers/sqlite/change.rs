//! The five steps.
//!
//! Each holds the lock on the name from before its first look to after its last write, and judges what it finds by
//! what the step expects (R13). A change in place happens in one SQLite transaction that also writes the mark; the
//! journal mode, which no transaction can hold, is changed before it, so that a death in between leaves a value that
//! git wants with the old mark, and never a mark that speaks of a value that is not there.

use std::path::Path;

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqliteConnection};
use tracing::Instrument;

use super::file::{self, Entry, FileId, JOURNAL, MarkRow, Seen, WAL, WAL_INDEX, sibling};
use super::folder::{self, Linked, NameLock};
use super::image::{MARK_TABLE, PUT_MARK};
use super::settings::{JOURNAL_MODE, Settings, spelling};
use super::{Sqlite, error, gate};
use crate::managers::{ManagerError, Outcome};
use crate::model::{Action, Expect, JournalMode, PlatformId, Reason, Step};

/// Does `step`.
pub(super) async fn apply(manager: &Sqlite, step: &Step, platform: &PlatformId) -> Result<Outcome, ManagerError> {
    let file = manager.folder.file(&step.object_name)?;
    let job = Job { manager, step, platform, file: &file };
    let lock = job.prepare().await?;
    let done = match step.action {
        Action::Create => job.create().await,
        Action::Update | Action::Adopt => job.change().await,
        Action::Replace => job.replace().await,
        Action::Delete => job.delete().await,
    };
    drop(lock);
    done.map(|()| Outcome::default())
}

struct Job<'a> {
    manager: &'a Sqlite,
    step: &'a Step,
    platform: &'a PlatformId,
    file: &'a Path,
}

/// A connection that holds a lock on a file found as expected. The gate stays shut until it is closed.
struct Held {
    connection: SqliteConnection,
    seen: Seen,
    was: Was,
    _gate: tokio::sync::RwLockReadGuard<'static, ()>,
}

/// Whether a file had pages when it was found. One without can still get pages of any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    Empty,
    Paged,
}

/// How much of a file a change needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// To write in it beside its readers.
    Write,
    /// To take it away: nobody else may have it open with a write-ahead log.
    Whole,
}

impl Job<'_> {
    /// The folder as it has to be, the lock on the name, and no leftovers under it.
    async fn prepare(&self) -> Result<NameLock, ManagerError> {
        let (folder, name) = (self.manager.folder.clone(), self.step.object_name.clone());
        blocking(move || {
            folder.establish()?;
            folder.sweep()?;
            let lock = folder.lock(&name)?;
            folder::remove_if_there(&folder.coming(&name))?;
            folder::remove_if_there(&folder.going(&name))?;
            Ok(lock)
        })
        .await
    }

    async fn create(&self) -> Result<(), ManagerError> {
        let Expect::Absent = self.step.expect else { return Err(self.unexpected("a creation expects no file")) };
        let (image, name) = (self.image().await?, self.step.object_name.clone());
        let (folder, file) = (self.manager.folder.clone(), self.file.to_owned());
        blocking(move || {
            clear_siblings(&file)?;
            let draft = folder.coming(&name);
            let linked = folder::write_whole(&draft, &image)
                .and_then(|()| folder::link_new(&draft, &file))
                .map_err(|error| error::io("create", &file, &error));
            folder::remove_if_there(&draft)?;
            match linked? {
                Linked::Made => folder.sync().map_err(|error| error::io("create", &file, &error)),
                Linked::Taken => Err(ManagerError::conflict(format!("{} is there already", file.display()))),
            }
        })
        .await
    }

    /// Update and adoption.
    async fn change(&self) -> Result<(), ManagerError> {
        let mut held = self.hold(Hold::Write).await?;
        let mut wanted = held.seen.settings;
        let changed = self.set_changes(&mut wanted, &held);
        let written = match changed {
            Ok(()) => self.write(&mut held, wanted).await,
            Err(error) => Err(error),
        };
        close(held, written, self.file).await
    }

    fn set_changes(&self, wanted: &mut Settings, held: &Held) -> Result<(), ManagerError> {
        for change in &self.step.changes {
            wanted.set(&change.path, change.to.as_ref())?;
        }
        let now = held.seen.settings.page_size;
        if wanted.page_size == now || held.was == Was::Empty {
            return Ok(());
        }
        Err(ManagerError::terminal(
            Reason::UnsupportedByProvider,
            format!("{} has pages of {now} bytes, which only replacing it can change", self.file.display()),
        ))
    }

    /// Inside the transaction that [`Job::hold`] opened. The journal mode is already as wanted.
    async fn write(&self, held: &mut Held, wanted: Settings) -> Result<(), ManagerError> {
        let failed = |error: sqlx::Error| error::sqlite("change", self.file, &error);
        let Settings { journal_mode: _, page_size: _, user_version, foreign_keys } = wanted;
        let id = match &held.seen.marked {
            Some(row) => row.id.clone(),
            None => folder::random_id()?,
        };
        let connection = &mut held.connection;
        if held.seen.marked.is_none() && !has_mark_table(connection).await.map_err(failed)? {
            sqlx::raw_sql(MARK_TABLE).execute(&mut *connection).await.map_err(failed)?;
        }
        sqlx::query(PUT_MARK)
            .bind(id)
            .bind(self.step.mark.to_text())
            .bind(foreign_keys)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        if user_version != held.seen.settings.user_version {
            let pragma = format!("PRAGMA user_version = {user_version}");
            sqlx::raw_sql(AssertSqlSafe(pragma)).execute(&mut *connection).await.map_err(failed)?;
        }
        let call = tracing::debug_span!("file.commit", path = %self.file.display());
        sqlx::raw_sql("COMMIT").execute(connection).instrument(call).await.map_err(failed)?;
        Ok(())
    }

    /// The new file takes the name in one rename, while the old one is held whole.
    async fn replace(&self) -> Result<(), ManagerError> {
        let image = self.image().await?;
        let held = self.hold(Hold::Whole).await?;
        let (folder, name) = (self.manager.folder.clone(), self.step.object_name.clone());
        let (file, expected) = (self.file.to_owned(), held.seen.file);
        let replaced = blocking(move || {
            let draft = folder.coming(&name);
            folder::write_whole(&draft, &image).map_err(|error| error::io("write", &draft, &error))?;
            still(&file, expected)?;
            folder::remove_if_there(&sibling(&file, JOURNAL))?;
            folder::rename(&draft, &file)
                .and_then(|()| folder.sync())
                .map_err(|error| error::io("replace", &file, &error))
        })
        .await;
        close(held, replaced, self.file).await
    }

    /// The file loses its name in one rename, while it is held whole; then it goes.
    async fn delete(&self) -> Result<(), ManagerError> {
        let held = self.hold(Hold::Whole).await?;
        let (folder, name) = (self.manager.folder.clone(), self.step.object_name.clone());
        let (file, expected) = (self.file.to_owned(), held.seen.file);
        let going = folder.going(&name);
        let renamed = blocking(move || {
            still(&file, expected)?;
            folder::remove_if_there(&sibling(&file, JOURNAL))?;
            folder::rename(&file, &folder.going(&name))
                .and_then(|()| folder.sync())
                .map_err(|error| error::io("delete", &file, &error))
        })
        .await;
        close(held, renamed, self.file).await?;
        blocking(move || {
            let _call = tracing::debug_span!("file.remove", path = %going.display()).entered();
            folder::remove_if_there(&going)
        })
        .await
    }

    async fn image(&self) -> Result<Vec<u8>, ManagerError> {
        let settings = Settings::of(&self.step.desired)?;
        self.manager
            .press
            .image(&settings, &folder::random_id()?, &self.step.mark)
            .await
            .map_err(|error| error::sqlite("build", self.file, &error))
    }

    /// Connects, checks, brings the journal mode to what the change needs, and checks again under SQLite's lock.
    async fn hold(&self, hold: Hold) -> Result<Held, ManagerError> {
        let (file, was) = match file::entry(self.file).map_err(|error| error::io("look at", self.file, &error))? {
            Entry::File(file) => (file, Was::Paged),
            Entry::Empty(file) => (file, Was::Empty),
            Entry::Absent => return Err(self.unexpected("the file is gone")),
            Entry::Odd(why) => return Err(self.unexpected(why)),
        };
        let gate = gate::connection(self.file).await;
        let mut options = file::options(self.file, self.manager.timeout);
        if was == Was::Empty {
            let mut wanted = Settings::default();
            for change in &self.step.changes {
                wanted.set(&change.path, change.to.as_ref())?;
            }
            options = options.page_size(wanted.page_size);
        }
        let failed = |error: sqlx::Error| error::sqlite("open", self.file, &error);
        let mut connection = options.connect().await.map_err(failed)?;
        match self.take(&mut connection, file, was, hold).await {
            Ok(seen) => Ok(Held { connection, seen, was, _gate: gate }),
            Err(error) => {
                // Closing rolls back; the error that led here is the one to tell.
                let _ = connection.close().await;
                Err(error)
            }
        }
    }

    async fn take(
        &self,
        connection: &mut SqliteConnection,
        file: FileId,
        was: Was,
        hold: Hold,
    ) -> Result<Seen, ManagerError> {
        let failed = |error: sqlx::Error| error::sqlite("lock", self.file, &error);
        let first = self.look(connection, file, was, "BEGIN").await?;
        self.check(&first, None)?;
        sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await.map_err(failed)?;

        let mut wanted = first.settings;
        for change in &self.step.changes {
            wanted.set(&change.path, change.to.as_ref())?;
        }
        let (mode, begin) = match hold {
            Hold::Write => (wanted.journal_mode, "BEGIN IMMEDIATE"),
            // Without a write-ahead log there is nothing beside the file that could outlive it.
            Hold::Whole => (JournalMode::Delete, "BEGIN EXCLUSIVE"),
        };
        if mode != first.settings.journal_mode {
            self.set_journal_mode(connection, mode).await?;
        }
        let second = self.look(connection, file, was, begin).await?;
        self.check(&second, Some(mode))?;
        still(self.file, file)?;
        Ok(second)
    }

    async fn look(
        &self,
        connection: &mut SqliteConnection,
        file: FileId,
        was: Was,
        begin: &'static str,
    ) -> Result<Seen, ManagerError> {
        let failed = |error: sqlx::Error| error::sqlite("read", self.file, &error);
        sqlx::raw_sql(begin).execute(&mut *connection).await.map_err(failed)?;
        let mut seen = file::contents(connection).await.map_err(failed)?.seen(self.file, file)?;
        if was == Was::Empty {
            // This connection already speaks of the pages to come; the plan was made on what an empty file has.
            seen.settings.page_size = Settings::default().page_size;
        }
        Ok(seen)
    }

    async fn set_journal_mode(&self, connection: &mut SqliteConnection, mode: JournalMode) -> Result<(), ManagerError> {
        let pragma = format!("PRAGMA journal_mode = {}", spelling(mode));
        let now: String = sqlx::query_scalar(AssertSqlSafe(pragma))
            .fetch_one(connection)
            .instrument(tracing::debug_span!("file.set_journal_mode", path = %self.file.display()))
            .await
            .map_err(|error| error::sqlite("set the journal mode of", self.file, &error))?;
        if now == spelling(mode) {
            return Ok(());
        }
        Err(ManagerError::retry(
            Reason::TimedOut,
            format!("{} stays in journal mode {now}; it may be in use", self.file.display()),
        ))
    }

    /// Whether this is the file the step was planned on (R1, R13). `journal_mode` is what this very step has set.
    fn check(&self, seen: &Seen, journal_mode: Option<JournalMode>) -> Result<(), ManagerError> {
        match (&self.step.expect, &seen.marked) {
            (Expect::Absent, _) => return Err(self.unexpected("the file is there already")),
            (Expect::Marked(_), None) => return Err(self.unexpected("the file has lost its mark")),
            (Expect::Unmarked(_), Some(_)) => return Err(self.unexpected("the file has got a mark")),
            (Expect::Marked(object), Some(row)) => {
                self.check_mark(row)?;
                if row.object() != *object {
                    return Err(self.unexpected("another file has taken its place"));
                }
            }
            (Expect::Unmarked(object), None) => {
                if seen.object() != *object {
                    return Err(self.unexpected("another file has taken its place"));
                }
            }
        }
        let live = seen.settings.fields();
        for change in &self.step.changes {
            let set_by_this_step = journal_mode.is_some() && change.path.as_str() == JOURNAL_MODE;
            if !set_by_this_step && live.get(change.path.as_str()) != change.from.as_ref() {
                return Err(self.unexpected(&format!("{} has changed", change.path)));
            }
        }
        Ok(())
    }

    fn check_mark(&self, row: &MarkRow) -> Result<(), ManagerError> {
        if row.mark.platform == *self.platform && row.mark.key == self.step.key {
            return Ok(());
        }
        Err(ManagerError::Conflict {
            reason: Reason::OwnedByOther,
            message: format!(
                "{} bears the mark of {} of platform {}",
                self.file.display(),
                row.mark.key,
                row.mark.platform
            ),
        })
    }

    fn unexpected(&self, what: &str) -> ManagerError {
        ManagerError::conflict(format!("{} is not as planned: {what}", self.file.display()))
    }
}

async fn has_mark_table(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'plumb_mark'")
            .fetch_one(connection)
            .await?;
    Ok(count > 0)
}

/// Closes the connection, which rolls back what was not committed; `done` is what is told, unless only closing failed.
async fn close(held: Held, done: Result<(), ManagerError>, path: &Path) -> Result<(), ManagerError> {
    let closed = held.connection.close().await;
    done.and_then(|()| closed.map_err(|error| error::sqlite("close", path, &error)))
}

/// Fails unless the name still belongs to the file that is held.
fn still(path: &Path, expected: FileId) -> Result<(), ManagerError> {
    match file::entry(path).map_err(|error| error::io("look at", path, &error))? {
        Entry::File(file) | Entry::Empty(file) if file == expected => Ok(()),
        Entry::File(_) | Entry::Empty(_) | Entry::Absent | Entry::Odd(_) => {
            Err(ManagerError::conflict(format!("{} is not as planned: it was replaced meanwhile", path.display())))
        }
    }
}

/// A log that outlived its database would be played into a new one of that name.
fn clear_siblings(file: &Path) -> Result<(), ManagerError> {
    for ending in [WAL, JOURNAL] {
        let path = sibling(file, ending);
        // Beside a database that is there, the link will find the name taken.
        let orphan = matches!(file::entry(file), Ok(Entry::Absent));
        if orphan && file::holds_something(&path).map_err(|error| error::io("look at", &path, &error))? {
            return Err(ManagerError::terminal(
                Reason::Rejected,
                format!("{} is there without its database; put the database back, or move it away", path.display()),
            ));
        }
    }
    if matches!(file::entry(file), Ok(Entry::Absent)) {
        for ending in [WAL, JOURNAL, WAL_INDEX] {
            folder::remove_if_there(&sibling(file, ending))?;
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ManagerError> + Send + 'static,
) -> Result<T, ManagerError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error::task(&error))?
}

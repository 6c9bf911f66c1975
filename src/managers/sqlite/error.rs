//! What failures of files and of SQLite mean to a reconcile.

use std::io;
use std::path::Path;

use crate::managers::ManagerError;
use crate::model::Reason;

// Primary result codes of SQLite (https://sqlite.org/rescode.html).
const SQLITE_PERM: u32 = 3;
const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
const SQLITE_READONLY: u32 = 8;
const SQLITE_IOERR: u32 = 10;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;
const SQLITE_AUTH: u32 = 23;
const SQLITE_NOTADB: u32 = 26;

/// Extended codes carry the primary one in their low byte.
const PRIMARY: u32 = 0xff;

/// What to do about a disk that takes no more.
const FULL: &str = "if its disk is full, make room there";

/// A failure of the file system while trying to `what`.
pub(super) fn io(what: &str, path: &Path, error: &io::Error) -> ManagerError {
    let message = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ManagerError::terminal(Reason::PermissionDenied, message)
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename | io::ErrorKind::Unsupported => {
            ManagerError::terminal(Reason::Rejected, message)
        }
        io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge => {
            ManagerError::retry(Reason::ProviderUnreachable, format!("{message}; {FULL}"))
        }
        _ => ManagerError::retry(Reason::ProviderUnreachable, message),
    }
}

/// A failure of SQLite while trying to `what`.
pub(super) fn sqlite(what: &str, path: &Path, error: &sqlx::Error) -> ManagerError {
    let path = path.display();
    let code = match error {
        sqlx::Error::Database(error) => {
            error.code().and_then(|code| code.parse::<u32>().ok()).map(|code| code & PRIMARY)
        }
        _ => None,
    };
    match code {
        Some(SQLITE_BUSY | SQLITE_LOCKED) => {
            ManagerError::retry(Reason::TimedOut, format!("cannot {what} {path}: another program has it locked"))
        }
        Some(SQLITE_NOTADB) => {
            ManagerError::terminal(Reason::Rejected, format!("cannot {what} {path}: it is not an SQLite database"))
        }
        Some(SQLITE_CORRUPT) => {
            ManagerError::terminal(Reason::Rejected, format!("cannot {what} {path}: it is damaged"))
        }
        Some(SQLITE_PERM | SQLITE_READONLY | SQLITE_CANTOPEN | SQLITE_AUTH) => {
            ManagerError::terminal(Reason::PermissionDenied, format!("cannot {what} {path}: {error}"))
        }
        Some(SQLITE_IOERR | SQLITE_FULL) => {
            ManagerError::retry(Reason::ProviderUnreachable, format!("cannot {what} {path}: {error}; {FULL}"))
        }
        Some(_) => ManagerError::terminal(Reason::Rejected, format!("cannot {what} {path}: {error}")),
        None => ManagerError::retry(Reason::Internal, format!("cannot {what} {path}: {error}")),
    }
}

/// A background task that panicked or was stopped with the runtime.
pub(super) fn task(error: &tokio::task::JoinError) -> ManagerError {
    ManagerError::retry(Reason::Internal, format!("work on an SQLite file was cut short: {error}"))
}

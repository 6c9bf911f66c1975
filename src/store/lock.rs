//! The lock on a data directory: an operating system's lock on `<data-dir>/plumb.lock`, gone with the process however it
//! ends. Mirrors and an embedded database are one process's own.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::StoreError;

/// The file in the data directory that a reconciler has locked.
pub const LOCK_FILE: &str = "plumb.lock";

/// The lock, let go when dropped.
#[derive(Debug)]
pub struct DirectoryLock(File);

impl DirectoryLock {
    /// Makes the directory where it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it; [`StoreError::Directory`] when it cannot be used.
    pub fn take(data_dir: &Path) -> Result<Self, StoreError> {
        let failed = |path: &Path, source| StoreError::Directory { path: path.display().to_string(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(|source| failed(data_dir, source))?;
        let path = data_dir.join(LOCK_FILE);
        let file = private_file(&path).map_err(|source| failed(&path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: data_dir.display().to_string() }),
            Err(TryLockError::Error(source)) => Err(failed(&path, source)),
        }
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing alone would leave it locked while a child process that is just being started has the file, too. That
        // it fails is no loss: the lock goes with the process at the latest.
        let _ = self.0.unlock();
    }
}

/// Opens a file, made for its owner alone when it is missing.
pub(super) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

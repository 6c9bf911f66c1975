//! The folder: names in it, its identity, the locks, and the hidden names under which files come and go.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};

use super::error;
use crate::managers::ManagerError;
use crate::model::{ProviderIdentity, Reason};

const ENDING: &str = ".db";
/// The endings of hidden names: a file that is being built, and one that is being deleted.
const COMING: &str = ".plumb-new";
const GOING: &str = ".plumb-old";
/// Holds the folder's identity.
const ROOT: &str = ".plumb-root";
/// Holds the lock files. They stay: removing one would let two processes hold "the" lock.
const LOCKS: &str = ".plumb-locks";

/// No file system here takes longer names, and the longest ending has to fit.
const LONGEST_NAME: usize = 255 - ".db-journal".len();
/// A marker longer than this is none.
const LONGEST_ID: u64 = 256;
/// Random bytes in an id: two never meet.
const ID_BYTES: usize = 16;

/// How often a lock that another process holds is tried.
const LOCK_TRIES: Duration = Duration::from_millis(2);

/// A folder of database files. Cheap to clone.
#[derive(Clone)]
pub(super) struct Folder {
    path: PathBuf,
    timeout: Duration,
    /// The identity this process saw last. A folder that loses it or changes it is another folder.
    known: Arc<Mutex<Option<String>>>,
    /// Whether this process has cleared away what others left.
    swept: Arc<AtomicBool>,
}

/// The lock on a name; let go when dropped.
#[derive(Debug)]
pub(super) struct NameLock {
    _file: File,
}

impl Folder {
    pub(super) fn new(path: PathBuf, timeout: Duration) -> Self {
        Self { path, timeout, known: Arc::default(), swept: Arc::default() }
    }

    /// The path of the file of that name, as text.
    pub(super) fn display(&self, name: &str) -> String {
        self.path.join(format!("{name}{ENDING}")).display().to_string()
    }

    /// The path of the file of that name.
    pub(super) fn file(&self, name: &str) -> Result<PathBuf, ManagerError> {
        let fits = !name.is_empty()
            && name.len() <= LONGEST_NAME
            && !name.starts_with('.')
            && !name.contains(['/', '\\'])
            && !name.chars().any(char::is_control);
        if fits {
            Ok(self.path.join(format!("{name}{ENDING}")))
        } else {
            Err(ManagerError::terminal(Reason::Rejected, format!("{name:?} cannot be the name of a database file")))
        }
    }

    /// Where the file of that name is built.
    pub(super) fn coming(&self, name: &str) -> PathBuf {
        self.path.join(hidden(name, COMING))
    }

    /// Where the file of that name goes to be deleted.
    pub(super) fn going(&self, name: &str) -> PathBuf {
        self.path.join(hidden(name, GOING))
    }

    /// Fails when the folder is there and cannot be looked into: then nothing can be said of any file.
    pub(super) fn readable(&self) -> Result<(), ManagerError> {
        match fs::read_dir(&self.path) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error::io("look into", &self.path, &error)),
        }
    }

    /// The names of all database files.
    pub(super) fn names(&self) -> Result<Vec<String>, ManagerError> {
        let failed = |error: io::Error| error::io("look into", &self.path, &error);
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(ENDING))
                && self.file(name).is_ok()
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Who the folder is, if anything establishes it.
    pub(super) fn identity(&self) -> Result<Option<ProviderIdentity>, ManagerError> {
        let id = self.marker()?;
        if let Some(id) = &id {
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.clone());
        }
        Ok(id.map(ProviderIdentity))
    }

    fn marker(&self) -> Result<Option<String>, ManagerError> {
        let path = self.path.join(ROOT);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error::io("read", &path, &error)),
        };
        let mut text = String::new();
        file.take(LONGEST_ID + 1).read_to_string(&mut text).map_err(|error| error::io("read", &path, &error))?;
        let id = text.trim();
        if id.is_empty() || text.len() as u64 > LONGEST_ID || id.contains(char::is_whitespace) {
            return Err(ManagerError::terminal(
                Reason::Rejected,
                format!("{} does not hold the id of a folder; put back the one that was there", path.display()),
            ));
        }
        Ok(Some(id.to_owned()))
    }

    /// Makes the folder and its marker where they are not there yet. Refuses a folder that is not the one this process knows: its disk may have gone.
    pub(super) fn establish(&self) -> Result<(), ManagerError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.marker()?, known.as_ref()) {
            (Some(id), Some(before)) if id == *before => Ok(()),
            (Some(id), None) => {
                *known = Some(id);
                Ok(())
            }
            (found, Some(before)) => Err(ManagerError::terminal(
                Reason::ProviderIdentityChanged,
                format!(
                    "the folder {} was {before} and is now {}; is its disk mounted?",
                    self.path.display(),
                    found.as_deref().unwrap_or("without a marker")
                ),
            )),
            (None, None) => {
                fs::create_dir_all(&self.path).map_err(|error| error::io("make", &self.path, &error))?;
                let root = self.path.join(ROOT);
                let draft = self.path.join(hidden(&random_id()?, COMING));
                let made = write_whole(&draft, format!("{}\n", random_id()?).as_bytes())
                    .and_then(|()| link_new(&draft, &root))
                    .and_then(|_| self.sync());
                // The link, or somebody else's, is there; the draft goes either way.
                let _ = fs::remove_file(&draft);
                made.map_err(|error| error::io("write", &root, &error))?;
                *known = self.marker()?;
                Ok(())
            }
        }
    }

    /// Removes hidden files whose makers are gone, once a process, from the folder that it knows and from no other.
    pub(super) fn sweep(&self) -> Result<(), ManagerError> {
        let is_known = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.is_some() && self.marker()? == *known
        };
        if !is_known || self.swept.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut all_swept = true;
        let failed = |error: io::Error| error::io("look into", &self.path, &error);
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file_name = entry.file_name();
            let leftover = file_name.to_str().and_then(|name| {
                let name = name.strip_prefix('.')?;
                name.strip_suffix(COMING).or_else(|| name.strip_suffix(GOING))
            });
            let Some(name) = leftover else { continue };
            // Somebody who holds the lock is at work on it.
            match self.try_lock(name)? {
                Some(_lock) => remove_if_there(&entry.path())?,
                None => all_swept = false,
            }
        }
        self.swept.store(all_swept, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for the lock on a name, at most the endpoint's timeout. Blocks the thread.
    pub(super) fn lock(&self, name: &str) -> Result<NameLock, ManagerError> {
        let start = Instant::now();
        loop {
            if let Some(lock) = self.try_lock(name)? {
                return Ok(lock);
            }
            if start.elapsed() >= self.timeout {
                let message = format!("{} is being worked on by another process", self.display(name));
                return Err(ManagerError::locked(message));
            }
            std::thread::sleep(LOCK_TRIES);
        }
    }

    /// Names share 256 lock files, so that a folder of many databases holds few of them.
    fn try_lock(&self, name: &str) -> Result<Option<NameLock>, ManagerError> {
        let locks = self.path.join(LOCKS);
        let path = locks.join(hex::encode(&Sha256::digest(name.as_bytes())[..1]));
        let failed = |error: io::Error| error::io("lock", &path, &error);
        let open = || OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&locks).and_then(|()| open()).map_err(failed)?
            }
            opened => opened.map_err(failed)?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(NameLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Makes what was linked, renamed or removed in the folder outlive a loss of power.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

fn hidden(name: &str, ending: &str) -> String {
    format!(".{name}{ending}")
}

/// An id like no other.
pub(super) fn random_id() -> Result<String, ManagerError> {
    let mut bytes = [0; ID_BYTES];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| {
        ManagerError::retry(Reason::Internal, format!("the operating system gave no random numbers: {error}"))
    })?;
    Ok(hex::encode(bytes))
}

/// Writes a file that must not be there yet, to the disk.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let _call = tracing::debug_span!("file.write", path = %path.display()).entered();
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Whether a name was free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linked {
    Made,
    Taken,
}

/// Gives `from` the name `to` as well, if that name is free. Never overwrites.
pub(super) fn link_new(from: &Path, to: &Path) -> io::Result<Linked> {
    let _call = tracing::debug_span!("file.link", path = %to.display()).entered();
    match fs::hard_link(from, to) {
        Ok(()) => Ok(Linked::Made),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Linked::Taken),
        Err(error) => Err(error),
    }
}

/// Gives `from` the name `to` in place of its own, whatever was there.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let _call = tracing::debug_span!("file.rename", path = %to.display()).entered();
    fs::rename(from, to)
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), ManagerError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error::io("remove", path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &Path) -> Folder {
        Folder::new(path.to_owned(), Duration::from_millis(50))
    }

    #[test]
    fn a_name_that_would_leave_the_folder_is_refused() {
        let folder = folder(Path::new("/srv/databases"));
        for name in ["", ".", "..", "../etc", "a/b", "/etc/passwd", ".hidden", "nul\0", "line\nbreak", &"x".repeat(250)]
        {
            assert_eq!(folder.file(name).unwrap_err().reason(), Reason::Rejected, "{name:?}");
        }
        for name in ["a", "a b", "a'b\"c", "%2e%2e", "ü?x=1#y", "--help"] {
            assert!(folder.file(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn looking_for_the_identity_writes_nothing_and_the_first_apply_makes_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("databases");
        assert_eq!(folder(&path).identity().unwrap(), None);
        assert!(!path.exists());
        let first = folder(&path);
        first.establish().unwrap();
        let identity = first.identity().unwrap().expect("made");
        let second = folder(&path);
        second.establish().unwrap();
        assert_eq!(second.identity().unwrap(), Some(identity));
    }

    #[test]
    fn a_folder_whose_marker_is_gone_has_no_identity_and_is_not_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let folder = folder(directory.path());
        folder.establish().unwrap();
        fs::remove_file(directory.path().join(ROOT)).unwrap();
        assert_eq!(folder.identity().unwrap(), None);
        assert_eq!(folder.establish().unwrap_err().reason(), Reason::ProviderIdentityChanged);
        assert!(!directory.path().join(ROOT).exists());
    }

    #[test]
    fn a_marker_that_holds_no_id_is_an_error_and_not_a_new_identity() {
        let directory = tempfile::tempdir().unwrap();
        for text in ["", "two words", &"x".repeat(400)] {
            fs::write(directory.path().join(ROOT), text).unwrap();
            assert_eq!(folder(directory.path()).identity().unwrap_err().reason(), Reason::Rejected, "{text:?}");
        }
    }

    #[test]
    fn the_lock_on_a_name_is_held_by_one_and_waited_for_no_longer_than_the_timeout() {
        let directory = tempfile::tempdir().unwrap();
        let folder = folder(directory.path());
        let held = folder.lock("orders").unwrap();
        assert_eq!(folder.lock("orders").unwrap_err().reason(), Reason::Locked);
        drop(held);
        folder.lock("orders").unwrap();
    }

    #[test]
    fn what_nobody_is_at_work_on_is_swept_from_a_folder_that_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let busy = folder(directory.path());
        let _held = busy.lock("busy").unwrap();
        for name in ["dead", "busy"] {
            fs::write(busy.coming(name), "half").unwrap();
            fs::write(busy.going(name), "half").unwrap();
        }
        fs::write(directory.path().join(".somebody-elses"), "").unwrap();
        let fresh = folder(directory.path());
        fresh.sweep().unwrap();
        assert!(busy.coming("dead").exists(), "nobody knows yet whose folder it is");
        fresh.establish().unwrap();
        fresh.sweep().unwrap();
        assert!(!busy.coming("dead").exists() && !busy.going("dead").exists());
        assert!(busy.coming("busy").exists() && busy.going("busy").exists());
        assert!(directory.path().join(".somebody-elses").exists());
    }
}

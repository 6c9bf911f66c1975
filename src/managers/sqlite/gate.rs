//! Keeps plain reads of a database file apart from SQLite connections to it, within this process.
//!
//! POSIX drops all locks a process holds on a file as soon as it closes *any* handle to it. SQLite knows this of its
//! own handles; a plain read beside them would silently unlock a transaction. So a plain read happens only while this
//! process has no connection to a file of that name, and a connection waits for the microseconds of a plain read.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Enough that two files being worked on at once seldom meet; a meeting costs a slower look, no more.
const GATES: usize = 1024;

static GATE: [RwLock<()>; GATES] = [const { RwLock::const_new(()) }; GATES];

/// By the last part of the path: two spellings of one folder meet at one gate.
fn gate(path: &Path) -> &'static RwLock<()> {
    let mut hasher = DefaultHasher::new();
    path.file_name().hash(&mut hasher);
    &GATE[usize::try_from(hasher.finish() % (GATES as u64)).unwrap_or(0)]
}

/// Another plain read through the same gate is over before this many tries.
const TRIES: usize = 8;

/// Leave to read `path` without SQLite, if nothing in this process has it open.
pub(super) fn plain(path: &Path) -> Option<RwLockWriteGuard<'static, ()>> {
    (0..TRIES).find_map(|_| gate(path).try_write().inspect_err(|_| std::thread::yield_now()).ok())
}

/// Leave to connect to `path`; to be held until the connection is closed.
pub(super) async fn connection(path: &Path) -> RwLockReadGuard<'static, ()> {
    gate(path).read().await
}

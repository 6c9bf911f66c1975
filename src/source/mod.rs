//! Where desired state comes from: git repositories, mirrored bare with gix, and working trees on disk.
//!
//! What always holds:
//! - A decision rests on one advertisement: [`Mirror::fetch`] gives refs and has the objects of exactly those refs
//!   (R14). A drift branch that seems to have vanished is looked for a second time, so that a merge that happened just
//!   before is in the same advertisement.
//! - What could not be read is said, never passed over: a [`Tree`] with anything in `refused` must not prune (R9).
//! - A mirror is a cache. Half-written or damaged, it is made again from the remote.
//! - Nothing runs that a URL names: remote helpers are refused, hooks are off, and no program ever asks at a terminal.
//! - Every conversation with a remote ends: there is a limit to each, and what is late is killed.
//! - Pushes move one branch, from where it was expected to be, or not at all.
//! - Each call of a remote, and each write to a mirror, is one span of its own, at the level of debug: `git.advertise`,
//!   `git.fetch` (in it each `git.download`, then `git.hold`, and `git.pack` where there is much), `git.make`, `git.commit`,
//!   `git.merge` and `git.push`. So a line of the log says where it comes from, and whoever listens hears of a call before
//!   it is made and after it was. They name the remote without its secrets.
//!
//! All calls block; the engine runs them on threads of their own. Everything here is `Send + Sync`.

mod codes;
mod edit;
mod error;
mod local;
mod merge;
mod mirror;
mod network;
mod objects;
mod process;
mod push;
mod remote;
mod walk;
mod watch;
mod working_tree;

pub use codes::*;
pub use edit::{Author, FileEdit};
pub use error::SourceError;
pub use merge::Side;
pub use mirror::{Mirror, Refs};
pub use objects::{CommitInfo, FileEntry, MAX_COMMITS, Tree};
pub use process::git_program;
pub use remote::Remote;
pub use walk::{MAX_FILE_BYTES, MAX_MANIFESTS, Wanted};
pub use watch::{DEBOUNCE, Watcher};
pub use working_tree::{WorkingFiles, WorkingTree};

/// Asked for as a branch, it means the branch that the remote itself has checked out.
pub const HEAD: &str = "HEAD";

/// What the names of all drift branches begin with.
pub const DRIFT_PREFIX: &str = "plumb/drift/";

/// Chooses the cryptography of every TLS connection of the process. Harmless when it was chosen before.
pub fn init_tls() {
    // The error means that somebody chose one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

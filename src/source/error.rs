//! Why a repository could not be read or written, and what to do next.

use std::io;
use std::path::PathBuf;

use crate::model::Reason;

/// Whether it failed because there is no room for what it writes.
pub(super) fn is_disk_full(error: &gix::Error) -> bool {
    let mut kinds = error.iter_errors().filter_map(|cause| cause.downcast_ref().map(io::Error::kind));
    kinds.any(|kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge))
}

/// What to do about a mirror that cannot be used.
fn remedy(error: &gix::Error) -> &'static str {
    if is_disk_full(error) {
        "its disk is full: make room there, then it is tried again"
    } else {
        "delete it, it is made again"
    }
}

/// Why `source` could not. Messages never hold a secret: what other programs said is redacted before it gets here.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The URL is of a form that is not used.
    #[error("the repository URL {url} is refused: {why}; {help}")]
    RefusedUrl { url: String, why: String, help: String },
    /// The name cannot be a branch.
    #[error("{branch:?} cannot be the name of a branch; check the `branch` setting")]
    RefusedBranch { branch: String },
    /// There is no repository at the local path.
    #[error("there is no git repository at {path}; check the path, or put the repository back")]
    NoRepository {
        path: String,
        #[source]
        source: Box<gix::Error>,
    },
    /// The refs of a local repository could not be read whole.
    #[error("the refs of {remote} cannot be read; run `git fsck` there")]
    Refs {
        remote: String,
        #[source]
        source: Box<gix::Error>,
    },
    /// The refs of a local repository changed all the time while they were read.
    #[error("the refs of {remote} changed while they were read; it is tried again")]
    RefsMoving { remote: String },
    /// The remote did not answer, or not as git does.
    #[error("{remote} cannot be reached: {why}; check the address and the network")]
    Unreachable { remote: String, why: String },
    /// The remote's certificate was made by nobody that is trusted here, or for another name or time.
    #[error(
        "the certificate of {remote} is not trusted: {why}; add its authority to those of this machine, or name a file \
         of authorities in SSL_CERT_FILE"
    )]
    Untrusted { remote: String, why: String },
    /// Nobody here has said that this is the host, or another was said to be.
    #[error(
        "the host key of {remote} is not known here, or another one is: {why}; compare it with what the host's operator \
         says, and add it to known_hosts"
    )]
    UnknownHost { remote: String, why: String },
    /// The remote wants other credentials.
    #[error("{remote} refused the login: {why}; check the `credentials` of the repository, or its ssh key")]
    Unauthorized { remote: String, why: String },
    /// The remote was too slow.
    #[error("{remote} did not finish within {seconds} s; it is tried again")]
    TimedOut { remote: String, seconds: u64 },
    /// Its host did not answer lately, so it was not asked.
    #[error(
        "{host} let others wait {failures} times in a row; this repository is asked for again in {seconds} s or more"
    )]
    Silent { host: String, failures: u32, seconds: u64 },
    /// What the remote advertised could not be had, even from an empty mirror.
    #[error("{remote} advertised {commit} but did not send it whole; run `git fsck` there")]
    Incomplete { remote: String, commit: String },
    /// The mirror's files could not be made or changed.
    #[error(
        "the mirror {path} cannot be written; check the permissions of the data directory, and make room if its disk is full"
    )]
    MirrorFiles {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The mirror is no usable repository.
    #[error("the mirror {path} cannot be used; {}", remedy(source))]
    Mirror {
        path: PathBuf,
        #[source]
        source: Box<gix::Error>,
    },
    /// An object of the mirror cannot be read.
    #[error("the object {id} in the mirror {path} cannot be read; delete the mirror, it is made again")]
    Object {
        path: PathBuf,
        id: String,
        #[source]
        source: Box<gix::Error>,
    },
    /// No such commit, or branch, in the mirror.
    #[error("{rev} is not in the mirror of {remote}; fetch it, or check the name")]
    NoSuchCommit { remote: String, rev: String },
    /// A commit could not be made of the edits.
    #[error("{path} cannot be edited in git: {why}")]
    Edit { path: String, why: String },
    /// The edits change nothing.
    #[error("the edits leave the tree of {base} as it is; there is nothing to commit")]
    EmptyEdit { base: String },
    /// A branch cannot be looked at as it would be once merged.
    #[error("{theirs} does not merge into {ours}: {why}; bring it up to date with {ours} first")]
    Unmergeable { theirs: String, ours: String, why: String },
    /// The program that pushes could not be started.
    #[error("the program `{program}` could not be started; install it, and check PATH")]
    Program {
        program: String,
        #[source]
        source: io::Error,
    },
    /// The branch is not where it was expected; somebody else moved it.
    #[error(
        "the branch {branch} of {remote} is not where it was expected; somebody else moved it, so look at it again"
    )]
    Stale { remote: String, branch: String },
    /// The remote did not take the push.
    #[error("{remote} refused the push to {branch}: {why}; let Plumb's login write to `plumb/drift/*` there")]
    Refused { remote: String, branch: String, why: String },
    /// A file or folder of a working tree.
    #[error("{path} cannot be read; check that it is there and readable")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A folder cannot be followed.
    #[error("{path} cannot be watched; on Linux raise fs.inotify.max_user_watches if there are many folders")]
    Watch {
        path: PathBuf,
        #[source]
        source: notify::Error,
    },
}

impl SourceError {
    /// The reason that conditions and statuses show.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unauthorized { .. } => Reason::AuthenticationFailed,
            Self::TimedOut { .. } => Reason::TimedOut,
            Self::Edit { .. } | Self::EmptyEdit { .. } => Reason::NotExpressible,
            Self::Stale { .. } | Self::Refused { .. } => Reason::ProposalFailed,
            Self::RefusedUrl { .. }
            | Self::RefusedBranch { .. }
            | Self::NoRepository { .. }
            | Self::Refs { .. }
            | Self::RefsMoving { .. }
            | Self::Unreachable { .. }
            | Self::Silent { .. }
            | Self::Untrusted { .. }
            | Self::UnknownHost { .. }
            | Self::Incomplete { .. }
            | Self::MirrorFiles { .. }
            | Self::Mirror { .. }
            | Self::Object { .. }
            | Self::NoSuchCommit { .. }
            | Self::Unmergeable { .. }
            | Self::Program { .. }
            | Self::Read { .. }
            | Self::Watch { .. } => Reason::SourceUnavailable,
        }
    }

    /// Whether the same call may work later without a person changing something.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::RefsMoving { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::NoRepository { .. }
            | Self::Silent { .. }
            | Self::Stale { .. } => true,
            Self::RefusedUrl { .. }
            | Self::RefusedBranch { .. }
            | Self::Refs { .. }
            | Self::Untrusted { .. }
            | Self::UnknownHost { .. }
            | Self::Unauthorized { .. }
            | Self::Incomplete { .. }
            | Self::MirrorFiles { .. }
            | Self::Mirror { .. }
            | Self::Object { .. }
            | Self::NoSuchCommit { .. }
            | Self::Edit { .. }
            | Self::EmptyEdit { .. }
            | Self::Unmergeable { .. }
            | Self::Program { .. }
            | Self::Refused { .. }
            | Self::Read { .. }
            | Self::Watch { .. } => false,
        }
    }
}

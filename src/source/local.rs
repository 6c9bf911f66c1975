//! The refs of a repository on this machine, read without starting a program.
//!
//! The drift branches are read before the head: a branch that was merged and then deleted is then never seen as
//! deleted with the head from before the merge (R14).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::error::SourceError;
use super::mirror::Refs;
use super::{DRIFT_PREFIX, HEAD};

/// How often refs that are being packed meanwhile are read again.
const MAX_READINGS: usize = 20;

/// What was found at a local path.
pub(super) enum Reading {
    Refs(Refs),
    /// The refs are kept in a form that only git itself reads.
    NeedsGit,
}

/// Reads the head of `branch` and the drift branches.
pub(super) fn refs(path: &Path, branch: &str) -> Result<Reading, SourceError> {
    let shown = || path.display().to_string();
    for _ in 0..MAX_READINGS {
        // Opened anew each time, so that no packed refs are remembered.
        let repo = open(path)?;
        let packed = repo.common_dir().join("packed-refs");
        let before = stamp(&packed);
        if repo.config_snapshot().string("extensions.refStorage").is_some_and(|form| form != "files") {
            return Ok(Reading::NeedsGit);
        }
        let refs =
            read(&repo, branch).map_err(|source| SourceError::Refs { remote: shown(), source: Box::new(source) })?;
        // Packing writes the packed file before it removes the loose one, so an unchanged file means that none was
        // missed between the two.
        if stamp(&packed) == before {
            return Ok(Reading::Refs(refs));
        }
    }
    Err(SourceError::RefsMoving { remote: shown() })
}

fn open(path: &Path) -> Result<gix::Repository, SourceError> {
    gix::open_opts(path, gix::open::Options::isolated()).map_err(|source| {
        let (shown, source) = (path.display().to_string(), Box::new(source));
        if path.join(".git").exists() || path.join("HEAD").exists() {
            SourceError::Refs { remote: shown, source }
        } else {
            SourceError::NoRepository { path: shown, source }
        }
    })
}

fn read(repo: &gix::Repository, branch: &str) -> Result<Refs, gix::Error> {
    let prefix = format!("refs/heads/{DRIFT_PREFIX}");
    let mut drift = BTreeMap::new();
    let platform = repo.references()?;
    for reference in platform.prefixed(prefix.as_bytes())? {
        let mut reference = reference?;
        let name = reference.name().shorten().to_string();
        drift.insert(name, reference.follow_to_object()?.to_string());
    }
    if branch == HEAD {
        let head = repo.head()?;
        let branch = head.referent_name().map(|name| name.shorten().to_string());
        return Ok(Refs { head: head.id().map(|id| id.to_string()), branch, drift });
    }
    let head = match repo.try_find_reference(format!("refs/heads/{branch}").as_str())? {
        None => None,
        // A branch that only names another one, which is not there, has no head.
        Some(reference) if reference.follow().is_some_and(|next| next.is_err()) => None,
        Some(mut reference) => Some(reference.follow_to_object()?.to_string()),
    };
    Ok(Refs { head, branch: Some(branch.to_owned()), drift })
}

/// What changes whenever a file is replaced.
#[cfg(unix)]
fn stamp(path: &Path) -> Option<(u64, i64, i64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()))
}

#[cfg(not(unix))]
fn stamp(path: &Path) -> Option<(std::time::SystemTime, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

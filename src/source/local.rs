//! A repository on this machine, read without starting a program: its refs, and a few new objects.
//!
//! The drift branches are read before the head: a branch that was merged and then deleted is then never seen as
//! deleted with the head from before the merge (R14).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use gix::ObjectId;
use gix::objs::tree::EntryKind;
use gix::objs::{Exists as _, Kind, Write as _};

use super::error::SourceError;
use super::mirror::Refs;
use super::{DRIFT_PREFIX, HEAD};

/// How often refs that are being packed meanwhile are read again.
const MAX_READINGS: usize = 20;

/// No more objects than this are copied one by one; a pack is faster for more.
const MAX_COPIED: usize = 500;
/// No larger objects are copied through memory.
const MAX_COPIED_BYTES: u64 = 4 * 1024 * 1024;

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

/// Whether the objects are there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    All,
    /// Nothing that counts was copied; git has to bring a pack.
    NeedsPack,
}

/// Copies the commits `ids` of the repository at `path`, and all that the mirror lacks of them, when it is little.
pub(super) fn copy(path: &Path, mirror: &gix::Repository, ids: &BTreeSet<String>) -> Copied {
    let Ok(from) = open(path) else { return Copied::NeedsPack };
    let mut to = mirror.clone();
    // Most objects that are asked for are missing; looking for new packs each time would take all the time.
    to.objects.refresh_never();
    if from.is_shallow().unwrap_or(true) {
        return Copied::NeedsPack;
    }
    let mut copying = Copying { from: &from, to: &to, seen: BTreeSet::new() };
    match copying.run(ids) {
        Some(()) => Copied::All,
        None => Copied::NeedsPack,
    }
}

struct Copying<'a> {
    from: &'a gix::Repository,
    to: &'a gix::Repository,
    seen: BTreeSet<ObjectId>,
}

impl Copying<'_> {
    /// `None` as soon as anything is not as hoped. What is written is always written before what names it, so that an
    /// object that is in the mirror is there with all it names.
    fn run(&mut self, ids: &BTreeSet<String>) -> Option<()> {
        let mut left: Vec<ObjectId> = Vec::new();
        for id in ids {
            left.push(ObjectId::from_hex(id.as_bytes()).ok()?);
        }
        let mut commits = Vec::new();
        while let Some(id) = left.pop() {
            if !self.is_new(id)? {
                continue;
            }
            let commit = self.from.find_commit(id).ok()?;
            left.extend(commit.parent_ids().map(gix::Id::detach));
            commits.push(id);
        }
        for id in &commits {
            let tree = self.from.find_commit(*id).ok()?.tree_id().ok()?.detach();
            self.tree(tree)?;
        }
        // A commit may be reached by a short way before its parent is by a long one, so order alone does not do.
        let mut written = BTreeSet::new();
        while written.len() < commits.len() {
            let before = written.len();
            for id in &commits {
                let parents = self.from.find_commit(*id).ok()?.parent_ids().map(gix::Id::detach).collect::<Vec<_>>();
                let ready = parents.iter().all(|parent| !commits.contains(parent) || written.contains(parent));
                if ready && !written.contains(id) {
                    self.write(*id, Kind::Commit)?;
                    written.insert(*id);
                }
            }
            if written.len() == before {
                return None;
            }
        }
        Some(())
    }

    fn tree(&mut self, id: ObjectId) -> Option<()> {
        if !self.is_new(id)? {
            return Some(());
        }
        let tree = self.from.find_tree(id).ok()?;
        for entry in tree.iter() {
            let entry = entry.ok()?;
            let id = entry.object_id();
            match entry.mode().kind() {
                EntryKind::Tree => self.tree(id)?,
                EntryKind::Blob | EntryKind::BlobExecutable | EntryKind::Link => {
                    if self.is_new(id)? {
                        self.write(id, Kind::Blob)?;
                    }
                }
                EntryKind::Commit => {}
            }
        }
        self.write(id, Kind::Tree)
    }

    /// Whether the object is neither in the mirror nor already on its way there; `None` when there are too many.
    fn is_new(&mut self, id: ObjectId) -> Option<bool> {
        // The library always says that it has the empty tree; the files have to have it too.
        let new = !self.to.objects.exists(&id) && self.seen.insert(id);
        (self.seen.len() <= MAX_COPIED).then_some(new)
    }

    fn write(&self, id: ObjectId, kind: Kind) -> Option<()> {
        if self.from.find_header(id).ok()?.size() > MAX_COPIED_BYTES {
            return None;
        }
        let object = self.from.find_object(id).ok()?;
        let written = self.to.objects.write_buf(kind, &object.data).ok()?;
        (object.kind == kind && written == id).then_some(())
    }
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

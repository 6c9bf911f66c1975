//! Reads commits, trees and files of the mirror.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, Utc};
use gix::ObjectId;
use gix::bstr::ByteSlice;
use gix::diff::tree::recorder::Change;
use gix::objs::TreeRefIter;
use gix::objs::tree::EntryKind as GitKind;
use gix::traverse::commit::simple::CommitTimeOrder;
use gix::traverse::commit::topo::Builder as Topo;

use super::error::SourceError;
use super::mirror::Mirror;
use super::walk::{Entry, EntryKind, Folders, MAX_FILE_BYTES, Trouble, Wanted, walk};
use crate::model::{Diagnostic, ObjectHex};

/// No more commits than this are listed between two.
pub const MAX_COMMITS: usize = 10_000;

/// A file of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    pub blob: ObjectHex,
    pub size: u64,
}

/// The manifests of a commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// By path from the root of the repository, with `/`.
    pub files: BTreeMap<String, FileEntry>,
    pub findings: Vec<Diagnostic>,
    /// What could not be read; while there is any, nothing may be pruned (R9).
    pub refused: BTreeSet<String>,
    /// Whether names alone decided what is read, so that [`Mirror::edits`] can tell what a later commit changes.
    pub plain: bool,
}

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    pub id: ObjectHex,
    /// The first one.
    pub parent: Option<ObjectHex>,
    /// `Name <address>`.
    pub author: String,
    /// Who made the commit as it is now, in the same form.
    pub committer: String,
    /// When it was committed.
    pub time: DateTime<Utc>,
    pub message: String,
    /// The trailers at the end of the message, in order.
    pub trailers: Vec<(String, String)>,
}

impl Mirror {
    /// The manifests of `commit` below the folder `path` (`.` is the root).
    ///
    /// # Errors
    /// When the commit is not in the mirror, or an object cannot be read.
    pub fn tree(&self, commit: &str, path: &str, wanted: Wanted) -> Result<Tree, SourceError> {
        let repo = self.reader();
        let id = self.commit_id(&repo, commit)?;
        let root = repo.find_commit(id).and_then(|commit| commit.tree_id().map(gix::Id::detach));
        let root = root.map_err(|source| self.unreadable(commit, source))?;
        let known = Arc::clone(&self.sizes.lock().unwrap_or_else(PoisonError::into_inner));
        let walked = walk(&Committed { mirror: self, repo: &repo, root, known: &known }, path, wanted)?;
        let sizes: HashMap<ObjectId, u64> = walked.files.values().copied().collect();
        *self.sizes.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(sizes);
        let entry =
            |(path, (blob, size)): (String, (ObjectId, u64))| (path, FileEntry { blob: blob.to_string(), size });
        Ok(Tree {
            files: walked.files.into_iter().map(entry).collect(),
            findings: walked.findings,
            refused: walked.refused,
            plain: walked.plain,
        })
    }

    /// The manifests that were edited in place from one commit to another, where nothing else happened: no file came
    /// or went. `None` when more happened than that, or may have; then the tree has to be read whole. The tree of
    /// `from` has to be plain.
    ///
    /// # Errors
    /// When a commit is not in the mirror, or an object cannot be read.
    pub fn edits(
        &self,
        from: &str,
        to: &str,
        path: &str,
        wanted: Wanted,
    ) -> Result<Option<BTreeMap<String, ObjectHex>>, SourceError> {
        let repo = self.reader();
        let mut edits = BTreeMap::new();
        for change in self.tree_changes(&repo, from, to)? {
            let Change::Modification { previous_entry_mode, entry_mode, oid, path: file, .. } = change else {
                return Ok(None);
            };
            match (previous_entry_mode.kind(), entry_mode.kind()) {
                (GitKind::Tree, GitKind::Tree) => continue,
                (GitKind::Blob | GitKind::BlobExecutable, GitKind::Blob | GitKind::BlobExecutable) => {}
                _ => return Ok(None),
            }
            match wanted.takes_edit(path, &file) {
                Some(true) => {}
                Some(false) => continue,
                None => return Ok(None),
            }
            let size = repo.find_header(oid).map_err(|source| self.unreadable(&oid.to_string(), source))?.size();
            if size > MAX_FILE_BYTES {
                return Ok(None);
            }
            edits.insert(file.to_str_lossy().into_owned(), oid.to_string());
        }
        Ok(Some(edits))
    }

    /// The manifests below the folder `path` that `commit` wrote: none of its parents has the same there. All that it has,
    /// where more than names decides which files are manifests, and that changed.
    ///
    /// # Errors
    /// When the commit or a parent of it is not in the mirror, or an object cannot be read.
    pub fn written(
        &self,
        commit: &str,
        path: &str,
        wanted: Wanted,
    ) -> Result<BTreeMap<String, ObjectHex>, SourceError> {
        let repo = self.reader();
        let id = self.commit_id(&repo, commit)?;
        let read = repo.find_commit(id).map_err(|source| self.unreadable(commit, source))?;
        let mut written: Option<BTreeSet<String>> = None;
        for parent in read.parent_ids() {
            if let Some(since) = self.written_since(&repo, &parent.to_string(), commit, path, wanted)? {
                written = Some(match written {
                    Some(before) => &before & &since,
                    None => since,
                });
            }
        }
        if written.as_ref().is_some_and(BTreeSet::is_empty) {
            return Ok(BTreeMap::new());
        }
        // What an ignore file keeps out is no manifest.
        let files = self.tree(commit, path, wanted)?.files.into_iter();
        let is_written = |file: &String| written.as_ref().is_none_or(|written| written.contains(file));
        Ok(files.filter(|(file, _)| is_written(file)).map(|(file, entry)| (file, entry.blob)).collect())
    }

    /// The names of manifests that are there since `parent`, or have been edited; `None` when names alone cannot tell.
    fn written_since(
        &self,
        repo: &gix::Repository,
        parent: &str,
        commit: &str,
        path: &str,
        wanted: Wanted,
    ) -> Result<Option<BTreeSet<String>>, SourceError> {
        let mut written = BTreeSet::new();
        for change in self.tree_changes(repo, parent, commit)? {
            let (mode, file, is_there) = match change {
                Change::Addition { entry_mode, path, .. } | Change::Modification { entry_mode, path, .. } => {
                    (entry_mode, path, true)
                }
                Change::Deletion { entry_mode, path, .. } => (entry_mode, path, false),
            };
            match (wanted.takes_edit(path, &file), mode.kind()) {
                (None, _) | (Some(true), GitKind::Link) => return Ok(None),
                (Some(true), GitKind::Blob | GitKind::BlobExecutable) if is_there => {
                    written.insert(file.to_str_lossy().into_owned());
                }
                (Some(true | false), _) => {}
            }
        }
        Ok(Some(written))
    }

    fn tree_changes(&self, repo: &gix::Repository, from: &str, to: &str) -> Result<Vec<Change>, SourceError> {
        let tree = |rev: &str| {
            let id = self.commit_id(repo, rev)?;
            repo.find_commit(id).and_then(|commit| commit.tree()).map_err(|source| self.unreadable(rev, source))
        };
        let (before, after) = (tree(from)?, tree(to)?);
        let mut recorder = gix::diff::tree::Recorder::default();
        let left = TreeRefIter::from_bytes(&before.data, repo.object_hash());
        let right = TreeRefIter::from_bytes(&after.data, repo.object_hash());
        gix::diff::tree(left, right, gix::diff::tree::State::default(), &repo.objects, &mut recorder)
            .map_err(|source| self.unreadable(to, gix::Error::from_error(source)))?;
        Ok(recorder.records)
    }

    /// The content of a file.
    ///
    /// # Errors
    /// When it is not in the mirror or larger than [`MAX_FILE_BYTES`].
    pub fn blob(&self, id: &str) -> Result<Vec<u8>, SourceError> {
        self.read_blob(&self.forgetful(), id)
    }

    /// The contents of many files, in order. Much faster than one by one.
    ///
    /// # Errors
    /// When one is not in the mirror or larger than [`MAX_FILE_BYTES`].
    pub fn blobs<S: AsRef<str>>(&self, ids: &[S]) -> Result<Vec<Vec<u8>>, SourceError> {
        let repo = self.forgetful();
        ids.iter().map(|id| self.read_blob(&repo, id.as_ref())).collect()
    }

    /// Whether the mirror has this commit on disk.
    pub fn has(&self, commit: &str) -> bool {
        self.commit_id(&self.fresh(), commit).is_ok()
    }

    /// Whether `ancestor` is `head` or lies behind it. `false` when either is not in the mirror: it cannot be shown.
    ///
    /// # Errors
    /// When an object cannot be read.
    pub fn contains(&self, ancestor: &str, head: &str) -> Result<bool, SourceError> {
        let repo = self.reader();
        let id = |rev: &str| self.commit_id(&repo, rev);
        let (Ok(ancestor), Ok(tip)) = (id(ancestor), id(head)) else { return Ok(false) };
        if ancestor == tip {
            return Ok(true);
        }
        let failed = |source| self.unreadable(head, source);
        let bases = repo.merge_bases_many(ancestor, &[tip]).map_err(failed)?;
        Ok(bases.iter().any(|base| base.detach() == ancestor))
    }

    /// The commits that are behind `to` and not behind `from`, newest first, at most [`MAX_COMMITS`]. Without `from`, or
    /// when it is not in the mirror, only `to` itself.
    ///
    /// # Errors
    /// When `to` is not in the mirror, or an object cannot be read.
    pub fn commits_between(&self, from: Option<&str>, to: &str) -> Result<Vec<CommitInfo>, SourceError> {
        let repo = self.reader();
        let tip = self.commit_id(&repo, to)?;
        let failed = |source| self.unreadable(to, source);
        let Some(from) = from.and_then(|from| self.commit_id(&repo, from).ok()) else {
            return Ok(vec![info(&repo.find_commit(tip).map_err(failed)?).map_err(failed)?]);
        };
        let sorting = gix::revision::walk::Sorting::ByCommitTime(CommitTimeOrder::NewestFirst);
        let walk = repo.rev_walk([tip]).sorting(sorting).with_hidden([from]).all().map_err(failed)?;
        let mut commits = Vec::new();
        for commit in walk.take(MAX_COMMITS) {
            let commit = commit.and_then(|commit| commit.object()).map_err(failed)?;
            commits.push(info(&commit).map_err(failed)?);
        }
        Ok(commits)
    }

    /// The ids of the commits of `to` that are not of `from`, parents before their children whatever their times say;
    /// `to` alone where `from` is not in the mirror.
    ///
    /// # Errors
    /// When `to` is not in the mirror, or an object cannot be read.
    pub fn ids_between(&self, from: Option<&str>, to: &str) -> Result<Vec<ObjectHex>, SourceError> {
        let repo = self.reader();
        let tip = self.commit_id(&repo, to)?;
        let Some(from) = from.and_then(|from| self.commit_id(&repo, from).ok()) else {
            return Ok(vec![tip.to_string()]);
        };
        let failed = |source| self.unreadable(to, source);
        let walk = Topo::from_iters(&repo.objects, [tip], Some([from])).build().map_err(failed)?;
        let mut ids = Vec::new();
        for commit in walk {
            ids.push(commit.map_err(failed)?.id.to_string());
        }
        ids.reverse();
        Ok(ids)
    }

    /// These commits, as they are given.
    ///
    /// # Errors
    /// When one is not in the mirror, or cannot be read.
    pub fn commits(&self, ids: &[ObjectHex]) -> Result<Vec<CommitInfo>, SourceError> {
        let repo = self.reader();
        let read = |id: &ObjectHex| {
            let commit = repo.find_commit(self.commit_id(&repo, id)?).map_err(|source| self.unreadable(id, source))?;
            info(&commit).map_err(|source| self.unreadable(id, source))
        };
        ids.iter().map(read).collect()
    }

    /// The first commit of the history of `commit`, by first parents.
    ///
    /// # Errors
    /// When the commit is not in the mirror, or an object cannot be read.
    pub fn root_commit(&self, commit: &str) -> Result<ObjectHex, SourceError> {
        let repo = self.reader();
        let id = self.commit_id(&repo, commit)?;
        let failed = |source| self.unreadable(commit, source);
        let mut last = id;
        for commit in repo.rev_walk([id]).first_parent_only().all().map_err(failed)? {
            last = commit.map_err(failed)?.id;
        }
        Ok(last.to_string())
    }

    /// The id of a commit that is in the mirror.
    pub(super) fn commit_id(&self, repo: &gix::Repository, rev: &str) -> Result<ObjectId, SourceError> {
        let missing = || SourceError::NoSuchCommit { remote: self.remote.shown(), rev: rev.to_owned() };
        let id = ObjectId::from_hex(rev.as_bytes()).map_err(|_| missing())?;
        // Whole, not its header alone: it is remembered then, and whoever asks for its id reads it next.
        match repo.try_find_object(id) {
            Ok(Some(object)) if object.kind == gix::objs::Kind::Commit => Ok(id),
            Ok(Some(_) | None) => Err(missing()),
            Err(source) => Err(self.unreadable(rev, source)),
        }
    }

    pub(super) fn unreadable(&self, id: &str, source: gix::Error) -> SourceError {
        SourceError::Object { path: self.path.clone(), id: id.to_owned(), source: Box::new(source) }
    }

    fn read_blob(&self, repo: &gix::Repository, id: &str) -> Result<Vec<u8>, SourceError> {
        let failed = |source| self.unreadable(id, source);
        let object = ObjectId::from_hex(id.as_bytes()).map_err(|source| failed(gix::Error::from_error(source)))?;
        let known = self.sizes.lock().unwrap_or_else(PoisonError::into_inner).get(&object).copied();
        let size = known.map_or_else(|| repo.find_header(object).map(|header| header.size()), Ok).map_err(failed)?;
        if size > MAX_FILE_BYTES {
            return Err(failed(gix::Error::from_error(std::io::Error::other(format!("it has {size} bytes")))));
        }
        Ok(repo.find_blob(object).map_err(failed)?.take_data())
    }
}

fn info(commit: &gix::Commit<'_>) -> Result<CommitInfo, gix::Error> {
    let (author, committer) = (commit.author()?, commit.committer()?);
    let message = commit.message_raw()?.to_str_lossy().into_owned();
    let body = commit.message()?;
    let trailers = body.body().map(|body| {
        let trailers = body.trailers();
        trailers.map(|line| (line.token.to_str_lossy().into_owned(), line.value.to_str_lossy().into_owned())).collect()
    });
    Ok(CommitInfo {
        id: commit.id.to_string(),
        parent: commit.parent_ids().next().map(|id| id.to_string()),
        author: format!("{} <{}>", author.name.to_str_lossy(), author.email.to_str_lossy()),
        committer: format!("{} <{}>", committer.name.to_str_lossy(), committer.email.to_str_lossy()),
        // A time that no calendar knows is told as the earliest.
        time: DateTime::from_timestamp(commit.time()?.seconds, 0).unwrap_or(DateTime::UNIX_EPOCH),
        message,
        trailers: trailers.unwrap_or_default(),
    })
}

/// A commit as folders and files.
struct Committed<'a> {
    mirror: &'a Mirror,
    repo: &'a gix::Repository,
    root: ObjectId,
    known: &'a HashMap<ObjectId, u64>,
}

impl Committed<'_> {
    fn failed(&self, id: &ObjectId, source: gix::Error) -> Trouble {
        Trouble::Everywhere(self.mirror.unreadable(&id.to_string(), source))
    }
}

impl Folders for Committed<'_> {
    type Handle = ObjectId;

    fn root(&self) -> ObjectId {
        self.root
    }

    fn list(&self, folder: &ObjectId) -> Result<Vec<Entry<ObjectId>>, Trouble> {
        let tree = self.repo.find_tree(*folder).map_err(|source| self.failed(folder, source))?;
        let mut entries = Vec::new();
        for entry in tree.iter() {
            let entry = entry.map_err(|source| self.failed(folder, source))?;
            let kind = match entry.mode().kind() {
                GitKind::Tree => EntryKind::Folder,
                GitKind::Blob | GitKind::BlobExecutable => EntryKind::File,
                GitKind::Link => EntryKind::Link,
                GitKind::Commit => EntryKind::Submodule,
            };
            entries.push(Entry { name: entry.filename().to_vec(), kind, handle: entry.object_id() });
        }
        Ok(entries)
    }

    fn size(&self, file: &ObjectId) -> Result<u64, Trouble> {
        if let Some(size) = self.known.get(file) {
            return Ok(*size);
        }
        self.repo.find_header(*file).map(|header| header.size()).map_err(|source| self.failed(file, source))
    }

    fn read(&self, file: &ObjectId, _kind: EntryKind) -> Result<Vec<u8>, Trouble> {
        let failed = |source| self.failed(file, source);
        let size = self.repo.find_header(*file).map_err(failed)?.size();
        if size > MAX_FILE_BYTES {
            // Too large for whoever asks; he sees it by the length.
            return Ok(vec![0; MAX_FILE_BYTES as usize + 1]);
        }
        Ok(self.repo.find_blob(*file).map_err(failed)?.take_data())
    }
}

//! A bare copy of a remote, and the refs that it advertises.
//!
//! The objects of the last fetch are held by refs under `refs/plumb/`, named by a hash of the branch, so that no branch
//! name is too long, or both a file and a folder. All writing happens under an OS lock beside the mirror, which dies
//! with its process; so a lock file found inside the mirror while it is held is a dead one's, and is removed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, DirBuilder, File};
use std::ops::Deref;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use gix::ObjectId;
use gix::ThreadSafeRepository;
use gix::refs::FullName;
use gix::refs::transaction::{Change, PreviousValue, RefEdit, RefLog};
use sha2::{Digest, Sha256};

use super::error::SourceError;
use super::network::{Ask, Depth, converse};
use super::remote::{Address, Remote};
use super::{HEAD, init_tls, local, process};
use crate::model::ObjectHex;

/// How much of a hash names a mirror or a ref: enough that no two meet.
const NAME_LENGTH: usize = 32;
/// Where the heads that were fetched are held.
const HELD_HEADS: &str = "refs/plumb/heads/";
/// Where the drift branches that were fetched are held.
const HELD_DRIFT: &str = "refs/plumb/drift/";
/// Where a conversation puts the drift branches until the fetch has ended; empty otherwise.
pub(super) const INCOMING: &str = "refs/plumb/incoming/";
/// Each fetch adds a pack; with more than these, reading gets slow and they are made into one. It is below the least
/// number of packs that a handle of gix has room for (32).
const MAX_PACKS: usize = 25;
/// Loose objects are counted in one of their 256 folders, as git does; with more than these there are too many of them.
const MAX_LOOSE_IN_ONE: usize = 27;
/// How long making them into one may take.
const REPACK_LIMIT: Duration = Duration::from_secs(600);
/// How long an object that no ref holds is kept at least: an old head after a force-push, a commit not pushed yet.
const UNHELD_KEPT: &str = "2.weeks.ago";

/// One advertisement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refs {
    /// The commit the branch is at; `None` when there is no such branch, or no commit on it.
    pub head: Option<ObjectHex>,
    /// The branch itself; for [`HEAD`] the one it names, `None` when it is detached.
    pub branch: Option<String>,
    /// The drift branches, by name without `refs/heads/`.
    pub drift: BTreeMap<String, ObjectHex>,
}

impl Refs {
    /// All commits.
    pub(super) fn ids(&self) -> impl Iterator<Item = &ObjectHex> {
        self.head.iter().chain(self.drift.values())
    }
}

/// A bare copy of one remote.
#[derive(Debug)]
pub struct Mirror {
    pub(super) remote: Remote,
    pub(super) address: Address,
    host: String,
    pub(super) path: PathBuf,
    opened: RwLock<Arc<Opened>>,
    /// The drift branches of the last advertisement, by the hash of their names.
    known_drift: Mutex<BTreeSet<String>>,
    /// The sizes of the manifests of the last tree, since asking for them costs more than all else.
    pub(super) sizes: Mutex<Arc<HashMap<ObjectId, u64>>>,
}

impl Mirror {
    /// Opens the mirror of `remote` below `root`, made when it is missing or not whole. Contacts nobody.
    ///
    /// # Errors
    /// When the URL is refused, or the folder cannot be written.
    pub fn open(root: &Path, remote: Remote) -> Result<Self, SourceError> {
        init_tls();
        let address = remote.address()?;
        let path = root.join(format!("{}.git", short_hash(&address.identity(&remote.url))));
        let _lock = lock(&path)?;
        let repo = match usable(&path) {
            Some(repo) => repo,
            None => make(&path)?,
        };
        let known = held(&repo.to_thread_local(), HELD_DRIFT);
        Ok(Self {
            host: remote.host(),
            remote,
            address,
            path,
            opened: RwLock::new(Opened::new(repo)),
            known_drift: Mutex::new(known),
            sizes: Mutex::default(),
        })
    }

    /// What is mirrored.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Where the mirror is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the remote is: what is silent there is silent for all of its repositories.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The head of `branch` and all drift branches, in one advertisement. The mirror stays as it is.
    ///
    /// # Errors
    /// When the remote cannot be read whole. An empty repository and a missing branch are no errors.
    pub fn advertise(&self, branch: &str) -> Result<Refs, SourceError> {
        check_branch(branch)?;
        let _call = tracing::debug_span!("git.advertise", remote = %self.remote.shown(), branch).entered();
        let first = self.read_refs(branch)?;
        let refs = if self.seems_vanished(&first) { self.read_refs(branch)? } else { first };
        self.remember(&refs);
        Ok(refs)
    }

    /// The same, and the objects of all of it are in the mirror afterwards. Force-pushes are followed; objects that no
    /// advertised branch holds any more stay readable for two weeks at least.
    ///
    /// # Errors
    /// When the remote cannot be read whole; the mirror then holds what it held before.
    pub fn fetch(&self, branch: &str) -> Result<Refs, SourceError> {
        check_branch(branch)?;
        let _call = tracing::debug_span!("git.fetch", remote = %self.remote.shown(), branch).entered();
        let _lock = lock(&self.path)?;
        self.remake_if_gone()?;
        self.clear_incoming()?;
        let mut download = self.download(branch)?;
        if self.first_missing(&download.refs).is_some() {
            // The mirror says that it has what it has not: it is damaged. Or the remote moved in between.
            self.replace_repo(make(&self.path)?);
            download = self.download(branch)?;
        }
        if let Some(commit) = self.first_missing(&download.refs) {
            return Err(SourceError::Incomplete { remote: self.remote.shown(), commit });
        }
        self.hold(branch, &download.refs)?;
        self.clear_incoming()?;
        if let Some(keep) = download.keep {
            // Left behind it only keeps the pack from being packed with others.
            let _ = fs::remove_file(keep);
        }
        self.remember(&download.refs);
        self.repack_if_needed()?;
        Ok(download.refs)
    }

    /// A commit by its full or short hash, or the head of a branch that was fetched.
    ///
    /// # Errors
    /// When the mirror has no such commit.
    pub fn resolve(&self, rev: &str) -> Result<ObjectHex, SourceError> {
        let repo = self.reader();
        let missing = || SourceError::NoSuchCommit { remote: self.remote.shown(), rev: rev.to_owned() };
        let id = match repo.try_find_reference(held_head(rev).as_str()) {
            Ok(Some(reference)) => reference.try_id().ok_or_else(missing)?.detach(),
            Ok(None) | Err(_) => {
                let prefix = gix::hash::Prefix::from_hex(rev).map_err(|_| missing())?;
                match repo.objects.lookup_prefix(prefix, None) {
                    Ok(Some(Ok(id))) => id,
                    Ok(Some(Err(())) | None) | Err(_) => return Err(missing()),
                }
            }
        };
        match repo.find_header(id) {
            Ok(header) if header.kind() == gix::objs::Kind::Commit => Ok(id.to_string()),
            Ok(_) | Err(_) => Err(missing()),
        }
    }

    /// A handle for reading what is in the mirror: the one that was used last, with what it remembers, where it is free.
    pub(super) fn reader(&self) -> Reader {
        Reader::of(self.opened())
    }

    /// A handle that has read nothing yet, for whoever asks what is there on disk, or writes.
    pub(super) fn fresh(&self) -> gix::Repository {
        self.opened().fresh()
    }

    /// A handle that remembers nothing, for large things that are read once.
    pub(super) fn forgetful(&self) -> gix::Repository {
        self.opened().repo.to_thread_local()
    }

    /// Lets go of what the last reader remembers: nobody reads for a while.
    pub fn rest(&self) {
        self.opened().idle().take();
    }

    fn opened(&self) -> Arc<Opened> {
        Arc::clone(&self.opened.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn read_refs(&self, branch: &str) -> Result<Refs, SourceError> {
        if let Address::Local(path) = &self.address
            && let local::Reading::Refs(refs) = local::refs(path, branch)?
        {
            return Ok(refs);
        }
        if self.is_gone() {
            let _lock = lock(&self.path)?;
            self.remake_if_gone()?;
        }
        let ask = Ask::Branch(branch.to_owned());
        converse(&self.remote, &self.address, self.path.clone(), ask, Depth::RefsOnly).map(|answer| answer.refs)
    }

    fn is_gone(&self) -> bool {
        !self.path.join("HEAD").exists()
    }

    /// Somebody threw it away; it is only a cache. To be called under its lock.
    fn remake_if_gone(&self) -> Result<(), SourceError> {
        if self.is_gone() {
            self.replace_repo(make(&self.path)?);
        }
        Ok(())
    }

    fn download(&self, branch: &str) -> Result<Download, SourceError> {
        let first = self.download_once(branch)?;
        // The first pack is whole; what holds its objects is decided by the second advertisement.
        if self.seems_vanished(&first.refs) {
            let second = self.download_once(branch)?;
            return Ok(Download { keep: second.keep.or(first.keep), refs: second.refs });
        }
        Ok(first)
    }

    fn download_once(&self, branch: &str) -> Result<Download, SourceError> {
        let _call = tracing::debug_span!("git.download").entered();
        if let Address::Local(path) = &self.address
            && let local::Reading::Refs(refs) = local::refs(path, branch)?
        {
            let missing = self.missing(&refs);
            if missing.is_empty() || local::copy(path, &self.fresh(), &missing) == local::Copied::All {
                return Ok(Download { refs, keep: None });
            }
            let ask = Ask::Objects(missing);
            let answer = converse(&self.remote, &self.address, self.path.clone(), ask, Depth::WithObjects)?;
            self.reopen()?;
            return Ok(Download { refs, keep: answer.keep });
        }
        let ask = Ask::Branch(branch.to_owned());
        let answer = converse(&self.remote, &self.address, self.path.clone(), ask, Depth::WithObjects)?;
        self.reopen()?;
        Ok(Download { refs: answer.refs, keep: answer.keep })
    }

    fn missing(&self, refs: &Refs) -> BTreeSet<String> {
        let repo = self.fresh();
        refs.ids().filter(|id| !has_commit(&repo, id)).cloned().collect()
    }

    fn first_missing(&self, refs: &Refs) -> Option<String> {
        let repo = self.fresh();
        refs.ids().find(|id| !has_commit(&repo, id)).cloned()
    }

    /// Whether a drift branch that was there is not there now.
    fn seems_vanished(&self, refs: &Refs) -> bool {
        let now: BTreeSet<String> = refs.drift.keys().map(|name| short_hash(name)).collect();
        self.known().iter().any(|name| !now.contains(name))
    }

    fn remember(&self, refs: &Refs) {
        *self.known() = refs.drift.keys().map(|name| short_hash(name)).collect();
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.known_drift.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the objects of `refs`, and no longer those of branches that vanished.
    fn hold(&self, branch: &str, refs: &Refs) -> Result<(), SourceError> {
        let _call = tracing::debug_span!("git.hold").entered();
        let failed = |source| SourceError::Mirror { path: self.path.clone(), source: Box::new(source) };
        let repo = self.fresh();
        let mut edits = Vec::new();
        let drift: BTreeMap<String, &ObjectHex> =
            refs.drift.iter().map(|(name, id)| (format!("{HELD_DRIFT}{}", short_hash(name)), id)).collect();
        for name in held(&repo, HELD_DRIFT) {
            let name = format!("{HELD_DRIFT}{name}");
            if !drift.contains_key(&name) {
                edits.push(deletion(name).map_err(failed)?);
            }
        }
        for (name, id) in drift {
            edits.push(update(name, id).map_err(failed)?);
        }
        edits.push(match &refs.head {
            Some(id) => update(held_head(branch), id).map_err(failed)?,
            None => deletion(held_head(branch)).map_err(failed)?,
        });
        repo.edit_references_as(edits, None).map(drop).map_err(failed)
    }

    /// Forgets what a conversation left on the way; a late one may have ended after its fetch was given up.
    fn clear_incoming(&self) -> Result<(), SourceError> {
        let repo = self.fresh();
        let names = held(&repo, INCOMING);
        if names.is_empty() {
            return Ok(());
        }
        let edits: Result<Vec<_>, _> = names.iter().map(|name| deletion(format!("{INCOMING}{name}"))).collect();
        let cleared = edits.and_then(|edits| repo.edit_references_as(edits, None));
        cleared.map(drop).map_err(|source| SourceError::Mirror { path: self.path.clone(), source: Box::new(source) })
    }

    /// Makes many packs and loose objects into one pack. It is only about speed, so that it fails is only told.
    fn repack_if_needed(&self) -> Result<(), SourceError> {
        let packs = files_ending(&self.path.join("objects/pack"), ".pack").len();
        let loose = files_ending(&self.path.join("objects/17"), "").len();
        if packs <= MAX_PACKS && loose <= MAX_LOOSE_IN_ONE {
            return Ok(());
        }
        let _call = tracing::debug_span!("git.pack", packs, loose).entered();
        let mut command = process::git("none");
        command.arg("--git-dir").arg(&self.path).args(["gc", "--quiet", &format!("--prune={UNHELD_KEPT}")]);
        let mirror = self.path.display();
        match process::run(command, Vec::new(), REPACK_LIMIT, &self.remote.shown()) {
            Ok(end) if end.success => {}
            Ok(end) => tracing::warn!(%mirror, said = end.stderr, "the mirror could not be packed"),
            Err(error) => tracing::warn!(%mirror, %error, "the mirror could not be packed"),
        }
        self.reopen()
    }

    /// Begins anew with what is on disk: a handle that lives long has room for no more packs than there were.
    fn reopen(&self) -> Result<(), SourceError> {
        let repo = ThreadSafeRepository::open_opts(&self.path, reading());
        let repo = repo.map_err(|source| SourceError::Mirror { path: self.path.clone(), source: Box::new(source) })?;
        self.replace_repo(repo);
        Ok(())
    }

    fn replace_repo(&self, repo: ThreadSafeRepository) {
        *self.opened.write().unwrap_or_else(PoisonError::into_inner) = Opened::new(repo);
    }
}

/// The mirror as it was opened last.
#[derive(Debug)]
struct Opened {
    repo: ThreadSafeRepository,
    /// The handle that was used last. Each has to find and unpack what it reads, and one look reads the same commits and
    /// trees a dozen times.
    idle: Mutex<Option<gix::Repository>>,
}

impl Opened {
    fn new(repo: ThreadSafeRepository) -> Arc<Self> {
        Arc::new(Self { repo, idle: Mutex::default() })
    }

    fn fresh(&self) -> gix::Repository {
        /// Two versions of the tree of twenty thousand files. Each mirror keeps so much at most.
        const OBJECT_CACHE_BYTES: usize = 2 * 1024 * 1024;
        let mut repo = self.repo.to_thread_local();
        repo.object_cache_size_if_unset(OBJECT_CACHE_BYTES);
        repo
    }

    fn idle(&self) -> MutexGuard<'_, Option<gix::Repository>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle for reading, which goes back to its mirror when dropped.
pub(super) struct Reader {
    /// `None` only while it goes back.
    repo: Option<gix::Repository>,
    opened: Arc<Opened>,
}

impl Reader {
    fn of(opened: Arc<Opened>) -> Self {
        let idle = opened.idle().take();
        Self { repo: Some(idle.unwrap_or_else(|| opened.fresh())), opened }
    }
}

impl Deref for Reader {
    type Target = gix::Repository;

    fn deref(&self) -> &gix::Repository {
        self.repo.as_ref().expect("it goes back only when it is dropped")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        *self.opened.idle() = self.repo.take();
    }
}

/// What a fetch brought.
struct Download {
    refs: Refs,
    keep: Option<PathBuf>,
}

/// Whether the commit and its tree are there; packs are whole or not there at all.
fn has_commit(repo: &gix::Repository, id: &str) -> bool {
    let Ok(id) = ObjectId::from_hex(id.as_bytes()) else { return false };
    repo.find_commit(id).is_ok_and(|commit| commit.tree().is_ok())
}

fn check_branch(branch: &str) -> Result<(), SourceError> {
    let full = format!("refs/heads/{branch}");
    let valid = branch == HEAD || FullName::try_from(full.as_str()).is_ok();
    if valid && !branch.starts_with('-') {
        return Ok(());
    }
    Err(SourceError::RefusedBranch { branch: branch.to_owned() })
}

pub(super) fn check_branch_to_push(branch: &str) -> Result<(), SourceError> {
    if branch == HEAD {
        return Err(SourceError::RefusedBranch { branch: branch.to_owned() });
    }
    check_branch(branch)
}

fn held_head(branch: &str) -> String {
    format!("{HELD_HEADS}{}", short_hash(branch))
}

fn short_hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))[..NAME_LENGTH].to_owned()
}

/// The last parts of the refs below `prefix`.
fn held(repo: &gix::Repository, prefix: &str) -> BTreeSet<String> {
    let Ok(platform) = repo.references() else { return BTreeSet::new() };
    let Ok(references) = platform.prefixed(prefix.as_bytes()) else { return BTreeSet::new() };
    let names = references.filter_map(Result::ok).map(|reference| reference.name().as_bstr().to_string());
    names.filter_map(|name| name.strip_prefix(prefix).map(str::to_owned)).collect()
}

fn update(name: String, id: &str) -> Result<RefEdit, gix::Error> {
    let id = ObjectId::from_hex(id.as_bytes()).map_err(gix::Error::from_error)?;
    Ok(RefEdit::update(full_name(name)?, id, PreviousValue::Any, ""))
}

fn deletion(name: String) -> Result<RefEdit, gix::Error> {
    let change = Change::Delete { expected: PreviousValue::Any, log: RefLog::AndReference };
    Ok(RefEdit::new(full_name(name)?, change))
}

fn full_name(name: String) -> Result<FullName, gix::Error> {
    FullName::try_from(name).map_err(gix::Error::from_error)
}

/// Waits for the lock of the mirror at `path`, whose folder is made if need be. It ends with the file, or with the
/// process.
fn lock(path: &Path) -> Result<File, SourceError> {
    let path = path.with_extension("lock");
    let failed = |source| SourceError::MirrorFiles { path: path.clone(), source };
    if let Some(folder) = path.parent() {
        // What a repository holds is for those who may read the repository.
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// The mirror at `path`, if it is one and whole. To be called under its lock.
fn usable(path: &Path) -> Option<ThreadSafeRepository> {
    let repo = ThreadSafeRepository::open_opts(path, reading()).ok()?;
    for folder in ["objects", "objects/pack", "refs"] {
        if !path.join(folder).is_dir() {
            return None;
        }
    }
    sweep(path);
    let local = repo.to_thread_local();
    if !local.is_bare() {
        return None;
    }
    for reference in local.references().ok()?.all().ok()? {
        let id = reference.ok()?.try_id()?.detach();
        if !has_commit(&local, &id.to_string()) {
            return None;
        }
    }
    Some(repo)
}

/// Reads the mirror as it is, whatever the person configured.
fn reading() -> gix::open::Options {
    gix::open::Options::isolated().with(gix::sec::Trust::Full)
}

/// Makes an empty mirror at `path`, in the place of whatever is there. To be called under its lock.
fn make(path: &Path) -> Result<ThreadSafeRepository, SourceError> {
    let _call = tracing::debug_span!("git.make", path = %path.display()).entered();
    let failed = |source| SourceError::MirrorFiles { path: path.to_owned(), source };
    let unfinished = path.with_extension("new");
    for old in [path, unfinished.as_path()] {
        match fs::remove_dir_all(old) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let unusable = |source| SourceError::Mirror { path: path.to_owned(), source: Box::new(source) };
    let options = gix::create::Options::default();
    ThreadSafeRepository::init_opts(&unfinished, gix::create::Kind::Bare, options, reading()).map_err(unusable)?;
    // Whole or not there: nobody sees it half made.
    fs::rename(&unfinished, path).map_err(failed)?;
    ThreadSafeRepository::open_opts(path, reading()).map_err(unusable)
}

/// Removes what a process that was killed left behind: lock files, marks of packs, packs half received.
fn sweep(path: &Path) {
    let pack = path.join("objects/pack");
    let mut left = files_ending(&pack, ".keep");
    left.extend(files_ending(&pack, "").into_iter().filter(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(".tmp") || name.starts_with("tmp_")
    }));
    for folder in ["", HELD_HEADS, HELD_DRIFT] {
        left.extend(files_ending(&path.join(folder), ".lock"));
    }
    for file in left {
        // One that cannot be removed shows when it is in the way.
        let _ = fs::remove_file(file);
    }
}

fn files_ending(folder: &Path, end: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_file());
    paths.filter(|path| path.to_string_lossy().ends_with(end)).collect()
}

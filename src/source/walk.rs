//! Which files below a folder are manifests: one set of rules for commits and for working trees.
//!
//! What cannot be read is never passed over in silence: it gives a finding and stands in `refused`, since a file that
//! was not read looks like a file that was removed (R9). Names that begin with a dot are no manifests (they are the
//! settings of forges, editors and CI), nor is what `.plumbignore` names.

use std::collections::{BTreeMap, BTreeSet};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::codes;
use super::error::SourceError;
use crate::model::{Code, Diagnostic, Span};

/// A larger file is no manifest that a person wrote.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// More files than this are not one team's platform; read in one piece they would take the memory of all others.
pub const MAX_MANIFESTS: usize = 20_000;
/// A tree that repeats itself can unfold to any number of entries; this is where it ends.
const MAX_ENTRIES: usize = 1_000_000;
/// Folders below folders. Deeper than any layout that is meant.
const MAX_DEPTH: usize = 64;
/// Each link costs a walk from the root.
const MAX_LINKS: usize = 1_000;
/// Links to links, as far as they are followed.
const MAX_HOPS: usize = 8;
/// The name of the ignore files.
const IGNORE_FILE: &str = ".plumbignore";

/// Which files are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `*.yaml` and `*.yml`: a tenant's repository.
    Manifests,
    /// Also `*.rego` under `policies/`: the platform's repository.
    ManifestsAndPolicies,
}

impl Wanted {
    /// Whether an edit of the file at `path` is an edit of a manifest below `folder`, in a tree where names alone decide;
    /// `None` when the name alone cannot tell.
    pub(super) fn takes_edit(self, folder: &str, path: &[u8]) -> Option<bool> {
        let path = std::str::from_utf8(path).ok().filter(|path| !path.chars().any(char::is_control))?;
        let scope: String = components(folder)?.iter().flat_map(|part| [part, "/"]).collect();
        if path.rsplit('/').next() == Some(IGNORE_FILE) {
            // Those above the folder count in it too.
            let place = &path[..path.len() - IGNORE_FILE.len()];
            return if place.starts_with(&scope) || scope.starts_with(place) { None } else { Some(false) };
        }
        let Some(below) = path.strip_prefix(&scope) else { return Some(false) };
        Some(!below.split('/').any(|part| part.starts_with('.')) && self.takes(below.as_bytes()))
    }

    /// Whether the file is wanted. `below` is its path below the folder that is read.
    fn takes(self, below: &[u8]) -> bool {
        let name = below.rsplit(|byte| *byte == b'/').next().unwrap_or(below);
        let Some(dot) = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0) else { return false };
        match &name[dot + 1..] {
            b"yaml" | b"yml" => true,
            b"rego" => self == Self::ManifestsAndPolicies && below.starts_with(b"policies/"),
            _ => false,
        }
    }
}

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Folder,
    Link,
    Submodule,
    /// A pipe, a socket, a device.
    Special,
}

/// One entry of a folder.
#[derive(Clone, Debug)]
pub(super) struct Entry<H> {
    pub name: Vec<u8>,
    pub kind: EntryKind,
    pub handle: H,
}

/// Why something could not be listed or read.
pub(super) enum Trouble {
    /// This one cannot; the others may.
    Here(std::io::Error),
    /// Nothing can.
    Everywhere(SourceError),
}

impl From<SourceError> for Trouble {
    fn from(error: SourceError) -> Self {
        Self::Everywhere(error)
    }
}

/// A tree of folders: a commit's, or one on disk.
pub(super) trait Folders {
    type Handle: Clone;

    fn root(&self) -> Self::Handle;
    /// The entries of a folder, sorted by name.
    fn list(&self, folder: &Self::Handle) -> Result<Vec<Entry<Self::Handle>>, Trouble>;
    fn size(&self, file: &Self::Handle) -> Result<u64, Trouble>;
    /// The content of a file, or where a link leads; no more than [`MAX_FILE_BYTES`] and one.
    fn read(&self, file: &Self::Handle, kind: EntryKind) -> Result<Vec<u8>, Trouble>;
}

/// What was found.
#[derive(Debug)]
pub(super) struct Walked<H> {
    /// By path from the root, with the size.
    pub files: BTreeMap<String, (H, u64)>,
    pub findings: Vec<Diagnostic>,
    pub refused: BTreeSet<String>,
    /// Whether names alone decided what is read: no ignore file and no link was met.
    pub plain: bool,
}

impl<H> Walked<H> {
    fn new() -> Self {
        Self { files: BTreeMap::new(), findings: Vec::new(), refused: BTreeSet::new(), plain: true }
    }
}

/// `path` as the setting spells it (`.`, `teams/checkout/`), in components; `None` when it leads out.
fn components(path: &str) -> Option<Vec<&str>> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    (!path.starts_with('/') && !parts.contains(&"..")).then_some(parts)
}

/// Reads the folder at `path` below the root.
pub(super) fn walk<F: Folders>(folders: &F, path: &str, wanted: Wanted) -> Result<Walked<F::Handle>, SourceError> {
    let mut walk =
        Walk { folders, wanted, scope: String::new(), ignores: Vec::new(), entries: 0, links: 0, out: Walked::new() };
    match walk.run(path) {
        Ok(()) | Err(Stop::Full) => Ok(walk.out),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Why a walk ends before its end.
enum Stop {
    /// A limit is reached, and a finding says so.
    Full,
    Failed(SourceError),
}

struct Walk<'a, F: Folders> {
    folders: &'a F,
    wanted: Wanted,
    /// The folder that is read, with a slash at its end; empty for the root.
    scope: String,
    /// The ignore files on the way from the root to here: the folder of each, with a slash at its end.
    ignores: Vec<(String, Gitignore)>,
    entries: usize,
    links: usize,
    out: Walked<F::Handle>,
}

impl<F: Folders> Walk<'_, F> {
    fn run(&mut self, path: &str) -> Result<(), Stop> {
        let Some(parts) = components(path) else {
            self.refuse(codes::FOLDER_MISSING, path, "the path leads out of the repository", "name a folder inside it");
            return Ok(());
        };
        let mut here = String::new();
        let mut folder = self.folders.root();
        let mut entries = match self.list(&folder, path)? {
            Some(entries) => entries,
            None => return Ok(()),
        };
        for part in parts {
            self.read_ignore_file(&here, &entries)?;
            let found = entries.iter().find(|entry| entry.name == part.as_bytes());
            let Some(Entry { kind: EntryKind::Folder, handle, .. }) = found else {
                let what = format!("there is no folder {path} in this revision");
                self.refuse(codes::FOLDER_MISSING, path, &what, "make it, or correct the `path` of the repository");
                return Ok(());
            };
            folder = handle.clone();
            here.push_str(part);
            here.push('/');
            entries = match self.list(&folder, path)? {
                Some(entries) => entries,
                None => return Ok(()),
            };
        }
        self.scope.clone_from(&here);
        self.folder(&here, entries, 0)
    }

    /// Reads a folder; `here` is its path with a slash at its end.
    fn folder(&mut self, here: &str, entries: Vec<Entry<F::Handle>>, depth: usize) -> Result<(), Stop> {
        let ignores = self.ignores.len();
        self.read_ignore_file(here, &entries)?;
        for entry in entries {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return self.full(&format!("the tree has more than {MAX_ENTRIES} entries"));
            }
            self.entry(here, &entry, depth)?;
        }
        self.ignores.truncate(ignores);
        Ok(())
    }

    fn entry(&mut self, here: &str, entry: &Entry<F::Handle>, depth: usize) -> Result<(), Stop> {
        if entry.name.starts_with(b".") {
            return Ok(());
        }
        let mut bytes = here.as_bytes().to_vec();
        bytes.extend_from_slice(&entry.name);
        let wanted = self.wanted.takes(&bytes[self.scope.len()..]);
        let path = match String::from_utf8(bytes) {
            Ok(path) if !path.chars().any(char::is_control) => path,
            Ok(_) | Err(_) => {
                // Only what could be a manifest, or hold one, is worth a finding.
                if wanted || entry.kind == EntryKind::Folder {
                    let path = format!("{here}{}", entry.name.escape_ascii());
                    self.refuse(codes::PATH_REFUSED, &path, "its name is no plain UTF-8 text", "rename it");
                }
                return Ok(());
            }
        };
        if self.ignored(&path, entry.kind) {
            return Ok(());
        }
        match entry.kind {
            EntryKind::File if wanted => self.file(&path, &entry.handle),
            EntryKind::File => Ok(()),
            EntryKind::Folder if depth >= MAX_DEPTH => {
                let what = format!("it is more than {MAX_DEPTH} folders deep");
                self.refuse(codes::PATH_REFUSED, &path, &what, "move it further up");
                Ok(())
            }
            EntryKind::Folder => match self.list(&entry.handle, &path)? {
                Some(entries) => self.folder(&format!("{path}/"), entries, depth + 1),
                None => Ok(()),
            },
            EntryKind::Link => self.link(&path, &entry.handle, wanted),
            EntryKind::Submodule => {
                let help = "copy the files into this repository, or name the folder in .plumbignore";
                self.refuse(codes::SUBMODULE_REFUSED, &path, "submodules are not read", help);
                Ok(())
            }
            EntryKind::Special if wanted => {
                self.refuse(codes::FILE_UNREADABLE, &path, "it is no regular file", "put a file in its place");
                Ok(())
            }
            EntryKind::Special => Ok(()),
        }
    }

    fn file(&mut self, path: &str, handle: &F::Handle) -> Result<(), Stop> {
        let size = match self.folders.size(handle) {
            Ok(size) => size,
            Err(trouble) => return self.trouble(path, trouble),
        };
        if size > MAX_FILE_BYTES {
            let what = format!("the file has {size} bytes, more than the {MAX_FILE_BYTES} that are read");
            self.refuse(codes::FILE_TOO_LARGE, path, &what, "split it, or name it in .plumbignore");
            return Ok(());
        }
        if self.out.files.len() >= MAX_MANIFESTS {
            return self.full(&format!("there are more than {MAX_MANIFESTS} manifests"));
        }
        self.out.files.insert(path.to_owned(), (handle.clone(), size));
        Ok(())
    }

    fn link(&mut self, path: &str, handle: &F::Handle, wanted: bool) -> Result<(), Stop> {
        self.links += 1;
        self.out.plain = false;
        if self.links > MAX_LINKS {
            return self.full(&format!("there are more than {MAX_LINKS} symbolic links"));
        }
        let target = match self.folders.read(handle, EntryKind::Link) {
            Ok(target) => target,
            Err(trouble) => return self.trouble(path, trouble),
        };
        let end = match resolve(self.folders, path, &target) {
            Ok(end) => end,
            Err(trouble) => return self.trouble(path, trouble),
        };
        let help = "put the files themselves there, or name the link in .plumbignore";
        match end {
            LinkEnd::File { path: target, handle } if wanted => {
                if target.starts_with(&self.scope) {
                    return self.file(path, &handle);
                }
                let what = format!("the symbolic link leads to {target}, out of {}", self.scope);
                self.refuse(codes::SYMLINK_REFUSED, path, &what, help);
            }
            LinkEnd::Outside => {
                self.refuse(codes::SYMLINK_REFUSED, path, "the symbolic link leads out of the repository", help);
            }
            LinkEnd::Folder => {
                self.refuse(codes::SYMLINK_REFUSED, path, "the symbolic link leads to a folder", help);
            }
            LinkEnd::Through => {
                self.refuse(codes::SYMLINK_REFUSED, path, "the symbolic link leads through other links", help);
            }
            LinkEnd::Nowhere if wanted => {
                self.refuse(codes::SYMLINK_REFUSED, path, "the symbolic link leads to nothing", help);
            }
            // A link that is no manifest and hides none.
            LinkEnd::File { .. } | LinkEnd::Nowhere => {}
        }
        Ok(())
    }

    /// The entries of a folder; `None` when it cannot be read, and a finding says so.
    fn list(&mut self, folder: &F::Handle, path: &str) -> Result<Option<Vec<Entry<F::Handle>>>, Stop> {
        match self.folders.list(folder) {
            Ok(entries) => Ok(Some(entries)),
            Err(trouble) => self.trouble(path, trouble).map(|()| None),
        }
    }

    fn read_ignore_file(&mut self, here: &str, entries: &[Entry<F::Handle>]) -> Result<(), Stop> {
        let Some(entry) = entries.iter().find(|entry| entry.name == IGNORE_FILE.as_bytes()) else { return Ok(()) };
        self.out.plain = false;
        let path = format!("{here}{IGNORE_FILE}");
        if entry.kind != EntryKind::File {
            self.refuse(codes::FILE_UNREADABLE, &path, "it is no regular file", "put a file in its place");
            return Ok(());
        }
        let bytes = match self.folders.read(&entry.handle, EntryKind::File) {
            Ok(bytes) => bytes,
            Err(trouble) => return self.trouble(&path, trouble),
        };
        if bytes.len() as u64 > MAX_FILE_BYTES {
            let what = format!("the file has more than {MAX_FILE_BYTES} bytes");
            self.refuse(codes::FILE_TOO_LARGE, &path, &what, "write fewer, more general patterns");
            return Ok(());
        }
        let text = String::from_utf8_lossy(&bytes);
        let mut builder = GitignoreBuilder::new("");
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let pattern = line.trim_end_matches(['\n', '\r']);
            if let Err(error) = builder.add_line(None, pattern) {
                let span = Span::locate(&text, start, start + pattern.len());
                let what = format!("the pattern {pattern:?} is ignored: {error}");
                let finding = Diagnostic::warning(codes::IGNORE_PATTERN_INVALID, &path, what).at(Some(span));
                self.out.findings.push(finding.help("write it as in .gitignore"));
            }
            start += line.len();
        }
        match builder.build() {
            Ok(ignore) => self.ignores.push((here.to_owned(), ignore)),
            Err(error) => {
                let what = format!("its patterns cannot be used: {error}");
                self.refuse(codes::IGNORE_PATTERN_INVALID, &path, &what, "write fewer, simpler patterns");
            }
        }
        Ok(())
    }

    /// The nearest ignore file that speaks of the path decides.
    fn ignored(&self, path: &str, kind: EntryKind) -> bool {
        let is_folder = matches!(kind, EntryKind::Folder | EntryKind::Submodule);
        for (folder, ignore) in self.ignores.iter().rev() {
            match ignore.matched(&path[folder.len()..], is_folder) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }

    fn trouble(&mut self, path: &str, trouble: Trouble) -> Result<(), Stop> {
        match trouble {
            Trouble::Here(error) => {
                let help = "check its permissions, or name it in .plumbignore";
                self.refuse(codes::FILE_UNREADABLE, path, &format!("it cannot be read: {error}"), help);
                Ok(())
            }
            Trouble::Everywhere(error) => Err(Stop::Failed(error)),
        }
    }

    fn full(&mut self, what: &str) -> Result<(), Stop> {
        let path = if self.scope.is_empty() { "." } else { self.scope.trim_end_matches('/') }.to_owned();
        let help = "split the repository between several tenants, or name what is no manifest in .plumbignore";
        self.refuse(codes::TOO_MANY_MANIFESTS, &path, &format!("{what}; the rest is not read"), help);
        Err(Stop::Full)
    }

    fn refuse(&mut self, code: Code, path: &str, what: &str, help: &str) {
        self.out.findings.push(Diagnostic::error(code, path, what).help(help));
        self.out.refused.insert(path.to_owned());
    }
}

/// Where a symbolic link ends.
enum LinkEnd<H> {
    File {
        path: String,
        handle: H,
    },
    Folder,
    /// Out of the repository.
    Outside,
    /// Through a link to a folder, or through too many links.
    Through,
    Nowhere,
}

/// Follows the link at `path` step by step, as the file system would.
fn resolve<F: Folders>(folders: &F, path: &str, target: &[u8]) -> Result<LinkEnd<F::Handle>, Trouble> {
    let mut from = path.to_owned();
    let mut target = target.to_vec();
    for _ in 0..MAX_HOPS {
        match step(folders, &from, &target)? {
            Step::End(end) => return Ok(end),
            Step::Link { path, target: next } => {
                from = path;
                target = next;
            }
        }
    }
    Ok(LinkEnd::Through)
}

enum Step<H> {
    End(LinkEnd<H>),
    Link { path: String, target: Vec<u8> },
}

fn step<F: Folders>(folders: &F, from: &str, target: &[u8]) -> Result<Step<F::Handle>, Trouble> {
    if target.starts_with(b"/") {
        return Ok(Step::End(LinkEnd::Outside));
    }
    let Ok(target) = std::str::from_utf8(target) else { return Ok(Step::End(LinkEnd::Nowhere)) };
    // The folders on the way from the root, each with its name.
    let mut way: Vec<(String, F::Handle)> = Vec::new();
    let start = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    let parts: Vec<&str> =
        start.split('/').chain(target.split('/')).filter(|part| !matches!(*part, "" | ".")).collect();
    let last = parts.len().saturating_sub(1);
    for (index, part) in parts.iter().enumerate() {
        if *part == ".." {
            if way.pop().is_none() {
                return Ok(Step::End(LinkEnd::Outside));
            }
            continue;
        }
        let here = way.last().map_or_else(|| folders.root(), |(_, handle)| handle.clone());
        let Some(entry) = folders.list(&here)?.into_iter().find(|entry| entry.name == part.as_bytes()) else {
            return Ok(Step::End(LinkEnd::Nowhere));
        };
        match entry.kind {
            EntryKind::Folder => way.push(((*part).to_owned(), entry.handle)),
            EntryKind::File | EntryKind::Link if index == last => {
                let mut path: String = way.iter().flat_map(|(name, _)| [name.as_str(), "/"]).collect();
                path.push_str(part);
                return Ok(match entry.kind {
                    EntryKind::Link => Step::Link { path, target: folders.read(&entry.handle, EntryKind::Link)? },
                    _ => Step::End(LinkEnd::File { path, handle: entry.handle }),
                });
            }
            EntryKind::Link => return Ok(Step::End(LinkEnd::Through)),
            EntryKind::File | EntryKind::Submodule | EntryKind::Special => return Ok(Step::End(LinkEnd::Nowhere)),
        }
    }
    Ok(Step::End(LinkEnd::Folder))
}

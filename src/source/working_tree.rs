//! A working tree on disk, read by the same rules as a commit: for `validate`, `plan --dir` and `watch`.
//!
//! Nothing outside the tree is read: links are followed by hand, inside it, and only to files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::codes;
use super::error::SourceError;
use super::walk::{Entry, EntryKind, Folders, MAX_FILE_BYTES, Trouble, Wanted, walk};
use crate::model::Diagnostic;

/// The files of a working tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkingFiles {
    /// The content of each manifest, by its path from the root, with `/`.
    pub files: BTreeMap<String, Vec<u8>>,
    pub findings: Vec<Diagnostic>,
    /// What could not be read; while there is any, nothing may be pruned (R9).
    pub refused: BTreeSet<String>,
}

/// A folder on disk whose manifests are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkingTree {
    root: PathBuf,
}

impl WorkingTree {
    /// The tree below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The tree that `path` is in, and the path of it from the tree's root: the repository around it, or else the
    /// folder itself (of a file, the folder it is in).
    ///
    /// # Errors
    /// When there is no file and no folder at `path`.
    pub fn around(path: &Path) -> Result<(Self, String), SourceError> {
        let failed = |source| SourceError::Read { path: path.to_owned(), source };
        let full = fs::canonicalize(path).map_err(failed)?;
        if !full.is_dir() && !full.is_file() {
            return Err(failed(std::io::Error::other("it is neither a file nor a folder")));
        }
        let folder = if full.is_dir() { full.as_path() } else { full.parent().unwrap_or(&full) };
        let root = folder.ancestors().find(|folder| is_repository(folder)).unwrap_or(folder);
        let below = full.strip_prefix(root).unwrap_or(Path::new(""));
        let below = below.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
        let below = if below.is_empty() { ".".to_owned() } else { below };
        Ok((Self::new(root), below))
    }

    /// Whether it is a repository; else one below it is nobody's submodule.
    pub fn is_repository(&self) -> bool {
        is_repository(&self.root)
    }

    /// Where the paths of the files begin.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads the manifests below `path` (`.` is the root). A `path` that is a file is read whatever its name.
    ///
    /// # Errors
    /// When the root cannot be read at all; single files that cannot are findings.
    pub fn read(&self, path: &str, wanted: Wanted) -> Result<WorkingFiles, SourceError> {
        let failed = |source| SourceError::Read { path: self.root.clone(), source };
        let root = fs::canonicalize(&self.root).map_err(failed)?;
        let mut out = WorkingFiles::default();
        let file = fs::canonicalize(root.join(path)).ok().filter(|full| full.is_file() && full.starts_with(&root));
        if let Some(full) = file {
            read_file(&full, path, &mut out);
            return Ok(out);
        }
        let walked = walk(&Disk { root: &root }, path, wanted)?;
        out.findings = walked.findings;
        out.refused = walked.refused;
        for (path, (full, _)) in walked.files {
            read_file(&full, &path, &mut out);
        }
        Ok(out)
    }
}

fn is_repository(folder: &Path) -> bool {
    folder.join(".git").exists()
}

/// Reads one file; it may have grown or gone since it was listed.
fn read_file(full: &Path, path: &str, out: &mut WorkingFiles) {
    match read_bounded(full) {
        Ok(bytes) if bytes.len() as u64 <= MAX_FILE_BYTES => {
            out.files.insert(path.to_owned(), bytes);
        }
        Ok(_) => {
            let what = format!("the file has more than the {MAX_FILE_BYTES} bytes that are read");
            let finding = Diagnostic::error(codes::FILE_TOO_LARGE, path, what);
            out.findings.push(finding.help("split it, or name it in .plumbignore"));
            out.refused.insert(path.to_owned());
        }
        Err(error) => {
            let finding = Diagnostic::error(codes::FILE_UNREADABLE, path, format!("it cannot be read: {error}"));
            out.findings.push(finding.help("check its permissions, or name it in .plumbignore"));
            out.refused.insert(path.to_owned());
        }
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

struct Disk<'a> {
    root: &'a Path,
}

impl Folders for Disk<'_> {
    type Handle = PathBuf;

    fn root(&self) -> PathBuf {
        self.root.to_owned()
    }

    fn list(&self, folder: &PathBuf) -> Result<Vec<Entry<PathBuf>>, Trouble> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(Trouble::Here)? {
            let entry = entry.map_err(Trouble::Here)?;
            let kind = entry.file_type().map_err(Trouble::Here)?;
            let handle = entry.path();
            let kind = if kind.is_symlink() {
                EntryKind::Link
            } else if kind.is_file() {
                EntryKind::File
            } else if kind.is_dir() && is_repository(&handle) {
                EntryKind::Submodule
            } else if kind.is_dir() {
                EntryKind::Folder
            } else {
                EntryKind::Special
            };
            entries.push(Entry { name: entry.file_name().into_encoded_bytes(), kind, handle });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn size(&self, file: &PathBuf) -> Result<u64, Trouble> {
        fs::metadata(file).map(|meta| meta.len()).map_err(Trouble::Here)
    }

    fn read(&self, file: &PathBuf, kind: EntryKind) -> Result<Vec<u8>, Trouble> {
        match kind {
            EntryKind::Link => {
                fs::read_link(file).map(|target| target.into_os_string().into_encoded_bytes()).map_err(Trouble::Here)
            }
            EntryKind::File | EntryKind::Folder | EntryKind::Submodule | EntryKind::Special => {
                read_bounded(file).map_err(Trouble::Here)
            }
        }
    }
}

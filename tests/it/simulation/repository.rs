//! Bare repositories, written without starting a program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use gix::ObjectId;
use gix::objs::tree::{Entry, EntryKind};
use gix::objs::{Commit, Tree, Write as _};

/// A bare repository with the branch `main`.
pub struct Repository {
    path: PathBuf,
    repo: gix::Repository,
}

impl Repository {
    /// An empty one at `path`, in the place of whatever is there.
    pub fn make(path: &Path) -> Self {
        let _ = fs::remove_dir_all(path);
        for folder in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        fs::write(path.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(path.join("config"), "[core]\n\trepositoryformatversion = 0\n\tbare = true\n").unwrap();
        let options = gix::open::Options::isolated().with(gix::sec::Trust::Full);
        Self { path: path.to_owned(), repo: gix::open_opts(path, options).unwrap() }
    }

    /// Where a branch is.
    pub fn tip(&self, branch: &str) -> Option<String> {
        let text = fs::read_to_string(self.path.join("refs/heads").join(branch)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Moves a branch, or removes it.
    pub fn set_tip(&self, branch: &str, commit: Option<&str>) {
        let file = self.path.join("refs/heads").join(branch);
        match commit {
            Some(commit) => {
                let draft = file.with_extension("new");
                fs::write(&draft, format!("{commit}\n")).unwrap();
                fs::rename(draft, file).unwrap();
            }
            None => fs::remove_file(file).unwrap(),
        }
    }

    /// The branches below a folder of branches.
    pub fn branches(&self, below: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![below.to_owned()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(self.path.join("refs/heads").join(&folder)) else { continue };
            for entry in entries.map(Result::unwrap) {
                let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
                if entry.file_type().unwrap().is_dir() {
                    folders.push(name);
                } else {
                    found.push(name);
                }
            }
        }
        found.sort();
        found
    }

    /// Commits these files, and no others, on `main`; gives the commit.
    pub fn commit(&self, files: &BTreeMap<String, String>, message: &str, at: DateTime<Utc>) -> String {
        let tree = self.tree(files);
        let who = gix::actor::Signature {
            name: "Somebody".into(),
            email: "somebody@example.org".into(),
            time: gix::date::Time::new(at.timestamp(), 0),
        };
        let parents = self.tip("main").map(|tip| ObjectId::from_hex(tip.as_bytes()).unwrap());
        let commit = Commit {
            tree,
            parents: parents.into_iter().collect(),
            author: who.clone(),
            committer: who,
            encoding: None,
            message: message.into(),
            extra_headers: Vec::new(),
        };
        let id = self.repo.objects.write(&commit).unwrap().to_string();
        self.set_tip("main", Some(&id));
        id
    }

    fn tree(&self, files: &BTreeMap<String, String>) -> ObjectId {
        let mut folders: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
        let mut entries = Vec::new();
        for (path, text) in files {
            match path.split_once('/') {
                Some((folder, rest)) => {
                    folders.entry(folder).or_default().insert(rest.to_owned(), text.clone());
                }
                None => {
                    let oid = self.repo.objects.write_buf(gix::objs::Kind::Blob, text.as_bytes()).unwrap();
                    entries.push(Entry { mode: EntryKind::Blob.into(), filename: path.as_str().into(), oid });
                }
            }
        }
        for (folder, files) in folders {
            let oid = self.tree(&files);
            entries.push(Entry { mode: EntryKind::Tree.into(), filename: folder.into(), oid });
        }
        entries.sort();
        self.repo.objects.write(&Tree { entries }).unwrap()
    }
}

//! Makes one commit of edits, in the mirror alone.
//!
//! The same base, edits, message, author and time give the same commit, so that a death in between costs nothing. Every
//! path that is not named keeps its entry, and an edited file keeps its mode.

use chrono::{DateTime, Utc};
use gix::objs::tree::EntryKind;

use super::error::SourceError;
use super::mirror::Mirror;
use crate::model::ObjectHex;

/// Who makes a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    pub name: String,
    pub email: String,
}

/// What becomes of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEdit {
    /// From the root of the repository, with `/`.
    pub path: String,
    /// The whole new content; `None` removes the file.
    pub content: Option<Vec<u8>>,
}

impl Mirror {
    /// One commit on `base` with the edits. It is in the mirror only; [`Mirror::push`] sends it.
    ///
    /// # Errors
    /// When a path cannot be edited, the edits change nothing, or the mirror cannot be written.
    pub fn commit_edits(
        &self,
        base: &str,
        edits: &[FileEdit],
        message: &str,
        author: &Author,
        at: DateTime<Utc>,
    ) -> Result<ObjectHex, SourceError> {
        let _call = tracing::debug_span!("git.commit", remote = %self.remote.shown(), base).entered();
        let repo = self.fresh();
        let base = self.commit_id(&repo, base)?;
        let failed = |source| self.unreadable(&base.to_string(), source);
        let before = repo.find_commit(base).and_then(|commit| commit.tree()).map_err(failed)?;
        let mut editor = before.edit().map_err(failed)?;
        for edit in edits {
            let refused = |why: &str| SourceError::Edit { path: edit.path.clone(), why: why.to_owned() };
            let parts = checked(&edit.path).map_err(refused)?;
            let mode = mode_at(&before, &parts).map_err(failed)?.map_err(refused)?;
            match &edit.content {
                Some(content) => {
                    let blob = repo.write_blob(content).map_err(failed)?;
                    editor.upsert(edit.path.as_str(), mode.unwrap_or(EntryKind::Blob), blob).map_err(failed)?;
                }
                None if mode.is_none() => return Err(refused("there is no such file")),
                None => {
                    editor.remove(edit.path.as_str()).map_err(failed)?;
                }
            }
        }
        let tree = editor.write().map_err(failed)?.detach();
        if tree == before.id {
            return Err(SourceError::EmptyEdit { base: base.to_string() });
        }
        let signature = gix::actor::Signature {
            name: one_line(&author.name).into(),
            email: one_line(&author.email).into(),
            time: gix::date::Time { seconds: at.timestamp(), offset: 0 },
        };
        let commit = gix::objs::Commit {
            tree,
            parents: [base].into_iter().collect(),
            author: signature.clone(),
            committer: signature,
            encoding: None,
            message: format!("{}\n", message.trim_end()).into(),
            extra_headers: Vec::new(),
        };
        Ok(repo.write_object(&commit).map_err(failed)?.to_string())
    }
}

/// The components of a path that may be written.
fn checked(path: &str) -> Result<Vec<&str>, &'static str> {
    let parts: Vec<&str> = path.split('/').collect();
    for part in &parts {
        if part.is_empty() || *part == "." || *part == ".." || part.eq_ignore_ascii_case(".git") {
            return Err("the path is not one inside the repository");
        }
        if part.chars().any(char::is_control) {
            return Err("the path holds control characters");
        }
    }
    Ok(parts)
}

/// The mode of the file that is there; `None` when there is none yet. The inner error says why none can be.
fn mode_at(root: &gix::Tree<'_>, parts: &[&str]) -> Result<Result<Option<EntryKind>, &'static str>, gix::Error> {
    for end in 1..=parts.len() {
        let Some(entry) = root.lookup_entry(parts[..end].iter().map(|part| part.as_bytes()))? else {
            return Ok(Ok(None));
        };
        let kind = entry.mode().kind();
        match (kind, end == parts.len()) {
            (EntryKind::Tree, false) => {}
            (EntryKind::Blob | EntryKind::BlobExecutable, true) => return Ok(Ok(Some(kind))),
            (EntryKind::Blob | EntryKind::BlobExecutable, false) => {
                return Ok(Err("a file is where a folder has to be"));
            }
            (EntryKind::Tree, true) => return Ok(Err("it is a folder")),
            (EntryKind::Link, _) => return Ok(Err("it is, or lies behind, a symbolic link")),
            (EntryKind::Commit, _) => return Ok(Err("it is, or lies in, a submodule")),
        }
    }
    Ok(Ok(None))
}

/// Names end a header line of a commit, so they must not hold what ends it, or the brackets of the address.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !matches!(c, '<' | '>')).collect::<String>().trim().to_owned()
}

//! Makes the commit that a merge would make, in the mirror alone, so that a branch can be looked at as it would be once
//! merged.

use gix::merge::blob::builtin_driver::text::Labels;
use gix::merge::tree::TreatAsUnresolved;
use gix::prelude::ObjectIdExt;

use super::error::SourceError;
use super::mirror::Mirror;
use crate::model::ObjectHex;

/// So many files with conflicts are named.
const NAMED_CONFLICTS: usize = 5;

/// One side of a merge.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    pub commit: &'a str,
    /// What people call it: a branch.
    pub name: &'a str,
}

impl Mirror {
    /// The commit that merging `theirs` into `ours` leads to. Where one lies behind the other, that is the newer of them;
    /// else a new one with both as parents, which nobody else ever sees. The same sides give the same commit.
    ///
    /// # Errors
    /// When they conflict, have no history in common, or an object cannot be read or written.
    pub fn merge(&self, ours: Side<'_>, theirs: Side<'_>) -> Result<ObjectHex, SourceError> {
        let _call = tracing::debug_span!("git.merge", remote = %self.remote.shown(), ours.name, theirs.name).entered();
        if self.contains(theirs.commit, ours.commit)? {
            return Ok(ours.commit.to_owned());
        }
        if self.contains(ours.commit, theirs.commit)? {
            return Ok(theirs.commit.to_owned());
        }
        let repo = self.fresh();
        let (our_id, their_id) = (self.commit_id(&repo, ours.commit)?, self.commit_id(&repo, theirs.commit)?);
        let failed = |source| self.unreadable(theirs.commit, source);
        let unmergeable =
            |why: String| SourceError::Unmergeable { theirs: theirs.name.to_owned(), ours: ours.name.to_owned(), why };
        if repo.merge_bases_many(our_id, &[their_id]).map_err(failed)?.is_empty() {
            return Err(unmergeable("they have no history in common".to_owned()));
        }
        let labels = Labels {
            ancestor: None,
            current: Some(ours.name.as_bytes().into()),
            other: Some(theirs.name.as_bytes().into()),
        };
        let options = repo.tree_merge_options().map_err(failed)?;
        let mut merged = repo.merge_commits(our_id, their_id, labels, options.into()).map_err(failed)?.tree_merge;
        let unresolved = merged.conflicts.iter().filter(|conflict| conflict.is_unresolved(TreatAsUnresolved::git()));
        let files: Vec<String> = unresolved.map(|conflict| conflict.ours.location().to_string()).collect();
        if !files.is_empty() {
            let more = match files.len().saturating_sub(NAMED_CONFLICTS) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let named = files.into_iter().take(NAMED_CONFLICTS).collect::<Vec<_>>().join(", ");
            return Err(unmergeable(format!("both changed {named}{more}")));
        }
        let tree = merged.tree.write().map_err(failed)?.detach();
        // Their time, so that the same merge is the same commit.
        let theirs_now = their_id.attach(&repo).object().map_err(failed)?.into_commit();
        let signature = theirs_now
            .committer()
            .and_then(|committer| committer.to_owned())
            .map_err(|source| self.unreadable(theirs.commit, gix::Error::from_error(source)))?;
        let commit = gix::objs::Commit {
            tree,
            parents: [our_id, their_id].into_iter().collect(),
            author: signature.clone(),
            committer: signature,
            encoding: None,
            message: format!("Merge {} into {}\n", theirs.name, ours.name).into(),
            extra_headers: Vec::new(),
        };
        Ok(repo.write_object(&commit).map_err(failed)?.to_string())
    }
}

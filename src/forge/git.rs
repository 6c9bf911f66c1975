//! A plain git remote: the branch is the proposal. Merging it accepts, deleting it restores.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::RuntimeFlavor;

use crate::model::ObjectHex;

use super::{Draft, Forge, ForgeError, ProposalRef};

/// Makes commits and moves branches on a remote; what a mirror can do.
pub trait Branches: Send + Sync {
    /// Makes one commit on `draft.base` and gives its id. The same draft gives the same id.
    ///
    /// # Errors
    /// When the base or the object store cannot be used.
    fn commit(&self, draft: &Draft) -> Result<ObjectHex, ForgeError>;

    /// Moves `branch` on the remote to `to` (`None` deletes it) if it is at `expected` (`None`: if it is not there).
    ///
    /// # Errors
    /// [`ForgeError::Stale`] when it is elsewhere.
    fn push(&self, branch: &str, to: Option<&str>, expected: Option<&str>) -> Result<(), ForgeError>;
}

/// The forge type `git`.
pub struct PlainGit {
    branches: Arc<dyn Branches>,
}

impl PlainGit {
    /// A forge that writes through `branches`.
    pub fn new(branches: Arc<dyn Branches>) -> Self {
        Self { branches }
    }

    /// Git works with files and processes, so it gets a thread of its own, where there are several.
    async fn run<T, F>(&self, work: F) -> Result<T, ForgeError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Branches) -> Result<T, ForgeError> + Send + 'static,
    {
        let branches = Arc::clone(&self.branches);
        if tokio::runtime::Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
            return work(branches.as_ref());
        }
        tokio::task::spawn_blocking(move || work(branches.as_ref()))
            .await
            .unwrap_or_else(|_| Err(ForgeError::Unreachable { message: "the push was cut short".to_owned() }))
    }
}

#[async_trait]
impl Forge for PlainGit {
    async fn prepare(&self, draft: &Draft) -> Result<ProposalRef, ForgeError> {
        let branch = draft.branch.clone();
        let draft = draft.clone();
        let commit = self.run(move |branches| branches.commit(&draft)).await?;
        Ok(ProposalRef { branch, commit })
    }

    async fn publish(&self, proposal: &ProposalRef, expected: Option<&ObjectHex>) -> Result<(), ForgeError> {
        let (proposal, expected) = (proposal.clone(), expected.cloned());
        self.run(move |branches| branches.push(&proposal.branch, Some(&proposal.commit), expected.as_deref())).await
    }

    async fn withdraw(&self, proposal: &ProposalRef) -> Result<(), ForgeError> {
        let proposal = proposal.clone();
        self.run(move |branches| branches.push(&proposal.branch, None, Some(&proposal.commit))).await
    }
}

//! Where proposals go: one trait, one module a forge.
//!
//! What always holds: a proposal is known by its branch, it is updated in place with a lease on the commit Plumb
//! pushed last, and a branch that a person has committed to is left alone.

pub mod git;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::model::ObjectHex;

/// Why a forge could not.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ForgeError {
    /// The branch is not where it was: somebody pushed in between. Look again.
    #[error("{branch} was changed by somebody else in the meantime")]
    Stale { branch: String },
    /// The remote refused: a protected branch, a hook, a read-only credential.
    #[error("{message}")]
    Refused { message: String },
    /// The remote did not answer.
    #[error("{message}")]
    Unreachable { message: String },
}

/// One file of a proposal; `None` removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEdit {
    pub path: String,
    pub content: Option<Vec<u8>>,
}

/// A proposal to make or to bring up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub branch: String,
    /// The commit it is made on.
    pub base: ObjectHex,
    /// Subject and body.
    pub message: String,
    pub edits: Vec<FileEdit>,
    /// The commit's time. The same draft makes the same commit, so a push that was cut short is found again.
    pub at: DateTime<Utc>,
    /// The commit Plumb left the branch at; `None` when there was none.
    pub expected: Option<ObjectHex>,
}

/// A proposal that is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalRef {
    pub branch: String,
    /// The one commit on it.
    pub commit: ObjectHex,
}

/// A place where people decide.
#[async_trait]
pub trait Forge: Send + Sync {
    /// Makes the proposal's one commit, without showing it to anybody yet.
    ///
    /// # Errors
    /// When the commit cannot be made.
    async fn prepare(&self, draft: &Draft) -> Result<ProposalRef, ForgeError>;

    /// Shows a prepared proposal, or moves it from `expected` to its new commit.
    ///
    /// # Errors
    /// [`ForgeError::Stale`] when a person moved the branch.
    async fn publish(&self, proposal: &ProposalRef, expected: Option<&ObjectHex>) -> Result<(), ForgeError>;

    /// Takes a proposal back, if its branch is still where Plumb left it.
    ///
    /// # Errors
    /// [`ForgeError::Stale`] when a person moved the branch; it is left alone then.
    async fn withdraw(&self, proposal: &ProposalRef) -> Result<(), ForgeError>;
}

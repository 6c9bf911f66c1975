//! What makes live systems match: one manager a type of system, behind one trait.
//!
//! A manager sees, and does what a step says. It decides nothing: what to do is the planner's, and every step says
//! what it expects to find (R13). What always holds: nothing without this key's mark is touched (R1), the mark comes
//! first (R2), and what cannot be seen is said to be unknown, never absent (R5).

pub mod postgres;
pub mod redis;
pub mod sqlite;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::model::{
    Depth, Kind, Mark, ObjectId, Observation, PlatformId, ProviderIdentity, ProviderType, Reason, ResourceKey, Step,
    Target, Unknown,
};

/// Where a manager connects to, secrets resolved.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The Provider's name, for messages.
    pub name: String,
    pub provider_type: ProviderType,
    /// As in `spec.url`.
    pub url: String,
    pub password: Option<SecretString>,
    /// What relative paths in `url` are relative to: the data directory.
    pub base_dir: PathBuf,
    /// How many connections at most.
    pub max_concurrency: usize,
    /// How long one question to the server may take.
    pub timeout: Duration,
}

/// What every call carries.
#[derive(Clone, Copy)]
pub struct Cx<'a> {
    /// Whose marks are ours.
    pub platform: &'a PlatformId,
    /// Passwords of roles.
    pub secrets: &'a dyn Secrets,
}

/// Gives the passwords of roles (R12). What it gives is stored, encrypted, before it is given.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The password of `role` of `key` for a rotation; made and stored when there is none yet, the same ever after.
    /// `rotation` is the value of `plumb.dev/rotate` that asks for it, empty for the first password; `None` where nothing asks
    /// for another than the role's siblings have.
    ///
    /// # Errors
    /// When it could not be stored or read; then the role must not be made.
    async fn password(
        &self,
        key: &ResourceKey,
        role: &str,
        rotation: Option<&str>,
    ) -> Result<SecretString, ManagerError>;
}

/// What an apply did, beyond what the next observation shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "notes are events"]
pub struct Outcome {
    /// What a person should know, one sentence each.
    pub notes: Vec<String>,
}

/// A marked object of this platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub mark: Mark,
    pub object_name: String,
    pub object: ObjectId,
}

/// Why a manager could not.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ManagerError {
    /// It may work later: down, slow, busy.
    #[error("{message}")]
    Retry { after: Option<Duration>, reason: Reason, message: String },
    /// The target is not what the step expects; plan anew.
    #[error("{message}")]
    Conflict { reason: Reason, message: String },
    /// It will not work until a person changes something.
    #[error("{message}")]
    Terminal { reason: Reason, message: String },
}

impl ManagerError {
    /// A failure that may pass.
    pub fn retry(reason: Reason, message: impl Into<String>) -> Self {
        Self::Retry { after: None, reason, message: message.into() }
    }

    /// Another plumb holds the object's lock: no failure of the step, which is tried again until the lock is given.
    pub fn locked(message: impl Into<String>) -> Self {
        Self::retry(Reason::Locked, message)
    }

    /// A target that is not what was expected.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict { reason: Reason::Conflict, message: message.into() }
    }

    /// A failure that stays.
    pub fn terminal(reason: Reason, message: impl Into<String>) -> Self {
        Self::Terminal { reason, message: message.into() }
    }

    /// The reason, whatever the variant.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Retry { reason, .. } | Self::Conflict { reason, .. } | Self::Terminal { reason, .. } => *reason,
        }
    }
}

impl From<&ManagerError> for Unknown {
    fn from(error: &ManagerError) -> Self {
        Unknown::new(error.reason(), error.to_string())
    }
}

/// Sees and changes one system. Made by [`connect`]; cheap to keep, connects when first used.
#[async_trait]
pub trait ResourceManager: Send + Sync {
    /// The kinds it serves.
    fn kinds(&self) -> &'static [Kind];

    /// Who the server is; `None` while nothing establishes it (an embedded root that nobody has used yet). Writes
    /// nothing.
    ///
    /// # Errors
    /// When the server cannot be asked.
    async fn identity(&self) -> Result<Option<ProviderIdentity>, ManagerError>;

    /// What is live, for each target in order. Canonical values: the same spelling `KindInfo::flatten` gives. A
    /// target that could not be seen is `Observation::Unknown`; one sick object never hides the others.
    ///
    /// # Errors
    /// When nothing at all could be seen; then every target is unknown.
    async fn observe(&self, targets: &[Target], depth: Depth, cx: &Cx<'_>) -> Result<Vec<Observation>, ManagerError>;

    /// Every object with a mark of this platform: what orphans are found by. Those of the names in `in_place` were just
    /// seen to bear the mark of the key that the name is made for, and may be left out.
    ///
    /// # Errors
    /// When the server cannot be asked.
    async fn discover(&self, in_place: &BTreeSet<String>, cx: &Cx<'_>) -> Result<Vec<Found>, ManagerError>;

    /// Does one step. Idempotent: after a death at any point, the same step, planned anew, finishes the work.
    ///
    /// # Errors
    /// [`ManagerError::Conflict`] when the target is not what `step.expect` and the changes' `from` say.
    async fn apply(&self, step: &Step, cx: &Cx<'_>) -> Result<Outcome, ManagerError>;

    /// Clears away what a killed process left half done and nobody will go on with: called after each full pass by
    /// those who may write. Touches no object.
    ///
    /// # Errors
    /// When it could not; nothing depends on it.
    async fn tidy(&self) -> Result<(), ManagerError> {
        Ok(())
    }

    /// Where an application finds the object; no secret.
    fn outputs(&self, target: &Target) -> BTreeMap<String, String>;
}

/// The manager for an endpoint's type of system.
///
/// # Errors
/// When the URL cannot be read.
pub fn connect(endpoint: Endpoint) -> Result<Arc<dyn ResourceManager>, ManagerError> {
    Ok(match endpoint.provider_type {
        ProviderType::Postgres => Arc::new(postgres::connect(endpoint)?),
        ProviderType::Sqlite => Arc::new(sqlite::connect(endpoint)?),
        ProviderType::Redis => Arc::new(redis::connect(endpoint)?),
    })
}

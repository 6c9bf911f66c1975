//! What a tenant wants: resources as they stand at the head of its branch.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::diagnostic::Diagnostic;
use super::fields::{FieldPath, Fields};
use super::key::{Kind, ObjectHex, ResourceKey};

/// `plumb.dev/drift`: what is done when live differs from what was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DriftMode {
    /// A pull request asks a person.
    #[default]
    Propose,
    /// Git's value is put back at once.
    Revert,
    /// It is recorded, no more.
    Observe,
}

/// `plumb.dev/deletion`: what removing the document does to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Deletion {
    /// Nothing: the removal is held.
    Protect,
    /// The object is deleted.
    Delete,
    /// The object stays, marked, and Plumb forgets it.
    Retain,
}

impl Deletion {
    /// How much has to happen before an object is gone: more is safer.
    pub const fn safety(self) -> u8 {
        match self {
            Deletion::Delete => 0,
            Deletion::Retain => 1,
            Deletion::Protect => 2,
        }
    }
}

/// `plumb.dev/on-failure`: what becomes of a change that fails for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// What was done stays, and what failed waits for a person.
    #[default]
    Keep,
    /// What the same commit did to resources that say so too, in the same environment, is undone. Data that it made stays,
    /// and so does what it deleted, adopted or replaced: undoing that could lose something.
    Rollback,
}

/// The annotations Plumb acts on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Annotations {
    /// `plumb.dev/drift`; the tenant's, when absent.
    pub drift: Option<DriftMode>,
    /// `plumb.dev/drift-ignore`: fields, and all below them, whose drift is not looked at.
    pub drift_ignore: Vec<FieldPath>,
    /// `plumb.dev/deletion`; see [`Annotations::deletion_of`].
    pub deletion: Option<Deletion>,
    /// `plumb.dev/adopt`: take over an object that has no mark.
    pub adopt: bool,
    /// `plumb.dev/suspend`: change nothing.
    pub suspend: bool,
    /// `plumb.dev/rotate`: a new value asks for new passwords.
    pub rotate: Option<String>,
    /// `plumb.dev/on-failure`
    pub on_failure: OnFailure,
}

impl Annotations {
    /// The deletion policy in force: kinds that hold data are protected unless they say otherwise.
    pub fn deletion_of(&self, kind: Kind) -> Deletion {
        self.deletion.unwrap_or(if kind.info().data_bearing { Deletion::Protect } else { Deletion::Delete })
    }

    /// Whether an object of `kind` may be deleted, or made anew, once nobody wants what it is.
    pub fn allow_deletion(&self, kind: Kind) -> bool {
        self.deletion_of(kind) == Deletion::Delete
    }

    /// These, of an object of `kind`, with what `newer` says to keep it safer: a word that protects holds from the commit
    /// that says it, whatever else of that commit has to wait (R7).
    pub fn kept_safer_by(&self, newer: &Self, kind: Kind) -> Self {
        let is_safer = newer.deletion_of(kind).safety() > self.deletion_of(kind).safety();
        Self {
            deletion: if is_safer { newer.deletion } else { self.deletion },
            suspend: self.suspend || newer.suspend,
            ..self.clone()
        }
    }

    /// Whether drift of `path` is not looked at.
    pub fn ignores(&self, path: &FieldPath) -> bool {
        self.drift_ignore.iter().any(|ignored| path.is_within(ignored.as_str()))
    }
}

/// Where a resource is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The path inside the repository, with `/`.
    pub file: String,
    /// Which document of the file, from 0.
    pub document: usize,
    /// The blob the file was at.
    pub blob: ObjectHex,
}

/// One resource that a tenant wants, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub key: ResourceKey,
    /// The Provider it lives on, default filled in.
    pub provider: String,
    /// What git sets, flat.
    pub fields: Fields,
    pub annotations: Annotations,
    pub labels: BTreeMap<String, String>,
    pub depends_on: Vec<ResourceKey>,
    pub origin: Origin,
    /// The document as it was written, as JSON: the input of policies and the status page.
    pub document: Arc<serde_json::Value>,
}

/// All that a tenant wants at one commit, and how far that can be trusted.
#[derive(Clone, Debug, Default)]
pub struct DesiredState {
    pub tenant: String,
    /// The head it was read from; `None` for a working tree.
    pub commit: Option<ObjectHex>,
    /// Valid resources.
    pub resources: BTreeMap<ResourceKey, Arc<Resource>>,
    /// Keys whose documents are there but cannot be used; they are neither changed nor pruned. With the reason.
    pub rejected: BTreeMap<ResourceKey, String>,
    /// What those documents say of themselves, as far as it can be read: only what keeps an object safer counts (R7).
    pub said: BTreeMap<ResourceKey, Annotations>,
    /// Why nothing may be pruned (R9): unreadable files and the like. Empty when the tree was read whole.
    pub unreadable: Vec<String>,
    /// Keys that policies deny, with the message; they are gated.
    pub denied: BTreeMap<ResourceKey, String>,
    pub diagnostics: Vec<Diagnostic>,
}

impl DesiredState {
    /// What a document says of itself, whether it can be used or not.
    pub fn said_of(&self, key: &ResourceKey) -> Option<&Annotations> {
        self.resources.get(key).map(|resource| &resource.annotations).or_else(|| self.said.get(key))
    }
}

//! A plan: what an apply will do, with nothing left to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::condition::Reason;
use super::fields::{FieldPath, Fields};
use super::inventory::ApprovalKind;
use super::key::{ObjectHex, ResourceKey};
use super::observation::{Mark, ObjectId, Unknown};
use super::resource::DriftMode;

/// Twelve hex digits of a hash over the tenant and all steps before the gate. Not over the commit: a commit that
/// changes nothing leaves it as it was, so that an approval can be committed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PlanId(pub String);

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Make an object that is not there.
    Create,
    /// Change fields of an object.
    Update,
    /// Delete an object and make it again, since a field cannot change in place.
    Replace,
    /// Delete an object.
    Delete,
    /// Put a mark on an object that has none, and make its fields true.
    Adopt,
}

impl Action {
    /// The word as plans print it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Update => "update",
            Action::Replace => "replace",
            Action::Delete => "delete",
            Action::Adopt => "adopt",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One field that a step changes. `None` is "not there".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub path: FieldPath,
    /// The live value the plan was made on; checked again under the lock (R13).
    pub from: Option<Value>,
    /// The value to be; `None` removes the member, or sets the server's default.
    pub to: Option<Value>,
}

/// The state a step expects to find; anything else is a conflict, and planned anew (R13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// No object of that name, or one that this very key began to make.
    Absent,
    /// This object, with this key's mark.
    Marked(ObjectId),
    /// This object, without a mark.
    Unmarked(ObjectId),
}

/// One thing to do to one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub key: ResourceKey,
    pub action: Action,
    /// The Provider it is done on.
    pub provider: String,
    /// The object's name there.
    pub object_name: String,
    pub expect: Expect,
    pub changes: Vec<Change>,
    /// All that git sets, whether it changes or not. Empty for a deletion.
    pub desired: Fields,
    /// The mark to leave on the object. Fields that are held keep their old hash in it.
    pub mark: Mark,
    /// Other keys whose steps come first: dependencies, or dependents when deleting. Only keys with a step of this
    /// plan.
    pub depends_on: Vec<ResourceKey>,
    /// What it loses, one sentence each (R6).
    pub destructive: Vec<String>,
    /// New passwords for all roles; the value of `plumb.dev/rotate` that asks for them (R12).
    pub rotate: Option<String>,
}

impl Step {
    /// The roles that get new passwords in place of those they have.
    pub fn new_passwords(&self) -> Vec<String> {
        match (self.action, &self.rotate) {
            (Action::Update | Action::Replace | Action::Adopt, Some(_)) => {
                self.key.kind.roles(self.desired.paths()).into_iter().collect()
            }
            (Action::Create | Action::Delete, Some(_)) | (_, None) => Vec::new(),
        }
    }

    /// Whether it deletes something, in the sense of R6.
    pub fn loses(&self) -> bool {
        match self.action {
            Action::Delete | Action::Replace => true,
            Action::Create | Action::Update | Action::Adopt => !self.destructive.is_empty(),
        }
    }
}

/// A step, or a whole resource, that the plan does not do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blocked {
    pub key: ResourceKey,
    pub reason: Reason,
    /// Why, and the way out.
    pub message: String,
    /// When it passes without anybody doing anything, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// What would be done, where there is a step.
    pub step: Option<Step>,
    /// What approves it, where no approval of anything else does: the id of a plan of this step alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<PlanId>,
}

/// A field whose live value is not what was applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftedField {
    pub path: FieldPath,
    /// What was applied last, where that is known.
    pub base: Option<Value>,
    pub git: Option<Value>,
    pub live: Option<Value>,
    /// Git changed too, or there is no base: nobody can say who is right.
    pub conflict: bool,
}

/// Drift of one resource, and what is done about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    pub key: ResourceKey,
    pub mode: DriftMode,
    /// Empty when the object is missing.
    pub fields: Vec<DriftedField>,
    /// The object itself is gone (R8).
    pub missing: bool,
    /// A person has said to leave this difference alone (`onClose: ignore`).
    pub silenced: bool,
}

/// A change to the inventory alone: nothing is done to the live system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Settle {
    /// Live is as git wants it; the record is brought up to date (also converged, rebound, recovered). `remark` brings
    /// the hashes in the object's mark up to date and changes no field, so that the mark stays a true base (R4).
    Record { key: ResourceKey, reason: Reason, remark: Option<Box<Step>> },
    /// The record goes: the object is gone and git no longer wants it, or it is retained.
    Forget { key: ResourceKey, reason: Reason },
}

impl Settle {
    /// The key it is about.
    pub fn key(&self) -> &ResourceKey {
        match self {
            Settle::Record { key, .. } | Settle::Forget { key, .. } => key,
        }
    }
}

/// How much of the tenant a plan looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlanScope {
    /// All of it. Only such a plan deletes, and only its id can be approved.
    Full,
    /// These keys and no others.
    Keys(BTreeSet<ResourceKey>),
}

impl PlanScope {
    /// Whether `key` is looked at.
    pub fn covers(&self, key: &ResourceKey) -> bool {
        match self {
            PlanScope::Full => true,
            PlanScope::Keys(keys) => keys.contains(key),
        }
    }
}

/// What is to be done for one tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub id: PlanId,
    pub tenant: String,
    pub commit: Option<ObjectHex>,
    pub scope: PlanScope,
    /// In dependency order.
    pub steps: Vec<Step>,
    pub blocked: Vec<Blocked>,
    pub drift: Vec<Drift>,
    pub settles: Vec<Settle>,
    /// Fields that keep their base, since somebody has to decide or they could not be seen.
    pub held: BTreeMap<ResourceKey, BTreeSet<FieldPath>>,
    /// Resources that could not be seen (R5).
    pub unknown: Vec<(ResourceKey, Unknown)>,
    /// Resources that are wanted as they were before a change that failed, whether that can be done now or not.
    #[serde(default)]
    pub rolled_back: BTreeSet<ResourceKey>,
    /// Things a person should know that stop nothing, such as a leftover `adopt`.
    pub warnings: Vec<(ResourceKey, Reason, String)>,
    /// Resources that need nothing.
    pub unchanged: usize,
}

/// How many of each, as people read first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub create: usize,
    pub update: usize,
    pub replace: usize,
    pub delete: usize,
    pub adopt: usize,
    pub unchanged: usize,
}

impl Summary {
    /// Counts these steps too.
    pub fn count<'a>(&mut self, steps: impl IntoIterator<Item = &'a Step>) {
        for step in steps {
            *match step.action {
                Action::Create => &mut self.create,
                Action::Update => &mut self.update,
                Action::Replace => &mut self.replace,
                Action::Delete => &mut self.delete,
                Action::Adopt => &mut self.adopt,
            } += 1;
        }
    }
}

impl Plan {
    /// The counts.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary { unchanged: self.unchanged, ..Summary::default() };
        summary.count(&self.steps);
        summary
    }

    /// When the first of what is held passes without anybody doing anything.
    pub fn goes_on_at(&self) -> Option<DateTime<Utc>> {
        self.blocked.iter().filter_map(|blocked| blocked.until).min()
    }

    /// The keys that wait for an approval of `kind`, and that a trailer with this plan's id covers. Only a full plan can
    /// be approved.
    pub fn awaiting(&self, kind: ApprovalKind) -> BTreeSet<ResourceKey> {
        match self.scope {
            PlanScope::Full => {}
            PlanScope::Keys(_) => return BTreeSet::new(),
        }
        let waits = |blocked: &&Blocked| match (kind, blocked.reason) {
            _ if blocked.alone.is_some() => kind == ApprovalKind::Deletes && blocked.alone.as_ref() == Some(&self.id),
            (
                ApprovalKind::Deletes,
                Reason::DeletionsHeld
                | Reason::Orphaned
                | Reason::EmptyTree
                | Reason::SourceChanged
                | Reason::HistoryRewritten,
            ) => true,
            (ApprovalKind::Create, Reason::DataMissing | Reason::PossibleRename) => {
                blocked.step.as_ref().is_some_and(|step| step.action == Action::Create)
            }
            _ => false,
        };
        self.blocked.iter().filter(waits).map(|blocked| blocked.key.clone()).collect()
    }

    /// What its id names: every step, held or not.
    pub fn all_steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(self.blocked.iter().filter_map(|blocked| blocked.step.as_ref()))
    }

    /// Whether the steps of `key` undo what a change that failed did.
    pub fn rolls_back(&self, key: &ResourceKey) -> bool {
        self.rolled_back.contains(key)
    }

    /// Whether a deletion, or a loss inside an object, is held.
    pub fn holds_losses(&self) -> bool {
        self.blocked.iter().any(|blocked| blocked.step.as_ref().is_some_and(Step::loses))
    }

    /// Whether there is nothing to do, nothing held, nothing drifted (but what a person silenced) and nothing unseen.
    pub fn is_in_sync(&self) -> bool {
        let drifted = self.drift.iter().any(|drift| !drift.silenced);
        self.steps.is_empty() && self.blocked.is_empty() && !drifted && self.unknown.is_empty()
    }
}

//! What was applied: the memory that drives pruning, ownership and drift, and the open conversations about drift.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::condition::Reason;
use super::fields::{FieldHash, FieldPath, Fields};
use super::key::{ObjectHex, ResourceKey};
use super::observation::{ObjectId, ProviderIdentity};
use super::plan::{Change, PlanId};
use super::resource::{Annotations, DesiredState, DriftMode};

/// One object that Plumb applied or recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub key: ResourceKey,
    /// The name of the Provider, and who that server was.
    pub provider: String,
    pub identity: ProviderIdentity,
    pub object_name: String,
    pub object: ObjectId,
    /// What git set when it was applied last.
    pub applied: Fields,
    /// The live values of those fields, read back after the apply. Drift is live against these.
    pub readback: Fields,
    /// Fields that a lost inventory left without values (R4): the hash their mark had, if any, is all that is known of
    /// their base until a person decides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unsettled: BTreeMap<FieldPath, Option<FieldHash>>,
    /// What steps began of which this does not say how it ended.
    #[serde(default, skip_serializing_if = "Begun::is_empty")]
    pub begun: Begun,
    pub annotations: Annotations,
    /// The document as it was applied: what policies call `previous`.
    #[serde(default)]
    pub document: AppliedDocument,
    pub depends_on: Vec<ResourceKey>,
    /// The file it came from.
    pub file: String,
    /// The commit it came from; empty when applied from a working tree.
    pub commit: ObjectHex,
    /// Forgotten on purpose (`deletion: retain`): kept so that it is not shown as an orphan.
    pub retained: bool,
    pub updated_at: DateTime<Utc>,
}

impl Record {
    /// A record of which nothing is known but that it is there.
    pub fn of_key(key: ResourceKey) -> Self {
        Self {
            key,
            provider: String::new(),
            identity: ProviderIdentity(String::new()),
            object_name: String::new(),
            object: ObjectId(String::new()),
            applied: Fields::default(),
            readback: Fields::default(),
            unsettled: BTreeMap::new(),
            begun: Begun::default(),
            annotations: Annotations::default(),
            document: AppliedDocument::default(),
            depends_on: Vec::new(),
            file: String::new(),
            commit: ObjectHex::default(),
            retained: false,
            updated_at: DateTime::UNIX_EPOCH,
        }
    }
}

/// What steps began of which the record does not say how it ended: they failed, nothing could be read back, or a death came
/// between. What of it is live is no drift.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// The values that each field may have been given; `None` where it may have been taken away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<FieldPath, Vec<Option<Value>>>,
    /// Whether new passwords may have been set.
    #[serde(default)]
    pub passwords: bool,
}

impl Begun {
    /// Whether the record knows how every step ended.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && !self.passwords
    }

    /// Remembers a step that makes these changes, and sets new passwords or does not.
    pub fn add(&mut self, changes: &[Change], passwords: bool) {
        let values = changes.iter().map(|change| (change.path.clone(), vec![change.to.clone()]));
        self.join(Self { fields: values.collect(), passwords });
    }

    /// Remembers what another one does, too.
    pub fn join(&mut self, other: Self) {
        for (path, values) in other.fields {
            let known = self.fields.entry(path).or_default();
            for value in values {
                if !known.contains(&value) {
                    known.push(value);
                }
            }
        }
        self.passwords |= other.passwords;
    }
}

/// A document as it was applied, as JSON text: a tenant has thousands of them, and one is looked into only where git
/// says something else by now. Null where nobody knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AppliedDocument(Arc<RawValue>);

impl AppliedDocument {
    /// Whether nobody knows what was applied.
    pub fn is_unknown(&self) -> bool {
        self.0.get() == RawValue::NULL.get()
    }

    /// Whether it says what `document` says, in the same order.
    pub fn is(&self, document: &Value) -> bool {
        *self == Self::from(document)
    }

    /// What it says.
    pub fn value(&self) -> Value {
        serde_json::from_str(self.0.get()).expect("it is JSON")
    }
}

impl Default for AppliedDocument {
    fn default() -> Self {
        Self(RawValue::NULL.to_owned().into())
    }
}

impl From<&Value> for AppliedDocument {
    fn from(document: &Value) -> Self {
        let text = RawValue::from_string(document.to_string()).expect("it is JSON");
        Self(text.into())
    }
}

impl PartialEq for AppliedDocument {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// All records of one tenant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    pub records: BTreeMap<ResourceKey, Record>,
}

impl Inventory {
    /// The record of `key`, unless it was forgotten on purpose.
    pub fn get(&self, key: &ResourceKey) -> Option<&Record> {
        self.records.get(key).filter(|record| !record.retained)
    }

    /// Records whose documents git does not have any more, in any form.
    pub fn unwanted<'a>(&'a self, desired: &'a DesiredState) -> impl Iterator<Item = &'a Record> {
        // Both are sorted: going through them side by side is much cheaper than looking each record up.
        let mut wanted = desired.resources.keys().peekable();
        self.live().filter(move |record| {
            let key = &record.key;
            while wanted.next_if(|wanted| *wanted < key).is_some() {}
            wanted.peek() != Some(&key) && !desired.rejected.contains_key(key)
        })
    }

    /// Records that were not forgotten on purpose.
    pub fn live(&self) -> impl Iterator<Item = &Record> {
        self.records.values().filter(|record| !record.retained)
    }
}

/// One field of a proposal, three ways. `None` is "not set" or "not there".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProposedField {
    pub path: FieldPath,
    /// What was applied last, where that is known.
    pub base: Option<Value>,
    /// What git said when the proposal was opened.
    pub git: Option<Value>,
    /// What was live.
    pub live: Option<Value>,
}

/// A field that differs and stays as it is, since no edit of its document can say what is live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    pub field: ProposedField,
    /// Why it cannot be said.
    pub message: String,
}

/// What a proposal offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProposalKind {
    /// Edits the document to the live values.
    Drift,
    /// Removes the document of an object that is gone (R8).
    Missing,
}

/// Where a proposal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProposalStatus {
    /// Recorded; its branch is still to be pushed, or the push was refused.
    Pending,
    /// Its branch is on the remote.
    Open,
    /// A person committed to the branch; Plumb no longer updates it.
    HandsOff,
    /// Decided: merged, whole or edited.
    Accepted,
    /// Decided: the branch was deleted; git's value goes back to the live system.
    Restored,
    /// Decided: the branch was deleted and the tenant says `onClose: ignore`.
    Ignored,
    /// Live came back by itself, or git set the fields.
    Closed,
}

impl ProposalStatus {
    /// Whether it still waits for a person.
    pub fn is_undecided(self) -> bool {
        match self {
            Self::Pending | Self::Open | Self::HandsOff => true,
            Self::Accepted | Self::Restored | Self::Ignored | Self::Closed => false,
        }
    }
}

/// A conversation about drift: one a resource, on one branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    pub key: ResourceKey,
    pub kind: ProposalKind,
    pub branch: String,
    /// The remote it was pushed to; a branch that vanishes elsewhere decides nothing (R14).
    pub url: String,
    /// The head it was made on.
    pub base: ObjectHex,
    /// The commit of Plumb's that was seen, or put, on the branch last; `None` while it is not known to be out.
    pub pushed: Option<ObjectHex>,
    /// A commit whose push is not known to have arrived.
    #[serde(default)]
    pub pushing: Option<ObjectHex>,
    /// The blob that its edit was made on; a newer one asks for a newer edit.
    #[serde(default)]
    pub blob: ObjectHex,
    /// The file that its edit is of; a document that moved asks for an edit where it is now.
    #[serde(default)]
    pub file: String,
    /// What it offers.
    pub fields: Vec<ProposedField>,
    /// What differs beside that, and cannot be offered.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// What a person said to leave alone before (`onClose: ignore`), and still is as it was then.
    #[serde(default)]
    pub silenced: Vec<ProposedField>,
    pub status: ProposalStatus,
    /// Another source, or another history, is read since, in which the document cannot be found: its absence is no answer,
    /// and once it is there the question is about what it says then.
    #[serde(default)]
    pub elsewhere: bool,
    /// When its branch was last seen gone among so many that none was taken for an answer (R14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vanished_at: Option<DateTime<Utc>>,
    /// Whether what it should be could not be shown at the last try; the message says why.
    #[serde(default)]
    pub failed: bool,
    /// What to say about it: why it failed or how it was decided.
    pub message: String,
    /// The unified diff it offers.
    pub diff: String,
    pub opened_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Proposal {
    /// A proposal of which nothing is known but what it is about, and when it began.
    pub fn of_key(key: ResourceKey, at: DateTime<Utc>) -> Self {
        Self {
            key,
            kind: ProposalKind::Drift,
            branch: String::new(),
            url: String::new(),
            base: ObjectHex::default(),
            pushed: None,
            pushing: None,
            blob: ObjectHex::default(),
            file: String::new(),
            fields: Vec::new(),
            left_out: Vec::new(),
            silenced: Vec::new(),
            status: ProposalStatus::Pending,
            elsewhere: false,
            vanished_at: None,
            failed: false,
            message: String::new(),
            diff: String::new(),
            opened_at: at,
            updated_at: at,
        }
    }

    /// Whether `commit` is one that Plumb put on the branch.
    pub fn made(&self, commit: &ObjectHex) -> bool {
        self.pushed.as_ref() == Some(commit) || self.pushing.as_ref() == Some(commit)
    }
}

/// What people have decided, and what is still open: the planner's view of the proposals and approvals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decisions {
    /// What is done about drift where the resource does not say: the tenant's `drift`.
    pub drift: DriftMode,
    /// Undecided proposals: what git said of each field then. A field that git has set since is no longer held.
    pub open: BTreeMap<ResourceKey, Vec<ProposedField>>,
    /// Decided proposals whose fields may now be applied, if live is still what the person saw.
    pub lifted: BTreeMap<ResourceKey, Vec<ProposedField>>,
    /// Of those, where what is live was accepted; the others ask for git's value.
    #[serde(default)]
    pub accepted: BTreeSet<ResourceKey>,
    /// Differences to be left alone while they stay as they are (`onClose: ignore`).
    pub ignored: BTreeMap<ResourceKey, Vec<ProposedField>>,
    /// Proposals to remove the document of a missing object that were decided against: recreation still needs R8's
    /// approval, but nothing is proposed again.
    pub kept_missing: BTreeSet<ResourceKey>,
    /// Keys whose objects were there, whatever else was lost: a proposal says that they are gone, or one of Plumb's own
    /// is out that the state does not know (R8).
    pub were_there: BTreeSet<ResourceKey>,
    /// Keys whose objects were gone when their documents were removed, as far as anybody knew: that lets go of what is
    /// not there, and gives no permission to delete what came back (R7).
    #[serde(default)]
    pub let_go: BTreeSet<ResourceKey>,
    pub approvals: Vec<Approval>,
    /// Keys whose deletion was held before and is not approved since. They stay held, whatever else the tenant has by
    /// now: resources that were added meanwhile must not make the share that goes look small (R6).
    pub held_deletes: BTreeSet<ResourceKey>,
    /// Keys whose step failed and is not to be tried now, with why.
    pub not_now: BTreeMap<ResourceKey, Hold>,
    /// Keys that are wanted as they were before the commit, since it failed for good, with what to say of them.
    pub rolled_back: BTreeMap<ResourceKey, String>,
    /// Of those, what the commit did to fields that nobody managed before: they go back to what they were, not to their
    /// defaults, and are nobody's again.
    #[serde(default)]
    pub unmanaged_before: BTreeMap<ResourceKey, Vec<Change>>,
    /// Why every deletion is held until approved (R9): empty tree, changed source, rewritten history.
    pub prune_holds: Vec<(Reason, String)>,
    /// Environments in which nothing may be changed now, with why.
    pub closed_windows: BTreeMap<String, Hold>,
}

/// Why something is not done now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub reason: Reason,
    /// Why, and what ends it: a time, or what a person can do.
    pub message: String,
    /// When it ends without anybody doing anything, where that is known.
    pub until: Option<DateTime<Utc>>,
}

impl Hold {
    /// One that only a person ends.
    pub fn by(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), until: None }
    }
}

/// What a trailer approves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApprovalKind {
    /// `Plumb-Approve-Deletes` (R6).
    Deletes,
    /// `Plumb-Approve-Create` (R8).
    Create,
}

impl ApprovalKind {
    /// The git trailer that gives it.
    pub const fn trailer(self) -> &'static str {
        match self {
            ApprovalKind::Deletes => "Plumb-Approve-Deletes",
            ApprovalKind::Create => "Plumb-Approve-Create",
        }
    }
}

/// A trailer found in a commit, and the keys its plan had held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub kind: ApprovalKind,
    pub plan: PlanId,
    /// The keys it covers, and so every subset of them; empty when the plan is not remembered, then only a plan with
    /// this very id is covered.
    pub keys: BTreeSet<ResourceKey>,
    pub commit: ObjectHex,
}

//! Executions and their events: the timeline every status, page and metric derives from.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::condition::Reason;
use super::key::{ObjectHex, ResourceKey};
use super::plan::{Action, Change, PlanId, Summary};

/// Why an execution began: mostly, why a tenant was looked at. Told, never acted on: what is done follows from what is
/// found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    Start,
    Poll,
    Commit,
    DriftScan,
    Retry,
    Request,
    CommandLine,
    /// A password was shown, and nothing looked at.
    SecretShown,
}

impl Trigger {
    /// Whether the tenant was looked at.
    pub fn is_look(self) -> bool {
        match self {
            Self::Start
            | Self::Poll
            | Self::Commit
            | Self::DriftScan
            | Self::Retry
            | Self::Request
            | Self::CommandLine => true,
            Self::SecretShown => false,
        }
    }
}

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecutionOutcome {
    Running,
    /// Everything is as git says.
    InSync,
    /// Something is held, drifted, invalid or unknown.
    Blocked,
    /// A step or the execution itself failed.
    Failed,
    /// The process ended while it ran, or its events could not be written; the next execution went on.
    Interrupted,
}

/// One reconcile of one tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    pub id: i64,
    pub tenant: String,
    pub trigger: Trigger,
    pub commit: Option<ObjectHex>,
    pub plan: Option<PlanId>,
    pub outcome: ExecutionOutcome,
    pub summary: Summary,
    pub started_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// One line of a timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its number in the store; rising.
    pub id: i64,
    pub execution: i64,
    pub tenant: String,
    pub at: DateTime<Utc>,
    pub key: Option<ResourceKey>,
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum EventKind {
    SourceRead {
        commit: ObjectHex,
        files: usize,
        changed: usize,
    },
    SourceFailed {
        reason: Reason,
        message: String,
    },
    Invalid {
        code: String,
        message: String,
        file: String,
        line: Option<usize>,
    },
    Planned {
        plan: PlanId,
        summary: Summary,
        blocked: usize,
        drifted: usize,
        /// Earlier timelines did not count them.
        #[serde(default)]
        unknown: usize,
    },
    Blocked {
        reason: Reason,
        message: String,
    },
    Unknown {
        reason: Reason,
        message: String,
    },
    StepStarted {
        action: Action,
        changes: Vec<Change>,
        destructive: Vec<String>,
        /// The roles that get new passwords, since `plumb.dev/rotate` asks for them. Earlier timelines did not say.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        new_passwords: Vec<String>,
    },
    StepDone {
        action: Action,
        millis: u64,
    },
    StepFailed {
        action: Action,
        reason: Reason,
        message: String,
        millis: u64,
    },
    Recorded {
        reason: Reason,
    },
    DriftFound {
        reason: Reason,
        message: String,
    },
    ProposalOpened {
        branch: String,
        diff: String,
    },
    ProposalUpdated {
        branch: String,
        diff: String,
    },
    ProposalDecided {
        branch: String,
        status: super::inventory::ProposalStatus,
        message: String,
    },
    ProposalFailed {
        branch: String,
        message: String,
    },
    Warning {
        reason: Reason,
        message: String,
    },
    /// A step failed for good, and what the same commit did to these is undone.
    RollbackStarted {
        reason: Reason,
        message: String,
        keys: Vec<ResourceKey>,
    },
    SecretShown {
        role: String,
    },
    /// What only a newer version says.
    #[serde(other)]
    Unfamiliar,
}

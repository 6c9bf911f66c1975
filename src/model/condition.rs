//! What is said of a resource: conditions and their reasons.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::fields::Fields;
use super::key::ResourceKey;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $(#[serde($serde:ident)])? $name:ident,)+) => {
        /// Why a condition, a block or an error is as it is. Documented by [`Reason::explain`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[doc = $doc])+ $(#[serde($serde)])? $name,)+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The name as it is printed.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)+ }
            }

            /// What it means, in a sentence.
            pub const fn explain(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc,)+),)+ }
            }
        }
    };
}

reasons! {
    /// Live is what git says.
    InPlumb,
    /// The condition does not hold, and nothing is to be done about it.
    AsExpected,
    /// A step made live what git says.
    Applied,
    /// Live already was what git says; it was only recorded.
    Recorded,
    /// The object had no mark and was taken over.
    Adopted,
    /// The same server under another Provider name; nothing was done.
    Rebound,
    /// The inventory did not know the object, and has it from its mark: the state was lost, or a process ended too early.
    Recovered,
    /// Its deletion was carried out.
    Deleted,
    /// The document is gone and the object stays (`deletion: retain`).
    Retained,
    /// Neither git nor the live system has it any more.
    Gone,
    /// A step is to be applied.
    Pending,
    /// A dependency is not ready, or its step failed.
    DependencyNotReady,
    /// A dependency was begun, bears its mark, and is not whole yet.
    DependencyUnfinished,
    /// A replica looks at the tenant, under a lease.
    LeaseHeld,
    /// A look at the tenant is asked for, and no replica has begun it yet.
    LookDue,
    /// As many steps run at once as may: on the provider, or of the tenant.
    LimitReached,
    /// The document cannot be used; see its diagnostics.
    InvalidManifest,
    /// Live differs from what was applied, and a person is asked.
    DriftProposed,
    /// Live differs from what was applied, and is put back.
    DriftReverted,
    /// Live differs from what was applied, and that is only recorded.
    DriftObserved,
    /// Git and live both changed, or the base is lost; a person is asked.
    ConflictHeld,
    /// A person closed the proposal and the tenant ignores such differences.
    DriftIgnored,
    /// The object is gone; it is not recreated empty on its own.
    DataMissing,
    /// The kind holds data and nothing recorded before this commit allows its deletion.
    DeletionProtected,
    /// Replacing it would lose data, and nothing recorded before this commit allows that.
    ReplaceProtected,
    /// More deletions at once than the guard lets pass without approval.
    DeletionsHeld,
    /// Something with the same name or spec was added in the same commit.
    PossibleRename,
    /// A resource cannot be moved to another server.
    MoveRefused,
    /// A manifest could not be read, so nothing is pruned.
    UnreadableManifest,
    /// The tree is empty, so nothing is pruned.
    EmptyTree,
    /// The tenant's repository, branch or path changed, so nothing is pruned.
    SourceChanged,
    /// The head does not descend from the last one, so nothing is pruned.
    HistoryRewritten,
    /// The environment is no longer the tenant's; its resources are frozen.
    EnvironmentRemoved,
    /// The tenant is no longer in the platform; its resources are frozen.
    TenantRemoved,
    /// An object of that name exists without Plumb's mark.
    NotOwned,
    /// An object of that name bears another key's or platform's mark.
    OwnedByOther,
    /// Marked by this platform, but neither git nor the inventory speaks of it.
    Orphaned,
    /// Over the tenant's quota.
    QuotaExceeded,
    /// A policy denies it.
    PolicyDenied,
    /// Outside the windows in which changes are applied.
    WindowClosed,
    /// It is suspended: by `plumb.dev/suspend`, or by `spec.suspend` of its Tenant.
    Suspended,
    /// Its step failed, and is tried again after a wait.
    BackingOff,
    /// Its step failed for good: a new commit, `plumb retry` or the provider's recovery tries it again.
    DeadLetter,
    /// The change failed for good and is undone (`on-failure: rollback`): live is as it was before the commit.
    RolledBack,
    /// The provider did not answer several times in a row, and is not asked for a while.
    CircuitOpen,
    /// The provider could not be reached.
    ProviderUnreachable,
    /// The provider refused the login.
    AuthenticationFailed,
    /// The login may not do or see this.
    PermissionDenied,
    /// The provider did not answer in time.
    TimedOut,
    /// Another plumb is at work on the object: its lock is held.
    Locked,
    /// The server is another one than before; the Provider has to confirm it.
    ProviderIdentityChanged,
    /// The credential's variable or file is not there.
    CredentialMissing,
    /// No such Provider in the platform.
    ProviderMissing,
    /// The provider cannot do what is asked.
    UnsupportedByProvider,
    /// The target changed between plan and apply; it is planned anew.
    Conflict,
    /// The provider refused the change for good.
    Rejected,
    /// Not looked at in this pass.
    NotObserved,
    /// The repository could not be read.
    SourceUnavailable,
    /// The proposal's branch could not be pushed; the fields stay held.
    ProposalFailed,
    /// YAML cannot say the live value, or validation would reject it; it is recorded, not proposed.
    NotExpressible,
    /// Ten proposals are open in the repository; this one waits.
    ProposalLimit,
    /// What became of the proposal's branch is no answer: the question stands, and is asked again.
    NoAnswer,
    /// The password is not in the state store; the role keeps the one it has.
    PasswordUnknown,
    /// `plumb.dev/adopt` is still there though the object is adopted.
    LeftoverAdopt,
    /// The state store or Plumb itself failed.
    Internal,
    /// A newer plumb works with the same state, and gives a reason that this one does not know.
    #[serde(other)]
    Unfamiliar,
}

impl Reason {
    /// The rule about live data (design, section 3) that it comes from, where it comes from one.
    pub const fn rule(self) -> Option<&'static str> {
        Some(match self {
            Reason::NotOwned | Reason::OwnedByOther | Reason::LeftoverAdopt => "R1",
            Reason::DependencyUnfinished => "R2",
            Reason::ConflictHeld | Reason::DriftProposed | Reason::DriftIgnored => "R3",
            Reason::Orphaned => "R4",
            Reason::ProviderUnreachable
            | Reason::ProviderMissing
            | Reason::CredentialMissing
            | Reason::AuthenticationFailed
            | Reason::PermissionDenied
            | Reason::TimedOut
            | Reason::CircuitOpen
            | Reason::NotObserved => "R5",
            Reason::DeletionsHeld => "R6",
            Reason::DeletionProtected | Reason::ReplaceProtected => "R7",
            Reason::DataMissing => "R8",
            Reason::UnreadableManifest
            | Reason::SourceUnavailable
            | Reason::EmptyTree
            | Reason::SourceChanged
            | Reason::HistoryRewritten
            | Reason::EnvironmentRemoved
            | Reason::TenantRemoved => "R9",
            Reason::PossibleRename | Reason::MoveRefused => "R10",
            Reason::ProviderIdentityChanged => "R11",
            Reason::PasswordUnknown => "R12",
            Reason::Conflict | Reason::Locked => "R13",
            Reason::NoAnswer => "R14",
            Reason::InPlumb
            | Reason::AsExpected
            | Reason::Applied
            | Reason::Recorded
            | Reason::Adopted
            | Reason::Rebound
            | Reason::Recovered
            | Reason::Deleted
            | Reason::Retained
            | Reason::Gone
            | Reason::Pending
            | Reason::DependencyNotReady
            | Reason::LeaseHeld
            | Reason::LookDue
            | Reason::LimitReached
            | Reason::InvalidManifest
            | Reason::DriftReverted
            | Reason::DriftObserved
            | Reason::QuotaExceeded
            | Reason::PolicyDenied
            | Reason::WindowClosed
            | Reason::Suspended
            | Reason::BackingOff
            | Reason::DeadLetter
            | Reason::RolledBack
            | Reason::UnsupportedByProvider
            | Reason::Rejected
            | Reason::ProposalFailed
            | Reason::NotExpressible
            | Reason::ProposalLimit
            | Reason::Internal
            | Reason::Unfamiliar => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The four conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionType {
    /// Live is what git says.
    Ready,
    /// Something is being done, or will be.
    Reconciling,
    /// It will not get better without a person.
    Stalled,
    /// Live differs from what was applied.
    Drifted,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// One thing said of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub condition_type: ConditionType,
    pub status: ConditionStatus,
    pub reason: Reason,
    pub message: String,
    /// When `status` changed last; a new message does not move it.
    pub last_transition_time: DateTime<Utc>,
}

/// What the faces show of a resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    pub key: ResourceKey,
    /// `main@sha1:<hex>` of the commit that was looked at last.
    pub revision: String,
    pub provider: String,
    pub object_name: String,
    /// What it needs, as git says; as was applied, where git does not speak of it any more.
    #[serde(default)]
    pub depends_on: Vec<ResourceKey>,
    pub conditions: Vec<Condition>,
    /// When `Ready` got the reason that it has, which its status may have had before; states of earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_since: Option<DateTime<Utc>>,
    /// When what is held goes on without anybody doing anything, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// What git sets and what is live, of the fields that git sets.
    pub desired: Fields,
    pub live: Fields,
    /// Where an application finds it.
    pub outputs: std::collections::BTreeMap<String, String>,
    pub file: String,
    pub updated_at: DateTime<Utc>,
}

impl ResourceStatus {
    /// The condition of that type.
    pub fn condition(&self, wanted: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.condition_type == wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained() {
        for reason in Reason::ALL {
            assert!(reason.explain().trim().ends_with('.'), "{reason}");
        }
    }

    #[test]
    fn a_reason_of_a_newer_version_is_one_too() {
        assert_eq!(serde_json::from_str::<Reason>("\"Weather\"").unwrap(), Reason::Unfamiliar);
        for reason in Reason::ALL {
            let word = serde_json::to_string(reason).unwrap();
            assert_eq!(serde_json::from_str::<Reason>(&word).unwrap(), *reason);
        }
    }

    #[test]
    fn every_rule_is_named_by_what_it_holds() {
        let table: [(&str, &[Reason]); 14] = [
            ("R1", &[Reason::NotOwned, Reason::OwnedByOther, Reason::LeftoverAdopt]),
            ("R2", &[Reason::DependencyUnfinished]),
            ("R3", &[Reason::DriftProposed, Reason::ConflictHeld, Reason::DriftIgnored]),
            ("R4", &[Reason::Orphaned]),
            (
                "R5",
                &[
                    Reason::CircuitOpen,
                    Reason::ProviderUnreachable,
                    Reason::AuthenticationFailed,
                    Reason::PermissionDenied,
                    Reason::TimedOut,
                    Reason::CredentialMissing,
                    Reason::ProviderMissing,
                    Reason::NotObserved,
                ],
            ),
            ("R6", &[Reason::DeletionsHeld]),
            ("R7", &[Reason::DeletionProtected, Reason::ReplaceProtected]),
            ("R8", &[Reason::DataMissing]),
            (
                "R9",
                &[
                    Reason::UnreadableManifest,
                    Reason::EmptyTree,
                    Reason::SourceChanged,
                    Reason::HistoryRewritten,
                    Reason::EnvironmentRemoved,
                    Reason::TenantRemoved,
                    Reason::SourceUnavailable,
                ],
            ),
            ("R10", &[Reason::PossibleRename, Reason::MoveRefused]),
            ("R11", &[Reason::ProviderIdentityChanged]),
            ("R12", &[Reason::PasswordUnknown]),
            ("R13", &[Reason::Locked, Reason::Conflict]),
            ("R14", &[Reason::NoAnswer]),
        ];
        for (rule, held) in table {
            let named: Vec<Reason> = Reason::ALL.iter().copied().filter(|reason| reason.rule() == Some(rule)).collect();
            assert_eq!(named, held, "{rule}");
        }
        let all: usize = table.iter().map(|(_, held)| held.len()).sum();
        assert_eq!(Reason::ALL.iter().filter(|reason| reason.rule().is_some()).count(), all, "of no other rule");
    }
}

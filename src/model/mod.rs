//! The passive types every room speaks in. Nothing here reads a file, a clock or a network.

pub mod attempt;
pub mod clock;
pub mod condition;
pub mod diagnostic;
pub mod event;
pub mod fields;
pub mod inputs;
pub mod inventory;
pub mod key;
pub mod kind;
pub mod observation;
pub mod plan;
pub mod platform;
pub mod queue;
pub mod resource;
pub mod saga;

pub use attempt::{Attempt, Circuit};
pub use clock::{Clock, SystemClock};
pub use condition::{Condition, ConditionStatus, ConditionType, Reason, ResourceStatus};
pub use diagnostic::{Code, Diagnostic, Related, Severity, Span};
pub use event::{Event, EventKind, Execution, ExecutionOutcome, Trigger};
pub use fields::{FieldHash, FieldPath, Fields};
pub use inputs::{PlanInputs, Scene};
pub use inventory::{
    AppliedDocument, Approval, ApprovalKind, Begun, Decisions, Hold, Inventory, LeftOut, Proposal, ProposalKind,
    ProposalStatus, ProposedField, Record,
};
pub use key::{Kind, ObjectHex, ResourceKey, bounded_name, is_label, revision};
pub use kind::{Access, CacheSpec, DatabaseSpec, JournalMode, KindInfo, ListShape, Role, SettingValue, refuse_setting};
pub use observation::{
    Depth, Live, Mark, ObjectId, Observation, Observations, Ownership, ProviderIdentity, Stray, Target, Unknown,
};
pub use plan::{Action, Blocked, Change, Drift, DriftedField, Expect, Plan, PlanId, PlanScope, Settle, Step, Summary};
pub use platform::{
    CredentialRef, ForgeSpec, ForgeType, Guard, OnClose, Platform, PlatformId, PlatformSpec, ProviderSpec,
    ProviderType, Repository, Serves, Suspend, TenantSpec, Window, WindowMode,
};
pub use queue::{Ask, Claim, Lease, Place, Release, Replica, Request, Slot, Width};
pub use resource::{Annotations, Deletion, DesiredState, DriftMode, OnFailure, Origin, Resource};
pub use saga::{Failure, Part, Saga};

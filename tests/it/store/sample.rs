//! One value of everything that is stored, with what is easily lost on the way: quotes, line breaks, letters beyond
//! ASCII, numbers of every shape, nanoseconds, absent values.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use plumb::model::{
    Action, Annotations, Approval, ApprovalKind, Attempt, Change, Circuit, Code, Condition, ConditionStatus,
    ConditionType, Deletion, Diagnostic, DriftMode, EventKind, Failure, FieldPath, Fields, Kind, LeftOut, ObjectId,
    OnFailure, Part, PlanId, PlatformId, Proposal, ProposalKind, ProposalStatus, ProposedField, ProviderIdentity,
    Reason, Record, ResourceKey, ResourceStatus, Saga, Span, Stray, Summary,
};
use plumb::store::inputs::PackedInputs;
use plumb::store::{HeldPlan, NewEvent, PlatformState, StoredSecret, TenantState};
use serde_json::json;

pub const HOSTILE: &str = "it's \"quoted\"; DROP TABLE secrets;--\n\té 漢 🦀 \\ %s $1 ?";

/// Seconds, and a few nanoseconds, after a fixed moment.
pub fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 123_456_789).unwrap()
}

pub fn key(tenant: &str, name: &str) -> ResourceKey {
    ResourceKey::new(tenant, "staging", Kind::Database, name)
}

pub fn fields() -> Fields {
    let mut fields = Fields::new();
    fields.insert("/spec/connectionLimit", 20);
    fields.insert("/spec/settings/work~1mem", HOSTILE);
    fields.insert("/spec/extensions/pgcrypto", true);
    fields.insert("/spec/ratio", 0.1);
    fields.insert("/spec/large", u64::MAX);
    fields.insert("/spec/small", i64::MIN);
    fields.insert("/spec/nothing", serde_json::Value::Null);
    fields
}

pub fn record(key: &ResourceKey) -> Record {
    Record {
        key: key.clone(),
        provider: "pg-main".into(),
        identity: ProviderIdentity("7300000000000000000".into()),
        object_name: key.object_name(63),
        object: ObjectId("16384".into()),
        applied: fields(),
        readback: Fields::new(),
        unsettled: [(FieldPath::new("/spec/roles/app/access"), None)].into(),
        begun: plumb::model::Begun {
            fields: BTreeMap::from([(FieldPath::new("/spec/connectionLimit"), vec![Some(json!(30)), None])]),
            passwords: true,
        },
        annotations: Annotations {
            on_failure: OnFailure::Rollback,
            drift: Some(DriftMode::Revert),
            drift_ignore: vec![FieldPath::new("/spec/settings")],
            deletion: Some(Deletion::Retain),
            adopt: true,
            suspend: false,
            rotate: Some(HOSTILE.into()),
        },
        document: (&json!({"kind": "Database", "spec": {}})).into(),
        depends_on: vec![ResourceKey::new(&key.tenant, "staging", Kind::Cache, "sessions")],
        file: "db/orders.yaml".into(),
        commit: "c0ffee".into(),
        retained: false,
        updated_at: at(1),
    }
}

pub fn status(key: &ResourceKey) -> ResourceStatus {
    ResourceStatus {
        key: key.clone(),
        revision: "main@sha1:c0ffee".into(),
        provider: "pg-main".into(),
        object_name: key.object_name(63),
        depends_on: Vec::new(),
        conditions: vec![Condition {
            condition_type: ConditionType::Drifted,
            status: ConditionStatus::Unknown,
            reason: Reason::DriftProposed,
            message: HOSTILE.into(),
            last_transition_time: at(2),
        }],
        reason_since: Some(at(2)),
        until: None,
        desired: fields(),
        live: fields(),
        outputs: BTreeMap::from([("host".to_owned(), "127.0.0.1".to_owned())]),
        file: "db/orders.yaml".into(),
        updated_at: at(3),
    }
}

pub fn attempt(key: &ResourceKey) -> Attempt {
    Attempt {
        key: key.clone(),
        provider: "pg-main".into(),
        commit: Some("c0ffee".into()),
        platform: None,
        failures: 3,
        reason: Reason::TimedOut,
        message: HOSTILE.into(),
        first_at: at(1),
        last_at: at(2),
        next_at: Some(at(7)),
    }
}

/// Inputs of a plan; those of one scene share it.
pub fn plan_inputs(scene: &str) -> PackedInputs {
    PackedInputs { inputs: vec![0, 255, b'\''], scene: scene.as_bytes().to_vec(), hash: format!("{scene} {HOSTILE}") }
}

pub fn saga(tenant: &str) -> Saga {
    let orders = key(tenant, "orders");
    let part = Part { former: Some(record(&orders)), wanted: record(&orders).applied, changes: Vec::new() };
    Saga {
        tenant: tenant.into(),
        environment: "staging".into(),
        commit: Some("c0ffee".into()),
        platform: None,
        parts: BTreeMap::from([
            (orders.clone(), part),
            (key(tenant, "made"), Part { former: None, wanted: Fields::new(), changes: Vec::new() }),
        ]),
        failure: Some(Failure {
            key: orders,
            provider: "pg-main".into(),
            reason: Reason::Rejected,
            message: HOSTILE.into(),
            failures: 1,
            at: at(6),
        }),
    }
}

pub fn circuit(provider: &str) -> Circuit {
    Circuit {
        provider: provider.into(),
        failures: 4,
        reason: Reason::ProviderUnreachable,
        message: HOSTILE.into(),
        since: at(1),
        asked_at: at(8),
        retry_at: Some(at(9)),
    }
}

pub fn proposal(key: &ResourceKey) -> Proposal {
    Proposal {
        key: key.clone(),
        kind: ProposalKind::Missing,
        branch: key.drift_branch(true),
        url: "https://example.invalid/acme.git".into(),
        base: "c0ffee".into(),
        pushed: None,
        pushing: None,
        blob: "b10b".into(),
        file: "orders.yaml".into(),
        fields: vec![ProposedField {
            path: "/spec/connectionLimit".into(),
            base: None,
            git: Some(json!(20)),
            live: Some(json!("thirty")),
        }],
        left_out: vec![LeftOut {
            field: ProposedField { path: "/spec/settings/x".into(), base: None, git: None, live: Some(json!(1)) },
            message: HOSTILE.into(),
        }],
        silenced: Vec::new(),
        status: ProposalStatus::HandsOff,
        elsewhere: false,
        vanished_at: Some(at(4)),
        failed: false,
        message: HOSTILE.into(),
        diff: "-  connectionLimit: 20\n+  connectionLimit: 30\n".into(),
        opened_at: at(4),
        updated_at: at(5),
    }
}

pub fn stray() -> Stray {
    Stray { provider: "pg-main".into(), object_name: "x".into(), object: ObjectId("1".into()), wanted: false }
}

pub fn secret(key: &ResourceKey, role: &str, rotation: &str, text: &[u8]) -> StoredSecret {
    StoredSecret {
        key: key.clone(),
        role: role.into(),
        rotation: rotation.into(),
        ciphertext: text.to_vec(),
        created_at: at(6),
    }
}

pub fn finding() -> Diagnostic {
    Diagnostic::error(Code::new("UnknownField"), "db/orders.yaml", HOSTILE)
        .at(Some(Span::locate("a: 1\n", 0, 1)))
        .help("did you mean `name`?")
        .related("first here", "db/other.yaml", None)
}

pub fn platform_state() -> PlatformState {
    PlatformState {
        id: PlatformId("acme".into()),
        commit: "c0ffee".into(),
        rejected: Some("bad".into()),
        findings: vec![finding()],
        updated_at: at(7),
    }
}

pub fn tenant_state(tenant: &str) -> TenantState {
    TenantState {
        tenant: tenant.into(),
        url: "https://example.invalid/acme.git".into(),
        branch: "main".into(),
        path: ".".into(),
        applied: None,
        head: Some("c0ffee".into()),
        left: Vec::new(),
        hold: Some(Reason::HistoryRewritten),
        removed: true,
        error: HOSTILE.into(),
        findings: vec![finding()],
        updated_at: at(8),
    }
}

pub fn held_plan(id: &str, kind: ApprovalKind, keys: &[ResourceKey]) -> HeldPlan {
    HeldPlan { id: PlanId(id.into()), kind, keys: keys.iter().cloned().collect() }
}

pub fn approval(plan: &str, commit: &str, keys: &[ResourceKey]) -> Approval {
    Approval {
        kind: ApprovalKind::Deletes,
        plan: PlanId(plan.into()),
        keys: keys.iter().cloned().collect::<BTreeSet<_>>(),
        commit: commit.into(),
    }
}

pub fn summary() -> Summary {
    Summary { create: 1, update: 2, replace: 3, delete: 4, adopt: 5, unchanged: 6 }
}

/// An event, before it is written.
pub fn event(key: Option<&ResourceKey>, at: DateTime<Utc>, kind: &EventKind) -> NewEvent {
    NewEvent { key: key.cloned(), at, kind: kind.clone() }
}

/// One event of every kind.
pub fn events() -> Vec<EventKind> {
    let text = || HOSTILE.to_owned();
    let branch = || "plumb/drift/staging/database-orders".to_owned();
    let (action, reason) = (Action::Update, Reason::Conflict);
    let change = Change { path: "/spec/connectionLimit".into(), from: Some(json!(20)), to: None };
    vec![
        EventKind::SourceRead { commit: "c0ffee".into(), files: 10, changed: 1 },
        EventKind::SourceFailed { reason, message: text() },
        EventKind::Invalid { code: "UnknownField".into(), message: text(), file: "a.yaml".into(), line: None },
        EventKind::Planned { plan: PlanId("abc".into()), summary: summary(), blocked: 1, drifted: 2, unknown: 3 },
        EventKind::Blocked { reason, message: text() },
        EventKind::Unknown { reason, message: text() },
        EventKind::StepStarted {
            action,
            changes: vec![change],
            destructive: vec![text()],
            new_passwords: vec!["app".into()],
        },
        EventKind::StepDone { action, millis: 12 },
        EventKind::StepFailed { action, reason, message: text(), millis: u64::from(u32::MAX) },
        EventKind::Recorded { reason },
        EventKind::DriftFound { reason, message: text() },
        EventKind::ProposalOpened { branch: branch(), diff: text() },
        EventKind::ProposalUpdated { branch: branch(), diff: text() },
        EventKind::ProposalDecided { branch: branch(), status: ProposalStatus::Accepted, message: text() },
        EventKind::ProposalFailed { branch: branch(), message: text() },
        EventKind::Warning { reason, message: text() },
        EventKind::RollbackStarted { reason: Reason::Rejected, message: text(), keys: vec![key("checkout", "orders")] },
        EventKind::SecretShown { role: "app".into() },
    ]
}

//! A platform in every state worth showing: in plumb, drifted, stalled, held, unseen, orphaned, frozen.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use plumb::model::{
    Action, Annotations, ApprovalKind, Attempt, Change, Circuit, Code, Condition, ConditionStatus, ConditionType,
    Diagnostic, Event, EventKind, Execution, ExecutionOutcome, Fields, Kind, LeftOut, ObjectId, PlanId, PlatformId,
    Proposal, ProposalKind, ProposalStatus, ProposedField, ProviderIdentity, Reason, Record, ResourceKey,
    ResourceStatus, Span, Stray, Summary, Trigger, revision,
};
use plumb::store::{HeldPlan, PlatformState, TenantState};
use serde_json::{Value, json};

use super::fake::Data;

pub const HEAD: &str = "9f1c2ab4e07d5c3b8a6f0e1d2c3b4a5968778695";
const OLDER: &str = "4be0d1f7a2c39586b7e8d9f0a1b2c3d4e5f60718";
const DRIFT: &str = "77aa01b2c3d4e5f60718293a4b5c6d7e8f901a2b";

struct Sample {
    now: DateTime<Utc>,
    data: Data,
}

pub fn key(text: &str) -> ResourceKey {
    text.parse().expect("a key of the sample")
}

fn fields(spec: Value) -> Fields {
    Kind::Database.info().flatten(&spec)
}

impl Sample {
    fn ago(&self, seconds: i64) -> DateTime<Utc> {
        self.now - Duration::seconds(seconds)
    }

    fn tenant(&mut self, name: &str, head: Option<&str>) -> &mut TenantState {
        let state = TenantState {
            tenant: name.into(),
            url: format!("https://bot:hunter2@git.example.net/acme/{name}.git"),
            branch: "main".into(),
            path: ".".into(),
            applied: head.map(str::to_owned),
            head: head.map(str::to_owned),
            left: Vec::new(),
            hold: None,
            removed: false,
            error: String::new(),
            findings: Vec::new(),
            updated_at: self.ago(41),
        };
        self.data.tenants.entry(name.into()).or_insert(state)
    }

    fn resource(
        &mut self,
        key_text: &str,
        provider: &str,
        desired: Value,
        live: Option<Value>,
        conditions: &[(ConditionType, ConditionStatus, Reason, &str, i64)],
    ) {
        let key = key(key_text);
        let object_name = key.object_name(63);
        let desired = key.kind.info().flatten(&desired);
        let live = live.map(|live| key.kind.info().flatten(&live));
        let file = format!("environments/{}/{}.yaml", key.environment, key.name);
        let outputs = match key.kind {
            Kind::Database if provider.starts_with("pg") => BTreeMap::from_iter([
                ("database".to_owned(), object_name.clone()),
                ("host".to_owned(), "pg-main.internal".to_owned()),
                ("port".to_owned(), "5432".to_owned()),
                ("user.app".to_owned(), format!("{object_name}_app")),
            ]),
            Kind::Database => BTreeMap::from_iter([("path".to_owned(), format!("/srv/databases/{object_name}.db"))]),
            Kind::Cache => BTreeMap::from_iter([
                ("host".to_owned(), "redis-main.internal".to_owned()),
                ("keyPrefix".to_owned(), format!("{object_name}:")),
                ("user".to_owned(), object_name.clone()),
            ]),
        };
        let record = Record {
            key: key.clone(),
            provider: provider.into(),
            identity: ProviderIdentity("7301234567890123456".into()),
            object_name: object_name.clone(),
            object: ObjectId("16401".into()),
            applied: desired.clone(),
            readback: desired.clone(),
            unsettled: BTreeMap::new(),
            begun: plumb::model::Begun::default(),
            document: Default::default(),
            annotations: Annotations::default(),
            depends_on: Vec::new(),
            file: file.clone(),
            commit: OLDER.into(),
            retained: false,
            updated_at: self.ago(7200),
        };
        let status = ResourceStatus {
            key: key.clone(),
            revision: revision("main", HEAD),
            provider: provider.into(),
            object_name,
            depends_on: Vec::new(),
            conditions: conditions
                .iter()
                .map(|(condition_type, status, reason, message, age)| Condition {
                    condition_type: *condition_type,
                    status: *status,
                    reason: *reason,
                    message: (*message).into(),
                    last_transition_time: self.ago(*age),
                })
                .collect(),
            reason_since: None,
            until: None,
            live: live.clone().unwrap_or_default(),
            desired,
            outputs,
            file,
            updated_at: self.ago(41),
        };
        self.data.statuses.insert(key.clone(), status);
        if live.is_some() || conditions[0].1 == ConditionStatus::Unknown {
            self.data.records.insert(key, record);
        }
    }

    fn ready(&mut self, key: &str, provider: &str, spec: Value, age: i64) {
        let conditions = [
            (ConditionType::Ready, ConditionStatus::True, Reason::InPlumb, "live is what git says", age),
            (ConditionType::Drifted, ConditionStatus::False, Reason::AsExpected, "", age),
        ];
        self.resource(key, provider, spec.clone(), Some(spec), &conditions);
    }

    fn execution(
        &mut self,
        tenant: &str,
        trigger: Trigger,
        outcome: ExecutionOutcome,
        summary: Summary,
        age: i64,
    ) -> i64 {
        let id = i64::try_from(self.data.executions.len()).unwrap() + 101;
        let started_at = self.ago(age);
        self.data.executions.push(Execution {
            id,
            tenant: tenant.into(),
            trigger,
            commit: Some(HEAD.into()),
            plan: Some(PlanId(format!("3f9a12c0{id:04x}"))),
            outcome,
            summary,
            started_at,
            finished_at: (outcome != ExecutionOutcome::Running).then(|| started_at + Duration::milliseconds(1843)),
        });
        id
    }

    fn event(&mut self, execution: i64, at: DateTime<Utc>, about: Option<&str>, kind: EventKind) {
        let tenant = self.data.executions.iter().find(|e| e.id == execution).unwrap().tenant.clone();
        let id = i64::try_from(self.data.events.len()).unwrap() + 1001;
        self.data.events.push(Event { id, execution, tenant, at, key: about.map(key), kind });
    }
}

/// The platform as it is at `now`.
pub fn platform(now: DateTime<Utc>) -> Data {
    let mut sample = Sample { now, data: Data::default() };
    sample.data.platform = Some(PlatformState {
        id: PlatformId("acme-platform".into()),
        commit: "c0ffee1234567890abcdef1234567890abcdef12".into(),
        rejected: None,
        findings: Vec::new(),
        updated_at: sample.ago(86_400),
    });
    checkout(&mut sample);
    billing(&mut sample);
    search(&mut sample);
    legacy(&mut sample);
    history(&mut sample);
    circuits(&mut sample);
    sample.data
}

/// One provider that nobody asks for a while, and one that was silent once.
fn circuits(sample: &mut Sample) {
    let open = Circuit {
        provider: "pg-ledger".into(),
        failures: 6,
        reason: Reason::ProviderUnreachable,
        message: "pg-ledger:5432 did not accept a connection within 5s".into(),
        since: sample.ago(310),
        asked_at: sample.ago(20),
        retry_at: Some(sample.ago(-40)),
    };
    let closed = Circuit {
        provider: "redis-main".into(),
        failures: 1,
        reason: Reason::TimedOut,
        message: "redis-main did not answer within 5s".into(),
        since: sample.ago(3),
        asked_at: sample.ago(3),
        retry_at: None,
    };
    sample.data.circuits = [open, closed].into_iter().map(|circuit| (circuit.provider.clone(), circuit)).collect();
}

fn checkout(sample: &mut Sample) {
    use ConditionStatus::{False, True};
    use ConditionType::{Drifted, Ready, Reconciling, Stalled};
    sample.tenant("checkout", Some(HEAD));
    let orders = json!({
        "connectionLimit": 20,
        "extensions": ["pgcrypto", "pg_trgm"],
        "roles": [{"name": "app", "access": "readwrite"}, {"name": "ro", "access": "read"}],
        "settings": {"statement_timeout": "30s", "work_mem": "16MB"},
    });
    let mut live = orders.clone();
    live["connectionLimit"] = json!(50);
    live["roles"][1]["access"] = json!("readwrite");
    sample.resource(
        "checkout/production/Database/orders",
        "pg-main",
        orders.clone(),
        Some(live),
        &[
            (Ready, True, Reason::InPlumb, "all fields that are not held are as git says", 7200),
            (Drifted, True, Reason::DriftProposed, "2 fields differ: /spec/connectionLimit, /spec/roles/ro/access; see plumb/drift/production/database-orders", 5400),
            (Reconciling, False, Reason::AsExpected, "", 7200),
            (Stalled, False, Reason::AsExpected, "", 7200),
        ],
    );
    sample.ready("checkout/staging/Database/orders", "pg-main", orders, 93_000);
    sample.ready(
        "checkout/staging/Cache/sessions",
        "redis-main",
        json!({"keyPrefix": "sess:", "categories": ["read", "write"]}),
        93_000,
    );
    sample.ready(
        "checkout/production/Cache/sessions",
        "redis-main",
        json!({"keyPrefix": "sess:", "categories": ["read", "write"]}),
        93_000,
    );
    sample.resource(
        "checkout/production/Database/archive",
        "pg-main",
        json!({}),
        Some(json!({})),
        &[
            (Ready, False, Reason::DeletionProtected, "its document was removed, and it holds data; to delete it, commit plumb.dev/deletion: delete first, then remove the document in a later commit", 86_000),
            (Stalled, True, Reason::DeletionProtected, "its document was removed, and it holds data; to delete it, commit plumb.dev/deletion: delete first, then remove the document in a later commit", 86_000),
        ],
    );
    sample.resource(
        "checkout/staging/Database/carts",
        "pg-main",
        json!({"connectionLimit": 10, "extensions": ["postgis"]}),
        None,
        &[
            (Ready, False, Reason::Rejected, "extension \"postgis\" is not available on pg-main; install it on the server or remove it from the document", 640),
            (Stalled, True, Reason::Rejected, "extension \"postgis\" is not available on pg-main; install it on the server or remove it from the document", 640),
        ],
    );
    let carts = Attempt {
        key: key("checkout/staging/Database/carts"),
        provider: "pg-main".into(),
        commit: Some(HEAD.into()),
        platform: None,
        failures: 1,
        reason: Reason::Rejected,
        message: "extension \"postgis\" is not available on pg-main".into(),
        first_at: sample.ago(640),
        last_at: sample.ago(640),
        next_at: None,
    };
    sample.data.attempts.insert(carts.key.clone(), carts);
    sample.resource(
        "checkout/staging/Database/reports",
        "pg-main",
        json!({"connectionLimit": 5}),
        None,
        &[
            (Ready, False, Reason::Pending, "waits for Database/carts", 12),
            (Reconciling, True, Reason::DependencyNotReady, "waits for Database/carts, which is not ready", 12),
        ],
    );
    let records = &mut sample.data.records;
    let orders_key = key("checkout/production/Database/orders");
    records.get_mut(&orders_key).unwrap().depends_on = vec![key("checkout/production/Cache/sessions")];
    let field = |path: &str, git: Value, live: Value| ProposedField {
        path: path.into(),
        base: Some(git.clone()),
        git: Some(git),
        live: Some(live),
    };
    let proposal = Proposal {
        branch: orders_key.drift_branch(false),
        key: orders_key.clone(),
        kind: ProposalKind::Drift,
        url: "https://bot:hunter2@git.example.net/acme/checkout.git".into(),
        base: HEAD.into(),
        pushed: Some(DRIFT.into()),
        pushing: None,
        blob: String::new(),
        file: "orders.yaml".into(),
        fields: vec![
            field("/spec/connectionLimit", json!(20), json!(50)),
            field("/spec/roles/ro/access", json!("read"), json!("readwrite")),
        ],
        left_out: vec![LeftOut {
            field: field("/spec/settings/work_mem", json!("8MB"), json!("64MB")),
            message: "an anchor shares the value with another place of the document".into(),
        }],
        silenced: Vec::new(),
        status: ProposalStatus::Open,
        elsewhere: false,
        vanished_at: None,
        failed: false,
        message: String::new(),
        diff: "--- a/environments/production/orders.yaml\n+++ b/environments/production/orders.yaml\n@@ -6,10 +6,10 @@\n   labels: {owner: team-checkout}\n spec:\n   provider: pg-main\n-  connectionLimit: 20          # sized for two pods\n+  connectionLimit: 50          # sized for two pods\n   extensions: [pgcrypto, pg_trgm]\n   roles:\n     - {name: app, access: readwrite}\n-    - {name: ro, access: read}\n+    - {name: ro, access: readwrite}\n"
            .into(),
        opened_at: sample.ago(5400),
        updated_at: sample.ago(5400),
    };
    sample.data.proposals.insert(orders_key, proposal);
    let sessions = key("checkout/staging/Cache/sessions");
    sample.data.proposals.insert(
        sessions.clone(),
        Proposal {
            branch: sessions.drift_branch(false),
            key: sessions,
            kind: ProposalKind::Drift,
            url: "https://bot:hunter2@git.example.net/acme/checkout.git".into(),
            base: OLDER.into(),
            pushed: Some(DRIFT.into()),
            pushing: None,
            blob: String::new(),
            file: "environments/staging/sessions.yaml".into(),
            fields: vec![field("/spec/keyPrefix", json!("sess:"), json!("s:"))],
            left_out: Vec::new(),
            silenced: Vec::new(),
            status: ProposalStatus::Accepted,
            elsewhere: false,
            vanished_at: None,
            failed: false,
            message: "merged as 9f1c2ab4".into(),
            diff: "--- a/environments/staging/sessions.yaml\n+++ b/environments/staging/sessions.yaml\n@@ -5,2 +5,2 @@\n spec:\n-  keyPrefix: 's:'\n+  keyPrefix: 'sess:'\n".into(),
            opened_at: sample.ago(180_000),
            updated_at: sample.ago(93_000),
        },
    );
}

fn billing(sample: &mut Sample) {
    use ConditionStatus::{False, True, Unknown};
    use ConditionType::{Ready, Reconciling, Stalled};
    let text = "apiVersion: plumb.dev/v1\nkind: Database\nspec:\n  conectionLimit: 5\n";
    let at = text.find("conectionLimit").unwrap();
    let tenant = sample.tenant("billing", Some(OLDER));
    tenant.hold = Some(Reason::HistoryRewritten);
    tenant.findings.push(
        Diagnostic::error(
            Code::new("UnknownField"),
            "environments/production/ledger.yaml",
            "unknown field \"conectionLimit\" in spec of a Database",
        )
        .at(Some(Span::locate(text, at, at + 14)))
        .help("did you mean connectionLimit?"),
    );
    tenant.findings.push(Diagnostic::warning(
        Code::new("LeftoverAdopt"),
        "environments/production/invoices.yaml",
        "plumb.dev/adopt is still there though the object is adopted",
    ));
    let spec = json!({"connectionLimit": 30, "roles": [{"name": "app", "access": "readwrite"}]});
    for (name, age) in [("invoices", 400_000), ("customers", 400_000), ("tax", 380_000)] {
        sample.ready(&format!("billing/production/Database/{name}"), "pg-main", spec.clone(), age);
        sample.ready(&format!("billing/staging/Database/{name}"), "pg-main", spec.clone(), age);
    }
    for name in ["dunning", "mandates", "payouts"] {
        let message = "12 of 14 resources would be deleted at once; the guard holds them until a commit approves it";
        sample.resource(
            &format!("billing/production/Database/{name}"),
            "pg-main",
            json!({}),
            Some(json!({})),
            &[
                (Ready, False, Reason::DeletionsHeld, message, 2_400),
                (Stalled, True, Reason::DeletionsHeld, message, 2_400),
            ],
        );
    }
    sample.data.held.insert(
        "billing".into(),
        vec![HeldPlan {
            id: PlanId("a41f09c27be3".into()),
            kind: ApprovalKind::Deletes,
            keys: ["dunning", "mandates", "payouts"]
                .into_iter()
                .map(|name| key(&format!("billing/production/Database/{name}")))
                .collect(),
        }],
    );
    sample.resource(
        "billing/production/Database/ledger",
        "pg-ledger",
        spec,
        None,
        &[
            (
                Ready,
                Unknown,
                Reason::ProviderUnreachable,
                "pg-ledger:5432 did not accept a connection within 5s; tried again in 40s",
                310,
            ),
            (
                Reconciling,
                True,
                Reason::TimedOut,
                "pg-ledger:5432 did not accept a connection within 5s; tried again in 40s",
                310,
            ),
            (Stalled, False, Reason::AsExpected, "", 310),
        ],
    );
    let again = sample.ago(-40);
    sample.data.statuses.get_mut(&key("billing/production/Database/ledger")).unwrap().until = Some(again);
}

fn search(sample: &mut Sample) {
    sample.tenant("search", Some(HEAD));
    for index in 1..=9 {
        let spec = json!({"journalMode": "wal", "userVersion": index});
        sample.ready(
            &format!("search/production/Database/shard-{index:02}"),
            "sqlite-edge",
            spec,
            260_000 + index * 60,
        );
    }
    let lost = key("search/staging/Database/scratch");
    let stray = Stray {
        provider: "sqlite-edge".into(),
        object_name: "search_staging_scratch".into(),
        object: ObjectId("8:1310".into()),
        wanted: false,
    };
    sample.data.strays.insert(lost, stray);
    sample.ready("search/production/Database/kept", "sqlite-edge", json!({"journalMode": "wal"}), 300_000);
    let kept = key("search/production/Database/kept");
    sample.data.statuses.remove(&kept);
    sample.data.records.get_mut(&kept).unwrap().retained = true;
}

fn legacy(sample: &mut Sample) {
    let tenant = sample.tenant("legacy-intranet-and-wiki", Some(OLDER));
    tenant.removed = true;
    sample.ready(
        "legacy-intranet-and-wiki/production/Database/wiki",
        "pg-main",
        json!({"connectionLimit": 3}),
        900_000,
    );
    let tenant = sample.tenant("identity", None);
    tenant.error = "the repository could not be fetched: authentication failed for git.example.net".into();
}

fn history(sample: &mut Sample) {
    let none = Summary::default();
    for round in (1..=12).rev() {
        let unchanged = Summary { unchanged: 10, ..none };
        sample.execution("search", Trigger::DriftScan, ExecutionOutcome::InSync, unchanged, round * 600 + 35);
    }
    let failed = sample.execution(
        "checkout",
        Trigger::Commit,
        ExecutionOutcome::Failed,
        Summary { create: 1, update: 1, unchanged: 4, ..none },
        640,
    );
    let plan = PlanId("3f9a12c00077".into());
    let at = sample.ago(640);
    let later = |millis: i64| at + Duration::milliseconds(millis);
    let (carts, orders) = ("checkout/staging/Database/carts", "checkout/production/Database/orders");
    sample.event(failed, later(0), None, EventKind::SourceRead { commit: HEAD.into(), files: 9, changed: 2 });
    sample.event(
        failed,
        later(120),
        None,
        EventKind::Planned {
            plan,
            summary: Summary { create: 1, update: 1, unchanged: 4, ..none },
            blocked: 1,
            drifted: 1,
            unknown: 0,
        },
    );
    sample.event(
        failed,
        later(140),
        Some(orders),
        EventKind::DriftFound {
            reason: Reason::DriftProposed,
            message: "/spec/connectionLimit is 50, was 20; /spec/roles/ro/access is readwrite, was read".into(),
        },
    );
    sample.event(
        failed,
        later(150),
        Some("checkout/staging/Database/reports"),
        EventKind::Blocked { reason: Reason::DependencyNotReady, message: "Database/carts is not ready".into() },
    );
    let change = |path: &str, from: Option<Value>, to: Option<Value>| Change { path: path.into(), from, to };
    sample.event(
        failed,
        later(160),
        Some("checkout/staging/Database/orders"),
        EventKind::StepStarted {
            action: Action::Update,
            changes: vec![
                change("/spec/connectionLimit", Some(json!(10)), Some(json!(20))),
                change("/spec/extensions/hstore", Some(json!(true)), None),
            ],
            destructive: vec!["drops the extension hstore".into()],
            new_passwords: vec![],
        },
    );
    sample.event(
        failed,
        later(420),
        Some("checkout/staging/Database/orders"),
        EventKind::StepDone { action: Action::Update, millis: 260 },
    );
    sample.event(
        failed,
        later(430),
        Some(carts),
        EventKind::StepStarted {
            action: Action::Create,
            changes: vec![change("/spec/connectionLimit", None, Some(json!(10)))],
            destructive: vec![],
            new_passwords: vec![],
        },
    );
    sample.event(
        failed,
        later(1700),
        Some(carts),
        EventKind::StepFailed {
            action: Action::Create,
            reason: Reason::Rejected,
            message: "extension \"postgis\" is not available on pg-main".into(),
            millis: 1270,
        },
    );
    sample.event(
        failed,
        later(1750),
        Some(orders),
        EventKind::ProposalOpened { branch: "plumb/drift/production/database-orders".into(), diff: fields_diff() },
    );
    sample.execution("billing", Trigger::Poll, ExecutionOutcome::Blocked, Summary { unchanged: 7, ..none }, 310);
    sample.execution("identity", Trigger::Poll, ExecutionOutcome::Failed, none, 60);
    sample.execution("checkout", Trigger::Retry, ExecutionOutcome::Running, none, 2);
}

fn fields_diff() -> String {
    let git = plumb::engine::view::document(Kind::Database, &fields(json!({"connectionLimit": 20})));
    let live = plumb::engine::view::document(Kind::Database, &fields(json!({"connectionLimit": 50})));
    plumb::engine::view::unified(&git, &live, "git", "live")
}

//! A small world to plan in: what git wants, what is live, what was applied, and a simulator that does what a plan
//! says. Its methods read as sentences.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::DateTime;
use serde_json::{Value, json};

use crate::model::{
    Action, Annotations, Approval, ApprovalKind, Blocked, Change, Decisions, DesiredState, Drift, DriftMode, Expect,
    FieldPath, Fields, Inventory, Kind, Live, Mark, ObjectId, Observation, Observations, Origin, Ownership, Plan,
    PlanId, PlanScope, Platform, PlatformId, PlatformSpec, ProposedField, ProviderIdentity, ProviderSpec, ProviderType,
    Reason, Record, Resource, ResourceKey, Settle, Step, Stray, TenantSpec, Unknown,
};
use crate::plan::{self, Place, Terms};

pub(super) const LIMIT: &str = "/spec/connectionLimit";
pub(super) const PAGE_SIZE: &str = "/spec/pageSize";
pub(super) const APP_ACCESS: &str = "/spec/roles/app/access";
pub(super) const PGCRYPTO: &str = "/spec/extensions/pgcrypto";
pub(super) const WORK_MEM: &str = "/spec/settings/work_mem";

const OURS: &str = "acme";

/// `checkout/staging/Database/{name}`.
pub(super) fn db(name: &str) -> ResourceKey {
    ResourceKey::new("checkout", "staging", Kind::Database, name)
}

/// `checkout/staging/Cache/{name}`.
pub(super) fn cache(name: &str) -> ResourceKey {
    ResourceKey::new("checkout", "staging", Kind::Cache, name)
}

/// A document as a team writes it.
pub(super) fn document(key: &ResourceKey) -> Resource {
    let provider = match key.kind {
        Kind::Database => "pg-main",
        Kind::Cache => "redis-main",
    };
    Resource {
        key: key.clone(),
        provider: provider.to_owned(),
        fields: Fields::new(),
        annotations: Annotations::default(),
        labels: BTreeMap::new(),
        depends_on: Vec::new(),
        origin: Origin { file: format!("{}.yaml", key.name), document: 0, blob: String::new() },
        document: Value::Null.into(),
    }
}

/// The words a document is written with.
pub(super) trait Writing: Sized {
    fn with(self, path: &str, value: impl Into<Value>) -> Self;
    fn saying(self, say: impl FnOnce(&mut Annotations)) -> Self;
    fn needing(self, key: &ResourceKey) -> Self;
}

impl Writing for Resource {
    fn with(mut self, path: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(path, value);
        self
    }

    fn saying(mut self, say: impl FnOnce(&mut Annotations)) -> Self {
        say(&mut self.annotations);
        self
    }

    fn needing(mut self, key: &ResourceKey) -> Self {
        self.depends_on.push(key.clone());
        self
    }
}

/// Everything the planner looks at.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub platform: Platform,
    pub tenant: TenantSpec,
    pub desired: DesiredState,
    pub live: Observations,
    pub prior: Inventory,
    pub decisions: Decisions,
    pub scope: PlanScope,
    objects_made: usize,
}

impl World {
    /// A tenant with two environments, no resources, and one server of each kind.
    pub(super) fn new() -> Self {
        let provider = |provider_type| ProviderSpec {
            provider_type,
            url: String::new(),
            credentials: None,
            read_credentials: None,
            read_login: None,
            serves: Vec::new(),
            max_concurrency: 8,
            timeout: serde_json::from_value(json!("30s")).unwrap(),
            identity: None,
        };
        let platform = Platform {
            id: PlatformId(OURS.to_owned()),
            commit: None,
            spec: PlatformSpec::default(),
            tenants: BTreeMap::new(),
            providers: BTreeMap::from([
                ("pg-main".to_owned(), provider(ProviderType::Postgres)),
                ("pg-other".to_owned(), provider(ProviderType::Postgres)),
                ("redis-main".to_owned(), provider(ProviderType::Redis)),
            ]),
            policies: BTreeMap::new(),
        };
        let tenant = serde_json::from_value(json!({
            "repository": {"url": "/srv/checkout.git"},
            "environments": ["staging", "production"],
            "providers": ["pg-main", "redis-main"],
        }))
        .unwrap();
        let identities = ["pg-main", "pg-other", "redis-main"]
            .map(|name| (name.to_owned(), ProviderIdentity(format!("the server of {name}"))));
        Self {
            platform,
            tenant,
            desired: DesiredState {
                tenant: "checkout".to_owned(),
                commit: Some("c1".to_owned()),
                ..DesiredState::default()
            },
            live: Observations { identities: identities.into(), ..Observations::default() },
            prior: Inventory::default(),
            decisions: Decisions::default(),
            scope: PlanScope::Full,
            objects_made: 0,
        }
    }

    /// A world in which git, live and the inventory agree on these documents.
    pub(super) fn in_plumb(documents: impl IntoIterator<Item = Resource>) -> Self {
        let mut world = Self::new();
        documents.into_iter().for_each(|document| world.is_in_plumb(document));
        world
    }

    pub(super) fn plan(&self) -> Plan {
        let terms = Terms { platform: &self.platform, tenant: &self.tenant };
        plan::plan(&self.desired, &self.live, &self.prior, &self.decisions, terms, &self.scope)
    }

    // --- git

    pub(super) fn git_has(&mut self, document: Resource) {
        self.desired.resources.insert(document.key.clone(), Arc::new(document));
    }

    pub(super) fn git_sets(&mut self, key: &ResourceKey, path: &str, value: impl Into<Value>) {
        self.document_mut(key).fields.insert(path, value);
    }

    pub(super) fn git_unsets(&mut self, key: &ResourceKey, path: &str) {
        self.document_mut(key).fields.0.remove(path);
    }

    pub(super) fn git_says(&mut self, key: &ResourceKey, say: impl FnOnce(&mut Annotations)) {
        say(&mut self.document_mut(key).annotations);
    }

    pub(super) fn git_removes(&mut self, key: &ResourceKey) {
        self.desired.resources.remove(key).expect("git has it");
        self.desired.denied.remove(key);
    }

    pub(super) fn document_mut(&mut self, key: &ResourceKey) -> &mut Resource {
        Arc::make_mut(self.desired.resources.get_mut(key).expect("git has it"))
    }

    // --- the live systems

    /// An object with every scalar at its default, and these fields.
    fn object(&mut self, key: &ResourceKey, ownership: Ownership, fields: &Fields) -> Live {
        self.objects_made += 1;
        let mut all: Fields =
            key.kind.info().defaults.iter().map(|(path, value)| (FieldPath::from(*path), (*value).into())).collect();
        all.0.extend(fields.0.clone());
        Live {
            object: ObjectId(format!("object {}", self.objects_made)),
            ownership,
            fields: all,
            unknown: BTreeMap::new(),
            outputs: BTreeMap::new(),
        }
    }

    /// An object stands there, and Plumb did not make it.
    pub(super) fn somebody_made(&mut self, key: &ResourceKey, fields: &[(&str, Value)]) {
        self.stands(key, Ownership::Unmarked, fields);
    }

    /// An object stands there with this ownership.
    pub(super) fn stands(&mut self, key: &ResourceKey, ownership: Ownership, fields: &[(&str, Value)]) {
        let fields = fields.iter().map(|(path, value)| (FieldPath::from(*path), value.clone())).collect();
        let live = self.object(key, ownership, &fields);
        self.live.objects.insert(key.clone(), Observation::Present(Box::new(live)));
    }

    /// The mark that an apply of these fields leaves.
    pub(super) fn mark(&self, key: &ResourceKey, fields: &[(&str, Value)]) -> Mark {
        let fields: Fields = fields.iter().map(|(path, value)| (FieldPath::from(*path), value.clone())).collect();
        Mark { platform: self.platform.id.clone(), key: key.clone(), hashes: fields.hashes(), unfinished: false }
    }

    pub(super) fn live_becomes(&mut self, key: &ResourceKey, path: &str, value: impl Into<Value>) {
        self.live_mut(key).fields.insert(path, value);
    }

    pub(super) fn live_loses(&mut self, key: &ResourceKey, path: &str) {
        self.live_mut(key).fields.0.remove(path).expect("it is live");
    }

    /// The object is gone, and nothing beside it tells that it was there.
    pub(super) fn vanishes(&mut self, key: &ResourceKey) {
        self.is_absent(key, false, false);
    }

    /// The object is gone, and something beside it tells that it was there.
    pub(super) fn vanishes_with_a_trace(&mut self, key: &ResourceKey) {
        self.is_absent(key, true, false);
    }

    /// The object is not there, though something of it may be left.
    pub(super) fn is_absent(&mut self, key: &ResourceKey, lost: bool, is_left: bool) {
        let left = is_left.then(|| ObjectId(format!("what is left of {key}")));
        self.live.objects.insert(key.clone(), Observation::Absent { lost, left });
    }

    pub(super) fn cannot_be_seen(&mut self, key: &ResourceKey) {
        let unknown = Unknown::new(Reason::ProviderUnreachable, "it is down");
        self.live.objects.insert(key.clone(), Observation::Unknown(unknown));
    }

    pub(super) fn field_cannot_be_seen(&mut self, key: &ResourceKey, path: &str, reason: Reason) {
        let live = self.live_mut(key);
        live.fields.0.retain(|field, _| !field.is_within(path));
        live.unknown.insert(FieldPath::from(path), Unknown::new(reason, "it cannot be seen"));
    }

    pub(super) fn live_mut(&mut self, key: &ResourceKey) -> &mut Live {
        match self.live.objects.get_mut(key) {
            Some(Observation::Present(live)) => live,
            other => panic!("{key} is not there: {other:?}"),
        }
    }

    pub(super) fn mark_mut(&mut self, key: &ResourceKey) -> &mut Mark {
        match &mut self.live_mut(key).ownership {
            Ownership::Marked(mark) => mark,
            Ownership::Unmarked => panic!("{key} has no mark"),
        }
    }

    pub(super) fn a_stray_bears_the_mark_of(&mut self, key: &ResourceKey) {
        let stray = Stray {
            provider: "pg-main".to_owned(),
            object_name: key.object_name(63),
            object: ObjectId(format!("stray {key}")),
            wanted: false,
        };
        self.live.strays.insert(key.clone(), stray);
    }

    // --- the inventory

    /// Git, live and the inventory agree.
    pub(super) fn is_in_plumb(&mut self, document: Resource) {
        let key = document.key.clone();
        let fields: Vec<(&str, Value)> = document.fields.iter().map(|(p, v)| (p.as_str(), v.clone())).collect();
        let mut mark = self.mark(&key, &fields);
        if let Some(rotate) = &document.annotations.rotate {
            let path = FieldPath::new(plan::objects::ROTATE);
            mark.hashes.insert(path, crate::model::FieldHash::of(&json!(rotate)));
        }
        self.stands(&key, Ownership::Marked(mark), &fields);
        self.git_has(document);
        self.record(&key, &BTreeSet::new());
    }

    /// The same objects, and nobody remembers them.
    pub(super) fn inventory_is_lost(&mut self) {
        self.prior = Inventory::default();
    }

    pub(super) fn record_mut(&mut self, key: &ResourceKey) -> &mut Record {
        self.prior.records.get_mut(key).expect("it is recorded")
    }

    /// What is live now is written down.
    pub(super) fn record(&mut self, key: &ResourceKey, held: &BTreeSet<FieldPath>) {
        let live = self.live_mut(key).clone();
        self.record_as(key, &live, held);
    }

    fn record_as(&mut self, key: &ResourceKey, live: &Live, held: &BTreeSet<FieldPath>) {
        let resource = self.desired.resources[key].clone();
        let identity = self.live.identities[&resource.provider].clone();
        let place = Place {
            identity: &identity,
            object_name: &key.object_name(63),
            commit: self.desired.commit.as_ref(),
            denied: self.desired.denied.contains_key(key),
        };
        let record =
            plan::record_after(&resource, live, self.prior.records.get(key), held, place, DateTime::UNIX_EPOCH);
        self.prior.records.insert(key.clone(), record);
    }

    // --- people

    /// A proposal for one field is open: what was applied, what git said, what was live.
    pub(super) fn proposal_is_open(&mut self, key: &ResourceKey, field: ProposedField) {
        self.decisions.open.entry(key.clone()).or_default().push(field);
    }

    /// A person has decided a proposal for one field.
    pub(super) fn decision_lifts(&mut self, key: &ResourceKey, field: ProposedField) {
        self.decisions.lifted.entry(key.clone()).or_default().push(field);
    }

    /// A person has closed a proposal for one field, and the tenant ignores such differences.
    pub(super) fn person_ignores(&mut self, key: &ResourceKey, field: ProposedField) {
        self.decisions.ignored.entry(key.clone()).or_default().push(field);
    }

    /// A commit carries a trailer with the id of this plan, whose keys are remembered.
    pub(super) fn commit_approves(&mut self, kind: ApprovalKind, plan: &Plan) {
        self.approve(kind, plan.id.clone(), plan.awaiting(kind));
    }

    /// A commit carries a trailer with the id of some plan, remembered with these keys.
    pub(super) fn approve(&mut self, kind: ApprovalKind, plan: PlanId, keys: impl IntoIterator<Item = ResourceKey>) {
        let keys = keys.into_iter().collect();
        self.decisions.approvals.push(Approval { kind, plan, keys, commit: "approval".to_owned() });
    }

    // --- the simulator

    /// Does all steps and settles of a plan, as managers and the engine do. Gives the plan back.
    pub(super) fn applies(&mut self, plan: Plan) -> Plan {
        let seen = self.live.clone();
        self.applies_as_planned_on(&seen, plan)
    }

    /// The same, where live has changed since it was `seen` for the plan.
    pub(super) fn applies_as_planned_on(&mut self, seen: &Observations, plan: Plan) -> Plan {
        for step in &plan.steps {
            self.does(step);
            match step.action {
                Action::Delete => {
                    self.prior.records.remove(&step.key);
                }
                Action::Create | Action::Update | Action::Replace | Action::Adopt => {
                    let live = plan::read_back(step, seen.present(&step.key), self.live_mut(&step.key));
                    let held = plan.held.get(&step.key).cloned().unwrap_or_default();
                    self.record_as(&step.key, &live, &held);
                }
            }
        }
        for settle in &plan.settles {
            match settle {
                Settle::Record { key, remark, .. } => {
                    if let Some(step) = remark {
                        assert!(
                            step.changes.is_empty() && step.rotate.is_none(),
                            "a remark changes no field: {step:?}"
                        );
                        self.does(step);
                    }
                    let held = plan.held.get(key).cloned().unwrap_or_default();
                    self.record(key, &held);
                }
                Settle::Forget { key, reason: Reason::Retained } => self.record_mut(key).retained = true,
                Settle::Forget { key, .. } => {
                    self.prior.records.remove(key);
                }
            }
        }
        self.decisions.held_deletes = plan.awaiting(ApprovalKind::Deletes);
        plan
    }

    /// Plans, and applies the plan.
    pub(super) fn reconciles(&mut self) -> Plan {
        let plan = self.plan();
        self.applies(plan)
    }

    /// What a manager does with a step, R13's check of the expected start included.
    fn does(&mut self, step: &Step) {
        self.assert_expected(step);
        match step.action {
            Action::Create => match self.live.objects.get_mut(&step.key) {
                Some(Observation::Present(live)) => change(live, step),
                _ => {
                    let mut live = self.object(&step.key, Ownership::Unmarked, &Fields::new());
                    change(&mut live, step);
                    self.live.objects.insert(step.key.clone(), Observation::Present(Box::new(live)));
                }
            },
            Action::Update | Action::Adopt => change(self.live_mut(&step.key), step),
            Action::Replace => {
                let fields = step.desired.iter().map(|(path, value)| (path.clone(), normal(path, value))).collect();
                let live = self.object(&step.key, Ownership::Marked(step.mark.clone()), &fields);
                self.live.objects.insert(step.key.clone(), Observation::Present(Box::new(live)));
            }
            Action::Delete if self.is_rest(step) => self.vanishes(&step.key),
            Action::Delete => match self.live.strays.remove(&step.key) {
                Some(_) => {}
                None => self.vanishes(&step.key),
            },
        }
    }

    /// Whether a deletion is of what is left of an object.
    fn is_rest(&self, step: &Step) -> bool {
        let seen = self.live.objects.get(&step.key);
        matches!(seen, Some(Observation::Absent { left: Some(left), .. }) if step.expect == Expect::Marked(left.clone()))
    }

    fn assert_expected(&self, step: &Step) {
        if step.action == Action::Delete && self.is_rest(step) {
            return;
        }
        if let Some(stray) = self.live.strays.get(&step.key) {
            assert_eq!(step.expect, Expect::Marked(stray.object.clone()));
            return;
        }
        match (&step.expect, &self.live.objects[&step.key]) {
            (Expect::Absent, Observation::Absent { .. }) => {}
            (Expect::Absent, Observation::Present(live)) => match &live.ownership {
                Ownership::Marked(mark) => assert!(mark.unfinished && mark.key == step.key),
                Ownership::Unmarked => panic!("{step:?} would touch what nobody owns"),
            },
            (Expect::Marked(object), Observation::Present(live)) => {
                assert_eq!(*object, live.object);
                assert!(matches!(&live.ownership, Ownership::Marked(mark) if mark.key == step.key));
                assert_from(step, live);
            }
            (Expect::Unmarked(object), Observation::Present(live)) => {
                assert_eq!((object, &live.ownership), (&live.object, &Ownership::Unmarked));
                assert_from(step, live);
            }
            (expect, observation) => panic!("{step:?} expects {expect:?} and finds {observation:?}"),
        }
    }
}

fn assert_from(step: &Step, live: &Live) {
    for Change { path, from, .. } in &step.changes {
        assert_eq!(from.as_ref(), live.fields.0.get(path), "{path} of {}", step.key);
    }
}

fn change(live: &mut Live, step: &Step) {
    for Change { path, to, .. } in &step.changes {
        match to {
            Some(value) => live.fields.0.insert(path.clone(), normal(path, value)),
            None => live.fields.0.remove(path),
        };
    }
    live.ownership = Ownership::Marked(step.mark.clone());
}

/// What the server makes of a value: settings come back in capitals.
fn normal(path: &FieldPath, value: &Value) -> Value {
    match value {
        Value::String(text) if path.is_within("/spec/settings") => json!(text.to_uppercase()),
        other => other.clone(),
    }
}

/// A field of a proposal.
pub(super) fn field(path: &str, base: Option<Value>, git: Option<Value>, live: Option<Value>) -> ProposedField {
    ProposedField { path: FieldPath::from(path), base, git, live }
}

/// How tests read a plan.
pub(super) trait Reading {
    /// The step of `key`.
    fn step(&self, key: &ResourceKey) -> &Step;
    /// The action on `key`, when there is a step.
    fn action(&self, key: &ResourceKey) -> Option<Action>;
    /// The changes of the step of `key`, as `(path, to)`.
    fn changes(&self, key: &ResourceKey) -> Vec<(&str, Option<&Value>)>;
    /// Why `key` is blocked; it is, once.
    fn blocked(&self, key: &ResourceKey) -> &Blocked;
    /// The reasons for which `key` is blocked.
    fn reasons(&self, key: &ResourceKey) -> Vec<Reason>;
    /// The drift of `key`; there is one.
    fn drift(&self, key: &ResourceKey) -> &Drift;
    /// How the record of `key` is settled.
    fn settled(&self, key: &ResourceKey) -> Option<Reason>;
    /// The keys of the steps, in order.
    fn order(&self) -> Vec<&ResourceKey>;
    /// Whether nothing at all is to be done, recorded, or told.
    fn is_quiet(&self) -> bool;
}

impl Reading for Plan {
    fn step(&self, key: &ResourceKey) -> &Step {
        self.steps.iter().find(|step| step.key == *key).unwrap_or_else(|| panic!("no step for {key} in {self:#?}"))
    }

    fn action(&self, key: &ResourceKey) -> Option<Action> {
        self.steps.iter().find(|step| step.key == *key).map(|step| step.action)
    }

    fn changes(&self, key: &ResourceKey) -> Vec<(&str, Option<&Value>)> {
        self.step(key).changes.iter().map(|change| (change.path.as_str(), change.to.as_ref())).collect()
    }

    fn blocked(&self, key: &ResourceKey) -> &Blocked {
        let blocked: Vec<&Blocked> = self.blocked.iter().filter(|blocked| blocked.key == *key).collect();
        match blocked[..] {
            [one] => one,
            _ => panic!("{key} is not blocked once but as {blocked:#?} in {self:#?}"),
        }
    }

    fn reasons(&self, key: &ResourceKey) -> Vec<Reason> {
        self.blocked.iter().filter(|blocked| blocked.key == *key).map(|blocked| blocked.reason).collect()
    }

    fn drift(&self, key: &ResourceKey) -> &Drift {
        let drift: Vec<&Drift> = self.drift.iter().filter(|drift| drift.key == *key).collect();
        match drift[..] {
            [one] => one,
            _ => panic!("{key} has not drifted once but as {drift:#?} in {self:#?}"),
        }
    }

    fn settled(&self, key: &ResourceKey) -> Option<Reason> {
        self.settles.iter().find(|settle| settle.key() == key).map(|settle| match settle {
            Settle::Record { reason, .. } | Settle::Forget { reason, .. } => *reason,
        })
    }

    fn order(&self) -> Vec<&ResourceKey> {
        self.steps.iter().map(|step| &step.key).collect()
    }

    fn is_quiet(&self) -> bool {
        self.is_in_sync() && self.settles.is_empty() && self.held.is_empty() && self.warnings.is_empty()
    }
}

/// Asserts that a field of `key` is held, in this mode, and is not changed.
#[track_caller]
pub(super) fn assert_held(plan: &Plan, key: &ResourceKey, path: &str, mode: DriftMode) {
    let drift = plan.drift(key);
    assert_eq!(drift.mode, mode);
    assert!(drift.fields.iter().any(|field| field.path.as_str() == path), "{drift:?}");
    assert!(plan.held[key].contains(path), "{:?}", plan.held);
    let step = plan.steps.iter().find(|step| step.key == *key);
    assert!(step.is_none_or(|step| step.changes.iter().all(|change| change.path.as_str() != path)), "{step:?}");
}

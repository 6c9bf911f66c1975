//! Tenants: where their repositories are, what was looked at, and how their resources stand.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::facts::{Facts, last_execution, last_executions, scope_of, trailer};
use super::history::ExecutionView;
use super::resource::{Counts, status_word};
use super::{FindingView, age_seconds, public_url};
use crate::model::{ApprovalKind, Clock, Execution, ObjectHex, PlanId, Reason, ResourceKey, revision};
use crate::store::{HeldPlan, Store, StoreError, TenantState};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantView {
    pub tenant: String,
    /// Its repository, without user or password.
    pub url: String,
    pub branch: String,
    pub path: String,
    /// `main@sha1:<hex>` of the head that was looked at last.
    pub revision: Option<String>,
    pub head: Option<ObjectHex>,
    /// The head whose full pass ended last.
    pub applied: Option<ObjectHex>,
    /// Why all deletes are held, if they are.
    pub hold: Option<HoldView>,
    /// No longer in the platform: frozen and listed.
    pub removed: bool,
    /// What keeps it from being reconciled, empty when nothing does.
    pub error: String,
    pub findings: Vec<FindingView>,
    pub counts: Counts,
    pub environments: Vec<EnvironmentView>,
    pub open_proposals: usize,
    pub orphans: usize,
    /// Plans that wait for an approval.
    pub held_plans: Vec<HeldPlanView>,
    pub last_execution: Option<ExecutionView>,
    pub updated_at: DateTime<Utc>,
    pub age_seconds: u64,
}

/// One environment of a tenant that has resources.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentView {
    pub name: String,
    pub counts: Counts,
}

/// Why all deletes of a tenant are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HoldView {
    pub reason: Reason,
    pub explanation: String,
}

/// A plan that waits for a trailer in a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldPlanView {
    pub plan: PlanId,
    pub kind: ApprovalKind,
    pub keys: Vec<ResourceKey>,
    /// The line that approves it, to stand at the end of a commit message.
    pub trailer: String,
}

impl HeldPlanView {
    pub(super) fn new(plan: &HeldPlan) -> Self {
        let HeldPlan { id, kind, keys } = plan;
        Self { plan: id.clone(), kind: *kind, keys: keys.iter().cloned().collect(), trailer: trailer(plan) }
    }
}

/// Every tenant, by name.
///
/// # Errors
/// When the store does not answer.
pub async fn tenants(store: &dyn Store, clock: &dyn Clock) -> Result<Vec<TenantView>, StoreError> {
    let facts = Facts::load(store, scope_of(None)).await?;
    let mut last = last_executions(store, facts.tenants.keys()).await?;
    Ok(views(&facts, &mut last, clock.now()))
}

/// One tenant.
///
/// # Errors
/// When the store does not answer.
pub async fn tenant(store: &dyn Store, name: &str, clock: &dyn Clock) -> Result<Option<TenantView>, StoreError> {
    let facts = Facts::load(store, scope_of(Some(name))).await?;
    let mut last = BTreeMap::from_iter(last_execution(store, name).await?.map(|last| (name.to_owned(), last)));
    Ok(views(&facts, &mut last, clock.now()).into_iter().find(|view| view.tenant == name))
}

pub(super) fn views(facts: &Facts, last: &mut BTreeMap<String, Execution>, now: DateTime<Utc>) -> Vec<TenantView> {
    let mut counts: BTreeMap<&str, BTreeMap<&str, Counts>> = BTreeMap::new();
    for key in facts.keys() {
        let environments = counts.entry(&key.tenant).or_default();
        environments.entry(&key.environment).or_default().add(status_word(facts, key));
    }
    facts
        .tenants
        .values()
        .map(|state| {
            let environments = counts.remove(state.tenant.as_str()).unwrap_or_default();
            view(facts, state, environments, last.remove(&state.tenant), now)
        })
        .collect()
}

fn view(
    facts: &Facts,
    state: &TenantState,
    environments: BTreeMap<&str, Counts>,
    last: Option<Execution>,
    now: DateTime<Utc>,
) -> TenantView {
    let TenantState { tenant, url, branch, path, applied, head, left: _, hold, removed, error, findings, updated_at } =
        state;
    let belongs = |key: &ResourceKey| key.tenant == *tenant;
    let mut counts = Counts::default();
    for environment in environments.values() {
        counts.merge(environment);
    }
    TenantView {
        tenant: tenant.clone(),
        url: public_url(url),
        branch: branch.clone(),
        path: path.clone(),
        revision: head.as_deref().map(|head| revision(branch, head)),
        head: head.clone(),
        applied: applied.clone(),
        hold: hold.map(|reason| HoldView { reason, explanation: reason.explain().trim().to_owned() }),
        removed: *removed,
        error: error.clone(),
        findings: findings.iter().map(FindingView::from).collect(),
        counts,
        environments: environments
            .into_iter()
            .map(|(name, counts)| EnvironmentView { name: name.to_owned(), counts })
            .collect(),
        open_proposals: facts.proposals.values().filter(|p| belongs(&p.key) && p.status.is_undecided()).count(),
        orphans: facts.orphans.keys().filter(|key| belongs(key)).count(),
        held_plans: facts.held.get(tenant).into_iter().flatten().map(HeldPlanView::new).collect(),
        last_execution: last.map(|execution| ExecutionView::new(execution, now)),
        updated_at: *updated_at,
        age_seconds: age_seconds(now, *updated_at),
    }
}

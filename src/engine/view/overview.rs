//! The whole platform at a glance, what waits for a person, and the numbers that metrics are made of.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::attempt::{DeadLetterView, letters};
use super::explain::{self, Cause};
use super::facts::{Facts, last_executions, scope_of};
use super::history::ExecutionView;
use super::orphan::{self, OrphanKind};
use super::provider::{self, ProviderView};
use super::resource::{self, Counts, StatusWord, status_word};
use super::{FindingView, age_seconds};
use crate::model::{
    Clock, ConditionStatus, ConditionType, Execution, ObjectHex, PlatformId, Proposal, ProposalStatus, Reason,
    ResourceKey,
};
use crate::store::{PlatformState, Store, StoreError};

/// How many things that wait for a person are listed; the rest is only counted.
const ATTENTION_SHOWN: usize = 100;

/// The platform at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// `None` before the first revision that validated.
    pub platform: Option<PlatformView>,
    pub tenants: TenantCounts,
    /// Those that are used, and those that do not answer.
    pub providers: Vec<ProviderView>,
    pub resources: Counts,
    pub open_proposals: usize,
    /// Marked objects that nobody asks for, resources of removed tenants and environments, and objects kept on
    /// purpose.
    pub orphans: usize,
    pub frozen: usize,
    pub retained: usize,
    pub last_execution: Option<ExecutionView>,
    /// What waits for a person, the most urgent first.
    pub attention: Vec<Attention>,
    pub attention_total: usize,
    /// How many of each kind wait, also those that are not listed.
    #[serde(default)]
    pub attention_counts: BTreeMap<AttentionKind, usize>,
    pub generated_at: DateTime<Utc>,
}

/// The platform revision in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlatformView {
    pub id: PlatformId,
    pub commit: ObjectHex,
    /// The head, when it does not validate.
    pub rejected: Option<ObjectHex>,
    pub findings: Vec<FindingView>,
    pub updated_at: DateTime<Utc>,
    pub age_seconds: u64,
}

/// How the tenants stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantCounts {
    pub total: usize,
    /// Every resource is ready and nothing keeps the tenant from being reconciled.
    pub ready: usize,
    /// Something keeps it from being reconciled.
    pub failing: usize,
    /// All its deletes are held.
    pub held: usize,
    /// No longer in the platform.
    pub removed: usize,
}

/// What kind of thing waits for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AttentionKind {
    /// A repository cannot be read or used.
    Tenant,
    /// A deletion, or a creation in place of lost data, is held.
    Held,
    /// A document cannot be used.
    Finding,
    /// A proposal is open.
    Proposal,
    /// A resource will not get better by itself.
    Stalled,
    /// An object that nobody asks for.
    Orphan,
}

/// One thing that waits for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attention {
    pub kind: AttentionKind,
    pub tenant: Option<String>,
    pub key: Option<ResourceKey>,
    pub reason: Option<Reason>,
    pub message: String,
    /// What can be done about it.
    pub help: Option<String>,
    pub since: Option<DateTime<Utc>>,
    pub age_seconds: Option<u64>,
}

/// The numbers that metrics are made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gauges {
    pub resources: BTreeMap<ResourceGauge, usize>,
    /// By tenant.
    pub drifted: BTreeMap<String, usize>,
    pub open_proposals: BTreeMap<String, usize>,
    pub orphans: BTreeMap<String, usize>,
    pub findings: BTreeMap<String, usize>,
    pub last_execution_age_seconds: BTreeMap<String, u64>,
    pub tenants: TenantCounts,
    /// Those that are used, and those that do not answer.
    pub providers: Vec<ProviderView>,
    /// Whether the head of the platform repository does not validate.
    pub platform_rejected: usize,
}

/// What resources are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceGauge {
    pub tenant: String,
    pub condition: ConditionType,
    pub status: &'static str,
}

/// The platform at a glance.
///
/// # Errors
/// When the store does not answer.
pub async fn overview(store: &dyn Store, clock: &dyn Clock) -> Result<Overview, StoreError> {
    let facts = Facts::load(store, scope_of(None)).await?;
    let last = last_executions(store, facts.tenants.keys()).await?;
    let now = clock.now();
    let mut resources = Counts::default();
    for key in facts.keys() {
        resources.add(status_word(&facts, key));
    }
    let orphans = orphan::from_facts(&facts, now);
    let count = |kind: OrphanKind| orphans.iter().filter(|orphan| orphan.kind == kind).count();
    let mut attention = attention(&facts, now);
    let attention_total = attention.len();
    let mut attention_counts = BTreeMap::new();
    for Attention { kind, .. } in &attention {
        *attention_counts.entry(*kind).or_default() += 1;
    }
    attention.truncate(ATTENTION_SHOWN);
    Ok(Overview {
        platform: facts.platform.as_ref().map(|state| platform(state, now)),
        tenants: tenant_counts(&facts),
        providers: provider::from_facts(&facts, now),
        resources,
        open_proposals: facts.proposals.values().filter(|proposal| proposal.status.is_undecided()).count(),
        orphans: count(OrphanKind::Orphaned),
        frozen: count(OrphanKind::Frozen),
        retained: count(OrphanKind::Retained),
        last_execution: newest(last).map(|execution| ExecutionView::new(execution, now)),
        attention,
        attention_total,
        attention_counts,
        generated_at: now,
    })
}

/// The numbers that metrics are made of.
///
/// # Errors
/// When the store does not answer.
pub async fn gauges(store: &dyn Store, clock: &dyn Clock) -> Result<Gauges, StoreError> {
    let facts = Facts::load(store, scope_of(None)).await?;
    let last = last_executions(store, facts.tenants.keys()).await?;
    let now = clock.now();
    let mut gauges = Gauges {
        tenants: tenant_counts(&facts),
        providers: provider::from_facts(&facts, now),
        platform_rejected: usize::from(facts.platform.as_ref().is_some_and(|platform| platform.rejected.is_some())),
        ..Gauges::default()
    };
    // Every tenant has its zeros, so that a graph shows none rather than nothing.
    for (name, state) in &facts.tenants {
        gauges.drifted.insert(name.clone(), 0);
        gauges.open_proposals.insert(name.clone(), 0);
        gauges.orphans.insert(name.clone(), 0);
        gauges.findings.insert(name.clone(), state.findings.len());
    }
    for status in facts.statuses.values() {
        for condition in &status.conditions {
            let gauge = ResourceGauge {
                tenant: status.key.tenant.clone(),
                condition: condition.condition_type,
                status: match condition.status {
                    ConditionStatus::True => "True",
                    ConditionStatus::False => "False",
                    ConditionStatus::Unknown => "Unknown",
                },
            };
            *gauges.resources.entry(gauge).or_default() += 1;
        }
        if resource::verdict(status).0 == StatusWord::Drifted {
            *gauges.drifted.entry(status.key.tenant.clone()).or_default() += 1;
        }
    }
    for proposal in facts.proposals.values().filter(|proposal| proposal.status.is_undecided()) {
        *gauges.open_proposals.entry(proposal.key.tenant.clone()).or_default() += 1;
    }
    for key in facts.orphans.keys() {
        *gauges.orphans.entry(key.tenant.clone()).or_default() += 1;
    }
    for (tenant, execution) in last {
        let at = execution.finished_at.unwrap_or(execution.started_at);
        gauges.last_execution_age_seconds.insert(tenant, age_seconds(now, at));
    }
    Ok(gauges)
}

fn newest(last: BTreeMap<String, Execution>) -> Option<Execution> {
    last.into_values().max_by_key(|execution| execution.id)
}

fn platform(state: &PlatformState, now: DateTime<Utc>) -> PlatformView {
    let PlatformState { id, commit, rejected, findings, updated_at } = state;
    PlatformView {
        id: id.clone(),
        commit: commit.clone(),
        rejected: rejected.clone(),
        findings: findings.iter().map(FindingView::from).collect(),
        updated_at: *updated_at,
        age_seconds: age_seconds(now, *updated_at),
    }
}

fn tenant_counts(facts: &Facts) -> TenantCounts {
    let unready: BTreeSet<&str> = facts
        .keys()
        .into_iter()
        .filter(|key| status_word(facts, key) != StatusWord::Ready)
        .map(|key| key.tenant.as_str())
        .collect();
    let mut counts = TenantCounts { total: facts.tenants.len(), ..TenantCounts::default() };
    for tenant in facts.tenants.values() {
        let failing = !tenant.error.is_empty();
        counts.removed += usize::from(tenant.removed);
        counts.failing += usize::from(failing && !tenant.removed);
        counts.held += usize::from(tenant.hold.is_some());
        let ready = !tenant.removed && !failing && !unready.contains(tenant.tenant.as_str());
        counts.ready += usize::from(ready);
    }
    counts
}

fn attention(facts: &Facts, now: DateTime<Utc>) -> Vec<Attention> {
    let mut list: Vec<Attention> = findings(facts);
    list.extend(tenants(facts, now));
    let open: Vec<&Proposal> = facts.proposals.values().filter(|proposal| proposal.status.is_undecided()).collect();
    let mut told: BTreeSet<&ResourceKey> = open.iter().map(|proposal| &proposal.key).collect();
    list.extend(open.into_iter().map(|proposal| proposed(proposal, now)));
    let is_frozen = |key: &ResourceKey| facts.inventory.get(key).is_some_and(|record| facts.frozen(record).is_some());
    let letters = letters(&facts.attempts, &facts.sagas, &facts.tenants, now);
    for letter in &letters {
        if !is_frozen(&letter.key) {
            list.push(dead_letter(letter));
            told.insert(&letter.key);
        }
    }
    for (key, status) in &facts.statuses {
        if told.contains(key) || is_frozen(key) {
            continue;
        }
        let held = status.conditions.iter().find(|condition| holds_data_back(condition.reason));
        let (kind, condition) = match (held, resource::verdict(status)) {
            (Some(condition), _) => (AttentionKind::Held, condition),
            (None, (StatusWord::Stalled, Some(condition))) => (AttentionKind::Stalled, condition),
            (None, _) => continue,
        };
        told.insert(key);
        let message = if condition.message.is_empty() { condition.reason.explain().trim() } else { &condition.message };
        list.push(Attention {
            kind,
            tenant: Some(key.tenant.clone()),
            key: Some(key.clone()),
            reason: Some(condition.reason),
            message: message.to_owned(),
            help: explain::help(facts, key, condition.reason),
            since: Some(condition.last_transition_time),
            age_seconds: Some(age_seconds(now, condition.last_transition_time)),
        });
    }
    list.extend(orphan::from_facts(facts, now).into_iter().filter(|view| view.kind == OrphanKind::Orphaned).map(
        |view| Attention {
            kind: AttentionKind::Orphan,
            tenant: Some(view.key.tenant.clone()),
            key: Some(view.key),
            reason: Some(view.reason),
            message: format!("{} on {}: {}", view.object_name, view.provider, view.message),
            help: None,
            since: view.since,
            age_seconds: view.age_seconds,
        },
    ));
    list.sort_by_key(|attention| attention.kind);
    list
}

fn dead_letter(letter: &DeadLetterView) -> Attention {
    let DeadLetterView { key, reason, first_at, age_seconds, help, .. } = letter;
    Attention {
        kind: AttentionKind::Stalled,
        tenant: Some(key.tenant.clone()),
        key: Some(key.clone()),
        reason: Some(*reason),
        message: letter.said(),
        help: Some(help.clone()),
        since: Some(*first_at),
        age_seconds: Some(*age_seconds),
    }
}

/// Whether a person has to approve before something is deleted, or made again empty.
fn holds_data_back(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::DeletionsHeld
            | Reason::DeletionProtected
            | Reason::ReplaceProtected
            | Reason::DataMissing
            | Reason::PossibleRename
            | Reason::MoveRefused
            | Reason::UnreadableManifest
            | Reason::EmptyTree
            | Reason::SourceChanged
            | Reason::HistoryRewritten
    )
}

fn findings(facts: &Facts) -> Vec<Attention> {
    let platform = facts.platform.iter().flat_map(|platform| platform.findings.iter().map(|finding| (None, finding)));
    let tenants = facts
        .tenants
        .values()
        .filter(|tenant| !tenant.removed)
        .flat_map(|tenant| tenant.findings.iter().map(|finding| (Some(tenant.tenant.clone()), finding)));
    platform
        .chain(tenants)
        .filter(|(_, finding)| finding.is_error())
        .map(|(tenant, finding)| Attention {
            kind: AttentionKind::Finding,
            tenant,
            key: None,
            reason: None,
            message: finding.located(),
            help: finding.help.clone(),
            since: None,
            age_seconds: None,
        })
        .collect()
}

fn tenants(facts: &Facts, now: DateTime<Utc>) -> Vec<Attention> {
    let about = |name: &str, at: DateTime<Utc>, kind, reason: Option<Reason>, message: String, help| Attention {
        kind,
        tenant: Some(name.to_owned()),
        key: None,
        reason,
        message,
        help,
        since: Some(at),
        age_seconds: Some(age_seconds(now, at)),
    };
    let mut list = Vec::new();
    for tenant in facts.tenants.values().filter(|tenant| !tenant.removed) {
        if !tenant.error.is_empty() {
            let message = tenant.error.clone();
            list.push(about(&tenant.tenant, tenant.updated_at, AttentionKind::Tenant, None, message, None));
        }
        if let Some(reason) = tenant.hold {
            let message = format!("All deletions are held. {}", reason.explain().trim());
            let help = explain::approved_by(facts.held.get(&tenant.tenant).into_iter().flatten());
            list.push(about(&tenant.tenant, tenant.updated_at, AttentionKind::Held, Some(reason), message, help));
        }
    }
    list
}

fn proposed(proposal: &Proposal, now: DateTime<Utc>) -> Attention {
    let Cause { reason, message, help, .. } = Cause::of_proposal(proposal);
    let help = match (proposal.status, &proposal.pushed) {
        (ProposalStatus::Pending, _) | (_, None) if proposal.message.is_empty() => {
            Some("Its branch is still to be pushed.".to_owned())
        }
        (ProposalStatus::Pending, _) | (_, None) => Some(proposal.message.clone()),
        (_, Some(_)) => help,
    };
    Attention {
        kind: AttentionKind::Proposal,
        tenant: Some(proposal.key.tenant.clone()),
        key: Some(proposal.key.clone()),
        reason: Some(reason),
        message,
        help,
        since: Some(proposal.opened_at),
        age_seconds: Some(age_seconds(now, proposal.opened_at)),
    }
}

//! Resources: how each stands in one word, and all that is known of one.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::age_seconds;
use super::diff::{self, FieldRow, Sight};
use super::explain::{self, Explanation};
use super::facts::{Facts, scope_of};
use super::history::EventView;
use super::look::Around;
use super::proposal::{self, ProposalView};
use super::tenant::HeldPlanView;
use crate::model::{
    Clock, Condition, ConditionStatus, ConditionType, Fields, Kind, ObjectHex, Reason, Record, ResourceKey,
    ResourceStatus,
};
use crate::store::{HistoryFilter, Scope, Store, StoreError};

/// How many of its events a resource's page shows.
const RECENT_EVENTS: u32 = 50;

/// How a resource stands, in one word: the most urgent of what its conditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StatusWord {
    /// Live differs from what was applied.
    Drifted,
    /// It will not get better without a person.
    Stalled,
    /// Something is being done, or will be.
    Reconciling,
    /// Live is not what git says.
    NotReady,
    /// It could not be seen.
    Unknown,
    /// Live is what git says.
    Ready,
}

impl StatusWord {
    /// Every word, the most urgent first.
    pub const ALL: &'static [StatusWord] = &[
        StatusWord::Drifted,
        StatusWord::Stalled,
        StatusWord::Reconciling,
        StatusWord::NotReady,
        StatusWord::Unknown,
        StatusWord::Ready,
    ];

    /// The word as tables print it.
    pub const fn as_str(self) -> &'static str {
        match self {
            StatusWord::Drifted => "Drifted",
            StatusWord::Stalled => "Stalled",
            StatusWord::Reconciling => "Reconciling",
            StatusWord::NotReady => "NotReady",
            StatusWord::Unknown => "Unknown",
            StatusWord::Ready => "Ready",
        }
    }
}

impl fmt::Display for StatusWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many resources there are of each word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    pub total: usize,
    pub ready: usize,
    pub drifted: usize,
    pub stalled: usize,
    pub reconciling: usize,
    pub not_ready: usize,
    pub unknown: usize,
}

impl Counts {
    pub(super) fn add(&mut self, word: StatusWord) {
        self.total += 1;
        *match word {
            StatusWord::Ready => &mut self.ready,
            StatusWord::Drifted => &mut self.drifted,
            StatusWord::Stalled => &mut self.stalled,
            StatusWord::Reconciling => &mut self.reconciling,
            StatusWord::NotReady => &mut self.not_ready,
            StatusWord::Unknown => &mut self.unknown,
        } += 1;
    }

    pub(super) fn merge(&mut self, other: &Counts) {
        let Counts { total, ready, drifted, stalled, reconciling, not_ready, unknown } = other;
        self.total += total;
        self.ready += ready;
        self.drifted += drifted;
        self.stalled += stalled;
        self.reconciling += reconciling;
        self.not_ready += not_ready;
        self.unknown += unknown;
    }
}

/// Which resources; all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceFilter {
    pub tenant: Option<String>,
    pub environment: Option<String>,
    pub kind: Option<Kind>,
    pub ready: Option<ConditionStatus>,
    pub status: Option<StatusWord>,
    /// Found in the key, the message, the provider or the object's name, in any case of letters.
    pub text: Option<String>,
}

impl ResourceFilter {
    fn wants(&self, view: &ResourceView) -> bool {
        let Self { tenant, environment, kind, ready, status, text } = self;
        let holds = |haystack: &str, needle: &str| haystack.to_lowercase().contains(needle);
        tenant.as_ref().is_none_or(|tenant| *tenant == view.key.tenant)
            && environment.as_ref().is_none_or(|environment| *environment == view.key.environment)
            && kind.is_none_or(|kind| kind == view.key.kind)
            && ready.is_none_or(|ready| ready == view.ready)
            && status.is_none_or(|status| status == view.status)
            && text.as_ref().map(|text| text.to_lowercase()).is_none_or(|text| {
                holds(&view.key.to_string(), &text)
                    || [&view.message, &view.provider, &view.object_name].into_iter().any(|field| holds(field, &text))
            })
    }
}

/// A condition, with what its reason means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionView {
    #[serde(flatten)]
    pub condition: Condition,
    /// What the reason means, in a sentence.
    pub explanation: String,
    pub age_seconds: u64,
}

/// One line of the table of resources.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceView {
    pub key: ResourceKey,
    /// `main@sha1:<hex>` of the commit that was looked at last; empty when it was not yet.
    pub revision: String,
    pub ready: ConditionStatus,
    pub status: StatusWord,
    /// Why it stands so, and in a sentence.
    pub reason: Option<Reason>,
    pub message: String,
    /// Since when it stands so.
    pub since: Option<DateTime<Utc>>,
    pub age_seconds: Option<u64>,
    pub conditions: Vec<ConditionView>,
    /// When what is held goes on by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    pub provider: String,
    pub object_name: String,
    pub file: String,
    /// Resources that it depends on.
    #[serde(default)]
    pub needs: Vec<ResourceKey>,
    /// Where an application finds it; never a password.
    pub outputs: BTreeMap<String, String>,
    pub updated_at: Option<DateTime<Utc>>,
}

/// What was applied last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordView {
    pub provider: String,
    pub object_name: String,
    /// The commit it came from; empty when applied from a working tree.
    pub commit: ObjectHex,
    pub file: String,
    pub depends_on: Vec<ResourceKey>,
    pub updated_at: DateTime<Utc>,
}

impl From<&Record> for RecordView {
    fn from(record: &Record) -> Self {
        let Record { provider, object_name, commit, file, depends_on, updated_at, .. } = record;
        Self {
            provider: provider.clone(),
            object_name: object_name.clone(),
            commit: commit.clone(),
            file: file.clone(),
            depends_on: depends_on.clone(),
            updated_at: *updated_at,
        }
    }
}

/// All that is known of one resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceDetail {
    #[serde(flatten)]
    pub view: ResourceView,
    pub desired: Fields,
    pub live: Fields,
    /// Field by field, in path order.
    pub rows: Vec<FieldRow>,
    /// Desired against live as a unified diff; empty when they are the same.
    pub diff: String,
    pub record: Option<RecordView>,
    /// Resources that depend on this one.
    pub dependents: Vec<ResourceKey>,
    /// The newest conversation about it.
    pub proposal: Option<ProposalView>,
    /// Plans that an approval would let pass.
    pub approvals: Vec<HeldPlanView>,
    /// Why it is not as git says.
    pub explanation: Option<Explanation>,
    /// Newest first.
    pub events: Vec<EventView>,
}

/// Resources by key, as many as `filter` wants.
///
/// # Errors
/// When the store does not answer.
pub async fn resources(
    store: &dyn Store,
    filter: &ResourceFilter,
    clock: &dyn Clock,
) -> Result<Vec<ResourceView>, StoreError> {
    let facts = Facts::load(store, scope_of(filter.tenant.as_deref())).await?;
    let now = clock.now();
    Ok(facts.keys().into_iter().map(|key| view(&facts, key, now)).filter(|view| filter.wants(view)).collect())
}

/// One resource; `None` when nothing is known of it.
///
/// # Errors
/// When the store does not answer.
pub async fn resource(
    store: &dyn Store,
    key: &ResourceKey,
    clock: &dyn Clock,
) -> Result<Option<ResourceDetail>, StoreError> {
    let facts = Facts::load(store, Scope::Tenant(key.tenant.clone())).await?;
    let (status, record) = (facts.statuses.get(key), facts.inventory.records.get(key));
    if status.is_none() && record.is_none() {
        return Ok(None);
    }
    let filter = HistoryFilter { key: Some(key.clone()), limit: RECENT_EVENTS, ..HistoryFilter::default() };
    let events = store.read(Scope::Tenant(key.tenant.clone())).await?.events(&filter).await?;
    let now = clock.now();
    let around = Around::of(store, key, now).await?;
    let (desired, live) = status.map(|status| (status.desired.clone(), status.live.clone())).unwrap_or_default();
    let rows = diff::rows(&desired, &live, record, sight(status));
    let view = view(&facts, key, now);
    let (git_name, live_name) = (format!("git: {}", view.file), format!("live: {}", view.object_name));
    Ok(Some(ResourceDetail {
        diff: diff::text(key.kind, &rows, &git_name, &live_name),
        desired,
        live,
        rows,
        record: record.map(RecordView::from),
        dependents: facts
            .inventory
            .live()
            .filter(|other| other.depends_on.contains(key))
            .map(|other| other.key.clone())
            .collect(),
        proposal: facts.proposals.get(key).map(|open| proposal::view(&facts, open, now)),
        approvals: facts.held_for(key).map(HeldPlanView::new).collect(),
        explanation: explain::from_facts(&facts, &around, key, now),
        events: events.into_iter().map(|event| EventView::new(event, now)).collect(),
        view,
    }))
}

/// An object that could not be seen has no live values and a `Ready` that nobody knows.
fn sight(status: Option<&ResourceStatus>) -> Sight {
    let Some(status) = status else { return Sight::Unseen };
    let ready = status.condition(ConditionType::Ready).map(|condition| condition.status);
    match ready {
        None | Some(ConditionStatus::Unknown) if status.live.0.is_empty() => Sight::Unseen,
        None | Some(ConditionStatus::Unknown | ConditionStatus::True | ConditionStatus::False) => Sight::Seen,
    }
}

/// The word for a resource of `facts`.
pub(super) fn status_word(facts: &Facts, key: &ResourceKey) -> StatusWord {
    facts.statuses.get(key).map_or(StatusWord::Unknown, |status| verdict(status).0)
}

/// The word, and the condition that it follows from.
pub(super) fn verdict(status: &ResourceStatus) -> (StatusWord, Option<&Condition>) {
    let urgent = [
        (ConditionType::Drifted, StatusWord::Drifted),
        (ConditionType::Stalled, StatusWord::Stalled),
        (ConditionType::Reconciling, StatusWord::Reconciling),
    ];
    for (condition_type, word) in urgent {
        if let Some(condition) = status.condition(condition_type).filter(|c| c.status == ConditionStatus::True) {
            return (word, Some(condition));
        }
    }
    let ready = status.condition(ConditionType::Ready);
    let word = match ready.map(|condition| condition.status) {
        Some(ConditionStatus::True) => StatusWord::Ready,
        Some(ConditionStatus::False) => StatusWord::NotReady,
        Some(ConditionStatus::Unknown) | None => StatusWord::Unknown,
    };
    (word, ready)
}

pub(super) fn view(facts: &Facts, key: &ResourceKey, now: DateTime<Utc>) -> ResourceView {
    match (facts.statuses.get(key), facts.inventory.records.get(key)) {
        (Some(status), _) => from_status(status, now),
        (None, Some(record)) => from_record(record),
        (None, None) => unseen(key),
    }
}

fn from_status(status: &ResourceStatus, now: DateTime<Utc>) -> ResourceView {
    let (word, deciding) = verdict(status);
    let ready = status.condition(ConditionType::Ready);
    let message =
        [deciding, ready].into_iter().flatten().map(|c| c.message.clone()).find(|message| !message.is_empty());
    let reason = deciding.map(|condition| condition.reason);
    let since = deciding.map(|condition| condition.last_transition_time);
    ResourceView {
        key: status.key.clone(),
        revision: status.revision.clone(),
        ready: ready.map_or(ConditionStatus::Unknown, |condition| condition.status),
        status: word,
        reason,
        message: message.or_else(|| reason.map(|reason| reason.explain().trim().to_owned())).unwrap_or_default(),
        since,
        age_seconds: since.map(|since| age_seconds(now, since)),
        conditions: status
            .conditions
            .iter()
            .map(|condition| ConditionView {
                explanation: condition.reason.explain().trim().to_owned(),
                age_seconds: age_seconds(now, condition.last_transition_time),
                condition: condition.clone(),
            })
            .collect(),
        until: status.until,
        provider: status.provider.clone(),
        object_name: status.object_name.clone(),
        file: status.file.clone(),
        needs: status.depends_on.clone(),
        outputs: status.outputs.clone(),
        updated_at: Some(status.updated_at),
    }
}

fn from_record(record: &Record) -> ResourceView {
    ResourceView {
        reason: record.retained.then_some(Reason::Retained),
        message: if record.retained {
            Reason::Retained.explain().trim().to_owned()
        } else {
            "It is recorded, and was not looked at yet.".to_owned()
        },
        provider: record.provider.clone(),
        object_name: record.object_name.clone(),
        file: record.file.clone(),
        needs: record.depends_on.clone(),
        updated_at: Some(record.updated_at),
        ..unseen(&record.key)
    }
}

fn unseen(key: &ResourceKey) -> ResourceView {
    ResourceView {
        key: key.clone(),
        revision: String::new(),
        ready: ConditionStatus::Unknown,
        status: StatusWord::Unknown,
        reason: None,
        message: String::new(),
        since: None,
        age_seconds: None,
        conditions: Vec::new(),
        until: None,
        provider: String::new(),
        object_name: String::new(),
        file: String::new(),
        needs: Vec::new(),
        outputs: BTreeMap::new(),
        updated_at: None,
    }
}

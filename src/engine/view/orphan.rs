//! Objects that git no longer speaks of: strays, frozen ones, and those kept on purpose.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::age_seconds;
use super::facts::{Facts, Frozen, scope_of};
use super::tenant::HeldPlanView;
use crate::model::{Clock, Reason, ResourceKey};
use crate::store::{Store, StoreError};

const ORPHANED: &str = "It bears this platform's mark, but git does not speak of it. Write its document to keep it, or \
                        approve the deletion; Plumb never deletes it by itself.";
const TENANT_REMOVED: &str = "Its tenant is no longer in the platform. Nothing is changed and nothing is deleted; bring \
                              the tenant back, or remove the object by hand.";
const ENVIRONMENT_REMOVED: &str = "Its environment is no longer the tenant's. Nothing is changed and nothing is \
                                   deleted; bring the environment back, or remove the object by hand.";
const RETAINED: &str = "Its document was removed with deletion: retain. The object stays as it is; write its document \
                        again to manage it.";

/// Why an object is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OrphanKind {
    /// It bears this platform's mark, and neither git nor the inventory speaks of it.
    Orphaned,
    /// Its tenant or environment is no longer in the platform.
    Frozen,
    /// Its document was removed with `deletion: retain`.
    Retained,
}

/// An object nobody asks for any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrphanView {
    pub key: ResourceKey,
    pub kind: OrphanKind,
    pub reason: Reason,
    /// What it means, and what can be done.
    pub message: String,
    pub provider: String,
    pub object_name: String,
    /// Since when, where that is known.
    pub since: Option<DateTime<Utc>>,
    pub age_seconds: Option<u64>,
    /// Plans that an approval would let pass, and so delete it.
    pub approvals: Vec<HeldPlanView>,
}

/// Strays first, then frozen ones, then those retained; by key.
///
/// # Errors
/// When the store does not answer.
pub async fn orphans(
    store: &dyn Store,
    tenant: Option<&str>,
    clock: &dyn Clock,
) -> Result<Vec<OrphanView>, StoreError> {
    let facts = Facts::load(store, scope_of(tenant)).await?;
    Ok(from_facts(&facts, clock.now()))
}

pub(super) fn from_facts(facts: &Facts, now: DateTime<Utc>) -> Vec<OrphanView> {
    let strays = facts.orphans.iter().map(|(key, stray)| OrphanView {
        key: key.clone(),
        kind: OrphanKind::Orphaned,
        reason: Reason::Orphaned,
        message: ORPHANED.to_owned(),
        provider: stray.provider.clone(),
        object_name: stray.object_name.clone(),
        since: None,
        age_seconds: None,
        approvals: facts.held_for(key).map(HeldPlanView::new).collect(),
    });
    let recorded = facts.inventory.records.values().filter_map(|record| {
        let (kind, reason, message) = if record.retained {
            (OrphanKind::Retained, Reason::Retained, RETAINED)
        } else {
            match facts.frozen(record)? {
                Frozen::Environment => (OrphanKind::Frozen, Reason::EnvironmentRemoved, ENVIRONMENT_REMOVED),
                Frozen::Tenant => (OrphanKind::Frozen, Reason::TenantRemoved, TENANT_REMOVED),
            }
        };
        Some(OrphanView {
            key: record.key.clone(),
            kind,
            reason,
            message: message.to_owned(),
            provider: record.provider.clone(),
            object_name: record.object_name.clone(),
            since: Some(record.updated_at),
            age_seconds: Some(age_seconds(now, record.updated_at)),
            approvals: facts.held_for(&record.key).map(HeldPlanView::new).collect(),
        })
    });
    let mut views: Vec<OrphanView> = strays.chain(recorded).collect();
    views.sort_by_key(|view| view.kind);
    views
}

//! One snapshot of the store, and the questions every view asks of it.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::explain;
use crate::model::{
    Attempt, Circuit, ConditionStatus, ConditionType, Execution, Inventory, Proposal, Reason, Record, ResourceKey,
    ResourceStatus, Saga, Stray,
};
use crate::store::{HeldPlan, HistoryFilter, PlatformState, Scope, Store, StoreError, TenantState, Tx};

/// How many of the newest executions are searched for each tenant's last before tenants are asked one by one: more
/// than a busy platform makes between two looks.
const RECENT_EXECUTIONS: u32 = 500;

/// How many whole states this process holds at once, since each may be large: more than one, so that a short question
/// gets past a long one.
static ROOM: Semaphore = Semaphore::const_new(2);

/// All that the current state is shown from, read in one transaction.
pub(super) struct Facts {
    pub platform: Option<PlatformState>,
    pub tenants: BTreeMap<String, TenantState>,
    pub inventory: Inventory,
    pub statuses: BTreeMap<ResourceKey, ResourceStatus>,
    /// Strays that git does not speak of.
    pub orphans: BTreeMap<ResourceKey, Stray>,
    pub proposals: BTreeMap<ResourceKey, Proposal>,
    pub held: BTreeMap<String, Vec<HeldPlan>>,
    pub attempts: BTreeMap<ResourceKey, Attempt>,
    pub circuits: BTreeMap<String, Circuit>,
    pub sagas: Vec<Saga>,
    _room: Option<SemaphorePermit<'static>>,
}

impl Facts {
    /// Reads them, once there is room. Nobody may hold some and ask for more.
    pub async fn load(store: &dyn Store, scope: Scope) -> Result<Self, StoreError> {
        let room = ROOM.acquire().await.expect("it is never closed");
        let mut tx = store.read(scope).await?;
        let tenants = tx.tenants().await?;
        let mut held = BTreeMap::new();
        for name in tenants.keys() {
            let plans = tx.held_plans(name).await?;
            if !plans.is_empty() {
                held.insert(name.clone(), plans);
            }
        }
        Ok(Self {
            platform: tx.platform().await?,
            tenants,
            inventory: tx.inventory().await?,
            statuses: tx.statuses().await?,
            orphans: orphans(tx.as_mut()).await?,
            proposals: tx.proposals().await?,
            attempts: tx.attempts().await?,
            circuits: tx.circuits().await?,
            sagas: tx.sagas().await?,
            held,
            _room: Some(room),
        })
    }

    /// What explains one resource: statuses and failed steps of it and of what it waits for, and no inventory. `None` where
    /// what it waits for is only found among all of its tenant.
    pub async fn around(store: &dyn Store, key: &ResourceKey) -> Result<Option<Self>, StoreError> {
        let mut tx = store.read(Scope::Tenant(key.tenant.clone())).await?;
        let Some(statuses) = statuses_around(tx.as_mut(), key).await? else { return Ok(None) };
        let plans = tx.held_plans(&key.tenant).await?;
        let is_undone = |status: &ResourceStatus| {
            status.conditions.iter().any(|told| matches!(told.reason, Reason::RolledBack | Reason::DeadLetter))
        };
        // They hold what was there before, which may be much.
        let sagas = if statuses.values().any(is_undone) { tx.sagas().await? } else { Vec::new() };
        let mut attempts = BTreeMap::new();
        for key in statuses.keys() {
            if let Some(attempt) = tx.attempt(key).await? {
                attempts.insert(key.clone(), attempt);
            }
        }
        Ok(Some(Self {
            platform: tx.platform().await?,
            tenants: tx.tenants().await?,
            inventory: Inventory::default(),
            statuses,
            orphans: orphans(tx.as_mut()).await?,
            proposals: tx.proposals().await?,
            attempts,
            circuits: tx.circuits().await?,
            sagas,
            held: BTreeMap::from([(key.tenant.clone(), plans)]),
            _room: None,
        }))
    }

    /// Nothing but these statuses.
    #[cfg(test)]
    pub fn of_statuses(statuses: BTreeMap<ResourceKey, ResourceStatus>) -> Self {
        Self {
            platform: None,
            tenants: BTreeMap::new(),
            inventory: Inventory::default(),
            statuses,
            orphans: BTreeMap::new(),
            proposals: BTreeMap::new(),
            held: BTreeMap::new(),
            attempts: BTreeMap::new(),
            circuits: BTreeMap::new(),
            sagas: Vec::new(),
            _room: None,
        }
    }

    /// Every resource there is something to say of: looked at, or recorded and not forgotten on purpose.
    pub fn keys(&self) -> BTreeSet<&ResourceKey> {
        self.statuses.keys().chain(self.inventory.live().map(|record| &record.key)).collect()
    }

    /// Plans that wait for an approval which would let `key` go on.
    pub fn held_for<'a>(&'a self, key: &'a ResourceKey) -> impl Iterator<Item = &'a HeldPlan> {
        self.held.get(&key.tenant).into_iter().flatten().filter(|plan| plan.keys.contains(key))
    }

    /// What a resource is frozen by, if it is.
    pub fn frozen(&self, record: &Record) -> Option<Frozen> {
        if self.tenants.get(&record.key.tenant).is_some_and(|tenant| tenant.removed) {
            return Some(Frozen::Tenant);
        }
        let says = |wanted: Reason| {
            self.statuses
                .get(&record.key)
                .is_some_and(|status| status.conditions.iter().any(|condition| condition.reason == wanted))
        };
        if says(Reason::TenantRemoved) {
            Some(Frozen::Tenant)
        } else {
            says(Reason::EnvironmentRemoved).then_some(Frozen::Environment)
        }
    }
}

async fn orphans(tx: &mut dyn Tx) -> Result<BTreeMap<ResourceKey, Stray>, StoreError> {
    Ok(tx.strays().await?.into_iter().filter(|(_, stray)| !stray.wanted).collect())
}

/// The statuses of a resource and of what it waits for, down to the root, with those that are asked on the way.
async fn statuses_around(
    tx: &mut dyn Tx,
    key: &ResourceKey,
) -> Result<Option<BTreeMap<ResourceKey, ResourceStatus>>, StoreError> {
    let (mut statuses, mut seen) = (BTreeMap::new(), BTreeSet::new());
    let mut next = Some(key.clone());
    while let Some(key) = next.take().filter(|key| seen.insert(key.clone())) {
        let Some(status) = tx.status(&key).await? else { break };
        statuses.insert(key, status.clone());
        let Some(ready) = status.condition(ConditionType::Ready) else { break };
        let waits = matches!(ready.reason, Reason::DependencyNotReady | Reason::DependencyUnfinished);
        if ready.status == ConditionStatus::True || !waits {
            break;
        }
        let asked = explain::named(&ready.message).chain(status.depends_on.iter().cloned());
        for other in asked.collect::<BTreeSet<_>>() {
            if !statuses.contains_key(&other)
                && let Some(status) = tx.status(&other).await?
            {
                statuses.insert(other, status);
            }
        }
        next = explain::named_or_needed(&statuses, &status, &ready.message, &seen);
        if next.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(statuses))
}

/// What is no longer there, and so freezes the resources in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frozen {
    Tenant,
    Environment,
}

/// The newest look at each of `tenants`.
pub(super) async fn last_executions(
    store: &dyn Store,
    tenants: impl Iterator<Item = &String>,
) -> Result<BTreeMap<String, Execution>, StoreError> {
    let filter = HistoryFilter { looks: true, limit: RECENT_EXECUTIONS, ..HistoryFilter::default() };
    let recent = store.read(Scope::Platform).await?.executions(&filter).await?;
    let complete = recent.len() < RECENT_EXECUTIONS as usize;
    let mut last = BTreeMap::new();
    for execution in recent {
        last.entry(execution.tenant.clone()).or_insert(execution);
    }
    if !complete {
        for tenant in tenants {
            if !last.contains_key(tenant)
                && let Some(execution) = last_execution(store, tenant).await?
            {
                last.insert(tenant.clone(), execution);
            }
        }
    }
    Ok(last)
}

/// The newest look at `tenant`.
pub(super) async fn last_execution(store: &dyn Store, tenant: &str) -> Result<Option<Execution>, StoreError> {
    let filter = HistoryFilter { looks: true, limit: 1, ..HistoryFilter::default() };
    let mut tx = store.read(Scope::Tenant(tenant.to_owned())).await?;
    Ok(tx.executions(&filter).await?.into_iter().next())
}

/// The scope that holds `tenant`, or everything.
pub(super) fn scope_of(tenant: Option<&str>) -> Scope {
    tenant.map_or(Scope::Platform, |tenant| Scope::Tenant(tenant.to_owned()))
}

/// The line of a commit message that lets a held plan pass.
pub(super) fn trailer(plan: &HeldPlan) -> String {
    format!("{}: {}", plan.kind.trailer(), plan.id)
}

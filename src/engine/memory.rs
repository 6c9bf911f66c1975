//! What the store knows of a tenant: read when a pass begins, and written wherever a death must not forget it.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    AppliedDocument, Approval, ConditionStatus, ConditionType, Decisions, DesiredState, Diagnostic, Inventory, Lease,
    ObjectHex, Plan, Proposal, ProviderIdentity, Reason, Record, ResourceKey, ResourceStatus, Stray, TenantSpec,
};
use crate::store::{HeldPlan, Scope, TenantState, Tx};

use super::attempts::Attempts;
use super::circuits::Circuits;
use super::reconcile::chain;
use super::sagas::Sagas;
use super::{Engine, EngineError, decide, holds};

/// What the store knows of a tenant.
pub(super) struct Memory {
    pub state: Option<TenantState>,
    pub inventory: Inventory,
    unready: BTreeSet<ResourceKey>,
    gone: BTreeSet<ResourceKey>,
    /// Marked objects that the inventory did not know when their servers were heard last.
    pub strays: BTreeMap<ResourceKey, Stray>,
    pub proposals: BTreeMap<ResourceKey, Proposal>,
    pub statuses: BTreeMap<ResourceKey, ResourceStatus>,
    /// Plans with steps that wait for an approval.
    pub held: Vec<HeldPlan>,
    pub approvals: Vec<Approval>,
    pub identities: BTreeMap<String, ProviderIdentity>,
    /// Steps that failed.
    pub attempts: Attempts,
    /// Changes that are undone together, or may have to be.
    pub sagas: Sagas,
    /// Providers that did not answer lately.
    pub circuits: Circuits,
    /// What git said when each was applied last, for policies.
    pub documents: BTreeMap<ResourceKey, AppliedDocument>,
}

/// The large parts of a memory, kept in this process from one pass to the next.
pub(super) struct Kept {
    inventory: Inventory,
    documents: BTreeMap<ResourceKey, AppliedDocument>,
    statuses: BTreeMap<ResourceKey, ResourceStatus>,
    /// Keys that are not ready.
    unready: BTreeSet<ResourceKey>,
    /// Keys whose objects were gone.
    gone: BTreeSet<ResourceKey>,
}

/// What a pass has written of them.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub records: Vec<Record>,
    pub forgotten: Vec<ResourceKey>,
    pub statuses: Vec<ResourceStatus>,
    pub statuses_removed: Vec<ResourceKey>,
}

impl Kept {
    /// As the store has it once `changes` are written.
    pub(super) fn with(mut self, changes: Changes) -> Self {
        let Changes { records, forgotten, statuses, statuses_removed } = changes;
        for key in &forgotten {
            self.inventory.records.remove(key);
            self.documents.remove(key);
        }
        for record in records {
            if record.retained || record.document.is_unknown() {
                self.documents.remove(&record.key);
            } else {
                self.documents.insert(record.key.clone(), record.document.clone());
            }
            self.inventory.records.insert(record.key.clone(), record);
        }
        for key in &statuses_removed {
            self.statuses.remove(key);
            self.unready.remove(key);
            self.gone.remove(key);
        }
        for status in statuses {
            for (keys, holds) in [(&mut self.unready, is_unready(&status)), (&mut self.gone, is_gone(&status))] {
                match holds {
                    true => drop(keys.insert(status.key.clone())),
                    false => drop(keys.remove(&status.key)),
                }
            }
            self.statuses.insert(status.key.clone(), status);
        }
        self
    }
}

/// Where a pass has come to.
pub(super) struct Reached<'a> {
    pub head: &'a ObjectHex,
    /// Heads that were left for another source or history.
    pub left: &'a [ObjectHex],
    /// Whether all providers of the tenant have been heard by now, in this pass or in one before, and what they have is on
    /// record.
    pub heard_all: bool,
    /// The hold that outlives the pass.
    pub hold: Option<Reason>,
    pub findings: &'a [Diagnostic],
}

impl Memory {
    /// What can be kept of it.
    pub(super) fn into_kept(self) -> Kept {
        let Self { inventory, documents, statuses, unready, gone, .. } = self;
        Kept { inventory, documents, statuses, unready, gone }
    }

    /// Whether nothing is known of the tenant yet: no pass has heard all of its providers since its state began, and what
    /// any of them has may be what git wants elsewhere by now (R4).
    pub(super) fn is_new(&self) -> bool {
        self.state.as_ref().is_none_or(|state| state.applied.is_none())
    }

    /// Whether there is a conversation about `key`, or it was not ready when it was looked at last.
    pub(super) fn is_unsettled(&self, key: &ResourceKey) -> bool {
        self.proposals.contains_key(key) || self.statuses.get(key).is_none_or(is_unready)
    }

    /// The keys whose objects were gone when they were seen last.
    pub(super) fn gone(&self) -> impl Iterator<Item = &ResourceKey> {
        self.gone.iter()
    }

    /// Learns these statuses, in place of those that it knows.
    pub(super) fn know_statuses(&mut self, statuses: BTreeMap<ResourceKey, ResourceStatus>) {
        self.unready = keys_that(&statuses, is_unready);
        self.gone = keys_that(&statuses, is_gone);
        self.statuses = statuses;
    }

    /// Learns these records, in place of those that it knows.
    pub(super) fn know_records(&mut self, records: Vec<Record>) {
        self.inventory.records.extend(records.into_iter().map(|record| (record.key.clone(), record)));
    }

    /// All keys that are known and unsettled.
    pub(super) fn unsettled(&self) -> impl Iterator<Item = &ResourceKey> {
        self.proposals.keys().chain(&self.unready)
    }
}

impl Engine {
    /// What is known of a tenant; what was kept is not read again.
    pub(super) async fn recall(&self, tenant: &str, kept: Option<Kept>) -> Result<Memory, EngineError> {
        let identities = self.identities().await?;
        let mut tx = self.store.read(Scope::Tenant(tenant.to_owned())).await?;
        let kept = match kept {
            Some(kept) => kept,
            None => {
                let statuses = tx.statuses().await?;
                let (unready, gone) = (keys_that(&statuses, is_unready), keys_that(&statuses, is_gone));
                Kept { statuses, unready, gone, ..read_inventory(tx.as_mut()).await? }
            }
        };
        recall_around(kept, identities, tenant, tx.as_mut()).await
    }

    /// All but the statuses, which only a look that is not deep everywhere asks for; see [`Engine::statuses_of_removed`].
    pub(super) async fn recall_for_preview(&self, tenant: &str) -> Result<Memory, EngineError> {
        let identities = self.identities().await?;
        let mut tx = self.store.read(Scope::Tenant(tenant.to_owned())).await?;
        let kept = read_inventory(tx.as_mut()).await?;
        recall_around(kept, identities, tenant, tx.as_mut()).await
    }

    /// The statuses of those whose documents are gone.
    pub(super) async fn statuses_of_removed(
        &self,
        tenant: &str,
        inventory: &Inventory,
        desired: &DesiredState,
    ) -> Result<BTreeMap<ResourceKey, ResourceStatus>, EngineError> {
        let mut removed = inventory.unwanted(desired).map(|record| &record.key).peekable();
        let mut statuses = BTreeMap::new();
        if removed.peek().is_none() {
            return Ok(statuses);
        }
        let mut tx = self.store.read(Scope::Tenant(tenant.to_owned())).await?;
        for key in removed {
            statuses.extend(tx.status(key).await?.map(|status| (key.clone(), status)));
        }
        Ok(statuses)
    }

    /// Who the providers are. Asked before the transaction of a tenant is opened: passes that each held one reader and
    /// waited for a second could wait for each other.
    pub(super) async fn identities(&self) -> Result<BTreeMap<String, ProviderIdentity>, EngineError> {
        Ok(self.store.read(Scope::Platform).await?.identities().await?)
    }

    /// What must be known before anything is applied: approvals, since the commits they stand in are read once, and
    /// why deletions are held, since the source that says so is looked at once.
    pub(super) async fn remember_source(
        &self,
        lease: &Lease,
        spec: &TenantSpec,
        memory: &Memory,
        decisions: &Decisions,
        desired: &DesiredState,
    ) -> Result<(), EngineError> {
        let fresh: Vec<_> =
            decisions.approvals.iter().filter(|approval| !memory.approvals.contains(approval)).collect();
        let hold = holds::sticky(decisions);
        let known_hold = memory.state.as_ref().and_then(|state| state.hold);
        if fresh.is_empty() && hold == known_hold {
            return Ok(());
        }
        let mut tx = self.store.begin(Scope::Leased(lease.clone())).await?;
        for approval in fresh {
            tx.put_approval(&lease.tenant, approval).await?;
        }
        let before = self.state_now(&lease.tenant, spec, tx.as_mut()).await?;
        tx.put_tenant(&TenantState { hold, findings: desired.diagnostics.clone(), ..before }).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The keys that an approval of this very plan covers: after a death in the middle the rest is another plan, and
    /// the approval is still about its keys.
    pub(super) async fn remember_coverage(
        &self,
        lease: &Lease,
        plan: &Plan,
        decisions: &Decisions,
    ) -> Result<(), EngineError> {
        let covered = decide::with_coverage(&decisions.approvals, plan);
        if covered.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.begin(Scope::Leased(lease.clone())).await?;
        for approval in &covered {
            tx.put_approval(&lease.tenant, approval).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Where a pass has come to.
    pub(super) async fn remember_pass(
        &self,
        lease: &Lease,
        spec: &TenantSpec,
        memory: &Memory,
        reached: Reached<'_>,
    ) -> Result<(), EngineError> {
        let Reached { head, left, heard_all, hold, findings } = reached;
        let state = TenantState {
            applied: heard_all.then(|| head.clone()),
            head: Some(head.clone()),
            left: left.to_vec(),
            hold,
            findings: findings.to_vec(),
            ..self.blank_state(&lease.tenant, spec)
        };
        let same = memory
            .state
            .as_ref()
            .is_some_and(|before| TenantState { updated_at: state.updated_at, ..before.clone() } == state);
        if !same {
            let mut tx = self.store.begin(Scope::Leased(lease.clone())).await?;
            let TenantState { removed, .. } = self.state_now(&lease.tenant, spec, tx.as_mut()).await?;
            tx.put_tenant(&TenantState { removed, ..state }).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Why a tenant could not be reconciled at all.
    pub(super) async fn remember_failure(
        &self,
        lease: &Lease,
        spec: &TenantSpec,
        error: &EngineError,
    ) -> Result<(), EngineError> {
        let mut tx = self.store.begin(Scope::Leased(lease.clone())).await?;
        let before = self.state_now(&lease.tenant, spec, tx.as_mut()).await?;
        tx.put_tenant(&TenantState { error: chain(error), updated_at: self.clock.now(), ..before }).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The state as it is while the transaction that writes the next one is open. The platform may have let go of the
    /// tenant since the pass began, which only the platform takes back.
    async fn state_now(&self, tenant: &str, spec: &TenantSpec, tx: &mut dyn Tx) -> Result<TenantState, EngineError> {
        Ok(tx.tenants().await?.remove(tenant).unwrap_or_else(|| self.blank_state(tenant, spec)))
    }

    fn blank_state(&self, tenant: &str, spec: &TenantSpec) -> TenantState {
        let repository = &spec.repository;
        TenantState {
            url: repository.url.clone(),
            branch: repository.branch.clone(),
            path: repository.path.clone(),
            ..TenantState::of_name(tenant, self.clock.now())
        }
    }
}

async fn read_inventory(tx: &mut dyn Tx) -> Result<Kept, EngineError> {
    let inventory = tx.inventory().await?;
    let documents = inventory
        .live()
        .filter(|record| !record.document.is_unknown())
        .map(|record| (record.key.clone(), record.document.clone()))
        .collect();
    let (unready, gone) = (BTreeSet::new(), BTreeSet::new());
    Ok(Kept { inventory, documents, statuses: BTreeMap::new(), unready, gone })
}

async fn recall_around(
    kept: Kept,
    identities: BTreeMap<String, ProviderIdentity>,
    tenant: &str,
    tx: &mut dyn Tx,
) -> Result<Memory, EngineError> {
    let Kept { inventory, documents, statuses, unready, gone } = kept;
    Ok(Memory {
        state: tx.tenants().await?.remove(tenant),
        strays: tx.strays().await?,
        proposals: tx.proposals().await?,
        held: tx.held_plans(tenant).await?,
        approvals: tx.approvals(tenant).await?,
        attempts: tx.attempts().await?,
        sagas: tx.sagas().await?.into_iter().map(|saga| (saga.environment.clone(), saga)).collect(),
        circuits: tx.circuits().await?,
        identities,
        inventory,
        documents,
        statuses,
        unready,
        gone,
    })
}

fn keys_that(
    statuses: &BTreeMap<ResourceKey, ResourceStatus>,
    are: impl Fn(&ResourceStatus) -> bool,
) -> BTreeSet<ResourceKey> {
    statuses.values().filter(|status| are(status)).map(|status| status.key.clone()).collect()
}

fn is_unready(status: &ResourceStatus) -> bool {
    status.condition(ConditionType::Ready).is_none_or(|ready| ready.status != ConditionStatus::True)
}

/// Whether the object was gone when it was seen last. What it waits for, or that nobody could look since, may be the reason
/// by now; that it is gone stays a difference meanwhile, also where that is only observed and the resource is ready.
fn is_gone(status: &ResourceStatus) -> bool {
    let mut said = [ConditionType::Drifted, ConditionType::Ready].into_iter().filter_map(|of| status.condition(of));
    said.any(|condition| condition.reason == Reason::DataMissing)
}

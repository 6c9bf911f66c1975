//! What the store knows of a tenant: read when a pass begins, and written wherever a death must not forget it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::model::{
    Approval, ConditionStatus, ConditionType, Decisions, DesiredState, Diagnostic, Inventory, ObjectHex, Plan,
    Proposal, ProviderIdentity, Reason, ResourceKey, ResourceStatus, TenantSpec,
};
use crate::store::{HeldPlan, Scope, TenantState};

use super::reconcile::chain;
use super::{Engine, EngineError, decide, holds};

/// What the store knows of a tenant.
pub(super) struct Memory {
    pub state: Option<TenantState>,
    pub inventory: Inventory,
    pub proposals: BTreeMap<ResourceKey, Proposal>,
    pub statuses: BTreeMap<ResourceKey, ResourceStatus>,
    /// Plans with steps that wait for an approval.
    pub held: Vec<HeldPlan>,
    pub approvals: Vec<Approval>,
    pub identities: BTreeMap<String, ProviderIdentity>,
    /// What git said when each was applied last, for policies.
    pub documents: BTreeMap<ResourceKey, Arc<Value>>,
}

impl Memory {
    /// Whether there is a conversation about `key`, or it was not ready when it was looked at last.
    pub(super) fn is_unsettled(&self, key: &ResourceKey) -> bool {
        let ready = self.statuses.get(key).and_then(|status| status.condition(ConditionType::Ready));
        self.proposals.contains_key(key) || ready.is_none_or(|ready| ready.status != ConditionStatus::True)
    }
}

impl Engine {
    /// All of it.
    pub(super) async fn recall(&self, tenant: &str) -> Result<Memory, EngineError> {
        let memory = self.recall_for_preview(tenant).await?;
        let mut tx = self.store.read(Scope::Tenant(tenant.to_owned())).await?;
        Ok(Memory { statuses: tx.statuses().await?, ..memory })
    }

    /// All but the statuses, which only a look that is not deep everywhere asks for.
    pub(super) async fn recall_for_preview(&self, tenant: &str) -> Result<Memory, EngineError> {
        let mut platform = self.store.read(Scope::Platform).await?;
        let identities = platform.identities().await?;
        drop(platform);
        let mut tx = self.store.read(Scope::Tenant(tenant.to_owned())).await?;
        let inventory = tx.inventory().await?;
        Ok(Memory {
            state: tx.tenants().await?.remove(tenant),
            proposals: tx.proposals().await?,
            statuses: BTreeMap::new(),
            held: tx.held_plans(tenant).await?,
            approvals: tx.approvals(tenant).await?,
            identities,
            documents: inventory
                .live()
                .filter(|record| !record.document.is_null())
                .map(|record| (record.key.clone(), Arc::clone(&record.document)))
                .collect(),
            inventory,
        })
    }

    /// What must be known before anything is applied: approvals, since the commits they stand in are read once, and
    /// why deletions are held, since the source that says so is looked at once.
    pub(super) async fn remember_source(
        &self,
        tenant: &str,
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
        let mut tx = self.store.begin(Scope::Tenant(tenant.to_owned())).await?;
        for approval in fresh {
            tx.put_approval(tenant, approval).await?;
        }
        let blank = self.blank_state(tenant, spec);
        let before = memory.state.clone().unwrap_or(blank);
        tx.put_tenant(&TenantState { hold, findings: desired.diagnostics.clone(), ..before }).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The keys that an approval of this very plan covers: after a death in the middle the rest is another plan, and
    /// the approval is still about its keys.
    pub(super) async fn remember_coverage(
        &self,
        tenant: &str,
        plan: &Plan,
        decisions: &Decisions,
    ) -> Result<(), EngineError> {
        let covered = decide::with_coverage(&decisions.approvals, plan);
        if covered.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.begin(Scope::Tenant(tenant.to_owned())).await?;
        for approval in &covered {
            tx.put_approval(tenant, approval).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Where a pass has come to, and the hold that outlives it.
    pub(super) async fn remember_pass(
        &self,
        tenant: &str,
        spec: &TenantSpec,
        memory: &Memory,
        head: &ObjectHex,
        hold: Option<Reason>,
        findings: &[Diagnostic],
    ) -> Result<(), EngineError> {
        let state = TenantState {
            applied: Some(head.clone()),
            head: Some(head.clone()),
            hold,
            findings: findings.to_vec(),
            ..self.blank_state(tenant, spec)
        };
        let same = memory
            .state
            .as_ref()
            .is_some_and(|before| TenantState { updated_at: state.updated_at, ..before.clone() } == state);
        if !same {
            let mut tx = self.store.begin(Scope::Tenant(tenant.to_owned())).await?;
            tx.put_tenant(&state).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Why a tenant could not be reconciled at all.
    pub(super) async fn remember_failure(
        &self,
        tenant: &str,
        spec: &TenantSpec,
        error: &EngineError,
    ) -> Result<(), EngineError> {
        let mut tx = self.store.begin(Scope::Tenant(tenant.to_owned())).await?;
        let before = tx.tenants().await?.remove(tenant).unwrap_or(self.blank_state(tenant, spec));
        tx.put_tenant(&TenantState { error: chain(error), updated_at: self.clock.now(), ..before }).await?;
        tx.commit().await?;
        Ok(())
    }

    fn blank_state(&self, tenant: &str, spec: &TenantSpec) -> TenantState {
        TenantState {
            tenant: tenant.to_owned(),
            url: spec.repository.url.clone(),
            branch: spec.repository.branch.clone(),
            path: spec.repository.path.clone(),
            applied: None,
            head: None,
            hold: None,
            removed: false,
            error: String::new(),
            findings: Vec::new(),
            updated_at: self.clock.now(),
        }
    }
}

//! A store of plain maps that can only be read: whatever would write through it fails the test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use plumb::model::{
    Approval, Ask, Attempt, Circuit, Claim, Event, Execution, ExecutionOutcome, Inventory, Lease, Place, PlanId,
    Proposal, ProviderIdentity, Record, Release, Replica, Request, ResourceKey, ResourceStatus, Saga, Stray, Summary,
    Trigger,
};
use plumb::store::audit::{AuditAction, AuditEntry, AuditFilter, AuditHead, NewAudit};
use plumb::store::inputs::PackedInputs;
use plumb::store::{
    HeldPlan, HistoryFilter, Lead, NewEvent, PlatformState, Queue, Scope, Store, StoreError, StoredSecret, TenantState,
    Tx,
};
use tokio::sync::watch;

/// All that the store holds. Executions and events are oldest first.
#[derive(Clone, Default)]
pub struct Data {
    pub platform: Option<PlatformState>,
    pub tenants: BTreeMap<String, TenantState>,
    pub records: BTreeMap<ResourceKey, Record>,
    pub statuses: BTreeMap<ResourceKey, ResourceStatus>,
    pub strays: BTreeMap<ResourceKey, Stray>,
    pub proposals: BTreeMap<ResourceKey, Proposal>,
    pub attempts: BTreeMap<ResourceKey, Attempt>,
    pub circuits: BTreeMap<String, Circuit>,
    pub held: BTreeMap<String, Vec<HeldPlan>>,
    pub executions: Vec<Execution>,
    pub events: Vec<Event>,
}

/// The store.
pub struct FakeStore {
    /// `None` while it does not answer.
    data: Mutex<Option<Arc<Data>>>,
    seen: Arc<Seen>,
}

/// What was asked of a store.
#[derive(Default)]
pub struct Seen {
    /// How many executions it gave.
    pub executions: AtomicUsize,
    /// How many inventories are being read now, and were at most.
    inventories: AtomicUsize,
    pub most_inventories: AtomicUsize,
}

/// How often whoever reads an inventory lets others go first: long enough for all who may to come in.
const INVENTORY_TURNS: usize = 1000;

impl FakeStore {
    pub fn new(data: Data) -> Self {
        Self { data: Mutex::new(Some(Arc::new(data))), seen: Arc::default() }
    }

    pub fn set(&self, data: Option<Data>) {
        *self.data.lock().unwrap() = data.map(Arc::new);
    }

    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn begin(&self, _scope: Scope) -> Result<Box<dyn Tx>, StoreError> {
        panic!("the page only reads")
    }

    async fn snapshot(&self) -> Result<Box<dyn plumb::store::copy::Rows>, StoreError> {
        panic!("the page asks for no backup")
    }
    async fn exclusive(&self) -> Result<Box<dyn plumb::store::copy::Rows>, StoreError> {
        panic!("the page only reads")
    }
    async fn read(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError> {
        let failed = |source| StoreError::Query { what: "anything", source };
        if matches!(&scope, Scope::Tenant(name) if name.contains('\0')) {
            return Err(failed(sqlx::Error::Protocol("no text, as in PostgreSQL".to_owned())));
        }
        let data = self.data.lock().unwrap().clone().ok_or_else(|| failed(sqlx::Error::PoolTimedOut))?;
        Ok(Box::new(Snapshot { data, scope, seen: Arc::clone(&self.seen) }))
    }
}

#[async_trait]
impl Queue for FakeStore {
    async fn request(&self, _: &[Request]) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn claim(&self, _: &Replica, _: Duration) -> Result<Option<Claim>, StoreError> {
        panic!("the page only reads")
    }
    async fn claim_tenant(&self, _: &str, _: Ask, _: &Replica, _: Duration) -> Result<Option<Claim>, StoreError> {
        panic!("the page only reads")
    }
    async fn renew(&self, _: &Lease, _: Duration) -> Result<Option<String>, StoreError> {
        panic!("the page only reads")
    }
    async fn release(&self, _: &Lease, _: &Release) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        panic!("the page has a clock of its own")
    }
    async fn places(&self) -> Result<Vec<Place>, StoreError> {
        Ok(Vec::new())
    }
    async fn place(&self, _: &str) -> Result<Option<Place>, StoreError> {
        Ok(None)
    }
    async fn until_due(&self) -> Result<Option<Duration>, StoreError> {
        Ok(None)
    }
    async fn keep_only(&self, _: &[&str]) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    fn woken(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
    async fn lead(&self) -> Result<Option<Box<dyn Lead>>, StoreError> {
        panic!("the page only reads")
    }
}

struct Snapshot {
    data: Arc<Data>,
    scope: Scope,
    seen: Arc<Seen>,
}

impl Snapshot {
    fn sees(&self, tenant: &str) -> bool {
        self.scope.tenant().is_none_or(|name| name == tenant)
    }

    fn mine<T: Clone>(&self, all: &BTreeMap<ResourceKey, T>) -> BTreeMap<ResourceKey, T> {
        all.iter().filter(|(key, _)| self.sees(&key.tenant)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

#[async_trait]
impl Tx for Snapshot {
    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
    async fn platform(&mut self) -> Result<Option<PlatformState>, StoreError> {
        Ok(self.data.platform.clone())
    }
    async fn put_platform(&mut self, _: &PlatformState) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn identities(&mut self) -> Result<BTreeMap<String, ProviderIdentity>, StoreError> {
        Ok(BTreeMap::new())
    }
    async fn put_identity(&mut self, _: &str, _: &ProviderIdentity) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn tenants(&mut self) -> Result<BTreeMap<String, TenantState>, StoreError> {
        let tenants = self.data.tenants.iter().filter(|(name, _)| self.sees(name));
        Ok(tenants.map(|(name, state)| (name.clone(), state.clone())).collect())
    }
    async fn put_tenant(&mut self, _: &TenantState) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn inventory(&mut self) -> Result<Inventory, StoreError> {
        let now = self.seen.inventories.fetch_add(1, Ordering::SeqCst) + 1;
        self.seen.most_inventories.fetch_max(now, Ordering::SeqCst);
        for _ in 0..INVENTORY_TURNS {
            tokio::task::yield_now().await;
        }
        self.seen.inventories.fetch_sub(1, Ordering::SeqCst);
        Ok(Inventory { records: self.mine(&self.data.records) })
    }
    async fn record(&mut self, key: &ResourceKey) -> Result<Option<Record>, StoreError> {
        Ok(self.data.records.get(key).filter(|_| self.sees(&key.tenant)).cloned())
    }
    async fn newest_secret(&mut self) -> Result<Option<StoredSecret>, StoreError> {
        Ok(None)
    }
    async fn secret_key_id(&mut self) -> Result<Option<String>, StoreError> {
        Ok(None)
    }
    async fn put_secret_key_id(&mut self, _: &str) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn put_records(&mut self, _: &[Record]) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn forget(&mut self, _: &ResourceKey) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn statuses(&mut self) -> Result<BTreeMap<ResourceKey, ResourceStatus>, StoreError> {
        Ok(self.mine(&self.data.statuses))
    }
    async fn status(&mut self, key: &ResourceKey) -> Result<Option<ResourceStatus>, StoreError> {
        Ok(self.data.statuses.get(key).filter(|_| self.sees(&key.tenant)).cloned())
    }
    async fn put_statuses(&mut self, _: &[ResourceStatus]) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn remove_status(&mut self, _: &ResourceKey) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn strays(&mut self) -> Result<BTreeMap<ResourceKey, Stray>, StoreError> {
        Ok(self.mine(&self.data.strays))
    }
    async fn put_strays(&mut self, _: &str, _: &BTreeMap<ResourceKey, Stray>) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn proposals(&mut self) -> Result<BTreeMap<ResourceKey, Proposal>, StoreError> {
        Ok(self.mine(&self.data.proposals))
    }
    async fn put_proposal(&mut self, _: &Proposal) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn remove_proposal(&mut self, _: &ResourceKey) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn attempts(&mut self) -> Result<BTreeMap<ResourceKey, Attempt>, StoreError> {
        Ok(self.mine(&self.data.attempts))
    }
    async fn attempt(&mut self, key: &ResourceKey) -> Result<Option<Attempt>, StoreError> {
        Ok(self.data.attempts.get(key).filter(|_| self.sees(&key.tenant)).cloned())
    }
    async fn put_attempts(&mut self, _: &[Attempt]) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn remove_attempts(&mut self, _: &[ResourceKey]) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn circuits(&mut self) -> Result<BTreeMap<String, Circuit>, StoreError> {
        Ok(self.data.circuits.clone())
    }
    async fn put_circuit(&mut self, _: &Circuit) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn remove_circuit(&mut self, _: &str) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn sagas(&mut self) -> Result<Vec<Saga>, StoreError> {
        Ok(Vec::new())
    }
    async fn put_saga(&mut self, _: &Saga) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn remove_saga(&mut self, _: &str, _: &str) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn held_plans(&mut self, tenant: &str) -> Result<Vec<HeldPlan>, StoreError> {
        Ok(self.data.held.get(tenant).cloned().unwrap_or_default())
    }
    async fn put_held_plan(&mut self, _: &str, _: &HeldPlan) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn approvals(&mut self, _: &str) -> Result<Vec<Approval>, StoreError> {
        Ok(Vec::new())
    }
    async fn put_approval(&mut self, _: &str, _: &Approval) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn clear_approvals(&mut self, _: &str) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn secrets(&mut self, _: &ResourceKey, _: &str) -> Result<Vec<StoredSecret>, StoreError> {
        panic!("the page reads no secrets")
    }
    async fn roles_with_secrets(&mut self) -> Result<BTreeSet<(ResourceKey, String)>, StoreError> {
        panic!("the page reads no secrets")
    }
    async fn put_secret(&mut self, _: &StoredSecret) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn remove_secrets(&mut self, _: &ResourceKey) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn start_execution(
        &mut self,
        _: &str,
        _: Trigger,
        _: Option<&str>,
        _: DateTime<Utc>,
    ) -> Result<i64, StoreError> {
        panic!("the page only reads")
    }
    async fn finish_execution(
        &mut self,
        _: i64,
        _: ExecutionOutcome,
        _: Option<&str>,
        _: Option<&PlanId>,
        _: Summary,
        _: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn interrupt_running(&mut self, _: DateTime<Utc>) -> Result<Vec<i64>, StoreError> {
        panic!("the page only reads")
    }
    async fn executions(&mut self, filter: &HistoryFilter) -> Result<Vec<Execution>, StoreError> {
        let newest_first = self.data.executions.iter().rev();
        let found: Vec<Execution> = newest_first
            .filter(|execution| self.sees(&execution.tenant))
            .filter(|execution| filter.execution.is_none_or(|id| execution.id == id))
            .filter(|execution| !filter.looks || execution.trigger.is_look())
            .filter(|execution| filter.before.is_none_or(|before| execution.id < before))
            .take(filter.limit as usize)
            .cloned()
            .collect();
        self.seen.executions.fetch_add(found.len(), Ordering::SeqCst);
        Ok(found)
    }
    async fn append_events(&mut self, _: i64, _: &str, _: &[NewEvent]) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn events(&mut self, filter: &HistoryFilter) -> Result<Vec<Event>, StoreError> {
        let newest_first = self.data.events.iter().rev();
        Ok(newest_first
            .filter(|event| self.sees(&event.tenant))
            .filter(|event| filter.execution.is_none_or(|id| event.execution == id))
            .filter(|event| filter.key.as_ref().is_none_or(|key| event.key.as_ref() == Some(key)))
            .filter(|event| filter.before.is_none_or(|before| event.id < before))
            .take(filter.limit as usize)
            .cloned()
            .collect())
    }
    async fn put_plan_inputs(&mut self, _: i64, _: &str, _: u32, _: &PackedInputs) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn plan_inputs(&mut self, _: i64) -> Result<Vec<PackedInputs>, StoreError> {
        panic!("the page plans nothing")
    }
    async fn append_audit(&mut self, _: &str, _: &[NewAudit]) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn audit(&mut self, _: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError> {
        Ok(Vec::new())
    }
    async fn last_audit(&mut self, _: &str, _: AuditAction) -> Result<Option<AuditEntry>, StoreError> {
        Ok(None)
    }
    async fn audit_heads(&mut self) -> Result<Vec<AuditHead>, StoreError> {
        Ok(Vec::new())
    }
    async fn make_months(&mut self, _: DateTime<Utc>) -> Result<(), StoreError> {
        panic!("the page only reads")
    }
    async fn prune_audit(&mut self, _: DateTime<Utc>) -> Result<u64, StoreError> {
        panic!("the page only reads")
    }
    async fn prune_history(&mut self, _: DateTime<Utc>) -> Result<u64, StoreError> {
        panic!("the page only reads")
    }
}

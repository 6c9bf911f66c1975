//! A store that fails as stores do: late, not at all, after the commit, or under a process that dies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use plumb::model::{
    Approval, Ask, Claim, Event, Execution, ExecutionOutcome, Inventory, Lease, Place, PlanId, Proposal,
    ProviderIdentity, Record, Release, Replica, Request, ResourceKey, ResourceStatus, Slot, Stray, Summary, Trigger,
};
use plumb::model::{Attempt, Circuit, Saga};
use plumb::store::audit::{AuditAction, AuditEntry, AuditFilter, AuditHead, NewAudit};
use plumb::store::copy::Rows;
use plumb::store::inputs::PackedInputs;
use plumb::store::{
    HeldPlan, HistoryFilter, Lead, NewEvent, PlatformState, Queue, Scope, Store, StoreError, StoredSecret, TenantState,
    Tx,
};
use tokio::sync::watch;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Go,
    Fail,
    /// The process is no more: what it holds ends, and the call never returns.
    Die,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
}

/// Says what becomes of calls, before and after each.
#[async_trait]
pub trait Points: Send + Sync {
    /// It may be late, not be made, or be the last thing that the process began.
    async fn before(&self, call: Call, what: &'static str) -> Fate;

    /// The answer may be late or lost, or find nobody.
    async fn after(&self, call: Call, what: &'static str) -> Fate;

    /// Whether this process leads; `None` leaves it to the store.
    fn leads(&self) -> Option<bool> {
        None
    }

    /// Whether this process is woken by what comes into the queue.
    fn hears(&self) -> bool {
        true
    }
}

/// What a process that is no more waits for.
pub async fn never<T>() -> T {
    std::future::pending().await
}

/// One process's connection to a store.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    points: Arc<dyn Points>,
    /// What those hear who are not woken.
    silence: Arc<watch::Sender<u64>>,
}

fn failed() -> StoreError {
    StoreError::Query { what: "a fault of the simulation", source: sqlx::Error::PoolTimedOut }
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn Store>, points: Arc<dyn Points>) -> Self {
        Self { inner, points, silence: Arc::default() }
    }

    async fn call<T>(
        &self,
        call: Call,
        what: &'static str,
        done: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match self.points.before(call, what).await {
            Fate::Go => {}
            Fate::Fail => return Err(failed()),
            Fate::Die => return never().await,
        }
        let done = done.await;
        match self.points.after(call, what).await {
            Fate::Go => done,
            Fate::Fail => Err(failed()),
            Fate::Die => {
                drop(done);
                never().await
            }
        }
    }

    fn wrap(&self, inner: Box<dyn Tx>) -> Box<dyn Tx> {
        Box::new(FaultyTx { inner: Some(inner), points: Arc::clone(&self.points) })
    }
}

#[async_trait]
impl Queue for FaultyStore {
    async fn request(&self, requests: &[Request]) -> Result<(), StoreError> {
        self.call(Call::Write, "request", self.inner.request(requests)).await
    }

    async fn claim(&self, holder: &Replica, lease: Duration) -> Result<Option<Claim>, StoreError> {
        self.call(Call::Write, "claim", self.inner.claim(holder, lease)).await
    }

    async fn claim_tenant(
        &self,
        tenant: &str,
        ask: Ask,
        holder: &Replica,
        lease: Duration,
    ) -> Result<Option<Claim>, StoreError> {
        self.call(Call::Write, "claim_tenant", self.inner.claim_tenant(tenant, ask, holder, lease)).await
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Option<String>, StoreError> {
        self.call(Call::Write, "renew", self.inner.renew(lease, length)).await
    }

    async fn release(&self, lease: &Lease, release: &Release) -> Result<(), StoreError> {
        self.call(Call::Write, "release", self.inner.release(lease, release)).await
    }

    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        self.inner.now().await
    }

    async fn take_slot(&self, provider: &str, limit: usize, lease: &Lease) -> Result<Option<Slot>, StoreError> {
        self.call(Call::Write, "take_slot", self.inner.take_slot(provider, limit, lease)).await
    }

    async fn give_slot(&self, slot: &Slot) -> Result<(), StoreError> {
        self.call(Call::Write, "give_slot", self.inner.give_slot(slot)).await
    }

    async fn give_slots_but(&self, provider: &str, used: &[i64], lease: &Lease) -> Result<(), StoreError> {
        self.call(Call::Write, "give_slots_but", self.inner.give_slots_but(provider, used, lease)).await
    }

    async fn places(&self) -> Result<Vec<Place>, StoreError> {
        self.call(Call::Read, "places", self.inner.places()).await
    }

    async fn place(&self, tenant: &str) -> Result<Option<Place>, StoreError> {
        self.call(Call::Read, "place", self.inner.place(tenant)).await
    }

    async fn until_due(&self) -> Result<Option<Duration>, StoreError> {
        self.call(Call::Read, "until_due", self.inner.until_due()).await
    }

    async fn keep_only(&self, tenants: &[&str]) -> Result<(), StoreError> {
        self.call(Call::Write, "keep_only", self.inner.keep_only(tenants)).await
    }

    fn woken(&self) -> watch::Receiver<u64> {
        if self.points.hears() { self.inner.woken() } else { self.silence.subscribe() }
    }

    async fn lead(&self) -> Result<Option<Box<dyn Lead>>, StoreError> {
        let led = async {
            match self.points.leads() {
                Some(leads) => Ok(leads.then(|| Box::new(Leading) as Box<dyn Lead>)),
                None => {
                    let lead = self.inner.lead().await?;
                    Ok(lead.map(|inner| Box::new(Led { inner, store: self.clone() }) as Box<dyn Lead>))
                }
            }
        };
        self.call(Call::Read, "lead", led).await
    }
}

/// Being the leader for as long as one lives.
struct Leading;

#[async_trait]
impl Lead for Leading {
    async fn still_leads(&mut self) -> bool {
        true
    }
}

/// Being the leader for as long as the store says so.
struct Led {
    inner: Box<dyn Lead>,
    store: FaultyStore,
}

#[async_trait]
impl Lead for Led {
    async fn still_leads(&mut self) -> bool {
        let Self { inner, store } = self;
        let asked = store.call(Call::Read, "still leads", async { Ok(inner.still_leads().await) });
        asked.await.unwrap_or(false)
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn begin(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError> {
        Ok(self.wrap(self.call(Call::Write, "begin", self.inner.begin(scope)).await?))
    }

    async fn read(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError> {
        Ok(self.wrap(self.call(Call::Read, "read", self.inner.read(scope)).await?))
    }

    async fn snapshot(&self) -> Result<Box<dyn Rows>, StoreError> {
        self.inner.snapshot().await
    }

    async fn exclusive(&self) -> Result<Box<dyn Rows>, StoreError> {
        self.inner.exclusive().await
    }
}

struct FaultyTx {
    /// `None` once a question failed: nothing more can be done in it.
    inner: Option<Box<dyn Tx>>,
    points: Arc<dyn Points>,
}

impl FaultyTx {
    /// What the question may be asked of, if it may be asked.
    async fn before(&mut self, call: Call, what: &'static str) -> Result<&mut Box<dyn Tx>, StoreError> {
        let fate = self.points.before(call, what).await;
        self.suffer(fate).await?;
        self.inner.as_mut().ok_or(StoreError::Aborted)
    }

    async fn after(&mut self, call: Call, what: &'static str) -> Result<(), StoreError> {
        let fate = self.points.after(call, what).await;
        self.suffer(fate).await
    }

    async fn suffer(&mut self, fate: Fate) -> Result<(), StoreError> {
        match fate {
            Fate::Go => Ok(()),
            Fate::Fail => {
                self.inner = None;
                Err(failed())
            }
            Fate::Die => {
                self.inner = None;
                never().await
            }
        }
    }
}

/// Methods that ask the inner transaction, unless the question fails.
macro_rules! asked {
    ($($call:ident async fn $name:ident(&mut self $(, $argument:ident: $type:ty)*) -> $result:ty;)+) => {
        /// All that is asked of a transaction, by name.
        pub const ASKED: &[(Call, &str)] = &[$((Call::$call, stringify!($name))),+];

        #[async_trait]
        impl Tx for FaultyTx {
            async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
                self.before(Call::Write, "commit").await?;
                let inner = self.inner.take().ok_or(StoreError::Aborted)?;
                inner.commit().await?;
                self.after(Call::Write, "commit").await
            }

            $(
                async fn $name(&mut self $(, $argument: $type)*) -> $result {
                    const WHAT: &str = stringify!($name);
                    let answer = self.before(Call::$call, WHAT).await?.$name($($argument),*).await?;
                    self.after(Call::$call, WHAT).await?;
                    Ok(answer)
                }
            )+
        }
    };
}

asked! {
    Read async fn platform(&mut self) -> Result<Option<PlatformState>, StoreError>;
    Write async fn put_platform(&mut self, state: &PlatformState) -> Result<(), StoreError>;
    Read async fn identities(&mut self) -> Result<BTreeMap<String, ProviderIdentity>, StoreError>;
    Write async fn put_identity(&mut self, provider: &str, identity: &ProviderIdentity) -> Result<(), StoreError>;
    Read async fn tenants(&mut self) -> Result<BTreeMap<String, TenantState>, StoreError>;
    Write async fn put_tenant(&mut self, state: &TenantState) -> Result<(), StoreError>;
    Read async fn inventory(&mut self) -> Result<Inventory, StoreError>;
    Read async fn record(&mut self, key: &ResourceKey) -> Result<Option<Record>, StoreError>;
    Write async fn put_records(&mut self, records: &[Record]) -> Result<(), StoreError>;
    Write async fn forget(&mut self, key: &ResourceKey) -> Result<(), StoreError>;
    Read async fn statuses(&mut self) -> Result<BTreeMap<ResourceKey, ResourceStatus>, StoreError>;
    Read async fn status(&mut self, key: &ResourceKey) -> Result<Option<ResourceStatus>, StoreError>;
    Write async fn put_statuses(&mut self, statuses: &[ResourceStatus]) -> Result<(), StoreError>;
    Write async fn remove_status(&mut self, key: &ResourceKey) -> Result<(), StoreError>;
    Read async fn strays(&mut self) -> Result<BTreeMap<ResourceKey, Stray>, StoreError>;
    Write async fn put_strays(&mut self, tenant: &str, strays: &BTreeMap<ResourceKey, Stray>) -> Result<(), StoreError>;
    Read async fn proposals(&mut self) -> Result<BTreeMap<ResourceKey, Proposal>, StoreError>;
    Write async fn put_proposal(&mut self, proposal: &Proposal) -> Result<(), StoreError>;
    Write async fn remove_proposal(&mut self, key: &ResourceKey) -> Result<(), StoreError>;
    Read async fn attempts(&mut self) -> Result<BTreeMap<ResourceKey, Attempt>, StoreError>;
    Read async fn attempt(&mut self, key: &ResourceKey) -> Result<Option<Attempt>, StoreError>;
    Write async fn put_attempts(&mut self, attempts: &[Attempt]) -> Result<(), StoreError>;
    Write async fn remove_attempts(&mut self, keys: &[ResourceKey]) -> Result<(), StoreError>;
    Read async fn circuits(&mut self) -> Result<BTreeMap<String, Circuit>, StoreError>;
    Write async fn put_circuit(&mut self, circuit: &Circuit) -> Result<(), StoreError>;
    Write async fn remove_circuit(&mut self, provider: &str) -> Result<(), StoreError>;
    Read async fn sagas(&mut self) -> Result<Vec<Saga>, StoreError>;
    Write async fn put_saga(&mut self, saga: &Saga) -> Result<(), StoreError>;
    Write async fn remove_saga(&mut self, tenant: &str, environment: &str) -> Result<(), StoreError>;
    Write async fn append_audit(&mut self, tenant: &str, entries: &[NewAudit]) -> Result<(), StoreError>;
    Read async fn audit(&mut self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError>;
    Read async fn last_audit(&mut self, tenant: &str, action: AuditAction) -> Result<Option<AuditEntry>, StoreError>;
    Read async fn audit_heads(&mut self) -> Result<Vec<AuditHead>, StoreError>;
    Write async fn prune_audit(&mut self, before: DateTime<Utc>) -> Result<u64, StoreError>;
    Write async fn make_months(&mut self, now: DateTime<Utc>) -> Result<(), StoreError>;
    Read async fn held_plans(&mut self, tenant: &str) -> Result<Vec<HeldPlan>, StoreError>;
    Write async fn put_held_plan(&mut self, tenant: &str, plan: &HeldPlan) -> Result<(), StoreError>;
    Read async fn approvals(&mut self, tenant: &str) -> Result<Vec<Approval>, StoreError>;
    Write async fn put_approval(&mut self, tenant: &str, approval: &Approval) -> Result<(), StoreError>;
    Write async fn clear_approvals(&mut self, tenant: &str) -> Result<(), StoreError>;
    Read async fn secrets(&mut self, key: &ResourceKey, role: &str) -> Result<Vec<StoredSecret>, StoreError>;
    Read async fn roles_with_secrets(&mut self) -> Result<BTreeSet<(ResourceKey, String)>, StoreError>;
    Read async fn newest_secret(&mut self) -> Result<Option<StoredSecret>, StoreError>;
    Read async fn secret_key_id(&mut self) -> Result<Option<String>, StoreError>;
    Write async fn put_secret_key_id(&mut self, id: &str) -> Result<(), StoreError>;
    Write async fn put_secret(&mut self, secret: &StoredSecret) -> Result<(), StoreError>;
    Write async fn remove_secrets(&mut self, key: &ResourceKey) -> Result<(), StoreError>;
    Write async fn start_execution(
        &mut self,
        tenant: &str,
        trigger: Trigger,
        commit: Option<&str>,
        at: DateTime<Utc>
    ) -> Result<i64, StoreError>;
    Write async fn finish_execution(
        &mut self,
        id: i64,
        outcome: ExecutionOutcome,
        commit: Option<&str>,
        plan: Option<&PlanId>,
        summary: Summary,
        at: DateTime<Utc>
    ) -> Result<(), StoreError>;
    Write async fn interrupt_running(&mut self, at: DateTime<Utc>) -> Result<Vec<i64>, StoreError>;
    Read async fn executions(&mut self, filter: &HistoryFilter) -> Result<Vec<Execution>, StoreError>;
    Write async fn append_events(&mut self, execution: i64, tenant: &str, events: &[NewEvent]) -> Result<(), StoreError>;
    Write async fn put_plan_inputs(&mut self, execution: i64, tenant: &str, pass: u32, inputs: &PackedInputs) -> Result<(), StoreError>;
    Read async fn plan_inputs(&mut self, execution: i64) -> Result<Vec<PackedInputs>, StoreError>;
    Read async fn events(&mut self, filter: &HistoryFilter) -> Result<Vec<Event>, StoreError>;
    Write async fn prune_history(&mut self, before: DateTime<Utc>) -> Result<u64, StoreError>;
}

//! A store in memory that keeps the contract of `plumb::store` (`tests/it/store/contract.rs` runs on it), as deterministic
//! as its caller: time is the runtime's, nothing is hashed, and a commit happens in one instant.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use plumb::model::{
    Approval, ApprovalKind, Ask, Attempt, Circuit, Claim, Event, EventKind, Execution, ExecutionOutcome, Inventory,
    Lease, Place, PlanId, Proposal, ProviderIdentity, Record, Release, Replica, Request, ResourceKey, ResourceStatus,
    Saga, Slot, Stray, Summary, Trigger, Width, is_label,
};
use plumb::store::audit::{AuditAction, AuditEntry, AuditFilter, AuditHead, NewAudit, ORIGIN, PLATFORM_CHAIN};
use plumb::store::copy::Rows;
use plumb::store::inputs::PackedInputs;
use plumb::store::{
    HeldPlan, HistoryFilter, Lead, NewEvent, PlatformState, Queue, Scope, Store, StoreError, StoredSecret, TenantState,
    Tx,
};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;

/// As on the databases: a time further ahead counts as reached.
const HORIZON: TimeDelta = TimeDelta::hours(1);

/// As on the databases: how long a tenant waits whose look was abandoned twice in a row, doubling, and the longest.
const AFTER_DEATHS: TimeDelta = TimeDelta::seconds(10);
const AFTER_MANY_DEATHS: TimeDelta = TimeDelta::minutes(5);

/// More looks than any run has where they wait for something.
pub const MOST_LOOKS: i64 = 1000;

/// A table: shared until somebody writes in it, so that a snapshot costs nothing.
type Table<K, V> = Arc<BTreeMap<K, V>>;

/// Everything that is stored.
#[derive(Clone, Default)]
struct Tables {
    platform: Option<PlatformState>,
    identities: BTreeMap<String, ProviderIdentity>,
    tenants: Table<String, TenantState>,
    inventory: Table<ResourceKey, Record>,
    statuses: Table<ResourceKey, ResourceStatus>,
    strays: Table<ResourceKey, Stray>,
    proposals: Table<ResourceKey, Proposal>,
    held: Table<(String, PlanId, &'static str), HeldPlan>,
    approvals: Table<(String, PlanId, &'static str, String), Approval>,
    /// In the order of their making.
    secrets: Arc<Vec<StoredSecret>>,
    secret_key_id: Option<String>,
    attempts: Table<ResourceKey, Attempt>,
    circuits: Table<String, Circuit>,
    /// By tenant and environment.
    sagas: Table<(String, String), Saga>,
    /// Every saga as it was when it was written down that it is undone.
    undone: Arc<Vec<Saga>>,
    /// By chain and number.
    audit: Table<(String, i64), AuditEntry>,
    audit_heads: Table<String, AuditHead>,
    executions: Table<i64, Execution>,
    events: Table<i64, Arc<Event>>,
    /// By execution and its plans' numbers.
    inputs: Table<(i64, u32), (String, Arc<PackedInputs>)>,
    last_execution: i64,
    last_event: i64,
}

/// A tenant's place in the queue.
#[derive(Clone, Default)]
struct Row {
    asked: Option<Ask>,
    due: Option<DateTime<Utc>>,
    holder: Option<Replica>,
    lease_until: Option<DateTime<Utc>>,
    claimed_at: Option<DateTime<Utc>>,
    claimed: Option<Ask>,
    generation: i64,
    failures: u32,
    /// How many holders in a row did not end their look.
    abandoned: u32,
    seen: Option<String>,
    news: Option<String>,
    looked_at: Option<DateTime<Utc>>,
    deep_at: Option<DateTime<Utc>>,
    /// The claim whose lease was ended from outside: its holder may go on to renew it.
    ended: Option<i64>,
}

struct Inner {
    tables: Mutex<Tables>,
    queue: Mutex<BTreeMap<String, Row>>,
    /// By provider and number, the lease that each was taken under last.
    slots: Mutex<BTreeMap<(String, i64), Lease>>,
    /// Held by whoever writes, the queue's own writes included.
    writer: Arc<tokio::sync::Mutex<()>>,
    leader: Arc<tokio::sync::Mutex<()>>,
    /// One for each that listens: a channel wakes those that share it in an order of its own.
    wake: Mutex<Vec<watch::Sender<u64>>>,
    opened: DateTime<Utc>,
    since: Instant,
    /// What was done to it that a look must not do.
    violations: Mutex<Vec<String>>,
}

/// What is only written under the lease of a look: what a replica writes that has lost its tenant, or somebody beside it,
/// would be carried out. Who has something tried again writes beside a look what that is: attempts and sagas.
const UNDER_A_LEASE: [&str; 6] =
    ["a proposal", "a record of the inventory", "a secret", "a status", "approvals", "the inputs of a plan"];

/// The store; a clone is another handle on the same one.
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

impl MemoryStore {
    /// An empty store, opened at `now`.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self(Arc::new(Inner {
            tables: Mutex::default(),
            queue: Mutex::default(),
            slots: Mutex::default(),
            writer: Arc::default(),
            leader: Arc::default(),
            wake: Mutex::default(),
            opened: now,
            since: Instant::now(),
            violations: Mutex::default(),
        }))
    }

    /// Lets the lease on `tenant` run out, as if its holder had given no sign of life; says whether somebody had it.
    pub fn end_lease(&self, tenant: &str) -> bool {
        let now = self.now();
        let held = self.queue().get_mut(tenant).is_some_and(|row| {
            row.lease_until = row.holder.as_ref().map(|_| now);
            row.ended = Some(row.generation);
            row.holder.is_some()
        });
        self.wake();
        held
    }

    /// Every execution and event, oldest first.
    pub fn history(&self) -> (Vec<Execution>, Vec<Event>) {
        let tables = self.tables();
        (tables.executions.values().cloned().collect(), tables.events.values().map(|e| Event::clone(e)).collect())
    }

    /// Whether somebody looks at `tenant`.
    pub fn is_held(&self, tenant: &str) -> bool {
        self.queue().get(tenant).is_some_and(|row| row.holder.is_some())
    }

    /// Whether it is known who the server of `provider` is.
    pub fn knows(&self, provider: &str) -> bool {
        self.tables().identities.contains_key(provider)
    }

    /// Whether the inventory knows `key`.
    pub fn has_record(&self, key: &ResourceKey) -> bool {
        self.tables().inventory.get(key).is_some_and(|record| !record.retained)
    }

    /// Whether `key` was let go of on purpose, and its object left (`deletion: retain`).
    pub fn has_retained(&self, key: &ResourceKey) -> bool {
        self.tables().inventory.get(key).is_some_and(|record| record.retained)
    }

    /// Whether it is written down that a step of `key` has begun, and not how it ended.
    pub fn has_begun(&self, key: &ResourceKey) -> bool {
        let tables = self.tables();
        let mut steps = tables.events.values().rev().filter(|event| event.key.as_ref() == Some(key)).filter_map(
            |event| match event.kind {
                EventKind::StepStarted { .. } => Some(true),
                EventKind::StepDone { .. } | EventKind::StepFailed { .. } => Some(false),
                _ => None,
            },
        );
        steps.next().unwrap_or(false)
    }

    /// Every saga as it was when it was written down that it is undone, oldest first.
    pub fn undone(&self) -> Vec<Saga> {
        self.tables().undone.to_vec()
    }

    /// Whether it is, or was, written down that `key` is to be undone, which a change had made.
    pub fn was_to_be_unmade(&self, key: &ResourceKey) -> bool {
        self.tables().undone.iter().any(|saga| saga.parts.get(key).is_some_and(|part| part.former.is_none()))
    }

    /// The lease of `tenant` that `holder` has, while it lasts and has not ended in between: somebody else may have taken
    /// its slots then.
    pub fn lease_of(&self, tenant: &str, holder: &str) -> Option<Lease> {
        let lease = {
            let queue = self.queue();
            let row = queue.get(tenant).filter(|row| row.ended != Some(row.generation))?;
            let holder = row.holder.clone().filter(|by| by.0 == holder)?;
            Lease { tenant: tenant.to_owned(), holder, generation: row.generation }
        };
        self.lasts(&lease).then_some(lease)
    }

    /// How many slots of `provider` are taken under `lease`, or under those that its holder had before.
    pub fn slots_of(&self, lease: &Lease, provider: &str) -> usize {
        let is_its = |taken: &Lease| (&taken.tenant, &taken.holder) == (&lease.tenant, &lease.holder);
        self.slots().iter().filter(|((of, _), taken)| of == provider && is_its(taken)).count()
    }

    /// Slots that are taken under leases of `tenant` that are younger than that generation, by provider.
    pub fn slots_since(&self, tenant: &str, generation: i64) -> Vec<String> {
        let is_younger = |lease: &Lease| lease.tenant == tenant && lease.generation > generation;
        self.slots().iter().filter(|(_, taken)| is_younger(taken)).map(|((of, _), _)| of.clone()).collect()
    }

    fn now(&self) -> DateTime<Utc> {
        self.0.opened + TimeDelta::from_std(self.0.since.elapsed()).expect("a test is short")
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, BTreeMap<String, Row>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<(String, i64), Lease>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the lease is held, and has not run out though nobody has claimed its tenant yet.
    fn lasts(&self, lease: &Lease) -> bool {
        let now = self.now();
        self.queue()
            .get(&lease.tenant)
            .is_some_and(|row| is_held(row, lease) && row.lease_until.is_some_and(|until| until > now))
    }

    fn wake(&self) {
        let mut listeners = self.0.wake.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.receiver_count() > 0);
        for listener in listeners.iter() {
            listener.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// Whether the lease is the one that counts.
    pub fn holds(&self, lease: &Lease) -> bool {
        self.queue().get(&lease.tenant).is_some_and(|row| is_held(row, lease))
    }

    fn violated(&self, what: String) {
        self.0.violations.lock().unwrap().push(what);
    }

    /// What was done to it that a look must not do.
    pub fn violations(&self) -> Vec<String> {
        self.0.violations.lock().unwrap().clone()
    }

    fn claim_one(&self, holder: &Replica, wanted: Option<(&str, Ask)>, length: Duration) -> Option<Claim> {
        let now = self.now();
        let reached = |at: DateTime<Utc>| at <= now || at > now + HORIZON;
        let mut queue = self.queue();
        let tenant = match wanted {
            Some((tenant, _)) => {
                let row = queue.entry(tenant.to_owned()).or_insert_with(|| first_row(now));
                let free = row.holder.is_none() || row.lease_until.is_some_and(reached);
                free.then(|| tenant.to_owned())?
            }
            None => loop {
                let claimable = |row: &Row| match row.holder {
                    None => row.due.is_some_and(reached),
                    Some(_) => row.lease_until.is_some_and(reached),
                };
                let due = queue.iter().filter(|(_, row)| claimable(row));
                let tenant =
                    due.min_by_key(|(tenant, row)| (row.lease_until.or(row.due), (*tenant).clone()))?.0.clone();
                let row = queue.get_mut(&tenant)?;
                if row.holder.is_none() || row.abandoned == 0 {
                    break tenant;
                }
                // Abandoned twice in a row: it waits.
                row.abandoned += 1;
                let asked = [row.claimed, row.asked].into_iter().flatten().reduce(Ask::or);
                let due = Some(now + (AFTER_DEATHS * (1 << (row.abandoned - 2).min(16))).min(AFTER_MANY_DEATHS));
                *row =
                    Row { asked, due, holder: None, lease_until: None, claimed_at: None, claimed: None, ..row.clone() };
            },
        };
        let row = queue.get_mut(&tenant)?;
        let asks = [wanted.map(|(_, ask)| ask), row.claimed, row.asked];
        let ask = asks.into_iter().flatten().reduce(Ask::or)?;
        let due = row.lease_until.or(row.due).unwrap_or(now).min(now);
        let generation = row.generation + 1;
        row.abandoned += u32::from(row.claimed.is_some());
        *row = Row {
            asked: None,
            due: None,
            holder: Some(holder.clone()),
            lease_until: Some(after(now, length)),
            claimed_at: Some(now),
            claimed: Some(ask),
            generation,
            ..row.clone()
        };
        let lease = Lease { tenant, holder: holder.clone(), generation };
        Some(Claim { lease, ask, failures: row.failures, due, news: row.news.clone(), seen: row.seen.clone() })
    }
}

fn is_held(row: &Row, lease: &Lease) -> bool {
    row.generation == lease.generation && row.holder.as_ref() == Some(&lease.holder)
}

fn lost(lease: &Lease) -> StoreError {
    StoreError::LostLease { tenant: lease.tenant.clone() }
}

fn first_row(now: DateTime<Utc>) -> Row {
    Row { generation: now.timestamp_micros(), ..Row::default() }
}

fn after(now: DateTime<Utc>, delay: Duration) -> DateTime<Utc> {
    now + TimeDelta::from_std(delay).unwrap_or(HORIZON).min(HORIZON)
}

fn place(tenant: &str, row: &Row) -> Place {
    Place {
        tenant: tenant.to_owned(),
        asked: row.asked,
        due: row.due,
        holder: row.holder.clone(),
        lease_until: row.lease_until,
        claimed_at: row.claimed_at,
        generation: row.generation,
        failures: row.failures,
        seen: row.seen.clone(),
        news: row.news.clone(),
        looked_at: row.looked_at,
        deep_at: row.deep_at,
        abandoned: row.abandoned,
    }
}

#[async_trait]
impl Queue for MemoryStore {
    async fn request(&self, requests: &[Request]) -> Result<(), StoreError> {
        let _writer = self.0.writer.lock().await;
        let now = self.now();
        for Request { tenant, ask, delay, news } in requests {
            let mut queue = self.queue();
            let row = queue.entry(tenant.clone()).or_insert_with(|| first_row(now));
            row.asked = Some(row.asked.map_or(*ask, |before| before.or(*ask)));
            let due = after(now, *delay);
            let wants_one = matches!(ask.trigger, Trigger::Commit | Trigger::Request | Trigger::CommandLine);
            let is_earlier = row.due.is_none_or(|before| due < before && (row.abandoned < 2 || wants_one));
            row.due = if is_earlier { Some(due) } else { row.due };
            if ask.trigger == Trigger::Commit {
                (row.failures, row.abandoned) = (0, 0);
            }
            row.news = news.clone().or(row.news.take());
        }
        self.wake();
        Ok(())
    }

    async fn claim(&self, holder: &Replica, lease: Duration) -> Result<Option<Claim>, StoreError> {
        let _writer = self.0.writer.lock().await;
        Ok(self.claim_one(holder, None, lease))
    }

    async fn claim_tenant(
        &self,
        tenant: &str,
        ask: Ask,
        holder: &Replica,
        lease: Duration,
    ) -> Result<Option<Claim>, StoreError> {
        let _writer = self.0.writer.lock().await;
        Ok(self.claim_one(holder, Some((tenant, ask)), lease))
    }

    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Option<String>, StoreError> {
        let _writer = self.0.writer.lock().await;
        let until = after(self.now(), length);
        let mut queue = self.queue();
        let row = queue.get_mut(&lease.tenant).filter(|row| is_held(row, lease)).ok_or_else(|| lost(lease))?;
        row.lease_until = Some(until);
        Ok(row.news.clone())
    }

    async fn release(&self, lease: &Lease, release: &Release) -> Result<(), StoreError> {
        let _writer = self.0.writer.lock().await;
        let now = self.now();
        {
            let mut queue = self.queue();
            let row = queue.get_mut(&lease.tenant).filter(|row| is_held(row, lease)).ok_or_else(|| lost(lease))?;
            let nothing_new = row.news == release.news;
            row.failures = if nothing_new { release.retry.map_or(0, |(_, failures)| failures) } else { 0 };
            if nothing_new {
                row.news = release.seen.clone().or(row.news.take());
            }
            row.seen = release.seen.clone().or(row.seen.take());
            if let Some((delay, _)) = release.retry {
                row.due = row.due.or(Some(after(now, delay)));
                row.asked = row.asked.or(Some(Ask { trigger: Trigger::Retry, width: Width::Changed }));
            }
            if release.seen.is_some() && row.claimed.is_some_and(|ask| ask.width == Width::Deep) {
                row.deep_at = Some(now);
            }
            (row.holder, row.lease_until, row.claimed_at, row.claimed) = (None, None, None, None);
            row.abandoned = 0;
            row.looked_at = Some(now);
        }
        self.wake();
        Ok(())
    }

    async fn now(&self) -> Result<DateTime<Utc>, StoreError> {
        Ok(Self::now(self))
    }

    async fn take_slot(&self, provider: &str, limit: usize, lease: &Lease) -> Result<Option<Slot>, StoreError> {
        let numbers = 0..i64::try_from(limit).unwrap_or(i64::MAX);
        let mut slots = self.slots();
        let is_free = |number: &i64| !slots.get(&(provider.to_owned(), *number)).is_some_and(|taken| self.lasts(taken));
        let free = numbers.into_iter().find(is_free);
        Ok(free.map(|number| {
            slots.insert((provider.to_owned(), number), lease.clone());
            Slot { provider: provider.to_owned(), number, lease: lease.clone() }
        }))
    }

    async fn give_slot(&self, slot: &Slot) -> Result<(), StoreError> {
        let place = (slot.provider.clone(), slot.number);
        let mut slots = self.slots();
        if slots.get(&place) == Some(&slot.lease) {
            slots.remove(&place);
        }
        Ok(())
    }

    async fn give_slots_but(&self, provider: &str, used: &[i64], lease: &Lease) -> Result<(), StoreError> {
        let is_given =
            |of: &str, number: i64, taken: &Lease| of == provider && !used.contains(&number) && taken == lease;
        self.slots().retain(|(of, number), taken| !is_given(of, *number, taken));
        Ok(())
    }

    async fn places(&self) -> Result<Vec<Place>, StoreError> {
        Ok(self.queue().iter().map(|(tenant, row)| place(tenant, row)).collect())
    }

    async fn place(&self, tenant: &str) -> Result<Option<Place>, StoreError> {
        Ok(self.queue().get(tenant).map(|row| place(tenant, row)))
    }

    async fn until_due(&self) -> Result<Option<Duration>, StoreError> {
        let next = self.queue().values().filter_map(|row| row.lease_until.or(row.due)).min();
        Ok(next.map(|next| (next - self.now()).to_std().unwrap_or_default()))
    }

    async fn keep_only(&self, tenants: &[&str]) -> Result<(), StoreError> {
        let _writer = self.0.writer.lock().await;
        self.queue().retain(|tenant, row| row.holder.is_some() || tenants.contains(&tenant.as_str()));
        Ok(())
    }

    fn woken(&self) -> watch::Receiver<u64> {
        let (listener, woken) = watch::channel(0);
        self.0.wake.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
        woken
    }

    async fn lead(&self) -> Result<Option<Box<dyn Lead>>, StoreError> {
        let leader = Arc::clone(&self.0.leader).try_lock_owned();
        Ok(leader.ok().map(|leader| Box::new(Leading { _leader: leader }) as Box<dyn Lead>))
    }
}

/// The one that leads, for as long as it lives.
struct Leading {
    _leader: OwnedMutexGuard<()>,
}

#[async_trait]
impl Lead for Leading {
    async fn still_leads(&mut self) -> bool {
        true
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn begin(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError> {
        let writer = Arc::clone(&self.0.writer).lock_owned().await;
        if let Scope::Leased(lease) = &scope
            && !self.holds(lease)
        {
            return Err(lost(lease));
        }
        let tables = self.tables().clone();
        let access = Access::Write { store: self.clone(), _writer: writer };
        Ok(Box::new(MemoryTx { tables, scope, access, broken: false }))
    }

    async fn read(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError> {
        let tables = self.tables().clone();
        Ok(Box::new(MemoryTx { tables, scope, access: Access::Read, broken: false }))
    }

    async fn snapshot(&self) -> Result<Box<dyn Rows>, StoreError> {
        Err(StoreError::ReadOnly)
    }

    async fn exclusive(&self) -> Result<Box<dyn Rows>, StoreError> {
        Err(StoreError::ReadOnly)
    }
}

enum Access {
    Read,
    Write { store: MemoryStore, _writer: OwnedMutexGuard<()> },
}

/// A transaction over a copy, which takes the place of what is stored at the commit.
struct MemoryTx {
    tables: Tables,
    scope: Scope,
    access: Access,
    /// A write failed.
    broken: bool,
}

impl MemoryTx {
    fn sees(&self, tenant: &str) -> bool {
        self.scope.tenant().is_none_or(|own| own == tenant)
    }

    fn expect_sound(&self) -> Result<(), StoreError> {
        if self.broken { Err(StoreError::Aborted) } else { Ok(()) }
    }

    fn broken<T>(&mut self, error: StoreError) -> Result<T, StoreError> {
        self.broken = true;
        Err(error)
    }

    /// Begins a write of a row of `tenant`; `None` is the platform's.
    fn write(&mut self, what: &'static str, tenant: Option<&str>) -> Result<&mut Tables, StoreError> {
        match self.access {
            Access::Read => return Err(StoreError::ReadOnly),
            Access::Write { .. } => self.expect_sound()?,
        }
        if let (Access::Write { store, .. }, Scope::Tenant(_) | Scope::Platform) = (&self.access, &self.scope)
            && UNDER_A_LEASE.contains(&what)
        {
            store.violated(format!("{what} was written without a lease"));
        }
        if let Some(own) = self.scope.tenant()
            && tenant != Some(own)
        {
            let owner = tenant.map_or("the platform".to_owned(), |tenant| format!("tenant {tenant}"));
            let tenant = own.to_owned();
            return self.broken(StoreError::OutOfScope { what, owner, tenant });
        }
        Ok(&mut self.tables)
    }

    /// Adds to the end of a chain of the audit log.
    fn grow(&mut self, tenant: &str, entries: &[NewAudit]) {
        let head = self.tables.audit_heads.get(tenant).cloned();
        let mut head = head.unwrap_or_else(|| AuditHead {
            tenant: tenant.to_owned(),
            first_id: 1,
            first_previous: ORIGIN.to_owned(),
            last_id: 0,
            last_hash: ORIGIN.to_owned(),
        });
        for new in entries {
            let entry = AuditEntry::after(tenant, head.last_id + 1, &head.last_hash, new);
            (head.last_id, head.last_hash) = (entry.id, entry.hash.clone());
            Arc::make_mut(&mut self.tables.audit).insert((tenant.to_owned(), entry.id), entry);
        }
        Arc::make_mut(&mut self.tables.audit_heads).insert(tenant.to_owned(), head);
    }

    fn expect_own<'k>(
        &mut self,
        what: &'static str,
        tenant: &str,
        keys: impl IntoIterator<Item = &'k ResourceKey>,
    ) -> Result<(), StoreError> {
        match keys.into_iter().find(|key| key.tenant != tenant) {
            None => Ok(()),
            Some(key) => {
                let (tenant, key) = (tenant.to_owned(), key.clone());
                self.broken(StoreError::WrongTenant { what, tenant, key })
            }
        }
    }

    /// The rows of a table by key that are in scope.
    fn by_key<V: Clone>(
        &self,
        table: impl Fn(&Tables) -> &Table<ResourceKey, V>,
    ) -> Result<BTreeMap<ResourceKey, V>, StoreError> {
        self.expect_sound()?;
        let rows = table(&self.tables).iter().filter(|(key, _)| self.sees(&key.tenant));
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

fn kind(kind: ApprovalKind) -> &'static str {
    kind.trailer()
}

#[async_trait]
impl Tx for MemoryTx {
    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.expect_sound()?;
        if let Access::Write { store, .. } = &self.access {
            if let Scope::Leased(lease) = &self.scope
                && !store.holds(lease)
            {
                store.violated(format!("{} was claimed while a transaction under its lease was open", lease.tenant));
            }
            *store.tables() = self.tables;
        }
        Ok(())
    }

    async fn platform(&mut self) -> Result<Option<PlatformState>, StoreError> {
        self.expect_sound()?;
        Ok(self.tables.platform.clone())
    }

    async fn put_platform(&mut self, state: &PlatformState) -> Result<(), StoreError> {
        self.write("the state", None)?.platform = Some(state.clone());
        Ok(())
    }

    async fn identities(&mut self) -> Result<BTreeMap<String, ProviderIdentity>, StoreError> {
        self.expect_sound()?;
        Ok(self.tables.identities.clone())
    }

    async fn put_identity(&mut self, provider: &str, identity: &ProviderIdentity) -> Result<(), StoreError> {
        self.write("the identity of a provider", None)?.identities.insert(provider.to_owned(), identity.clone());
        Ok(())
    }

    async fn tenants(&mut self) -> Result<BTreeMap<String, TenantState>, StoreError> {
        self.expect_sound()?;
        let rows = self.tables.tenants.iter().filter(|(tenant, _)| self.sees(tenant));
        Ok(rows.map(|(tenant, state)| (tenant.clone(), state.clone())).collect())
    }

    async fn put_tenant(&mut self, state: &TenantState) -> Result<(), StoreError> {
        let tables = self.write("the state", Some(&state.tenant))?;
        Arc::make_mut(&mut tables.tenants).insert(state.tenant.clone(), state.clone());
        Ok(())
    }

    async fn inventory(&mut self) -> Result<Inventory, StoreError> {
        Ok(Inventory { records: self.by_key(|tables| &tables.inventory)? })
    }

    async fn record(&mut self, key: &ResourceKey) -> Result<Option<Record>, StoreError> {
        self.expect_sound()?;
        Ok(self.tables.inventory.get(key).filter(|_| self.sees(&key.tenant)).cloned())
    }

    async fn put_records(&mut self, records: &[Record]) -> Result<(), StoreError> {
        for record in records {
            let tables = self.write("a record of the inventory", Some(&record.key.tenant))?;
            Arc::make_mut(&mut tables.inventory).insert(record.key.clone(), record.clone());
        }
        Ok(())
    }

    async fn forget(&mut self, key: &ResourceKey) -> Result<(), StoreError> {
        let tables = self.write("a record of the inventory", Some(&key.tenant))?;
        Arc::make_mut(&mut tables.inventory).remove(key);
        Ok(())
    }

    async fn statuses(&mut self) -> Result<BTreeMap<ResourceKey, ResourceStatus>, StoreError> {
        self.by_key(|tables| &tables.statuses)
    }

    async fn status(&mut self, key: &ResourceKey) -> Result<Option<ResourceStatus>, StoreError> {
        self.expect_sound()?;
        Ok(self.tables.statuses.get(key).filter(|_| self.sees(&key.tenant)).cloned())
    }

    async fn put_statuses(&mut self, statuses: &[ResourceStatus]) -> Result<(), StoreError> {
        for status in statuses {
            let tables = self.write("a status", Some(&status.key.tenant))?;
            Arc::make_mut(&mut tables.statuses).insert(status.key.clone(), status.clone());
        }
        Ok(())
    }

    async fn remove_status(&mut self, key: &ResourceKey) -> Result<(), StoreError> {
        let tables = self.write("a status", Some(&key.tenant))?;
        Arc::make_mut(&mut tables.statuses).remove(key);
        Ok(())
    }

    async fn strays(&mut self) -> Result<BTreeMap<ResourceKey, Stray>, StoreError> {
        self.by_key(|tables| &tables.strays)
    }

    async fn put_strays(&mut self, tenant: &str, strays: &BTreeMap<ResourceKey, Stray>) -> Result<(), StoreError> {
        const WHAT: &str = "strays";
        self.write(WHAT, Some(tenant))?;
        self.expect_own(WHAT, tenant, strays.keys())?;
        let table = Arc::make_mut(&mut self.tables.strays);
        table.retain(|key, _| key.tenant != tenant);
        table.extend(strays.iter().map(|(key, stray)| (key.clone(), stray.clone())));
        Ok(())
    }

    async fn proposals(&mut self) -> Result<BTreeMap<ResourceKey, Proposal>, StoreError> {
        self.by_key(|tables| &tables.proposals)
    }

    async fn put_proposal(&mut self, proposal: &Proposal) -> Result<(), StoreError> {
        // Invariant: nobody is asked about what no hand has changed, unless what was applied is not known (R4).
        for plumb::model::ProposedField { path, live, .. } in proposal
            .fields
            .iter()
            .filter(|field| field.base.is_some() && !super::system::is_by_hand(field.live.as_ref()))
        {
            let what = format!("people were asked about {path} of {}, which is {live:?} by no hand", proposal.key);
            if let Access::Write { store, .. } = &self.access {
                store.violated(what);
            }
        }
        let tables = self.write("a proposal", Some(&proposal.key.tenant))?;
        Arc::make_mut(&mut tables.proposals).insert(proposal.key.clone(), proposal.clone());
        Ok(())
    }

    async fn remove_proposal(&mut self, key: &ResourceKey) -> Result<(), StoreError> {
        let tables = self.write("a proposal", Some(&key.tenant))?;
        Arc::make_mut(&mut tables.proposals).remove(key);
        Ok(())
    }

    async fn attempts(&mut self) -> Result<BTreeMap<ResourceKey, Attempt>, StoreError> {
        self.by_key(|tables| &tables.attempts)
    }

    async fn attempt(&mut self, key: &ResourceKey) -> Result<Option<Attempt>, StoreError> {
        self.expect_sound()?;
        Ok(self.tables.attempts.get(key).filter(|_| self.sees(&key.tenant)).cloned())
    }

    async fn put_attempts(&mut self, attempts: &[Attempt]) -> Result<(), StoreError> {
        for attempt in attempts {
            let tables = self.write("an attempt", Some(&attempt.key.tenant))?;
            Arc::make_mut(&mut tables.attempts).insert(attempt.key.clone(), attempt.clone());
        }
        Ok(())
    }

    async fn remove_attempts(&mut self, keys: &[ResourceKey]) -> Result<(), StoreError> {
        for key in keys {
            let tables = self.write("an attempt", Some(&key.tenant))?;
            Arc::make_mut(&mut tables.attempts).remove(key);
        }
        Ok(())
    }

    async fn circuits(&mut self) -> Result<BTreeMap<String, Circuit>, StoreError> {
        self.expect_sound()?;
        Ok(self.tables.circuits.as_ref().clone())
    }

    async fn put_circuit(&mut self, circuit: &Circuit) -> Result<(), StoreError> {
        let tables = self.write("a circuit", None)?;
        Arc::make_mut(&mut tables.circuits).insert(circuit.provider.clone(), circuit.clone());
        Ok(())
    }

    async fn remove_circuit(&mut self, provider: &str) -> Result<(), StoreError> {
        let tables = self.write("a circuit", None)?;
        Arc::make_mut(&mut tables.circuits).remove(provider);
        Ok(())
    }

    async fn sagas(&mut self) -> Result<Vec<Saga>, StoreError> {
        self.expect_sound()?;
        Ok(self.tables.sagas.values().filter(|saga| self.sees(&saga.tenant)).cloned().collect())
    }

    async fn put_saga(&mut self, saga: &Saga) -> Result<(), StoreError> {
        self.expect_own("a saga", &saga.tenant, saga.parts.keys())?;
        let tables = self.write("a saga", Some(&saga.tenant))?;
        if saga.failure.is_some() {
            Arc::make_mut(&mut tables.undone).push(saga.clone());
        }
        let place = (saga.tenant.clone(), saga.environment.clone());
        Arc::make_mut(&mut tables.sagas).insert(place, saga.clone());
        Ok(())
    }

    async fn remove_saga(&mut self, tenant: &str, environment: &str) -> Result<(), StoreError> {
        let tables = self.write("a saga", Some(tenant))?;
        Arc::make_mut(&mut tables.sagas).remove(&(tenant.to_owned(), environment.to_owned()));
        Ok(())
    }

    async fn append_audit(&mut self, tenant: &str, entries: &[NewAudit]) -> Result<(), StoreError> {
        const WHAT: &str = "the audit log";
        if entries.is_empty() {
            return Ok(());
        }
        let owner = (tenant != PLATFORM_CHAIN || self.scope.tenant().is_some()).then_some(tenant);
        self.write(WHAT, owner)?;
        self.expect_own(WHAT, tenant, entries.iter().filter_map(|entry| entry.key.as_ref()))?;
        if tenant != PLATFORM_CHAIN && !self.tables.audit_heads.contains_key(tenant) {
            self.grow(PLATFORM_CHAIN, &[NewAudit::begun(tenant, entries[0].at)]);
        }
        self.grow(tenant, entries);
        Ok(())
    }

    async fn audit(&mut self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError> {
        self.expect_sound()?;
        let AuditFilter { since, after, limit } = filter;
        let rows = self
            .tables
            .audit
            .iter()
            .filter(|((chain, _), entry)| self.sees(chain) && since.is_none_or(|since| entry.at >= since));
        let rows = rows.filter(|(place, _)| after.as_ref().is_none_or(|after| *place > after));
        Ok(rows.take(*limit as usize).map(|(_, entry)| entry.clone()).collect())
    }

    async fn last_audit(&mut self, tenant: &str, action: AuditAction) -> Result<Option<AuditEntry>, StoreError> {
        self.expect_sound()?;
        let mut rows = self.tables.audit.values().rev().filter(|entry| entry.tenant == tenant && self.sees(tenant));
        Ok(rows.find(|entry| entry.action == action).cloned())
    }

    async fn audit_heads(&mut self) -> Result<Vec<AuditHead>, StoreError> {
        self.expect_sound()?;
        Ok(self.tables.audit_heads.values().filter(|head| self.sees(&head.tenant)).cloned().collect())
    }

    async fn prune_audit(&mut self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let scope = self.scope.tenant().map(str::to_owned);
        self.write("the audit log", scope.as_deref())?;
        let mut gone = 0;
        for head in self.audit_heads().await? {
            let rows = || self.tables.audit.values().filter(|entry| entry.tenant == head.tenant);
            let kept = rows().find(|entry| entry.at >= before);
            let (first_id, first_previous) = match kept {
                Some(entry) => (entry.id, entry.previous.clone()),
                None => (head.last_id + 1, head.last_hash.clone()),
            };
            let cut: Vec<_> = rows().filter(|entry| entry.id < first_id).map(|e| (e.tenant.clone(), e.id)).collect();
            gone += cut.len() as u64;
            for place in cut {
                Arc::make_mut(&mut self.tables.audit).remove(&place);
            }
            let head = AuditHead { first_id, first_previous, ..head };
            Arc::make_mut(&mut self.tables.audit_heads).insert(head.tenant.clone(), head);
        }
        Ok(gone)
    }

    async fn make_months(&mut self, _now: DateTime<Utc>) -> Result<(), StoreError> {
        self.write("a month", None).map(drop)
    }

    async fn held_plans(&mut self, tenant: &str) -> Result<Vec<HeldPlan>, StoreError> {
        self.expect_sound()?;
        let rows = self.tables.held.iter().filter(|((of, ..), _)| of == tenant && self.sees(tenant));
        Ok(rows.map(|(_, held)| held.clone()).collect())
    }

    async fn put_held_plan(&mut self, tenant: &str, plan: &HeldPlan) -> Result<(), StoreError> {
        const WHAT: &str = "a held plan";
        self.write(WHAT, Some(tenant))?;
        self.expect_own(WHAT, tenant, &plan.keys)?;
        let place = (tenant.to_owned(), plan.id.clone(), kind(plan.kind));
        Arc::make_mut(&mut self.tables.held).insert(place, plan.clone());
        Ok(())
    }

    async fn approvals(&mut self, tenant: &str) -> Result<Vec<Approval>, StoreError> {
        self.expect_sound()?;
        let rows = self.tables.approvals.iter().filter(|((of, ..), _)| of == tenant && self.sees(tenant));
        Ok(rows.map(|(_, approval)| approval.clone()).collect())
    }

    async fn put_approval(&mut self, tenant: &str, approval: &Approval) -> Result<(), StoreError> {
        const WHAT: &str = "an approval";
        self.write(WHAT, Some(tenant))?;
        self.expect_own(WHAT, tenant, &approval.keys)?;
        let place = (tenant.to_owned(), approval.plan.clone(), kind(approval.kind), approval.commit.clone());
        Arc::make_mut(&mut self.tables.approvals).insert(place, approval.clone());
        Ok(())
    }

    async fn clear_approvals(&mut self, tenant: &str) -> Result<(), StoreError> {
        let tables = self.write("approvals", Some(tenant))?;
        Arc::make_mut(&mut tables.approvals).retain(|(of, ..), _| of != tenant);
        Arc::make_mut(&mut tables.held).retain(|(of, ..), _| of != tenant);
        Ok(())
    }

    async fn secrets(&mut self, key: &ResourceKey, role: &str) -> Result<Vec<StoredSecret>, StoreError> {
        self.expect_sound()?;
        let of_role = |secret: &&StoredSecret| self.sees(&key.tenant) && secret.key == *key && secret.role == role;
        Ok(self.tables.secrets.iter().rev().filter(of_role).cloned().collect())
    }

    async fn roles_with_secrets(&mut self) -> Result<BTreeSet<(ResourceKey, String)>, StoreError> {
        self.expect_sound()?;
        let seen = self.tables.secrets.iter().filter(|secret| self.sees(&secret.key.tenant));
        Ok(seen.map(|secret| (secret.key.clone(), secret.role.clone())).collect())
    }

    async fn newest_secret(&mut self) -> Result<Option<StoredSecret>, StoreError> {
        self.expect_sound()?;
        Ok(self.tables.secrets.iter().rev().find(|secret| self.sees(&secret.key.tenant)).cloned())
    }

    async fn secret_key_id(&mut self) -> Result<Option<String>, StoreError> {
        self.expect_sound()?;
        Ok(self.tables.secret_key_id.clone())
    }

    async fn put_secret_key_id(&mut self, id: &str) -> Result<(), StoreError> {
        self.write("the key of secrets", None)?.secret_key_id.get_or_insert_with(|| id.to_owned());
        Ok(())
    }

    async fn put_secret(&mut self, secret: &StoredSecret) -> Result<(), StoreError> {
        let tables = self.write("a secret", Some(&secret.key.tenant))?;
        let same = |known: &StoredSecret| {
            (&known.key, &known.role, &known.rotation) == (&secret.key, &secret.role, &secret.rotation)
        };
        if !tables.secrets.iter().any(same) {
            Arc::make_mut(&mut tables.secrets).push(secret.clone());
        }
        Ok(())
    }

    async fn remove_secrets(&mut self, key: &ResourceKey) -> Result<(), StoreError> {
        let tables = self.write("secrets", Some(&key.tenant))?;
        Arc::make_mut(&mut tables.secrets).retain(|secret| secret.key != *key);
        Ok(())
    }

    async fn start_execution(
        &mut self,
        tenant: &str,
        trigger: Trigger,
        commit: Option<&str>,
        at: DateTime<Utc>,
    ) -> Result<i64, StoreError> {
        const WHAT: &str = "an execution";
        if self.write(WHAT, Some(tenant))?.last_execution >= MOST_LOOKS {
            // Time only passes when nothing else happens: looks without a wait between them would never end.
            return self.broken(StoreError::Query { what: WHAT, source: sqlx::Error::PoolTimedOut });
        }
        let tables = &mut self.tables;
        tables.last_execution += 1;
        let execution = Execution {
            id: tables.last_execution,
            tenant: tenant.to_owned(),
            trigger,
            commit: commit.map(str::to_owned),
            plan: None,
            outcome: ExecutionOutcome::Running,
            summary: Summary::default(),
            started_at: at,
            finished_at: None,
        };
        Arc::make_mut(&mut tables.executions).insert(execution.id, execution);
        Ok(tables.last_execution)
    }

    async fn finish_execution(
        &mut self,
        id: i64,
        outcome: ExecutionOutcome,
        commit: Option<&str>,
        plan: Option<&PlanId>,
        summary: Summary,
        at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let own = self.scope.tenant().map(str::to_owned);
        let tables = self.write("an execution", own.as_deref())?;
        let execution = Arc::make_mut(&mut tables.executions).get_mut(&id);
        let Some(execution) = execution.filter(|found| own.is_none_or(|own| own == found.tenant)) else {
            return self.broken(StoreError::NoExecution { id });
        };
        execution.outcome = outcome;
        execution.commit = commit.map(str::to_owned).or(execution.commit.take());
        execution.plan = plan.cloned();
        execution.summary = summary;
        execution.finished_at = Some(at);
        Ok(())
    }

    async fn interrupt_running(&mut self, at: DateTime<Utc>) -> Result<Vec<i64>, StoreError> {
        let own = self.scope.tenant().map(str::to_owned);
        let tables = self.write("executions", own.as_deref())?;
        let mut interrupted = Vec::new();
        for execution in Arc::make_mut(&mut tables.executions).values_mut() {
            let is_own = own.as_ref().is_none_or(|own| *own == execution.tenant);
            if is_own && execution.outcome == ExecutionOutcome::Running {
                execution.outcome = ExecutionOutcome::Interrupted;
                execution.finished_at = Some(at);
                interrupted.push(execution.id);
            }
        }
        Ok(interrupted)
    }

    async fn executions(&mut self, filter: &HistoryFilter) -> Result<Vec<Execution>, StoreError> {
        self.expect_sound()?;
        let HistoryFilter { execution, key, environment: _, looks, before, limit } = filter;
        let with_key: Option<BTreeSet<i64>> = key.as_ref().map(|key| {
            self.tables.events.values().filter(|e| e.key.as_ref() == Some(key)).map(|e| e.execution).collect()
        });
        let found = self.tables.executions.values().rev().filter(|found| {
            self.sees(&found.tenant)
                && execution.is_none_or(|id| id == found.id)
                && (!looks || found.trigger.is_look())
                && before.is_none_or(|before| found.id < before)
                && with_key.as_ref().is_none_or(|ids| ids.contains(&found.id))
        });
        Ok(found.take(*limit as usize).cloned().collect())
    }

    async fn append_events(&mut self, execution: i64, tenant: &str, events: &[NewEvent]) -> Result<(), StoreError> {
        const WHAT: &str = "an event";
        self.write(WHAT, Some(tenant))?;
        self.expect_own(WHAT, tenant, events.iter().filter_map(|event| event.key.as_ref()))?;
        let is_own = self.tables.executions.get(&execution).is_some_and(|found| found.tenant == tenant);
        if !is_own && !events.is_empty() {
            return self.broken(StoreError::Query { what: WHAT, source: sqlx::Error::RowNotFound });
        }
        for NewEvent { key, at, kind } in events {
            self.tables.last_event += 1;
            let (id, tenant) = (self.tables.last_event, tenant.to_owned());
            let event = Event { id, execution, tenant, at: *at, key: key.clone(), kind: kind.clone() };
            Arc::make_mut(&mut self.tables.events).insert(id, Arc::new(event));
        }
        Ok(())
    }

    async fn put_plan_inputs(
        &mut self,
        execution: i64,
        tenant: &str,
        pass: u32,
        inputs: &PackedInputs,
    ) -> Result<(), StoreError> {
        let tables = self.write("the inputs of a plan", Some(tenant))?;
        let row = || (tenant.to_owned(), Arc::new(inputs.clone()));
        Arc::make_mut(&mut tables.inputs).entry((execution, pass)).or_insert_with(row);
        Ok(())
    }

    async fn plan_inputs(&mut self, execution: i64) -> Result<Vec<PackedInputs>, StoreError> {
        self.expect_sound()?;
        let kept = self.tables.inputs.range((execution, 0)..=(execution, u32::MAX));
        let own = kept.filter(|(_, (tenant, _))| self.sees(tenant));
        Ok(own.map(|(_, (_, inputs))| PackedInputs::clone(inputs)).collect())
    }

    async fn events(&mut self, filter: &HistoryFilter) -> Result<Vec<Event>, StoreError> {
        self.expect_sound()?;
        let HistoryFilter { execution, key, environment, looks: _, before, limit } = filter;
        let found = self.tables.events.values().rev().filter(|event| {
            let of = |environment: &String| {
                is_label(environment) && event.key.as_ref().is_some_and(|key| key.environment == *environment)
            };
            self.sees(&event.tenant)
                && execution.is_none_or(|id| id == event.execution)
                && key.as_ref().is_none_or(|key| event.key.as_ref() == Some(key))
                && environment.as_ref().is_none_or(of)
                && before.is_none_or(|before| event.id < before)
        });
        Ok(found.take(*limit as usize).map(|event| Event::clone(event)).collect())
    }

    async fn prune_history(&mut self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        let own = self.scope.tenant().map(str::to_owned);
        let tables = self.write("the history", own.as_deref())?;
        let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
        for execution in tables.executions.values().filter(|execution| execution.trigger.is_look()) {
            newest.insert(&execution.tenant, execution.id);
        }
        let old: BTreeSet<i64> = tables
            .executions
            .values()
            .filter(|found| own.as_ref().is_none_or(|own| *own == found.tenant))
            .filter(|found| {
                found.finished_at.is_some_and(|at| at < before) && newest.get(found.tenant.as_str()) != Some(&found.id)
            })
            .map(|found| found.id)
            .collect();
        Arc::make_mut(&mut tables.executions).retain(|id, _| !old.contains(id));
        Arc::make_mut(&mut tables.events).retain(|_, event| !old.contains(&event.execution));
        Arc::make_mut(&mut tables.inputs).retain(|(execution, _), _| !old.contains(execution));
        Ok(old.len() as u64)
    }
}

//! The state: inventory, statuses, proposals, approvals, secrets as ciphertext, executions and their events.
//!
//! Nothing in it is the truth: git, the marks and the live systems are, and a lost store is rebuilt from them (R4). The
//! one thing that cannot be rebuilt are generated passwords (R12), so what is committed stays, even after a power loss.
//! Whatever is written together is written in one transaction.

pub mod audit;
mod columns;
pub mod copy;
pub mod inputs;
pub mod lock;
pub mod postgres;
pub mod sqlite;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::SqliteError;
use tokio::sync::watch;

use audit::{AuditAction, AuditEntry, AuditFilter, AuditHead, NewAudit, StoredAudit};
use inputs::PackedInputs;

use crate::model::{
    Approval, ApprovalKind, Ask, Attempt, Circuit, Claim, Event, EventKind, Execution, ExecutionOutcome, Inventory,
    Lease, ObjectHex, Place, PlanId, PlatformId, Proposal, ProviderIdentity, Reason, Record, Release, Replica, Request,
    ResourceKey, ResourceStatus, Saga, Slot, Stray, Summary, Trigger,
};

/// Why the store could not.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database could not be opened.
    #[error("the state database {path} cannot be opened{}", advice(source))]
    Open {
        path: String,
        #[source]
        source: sqlx::Error,
    },
    /// Another reconciler has the data directory.
    #[error("another plumb is reconciling with {path}; stop it first, or give this one its own --data-dir")]
    Locked { path: String },
    /// Opened for reading, and there is no database.
    #[error("nothing has been reconciled here yet: there is no state database at {path}")]
    Missing { path: String },
    /// Opened for reading, and the database still has to be migrated.
    #[error(
        "the state database {path} is of an older plumb; a `plumb apply` or `plumb serve` of this one brings it up to date"
    )]
    Older { path: String },
    /// The database was migrated by a Plumb that knows more.
    #[error("the state database {path} is of a newer plumb; use that version, or a newer one")]
    Newer { path: String },
    /// The schema is of an older version, and the login may not change it.
    #[error(
        "the schema in {path} is of an older plumb, and this login does not own it; run `plumb db migrate` with the login \
         that does, then start again"
    )]
    MayNotMigrate { path: String },
    /// The state was moved to another database.
    #[error(
        "the state in {path} was moved to {place} at {at}: start plumb with --database {place}. To go on with what was left \
         behind instead, once nothing works with {place} any more, run `plumb db reopen`"
    )]
    Moved { path: String, place: String, at: String },
    /// Somebody uses the schema for longer than a migration waits.
    #[error(
        "the schema in {path} is used by {who}, and nothing could be made or migrated there for {seconds} s; wait until that is \
         over (a backup, a restore or a move ends by itself), or end it, then try again"
    )]
    Busy {
        path: String,
        /// Who holds what was waited for, as well as the login may know.
        who: String,
        seconds: u64,
        #[source]
        source: sqlx::Error,
    },
    /// A migration failed.
    #[error("the state database could not be brought to this version of plumb{}", advice_on_migration(.0))]
    Migrate(#[source] MigrateError),
    /// The file is not, or no longer, a database.
    #[error(
        "the state database {path} is damaged; move it away and plumb rebuilds it from git, the marks and the live \
         systems (only generated passwords are then unknown, the roles keep them)"
    )]
    Damaged {
        path: String,
        #[source]
        source: sqlx::Error,
    },
    /// The role that the tables are used with cannot be made, or not be taken.
    #[error(
        "plumb works with its state in {path} as the role {role}, which owns nothing there and sees one tenant at a \
         time; let its login make it (CREATEROLE), or have an administrator run: CREATE ROLE \"{role}\" NOLOGIN; GRANT \
         \"{role}\" TO the login"
    )]
    Role {
        path: String,
        role: String,
        #[source]
        source: sqlx::Error,
    },
    /// The role that the tables are used with may do what row-level security is to keep it from.
    #[error(
        "plumb would work with its state in {path} as the role {role}, and that {may}: nothing would keep it to one tenant at \
         a time. Have an administrator run: {mend}"
    )]
    Unconfined {
        path: String,
        role: String,
        /// What it may do, as the end of a sentence.
        may: String,
        /// The statement that takes it away.
        mend: String,
    },
    /// A row of the audit log that says nothing this version understands.
    #[error(
        "row {id} of {chain} in the audit log cannot be read; `plumb audit --verify` says whether it was changed, and a newer \
         plumb may know what it says"
    )]
    AuditRow {
        id: i64,
        chain: String,
        #[source]
        source: Box<StoreError>,
    },
    /// Another replica has the tenant by now: this one was silent for longer than its lease.
    #[error("the lease on tenant {tenant} was lost; another replica goes on with it")]
    LostLease { tenant: String },
    /// A write in a store that was opened for reading.
    #[error("the state database is open for reading only")]
    ReadOnly,
    /// A write beside the scope of its transaction.
    #[error("{what} of {owner} cannot be written in a transaction of tenant {tenant}")]
    OutOfScope { what: &'static str, owner: String, tenant: String },
    /// A row that names a key of another tenant than the row's own.
    #[error("{what} of tenant {tenant} cannot be about {key}")]
    WrongTenant { what: &'static str, tenant: String, key: ResourceKey },
    /// No such execution in this scope.
    #[error("there is no execution {id}")]
    NoExecution { id: i64 },
    /// The transaction failed earlier.
    #[error("the transaction failed before; nothing more can be done in it")]
    Aborted,
    /// A query failed.
    #[error("the state database failed while it was asked for {what}{}", advice(source))]
    Query {
        what: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// A value cannot be written as JSON.
    #[error("a row of {what} cannot be written as JSON")]
    Encode {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// A row cannot be read.
    #[error("a row of {what} in the state database cannot be read")]
    Decode {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// The lock file or the data directory.
    #[error("the data directory {path} cannot be used{}", advice_on_files(source))]
    Directory {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// What is said of a full disk.
const FULL: &str = "; its disk is full: make room there, then try again (`plumb serve` does by itself)";

/// What to do about a failure of a database, where that is known.
fn advice(error: &sqlx::Error) -> &'static str {
    // SQLite's, the extended ones with the primary one in their lowest byte, and PostgreSQL's.
    const FULL_CODE: i32 = 13;
    const FAILED_CODE: i32 = 10;
    const FULL_STATE: &str = "53100";
    let Some(error) = error.as_database_error() else { return "" };
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<SqliteError>().is_none() {
        return if code == FULL_STATE { FULL } else { "" };
    }
    match code.parse::<i32>().map(|code| code & 0xff) {
        Ok(FULL_CODE) => FULL,
        Ok(FAILED_CODE) => "; look at its disk: it is full (then make room there), or it fails",
        _ => "",
    }
}

fn advice_on_migration(error: &MigrateError) -> &'static str {
    match error {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => advice(source),
        _ => "",
    }
}

fn advice_on_files(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::FileTooLarge => FULL,
        _ => "",
    }
}

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To reconcile: makes and migrates what is missing.
    Reconcile,
    /// To put a state there or to take it up again: as to reconcile, also where the state was moved away.
    Settle,
    /// To add to the timeline beside a reconciler that may be running: makes and migrates nothing, locks nothing.
    Append,
    /// To read what a reconciler wrote, while it runs or not: makes nothing, changes nothing, locks nothing.
    ReadOnly,
}

/// Refuses a database that the statements of this version would not fit. `applied` are the migrations it has had.
fn expect_this_version(migrations: &Migrator, applied: &[i64], path: &str) -> Result<(), StoreError> {
    if applied.iter().any(|version| !migrations.version_exists(*version)) {
        return Err(StoreError::Newer { path: path.to_owned() });
    }
    if migrations.iter().any(|migration| !applied.contains(&migration.version)) {
        return Err(StoreError::Older { path: path.to_owned() });
    }
    Ok(())
}

/// The migrations that have been applied by now and had not been before, by their names.
fn applied_since(before: &[i64], after: Vec<(i64, String)>) -> Vec<String> {
    let new = after.into_iter().filter(|(version, _)| !before.contains(version));
    new.map(|(version, description)| format!("{version:04} {description}")).collect()
}

/// What a transaction may see and change. On PostgreSQL this is what row-level security is set to.
///
/// In the scope of a tenant every question is answered from its rows alone, and writing a row of another tenant is
/// [`StoreError::OutOfScope`]. What belongs to no tenant (the platform and the identities of providers) can be read
/// there and not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything, of every tenant.
    Platform,
    /// One tenant's rows.
    Tenant(String),
    /// One tenant's rows, for as long as nobody else has claimed it: beginning to write under a lease that was lost is
    /// [`StoreError::LostLease`], and while the transaction lasts nobody claims the tenant.
    Leased(Lease),
}

impl Scope {
    /// The tenant whose rows they are; `None` for all.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Scope::Platform => None,
            Scope::Tenant(tenant) | Scope::Leased(Lease { tenant, .. }) => Some(tenant),
        }
    }
}

/// The platform revision in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformState {
    pub id: PlatformId,
    /// The last commit that validated.
    pub commit: ObjectHex,
    /// The head when it does not validate, with its findings as JSON diagnostics; empty when the head is in force.
    pub rejected: Option<ObjectHex>,
    pub findings: Vec<crate::model::Diagnostic>,
    pub updated_at: DateTime<Utc>,
}

/// What is known of a tenant's repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantState {
    pub tenant: String,
    pub url: String,
    pub branch: String,
    pub path: String,
    /// The head of the pass that was recorded last, full or narrowed, whatever became of its steps; approvals are
    /// looked for in the commits after it. `None` also after passes of a new tenant that have not heard all its providers,
    /// or not read all of its files: it may have data that nobody has seen.
    pub applied: Option<ObjectHex>,
    /// The head that was looked at last.
    pub head: Option<ObjectHex>,
    /// Heads that were left for another source or another history, the newest last: where one of them comes back, what it
    /// says is not said anew (R9).
    #[serde(default)]
    pub left: Vec<ObjectHex>,
    /// Why all deletes are held until approved (R9): source changed, history rewritten.
    pub hold: Option<Reason>,
    /// No longer in the platform: frozen and listed.
    pub removed: bool,
    /// What keeps it from being reconciled, empty when nothing does.
    pub error: String,
    pub findings: Vec<crate::model::Diagnostic>,
    pub updated_at: DateTime<Utc>,
}

impl TenantState {
    /// A tenant of which nothing is known but its name.
    pub fn of_name(tenant: &str, at: DateTime<Utc>) -> Self {
        Self {
            tenant: tenant.to_owned(),
            url: String::new(),
            branch: String::new(),
            path: String::new(),
            applied: None,
            head: None,
            left: Vec::new(),
            hold: None,
            removed: false,
            error: String::new(),
            findings: Vec::new(),
            updated_at: at,
        }
    }
}

/// A plan whose deletions or creations were held, so that a trailer with its id can be matched with its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPlan {
    pub id: PlanId,
    pub kind: ApprovalKind,
    pub keys: BTreeSet<ResourceKey>,
}

/// A password, encrypted by the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSecret {
    pub key: ResourceKey,
    pub role: String,
    /// The rotation it was made for; empty for the first.
    pub rotation: String,
    pub ciphertext: Vec<u8>,
    pub created_at: DateTime<Utc>,
}

/// Which events or executions to read; newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    pub execution: Option<i64>,
    pub key: Option<ResourceKey>,
    /// Only events of resources of this environment; of executions it says nothing.
    pub environment: Option<String>,
    /// Only executions that looked at their tenant ([`Trigger::is_look`]); of events it says nothing.
    pub looks: bool,
    /// Only those with a smaller id: the next page.
    pub before: Option<i64>,
    /// At most this many.
    pub limit: u32,
}

/// Which tenants need a look, and who looks at them.
///
/// Level-triggered: a request says that a tenant needs a look, never what to do, and two are one. A tenant is claimed by
/// one replica at a time, under a lease that has to be renewed; one that is not is claimed by another, with the look that
/// was begun. Each call is a transaction of its own. Times are the store's.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Asks for looks, and wakes whoever waits for one.
    async fn request(&self, requests: &[Request]) -> Result<(), StoreError>;

    /// Claims the tenant that has been due longest; `None` when none is due.
    async fn claim(&self, holder: &Replica, lease: Duration) -> Result<Option<Claim>, StoreError>;

    /// Claims this tenant, due or not, for a look as wide as `ask` at least; `None` while another replica has it.
    async fn claim_tenant(
        &self,
        tenant: &str,
        ask: Ask,
        holder: &Replica,
        lease: Duration,
    ) -> Result<Option<Claim>, StoreError>;

    /// Gives a sign of life: the lease lasts this long from now on. Says what the newest news is.
    ///
    /// # Errors
    /// [`StoreError::LostLease`] when another replica has the tenant.
    async fn renew(&self, lease: &Lease, length: Duration) -> Result<Option<String>, StoreError>;

    /// Ends a claim.
    ///
    /// # Errors
    /// [`StoreError::LostLease`] when another replica has the tenant.
    async fn release(&self, lease: &Lease, release: &Release) -> Result<(), StoreError>;

    /// Takes one of the `limit` slots that a provider has over all replicas; `None` while none is free. A store that one
    /// process alone writes to leaves the counting to it.
    async fn take_slot(&self, provider: &str, limit: usize, lease: &Lease) -> Result<Option<Slot>, StoreError> {
        let _ = limit;
        Ok(Some(Slot { provider: provider.to_owned(), number: 0, lease: lease.clone() }))
    }

    /// Gives a slot back.
    async fn give_slot(&self, slot: &Slot) -> Result<(), StoreError> {
        let _ = slot;
        Ok(())
    }

    /// Gives back what a lease has of a provider's slots, but those of these numbers: an answer that was lost may have
    /// left one taken that nobody knows of.
    async fn give_slots_but(&self, provider: &str, used: &[i64], lease: &Lease) -> Result<(), StoreError> {
        let _ = (provider, used, lease);
        Ok(())
    }

    /// What it takes for the time: what places say is by that.
    async fn now(&self) -> Result<DateTime<Utc>, StoreError>;

    /// Every tenant's place, by name.
    async fn places(&self) -> Result<Vec<Place>, StoreError>;

    /// One tenant's place; `None` where nobody ever asked for a look at it.
    async fn place(&self, tenant: &str) -> Result<Option<Place>, StoreError>;

    /// How long until the next tenant may be claimed, if nothing else happens; `None` when none waits.
    async fn until_due(&self) -> Result<Option<Duration>, StoreError>;

    /// Forgets the places of tenants that are not among these.
    async fn keep_only(&self, tenants: &[&str]) -> Result<(), StoreError>;

    /// Changes whenever something may be there to claim, also when another process asked for it. To miss nothing, mark
    /// it seen before claiming.
    fn woken(&self) -> watch::Receiver<u64>;

    /// Becomes the one replica that does what must be done once, such as asking repositories for their heads; `None`
    /// while another is.
    async fn lead(&self) -> Result<Option<Box<dyn Lead>>, StoreError>;
}

/// Being the one replica that does what must be done once, until it is dropped or its connection is lost.
#[async_trait]
pub trait Lead: Send + Sync {
    /// Whether it still is.
    async fn still_leads(&mut self) -> bool;
}

/// Opens transactions.
#[async_trait]
pub trait Store: Queue {
    /// A transaction that may write. Others wait for it: on PostgreSQL those of its tenant and of the platform, on
    /// SQLite all. So it is kept short, nothing slow is awaited while it is open, and the task that holds it never begins
    /// a second one.
    ///
    /// # Errors
    /// When the database does not answer, or is open for reading only.
    async fn begin(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError>;

    /// A transaction that reads one snapshot, taken at its first question. Writing in it fails. Needs no commit.
    ///
    /// # Errors
    /// When the database does not answer.
    async fn read(&self, scope: Scope) -> Result<Box<dyn Tx>, StoreError>;

    /// One snapshot of all rows of every table.
    ///
    /// # Errors
    /// When the database does not answer.
    async fn snapshot(&self) -> Result<Box<dyn copy::Rows>, StoreError>;

    /// A transaction over all rows of every table, to read and to write them as they are, while nobody else writes: it
    /// waits for those who do.
    ///
    /// # Errors
    /// When the database does not answer, or was not opened to reconcile.
    async fn exclusive(&self) -> Result<Box<dyn copy::Rows>, StoreError>;

    /// Where the state was moved to, and when, if it is not here any more.
    async fn moved(&self) -> Result<Option<(String, String)>, StoreError> {
        Ok(None)
    }

    /// The migrations that opening it applied.
    fn migrated(&self) -> &[String] {
        &[]
    }
}

/// An event that has no number yet.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// `None` when it is about the whole tenant.
    pub key: Option<ResourceKey>,
    pub at: DateTime<Utc>,
    pub kind: EventKind,
}

/// One transaction; dropped without [`Tx::commit`] it never was. In `Scope::Tenant` lists hold that tenant's rows; in
/// `Scope::Platform` those of all.
///
/// When a write fails nothing more can be done in the transaction ([`StoreError::Aborted`]) and it cannot be committed:
/// half of what belongs together is never kept. The store itself goes on.
#[async_trait]
pub trait Tx: Send {
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;

    async fn platform(&mut self) -> Result<Option<PlatformState>, StoreError>;
    async fn put_platform(&mut self, state: &PlatformState) -> Result<(), StoreError>;
    /// The recorded identity of each provider, by name (R11).
    async fn identities(&mut self) -> Result<BTreeMap<String, ProviderIdentity>, StoreError>;
    async fn put_identity(&mut self, provider: &str, identity: &ProviderIdentity) -> Result<(), StoreError>;

    async fn tenants(&mut self) -> Result<BTreeMap<String, TenantState>, StoreError>;
    async fn put_tenant(&mut self, state: &TenantState) -> Result<(), StoreError>;

    async fn inventory(&mut self) -> Result<Inventory, StoreError>;
    /// One record of the inventory, also when it was forgotten on purpose.
    async fn record(&mut self, key: &ResourceKey) -> Result<Option<Record>, StoreError>;
    async fn put_record(&mut self, record: &Record) -> Result<(), StoreError> {
        self.put_records(std::slice::from_ref(record)).await
    }
    /// Writes many at once, which is several times faster than one by one.
    async fn put_records(&mut self, records: &[Record]) -> Result<(), StoreError>;
    async fn forget(&mut self, key: &ResourceKey) -> Result<(), StoreError>;

    async fn statuses(&mut self) -> Result<BTreeMap<ResourceKey, ResourceStatus>, StoreError>;
    /// One status.
    async fn status(&mut self, key: &ResourceKey) -> Result<Option<ResourceStatus>, StoreError>;
    async fn put_status(&mut self, status: &ResourceStatus) -> Result<(), StoreError> {
        self.put_statuses(std::slice::from_ref(status)).await
    }
    /// Writes many at once.
    async fn put_statuses(&mut self, statuses: &[ResourceStatus]) -> Result<(), StoreError>;
    async fn remove_status(&mut self, key: &ResourceKey) -> Result<(), StoreError>;

    /// Marked objects nobody asked for, by key.
    async fn strays(&mut self) -> Result<BTreeMap<ResourceKey, Stray>, StoreError>;
    /// Replaces the strays of the tenant; the keys are all of that tenant.
    async fn put_strays(&mut self, tenant: &str, strays: &BTreeMap<ResourceKey, Stray>) -> Result<(), StoreError>;

    /// The newest proposal of each key; decided ones stay until they are removed.
    async fn proposals(&mut self) -> Result<BTreeMap<ResourceKey, Proposal>, StoreError>;
    async fn put_proposal(&mut self, proposal: &Proposal) -> Result<(), StoreError>;
    async fn remove_proposal(&mut self, key: &ResourceKey) -> Result<(), StoreError>;

    /// Steps that failed and are still wanted.
    async fn attempts(&mut self) -> Result<BTreeMap<ResourceKey, Attempt>, StoreError>;
    /// One failed step.
    async fn attempt(&mut self, key: &ResourceKey) -> Result<Option<Attempt>, StoreError>;
    async fn put_attempt(&mut self, attempt: &Attempt) -> Result<(), StoreError> {
        self.put_attempts(std::slice::from_ref(attempt)).await
    }
    /// Writes many at once.
    async fn put_attempts(&mut self, attempts: &[Attempt]) -> Result<(), StoreError>;
    /// Removes many at once.
    async fn remove_attempts(&mut self, keys: &[ResourceKey]) -> Result<(), StoreError>;
    /// Providers that do not answer, by name.
    async fn circuits(&mut self) -> Result<BTreeMap<String, Circuit>, StoreError>;
    async fn put_circuit(&mut self, circuit: &Circuit) -> Result<(), StoreError>;
    async fn remove_circuit(&mut self, provider: &str) -> Result<(), StoreError>;

    /// Changes that are undone together, or may have to be.
    async fn sagas(&mut self) -> Result<Vec<Saga>, StoreError>;
    async fn put_saga(&mut self, saga: &Saga) -> Result<(), StoreError>;
    async fn remove_saga(&mut self, tenant: &str, environment: &str) -> Result<(), StoreError>;

    async fn held_plans(&mut self, tenant: &str) -> Result<Vec<HeldPlan>, StoreError>;
    async fn put_held_plan(&mut self, tenant: &str, plan: &HeldPlan) -> Result<(), StoreError>;
    async fn approvals(&mut self, tenant: &str) -> Result<Vec<Approval>, StoreError>;
    async fn put_approval(&mut self, tenant: &str, approval: &Approval) -> Result<(), StoreError>;
    /// Forgets approvals and held plans of the tenant: what they covered is done.
    async fn clear_approvals(&mut self, tenant: &str) -> Result<(), StoreError>;

    /// All secrets of a role, newest first.
    async fn secrets(&mut self, key: &ResourceKey, role: &str) -> Result<Vec<StoredSecret>, StoreError>;
    /// Every role that has a secret.
    async fn roles_with_secrets(&mut self) -> Result<BTreeSet<(ResourceKey, String)>, StoreError>;
    /// The secret that was stored last, of whatever role: what a key is tried on where its id is not known.
    async fn newest_secret(&mut self) -> Result<Option<StoredSecret>, StoreError>;
    /// The id of the key that secrets are encrypted with; `None` before anybody came with one.
    async fn secret_key_id(&mut self) -> Result<Option<String>, StoreError>;
    /// Says which key that is; what was said first stands.
    async fn put_secret_key_id(&mut self, id: &str) -> Result<(), StoreError>;
    /// Stores a secret; one that is there for the same rotation is kept, never replaced.
    async fn put_secret(&mut self, secret: &StoredSecret) -> Result<(), StoreError>;
    /// Forgets the secrets of a resource that was deleted.
    async fn remove_secrets(&mut self, key: &ResourceKey) -> Result<(), StoreError>;

    /// Opens an execution; gives its number.
    async fn start_execution(
        &mut self,
        tenant: &str,
        trigger: Trigger,
        commit: Option<&str>,
        at: DateTime<Utc>,
    ) -> Result<i64, StoreError>;
    /// Closes an execution. The summary and the plan are those given; without a commit that of the start is kept.
    async fn finish_execution(
        &mut self,
        id: i64,
        outcome: ExecutionOutcome,
        commit: Option<&str>,
        plan: Option<&PlanId>,
        summary: Summary,
        at: DateTime<Utc>,
    ) -> Result<(), StoreError>;
    /// Marks executions that a death left running as interrupted; gives their numbers, rising.
    async fn interrupt_running(&mut self, at: DateTime<Utc>) -> Result<Vec<i64>, StoreError>;
    /// Newest first; with a key, those that have an event of it.
    async fn executions(&mut self, filter: &HistoryFilter) -> Result<Vec<Execution>, StoreError>;
    /// Appends to a timeline, in order: their numbers rise.
    async fn append_events(&mut self, execution: i64, tenant: &str, events: &[NewEvent]) -> Result<(), StoreError>;
    /// Appends one event to a timeline.
    async fn append_event(&mut self, execution: i64, tenant: &str, event: NewEvent) -> Result<(), StoreError> {
        self.append_events(execution, tenant, std::slice::from_ref(&event)).await
    }
    /// Newest first.
    async fn events(&mut self, filter: &HistoryFilter) -> Result<Vec<Event>, StoreError>;
    /// Keeps what the `pass`th plan of an execution was made of; what is there already stays. Of the oldest of a tenant
    /// nothing is kept any more where they are very much.
    async fn put_plan_inputs(
        &mut self,
        execution: i64,
        tenant: &str,
        pass: u32,
        inputs: &PackedInputs,
    ) -> Result<(), StoreError>;
    /// What the plans of an execution were made of, in their order.
    async fn plan_inputs(&mut self, execution: i64) -> Result<Vec<PackedInputs>, StoreError>;
    /// Forgets executions that finished before `before`, with their events and the inputs of their plans; keeps the
    /// newest look at each tenant. The oldest go first, some thousands at most, since others wait for the transaction: says
    /// how many went, none when none is left to go. Only then months are dropped of which nothing is kept, where a store keeps
    /// months apart: that fails while somebody reads them for long, and is not to take the rest with it.
    async fn prune_history(&mut self, before: DateTime<Utc>) -> Result<u64, StoreError>;

    /// Adds to the end of a tenant's chain, or of the platform's ([`audit::PLATFORM_CHAIN`]).
    async fn append_audit(&mut self, tenant: &str, entries: &[NewAudit]) -> Result<(), StoreError>;
    /// A chain after the other, oldest first.
    async fn audit(&mut self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError>;
    /// The same, of which also what is no entry any more, or not to this version, is given.
    async fn audit_as_stored(&mut self, filter: &AuditFilter) -> Result<Vec<StoredAudit>, StoreError> {
        Ok(self.audit(filter).await?.into_iter().map(StoredAudit::from).collect())
    }
    /// The newest row of an action in a chain.
    async fn last_audit(&mut self, tenant: &str, action: AuditAction) -> Result<Option<AuditEntry>, StoreError>;
    /// Where each chain begins and ends.
    async fn audit_heads(&mut self) -> Result<Vec<AuditHead>, StoreError>;
    /// Cuts off what is older than `before`, at the beginning of each chain, some thousand rows at most; says how many rows
    /// went, none when none is left to go. Months are dropped as those of [`Tx::prune_history`] are.
    async fn prune_audit(&mut self, before: DateTime<Utc>) -> Result<u64, StoreError>;
    /// Makes room for the rows of this month and the next ones, where a store keeps months apart.
    async fn make_months(&mut self, now: DateTime<Utc>) -> Result<(), StoreError>;
}

//! The statements, compiled once for each database: they are plain enough for both to run as they are. The module that
//! takes this file in says which database it is (`Db`) and how its errors are told
//! (`failed`); what is a database's own stands there and in its migrations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::query::Query;
use sqlx::{Database, QueryBuilder, Transaction, query};
use tokio::task::consume_budget;

use super::chains::{self, Growth};
use super::rows::{column, read_event, read_execution, read_secret};
use super::{DROP_MONTHS, Db, FOR_PLATFORM, FOR_TENANT, MAKE_MONTHS, MONTHS_WAIT, failed};
use crate::model::{
    Approval, Attempt, Circuit, Event, Execution, ExecutionOutcome, Inventory, PlanId, Proposal, ProviderIdentity,
    Record, ResourceKey, ResourceStatus, Saga, Stray, Summary, Trigger, is_label,
};
use crate::store::audit::{AuditAction, AuditEntry, AuditFilter, AuditHead, NewAudit, PLATFORM_CHAIN, StoredAudit};
use crate::store::columns::{document, read_document, read_key, read_word, time, word};
use crate::store::inputs::PackedInputs;
use crate::store::lock::DirectoryLock;
use crate::store::{
    HeldPlan, HistoryFilter, NewEvent, PlatformState, Scope, StoreError, StoredSecret, TenantState, Tx,
};

/// A list's statement, narrowed to the scope. `$1` is always the scope's tenant, NULL when it has none.
macro_rules! narrowed {
    ($scope:expr, $start:literal) => {
        narrowed!($scope, $start, "")
    };
    ($scope:expr, $start:literal, $rest:literal) => {
        match $scope.tenant() {
            None => query(concat!($start, " WHERE $1 IS NULL", $rest)),
            Some(_) => query(concat!($start, " WHERE tenant = $1", $rest)),
        }
        .bind($scope.tenant())
    };
}

type Statement<'q> = Query<'q, Db, <Db as Database>::Arguments>;

/// How many rows one statement writes. Each statement is a message to the database and an answer; databases take
/// some ten thousand values in one.
const ROWS_AT_ONCE: usize = 200;

/// The most executions that one transaction forgets, and the most rows of events or of the audit log, but for those of one
/// execution: others wait for it to write, and what they hold must not run out meanwhile.
const FORGOTTEN_EXECUTIONS: usize = 2000;
const FORGOTTEN_ROWS: i64 = 20_000;

/// The most that is kept of the scenes of one tenant, packed, in bytes: of the largest tenants those of some plans, of most
/// all that their history speaks of.
const KEPT_SCENES: i64 = 256 << 20;

/// What executions and all that goes with them are called.
const HISTORY: &str = "the history";

/// How many months are made before they begin: more than a process that makes them is ever down.
const MONTHS_AHEAD: i32 = 2;

/// What a transaction may do.
pub(super) enum Access {
    Read,
    /// Keeps other reconcilers out for as long as it could still write.
    Write {
        _lock: Option<Arc<DirectoryLock>>,
    },
}

/// Whether a transaction can still be committed.
enum Progress {
    Sound,
    /// A write failed: what belongs together is no longer whole.
    Broken,
}

pub(super) struct SqlTx {
    inner: Transaction<'static, Db>,
    scope: Scope,
    access: Access,
    progress: Progress,
    path: Arc<str>,
}

impl SqlTx {
    pub(super) fn new(inner: Transaction<'static, Db>, scope: Scope, access: Access, path: Arc<str>) -> Self {
        Self { inner, scope, access, progress: Progress::Sound, path }
    }

    /// Whether rows of `tenant` are within the scope.
    fn sees(&self, tenant: &str) -> bool {
        self.scope.tenant().is_none_or(|own| own == tenant)
    }

    /// Refuses to write a row of a tenant that is not within the scope.
    fn claim(&mut self, what: &'static str, tenant: &str) -> Result<(), StoreError> {
        match self.scope.tenant() {
            Some(own) if own != tenant => Err(self.out_of_scope(what, format!("tenant {tenant}"))),
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses to write what belongs to no tenant, but in the scope of the platform.
    fn claim_platform(&mut self, what: &'static str) -> Result<(), StoreError> {
        match self.scope.tenant() {
            Some(_) => Err(self.out_of_scope(what, "the platform".to_owned())),
            None => Ok(()),
        }
    }

    fn out_of_scope(&mut self, what: &'static str, owner: String) -> StoreError {
        self.progress = Progress::Broken;
        StoreError::OutOfScope { what, owner, tenant: self.scope.tenant().unwrap_or_default().to_owned() }
    }

    /// Refuses a key of another tenant in a row of `tenant`.
    fn expect_own<'k>(
        &mut self,
        what: &'static str,
        tenant: &str,
        keys: impl IntoIterator<Item = &'k ResourceKey>,
    ) -> Result<(), StoreError> {
        match keys.into_iter().find(|key| key.tenant != tenant) {
            None => Ok(()),
            Some(key) => {
                self.progress = Progress::Broken;
                Err(StoreError::WrongTenant { what, tenant: tenant.to_owned(), key: key.clone() })
            }
        }
    }

    fn expect_sound(&self) -> Result<(), StoreError> {
        match self.progress {
            Progress::Sound => Ok(()),
            Progress::Broken => Err(StoreError::Aborted),
        }
    }

    fn expect_writable(&self) -> Result<(), StoreError> {
        match self.access {
            Access::Write { .. } => self.expect_sound(),
            Access::Read => Err(StoreError::ReadOnly),
        }
    }

    fn broken(&mut self, what: &'static str, source: sqlx::Error) -> StoreError {
        self.progress = Progress::Broken;
        failed(&self.path, what, source)
    }

    /// After statements that did not all work, the rest is nothing worth either.
    fn all_or_nothing<T>(&mut self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        if done.is_err() {
            self.progress = Progress::Broken;
        }
        done
    }

    /// Has the platform's chain say, in this transaction, that that of `tenant` begins.
    async fn tell_of_chain(&mut self, tenant: &str, at: DateTime<Utc>) -> Result<(), StoreError> {
        const WHAT: &str = "the audit log";
        let is_of_tenant = self.scope.tenant().is_some();
        if let Some(sql) = FOR_PLATFORM.filter(|_| is_of_tenant) {
            self.write(WHAT, query(sql)).await?;
        }
        let told = chains::append(&mut self.inner, PLATFORM_CHAIN, &[NewAudit::begun(tenant, at)]).await;
        self.all_or_nothing(told)?;
        if let Some(sql) = FOR_TENANT.filter(|_| is_of_tenant) {
            self.write(WHAT, query(sql)).await?;
        }
        Ok(())
    }

    /// Runs a statement that writes; gives the number of rows.
    async fn write(&mut self, what: &'static str, statement: Statement<'_>) -> Result<u64, StoreError> {
        self.expect_writable()?;
        let done = statement.execute(&mut *self.inner).await.map_err(|source| self.broken(what, source))?;
        Ok(done.rows_affected())
    }

    /// Runs a statement that adds a row; gives the row's number.
    async fn add(&mut self, what: &'static str, statement: Statement<'_>) -> Result<i64, StoreError> {
        self.expect_writable()?;
        let row = statement.fetch_one(&mut *self.inner).await.map_err(|source| self.broken(what, source))?;
        column(what, &row, 0)
    }

    async fn rows(
        &mut self,
        what: &'static str,
        statement: Statement<'_>,
    ) -> Result<Vec<<Db as Database>::Row>, StoreError> {
        self.expect_sound()?;
        statement.fetch_all(&mut *self.inner).await.map_err(|source| self.broken(what, source))
    }

    /// The rows' first column, a document each.
    async fn documents<T: DeserializeOwned>(
        &mut self,
        what: &'static str,
        statement: Statement<'_>,
    ) -> Result<Vec<T>, StoreError> {
        self.expect_sound()?;
        let mut rows = statement.fetch(&mut *self.inner);
        let mut documents = Vec::new();
        // One row at a time: a tenant's rows are many, and each is read while SQLite looks for the next.
        let failure = loop {
            match rows.try_next().await {
                Ok(Some(row)) => documents.push(read_document(what, column(what, &row, 0)?)?),
                Ok(None) => return Ok(documents),
                Err(source) => break source,
            }
            // Rows that are there already would keep what else this task has to do waiting.
            consume_budget().await;
        };
        drop(rows);
        Err(self.broken(what, failure))
    }

    /// The document of a key, where the scope has one.
    async fn document_of<T: DeserializeOwned>(
        &mut self,
        what: &'static str,
        sql: &'static str,
        key: &ResourceKey,
    ) -> Result<Option<T>, StoreError> {
        if !self.sees(&key.tenant) {
            return Ok(None);
        }
        let statement = query(sql).bind(&key.tenant).bind(key.to_string());
        Ok(self.documents(what, statement).await?.into_iter().next())
    }

    /// Writes a row of a key: its document, and when it changed.
    async fn put_document<T: Serialize + Sync>(
        &mut self,
        what: &'static str,
        sql: &'static str,
        key: &ResourceKey,
        at: DateTime<Utc>,
        value: &T,
    ) -> Result<(), StoreError> {
        self.claim(what, &key.tenant)?;
        let statement = query(sql).bind(&key.tenant).bind(key.to_string()).bind(time(at)).bind(document(what, value)?);
        self.write(what, statement).await?;
        Ok(())
    }

    /// The same of many at once; `insert` begins the statement.
    async fn put_documents<'r, T: Serialize + Sync + 'r>(
        &mut self,
        what: &'static str,
        insert: &'static str,
        rows: impl Iterator<Item = (&'r ResourceKey, DateTime<Utc>, &'r T)> + Send,
    ) -> Result<(), StoreError> {
        let rows: Vec<_> = rows.collect();
        for some in rows.chunks(ROWS_AT_ONCE) {
            let mut documents = Vec::with_capacity(some.len());
            for (key, at, value) in some {
                self.claim(what, &key.tenant)?;
                documents.push((key, *at, document(what, value)?));
            }
            let mut sql = QueryBuilder::<Db>::new(insert);
            sql.push_values(documents, |mut row, (key, at, document)| {
                row.push_bind(&key.tenant).push_bind(key.to_string()).push_bind(time(at)).push_bind(document);
            });
            sql.push(
                " ON CONFLICT (tenant, key) DO UPDATE SET updated_at = excluded.updated_at, \
                 document = excluded.document",
            );
            self.write(what, sql.build()).await?;
        }
        Ok(())
    }

    /// Removes the rows of a key.
    async fn remove(&mut self, what: &'static str, sql: &'static str, key: &ResourceKey) -> Result<(), StoreError> {
        self.claim(what, &key.tenant)?;
        self.write(what, query(sql).bind(&key.tenant).bind(key.to_string())).await?;
        Ok(())
    }

    /// Drops the partitions of a table of which nothing is kept any more, where it has such; says how many rows went.
    async fn drop_months(&mut self, what: &'static str, table: &str, before: DateTime<Utc>) -> Result<u64, StoreError> {
        match (DROP_MONTHS, &self.scope) {
            (Some(sql), Scope::Platform) => {
                self.wait_little_for_months(what).await?;
                let gone = self.add(what, query(sql).bind(table).bind(time(before))).await?;
                Ok(gone.unsigned_abs())
            }
            (Some(_) | None, _) => Ok(0),
        }
    }

    /// The oldest executions that are to be forgotten, as many as one transaction forgets: those that finished before
    /// `before`, but the newest look at each tenant. Gives their tenants and numbers.
    async fn oldest_executions(&mut self, before: DateTime<Utc>) -> Result<Vec<(String, i64)>, StoreError> {
        // By one index from tenant to tenant, and by another from the oldest on: next to nothing is read that is kept. The
        // order says which index the first is, also to one who takes a tenant for as busy as the others.
        let mut sql = QueryBuilder::<Db>::new(
            "WITH RECURSIVE newest(tenant, id) AS ( \
                 SELECT (SELECT tenant FROM executions WHERE trigger_kind <> 'secretshown' \
                             ORDER BY tenant DESC, id DESC LIMIT 1), \
                        (SELECT id FROM executions WHERE trigger_kind <> 'secretshown' \
                             ORDER BY tenant DESC, id DESC LIMIT 1) \
                 UNION ALL \
                 SELECT (SELECT tenant FROM executions WHERE tenant < newest.tenant AND trigger_kind <> 'secretshown' \
                             ORDER BY tenant DESC, id DESC LIMIT 1), \
                        (SELECT id FROM executions WHERE tenant < newest.tenant AND trigger_kind <> 'secretshown' \
                             ORDER BY tenant DESC, id DESC LIMIT 1) \
                 FROM newest WHERE newest.tenant IS NOT NULL) \
             SELECT tenant, id, (SELECT COUNT(*) FROM events WHERE events.execution = executions.id) \
             FROM executions WHERE finished_at < ",
        );
        sql.push_bind(time(before))
            .push(" AND (trigger_kind = 'secretshown' OR id NOT IN (SELECT id FROM newest WHERE id IS NOT NULL))");
        narrow(&mut sql, &self.scope);
        sql.push(" ORDER BY finished_at LIMIT ").push_bind(FORGOTTEN_EXECUTIONS as i64);
        let found = self.rows(HISTORY, sql.build()).await?;
        let (mut executions, mut events) = (Vec::with_capacity(found.len()), 0);
        for row in &found {
            events += column::<i64, _>(HISTORY, row, 2)?;
            if events > FORGOTTEN_ROWS && !executions.is_empty() {
                break;
            }
            executions.push((column(HISTORY, row, 0)?, column(HISTORY, row, 1)?));
        }
        Ok(executions)
    }

    /// Removes executions of these tenants and numbers, with all that goes with them.
    async fn forget_executions(&mut self, old: &[(String, i64)]) -> Result<(), StoreError> {
        let numbers = |sql: &'static str| {
            let mut sql = QueryBuilder::<Db>::new(sql);
            let mut list = sql.separated(", ");
            for (_, id) in old {
                list.push_bind(*id);
            }
            sql.push(")");
            sql
        };
        let mut inputs = QueryBuilder::<Db>::new("DELETE FROM plan_inputs WHERE (tenant, execution) IN (");
        inputs.push_values(old, |mut row, (tenant, id)| {
            row.push_bind(tenant).push_bind(*id);
        });
        inputs.push(") RETURNING tenant, scene");
        self.expect_writable()?;
        let scenes = self.rows(HISTORY, inputs.build()).await?;
        let scene = |row| Ok((column(HISTORY, row, 0)?, column(HISTORY, row, 1)?));
        let scenes: BTreeSet<(String, String)> = scenes.iter().map(scene).collect::<Result<_, StoreError>>()?;
        self.drop_unused(&scenes).await?;
        self.write(HISTORY, numbers("DELETE FROM events WHERE execution IN (").build()).await?;
        self.write(HISTORY, numbers("DELETE FROM executions WHERE id IN (").build()).await?;
        Ok(())
    }

    /// Removes those of these scenes, by tenant and hash, that no plan is of any more.
    async fn drop_unused(&mut self, scenes: &BTreeSet<(String, String)>) -> Result<(), StoreError> {
        if !scenes.is_empty() {
            let mut unused = QueryBuilder::<Db>::new("DELETE FROM scenes WHERE (tenant, hash) IN (");
            unused.push_values(scenes, |mut row, (tenant, hash)| {
                row.push_bind(tenant).push_bind(hash);
            });
            unused.push(
                ") AND NOT EXISTS (SELECT 1 FROM plan_inputs \
                 WHERE plan_inputs.tenant = scenes.tenant AND plan_inputs.scene = scenes.hash)",
            );
            self.write(HISTORY, unused.build()).await?;
        }
        Ok(())
    }

    /// Forgets the oldest of what plans of a tenant were made of, while its scenes take more than is kept of one.
    async fn keep_within_budget(&mut self, tenant: &str) -> Result<(), StoreError> {
        loop {
            let sql = "SELECT (SELECT CAST(COALESCE(SUM(LENGTH(packed)), 0) AS BIGINT) FROM scenes WHERE tenant = $1), \
                       MIN(execution), MAX(execution) FROM plan_inputs WHERE tenant = $1";
            let kept = self.rows(HISTORY, query(sql).bind(tenant)).await?;
            let Some(row) = kept.first() else { return Ok(()) };
            let (oldest, newest): (Option<i64>, Option<i64>) = (column(HISTORY, row, 1)?, column(HISTORY, row, 2)?);
            if column::<i64, _>(HISTORY, row, 0)? <= KEPT_SCENES || oldest == newest {
                return Ok(());
            }
            let sql = "DELETE FROM plan_inputs WHERE tenant = $1 AND execution = $2 RETURNING tenant, scene";
            let scenes = self.rows(HISTORY, query(sql).bind(tenant).bind(oldest)).await?;
            let scene = |row| Ok((column(HISTORY, row, 0)?, column(HISTORY, row, 1)?));
            let scenes = scenes.iter().map(scene).collect::<Result<_, StoreError>>()?;
            self.drop_unused(&scenes).await?;
        }
    }

    /// From now on the transaction waits for nobody's lock for long.
    async fn wait_little_for_months(&mut self, what: &'static str) -> Result<(), StoreError> {
        match MONTHS_WAIT {
            Some(sql) => self.write(what, query(sql)).await.map(drop),
            None => Ok(()),
        }
    }

    /// Removes the rows of a tenant.
    async fn clear(&mut self, what: &'static str, sql: &'static str, tenant: &str) -> Result<(), StoreError> {
        self.claim(what, tenant)?;
        self.write(what, query(sql).bind(tenant)).await?;
        Ok(())
    }
}

#[async_trait]
impl Tx for SqlTx {
    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.expect_sound()?;
        self.inner.commit().await.map_err(|source| failed(&self.path, "a commit", source))
    }

    async fn platform(&mut self) -> Result<Option<PlatformState>, StoreError> {
        let found = self.documents("the platform", query("SELECT document FROM platform")).await?;
        Ok(found.into_iter().next())
    }

    async fn put_platform(&mut self, state: &PlatformState) -> Result<(), StoreError> {
        const WHAT: &str = "the state";
        self.claim_platform(WHAT)?;
        let sql = "INSERT INTO platform (id, updated_at, document) VALUES (1, $1, $2) \
                   ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at, document = excluded.document";
        self.write(WHAT, query(sql).bind(time(state.updated_at)).bind(document(WHAT, state)?)).await?;
        Ok(())
    }

    async fn identities(&mut self) -> Result<BTreeMap<String, ProviderIdentity>, StoreError> {
        const WHAT: &str = "the identities of providers";
        let rows = self.rows(WHAT, query("SELECT name, identity FROM providers")).await?;
        rows.iter().map(|row| Ok((column(WHAT, row, 0)?, ProviderIdentity(column(WHAT, row, 1)?)))).collect()
    }

    async fn put_identity(&mut self, provider: &str, identity: &ProviderIdentity) -> Result<(), StoreError> {
        const WHAT: &str = "the identity of a provider";
        self.claim_platform(WHAT)?;
        let sql = "INSERT INTO providers (name, identity) VALUES ($1, $2) \
                   ON CONFLICT (name) DO UPDATE SET identity = excluded.identity";
        self.write(WHAT, query(sql).bind(provider).bind(&identity.0)).await?;
        Ok(())
    }

    async fn tenants(&mut self) -> Result<BTreeMap<String, TenantState>, StoreError> {
        let statement = narrowed!(&self.scope, "SELECT document FROM tenants");
        let states: Vec<TenantState> = self.documents("tenants", statement).await?;
        Ok(states.into_iter().map(|state| (state.tenant.clone(), state)).collect())
    }

    async fn put_tenant(&mut self, state: &TenantState) -> Result<(), StoreError> {
        const WHAT: &str = "the state";
        self.claim(WHAT, &state.tenant)?;
        let sql = "INSERT INTO tenants (tenant, updated_at, document) VALUES ($1, $2, $3) \
                   ON CONFLICT (tenant) DO UPDATE SET updated_at = excluded.updated_at, document = excluded.document";
        let statement = query(sql).bind(&state.tenant).bind(time(state.updated_at)).bind(document(WHAT, state)?);
        self.write(WHAT, statement).await?;
        Ok(())
    }

    async fn inventory(&mut self) -> Result<Inventory, StoreError> {
        let statement = narrowed!(&self.scope, "SELECT document FROM inventory", " ORDER BY tenant, key");
        let records: Vec<Record> = self.documents("the inventory", statement).await?;
        Ok(Inventory { records: records.into_iter().map(|record| (record.key.clone(), record)).collect() })
    }

    async fn record(&mut self, key: &ResourceKey) -> Result<Option<Record>, StoreError> {
        self.document_of("the inventory", "SELECT document FROM inventory WHERE tenant = $1 AND key = $2", key).await
    }

    async fn put_records(&mut self, records: &[Record]) -> Result<(), StoreError> {
        const WHAT: &str = "a record of the inventory";
        for some in records.chunks(ROWS_AT_ONCE) {
            let mut rows = Vec::with_capacity(some.len());
            for record in some {
                self.claim(WHAT, &record.key.tenant)?;
                rows.push((record, document(WHAT, record)?));
            }
            let mut sql =
                QueryBuilder::<Db>::new("INSERT INTO inventory (tenant, key, provider, updated_at, document) ");
            sql.push_values(rows, |mut row, (record, document)| {
                row.push_bind(&record.key.tenant)
                    .push_bind(record.key.to_string())
                    .push_bind(&record.provider)
                    .push_bind(time(record.updated_at))
                    .push_bind(document);
            });
            sql.push(
                " ON CONFLICT (tenant, key) DO UPDATE SET provider = excluded.provider, \
                 updated_at = excluded.updated_at, document = excluded.document",
            );
            self.write(WHAT, sql.build()).await?;
        }
        Ok(())
    }

    async fn forget(&mut self, key: &ResourceKey) -> Result<(), StoreError> {
        self.remove("a record of the inventory", "DELETE FROM inventory WHERE tenant = $1 AND key = $2", key).await
    }

    async fn statuses(&mut self) -> Result<BTreeMap<ResourceKey, ResourceStatus>, StoreError> {
        let statement = narrowed!(&self.scope, "SELECT document FROM statuses", " ORDER BY tenant, key");
        let statuses: Vec<ResourceStatus> = self.documents("statuses", statement).await?;
        Ok(statuses.into_iter().map(|status| (status.key.clone(), status)).collect())
    }

    async fn status(&mut self, key: &ResourceKey) -> Result<Option<ResourceStatus>, StoreError> {
        self.document_of("statuses", "SELECT document FROM statuses WHERE tenant = $1 AND key = $2", key).await
    }

    async fn put_statuses(&mut self, statuses: &[ResourceStatus]) -> Result<(), StoreError> {
        let rows = statuses.iter().map(|status| (&status.key, status.updated_at, status));
        self.put_documents("a status", "INSERT INTO statuses (tenant, key, updated_at, document) ", rows).await
    }

    async fn remove_status(&mut self, key: &ResourceKey) -> Result<(), StoreError> {
        self.remove("a status", "DELETE FROM statuses WHERE tenant = $1 AND key = $2", key).await
    }

    async fn strays(&mut self) -> Result<BTreeMap<ResourceKey, Stray>, StoreError> {
        const WHAT: &str = "strays";
        let statement = narrowed!(&self.scope, "SELECT key, document FROM strays");
        let rows = self.rows(WHAT, statement).await?;
        rows.iter()
            .map(|row| Ok((read_key(WHAT, column(WHAT, row, 0)?)?, read_document(WHAT, column(WHAT, row, 1)?)?)))
            .collect()
    }

    async fn put_strays(&mut self, tenant: &str, strays: &BTreeMap<ResourceKey, Stray>) -> Result<(), StoreError> {
        const WHAT: &str = "strays";
        self.expect_own(WHAT, tenant, strays.keys())?;
        self.clear(WHAT, "DELETE FROM strays WHERE tenant = $1", tenant).await?;
        for (key, stray) in strays {
            let statement = query("INSERT INTO strays (tenant, key, document) VALUES ($1, $2, $3)")
                .bind(tenant)
                .bind(key.to_string())
                .bind(document(WHAT, stray)?);
            self.write(WHAT, statement).await?;
        }
        Ok(())
    }

    async fn proposals(&mut self) -> Result<BTreeMap<ResourceKey, Proposal>, StoreError> {
        let statement = narrowed!(&self.scope, "SELECT document FROM proposals");
        let proposals: Vec<Proposal> = self.documents("proposals", statement).await?;
        Ok(proposals.into_iter().map(|proposal| (proposal.key.clone(), proposal)).collect())
    }

    async fn put_proposal(&mut self, proposal: &Proposal) -> Result<(), StoreError> {
        let sql = "INSERT INTO proposals (tenant, key, updated_at, document) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (tenant, key) DO UPDATE SET updated_at = excluded.updated_at, \
                   document = excluded.document";
        self.put_document("a proposal", sql, &proposal.key, proposal.updated_at, proposal).await
    }

    async fn remove_proposal(&mut self, key: &ResourceKey) -> Result<(), StoreError> {
        self.remove("a proposal", "DELETE FROM proposals WHERE tenant = $1 AND key = $2", key).await
    }

    async fn attempts(&mut self) -> Result<BTreeMap<ResourceKey, Attempt>, StoreError> {
        let statement = narrowed!(&self.scope, "SELECT document FROM attempts");
        let attempts: Vec<Attempt> = self.documents("attempts", statement).await?;
        Ok(attempts.into_iter().map(|attempt| (attempt.key.clone(), attempt)).collect())
    }

    async fn attempt(&mut self, key: &ResourceKey) -> Result<Option<Attempt>, StoreError> {
        self.document_of("attempts", "SELECT document FROM attempts WHERE tenant = $1 AND key = $2", key).await
    }

    async fn put_attempts(&mut self, attempts: &[Attempt]) -> Result<(), StoreError> {
        let rows = attempts.iter().map(|attempt| (&attempt.key, attempt.last_at, attempt));
        self.put_documents("an attempt", "INSERT INTO attempts (tenant, key, updated_at, document) ", rows).await
    }

    async fn remove_attempts(&mut self, keys: &[ResourceKey]) -> Result<(), StoreError> {
        const WHAT: &str = "an attempt";
        for some in keys.chunk_by(|a, b| a.tenant == b.tenant).flat_map(|of_tenant| of_tenant.chunks(ROWS_AT_ONCE)) {
            let Some(first) = some.first() else { continue };
            self.claim(WHAT, &first.tenant)?;
            let mut sql = QueryBuilder::<Db>::new("DELETE FROM attempts WHERE tenant = ");
            sql.push_bind(&first.tenant).push(" AND key IN (");
            let mut listed = sql.separated(", ");
            for key in some {
                listed.push_bind(key.to_string());
            }
            sql.push(")");
            self.write(WHAT, sql.build()).await?;
        }
        Ok(())
    }

    async fn circuits(&mut self) -> Result<BTreeMap<String, Circuit>, StoreError> {
        let circuits: Vec<Circuit> = self.documents("circuits", query("SELECT document FROM circuits")).await?;
        Ok(circuits.into_iter().map(|circuit| (circuit.provider.clone(), circuit)).collect())
    }

    async fn put_circuit(&mut self, circuit: &Circuit) -> Result<(), StoreError> {
        const WHAT: &str = "a circuit";
        self.claim_platform(WHAT)?;
        let sql = "INSERT INTO circuits (provider, document) VALUES ($1, $2) \
                   ON CONFLICT (provider) DO UPDATE SET document = excluded.document";
        self.write(WHAT, query(sql).bind(&circuit.provider).bind(document(WHAT, circuit)?)).await?;
        Ok(())
    }

    async fn remove_circuit(&mut self, provider: &str) -> Result<(), StoreError> {
        const WHAT: &str = "a circuit";
        self.claim_platform(WHAT)?;
        self.write(WHAT, query("DELETE FROM circuits WHERE provider = $1").bind(provider)).await?;
        Ok(())
    }

    async fn sagas(&mut self) -> Result<Vec<Saga>, StoreError> {
        self.documents("sagas", narrowed!(&self.scope, "SELECT document FROM sagas", " ORDER BY tenant, environment"))
            .await
    }

    async fn put_saga(&mut self, saga: &Saga) -> Result<(), StoreError> {
        const WHAT: &str = "a saga";
        self.claim(WHAT, &saga.tenant)?;
        self.expect_own(WHAT, &saga.tenant, saga.parts.keys())?;
        let sql = "INSERT INTO sagas (tenant, environment, document) VALUES ($1, $2, $3) \
                   ON CONFLICT (tenant, environment) DO UPDATE SET document = excluded.document";
        let statement = query(sql).bind(&saga.tenant).bind(&saga.environment).bind(document(WHAT, saga)?);
        self.write(WHAT, statement).await?;
        Ok(())
    }

    async fn remove_saga(&mut self, tenant: &str, environment: &str) -> Result<(), StoreError> {
        const WHAT: &str = "a saga";
        self.claim(WHAT, tenant)?;
        let sql = "DELETE FROM sagas WHERE tenant = $1 AND environment = $2";
        self.write(WHAT, query(sql).bind(tenant).bind(environment)).await?;
        Ok(())
    }

    async fn held_plans(&mut self, tenant: &str) -> Result<Vec<HeldPlan>, StoreError> {
        const WHAT: &str = "held plans";
        if !self.sees(tenant) {
            return Ok(Vec::new());
        }
        let sql = "SELECT plan_id, kind, keys FROM held_plans WHERE tenant = $1 ORDER BY plan_id, kind";
        let rows = self.rows(WHAT, query(sql).bind(tenant)).await?;
        let mut plans = Vec::new();
        for row in &rows {
            // What only a newer version can hold, or approve, is nothing to this one.
            let Ok(kind) = read_word(WHAT, column(WHAT, row, 1)?) else { continue };
            let id = PlanId(column(WHAT, row, 0)?);
            plans.push(HeldPlan { id, kind, keys: read_document(WHAT, column(WHAT, row, 2)?)? });
        }
        Ok(plans)
    }

    async fn put_held_plan(&mut self, tenant: &str, plan: &HeldPlan) -> Result<(), StoreError> {
        const WHAT: &str = "a held plan";
        let HeldPlan { id, kind, keys } = plan;
        self.claim(WHAT, tenant)?;
        self.expect_own(WHAT, tenant, keys)?;
        let sql = "INSERT INTO held_plans (tenant, plan_id, kind, keys) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (tenant, plan_id, kind) DO UPDATE SET keys = excluded.keys";
        let statement = query(sql).bind(tenant).bind(&id.0).bind(word(WHAT, kind)?).bind(document(WHAT, keys)?);
        self.write(WHAT, statement).await?;
        Ok(())
    }

    async fn approvals(&mut self, tenant: &str) -> Result<Vec<Approval>, StoreError> {
        const WHAT: &str = "approvals";
        if !self.sees(tenant) {
            return Ok(Vec::new());
        }
        let sql = "SELECT plan_id, kind, commit_id, keys FROM approvals WHERE tenant = $1 \
                   ORDER BY plan_id, kind, commit_id";
        let rows = self.rows(WHAT, query(sql).bind(tenant)).await?;
        let mut approvals = Vec::new();
        for row in &rows {
            let Ok(kind) = read_word(WHAT, column(WHAT, row, 1)?) else { continue };
            let (plan, commit) = (PlanId(column(WHAT, row, 0)?), column(WHAT, row, 2)?);
            approvals.push(Approval { plan, kind, commit, keys: read_document(WHAT, column(WHAT, row, 3)?)? });
        }
        Ok(approvals)
    }

    async fn put_approval(&mut self, tenant: &str, approval: &Approval) -> Result<(), StoreError> {
        const WHAT: &str = "an approval";
        let Approval { kind, plan, keys, commit } = approval;
        self.claim(WHAT, tenant)?;
        self.expect_own(WHAT, tenant, keys)?;
        let sql = "INSERT INTO approvals (tenant, plan_id, kind, commit_id, keys) VALUES ($1, $2, $3, $4, $5) \
                   ON CONFLICT (tenant, plan_id, kind, commit_id) DO UPDATE SET keys = excluded.keys";
        let statement =
            query(sql).bind(tenant).bind(&plan.0).bind(word(WHAT, kind)?).bind(commit).bind(document(WHAT, keys)?);
        self.write(WHAT, statement).await?;
        Ok(())
    }

    async fn clear_approvals(&mut self, tenant: &str) -> Result<(), StoreError> {
        self.clear("approvals", "DELETE FROM approvals WHERE tenant = $1 AND kind IN ('deletes', 'create')", tenant)
            .await?;
        self.clear("held plans", "DELETE FROM held_plans WHERE tenant = $1 AND kind IN ('deletes', 'create')", tenant)
            .await
    }

    async fn secrets(&mut self, key: &ResourceKey, role: &str) -> Result<Vec<StoredSecret>, StoreError> {
        if !self.sees(&key.tenant) {
            return Ok(Vec::new());
        }
        let sql = "SELECT key, role, rotation, ciphertext, created_at FROM secrets \
                   WHERE tenant = $1 AND key = $2 AND role = $3 ORDER BY id DESC";
        let rows = self.rows("secrets", query(sql).bind(&key.tenant).bind(key.to_string()).bind(role)).await?;
        rows.iter().map(read_secret).collect()
    }

    async fn roles_with_secrets(&mut self) -> Result<BTreeSet<(ResourceKey, String)>, StoreError> {
        const WHAT: &str = "secrets";
        let statement = narrowed!(&self.scope, "SELECT DISTINCT key, role FROM secrets");
        let rows = self.rows(WHAT, statement).await?;
        rows.iter().map(|row| Ok((read_key(WHAT, column(WHAT, row, 0)?)?, column(WHAT, row, 1)?))).collect()
    }

    async fn newest_secret(&mut self) -> Result<Option<StoredSecret>, StoreError> {
        let statement = narrowed!(
            &self.scope,
            "SELECT key, role, rotation, ciphertext, created_at FROM secrets",
            " ORDER BY id DESC LIMIT 1"
        );
        self.rows("secrets", statement).await?.first().map(read_secret).transpose()
    }

    async fn secret_key_id(&mut self) -> Result<Option<String>, StoreError> {
        const WHAT: &str = "the key of secrets";
        let rows = self.rows(WHAT, query("SELECT key_id FROM vault")).await?;
        rows.first().map(|row| column(WHAT, row, 0)).transpose()
    }

    async fn put_secret_key_id(&mut self, id: &str) -> Result<(), StoreError> {
        const WHAT: &str = "the key of secrets";
        self.claim_platform(WHAT)?;
        let sql = "INSERT INTO vault (id, key_id) VALUES (1, $1) ON CONFLICT (id) DO NOTHING";
        self.write(WHAT, query(sql).bind(id)).await?;
        Ok(())
    }

    async fn put_secret(&mut self, secret: &StoredSecret) -> Result<(), StoreError> {
        const WHAT: &str = "a secret";
        let StoredSecret { key, role, rotation, ciphertext, created_at } = secret;
        self.claim(WHAT, &key.tenant)?;
        let sql = "INSERT INTO secrets (tenant, key, role, rotation, ciphertext, created_at) \
                   VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, key, role, rotation) DO NOTHING";
        let statement = query(sql)
            .bind(&key.tenant)
            .bind(key.to_string())
            .bind(role)
            .bind(rotation)
            .bind(ciphertext)
            .bind(time(*created_at));
        self.write(WHAT, statement).await?;
        Ok(())
    }

    async fn remove_secrets(&mut self, key: &ResourceKey) -> Result<(), StoreError> {
        self.remove("secrets", "DELETE FROM secrets WHERE tenant = $1 AND key = $2", key).await
    }

    async fn start_execution(
        &mut self,
        tenant: &str,
        trigger: Trigger,
        commit: Option<&str>,
        at: DateTime<Utc>,
    ) -> Result<i64, StoreError> {
        const WHAT: &str = "an execution";
        self.claim(WHAT, tenant)?;
        let sql = "INSERT INTO executions (tenant, trigger_kind, commit_id, outcome, summary, started_at) \
                   VALUES ($1, $2, $3, $4, $5, $6) RETURNING id";
        let statement = query(sql)
            .bind(tenant)
            .bind(word(WHAT, trigger)?)
            .bind(commit)
            .bind(word(WHAT, ExecutionOutcome::Running)?)
            .bind(document(WHAT, &Summary::default())?)
            .bind(time(at));
        self.add(WHAT, statement).await
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
        const WHAT: &str = "an execution";
        let statement = narrowed!(
            &self.scope,
            "UPDATE executions SET outcome = $2, commit_id = COALESCE($3, commit_id), plan_id = $4, summary = $5, \
             finished_at = $6",
            " AND id = $7"
        );
        let statement = statement
            .bind(word(WHAT, outcome)?)
            .bind(commit)
            .bind(plan.map(|plan| &plan.0))
            .bind(document(WHAT, &summary)?)
            .bind(time(at))
            .bind(id);
        match self.write(WHAT, statement).await? {
            0 => {
                self.progress = Progress::Broken;
                Err(StoreError::NoExecution { id })
            }
            _ => Ok(()),
        }
    }

    async fn interrupt_running(&mut self, at: DateTime<Utc>) -> Result<Vec<i64>, StoreError> {
        const WHAT: &str = "executions";
        self.expect_writable()?;
        let statement = narrowed!(
            &self.scope,
            "UPDATE executions SET outcome = $2, finished_at = $3",
            " AND outcome = 'Running' RETURNING id"
        );
        let statement = statement.bind(word(WHAT, ExecutionOutcome::Interrupted)?).bind(time(at));
        let rows = self.rows(WHAT, statement).await?;
        let mut interrupted = rows.iter().map(|row| column(WHAT, row, 0)).collect::<Result<Vec<i64>, _>>()?;
        interrupted.sort_unstable();
        Ok(interrupted)
    }

    async fn executions(&mut self, filter: &HistoryFilter) -> Result<Vec<Execution>, StoreError> {
        const WHAT: &str = "executions";
        let HistoryFilter { execution, key, environment: _, looks, before, limit } = filter;
        let mut sql = QueryBuilder::<Db>::new(
            "SELECT id, tenant, trigger_kind, commit_id, plan_id, outcome, summary, started_at, finished_at \
             FROM executions WHERE 1 = 1",
        );
        narrow(&mut sql, &self.scope);
        if let Some(id) = execution {
            sql.push(" AND id = ").push_bind(*id);
        }
        if *looks {
            sql.push(" AND trigger_kind <> ").push_bind(word(WHAT, Trigger::SecretShown)?);
        }
        if let Some(key) = key {
            sql.push(" AND id IN (SELECT execution FROM events WHERE key = ").push_bind(key.to_string()).push(")");
        }
        page(&mut sql, *before, *limit);
        self.rows(WHAT, sql.build()).await?.iter().map(read_execution).collect()
    }

    async fn append_events(&mut self, execution: i64, tenant: &str, events: &[NewEvent]) -> Result<(), StoreError> {
        const WHAT: &str = "an event";
        self.claim(WHAT, tenant)?;
        self.expect_own(WHAT, tenant, events.iter().filter_map(|event| event.key.as_ref()))?;
        for some in events.chunks(ROWS_AT_ONCE) {
            let mut rows = Vec::with_capacity(some.len());
            for event in some {
                rows.push((event, document(WHAT, &event.kind)?));
            }
            let mut sql = QueryBuilder::<Db>::new("INSERT INTO events (execution, tenant, key, at, document) ");
            sql.push_values(rows, |mut row, (event, document)| {
                row.push_bind(execution)
                    .push_bind(tenant)
                    .push_bind(event.key.as_ref().map(ToString::to_string))
                    .push_bind(time(event.at))
                    .push_bind(document);
            });
            self.write(WHAT, sql.build()).await?;
        }
        Ok(())
    }

    async fn events(&mut self, filter: &HistoryFilter) -> Result<Vec<Event>, StoreError> {
        let HistoryFilter { execution, key, environment, looks: _, before, limit } = filter;
        let mut sql =
            QueryBuilder::<Db>::new("SELECT id, execution, tenant, key, at, document FROM events WHERE 1 = 1");
        narrow(&mut sql, &self.scope);
        if let Some(id) = execution {
            sql.push(" AND execution = ").push_bind(*id);
        }
        if let Some(key) = key {
            sql.push(" AND key = ").push_bind(key.to_string());
        }
        if let Some(environment) = environment {
            // A key is tenant/environment/Kind/name. What is no label is no environment, and might hold a wildcard.
            let pattern = if is_label(environment) { format!("%/{environment}/%/%") } else { String::new() };
            sql.push(" AND key LIKE ").push_bind(pattern);
        }
        page(&mut sql, *before, *limit);
        self.rows("events", sql.build()).await?.iter().map(read_event).collect()
    }

    async fn put_plan_inputs(
        &mut self,
        execution: i64,
        tenant: &str,
        pass: u32,
        inputs: &PackedInputs,
    ) -> Result<(), StoreError> {
        const WHAT: &str = "the inputs of a plan";
        let PackedInputs { inputs, scene, hash } = inputs;
        self.claim(WHAT, tenant)?;
        let sql = "INSERT INTO scenes (tenant, hash, packed) VALUES ($1, $2, $3) ON CONFLICT (tenant, hash) DO NOTHING";
        let is_new = self.write(WHAT, query(sql).bind(tenant).bind(hash).bind(scene)).await? > 0;
        let sql = "INSERT INTO plan_inputs (tenant, execution, pass, scene, packed) VALUES ($1, $2, $3, $4, $5) \
                   ON CONFLICT (tenant, execution, pass) DO NOTHING";
        let statement = query(sql).bind(tenant).bind(execution).bind(i64::from(pass)).bind(hash).bind(inputs);
        self.write(WHAT, statement).await?;
        if is_new {
            self.keep_within_budget(tenant).await?;
        }
        Ok(())
    }

    async fn plan_inputs(&mut self, execution: i64) -> Result<Vec<PackedInputs>, StoreError> {
        const WHAT: &str = "the inputs of a plan";
        let mut sql = QueryBuilder::<Db>::new(
            "SELECT plan_inputs.packed, scenes.packed, hash FROM plan_inputs \
             JOIN scenes ON scenes.tenant = plan_inputs.tenant AND hash = scene WHERE execution = ",
        );
        sql.push_bind(execution);
        if let Some(tenant) = self.scope.tenant() {
            sql.push(" AND plan_inputs.tenant = ").push_bind(tenant.to_owned());
        }
        sql.push(" ORDER BY pass");
        let read = |row: &<Db as Database>::Row| {
            let (inputs, scene) = (column(WHAT, row, 0)?, column(WHAT, row, 1)?);
            Ok(PackedInputs { inputs, scene, hash: column(WHAT, row, 2)? })
        };
        self.rows(WHAT, sql.build()).await?.iter().map(read).collect()
    }

    async fn prune_history(&mut self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.expect_writable()?;
        let old = self.oldest_executions(before).await?;
        if old.is_empty() {
            // Months are empty by now, or hold what is kept: to find that out reads little.
            return self.drop_months(HISTORY, "events", before).await;
        }
        self.forget_executions(&old).await?;
        Ok(old.len() as u64)
    }

    async fn append_audit(&mut self, tenant: &str, entries: &[NewAudit]) -> Result<(), StoreError> {
        const WHAT: &str = "the audit log";
        if entries.is_empty() {
            return Ok(());
        }
        self.expect_writable()?;
        self.claim(WHAT, tenant)?;
        self.expect_own(WHAT, tenant, entries.iter().filter_map(|entry| entry.key.as_ref()))?;
        let done = chains::append(&mut self.inner, tenant, entries).await;
        match (self.all_or_nothing(done)?, entries.first()) {
            (Growth::Begun, Some(first)) if tenant != PLATFORM_CHAIN => self.tell_of_chain(tenant, first.at).await,
            (Growth::Begun | Growth::Longer, _) => Ok(()),
        }
    }

    async fn audit(&mut self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError> {
        let rows = self.audit_as_stored(filter).await?;
        rows.iter().map(StoredAudit::read).collect()
    }

    async fn audit_as_stored(&mut self, filter: &AuditFilter) -> Result<Vec<StoredAudit>, StoreError> {
        self.expect_sound()?;
        let found = chains::entries(&mut self.inner, self.scope.tenant(), filter).await;
        self.all_or_nothing(found)
    }

    async fn last_audit(&mut self, tenant: &str, action: AuditAction) -> Result<Option<AuditEntry>, StoreError> {
        self.expect_sound()?;
        if !self.sees(tenant) {
            return Ok(None);
        }
        let found = chains::last(&mut self.inner, tenant, action).await;
        self.all_or_nothing(found)
    }

    async fn audit_heads(&mut self) -> Result<Vec<AuditHead>, StoreError> {
        self.expect_sound()?;
        let found = chains::heads(&mut self.inner, self.scope.tenant()).await;
        self.all_or_nothing(found)
    }

    async fn prune_audit(&mut self, before: DateTime<Utc>) -> Result<u64, StoreError> {
        self.expect_writable()?;
        let cut = chains::cut(&mut self.inner, self.scope.tenant(), before, FORGOTTEN_ROWS).await;
        self.all_or_nothing(cut)?;
        let gone = chains::sweep(&mut self.inner, self.scope.tenant()).await;
        match self.all_or_nothing(gone)? {
            0 => self.drop_months("the audit log", "audit", before).await,
            gone => Ok(gone),
        }
    }

    async fn make_months(&mut self, now: DateTime<Utc>) -> Result<(), StoreError> {
        const WHAT: &str = "a month";
        self.expect_writable()?;
        self.claim_platform(WHAT)?;
        if let Some(sql) = MAKE_MONTHS {
            self.wait_little_for_months(WHAT).await?;
            self.write(WHAT, query(sql).bind(now.format("%Y-%m").to_string()).bind(MONTHS_AHEAD)).await?;
        }
        Ok(())
    }
}

fn narrow(sql: &mut QueryBuilder<Db>, scope: &Scope) {
    if let Some(tenant) = scope.tenant() {
        sql.push(" AND tenant = ").push_bind(tenant);
    }
}

fn page(sql: &mut QueryBuilder<Db>, before: Option<i64>, limit: u32) {
    if let Some(before) = before {
        sql.push(" AND id < ").push_bind(before);
    }
    sql.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(limit));
}

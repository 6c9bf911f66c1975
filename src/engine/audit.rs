//! What the engine adds to the audit log (`store::audit`).
//!
//! Commits are read once: the newest in the chain says up to where. They, and what Plumb changed, are written with the
//! events of their look; what was decided about a proposal with the proposal itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::model::{
    Approval, Ask, Change, Clock, Event, EventKind, FieldPath, Lease, ObjectHex, Proposal, Request, ResourceKey,
};
use crate::source::CommitInfo;
use crate::store::audit::{ALL_CHAINS, ALL_CUT, AuditAction, AuditDetails, AuditHead, NewAudit, PLATFORM_CHAIN};
use crate::store::{NewEvent, Scope, Store, StoreError};

use super::memory::Memory;
use super::reconcile::{Source, unreadable};
use super::{Engine, EngineError, blocking, decide};

/// Who makes the changes.
const PLUMB: &str = "plumb";
/// Who decides where refs alone say that somebody did.
const GIT: &str = "git";

/// How many fields of a step are named in a row: a database with hundreds of roles is no reason for a row without end.
const MOST_PATHS: usize = 20;

/// How many commits are held at once.
const COMMITS_AT_ONCE: usize = 10_000;

impl Engine {
    /// The commits of a tenant's branch that no look has read before, oldest first, with the approvals in them. Of very
    /// many the first are written here already, some at a time: a look that ends in the middle goes on after them.
    pub(super) async fn commits_to_audit(
        &self,
        lease: &Lease,
        source: &Source,
        memory: &Memory,
    ) -> Result<Vec<NewAudit>, EngineError> {
        let (tenant, state) = (lease.tenant.as_str(), memory.state.as_ref());
        if state.is_some_and(|state| state.head.as_ref() == Some(&source.head)) {
            return Ok(Vec::new());
        }
        let mut tx = self.store.read(Scope::Tenant(tenant.to_owned())).await?;
        let read_last = tx.last_audit(tenant, AuditAction::Commit).await?;
        drop(tx);
        let read_last = read_last
            .and_then(|entry| Some(entry.details.get("commit")?.as_str()?.to_owned()))
            .or_else(|| state.and_then(|state| state.applied.clone()));
        if read_last.as_ref() == Some(&source.head) {
            return Ok(Vec::new());
        }
        let (mirror, head) = (Arc::clone(&source.mirror), source.head.clone());
        let (mut ids, rewritten) = blocking(move || -> Result<_, crate::source::SourceError> {
            let rewritten = match &read_last {
                Some(before) => !mirror.contains(before, &head)?,
                None => false,
            };
            let mut ids = mirror.ids_between(read_last.as_deref(), &head)?;
            if ids.is_empty() {
                // The branch was set back.
                ids.push(head);
            }
            Ok((ids, rewritten))
        })
        .await?
        .map_err(|source| unreadable(tenant, source))?;
        while ids.len() > COMMITS_AT_ONCE {
            let later = ids.split_off(COMMITS_AT_ONCE);
            tracing::info!(tenant, left = later.len(), "many commits are written into the audit log");
            let entries = self.read_commits(tenant, source, memory, ids).await?;
            let mut tx = self.store.begin(Scope::Leased(lease.clone())).await?;
            tx.append_audit(tenant, &entries).await?;
            tx.commit().await?;
            ids = later;
        }
        let mut entries = self.read_commits(tenant, source, memory, ids).await?;
        let is_commit = |entry: &&mut NewAudit| entry.action == AuditAction::Commit;
        if let Some(head) = entries.iter_mut().rev().find(is_commit).filter(|_| rewritten) {
            head.details.insert("historyRewritten".to_owned(), Value::Bool(true));
        }
        Ok(entries)
    }

    /// What is written of these commits, with the approvals in them.
    async fn read_commits(
        &self,
        tenant: &str,
        source: &Source,
        memory: &Memory,
        ids: Vec<ObjectHex>,
    ) -> Result<Vec<NewAudit>, EngineError> {
        let mirror = Arc::clone(&source.mirror);
        let commits = blocking(move || mirror.commits(&ids)).await?.map_err(|source| unreadable(tenant, source))?;
        let at = self.clock.now();
        let mut entries: Vec<NewAudit> = commits.iter().map(|commit| commit_read(commit, at)).collect();
        let approvals = decide::approvals(&commits, &memory.held);
        entries.extend(approvals.iter().map(|approval| approved(approval, &commits, at)));
        Ok(entries)
    }
}

fn commit_read(commit: &CommitInfo, at: DateTime<Utc>) -> NewAudit {
    let CommitInfo { id, parent: _, author, committer, time, message, trailers: _ } = commit;
    let details = details([
        ("commit", json!(id)),
        ("committer", json!(committer)),
        ("committedAt", json!(time)),
        ("subject", json!(message.lines().next().unwrap_or_default())),
    ]);
    NewAudit { at, actor: author.clone(), action: AuditAction::Commit, key: None, details }
}

/// An approval; who committed it gave it.
fn approved(approval: &Approval, commits: &[CommitInfo], at: DateTime<Utc>) -> NewAudit {
    let Approval { kind, plan, keys, commit } = approval;
    let by = commits.iter().find(|known| known.id == *commit).map(|known| known.committer.clone());
    let details = details([
        ("commit", json!(commit)),
        ("plan", json!(plan)),
        ("trailer", json!(kind.trailer())),
        ("keys", json!(keys)),
    ]);
    NewAudit { at, actor: by.unwrap_or_else(|| GIT.to_owned()), action: AuditAction::Approval, key: None, details }
}

/// What git says was decided about a proposal.
pub(super) fn decided(proposal: &Proposal) -> NewAudit {
    let Proposal { key, branch, status, message, updated_at, .. } = proposal;
    let details = details([("branch", json!(branch)), ("status", json!(status)), ("message", json!(message))]);
    NewAudit { at: *updated_at, actor: GIT.to_owned(), action: AuditAction::Decision, key: Some(key.clone()), details }
}

/// What a step touches, as the log says it: which fields, never their values.
#[derive(Clone, Debug, Default)]
pub(super) struct Touched {
    /// At most [`MOST_PATHS`].
    paths: Vec<FieldPath>,
    /// How many more there are.
    more: usize,
    /// At most as many.
    new_passwords: Vec<String>,
}

impl Touched {
    pub fn by(changes: &[Change], new_passwords: &[String]) -> Self {
        Self {
            paths: changes.iter().take(MOST_PATHS).map(|change| change.path.clone()).collect(),
            more: changes.len().saturating_sub(MOST_PATHS),
            new_passwords: new_passwords.iter().take(MOST_PATHS).cloned().collect(),
        }
    }

    fn told(&self) -> AuditDetails {
        let Self { paths, more, new_passwords } = self;
        let mut told = AuditDetails::new();
        if !paths.is_empty() {
            told.insert("paths".to_owned(), json!(paths));
        }
        if *more > 0 {
            told.insert("morePaths".to_owned(), json!(more));
        }
        if !new_passwords.is_empty() {
            told.insert("newPasswords".to_owned(), json!(new_passwords));
        }
        told
    }
}

/// What Plumb changed, where the event is one of that. A step that failed may have changed something too.
pub(super) fn changed(execution: i64, event: &NewEvent, touched: &Touched) -> Option<NewAudit> {
    let (action, failure) = match &event.kind {
        EventKind::StepDone { action, .. } => (action, None),
        EventKind::StepFailed { action, reason, message, .. } => (action, Some((reason, message))),
        _ => return None,
    };
    let mut details = details([("execution", json!(execution)), ("action", json!(action))]);
    details.extend(touched.told());
    if let Some((reason, message)) = failure {
        details.insert("end".to_owned(), json!("failed"));
        details.insert("reason".to_owned(), json!(reason));
        details.insert("message".to_owned(), json!(message));
    }
    Some(change(event.key.clone(), event.at, details))
}

/// What an execution that was cut short may have changed: the steps of which its events, oldest first, say that they
/// began, and not how they ended. Written at `now`, when that is found, so that whoever exports what is new misses nothing.
pub(super) fn without_end(execution: i64, events: &[Event], now: DateTime<Utc>) -> Vec<NewAudit> {
    let mut begun = BTreeMap::new();
    for Event { key, kind, at, .. } in events {
        match kind {
            EventKind::StepStarted { action, changes, new_passwords, .. } => {
                begun.insert(key, (action, at, Touched::by(changes, new_passwords)));
            }
            EventKind::StepDone { .. } | EventKind::StepFailed { .. } => drop(begun.remove(key)),
            _ => {}
        }
    }
    let unknown = begun.into_iter().map(|(key, (action, began_at, touched))| {
        let mut details = details([
            ("execution", json!(execution)),
            ("action", json!(action)),
            ("end", json!("unknown")),
            ("beganAt", json!(began_at)),
        ]);
        details.extend(touched.told());
        change(key.clone(), now, details)
    });
    unknown.collect()
}

fn change(key: Option<ResourceKey>, at: DateTime<Utc>, details: AuditDetails) -> NewAudit {
    NewAudit { at, actor: PLUMB.to_owned(), action: AuditAction::Change, key, details }
}

/// That a look was asked for.
pub(super) fn asked(by: &str, tenant: Option<&str>, at: DateTime<Utc>) -> NewAudit {
    let details = details([("look", tenant.map_or_else(|| json!("every tenant"), |tenant| json!(tenant)))]);
    NewAudit { at, actor: by.to_owned(), action: AuditAction::Request, key: None, details }
}

/// Asks for a look at each of these tenants on behalf of `by`, and writes that down.
///
/// # Errors
/// When the store does not take it; then no look is asked for that is not written down.
pub async fn request_looks(
    store: &dyn Store,
    clock: &dyn Clock,
    tenants: &[String],
    ask: Ask,
    by: &str,
) -> Result<(), StoreError> {
    for tenant in tenants {
        let mut tx = store.begin(Scope::Tenant(tenant.clone())).await?;
        tx.append_audit(tenant, &[asked(by, Some(tenant.as_str()), clock.now())]).await?;
        tx.commit().await?;
    }
    let looks: Vec<Request> = tenants.iter().map(|tenant| Request::at_once(tenant, ask)).collect();
    store.request(&looks).await
}

/// That somebody had a failed step tried again.
pub(super) fn retried(by: &str, key: &ResourceKey, at: DateTime<Utc>) -> NewAudit {
    let details = AuditDetails::new();
    NewAudit { at, actor: by.to_owned(), action: AuditAction::Retried, key: Some(key.clone()), details }
}

/// That somebody had a provider asked again that nobody asked.
pub(super) fn asked_again(by: &str, provider: &str, at: DateTime<Utc>) -> NewAudit {
    let details = details([("provider", json!(provider))]);
    NewAudit { at, actor: by.to_owned(), action: AuditAction::Retried, key: None, details }
}

/// That somebody has a tenant applied, from the command line: whatever git says, or what an execution planned.
pub(super) fn applied(by: &str, replays: Option<i64>, at: DateTime<Utc>) -> NewAudit {
    let mut told = details([("command", json!(if replays.is_some() { "replay" } else { "apply" }))]);
    told.extend(replays.map(|replayed| ("replays".to_owned(), json!(replayed))));
    NewAudit { at, actor: by.to_owned(), action: AuditAction::Applied, key: None, details: told }
}

/// That so many rows, all from before a time, were forgotten; of the audit log, how many have been by then, and how many
/// tenants have a chain.
pub(super) fn pruned(
    what: &str,
    rows: u64,
    before: DateTime<Utc>,
    heads: Option<&[AuditHead]>,
    at: DateTime<Utc>,
) -> NewAudit {
    let mut details = details([("what", json!(what)), ("rows", json!(rows)), ("before", json!(before))]);
    if let Some(heads) = heads {
        let cut: i64 = heads.iter().map(AuditHead::cut).sum();
        let chains = heads.iter().filter(|head| head.tenant != PLATFORM_CHAIN).count();
        details.extend([(ALL_CUT.to_owned(), json!(cut)), (ALL_CHAINS.to_owned(), json!(chains))]);
    }
    NewAudit { at, actor: PLUMB.to_owned(), action: AuditAction::Pruned, key: None, details }
}

/// That a revision of the platform came into force.
pub(super) fn in_force(commit: &ObjectHex, info: Option<&CommitInfo>, at: DateTime<Utc>) -> NewAudit {
    let mut told = details([("commit", json!(commit))]);
    if let Some(CommitInfo { committer, message, .. }) = info {
        told.insert("committer".to_owned(), json!(committer));
        told.insert("subject".to_owned(), json!(message.lines().next().unwrap_or_default()));
    }
    let actor = info.map_or_else(|| GIT.to_owned(), |info| info.author.clone());
    NewAudit { at, actor, action: AuditAction::Platform, key: None, details: told }
}

fn details<const N: usize>(told: [(&str, Value); N]) -> AuditDetails {
    told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

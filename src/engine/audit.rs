//! What the engine adds to the audit log (`store::audit`).
//!
//! Commits are read once: the newest in the chain says up to where. They, and what Plumb changed, are written with the
//! events of their look; what was decided about a proposal with the proposal itself.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::model::{Approval, EventKind, ObjectHex, Proposal, ResourceKey};
use crate::source::{CommitInfo, Mirror};
use crate::store::Scope;
use crate::store::audit::{AuditAction, AuditDetails, NewAudit};

use super::memory::Memory;
use super::reconcile::{Source, unreadable};
use super::{Engine, EngineError, blocking, decide};

/// Who makes the changes.
const PLUMB: &str = "plumb";
/// Who decides where refs alone say that somebody did.
const GIT: &str = "git";

impl Engine {
    /// The commits of a tenant's branch that no look has read before, oldest first, with the approvals in them.
    pub(super) async fn commits_to_audit(
        &self,
        tenant: &str,
        source: &Source,
        memory: &Memory,
    ) -> Result<Vec<NewAudit>, EngineError> {
        let state = memory.state.as_ref();
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
        let (commits, rewritten) = blocking(move || -> Result<_, crate::source::SourceError> {
            let rewritten = match &read_last {
                Some(before) => !mirror.contains(before, &head)?,
                None => false,
            };
            Ok((since(&mirror, read_last.as_deref(), &head)?, rewritten))
        })
        .await?
        .map_err(|source| unreadable(tenant, source))?;
        let at = self.clock.now();
        let mut entries: Vec<NewAudit> = commits.iter().map(|commit| commit_read(commit, at)).collect();
        if let Some(head) = entries.last_mut().filter(|_| rewritten) {
            head.details.insert("historyRewritten".to_owned(), Value::Bool(true));
        }
        let approvals = decide::approvals(&commits, &memory.held);
        entries.extend(approvals.iter().map(|approval| approved(approval, &commits, at)));
        Ok(entries)
    }
}

/// The commits of `head` that are not of `before`, oldest first; `head` is always the last of them.
fn since(
    mirror: &Mirror,
    before: Option<&str>,
    head: &ObjectHex,
) -> Result<Vec<CommitInfo>, crate::source::SourceError> {
    let mut commits = mirror.commits_between(before, head)?;
    let (mut newest, older): (Vec<_>, Vec<_>) = commits.drain(..).partition(|commit| commit.id == *head);
    if newest.is_empty() {
        newest = mirror.commits_between(None, head)?;
    }
    let mut commits = older;
    commits.reverse();
    commits.extend(newest);
    Ok(commits)
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

/// What Plumb changed, where the event is one of that.
pub(super) fn changed(execution: i64, event: &crate::store::NewEvent) -> Option<NewAudit> {
    let EventKind::StepDone { action, .. } = &event.kind else { return None };
    let details = details([("execution", json!(execution)), ("action", json!(action))]);
    let key = event.key.clone();
    Some(NewAudit { at: event.at, actor: PLUMB.to_owned(), action: AuditAction::Change, key, details })
}

/// That a look was asked for.
pub(super) fn asked(by: &str, tenant: Option<&str>, at: DateTime<Utc>) -> NewAudit {
    let details = details([("look", tenant.map_or_else(|| json!("every tenant"), |tenant| json!(tenant)))]);
    NewAudit { at, actor: by.to_owned(), action: AuditAction::Request, key: None, details }
}

/// That somebody had a failed step tried again.
pub(super) fn retried(by: &str, key: &ResourceKey, at: DateTime<Utc>) -> NewAudit {
    let details = AuditDetails::new();
    NewAudit { at, actor: by.to_owned(), action: AuditAction::Retried, key: Some(key.clone()), details }
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

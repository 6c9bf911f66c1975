//! Branches that vanish together: an accident shows in a repository, and not in a tenant (R14).

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::model::{Execution, ExecutionOutcome, Proposal, ResourceKey, TenantSpec};
use crate::source::{Mirror, Refs, SourceError};
use crate::store::{HistoryFilter, Scope, StoreError};

use super::decide::{has_vanished, is_merged};
use super::memory::Memory;
use super::reconcile::{Source, Subject, unreadable};
use super::{Engine, EngineError, beside};

/// How long the vanishing of many branches that one tenant saw counts for the others of its repository, whose looks may
/// have begun before it.
const ONE_ACCIDENT: TimeDelta = TimeDelta::hours(1);

/// So many of a tenant's newest looks are asked for how they ended.
const FEW_LOOKS: u32 = 20;

impl Engine {
    /// How many branches of other tenants' proposals vanished from the repository, where one of this tenant's did.
    pub(super) async fn vanished_elsewhere(
        &self,
        subject: Subject<'_>,
        source: &Source,
        memory: &Memory,
    ) -> Result<usize, EngineError> {
        let Subject { in_force, tenant, spec } = subject;
        let (url, tenants) = (&spec.repository.url, &in_force.platform.tenants);
        let shares = |(other, theirs): (&String, &TenantSpec)| other != tenant && theirs.repository.url == *url;
        let any_is_gone = memory.proposals.values().any(|proposal| has_vanished(proposal, &source.refs));
        if !any_is_gone || !tenants.iter().any(shares) {
            return Ok(0);
        }
        let mut tx = self.store.read(Scope::Platform).await?;
        let (all, states) = (tx.proposals().await?, tx.tenants().await?);
        drop(tx);
        let now = self.clock.now();
        let looks = self.looks_at(tenant).await?;
        // One that failed may have read nothing.
        let has_read = |look: &&Execution| matches!(look.outcome, ExecutionOutcome::InSync | ExecutionOutcome::Blocked);
        let last = looks.iter().find(has_read).or(looks.last());
        let since = last.and_then(|look| look.finished_at).unwrap_or(now);
        let fails = |tenant: &str| states.get(tenant).is_some_and(|state| !state.error.is_empty());
        let mut others = Vec::new();
        let mut listens = BTreeMap::new();
        for proposal in all.into_values() {
            let other = &proposal.key.tenant;
            // Nobody looks for a tenant that is no more.
            if other == tenant || proposal.url != *url || !tenants.contains_key(other) {
                continue;
            }
            if !listens.contains_key(other) {
                let is_asked = fails(other) && !fails(tenant);
                let heard = if is_asked { self.listens(other, since).await? } else { Listens::Yes };
                listens.insert(other.clone(), heard);
            }
            let heard = listens[other];
            others.push((proposal, heard));
        }
        let evidence = Advertised { refs: &source.refs, mirror: &source.mirror, since, now };
        beside(|| count_elsewhere(&memory.proposals, &others, evidence)).map_err(|error| unreadable(tenant, error))
    }

    /// Whether a tenant that cannot be looked at now could be when another one was, before `since`. If not, it goes on asking
    /// about branches that went long ago.
    async fn listens(&self, tenant: &str, since: DateTime<Utc>) -> Result<Listens, StoreError> {
        let looks = self.looks_at(tenant).await?;
        let before = looks.iter().find(|look| look.finished_at.is_some_and(|at| at < since));
        Ok(match before.map(|look| look.outcome) {
            Some(ExecutionOutcome::Failed) => Listens::No,
            Some(
                ExecutionOutcome::Running
                | ExecutionOutcome::InSync
                | ExecutionOutcome::Blocked
                | ExecutionOutcome::Interrupted,
            )
            | None => Listens::Yes,
        })
    }

    /// The newest looks at a tenant that have ended, newest first.
    async fn looks_at(&self, tenant: &str) -> Result<Vec<Execution>, StoreError> {
        let filter = HistoryFilter { looks: true, limit: FEW_LOOKS, ..HistoryFilter::default() };
        let mut tx = self.store.read(Scope::Tenant(tenant.to_owned())).await?;
        let looks = tx.executions(&filter).await?;
        Ok(looks.into_iter().filter(|look| look.finished_at.is_some()).collect())
    }
}

/// Whether a tenant's looks hear what its branches say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listens {
    Yes,
    No,
}

/// What [`count_elsewhere`] goes by.
#[derive(Clone, Copy)]
struct Advertised<'a> {
    refs: &'a Refs,
    mirror: &'a Mirror,
    /// When the tenant was looked at last.
    since: DateTime<Utc>,
    now: DateTime<Utc>,
}

/// Counts the branches of other tenants' proposals that vanished from the same repository together with `own`: those that
/// are gone now, and those that their tenant saw go, and has pushed again, since `own` were looked at last. One
/// advertisement shows a repository, not a tenant (R14).
fn count_elsewhere(
    own: &BTreeMap<ResourceKey, Proposal>,
    others: &[(Proposal, Listens)],
    evidence: Advertised<'_>,
) -> Result<usize, SourceError> {
    let Advertised { refs, mirror, since, now } = evidence;
    // What was asked again once was seen then.
    let asked_again = own.values().filter_map(|proposal| proposal.vanished_at).max();
    let mut vanished = 0;
    for (proposal, listens) in others {
        let seen_to_go = proposal.vanished_at.filter(|at| *at > since.min(now - ONE_ACCIDENT));
        let is_gone = *listens == Listens::Yes && has_vanished(proposal, refs) && !is_merged(proposal, refs, mirror)?;
        vanished += usize::from(is_gone || seen_to_go > asked_again);
    }
    Ok(vanished)
}

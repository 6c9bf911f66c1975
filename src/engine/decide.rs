//! Reads what people decided: from the branches of proposals (section 4 of the design, R14) and from trailers.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Action, Approval, ApprovalKind, Decisions, DesiredState, DriftMode, ObjectHex, OnClose, Plan, PlanId, Proposal,
    ProposalKind, ProposalStatus, ProposedField, ResourceKey, TenantSpec,
};
use crate::source::{CommitInfo, Mirror, Refs, SourceError};
use crate::store::HeldPlan;

/// More proposals than these vanishing at once are taken for an accident, not for decisions (R14).
const MOST_RESTORED_AT_ONCE: usize = 3;

/// What the refs say of one proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// Its branch is at this commit of Plumb's, and not merged.
    Waiting(ObjectHex),
    /// A person's commit is on it.
    TakenOver,
    /// It is in the head, as it was offered or as somebody changed it.
    Merged,
    /// Its branch is gone, or has nothing more on it, and nothing of it is in the head.
    Vanished,
    /// Its branch is gone, and nobody is asked about the resource at this head.
    Moot,
    /// Its branch is not there, but that decides nothing: never pushed, another remote, a rewritten history.
    Undecidable,
}

/// Brings each undecided proposal to where the refs say it is. Gives those that changed, and the messages.
///
/// Only the one advertisement in `refs` is looked at; `url` is the remote that it came from.
pub(super) fn read_proposals(
    proposals: &BTreeMap<ResourceKey, Proposal>,
    refs: &Refs,
    url: &str,
    tenant: &TenantSpec,
    desired: &DesiredState,
    mirror: &Mirror,
) -> Result<Vec<Proposal>, SourceError> {
    let mut seen = Vec::new();
    for proposal in proposals.values().filter(|proposal| proposal.status.is_undecided()) {
        seen.push((proposal, look_at(proposal, refs, url, tenant, desired, mirror)?));
    }
    let vanished = seen.iter().filter(|(_, seen)| *seen == Seen::Vanished).count();
    Ok(seen
        .into_iter()
        .filter_map(|(proposal, seen)| {
            let read = after(proposal, seen, vanished, tenant.on_close);
            (read != *proposal).then_some(read)
        })
        .collect())
}

/// The proposal as it stands after what was seen; `vanished` is how many branches are gone.
fn after(proposal: &Proposal, seen: Seen, vanished: usize, on_close: OnClose) -> Proposal {
    let proposal = proposal.clone();
    let decided =
        |status, message: &str| Proposal { status, failed: false, message: message.to_owned(), ..proposal.clone() };
    // Not out any more, and nobody's decision: to be pushed again, and not taken for closed before that has arrived.
    let again = |message: String| Proposal {
        status: ProposalStatus::Pending,
        pushing: proposal.pushed.clone().or(proposal.pushing.clone()),
        pushed: None,
        message,
        ..proposal.clone()
    };
    match seen {
        Seen::Waiting(tip) => {
            Proposal { status: ProposalStatus::Open, pushed: Some(tip), pushing: None, ..proposal.clone() }
        }
        Seen::TakenOver => {
            decided(ProposalStatus::HandsOff, "somebody committed to the branch; Plumb no longer updates it")
        }
        Seen::Merged => decided(ProposalStatus::Accepted, "merged"),
        Seen::Moot => {
            decided(ProposalStatus::Closed, "the branch is gone, and nobody is asked about the resource any more")
        }
        Seen::Vanished if vanished > MOST_RESTORED_AT_ONCE => Proposal {
            failed: false,
            ..again(format!(
                "{vanished} proposal branches vanished at once, so none is taken as a decision; pushed again"
            ))
        },
        Seen::Vanished => match on_close {
            OnClose::Restore => decided(ProposalStatus::Restored, "the branch was deleted: git's value is put back"),
            OnClose::Ignore => decided(ProposalStatus::Ignored, "the branch was deleted: the difference is left alone"),
        },
        Seen::Undecidable => again(proposal.message.clone()),
    }
}

fn look_at(
    proposal: &Proposal,
    refs: &Refs,
    url: &str,
    tenant: &TenantSpec,
    desired: &DesiredState,
    mirror: &Mirror,
) -> Result<Seen, SourceError> {
    let Some(head) = refs.head.as_ref().filter(|_| proposal.url == url) else { return Ok(Seen::Undecidable) };
    for commit in [&proposal.pushed, &proposal.pushing].into_iter().flatten() {
        if mirror.contains(commit, head)? {
            return Ok(Seen::Merged);
        }
    }
    match (refs.drift.get(&proposal.branch), &proposal.pushed) {
        (Some(tip), _) if proposal.made(tip) => Ok(Seen::Waiting(tip.clone())),
        // Not known to have been out, so nobody took it over, merged or closed it.
        (Some(_) | None, None) => Ok(Seen::Undecidable),
        (Some(tip), Some(_)) if !mirror.contains(tip, head)? => Ok(Seen::TakenOver),
        // From here on there is no branch, or nothing on it that is not in the head: it was edited and merged, or moved to
        // some commit of the tenant's branch. Which of them, only what git says can tell.
        _ if !mirror.contains(&proposal.base, head)? => Ok(Seen::Undecidable),
        _ if git_followed(proposal, tenant, desired) => Ok(Seen::Merged),
        _ if asks_nobody(proposal, tenant, desired) => Ok(Seen::Moot),
        _ => Ok(Seen::Vanished),
    }
}

/// Whether git has set what the proposal is about since it was opened: squashed, edited, or by other hands.
fn git_followed(proposal: &Proposal, tenant: &TenantSpec, desired: &DesiredState) -> bool {
    match (desired.resources.get(&proposal.key), proposal.kind) {
        (None, ProposalKind::Missing) => is_removed(&proposal.key, tenant, desired),
        (None, ProposalKind::Drift) | (Some(_), ProposalKind::Missing) => false,
        (Some(resource), ProposalKind::Drift) => {
            proposal.fields.iter().all(|field| resource.fields.0.get(&field.path) != field.git.as_ref())
        }
    }
}

/// Whether git says by now that drift of the resource is no question: whoever takes the branch away then, a person or
/// another process of this platform, does not ask for git's value.
fn asks_nobody(proposal: &Proposal, tenant: &TenantSpec, desired: &DesiredState) -> bool {
    let Some(resource) = desired.resources.get(&proposal.key) else { return false };
    let annotations = &resource.annotations;
    let only_observes = annotations.drift.unwrap_or(tenant.drift) == DriftMode::Observe;
    let ignores = || proposal.fields.iter().all(|field| annotations.ignores(&field.path));
    // A conflict is a question whatever the mode, and that data is gone must be remembered (R8).
    let is_conflict = |field: &ProposedField| field.base.is_none() || field.git != field.base;
    let observes = || only_observes && !proposal.fields.iter().any(is_conflict);
    proposal.kind == ProposalKind::Drift && (observes() || ignores())
}

/// Whether git surely does not want `key` any more: what cannot be read, or stands in an environment that was taken
/// away, may still be wanted.
pub(super) fn is_removed(key: &ResourceKey, tenant: &TenantSpec, desired: &DesiredState) -> bool {
    desired.unreadable.is_empty()
        && tenant.environments.contains(&key.environment)
        && !desired.resources.contains_key(key)
        && !desired.rejected.contains_key(key)
}

/// The planner's view of the proposals.
pub(super) fn decisions(proposals: &BTreeMap<ResourceKey, Proposal>) -> Decisions {
    let mut decisions = Decisions::default();
    for (key, proposal) in proposals {
        let (key, fields) = (key.clone(), proposal.fields.clone());
        if !proposal.silenced.is_empty() {
            decisions.ignored.insert(key.clone(), proposal.silenced.clone());
        }
        match (proposal.kind, proposal.status) {
            (ProposalKind::Missing, ProposalStatus::Restored | ProposalStatus::Ignored) => {
                decisions.were_there.insert(key.clone());
                decisions.kept_missing.insert(key);
            }
            (ProposalKind::Missing, ProposalStatus::Pending | ProposalStatus::Open | ProposalStatus::HandsOff) => {
                decisions.were_there.insert(key);
            }
            (ProposalKind::Missing, ProposalStatus::Accepted | ProposalStatus::Closed) => {}
            (ProposalKind::Drift, status) => {
                if status != ProposalStatus::Closed {
                    decisions.were_there.insert(key.clone());
                }
                let list = match status {
                    ProposalStatus::Pending | ProposalStatus::Open | ProposalStatus::HandsOff => &mut decisions.open,
                    ProposalStatus::Accepted | ProposalStatus::Restored => &mut decisions.lifted,
                    ProposalStatus::Ignored => &mut decisions.ignored,
                    // Nobody decided anything: only its branch is still to go.
                    ProposalStatus::Closed => continue,
                };
                list.entry(key).or_default().extend(fields);
            }
        }
    }
    decisions
}

/// Keys whose deletion was held, and that still wait: [`HeldPlan`]s hold no others.
pub(super) fn held_deletes(held: &[HeldPlan]) -> BTreeSet<ResourceKey> {
    let deletes = held.iter().filter(|held| held.kind == ApprovalKind::Deletes);
    deletes.flat_map(|held| held.keys.iter().cloned()).collect()
}

/// Approvals of `plan` by its id alone, with the keys that they cover in it.
pub(super) fn with_coverage(approvals: &[Approval], plan: &Plan) -> Vec<Approval> {
    let steps = || plan.steps.iter().chain(plan.blocked.iter().filter_map(|blocked| blocked.step.as_ref()));
    let by_id = approvals.iter().filter(|approval| approval.keys.is_empty() && approval.plan == plan.id);
    let covering = by_id.map(|approval| {
        let covered = steps().filter(|step| match approval.kind {
            ApprovalKind::Deletes => step.loses(),
            ApprovalKind::Create => step.action == Action::Create,
        });
        Approval { keys: covered.map(|step| step.key.clone()).collect(), ..approval.clone() }
    });
    covering.filter(|approval| !approval.keys.is_empty()).collect()
}

/// Approvals in the trailers of `commits`, matched with the plans that were held.
pub(super) fn approvals(commits: &[CommitInfo], held: &[HeldPlan]) -> Vec<Approval> {
    let mut approvals = Vec::new();
    for commit in commits {
        for (name, value) in &commit.trailers {
            for kind in [ApprovalKind::Deletes, ApprovalKind::Create] {
                if name.eq_ignore_ascii_case(kind.trailer()) {
                    let plan = PlanId(value.trim().to_owned());
                    let keys: BTreeSet<ResourceKey> = held
                        .iter()
                        .filter(|held| held.id == plan && held.kind == kind)
                        .flat_map(|held| held.keys.iter().cloned())
                        .collect();
                    approvals.push(Approval { kind, plan, keys, commit: commit.id.clone() });
                }
            }
        }
    }
    approvals
}

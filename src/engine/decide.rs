//! Reads what people decided: from the branches of proposals (section 4 of the design, R14) and from trailers.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::model::{
    Action, Approval, ApprovalKind, Decisions, DesiredState, DriftMode, ObjectHex, OnClose, Plan, PlanId, PlatformId,
    Proposal, ProposalKind, ProposalStatus, ProposedField, ResourceKey, Step, TenantSpec,
};
use crate::plan::id_of_step;
use crate::source::{CommitInfo, Mirror, Refs, SourceError};
use crate::store::HeldPlan;

use super::propose::About;
use super::view::how_to_decide;

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
    /// Its branch is gone, and nothing of it is in the head.
    Vanished,
    /// Its branch is there, with nothing on it but what is in the head, and that is nothing of the proposal.
    Emptied,
    /// Its branch is gone, and nobody is asked about the resource at this head.
    Moot,
    /// Its branch is not there, but that decides nothing: never pushed, another remote, a rewritten history.
    Undecidable,
    /// Another source, or another history, has it already, which decides nothing; the same commit would read as merged.
    Overtaken,
}

/// What answers are read from: one advertisement, and what git says at its head.
#[derive(Clone, Copy)]
pub(super) struct Evidence<'a> {
    pub platform: &'a PlatformId,
    pub tenant: &'a TenantSpec,
    pub refs: &'a Refs,
    /// The remote that the refs came from.
    pub url: &'a str,
    pub mirror: &'a Mirror,
    pub desired: &'a DesiredState,
    /// The head is of another source, or of another history, than what was read last: it says what it says, and answers
    /// nothing (R9).
    pub is_other: bool,
    /// The tree holds no manifest at all (R9).
    pub is_empty: bool,
    /// How many branches of other tenants' proposals vanished from the same repository.
    pub vanished_elsewhere: usize,
    /// When the refs are read.
    pub at: DateTime<Utc>,
    /// What was removed from git while its object was gone, as far as anybody knew.
    pub let_go: &'a [Removal],
}

/// A document that was removed while its object was gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Removal {
    pub key: ResourceKey,
    /// The file it stood in.
    pub file: String,
    /// When that was seen.
    pub at: DateTime<Utc>,
}

/// Brings each proposal to where the refs say it is. Gives those that changed, and the messages.
pub(super) fn read_proposals(
    proposals: &BTreeMap<ResourceKey, Proposal>,
    evidence: Evidence<'_>,
) -> Result<Vec<Proposal>, SourceError> {
    let (mut read, mut seen) = (BTreeMap::new(), Vec::new());
    for (key, proposal) in proposals {
        let asked = evidence.asked_here(proposal)?;
        if asked.status.is_undecided() {
            let found = evidence.look_at(&asked)?;
            seen.push((asked, found));
        } else {
            read.insert(key, asked);
        }
    }
    let vanished = seen.iter().filter(|(_, seen)| *seen == Seen::Vanished).count() + evidence.vanished_elsewhere;
    for (proposal, seen) in seen {
        let (key, _) = proposals.get_key_value(&proposal.key).expect("it is one of them");
        read.insert(key, evidence.after(&proposal, seen, vanished));
    }
    for removal in evidence.let_go {
        let known = read.remove(&removal.key);
        read.insert(&removal.key, evidence.let_go_of(removal, known));
    }
    Ok(read.into_iter().filter(|(key, read)| proposals.get(*key) != Some(read)).map(|(_, read)| read).collect())
}

impl Evidence<'_> {
    /// The proposal as it stands after what was seen; `vanished` is how many branches are gone.
    fn after(self, proposal: &Proposal, seen: Seen, vanished: usize) -> Proposal {
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
        let still_failing = || if proposal.failed { proposal.message.clone() } else { String::new() };
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
                vanished_at: Some(self.at),
                ..again(format!(
                    "{vanished} proposal branches vanished at once, so none is taken as a decision; pushed again"
                ))
            },
            Seen::Vanished => match self.tenant.on_close {
                OnClose::Restore => {
                    decided(ProposalStatus::Restored, "the branch was deleted: git's value is put back")
                }
                OnClose::Ignore => {
                    decided(ProposalStatus::Ignored, "the branch was deleted: the difference is left alone")
                }
            },
            Seen::Emptied => Proposal {
                failed: false,
                ..again(format!(
                    "{} was put on a commit that git has already, which is no answer, so it is pushed again. {}",
                    proposal.branch,
                    how_to_decide(proposal.kind, &proposal.key, &proposal.branch)
                ))
            },
            Seen::Undecidable => again(still_failing()),
            Seen::Overtaken => Proposal { pushing: None, ..again(still_failing()) },
        }
    }

    /// The proposal as it is asked at this head. Where another source, or another history, is read, it is about what git
    /// says there, which answers no question that was asked before, nor ends a word to leave something alone.
    fn asked_here(self, proposal: &Proposal) -> Result<Proposal, SourceError> {
        let proposal = proposal.clone();
        if !(self.is_other || self.is_empty || proposal.elsewhere) {
            return Ok(proposal);
        }
        match proposal.status {
            ProposalStatus::Accepted if proposal.kind == ProposalKind::Drift && self.is_other => {
                let stands = is_merged(&proposal, self.refs, self.mirror)? || self.git_followed(&proposal);
                // A decision lifts the hold, whatever the head says then (R14); but this is what the other one said.
                Ok(if stands {
                    proposal
                } else {
                    let message = "it was accepted elsewhere than in what is read now".to_owned();
                    Proposal { status: ProposalStatus::Closed, message, ..proposal }
                })
            }
            ProposalStatus::Accepted | ProposalStatus::Restored | ProposalStatus::Closed => Ok(proposal),
            ProposalStatus::Pending | ProposalStatus::Open | ProposalStatus::HandsOff | ProposalStatus::Ignored => {
                let Some(resource) = self.desired.resources.get(&proposal.key) else {
                    return Ok(Proposal { elsewhere: true, ..proposal });
                };
                let restated = |fields: &[ProposedField]| {
                    let git = |field: &ProposedField| resource.fields.0.get(&field.path).cloned();
                    fields.iter().map(|field| ProposedField { git: git(field), ..field.clone() }).collect()
                };
                Ok(Proposal {
                    fields: restated(&proposal.fields),
                    silenced: restated(&proposal.silenced),
                    elsewhere: false,
                    ..proposal
                })
            }
        }
    }

    /// What is remembered of a document that let go of what was gone: the object may come back before it is forgotten.
    fn let_go_of(self, removal: &Removal, known: Option<Proposal>) -> Proposal {
        let Removal { key, file, at } = removal;
        let known = known.unwrap_or_else(|| Proposal {
            branch: key.drift_branch(self.tenant.repository.path != "."),
            url: self.url.to_owned(),
            base: self.refs.head.clone().unwrap_or_default(),
            file: file.clone(),
            ..Proposal::of_key(key.clone(), *at)
        });
        Proposal {
            kind: ProposalKind::Missing,
            fields: Vec::new(),
            left_out: Vec::new(),
            silenced: Vec::new(),
            status: ProposalStatus::Accepted,
            elsewhere: false,
            failed: false,
            message: "its document was removed while the object was gone".to_owned(),
            ..known
        }
    }

    fn look_at(self, proposal: &Proposal) -> Result<Seen, SourceError> {
        let Self { refs, mirror, .. } = self;
        let Some(head) = refs.head.as_ref().filter(|_| proposal.url == self.url) else { return Ok(Seen::Undecidable) };
        if is_merged(proposal, refs, mirror)? {
            return Ok(if self.is_other { Seen::Overtaken } else { Seen::Merged });
        }
        let tip = match (refs.drift.get(&proposal.branch), &proposal.pushed) {
            (Some(tip), _) if proposal.made(tip) => return Ok(Seen::Waiting(tip.clone())),
            // Not known to have been out, so nobody took it over, merged or closed it.
            (Some(_) | None, None) => return Ok(Seen::Undecidable),
            (Some(tip), Some(_)) if !mirror.contains(tip, head)? => return Ok(Seen::TakenOver),
            (tip, Some(_)) => tip,
        };
        // From here on there is no branch, or nothing on it that is not in the head: it was edited and merged, or moved
        // to some commit of the tenant's branch. Which of them, only what git says can tell.
        if self.is_other || !mirror.contains(&proposal.base, head)? {
            return Ok(Seen::Undecidable);
        }
        if self.git_followed(proposal) {
            return Ok(Seen::Merged);
        }
        if self.asks_nobody(proposal) {
            return Ok(Seen::Moot);
        }
        match tip {
            None => Ok(Seen::Vanished),
            Some(tip) if self.speaks_of(proposal, tip)? => Ok(Seen::Merged),
            Some(_) => Ok(Seen::Emptied),
        }
    }

    /// Whether git has set what the proposal is about since it was opened: squashed, edited, or by other hands. An empty
    /// tree removes nothing (R9).
    fn git_followed(self, proposal: &Proposal) -> bool {
        match (self.desired.resources.get(&proposal.key), proposal.kind) {
            (None, ProposalKind::Missing) => {
                !self.is_empty && !proposal.elsewhere && is_removed(&proposal.key, self.tenant, self.desired)
            }
            (None, ProposalKind::Drift) | (Some(_), ProposalKind::Missing) => false,
            (Some(resource), ProposalKind::Drift) => {
                let moved = |field: &ProposedField| resource.fields.0.get(&field.path) != field.git.as_ref();
                !proposal.fields.is_empty() && proposal.fields.iter().all(moved)
            }
        }
    }

    /// Whether git says by now that drift of the resource is no question: whoever takes the branch away then, a person or
    /// another process of this platform, does not ask for git's value.
    fn asks_nobody(self, proposal: &Proposal) -> bool {
        let Some(resource) = self.desired.resources.get(&proposal.key) else { return false };
        let annotations = &resource.annotations;
        let only_observes = annotations.drift.unwrap_or(self.tenant.drift) == DriftMode::Observe;
        let ignores = || {
            let fields = &proposal.fields;
            !fields.is_empty() && fields.iter().all(|field| annotations.ignores(&field.path))
        };
        // A conflict is a question whatever the mode, and that data is gone must be remembered (R8).
        let is_conflict = |field: &ProposedField| field.base.is_none() || field.git != field.base;
        let observes = || only_observes && !proposal.fields.iter().any(is_conflict);
        proposal.kind == ProposalKind::Drift && (observes() || ignores())
    }

    /// Whether a commit on the branch says that it is about this: a person who amends the proposal keeps its trailers.
    fn speaks_of(self, proposal: &Proposal, tip: &ObjectHex) -> Result<bool, SourceError> {
        let commits = self.mirror.commits_between(Some(&proposal.base), tip)?;
        let is_about = |about: About| about.platform == *self.platform && about.key == proposal.key;
        Ok(commits.iter().filter_map(About::of).any(is_about))
    }
}

/// Whether a branch that was out is not among the refs.
pub(super) fn has_vanished(proposal: &Proposal, refs: &Refs) -> bool {
    proposal.status.is_undecided() && proposal.pushed.is_some() && !refs.drift.contains_key(&proposal.branch)
}

/// Whether a commit of Plumb's that was, or may have been, on the branch is in the head.
pub(super) fn is_merged(proposal: &Proposal, refs: &Refs, mirror: &Mirror) -> Result<bool, SourceError> {
    let Some(head) = refs.head.as_ref() else { return Ok(false) };
    for commit in [&proposal.pushed, &proposal.pushing].into_iter().flatten() {
        if mirror.contains(commit, head)? {
            return Ok(true);
        }
    }
    Ok(false)
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
        if proposal.kind == ProposalKind::Missing && proposal.status != ProposalStatus::Closed {
            decisions.let_go.insert(key.clone());
        }
        match (proposal.kind, proposal.status) {
            (ProposalKind::Missing, ProposalStatus::Restored | ProposalStatus::Ignored) => {
                decisions.were_there.insert(key.clone());
                decisions.kept_missing.insert(key);
            }
            (ProposalKind::Missing, ProposalStatus::Pending | ProposalStatus::Open | ProposalStatus::HandsOff) => {
                decisions.were_there.insert(key);
            }
            // Merged and taken back: the document is there again, and the object is not.
            (ProposalKind::Missing, ProposalStatus::Accepted) => {
                decisions.were_there.insert(key);
            }
            (ProposalKind::Missing, ProposalStatus::Closed) => {}
            (ProposalKind::Drift, status) => {
                if status != ProposalStatus::Closed {
                    decisions.were_there.insert(key.clone());
                }
                if status == ProposalStatus::Accepted {
                    decisions.accepted.insert(key.clone());
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

/// Approvals by the id of `plan`, or of one of its steps alone, with the keys that they cover in it.
pub(super) fn with_coverage(approvals: &[Approval], plan: &Plan) -> Vec<Approval> {
    let steps = || plan.steps.iter().chain(plan.blocked.iter().filter_map(|blocked| blocked.step.as_ref()));
    let by_id = approvals.iter().filter(|approval| approval.keys.is_empty());
    let covering = by_id.map(|approval| {
        let is_of_kind = |step: &&Step| match approval.kind {
            ApprovalKind::Deletes => step.loses(),
            ApprovalKind::Create => step.action == Action::Create,
        };
        let is_named = |step: &&Step| approval.plan == plan.id || approval.plan == id_of_step(step);
        let covered = steps().filter(is_of_kind).filter(is_named);
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

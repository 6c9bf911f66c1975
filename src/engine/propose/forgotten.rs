//! Proposals that are out and that the state does not know, since it was lost: what they say of themselves is believed
//! when they say that they are Plumb's.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::forge::{ForgeError, ProposalRef};
use crate::model::{EventKind, ObjectHex, Observation, Proposal, ProposalStatus, ResourceKey};
use crate::source::{CommitInfo, Mirror, SourceError};

use super::super::desired::Owner;
use super::super::reconcile::Source;
use super::super::timeline::Timeline;
use super::super::{beside, decide, mirrors};
use super::{About, Offers, Topic, branch_of};

/// What the branches of a tenant tell that the state does not know.
#[derive(Default)]
pub(in super::super) struct Forgotten {
    /// The forgotten proposals, by what they are about.
    pub proposals: BTreeMap<ResourceKey, Out>,
    /// What other branches speak of: those that somebody has committed to, and those of a former path.
    spoken_of: BTreeSet<ResourceKey>,
}

/// A forgotten proposal, as its branch shows it.
pub(in super::super) struct Out {
    pub tip: ObjectHex,
    /// When its commit was made.
    pub at: DateTime<Utc>,
    /// What it was made on.
    pub base: Option<ObjectHex>,
    /// It is in the head, and asks nobody anything.
    pub merged: bool,
}

impl Forgotten {
    /// The keys whose objects were there: a branch says so, whoever committed to it and whether or not it is merged (R8).
    pub(in super::super) fn were_there(&self) -> impl Iterator<Item = ResourceKey> + '_ {
        self.proposals.keys().chain(&self.spoken_of).cloned()
    }
}

/// Looks at the branches that `source` showed, and that `known` does not hold, for proposals of this tenant's.
pub(in super::super) fn forgotten(
    owner: Owner<'_>,
    source: &Source,
    known: &BTreeMap<ResourceKey, Proposal>,
) -> Forgotten {
    let Source { mirror, refs, head } = source;
    let mut forgotten = Forgotten::default();
    let branches = refs.drift.iter().filter(|(branch, _)| known.values().all(|proposal| proposal.branch != **branch));
    for (branch, tip) in branches {
        let is_own = |About { key, platform, .. }: &About| {
            *platform == owner.platform.id && key.tenant == owner.name && !known.contains_key(key)
        };
        let is_merged = || beside(|| mirror.contains(tip, head)).unwrap_or(false);
        match said(mirror, tip) {
            Some(Said { about, at, base }) if is_own(&about) && branch_of(owner, &about.key) == *branch => {
                forgotten.proposals.insert(about.key, Out { tip: tip.clone(), at, base, merged: is_merged() });
            }
            Some(Said { about, .. }) => forgotten.spoken_of.extend(is_own(&about).then_some(about.key)),
            None => {
                let commits = match is_merged() {
                    true => beside(|| first_parents(mirror, tip)),
                    false => beside(|| mirror.commits_between(Some(head), tip)),
                };
                let about = commits.unwrap_or_default().iter().filter_map(About::of).find(is_own);
                forgotten.spoken_of.extend(about.map(|about| about.key));
            }
        }
    }
    forgotten
}

/// The newest commits of a branch by itself: a person puts few on a proposal.
fn first_parents(mirror: &Mirror, tip: &ObjectHex) -> Result<Vec<CommitInfo>, SourceError> {
    const FEW: usize = 20;
    let (mut commits, mut next) = (Vec::new(), Some(tip.clone()));
    while let Some(commit) = next.filter(|_| commits.len() < FEW) {
        let read = mirror.commits_between(None, &commit)?;
        next = read.first().and_then(|commit| commit.parent.clone());
        commits.extend(read);
    }
    Ok(commits)
}

/// What a commit of Plumb's says of itself.
struct Said {
    about: About,
    at: DateTime<Utc>,
    base: Option<ObjectHex>,
}

/// What the commit `tip` says, when it is one that a Plumb made and nobody changed since.
fn said(mirror: &Mirror, tip: &ObjectHex) -> Option<Said> {
    let commit = beside(|| mirror.commits_between(None, tip)).ok()?.into_iter().next()?;
    // Whoever amends the commit keeps its trailers and becomes its committer.
    if commit.committer != mirrors::author() {
        return None;
    }
    Some(Said { about: About::of(&commit)?, at: commit.time, base: commit.parent.clone() })
}

/// Why a branch with this tip is not taken for a proposal about `key`; `None` where it may be.
pub(super) fn not_ours(topic: &Topic<'_>, tip: &ObjectHex, key: &ResourceKey, branch: &str) -> Option<String> {
    if beside(|| topic.mirror.contains(tip, topic.head)).unwrap_or(false) {
        return None;
    }
    match said(topic.mirror, tip) {
        Some(Said { about, .. }) if about.platform == topic.owner.platform.id && about.key == *key => None,
        Some(Said { about, .. }) if about.platform != topic.owner.platform.id => Some(format!(
            "the branch {branch} is a proposal of the platform {}; decide it there, or give the tenants of the two \
             platforms repositories of their own",
            about.platform
        )),
        Some(Said { about, .. }) => Some(format!(
            "the branch {branch} is a proposal about {}; decide that first, or give the two tenants different paths in \
             the repository",
            about.key
        )),
        None => Some(format!("the branch {branch} is there and holds somebody's commits; delete it to get a proposal")),
    }
}

/// The forgotten proposals that have nothing left to ask, and why. What they asked is not known any more, so nothing at
/// all may be open about their resource, and all of it must have been seen (R5).
pub(super) fn settled<'a>(topic: &'a Topic<'_>, offers: &Offers) -> Vec<(&'a ResourceKey, &'a ObjectHex, String)> {
    let mut settled = Vec::new();
    for (key, Out { tip, base, .. }) in &topic.forgotten.proposals {
        if offers.drafts.iter().any(|offer| offer.proposal.key == *key) || offers.troubles.contains_key(key) {
            continue;
        }
        // What does not come after the question, or is empty, removes nothing.
        let follows = |base: &ObjectHex| topic.mirror.contains(base, topic.head).unwrap_or(false);
        let removes = !topic.keeps_all && base.as_ref().is_some_and(follows);
        let Some(seen) = topic.seen(key) else {
            if removes && topic.is_gone_from_git(key) {
                settled.push((key, tip, "git removed the document".to_owned()));
            }
            continue;
        };
        let why = match (seen, topic.desired.resources.get(key)) {
            (Observation::Unknown(_), _) => continue,
            (_, None) if removes && decide::is_removed(key, topic.owner.tenant, topic.desired) => {
                "git removed the document"
            }
            (_, None) => continue,
            (Observation::Absent { .. }, Some(_)) => continue,
            (Observation::Present(_), Some(resource)) => {
                // While there is a difference, another process of this platform may wait for the answer: it would take the
                // branch's going for one.
                let differs = topic.drifts_of(key).next().is_some();
                if differs
                    || topic.is_suspended(resource)
                    || topic.waits(key)
                    || topic.holds_unseen(resource)
                    || topic.was_not_compared(key)
                {
                    continue;
                }
                "there is no difference any more"
            }
        };
        settled.push((key, tip, why.to_owned()));
    }
    settled
}

/// Takes back a proposal that is settled. Nobody takes the absence of its branch for an answer, since nobody knows it.
pub(super) async fn withdraw(
    topic: &Topic<'_>,
    key: &ResourceKey,
    tip: &ObjectHex,
    why: String,
    timeline: &mut Timeline<'_>,
) {
    let branch = topic.branch_of(key);
    let reference = ProposalRef { branch: branch.clone(), commit: tip.clone() };
    match topic.forge.withdraw(&reference).await {
        Ok(()) => {
            timeline.note_of(key, EventKind::ProposalDecided { branch, status: ProposalStatus::Closed, message: why });
        }
        Err(ForgeError::Stale { .. }) => {}
        Err(error) => tracing::warn!(%key, branch, %error, "a forgotten proposal's branch could not be deleted"),
    }
}

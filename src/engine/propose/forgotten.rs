//! Proposals that are out and that the state does not know, since it was lost: what they say of themselves is believed
//! when they say that they are Plumb's.

use std::collections::BTreeMap;

use crate::forge::{ForgeError, ProposalRef};
use crate::model::{EventKind, ObjectHex, Observation, PlatformId, Proposal, ProposalStatus, ResourceKey};
use crate::source::Mirror;

use super::super::desired::Owner;
use super::super::reconcile::Source;
use super::super::timeline::Timeline;
use super::super::{beside, decide, mirrors};
use super::{KEY_TRAILER, Offers, PLATFORM_TRAILER, Topic, asks_a_person, branch_of};

/// The tips of the forgotten proposals of a tenant, by what they are about.
pub(in super::super) type Forgotten = BTreeMap<ResourceKey, ObjectHex>;

/// The branches that `source` showed which are proposals of this tenant's, and that `known` does not hold.
pub(in super::super) fn forgotten(
    owner: Owner<'_>,
    source: &Source,
    known: &BTreeMap<ResourceKey, Proposal>,
) -> Forgotten {
    let branches = source.refs.drift.iter();
    branches
        .filter(|(branch, _)| known.values().all(|proposal| proposal.branch != **branch))
        .filter_map(|(branch, tip)| {
            let key = own_key(&source.mirror, tip, &owner.platform.id)?;
            let is_here = key.tenant == owner.name && branch_of(owner, &key) == *branch;
            (is_here && !known.contains_key(&key)).then(|| (key, tip.clone()))
        })
        .collect()
}

/// What the commit `tip` is about, when it is one that Plumb made for this platform and nobody changed since.
pub(super) fn own_key(mirror: &Mirror, tip: &ObjectHex, platform: &PlatformId) -> Option<ResourceKey> {
    let read = beside(|| mirror.commits_between(None, tip));
    let commit = read.ok()?.into_iter().next()?;
    let trailer = |wanted: &str| {
        let mut named = commit.trailers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        named.next().map(|(_, value)| value.as_str())
    };
    // Whoever amends the commit keeps its trailers and becomes its committer.
    let is_own = commit.committer == mirrors::author() && trailer(PLATFORM_TRAILER) == Some(platform.0.as_str());
    is_own.then(|| trailer(KEY_TRAILER)?.parse().ok()).flatten()
}

/// The forgotten proposals that have nothing left to ask, and why. What they asked is not known any more, so nothing at
/// all may be open about their resource, and all of it must have been seen (R5).
pub(super) fn settled<'a>(topic: &'a Topic<'_>, offers: &Offers) -> Vec<(&'a ResourceKey, &'a ObjectHex, String)> {
    let mut settled = Vec::new();
    for (key, tip) in topic.forgotten {
        if offers.drafts.iter().any(|offer| offer.proposal.key == *key) || offers.troubles.contains_key(key) {
            continue;
        }
        let Some(seen) = topic.seen(key) else { continue };
        let why = match (seen, topic.desired.resources.get(key)) {
            (Observation::Unknown(_), _) => continue,
            (_, None) if decide::is_removed(key, topic.owner.tenant, topic.desired) => "git removed the document",
            (_, None) => continue,
            (Observation::Absent { .. }, Some(_)) => continue,
            (Observation::Present(_), Some(resource)) => {
                if resource.annotations.suspend || topic.waits(key) || topic.holds_unseen(resource) {
                    continue;
                }
                match topic.drifts_of(key).next() {
                    None => "there is no difference any more",
                    Some(drift) if asks_a_person(drift) => continue,
                    Some(_) => "nobody is asked about drift of the resource now",
                }
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

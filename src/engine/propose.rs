//! Drift becomes a conversation: a branch with one commit that edits the document to what is live, or removes the
//! document of what is gone.
//!
//! In two stages, with the pass written down in between: [`Engine::offers`] works out what is to be said, so that the
//! record can tell which differences nobody is asked about and why; [`Engine::propose`] says it.

mod about;
mod edit;
mod forgotten;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use crate::forge::{Draft, FileEdit, Forge, ForgeError, ProposalRef};
use crate::model::{
    Blocked, ConditionType, DesiredState, Drift, DriftMode, EventKind, FieldPath, Inventory, Lease, LeftOut, ObjectHex,
    Observation, Observations, Plan, Proposal, ProposalKind, ProposalStatus, ProposedField, Reason, Resource,
    ResourceKey, ResourceStatus, Settle,
};
use crate::source::{Mirror, Refs};
use crate::store::Scope;

use super::apply::Applied;
use super::desired::{Owner, Workspace};
use super::lease::{Going, Held};
use super::timeline::Timeline;
use super::{Engine, EngineError, beside, decide};
pub(super) use about::About;
use edit::{Edited, edit, proposed};
pub(super) use forgotten::{Forgotten, forgotten};
pub(super) use words::{offered, sentence};

/// More proposals than these are not open in one repository at once, so that nobody drowns in them.
const MOST_OPEN: usize = 10;

/// So many pushes that are refused in one pass are taken for a remote that takes none.
const MOST_REFUSED: usize = 5;

/// What the conversations of one pass are about.
pub(super) struct Topic<'a> {
    /// The right to speak for the tenant. Once it is lost, nothing more is said.
    pub held: &'a Held,
    pub owner: Owner<'a>,
    pub mirror: &'a Mirror,
    pub forge: &'a dyn Forge,
    pub url: &'a str,
    pub refs: &'a Refs,
    pub head: &'a ObjectHex,
    pub desired: &'a DesiredState,
    pub plan: &'a Plan,
    pub applied: &'a Applied,
    /// What was seen before the apply.
    pub before: &'a Observations,
    /// What was read back of the objects that steps touched.
    pub after: &'a Observations,
    /// What was said of each resource before.
    pub statuses: &'a BTreeMap<ResourceKey, ResourceStatus>,
    /// Proposals that are out and not known.
    pub forgotten: &'a Forgotten,
    /// What was known when the pass began.
    pub prior: &'a Inventory,
    /// That a document is not there says nothing: another source or history is read, or an empty tree (R9).
    pub keeps_all: bool,
}

impl Topic<'_> {
    /// What is known to be open about `key` after the pass: what was made again in it is not.
    fn drifts_of<'b>(&'b self, key: &'b ResourceKey) -> impl Iterator<Item = &'b Drift> {
        self.plan.drift.iter().filter(move |drift| drift.key == *key && self.is_still_there(drift))
    }

    /// Whether nothing is done to it for now, by its annotation or by its tenant.
    fn is_suspended(&self, resource: &Resource) -> bool {
        resource.annotations.suspend || self.owner.tenant.suspend.covers(&resource.key.environment)
    }

    fn is_still_there(&self, drift: &Drift) -> bool {
        !(drift.missing && self.applied.done.contains(&drift.key))
    }

    fn seen(&self, key: &ResourceKey) -> Option<&Observation> {
        self.after.objects.get(key).or_else(|| self.before.objects.get(key))
    }

    /// What was said to be left alone of what `proposal` knows, and still is, or cannot be seen.
    fn still_silenced(&self, proposal: &Proposal) -> Vec<ProposedField> {
        let own = match proposal.status {
            ProposalStatus::Ignored => &proposal.fields[..],
            _ => &[],
        };
        if self.drifts_of(&proposal.key).any(|drift| drift.missing) {
            // Nothing of it can be seen: it may come back as it was.
            return own.iter().chain(&proposal.silenced).cloned().collect();
        }
        let Some(held) = self.plan.held.get(&proposal.key) else { return Vec::new() };
        let asked: Vec<&Drift> = self.drifts_of(&proposal.key).filter(|drift| !drift.silenced).collect();
        let is_silent =
            |field: &&ProposedField| held.contains(&field.path) && !asked.iter().any(|drift| is_about(drift, field));
        own.iter().chain(&proposal.silenced).filter(is_silent).cloned().collect()
    }

    /// What a step of `key` changes that is still to be done.
    fn to_be_changed(&self, key: &ResourceKey) -> Vec<&FieldPath> {
        let blocked = self.plan.blocked.iter().filter_map(|blocked| blocked.step.as_ref());
        let undone = self.plan.steps.iter().filter(|step| !self.applied.done.contains(&step.key));
        let waiting = undone.chain(blocked).filter(|step| step.key == *key);
        waiting.flat_map(|step| step.changes.iter().map(|change| &change.path)).collect()
    }

    /// What git has set since `known` asked about it, and is not applied yet. Only the question tells that git decided it:
    /// without that it would be taken for a field that git and live have changed at once.
    fn set_since(&self, known: &Proposal, drift: &Drift) -> Vec<ProposedField> {
        let waiting = self.to_be_changed(&known.key);
        let is_set = |field: &&ProposedField| waiting.contains(&&field.path) && !is_about(drift, field);
        known.fields.iter().filter(is_set).cloned().collect()
    }

    /// What of an answer is still to be carried out: a step that waits changes it, or it cannot be seen now.
    fn outstanding(&self, resource: &Resource, decided: &Proposal) -> Vec<ProposedField> {
        let waiting = self.to_be_changed(&decided.key);
        // While a change is undone nothing is asked about its resources, nor is what was accepted of them carried out.
        let waits_for_undoing = |path: &FieldPath| {
            let mut drifted = self.drifts_of(&decided.key).flat_map(|drift| &drift.fields);
            self.plan.rolls_back(&decided.key) && drifted.any(|field| field.path == *path)
        };
        let is_outstanding = |field: &&ProposedField| {
            waiting.contains(&&field.path)
                || self.could_not_see(resource, &field.path)
                || waits_for_undoing(&field.path)
        };
        decided.fields.iter().filter(is_outstanding).cloned().collect()
    }

    /// Whether the object can only be made again, which waits for all that is asked of it: an answer that waits for that
    /// must not keep the rest from being asked.
    fn waits_to_be_made_again(&self, key: &ResourceKey) -> bool {
        let replaces = |reason| matches!(reason, Reason::ConflictHeld | Reason::ReplaceProtected);
        self.plan.blocked.iter().any(|blocked| blocked.key == *key && replaces(blocked.reason))
    }

    /// Whether this pass lets go of what is known of `key`.
    fn lets_go_of(&self, key: &ResourceKey) -> bool {
        let forgets = |settle: &Settle| matches!(settle, Settle::Forget { key: forgotten, .. } if forgotten == key);
        self.applied.done.contains(key) || self.plan.settles.iter().any(forgets)
    }

    /// Whether nothing about `key` was compared: its object is not Plumb's, or stands elsewhere.
    fn was_not_compared(&self, key: &ResourceKey) -> bool {
        // Fields of it that could not be seen are held, and so were compared.
        if self.plan.held.contains_key(key) {
            return false;
        }
        let stopped =
            |blocked: &Blocked| blocked.key == *key && blocked.step.is_none() && blocked.reason != Reason::RolledBack;
        self.plan.blocked.iter().any(stopped) || self.plan.unknown.iter().any(|(unknown, _)| unknown == key)
    }

    /// Whether git does not want `key` any more, and nothing of it is known: nobody looks at it again.
    fn is_gone_from_git(&self, key: &ResourceKey) -> bool {
        self.prior.get(key).is_none() && decide::is_removed(key, self.owner.tenant, self.desired)
    }

    /// Whether something is still to be done to `key`.
    fn waits(&self, key: &ResourceKey) -> bool {
        self.plan.steps.iter().any(|step| step.key == *key && !self.applied.done.contains(key))
            || self.plan.blocked.iter().any(|blocked| blocked.key == *key && blocked.step.is_some())
    }

    /// Whether a field that `proposal` is about could not be seen.
    fn is_unseen(&self, resource: &Resource, proposal: &Proposal) -> bool {
        proposal.fields.iter().any(|field| self.could_not_see(resource, &field.path))
    }

    /// Whether any field of `resource` could not be seen.
    fn holds_unseen(&self, resource: &Resource) -> bool {
        let held = self.plan.held.get(&resource.key);
        held.into_iter().flatten().any(|path| self.could_not_see(resource, path))
    }

    /// What is held, and neither ignored nor known to differ, could not be seen.
    fn could_not_see(&self, resource: &Resource, path: &FieldPath) -> bool {
        let key = &resource.key;
        self.plan.held.get(key).is_some_and(|held| held.contains(path))
            && !resource.annotations.ignores(path)
            && !self.drifts_of(key).any(|drift| drift.fields.iter().any(|drifted| drifted.path == *path))
    }

    fn branch_of(&self, key: &ResourceKey) -> String {
        branch_of(self.owner, key)
    }
}

fn branch_of(owner: Owner<'_>, key: &ResourceKey) -> String {
    key.drift_branch(owner.tenant.repository.path != ".")
}

/// Whether a proposal is to be pushed again, since what became of its branch was no answer (R14).
fn is_asked_again(proposal: &Proposal) -> bool {
    proposal.status == ProposalStatus::Pending && !proposal.failed
}

fn is_about(drift: &Drift, proposed: &ProposedField) -> bool {
    drift.fields.iter().any(|field| field.path == proposed.path)
}

/// Why nobody is asked about a difference, or about a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub reason: Reason,
    pub message: String,
    /// Nothing of it is offered.
    pub of_all: bool,
}

impl Trouble {
    fn of_all(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), of_all: true }
    }

    fn failed(message: impl Into<String>) -> Self {
        Self::of_all(Reason::ProposalFailed, message)
    }
}

/// Troubles by resource.
pub(super) type Troubles = BTreeMap<ResourceKey, Trouble>;

/// The answers to the drifts of one pass.
#[derive(Default)]
pub(super) struct Offers {
    drafts: Vec<Offer>,
    /// Keys whose proposal is out as it should be.
    standing: BTreeSet<ResourceKey>,
    /// Those of them that nobody compared with what is live.
    left_alone: BTreeSet<ResourceKey>,
    /// Where there is no answer, or not to all. One that failed before is in trouble until it is out.
    pub troubles: Troubles,
}

/// A proposal that is to be made, or brought up to date.
struct Offer {
    draft: Draft,
    /// As it is once the draft is out.
    proposal: Proposal,
    /// As it is known until then.
    known: Option<Proposal>,
    /// What is not offered of the drift.
    rest: Option<Trouble>,
    /// What the one that is out and not known was made on.
    former_base: Option<ObjectHex>,
}

impl Engine {
    /// Works out the proposals that the plan asks for, without showing them to anybody.
    pub(super) fn offers(
        &self,
        topic: &Topic<'_>,
        proposals: &BTreeMap<ResourceKey, Proposal>,
        workspace: &mut Workspace,
    ) -> Offers {
        let failed_before = |key: &ResourceKey| proposals.get(key).is_some_and(|known| known.failed);
        let mut drifts: Vec<&Drift> =
            topic.plan.drift.iter().filter(|drift| asks_a_person(drift) && topic.is_still_there(drift)).collect();
        // Those that failed before come last, so that they keep nobody else waiting.
        drifts.sort_by_key(|drift| failed_before(&drift.key));
        let (out, to_come): (Vec<&Drift>, Vec<&Drift>) =
            drifts.into_iter().partition(|drift| topic.refs.drift.contains_key(&topic.branch_of(&drift.key)));
        let mut offers = Offers::default();
        for drift in out {
            self.answer(topic, drift, proposals.get(&drift.key), workspace, &mut offers);
        }
        let will_go = proposals.values().filter(|proposal| {
            let tip = topic.refs.drift.get(&proposal.branch);
            tip.is_some_and(|tip| proposal.made(tip)) && settled(topic, &offers, proposal).is_some()
        });
        // A branch that is merged asks nobody anything, whoever left it there.
        let is_open = |tip: &&ObjectHex| !topic.mirror.contains(tip, topic.head).unwrap_or(false);
        let forgotten = forgotten::settled(topic, &offers).into_iter().map(|(_, tip, _)| tip);
        let gone: BTreeSet<&ObjectHex> =
            will_go.filter_map(|proposal| topic.refs.drift.get(&proposal.branch)).chain(forgotten).collect();
        let staying = match to_come.is_empty() {
            true => 0,
            false => topic.refs.drift.values().filter(|tip| !gone.contains(tip)).filter(is_open).count(),
        };
        let already = offers.drafts.len();
        for drift in to_come {
            if staying + offers.drafts.len() - already >= MOST_OPEN {
                let message =
                    format!("{MOST_OPEN} proposals are open in this repository; this one waits for one of them");
                offers.troubles.insert(drift.key.clone(), Trouble::of_all(Reason::ProposalLimit, message));
            } else {
                self.answer(topic, drift, proposals.get(&drift.key), workspace, &mut offers);
            }
        }
        offers.drafts.sort_by_key(|offer| failed_before(&offer.proposal.key));
        offers
    }

    /// Works out the answer to one drift: a draft, the proposal that is out already, or why there is none.
    fn answer(
        &self,
        topic: &Topic<'_>,
        drift: &Drift,
        known: Option<&Proposal>,
        workspace: &mut Workspace,
        offers: &mut Offers,
    ) {
        let key = &drift.key;
        let Some(resource) = topic.desired.resources.get(key) else { return };
        // That the object is gone is worse news than whatever was decided about it.
        let is_to_be_carried_out = |decided: &Proposal| {
            let was_answered = matches!(decided.status, ProposalStatus::Accepted | ProposalStatus::Restored);
            was_answered
                && !drift.missing
                && !topic.waits_to_be_made_again(key)
                && !topic.outstanding(resource, decided).is_empty()
        };
        if known.is_some_and(is_to_be_carried_out) {
            // One proposal a resource: another would take the place of the answer.
            let message = "not proposed yet: what was decided on other fields comes first".to_owned();
            offers.troubles.insert(key.clone(), Trouble { reason: Reason::Pending, message, of_all: false });
            return;
        }
        if !drift.missing && topic.plan.rolls_back(key) {
            // Git does not say what is wanted now, so what a person would answer to is not what git says.
            match known {
                Some(known) if known.status.is_undecided() => drop(offers.standing.insert(key.clone())),
                Some(_) | None => {
                    let message = "not proposed while its last change is undone".to_owned();
                    let trouble = Trouble { reason: Reason::Pending, message, of_all: false };
                    offers.troubles.insert(key.clone(), trouble);
                }
            }
            return;
        }
        let branch = topic.branch_of(key);
        let is_out_elsewhere = |known: &Proposal| {
            let is_out = topic.refs.drift.get(&known.branch).is_some_and(|tip| known.made(tip));
            known.branch != branch && (known.status.is_undecided() || is_out)
        };
        if known.is_some_and(is_out_elsewhere) {
            // The tenant's path changed its name. The one that is out ends first: a branch that was never pushed must not
            // read as one that somebody deleted (R14).
            let message =
                "not proposed on a branch of this name before the one of its former name has ended".to_owned();
            offers.troubles.insert(key.clone(), Trouble { reason: Reason::Pending, message, of_all: false });
            return;
        }
        let silenced = known.map(|known| topic.still_silenced(known)).unwrap_or_default();
        let known = known.filter(|proposal| proposal.status.is_undecided());
        // Neither is a person's branch touched, nor one about what cannot be seen now (R5).
        let is_left_alone =
            |known: &Proposal| known.status == ProposalStatus::HandsOff || topic.is_unseen(resource, known);
        if known.is_some_and(is_left_alone) {
            offers.standing.insert(key.clone());
            offers.left_alone.insert(key.clone());
            return;
        }
        let kind = if drift.missing { ProposalKind::Missing } else { ProposalKind::Drift };
        let set_since = match kind {
            ProposalKind::Missing => Vec::new(),
            ProposalKind::Drift => known.map(|known| topic.set_since(known, drift)).unwrap_or_default(),
        };
        let with_what_is_set = |mut fields: Vec<ProposedField>| {
            fields.extend(set_since.iter().cloned());
            fields.sort_by(|a, b| a.path.cmp(&b.path));
            fields
        };
        let tip = topic.refs.drift.get(&branch);
        let stands_for = |known: &Proposal, fields: &[ProposedField]| {
            known.kind == kind
                && known.fields == fields
                && known.blob == resource.origin.blob
                && known.file == resource.origin.file
                && known.url == topic.url
                && (known.base == *topic.head || topic.mirror.contains(&known.base, topic.head).unwrap_or(true))
                && tip.is_some()
                && tip == known.pushed.as_ref()
        };
        // What was left out of a proposal is tried again each time: other documents and policies change too.
        let drifted = with_what_is_set(drift.fields.iter().map(proposed).collect());
        if known.is_some_and(|known| known.left_out.is_empty() && stands_for(known, &drifted)) {
            offers.standing.insert(key.clone());
            return;
        }
        let commit = topic.desired.commit.as_ref();
        let edited = match workspace.unsayable(topic.owner, commit, drift) {
            Some(trouble) => Err(trouble),
            None => beside(|| edit(&self.validator, topic, drift, resource, workspace)),
        };
        let Edited { path, content, diff, fields, mut left_out } = match edited {
            Ok(edited) => edited,
            Err(trouble) => {
                if trouble.reason == Reason::NotExpressible {
                    workspace.cannot_say(topic.owner, commit, drift, &trouble);
                }
                offers.troubles.insert(key.clone(), trouble);
                return;
            }
        };
        let fields = with_what_is_set(fields);
        // What was left out before and cannot be seen now is still so, as far as anybody knows.
        let unseen = |left: &&LeftOut| topic.could_not_see(resource, &left.field.path);
        left_out.extend(known.into_iter().flat_map(|known| &known.left_out).filter(unseen).cloned());
        left_out.sort_by(|a, b| a.field.path.cmp(&b.field.path));
        let rest = (!left_out.is_empty()).then(|| Trouble {
            reason: Reason::NotExpressible,
            message: format!("not proposed: {}", words::not_offered(&left_out)),
            of_all: false,
        });
        if known.is_some_and(|known| known.left_out == left_out && stands_for(known, &fields)) {
            offers.standing.insert(key.clone());
            offers.troubles.extend(rest.map(|rest| (key.clone(), rest)));
            return;
        }
        // A tip that is not known from the state must say of itself that it is Plumb's, or be merged: then it asks nobody.
        if let Some(tip) = tip
            && !known.is_some_and(|known| known.made(tip))
            && let Some(message) = forgotten::not_ours(topic, tip, key, &branch)
        {
            offers.troubles.insert(key.clone(), Trouble::failed(message));
            return;
        }
        let earlier = known.filter(|known| known.failed).map(|known| &known.message);
        offers.troubles.extend(earlier.map(|message| (key.clone(), Trouble::failed(message))));
        // As old as what is out says: the same offer is the same commit, and nothing is pushed. What is merged already must
        // not be offered again, since it would read as merged.
        let forgotten = topic.forgotten.proposals.get(key).filter(|forgotten| !forgotten.merged);
        let opened_at = known
            .map(|known| known.opened_at)
            .or(forgotten.map(|forgotten| forgotten.at))
            .unwrap_or_else(|| self.clock.now());
        offers.drafts.push(Offer {
            draft: Draft {
                branch: branch.clone(),
                base: topic.head.clone(),
                message: words::commit_message(
                    drift,
                    &left_out,
                    &About { key: key.clone(), platform: topic.owner.platform.id.clone(), kind },
                    &branch,
                ),
                edits: vec![FileEdit { path, content: content.map(String::into_bytes) }],
                at: opened_at,
                expected: tip.cloned(),
            },
            proposal: Proposal {
                key: key.clone(),
                kind,
                branch,
                url: topic.url.to_owned(),
                base: topic.head.clone(),
                pushed: known.filter(|known| known.url == topic.url).and_then(|known| known.pushed.clone()),
                pushing: None,
                blob: resource.origin.blob.clone(),
                file: resource.origin.file.clone(),
                fields,
                left_out,
                silenced,
                status: ProposalStatus::Pending,
                elsewhere: false,
                vanished_at: known.and_then(|known| known.vanished_at),
                failed: false,
                // What was taken for no answer is told for as long as the question is the same.
                message: known
                    .filter(|known| is_asked_again(known))
                    .map_or_else(String::new, |known| known.message.clone()),
                diff,
                opened_at,
                updated_at: self.clock.now(),
            },
            known: known.cloned(),
            rest,
            former_base: forgotten
                .and_then(|forgotten| forgotten.base.clone())
                .filter(|base| topic.mirror.contains(base, topic.head).unwrap_or(false)),
        });
    }

    /// Ends the proposals that have nothing left to ask, and shows what was drafted. Gives what nobody is asked about.
    ///
    /// # Errors
    /// When the store does not take what must be remembered.
    pub(super) async fn propose(
        &self,
        topic: &Topic<'_>,
        proposals: &BTreeMap<ResourceKey, Proposal>,
        offers: Offers,
        timeline: &mut Timeline<'_>,
    ) -> Result<Troubles, EngineError> {
        for proposal in proposals.values() {
            if let Some(why) = settled(topic, &offers, proposal)
                && topic.held.going() != Going::Lost
            {
                self.conclude(topic, proposal, why, timeline).await?;
            }
        }
        for (key, tip, why) in forgotten::settled(topic, &offers) {
            if topic.held.going() != Going::Lost {
                forgotten::withdraw(topic, key, tip, why, timeline).await;
            }
        }
        let Offers { drafts, standing, left_alone, mut troubles } = offers;
        for known in standing.difference(&left_alone).filter_map(|key| proposals.get(key)) {
            // An update of it failed, and what it says is right again.
            if known.status == ProposalStatus::Open && known.failed {
                let right = Proposal { failed: false, message: String::new(), ..known.clone() };
                self.remember_proposal(topic.held.lease(), &right).await?;
            }
        }
        let mut refused = 0;
        let mut drafts = drafts.into_iter();
        while topic.held.going() != Going::Lost
            && let Some(offer) = drafts.next()
        {
            let (key, rest) = (offer.proposal.key.clone(), offer.rest.clone());
            let Err(error) = self.publish(topic, offer, timeline).await? else {
                match rest {
                    Some(rest) => troubles.insert(key, rest),
                    None => troubles.remove(&key),
                };
                continue;
            };
            troubles.insert(key, Trouble::failed(error.to_string()));
            // A branch may be refused for its name; when many are, the rest waits for the next pass, as it does where
            // nobody answers.
            refused += usize::from(matches!(error, ForgeError::Refused { .. }));
            if refused >= MOST_REFUSED || matches!(error, ForgeError::Unreachable { .. }) {
                break;
            }
        }
        for offer in drafts {
            let message = match topic.held.going() {
                Going::Lost => "this look ended early; this one is tried at the next",
                Going::On | Going::Superseded | Going::Stopping | Going::Yielding => {
                    "the remote takes no proposals now; this one is tried at the next look"
                }
            };
            troubles.entry(offer.proposal.key).or_insert_with(|| Trouble::failed(message));
        }
        tell(topic, &troubles, timeline);
        Ok(troubles)
    }

    /// Ends a proposal, and takes its branch away.
    async fn conclude(
        &self,
        topic: &Topic<'_>,
        proposal: &Proposal,
        why: String,
        timeline: &mut Timeline<'_>,
    ) -> Result<(), EngineError> {
        let key = &proposal.key;
        let mut ended = proposal.clone();
        if proposal.status != ProposalStatus::Closed {
            // Remembered before the branch goes: nobody must take its absence for a person's answer, neither after a
            // death in between nor where another replica has the tenant by then. An answer is over too, whether or not
            // the branch can be deleted: it says nothing about what differs next.
            (ended.status, ended.failed, ended.message) = (ProposalStatus::Closed, false, String::new());
            self.remember_proposal(topic.held.lease(), &ended).await?;
        }
        if proposal.status.is_undecided() {
            let (branch, status) = (proposal.branch.clone(), ended.status);
            timeline.note_of(key, EventKind::ProposalDecided { branch, status, message: why });
        }
        // The branch goes if it still is what Plumb left; a person's commits stay theirs.
        if let Some(tip) = topic.refs.drift.get(&proposal.branch)
            && proposal.made(tip)
        {
            let reference = ProposalRef { branch: proposal.branch.clone(), commit: tip.clone() };
            match topic.forge.withdraw(&reference).await {
                Ok(()) | Err(ForgeError::Stale { .. }) => {}
                Err(error) => {
                    let message = format!("its branch could not be deleted: {error}");
                    if ended.message != message {
                        ended.message.clone_from(&message);
                        self.remember_proposal(topic.held.lease(), &ended).await?;
                        timeline.note_of(key, EventKind::Warning { reason: Reason::ProposalFailed, message });
                    }
                    return Ok(());
                }
            }
        }
        // What was said before of other fields outlives it.
        let silenced = topic.still_silenced(proposal);
        if !silenced.is_empty() {
            let rest = Proposal {
                kind: ProposalKind::Drift,
                fields: silenced,
                silenced: Vec::new(),
                left_out: Vec::new(),
                status: ProposalStatus::Ignored,
                failed: false,
                message: String::new(),
                ..ended
            };
            return self.remember_proposal(topic.held.lease(), &rest).await;
        }
        let mut tx = self.store.begin(Scope::Leased(topic.held.lease().clone())).await?;
        tx.remove_proposal(key).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Shows an offer. What the forge says against it is remembered with it, and given back.
    async fn publish(
        &self,
        topic: &Topic<'_>,
        offer: Offer,
        timeline: &mut Timeline<'_>,
    ) -> Result<Result<(), ForgeError>, EngineError> {
        let Offer { mut draft, mut proposal, known, former_base, .. } = offer;
        if let Some(base) = former_base {
            // On what it was made on, the same offer is the same commit, however far the head went.
            let same = Draft { base: base.clone(), ..draft.clone() };
            if topic.forge.prepare(&same).await.is_ok_and(|same| draft.expected.as_ref() == Some(&same.commit)) {
                (draft, proposal.base) = (same, base);
            }
        }
        // An update that does not arrive leaves the one before it out, as it was.
        let is_out = |known: &Proposal| draft.expected.is_some() && draft.expected == known.pushed;
        let mut until_then = known.filter(is_out).unwrap_or_else(|| proposal.clone());
        let published = match topic.forge.prepare(&draft).await {
            Ok(reference) => {
                // Remembered before it is shown: a death in between finds its own commit on the branch.
                until_then.pushing = Some(reference.commit.clone());
                self.remember_proposal(topic.held.lease(), &until_then).await?;
                let is_there = draft.expected.as_ref() == Some(&reference.commit);
                let shown = match is_there {
                    true => Ok(()),
                    false => topic.forge.publish(&reference, draft.expected.as_ref()).await,
                };
                shown.map(|()| reference.commit)
            }
            Err(error) => Err(error),
        };
        match published {
            Ok(commit) => {
                let (branch, diff) = (draft.branch, proposal.diff.clone());
                let event = match draft.expected {
                    None => EventKind::ProposalOpened { branch, diff },
                    Some(_) => EventKind::ProposalUpdated { branch, diff },
                };
                timeline.note_of(&proposal.key, event);
                let open = Proposal { status: ProposalStatus::Open, pushed: Some(commit), ..proposal };
                self.remember_proposal(topic.held.lease(), &open).await?;
                Ok(Ok(()))
            }
            Err(error) => {
                (until_then.failed, until_then.message) = (true, error.to_string());
                self.remember_proposal(topic.held.lease(), &until_then).await?;
                Ok(Err(error))
            }
        }
    }

    async fn remember_proposal(&self, lease: &Lease, proposal: &Proposal) -> Result<(), EngineError> {
        let mut tx = self.store.begin(Scope::Leased(lease.clone())).await?;
        tx.put_proposal(proposal).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Answers as they stand once the pass is recorded: what of one was carried out has been said, and must not be taken for
/// an answer to a later question. One that is carried out whole is over.
pub(super) fn carried_out(topic: &Topic<'_>, proposals: &BTreeMap<ResourceKey, Proposal>) -> Vec<Proposal> {
    let answered = proposals.values().filter(|proposal| {
        let was_answered = matches!(proposal.status, ProposalStatus::Accepted | ProposalStatus::Restored);
        was_answered && proposal.kind == ProposalKind::Drift
    });
    let after = answered.filter_map(|proposal| {
        let key = &proposal.key;
        let resource = topic.desired.resources.get(key)?;
        let is_seen = topic.applied.done.contains(key)
            || (matches!(topic.seen(key), Some(Observation::Present(_))) && !topic.was_not_compared(key));
        let fields = topic.outstanding(resource, proposal);
        let status = if fields.is_empty() { ProposalStatus::Closed } else { proposal.status };
        let is_shorter = is_seen && (fields.len() < proposal.fields.len() || status != proposal.status);
        is_shorter.then(|| Proposal { fields, status, ..proposal.clone() })
    });
    after.collect()
}

fn asks_a_person(drift: &Drift) -> bool {
    drift.mode == DriftMode::Propose && !drift.silenced
}

/// Tells of each trouble once; what is told already stands in the conditions of its resource.
fn tell(topic: &Topic<'_>, troubles: &Troubles, timeline: &mut Timeline<'_>) {
    for (key, Trouble { reason, message, .. }) in troubles {
        let drifted = topic.statuses.get(key).and_then(|status| status.condition(ConditionType::Drifted));
        if drifted.is_some_and(|drifted| drifted.message.ends_with(message)) {
            continue;
        }
        let message = message.clone();
        let event = match reason {
            Reason::ProposalFailed => EventKind::ProposalFailed { branch: topic.branch_of(key), message },
            reason => EventKind::Warning { reason: *reason, message },
        };
        timeline.note_of(key, event);
    }
}

/// Why nothing of what a proposal asked is open any more; `None` where something is. What was not looked at, or could
/// not be seen, is (R5).
fn settled(topic: &Topic<'_>, offers: &Offers, proposal: &Proposal) -> Option<String> {
    let key = &proposal.key;
    let undecided = proposal.status.is_undecided();
    let absent = matches!(topic.seen(key), Some(Observation::Absent { .. }));
    if absent && topic.prior.get(key).is_none() && topic.desired.resources.contains_key(key) {
        // Nothing else remembers that there was data (R8).
        return None;
    }
    if offers.drafts.iter().any(|offer| offer.proposal.key == *key) || (undecided && offers.standing.contains(key)) {
        return None;
    }
    // A person's branch stays where it is. What nobody sees, or nothing else remembers, is asked on until that ends.
    let is_remembered =
        topic.prior.get(key).is_some() && !matches!(topic.seen(key), None | Some(Observation::Unknown(_)));
    if undecided
        && is_remembered
        && proposal.status != ProposalStatus::HandsOff
        && proposal.branch != topic.branch_of(key)
    {
        return Some("its branch is called otherwise now".to_owned());
    }
    if proposal.status == ProposalStatus::Closed {
        return Some("it is over".to_owned());
    }
    // Where git cannot be said to have removed it, the question outlives that, and so does what is to be left alone.
    let outlives = undecided || proposal.status == ProposalStatus::Ignored;
    let stands = outlives && (topic.keeps_all || proposal.elsewhere) && !topic.lets_go_of(key);
    let is_removed = || {
        let removed = !stands && decide::is_removed(key, topic.owner.tenant, topic.desired);
        removed.then(|| "git removed the document".to_owned())
    };
    let Some(seen) = topic.seen(key) else {
        return is_removed().filter(|_| topic.prior.get(key).is_none());
    };
    match (seen, topic.desired.resources.get(key)) {
        (Observation::Unknown(_), _) => None,
        // Its document let go of what was gone: remembered until that is done, since it may come back (R7).
        (_, None)
            if proposal.kind == ProposalKind::Missing && topic.prior.get(key).is_some() && !topic.lets_go_of(key) =>
        {
            None
        }
        (_, None) => is_removed(),
        (seen, Some(resource)) => match offers.troubles.get(key) {
            // What is out says what was live before.
            Some(trouble) if undecided && trouble.of_all && trouble.reason == Reason::NotExpressible => {
                Some(trouble.message.clone())
            }
            _ if matches!(seen, Observation::Absent { .. }) => {
                let observed = |drift: &Drift| drift.missing && drift.mode == DriftMode::Observe;
                let is_over = undecided && !topic.is_suspended(resource) && topic.drifts_of(key).any(observed);
                is_over.then(|| "drift of the resource is only observed now".to_owned())
            }
            Some(_) if undecided => None,
            _ => settled_by_now(topic, proposal, resource),
        },
    }
}

/// The same, of an object that is there and that git wants.
fn settled_by_now(topic: &Topic<'_>, proposal: &Proposal, resource: &Resource) -> Option<String> {
    let key = &proposal.key;
    let was_answered = matches!(proposal.status, ProposalStatus::Accepted | ProposalStatus::Restored);
    if was_answered && proposal.kind == ProposalKind::Drift {
        let is_over = !topic.was_not_compared(key) && topic.outstanding(resource, proposal).is_empty();
        return is_over.then(|| "it is carried out".to_owned());
    }
    if topic.waits(key) || topic.is_unseen(resource, proposal) || topic.was_not_compared(key) {
        return None;
    }
    let is_asked = |drift: &&Drift| match proposal.kind {
        ProposalKind::Missing => drift.missing,
        ProposalKind::Drift => proposal.fields.iter().any(|own| is_about(drift, own)),
    };
    let is_ignored = |field: &ProposedField| resource.annotations.ignores(&field.path);
    let Some(drift) = topic.drifts_of(key).find(is_asked) else {
        let ignored = !proposal.fields.is_empty() && proposal.fields.iter().all(is_ignored);
        let why = if ignored {
            "plumb.dev/drift-ignore leaves the difference alone now"
        } else {
            "there is no difference any more"
        };
        return Some(why.to_owned());
    };
    // What is suspended is left as it is, and so are its conversations.
    if !proposal.status.is_undecided() || topic.is_suspended(resource) {
        return None;
    }
    match drift.mode {
        DriftMode::Propose => None,
        DriftMode::Observe => Some("drift of the resource is only observed now".to_owned()),
        DriftMode::Revert => Some("drift of the resource is put back now".to_owned()),
    }
}

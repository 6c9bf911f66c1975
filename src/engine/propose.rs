//! Drift becomes a conversation: a branch with one commit that edits the document to what is live, or removes the
//! document of what is gone.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::forge::{Draft, FileEdit, Forge, ForgeError, ProposalRef};
use crate::manifest::{self, Edit};
use crate::model::{
    Drift, DriftMode, DriftedField, EventKind, Lease, ObjectHex, Observation, Plan, Proposal, ProposalKind,
    ProposalStatus, ProposedField, Reason, Resource, ResourceKey,
};
use crate::source::{Mirror, Refs};
use crate::store::Scope;

use super::apply::Applied;
use super::desired::{Owner, Workspace};
use super::timeline::Timeline;
use super::{Engine, EngineError, decide, mirrors};

/// More proposals than these are not open in one repository at once, so that nobody drowns in them.
const MOST_OPEN: usize = 10;

/// So many pushes that are refused in one pass are taken for a remote that takes none.
const MOST_REFUSED: usize = 5;

/// The trailer that tells Plumb's own proposals from other branches when the state is lost.
const KEY_TRAILER: &str = "Plumb-Key";

/// What the conversations of one pass are about.
pub(super) struct Topic<'a> {
    pub lease: &'a Lease,
    pub owner: Owner<'a>,
    pub mirror: &'a Mirror,
    pub forge: &'a dyn Forge,
    pub url: &'a str,
    pub refs: &'a Refs,
    pub head: &'a ObjectHex,
    pub desired: &'a crate::model::DesiredState,
    pub plan: &'a Plan,
    pub applied: &'a Applied,
    pub seen: &'a BTreeMap<ResourceKey, Observation>,
}

/// An edit to offer, or why there is none.
enum Offer {
    Edit { path: String, content: Option<String>, diff: String },
    NotExpressible(String),
}

impl Engine {
    /// Opens, updates and closes proposals, so that they say what the plan found.
    pub(super) async fn propose(
        &self,
        topic: &Topic<'_>,
        proposals: &BTreeMap<ResourceKey, Proposal>,
        workspace: &mut Workspace,
        timeline: &mut Timeline<'_>,
    ) -> Result<(), EngineError> {
        for proposal in proposals.values() {
            self.conclude(topic, proposal, timeline).await?;
        }
        let mut drifts: Vec<&Drift> =
            topic.plan.drift.iter().filter(|drift| asks_a_person(drift) && is_still_there(topic, drift)).collect();
        // Those that failed before come last, so that they keep nobody else waiting.
        drifts.sort_by_key(|drift| proposals.get(&drift.key).is_some_and(|known| !known.message.is_empty()));
        let (mut open, mut refused) = (topic.refs.drift.len(), 0);
        for drift in drifts {
            let Some(resource) = topic.desired.resources.get(&drift.key) else { continue };
            let known = proposals.get(&drift.key).filter(|proposal| proposal.status.is_undecided());
            let is_out = known.is_some_and(|known| topic.refs.drift.contains_key(&known.branch));
            if !is_out && open >= MOST_OPEN {
                let message =
                    format!("{MOST_OPEN} proposals are open in this repository; this one waits for one of them");
                timeline.note_of(&drift.key, EventKind::Warning { reason: Reason::ProposalLimit, message });
                continue;
            }
            match self.offer(topic, drift, resource, known, workspace, timeline).await? {
                Offered::Out if !is_out => open += 1,
                Offered::Out | Offered::NotOut => {}
                // A branch may be refused for its name; when many are, the rest waits for the next pass.
                Offered::Refused => {
                    refused += 1;
                    if refused >= MOST_REFUSED {
                        break;
                    }
                }
                Offered::NobodyThere => break,
            }
        }
        Ok(())
    }

    /// Ends a proposal that has nothing left to ask: decided and done, or live came back by itself.
    async fn conclude(
        &self,
        topic: &Topic<'_>,
        proposal: &Proposal,
        timeline: &mut Timeline<'_>,
    ) -> Result<(), EngineError> {
        let key = &proposal.key;
        if !is_settled(topic, proposal) {
            return Ok(());
        }
        let (status, message) = if proposal.status.is_undecided() {
            (ProposalStatus::Closed, "there is no difference any more".to_owned())
        } else {
            (proposal.status, proposal.message.clone())
        };
        // The branch goes if it still is what Plumb left; a person's commits stay theirs.
        if let Some(tip) = topic.refs.drift.get(&proposal.branch)
            && proposal.made(tip)
        {
            let reference = ProposalRef { branch: proposal.branch.clone(), commit: tip.clone() };
            match topic.forge.withdraw(&reference).await {
                Ok(()) | Err(ForgeError::Stale { .. }) => {}
                Err(error) => {
                    let message = format!("its branch could not be deleted: {error}");
                    timeline.note_of(key, EventKind::Warning { reason: Reason::ProposalFailed, message });
                    return Ok(());
                }
            }
        }
        if proposal.status.is_undecided() {
            let branch = proposal.branch.clone();
            timeline.note_of(key, EventKind::ProposalDecided { branch, status, message });
        }
        let mut tx = self.store.begin(Scope::Leased(topic.lease.clone())).await?;
        tx.remove_proposal(key).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Makes the proposal for `drift`, or brings the one that is out up to date.
    async fn offer(
        &self,
        topic: &Topic<'_>,
        drift: &Drift,
        resource: &Resource,
        known: Option<&Proposal>,
        workspace: &mut Workspace,
        timeline: &mut Timeline<'_>,
    ) -> Result<Offered, EngineError> {
        let key = &drift.key;
        let kind = if drift.missing { ProposalKind::Missing } else { ProposalKind::Drift };
        let fields: Vec<ProposedField> = drift.fields.iter().map(proposed).collect();
        let branch = key.drift_branch(topic.owner.tenant.repository.path != ".");
        let tip = topic.refs.drift.get(&branch);
        if let Some(known) = known {
            if known.status == ProposalStatus::HandsOff {
                return Ok(Offered::Out);
            }
            let same = known.kind == kind
                && known.fields == fields
                && known.blob == resource.origin.blob
                && known.file == resource.origin.file;
            if same && known.url == topic.url && tip.is_some() && tip == known.pushed.as_ref() {
                return Ok(Offered::Out);
            }
        }
        let edit = tokio::task::block_in_place(|| self.edit(topic, drift, resource, workspace));
        let (path, content, diff) = match edit {
            Offer::Edit { path, content, diff } => (path, content, diff),
            Offer::NotExpressible(message) => {
                timeline.note_of(key, EventKind::Warning { reason: Reason::NotExpressible, message });
                return Ok(Offered::NotOut);
            }
        };
        // A tip that is not known from the state must say of itself that it is Plumb's.
        if let Some(tip) = tip
            && !known.is_some_and(|known| known.made(tip))
            && !is_ours(topic.mirror, tip, key)
        {
            let message =
                format!("the branch {branch} is there and holds somebody's commits; delete it to get a proposal");
            timeline.note_of(key, EventKind::ProposalFailed { branch, message });
            return Ok(Offered::NotOut);
        }
        let opened_at = known.map_or_else(|| self.clock.now(), |known| known.opened_at);
        let draft = Draft {
            branch: branch.clone(),
            base: topic.head.clone(),
            message: message(drift, key),
            edits: vec![FileEdit { path, content: content.map(String::into_bytes) }],
            at: opened_at,
            expected: tip.cloned(),
        };
        let mut proposal = Proposal {
            key: key.clone(),
            kind,
            branch: branch.clone(),
            url: topic.url.to_owned(),
            base: topic.head.clone(),
            pushed: known.filter(|known| known.url == topic.url).and_then(|known| known.pushed.clone()),
            pushing: None,
            blob: resource.origin.blob.clone(),
            file: resource.origin.file.clone(),
            fields,
            // An update that does not arrive leaves the one before it out.
            status: known.map_or(ProposalStatus::Pending, |known| known.status),
            message: String::new(),
            diff: diff.clone(),
            opened_at,
            updated_at: self.clock.now(),
        };
        let published = async {
            let reference = topic.forge.prepare(&draft).await?;
            // Remembered before it is shown: a death in between finds its own commit on the branch.
            proposal.pushing = Some(reference.commit.clone());
            self.remember_proposal(topic.lease, &proposal)
                .await
                .map_err(|error| ForgeError::Unreachable { message: error.to_string() })?;
            if draft.expected.as_ref() != Some(&reference.commit) {
                topic.forge.publish(&reference, draft.expected.as_ref()).await?;
            }
            Ok::<_, ForgeError>(reference.commit)
        }
        .await;
        let offered = match &published {
            Ok(_) => Offered::Out,
            Err(ForgeError::Stale { .. }) => Offered::NotOut,
            Err(ForgeError::Refused { .. }) => Offered::Refused,
            Err(ForgeError::Unreachable { .. }) => Offered::NobodyThere,
        };
        match published {
            Ok(commit) => {
                proposal.status = ProposalStatus::Open;
                (proposal.pushed, proposal.pushing) = (Some(commit), None);
                let event = match tip {
                    None => EventKind::ProposalOpened { branch, diff },
                    Some(_) => EventKind::ProposalUpdated { branch, diff },
                };
                timeline.note_of(key, event);
            }
            Err(error) => {
                proposal.message = error.to_string();
                if known.is_none_or(|known| known.message != proposal.message) {
                    let message = proposal.message.clone();
                    timeline.note_of(key, EventKind::ProposalFailed { branch, message });
                }
            }
        }
        self.remember_proposal(topic.lease, &proposal).await?;
        Ok(offered)
    }

    /// The edit of the document that a proposal offers, proven to say what is live and nothing else.
    fn edit(&self, topic: &Topic<'_>, drift: &Drift, resource: &Resource, workspace: &mut Workspace) -> Offer {
        let origin = &resource.origin;
        let text = match topic.mirror.blob(&origin.blob).map(String::from_utf8) {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => return Offer::NotExpressible(format!("{} is not UTF-8", origin.file)),
            Err(error) => return Offer::NotExpressible(error.to_string()),
        };
        let content = if drift.missing {
            manifest::remove_document(&text, origin.document)
        } else {
            let edits: Vec<Edit> =
                drift.fields.iter().map(|field| Edit { path: field.path.clone(), to: field.live.clone() }).collect();
            match manifest::edit(&text, origin.document, resource.key.kind.info(), &edits) {
                Ok(text) => Some(text),
                Err(error) => {
                    return Offer::NotExpressible(format!("{} cannot say the live value: {error}", origin.file));
                }
            }
        };
        let after = workspace.with_edit(&self.validator, topic.owner, &origin.file, content.as_deref());
        if let Some(message) = after.rejected.get(&drift.key).or_else(|| after.denied.get(&drift.key)) {
            return Offer::NotExpressible(format!("the live value would not validate: {message}"));
        }
        let diff = similar::TextDiff::from_lines(text.as_str(), content.as_deref().unwrap_or(""))
            .unified_diff()
            .header(&format!("a/{}", origin.file), &format!("b/{}", origin.file))
            .to_string();
        Offer::Edit { path: origin.file.clone(), content, diff }
    }

    async fn remember_proposal(&self, lease: &Lease, proposal: &Proposal) -> Result<(), EngineError> {
        let mut tx = self.store.begin(Scope::Leased(lease.clone())).await?;
        tx.put_proposal(proposal).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// What became of an offer.
enum Offered {
    /// It is out, as it should be.
    Out,
    /// It could not be made, or somebody moved the branch.
    NotOut,
    /// The remote does not take it.
    Refused,
    /// The remote does not answer, so it would answer for no other either.
    NobodyThere,
}

/// Whether what drifted was not made again in this very pass.
fn is_still_there(topic: &Topic<'_>, drift: &Drift) -> bool {
    !(drift.missing && topic.applied.done.contains(&drift.key))
}

fn asks_a_person(drift: &Drift) -> bool {
    drift.mode == DriftMode::Propose && !drift.silenced
}

/// Whether nothing of what a proposal asked is open any more. What was not looked at, or could not be seen, is (R5).
fn is_settled(topic: &Topic<'_>, proposal: &Proposal) -> bool {
    let key = &proposal.key;
    let drifts = topic.plan.drift.iter().any(|drift| drift.key == *key && is_still_there(topic, drift));
    let waits = topic.plan.steps.iter().any(|step| step.key == *key && !topic.applied.done.contains(key))
        || topic.plan.blocked.iter().any(|blocked| blocked.key == *key && blocked.step.is_some());
    let unseen_field =
        topic.plan.held.get(key).is_some_and(|held| proposal.fields.iter().any(|field| held.contains(&field.path)));
    let wanted = topic.desired.resources.contains_key(key);
    match topic.seen.get(key) {
        Some(Observation::Present(_)) if wanted => !drifts && !waits && !unseen_field,
        Some(Observation::Present(_) | Observation::Absent { .. }) => {
            decide::is_removed(key, topic.owner.tenant, topic.desired)
        }
        Some(Observation::Unknown(_)) | None => false,
    }
}

fn is_ours(mirror: &Mirror, tip: &ObjectHex, key: &ResourceKey) -> bool {
    mirror.commits_between(None, tip).is_ok_and(|commits| {
        let key = key.to_string();
        commits.first().is_some_and(|commit| {
            // Whoever amends the commit keeps its trailers and becomes its committer.
            commit.committer == mirrors::author()
                && commit.trailers.iter().any(|(name, value)| name.eq_ignore_ascii_case(KEY_TRAILER) && *value == key)
        })
    })
}

fn proposed(field: &DriftedField) -> ProposedField {
    ProposedField {
        path: field.path.clone(),
        base: field.base.clone(),
        git: field.git.clone(),
        live: field.live.clone(),
    }
}

/// A value as people read it.
fn spoken(value: Option<&serde_json::Value>) -> String {
    match value {
        None => "absent".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// `/spec/roles/app/access` as `roles.app.access`.
fn spoken_path(field: &DriftedField) -> String {
    field.path.segments().into_iter().skip(1).collect::<Vec<_>>().join(".")
}

/// One line about a drift.
pub(super) fn sentence(drift: &Drift) -> String {
    if drift.missing {
        return "the object is gone from the live system".to_owned();
    }
    drift
        .fields
        .iter()
        .map(|field| {
            let (path, git, live) = (spoken_path(field), spoken(field.git.as_ref()), spoken(field.live.as_ref()));
            match (&field.base, field.conflict) {
                (Some(base), true) => format!("{path} was {}, git says {git}, live is {live}", spoken(Some(base))),
                (_, _) => format!("{path} is {live}, git says {git}"),
            }
        })
        .collect::<Vec<_>>()
        .join("; ")
}

/// The commit message of a proposal: what differs, how to decide, and whose it is.
fn message(drift: &Drift, key: &ResourceKey) -> String {
    let place = format!("{}/{}", key.environment, key.local());
    let mut text = String::new();
    if drift.missing {
        let _ = write!(
            text,
            "Remove {place}, which is gone\n\n\
             The object behind this document is gone from the live system, and Plumb does not\n\
             make it again empty.\n\n\
             Merge this to let go of it. To have it made again, empty, delete this branch and\n\
             follow what `plumb describe {key}` says.\n"
        );
    } else {
        let _ = write!(text, "Accept the live value of {place}\n\nLive differs from git here:\n\n");
        for field in &drift.fields {
            let (git, live) = (spoken(field.git.as_ref()), spoken(field.live.as_ref()));
            let _ = write!(text, "  {}: git {git}, live {live}", spoken_path(field));
            if let (true, Some(base)) = (field.conflict, &field.base) {
                let _ = write!(text, ", before {}", spoken(Some(base)));
            }
            text.push('\n');
        }
        text.push_str("\nMerge this to accept the live value. Delete the branch to put git's value back.\n");
    }
    let _ = write!(text, "\n{KEY_TRAILER}: {key}\n");
    text
}

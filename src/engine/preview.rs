//! Plans that nobody applies: of a head, of a branch as it would be once merged, of a folder.
//!
//! What always holds: a preview writes nothing, neither to the store nor to a live system, and is made by the planner that
//! the apply uses, of what an apply would know.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{
    Depth, DesiredState, Inventory, ObjectHex, Observation, Observations, Plan, PlanScope, Platform, Reason,
    ResourceKey,
};
use crate::source::{Refs, Side, Wanted, WorkingTree};

use super::attempts::Heads;
use super::desired::{Loaded, Sources, Workspace};
use super::fleet::Access;
use super::last_words::{LastWords, Words};
use super::platform::PlatformStatus;
use super::propose::forgotten;
use super::reconcile::{Ground, Planned, Source, Subject, approvals, sources_of, unreadable};
use super::{Engine, EngineError, beside, blocking, decide, holds, sagas};

/// What is to be planned without doing it.
#[derive(Clone, Debug)]
pub enum PreviewSource {
    /// The head of the tenant's branch.
    Head,
    /// Another branch of its repository, as it would be once merged: what the tenant's branch got meanwhile stays.
    Branch(String),
    /// A folder, as it stands: a working copy of its repository.
    Folder(PathBuf),
}

/// A plan that nobody has applied.
#[derive(Debug)]
pub struct Preview {
    pub plan: Plan,
    pub desired: Arc<DesiredState>,
    pub sources: Sources,
}

/// What a preview is of.
struct Previewed {
    /// What stands for the head of the tenant's branch; `None` for a folder.
    source: Option<Source>,
    /// The commit that a person knows it by.
    commit: Option<ObjectHex>,
    loaded: Loaded,
}

impl Engine {
    /// Plans for one tenant and does nothing. Uses the credentials for reading where there are any; what these may not
    /// look into is taken as it was seen last, with a warning.
    ///
    /// # Errors
    /// When its repository, or the folder, cannot be read.
    pub async fn preview(
        &self,
        in_force: &PlatformStatus,
        tenant: &str,
        source: &PreviewSource,
    ) -> Result<Preview, EngineError> {
        self.preview_with(Access::Read, in_force, tenant, source).await
    }

    /// Looks for drift from the head of one tenant and does nothing about it. Looks with the credentials that an apply
    /// uses, since a difference must not stay unseen.
    ///
    /// # Errors
    /// When its repository cannot be read.
    pub async fn scan(&self, in_force: &PlatformStatus, tenant: &str) -> Result<Preview, EngineError> {
        self.preview_with(Access::Write, in_force, tenant, &PreviewSource::Head).await
    }

    async fn preview_with(
        &self,
        access: Access,
        in_force: &PlatformStatus,
        tenant: &str,
        source: &PreviewSource,
    ) -> Result<Preview, EngineError> {
        let subject = Subject::of(in_force, tenant)?;
        let mut workspace = Workspace::default();
        let (Previewed { source, commit, loaded }, mut memory) =
            tokio::try_join!(self.load_for_preview(subject, source, &mut workspace), self.recall_for_preview(tenant))?;
        let documents = std::mem::take(&mut memory.documents);
        let owner = subject.owner(&documents);
        let reading = beside(|| workspace.read(owner, loaded));
        // An apply waits for nothing that failed, so nothing does here; and what was undone stays so until a head comes that
        // nobody has tried.
        let mut desired = Arc::clone(&reading.desired);
        let decisions = match source {
            None => {
                let mut decisions = decide::decisions(&memory.proposals);
                decisions.prune_holds.extend(holds::empty_tree(&memory, reading.files));
                self.complete(&mut decisions, subject, &memory);
                // Where no state says what was there, branches do (R8); a folder can be planned without its repository.
                if memory.state.is_none()
                    && let Ok(source) = self.read_source(subject, &subject.spec.repository.branch).await
                {
                    decisions.were_there.extend(forgotten(owner, &source, &memory.proposals).were_there());
                }
                decisions
            }
            Some(source) => {
                let mut proposals = memory.proposals.clone();
                let statuses = self.statuses_of_removed(tenant, &memory.inventory, &reading.desired).await?;
                memory.know_statuses(statuses);
                let news = self.news(subject, &source, &memory, &reading.desired).await?;
                let words = Words { subject, owner, source: &source, news: &news, desired: &reading.desired };
                let LastWords { safer, .. } = self.last_words(words, &memory.inventory)?;
                memory.know_records(safer);
                let read = subject.read_proposals(&proposals, &source, &reading, &news)?;
                proposals.extend(read.into_iter().map(|proposal| (proposal.key.clone(), proposal)));
                let mut decisions = decide::decisions(&proposals);
                decisions.were_there.extend(forgotten(owner, &source, &memory.proposals).were_there());
                decisions.approvals = approvals(&memory, &news);
                decisions.prune_holds = holds::prune_holds(&memory, reading.files, news.lineage.departure);
                self.complete(&mut decisions, subject, &memory);
                let heads = Heads { tenant: &source.head, platform: in_force.platform.commit.as_ref() };
                desired = sagas::undo(desired, &memory.sagas, heads, &memory.inventory, &mut decisions);
                decisions
            }
        };
        let sources = sources_of(&workspace, &desired);
        // Nothing is read a second time, and what is known of a large tenant takes its time to be forgotten.
        tokio::task::spawn_blocking(move || drop(workspace));
        let ground = Ground { subject, memory: &memory, access, depth: Depth::Deep, circuits: None, is_awaited: true };
        let Planned { plan, live, .. } = self.plan(ground, &desired, &PlanScope::Full, None, decisions).await;
        tokio::task::spawn_blocking(move || drop((live, memory, documents)));
        let plan = Plan { commit, ..plan };
        Ok(Preview { plan, desired, sources })
    }

    async fn load_for_preview(
        &self,
        subject: Subject<'_>,
        source: &PreviewSource,
        workspace: &mut Workspace,
    ) -> Result<Previewed, EngineError> {
        let repository = &subject.spec.repository;
        let (source, commit) = match source {
            PreviewSource::Folder(folder) => {
                let (folder, path) = (folder.clone(), repository.path.clone());
                let failed = |source| EngineError::Source { what: "the folder".to_owned(), source };
                let read = move || WorkingTree::new(folder).read(&path, Wanted::Manifests);
                let working = blocking(read).await?.map_err(failed)?;
                let loaded = workspace.load_working(&self.validator, working);
                return Ok(Previewed { source: None, commit: None, loaded });
            }
            PreviewSource::Head => {
                let source = self.read_source(subject, &repository.branch).await?;
                let head = source.head.clone();
                (source, head)
            }
            PreviewSource::Branch(branch) => self.read_merged(subject, branch).await?,
        };
        let loaded = self.load(subject, &source, workspace).await?;
        Ok(Previewed { source: Some(source), commit: Some(commit), loaded })
    }

    /// The tenant's branch as it would be with `branch` merged into it, and the head of `branch`. A tenant's branch that
    /// is not there yet would begin with it.
    async fn read_merged(&self, subject: Subject<'_>, branch: &str) -> Result<(Source, ObjectHex), EngineError> {
        let theirs = self.read_source(subject, branch).await.map_err(|error| match error {
            EngineError::BranchGone(_) => EngineError::BranchGone(format!(
                "the repository of tenant {} has no branch {branch}; push it, or check its name",
                subject.tenant
            )),
            other => other,
        })?;
        let commit = theirs.head.clone();
        let into = subject.spec.repository.branch.clone();
        let ours = match self.read_source(subject, &into).await {
            Ok(ours) => ours,
            Err(EngineError::BranchGone(_)) => return Ok((theirs, commit)),
            Err(error) => return Err(error),
        };
        let (mirror, name, our_head) = (Arc::clone(&ours.mirror), branch.to_owned(), ours.head.clone());
        let merge = move || {
            let theirs = Side { commit: &theirs.head, name: &name };
            mirror.merge(Side { commit: &our_head, name: &into }, theirs)
        };
        let head = blocking(merge).await?.map_err(|source| unreadable(subject.tenant, source))?;
        let refs = Refs { head: Some(head.clone()), ..ours.refs };
        Ok((Source { refs, head, ..ours }, commit))
    }
}

/// Takes what a login for reading may not look into as it was read back last, and says of what. Only for plans that nobody applies.
pub(super) fn believe_record(
    platform: &Platform,
    live: &mut Observations,
    prior: &Inventory,
) -> Vec<(ResourceKey, Reason, String)> {
    let mut warnings = Vec::new();
    for (key, seen) in &mut live.objects {
        let (Observation::Present(live), Some(record)) = (seen, prior.get(key)) else { continue };
        // A login that may not look and is not meant for reading alone is a fault.
        let reads_only = platform.providers.get(&record.provider).is_some_and(|spec| spec.read_credentials.is_some());
        if !reads_only {
            continue;
        }
        let (shut, unknown): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut live.unknown)
            .into_iter()
            .partition(|(_, unknown)| unknown.reason == Reason::PermissionDenied);
        live.unknown = unknown;
        for path in shut.keys() {
            for (field, value) in record.readback.iter().filter(|(field, _)| field.is_within(path.as_str())) {
                live.fields.insert(field.clone(), value.clone());
            }
        }
        if let Some(unknown) = shut.into_values().next() {
            let message = format!("part of it is taken as it was seen last, since {}", unknown.message);
            warnings.push((key.clone(), Reason::NotObserved, message));
        }
    }
    warnings
}

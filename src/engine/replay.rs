//! Plans made again as they were made then: from git, and from what the store kept of the inventory, the live systems and
//! the decisions of that time.
//!
//! What always holds: nothing is looked at but git and the store, and nothing is applied by planning again. Who wants what
//! was planned again applied has an ordinary look do it, which does nothing where there is anything else to do by now. Kept
//! are the inputs of plans that did, held or found something; a look that found everything as it was recorded has nothing
//! to plan again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{
    AppliedDocument, Ask, Decisions, DesiredState, Execution, Inventory, ObjectHex, Observations, Plan, PlanId,
    PlanInputs, PlanScope, Record, ResourceKey, Scene, Trigger, Width,
};
use crate::plan::{self, Terms};
use crate::source::Mirror;
use crate::store::inputs::{PackedInputs, SceneView};
use crate::store::{HistoryFilter, Scope, StoreError};

use super::attempts::Heads;
use super::desired::Workspace;
use super::memory::Memory;
use super::platform::PlatformStatus;
use super::preview::Preview;
use super::reconcile::{Report, Subject, sources_of, unreadable};
use super::sagas::{self, Sagas};
use super::{Engine, EngineError, beside, blocking, decide};

/// The most that is kept of one plan, packed, in bytes: some hundred thousand resources.
const MOST_KEPT: usize = 32 << 20;

/// One plan of an execution, made again.
#[derive(Debug)]
pub struct Replayed {
    pub preview: Preview,
    /// The branch that it is of.
    pub branch: String,
    /// The plan as it was named then.
    pub then: PlanId,
    /// The commit that it was made at then.
    pub commit: ObjectHex,
    /// Resources that the commit asked for has otherwise, and that were not looked at then.
    pub unseen: BTreeSet<ResourceKey>,
}

/// What became of what was to be applied.
#[derive(Debug)]
pub enum Reapplied {
    /// It is what there was to do; it was done as by any other look.
    Done(Box<Report>),
    /// There is something else to do now, and nothing was done.
    Differs(Box<Preview>),
}

/// The plans that a look may carry out, and no other: a person has seen what they do.
#[derive(Debug)]
pub(super) struct Only {
    plans: BTreeSet<PlanId>,
    /// The execution that they are of.
    pub replays: i64,
}

impl Only {
    /// Refuses another plan.
    pub(super) fn expect(&self, plan: &Plan) -> Result<(), EngineError> {
        if self.plans.contains(&plan.id) {
            return Ok(());
        }
        let wanted: Vec<String> = self.plans.iter().map(ToString::to_string).collect();
        let (tenant, plan) = (plan.tenant.clone(), plan.id.clone());
        Err(EngineError::AnotherPlan { tenant, plan, wanted: wanted.join(" or ") })
    }
}

/// What a plan was made of, packed, if that is to be kept.
pub(super) fn worth_keeping(
    plan: &Plan,
    subject: Subject<'_>,
    heads: Heads<'_>,
    decisions: Decisions,
    memory: &Memory,
    desired: &DesiredState,
    live: &Observations,
) -> Result<Option<PackedInputs>, StoreError> {
    let Some(platform) = heads.platform.filter(|_| !plan.is_in_sync() || !plan.settles.is_empty()) else {
        return Ok(None);
    };
    let (records, others) = match &plan.scope {
        PlanScope::Full => (memory.inventory.records.values().collect(), Vec::new()),
        PlanScope::Keys(seen) => {
            let records = seen.iter().filter_map(|key| memory.inventory.records.get(key)).collect();
            (records, asked_about(seen, subject, memory, desired))
        }
    };
    let view = SceneView { live, records, others };
    let inputs = PlanInputs {
        plan: plan.id.clone(),
        commit: heads.tenant.clone(),
        platform: platform.clone(),
        scope: plan.scope.clone(),
        decisions,
        sagas: memory.sagas.values().cloned().collect(),
    };
    let packed = beside(|| PackedInputs::pack(&inputs, &view))?;
    Ok(Some(packed).filter(|packed| packed.scene.len() + packed.inputs.len() <= MOST_KEPT))
}

/// Of what a plan of these keys does not look at: it asks whether what they depend on is there, and how many there are of
/// a kind that has a quota.
fn asked_about<'a>(
    seen: &BTreeSet<ResourceKey>,
    subject: Subject<'_>,
    memory: &'a Memory,
    desired: &DesiredState,
) -> Vec<&'a ResourceKey> {
    let quotas = &subject.spec.quotas;
    let counted = memory.inventory.live().filter(|_| !quotas.is_empty()).map(|record| &record.key);
    let counted = counted.filter(|key| quotas.contains_key(&key.kind));
    let needed = seen.iter().filter_map(|key| desired.resources.get(key)).flat_map(|resource| &resource.depends_on);
    let needed = needed.filter_map(|key| memory.inventory.get(key)).map(|record| &record.key);
    let asked: BTreeSet<&ResourceKey> = counted.chain(needed).filter(|key| !seen.contains(*key)).collect();
    asked.into_iter().collect()
}

impl Engine {
    /// Makes the plans of an execution again, in their order; none where nothing was kept. With `at`, a commit or a
    /// branch, as if the tenant's repository had stood there. `None` when there is no such execution.
    ///
    /// # Errors
    /// When its commits cannot be read any more.
    pub async fn replay(
        &self,
        execution: i64,
        at: Option<&str>,
    ) -> Result<Option<(Execution, Vec<Replayed>)>, EngineError> {
        let mut tx = self.store.read(Scope::Platform).await?;
        let one = HistoryFilter { execution: Some(execution), limit: 1, ..HistoryFilter::default() };
        let Some(about) = tx.executions(&one).await?.into_iter().next() else { return Ok(None) };
        drop(tx);
        // As of its tenant, by which they are found.
        let kept = self.store.read(Scope::Tenant(about.tenant.clone())).await?.plan_inputs(execution).await?;
        let mut replayed = Vec::with_capacity(kept.len());
        for packed in kept {
            let (inputs, scene) = beside(|| packed.unpack())?;
            replayed.push(self.plan_again(&about.tenant, inputs, scene, at).await?);
        }
        Ok(Some((about, replayed)))
    }

    /// Has what was planned again done by a look, which is on record as any other: where the plan that is made of the
    /// tenant's head now is one of these. An id names the steps, as it does in an approval: the same steps, from the same
    /// live values, on the same objects.
    ///
    /// # Errors
    /// When a look cannot be done, or finds something else to do than a moment before.
    pub async fn apply_again(
        &self,
        in_force: &PlatformStatus,
        about: &Execution,
        replayed: &[Replayed],
    ) -> Result<Reapplied, EngineError> {
        let plans = replayed.iter().map(|again| again.preview.plan.id.clone()).collect();
        let only = Only { plans, replays: about.id };
        let now = self.scan(in_force, &about.tenant).await?;
        if only.expect(&now.plan).is_err() {
            return Ok(Reapplied::Differs(Box::new(now)));
        }
        let ask = Ask { trigger: Trigger::CommandLine, width: Width::Deep };
        let report = self.reconcile_only(in_force, &about.tenant, ask, Some(&only)).await?;
        Ok(Reapplied::Done(Box::new(report)))
    }

    async fn plan_again(
        &self,
        tenant: &str,
        inputs: PlanInputs,
        scene: Scene,
        at: Option<&str>,
    ) -> Result<Replayed, EngineError> {
        let PlanInputs { plan: then, commit, platform, scope, mut decisions, sagas } = inputs;
        let in_force = self.platform_of(platform).await?;
        let subject = Subject::of(&in_force, tenant)?;
        let platform = &in_force.platform;
        let mirror = self.mirrors.of_tenant(platform, tenant, subject.spec).await?;
        let planned_at = match at {
            None => commit.clone(),
            Some(at) => self.resolve(subject, &mirror, at).await?,
        };
        self.fetch_if_missing(subject, &mirror, &commit).await?;
        let (inventory, documents) = inventory_of(scene.records, scene.others);
        let desired = self.read_at(subject, &mirror, &planned_at, &documents).await?;
        let is_of_then = planned_at == commit;
        let desired = match is_of_then {
            true => {
                let heads = Heads { tenant: &commit, platform: platform.commit.as_ref() };
                let sagas: Sagas = sagas.into_iter().map(|saga| (saga.environment.clone(), saga)).collect();
                let Reread { desired, sources } = desired;
                Reread { desired: sagas::undo(desired, &sagas, heads, &inventory, &mut decisions), sources }
            }
            false => {
                // Another commit begins anew what failed, and may approve what was held.
                decisions.not_now.clear();
                let (reader, from, to) = (Arc::clone(&mirror), commit.clone(), planned_at.clone());
                let commits = blocking(move || reader.commits_between(Some(&from), &to))
                    .await?
                    .map_err(|source| unreadable(tenant, source))?;
                decisions.approvals.extend(decide::approvals(&commits, &[]));
                desired
            }
        };
        let unseen = match (&scope, is_of_then) {
            (PlanScope::Keys(seen), false) => {
                let before = self.read_at(subject, &mirror, &commit, &documents).await?;
                differing(&before.desired, &desired.desired).filter(|key| !seen.contains(*key)).cloned().collect()
            }
            (PlanScope::Full | PlanScope::Keys(_), _) => BTreeSet::new(),
        };
        let Reread { desired, sources } = desired;
        let terms = Terms { platform, tenant: subject.spec };
        let plan = beside(|| plan::plan(&desired, &scene.live, &inventory, &decisions, terms, &scope));
        let branch = subject.spec.repository.branch.clone();
        Ok(Replayed { preview: Preview { plan, desired, sources }, branch, then, commit, unseen })
    }

    /// A commit by its full or short hash, or the head that a branch has now.
    async fn resolve(&self, subject: Subject<'_>, mirror: &Arc<Mirror>, at: &str) -> Result<ObjectHex, EngineError> {
        let (mirror, at, own) = (Arc::clone(mirror), at.to_owned(), subject.spec.repository.branch.clone());
        let resolve = move || {
            let by_hash = || mirror.resolve(&at).ok().filter(|commit| commit.starts_with(&at.to_ascii_lowercase()));
            if let Some(commit) = by_hash() {
                return Ok(commit);
            }
            // It may be newer than the last look, or a branch.
            mirror.fetch(&own)?;
            match by_hash() {
                Some(commit) => Ok(commit),
                None => mirror.fetch(&at).and_then(|_| mirror.resolve(&at)),
            }
        };
        blocking(resolve).await?.map_err(|source| unreadable(subject.tenant, source))
    }

    /// Fetches where the mirror does not have `commit`: it was made anew since.
    async fn fetch_if_missing(
        &self,
        subject: Subject<'_>,
        mirror: &Arc<Mirror>,
        commit: &ObjectHex,
    ) -> Result<(), EngineError> {
        let (mirror, commit, own) = (Arc::clone(mirror), commit.clone(), subject.spec.repository.branch.clone());
        let fetch = move || if mirror.has(&commit) { Ok(()) } else { mirror.fetch(&own).map(drop) };
        blocking(fetch).await?.map_err(|source| unreadable(subject.tenant, source))
    }

    /// What git said at a commit.
    async fn read_at(
        &self,
        subject: Subject<'_>,
        mirror: &Arc<Mirror>,
        commit: &ObjectHex,
        previous: &BTreeMap<ResourceKey, AppliedDocument>,
    ) -> Result<Reread, EngineError> {
        let mut workspace = Workspace::default();
        let loaded = self.load_commit(subject, mirror, commit, &mut workspace).await?;
        let reading = beside(|| workspace.read(subject.owner(previous), loaded));
        Ok(Reread { sources: sources_of(&workspace, &reading.desired), desired: reading.desired })
    }
}

/// What git said, read once more.
struct Reread {
    desired: Arc<DesiredState>,
    sources: super::Sources,
}

/// The inventory of then, and the documents in it. Of what was not looked at only keys are known, and of these those that
/// a plan asks about.
fn inventory_of(records: Vec<Record>, others: Vec<ResourceKey>) -> (Inventory, BTreeMap<ResourceKey, AppliedDocument>) {
    let is_known = |record: &&Record| !record.retained && !record.document.is_unknown();
    let documents =
        records.iter().filter(is_known).map(|record| (record.key.clone(), record.document.clone())).collect();
    let all = records.into_iter().chain(others.into_iter().map(Record::of_key));
    (Inventory { records: all.map(|record| (record.key.clone(), record)).collect() }, documents)
}

/// Keys whose documents are not the same.
fn differing<'a>(before: &'a DesiredState, after: &'a DesiredState) -> impl Iterator<Item = &'a ResourceKey> {
    let document = |desired: &'a DesiredState, key| desired.resources.get(key).map(|resource| &resource.document);
    let keys: BTreeSet<&ResourceKey> = before.resources.keys().chain(after.resources.keys()).collect();
    keys.into_iter().filter(move |key| document(before, key) != document(after, key))
}

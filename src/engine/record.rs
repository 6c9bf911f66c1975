//! Writes down what a pass did: records, statuses, strays, held plans. One transaction.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Action, Approval, ApprovalKind, DesiredState, Fields, Inventory, Lease, Live, Observation, Observations, Plan,
    PlanId, PlanScope, Platform, Proposal, ProviderIdentity, Reason, Record, ResourceKey, ResourceStatus, Saga, Settle,
    Step, revision,
};
use crate::plan::{Place, ended, object_name, read_back, record_after};
use crate::store::{HeldPlan, Scope, StoreError, Tx};

use super::Engine;
use super::apply::Applied;
use super::attempts::{self, Attempts};
use super::memory::Changes;
use super::observe::is_unheard;
use super::propose::Troubles;
use super::sagas::Sagas;
use super::status::{self, Verdict};

/// All that one pass knows when it is to be written down.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub lease: &'a Lease,
    pub platform: &'a Platform,
    pub branch: &'a str,
    pub desired: &'a DesiredState,
    pub prior: &'a Inventory,
    pub plan: &'a Plan,
    pub applied: &'a Applied,
    /// Steps that failed, and were known to fail before.
    pub attempts: &'a Attempts,
    pub attempts_before: &'a Attempts,
    /// All changes that may be undone; those of them that are from now on, and those that are over.
    pub sagas: &'a Sagas,
    pub sagas_begun: &'a [Saga],
    pub sagas_over: &'a [&'a Saga],
    /// What nobody is asked about.
    pub troubles: &'a Troubles,
    /// Answers of which something was carried out.
    pub answers: &'a [Proposal],
    /// What of plans was known to wait for an approval, and what was approved.
    pub held: &'a [HeldPlan],
    pub approvals: &'a [Approval],
    /// What was seen before the apply.
    pub before: &'a Observations,
    /// What was read back of the objects that steps touched.
    pub after: &'a Observations,
    /// Providers that could not be asked for strays.
    pub silent: &'a BTreeSet<String>,
    pub statuses: &'a BTreeMap<ResourceKey, ResourceStatus>,
    /// Who the providers were when the pass began.
    pub identities: &'a BTreeMap<String, ProviderIdentity>,
}

/// What was written, for the timeline.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub recorded: Vec<(ResourceKey, Reason)>,
    pub changes: Changes,
}

impl Engine {
    /// Records a pass.
    pub(super) async fn record(&self, pass: &Pass<'_>) -> Result<Written, StoreError> {
        let mut tx = self.store.begin(Scope::Leased(pass.lease.clone())).await?;
        let mut written = Written::default();
        self.record_objects(pass, tx.as_mut(), &mut written).await?;
        self.record_statuses(pass, tx.as_mut(), &mut written.changes).await?;
        tx.put_records(&written.changes.records).await?;
        tx.put_statuses(&written.changes.statuses).await?;
        if pass.plan.scope == PlanScope::Full {
            record_strays(pass, tx.as_mut()).await?;
        }
        record_holds(pass, tx.as_mut()).await?;
        let retried = attempts::write(tx.as_mut(), pass.attempts_before, pass.attempts).await?;
        for answer in pass.answers {
            tx.put_proposal(answer).await?;
        }
        // A step that somebody had tried again in the meantime has not failed for good.
        let has_failed = |saga: &&Saga| saga.failure.as_ref().is_some_and(|failure| !retried.contains(&failure.key));
        for saga in pass.sagas_begun.iter().filter(has_failed) {
            tx.put_saga(saga).await?;
        }
        for saga in pass.sagas_over {
            tx.remove_saga(&saga.tenant, &saga.environment).await?;
        }
        tx.commit().await?;
        self.record_identities(pass).await?;
        Ok(written)
    }

    /// Brings the statuses of `keys` up to date once more: what became of proposals is known when the pass is written
    /// down already.
    pub(super) async fn restate(
        &self,
        pass: &Pass<'_>,
        keys: BTreeSet<ResourceKey>,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        let verdicts = status::verdicts(pass.plan, pass.applied, pass.attempts, pass.troubles, keys.iter().cloned());
        let asked = verdicts.iter().filter(|(key, _)| keys.contains(*key));
        let statuses: Vec<ResourceStatus> =
            asked.map(|(key, verdict)| self.status(pass, key, verdict, pass.statuses.get(key))).collect();
        let mut tx = self.store.begin(Scope::Leased(pass.lease.clone())).await?;
        tx.put_statuses(&statuses).await?;
        tx.commit().await?;
        changes.statuses.extend(statuses);
        Ok(())
    }

    async fn record_objects(&self, pass: &Pass<'_>, tx: &mut dyn Tx, written: &mut Written) -> Result<(), StoreError> {
        for step in pass.plan.steps.iter().filter(|step| pass.applied.done.contains(&step.key)) {
            let reason = match step.action {
                Action::Delete => {
                    tx.forget(&step.key).await?;
                    written.changes.forgotten.push(step.key.clone());
                    tx.remove_secrets(&step.key).await?;
                    Reason::Deleted
                }
                Action::Adopt => self.record_step(pass, step, Reason::Adopted, &mut written.changes),
                Action::Create | Action::Update | Action::Replace => {
                    let reason = if pass.plan.rolls_back(&step.key) { Reason::RolledBack } else { Reason::Applied };
                    self.record_step(pass, step, reason, &mut written.changes)
                }
            };
            written.recorded.push((step.key.clone(), reason));
        }
        for settle in &pass.plan.settles {
            let reason = match settle {
                Settle::Record { key, reason, .. } => match pass.before.present(key) {
                    Some(live) => self.record_object(pass, key, live, *reason, &mut written.changes),
                    None => Reason::NotObserved,
                },
                Settle::Forget { key, reason: Reason::Retained } => {
                    if let Some(record) = pass.prior.get(key) {
                        let record = Record { retained: true, updated_at: self.clock.now(), ..record.clone() };
                        written.changes.records.push(record);
                    }
                    Reason::Retained
                }
                Settle::Forget { key, reason } => {
                    tx.forget(key).await?;
                    written.changes.forgotten.push(key.clone());
                    *reason
                }
            };
            written.recorded.push((settle.key().clone(), reason));
        }
        let others = self.others(pass, &written.changes);
        written.changes.records.extend(others);
        Ok(())
    }

    /// The records of what this pass neither did nor settled, where there is more to say all the same. Of a step that failed,
    /// or that nothing could be read back of, that it began. And what git asks to keep safer than they say: a later commit, in
    /// which the document is gone, finds what was said before it (R7).
    fn others(&self, pass: &Pass<'_>, changes: &Changes) -> Vec<Record> {
        let written: BTreeSet<&ResourceKey> =
            changes.records.iter().map(|record| &record.key).chain(&changes.forgotten).collect();
        let tried = |step: &&Step| pass.applied.failed.contains_key(&step.key) || pass.applied.done.contains(&step.key);
        let tried: BTreeMap<&ResourceKey, &Step> =
            pass.plan.steps.iter().filter(tried).map(|step| (&step.key, step)).collect();
        let others = keys_in_scope(pass).filter(|key| !written.contains(key)).filter_map(|key| {
            let record = pass.prior.get(key)?;
            // What is seen by now is not asked about for ever.
            let known = ended(record, pass.before.present(key), pass.plan.rolls_back(key));
            let said = pass.desired.said_of(key);
            let safer = said.map(|said| record.annotations.kept_safer_by(said, key.kind));
            let (safer, step) = (safer.filter(|safer| *safer != record.annotations), tried.get(key));
            // Nearly all of a large tenant: none of them is copied.
            if matches!(known, Cow::Borrowed(_)) && safer.is_none() && step.is_none() {
                return None;
            }
            let mut next = known.into_owned();
            if let Some(annotations) = safer {
                (next.annotations, next.updated_at) = (annotations, self.clock.now());
            }
            if let Some(step) = step {
                next.begun.add(&step.changes, step.rotate.is_some());
            }
            (next != *record).then_some(next)
        });
        others.collect()
    }

    /// The record of an object after a step, for writing.
    fn record_step(&self, pass: &Pass<'_>, step: &Step, reason: Reason, changes: &mut Changes) -> Reason {
        // What cannot be read back is not recorded: that the step began is ([`Self::others`]), or its mark tells the next pass.
        let Some(after) = pass.after.present(&step.key) else { return Reason::NotObserved };
        let live = read_back(step, pass.before.present(&step.key), after);
        self.record_object(pass, &step.key, &live, reason, changes)
    }

    /// The record of an object as it was seen, for writing.
    fn record_object(
        &self,
        pass: &Pass<'_>,
        key: &ResourceKey,
        live: &Live,
        reason: Reason,
        changes: &mut Changes,
    ) -> Reason {
        let Some(resource) = pass.desired.resources.get(key) else { return reason };
        let unknown = ProviderIdentity(String::new());
        let identity = identity_of(pass, &resource.provider).unwrap_or(&unknown);
        let name = object_name(pass.platform, key, &resource.provider);
        let denied = pass.desired.denied.contains_key(key);
        let place = Place { identity, object_name: &name, commit: pass.desired.commit.as_ref(), denied };
        let held = pass.plan.held.get(key).cloned().unwrap_or_default();
        let record = record_after(resource, live, pass.prior.get(key), &held, place, self.clock.now());
        changes.records.push(record);
        reason
    }

    async fn record_statuses(&self, pass: &Pass<'_>, tx: &mut dyn Tx, changes: &mut Changes) -> Result<(), StoreError> {
        let verdicts =
            status::verdicts(pass.plan, pass.applied, pass.attempts, pass.troubles, keys_in_scope(pass).cloned());
        let gone: BTreeSet<&ResourceKey> = pass
            .plan
            .settles
            .iter()
            .filter_map(|settle| match settle {
                Settle::Forget { key, .. } => Some(key),
                Settle::Record { .. } => None,
            })
            .chain(deleted(pass.plan, pass.applied))
            // What was made and is undone is gone, and git has it still: it says why it is not there.
            .filter(|key| !pass.plan.rolled_back.contains(*key))
            .collect();
        for (key, verdict) in verdicts.iter().filter(|(key, _)| !gone.contains(key)) {
            let before = pass.statuses.get(key);
            let status = self.status(pass, key, verdict, before);
            let same = before
                .is_some_and(|before| ResourceStatus { updated_at: status.updated_at, ..before.clone() } == status);
            if !same {
                changes.statuses.push(status);
            }
        }
        for key in gone {
            tx.remove_status(key).await?;
            changes.statuses_removed.push(key.clone());
        }
        // Statuses of keys that neither git nor the inventory speaks of any more.
        if pass.plan.scope == PlanScope::Full {
            for key in pass.statuses.keys().filter(|key| !verdicts.contains_key(*key)) {
                tx.remove_status(key).await?;
                changes.statuses_removed.push(key.clone());
            }
        }
        Ok(())
    }

    fn status(
        &self,
        pass: &Pass<'_>,
        key: &ResourceKey,
        verdict: &Verdict,
        before: Option<&ResourceStatus>,
    ) -> ResourceStatus {
        let at = self.clock.now();
        let resource = pass.desired.resources.get(key);
        let record = pass.prior.get(key);
        // What was made and is undone is neither wanted nor recorded: what was known of it is all there is to say.
        let undone = before.filter(|_| resource.is_none() && record.is_none() && pass.plan.rolls_back(key));
        let provider = resource
            .map(|r| r.provider.clone())
            .or(record.map(|r| r.provider.clone()))
            .or(undone.map(|before| before.provider.clone()))
            .unwrap_or_default();
        let seen = pass.after.objects.get(key).or_else(|| pass.before.objects.get(key));
        let live = seen.and_then(Observation::present);
        let unseen = matches!(seen, Some(Observation::Unknown(_)) | None);
        let desired = resource.map(|r| r.fields.clone()).or(record.map(|r| r.applied.clone())).unwrap_or_default();
        ResourceStatus {
            key: key.clone(),
            revision: pass.desired.commit.as_ref().map(|commit| revision(pass.branch, commit)).unwrap_or_default(),
            object_name: record
                .map(|r| r.object_name.clone())
                .or(undone.map(|before| before.object_name.clone()))
                .unwrap_or_else(|| object_name(pass.platform, key, &provider)),
            provider,
            depends_on: resource
                .map(|r| r.depends_on.clone())
                .or(record.map(|r| r.depends_on.clone()))
                .or(undone.map(|before| before.depends_on.clone()))
                .unwrap_or_default(),
            conditions: status::conditions(verdict, before, at),
            reason_since: status::reason_since(verdict, before, at),
            until: verdict.until,
            live: match live {
                Some(live) => shown(&desired, live, before),
                // The last that was seen, while nothing can be seen.
                None if unseen => before.map(|before| before.live.clone()).unwrap_or_default(),
                None => Fields::new(),
            },
            outputs: match live {
                Some(live) => live.outputs.clone(),
                None => before.map(|before| before.outputs.clone()).unwrap_or_default(),
            },
            desired,
            file: resource
                .map(|r| r.origin.file.clone())
                .or(record.map(|r| r.file.clone()))
                .or(undone.map(|before| before.file.clone()))
                .unwrap_or_default(),
            updated_at: at,
        }
    }

    /// The identity of a server is remembered once something of ours is recorded on it (R11).
    async fn record_identities(&self, pass: &Pass<'_>) -> Result<(), StoreError> {
        let seen: BTreeSet<&String> = pass.before.identities.keys().chain(pass.after.identities.keys()).collect();
        let seen = seen.into_iter().filter_map(|provider| Some((provider, identity_of(pass, provider)?)));
        let is_used = |provider: &String| pass.desired.resources.values().any(|used| used.provider == *provider);
        let fresh: Vec<_> = seen
            .filter(|(provider, identity)| pass.identities.get(*provider) != Some(identity) && is_used(provider))
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        // Writing for the platform waits for all that is written for tenants, so it is done only where it must.
        let mut tx = self.store.begin(Scope::Platform).await?;
        let known = tx.identities().await?;
        // What another pass has written meanwhile is newer than what this one saw.
        for (provider, identity) in fresh.into_iter().filter(|(name, _)| known.get(*name) == pass.identities.get(*name))
        {
            tx.put_identity(provider, identity).await?;
        }
        tx.commit().await
    }
}

/// Live values of the fields that git sets; those a shallow look left out stay as they were seen last.
fn shown(desired: &Fields, live: &Live, before: Option<&ResourceStatus>) -> Fields {
    desired
        .iter()
        .filter_map(|(path, _)| {
            let value = match live.unknown_at(path) {
                Some(_) => before.and_then(|before| before.live.0.get(path)),
                None => live.fields.0.get(path),
            };
            value.map(|value| (path.clone(), value.clone()))
        })
        .collect()
}

fn identity_of<'a>(pass: &Pass<'a>, provider: &str) -> Option<&'a ProviderIdentity> {
    pass.after.identities.get(provider).or_else(|| pass.before.identities.get(provider))
}

fn deleted<'a>(plan: &'a Plan, applied: &'a Applied) -> impl Iterator<Item = &'a ResourceKey> {
    plan.steps
        .iter()
        .filter(|step| step.action == Action::Delete && applied.done.contains(&step.key))
        .map(|step| &step.key)
}

/// What the pass is about, of what is known; some keys more than once.
fn keys_in_scope<'a>(pass: &'a Pass<'_>) -> Box<dyn Iterator<Item = &'a ResourceKey> + Send + 'a> {
    let Pass { desired, prior, .. } = pass;
    match &pass.plan.scope {
        PlanScope::Full => {
            let managed = prior.live().map(|record| &record.key);
            Box::new(desired.resources.keys().chain(desired.rejected.keys()).chain(managed))
        }
        // A pass over a few keys of a large tenant goes through those alone.
        PlanScope::Keys(keys) => Box::new(keys.iter().filter(|key| {
            desired.resources.contains_key(*key) || desired.rejected.contains_key(*key) || prior.get(key).is_some()
        })),
    }
}

/// Strays as they were seen; those of a provider that could not be asked stay as they were seen last (R5). What git wants
/// elsewhere is one too: nothing else tells where it is once its server falls silent.
async fn record_strays(pass: &Pass<'_>, tx: &mut dyn Tx) -> Result<(), StoreError> {
    let Pass { desired, prior, .. } = pass;
    let wanted = |key: &ResourceKey| desired.resources.contains_key(key) || desired.rejected.contains_key(key);
    let known = tx.strays().await?;
    let mut strays = pass.before.strays.clone();
    // While something cannot be read, an object may be its; only what was an orphan before still is.
    let read_whole = desired.unreadable.is_empty();
    strays.retain(|key, _| wanted(key) || read_whole || known.contains_key(key));
    for (key, stray) in known {
        if is_unheard(pass.platform, pass.silent, &key, &stray) {
            strays.entry(key).or_insert(stray);
        }
    }
    strays.retain(|key, _| !prior.records.contains_key(key) && !pass.applied.done.contains(key));
    for (key, stray) in &mut strays {
        stray.wanted = wanted(key);
    }
    tx.put_strays(&desired.tenant, &strays).await
}

/// Remembers the keys of held plans, so that a trailer finds them. A key is forgotten, in held plans and in approvals,
/// once nothing of it waits any more: what was approved once must not cover a later deletion of the same key.
async fn record_holds(pass: &Pass<'_>, tx: &mut dyn Tx) -> Result<(), StoreError> {
    let is_full = pass.plan.scope == PlanScope::Full;
    if !is_full && !does_what_waited(pass) {
        return Ok(());
    }
    let tenant = &pass.desired.tenant;
    let before = (tx.held_plans(tenant).await?, tx.approvals(tenant).await?);
    let (held, approved) = match is_full {
        true => still_waiting(pass, before.clone()),
        false => without_done(pass, before.clone()),
    };
    if (&held, &approved) == (&before.0, &before.1) {
        return Ok(());
    }
    tx.clear_approvals(tenant).await?;
    for plan in &held {
        tx.put_held_plan(tenant, plan).await?;
    }
    for approval in &approved {
        tx.put_approval(tenant, approval).await?;
    }
    Ok(())
}

/// Whether a pass over a few keys did what was held or approved before: nothing else is looked at for that.
fn does_what_waited(pass: &Pass<'_>) -> bool {
    let Pass { plan, applied, held, approvals, .. } = pass;
    let is_done = |keys: &BTreeSet<ResourceKey>| applied.done.iter().any(|key| keys.contains(key));
    let by_id = |approval: &Approval| approval.keys.is_empty() && approval.plan == plan.id && !applied.done.is_empty();
    held.iter().any(|held| is_done(&held.keys))
        || approvals.iter().any(|approval| is_done(&approval.keys) || by_id(approval))
}

/// What was done waits no more; of the rest a pass over a few keys says nothing.
fn without_done(
    pass: &Pass<'_>,
    (mut held, mut approved): (Vec<HeldPlan>, Vec<Approval>),
) -> (Vec<HeldPlan>, Vec<Approval>) {
    let done = &pass.applied.done;
    for held in &mut held {
        held.keys.retain(|key| !done.contains(key));
    }
    held.retain(|held| !held.keys.is_empty());
    approved.retain_mut(|approval| {
        let was_empty = approval.keys.is_empty();
        approval.keys.retain(|key| !done.contains(key));
        was_empty || !approval.keys.is_empty()
    });
    (held, approved)
}

/// What of all that was held and approved still waits after a full pass, with what it held itself.
fn still_waiting(
    pass: &Pass<'_>,
    (mut held, mut approved): (Vec<HeldPlan>, Vec<Approval>),
) -> (Vec<HeldPlan>, Vec<Approval>) {
    let id = &pass.plan.id;
    for kind in [ApprovalKind::Deletes, ApprovalKind::Create] {
        let waiting = waiting(pass, kind);
        let plans = held_plans(pass.plan, kind);
        held.retain(|known| known.kind != kind || !plans.contains_key(&known.id));
        held.extend(plans.into_iter().map(|(id, keys)| HeldPlan { id, kind, keys }));
        for known in held.iter_mut().filter(|known| known.kind == kind) {
            known.keys.retain(|key| waiting.contains(key));
        }
        held.retain(|known| !known.keys.is_empty());
        approved.retain_mut(|approval| {
            if approval.kind != kind {
                return true;
            }
            let of_this_plan = approval.keys.is_empty() && approval.plan == *id;
            approval.keys.retain(|key| waiting.contains(key));
            !approval.keys.is_empty() || (of_this_plan && !waiting.is_empty())
        });
    }
    // The order that the store gives them in.
    held.sort_by(|a, b| (&a.id, a.kind.trailer()).cmp(&(&b.id, b.kind.trailer())));
    (held, approved)
}

/// What of a pass can be approved, by the id that a trailer names: the plan, and what no plan with more in it covers.
fn held_plans(plan: &Plan, kind: ApprovalKind) -> BTreeMap<PlanId, BTreeSet<ResourceKey>> {
    let mut held = BTreeMap::from([(plan.id.clone(), plan.awaiting(kind))]);
    match kind {
        ApprovalKind::Deletes => {
            for blocked in &plan.blocked {
                if let Some(id) = &blocked.alone {
                    held.entry(id.clone()).or_default().insert(blocked.key.clone());
                }
            }
        }
        // What is made again is covered by its key.
        ApprovalKind::Create => {}
    }
    held
}

/// The keys of which something waits that an approval of `kind` is about: held, failed, not tried, not seen, or made by a
/// change that may have to be undone. Undoing is held until a commit approves it, at which the change is tried again first.
fn waiting(pass: &Pass<'_>, kind: ApprovalKind) -> BTreeSet<ResourceKey> {
    let plan = pass.plan;
    let blocked = plan.blocked.iter().filter_map(|blocked| blocked.step.as_ref());
    let undone = plan.steps.iter().filter(|step| !pass.applied.done.contains(&step.key));
    let concerned = blocked.chain(undone).filter(|step| match kind {
        ApprovalKind::Deletes => step.loses(),
        ApprovalKind::Create => step.action == Action::Create,
    });
    let unseen = plan.unknown.iter().map(|(key, _)| key);
    let known = concerned.map(|step| &step.key).chain(unseen).cloned().chain(plan.awaiting(kind));
    match kind {
        ApprovalKind::Deletes => known.chain(may_be_deleted_again(pass)).collect(),
        ApprovalKind::Create => known.collect(),
    }
}

/// What changes have made that are not given up so far, or were in this very pass: no plan says yet that it goes again.
fn may_be_deleted_again<'a>(pass: &Pass<'a>) -> impl Iterator<Item = ResourceKey> + 'a {
    let Pass { sagas, sagas_begun, sagas_over, .. } = *pass;
    let may_be_undone = sagas
        .values()
        .filter(move |saga| (saga.failure.is_none() || sagas_begun.contains(saga)) && !sagas_over.contains(saga));
    let made = may_be_undone.flat_map(|saga| saga.parts.iter().filter(|(_, part)| part.former.is_none()));
    made.map(|(key, _)| key.clone())
}

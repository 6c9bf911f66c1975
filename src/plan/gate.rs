//! What may pass now: approvals, quota, policies, windows, suspension, the deletion guard (R6), and readiness of
//! dependencies. Nothing here changes what a plan is, so the plan's id is made before.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Action, Approval, ApprovalKind, Blocked, PlanId, Reason, ResourceKey, Step};

use super::Draft;

/// Moves every step that may not pass from the plan's steps to its blocked ones.
pub(super) fn close(draft: &mut Draft<'_>) {
    let verdicts: Vec<Option<(Reason, String)>> = {
        let quota = over_quota(draft);
        let deletions = held_deletions(draft);
        draft.plan.steps.iter().map(|step| verdict(draft, step, &quota, &deletions)).collect()
    };
    let mut passing = Vec::new();
    for (step, verdict) in std::mem::take(&mut draft.plan.steps).into_iter().zip(verdicts) {
        match verdict {
            None => passing.push(step),
            Some((reason, message)) => {
                draft.plan.blocked.push(Blocked { key: step.key.clone(), reason, message, step: Some(step) });
            }
        }
    }
    draft.plan.steps = passing;
    hold_dependents(draft);
}

/// Why a step may not pass; the first reason that holds.
fn verdict(
    draft: &Draft<'_>,
    step: &Step,
    quota: &BTreeMap<ResourceKey, String>,
    deletions: &BTreeMap<ResourceKey, (Reason, String)>,
) -> Option<(Reason, String)> {
    let key = &step.key;
    let suspended = match draft.desired.resources.get(key) {
        Some(resource) => resource.annotations.suspend,
        None => draft.prior.get(key).is_some_and(|record| record.annotations.suspend),
    };
    if suspended {
        return Some((Reason::Suspended, "plumb.dev/suspend is set; remove it to go on".to_owned()));
    }
    if let Some(message) = draft.desired.denied.get(key) {
        return Some((Reason::PolicyDenied, message.clone()));
    }
    if let Some(message) = quota.get(key) {
        return Some((Reason::QuotaExceeded, message.clone()));
    }
    if let Some(held) = draft.held_steps.get(key)
        && !is_approved(draft, held.approval, &held_keys(draft, held.approval))
    {
        let message = format!("{}. {}", held.message, way_out(held.approval, &draft.plan.id, draft));
        return Some((held.reason, message));
    }
    if let Some(verdict) = deletions.get(key) {
        return Some(verdict.clone());
    }
    let closed = draft.decisions.closed_windows.get(&key.environment)?;
    Some((Reason::WindowClosed, closed.clone()))
}

/// How to approve; only a full plan can be.
fn way_out(kind: ApprovalKind, plan: &PlanId, draft: &Draft<'_>) -> String {
    match draft.plan.scope {
        crate::model::PlanScope::Full => {
            format!("To let it happen, commit anything with the trailer \"{}: {plan}\"", kind.trailer())
        }
        crate::model::PlanScope::Keys(_) => "The next full pass names the plan that can be approved".to_owned(),
    }
}

/// The keys an approval of that kind has to cover: those of held steps, and for deletions all that delete.
fn held_keys(draft: &Draft<'_>, kind: ApprovalKind) -> BTreeSet<ResourceKey> {
    let held = draft.held_steps.iter().filter(|(_, held)| held.approval == kind).map(|(key, _)| key.clone());
    match kind {
        ApprovalKind::Create => held.collect(),
        ApprovalKind::Deletes => {
            held.chain(draft.plan.steps.iter().filter(|step| loses(step)).map(|step| step.key.clone())).collect()
        }
    }
}

fn is_approved(draft: &Draft<'_>, kind: ApprovalKind, keys: &BTreeSet<ResourceKey>) -> bool {
    draft.decisions.approvals.iter().filter(|approval| approval.kind == kind).any(
        |Approval { plan, keys: covered, .. }| *plan == draft.plan.id || (!keys.is_empty() && keys.is_subset(covered)),
    )
}

/// Whether a step deletes, in the sense of R6.
fn loses(step: &Step) -> bool {
    match step.action {
        Action::Delete | Action::Replace => true,
        Action::Create | Action::Update | Action::Adopt => !step.destructive.is_empty(),
    }
}

/// The deletion guard (R6) and what holds all deletions (R9).
fn held_deletions(draft: &Draft<'_>) -> BTreeMap<ResourceKey, (Reason, String)> {
    let deleting: Vec<&Step> =
        draft.plan.steps.iter().filter(|step| loses(step) && !draft.held_steps.contains_key(&step.key)).collect();
    let keys: BTreeSet<ResourceKey> = deleting.iter().map(|step| step.key.clone()).collect();
    if deleting.is_empty() || is_approved(draft, ApprovalKind::Deletes, &keys) {
        return BTreeMap::new();
    }
    let exit = way_out(ApprovalKind::Deletes, &draft.plan.id, draft);
    let verdict = if let Some((reason, message)) = draft.decisions.prune_holds.first() {
        (*reason, format!("{message}. {exit}"))
    } else {
        let guard = draft.terms.platform.spec.deletion_guard;
        let all = draft.prior.live().count();
        let losses: usize = deleting.iter().map(|step| step.destructive.len().max(1)).sum();
        let whole = deleting.iter().filter(|step| matches!(step.action, Action::Delete | Action::Replace)).count();
        let many = losses > guard.count && losses * 100 > all * guard.percent;
        if !many && whole < all {
            return BTreeMap::new();
        }
        let what = if whole >= all { format!("all {all}") } else { format!("{losses} of {all}") };
        (
            Reason::DeletionsHeld,
            format!("this plan deletes {what} of the tenant's resources, which needs a person. {exit}"),
        )
    };
    keys.into_iter().map(|key| (key, verdict.clone())).collect()
}

/// Over the quota only new keys are blocked, in key order.
fn over_quota(draft: &Draft<'_>) -> BTreeMap<ResourceKey, String> {
    let mut room: BTreeMap<_, _> = draft
        .terms
        .tenant
        .quotas
        .iter()
        .map(|(kind, quota)| (*kind, quota.saturating_sub(draft.prior.live().filter(|r| r.key.kind == *kind).count())))
        .collect();
    let mut new: Vec<&ResourceKey> = draft
        .plan
        .steps
        .iter()
        .filter(|step| matches!(step.action, Action::Create | Action::Adopt) && draft.prior.get(&step.key).is_none())
        .map(|step| &step.key)
        .collect();
    new.sort();
    let mut over = BTreeMap::new();
    for key in new {
        match room.get_mut(&key.kind) {
            None => {}
            Some(0) => {
                let quota = draft.terms.tenant.quotas[&key.kind];
                let message = format!(
                    "the tenant may have {quota} of kind {}; remove one, or ask the platform team for more",
                    key.kind
                );
                over.insert(key.clone(), message);
            }
            Some(left) => *left -= 1,
        }
    }
    over
}

/// A step waits while something it needs does not exist, and a deletion while something that needs it stays.
fn hold_dependents(draft: &mut Draft<'_>) {
    loop {
        let missing = missing_dependencies(draft);
        if missing.is_empty() {
            return;
        }
        let (held, passing): (Vec<Step>, Vec<Step>) =
            std::mem::take(&mut draft.plan.steps).into_iter().partition(|step| missing.contains_key(&step.key));
        draft.plan.steps = passing;
        for step in held {
            let message = missing[&step.key].clone();
            let key = step.key.clone();
            draft.block(&key, Reason::DependencyNotReady, message, Some(step));
        }
    }
}

fn missing_dependencies(draft: &Draft<'_>) -> BTreeMap<ResourceKey, String> {
    let passing: BTreeSet<&ResourceKey> = draft.plan.steps.iter().map(|step| &step.key).collect();
    let mut missing = BTreeMap::new();
    for step in &draft.plan.steps {
        let waits_for = match step.action {
            // An existing object is kept up whatever becomes of its dependencies.
            Action::Update => None,
            Action::Create | Action::Adopt | Action::Replace => draft
                .desired
                .resources
                .get(&step.key)
                .into_iter()
                .flat_map(|resource| &resource.depends_on)
                .find(|dependency| !passing.contains(dependency) && !exists(draft, dependency))
                .map(|dependency| format!("it depends on {dependency}, which is not there yet")),
            Action::Delete => draft
                .prior
                .live()
                .find(|record| {
                    record.depends_on.contains(&step.key)
                        && !passing.contains(&record.key)
                        && exists(draft, &record.key)
                })
                .map(|record| format!("{} depends on it and stays", record.key)),
        };
        if let Some(message) = waits_for {
            missing.insert(step.key.clone(), message);
        }
    }
    missing
}

/// Whether an object of `key` is there and ours; unknown counts as not.
fn exists(draft: &Draft<'_>, key: &ResourceKey) -> bool {
    use crate::model::{Observation, Ownership};
    match draft.live.objects.get(key) {
        Some(Observation::Present(live)) => match &live.ownership {
            Ownership::Marked(mark) => draft.is_ours(mark, key) && !mark.unfinished,
            Ownership::Unmarked => false,
        },
        Some(Observation::Absent { .. } | Observation::Unknown(_)) => false,
        // Outside a narrowed plan's scope, the record speaks.
        None => draft.prior.get(key).is_some(),
    }
}

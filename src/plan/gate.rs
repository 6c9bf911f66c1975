//! What may pass now: approvals, quota, policies, windows, suspension, the deletion guard (R6), and readiness of
//! dependencies. Nothing here changes what a plan is, so the plan's id is made before.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Action, Approval, ApprovalKind, Blocked, Hold, Kind, Observation, Ownership, PlanId, PlanScope, Reason,
    ResourceKey, Settle, Step, Suspend, TenantSpec,
};

use super::{ApprovedAs, Draft, Held, id, waiting};

/// Moves every step that may not pass from the plan's steps to its blocked ones.
pub(super) fn close(draft: &mut Draft<'_>) {
    let quota = over_quota(draft);
    stop(draft, |draft, step| forbidden(draft, step, &quota).map(Stop::from));
    let deletions = held_deletions(draft);
    stop(draft, |draft, step| {
        let waits = || deletions.get(&step.key).cloned().or_else(|| not_yet(draft, step)).map(Stop::from);
        unapproved(draft, step).or_else(waits)
    });
    let_go(draft);
    waiting::hold_dependents(draft);
}

/// Why a step is held, and what approves it where nothing but the id of a plan of it alone does.
struct Stop {
    hold: Hold,
    alone: Option<PlanId>,
}

impl From<Hold> for Stop {
    fn from(hold: Hold) -> Self {
        Self { hold, alone: None }
    }
}

/// Blocks the steps on which there is a verdict.
fn stop(draft: &mut Draft<'_>, verdict: impl Fn(&Draft<'_>, &Step) -> Option<Stop>) {
    for step in std::mem::take(&mut draft.plan.steps) {
        match verdict(draft, &step) {
            None => draft.plan.steps.push(step),
            Some(Stop { hold: Hold { reason, message, until }, alone }) => {
                let (key, step) = (step.key.clone(), Some(step));
                draft.plan.blocked.push(Blocked { key, reason, message, until, step, alone });
            }
        }
    }
}

/// What no approval lets pass.
fn forbidden(draft: &Draft<'_>, step: &Step, quota: &BTreeMap<ResourceKey, String>) -> Option<Hold> {
    let key = &step.key;
    if let Some(hold) = suspended(draft, key) {
        return Some(hold);
    }
    if let Some(message) = draft.desired.denied.get(key) {
        return Some(Hold::by(Reason::PolicyDenied, message));
    }
    quota.get(key).map(|message| Hold::by(Reason::QuotaExceeded, message))
}

/// Why nothing may be done to `key` for now: its tenant is suspended, or its document says so.
pub(super) fn suspended(draft: &Draft<'_>, key: &ResourceKey) -> Option<Hold> {
    if let Some(message) = suspended_by_platform(draft, key) {
        return Some(Hold::by(Reason::Suspended, message));
    }
    let exit = match draft.desired.resources.get(key) {
        Some(resource) => resource.annotations.suspend.then_some("remove it to go on"),
        None => draft
            .prior
            .get(key)
            .filter(|record| record.annotations.suspend)
            .map(|_| "bring the document back without it, then remove it again"),
    };
    exit.map(|exit| Hold::by(Reason::Suspended, format!("plumb.dev/suspend is set; {exit}")))
}

/// Where the platform has suspended the tenant: what, why, and how that ends.
fn suspended_by_platform(draft: &Draft<'_>, key: &ResourceKey) -> Option<String> {
    let TenantSpec { suspend, suspend_reason, .. } = draft.terms.tenant;
    let ResourceKey { tenant, environment, .. } = key;
    if !suspend.covers(environment) {
        return None;
    }
    let (what, exit) = match suspend {
        Suspend::Everywhere(_) => (format!("tenant {tenant}"), "spec.suspend".to_owned()),
        Suspend::Environments(_) => {
            (format!("{environment} of tenant {tenant}"), format!("{environment} from spec.suspend"))
        }
    };
    let why = suspend_reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    Some(format!("{what} is suspended{why}; to go on, remove {exit} of its Tenant in the platform repository"))
}

/// What waits for an approval of its own: each key counts for itself.
fn unapproved(draft: &Draft<'_>, step: &Step) -> Option<Stop> {
    let Held { reason, message, approval, approved_as } = draft.held_steps.get(&step.key)?;
    let alone = match approved_as {
        ApprovedAs::Key => None,
        ApprovedAs::Step => Some(id::id_of_step(step)),
    };
    let is_approved = || match &alone {
        None => is_approved(draft, *approval, &BTreeSet::from([&step.key])),
        Some(id) => draft.decisions.approvals.iter().any(|given| given.kind == *approval && given.plan == *id),
    };
    // A narrowed plan loses nothing, whatever is approved: the full one does it.
    let may_pass = *draft.scope == PlanScope::Full || !step.loses();
    if may_pass && is_approved() {
        return None;
    }
    let exit = way_out(*approval, alone.as_ref().unwrap_or(&draft.plan.id), draft);
    // Only a full plan names what can be approved.
    let alone = alone.filter(|_| *draft.scope == PlanScope::Full);
    Some(Stop { hold: Hold::by(*reason, format!("{message}. {exit}")), alone })
}

/// What has to wait. Where nothing is done either when the window opens, that is told, and not the window.
fn not_yet(draft: &Draft<'_>, step: &Step) -> Option<Hold> {
    let failed = draft.decisions.not_now.get(&step.key);
    let window = draft.decisions.closed_windows.get(&step.key.environment);
    failed.filter(|hold| hold.until.is_none()).or(window).or(failed).cloned()
}

/// One trailer approves all that waits for its kind of approval, so each message names what else it lets pass.
pub(super) fn name_what_else_passes(draft: &mut Draft<'_>) {
    /// More names than these are counted.
    const NAMED: usize = 5;
    for kind in [ApprovalKind::Deletes, ApprovalKind::Create] {
        let covered = draft.plan.awaiting(kind);
        for blocked in draft.plan.blocked.iter_mut().filter(|blocked| covered.contains(&blocked.key)) {
            let others: Vec<String> =
                covered.iter().filter(|key| **key != blocked.key).map(ToString::to_string).collect();
            let names = others[..others.len().min(NAMED)].join(", ");
            match others.len() {
                0 => {}
                1..=NAMED => blocked.message.push_str(&format!("; that also covers {names}")),
                all => blocked.message.push_str(&format!("; that also covers {names} and {} more", all - NAMED)),
            }
        }
    }
}

/// How to approve; only a full plan can be.
fn way_out(kind: ApprovalKind, plan: &PlanId, draft: &Draft<'_>) -> String {
    match draft.scope {
        PlanScope::Full => {
            format!("To let it happen, commit anything with the trailer \"{}: {plan}\"", kind.trailer())
        }
        PlanScope::Keys(_) => "The next full pass names the plan that can be approved".to_owned(),
    }
}

/// Whether a person approved this very plan, or a set of keys that has all of these.
fn is_approved(draft: &Draft<'_>, kind: ApprovalKind, keys: &BTreeSet<&ResourceKey>) -> bool {
    draft.decisions.approvals.iter().filter(|approval| approval.kind == kind).any(
        |Approval { plan, keys: covered, .. }| {
            *plan == draft.plan.id || (!keys.is_empty() && keys.iter().all(|key| covered.contains(*key)))
        },
    )
}

/// The deletion guard (R6) and what holds all deletions (R9).
fn held_deletions(draft: &Draft<'_>) -> BTreeMap<ResourceKey, Hold> {
    let mut deleting: Vec<&Step> =
        draft.plan.steps.iter().filter(|step| step.loses() && !draft.held_steps.contains_key(&step.key)).collect();
    if *draft.scope == PlanScope::Full && draft.decisions.prune_holds.is_empty() {
        // Of what is not there only the rest can go: the guard has let its deletion pass before.
        deleting.retain(|step| !is_absent(draft, &step.key));
    }
    if deleting.is_empty() {
        return BTreeMap::new();
    }
    let keys: BTreeSet<&ResourceKey> = deleting.iter().map(|step| &step.key).collect();
    let verdict = match draft.scope {
        PlanScope::Keys(_) => Some(Hold::by(
            Reason::DeletionsHeld,
            "it deletes something, which only a full pass does; the next one decides",
        )),
        PlanScope::Full if is_approved(draft, ApprovalKind::Deletes, &keys) => None,
        PlanScope::Full => match draft.decisions.prune_holds.first() {
            Some((reason, message)) => {
                Some(Hold::by(*reason, format!("{message}. {}", way_out(ApprovalKind::Deletes, &draft.plan.id, draft))))
            }
            None => guarded(draft, &deleting).map(|what| {
                let exit = way_out(ApprovalKind::Deletes, &draft.plan.id, draft);
                let message =
                    format!("this plan deletes {what} of the tenant's resources, which needs a person. {exit}");
                Hold::by(Reason::DeletionsHeld, message)
            }),
        },
    };
    verdict.map_or_else(BTreeMap::new, |verdict| keys.into_iter().map(|key| (key.clone(), verdict.clone())).collect())
}

/// How much is lost, when that is more than the guard lets pass.
fn guarded(draft: &Draft<'_>, deleting: &[&Step]) -> Option<String> {
    let guard = draft.terms.platform.spec.deletion_guard;
    let all: usize = managed(draft).values().sum();
    let losses: usize = deleting.iter().map(|step| step.destructive.len().max(1)).sum();
    let whole = deleting.iter().filter(|step| matches!(step.action, Action::Delete | Action::Replace)).count();
    let many = losses > guard.count && losses * 100 > all * guard.percent;
    let held_before = deleting.iter().any(|step| draft.decisions.held_deletes.contains(&step.key));
    if whole > 0 && whole >= all {
        Some(format!("all {all}"))
    } else {
        (many || held_before).then(|| format!("{losses} of {all}"))
    }
}

/// What the tenant has, by kind: what the inventory knows, and what is there and ours where it was lost (R4).
fn managed(draft: &Draft<'_>) -> BTreeMap<Kind, usize> {
    let recovered = draft.desired.resources.keys().filter(|key| is_recovered(draft, key));
    let mut managed = BTreeMap::new();
    // What git does not want and is not there is only remembered until nothing is left of it.
    let is_over = |key: &&ResourceKey| !draft.desired.resources.contains_key(*key) && is_absent(draft, key);
    let known = draft.prior.live().map(|record| &record.key).filter(|key| !is_over(key));
    for key in known.chain(recovered) {
        *managed.entry(key.kind).or_default() += 1;
    }
    managed
}

fn is_absent(draft: &Draft<'_>, key: &ResourceKey) -> bool {
    matches!(draft.live.objects.get(key), Some(Observation::Absent { .. }))
}

/// Whether the inventory does not know an object that is there and ours.
fn is_recovered(draft: &Draft<'_>, key: &ResourceKey) -> bool {
    if draft.prior.get(key).is_some() {
        return false;
    }
    match draft.live.objects.get(key) {
        Some(Observation::Present(live)) => match &live.ownership {
            Ownership::Marked(mark) => draft.is_ours(mark, key),
            Ownership::Unmarked => false,
        },
        Some(Observation::Absent { .. } | Observation::Unknown(_)) | None => false,
    }
}

/// Forgets what a hold on all deletions (R9) kept, once that is approved.
fn let_go(draft: &mut Draft<'_>) {
    for (key, reason) in std::mem::take(&mut draft.held_forgets) {
        match draft.decisions.prune_holds.first() {
            Some((hold, message)) if !is_approved(draft, ApprovalKind::Deletes, &BTreeSet::from([&key])) => {
                let message = format!("{message}. {}", way_out(ApprovalKind::Deletes, &draft.plan.id, draft));
                draft.block(&key, *hold, message, None);
            }
            Some(_) | None => draft.plan.settles.push(Settle::Forget { key, reason }),
        }
    }
}

/// Over the quota only new keys are blocked, in key order.
fn over_quota(draft: &Draft<'_>) -> BTreeMap<ResourceKey, String> {
    let mut new: Vec<&ResourceKey> = draft
        .plan
        .steps
        .iter()
        .filter(|step| matches!(step.action, Action::Create | Action::Adopt))
        .filter(|step| draft.prior.get(&step.key).is_none() && !is_recovered(draft, &step.key))
        .map(|step| &step.key)
        .collect();
    let mut over = BTreeMap::new();
    if new.is_empty() {
        return over;
    }
    new.sort();
    let managed = managed(draft);
    let taken = |kind: &Kind| managed.get(kind).copied().unwrap_or_default();
    let quotas = &draft.terms.tenant.quotas;
    let mut room: BTreeMap<Kind, usize> =
        quotas.iter().map(|(kind, quota)| (*kind, quota.saturating_sub(taken(kind)))).collect();
    for key in new {
        match room.get_mut(&key.kind) {
            None => {}
            Some(0) => {
                let quota = quotas[&key.kind];
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

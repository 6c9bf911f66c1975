//! When nothing of a tenant is deleted, whatever its tree says (R9).

use crate::model::{Decisions, DesiredState, Inventory, ObjectHex, Plan, PlanScope, Reason, ResourceKey, TenantSpec};

use super::apply::Applied;
use super::memory::Memory;

/// Why a tenant's head is not a later word of what was read last: another source, or another history.
/// `descends_from` is whether the head descends from a commit.
pub(super) fn departure<E>(
    spec: &TenantSpec,
    memory: &Memory,
    descends_from: impl FnOnce(&ObjectHex) -> Result<bool, E>,
) -> Result<Option<Reason>, E> {
    let Some(state) = &memory.state else { return Ok(None) };
    let repository = &spec.repository;
    if state.url != repository.url || state.branch != repository.branch || state.path != repository.path {
        return Ok(Some(Reason::SourceChanged));
    }
    match &state.head {
        Some(before) if !descends_from(before)? => Ok(Some(Reason::HistoryRewritten)),
        Some(_) | None => Ok(None),
    }
}

/// Why all deletions of a tenant are held. `files` is how many manifests its tree holds.
pub(super) fn prune_holds(memory: &Memory, files: usize, departure: Option<Reason>) -> Vec<(Reason, String)> {
    let before = memory.state.as_ref().and_then(|state| state.hold);
    let source = departure.or(before).map(|reason| (reason, hold_message(reason)));
    empty_tree(memory, files).into_iter().chain(source).collect()
}

/// A tree without any manifest, of a tenant that has something.
pub(super) fn empty_tree(memory: &Memory, files: usize) -> Option<(Reason, String)> {
    let emptied = files == 0 && memory.inventory.live().next().is_some();
    emptied.then(|| (Reason::EmptyTree, "the tree holds no manifest at all".to_owned()))
}

fn hold_message(reason: Reason) -> String {
    match reason {
        Reason::SourceChanged => "the tenant's repository, branch or path changed".to_owned(),
        Reason::HistoryRewritten => {
            "the branch was rewritten: its head does not descend from the one before".to_owned()
        }
        other => other.explain().trim().trim_end_matches('.').to_lowercase(),
    }
}

/// The hold that outlives the pass that saw it; an empty tree is seen again each time.
pub(super) fn sticky(decisions: &Decisions) -> Option<Reason> {
    decisions.prune_holds.iter().map(|(reason, _)| *reason).find(|reason| *reason != Reason::EmptyTree)
}

/// The hold that outlives this pass. It ends when a full pass left nothing in the inventory that git does not want.
pub(super) fn left_over(
    decisions: &Decisions,
    plan: &Plan,
    applied: &Applied,
    desired: &DesiredState,
    prior: &Inventory,
) -> Option<Reason> {
    let is_settled =
        |key: &ResourceKey| applied.done.contains(key) || plan.settles.iter().any(|settle| settle.key() == key);
    let still_holds = plan.scope != PlanScope::Full
        || !desired.unreadable.is_empty()
        || prior.live().any(|record| {
            let key = &record.key;
            !desired.resources.contains_key(key) && !desired.rejected.contains_key(key) && !is_settled(key)
        });
    sticky(decisions).filter(|_| still_holds)
}

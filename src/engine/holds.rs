//! When nothing of a tenant is deleted, whatever its tree says (R9).

use crate::model::{
    Decisions, DesiredState, Inventory, ObjectHex, Plan, PlanScope, Reason, ResourceKey, Step, TenantSpec,
};

use super::apply::Applied;
use super::memory::Memory;

/// So many heads that were left are remembered.
const MOST_LEFT: usize = 16;

/// How a tenant's head follows what was read last.
#[derive(Clone, Debug, Default)]
pub(super) struct Lineage {
    /// Why it is not a later word of that: another source, or another history.
    pub departure: Option<Reason>,
    /// Heads that were left, and did not come back.
    pub left: Vec<ObjectHex>,
}

/// How `head` follows what `memory` knows. `descends_from` is whether it descends from a commit.
///
/// A history that is put right again is a departure too: it says what it said before it was left, and not anew.
pub(super) fn lineage<E>(
    spec: &TenantSpec,
    memory: &Memory,
    head: &ObjectHex,
    descends_from: impl Fn(&ObjectHex) -> Result<bool, E>,
) -> Result<Lineage, E> {
    let Some(state) = &memory.state else { return Ok(Lineage::default()) };
    let repository = &spec.repository;
    let moved = state.url != repository.url || state.branch != repository.branch || state.path != repository.path;
    if !moved && state.head.as_ref() == Some(head) {
        return Ok(Lineage { departure: None, left: state.left.clone() });
    }
    let mut left = Vec::new();
    for head in &state.left {
        if !descends_from(head)? {
            left.push(head.clone());
        }
    }
    let came_back = left.len() < state.left.len();
    let mut rewritten = false;
    if let Some(before) = &state.head
        && !descends_from(before)?
    {
        rewritten = true;
        left.push(before.clone());
    }
    left.drain(..left.len().saturating_sub(MOST_LEFT));
    let departure = match (moved, rewritten || came_back) {
        (true, _) => Some(Reason::SourceChanged),
        (false, true) => Some(Reason::HistoryRewritten),
        (false, false) => None,
    };
    Ok(Lineage { departure, left })
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
        Reason::HistoryRewritten => "the branch was rewritten: its head does not follow the ones before".to_owned(),
        other => other.explain().trim().trim_end_matches('.').to_lowercase(),
    }
}

/// The hold that outlives the pass that saw it; an empty tree is seen again each time.
pub(super) fn sticky(decisions: &Decisions) -> Option<Reason> {
    decisions.prune_holds.iter().map(|(reason, _)| *reason).find(|reason| *reason != Reason::EmptyTree)
}

/// The hold that outlives this pass. It ends when a full pass left nothing in the inventory that git does not want, has
/// seen everything, and nothing that would be lost has to wait: what the next one finds is what this one was to hold.
pub(super) fn left_over(
    decisions: &Decisions,
    plan: &Plan,
    applied: &Applied,
    desired: &DesiredState,
    prior: &Inventory,
) -> Option<Reason> {
    let is_settled =
        |key: &ResourceKey| applied.done.contains(key) || plan.settles.iter().any(|settle| settle.key() == key);
    // An orphan is deleted by approval alone, and may stay one for ever.
    let is_managed = |step: &&Step| desired.resources.contains_key(&step.key) || prior.get(&step.key).is_some();
    let blocked = plan.blocked.iter().filter_map(|blocked| blocked.step.as_ref());
    let undone = plan.steps.iter().filter(|step| !applied.done.contains(&step.key));
    let still_holds = plan.scope != PlanScope::Full
        || !desired.unreadable.is_empty()
        || !desired.rejected.is_empty()
        || !plan.unknown.is_empty()
        || blocked.chain(undone).filter(is_managed).any(Step::loses)
        || prior.unwanted(desired).any(|record| !is_settled(&record.key));
    sticky(decisions).filter(|_| still_holds)
}

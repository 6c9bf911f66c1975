//! The order of steps: dependencies first, and for deletions the other way round.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Action, DesiredState, Inventory, ResourceKey, Step};

/// Fills in each step's `depends_on` and sorts the steps so that no step comes before what it depends on; keys break
/// ties. Validation refuses cycles; one that all the same came about, over several commits, is cut at its first key.
pub(super) fn ordered(
    mut steps: Vec<Step>,
    desired: &DesiredState,
    prior: &Inventory,
    rolled_back: &BTreeMap<ResourceKey, String>,
) -> Vec<Step> {
    let actions: BTreeMap<ResourceKey, Action> = steps.iter().map(|step| (step.key.clone(), step.action)).collect();
    let mut edges: BTreeMap<ResourceKey, BTreeSet<ResourceKey>> = BTreeMap::new();
    for key in actions.keys() {
        // What is deleted goes after everything that was applied as depending on it: it is deleted too, or changed so
        // that it no longer does.
        for dependency in prior.get(key).into_iter().flat_map(|record| &record.depends_on) {
            if is_deletion(actions.get(dependency)) {
                edges.entry(dependency.clone()).or_default().insert(key.clone());
            }
        }
        if !is_deletion(actions.get(key)) {
            for dependency in desired.resources.get(key).into_iter().flat_map(|resource| &resource.depends_on) {
                if !actions.contains_key(dependency) || is_deletion(actions.get(dependency)) {
                    continue;
                }
                // What is undone was done in this order.
                let (later, earlier) = match rolled_back.contains_key(key) && rolled_back.contains_key(dependency) {
                    true => (dependency, key),
                    false => (key, dependency),
                };
                edges.entry(later.clone()).or_default().insert(earlier.clone());
            }
        }
    }
    for step in &mut steps {
        step.depends_on = edges.get(&step.key).into_iter().flatten().cloned().collect();
    }
    sort(steps)
}

fn is_deletion(action: Option<&Action>) -> bool {
    matches!(action, Some(Action::Delete))
}

/// Kahn's algorithm over a sorted ready set.
fn sort(steps: Vec<Step>) -> Vec<Step> {
    let mut waiting: BTreeMap<ResourceKey, usize> = BTreeMap::new();
    let mut dependents: BTreeMap<ResourceKey, Vec<ResourceKey>> = BTreeMap::new();
    for step in &steps {
        waiting.insert(step.key.clone(), step.depends_on.len());
        for dependency in &step.depends_on {
            dependents.entry(dependency.clone()).or_default().push(step.key.clone());
        }
    }
    let mut by_key: BTreeMap<ResourceKey, Step> = steps.into_iter().map(|step| (step.key.clone(), step)).collect();
    let mut ready: BTreeSet<ResourceKey> =
        waiting.iter().filter(|(_, count)| **count == 0).map(|(key, _)| key.clone()).collect();
    let mut sorted = Vec::with_capacity(by_key.len());
    while let Some(key) = ready.pop_first().or_else(|| by_key.keys().next().cloned()) {
        for dependent in dependents.remove(&key).unwrap_or_default() {
            if let Some(count) = waiting.get_mut(&dependent) {
                *count -= 1;
                if *count == 0 && by_key.contains_key(&dependent) {
                    ready.insert(dependent);
                }
            }
        }
        if let Some(mut step) = by_key.remove(&key) {
            step.depends_on.retain(|dependency| *dependency != key && !by_key.contains_key(dependency));
            sorted.push(step);
        }
    }
    sorted
}

//! A step waits while something it needs does not exist, and a deletion while something that needs it stays.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::model::{Action, Observation, Ownership, PlanScope, Reason, ResourceKey, Settle, Step};

use super::Draft;

/// Moves steps that have to wait for others from the plan's steps to its blocked ones, and then those that wait for
/// them. Each step is looked at again only when one that it needs was held.
pub(super) fn hold_dependents(draft: &mut Draft<'_>) {
    let held = Waiting::of(draft).settle();
    if held.is_empty() {
        return;
    }
    for step in std::mem::take(&mut draft.plan.steps) {
        match held.get(&step.key) {
            None => draft.plan.steps.push(step),
            Some((reason, message)) => {
                let key = step.key.clone();
                draft.block(&key, *reason, message.clone(), Some(step));
            }
        }
    }
}

struct Waiting<'d> {
    draft: &'d Draft<'d>,
    /// Steps that pass, so far.
    passing: BTreeMap<&'d ResourceKey, Action>,
    /// Keys whose records are brought up to date, or let go of, without a step.
    settled: BTreeSet<&'d ResourceKey>,
    /// For each key that is to be deleted: who needs it, or needed it when it was applied.
    needed_by: BTreeMap<&'d ResourceKey, BTreeSet<&'d ResourceKey>>,
    /// For each key: the steps that have to be looked at again when it is held.
    watched_by: BTreeMap<&'d ResourceKey, BTreeSet<&'d ResourceKey>>,
}

impl<'d> Waiting<'d> {
    fn of(draft: &'d Draft<'_>) -> Self {
        let plan = &draft.plan;
        let passing: BTreeMap<&ResourceKey, Action> = plan.steps.iter().map(|step| (&step.key, step.action)).collect();
        let settled = plan.settles.iter().map(Settle::key).collect();
        let mut needed_by: BTreeMap<&ResourceKey, BTreeSet<&ResourceKey>> = BTreeMap::new();
        let mut watched_by: BTreeMap<&ResourceKey, BTreeSet<&ResourceKey>> = BTreeMap::new();
        for (dependent, dependencies) in dependents(draft) {
            for dependency in dependencies {
                match passing.get(dependency) {
                    Some(Action::Delete) => {
                        needed_by.entry(dependency).or_default().insert(dependent);
                        watched_by.entry(dependent).or_default().insert(dependency);
                    }
                    Some(Action::Create | Action::Update | Action::Replace | Action::Adopt) => {
                        watched_by.entry(dependency).or_default().insert(dependent);
                    }
                    None => {}
                }
            }
        }
        Self { draft, passing, settled, needed_by, watched_by }
    }

    /// Holds until nothing more has to wait; gives the reasons.
    fn settle(mut self) -> BTreeMap<ResourceKey, (Reason, String)> {
        let mut held = BTreeMap::new();
        let mut queue: VecDeque<&'d Step> = self.draft.plan.steps.iter().collect();
        let steps: BTreeMap<&ResourceKey, &'d Step> = self.draft.plan.steps.iter().map(|s| (&s.key, s)).collect();
        while let Some(step) = queue.pop_front() {
            if !self.passing.contains_key(&step.key) {
                continue;
            }
            if let Some(why) = self.waits_for(step) {
                held.insert(step.key.clone(), why);
                self.passing.remove(&step.key);
                let watching = self.watched_by.get(&step.key).into_iter().flatten();
                queue.extend(watching.filter_map(|key| steps.get(*key).copied()));
            }
        }
        held
    }

    fn waits_for(&self, step: &Step) -> Option<(Reason, String)> {
        match step.action {
            // An existing object is kept up whatever becomes of its dependencies.
            Action::Update => None,
            Action::Create | Action::Adopt | Action::Replace => self
                .draft
                .desired
                .resources
                .get(&step.key)
                .into_iter()
                .flat_map(|resource| &resource.depends_on)
                .find(|dependency| !self.will_be_there(dependency))
                .map(|dependency| match self.is_unfinished(dependency) {
                    true => {
                        let message = format!("it depends on {dependency}, which was begun and is not whole yet");
                        (Reason::DependencyUnfinished, message)
                    }
                    false => {
                        (Reason::DependencyNotReady, format!("it depends on {dependency}, which is not there yet"))
                    }
                }),
            Action::Delete => self
                .needed_by
                .get(&step.key)
                .into_iter()
                .flatten()
                .find(|dependent| self.still_needs(dependent, &step.key))
                .map(|dependent| (Reason::DependencyNotReady, format!("{dependent} depends on it and stays"))),
        }
    }

    /// Whether the object of `key` was begun and is not whole: its mark came first (R2), and nobody uses it before its step
    /// has come to its end.
    fn is_unfinished(&self, key: &ResourceKey) -> bool {
        match self.draft.live.objects.get(key) {
            Some(Observation::Present(live)) => match &live.ownership {
                Ownership::Marked(mark) => self.draft.is_ours(mark, key) && mark.unfinished,
                Ownership::Unmarked => false,
            },
            Some(Observation::Absent { .. } | Observation::Unknown(_)) | None => false,
        }
    }

    /// Whether `key` exists, or a step that passes makes it; unknown counts as not.
    fn will_be_there(&self, key: &ResourceKey) -> bool {
        match self.passing.get(key) {
            Some(Action::Create | Action::Update | Action::Replace | Action::Adopt) => return true,
            Some(Action::Delete) => return false,
            None => {}
        }
        match self.draft.live.objects.get(key) {
            Some(Observation::Present(live)) => match &live.ownership {
                Ownership::Marked(mark) => self.draft.is_ours(mark, key) && !mark.unfinished,
                Ownership::Unmarked => false,
            },
            Some(Observation::Absent { .. } | Observation::Unknown(_)) => false,
            // Outside a narrowed plan's scope, the record speaks.
            None => self.draft.prior.get(key).is_some(),
        }
    }

    /// Whether `key` was never made, and no step that passes makes it: it needs nothing yet. What is undone is such a case,
    /// where something that needed it could not be made.
    fn is_not_made(&self, key: &ResourceKey) -> bool {
        let is_absent = matches!(self.draft.live.objects.get(key), Some(Observation::Absent { .. }));
        is_absent && self.draft.prior.get(key).is_none() && !self.passing.contains_key(key)
    }

    /// Whether `dependent` keeps `key` from being deleted; who could not be seen still needs it.
    fn still_needs(&self, dependent: &ResourceKey, key: &ResourceKey) -> bool {
        if self.passing.get(dependent) == Some(&Action::Delete) {
            return false;
        }
        if let Some(resource) = self.draft.desired.resources.get(dependent) {
            if self.is_not_made(dependent) {
                return false;
            }
            // Git may have stopped needing it, and this plan brings the dependent up to that.
            let moves_on = self.passing.contains_key(dependent) || self.settled.contains(dependent);
            let needed_before = self.draft.prior.get(dependent).is_some_and(|record| record.depends_on.contains(key));
            return resource.depends_on.contains(key) || (needed_before && !moves_on);
        }
        if self.settled.contains(dependent) {
            // It is let go of, and what it needs with it.
            return false;
        }
        match self.draft.live.objects.get(dependent) {
            Some(Observation::Present(live)) => match &live.ownership {
                Ownership::Marked(mark) => self.draft.is_ours(mark, dependent),
                Ownership::Unmarked => false,
            },
            Some(Observation::Absent { .. }) => false,
            Some(Observation::Unknown(_)) | None => true,
        }
    }
}

/// Who depends, or depended when it was applied, on what. A narrowed plan deletes nothing, so that only what it is about
/// itself can have to wait.
fn dependents<'d>(draft: &'d Draft<'_>) -> Box<dyn Iterator<Item = (&'d ResourceKey, &'d Vec<ResourceKey>)> + 'd> {
    let Draft { prior, desired, .. } = draft;
    match draft.scope {
        PlanScope::Full => {
            let recorded = prior.live().map(|record| (&record.key, &record.depends_on));
            Box::new(recorded.chain(desired.resources.values().map(|resource| (&resource.key, &resource.depends_on))))
        }
        PlanScope::Keys(keys) => {
            let recorded = keys.iter().filter_map(|key| prior.get(key)).map(|record| (&record.key, &record.depends_on));
            let wanted = keys.iter().filter_map(|key| desired.resources.get(key));
            Box::new(recorded.chain(wanted.map(|resource| (&resource.key, &resource.depends_on))))
        }
    }
}

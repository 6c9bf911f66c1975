//! What happens to objects that git no longer wants (R4, R7, R9, R10).

use crate::model::{
    Action, ApprovalKind, Blocked, Deletion, Observation, Ownership, PlanScope, Reason, Record, Resource, ResourceKey,
    Settle,
};

use super::{Draft, Held};

impl Draft<'_> {
    /// Looks at every record whose document is gone, and at marked objects nobody speaks of. A narrowed plan never
    /// deletes.
    pub(super) fn consider_removals(&mut self) {
        if *self.scope != PlanScope::Full {
            return;
        }
        let (prior, desired, live) = (self.prior, self.desired, self.live);
        for record in prior.live() {
            if !desired.resources.contains_key(&record.key) && !desired.rejected.contains_key(&record.key) {
                self.consider_removal(record);
            }
        }
        for (key, stray) in &live.strays {
            let step = self.deletion(key, &stray.provider, &stray.object_name, &stray.object);
            let message = format!(
                "{} on {} bears this key's mark, and neither git nor the inventory speaks of it; to keep it under \
                 management commit its document again",
                stray.object_name, stray.provider
            );
            self.held_steps
                .insert(key.clone(), Held { reason: Reason::Orphaned, message, approval: ApprovalKind::Deletes });
            self.plan.steps.push(step);
        }
    }

    fn consider_removal(&mut self, record: &Record) {
        let key = &record.key;
        if !self.terms.tenant.environments.contains(&key.environment) {
            let message = format!(
                "the environment {} is no longer the tenant's; its resources are frozen. Give it back to the tenant to \
                 manage or remove them",
                key.environment
            );
            return self.block(key, Reason::EnvironmentRemoved, message, None);
        }
        if let Some(unreadable) = self.desired.unreadable.first() {
            let message = format!(
                "its document is gone, but the tree could not be read whole ({unreadable}), so nothing is pruned"
            );
            return self.block(key, Reason::UnreadableManifest, message, None);
        }
        match self.live.objects.get(key) {
            None => self.unseen_removal(key),
            Some(Observation::Unknown(unknown)) => self.plan.unknown.push((key.clone(), unknown.clone())),
            Some(Observation::Absent { .. }) => self.forget(key, Reason::Gone),
            Some(Observation::Present(live)) => match &live.ownership {
                Ownership::Unmarked => self.forget(key, Reason::NotOwned),
                Ownership::Marked(mark) if !self.is_ours(mark, key) => self.forget(key, Reason::OwnedByOther),
                Ownership::Marked(_) => {
                    let step = self.deletion(key, &record.provider, &record.object_name, &live.object);
                    if key.kind.info().data_bearing {
                        self.removed.insert(key.clone());
                    }
                    match record.annotations.deletion_of(key.kind) {
                        Deletion::Protect => {
                            let message = format!(
                                "its document is gone, but {} holds data and is protected. To delete it: bring the \
                                 document back with the annotation plumb.dev/deletion: delete, wait until that is \
                                 recorded, then remove it; plumb.dev/deletion: retain lets go of it instead",
                                record.object_name
                            );
                            self.block(key, Reason::DeletionProtected, message, Some(step));
                        }
                        Deletion::Retain if self.decisions.prune_holds.is_empty() => {
                            self.forget(key, Reason::Retained);
                        }
                        Deletion::Retain => {
                            let (reason, message) = self.decisions.prune_holds[0].clone();
                            self.block(key, reason, message, None);
                        }
                        Deletion::Delete => self.plan.steps.push(step),
                    }
                }
            },
        }
    }

    fn unseen_removal(&mut self, key: &ResourceKey) {
        let unknown = crate::model::Unknown::new(Reason::NotObserved, "it was not looked at in this pass");
        self.plan.unknown.push((key.clone(), unknown));
    }

    fn forget(&mut self, key: &ResourceKey, reason: Reason) {
        self.plan.settles.push(Settle::Forget { key: key.clone(), reason });
    }

    /// A data-bearing kind removed and created in one plan under the same name, or with the same spec, looks like a
    /// rename, and a rename would leave the data behind (R10).
    pub(super) fn hold_possible_renames(&mut self) {
        let pairs: Vec<(ResourceKey, ResourceKey)> = self
            .plan
            .steps
            .iter()
            .filter(|step| step.action == Action::Create && step.key.kind.info().data_bearing)
            .filter(|step| self.prior.get(&step.key).is_none())
            .filter_map(|step| self.desired.resources.get(&step.key))
            .filter_map(|created| self.renamed_from(created).map(|from| (from, created.key.clone())))
            .collect();
        for (from, to) in pairs {
            let message = format!(
                "{from} is removed and {to} is added: if that is a rename, the data would stay behind under the old \
                 name, so both are held. Bring {from} back; or let go of it first (plumb.dev/deletion: retain or \
                 delete, in a commit of its own)"
            );
            self.plan.blocked.retain(|blocked| blocked.key != from);
            let removal = self.take_step(&from);
            self.plan.blocked.push(Blocked {
                key: from,
                reason: Reason::PossibleRename,
                message: message.clone(),
                step: removal,
            });
            self.held_steps
                .insert(to, Held { reason: Reason::PossibleRename, message, approval: ApprovalKind::Create });
        }
    }

    fn renamed_from(&self, created: &Resource) -> Option<ResourceKey> {
        self.removed
            .iter()
            .filter(|removed| removed.kind == created.key.kind)
            .find(|removed| {
                let same_name = removed.name == created.key.name;
                let same_spec = self.prior.get(removed).is_some_and(|record| record.applied == created.fields);
                same_name || same_spec
            })
            .cloned()
    }

    fn take_step(&mut self, key: &ResourceKey) -> Option<crate::model::Step> {
        let at = self.plan.steps.iter().position(|step| step.key == *key)?;
        Some(self.plan.steps.remove(at))
    }
}

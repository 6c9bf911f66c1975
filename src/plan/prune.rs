//! What happens to objects that git no longer wants (R4, R7, R9).

use crate::model::{
    Action, ApprovalKind, Deletion, Observation, Ownership, PlanScope, Reason, Record, ResourceKey, Settle, Step,
    Stray, Unknown,
};

use super::{ApprovedAs, Draft, Held};

impl Draft<'_> {
    /// Looks at every record whose document is gone, and at marked objects nobody speaks of. A narrowed plan that makes
    /// something only notes what was removed, so that a rename is seen; it never deletes.
    pub(super) fn consider_removals(&mut self) {
        let (prior, desired, live) = (self.prior, self.desired, self.live);
        let makes_something = self.plan.steps.iter().any(|step| step.action == Action::Create);
        if matches!(self.scope, PlanScope::Keys(_)) && !makes_something {
            return;
        }
        for record in prior.unwanted(desired) {
            if self.may_leave_data_behind(record) {
                self.removed.insert(record.key.clone());
            }
            match self.scope {
                PlanScope::Full => self.consider_removal(record),
                PlanScope::Keys(_) => {}
            }
        }
        for (key, stray) in &live.strays {
            if self.is_spoken_of(key) {
                continue;
            }
            if key.kind.info().data_bearing {
                self.orphaned.insert(key.clone());
            }
            match self.scope {
                PlanScope::Full => self.consider_stray(key, stray),
                PlanScope::Keys(_) => {}
            }
        }
    }

    /// Whether git or the inventory knows `key`.
    fn is_spoken_of(&self, key: &ResourceKey) -> bool {
        self.desired.resources.contains_key(key)
            || self.desired.rejected.contains_key(key)
            || self.prior.records.contains_key(key)
    }

    /// Whether a removed resource holds data that is still there, as far as anybody can see.
    fn may_leave_data_behind(&self, record: &Record) -> bool {
        let key = &record.key;
        key.kind.info().data_bearing
            && match self.live.objects.get(key) {
                None | Some(Observation::Unknown(_)) => true,
                Some(Observation::Absent { .. }) => false,
                Some(Observation::Present(live)) => match &live.ownership {
                    Ownership::Unmarked => false,
                    Ownership::Marked(mark) => self.is_ours(mark, key),
                },
            }
    }

    fn consider_removal(&mut self, record: &Record) {
        let key = &record.key;
        if self.is_frozen(key) || self.is_on_changed_server(record, &record.provider) {
            return;
        }
        match self.live.objects.get(key) {
            None => self.unseen(key, Unknown::new(Reason::NotObserved, "it was not looked at in this pass")),
            Some(Observation::Unknown(unknown)) => self.unseen(key, unknown.clone()),
            // A deletion that was cut short: what is left goes too. Of what somebody else dropped it stays, as an orphan.
            Some(Observation::Absent { lost: false, left: Some(object) })
                if record.annotations.deletion_of(key.kind) == Deletion::Delete =>
            {
                let step = self.deletion(key, &record.provider, &record.object_name, object);
                let what = format!("drops what is left of {}", record.object_name);
                self.plan.steps.push(Step { destructive: vec![what], ..step });
            }
            Some(Observation::Absent { .. }) => self.forget(key, Reason::Gone),
            Some(Observation::Present(live)) => match &live.ownership {
                Ownership::Unmarked => self.forget(key, Reason::NotOwned),
                Ownership::Marked(mark) if !self.is_ours(mark, key) => self.forget(key, Reason::OwnedByOther),
                Ownership::Marked(_) => {
                    let step = self.deletion(key, &record.provider, &record.object_name, &live.object);
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
                        Deletion::Retain => self.forget(key, Reason::Retained),
                        Deletion::Delete => {
                            if self.decisions.let_go.contains(key) {
                                let message = format!(
                                    "{} was gone when its document was removed, and it is there again; to keep it under \
                                     management commit its document again",
                                    record.object_name
                                );
                                let held = Held {
                                    reason: Reason::DeletionsHeld,
                                    message,
                                    approval: ApprovalKind::Deletes,
                                    approved_as: ApprovedAs::Step,
                                };
                                self.held_steps.insert(key.clone(), held);
                            }
                            self.plan.steps.push(step);
                        }
                    }
                }
            },
        }
    }

    /// A marked object that neither git nor the inventory speaks of: deleted only by approval (R4).
    fn consider_stray(&mut self, key: &ResourceKey, stray: &Stray) {
        if self.is_frozen(key) {
            return;
        }
        let message = format!(
            "{} on {} bears this key's mark, and neither git nor the inventory speaks of it; to keep it under \
             management commit its document again",
            stray.object_name, stray.provider
        );
        let held =
            Held { reason: Reason::Orphaned, message, approval: ApprovalKind::Deletes, approved_as: ApprovedAs::Key };
        self.held_steps.insert(key.clone(), held);
        self.plan.steps.push(self.deletion(key, &stray.provider, &stray.object_name, &stray.object));
    }

    /// Whether nothing at all may become of an object whose document is not there (R9); says why.
    fn is_frozen(&mut self, key: &ResourceKey) -> bool {
        if !self.terms.tenant.environments.contains(&key.environment) {
            let message = format!(
                "the environment {} is no longer the tenant's; its resources are frozen. Give it back to the tenant to \
                 manage or remove them",
                key.environment
            );
            self.block(key, Reason::EnvironmentRemoved, message, None);
            return true;
        }
        if let Some(unreadable) = self.desired.unreadable.first() {
            let message = format!(
                "its document is gone, but the tree could not be read whole ({unreadable}), so nothing is pruned"
            );
            self.block(key, Reason::UnreadableManifest, message, None);
            return true;
        }
        false
    }

    /// Lets go of a record. What holds deletions holds this too: what was forgotten by mistake could be made again
    /// empty (R8).
    fn forget(&mut self, key: &ResourceKey, reason: Reason) {
        match self.decisions.prune_holds.is_empty() {
            true => self.plan.settles.push(Settle::Forget { key: key.clone(), reason }),
            false => self.held_forgets.push((key.clone(), reason)),
        }
    }
}

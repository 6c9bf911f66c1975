//! What looks like a rename is held, since it would leave the data behind under the old name (R10).

use std::collections::BTreeMap;

use crate::model::{Action, ApprovalKind, Fields, Kind, Reason, ResourceKey, Settle, Step};

use super::{ApprovedAs, Draft, Held};

/// Finds resources of the same kind and name, or of the same kind and spec.
#[derive(Default)]
struct Likeness {
    by_name: BTreeMap<(Kind, String), ResourceKey>,
    by_spec: BTreeMap<(Kind, String), ResourceKey>,
}

impl Likeness {
    fn add(&mut self, key: &ResourceKey, fields: Option<&Fields>) {
        self.by_name.entry((key.kind, key.name.clone())).or_insert_with(|| key.clone());
        if let Some(fields) = fields {
            self.by_spec.entry((key.kind, spec_text(fields))).or_insert_with(|| key.clone());
        }
    }

    fn of(&self, key: &ResourceKey, fields: Option<&Fields>) -> Option<ResourceKey> {
        let same_spec = || fields.and_then(|fields| self.by_spec.get(&(key.kind, spec_text(fields))));
        self.by_name.get(&(key.kind, key.name.clone())).or_else(same_spec).cloned()
    }
}

fn spec_text(fields: &Fields) -> String {
    serde_json::to_string(fields).expect("fields are plain data with text keys")
}

impl Draft<'_> {
    /// Holds both halves: what is made waits for an approval, what was removed stays until it is clear.
    pub(super) fn hold_possible_renames(&mut self) {
        if self.removed.is_empty() && self.orphaned.is_empty() {
            return;
        }
        let (desired, prior) = (self.desired, self.prior);
        let created: Vec<(&ResourceKey, &Fields)> = self
            .plan
            .steps
            .iter()
            .filter(|step| step.action == Action::Create && step.key.kind.info().data_bearing)
            .filter(|step| prior.get(&step.key).is_none())
            .filter_map(|step| desired.resources.get(&step.key))
            .map(|resource| (&resource.key, &resource.fields))
            .collect();
        let mut old = Likeness::default();
        for key in &self.removed {
            old.add(key, self.spec_of_removed(key));
        }
        // Nothing is known of their specs.
        for key in &self.orphaned {
            old.add(key, None);
        }
        let mut new = Likeness::default();
        for (key, fields) in &created {
            new.add(key, Some(fields));
        }
        let added: Vec<(ResourceKey, ResourceKey)> =
            created.iter().filter_map(|(key, fields)| Some((old.of(key, Some(fields))?, (*key).clone()))).collect();
        let left: BTreeMap<ResourceKey, ResourceKey> = self
            .removed
            .iter()
            .filter_map(|key| Some((key.clone(), new.of(key, self.spec_of_removed(key))?)))
            .collect();
        for (from, to) in added {
            let held = Held {
                reason: Reason::PossibleRename,
                message: match self.orphaned.contains(&from) {
                    true => self.why_beside_orphan(&from, &to),
                    false => why(&from, &to),
                },
                approval: ApprovalKind::Create,
                approved_as: ApprovedAs::Key,
            };
            self.held_steps.insert(to, held);
        }
        self.keep_what_was_removed(&left);
    }

    /// The spec by which a removed resource is known again. Not in an environment that was taken away: what is frozen
    /// there for long says nothing of resources elsewhere that happen to have the same spec.
    fn spec_of_removed(&self, key: &ResourceKey) -> Option<&Fields> {
        let frozen = !self.terms.tenant.environments.contains(&key.environment);
        self.prior.get(key).filter(|_| !frozen).map(|record| &record.applied)
    }

    /// Why what looks like an orphan is not made. Where the orphan's environment is no longer the tenant's, nobody can
    /// commit its document.
    fn why_beside_orphan(&self, orphan: &ResourceKey, to: &ResourceKey) -> String {
        let exit = match self.terms.tenant.environments.contains(&orphan.environment) {
            true => format!("To go on with that data commit the document of {orphan} again; {to} itself"),
            false => to.to_string(),
        };
        format!(
            "{to} is added, and {orphan} is an orphan that holds data: if that is a move, the data would stay behind under \
             the old name. {exit} would be made new and empty"
        )
    }

    /// Takes back what this plan would do with the removed halves.
    fn keep_what_was_removed(&mut self, left: &BTreeMap<ResourceKey, ResourceKey>) {
        let mut kept: BTreeMap<ResourceKey, Option<Step>> = BTreeMap::new();
        let mut take = |key: &ResourceKey, step: Option<Step>| {
            kept.insert(key.clone(), step);
        };
        for step in std::mem::take(&mut self.plan.steps) {
            match step.action {
                Action::Delete if left.contains_key(&step.key) => take(&step.key.clone(), Some(step)),
                _ => self.plan.steps.push(step),
            }
        }
        for blocked in std::mem::take(&mut self.plan.blocked) {
            match blocked.reason {
                Reason::DeletionProtected if left.contains_key(&blocked.key) => take(&blocked.key, blocked.step),
                _ => self.plan.blocked.push(blocked),
            }
        }
        for settle in std::mem::take(&mut self.plan.settles) {
            match settle {
                Settle::Forget { ref key, reason: Reason::Retained } if left.contains_key(key) => take(key, None),
                _ => self.plan.settles.push(settle),
            }
        }
        self.held_forgets.retain(|(key, _)| {
            let keeps = left.contains_key(key);
            if keeps {
                take(key, None);
            }
            !keeps
        });
        for (key, step) in kept {
            let message = why(&key, &left[&key]);
            self.block(&key, Reason::PossibleRename, message, step);
        }
    }
}

fn why(from: &ResourceKey, to: &ResourceKey) -> String {
    format!(
        "{from} is removed and {to} is added: if that is a rename, the data would stay behind under the old name, so \
         both are held. Bring {from} back; or let go of it first (plumb.dev/deletion: retain or delete, in a commit of \
         its own)"
    )
}

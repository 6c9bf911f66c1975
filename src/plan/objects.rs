//! What each resource that git wants needs: nothing, a step, a person.

use std::collections::BTreeSet;

use crate::model::{
    Action, ApprovalKind, Blocked, Change, Deletion, Drift, DriftMode, DriftedField, Expect, FieldHash, FieldPath,
    Fields, Live, Mark, ObjectId, Observation, Ownership, ProposedField, Reason, Record, Resource, ResourceKey, Settle,
    Step, Unknown,
};

use super::compare::{self, Comparison, Verdicts};
use super::{Draft, Held};

/// Where the mark keeps the hash of `plumb.dev/rotate`, so that a lost inventory never rotates passwords (R12).
const ROTATE: &str = "/metadata/annotations/plumb.dev~1rotate";

impl Draft<'_> {
    /// Looks at every resource in scope.
    pub(super) fn consider_resources(&mut self) {
        let desired = self.desired;
        for (key, resource) in &desired.resources {
            if self.in_scope(key) {
                self.consider(resource);
            }
        }
        for (key, message) in &desired.rejected {
            if self.in_scope(key) {
                self.block(key, Reason::InvalidManifest, message.clone(), None);
            }
        }
    }

    fn consider(&mut self, resource: &Resource) {
        let key = &resource.key;
        let record = self.prior.get(key);
        if let Some(record) = record
            && self.moved(resource, record)
        {
            return;
        }
        match self.live.objects.get(key) {
            None => self.unseen(key, Unknown::new(Reason::NotObserved, "it was not looked at in this pass")),
            Some(Observation::Unknown(unknown)) => self.unseen(key, unknown.clone()),
            Some(Observation::Absent { lost }) => self.absent(resource, record, *lost),
            Some(Observation::Present(live)) => self.present(resource, record, live),
        }
    }

    /// A resource whose provider changed: rebound when it is the same server, refused when it is another (R10).
    fn moved(&mut self, resource: &Resource, record: &Record) -> bool {
        if record.provider == resource.provider {
            return false;
        }
        match self.live.identities.get(&resource.provider) {
            Some(identity) if *identity == record.identity => false,
            Some(_) => {
                let message = format!(
                    "it lives on {}, and {} is another server; a resource is not moved: set provider back to {}, or \
                     give the new one another name and carry the data over",
                    record.provider, resource.provider, record.provider
                );
                self.block(&resource.key, Reason::MoveRefused, message, None);
                true
            }
            None => {
                let message = format!(
                    "{} does not answer, so nobody can tell whether it is the same server as {}",
                    resource.provider, record.provider
                );
                self.unseen(&resource.key, Unknown::new(Reason::ProviderUnreachable, message));
                true
            }
        }
    }

    fn unseen(&mut self, key: &ResourceKey, unknown: Unknown) {
        self.plan.unknown.push((key.clone(), unknown));
    }

    pub(super) fn block(&mut self, key: &ResourceKey, reason: Reason, message: impl Into<String>, step: Option<Step>) {
        self.plan.blocked.push(Blocked { key: key.clone(), reason, message: message.into(), step });
    }

    /// Nothing is there: made, unless it was there before and held data (R8).
    fn absent(&mut self, resource: &Resource, record: Option<&Record>, lost: bool) {
        let key = &resource.key;
        let step = self.step(resource, Action::Create, Expect::Absent, compare::all_changes(&resource.fields, None));
        let was_there = record.is_some() || lost;
        if was_there && key.kind.info().data_bearing {
            let silenced = self.decisions.kept_missing.contains(key);
            self.plan.drift.push(Drift {
                key: key.clone(),
                mode: self.mode_of(resource),
                fields: Vec::new(),
                missing: true,
                silenced,
            });
            self.held_steps.insert(
                key.clone(),
                Held {
                    reason: Reason::DataMissing,
                    message: format!("{} was there and is gone; it is not made again empty", step.object_name),
                    approval: ApprovalKind::Create,
                },
            );
        } else if was_there && self.mode_of(resource) == DriftMode::Observe {
            self.plan.drift.push(Drift {
                key: key.clone(),
                mode: DriftMode::Observe,
                fields: Vec::new(),
                missing: true,
                silenced: false,
            });
            return;
        }
        self.plan.steps.push(step);
    }

    /// Something of that name is there: ours, nobody's, or somebody else's (R1).
    fn present(&mut self, resource: &Resource, record: Option<&Record>, live: &Live) {
        let key = &resource.key;
        match &live.ownership {
            Ownership::Unmarked if resource.annotations.adopt => {
                let changes = compare::all_changes(&resource.fields, Some(live));
                let expect = Expect::Unmarked(live.object.clone());
                let step = Step { rotate: None, ..self.step(resource, Action::Adopt, expect, changes) };
                self.plan.steps.push(step);
            }
            Ownership::Unmarked => {
                let name = self.object_name(key, &resource.provider);
                let message = match record {
                    Some(_) => format!(
                        "the mark on {name} was removed; set the annotation plumb.dev/adopt: \"true\" to take it over again"
                    ),
                    None => format!(
                        "{name} exists on {} and Plumb did not make it; it stays untouched. To take it over, set the \
                         annotation plumb.dev/adopt: \"true\" and look at the plan; else choose another name",
                        resource.provider
                    ),
                };
                self.block(key, Reason::NotOwned, message, None);
            }
            Ownership::Marked(mark) if !self.is_ours(mark, key) => {
                let message = format!(
                    "{} on {} bears the mark of {} on platform {}; it stays untouched",
                    self.object_name(key, &resource.provider),
                    resource.provider,
                    mark.key,
                    mark.platform
                );
                self.block(key, Reason::OwnedByOther, message, None);
            }
            Ownership::Marked(mark) if mark.unfinished => {
                let changes = compare::all_changes(&resource.fields, None);
                let step = self.step(resource, Action::Create, Expect::Absent, changes);
                self.plan.steps.push(step);
            }
            Ownership::Marked(mark) => self.ours(resource, record, live, mark),
        }
    }

    /// Our own object: the three-way comparison decides.
    fn ours(&mut self, resource: &Resource, record: Option<&Record>, live: &Live, mark: &Mark) {
        let key = &resource.key;
        let mode = self.mode_of(resource);
        let verdicts = Verdicts {
            mode,
            open: fields_of(&self.decisions.open, key),
            lifted: fields_of(&self.decisions.lifted, key),
            ignored: fields_of(&self.decisions.ignored, key),
        };
        let comparison = compare::compare(resource, live, record, mark, verdicts);
        self.report(resource, mode, &comparison);
        if resource.annotations.adopt {
            let message = "plumb.dev/adopt has done its work; remove it".to_owned();
            self.plan.warnings.push((key.clone(), Reason::LeftoverAdopt, message));
        }
        let Comparison { changes, held, .. } = comparison;
        let rotate = self.rotation_due(resource, record, mark);
        if changes.is_empty() && rotate.is_none() {
            self.settle(resource, record, live, mark, &held);
        } else {
            self.change(resource, record, live, mark, changes, rotate, &held);
        }
        if !held.is_empty() {
            self.plan.held.insert(key.clone(), held);
        }
    }

    fn report(&mut self, resource: &Resource, mode: DriftMode, comparison: &Comparison) {
        let key = &resource.key;
        for (path, unknown) in &comparison.unseen {
            match unknown.reason {
                Reason::NotOwned | Reason::OwnedByOther => {
                    self.block(key, unknown.reason, unknown.message.clone(), None);
                }
                _ => self.unseen(key, Unknown::new(unknown.reason, format!("{path}: {}", unknown.message))),
            }
        }
        // Where nobody can say who is right, a person is asked whatever the mode.
        let asks = comparison.drifted.iter().any(|field| field.conflict);
        self.drifted(key, if asks { DriftMode::Propose } else { mode }, &comparison.drifted, false);
        self.drifted(key, DriftMode::Revert, &comparison.reverted, false);
        self.drifted(key, mode, &comparison.silenced, true);
    }

    fn drifted(&mut self, key: &ResourceKey, mode: DriftMode, fields: &[DriftedField], silenced: bool) {
        if !fields.is_empty() {
            let drift = Drift { key: key.clone(), mode, fields: fields.to_vec(), missing: false, silenced };
            self.plan.drift.push(drift);
        }
    }

    /// Nothing is to be done to the object; the record may still have to follow.
    fn settle(
        &mut self,
        resource: &Resource,
        record: Option<&Record>,
        live: &Live,
        mark: &Mark,
        held: &BTreeSet<FieldPath>,
    ) {
        let reason = match record {
            None => Some(Reason::Recovered),
            Some(record) if record.provider != resource.provider => Some(Reason::Rebound),
            Some(record) => {
                let next = super::record::fields_after(resource, live, Some(record), mark, held);
                let same = next.applied == record.applied
                    && next.readback == record.readback
                    && next.unsettled == record.unsettled
                    && record.object == live.object
                    && record.annotations == resource.annotations
                    && record.depends_on == resource.depends_on
                    && record.file == resource.origin.file;
                (!same).then_some(Reason::Recorded)
            }
        };
        let mut step = self.step(resource, Action::Update, Expect::Marked(live.object.clone()), Vec::new());
        keep_held_hashes(&mut step, mark, held);
        let remark = (step.mark.hashes != mark.hashes).then(|| Box::new(Step { rotate: None, ..step }));
        match (reason, remark) {
            (None, None) => {}
            (reason, remark) => self.plan.settles.push(Settle::Record {
                key: resource.key.clone(),
                reason: reason.unwrap_or(Reason::Recorded),
                remark,
            }),
        }
        self.plan.unchanged += 1;
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one comparison, used once")]
    fn change(
        &mut self,
        resource: &Resource,
        record: Option<&Record>,
        live: &Live,
        mark: &Mark,
        changes: Vec<Change>,
        rotate: Option<String>,
        held: &BTreeSet<FieldPath>,
    ) {
        let key = &resource.key;
        let info = key.kind.info();
        let replaces = changes.iter().any(|change| info.is_immutable(&change.path));
        let action = if replaces { Action::Replace } else { Action::Update };
        let expect = Expect::Marked(live.object.clone());
        let mut step = Step { rotate, ..self.step(resource, action, expect, changes) };
        keep_held_hashes(&mut step, mark, held);
        if !replaces {
            self.plan.steps.push(step);
            return;
        }
        step.destructive.insert(0, format!("deletes {} and makes it again", step.object_name));
        let allowed = record.is_some_and(|record| record.annotations.deletion_of(key.kind) == Deletion::Delete);
        if info.data_bearing && !allowed {
            let fields = step.changes.iter().filter(|c| info.is_immutable(&c.path)).map(|c| c.path.as_str());
            let message = format!(
                "{} can only change by deleting the object and its data. If that is meant: commit the annotation \
                 plumb.dev/deletion: delete first, wait until it is recorded, then commit this change",
                fields.collect::<Vec<_>>().join(", ")
            );
            self.block(key, Reason::ReplaceProtected, message, Some(step));
        } else {
            self.plan.steps.push(step);
        }
    }

    /// The new value of `plumb.dev/rotate`, when it asks for passwords that were not made yet.
    fn rotation_due(&self, resource: &Resource, record: Option<&Record>, mark: &Mark) -> Option<String> {
        let wanted = resource.annotations.rotate.as_ref()?;
        let done = match record {
            Some(record) => record.annotations.rotate.as_ref() == Some(wanted),
            // Whether it was done before the loss nobody knows, unless the mark has another value's hash.
            None => mark.hashes.get(ROTATE).is_none_or(|hash| *hash == rotate_hash(wanted)),
        };
        (!done).then(|| wanted.clone())
    }

    pub(super) fn mode_of(&self, resource: &Resource) -> DriftMode {
        if resource.annotations.suspend {
            return DriftMode::Observe;
        }
        resource.annotations.drift.unwrap_or(self.decisions.drift)
    }

    pub(super) fn is_ours(&self, mark: &Mark, key: &ResourceKey) -> bool {
        mark.platform == self.terms.platform.id && mark.key == *key
    }

    pub(super) fn object_name(&self, key: &ResourceKey, provider: &str) -> String {
        object_name(self.terms.platform, key, provider)
    }

    fn step(&self, resource: &Resource, action: Action, expect: Expect, changes: Vec<Change>) -> Step {
        let key = &resource.key;
        Step {
            key: key.clone(),
            action,
            provider: resource.provider.clone(),
            object_name: self.object_name(key, &resource.provider),
            expect,
            destructive: compare::losses(key.kind.info(), &changes),
            changes,
            desired: resource.fields.clone(),
            mark: self.mark(resource),
            depends_on: Vec::new(),
            rotate: resource.annotations.rotate.clone(),
        }
    }

    fn mark(&self, resource: &Resource) -> Mark {
        let mut hashes = resource.fields.hashes();
        if let Some(rotate) = &resource.annotations.rotate {
            hashes.insert(FieldPath::new(ROTATE), rotate_hash(rotate));
        }
        Mark { platform: self.terms.platform.id.clone(), key: resource.key.clone(), hashes, unfinished: false }
    }

    /// The step that deletes an object.
    pub(super) fn deletion(&self, key: &ResourceKey, provider: &str, object_name: &str, object: &ObjectId) -> Step {
        Step {
            key: key.clone(),
            action: Action::Delete,
            provider: provider.to_owned(),
            object_name: object_name.to_owned(),
            expect: Expect::Marked(object.clone()),
            changes: Vec::new(),
            desired: Fields::new(),
            mark: Mark {
                platform: self.terms.platform.id.clone(),
                key: key.clone(),
                hashes: Default::default(),
                unfinished: false,
            },
            depends_on: Vec::new(),
            destructive: vec![format!("deletes {object_name}")],
            rotate: None,
        }
    }
}

/// The name of `key`'s object on `provider`, within that server's limit.
pub fn object_name(platform: &crate::model::Platform, key: &ResourceKey, provider: &str) -> String {
    /// What any system takes, for a provider that is no longer described.
    const SHORTEST_LIMIT: usize = 63;
    let limit = platform.providers.get(provider).map_or(SHORTEST_LIMIT, |spec| spec.provider_type.name_limit());
    key.object_name(limit)
}

/// A field that is held keeps the hash it had, so that its base survives a loss of the inventory.
fn keep_held_hashes(step: &mut Step, mark: &Mark, held: &BTreeSet<FieldPath>) {
    for path in held {
        match mark.hashes.get(path) {
            Some(hash) => step.mark.hashes.insert(path.clone(), hash.clone()),
            None => step.mark.hashes.remove(path),
        };
    }
}

fn rotate_hash(value: &str) -> FieldHash {
    FieldHash::of(&serde_json::Value::from(value))
}

fn fields_of<'a>(
    proposals: &'a std::collections::BTreeMap<ResourceKey, Vec<ProposedField>>,
    key: &ResourceKey,
) -> &'a [ProposedField] {
    proposals.get(key).map_or(&[], Vec::as_slice)
}

//! What each resource that git wants needs: nothing, a step, a person.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{
    Action, Annotations, ApprovalKind, Blocked, Change, Drift, DriftMode, DriftedField, Expect, FieldHash, FieldPath,
    Fields, Live, Mark, ObjectId, Observation, Ownership, PlanScope, ProposedField, Reason, Record, Resource,
    ResourceKey, Settle, Step, Unknown,
};

use super::compare::{self, Comparison, Verdicts};
use super::{ApprovedAs, Draft, Held, begun, gate};

/// Where the mark keeps the hash of `plumb.dev/rotate`, so that a lost inventory never rotates passwords (R12).
pub(super) const ROTATE: &str = "/metadata/annotations/plumb.dev~1rotate";

impl Draft<'_> {
    /// Looks at every resource in scope.
    pub(super) fn consider_resources(&mut self) {
        let desired = self.desired;
        let in_scope: Box<dyn Iterator<Item = (&ResourceKey, &Arc<Resource>)>> = match self.scope {
            PlanScope::Full => Box::new(desired.resources.iter()),
            PlanScope::Keys(keys) => Box::new(keys.iter().filter_map(|key| desired.resources.get_key_value(key))),
        };
        for (key, resource) in in_scope {
            if !desired.rejected.contains_key(key) {
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
            && (self.moved(resource, record) || self.is_on_changed_server(record, &resource.provider))
        {
            return;
        }
        match self.live.objects.get(key) {
            None => self.unseen(key, Unknown::new(Reason::NotObserved, "it was not looked at in this pass")),
            Some(Observation::Unknown(unknown)) => self.unseen(key, unknown.clone()),
            Some(Observation::Absent { lost, .. }) => self.absent(resource, record, *lost),
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
            // An embedded root that nobody has used has no identity yet, and so is not the one of the record.
            identity if identity.is_some() || self.was_looked_at(&resource.key) => {
                let message = format!(
                    "it lives on {}, and {} is another server; a resource is not moved: set provider back to {}, or \
                     give the new one another name and carry the data over",
                    record.provider, resource.provider, record.provider
                );
                self.block(&resource.key, Reason::MoveRefused, message, None);
                true
            }
            _ => {
                let message = format!(
                    "{} does not answer, so nobody can tell whether it is the same server as {}",
                    resource.provider, record.provider
                );
                self.unseen(&resource.key, Unknown::new(Reason::ProviderUnreachable, message));
                true
            }
        }
    }

    fn was_looked_at(&self, key: &ResourceKey) -> bool {
        match self.live.objects.get(key) {
            Some(Observation::Present(_) | Observation::Absent { .. }) => true,
            Some(Observation::Unknown(_)) | None => false,
        }
    }

    /// Whether the server behind `provider` is not the one that `record` was applied on, and nobody has confirmed
    /// the new one: then nothing there tells anything about the resource (R11).
    pub(super) fn is_on_changed_server(&mut self, record: &Record, provider: &str) -> bool {
        let Some(now) = self.live.identities.get(provider) else { return false };
        if record.provider != provider || *now == record.identity || record.identity.0.is_empty() {
            return false;
        }
        let confirmed = self.terms.platform.providers.get(provider).and_then(|provider| provider.identity.as_ref());
        if confirmed == Some(&now.0) {
            return false;
        }
        let message = format!(
            "{provider} is another server than the one it was applied on ({} then, {} now); set spec.identity of the \
             Provider to {} if that is meant",
            record.identity.0, now.0, now.0
        );
        self.unseen(&record.key, Unknown::new(Reason::ProviderIdentityChanged, message));
        true
    }

    pub(super) fn unseen(&mut self, key: &ResourceKey, unknown: Unknown) {
        self.plan.unknown.push((key.clone(), unknown));
    }

    pub(super) fn block(&mut self, key: &ResourceKey, reason: Reason, message: impl Into<String>, step: Option<Step>) {
        let (key, message) = (key.clone(), message.into());
        self.plan.blocked.push(Blocked { key, reason, message, until: None, step, alone: None });
    }

    /// Nothing is there: made, unless it was there before and held data (R8), or is there under another name (R4).
    fn absent(&mut self, resource: &Resource, record: Option<&Record>, lost: bool) {
        let key = &resource.key;
        if let Some(stray) = self.live.strays.get(key) {
            let message = format!(
                "its object is {} on {}, and is not made a second time on {}; set provider back to {}, or carry the \
                 data over and remove the old one",
                stray.object_name, stray.provider, resource.provider, stray.provider
            );
            return self.block(key, Reason::MoveRefused, message, None);
        }
        let changes = compare::all_changes(&resource.fields, None, &BTreeMap::new());
        let step = self.step(resource, Action::Create, Expect::Absent, changes);
        let was_there = record.is_some() || lost || self.decisions.were_there.contains(key);
        let mode = self.mode_of(resource);
        if was_there && key.kind.info().data_bearing {
            // Absent data is never put back at once, whatever the mode.
            let mode = match mode {
                DriftMode::Propose | DriftMode::Revert => DriftMode::Propose,
                DriftMode::Observe => DriftMode::Observe,
            };
            self.missing(key, mode, self.decisions.kept_missing.contains(key));
            self.held_steps.insert(
                key.clone(),
                Held {
                    reason: Reason::DataMissing,
                    message: format!("{} was there and is gone; it is not made again empty", step.object_name),
                    approval: ApprovalKind::Create,
                    approved_as: ApprovedAs::Key,
                },
            );
        } else if was_there && mode == DriftMode::Observe {
            return self.missing(key, mode, false);
        } else if was_there {
            // It holds no data, so it is made again at once; that it was gone is told.
            self.missing(key, DriftMode::Revert, false);
        }
        self.plan.steps.push(step);
    }

    fn missing(&mut self, key: &ResourceKey, mode: DriftMode, silenced: bool) {
        self.plan.drift.push(Drift { key: key.clone(), mode, fields: Vec::new(), missing: true, silenced });
    }

    /// Something of that name is there: ours, nobody's, or somebody else's (R1).
    fn present(&mut self, resource: &Resource, record: Option<&Record>, live: &Live) {
        let key = &resource.key;
        match &live.ownership {
            Ownership::Unmarked if resource.annotations.adopt => self.adopt(resource, live),
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
                let unseen = compare::unseen(&resource.fields, live);
                let changes = compare::all_changes(&resource.fields, None, &unseen);
                let mut step = self.step(resource, Action::Create, Expect::Absent, changes);
                self.leave_alone(&mut step, mark, &unseen);
                self.plan.steps.push(step);
            }
            Ownership::Marked(mark) => self.ours(resource, record, live, mark),
        }
    }

    /// An object without a mark that the resource may take over. A person has seen the difference in the plan, so
    /// what is live gives way, save what could not be seen and what only a replacement could change.
    fn adopt(&mut self, resource: &Resource, live: &Live) {
        let key = &resource.key;
        let unseen = compare::unseen(&resource.fields, live);
        let changes = compare::all_changes(&resource.fields, Some(live), &unseen);
        let expect = Expect::Unmarked(live.object.clone());
        let mut step = Step { rotate: None, ..self.step(resource, Action::Adopt, expect, changes) };
        let blank = Mark { hashes: BTreeMap::new(), ..step.mark.clone() };
        self.leave_alone(&mut step, &blank, &unseen);
        match immutable_changes(&step) {
            Some(fields) => {
                let message = format!(
                    "{fields} of {} can only change by deleting it and its data; to take it over, set what is live",
                    step.object_name
                );
                self.block(key, Reason::ReplaceProtected, message, Some(step));
            }
            None => self.plan.steps.push(step),
        }
    }

    /// Reports and holds the fields that `step` must not speak of, since nobody could see them (R5).
    fn leave_alone(&mut self, step: &mut Step, mark: &Mark, unseen: &BTreeMap<FieldPath, Unknown>) {
        if unseen.is_empty() {
            return;
        }
        let held: BTreeSet<FieldPath> = unseen.keys().cloned().collect();
        keep_held_hashes(&mut step.mark, mark, &held);
        self.report_unseen(&step.key, unseen);
        self.plan.held.insert(step.key.clone(), held);
    }

    /// Our own object: the three-way comparison decides.
    fn ours(&mut self, resource: &Resource, record: Option<&Record>, live: &Live, mark: &Mark) {
        let key = &resource.key;
        let is_undone = self.decisions.rolled_back.contains_key(key);
        let is_open = record.is_some_and(|record| begun::ended(record, Some(live), false).begun != record.begun);
        let ended = record.map(|record| begun::ended(record, Some(live), is_undone));
        let record = ended.as_deref();
        let mode = self.mode_of(resource);
        let verdicts = Verdicts {
            mode,
            open: fields_of(&self.decisions.open, key),
            lifted: fields_of(&self.decisions.lifted, key),
            ignored: fields_of(&self.decisions.ignored, key),
            unmanaged_before: self.decisions.unmanaged_before.get(key).map_or(&[], Vec::as_slice),
        };
        let mut comparison = compare::compare(resource, live, record, mark, verdicts);
        self.report(resource, mode, &comparison);
        if resource.annotations.adopt {
            let is_unmarked = |unknown: &Unknown| unknown.reason == Reason::NotOwned;
            let message = match comparison.unseen.values().any(is_unmarked) {
                true => "plumb.dev/adopt takes over whole objects, and this one is Plumb's already; remove it",
                false => "plumb.dev/adopt has done its work; remove it",
            };
            let message = message.to_owned();
            self.plan.warnings.push((key.clone(), Reason::LeftoverAdopt, message));
        }
        self.warn_of_permission(resource, record, live, mark, &comparison.held);
        let rotate = self.rotation_due(resource, record, mark);
        if comparison.changes.is_empty() && rotate.is_none() {
            self.tell_suspended(key, &comparison);
            self.settle(resource, record, live, mark, &comparison.held, is_open);
        } else {
            self.change(resource, record, live, mark, &mut comparison, rotate);
        }
        if !comparison.held.is_empty() {
            self.plan.held.insert(key.clone(), comparison.held);
        }
    }

    /// What git asks for and live changed too is no step, so no gate says that it is kept back.
    fn tell_suspended(&mut self, key: &ResourceKey, comparison: &Comparison) {
        if comparison.drifted.iter().any(|field| field.conflict)
            && let Some(hold) = gate::suspended(self, key)
        {
            self.block(key, hold.reason, hold.message, None);
        }
    }

    /// A permission to delete that is not recorded would be waited for in vain, so that is told, with what comes first.
    fn warn_of_permission(
        &mut self,
        resource: &Resource,
        record: Option<&Record>,
        live: &Live,
        mark: &Mark,
        held: &BTreeSet<FieldPath>,
    ) {
        let key = &resource.key;
        let allows = |annotations: &Annotations| annotations.allow_deletion(key.kind);
        let Some(path) = super::record::asks_to_replace(resource, record, mark, held) else { return };
        if !allows(&resource.annotations) || record.is_some_and(|record| allows(&record.annotations)) {
            return;
        }
        let now = live.fields.0.get(path).map(|value| format!(" ({value})")).unwrap_or_default();
        let message = format!(
            "plumb.dev/deletion: delete is not recorded, since git asks for another {path} too: that can only change by \
             deleting the object and its data, and is not decided. Set it to what is live{now} first"
        );
        self.plan.warnings.push((key.clone(), Reason::DeletionProtected, message));
    }

    fn report(&mut self, resource: &Resource, mode: DriftMode, comparison: &Comparison) {
        let key = &resource.key;
        self.report_unseen(key, &comparison.unseen);
        // Where nobody can say who is right, a person is asked whatever the mode; not while it is suspended.
        let (asked, told): (Vec<_>, Vec<_>) = comparison
            .drifted
            .iter()
            .cloned()
            .partition(|field| mode == DriftMode::Propose || (field.conflict && !self.is_suspended(resource)));
        self.drifted(key, DriftMode::Propose, asked, false);
        self.drifted(key, mode, told, false);
        self.drifted(key, DriftMode::Revert, comparison.reverted.clone(), false);
        self.drifted(key, mode, comparison.silenced.clone(), true);
    }

    fn report_unseen(&mut self, key: &ResourceKey, unseen: &BTreeMap<FieldPath, Unknown>) {
        for (path, unknown) in unseen {
            match unknown.reason {
                Reason::NotOwned | Reason::OwnedByOther => {
                    self.block(key, unknown.reason, unknown.message.clone(), None);
                }
                _ => self.unseen(key, Unknown::new(unknown.reason, format!("{path}: {}", unknown.message))),
            }
        }
    }

    fn drifted(&mut self, key: &ResourceKey, mode: DriftMode, fields: Vec<DriftedField>, silenced: bool) {
        if !fields.is_empty() {
            self.plan.drift.push(Drift { key: key.clone(), mode, fields, missing: false, silenced });
        }
    }

    /// Nothing is to be done to the object; the record may still have to follow, as where it `is_open` how a step ended.
    fn settle(
        &mut self,
        resource: &Resource,
        record: Option<&Record>,
        live: &Live,
        mark: &Mark,
        held: &BTreeSet<FieldPath>,
        is_open: bool,
    ) {
        let reason = match record {
            None => Some(Reason::Recovered),
            Some(record) if record.provider != resource.provider => Some(Reason::Rebound),
            Some(record) => {
                let next = super::record::fields_after(resource, live, Some(record), mark, held);
                let denied = self.desired.denied.contains_key(&resource.key);
                let annotations = super::record::annotations_after(resource, Some(record), mark, held, denied);
                let same = !is_open
                    && next.applied == record.applied
                    && next.readback == record.readback
                    && next.unsettled == record.unsettled
                    && record.object == live.object
                    && self.live.identities.get(&record.provider).is_none_or(|identity| *identity == record.identity)
                    && record.annotations == annotations
                    && record.depends_on == resource.depends_on
                    && record.file == resource.origin.file
                    // Policies are asked about it as what was before, so labels are followed too.
                    && (denied || record.document.is(&resource.document));
                (!same).then_some(Reason::Recorded)
            }
        };
        let mut next = self.mark(resource);
        keep_held_hashes(&mut next, mark, held);
        let remark = (next.hashes != mark.hashes && self.may_be_touched(resource)).then(|| {
            let step = self.step(resource, Action::Update, Expect::Marked(live.object.clone()), Vec::new());
            Box::new(Step { mark: next, rotate: None, ..step })
        });
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

    /// Whether the gate would let a step on it pass now: a mark is not written either where nothing may be changed.
    fn may_be_touched(&self, resource: &Resource) -> bool {
        let key = &resource.key;
        !self.is_suspended(resource)
            && !self.desired.denied.contains_key(key)
            && !self.decisions.closed_windows.contains_key(&key.environment)
    }

    fn change(
        &mut self,
        resource: &Resource,
        record: Option<&Record>,
        live: &Live,
        mark: &Mark,
        comparison: &mut Comparison,
        rotate: Option<String>,
    ) {
        let key = &resource.key;
        let expect = Expect::Marked(live.object.clone());
        let step = self.step(resource, Action::Update, expect, comparison.changes.clone());
        let mut step = Step { rotate, ..step };
        let Some(fields) = immutable_changes(&step) else {
            keep_held_hashes(&mut step.mark, mark, &comparison.held);
            return self.plan.steps.push(step);
        };
        step.action = Action::Replace;
        step.destructive.insert(0, format!("deletes {} and makes it again", step.object_name));
        let allows = |annotations: &Annotations| annotations.allow_deletion(key.kind);
        // What the same commit takes back is not allowed either (R7).
        let allowed = record.is_some_and(|record| allows(&record.annotations)) && allows(&resource.annotations);
        if key.kind.info().data_bearing && !allowed {
            let message = format!(
                "{fields} can only change by deleting the object and its data. If that is meant: take the change back, \
                 commit the annotation plumb.dev/deletion: delete, wait until it is recorded, then commit the change again"
            );
            return self.block(key, Reason::ReplaceProtected, message, Some(step));
        }
        // What is made again has git's values throughout, so a replacement would decide what is still open.
        match comparison.undecided().first() {
            Some(open) => {
                let message = format!(
                    "{fields} can only change by making the object again, and {open} is not decided or could not be \
                     seen; that comes first"
                );
                self.block(key, Reason::ConflictHeld, message, Some(step));
            }
            None => {
                comparison.held.clear();
                let only_goes_back =
                    !git_moved(&step, resource, record, mark) || is_answer(&step, &comparison.answered);
                if key.kind.info().data_bearing && only_goes_back {
                    // Whoever wanted git's value back saw a value, and not that the data goes with it (R7).
                    let message = format!(
                        "{fields} was changed behind git's back, and can only go back by deleting {} with its data; to \
                         keep it, commit the live value",
                        step.object_name
                    );
                    let held = Held {
                        reason: Reason::ReplaceProtected,
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

    /// The new value of `plumb.dev/rotate`, when it asks for passwords that were not made yet.
    fn rotation_due(&self, resource: &Resource, record: Option<&Record>, mark: &Mark) -> Option<String> {
        let wanted = resource.annotations.rotate.as_ref()?;
        let done = match record {
            // Which ones the roles have nobody knows where a step began to set others.
            Some(record) => record.annotations.rotate.as_ref() == Some(wanted) && !record.begun.passwords,
            // Whether it was done before the loss nobody knows, unless the mark has another value's hash.
            None => mark.hashes.get(ROTATE).is_none_or(|hash| *hash == rotate_hash(wanted)),
        };
        (!done).then(|| wanted.clone())
    }

    /// Whether nothing may be done to it for now, by its annotation or by its tenant.
    fn is_suspended(&self, resource: &Resource) -> bool {
        resource.annotations.suspend || self.terms.tenant.suspend.covers(&resource.key.environment)
    }

    pub(super) fn mode_of(&self, resource: &Resource) -> DriftMode {
        if self.is_suspended(resource) {
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
fn keep_held_hashes(next: &mut Mark, mark: &Mark, held: &BTreeSet<FieldPath>) {
    for path in held {
        match mark.hashes.get(path) {
            Some(hash) => next.hashes.insert(path.clone(), hash.clone()),
            None => next.hashes.remove(path),
        };
    }
}

/// The fields of a step that only a replacement can change, as a sentence begins with them.
fn immutable_changes(step: &Step) -> Option<String> {
    let fields: Vec<&str> = immutable_paths(step).map(FieldPath::as_str).collect();
    (!fields.is_empty()).then(|| fields.join(", "))
}

/// Whether git asks for a change of any field that cannot be changed in place, rather than live having moved alone.
fn git_moved(step: &Step, resource: &Resource, record: Option<&Record>, mark: &Mark) -> bool {
    immutable_paths(step).any(|path| !compare::is_settled_in_git(path, resource, record, mark))
}

/// Whether a field that cannot be changed in place goes to git's value since a person who was asked wants that.
fn is_answer(step: &Step, answered: &BTreeSet<FieldPath>) -> bool {
    immutable_paths(step).any(|path| answered.contains(path))
}

fn immutable_paths(step: &Step) -> impl Iterator<Item = &FieldPath> {
    let info = step.key.kind.info();
    step.changes.iter().map(|change| &change.path).filter(|path| info.is_immutable(path))
}

fn rotate_hash(value: &str) -> FieldHash {
    FieldHash::of(&serde_json::Value::from(value))
}

fn fields_of<'a>(proposals: &'a BTreeMap<ResourceKey, Vec<ProposedField>>, key: &ResourceKey) -> &'a [ProposedField] {
    proposals.get(key).map_or(&[], Vec::as_slice)
}

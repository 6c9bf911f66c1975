//! What is remembered after an apply or a settling.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::model::{
    Action, Annotations, AppliedDocument, Begun, Deletion, FieldHash, FieldPath, Fields, Live, Mark, ObjectHex,
    Ownership, ProviderIdentity, Record, Resource, Step,
};

use super::begun;
use super::compare::is_settled_in_git;

/// The three field maps of a record.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RecordedFields {
    pub applied: Fields,
    pub readback: Fields,
    pub unsettled: BTreeMap<FieldPath, Option<FieldHash>>,
}

/// Fields that are held keep the base they had; all others take what git sets and what was read back. A field that
/// could not be read back counts as what git sets; one that is not there after all was not applied, and is tried again.
pub(super) fn fields_after(
    resource: &Resource,
    live: &Live,
    prior: Option<&Record>,
    mark: &Mark,
    held: &BTreeSet<FieldPath>,
) -> RecordedFields {
    let mut after = RecordedFields::default();
    for (path, value) in resource.fields.iter().filter(|(path, _)| !held.contains(*path)) {
        let seen = match live.fields.0.get(path) {
            Some(seen) => seen,
            None if live.unknown_at(path).is_some() => value,
            None => continue,
        };
        after.applied.0.insert(path.clone(), value.clone());
        after.readback.0.insert(path.clone(), seen.clone());
    }
    for path in held {
        let known = prior.filter(|record| !record.unsettled.contains_key(path));
        match known {
            Some(record) => {
                if let Some(value) = record.applied.0.get(path) {
                    after.applied.0.insert(path.clone(), value.clone());
                }
                if let Some(value) = record.readback.0.get(path) {
                    after.readback.0.insert(path.clone(), value.clone());
                }
            }
            None => {
                let hash = match prior {
                    Some(record) => record.unsettled.get(path).cloned().flatten(),
                    None => mark.hashes.get(path).cloned(),
                };
                after.unsettled.insert(path.clone(), hash);
            }
        }
    }
    after
}

/// What was read back after a step, `after`, with the fields that it did not set as they were when it was planned,
/// `before`: what moves them meanwhile is not its doing, and the next look finds it as drift.
pub fn read_back(step: &Step, before: Option<&Live>, after: &Live) -> Live {
    let mut read = after.clone();
    let Some(before) = before.filter(|_| matches!(step.action, Action::Update | Action::Adopt)) else { return read };
    let is_set = |path: &FieldPath| {
        let mut set = step.changes.iter().map(|change| &change.path);
        set.any(|set| path.is_within(set.as_str()) || set.is_within(path.as_str()))
    };
    let others = before.fields.iter().filter(|(path, _)| !is_set(path) && before.unknown_at(path).is_none());
    read.fields.0.extend(others.map(|(path, value)| (path.clone(), value.clone())));
    read
}

/// What is remembered of the annotations. A document that policies deny gives no permission to delete, nor does it make
/// an object less safe than it was (R7): a later commit, in which there is no document left to judge, could make use of
/// that. Nor does one give a permission beside a change that needs it, while that is asked about or was left alone: what
/// comes of the question, or of live by itself, would make use of it, and no later commit.
pub(super) fn annotations_after(
    resource: &Resource,
    prior: Option<&Record>,
    mark: &Mark,
    held: &BTreeSet<FieldPath>,
    denied: bool,
) -> Annotations {
    // Passwords stay those that were asked for last when nothing asks for them any more.
    let rotate = resource.annotations.rotate.as_ref().or_else(|| prior?.annotations.rotate.as_ref());
    let annotations = Annotations { rotate: rotate.cloned(), ..resource.annotations.clone() };
    let kind = resource.key.kind;
    if !denied {
        if asks_to_replace(resource, prior, mark, held).is_none() {
            return annotations;
        }
        let before = prior.map(|record| record.annotations.clone()).unwrap_or_default();
        return Annotations { deletion: before.kept_safer_by(&annotations, kind).deletion, ..annotations };
    }
    let said = [None, prior.and_then(|record| record.annotations.deletion), annotations.deletion];
    let safest = said
        .into_iter()
        .map(|deletion| deletion.filter(|deletion| *deletion != Deletion::Delete))
        .map(|deletion| Annotations { deletion, ..annotations.clone() })
        .max_by_key(|said| said.deletion_of(kind).safety());
    safest.unwrap_or(annotations)
}

/// What is held of the fields that git wants changed and that only a replacement can change.
pub(super) fn asks_to_replace<'a>(
    resource: &Resource,
    prior: Option<&Record>,
    mark: &Mark,
    held: &'a BTreeSet<FieldPath>,
) -> Option<&'a FieldPath> {
    let info = resource.key.kind.info();
    held.iter().find(|path| info.is_immutable(path) && !is_settled_in_git(path, resource, prior, mark))
}

/// The record of `resource` after it was applied or settled; `live` is what was read back. A record that was forgotten
/// on purpose is no base, as it was none for the plan.
pub fn record_after(
    resource: &Resource,
    live: &Live,
    prior: Option<&Record>,
    held: &BTreeSet<FieldPath>,
    place: Place<'_>,
    at: DateTime<Utc>,
) -> Record {
    let begun = prior.filter(|record| !record.retained);
    let ended = begun.map(|record| begun::ended(record, Some(live), false));
    let prior = ended.as_deref();
    let blank = Mark {
        platform: crate::model::PlatformId(String::new()),
        key: resource.key.clone(),
        hashes: BTreeMap::new(),
        unfinished: false,
    };
    let mark = match &live.ownership {
        Ownership::Marked(mark) => mark,
        Ownership::Unmarked => &blank,
    };
    let RecordedFields { mut applied, mut readback, unsettled } = fields_after(resource, live, prior, mark, held);
    if let (Some(begun), Some(ended)) = (begun, prior) {
        // What an undoing left of what a step added is git's to drop, and nobody else's.
        let is_left = |path: &&FieldPath| begun::is_member(begun, path) && !resource.fields.0.contains_key(*path);
        for path in begun.begun.fields.keys().filter(is_left) {
            if let (Some(value), Some(_)) = (ended.applied.0.get(path), live.fields.0.get(path)) {
                applied.0.insert(path.clone(), value.clone());
                readback.0.insert(path.clone(), value.clone());
            }
        }
    }
    Record {
        key: resource.key.clone(),
        provider: resource.provider.clone(),
        identity: place.identity.clone(),
        object_name: place.object_name.to_owned(),
        object: live.object.clone(),
        applied,
        readback,
        unsettled,
        begun: Begun { fields: prior.map(|record| record.begun.fields.clone()).unwrap_or_default(), passwords: false },
        annotations: annotations_after(resource, prior, mark, held, place.denied),
        document: match place.denied {
            true => prior.map(|record| record.document.clone()).unwrap_or_default(),
            false => AppliedDocument::from(&*resource.document),
        },
        depends_on: resource.depends_on.clone(),
        file: resource.origin.file.clone(),
        commit: place.commit.cloned().unwrap_or_default(),
        retained: false,
        updated_at: at,
    }
}

/// Where and from what a record was made.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub identity: &'a ProviderIdentity,
    pub object_name: &'a str,
    pub commit: Option<&'a ObjectHex>,
    /// Policies deny the document as it stands there.
    pub denied: bool,
}

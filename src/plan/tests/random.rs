//! Worlds made up by proptest: every combination of document, record, live object, mark and decision, with what
//! cannot be seen sprinkled in. Only what the planner's callers promise is kept: current dependencies have no cycle
//! and name documents, and an object that stands where it should is no stray as well.

use std::collections::BTreeSet;

use proptest::array::uniform3;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::*;
use crate::model::{
    Annotations, Change, Deletion, DriftMode, FieldHash, FieldPath, Fields, Hold, Kind, Mark, OnFailure, Ownership,
    ProviderIdentity, Reason, Record, ResourceKey, Suspend, Unknown,
};

/// Fields a document may set, with two values each.
const DATABASE_FIELDS: &[(&str, [&str; 2])] = &[
    (LIMIT, ["20", "30"]),
    (PAGE_SIZE, ["4096", "8192"]),
    (APP_ACCESS, [r#""read""#, r#""admin""#]),
    (PGCRYPTO, ["true", "true"]),
    (WORK_MEM, [r#""64mb""#, r#""64MB""#]),
];
const CACHE_FIELDS: &[(&str, [&str; 2])] =
    &[("/spec/keyPrefix", [r#""a:""#, r#""b:""#]), ("/spec/categories/read", ["true", "true"])];
const MOST_FIELDS: usize = 5;
const MOST_OBJECTS: usize = 7;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Document {
    There,
    Gone,
    Rejected,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Memory {
    None,
    Recorded,
    Retained,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Owner {
    Us,
    UsUnfinished,
    AnotherKey,
    AnotherPlatform,
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sight {
    NotObserved,
    Unknown,
    Absent { lost: bool, left: bool, elsewhere: bool },
    Present(Owner),
}

#[derive(Clone, Copy, Debug)]
enum Said {
    Open,
    Lifted,
    Ignored,
}

/// One field: which of its two values each side has.
#[derive(Clone, Debug)]
struct FieldRecipe {
    git: Option<usize>,
    applied: Option<usize>,
    readback: Option<usize>,
    marked: Option<usize>,
    live: Option<usize>,
    unseen: Option<Reason>,
    unsettled: bool,
    /// What a step whose end nobody wrote down gave it.
    begun: Option<Option<usize>>,
    /// What people have said of it, and its base, git's and live value then.
    said: Option<(Said, [Option<usize>; 3])>,
}

#[derive(Clone, Debug)]
struct ObjectRecipe {
    kind: Kind,
    name: usize,
    environment: usize,
    moved: bool,
    document: Document,
    memory: Memory,
    sight: Sight,
    fields: Vec<FieldRecipe>,
    annotations: Annotations,
    annotations_before: Annotations,
    needs: usize,
    needed_before: usize,
    silenced_missing: bool,
}

/// A world, as it is made up.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    objects: Vec<ObjectRecipe>,
    mode: DriftMode,
    guard: (usize, usize),
    unreadable: bool,
    prune_hold: bool,
    window_closed: bool,
    production_suspended: bool,
    production_removed: bool,
    denied: usize,
    swapped: bool,
    stray: bool,
}

fn value() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![3 => Just(Some(0)), 1 => Just(Some(1)), 1 => Just(None)]
}

fn mode() -> impl Strategy<Value = DriftMode> {
    prop_oneof![Just(DriftMode::Propose), Just(DriftMode::Revert), Just(DriftMode::Observe)]
}

prop_compose! {
    fn field_recipe()(
        git in value(),
        applied in value(),
        readback in value(),
        marked in value(),
        live in value(),
        unseen in option::weighted(0.15, prop_oneof![
            Just(Reason::NotObserved), Just(Reason::TimedOut), Just(Reason::NotOwned), Just(Reason::OwnedByOther),
        ]),
        unsettled in prop::bool::weighted(0.15),
        begun in option::weighted(0.15, value()),
        said in option::weighted(0.2, (
            prop_oneof![Just(Said::Open), Just(Said::Lifted), Just(Said::Ignored)], uniform3(value()),
        )),
    ) -> FieldRecipe {
        FieldRecipe { git, applied, readback, marked, live, unseen, unsettled, begun, said }
    }
}

prop_compose! {
    fn annotations()(
        drift in option::weighted(0.3, mode()),
        ignores in prop::bool::weighted(0.15),
        deletion in option::weighted(0.6, prop_oneof![
            1 => Just(Deletion::Protect), 3 => Just(Deletion::Delete), 1 => Just(Deletion::Retain),
        ]),
        adopt in prop::bool::weighted(0.3),
        suspend in prop::bool::weighted(0.1),
        rotate in option::weighted(0.3, prop_oneof![Just("may".to_owned()), Just("june".to_owned())]),
    ) -> Annotations {
        let drift_ignore = if ignores { vec![FieldPath::from(LIMIT)] } else { Vec::new() };
        Annotations { drift, drift_ignore, deletion, adopt, suspend, rotate, on_failure: OnFailure::Keep }
    }
}

prop_compose! {
    fn object_recipe()(
        kind in prop_oneof![3 => Just(Kind::Database), 2 => Just(Kind::Cache)],
        name in 0..5_usize,
        environment in 0..2_usize,
        moved in prop::bool::weighted(0.05),
        document in prop_oneof![6 => Just(Document::There), 3 => Just(Document::Gone), 1 => Just(Document::Rejected)],
        memory in prop_oneof![3 => Just(Memory::None), 6 => Just(Memory::Recorded), 1 => Just(Memory::Retained)],
        sight in prop_oneof![
            1 => Just(Sight::NotObserved),
            1 => Just(Sight::Unknown),
            // What tells that an object was there is left of it.
            3 => (any::<bool>(), prop::bool::weighted(0.2))
                .prop_map(|(lost, elsewhere)| Sight::Absent { lost, left: lost || elsewhere, elsewhere }),
            9 => prop_oneof![
                8 => Just(Owner::Us), 1 => Just(Owner::UsUnfinished), 1 => Just(Owner::AnotherKey),
                1 => Just(Owner::AnotherPlatform), 1 => Just(Owner::Nobody),
            ].prop_map(Sight::Present),
        ],
        fields in vec(field_recipe(), MOST_FIELDS),
        annotations in annotations(),
        annotations_before in annotations(),
        needs in any::<usize>(),
        needed_before in any::<usize>(),
        silenced_missing in prop::bool::weighted(0.1),
    ) -> ObjectRecipe {
        ObjectRecipe {
            kind, name, environment, moved, document, memory, sight, fields, annotations, annotations_before, needs,
            needed_before, silenced_missing,
        }
    }
}

prop_compose! {
    /// Any world.
    pub(super) fn recipe()(
        objects in vec(object_recipe(), 1..=MOST_OBJECTS),
        mode in mode(),
        guard in (0..6_usize, 0..60_usize),
        unreadable in prop::bool::weighted(0.1),
        prune_hold in prop::bool::weighted(0.1),
        window_closed in prop::bool::weighted(0.1),
        production_suspended in prop::bool::weighted(0.1),
        production_removed in prop::bool::weighted(0.1),
        denied in any::<usize>(),
        swapped in prop::bool::weighted(0.05),
        stray in prop::bool::weighted(0.2),
    ) -> Recipe {
        Recipe {
            objects, mode, guard, unreadable, prune_hold, window_closed, production_suspended, production_removed, denied,
            swapped, stray,
        }
    }
}

impl Recipe {
    /// The same world before anybody decided anything, where nothing is put back or ignored on its own, and where
    /// nothing keeps a mark from being written.
    pub(super) fn undecided(mut self) -> Self {
        self.mode = DriftMode::Propose;
        self.window_closed = false;
        self.production_suspended = false;
        self.denied = 0;
        for object in &mut self.objects {
            object.annotations.suspend = false;
            object.annotations.drift_ignore.clear();
            object.annotations.drift = None;
            object.fields.iter_mut().for_each(|field| field.said = None);
        }
        self
    }

    /// Makes the world.
    pub(super) fn world(&self) -> World {
        let mut world = World::new();
        world.decisions.drift = self.mode;
        (world.platform.spec.deletion_guard.count, world.platform.spec.deletion_guard.percent) = self.guard;
        let keys: Vec<ResourceKey> = self.objects.iter().map(ObjectRecipe::key).collect();
        let documented: BTreeSet<usize> =
            (0..keys.len()).filter(|at| self.objects[*at].document != Document::Gone).collect();
        let mut seen = BTreeSet::new();
        for (at, object) in self.objects.iter().enumerate() {
            if !seen.insert(keys[at].clone()) {
                continue;
            }
            let chosen = |bits: usize, below: usize| -> Vec<ResourceKey> {
                // A quarter of all possible dependencies.
                let picks = |other: &usize| bits >> (2 * other) & 0b11 == 0b11;
                (0..below).filter(|other| keys[*other] != keys[at]).filter(picks).map(|o| keys[o].clone()).collect()
            };
            let known: BTreeSet<&ResourceKey> = documented.iter().map(|at| &keys[*at]).collect();
            let needs = chosen(object.needs, at).into_iter().filter(|key| known.contains(key)).collect();
            object.put_into(&mut world, &keys[at], needs, chosen(object.needed_before, keys.len()));
            if self.denied >> (3 * at) & 0b111 == 0b111 {
                world.desired.denied.insert(keys[at].clone(), "denied".to_owned());
            }
        }
        // Of a key that was made up twice only the first counts, which may have no document.
        let wanted: BTreeSet<ResourceKey> = world.desired.resources.keys().cloned().collect();
        for key in &wanted {
            let rejected = world.desired.rejected.clone();
            let document = world.document_mut(key);
            document.depends_on.retain(|needed| wanted.contains(needed) || rejected.contains_key(needed));
        }
        if self.unreadable {
            world.desired.unreadable.push("b.yaml is not YAML".to_owned());
        }
        if self.prune_hold {
            world.decisions.prune_holds.push((Reason::SourceChanged, "the branch is another".to_owned()));
        }
        if self.window_closed {
            world
                .decisions
                .closed_windows
                .insert("staging".to_owned(), Hold::by(Reason::WindowClosed, "opens at 08:00"));
        }
        if self.production_suspended {
            world.tenant.suspend = Suspend::Environments(vec!["production".to_owned()]);
        }
        if self.production_removed {
            world.tenant.environments.retain(|environment| environment != "production");
        }
        if self.swapped {
            world.live.identities.insert("redis-main".to_owned(), ProviderIdentity("a new server".to_owned()));
        }
        if self.stray {
            world.a_stray_bears_the_mark_of(&db("stray"));
        }
        world
    }
}

impl ObjectRecipe {
    fn key(&self) -> ResourceKey {
        let environment = ["staging", "production"][self.environment];
        ResourceKey::new("checkout", environment, self.kind, format!("r{}", self.name))
    }

    fn fields(&self, side: impl Fn(&FieldRecipe) -> Option<usize>) -> Fields {
        self.named().filter_map(|(path, values, field)| Some((path, parse(values[side(field)?])))).collect()
    }

    fn named(&self) -> impl Iterator<Item = (FieldPath, [&'static str; 2], &FieldRecipe)> {
        let catalog = match self.kind {
            Kind::Database => DATABASE_FIELDS,
            Kind::Cache => CACHE_FIELDS,
        };
        catalog.iter().zip(&self.fields).map(|((path, values), field)| (FieldPath::from(*path), *values, field))
    }

    fn put_into(&self, world: &mut World, key: &ResourceKey, needs: Vec<ResourceKey>, needed: Vec<ResourceKey>) {
        match self.document {
            Document::There => {
                let mut document = document(key);
                document.fields = self.fields(|field| field.git);
                document.annotations = self.annotations.clone();
                document.depends_on = needs;
                if self.moved {
                    document.provider = "pg-other".to_owned();
                }
                world.git_has(document);
            }
            Document::Gone => {}
            Document::Rejected => {
                world.desired.rejected.insert(key.clone(), "its spec is wrong".to_owned());
            }
        }
        self.observe(world, key);
        match self.memory {
            Memory::None => {}
            Memory::Recorded | Memory::Retained => self.remember(world, key, needed),
        }
        self.say(world, key);
    }

    fn observe(&self, world: &mut World, key: &ResourceKey) {
        match self.sight {
            Sight::NotObserved => {}
            Sight::Unknown => world.cannot_be_seen(key),
            Sight::Absent { lost, left, elsewhere } => {
                world.is_absent(key, lost, left);
                if elsewhere {
                    world.a_stray_bears_the_mark_of(key);
                }
            }
            Sight::Present(owner) => {
                let live = self.fields(|field| field.live);
                let live: Vec<(&str, Value)> =
                    live.iter().map(|(path, value)| (path.as_str(), value.clone())).collect();
                world.stands(key, self.ownership(world, key, owner), &live);
                for (path, _, field) in self.named() {
                    if let Some(reason) = field.unseen {
                        let live = world.live_mut(key);
                        live.fields.0.remove(&path);
                        live.unknown.insert(path, Unknown::new(reason, "it cannot be seen"));
                    }
                }
            }
        }
    }

    fn ownership(&self, world: &World, key: &ResourceKey, owner: Owner) -> Ownership {
        let hashes = self.fields(|field| field.marked).hashes();
        let mut mark = Mark { hashes, ..world.mark(key, &[]) };
        match owner {
            Owner::Us => {}
            Owner::UsUnfinished => mark.unfinished = true,
            Owner::AnotherKey => mark.key.name.push_str("-another"),
            Owner::AnotherPlatform => mark.platform.0.push_str("-another"),
            Owner::Nobody => return Ownership::Unmarked,
        }
        Ownership::Marked(mark)
    }

    fn remember(&self, world: &mut World, key: &ResourceKey, needed: Vec<ResourceKey>) {
        let document = document(key);
        let mut record = Record {
            key: key.clone(),
            provider: document.provider.clone(),
            identity: world.live.identities[&document.provider].clone(),
            object_name: key.object_name(63),
            object: crate::model::ObjectId("as recorded".to_owned()),
            applied: Fields::new(),
            readback: Fields::new(),
            unsettled: Default::default(),
            begun: Default::default(),
            document: Default::default(),
            annotations: self.annotations_before.clone(),
            depends_on: needed,
            file: document.origin.file,
            commit: "c0".to_owned(),
            retained: self.memory == Memory::Retained,
            updated_at: chrono::DateTime::UNIX_EPOCH,
        };
        for (path, values, field) in self.named() {
            if let Some(value) = field.begun {
                let to = value.map(|at| parse(values[at]));
                record.begun.add(&[Change { path: path.clone(), from: None, to }], false);
            }
            if field.unsettled {
                let hash = field.marked.map(|at| FieldHash::of(&parse(values[at])));
                record.unsettled.insert(path, hash);
            } else if let Some(applied) = field.applied {
                record.applied.insert(path.clone(), parse(values[applied]));
                record.readback.insert(path, parse(values[field.readback.unwrap_or(applied)]));
            }
        }
        world.prior.records.insert(key.clone(), record);
    }

    fn say(&self, world: &mut World, key: &ResourceKey) {
        if self.silenced_missing {
            world.decisions.kept_missing.insert(key.clone());
        }
        for (path, values, recipe) in self.named() {
            let Some((said, [base, git, live])) = recipe.said else { continue };
            let value = |at: Option<usize>| at.map(|at| parse(values[at]));
            let said_of = field(path.as_str(), value(base), value(git), value(live));
            match said {
                Said::Open => world.proposal_is_open(key, said_of),
                Said::Lifted => world.decision_lifts(key, said_of),
                Said::Ignored => world.person_ignores(key, said_of),
            }
        }
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

//! What a team wants: documents, and the ways in which people change them.

use std::collections::{BTreeMap, BTreeSet};

use plumb::model::{Fields, Kind, ResourceKey};
use serde_json::{Map, Value, json};

use super::chaos::Chaos;

pub const TENANT: &str = "sim";
pub const ENVIRONMENT: &str = "staging";

/// The providers, each of another type of system.
pub const PG: &str = "pg";
pub const FILES: &str = "files";
pub const CACHE: &str = "cache";

/// Every resource that may ever be wanted. Those of `guest` and `other` exist already: the first without a mark, the
/// second with the mark of another platform.
pub const NAMES: [(&str, Kind, &str); 11] = [
    ("db-a", Kind::Database, PG),
    ("db-b", Kind::Database, PG),
    ("db-c", Kind::Database, PG),
    ("file-a", Kind::Database, FILES),
    ("file-b", Kind::Database, FILES),
    ("file-c", Kind::Database, FILES),
    ("cache-a", Kind::Cache, CACHE),
    ("cache-b", Kind::Cache, CACHE),
    ("cache-c", Kind::Cache, CACHE),
    (GUEST, Kind::Database, PG),
    (OTHER, Kind::Cache, CACHE),
];
pub const GUEST: &str = "guest";
pub const OTHER: &str = "other";

/// How a document is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// One field that no kind has: the resource is rejected.
    Field,
    /// No YAML: the tree cannot be read whole.
    Text,
}

/// One document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub name: &'static str,
    pub kind: Kind,
    pub provider: &'static str,
    pub spec: BTreeMap<&'static str, Value>,
    pub annotations: BTreeMap<&'static str, String>,
    pub depends_on: Option<&'static str>,
    pub broken: Option<Broken>,
}

/// The key of a resource.
pub fn key_of(name: &str, kind: Kind) -> ResourceKey {
    ResourceKey::new(TENANT, ENVIRONMENT, kind, name)
}

impl Document {
    fn new(name: &'static str, kind: Kind, provider: &'static str, chaos: &Chaos) -> Self {
        let (spec, annotations) = (BTreeMap::new(), BTreeMap::new());
        let mut document = Self { name, kind, provider, spec, annotations, depends_on: None, broken: None };
        for _ in 0..chaos.below(3) {
            document.change_field(chaos);
        }
        if kind == Kind::Database && chaos.chance(0.6) {
            document.annotations.insert("deletion", "delete".to_owned());
        }
        if chaos.chance(TOGETHER) {
            document.annotations.insert(ON_FAILURE, "rollback".to_owned());
        }
        document
    }

    pub fn key(&self) -> ResourceKey {
        key_of(self.name, self.kind)
    }

    /// Sets, changes or removes one field.
    pub fn change_field(&mut self, chaos: &Chaos) {
        let (field, value) = match self.provider {
            PG => match chaos.below(3) {
                0 => ("connectionLimit", json!(10 + chaos.below(5))),
                1 => {
                    let roles = ["app", "ro", "jobs"].into_iter().filter(|_| chaos.chance(0.5));
                    let access = ["read", "readwrite", "admin"];
                    let roles = roles.map(|name| json!({"name": name, "access": chaos.pick(&access)}));
                    ("roles", Value::Array(roles.collect()))
                }
                _ => ("settings", json!({"work_mem": format!("{}MB", 4 + chaos.below(4))})),
            },
            FILES => match chaos.below(5) {
                0 => ("journalMode", json!(chaos.pick(&["delete", "wal"]))),
                1 => ("foreignKeys", json!(chaos.chance(0.5))),
                2 if chaos.chance(0.3) => ("pageSize", json!(chaos.pick(&[4096, 8192]))),
                _ => ("userVersion", json!(1 + chaos.below(6))),
            },
            _ => {
                let categories = ["read", "write", "hash", "list"].into_iter().filter(|_| chaos.chance(0.5));
                ("categories", Value::Array(categories.map(Value::from).collect()))
            }
        };
        if chaos.chance(0.15) {
            self.spec.remove(field);
        } else {
            self.spec.insert(field, value);
        }
    }

    fn change_annotation(&mut self, chaos: &Chaos) {
        let (name, value) = match chaos.below(6) {
            0 | 1 => ("deletion", *chaos.pick(&["delete", "retain", "protect"])),
            2 => ("drift", *chaos.pick(&["revert", "observe"])),
            3 => ("rotate", *chaos.pick(&["one", "two", "three"])),
            4 => (ON_FAILURE, *chaos.pick(&["rollback", "keep"])),
            _ => ("suspend", "true"),
        };
        if chaos.chance(0.3) {
            self.annotations.remove(name);
        } else {
            self.annotations.insert(name, value.to_owned());
        }
    }

    /// Whether its changes are undone together with those of others.
    pub fn goes_with_others(&self) -> bool {
        self.annotations.get(ON_FAILURE).is_some_and(|what| what == "rollback")
    }

    /// Nothing in it holds up what it asks for any more: it can be read, and says nothing that waits for a person.
    pub fn put_right(&mut self) {
        self.broken = None;
        self.annotations.remove("suspend");
        if self.annotations.get("drift").is_some_and(|mode| mode == "observe") {
            self.annotations.insert("drift", "revert".to_owned());
        }
    }

    /// What git sets, flat.
    pub fn fields(&self) -> Fields {
        let spec: Map<String, Value> =
            self.spec.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let mut fields = self.kind.info().flatten(&Value::Object(spec));
        fields.fill(self.key().implied_fields());
        fields
    }

    pub fn path(&self) -> String {
        format!("environments/{ENVIRONMENT}/{}.yaml", self.name)
    }

    pub fn text(&self) -> String {
        let mut text = format!(
            "apiVersion: plumb.dev/v1\nkind: {}\nmetadata:\n  name: {}\n  labels: {{owner: team-sim}}\n",
            self.kind, self.name
        );
        if !self.annotations.is_empty() {
            text += "  annotations:\n";
            for (name, value) in &self.annotations {
                text += &format!("    plumb.dev/{name}: \"{value}\"\n");
            }
        }
        text += &format!("spec:\n  provider: {}\n", self.provider);
        if let Some(dependency) = self.depends_on {
            let kind = NAMES.iter().find(|(name, ..)| *name == dependency).expect("a name").1;
            text += &format!("  dependsOn: [{kind}/{dependency}]\n");
        }
        for (name, value) in &self.spec {
            text += &format!("  {name}: {value}\n");
        }
        match self.broken {
            None => {}
            Some(Broken::Field) => text += "  nonsense: true\n",
            Some(Broken::Text) => text += "  : [\n",
        }
        text
    }
}

const ON_FAILURE: &str = "on-failure";

/// The share of documents whose changes are undone together when one of them fails for good.
const TOGETHER: f64 = 0.5;

/// The share of runs in which people are asked about drift.
const PROPOSING: f64 = 0.03;

/// All documents at one commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    pub documents: BTreeMap<&'static str, Document>,
    /// Whether people are asked about drift of some. Asking takes the git program, which takes its time.
    proposes: bool,
}

impl Wish {
    /// Everything that is wanted from the start.
    pub fn first(chaos: &Chaos) -> Self {
        let mut wish = Self { proposes: chaos.chance(PROPOSING), ..Self::default() };
        for _ in 0..2 + chaos.below(4) {
            wish.add(chaos);
        }
        wish
    }

    pub fn keys(&self) -> BTreeSet<ResourceKey> {
        self.documents.values().map(Document::key).collect()
    }

    pub fn get(&self, key: &ResourceKey) -> Option<&Document> {
        self.documents.values().find(|document| document.key() == *key)
    }

    pub fn get_mut(&mut self, key: &ResourceKey) -> Option<&mut Document> {
        self.documents.values_mut().find(|document| document.key() == *key)
    }

    fn add(&mut self, chaos: &Chaos) {
        let (name, kind, provider) = *chaos.pick(&NAMES);
        if self.documents.contains_key(name) || ([GUEST, OTHER].contains(&name) && !chaos.chance(0.3)) {
            return;
        }
        let mut document = Document::new(name, kind, provider, chaos);
        // Only on what is there, and never in a circle: what is added later depends on what was there before.
        if !self.documents.is_empty() && chaos.chance(0.4) {
            let others: Vec<&'static str> = self.documents.keys().copied().filter(|other| *other < name).collect();
            if !others.is_empty() {
                document.depends_on = Some(*chaos.pick::<&'static str>(&others));
            }
        }
        if self.proposes && chaos.chance(0.6) {
            document.annotations.insert("drift", "propose".to_owned());
        }
        self.documents.insert(name, document);
    }

    /// One change as people make them.
    pub fn change(&mut self, chaos: &Chaos) {
        let names: Vec<&'static str> = self.documents.keys().copied().collect();
        if names.is_empty() {
            return self.add(chaos);
        }
        let name = *chaos.pick(&names);
        let document = self.documents.get_mut(name).expect("it is there");
        match chaos.below(20) {
            0..5 => self.add(chaos),
            5..11 => document.change_field(chaos),
            11..14 => {
                self.remove(name);
            }
            14..17 => document.change_annotation(chaos),
            17 => document.broken = Some(if chaos.chance(0.7) { Broken::Field } else { Broken::Text }),
            18 => document.broken = None,
            _ => {
                for _ in 0..3 {
                    let names: Vec<&'static str> = self.documents.keys().copied().collect();
                    if names.len() > 1 {
                        self.remove(chaos.pick::<&'static str>(&names));
                    }
                }
            }
        }
    }

    /// A change of all that goes together, and sometimes something new that goes with it.
    pub fn change_together(&mut self, chaos: &Chaos) {
        if chaos.chance(0.4) {
            self.add(chaos);
        }
        for document in self.documents.values_mut().filter(|document| document.goes_with_others()) {
            document.change_field(chaos);
        }
    }

    /// Removes a document; what depended on it does no more.
    pub fn remove(&mut self, name: &'static str) -> Option<Document> {
        for document in self.documents.values_mut().filter(|document| document.depends_on == Some(name)) {
            document.depends_on = None;
        }
        self.documents.remove(name)
    }

    pub fn files(&self) -> BTreeMap<String, String> {
        self.documents.values().map(|document| (document.path(), document.text())).collect()
    }
}

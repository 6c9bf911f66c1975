//! What is live, as a manager saw it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::condition::Reason;
use super::fields::{FieldHash, FieldPath, Fields};
use super::key::ResourceKey;
use super::platform::PlatformId;

/// What stands on an object that Plumb manages (R1): whose it is, and a short hash of each value last applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    #[serde(rename = "p")]
    pub platform: PlatformId,
    #[serde(rename = "k")]
    pub key: ResourceKey,
    /// The base of the three-way comparison when the inventory is lost (R4).
    #[serde(rename = "h", default)]
    pub hashes: BTreeMap<FieldPath, FieldHash>,
    /// Set until the object is whole; a creation that was cut short goes on from here.
    #[serde(rename = "u", default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
}

impl Mark {
    /// The text form: `plumb:` and compact JSON, for comments and the like.
    pub fn to_text(&self) -> String {
        format!("{}{}", Self::PREFIX, serde_json::to_string(self).expect("a mark is plain data"))
    }

    /// Reads [`Mark::to_text`] back; `None` for any other text.
    pub fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text.strip_prefix(Self::PREFIX)?).ok()
    }

    const PREFIX: &'static str = "plumb:";
}

/// Whose an object is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ownership {
    /// It carries no mark.
    Unmarked,
    /// It carries a mark; whose, the mark says.
    Marked(Mark),
}

/// What tells one object from another of the same name: an oid, a file id. Opaque; compared for equality (R13).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectId(pub String);

/// Who a server is, whatever its address: PostgreSQL's `system_identifier`, a root marker file (R11).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProviderIdentity(pub String);

/// How closely a manager looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Depth {
    /// What shared catalogs tell: one query a server.
    Shallow,
    /// Inside each object as well.
    Deep,
}

/// One object to observe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub key: ResourceKey,
    /// Its name on the server.
    pub object_name: String,
    /// The fields that git or the inventory speak of; a manager need not read others.
    pub fields: BTreeSet<FieldPath>,
}

/// What could not be seen, and why. Never leads to a create, a delete or a decision (R5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    pub reason: Reason,
    pub message: String,
}

impl Unknown {
    /// Something that could not be seen.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What a manager saw of one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Observation {
    /// There is no such object. `lost` when something beside it (the marked owner role of a database) says that it
    /// was there, whole, before; `left` stands for what else is left of it.
    Absent {
        lost: bool,
        #[serde(default)]
        left: Option<ObjectId>,
    },
    /// It is there.
    Present(Box<Live>),
    /// It could not be seen.
    Unknown(Unknown),
}

impl Observation {
    /// The object, where it was seen.
    pub fn present(&self) -> Option<&Live> {
        match self {
            Self::Present(live) => Some(live),
            Self::Absent { .. } | Self::Unknown(_) => None,
        }
    }
}

/// A live object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Live {
    pub object: ObjectId,
    pub ownership: Ownership,
    /// Canonical values. Scalars are always there; a member that is not here does not exist.
    pub fields: Fields,
    /// Fields that could not be seen, or belong to somebody else; a prefix covers all below it.
    pub unknown: BTreeMap<FieldPath, Unknown>,
    /// Where an application finds it: host, port, database, user names. Never a password.
    pub outputs: BTreeMap<String, String>,
}

impl Live {
    /// Why `path` is unknown, if it is.
    pub fn unknown_at(&self, path: &FieldPath) -> Option<&Unknown> {
        self.unknown.iter().find(|(prefix, _)| path.is_within(prefix.as_str())).map(|(_, unknown)| unknown)
    }
}

/// What is known of the live systems in one pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observations {
    /// By key; a key that was not looked at is not here.
    pub objects: BTreeMap<ResourceKey, Observation>,
    /// The identity of each provider that answered, by name.
    pub identities: BTreeMap<String, ProviderIdentity>,
    /// Marked objects of this platform and tenant that the inventory does not know, and that are not where git wants them.
    pub strays: BTreeMap<ResourceKey, Stray>,
}

impl Observations {
    /// The object of `key`, where it was seen.
    pub fn present(&self, key: &ResourceKey) -> Option<&Live> {
        self.objects.get(key)?.present()
    }
}

/// A marked object that nobody asked for where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stray {
    pub provider: String,
    pub object_name: String,
    pub object: ObjectId,
    /// Git has a document of its key, which wants it elsewhere or cannot be used: it is no orphan.
    #[serde(default)]
    pub wanted: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::Kind;

    #[test]
    fn a_mark_survives_its_text_form() {
        let mut fields = Fields::new();
        fields.insert("/spec/roles/app/access", "read");
        let mark = Mark {
            platform: PlatformId("acme".into()),
            key: ResourceKey::new("checkout", "staging", Kind::Database, "orders"),
            hashes: fields.hashes(),
            unfinished: false,
        };
        assert_eq!(Mark::from_text(&mark.to_text()), Some(mark));
        assert_eq!(Mark::from_text("a person's comment"), None);
        assert_eq!(Mark::from_text("plumb:{half"), None);
    }
}

//! The kinds, described once: what their specs hold, which of their lists are keyed, what cannot change in place,
//! and the defaults a field goes back to when git stops setting it.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fields::{FieldPath, Fields};
use super::key::{Kind, ResourceKey};
use super::platform::ProviderType;

/// How a list in a spec is compared. Lists are never ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListShape {
    /// Members are mappings, told apart by this field.
    Keyed(&'static str),
    /// Members are scalars; each is there or not.
    Set,
}

/// What the planner, the validator and the editor need to know of a kind.
#[derive(Debug)]
pub struct KindInfo {
    pub kind: Kind,
    /// Losing the object loses data: deletion is protected by default, and absence is never answered by creation.
    pub data_bearing: bool,
    /// Lists by their pointer.
    pub lists: &'static [(&'static str, ListShape)],
    /// Fields that only a replacement of the object can change.
    pub immutable: &'static [&'static str],
    /// What a scalar field goes to when git stops setting it. Members of lists and of maps are removed instead.
    pub defaults: &'static [(&'static str, Default)],
    /// Sub-objects whose removal loses something (R6): role, extension.
    pub destructive: &'static [&'static str],
    /// Maps whose values are compared as text, since that is how the server keeps them.
    pub textual: &'static [&'static str],
}

/// A default, in a form a `static` can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    Number(i64),
    Text(&'static str),
    Flag(bool),
}

impl From<Default> for Value {
    fn from(default: Default) -> Value {
        match default {
            Default::Number(number) => json!(number),
            Default::Text(text) => json!(text),
            Default::Flag(flag) => json!(flag),
        }
    }
}

/// Spec fields that steer Plumb and never reach the live system.
const STEERING: &[&str] = &["/spec/provider", "/spec/dependsOn"];

static DATABASE: KindInfo = KindInfo {
    kind: Kind::Database,
    data_bearing: true,
    lists: &[("/spec/roles", ListShape::Keyed("name")), ("/spec/extensions", ListShape::Set)],
    immutable: &["/spec/pageSize"],
    defaults: &[
        ("/spec/connectionLimit", Default::Number(-1)),
        ("/spec/journalMode", Default::Text("delete")),
        ("/spec/pageSize", Default::Number(4096)),
        ("/spec/userVersion", Default::Number(0)),
        ("/spec/foreignKeys", Default::Flag(false)),
    ],
    destructive: &["/spec/roles", "/spec/extensions"],
    textual: &["/spec/settings"],
};

static CACHE: KindInfo = KindInfo {
    kind: Kind::Cache,
    data_bearing: false,
    lists: &[("/spec/categories", ListShape::Set)],
    immutable: &[],
    defaults: &[],
    destructive: &[],
    textual: &[],
};

/// Settings that would change who a session is; Plumb's own sessions among them.
const IDENTITY: &[&str] = &["role", "session_authorization"];

/// Why no server takes a setting of this name for a database; `None` where only the server can tell.
pub fn refuse_setting(name: &str) -> Option<String> {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
    };
    if !name.split('.').all(is_part) {
        return Some(format!("{name:?} is not the name of a setting"));
    }
    let is_identity = IDENTITY.contains(&name.to_ascii_lowercase().as_str());
    is_identity.then(|| format!("the setting {name} says who a session is; give roles their access instead"))
}

impl Kind {
    /// The description of this kind.
    pub fn info(self) -> &'static KindInfo {
        match self {
            Kind::Database => &DATABASE,
            Kind::Cache => &CACHE,
        }
    }

    /// The roles of a resource that sets these fields, as passwords and `plumb secret get` know them.
    pub fn roles<'a>(self, fields: impl Iterator<Item = &'a FieldPath>) -> BTreeSet<String> {
        match self {
            Kind::Database => {
                let of_roles = fields.filter(|path| path.is_within("/spec/roles"));
                of_roles.filter_map(|path| path.segments().into_iter().nth(2)).collect()
            }
            // Its one user has the Cache's own name.
            Kind::Cache => BTreeSet::from(["user".to_owned()]),
        }
    }
}

impl KindInfo {
    /// The shape of the list at `pointer`, if there is one.
    pub fn list(&self, pointer: &str) -> Option<ListShape> {
        self.lists.iter().find(|(path, _)| *path == pointer).map(|(_, shape)| *shape)
    }

    /// What `path` goes to once when git stops setting it; `None` removes a member.
    pub fn default_of(&self, path: &FieldPath) -> Option<Value> {
        self.defaults.iter().find(|(pointer, _)| *pointer == path.as_str()).map(|(_, default)| Value::from(*default))
    }

    /// Whether only a replacement can change `path`.
    pub fn is_immutable(&self, path: &FieldPath) -> bool {
        self.immutable.contains(&path.as_str())
    }

    /// Whether removing the member at `path` loses something (R6).
    pub fn is_destructive(&self, path: &FieldPath) -> bool {
        self.destructive.iter().any(|prefix| path.is_within(prefix))
    }

    /// Whether the members of the list that `path` is in bear a mark each (R1): those that have a name of their own do, those
    /// of a set do not.
    pub fn has_marks(&self, path: &FieldPath) -> bool {
        let is_keyed = |shape: ListShape| matches!(shape, ListShape::Keyed(_));
        self.lists.iter().any(|(list, shape)| path.is_within(list) && is_keyed(*shape))
    }

    /// Flattens the `spec` of a document that has passed its schema. Fields that are `null` are unset.
    pub fn flatten(&self, spec: &Value) -> Fields {
        let mut fields = Vec::new();
        self.flatten_into(&FieldPath::of(&["spec"]), spec, &mut fields);
        fields.into_iter().collect()
    }

    fn flatten_into(&self, path: &FieldPath, value: &Value, fields: &mut Vec<(FieldPath, Value)>) {
        if STEERING.contains(&path.as_str()) {
            return;
        }
        match value {
            Value::Null => {}
            Value::Object(map) => {
                for (name, value) in map {
                    self.flatten_into(&path.child(name), value, fields);
                }
            }
            Value::Array(members) => match self.list(path.as_str()) {
                Some(ListShape::Keyed(key)) => {
                    for member in members {
                        let Some(name) = member.get(key).and_then(Value::as_str) else { continue };
                        let below = path.child(name);
                        for (field, value) in
                            member.as_object().into_iter().flatten().filter(|(field, _)| *field != key)
                        {
                            self.flatten_into(&below.child(field), value, fields);
                        }
                    }
                }
                Some(ListShape::Set) | None => {
                    for member in members {
                        let name = member.as_str().map_or_else(|| member.to_string(), str::to_owned);
                        fields.push((path.child(&name), Value::Bool(true)));
                    }
                }
            },
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                let textual = self.textual.iter().any(|prefix| path.is_within(prefix));
                let value = match value {
                    // PostgreSQL spells booleans of settings on/off.
                    Value::Bool(flag) if textual => json!(if *flag { "on" } else { "off" }),
                    Value::Number(number) if textual => json!(number.to_string()),
                    other => other.clone(),
                };
                fields.push((path.clone(), value));
            }
        }
    }
}

impl ResourceKey {
    /// Fields that a resource has even where its document does not set them: left unmanaged, they would let a change
    /// made by hand reach other tenants' data unseen.
    pub fn implied_fields(&self) -> Fields {
        let mut fields = Fields::new();
        match self.kind {
            Kind::Database => {}
            Kind::Cache => {
                let name = self.object_name(ProviderType::Redis.name_limit());
                fields.insert("/spec/keyPrefix", format!("{name}:"));
            }
        }
        fields
    }
}

impl ProviderType {
    /// The spec fields of `kind` that this type of provider can keep true; `None` when it serves no such kind.
    pub fn supports(self, kind: Kind) -> Option<&'static [&'static str]> {
        match (self, kind) {
            (ProviderType::Postgres, Kind::Database) => {
                Some(&["/spec/connectionLimit", "/spec/extensions", "/spec/roles", "/spec/settings"])
            }
            (ProviderType::Sqlite, Kind::Database) => {
                Some(&["/spec/journalMode", "/spec/pageSize", "/spec/userVersion", "/spec/foreignKeys"])
            }
            (ProviderType::Redis, Kind::Cache) => Some(&["/spec/keyPrefix", "/spec/categories"]),
            (ProviderType::Postgres | ProviderType::Sqlite, Kind::Cache) | (ProviderType::Redis, Kind::Database) => {
                None
            }
        }
    }
}

/// What a role of a database may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read every table, now and later.
    Read,
    /// Read and write data; not the schema.
    Readwrite,
    /// Member of the owner: data and schema.
    Admin,
}

/// A login role of a database. Its name on the server is `{database}_{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Role {
    /// Lower-case letters, digits, dashes and underscores; not `owner`, which names the owning role.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9_-]{0,30}$"))]
    pub name: String,
    /// What it may do with the data.
    pub access: Access,
}

/// How SQLite keeps its journal (`PRAGMA journal_mode`); only the modes that persist in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum JournalMode {
    /// A rollback journal that is deleted at commit.
    Delete,
    /// A write-ahead log: readers and one writer at the same time.
    Wal,
}

/// A value of a server setting; compared as text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SettingValue {
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
}

/// `spec` of a Database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DatabaseSpec {
    /// The Provider it lives on; may be left out where one Provider serves its kind in its environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Resources that must be ready first, as Kind/name in the same environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depends_on: Option<Vec<String>>,
    /// PostgreSQL: how many connections at once; -1 is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 262_143))]
    pub connection_limit: Option<i64>,
    /// PostgreSQL: extensions to be there; others are left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(inner(length(min = 1, max = 63)))]
    pub extensions: Option<Vec<String>>,
    /// PostgreSQL: login roles; others are left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<Role>>,
    /// PostgreSQL: settings for every session of this database (`ALTER DATABASE ... SET`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<BTreeMap<String, SettingValue>>,
    /// SQLite: the journal mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal_mode: Option<JournalMode>,
    /// SQLite: bytes a page, a power of two from 512 to 65536; changing it replaces the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 512, max = 65_536))]
    pub page_size: Option<u32>,
    /// SQLite: the application's own version number (`PRAGMA user_version`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_version: Option<i32>,
    /// SQLite: whether applications are to enforce foreign keys; kept as a default beside the mark, since SQLite
    /// itself forgets it with each connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign_keys: Option<bool>,
}

/// `spec` of a Cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CacheSpec {
    /// The Provider it lives on; may be left out where one Provider serves its kind in its environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Resources that must be ready first, as Kind/name in the same environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depends_on: Option<Vec<String>>,
    /// Keys begin with this, in printable ASCII without spaces; the computed name and a colon when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[!-~]+$"))]
    pub key_prefix: Option<String>,
    /// Command categories that the user may run; `read` and `write` when left out. Administrative and dangerous
    /// commands are never among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub categories: Option<Vec<Category>>,
}

/// The command categories of Redis that a tenant may ask for (`ACL CAT`). `admin`, `dangerous`, and the wide `fast`,
/// `slow` and `all` are left out: through them one tenant could reach another's keys or the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    Read,
    Write,
    Keyspace,
    String,
    Bitmap,
    Hash,
    List,
    Set,
    Sortedset,
    Hyperloglog,
    Geo,
    Stream,
    Pubsub,
    Blocking,
    Connection,
    Transaction,
    Scripting,
}

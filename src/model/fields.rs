//! The flat form of a spec: one value per field path. What git wants, what is live and what was applied last are all
//! [`Fields`], so that one three-way comparison serves every kind.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;

use litemap::LiteMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A JSON pointer into a document, with members of lists by their name: `/spec/roles/app/access`,
/// `/spec/extensions/pgcrypto`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FieldPath(String);

impl FieldPath {
    /// A path from its pointer text, such as `/spec/connectionLimit`.
    pub fn new(pointer: impl Into<String>) -> Self {
        Self(pointer.into())
    }

    /// A path from unescaped segments.
    pub fn of<S: AsRef<str>>(segments: &[S]) -> Self {
        segments.iter().fold(Self(String::new()), |path, segment| path.child(segment.as_ref()))
    }

    /// The path of a member below this one; `segment` is escaped as JSON pointers do (`~0`, `~1`).
    #[must_use]
    pub fn child(&self, segment: &str) -> Self {
        Self(format!("{}/{}", self.0, segment.replace('~', "~0").replace('/', "~1")))
    }

    /// The unescaped segments.
    pub fn segments(&self) -> Vec<String> {
        self.0.split('/').skip(1).map(|segment| segment.replace("~1", "/").replace("~0", "~")).collect()
    }

    /// Whether this path is `prefix` or lies below it.
    pub fn is_within(&self, prefix: &str) -> bool {
        self.0.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The pointer text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Borrow<str> for FieldPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for FieldPath {
    fn from(pointer: &str) -> Self {
        Self::new(pointer)
    }
}

/// Field values by path. Scalars only; a member of a set is `true`. A sorted list: they are few, and there are many of
/// these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Fields(pub LiteMap<FieldPath, Value>);

/// As a map, also when it is empty: by itself the list would be one of pairs then.
impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl Fields {
    /// No fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value at `path`, if it is set.
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.0.get(path)
    }

    /// Sets one field.
    pub fn insert(&mut self, path: impl Into<FieldPath>, value: impl Into<Value>) {
        self.0.insert(path.into(), value.into());
    }

    /// Sets those of `others` that are not set yet.
    pub fn fill(&mut self, others: Self) {
        for (path, value) in others.0 {
            self.0.entry(path).or_insert(value);
        }
    }

    /// Fields in path order.
    pub fn iter(&self) -> impl Iterator<Item = (&FieldPath, &Value)> {
        self.0.iter()
    }

    /// The paths that are set, in their order.
    pub fn paths(&self) -> impl Iterator<Item = &FieldPath> {
        self.0.keys()
    }

    /// The members below `prefix`, by their first segment under it, each with the fields below the member.
    ///
    /// `/spec/roles` over `/spec/roles/app/access` yields `app -> {access}`; a member of a set yields an empty map.
    pub fn members(&self, prefix: &str) -> BTreeMap<String, BTreeMap<String, &Value>> {
        let depth = FieldPath::new(prefix).segments().len();
        let mut members: BTreeMap<String, BTreeMap<String, &Value>> = BTreeMap::new();
        for (path, value) in self.iter().filter(|(path, _)| path.is_within(prefix)) {
            let segments = path.segments();
            let Some(member) = segments.get(depth) else { continue };
            let fields = members.entry(member.clone()).or_default();
            if let Some(field) = segments.get(depth + 1) {
                fields.insert(field.clone(), value);
            }
        }
        members
    }

    /// A short hash of each value, as marks carry them.
    pub fn hashes(&self) -> BTreeMap<FieldPath, FieldHash> {
        self.iter().map(|(path, value)| (path.clone(), FieldHash::of(value))).collect()
    }
}

impl FromIterator<(FieldPath, Value)> for Fields {
    fn from_iter<I: IntoIterator<Item = (FieldPath, Value)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

/// Ten hex digits of the SHA-256 of a value's JSON: enough to tell a change of one field from none (a collision of
/// one field's two values has odds of 2^-40), short enough for a database comment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FieldHash(pub String);

impl FieldHash {
    /// The hash of `value`.
    pub fn of(value: &Value) -> Self {
        const DIGITS: usize = 10;
        let mut hex = hex::encode(Sha256::digest(value.to_string().as_bytes()));
        hex.truncate(DIGITS);
        Self(hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_survive_slashes_and_tildes() {
        let path = FieldPath::of(&["spec", "settings", "a/b~c"]);
        assert_eq!(path.as_str(), "/spec/settings/a~1b~0c");
        assert_eq!(path.segments(), ["spec", "settings", "a/b~c"]);
    }

    #[test]
    fn within_respects_segment_borders() {
        assert!(FieldPath::new("/spec/roles/app").is_within("/spec/roles"));
        assert!(!FieldPath::new("/spec/rolesX").is_within("/spec/roles"));
    }

    #[test]
    fn no_fields_are_an_empty_map() {
        assert_eq!(serde_json::to_value(Fields::new()).unwrap(), serde_json::json!({}));
        assert_eq!(serde_json::from_value::<Fields>(serde_json::json!({})).unwrap(), Fields::new());
    }

    #[test]
    fn members_group_by_name() {
        let mut fields = Fields::new();
        fields.insert("/spec/roles/app/access", "read");
        fields.insert("/spec/extensions/pgcrypto", true);
        assert_eq!(fields.members("/spec/roles")["app"]["access"], "read");
        assert!(fields.members("/spec/extensions")["pgcrypto"].is_empty());
    }
}

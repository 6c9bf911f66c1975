//! What a resource is called: its kind, its key, and the name it bears on a shared server.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The kinds a tenant repository may declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// A database with its roles, on PostgreSQL or as an SQLite file.
    Database,
    /// A user and key prefix on a shared Redis.
    Cache,
}

impl Kind {
    /// Every kind, in the order tables show them.
    pub const ALL: &'static [Kind] = &[Kind::Database, Kind::Cache];

    /// The name as `kind:` spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Database => "Database",
            Kind::Cache => "Cache",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Kind::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or_else(|| KeyError::Kind(text.to_owned()))
    }
}

/// Why a text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not four parts separated by slashes.
    #[error("{0:?} is not a key; a key is tenant/environment/Kind/name, like checkout/staging/Database/orders")]
    Shape(String),
    /// A part that cannot be the name of anything.
    #[error("{0:?} is not a name; names are small letters, digits and dashes inside, at most 63")]
    Name(String),
    /// The third part names no kind.
    #[error("{0:?} is not a kind; kinds are Database and Cache")]
    Kind(String),
}

/// `tenant/environment/Kind/name`: the identity of a resource everywhere in Plumb.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey {
    pub tenant: String,
    pub environment: String,
    pub kind: Kind,
    pub name: String,
}

impl ResourceKey {
    /// A key from its four parts.
    pub fn new(tenant: impl Into<String>, environment: impl Into<String>, kind: Kind, name: impl Into<String>) -> Self {
        Self { tenant: tenant.into(), environment: environment.into(), kind, name: name.into() }
    }

    /// The name on a shared server, at most `limit` bytes: `{tenant}_{environment}_{name}`, dashes as underscores.
    ///
    /// Over the limit it is cut and given a short hash of the whole (design: "over the server's length limit it is
    /// cut and given a short hash").
    pub fn object_name(&self, limit: usize) -> String {
        bounded_name(&format!("{}_{}_{}", self.tenant, self.environment, self.name).replace('-', "_"), limit)
    }

    /// The branch on which drift of this resource is proposed. `scoped` puts the tenant in front, for tenants that
    /// share a repository.
    pub fn drift_branch(&self, scoped: bool) -> String {
        let kind = self.kind.as_str().to_lowercase();
        let Self { tenant, environment, name, .. } = self;
        if scoped {
            format!("plumb/drift/{tenant}/{environment}/{kind}-{name}")
        } else {
            format!("plumb/drift/{environment}/{kind}-{name}")
        }
    }

    /// `Kind/name`, as `dependsOn` spells it inside one environment.
    pub fn local(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }
}

/// `name` if it fits `limit` bytes, else its beginning, `_`, and eight hex digits of its SHA-256.
pub fn bounded_name(name: &str, limit: usize) -> String {
    const HASH_DIGITS: usize = 8;
    if name.len() <= limit {
        return name.to_owned();
    }
    let hash = hex::encode(Sha256::digest(name.as_bytes()));
    let mut cut = limit.saturating_sub(HASH_DIGITS + 1);
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}_{}", &name[..cut], &hash[..HASH_DIGITS])
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.tenant, self.environment, self.kind, self.name)
    }
}

impl FromStr for ResourceKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let parts: Vec<&str> = text.split('/').collect();
        let [tenant, environment, kind, name] = parts[..] else {
            return Err(KeyError::Shape(text.to_owned()));
        };
        if tenant.is_empty() || environment.is_empty() || name.is_empty() {
            return Err(KeyError::Shape(text.to_owned()));
        }
        let kind = kind.parse()?;
        // A mark is read from where others can write; what is no name must not come further than here.
        match [tenant, environment, name].into_iter().find(|part| !is_label(part)) {
            Some(part) => Err(KeyError::Name(part.to_owned())),
            None => Ok(Self::new(tenant, environment, kind, name)),
        }
    }
}

impl Serialize for ResourceKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ResourceKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether `name` is an RFC 1123 label: what tenants, environments and resources are called.
pub fn is_label(name: &str) -> bool {
    const LONGEST: usize = 63;
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty()
        && name.len() <= LONGEST
        && name.bytes().all(inside)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Hex digits of a git object id: a commit or a blob.
pub type ObjectHex = String;

/// `main@sha1:<hex>`, how a revision is printed everywhere.
pub fn revision(branch: &str, commit: &str) -> String {
    format!("{branch}@sha1:{commit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_as_it_prints() {
        let key: ResourceKey = "checkout/staging/Database/orders".parse().unwrap();
        assert_eq!(key.to_string(), "checkout/staging/Database/orders");
        assert_eq!(key.object_name(63), "checkout_staging_orders");
        assert_eq!(key.drift_branch(false), "plumb/drift/staging/database-orders");
        assert_eq!(key.drift_branch(true), "plumb/drift/checkout/staging/database-orders");
    }

    #[test]
    fn a_text_that_is_no_key_is_refused() {
        for text in ["", "a/b/c", "a/b/Database/", "a/b/Nope/d", "a/b/Database/d/e"] {
            assert!(text.parse::<ResourceKey>().is_err(), "{text}");
        }
        let long = "x".repeat(64);
        for part in ["\0", "a\0b", "a b", "A", "-a", "a-", "a_b", "ü", "a\n", "..", &long] {
            for text in [format!("{part}/b/Cache/d"), format!("a/{part}/Cache/d"), format!("a/b/Cache/{part}")] {
                assert!(text.parse::<ResourceKey>().is_err(), "{text:?}");
            }
        }
    }

    #[test]
    fn a_long_name_is_cut_and_stays_distinct() {
        let long = ResourceKey::new("t".repeat(40), "production", Kind::Database, "a".repeat(30));
        let other = ResourceKey::new("t".repeat(40), "production", Kind::Database, format!("{}b", "a".repeat(30)));
        assert_eq!(long.object_name(63).len(), 63);
        assert_ne!(long.object_name(63), other.object_name(63));
    }
}

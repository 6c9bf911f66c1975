//! Names on the server, and the fields of a Database that this manager keeps true.

use std::collections::{BTreeMap, BTreeSet};

use crate::managers::ManagerError;
use crate::model::{FieldPath, ProviderType, Reason, bounded_name};

/// What the owning role's name ends with; no login role can be called so.
const OWNER_SUFFIX: &str = "owner";

/// The role, without login, that owns a database.
pub fn owner_role(database: &str) -> String {
    role_name(database, OWNER_SUFFIX)
}

/// The name on the server of a login role of a database.
///
/// # Errors
/// When it would be the owning role's name.
pub fn login_role(database: &str, role: &str) -> Result<String, ManagerError> {
    let name = role_name(database, role);
    if name == owner_role(database) {
        let message = format!("a role cannot be called {role:?}: {name} is the role that owns the database");
        return Err(ManagerError::terminal(Reason::Rejected, message));
    }
    Ok(name)
}

fn role_name(database: &str, role: &str) -> String {
    bounded_name(&format!("{database}_{role}").replace('-', "_"), ProviderType::Postgres.name_limit())
}

/// Refuses a name that the server would cut, and so mistake for another.
pub(super) fn refuse_long(what: &str, name: &str) -> Result<(), ManagerError> {
    let limit = ProviderType::Postgres.name_limit();
    if name.is_empty() || name.len() > limit {
        let message = format!("the {what} name {name:?} must have between 1 and {limit} bytes");
        return Err(ManagerError::terminal(Reason::Rejected, message));
    }
    Ok(())
}

/// One field of a Database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    /// `/spec/connectionLimit`
    ConnectionLimit,
    /// `/spec/extensions/<name>`
    Extension(String),
    /// `/spec/roles/<name>/access`
    Access(String),
    /// `/spec/settings/<name>`
    Setting(String),
}

impl Field {
    /// The field at `path`, if it is one that this manager knows.
    pub fn parse(path: &FieldPath) -> Option<Self> {
        let segments = path.segments();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments[..] {
            ["spec", "connectionLimit"] => Some(Self::ConnectionLimit),
            ["spec", "extensions", name] => Some(Self::Extension(name.to_owned())),
            ["spec", "roles", name, "access"] => Some(Self::Access(name.to_owned())),
            ["spec", "settings", name] => Some(Self::Setting(name.to_owned())),
            _ => None,
        }
    }

    /// Where the field is.
    pub fn path(&self) -> FieldPath {
        match self {
            Self::ConnectionLimit => FieldPath::new("/spec/connectionLimit"),
            Self::Extension(name) => extensions_path().child(name),
            Self::Access(role) => role_path(role).child("access"),
            Self::Setting(name) => FieldPath::of(&["spec", "settings", name]),
        }
    }
}

/// `/spec/extensions`
pub(super) fn extensions_path() -> FieldPath {
    FieldPath::of(&["spec", "extensions"])
}

/// `/spec/roles/<name>`
pub(super) fn role_path(role: &str) -> FieldPath {
    FieldPath::of(&["spec", "roles", role])
}

/// The members to look for, by kind of field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub roles: BTreeSet<String>,
    pub extensions: BTreeSet<String>,
    /// By the name in lower case, as the server compares them; the spellings to report them under.
    pub settings: BTreeMap<String, BTreeSet<String>>,
}

impl Wanted {
    /// Those that `paths` speak of; paths of other systems' fields are passed over.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a FieldPath>) -> Self {
        let mut wanted = Self::default();
        for field in paths.into_iter().filter_map(Field::parse) {
            match field {
                Field::ConnectionLimit => {}
                Field::Extension(name) => drop(wanted.extensions.insert(name)),
                Field::Access(role) => drop(wanted.roles.insert(role)),
                Field::Setting(name) => drop(wanted.settings.entry(name.to_lowercase()).or_default().insert(name)),
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_the_owner_is_nobody_elses() {
        assert_eq!(owner_role("checkout_staging_orders"), "checkout_staging_orders_owner");
        assert_eq!(login_role("checkout_staging_orders", "read-only").unwrap(), "checkout_staging_orders_read_only");
        assert!(login_role("checkout_staging_orders", "owner").is_err());
        let long = "d".repeat(63);
        assert_eq!(login_role(&long, "app").unwrap().len(), 63);
        assert_ne!(login_role(&long, "app").unwrap(), login_role(&long, "ro").unwrap());
        assert_ne!(login_role(&long, "app").unwrap(), owner_role(&long));
    }

    #[test]
    fn every_field_is_found_again_by_its_path() {
        for field in [
            Field::ConnectionLimit,
            Field::Extension("uuid-ossp".to_owned()),
            Field::Access("a/b~\"; DROP".to_owned()),
            Field::Setting("app.tenant".to_owned()),
        ] {
            assert_eq!(Field::parse(&field.path()), Some(field));
        }
        assert_eq!(Field::parse(&"/spec/journalMode".into()), None);
        assert_eq!(Field::parse(&"/spec/roles/app".into()), None);
    }

    #[test]
    fn settings_are_looked_for_without_regard_to_case() {
        let paths = ["/spec/settings/TimeZone", "/spec/settings/timezone"].map(FieldPath::new);
        let spellings = ["TimeZone", "timezone"].map(str::to_owned).into();
        assert_eq!(Wanted::of(&paths).settings["timezone"], spellings);
    }
}

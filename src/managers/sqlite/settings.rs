//! The four fields of a database file.

use serde_json::{Value, json};

use crate::managers::ManagerError;
use crate::model::{FieldPath, Fields, JournalMode, Kind, Reason};

pub(super) const JOURNAL_MODE: &str = "/spec/journalMode";
pub(super) const PAGE_SIZE: &str = "/spec/pageSize";
pub(super) const USER_VERSION: &str = "/spec/userVersion";
pub(super) const FOREIGN_KEYS: &str = "/spec/foreignKeys";

/// The page sizes SQLite knows are the powers of two between these.
const SMALLEST_PAGE: u32 = 512;
const LARGEST_PAGE: u32 = 65_536;

/// What a file holds of a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub journal_mode: JournalMode,
    pub page_size: u32,
    pub user_version: i32,
    pub foreign_keys: bool,
}

impl Default for Settings {
    /// What SQLite gives a new file.
    fn default() -> Self {
        Self { journal_mode: JournalMode::Delete, page_size: 4096, user_version: 0, foreign_keys: false }
    }
}

impl Settings {
    /// As fields, spelled as documents spell them.
    pub(super) fn fields(&self) -> Fields {
        let Self { journal_mode, page_size, user_version, foreign_keys } = self;
        let mut fields = Fields::new();
        fields.insert(JOURNAL_MODE, spelling(*journal_mode));
        fields.insert(PAGE_SIZE, json!(page_size));
        fields.insert(USER_VERSION, json!(user_version));
        fields.insert(FOREIGN_KEYS, json!(foreign_keys));
        fields
    }

    /// A new file's settings: those that are set, and SQLite's own for the rest.
    pub(super) fn of(desired: &Fields) -> Result<Self, ManagerError> {
        let mut settings = Self::default();
        for (path, value) in desired.iter() {
            settings.set(path, Some(value))?;
        }
        Ok(settings)
    }

    /// Sets one field; `None` is its default.
    pub(super) fn set(&mut self, path: &FieldPath, value: Option<&Value>) -> Result<(), ManagerError> {
        let default = Kind::Database.info().default_of(path);
        let Some(value) = value.or(default.as_ref()) else { return Err(unsupported(path, None)) };
        let refused = || unsupported(path, Some(value));
        match path.as_str() {
            JOURNAL_MODE => {
                self.journal_mode = match value.as_str() {
                    Some("delete") => JournalMode::Delete,
                    Some("wal") => JournalMode::Wal,
                    Some(_) | None => return Err(refused()),
                };
            }
            PAGE_SIZE => {
                let size = value.as_u64().and_then(page_size).ok_or_else(refused)?;
                self.page_size = size;
            }
            USER_VERSION => {
                let version = value.as_i64().and_then(|version| i32::try_from(version).ok()).ok_or_else(refused)?;
                self.user_version = version;
            }
            FOREIGN_KEYS => self.foreign_keys = value.as_bool().ok_or_else(refused)?,
            _ => return Err(refused()),
        }
        Ok(())
    }
}

/// `bytes` when it is a page size of SQLite.
pub(super) fn page_size(bytes: u64) -> Option<u32> {
    let bytes = u32::try_from(bytes).ok()?;
    (bytes.is_power_of_two() && (SMALLEST_PAGE..=LARGEST_PAGE).contains(&bytes)).then_some(bytes)
}

/// The word for a journal mode, in documents and in SQLite alike.
pub(super) const fn spelling(mode: JournalMode) -> &'static str {
    match mode {
        JournalMode::Delete => "delete",
        JournalMode::Wal => "wal",
    }
}

fn unsupported(path: &FieldPath, value: Option<&Value>) -> ManagerError {
    let value = value.map_or_else(String::new, |value| format!(" to {value}"));
    ManagerError::terminal(Reason::UnsupportedByProvider, format!("an SQLite file cannot set {path}{value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_back_as_they_were_set() {
        let wanted =
            Settings { journal_mode: JournalMode::Wal, page_size: 65_536, user_version: -7, foreign_keys: true };
        assert_eq!(Settings::of(&wanted.fields()).unwrap(), wanted);
        assert_eq!(Settings::of(&Fields::new()).unwrap(), Settings::default());
    }

    #[test]
    fn a_field_that_is_removed_goes_to_its_default() {
        let mut settings = Settings::of(&{
            let mut fields = Fields::new();
            fields.insert(USER_VERSION, 9);
            fields
        })
        .unwrap();
        settings.set(&USER_VERSION.into(), None).unwrap();
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn values_that_sqlite_cannot_hold_are_refused() {
        for (path, value) in [
            (PAGE_SIZE, json!(1000)),
            (PAGE_SIZE, json!(256)),
            (PAGE_SIZE, json!(131_072)),
            (PAGE_SIZE, json!(-4096)),
            (JOURNAL_MODE, json!("memory")),
            (USER_VERSION, json!(4_294_967_296_i64)),
            (FOREIGN_KEYS, json!("yes")),
            ("/spec/connectionLimit", json!(3)),
        ] {
            let refused = Settings::default().set(&path.into(), Some(&value)).unwrap_err();
            assert_eq!(refused.reason(), Reason::UnsupportedByProvider, "{path} {value}");
        }
    }
}

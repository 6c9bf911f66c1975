//! The audit log: who or what did what, in one chain a tenant and one of the platform.
//!
//! What always holds: a chain's numbers have no gap, and each row's hash is the SHA-256 of
//!
//! ```text
//! [previous, tenant, id, at, actor, action, key, details]
//! ```
//!
//! as one line of JSON without spaces, as the export prints these values, where `previous` is the hash of the row before
//! (64 zeros for the first). So a row that was changed, or is missing, shows. A head says where each chain begins, since
//! its oldest rows are cut off after their time, and where it ends, since the newest may be missing too. That a tenant's
//! chain begins is a row of the platform's, written with the first row, and what retention writes there tells how many
//! chains there are: so a chain that is missing with its head shows too.
//!
//! A chain says that nobody changed it in passing. Whoever may write the database can write a whole new chain; against
//! that, keep exports, or the hashes that `plumb audit --verify` prints, somewhere else.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::StoreError;
use super::columns::{read_document, read_key, read_time, read_word, time};
use crate::model::ResourceKey;

/// The chain of what belongs to no tenant.
pub const PLATFORM_CHAIN: &str = "";

/// The hash before the first row of a chain.
pub const ORIGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What somebody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AuditAction {
    /// A commit of the tenant's branch was read for the first time.
    Commit,
    /// A commit approved a plan by a trailer.
    Approval,
    /// A proposal was decided in git.
    Decision,
    /// Plumb changed a live object. Where the details name an `end`, the step failed, or nobody knows how it ended: it may
    /// have changed something.
    Change,
    /// A password was shown.
    SecretShown,
    /// A look was asked for.
    Request,
    /// A failed step was to be tried again, or a provider that nobody asked to be asked again.
    Retried,
    /// Somebody had what git says applied, from the command line.
    Applied,
    /// Somebody did something to the state database: took a backup, restored one, moved it, brought it up to date.
    Database,
    /// What was older than it is kept was forgotten.
    Pruned,
    /// A revision of the platform came into force.
    Platform,
    /// The chain of a tenant began. The platform's chain has it, so that one that is removed whole is missed.
    Begun,
}

impl AuditAction {
    /// Its name, as it is stored and exported.
    pub fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Approval => "approval",
            Self::Decision => "decision",
            Self::Change => "change",
            Self::SecretShown => "secretShown",
            Self::Request => "request",
            Self::Retried => "retried",
            Self::Applied => "applied",
            Self::Database => "database",
            Self::Pruned => "pruned",
            Self::Platform => "platform",
            Self::Begun => "begun",
        }
    }
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What an entry says beside who did what: names and texts, never a secret.
pub type AuditDetails = BTreeMap<String, Value>;

/// An entry that is not in a chain yet.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAudit {
    pub at: DateTime<Utc>,
    pub actor: String,
    pub action: AuditAction,
    pub key: Option<ResourceKey>,
    pub details: AuditDetails,
}

/// A row of a chain.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditEntry {
    /// Empty for the platform's own.
    pub tenant: String,
    /// Its number in the chain.
    pub id: i64,
    #[serde(serialize_with = "as_stored")]
    pub at: DateTime<Utc>,
    pub actor: String,
    pub action: AuditAction,
    pub key: Option<ResourceKey>,
    pub details: AuditDetails,
    pub previous: String,
    pub hash: String,
}

fn as_stored<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time(*at))
}

impl NewAudit {
    /// What the platform's chain says when that of a tenant begins.
    pub fn begun(tenant: &str, at: DateTime<Utc>) -> Self {
        let details = AuditDetails::from([(CHAIN.to_owned(), json!(tenant))]);
        Self { at, actor: "plumb".to_owned(), action: AuditAction::Begun, key: None, details }
    }
}

impl AuditEntry {
    /// The next row of a chain, behind `previous`.
    pub fn after(tenant: &str, id: i64, previous: &str, new: &NewAudit) -> Self {
        let NewAudit { at, actor, action, key, details } = new.clone();
        let (tenant, previous) = (tenant.to_owned(), previous.to_owned());
        let mut entry = Self { tenant, id, at, actor, action, key, details, previous, hash: String::new() };
        entry.hash = entry.computed_hash();
        entry
    }

    /// What its hash must be.
    pub fn computed_hash(&self) -> String {
        let Self { tenant, id, at, actor, action, key, details, previous, hash: _ } = self;
        let canonical = json!([previous, tenant, id, time(*at), actor, action, key, details]);
        hex::encode(Sha256::digest(canonical.to_string()))
    }
}

/// A row of a chain as its columns say it: somebody may have changed it to what is no entry any more, or a newer version may
/// have written what this one does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAudit {
    pub tenant: String,
    pub id: i64,
    pub at: String,
    pub actor: String,
    pub action: String,
    pub key: Option<String>,
    pub details: String,
    pub previous: String,
    pub hash: String,
}

impl StoredAudit {
    /// What it says.
    ///
    /// # Errors
    /// [`StoreError::AuditRow`] when it says nothing that this version understands.
    pub fn read(&self) -> Result<AuditEntry, StoreError> {
        const WHAT: &str = "the audit log";
        let Self { tenant, id, at, actor, action, key, details, previous, hash } = self.clone();
        let unreadable =
            |source| StoreError::AuditRow { id, chain: chain_name(&self.tenant), source: Box::new(source) };
        let at = read_time(WHAT, &at).map_err(unreadable)?;
        let action = read_word(WHAT, &action).map_err(unreadable)?;
        let key = key.map(|text| read_key(WHAT, &text)).transpose().map_err(unreadable)?;
        let details = read_document(WHAT, &details).map_err(unreadable)?;
        Ok(AuditEntry { tenant, id, at, actor, action, key, details, previous, hash })
    }

    /// What its hash must be, whatever it speaks of; `None` when its details are no JSON.
    pub fn computed_hash(&self) -> Option<String> {
        let Self { tenant, id, at, actor, action, key, details, previous, hash: _ } = self;
        let details: AuditDetails = serde_json::from_str(details).ok()?;
        let canonical = json!([previous, tenant, id, at, actor, action, key, details]);
        Some(hex::encode(Sha256::digest(canonical.to_string())))
    }
}

impl From<AuditEntry> for StoredAudit {
    fn from(entry: AuditEntry) -> Self {
        let AuditEntry { tenant, id, at, actor, action, key, details, previous, hash } = entry;
        let (at, action, details) = (time(at), action.name().to_owned(), json!(details).to_string());
        Self { tenant, id, at, actor, action, key: key.map(|key| key.to_string()), details, previous, hash }
    }
}

/// Where a chain begins and ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditHead {
    pub tenant: String,
    /// The number of the oldest row that is kept, and the hash before it.
    pub first_id: i64,
    pub first_previous: String,
    /// The number of the newest row, and its hash.
    pub last_id: i64,
    pub last_hash: String,
}

impl AuditHead {
    /// How many rows were cut off at its beginning.
    pub fn cut(&self) -> i64 {
        self.first_id - 1
    }
}

/// The detail of a row about rows of the audit log that were cut off: how many have been by then, of all chains. What was
/// cut off beside retention shows by it.
pub const ALL_CUT: &str = "allCut";

/// The detail of a row that tells of a chain that began: whose it is.
pub const CHAIN: &str = "chain";

/// The detail of a row about rows of the audit log that were cut off: how many tenants had a chain by then. A chain that was
/// removed whole shows by it, also where the row that told of its beginning was cut off.
pub const ALL_CHAINS: &str = "chains";

/// Which rows to read; a chain after the other, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    pub since: Option<DateTime<Utc>>,
    /// Only those behind this chain and number: the next page.
    pub after: Option<(String, i64)>,
    /// At most this many.
    pub limit: u32,
}

/// The first row that does not fit its chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("row {id} of {} {why}", chain_name(tenant))]
pub struct ChainBreak {
    pub tenant: String,
    pub id: i64,
    pub why: &'static str,
}

/// How people call a chain.
pub fn chain_name(tenant: &str) -> String {
    if tenant == PLATFORM_CHAIN { "the platform".to_owned() } else { format!("tenant {tenant}") }
}

/// What ties a row to its chain.
#[derive(Debug)]
pub struct Link<'a> {
    id: i64,
    previous: &'a str,
    hash: &'a str,
    /// What its hash must be; `None` when the row cannot be read.
    computed: Option<String>,
}

impl<'a> From<&'a AuditEntry> for Link<'a> {
    fn from(entry: &'a AuditEntry) -> Self {
        let AuditEntry { id, previous, hash, .. } = entry;
        Self { id: *id, previous, hash, computed: Some(entry.computed_hash()) }
    }
}

impl<'a> From<&'a StoredAudit> for Link<'a> {
    fn from(row: &'a StoredAudit) -> Self {
        let StoredAudit { id, previous, hash, .. } = row;
        Self { id: *id, previous, hash, computed: row.computed_hash() }
    }
}

/// Walks one chain, row by row.
#[derive(Debug)]
pub struct ChainWalk {
    head: AuditHead,
    next_id: i64,
    previous: String,
}

impl ChainWalk {
    /// Begins where the chain does.
    pub fn from(head: AuditHead) -> Self {
        Self { next_id: head.first_id, previous: head.first_previous.clone(), head }
    }

    /// How many rows fitted.
    pub fn rows(&self) -> i64 {
        self.next_id - self.head.first_id
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn step<'a>(&mut self, row: impl Into<Link<'a>>) -> Result<(), ChainBreak> {
        let broken = |id, why| Err(ChainBreak { tenant: self.head.tenant.clone(), id, why });
        let Link { id, previous, hash, computed } = row.into();
        if id < self.next_id {
            return broken(id, "stands before the row that the chain begins with");
        }
        if id > self.next_id {
            return broken(self.next_id, "is missing");
        }
        if previous != self.previous {
            return broken(id, "does not follow the row before it: one of them was changed");
        }
        match computed {
            None => return broken(id, "cannot be read: it was changed"),
            Some(computed) if computed != hash => return broken(id, "was changed: its hash is another"),
            Some(_) => {}
        }
        self.next_id += 1;
        hash.clone_into(&mut self.previous);
        Ok(())
    }

    /// Ends the walk.
    ///
    /// # Errors
    /// When the chain goes on, or ends elsewhere than its last row did.
    pub fn end(self) -> Result<AuditHead, ChainBreak> {
        let broken = |id, why| Err(ChainBreak { tenant: self.head.tenant.clone(), id, why });
        if self.next_id <= self.head.last_id {
            return broken(self.next_id, "is missing, at the end");
        }
        if self.next_id > self.head.last_id + 1 {
            return broken(self.head.last_id + 1, "is behind the end of the chain");
        }
        if self.previous != self.head.last_hash {
            return broken(self.head.last_id, "is not the one that the chain ended with");
        }
        Ok(self.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: i64) -> (AuditHead, Vec<AuditEntry>) {
        let mut previous = ORIGIN.to_owned();
        let mut rows = Vec::new();
        for id in 1..=length {
            let new = NewAudit {
                at: DateTime::from_timestamp(1_700_000_000 + id, 0).unwrap(),
                actor: "Ada <ada@example.com>".to_owned(),
                action: AuditAction::Commit,
                key: None,
                details: AuditDetails::from([("subject".to_owned(), json!(format!("Change {id}")))]),
            };
            let row = AuditEntry::after("checkout", id, &previous, &new);
            previous.clone_from(&row.hash);
            rows.push(row);
        }
        let (first_id, first_previous) = (1, ORIGIN.to_owned());
        (
            AuditHead { tenant: "checkout".to_owned(), first_id, first_previous, last_id: length, last_hash: previous },
            rows,
        )
    }

    fn walk(head: AuditHead, rows: &[AuditEntry]) -> Result<AuditHead, ChainBreak> {
        let mut walk = ChainWalk::from(head);
        for row in rows {
            walk.step(row)?;
        }
        walk.end()
    }

    #[test]
    fn a_row_that_was_changed_or_is_missing_shows() {
        let (head, rows) = chain(4);
        assert_eq!(walk(head.clone(), &rows), Ok(head.clone()));
        let mut changed = rows.clone();
        changed[1].actor = "Eve".to_owned();
        assert_eq!(walk(head.clone(), &changed).unwrap_err().id, 2);
        changed[1].hash = changed[1].computed_hash();
        assert_eq!(walk(head.clone(), &changed).unwrap_err().id, 3, "the next one does not follow it");
        for missing in 0..4 {
            let mut fewer = rows.clone();
            fewer.remove(missing);
            let broken = walk(head.clone(), &fewer).unwrap_err();
            assert_eq!(broken.id, missing as i64 + 1);
            assert!(broken.why.starts_with("is missing"), "{broken}");
        }
        let mut last = rows.clone();
        last[3].actor = "Eve".to_owned();
        last[3].hash = last[3].computed_hash();
        assert_eq!(walk(head, &last).unwrap_err().id, 4, "the head knows its hash");
    }

    #[test]
    fn the_hash_is_over_one_line_of_json() {
        let (_, rows) = chain(1);
        let line = format!(
            "[\"{ORIGIN}\",\"checkout\",1,\"2023-11-14T22:13:21.000000000Z\",\"Ada <ada@example.com>\",\"commit\",null,\
             {{\"subject\":\"Change 1\"}}]"
        );
        assert_eq!(rows[0].hash, hex::encode(Sha256::digest(line)));
    }
}

//! A change that goes together, so that it can be undone together (`plumb.dev/on-failure: rollback`).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::condition::Reason;
use super::fields::Fields;
use super::inventory::Record;
use super::key::{ObjectHex, ResourceKey};
use super::plan::Change;

/// The steps of one commit on the resources of one environment that go together. Written before they are done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saga {
    pub tenant: String,
    pub environment: String,
    /// The heads of the tenant's and of the platform's repository that it is done under. Others take over what git still
    /// wants of it, while it is under way.
    pub commit: Option<ObjectHex>,
    pub platform: Option<ObjectHex>,
    pub parts: BTreeMap<ResourceKey, Part>,
    /// Why it is undone; `None` while nothing failed for good.
    pub failure: Option<Failure>,
}

/// One resource of a saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// What was applied before; `None` for what the change made.
    pub former: Option<Record>,
    /// What the change wants.
    #[serde(default)]
    pub wanted: Fields,
    /// What the change does to it.
    pub changes: Vec<Change>,
}

/// The step that failed for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub key: ResourceKey,
    /// Where it was tried.
    #[serde(default)]
    pub provider: String,
    pub reason: Reason,
    pub message: String,
    pub failures: u32,
    pub at: DateTime<Utc>,
}

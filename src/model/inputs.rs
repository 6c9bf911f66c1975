//! What a plan was made of, beside git: enough to make it again.

use serde::{Deserialize, Serialize};

use super::inventory::{Decisions, Record};
use super::key::{ObjectHex, ResourceKey};
use super::observation::Observations;
use super::plan::{PlanId, PlanScope};
use super::saga::Saga;

/// What was decided and asked for when a plan was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanInputs {
    /// The plan that came of it.
    pub plan: PlanId,
    /// The heads of the tenant's and of the platform's repository.
    pub commit: ObjectHex,
    pub platform: ObjectHex,
    pub scope: PlanScope,
    /// As it stood before sagas had their say.
    pub decisions: Decisions,
    pub sagas: Vec<Saga>,
}

/// What a plan looked at: the live systems, and what was applied before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scene {
    pub live: Observations,
    /// The records of what was looked at.
    pub records: Vec<Record>,
    /// Keys that had a record too and were not looked at, as far as a plan asks whether they are there.
    pub others: Vec<ResourceKey>,
}

//! Dead letters: steps that are not tried again by themselves.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::age_seconds;
use super::facts::scope_of;
use crate::model::{Attempt, Clock, Reason, ResourceKey};
use crate::store::{Store, StoreError};

/// A step that failed for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterView {
    pub key: ResourceKey,
    pub provider: String,
    /// The cause.
    pub reason: Reason,
    pub message: String,
    pub failures: u32,
    pub first_at: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
    pub age_seconds: u64,
    /// What tries it again.
    pub help: String,
}

/// Dead letters by key.
///
/// # Errors
/// When the store does not answer.
pub async fn dead_letters(
    store: &dyn Store,
    tenant: Option<&str>,
    clock: &dyn Clock,
) -> Result<Vec<DeadLetterView>, StoreError> {
    let attempts = store.read(scope_of(tenant)).await?.attempts().await?;
    let now = clock.now();
    let dead = attempts.into_values().filter(Attempt::is_dead);
    Ok(dead
        .map(|Attempt { key, provider, failures, reason, message, first_at, last_at, .. }| DeadLetterView {
            help: format!("Mend the cause, then commit anything or run: plumb retry {key}"),
            key,
            provider,
            reason,
            message,
            failures,
            first_at,
            last_at,
            age_seconds: age_seconds(now, first_at),
        })
        .collect())
}

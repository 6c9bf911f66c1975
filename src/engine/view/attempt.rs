//! Dead letters: what failed for good and waits for somebody: steps, and changes that are undone since. What failed of a
//! tenant that left the platform waits for nobody, and is a letter again should it come back.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::age_seconds;
use super::facts::scope_of;
use crate::model::{Attempt, Clock, Failure, Reason, ResourceKey, Saga};
use crate::store::{Store, StoreError, TenantState};

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LetterState {
    /// Its step failed. What else its commit did stays.
    Failed,
    /// Its step failed, and what goes with it is as it was before (`plumb.dev/on-failure: rollback`).
    Undone,
    /// Something that it goes with failed, and undoing it failed too: live is as its commit says, or halfway.
    NotUndone,
}

impl LetterState {
    /// Its words, as tables print them.
    pub const fn as_str(self) -> &'static str {
        match self {
            LetterState::Failed => "failed",
            LetterState::Undone => "undone",
            LetterState::NotUndone => "not undone",
        }
    }
}

impl fmt::Display for LetterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that failed for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterView {
    pub key: ResourceKey,
    pub state: LetterState,
    pub provider: String,
    /// The cause.
    pub reason: Reason,
    pub message: String,
    pub failures: u32,
    pub first_at: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
    pub age_seconds: u64,
    /// What is wanted as it was before, since this failed.
    pub undone: Vec<ResourceKey>,
    /// What tries it again.
    pub help: String,
}

impl DeadLetterView {
    /// The cause, with what became of what goes with it.
    pub fn said(&self) -> String {
        let Self { message, undone, .. } = self;
        let undone: Vec<String> = undone.iter().map(|key| format!("{}/{}", key.kind, key.name)).collect();
        match self.state {
            LetterState::Failed => message.clone(),
            LetterState::Undone if undone.is_empty() => format!("{message}; nothing was done that has to be undone"),
            LetterState::Undone => format!("{message}; wanted as it was before: {}", undone.join(", ")),
            LetterState::NotUndone => format!("it could not be undone: {message}"),
        }
    }
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
    let mut tx = store.read(scope_of(tenant)).await?;
    let (attempts, sagas, tenants) = (tx.attempts().await?, tx.sagas().await?, tx.tenants().await?);
    Ok(letters(&attempts, &sagas, &tenants, clock.now()))
}

/// The same, of what is read already.
pub(super) fn letters(
    attempts: &BTreeMap<ResourceKey, Attempt>,
    sagas: &[Saga],
    tenants: &BTreeMap<String, TenantState>,
    now: DateTime<Utc>,
) -> Vec<DeadLetterView> {
    let undone: Vec<(&Saga, &Failure)> = sagas.iter().filter_map(|saga| Some((saga, saga.failure.as_ref()?))).collect();
    let of_steps = attempts.values().filter(|attempt| attempt.is_dead()).filter_map(|attempt| {
        let under_same_heads = |saga: &Saga| saga.commit == attempt.commit && saga.platform == attempt.platform;
        let concerns = |(saga, failure): &&(&Saga, &Failure)| {
            under_same_heads(saga) && (saga.parts.contains_key(&attempt.key) || failure.key == attempt.key)
        };
        match undone.iter().find(concerns) {
            None => Some(of_step(attempt, LetterState::Failed, now)),
            Some((saga, _)) if saga.parts.contains_key(&attempt.key) => {
                Some(of_step(attempt, LetterState::NotUndone, now))
            }
            // The saga says so of it.
            Some(_) => None,
        }
    });
    let mut letters: Vec<DeadLetterView> = of_steps.collect();
    letters.extend(undone.iter().map(|(saga, failure)| of_saga(saga, failure, now)));
    letters.retain(|letter| tenants.get(&letter.key.tenant).is_none_or(|tenant| !tenant.removed));
    letters.sort_by(|a, b| (&a.key, a.state).cmp(&(&b.key, b.state)));
    letters
}

fn of_step(attempt: &Attempt, state: LetterState, now: DateTime<Utc>) -> DeadLetterView {
    let Attempt { key, provider, failures, reason, message, first_at, last_at, .. } = attempt;
    DeadLetterView {
        key: key.clone(),
        state,
        provider: provider.clone(),
        reason: *reason,
        message: message.clone(),
        failures: *failures,
        first_at: *first_at,
        last_at: *last_at,
        age_seconds: age_seconds(now, *first_at),
        undone: Vec::new(),
        help: help(key, state),
    }
}

fn of_saga(saga: &Saga, failure: &Failure, now: DateTime<Utc>) -> DeadLetterView {
    let Failure { key, provider, reason, message, failures, at } = failure;
    DeadLetterView {
        key: key.clone(),
        state: LetterState::Undone,
        provider: provider.clone(),
        reason: *reason,
        message: message.clone(),
        failures: *failures,
        first_at: *at,
        last_at: *at,
        age_seconds: age_seconds(now, *at),
        undone: saga.parts.keys().cloned().collect(),
        help: help(key, LetterState::Undone),
    }
}

/// What a person can do.
pub(super) fn help(key: &ResourceKey, state: LetterState) -> String {
    match state {
        LetterState::Failed => format!("Mend the cause, then commit anything or run: plumb retry {key}"),
        LetterState::Undone => format!("Commit what works, or mend the cause, then run: plumb retry {key}"),
        LetterState::NotUndone => format!("Mend the cause, then run: plumb retry {key}; or commit what works"),
    }
}

//! Providers: whether they answer, and how the resources on them stand.
//!
//! The store does not hold the platform's documents, so those are shown that have resources on them, and those that did
//! not answer.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::age_seconds;
use super::facts::{Facts, scope_of};
use super::resource::{Counts, status_word};
use crate::model::{Circuit, Clock, Reason};
use crate::store::{Store, StoreError};

/// How the circuit of a provider stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CircuitState {
    /// It is asked. It may have been silent lately, though not often enough in a row.
    Closed,
    /// Nobody asks it, and nothing is begun on it, for a while.
    Open,
    /// One may ask it, to see whether it is back.
    HalfOpen,
}

impl CircuitState {
    /// Its words, as tables print them.
    pub const fn as_str(self) -> &'static str {
        match self {
            CircuitState::Closed => "closed",
            CircuitState::Open => "open",
            CircuitState::HalfOpen => "half open",
        }
    }
}

impl fmt::Display for CircuitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A provider, as it was found last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProviderView {
    pub provider: String,
    pub circuit: CircuitState,
    /// How often in a row it did not answer.
    pub failures: u32,
    /// What it said, or was said of it, the last time; `None` while it answers.
    pub reason: Option<Reason>,
    pub message: String,
    /// Since when it does not answer.
    pub since: Option<DateTime<Utc>>,
    pub age_seconds: Option<u64>,
    /// Until when nobody asks it.
    pub until: Option<DateTime<Utc>>,
    /// The resources on it.
    pub counts: Counts,
}

impl ProviderView {
    fn new(provider: &str, circuit: Option<&Circuit>, counts: Counts, now: DateTime<Utc>) -> Self {
        let state = match circuit {
            Some(circuit) if circuit.is_open(now) => CircuitState::Open,
            Some(circuit) if circuit.is_half_open(now) => CircuitState::HalfOpen,
            Some(_) | None => CircuitState::Closed,
        };
        Self {
            provider: provider.to_owned(),
            circuit: state,
            failures: circuit.map_or(0, |circuit| circuit.failures),
            reason: circuit.map(|circuit| circuit.reason),
            message: circuit.map(|circuit| circuit.message.clone()).unwrap_or_default(),
            since: circuit.map(|circuit| circuit.since),
            age_seconds: circuit.map(|circuit| age_seconds(now, circuit.since)),
            until: circuit.and_then(|circuit| circuit.retry_at).filter(|_| state == CircuitState::Open),
            counts,
        }
    }

    /// Why it does not answer; empty while it does.
    pub fn said(&self) -> String {
        self.reason.map(|reason| format!("{} ({reason})", self.message)).unwrap_or_default()
    }
}

/// Providers by name: those that have resources on them, of one tenant or of all, and of all those that do not answer.
///
/// # Errors
/// When the store does not answer.
pub async fn providers(
    store: &dyn Store,
    tenant: Option<&str>,
    clock: &dyn Clock,
) -> Result<Vec<ProviderView>, StoreError> {
    let facts = Facts::load(store, scope_of(tenant)).await?;
    let mut providers = from_facts(&facts, clock.now());
    if tenant.is_some() {
        providers.retain(|provider| provider.counts.total > 0);
    }
    Ok(providers)
}

pub(super) fn from_facts(facts: &Facts, now: DateTime<Utc>) -> Vec<ProviderView> {
    let mut counts: BTreeMap<&str, Counts> =
        facts.circuits.keys().map(|name| (name.as_str(), Counts::default())).collect();
    for key in facts.keys() {
        let status = facts.statuses.get(key).map(|status| status.provider.as_str());
        let record = || facts.inventory.get(key).map(|record| record.provider.as_str());
        // What was rejected before it had a provider has none.
        if let Some(provider) = status.or_else(record).filter(|name| !name.is_empty()) {
            counts.entry(provider).or_default().add(status_word(facts, key));
        }
    }
    counts.into_iter().map(|(name, counts)| ProviderView::new(name, facts.circuits.get(name), counts, now)).collect()
}

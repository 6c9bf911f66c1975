//! Steps that failed: when they are tried again, and when no more.
//!
//! What always holds: what was tried under one head of the tenant's and the platform's repositories says nothing of
//! another, so a new commit tries everything at once; what cannot work is tried once; what may work later is tried
//! [`MOST_TRIES`] times with growing waits, and is a dead letter then, which says what it waits for. Where another plumb is
//! at work on the object, nothing was tried: that counts for nothing, however often it is so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use crate::managers::ManagerError;
use crate::model::{Attempt, Circuit, Clock, Hold, ObjectHex, Plan, Reason, ResourceKey, Saga, Step};
use crate::store::audit::{NewAudit, PLATFORM_CHAIN};
use crate::store::{Scope, Store, StoreError, Tx};

use super::apply::Applied;
use super::audit;
use super::reconcile::MOST_REPLANS;
use super::worker::patience;

/// How often a step is tried before it is a dead letter: with the waits between, most of half an hour. A server that is
/// away for longer is no matter of steps, since nothing is planned on what cannot be seen.
pub(super) const MOST_TRIES: u32 = 10;

/// The steps that failed, by resource.
pub(super) type Attempts = BTreeMap<ResourceKey, Attempt>;

/// The heads that steps are tried under.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    pub tenant: &'a ObjectHex,
    pub platform: Option<&'a ObjectHex>,
}

impl Heads<'_> {
    /// Whether these are they.
    pub(super) fn are(&self, tenant: Option<&ObjectHex>, platform: Option<&ObjectHex>) -> bool {
        tenant == Some(self.tenant) && platform == self.platform
    }

    fn are_of(&self, attempt: &Attempt) -> bool {
        self.are(attempt.commit.as_ref(), attempt.platform.as_ref())
    }
}

/// What is not to be tried at `now`, with why.
pub(super) fn not_now(attempts: &Attempts, heads: Heads<'_>, now: DateTime<Utc>) -> BTreeMap<ResourceKey, Hold> {
    let waiting = attempts.values().filter(|attempt| heads.are_of(attempt) && !attempt.is_due(now));
    waiting.map(|attempt| (attempt.key.clone(), verdict(attempt))).collect()
}

/// Why a step that failed is not tried now.
pub(super) fn verdict(attempt: &Attempt) -> Hold {
    let Attempt { key, failures, reason, message, next_at, .. } = attempt;
    match next_at {
        Some(next) => {
            let again = next.to_rfc3339_opts(SecondsFormat::Secs, true);
            let message = match *failures {
                0 => format!("{message} ({reason}). It is tried again at {again}"),
                failures => {
                    format!("{message} ({reason}). It failed {}; it is tried again at {again}", times(failures))
                }
            };
            Hold { reason: Reason::BackingOff, message, until: Some(*next) }
        }
        None => {
            let message = format!(
                "{message} ({reason}). It failed {} and is not tried again by itself; mend the cause, then commit \
                 anything or run: plumb retry {key}",
                times(*failures)
            );
            Hold::by(Reason::DeadLetter, message)
        }
    }
}

/// How often something happened, as people say it.
pub(super) fn times(number: u32) -> String {
    match number {
        0 | 1 => "once".to_owned(),
        2 => "twice".to_owned(),
        more => format!("{more} times"),
    }
}

/// What is known of failed steps after a pass.
pub(super) fn after(
    known: &Attempts,
    plan: &Plan,
    applied: &Applied,
    heads: Heads<'_>,
    now: DateTime<Utc>,
) -> Attempts {
    // Many may have failed at once, where a server refuses all of them.
    let unseen: BTreeSet<&ResourceKey> = plan.unknown.iter().map(|(key, _)| key).collect();
    let blocked = plan.blocked.iter().filter_map(|blocked| blocked.step.as_ref());
    let wanted: BTreeMap<&ResourceKey, &Step> = blocked.chain(&plan.steps).map(|step| (&step.key, step)).collect();
    let is_seen = |key: &ResourceKey| plan.scope.covers(key) && !unseen.contains(key);
    let goes_on = |key: &ResourceKey, attempt: &Attempt| {
        !applied.done.contains(key) && (!is_seen(key) || (wanted.contains_key(key) && heads.are_of(attempt)))
    };
    let mut attempts = known.clone();
    attempts.retain(|key, attempt| goes_on(key, attempt));
    for (key, error) in &applied.failed {
        let before = known.get(key).filter(|attempt| heads.are_of(attempt));
        let provider = wanted.get(key).map_or("", |step| step.provider.as_str());
        attempts.insert(key.clone(), failed(key, provider, before, error, heads, now));
    }
    attempts
}

fn failed(
    key: &ResourceKey,
    provider: &str,
    before: Option<&Attempt>,
    error: &ManagerError,
    heads: Heads<'_>,
    now: DateTime<Utc>,
) -> Attempt {
    let tries = u32::from(error.reason() != Reason::Locked);
    let failures = before.map_or(0, |before| before.failures).saturating_add(tries);
    let wait = match error {
        ManagerError::Terminal { .. } => None,
        ManagerError::Retry { .. } | ManagerError::Conflict { .. } if failures >= MOST_TRIES => None,
        // Planned anew at once, it may pass in the same look.
        ManagerError::Conflict { .. } if failures <= MOST_REPLANS => Some(Duration::ZERO),
        ManagerError::Conflict { .. } => Some(patience(&key.to_string(), failures - 1)),
        ManagerError::Retry { after, .. } => {
            Some(patience(&key.to_string(), failures.saturating_sub(1)).max(after.unwrap_or_default()))
        }
    };
    Attempt {
        key: key.clone(),
        provider: provider.to_owned(),
        commit: Some(heads.tenant.clone()),
        platform: heads.platform.cloned(),
        failures,
        reason: error.reason(),
        message: error.to_string(),
        first_at: before.map_or(now, |before| before.first_at),
        last_at: now,
        next_at: wait.map(|wait| now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::hours(1))),
    }
}

/// How long until the first of them is tried again. One that could have been tried when it was `planned` waits for
/// something else, which says by itself when it is over; asking for a look at once would ask for ever.
pub(super) fn next_wait(attempts: &Attempts, planned: DateTime<Utc>, now: DateTime<Utc>) -> Option<Duration> {
    attempts.values().filter(|attempt| !attempt.is_due(planned)).filter_map(|attempt| attempt.wait(now)).min()
}

/// Writes what changed since `before` was read. What somebody had tried again meanwhile was not tried since, whatever
/// became of the try that was under way: it stays as they left it. Gives those.
pub(super) async fn write(
    tx: &mut dyn Tx,
    before: &Attempts,
    after: &Attempts,
) -> Result<BTreeSet<ResourceKey>, StoreError> {
    let changed = after.values().filter(|attempt| before.get(&attempt.key) != Some(*attempt));
    let mut changed: Vec<Attempt> = changed.cloned().collect();
    let gone: Vec<ResourceKey> = before.keys().filter(|key| !after.contains_key(*key)).cloned().collect();
    if changed.is_empty() && gone.is_empty() {
        return Ok(BTreeSet::new());
    }
    let stored = tx.attempts().await?;
    let is_retried = |key: &ResourceKey| stored.get(key) != before.get(key);
    let retried = changed.iter().map(|attempt| &attempt.key).chain(&gone).filter(|key| is_retried(key));
    let retried: BTreeSet<ResourceKey> = retried.cloned().collect();
    changed.retain(|attempt| !retried.contains(&attempt.key));
    tx.put_attempts(&changed).await?;
    tx.remove_attempts(&gone).await?;
    Ok(retried)
}

/// Which of a tenant's failed steps are to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    All,
    /// Those of the resources of one environment.
    Environment(&'a str),
    Resource(&'a ResourceKey),
}

impl Which<'_> {
    fn has(self, key: &ResourceKey) -> bool {
        match self {
            Self::All => true,
            Self::Environment(environment) => key.environment == environment,
            Self::Resource(resource) => key == resource,
        }
    }
}

/// Has failed steps of `tenant` tried at its next look as if they had never failed; and changes that were undone since.
/// Those of its providers that nobody asks now are asked again by the next look too. That `by` had it so is written down
/// with it. Asking for the look is the caller's.
///
/// # Errors
/// When the store cannot be used.
pub async fn retry(
    store: &dyn Store,
    clock: &dyn Clock,
    tenant: &str,
    which: Which<'_>,
    by: &str,
) -> Result<Retried, StoreError> {
    try_again(store, clock.now(), tenant, which, by, Again::Anew).await
}

/// Whether there is anything that [`retry`] would have tried again.
///
/// # Errors
/// When the store cannot be read.
pub async fn can_retry(
    store: &dyn Store,
    clock: &dyn Clock,
    tenant: &str,
    which: Which<'_>,
) -> Result<bool, StoreError> {
    Ok(what_waits(store, clock.now(), tenant, which, Again::Anew).await?.is_some())
}

/// The silent providers that are to be asked again, where there is one, or anything else to be tried again.
async fn what_waits(
    store: &dyn Store,
    now: DateTime<Utc>,
    tenant: &str,
    which: Which<'_>,
    again: Again,
) -> Result<Option<BTreeSet<String>>, StoreError> {
    let mut tx = store.read(Scope::Tenant(tenant.to_owned())).await?;
    let silent = silent(tx.as_mut(), tenant, which, now).await?;
    let is_nothing = silent.is_empty() && Failed::of(tx.as_mut(), tenant, which, again).await?.is_nothing();
    Ok((!is_nothing).then_some(silent))
}

/// What is tried again at the next look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Those whose steps are.
    pub keys: Vec<ResourceKey>,
    /// The providers that nobody asked, and that are asked again.
    pub providers: Vec<String>,
}

/// Has failed steps of `tenant` tried at its next look without the wait: also dead letters, and what could not be undone.
/// How often they failed is not forgotten, so what is asked for at every tick of a clock comes to an end all the same, and
/// a change that was undone stays so: it would be done only to be undone once more.
///
/// # Errors
/// When the store cannot be used.
pub(super) async fn hurry(store: &dyn Store, clock: &dyn Clock, tenant: &str, by: &str) -> Result<(), StoreError> {
    try_again(store, clock.now(), tenant, Which::All, by, Again::AtOnce).await.map(drop)
}

/// How what failed is tried again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// As if it had never failed.
    Anew,
    /// After the tries that it has had.
    AtOnce,
}

async fn try_again(
    store: &dyn Store,
    now: DateTime<Utc>,
    tenant: &str,
    which: Which<'_>,
    by: &str,
    again: Again,
) -> Result<Retried, StoreError> {
    let Some(silent) = what_waits(store, now, tenant, which, again).await? else { return Ok(Retried::default()) };
    let mut providers = Vec::new();
    // Providers are all tenants'.
    let scope = if silent.is_empty() { Scope::Tenant(tenant.to_owned()) } else { Scope::Platform };
    let mut tx = store.begin(scope).await?;
    if !silent.is_empty() {
        let mut rows = Vec::new();
        let is_silent = |circuit: &Circuit| circuit.is_open(now) && silent.contains(&circuit.provider);
        for circuit in tx.circuits().await?.into_values().filter(is_silent) {
            rows.push(audit::asked_again(by, &circuit.provider, now));
            providers.push(circuit.provider.clone());
            tx.put_circuit(&Circuit { retry_at: Some(now), ..circuit }).await?;
        }
        // What belongs to all tenants is in the chain of none.
        tx.append_audit(PLATFORM_CHAIN, &rows).await?;
    }
    let failed = Failed::of(tx.as_mut(), tenant, which, again).await?;
    let keys = failed.keys();
    let rows: Vec<NewAudit> = keys.iter().map(|key| audit::retried(by, key, now)).collect();
    tx.append_audit(tenant, &rows).await?;
    for saga in failed.undone {
        // What it did may not be undone whole yet, so what was there before is remembered still.
        tx.put_saga(&Saga { failure: None, ..saga }).await?;
    }
    let attempts = failed.attempts.into_iter();
    let due: Vec<Attempt> = match again {
        Again::Anew => attempts.map(|attempt| attempt.anew(now)).collect(),
        Again::AtOnce => attempts.map(|attempt| attempt.at_once(now)).collect(),
    };
    tx.put_attempts(&due).await?;
    tx.commit().await?;
    Ok(Retried { keys: keys.into_iter().collect(), providers })
}

/// The providers that nobody asks now, of those that what is to be tried again is on: the others are other tenants'.
async fn silent(
    tx: &mut dyn Tx,
    tenant: &str,
    which: Which<'_>,
    now: DateTime<Utc>,
) -> Result<BTreeSet<String>, StoreError> {
    let mut silent = tx.circuits().await?;
    silent.retain(|_, circuit| circuit.is_open(now));
    if silent.is_empty() {
        return Ok(BTreeSet::new());
    }
    let is_wanted = |of: &ResourceKey| of.tenant == tenant && which.has(of);
    let (statuses, attempts) = (tx.statuses().await?, tx.attempts().await?);
    let known = statuses.into_values().map(|status| (status.key, status.provider));
    let failed = attempts.into_values().map(|attempt| (attempt.key, attempt.provider));
    let used = known.chain(failed).filter(|(key, _)| is_wanted(key)).map(|(_, provider)| provider);
    Ok(used.filter(|provider| silent.contains_key(provider)).collect())
}

/// What failed, of what is to be tried again.
struct Failed {
    attempts: Vec<Attempt>,
    /// Changes that are undone since.
    undone: Vec<Saga>,
}

impl Failed {
    async fn of(tx: &mut dyn Tx, tenant: &str, which: Which<'_>, again: Again) -> Result<Self, StoreError> {
        let is_wanted = |failed: &ResourceKey| failed.tenant == tenant && which.has(failed);
        let attempts = tx.attempts().await?.into_values().filter(|attempt| is_wanted(&attempt.key)).collect();
        let is_undone =
            |saga: &Saga| again == Again::Anew && saga.failure.as_ref().is_some_and(|failure| is_wanted(&failure.key));
        let undone = tx.sagas().await?.into_iter().filter(is_undone).collect();
        Ok(Self { attempts, undone })
    }

    fn is_nothing(&self) -> bool {
        self.attempts.is_empty() && self.undone.is_empty()
    }

    fn keys(&self) -> BTreeSet<ResourceKey> {
        let undone = self.undone.iter().filter_map(|saga| saga.failure.as_ref()).map(|failure| &failure.key);
        self.attempts.iter().map(|attempt| &attempt.key).chain(undone).cloned().collect()
    }
}

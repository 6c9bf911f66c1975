//! Circuit breakers: a provider that does not answer several times in a row is not asked for a while, by no replica.
//!
//! What always holds: while a circuit is open its resources are unknown (R5), which costs nobody a timeout, and no step
//! begins there; one asks now and then; the first answer closes the circuit, has what failed there tried again, and wakes
//! whoever waited. A step that had no answer says nothing by itself, since what it does may only be slow: its provider is
//! asked who it is, and that counts.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use crate::managers::ManagerError;
use crate::model::{
    Ask, Attempt, Circuit, Depth, Hold, Platform, ProviderIdentity, Reason, Request, Trigger, Unknown, Width,
};
use crate::store::{Scope, StoreError};

use super::Engine;
use super::fleet::Access;
use super::observe::Look;
use super::reconcile::chain;
use super::worker::doubled;

/// So many silences in a row open a circuit.
const OPENS_AFTER: u32 = 3;

/// The first wait of an open circuit, and the longest: asking costs little, and everybody waits for the answer.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How long one that asks keeps others from asking, beyond what the provider has to answer.
const ASKING: Duration = Duration::from_secs(5);

/// When those look who wait for a provider whose circuit is about to be closed, where they are not asked to at once.
const WAKE_UP: Duration = Duration::from_secs(5);

/// Providers that did not answer, by name.
pub(super) type Circuits = BTreeMap<String, Circuit>;

/// Whether an error says that nobody is there, rather than what is there.
pub(super) fn is_silence(error: &ManagerError) -> bool {
    matches!(error.reason(), Reason::ProviderUnreachable | Reason::TimedOut | Reason::AuthenticationFailed)
}

/// Why an open circuit's provider is not asked.
fn not_asked(circuit: &Circuit) -> Unknown {
    let Circuit { provider, failures, message, reason, retry_at, .. } = circuit;
    let again = retry_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default();
    Unknown::new(
        Reason::CircuitOpen,
        format!(
            "{provider} did not answer {failures} times in a row ({reason}: {message}); it is asked again at {again}"
        ),
    )
}

/// Why nothing is begun on the provider of an open circuit, and until when.
pub(super) fn hold(circuit: &Circuit) -> Hold {
    let Unknown { reason, message } = not_asked(circuit);
    Hold { reason, message, until: circuit.retry_at }
}

impl Engine {
    /// Whether a provider may be asked now. Whoever asks one that was silent is the only one.
    pub(super) async fn may_ask(&self, look: &Look<'_>, provider: &str) -> Result<(), Unknown> {
        let now = self.clock.now();
        let Some(circuit) = look.circuits.and_then(|circuits| circuits.get(provider)) else { return Ok(()) };
        if circuit.is_open(now) {
            return Err(not_asked(circuit));
        }
        if !circuit.is_half_open(now) {
            return Ok(());
        }
        let patience = look.platform.providers.get(provider).map_or(Duration::ZERO, |spec| spec.timeout.0);
        match self.take_turn(provider, now, patience + ASKING).await {
            Ok(None) => Ok(()),
            Ok(Some(taken)) => Err(not_asked(&taken)),
            // Who asks one time too many does no harm.
            Err(error) => {
                tracing::debug!(provider, error = chain(&error), "a circuit could not be read");
                Ok(())
            }
        }
    }

    /// Takes the turn to ask; gives the circuit where another has it.
    async fn take_turn(
        &self,
        provider: &str,
        now: DateTime<Utc>,
        turn: Duration,
    ) -> Result<Option<Circuit>, StoreError> {
        let mut tx = self.store.begin(Scope::Platform).await?;
        let Some(circuit) = tx.circuits().await?.remove(provider) else { return Ok(None) };
        if circuit.is_open(now) {
            return Ok(Some(circuit));
        }
        tx.put_circuit(&Circuit { asked_at: now, retry_at: Some(later(now, turn)), ..circuit }).await?;
        tx.commit().await?;
        Ok(None)
    }

    /// Remembers that a provider did not answer what it was `asked` then. Looks that were all under way when it fell
    /// silent have heard one silence: what was asked before the last one was noted says nothing new.
    pub(super) async fn note_silence(&self, provider: &str, asked: DateTime<Utc>, error: &ManagerError) {
        let noted = async {
            let now = self.clock.now();
            let mut tx = self.store.begin(Scope::Platform).await?;
            let known = tx.circuits().await?.remove(provider);
            if known.as_ref().is_some_and(|known| known.was_asked_since(asked, now)) {
                return Ok(());
            }
            let failures = known.as_ref().map_or(0, |known| known.failures).saturating_add(1);
            let circuit = Circuit {
                provider: provider.to_owned(),
                failures,
                reason: error.reason(),
                message: error.to_string(),
                since: known.as_ref().map_or(now, |known| known.since),
                asked_at: now,
                retry_at: failures
                    .checked_sub(OPENS_AFTER)
                    .map(|more| later(now, doubled(FIRST_WAIT, more, LONGEST_WAIT))),
            };
            if failures == OPENS_AFTER {
                tracing::warn!(provider, failures, error = circuit.message, "the circuit of a provider opens");
            }
            tx.put_circuit(&circuit).await?;
            tx.commit().await
        };
        if let Err(error) = noted.await {
            tracing::warn!(provider, error = chain(&error), "a circuit could not be written down");
        }
    }

    /// Remembers that a provider that was silent answers again what it was `asked` then. One that was asked since, and said
    /// nothing, may have fallen silent after it: whoever heard the answer was paused.
    pub(super) async fn note_answer(&self, platform: &Platform, provider: &str, asked: DateTime<Utc>) {
        let noted = async {
            let now = self.clock.now();
            let known = self.circuits_and_identities().await?.0.remove(provider);
            let Some(known) = known.filter(|known| !known.was_asked_since(asked, now)) else { return Ok(()) };
            if known.retry_at.is_some() {
                // Should nobody be left to ask for it once the circuit is closed.
                let later = wake_ups(platform, provider).into_iter().map(|look| Request { delay: WAKE_UP, ..look });
                self.store.request(&later.collect::<Vec<_>>()).await?;
            }
            let mut tx = self.store.begin(Scope::Platform).await?;
            let known = tx.circuits().await?.remove(provider);
            let Some(circuit) = known.filter(|known| !known.was_asked_since(asked, now)) else { return Ok(()) };
            tx.remove_circuit(provider).await?;
            let was_open = circuit.retry_at.is_some();
            if was_open {
                let waiting = tx.attempts().await?.into_values().filter(|attempt| attempt.provider == provider);
                let anew: Vec<Attempt> = waiting.map(|attempt| attempt.anew(now)).collect();
                tx.put_attempts(&anew).await?;
            }
            tx.commit().await?;
            if was_open {
                tracing::info!(provider, since = %circuit.since, "a provider answers again; its circuit closes");
                self.store.request(&wake_ups(platform, provider)).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = noted.await {
            tracing::warn!(provider, error = chain(&error), "a circuit could not be closed");
        }
    }

    /// Asks the providers whose turn it is whether they are back.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn probe(&self, platform: &Platform) -> Result<(), StoreError> {
        let (circuits, known) = self.circuits_and_identities().await?;
        let now = self.clock.now();
        let look =
            Look { platform, access: Access::Write, depth: Depth::Shallow, known: &known, circuits: Some(&circuits) };
        for provider in circuits.values().filter(|circuit| circuit.is_half_open(now)).map(|circuit| &circuit.provider) {
            if platform.providers.contains_key(provider) {
                self.observe(&look, BTreeMap::from([(provider.clone(), Vec::new())])).await;
            } else {
                self.forget_circuit(provider).await?;
            }
        }
        Ok(())
    }

    /// Asks a provider that gave a step no answer who it is, unless nobody asks it. Gives its circuit where that is open
    /// by then.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn ask_who(&self, platform: &Platform, provider: &str) -> Result<Option<Circuit>, StoreError> {
        let (circuits, known) = self.circuits_and_identities().await?;
        let look =
            Look { platform, access: Access::Write, depth: Depth::Shallow, known: &known, circuits: Some(&circuits) };
        self.observe(&look, BTreeMap::from([(provider.to_owned(), Vec::new())])).await;
        let (mut circuits, _) = self.circuits_and_identities().await?;
        let now = self.clock.now();
        Ok(circuits.remove(provider).filter(|circuit| circuit.is_open(now)))
    }

    async fn circuits_and_identities(&self) -> Result<(Circuits, BTreeMap<String, ProviderIdentity>), StoreError> {
        let mut tx = self.store.read(Scope::Platform).await?;
        Ok((tx.circuits().await?, tx.identities().await?))
    }

    async fn forget_circuit(&self, provider: &str) -> Result<(), StoreError> {
        let mut tx = self.store.begin(Scope::Platform).await?;
        tx.remove_circuit(provider).await?;
        tx.commit().await
    }
}

/// Looks at all tenants that may use `provider`.
fn wake_ups(platform: &Platform, provider: &str) -> Vec<Request> {
    let users = platform.tenants.iter().filter(|(_, spec)| spec.providers.iter().any(|used| used == provider));
    users.map(|(tenant, _)| Request::at_once(tenant, Ask { trigger: Trigger::Retry, width: Width::Changed })).collect()
}

fn later(now: DateTime<Utc>, wait: Duration) -> DateTime<Utc> {
    now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::minutes(1))
}

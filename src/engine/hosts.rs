//! Hosts of repositories that do not answer, as this process knows them: all tenants of one host need not wait for it, each
//! for itself, to learn that.
//!
//! What always holds: of a host that is silent one asks at a time, and the first answer, whatever it says, lets all ask
//! again. A look that does not ask fails as one that did, says why, and is tried again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::source::SourceError;

/// So many conversations in a row without an answer, and nobody asks for a while.
const SILENT_AFTER: u32 = 3;
/// How long that is at first, and at the longest.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The hosts that did not answer last, by name.
#[derive(Default)]
pub(super) struct Hosts(Mutex<HashMap<String, Silent>>);

struct Silent {
    failures: u32,
    /// What the last one said who asked.
    why: String,
    noted_at: Instant,
    again_at: Instant,
    is_asked: bool,
}

/// The turn to ask a host; given back when dropped.
pub(super) struct Turn<'a> {
    hosts: &'a Hosts,
    host: &'a str,
    began: Instant,
}

impl Hosts {
    /// The turn to ask a host.
    ///
    /// # Errors
    /// [`SourceError::Silent`] when it was silent a moment ago.
    pub(super) fn turn<'a>(&'a self, host: &'a str) -> Result<Turn<'a>, SourceError> {
        let now = Instant::now();
        if let Some(silent) = self.lock().get_mut(host).filter(|silent| silent.failures >= SILENT_AFTER) {
            if silent.is_asked || now < silent.again_at {
                let Silent { failures, why, again_at, .. } = silent;
                let seconds = again_at.saturating_duration_since(now).as_secs().max(1);
                let (host, failures, why) = (host.to_owned(), *failures, why.clone());
                return Err(SourceError::Silent { host, failures, why, seconds });
            }
            silent.is_asked = true;
        }
        Ok(Turn { hosts: self, host, began: now })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Silent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Remembers how the conversation ended. One that was under way when the last silence was noted says nothing new.
    pub(super) fn note(&self, error: Option<&SourceError>) {
        let mut hosts = self.hosts.lock();
        let Some(error) = error.filter(|error| is_silence(error)) else {
            if hosts.remove(self.host).is_some_and(|silent| silent.failures >= SILENT_AFTER) {
                tracing::info!(host = self.host, "a host of repositories answers again");
            }
            return;
        };
        let now = Instant::now();
        let failures = match hosts.get(self.host) {
            Some(silent) if self.began < silent.noted_at => return,
            known => known.map_or(0, |silent| silent.failures) + 1,
        };
        if failures == SILENT_AFTER {
            tracing::warn!(host = self.host, failures, %error, "a host of repositories does not answer");
        }
        let wait = FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(SILENT_AFTER).min(16)).min(LONGEST_WAIT);
        let silent = Silent { failures, why: error.to_string(), noted_at: now, again_at: now + wait, is_asked: false };
        hosts.insert(self.host.to_owned(), silent);
    }
}

impl Drop for Turn<'_> {
    /// Also of a conversation that nobody waits for any more.
    fn drop(&mut self) {
        if let Some(silent) = self.hosts.lock().get_mut(self.host) {
            silent.is_asked = false;
        }
    }
}

/// Whether nobody answered. A conversation that took too long may have been a long one.
fn is_silence(error: &SourceError) -> bool {
    matches!(error, SourceError::Unreachable { .. } | SourceError::TimedOut { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "git.example.org";

    fn unreachable() -> SourceError {
        SourceError::Unreachable { remote: "https://git.example.org/a".to_owned(), why: "no route".to_owned() }
    }

    fn ask(hosts: &Hosts, host: &str, said: Result<(), SourceError>) -> Result<(), SourceError> {
        hosts.turn(host)?.note(said.as_ref().err());
        said
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_silent_is_asked_by_one_at_a_time_until_it_answers() {
        let hosts = Hosts::default();
        for _ in 0..SILENT_AFTER {
            assert!(matches!(ask(&hosts, HOST, Err(unreachable())), Err(SourceError::Unreachable { .. })));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let told = ask(&hosts, HOST, Ok(())).unwrap_err().to_string();
        assert!(told.contains("3 times in a row") && told.contains("no route"), "{told}");
        ask(&hosts, "elsewhere.example.org", Ok(())).unwrap();
        tokio::time::sleep(FIRST_WAIT).await;
        let turn = hosts.turn(HOST).ok().expect("it is time");
        assert!(matches!(ask(&hosts, HOST, Ok(())), Err(SourceError::Silent { .. })), "another asks");
        drop(turn);
        ask(&hosts, HOST, Ok(())).unwrap();
        ask(&hosts, HOST, Ok(())).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn silences_of_one_moment_are_one() {
        let hosts = Hosts::default();
        let turns: Vec<_> = (0..5).map(|_| hosts.turn(HOST).ok().expect("nothing is known")).collect();
        tokio::time::sleep(Duration::from_secs(60)).await;
        turns.iter().for_each(|turn| turn.note(Some(&unreachable())));
        assert_eq!(hosts.lock()[HOST].failures, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_an_answer() {
        let hosts = Hosts::default();
        for _ in 0..2 * SILENT_AFTER {
            let refused = SourceError::Unauthorized { remote: "x".to_owned(), why: "no".to_owned() };
            assert!(matches!(ask(&hosts, HOST, Err(refused)), Err(SourceError::Unauthorized { .. })));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

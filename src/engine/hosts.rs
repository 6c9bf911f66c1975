//! Hosts of repositories that take connections and say nothing, as this process knows them: all tenants of one host need
//! not wait for it, each for itself, to learn that.
//!
//! What always holds: only what hangs counts, since what fails at once keeps nobody waiting; of a host that is silent one
//! asks at a time, for a while, and the first answer, whatever it says, lets all ask again. A look that does not ask fails as one that
//! did, says why, and is tried again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::source::SourceError;

use super::worker::doubled;

/// How long a poll waits for its refs until that counts as silence: much longer than a host takes that is well.
pub(super) const HANGS_AFTER: Duration = Duration::from_secs(5);
/// So many silences in a row, and nobody asks for a while.
const SILENT_AFTER: u32 = 3;
/// How long that is at first, and at the longest.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The hosts that did not answer last, by name.
#[derive(Default)]
pub(super) struct Hosts(Mutex<HashMap<String, Silent>>);

struct Silent {
    failures: u32,
    noted_at: Instant,
    again_at: Instant,
}

impl Silent {
    fn is_left_alone(&self) -> bool {
        self.failures >= SILENT_AFTER
    }
}

/// One conversation with a host.
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
        let mut hosts = self.lock();
        if let Some(silent) = hosts.get_mut(host).filter(|silent| silent.is_left_alone()) {
            if now < silent.again_at {
                let seconds = silent.again_at.saturating_duration_since(now).as_secs() + 1;
                return Err(SourceError::Silent { host: host.to_owned(), failures: silent.failures, seconds });
            }
            // The others wait for what this one hears, but not for a repository that takes minutes to fetch.
            silent.again_at = now + LONGEST_WAIT;
        }
        Ok(Turn { hosts: self, host, began: now })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Silent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Remembers that the host lets it wait. One that was under way when the last silence was noted says nothing new.
    pub(super) fn hangs(&self) {
        let now = Instant::now();
        let mut hosts = self.hosts.lock();
        let failures = match hosts.get(self.host) {
            Some(silent) if self.began < silent.noted_at => return,
            known => known.map_or(0, |silent| silent.failures) + 1,
        };
        if failures == SILENT_AFTER {
            tracing::warn!(host = self.host, failures, "a host of repositories does not answer");
        }
        let wait = doubled(FIRST_WAIT, failures.saturating_sub(SILENT_AFTER), LONGEST_WAIT);
        let silent = Silent { failures, noted_at: now, again_at: now + wait };
        hosts.insert(self.host.to_owned(), silent);
    }

    /// Remembers how the conversation ended. An error that came late says nothing of a host that hangs.
    pub(super) fn ended<T, E>(self, said: &Result<T, E>) {
        let was_answered = said.is_ok() || self.began.elapsed() < HANGS_AFTER;
        if was_answered && self.hosts.lock().remove(self.host).is_some_and(|silent| silent.is_left_alone()) {
            tracing::info!(host = self.host, "a host of repositories answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "git.example.org";
    const ANSWER: Result<(), ()> = Ok(());

    async fn hang(hosts: &Hosts) {
        let turn = hosts.turn(HOST).expect("it is asked");
        tokio::time::sleep(HANGS_AFTER).await;
        turn.hangs();
        tokio::time::sleep(Duration::from_millis(1)).await;
        turn.ended(&Err::<(), ()>(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_silent_is_asked_by_one_at_a_time_until_it_answers() {
        let hosts = Hosts::default();
        for _ in 0..SILENT_AFTER {
            hang(&hosts).await;
        }
        let told = hosts.turn(HOST).err().expect("nobody asks").to_string();
        assert!(told.contains("3 times in a row") && told.contains("in 5 s"), "{told}");
        hosts.turn("elsewhere.example.org").expect("others are asked").ended(&ANSWER);
        tokio::time::sleep(FIRST_WAIT).await;
        let _turn = hosts.turn(HOST).expect("it is time");
        assert!(hosts.turn(HOST).is_err(), "another asks");
        // Nobody hears what comes of that.
        tokio::time::sleep(LONGEST_WAIT).await;
        hang(&hosts).await;
        tokio::time::sleep(FIRST_WAIT).await;
        assert!(hosts.turn(HOST).is_err(), "it waits longer");
        tokio::time::sleep(FIRST_WAIT).await;
        hosts.turn(HOST).expect("it is time").ended(&ANSWER);
        let _turns = [hosts.turn(HOST).expect("it answers"), hosts.turn(HOST).expect("it answers")];
    }

    #[tokio::test(start_paused = true)]
    async fn silences_of_one_moment_are_one() {
        let hosts = Hosts::default();
        let turns: Vec<_> = (0..5).map(|_| hosts.turn(HOST).expect("nothing is known")).collect();
        tokio::time::sleep(HANGS_AFTER).await;
        for turn in turns {
            turn.hangs();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(hosts.lock()[HOST].failures, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_at_once_is_an_answer() {
        let hosts = Hosts::default();
        for _ in 0..2 * SILENT_AFTER {
            hosts.turn(HOST).expect("it is asked").ended(&Err::<(), ()>(()));
        }
        hang(&hosts).await;
        hosts.turn(HOST).expect("it is asked").ended(&Err::<(), ()>(()));
        assert!(hosts.lock().is_empty());
    }
}

//! What did not work, and when it is tried again: steps by resource, conversations by provider.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::condition::Reason;
use super::key::{ObjectHex, ResourceKey};

/// By how much the clocks of replicas may differ. What was written down later than this from now was written by a clock
/// that has been set back since, and whatever waits for it has waited long enough.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(1);

/// A step that failed, from its first failure until it works, nobody wants it any more, or git or the platform says
/// something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub key: ResourceKey,
    /// Where the step was tried.
    pub provider: String,
    /// The heads of the tenant's and of the platform's repository under which it failed. Under others it begins anew.
    pub commit: Option<ObjectHex>,
    pub platform: Option<ObjectHex>,
    /// How often it failed under them.
    pub failures: u32,
    pub reason: Reason,
    pub message: String,
    pub first_at: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
    /// When it is tried again; `None` makes it a dead letter, which waits for somebody.
    pub next_at: Option<DateTime<Utc>>,
}

impl Attempt {
    /// Whether it is not tried again by itself.
    pub fn is_dead(&self) -> bool {
        self.next_at.is_none()
    }

    /// Whether it may be tried now.
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.next_at.is_some_and(|next| is_reached(next, self.last_at, now))
    }

    /// How long until it is tried again; `None` for a dead letter.
    pub fn wait(&self, now: DateTime<Utc>) -> Option<Duration> {
        let next = self.next_at?;
        if is_reached(next, self.last_at, now) { Some(Duration::ZERO) } else { (next - now).to_std().ok() }
    }

    /// The same, as if it had never failed: tried at the next look.
    #[must_use]
    pub fn anew(self, now: DateTime<Utc>) -> Self {
        Self { failures: 0, next_at: Some(now), ..self }
    }

    /// The same, tried at the next look: one more try beside those that failed.
    #[must_use]
    pub fn at_once(self, now: DateTime<Utc>) -> Self {
        Self { next_at: Some(now), ..self }
    }
}

/// What is known of a provider that does not answer. While its circuit is open nobody asks it, but one now and then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Circuit {
    pub provider: String,
    /// How often in a row it did not answer.
    pub failures: u32,
    pub reason: Reason,
    pub message: String,
    /// Since when it did not answer.
    pub since: DateTime<Utc>,
    /// When it was asked last.
    #[serde(default)]
    pub asked_at: DateTime<Utc>,
    /// When one may ask it again; `None` while the circuit is closed. Whoever asks puts it off first, so that no other
    /// asks at the same time.
    pub retry_at: Option<DateTime<Utc>>,
}

impl Circuit {
    /// Whether nobody asks now.
    pub fn is_open(&self, now: DateTime<Utc>) -> bool {
        self.retry_at.is_some_and(|retry| !is_reached(retry, self.asked_at, now))
    }

    /// Whether it was asked after a question of then, by a clock that was not set back since: what is heard of that one only now
    /// says nothing new.
    pub fn was_asked_since(&self, asked: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        asked < self.asked_at && self.asked_at <= now
    }

    /// Whether one may ask now, to see whether it is back.
    pub fn is_half_open(&self, now: DateTime<Utc>) -> bool {
        self.retry_at.is_some_and(|retry| is_reached(retry, self.asked_at, now))
    }
}

/// Whether a wait until `at` that began at `since` is over.
fn is_reached(at: DateTime<Utc>, since: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    at <= now || now + CLOCKS_DIFFER < since
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_over_when_its_time_comes_or_the_clock_was_set_back() {
        let at = |hours: i64| DateTime::<Utc>::UNIX_EPOCH + TimeDelta::hours(hours);
        let attempt = Attempt {
            key: "a/b/Cache/c".parse().unwrap(),
            provider: "p".to_owned(),
            commit: None,
            platform: None,
            failures: 1,
            reason: Reason::TimedOut,
            message: String::new(),
            first_at: at(9),
            last_at: at(9),
            next_at: Some(at(10)),
        };
        assert_eq!((attempt.is_due(at(9)), attempt.wait(at(9))), (false, Some(Duration::from_secs(3600))));
        assert_eq!((attempt.is_due(at(10)), attempt.wait(at(11))), (true, Some(Duration::ZERO)));
        assert!(attempt.is_due(at(8)), "the clock was set back");
        assert!(!attempt.is_due(at(9) - TimeDelta::seconds(5)), "another replica's clock is a little behind");
        let circuit = Circuit {
            provider: "p".to_owned(),
            failures: 3,
            reason: Reason::TimedOut,
            message: String::new(),
            since: at(1),
            asked_at: at(9),
            retry_at: Some(at(10)),
        };
        assert!(circuit.is_open(at(9)) && !circuit.is_half_open(at(9)));
        assert!(!circuit.is_open(at(8)) && circuit.is_half_open(at(8)), "the clock was set back");
        assert!(circuit.was_asked_since(at(8), at(10)) && !circuit.was_asked_since(at(9), at(10)));
        assert!(!circuit.was_asked_since(at(7), at(8)), "the clock was set back");
        let dead = Attempt { next_at: None, ..attempt };
        assert_eq!((dead.is_dead(), dead.is_due(at(20)), dead.wait(at(20))), (true, false, None));
        assert!(dead.anew(at(1)).is_due(at(1)));
    }
}

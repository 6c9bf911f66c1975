//! What is asked for, and who works on it.
//!
//! The queue holds one row a tenant, never a list: a tenant that is asked for twice is looked at once, as widely as was
//! asked. A claim is a [`Lease`]: it ends, and its number (the generation) rises with every claim, so that whoever lost
//! it can be told from whoever has it.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::event::Trigger;

/// How much of a tenant is looked at; a later one is wider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Width {
    /// What changed since the last pass, if that is known; else everything, deep.
    Changed,
    /// Everything, as shared catalogs show it; what was touched, deep.
    Shallow,
    /// Everything, inside each object.
    Deep,
}

impl Width {
    /// Every width, the narrowest first.
    pub const ALL: [Width; 3] = [Width::Changed, Width::Shallow, Width::Deep];
}

/// A look that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Why; told in the timeline. Nothing but the patience with what failed hangs on it.
    pub trigger: Trigger,
    pub width: Width,
}

impl Ask {
    /// One look in place of two: the wider. Of two that are as wide the earlier is told, but a retry says least.
    pub fn or(self, later: Self) -> Self {
        if later.width > self.width || (later.width == self.width && self.trigger == Trigger::Retry) {
            later
        } else {
            self
        }
    }
}

/// Says that a tenant needs a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub tenant: String,
    pub ask: Ask,
    /// How long it can wait. A wait, not a time: what replicas take for the time may differ.
    pub delay: Duration,
    /// A name for what is new and asks for it, such as refs that a poll saw; `None` where nothing is. What is new ends
    /// the patience with what was before it, and a look that began on something older.
    pub news: Option<String>,
}

/// One process that works on tenants, for as long as it lives: host, process number, and something that tells it from a
/// former process of that number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Replica(pub String);

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The right to work on one tenant, until it is let go or lost. What is written under a lease that another has by now is
/// refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    pub tenant: String,
    pub holder: Replica,
    /// Rises by one with every claim of the tenant, and is never used again, also where the tenant goes and comes back.
    pub generation: i64,
}

/// A tenant that was claimed, and the look that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub lease: Lease,
    pub ask: Ask,
    /// How many looks before this one wanted to be tried again, without one in between that did not.
    pub failures: u32,
    /// Since when it was due.
    pub due: DateTime<Utc>,
    /// The newest news at the claim.
    pub news: Option<String>,
    /// The name of the refs that the last look saw.
    pub seen: Option<String>,
}

impl Claim {
    /// Whether somebody waits for the look: it is about something new, or a person asked for it.
    pub fn is_awaited(&self) -> bool {
        self.news != self.seen || matches!(self.ask.trigger, Trigger::Request | Trigger::CommandLine)
    }
}

/// What becomes of a tenant when its look is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// A name for the refs that were seen, so that a poll knows whether they are others; `None` keeps the one before.
    pub seen: Option<String>,
    /// After how long to try again, if nothing else asks for a look before; with how many tries there were.
    pub retry: Option<(Duration, u32)>,
    /// The news of the claim: what came after it ends the patience.
    pub news: Option<String>,
}

impl Request {
    /// A look that need not wait, where nothing is new.
    pub fn at_once(tenant: &str, ask: Ask) -> Self {
        Self { tenant: tenant.to_owned(), ask, delay: Duration::ZERO, news: None }
    }
}

/// The right to run one step on a provider, over all replicas, for as long as the lease is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub provider: String,
    pub number: i64,
    pub lease: Lease,
}

/// Where one tenant stands in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    pub tenant: String,
    /// The look that is asked for, and when it is due: the beginning of 1970 where it is from when on a replica sees it.
    pub asked: Option<Ask>,
    pub due: Option<DateTime<Utc>>,
    /// Who looks at it now, and until when that counts without a sign of life.
    pub holder: Option<Replica>,
    pub lease_until: Option<DateTime<Utc>>,
    pub claimed_at: Option<DateTime<Utc>>,
    pub generation: i64,
    pub failures: u32,
    /// A name for the refs that the last look saw.
    pub seen: Option<String>,
    /// The newest news that asked for a look.
    pub news: Option<String>,
    /// When the last look ended.
    pub looked_at: Option<DateTime<Utc>>,
    /// When the last look inside each object ended.
    #[serde(default)]
    pub deep_at: Option<DateTime<Utc>>,
    /// How many looks since then ended with the process that had begun them, or were never heard of again.
    #[serde(default)]
    pub abandoned: u32,
}

impl Place {
    /// That of a tenant which nobody has looked at, or asked to.
    #[cfg(test)]
    pub(crate) fn of_tenant(tenant: &str) -> Self {
        Self {
            tenant: tenant.to_owned(),
            asked: None,
            due: None,
            holder: None,
            lease_until: None,
            claimed_at: None,
            generation: 1,
            failures: 0,
            seen: None,
            news: None,
            looked_at: None,
            deep_at: None,
            abandoned: 0,
        }
    }

    /// Whether somebody looks at it, or will without waiting for another try.
    pub fn has_look_coming(&self) -> bool {
        self.holder.is_some() || self.asked.is_some_and(|ask| ask.trigger != Trigger::Retry)
    }

    /// Whether nobody looks at it, and no look is asked for.
    pub fn is_idle(&self) -> bool {
        self.holder.is_none() && self.asked.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(trigger: Trigger, width: Width) -> Ask {
        Ask { trigger, width }
    }

    #[test]
    fn two_asks_are_one_look_the_wider() {
        let commit = ask(Trigger::Commit, Width::Changed);
        let scan = ask(Trigger::DriftScan, Width::Shallow);
        assert_eq!(commit.or(scan), scan);
        assert_eq!(scan.or(commit), scan);
    }

    #[test]
    fn a_retry_gives_way_to_whatever_asks_for_as_much() {
        let retry = ask(Trigger::Retry, Width::Changed);
        let commit = ask(Trigger::Commit, Width::Changed);
        assert_eq!(retry.or(commit), commit);
        assert_eq!(commit.or(retry), commit);
    }
}

//! Checks the set-up without changing anything: each repository and each provider, with the credentials they name.

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;

use crate::model::{Depth, Unknown};

use super::Engine;
use super::fleet::{Access, Member};
use super::observe::{Look, identity_changed};
use super::platform::PlatformStatus;

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub what: String,
    pub result: CheckResult,
}

/// How a check ended, with what to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckResult {
    Good(String),
    Bad(String),
}

/// By how much the clocks of replicas may differ: tries and circuits are remembered by the clock of whoever made them.
const CLOCKS_MAY_DIFFER: TimeDelta = TimeDelta::seconds(30);

/// What is to be done about a clock `here` that is not the database's.
pub fn clocks_differ(here: DateTime<Utc>, database: DateTime<Utc>) -> Option<String> {
    let by = here - database;
    (by.abs() > CLOCKS_MAY_DIFFER).then(|| {
        let (seconds, side) = (by.num_seconds().abs(), if by > TimeDelta::zero() { "ahead of" } else { "behind" });
        format!(
            "this machine's clock is {seconds} s {side} the database's, so waits would be cut short or drawn out for other \
             replicas; set both by one time server"
        )
    })
}

impl Engine {
    /// Says so in the log where this machine's clock is not the database's.
    pub(super) async fn check_clock(&self) {
        let now = self.store.now().await;
        if let Some(differs) = now.ok().and_then(|now| clocks_differ(self.clock.now(), now)) {
            tracing::warn!(replica = %self.settings.replica, "{differs}");
        }
    }

    /// Asks every tenant's repository for its refs and every provider for its identity.
    pub async fn check(&self, in_force: &PlatformStatus) -> Vec<Check> {
        let tenants = join_all(in_force.platform.tenants.keys().map(|tenant| async move {
            let result = match self.advertised(in_force, tenant).await {
                Ok(refs) => match refs.head {
                    Some(head) => CheckResult::Good(format!("its branch is at {head}")),
                    None => CheckResult::Bad("its branch is not there; push a first commit".to_owned()),
                },
                Err(error) => CheckResult::Bad(super::reconcile::chain(&error)),
            };
            Check { what: format!("repository of tenant {tenant}"), result }
        }));
        // Where there is no state yet, nobody was met before.
        let known = self.identities().await.unwrap_or_default();
        let platform = &in_force.platform;
        let look = &Look { platform, access: Access::Write, depth: Depth::Shallow, known: &known, circuits: None };
        let providers = join_all(platform.providers.keys().map(|provider| async move {
            Check { what: format!("provider {provider}"), result: self.check_provider(look, provider).await }
        }));
        let (mut checks, providers) = futures::future::join(tenants, providers).await;
        checks.extend(providers);
        checks
    }

    async fn check_provider(&self, look: &Look<'_>, provider: &str) -> CheckResult {
        let asked = async {
            let Member { manager, .. } = self.fleet.member(look.platform, provider, look.access)?;
            manager.identity().await
        };
        let identity = asked.await;
        let changed = identity.as_ref().ok().and_then(|now| identity_changed(look, provider, now.as_ref()));
        if let Some(Unknown { message, .. }) = changed {
            return CheckResult::Bad(message);
        }
        match identity {
            Ok(Some(identity)) => CheckResult::Good(format!("answers; it is {}", identity.0)),
            Ok(None) => CheckResult::Good("answers; not used yet".to_owned()),
            Err(error) => CheckResult::Bad(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_by_more_than_waits_can_stand_are_told() {
        let at = |seconds: i64| DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap();
        assert_eq!(clocks_differ(at(0), at(29)), None);
        assert!(clocks_differ(at(0), at(180)).unwrap().contains("180 s behind the database's"));
        assert!(clocks_differ(at(180), at(0)).unwrap().contains("180 s ahead of the database's"));
    }
}

//! Checks the set-up without changing anything: each repository and each provider, with the credentials they name.

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

impl Engine {
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

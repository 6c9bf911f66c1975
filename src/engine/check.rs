//! Checks the set-up without changing anything: each repository and each provider, with the credentials they name.

use futures::future::join_all;

use super::Engine;
use super::fleet::{Access, Member};
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
        let providers = join_all(in_force.platform.providers.keys().map(|provider| async move {
            Check { what: format!("provider {provider}"), result: self.check_provider(in_force, provider).await }
        }));
        let (mut checks, providers) = futures::future::join(tenants, providers).await;
        checks.extend(providers);
        checks
    }

    async fn check_provider(&self, in_force: &PlatformStatus, provider: &str) -> CheckResult {
        let asked = async {
            let Member { manager, .. } = self.fleet.member(&in_force.platform, provider, Access::Write)?;
            manager.identity().await
        };
        match asked.await {
            Ok(Some(identity)) => CheckResult::Good(format!("answers; it is {}", identity.0)),
            Ok(None) => CheckResult::Good("answers; not used yet".to_owned()),
            Err(error) => CheckResult::Bad(error.to_string()),
        }
    }
}

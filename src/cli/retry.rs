//! `plumb retry`: tries failed steps again now.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use crate::engine::{Ask, Retried, Which, Width, can_retry, request_looks, retry};
use crate::model::{Request, ResourceKey, SystemClock, Trigger};
use crate::store::{Mode, Scope, Store};

use super::args::Common;
use super::{house, output, read};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The resource whose step failed: tenant/environment/Kind/name; all of the tenant's (-t), or of an environment (-e),
    /// when left out
    key: Option<ResourceKey>,
}

/// Longer than it takes to have the steps of all tenants tried again.
const SOON: Duration = Duration::from_secs(30);

/// Has failed steps tried again at the next look, and asks for that look.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    common.expect_no_server("retry writes to the state database")?;
    let store = house::existing_store(common, Mode::Append).await?;
    let wanted = args.key.as_ref().map(|key| key.tenant.clone()).or_else(|| common.tenant.clone());
    let known = store.read(Scope::Platform).await?.tenants().await?;
    let mut tenants: Vec<String> = match &wanted {
        Some(tenant) => match known.get(tenant) {
            Some(state) if state.removed => {
                bail!("{tenant} is not in the platform any more; its resources are frozen, and nobody looks at them")
            }
            Some(_) => vec![tenant.clone()],
            None => return Err(read::no_tenant(tenant, known.into_keys())),
        },
        None => known.into_values().filter(|state| !state.removed).map(|state| state.tenant).collect(),
    };
    let which = match (&args.key, common.environment.as_deref()) {
        (Some(key), Some(environment)) if key.environment != environment => {
            bail!("{key} is not of the environment {environment}: leave out --environment (PLUMB_ENVIRONMENT)")
        }
        (Some(key), _) => Which::Resource(key),
        (None, Some(environment)) => {
            tenants = with_environment(store.as_ref(), tenants, environment).await?;
            Which::Environment(environment)
        }
        (None, None) => Which::All,
    };
    if let Which::Resource(key) = which
        && !can_retry(store.as_ref(), &SystemClock, &key.tenant, which).await?
    {
        bail!("no step of {key} has failed; `plumb explain {key}` says what it waits for");
    }
    // Who waits for a provider is looked at as well.
    let ask = Ask { trigger: Trigger::Request, width: Width::Deep };
    // Should this process end when the steps are due and the looks not asked for, these come all the same.
    let soon = tenants.iter().map(|tenant| Request { delay: SOON, ..Request::at_once(tenant, ask) });
    store.request(&soon.collect::<Vec<_>>()).await?;
    let (by, mut retried) = (house::person(), Retried::default());
    for tenant in &tenants {
        let Retried { keys, providers } = retry(store.as_ref(), &SystemClock, tenant, which, &by).await?;
        retried.keys.extend(keys);
        retried.providers.extend(providers);
    }
    let Retried { keys, providers } = retried;
    request_looks(store.as_ref(), &SystemClock, &tenants, ask, &by).await?;
    output::print_as(common, &json!({"retried": keys, "askedAgain": providers}), || {
        if keys.is_empty() && providers.is_empty() {
            let place = common.environment.as_ref().map(|environment| format!(" in {environment}")).unwrap_or_default();
            return match &wanted {
                Some(tenant) => format!("no step of {tenant}{place} has failed; it is looked at all the same\n"),
                None => format!("no step{place} has failed; every tenant is looked at all the same\n"),
            };
        }
        let steps = keys.iter().map(|key| format!("{key} is tried again at the next look\n"));
        let asked = providers.iter().map(|provider| format!("provider {provider} is asked again at the next look\n"));
        steps.chain(asked).collect()
    })?;
    if !common.quiet {
        eprintln!("a running `plumb serve` looks within seconds; without one, run `plumb apply`");
    }
    Ok(0)
}

/// Those of `tenants` that have something in an environment: others have nothing to be looked at for.
async fn with_environment(store: &dyn Store, tenants: Vec<String>, environment: &str) -> anyhow::Result<Vec<String>> {
    let statuses = store.read(Scope::Platform).await?.statuses().await?;
    let known = || statuses.keys().filter(|key| tenants.contains(&key.tenant));
    let having: BTreeSet<&String> =
        known().filter(|key| key.environment == environment).map(|key| &key.tenant).collect();
    if having.is_empty() {
        let known: BTreeSet<&str> = known().map(|key| key.environment.as_str()).collect();
        let known: Vec<&str> = known.into_iter().collect();
        bail!("nothing is known of an environment {environment:?}; the state knows {}", known.join(", "));
    }
    Ok(having.into_iter().cloned().collect())
}

//! `plumb retry`: tries failed steps again now.

use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use crate::engine::{Ask, Retried, Width, can_retry, request_looks, retry};
use crate::model::{Request, ResourceKey, SystemClock, Trigger};
use crate::store::{Mode, Scope};

use super::args::Common;
use super::{house, output};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The resource whose step failed: tenant/environment/Kind/name; all of the tenant's (-t), when left out
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
    let tenants: Vec<String> = match &wanted {
        Some(tenant) => match known.get(tenant) {
            Some(state) if state.removed => {
                bail!("{tenant} is not in the platform any more; its resources are frozen, and nobody looks at them")
            }
            Some(_) => vec![tenant.clone()],
            None => {
                let known: Vec<String> = known.into_keys().collect();
                bail!("there is no tenant {tenant:?}; the state knows {}", known.join(", "))
            }
        },
        None => known.into_values().filter(|state| !state.removed).map(|state| state.tenant).collect(),
    };
    if let Some(key) = &args.key
        && !can_retry(store.as_ref(), &SystemClock, &key.tenant, Some(key)).await?
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
        let Retried { keys, providers } = retry(store.as_ref(), &SystemClock, tenant, args.key.as_ref(), &by).await?;
        retried.keys.extend(keys);
        retried.providers.extend(providers);
    }
    let Retried { keys, providers } = retried;
    request_looks(store.as_ref(), &SystemClock, &tenants, ask, &by).await?;
    output::print_as(common, &json!({"retried": keys, "askedAgain": providers}), || {
        if keys.is_empty() && providers.is_empty() {
            return match &wanted {
                Some(tenant) => format!("no step of {tenant} has failed; it is looked at all the same\n"),
                None => "no step has failed; every tenant is looked at all the same\n".to_owned(),
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

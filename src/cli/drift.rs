//! `plumb drift`: a deep scan now, without changing or proposing anything.

use anyhow::bail;

use crate::engine::PreviewSource;
use crate::model::ResourceKey;

use super::args::Common;
use super::house::House;
use super::output::{self, Paint};
use super::plan::{plan_text, to_json};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this resource: tenant/environment/Kind/name
    key: Option<ResourceKey>,
}

/// Scans. Exits with 0 in plumb, 1 drifted, 2 when something failed or could not be seen.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let house = House::planning(common).await?;
    let in_force =
        house.engine.platform_for_reading().await.map_err(|error| super::validate::explain(error, common))?;
    let only = args.key.as_ref().map(|key| key.tenant.clone()).or_else(|| common.tenant.clone());
    let tenants: Vec<String> = match only {
        Some(tenant) => vec![tenant],
        None => in_force.platform.tenants.keys().cloned().collect(),
    };
    let wanted = |key: &ResourceKey| {
        args.key.as_ref().is_none_or(|only| only == key)
            && common.environment.as_ref().is_none_or(|environment| *environment == key.environment)
    };
    let mut plans = Vec::new();
    for tenant in &tenants {
        let mut preview = house.engine.preview(&in_force, tenant, &PreviewSource::Head).await?;
        if let Some(key) = &args.key
            && !preview.desired.resources.contains_key(key)
        {
            bail!("{key} is not at the head of {tenant}'s branch; `plumb get` lists what is");
        }
        preview.plan.steps.clear();
        preview.plan.blocked.clear();
        preview.plan.warnings.clear();
        preview.plan.drift.retain(|drift| wanted(&drift.key));
        preview.plan.unknown.retain(|(key, _)| wanted(key));
        plans.push(preview);
    }
    let results: Vec<_> = plans.iter().map(|preview| to_json(&preview.plan, &preview.desired)).collect();
    output::print_as(common, &results, || {
        let paint = Paint::stdout(common);
        let branch =
            |tenant: &str| in_force.platform.tenants.get(tenant).map_or("main", |t| t.repository.branch.as_str());
        plans
            .iter()
            .map(|preview| plan_text(&preview.plan, branch(&preview.plan.tenant), paint))
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    let unseen = plans.iter().any(|preview| !preview.plan.unknown.is_empty());
    let drifted = plans.iter().any(|preview| preview.plan.drift.iter().any(|drift| !drift.silenced));
    Ok(match (unseen, drifted) {
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    })
}

//! Which platform is in force, and which of its tenants a command is about.

use anyhow::bail;

use crate::engine::{Engine, EngineError, PlatformStatus};

use super::args::Common;
use super::validate::{explain, print_findings};

/// The platform in force, for commands that change nothing. What is wrong with its head is told on stderr.
pub async fn platform_for_reading(engine: &Engine, common: &Common) -> anyhow::Result<PlatformStatus> {
    let in_force = engine.platform_for_reading().await.map_err(|error| explain(error, common))?;
    tell(&in_force, common);
    Ok(in_force)
}

/// The same, for commands that reconcile.
pub async fn platform(engine: &Engine, common: &Common) -> anyhow::Result<PlatformStatus> {
    let in_force = engine.platform().await.map_err(|error| explain(error, common))?;
    tell(&in_force, common);
    Ok(in_force)
}

fn tell(in_force: &PlatformStatus, common: &Common) {
    print_findings(&in_force.findings, &in_force.sources, common);
    if let (Some(rejected), false) = (&in_force.rejected, common.quiet) {
        let head = rejected.get(..12).unwrap_or(rejected);
        eprintln!("warning: the head {head} of the platform does not validate; the last good revision is in force");
    }
}

/// The tenants that are asked for: the one that is named, or all.
pub fn wanted(in_force: &PlatformStatus, common: &Common) -> anyhow::Result<Vec<String>> {
    let tenants = &in_force.platform.tenants;
    let wanted: Vec<String> = match &common.tenant {
        Some(tenant) if tenants.contains_key(tenant) => vec![tenant.clone()],
        Some(tenant) => return Err(EngineError::no_tenant(&in_force.platform, tenant).into()),
        None => tenants.keys().cloned().collect(),
    };
    if wanted.is_empty() && !common.quiet {
        eprintln!("the platform has no tenant yet; commit a Tenant document to its repository");
    }
    if let Some(environment) = &common.environment {
        let mut environments: Vec<&str> = wanted
            .iter()
            .filter_map(|tenant| tenants.get(tenant))
            .flat_map(|tenant| tenant.environments.iter().map(String::as_str))
            .collect();
        environments.sort_unstable();
        environments.dedup();
        if !environments.contains(&environment.as_str()) {
            bail!("there is no environment {environment:?}; there are {}", environments.join(", "));
        }
    }
    Ok(wanted)
}

/// The tenant that a folder is of: the one that is named, or the only one.
pub fn only(in_force: &PlatformStatus, common: &Common) -> anyhow::Result<String> {
    match wanted(in_force, common)?.as_slice() {
        [only] => Ok(only.clone()),
        [] => bail!("the platform has no tenant"),
        several => bail!("name the tenant whose folder it is with --tenant: {}", several.join(", ")),
    }
}

/// The branch that is the truth for `tenant`.
pub fn branch_of<'a>(in_force: &'a PlatformStatus, tenant: &str) -> &'a str {
    in_force.platform.tenants.get(tenant).map_or("main", |tenant| tenant.repository.branch.as_str())
}

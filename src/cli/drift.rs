//! `plumb drift`: a deep scan now, without changing or proposing anything.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::bail;
use serde_json::{Value, json};

use crate::engine::Preview;
use crate::model::ResourceKey;

use super::args::Common;
use super::house::House;
use super::output::{self, Paint, count};
use super::plan::{drift_text, headline, to_json, unknown_text};
use super::tenants;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this resource: tenant/environment/Kind/name
    key: Option<ResourceKey>,
}

/// Scans. Exits with 0 in plumb, 1 drifted, 2 when something failed or could not be seen.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let house = House::planning(common).await?;
    let in_force = tenants::platform_for_reading(&house.engine, common).await?;
    let of_key = args.key.as_ref().map(|key| key.tenant.clone());
    let asked = Common { tenant: of_key.or_else(|| common.tenant.clone()), ..common.clone() };
    let mut scans = Vec::new();
    for tenant in tenants::wanted(&in_force, &asked)? {
        let preview = house.engine.scan(&in_force, &tenant).await?;
        if let Some(key) = &args.key
            && !preview.desired.resources.contains_key(key)
        {
            bail!("{key} is not at the head of {tenant}'s branch; `plumb plan -t {tenant}` shows what is");
        }
        scans.push(Scan::of(preview, args.key.as_ref(), common.environment.as_deref()));
    }
    let results: Vec<Value> = scans.iter().map(Scan::to_json).collect();
    output::print_as(common, &results, || {
        let paint = Paint::stdout(common);
        let branch = |scan: &Scan| tenants::branch_of(&in_force, &scan.preview.plan.tenant);
        scans.iter().map(|scan| scan.text(branch(scan), paint)).collect::<Vec<_>>().join("\n")
    })?;
    let unseen = scans.iter().any(|scan| !scan.preview.plan.unknown.is_empty());
    let drifted = scans.iter().any(|scan| scan.preview.plan.drift.iter().any(|drift| !drift.silenced));
    Ok(match (unseen, drifted) {
        (true, _) => 2,
        (false, true) => 1,
        (false, false) => 0,
    })
}

/// One tenant, looked at: a preview without what is not about drift.
struct Scan {
    preview: Preview,
    /// How many resources were looked at.
    seen: usize,
}

impl Scan {
    fn of(mut preview: Preview, only: Option<&ResourceKey>, environment: Option<&str>) -> Self {
        let wanted = |key: &ResourceKey| {
            only.is_none_or(|only| only == key) && environment.is_none_or(|environment| key.environment == environment)
        };
        let plan = &mut preview.plan;
        plan.drift.retain(|drift| wanted(&drift.key));
        plan.unknown.retain(|(key, _)| wanted(key));
        let unseen: BTreeSet<&ResourceKey> = plan.unknown.iter().map(|(key, _)| key).collect();
        // Of some a part was seen, which differs.
        let differs: BTreeSet<&ResourceKey> = plan.drift.iter().map(|drift| &drift.key).collect();
        let is_seen = |key: &&ResourceKey| wanted(key) && (!unseen.contains(key) || differs.contains(key));
        let seen = preview.desired.resources.keys().filter(is_seen).count();
        Self { preview, seen }
    }

    fn to_json(&self) -> Value {
        let mut plan = to_json(&self.preview.plan, &self.preview.desired);
        json!({
            "tenant": plan["tenant"].take(), "commit": plan["commit"].take(), "seen": self.seen,
            "drift": plan["drift"].take(), "unknown": plan["unknown"].take(),
        })
    }

    fn text(&self, branch: &str, paint: Paint) -> String {
        let plan = &self.preview.plan;
        let mut text = format!("{}\n", paint.bold(&headline(plan, branch)));
        let drifts: Vec<_> = plan.drift.iter().filter(|drift| !drift.silenced).collect();
        for drift in &drifts {
            drift_text(&mut text, drift, paint);
        }
        for (key, unknown) in &plan.unknown {
            unknown_text(&mut text, key, unknown, paint);
        }
        let mut said = Vec::new();
        match (drifts.len(), self.seen, plan.unknown.len()) {
            (0, 0, 1..) => {}
            (0, seen, _) => said.push(format!("no drift in {}", count(seen, "resource"))),
            (drifted, seen, _) => said.push(format!("{drifted} of {} drifted", count(seen, "resource"))),
        }
        if !plan.unknown.is_empty() {
            said.push(format!("{} could not be seen", plan.unknown.len()));
        }
        let _ = writeln!(text, "  {}", paint.bold(&said.join(", ")));
        text
    }
}

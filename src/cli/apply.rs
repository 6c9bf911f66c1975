//! `plumb apply`: the whole sentence once, proposals too, then exit.

use anyhow::bail;
use serde_json::{Value, json};

use crate::diag;
use crate::engine::{Ask, Report, Width};
use crate::model::{ExecutionOutcome, Hold, Trigger};

use super::args::Common;
use super::house::House;
use super::output::{self, Paint, count};
use super::plan::{plan_text, to_json};
use super::{progress, tenants};

#[derive(Debug, clap::Args)]
pub struct Args {}

/// What `--environment` would have to mean here is nothing that exists: a tenant's resources are one plan.
pub const WHOLE_TENANTS: &str = "apply is about whole tenants and would not stop at an environment; leave out \
                             --environment (PLUMB_ENVIRONMENT). A window, or spec.suspend of the Tenant, keeps changes from one";

/// Applies. Exits with 0 when everything is in sync afterwards, else with 1.
pub async fn run(_: Args, common: &Common) -> anyhow::Result<u8> {
    if common.environment.is_some() {
        bail!(WHOLE_TENANTS);
    }
    let house = House::reconciling(common, progress::listener(common)).await?;
    let in_force = tenants::platform(&house.engine, common).await?;
    let tenants = tenants::wanted(&in_force, common)?;
    let mut reports = Vec::new();
    let mut failed = 0;
    for tenant in &tenants {
        let ask = Ask { trigger: Trigger::CommandLine, width: Width::Deep };
        match house.engine.reconcile(&in_force, tenant, ask).await {
            Ok(report) => reports.push(report),
            Err(error) => {
                failed += 1;
                output::print_error(&anyhow::Error::new(error), common);
            }
        }
    }
    let results: Vec<_> = reports.iter().map(report_json).collect();
    output::print_as(common, &results, || {
        let paint = Paint::stdout(common);
        reports
            .iter()
            .map(|report| report_text(report, tenants::branch_of(&in_force, &report.tenant), paint))
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    let in_sync = failed == 0 && reports.iter().all(|report| report.outcome == ExecutionOutcome::InSync);
    Ok(u8::from(!in_sync))
}

/// What became of a look, for programs.
pub fn report_json(report: &Report) -> Value {
    let mut result = to_json(&report.plan, &report.desired);
    result["outcome"] = json!(report.outcome);
    result["done"] = json!(report.done);
    result["execution"] = json!(report.execution);
    result["failed"] = report
        .failed
        .iter()
        .map(|(key, (reason, message))| json!({"key": key, "reason": reason, "message": message}))
        .collect();
    result["putOff"] = report
        .put_off
        .iter()
        .map(|(key, Hold { reason, message, until })| {
            json!({"key": key, "reason": reason, "message": message, "until": until})
        })
        .collect();
    result
}

/// The same, for people.
pub fn report_text(report: &Report, branch: &str, paint: Paint) -> String {
    let mut text = String::new();
    if !report.desired.diagnostics.is_empty() {
        text.push_str(&diag::text(
            &report.desired.diagnostics,
            &|file| report.sources.get(file).cloned(),
            paint.is_on(),
        ));
        text.push('\n');
    }
    text.push_str(&plan_text(&report.plan, branch, paint));
    for (key, (reason, message)) in &report.failed {
        text.push_str(&format!(
            "  {} {key} {}\n      {}\n",
            paint.red("x"),
            paint.red(reason.as_str()),
            output::readable(message)
        ));
    }
    for (key, hold) in &report.put_off {
        text.push_str(&format!(
            "  {} {key} {}\n      {}\n",
            paint.yellow("!"),
            paint.yellow(hold.reason.as_str()),
            output::readable(&hold.message)
        ));
    }
    let end = match report.outcome {
        ExecutionOutcome::InSync if report.done == 0 => paint.green("in sync; nothing was done"),
        ExecutionOutcome::InSync => paint.green(&format!("in sync; {} done", count(report.done, "step"))),
        ExecutionOutcome::Blocked => paint
            .yellow(&format!("{} done; what is left needs a person or time, see above", count(report.done, "step"))),
        ExecutionOutcome::Failed => {
            paint.red(&format!("{} done, {} failed", count(report.done, "step"), report.failed.len()))
        }
        ExecutionOutcome::Running | ExecutionOutcome::Interrupted => paint.red("cut short"),
    };
    text.push_str(&format!("  {end}\n"));
    text
}

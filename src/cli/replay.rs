//! `plumb replay`: the plans of an execution, made again from what was known then, and applied where somebody says so.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{anyhow, bail};
use serde_json::{Value, json};

use crate::engine::{Preview, Reapplied, Replayed};
use crate::model::{Execution, ExecutionOutcome, PlanId, Step, Summary, revision};
use crate::store::{HistoryFilter, Scope, Store};

use super::apply::{self, report_json, report_text};
use super::args::Common;
use super::history::no_execution;
use super::house::House;
use super::output::{self, Paint, count};
use super::plan::{preview_text, step_text, to_json};
use super::validate::explain;
use super::{progress, tenants};

/// How many executions before one that kept nothing are searched for one that did.
const SEARCHED: u32 = 500;

/// How many steps are shown that differ; the rest is only counted.
const STEPS_SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The execution, as `plumb history` numbers it
    execution: i64,
    /// Plan this commit, or the head of this branch, as if the tenant's repository had stood there then
    #[arg(long, value_name = "COMMIT")]
    at: Option<String>,
    /// Apply it, if that is what there is to do now
    ///
    /// That is so where the plan of the tenant's head, made now, has the id of the one that is planned again: the same
    /// steps, from the same live values, on the same objects. Else it is said what differs, and nothing is done. What is
    /// applied is the head of the tenant's branch, as by `plumb apply`: windows, approvals and suspension hold as ever, and
    /// an older commit is not gone back to.
    #[arg(long)]
    apply: bool,
}

/// Plans again and prints: 0 when the plans are those of then, else 1; with another commit always 0. What is applied ends
/// as an apply does.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let Args { execution, at, apply } = args;
    if common.server.is_some() {
        bail!("a replay reads the repositories and the state itself: leave out --server, and give --platform");
    }
    if apply && common.environment.is_some() {
        bail!(apply::WHOLE_TENANTS);
    }
    let house = match apply {
        true => House::reconciling(common, progress::listener(common)).await?,
        false => House::planning(common).await?,
    };
    let found = house.engine.replay(execution, at.as_deref()).await.map_err(|error| explain(error, common))?;
    let Some((about, replayed)) = found else { return Err(no_execution(execution)) };
    if replayed.is_empty() {
        return Err(why_nothing(house.store.as_ref(), &about).await?);
    }
    if apply {
        return apply_again(&house, &about, &replayed, common).await;
    }
    let is_same = |again: &Replayed| again.preview.plan.id == again.then;
    let plans: Vec<Value> = replayed
        .iter()
        .map(|again| {
            json!({
                "execution": about.id,
                "commit": again.commit,
                "then": again.then,
                "same": is_same(again),
                "notSeen": again.unseen,
                "plan": to_json(&again.preview.plan, &again.preview.desired),
            })
        })
        .collect();
    output::print_as(common, &plans, || text(&about, &replayed, Paint::stdout(common)))?;
    Ok(u8::from(at.is_none() && !replayed.iter().all(is_same)))
}

/// Why there is nothing to plan again, and what can be asked in its place.
async fn why_nothing(store: &dyn Store, about: &Execution) -> anyhow::Result<anyhow::Error> {
    let Execution { id, tenant, trigger, plan, outcome, .. } = about;
    let why = match (outcome, plan) {
        _ if !trigger.is_look() => "it looked at nothing: a password was shown".to_owned(),
        (ExecutionOutcome::Running, _) => "it has not ended yet".to_owned(),
        (ExecutionOutcome::InSync, Some(_)) => {
            "it found everything as it was recorded, so there was nothing to plan, and only \
                                                its timeline is kept"
                .to_owned()
        }
        (_, None) => format!("it came to no plan, and ended {outcome:?}"),
        (_, Some(_)) => "what its plan was made of is not there: it was more than is kept".to_owned(),
    };
    let filter = HistoryFilter { looks: true, before: Some(*id), limit: SEARCHED, ..HistoryFilter::default() };
    let earlier = store.read(Scope::Tenant(tenant.clone())).await?.executions(&filter).await?;
    let mut before = None;
    for earlier in earlier.iter().filter(|earlier| found_something(earlier)) {
        // Of a large tenant less is kept than its history.
        let mut tx = store.read(Scope::Tenant(tenant.clone())).await?;
        if !tx.plan_inputs(earlier.id).await?.is_empty() {
            before = Some(format!("; `plumb replay {}` plans the last before it that found something", earlier.id));
            break;
        }
    }
    Ok(anyhow!(
        "execution {id} of {tenant} cannot be planned again: {why}. `plumb timeline {id}` shows what it saw, `plumb plan -t \
         {tenant}` what there is to do now{}",
        before.unwrap_or_default()
    ))
}

/// Whether an execution kept what its plan was made of, as far as can be told from what came of it.
fn found_something(execution: &Execution) -> bool {
    let Summary { create, update, replace, delete, adopt, unchanged: _ } = execution.summary;
    execution.plan.is_some()
        && (create + update + replace + delete + adopt > 0 || execution.outcome == ExecutionOutcome::Blocked)
}

/// Applies what was planned again, where that is what there is to do.
async fn apply_again(house: &House, about: &Execution, replayed: &[Replayed], common: &Common) -> anyhow::Result<u8> {
    let in_force = tenants::platform(&house.engine, common).await?;
    let branch = tenants::branch_of(&in_force, &about.tenant);
    match house.engine.apply_again(&in_force, about, replayed).await? {
        Reapplied::Done(report) => {
            let result = report_json(&report);
            output::print_as(common, &[result], || report_text(&report, branch, Paint::stdout(common)))?;
            Ok(u8::from(report.outcome != ExecutionOutcome::InSync))
        }
        Reapplied::Differs(now) => bail!(what_differs(about, replayed, &now, branch)),
    }
}

/// What there is to do now beside what was planned again.
fn what_differs(about: &Execution, replayed: &[Replayed], now: &Preview, branch: &str) -> String {
    let ids: BTreeSet<&PlanId> = replayed.iter().map(|again| &again.preview.plan.id).collect();
    let ids: Vec<String> = ids.into_iter().map(ToString::to_string).collect();
    let at = now.plan.commit.as_deref().map(|commit| format!(" at {}", revision(branch, commit))).unwrap_or_default();
    let mut text = format!(
        "nothing is applied: what there is to do for {} now{at} is plan {}, and not {} of execution {}",
        about.tenant,
        now.plan.id,
        ids.join(" or "),
        about.id
    );
    let then: Vec<&Step> = replayed.iter().flat_map(|again| again.preview.plan.all_steps()).collect();
    let now: Vec<&Step> = now.plan.all_steps().collect();
    let mut told = false;
    for (name, steps, others) in [("only then", &then, &now), ("only now", &now, &then)] {
        let only: Vec<&Step> =
            steps.iter().copied().filter(|step| !others.iter().any(|other| does_the_same(step, other))).collect();
        if only.is_empty() {
            continue;
        }
        told = true;
        let _ = write!(text, "\n{name}:");
        for step in only.iter().take(STEPS_SHOWN) {
            let mut said = String::new();
            step_text(&mut said, step, Paint::none());
            let _ = write!(text, "\n{}", said.trim_end());
        }
        if only.len() > STEPS_SHOWN {
            let _ = write!(text, "\n  and {} more", only.len() - STEPS_SHOWN);
        }
    }
    if !told {
        text.push_str("\nthe changes are the same, on objects that are others by now, or in another order");
    }
    let _ = write!(text, "\n`plumb plan -t {0}` shows it whole, and `plumb apply -t {0}` applies it", about.tenant);
    text
}

/// Whether two steps change the same on objects of the same name.
fn does_the_same(one: &Step, other: &Step) -> bool {
    let what = |step: &Step| {
        let Step { key, action, provider, object_name, destructive, rotate, .. } = step.clone();
        (key, action, provider, object_name, destructive, rotate)
    };
    one.changes == other.changes && what(one) == what(other)
}

fn text(about: &Execution, replayed: &[Replayed], paint: Paint) -> String {
    let Execution { id, tenant, started_at, trigger, .. } = about;
    let mut text = format!(
        "{}\n",
        paint.bold(&format!(
            "#{id} {tenant} at {} ({trigger:?}), planned again from what was known then; nothing is applied",
            started_at.format("%F %TZ")
        ))
    );
    for (number, again) in (1..).zip(replayed) {
        text.push('\n');
        if replayed.len() > 1 {
            let _ = writeln!(text, "{}", paint.dim(&format!("plan {number} of {}", replayed.len())));
        }
        text.push_str(&preview_text(&again.preview, &again.branch, paint));
        if !again.unseen.is_empty() {
            let _ = writeln!(
                text,
                "  {}",
                paint.yellow(&format!(
                    "{} that the commit has otherwise were not looked at then, so the plan leaves them out",
                    count(again.unseen.len(), "resource")
                ))
            );
            for key in &again.unseen {
                let _ = writeln!(text, "      {key}");
            }
        }
        let verdict = match again.preview.plan.id == again.then {
            true => paint.green("the plan of then"),
            false => paint.yellow(&format!(
                "another plan than then: {} at {}",
                again.then,
                revision(&again.branch, &again.commit)
            )),
        };
        let _ = writeln!(text, "  {verdict}");
    }
    text
}

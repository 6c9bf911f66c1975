//! `plumb replay`: the plans of an execution, made again from what was known then.

use std::fmt::Write as _;

use anyhow::bail;
use serde_json::{Value, json};

use crate::engine::Replayed;
use crate::model::{Execution, revision};

use super::args::Common;
use super::history::no_execution;
use super::house::House;
use super::output::{self, Paint, count};
use super::plan::{preview_text, to_json};
use super::validate::explain;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The execution, as `plumb history` numbers it
    execution: i64,
    /// Plan this commit, or the head of this branch, as if the tenant's repository had stood there then
    #[arg(long, value_name = "COMMIT")]
    at: Option<String>,
}

/// Plans again and prints: 0 when the plans are those of then, else 1; with another commit always 0.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let Args { execution, at } = args;
    if common.server.is_some() {
        bail!("a replay reads the repositories and the state itself: leave out --server, and give --platform");
    }
    let house = House::planning(common).await?;
    let found = house.engine.replay(execution, at.as_deref()).await.map_err(|error| explain(error, common))?;
    let Some((about, replayed)) = found else { return Err(no_execution(execution)) };
    if replayed.is_empty() {
        bail!(
            "execution {execution} of {} kept nothing to plan again: it found everything as it was recorded, never came \
             to a plan, or was of more than is kept; `plumb timeline {execution}` shows what it saw",
            about.tenant
        );
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

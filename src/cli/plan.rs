//! `plumb plan`: what an apply would change.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::diag;
use crate::engine::{Preview, PreviewSource};
use crate::model::{
    Action, Change, DesiredState, Diagnostic, Drift, DriftMode, Plan, ResourceKey, Step, Unknown, revision,
};

use super::args::Common;
use super::house::House;
use super::output::{self, Paint, count, readable};
use super::tenants;
use crate::validate::codes;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Plan this branch of the tenant's repository, as it would be once merged
    #[arg(long, value_name = "BRANCH", conflicts_with = "dir")]
    r#ref: Option<String>,
    /// Plan this folder as it stands, a working copy of the tenant's repository; what it lacks would be removed
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Exit with 0 for no change, 2 for changes (or something held), 1 for errors (or something that cannot be seen)
    #[arg(long)]
    detailed_exitcode: bool,
}

/// Plans and prints.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let house = House::planning(common).await?;
    let in_force = tenants::platform_for_reading(&house.engine, common).await?;
    let source = match (&args.r#ref, args.dir) {
        (Some(branch), _) => PreviewSource::Branch(branch.clone()),
        (None, Some(folder)) => PreviewSource::Folder(folder),
        (None, None) => PreviewSource::Head,
    };
    let tenants = match &source {
        PreviewSource::Folder(_) => vec![tenants::only(&in_force, common)?],
        PreviewSource::Head | PreviewSource::Branch(_) => tenants::wanted(&in_force, common)?,
    };
    let (mut previews, mut failed) = (Vec::new(), 0);
    for tenant in &tenants {
        match house.engine.preview(&in_force, tenant, &source).await {
            Ok(mut preview) => {
                if let Some(environment) = &common.environment {
                    keep_environment(&mut preview, environment);
                }
                previews.push(preview);
            }
            Err(error) if tenants.len() > 1 => {
                failed += 1;
                output::print_error(&anyhow::Error::new(error).context(format!("tenant {tenant}")), common);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let plans: Vec<Value> = previews.iter().map(|preview| to_json(&preview.plan, &preview.desired)).collect();
    output::print_as(common, &plans, || {
        let paint = Paint::stdout(common);
        previews
            .iter()
            .map(|preview| {
                let merged = tenants::branch_of(&in_force, &preview.plan.tenant);
                preview_text(preview, args.r#ref.as_deref().unwrap_or(merged), paint)
            })
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    Ok(exit_code(&previews, failed, args.detailed_exitcode))
}

/// Leaves only what is about one environment. The plan's id stays that of the whole plan: it is what can be approved.
fn keep_environment(preview: &mut Preview, environment: &str) {
    let Preview { plan, desired, sources: _ } = preview;
    let within = |key: &ResourceKey| key.environment == environment;
    plan.steps.retain(|step| within(&step.key));
    plan.blocked.retain(|blocked| within(&blocked.key));
    plan.drift.retain(|drift| within(&drift.key));
    plan.unknown.retain(|(key, _)| within(key));
    plan.warnings.retain(|(key, _, _)| within(key));
    let busy: BTreeSet<&ResourceKey> = plan
        .steps
        .iter()
        .map(|step| &step.key)
        .chain(plan.blocked.iter().map(|blocked| &blocked.key))
        .chain(plan.unknown.iter().map(|(key, _)| key))
        .collect();
    plan.unchanged = desired.resources.keys().filter(|key| within(key) && !busy.contains(key)).count();
}

/// Whether a finding is about a document that cannot be used; what a policy or a quota keeps back is only held.
fn is_unusable(finding: &Diagnostic) -> bool {
    finding.is_error() && ![codes::POLICY_DENIED, codes::QUOTA_EXCEEDED].contains(&finding.code)
}

fn exit_code(previews: &[Preview], failed: usize, detailed: bool) -> u8 {
    let unseen = previews
        .iter()
        .any(|preview| !preview.plan.unknown.is_empty() || preview.desired.diagnostics.iter().any(is_unusable));
    let changes = previews.iter().any(|preview| !preview.plan.is_in_sync());
    match (failed > 0, detailed) {
        (true, _) => 1,
        (false, true) if unseen => 1,
        (false, true) if changes => 2,
        (false, _) => 0,
    }
}

/// The contract's form (design, section 7).
pub fn to_json(plan: &Plan, desired: &DesiredState) -> Value {
    let step = |step: &Step| {
        json!({
            "key": step.key, "action": step.action, "changes": step.changes,
            "dependsOn": step.depends_on, "destructive": step.destructive,
        })
    };
    let diagnostics = diag::json(&desired.diagnostics);
    json!({
        "id": plan.id,
        "tenant": plan.tenant,
        "commit": plan.commit,
        "steps": plan.steps.iter().map(step).collect::<Vec<_>>(),
        "blocked": plan.blocked.iter().map(|blocked| {
            json!({"key": blocked.key, "reason": blocked.reason, "message": blocked.message, "until": blocked.until})
        }).collect::<Vec<_>>(),
        "drift": plan.drift.iter().map(|drift| {
            json!({"key": drift.key, "mode": drift.mode, "missing": drift.missing, "fields": drift.fields})
        }).collect::<Vec<_>>(),
        "unknown": plan.unknown.iter().map(|(key, unknown)| {
            json!({"key": key, "reason": unknown.reason, "message": unknown.message})
        }).collect::<Vec<_>>(),
        "warnings": plan.warnings.iter().map(|(key, reason, message)| {
            json!({"key": key, "reason": reason, "message": message})
        }).collect::<Vec<_>>(),
        "summary": plan.summary(),
        "diagnostics": diagnostics["diagnostics"],
    })
}

/// The findings and the plan of a preview.
pub fn preview_text(preview: &Preview, branch: &str, paint: Paint) -> String {
    let Preview { plan, desired, sources } = preview;
    let mut text = String::new();
    if !desired.diagnostics.is_empty() {
        text.push_str(&diag::text(&desired.diagnostics, &|file| sources.get(file).cloned(), paint.is_on()));
        text.push('\n');
    }
    text.push_str(&plan_text(plan, branch, paint));
    text
}

/// A plan as people read it.
pub fn plan_text(plan: &Plan, branch: &str, paint: Paint) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", paint.bold(&format!("{}, plan {}", headline(plan, branch), plan.id)));
    for step in &plan.steps {
        step_text(&mut text, step, paint);
    }
    for drift in plan.drift.iter().filter(|drift| !drift.silenced) {
        drift_text(&mut text, drift, paint);
    }
    for blocked in &plan.blocked {
        let what = blocked.step.as_ref().map(|step| format!("{} ", step.action)).unwrap_or_default();
        let _ =
            writeln!(text, "  {} {what}{} {}", paint.yellow("!"), blocked.key, paint.yellow(blocked.reason.as_str()));
        let _ = writeln!(text, "      {}", readable(&blocked.message));
    }
    for (key, unknown) in &plan.unknown {
        unknown_text(&mut text, key, unknown, paint);
    }
    for (key, reason, message) in &plan.warnings {
        let _ = writeln!(text, "  {} {key} {reason}\n      {}", paint.yellow("i"), readable(message));
    }
    let summary = plan.summary();
    if plan.is_in_sync() {
        let _ = writeln!(text, "  nothing to do: {} in plumb", count(summary.unchanged, "resource"));
        return text;
    }
    let parts = [
        (summary.create, "to create"),
        (summary.update, "to update"),
        (summary.replace, "to replace"),
        (summary.delete, "to delete"),
        (summary.adopt, "to adopt"),
        (plan.drift.iter().filter(|drift| !drift.silenced).count(), "drifted"),
        (plan.blocked.len(), "held"),
        (plan.unknown.len(), "unknown"),
        (summary.unchanged.saturating_sub(only_drifted(plan)), "unchanged"),
    ];
    let said: Vec<String> =
        parts.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")).collect();
    let _ = writeln!(text, "  {}", paint.bold(&said.join(", ")));
    text
}

/// Resources whose only news is that they drifted. The plan counts them among those that need no step.
fn only_drifted(plan: &Plan) -> usize {
    let has_step = |drift: &&Drift| {
        plan.steps.iter().any(|step| step.key == drift.key) || plan.blocked.iter().any(|b| b.key == drift.key)
    };
    plan.drift.iter().filter(|drift| !drift.silenced && !drift.missing && !has_step(drift)).count()
}

/// Whose plan it is, and of which revision.
pub fn headline(plan: &Plan, branch: &str) -> String {
    let at = plan.commit.as_ref().map(|commit| revision(branch, commit)).unwrap_or_else(|| "a working copy".to_owned());
    format!("{} at {at}", plan.tenant)
}

/// What could not be seen, and why.
pub fn unknown_text(text: &mut String, key: &ResourceKey, unknown: &Unknown, paint: Paint) {
    let _ = writeln!(text, "  {} {key} {}", paint.red("?"), paint.red(unknown.reason.as_str()));
    let _ = writeln!(text, "      {}", readable(&unknown.message));
}

/// One step, with what it changes and loses.
pub fn step_text(text: &mut String, step: &Step, paint: Paint) {
    let sign = match step.action {
        Action::Create => paint.green("+"),
        Action::Update => paint.yellow("~"),
        Action::Replace => paint.red("±"),
        Action::Delete => paint.red("-"),
        Action::Adopt => paint.cyan("@"),
    };
    let _ = writeln!(text, "  {sign} {} {} on {} ({})", step.action, step.key, step.provider, step.object_name);
    for Change { path, from, to } in &step.changes {
        let name = path.as_str().trim_start_matches("/spec/").replace('/', ".");
        // A member has no default: it goes.
        let without = if step.key.kind.info().is_destructive(path) { "(removed)" } else { "(default)" };
        let to = to.as_ref().map_or_else(|| without.to_owned(), ToString::to_string);
        let _ = match from {
            None => writeln!(text, "      {name}: {}", readable(&to)),
            Some(from) => writeln!(text, "      {name}: {} -> {}", readable(&from.to_string()), readable(&to)),
        };
    }
    if step.rotate.is_some() && step.action == Action::Update {
        let _ = writeln!(text, "      new passwords for all roles");
    }
    for loss in &step.destructive {
        let _ = writeln!(text, "      {}", paint.red(&readable(loss)));
    }
}

/// One drift, field by field, and what becomes of it.
pub fn drift_text(text: &mut String, drift: &Drift, paint: Paint) {
    let _ = writeln!(text, "  {} drift {}", paint.cyan("≠"), drift.key);
    if drift.missing {
        let _ = writeln!(text, "      the object is gone from the live system");
    }
    for field in &drift.fields {
        let name = field.path.as_str().trim_start_matches("/spec/").replace('/', ".");
        let say =
            |value: &Option<Value>| readable(&value.as_ref().map_or_else(|| "absent".to_owned(), Value::to_string));
        let base = match (&field.base, field.conflict) {
            (Some(_), true) => format!(", before {}", say(&field.base)),
            _ => String::new(),
        };
        let _ = writeln!(text, "      {name}: git {}, live {}{base}", say(&field.git), say(&field.live));
    }
    let becomes = match (drift.mode, drift.missing) {
        (DriftMode::Propose, false) => {
            "a person decides: where YAML can say it, plumb proposes a branch; merge it to accept the live value, delete it \
             to restore git's"
        }
        (DriftMode::Propose, true) => {
            "a person decides: plumb proposes a branch that removes the document; merge it to agree, delete it to keep the \
             document"
        }
        (DriftMode::Revert, false) => "git's value is put back (drift: revert)",
        (DriftMode::Revert, true) => "it holds no data and is made again",
        (DriftMode::Observe, _) => "only recorded (drift: observe)",
    };
    let _ = writeln!(text, "      {}", paint.dim(becomes));
}

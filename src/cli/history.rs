//! `plumb history`, `timeline` and `compare`: what was looked at, and what came of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{anyhow, bail};
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;

use crate::engine::view::{self, EventFilter, EventView, ExecutionDetail, ExecutionFilter, ExecutionView, Page};
use crate::model::{Action, Change, EventKind, ExecutionOutcome, ResourceKey, Summary, SystemClock};

use super::args::Common;
use super::output::{self, Paint, readable, table};
use super::read::{age, expect_known, line_of, tell_of_nothing};
use super::{house, remote};

/// How many events are asked for at once; a server gives no more.
const EVENTS_AT_ONCE: u32 = 1_000;

#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// A tenant, or a resource: tenant/environment/Kind/name; everything, when left out
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    what: Option<String>,
    /// At most this many, the newest
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only those with a smaller number: the page before
    #[arg(long, value_name = "NUMBER")]
    before: Option<i64>,
}

#[derive(Debug, clap::Args)]
pub struct TimelineArgs {
    /// The execution, as `plumb history` numbers it
    execution: i64,
    /// Only events with a smaller number: the page before
    #[arg(long, value_name = "NUMBER")]
    before: Option<i64>,
}

#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// The earlier execution, as `plumb history` numbers it
    first: i64,
    /// The later one
    second: i64,
}

/// What is looked at is a tenant, in all of its environments.
const WHOLE_TENANTS: &str = "history is of looks at whole tenants and does not stop at an environment; leave out \
                             --environment (PLUMB_ENVIRONMENT), name a resource of it, or see plumb events --environment";

/// `plumb history`
pub async fn history(args: HistoryArgs, common: &Common) -> anyhow::Result<u8> {
    let HistoryArgs { what, limit, before } = args;
    let (tenant, key) = match what {
        Some(what) if what.contains('/') => {
            let key: ResourceKey = what.parse()?;
            (Some(key.tenant.clone()), Some(key))
        }
        Some(tenant) => (Some(tenant), None),
        None => (common.tenant.clone(), None),
    };
    if common.environment.is_some() && common.environment != key.as_ref().map(|key| key.environment.clone()) {
        bail!(WHOLE_TENANTS);
    }
    let executions: Vec<ExecutionView> = match &common.server {
        Some(server) => {
            let query = [
                ("tenant", tenant.clone().unwrap_or_default()),
                ("key", key.as_ref().map(ToString::to_string).unwrap_or_default()),
                ("before", before.map(|before| before.to_string()).unwrap_or_default()),
                ("limit", limit.to_string()),
            ];
            remote::get::<Page<ExecutionView>>(server, &["executions"], &query).await?.items
        }
        None => {
            let filter = ExecutionFilter { tenant: tenant.clone(), key: key.clone(), before, limit };
            view::executions(house::reading(common).await?.as_ref(), &filter, &SystemClock).await?
        }
    };
    match &key {
        _ if !executions.is_empty() || before.is_some() => {}
        Some(key) => tell_of_nothing(common, key).await?,
        None => expect_known(common, tenant.as_deref()).await?,
    }
    output::print_as(common, &executions, || history_text(&executions, Paint::stdout(common)))?;
    Ok(0)
}

/// `plumb timeline`: 0 when it ended in sync, else 1.
pub async fn timeline(args: TimelineArgs, common: &Common) -> anyhow::Result<u8> {
    let mut detail = detail(common, args.execution).await?;
    if let Some(before) = args.before {
        detail.events = events_before(common, args.execution, before).await?;
        // The oldest of a full page is left to the next, so that there is one.
        let next = (detail.events.len() >= EVENTS_AT_ONCE as usize).then(|| detail.events.pop());
        detail.events.reverse();
        detail.earlier = detail.events.first().filter(|_| next.is_some()).map(|view| view.event.id);
    }
    output::print_as(common, &detail, || timeline_text(&detail, Paint::stdout(common)))?;
    Ok(u8::from(detail.view.execution.outcome != ExecutionOutcome::InSync))
}

/// `plumb compare`: 0 when the two did and found the same, else 1.
pub async fn compare(args: CompareArgs, common: &Common) -> anyhow::Result<u8> {
    let (first, second) = (whole(common, args.first).await?, whole(common, args.second).await?);
    let comparison = Comparison::of(&first, &second)?;
    output::print_as(common, &comparison, || comparison.text(Paint::stdout(common)))?;
    Ok(u8::from(!comparison.is_same()))
}

async fn detail(common: &Common, id: i64) -> anyhow::Result<ExecutionDetail> {
    if let Some(server) = &common.server {
        return remote::get(server, &["executions", &id.to_string()], &[]).await;
    }
    match view::execution(house::reading(common).await?.as_ref(), id, &SystemClock).await? {
        Some(detail) => Ok(detail),
        None => Err(no_execution(id)),
    }
}

/// An execution with all of its timeline, however long that is.
async fn whole(common: &Common, id: i64) -> anyhow::Result<ExecutionDetail> {
    let mut detail = detail(common, id).await?;
    while let Some(before) = detail.earlier {
        let mut events = events_before(common, id, before).await?;
        events.reverse();
        detail.earlier = events.first().map(|view| view.event.id);
        events.append(&mut detail.events);
        detail.events = events;
    }
    Ok(detail)
}

/// The page of events before one of an execution, newest first; empty where that is the first.
async fn events_before(common: &Common, execution: i64, before: i64) -> anyhow::Result<Vec<EventView>> {
    if let Some(server) = &common.server {
        let query = [
            ("execution", execution.to_string()),
            ("before", before.to_string()),
            ("limit", EVENTS_AT_ONCE.to_string()),
        ];
        return Ok(remote::get::<Page<EventView>>(server, &["events"], &query).await?.items);
    }
    let limit = EVENTS_AT_ONCE;
    let filter = EventFilter { execution: Some(execution), before: Some(before), limit, ..EventFilter::default() };
    Ok(view::events(house::reading(common).await?.as_ref(), &filter, &SystemClock).await?)
}

/// There is no such execution.
pub fn no_execution(id: i64) -> anyhow::Error {
    anyhow!(
        "there is no execution {id}; `plumb history` lists them, and old ones are forgotten after the platform's \
         retention"
    )
}

fn history_text(executions: &[ExecutionView], paint: Paint) -> String {
    if executions.is_empty() {
        return "no executions\n".to_owned();
    }
    let rows: Vec<Vec<String>> = executions
        .iter()
        .map(|ExecutionView { execution, age_seconds, duration_millis }| {
            vec![
                execution.id.to_string(),
                execution.tenant.clone(),
                execution.started_at.format("%F %TZ").to_string(),
                age(Some(*age_seconds)),
                format!("{:?}", execution.trigger),
                short(execution.commit.as_deref()),
                execution.plan.as_ref().map(ToString::to_string).unwrap_or_default(),
                format!("{:?}", execution.outcome),
                done(&execution.summary),
                duration_millis.map(|millis| format!("{millis} ms")).unwrap_or_default(),
            ]
        })
        .collect();
    let mut text =
        table(&["#", "TENANT", "STARTED", "AGE", "WHY", "COMMIT", "PLAN", "OUTCOME", "PLANNED", "TOOK"], &rows);
    let _ = writeln!(text, "{}", paint.dim("plumb timeline NUMBER shows one of them"));
    text
}

fn short(commit: Option<&str>) -> String {
    const DIGITS: usize = 10;
    commit.map(|commit| commit.get(..DIGITS).unwrap_or(commit).to_owned()).unwrap_or_default()
}

/// The steps of a plan, counted.
fn done(summary: &Summary) -> String {
    let Summary { create, update, replace, delete, adopt, unchanged: _ } = summary;
    let parts = [
        (create, Action::Create),
        (update, Action::Update),
        (replace, Action::Replace),
        (delete, Action::Delete),
        (adopt, Action::Adopt),
    ];
    let said: Vec<String> =
        parts.iter().filter(|(count, _)| **count > 0).map(|(count, action)| format!("{count} {action}")).collect();
    if said.is_empty() { "nothing".to_owned() } else { said.join(", ") }
}

fn headline(view: &ExecutionView, paint: Paint) -> String {
    let execution = &view.execution;
    let outcome = format!("{:?}", execution.outcome);
    let outcome = match execution.outcome {
        ExecutionOutcome::InSync => paint.green(&outcome),
        ExecutionOutcome::Failed | ExecutionOutcome::Interrupted => paint.red(&outcome),
        ExecutionOutcome::Blocked | ExecutionOutcome::Running => paint.yellow(&outcome),
    };
    let took = view.duration_millis.map(|millis| format!(", took {millis} ms")).unwrap_or_default();
    format!(
        "#{} {} at {} ({:?}): {outcome}, planned: {}{took}",
        execution.id,
        execution.tenant,
        execution.started_at.format("%F %TZ"),
        execution.trigger,
        done(&execution.summary)
    )
}

fn timeline_text(detail: &ExecutionDetail, paint: Paint) -> String {
    let execution = &detail.view.execution;
    let mut text = format!("{}\n", paint.bold(&headline(&detail.view, paint)));
    if let Some(commit) = &execution.commit {
        let _ = writeln!(text, "commit {commit}");
    }
    if let Some(plan) = &execution.plan {
        let _ = writeln!(text, "plan   {plan}");
    }
    if let Some(before) = detail.earlier {
        let way = format!("plumb timeline {} --before {before}", execution.id);
        let _ = writeln!(text, "{}", paint.dim(&format!("events before {before} are left out: {way}")));
    }
    for EventView { event, level, text: told, .. } in &detail.events {
        let offset = (event.at - execution.started_at).num_milliseconds();
        let about = event.key.as_ref().map(ToString::to_string).unwrap_or_else(|| event.tenant.clone());
        let told = line_of(told, *level, paint);
        let _ = writeln!(text, "  {} {about}  {told}", paint.dim(&format!("{offset:+} ms")));
        if let EventKind::StepStarted { changes, destructive, .. } = &event.kind {
            for change in changes {
                let _ = writeln!(text, "               {}", readable(&said(change)));
            }
            for loss in destructive {
                let _ = writeln!(text, "               {}", paint.red(&readable(loss)));
            }
        }
    }
    text
}

/// A field, with what it was and what it is to be.
fn said(Change { path, from, to }: &Change) -> String {
    let name = path.as_str().trim_start_matches("/spec/").replace('/', ".");
    let say = |value: &Option<serde_json::Value>| value.as_ref().map_or("-".to_owned(), ToString::to_string);
    format!("{name}: {} -> {}", say(from), say(to))
}

/// What two executions of one tenant did and found otherwise.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Comparison {
    first: ExecutionView,
    second: ExecutionView,
    same_commit: bool,
    same_plan: bool,
    same_outcome: bool,
    /// What only one of them tells, or more often than the other: as often as that.
    differences: Vec<Difference>,
}

/// What one execution tells and the other does not.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Difference {
    /// `None` is the whole tenant.
    key: Option<ResourceKey>,
    /// The execution that tells it.
    execution: i64,
    text: String,
}

impl Comparison {
    fn of(first: &ExecutionDetail, second: &ExecutionDetail) -> anyhow::Result<Self> {
        let (a, b) = (&first.view.execution, &second.view.execution);
        if a.tenant != b.tenant {
            bail!(
                "execution {} is of tenant {}, and {} of {}; compare two of one tenant",
                a.id,
                a.tenant,
                b.id,
                b.tenant
            );
        }
        let (told_first, told_second) = (told(first), told(second));
        let only = |told: &Told, other: &Told, execution: i64| -> Vec<Difference> {
            let more = |told: &About, times: usize| times.saturating_sub(other.get(told).copied().unwrap_or_default());
            let often = told.iter().flat_map(|(told, times)| std::iter::repeat_n(told.clone(), more(told, *times)));
            often.map(|(key, text)| Difference { key, execution, text }).collect()
        };
        let mut differences = only(&told_first, &told_second, a.id);
        differences.extend(only(&told_second, &told_first, b.id));
        differences.sort();
        Ok(Self {
            same_commit: a.commit == b.commit,
            same_plan: a.plan == b.plan,
            same_outcome: a.outcome == b.outcome,
            first: first.view.clone(),
            second: second.view.clone(),
            differences,
        })
    }

    fn is_same(&self) -> bool {
        self.same_commit && self.same_plan && self.same_outcome && self.differences.is_empty()
    }

    fn text(&self, paint: Paint) -> String {
        let mut text = format!("- {}\n+ {}\n", headline(&self.first, paint), headline(&self.second, paint));
        let (a, b) = (&self.first.execution, &self.second.execution);
        let mut line = |name: &str, same: bool, first: String, second: String| {
            let _ = match same {
                true => writeln!(text, "  {name}: {first}, the same"),
                false => writeln!(text, "  {name}: {} -> {}", or_none(first), or_none(second)),
            };
        };
        line("commit", self.same_commit, short(a.commit.as_deref()), short(b.commit.as_deref()));
        let plan = |execution: &crate::model::Execution| execution.plan.as_ref().map(ToString::to_string);
        line("plan", self.same_plan, plan(a).unwrap_or_default(), plan(b).unwrap_or_default());
        line("outcome", self.same_outcome, format!("{:?}", a.outcome), format!("{:?}", b.outcome));
        if self.is_same() {
            text.push_str("  both did and found the same\n");
        }
        for Difference { key, execution, text: told } in &self.differences {
            let about = key.as_ref().map_or_else(|| a.tenant.clone(), ToString::to_string);
            let told = format!("{about}  {}", readable(told).replace('\n', " "));
            let _ = match *execution == a.id {
                true => writeln!(text, "{}", paint.red(&format!("- {told}"))),
                false => writeln!(text, "{}", paint.green(&format!("+ {told}"))),
            };
        }
        text
    }
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

/// What is told, and what it is about.
type About = (Option<ResourceKey>, String);

/// What an execution tells, and how often.
type Told = BTreeMap<About, usize>;

/// What an execution did and found, less what differs from run to run.
fn told(detail: &ExecutionDetail) -> Told {
    let mut told = Told::new();
    for view in &detail.events {
        let text = match &view.event.kind {
            EventKind::SourceRead { .. } | EventKind::Planned { .. } => continue,
            EventKind::StepStarted { changes, .. } if !changes.is_empty() => {
                let changes: Vec<String> = changes.iter().map(said).collect();
                format!("{} ({})", view.text, changes.join(", "))
            }
            EventKind::StepDone { action, millis: _ } => format!("{action} done"),
            EventKind::StepFailed { action, reason, message, millis: _ } => {
                format!("{action} failed, {reason}: {message}")
            }
            _ => view.text.clone(),
        };
        *told.entry((view.event.key.clone(), text)).or_default() += 1;
    }
    told
}

//! Executions and their timelines.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::age_seconds;
use super::facts::scope_of;
use crate::model::{Action, Clock, Event, EventKind, Execution, ProposalStatus, ResourceKey, Summary};
use crate::store::{HistoryFilter, Scope, Store, StoreError};

/// How many events of one execution are shown; the rest is asked for by pages.
const EXECUTION_EVENTS: u32 = 1000;

/// Which executions; newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecutionFilter {
    pub tenant: Option<String>,
    /// Only those that have an event of this resource.
    pub key: Option<ResourceKey>,
    /// Only those with a smaller number: the next page.
    pub before: Option<i64>,
    pub limit: u32,
}

/// Which events; newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub tenant: Option<String>,
    /// Only events of resources of this environment.
    pub environment: Option<String>,
    pub execution: Option<i64>,
    pub key: Option<ResourceKey>,
    /// Only those with a smaller number: the next page.
    pub before: Option<i64>,
    pub limit: u32,
}

/// How an event is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Info,
    Good,
    Warning,
    Bad,
}

/// One execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionView {
    #[serde(flatten)]
    pub execution: Execution,
    /// Since it started.
    pub age_seconds: u64,
    /// `None` while it runs.
    pub duration_millis: Option<u64>,
}

impl ExecutionView {
    pub(super) fn new(execution: Execution, now: DateTime<Utc>) -> Self {
        let duration = execution.finished_at.map(|at| (at - execution.started_at).num_milliseconds());
        Self {
            age_seconds: age_seconds(now, execution.started_at),
            duration_millis: duration.map(|millis| u64::try_from(millis).unwrap_or(0)),
            execution,
        }
    }
}

/// One execution with its timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecutionDetail {
    #[serde(flatten)]
    pub view: ExecutionView,
    /// Oldest first, as it happened.
    pub events: Vec<EventView>,
    /// There were more events before the first of `events`; ask for those with a smaller number than this.
    pub earlier: Option<i64>,
}

/// One line of a timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    #[serde(flatten)]
    pub event: Event,
    pub age_seconds: u64,
    pub level: Level,
    /// What happened, in a sentence.
    pub text: String,
}

impl EventView {
    pub(super) fn new(event: Event, now: DateTime<Utc>) -> Self {
        let (level, text) = describe(&event.kind);
        Self { age_seconds: age_seconds(now, event.at), level, text, event }
    }
}

/// Executions, newest first.
///
/// # Errors
/// When the store does not answer.
pub async fn executions(
    store: &dyn Store,
    filter: &ExecutionFilter,
    clock: &dyn Clock,
) -> Result<Vec<ExecutionView>, StoreError> {
    let ExecutionFilter { tenant, key, before, limit } = filter;
    let history = HistoryFilter { key: key.clone(), before: *before, limit: *limit, ..HistoryFilter::default() };
    let executions = store.read(scope_of(tenant.as_deref())).await?.executions(&history).await?;
    let now = clock.now();
    Ok(executions.into_iter().map(|execution| ExecutionView::new(execution, now)).collect())
}

/// One execution with its events.
///
/// # Errors
/// When the store does not answer.
pub async fn execution(store: &dyn Store, id: i64, clock: &dyn Clock) -> Result<Option<ExecutionDetail>, StoreError> {
    let mut tx = store.read(Scope::Platform).await?;
    let one = HistoryFilter { execution: Some(id), limit: 1, ..HistoryFilter::default() };
    let Some(execution) = tx.executions(&one).await?.into_iter().find(|execution| execution.id == id) else {
        return Ok(None);
    };
    // With one more, which says that there are more.
    let timeline = HistoryFilter { limit: EXECUTION_EVENTS + 1, ..one };
    let mut events = tx.events(&timeline).await?;
    let has_more = events.len() > EXECUTION_EVENTS as usize;
    events.truncate(EXECUTION_EVENTS as usize);
    events.reverse();
    let now = clock.now();
    Ok(Some(ExecutionDetail {
        view: ExecutionView::new(execution, now),
        earlier: events.first().filter(|_| has_more).map(|event| event.id),
        events: events.into_iter().map(|event| EventView::new(event, now)).collect(),
    }))
}

/// Events, newest first.
///
/// # Errors
/// When the store does not answer.
pub async fn events(store: &dyn Store, filter: &EventFilter, clock: &dyn Clock) -> Result<Vec<EventView>, StoreError> {
    let EventFilter { tenant, environment, execution, key, before, limit } = filter;
    let history = HistoryFilter {
        execution: *execution,
        key: key.clone(),
        environment: environment.clone(),
        looks: false,
        before: *before,
        limit: *limit,
    };
    let events = store.read(scope_of(tenant.as_deref())).await?.events(&history).await?;
    let now = clock.now();
    Ok(events.into_iter().map(|event| EventView::new(event, now)).collect())
}

/// What an event says, in a sentence, and how it is to be read.
pub fn describe(kind: &EventKind) -> (Level, String) {
    match kind {
        EventKind::SourceRead { commit, files, changed } => {
            (Level::Info, format!("Read commit {}: {}, {changed} changed", short(commit), count(*files, "manifest")))
        }
        EventKind::SourceFailed { reason: _, message } => {
            (Level::Bad, format!("The repository could not be read: {message}"))
        }
        EventKind::Invalid { code, message, file, line } => {
            let place = line.map_or_else(|| file.clone(), |line| format!("{file}:{line}"));
            (Level::Bad, format!("{place}: {message} ({code})"))
        }
        EventKind::Planned { plan, summary, blocked, drifted, unknown } => {
            (Level::Info, format!("Plan {plan}: {}", counts(summary, *blocked, *drifted, *unknown)))
        }
        EventKind::Blocked { reason, message } => {
            (Level::Warning, said("Held", &message_or(message, reason.explain())))
        }
        EventKind::Unknown { reason, message } => {
            (Level::Warning, said("Could not be seen", &message_or(message, reason.explain())))
        }
        EventKind::StepStarted { action, changes, destructive, new_passwords } => {
            let losses = if destructive.is_empty() { String::new() } else { format!("; {}", destructive.join("; ")) };
            let level = if destructive.is_empty() { Level::Info } else { Level::Warning };
            let fields = (!changes.is_empty()).then(|| count(changes.len(), "field"));
            let passwords =
                (!new_passwords.is_empty()).then(|| format!("new passwords of {}", new_passwords.join(", ")));
            let changed: Vec<String> = fields.into_iter().chain(passwords).collect();
            let changed = if changed.is_empty() { String::new() } else { format!(": {}", changed.join(", ")) };
            (level, format!("{} began{changed}{losses}", capital(*action)))
        }
        EventKind::StepDone { action, millis } => (Level::Good, format!("{} done in {millis} ms", capital(*action))),
        EventKind::StepFailed { action, reason: _, message, millis } => {
            (Level::Bad, format!("{} failed after {millis} ms: {message}", capital(*action)))
        }
        EventKind::Recorded { reason } => (Level::Good, reason.explain().trim().to_owned()),
        EventKind::DriftFound { reason, message } => {
            (Level::Warning, said("Drift", &message_or(message, reason.explain())))
        }
        EventKind::ProposalOpened { branch, diff: _ } => (Level::Warning, format!("Opened a proposal on {branch}")),
        EventKind::ProposalUpdated { branch, diff: _ } => (Level::Warning, format!("Updated the proposal on {branch}")),
        EventKind::ProposalDecided { branch, status, message } => {
            let verdict = match status {
                ProposalStatus::Accepted => "accepted",
                ProposalStatus::Restored | ProposalStatus::Ignored => "declined",
                ProposalStatus::Closed => "closed",
                ProposalStatus::Pending | ProposalStatus::Open | ProposalStatus::HandsOff => "still open",
            };
            let note = if message.is_empty() { String::new() } else { format!(": {message}") };
            (Level::Good, format!("The proposal on {branch} is {verdict}{note}"))
        }
        EventKind::ProposalFailed { branch, message } => {
            (Level::Bad, format!("The proposal could not be pushed to {branch}: {message}"))
        }
        EventKind::Warning { reason, message } => (Level::Warning, message_or(message, reason.explain())),
        EventKind::RollbackStarted { reason: _, message, keys } => {
            let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
            (
                Level::Bad,
                format!("Failed for good: {message}. What the commit did to these is undone: {}", names.join(", ")),
            )
        }
        EventKind::SecretShown { role } => (Level::Info, format!("The password of role {role} was shown")),
        EventKind::Unfamiliar => (Level::Info, "Something that only a newer plumb can say".to_owned()),
    }
}

fn capital(action: Action) -> &'static str {
    match action {
        Action::Create => "Create",
        Action::Update => "Update",
        Action::Replace => "Replace",
        Action::Delete => "Delete",
        Action::Adopt => "Adopt",
    }
}

fn said(what: &str, message: &str) -> String {
    format!("{what}: {message}")
}

fn message_or(message: &str, otherwise: &str) -> String {
    if message.is_empty() { otherwise.trim().to_owned() } else { message.to_owned() }
}

fn short(commit: &str) -> &str {
    const DIGITS: usize = 8;
    commit.get(..DIGITS).unwrap_or(commit)
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn counts(summary: &Summary, blocked: usize, drifted: usize, unknown: usize) -> String {
    let Summary { create, update, replace, delete, adopt, unchanged } = *summary;
    let parts: Vec<String> = [
        (create, "to create"),
        (update, "to update"),
        (replace, "to replace"),
        (delete, "to delete"),
        (adopt, "to adopt"),
        (blocked, "held"),
        (drifted, "drifted"),
        (unknown, "could not be seen"),
        (unchanged, "unchanged"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, what)| format!("{number} {what}"))
    .collect();
    if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PlanId, Reason};

    #[test]
    fn an_event_reads_back_from_its_json() {
        let kind = EventKind::StepFailed {
            action: Action::Create,
            reason: Reason::TimedOut,
            message: "no answer in 5s".into(),
            millis: 5001,
        };
        let event = Event { id: 7, execution: 3, tenant: "checkout".into(), at: DateTime::UNIX_EPOCH, key: None, kind };
        let view = EventView::new(event, DateTime::UNIX_EPOCH + chrono::Duration::seconds(9));
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(json["kind"], "stepFailed");
        assert_eq!(json["ageSeconds"], 9);
        assert_eq!(json["text"], "Create failed after 5001 ms: no answer in 5s");
        assert_eq!(serde_json::from_value::<EventView>(json).unwrap(), view);
    }

    #[test]
    fn a_plan_says_what_it_would_do_and_leaves_out_the_rest() {
        let said = |summary: Summary, blocked: usize, unknown: usize| {
            let plan = PlanId("abc".into());
            describe(&EventKind::Planned { plan, summary, blocked, drifted: 0, unknown }).1
        };
        let summary = Summary { create: 2, unchanged: 1, ..Summary::default() };
        assert_eq!(said(summary, 1, 0), "Plan abc: 2 to create, 1 held, 1 unchanged");
        assert_eq!(said(Summary::default(), 0, 0), "Plan abc: nothing to do");
        assert_eq!(said(Summary::default(), 0, 3), "Plan abc: 3 could not be seen");
    }
}

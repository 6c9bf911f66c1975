//! What must hold once a world has come to rest whose process was killed.

use std::collections::{BTreeMap, BTreeSet};

use plumb::model::{
    ConditionStatus, ConditionType, Event, EventKind, Execution, ExecutionOutcome, Kind, Mark, Reason, ResourceKey,
    ResourceStatus,
};
use plumb::store::audit::{AuditAction, AuditEntry};
use plumb::store::{HistoryFilter, Mode, Scope, Tx};
use sqlx::Connection;

use crate::harness::audited;

use super::{Effect, TENANT, World, open_store};

/// How a world rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// All of it is ready.
    Ready,
    /// People are asked about something.
    Asked,
    /// A change was undone, since the step of this resource failed for good.
    Undone { failed: ResourceKey },
    /// What is to be removed is held, since git has nothing left (R9).
    Held,
    /// The step of this resource failed for good, and nothing else waits.
    Failed { failed: ResourceKey },
}

/// The one database that people are asked about.
const ASKED_ABOUT: &str = "a";

/// Enough for every row of a world.
const ALL_OF_THEM: u32 = 10_000;

/// What must hold of the state, whatever the systems are: the inventory has these, and git these.
pub async fn state_is_whole(
    world: &World,
    known: &BTreeSet<ResourceKey>,
    wanted: &BTreeSet<ResourceKey>,
    rest: &Rest,
) -> Vec<String> {
    let store = open_store(&world.folder, Mode::ReadOnly).await;
    let mut tx = store.read(Scope::Platform).await.unwrap();
    let mut broken = Vec::new();
    let inventory: BTreeSet<ResourceKey> = tx.inventory().await.unwrap().records.into_keys().collect();
    if inventory != *known {
        broken.push(format!("the inventory has {inventory:?}"));
    }
    let statuses = tx.statuses().await.unwrap();
    if !statuses.keys().eq(wanted) {
        broken.push(format!("there are statuses of {:?}", statuses.keys()));
    }
    broken.extend(statuses.values().filter_map(|status| says_otherwise(status, rest)));
    let all = HistoryFilter { limit: ALL_OF_THEM, ..HistoryFilter::default() };
    let executions = tx.executions(&all).await.unwrap();
    if executions.iter().any(|execution| execution.outcome == ExecutionOutcome::Running) {
        broken.push("an execution is running still".to_owned());
    }
    let mut events = tx.events(&all).await.unwrap();
    events.reverse();
    if !events.is_sorted_by(|before, after| before.id < after.id) {
        broken.push("numbers of events do not rise".to_owned());
    }
    broken.extend(steps_have_their_ends(&executions, &events));
    broken.extend(what_was_done_is_told(world, &executions, &events));
    broken.extend(what_is_undone_is_told(tx.as_mut(), rest, &executions, &events).await);
    broken.extend(the_audit_log_is_whole(world, tx.as_mut(), &events).await);
    broken
}

/// What a status says that is not so.
fn says_otherwise(status: &ResourceStatus, rest: &Rest) -> Option<String> {
    let condition = |wanted: ConditionType| status.condition(wanted).map(|told| (told.status, told.reason));
    let is_so = match rest {
        Rest::Failed { failed } if status.key == *failed => {
            condition(ConditionType::Stalled) == Some((ConditionStatus::True, Reason::DeadLetter))
        }
        Rest::Ready | Rest::Failed { .. } => {
            condition(ConditionType::Ready).is_some_and(|(status, _)| status == ConditionStatus::True)
        }
        Rest::Held => condition(ConditionType::Ready) == Some((ConditionStatus::False, Reason::EmptyTree)),
        Rest::Asked => {
            let is_asked_about = status.key.name == ASKED_ABOUT;
            condition(ConditionType::Drifted).is_some_and(|(is, _)| (is == ConditionStatus::True) == is_asked_about)
        }
        Rest::Undone { .. } => condition(ConditionType::Stalled) == Some((ConditionStatus::True, Reason::RolledBack)),
    };
    (!is_so).then(|| format!("{rest:?}, and there is {status:?}"))
}

fn steps_have_their_ends(executions: &[Execution], events: &[Event]) -> Vec<String> {
    let mut broken = Vec::new();
    for execution in executions.iter().filter(|execution| execution.outcome != ExecutionOutcome::Interrupted) {
        let of = |kind: fn(&EventKind) -> bool| {
            events.iter().filter(|event| event.execution == execution.id && kind(&event.kind)).count()
        };
        let begun = of(|kind| matches!(kind, EventKind::StepStarted { .. }));
        let ended = of(|kind| matches!(kind, EventKind::StepDone { .. } | EventKind::StepFailed { .. }));
        if begun != ended {
            broken.push(format!("execution {} began {begun} steps and ended {ended}", execution.id));
        }
    }
    broken
}

/// What was done to a system is told as done once; where the process died before it could tell, it has told that it begins.
fn what_was_done_is_told(world: &World, executions: &[Execution], events: &[Event]) -> Vec<String> {
    let was_cut_short = |id: i64| {
        executions.iter().any(|execution| execution.id == id && execution.outcome == ExecutionOutcome::Interrupted)
    };
    // By resource and action: how often it was done, told as done, and begun without an end that is told.
    let mut counts: BTreeMap<(String, String), (usize, usize, usize)> = BTreeMap::new();
    for effect in world.effects() {
        counts.entry((effect.key, effect.action)).or_default().0 += 1;
    }
    let mut open: BTreeSet<(String, String, i64)> = BTreeSet::new();
    for event in events {
        let Some(key) = event.key.as_ref().map(ToString::to_string) else { continue };
        match &event.kind {
            EventKind::StepStarted { action, .. } => drop(open.insert((key, action.to_string(), event.execution))),
            EventKind::StepDone { action, .. } => {
                open.remove(&(key.clone(), action.to_string(), event.execution));
                counts.entry((key, action.to_string())).or_default().1 += 1;
            }
            EventKind::StepFailed { action, .. } => drop(open.remove(&(key, action.to_string(), event.execution))),
            _ => {}
        }
    }
    for (key, action, _) in open.into_iter().filter(|(.., execution)| was_cut_short(*execution)) {
        counts.entry((key, action)).or_default().2 += 1;
    }
    let is_told = |(done, told, open): (usize, usize, usize)| told <= done && done <= told + open;
    let untold = counts.into_iter().filter(|(_, counts)| !is_told(*counts));
    let told = untold.map(|((key, action), (done, told, open))| {
        format!("{action} of {key} was done {done} times, told {told} times, and begun {open} times with no end")
    });
    told.collect()
}

/// That a change is undone is on record, for as long as it is, and told once by each look that was not cut short.
async fn what_is_undone_is_told(
    tx: &mut dyn Tx,
    rest: &Rest,
    executions: &[Execution],
    events: &[Event],
) -> Vec<String> {
    let mut broken = Vec::new();
    let sagas = tx.sagas().await.unwrap();
    let failures: Vec<&ResourceKey> =
        sagas.iter().filter_map(|saga| saga.failure.as_ref()).map(|failure| &failure.key).collect();
    match rest {
        Rest::Ready | Rest::Asked | Rest::Held | Rest::Failed { .. } if !sagas.is_empty() => {
            broken.push(format!("a change is under way: {sagas:?}"))
        }
        Rest::Undone { failed } if failures != [failed] => broken.push(format!("these are undone: {sagas:?}")),
        Rest::Ready | Rest::Asked | Rest::Held | Rest::Failed { .. } | Rest::Undone { .. } => {}
    }
    let told: Vec<&Event> =
        events.iter().filter(|event| matches!(event.kind, EventKind::RollbackStarted { .. })).collect();
    let by_whole_looks = told.iter().filter(|event| {
        let look = executions.iter().find(|execution| execution.id == event.execution).expect("it has one");
        look.outcome != ExecutionOutcome::Interrupted
    });
    if by_whole_looks.count() > 1 {
        broken.push(format!("that it is undone was told twice: {told:?}"));
    }
    for failed in failures {
        if !told.iter().any(|event| event.key.as_ref() == Some(failed)) {
            broken.push(format!("nobody told that the change of {failed} is undone"));
        }
    }
    broken
}

/// Its chains hold, and each commit, and each step that was begun, has one row.
async fn the_audit_log_is_whole(world: &World, tx: &mut dyn Tx, events: &[Event]) -> Vec<String> {
    let (rows, mut broken) = audited::chains(tx).await;
    for commit in &world.commits {
        let is_of = |row: &&AuditEntry| row.action == AuditAction::Commit && row.details["commit"] == commit.as_str();
        let times = rows.iter().filter(is_of).count();
        if times != 1 {
            broken.push(format!("commit {commit} has {times} rows"));
        }
    }
    broken.extend(audited::steps(events, &rows));
    broken
}

/// Nothing was done to the systems beyond what is done where nobody dies. What two steps do at once may be told by neither
/// where the process dies in one of them.
pub fn nothing_is_done_twice(world: &World, mut once: Vec<Effect>) -> Vec<String> {
    let mut broken = Vec::new();
    for effect in world.effects() {
        match once.iter().position(|known| *known == effect) {
            Some(at) => drop(once.swap_remove(at)),
            None => broken.push(format!("this was done once too often: {effect:?}")),
        }
    }
    broken
}

/// The files of databases: each whole, marked once, and no other beside them.
pub async fn files_are_whole(world: &World, wanted: &BTreeMap<&str, i64>) -> Vec<String> {
    let mut broken = Vec::new();
    let mut found: BTreeMap<String, i64> = BTreeMap::new();
    for entry in std::fs::read_dir(world.databases()).into_iter().flatten().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        // What was not committed is taken back by whoever writes next, and nobody may have to.
        let is_side = [".db-wal", ".db-shm", ".db-journal"].iter().any(|end| name.ends_with(end));
        if name == ".plumb-root" || name.starts_with(".plumb-lock") || name.ends_with(".lock") || is_side {
            continue;
        }
        let Some(short) = name.strip_prefix("crash_staging_").and_then(|name| name.strip_suffix(".db")) else {
            broken.push(format!("{name} was left"));
            continue;
        };
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(entry.path());
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        let marks: Vec<String> =
            sqlx::query_scalar("SELECT mark FROM plumb_mark").fetch_all(&mut connection).await.unwrap();
        let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let key = ResourceKey::new(TENANT, "staging", Kind::Database, short);
        let is_ours = |text: &String| Mark::from_text(text).is_some_and(|mark| mark.key == key && !mark.unfinished);
        if marks.len() != 1 || !marks.iter().all(is_ours) {
            broken.push(format!("{name} bears {marks:?}"));
        }
        found.insert(short.to_owned(), version);
    }
    let wanted: BTreeMap<String, i64> = wanted.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect();
    if found != wanted {
        broken.push(format!("there is {found:?}, and not {wanted:?}"));
    }
    broken
}

/// Leftovers of git in the mirrors: locks, but for those beside them, marks of packs that nobody receives, and what is half
/// written or half made.
pub fn mirrors_are_clean(world: &World) -> Vec<String> {
    let mirrors = world.folder.join("data/mirrors");
    let mut folders = vec![mirrors.clone()];
    let mut broken = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            let is_lock = name.ends_with(".lock") && folder != mirrors;
            let is_unfinished = [".keep", ".new"].iter().any(|end| name.ends_with(end))
                || ["tmp", ".tmp"].iter().any(|start| name.starts_with(start));
            if is_lock || is_unfinished {
                broken.push(format!("{} was left", path.display()));
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    broken
}

//! What must hold at the end of every run, each by its name. What must hold all the time is checked where it happens, in
//! `system.rs` (nothing is made that nobody asked for, nothing is deleted that no commit removed, data that is gone is not
//! made again empty, passwords stay; a step is on record before it runs, has room on its provider, and begins neither while
//! its windows are closed nor once its process was told to stop), `world.rs` (who is told to stop ends) and `memory.rs`
//! (nothing is written under a lease that was lost).

use std::collections::BTreeSet;

use plumb::model::{
    Change, ConditionStatus, ConditionType, EventKind, ExecutionOutcome, Inventory, Part, Plan, Reason, ResourceKey,
    Saga,
};
use plumb::store::audit::{AuditAction, AuditEntry};
use plumb::store::{Scope, Store};

use crate::harness::audited;

use super::memory::MemoryStore;
use super::system::State;
use super::wish::Wish;
use super::world::Deeds;

/// What does not hold of the servers, and of what is known of them.
pub fn of_the_servers(state: &State, wish: &Wish, inventory: &Inventory) -> Vec<String> {
    let mut broken = Vec::new();
    broken.extend(live_is_what_git_says(state, wish));
    broken.extend(no_key_has_two_objects(state));
    broken.extend(nothing_of_others_was_touched(state, wish));
    broken.extend(nothing_is_half_made(state));
    broken.extend(the_inventory_is_what_is_live(state, wish, inventory));
    broken
}

/// What does not hold of what was written down.
pub async fn of_the_record(wish: &Wish, store: &MemoryStore) -> Vec<String> {
    let mut broken = Vec::new();
    broken.extend(everything_is_ready(wish, store).await);
    broken.extend(no_look_is_left_open(store));
    broken.extend(numbers_of_events_rise(store));
    broken.extend(every_step_that_was_begun_has_its_end(store));
    broken.extend(every_change_that_was_undone_was_told_so(store));
    broken.extend(nothing_is_left_to_be_tried_or_undone(store).await);
    broken
}

/// What does not hold of the audit log: its chains, and one row for each thing that people and Plumb did.
pub async fn of_the_audit_log(deeds: &Deeds, store: &MemoryStore) -> Vec<String> {
    let mut tx = store.read(Scope::Platform).await.expect("it answers");
    let (rows, mut broken) = audited::chains(tx.as_mut()).await;
    broken.extend(what_people_did_is_audited_once(deeds, &rows));
    broken.extend(audited::steps(&store.history().1, &rows));
    broken
}

/// Converged: each wanted object is there with the values that git sets.
fn live_is_what_git_says(state: &State, wish: &Wish) -> Vec<String> {
    let owned = state.owned();
    let mut broken = Vec::new();
    for document in wish.documents.values() {
        let key = document.key();
        let Some((server, _, object)) = owned.get(&key).and_then(|all| all.first()) else {
            broken.push(format!("{key} is not there"));
            continue;
        };
        if *server != document.provider {
            broken.push(format!("{key} is on {server}"));
        }
        for (path, value) in document.fields().iter() {
            if object.fields.get(path.as_str()) != Some(value) {
                let live = object.fields.get(path.as_str());
                broken.push(format!("{path} of {key} is {live:?} and git says {value}"));
            }
        }
    }
    broken
}

fn no_key_has_two_objects(state: &State) -> Vec<String> {
    let owned = state.owned().into_iter().filter(|(_, all)| all.len() > 1);
    owned.map(|(key, all)| format!("{key} has {} objects", all.len())).collect()
}

/// Objects without a mark, and those of another platform, are as they were.
fn nothing_of_others_was_touched(state: &State, wish: &Wish) -> Vec<String> {
    let mut broken = Vec::new();
    let adopted = |key: &ResourceKey| {
        state
            .heads
            .iter()
            .chain([wish])
            .any(|head| head.get(key).is_some_and(|document| document.annotations.contains_key("adopt")))
    };
    let guest = super::wish::key_of(super::wish::GUEST, plumb::model::Kind::Database);
    let others = [
        ("pg", guest.object_name(63), Some(&guest)),
        ("cache", "sim_staging_other".to_owned(), None),
        ("files", "somebody_elses".to_owned(), None),
    ];
    for (server, name, key) in others {
        match state.servers[server].objects.get(&name) {
            _ if key.is_some_and(adopted) => {}
            None => broken.push(format!("{name} on {server} is gone")),
            Some(object) if object.owner().is_some() => broken.push(format!("{name} on {server} was taken over")),
            Some(_) => {}
        }
    }
    broken
}

/// No object is unfinished, and none but those that git wants or lets be bears a mark.
fn nothing_is_half_made(state: &State) -> Vec<String> {
    let all = state.owned().into_iter().flat_map(|(key, all)| all.into_iter().map(move |one| (key.clone(), one)));
    let half = all.filter(|(_, (.., object))| object.mark.as_ref().is_some_and(|mark| mark.unfinished));
    half.map(|(key, _)| format!("{key} is not whole")).collect()
}

/// The inventory knows each wanted object as it is, and nothing else but what was let go of.
fn the_inventory_is_what_is_live(state: &State, wish: &Wish, inventory: &Inventory) -> Vec<String> {
    let owned = state.owned();
    let mut broken = Vec::new();
    let known: BTreeSet<ResourceKey> = inventory.live().map(|record| record.key.clone()).collect();
    if known != wish.keys() {
        broken.push(format!("the inventory has {known:?} and git {:?}", wish.keys()));
    }
    let leaked = owned.keys().filter(|key| wish.get(key).is_none());
    broken.extend(leaked.filter(|key| !inventory.records.contains_key(*key)).map(|key| format!("{key} is leaked")));
    for record in inventory.live() {
        let Some((.., object)) = owned.get(&record.key).and_then(|all| all.first()) else { continue };
        if object.id != record.object.0 {
            broken.push(format!("the record of {} is of another object", record.key));
        }
        for (path, value) in record.readback.iter() {
            if object.fields.get(path.as_str()) != Some(value) {
                broken.push(format!("the record of {} has {path}: {value}", record.key));
            }
        }
    }
    broken
}

async fn everything_is_ready(wish: &Wish, store: &MemoryStore) -> Vec<String> {
    let statuses = store.read(Scope::Platform).await.expect("it answers").statuses().await.expect("it answers");
    let mut broken: Vec<String> = Vec::new();
    for key in wish.keys() {
        let ready = statuses.get(&key).and_then(|status| status.condition(ConditionType::Ready));
        if !ready.is_some_and(|ready| ready.status == ConditionStatus::True) {
            broken.push(format!("{key} is not ready: {ready:?}"));
        }
    }
    broken.extend(statuses.keys().filter(|key| wish.get(key).is_none()).map(|key| format!("{key} has a status still")));
    broken
}

fn no_look_is_left_open(store: &MemoryStore) -> Vec<String> {
    let (executions, _) = store.history();
    let open = executions.iter().filter(|execution| execution.outcome == ExecutionOutcome::Running);
    open.map(|execution| format!("execution {} is running still", execution.id)).collect()
}

fn numbers_of_events_rise(store: &MemoryStore) -> Vec<String> {
    let (_, events) = store.history();
    let falling = events.windows(2).filter(|pair| pair[0].id >= pair[1].id || pair[0].at > pair[1].at);
    falling.map(|pair| format!("event {} comes after event {}", pair[1].id, pair[0].id)).collect()
}

/// A step that was begun was done or failed, unless its process died.
fn every_step_that_was_begun_has_its_end(store: &MemoryStore) -> Vec<String> {
    let (executions, events) = store.history();
    let mut broken = Vec::new();
    for execution in executions.iter().filter(|execution| execution.outcome != ExecutionOutcome::Interrupted) {
        let mut open: BTreeSet<&ResourceKey> = BTreeSet::new();
        for event in events.iter().filter(|event| event.execution == execution.id) {
            let Some(key) = &event.key else { continue };
            match event.kind {
                EventKind::StepStarted { .. } => {
                    open.insert(key);
                }
                EventKind::StepDone { .. } | EventKind::StepFailed { .. } if !open.remove(key) => {
                    broken.push(format!("a step of {key} ended that had not begun"));
                }
                _ => {}
            }
        }
        broken.extend(open.iter().map(|key| format!("a step of {key} has no end in execution {}", execution.id)));
    }
    broken
}

/// While a change is undone, nothing that it did is there any more, where nothing else holds a resource up, and nobody said
/// that its object stays; but for what it added and could only be dropped with what is in it, as a role.
pub fn what_was_undone_is_as_it_was(state: &State, store: &MemoryStore, sagas: &[Saga], plan: &Plan) -> Vec<String> {
    let owned = state.owned();
    let is_undone = |key: &ResourceKey| {
        let of_key = || plan.blocked.iter().filter(|blocked| blocked.key == *key);
        let is_held =
            of_key().count() == 1 && of_key().all(|held| held.reason == Reason::RolledBack && held.step.is_none());
        is_held && !plan.steps.iter().any(|step| step.key == *key)
    };
    let mut broken = Vec::new();
    for saga in sagas.iter().filter(|saga| saga.failure.is_some()) {
        for (key, Part { former, changes, .. }) in saga.parts.iter().filter(|(key, _)| is_undone(key)) {
            match (former, owned.get(key).and_then(|all| all.first())) {
                (None, Some(_)) if store.has_retained(key) => {}
                (None, Some(_)) => broken.push(format!("{key} is there, and the change that made it was undone")),
                (Some(former), Some((.., object))) => {
                    let stays = |change: &Change| change.from.is_none() && key.kind.info().is_destructive(&change.path);
                    for change in changes.iter().filter(|change| !stays(change)) {
                        let before = former.applied.get(change.path.as_str()).or(change.from.as_ref());
                        let live = object.fields.get(change.path.as_str());
                        if live == change.to.as_ref() && live != before {
                            let path = &change.path;
                            broken.push(format!("{path} of {key} is {live:?}, as a change set it that was undone"));
                        }
                    }
                }
                (None | Some(_), None) => {}
            }
        }
    }
    broken
}

/// Looks in which nothing went wrong have no slot of a provider left.
pub fn what_was_taken_is_given_back(taken: &[String]) -> Vec<String> {
    taken.iter().map(|provider| format!("a slot of {provider} was taken and not given back")).collect()
}

/// That a change is undone is told with the resource that failed.
fn every_change_that_was_undone_was_told_so(store: &MemoryStore) -> Vec<String> {
    let (_, events) = store.history();
    let failed = store.undone().into_iter().filter_map(|saga| saga.failure);
    let is_told = |key: &ResourceKey| {
        let told = events.iter().filter(|event| matches!(event.kind, EventKind::RollbackStarted { .. }));
        told.into_iter().any(|event| event.key.as_ref() == Some(key))
    };
    let untold = failed.filter(|failure| !is_told(&failure.key));
    untold.map(|failure| format!("nobody told that what goes with {} is undone", failure.key)).collect()
}

/// Where everything is as git says, no step waits to be tried again and no change to be undone.
async fn nothing_is_left_to_be_tried_or_undone(store: &MemoryStore) -> Vec<String> {
    let mut tx = store.read(Scope::Platform).await.expect("it answers");
    let attempts = tx.attempts().await.expect("it answers").into_values().map(|attempt| format!("left: {attempt:?}"));
    let sagas = tx.sagas().await.expect("it answers").into_iter().map(|saga| format!("left: {saga:?}"));
    attempts.chain(sagas).collect()
}

fn what_people_did_is_audited_once(deeds: &Deeds, rows: &[AuditEntry]) -> Vec<String> {
    let Deeds { commits, approvals, retries, asks } = deeds;
    let names = |row: &AuditEntry, field: &str, what: &str| row.details.get(field).is_some_and(|told| *told == *what);
    let mut broken = Vec::new();
    let mut expect_one = |what: String, is_it: &dyn Fn(&AuditEntry) -> bool| {
        let times = rows.iter().filter(|row| is_it(row)).count();
        if times != 1 {
            broken.push(format!("{what} has {times} rows in the audit log"));
        }
    };
    for commit in commits {
        let is_it = |row: &AuditEntry| row.action == AuditAction::Commit && names(row, "commit", commit);
        expect_one(format!("commit {commit}"), &is_it);
    }
    for (commit, kind) in approvals {
        let of_kind = |row: &AuditEntry| names(row, "commit", commit) && names(row, "trailer", kind.trailer());
        let is_it = |row: &AuditEntry| row.action == AuditAction::Approval && of_kind(row);
        expect_one(format!("the approval by {commit}"), &is_it);
    }
    for (by, keys) in retries {
        for key in keys {
            let is_it = |row: &AuditEntry| {
                row.action == AuditAction::Retried && row.actor == *by && row.key.as_ref() == Some(key)
            };
            expect_one(format!("the retry of {key} by {by}"), &is_it);
        }
    }
    for by in asks {
        let is_it = |row: &AuditEntry| row.action == AuditAction::Request && row.actor == *by;
        expect_one(format!("the look that {by} asked for"), &is_it);
    }
    broken
}

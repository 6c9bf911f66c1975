//! Changes that are undone together: `plumb.dev/on-failure: rollback`.
//!
//! What is undone is not done by other means than the rest: once a step of a saga has failed for good, its resources are
//! wanted as they were before, and the planner finds the steps, with every rule that protects live data. So a death in
//! the middle is gone on from like any other, and a look that finds all of it undone does nothing.
//!
//! What always holds: what may have to be undone is written down before it is done; what was adopted, replaced or
//! deleted, and data that was made, is not undone, since that could lose something; a saga ends when all of it is done:
//! what fails later undoes nothing that was in use meanwhile. Other heads that come before go on with what git still wants
//! of it, word for word; another word on a resource is a change of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::model::{
    Action, Annotations, Attempt, Change, Decisions, DesiredState, DriftMode, EventKind, Failure, FieldPath, Fields,
    Hold, Inventory, Kind, Lease, Observations, OnFailure, Part, Plan, ProposedField, Reason, Record, Resource,
    ResourceKey, Saga, Step,
};
use crate::plan::ended;
use crate::store::{Scope, Store, StoreError};

use super::apply::Applied;
use super::attempts::{Attempts, Heads};
use super::timeline::Timeline;

/// The sagas of a tenant, by environment.
pub(super) type Sagas = BTreeMap<String, Saga>;

/// Those that are undone under these heads.
fn undone<'a>(sagas: &'a Sagas, heads: Heads<'_>) -> impl Iterator<Item = (&'a Saga, &'a Failure)> {
    let these = sagas.values().filter(move |saga| heads.are(saga.commit.as_ref(), saga.platform.as_ref()));
    these.filter_map(|saga| saga.failure.as_ref().map(|failure| (saga, failure)))
}

/// What is wanted while sagas are undone: their resources as they were before. Tells the planner so.
pub(super) fn undo(
    desired: Arc<DesiredState>,
    sagas: &Sagas,
    heads: Heads<'_>,
    prior: &Inventory,
    decisions: &mut Decisions,
) -> Arc<DesiredState> {
    if undone(sagas, heads).next().is_none() {
        return desired;
    }
    let mut wanted = DesiredState::clone(&desired);
    for (saga, failure) in undone(sagas, heads) {
        for (key, part) in &saga.parts {
            let Some(now) = desired.resources.get(key) else { continue };
            decisions.rolled_back.insert(key.clone(), sentence(key, part, failure));
            // What is wanted now was set by nobody, so it answers no question, and is no newer word than what was said.
            decisions.open.remove(key);
            match &part.former {
                Some(former) => {
                    if decisions.accepted.contains(key) {
                        // What is live was accepted, and nobody asked for what was before it: it stays for now.
                        let accepted = decisions.lifted.remove(key).unwrap_or_default();
                        decisions.ignored.entry(key.clone()).or_default().extend(accepted);
                    }
                    let said = [decisions.lifted.get_mut(key), decisions.ignored.get_mut(key)];
                    for field in said.into_iter().flatten().flatten() {
                        field.git = former.applied.0.get(&field.path).cloned();
                    }
                    let record = prior.get(key).unwrap_or(former);
                    let mode = former.annotations.drift.unwrap_or(decisions.drift);
                    wanted.resources.insert(key.clone(), Arc::new(as_before(now, part, former, record, mode)));
                    decisions.lifted.entry(key.clone()).or_default().extend(half_done(part, former));
                    decisions.unmanaged_before.insert(key.clone(), unmanaged_before(part, former));
                }
                None => drop(wanted.resources.remove(key)),
            }
        }
        // What goes with them and was not tried yet is not begun, only to be undone.
        let is_untried = |key: &&ResourceKey| !saga.parts.contains_key(*key) && goes_with(saga, key, &desired);
        for key in desired.resources.keys().filter(is_untried) {
            let held = || Hold::by(Reason::RolledBack, not_done(key, failure));
            decisions.not_now.entry(key.clone()).or_insert_with(held);
        }
    }
    Arc::new(wanted)
}

/// Why nothing is done to what goes with a change that was undone, and is no part of it.
fn not_done(key: &ResourceKey, failure: &Failure) -> String {
    let how = match *key == failure.key {
        true => "It is left as it is",
        false => "What goes with it is not begun",
    };
    told(key, failure, how)
}

fn sentence(key: &ResourceKey, part: &Part, failure: &Failure) -> String {
    let added: Vec<&str> = added(part, key.kind).map(|change| change.path.as_str()).collect();
    match added.is_empty() {
        true => told(key, failure, "It is wanted as it was before the commit"),
        false => {
            let how = "It is wanted as it was before the commit, but what was added stays where it is there";
            told(key, failure, &format!("{how}, and is yours to drop: {}", added.join(", ")))
        }
    }
}

/// What failed, `how` that concerns a resource, and the way out.
fn told(key: &ResourceKey, Failure { key: failed, message, reason, .. }: &Failure, how: &str) -> String {
    let what = match key == failed {
        true => "its step".to_owned(),
        false => failed.to_string(),
    };
    format!(
        "{what} failed for good: {message} ({reason}). {how} (plumb.dev/on-failure: rollback); commit what works, or run: \
         plumb retry {failed}"
    )
}

/// A resource as it was applied before, where git has it now; `record` is how it is known now.
fn as_before(now: &Resource, part: &Part, former: &Record, record: &Record, mode: DriftMode) -> Resource {
    Resource {
        key: now.key.clone(),
        provider: former.provider.clone(),
        fields: fields_before(now, part, former, record, mode),
        annotations: Annotations {
            rotate: rotation_before(former, record),
            ..former.annotations.kept_safer_by(&now.annotations, now.key.kind)
        },
        labels: now.labels.clone(),
        depends_on: former.depends_on.clone(),
        origin: now.origin.clone(),
        document: match former.document.is_unknown() {
            true => Arc::clone(&now.document),
            false => Arc::new(former.document.value()),
        },
    }
}

/// The passwords from before: the first ones, where no value had ever asked for others.
fn rotation_before(former: &Record, record: &Record) -> Option<String> {
    former.annotations.rotate.clone().or_else(|| record.annotations.rotate.as_ref().map(|_| String::new()))
}

/// What the change did goes back to what was applied before, but for what would be lost ([`undone_changes`]); what was
/// settled beside it, as what a person accepted is, was not its doing and stays. So does what git says of fields whose base
/// is lost: that they are not known to be applied does not mean that nobody wants them.
fn fields_before(now: &Resource, part: &Part, former: &Record, record: &Record, mode: DriftMode) -> Fields {
    let mut fields = record.applied.clone();
    let lost = record.unsettled.keys();
    fields.0.extend(lost.filter_map(|path| Some((path.clone(), now.fields.0.get(path)?.clone()))));
    for change in undone_changes(part, now.key.kind) {
        match value_before(change, part, former, record, mode) {
            Some(value) => fields.0.insert(change.path.clone(), value.clone()),
            None => fields.0.remove(&change.path),
        };
    }
    fields
}

/// What a field that was changed goes back to. Where it had drifted, a person was asked and the commit gave another
/// answer: taking that back brings back what was live, and not a value that nobody has wanted since.
fn value_before<'a>(
    change: &'a Change,
    part: &Part,
    former: &'a Record,
    record: &Record,
    mode: DriftMode,
) -> Option<&'a Value> {
    let path = &change.path;
    if former.unsettled.contains_key(path) {
        return change.from.as_ref();
    }
    let applied = former.applied.0.get(path);
    let was_done = record.applied.0.get(path) != applied;
    match mode {
        DriftMode::Propose | DriftMode::Observe if was_done && answers_drift(change, part, former) => {
            change.from.as_ref()
        }
        DriftMode::Propose | DriftMode::Observe | DriftMode::Revert => applied,
    }
}

/// Whether git set a field of which something else was live than what was applied.
fn answers_drift(Change { path, from, .. }: &Change, part: &Part, former: &Record) -> bool {
    let applied = former.applied.0.get(path);
    applied.is_some()
        && from.is_some()
        && from.as_ref() != former.readback.0.get(path)
        && part.wanted.0.get(path) != applied
}

/// What a step that failed may have done already: it is put back where live is just that. What had drifted before is not:
/// nobody wants what was applied then.
fn half_done<'a>(part: &'a Part, former: &'a Record) -> impl Iterator<Item = ProposedField> + 'a {
    let changes = undone_changes(part, former.key.kind);
    changes.filter(|change| !answers_drift(change, part, former)).map(|change| ProposedField {
        path: change.path.clone(),
        base: former.readback.0.get(&change.path).cloned(),
        git: former.applied.0.get(&change.path).cloned(),
        live: change.to.clone(),
    })
}

/// What a change did to fields that nobody managed before it.
fn unmanaged_before(part: &Part, former: &Record) -> Vec<Change> {
    let was_managed = |path: &FieldPath| former.applied.0.contains_key(path) || former.unsettled.contains_key(path);
    undone_changes(part, former.key.kind).filter(|change| !was_managed(&change.path)).cloned().collect()
}

/// What of a change is undone: not what it added and could only be dropped with what is in it by now, as a role or an
/// extension (R6). That stays, as data does, and is a person's to drop.
fn undone_changes(part: &Part, kind: Kind) -> impl Iterator<Item = &Change> {
    part.changes.iter().filter(move |change| !is_kept(change, kind))
}

/// What of a change stays, if it was done.
fn added(part: &Part, kind: Kind) -> impl Iterator<Item = &Change> {
    part.changes.iter().filter(move |change| part.former.is_some() && is_kept(change, kind))
}

fn is_kept(change: &Change, kind: Kind) -> bool {
    change.from.is_none() && kind.info().is_destructive(&change.path)
}

/// Writes down what the steps of `plan` may have to undo, before any of them is done: what was before is in the records, and
/// in what is seen where they do not know how an earlier step ended.
///
/// # Errors
/// When the store does not take it; then nothing may be done.
pub(super) async fn prepare(
    store: &dyn Store,
    lease: &Lease,
    sagas: &mut Sagas,
    plan: &Plan,
    desired: &DesiredState,
    (prior, live): (&Inventory, &Observations),
    heads: Heads<'_>,
) -> Result<(), StoreError> {
    let of_others = sagas.values().filter(|saga| !heads.are(saga.commit.as_ref(), saga.platform.as_ref()));
    let going_on = of_others.filter_map(|saga| gone_on_with(saga, desired, prior, heads));
    let mut changed: BTreeMap<String, Saga> = going_on.map(|saga| (saga.environment.clone(), saga)).collect();
    for step in &plan.steps {
        let asks = desired.resources.get(&step.key).is_some_and(|r| r.annotations.on_failure == OnFailure::Rollback);
        if !asks || plan.rolls_back(&step.key) {
            continue;
        }
        let former = prior.get(&step.key).map(|record| ended(record, live.present(&step.key), false));
        let Some(part) = desired.resources.get(&step.key).and_then(|now| part(step, now, former.as_deref())) else {
            continue;
        };
        let environment = &step.key.environment;
        let saga = sagas.get(environment).filter(|saga| heads.are(saga.commit.as_ref(), saga.platform.as_ref()));
        let mut saga = changed.remove(environment).or_else(|| saga.cloned()).unwrap_or_else(|| Saga {
            tenant: step.key.tenant.clone(),
            environment: environment.clone(),
            commit: Some(heads.tenant.clone()),
            platform: heads.platform.cloned(),
            parts: BTreeMap::new(),
            failure: None,
        });
        // What was before the first try is what was before the change.
        saga.parts.entry(step.key.clone()).or_insert(part);
        changed.insert(environment.clone(), saga);
    }
    changed.retain(|environment, saga| sagas.get(environment) != Some(&*saga));
    if changed.is_empty() {
        return Ok(());
    }
    let mut tx = store.begin(Scope::Leased(lease.clone())).await?;
    for saga in changed.values() {
        tx.put_saga(saga).await?;
    }
    tx.commit().await?;
    sagas.extend(changed);
    Ok(())
}

/// What of a saga of other heads goes on under these: where git still wants what it wanted, that may have to be undone
/// still, and back to what was before the saga.
fn gone_on_with(saga: &Saga, desired: &DesiredState, prior: &Inventory, heads: Heads<'_>) -> Option<Saga> {
    let is_undone = |key: &ResourceKey, part: &Part| {
        let applied = |record: Option<&Record>| {
            record.map(|record| (record.applied.clone(), record.annotations.rotate.clone().unwrap_or_default()))
        };
        saga.failure.is_some() && applied(prior.get(key)) == applied(part.former.as_ref())
    };
    let is_wanted = |key: &ResourceKey, part: &Part| match desired.resources.get(key) {
        Some(now) => now.fields == part.wanted && goes_with(saga, key, desired),
        // What cannot be read is no other word.
        None => desired.rejected.contains_key(key) || !desired.unreadable.is_empty(),
    };
    let goes_on = |(key, part): &(&ResourceKey, &Part)| is_wanted(key, part) && !is_undone(key, part);
    let parts: BTreeMap<ResourceKey, Part> =
        saga.parts.iter().filter(goes_on).map(|(key, part)| (key.clone(), part.clone())).collect();
    (!parts.is_empty()).then(|| Saga {
        tenant: saga.tenant.clone(),
        environment: saga.environment.clone(),
        commit: Some(heads.tenant.clone()),
        platform: heads.platform.cloned(),
        parts,
        failure: None,
    })
}

/// How a step would be undone; `None` where that could lose something, and where git says what it said before: what is
/// only put back is no change.
fn part(step: &Step, now: &Resource, former: Option<&Record>) -> Option<Part> {
    let former = match (step.action, former) {
        (Action::Update, Some(former)) if former.applied == now.fields && step.rotate.is_none() => return None,
        (Action::Update, Some(former)) => Some(former.clone()),
        (Action::Create, None) if !step.key.kind.info().data_bearing => None,
        (Action::Create | Action::Update | Action::Adopt | Action::Replace | Action::Delete, _) => return None,
    };
    Some(Part { former, wanted: now.fields.clone(), changes: step.changes.clone() })
}

/// The sagas that are to be undone now, since a step that goes with them has failed for good. Their failed steps are no
/// dead letters of their own any more: the saga is.
pub(super) fn begin_to_undo(
    sagas: &mut Sagas,
    attempts: &mut Attempts,
    desired: &DesiredState,
    heads: Heads<'_>,
    now: DateTime<Utc>,
) -> Vec<Saga> {
    let mut begun = Vec::new();
    for saga in sagas.values_mut() {
        if saga.failure.is_some() || !heads.are(saga.commit.as_ref(), saga.platform.as_ref()) {
            continue;
        }
        // What failed under other heads, and cannot be seen any more, is no part of this change.
        let goes_with_it = |attempt: &&Attempt| {
            heads.are(attempt.commit.as_ref(), attempt.platform.as_ref()) && goes_with(saga, &attempt.key, desired)
        };
        let dead = attempts.values().filter(|attempt| attempt.is_dead()).find(goes_with_it).cloned();
        let Some(Attempt { key, provider, reason, message, failures, .. }) = dead else { continue };
        attempts.retain(|key, attempt| !saga.parts.contains_key(key) && !goes_with_it(&&*attempt));
        saga.failure = Some(Failure { key, provider, reason, message, failures, at: now });
        begun.push(saga.clone());
    }
    begun
}

/// Tells that sagas are undone from now on.
pub(super) fn tell(begun: &[Saga], timeline: &mut Timeline<'_>) {
    for saga in begun {
        let Some(Failure { key, reason, message, .. }) = &saga.failure else { continue };
        timeline.note_of(
            key,
            EventKind::RollbackStarted {
                reason: *reason,
                message: message.clone(),
                keys: saga.parts.keys().cloned().collect(),
            },
        );
    }
}

/// Whether a resource is changed, and undone, together with those of a saga.
fn goes_with(saga: &Saga, key: &ResourceKey, desired: &DesiredState) -> bool {
    let resource = desired.resources.get(key);
    key.environment == saga.environment && resource.is_some_and(|r| r.annotations.on_failure == OnFailure::Rollback)
}

/// Sagas of other heads than these, and those of which nothing is left to do.
pub(super) fn over<'a>(
    sagas: &'a Sagas,
    heads: Heads<'a>,
    plan: &Plan,
    applied: &Applied,
    desired: &DesiredState,
) -> impl Iterator<Item = &'a Saga> {
    let steps = plan.steps.iter().filter(|step| !applied.done.contains(&step.key)).map(|step| &step.key);
    let blocked = plan.blocked.iter().filter(|blocked| blocked.step.is_some()).map(|blocked| &blocked.key);
    // What cannot be seen may not be done.
    let left: Vec<&ResourceKey> = steps.chain(blocked).chain(plan.unknown.iter().map(|(key, _)| key)).collect();
    sagas.values().filter(move |saga| {
        let is_done = || {
            // What of it cannot be read may not be done either.
            let is_read = saga.parts.keys().all(|key| desired.resources.contains_key(key));
            saga.failure.is_none() && is_read && !left.iter().any(|key| goes_with(saga, key, desired))
        };
        !heads.are(saga.commit.as_ref(), saga.platform.as_ref()) || is_done()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Annotations, FieldHash, Kind, Origin};

    const LIMIT: &str = "/spec/connectionLimit";
    const ACCESS: &str = "/spec/roles/app/access";

    fn key() -> ResourceKey {
        ResourceKey::new("checkout", "staging", Kind::Database, "orders")
    }

    fn fields(all: &[(&str, Value)]) -> Fields {
        all.iter().map(|(path, value)| (FieldPath::from(*path), value.clone())).collect()
    }

    fn record(applied: &[(&str, Value)]) -> Record {
        Record { applied: fields(applied), readback: fields(applied), ..Record::of_key(key()) }
    }

    fn change(path: &str, from: Value, to: Value) -> Change {
        Change { path: path.into(), from: Some(from), to: Some(to) }
    }

    /// A change of orders to `now` that failed for good, at heads where `record` is what is known of it.
    struct Failed {
        former: Record,
        now: Fields,
        changes: Vec<Change>,
        record: Record,
        drift: DriftMode,
    }

    impl Failed {
        /// What is wanted while it is undone, and what the planner is told.
        fn undone(self) -> (Fields, Decisions) {
            let Self { former, now, changes, record, drift } = self;
            let annotations = Annotations { on_failure: OnFailure::Rollback, ..Annotations::default() };
            let resource = Resource {
                key: key(),
                provider: "pg".to_owned(),
                fields: now.clone(),
                annotations,
                labels: BTreeMap::new(),
                depends_on: Vec::new(),
                origin: Origin::default(),
                document: Arc::default(),
            };
            let desired = DesiredState { resources: [(key(), Arc::new(resource))].into(), ..DesiredState::default() };
            let saga = Saga {
                tenant: "checkout".to_owned(),
                environment: "staging".to_owned(),
                commit: Some("c1".to_owned()),
                platform: None,
                parts: [(key(), Part { former: Some(former), wanted: now, changes })].into(),
                failure: Some(Failure {
                    key: key(),
                    provider: "pg".to_owned(),
                    reason: Reason::Rejected,
                    message: "no".to_owned(),
                    failures: 1,
                    at: DateTime::UNIX_EPOCH,
                }),
            };
            let head = "c1".to_owned();
            let heads = Heads { tenant: &head, platform: None };
            let prior = Inventory { records: [(key(), record)].into() };
            let mut decisions = Decisions { drift, ..Decisions::default() };
            let wanted = undo(Arc::new(desired), &[("staging".to_owned(), saga)].into(), heads, &prior, &mut decisions);
            (wanted.resources[&key()].fields.clone(), decisions)
        }
    }

    #[test]
    fn r4_what_a_loss_left_without_a_base_is_still_wanted() {
        let former = Record {
            unsettled: [(ACCESS.into(), Some(FieldHash::of(&json!("read"))))].into(),
            ..record(&[(LIMIT, json!(20))])
        };
        let (wanted, decisions) = Failed {
            record: former.clone(),
            former,
            now: fields(&[(LIMIT, json!(30)), (ACCESS, json!("read"))]),
            changes: vec![change(LIMIT, json!(20), json!(30))],
            drift: DriftMode::Propose,
        }
        .undone();
        assert_eq!(wanted, fields(&[(LIMIT, json!(20)), (ACCESS, json!("read"))]));
        assert_eq!(decisions.unmanaged_before[&key()], []);
    }

    #[test]
    fn r4_what_was_changed_though_its_base_was_lost_goes_back_to_what_was_live() {
        let former = Record { unsettled: [(ACCESS.into(), None)].into(), ..record(&[(LIMIT, json!(20))]) };
        let now = [(LIMIT, json!(20)), (ACCESS, json!("admin"))];
        for is_done in [false, true] {
            let (wanted, decisions) = Failed {
                record: if is_done { record(&now) } else { former.clone() },
                former: former.clone(),
                now: fields(&now),
                changes: vec![change(ACCESS, json!("read"), json!("admin"))],
                drift: DriftMode::Propose,
            }
            .undone();
            assert_eq!(wanted, fields(&[(LIMIT, json!(20)), (ACCESS, json!("read"))]), "done: {is_done}");
            assert_eq!(decisions.unmanaged_before[&key()], [], "it was managed");
        }
    }

    /// The limit was 20, somebody made it 200, and the commit makes it 100.
    fn answered(is_done: bool, drift: DriftMode) -> (Fields, Decisions) {
        let (former, now) = (record(&[(LIMIT, json!(20))]), [(LIMIT, json!(100))]);
        let failed = Failed {
            record: if is_done { record(&now) } else { former.clone() },
            former,
            now: fields(&now),
            changes: vec![change(LIMIT, json!(200), json!(100))],
            drift,
        };
        failed.undone()
    }

    #[test]
    fn r3_what_answered_a_question_goes_back_to_what_was_live() {
        assert_eq!(answered(true, DriftMode::Propose).0, fields(&[(LIMIT, json!(200))]));
        assert_eq!(answered(true, DriftMode::Revert).0, fields(&[(LIMIT, json!(20))]), "there drift is nobody's wish");
        // Nobody knows whether it was done: what is live stays, whatever it is.
        let (wanted, decisions) = answered(false, DriftMode::Propose);
        assert_eq!(wanted, fields(&[(LIMIT, json!(20))]));
        assert_eq!(decisions.lifted[&key()], []);
    }

    #[test]
    fn r3_what_was_put_back_beside_the_change_stays_put_back() {
        let now = [(LIMIT, json!(20)), (ACCESS, json!("admin"))];
        let former = record(&[(LIMIT, json!(20)), (ACCESS, json!("read"))]);
        let (wanted, _) = Failed {
            record: record(&now),
            former: former.clone(),
            now: fields(&now),
            changes: vec![change(LIMIT, json!(200), json!(20)), change(ACCESS, json!("read"), json!("admin"))],
            drift: DriftMode::Propose,
        }
        .undone();
        assert_eq!(wanted, former.applied);
    }
}

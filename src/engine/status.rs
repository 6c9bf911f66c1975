//! Conditions: what is said of each resource after a pass. Derived from the plan and what became of it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::model::{
    Condition, ConditionStatus, ConditionType, DriftMode, Hold, Plan, Reason, ResourceKey, ResourceStatus,
};

use super::apply::Applied;
use super::attempts::{self, Attempts};
use super::propose::Troubles;

/// What one resource's conditions are made of; the worst news wins.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub ready: ConditionStatus,
    pub reason: Reason,
    pub message: String,
    /// It will be tried again without a person.
    pub reconciling: bool,
    /// It needs a person.
    pub stalled: bool,
    pub drifted: Option<(Reason, String)>,
    /// When what is held goes on by itself.
    pub until: Option<DateTime<Utc>>,
}

impl Verdict {
    fn good(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            ready: ConditionStatus::True,
            reason,
            message: message.into(),
            reconciling: false,
            stalled: false,
            drifted: None,
            until: None,
        }
    }

    fn bad(reason: Reason, message: impl Into<String>) -> Self {
        Self { ready: ConditionStatus::False, ..Self::good(reason, message) }
    }
}

/// The verdict on every resource that the plan speaks of. Resources in scope that it does not mention are in plumb.
pub(super) fn verdicts(
    plan: &Plan,
    applied: &Applied,
    attempts: &Attempts,
    troubles: &Troubles,
    in_scope: impl Iterator<Item = ResourceKey>,
) -> BTreeMap<ResourceKey, Verdict> {
    let mut verdicts: BTreeMap<ResourceKey, Verdict> =
        in_scope.map(|key| (key, Verdict::good(Reason::InPlumb, said(Reason::InPlumb)))).collect();
    for key in &applied.done {
        verdicts.insert(key.clone(), Verdict::good(Reason::Applied, said(Reason::Applied)));
    }
    for (key, unknown) in &applied.unread {
        let message = format!("its step was done, and it could not be read back since: {}", unknown.message);
        let verdict =
            Verdict { ready: ConditionStatus::Unknown, reconciling: true, ..Verdict::bad(unknown.reason, message) };
        verdicts.insert(key.clone(), verdict);
    }
    for (key, reason, message) in plan.warnings.iter().filter(|(key, ..)| !applied.unread.contains_key(key)) {
        if let Some(verdict) = verdicts.get_mut(key) {
            *verdict = Verdict::good(*reason, message.clone());
        }
    }
    for drift in plan.drift.iter().filter(|drift| !(drift.missing && applied.done.contains(&drift.key))) {
        let Some(verdict) = verdicts.get_mut(&drift.key) else { continue };
        let (mut reason, mut message) = (drift_reason(drift), super::propose::sentence(drift));
        let asks = drift.mode == DriftMode::Propose && !drift.silenced;
        if let Some(trouble) = troubles.get(&drift.key).filter(|_| asks) {
            // That data is gone is worse news than that nobody can be asked about it.
            if trouble.of_all && !drift.missing {
                reason = trouble.reason;
            }
            message = format!("{message}; {}", trouble.message);
        }
        let reverting = drift.mode == DriftMode::Revert && applied.done.contains(&drift.key);
        if asks {
            *verdict = Verdict { stalled: true, ..Verdict::bad(reason, message.clone()) };
        }
        // What a person is asked about comes first, and is worse news than what is left alone.
        if !reverting && verdict.drifted.is_none() {
            verdict.drifted = Some((reason, message));
        }
    }
    let drifted_of = |verdicts: &BTreeMap<ResourceKey, Verdict>, key: &ResourceKey| {
        verdicts.get(key).and_then(|verdict| verdict.drifted.clone())
    };
    for (key, unknown) in &plan.unknown {
        let verdict = Verdict {
            ready: ConditionStatus::Unknown,
            reconciling: true,
            drifted: drifted_of(&verdicts, key),
            ..Verdict::bad(unknown.reason, unknown.message.clone())
        };
        verdicts.insert(key.clone(), verdict);
    }
    // Of what was done, to undo something, and not seen since, nobody knows that it is undone.
    for blocked in plan.blocked.iter().filter(|blocked| !applied.unread.contains_key(&blocked.key)) {
        let drifted = drifted_of(&verdicts, &blocked.key);
        let waits = matches!(
            blocked.reason,
            Reason::DependencyNotReady | Reason::DependencyUnfinished | Reason::WindowClosed | Reason::BackingOff
        );
        let verdict = Verdict {
            stalled: !waits,
            reconciling: waits,
            drifted,
            until: blocked.until,
            ..Verdict::bad(blocked.reason, blocked.message.clone())
        };
        verdicts.insert(blocked.key.clone(), verdict);
    }
    for (key, error) in &applied.failed {
        let attempt = attempts.get(key);
        let dead = attempt.filter(|attempt| attempt.is_dead());
        let Hold { reason, message, .. } =
            dead.map_or_else(|| Hold::by(error.reason(), error.to_string()), attempts::verdict);
        let verdict = Verdict {
            stalled: dead.is_some(),
            reconciling: dead.is_none(),
            drifted: drifted_of(&verdicts, key),
            until: attempt.and_then(|attempt| attempt.next_at),
            ..Verdict::bad(reason, message)
        };
        verdicts.insert(key.clone(), verdict);
    }
    for (key, hold) in &applied.put_off {
        let verdict = Verdict {
            reconciling: true,
            drifted: drifted_of(&verdicts, key),
            until: hold.until,
            ..Verdict::bad(hold.reason, hold.message.clone())
        };
        verdicts.insert(key.clone(), verdict);
    }
    for (key, cause) in &applied.skipped {
        let message = format!("it waits for {cause}, which failed");
        let verdict = Verdict {
            reconciling: true,
            drifted: drifted_of(&verdicts, key),
            ..Verdict::bad(Reason::DependencyNotReady, message)
        };
        verdicts.insert(key.clone(), verdict);
    }
    verdicts
}

/// What a reason means, where there is no more to say.
fn said(reason: Reason) -> &'static str {
    reason.explain().trim()
}

/// The reason that says what is done about a drift.
pub(super) fn drift_reason(drift: &crate::model::Drift) -> Reason {
    if drift.missing {
        Reason::DataMissing
    } else if drift.silenced {
        Reason::DriftIgnored
    } else {
        match drift.mode {
            DriftMode::Propose if drift.fields.iter().any(|field| field.conflict) => Reason::ConflictHeld,
            DriftMode::Propose => Reason::DriftProposed,
            DriftMode::Revert => Reason::DriftReverted,
            DriftMode::Observe => Reason::DriftObserved,
        }
    }
}

/// Since when a verdict has its reason, where that is known.
pub(super) fn reason_since(
    verdict: &Verdict,
    before: Option<&ResourceStatus>,
    at: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let ready = |before: &&ResourceStatus| {
        let ready = before.condition(ConditionType::Ready);
        ready.is_some_and(|ready| (ready.status, ready.reason) == (verdict.ready, verdict.reason))
    };
    before.filter(ready).map_or(Some(at), |before| before.reason_since)
}

/// The four conditions of a verdict; a condition whose status did not change keeps its time.
pub(super) fn conditions(verdict: &Verdict, before: Option<&ResourceStatus>, at: DateTime<Utc>) -> Vec<Condition> {
    let flag = |holds: bool| if holds { ConditionStatus::True } else { ConditionStatus::False };
    let quiet = (Reason::AsExpected, String::new());
    let told = (verdict.reason, verdict.message.clone());
    // What cannot be seen has drifted still, as far as anybody knows.
    let before_unseen = before.filter(|_| verdict.ready == ConditionStatus::Unknown);
    let drifted_before = before_unseen.and_then(|before| before.condition(ConditionType::Drifted));
    let drifted_before = drifted_before.filter(|drifted| drifted.status == ConditionStatus::True);
    let drifted = verdict.drifted.clone().or(drifted_before.map(|drifted| (drifted.reason, drifted.message.clone())));
    let parts = [
        (ConditionType::Ready, verdict.ready, told.clone()),
        (
            ConditionType::Reconciling,
            flag(verdict.reconciling),
            if verdict.reconciling { told.clone() } else { quiet.clone() },
        ),
        (ConditionType::Stalled, flag(verdict.stalled), if verdict.stalled { told } else { quiet.clone() }),
        (ConditionType::Drifted, flag(drifted.is_some()), drifted.unwrap_or(quiet)),
    ];
    parts
        .into_iter()
        .map(|(condition_type, status, (reason, message))| {
            let known = before.and_then(|before| before.condition(condition_type));
            let last_transition_time =
                known.filter(|known| known.status == status).map_or(at, |known| known.last_transition_time);
            Condition { condition_type, status, reason, message, last_transition_time }
        })
        .collect()
}

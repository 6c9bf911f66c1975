//! The timeline of one execution: events are gathered and written a batch at a time, and that a step begins before it
//! does.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::model::{
    Action, Begun, Event, EventKind, ExecutionOutcome, Hold, Lease, PlanId, ResourceKey, Summary, Trigger,
};
use crate::store::audit::NewAudit;
use crate::store::inputs::PackedInputs;
use crate::store::{HistoryFilter, NewEvent, Scope, Store, StoreError, Tx};

use super::audit::Touched;
use super::reconcile::chain;
use super::{Listener, audit};

/// How often a store may fail to write events before it is given up, and the pause between: the store itself waits for
/// its database, so this often it is broken rather than away.
const FLUSH_FAILURES: u32 = 10;
const FLUSH_PAUSE: Duration = Duration::from_millis(50);

/// One execution while it runs. Dropped unfinished it stays `Running` in the store until the next one of its tenant calls
/// it interrupted.
pub(super) struct Timeline<'a> {
    store: &'a dyn Store,
    listener: &'a Listener,
    clock: &'a dyn crate::model::Clock,
    lease: &'a Lease,
    execution: i64,
    /// Whether another one was running still as this one was opened.
    ended_another: bool,
    waiting: Vec<NewEvent>,
    /// What each of those is in the audit log, where it is something.
    changes: Vec<Option<NewAudit>>,
    /// The steps that have begun and not ended, with what they touch.
    begun: BTreeMap<ResourceKey, Touched>,
    /// What steps began to change that is not in the records yet, whatever became of it.
    unrecorded: BTreeMap<ResourceKey, Begun>,
    /// For the audit log, before what the events say.
    audited: Vec<NewAudit>,
    /// What plans were made of, each with its number.
    inputs: Vec<(u32, PackedInputs)>,
    plans: u32,
    /// How many events are known to be written, and whether that is all that is known: a commit that failed may have
    /// arrived.
    written: usize,
    unsure: bool,
}

impl<'a> Timeline<'a> {
    /// Opens an execution; what `asked` for it is audited with its number.
    pub(super) async fn open(
        store: &'a dyn Store,
        listener: &'a Listener,
        clock: &'a dyn crate::model::Clock,
        lease: &'a Lease,
        trigger: Trigger,
        asked: Option<NewAudit>,
    ) -> Result<Self, StoreError> {
        let mut tx = store.begin(Scope::Leased(lease.clone())).await?;
        // Whoever was looking before the claim does so no more.
        let ended_another = interrupt(tx.as_mut(), &lease.tenant, clock.now()).await?;
        let execution = tx.start_execution(&lease.tenant, trigger, None, clock.now()).await?;
        if let Some(mut asked) = asked {
            asked.details.insert("execution".to_owned(), json!(execution));
            tx.append_audit(&lease.tenant, &[asked]).await?;
        }
        tx.commit().await?;
        Ok(Self {
            store,
            listener,
            clock,
            lease,
            execution,
            ended_another,
            waiting: Vec::new(),
            changes: Vec::new(),
            begun: BTreeMap::new(),
            unrecorded: BTreeMap::new(),
            audited: Vec::new(),
            inputs: Vec::new(),
            plans: 0,
            written: 0,
            unsure: false,
        })
    }

    /// The right to speak for the tenant that it is written under.
    pub(super) fn lease(&self) -> &'a Lease {
        self.lease
    }

    /// The number of the execution.
    pub(super) fn execution(&self) -> i64 {
        self.execution
    }

    /// Whether another one was running still as this one was opened, which has changed records.
    pub(super) fn ended_another(&self) -> bool {
        self.ended_another
    }

    /// The records have what the steps did that began until now.
    pub(super) fn note_recorded(&mut self) {
        self.unrecorded.clear();
    }

    /// Notes an event of the whole tenant.
    pub(super) fn note(&mut self, kind: EventKind) {
        self.push(None, kind);
    }

    /// Notes an event of one resource.
    pub(super) fn note_of(&mut self, key: &ResourceKey, kind: EventKind) {
        self.push(Some(key.clone()), kind);
    }

    /// Notes that the step of `key`, of which it is noted that it begins, has not begun and so has changed nothing.
    pub(super) fn note_not_begun(&mut self, key: &ResourceKey, action: Action, why: &Hold) {
        self.begun.remove(key);
        self.unrecorded.remove(key);
        let (reason, message) = (why.reason, format!("not begun: {}", why.message));
        self.note_of(key, EventKind::StepFailed { action, reason, message, millis: 0 });
    }

    /// Has these written into the audit log, with the events.
    pub(super) fn audit(&mut self, entries: Vec<NewAudit>) {
        self.audited.extend(entries);
    }

    /// Keeps what a plan was made of, with the events.
    pub(super) fn keep(&mut self, inputs: PackedInputs) {
        self.inputs.push((self.plans, inputs));
        self.plans += 1;
    }

    fn push(&mut self, key: Option<ResourceKey>, kind: EventKind) {
        let at = self.clock.now();
        let event = Event {
            id: 0,
            execution: self.execution,
            tenant: self.lease.tenant.clone(),
            at,
            key: key.clone(),
            kind: kind.clone(),
        };
        (self.listener)(&event);
        let event = NewEvent { key, at, kind };
        let change = self.change(&event);
        self.changes.push(change);
        self.waiting.push(event);
    }

    /// What the audit log says of an event that ends a step. What failed before it began has changed nothing.
    fn change(&mut self, event: &NewEvent) -> Option<NewAudit> {
        let key = event.key.as_ref()?;
        match &event.kind {
            EventKind::StepStarted { changes, new_passwords, .. } => {
                self.begun.insert(key.clone(), Touched::by(changes, new_passwords));
                self.unrecorded.entry(key.clone()).or_default().add(changes, !new_passwords.is_empty());
                None
            }
            EventKind::StepDone { .. } | EventKind::StepFailed { .. } => {
                let touched = self.begun.remove(key)?;
                audit::changed(self.execution, event, &touched)
            }
            _ => None,
        }
    }

    /// Writes what was noted, once: what a commit wrote that was told to have failed is not written again.
    pub(super) async fn flush(&mut self) -> Result<(), StoreError> {
        if self.waiting.is_empty() && self.audited.is_empty() {
            return Ok(());
        }
        let mut tx = self.store.begin(Scope::Leased(self.lease.clone())).await?;
        if self.unsure {
            let all = HistoryFilter { execution: Some(self.execution), limit: u32::MAX, ..HistoryFilter::default() };
            let arrived = tx.events(&all).await?.len().saturating_sub(self.written);
            self.waiting.drain(..arrived.min(self.waiting.len()));
            self.changes.drain(..arrived.min(self.changes.len()));
            if arrived > 0 {
                // They were written in one transaction.
                self.audited.clear();
                self.inputs.clear();
            }
            (self.written, self.unsure) = (self.written + arrived, false);
        }
        tx.append_events(self.execution, &self.lease.tenant, &self.waiting).await?;
        let mut audited = self.audited.clone();
        audited.extend(self.changes.iter().flatten().cloned());
        tx.append_audit(&self.lease.tenant, &audited).await?;
        for (plan, inputs) in &self.inputs {
            tx.put_plan_inputs(self.execution, &self.lease.tenant, *plan, inputs).await?;
        }
        self.unsure = true;
        tx.commit().await?;
        (self.written, self.unsure) = (self.written + self.waiting.len(), false);
        self.waiting.clear();
        self.changes.clear();
        self.audited.clear();
        self.inputs.clear();
        Ok(())
    }

    /// Writes what was noted as soon as the store is back: one that is restarted loses nothing.
    pub(super) async fn flush_patiently(&mut self) -> Result<(), StoreError> {
        let mut failures = 0;
        loop {
            match self.flush().await {
                Err(error) if failures < FLUSH_FAILURES && !matches!(error, StoreError::LostLease { .. }) => {
                    failures += 1;
                    tracing::debug!(error = chain(&error), "events could not be written down");
                    tokio::time::sleep(FLUSH_PAUSE).await;
                }
                flushed => return flushed,
            }
        }
    }

    /// Ends the execution, even where what was noted of it cannot be written: one that stays `Running` would say that
    /// somebody is at work. It is then `Interrupted`, since what is on record of it is not whole, and what it may have
    /// changed is audited.
    ///
    /// # Errors
    /// The first of what went wrong.
    pub(super) async fn finish(
        mut self,
        outcome: ExecutionOutcome,
        commit: Option<&str>,
        plan: Option<&PlanId>,
        summary: Summary,
    ) -> Result<(), StoreError> {
        let flushed = self.flush_patiently().await;
        let (is_whole, now) = (flushed.is_ok(), self.clock.now());
        let outcome = if is_whole { outcome } else { ExecutionOutcome::Interrupted };
        let finished = async {
            let mut tx = self.store.begin(Scope::Leased(self.lease.clone())).await?;
            if !is_whole {
                let events = all_events(tx.as_mut(), self.execution).await?;
                audit_what_has_no_end(tx.as_mut(), &self.lease.tenant, self.execution, &events, now).await?;
            }
            remember_what_began(tx.as_mut(), std::mem::take(&mut self.unrecorded)).await?;
            tx.finish_execution(self.execution, outcome, commit, plan, summary, now).await?;
            tx.commit().await
        };
        flushed.and(finished.await)
    }
}

/// Ends what whoever had `tenant` before left running, by a death or with its lease, and writes down what that may have
/// changed: nobody else will. Says whether there was anything.
pub(super) async fn interrupt(tx: &mut dyn Tx, tenant: &str, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let running = tx.interrupt_running(now).await?;
    for execution in &running {
        let events = all_events(tx, *execution).await?;
        audit_what_has_no_end(tx, tenant, *execution, &events, now).await?;
        let mut began: BTreeMap<ResourceKey, Begun> = BTreeMap::new();
        for event in events {
            if let (Some(key), EventKind::StepStarted { changes, new_passwords, .. }) = (event.key, event.kind) {
                began.entry(key).or_default().add(&changes, !new_passwords.is_empty());
            }
        }
        remember_what_began(tx, began).await?;
    }
    Ok(!running.is_empty())
}

async fn all_events(tx: &mut dyn Tx, execution: i64) -> Result<Vec<Event>, StoreError> {
    let all = HistoryFilter { execution: Some(execution), limit: u32::MAX, ..HistoryFilter::default() };
    let mut events = tx.events(&all).await?;
    events.reverse();
    Ok(events)
}

async fn audit_what_has_no_end(
    tx: &mut dyn Tx,
    tenant: &str,
    execution: i64,
    events: &[Event],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    tx.append_audit(tenant, &audit::without_end(execution, events, now)).await
}

/// Has the records know what steps began of which they do not say how it ended: else it would be taken for somebody else's
/// doing.
async fn remember_what_began(tx: &mut dyn Tx, began: BTreeMap<ResourceKey, Begun>) -> Result<(), StoreError> {
    let mut records = Vec::new();
    for (key, began) in began {
        if let Some(mut record) = tx.record(&key).await?.filter(|record| !record.retained) {
            record.begun.join(began);
            records.push(record);
        }
    }
    if records.is_empty() { Ok(()) } else { tx.put_records(&records).await }
}

//! Runs a plan's steps: in parallel as the graph allows, within each provider's and the tenant's limits. Decides
//! nothing; a failed step blocks only its dependents.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::OwnedSemaphorePermit;

use crate::managers::{Cx, ManagerError, Outcome, ResourceManager};
use crate::model::{EventKind, Lease, Plan, Platform, Reason, ResourceKey, Settle, Slot, Step, Unknown};

use super::Engine;
use super::fleet::{Access, Member};
use super::lease::{Going, Held};
use super::passwords::Fenced;
use super::reconcile::chain;
use super::schedule::share_of;
use super::timeline::Timeline;

/// What became of the steps.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub done: BTreeSet<ResourceKey>,
    pub failed: BTreeMap<ResourceKey, ManagerError>,
    /// Not tried, since a step they depend on failed; with the key of that step.
    pub skipped: BTreeMap<ResourceKey, ResourceKey>,
    /// Not begun, since the look ended early: a newer commit is there, or the lease may have ended.
    pub put_off: BTreeSet<ResourceKey>,
    /// Done, and not seen since: their provider did not answer when they were read back. They are not recorded yet.
    pub unread: BTreeMap<ResourceKey, Unknown>,
}

impl Applied {
    /// Whether a target was not what its step expected, so that planning anew may help at once.
    pub(super) fn has_conflict(&self) -> bool {
        self.failed.values().any(|error| matches!(error, ManagerError::Conflict { .. }))
    }
}

impl Engine {
    /// Applies every step of `plan`, at most `width` at once, for as long as the lease is held and no newer commit is
    /// there.
    pub(super) async fn apply(
        &self,
        platform: &Platform,
        plan: &Plan,
        width: usize,
        held: &Held,
        timeline: &mut Timeline<'_>,
    ) -> Applied {
        let mut applied = Applied::default();
        let mut waiting: Vec<&Step> = plan.steps.iter().rev().collect();
        let mut running: Running<'_, '_> = FuturesUnordered::new();
        let mut arrived = Vec::new();
        loop {
            let coming = arrived.len();
            start_ready(&mut waiting, &mut applied, |step| {
                if running.len() + coming >= width || held.going() != Going::On {
                    return Room::Full;
                }
                running.push(self.take_slot(platform, step, held).boxed());
                Room::Taken
            });
            if arrived.is_empty() {
                arrived.extend(running.next().await);
            }
            // What is there by now goes together.
            while let Some(Some(more)) = running.next().now_or_never() {
                arrived.push(more);
            }
            if arrived.is_empty() {
                break;
            }
            let mut beginning = Vec::new();
            for progress in std::mem::take(&mut arrived) {
                match progress {
                    Progress::NotBegun { step } => waiting.push(step),
                    Progress::HasSlot { step, manager, slot } => {
                        let Step { action, changes, destructive, .. } = step.clone();
                        timeline.note_of(&step.key, EventKind::StepStarted { action, changes, destructive });
                        beginning.push((step, manager, slot));
                    }
                    Progress::Over { step, result, millis } => note_end(step, result, millis, &mut applied, timeline),
                }
            }
            if beginning.is_empty() {
                continue;
            }
            let written = meanwhile(write_ahead(timeline, held), &mut running, &mut arrived).await;
            for (step, manager, slot) in beginning {
                match &written {
                    Ok(()) => running.push(self.take_step(platform, step, manager, slot, held).boxed()),
                    Err(error) => running.push(give_up(step, slot, error.clone(), held).boxed()),
                }
            }
        }
        applied.put_off = waiting.iter().map(|step| step.key.clone()).collect();
        applied
    }

    /// Brings marks up to date whose fields were settled without a step. A mark that cannot be written is only older
    /// than it could be; the next pass tries again.
    pub(super) async fn remark(&self, platform: &Platform, settles: &[Settle], width: usize, held: &Held) {
        let steps = settles.iter().filter_map(|settle| match settle {
            Settle::Record { remark, .. } => remark.as_deref(),
            Settle::Forget { .. } => None,
        });
        futures::stream::iter(steps)
            .for_each_concurrent(width, |step| async move {
                let remarked = async {
                    if let Some((manager, slot)) = self.slot_for(platform, step, held).await? {
                        let remarked = self.run(platform, step, manager.as_ref(), held.lease()).await;
                        held.slots().give(slot.slot).await;
                        drop(remarked?);
                    }
                    Ok::<_, ManagerError>(())
                };
                if let Err(error) = remarked.await {
                    tracing::debug!(key = %step.key, %error, "a mark could not be brought up to date");
                }
            })
            .await;
    }

    /// Lets each provider clear away what a killed process left on it. What cannot be cleared now is tried again.
    pub(super) async fn tidy(&self, platform: &Platform, providers: &[String]) {
        for provider in providers {
            let tidied = match self.fleet.member(platform, provider, Access::Write) {
                Ok(Member { manager, .. }) => manager.tidy().await,
                Err(error) => Err(error),
            };
            if let Err(error) = tidied {
                tracing::debug!(provider, %error, "leftovers could not be cleared away");
            }
        }
    }

    /// Waits for the provider to have room for a step.
    async fn take_slot<'s>(&self, platform: &Platform, step: &'s Step, held: &Held) -> Progress<'s> {
        match self.slot_for(platform, step, held).await {
            Ok(Some((manager, slot))) => Progress::HasSlot { step, manager, slot },
            Ok(None) => Progress::NotBegun { step },
            Err(error) => Progress::Over { step, result: Err(error), millis: 0 },
        }
    }

    async fn take_step<'s>(
        &self,
        platform: &Platform,
        step: &'s Step,
        manager: Arc<dyn ResourceManager>,
        slot: Taken,
        held: &Held,
    ) -> Progress<'s> {
        let started = tokio::time::Instant::now();
        let result = self.run(platform, step, manager.as_ref(), held.lease()).await;
        held.slots().give(slot.slot).await;
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Progress::Over { step, result, millis }
    }

    /// The manager for a step, once there is room: in this process, and over all replicas. `None` when the look may
    /// begin nothing more by then; the wait may have been long.
    async fn slot_for(
        &self,
        platform: &Platform,
        step: &Step,
        held: &Held,
    ) -> Result<Option<(Arc<dyn ResourceManager>, Taken)>, ManagerError> {
        let Member { manager, slots } = self.fleet.member(platform, &step.provider, Access::Write)?;
        let limit = platform.providers.get(&step.provider).map_or(1, |spec| spec.max_concurrency);
        let closed = |_| ManagerError::retry(Reason::Internal, "the engine is shutting down");
        let permit = slots.acquire_owned().await.map_err(closed)?;
        let (mut tries, mut failures) = (0, 0);
        while held.going() == Going::On {
            match held.slots().take(&step.provider, limit).await {
                Ok(Some(slot)) => return Ok(Some((manager, Taken { slot, _permit: permit }))),
                Ok(None) => {}
                // A store that is restarted is no failure of the step.
                Err(error) if failures < SLOT_FAILURES => {
                    failures += 1;
                    tracing::debug!(key = %step.key, error = chain(&error), "a slot could not be asked for");
                }
                Err(error) => return Err(ManagerError::retry(Reason::Internal, chain(&error))),
            }
            tries += 1;
            // Each waits a little differently, so that those who wait do not ask in step.
            let whole = SLOT_PATIENCE;
            tokio::time::sleep(whole / 2 + share_of(&format!("{} {tries}", step.key), whole)).await;
        }
        Ok(None)
    }

    async fn run(
        &self,
        platform: &Platform,
        step: &Step,
        manager: &dyn ResourceManager,
        lease: &Lease,
    ) -> Result<Outcome, ManagerError> {
        let secrets = Fenced { passwords: self.passwords.as_ref(), lease };
        manager.apply(step, &Cx { platform: &platform.id, secrets: &secrets }).await
    }
}

/// Writes down which steps begin, with what has ended since, before they do: a death leaves their trace.
async fn write_ahead(timeline: &mut Timeline<'_>, held: &Held) -> Result<(), ManagerError> {
    match timeline.flush_patiently().await {
        Ok(()) if held.going() == Going::Lost => {
            Err(ManagerError::retry(Reason::Internal, "the lease may have ended before the step began"))
        }
        Ok(()) => Ok(()),
        Err(error) => Err(ManagerError::retry(Reason::Internal, chain(&error))),
    }
}

/// Ends a step that was not begun. Beside the others: giving back may have to wait for one of them.
async fn give_up<'s>(step: &'s Step, slot: Taken, error: ManagerError, held: &Held) -> Progress<'s> {
    held.slots().give(slot.slot).await;
    Progress::Over { step, result: Err(error), millis: 0 }
}

/// Waits for `work`, while what runs goes on.
async fn meanwhile<'s, T>(
    work: impl Future<Output = T>,
    running: &mut Running<'_, 's>,
    arrived: &mut Vec<Progress<'s>>,
) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            Some(progress) = running.next(), if !running.is_empty() => arrived.push(progress),
        }
    }
}

/// Notes how a step ended.
fn note_end(
    step: &Step,
    result: Result<Outcome, ManagerError>,
    millis: u64,
    applied: &mut Applied,
    timeline: &mut Timeline<'_>,
) {
    let (key, action) = (step.key.clone(), step.action);
    match result {
        Ok(Outcome { notes }) => {
            timeline.note_of(&key, EventKind::StepDone { action, millis });
            for message in notes {
                timeline.note_of(&key, EventKind::Warning { reason: Reason::Applied, message });
            }
            applied.done.insert(key);
        }
        Err(error) => {
            let (reason, message) = (error.reason(), error.to_string());
            timeline.note_of(&key, EventKind::StepFailed { action, reason, message, millis });
            applied.failed.insert(key, error);
        }
    }
}

/// How long a step waits, on average, before it asks again whether its provider has room.
const SLOT_PATIENCE: Duration = Duration::from_millis(50);

/// How often in all a store may fail to say that before the step fails: the store itself waits for its database, so this
/// often it is broken rather than away.
const SLOT_FAILURES: u32 = 10;

/// Room for one step on its provider.
struct Taken {
    slot: Slot,
    _permit: OwnedSemaphorePermit,
}

/// Steps that are under way.
type Running<'f, 's> = FuturesUnordered<BoxFuture<'f, Progress<'s>>>;

/// How far a step has come.
enum Progress<'s> {
    /// The provider has room for it.
    HasSlot {
        step: &'s Step,
        manager: Arc<dyn ResourceManager>,
        slot: Taken,
    },
    /// There was no room before the look ended.
    NotBegun {
        step: &'s Step,
    },
    Over {
        step: &'s Step,
        result: Result<Outcome, ManagerError>,
        millis: u64,
    },
}

/// Offers waiting steps (the last one first) whose dependencies are done to `start`, until it has no more room, and
/// sets aside those whose dependencies failed.
fn start_ready<'s>(waiting: &mut Vec<&'s Step>, applied: &mut Applied, mut start: impl FnMut(&'s Step) -> Room) {
    let mut not_yet = Vec::new();
    while let Some(step) = waiting.pop() {
        let broken = step
            .depends_on
            .iter()
            .find(|key| applied.failed.contains_key(*key) || applied.skipped.contains_key(*key))
            .cloned();
        if let Some(broken) = broken {
            applied.skipped.insert(step.key.clone(), broken);
        } else if !step.depends_on.iter().all(|key| applied.done.contains(key)) {
            not_yet.push(step);
        } else if let Room::Full = start(step) {
            not_yet.push(step);
            break;
        }
    }
    waiting.extend(not_yet.into_iter().rev());
}

/// Whether a step found room to run.
enum Room {
    Taken,
    Full,
}

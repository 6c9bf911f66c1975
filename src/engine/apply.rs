//! Runs a plan's steps: in parallel as the graph allows, within each provider's and the tenant's limits. Decides
//! nothing; a failed step blocks only its dependents.
//!
//! What always holds: no step begins once the lease may have ended, the look is told to stop or has made room for others,
//! or while its environment's windows are closed or its provider's circuit was seen open, however long it has waited for
//! room.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::managers::{Cx, ManagerError, Outcome, ResourceManager};
use crate::model::{
    Circuit, Clock, EventKind, Hold, Lease, Plan, Platform, Reason, ResourceKey, Settle, Slot, Step, Unknown, Window,
};

use super::circuits::is_silence;
use super::fleet::{Access, Member};
use super::lease::{Going, Held};
use super::passwords::Fenced;
use super::reconcile::chain;
use super::schedule::share_of;
use super::slots::{self, Crowd};
use super::timeline::Timeline;
use super::{Engine, circuits, windows};

/// What became of the steps.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub done: BTreeSet<ResourceKey>,
    pub failed: BTreeMap<ResourceKey, ManagerError>,
    /// Not tried, since a step they depend on failed; with the key of that step.
    pub skipped: BTreeMap<ResourceKey, ResourceKey>,
    /// Not begun, with why: a window has closed, its provider does not answer any more, a newer commit is there, the process
    /// stops, others wait, the store does not take down that it begins, or the lease may have ended.
    pub put_off: BTreeMap<ResourceKey, Hold>,
    /// Done, and not seen since: their provider did not answer when they were read back. They are not recorded yet.
    pub unread: BTreeMap<ResourceKey, Unknown>,
}

impl Applied {
    /// Whether a target was not what its step expected, so that planning anew may help at once.
    pub(super) fn has_conflict(&self) -> bool {
        self.failed.values().any(|error| matches!(error, ManagerError::Conflict { .. }))
    }

    /// Whether the look ended before all was begun that could have been.
    pub(super) fn was_cut_short(&self) -> bool {
        self.put_off.values().any(|hold| hold.reason == Reason::Pending)
    }

    /// When the first of what was put off goes on by itself.
    pub(super) fn goes_on_at(&self) -> Option<DateTime<Utc>> {
        self.put_off.values().filter_map(|hold| hold.until).min()
    }
}

/// What may be begun in a look.
struct Gate<'a> {
    held: &'a Held,
    windows: &'a [Window],
    clock: &'a dyn Clock,
    /// The environments that were found closed. They stay so for this look: it ends, and the one that comes when they
    /// open goes on.
    closed: Mutex<BTreeMap<String, Hold>>,
    /// The providers whose circuit was seen open since the look began, which stay closed for it too.
    silent: Mutex<BTreeMap<String, Hold>>,
    /// When a provider that gave a step no answer was asked who it is. Whoever asks holds it.
    asked: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Option<Instant>>>>>,
    /// The limits that steps wait for.
    crowd: Crowd,
}

impl<'a> Gate<'a> {
    fn of(held: &'a Held, windows: &'a [Window], clock: &'a dyn Clock) -> Self {
        let (closed, silent, asked) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { held, windows, clock, closed, silent, asked, crowd: Crowd::default() }
    }

    /// Whether a step may begin now.
    fn is_open_for(&self, step: &Step) -> bool {
        self.held.going_for_a_step() == Going::On && self.closes(step).is_none()
    }

    /// Why neither a window nor the circuit of its provider lets a step pass now.
    fn closes(&self, step: &Step) -> Option<Hold> {
        let environment = &step.key.environment;
        let mut closed = locked(&self.closed);
        if !closed.contains_key(environment) {
            closed.extend(windows::closed(self.windows, std::slice::from_ref(environment), self.clock.now()));
        }
        if let Some(hold) = closed.get(environment) {
            return Some(hold.clone());
        }
        locked(&self.silent).get(&step.provider).cloned()
    }

    /// Why nothing passes any more once the process is told to stop.
    fn stops(&self) -> Option<Hold> {
        (self.held.going() == Going::Stopping).then(|| Hold::by(Reason::Pending, self.ended_early()))
    }

    /// Lets nothing more pass to the provider of a circuit.
    fn close_to(&self, circuit: &Circuit) {
        locked(&self.silent).insert(circuit.provider.clone(), circuits::hold(circuit));
    }

    fn asked(&self, provider: &str) -> Arc<tokio::sync::Mutex<Option<Instant>>> {
        Arc::clone(locked(&self.asked).entry(provider.to_owned()).or_default())
    }

    /// Why the look begins nothing more.
    fn ended_early(&self) -> &'static str {
        match self.held.going() {
            Going::Stopping => "the process that looked was told to stop; the next look goes on at once",
            Going::Yielding => "others wait for their turn; it goes on after them",
            Going::On | Going::Superseded | Going::Lost => "this look ended early, and the next one goes on",
        }
    }

    /// Why a step that was not begun was not.
    fn verdict(&self, step: &Step, applied: &Applied) -> Hold {
        if let Some(hold) = self.closes(step) {
            return hold;
        }
        match step.depends_on.iter().find(|key| !applied.done.contains(*key)) {
            Some(waited_for) if self.held.going() == Going::On => {
                Hold::by(Reason::DependencyNotReady, format!("it waits for {waited_for}, which was put off"))
            }
            Some(_) | None => Hold::by(Reason::Pending, format!("not begun: {}", self.ended_early())),
        }
    }
}

impl Engine {
    /// Applies every step of `plan`, at most `width` at once, for as long as the lease is held, nobody says stop or waits
    /// for longer than a slice, no newer commit is there, windows are open, and providers answer.
    pub(super) async fn apply(
        &self,
        platform: &Platform,
        plan: &Plan,
        width: usize,
        held: &Held,
        timeline: &mut Timeline<'_>,
    ) -> Applied {
        let gate = Gate::of(held, &platform.spec.windows, self.clock.as_ref());
        let mut applied = Applied::default();
        let mut waiting: Vec<&Step> = plan.steps.iter().rev().collect();
        let mut running: Running<'_, '_> = FuturesUnordered::new();
        let mut arrived = Vec::new();
        loop {
            let coming = arrived.len();
            start_ready(&mut waiting, &mut applied, |step| {
                if held.going_for_a_step() != Going::On {
                    return Room::Full;
                }
                if running.len() + coming >= width {
                    gate.crowd.waits_for(slots::tenant_is_full(width));
                    return Room::Full;
                }
                if let Some(hold) = gate.closes(step) {
                    return Room::Closed(hold);
                }
                running.push(self.take_slot(platform, step, &gate).boxed());
                Room::Taken
            });
            if arrived.is_empty() {
                tokio::select! {
                    biased;
                    next = running.next() => match next {
                        Some(progress) => arrived.push(progress),
                        None => break,
                    },
                    () = gate.crowd.grown() => {
                        gate.crowd.take().into_iter().for_each(|limit| timeline.note(limit));
                        // What cannot be written now is written with the next step, which is not begun before.
                        let _ = meanwhile(timeline.flush(), &mut running, &mut arrived).await;
                    }
                }
            }
            // What is there by now goes together.
            while let Some(Some(more)) = running.next().now_or_never() {
                arrived.push(more);
            }
            if arrived.is_empty() {
                continue;
            }
            let mut beginning = Vec::new();
            for progress in std::mem::take(&mut arrived) {
                match progress {
                    Progress::NotBegun { step } => waiting.push(step),
                    Progress::PutOff { step, why } => drop(applied.put_off.insert(step.key.clone(), why)),
                    Progress::HasSlot { step, slot, .. } if !gate.is_open_for(step) => {
                        running.push(give_back(slot, Progress::NotBegun { step }, held).boxed());
                    }
                    Progress::HasSlot { step, manager, slot } => {
                        let new_passwords = step.new_passwords();
                        let Step { action, changes, destructive, .. } = step.clone();
                        let begins = EventKind::StepStarted { action, changes, destructive, new_passwords };
                        timeline.note_of(&step.key, begins);
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
                // To write it down may have taken long, where the database was away.
                let (why, then) = match (&written, gate.closes(step).or_else(|| gate.stops())) {
                    (Ok(()), None) => {
                        running.push(self.take_step(platform, step, manager, slot, &gate).boxed());
                        continue;
                    }
                    (Ok(()), Some(why)) => (why, Progress::NotBegun { step }),
                    // What was not tried has not failed; the next look may have a store that takes it down.
                    (Err(why), _) => (why.clone(), Progress::PutOff { step, why: why.clone() }),
                };
                timeline.note_not_begun(&step.key, step.action, &why);
                running.push(give_back(slot, then, held).boxed());
            }
        }
        let left: Vec<_> = waiting.iter().map(|step| (step.key.clone(), gate.verdict(step, &applied))).collect();
        applied.put_off.extend(left);
        for (key, Hold { reason, message, .. }) in &applied.put_off {
            if *reason != Reason::Pending {
                timeline.note_of(key, EventKind::Blocked { reason: *reason, message: message.clone() });
            }
        }
        if applied.was_cut_short() && matches!(held.going(), Going::Stopping | Going::Yielding) {
            // Of all at once: what is left of a long push is much.
            let left = applied.put_off.values().filter(|hold| hold.reason == Reason::Pending).count();
            let message = format!("{} not begun: {}", steps(left), gate.ended_early());
            timeline.note(EventKind::Blocked { reason: Reason::Pending, message });
        }
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
                    let goes_on = || held.going() == Going::On;
                    if let Some((manager, slot)) = self.slot_for(platform, step, held, goes_on, |_| ()).await? {
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
    async fn take_slot<'s>(&self, platform: &Platform, step: &'s Step, gate: &Gate<'_>) -> Progress<'s> {
        let goes_on = || gate.is_open_for(step);
        let waits = |limit| gate.crowd.waits_for(slots::provider_is_full(&step.provider, limit));
        match self.slot_for(platform, step, gate.held, goes_on, waits).await {
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
        gate: &Gate<'_>,
    ) -> Progress<'s> {
        let (held, started) = (gate.held, Instant::now());
        let result = self.run(platform, step, manager.as_ref(), held.lease()).await;
        let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if result.as_ref().is_err_and(is_silence) && held.going() == Going::On {
            // While nobody knows whether the provider is there, nothing else is begun in this place.
            self.ask_after_silence(platform, &step.provider, gate).await;
        }
        held.slots().give(slot.slot).await;
        Progress::Over { step, result, millis }
    }

    /// Asks a provider that has just given a step no answer who it is, once for all steps that had none meanwhile, and
    /// begins nothing more there where its circuit is open by then.
    async fn ask_after_silence(&self, platform: &Platform, provider: &str, gate: &Gate<'_>) {
        let (silent, asked) = (Instant::now(), gate.asked(provider));
        let mut asked = asked.lock().await;
        if asked.is_some_and(|asked| asked >= silent) {
            return;
        }
        match self.ask_who(platform, provider).await {
            Ok(Some(circuit)) => gate.close_to(&circuit),
            Ok(None) => {}
            Err(error) => tracing::debug!(provider, error = chain(&error), "its circuit cannot be read"),
        }
        *asked = Some(Instant::now());
    }

    /// The manager for a step, once there is room: in this process, and over all replicas. `None` when it is not to go on
    /// any more by then; the wait may be long, and `waits` hears of it with the provider's limit.
    async fn slot_for(
        &self,
        platform: &Platform,
        step: &Step,
        held: &Held,
        goes_on: impl Fn() -> bool + Send + Sync,
        waits: impl Fn(usize) + Send + Sync,
    ) -> Result<Option<(Arc<dyn ResourceManager>, Taken)>, ManagerError> {
        let Member { manager, slots } = self.fleet.member(platform, &step.provider, Access::Write)?;
        let limit = platform.providers.get(&step.provider).map_or(1, |spec| spec.max_concurrency);
        let closed = |_| ManagerError::retry(Reason::Internal, "the engine is shutting down");
        let mut room = pin!(slots.acquire_owned());
        let permit = loop {
            match tokio::time::timeout(ROOM_PATIENCE, &mut room).await {
                Ok(permit) => break permit.map_err(closed)?,
                Err(_) if goes_on() => waits(limit),
                Err(_) => return Ok(None),
            }
        };
        let (mut tries, mut failures, began) = (0, 0, Instant::now());
        while goes_on() {
            match held.slots().take(&step.provider, limit).await {
                Ok(Some(slot)) => return Ok(Some((manager, Taken { slot, _permit: permit }))),
                Ok(None) if began.elapsed() >= ROOM_PATIENCE => waits(limit),
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes down which steps begin, with what has ended since, before they do: a death leaves their trace.
async fn write_ahead(timeline: &mut Timeline<'_>, held: &Held) -> Result<(), Hold> {
    let unwritten = match timeline.flush_patiently().await {
        Ok(()) if held.going() == Going::Lost => "the lease may have ended before".to_owned(),
        Ok(()) => return Ok(()),
        Err(error) => format!("that it begins could not be written down: {}", chain(&error)),
    };
    Err(Hold::by(Reason::Pending, unwritten))
}

/// Gives back the slot of a step that is not begun; gives what becomes of the step. Beside the others: giving back may
/// have to wait for one of them.
async fn give_back<'s>(slot: Taken, then: Progress<'s>, held: &Held) -> Progress<'s> {
    held.slots().give(slot.slot).await;
    then
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

/// So many steps, as a sentence begins.
fn steps(number: usize) -> String {
    if number == 1 { "1 step was".to_owned() } else { format!("{number} steps were") }
}

/// How long a step waits for the others of its process before it looks whether it may go on waiting.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);

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
    /// There was no room for it before the look ended, or its window closed.
    NotBegun {
        step: &'s Step,
    },
    /// That it begins is on no record, so it is not begun.
    PutOff {
        step: &'s Step,
        why: Hold,
    },
    Over {
        step: &'s Step,
        result: Result<Outcome, ManagerError>,
        millis: u64,
    },
}

/// Offers waiting steps (the last one first) whose dependencies are done to `start`, until it has no more room, and
/// sets aside those whose dependencies failed and those that it puts off.
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
        } else {
            match start(step) {
                Room::Taken => {}
                Room::Closed(hold) => drop(applied.put_off.insert(step.key.clone(), hold)),
                Room::Full => {
                    not_yet.push(step);
                    break;
                }
            }
        }
    }
    waiting.extend(not_yet.into_iter().rev());
}

/// Whether a step found room to run.
enum Room {
    Taken,
    Full,
    /// None until its window opens.
    Closed(Hold),
}

//! When tenants get a look: polls, drift scans, retries and requests all do the same thing, they mark a tenant.
//!
//! What always holds: a tenant is never looked at twice at once; marks that come meanwhile become one look after;
//! a new commit ends the waiting for a retry.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::model::{Platform, Trigger};
use crate::source::Refs;
use crate::store::StoreError;

use super::platform::PlatformStatus;
use super::reconcile::{Ask, Width};
use super::{Engine, EngineError, blocking, windows};

/// How many tenants are looked at, or asked for their refs, at once. Looks mostly wait for others' servers.
const TENANTS_AT_ONCE: usize = 8;

/// Every so many drift scans one looks inside each object.
const DEEP_EVERY: u32 = 6;

/// The first wait before a retry, and the longest.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_LONGEST: Duration = Duration::from_secs(300);

/// The longest sleep between two looks at what is due: often enough for schedules that follow the clock on the wall.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// How often old executions are forgotten.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// Asks the schedule for a look from outside.
#[derive(Clone)]
pub struct Looks {
    requests: mpsc::UnboundedSender<Option<String>>,
    tenants: watch::Receiver<BTreeSet<String>>,
}

impl Looks {
    /// Marks one tenant, or all; says whether there is such a tenant.
    pub fn mark(&self, tenant: Option<&str>) -> bool {
        if tenant.is_some_and(|tenant| !self.tenants.borrow().contains(tenant)) {
            return false;
        }
        self.requests.send(tenant.map(str::to_owned)).is_ok()
    }
}

/// The schedule of one engine.
pub struct Schedule {
    engine: Arc<Engine>,
    requests: mpsc::UnboundedReceiver<Option<String>>,
    tenants: watch::Sender<BTreeSet<String>>,
    ready: watch::Sender<bool>,
    places: BTreeMap<String, Place>,
    slots: Arc<Semaphore>,
    in_force: Option<PlatformStatus>,
    reads_platform: bool,
    /// What kept the platform from being read last time, so that it is logged once.
    platform_error: Option<String>,
}

/// Where one tenant stands in the schedule.
struct Place {
    /// The refs that the last look, or poll, saw.
    seen: Option<Refs>,
    busy: bool,
    marked: Option<Ask>,
    poll_at: Instant,
    drift_at: Option<DateTime<Utc>>,
    scans: u32,
    retry_at: Option<Instant>,
    failures: u32,
    looked: bool,
}

/// What a task of the schedule brings back.
enum Done {
    /// The schedule ended before it began.
    Ended,
    /// Nothing more may be done.
    Over(EngineError),
    Platform(Box<Result<PlatformStatus, EngineError>>),
    Polled(String, Result<Refs, EngineError>),
    Looked {
        tenant: String,
        wants_retry: bool,
        refs: Option<Refs>,
    },
}

impl Schedule {
    /// A schedule, the handle that marks tenants, and the flag that is set once every tenant was looked at.
    pub fn new(engine: Arc<Engine>) -> (Self, Looks, watch::Receiver<bool>) {
        let (requests_in, requests) = mpsc::unbounded_channel();
        let (tenants, tenants_out) = watch::channel(BTreeSet::new());
        let (ready, ready_out) = watch::channel(false);
        let schedule = Self {
            engine,
            requests,
            tenants,
            ready,
            places: BTreeMap::new(),
            slots: Arc::new(Semaphore::new(TENANTS_AT_ONCE)),
            in_force: None,
            reads_platform: false,
            platform_error: None,
        };
        (schedule, Looks { requests: requests_in, tenants: tenants_out }, ready_out)
    }

    /// Runs until `shutdown` is done, then lets the looks that are under way end.
    ///
    /// # Errors
    /// When the store says that another process may be reconciling by now.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), EngineError> {
        let mut tasks = JoinSet::new();
        let mut platform_at = Instant::now();
        let mut prune_at = Instant::now();
        tokio::pin!(shutdown);
        let ended = loop {
            let now = Instant::now();
            if now >= platform_at && !self.reads_platform {
                self.reads_platform = true;
                let engine = Arc::clone(&self.engine);
                tasks.spawn(async move { Done::Platform(Box::new(engine.platform().await)) });
                platform_at = now + self.poll_interval();
            }
            if now >= prune_at {
                self.prune().await;
                prune_at = now + PRUNE_EVERY;
            }
            self.start_due(&mut tasks);
            let platform_due = if self.reads_platform { now + LONGEST_SLEEP } else { platform_at };
            let wake = self.next_wake().min(platform_due).min(prune_at);
            tokio::select! {
                () = &mut shutdown => break Ok(()),
                () = tokio::time::sleep_until(wake) => {}
                Some(request) = self.requests.recv() => {
                    self.mark_requested(request);
                    platform_at = Instant::now();
                }
                Some(done) = tasks.join_next() => match done {
                    Ok(Done::Over(error)) => break Err(error),
                    Ok(Done::Platform(read)) if read.as_ref().as_ref().is_err_and(is_over) => {
                        break read.map(drop);
                    }
                    Ok(done) => self.finish(done),
                    Err(error) => tracing::error!(%error, "a look ended early"),
                },
            }
        };
        // Looks that wait for a slot are not begun any more; those under way end in peace.
        self.slots.close();
        while tasks.join_next().await.is_some() {}
        ended
    }

    fn poll_interval(&self) -> Duration {
        self.in_force.as_ref().map_or(RETRY_FIRST, |status| status.platform.spec.poll_interval.0)
    }

    fn take_platform(&mut self, read: Result<PlatformStatus, EngineError>) {
        self.reads_platform = false;
        match read {
            Ok(status) => {
                let changed =
                    self.in_force.as_ref().is_none_or(|before| before.platform.commit != status.platform.commit);
                if let Some(rejected) = &status.rejected
                    && self.platform_error.as_deref() != Some(rejected)
                {
                    tracing::warn!(commit = %rejected, findings = status.findings.len(),
                        "the platform's head does not validate; the last good revision stays in force");
                }
                self.platform_error = status.rejected.clone();
                self.place_tenants(&status.platform, changed);
                self.in_force = Some(status);
            }
            Err(error) => {
                let message = super::reconcile::chain(&error);
                if self.platform_error.as_ref() != Some(&message) {
                    tracing::error!(error = %message, "the platform repository cannot be used");
                }
                self.platform_error = Some(message);
            }
        }
    }

    /// Gives every tenant a place; a new revision of the platform marks all of them.
    fn place_tenants(&mut self, platform: &Platform, changed: bool) {
        let now = Instant::now();
        self.places.retain(|tenant, place| place.busy || platform.tenants.contains_key(tenant));
        self.engine.forget_all_but(|tenant| platform.tenants.contains_key(tenant));
        for tenant in platform.tenants.keys() {
            let place = self.places.entry(tenant.clone()).or_insert_with(|| Place {
                seen: None,
                busy: false,
                marked: Some(Ask { trigger: Trigger::Start, width: Width::Deep }),
                poll_at: now,
                drift_at: None,
                scans: 0,
                retry_at: None,
                failures: 0,
                looked: false,
            });
            if changed && place.looked {
                place.mark(Ask { trigger: Trigger::Commit, width: Width::Deep });
            }
        }
        self.tenants.send_replace(platform.tenants.keys().cloned().collect());
        self.tell_ready();
    }

    fn tell_ready(&self) {
        let all_looked = self.in_force.is_some() && self.places.values().all(|place| place.looked);
        if all_looked {
            self.ready.send_replace(true);
        }
    }

    fn mark_requested(&mut self, tenant: Option<String>) {
        for (name, place) in &mut self.places {
            if tenant.as_ref().is_none_or(|tenant| tenant == name) {
                place.mark(Ask { trigger: Trigger::Request, width: Width::Deep });
            }
        }
    }

    /// Starts a look or a poll for every tenant that is due.
    fn start_due(&mut self, tasks: &mut JoinSet<Done>) {
        let Some(in_force) = self.in_force.clone() else { return };
        let (now, clock_now) = (Instant::now(), self.engine.clock.now());
        let drift = in_force.platform.spec.drift.clone();
        for (tenant, place) in &mut self.places {
            if place.busy {
                continue;
            }
            let jitter = share_of(tenant, drift.jitter.0);
            let drift_at = *place.drift_at.get_or_insert_with(|| next_scan(&drift.schedule, clock_now, jitter));
            if clock_now >= drift_at {
                place.drift_at = Some(next_scan(&drift.schedule, clock_now, jitter));
                place.scans = place.scans.wrapping_add(1);
                let width = if place.scans.is_multiple_of(DEEP_EVERY) { Width::Deep } else { Width::Shallow };
                place.mark(Ask { trigger: Trigger::DriftScan, width });
            }
            if place.retry_at.is_some_and(|at| now >= at) {
                place.retry_at = None;
                place.mark(Ask { trigger: Trigger::Retry, width: Width::Changed });
            }
            let engine = Arc::clone(&self.engine);
            let (slots, tenant, in_force) = (Arc::clone(&self.slots), tenant.clone(), in_force.clone());
            if let Some(ask) = place.marked.take() {
                place.busy = true;
                tasks.spawn(async move {
                    let Ok(_slot) = slots.acquire().await else { return Done::Ended };
                    // Whatever happens in a look, its tenant is looked at again.
                    let looked = AssertUnwindSafe(look(&engine, &in_force, &tenant, ask)).catch_unwind().await;
                    match looked.unwrap_or(Ok((true, None))) {
                        Ok((wants_retry, refs)) => Done::Looked { tenant, wants_retry, refs },
                        Err(error) => Done::Over(error),
                    }
                });
            } else if now >= place.poll_at {
                place.busy = true;
                place.poll_at = now + jittered(&tenant, in_force.platform.spec.poll_interval.0);
                tasks.spawn(async move {
                    let Ok(_slot) = slots.acquire().await else { return Done::Ended };
                    let refs = engine.advertised(&in_force, &tenant).await;
                    Done::Polled(tenant, refs)
                });
            }
        }
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Ended | Done::Over(_) => {}
            Done::Platform(read) => self.take_platform(*read),
            Done::Polled(tenant, refs) => {
                let Some(place) = self.places.get_mut(&tenant) else { return };
                place.busy = false;
                match refs {
                    // The look says what is wrong, and is tried again with growing patience.
                    Err(_) if place.retry_at.is_none() => {
                        place.mark(Ask { trigger: Trigger::Poll, width: Width::Changed });
                    }
                    Err(_) => {}
                    Ok(refs) => {
                        if place.seen.as_ref() != Some(&refs) {
                            place.mark(Ask { trigger: Trigger::Commit, width: Width::Changed });
                            place.failures = 0;
                            place.retry_at = None;
                            place.seen = Some(refs);
                        }
                    }
                }
            }
            Done::Looked { tenant, wants_retry, refs } => {
                if let Some(place) = self.places.get_mut(&tenant) {
                    place.busy = false;
                    place.looked = true;
                    place.seen = refs.or(place.seen.take());
                    if wants_retry {
                        place.retry_at = Some(Instant::now() + patience(place.failures));
                        place.failures = place.failures.saturating_add(1);
                    } else {
                        place.failures = 0;
                    }
                }
                self.tell_ready();
            }
        }
    }

    /// When something is due next.
    fn next_wake(&self) -> Instant {
        let (now, clock_now) = (Instant::now(), self.engine.clock.now());
        self.places
            .values()
            .filter(|place| !place.busy)
            .flat_map(|place| {
                let drift = place.drift_at.map(|at| now + (at - clock_now).to_std().unwrap_or_default());
                [Some(place.poll_at), place.retry_at, drift]
            })
            .flatten()
            .fold(now + LONGEST_SLEEP, Instant::min)
    }

    async fn prune(&self) {
        let Some(in_force) = &self.in_force else { return };
        if let Err(error) = self.engine.prune_history(&in_force.platform).await {
            tracing::warn!(error = %super::reconcile::chain(&error), "old executions could not be forgotten");
        }
    }
}

impl Place {
    /// Two marks are one look: the wider.
    fn mark(&mut self, ask: Ask) {
        let wider = |width: Width| match width {
            Width::Changed => 0,
            Width::Shallow => 1,
            Width::Deep => 2,
        };
        self.marked = match self.marked {
            Some(known) if wider(known.width) >= wider(ask.width) => Some(known),
            Some(_) | None => Some(ask),
        };
    }
}

/// Whether no further look may be begun.
fn is_over(error: &EngineError) -> bool {
    matches!(error, EngineError::Store(StoreError::LostLock { .. }))
}

/// One look; its errors are in the timeline, here they are only logged, save what ends the schedule. Gives whether it
/// wants a retry, and the refs that it saw.
async fn look(
    engine: &Engine,
    in_force: &PlatformStatus,
    tenant: &str,
    ask: Ask,
) -> Result<(bool, Option<Refs>), EngineError> {
    match engine.reconcile(in_force, tenant, ask).await {
        Ok(report) => {
            let summary = report.plan.summary();
            tracing::info!(tenant, outcome = ?report.outcome, done = report.done, blocked = report.plan.blocked.len(),
                drifted = report.plan.drift.len(), unchanged = summary.unchanged, "looked");
            Ok((report.wants_retry, Some(report.refs)))
        }
        Err(error) if is_over(&error) => Err(error),
        Err(error) => {
            tracing::warn!(tenant, error = %super::reconcile::chain(&error), "the tenant could not be reconciled");
            Ok((true, None))
        }
    }
}

/// The wait before try number `failures + 2`: doubling, capped.
fn patience(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << failures.min(16)).min(RETRY_LONGEST)
}

fn next_scan(schedule: &str, now: DateTime<Utc>, jitter: Duration) -> DateTime<Utc> {
    let next = windows::next_after(schedule, now).unwrap_or(DateTime::<Utc>::MAX_UTC);
    next.checked_add_signed(chrono::Duration::from_std(jitter).unwrap_or_default()).unwrap_or(next)
}

/// A tenant's own part of `whole`, the same each time: spreads tenants without chance.
fn share_of(tenant: &str, whole: Duration) -> Duration {
    let digest = Sha256::digest(tenant.as_bytes());
    whole.mul_f64(f64::from(u16::from_be_bytes([digest[0], digest[1]])) / f64::from(u16::MAX))
}

/// The poll interval, give or take a tenth.
fn jittered(tenant: &str, interval: Duration) -> Duration {
    interval.mul_f64(0.9) + share_of(tenant, interval.mul_f64(0.2))
}

impl Engine {
    /// The refs of a tenant's repository now; fetches nothing.
    pub(super) async fn advertised(&self, in_force: &PlatformStatus, tenant: &str) -> Result<Refs, EngineError> {
        let spec =
            in_force.platform.tenants.get(tenant).ok_or_else(|| EngineError::no_tenant(&in_force.platform, tenant))?;
        let mirror = self.mirrors.of_tenant(&in_force.platform, tenant, spec).await?;
        let branch = spec.repository.branch.clone();
        blocking(move || mirror.advertise(&branch))
            .await?
            .map_err(|source| EngineError::Source { what: format!("the repository of tenant {tenant}"), source })
    }

    /// Forgets executions that are older than the platform keeps them.
    async fn prune_history(&self, platform: &Platform) -> Result<(), EngineError> {
        let kept = chrono::Duration::from_std(platform.spec.retention.0).unwrap_or(chrono::Duration::MAX);
        let Some(before) = self.clock.now().checked_sub_signed(kept) else { return Ok(()) };
        let mut tx = self.store.begin(crate::store::Scope::Platform).await?;
        tx.prune_history(before).await?;
        tx.commit().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_and_ends() {
        assert_eq!(patience(0), Duration::from_secs(5));
        assert_eq!(patience(3), Duration::from_secs(40));
        assert_eq!(patience(60), RETRY_LONGEST);
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        for tenant in ["a", "checkout", "payments"] {
            let interval = jittered(tenant, Duration::from_secs(100));
            assert!(interval >= Duration::from_secs(90) && interval <= Duration::from_secs(110));
        }
    }
}

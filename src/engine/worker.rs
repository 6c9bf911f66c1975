//! Claims tenants that are due and looks at them, as many at once as there are slots.
//!
//! What always holds: a tenant is looked at under a lease alone; however a look ends, also by a panic, its tenant is
//! released or its lease runs out; a look that wants to be tried again is, after a wait that doubles; one that a stop has
//! ended, or that has made room for others, leaves its tenant due at once: for whoever is there, and after those who wait.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::model::{Ask, Claim, Lease, Release, Replica, Trigger};
use crate::source::Refs;
use crate::store::{Scope, StoreError};

use super::lease::Held;
use super::platform::PlatformStatus;
use super::reconcile::{Order, Report, chain};
use super::replay::Only;
use super::room::Room;
use super::schedule::share_of;
use super::seat::{Seat, Waiting, told};
use super::{Engine, EngineError, audit};

/// How many tenants one process looks at at once. Looks mostly wait for others' servers.
pub(super) const TENANTS_AT_ONCE: usize = 8;

/// How often it is looked whether a tenant waits for a place while all are taken.
const WAITING_EVERY: Duration = Duration::from_secs(1);

/// The first wait before a look is tried again, and the longest.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_LONGEST: Duration = Duration::from_secs(300);

/// The longest wait between two looks into the queue, should nobody say that something is there, and the shortest, should
/// what is due be passed by since somebody still writes to it.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
const SHORTEST_SLEEP: Duration = Duration::from_millis(100);

/// How long a wait for a tenant that another replica has lasts at most, should nobody say that it was released.
const WAIT_FOR_HOLDER: Duration = Duration::from_secs(1);

impl Engine {
    /// Looks at one tenant and makes live what git says. Waits while another replica looks at it. Asked from the command
    /// line, it waits for no step that failed before: a person, or a schedule that a person made, stands behind it.
    ///
    /// # Errors
    /// When its repository or the store cannot be used. Most errors come before anything is applied, but not all: a
    /// store that fails when the pass is recorded leaves steps that are done, and the next pass finds them so. What
    /// single resources lack is in the report.
    pub async fn reconcile(&self, in_force: &PlatformStatus, tenant: &str, ask: Ask) -> Result<Report, EngineError> {
        self.reconcile_only(in_force, tenant, ask, None).await
    }

    /// The same; with `only`, nothing is done where the plan is another than those.
    pub(super) async fn reconcile_only(
        &self,
        in_force: &PlatformStatus,
        tenant: &str,
        ask: Ask,
        only: Option<&Only>,
    ) -> Result<Report, EngineError> {
        if !in_force.platform.tenants.contains_key(tenant) {
            return Err(EngineError::no_tenant(&in_force.platform, tenant));
        }
        // Whoever asks is the one who is written down, whatever becomes of the look: another process may end it.
        let mut asked = None;
        if ask.trigger == Trigger::CommandLine {
            let person = &self.settings.person;
            super::attempts::hurry(self.store.as_ref(), self.clock.as_ref(), tenant, person).await?;
            asked = Some(audit::applied(person, only.map(|only| only.replays), self.clock.now()));
        }
        let mut woken = self.store.woken();
        let mut has_waited = false;
        let (claimed, claim) = loop {
            woken.mark_unchanged();
            let (replica, length) = (&self.settings.replica, self.settings.lease);
            let at = Instant::now();
            if let Some(claim) = self.store.claim_tenant(tenant, ask, replica, length).await? {
                break (at, claim);
            }
            if !has_waited {
                tracing::warn!(tenant, "another process looks at it; waiting for it to end");
                has_waited = true;
            }
            // A sender that is gone wakes nobody, and the wait goes on by time.
            let _ = tokio::time::timeout(WAIT_FOR_HOLDER, woken.changed()).await;
        };
        let held = self.hold(&claim, claimed, Seat::alone());
        // What is in force may have changed while another replica looked.
        let newer = if has_waited { self.in_force().await.ok() } else { None };
        let newer = newer.filter(|newer| newer.platform.tenants.contains_key(tenant));
        self.look_and_release(newer.as_ref().unwrap_or(in_force), claim, held, Order { only, asked }).await
    }

    fn hold(&self, claim: &Claim, claimed: Instant, seat: Seat) -> Held {
        Held::keep(Arc::clone(&self.store), claim, self.settings.lease, claimed, seat)
    }

    /// One look, at the end of which the tenant is released.
    async fn look_and_release(
        &self,
        in_force: &PlatformStatus,
        claim: Claim,
        held: Held,
        order: Order<'_>,
    ) -> Result<Report, EngineError> {
        let Claim { lease, ask, failures, due: _, news, seen: _ } = claim;
        let looked = tokio::select! {
            biased;
            looked = AssertUnwindSafe(self.look(in_force, &held, ask, order)).catch_unwind() => looked,
            () = held.given_up() => Ok(Err(EngineError::Stopped)),
        };
        drop(held);
        let looked = looked.map_err(|panic| {
            // The thread has told of it.
            drop(panic);
            EngineError::Task
        });
        let looked = looked.and_then(|looked| looked);
        if let Err(EngineError::Stopped) = looked {
            self.end_executions(&lease).await;
        }
        let patient = (patience(&lease.tenant, failures), failures.saturating_add(1));
        let (retry, seen) = match &looked {
            Ok(report) => (again(report, failures, patient), Some(name_of(&report.refs))),
            Err(EngineError::Stopped) => (Some((Duration::ZERO, failures)), None),
            Err(_) => (Some(patient), None),
        };
        match (self.store.release(&lease, &Release { seen, retry, news }).await, looked) {
            (Ok(()), looked) | (Err(StoreError::LostLease { .. }), looked @ Err(_)) => looked,
            // What was looked at is recorded; the tenant is claimed anew when the lease runs out.
            (Err(error), looked) => {
                tracing::warn!(tenant = lease.tenant, error = %chain(&error), "a tenant could not be released");
                looked
            }
        }
    }
}

/// After how long to look again though nobody asks, with how many failures there were: at once where the look was ended
/// early, which says nothing of what it would have come to; as soon as something that is held goes on by itself; and
/// `patient` with what may work later. The queue shortens long waits; a look that comes early waits again.
fn again(report: &Report, before: u32, patient: (Duration, u32)) -> Option<(Duration, u32)> {
    if report.was_ended {
        return Some((Duration::ZERO, before));
    }
    let (patience, failures) = patient;
    match (report.wants_retry, report.next_try) {
        (true, next_try) => Some((next_try.map_or(patience, |wait| wait.min(patience)), failures)),
        // Steps count their failures themselves, and a window has none.
        (false, Some(wait)) => Some((wait, 0)),
        (false, None) => None,
    }
}

/// The worker of one process.
pub(super) struct Worker {
    engine: Arc<Engine>,
    tasks: JoinSet<()>,
    room: Room,
    /// Whether a tenant waits for one of the places.
    waiting: Arc<Waiting>,
    /// What the queue could not be asked for last time, so that it is logged once.
    error: Option<String>,
}

impl Worker {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { room: Room::of(engine.places), engine, tasks: JoinSet::new(), waiting: Arc::default(), error: None }
    }

    /// Works until `stopped` turns true; the looks that are under way begin nothing more then, and end.
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let store = Arc::clone(&self.engine.store);
        // It listens before it looks, so that nothing is missed in between.
        let mut woken = store.woken();
        let mut naps = 0_u32;
        while !*stopped.borrow() {
            woken.mark_unchanged();
            self.claim_what_is_due(&stopped).await;
            let is_full = self.room.is_full();
            let due = match self.error {
                None => store.until_due().await.ok().flatten(),
                Some(_) => None,
            };
            self.waiting.tell(is_full && (due == Some(Duration::ZERO) || self.room.is_waited_for()));
            naps = naps.wrapping_add(1);
            let sleep = match is_full {
                true => WAITING_EVERY.min(self.engine.slice),
                false => nap(due, &self.engine.settings.replica, naps),
            };
            tokio::select! {
                biased;
                _ = stopped.changed() => {}
                Some(_) = self.tasks.join_next() => {}
                _ = woken.changed(), if !is_full => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    async fn claim_what_is_due(&mut self, stopped: &watch::Receiver<bool>) {
        if self.room.is_full() {
            return;
        }
        let engine = &self.engine;
        // Whoever cannot read the platform leaves tenants to those who can.
        match engine.in_force_until(told(stopped)).await {
            Ok(_) => {}
            Err(EngineError::Stopped) => return,
            // Whoever reads the platform says so, and asks for looks once there is one.
            Err(error @ EngineError::NoPlatform { .. }) => return self.error = Some(chain(&error)),
            Err(error) => return self.cannot(&error),
        }
        while !*stopped.borrow()
            && let Some(place) = self.room.try_enter()
        {
            let claimed = Instant::now();
            match engine.store.claim(&engine.settings.replica, engine.settings.lease).await {
                Ok(Some(claim)) => {
                    self.error = None;
                    let seat = Seat::new(stopped.clone(), Arc::clone(&self.waiting), Some(place), engine.slice);
                    let engine = Arc::clone(engine);
                    self.tasks.spawn(async move { engine.work(claim, claimed, seat).await });
                }
                Ok(None) => {
                    self.error = None;
                    return;
                }
                Err(error) => return self.cannot(&error),
            }
        }
    }

    /// Says, once, why nothing can be claimed.
    fn cannot(&mut self, error: &dyn std::error::Error) {
        let message = chain(error);
        if self.error.as_ref() != Some(&message) {
            tracing::warn!(error = message, "no tenant can be claimed; trying again");
        }
        self.error = Some(message);
    }
}

impl Engine {
    /// Looks at a tenant that was claimed. What is wrong is in its timeline; here it is only logged.
    async fn work(&self, claim: Claim, claimed: Instant, seat: Seat) {
        let tenant = claim.lease.tenant.clone();
        let held = self.hold(&claim, claimed, seat);
        let in_force = match self.in_force_until(held.stopped()).await {
            Ok(in_force) => in_force,
            Err(error) => {
                let wait = match error {
                    EngineError::Stopped => Duration::ZERO,
                    _ => {
                        tracing::warn!(tenant, error = %chain(&error), "the platform in force cannot be read");
                        RETRY_FIRST
                    }
                };
                // The tenant cannot help it, and another replica may be able to.
                let retry = Some((wait, claim.failures));
                self.let_go(&claim.lease, Release { seen: None, retry, news: claim.news }).await;
                return;
            }
        };
        if !in_force.platform.tenants.contains_key(&tenant) {
            self.end_executions(&claim.lease).await;
            self.let_go(&claim.lease, Release { seen: None, retry: None, news: claim.news }).await;
            return;
        }
        match self.look_and_release(&in_force, claim, held, Order::default()).await {
            Ok(report) => {
                let summary = report.plan.summary();
                tracing::info!(tenant, outcome = ?report.outcome, done = report.done,
                    blocked = report.plan.blocked.len(), drifted = report.plan.drift.len(),
                    unchanged = summary.unchanged, "looked");
            }
            Err(error) => {
                tracing::warn!(tenant, error = %chain(&error), "the tenant could not be reconciled");
            }
        }
    }

    /// The platform in force. The host of its repository may hang, too: then a stop ends the wait.
    async fn in_force_until(&self, stopped: impl Future<Output = ()>) -> Result<PlatformStatus, EngineError> {
        tokio::select! {
            biased;
            in_force = self.in_force() => in_force,
            () = stopped => Err(EngineError::Stopped),
        }
    }

    /// Ends what is left running of a tenant: by a killed process of one that nobody looks at any more, or by a look that is
    /// given up.
    async fn end_executions(&self, lease: &Lease) {
        let ended = async {
            let mut tx = self.store.begin(Scope::Leased(lease.clone())).await?;
            super::timeline::interrupt(tx.as_mut(), &lease.tenant, self.clock.now()).await?;
            tx.commit().await
        };
        if let Err(error) = ended.await {
            tracing::warn!(tenant = lease.tenant, error = %chain(&error), "its executions could not be ended");
        }
    }

    async fn let_go(&self, lease: &Lease, release: Release) {
        if let Err(error) = self.store.release(lease, &release).await {
            tracing::warn!(tenant = lease.tenant, error = %chain(&error), "a tenant could not be released");
        }
    }
}

/// How long to sleep until something is due: that long at least, within limits, and a little longer for each replica and
/// each time, so that replicas that wait for the same do not ask the queue in step.
fn nap(due: Option<Duration>, replica: &Replica, number: u32) -> Duration {
    let whole = due.unwrap_or(LONGEST_SLEEP).clamp(SHORTEST_SLEEP, LONGEST_SLEEP);
    whole + share_of(&format!("{replica} {number}"), whole / 10)
}

/// A short name for refs: the same for the same refs.
pub(super) fn name_of(refs: &Refs) -> String {
    let mut hash = Sha256::new();
    hash.update(refs.head.as_deref().unwrap_or_default());
    for (branch, tip) in &refs.drift {
        hash.update([0]);
        hash.update(branch);
        hash.update([0]);
        hash.update(tip);
    }
    hex::encode(&hash.finalize()[..NAME_BYTES])
}

/// Enough that two sets of refs never have one name by accident.
const NAME_BYTES: usize = 16;

/// The wait before the next try after `failures` that failed: doubling, capped, and a little different for each of those
/// who wait and each try, so that those that failed together are not tried together.
pub(super) fn patience(tenant: &str, failures: u32) -> Duration {
    let whole = doubled(RETRY_FIRST, failures, RETRY_LONGEST);
    whole.mul_f64(0.9) + share_of(&format!("{tenant} {failures}"), whole.mul_f64(0.2))
}

/// A wait that has doubled so many times, and is `longest` at the longest.
pub(super) fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_ends_and_differs() {
        let near = |wait: Duration, seconds: u64| {
            let whole = Duration::from_secs(seconds);
            wait >= whole.mul_f64(0.9) && wait <= whole.mul_f64(1.1)
        };
        assert!(near(patience("checkout", 0), 5));
        assert!(near(patience("checkout", 3), 40));
        assert!(near(patience("checkout", 60), 300));
        assert_ne!(patience("checkout", 3), patience("billing", 3));
    }

    #[test]
    fn naps_end_after_what_is_due_and_differ() {
        let (one, other) = (Replica("one".to_owned()), Replica("other".to_owned()));
        let waits = [
            (None, LONGEST_SLEEP),
            (Some(Duration::ZERO), SHORTEST_SLEEP),
            (Some(Duration::from_secs(2)), Duration::from_secs(2)),
            (Some(Duration::from_secs(600)), LONGEST_SLEEP),
        ];
        for (due, whole) in waits {
            for number in 0..100 {
                let nap = nap(due, &one, number);
                assert!(nap >= whole && nap <= whole.mul_f64(1.1), "{due:?}: {nap:?}");
            }
            assert_ne!(nap(due, &one, 1), nap(due, &other, 1));
            assert_ne!(nap(due, &one, 1), nap(due, &one, 2));
        }
    }

    #[test]
    fn refs_have_a_name_of_their_own() {
        let refs = |head: &str, drift: &[(&str, &str)]| Refs {
            head: Some(head.to_owned()),
            branch: None,
            drift: drift.iter().map(|(branch, tip)| ((*branch).to_owned(), (*tip).to_owned())).collect(),
        };
        assert_eq!(name_of(&refs("a", &[("b", "c")])), name_of(&refs("a", &[("b", "c")])));
        assert_ne!(name_of(&refs("a", &[("b", "c")])), name_of(&refs("a", &[])));
        assert_ne!(name_of(&refs("a", &[])), name_of(&refs("b", &[])));
    }
}

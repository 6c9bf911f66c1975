//! Keeping a lease: signs of life while a look is under way, and whether the look may go on.
//!
//! What always holds: no step is begun after the lease may have ended, by this process's own steady clock, which runs on
//! while the process is stopped. A step that was begun before is finished; the target is checked under a lock by its
//! manager (R13), and the store takes no more writes under a lease that another replica has by now.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::model::{Lease, Trigger};
use crate::store::{Store, StoreError};

/// How long a replica that gives no sign of life keeps a tenant, where nothing else is said. Several times as long as a
/// slow transaction takes, short enough that nobody waits long after a crash.
pub const LEASE: Duration = Duration::from_secs(15);

/// Signs of life in one lease: two may get lost.
const BEATS: u32 = 3;

/// Whether the look of a lease may begin something more; a later one outweighs those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Going {
    On,
    /// A newer commit is there: what is not begun yet is left to its look.
    Superseded,
    /// Another replica may have the tenant.
    Lost,
}

/// A lease that is kept alive until this is dropped.
pub(super) struct Held {
    lease: Lease,
    life: Arc<Life>,
    _beats: AbortOnDropHandle<()>,
}

struct Life {
    until: Mutex<Instant>,
    going: AtomicU8,
}

impl Held {
    /// Keeps a lease of this length that was claimed at `claimed`, or later.
    pub(super) fn keep(store: Arc<dyn Store>, lease: Lease, length: Duration, claimed: Instant) -> Self {
        let life = Arc::new(Life { until: Mutex::new(claimed + length), going: AtomicU8::new(Going::On as u8) });
        let beats = tokio::spawn(beat(store, lease.clone(), length, Arc::clone(&life)));
        Self { lease, life, _beats: AbortOnDropHandle::new(beats) }
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether something more may be begun.
    pub(super) fn going(&self) -> Going {
        if Instant::now() >= *self.life.until() {
            self.life.come_to(Going::Lost);
        }
        match self.life.going.load(Ordering::Relaxed) {
            going if going == Going::On as u8 => Going::On,
            going if going == Going::Superseded as u8 => Going::Superseded,
            _ => Going::Lost,
        }
    }
}

impl Life {
    /// Never goes back: what was put off once because the time was up is not begun after a late sign of life.
    fn come_to(&self, going: Going) {
        self.going.fetch_max(going as u8, Ordering::Relaxed);
    }

    fn until(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews the lease until it is lost.
async fn beat(store: Arc<dyn Store>, lease: Lease, length: Duration, life: Arc<Life>) {
    loop {
        tokio::time::sleep(length / BEATS).await;
        let at = Instant::now();
        match store.renew(&lease, length).await {
            Ok(asked) => {
                *life.until() = at + length;
                if asked.is_some_and(|ask| ask.trigger == Trigger::Commit) {
                    life.come_to(Going::Superseded);
                }
            }
            Err(StoreError::LostLease { .. }) => {
                life.come_to(Going::Lost);
                return;
            }
            // The next beat may get through; until then the time runs.
            Err(error) => tracing::debug!(tenant = lease.tenant, %error, "a lease could not be renewed"),
        }
    }
}

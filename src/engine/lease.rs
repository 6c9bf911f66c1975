//! Keeping a lease: signs of life while a look is under way, and whether the look may go on.
//!
//! What always holds: no step is begun after the lease may have ended, by this process's own steady clock, which runs on
//! while the process is paused, nor once its look is told to stop or has made room for others. A step that was begun before
//! is finished; the target is checked under a lock by its manager (R13), and the store takes no more writes under a lease
//! that another replica has by now.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::model::{Claim, Lease, ObjectHex};
use crate::store::{Store, StoreError};

use super::seat::Seat;
use super::slots::Slots;

/// How long a replica that gives no sign of life keeps a tenant, where nothing else is said. Several times as long as a
/// slow transaction takes, short enough that nobody waits long after a crash.
pub const LEASE: Duration = Duration::from_secs(15);

/// Signs of life in one lease: two may get lost.
const BEATS: u32 = 3;
/// The longest between two: with them comes what is new, and a push that is wrong is to end soon after its fix is there,
/// however long the lease.
const BEAT_WITHIN: Duration = Duration::from_secs(5);

/// Whether the look of a lease may begin something more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Going {
    On,
    /// A newer commit is there: what is not begun yet is left to its look.
    Superseded,
    /// This process is told to stop: what is not begun yet is left to whoever claims the tenant next.
    Stopping,
    /// Others wait for its place: what is not begun yet is left to a look that comes after theirs.
    Yielding,
    /// Another replica may have the tenant.
    Lost,
}

/// A lease that is kept alive until this is dropped.
pub(super) struct Held {
    /// What the look was claimed for.
    claim: Claim,
    life: Arc<Life>,
    seat: Seat,
    slots: Slots,
    _beats: AbortOnDropHandle<()>,
}

struct Life {
    until: Mutex<Instant>,
    /// Never taken back: what was put off once is not begun after a late sign of life.
    lost: AtomicBool,
    news: Mutex<News>,
}

/// How the names of what is new of the platform begin.
const OF_PLATFORM: &str = "platform ";

/// The name of a revision of the platform among what is new of a tenant.
pub(super) fn news_of_platform(commit: &str) -> String {
    format!("{OF_PLATFORM}{commit}")
}

/// What is new of a tenant, as the queue tells it by names.
#[derive(Default)]
struct News {
    newest: Option<String>,
    /// What was new when the look read its source, and what it read: neither supersedes it.
    known: Vec<String>,
    has_read: bool,
}

impl Held {
    /// Keeps the lease of `claim`, of this length, that was claimed at `claimed` or later, for a look
    /// on that `seat`.
    pub(super) fn keep(store: Arc<dyn Store>, claim: &Claim, length: Duration, claimed: Instant, seat: Seat) -> Self {
        let news = News { newest: claim.news.clone(), ..News::default() };
        let life = Arc::new(Life {
            until: Mutex::new(claimed + length),
            lost: AtomicBool::new(false),
            news: Mutex::new(news),
        });
        let claim = claim.clone();
        let slots = Slots::of(Arc::clone(&store), claim.lease.clone());
        let beats = tokio::spawn(beat(store, claim.lease.clone(), length, Arc::clone(&life)));
        Self { claim, life, seat, slots, _beats: AbortOnDropHandle::new(beats) }
    }

    /// What its look takes of its providers' room.
    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.claim.lease
    }

    /// Says what the look is on: the refs, and the revision of the platform.
    pub(super) fn reads(&self, refs: String, platform: Option<&ObjectHex>) {
        locked(&self.life.news).reads(refs, platform.map(|commit| news_of_platform(commit)));
    }

    /// Whether something more may be begun.
    pub(super) fn going(&self) -> Going {
        if Instant::now() >= *locked(&self.life.until) {
            self.life.lost.store(true, Ordering::Relaxed);
        }
        if self.life.lost.load(Ordering::Relaxed) {
            return Going::Lost;
        }
        if self.seat.is_stopped() {
            return Going::Stopping;
        }
        if locked(&self.life.news).supersede() {
            return Going::Superseded;
        }
        if self.seat.has_left() { Going::Yielding } else { Going::On }
    }

    /// The same, before a step: where others wait and it is time to, the look makes room for them.
    pub(super) fn going_for_a_step(&self) -> Going {
        self.seat.make_room();
        self.going()
    }

    /// Whether somebody waits for what the look comes to, from the start or by now: then it has the processor first.
    pub(super) fn is_awaited(&self) -> bool {
        self.claim.is_awaited() || locked(&self.life.news).newest != self.claim.news
    }

    /// Waits until nothing more is to be begun.
    pub(super) async fn stopped(&self) {
        self.seat.stopped().await;
    }

    /// Waits until the look is to be given up as it is.
    pub(super) async fn given_up(&self) {
        self.seat.given_up().await;
    }

    /// Does what waits for another's server; others may have the look's place meanwhile, where that takes long.
    pub(super) async fn wait_for<T>(&self, work: impl Future<Output = T>) -> T {
        self.seat.wait_for(work).await
    }
}

impl News {
    fn reads(&mut self, refs: String, platform: Option<String>) {
        // Refs that were told before are older than those that were read since; a revision of the platform may not be.
        self.known.extend(self.newest.clone().filter(|newest| !newest.starts_with(OF_PLATFORM)));
        self.known.push(refs);
        self.known.extend(platform);
        self.has_read = true;
    }

    /// Whether something is newer than what the look has read.
    fn supersede(&self) -> bool {
        self.has_read && self.newest.as_ref().is_some_and(|newest| !self.known.contains(newest))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Renews the lease until it is lost.
async fn beat(store: Arc<dyn Store>, lease: Lease, length: Duration, life: Arc<Life>) {
    loop {
        tokio::time::sleep(BEAT_WITHIN.min(length / BEATS)).await;
        let at = Instant::now();
        match store.renew(&lease, length).await {
            Ok(newest) => {
                *locked(&life.until) = at + length;
                locked(&life.news).newest = newest;
            }
            Err(StoreError::LostLease { .. }) => {
                life.lost.store(true, Ordering::Relaxed);
                return;
            }
            // The next beat may get through; until then the time runs.
            Err(error) => tracing::debug!(tenant = lease.tenant, %error, "a lease could not be renewed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_newer_than_what_was_read_supersedes() {
        let mut news = News { newest: Some("first".to_owned()), ..News::default() };
        news.newest = Some("second".to_owned());
        assert!(!news.supersede(), "it is about to read it");
        news.reads("third".to_owned(), None);
        assert!(!news.supersede(), "what was told before is older than what it read");
        news.newest = Some("third".to_owned());
        assert!(!news.supersede(), "it is on it");
        news.newest = Some("fourth".to_owned());
        assert!(news.supersede());
        // Planned anew, it is on the newest.
        news.reads("fourth".to_owned(), Some(news_of_platform("old")));
        assert!(!news.supersede());
        news.newest = Some(news_of_platform("old"));
        assert!(!news.supersede());
        news.newest = Some(news_of_platform("new"));
        assert!(news.supersede());
        news.reads("fourth".to_owned(), Some(news_of_platform("old")));
        assert!(news.supersede(), "it is on an older revision of the platform still");
    }
}

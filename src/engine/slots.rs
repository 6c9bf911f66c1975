//! Room for steps on their providers, over all replicas: what the look of one lease has taken of it.
//!
//! What always holds: a slot is taken for as long as its lease is held, and the lease of a look that goes on is renewed;
//! so what a lost answer leaves taken is given back before the look asks for more, or it would wait for itself for ever.
//! Where steps wait for long, that is told: what a resource waits for is on record while it waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, RwLock};
use tokio::time::Instant;

use crate::model::{EventKind, Lease, Reason, Slot};
use crate::store::{Store, StoreError};

use super::reconcile::chain;

/// The slots of one lease.
pub(super) struct Slots {
    store: Arc<dyn Store>,
    lease: Lease,
    book: Mutex<Book>,
    /// Shared by whoever takes or gives one back; alone by whoever looks which are taken and not used.
    moving: RwLock<()>,
}

#[derive(Default)]
struct Book {
    used: BTreeSet<(String, i64)>,
    /// Providers that may have slots taken that are not used: an answer was lost.
    unsure: BTreeSet<String>,
}

impl Slots {
    pub(super) fn of(store: Arc<dyn Store>, lease: Lease) -> Self {
        Self { store, lease, book: Mutex::default(), moving: RwLock::default() }
    }

    /// Takes one of `limit` slots; `None` while none is free.
    pub(super) async fn take(&self, provider: &str, limit: usize) -> Result<Option<Slot>, StoreError> {
        if self.book().unsure.contains(provider) {
            self.make_sure(provider).await?;
        }
        let _moving = self.moving.read().await;
        let taken = self.store.take_slot(provider, limit, &self.lease).await;
        match &taken {
            Ok(Some(slot)) => drop(self.book().used.insert((slot.provider.clone(), slot.number))),
            Ok(None) => {}
            Err(_) => drop(self.book().unsure.insert(provider.to_owned())),
        }
        taken
    }

    /// Gives one back; where that fails it is given back before another is taken, or when the lease ends.
    pub(super) async fn give(&self, slot: Slot) {
        let _moving = self.moving.read().await;
        self.book().used.remove(&(slot.provider.clone(), slot.number));
        if let Err(error) = self.store.give_slot(&slot).await {
            tracing::debug!(provider = slot.provider, error = chain(&error), "a slot could not be given back");
            self.book().unsure.insert(slot.provider);
        }
    }

    /// Gives back what is taken and not used.
    async fn make_sure(&self, provider: &str) -> Result<(), StoreError> {
        let _alone = self.moving.write().await;
        let used: Vec<i64> = {
            let book = self.book();
            book.used.iter().filter(|(of, _)| of == provider).map(|(_, number)| *number).collect()
        };
        self.store.give_slots_but(provider, &used, &self.lease).await?;
        self.book().unsure.remove(provider);
        Ok(())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long it is until a limit that steps still wait for is told again: whoever reads the newest events finds it.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// The limits that steps of one look wait for, until they are told.
#[derive(Default)]
pub(super) struct Crowd {
    limits: Mutex<Limits>,
    grown: Notify,
}

#[derive(Default)]
struct Limits {
    /// What each limit says, until it is told.
    untold: Vec<String>,
    told: BTreeMap<String, Instant>,
}

impl Crowd {
    /// A step waits for this, as [`provider_is_full`] or [`tenant_is_full`] say it.
    pub(super) fn waits_for(&self, limit: String) {
        let mut limits = self.limits();
        let now = Instant::now();
        if limits.told.get(&limit).is_some_and(|told| now < *told + TELL_AGAIN) {
            return;
        }
        limits.told.insert(limit.clone(), now);
        limits.untold.push(limit);
        drop(limits);
        self.grown.notify_one();
    }

    /// Comes back once there is something to tell.
    pub(super) async fn grown(&self) {
        self.grown.notified().await;
    }

    /// What is to be told of the whole tenant.
    pub(super) fn take(&self) -> Vec<EventKind> {
        let untold = std::mem::take(&mut self.limits().untold);
        untold.into_iter().map(|message| EventKind::Warning { reason: Reason::LimitReached, message }).collect()
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the limit of a provider begins.
const OF_PROVIDER: &str = "provider ";

/// What is said where steps wait for room on a provider.
pub(super) fn provider_is_full(provider: &str, limit: usize) -> String {
    let steps = steps(limit);
    format!("{OF_PROVIDER}{provider} has {steps} at once (its maxConcurrency), over all tenants; others wait for room")
}

/// What is said where steps wait for others of their tenant.
pub(super) fn tenant_is_full(limit: usize) -> String {
    let steps = steps(limit);
    format!("the tenant has {steps} at once (its maxConcurrency); others wait for room")
}

fn steps(number: usize) -> String {
    if number == 1 { "1 step".to_owned() } else { format!("{number} steps") }
}

/// The provider that a limit is of; `None` where it is the tenant's.
pub(super) fn limited_provider(limit: &str) -> Option<&str> {
    limit.strip_prefix(OF_PROVIDER)?.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_names_its_provider() {
        assert_eq!(limited_provider(&provider_is_full("pg-main", 8)), Some("pg-main"));
        assert_eq!(limited_provider(&tenant_is_full(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_told_now_and_then_for_as_long_as_steps_wait() {
        let crowd = Crowd::default();
        let told = || crowd.take().len();
        crowd.waits_for(tenant_is_full(16));
        crowd.waits_for(tenant_is_full(16));
        crowd.waits_for(provider_is_full("pg", 8));
        crowd.grown().await;
        assert_eq!((told(), told()), (2, 0));
        tokio::time::advance(TELL_AGAIN / 2).await;
        crowd.waits_for(tenant_is_full(16));
        assert_eq!(told(), 0);
        tokio::time::advance(TELL_AGAIN).await;
        crowd.waits_for(tenant_is_full(16));
        assert_eq!(told(), 1);
    }
}

//! Room for steps on their providers, over all replicas: what the look of one lease has taken of it.
//!
//! What always holds: a slot is taken for as long as its lease is held, and the lease of a look that goes on is renewed;
//! so what a lost answer leaves taken is given back before the look asks for more, or it would wait for itself for ever.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::RwLock;

use crate::model::{Lease, Slot};
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

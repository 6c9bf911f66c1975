//! Room for work that mostly waits for others' servers: so much of it at once, and beside that what has waited for long.
//!
//! What always holds: what hangs gives its place to what does not, as long as there is room beside; what comes back waits
//! for a place in turn. So repositories that accept connections and say nothing keep nobody else from being read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long something waits in its place: much longer than a server takes that is well.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much waits beside the places. Each keeps a thread that is blocked.
const BESIDE: usize = 64;

/// Places, and the room beside them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    beside: Arc<Semaphore>,
    /// How many wait for a place that they had left.
    returning: Arc<AtomicUsize>,
}

/// A place in a room; given back when dropped.
pub(super) struct Place {
    room: Room,
    /// `None` while what it was taken for waits beside.
    permit: watch::Sender<Option<OwnedSemaphorePermit>>,
}

impl Room {
    pub(super) fn of(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            beside: Arc::new(Semaphore::new(BESIDE)),
            returning: Arc::default(),
        }
    }

    /// A place, once there is one; `None` when the room is closed.
    pub(super) async fn enter(&self) -> Option<Place> {
        let permit = Arc::clone(&self.places).acquire_owned().await.ok()?;
        Some(self.place(permit))
    }

    /// A place, if there is one.
    pub(super) fn try_enter(&self) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(self.place(permit))
    }

    pub(super) fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// Whether somebody waits for a place that it had left.
    pub(super) fn is_waited_for(&self) -> bool {
        self.returning.load(Ordering::Relaxed) > 0
    }

    /// Nobody enters any more.
    pub(super) fn close(&self) {
        self.places.close();
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        Place { room: self.clone(), permit: watch::Sender::new(Some(permit)) }
    }
}

/// Counts one that waits for a place that it had left, for as long as it does.
struct Returning<'a>(&'a Room);

impl<'a> Returning<'a> {
    fn of(room: &'a Room) -> Self {
        room.returning.fetch_add(1, Ordering::Relaxed);
        Self(room)
    }
}

impl Drop for Returning<'_> {
    fn drop(&mut self) {
        self.0.returning.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// Does what waits for another's server; others may have the place meanwhile, where that takes long.
    pub(super) async fn wait_for<T>(&self, work: impl Future<Output = T>) -> T {
        let done = self.leave_for(work).await;
        if self.permit.borrow().is_none() {
            let _returning = Returning::of(&self.room);
            // A room that is closed has no places any more, and its work only ends.
            self.permit.send_replace(Arc::clone(&self.room.places).acquire_owned().await.ok());
        }
        done
    }

    /// The same, of what has no need of the place afterwards.
    pub(super) async fn leave_for<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        if let Ok(done) = tokio::time::timeout(PATIENCE, &mut work).await {
            return done;
        }
        let _beside = tokio::select! {
            biased;
            done = &mut work => return done,
            beside = self.room.beside.acquire() => beside,
        };
        self.permit.send_replace(None);
        work.await
    }

    /// Waits until what it was taken for waits beside.
    pub(super) async fn left(&self) {
        // The sender is in this place.
        let _ = self.permit.subscribe().wait_for(Option::is_none).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_hangs_gives_its_place_away_and_comes_back_in_turn() {
        let room = Room::of(1);
        let place = room.enter().await.unwrap();
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        let hanging = tokio::spawn(async move {
            place.wait_for(answered).await.unwrap();
            place
        });
        tokio::time::sleep(PATIENCE / 2).await;
        assert!(room.try_enter().is_none(), "it may only be slow");
        let other = room.enter().await.unwrap();
        answer.send(()).unwrap();
        tokio::time::sleep(PATIENCE).await;
        assert!(!hanging.is_finished() && room.is_waited_for(), "the other has the place");
        drop(other);
        let place = hanging.await.unwrap();
        assert!(!room.is_waited_for());
        assert!(room.is_full());
        drop(place);
        assert!(!room.is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_much_hangs_beside_the_places() {
        let room = Room::of(1);
        for _ in 0..BESIDE {
            let place = room.enter().await.unwrap();
            tokio::spawn(async move { place.wait_for(std::future::pending::<()>()).await });
        }
        let place = room.enter().await.unwrap();
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        let last = tokio::spawn(async move { place.wait_for(answered).await });
        tokio::time::sleep(PATIENCE * 10).await;
        assert!(room.is_full(), "the last one stays where it is");
        answer.send(()).unwrap();
        last.await.unwrap().unwrap();
        assert!(!room.is_full());
    }
}

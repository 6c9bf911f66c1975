//! A look's place among those that its process looks at at once: it is told to stop there, or asked to make room.
//!
//! What always holds: who makes room has done steps for a slice before, so it comes further each time, however long it
//! takes to plan, and what is undone comes to its end too; and one at a time makes room.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::room::Place;

/// How long a look does steps before it makes room for others that wait, where nothing else is said. Long beside the
/// seconds that it takes to plan the largest tenants anew, so that a long push costs little more for it; short enough that
/// a small change does not wait for all of somebody's thousand.
pub(super) const SLICE: Duration = Duration::from_secs(60);

/// Whether a tenant waits for a place in this process while all are taken.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Wish>);

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Wish {
    #[default]
    Nobody,
    Somebody,
    /// A look makes room for it already.
    Promised,
}

impl Waiting {
    /// Says whether one does now.
    pub(super) fn tell(&self, waits: bool) {
        let mut wish = self.wish();
        if *wish != Wish::Promised {
            *wish = if waits { Wish::Somebody } else { Wish::Nobody };
        }
    }

    /// Takes it on to make room; says whether that is wanted.
    fn promise(&self) -> bool {
        let mut wish = self.wish();
        let is_wanted = *wish == Wish::Somebody;
        if is_wanted {
            *wish = Wish::Promised;
        }
        is_wanted
    }

    fn keep_promise(&self) {
        *self.wish() = Wish::Nobody;
    }

    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one look.
pub(super) struct Seat {
    stopped: watch::Receiver<bool>,
    waiting: Arc<Waiting>,
    /// `None` where there is room for any number.
    place: Option<Place>,
    slice: Duration,
    /// When its first step was to begin.
    began: OnceLock<Instant>,
    has_left: AtomicBool,
}

impl Seat {
    /// One of a worker's: `stopped` turns true once nothing more is to be begun.
    pub(super) fn new(
        stopped: watch::Receiver<bool>,
        waiting: Arc<Waiting>,
        place: Option<Place>,
        slice: Duration,
    ) -> Self {
        Self { stopped, waiting, place, slice, began: OnceLock::new(), has_left: AtomicBool::new(false) }
    }

    /// The place of a look that somebody waits for: nobody stops it but by ending the process, and it is in nobody's way.
    pub(super) fn alone() -> Self {
        Self::new(watch::channel(false).1, Arc::default(), None, Duration::MAX)
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Makes room where that is wanted and it is time to. To be called before each step.
    pub(super) fn make_room(&self) {
        let began = self.began.get_or_init(Instant::now);
        if began.elapsed() >= self.slice && !self.has_left() && self.waiting.promise() {
            self.has_left.store(true, Ordering::Relaxed);
        }
    }

    /// Does what waits for another's server; others may have the place meanwhile, where that takes long.
    pub(super) async fn wait_for<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.place {
            Some(place) => place.wait_for(work).await,
            None => work.await,
        }
    }

    /// Waits until it is told to stop.
    pub(super) async fn stopped(&self) {
        told(&self.stopped).await;
    }

    /// Waits until it is told to stop while it waits for a server that says nothing: nobody waits for that.
    pub(super) async fn given_up(&self) {
        match &self.place {
            Some(place) => {
                self.stopped().await;
                place.left().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Whether it makes room: what is not begun yet is for another look.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Relaxed)
    }
}

/// Waits until `stopped` is true.
pub(super) async fn told(stopped: &watch::Receiver<bool>) {
    // Whoever could have stopped it is gone: then nobody does.
    if stopped.clone().wait_for(|stopped| *stopped).await.is_err() {
        std::future::pending().await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.has_left() {
            self.waiting.keep_promise();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_makes_room_after_a_slice_of_steps() {
        let (stop, stopped) = watch::channel(false);
        let waiting = Arc::new(Waiting::default());
        let seat = || Seat::new(stopped.clone(), Arc::clone(&waiting), None, SLICE);
        let (first, second, alone) = (seat(), seat(), Seat::alone());
        let next_step = |seats: &[&Seat]| -> Vec<bool> {
            seats.iter().for_each(|seat| seat.make_room());
            seats.iter().map(|seat| seat.has_left()).collect()
        };
        waiting.tell(true);
        // However long it took until the first step.
        tokio::time::advance(SLICE * 2).await;
        assert_eq!(next_step(&[&first, &second, &alone]), [false, false, false]);
        tokio::time::advance(SLICE - Duration::from_secs(1)).await;
        assert_eq!(next_step(&[&first, &second, &alone]), [false, false, false]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(next_step(&[&first, &second, &alone]), [true, false, false]);
        // It is on its way still.
        waiting.tell(true);
        assert_eq!(next_step(&[&first, &second, &alone]), [true, false, false]);
        drop(first);
        assert_eq!(next_step(&[&second, &alone]), [false, false], "nobody waits any more");
        waiting.tell(true);
        waiting.tell(false);
        assert_eq!(next_step(&[&second, &alone]), [false, false], "somebody went");
        waiting.tell(true);
        assert_eq!(next_step(&[&second, &alone]), [true, false]);
        stop.send(true).unwrap();
        assert!(second.is_stopped() && !alone.is_stopped());
    }
}

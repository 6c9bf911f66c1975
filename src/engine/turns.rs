//! Turns at the processor, for the long work of a look that waits for nobody: reading, checking and planning what may be
//! ten thousand documents.
//!
//! What always holds: what is new goes first, so that a commit does not share the processor with a restart's look at all
//! that is as it was; and no more of the rest works at once than there are cores, since more of it would only end later.

use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// The turns of one process.
pub(super) struct Turns {
    cores: Semaphore,
    /// How many work on something new.
    news: watch::Sender<usize>,
}

/// A turn; it ends when dropped.
pub(super) enum Turn<'a> {
    News(&'a Turns),
    Rest { _core: Option<SemaphorePermit<'a>> },
}

impl Default for Turns {
    fn default() -> Self {
        Self::of(available_parallelism().map_or(1, NonZeroUsize::get))
    }
}

impl Turns {
    fn of(cores: usize) -> Self {
        Self { cores: Semaphore::new(cores), news: watch::Sender::new(0) }
    }

    /// A turn: at once for what is new, else once nothing new is worked on and a core is free.
    pub(super) async fn take(&self, is_new: bool) -> Turn<'_> {
        if is_new {
            self.news.send_modify(|working| *working += 1);
            return Turn::News(self);
        }
        // The semaphore is never closed.
        let core = self.cores.acquire().await.ok();
        // The sender is in these turns.
        let _ = self.news.subscribe().wait_for(|working| *working == 0).await;
        Turn::Rest { _core: core }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Self::News(turns) = self {
            turns.news.send_modify(|working| *working -= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_rest_works_on_as_many_cores_as_there_are() {
        let turns = Turns::of(2);
        let first = turns.take(false).await;
        let _second = turns.take(false).await;
        assert!(turns.take(false).now_or_never().is_none());
        drop(first);
        assert!(turns.take(false).now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_is_new_waits_for_nothing_and_goes_first() {
        let turns = Turns::of(1);
        let rest = turns.take(false).await;
        let news = turns.take(true).now_or_never().expect("it waits for no core");
        drop(rest);
        let next = turns.take(false);
        tokio::pin!(next);
        assert!(next.as_mut().now_or_never().is_none(), "something new is worked on");
        drop(news);
        assert!(next.now_or_never().is_some());
    }
}

//! Work on many things that know nothing of each other, on all cores.

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, available_parallelism};

/// How many things a thread takes at once. Fewer than this are not worth a thread; many more, and the last to end would keep
/// the others waiting.
const PORTION: usize = 64;

/// What `work` makes of each of `items`, in order. Each core works with something of its own that `tool` makes, and takes the
/// next portion when it is done with one: a core that others keep busy holds nobody up, and a thread that the system refuses
/// leaves its share to the others. After a panic no more is begun.
pub(super) fn in_portions<T: Sync, R: Send, W>(
    items: &[T],
    tool: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, &T) -> R + Sync,
) -> Vec<R> {
    let cores = available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = cores.min(items.len() / PORTION);
    let next = AtomicUsize::new(0);
    let take_portions = || {
        let _end = EndOnPanic(&next);
        let (mut tool, mut done) = (tool(), Vec::new());
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(portion) = items.chunks(PORTION).nth(at) else { return done };
            done.push((at, portion.iter().map(|item| work(&mut tool, item)).collect::<Vec<R>>()));
        }
    };
    let mut done = std::thread::scope(|scope| {
        // The thread that asks works too.
        let spawn = |_| Builder::new().spawn_scoped(scope, take_portions).ok();
        let others: Vec<_> = (1..threads).filter_map(spawn).collect();
        let mut done = take_portions();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().flat_map(|(_, portion)| portion).collect()
}

/// Leaves no portion to take once a thread that works has panicked.
struct EndOnPanic<'a>(&'a AtomicUsize);

impl EndOnPanic<'_> {
    /// Behind every portion there can be, with room for those that still ask.
    const END: usize = usize::MAX / 2;
}

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(Self::END, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_worked_on_once_and_results_keep_their_order() {
        for length in [0, 1, PORTION - 1, PORTION, 3 * PORTION + 7, 1_000] {
            let items: Vec<usize> = (0..length).collect();
            let seen = AtomicUsize::new(0);
            let work = |before: &mut usize, item: &usize| {
                seen.fetch_add(1, Ordering::Relaxed);
                *before += 1;
                item * 2
            };
            let done = in_portions(&items, || 0, work);
            assert_eq!(done, items.iter().map(|item| item * 2).collect::<Vec<_>>());
            assert_eq!(seen.into_inner(), length);
        }
    }

    #[test]
    fn a_panic_reaches_who_asked_and_ends_the_work() {
        let items: Vec<usize> = (0..100_000).collect();
        let worked_on = AtomicUsize::new(0);
        let work = |_: &mut (), item: &usize| {
            assert_ne!(*item, 70, "this one cannot be worked on");
            worked_on.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_micros(10));
        };
        assert!(std::panic::catch_unwind(|| in_portions(&items, || (), work)).is_err());
        assert!(worked_on.into_inner() < items.len() / 2);
    }
}

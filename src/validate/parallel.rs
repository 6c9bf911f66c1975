//! Work on many things that know nothing of each other, on all cores.

use std::num::NonZeroUsize;

/// Fewer things than this are not worth a thread.
const WORTH_A_THREAD: usize = 64;

/// What `work` makes of `items`, in order. Each core gets one share; `work` gives one result an item.
pub(super) fn in_shares<T: Sync, R: Send>(items: &[T], work: impl Fn(&[T]) -> Vec<R> + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = cores.min(items.len() / WORTH_A_THREAD).max(1);
    if threads == 1 {
        return work(items);
    }
    let share = items.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = items.chunks(share).map(|some| (some, scope.spawn(move || work(some)))).collect();
        // A worker that died leaves its share to be worked on here.
        workers.into_iter().flat_map(|(some, worker)| worker.join().unwrap_or_else(|_| work(some))).collect()
    })
}

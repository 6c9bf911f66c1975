//! The schedule of an engine, running beside a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plumb::engine::schedule::Schedule;
use plumb::model::Event;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::world::World;

/// Long enough for a loaded machine; what is waited for comes within a second or two.
const PATIENCE: Duration = Duration::from_secs(90);
/// From when a schedule hears that it is to stop until it has told its worker so: a few instructions.
const TELLING: Duration = Duration::from_millis(50);

/// A schedule that runs.
pub struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts the schedule, and waits until the first look is over.
    pub async fn start(world: &World) -> Self {
        let (schedule, _looks, mut ready) = Schedule::new(Arc::clone(world.engine()));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(schedule.run(async move {
            // A dropped sender ends it too.
            let _ = stopped.await;
        }));
        tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)).await.expect("the first look ends").unwrap();
        Self { stop, task }
    }

    /// Runs the schedule, and stops it at the first event that `is_last` says so of: what comes after that begins once the
    /// stop is heard, if at all. Comes back when it has ended.
    pub async fn until(world: &World, mut is_last: impl FnMut(&Event) -> bool + Send + 'static) {
        let (schedule, _looks, _ready) = Schedule::new(Arc::clone(world.engine()));
        let (stop, stopped) = oneshot::channel::<()>();
        let heard = Arc::new(AtomicBool::new(false));
        let (mut stop, hears) = (Some(stop), Arc::clone(&heard));
        world.on_event(move |event| {
            if let Some(stop) = stop.take_if(|_| is_last(event)) {
                stop.send(()).unwrap();
                // What it wakes must not wait for this thread.
                tokio::task::block_in_place(|| {
                    while !hears.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    std::thread::sleep(TELLING);
                });
            }
        });
        let running = schedule.run(async move {
            stopped.await.unwrap();
            heard.store(true, Ordering::SeqCst);
        });
        tokio::time::timeout(PATIENCE, tokio::spawn(running)).await.expect("it ends").unwrap();
        world.on_event(|_| {});
    }

    /// Ends it.
    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

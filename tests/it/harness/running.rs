//! The schedule of an engine, running beside a test.

use std::sync::Arc;
use std::time::Duration;

use plumb::engine::schedule::Schedule;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::world::World;

/// Long enough for a loaded machine; what is waited for comes within a second or two.
const PATIENCE: Duration = Duration::from_secs(90);

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

    /// Ends it.
    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

//! Follows a working tree: "something changed", never what.
//!
//! A burst of events is one signal, and a signal that nobody has taken yet stands for all that came after it. What
//! happens in `.git`, and reading, is no change.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::error::SourceError;

/// Editors write, rename and touch within a few milliseconds; people do not see this pause.
pub const DEBOUNCE: Duration = Duration::from_millis(150);
/// A folder that never rests still gives a signal after this many pauses.
const MAX_PAUSES: u32 = 10;

/// Follows a folder until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    signals: tokio::sync::mpsc::Receiver<()>,
    // Its end ends the channel of events, and with it the thread.
    _events: RecommendedWatcher,
}

impl Watcher {
    /// Follows `folder` and all below it.
    ///
    /// # Errors
    /// When the folder is not there or the system has no more watches.
    pub fn new(folder: &Path, debounce: Duration) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Watch { path: folder.to_owned(), source };
        let root =
            std::fs::canonicalize(folder).map_err(|source| SourceError::Read { path: folder.to_owned(), source })?;
        let (events, incoming) = mpsc::channel();
        let (signal, signals) = tokio::sync::mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(relevant_events(root.clone(), events)).map_err(failed)?;
        watcher.watch(&root, RecursiveMode::Recursive).map_err(failed)?;
        std::thread::spawn(move || debounced(&incoming, &signal, debounce));
        Ok(Self { signals, _events: watcher })
    }

    /// Waits until something changed. `None` never comes while the watcher lives.
    pub async fn changed(&mut self) -> Option<()> {
        self.signals.recv().await
    }

    /// The same, blocking; not for async code.
    pub fn changed_blocking(&mut self) -> Option<()> {
        self.signals.blocking_recv()
    }
}

fn relevant_events(root: PathBuf, events: Sender<()>) -> impl FnMut(notify::Result<notify::Event>) + Send {
    move |event| {
        let relevant = match event {
            Ok(event) => match event.kind {
                EventKind::Access(_) => false,
                EventKind::Any
                | EventKind::Create(_)
                | EventKind::Modify(_)
                | EventKind::Remove(_)
                | EventKind::Other => event.paths.is_empty() || event.paths.iter().any(|path| !in_git(&root, path)),
            },
            // Events were lost: look again.
            Err(_) => true,
        };
        if relevant {
            // The receiver ends only with the watcher.
            let _ = events.send(());
        }
    }
}

fn in_git(root: &Path, path: &Path) -> bool {
    path.strip_prefix(root).unwrap_or(path).iter().any(|part| part == ".git")
}

fn debounced(events: &Receiver<()>, signal: &tokio::sync::mpsc::Sender<()>, pause: Duration) {
    while events.recv().is_ok() {
        let last = Instant::now() + pause * MAX_PAUSES;
        loop {
            let left = last.saturating_duration_since(Instant::now());
            match events.recv_timeout(pause.min(left)) {
                Ok(()) if left.is_zero() => break,
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        match signal.try_send(()) {
            // One that is still waiting stands for this one too.
            Ok(()) | Err(tokio::sync::mpsc::error::TrySendError::Full(())) => {}
            Err(tokio::sync::mpsc::error::TrySendError::Closed(())) => return,
        }
    }
}

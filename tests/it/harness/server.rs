//! A program that says on its log when it is ready to serve.

use std::io::{BufRead, BufReader, Read};
use std::process::Child;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Long enough for a loaded machine, short enough to fail a test that hangs.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Gives the server once a line of its log says that it is ready; `None` when it has ended, as where another program has
/// taken its port.
pub fn once_ready(
    name: &str,
    mut child: Child,
    log: impl Read + Send + 'static,
    says_so: impl Fn(&str) -> bool + Send + 'static,
) -> Option<Child> {
    let (ready, is_ready) = channel();
    // Reads on after that, so that the server never waits for a reader of its log.
    std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if says_so(&line) {
                // The test may have given up.
                let _ = ready.send(());
            }
        }
    });
    match is_ready.recv_timeout(READY_WITHIN) {
        Ok(()) => Some(child),
        Err(RecvTimeoutError::Disconnected) => {
            let _ = child.wait();
            None
        }
        Err(RecvTimeoutError::Timeout) => {
            let _ = child.kill();
            panic!("{name} was not ready in {READY_WITHIN:?}");
        }
    }
}

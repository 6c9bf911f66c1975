//! Stands between a process and a server, counts what the process says, and kills it after a message of its own.
//!
//! What the last message asks for happens, and nobody hears that it did.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::kill;

/// Tells whom to kill.
type Victim = Box<dyn Fn() -> u32 + Send>;

/// A relay to one server, for as long as the tests run.
pub struct Relay {
    port: u16,
    state: Arc<State>,
}

struct State {
    /// How many messages of the process were passed on.
    passed: AtomicUsize,
    /// After how many it is killed.
    last: AtomicUsize,
    victim: Mutex<Option<Victim>>,
}

impl State {
    /// Whether what comes is passed on still.
    fn is_on(&self) -> bool {
        self.passed.load(Ordering::SeqCst) < self.last.load(Ordering::SeqCst)
    }
}

impl Relay {
    /// One to the server on that port, which passes everything on.
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { passed: AtomicUsize::new(0), last: AtomicUsize::new(usize::MAX), victim: Mutex::default() };
        let relay = Self { port, state: Arc::new(state) };
        let state = Arc::clone(&relay.state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", server)).unwrap());
                let (from_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let (answers, says) = (Arc::clone(&state), Arc::clone(&state));
                std::thread::spawn(move || pass_on(from_server, to_client, || answers.is_on(), || {}));
                std::thread::spawn(move || {
                    let is_one = || says.passed.fetch_add(1, Ordering::SeqCst) < says.last.load(Ordering::SeqCst);
                    pass_on(client, server, is_one, || {
                        if !says.is_on()
                            && let Some(victim) = says.victim.lock().unwrap().take()
                        {
                            kill(victim());
                        }
                    });
                });
            }
        });
        relay
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Counts from now on, and kills the victim after so many messages.
    pub fn kill_after(&self, last: usize, victim: impl Fn() -> u32 + Send + 'static) {
        *self.state.victim.lock().unwrap() = Some(Box::new(victim));
        self.state.passed.store(0, Ordering::SeqCst);
        self.state.last.store(last, Ordering::SeqCst);
    }

    /// Kills nobody any more.
    pub fn let_live(&self) {
        self.state.last.store(usize::MAX, Ordering::SeqCst);
        *self.state.victim.lock().unwrap() = None;
    }

    /// How many messages it has passed on.
    pub fn passed(&self) -> usize {
        self.state.passed.load(Ordering::SeqCst)
    }
}

/// Passes on what comes, for as long as it `may`, and says so `then`.
fn pass_on(mut from: TcpStream, mut to: TcpStream, may: impl Fn() -> bool, then: impl Fn()) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !may() {
            // Whoever hears nothing any more is killed, and not told.
            return std::mem::forget((from, to));
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
        then();
    }
    let _ = to.shutdown(Shutdown::Both);
}

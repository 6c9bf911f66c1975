//! Chance: one seeded source for everything that goes wrong, and for when. Every call to the store or to a system asks it
//! before and after; the answer may come late, be an error, be an error though the work was done, or never come, since
//! the process died there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::faulty::{Call, Fate, Points};

/// One life of one replica. A process that died and was started again is another.
pub type Life = u32;

/// How often what goes wrong, by call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Nothing is done, and an error is told.
    pub error: f64,
    /// The work is done, and an error is told.
    pub lost_answer: f64,
    pub delay: f64,
    pub death: f64,
    /// One object among many cannot be seen.
    pub sick: f64,
    /// The process stands still for longer than its lease, and goes on.
    pub pause: f64,
}

impl Rates {
    /// Everything works.
    pub const CALM: Rates = Rates { error: 0.0, lost_answer: 0.0, delay: 0.0, death: 0.0, sick: 0.0, pause: 0.0 };
}

/// The source of all chance in one run.
pub struct Chaos {
    state: Mutex<State>,
    deaths: mpsc::UnboundedSender<Life>,
}

struct State {
    rng: StdRng,
    rates: Rates,
    dead: BTreeSet<Life>,
    paused: BTreeMap<Life, Instant>,
    leader: Option<Life>,
    faults: usize,
}

impl Chaos {
    /// The chance of `seed`; deaths are told to the receiver.
    pub fn new(seed: u64) -> (Self, mpsc::UnboundedReceiver<Life>) {
        let (deaths, told) = mpsc::unbounded_channel();
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            rates: Rates::CALM,
            dead: BTreeSet::new(),
            paused: BTreeMap::new(),
            leader: None,
            faults: 0,
        };
        (Self { state: Mutex::new(state), deaths }, told)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_rates(&self, rates: Rates) {
        let mut state = self.state();
        state.rates = rates;
        if rates.pause == 0.0 {
            state.paused.clear();
        }
    }

    /// Which of `many` objects cannot be seen now, if any.
    pub fn sick(&self, many: usize) -> Option<usize> {
        let odds = self.state().rates.sick;
        (many > 0 && self.chance(odds)).then(|| self.below(many))
    }

    /// How many calls went wrong so far.
    pub fn faults(&self) -> usize {
        self.state().faults
    }

    /// Ends a life: nothing that it does from now on is seen by anybody.
    pub fn kill(&self, life: Life) {
        let mut state = self.state();
        if state.dead.insert(life) {
            let _ = self.deaths.send(life);
        }
    }

    pub fn is_dead(&self, life: Life) -> bool {
        self.state().dead.contains(&life)
    }

    /// Makes `life` the leader where no living one is.
    pub fn lead(&self, life: Life) -> bool {
        let mut state = self.state();
        let free = state.leader.is_none_or(|leader| leader == life || state.dead.contains(&leader));
        if free {
            state.leader = Some(life);
        }
        free
    }

    pub fn with_rng<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.state().rng)
    }

    /// A number below `end`.
    pub fn below(&self, end: usize) -> usize {
        self.with_rng(|rng| rng.random_range(0..end))
    }

    pub fn chance(&self, odds: f64) -> bool {
        odds > 0.0 && self.with_rng(|rng| rng.random_bool(odds))
    }

    pub fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.with_rng(|rng| rng.random_range(from..to)))
    }

    /// Before a call: it may be late, not be made, or be the last thing that the process began.
    pub async fn before(&self, life: Life) -> Fate {
        self.at_a_point(life, |rates| rates.error).await
    }

    /// After a call: its answer may be late or lost, or find nobody.
    pub async fn after(&self, life: Life) -> Fate {
        self.at_a_point(life, |rates| rates.lost_answer).await
    }

    /// Whether some process stands still.
    pub fn is_anyone_paused(&self) -> bool {
        self.state().paused.values().any(|until| *until > Instant::now())
    }

    fn paused_until(&self, life: Life) -> Option<Instant> {
        self.state().paused.get(&life).copied().filter(|until| *until > Instant::now())
    }

    async fn at_a_point(&self, life: Life, failing: fn(&Rates) -> f64) -> Fate {
        if self.is_dead(life) {
            return Fate::Die;
        }
        let rates = self.state().rates;
        if self.chance(rates.death) {
            self.state().faults += 1;
            self.kill(life);
            return Fate::Die;
        }
        if self.chance(rates.pause) {
            let until = Instant::now() + self.millis(16_000, 40_000);
            let mut state = self.state();
            state.faults += 1;
            state.paused.insert(life, until);
        }
        if self.chance(rates.delay) {
            let long = self.chance(0.05);
            let delay = if long { self.millis(5_000, 20_000) } else { self.millis(1, 800) };
            tokio::time::sleep(delay).await;
        }
        while let Some(until) = self.paused_until(life) {
            tokio::time::sleep_until(until).await;
        }
        if self.is_dead(life) {
            return Fate::Die;
        }
        if self.chance(failing(&rates)) {
            self.state().faults += 1;
            return Fate::Fail;
        }
        Fate::Go
    }
}

/// What becomes of the calls of one life.
pub struct OfLife {
    pub chaos: Arc<Chaos>,
    pub life: Life,
}

#[async_trait]
impl Points for OfLife {
    async fn before(&self, _: Call, _: &'static str) -> Fate {
        self.chaos.before(self.life).await
    }

    async fn after(&self, call: Call, _: &'static str) -> Fate {
        match call {
            Call::Read if !self.chaos.is_dead(self.life) => Fate::Go,
            Call::Read | Call::Write => self.chaos.after(self.life).await,
        }
    }

    fn leads(&self) -> Option<bool> {
        Some(self.chaos.lead(self.life))
    }
}

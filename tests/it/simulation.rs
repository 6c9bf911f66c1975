//! The engine with a seeded clock, managers and a store that fail, several replicas, and people who commit and change
//! things by hand: thousands of runs, each from one number.
//!
//! `PLUMB_SEED=1234 cargo test --test it simulation::one_seed -- --nocapture` replays one; `PLUMB_SEEDS` says how many are
//! run.

mod chaos;
pub mod faulty;
mod invariants;
pub mod memory;
pub mod repository;
mod system;
mod wish;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use plumb::model::{Kind, ResourceKey};
use plumb::store::{Scope, Store};

use memory::MemoryStore;
use world::{Ended, Ground, run};

/// How many runs where nothing else is said.
const SEEDS: u64 = 100;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// A folder in memory, where there is one: a run reads and writes many small files.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// How much of the timeline of a run that breaks is told.
const TOLD: usize = 60;

fn expect_whole(seed: u64, ended: &Ended) {
    assert!(
        ended.broken.is_empty(),
        "seed {seed} breaks:\n  {}\n\nthe end of its timeline:\n  {}\n\n{}\n",
        ended.broken.join("\n  "),
        ended.told[ended.told.len().saturating_sub(TOLD)..].join("\n  "),
        how_to_replay(seed)
    );
}

fn how_to_replay(seed: u64) -> String {
    format!("replay it with\n  PLUMB_SEED={seed} cargo test --test it simulation::one_seed -- --nocapture")
}

/// One of many runs: of one that panics nobody would know which it was.
fn run_named(seed: u64, ground: &Ground) -> Ended {
    let ended = catch_unwind(AssertUnwindSafe(|| run(seed, ground)));
    ended.unwrap_or_else(|_| panic!("seed {seed} panics, as is said above; {}", how_to_replay(seed)))
}

#[test]
fn one_seed() {
    let seed = number("PLUMB_SEED").unwrap_or(1);
    let folder = folder();
    let ground = Ground::new(folder.path());
    let started = Instant::now();
    let ended = run(seed, &ground);
    println!(
        "seed {seed}: {} looks, {} events, {} effects, {} faults, {} commits, {} undone, {} lives, {} in {:?}",
        ended.looks,
        ended.events,
        ended.effects,
        ended.faults,
        ended.commits,
        ended.undone,
        ended.lives,
        ended.hash,
        started.elapsed()
    );
    expect_whole(seed, &ended);
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in [1, 2, 3] {
        let folders = [folder(), folder()];
        let [first, second] = folders.each_ref().map(|folder| run(seed, &Ground::new(folder.path())));
        assert!(first.events > 0);
        let differs = first.told.iter().zip(&second.told).position(|(one, other)| one != other);
        if let Some(at) = differs {
            panic!("seed {seed}, event {at}:\n  {}\n  {}", first.told[at], second.told[at]);
        }
        assert_eq!(first.hash, second.hash, "seed {seed}");
    }
}

#[test]
fn whatever_goes_wrong_it_converges_and_nothing_is_doubled_lost_or_leaked() {
    let seeds = number("PLUMB_SEEDS").unwrap_or(SEEDS);
    let first = number("PLUMB_SEED").unwrap_or(0);
    let (next, undone) = (AtomicU64::new(first), AtomicU64::new(0));
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let folder = folder();
                let ground = Ground::new(folder.path());
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let ended = run_named(seed, &ground);
                    undone.fetch_add(u64::from(ended.undone > 0), Ordering::Relaxed);
                    expect_whole(seed, &ended);
                }
            });
        }
    });
    let undone = undone.into_inner();
    println!("{seeds} seeds in {:?}; a change was undone in {undone}", started.elapsed());
}

/// What the runs rely on to know of it.
#[tokio::test]
async fn what_a_look_writes_without_its_lease_is_a_violation() {
    let store = MemoryStore::new(chrono::DateTime::UNIX_EPOCH);
    let key = ResourceKey::new("checkout", "staging", Kind::Database, "orders");
    store.begin(Scope::Tenant(key.tenant.clone())).await.unwrap().remove_status(&key).await.unwrap();
    assert_eq!(store.violations(), ["a status was written without a lease"]);
}

//! The clock is set while the engine works, back and forth: nothing waits for a time that comes a second time, and
//! nothing is done twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::TimeDelta;
use plumb::managers::ManagerError;
use plumb::model::{
    Action, ConditionStatus, ConditionType, Event, EventKind, ExecutionOutcome, Place, Reason, Trigger,
};
use plumb::store::{HistoryFilter, Scope};

use crate::harness::clock::SetClock;
use crate::harness::faulty::Faults;
use crate::harness::postgres::PostgresServer;
use crate::harness::running::Running;
use crate::harness::world::{World, unseen};
use crate::simulation::faulty::{Call, Fate, FaultyStore, Points};

const ORDERS: &str = "checkout/staging/Database/orders";
const VERSION: &str = "PRAGMA user_version";
/// Long enough for a loaded machine; what is waited for comes within seconds.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Back by an hour, back by a day, and forth by as much.
const JUMPS: [TimeDelta; 4] = [TimeDelta::hours(-1), TimeDelta::days(-1), TimeDelta::hours(1), TimeDelta::days(1)];

async fn world() -> (World, Arc<Faults>, Arc<SetClock>) {
    let mut world = World::with_files().await;
    let (faults, clock) = (Faults::new(), SetClock::at("2030-03-05T09:00:00Z"));
    world.connect = Some(faults.connect());
    world.clock = clock.clone();
    (world, faults, clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_step_waits_for_a_time_that_comes_a_second_time() {
    let (mut world, faults, clock) = world().await;
    world.restart().await;
    for (version, jump) in JUMPS.into_iter().enumerate() {
        world.write_database("staging", "orders", &format!("userVersion: {}", version + 1));
        world.tenant.commit("Want another version");
        faults.fail("orders", ManagerError::retry(Reason::TimedOut, "the disk is busy"));
        world.scheduled().await;
        let report = world.scheduled().await;
        assert_eq!((faults.tried().len(), report.outcome), (1, ExecutionOutcome::Blocked), "{jump}: it waits");
        clock.forward(jump);
        faults.mend("orders");
        let report = world.scheduled().await;
        assert_eq!((faults.tried().len(), report.outcome), (1, ExecutionOutcome::InSync), "{jump}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_circuit_stays_open_for_a_time_that_comes_a_second_time() {
    let (mut world, faults, clock) = world().await;
    world.restart().await;
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    for (round, jump) in JUMPS.into_iter().enumerate() {
        world.write_database("staging", "orders", &format!("userVersion: {}", round + 2));
        world.tenant.commit("Want another version");
        faults.silence(Some(ManagerError::retry(Reason::ProviderUnreachable, "nobody is there")));
        for _ in 0..3 {
            world.scheduled().await;
        }
        faults.silence(None);
        assert_eq!(unseen(&world.scheduled().await.plan, ORDERS), Some(Reason::CircuitOpen), "{jump}: nobody asks");
        clock.forward(jump);
        assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync, "{jump}");
    }
}

/// All events, oldest first.
async fn events(world: &World) -> Vec<Event> {
    let mut tx = world.store().read(Scope::Platform).await.unwrap();
    let mut events = tx.events(&HistoryFilter { limit: 100_000, ..HistoryFilter::default() }).await.unwrap();
    events.reverse();
    events
}

async fn scans(world: &World) -> usize {
    let mut tx = world.store().read(Scope::Platform).await.unwrap();
    let all = tx.executions(&HistoryFilter { limit: 100_000, ..HistoryFilter::default() }).await.unwrap();
    all.iter().filter(|look| look.trigger == Trigger::DriftScan).count()
}

async fn until(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !seen().await {
        assert!(start.elapsed() < PATIENCE, "{what} does not come");
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// How far the clock goes between two looks at it, and within how much of its time a scan must have come.
const MINUTES: TimeDelta = TimeDelta::minutes(2);
const LONGEST_SCAN: TimeDelta = TimeDelta::minutes(50);

/// How many databases there are in the end.
const DATABASES: usize = 6;

/// Counts how often a tenant's place is asked for: a poll does when it has read the refs.
#[derive(Default)]
struct Polls(AtomicUsize);

#[async_trait]
impl Points for Polls {
    async fn before(&self, _: Call, what: &'static str) -> Fate {
        if what == "place" {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        Fate::Go
    }

    async fn after(&self, _: Call, _: &'static str) -> Fate {
        Fate::Go
    }
}

/// A schedule runs on a clock that is set in the middle of each commit's steps.
async fn set_the_clock_at_work(mut world: World, clock: Arc<SetClock>) {
    let polls = Arc::new(Polls::default());
    let counted = Arc::clone(&polls);
    world.around_store = Some(Box::new(move |store| Arc::new(FaultyStore::new(store, counted.clone()))));
    world.write_platform("id: test-platform\npollInterval: 200ms\ndrift: {schedule: \"*/10 * * * *\", jitter: 1s}");
    world.platform.commit("Scan every ten minutes");
    write(&world, 1);
    world.restart().await;
    let running = Running::start(&world).await;
    let mut generation = world.store().place(&world.name).await.unwrap().unwrap().generation;
    for (round, jump) in JUMPS.into_iter().enumerate() {
        let version = round + 2;
        let (jumping, mut steps) = (Arc::clone(&clock), 0);
        world.on_event(move |event| {
            if matches!(event.kind, EventKind::StepStarted { .. }) {
                steps += 1;
                if steps == DATABASES / 2 {
                    jumping.forward(jump);
                }
            }
        });
        write(&world, version);
        until(&format!("version {version} after {jump}"), async || {
            for number in 0..DATABASES {
                if world.number("staging", &format!("r{number}"), VERSION).await != i64::try_from(version).unwrap() {
                    return false;
                }
            }
            let place = world.store().place(&world.name).await.unwrap().unwrap();
            place.is_idle()
        })
        .await;
        let place = world.store().place(&world.name).await.unwrap().unwrap();
        assert!(place.generation > generation, "{jump}: {place:?} after {generation}");
        generation = place.generation;
        // The next scan comes by the clock as it is now.
        let (before, mut waited) = (scans(&world).await, TimeDelta::zero());
        while scans(&world).await == before {
            assert!(waited < LONGEST_SCAN, "no scan comes after {jump}");
            clock.forward(MINUTES);
            waited += MINUTES;
            // Polls wake the schedule, so that it sees what the clock says: the second has begun after that. What it then
            // asks for is looked at before the clock goes on.
            let polled = polls.0.load(Ordering::SeqCst);
            until("the next poll", async || polls.0.load(Ordering::SeqCst) >= polled + 2).await;
            let rested = async || world.store().places().await.unwrap().iter().all(Place::is_idle);
            until("rest", rested).await;
        }
    }
    running.stop().await;

    let events = events(&world).await;
    assert!(events.is_sorted_by(|one, next| one.id < next.id));
    for number in 0..DATABASES {
        let name = format!("r{number}");
        let done: Vec<Action> = events
            .iter()
            .filter(|event| event.key.as_ref().is_some_and(|key| key.name == name))
            .filter_map(|event| match event.kind {
                EventKind::StepDone { action, .. } => Some(action),
                _ => None,
            })
            .collect();
        assert_eq!(done, [[Action::Create].as_slice(), &[Action::Update; JUMPS.len()]].concat(), "{name}");
        let status = world.status(&world.key(&format!("staging/Database/{name}"))).await.unwrap();
        assert_eq!(status.condition(ConditionType::Ready).unwrap().status, ConditionStatus::True);
    }
    let mut tx = world.store().read(Scope::Platform).await.unwrap();
    let all = tx.executions(&HistoryFilter { limit: 100_000, ..HistoryFilter::default() }).await.unwrap();
    assert!(all.iter().all(|look| look.outcome == ExecutionOutcome::InSync), "{all:#?}");
}

fn write(world: &World, version: usize) {
    for number in 0..DATABASES {
        world.write_database("staging", &format!("r{number}"), &format!("userVersion: {version}"));
    }
    world.tenant.commit(&format!("Want version {version}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_at_work_stops_nothing_and_does_nothing_twice() {
    let (world, _faults, clock) = world().await;
    set_the_clock_at_work(world, clock).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_at_work_stops_nothing_where_the_state_is_in_postgresql() {
    let (mut world, _faults, clock) = world().await;
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    server.psql(&format!("CREATE DATABASE clocks OWNER {login}")).await;
    world.database = Some(format!("postgres://{login}:{password}@127.0.0.1:{}/clocks", server.port()));
    set_the_clock_at_work(world, clock).await;
}

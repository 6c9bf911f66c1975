//! What fails is tried again: with growing waits, not for ever, and at once when something says that it may work now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use chrono::TimeDelta;
use plumb::engine::{Ask, PlatformStatus, Retried, Which, Width, view};
use plumb::managers::ManagerError;
use plumb::model::{
    Attempt, Circuit, ConditionStatus, ConditionType, Event, EventKind, ExecutionOutcome, Reason, ResourceKey,
    SystemClock, Trigger,
};
use plumb::store::Scope;
use plumb::store::audit::{AuditAction, AuditFilter};
use sqlx::Row;

use crate::harness::clock::SetClock;
use crate::harness::faulty::Faults;
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{FILES, World, held, held_message, parse, run_sql, unseen};
use crate::simulation::faulty::{Call, Fate, FaultyStore, Points};
use crate::waits::names_rule;

const ORDERS: &str = "checkout/staging/Database/orders";
const CARTS: &str = "checkout/staging/Database/carts";

/// A world whose managers fail as the faults say, on a clock that the test moves.
async fn faulty_world() -> (World, Arc<Faults>, Arc<SetClock>) {
    let mut world = World::with_files().await;
    let (faults, clock) = (Faults::new(), SetClock::at("2026-03-02T09:00:00Z"));
    world.connect = Some(faults.connect());
    world.clock = clock.clone();
    world.restart().await;
    world.write_database("staging", "orders", "userVersion: 1");
    world.write_database("staging", "carts", "userVersion: 1\ndependsOn: [Database/orders]");
    world.tenant.commit("Add orders and carts");
    (world, faults, clock)
}

fn busy() -> ManagerError {
    ManagerError::retry(Reason::TimedOut, "the disk is busy")
}

fn refused() -> ManagerError {
    ManagerError::terminal(Reason::Rejected, "no such page size")
}

async fn attempts(world: &World) -> BTreeMap<ResourceKey, Attempt> {
    world.store().read(Scope::Tenant(world.name.clone())).await.unwrap().attempts().await.unwrap()
}

/// The same, where something is wanted of a provider whose circuit is open.
async fn out_of_reach() -> (World, Arc<Faults>, Arc<SetClock>) {
    let (world, faults, clock) = faulty_world().await;
    world.in_sync().await;
    world.write_database("staging", "orders", "userVersion: 2");
    world.tenant.commit("Want version 2");
    faults.silence(Some(ManagerError::retry(Reason::ProviderUnreachable, "nobody is there")));
    for _ in 0..3 {
        world.scheduled().await;
    }
    assert!(circuits(&world).await["files"].is_open(world.clock.now()));
    (world, faults, clock)
}

async fn circuits(world: &World) -> BTreeMap<String, Circuit> {
    world.store().read(Scope::Platform).await.unwrap().circuits().await.unwrap()
}

/// Whether a condition of a resource holds, and its reason.
async fn said(world: &World, key: &str, condition: ConditionType) -> (ConditionStatus, Reason) {
    let status = world.status(key).await.unwrap();
    let condition = status.condition(condition).unwrap();
    (condition.status, condition.reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_waits_longer_each_time_and_its_dependents_go_on_with_it() {
    let (world, faults, clock) = faulty_world().await;
    faults.fail("orders", busy());
    let report = world.scheduled().await;
    assert_eq!((report.outcome, faults.tried()), (ExecutionOutcome::Failed, vec!["orders".to_owned()]));
    let first = report.next_try.expect("it is tried again");
    assert!(!report.wants_retry, "only the step waits");
    // Too early: nothing is tried, and it is said why.
    let report = world.scheduled().await;
    assert_eq!((report.outcome, faults.tried()), (ExecutionOutcome::Blocked, Vec::new()));
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::BackingOff));
    assert!(held_message(&report.plan, ORDERS).contains("the disk is busy (TimedOut). It failed once"));
    let until = attempts(&world).await[&parse(ORDERS)].next_at;
    assert!(until.is_some());
    assert_eq!((report.plan.goes_on_at(), world.status(ORDERS).await.unwrap().until), (until, until));
    assert_eq!(held(&report.plan, CARTS), Some(Reason::DependencyNotReady));
    assert_eq!(said(&world, ORDERS, ConditionType::Reconciling).await, (ConditionStatus::True, Reason::BackingOff));
    clock.forward(TimeDelta::from_std(first).unwrap());
    let report = world.scheduled().await;
    assert_eq!(faults.tried(), ["orders"]);
    let second = report.next_try.expect("it is tried again");
    assert!(second > first.mul_f64(1.5), "{first:?}, then {second:?}");
    // It works, and what waited for it follows in the same look.
    faults.mend("orders");
    clock.forward(TimeDelta::from_std(second).unwrap());
    let report = world.scheduled().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::InSync, 2), "{:#?}", report.plan);
    assert_eq!(faults.tried(), ["orders", "carts"]);
    assert!(attempts(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_and_could_not_be_read_back_is_looked_at_again_soon() {
    let (world, faults, _clock) = faulty_world().await;
    let silent = Arc::clone(&faults);
    world.on_event(move |event| {
        let is_last = event.key.as_ref().is_some_and(|key| key.name == "carts");
        if matches!(event.kind, EventKind::StepDone { .. }) && is_last {
            silent.silence(Some(ManagerError::retry(Reason::ProviderUnreachable, "nobody is there")));
        }
    });
    let report = world.scheduled().await;
    assert_eq!((report.outcome, report.done, report.wants_retry), (ExecutionOutcome::Blocked, 2, true));
    assert!(world.inventory().await.records.is_empty(), "nobody has seen them");
    let told = said(&world, CARTS, ConditionType::Ready).await;
    assert_eq!(told, (ConditionStatus::Unknown, Reason::ProviderUnreachable));
    // The next look is narrow, and records them all the same.
    faults.silence(None);
    let report = world.scheduled().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::InSync, 0));
    assert_eq!(world.inventory().await.records.len(), 2);
    assert_eq!(said(&world, CARTS, ConditionType::Ready).await.0, ConditionStatus::True);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_tried_once_until_a_commit_or_a_person_says_so() {
    let (world, faults, clock) = faulty_world().await;
    faults.fail("orders", refused());
    let report = world.scheduled().await;
    assert_eq!((report.outcome, report.next_try), (ExecutionOutcome::Failed, None));
    assert_eq!(said(&world, ORDERS, ConditionType::Stalled).await, (ConditionStatus::True, Reason::DeadLetter));
    clock.forward(TimeDelta::days(1));
    let report = world.scheduled().await;
    assert_eq!((held(&report.plan, ORDERS), report.wants_retry), (Some(Reason::DeadLetter), false));
    let message = held_message(&report.plan, ORDERS);
    assert!(message.contains("no such page size (Rejected)") && message.contains("plumb retry"), "{message}");
    assert_eq!(faults.tried(), ["orders"]);
    // A person says so.
    let key = parse(ORDERS);
    let retried = plumb::engine::retry(world.store(), world.clock.as_ref(), &world.name, Which::Resource(&key), "ada")
        .await
        .unwrap();
    assert_eq!(retried.keys, [key]);
    world.scheduled().await;
    assert_eq!(faults.tried(), ["orders"]);
    assert_eq!(said(&world, ORDERS, ConditionType::Stalled).await, (ConditionStatus::True, Reason::DeadLetter));
    // A commit says so, of whatever it is.
    world.tenant.write("README.md", "Something else\n");
    world.tenant.commit("Write something else");
    world.scheduled().await;
    assert_eq!(faults.tried(), ["orders"]);
    // So does a revision of the platform.
    faults.mend("orders");
    world.platform.write("README.md", "Something else\n");
    world.platform.commit("Write something else");
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert!(attempts(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_something_tried_again_is_written_down_with_it_or_neither_is() {
    let (world, faults, _clock) = faulty_world().await;
    faults.fail("orders", refused());
    world.scheduled().await;
    let orders = parse(ORDERS);
    let retry =
        async || plumb::engine::retry(world.store(), world.clock.as_ref(), &world.name, Which::All, "ada").await;
    let state = world.data().join("plumb.db");
    run_sql(&state, "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END").await;
    retry().await.unwrap_err();
    assert!(attempts(&world).await[&orders].is_dead(), "it is as it was");
    run_sql(&state, "DROP TRIGGER full").await;
    assert_eq!(retry().await.unwrap().keys, std::slice::from_ref(&orders));
    assert!(!attempts(&world).await[&orders].is_dead());
    // An apply has everything tried again that failed.
    world.apply().await;
    let filter = AuditFilter { limit: 1000, ..AuditFilter::default() };
    let rows = world.store().read(Scope::Tenant(world.name.clone())).await.unwrap().audit(&filter).await.unwrap();
    let told = rows.into_iter().filter(|row| row.action == AuditAction::Retried).map(|row| (row.actor, row.key));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [("ada".to_owned(), Some(orders.clone())), ("tester".to_owned(), Some(orders))]
    );
    // What did not fail is not tried again, and not written down.
    faults.mend("orders");
    world.in_sync().await;
    assert_eq!(retry().await.unwrap(), Retried::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_try_a_step_is_a_dead_letter_and_an_apply_takes_it_out() {
    let (world, faults, clock) = faulty_world().await;
    faults.fail("orders", busy());
    let mut tries = 0;
    while let Some(wait) = world.scheduled().await.next_try {
        tries += 1;
        assert!(tries < 100, "it ends");
        clock.forward(TimeDelta::from_std(wait).unwrap());
    }
    assert_eq!(faults.tried().len(), 10);
    let attempt = attempts(&world).await.remove(&parse(ORDERS)).unwrap();
    assert!(attempt.is_dead());
    assert_eq!((attempt.failures, attempt.reason, attempt.provider.as_str()), (10, Reason::TimedOut, "files"));
    assert_eq!(said(&world, ORDERS, ConditionType::Stalled).await, (ConditionStatus::True, Reason::DeadLetter));
    faults.mend("orders");
    assert_eq!(world.in_sync().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn applies_alone_wait_for_nothing_and_come_to_an_end_all_the_same() {
    let (world, faults, _clock) = faulty_world().await;
    faults.fail("orders", busy());
    for tries in 1..=10 {
        world.apply().await;
        let attempt = attempts(&world).await.remove(&parse(ORDERS)).unwrap();
        assert_eq!((attempt.failures, attempt.is_dead()), (tries, tries == 10));
    }
    assert_eq!(said(&world, ORDERS, ConditionType::Stalled).await, (ConditionStatus::True, Reason::DeadLetter));
    // One more try each, and no pretence that it had been mended.
    faults.tried();
    world.apply().await;
    assert_eq!(faults.tried(), ["orders"]);
    assert_eq!(said(&world, ORDERS, ConditionType::Stalled).await, (ConditionStatus::True, Reason::DeadLetter));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_while_the_last_try_is_under_way_is_not_lost() {
    let (world, faults, clock) = faulty_world().await;
    faults.fail("orders", busy());
    let wait = world.scheduled().await.next_try.expect("it is tried again");
    clock.forward(TimeDelta::from_std(wait).unwrap());
    faults.fail("orders", refused());
    world.retry_as_steps_fail(|| {});
    world.scheduled().await;
    world.on_event(|_| {});
    let attempt = attempts(&world).await.remove(&parse(ORDERS)).unwrap();
    assert_eq!((attempt.is_dead(), attempt.failures), (false, 0), "{attempt:?}");
    faults.mend("orders");
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert!(attempts(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_another_plumb_is_at_work_on_it_nothing_counts_as_tried() {
    const LOOKS: usize = 25;
    let (world, faults, clock) = faulty_world().await;
    faults.fail("orders", ManagerError::locked("another plumb is at work on it"));
    for look in 0..LOOKS {
        let wait = world.scheduled().await.next_try.expect("it is tried again");
        if look == 0 {
            let message = held_message(&world.scheduled().await.plan, ORDERS);
            assert!(message.contains("at work on it (Locked). It is tried again at "), "{message}");
            names_rule(&world, ORDERS, Reason::BackingOff, "R13").await;
        }
        clock.forward(TimeDelta::from_std(wait).unwrap());
    }
    assert_eq!(faults.tried().len(), LOOKS);
    let attempt = attempts(&world).await.remove(&parse(ORDERS)).unwrap();
    assert_eq!((attempt.failures, attempt.reason, attempt.is_dead()), (0, Reason::Locked, false));
    assert_eq!(said(&world, ORDERS, ConditionType::Reconciling).await, (ConditionStatus::True, Reason::Locked));
    // What fails then failed once, and what is locked again failed no oftener.
    faults.fail("orders", busy());
    let wait = world.scheduled().await.next_try.expect("it is tried again");
    assert_eq!(attempts(&world).await[&parse(ORDERS)].failures, 1);
    faults.fail("orders", ManagerError::locked("another plumb is at work on it"));
    clock.forward(TimeDelta::from_std(wait).unwrap());
    world.scheduled().await;
    assert_eq!(attempts(&world).await[&parse(ORDERS)].failures, 1);
    // Since when it is locked is not since when it is not ready.
    let explained = view::explain(world.store(), &parse(ORDERS), world.clock.as_ref()).await.unwrap().unwrap();
    assert_eq!((explained.chain[0].reason, explained.chain[0].since), (Reason::Locked, Some(clock_now(&world))));
    let ready = world.status(ORDERS).await.unwrap().condition(ConditionType::Ready).unwrap().clone();
    assert!(ready.last_transition_time < clock_now(&world));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_silent_provider_asked_again_is_written_down_where_no_step_failed_too() {
    let (world, _faults, _clock) = out_of_reach().await;
    let retried =
        plumb::engine::retry(world.store(), world.clock.as_ref(), &world.name, Which::All, "ada").await.unwrap();
    let asked = Retried { keys: Vec::new(), providers: vec!["files".to_owned()] };
    assert_eq!(retried, asked, "no step has failed");
    assert!(!circuits(&world).await["files"].is_open(clock_now(&world)));
    let filter = AuditFilter { limit: 1000, ..AuditFilter::default() };
    let rows = world.store().read(Scope::Platform).await.unwrap().audit(&filter).await.unwrap();
    let told = rows.into_iter().filter(|row| row.action == AuditAction::Retried);
    let told: Vec<_> = told.map(|row| (row.tenant, row.actor, row.details["provider"].clone())).collect();
    assert_eq!(told, [(String::new(), "ada".to_owned(), "files".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_and_an_apply_have_the_providers_of_their_tenant_asked_again_and_no_others() {
    let (world, _faults, _clock) = out_of_reach().await;
    let mine = circuits(&world).await.remove("files").unwrap();
    let others = Circuit { provider: "elsewhere".to_owned(), ..mine.clone() };
    let mut tx = world.store().begin(Scope::Platform).await.unwrap();
    tx.put_circuit(&others).await.unwrap();
    tx.commit().await.unwrap();
    let retry = async |tenant: &str, key: Option<&str>| {
        let key = key.map(parse);
        plumb::engine::retry(
            world.store(),
            world.clock.as_ref(),
            tenant,
            key.as_ref().map_or(Which::All, Which::Resource),
            "ada",
        )
        .await
        .unwrap();
        let circuits = circuits(&world).await;
        let is_open = |provider: &str| circuits[provider].is_open(clock_now(&world));
        (is_open("files"), is_open("elsewhere"))
    };
    world.look(Width::Deep).await.unwrap();
    let applied = circuits(&world).await;
    assert!(applied["files"].failures > mine.failures, "it was asked: {applied:?}");
    assert_eq!(applied["elsewhere"], others);
    assert_eq!(retry("billing", None).await, (true, true), "another tenant's");
    assert_eq!(retry(&world.name, Some("checkout/staging/Database/nothing")).await, (true, true));
    assert_eq!(retry(&world.name, Some(ORDERS)).await, (false, true));
}

/// A queue that takes so many requests more.
#[derive(Default)]
struct Requests(AtomicUsize);

#[async_trait]
impl Points for Requests {
    async fn before(&self, _: Call, what: &'static str) -> Fate {
        if what != "request" {
            return Fate::Go;
        }
        let is_left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if is_left { Fate::Go } else { Fate::Fail }
    }

    async fn after(&self, _: Call, _: &'static str) -> Fate {
        Fate::Go
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_provider_is_woken_though_nobody_is_left_to_ask_once_it_is_known_to_be_back() {
    let (mut world, faults, clock) = out_of_reach().await;
    let requests = Arc::new(Requests::default());
    let some = Arc::clone(&requests);
    world.around_store = Some(Box::new(move |store| Arc::new(FaultyStore::new(store, some.clone()))));
    world.restart().await;
    // Where the queue takes nothing, the circuit is open until it does.
    faults.silence(None);
    clock.forward(TimeDelta::seconds(70));
    world.scheduled().await;
    assert_eq!(circuits(&world).await.len(), 1);
    // The last sign of whoever closes it is that it is closed.
    requests.0.store(1, Ordering::SeqCst);
    clock.forward(TimeDelta::seconds(70));
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert_eq!((circuits(&world).await.len(), requests.0.load(Ordering::SeqCst)), (0, 0));
    let place = world.store().place(&world.name).await.unwrap().unwrap();
    assert!(place.asked.is_some(), "{place:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_wants_any_more_is_no_dead_letter() {
    let (world, faults, _clock) = faulty_world().await;
    faults.fail("carts", refused());
    world.scheduled().await;
    assert!(attempts(&world).await.contains_key(&parse(CARTS)));
    world.tenant.remove("environments/staging/carts.yaml");
    world.tenant.commit("Do without carts");
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert!(attempts(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_does_not_answer_is_left_alone_until_it_is_back() {
    let (world, faults, clock) = faulty_world().await;
    world.in_sync().await;
    // Something failed for good there before.
    world.write_database("staging", "orders", "userVersion: 2");
    world.tenant.commit("Want version 2");
    faults.fail("orders", refused());
    world.scheduled().await;
    faults.mend("orders");
    faults.silence(Some(ManagerError::retry(Reason::ProviderUnreachable, "nobody is there")));
    for _ in 0..3 {
        world.scheduled().await;
    }
    let open = circuits(&world).await.remove("files").expect("it is remembered");
    assert!(open.is_open(world.clock.now()), "{open:?}");
    faults.asked();
    let report = world.scheduled().await;
    assert_eq!((unseen(&report.plan, ORDERS), faults.asked()), (Some(Reason::CircuitOpen), 0), "nobody asks");
    assert!(report.wants_retry);
    let ready = world.status(ORDERS).await.unwrap().condition(ConditionType::Ready).unwrap().clone();
    assert_eq!((ready.status, ready.reason), (ConditionStatus::Unknown, Reason::CircuitOpen));
    assert!(ready.message.contains("did not answer 3 times in a row (ProviderUnreachable: nobody is there)"));
    // One asks, in vain: the next wait is longer.
    clock.forward(TimeDelta::seconds(6));
    world.scheduled().await;
    assert_eq!(faults.asked(), 1);
    let longer = circuits(&world).await.remove("files").unwrap();
    assert!(longer.retry_at.unwrap() - clock_now(&world) > TimeDelta::seconds(6), "{longer:?}");
    // It is back: what failed for good is tried again too, and somebody is asked to look.
    faults.silence(None);
    clock.forward(TimeDelta::seconds(30));
    world.scheduled().await;
    assert!(circuits(&world).await.is_empty());
    let place = world.store().place(&world.name).await.unwrap().unwrap();
    assert!(place.asked.is_some(), "{place:?}");
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert_eq!(world.number("staging", "orders", "PRAGMA user_version").await, 2);
}

const NEIGHBOURS: [&str; 3] = ["billing", "orders", "reports"];

/// Tenants with a database each, on one provider.
async fn neighbours() -> (World, Arc<Faults>, PlatformStatus) {
    let (mut world, faults, _clock) = faulty_world().await;
    // Moments are told apart by a clock that runs.
    world.stop();
    world.clock = Arc::new(SystemClock);
    world.start().await;
    let tenant = world.platform.show("main:tenants.yaml");
    let neighbours = NEIGHBOURS.map(|name| {
        world.tenant.write(
            &format!("{name}/environments/staging/orders.yaml"),
            world.tenant.show("main:environments/staging/orders.yaml"),
        );
        let named = tenant.replace("name: checkout", &format!("name: {name}"));
        named.replace("repository: {", &format!("repository: {{path: {name}, "))
    });
    world.tenant.commit("Add a database of each");
    world.platform.write("tenants.yaml", neighbours.join("---\n"));
    world.platform.commit("Other tenants");
    let in_force = world.engine().platform().await.unwrap();
    (world, faults, in_force)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_told_late_closes_no_circuit_that_opened_since() {
    let (world, faults, in_force) = neighbours().await;
    let ask = Ask { trigger: Trigger::Poll, width: Width::Shallow };
    let look = async |name| world.engine().reconcile(&in_force, name, ask).await.unwrap();
    for name in NEIGHBOURS {
        assert_eq!(look(name).await.outcome, ExecutionOutcome::InSync);
    }
    let nobody = || Some(ManagerError::retry(Reason::ProviderUnreachable, "nobody is there"));
    faults.silence(nobody());
    look("billing").await;
    assert_eq!(circuits(&world).await["files"].failures, 1);
    // One asks, and is paused before it tells what it hears.
    faults.silence(None);
    faults.asked();
    let meeting = faults.gather(Some(2)).unwrap();
    let meanwhile = async {
        while faults.asked() == 0 {
            tokio::task::yield_now().await;
        }
        faults.gather(None);
        faults.silence(nobody());
        look("billing").await;
        look("reports").await;
        assert!(circuits(&world).await["files"].is_open(world.clock.now()));
        faults.silence(None);
        meeting.wait().await;
    };
    tokio::join!(look("orders"), meanwhile);
    assert_eq!(circuits(&world).await.get("files").map(|circuit| circuit.failures), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_several_looks_hear_at_one_moment_is_one_silence() {
    let (world, faults, in_force) = neighbours().await;
    faults.silence(Some(ManagerError::retry(Reason::ProviderUnreachable, "nobody is there")));
    let ask = Ask { trigger: Trigger::Poll, width: Width::Shallow };
    let look = |name| world.engine().reconcile(&in_force, name, ask);
    let all = async || {
        faults.gather(Some(NEIGHBOURS.len()));
        for report in futures::future::join_all(NEIGHBOURS.map(look)).await {
            assert!(report.unwrap().wants_retry);
        }
        faults.gather(None);
        circuits(&world).await.remove("files").expect("it is remembered")
    };
    let once = all().await;
    assert_eq!((once.failures, once.retry_at), (1, None), "{once:?}");
    // One silence after the other is another thing.
    for number in 2..=3 {
        look(NEIGHBOURS[0]).await.unwrap();
        assert_eq!(circuits(&world).await["files"].failures, number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_without_an_answer_open_the_circuit_and_no_more_are_begun_there() {
    let (world, faults, clock) = faulty_world().await;
    let others = "---\napiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {name: others}\nspec: {type: sqlite, url: \
                  \"sqlite:others\"}\n";
    world.platform.write("providers.yaml", format!("{}  maxConcurrency: 1\n{others}", FILES.trim_start()));
    world.write_tenant("providers: [files, others]");
    world.platform.commit("One at a time, and another provider");
    for name in ["a", "b", "c"] {
        world.write_database("staging", name, "userVersion: 1");
    }
    world.write_database("staging", "late", "provider: others\ndependsOn: [Database/orders]");
    world.tenant.commit("Add more");
    // Nobody is there any more once it is planned.
    let silenced = Arc::clone(&faults);
    world.on_event(move |event| {
        if matches!(event.kind, EventKind::Planned { .. }) {
            silenced.silence(Some(ManagerError::retry(Reason::ProviderUnreachable, "nobody is there")));
            silenced.asked();
        }
    });
    let report = world.scheduled().await;
    world.on_event(|_| {});
    assert_eq!((report.failed.len(), faults.asked()), (3, 3), "each asks who it is: {report:#?}");
    let open = circuits(&world).await.remove("files").expect("it is remembered");
    assert!(open.is_open(world.clock.now()) && open.failures == 3, "{open:?}");
    let begun = |event: &&Event| matches!(event.kind, EventKind::StepStarted { .. });
    assert_eq!(world.events().iter().filter(begun).count(), 3);
    // What is left is put off and has not failed, and says why and until when.
    let left: Vec<(String, Reason)> =
        report.put_off.iter().map(|(key, hold)| (key.name.clone(), hold.reason)).collect();
    let is_silent = |name: &str| (name.to_owned(), Reason::CircuitOpen);
    assert_eq!(
        left,
        [is_silent("carts"), ("late".to_owned(), Reason::DependencyNotReady), is_silent("orders")],
        "{report:#?}"
    );
    assert!(!report.wants_retry && report.next_try.is_some(), "{report:#?}");
    let status = world.status(ORDERS).await.unwrap();
    assert_eq!(status.until, open.retry_at);
    let explained = view::explain(world.store(), &parse("checkout/staging/Database/late"), world.clock.as_ref()).await;
    let explained = explained.unwrap().unwrap();
    let links: Vec<&str> = explained.chain.iter().map(|cause| cause.subject.as_str()).collect();
    assert_eq!(links, ["checkout/staging/Database/late", ORDERS, "files"], "{explained:#?}");
    assert_eq!(explained.chain.last().unwrap().next_at, open.retry_at);
    // It is back: all of it is done, what failed too.
    faults.silence(None);
    clock.forward(TimeDelta::seconds(6));
    world.scheduled().await;
    assert!(circuits(&world).await.is_empty());
    assert_eq!(world.scheduled().await.outcome, ExecutionOutcome::InSync);
    assert!(["a", "b", "c", "orders", "carts"].iter().all(|name| world.file("staging", name).exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_takes_too_long_on_a_provider_that_answers_opens_no_circuit() {
    let (world, faults, clock) = faulty_world().await;
    for name in ["a", "b", "c", "d"] {
        world.write_database("staging", name, "userVersion: 1");
        faults.fail(name, busy());
    }
    world.tenant.commit("Add more");
    let report = world.scheduled().await;
    assert_eq!((report.failed.len(), report.done), (4, 2), "{report:#?}");
    assert!(circuits(&world).await.is_empty(), "it says who it is");
    // Silences from before are none in a row with what fails after an answer.
    faults.silence(Some(ManagerError::retry(Reason::ProviderUnreachable, "nobody is there")));
    world.scheduled().await;
    assert_eq!(circuits(&world).await["files"].failures, 1);
    faults.silence(None);
    clock.forward(TimeDelta::minutes(1));
    assert_eq!(world.scheduled().await.failed.len(), 4);
    assert!(circuits(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_moved_is_planned_anew_and_tried_in_the_same_look() {
    let (world, faults, _clock) = faulty_world().await;
    faults.fail("orders", ManagerError::conflict("somebody else was there"));
    let (mended, mut plans) = (Arc::clone(&faults), 0);
    world.on_event(move |event| {
        plans += usize::from(matches!(event.kind, EventKind::Planned { .. }));
        if plans == 2 {
            mended.mend("orders");
        }
    });
    let report = world.scheduled().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::InSync, 2), "{:#?}", report.plan);
    assert_eq!(faults.tried(), ["orders", "orders", "carts"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_wait_is_over_and_that_something_else_keeps_asks_for_no_look_of_its_own() {
    let (world, faults, clock) = faulty_world().await;
    faults.fail("orders", busy());
    let wait = world.scheduled().await.next_try.expect("it is tried again");
    // When its time comes nobody answers: what cannot be seen is not tried.
    faults.silence(Some(ManagerError::retry(Reason::ProviderUnreachable, "nobody is there")));
    clock.forward(TimeDelta::from_std(wait).unwrap());
    let report = world.scheduled().await;
    assert_eq!(unseen(&report.plan, ORDERS), Some(Reason::ProviderUnreachable));
    assert_eq!((report.wants_retry, report.next_try), (true, None), "patience grows with what cannot be seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_comes_back_as_another_says_so_and_not_that_it_is_silent() {
    let (world, faults, clock) = out_of_reach().await;
    faults.silence(None);
    faults.become_another("a copy of it");
    clock.forward(TimeDelta::seconds(6));
    for _ in 0..2 {
        let report = world.scheduled().await;
        assert_eq!(unseen(&report.plan, ORDERS), Some(Reason::ProviderIdentityChanged), "it answers");
    }
    assert!(circuits(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_says_when_it_is_tried_again_and_what_waits_says_for_what() {
    let (world, faults, _clock) = faulty_world().await;
    world.write_database("staging", "accounts", "userVersion: 1");
    world.write_database("staging", "carts", "userVersion: 1\ndependsOn: [Database/accounts, Database/orders]");
    world.tenant.commit("Let carts need accounts");
    faults.fail("orders", ManagerError::retry(Reason::Rejected, "the disk is busy"));
    world.scheduled().await;
    let explain = async |key: &str| {
        let explained = view::explain(world.store(), &parse(key), world.clock.as_ref()).await.unwrap();
        explained.expect("it is known")
    };
    let next_at = attempts(&world).await[&parse(ORDERS)].next_at;
    assert!(next_at.is_some());
    let failed = explain(ORDERS).await;
    assert_eq!(failed.chain.last().unwrap().next_at, next_at, "{failed:#?}");
    // Accounts are there and asked about, which keeps nobody from being made.
    world.by_hand("staging", "accounts", "PRAGMA user_version = 9").await;
    world.look(Width::Deep).await.unwrap();
    let waiting = explain(CARTS).await;
    let links: Vec<&str> = waiting.chain.iter().map(|cause| cause.subject.as_str()).collect();
    assert_eq!(links, [CARTS, ORDERS], "{waiting:#?}");
}

fn clock_now(world: &World) -> chrono::DateTime<chrono::Utc> {
    world.clock.now()
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_what_a_step_had_done_before_it_failed_is_nobodys_drift() {
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    world.write_database("staging", "others", "connectionLimit: 5");
    // Git takes all of it back, or wants something else.
    for (database, next) in [("orders", 5), ("baskets", 9)] {
        let (key, name) = (world.key(&format!("staging/Database/{database}")), world.object("staging", database));
        let there = format!(
            "SELECT (SELECT datconnlimit FROM pg_database WHERE datname = '{name}'), \
             (SELECT count(*) FROM pg_roles WHERE rolname = '{name}_app')"
        );
        let seen = async || {
            let row = server.query(&name, &there).await.remove(0);
            (row.get::<i32, _>(0), row.get::<i64, _>(1))
        };
        world.write_database("staging", database, "connectionLimit: 5");
        world.tenant.commit("Begin");
        world.in_sync().await;
        let more = "connectionLimit: 77\nroles: [{name: app, access: read}]\nextensions: [no_such_extension]";
        world.write_database("staging", database, more);
        world.tenant.commit("Want more, and what there is not");
        let report = world.apply().await;
        assert!(report.failed.contains_key(&parse(&key)), "{report:#?}");
        assert_eq!(seen().await, (77, 0), "half of it was done");
        world.write_database("staging", database, &format!("connectionLimit: {next}"));
        world.tenant.commit("Want less");
        let report = world.apply().await;
        assert_eq!(report.outcome, ExecutionOutcome::InSync, "{:#?}", report.plan);
        assert_eq!((seen().await, world.proposal(&key).await), ((next, 0), None));
        assert_eq!(world.in_sync().await, 0);
    }
}

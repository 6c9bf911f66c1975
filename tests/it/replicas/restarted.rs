//! A rolling restart: replicas are told to stop one after the other while they work. Each ends its steps, gives its
//! tenants back at once, and the others go on with what is left; nothing is lost, and nothing done twice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use plumb::model::{EventKind, ExecutionOutcome, Place, Reason};
use plumb::store::{HistoryFilter, Queue, Scope, Store};

use super::{ALL_OF_THEM, BETWEEN_LOOKS, PATIENCE, Scene, until};
use crate::harness::replica::Replica;

/// So long that a tenant which is not given back shows.
const LEASE: Duration = Duration::from_secs(60);
/// How long a replica may take to end the steps that are under way, and to write that down.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// How long after a look that a stop ended the next one may begin: others are woken, and are never full.
const TAKEN_WITHIN: TimeDelta = TimeDelta::seconds(15);
/// What is added to each tenant where all was done before a replica was found at work.
const MORE: usize = 6;

/// The tenants of which `replica` is doing steps now.
async fn at_work(scene: &Scene, replica: &Replica) -> BTreeSet<String> {
    let places = scene.store.places().await.unwrap();
    let held = places.iter().filter(|place| replica.holds(place)).map(|place| place.tenant.clone());
    let mut tx = scene.store.read(Scope::Platform).await.unwrap();
    let mut at_work = BTreeSet::new();
    for tenant in held {
        let newest = HistoryFilter { limit: 1, ..HistoryFilter::default() };
        let scope = Scope::Tenant(tenant.clone());
        let newest = scene.store.read(scope).await.unwrap().executions(&newest).await.unwrap();
        let Some(look) = newest.first().filter(|look| look.outcome == ExecutionOutcome::Running) else { continue };
        let of_look = HistoryFilter { execution: Some(look.id), limit: ALL_OF_THEM, ..HistoryFilter::default() };
        let events = tx.events(&of_look).await.unwrap();
        if events.iter().any(|event| matches!(event.kind, EventKind::StepStarted { .. })) {
            at_work.insert(tenant);
        }
    }
    at_work
}

/// Waits until `replica` does steps; where there is nothing left to do, more is asked for.
async fn until_at_work(scene: &mut Scene, replica: &Replica) {
    let start = Instant::now();
    while at_work(scene, replica).await.is_empty() {
        assert!(start.elapsed() < PATIENCE, "it does not work: {}", replica.log());
        let places = scene.store.places().await.unwrap();
        if !places.is_empty() && places.iter().all(Place::is_idle) {
            scene.want(MORE, 1);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_are_restarted_in_turn_at_work_lose_nothing_and_do_nothing_twice() {
    let mut scene = Scene::start().await;
    let mut replicas: Vec<Replica> = (0..3).map(|_| scene.replica(LEASE)).collect();
    let mut took = Vec::new();
    for replica in &mut replicas {
        until_at_work(&mut scene, replica).await;
        let start = Instant::now();
        assert_eq!(replica.terminate(), Some(0));
        took.push(start.elapsed());
        let places = scene.store.places().await.unwrap();
        let kept: Vec<&Place> = places.iter().filter(|place| replica.holds(place)).collect();
        assert!(kept.is_empty(), "it has given back what it had: {kept:#?}");
        *replica = scene.replica(LEASE);
    }
    assert!(took.iter().all(|took| *took < ENDS_WITHIN), "{took:?}");
    scene.until_all_ready().await;
    until(&scene.store, "rest", |places| places.iter().all(Place::is_idle)).await;
    for replica in &mut replicas {
        assert_eq!(replica.terminate(), Some(0));
    }
    scene.expect_all_made_once().await;

    // Every look has come to its end, and those that a stop ended say so; others went on at once.
    let mut tx = scene.store.read(Scope::Platform).await.unwrap();
    let all = HistoryFilter { limit: ALL_OF_THEM, ..HistoryFilter::default() };
    let mut executions = tx.executions(&all).await.unwrap();
    executions.sort_by_key(|execution| execution.id);
    let ended =
        |outcome: ExecutionOutcome| !matches!(outcome, ExecutionOutcome::Running | ExecutionOutcome::Interrupted);
    assert!(executions.iter().all(|execution| ended(execution.outcome)), "{executions:#?}");
    let says_so = |kind: &EventKind| matches!(kind, EventKind::Blocked { reason: Reason::Pending, .. });
    let events = tx.events(&all).await.unwrap();
    let cut_short: BTreeSet<i64> = events
        .iter()
        .filter(|event| event.key.is_none() && says_so(&event.kind))
        .map(|event| event.execution)
        .collect();
    assert!(!cut_short.is_empty(), "a stop came while something was left");
    let mut longest = TimeDelta::zero();
    for (at, look) in executions.iter().enumerate().filter(|(_, look)| cut_short.contains(&look.id)) {
        let next = executions[at + 1..].iter().find(|next| next.tenant == look.tenant).expect("somebody goes on");
        let waited = next.started_at - look.finished_at.unwrap();
        assert!(waited < TAKEN_WITHIN, "{waited}: {look:#?}, then {next:#?}");
        longest = longest.max(waited);
    }
    println!(
        "three replicas restarted in turn at work: they ended after {took:?}; {} looks were cut short, and went on after {} \
         ms at most (lease {LEASE:?}); {} resources, {} looks",
        cut_short.len(),
        longest.num_milliseconds(),
        scene.wanted.len(),
        executions.len()
    );
}

//! Forgetting much: a part at a time, and what is kept is what always was. How many rows go at once is the databases' own;
//! the rest of pruning is in `contract.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plumb::model::{Ask, Execution, ExecutionOutcome, Replica, Trigger, Width};
use plumb::store::inputs::PackedInputs;
use plumb::store::{HistoryFilter, Scope, Store};
use serde_json::json;

use super::audit::{entry, verified};
use super::postgres::run;
use super::sample::{at, event, events, summary};
use super::{Fixture, begin, read, sqlite};

/// How many executions there are, of these tenants, over these seconds.
const EXECUTIONS: u32 = 20_000;
const TENANTS: u32 = 7;
const SECONDS: u32 = 1000;

/// More than go at once.
const MANY: u64 = 5000;

/// Everything, but nothing that a test would make by itself.
const ALL: HistoryFilter =
    HistoryFilter { execution: None, key: None, environment: None, looks: false, before: None, limit: 1_000_000 };

/// Executions with an event each, as both databases take it: every fifth is no look, and every thousandth still runs.
fn filling() -> String {
    let (summary, kind) = (json!(summary()), json!(events()[0]));
    let second = format!("'2023-11-14T22:' || (10 + i % {SECONDS} / 60) || ':' || (10 + i % 50) || '.000000000Z'");
    format!(
        "WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {EXECUTIONS})
         INSERT INTO executions (tenant, trigger_kind, outcome, summary, started_at, finished_at)
         SELECT 'tenant-' || (i % {TENANTS}), CASE WHEN i % 5 = 0 THEN 'secretshown' ELSE 'poll' END, 'InSync',
                '{summary}', {second}, CASE WHEN i % 1000 = 0 THEN NULL ELSE {second} END FROM numbers;
         INSERT INTO events (execution, tenant, at, document) SELECT id, tenant, started_at, '{kind}' FROM executions;"
    )
}

async fn history(store: &dyn Store) -> Vec<Execution> {
    read(store).await.executions(&ALL).await.unwrap()
}

async fn much_is_forgotten_a_part_at_a_time(store: &dyn Store) {
    let (young, lease) = (at(1_000_000), Duration::from_secs(600));
    // One that has many events goes alone, whatever else there is.
    let mut tx = begin(store).await;
    let large = tx.start_execution("tenant-0", Trigger::Poll, None, at(-2)).await.unwrap();
    let one = event(None, at(-2), &events()[0]);
    let many: Vec<_> = (0..25_000).map(|_| one.clone()).collect();
    tx.append_events(large, "tenant-0", &many).await.unwrap();
    tx.finish_execution(large, ExecutionOutcome::InSync, None, None, summary(), at(-1_000_000)).await.unwrap();
    let newest = tx.start_execution("tenant-0", Trigger::Poll, None, young).await.unwrap();
    tx.finish_execution(newest, ExecutionOutcome::InSync, None, None, summary(), young).await.unwrap();
    tx.commit().await.unwrap();
    let before = history(store).await;
    let mut looks: BTreeMap<&str, i64> = BTreeMap::new();
    for look in before.iter().rev().filter(|execution| execution.trigger.is_look()) {
        looks.insert(&look.tenant, look.id);
    }
    let is_kept = |execution: &&Execution| {
        execution.finished_at.is_none_or(|end| end >= young)
            || looks.get(execution.tenant.as_str()) == Some(&execution.id)
    };
    let kept: BTreeSet<i64> = before.iter().filter(is_kept).map(|execution| execution.id).collect();
    assert!(kept.len() > TENANTS as usize && kept.len() < 100, "{}", kept.len());

    // Whoever looks at a tenant meanwhile can say that it lives.
    let ask = Ask { trigger: Trigger::Poll, width: Width::Deep };
    let held = store.claim_tenant("tenant-1", ask, &Replica("a".to_owned()), lease).await.unwrap().expect("it is free");
    let mut parts = Vec::new();
    loop {
        let mut tx = store.begin(Scope::Platform).await.unwrap();
        let gone = tx.prune_history(young).await.unwrap();
        tx.commit().await.unwrap();
        if gone == 0 {
            break;
        }
        store.renew(&held.lease, lease).await.unwrap();
        parts.push(gone);
    }
    assert_eq!(parts[0], 1, "the one with many events");
    assert!(parts.iter().all(|gone| *gone < MANY), "{parts:?}");
    assert_eq!(parts.iter().sum::<u64>(), (before.len() - kept.len()) as u64);
    assert_eq!(history(store).await.iter().map(|execution| execution.id).collect::<BTreeSet<_>>(), kept);
    let events = read(store).await.events(&ALL).await.unwrap();
    let of: BTreeSet<i64> = events.iter().map(|event| event.execution).collect();
    assert!(of.is_subset(&kept) && of.len() == kept.len() - 1, "all but the newest had one");
}

async fn a_long_chain_is_cut_a_part_at_a_time_and_is_whole_after_each(store: &dyn Store) {
    const ROWS: i64 = 25_000;
    for (chain, rows) in [("billing", 10), ("checkout", ROWS), ("search", 10)] {
        let entries: Vec<_> = (0..rows).map(entry).collect();
        let mut tx = begin(store).await;
        tx.append_audit(chain, &entries).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut parts = Vec::new();
    loop {
        let mut tx = begin(store).await;
        let gone = tx.prune_audit(at(ROWS - 5)).await.unwrap();
        tx.commit().await.unwrap();
        verified(store).await.unwrap();
        if gone == 0 {
            break;
        }
        parts.push(gone);
    }
    assert!(parts.len() > 1 && parts.iter().all(|gone| *gone <= 4 * MANY), "{parts:?}");
    let heads = verified(store).await.unwrap();
    let left: Vec<_> = heads.iter().map(|head| (head.tenant.as_str(), head.last_id + 1 - head.first_id)).collect();
    assert_eq!(left, [("", 0), ("billing", 0), ("checkout", 5), ("search", 0)]);
}

#[tokio::test]
async fn sqlite_forgets_much_a_part_at_a_time() {
    let fixture = Fixture::sqlite().await;
    sqlite::by_hand(fixture.folder.path(), filling()).await;
    much_is_forgotten_a_part_at_a_time(&*fixture.store).await;
}

#[tokio::test]
async fn postgres_forgets_much_a_part_at_a_time() {
    let fixture = Fixture::postgres().await;
    let mut service = fixture.as_service().await;
    run(&mut service, format!("SET plumb.scope = 'platform'; {}", filling())).await.unwrap();
    much_is_forgotten_a_part_at_a_time(&*fixture.store).await;
}

#[tokio::test]
async fn sqlite_cuts_a_long_chain_a_part_at_a_time() {
    let fixture = Fixture::sqlite().await;
    a_long_chain_is_cut_a_part_at_a_time_and_is_whole_after_each(&*fixture.store).await;
}

#[tokio::test]
async fn postgres_cuts_a_long_chain_a_part_at_a_time() {
    let fixture = Fixture::postgres().await;
    a_long_chain_is_cut_a_part_at_a_time_and_is_whole_after_each(&*fixture.store).await;
}

#[tokio::test]
async fn what_plans_of_a_tenant_were_made_of_is_kept_up_to_a_size() {
    const MIB: usize = 1 << 20;
    let fixture = Fixture::sqlite().await;
    let store = &*fixture.store;
    let inputs =
        |number: u8, size| PackedInputs { inputs: vec![number], scene: vec![number; size], hash: number.to_string() };
    let mut executions = Vec::new();
    for (number, tenant) in [(0, "billing"), (1, "checkout"), (2, "checkout"), (3, "checkout"), (4, "checkout")] {
        let mut tx = begin(store).await;
        let id = tx.start_execution(tenant, Trigger::Poll, None, at(0)).await.unwrap();
        tx.put_plan_inputs(id, tenant, 0, &inputs(number, 100 * MIB)).await.unwrap();
        // One that others are of too, and that they keep.
        tx.put_plan_inputs(id, tenant, 1, &inputs(9, 1)).await.unwrap();
        tx.commit().await.unwrap();
        executions.push(id);
    }
    let mut kept = Vec::new();
    for id in executions {
        let found = read(store).await.plan_inputs(id).await.unwrap();
        kept.push(found.into_iter().map(|packed| packed.scene.len()).collect::<Vec<_>>());
    }
    let all = vec![100 * MIB, 1];
    assert_eq!(kept, [all.clone(), vec![], vec![], all.clone(), all]);
    assert_eq!(history(store).await.len(), 5, "with their timelines");
}

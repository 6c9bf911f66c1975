//! The queue: one look a tenant, one replica a tenant, and nothing written by whoever lost it. Run on each database by
//! `contract.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use plumb::model::{ApprovalKind, Ask, Claim, EventKind, Lease, Reason, Release, Replica, Request, Trigger, Width};
use plumb::store::{Scope, Store, StoreError};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::sample::{approval, at, attempt, circuit, event, events, held_plan, key, tenant_state};
use super::{ALL, Fixture};
use crate::harness::postgres::PostgresServer;

const LONG: Duration = Duration::from_secs(600);
const OVER: Duration = Duration::ZERO;
/// Long enough for a loaded machine.
const WOKEN_WITHIN: Duration = Duration::from_secs(60);
/// The longest that a tenant waits whose looks end the processes that begin them.
const LONGEST_WAIT: Duration = Duration::from_secs(450);
const DONE: Release = Release { seen: None, retry: None, news: None };

fn replica(name: &str) -> Replica {
    Replica(name.to_owned())
}

fn ask(trigger: Trigger, width: Width) -> Ask {
    Ask { trigger, width }
}

fn commit() -> Ask {
    ask(Trigger::Commit, Width::Changed)
}

async fn request(store: &dyn Store, tenant: &str, ask: Ask) {
    let request = Request { tenant: tenant.to_owned(), ask, delay: Duration::ZERO, news: None };
    store.request(&[request]).await.unwrap();
}

async fn claim(store: &dyn Store, by: &str, lease: Duration) -> Option<Claim> {
    store.claim(&replica(by), lease).await.unwrap()
}

fn is_lost<T: std::fmt::Debug>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::LostLease { .. }))
}

pub async fn two_requests_are_one_look_the_wider(store: &dyn Store) {
    request(store, "checkout", commit()).await;
    request(store, "checkout", ask(Trigger::DriftScan, Width::Shallow)).await;
    request(store, "checkout", ask(Trigger::Poll, Width::Changed)).await;
    let claimed = claim(store, "a", LONG).await.expect("it is due");
    assert_eq!((claimed.lease.tenant.as_str(), claimed.ask), ("checkout", ask(Trigger::DriftScan, Width::Shallow)));
    store.release(&claimed.lease, &DONE).await.unwrap();
    assert_eq!(claim(store, "a", LONG).await, None, "once");
}

pub async fn the_tenant_that_has_been_due_longest_is_claimed_first(store: &dyn Store) {
    for tenant in ["b", "c", "a"] {
        request(store, tenant, commit()).await;
    }
    // Asked for again, it keeps its place.
    request(store, "b", commit()).await;
    let mut order = Vec::new();
    while let Some(claimed) = claim(store, "x", LONG).await {
        order.push(claimed.lease.tenant.clone());
        store.release(&claimed.lease, &DONE).await.unwrap();
        if order.len() == 1 {
            // Who is looked at all the time goes to the back.
            request(store, "b", commit()).await;
        }
    }
    assert_eq!(order, ["b", "c", "a", "b"]);
}

pub async fn a_claimed_tenant_is_nobody_elses_until_it_is_released(store: &dyn Store) {
    request(store, "checkout", commit()).await;
    let first = claim(store, "a", LONG).await.expect("it is due");
    request(store, "checkout", commit()).await;
    assert_eq!(claim(store, "b", LONG).await, None);
    assert_eq!(store.claim_tenant("checkout", commit(), &replica("b"), LONG).await.unwrap(), None);
    let place = store.place("checkout").await.unwrap().unwrap();
    assert_eq!((place.holder, place.asked), (Some(replica("a")), Some(commit())));
    store.release(&first.lease, &Release { seen: Some("refs".to_owned()), retry: None, news: None }).await.unwrap();
    let second = claim(store, "b", LONG).await.expect("what was asked for meanwhile is due");
    assert_eq!(second.lease.generation, first.lease.generation + 1);
    store.release(&second.lease, &DONE).await.unwrap();
    let place = store.place("checkout").await.unwrap().unwrap();
    assert_eq!((place.seen.as_deref(), place.is_idle()), (Some("refs"), true));
    assert!(place.looked_at.is_some());
}

pub async fn a_deep_look_that_saw_nothing_is_none(store: &dyn Store) {
    let deep = ask(Trigger::DriftScan, Width::Deep);
    let seen = || Some("refs".to_owned());
    for (ask, seen, counts) in [
        (deep, None, false),
        (ask(Trigger::DriftScan, Width::Shallow), seen(), false),
        (deep, seen(), true),
        (deep, None, true),
    ] {
        let claimed = store.claim_tenant("checkout", ask, &replica("a"), LONG).await.unwrap().expect("nobody has it");
        store.release(&claimed.lease, &Release { seen, ..DONE }).await.unwrap();
        let place = store.place("checkout").await.unwrap().unwrap();
        assert_eq!(place.deep_at.is_some(), counts, "{place:?}");
    }
}

pub async fn a_lease_that_ran_out_is_claimed_with_the_look_that_was_begun(store: &dyn Store) {
    request(store, "checkout", ask(Trigger::DriftScan, Width::Deep)).await;
    let dead = claim(store, "a", OVER).await.expect("it is due");
    let next = claim(store, "b", LONG).await.expect("nobody looks at it any more");
    assert_eq!(next.ask, dead.ask);
    assert_eq!(next.lease, Lease { generation: dead.lease.generation + 1, holder: replica("b"), ..dead.lease.clone() });
    assert!(is_lost(store.renew(&dead.lease, LONG).await));
    assert!(is_lost(store.release(&dead.lease, &DONE).await));
    assert_eq!(store.renew(&next.lease, LONG).await.unwrap(), None);
}

pub async fn a_tenant_whose_looks_are_abandoned_in_a_row_waits_until_something_is_new(store: &dyn Store) {
    request(store, "checkout", ask(Trigger::DriftScan, Width::Deep)).await;
    let first = claim(store, "a", OVER).await.expect("it is due");
    let second = claim(store, "b", OVER).await.expect("one process may end for any reason");
    assert_eq!((second.ask, second.failures), (first.ask, 0));
    // Others go on meanwhile.
    request(store, "billing", commit()).await;
    assert_eq!(claim(store, "c", LONG).await.expect("it is due").lease.tenant, "billing");
    assert_eq!(claim(store, "c", LONG).await, None);
    let wait = store.until_due().await.unwrap().expect("it is due some time");
    assert!(wait > Duration::from_secs(5) && wait < Duration::from_secs(60), "{wait:?}");
    let place = store.place("checkout").await.unwrap().unwrap();
    assert_eq!((place.holder, place.asked), (None, Some(first.ask)), "the look is owed still");
    assert!(is_lost(store.renew(&second.lease, LONG).await));
    // Whoever leads after a death asks for everything.
    request(store, "checkout", ask(Trigger::Start, Width::Shallow)).await;
    assert_eq!(claim(store, "c", LONG).await, None);
    // A commit may mend it.
    request(store, "checkout", commit()).await;
    let third = claim(store, "c", OVER).await.expect("a commit is due at once");
    assert_eq!(third.ask, first.ask);
    let fourth = claim(store, "d", LONG).await.expect("it counts anew");
    // A look that comes to its end ends it too.
    store.release(&fourth.lease, &DONE).await.unwrap();
    request(store, "checkout", ask(Trigger::Poll, Width::Changed)).await;
    claim(store, "a", OVER).await.expect("it is due");
    claim(store, "b", OVER).await.expect("it counts anew");
    // Whoever names it waits for nothing.
    let named = store.claim_tenant("checkout", commit(), &replica("a"), LONG).await.unwrap();
    assert!(named.is_some());
}

pub async fn nothing_is_written_under_a_lost_lease(store: &dyn Store) {
    request(store, "checkout", commit()).await;
    let dead = claim(store, "a", OVER).await.expect("it is due");
    // Nobody claimed it yet: what is written is kept, and while it is written nobody claims it.
    let mut tx = store.begin(Scope::Leased(dead.lease.clone())).await.unwrap();
    tx.put_tenant(&tenant_state("checkout")).await.unwrap();
    tx.commit().await.unwrap();
    let next = claim(store, "b", LONG).await.expect("nobody looks at it any more");
    assert!(is_lost(store.begin(Scope::Leased(dead.lease.clone())).await.map(drop)));
    let mut tx = store.begin(Scope::Leased(next.lease.clone())).await.unwrap();
    let others = tx.put_tenant(&tenant_state("billing")).await.unwrap_err();
    assert!(matches!(others, StoreError::OutOfScope { .. }), "{others:?}");
    drop(tx);
    store.release(&next.lease, &DONE).await.unwrap();
    assert!(is_lost(store.begin(Scope::Leased(next.lease)).await.map(drop)), "released is not held");
}

pub async fn a_lease_that_is_renewed_lasts(store: &dyn Store) {
    request(store, "checkout", commit()).await;
    let claimed = claim(store, "a", OVER).await.expect("it is due");
    assert_eq!(store.renew(&claimed.lease, LONG).await.unwrap(), None);
    assert_eq!(claim(store, "b", LONG).await, None);
}

pub async fn what_places_say_is_by_the_stores_own_time(store: &dyn Store) {
    let before = store.now().await.unwrap();
    request(store, "checkout", commit()).await;
    claim(store, "a", LONG).await.expect("it is due");
    let place = store.place("checkout").await.unwrap().unwrap();
    let (claimed, after) = (place.claimed_at.unwrap(), store.now().await.unwrap());
    assert!(before <= claimed && claimed <= after, "{before} {claimed} {after}");
    assert!(place.lease_until.unwrap() > after);
}

async fn tell(store: &dyn Store, news: &str) {
    let (tenant, news) = ("checkout".to_owned(), Some(news.to_owned()));
    store.request(&[Request { tenant, ask: commit(), delay: Duration::ZERO, news }]).await.unwrap();
}

pub async fn news_is_told_to_whoever_looks_and_ends_the_patience_with_what_was_before(store: &dyn Store) {
    let place = async || store.place("checkout").await.unwrap().unwrap();
    let some = |name: &str| Some(name.to_owned());
    tell(store, "first").await;
    let held = claim(store, "a", LONG).await.expect("it is due");
    assert_eq!(held.news, some("first"));
    // A wider look that is asked for meanwhile does not hide it, and is no news itself.
    request(store, "checkout", ask(Trigger::DriftScan, Width::Deep)).await;
    assert_eq!(store.renew(&held.lease, LONG).await.unwrap(), some("first"));
    tell(store, "second").await;
    assert_eq!(store.renew(&held.lease, LONG).await.unwrap(), some("second"));
    let failed = |claim: &Claim| Release { seen: None, retry: Some((OVER, 7)), news: claim.news.clone() };
    store.release(&held.lease, &failed(&held)).await.unwrap();
    assert_eq!((place().await.failures, place().await.news), (0, some("second")));
    let held = claim(store, "a", LONG).await.expect("it is due");
    assert_eq!((held.ask.width, held.news.clone()), (Width::Deep, some("second")));
    assert!(held.is_awaited(), "what is new was not looked at yet");
    store.release(&held.lease, &failed(&held)).await.unwrap();
    assert_eq!(place().await.failures, 7, "nothing new came");
    // What was seen is what was new, so that going back to it and forth again is news again.
    let held = claim(store, "a", LONG).await.expect("the retry is due");
    let seen = Release { seen: some("first"), retry: None, news: held.news.clone() };
    store.release(&held.lease, &seen).await.unwrap();
    assert_eq!((place().await.seen, place().await.news), (some("first"), some("first")));
    request(store, "checkout", ask(Trigger::DriftScan, Width::Shallow)).await;
    assert!(!claim(store, "a", LONG).await.expect("a scan is due").is_awaited(), "all is as it was seen");
}

pub async fn a_retry_waits_and_a_commit_does_not(store: &dyn Store) {
    request(store, "checkout", commit()).await;
    let first = claim(store, "a", LONG).await.expect("it is due");
    store.release(&first.lease, &Release { seen: None, retry: Some((LONG, 3)), news: None }).await.unwrap();
    assert_eq!(claim(store, "a", LONG).await, None);
    let wait = store.until_due().await.unwrap().expect("it will be due");
    assert!(wait > LONG / 2 && wait <= LONG, "{wait:?}");
    let asked = store.place("checkout").await.unwrap().unwrap().asked.unwrap();
    assert_eq!(asked.trigger, Trigger::Retry);
    request(store, "checkout", commit()).await;
    let second = claim(store, "a", LONG).await.expect("a commit is due at once");
    assert_eq!((second.ask, second.failures), (commit(), 0));
    store.release(&second.lease, &Release { seen: None, retry: Some((OVER, 1)), news: None }).await.unwrap();
    let third = claim(store, "a", LONG).await.expect("the retry is due");
    assert_eq!((third.ask.trigger, third.failures), (Trigger::Retry, 1));
}

pub async fn a_named_tenant_is_claimed_whether_it_is_due_or_not(store: &dyn Store) {
    let deep = ask(Trigger::CommandLine, Width::Deep);
    let claimed = store.claim_tenant("checkout", deep, &replica("a"), LONG).await.unwrap().expect("nobody has it");
    assert_eq!(claimed.ask, deep);
    store.release(&claimed.lease, &Release { seen: None, retry: Some((LONG, 1)), news: None }).await.unwrap();
    let again = store.claim_tenant("checkout", deep, &replica("a"), LONG).await.unwrap();
    assert_eq!(again.expect("a retry waits for no one").ask, deep);
}

pub async fn tenants_that_are_gone_are_forgotten(store: &dyn Store) {
    for tenant in ["a", "b", "c"] {
        request(store, tenant, commit()).await;
    }
    let held = claim(store, "x", LONG).await.expect("a is due");
    store.keep_only(&["c"]).await.unwrap();
    let left: Vec<String> = store.places().await.unwrap().into_iter().map(|place| place.tenant).collect();
    assert_eq!(left, [held.lease.tenant.as_str(), "c"], "whoever is looked at stays until it is released");
    // One that comes back gives out no number a second time.
    let before = held.lease.generation;
    store.release(&held.lease, &DONE).await.unwrap();
    store.keep_only(&[]).await.unwrap();
    request(store, "a", commit()).await;
    assert!(claim(store, "x", LONG).await.expect("it is due").lease.generation > before);
}

pub async fn whoever_waits_is_woken(store: &dyn Store) {
    hears_of(store, store).await;
}

/// Who waits at one handle is woken by what another asks for.
pub async fn hears_of(waits: &dyn Store, asks: &dyn Store) {
    let mut woken = waits.woken();
    let hears = async {
        // On PostgreSQL the ear may not be at the wall yet; it is woken by the next request then.
        loop {
            request(asks, "checkout", commit()).await;
            if tokio::time::timeout(Duration::from_millis(200), woken.changed()).await.is_ok() {
                break;
            }
        }
    };
    tokio::time::timeout(WOKEN_WITHIN, hears).await.expect("nobody is told");
}

/// Claims a tenant for long.
pub async fn claimed(store: &dyn Store, tenant: &str) -> Lease {
    let ask = Ask { trigger: Trigger::Start, width: Width::Deep };
    let claim = store.claim_tenant(tenant, ask, &Replica(tenant.to_owned()), Duration::from_secs(600)).await;
    claim.unwrap().expect("nobody has it").lease
}

/// On a store that counts slots, which two processes use.
pub async fn slots_are_counted_over_all_replicas_and_those_of_a_lost_lease_are_free(
    store: &dyn Store,
    beside: &dyn Store,
) {
    let (one, other) = (claimed(store, "checkout").await, claimed(beside, "billing").await);
    let take = async |store: &dyn Store, lease: &Lease| store.take_slot("pg", 2, lease).await.unwrap();
    let first = take(store, &one).await.expect("there is room");
    let second = take(beside, &other).await.expect("there is room");
    assert_ne!(first.number, second.number);
    assert_eq!((take(store, &one).await, take(beside, &other).await), (None, None));
    assert!(store.take_slot("redis", 1, &one).await.unwrap().is_some(), "another provider has its own");
    // One that is given back can be taken, and giving it back once more takes it from nobody.
    store.give_slot(&first).await.unwrap();
    let third = take(beside, &other).await.expect("there is room");
    store.give_slot(&first).await.unwrap();
    assert_eq!(take(store, &one).await, None);
    // Whoever loses the lease loses the slots.
    beside.release(&other, &DONE).await.unwrap();
    let again = [take(store, &one).await, take(store, &one).await];
    assert!(again.iter().all(Option::is_some), "{again:?}");
    beside.give_slot(&third).await.unwrap();
    assert_eq!(take(store, &one).await, None);
    // What nobody knows of is given back, and nothing else.
    let used = again[0].as_ref().unwrap().number;
    beside.give_slots_but("pg", &[], &other).await.unwrap();
    store.give_slots_but("pg", &[used], &one).await.unwrap();
    let freed = take(store, &one).await.expect("there is room");
    assert_ne!(freed.number, used);
    assert_eq!(take(store, &one).await, None);
    // Many that ask at once never get more than there are.
    let asked = (0..16).map(|_| store.take_slot("busy", 3, &one));
    let taken = futures::future::join_all(asked).await;
    let taken: Vec<_> = taken.into_iter().filter_map(Result::unwrap).map(|slot| slot.number).collect();
    let distinct: BTreeSet<_> = taken.iter().collect();
    assert!(!taken.is_empty() && taken.len() <= 3 && distinct.len() == taken.len(), "{taken:?}");
}

#[tokio::test]
async fn the_simulations_store_counts_slots_too() {
    let fixture = Fixture::memory();
    let (store, beside) = (&*fixture.store, &*fixture.store);
    slots_are_counted_over_all_replicas_and_those_of_a_lost_lease_are_free(store, beside).await;
}

/// What a newer version asks for, and what it says of what it does, a replica of this version works beside.
async fn what_only_a_newer_version_says_keeps_nobody_waiting(fixture: &Fixture) {
    let store = &*fixture.store;
    for tenant in ["checkout", "billing"] {
        request(store, tenant, commit()).await;
    }
    let dead = claim(store, "newer", OVER).await.expect("it is due");
    let (silent, key) = (circuit("pg"), key("checkout", "orders"));
    let mut tx = store.begin(Scope::Platform).await.unwrap();
    let execution = tx.start_execution("checkout", Trigger::Poll, None, at(0)).await.unwrap();
    tx.append_event(execution, "checkout", event(Some(&key), at(0), &events()[0])).await.unwrap();
    tx.put_circuit(&silent).await.unwrap();
    tx.put_attempt(&attempt(&key)).await.unwrap();
    tx.put_held_plan("checkout", &held_plan("p1", ApprovalKind::Deletes, &[])).await.unwrap();
    tx.put_approval("checkout", &approval("p1", "c1", &[])).await.unwrap();
    tx.commit().await.unwrap();
    let reason = |document: &str, reason: Reason| {
        format!("UPDATE {document} SET document = replace(document, '\"{reason}\"', '\"Weather\"')")
    };
    let newer = [
        "UPDATE queue SET trigger_kind = 'weather', claimed_trigger = CASE WHEN holder IS NULL THEN NULL ELSE 'weather' END, \
         width = 7"
            .to_owned(),
        "UPDATE executions SET trigger_kind = 'weather'".to_owned(),
        reason("circuits", silent.reason),
        reason("attempts", attempt(&key).reason),
        "UPDATE held_plans SET kind = 'weather'".to_owned(),
        "UPDATE approvals SET kind = 'weather'".to_owned(),
        "INSERT INTO events (execution, tenant, at, document) \
         SELECT id, tenant, started_at, '{\"kind\": \"weather\", \"degrees\": 7}' FROM executions"
            .to_owned(),
    ];
    fixture.behind_its_back(&newer.join("; ")).await;
    // Nobody knows that it is a retry, or how much is to be looked at.
    let look = ask(Trigger::Poll, Width::Deep);
    assert!(store.places().await.unwrap().iter().all(|place| place.asked == Some(look)));
    for tenant in ["billing", "checkout"] {
        let next = claim(store, "this", LONG).await.expect("it is due");
        assert_eq!((next.lease.tenant.as_str(), next.ask), (tenant, look));
    }
    assert!(is_lost(store.renew(&dead.lease, LONG).await));
    let mut tx = store.read(Scope::Tenant("checkout".to_owned())).await.unwrap();
    assert_eq!(tx.circuits().await.unwrap()["pg"].reason, Reason::Unfamiliar);
    assert_eq!(tx.attempts().await.unwrap()[&key].reason, Reason::Unfamiliar);
    assert_eq!(tx.executions(&ALL).await.unwrap()[0].trigger, Trigger::Poll);
    let told: Vec<bool> =
        tx.events(&ALL).await.unwrap().iter().map(|event| event.kind == EventKind::Unfamiliar).collect();
    assert_eq!(told, [true, false]);
    // What approves something that this version does not know approves nothing.
    assert!(tx.held_plans("checkout").await.unwrap().is_empty() && tx.approvals("checkout").await.unwrap().is_empty());
    drop(tx);
    // And is the newer version's to clear.
    let mut tx = store.begin(Scope::Platform).await.unwrap();
    tx.clear_approvals("checkout").await.unwrap();
    tx.commit().await.unwrap();
    fixture.behind_its_back("UPDATE held_plans SET kind = 'deletes'; UPDATE approvals SET kind = 'deletes'").await;
    let mut tx = store.read(Scope::Tenant("checkout".to_owned())).await.unwrap();
    assert_eq!(tx.held_plans("checkout").await.unwrap().len(), 1);
    assert_eq!(tx.approvals("checkout").await.unwrap().len(), 1);
}

#[tokio::test]
async fn on_sqlite_what_only_a_newer_version_says_keeps_nobody_waiting() {
    what_only_a_newer_version_says_keeps_nobody_waiting(&Fixture::sqlite().await).await;
}

#[tokio::test]
async fn on_postgres_what_only_a_newer_version_says_keeps_nobody_waiting() {
    what_only_a_newer_version_says_keeps_nobody_waiting(&Fixture::postgres().await).await;
}

/// Sets the clock back, seen from what is written in the queue, which is all that it is compared with.
async fn set_back(fixture: &Fixture, by: TimeDelta) {
    let columns = ["due_at", "lease_until", "claimed_at", "alive_at", "asked_at"];
    for place in fixture.store.places().await.unwrap() {
        let now = fixture.store.now().await.unwrap();
        let ahead = |at: Option<DateTime<Utc>>| (at.unwrap_or(now) + by).to_rfc3339_opts(SecondsFormat::Nanos, true);
        // Signs of life and requests were now, as far as a test can tell.
        let times = [place.due, place.lease_until, place.claimed_at, None, None].map(ahead);
        let set = columns
            .iter()
            .zip(times)
            .map(|(column, at)| format!("{column} = CASE WHEN {column} IS NULL THEN NULL ELSE '{at}' END"));
        let set = set.collect::<Vec<_>>().join(", ");
        fixture.behind_its_back(&format!("UPDATE queue SET {set} WHERE tenant = '{}'", place.tenant)).await;
    }
}

/// No wait lasts longer since a clock was set back, and a lease one lease from then on, in which its holder may say that it
/// lives; who waits for nothing goes on doing so.
async fn nothing_waits_for_a_time_to_come_a_second_time(fixture: &Fixture, by: TimeDelta) {
    const LEASE: Duration = Duration::from_secs(15);
    const SHORT: Duration = Duration::from_secs(1);
    let store = &*fixture.store;
    for tenant in ["billing", "checkout", "idle", "search"] {
        request(store, tenant, commit()).await;
    }
    let (dead, lives) = (claim(store, "dead", LEASE).await.unwrap(), claim(store, "lives", LEASE).await.unwrap());
    let (idle, waits) = (claim(store, "lives", LEASE).await.unwrap(), claim(store, "lives", LEASE).await.unwrap());
    store.release(&idle.lease, &DONE).await.unwrap();
    store.release(&waits.lease, &Release { seen: None, retry: Some((LONG, 1)), news: None }).await.unwrap();
    let slot = store.take_slot("pg", 1, &dead.lease).await.unwrap();
    assert_eq!((slot.is_some(), claim(store, "next", LEASE).await), (true, None));
    set_back(fixture, by).await;
    // A request that need not come first changes nothing of that.
    let later = Request { delay: LONG, ..Request::at_once("billing", ask(Trigger::Poll, Width::Changed)) };
    store.request(&[later]).await.unwrap();
    assert_eq!(store.until_due().await.unwrap(), Some(Duration::ZERO));
    let due = claim(store, "next", SHORT).await.expect("its wait began before").lease;
    store.renew(&due, LONG).await.unwrap();
    assert_eq!((due.tenant.as_str(), claim(store, "next", SHORT).await), ("search", None));
    store.renew(&lives.lease, LEASE).await.expect("nobody took its tenant");
    let left = store.until_due().await.unwrap().expect("somebody may be dead");
    assert!(Duration::ZERO < left && left <= SHORT, "{left:?}");
    let free = loop {
        tokio::time::sleep(store.until_due().await.unwrap().expect("somebody is dead")).await;
        if let Some(claim) = claim(store, "next", LONG).await {
            break claim.lease.tenant;
        }
    };
    assert_eq!((free.as_str(), claim(store, "next", LONG).await), ("billing", None), "somebody looks at the rest");
    assert!(is_lost(store.renew(&dead.lease, LEASE).await));
    assert!(store.take_slot("pg", 1, &due).await.unwrap().is_some());
}

#[tokio::test]
async fn on_sqlite_nothing_waits_for_a_time_to_come_a_second_time() {
    for by in [TimeDelta::minutes(5), TimeDelta::minutes(30), TimeDelta::hours(9)] {
        nothing_waits_for_a_time_to_come_a_second_time(&Fixture::sqlite().await, by).await;
    }
}

#[tokio::test]
async fn on_postgres_nothing_waits_for_a_time_to_come_a_second_time() {
    for by in [TimeDelta::minutes(5), TimeDelta::minutes(30), TimeDelta::hours(9)] {
        nothing_waits_for_a_time_to_come_a_second_time(&Fixture::postgres().await, by).await;
    }
}

#[tokio::test]
async fn a_slot_of_a_lease_from_before_the_clock_was_set_back_is_free() {
    let fixture = Fixture::postgres().await;
    let (dead, other) = (claimed(&*fixture.store, "billing").await, claimed(&*fixture.store, "checkout").await);
    assert!(fixture.store.take_slot("pg", 1, &dead).await.unwrap().is_some());
    assert_eq!(fixture.store.take_slot("pg", 1, &other).await.unwrap(), None);
    set_back(&fixture, TimeDelta::minutes(30)).await;
    fixture.store.renew(&other, LONG).await.unwrap();
    assert!(fixture.store.take_slot("pg", 1, &other).await.unwrap().is_some(), "nobody has taken the tenant over yet");
}

/// What a replica does next.
#[derive(Clone, Copy, Debug)]
enum Move {
    Request {
        tenant: usize,
    },
    Claim {
        replica: usize,
    },
    /// All that hold nothing claim at once.
    ClaimAtOnce,
    /// Its lease ends, as it would by time.
    Die {
        replica: usize,
    },
    Release {
        replica: usize,
    },
}

const REPLICAS: usize = 3;
const TENANTS: usize = 4;

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        (0..TENANTS).prop_map(|tenant| Move::Request { tenant }),
        (0..REPLICAS).prop_map(|replica| Move::Claim { replica }),
        Just(Move::ClaimAtOnce),
        (0..REPLICAS).prop_map(|replica| Move::Die { replica }),
        (0..REPLICAS).prop_map(|replica| Move::Release { replica }),
    ];
    prop::collection::vec(one, 1..60)
}

/// Lets replicas make these moves on an empty queue.
async fn no_tenant_is_looked_at_twice_at_once_and_none_starves(store: &dyn Store, moves: Vec<Move>) {
    // What each replica holds, and the tenants for which a look is still owed.
    let mut held: BTreeMap<usize, Claim> = BTreeMap::new();
    let mut owed: BTreeSet<String> = BTreeSet::new();
    // Who died with one of these has it wait at last.
    let mut abandoned: BTreeSet<String> = BTreeSet::new();
    for next in moves {
        match next {
            Move::Request { tenant } => {
                let tenant = format!("tenant-{tenant}");
                request(store, &tenant, commit()).await;
                owed.insert(tenant);
            }
            Move::Claim { replica } if !held.contains_key(&replica) => {
                let claimed = claim(store, &replica.to_string(), LONG).await;
                take(&mut held, &mut owed, replica, claimed);
            }
            Move::ClaimAtOnce => {
                let idle: Vec<usize> = (0..REPLICAS).filter(|replica| !held.contains_key(replica)).collect();
                let names: Vec<String> = idle.iter().map(ToString::to_string).collect();
                let claims = futures::future::join_all(names.iter().map(|name| claim(store, name, LONG))).await;
                for (replica, claimed) in idle.into_iter().zip(claims) {
                    take(&mut held, &mut owed, replica, claimed);
                }
            }
            Move::Die { replica } => {
                let Some(claimed) = held.remove(&replica) else { continue };
                store.renew(&claimed.lease, OVER).await.unwrap();
                abandoned.insert(claimed.lease.tenant.clone());
                owed.insert(claimed.lease.tenant);
            }
            Move::Release { replica } => {
                let Some(claimed) = held.remove(&replica) else { continue };
                store.release(&claimed.lease, &DONE).await.unwrap();
            }
            Move::Claim { .. } => {}
        }
    }
    for (_, claimed) in held {
        store.release(&claimed.lease, &DONE).await.unwrap();
    }
    // However often others are asked for again, each that waits has its turn within as many claims as there are tenants.
    let mut waits: BTreeSet<String> = owed.difference(&abandoned).cloned().collect();
    for _ in 0..TENANTS {
        let Some(claimed) = claim(store, "busy", LONG).await else { break };
        let tenant = &claimed.lease.tenant;
        assert!(owed.contains(tenant), "nobody asked for it");
        waits.remove(tenant);
        store.release(&claimed.lease, &DONE).await.unwrap();
        request(store, tenant, commit()).await;
    }
    assert!(waits.is_empty(), "{waits:?} starve while others are looked at again and again");
    while let Some(claimed) = claim(store, "last", LONG).await {
        assert!(owed.remove(&claimed.lease.tenant), "nobody asked for it");
        store.release(&claimed.lease, &DONE).await.unwrap();
    }
    // What is left waits since several that held it died, and comes by itself within minutes.
    let now = store.now().await.unwrap();
    for tenant in owed.intersection(&abandoned) {
        let place = store.place(tenant).await.unwrap().unwrap();
        let waits = place.holder.is_none() && place.asked.is_some() && place.abandoned > 1;
        assert!(waits && place.due.is_some_and(|due| due <= now + LONGEST_WAIT), "{tenant} starves: {place:#?}");
    }
    owed.retain(|tenant| !abandoned.contains(tenant));
    assert!(owed.is_empty(), "{owed:?} starve");
}

/// A replica has what it claimed, if there was something.
fn take(held: &mut BTreeMap<usize, Claim>, owed: &mut BTreeSet<String>, replica: usize, claimed: Option<Claim>) {
    let Some(claimed) = claimed else { return };
    let tenant = &claimed.lease.tenant;
    assert!(held.values().all(|other| other.lease.tenant != *tenant), "twice at once");
    assert!(owed.remove(tenant), "nobody asked for it");
    held.insert(replica, claimed);
}

fn one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// How many cases take one database each, and how many share a server, where each question takes its way there.
const CASES: u32 = 40;
const CASES_ON_POSTGRES: u32 = 12;

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]

    #[test]
    fn on_sqlite_no_tenant_is_looked_at_twice_at_once_and_none_starves(moves in moves()) {
        one_thread().block_on(async {
            let fixture = Fixture::sqlite().await;
            no_tenant_is_looked_at_twice_at_once_and_none_starves(&*fixture.store, moves).await;
        });
    }
}

#[test]
fn on_postgres_no_tenant_is_looked_at_twice_at_once_and_none_starves() {
    let runtime = one_thread();
    // One database for all cases, and an empty queue for each.
    let fixture = runtime.block_on(Fixture::postgres());
    let empty = || PostgresServer::shared().psql_in(fixture.database(), "TRUNCATE plumb.queue, plumb.abandoned");
    let mut runner = TestRunner::new(ProptestConfig { cases: CASES_ON_POSTGRES, ..ProptestConfig::default() });
    let run = runner.run(&moves(), |moves| {
        runtime.block_on(async {
            empty().await;
            no_tenant_is_looked_at_twice_at_once_and_none_starves(&*fixture.store, moves).await;
        });
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}

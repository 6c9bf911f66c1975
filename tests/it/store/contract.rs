//! What every store does. Each test takes a `dyn Store` that is empty; the macro at the end runs all of them on each
//! database.

use std::collections::BTreeMap;

use plumb::model::{
    ApprovalKind, Attempt, Circuit, ExecutionOutcome, PlanId, ProposalStatus, ProviderIdentity, Record, ResourceKey,
    ResourceStatus, Saga, Trigger,
};
use plumb::store::{HistoryFilter, NewEvent, PlatformState, Scope, Store, StoreError, StoredSecret, Tx};

use super::sample::{
    HOSTILE, approval, at, attempt, circuit, event, events, finding, held_plan, key, plan_inputs, platform_state,
    proposal, record, saga, secret, status, stray, summary, tenant_state,
};
use super::{ALL, Fixture, audit, begin, isolation, queue, read, tenant};

async fn an_empty_store_answers_every_question(store: &dyn Store) {
    let mut tx = read(store).await;
    let orders = key("checkout", "orders");
    assert_eq!(tx.platform().await.unwrap(), None);
    assert!(tx.identities().await.unwrap().is_empty());
    assert!(tx.tenants().await.unwrap().is_empty());
    assert!(tx.inventory().await.unwrap().records.is_empty());
    assert_eq!(tx.record(&orders).await.unwrap(), None);
    assert!(tx.statuses().await.unwrap().is_empty());
    assert!(tx.strays().await.unwrap().is_empty());
    assert!(tx.proposals().await.unwrap().is_empty());
    assert!(tx.attempts().await.unwrap().is_empty());
    assert!(tx.circuits().await.unwrap().is_empty());
    assert!(tx.held_plans("checkout").await.unwrap().is_empty());
    assert!(tx.approvals("checkout").await.unwrap().is_empty());
    assert!(tx.secrets(&orders, "app").await.unwrap().is_empty());
    assert_eq!(tx.newest_secret().await.unwrap(), None);
    assert_eq!(tx.secret_key_id().await.unwrap(), None);
    assert!(tx.executions(&ALL).await.unwrap().is_empty());
    assert!(tx.events(&ALL).await.unwrap().is_empty());
}

async fn the_platform_reads_back_as_it_was_written_and_the_last_one_stands(store: &dyn Store) {
    let first = platform_state();
    let last = PlatformState { commit: "beef".into(), rejected: None, findings: Vec::new(), ..first.clone() };
    for state in [first, last] {
        let mut tx = begin(store).await;
        tx.put_platform(&state).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(read(store).await.platform().await.unwrap(), Some(state));
    }
}

async fn identities_read_back_by_provider(store: &dyn Store) {
    let mut tx = begin(store).await;
    tx.put_identity("pg-main", &ProviderIdentity("1".into())).await.unwrap();
    tx.put_identity("pg-main", &ProviderIdentity("2".into())).await.unwrap();
    tx.put_identity(HOSTILE, &ProviderIdentity(HOSTILE.into())).await.unwrap();
    tx.commit().await.unwrap();
    let expected = BTreeMap::from([
        ("pg-main".to_owned(), ProviderIdentity("2".into())),
        (HOSTILE.to_owned(), ProviderIdentity(HOSTILE.into())),
    ]);
    assert_eq!(read(store).await.identities().await.unwrap(), expected);
}

async fn tenants_read_back_as_they_were_written(store: &dyn Store) {
    let mut tx = begin(store).await;
    tx.put_tenant(&tenant_state("checkout")).await.unwrap();
    let mut last = tenant_state("checkout");
    last.hold = None;
    last.findings.push(finding());
    tx.put_tenant(&last).await.unwrap();
    tx.put_tenant(&tenant_state("billing")).await.unwrap();
    tx.commit().await.unwrap();
    let expected = BTreeMap::from([("billing".to_owned(), tenant_state("billing")), ("checkout".to_owned(), last)]);
    assert_eq!(read(store).await.tenants().await.unwrap(), expected);
}

async fn records_read_back_are_replaced_and_are_forgotten(store: &dyn Store) {
    let (orders, users) = (record(&key("checkout", "orders")), record(&key("checkout", "users")));
    let mut tx = begin(store).await;
    tx.put_record(&orders).await.unwrap();
    tx.put_record(&users).await.unwrap();
    tx.commit().await.unwrap();
    let inventory = read(store).await.inventory().await.unwrap();
    assert_eq!(inventory.records.into_values().collect::<Vec<_>>(), [orders.clone(), users.clone()]);

    let mut moved = orders.clone();
    moved.provider = "pg-other".into();
    moved.retained = true;
    let mut tx = begin(store).await;
    tx.put_record(&moved).await.unwrap();
    tx.forget(&users.key).await.unwrap();
    tx.forget(&key("checkout", "never-there")).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = read(store).await;
    assert_eq!(tx.record(&orders.key).await.unwrap(), Some(moved.clone()));
    assert_eq!(tx.record(&users.key).await.unwrap(), None);
    assert_eq!(tx.inventory().await.unwrap().records.into_values().collect::<Vec<_>>(), [moved]);
}

async fn statuses_read_back_are_replaced_and_are_removed(store: &dyn Store) {
    let mut orders = status(&key("checkout", "orders"));
    let users = status(&key("checkout", "users"));
    let mut tx = begin(store).await;
    tx.put_status(&orders).await.unwrap();
    tx.put_status(&users).await.unwrap();
    orders.conditions.clear();
    tx.put_status(&orders).await.unwrap();
    tx.commit().await.unwrap();
    let expected = BTreeMap::from([(orders.key.clone(), orders.clone()), (users.key.clone(), users)]);
    assert_eq!(read(store).await.statuses().await.unwrap(), expected);

    let mut tx = begin(store).await;
    tx.remove_status(&key("checkout", "users")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(read(store).await.statuses().await.unwrap(), BTreeMap::from([(orders.key.clone(), orders)]));
}

async fn strays_are_replaced_tenant_by_tenant(store: &dyn Store) {
    let of = |names: &[(&str, &str)]| names.iter().map(|(t, name)| (key(t, name), stray())).collect::<BTreeMap<_, _>>();
    let mut tx = begin(store).await;
    tx.put_strays("checkout", &of(&[("checkout", "a"), ("checkout", "b")])).await.unwrap();
    tx.put_strays("billing", &of(&[("billing", "c")])).await.unwrap();
    tx.put_strays("checkout", &of(&[("checkout", "b"), ("checkout", "d")])).await.unwrap();
    tx.commit().await.unwrap();
    let expected = of(&[("billing", "c"), ("checkout", "b"), ("checkout", "d")]);
    assert_eq!(read(store).await.strays().await.unwrap(), expected);
}

async fn proposals_read_back_and_the_newest_of_a_key_stands(store: &dyn Store) {
    let mut orders = proposal(&key("checkout", "orders"));
    let mut tx = begin(store).await;
    tx.put_proposal(&orders).await.unwrap();
    orders.status = ProposalStatus::Accepted;
    orders.pushed = Some("beef".into());
    tx.put_proposal(&orders).await.unwrap();
    tx.put_proposal(&proposal(&key("checkout", "users"))).await.unwrap();
    tx.remove_proposal(&key("checkout", "users")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(read(store).await.proposals().await.unwrap(), BTreeMap::from([(orders.key.clone(), orders)]));
}

async fn attempts_and_circuits_read_back_are_replaced_and_are_removed(store: &dyn Store) {
    let orders = attempt(&key("checkout", "orders"));
    let dead = Attempt { next_at: None, ..attempt(&key("checkout", "users")) };
    let mut tx = begin(store).await;
    tx.put_attempt(&Attempt { failures: 1, ..orders.clone() }).await.unwrap();
    for attempt in [&orders, &dead, &attempt(&key("checkout", "gone"))] {
        tx.put_attempt(attempt).await.unwrap();
    }
    // More than one statement takes.
    let many: Vec<Attempt> =
        (0..450).map(|number| attempt(&key(["billing", "checkout"][number % 2], &format!("many-{number}")))).collect();
    tx.put_attempts(&many).await.unwrap();
    let mut gone: Vec<_> = many.iter().map(|attempt| attempt.key.clone()).chain([key("checkout", "gone")]).collect();
    assert_eq!(tx.attempts().await.unwrap().len(), 453);
    gone.sort();
    tx.remove_attempts(&gone).await.unwrap();
    tx.put_circuit(&Circuit { retry_at: None, ..circuit("pg-main") }).await.unwrap();
    for provider in ["pg-main", "redis-main"] {
        tx.put_circuit(&circuit(provider)).await.unwrap();
    }
    tx.remove_circuit("redis-main").await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = read(store).await;
    let expected = BTreeMap::from([(orders.key.clone(), orders), (dead.key.clone(), dead)]);
    assert_eq!(tx.attempts().await.unwrap(), expected);
    assert_eq!(tx.circuits().await.unwrap(), BTreeMap::from([("pg-main".to_owned(), circuit("pg-main"))]));
}

async fn sagas_read_back_are_replaced_and_are_removed(store: &dyn Store) {
    let staging = saga("checkout");
    let production = Saga { environment: "production".into(), failure: None, ..saga("checkout") };
    let mut tx = begin(store).await;
    tx.put_saga(&Saga { failure: None, ..staging.clone() }).await.unwrap();
    for saga in [&staging, &production, &saga("billing")] {
        tx.put_saga(saga).await.unwrap();
    }
    tx.remove_saga("billing", "staging").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(read(store).await.sagas().await.unwrap(), [production, staging]);
}

async fn held_plans_and_approvals_read_back_and_are_cleared_together(store: &dyn Store) {
    let (a, b) = (key("checkout", "a"), key("checkout", "b"));
    let deletes = held_plan("p1", ApprovalKind::Deletes, &[a.clone(), b.clone()]);
    // One plan may hold both.
    let create = held_plan("p1", ApprovalKind::Create, std::slice::from_ref(&b));
    let (known, unknown) = (approval("p1", "c1", &[a.clone(), b]), approval("p0", "c2", &[]));
    let mut tx = begin(store).await;
    tx.put_held_plan("checkout", &held_plan("p1", ApprovalKind::Deletes, &[a])).await.unwrap();
    tx.put_held_plan("checkout", &deletes).await.unwrap();
    tx.put_held_plan("checkout", &create).await.unwrap();
    tx.put_held_plan("billing", &held_plan("p1", ApprovalKind::Deletes, &[])).await.unwrap();
    for approval in [&known, &unknown, &known] {
        tx.put_approval("checkout", approval).await.unwrap();
    }
    tx.put_approval("billing", &unknown).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = read(store).await;
    let held = tx.held_plans("checkout").await.unwrap();
    assert_eq!(held.len(), 2);
    assert!(held.contains(&deletes) && held.contains(&create));
    let given = tx.approvals("checkout").await.unwrap();
    assert_eq!(given.len(), 2);
    assert!(given.contains(&known) && given.contains(&unknown));
    drop(tx);

    let mut tx = begin(store).await;
    tx.clear_approvals("checkout").await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = read(store).await;
    assert!(tx.held_plans("checkout").await.unwrap().is_empty());
    assert!(tx.approvals("checkout").await.unwrap().is_empty());
    assert_eq!(tx.held_plans("billing").await.unwrap().len(), 1);
    assert_eq!(tx.approvals("billing").await.unwrap(), [unknown]);
}

async fn r12_secrets_are_kept_per_rotation_and_never_replaced(store: &dyn Store) {
    let orders = key("checkout", "orders");
    let first = secret(&orders, "app", "", &[0, 255, 39, 0]);
    let mut tx = begin(store).await;
    tx.put_secret(&first).await.unwrap();
    tx.put_secret(&secret(&orders, "app", "", b"another")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(read(store).await.secrets(&orders, "app").await.unwrap(), std::slice::from_ref(&first));

    // A clock that was set back does not change which is newest.
    let rotated = StoredSecret { created_at: at(-1000), ..secret(&orders, "app", "2024", b"rotated") };
    let other = secret(&key("checkout", "users"), "ro", "", b"other");
    let mut tx = begin(store).await;
    tx.put_secret(&secret(&orders, "app", "", b"a third")).await.unwrap();
    tx.put_secret(&rotated).await.unwrap();
    tx.put_secret(&other).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = read(store).await;
    assert_eq!(tx.secrets(&orders, "app").await.unwrap(), [rotated.clone(), first]);
    assert!(tx.secrets(&orders, "ro").await.unwrap().is_empty());
    assert_eq!(tx.newest_secret().await.unwrap(), Some(other.clone()));
    let roles = [(orders.clone(), "app".to_owned()), (other.key.clone(), "ro".to_owned())];
    assert_eq!(tx.roles_with_secrets().await.unwrap(), roles.into());
    drop(tx);

    let mut tx = begin(store).await;
    tx.remove_secrets(&orders).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = read(store).await;
    assert!(tx.secrets(&orders, "app").await.unwrap().is_empty());
    assert_eq!(tx.secrets(&other.key, "ro").await.unwrap(), [other]);
}

async fn r12_the_key_of_secrets_is_written_down_once(store: &dyn Store) {
    for id in ["c0ffee00", "0badf00d"] {
        let mut tx = begin(store).await;
        tx.put_secret_key_id(id).await.unwrap();
        assert_eq!(tx.secret_key_id().await.unwrap().as_deref(), Some("c0ffee00"));
        tx.commit().await.unwrap();
    }
    assert_eq!(read(store).await.secret_key_id().await.unwrap().as_deref(), Some("c0ffee00"));
}

async fn an_execution_reads_back_running_and_finished(store: &dyn Store) {
    let mut tx = begin(store).await;
    let id = tx.start_execution("checkout", Trigger::DriftScan, Some("c0ffee"), at(0)).await.unwrap();
    tx.commit().await.unwrap();
    let running = read(store).await.executions(&ALL).await.unwrap().remove(0);
    assert_eq!((running.id, running.outcome, running.finished_at), (id, ExecutionOutcome::Running, None));
    assert_eq!((running.trigger, running.commit.as_deref(), running.plan), (Trigger::DriftScan, Some("c0ffee"), None));
    assert_eq!((running.tenant.as_str(), running.started_at), ("checkout", at(0)));

    let mut tx = begin(store).await;
    let plan = PlanId("abc".into());
    tx.finish_execution(id, ExecutionOutcome::Blocked, None, Some(&plan), summary(), at(9)).await.unwrap();
    tx.commit().await.unwrap();
    let done = read(store).await.executions(&ALL).await.unwrap().remove(0);
    assert_eq!((done.outcome, done.summary, done.plan), (ExecutionOutcome::Blocked, summary(), Some(plan)));
    assert_eq!((done.commit.as_deref(), done.finished_at), (Some("c0ffee"), Some(at(9))));
}

async fn every_trigger_and_outcome_reads_back(store: &dyn Store) {
    use ExecutionOutcome::{Blocked, Failed, InSync, Interrupted, Running};
    use Trigger::{CommandLine, Commit, DriftScan, Poll, Request, Retry, SecretShown, Start};
    let mut tx = begin(store).await;
    let mut expected = Vec::new();
    for trigger in [Start, Poll, Commit, DriftScan, Retry, Request, CommandLine, SecretShown] {
        for outcome in [Running, InSync, Blocked, Failed, Interrupted] {
            let id = tx.start_execution("checkout", trigger, None, at(0)).await.unwrap();
            tx.finish_execution(id, outcome, Some("beef"), None, summary(), at(1)).await.unwrap();
            expected.insert(0, (trigger, outcome, Some("beef".to_owned())));
        }
    }
    let found = tx.executions(&ALL).await.unwrap();
    assert_eq!(found.into_iter().map(|e| (e.trigger, e.outcome, e.commit)).collect::<Vec<_>>(), expected);
    let looks = tx.executions(&HistoryFilter { looks: true, ..ALL }).await.unwrap();
    expected.retain(|(trigger, ..)| *trigger != SecretShown);
    assert_eq!(looks.into_iter().map(|e| (e.trigger, e.outcome, e.commit)).collect::<Vec<_>>(), expected);
}

async fn an_execution_that_is_not_there_cannot_be_finished(store: &dyn Store) {
    let mut tx = begin(store).await;
    let own = tx.start_execution("checkout", Trigger::Start, None, at(0)).await.unwrap();
    tx.commit().await.unwrap();
    for (scope, id) in [(Scope::Platform, own + 1), (tenant("billing"), own)] {
        let mut tx = store.begin(scope).await.unwrap();
        let refused = tx.finish_execution(id, ExecutionOutcome::InSync, None, None, summary(), at(1)).await;
        assert!(matches!(refused, Err(StoreError::NoExecution { id: named }) if named == id));
    }
    assert_eq!(read(store).await.executions(&ALL).await.unwrap()[0].outcome, ExecutionOutcome::Running);
}

async fn executions_that_a_death_left_running_become_interrupted(store: &dyn Store) {
    let mut tx = begin(store).await;
    let done = tx.start_execution("checkout", Trigger::Start, None, at(0)).await.unwrap();
    tx.finish_execution(done, ExecutionOutcome::InSync, None, None, summary(), at(1)).await.unwrap();
    let mut running = Vec::new();
    for tenant in ["checkout", "billing"] {
        running.push(tx.start_execution(tenant, Trigger::Poll, None, at(2)).await.unwrap());
    }
    tx.commit().await.unwrap();
    let mut tx = begin(store).await;
    assert_eq!(tx.interrupt_running(at(3)).await.unwrap(), running);
    assert_eq!(tx.interrupt_running(at(4)).await.unwrap(), [0_i64; 0]);
    tx.commit().await.unwrap();
    let found: Vec<_> =
        read(store).await.executions(&ALL).await.unwrap().into_iter().map(|e| (e.outcome, e.finished_at)).collect();
    let interrupted = (ExecutionOutcome::Interrupted, Some(at(3)));
    assert_eq!(found, [interrupted, interrupted, (ExecutionOutcome::InSync, Some(at(1)))]);
}

async fn events_of_every_kind_read_back_newest_first_with_rising_numbers(store: &dyn Store) {
    let orders = key("checkout", "orders");
    let mut tx = begin(store).await;
    let execution = tx.start_execution("checkout", Trigger::Commit, None, at(0)).await.unwrap();
    let mut expected = Vec::new();
    for (second, kind) in events().into_iter().enumerate() {
        let at = at(second as i64);
        let key = (second % 2 == 0).then_some(&orders);
        tx.append_event(execution, "checkout", event(key, at, &kind)).await.unwrap();
        let id = newest_event(tx.as_mut()).await;
        let event = plumb::model::Event { id, execution, tenant: "checkout".into(), at, key: key.cloned(), kind };
        expected.insert(0, event);
    }
    tx.commit().await.unwrap();
    let found = read(store).await.events(&ALL).await.unwrap();
    assert_eq!(found, expected);
    assert!(found.is_sorted_by(|newer, older| newer.id > older.id));
}

async fn newest_event(tx: &mut dyn Tx) -> i64 {
    tx.events(&HistoryFilter { limit: 1, ..ALL }).await.unwrap()[0].id
}

async fn many_rows_are_written_at_once_and_in_order(store: &dyn Store) {
    /// More than one statement takes.
    const MANY: usize = 450;
    let keys: Vec<ResourceKey> = (0..MANY).map(|number| key("checkout", &format!("n{number:03}"))).collect();
    let records: Vec<Record> = keys.iter().map(record).collect();
    let statuses: Vec<ResourceStatus> = keys.iter().map(status).collect();
    let happened: Vec<NewEvent> = keys.iter().map(|key| event(Some(key), at(1), &events()[0])).collect();
    let mut tx = begin(store).await;
    let execution = tx.start_execution("checkout", Trigger::Poll, None, at(0)).await.unwrap();
    for _ in 0..2 {
        // The second time over what is there.
        tx.put_records(&records).await.unwrap();
        tx.put_statuses(&statuses).await.unwrap();
    }
    tx.append_events(execution, "checkout", &happened).await.unwrap();
    for nothing in [tx.put_records(&[]).await, tx.put_statuses(&[]).await] {
        nothing.unwrap();
    }
    tx.append_events(execution, "checkout", &[]).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = read(store).await;
    assert!(tx.inventory().await.unwrap().records.into_values().eq(records));
    assert!(tx.statuses().await.unwrap().into_values().eq(statuses));
    let found = tx.events(&HistoryFilter { limit: 1_000, ..ALL }).await.unwrap();
    assert!(found.is_sorted_by(|newer, older| newer.id > older.id));
    assert!(found.iter().rev().map(|event| event.key.as_ref()).eq(keys.iter().map(Some)));
}

async fn nothing_of_many_is_written_when_one_is_not_the_tenants(store: &dyn Store) {
    let mut tx = begin(store).await;
    let execution = tx.start_execution("checkout", Trigger::Poll, None, at(0)).await.unwrap();
    tx.commit().await.unwrap();
    let (own, foreign) = (key("checkout", "orders"), key("billing", "orders"));
    for what in ["records", "statuses", "events"] {
        let mut tx = store.begin(tenant("checkout")).await.unwrap();
        let refused = match what {
            "records" => tx.put_records(&[record(&own), record(&foreign)]).await,
            "statuses" => tx.put_statuses(&[status(&own), status(&foreign)]).await,
            _ => {
                let both = [&own, &foreign].map(|key| event(Some(key), at(1), &events()[0]));
                tx.append_events(execution, "checkout", &both).await
            }
        };
        assert!(
            matches!(refused, Err(StoreError::OutOfScope { .. } | StoreError::WrongTenant { .. })),
            "{what}: {refused:?}"
        );
        assert!(tx.commit().await.is_err(), "{what}");
    }
    let mut tx = read(store).await;
    assert!(tx.inventory().await.unwrap().records.is_empty() && tx.statuses().await.unwrap().is_empty());
    assert_eq!(tx.events(&ALL).await.unwrap(), []);
}

async fn history_is_filtered_by_execution_key_page_and_limit(store: &dyn Store) {
    let (orders, users) = (key("checkout", "orders"), key("checkout", "users"));
    let mut tx = begin(store).await;
    let mut executions = Vec::new();
    let mut written = Vec::new();
    for key in [&orders, &users, &orders] {
        let execution = tx.start_execution("checkout", Trigger::Poll, None, at(0)).await.unwrap();
        for kind in &events()[..4] {
            tx.append_event(execution, "checkout", event(Some(key), at(1), kind)).await.unwrap();
            written.insert(0, newest_event(tx.as_mut()).await);
        }
        executions.insert(0, execution);
    }
    tx.commit().await.unwrap();

    let mut tx = read(store).await;
    let mut events = async |filter: HistoryFilter| -> Vec<i64> {
        tx.events(&filter).await.unwrap().into_iter().map(|event| event.id).collect()
    };
    assert_eq!(events(HistoryFilter { execution: Some(executions[1]), ..ALL }).await, written[4..8]);
    assert_eq!(events(HistoryFilter { key: Some(users.clone()), ..ALL }).await, written[4..8]);
    assert_eq!(events(HistoryFilter { limit: 3, ..ALL }).await, written[..3]);
    assert_eq!(events(HistoryFilter { before: Some(written[2]), limit: 3, ..ALL }).await, written[3..6]);
    let of = |environment: &str| HistoryFilter { environment: Some(environment.to_owned()), ..ALL };
    assert_eq!(events(of(&orders.environment)).await, written);
    for none in ["checkout", "orders", "Database", "%", "_taging", ""] {
        assert_eq!(events(of(none)).await, [0_i64; 0], "{none:?} is no environment");
    }
    let both = HistoryFilter { execution: Some(executions[0]), key: Some(users.clone()), ..ALL };
    assert_eq!(events(both).await, [0_i64; 0]);
    assert_eq!(events(HistoryFilter { limit: 0, ..ALL }).await, [0_i64; 0]);

    let mut tx = read(store).await;
    let mut found = async |filter: HistoryFilter| -> Vec<i64> {
        tx.executions(&filter).await.unwrap().into_iter().map(|execution| execution.id).collect()
    };
    assert_eq!(found(HistoryFilter { execution: Some(executions[1]), ..ALL }).await, executions[1..2]);
    assert_eq!(found(HistoryFilter { key: Some(orders), ..ALL }).await, [executions[0], executions[2]]);
    assert_eq!(found(HistoryFilter { before: Some(executions[0]), limit: 1, ..ALL }).await, executions[1..2]);
}

async fn an_event_belongs_to_an_execution_of_its_tenant(store: &dyn Store) {
    let mut tx = begin(store).await;
    let execution = tx.start_execution("checkout", Trigger::Poll, None, at(0)).await.unwrap();
    tx.commit().await.unwrap();
    let kind = &events()[0];
    for (execution, tenant) in [(execution, "billing"), (execution + 1, "checkout")] {
        let mut tx = begin(store).await;
        let refused = tx.append_event(execution, tenant, event(None, at(1), kind)).await;
        assert!(matches!(refused, Err(StoreError::Query { what: "an event", .. })), "{refused:?}");
    }
    let mut tx = begin(store).await;
    let refused = tx.append_event(execution, "checkout", event(Some(&key("billing", "x")), at(1), kind)).await;
    assert!(matches!(refused, Err(StoreError::WrongTenant { .. })), "{refused:?}");
}

async fn pruning_forgets_what_ended_long_ago_and_keeps_each_tenants_newest(store: &dyn Store) {
    let mut tx = begin(store).await;
    let mut ids = BTreeMap::new();
    for (name, tenant, end) in [
        ("running", "checkout", None),
        ("old", "checkout", Some(at(10))),
        ("at the edge", "checkout", Some(at(100))),
        ("young", "checkout", Some(at(200))),
        ("old too", "billing", Some(at(20))),
        ("old and newest", "billing", Some(at(30))),
        ("old and no look", "billing", Some(at(40))),
    ] {
        let trigger = if name.ends_with("no look") { Trigger::SecretShown } else { Trigger::Poll };
        let id = tx.start_execution(tenant, trigger, None, at(0)).await.unwrap();
        tx.append_event(id, tenant, event(None, at(0), &events()[0])).await.unwrap();
        if let Some(end) = end {
            tx.finish_execution(id, ExecutionOutcome::InSync, None, None, summary(), end).await.unwrap();
        }
        ids.insert(id, name);
    }
    tx.commit().await.unwrap();

    let mut tx = begin(store).await;
    assert_eq!(tx.prune_history(at(100)).await.unwrap(), 3);
    assert_eq!(tx.prune_history(at(100)).await.unwrap(), 0);
    tx.commit().await.unwrap();
    let mut tx = read(store).await;
    let left: Vec<_> = tx.executions(&ALL).await.unwrap().iter().map(|execution| ids[&execution.id]).collect();
    assert_eq!(left, ["old and newest", "young", "at the edge", "running"]);
    let events: Vec<_> = tx.events(&ALL).await.unwrap().iter().map(|event| ids[&event.execution]).collect();
    assert_eq!(events, left);
    drop(tx);

    // Numbers are never given twice, so that a page that somebody looks at goes on where it was.
    let mut tx = begin(store).await;
    let next = tx.start_execution("checkout", Trigger::Poll, None, at(300)).await.unwrap();
    assert!(ids.keys().all(|id| *id < next));
}

async fn inputs_of_plans_read_back_and_go_with_their_execution(store: &dyn Store) {
    let mut tx = begin(store).await;
    let mut executions = Vec::new();
    for (tenant, end) in [("checkout", at(10)), ("checkout", at(200)), ("billing", at(20))] {
        let id = tx.start_execution(tenant, Trigger::Poll, None, at(0)).await.unwrap();
        // The same scene for all, as it is where nothing changes.
        tx.put_plan_inputs(id, tenant, 0, &plan_inputs("calm")).await.unwrap();
        tx.finish_execution(id, ExecutionOutcome::Blocked, None, None, summary(), end).await.unwrap();
        executions.push(id);
    }
    let [old, young, other] = executions[..] else { panic!("there are three") };
    tx.put_plan_inputs(old, "checkout", 1, &plan_inputs("another")).await.unwrap();
    // What is there stays.
    tx.put_plan_inputs(old, "checkout", 0, &plan_inputs("later")).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = read(store).await;
    assert_eq!(tx.plan_inputs(old).await.unwrap(), [plan_inputs("calm"), plan_inputs("another")]);
    assert_eq!(tx.plan_inputs(other + 1).await.unwrap(), []);
    drop(tx);
    let mut tx = store.read(tenant("checkout")).await.unwrap();
    assert_eq!(tx.plan_inputs(young).await.unwrap(), [plan_inputs("calm")]);
    assert_eq!(tx.plan_inputs(other).await.unwrap(), []);
    drop(tx);

    let mut tx = begin(store).await;
    assert_eq!(tx.prune_history(at(100)).await.unwrap(), 1);
    tx.commit().await.unwrap();
    let mut tx = read(store).await;
    assert_eq!(tx.plan_inputs(old).await.unwrap(), []);
    for kept in [young, other] {
        assert_eq!(tx.plan_inputs(kept).await.unwrap(), [plan_inputs("calm")], "a scene stays while a plan has it");
    }
}

/// Runs every test on each database.
macro_rules! on_every_database {
    ($($module:ident :: $test:ident,)+) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $test() {
                    let fixture = super::Fixture::sqlite().await;
                    super::$module::$test(&*fixture.store).await;
                }
            )+
        }

        mod memory {
            $(
                #[tokio::test]
                async fn $test() {
                    let fixture = super::Fixture::memory();
                    super::$module::$test(&*fixture.store).await;
                }
            )+
        }

        mod postgres {
            $(
                #[tokio::test]
                async fn $test() {
                    let fixture = super::Fixture::postgres().await;
                    super::$module::$test(&*fixture.store).await;
                }
            )+
        }
    };
}

use self as rows;

on_every_database! {
    rows::an_empty_store_answers_every_question,
    rows::the_platform_reads_back_as_it_was_written_and_the_last_one_stands,
    rows::identities_read_back_by_provider,
    rows::tenants_read_back_as_they_were_written,
    rows::records_read_back_are_replaced_and_are_forgotten,
    rows::statuses_read_back_are_replaced_and_are_removed,
    rows::strays_are_replaced_tenant_by_tenant,
    rows::proposals_read_back_and_the_newest_of_a_key_stands,
    rows::attempts_and_circuits_read_back_are_replaced_and_are_removed,
    rows::sagas_read_back_are_replaced_and_are_removed,
    rows::held_plans_and_approvals_read_back_and_are_cleared_together,
    rows::r12_secrets_are_kept_per_rotation_and_never_replaced,
    rows::r12_the_key_of_secrets_is_written_down_once,
    rows::an_execution_reads_back_running_and_finished,
    rows::every_trigger_and_outcome_reads_back,
    rows::an_execution_that_is_not_there_cannot_be_finished,
    rows::executions_that_a_death_left_running_become_interrupted,
    rows::events_of_every_kind_read_back_newest_first_with_rising_numbers,
    rows::many_rows_are_written_at_once_and_in_order,
    rows::nothing_of_many_is_written_when_one_is_not_the_tenants,
    rows::history_is_filtered_by_execution_key_page_and_limit,
    rows::an_event_belongs_to_an_execution_of_its_tenant,
    rows::pruning_forgets_what_ended_long_ago_and_keeps_each_tenants_newest,
    rows::inputs_of_plans_read_back_and_go_with_their_execution,
    audit::chains_grow_apart_and_read_back,
    audit::a_tenant_sees_and_writes_its_own_chain_alone,
    audit::many_writers_make_one_chain,
    audit::the_platforms_chain_tells_of_each_chain_that_begins_and_of_none_that_did_not,
    audit::a_chain_that_was_cut_is_whole_from_there_on,
    isolation::a_tenant_sees_its_own_rows_alone,
    isolation::a_tenant_writes_its_own_rows,
    isolation::a_tenant_cannot_write_what_is_not_its_own,
    isolation::a_tenant_interrupts_and_prunes_its_own_history_alone,
    isolation::what_is_dropped_without_a_commit_never_was,
    isolation::a_reader_sees_one_snapshot_and_the_next_reader_the_next,
    isolation::a_reader_cannot_write,
    isolation::after_a_failed_write_a_transaction_is_over_and_the_store_goes_on,
    isolation::writers_wait_for_one_another,
    queue::two_requests_are_one_look_the_wider,
    queue::the_tenant_that_has_been_due_longest_is_claimed_first,
    queue::a_claimed_tenant_is_nobody_elses_until_it_is_released,
    queue::a_deep_look_that_saw_nothing_is_none,
    queue::a_lease_that_ran_out_is_claimed_with_the_look_that_was_begun,
    queue::a_tenant_whose_looks_are_abandoned_in_a_row_waits_until_something_is_new,
    queue::nothing_is_written_under_a_lost_lease,
    queue::a_lease_that_is_renewed_lasts,
    queue::what_places_say_is_by_the_stores_own_time,
    queue::news_is_told_to_whoever_looks_and_ends_the_patience_with_what_was_before,
    queue::a_retry_waits_and_a_commit_does_not,
    queue::a_named_tenant_is_claimed_whether_it_is_due_or_not,
    queue::tenants_that_are_gone_are_forgotten,
    queue::whoever_waits_is_woken,
}

//! What transactions keep apart: tenants, writers and readers, what was committed and what was not. Run on each
//! database by `contract.rs`.

use std::collections::{BTreeMap, BTreeSet};

use plumb::model::{ApprovalKind, ExecutionOutcome, ProviderIdentity, Trigger};
use plumb::store::{HistoryFilter, Store, StoreError, Tx};

use super::sample::{
    approval, at, attempt, circuit, event, events, held_plan, key, plan_inputs, platform_state, proposal, record, saga,
    secret, status, stray, summary, tenant_state,
};
use super::{ALL, begin, read, tenant};

/// One write of every sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Platform,
    Identity,
    Circuit,
    RemoveCircuit,
    Tenant,
    Record,
    Forget,
    Status,
    RemoveStatus,
    Strays,
    Proposal,
    RemoveProposal,
    Attempt,
    RemoveAttempt,
    Saga,
    RemoveSaga,
    HeldPlan,
    Approval,
    ClearApprovals,
    Secret,
    RemoveSecrets,
    SecretKeyId,
    Execution,
    Event,
    PlanInputs,
    Audit,
}

impl Write {
    const OF_THE_PLATFORM: [Write; 5] =
        [Write::Platform, Write::Identity, Write::Circuit, Write::RemoveCircuit, Write::SecretKeyId];
    pub(super) const OF_A_TENANT: [Write; 21] = [
        Write::Tenant,
        Write::Record,
        Write::Forget,
        Write::Status,
        Write::RemoveStatus,
        Write::Strays,
        Write::Proposal,
        Write::RemoveProposal,
        Write::Attempt,
        Write::RemoveAttempt,
        Write::Saga,
        Write::RemoveSaga,
        Write::HeldPlan,
        Write::Approval,
        Write::ClearApprovals,
        Write::Secret,
        Write::RemoveSecrets,
        Write::Execution,
        Write::Event,
        Write::PlanInputs,
        Write::Audit,
    ];

    /// Writes for a tenant, whose execution is given.
    pub(super) async fn run(self, tx: &mut dyn Tx, name: &str, execution: i64) -> Result<(), StoreError> {
        let orders = key(name, "orders");
        match self {
            Write::Platform => tx.put_platform(&platform_state()).await,
            Write::Identity => tx.put_identity("pg-main", &ProviderIdentity("2".into())).await,
            Write::Tenant => tx.put_tenant(&tenant_state(name)).await,
            Write::Record => tx.put_record(&record(&orders)).await,
            Write::Forget => tx.forget(&orders).await,
            Write::Status => tx.put_status(&status(&orders)).await,
            Write::RemoveStatus => tx.remove_status(&orders).await,
            Write::Strays => tx.put_strays(name, &BTreeMap::from([(key(name, "stray"), stray())])).await,
            Write::Proposal => tx.put_proposal(&proposal(&orders)).await,
            Write::RemoveProposal => tx.remove_proposal(&orders).await,
            Write::Attempt => tx.put_attempt(&attempt(&orders)).await,
            Write::RemoveAttempt => tx.remove_attempts(std::slice::from_ref(&orders)).await,
            Write::Saga => tx.put_saga(&saga(name)).await,
            Write::RemoveSaga => tx.remove_saga(name, "staging").await,
            Write::Circuit => tx.put_circuit(&circuit("redis")).await,
            Write::RemoveCircuit => tx.remove_circuit("pg-main").await,
            Write::HeldPlan => tx.put_held_plan(name, &held_plan("p1", ApprovalKind::Deletes, &[])).await,
            Write::Approval => tx.put_approval(name, &approval("p1", "c1", &[])).await,
            Write::ClearApprovals => tx.clear_approvals(name).await,
            Write::Secret => tx.put_secret(&secret(&orders, "app", "", name.as_bytes())).await,
            Write::SecretKeyId => tx.put_secret_key_id("0badf00d").await,
            Write::RemoveSecrets => tx.remove_secrets(&orders).await,
            Write::Execution => tx.start_execution(name, Trigger::Start, None, at(0)).await.map(drop),
            Write::PlanInputs => tx.put_plan_inputs(execution, name, 0, &plan_inputs(name)).await,
            Write::Audit => tx.append_audit(name, &[super::audit::entry(0)]).await,
            Write::Event => tx.append_event(execution, name, event(Some(&orders), at(0), &events()[0])).await,
        }
    }
}

/// Writes one of everything for each of two tenants; gives their executions.
pub async fn fill(store: &dyn Store) -> BTreeMap<&'static str, i64> {
    let mut tx = begin(store).await;
    let mut executions = BTreeMap::new();
    tx.put_platform(&platform_state()).await.unwrap();
    tx.put_identity("pg-main", &ProviderIdentity("1".into())).await.unwrap();
    tx.put_circuit(&circuit("pg-main")).await.unwrap();
    tx.put_secret_key_id("c0ffee00").await.unwrap();
    for name in ["checkout", "billing"] {
        let execution = tx.start_execution(name, Trigger::Start, None, at(0)).await.unwrap();
        for write in [
            Write::Tenant,
            Write::Record,
            Write::Status,
            Write::Strays,
            Write::Proposal,
            Write::Attempt,
            Write::Saga,
            Write::HeldPlan,
            Write::Approval,
            Write::Secret,
            Write::Event,
            Write::PlanInputs,
            Write::Audit,
        ] {
            write.run(&mut *tx, name, execution).await.unwrap();
        }
        executions.insert(name, execution);
    }
    tx.commit().await.unwrap();
    executions
}

pub async fn a_tenant_sees_its_own_rows_alone(store: &dyn Store) {
    let executions = fill(store).await;
    for (own, other) in [("checkout", "billing"), ("billing", "checkout")] {
        let (mine, theirs) = (key(own, "orders"), key(other, "orders"));
        let mut tx = store.read(tenant(own)).await.unwrap();
        assert_eq!(tx.platform().await.unwrap(), Some(platform_state()));
        assert_eq!(tx.identities().await.unwrap().len(), 1);
        assert_eq!(tx.tenants().await.unwrap().into_keys().collect::<Vec<_>>(), [own]);
        assert_eq!(tx.inventory().await.unwrap().records.into_keys().collect::<Vec<_>>(), std::slice::from_ref(&mine));
        assert!(tx.record(&mine).await.unwrap().is_some());
        assert_eq!(tx.record(&theirs).await.unwrap(), None);
        assert_eq!(tx.statuses().await.unwrap().into_keys().collect::<Vec<_>>(), std::slice::from_ref(&mine));
        assert_eq!(tx.status(&mine).await.unwrap(), Some(status(&mine)));
        assert_eq!(tx.status(&theirs).await.unwrap(), None);
        assert_eq!(tx.status(&key(own, "nothing")).await.unwrap(), None);
        assert_eq!(tx.strays().await.unwrap().into_keys().collect::<Vec<_>>(), [key(own, "stray")]);
        assert_eq!(tx.proposals().await.unwrap().into_keys().collect::<Vec<_>>(), std::slice::from_ref(&mine));
        assert_eq!(tx.attempts().await.unwrap().into_keys().collect::<Vec<_>>(), std::slice::from_ref(&mine));
        assert_eq!(tx.attempt(&mine).await.unwrap(), Some(attempt(&mine)));
        assert_eq!(tx.attempt(&theirs).await.unwrap(), None);
        assert_eq!(tx.circuits().await.unwrap().len(), 1);
        assert_eq!(tx.sagas().await.unwrap(), [saga(own)]);
        assert_eq!(tx.held_plans(own).await.unwrap().len(), 1);
        assert!(tx.held_plans(other).await.unwrap().is_empty());
        assert_eq!(tx.approvals(own).await.unwrap().len(), 1);
        assert!(tx.approvals(other).await.unwrap().is_empty());
        assert_eq!(tx.secrets(&mine, "app").await.unwrap()[0].ciphertext, own.as_bytes());
        assert!(tx.secrets(&theirs, "app").await.unwrap().is_empty());
        assert_eq!(tx.roles_with_secrets().await.unwrap(), BTreeSet::from([(mine.clone(), "app".to_owned())]));
        assert_eq!(tx.newest_secret().await.unwrap().unwrap().key, mine);
        assert_eq!(tx.secret_key_id().await.unwrap().as_deref(), Some("c0ffee00"));
        assert_eq!(tx.plan_inputs(executions[own]).await.unwrap(), [plan_inputs(own)]);
        assert!(tx.plan_inputs(executions[other]).await.unwrap().is_empty());
        let of = |name: &str| HistoryFilter { execution: Some(executions[name]), ..ALL };
        assert_eq!((tx.events(&of(own)).await.unwrap().len(), tx.executions(&of(own)).await.unwrap().len()), (1, 1));
        assert!(tx.events(&of(other)).await.unwrap().is_empty());
        assert!(tx.executions(&of(other)).await.unwrap().is_empty());
        let executions = tx.executions(&ALL).await.unwrap();
        assert_eq!(executions.iter().map(|execution| execution.tenant.as_str()).collect::<Vec<_>>(), [own]);
        let events = tx.events(&ALL).await.unwrap();
        assert_eq!(events.iter().map(|event| event.tenant.as_str()).collect::<Vec<_>>(), [own]);
        let filter = HistoryFilter { key: Some(theirs), ..ALL };
        assert!(tx.events(&filter).await.unwrap().is_empty());
        assert!(tx.executions(&filter).await.unwrap().is_empty());
    }
}

pub async fn a_tenant_writes_its_own_rows(store: &dyn Store) {
    let executions = fill(store).await;
    for write in Write::OF_A_TENANT {
        let mut tx = store.begin(tenant("checkout")).await.unwrap();
        write.run(&mut *tx, "checkout", executions["checkout"]).await.unwrap();
        tx.commit().await.unwrap();
    }
}

pub async fn a_tenant_cannot_write_what_is_not_its_own(store: &dyn Store) {
    let executions = fill(store).await;
    for write in Write::OF_A_TENANT.into_iter().chain(Write::OF_THE_PLATFORM) {
        let mut tx = store.begin(tenant("checkout")).await.unwrap();
        let refused = write.run(&mut *tx, "billing", executions["billing"]).await;
        assert!(matches!(refused, Err(StoreError::OutOfScope { .. })), "{write:?}: {refused:?}");
        assert!(matches!(tx.commit().await, Err(StoreError::Aborted)), "{write:?}");
    }
    let mut tx = begin(store).await;
    let strays = BTreeMap::from([(key("billing", "stray"), stray())]);
    let refused = tx.put_strays("checkout", &strays).await;
    assert!(matches!(refused, Err(StoreError::WrongTenant { .. })), "{refused:?}");
    drop(tx);
    expect_as_filled(store).await;
}

/// After refused writes everything is as [`fill`] left it.
async fn expect_as_filled(store: &dyn Store) {
    let mut tx = read(store).await;
    assert_eq!(tx.identities().await.unwrap()["pg-main"], ProviderIdentity("1".into()));
    assert_eq!(tx.inventory().await.unwrap().records.len(), 2);
    assert_eq!(tx.statuses().await.unwrap().len(), 2);
    assert_eq!(tx.strays().await.unwrap().len(), 2);
    assert_eq!(tx.proposals().await.unwrap().len(), 2);
    assert_eq!(tx.attempts().await.unwrap().len(), 2);
    assert_eq!(tx.sagas().await.unwrap().len(), 2);
    assert_eq!(tx.circuits().await.unwrap().into_keys().collect::<Vec<_>>(), ["pg-main"]);
    assert_eq!(tx.held_plans("billing").await.unwrap().len(), 1);
    assert_eq!(tx.approvals("billing").await.unwrap().len(), 1);
    assert_eq!(tx.secrets(&key("billing", "orders"), "app").await.unwrap().len(), 1);
    assert_eq!(tx.executions(&ALL).await.unwrap().len(), 2);
    assert_eq!(tx.events(&ALL).await.unwrap().len(), 2);
}

pub async fn a_tenant_interrupts_and_prunes_its_own_history_alone(store: &dyn Store) {
    let mut tx = begin(store).await;
    let mut running = Vec::new();
    for name in ["checkout", "billing"] {
        for _ in 0..2 {
            let id = tx.start_execution(name, Trigger::Poll, None, at(0)).await.unwrap();
            tx.finish_execution(id, ExecutionOutcome::InSync, None, None, summary(), at(1)).await.unwrap();
        }
        running.push(tx.start_execution(name, Trigger::Poll, None, at(2)).await.unwrap());
    }
    tx.commit().await.unwrap();
    let mut tx = store.begin(tenant("checkout")).await.unwrap();
    assert_eq!(tx.interrupt_running(at(3)).await.unwrap(), running[..1]);
    assert_eq!(tx.prune_history(at(100)).await.unwrap(), 2);
    tx.commit().await.unwrap();
    let left: Vec<_> = read(store).await.executions(&ALL).await.unwrap();
    let left: Vec<_> = left.iter().map(|execution| (execution.tenant.as_str(), execution.outcome)).collect();
    let (done, running) = (ExecutionOutcome::InSync, ExecutionOutcome::Running);
    let billing = ["billing"; 3].into_iter().zip([running, done, done]);
    assert_eq!(left, billing.chain([("checkout", ExecutionOutcome::Interrupted)]).collect::<Vec<_>>());
}

pub async fn what_is_dropped_without_a_commit_never_was(store: &dyn Store) {
    let mut tx = begin(store).await;
    let execution = tx.start_execution("checkout", Trigger::Poll, None, at(0)).await.unwrap();
    for write in Write::OF_A_TENANT {
        write.run(&mut *tx, "checkout", execution).await.unwrap();
    }
    assert!(!tx.executions(&ALL).await.unwrap().is_empty(), "it sees what it wrote");
    drop(tx);
    let mut tx = begin(store).await;
    assert!(tx.inventory().await.unwrap().records.is_empty());
    assert!(tx.executions(&ALL).await.unwrap().is_empty());
    assert!(tx.events(&ALL).await.unwrap().is_empty());
    assert!(tx.tenants().await.unwrap().is_empty());
}

pub async fn a_reader_sees_one_snapshot_and_the_next_reader_the_next(store: &dyn Store) {
    let (first, second) = (key("checkout", "first"), key("checkout", "second"));
    let mut tx = begin(store).await;
    tx.put_record(&record(&first)).await.unwrap();
    tx.commit().await.unwrap();

    let mut reader = read(store).await;
    assert_eq!(reader.inventory().await.unwrap().records.len(), 1);
    let mut writer = begin(store).await;
    writer.put_record(&record(&second)).await.unwrap();
    writer.put_status(&status(&second)).await.unwrap();
    assert_eq!(reader.inventory().await.unwrap().records.len(), 1, "nothing uncommitted is seen");
    writer.commit().await.unwrap();
    assert_eq!(reader.inventory().await.unwrap().records.len(), 1);
    assert!(reader.statuses().await.unwrap().is_empty(), "one snapshot, whichever table is asked for");
    assert_eq!(read(store).await.inventory().await.unwrap().records.len(), 2);
}

pub async fn a_reader_cannot_write(store: &dyn Store) {
    let executions = fill(store).await;
    for write in Write::OF_A_TENANT.into_iter().chain(Write::OF_THE_PLATFORM) {
        let mut tx = read(store).await;
        let refused = write.run(&mut *tx, "checkout", executions["checkout"]).await;
        assert!(matches!(refused, Err(StoreError::ReadOnly)), "{write:?}: {refused:?}");
        assert_eq!(tx.inventory().await.unwrap().records.len(), 2, "it can still read");
    }
}

pub async fn after_a_failed_write_a_transaction_is_over_and_the_store_goes_on(store: &dyn Store) {
    let no_such_execution = 999;
    let mut tx = begin(store).await;
    tx.put_record(&record(&key("checkout", "orders"))).await.unwrap();
    let failed = Write::Event.run(&mut *tx, "checkout", no_such_execution).await;
    assert!(matches!(failed, Err(StoreError::Query { .. })), "{failed:?}");
    let late = tx.put_record(&record(&key("checkout", "users"))).await;
    assert!(matches!(late, Err(StoreError::Aborted)), "{late:?}");
    assert!(matches!(tx.inventory().await, Err(StoreError::Aborted)));
    assert!(matches!(tx.commit().await, Err(StoreError::Aborted)));

    let mut tx = begin(store).await;
    assert!(tx.inventory().await.unwrap().records.is_empty(), "nothing of it was kept");
    tx.put_record(&record(&key("checkout", "orders"))).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(read(store).await.inventory().await.unwrap().records.len(), 1);
}

/// Each adds one to a number that it reads first; none may be lost.
pub async fn writers_wait_for_one_another(store: &dyn Store) {
    const WRITERS: usize = 20;
    let orders = key("checkout", "orders");
    let add_one = async || {
        let mut tx = store.begin(tenant("checkout")).await.unwrap();
        let record_now = tx.record(&orders).await.unwrap();
        let count: usize = record_now.map_or(0, |record| record.commit.parse().unwrap());
        let mut next = record(&orders);
        next.commit = (count + 1).to_string();
        tx.put_record(&next).await.unwrap();
        tx.commit().await.unwrap();
    };
    futures::future::join_all((0..WRITERS).map(|_| add_one())).await;
    let record = read(store).await.record(&orders).await.unwrap().unwrap();
    assert_eq!(record.commit, WRITERS.to_string());
}

//! The audit log: chains that grow, are read back, and are cut at their beginning. Run on each database by `contract.rs`.

use plumb::store::audit::{
    AuditAction, AuditDetails, AuditEntry, AuditFilter, AuditHead, ChainBreak, ChainWalk, NewAudit, ORIGIN,
    PLATFORM_CHAIN,
};
use plumb::store::{Scope, Store, StoreError};
use serde_json::json;

use super::sample::{HOSTILE, at, key};
use super::{begin, read, tenant};

/// All of every chain.
const ALL: AuditFilter = AuditFilter { since: None, after: None, limit: 10_000 };

/// An entry of that second.
pub fn entry(seconds: i64) -> NewAudit {
    NewAudit {
        at: at(seconds),
        actor: HOSTILE.into(),
        action: AuditAction::Commit,
        key: None,
        details: AuditDetails::from([
            ("subject".into(), json!(HOSTILE)),
            ("execution".into(), json!(i64::MAX)),
            ("keys".into(), json!([key("checkout", "orders")])),
        ]),
    }
}

async fn append(store: &dyn Store, chain: &str, entries: &[NewAudit]) {
    let mut tx = begin(store).await;
    tx.append_audit(chain, entries).await.unwrap();
    tx.commit().await.unwrap();
}

/// Walks every chain of the store.
pub async fn verified(store: &dyn Store) -> Result<Vec<AuditHead>, ChainBreak> {
    let mut tx = read(store).await;
    let (heads, rows) = (tx.audit_heads().await.unwrap(), tx.audit(&ALL).await.unwrap());
    let mut ends = Vec::new();
    for head in heads {
        let mut walk = ChainWalk::from(head.clone());
        rows.iter().filter(|row| row.tenant == head.tenant).try_for_each(|row| walk.step(row))?;
        ends.push(walk.end()?);
    }
    Ok(ends)
}

pub async fn chains_grow_apart_and_read_back(store: &dyn Store) {
    let about = NewAudit { key: Some(key("checkout", "orders")), action: AuditAction::Change, ..entry(2) };
    append(store, "checkout", &[entry(1), about.clone()]).await;
    append(store, PLATFORM_CHAIN, &[entry(3)]).await;
    append(store, "checkout", &(4..450).map(entry).collect::<Vec<_>>()).await;
    append(store, "billing", &[]).await;

    let rows = read(store).await.audit(&ALL).await.unwrap();
    let placed = |row: &AuditEntry| (row.tenant.clone(), row.id);
    // That a chain begins is told in the platform's.
    let expected = (1..=2).map(|id| (String::new(), id)).chain((1..=448).map(|id| ("checkout".to_owned(), id)));
    assert_eq!(rows.iter().map(placed).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    let AuditEntry { at, actor, action, key, details, previous, hash, .. } = rows[3].clone();
    assert_eq!(NewAudit { at, actor, action, key, details }, about);
    assert_eq!((previous, &hash), (rows[2].hash.clone(), &rows[4].previous));
    assert_eq!((rows[0].previous.as_str(), rows[2].previous.as_str()), (ORIGIN, ORIGIN));
    let ends: Vec<_> = verified(store).await.unwrap().into_iter().map(|head| (head.tenant, head.last_id)).collect();
    assert_eq!(ends, [(String::new(), 2), ("checkout".to_owned(), 448)]);

    let mut tx = read(store).await;
    let page = AuditFilter { since: Some(super::sample::at(4)), after: Some(("checkout".into(), 10)), limit: 2 };
    assert_eq!(tx.audit(&page).await.unwrap(), rows[12..14]);
    let last = tx.last_audit("checkout", AuditAction::Change).await.unwrap();
    assert_eq!(last.as_ref(), Some(&rows[3]));
    assert_eq!(tx.last_audit("checkout", AuditAction::Request).await.unwrap(), None);
}

pub async fn a_tenant_sees_and_writes_its_own_chain_alone(store: &dyn Store) {
    for chain in [PLATFORM_CHAIN, "billing", "checkout"] {
        append(store, chain, &[entry(1)]).await;
    }
    let mut tx = store.read(tenant("checkout")).await.unwrap();
    assert_eq!(tx.audit(&ALL).await.unwrap().iter().map(|row| row.tenant.as_str()).collect::<Vec<_>>(), ["checkout"]);
    assert_eq!(tx.audit_heads().await.unwrap().len(), 1);
    assert_eq!(tx.last_audit("billing", AuditAction::Commit).await.unwrap(), None);
    drop(tx);
    for (scope, chain) in [(tenant("checkout"), "billing"), (tenant("checkout"), PLATFORM_CHAIN)] {
        let mut tx = store.begin(scope).await.unwrap();
        let refused = tx.append_audit(chain, &[entry(2)]).await;
        assert!(matches!(refused, Err(StoreError::OutOfScope { .. })), "{refused:?}");
    }
    let foreign = NewAudit { key: Some(key("billing", "orders")), ..entry(2) };
    let refused = begin(store).await.append_audit("checkout", &[foreign]).await;
    assert!(matches!(refused, Err(StoreError::WrongTenant { .. })), "{refused:?}");
    let refused = read(store).await.append_audit("checkout", &[entry(2)]).await;
    assert!(matches!(refused, Err(StoreError::ReadOnly)), "{refused:?}");
    assert_eq!(verified(store).await.unwrap().len(), 3);
}

pub async fn many_writers_make_one_chain(store: &dyn Store) {
    const WRITERS: i64 = 20;
    let add = async |seconds| {
        let mut tx = store.begin(tenant("checkout")).await.unwrap();
        tx.append_audit("checkout", &[entry(seconds)]).await.unwrap();
        tx.commit().await.unwrap();
    };
    futures::future::join_all((0..WRITERS).map(add)).await;
    assert_eq!(verified(store).await.unwrap()[1].last_id, WRITERS);
}

pub async fn the_platforms_chain_tells_of_each_chain_that_begins_and_of_none_that_did_not(store: &dyn Store) {
    let told = async || {
        let rows = read(store).await.audit(&ALL).await.unwrap();
        let told = rows.into_iter().filter(|row| row.action == AuditAction::Begun);
        let mut told: Vec<_> = told.map(|row| (row.tenant, row.details["chain"].clone())).collect();
        told.sort_by_key(|(_, chain)| chain.to_string());
        told
    };
    let mut tx = store.begin(tenant("checkout")).await.unwrap();
    tx.append_audit("checkout", &[entry(1)]).await.unwrap();
    drop(tx);
    assert_eq!(told().await, []);
    // Side by side, and the second row of each tells nothing.
    let names = ["billing", "checkout", "search"];
    let begin_two = async |name: &'static str| {
        for seconds in [1, 2] {
            let mut tx = store.begin(tenant(name)).await.unwrap();
            tx.append_audit(name, &[entry(seconds)]).await.unwrap();
            // It sees what is its own, as before.
            assert_eq!(tx.audit_heads().await.unwrap().len(), 1);
            tx.append_audit(name, &[entry(seconds)]).await.unwrap();
            tx.commit().await.unwrap();
        }
    };
    futures::future::join_all(names.map(begin_two)).await;
    assert_eq!(told().await, names.map(|name| (String::new(), json!(name))));
    append(store, PLATFORM_CHAIN, &[entry(3)]).await;
    let ends: Vec<_> = verified(store).await.unwrap().iter().map(|head| head.last_id).collect();
    assert_eq!(ends, [4, 4, 4, 4]);
}

pub async fn a_chain_that_was_cut_is_whole_from_there_on(store: &dyn Store) {
    const DAY: i64 = 86_400;
    // A clock that was set back stands in the middle: what is behind a row that is kept is kept.
    append(store, "checkout", &[entry(0), entry(40 * DAY), entry(100 * DAY), entry(50 * DAY), entry(101 * DAY)]).await;
    append(store, "billing", &[entry(0), entry(1)]).await;
    append(store, PLATFORM_CHAIN, &[entry(100 * DAY)]).await;
    let mut tx = store.begin(Scope::Platform).await.unwrap();
    // With what told that the two began.
    assert_eq!(tx.prune_audit(at(99 * DAY)).await.unwrap(), 6);
    assert_eq!(tx.prune_audit(at(99 * DAY)).await.unwrap(), 0);
    tx.commit().await.unwrap();
    let begins: Vec<_> =
        verified(store).await.unwrap().into_iter().map(|head| (head.tenant, head.first_id, head.last_id)).collect();
    let expected = [(String::new(), 3, 3), ("billing".to_owned(), 3, 2), ("checkout".to_owned(), 3, 5)];
    assert_eq!(begins, expected);
    append(store, "billing", &[entry(102 * DAY)]).await;
    let billing = verified(store).await.unwrap().remove(1);
    assert_eq!((billing.first_id, billing.last_id), (3, 3), "it goes on where it was");
    // What is cut off is written down with that, also where nothing else is left of the chain.
    let mut tx = store.begin(Scope::Platform).await.unwrap();
    let rows = tx.prune_audit(at(200 * DAY)).await.unwrap();
    let told = AuditDetails::from([("rows".into(), json!(rows))]);
    let pruned = NewAudit { action: AuditAction::Pruned, details: told.clone(), ..entry(200 * DAY) };
    tx.append_audit(PLATFORM_CHAIN, &[pruned]).await.unwrap();
    tx.commit().await.unwrap();
    let heads = verified(store).await.unwrap();
    assert_eq!((rows, heads[0].first_id, heads[0].last_id), (5, 4, 4));
    let kept = read(store).await.audit(&ALL).await.unwrap();
    assert_eq!(kept.iter().map(|row| (row.action, &row.details)).collect::<Vec<_>>(), [(AuditAction::Pruned, &told)]);
}

//! R5: what could not be seen leads to nothing.

use plumb::model::{ConditionStatus, ConditionType, ExecutionOutcome, ProposalStatus, Reason};
use sqlx::Row;

use super::{DELETE, world_with};
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{World, unseen};

#[tokio::test(flavor = "multi_thread")]
async fn r5_while_a_provider_is_down_or_silent_nothing_is_made_deleted_or_decided() {
    let server = PostgresServer::start();
    let mut world = World::with_slow_postgres(&server, "5s").await;
    let key = |name: &str| world.key(&format!("staging/Database/{name}"));
    let (going, changed, drifted, new) = (key("going"), key("changed"), key("drifted"), key("new"));
    for name in ["going", "changed", "drifted", "other"] {
        world.write_resource("staging", "Database", name, DELETE, "connectionLimit: 20");
    }
    world.write_database("staging", "file", "provider: files\nuserVersion: 1");
    world.tenant.commit("Add databases");
    world.in_sync().await;
    server.psql(&format!("ALTER DATABASE {} CONNECTION LIMIT 50", world.object("staging", "drifted"))).await;
    world.apply().await;
    let branch = world.proposal(&drifted).await.unwrap().branch;

    super::remove(&world, &["going"]);
    world.write_resource("staging", "Database", "changed", DELETE, "connectionLimit: 30");
    world.write_database("staging", "new", "connectionLimit: 5");
    world.write_database("staging", "file", "provider: files\nuserVersion: 2");
    world.tenant.commit("Remove, change and add");
    for (wait, reason) in [("silent", Reason::TimedOut), ("down", Reason::ProviderUnreachable)] {
        match reason {
            Reason::TimedOut => server.pause(),
            _ => {
                server.resume();
                server.stop();
            }
        }
        let before = world.inventory().await;
        let report = world.apply().await;
        assert!(report.wants_retry);
        for key in [&going, &changed, &drifted, &new] {
            assert_eq!(unseen(&report.plan, key), Some(reason), "{wait}: {:#?}", report.plan.unknown);
        }
        let status = world.status(&changed).await.unwrap();
        let ready = status.condition(ConditionType::Ready).unwrap();
        assert_eq!((ready.status, ready.reason), (ConditionStatus::Unknown, reason));
        assert_eq!(world.proposal(&drifted).await.unwrap().status, ProposalStatus::Open);
        assert!(world.tenant.branches().contains(&branch));
        // Other providers' resources go on.
        assert_eq!(world.number("staging", "file", super::VERSION).await, 2);
        let after = world.inventory().await;
        let postgres = |inventory: &plumb::model::Inventory| {
            let records = inventory.records.values().filter(|record| record.provider == "pg");
            records.cloned().collect::<Vec<_>>()
        };
        assert_eq!(postgres(&before), postgres(&after), "nothing is forgotten");
        // Not even a new process, or one that lost its state, takes silence for absence.
        if reason == Reason::ProviderUnreachable {
            world.restart().await;
            assert_eq!(world.apply().await.done, 0);
        }
    }

    server.restart();
    let report = world.apply().await;
    assert_eq!(report.done, 3, "{:#?}", report.plan);
    assert_eq!(report.outcome, ExecutionOutcome::Blocked, "the drift still waits");
    let names = format!("SELECT datname FROM pg_database WHERE datname LIKE '{}%' ORDER BY 1", world.name);
    let names: Vec<String> = server.query("postgres", &names).await.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["changed", "drifted", "new", "other"].map(|name| world.object("staging", name)));
    assert_eq!(world.proposal(&drifted).await.unwrap().status, ProposalStatus::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_orphans_stay_listed_while_their_provider_cannot_be_asked() {
    let mut world = world_with(&["orders", "payments"], "").await;
    super::remove(&world, &["orders"]);
    world.tenant.commit("Remove orders");
    world.lose_state().await;
    world.apply().await;
    assert_eq!(world.orphans().await.len(), 1);
    let (folder, away) = (world.databases(), world.data().join("unmounted"));
    std::fs::rename(&folder, &away).unwrap();
    let report = world.apply().await;
    assert_eq!(unseen(&report.plan, "checkout/staging/Database/payments"), Some(Reason::ProviderIdentityChanged));
    assert_eq!(world.orphans().await.len(), 1);
    assert!(!folder.exists(), "no empty folder takes its place");
    std::fs::rename(&away, &folder).unwrap();
    world.apply().await;
    assert_eq!(world.orphans().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_a_proposal_stays_as_it_is_while_a_field_of_it_cannot_be_seen() {
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    world.write_database("staging", "orders", "provider: pg\nconnectionLimit: 20\nextensions: [pgcrypto]");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    server.psql_in(&name, "DROP EXTENSION pgcrypto").await;
    server.psql(&format!("ALTER DATABASE {name} CONNECTION LIMIT 50")).await;
    world.apply().await;
    let (before, tip) =
        (world.proposal(&key).await.unwrap(), world.tenant.remote_head("plumb/drift/staging/database-orders"));
    assert_eq!((before.fields.len(), tip.is_some()), (2, true));
    // Nobody can look inside, and the other field changes once more.
    server.psql(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    server.psql(&format!("ALTER DATABASE {name} CONNECTION LIMIT 60")).await;
    let report = world.apply().await;
    assert!(unseen(&report.plan, &key).is_some(), "{:#?}", report.plan);
    assert_eq!(
        (world.proposal(&key).await.unwrap(), world.tenant.remote_head("plumb/drift/staging/database-orders")),
        (before, tip)
    );
    let status = world.status(&key).await.unwrap();
    let drifted = status.condition(ConditionType::Drifted).unwrap();
    assert_eq!(drifted.status, ConditionStatus::True, "{drifted:?}");
    server.psql(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    world.apply().await;
    assert_eq!(world.proposal(&key).await.unwrap().fields[0].live, Some(60.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn r5_what_was_left_alone_stays_so_where_it_cannot_be_seen_while_another_field_is_asked_about() {
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    world.write_tenant("providers: [files, pg]\nonClose: ignore");
    world.platform.commit("Ignore what is closed");
    world.write_database("staging", "orders", "provider: pg\nconnectionLimit: 20\nextensions: [pgcrypto]");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    server.psql_in(&name, "DROP EXTENSION pgcrypto").await;
    world.apply().await;
    world.tenant.delete_branch("plumb/drift/staging/database-orders");
    world.in_sync().await;
    // Nobody can look inside while the other field changes, and changes back.
    for limit in [50, 20, 60] {
        server.psql(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
        server.psql(&format!("ALTER DATABASE {name} CONNECTION LIMIT {limit}")).await;
        world.apply().await;
        server.psql(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    }
    world.apply().await;
    let offered: Vec<String> =
        world.proposal(&key).await.unwrap().fields.iter().map(|field| field.path.to_string()).collect();
    assert_eq!(offered, ["/spec/connectionLimit"]);
}

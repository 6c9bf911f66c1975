//! R11: a server that is another one than before is not touched until its Provider confirms it.

use plumb::model::{ConditionStatus, ConditionType, Reason};

use super::{VERSION, live, world_with};
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{FILES, World, held, unseen};
use crate::waits::names_rule;

const ORDERS: &str = "checkout/staging/Database/orders";
const MARKER: &str = ".plumb-root";

async fn assert_untouched(world: &World, files: usize) {
    let report = world.apply().await;
    assert_eq!(report.done, 0);
    for name in ["orders", "payments"] {
        let key = format!("checkout/staging/Database/{name}");
        assert_eq!(unseen(&report.plan, &key), Some(Reason::ProviderIdentityChanged), "{:#?}", report.plan);
    }
    let ready = world.status(ORDERS).await.unwrap().condition(ConditionType::Ready).unwrap().clone();
    assert_eq!(ready.status, ConditionStatus::Unknown);
    names_rule(world, ORDERS, Reason::ProviderIdentityChanged, "R11").await;
    assert_eq!(live(world, &["orders", "payments"]).len(), files);
}

fn confirm(world: &World, identity: &str) {
    world.platform.write("providers.yaml", format!("{FILES}  identity: {identity}\n"));
    world.platform.commit("Confirm the folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_folder_with_another_marker_is_unknown_until_the_provider_confirms_it() {
    let mut world = world_with(&["orders", "payments"], "").await;
    std::fs::write(world.databases().join(MARKER), "somebody-elses-folder\n").unwrap();
    world.write_database("staging", "orders", "userVersion: 2");
    world.tenant.commit("Want version 2");
    assert_untouched(&world, 2).await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 1);
    let message = &world.apply().await.plan.unknown[0].1.message;
    assert!(message.contains("spec.identity: \"somebody-elses-folder\""), "{message}");
    world.restart().await;
    assert_untouched(&world, 2).await;

    confirm(&world, "not-this-one");
    assert_untouched(&world, 2).await;
    confirm(&world, "somebody-elses-folder");
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(world.number("staging", "orders", VERSION).await, 2);
    // Once it is recorded, the confirmation is not needed any more.
    world.platform.write("providers.yaml", FILES);
    world.platform.commit("It is known now");
    assert_eq!(world.in_sync().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_an_empty_folder_in_its_place_gets_nothing_made_in_it() {
    let mut world = world_with(&["orders", "payments"], "").await;
    std::fs::rename(world.databases(), world.data().join("unmounted")).unwrap();
    assert_untouched(&world, 0).await;
    std::fs::create_dir(world.databases()).unwrap();
    assert_untouched(&world, 0).await;
    std::fs::write(world.databases().join(MARKER), "a-new-disk\n").unwrap();
    assert_untouched(&world, 0).await;
    world.restart().await;
    assert_untouched(&world, 0).await;
    // Confirmed, it is ours and empty: the data is missing, and is not made again (R8).
    confirm(&world, "a-new-disk");
    let report = world.apply().await;
    assert_eq!((report.done, held(&report.plan, ORDERS)), (0, Some(Reason::DataMissing)), "{:#?}", report.plan);
    assert_eq!(live(&world, &["orders", "payments"]).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_the_folder_that_comes_back_goes_on_as_before() {
    let world = world_with(&["orders", "payments"], "").await;
    let away = world.data().join("unmounted");
    std::fs::rename(world.databases(), &away).unwrap();
    assert_untouched(&world, 0).await;
    std::fs::rename(&away, world.databases()).unwrap();
    assert_eq!(world.in_sync().await, 0);
    assert!(world.proposal(ORDERS).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_another_postgres_server_in_place_of_the_one_is_not_touched() {
    let (first, second) = (PostgresServer::start(), PostgresServer::start());
    let world = World::with_postgres(&first).await;
    world.write_database("staging", "orders", "connectionLimit: 20\nroles:\n  - {name: app, access: readwrite}");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    let key = world.key("staging/Database/orders");
    let providers = world.platform.show("main:providers.yaml").replace(&first.url(), &second.url());
    world.platform.write("providers.yaml", &providers);
    world.platform.commit("Another server behind the name");
    world.write_database("staging", "payments", "connectionLimit: 20");
    world.tenant.commit("Add payments");
    let made = "SELECT count(*) FROM pg_database WHERE datname LIKE 'team%'";
    let databases = async || sqlx::Row::get::<i64, _>(&second.query("postgres", made).await[0], 0);
    let report = world.apply().await;
    for name in ["orders", "payments"] {
        let key = world.key(&format!("staging/Database/{name}"));
        assert_eq!(unseen(&report.plan, &key), Some(Reason::ProviderIdentityChanged), "{:#?}", report.plan);
    }
    assert_eq!((report.done, databases().await), (0, 0));
    // Confirmed, it is ours: what is new is made, and what held data is missing (R8).
    let identity = &second.query("postgres", "SELECT system_identifier::text FROM pg_control_system()").await[0];
    let identity: String = sqlx::Row::get(identity, 0);
    let confirmed = providers.replace("  timeout:", &format!("  identity: \"{identity}\"\n  timeout:"));
    world.platform.write("providers.yaml", confirmed);
    world.platform.commit("It is meant");
    let report = world.apply().await;
    assert_eq!((report.done, held(&report.plan, &key)), (1, Some(Reason::DataMissing)), "{:#?}", report.plan);
    assert_eq!(databases().await, 1);
    // The one before is as it was.
    assert_eq!(sqlx::Row::get::<i64, _>(&first.query("postgres", made).await[0], 0), 1);
}

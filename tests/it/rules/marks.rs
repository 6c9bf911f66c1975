//! R1: nothing without this key's mark is touched.

use plumb::model::{Action, ConditionType, ExecutionOutcome, Reason};
use serde_json::json;
use sqlx::Row;

use super::{VERSION, recorded, world_with};
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{World, held, held_message};
use crate::waits::{names_rule, names_rule_beside};

const ORDERS: &str = "checkout/staging/Database/orders";
const PEOPLES: &str = "PRAGMA user_version = 3; CREATE TABLE precious (id INTEGER); INSERT INTO precious VALUES (7)";

/// A world where somebody made a file of their own at the place of `orders`, and git now asks for one.
async fn world_with_a_file_of_somebodys(annotations: &str) -> (World, Vec<u8>) {
    let world = World::with_files().await;
    world.by_hand("staging", "orders", PEOPLES).await;
    let bytes = std::fs::read(world.file("staging", "orders")).unwrap();
    world.write_resource("staging", "Database", "orders", annotations, "userVersion: 7");
    world.tenant.commit("Ask for orders");
    (world, bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_an_unmarked_file_is_refused_with_the_way_to_adopt_it_and_stays_as_it_was() {
    let (world, bytes) = world_with_a_file_of_somebodys("").await;
    let report = world.apply().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::Blocked, 0));
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::NotOwned));
    assert!(held_message(&report.plan, ORDERS).contains("plumb.dev/adopt: \"true\""));
    assert_eq!(std::fs::read(world.file("staging", "orders")).unwrap(), bytes);
    let status = world.status(ORDERS).await.unwrap();
    assert_eq!(status.condition(ConditionType::Ready).unwrap().reason, Reason::NotOwned);
    names_rule(&world, ORDERS, Reason::NotOwned, "R1").await;
    assert!(world.inventory().await.records.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_adoption_takes_over_after_the_plan_has_shown_the_difference() {
    let (world, bytes) = world_with_a_file_of_somebodys("plumb.dev/adopt: \"true\"").await;
    let step = world.plan().await.plan.steps.remove(0);
    assert_eq!(step.action, Action::Adopt);
    let change = &step.changes[0];
    assert_eq!(
        (change.path.as_str(), &change.from, &change.to),
        ("/spec/userVersion", &Some(json!(3)), &Some(json!(7)))
    );
    assert_eq!(std::fs::read(world.file("staging", "orders")).unwrap(), bytes, "a plan does nothing");

    assert_eq!(world.in_sync().await, 1);
    assert_eq!(recorded(&world, ORDERS), [Reason::Adopted]);
    assert_eq!(world.number("staging", "orders", VERSION).await, 7);
    assert_eq!(world.number("staging", "orders", "SELECT id FROM precious").await, 7, "its data is kept");

    // A leftover annotation is a warning, and does nothing any more.
    let report = world.apply().await;
    assert_eq!(report.done, 0);
    assert_eq!(report.plan.warnings[0].1, Reason::LeftoverAdopt);
    names_rule_beside(&world, ORDERS, Reason::LeftoverAdopt, "R1", "remove it").await;
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("It is ours now");
    let report = world.apply().await;
    assert!(report.plan.is_in_sync() && report.plan.warnings.is_empty(), "{:#?}", report.plan);
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_another_platforms_object_is_never_touched_even_with_adopt() {
    let theirs = world_with(&["orders"], "").await;
    let world = World::with_files().await;
    world.write_platform("id: other-platform");
    world.platform.commit("Be another platform");
    std::fs::create_dir_all(world.databases()).unwrap();
    std::fs::copy(theirs.file("staging", "orders"), world.file("staging", "orders")).unwrap();
    let bytes = std::fs::read(world.file("staging", "orders")).unwrap();
    world.write_resource("staging", "Database", "orders", "plumb.dev/adopt: \"true\"", "userVersion: 7");
    world.tenant.commit("Ask for orders");
    let report = world.apply().await;
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::OwnedByOther));
    assert!(held_message(&report.plan, ORDERS).contains("test-platform"));
    assert_eq!(std::fs::read(world.file("staging", "orders")).unwrap(), bytes);
    assert!(world.orphans().await.is_empty(), "another platform's object is no orphan of ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_an_object_with_the_mark_of_another_key_is_never_touched() {
    let world = world_with(&["orders"], "").await;
    std::fs::copy(world.file("staging", "orders"), world.file("staging", "copied")).unwrap();
    let bytes = std::fs::read(world.file("staging", "copied")).unwrap();
    world.write_resource("staging", "Database", "copied", "plumb.dev/adopt: \"true\"", "userVersion: 7");
    world.tenant.commit("Ask for the copy");
    let report = world.apply().await;
    assert_eq!(held(&report.plan, "checkout/staging/Database/copied"), Some(Reason::OwnedByOther));
    assert_eq!(report.done, 0);
    assert_eq!(std::fs::read(world.file("staging", "copied")).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_an_object_whose_mark_was_taken_off_is_left_alone() {
    let world = world_with(&["orders", "other"], "").await;
    world.by_hand("staging", "orders", "DROP TABLE plumb_mark").await;
    world.write_database("staging", "orders", "userVersion: 2");
    world.tenant.commit("Want version 2");
    let report = world.apply().await;
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::NotOwned));
    assert!(held_message(&report.plan, ORDERS).contains("mark"));
    assert_eq!(world.number("staging", "orders", VERSION).await, 1);
    // Not even its removal from git touches it.
    super::remove(&world, &["orders"]);
    world.tenant.commit("Remove orders");
    world.in_sync().await;
    assert!(world.file("staging", "orders").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_an_unmarked_postgres_database_is_refused_and_adoption_keeps_who_may_connect() {
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    server.psql(&format!("CREATE DATABASE {name} CONNECTION LIMIT 5")).await;
    server.psql(&format!("GRANT plumb TO postgres; ALTER DATABASE {name} OWNER TO plumb")).await;
    server.psql_in(&name, "CREATE TABLE precious (id int)").await;
    world.write_database("staging", "orders", "connectionLimit: 20");
    world.tenant.commit("Ask for orders");
    let report = world.apply().await;
    assert_eq!(held(&report.plan, &key), Some(Reason::NotOwned));
    let limit = format!("SELECT datconnlimit, datacl::text FROM pg_database WHERE datname = '{name}'");
    assert_eq!(server.query("postgres", &limit).await[0].get::<i32, _>(0), 5);
    let roles = format!("SELECT 1 FROM pg_roles WHERE rolname LIKE '{name}%'");
    assert!(server.query("postgres", &roles).await.is_empty(), "nothing was made beside it");

    world.write_resource("staging", "Database", "orders", "plumb.dev/adopt: \"true\"", "connectionLimit: 20");
    world.tenant.commit("Adopt it");
    assert_eq!(world.plan().await.plan.steps[0].action, Action::Adopt);
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(server.query("postgres", &limit).await[0].get::<i32, _>(0), 20);
    server.query(&name, "SELECT * FROM precious").await;
    let public = format!("SELECT 1 WHERE has_database_privilege('public', '{name}', 'CONNECT')");
    assert_eq!(server.query("postgres", &public).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_role_that_lost_its_mark_is_let_go_of_once_git_names_it_no_more() {
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    let commit = |annotations: &str, roles: &str| {
        let spec = format!("connectionLimit: 20\nroles: [{roles}]");
        world.write_resource("staging", "Database", "orders", annotations, &spec);
        world.tenant.commit("Edit orders");
    };
    commit("", "{name: ro, access: read}");
    world.in_sync().await;
    server.psql(&format!("COMMENT ON ROLE {name}_ro IS NULL")).await;
    let report = world.apply().await;
    assert_eq!(held(&report.plan, &key), Some(Reason::NotOwned));
    let message = held_message(&report.plan, &key);
    assert!(
        message.contains("name it otherwise in the document, or drop or rename the one on the server"),
        "{message}"
    );
    commit("plumb.dev/adopt: \"true\"", "{name: ro, access: read}");
    let warning = world.apply().await.plan.warnings.remove(0).1;
    assert_eq!(warning, Reason::LeftoverAdopt);
    names_rule(&world, &key, Reason::NotOwned, "R1").await;

    commit("", "{name: reader, access: read}");
    world.in_sync().await;
    let roles = format!("SELECT rolname FROM pg_roles WHERE rolname LIKE '{name}%' ORDER BY 1");
    let roles = server.query("postgres", &roles).await;
    let named: Vec<String> = roles.iter().map(|row| row.get::<String, _>(0)).collect();
    assert_eq!(named, ["owner", "reader", "ro"].map(|role| format!("{name}_{role}")), "it was never dropped");
    assert!(world.apply().await.plan.is_in_sync());
}

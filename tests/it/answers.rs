//! What counts as an answer to a question about drift, and for how long.

use std::sync::Arc;

use plumb::engine::PreviewSource;
use plumb::managers::ManagerError;
use plumb::model::{ProposalKind, ProposalStatus, Reason};
use sqlx::Row;

use crate::drift::{BRANCH, MANIFEST, ORDERS, VERSION, edit_on_the_branch, world_with, world_with_proposal};
use crate::harness::faulty::Faults;
use crate::harness::git::MergeHow;
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{World, held};
use crate::histories::{asked_about_nine, rewrite_to, world_with_another_branch};

const REFUSE: &str = "#!/bin/sh\nexit 1\n";

/// Orders, of which one role cannot be made: somebody else's is called so.
async fn beside_a_role_of_somebody_else(server: &PostgresServer) -> World {
    let world = World::with_postgres(server).await;
    world.write_database("staging", "orders", "provider: pg\nconnectionLimit: 20");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    server.psql(&format!("CREATE ROLE {}_app", world.object("staging", "orders"))).await;
    world.write_database("staging", "orders", "provider: pg\nconnectionLimit: 20\nroles: [{name: app, access: read}]");
    world.tenant.commit("Add a role");
    world.apply().await;
    world
}

/// Orders, with an extension, which nobody sees who may not connect.
async fn with_an_extension(server: &PostgresServer) -> World {
    let world = World::with_postgres(server).await;
    world.write_database("staging", "orders", "provider: pg\nconnectionLimit: 20\nextensions: [pgcrypto]");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_a_refused_push_over_a_merged_branch_is_no_answer() {
    let world = world_with_proposal().await;
    edit_on_the_branch(&world);
    world.apply().await;
    world.tenant.merge(BRANCH, MergeHow::MergeCommit);
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 41);
    world.tenant.hook("pre-receive", REFUSE);
    world.by_hand("staging", "orders", "PRAGMA user_version = 45").await;
    for look in 0..3 {
        world.apply().await;
        assert_eq!(world.number("staging", "orders", VERSION).await, 45, "look {look}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_a_refused_push_over_plumbs_own_merged_branch_is_no_answer() {
    let world = world_with_proposal().await;
    world.tenant.remote_git(&["config", "receive.denyDeletes", "true"]);
    world.tenant.merge(BRANCH, MergeHow::MergeCommit);
    world.apply().await;
    world.tenant.hook("pre-receive", REFUSE);
    world.by_hand("staging", "orders", "PRAGMA user_version = 45").await;
    for look in 0..3 {
        world.apply().await;
        assert_eq!(world.number("staging", "orders", VERSION).await, 45, "look {look}");
    }
}

/// Orders are gone, and only the question knows that they were there.
pub async fn gone_and_forgotten() -> World {
    let mut world = World::with_files().await;
    let doc = "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: orders\n  environment: staging\n  labels: {owner: team-checkout}\nspec:\n  userVersion: 7\n";
    world.tenant.write(MANIFEST, doc);
    world.tenant.write("environments/staging/other.yaml", doc.replace("orders", "other"));
    world.tenant.commit("Add");
    world.in_sync().await;
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    world.apply().await;
    world.lose_state().await;
    world.apply().await;
    let known = world.proposal(ORDERS).await.unwrap();
    assert_eq!((known.kind, known.status), (ProposalKind::Missing, ProposalStatus::Open));
    assert!(!world.file("staging", "orders").exists());
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_data_that_only_a_question_remembers_is_not_made_again_when_it_is_only_observed() {
    let world = gone_and_forgotten().await;
    let text = world.tenant.show(&format!("main:{MANIFEST}"));
    world.tenant.write(
        MANIFEST,
        text.replace("  name: orders\n", "  name: orders\n  annotations: {plumb.dev/drift: observe}\n"),
    );
    world.tenant.commit("Only observe");
    world.tenant.delete_branch(BRANCH);
    for look in 0..2 {
        world.apply().await;
        assert!(!world.file("staging", "orders").exists(), "look {look}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_folder_is_planned_with_what_open_questions_remember() {
    let mut world = gone_and_forgotten().await;
    world.lose_state().await;
    let plan = world.preview(PreviewSource::Folder(world.tenant.work())).await.unwrap().plan;
    assert!(plan.steps.is_empty(), "{plan:#?}");
    assert_eq!(held(&plan, ORDERS), Some(Reason::DataMissing));
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_data_that_only_a_question_remembers_is_not_made_again_after_a_path_change() {
    let world = gone_and_forgotten().await;
    world.read_from("path: environments");
    for look in 0..3 {
        world.apply().await;
        assert!(!world.file("staging", "orders").exists(), "look {look}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_data_that_only_a_question_remembers_is_not_made_again_where_its_removal_cannot_be_offered() {
    let world = gone_and_forgotten().await;
    let text = world.tenant.show(&format!("main:{MANIFEST}"));
    world.tenant.write(MANIFEST, format!("# a comment\n{text}"));
    world.write_database("staging", "reports", "dependsOn: [Database/orders]");
    world.tenant.commit("Add reports");
    for look in 0..3 {
        world.apply().await;
        assert!(!world.file("staging", "orders").exists(), "look {look}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_carried_out_is_over_beside_a_field_of_somebody_else() {
    let server = PostgresServer::shared();
    let world = beside_a_role_of_somebody_else(server).await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    let limit = format!("SELECT datconnlimit FROM pg_database WHERE datname = '{name}'");
    server.psql(&format!("ALTER DATABASE {name} CONNECTION LIMIT 50")).await;
    world.apply().await;
    assert_eq!(world.proposal(&key).await.unwrap().status, ProposalStatus::Open);
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    assert_eq!(server.query("postgres", &limit).await[0].get::<i32, _>(0), 20);
    world.apply().await;
    server.psql(&format!("ALTER DATABASE {name} CONNECTION LIMIT 50")).await;
    world.apply().await;
    assert_eq!(server.query("postgres", &limit).await[0].get::<i32, _>(0), 50, "nobody was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_ends_when_live_returns_beside_a_field_of_somebody_else() {
    let server = PostgresServer::shared();
    let world = beside_a_role_of_somebody_else(server).await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    server.psql(&format!("ALTER DATABASE {name} CONNECTION LIMIT 50")).await;
    world.apply().await;
    assert_eq!(world.proposal(&key).await.unwrap().status, ProposalStatus::Open);
    server.psql(&format!("ALTER DATABASE {name} CONNECTION LIMIT 20")).await;
    for _ in 0..2 {
        world.apply().await;
    }
    assert!(world.proposal(&key).await.is_none(), "{:?}", world.proposal(&key).await.map(|p| p.status));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_undoing_answers_no_question() {
    let mut world = World::with_files().await;
    let faults = Faults::new();
    world.connect = Some(faults.connect());
    world.restart().await;
    let write = |world: &World, version: u32| {
        for name in ["orders", "carts"] {
            let more = if name == "carts" { "\ndependsOn: [Database/orders]" } else { "" };
            world.write_resource(
                "staging",
                "Database",
                name,
                "plumb.dev/on-failure: rollback",
                &format!("userVersion: {version}{more}"),
            );
        }
    };
    write(&world, 1);
    world.tenant.commit("Begin");
    world.in_sync().await;
    write(&world, 2);
    world.tenant.commit("Want 2");
    faults.fail("carts", ManagerError::terminal(Reason::Rejected, "no"));
    world.scheduled().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 1);
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.scheduled().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    // An unrelated commit.
    world.write_database("staging", "unrelated", "userVersion: 1");
    world.tenant.commit("Something else");
    world.scheduled().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 42, "git did not set it since");
}

/// A world with faults in which orders, and carts that need them, are in plumb and go back together.
pub async fn world_that_undoes() -> (World, Arc<Faults>) {
    let mut world = World::with_files().await;
    let faults = Faults::new();
    world.connect = Some(faults.connect());
    world.restart().await;
    want(&world, "userVersion: 1", 1);
    world.tenant.commit("Begin");
    world.in_sync().await;
    (world, faults)
}

/// Writes what is wanted of orders, and the version of carts.
pub fn want(world: &World, orders: &str, carts: u32) {
    const ROLLBACK: &str = "plumb.dev/on-failure: rollback";
    world.write_resource("staging", "Database", "orders", ROLLBACK, orders);
    let carts = format!("userVersion: {carts}\ndependsOn: [Database/orders]");
    world.write_resource("staging", "Database", "carts", ROLLBACK, &carts);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_begin_of_an_undoing_answers_no_question() {
    let (world, faults) = world_that_undoes().await;
    // Both change at once: held, a question.
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    want(&world, "userVersion: 2\nforeignKeys: true", 2);
    world.tenant.commit("Want 2");
    faults.fail("carts", ManagerError::terminal(Reason::Rejected, "no"));
    for look in 0..3 {
        world.scheduled().await;
        assert_eq!(world.number("staging", "orders", VERSION).await, 42, "look {look}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_was_put_back_to_where_it_began_is_not_merged() {
    let world = world_with_proposal().await;
    world.write_tenant("providers: [files]\nonClose: ignore");
    world.platform.commit("Ignore what is closed");
    world.tenant.git(&["push", "--force", "origin", &format!("main:{BRANCH}")]);
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_answered_also_where_drift_is_only_observed() {
    let world = world_with("plumb.dev/drift: observe").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.write_resource(
        "staging",
        "Database",
        "orders",
        "plumb.dev/drift: observe",
        "journalMode: wal\nuserVersion: 8",
    );
    world.tenant.commit("Expect 8");
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    for _ in 0..2 {
        world.tenant.delete_branch(BRANCH);
        world.apply().await;
    }
    assert_eq!(world.number("staging", "orders", VERSION).await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_what_cannot_be_seen_outlives_drift_of_another_field() {
    let server = PostgresServer::shared();
    let world = with_an_extension(server).await;
    let name = world.object("staging", "orders");
    server.psql_in(&name, "DROP EXTENSION pgcrypto").await;
    world.apply().await;
    world.tenant.delete_branch(BRANCH);
    server.psql(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    server.psql(&format!("ALTER DATABASE {name} CONNECTION LIMIT 60")).await;
    world.apply().await;
    server.psql(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    world.apply().await;
    let there = server.query(&name, "SELECT 1 FROM pg_extension WHERE extname = 'pgcrypto'").await.len();
    assert_eq!(there, 1, "a person said to put it back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_that_was_accepted_as_gone_is_not_dropped_when_it_is_there_again() {
    let server = PostgresServer::shared();
    let world = with_an_extension(server).await;
    // Where it is not all there is, the guard lets a drop pass.
    world.write_database("staging", "other", "provider: pg");
    world.tenant.commit("Add another");
    world.in_sync().await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    server.psql_in(&name, "DROP EXTENSION pgcrypto").await;
    world.apply().await;
    server.psql_in(&name, &format!("SET ROLE {name}_owner; CREATE EXTENSION pgcrypto")).await;
    world.tenant.merge(BRANCH, MergeHow::MergeCommit);
    let there = || server.query(&name, "SELECT 1 FROM pg_extension WHERE extname = 'pgcrypto'");
    for look in 0..2 {
        world.apply().await;
        assert_eq!(there().await.len(), 1, "look {look}: nobody has said that it is to go");
    }
    let asked = world.proposal(&key).await.unwrap();
    assert_eq!((asked.status, &asked.fields[0].git), (ProposalStatus::Open, &None));
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    assert!(there().await.is_empty(), "a person wants git's value");
    assert!(world.apply().await.plan.is_in_sync());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_of_an_answer_was_carried_out_is_over_while_the_rest_cannot_be_seen() {
    let server = PostgresServer::shared();
    let world = with_an_extension(server).await;
    let name = world.object("staging", "orders");
    let limit = format!("SELECT datconnlimit FROM pg_database WHERE datname = '{name}'");
    server.psql_in(&name, "DROP EXTENSION pgcrypto").await;
    server.psql(&format!("ALTER DATABASE {name} CONNECTION LIMIT 50")).await;
    world.apply().await;
    world.tenant.delete_branch(BRANCH);
    server.psql(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    world.apply().await;
    server.psql(&format!("ALTER DATABASE {name} CONNECTION LIMIT 50")).await;
    world.apply().await;
    assert_eq!(server.query("postgres", &limit).await[0].get::<i32, _>(0), 50, "nobody was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_state_pushes_nothing_anew_after_an_unrelated_commit() {
    let mut world = world_with_proposal().await;
    let tip = world.tenant.remote_head(BRANCH);
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Something else");
    world.apply().await;
    assert_eq!(world.tenant.remote_head(BRANCH), tip, "with state nothing is pushed");
    world.lose_state().await;
    world.apply().await;
    assert_eq!(world.tenant.remote_head(BRANCH), tip);
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_question_about_drift_remembers_that_there_was_data() {
    let mut world = world_with("").await;
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Other");
    world.in_sync().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.write_platform("id: test-platform\nwindows: [{mode: deny, schedule: \"* * * * *\", duration: 1h}]");
    world.platform.commit("Nothing changes now");
    world.write_database("staging", "orders", "journalMode: delete\nuserVersion: 7");
    world.tenant.commit("Another journal");
    world.lose_state().await;
    for _ in 0..2 {
        world.apply().await;
    }
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    world.apply().await;
    world.write_platform("id: test-platform");
    world.platform.commit("Go on");
    world.apply().await;
    assert!(!world.file("staging", "orders").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_given_while_suspended_counts_afterwards() {
    let world = world_with_proposal().await;
    let spec = "journalMode: wal  # fast\nuserVersion: 7  # schema";
    world.write_resource("staging", "Database", "orders", "plumb.dev/suspend: \"true\"", spec);
    world.tenant.commit("Wait");
    world.apply().await;
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    world.write_resource("staging", "Database", "orders", "", spec);
    world.tenant.commit("Go on");
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_is_made_anew_on_a_rewritten_history() {
    let world = world_with_proposal().await;
    let text = world.tenant.show(&format!("main:{MANIFEST}"));
    let old = world.tenant.remote_head("main").unwrap();
    world.tenant.git(&["checkout", "--orphan", "fresh"]);
    world.tenant.write(MANIFEST, text);
    world.tenant.git(&["add", "--all"]);
    world.tenant.git(&["commit", "--message", "A new beginning"]);
    world.tenant.git(&["push", "--force", "origin", "HEAD:main"]);
    for _ in 0..2 {
        world.apply().await;
    }
    let log = world.tenant.remote_git(&["log", "--format=%H", BRANCH]);
    assert!(!log.contains(&old), "{log} still has {old}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_about_lost_data_ends_when_it_is_only_observed_and_recorded() {
    let world = world_with("").await;
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Other");
    world.in_sync().await;
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    world.apply().await;
    let spec = "journalMode: wal  # fast\nuserVersion: 7  # schema";
    world.write_resource("staging", "Database", "orders", "plumb.dev/drift: observe", spec);
    world.tenant.commit("Observe");
    for _ in 0..2 {
        world.apply().await;
    }
    assert!(world.proposal(ORDERS).await.is_none());
}

fn with_environment(world: &World) {
    let text = world.tenant.show(&format!("main:{MANIFEST}"));
    world.tenant.write(MANIFEST, text.replace("  name: orders\n", "  name: orders\n  environment: staging\n"));
    world.tenant.commit("Say where it belongs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_branch_stays_where_it_is_when_the_path_changes() {
    let world = world_with("").await;
    with_environment(&world);
    world.in_sync().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    edit_on_the_branch(&world);
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::HandsOff);
    world.read_from("path: environments");
    for _ in 0..2 {
        world.apply().await;
    }
    assert!(world.tenant.branches().len() == 2, "{:?}", world.tenant.branches());
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_another_branch_of_the_repository_answers_no_question() {
    let world = world_with_another_branch().await;
    world.read_from("branch: release");
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_rewritten_history_answers_no_question() {
    let (world, old) = asked_about_nine().await;
    rewrite_to(&world, &old);
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_alone_stays_so_after_a_look_without_the_object() {
    let world = world_with_proposal().await;
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Other");
    world.write_tenant("providers: [files]\nonClose: ignore");
    world.platform.commit("Ignore what is closed");
    world.tenant.delete_branch(BRANCH);
    world.in_sync().await;
    let away = world.data().join("away.db");
    std::fs::rename(world.file("staging", "orders"), &away).unwrap();
    world.apply().await;
    std::fs::rename(&away, world.file("staging", "orders")).unwrap();
    for _ in 0..2 {
        world.apply().await;
    }
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_in_part_and_differs_counts_as_seen() {
    let server = PostgresServer::shared();
    let mut world = with_an_extension(server).await;
    let name = world.object("staging", "orders");
    server.psql(&format!("ALTER DATABASE {name} CONNECTION LIMIT 50")).await;
    server.psql(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    world.stop();
    let scan = world.plumb(&["drift"]).output().unwrap();
    let said = String::from_utf8_lossy(&scan.stdout).into_owned();
    assert_eq!(scan.status.code(), Some(2), "{said}");
    assert!(said.contains("1 of 1 resource drifted, 1 could not be seen"), "{said}");
}

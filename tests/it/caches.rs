//! Caches from a commit to a live Redis and back: drift, its decisions, adoption, passwords and loss.

use plumb::managers::ManagerError;
use plumb::model::{ConditionStatus, ConditionType, EventKind, ExecutionOutcome, Reason};

use crate::harness::faulty::Faults;
use crate::harness::git::MergeHow;
use crate::harness::redis::{RedisOptions, RedisServer};
use crate::harness::world::{World, held, parse};

const KEY: &str = "checkout/staging/Cache/sessions";
const USER: &str = "checkout_staging_sessions";
const MANIFEST: &str = "environments/staging/sessions.yaml";
const BRANCH: &str = "plumb/drift/staging/cache-sessions";

/// A tenant with one cache, in plumb.
async fn world_with(server: &RedisServer, annotations: &str) -> World {
    let world = World::with_redis(server).await;
    world.write_resource("staging", "Cache", "sessions", annotations, "categories: [read, write]  # no more");
    world.tenant.commit("Add sessions");
    world
}

fn server() -> RedisServer {
    RedisServer::start(RedisOptions { aclfile: true, password: None })
}

fn rules(server: &RedisServer) -> String {
    server.cli(&["ACL", "GETUSER", USER])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_category_taken_by_hand_is_proposed_and_merging_accepts_it() {
    let server = server();
    let world = world_with(&server, "").await;
    world.in_sync().await;
    server.cli(&["ACL", "SETUSER", USER, "-@write"]);
    assert_eq!(world.apply().await.outcome, ExecutionOutcome::Blocked);
    assert!(world.tenant.show(&format!("{BRANCH}:{MANIFEST}")).contains("categories: [read]  # no more"));
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    world.in_sync().await;
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()));
    assert_eq!(world.in_sync().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_branch_gives_a_category_back() {
    let server = server();
    let world = world_with(&server, "").await;
    world.in_sync().await;
    let before = rules(&server);
    server.cli(&["ACL", "SETUSER", USER, "-@write"]);
    world.apply().await;
    world.tenant.delete_branch(BRANCH);
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(rules(&server), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_were_widened_by_hand_are_never_proposed() {
    let server = server();
    let world = world_with(&server, "").await;
    world.in_sync().await;
    server.cli(&["ACL", "SETUSER", USER, "+config|get", "~*"]);
    world.events();
    let report = world.apply().await;
    assert_ne!(report.outcome, ExecutionOutcome::InSync);
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()), "{:?}", world.tenant.branches());
    let said = |event: &plumb::model::Event| matches!(event.kind, EventKind::ProposalOpened { .. });
    assert!(!world.events().iter().any(said));
    // Nor does a document that says so pass.
    world.write_resource("staging", "Cache", "sessions", "", "keyPrefix: \"checkout:x: with +config|get\"");
    world.tenant.commit("Say so");
    let report = world.apply().await;
    assert!(report.desired.diagnostics.iter().any(|finding| finding.code.to_string() == "InvalidValue"));
    assert!(report.plan.steps.is_empty(), "{:#?}", report.plan);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_were_widened_by_hand_are_taken_back_where_drift_is_reverted() {
    let server = server();
    let world = world_with(&server, "plumb.dev/drift: revert").await;
    world.in_sync().await;
    let before = rules(&server);
    server.cli(&["ACL", "SETUSER", USER, "+config|get"]);
    assert_ne!(rules(&server), before);
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(rules(&server), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn r1_a_user_of_somebody_else_is_left_alone_until_it_is_adopted() {
    let server = server();
    server.cli(&["ACL", "SETUSER", USER, "on", ">theirs", "~checkout_staging_sessions:*", "+@read"]);
    let before = rules(&server);
    let world = world_with(&server, "").await;
    assert_eq!(held(&world.apply().await.plan, KEY), Some(Reason::NotOwned));
    assert_eq!(rules(&server), before);
    world.write_resource("staging", "Cache", "sessions", "plumb.dev/adopt: \"true\"", "categories: [read, write]");
    world.tenant.commit("Take it over");
    assert_eq!(world.apply().await.done, 1);
    // R12: its password stays, and nobody here knows it.
    assert_eq!(world.password(KEY, "user").await, None);
    assert!(server.cli_as(USER, "theirs", &["GET", "checkout_staging_sessions:1"]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_an_application_logs_in_with_the_password_that_is_shown() {
    let server = server();
    let world = world_with(&server, "").await;
    world.in_sync().await;
    let password = world.password(KEY, "user").await.expect("it was made here");
    assert_eq!(server.cli_as(USER, &password, &["SET", "checkout_staging_sessions:1", "hello"]), "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_lost_state_is_rebuilt_from_the_user_and_its_password_stays() {
    let server = server();
    let mut world = world_with(&server, "").await;
    world.in_sync().await;
    let password = world.password(KEY, "user").await.expect("it was made here");
    let before = rules(&server);
    world.lose_state().await;
    assert_eq!(world.apply().await.done, 0);
    assert_eq!(rules(&server), before);
    assert_eq!(world.password(KEY, "user").await, None);
    assert!(server.cli_as(USER, &password, &["GET", "checkout_staging_sessions:1"]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_user_that_came_back_after_its_document_went_is_not_deleted_where_drift_is_observed() {
    let server = server();
    let world = world_with(&server, "plumb.dev/drift: observe").await;
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    let users = server.cli(&["ACL", "LIST"]);
    let user = users.lines().find(|line| line.contains(USER)).expect("it is there").to_owned();
    let before = rules(&server);
    server.cli(&["ACL", "DELUSER", USER]);
    world.apply().await;
    let status = world.status(KEY).await.unwrap();
    assert_eq!(status.condition(ConditionType::Ready).unwrap().status, ConditionStatus::True, "it is only observed");
    assert_eq!(status.condition(ConditionType::Drifted).unwrap().reason, Reason::DataMissing);
    let rules_of_it: Vec<&str> = user.split_whitespace().skip(1).collect();
    server.cli(&[&["ACL", "SETUSER"][..], &rules_of_it].concat());
    assert_eq!(rules(&server), before);
    world.tenant.remove(MANIFEST);
    world.tenant.commit("Let go of it then");
    for look in 0..2 {
        let report = world.apply().await;
        assert_eq!(rules(&server), before, "look {look}: nobody wanted it deleted");
        assert_eq!(held(&report.plan, KEY), Some(Reason::DeletionsHeld), "look {look}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_and_is_undone_is_known_by_all_that_it_was() {
    const ROLLBACK: &str = "plumb.dev/on-failure: rollback";
    let server = server();
    let (mut world, faults) = (world_with(&server, ROLLBACK).await, Faults::new());
    world.connect = Some(faults.connect());
    world.restart().await;
    world.write_database("staging", "base", "userVersion: 1");
    world.write_resource("staging", "Cache", "sessions", ROLLBACK, "dependsOn: [Database/base]");
    world.write_resource("staging", "Database", "orders", ROLLBACK, "dependsOn: [Cache/sessions]");
    world.tenant.commit("Add orders, which need sessions");
    faults.fail("orders", ManagerError::terminal(Reason::Rejected, "no"));
    world.scheduled().await;
    assert!(!server.cli(&["ACL", "USERS"]).contains(USER), "it is undone");
    for look in 0..3 {
        let status = world.status(KEY).await.unwrap();
        assert_eq!(status.condition(ConditionType::Ready).unwrap().reason, Reason::RolledBack);
        let known = (status.provider.as_str(), status.file.as_str(), status.object_name.as_str());
        assert_eq!(known, ("redis", MANIFEST, USER), "look {look}");
        assert_eq!(status.depends_on, [parse("checkout/staging/Database/base")], "look {look}");
        world.apply().await;
    }
}

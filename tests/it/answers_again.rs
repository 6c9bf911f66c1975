//! What is no answer, though it looks like one; and what is not forgotten with a question.

use std::sync::Arc;

use chrono::TimeDelta;
use plumb::engine::{Ask, Report, Width};
use plumb::managers::ManagerError;
use plumb::model::{EventKind, ProposalKind, ProposalStatus, Reason, Trigger};

use crate::answers::{want, world_that_undoes};
use crate::drift::{BRANCH, MANIFEST, ORDERS, VERSION, world_with, world_with_proposal};
use crate::harness::clock::SetClock;
use crate::harness::git::MergeHow;
use crate::harness::world::{World, held, run_sql};
use crate::histories::{asked_about_nine, rewrite_to};
use crate::let_go::lost_since_it_was_added;

async fn ignoring_what_is_closed(world: &World) {
    world.write_tenant("providers: [files]\nonClose: ignore");
    world.platform.commit("Ignore what is closed");
}

/// What a hand has set stays, since nobody has said otherwise.
async fn is_left_alone(world: &World) {
    for look in 0..2 {
        world.apply().await;
        assert_eq!(world.number("staging", "orders", VERSION).await, 42, "look {look}: nobody was asked");
    }
}

/// Merged and reverted, and the branch is still there.
async fn merged_and_reverted_in_one_look() -> World {
    let world = world_with_proposal().await;
    world.tenant.remote_git(&["config", "receive.denyDeletes", "true"]);
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    world.tenant.git(&["revert", "--no-edit", "HEAD"]);
    world.tenant.git(&["push", "origin", "main"]);
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 7, "a person took it back");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_once_though_its_branch_cannot_be_deleted() {
    let world = merged_and_reverted_in_one_look().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    is_left_alone(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_counts_once_though_its_branch_cannot_be_deleted() {
    let world = world_with_proposal().await;
    world.tenant.remote_git(&["config", "receive.denyDeletes", "true"]);
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    world.apply().await;
    world.tenant.git(&["revert", "--no-edit", "HEAD"]);
    world.tenant.git(&["push", "origin", "main"]);
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 7);
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 42, "nobody was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_was_moved_to_a_later_commit_of_main_is_not_merged() {
    let world = world_with_proposal().await;
    ignoring_what_is_closed(&world).await;
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Something else");
    world.tenant.git(&["push", "--force", "origin", &format!("main:{BRANCH}")]);
    is_left_alone(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_branches_that_move_to_main_at_once_are_an_accident() {
    let world = World::with_files().await;
    let names = ["a", "b", "c", "d"];
    for name in names {
        world.write_database("staging", name, "userVersion: 7");
    }
    world.tenant.commit("Add");
    world.in_sync().await;
    for name in names {
        world.by_hand("staging", name, "PRAGMA user_version = 42").await;
    }
    world.apply().await;
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Something else");
    for name in names {
        world.tenant.git(&["push", "--force", "origin", &format!("main:plumb/drift/staging/database-{name}")]);
    }
    for look in 0..2 {
        world.apply().await;
        for name in names {
            assert_eq!(world.number("staging", name, VERSION).await, 42, "{name}, look {look}");
        }
    }
    let main = world.tenant.remote_head("main");
    for name in names {
        assert_ne!(world.tenant.remote_head(&format!("plumb/drift/staging/database-{name}")), main, "pushed again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_merged_branch_that_is_not_known_answers_no_new_question() {
    let mut world = merged_and_reverted_in_one_look().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.lose_state().await;
    for look in 0..3 {
        world.apply().await;
        assert_eq!(world.number("staging", "orders", VERSION).await, 42, "look {look}: nobody was asked");
    }
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_a_branch_that_vanishes_with_a_history_that_says_otherwise_decides_nothing() {
    let (world, old) = asked_about_nine().await;
    rewrite_to(&world, &old);
    world.tenant.delete_branch(BRANCH);
    is_left_alone(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_history_without_the_document_does_not_let_go_of_what_is_missing() {
    let (world, old, new) = lost_since_it_was_added().await;
    // An old backup of the repository is put in its place, and then the right one.
    rewrite_to(&world, &old);
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    rewrite_to(&world, &new);
    for look in 0..2 {
        world.apply().await;
        assert!(!world.file("staging", "orders").exists(), "look {look}: made again empty");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_alone_stays_so_while_a_change_is_undone() {
    let (world, faults) = world_that_undoes().await;
    ignoring_what_is_closed(&world).await;
    // Both change at once: a person says to leave it alone.
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    want(&world, "userVersion: 2", 2);
    world.tenant.commit("Want 2");
    world.scheduled().await;
    world.tenant.delete_branch(BRANCH);
    world.scheduled().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Ignored);
    faults.fail("carts", ManagerError::terminal(Reason::Rejected, "no"));
    want(&world, "userVersion: 2\nforeignKeys: true", 3);
    world.tenant.commit("Foreign keys");
    for look in 0..3 {
        world.scheduled().await;
        assert_eq!(world.number("staging", "orders", VERSION).await, 42, "look {look}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_question_about_drift_remembers_that_there_was_data_where_its_removal_cannot_be_offered() {
    let mut world = world_with("").await;
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Other");
    world.in_sync().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.write_platform("id: test-platform\nwindows: [{mode: deny, schedule: \"* * * * *\", duration: 1h}]");
    world.platform.commit("Nothing changes now");
    world.write_database("staging", "orders", "journalMode: delete\nuserVersion: 7");
    world.write_database("staging", "reports", "dependsOn: [Database/orders]");
    world.tenant.commit("Another journal");
    world.lose_state().await;
    for _ in 0..2 {
        world.apply().await;
    }
    assert_eq!(world.proposal(ORDERS).await.unwrap().kind, ProposalKind::Drift);
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    for _ in 0..2 {
        world.apply().await;
    }
    world.write_platform("id: test-platform");
    world.platform.commit("Go on");
    for look in 0..2 {
        world.apply().await;
        assert!(!world.file("staging", "orders").exists(), "look {look}: made again empty");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_commit_on_a_branch_that_was_merged_is_never_overwritten() {
    let world = world_with_proposal().await;
    world.tenant.remote_git(&["config", "receive.denyDeletes", "true"]);
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    world.apply().await;
    world.tenant.pull();
    world.tenant.checkout(BRANCH);
    world.tenant.write("notes.txt", "to be kept");
    world.tenant.git(&["add", "--all"]);
    world.tenant.git(&["commit", "--message", "Go on here"]);
    world.tenant.git(&["push", "origin", &format!("HEAD:{BRANCH}")]);
    world.tenant.git(&["checkout", "main"]);
    let tip = world.tenant.remote_head(BRANCH);
    world.tenant.remote_git(&["config", "receive.denyDeletes", "false"]);
    world.by_hand("staging", "orders", "PRAGMA user_version = 45").await;
    for _ in 0..3 {
        world.apply().await;
        assert_eq!(world.tenant.remote_head(BRANCH), tip);
        assert_eq!(world.number("staging", "orders", VERSION).await, 45);
    }
    assert!(world.tenant.show(&format!("main:{MANIFEST}")).contains("userVersion: 42"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_once_though_the_process_died_when_it_was_recorded() {
    let world = world_with_proposal().await;
    world.tenant.delete_branch(BRANCH);
    world.on_event(|event| assert!(!matches!(event.kind, EventKind::Recorded { .. }), "killed"));
    assert!(world.try_apply().await.is_err());
    world.on_event(|_| {});
    assert_eq!(world.number("staging", "orders", VERSION).await, 7);
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    is_left_alone(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_can_only_be_carried_out_by_making_it_again_keeps_no_question_waiting() {
    let world = World::with_files().await;
    world.write_database("staging", "orders", "pageSize: 4096\nuserVersion: 7");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    world.by_hand("staging", "orders", "PRAGMA page_size = 8192; VACUUM").await;
    world.apply().await;
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    for _ in 0..2 {
        world.apply().await;
    }
    let asked = world.proposal(ORDERS).await.unwrap();
    assert_eq!(asked.status, ProposalStatus::Open);
    assert!(asked.fields.iter().any(|field| field.path.as_str() == "/spec/userVersion"), "{:?}", asked.fields);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_git_set_after_the_question_is_gits_though_its_step_had_to_wait() {
    let world = world_with("").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42; PRAGMA journal_mode = delete").await;
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().fields.len(), 2);
    world.write_platform("id: test-platform\nwindows:\n  - {mode: deny, schedule: \"* * * * *\", duration: 1h}");
    world.platform.commit("Close");
    let text = world.tenant.show(&format!("main:{MANIFEST}"));
    world.tenant.pull();
    world.tenant.write(MANIFEST, text.replace("userVersion: 7", "userVersion: 8"));
    world.tenant.commit("Want version 8");
    let mut tips = Vec::new();
    for _ in 0..3 {
        let report = world.apply().await;
        assert_eq!(held(&report.plan, ORDERS), Some(Reason::WindowClosed), "{:#?}", report.plan);
        tips.push(world.tenant.remote_head(BRANCH));
    }
    assert!(tips[0].is_some() && tips[1..].iter().all(|tip| *tip == tips[0]), "pushed again and again: {tips:?}");
    world.write_platform("id: test-platform");
    world.platform.commit("Open");
    let report = world.apply().await;
    assert_eq!(report.done, 1, "{:#?}", report.plan);
    assert_eq!(world.number("staging", "orders", VERSION).await, 8);
    let proposal = world.proposal(ORDERS).await.unwrap();
    let asked: Vec<&str> = proposal.fields.iter().map(|field| field.path.as_str()).collect();
    assert_eq!((proposal.status, asked), (ProposalStatus::Open, vec!["/spec/journalMode"]), "the rest is asked on");
    world.tenant.delete_branch(BRANCH);
    assert_eq!(world.in_sync().await, 1);
}

/// Three tenants of one repository, of which each has these databases, with a proposal open about each.
pub async fn three_tenants_that_ask(names: &[&str]) -> (World, Arc<SetClock>) {
    let mut world = World::with_files().await;
    let clock = SetClock::at("2030-01-02T09:00:00Z");
    world.clock = clock.clone();
    world.restart().await;
    write_tenants(&world, &TENANTS);
    for (tenant, name) in TENANTS.into_iter().flat_map(|tenant| names.iter().map(move |name| (tenant, name))) {
        let text = format!(
            "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: {name}\n  environment: staging\n  labels: {{owner: \
             team}}\nspec:\n  userVersion: 1\n"
        );
        world.tenant.write(&format!("{tenant}/{name}.yaml"), text);
    }
    world.tenant.commit("Begin");
    for tenant in TENANTS {
        look_at(&world, tenant).await;
        for name in names {
            let file = world.databases().join(format!("{tenant}_staging_{name}.db"));
            run_sql(&file, "PRAGMA user_version = 5").await;
        }
        look_at(&world, tenant).await;
    }
    (world, clock)
}

pub const TENANTS: [&str; 3] = ["one", "two", "three"];

/// Writes the Tenant documents of these, and commits them.
fn write_tenants(world: &World, names: &[&str]) {
    let url = world.tenant.url();
    let tenants = names.iter().map(|name| {
        format!(
            "apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  repository: {{url: \"{url}\", path: \
             {name}}}\n  environments: [staging]\n  providers: [files]\n"
        )
    });
    world.platform.write("tenants.yaml", tenants.collect::<Vec<_>>().join("---\n"));
    world.platform.commit(&format!("These tenants: {names:?}"));
}

pub async fn look_at(world: &World, tenant: &str) -> Report {
    let ask = Ask { trigger: Trigger::CommandLine, width: Width::Deep };
    world.engine().reconcile(&world.in_force().await, tenant, ask).await.unwrap()
}

/// Deletes the branches of proposals of a tenant; `most` of them.
fn delete_branches(world: &World, tenant: &str, most: usize) {
    let part = format!("/{tenant}/");
    let branches = world.tenant.branches().into_iter().filter(|branch| branch.contains(&part));
    let branches: Vec<String> = branches.take(most).collect();
    assert_eq!(branches.len(), most, "{tenant}");
    for branch in branches {
        world.tenant.delete_branch(&branch);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_branches_of_a_tenant_that_is_no_more_are_no_part_of_an_accident() {
    let (world, _) = three_tenants_that_ask(&["a", "b", "c"]).await;
    write_tenants(&world, &["one", "two"]);
    delete_branches(&world, "three", 3);
    delete_branches(&world, "one", 1);
    assert_eq!(look_at(&world, "one").await.done, 1, "one was meant");
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_an_accident_of_another_day_does_not_count_for_ever() {
    let (world, clock) = three_tenants_that_ask(&["a", "b", "c"]).await;
    for tenant in TENANTS {
        delete_branches(&world, tenant, 3);
    }
    for tenant in TENANTS {
        clock.forward(TimeDelta::seconds(1));
        assert_eq!(look_at(&world, tenant).await.done, 0, "an accident restores nothing");
    }
    // Those that look rarely lost theirs in the same accident.
    clock.forward(TimeDelta::hours(24));
    for tenant in TENANTS {
        assert_eq!(look_at(&world, tenant).await.done, 0);
    }
    delete_branches(&world, "one", 1);
    clock.forward(TimeDelta::hours(2));
    assert_eq!(look_at(&world, "one").await.done, 1, "what goes after that was meant");
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_an_accident_counts_for_a_tenant_that_looks_a_day_later() {
    let (world, clock) = three_tenants_that_ask(&["a", "b", "c"]).await;
    for tenant in TENANTS {
        delete_branches(&world, tenant, 3);
    }
    clock.forward(TimeDelta::seconds(1));
    for tenant in ["two", "three", "two", "one"] {
        assert_eq!(look_at(&world, tenant).await.done, 0, "{tenant}");
        clock.forward(TimeDelta::hours(12));
    }
}

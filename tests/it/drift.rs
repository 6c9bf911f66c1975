//! Drift is a conversation in git: every way to open, decide and end one, on real repositories and real files.

use plumb::engine::Width;
use plumb::model::{
    Ask, ConditionStatus, ConditionType, EventKind, ExecutionOutcome, ProposalKind, ProposalStatus, Reason,
    ResourceStatus, Trigger,
};
use plumb::store::Scope;

use crate::answers_again::{TENANTS, look_at, three_tenants_that_ask};
use crate::harness::git::MergeHow;
use crate::harness::world::{World, held, number_in, run_sql};
use crate::waits::explain;

pub const ORDERS: &str = "checkout/staging/Database/orders";
pub const MANIFEST: &str = "environments/staging/orders.yaml";
pub const BRANCH: &str = "plumb/drift/staging/database-orders";
pub const VERSION: &str = "PRAGMA user_version";

/// A tenant with one database, in plumb.
pub async fn world_with(annotations: &str) -> World {
    let world = World::with_files().await;
    world.write_resource(
        "staging",
        "Database",
        "orders",
        annotations,
        "journalMode: wal  # fast\nuserVersion: 7  # schema",
    );
    world.tenant.commit("Add orders");
    let report = world.apply().await;
    assert_eq!(report.outcome, ExecutionOutcome::InSync, "{report:#?}");
    world
}

/// The same, with a change made by hand and proposed.
pub async fn world_with_proposal() -> World {
    let world = world_with("").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    let report = world.apply().await;
    assert_eq!(report.outcome, ExecutionOutcome::Blocked);
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    world
}

/// A person puts a commit of their own on the branch.
pub fn edit_on_the_branch(world: &World) {
    world.tenant.pull();
    world.tenant.checkout(BRANCH);
    let text = world.tenant.show(&format!("{BRANCH}:{MANIFEST}"));
    world.tenant.write(MANIFEST, text.replace("userVersion: 42", "userVersion: 41"));
    world.tenant.git(&["commit", "--all", "--message", "Let us meet halfway"]);
    world.tenant.git(&["push", "origin", &format!("HEAD:{BRANCH}")]);
    world.tenant.git(&["checkout", "main"]);
}

/// Everything is in plumb, with this version both in git and live, and the conversation is over.
async fn assert_agreed(world: &World, version: i64) {
    let report = world.apply().await;
    assert!(report.plan.is_in_sync(), "{:#?}", report.plan);
    assert_eq!(world.number("staging", "orders", VERSION).await, version);
    assert!(world.tenant.show(&format!("main:{MANIFEST}")).contains(&format!("userVersion: {version}")));
    assert!(world.proposal(ORDERS).await.is_none());
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()), "{:?}", world.tenant.branches());
}

/// What is said of the drift of the database.
async fn drifted(world: &World) -> (Reason, String) {
    let status = world.status(ORDERS).await.unwrap();
    let condition = status.condition(ConditionType::Drifted).unwrap();
    (condition.reason, condition.message.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_branch_holds_one_commit_that_changes_only_the_bytes_it_must() {
    let world = world_with_proposal().await;
    let before = world.tenant.show(&format!("main:{MANIFEST}"));
    let after = world.tenant.show(&format!("{BRANCH}:{MANIFEST}"));
    assert_eq!(after, before.replace("userVersion: 7 ", "userVersion: 42 "));
    assert_eq!(world.tenant.log(BRANCH).len(), world.tenant.log("main").len() + 1);
    assert_eq!(world.number("staging", "orders", VERSION).await, 42, "held, not overwritten");
    // Looking again changes nothing, on the branch or in the store.
    let tip = world.tenant.remote_head(BRANCH);
    world.apply().await;
    assert_eq!(world.tenant.remote_head(BRANCH), tip);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_forward_merge_accepts() {
    let world = world_with_proposal().await;
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    world.apply().await;
    assert_agreed(&world, 42).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_squash_with_the_branch_deleted_accepts() {
    let world = world_with_proposal().await;
    world.tenant.merge(BRANCH, MergeHow::Squash);
    world.tenant.delete_branch(BRANCH);
    let report = world.apply().await;
    assert_eq!(report.done, 0, "nothing is restored: {:#?}", report.plan);
    assert_agreed(&world, 42).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_squash_that_leaves_the_branch_accepts_too() {
    let world = world_with_proposal().await;
    world.tenant.merge(BRANCH, MergeHow::Squash);
    world.apply().await;
    assert_agreed(&world, 42).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_squash_that_was_edited_and_its_branch_deleted_in_one_look_applies_the_edit() {
    let world = world_with_proposal().await;
    world.tenant.pull();
    world.tenant.git(&["merge", "--squash", &format!("origin/{BRANCH}")]);
    world.write_database("staging", "orders", "journalMode: wal  # fast\nuserVersion: 43  # schema");
    world.tenant.commit("Take it, and one more");
    world.tenant.delete_branch(BRANCH);
    let report = world.apply().await;
    assert_eq!(report.done, 1, "{:#?}", report.plan);
    assert_agreed(&world, 43).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_squash_that_takes_a_part_gives_the_rest_back_to_git() {
    let world = world_with("").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42; PRAGMA journal_mode = delete").await;
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().fields.len(), 2);
    world.write_database("staging", "orders", "journalMode: delete\nuserVersion: 7");
    world.tenant.commit("The journal only");
    world.tenant.delete_branch(BRANCH);
    let report = world.apply().await;
    assert_eq!(report.done, 1, "{:#?}", report.plan);
    assert_agreed(&world, 7).await;
    let journal = "SELECT journal_mode = 'delete' FROM pragma_journal_mode";
    assert_eq!(world.number("staging", "orders", journal).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_merge_applies_the_edited_value() {
    let world = world_with_proposal().await;
    world.tenant.merge(BRANCH, MergeHow::MergeCommit);
    let text = world.tenant.show(&format!("main:{MANIFEST}"));
    world.tenant.write(MANIFEST, text.replace("userVersion: 42", "userVersion: 43"));
    world.tenant.commit("Take one more");
    world.apply().await;
    assert_agreed(&world, 43).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_branch_restores_the_value_of_git() {
    let world = world_with_proposal().await;
    world.tenant.delete_branch(BRANCH);
    let report = world.apply().await;
    assert_eq!(report.done, 1, "{:#?}", report.plan);
    assert_agreed(&world, 7).await;
    // The next drift to the same value is a new conversation, not the old answer.
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_by_deleting_counts_only_for_the_value_that_was_shown() {
    let world = world_with_proposal().await;
    world.tenant.delete_branch(BRANCH);
    world.by_hand("staging", "orders", "PRAGMA user_version = 99").await;
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 99, "nobody has seen 99 yet");
    let proposal = world.proposal(ORDERS).await.unwrap();
    assert_eq!(proposal.fields[0].live, Some(99.into()));
    assert!(world.tenant.show(&format!("{BRANCH}:{MANIFEST}")).contains("userVersion: 99"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_accepts_only_the_value_that_was_shown() {
    let world = world_with_proposal().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 44").await;
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    for look in 0..2 {
        let report = world.apply().await;
        assert_eq!((report.outcome, report.done), (ExecutionOutcome::Blocked, 0));
        assert_eq!(world.number("staging", "orders", VERSION).await, 44, "look {look}: nobody has seen 44 yet");
    }
    let field = &world.proposal(ORDERS).await.unwrap().fields[0];
    assert_eq!((&field.base, &field.git, &field.live), (&Some(7.into()), &Some(42.into()), &Some(44.into())));
    assert!(world.tenant.show(&format!("{BRANCH}:{MANIFEST}")).contains("userVersion: 44"));
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    assert_agreed(&world, 42).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_cannot_be_updated_says_so_and_accepts_nothing_else_when_it_is_merged() {
    let world = world_with_proposal().await;
    let decide = explain(&world, ORDERS).await.chain[0].help.clone().unwrap();
    assert!(decide.starts_with(&format!("Merge {BRANCH} to accept")), "{decide}");
    world.tenant.hook("pre-receive", "#!/bin/sh\nexit 1\n");
    world.by_hand("staging", "orders", "PRAGMA user_version = 44").await;
    world.apply().await;
    let decide = explain(&world, ORDERS).await.chain[0].help.clone().unwrap();
    assert!(decide.starts_with(&format!("{BRANCH} offers userVersion 42, which is not live any more")), "{decide}");
    world.tenant.hook("pre-receive", "#!/bin/sh\nexit 0\n");
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 44);
    world.tenant.merge(BRANCH, MergeHow::MergeCommit);
    world.apply().await;
    assert_agreed(&world, 44).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_close_ignore_leaves_the_difference_alone_until_it_changes() {
    let world = world_with_proposal().await;
    world.write_tenant("providers: [files]\nonClose: ignore");
    world.platform.commit("Ignore what is closed");
    world.tenant.delete_branch(BRANCH);
    let report = world.apply().await;
    assert_eq!((report.done, report.outcome), (0, ExecutionOutcome::InSync), "{:#?}", report.plan);
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    assert!(world.tenant.branches().iter().all(|branch| branch != BRANCH));
    assert_eq!(drifted(&world).await.0, Reason::DriftIgnored);
    let status = world.status(ORDERS).await.unwrap();
    assert_eq!(
        status.condition(ConditionType::Ready).unwrap().status,
        ConditionStatus::True,
        "nobody need do anything"
    );
    world.by_hand("staging", "orders", "PRAGMA user_version = 43").await;
    world.apply().await;
    assert!(world.tenant.branches().contains(&BRANCH.to_owned()), "a new difference is a new question");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_alone_stays_so_while_other_fields_drift() {
    let world = world_with_proposal().await;
    world.write_tenant("providers: [files]\nonClose: ignore");
    world.platform.commit("Ignore what is closed");
    world.tenant.delete_branch(BRANCH);
    assert_eq!(world.apply().await.outcome, ExecutionOutcome::InSync);
    let offered = async || -> Vec<String> {
        let known = world.proposal(ORDERS).await.unwrap();
        known.fields.iter().map(|field| field.path.to_string()).collect()
    };
    // Another field drifts: only that is asked about.
    world.by_hand("staging", "orders", "PRAGMA journal_mode = delete").await;
    for _ in 0..2 {
        world.apply().await;
        assert_eq!(offered().await, ["/spec/journalMode"]);
        assert!(world.tenant.show(&format!("{BRANCH}:{MANIFEST}")).contains("userVersion: 7"));
    }
    // It ends, and what was said before holds on.
    world.by_hand("staging", "orders", "PRAGMA journal_mode = wal").await;
    for _ in 0..2 {
        assert_eq!(world.apply().await.outcome, ExecutionOutcome::InSync);
        assert_eq!(offered().await, ["/spec/userVersion"]);
    }
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()));
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    // Both are left alone, until one changes again.
    world.by_hand("staging", "orders", "PRAGMA journal_mode = delete").await;
    world.apply().await;
    world.tenant.delete_branch(BRANCH);
    for _ in 0..2 {
        assert_eq!(world.apply().await.outcome, ExecutionOutcome::InSync);
    }
    world.by_hand("staging", "orders", "PRAGMA user_version = 43").await;
    world.apply().await;
    assert_eq!(offered().await, ["/spec/userVersion"]);
    assert!(world.tenant.show(&format!("{BRANCH}:{MANIFEST}")).contains("journalMode: wal"));
}

#[tokio::test(flavor = "multi_thread")]
async fn live_that_returns_by_itself_closes_the_proposal() {
    let world = world_with_proposal().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 7").await;
    world.apply().await;
    assert_agreed(&world, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_while_a_proposal_ends_is_no_decision() {
    let world = world_with_proposal().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 7").await;
    let remote = world.tenant.remote();
    world.on_event(move |event| {
        if matches!(event.kind, EventKind::ProposalDecided { .. }) {
            // The branch is gone, and whoever deleted it gets no further.
            let reference = format!("refs/heads/{BRANCH}");
            let deleted = std::process::Command::new("git")
                .arg("-C")
                .arg(&remote)
                .args(["update-ref", "-d", &reference])
                .status();
            assert!(deleted.unwrap().success());
            panic!("killed");
        }
    });
    assert!(world.try_apply().await.is_err());
    world.on_event(|_| {});
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()));
    // Somebody makes the same change again: nobody has said anything about it.
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 42, "held");
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    assert!(world.tenant.branches().contains(&BRANCH.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_drift_updates_the_branch_in_place() {
    let world = world_with_proposal().await;
    let first = world.tenant.remote_head(BRANCH);
    world.by_hand("staging", "orders", "PRAGMA user_version = 44").await;
    world.apply().await;
    assert_ne!(world.tenant.remote_head(BRANCH), first);
    assert_eq!(world.tenant.log(BRANCH).len(), world.tenant.log("main").len() + 1, "still one commit");
    assert!(world.tenant.show(&format!("{BRANCH}:{MANIFEST}")).contains("userVersion: 44"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_commit_on_the_branch_is_never_overwritten() {
    let world = world_with_proposal().await;
    edit_on_the_branch(&world);
    let tip = world.tenant.remote_head(BRANCH);
    world.by_hand("staging", "orders", "PRAGMA user_version = 45").await;
    world.apply().await;
    assert_eq!(world.tenant.remote_head(BRANCH), tip);
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::HandsOff);
    // Their merge decides.
    world.tenant.merge(BRANCH, MergeHow::MergeCommit);
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn git_that_sets_the_field_after_the_proposal_decides() {
    let world = world_with_proposal().await;
    world.write_database("staging", "orders", "journalMode: wal  # fast\nuserVersion: 8  # schema");
    world.tenant.commit("Set it again");
    world.apply().await;
    assert_agreed(&world, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_changed_at_once_is_held_and_shows_three_values() {
    let world = world_with("").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.write_database("staging", "orders", "journalMode: wal  # fast\nuserVersion: 8  # schema");
    world.tenant.commit("Expect 8");
    let report = world.apply().await;
    assert_eq!(report.done, 0);
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    let field = &world.proposal(ORDERS).await.unwrap().fields[0];
    assert_eq!((&field.base, &field.git, &field.live), (&Some(7.into()), &Some(8.into()), &Some(42.into())));
    let message = world.tenant.remote_git(&["log", "-1", "--format=%B", BRANCH]);
    assert!(message.contains("userVersion: git 8, live 42, before 7"), "{message}");
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    assert_agreed(&world, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_fields_keep_reconciling_while_one_is_held() {
    let world = world_with_proposal().await;
    world.write_database("staging", "orders", "journalMode: wal  # fast\nuserVersion: 7  # schema\nforeignKeys: true");
    world.tenant.commit("Enforce foreign keys");
    let report = world.apply().await;
    assert_eq!(report.done, 1, "{:#?}", report.plan);
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    assert_eq!(world.status(ORDERS).await.unwrap().live.get("/spec/foreignKeys"), Some(&true.into()));
    // The branch is made anew on the newer file, so that it merges cleanly.
    world.tenant.merge(BRANCH, MergeHow::MergeCommit);
    world.apply().await;
    assert_agreed(&world, 42).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revert_puts_back_at_once_and_says_so() {
    let world = world_with("plumb.dev/drift: revert").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.events();
    let report = world.apply().await;
    assert_eq!((report.done, report.outcome), (1, ExecutionOutcome::InSync));
    assert_eq!(world.number("staging", "orders", VERSION).await, 7);
    assert!(
        world
            .events()
            .iter()
            .any(|event| matches!(&event.kind, EventKind::DriftFound { reason: Reason::DriftReverted, .. }))
    );
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn observe_only_records() {
    let world = world_with("plumb.dev/drift: observe").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    let report = world.apply().await;
    assert_eq!((report.done, report.outcome), (0, ExecutionOutcome::InSync));
    assert_eq!(report.plan.drift.len(), 1);
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn ignored_fields_are_not_looked_at() {
    let world = world_with("plumb.dev/drift-ignore: /spec/userVersion").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    let report = world.apply().await;
    assert!(report.plan.is_in_sync(), "{:#?}", report.plan);
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_push_holds_the_field_and_says_why() {
    let world = world_with("").await;
    world.tenant.hook("pre-receive", "#!/bin/sh\necho 'no branches from robots' >&2\nexit 1\n");
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.events();
    world.apply().await;
    let failed = world.events().into_iter().find_map(|event| match event.kind {
        EventKind::ProposalFailed { message, .. } => Some(message),
        _ => None,
    });
    assert!(failed.is_some_and(|message| message.contains("no branches from robots")));
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    let (reason, message) = drifted(&world).await;
    assert_eq!(reason, Reason::ProposalFailed);
    assert!(message.contains("no branches from robots"), "{message}");
    // It is told once.
    world.apply().await;
    assert!(!world.events().iter().any(|event| matches!(event.kind, EventKind::ProposalFailed { .. })));
    // Once it is allowed, the next look pushes it.
    world.tenant.hook("pre-receive", "#!/bin/sh\nexit 0\n");
    world.apply().await;
    assert!(world.tenant.branches().contains(&BRANCH.to_owned()));
    assert_eq!(drifted(&world).await, (Reason::DriftProposed, "userVersion is 42, git says 7".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_is_refused_is_tried_again() {
    let world = world_with_proposal().await;
    let first = world.tenant.remote_head(BRANCH);
    world.tenant.hook("pre-receive", "#!/bin/sh\necho 'closed for today' >&2\nexit 1\n");
    world.by_hand("staging", "orders", "PRAGMA user_version = 44").await;
    world.apply().await;
    assert_eq!(world.tenant.remote_head(BRANCH), first);
    let known = world.proposal(ORDERS).await.unwrap();
    assert_eq!(known.fields[0].live, Some(42.into()), "what is out is what was offered");
    assert!(known.message.contains("closed for today"), "{}", known.message);
    assert_eq!(drifted(&world).await.0, Reason::ProposalFailed);
    world.apply().await;
    world.tenant.hook("pre-receive", "#!/bin/sh\nexit 0\n");
    world.apply().await;
    assert!(world.tenant.show(&format!("{BRANCH}:{MANIFEST}")).contains("userVersion: 44"));
    let known = world.proposal(ORDERS).await.unwrap();
    assert_eq!((&known.fields[0].live, known.message.as_str()), (&Some(44.into()), ""));
    assert_eq!(drifted(&world).await.0, Reason::DriftProposed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_update_is_forgotten_when_live_is_again_what_was_offered() {
    let world = world_with_proposal().await;
    world.tenant.hook("pre-receive", "#!/bin/sh\nexit 1\n");
    world.by_hand("staging", "orders", "PRAGMA user_version = 44").await;
    world.apply().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().message, "");
    assert_eq!(drifted(&world).await.0, Reason::DriftProposed);
}

/// A platform whose policy takes no version above 50.
async fn world_with_a_limit() -> World {
    let world = world_with("").await;
    world.platform.write(
        "policies/version.rego",
        "package plumb.version\n\nimport rego.v1\n\ndeny contains {\"msg\": \"versions end at 50\", \"path\": \
         \"/spec/userVersion\"} if input.resource.spec.userVersion > 50\n",
    );
    world.platform.commit("Limit versions");
    world.in_sync().await;
    world.events();
    world
}

fn warnings(world: &World) -> usize {
    let is_warning =
        |event: &plumb::model::Event| matches!(event.kind, EventKind::Warning { reason: Reason::NotExpressible, .. });
    world.events().iter().filter(|event| is_warning(event)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_policies_would_deny_is_recorded_and_told_once() {
    let world = world_with_a_limit().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 60").await;
    assert_eq!(world.apply().await.outcome, ExecutionOutcome::Blocked);
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()));
    assert_eq!(warnings(&world), 1);
    let (reason, message) = drifted(&world).await;
    assert_eq!(reason, Reason::NotExpressible);
    assert!(message.contains("userVersion is 60, git says 7") && message.contains("versions end at 50"), "{message}");
    world.apply().await;
    assert_eq!(warnings(&world), 0, "told already");
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    assert!(world.tenant.show(&format!("{BRANCH}:{MANIFEST}")).contains("userVersion: 42"));
    assert_eq!(drifted(&world).await.0, Reason::DriftProposed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_ends_when_what_is_live_can_be_proposed_no_more() {
    let world = world_with_a_limit().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    assert!(world.tenant.branches().contains(&BRANCH.to_owned()));
    world.by_hand("staging", "orders", "PRAGMA user_version = 60").await;
    world.apply().await;
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()), "it offers what is not live any more");
    assert!(world.proposal(ORDERS).await.is_none());
    assert_eq!(drifted(&world).await.0, Reason::NotExpressible);
    assert_eq!(world.number("staging", "orders", VERSION).await, 60, "held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_cannot_be_proposed_takes_no_other_with_it() {
    let world = world_with_a_limit().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 60; PRAGMA journal_mode = delete").await;
    world.apply().await;
    let offered = world.tenant.show(&format!("{BRANCH}:{MANIFEST}"));
    let before = world.tenant.show(&format!("main:{MANIFEST}"));
    assert_eq!(offered, before.replace("journalMode: wal ", "journalMode: delete "));
    let proposal = world.proposal(ORDERS).await.unwrap();
    assert_eq!(proposal.fields.iter().map(|field| field.path.as_str()).collect::<Vec<_>>(), ["/spec/journalMode"]);
    assert_eq!(proposal.left_out[0].field.live, Some(60.into()));
    let message = world.tenant.remote_git(&["log", "-1", "--format=%B", BRANCH]);
    assert!(message.contains("not offered here") && message.contains("userVersion: git 7, live 60"), "{message}");
    let (reason, message) = drifted(&world).await;
    assert_eq!(reason, Reason::DriftProposed);
    assert!(message.contains("not proposed: userVersion") && message.contains("versions end at 50"), "{message}");
    assert_eq!(warnings(&world), 1);
    // Looking again changes nothing and tells nothing.
    let tip = world.tenant.remote_head(BRANCH);
    world.apply().await;
    assert_eq!((world.tenant.remote_head(BRANCH), warnings(&world)), (tip, 0));
    // A decision is about what was offered, and about no more.
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    let journal = "SELECT journal_mode = 'wal' FROM pragma_journal_mode";
    assert_eq!(world.number("staging", "orders", journal).await, 1);
    assert_eq!(world.number("staging", "orders", VERSION).await, 60);
    world.apply().await;
    assert!(world.proposal(ORDERS).await.is_none());
    assert_eq!(drifted(&world).await.0, Reason::NotExpressible);
    // Once it can be said, it is.
    world.platform.remove("policies/version.rego");
    world.platform.commit("Any version");
    world.apply().await;
    assert!(world.tenant.show(&format!("{BRANCH}:{MANIFEST}")).contains("userVersion: 60"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_out_joins_the_proposal_when_it_can_be_said() {
    let world = world_with_a_limit().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 60; PRAGMA journal_mode = delete").await;
    world.apply().await;
    assert!(world.tenant.show(&format!("{BRANCH}:{MANIFEST}")).contains("userVersion: 7"));
    world.platform.remove("policies/version.rego");
    world.platform.commit("Any version");
    world.apply().await;
    let offered = world.tenant.show(&format!("{BRANCH}:{MANIFEST}"));
    assert!(offered.contains("userVersion: 60") && offered.contains("journalMode: delete"), "{offered}");
    assert!(world.proposal(ORDERS).await.unwrap().left_out.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_would_break_another_document_is_not_proposed() {
    let world = world_with("").await;
    world.write_database("staging", "reports", "dependsOn: [Database/orders]");
    world.tenant.commit("Add reports");
    world.in_sync().await;
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    world.apply().await;
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()));
    let (reason, message) = drifted(&world).await;
    assert_eq!(reason, Reason::DataMissing);
    assert!(message.contains("it would break checkout/staging/Database/reports"), "{message}");
    // The one that stands in the way goes, and the removal can be proposed.
    world.write_database("staging", "reports", "");
    world.tenant.commit("Stand alone");
    world.apply().await;
    assert!(world.tenant.branches().contains(&BRANCH.to_owned()));
}

/// Changes the annotations of the database while a proposal is open; gives how the conversation ended.
async fn end_by(annotations: &str) -> (World, String) {
    let world = world_with_proposal().await;
    world.events();
    world.write_resource(
        "staging",
        "Database",
        "orders",
        annotations,
        "journalMode: wal  # fast\nuserVersion: 7  # schema",
    );
    world.tenant.commit("Think again");
    world.apply().await;
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()));
    assert!(world.proposal(ORDERS).await.is_none());
    let ends = world.events().into_iter().filter_map(|event| match event.kind {
        EventKind::ProposalDecided { status: ProposalStatus::Closed, message, .. } => Some(message),
        _ => None,
    });
    let ends: Vec<String> = ends.collect();
    assert_eq!(ends.len(), 1, "{ends:?}");
    (world, ends.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_is_only_observed_from_now_on_ends_its_proposal() {
    let (world, why) = end_by("plumb.dev/drift: observe").await;
    assert_eq!(why, "drift of the resource is only observed now");
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    assert_eq!(drifted(&world).await.0, Reason::DriftObserved);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_is_put_back_from_now_on_ends_its_proposal() {
    let (world, why) = end_by("plumb.dev/drift: revert").await;
    assert_eq!(why, "drift of the resource is put back now");
    assert_agreed(&world, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_left_alone_from_now_on_ends_its_proposal() {
    let (world, why) = end_by("plumb.dev/drift-ignore: /spec/userVersion").await;
    assert_eq!(why, "plumb.dev/drift-ignore leaves the difference alone now");
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    assert!(world.apply().await.plan.is_in_sync());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_resource_keeps_its_proposal() {
    let world = world_with_proposal().await;
    let tip = world.tenant.remote_head(BRANCH);
    world.write_resource(
        "staging",
        "Database",
        "orders",
        "plumb.dev/suspend: \"true\"",
        "journalMode: wal  # fast\nuserVersion: 7  # schema",
    );
    world.tenant.commit("Wait");
    world.apply().await;
    assert_eq!(world.tenant.remote_head(BRANCH), tip);
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_commit_does_not_read_as_applied_where_live_changed_too() {
    let world = world_with("").await;
    let commit = |annotations: &str| {
        let spec = "journalMode: wal  # fast\nuserVersion: 8  # schema";
        world.write_resource("staging", "Database", "orders", annotations, spec);
        world.tenant.commit("Expect 8");
    };
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    commit("plumb.dev/suspend: \"true\"");
    let report = world.apply().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::Blocked, 0));
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::Suspended));
    assert!(world.proposal(ORDERS).await.is_none(), "nobody is asked while it is suspended");
    let explained = explain(&world, ORDERS).await;
    assert_eq!((explained.ready, explained.chain[0].reason), (ConditionStatus::False, Reason::Suspended));
    commit("");
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_is_refused_keeps_no_other_waiting() {
    let world = World::with_files().await;
    let names: Vec<String> = (0..8).map(|number| format!("db{number}")).collect();
    for name in &names {
        world.write_database("staging", name, "userVersion: 1");
    }
    world.tenant.commit("Add eight");
    world.in_sync().await;
    // The first six are refused for their names; that is more than one pass tries.
    world
        .tenant
        .hook("update", "#!/bin/sh\ncase $1 in */database-db[0-5]) echo 'not this one' >&2; exit 1;; esac\nexit 0\n");
    for name in &names {
        world.by_hand("staging", name, "PRAGMA user_version = 42").await;
    }
    world.apply().await;
    world.apply().await;
    let out: Vec<String> =
        world.tenant.branches().into_iter().filter(|branch| branch.starts_with("plumb/drift/")).collect();
    assert_eq!(out, ["plumb/drift/staging/database-db6", "plumb/drift/staging/database-db7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_ten_proposals_are_open_and_the_next_comes_when_one_is_decided() {
    let world = World::with_files().await;
    let names: Vec<String> = (0..11).map(|number| format!("db{number:02}")).collect();
    for name in &names {
        world.write_database("staging", name, "userVersion: 1");
    }
    world.tenant.commit("Add eleven");
    world.in_sync().await;
    for name in &names {
        world.by_hand("staging", name, "PRAGMA user_version = 42").await;
    }
    world.events();
    world.apply().await;
    let open = || world.tenant.branches().into_iter().filter(|branch| branch.starts_with("plumb/drift/")).count();
    assert_eq!(open(), 10);
    let waits =
        |event: &plumb::model::Event| matches!(event.kind, EventKind::Warning { reason: Reason::ProposalLimit, .. });
    assert_eq!(world.events().iter().filter(|event| waits(event)).count(), 1);
    let waiting = world.status("checkout/staging/Database/db10").await.unwrap();
    assert_eq!(waiting.condition(ConditionType::Drifted).unwrap().reason, Reason::ProposalLimit);
    world.apply().await;
    assert!(!world.events().iter().any(waits), "told once");
    world.tenant.merge("plumb/drift/staging/database-db00", MergeHow::FastForward);
    world.apply().await;
    assert_eq!(open(), 10);
    assert!(world.tenant.branches().contains(&"plumb/drift/staging/database-db10".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_ten_proposals_are_open_in_a_repository_whosever_they_are() {
    let (world, _clock) = three_tenants_that_ask(&["a", "b", "c", "d"]).await;
    let open = |tenant: &str| {
        let part = format!("plumb/drift/{tenant}/");
        world.tenant.branches().into_iter().filter(|branch| branch.starts_with(&part)).count()
    };
    let waits = async |tenant: &str| {
        let statuses = world.store().read(Scope::Tenant(tenant.to_owned())).await.unwrap().statuses().await.unwrap();
        let drifted = |status: &ResourceStatus| status.condition(ConditionType::Drifted).unwrap().clone();
        let waiting = statuses.values().map(drifted).filter(|drifted| drifted.reason == Reason::ProposalLimit);
        let told = "10 proposals are open in this repository; this one waits for one of them";
        waiting.inspect(|drifted| assert!(drifted.message.ends_with(told), "{}", drifted.message)).count()
    };
    // Each has asked in turn, and none about more than four; together they would be twelve.
    assert_eq!(TENANTS.map(open), [4, 4, 2]);
    for (tenant, waiting) in TENANTS.into_iter().zip([0, 0, 2]) {
        assert_eq!(waits(tenant).await, waiting, "{tenant}");
        look_at(&world, tenant).await;
    }
    assert_eq!(TENANTS.map(open), [4, 4, 2], "another look asks about no more");
    // Where one of a neighbour is decided, there is room for one.
    world.tenant.merge("plumb/drift/one/staging/database-a", MergeHow::FastForward);
    for tenant in TENANTS {
        look_at(&world, tenant).await;
    }
    assert_eq!((TENANTS.map(open), waits("three").await), ([3, 4, 3], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_stays_deleted_where_a_push_is_refused_in_the_same_look() {
    let world = world_with("").await;
    world.write_resource("staging", "Database", "old", "plumb.dev/deletion: delete", "");
    world.tenant.commit("Add another");
    world.in_sync().await;
    world.tenant.remove("environments/staging/old.yaml");
    world.tenant.commit("Remove it");
    world.tenant.hook("pre-receive", "#!/bin/sh\nexit 1\n");
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    assert_eq!(world.apply().await.done, 1);
    assert_eq!(drifted(&world).await.0, Reason::ProposalFailed);
    assert!(world.status("checkout/staging/Database/old").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_carried_out_yet_is_not_lost_to_a_new_question() {
    let world = world_with_proposal().await;
    world.tenant.delete_branch(BRANCH);
    world.write_platform("id: test-platform\nwindows: [{mode: deny, schedule: \"* * * * *\", duration: 1h}]");
    world.platform.commit("Nothing changes now");
    world.by_hand("staging", "orders", "PRAGMA journal_mode = delete").await;
    for _ in 0..2 {
        world.apply().await;
        let answered = world.proposal(ORDERS).await.unwrap();
        assert_eq!((answered.status, answered.fields.len()), (ProposalStatus::Restored, 1));
        assert!(drifted(&world).await.1.contains("what was decided on other fields comes first"));
    }
    world.write_platform("id: test-platform");
    world.platform.commit("Go on");
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 7, "the answer is carried out");
    world.apply().await;
    let next = world.proposal(ORDERS).await.unwrap();
    assert_eq!((next.status, next.fields[0].path.as_str()), (ProposalStatus::Open, "/spec/journalMode"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_moved_is_proposed_where_it_is_now() {
    let world = world_with_proposal().await;
    const MOVED: &str = "environments/staging/moved/orders.yaml";
    let text = world.tenant.show(&format!("main:{MANIFEST}"));
    world.tenant.remove(MANIFEST);
    world.tenant.write(MOVED, text);
    world.tenant.commit("Move it");
    world.apply().await;
    assert!(world.tenant.show(&format!("{BRANCH}:{MOVED}")).contains("userVersion: 42"));
    assert_eq!(world.tenant.touched(BRANCH), [MOVED]);
}

/// A tenant with as many databases, all with a proposal open, whose branches have just vanished. Gives their names.
async fn vanished(names: &[&str]) -> (World, Vec<String>) {
    let world = World::with_files().await;
    for name in names {
        world.write_database("staging", name, "userVersion: 1");
    }
    world.tenant.commit("Add them");
    world.apply().await;
    for name in names {
        world.by_hand("staging", name, "PRAGMA user_version = 5").await;
    }
    world.apply().await;
    let branches = drift_branches(&world);
    assert_eq!(branches.len(), names.len());
    for branch in &branches {
        world.tenant.delete_branch(branch);
    }
    (world, branches)
}

fn drift_branches(world: &World) -> Vec<String> {
    world.tenant.branches().into_iter().filter(|branch| branch.starts_with("plumb/drift/")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_more_than_three_branches_that_vanish_at_once_are_pushed_again() {
    let names = ["a", "b", "c", "d"];
    let (world, branches) = vanished(&names).await;
    world.events();
    let report = world.apply().await;
    assert_eq!(report.done, 0, "an accident restores nothing");
    assert_eq!(drift_branches(&world), branches);
    let failed = |event: &plumb::model::Event| matches!(event.kind, EventKind::ProposalFailed { .. });
    assert!(!world.events().iter().any(failed), "nothing was refused");
    for name in names {
        assert_eq!(world.number("staging", name, VERSION).await, 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_three_branches_that_vanish_at_once_are_three_decisions() {
    let names = ["a", "b", "c"];
    let (world, _) = vanished(&names).await;
    let report = world.apply().await;
    assert_eq!(report.done, 3, "{:#?}", report.plan);
    for name in names {
        assert_eq!(world.number("staging", name, VERSION).await, 1);
    }
    assert!(drift_branches(&world).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_branches_of_two_tenants_that_vanish_at_once_from_one_repository_are_pushed_again() {
    let world = World::with_files().await;
    let url = world.tenant.url();
    let tenant = |name: &str, path: &str| {
        format!(
            "apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec:\n  repository: {{url: \"{url}\", \
             path: {path}}}\n  environments: [staging]\n  providers: [files]\n"
        )
    };
    let both = format!("{}---\n{}", tenant(&world.name, "one"), tenant("other", "two"));
    world.platform.write("tenants.yaml", both);
    world.platform.commit("Two tenants of one repository");
    let names = ["a", "b", "c"];
    for (folder, name) in ["one", "two"].into_iter().flat_map(|folder| names.map(|name| (folder, name))) {
        let text = format!(
            "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: {name}\n  environment: staging\n  labels: {{owner: \
             team-checkout}}\nspec:\n  userVersion: 1\n"
        );
        world.tenant.write(&format!("{folder}/environments/staging/{name}.yaml"), text);
    }
    world.tenant.commit("Three each");
    let look = async |tenant: &str| {
        let ask = Ask { trigger: Trigger::CommandLine, width: Width::Deep };
        world.engine().reconcile(&world.in_force().await, tenant, ask).await.unwrap()
    };
    let version = async |tenant: &str, name: &str| {
        let file = world.databases().join(format!("{tenant}_staging_{name}.db"));
        number_in(&file, VERSION).await
    };
    for tenant in [&*world.name, "other"] {
        look(tenant).await;
        for name in names {
            run_sql(&world.databases().join(format!("{tenant}_staging_{name}.db")), "PRAGMA user_version = 5").await;
        }
        look(tenant).await;
    }
    let branches = drift_branches(&world);
    assert_eq!(branches.len(), 6);
    for branch in &branches {
        world.tenant.delete_branch(branch);
    }
    // Each has lost but three, and the first look pushes its own again.
    for tenant in [&*world.name, "other", &*world.name, "other"] {
        assert_eq!(look(tenant).await.done, 0, "{tenant}: an accident restores nothing");
        for name in names {
            assert_eq!(version(tenant, name).await, 5, "{tenant}");
        }
    }
    assert_eq!(drift_branches(&world), branches);
    // What goes after that was meant.
    for branch in branches.iter().filter(|branch| branch.contains("/other/")).take(2) {
        world.tenant.delete_branch(branch);
    }
    assert_eq!(look("other").await.done, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_a_branch_that_is_not_at_another_address_decides_nothing() {
    let world = world_with_proposal().await;
    let moved = world.data().join("moved.git");
    let copy = world.tenant.remote();
    world.tenant.git(&["clone", "--quiet", "--bare", copy.to_str().unwrap(), moved.to_str().unwrap()]);
    let at_moved = |args: &[&str]| world.tenant.git(&[&["-C", moved.to_str().unwrap()], args].concat());
    at_moved(&["branch", "--delete", "--force", BRANCH]);
    let spec = format!(
        "repository: {{url: \"file://{}\"}}\nenvironments: [staging, production]\nproviders: [files]",
        moved.display()
    );
    world.write_tenant_spec(&spec);
    world.platform.commit("Move the repository");
    let report = world.apply().await;
    assert_eq!(report.done, 0, "{:#?}", report.plan);
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    assert!(at_moved(&["show", &format!("{BRANCH}:{MANIFEST}")]).contains("userVersion: 42"), "pushed there");
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    // There it is decided.
    at_moved(&["branch", "--delete", "--force", BRANCH]);
    assert_eq!(world.apply().await.done, 1);
    assert_eq!(world.number("staging", "orders", VERSION).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_a_branch_that_vanishes_with_a_rewritten_history_decides_nothing() {
    let world = world_with_proposal().await;
    world.tenant.delete_branch(BRANCH);
    let text = world.tenant.show(&format!("main:{MANIFEST}"));
    world.tenant.git(&["checkout", "--orphan", "fresh"]);
    world.tenant.write(MANIFEST, text);
    world.tenant.git(&["add", "--all"]);
    world.tenant.git(&["commit", "--message", "A new beginning"]);
    world.tenant.git(&["push", "--force", "origin", "HEAD:main"]);
    let report = world.apply().await;
    assert_eq!(report.done, 0);
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    assert!(world.tenant.branches().contains(&BRANCH.to_owned()), "pushed again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_scan_finds_drift_too() {
    let world = world_with("").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    let report = world.look(Width::Shallow).await.unwrap();
    assert_eq!(report.plan.drift.len(), 1);
    assert!(world.tenant.branches().contains(&BRANCH.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_a_branch_that_is_called_otherwise_by_now_decides_nothing() {
    let world = world_with("").await;
    let text = world.tenant.show(&format!("main:{MANIFEST}"));
    world.tenant.write(MANIFEST, text.replace("  name: orders\n", "  name: orders\n  environment: staging\n"));
    world.tenant.commit("Say where it belongs");
    world.in_sync().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    world.read_from("path: environments");
    // Nothing is taken at first.
    world.tenant.hook("pre-receive", "#!/bin/sh\nexit 1\n");
    for _ in 0..3 {
        assert_eq!(world.apply().await.done, 0);
        assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    }
    world.tenant.hook("pre-receive", "#!/bin/sh\nexit 0\n");
    for _ in 0..2 {
        assert_eq!(world.apply().await.done, 0);
    }
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    assert_eq!(drift_branches(&world), ["plumb/drift/checkout/staging/database-orders"], "the old one is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_goes_with_the_question_is_no_answer() {
    let world = world_with_proposal().await;
    let text = world.tenant.show(&format!("main:{MANIFEST}"));
    let observed = text.replace("  name: orders\n", "  name: orders\n  annotations: {plumb.dev/drift: observe}\n");
    assert_ne!(observed, text);
    world.tenant.write(MANIFEST, observed);
    world.tenant.commit("Only observe");
    world.tenant.delete_branch(BRANCH);
    for _ in 0..2 {
        assert_eq!(world.apply().await.done, 0);
        assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    }
    assert!(world.proposal(ORDERS).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_is_gone_is_asked_about_whatever_was_decided_before() {
    let world = world_with_proposal().await;
    world.tenant.merge(BRANCH, MergeHow::MergeCommit);
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    for _ in 0..2 {
        world.apply().await;
    }
    let proposal = world.proposal(ORDERS).await.unwrap();
    assert_eq!((proposal.kind, proposal.status), (ProposalKind::Missing, ProposalStatus::Open), "{proposal:#?}");
    assert!(!world.tenant.remote_git(&["ls-tree", "-r", "--name-only", BRANCH]).contains(MANIFEST));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_whose_branch_could_not_be_deleted_ends_once_it_can() {
    let world = world_with("").await;
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Add another");
    world.in_sync().await;
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    world.apply().await;
    world.tenant.remote_git(&["config", "receive.denyDeletes", "true"]);
    world.tenant.merge(BRANCH, MergeHow::MergeCommit);
    world.apply().await;
    assert!(world.tenant.branches().contains(&BRANCH.to_owned()));
    world.tenant.remote_git(&["config", "receive.denyDeletes", "false"]);
    world.in_sync().await;
    assert!(world.proposal(ORDERS).await.is_none());
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_about_what_is_not_compared_any_more_stays() {
    let world = world_with_proposal().await;
    world.by_hand("staging", "orders", "DROP TABLE plumb_mark").await;
    for _ in 0..2 {
        assert_eq!(world.apply().await.done, 0);
        assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
        assert!(world.tenant.branches().contains(&BRANCH.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_was_edited_and_merged_hinders_no_later_question() {
    let world = world_with_proposal().await;
    edit_on_the_branch(&world);
    world.apply().await;
    world.tenant.merge(BRANCH, MergeHow::MergeCommit);
    world.apply().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 45").await;
    for _ in 0..2 {
        world.apply().await;
    }
    let proposal = world.proposal(ORDERS).await.unwrap();
    assert_eq!((proposal.status, proposal.failed), (ProposalStatus::Open, false), "{proposal:#?}");
    assert!(world.tenant.show(&format!("{BRANCH}:{MANIFEST}")).contains("userVersion: 45"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_state_shows_the_same_proposal_and_pushes_nothing() {
    let mut world = world_with_proposal().await;
    let tip = world.tenant.remote_head(BRANCH);
    for _ in 0..2 {
        world.lose_state().await;
        world.apply().await;
        assert_eq!(world.tenant.remote_head(BRANCH), tip);
        assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    }
}

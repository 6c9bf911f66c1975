//! What merges, reverts, rewritten histories and other branches do to a question that is open, and what they do not.

use plumb::model::{ApprovalKind, EventKind, ProposalKind, ProposalStatus, Reason};

use crate::drift::{BRANCH, MANIFEST, ORDERS, VERSION, edit_on_the_branch, world_with, world_with_proposal};
use crate::harness::git::MergeHow;
use crate::harness::world::{World, held, held_message, parse};

const REFUSE: &str = "#!/bin/sh\nexit 1\n";

/// Orders, with these annotations, beside another database.
pub async fn world_of_two(annotations: &str) -> World {
    let world = world_with(annotations).await;
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Add another");
    world.in_sync().await;
    world
}

/// Moves the file of orders away, asks about it, and gives where it is now.
pub async fn lose_orders(world: &World) -> std::path::PathBuf {
    let away = world.data().join("away.db");
    std::fs::rename(world.file("staging", "orders"), &away).unwrap();
    world.apply().await;
    let known = world.proposal(ORDERS).await.unwrap();
    assert_eq!((known.kind, known.status), (ProposalKind::Missing, ProposalStatus::Open));
    away
}

pub async fn is_not_made_again(world: &World) {
    for look in 0..3 {
        world.apply().await;
        assert!(!world.file("staging", "orders").exists(), "look {look}: made again empty");
    }
}

/// What a hand has set stays, since nobody has said otherwise.
async fn is_left_alone(world: &World) {
    for look in 0..3 {
        world.apply().await;
        assert_eq!(world.number("staging", "orders", VERSION).await, 42, "look {look}: nobody was asked");
    }
}

pub fn merge_and_revert(world: &World) {
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    world.tenant.git(&["revert", "--no-edit", "HEAD"]);
    world.tenant.git(&["push", "origin", "main"]);
}

/// A person makes the commit of the question their own.
pub fn amend_on_the_branch(world: &World) {
    world.tenant.pull();
    world.tenant.checkout(BRANCH);
    world.tenant.git(&["commit", "--amend", "--no-edit", "--author", "Ada <ada@example.com>"]);
    world.tenant.git(&["push", "--force", "origin", &format!("HEAD:{BRANCH}")]);
    world.tenant.git(&["checkout", "main"]);
}

/// A person's commit beside the question: it touches another file.
pub fn note_on_the_branch(world: &World) {
    world.tenant.pull();
    world.tenant.checkout(BRANCH);
    world.tenant.write("notes.txt", "Who has done this?");
    world.tenant.git(&["add", "--all"]);
    world.tenant.git(&["commit", "--message", "Ask around"]);
    world.tenant.git(&["push", "origin", &format!("HEAD:{BRANCH}")]);
    world.tenant.git(&["checkout", "main"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_merged_removal_does_not_delete_a_database_that_came_back() {
    let world = world_of_two("plumb.dev/deletion: delete").await;
    let away = lose_orders(&world).await;
    std::fs::rename(&away, world.file("staging", "orders")).unwrap();
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    let mut plan = None;
    for look in 0..3 {
        let report = world.apply().await;
        assert!(world.file("staging", "orders").exists(), "look {look}: nobody wanted data deleted");
        assert_eq!(held(&report.plan, ORDERS), Some(Reason::DeletionsHeld));
        let message = held_message(&report.plan, ORDERS);
        assert!(message.contains("there again"), "{message}");
        plan = Some(report.plan.id);
    }
    // That is a person's to say.
    world.approve(ApprovalKind::Deletes, &plan.unwrap());
    world.apply().await;
    assert!(!world.file("staging", "orders").exists());
    world.in_sync().await;
    assert!(world.proposal(ORDERS).await.is_none());
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_came_back_after_its_removal_was_merged_is_kept_with_its_document() {
    let world = world_of_two("plumb.dev/deletion: delete").await;
    let away = lose_orders(&world).await;
    std::fs::rename(&away, world.file("staging", "orders")).unwrap();
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    world.apply().await;
    world.tenant.git(&["revert", "--no-edit", "HEAD"]);
    world.tenant.git(&["push", "origin", "main"]);
    world.in_sync().await;
    assert!(world.file("staging", "orders").exists());
    assert!(world.proposal(ORDERS).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_document_that_was_removed_while_its_object_was_gone_does_not_delete_it_when_it_came_back() {
    let world = world_of_two("plumb.dev/deletion: delete").await;
    let away = lose_orders(&world).await;
    // It stays in git, and is not asked about again.
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Restored);
    std::fs::rename(&away, world.file("staging", "orders")).unwrap();
    world.tenant.remove(MANIFEST);
    world.tenant.commit("Let go of it then");
    for look in 0..2 {
        let report = world.apply().await;
        assert!(world.file("staging", "orders").exists(), "look {look}");
        assert_eq!(held(&report.plan, ORDERS), Some(Reason::DeletionsHeld));
    }
}

/// Orders are gone, and only the question knows that they were there.
async fn gone_and_forgotten() -> World {
    let mut world = world_of_two("").await;
    lose_orders(&world).await;
    world.lose_state().await;
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().kind, ProposalKind::Missing);
    assert!(world.inventory().await.get(&parse(ORDERS)).is_none());
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_removal_that_was_merged_and_reverted_does_not_make_lost_data_again() {
    let world = gone_and_forgotten().await;
    merge_and_revert(&world);
    is_not_made_again(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_removal_that_was_merged_and_reverted_before_the_state_was_lost_does_not_make_lost_data_again() {
    let mut world = gone_and_forgotten().await;
    merge_and_revert(&world);
    world.lose_state().await;
    is_not_made_again(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_question_with_a_persons_commit_on_it_remembers_that_there_was_data() {
    let mut world = world_of_two("").await;
    lose_orders(&world).await;
    note_on_the_branch(&world);
    let tip = world.tenant.remote_head(BRANCH);
    world.lose_state().await;
    is_not_made_again(&world).await;
    assert_eq!(world.tenant.remote_head(BRANCH), tip, "it is a person's");
    assert_eq!(held(&world.plan().await.plan, ORDERS), Some(Reason::DataMissing));
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_question_that_a_person_amended_remembers_that_there_was_data() {
    let mut world = world_of_two("").await;
    lose_orders(&world).await;
    amend_on_the_branch(&world);
    world.lose_state().await;
    is_not_made_again(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_branch_of_another_platform_says_nothing_of_what_was_there() {
    let world = world_of_two("").await;
    world.tenant.checkout("main");
    world.tenant.git(&["checkout", "-b", "question"]);
    world.tenant.write("notes.txt", "theirs");
    world.tenant.git(&["add", "--all"]);
    let message = "Remove it\n\nPlumb-Key: checkout/staging/Database/fresh\nPlumb-Platform: another\n";
    world.tenant.git(&["commit", "--message", message]);
    world.tenant.git(&["push", "origin", "HEAD:plumb/drift/staging/database-fresh"]);
    world.tenant.git(&["checkout", "main"]);
    world.write_database("staging", "fresh", "userVersion: 1");
    world.tenant.commit("Add one");
    world.in_sync().await;
    assert!(world.file("staging", "fresh").exists());
}

/// Orders want 9, and 7 is an older commit, which is given; 42 is live, and a question.
pub async fn asked_about_nine() -> (World, String) {
    let world = world_with("").await;
    let old = world.tenant.head();
    world.write_database("staging", "orders", "journalMode: wal\nuserVersion: 9");
    world.tenant.commit("Nine");
    world.in_sync().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    (world, old)
}

pub fn rewrite_to(world: &World, commit: &str) {
    world.tenant.git(&["push", "--force", "origin", &format!("{commit}:main")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_rewritten_history_answers_no_question_that_cannot_be_brought_up_to_date() {
    let (world, old) = asked_about_nine().await;
    world.tenant.hook("pre-receive", REFUSE);
    world.tenant.remote_git(&["update-ref", "refs/heads/main", &old]);
    is_left_alone(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_rewritten_history_answers_no_question_that_a_person_works_on() {
    let (world, old) = asked_about_nine().await;
    note_on_the_branch(&world);
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::HandsOff);
    rewrite_to(&world, &old);
    is_left_alone(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_history_that_is_put_right_again_answers_nothing() {
    let (world, old) = asked_about_nine().await;
    let new = world.tenant.head();
    for _ in 0..2 {
        rewrite_to(&world, &old);
        is_left_alone(&world).await;
        rewrite_to(&world, &new);
        is_left_alone(&world).await;
    }
    // What comes after it answers as ever.
    world.write_database("staging", "orders", "journalMode: wal\nuserVersion: 8");
    world.tenant.commit("Eight");
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_history_that_is_put_right_with_more_on_it_answers_nothing() {
    let (world, old) = asked_about_nine().await;
    rewrite_to(&world, &old);
    world.apply().await;
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.git(&["add", "--all"]);
    world.tenant.git(&["commit", "--message", "Something else"]);
    world.tenant.git(&["push", "--force", "origin", "HEAD:main"]);
    is_left_alone(&world).await;
    assert!(world.file("staging", "other").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_history_that_is_put_right_again_leaves_alone_what_was_left_alone() {
    let (world, old) = asked_about_nine().await;
    let new = world.tenant.head();
    world.write_tenant("providers: [files]\nonClose: ignore");
    world.platform.commit("Ignore what is closed");
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    rewrite_to(&world, &old);
    is_left_alone(&world).await;
    rewrite_to(&world, &new);
    is_left_alone(&world).await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Ignored);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_another_history_has_too_is_carried_out() {
    let world = world_with_proposal().await;
    world.write_platform("id: test-platform\nwindows: [{mode: deny, schedule: \"* * * * *\", duration: 1h}]");
    world.platform.commit("Nothing changes now");
    edit_on_the_branch(&world);
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    world.apply().await;
    world.tenant.pull();
    world.tenant.git(&["commit", "--amend", "--no-edit", "--date", "2001-01-01T00:00:00"]);
    world.tenant.push_force();
    world.write_platform("id: test-platform");
    world.platform.commit("Go on");
    for _ in 0..2 {
        world.apply().await;
    }
    assert_eq!(world.number("staging", "orders", VERSION).await, 41);
}

/// Another branch wants 9 of orders; 42 is live, and a question.
pub async fn world_with_another_branch() -> World {
    let world = world_with("").await;
    world.tenant.git(&["checkout", "-b", "release"]);
    world.write_database("staging", "orders", "journalMode: wal\nuserVersion: 9");
    world.tenant.commit("Nine");
    world.tenant.git(&["checkout", "main"]);
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_another_branch_answers_no_question_that_a_person_works_on() {
    let world = world_with_another_branch().await;
    edit_on_the_branch(&world);
    world.apply().await;
    world.read_from("branch: release");
    is_left_alone(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_question_whose_branch_goes_with_the_branch_that_is_read_is_not_answered() {
    let world = world_with_proposal().await;
    world.tenant.git(&["checkout", "-b", "release"]);
    world.tenant.git(&["push", "origin", "release"]);
    world.read_from("branch: release");
    world.tenant.delete_branch(BRANCH);
    is_left_alone(&world).await;
    assert!(world.tenant.branches().contains(&BRANCH.to_owned()), "asked again");
    // There it is answered as anywhere.
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_branch_in_which_the_proposal_was_merged_and_taken_back_answers_nothing() {
    let world = world_with_proposal().await;
    world.tenant.git(&["checkout", "-b", "release"]);
    world.tenant.git(&["fetch", "origin"]);
    world.tenant.git(&["merge", "--ff-only", &format!("origin/{BRANCH}")]);
    world.tenant.git(&["revert", "--no-edit", "HEAD"]);
    world.tenant.git(&["push", "origin", "release"]);
    world.read_from("branch: release");
    is_left_alone(&world).await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_rewritten_history_leaves_alone_what_was_left_alone() {
    let (world, old) = asked_about_nine().await;
    world.write_tenant("providers: [files]\nonClose: ignore");
    world.platform.commit("Ignore what is closed");
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Ignored);
    rewrite_to(&world, &old);
    is_left_alone(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_history_that_takes_an_answer_back_does_not_put_gits_value_back() {
    let world = world_with_proposal().await;
    let old = world.tenant.head();
    world.write_platform("id: test-platform\nwindows: [{mode: deny, schedule: \"* * * * *\", duration: 1h}]");
    world.platform.commit("Nothing changes now");
    // Merged with another value, which cannot be applied yet.
    edit_on_the_branch(&world);
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    world.apply().await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Accepted);
    rewrite_to(&world, &old);
    world.write_platform("id: test-platform");
    world.platform.commit("Go on");
    is_left_alone(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_document_that_another_history_breaks_answers_nothing_when_it_is_mended() {
    let (world, old) = asked_about_nine().await;
    note_on_the_branch(&world);
    world.apply().await;
    world.tenant.git(&["reset", "--hard", &old]);
    let text = world.tenant.show(&format!("{old}:{MANIFEST}"));
    world.tenant.write(MANIFEST, text.replace("  journalMode", "  nonsense: 1\n  journalMode"));
    world.tenant.git(&["commit", "--all", "--message", "Break it"]);
    world.tenant.git(&["push", "--force", "origin", "HEAD:main"]);
    is_left_alone(&world).await;
    world.tenant.write(MANIFEST, text);
    world.tenant.commit("Mend it");
    is_left_alone(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_after_a_rewritten_history_decides_while_deletions_are_held() {
    let (world, old) = asked_about_nine().await;
    world.write_resource("staging", "Database", "held", "plumb.dev/deletion: delete", "userVersion: 1");
    world.tenant.commit("One that the old history does not have");
    world.apply().await;
    world.tenant.git(&["reset", "--hard", &old]);
    rewrite_to(&world, &old);
    is_left_alone(&world).await;
    let name = ORDERS.replace("orders", "held");
    assert_eq!(held(&world.apply().await.plan, &name), Some(Reason::HistoryRewritten));
    // Git sets the field after the question: git decides.
    world.write_database("staging", "orders", "journalMode: wal\nuserVersion: 8");
    world.tenant.commit("Eight");
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_a_branch_that_was_put_on_a_commit_of_main_is_no_answer() {
    let world = world_with_proposal().await;
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Something else");
    world.tenant.git(&["push", "--force", "origin", &format!("main:{BRANCH}")]);
    is_left_alone(&world).await;
    // It is asked again, and says why.
    let main = world.tenant.remote_head("main");
    assert_ne!(world.tenant.remote_head(BRANCH), main);
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    let tells = |kind: &EventKind| matches!(kind, EventKind::Warning { message, .. } if message.contains("no answer"));
    assert!(world.events().iter().any(|event| tells(&event.kind)), "{:#?}", world.events());
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 7, "that is one");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_amended_proposal_that_is_merged_answers_all_of_it() {
    let world = world_with("").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42; PRAGMA journal_mode = delete").await;
    world.apply().await;
    world.tenant.pull();
    world.tenant.checkout(BRANCH);
    // Only the journal is taken over.
    let text = world.tenant.show(&format!("{BRANCH}:{MANIFEST}"));
    world.tenant.write(MANIFEST, text.replace("userVersion: 42", "userVersion: 7"));
    world.tenant.git(&["commit", "--all", "--amend", "--no-edit"]);
    world.tenant.git(&["push", "--force", "origin", &format!("HEAD:{BRANCH}")]);
    world.tenant.git(&["checkout", "main"]);
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    world.apply().await;
    assert_eq!(world.number("staging", "orders", VERSION).await, 7);
    let journal = "SELECT journal_mode = 'delete' FROM pragma_journal_mode";
    assert_eq!(world.number("staging", "orders", journal).await, 1);
    world.in_sync().await;
    assert!(world.proposal(ORDERS).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_another_path_does_not_end_the_only_memory_of_lost_data() {
    let world = gone_and_forgotten().await;
    // A folder in which the document is not, or not yet.
    world.tenant.write("later/README.md", "Documents come here");
    world
        .tenant
        .write("later/environments/staging/other.yaml", world.tenant.show("main:environments/staging/other.yaml"));
    world.tenant.commit("Make room");
    world.read_from("path: later");
    for _ in 0..2 {
        world.apply().await;
    }
    world.read_from("path: .");
    is_not_made_again(&world).await;
    assert_eq!(world.proposal(ORDERS).await.unwrap().kind, ProposalKind::Missing);
}

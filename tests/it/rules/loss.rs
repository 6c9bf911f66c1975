//! R4: the state database can go at any time. R8: data that is gone is not made again empty.

use std::os::unix::fs::MetadataExt;

use plumb::engine::Width;
use plumb::engine::view::OrphanKind;
use plumb::model::{
    ApprovalKind, ConditionType, EventKind, ExecutionOutcome, PlanScope, ProposalKind, ProposalStatus, Reason,
};
use sqlx::Row;

use super::renames::other;
use super::{DELETE, VERSION, live, remove, world_with};
use crate::harness::git::MergeHow;
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{FILES, World, held, held_message, parse, unseen};

const ORDERS: &str = "checkout/staging/Database/orders";
const MANIFEST: &str = "environments/staging/orders.yaml";
const BRANCH: &str = "plumb/drift/staging/database-orders";

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_lost_inventory_is_rebuilt_and_nothing_is_done() {
    let mut world = world_with(&["orders", "payments", "carts"], "").await;
    let before = world.inventory().await;
    let inode = |world: &World| std::fs::metadata(world.file("staging", "orders")).unwrap().ino();
    let file = inode(&world);
    world.lose_state().await;
    world.events();
    assert_eq!(world.in_sync().await, 0);
    let recovered =
        world.events().iter().filter(|e| matches!(e.kind, EventKind::Recorded { reason: Reason::Recovered })).count();
    assert_eq!(recovered, 3);
    assert_eq!(inode(&world), file);
    let after = world.inventory().await;
    for (key, record) in &before.records {
        let rebuilt = &after.records[key];
        assert_eq!((&rebuilt.applied, &rebuilt.readback), (&record.applied, &record.readback));
        assert_eq!((&rebuilt.object, &rebuilt.identity), (&record.object, &record.identity));
    }
    assert_eq!(world.in_sync().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_live_that_changed_before_the_loss_is_held_and_proposed_and_never_overwritten() {
    let mut world = world_with(&["orders"], "").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.lose_state().await;
    for _ in 0..2 {
        let report = world.apply().await;
        assert_eq!((report.outcome, report.done), (ExecutionOutcome::Blocked, 0), "{:#?}", report.plan);
        assert_eq!(world.number("staging", "orders", VERSION).await, 42);
        assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    }
    world.tenant.delete_branch(BRANCH);
    assert_eq!(world.in_sync().await, 1, "a person said to put it back");
    assert_eq!(world.number("staging", "orders", VERSION).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_git_that_changed_before_the_loss_is_applied() {
    let mut world = world_with(&["orders"], "").await;
    world.write_database("staging", "orders", "userVersion: 2");
    world.tenant.commit("Want version 2");
    world.lose_state().await;
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(world.number("staging", "orders", VERSION).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_where_both_changed_before_the_loss_a_person_is_asked_even_with_revert() {
    let mut world = world_with(&["orders"], "plumb.dev/drift: revert").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    let text =
        world.tenant.show(&format!("main:{MANIFEST}")).replace("userVersion: 1", "userVersion: 1\n  foreignKeys: true");
    world.tenant.write(MANIFEST, text);
    world.tenant.commit("A field that the mark knows nothing of");
    world.lose_state().await;
    let report = world.apply().await;
    // Nobody knows whether false was somebody's wish, and git sets it anew: that is held. What only live changed is
    // known from the mark, and goes back as the document says.
    let held: Vec<&str> = report
        .plan
        .drift
        .iter()
        .filter(|drift| drift.fields.iter().any(|field| field.conflict))
        .flat_map(|drift| drift.fields.iter().map(|field| field.path.as_str()))
        .collect();
    assert_eq!(held, ["/spec/foreignKeys"], "{:#?}", report.plan);
    assert_eq!(world.number("staging", "orders", VERSION).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_proposal_that_is_out_when_the_state_is_lost_goes_on_on_its_branch() {
    let mut world = world_with(&["orders"], "").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    world.lose_state().await;
    world.apply().await;
    let drift: Vec<String> = world.tenant.branches().into_iter().filter(|branch| branch != "main").collect();
    assert_eq!(drift, [BRANCH]);
    assert_eq!(world.tenant.log(BRANCH).len(), world.tenant.log("main").len() + 1);
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
    world.tenant.merge(BRANCH, MergeHow::Squash);
    assert_eq!(world.in_sync().await, 0);
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_proposals_whose_drift_is_gone_close_after_a_loss_and_make_room() {
    let names: Vec<String> = (0..11).map(|number| format!("db{number:02}")).collect();
    let mut world = world_with(&names.iter().map(String::as_str).collect::<Vec<_>>(), "").await;
    let (last, ten) = names.split_last().unwrap();
    for name in ten {
        world.by_hand("staging", name, "PRAGMA user_version = 42").await;
    }
    world.apply().await;
    let drift = |world: &World| -> Vec<String> {
        world.tenant.branches().into_iter().filter(|branch| branch != "main").collect()
    };
    assert_eq!(drift(&world).len(), 10);
    // A person's branch, and one of another platform's for a resource that is in plumb.
    for (name, message) in [
        ("database-by-hand", "Not Plumb's"),
        ("database-db10", "Other\n\nPlumb-Key: checkout/staging/Database/db10\nPlumb-Platform: another"),
    ] {
        let branch = format!("plumb/drift/staging/{name}");
        world.tenant.remote_git(&["branch", &branch, "main"]);
        let commit = world.tenant.remote_git(&[
            "-c",
            "user.name=Plumb",
            "-c",
            "user.email=plumb@plumb.invalid",
            "commit-tree",
            "main^{tree}",
            "-p",
            "main",
            "-m",
            message,
        ]);
        world.tenant.remote_git(&["update-ref", &format!("refs/heads/{branch}"), commit.trim()]);
    }
    for name in ten {
        world.by_hand("staging", name, "PRAGMA user_version = 1").await;
    }
    world.by_hand("staging", last, "PRAGMA journal_mode = delete").await;
    world.lose_state().await;
    world.events();
    let report = world.apply().await;
    assert_eq!(report.done, 0, "{:#?}", report.plan);
    let decided = |event: &plumb::model::Event| {
        matches!(&event.kind, EventKind::ProposalDecided { status: ProposalStatus::Closed, .. })
    };
    assert_eq!(world.events().iter().filter(|event| decided(event)).count(), 10);
    assert_eq!(drift(&world), ["plumb/drift/staging/database-by-hand", "plumb/drift/staging/database-db10"]);
    for _ in 0..2 {
        world.apply().await;
        assert_eq!(world.events().iter().filter(|event| decided(event)).count(), 0, "told once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_what_was_gone_before_the_loss_is_not_made_again_while_its_proposal_is_out() {
    let mut world = world_with(&["orders"], "").await;
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    world.apply().await;
    world.lose_state().await;
    assert_eq!(held(&world.plan().await.plan, ORDERS), Some(Reason::DataMissing));
    for _ in 0..2 {
        let report = world.apply().await;
        assert_eq!((report.done, held(&report.plan, ORDERS)), (0, Some(Reason::DataMissing)), "{:#?}", report.plan);
        assert!(!world.file("staging", "orders").exists());
    }
    assert_eq!(world.proposal(ORDERS).await.unwrap().kind, ProposalKind::Missing);
    world.tenant.merge(BRANCH, MergeHow::MergeCommit);
    assert_eq!(world.in_sync().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_document_removed_before_the_loss_is_an_orphan_until_its_deletion_is_approved() {
    let mut world = world_with(&["orders", "payments"], DELETE).await;
    remove(&world, &["orders"]);
    world.tenant.commit("Remove orders");
    world.lose_state().await;
    for _ in 0..2 {
        let report = world.apply().await;
        assert_eq!(held(&report.plan, ORDERS), Some(Reason::Orphaned));
        assert_eq!(report.done, 0);
    }
    let orphans = world.orphans().await;
    assert_eq!(orphans.len(), 1);
    assert_eq!((orphans[0].key.to_string().as_str(), orphans[0].kind), (ORDERS, OrphanKind::Orphaned));
    assert!(world.file("staging", "orders").exists());

    let plan = world.plan().await.plan;
    assert!(held_message(&plan, ORDERS).contains(&format!("Plumb-Approve-Deletes: {}", plan.id)));
    world.approve(ApprovalKind::Deletes, &plan.id);
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(live(&world, &["orders", "payments"]), ["payments"]);
    assert!(world.orphans().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_an_orphan_is_managed_again_when_its_document_comes_back() {
    let mut world = world_with(&["orders", "payments"], "").await;
    remove(&world, &["orders"]);
    world.tenant.commit("Remove orders");
    world.lose_state().await;
    world.apply().await;
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Bring it back");
    assert_eq!(world.in_sync().await, 0);
    assert!(world.orphans().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_live_file_that_is_gone_is_proposed_to_be_let_go_of_and_not_made_again() {
    let world = world_with(&["orders", "payments"], "").await;
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    let report = world.apply().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::Blocked, 0));
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::DataMissing));
    assert!(held_message(&report.plan, ORDERS).contains(&format!("Plumb-Approve-Create: {}", report.plan.id)));
    let ready = world.status(ORDERS).await.unwrap();
    assert_eq!(ready.condition(ConditionType::Ready).unwrap().reason, Reason::DataMissing);
    let proposal = world.proposal(ORDERS).await.unwrap();
    assert_eq!((proposal.kind, proposal.status), (ProposalKind::Missing, ProposalStatus::Open));
    let removed = world.tenant.remote_git(&["ls-tree", "-r", "--name-only", BRANCH]);
    assert!(!removed.contains(MANIFEST), "{removed}");

    // Merging it lets go of the record.
    world.tenant.merge(BRANCH, MergeHow::MergeCommit);
    assert_eq!(world.in_sync().await, 0);
    assert!(!world.inventory().await.records.contains_key(&parse(ORDERS)));
    assert!(!world.file("staging", "orders").exists());
    // The same document later is a new database.
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Start over");
    assert_eq!(world.in_sync().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_recreation_needs_the_trailer_and_an_old_one_does_not_serve_twice() {
    let world = world_with(&["orders", "payments"], "").await;
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    let plan = world.apply().await.plan.id;
    // Closing the proposal does not recreate either, and nothing is proposed again.
    world.tenant.delete_branch(BRANCH);
    let report = world.apply().await;
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::DataMissing));
    world.apply().await;
    assert!(!world.tenant.branches().contains(&BRANCH.to_owned()));
    assert!(!world.file("staging", "orders").exists());
    world.approve(ApprovalKind::Deletes, &plan);
    assert_eq!(held(&world.apply().await.plan, ORDERS), Some(Reason::DataMissing), "not that kind of approval");
    world.approve(ApprovalKind::Create, &plan);
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(world.number("staging", "orders", VERSION).await, 1);
    assert!(world.proposal(ORDERS).await.is_none());

    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    let report = world.apply().await;
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::DataMissing));
    assert!(!world.file("staging", "orders").exists());
    assert_eq!(world.proposal(ORDERS).await.unwrap().status, ProposalStatus::Open);
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_document_among_others_in_its_file_is_removed_alone() {
    let world = World::with_files().await;
    let document = |name: &str| {
        format!(
            "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {{name: {name}, labels: {{owner: team}}}}\nspec: \
             {{userVersion: 1}}  # {name}\n"
        )
    };
    let file = "environments/staging/all.yaml";
    world.tenant.write(file, format!("{}---\n{}---\n{}", document("a"), document("orders"), document("z")));
    world.tenant.commit("Add three");
    world.in_sync().await;
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    world.apply().await;
    world.tenant.merge(BRANCH, MergeHow::FastForward);
    assert_eq!(world.tenant.show(&format!("main:{file}")), format!("{}---\n{}", document("a"), document("z")));
    world.in_sync().await;
    assert_eq!(live(&world, &["a", "orders", "z"]), ["a", "z"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_a_dropped_postgres_database_is_not_made_again_even_after_a_loss_of_the_state() {
    let server = PostgresServer::shared();
    let mut world = World::with_postgres(server).await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    world.write_database("staging", "orders", "roles:\n  - {name: app, access: readwrite}");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    server.psql(&format!("DROP DATABASE {name}")).await;
    world.lose_state().await;
    let report = world.apply().await;
    assert_eq!(held(&report.plan, &key), Some(Reason::DataMissing), "{:#?}", report.plan);
    assert_eq!(report.done, 0);
    let exists = format!("SELECT 1 FROM pg_database WHERE datname = '{name}'");
    assert!(server.query("postgres", &exists).await.is_empty());
    world.approve(ApprovalKind::Create, &report.plan.id);
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(server.query("postgres", &exists).await.len(), 1);
    let roles = format!("SELECT count(*) FROM pg_roles WHERE rolname LIKE '{name}%'");
    assert_eq!(server.query("postgres", &roles).await[0].get::<i64, _>(0), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn r8_an_approval_that_a_narrow_look_uses_does_not_serve_twice() {
    let world = world_with(&["orders", "payments"], "").await;
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    let plan = world.apply().await.plan.id;
    world.approve(ApprovalKind::Create, &plan);
    let report = world.look(Width::Changed).await.unwrap();
    assert_eq!((report.done, report.plan.scope), (1, PlanScope::Keys([parse(ORDERS)].into())));
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    let report = world.apply().await;
    assert_eq!((report.done, held(&report.plan, ORDERS)), (0, Some(Reason::DataMissing)), "{:#?}", report.plan);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_after_a_loss_nothing_is_made_anew_while_the_server_that_may_have_it_is_silent() {
    let server = PostgresServer::start();
    let mut world = World::with_postgres(&server).await;
    let orders = world.key("staging/Database/orders");
    world.write_database("staging", "orders", "provider: pg\nconnectionLimit: 20");
    world.write_database("staging", "other", "provider: files\nuserVersion: 1");
    world.tenant.commit("Add two");
    world.in_sync().await;
    server.stop();
    world.lose_state().await;
    // Nothing was moved yet when the first look met the silence.
    world.apply().await;
    world.write_database("staging", "orders", "provider: files\nuserVersion: 1");
    world.tenant.commit("Move orders");
    for look in 0..2 {
        let report = world.apply().await;
        assert_eq!(unseen(&report.plan, &orders), Some(Reason::NotObserved), "look {look}: {:#?}", report.plan);
        assert!(!world.file("staging", "orders").exists(), "look {look}");
        world.restart().await;
    }
    server.restart();
    let report = world.apply().await;
    assert_eq!(held(&report.plan, &orders), Some(Reason::MoveRefused), "{:#?}", report.plan);
    // Once all have answered, a silent one keeps nobody waiting.
    world.write_database("staging", "orders", "provider: pg\nconnectionLimit: 20");
    world.tenant.commit("Leave it where it is");
    world.in_sync().await;
    server.stop();
    world.write_database("staging", "new", "provider: files\nuserVersion: 1");
    world.tenant.commit("Add a new one");
    assert_eq!(world.apply().await.done, 1);
}

/// Takes the folder of live files away, so that nobody answers for them.
fn silence(world: &World) {
    std::fs::rename(world.databases(), world.data().join("unmounted")).unwrap();
    std::fs::write(world.databases(), "no folder").unwrap();
}

fn answer_again(world: &World) {
    std::fs::remove_file(world.databases()).unwrap();
    std::fs::rename(world.data().join("unmounted"), world.databases()).unwrap();
}

/// What somebody commits.
type Writes = fn(&World);

/// Orders are on `files` when the state is lost. All of `before` is in git, one after the other, while everybody answers;
/// then `files` fall silent, and `then` is committed, which wants `key` on `other`.
async fn is_not_made_on_the_other(before: &[Writes], then: Writes, key: &str, reason: Reason) {
    let mut world = World::new(&format!("{FILES}---{}", other()), "[files, other]").await;
    for name in ["orders", "payments"] {
        world.write_database("staging", name, "provider: files\nuserVersion: 1");
    }
    world.write_database("staging", "else", "provider: other\nuserVersion: 2");
    world.tenant.commit("Add three");
    world.in_sync().await;
    for (step, write) in before.iter().enumerate() {
        write(&world);
        world.tenant.commit("Go on");
        if step == 0 {
            world.lose_state().await;
        }
        world.apply().await;
    }
    silence(&world);
    then(&world);
    world.tenant.commit("Want it on the other");
    let made = world.data().join(format!("elsewhere/{}.db", parse(key).object_name(63)));
    for look in 0..3 {
        let report = world.apply().await;
        assert!(!made.exists(), "look {look}: made a second time, empty: {:#?}", report.plan);
        assert_eq!(unseen(&report.plan, key), Some(Reason::NotObserved), "look {look}: {:#?}", report.plan);
        world.restart().await;
    }
    answer_again(&world);
    let report = world.apply().await;
    assert_eq!(held(&report.plan, key), Some(reason), "{:#?}", report.plan);
    assert!(!made.exists());
    // What git wants elsewhere is no orphan.
    assert_eq!(world.orphans().await.len(), usize::from(reason == Reason::PossibleRename));
}

fn want_orders_on_the_other(world: &World) {
    world.write_database("staging", "orders", "provider: other\nuserVersion: 1");
}

fn want_faulty_orders(world: &World) {
    world.write_database("staging", "orders", "provider: other\nuserVersion: many");
}

fn remove_orders(world: &World) {
    world.tenant.remove(MANIFEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_what_stands_elsewhere_is_not_made_again_once_its_server_falls_silent() {
    is_not_made_on_the_other(&[want_orders_on_the_other], |_| {}, ORDERS, Reason::MoveRefused).await;
    // Also where it was an orphan before, when everybody had been heard.
    is_not_made_on_the_other(&[remove_orders, want_orders_on_the_other], |_| {}, ORDERS, Reason::MoveRefused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_what_no_look_could_read_is_not_made_again_once_its_server_falls_silent() {
    let unreadable = |world: &World| world.tenant.write(MANIFEST, "kind: [");
    for before in [&[want_faulty_orders as Writes][..], &[unreadable], &[remove_orders, want_faulty_orders]] {
        is_not_made_on_the_other(before, want_orders_on_the_other, ORDERS, Reason::MoveRefused).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_an_orphan_is_not_made_again_once_its_server_falls_silent() {
    is_not_made_on_the_other(&[remove_orders], want_orders_on_the_other, ORDERS, Reason::MoveRefused).await;
    let in_production = |world: &World| world.write_database("production", "orders", "provider: other\nuserVersion: 1");
    let key = "checkout/production/Database/orders";
    is_not_made_on_the_other(&[remove_orders], in_production, key, Reason::PossibleRename).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_what_stands_elsewhere_is_not_made_again_though_its_silent_provider_has_another_name() {
    let mut world = World::new(&format!("{FILES}---{}", other()), "[files, other]").await;
    world.write_database("staging", "orders", "provider: files\nuserVersion: 1");
    world.write_database("staging", "else", "provider: other\nuserVersion: 2");
    world.tenant.commit("Add two");
    world.in_sync().await;
    want_orders_on_the_other(&world);
    world.tenant.commit("Want it on the other");
    world.lose_state().await;
    assert_eq!(held(&world.apply().await.plan, ORDERS), Some(Reason::MoveRefused));
    silence(&world);
    world.platform.write("providers.yaml", format!("{}---{}", FILES.replace("name: files", "name: former"), other()));
    world.write_tenant("providers: [former, other]");
    world.platform.commit("Call it otherwise");
    for look in 0..2 {
        let report = world.apply().await;
        assert_eq!(unseen(&report.plan, ORDERS), Some(Reason::NotObserved), "look {look}: {:#?}", report.plan);
        assert!(!world.data().join("elsewhere/checkout_staging_orders.db").exists());
    }
    answer_again(&world);
    assert_eq!(held(&world.apply().await.plan, ORDERS), Some(Reason::MoveRefused));
}

//! What is waited for, as `plumb explain` says it: a look, room on a provider, what failed beside it; with the rule that holds
//! it, and in the words that a proposal has too.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use plumb::engine::view::{self, AttentionKind, Cause, Explanation, SubjectKind};
use plumb::managers::ManagerError;
use plumb::model::{Ask, ConditionStatus, EventKind, Reason, Release, Replica, Request, SystemClock, Trigger, Width};

use crate::answers::{want, world_that_undoes};
use crate::drift::{BRANCH, MANIFEST, ORDERS, world_with, world_with_proposal};
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{FILES, World, parse};

const CARTS: &str = "checkout/staging/Database/carts";
/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn explain(world: &World, key: &str) -> Explanation {
    view::explain(world.store(), &parse(key), world.clock.as_ref()).await.unwrap().expect("something is known of it")
}

/// What is explained of a resource names the rule that holds it, or that it is told of.
pub async fn names_rule(world: &World, key: &str, reason: Reason, rule: &str) {
    let explained = explain(world, key).await;
    let told = explained.chain.iter().chain(&explained.notes).find(|cause| cause.reason == reason);
    let told = told.unwrap_or_else(|| panic!("nothing is {reason}: {explained:#?}"));
    assert_eq!(told.rule.as_deref(), Some(rule), "{explained:#?}");
    assert!(told.why().starts_with(&format!("{reason} ({rule}): ")), "{}", told.why());
}

/// The same, of something that is as git says all the same, with the way out.
pub async fn names_rule_beside(world: &World, key: &str, reason: Reason, rule: &str, way_out: &str) {
    names_rule(world, key, reason, rule).await;
    let Explanation { ready, answer, chain, notes, .. } = explain(world, key).await;
    assert_eq!((ready, chain.len(), answer), (ConditionStatus::True, 0, format!("{key} is as git says")));
    assert!(notes.iter().any(|note| note.reason == reason && note.message.contains(way_out)), "{notes:#?}");
}

/// What a chain is about, link by link, with the reasons.
fn links(explanation: &Explanation) -> Vec<(SubjectKind, &str, Reason)> {
    explanation.chain.iter().map(|cause| (cause.kind, cause.subject.as_str(), cause.reason)).collect()
}

fn news(tenant: &str, name: Option<&str>) -> Request {
    let ask = Ask { trigger: Trigger::Commit, width: Width::Changed };
    Request { news: name.map(str::to_owned), ..Request::at_once(tenant, ask) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_waits_for_a_look_in_the_queue_and_then_under_a_lease() {
    let world = world_with("").await;
    assert_eq!(explain(&world, ORDERS).await.ready, ConditionStatus::True);
    // Another tenant has been due longer when refs are seen that no look has read.
    let store = world.store();
    store.request(&[news("billing", None)]).await.unwrap();
    store.request(&[news(&world.name, Some("new refs"))]).await.unwrap();
    let queued = explain(&world, ORDERS).await;
    assert_eq!(links(&queued), [(SubjectKind::Tenant, "checkout", Reason::LookDue)]);
    assert_eq!(queued.ready, ConditionStatus::Unknown, "nobody knows what git says now");
    assert!(queued.chain[0].message.ends_with("; 1 tenant has been due longer"), "{queued:#?}");
    assert!(queued.answer.starts_with("it is not known whether"), "{queued:#?}");
    assert!(queued.chain[0].since.is_some());
    // A replica takes it.
    let replica = Replica("host/1/abc".to_owned());
    assert_eq!(store.claim(&replica, PATIENCE).await.unwrap().unwrap().lease.tenant, "billing");
    let queued = explain(&world, ORDERS).await;
    assert!(queued.chain[0].message.contains("no other tenant has been due longer"), "{queued:#?}");
    let claim = store.claim(&replica, PATIENCE).await.unwrap().unwrap();
    let held = explain(&world, ORDERS).await;
    assert_eq!(links(&held), [(SubjectKind::Tenant, "checkout", Reason::LeaseHeld)]);
    let place = store.place(&world.name).await.unwrap().unwrap();
    assert_eq!((held.chain[0].since, held.chain[0].next_at), (place.claimed_at, place.lease_until));
    assert!(held.chain[0].message.starts_with("replica host/1/abc looks at it since "), "{held:#?}");
    let json = serde_json::to_value(&held).unwrap();
    assert_eq!((&json["chain"][0]["kind"], &json["chain"][0]["reason"]), (&"tenant".into(), &"LeaseHeld".into()));
    // It has seen what was new.
    let release = Release { seen: Some("new refs".to_owned()), retry: None, news: claim.news };
    store.release(&claim.lease, &release).await.unwrap();
    let seen = explain(&world, ORDERS).await;
    assert_eq!((seen.ready, seen.chain.len()), (ConditionStatus::True, 0), "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_looks_were_never_heard_of_again_says_what_ends_its_wait() {
    let world = world_with("").await;
    let store = world.store();
    store.request(&[news(&world.name, Some("new refs"))]).await.unwrap();
    let replica = Replica("host/1/abc".to_owned());
    while store.claim(&replica, Duration::ZERO).await.unwrap().is_some() {}
    let waits = explain(&world, ORDERS).await;
    assert_eq!(links(&waits), [(SubjectKind::Tenant, "checkout", Reason::LookDue)]);
    assert!(waits.chain[0].next_at.is_some(), "{waits:#?}");
    let said = ": a look at it was never heard of again, twice in a row: its process ended, or could not reach the state. Read \
                the log of what ran it; a commit, or plumb reconcile checkout, ends the wait";
    assert!(waits.chain[0].message.ends_with(said), "{waits:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_nobody_looked_at_yet_waits_for_its_first_look() {
    let world = World::with_files().await;
    let nothing = view::explain(world.store(), &parse(ORDERS), world.clock.as_ref()).await.unwrap();
    assert_eq!(nothing, None);
    world.store().request(&[news(&world.name, None)]).await.unwrap();
    let first = explain(&world, ORDERS).await;
    let wanted = [(SubjectKind::Resource, ORDERS, Reason::Pending), (SubjectKind::Tenant, "checkout", Reason::LookDue)];
    assert_eq!(links(&first), wanted);
    assert!(
        first.answer.contains("it waits for a look at tenant checkout (LookDue): a look is due since"),
        "{first:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_not_begun_waits_for_others_of_its_tenant() {
    let world = World::with_files().await;
    world.write_tenant("providers: [files]\nmaxConcurrency: 1");
    world.platform.commit("One at a time");
    for name in ["orders", "payments", "zebras"] {
        world.write_database("staging", name, "userVersion: 1");
    }
    world.tenant.commit("Add three");
    let (told, store) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(world.engine().store()));
    let telling = Arc::clone(&told);
    world.on_event(move |event| {
        let is_done = matches!(event.kind, EventKind::StepDone { .. });
        if is_done && event.key.as_ref().is_some_and(|key| key.name != "zebras") {
            let zebras = parse("checkout/staging/Database/zebras");
            let explained = view::explain(store.as_ref(), &zebras, &SystemClock);
            let explained =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(explained)).unwrap();
            telling.lock().unwrap().push(explained.expect("its tenant is known"));
        }
    });
    assert_eq!(world.in_sync().await, 3);
    let told = told.lock().unwrap();
    let waiting = told.last().expect("others were done first");
    let reasons: Vec<Reason> = waiting.chain.iter().map(|cause| cause.reason).collect();
    assert_eq!(reasons, [Reason::Pending, Reason::LeaseHeld, Reason::LimitReached], "{waiting:#?}");
    assert!(
        waiting.answer.ends_with(
            "it waits for a look at tenant checkout, which waits for room on tenant checkout (LimitReached): the tenant \
             has 1 step at once (its maxConcurrency); others wait for room"
        ),
        "{waiting:#?}"
    );
    // It is on record too, once.
    let is_told = |kind: &EventKind| matches!(kind, EventKind::Warning { reason: Reason::LimitReached, .. });
    assert_eq!(world.events().iter().filter(|event| is_told(&event.kind)).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_waits_for_room_that_another_tenant_has_on_the_provider() {
    let one_at_a_time = FILES.replace("  serves:", "  maxConcurrency: 1\n  serves:");
    let mut world = World::new(&one_at_a_time, "[files]").await;
    let server = PostgresServer::shared();
    let (login, password) = server.login();
    server.psql(&format!("CREATE DATABASE state_waits OWNER {login}")).await;
    world.database = Some(format!("postgres://{login}:{password}@127.0.0.1:{}/state_waits", server.port()));
    world.restart().await;
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Add orders");
    let store = Arc::clone(world.engine().store());
    let (ask, replica) = (Ask { trigger: Trigger::Poll, width: Width::Deep }, Replica("another".to_owned()));
    let other = store.claim_tenant("billing", ask, &replica, PATIENCE).await.unwrap().unwrap().lease;
    let slot = store.take_slot("files", 1, &other).await.unwrap().expect("it is free");
    let orders = parse(ORDERS);
    let waits = async {
        loop {
            let explained = view::explain(store.as_ref(), &orders, &SystemClock).await.unwrap();
            if let Some(explained) = explained
                && explained.chain.iter().any(|cause| cause.reason == Reason::LimitReached)
            {
                store.give_slot(&slot).await.unwrap();
                return explained;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let both = async { tokio::join!(world.in_sync(), waits) };
    let (done, waiting) = tokio::time::timeout(PATIENCE, both).await.expect("it is told, and then it goes on");
    assert_eq!(done, 1);
    let last = waiting.chain.last().unwrap();
    assert_eq!((last.kind, last.subject.as_str()), (SubjectKind::Provider, "files"), "{waiting:#?}");
    assert_eq!(
        last.message,
        "provider files has 1 step at once (its maxConcurrency), over all tenants; others wait for room"
    );
    assert!(waiting.answer.contains("which waits for room on provider files (LimitReached)"), "{waiting:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_undone_leads_to_what_failed() {
    let (world, faults) = world_that_undoes().await;
    want(&world, "userVersion: 2", 2);
    world.tenant.commit("Want 2");
    faults.fail("carts", ManagerError::terminal(Reason::Rejected, "no such page size"));
    world.scheduled().await;
    let orders = explain(&world, ORDERS).await;
    let wanted =
        [(SubjectKind::Resource, ORDERS, Reason::RolledBack), (SubjectKind::Resource, CARTS, Reason::Rejected)];
    assert_eq!(links(&orders), wanted);
    let cause = &orders.chain[1];
    assert_eq!(cause.message, "no such page size. It failed once, for good");
    let next_step = format!("Commit what works, or mend the cause, then run: plumb retry {CARTS}");
    assert_eq!((cause.help.as_ref(), cause.since.is_some()), (Some(&next_step), true));
    assert!(orders.answer.contains(&format!("it is undone with {CARTS} (Rejected): no such page size")), "{orders:#?}");
    // The one that failed says so of itself, with the same next step.
    let carts = explain(&world, CARTS).await;
    assert_eq!(links(&carts), [(SubjectKind::Resource, CARTS, Reason::RolledBack)]);
    assert_eq!(carts.chain[0].help.as_ref(), Some(&next_step));
    // So does the page, where it explains one, and where it lists what waits for a person.
    let shown = view::resource(world.store(), &parse(ORDERS), world.clock.as_ref()).await.unwrap().unwrap();
    assert_eq!(shown.explanation.unwrap().chain, orders.chain);
    let overview = view::overview(world.store(), world.clock.as_ref()).await.unwrap();
    let listed = overview.attention.iter().find(|one| one.key == Some(parse(ORDERS))).expect("it is listed");
    assert_eq!(listed.help.as_ref(), Some(&next_step), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_deletion_is_listed_and_counted_beside_any_number_of_findings() {
    let world = world_with("").await;
    world.tenant.remove(MANIFEST);
    for number in 0..120 {
        world.write_database("staging", &format!("broken{number}"), "userVersion: none");
    }
    world.tenant.commit("Remove orders, and write nonsense");
    world.apply().await;
    let overview = view::overview(world.store(), world.clock.as_ref()).await.unwrap();
    let counted = |kind: AttentionKind| overview.attention_counts.get(&kind).copied();
    assert_eq!((counted(AttentionKind::Held), counted(AttentionKind::Finding)), (Some(1), Some(120)));
    assert_eq!(overview.attention_counts.values().sum::<usize>(), overview.attention_total);
    assert_eq!(overview.attention[0].kind, AttentionKind::Held);
    assert!(overview.attention.len() < overview.attention_total, "the list is cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_says_what_the_page_and_explain_say() {
    let world = world_with_proposal().await;
    let explained = explain(&world, ORDERS).await;
    let cause = &explained.chain[0];
    assert_eq!((cause.reason, cause.rule.as_deref()), (Reason::DriftProposed, Some("R3")));
    let message = world.tenant.remote_git(&["log", "-1", "--format=%B", BRANCH]);
    let help = cause.help.as_deref().expect("a person can do something");
    assert!(message.contains(&format!("Why it waits: {}", cause.why())), "{message}");
    assert!(message.contains(help) && help.contains(BRANCH), "{message}");
    let overview = view::overview(world.store(), world.clock.as_ref()).await.unwrap();
    let listed = overview.attention.iter().find(|one| one.kind == AttentionKind::Proposal).expect("it is listed");
    assert_eq!((listed.reason, &listed.message), (Some(cause.reason), &cause.message));
    assert_eq!(listed.help.as_deref(), Some(help));
    // Of what is gone, too.
    world.tenant.delete_branch(BRANCH);
    world.in_sync().await;
    std::fs::remove_file(world.file("staging", "orders")).unwrap();
    world.apply().await;
    let Cause { reason, rule, help, .. } = explain(&world, ORDERS).await.chain.remove(0);
    assert_eq!((reason, rule.as_deref()), (Reason::DataMissing, Some("R8")));
    let message = world.tenant.remote_git(&["log", "-1", "--format=%B", BRANCH]);
    assert!(message.contains("Why it waits: DataMissing (R8): "), "{message}");
    let way_out = message.lines().find(|line| line.starts_with("Merge ")).expect("how to decide");
    let help = help.expect("a person can do something");
    assert!(help.contains("Plumb-Approve-Create: ") && help.ends_with(way_out), "{help}");
}

/// The rule that a conflict is held by, with the inventory and without it.
async fn rule_of_a_conflict(is_lost: bool) -> Option<String> {
    let mut world = world_with("").await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.write_database("staging", "orders", "journalMode: wal\nuserVersion: 8");
    world.tenant.commit("Expect 8");
    if is_lost {
        world.lose_state().await;
    }
    world.apply().await;
    let explained = explain(&world, ORDERS).await;
    assert_eq!(explained.chain[0].reason, Reason::ConflictHeld, "{explained:#?}");
    let message = world.tenant.remote_git(&["log", "-1", "--format=%B", BRANCH]);
    assert!(message.contains(&explained.chain[0].why()), "{message}");
    explained.chain[0].rule.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_and_r4_are_told_apart_where_both_sides_changed_or_nobody_knows() {
    assert_eq!(rule_of_a_conflict(false).await.as_deref(), Some("R3"));
    assert_eq!(rule_of_a_conflict(true).await.as_deref(), Some("R4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn r14_what_was_no_answer_is_told_while_the_question_stands() {
    let world = world_with_proposal().await;
    assert!(explain(&world, ORDERS).await.notes.iter().all(|note| note.reason != Reason::NoAnswer));
    world.write_database("staging", "other", "userVersion: 1");
    world.tenant.commit("Something else");
    world.tenant.git(&["push", "--force", "origin", &format!("main:{BRANCH}")]);
    for look in 0..2 {
        world.apply().await;
        let explained = explain(&world, ORDERS).await;
        let note = explained.notes.iter().find(|note| note.reason == Reason::NoAnswer);
        let note = note.unwrap_or_else(|| panic!("look {look}: {explained:#?}"));
        assert_eq!(note.rule.as_deref(), Some("R14"));
        assert!(note.message.contains("is no answer, so it is pushed again"), "{note:?}");
    }
    // Once it is answered there is nothing to tell.
    world.tenant.delete_branch(BRANCH);
    world.apply().await;
    assert!(explain(&world, ORDERS).await.notes.iter().all(|note| note.reason != Reason::NoAnswer));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_says_what_is_wrong_with_its_own_document_however_much_is_wrong_elsewhere() {
    let world = world_with("").await;
    for name in ["a", "b", "c", "d"] {
        world.write_database("staging", name, "userVersions: 1");
    }
    world.write_database("staging", "orders", "userVersionen: 8");
    // A document that was never applied, whose file ends like that of another.
    world.write_database("staging", "late-a", "dependsOn: [Database/order]");
    world.tenant.commit("Write much that cannot be used");
    world.apply().await;
    for (key, own) in [
        (ORDERS, "environments/staging/orders.yaml:"),
        ("checkout/staging/Database/a", "environments/staging/a.yaml:"),
        ("checkout/staging/Database/late-a", "environments/staging/late-a.yaml:"),
    ] {
        let explained = explain(&world, key).await;
        assert_eq!(explained.chain[0].reason, Reason::InvalidManifest, "{explained:#?}");
        let Cause { message, help, .. } = explained.chain.last().unwrap();
        assert!(message.starts_with(own), "{key}: {explained:#?}");
        assert!(!message.contains("; "), "{key} is told of other files: {message}");
        let meant = help.as_deref().expect("what to do is known");
        let of_dependency = meant.contains("Database/orders");
        assert_eq!(of_dependency, key.ends_with("late-a"), "{key}: {meant}");
    }
    // What git does not speak of is in none of them, but may be in one of which nobody can tell what it is.
    let nothing = "checkout/staging/Database/nothing";
    let unknown = explain(&world, nothing).await;
    assert_eq!(unknown.chain.last().unwrap().reason, Reason::Gone, "{unknown:#?}");
    for (file, text) in [
        ("broken.yaml", "kind: ["),
        ("kind.yaml", "apiVersion: plumb.dev/v1\nkind: Databse\nmetadata: {name: nothing}\nspec: {}\n"),
        ("name.yaml", "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {}\nspec: {}\n"),
    ] {
        world.tenant.write(&format!("environments/staging/{file}"), text);
        world.tenant.commit("Write what nobody can tell");
        world.apply().await;
        let unknown = explain(&world, nothing).await;
        let root = unknown.chain.last().unwrap();
        assert!(root.message.starts_with(&format!("environments/staging/{file}:")), "{unknown:#?}");
        world.tenant.remove(&format!("environments/staging/{file}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_the_platform_that_is_refused_is_told_with_what_is_wrong_with_it() {
    let world = world_with("").await;
    world.apply().await;
    assert_eq!(explain(&world, ORDERS).await.notes, []);
    world.platform.write("broken.yaml", "kind: [");
    world.platform.commit("Break the platform");
    world.apply().await;
    let explained = explain(&world, ORDERS).await;
    let [note] = &explained.notes[..] else { panic!("{explained:#?}") };
    assert_eq!((note.reason, note.name().as_str()), (Reason::InvalidManifest, "the platform"));
    assert!(note.message.contains("stays in force: broken.yaml:1:"), "{note:#?}");
    assert!(note.help.is_some(), "{note:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_policies_and_the_guard_say_what_they_keep_back_and_what_to_do() {
    let world = World::with_files().await;
    world.write_tenant("providers: [files]\nquotas: {Database: 2}");
    world.platform.write(
        "policies/names.rego",
        "package plumb.names\nimport rego.v1\ndeny contains {\"msg\": \"no test databases\", \"path\": \"/metadata/name\"} if \
         input.resource.metadata.name == \"test\"\n",
    );
    world.platform.commit("Two databases, and no test ones");
    for name in ["a", "b"] {
        world.write_resource("staging", "Database", name, "plumb.dev/deletion: delete", "userVersion: 1");
    }
    world.tenant.commit("Add two");
    world.in_sync().await;
    for name in ["c", "test"] {
        world.write_database("staging", name, "userVersion: 1");
    }
    world.tenant.commit("Add one too many, and one that may not be");
    world.scheduled().await;
    let over = explain(&world, "checkout/staging/Database/c").await;
    assert_eq!((over.ready, links(&over)[0].2), (ConditionStatus::False, Reason::QuotaExceeded), "{over:#?}");
    let denied = explain(&world, "checkout/staging/Database/test").await;
    assert!(links(&denied).iter().any(|(.., reason)| *reason == Reason::PolicyDenied), "{denied:#?}");
    assert!(denied.answer.contains("no test databases"), "{denied:#?}");

    // All that is there goes in one commit: the guard (R6).
    for name in ["a", "b", "c", "test"] {
        world.tenant.remove(&format!("environments/staging/{name}.yaml"));
    }
    world.write_database("staging", "d", "userVersion: 2");
    world.tenant.commit("Begin anew");
    let plan = world.scheduled().await.plan;
    let held = explain(&world, "checkout/staging/Database/a").await;
    assert_eq!(links(&held)[0].2, Reason::DeletionsHeld, "{held:#?}");
    assert!(held.answer.contains(&format!("Plumb-Approve-Deletes: {}", plan.id)), "{held:#?}");
}

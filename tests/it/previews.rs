//! Planning what is not merged yet: a branch as it would be once merged, and a folder as it stands. And applying what was
//! planned once before.

use plumb::engine::{EngineError, Preview, PreviewSource, Reapplied};
use plumb::managers::ManagerError;
use plumb::model::{Action, ApprovalKind, EventKind, ExecutionOutcome, PlanId, Reason};
use plumb::store::{HistoryFilter, Scope};

use crate::harness::faulty::Faults;
use crate::harness::git::MergeHow;
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{World, held, run_sql, unseen};

const ORDERS: &str = "checkout/staging/Database/orders";
const BRANCH: &str = "plumb/drift/staging/database-orders";

/// A tenant with one database, in plumb.
async fn world() -> World {
    let world = World::with_files().await;
    world.write_database("staging", "orders", "journalMode: wal\nuserVersion: 7");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    world
}

/// Puts what the clone holds on a branch, and goes back to `main`.
fn push_feature(world: &World, subject: &str) {
    world.tenant.git(&["checkout", "-b", "feature"]);
    world.tenant.git(&["add", "--all"]);
    world.tenant.git(&["commit", "--message", subject]);
    world.tenant.git(&["push", "origin", "HEAD:feature"]);
    world.tenant.git(&["checkout", "main"]);
}

async fn feature(world: &World) -> Preview {
    world.preview(PreviewSource::Branch("feature".to_owned())).await.unwrap()
}

async fn of_the_folder(world: &World) -> Preview {
    world.preview(PreviewSource::Folder(world.tenant.work())).await.unwrap()
}

async fn refusal(world: &World, branch: &str) -> String {
    let error = world.preview(PreviewSource::Branch(branch.to_owned())).await.unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error} {cause}")
}

fn steps(preview: &Preview) -> Vec<(Action, String)> {
    preview.plan.steps.iter().map(|step| (step.action, step.key.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_is_planned_as_it_would_be_once_merged() {
    let world = world().await;
    world.write_database("staging", "billing", "userVersion: 1");
    push_feature(&world, "Add billing");
    // Meanwhile somebody else adds one, which is applied, and edits another.
    world.write_database("staging", "reports", "userVersion: 2");
    world.write_database("staging", "orders", "journalMode: wal\nuserVersion: 8");
    world.tenant.commit("Add reports");
    world.in_sync().await;
    let preview = feature(&world).await;
    assert_eq!(steps(&preview), [(Action::Create, "checkout/staging/Database/billing".to_owned())]);
    assert!(preview.plan.blocked.is_empty(), "{:#?}", preview.plan.blocked);
    assert_eq!(preview.plan.commit, world.tenant.remote_head("feature"), "people know it by its head");
    // It is what the merge then does.
    world.tenant.merge("feature", MergeHow::MergeCommit);
    assert_eq!(world.plan().await.plan.id, preview.plan.id);
    // Once merged, it adds nothing.
    world.in_sync().await;
    assert!(feature(&world).await.plan.is_in_sync());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_in_front_of_the_head_is_planned_with_what_it_approves() {
    let world = world().await;
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        world.write_resource("staging", "Database", name, "plumb.dev/deletion: delete", "");
    }
    world.tenant.commit("Add seven");
    world.in_sync().await;
    for name in ["a", "b", "c", "d", "e", "f"] {
        world.tenant.remove(&format!("environments/staging/{name}.yaml"));
    }
    push_feature(&world, "Take six away");
    let preview = feature(&world).await;
    assert_eq!(held(&preview.plan, "checkout/staging/Database/a"), Some(Reason::DeletionsHeld));
    let PlanId(id) = &preview.plan.id;
    world.tenant.git(&["checkout", "feature"]);
    let trailer = format!("{}: {id}", ApprovalKind::Deletes.trailer());
    world.tenant.git(&["commit", "--allow-empty", "--message", "Yes, all six", "--message", &trailer]);
    world.tenant.git(&["push", "origin", "HEAD:feature"]);
    let approved = feature(&world).await;
    assert_eq!(held(&approved.plan, "checkout/staging/Database/a"), None);
    assert_eq!(approved.plan.summary().delete, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_is_planned_as_it_would_be_once_accepted() {
    let world = world().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    let accepted = world.preview(PreviewSource::Branch(BRANCH.to_owned())).await.unwrap();
    assert!(accepted.plan.is_in_sync(), "{:#?}", accepted.plan);
    assert!(!world.plan().await.plan.is_in_sync());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_does_not_merge_says_which_file_and_what_to_do() {
    let world = world().await;
    world.write_database("staging", "orders", "journalMode: wal\nuserVersion: 8");
    push_feature(&world, "Expect 8");
    world.write_database("staging", "orders", "journalMode: wal\nuserVersion: 9");
    world.tenant.commit("Expect 9");
    let said = refusal(&world, "feature").await;
    assert!(
        said.contains("feature does not merge into main: both changed environments/staging/orders.yaml")
            && said.contains("bring it up to date"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_with_another_history_or_none_is_refused() {
    let world = world().await;
    world.tenant.git(&["checkout", "--orphan", "elsewhere"]);
    world.tenant.git(&["commit", "--message", "A beginning of its own"]);
    world.tenant.git(&["push", "origin", "HEAD:elsewhere"]);
    let said = refusal(&world, "elsewhere").await;
    assert!(said.contains("no history in common"), "{said}");
    let said = refusal(&world, "nowhere").await;
    assert!(said.contains("no branch nowhere"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_planned_as_it_stands() {
    let mut world = world().await;
    assert!(of_the_folder(&world).await.plan.is_in_sync());
    world.write_database("staging", "orders", "journalMode: wal\nuserVersion: 8");
    world.write_database("staging", "billing", "");
    let edited = of_the_folder(&world).await;
    assert_eq!(
        steps(&edited),
        [(Action::Create, "checkout/staging/Database/billing".to_owned()), (Action::Update, ORDERS.to_owned())]
    );
    // What it lacks would be removed, and data is protected.
    world.tenant.remove("environments/staging/orders.yaml");
    assert_eq!(held(&of_the_folder(&world).await.plan, ORDERS), Some(Reason::DeletionProtected));
    // The same by the command line.
    world.stop();
    let plan = |arguments: &[&str]| {
        let output = world.plumb(&[&["plan", "--detailed-exitcode"], arguments].concat()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = plan(&["-t", "checkout", "--dir", world.tenant.work().to_str().unwrap()]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("checkout at a working copy") && text.contains("+ create"), "{text}");
    push_feature(&world, "Change both");
    let (code, text) = plan(&["--ref", "feature"]);
    assert_eq!(code, Some(2), "{text}");
    let head = world.tenant.remote_head("feature").unwrap();
    assert!(text.contains(&format!("checkout at feature@sha1:{head}")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_needs_no_more_than_a_login_that_reads() {
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    let spec =
        |access: &str| format!("provider: pg\nextensions: [pgcrypto]\nroles:\n  - {{name: app, access: {access}}}");
    world.write_database("staging", "orders", &spec("read"));
    world.tenant.commit("Add orders");
    world.in_sync().await;
    let reader = format!("{}_reader", world.name);
    server.psql(&format!("CREATE ROLE {reader} LOGIN PASSWORD 'only-reads'")).await;
    let password = world.data().join("reader");
    std::fs::write(&password, "only-reads").unwrap();
    let providers = world.platform.show("main:providers.yaml");
    let reading = format!("  readLogin: {reader}\n  readCredentials: {{file: {}}}\n  timeout", password.display());
    world.platform.write("providers.yaml", providers.replace("  timeout", &reading));
    world.platform.commit("Plan as a reader");
    // Whoever plans does not hold the credential that writes.
    world.write_login("not here");

    let key = world.key("staging/Database/orders");
    let preview = world.plan().await;
    assert!(preview.plan.is_in_sync(), "{:#?}", preview.plan);
    let (of, reason, message) = &preview.plan.warnings[0];
    assert_eq!((of.to_string(), *reason), (key.clone(), Reason::NotObserved));
    assert!(message.contains("as it was seen last") && message.contains("permission denied"), "{message}");
    // What is asked for shows beside it.
    world.write_database("staging", "orders", &spec("readwrite"));
    push_feature(&world, "Let the application write");
    let changed = feature(&world).await;
    assert_eq!(steps(&changed), [(Action::Update, key.clone())]);
    let change = &changed.plan.steps[0].changes[0];
    assert_eq!((&change.from, &change.to), (&Some("read".into()), &Some("readwrite".into())));
    // A scan must not take anything as it was.
    let scan = world.engine().scan(&world.in_force().await, &world.name).await.unwrap();
    assert_eq!(unseen(&scan.plan, &key), Some(Reason::AuthenticationFailed));
    // Where the reader may look, it does.
    server.psql(&format!("GRANT CONNECT ON DATABASE {} TO {reader}", world.object("staging", "orders"))).await;
    let preview = world.plan().await;
    assert_eq!((preview.plan.is_in_sync(), preview.plan.warnings.len()), (true, 0), "{:#?}", preview.plan);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_planned_again_is_not_applied_where_something_changes_at_the_last_moment() {
    let mut world = World::with_files().await;
    let faults = Faults::new();
    world.connect = Some(faults.connect());
    world.restart().await;
    let version = |version: u32| {
        world.write_database("staging", "orders", &format!("userVersion: {version}"));
        world.tenant.commit(&format!("Want version {version}"));
    };
    version(1);
    world.in_sync().await;
    version(2);
    faults.fail("orders", ManagerError::terminal(Reason::Rejected, "not now"));
    let failed = world.scheduled().await;
    faults.mend("orders");
    let (about, replayed) = world.engine().replay(failed.execution, None).await.unwrap().expect("it is there");
    // Somebody changes the file when the look has begun.
    let file = world.file("staging", "orders");
    world.on_event(move |event| {
        if matches!(event.kind, EventKind::SourceRead { .. }) {
            let change = run_sql(&file, "PRAGMA user_version = 9");
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(change));
        }
    });
    let in_force = world.in_force().await;
    let refused = world.engine().apply_again(&in_force, &about, &replayed).await.unwrap_err();
    assert!(matches!(refused, EngineError::AnotherPlan { .. }), "{refused:?}");
    assert_eq!(world.number("staging", "orders", "PRAGMA user_version").await, 9, "nothing was done");
    let one = HistoryFilter { looks: true, limit: 1, ..HistoryFilter::default() };
    let last = world.store().read(Scope::Platform).await.unwrap().executions(&one).await.unwrap().remove(0);
    assert_eq!((last.id, last.outcome), (failed.execution + 1, ExecutionOutcome::Blocked));
    let told = world.events().into_iter().any(|event| match event.kind {
        EventKind::Warning { message, .. } => message.starts_with("nothing is applied: "),
        _ => false,
    });
    assert!(told, "its timeline says why");
    let tenants = world.store().read(Scope::Platform).await.unwrap().tenants().await.unwrap();
    assert_eq!(tenants[&world.name].error, "", "its repository can be read");
    // Put back, it is what there is to do.
    world.on_event(|_| {});
    world.by_hand("staging", "orders", "PRAGMA user_version = 1").await;
    let applied = world.engine().apply_again(&in_force, &about, &replayed).await.unwrap();
    let Reapplied::Done(report) = applied else { panic!("{applied:#?}") };
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::InSync, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_stands_still_with_is_kept_once() {
    let world = World::with_files().await;
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Add orders");
    world.in_sync().await;
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    let mut scenes = Vec::new();
    for _ in 0..4 {
        let report = world.apply().await;
        assert_eq!(report.outcome, ExecutionOutcome::Blocked, "a person is asked");
        let mut tx = world.store().read(Scope::Platform).await.unwrap();
        let kept = tx.plan_inputs(report.execution).await.unwrap();
        scenes.push(kept.into_iter().map(|packed| packed.hash).collect::<Vec<_>>());
    }
    // Once the question is asked.
    assert_eq!((scenes[1].len(), &scenes[1], &scenes[2]), (1, &scenes[2], &scenes[3]));
}

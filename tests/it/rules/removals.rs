//! R6, R7 and R9: what it takes to delete something.

use std::os::unix::fs::MetadataExt;

use plumb::engine::Width;
use plumb::engine::view::{self, OrphanKind};
use plumb::model::{Action, ApprovalKind, EventKind, ExecutionOutcome, PlanId, PlanScope, Reason};
use sqlx::Row;

use super::{DELETE, VERSION, live, recorded, remove, world_with};
use crate::harness::git::GitRepo;
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{World, held, held_message, parse};
use crate::waits::names_rule;

const ORDERS: &str = "checkout/staging/Database/orders";
const MANIFEST: &str = "environments/staging/orders.yaml";
const EIGHT: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn key(name: &str) -> String {
    format!("checkout/staging/Database/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_an_annotation_that_a_policy_denies_permits_nothing_in_later_commits() {
    let world = World::with_files().await;
    world.write_resource("production", "Database", "orders", "", "userVersion: 1");
    world.tenant.commit("Add orders in production");
    world.in_sync().await;
    world.write_resource("production", "Database", "orders", DELETE, "userVersion: 1");
    world.tenant.commit("Ask for what a built-in policy denies");
    let orders = "checkout/production/Database/orders";
    assert_eq!(world.apply().await.outcome, ExecutionOutcome::Blocked);
    world.tenant.remove("environments/production/orders.yaml");
    world.tenant.commit("And remove it");
    let report = world.apply().await;
    assert_eq!(held(&report.plan, orders), Some(Reason::DeletionProtected), "{:#?}", report.plan);
    assert!(world.file("production", "orders").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_more_deletions_than_the_guard_lets_pass_wait_for_the_trailer_with_the_plans_id() {
    let world = world_with(&EIGHT, DELETE).await;
    remove(&world, &EIGHT[..6]);
    world.write_resource("staging", "Database", "g", DELETE, "userVersion: 2");
    world.tenant.commit("Remove six of eight");
    let report = world.apply().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::Blocked, 1), "{:#?}", report.plan);
    assert_eq!(world.number("staging", "g", VERSION).await, 2, "what deletes nothing goes on");
    for name in &EIGHT[..6] {
        assert_eq!(held(&report.plan, &key(name)), Some(Reason::DeletionsHeld));
    }
    let plan = world.plan().await.plan;
    assert!(held_message(&plan, &key("a")).contains(&format!("Plumb-Approve-Deletes: {}", plan.id)));
    assert_eq!(live(&world, &EIGHT).len(), 8);

    // Another plan's id approves nothing, nor does the word anywhere but in a trailer.
    world.approve(ApprovalKind::Deletes, &PlanId("0123456789ab".into()));
    world.tenant.commit(&format!("Plumb-Approve-Deletes: {} is what I will say\n\nsoon", plan.id));
    assert_eq!(world.apply().await.done, 0);
    assert_eq!(live(&world, &EIGHT).len(), 8);

    world.approve(ApprovalKind::Deletes, &plan.id);
    assert_eq!(world.in_sync().await, 6);
    assert_eq!(live(&world, &EIGHT), ["g", "h"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_an_approval_covers_its_keys_and_their_subsets_and_no_more() {
    let world = world_with(&EIGHT, DELETE).await;
    remove(&world, &EIGHT[..6]);
    world.tenant.commit("Remove six of eight");
    let plan = world.apply().await.plan.id;
    // One comes back, and another one goes: that set was never shown.
    world.write_resource("staging", "Database", "a", DELETE, "userVersion: 1");
    remove(&world, &["g"]);
    world.tenant.commit("Change our mind");
    world.approve(ApprovalKind::Deletes, &plan);
    let report = world.apply().await;
    assert_eq!(report.done, 0, "{:#?}", report.plan);
    assert_eq!(held(&report.plan, &key("b")), Some(Reason::DeletionsHeld));
    // Without the stranger it is a subset of what was approved.
    world.write_resource("staging", "Database", "g", DELETE, "userVersion: 1");
    world.tenant.commit("Keep g");
    assert_eq!(world.in_sync().await, 5);
    assert_eq!(live(&world, &EIGHT), ["a", "g", "h"]);

    // It is used up: the same keys, made again and removed again, wait again.
    for name in &EIGHT[1..6] {
        world.write_resource("staging", "Database", name, DELETE, "userVersion: 1");
    }
    world.write_resource("staging", "Database", "i", DELETE, "userVersion: 1");
    world.tenant.commit("Start over");
    world.in_sync().await;
    remove(&world, &["b", "c", "d", "e", "f", "i"]);
    world.tenant.commit("Remove them again");
    assert_eq!(world.apply().await.done, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_an_approval_is_used_up_though_something_else_still_waits() {
    let mut world = world_with(&["kept", "orders", "payments", "stray"], DELETE).await;
    remove(&world, &["stray"]);
    world.tenant.commit("Remove stray");
    world.lose_state().await;
    world.write_platform("id: test-platform\ndeletionGuard: {count: 1, percent: 10}");
    world.platform.commit("Guard more");
    remove(&world, &["orders", "payments"]);
    world.tenant.commit("Remove two");
    // Without state they are orphans too; their documents come back, are recorded, and go again.
    for name in ["orders", "payments"] {
        world.write_resource("staging", "Database", name, DELETE, "userVersion: 1");
    }
    world.tenant.commit("Not yet");
    world.apply().await;
    remove(&world, &["orders", "payments"]);
    world.tenant.commit("Remove two again");
    let first = world.apply().await;
    assert_eq!((first.done, held(&first.plan, &key("orders"))), (0, Some(Reason::DeletionsHeld)));
    // The stray was never part of what is approved here: it comes later.
    let stray = world.file("staging", "stray");
    let aside = world.data().join("aside.db");
    std::fs::rename(&stray, &aside).unwrap();
    let without_stray = world.apply().await.plan.id;
    world.approve(ApprovalKind::Deletes, &without_stray);
    std::fs::rename(&aside, &stray).unwrap();
    let report = world.apply().await;
    assert_eq!(report.done, 2, "{:#?}", report.plan);
    assert_eq!(held(&report.plan, &key("stray")), Some(Reason::Orphaned));

    for name in ["orders", "payments"] {
        world.write_resource("staging", "Database", name, DELETE, "userVersion: 1");
    }
    world.tenant.commit("Make them again");
    assert_eq!(world.apply().await.done, 2);
    remove(&world, &["orders", "payments"]);
    world.tenant.commit("Remove them a second time");
    let report = world.apply().await;
    assert_eq!(held(&report.plan, &key("orders")), Some(Reason::DeletionsHeld), "{:#?}", report.plan);
    assert_eq!(live(&world, &["orders", "payments"]).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_what_is_held_stays_held_when_others_are_added() {
    let world = world_with(&["a", "b", "c", "d"], DELETE).await;
    world.write_platform("id: test-platform\ndeletionGuard: {count: 1, percent: 40}");
    world.platform.commit("Guard more");
    remove(&world, &["a", "b"]);
    world.tenant.commit("Remove half");
    assert_eq!(held(&world.apply().await.plan, &key("a")), Some(Reason::DeletionsHeld));
    // Two of six would be few enough.
    for name in ["e", "f"] {
        world.write_resource("staging", "Database", name, DELETE, "userVersion: 5");
    }
    world.tenant.commit("Add two");
    assert_eq!(world.apply().await.done, 2);
    let report = world.apply().await;
    assert_eq!((report.done, held(&report.plan, &key("a"))), (0, Some(Reason::DeletionsHeld)), "{:#?}", report.plan);
    assert_eq!(live(&world, &["a", "b"]).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_all_of_a_tenants_resources_are_never_deleted_unasked() {
    let world = world_with(&["orders"], DELETE).await;
    remove(&world, &["orders"]);
    world.tenant.write("environments/staging/none.yaml", "# nothing left\n");
    world.tenant.commit("Remove the only one");
    let report = world.apply().await;
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::DeletionsHeld), "{:#?}", report.plan);
    world.approve(ApprovalKind::Deletes, &report.plan.id);
    assert_eq!(world.in_sync().await, 1);
    assert!(!world.file("staging", "orders").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_an_approval_outlives_the_window_that_is_closed() {
    let world = world_with(&["orders"], DELETE).await;
    remove(&world, &["orders"]);
    world.tenant.write("environments/staging/none.yaml", "# nothing left\n");
    world.tenant.commit("Remove the only one");
    let plan = world.apply().await.plan.id;
    world.write_platform("id: test-platform\nwindows:\n  - {mode: deny, schedule: \"* * * * *\", duration: 1h}");
    world.platform.commit("Close");
    world.approve(ApprovalKind::Deletes, &plan);
    for _ in 0..2 {
        let report = world.apply().await;
        assert_eq!((report.done, held(&report.plan, ORDERS)), (0, Some(Reason::WindowClosed)), "{:#?}", report.plan);
        assert!(report.next_try.is_some());
    }
    world.write_platform("id: test-platform");
    world.platform.commit("Open");
    assert_eq!(world.in_sync().await, 1);
    assert!(!world.file("staging", "orders").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_dropped_roles_count_and_what_a_dropped_role_owns_goes_to_the_owner() {
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    let with_roles = |roles: &[&str]| {
        let roles: String = roles.iter().map(|role| format!("\n  - {{name: {role}, access: admin}}")).collect();
        if roles.is_empty() { "connectionLimit: 20".to_owned() } else { format!("connectionLimit: 20\nroles:{roles}") }
    };
    world.write_database("staging", "orders", &with_roles(&["a", "b", "c", "d", "e", "f", "g"]));
    world.tenant.commit("Add orders");
    world.in_sync().await;
    let password = world.password(&key, "g").await.unwrap();
    let mut role = server.connect(&name, &format!("{name}_g"), &password).await.unwrap();
    sqlx::raw_sql("CREATE TABLE mine (id int); INSERT INTO mine VALUES (7)").execute(&mut role).await.unwrap();
    sqlx::Connection::close(role).await.unwrap();

    world.write_database("staging", "orders", &with_roles(&["g"]));
    world.tenant.commit("Drop six roles");
    let report = world.apply().await;
    assert_eq!(held(&report.plan, &key), Some(Reason::DeletionsHeld), "{:#?}", report.plan);
    let roles = format!("SELECT count(*) FROM pg_roles WHERE rolname LIKE '{name}%'");
    assert_eq!(server.query("postgres", &roles).await[0].get::<i64, _>(0), 8);

    world.write_database("staging", "orders", &with_roles(&["a", "b", "c", "d", "e", "f"]));
    world.tenant.commit("Drop one role");
    let report = world.apply().await;
    assert_eq!(held(&report.plan, &key), Some(Reason::DeletionsHeld), "what was held for this key is not decided");
    world.approve(ApprovalKind::Deletes, &report.plan.id);
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(server.query("postgres", &roles).await[0].get::<i64, _>(0), 7);
    let owner = "SELECT tableowner::text FROM pg_tables WHERE tablename = 'mine'";
    assert_eq!(server.query(&name, owner).await[0].get::<String, _>(0), format!("{name}_owner"));
    assert_eq!(server.query(&name, "SELECT id FROM mine").await[0].get::<i32, _>(0), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_database_is_protected_and_the_way_out_in_two_commits_works() {
    let world = world_with(&["orders", "payments"], "").await;
    remove(&world, &["orders"]);
    world.tenant.commit("Remove orders");
    let report = world.apply().await;
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::DeletionProtected));
    let message = held_message(&report.plan, ORDERS);
    assert!(message.contains("plumb.dev/deletion: delete") && message.contains("plumb.dev/deletion: retain"));
    names_rule(&world, ORDERS, Reason::DeletionProtected, "R7").await;
    assert!(world.file("staging", "orders").exists());

    // Both commits at once are no way out: nobody could have stopped the second.
    world.write_resource("staging", "Database", "orders", DELETE, "userVersion: 1");
    world.tenant.commit("Allow it");
    remove(&world, &["orders"]);
    world.tenant.commit("And do it");
    assert_eq!(held(&world.apply().await.plan, ORDERS), Some(Reason::DeletionProtected));

    world.write_resource("staging", "Database", "orders", DELETE, "userVersion: 1");
    world.tenant.commit("Allow it");
    assert_eq!(world.in_sync().await, 0);
    remove(&world, &["orders"]);
    world.tenant.commit("Do it");
    world.events();
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(recorded(&world, ORDERS), [Reason::Deleted]);
    assert_eq!(live(&world, &["orders", "payments"]), ["payments"]);
    assert!(!world.inventory().await.records.contains_key(&parse(ORDERS)));
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_deletion_that_failed_halfway_is_remembered_and_finished() {
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    let app = "roles:\n  - {name: app, access: readwrite}";
    for database in ["orders", "payments"] {
        world.write_resource("staging", "Database", database, DELETE, app);
    }
    world.tenant.commit("Add them");
    world.in_sync().await;
    // The database can be dropped, and this role cannot.
    server.psql(&format!("ALTER ROLE {name}_app SUPERUSER")).await;
    remove(&world, &["orders"]);
    world.tenant.commit("Remove orders");
    for _ in 0..2 {
        let report = world.apply().await;
        assert_eq!(report.outcome, ExecutionOutcome::Failed, "{report:#?}");
        assert_eq!(report.failed[&parse(&key)].0, Reason::PermissionDenied);
    }
    let left = format!("SELECT rolname::text FROM pg_roles WHERE rolname LIKE '{name}%' ORDER BY 1");
    assert_eq!(server.query("postgres", &left).await.len(), 2);
    server.psql(&format!("ALTER ROLE {name}_app NOSUPERUSER")).await;
    assert_eq!(world.in_sync().await, 1);
    assert!(server.query("postgres", &left).await.is_empty());
    assert_eq!(world.in_sync().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_retain_forgets_the_object_and_keeps_its_mark() {
    let world = world_with(&["orders", "payments"], "plumb.dev/deletion: retain").await;
    let inode = std::fs::metadata(world.file("staging", "orders")).unwrap().ino();
    remove(&world, &["orders"]);
    world.tenant.commit("Let go of orders");
    for _ in 0..2 {
        assert_eq!(world.in_sync().await, 0);
        let orphans = world.orphans().await;
        assert_eq!((orphans.len(), orphans[0].kind), (1, OrphanKind::Retained));
    }
    assert_eq!(world.number("staging", "orders", "SELECT count(*) FROM plumb_mark").await, 1);
    world.write_database("staging", "orders", "userVersion: 2");
    world.tenant.commit("Take it back");
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(std::fs::metadata(world.file("staging", "orders")).unwrap().ino(), inode, "it is the same file");
    assert!(world.orphans().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_replacement_is_protected_like_a_deletion() {
    let world = world_with(&["orders", "payments"], "").await;
    world.by_hand("staging", "orders", "CREATE TABLE precious (id INTEGER)").await;
    world.write_database("staging", "orders", "userVersion: 1\npageSize: 8192");
    world.tenant.commit("Larger pages");
    let report = world.apply().await;
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::ReplaceProtected), "{:#?}", report.plan);
    assert!(held_message(&report.plan, ORDERS).contains("plumb.dev/deletion: delete"));
    assert_eq!(world.number("staging", "orders", "SELECT count(*) FROM precious").await, 0);

    world.write_resource("staging", "Database", "orders", DELETE, "userVersion: 1");
    world.tenant.commit("Allow it");
    world.in_sync().await;
    world.write_resource("staging", "Database", "orders", DELETE, "userVersion: 1\npageSize: 8192");
    world.tenant.commit("Larger pages, whatever it costs");
    assert_eq!(world.plan().await.plan.steps[0].action, Action::Replace);
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(world.number("staging", "orders", "PRAGMA page_size").await, 8192);
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_permission_that_the_same_commit_takes_back_replaces_nothing() {
    for said in ["plumb.dev/deletion: protect", "plumb.dev/deletion: retain", ""] {
        let world = world_with(&["orders", "payments"], DELETE).await;
        world.write_resource("staging", "Database", "orders", said, "userVersion: 1\npageSize: 8192");
        world.tenant.commit("Larger pages, and keep what is there");
        for _ in 0..2 {
            let report = world.apply().await;
            assert_eq!(held(&report.plan, ORDERS), Some(Reason::ReplaceProtected), "{said:?}");
            assert_eq!(world.number("staging", "orders", "PRAGMA page_size").await, 4096);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_word_that_protects_holds_though_the_change_it_came_with_waits() {
    for (said, kept) in [
        ("plumb.dev/deletion: protect", Some(Reason::DeletionProtected)),
        ("plumb.dev/deletion: retain", None),
        ("plumb.dev/deletion: delete\nplumb.dev/suspend: \"true\"", Some(Reason::Suspended)),
    ] {
        let world = world_with(&EIGHT, DELETE).await;
        world.write_platform(
            "id: test-platform\nwindows: [{mode: deny, environments: [staging], schedule: \"* * * * *\", duration: 24h}]",
        );
        world.platform.commit("Touch nothing");
        world.write_resource("staging", "Database", "a", said, "userVersion: 2");
        world.tenant.commit("Keep it, and change it");
        world.apply().await;
        assert_eq!(world.number("staging", "a", VERSION).await, 1, "the window is closed");
        world.write_platform("id: test-platform");
        world.platform.commit("Go on");
        remove(&world, &["a"]);
        world.tenant.commit("Remove its document");
        for look in 0..2 {
            let report = world.apply().await;
            assert!(world.file("staging", "a").exists(), "{said}, look {look}: deleted though git said to keep it");
            assert_eq!(held(&report.plan, &key("a")), kept, "{said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_what_can_only_go_back_by_deleting_data_waits_for_an_approval() {
    for drift in ["propose", "revert"] {
        let world = world_with(&["orders", "payments"], &format!("{DELETE}\nplumb.dev/drift: {drift}")).await;
        world.write_resource(
            "staging",
            "Database",
            "orders",
            &format!("{DELETE}\nplumb.dev/drift: {drift}"),
            "userVersion: 1\npageSize: 4096",
        );
        world.tenant.commit("Say how large pages are");
        world.in_sync().await;
        world.by_hand("staging", "orders", "PRAGMA page_size = 8192; VACUUM; CREATE TABLE precious (id INTEGER)").await;
        world.apply().await;
        if drift == "propose" {
            let branch = "plumb/drift/staging/database-orders";
            world.tenant.git(&["fetch", "origin"]);
            let said = world.tenant.git(&["log", "-1", "--format=%B", &format!("origin/{branch}")]);
            assert!(said.contains("deleting the object with its data"), "{said}");
            world.tenant.delete_branch(branch);
        }
        for look in 0..2 {
            let report = world.apply().await;
            assert_eq!(held(&report.plan, ORDERS), Some(Reason::ReplaceProtected), "{drift}, look {look}");
            assert_eq!(world.number("staging", "orders", "SELECT count(*) FROM precious").await, 0, "{drift}");
        }
        let plan = world.apply().await.plan.id;
        world.approve(ApprovalKind::Deletes, &plan);
        assert_eq!(world.apply().await.done, 1, "{drift}");
        assert_eq!(world.number("staging", "orders", "PRAGMA page_size").await, 4096);
        world.in_sync().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_an_unreadable_manifest_stops_all_prunes_and_nothing_else() {
    let world = world_with(&["going", "broken", "changed"], DELETE).await;
    remove(&world, &["going"]);
    world
        .tenant
        .write("environments/staging/broken.yaml", "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {name: \n");
    world.write_resource("staging", "Database", "changed", DELETE, "userVersion: 2");
    world.tenant.commit("Remove one, break one, change one");
    let report = world.apply().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::Blocked, 1));
    assert_eq!(world.number("staging", "changed", VERSION).await, 2);
    assert_eq!(held(&report.plan, &key("going")), Some(Reason::UnreadableManifest));
    assert!(held_message(&report.plan, &key("going")).contains("broken.yaml"));
    names_rule(&world, &key("going"), Reason::UnreadableManifest, "R9").await;
    assert_eq!(live(&world, &["going", "broken", "changed"]).len(), 3);

    world.write_resource("staging", "Database", "broken", DELETE, "userVersion: 1");
    world.tenant.commit("Mend it");
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(live(&world, &["going", "broken", "changed"]), ["broken", "changed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_all_files_deleted_in_one_commit_delete_nothing() {
    let world = world_with(&EIGHT, DELETE).await;
    remove(&world, &EIGHT);
    world.tenant.commit("Oops");
    for _ in 0..2 {
        let report = world.apply().await;
        assert_eq!(report.done, 0);
        assert_eq!(held(&report.plan, &key("a")), Some(Reason::EmptyTree));
        assert!(held_message(&report.plan, &key("a")).contains(&format!("Plumb-Approve-Deletes: {}", report.plan.id)));
    }
    assert_eq!(live(&world, &EIGHT).len(), 8);
    world.tenant.git(&["revert", "--no-edit", "HEAD"]);
    world.tenant.git(&["push", "--quiet", "origin", "HEAD"]);
    assert_eq!(world.in_sync().await, 0);
}

/// What of a tenant's source changes.
#[derive(Clone, Copy, Debug)]
enum Moved {
    Url,
    Branch,
    Path,
    History,
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_changed_url_branch_path_or_history_holds_all_deletions() {
    for moved in [Moved::Url, Moved::Branch, Moved::Path, Moved::History] {
        let mut world = world_with(&["going", "kept", "third"], DELETE).await;
        let expected = match moved {
            Moved::Url | Moved::Branch | Moved::Path => Reason::SourceChanged,
            Moved::History => Reason::HistoryRewritten,
        };
        let kept = world.tenant.show("main:environments/staging/kept.yaml");
        let third = world.tenant.show("main:environments/staging/third.yaml");
        let files = |world: &World, folder: &str| {
            world.tenant.write(&format!("{folder}environments/staging/kept.yaml"), &kept);
            world.tenant.write(&format!("{folder}environments/staging/third.yaml"), &third);
        };
        let spec = |url: &str, more: &str| {
            format!("repository: {{url: \"{url}\"{more}}}\nenvironments: [staging, production]\nproviders: [files]")
        };
        match moved {
            Moved::Url => {
                world.tenant = GitRepo::new();
                files(&world, "");
                world.tenant.commit("A new home");
                world.write_tenant_spec(&spec(&world.tenant.url(), ""));
            }
            Moved::Branch => {
                world.tenant.branch("next");
                remove(&world, &["going"]);
                world.tenant.commit("Remove going");
                world.write_tenant_spec(&spec(&world.tenant.url(), ", branch: next"));
            }
            Moved::Path => {
                files(&world, "team/");
                world.tenant.commit("A folder of our own");
                world.write_tenant_spec(&spec(&world.tenant.url(), ", path: team"));
            }
            Moved::History => {
                world.tenant.git(&["checkout", "--quiet", "--orphan", "fresh"]);
                world.tenant.git(&["rm", "--quiet", "-r", "--cached", "."]);
                remove(&world, &["going"]);
                world.tenant.commit_locally("A new beginning");
                world.tenant.git(&["push", "--quiet", "--force", "origin", "HEAD:main"]);
                world.tenant.git(&["branch", "--quiet", "-M", "fresh", "main"]);
            }
        }
        world.platform.commit("Follow the tenant");
        let report = world.apply().await;
        assert_eq!(
            (report.done, held(&report.plan, &key("going"))),
            (0, Some(expected)),
            "{moved:?}: {:#?}",
            report.plan
        );
        // The next commit there is an ordinary one, and the hold stays; also for a new process.
        world.tenant.commit("Go on");
        world.restart().await;
        let report = world.apply().await;
        assert_eq!((report.done, held(&report.plan, &key("going"))), (0, Some(expected)), "{moved:?}");
        assert_eq!(live(&world, &["going", "kept", "third"]).len(), 3);
        // A person says so, and it is over.
        world.approve(ApprovalKind::Deletes, &report.plan.id);
        assert_eq!(world.in_sync().await, 1, "{moved:?}");
        assert_eq!(live(&world, &["going", "kept", "third"]), ["kept", "third"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_hold_outlives_a_provider_that_was_away_and_a_tree_that_was_empty() {
    for meanwhile in ["away", "empty"] {
        let mut world = world_with(&["going", "kept", "third"], DELETE).await;
        let documents: Vec<(String, String)> = ["kept", "third"]
            .map(|name| format!("environments/staging/{name}.yaml"))
            .map(|file| (file.clone(), world.tenant.show(&format!("main:{file}"))))
            .into();
        world.tenant = GitRepo::new();
        world.write_tenant("providers: [files]");
        world.platform.commit("A new home");
        let write = |world: &World| {
            for (file, text) in &documents {
                world.tenant.write(file, text);
            }
        };
        match meanwhile {
            "away" => {
                write(&world);
                world.tenant.commit("Move in");
                let away = world.data().join("unmounted");
                std::fs::rename(world.databases(), &away).unwrap();
                assert_eq!(world.apply().await.plan.unknown.len(), 3);
                std::fs::rename(&away, world.databases()).unwrap();
            }
            _ => {
                world.tenant.write("README.md", "Soon\n");
                world.tenant.commit("Nothing yet");
                assert_eq!(held(&world.apply().await.plan, &key("going")), Some(Reason::EmptyTree));
                write(&world);
                world.tenant.commit("Move in");
            }
        }
        let report = world.apply().await;
        let reason = held(&report.plan, &key("going"));
        assert_eq!((report.done, reason), (0, Some(Reason::SourceChanged)), "{meanwhile}: {:#?}", report.plan);
        assert!(world.file("staging", "going").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_removed_tenant_is_frozen_and_listed_and_goes_on_when_it_comes_back() {
    let world = world_with(&["orders", "payments"], DELETE).await;
    let tenant = world.platform.show("main:tenants.yaml");
    world.platform.remove("tenants.yaml");
    world.platform.commit("Remove the tenant");
    assert!(world.try_apply().await.is_err(), "there is no such tenant");
    let orphans = world.orphans().await;
    assert_eq!(orphans.len(), 2);
    assert!(orphans.iter().all(|o| o.kind == OrphanKind::Frozen && o.reason == Reason::TenantRemoved));
    assert_eq!(live(&world, &["orders", "payments"]).len(), 2);
    world.platform.write("tenants.yaml", tenant);
    world.platform.commit("Bring it back");
    assert_eq!(world.in_sync().await, 0);
    assert!(world.orphans().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_removed_environment_is_frozen_and_listed() {
    let world = world_with(&["orders", "payments"], DELETE).await;
    world.write_database("production", "ledger", "userVersion: 1");
    world.tenant.commit("Add the ledger");
    world.in_sync().await;
    let url = world.tenant.url();
    world.write_tenant_spec(&format!("repository: {{url: \"{url}\"}}\nenvironments: [production]\nproviders: [files]"));
    world.platform.commit("No staging any more");
    // Its documents are refused now; then the team removes them.
    assert_eq!(world.apply().await.done, 0);
    remove(&world, &["orders", "payments"]);
    world.tenant.commit("Remove staging");
    let report = world.apply().await;
    assert_eq!((report.done, held(&report.plan, ORDERS)), (0, Some(Reason::EnvironmentRemoved)), "{:#?}", report.plan);
    assert_eq!(live(&world, &["orders", "payments"]).len(), 2);
    let frozen = world.orphans().await;
    assert!(frozen.len() == 2 && frozen.iter().all(|o| o.reason == Reason::EnvironmentRemoved), "{frozen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_an_approval_outlives_one_death_after_another() {
    let world = World::with_files().await;
    world.write_tenant("providers: [files]\nmaxConcurrency: 1");
    world.platform.commit("One after the other");
    for name in EIGHT {
        world.write_resource("staging", "Database", name, "plumb.dev/deletion: delete", "");
    }
    world.write_database("staging", "kept", "");
    world.tenant.commit("Add nine");
    world.in_sync().await;
    for name in EIGHT {
        world.tenant.remove(&format!("environments/staging/{name}.yaml"));
    }
    world.tenant.commit("Take eight away");
    let plan = world.plan().await.plan.id;
    world.approve(ApprovalKind::Deletes, &plan);
    let deletions = || EIGHT.iter().filter(|name| !world.file("staging", name).exists()).count();
    for _ in 0..3 {
        let before = deletions();
        world.on_event(|event| assert!(!matches!(event.kind, EventKind::StepDone { .. }), "killed"));
        assert!(world.try_apply().await.is_err());
        assert!(deletions() > before && deletions() < 8, "{} of 8", deletions());
    }
    world.on_event(|_| {});
    world.in_sync().await;
    assert_eq!(deletions(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_what_lets_one_replacement_pass_stays_the_same_whatever_else_is_done() {
    let said = format!("{DELETE}\nplumb.dev/drift: revert");
    let world = world_with(&["orders", "payments"], &said).await;
    world.write_resource("staging", "Database", "orders", &said, "userVersion: 1\npageSize: 4096");
    world.tenant.commit("Say how large pages are");
    world.in_sync().await;
    world.by_hand("staging", "orders", "PRAGMA page_size = 8192; VACUUM").await;
    let payments = |version: u32| {
        world.write_resource("staging", "Database", "payments", &said, &format!("userVersion: {version}"));
        world.tenant.commit(&format!("Want version {version}"));
    };
    payments(2);
    let report = world.apply().await;
    assert_eq!((report.done, held(&report.plan, ORDERS)), (1, Some(Reason::ReplaceProtected)));
    let listed = view::tenant(world.store(), &world.name, world.clock.as_ref()).await.unwrap().unwrap().held_plans;
    assert_eq!((listed.len(), &listed[0].keys), (1, &vec![parse(ORDERS)]));
    assert!(held_message(&report.plan, ORDERS).contains(&listed[0].trailer), "{listed:?}");

    // It is remembered while something else keeps it.
    world.write_platform("id: test-platform\nwindows:\n  - {mode: deny, schedule: \"* * * * *\", duration: 1h}");
    world.platform.commit("Close");
    world.approve(ApprovalKind::Deletes, &listed[0].plan);
    payments(3);
    assert_eq!(held(&world.apply().await.plan, ORDERS), Some(Reason::WindowClosed));
    world.write_platform("id: test-platform");
    world.platform.commit("Open");
    assert_eq!(world.in_sync().await, 2);
    assert_eq!(world.number("staging", "orders", "PRAGMA page_size").await, 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_a_hold_outlives_a_pass_that_could_not_tell_what_would_be_lost() {
    for meanwhile in ["away", "suspended"] {
        let mut world = world_with(&["kept", "third"], DELETE).await;
        world.write_resource("staging", "Database", "orders", DELETE, "pageSize: 4096");
        world.tenant.commit("Add orders");
        world.in_sync().await;
        let document = |name: &str| {
            let file = format!("environments/staging/{name}.yaml");
            (file.clone(), world.tenant.show(&format!("main:{file}")))
        };
        let documents = ["kept", "third"].map(document);
        world.tenant = GitRepo::new();
        world.write_tenant("providers: [files]");
        world.platform.commit("A new home");
        for (file, text) in documents {
            world.tenant.write(&file, text);
        }
        let orders = |said: &str| world.write_resource("staging", "Database", "orders", said, "pageSize: 8192");
        match meanwhile {
            "away" => {
                orders(DELETE);
                world.tenant.commit("Move in, with larger pages");
                let away = world.data().join("unmounted");
                std::fs::rename(world.databases(), &away).unwrap();
                assert_eq!(world.apply().await.plan.unknown.len(), 3);
                std::fs::rename(&away, world.databases()).unwrap();
            }
            _ => {
                orders(&format!("{DELETE}\nplumb.dev/suspend: \"true\""));
                world.tenant.commit("Move in, with larger pages");
                assert_eq!(held(&world.apply().await.plan, ORDERS), Some(Reason::Suspended));
                orders(DELETE);
                world.tenant.commit("Go on");
            }
        }
        let report = world.apply().await;
        let reason = held(&report.plan, ORDERS);
        assert_eq!((report.done, reason), (0, Some(Reason::SourceChanged)), "{meanwhile}: {:#?}", report.plan);
        world.approve(ApprovalKind::Deletes, &report.plan.id);
        assert_eq!(world.in_sync().await, 1);
        // That was all that was left of it.
        remove(&world, &["third"]);
        world.tenant.commit("Remove one");
        assert_eq!(world.in_sync().await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_word_that_protects_holds_though_its_document_goes_in_the_same_push() {
    for (said, kept) in [
        ("plumb.dev/deletion: protect", Some(Reason::DeletionProtected)),
        ("plumb.dev/deletion: retain", None),
        ("plumb.dev/deletion: delete\nplumb.dev/suspend: \"true\"", Some(Reason::Suspended)),
    ] {
        for moved in [false, true] {
            let world = world_with(&["orders", "payments", "third"], DELETE).await;
            let file = "environments/staging/elsewhere.yaml";
            world.write_resource("staging", "Database", "orders", said, "userVersion: 1");
            if moved {
                world.tenant.write(file, std::fs::read(world.tenant.work().join(MANIFEST)).unwrap());
                world.tenant.remove(MANIFEST);
            }
            world.tenant.commit_locally("Keep it");
            world.tenant.remove(if moved { file } else { MANIFEST });
            world.tenant.commit_locally("Remove its document");
            world.tenant.commit("And something else");
            for look in 0..2 {
                let report = world.apply().await;
                assert!(world.file("staging", "orders").exists(), "{said}, look {look}: git said to keep it");
                assert_eq!(held(&report.plan, ORDERS), kept, "{said}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_word_that_was_taken_back_before_the_document_went_protects_nothing() {
    let world = world_with(&["orders", "payments", "third"], DELETE).await;
    world.write_resource("staging", "Database", "orders", "plumb.dev/deletion: protect", "userVersion: 1");
    world.tenant.commit_locally("Keep it");
    world.write_resource("staging", "Database", "orders", DELETE, "userVersion: 1");
    world.tenant.commit_locally("Rather not");
    remove(&world, &["orders"]);
    world.tenant.commit("Remove its document");
    assert_eq!(world.in_sync().await, 1);
    assert!(!world.file("staging", "orders").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_word_that_protects_holds_though_its_document_cannot_be_used() {
    let world = world_with(&["orders", "payments", "third"], DELETE).await;
    world.write_resource("staging", "Database", "orders", "plumb.dev/deletion: protect", "userVersion: many");
    world.tenant.commit("Keep it, and break it");
    assert_eq!(held(&world.apply().await.plan, ORDERS), Some(Reason::InvalidManifest));
    remove(&world, &["orders"]);
    world.tenant.commit("Remove its document");
    assert_eq!(held(&world.apply().await.plan, ORDERS), Some(Reason::DeletionProtected));
    assert!(world.file("staging", "orders").exists());
}

/// What git said is kept, look after look.
async fn orders_are_kept(world: &World) {
    for look in 0..2 {
        let report = world.apply().await;
        assert!(world.file("staging", "orders").exists(), "look {look}: git said to keep it");
        assert_eq!(held(&report.plan, ORDERS), Some(Reason::DeletionProtected), "look {look}: {:#?}", report.plan);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_of_two_documents_of_one_key_the_safer_word_holds() {
    let world = world_with(&["orders", "payments", "third"], DELETE).await;
    let text = world.tenant.show(&format!("main:{MANIFEST}"));
    let twin = "environments/staging/twin.yaml";
    world.tenant.write(twin, text.replace(DELETE, "plumb.dev/deletion: protect"));
    world.tenant.commit("Say it in another file, and forget the first");
    assert_eq!(held(&world.apply().await.plan, ORDERS), Some(Reason::InvalidManifest));
    world.tenant.remove(twin);
    remove(&world, &["orders"]);
    world.tenant.commit("Remove both");
    orders_are_kept(&world).await;
}

fn keep_orders(world: &World) {
    world.write_resource("staging", "Database", "orders", "plumb.dev/deletion: protect", "userVersion: 1");
    world.tenant.commit_locally("Keep it");
}

fn push(world: &World) {
    world.tenant.git(&["push", "--quiet", "origin", "main"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_word_that_protects_holds_though_the_head_without_its_document_cannot_be_read_whole() {
    let world = world_with(&["orders", "payments", "third"], DELETE).await;
    keep_orders(&world);
    remove(&world, &["orders"]);
    world.tenant.write("environments/staging/third.yaml", "kind: [");
    world.tenant.commit("Remove its document, and break another");
    assert_eq!(held(&world.apply().await.plan, ORDERS), Some(Reason::UnreadableManifest));
    world.write_resource("staging", "Database", "third", DELETE, "userVersion: 1");
    world.tenant.commit("Mend it");
    orders_are_kept(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_word_that_protects_holds_beside_a_branch_that_has_not_heard_it() {
    let world = world_with(&["orders", "payments", "third"], DELETE).await;
    let before = world.tenant.head();
    keep_orders(&world);
    world.tenant.git(&["checkout", "--quiet", "-b", "side", &before]);
    world.write_resource("staging", "Database", "payments", DELETE, "userVersion: 2");
    world.tenant.commit_locally("Something else, beside it");
    world.tenant.checkout("main");
    remove(&world, &["orders"]);
    world.tenant.commit_locally("Remove its document");
    world.tenant.git(&["merge", "--quiet", "--no-ff", "-m", "Merge", "side"]);
    push(&world);
    orders_are_kept(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_word_that_protects_holds_where_a_branch_that_was_merged_said_it() {
    let world = world_with(&["orders", "payments", "third"], DELETE).await;
    world.tenant.git(&["checkout", "--quiet", "-b", "side"]);
    keep_orders(&world);
    remove(&world, &["orders"]);
    world.tenant.commit_locally("Remove its document");
    world.tenant.checkout("main");
    world.write_resource("staging", "Database", "payments", DELETE, "userVersion: 2");
    world.tenant.commit_locally("Something else, beside it");
    world.tenant.git(&["merge", "--quiet", "--no-ff", "-m", "Merge", "side"]);
    push(&world);
    orders_are_kept(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_a_word_that_a_branch_has_taken_back_protects_nothing() {
    let world = world_with(&["orders", "payments", "third"], DELETE).await;
    keep_orders(&world);
    world.tenant.git(&["checkout", "--quiet", "-b", "side"]);
    world.write_resource("staging", "Database", "orders", DELETE, "userVersion: 1");
    world.tenant.commit_locally("Rather not");
    world.tenant.checkout("main");
    world.write_resource("staging", "Database", "payments", DELETE, "userVersion: 2");
    world.tenant.commit_locally("Something else, beside it");
    world.tenant.git(&["merge", "--quiet", "--no-ff", "-m", "Merge", "side"]);
    remove(&world, &["orders"]);
    world.tenant.commit("Remove its document");
    assert_eq!(world.in_sync().await, 2);
    assert_eq!(live(&world, &["orders", "payments"]), ["payments"]);
}

/// So many commits, each of which writes another text into `file`.
fn many_commits(world: &World, number: usize, file: &str) {
    let mut stream = String::new();
    for number in 1..=number {
        let from = if number == 1 { "from refs/heads/main^0\n" } else { "" };
        let text = format!("# {number}\n");
        stream.push_str(&format!(
            "commit refs/heads/main\ncommitter Ada <ada@example.com> 1800000000 +0000\ndata 1\n.\n{from}M 100644 inline \
             {file}\ndata {}\n{text}\n",
            text.len()
        ));
    }
    let history = world.data().join("history");
    std::fs::write(&history, stream).unwrap();
    let import = format!("alias.import=!git fast-import --quiet --force < {}", history.display());
    world.tenant.git(&["-c", &import, "import"]);
    world.tenant.reset("main");
}

#[tokio::test(flavor = "multi_thread")]
async fn r7_what_too_many_commits_may_have_said_something_of_is_kept() {
    for (number, file, is_kept) in
        [(1_500, "README.md", false), (900, "environments/staging/notes.yaml", false), (1_100, "notes.yml", true)]
    {
        let world = world_with(&["orders", "payments", "third"], DELETE).await;
        many_commits(&world, number, file);
        remove(&world, &["orders"]);
        world.tenant.commit("Remove its document");
        if is_kept {
            orders_are_kept(&world).await;
            // The way out is the usual one.
            world.write_resource("staging", "Database", "orders", DELETE, "userVersion: 1");
            world.tenant.commit("Bring it back");
            world.in_sync().await;
            remove(&world, &["orders"]);
            world.tenant.commit("Remove its document again");
        }
        assert_eq!(world.in_sync().await, 1, "{file}");
        assert!(!world.file("staging", "orders").exists(), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r6_a_replacement_that_was_approved_alone_is_done_by_a_full_plan() {
    let said = format!("{DELETE}\nplumb.dev/drift: revert");
    let world = world_with(&["orders", "payments"], &said).await;
    world.write_resource("staging", "Database", "orders", &said, "userVersion: 1\npageSize: 4096");
    world.tenant.commit("Say how large pages are");
    world.in_sync().await;
    world.by_hand("staging", "orders", "PRAGMA page_size = 8192; VACUUM").await;
    let report = world.apply().await;
    assert_eq!(held(&report.plan, ORDERS), Some(Reason::ReplaceProtected));
    world.write_resource("staging", "Database", "payments", &said, "userVersion: 2");
    world.tenant.commit(&format!("Go on\n\nPlumb-Approve-Deletes: {}", report.plan.id));
    let report = world.look(Width::Changed).await.unwrap();
    assert_eq!((report.done, report.plan.scope), (2, PlanScope::Full));
    assert_eq!(world.number("staging", "orders", "PRAGMA page_size").await, 4096);
}

//! R12: passwords are made once, kept encrypted, and never reset by a loss.

use plumb::engine::view;
use plumb::model::{ConditionStatus, ConditionType, EventKind, Reason};
use plumb::store::Scope;
use plumb::store::audit::AuditAction;
use serde_json::json;
use sqlx::{Connection, Row};

use crate::harness::audited;
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{World, contains, held, parse};
use crate::waits::names_rule_beside;

const SPEC: &str = "connectionLimit: 20\nroles:\n  - {name: app, access: readwrite}\n  - {name: ro, access: read}";

async fn world_with_orders() -> (World, String, String) {
    let world = World::with_postgres(PostgresServer::shared()).await;
    world.write_database("staging", "orders", SPEC);
    world.tenant.commit("Add orders");
    world.in_sync().await;
    let (key, name) = (world.key("staging/Database/orders"), world.object("staging", "orders"));
    (world, key, name)
}

async fn logs_in(name: &str, role: &str, password: &str) -> bool {
    match PostgresServer::shared().connect(name, &format!("{name}_{role}"), password).await {
        Ok(connection) => {
            connection.close().await.unwrap();
            true
        }
        Err(_) => false,
    }
}

/// What the server keeps of a role's password.
async fn verifier(name: &str, role: &str) -> String {
    let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{name}_{role}'");
    PostgresServer::shared().query("postgres", &sql).await[0].get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_a_password_stays_the_same_over_restarts_and_passes() {
    let (mut world, key, name) = world_with_orders().await;
    let password = world.password(&key, "app").await.unwrap();
    assert!(logs_in(&name, "app", &password).await);
    let before = verifier(&name, "app").await;
    assert!(before.starts_with("SCRAM-SHA-256$"));
    world.restart().await;
    world.in_sync().await;
    world.write_database("staging", "orders", &SPEC.replace("20", "30"));
    world.tenant.commit("Raise it");
    world.in_sync().await;
    assert_eq!(world.password(&key, "app").await.unwrap(), password);
    assert_eq!(verifier(&name, "app").await, before);
    assert_ne!(world.password(&key, "ro").await.unwrap(), password);
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_after_a_loss_the_password_is_unknown_and_the_role_keeps_it_until_it_is_rotated() {
    let (mut world, key, name) = world_with_orders().await;
    let password = world.password(&key, "app").await.unwrap();
    world.lose_state().await;
    // Also a change of what the role may do leaves its password alone, and invents none.
    world.write_database("staging", "orders", &SPEC.replace("app, access: readwrite", "app, access: admin"));
    world.tenant.commit("Let app change the schema");
    for _ in 0..2 {
        world.in_sync().await;
        assert_eq!(world.password(&key, "app").await, None);
        assert!(logs_in(&name, "app", &password).await);
        let ready = world.status(&key).await.unwrap().condition(ConditionType::Ready).unwrap().clone();
        assert_eq!((ready.status, ready.reason), (ConditionStatus::True, Reason::PasswordUnknown));
        assert!(ready.message.contains("app, ro") && ready.message.contains("plumb.dev/rotate"), "{}", ready.message);
        names_rule_beside(&world, &key, Reason::PasswordUnknown, "R12", "a new value of plumb.dev/rotate").await;
    }

    world.write_resource("staging", "Database", "orders", "plumb.dev/rotate: \"1\"", SPEC);
    world.tenant.commit("New passwords");
    // Without a record nobody knows whether that was done before; with one it is.
    world.in_sync().await;
    let rotated = world.password(&key, "app").await.expect("a new password");
    assert_ne!(rotated, password);
    told_of_new_passwords(&world, &key).await;
    assert!(logs_in(&name, "app", &rotated).await);
    assert!(!logs_in(&name, "app", &password).await);
    world.in_sync().await;
    let ready = world.status(&key).await.unwrap().condition(ConditionType::Ready).unwrap().clone();
    assert_ne!(ready.reason, Reason::PasswordUnknown);
    assert_eq!(world.password(&key, "app").await.unwrap(), rotated, "once");
}

/// The last step says in the timeline and in the audit log that its roles have new passwords, and no step before it does.
async fn told_of_new_passwords(world: &World, key: &str) {
    let events = world.events();
    let mut begun = events.iter().rev().filter(|event| matches!(event.kind, EventKind::StepStarted { .. }));
    let last = view::describe(&begun.next().expect("it began").kind).1;
    assert_eq!(last, "Update began: 1 field, new passwords of app, ro");
    assert!(begun.all(|event| !serde_json::to_string(event).unwrap().contains("newPasswords")));
    let (rows, broken) = audited::chains(world.store().read(Scope::Platform).await.unwrap().as_mut()).await;
    assert_eq!(broken, Vec::<String>::new());
    let changes = rows.iter().filter(|row| row.action == AuditAction::Change && row.key == Some(parse(key)));
    let details: Vec<serde_json::Value> = changes.map(|row| json!(row.details)).collect();
    let (last, before) = details.split_last().expect("it changed");
    let paths = json!(["/spec/roles/app/access"]);
    assert_eq!((&last["newPasswords"], &last["paths"]), (&json!(["app", "ro"]), &paths));
    // The state was lost before: what is on record begins with the change of what a role may do.
    assert_eq!(before.len(), 1, "{before:?}");
    assert_eq!((&before[0]["newPasswords"], &before[0]["paths"]), (&json!(null), &paths));
    assert!(!json!(details).to_string().contains("admin"), "a value is in the log: {details:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_a_loss_never_rotates_again() {
    let (mut world, key, name) = world_with_orders().await;
    world.write_resource("staging", "Database", "orders", "plumb.dev/rotate: \"1\"", SPEC);
    world.tenant.commit("New passwords");
    world.in_sync().await;
    let password = world.password(&key, "app").await.unwrap();
    world.lose_state().await;
    world.in_sync().await;
    world.in_sync().await;
    assert!(logs_in(&name, "app", &password).await);
    assert_eq!(world.password(&key, "app").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_a_role_that_is_dropped_and_made_again_does_not_get_an_unstored_password() {
    let (world, key, name) = world_with_orders().await;
    world.write_database("staging", "orders", "connectionLimit: 20\nroles:\n  - {name: app, access: readwrite}");
    world.tenant.commit("Drop ro");
    world.in_sync().await;
    world.write_database("staging", "orders", SPEC);
    world.tenant.commit("Make ro again");
    world.in_sync().await;
    let password = world.password(&key, "ro").await.unwrap();
    assert!(logs_in(&name, "ro", &password).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_the_password_that_is_shown_is_the_one_that_the_server_has() {
    let (world, key, name) = world_with_orders().await;
    let shown_logs_in = async |role: &str| logs_in(&name, role, &world.password(&key, role).await.unwrap()).await;
    // Back to one that it had before.
    for rotation in ["1", "2", "1"] {
        world.write_resource("staging", "Database", "orders", &format!("plumb.dev/rotate: \"{rotation}\""), SPEC);
        world.tenant.commit("New passwords");
        world.in_sync().await;
        assert!(shown_logs_in("app").await, "{rotation}");
    }
    // What makes a role again gives it the password of then.
    world.write_resource(
        "staging",
        "Database",
        "orders",
        "plumb.dev/rotate: \"1\"",
        "connectionLimit: 20\nroles:\n  - {name: app, access: readwrite}",
    );
    world.tenant.commit("Drop ro");
    world.in_sync().await;
    world.write_resource("staging", "Database", "orders", "plumb.dev/rotate: \"1\"", SPEC);
    world.tenant.commit("Make ro again");
    world.in_sync().await;
    assert!(shown_logs_in("ro").await);
    // They stay when nothing asks for new ones any more.
    world.write_database("staging", "orders", SPEC);
    world.tenant.commit("Forget when they were made");
    world.in_sync().await;
    assert!(shown_logs_in("app").await && shown_logs_in("ro").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_of_new_passwords_that_were_undone_the_old_ones_are_shown() {
    // Those that a value asked for and those that none did, changed with a field and alone.
    for (before, spec) in [("1", SPEC.replace("20", "30")), ("1", SPEC.to_owned()), ("", SPEC.to_owned())] {
        let (world, key, name) = world_with_orders().await;
        let rollback = "plumb.dev/on-failure: rollback";
        let rotated = |rotation: &str| match rotation {
            "" => rollback.to_owned(),
            some => format!("{rollback}\nplumb.dev/rotate: \"{some}\""),
        };
        world.write_resource("staging", "Database", "orders", &rotated(before), SPEC);
        world.tenant.commit("The passwords from before");
        world.in_sync().await;
        let password = world.password(&key, "app").await.unwrap();
        world.write_resource("staging", "Database", "orders", &rotated("2"), &spec);
        let impossible = "connectionLimit: 5\nextensions: [no_such_extension]\ndependsOn: [Database/orders]";
        world.write_resource("staging", "Database", "broken", rollback, impossible);
        world.tenant.commit("New passwords, and what cannot be made");
        let report = world.scheduled().await;
        assert_eq!(held(&report.plan, &key), Some(Reason::RolledBack));
        assert!(logs_in(&name, "app", &password).await, "it is as it was");
        assert_eq!(world.password(&key, "app").await.unwrap(), password);
        assert_eq!(world.scheduled().await.done, 0, "once");
        world.tenant.remove("environments/staging/broken.yaml");
        world.write_resource("staging", "Database", "orders", rollback, SPEC);
        world.tenant.commit("Want neither");
        world.scheduled().await;
        assert_eq!(world.password(&key, "app").await.unwrap(), password);
        assert!(logs_in(&name, "app", &password).await);
        world.write_resource("staging", "Database", "orders", &rotated("2"), SPEC);
        world.tenant.commit("New passwords, and nothing else");
        assert_eq!(held(&world.scheduled().await.plan, &key), None);
        let rotated = world.password(&key, "app").await.unwrap();
        assert_ne!(rotated, password);
        assert!(logs_in(&name, "app", &rotated).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_no_password_is_in_the_state_the_events_the_marks_or_any_output() {
    let (mut world, key, name) = world_with_orders().await;
    let passwords = [
        world.password(&key, "app").await.unwrap(),
        world.password(&key, "ro").await.unwrap(),
        PostgresServer::shared().login().1.to_owned(),
    ];
    // Something goes wrong too: errors are outputs.
    world.write_database("staging", "orders", &format!("{SPEC}\nextensions: [no_such_extension]"));
    world.tenant.commit("Ask for what there is not");
    let report = world.apply().await;
    assert!(!report.failed.is_empty() || !report.plan.blocked.is_empty());
    let mut told = format!("{report:?}{:?}{:?}", world.events(), world.inventory().await);
    told += &format!("{:?}", world.status(&key).await);
    let marks = format!(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{name}' UNION ALL \
         SELECT shobj_description(oid, 'pg_authid') FROM pg_authid WHERE rolname LIKE '{name}%'"
    );
    for row in PostgresServer::shared().query("postgres", &marks).await {
        told += &row.get::<Option<String>, _>(0).unwrap_or_default();
    }
    world.stop();
    for arguments in [
        &["apply", "-vv"][..],
        &["plan", "-vv", "-o", "json"],
        &["get", "-o", "json"],
        &["describe", &key, "-o", "json"],
        &["events", "-o", "json"],
        &["doctor", "-vv"],
    ] {
        let output = world.plumb(arguments).env("PLUMB_LOG", "trace").output().unwrap();
        assert!(!output.stdout.is_empty() || !output.stderr.is_empty(), "{arguments:?}");
        told += &String::from_utf8_lossy(&output.stdout);
        told += &String::from_utf8_lossy(&output.stderr);
    }
    assert!(told.contains("no_such_extension"));
    for password in &passwords {
        assert!(!contains(told.as_bytes(), password.as_bytes()));
        assert!(world.files_with(password).is_empty(), "{:?}", world.files_with(password));
    }
    // The search would have found something that is there.
    assert!(!world.files_with(&key).is_empty());
    let shown = world.plumb(&["secret", "get", &key, "app"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), passwords[0]);
    let events = world.plumb(&["events", "-o", "json"]).output().unwrap();
    assert!(contains(&events.stdout, b"secretShown"), "{}", String::from_utf8_lossy(&events.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_a_password_is_shown_only_of_a_role_that_is_there() {
    let (mut world, key, name) = world_with_orders().await;
    // One role goes with its line, and another cannot be made: somebody else's is called so.
    PostgresServer::shared().psql(&format!("CREATE ROLE {name}_taken")).await;
    let both = SPEC.replace("  - {name: ro, access: read}", "  - {name: taken, access: read}");
    world.write_database("staging", "orders", &SPEC.replace("\n  - {name: ro, access: read}", ""));
    world.tenant.commit("Drop a role");
    world.in_sync().await;
    world.write_database("staging", "orders", &both);
    world.tenant.commit("Add another");
    world.apply().await;
    world.stop();
    for role in ["ro", "taken"] {
        let refused = world.plumb(&["secret", "get", &key, role]).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{role}: {said}");
        assert!(said.contains(&format!("has no role {role}; it has app")) && said.contains("plumb explain"), "{said}");
    }
    let shown = world.plumb(&["secret", "get", &key, "app"]).output().unwrap();
    assert!(logs_in(&name, "app", String::from_utf8_lossy(&shown.stdout).trim()).await);
    let audit = world.plumb(&["audit", "-o", "json"]).output().unwrap();
    let rows = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert_eq!(rows.matches("secretShown").count(), 1, "what was not shown is not written down: {rows}");
}

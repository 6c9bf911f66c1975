//! What is printed of servers, and of what does not go well.

use chrono::TimeDelta;
use plumb::model::{Circuit, Clock, EventKind, ExecutionOutcome, Reason, Summary, SystemClock, Trigger};
use plumb::store::sqlite::SqliteStore;
use plumb::store::{Mode, NewEvent, Scope, Store};

use super::{shown, snapshot};
use crate::harness::desk::Desk;
use crate::harness::postgres::PostgresServer;
use crate::harness::redis::{RedisOptions, RedisServer};

const SESSIONS: &str = "checkout/staging/Cache/sessions";

#[test]
fn a_plan_shows_what_would_be_lost() {
    let desk = Desk::with_starter();
    let server = PostgresServer::shared();
    desk.add_postgres(server);
    let ledger = |roles: &str| {
        desk.want("Database", "ledger", &format!("provider: pg, extensions: [pgcrypto], roles: [{roles}]"));
    };
    let (app, reports) = ("{name: app, access: readwrite}", "{name: reports, access: read}");
    ledger(&format!("{app}, {reports}"));
    let orders = desk.tenant.show("main:environments/staging/orders.yaml");
    let old = orders.replace("  name: orders", "  name: old\n  annotations: {plumb.dev/deletion: delete}");
    desk.tenant.write("environments/staging/old.yaml", old);
    desk.tenant.commit("Add a ledger, and one that may be deleted");
    let applied = desk.plumb(&["apply"]);
    assert_eq!(applied.code, 0, "{applied:?}");

    ledger(reports);
    desk.tenant.remove("environments/staging/old.yaml");
    desk.tenant.commit("Remove a role, and what may be deleted");
    for (name, args) in [("plan_of_losses", vec!["plan"]), ("plan_of_losses_json", vec!["plan", "-o", "json"])] {
        let said = desk.plumb(&args);
        assert_eq!(said.code, 0, "{said:?}");
        snapshot(name, &shown(&desk, &args, &said));
    }
}

#[test]
fn outputs_and_passwords_are_shown_to_those_who_ask() {
    let desk = Desk::with_starter();
    let server = RedisServer::start(RedisOptions { aclfile: true, password: None });
    let url = server.url("default");
    desk.add_provider("redis", &format!("  type: redis\n  url: {url}\n  serves: [{{kind: Cache}}]\n"));
    desk.want("Cache", "sessions", "");
    desk.tenant.commit("Add a cache");
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let shown_once = desk.plumb(&["secret", "get", SESSIONS, "user"]);
    let password = shown_once.stdout.trim();
    assert_eq!(
        server.cli_as("checkout_staging_sessions", password, &["SET", "checkout_staging_sessions:1", "x"]),
        "OK"
    );
    for (name, args) in [
        ("secret", vec!["secret", "get", SESSIONS, "user"]),
        ("secret_json", vec!["secret", "get", SESSIONS, "user", "-o", "json"]),
        ("secret_of_another_role", vec!["secret", "get", SESSIONS, "app"]),
        ("secret_events", vec!["events", SESSIONS]),
        ("audit", vec!["audit"]),
        ("audit_json", vec!["audit", "-t", "checkout", "-o", "json"]),
        ("audit_verify", vec!["audit", "--verify"]),
        ("get_outputs_json", vec!["get", SESSIONS, "-o", "json"]),
        ("describe_outputs", vec!["describe", SESSIONS]),
    ] {
        let mut said = desk.plumb(&args);
        assert_eq!(said.code, i32::from(name == "secret_of_another_role"), "{said:?}");
        assert_eq!(said.stdout.contains(password), ["secret", "secret_json"].contains(&name), "{name}");
        // Steps run side by side, and whoever runs the tests shows the password.
        if name.starts_with("audit") {
            said.stdout = steady_audit(&said.stdout);
        }
        said.stdout = said.stdout.replace(password, "[PASSWORD]");
        for (quote, end) in [("\"", "\""), (" ", "\n")] {
            let port = format!("{quote}{}{end}", server.port);
            said.stdout = said.stdout.replace(&port, &format!("{quote}[PORT]{end}"));
        }
        snapshot(name, &shown(&desk, &args, &said));
    }
    let history: Vec<serde_json::Value> = serde_json::from_str(&desk.plumb(&["history", "-o", "json"]).stdout).unwrap();
    let triggers: Vec<&str> = history.iter().map(|one| one["trigger"].as_str().unwrap()).collect();
    assert_eq!(
        triggers,
        ["secretshown", "secretshown", "secretshown", "commandline"],
        "whoever was shown one looked at nothing"
    );
}

/// The log without what differs from run to run: columns as wide as a name, the order of steps, who runs the tests.
fn steady_audit(text: &str) -> String {
    let mut lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    lines.retain(|line| !line.contains(" change checkout/") && !line.contains("\"change\""));
    let is_of_a_person = |line: &str| ["secretShown", "applied"].iter().any(|action| line.contains(action));
    let lines = lines.into_iter().map(|line| match (line.find("(uid "), is_of_a_person(&line)) {
        (Some(_), true) if line.starts_with('{') => {
            let (start, rest) = line.split_once("\"actor\":\"").unwrap();
            format!("{start}\"actor\":\"[PERSON]{}", &rest[rest.find('"').unwrap()..])
        }
        (Some(at), true) => {
            let end = at + line[at..].find(')').unwrap() + 1;
            let words: Vec<&str> = line[..at].split(' ').collect();
            format!("{} {} [PERSON]{}", words[0], words[1], &line[end..])
        }
        _ => line,
    });
    lines.map(|line| ["at", "committedAt"].iter().fold(line, |line, name| without_moment(&line, name)) + "\n").collect()
}

/// A line of JSON without the moment that has this name.
fn without_moment(line: &str, name: &str) -> String {
    match line.split_once(&format!("\"{name}\":\"")) {
        Some((start, rest)) => format!("{start}\"{name}\":\"[MOMENT]{}", &rest[rest.find('"').unwrap()..]),
        None => line.to_owned(),
    }
}

#[test]
fn the_doctor_says_what_cannot_be_reached() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    desk.tenant.vanish();
    for (name, args) in [
        ("doctor_of_no_repository", vec!["doctor"]),
        ("doctor_of_no_platform", vec!["doctor", "--platform", "nowhere", "-o", "json"]),
    ] {
        let said = desk.plumb(&args);
        assert_eq!(said.code, 1, "{said:?}");
        snapshot(name, &shown(&desk, &args, &said));
    }
}

#[test]
fn policy_tests_are_listed_with_what_they_came_to() {
    let desk = Desk::with_starter();
    desk.platform.write(
        "policies/names.rego",
        "package plumb.own_names\n\nimport rego.v1\n\ndeny contains {\"msg\": \"too long a name\"} if \
         count(input.resource.metadata.name) > 20\n",
    );
    desk.platform.write(
        "policies/names_test.rego",
        "package plumb.own_names_test\n\nimport data.plumb.own_names\nimport rego.v1\n\ntest_a_short_name_is_fine if \
         count(own_names.deny) == 0 with input as {\"resource\": {\"metadata\": {\"name\": \"a\"}}}\n\n\
         test_a_short_name_is_refused if count(own_names.deny) == 1 with input as {\"resource\": {\"metadata\": {\"name\": \"a\"}}}\n",
    );
    let work = desk.platform.work().display().to_string();
    let built_in = desk.plumb(&["policy", "test"]);
    assert_eq!(built_in.code, 0, "{built_in:?}");
    // The built-in ones are tested too.
    let args = ["policy", "test", work.as_str()];
    let mut said = desk.plumb(&args);
    assert_eq!(said.code, 1, "{said:?}");
    let own = said.stdout.lines().filter(|line| !built_in.stdout.contains(line));
    said.stdout = own.map(|line| format!("{line}\n")).collect();
    snapshot("policy_test_of_a_platform", &shown(&desk, &args, &said).replace(&work, "[PLATFORM]"));
    let json = desk.plumb(&["policy", "test", work.as_str(), "-o", "json"]);
    let tests: Vec<serde_json::Value> = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, tests.len()), (1, built_in.stdout.lines().count() - 1 + 2));
    let failed: Vec<_> = tests.iter().filter(|test| test["passed"] == false).collect();
    snapshot("policy_test_failed_json", &serde_json::to_string_pretty(&failed).unwrap());
}

#[test]
fn explain_names_the_chain_down_to_the_root() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    std::fs::write(desk.folder().join("login"), "none").unwrap();
    let login = desk.folder().join("login").display().to_string();
    // Nobody listens there.
    let away = "  type: postgres\n  url: postgres://plumb@127.0.0.1:1/postgres\n";
    desk.add_provider("away", &format!("{away}  credentials: {{file: {login}}}\n"));
    desk.want("Database", "ledger", "provider: away, connectionLimit: 5");
    desk.want("Database", "reports", "provider: files, dependsOn: [Database/ledger]");
    desk.want("Database", "archive", "provider: files, dependsOn: [Database/reports]");
    desk.tenant.commit("Add three that need one another");
    for _ in 0..3 {
        assert_eq!(desk.plumb(&["apply"]).code, 1);
    }
    let explain = |name: &str, args: &[&str], code: i32| {
        let said = desk.plumb(args);
        assert_eq!(said.code, code, "{said:?}");
        snapshot(name, &shown(&desk, args, &said));
    };
    let archive = "checkout/staging/Database/archive";
    explain("explain", &["explain", archive], 1);
    explain("explain_json", &["explain", archive, "-o", "json"], 1);
    explain("explain_ready", &["explain", "checkout/staging/Database/orders"], 0);
    explain("explain_of_what_git_does_not_have", &["explain", "checkout/staging/Database/nothing"], 1);
    explain("tree", &["tree"], 1);
    explain("tree_json", &["tree", "checkout", "-e", "staging", "-o", "json"], 1);
    explain("explain_of_no_tenant", &["explain", "nobody/staging/Database/nothing"], 1);
}

#[test]
fn explain_says_what_is_not_known_where_git_cannot_be_read_or_the_tenant_is_gone() {
    let desk = Desk::with_starter();
    let orders = "checkout/staging/Database/orders";
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let head = desk.tenant.head();
    desk.tenant.vanish();
    assert_eq!(desk.plumb(&["apply"]).code, 1);
    let unread = desk.plumb(&["explain", orders]);
    assert_eq!(unread.code, 1, "{unread:?}");
    let answer = unread.stdout.lines().next().unwrap();
    assert!(answer.contains("it is not known whether") && answer.contains(&head), "{unread:?}");
    assert!(unread.stdout.contains("SourceUnavailable"), "{unread:?}");
    desk.tenant.come_back();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    assert_eq!(desk.plumb(&["explain", orders]).code, 0);
    // Frozen, and looked at no more.
    let tenants = desk.platform.show("main:tenants.yaml");
    desk.platform.write("tenants.yaml", tenants.replace("{name: checkout}", "{name: another}"));
    desk.platform.commit("Have another tenant");
    desk.plumb(&["apply"]);
    let removed = desk.plumb(&["explain", orders]);
    assert_eq!(removed.code, 1, "{removed:?}");
    assert!(removed.stdout.lines().next().unwrap().contains("it is not known whether"), "{removed:?}");
    assert!(removed.stdout.contains("TenantRemoved"), "{removed:?}");
}

#[test]
fn what_is_held_says_when_it_goes_on_or_what_lifts_it() {
    let desk = Desk::with_starter();
    let platform = desk.platform.show("main:platform.yaml");
    // A minute every four years.
    let window = "{mode: allow, schedule: \"0 0 29 2 *\", duration: 1m, environments: [staging]}";
    desk.platform.write("platform.yaml", format!("{}\n  windows: [{window}]\n", platform.trim_end()));
    let tenants = desk.platform.show("main:tenants.yaml");
    let suspended = "  suspend: [production]\n  suspendReason: the move to the new servers, OPS-7";
    desk.platform.write("tenants.yaml", format!("{}\n{suspended}\n", tenants.trim_end()));
    desk.platform.commit("Close staging, suspend production");
    let seen = |name: &str, args: &[&str], code: i32| {
        let said = desk.plumb(args);
        assert_eq!(said.code, code, "{said:?}");
        snapshot(name, &shown(&desk, args, &said));
    };
    seen("plan_held", &["plan"], 0);
    seen("plan_held_json", &["plan", "-o", "json"], 0);
    assert_eq!(desk.plumb(&["apply"]).code, 1);
    seen("get_held", &["get"], 0);
    seen("get_held_json", &["get", "checkout/staging/Database/orders", "-o", "json"], 0);
    seen("explain_window", &["explain", "checkout/staging/Database/orders"], 1);
    seen("explain_suspended", &["explain", "checkout/production/Database/orders"], 1);
}

#[test]
fn dead_letters_are_listed_and_retried() {
    let desk = Desk::with_starter();
    // Its objects are no orphans to other tests on the server.
    desk.platform.write("platform.yaml", desk.platform.show("main:platform.yaml").replace("id: ", "id: letters-"));
    let server = PostgresServer::shared();
    desk.add_postgres(server);
    desk.want("Database", "wishes", "provider: pg, connectionLimit: 5, extensions: [no_such_extension]");
    desk.tenant.commit("Wish for what is not there");
    let wishes = "checkout/staging/Database/wishes";
    let seen = |name: &str, args: &[&str], code: i32| {
        let said = desk.plumb(args);
        assert_eq!(said.code, code, "{said:?}");
        snapshot(name, &shown(&desk, args, &said));
    };
    let orders = "checkout/staging/Database/orders";
    assert_eq!(desk.plumb(&["apply"]).code, 1);
    seen("dead_letters", &["get", "--dead-letters"], 0);
    seen("explain_dead_letter", &["explain", wishes], 1);
    seen("retry_of_what_did_not_fail", &["retry", orders], 1);
    seen("retry", &["retry", wishes], 0);
    assert!(desk.plumb(&["get", "--dead-letters"]).stdout.contains("no dead letters"));
    let audited = desk.plumb(&["audit", "-o", "json"]).stdout;
    assert!(audited.lines().any(|row| row.contains("\"retried\"") && row.contains(wishes)), "{audited}");
    // A server that runs tries it, and knows it again.
    let serving = desk.serve();
    let args = ["get", "--dead-letters", "--server", &serving.address, "-o", "json"];
    let letters = desk.plumb(&args);
    assert!(letters.stdout.contains(wishes), "{letters:?}");
    let explained = desk.plumb(&["explain", wishes, "--server", &serving.address]);
    assert!(explained.stdout.contains("DeadLetter"), "{explained:?}");
    drop(serving);

    // Nobody looks at what has left the platform, so nothing of it waits for somebody.
    assert!(desk.plumb(&["get", "--dead-letters"]).stdout.contains(wishes));
    let tenants = desk.platform.show("main:tenants.yaml");
    desk.platform.write("tenants.yaml", tenants.replace("{name: checkout}", "{name: another}"));
    desk.platform.commit("Have another tenant");
    desk.plumb(&["apply"]);
    seen("retry_of_a_tenant_that_left", &["retry", "-t", "checkout"], 1);
    seen("retry_of_a_resource_that_left", &["retry", wishes], 1);
    // The other has the same wish.
    let left = desk.plumb(&["get", "--dead-letters", "-o", "json"]).stdout;
    assert!(left.contains("another/staging/Database/wishes") && !left.contains(wishes), "{left}");
    assert_eq!(desk.plumb(&["retry"]).stdout, "another/staging/Database/wishes is tried again at the next look\n");
    let audited = desk.plumb(&["audit", "-t", "checkout", "-o", "json"]).stdout;
    assert_eq!(audited.lines().filter(|row| row.contains("\"retried\"")).count(), 1, "{audited}");
}

#[test]
fn what_is_about_one_environment_stays_out_of_the_others_or_says_that_it_cannot() {
    let desk = Desk::with_starter();
    // Its objects are no orphans to other tests on the server.
    desk.platform.write("platform.yaml", desk.platform.show("main:platform.yaml").replace("id: ", "id: places-"));
    let server = PostgresServer::shared();
    desk.add_postgres(server);
    desk.want("Database", "places", "provider: pg, extensions: [no_such_extension]");
    let places = std::fs::read_to_string(desk.tenant.work().join("environments/staging/places.yaml")).unwrap();
    desk.tenant.write("environments/production/places.yaml", places);
    desk.tenant.commit("Wish for what is not there, twice");
    assert_eq!(desk.plumb(&["apply"]).code, 1);
    let refused = |args: &[&str], why: &str| {
        let said = desk.plumb(args);
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{said:?}");
        assert!(said.stderr.contains(why), "{said:?}");
    };
    refused(&["retry", "-t", "checkout", "-e", "nowhere"], "the state knows production, staging");
    refused(&["retry", "checkout/staging/Database/places", "-e", "production"], "is not of the environment production");
    let retried = desk.plumb(&["retry", "-t", "checkout", "-e", "staging", "-q"]);
    assert_eq!(retried.stdout, "checkout/staging/Database/places is tried again at the next look\n", "{retried:?}");
    let letters = desk.plumb(&["get", "--dead-letters"]).stdout;
    assert!(letters.contains("checkout/production/Database/places"), "{letters}");
    assert!(!letters.contains("checkout/staging/Database/places"), "{letters}");
    let again = desk.plumb(&["retry", "-e", "staging", "-q"]).stdout;
    assert_eq!(again, "checkout/staging/Database/places is tried again at the next look\n");

    refused(&["history", "-e", "staging"], "whole tenants");
    let of_one = desk.plumb(&["history", "checkout/staging/Database/orders", "-e", "staging"]);
    assert_eq!(of_one.code, 0, "{of_one:?}");
    refused(&["audit", "--verify", "-e", "staging"], "leave out --environment");
    let audited = desk.plumb(&["audit", "-e", "staging", "-o", "json"]).stdout;
    let keys = audited.lines().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap()["key"].clone());
    let keys: Vec<serde_json::Value> = keys.collect();
    let is_there = |key: &serde_json::Value| key.as_str().is_some_and(|key| key.starts_with("checkout/staging/"));
    assert!(keys.len() >= 3 && keys.iter().all(is_there), "{audited}");
    let shown = desk.plumb(&["audit", "-e", "staging"]).stdout;
    assert_eq!(shown.lines().count(), keys.len() + 1, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_are_listed_with_their_circuits() {
    let desk = Desk::with_starter();
    let seen = |name: &str, args: &[&str]| {
        let said = desk.plumb(args);
        assert_eq!(said.code, 0, "{said:?}");
        snapshot(name, &shown(&desk, args, &said));
    };
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    seen("providers", &["get", "--providers"]);
    // One that nobody asks for a while.
    let now = SystemClock.now();
    let open = Circuit {
        provider: "pg".to_owned(),
        failures: 5,
        reason: Reason::ProviderUnreachable,
        message: "pg.example.com:5432 refused the connection".to_owned(),
        since: now - TimeDelta::hours(3),
        asked_at: now,
        retry_at: Some(now + TimeDelta::hours(1)),
    };
    let store = SqliteStore::open(desk.data(""), Mode::Reconcile).await.unwrap();
    let mut tx = store.begin(Scope::Platform).await.unwrap();
    tx.put_circuit(&open).await.unwrap();
    tx.commit().await.unwrap();
    drop(store);
    seen("providers_open", &["get", "--providers"]);
    seen("providers_open_json", &["get", "--providers", "-o", "json"]);
    // What waits for one has it asked again, though no step of it has failed.
    let orders = "checkout/staging/Database/orders";
    let store = SqliteStore::open(desk.data(""), Mode::Reconcile).await.unwrap();
    let mut tx = store.begin(Scope::Platform).await.unwrap();
    tx.put_circuit(&Circuit { provider: "files".to_owned(), ..open.clone() }).await.unwrap();
    tx.commit().await.unwrap();
    drop(store);
    let other = desk.plumb(&["retry", "-t", "checkout", "-q"]);
    assert_eq!(other.stdout, "provider files is asked again at the next look\n", "{other:?}");
    let nothing = desk.plumb(&["retry", "-t", "checkout", "-q"]);
    assert_eq!(nothing.stdout, "no step of checkout has failed; it is looked at all the same\n", "{nothing:?}");
    let store = SqliteStore::open(desk.data(""), Mode::Reconcile).await.unwrap();
    let mut tx = store.begin(Scope::Platform).await.unwrap();
    tx.put_circuit(&Circuit { provider: "files".to_owned(), ..open }).await.unwrap();
    tx.commit().await.unwrap();
    drop(store);
    let retried = desk.plumb(&["retry", orders]);
    assert_eq!(retried.code, 0, "{retried:?}");
    assert_eq!(retried.stdout, "provider files is asked again at the next look\n");
    let again = desk.plumb(&["retry", orders]);
    assert_eq!((again.code, again.stdout.as_str()), (1, ""), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_are_listed_told_and_compared() {
    let desk = Desk::with_starter();
    let seen = |name: &str, args: &[&str], code: i32| {
        let said = desk.plumb(args);
        assert_eq!(said.code, code, "{said:?}");
        snapshot(name, &shown(&desk, args, &said));
    };
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let manifest = "environments/staging/orders.yaml";
    let text = desk.tenant.show(&format!("main:{manifest}"));
    desk.tenant.write(manifest, text.replace("userVersion: 7", "userVersion: 8"));
    desk.tenant.commit("Expect schema version 8");
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    super::change_by_hand(&desk).await;
    assert_eq!(desk.plumb(&["apply"]).code, 1);
    seen("history", &["history"], 0);
    let of_one = desk.plumb(&["history", "checkout/production/Database/orders", "-o", "json"]);
    let executions: serde_json::Value = serde_json::from_str(&of_one.stdout).unwrap();
    let numbers: Vec<_> = executions.as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    assert_eq!(numbers, [1], "only the first touched production");
    seen("timeline", &["timeline", "2"], 0);
    assert_eq!(desk.plumb(&["timeline", "3", "-o", "json"]).code, 1);
    seen("timeline_of_nothing", &["timeline", "99"], 1);
    seen("compare", &["compare", "2", "3"], 1);
    assert_eq!(desk.plumb(&["compare", "2", "2"]).code, 0);
    // A server tells the same.
    let serving = desk.serve();
    let remote = |args: &[&str]| desk.plumb(&[args, &["--server", &serving.address]].concat()).stdout;
    assert_eq!(remote(&["compare", "2", "3"]), desk.plumb(&["compare", "2", "3"]).stdout);
    assert_eq!(remote(&["timeline", "2"]), desk.plumb(&["timeline", "2"]).stdout);
    assert!(remote(&["history", "checkout/production/Database/orders"]).contains("PLANNED"));
    assert!(remote(&["tree"]).contains("Database/orders"));
}

#[test]
fn two_changes_of_one_field_are_not_the_same() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let manifest = "environments/staging/orders.yaml";
    let text = desk.tenant.show(&format!("main:{manifest}"));
    for version in ["8", "9"] {
        desk.tenant.write(manifest, text.replace("userVersion: 7", &format!("userVersion: {version}")));
        desk.tenant.commit(&format!("Expect schema version {version}"));
        assert_eq!(desk.plumb(&["apply"]).code, 0);
    }
    let compared = desk.plumb(&["compare", "2", "3"]);
    assert_eq!((compared.code, compared.stdout.contains("the same\n  plan")), (1, false), "{compared:?}");
    assert!(!compared.stdout.contains("both did and found the same"), "{compared:?}");
    for line in [
        "- checkout/staging/Database/orders  Update began: 1 field (userVersion: 7 -> 8)",
        "+ checkout/staging/Database/orders  Update began: 1 field (userVersion: 8 -> 9)",
    ] {
        assert!(compared.stdout.contains(line), "{compared:?}");
    }
    assert!(desk.plumb(&["compare", "2", "2"]).stdout.contains("both did and found the same"));
}

#[test]
fn what_nothing_is_known_of_is_said_to_be_unknown() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let serving = desk.serve();
    let unknown = "there is no tenant \"nosuch\"; the state knows checkout";
    for server in [&[][..], &["--server", &serving.address]] {
        for args in [
            &["history", "nosuch"][..],
            &["history", "nosuch/staging/Database/orders"],
            &["events", "-t", "nosuch"],
            &["events", "nosuch/staging/Database/orders"],
            &["tree", "nosuch"],
            &["get", "-t", "nosuch"],
            &["get", "--orphans", "-t", "nosuch"],
            &["get", "--dead-letters", "-t", "nosuch"],
            &["get", "--providers", "-t", "nosuch"],
        ] {
            let said = desk.plumb(&[args, server].concat());
            assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{args:?}: {said:?}");
            assert!(said.stderr.contains(unknown), "{args:?}: {said:?}");
        }
        assert_eq!(desk.plumb(&[&["diff", "-t", "nosuch"], server].concat()).code, 2);
        for command in ["history", "events"] {
            let said = desk.plumb(&[&[command, "checkout/staging/Database/none"], server].concat());
            assert_eq!(said.code, 0, "{said:?}");
            assert!(said.stderr.contains("nothing is on record of checkout/staging/Database/none"), "{said:?}");
        }
        for command in ["history", "tree"] {
            let nothing = desk.plumb(&[&[command, ""], server].concat());
            assert_eq!((nothing.code, nothing.stdout.as_str()), (2, ""), "{nothing:?}");
        }
    }
    let retried = desk.plumb(&["retry", "-t", "nosuch"]);
    assert_eq!((retried.code, retried.stderr.contains(unknown)), (1, true), "{retried:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_executions_are_compared_to_their_beginnings() {
    /// More than two pages.
    const EVENTS: usize = 2_500;
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let store = SqliteStore::open(desk.data(""), Mode::Append).await.unwrap();
    let (mut executions, now) = (Vec::new(), SystemClock.now());
    for (first, often) in [("nothing", 1), ("nothing", 1), ("a disk was full", 1), ("nothing", 3)] {
        let mut tx = store.begin(Scope::Platform).await.unwrap();
        let id = tx.start_execution("checkout", Trigger::Poll, None, now).await.unwrap();
        let warning = |message: &str| {
            let kind = EventKind::Warning { reason: Reason::Internal, message: message.to_owned() };
            NewEvent { key: None, at: now, kind }
        };
        let rest = (1..EVENTS).map(|number| warning(&format!("the same, {number}")));
        let all = std::iter::repeat_n(warning(first), often).chain(rest);
        tx.append_events(id, "checkout", &all.collect::<Vec<_>>()).await.unwrap();
        let (outcome, summary) = (ExecutionOutcome::InSync, Summary::default());
        tx.finish_execution(id, outcome, None, None, summary, now).await.unwrap();
        tx.commit().await.unwrap();
        executions.push(id.to_string());
    }
    store.close().await;
    let serving = desk.serve();
    let [one, ..] = &executions[..] else { panic!("there are some") };
    for server in [&[][..], &["--server", &serving.address]] {
        // Each page says how to get to the one before, down to the beginning.
        let mut command = vec!["timeline".to_owned(), one.clone()];
        let mut events = 0;
        loop {
            let args: Vec<&str> = command.iter().map(String::as_str).chain(server.iter().copied()).collect();
            let said = desk.plumb(&args);
            assert_eq!(said.code, 0, "{said:?}");
            events += said.stdout.lines().filter(|line| line.trim_start().starts_with(['+', '-'])).count();
            let Some((_, way)) = said.stdout.split_once("are left out: plumb ") else { break };
            command = way.lines().next().unwrap().split(' ').map(str::to_owned).collect();
        }
        assert_eq!(events, EVENTS);
        let args = ["events", "--execution", one, "--limit", "1000"];
        let said = desk.plumb(&[&args, server].concat());
        let (_, way) = said.stderr.split_once("for older ones: plumb ").expect("it is said");
        let way: Vec<&str> = way.trim().split(' ').collect();
        assert_eq!(way[..5], args);
        let older = desk.plumb(&[&way, server].concat());
        assert_eq!(older.stdout.lines().count(), 1000, "{older:?}");
        let numbers = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.rsplit_once(", ").unwrap().1.to_owned()).collect()
        };
        assert!(numbers(&older.stdout).iter().all(|number| !numbers(&said.stdout).contains(number)));
    }
    let [one, same, other, thrice] = &executions[..] else { panic!("there are four") };
    for server in [&[][..], &["--server", &serving.address]] {
        let compare = |second: &str| desk.plumb(&[&["compare", one, second], server].concat());
        assert_eq!(compare(same).code, 0);
        let differs = compare(other);
        assert_eq!((differs.code, differs.stdout.contains("a disk was full")), (1, true), "{differs:?}");
        // What happened three times did not happen once.
        let often = compare(thrice);
        assert_eq!((often.code, often.stdout.matches("+ checkout  nothing\n").count()), (1, 2), "{often:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_made_again_as_it_was_then_and_with_another_commit() {
    let desk = Desk::with_starter();
    let seen = |name: &str, args: &[&str], code: i32| {
        let said = desk.plumb(args);
        assert_eq!(said.code, code, "{said:?}");
        snapshot(name, &shown(&desk, args, &said));
    };
    let json = |args: &[&str]| -> serde_json::Value { serde_json::from_str(&desk.plumb(args).stdout).unwrap() };
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let manifest = "environments/staging/orders.yaml";
    let text = desk.tenant.show(&format!("main:{manifest}"));
    let version = |version: u32| {
        desk.tenant.write(manifest, text.replace("userVersion: 7", &format!("userVersion: {version}")));
        desk.tenant.commit(&format!("Expect schema version {version}"))
    };
    version(8);
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let later = version(9);
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    // Nothing was left to do, so nothing was kept.
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    seen("replay", &["replay", "2"], 0);
    seen("replay_at", &["replay", "2", "--at", &later[..12]], 0);
    seen("replay_of_nothing", &["replay", "4"], 1);
    seen("replay_of_no_execution", &["replay", "99"], 1);
    let plan = json(&["replay", "2", "-o", "json"]);
    assert_eq!((&plan[0]["same"], &plan[0]["plan"]["steps"][0]["changes"][0]["to"]), (&true.into(), &8.into()));
    assert_eq!(plan[0]["plan"]["id"], json(&["history", "-o", "json"])[2]["plan"]);
    let plan = json(&["replay", "1", "--at", "main", "-o", "json"]);
    assert_eq!(plan[0]["same"], false);
    let steps = plan[0]["plan"]["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["action"] == "create") && steps.len() == 2, "{plan}");
    let unknown = desk.plumb(&["replay", "2", "--at", "nowhere"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("nowhere"), "{unknown:?}");
    // Nothing was applied by any of them.
    assert_eq!(desk.plumb(&["plan", "--detailed-exitcode"]).code, 0);
    // The mirrors can be lost: git has all of it.
    std::fs::remove_dir_all(desk.data("mirrors")).unwrap();
    assert_eq!(desk.plumb(&["replay", "2"]).code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_planned_is_applied_where_it_is_what_there_is_to_do_and_else_it_is_said_what_differs() {
    let desk = Desk::with_starter();
    let seen = |name: &str, args: &[&str], code: i32| {
        let said = desk.plumb(args);
        assert_eq!(said.code, code, "{said:?}");
        snapshot(name, &shown(&desk, args, &said));
    };
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    // A window keeps a change from being applied.
    let platform = desk.platform.show("main:platform.yaml");
    let window = "{mode: deny, schedule: \"* * * * *\", duration: 1h}";
    desk.platform.write("platform.yaml", format!("{}\n  windows: [{window}]\n", platform.trim_end()));
    desk.platform.commit("Change nothing now");
    let manifest = "environments/staging/orders.yaml";
    let text = desk.tenant.show(&format!("main:{manifest}"));
    let version = |version: u32| {
        desk.tenant.write(manifest, text.replace("userVersion: 7", &format!("userVersion: {version}")));
        desk.tenant.commit(&format!("Expect schema version {version}"))
    };
    version(8);
    assert_eq!(desk.plumb(&["apply"]).code, 1);
    // It is what there is to do, and the window holds it still.
    let held = desk.plumb(&["replay", "2", "--apply"]);
    assert_eq!((held.code, held.stdout.contains("WindowClosed")), (1, true), "{held:?}");
    desk.platform.write("platform.yaml", platform);
    desk.platform.commit("Go on");
    // There is something else to do.
    version(9);
    seen("replay_apply_of_another_plan", &["replay", "2", "--apply"], 1);
    let history = |of: &str| -> Vec<serde_json::Value> {
        let history = desk.plumb(&["history", "-o", "json"]).stdout;
        let all: Vec<serde_json::Value> = serde_json::from_str(&history).unwrap();
        all.into_iter().map(|one| one[of].clone()).collect()
    };
    assert_eq!(history("id"), [3, 2, 1], "it was not even looked at");
    // At that commit it is that.
    let at = desk.plumb(&["replay", "2", "--at", "main", "--apply", "-o", "json"]);
    let result: serde_json::Value = serde_json::from_str(&at.stdout).unwrap();
    assert_eq!((at.code, &result[0]["outcome"], &result[0]["done"]), (0, &"InSync".into(), &1.into()), "{at:?}");
    assert_eq!(result[0]["steps"][0]["changes"][0]["to"], 9);
    version(8);
    // The same words are not the same steps: what is live is another value by now.
    assert_eq!(desk.plumb(&["replay", "2", "--apply"]).code, 1);
    version(7);
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    version(8);
    seen("replay_apply", &["replay", "2", "--apply"], 0);
    assert_eq!(desk.plumb(&["plan", "--detailed-exitcode"]).code, 0);
    // Each is an execution like another, and whose it was is on record.
    assert!(history("trigger").iter().all(|trigger| trigger == "commandline"));
    let audited = desk.plumb(&["audit", "-t", "checkout", "-o", "json"]).stdout;
    let rows = audited.lines().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap());
    let replays = rows.filter(|row| row["details"]["command"] == "replay");
    let told: Vec<_> =
        replays.map(|row| (row["details"]["replays"].clone(), row["details"]["execution"].clone())).collect();
    assert_eq!(told, [(2.into(), 3.into()), (2.into(), 4.into()), (2.into(), 6.into())]);
    let remote = desk.plumb(&["replay", "2", "--apply", "--server", "http://127.0.0.1:1"]);
    assert_eq!((remote.code, remote.stderr.contains("leave out --server")), (1, true), "{remote:?}");
    // Looks that found nothing say so, and which one to ask.
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let quiet = desk.plumb(&["replay", "7", "--apply"]);
    assert_eq!((quiet.code, quiet.stderr.contains("`plumb replay 6` plans the last")), (1, true), "{quiet:?}");
    assert_eq!(desk.plumb(&["audit", "--verify"]).code, 0);
}

#[test]
fn what_was_undone_is_explained_by_what_failed() {
    let desk = Desk::with_starter();
    // Its objects are no orphans to other tests on the server.
    desk.platform.write("platform.yaml", desk.platform.show("main:platform.yaml").replace("id: ", "id: undone-"));
    let server = PostgresServer::shared();
    desk.add_postgres(server);
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let together =
        |text: &str| text.replacen("  labels:", "  annotations: {plumb.dev/on-failure: rollback}\n  labels:", 1);
    let manifest = "environments/staging/orders.yaml";
    let orders = desk.tenant.show(&format!("main:{manifest}"));
    desk.tenant.write(manifest, together(&orders.replace("userVersion: 7", "userVersion: 8")));
    let wishes = "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: undone-wishes\n  labels: {owner: \
                  team-checkout}\nspec: {provider: pg, connectionLimit: 5, extensions: [no_such_extension], dependsOn: [Database/orders]}\n";
    desk.tenant.write("environments/staging/wishes.yaml", together(wishes));
    desk.tenant.commit("Wish for what is not there");
    assert_eq!(desk.plumb(&["apply"]).code, 1);
    let orders = "checkout/staging/Database/orders";
    for (name, args, code) in [
        ("explain_undone", vec!["explain", orders], 1),
        ("explain_undone_json", vec!["explain", orders, "-o", "json"], 1),
        ("timeline_undone", vec!["timeline", "2"], 1),
    ] {
        let said = desk.plumb(&args);
        assert_eq!(said.code, code, "{said:?}");
        snapshot(name, &shown(&desk, &args, &said));
    }
}

//! What is printed of servers, and of what does not go well.

use super::{shown, snapshot};
use crate::harness::desk::Desk;
use crate::harness::postgres::PostgresServer;
use crate::harness::redis::{RedisOptions, RedisServer};

const SESSIONS: &str = "checkout/staging/Cache/sessions";

/// Adds a Provider to the platform, with these lines in its spec, for the tenant to use.
fn add_provider(desk: &Desk, name: &str, spec: &str) {
    let document = format!("---\napiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: {name}}}\nspec:\n{spec}");
    desk.platform.write("providers.yaml", desk.platform.show("main:providers.yaml") + &document);
    let tenants = desk.platform.show("main:tenants.yaml");
    desk.platform.write("tenants.yaml", tenants.replace("providers: [files", &format!("providers: [files, {name}")));
    desk.platform.commit("Add a provider");
}

/// Writes a document of staging; the caller commits.
fn write(desk: &Desk, kind: &str, name: &str, spec: &str) {
    desk.tenant.write(
        &format!("environments/staging/{name}.yaml"),
        format!(
            "apiVersion: plumb.dev/v1\nkind: {kind}\nmetadata:\n  name: {name}\n  labels: {{owner: team-checkout}}\nspec: \
             {{{spec}}}\n"
        ),
    );
}

#[test]
fn a_plan_shows_what_would_be_lost() {
    let desk = Desk::with_starter();
    let server = PostgresServer::shared();
    std::fs::write(desk.folder().join("login"), server.login().1).unwrap();
    let login = desk.folder().join("login").display().to_string();
    add_provider(
        &desk,
        "pg",
        &format!("  type: postgres\n  url: {}\n  credentials: {{file: {login}}}\n", server.url()),
    );
    let ledger = |roles: &str| {
        write(&desk, "Database", "ledger", &format!("provider: pg, extensions: [pgcrypto], roles: [{roles}]"));
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
    add_provider(&desk, "redis", &format!("  type: redis\n  url: {url}\n  serves: [{{kind: Cache}}]\n"));
    write(&desk, "Cache", "sessions", "");
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
}

/// The log without what differs from run to run: columns as wide as a name, the order of steps, who runs the tests.
fn steady_audit(text: &str) -> String {
    let mut lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    lines.retain(|line| !line.contains(" change checkout/") && !line.contains("\"change\""));
    let lines = lines.into_iter().map(|line| match (line.find("(uid "), line.contains("secretShown")) {
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

//! The program as people see it: what it prints, and what it exits with.

mod reading;

use std::time::Duration;

use plumb::model::{Ask, Request, Trigger, Width};
use plumb::store::sqlite::SqliteStore;
use plumb::store::{Mode, Queue as _};
use sqlx::{Connection, SqliteConnection};

use crate::harness::desk::{Desk, Said};
use crate::harness::world::run_sql;

const ORDERS: &str = "checkout/staging/Database/orders";
const MANIFEST: &str = "environments/staging/orders.yaml";

/// Every command, as `--help` names it.
const COMMANDS: &[&str] = &[
    "demo",
    "init",
    "validate",
    "plan",
    "apply",
    "watch",
    "serve",
    "drift",
    "get",
    "describe",
    "diff",
    "events",
    "history",
    "timeline",
    "compare",
    "replay",
    "tree",
    "explain",
    "retry",
    "audit",
    "secret",
    "secret get",
    "reconcile",
    "db",
    "db migrate",
    "db backup",
    "db restore",
    "db move",
    "db reopen",
    "schema",
    "policy",
    "policy test",
    "doctor",
    "completions",
];

#[test]
fn help_says_what_there_is() {
    let desk = Desk::empty();
    let help = desk.plumb_with(&["--help"], &[]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    snapshot("help", &help.stdout);

    let mut all = String::new();
    for command in COMMANDS {
        let args: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = desk.plumb_with(&args, &[]);
        assert_eq!((help.code, help.stderr.as_str()), (0, ""), "{command}");
        // What all commands share stands in the first snapshot.
        let own = help.stdout.split("\nCommon:").next().unwrap();
        all.push_str(&format!("$ plumb {command} --help\n{}\n\n", own.trim_end()));
    }
    snapshot("help_of_commands", &all);
}

#[test]
fn help_shows_no_address_that_may_hold_a_password() {
    let desk = Desk::empty();
    let secret = "https://a:hunter2@host/d";
    let variables =
        [("PLUMB_DATABASE", "postgres://a:hunter2@h/d"), ("PLUMB_PLATFORM", secret), ("PLUMB_SERVER", secret)];
    for args in [vec!["--help"], vec!["-h"], vec!["get", "--help"], vec!["get", "-h"]] {
        let help = desk.plumb_with(&args, &variables);
        assert_eq!(help.code, 0);
        assert!(!help.stdout.contains("hunter2") && !help.stderr.contains("hunter2"), "{help:?}");
    }
}

#[test]
fn the_state_is_in_the_folder_that_the_database_names() {
    let desk = Desk::with_starter();
    let folder = desk.folder().canonicalize().unwrap();
    let plumb =
        |url: &str| desk.plumb_with(&["apply"], &[("PLUMB_PLATFORM", &desk.platform.url()), ("PLUMB_DATABASE", url)]);
    for (url, name) in [
        ("sqlite:relative".to_owned(), "relative"),
        (format!("sqlite:{}/plain", folder.display()), "plain"),
        (format!("sqlite://{}/absolute", folder.display()), "absolute"),
        (format!("sqlite:///{}/slashes", folder.display()), "slashes"),
    ] {
        let applied = plumb(&url);
        assert_eq!((applied.code, folder.join(name).join("plumb.db").exists()), (0, true), "{url}: {applied:?}");
    }
}

#[test]
fn help_names_every_command_of_this_list_and_no_other() {
    let help = Desk::empty().plumb_with(&["-h"], &[]).stdout;
    let listed: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let known: Vec<&str> = COMMANDS.iter().copied().filter(|command| !command.contains(' ')).collect();
    assert_eq!(listed, known);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_first_plan_to_an_accepted_drift() {
    let desk = Desk::with_starter();
    let seen = |name: &str, args: &[&str]| seen(&desk, name, args);
    assert_eq!(seen("plan", &["plan"]), 0);
    assert_eq!(seen("plan_json", &["plan", "-o", "json", "-e", "staging"]), 0);
    assert_eq!(desk.plumb(&["plan", "--detailed-exitcode"]).code, 2);
    assert!(!desk.data("plumb.db").exists(), "a plan makes no state");

    // Steps run side by side, so that their progress comes in any order.
    assert_eq!(seen("apply", &["apply", "--quiet"]), 0);
    assert_eq!(seen("apply_again", &["apply"]), 0);
    assert_eq!(desk.plumb(&["plan", "--detailed-exitcode"]).code, 0);
    assert_eq!(seen("get", &["get"]), 0);
    assert_eq!(seen("get_wide", &["get", ORDERS, "-o", "wide"]), 0);
    assert_eq!(seen("describe", &["describe", ORDERS]), 0);
    assert_eq!(desk.plumb(&["diff"]).code, 0);
    assert_eq!(seen("drift_none", &["drift"]), 0);

    change_by_hand(&desk).await;
    assert_eq!(seen("drift", &["drift", "-e", "staging"]), 1);
    assert_eq!(seen("drift_json", &["drift", ORDERS, "-o", "json"]), 1);
    assert_eq!(seen("apply_drift", &["apply"]), 1);
    assert_eq!(seen("diff", &["diff"]), 1);
    assert_eq!(seen("get_drifted", &["get", ORDERS]), 0);
    assert_eq!(seen("describe_drifted", &["describe", ORDERS]), 0);

    desk.tenant.merge("plumb/drift/staging/database-orders", crate::harness::git::MergeHow::FastForward);
    assert_eq!(seen("apply_accepted", &["apply"]), 0);
    assert_eq!(desk.plumb(&["drift"]).code, 0);
    assert_eq!(seen("events_of_the_story", &["events", ORDERS]), 0);
    assert_eq!(seen("events_of_a_look", &["events", "--execution", "3"]), 0);
    assert_eq!(seen("events_json", &["events", ORDERS, "--execution", "3", "-o", "json"]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_reading_commands_show() {
    let desk = Desk::with_starter();
    let seen = |name: &str, args: &[&str]| seen(&desk, name, args);
    assert_eq!(seen("doctor_before", &["doctor"]), 0);
    assert_eq!(seen("policy_test", &["policy", "test"]), 0);
    desk.plumb(&["apply", "-q"]);
    assert_eq!(seen("events", &["events", "-e", "staging"]), 0);
    assert_eq!(seen("get_yaml", &["get", ORDERS, "-o", "yaml"]), 0);
    assert_eq!(seen("get_json", &["get", ORDERS, "-o", "json"]), 0);
    assert_eq!(seen("secret_get_of_what_has_none", &["secret", "get", ORDERS, "app"]), 1);
    assert_eq!(seen("orphans_none", &["get", "--orphans"]), 0);
    const PRODUCTION: &str = "environments/production/orders.yaml";
    let text = desk.tenant.show(&format!("main:{PRODUCTION}"));
    desk.tenant.write(PRODUCTION, text.replace("  labels:", "  annotations: {plumb.dev/deletion: retain}\n  labels:"));
    desk.tenant.commit("Keep it, whatever comes");
    desk.plumb(&["apply", "-q"]);
    desk.tenant.remove(PRODUCTION);
    desk.tenant.commit("Let go of it");
    desk.plumb(&["apply", "-q"]);
    assert_eq!(seen("orphans", &["get", "--orphans"]), 0);
    assert_eq!(seen("orphans_json", &["get", "--orphans", "-o", "json"]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_shows_what_is_held_lost_taken_over_and_unseen() {
    let desk = Desk::with_starter();
    let seen = |name: &str, args: &[&str]| seen(&desk, name, args);
    let write = |name: &str, annotations: &str, spec: &str| {
        desk.tenant.write(
            &format!("environments/staging/{name}.yaml"),
            format!(
                "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: {name}\n  labels: {{owner: team-checkout}}\n  \
                 annotations: {{{annotations}}}\nspec: {{{spec}}}\n"
            ),
        );
    };
    write("replaced", "plumb.dev/deletion: delete", "pageSize: 4096");
    write("removed", "plumb.dev/drift: observe", "");
    desk.tenant.commit("Add two");
    assert_eq!(desk.plumb(&["apply", "-q"]).code, 0);
    write("replaced", "plumb.dev/deletion: delete", "pageSize: 8192");
    write("adopted", "\"plumb.dev/adopt\": \"true\"", "userVersion: 3");
    write("refused", "plumb.dev/drift: observe", "userVersion: 3");
    desk.tenant.remove("environments/staging/removed.yaml");
    desk.tenant.commit("Ask for much");
    for name in ["adopted", "refused"] {
        let file = desk.data(&format!("databases/checkout_staging_{name}.db"));
        run_sql(&file, "PRAGMA user_version = 1; CREATE TABLE t (x)").await;
    }
    assert_eq!(seen("plan_much", &["plan"]), 0);
    assert_eq!(seen("plan_much_json", &["plan", "-o", "json"]), 0);
    std::fs::rename(desk.data("databases"), desk.data("unmounted")).unwrap();
    assert_eq!(seen("plan_unseen", &["plan", "--detailed-exitcode"]), 1);
    assert_eq!(seen("doctor_unseen", &["doctor"]), 1);
}

#[test]
fn findings_come_with_the_lines_they_speak_of() {
    let desk = Desk::with_starter();
    let text = desk.tenant.show(&format!("main:{MANIFEST}"));
    desk.tenant.write(MANIFEST, text.replace("journalMode: wal", "journalMode: fast").replace("userV", "userv"));
    let work = desk.tenant.work().display().to_string();
    for (name, args) in [
        ("validate", vec!["validate", &work]),
        ("validate_json", vec!["validate", "-o", "json", &work]),
        ("plan_of_a_folder_with_findings", vec!["plan", "-t", "checkout", "--dir", &work]),
    ] {
        let said = desk.plumb(&args);
        assert_eq!(said.code, i32::from(args[0] == "validate"), "{name}");
        snapshot(name, &shown(&desk, &args, &said));
    }
}

#[test]
fn errors_say_what_to_do_next() {
    let desk = Desk::with_starter();
    let mut all = String::new();
    let mut said = |args: &[&str], code: i32| {
        let said = desk.plumb(args);
        assert_eq!(said.code, code, "plumb {}: {said:?}", args.join(" "));
        assert_eq!(said.stdout, "", "errors are no results");
        all.push_str(&shown(&desk, args, &said));
    };
    said(&["plan", "--platform", "nowhere"], 1);
    said(&["plan", "--tenant", "nobody"], 1);
    said(&["plan", "--environment", "nowhere"], 1);
    said(&["plan", "--ref", "nothing"], 1);
    said(&["apply", "--environment", "staging"], 1);
    said(&["get"], 1);
    said(&["get", "orders"], 2);
    said(&["diff", ORDERS], 2);
    said(&["drift", "checkout/staging/Database/nothing"], 2);
    said(&["secret", "get", ORDERS, "app"], 1);
    said(&["reconcile"], 1);
    said(&["get", "--server", "nonsense"], 1);
    said(&["schema", "Nothing"], 1);
    said(&["validate", "nowhere"], 1);
    said(&["watch", "nowhere"], 1);
    said(&["init", "made"], 0);
    said(&["init", "made"], 1);
    let none = desk.plumb_with(&["plan"], &[("PLUMB_PLATFORM", "")]);
    assert_eq!(none.code, 1);
    all.push_str(&shown(&desk, &["plan"], &none));
    snapshot("errors", &all);
}

#[test]
fn what_can_be_read_is_validated_though_something_else_cannot() {
    let desk = Desk::with_starter();
    desk.tenant.write("environments/staging/broken.yaml", "kind: [");
    let work = desk.tenant.work().display().to_string();
    let said = desk.plumb(&["validate", &work, "nowhere", "-o", "json"]);
    assert_eq!(said.code, 1, "{said:?}");
    let told: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(told["diagnostics"].as_array().is_some_and(|told| !told.is_empty()), "{told:#}");
    assert!(said.stderr.contains("nowhere"), "{said:?}");
    let pipe = desk.tenant.work().join("pipe.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let said = desk.plumb(&["validate", &pipe.display().to_string()]);
    assert!(said.code == 1 && said.stderr.contains("neither a file nor a folder"), "{said:?}");
}

#[test]
fn the_repositories_in_a_plain_folder_are_validated() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["init", "made"]).code, 0);
    let said = desk.plumb(&["validate", "made"]);
    assert!(said.code == 0 && said.stderr.contains("5 files, nothing to complain about"), "{said:?}");
    let made = desk.folder().join("made");
    // Each is checked against the platform beside it.
    let orders = made.join("checkout/environments/staging/orders.yaml");
    let text = std::fs::read_to_string(&orders).unwrap();
    std::fs::write(&orders, text.replace("name: orders", "name: orders\n  environment: nowhere")).unwrap();
    let said = desk.plumb(&["validate", "made"]);
    assert!(said.code == 1 && said.stdout.contains("nowhere"), "{said:?}");
    // In a repository, another one is a submodule still.
    std::fs::create_dir(made.join(".git")).unwrap();
    let said = desk.plumb(&["validate", "made"]);
    assert!(said.code == 1 && said.stdout.contains("submodules are not read"), "{said:?}");
}

#[test]
fn a_repository_that_the_environment_names_is_left_alone() {
    let desk = Desk::with_starter();
    let (folder, git_dir) = (desk.tenant.work(), desk.tenant.work().join(".git"));
    let state = || {
        let git = |args: &[&str]| {
            std::process::Command::new("git").arg("-C").arg(&folder).args(args).output().unwrap().stdout
        };
        (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain"]))
    };
    let before = state();
    assert!(before.0.len() > 20, "there is a commit");
    // As in a hook of git's.
    let variables = [("GIT_DIR", git_dir.to_str().unwrap()), ("GIT_WORK_TREE", folder.to_str().unwrap())];
    assert_eq!(desk.plumb_with(&["init", "made"], &variables).code, 0);
    assert_eq!(desk.plumb_with(&["demo", "--exit"], &variables).code, 0);
    assert_eq!(state(), before);
    assert!(desk.folder().join("made/platform/.git").is_dir());
}

#[test]
fn watch_validates_and_plans_on_every_save() {
    let desk = Desk::with_starter();
    let folder = desk.tenant.work().display().to_string();
    let (_watch, mut lines) = desk.start(&["watch", &folder, "--tenant", "checkout", "-o", "json"]);
    let mut next = || -> serde_json::Value { serde_json::from_str(&lines.next().expect("another plan")).unwrap() };
    let plan = next();
    assert_eq!(plan["steps"].as_array().unwrap().len(), 2, "{plan:#}");
    desk.tenant.write(
        "more.yaml",
        "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {name: more, environment: staging}\nspec: {}\n",
    );
    let plan = next();
    assert_eq!(plan["steps"].as_array().unwrap().len(), 3, "{plan:#}");
    desk.tenant.write("more.yaml", "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {name: more\nspec: {}\n");
    let plan = next();
    assert_eq!(plan["steps"].as_array().unwrap().len(), 2, "{plan:#}");
    assert_eq!(plan["diagnostics"][0]["file"], "more.yaml", "{plan:#}");
}

#[test]
fn a_platform_that_does_not_validate_is_explained() {
    let desk = Desk::with_starter();
    desk.platform.write("more.yaml", "apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {name: payments}\nspec: {}\n");
    desk.platform.commit("Add payments, in a hurry");
    let said = desk.plumb(&["plan"]);
    assert_eq!(said.code, 1);
    snapshot("platform_invalid", &shown(&desk, &["plan"], &said));
}

#[test]
fn the_last_good_platform_stays_in_force_and_says_so() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    desk.platform.write("more.yaml", "apiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {name: payments}\nspec: {}\n");
    desk.platform.commit("Add payments, in a hurry");
    let said = desk.plumb(&["plan"]);
    assert_eq!(said.code, 0);
    assert!(said.stdout.contains("nothing to do: 2 resources in plumb"), "{said:?}");
    assert!(said.stderr.contains("the last good revision is in force"), "{said:?}");
    assert!(said.stderr.contains("4 | spec: {}\n  |       ^^"), "the place of each finding is shown: {said:?}");
}

#[test]
fn a_platform_that_would_lose_its_id_is_told_where() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let text = desk.platform.show("main:platform.yaml");
    let (before, after) = text.split_once("id: ").unwrap();
    let (_, rest) = after.split_once('\n').unwrap();
    desk.platform.write("platform.yaml", format!("{before}id: another\n{rest}"));
    desk.platform.commit("Take another name");
    let said = desk.plumb(&["plan"]);
    assert_eq!(said.code, 0, "the last good one stays: {said:?}");
    assert!(said.stderr.contains("platform.yaml:") && said.stderr.contains("id: another\n"), "{said:?}");
    assert!(said.stderr.contains("set spec.id: acme in the Platform document"), "{said:?}");
}

#[test]
fn a_policy_that_cannot_be_used_is_shown() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    desk.platform.write("policies/half.rego", "package plumb.half\n\nimport rego.v1\n\ndeny contains }\n");
    desk.platform.commit("Write half a policy");
    let said = desk.plumb(&["plan"]);
    assert_eq!(said.code, 0, "the last good one stays: {said:?}");
    assert!(said.stderr.contains("policies/half.rego:5:") && said.stderr.contains("5 | deny contains }"), "{said:?}");
}

#[test]
fn history_is_narrowed_to_an_environment() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let keys = |args: &[&str]| -> Vec<String> {
        let said = desk.plumb(&[&["events", "-o", "json", "-e", "staging"], args].concat());
        let events: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        let keys = events.as_array().unwrap().iter().map(|event| event["key"].as_str().unwrap_or("none").to_owned());
        keys.collect()
    };
    let alone = keys(&[]);
    assert!(!alone.is_empty() && alone.iter().all(|key| key == "checkout/staging/Database/orders"), "{alone:?}");
    let server = desk.serve();
    assert_eq!(keys(&["--server", &server.address, "--limit", &alone.len().to_string()]), alone);
}

#[test]
fn orphans_are_narrowed_to_an_environment() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    const FILE: &str = "environments/production/orders.yaml";
    let text = desk.tenant.show(&format!("main:{FILE}"));
    desk.tenant.write(FILE, text.replace("  labels:", "  annotations: {plumb.dev/deletion: retain}\n  labels:"));
    desk.tenant.commit("Keep it, whatever comes");
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    desk.tenant.remove(FILE);
    desk.tenant.commit("Let go of it");
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let listed = |environment: &str| desk.plumb(&["get", "--orphans", "-o", "json", "-e", environment]).stdout;
    assert!(listed("production").contains("checkout/production/Database/orders"), "{}", listed("production"));
    assert_eq!(listed("staging").trim(), "[]");
}

#[test]
fn exit_codes_are_those_of_the_table() {
    let desk = Desk::with_starter();
    let cases: &[(&[&str], i32)] = &[
        (&["--version"], 0),
        (&["--help"], 0),
        (&[], 2),
        (&["nonsense"], 2),
        (&["plan", "--nonsense"], 2),
        (&["plan", "--dir", ".", "--ref", "main"], 2),
        (&["plan"], 0),
        (&["plan", "--detailed-exitcode"], 2),
        (&["drift"], 0),
        (&["describe", ORDERS], 1),
        (&["diff"], 2),
        (&["apply"], 0),
        (&["plan", "--detailed-exitcode"], 0),
        (&["describe", ORDERS], 0),
        (&["diff"], 0),
        (&["diff", "checkout/staging/Database/nothing"], 2),
        (&["get", "checkout/staging/Database/nothing"], 1),
        (&["get", "--orphans"], 0),
        (&["events"], 0),
        (&["schema"], 0),
        (&["schema", "Database"], 0),
        (&["policy", "test"], 0),
        (&["doctor"], 0),
        (&["doctor", "--platform", "nowhere"], 1),
        (&["completions", "zsh"], 0),
        (&["reconcile", "--server", "http://127.0.0.1:1"], 1),
    ];
    for (args, code) in cases {
        let said = desk.plumb(args);
        assert_eq!(said.code, *code, "plumb {}: {said:?}", args.join(" "));
    }
    // An unreachable repository: nothing can be said, and that is neither "same" nor "different".
    desk.tenant.vanish();
    assert_eq!(desk.plumb(&["plan", "--detailed-exitcode"]).code, 1);
    assert_eq!(desk.plumb(&["apply"]).code, 1);
    assert_eq!(desk.plumb(&["drift"]).code, 2);
    assert_eq!(desk.plumb(&["doctor"]).code, 1);
}

#[test]
fn a_plan_of_which_all_is_held_exits_as_one_that_changes_something() {
    let desk = Desk::with_starter();
    let help = desk.plumb(&["plan", "--help"]).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let told =
        "Exit with 0 for no change, 2 for changes (or something held), 1 for errors (or something that cannot be seen)";
    assert!(help.contains(told), "{help}");

    let (platform, tenants) = (desk.platform.show("main:platform.yaml"), desk.platform.show("main:tenants.yaml"));
    for (why, platform, tenants, reason) in [
        (
            "Close the window",
            format!("{platform}  windows: [{{mode: deny, schedule: \"* * * * *\", duration: 1h}}]\n"),
            tenants.clone(),
            "WindowClosed",
        ),
        ("Suspend it", platform.clone(), format!("{tenants}  suspend: true\n"), "Suspended"),
        ("Allow none", platform.clone(), tenants.replace("{Database: 10}", "{Database: 0}"), "QuotaExceeded"),
    ] {
        desk.platform.write("platform.yaml", platform);
        desk.platform.write("tenants.yaml", tenants);
        desk.platform.commit(why);
        let planned = desk.plumb(&["plan", "--detailed-exitcode", "-o", "json"]);
        let plans: serde_json::Value = serde_json::from_str(&planned.stdout).unwrap();
        assert_eq!(plans[0]["steps"], serde_json::json!([]), "{why}: {plans:#}");
        let held = plans[0]["blocked"].as_array().unwrap();
        assert!(held.len() == 2 && held.iter().all(|blocked| blocked["reason"] == reason), "{why}: {plans:#}");
        assert_eq!(planned.code, 2, "{why}: {planned:?}");
        assert_eq!(desk.plumb(&["plan"]).code, 0, "{why}: only who asks for it is told by the exit code");
    }
}

#[test]
fn colours_are_for_terminals_and_for_those_who_do_not_refuse_them() {
    let desk = Desk::with_starter();
    desk.tenant.write("wrong.yaml", "kind: Nothing\n");
    let (platform, work) = (desk.platform.url(), desk.tenant.work().display().to_string());
    let commands: [&[&str]; 6] = [
        &["plan"],
        &["validate", &work],
        &["plan", "--tenant", "nobody"],
        &["apply", "--verbose"],
        &["--help"],
        &["plan", "--nonsense"],
    ];
    let has_colours = |said: &Said| said.stdout.contains('\x1b') || said.stderr.contains('\x1b');
    let variables = |more| [("PLUMB_PLATFORM", platform.as_str()), more];
    for command in commands {
        let seen = desk.on_a_terminal(command, &variables(("TERM", "xterm")));
        assert!(has_colours(&seen), "{command:?}: {seen:?}");
        for refusal in [("NO_COLOR", "1"), ("PLUMB_NO_COLOR", "1"), ("TERM", "dumb")] {
            let seen = desk.on_a_terminal(command, &variables(refusal));
            assert!(!has_colours(&seen), "{command:?} with {refusal:?}: {seen:?}");
        }
        let seen = desk.on_a_terminal(&[command, &["--no-color"]].concat(), &variables(("TERM", "xterm")));
        assert!(!has_colours(&seen), "{command:?} --no-color: {seen:?}");
        let said = desk.plumb_with(command, &variables(("TERM", "xterm")));
        assert!(!has_colours(&said), "{command:?} into a pipe: {said:?}");
    }
    // Results for programs have none anywhere, and what refuses nothing is no refusal.
    let seen = desk.on_a_terminal(&["plan", "--output", "json"], &variables(("TERM", "xterm")));
    assert!(!has_colours(&seen) && seen.code == 0, "{seen:?}");
    for nothing in [("NO_COLOR", ""), ("PLUMB_NO_COLOR", "0")] {
        for command in [commands[2], commands[4]] {
            assert!(has_colours(&desk.on_a_terminal(command, &variables(nothing))), "{command:?} with {nothing:?}");
        }
    }
}

#[test]
fn a_manifest_that_may_not_be_read_is_told_and_nothing_is_removed_for_it() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let (work, file) = (desk.tenant.work().display().to_string(), desk.tenant.work().join(MANIFEST));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
    let found = desk.plumb_within_permissions(&["validate", "-o", "json", &work]);
    let found: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
    let [finding] = &found["diagnostics"].as_array().unwrap()[..] else { panic!("{found:#}") };
    assert_eq!((&finding["code"], &finding["file"]), (&"FileUnreadable".into(), &MANIFEST.into()), "{found:#}");
    assert_eq!(finding["help"], "check its permissions, or name it in .plumbignore");
    let planned = desk.plumb_within_permissions(&["plan", "-t", "checkout", "--dir", &work, "-o", "json"]);
    let plans: serde_json::Value = serde_json::from_str(&planned.stdout).unwrap();
    assert_eq!(plans[0]["steps"], serde_json::json!([]), "{plans:#}");
    assert_eq!(plans[0]["blocked"][0]["reason"], "UnreadableManifest", "{plans:#}");
}

#[test]
fn switches_are_understood_as_people_set_them() {
    let desk = Desk::with_starter();
    let platform = desk.platform.url();
    let said =
        |quiet: &str| desk.plumb_with(&["apply"], &[("PLUMB_PLATFORM", platform.as_str()), ("PLUMB_QUIET", quiet)]);
    for (quiet, is_quiet) in [("", false), ("0", false), ("1", true), ("true", true)] {
        let said = said(quiet);
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(said.stderr.is_empty(), is_quiet, "PLUMB_QUIET={quiet}: {said:?}");
    }
}

#[test]
fn a_server_answers_readers_keeps_others_out_and_ends_in_peace() {
    let desk = Desk::with_starter();
    let server = desk.serve();
    let second = desk.plumb(&["apply"]);
    assert_eq!(second.code, 1);
    snapshot("second_reconciler", &shown(&desk, &["apply"], &second));
    let asked = desk.plumb(&["reconcile", "checkout", "--server", &server.address]);
    assert_eq!(asked.code, 0, "{asked:?}");
    let asked = desk.plumb(&["reconcile", "-t", "checkout", "--server", &server.address]);
    assert_eq!((asked.code, asked.stderr.contains("will look at checkout now")), (0, true), "{asked:?}");
    let unknown = desk.plumb(&["reconcile", "nobody", "--server", &server.address]);
    assert_eq!(unknown.code, 1, "{unknown:?}");

    let read = |server: Option<&str>| {
        let mut args = vec!["get", "-o", "json"];
        args.extend(server.into_iter().flat_map(|server| ["--server", server]));
        let said = desk.plumb(&args);
        assert_eq!(said.code, 0, "{said:?}");
        let rows: Vec<serde_json::Value> = serde_json::from_str(&said.stdout).unwrap();
        rows.into_iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let from_server = read(Some(&server.address));
    assert_eq!(server.terminate(), Some(0));
    let from_state = read(None);
    assert_eq!(from_state, ["checkout/production/Database/orders", ORDERS]);
    assert_eq!(from_server, from_state);
}

#[test]
fn showing_a_password_never_makes_a_key() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    std::fs::remove_file(desk.data("secret.key")).unwrap();
    let said = desk.plumb(&["secret", "get", ORDERS, "app"]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("there is no key at"), "{said:?}");
    assert!(!desk.data("secret.key").exists());
}

#[test]
fn a_key_that_is_gone_is_missed_and_no_other_is_made_in_its_place() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let key = std::fs::read(desk.data("secret.key")).unwrap();
    assert!(desk.plumb(&["doctor"]).stdout.contains("ok   key of passwords: "));
    std::fs::remove_file(desk.data("secret.key")).unwrap();
    for _ in 0..2 {
        let refused = desk.plumb(&["apply"]);
        assert_eq!((refused.code, refused.stderr.contains("there is no key at")), (1, true), "{refused:?}");
        assert!(!desk.data("secret.key").exists());
    }
    let doctor = desk.plumb(&["doctor"]);
    assert_eq!((doctor.code, doctor.stdout.contains("bad  key of passwords: ")), (1, true), "{doctor:?}");
    let other = [("PLUMB_PLATFORM", &*desk.platform.url()), ("PLUMB_SECRET_KEY", &*"33".repeat(32))];
    let doctor = desk.plumb_with(&["doctor"], &other);
    assert_eq!((doctor.code, doctor.stdout.contains("share one key")), (1, true), "{doctor:?}");
    // It is put back.
    let file = desk.data("secret.key");
    std::fs::write(&file, key).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(desk.plumb(&["doctor"]).code, 0);
    assert_eq!(desk.plumb(&["apply"]).code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_waits_for_its_first_look_is_known() {
    let desk = Desk::with_starter();
    let store = SqliteStore::open(desk.data(""), Mode::Reconcile).await.unwrap();
    let ask = Ask { trigger: Trigger::Poll, width: Width::Changed };
    let first = Request { tenant: "checkout".to_owned(), ask, delay: Duration::ZERO, news: None };
    store.request(&[first]).await.unwrap();
    store.close().await;
    let nothing = desk.plumb(&["get", "-t", "checkout"]);
    assert_eq!((nothing.code, nothing.stderr.contains("nothing is recorded")), (0, true), "{nothing:?}");
    let unknown = desk.plumb(&["get", "-t", "billing"]);
    assert_eq!((unknown.code, unknown.stderr.contains("the state knows checkout")), (1, true), "{unknown:?}");
}

#[test]
fn the_tenant_of_a_tree_is_named_either_way() {
    let desk = Desk::with_starter();
    assert_eq!(desk.plumb(&["apply"]).code, 0);
    let all = desk.plumb(&["tree"]);
    for args in [&["tree", "checkout"][..], &["tree", "-t", "checkout"], &["tree", "checkout", "--tenant", "checkout"]]
    {
        let tree = desk.plumb(args);
        assert_eq!((tree.code, &tree.stdout), (0, &all.stdout), "{args:?}: {tree:?}");
    }
    let emptied = [("PLUMB_PLATFORM", &*desk.platform.url()), ("PLUMB_TENANT", "")];
    let tree = desk.plumb_with(&["tree"], &emptied);
    assert_eq!((tree.code, &tree.stdout), (0, &all.stdout), "{tree:?}");
    let both = desk.plumb(&["tree", "checkout", "-t", "billing"]);
    assert_eq!((both.code, both.stderr.contains("which tenant, checkout or billing?")), (1, true), "{both:?}");
}

#[test]
fn the_demo_tells_the_whole_story_and_leaves_nothing() {
    let desk = Desk::empty();
    let folder = desk.folder().display().to_string();
    let said = desk.plumb_with(&["demo", "--exit"], &[("TMPDIR", folder.as_str())]);
    assert_eq!(said.code, 0, "{said:?}");
    for part in [
        "2 to create",
        "user_version 8",
        "+  userVersion: 42",
        "Everything is in plumb again",
        "journalMode: fast",
        "http://127.0.0.1:",
    ] {
        assert!(said.stdout.contains(part), "{part} in {}", said.stdout);
    }
    let left: Vec<_> = std::fs::read_dir(desk.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_demo_in_which_something_does_not_happen_fails_and_says_what() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::empty();
    // A git that everything works with but pushes.
    let path = std::env::var("PATH").unwrap();
    let tools = desk.folder().join("tools");
    std::fs::create_dir(&tools).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *' push '*) echo 'no pushes today' >&2; exit 1;; esac\nPATH='{path}' exec git \"$@\"\n"
    );
    std::fs::write(tools.join("git"), script).unwrap();
    std::fs::set_permissions(tools.join("git"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{path}", tools.display());
    let said = desk.plumb_with(&["demo", "--exit"], &[("PATH", path.as_str())]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("no pushes today"), "{said:?}");
    assert!(!said.stdout.contains("Everything is in plumb again"), "{said:?}");
}

/// Somebody sets the application's version in the live database.
async fn change_by_hand(desk: &Desk) {
    let file = desk.data("databases/checkout_staging_orders.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("PRAGMA user_version = 42").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Runs a command and compares what it said with the snapshot of that name; gives its exit code.
fn seen(desk: &Desk, name: &str, args: &[&str]) -> i32 {
    let said = desk.plumb(args);
    snapshot(name, &shown(desk, args, &said));
    said.code
}

/// Compares with `tests/it/cli/<name>.snap`.
fn snapshot(name: &str, text: &str) {
    insta::with_settings!({
        snapshot_path => "cli",
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
}

/// A command and what it said, less what differs from run to run.
fn shown(desk: &Desk, args: &[&str], said: &Said) -> String {
    let mut text = format!("$ plumb {}\n{}", args.join(" "), said.stdout);
    if !said.stderr.is_empty() {
        text.push_str(&format!("[stderr]\n{}", said.stderr));
    }
    text.push_str(&format!("[exit {}]\n", said.code));
    for (place, name) in [
        (desk.platform.url(), "[PLATFORM]"),
        (desk.tenant.work().display().to_string(), "[CHECKOUT]"),
        (desk.tenant.url(), "[REMOTE]"),
        (desk.folder().display().to_string(), "[HERE]"),
    ] {
        text = text.replace(&place, name);
    }
    let git = std::process::Command::new("git").arg("--version").output().expect("git runs").stdout;
    text = text.replace(String::from_utf8_lossy(&git).trim(), "[GIT]");
    let words: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
    let word = |at: Option<usize>| at.and_then(|at| words.get(at)).map_or("", |word| word.trim());
    let around = |at: usize| (word(words[..at].iter().rposition(|word| !word.trim().is_empty())), word(Some(at + 1)));
    words.iter().enumerate().map(|(at, word)| steady(word, around(at))).collect()
}

/// A word and the space after it: hashes, times and ages as long as they were, but always the same.
fn steady(word: &str, (before, next): (&str, &str)) -> String {
    let (body, space) = word.split_at(word.trim_end().len());
    let shape: String = body.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let steady = match shape.as_str() {
        // Ages; tables leave room for three characters.
        "0s" | "0000-00-00" | "00:00:00Z" => shape,
        "00s" => "0s ".to_owned(),
        _ if ["ms", "ms:"].contains(&next) || ["\"ageSeconds\":", "ageSeconds:"].contains(&before) => "0".to_owned(),
        _ if before == "commit" && is_id(body) => body.replace(|c: char| c.is_ascii_hexdigit(), "#"),
        // A moment, in JSON or YAML.
        _ if shape.trim_start_matches(['"', '\'']).starts_with("0000-00-00T") => {
            format!("[MOMENT]{}", if body.ends_with(',') { "," } else { "" })
        }
        _ => hidden_hashes(body),
    };
    steady + space
}

/// Whether a word is the beginning of a hash, with what stands around it.
fn is_id(word: &str) -> bool {
    const SHORTEST: usize = 7;
    let id = word.trim_matches(|c: char| c.is_ascii_punctuation());
    id.len() >= SHORTEST && id.chars().all(|c| c.is_ascii_hexdigit())
}

/// Ten and more hexadecimal digits in a row become as many `#`.
fn hidden_hashes(word: &str) -> String {
    const SHORTEST: usize = 10;
    let mut text = String::new();
    let mut run = String::new();
    let flush = |run: &mut String, text: &mut String| {
        if run.len() >= SHORTEST {
            text.push_str(&"#".repeat(run.len()));
        } else {
            text.push_str(run);
        }
        run.clear();
    };
    for c in word.chars() {
        if matches!(c, '0'..='9' | 'a'..='f') {
            run.push(c);
        } else {
            flush(&mut run, &mut text);
            text.push(c);
        }
    }
    flush(&mut run, &mut text);
    text
}

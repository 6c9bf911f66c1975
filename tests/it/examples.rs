//! Everything in `examples/` is right, as people would check it.

use std::path::{Path, PathBuf};
use std::process::Command;

use sqlx::Row;

use crate::harness::desk::{Desk, PLUMB, said};
use crate::harness::postgres::PostgresServer;
use crate::harness::redis::{RedisOptions, RedisServer};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn folders(below: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn files(below: &Path) -> usize {
    std::fs::read_dir(below)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { files(&path) } else { 1 })
        .sum()
}

#[test]
fn every_file_validates_its_platform_against_its_tenants() {
    let examples = folders(&root());
    assert!(examples.len() >= 2, "{examples:?}");
    let desk = Desk::empty();
    for example in &examples {
        let parts: Vec<String> = folders(example).iter().map(|part| part.display().to_string()).collect();
        assert!(parts.iter().any(|part| part.ends_with("/platform")), "{} has no platform", example.display());
        let args: Vec<&str> = std::iter::once("validate").chain(parts.iter().map(String::as_str)).collect();
        let said = desk.plumb_with(&args, &[]);
        assert_eq!(said.code, 0, "{said:?}");
        // Not one finding, warnings included, and not one file passed over.
        assert_eq!(said.stdout, "");
        let all = format!("{} files, nothing to complain about\n", files(example));
        assert_eq!(said.stderr, all, "{}", example.display());
    }
}

#[test]
fn every_policy_passes_its_tests() {
    let desk = Desk::empty();
    let platforms: Vec<PathBuf> = folders(&root()).into_iter().map(|example| example.join("platform")).collect();
    let mut own = 0;
    for platform in &platforms {
        let said = desk.plumb_with(&["policy", "test", &platform.display().to_string()], &[]);
        assert_eq!(said.code, 0, "{said:?}");
        own += said.stdout.lines().filter(|line| line.starts_with("pass plumb.acme.")).count();
    }
    assert!(own > 0, "the examples show no policy of a platform's own");
}

#[test]
fn what_the_examples_forbid_is_refused() {
    let desk = Desk::empty();
    let folder = desk.folder().join("ten");
    for part in ["platform", "checkout"] {
        copy(&root().join("ten-minutes").join(part), &folder.join(part));
    }
    let file = folder.join("checkout/environments/staging/orders.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[pgcrypto]", "[plpython3u]")).unwrap();
    let said = desk.plumb_with(&["validate", "ten/platform", "ten/checkout"], &[]);
    assert_eq!(said.code, 1);
    assert!(said.stdout.contains("the extension plpython3u is not offered here"), "{said:?}");
}

#[test]
fn init_makes_what_the_starter_shows() {
    let desk = Desk::empty();
    assert_eq!(desk.plumb_with(&["init", "made"], &[]).code, 0);
    let platform = desk.folder().join("made/platform").display().to_string();
    let said = desk.plumb_with(&["plan", "--platform", &platform], &[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.ends_with("2 to create\n"), "{said:?}");
}

/// The shell's part of the steps of "Ten minutes" in the README, from the first to the last of these.
fn steps_of_the_readme(first: usize, last: usize) -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, rest) = readme.split_once("\n## Ten minutes").expect("the README has ten minutes");
    let section = rest.split("\n## ").next().unwrap();
    let at = |step: usize| section.find(&format!("\n**{step}. ")).unwrap_or_else(|| panic!("there is no step {step}"));
    let blocks = section[at(first)..at(last + 1)].split("\n```sh\n").skip(1);
    blocks.map(|block| block.split_once("```").expect("it ends").0).collect()
}

/// Follows these steps as they stand, on servers that listen elsewhere. What the last of them says comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn the_ten_minutes_of_the_readme_come_out_as_it_says() {
    // The server has such a login for other tests; here the README's steps make it.
    let server = PostgresServer::start();
    server.psql("DROP ROLE plumb").await;
    let redis = RedisServer::start(RedisOptions::default());
    let desk = Desk::empty();
    copy(&root().join("ten-minutes"), &desk.folder().join("examples/ten-minutes"));
    let providers = desk.folder().join("examples/ten-minutes/platform/providers.yaml");
    let text = std::fs::read_to_string(&providers).unwrap();
    let elsewhere = text
        .replace("127.0.0.1:5432", &format!("127.0.0.1:{}", server.port()))
        .replace("127.0.0.1:6379", &format!("127.0.0.1:{}", redis.port));
    assert_ne!(elsewhere, text);
    std::fs::write(&providers, elsewhere).unwrap();

    let port = server.port().to_string();
    let superuser: url::Url = server.superuser_url().parse().unwrap();
    let programs = Path::new(PLUMB).parent().unwrap().display();
    let variables = [
        ("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap())),
        ("PGHOST", "127.0.0.1".to_owned()),
        ("PGPORT", port.clone()),
        ("PGUSER", superuser.username().to_owned()),
        ("PGDATABASE", "postgres".to_owned()),
        ("SUPERUSER_PASSWORD", superuser.password().unwrap().to_owned()),
        ("REDIS_PORT", redis.port.to_string()),
        ("GIT_AUTHOR_NAME", "Ada".to_owned()),
        ("GIT_AUTHOR_EMAIL", "ada@example.com".to_owned()),
        ("GIT_COMMITTER_NAME", "Ada".to_owned()),
        ("GIT_COMMITTER_EMAIL", "ada@example.com".to_owned()),
    ];
    // Where the README says that somebody is the superuser of a server on the usual port.
    let before = "set -eu\n\
                  sudo() { shift 2; PGPASSWORD=$SUPERUSER_PASSWORD \"$@\"; }\n\
                  redis-cli() { command redis-cli -p \"$REDIS_PORT\" \"$@\"; }\n";
    let after = "plumb apply -o json >again.json\nplumb plan --detailed-exitcode >plan.txt\n";
    let script = format!("{before}{}{after}", steps_of_the_readme(1, 4));
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]);
    let variables = variables.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>();
    let followed = said(desk.surrounded(shell, &variables).output().unwrap());
    assert_eq!(followed.code, 0, "{script}\n{}\n{}", followed.stdout, followed.stderr);

    // What it printed, of which the README shows the table.
    for line in [
        "checkout/production/Database/orders   main@sha1:",
        "checkout/staging/Database/orders      main@sha1:",
        "checkout/staging/Cache/sessions       main@sha1:",
        " checkout_staging_orders_app | ",
    ] {
        assert!(followed.stdout.contains(line), "{line:?} in {}", followed.stdout);
    }
    let names = async |sql: &str| -> Vec<String> {
        server.query("postgres", sql).await.iter().map(|row| row.get::<String, _>(0)).collect()
    };
    let databases = "SELECT datname::text FROM pg_database WHERE datname LIKE 'checkout%' ORDER BY 1";
    assert_eq!(names(databases).await, ["checkout_production_orders", "checkout_staging_orders"]);
    let roles = "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'checkout%' ORDER BY 1";
    let expected = ["production", "staging"]
        .map(|environment| ["app", "owner", "ro"].map(|role| format!("checkout_{environment}_orders_{role}")));
    assert_eq!(names(roles).await, expected.concat());
    assert_eq!(redis.cli(&["ACL", "USERS"]), "checkout_staging_sessions\ndefault\nplumb");
    assert_eq!(redis.cli(&["GET", "checkout:sessions:1"]), "hello");

    let place = desk.folder().join("plumb-try");
    let again: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(place.join("again.json")).unwrap()).unwrap();
    assert_eq!((&again[0]["outcome"], &again[0]["done"]), (&"InSync".into(), &0.into()), "{again:#}");
    let planned = std::fs::read_to_string(place.join("plan.txt")).unwrap();
    assert!(planned.contains("nothing to do: 3 resources in plumb"), "{planned}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

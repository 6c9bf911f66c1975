//! 200 PostgreSQL databases with two roles each from one push, beside the same SQL through psql.
//!
//! The SQL is what the server itself logged of a first run; it is then piped into psql on a fresh server, and Plumb
//! makes the same on another fresh one.

#[path = "../../tests/it/harness/postgres.rs"]
#[expect(dead_code, reason = "the tests use all of it")]
pub mod server;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use server::PostgresServer;

use super::rig::{Ground, Rig, measured};
use super::{Row, ratio, shown};

/// How many databases.
const DATABASES: usize = 200;

pub fn two_hundred_databases(ground: &Ground) -> Vec<Row> {
    let sql = {
        let server = PostgresServer::start();
        log_statements(&server);
        let command = rig_on(ground, &server);
        measured(command);
        let log = std::fs::read(server.socket_folder().join("log")).expect("the server's log");
        as_script(&String::from_utf8_lossy(&log), |_| true)
    };

    let ours = {
        let server = PostgresServer::start();
        let command = rig_on(ground, &server);
        measured(command)
    };
    let theirs = psql(&PostgresServer::start(), &sql);
    vec![Row {
        what: format!("{DATABASES} PostgreSQL databases with two roles each, from one push"),
        ours: format!("{}, {} MiB", shown(ours.time), ours.peak_mib),
        yardstick: format!("psql {}", shown(theirs)),
        ratio: ratio(ours.time, theirs),
        budget: "within 1.2x",
    }]
}

/// How long psql takes for a script on a server.
pub fn psql(server: &PostgresServer, sql: &str) -> Duration {
    let (_, password) = server.login();
    let start = Instant::now();
    let mut psql = Command::new("psql")
        .args(["--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", &server.url()])
        .env("PGPASSWORD", password)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("psql starts");
    psql.stdin.take().expect("piped").write_all(sql.as_bytes()).expect("psql reads");
    let status = psql.wait().expect("psql ends");
    assert!(status.success(), "psql ended with {status}");
    start.elapsed()
}

/// Makes the server log every statement, with its user, session and database in front.
pub fn log_statements(server: &PostgresServer) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        server.psql("ALTER SYSTEM SET log_line_prefix = '%u|%c|%d|'").await;
        server.psql("ALTER SYSTEM SET log_statement = 'all'").await;
        server.psql("SELECT pg_reload_conf()").await;
    });
}

/// A tenant that wants the databases on `server`, and the apply that makes them.
fn rig_on(ground: &Ground, server: &PostgresServer) -> Command {
    let rig = Rig::new(ground);
    rig.write_provider(&format!(
        "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: main}}\nspec:\n  type: postgres\n  url: {}\n  credentials: \
         {{env: BENCH_PASSWORD}}\n  serves: [{{kind: Database}}]\n",
        server.url()
    ));
    for number in 0..DATABASES {
        rig.write_manifest(
            &format!("db-{number}"),
            &format!(
                "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: db-{number}\n  environment: staging\n  labels: {{owner: \
                 team-bench}}\nspec:\n  connectionLimit: 20\n  roles:\n    - {{name: app, access: readwrite}}\n    - {{name: ro, \
                 access: read}}\n"
            ),
        );
    }
    rig.commit();
    let mut command = rig.plumb(&["apply", "-q"]);
    command.env("BENCH_PASSWORD", server.login().1);
    command
}

/// The statements that changed something: first all in the maintenance database, in the order of the log, then those
/// inside each database, so that psql connects no more often than it has to. Of databases that are `wanted`.
pub fn as_script(log: &str, wanted: impl Fn(&str) -> bool) -> String {
    let mut outside = String::new();
    let mut inside: BTreeMap<String, String> = BTreeMap::new();
    let mut sessions: BTreeMap<String, String> = BTreeMap::new();
    for (session, database, statement) in statements(log).into_iter().filter(|(_, database, _)| wanted(database)) {
        // A transaction stays together, though sessions ran side by side.
        let waiting = sessions.entry(session.clone()).or_default();
        let _ = writeln!(waiting, "{};", statement.trim_end().trim_end_matches(';'));
        let open =
            waiting.matches("BEGIN").count() > waiting.matches("COMMIT").count() + waiting.matches("ROLLBACK").count();
        if open {
            continue;
        }
        let text = std::mem::take(waiting);
        match database.as_str() {
            "postgres" => outside.push_str(&text),
            _ => inside.entry(database).or_default().push_str(&text),
        }
    }
    for (database, text) in inside {
        let _ = write!(outside, "\\connect {database}\n{text}");
    }
    outside
}

/// Session, database and text of each logged statement that has no parameters and changes something.
fn statements(log: &str) -> Vec<(String, String, String)> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    let mut taking = false;
    for line in log.lines() {
        if let Some(rest) = line.strip_prefix('\t') {
            if let (true, Some((_, _, text))) = (taking, found.last_mut()) {
                let _ = write!(text, "\n{rest}");
            }
            continue;
        }
        taking = false;
        let mut parts = line.splitn(4, '|');
        let (Some("plumb"), Some(session), Some(database), Some(rest)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let Some((_, text)) = rest.split_once("LOG:  statement: ") else { continue };
        const CHANGES: &[&str] =
            &["CREATE", "ALTER", "GRANT", "REVOKE", "COMMENT", "BEGIN", "COMMIT", "SET", "RESET", "DO"];
        let first = text.split_whitespace().next().unwrap_or("").trim_end_matches(';').to_uppercase();
        if CHANGES.contains(&first.as_str()) {
            found.push((session.to_owned(), database.to_owned(), text.to_owned()));
            taking = true;
        }
    }
    found
}

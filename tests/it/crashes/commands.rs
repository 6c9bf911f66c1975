//! The same of what people do: a command of theirs, `plumb` itself, is killed after a message to the PostgreSQL that the
//! state is on.
//!
//! A [`Relay`] kills it: what the message asks for happens, and the command never hears that it did.

use std::cell::Cell;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};

use plumb::engine::view;
use plumb::model::{ExecutionOutcome, SystemClock, Trigger};
use plumb::store::audit::{AuditAction, AuditFilter};
use plumb::store::postgres::PostgresStore;
use plumb::store::{HistoryFilter, Mode, Queue as _, Scope, Store};
use sqlx::Row;

use super::relay::Relay;
use super::was_killed;
use crate::db::{Office, SESSIONS};
use crate::harness::postgres::PostgresServer;

const WISHES: &str = "checkout/staging/Database/wishes";

/// Of all messages but the last ones, every so many are the last: each takes a command, and another that looks after it.
const EVERY: usize = 10;
/// So many at the end are visited one by one, since there it is decided.
const LAST_ONES: usize = 8;
/// By so many messages a command may have less to say than it had the first time.
const FEWER: usize = 20;

/// Where the commands are given, and the server that their state is on.
struct Desk {
    office: Office,
    server: PostgresServer,
    relay: Relay,
}

impl Desk {
    fn open() -> Self {
        let server = PostgresServer::start();
        let relay = Relay::to(server.port());
        Self { office: Office::open(), server, relay }
    }

    /// The address of a database, as commands that live know it.
    fn url(&self, database: &str) -> String {
        self.url_by(self.server.port(), database)
    }

    fn url_by(&self, port: u16, database: &str) -> String {
        let (login, password) = self.server.login();
        format!("postgres://{login}:{password}@127.0.0.1:{port}/{database}")
    }

    /// Makes a database with a schema and nothing else in it.
    async fn make(&self, database: &str) {
        let made = |of: &str| format!("CREATE DATABASE {database} OWNER {}{of}", self.server.login().0);
        if database == "schema" {
            self.server.psql(&made("")).await;
            self.office.did(&self.url(database), &["db", "migrate"]);
        } else {
            self.server.psql(&made(" TEMPLATE schema")).await;
        }
    }

    /// Gives a command whose state is in a database, to be killed after so many messages to it. What is `@` among its words
    /// is the address of that database instead. Gives how it ended, what it had said, and how many messages were passed on.
    async fn give(&self, state: &str, words: &[&str], database: &str, last: usize) -> (ExitStatus, String, usize) {
        let victim = Arc::new(OnceLock::new());
        self.relay.kill_after(last, {
            let victim = Arc::clone(&victim);
            move || *victim.wait()
        });
        let url = self.url_by(self.relay.port(), database);
        let words: Vec<&str> = words.iter().map(|word| if *word == "@" { &url } else { *word }).collect();
        let state = if state == "@" { &url } else { state };
        let platform = self.office.desk.platform.url();
        let mut command = self.office.desk.command(&words, &[("PLUMB_PLATFORM", &platform), ("PLUMB_DATABASE", state)]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        victim.set(child.id()).unwrap();
        let output = child.wait_with_output().unwrap();
        let passed = self.relay.passed();
        self.relay.let_live();
        // What it left to the server is over once the server has heard of its end.
        let others = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database}' AND pid <> \
             pg_backend_pid()"
        );
        while self.server.query("postgres", &others).await[0].get::<i64, _>(0) > 0 {}
        assert!(
            was_killed(output.status) || output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status, String::from_utf8(output.stdout).unwrap(), passed)
    }

    /// Gives a command again and again, killed after one message and then after another, until all of its time was visited.
    /// `prepare` makes what it works on, and names the database that the messages go to; `check` looks at what is left in
    /// there, and at what the command had said.
    async fn visit(
        &self,
        (state, words): (&str, &[&str]),
        mut prepare: impl AsyncFnMut(usize) -> String,
        mut check: impl AsyncFnMut(&str, &str),
    ) {
        let database = prepare(0).await;
        let (ended, said, messages) = self.give(state, words, &database, usize::MAX).await;
        assert!(ended.success() && messages >= 10, "{words:?}: {ended}, {messages} messages");
        check(&database, &said).await;
        let mut visited = 0;
        for last in (1..=messages).filter(|last| last % EVERY == 0 || messages - last < LAST_ONES) {
            let database = prepare(last).await;
            let (ended, said, _) = self.give(state, words, &database, last).await;
            // It says less where messages go together, or less time passes in which it gives signs of life.
            assert!(was_killed(ended) || messages - last < FEWER, "{words:?} after message {last}: {ended}");
            visited += usize::from(was_killed(ended));
            check(&database, &said).await;
        }
        println!("{}: killed after {visited} of {messages} messages", words.join(" "));
    }
}

async fn open(url: &str) -> PostgresStore {
    PostgresStore::open(url, Mode::Append).await.unwrap()
}

/// How often the audit log says so of the tenant.
async fn audited(store: &dyn Store, action: AuditAction) -> usize {
    let filter = AuditFilter { limit: 1000, ..AuditFilter::default() };
    let rows = store.read(Scope::Tenant("checkout".to_owned())).await.unwrap().audit(&filter).await.unwrap();
    rows.into_iter().filter(|row| row.action == action).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_is_killed_is_written_down_and_asked_for_or_nothing_is() {
    let desk = Desk::open();
    desk.office.desk.add_postgres(&desk.server);
    desk.office.desk.want("Database", "wishes", "provider: pg, connectionLimit: 5, extensions: [no_such_extension]");
    desk.office.desk.tenant.commit("Wish for what is not there");
    desk.make("schema").await;
    let url = desk.url("schema");
    let (told, unchanged, changed) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let prepare = async |_| {
        assert_eq!(desk.office.plumb(&url, &["apply"]).code, 1, "{WISHES} cannot be made");
        let store = open(&url).await;
        assert_eq!(letters(&store).await, [WISHES]);
        told.set(audited(&store, AuditAction::Retried).await);
        store.close().await;
        "schema".to_owned()
    };
    let check = async |_: &str, _: &str| {
        let store = open(&url).await;
        match audited(&store, AuditAction::Retried).await - told.get() {
            0 => {
                assert_eq!(letters(&store).await, [WISHES]);
                unchanged.set(unchanged.get() + 1);
            }
            more => {
                assert_eq!((more, letters(&store).await), (1, Vec::new()));
                let place = store.place("checkout").await.unwrap();
                assert!(place.as_ref().is_some_and(|place| place.asked.is_some()), "{place:?}");
                changed.set(changed.get() + 1);
            }
        }
        store.close().await;
        desk.office.did(&url, &["audit", "--verify"]);
    };
    desk.visit(("@", &["retry", WISHES]), prepare, check).await;
    assert!(unchanged.get() > 2 && changed.get() > 2, "{unchanged:?} and {changed:?}");
}

/// The dead letters of the tenant.
async fn letters(store: &dyn Store) -> Vec<String> {
    let letters = view::dead_letters(store, Some("checkout"), &SystemClock).await.unwrap();
    letters.into_iter().map(|letter| letter.key.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_shown_is_written_down_wherever_the_command_is_killed() {
    let desk = Desk::open();
    desk.make("schema").await;
    let url = desk.url("schema");
    desk.office.did(&url, &["apply"]);
    let password = desk.office.did(&url, &["secret", "get", SESSIONS, "user"]);
    let (told, silent) = (Cell::new(1), Cell::new(0));
    let check = async |_: &str, said: &str| {
        let store = open(&url).await;
        let shown = audited(&store, AuditAction::SecretShown).await;
        let looks = HistoryFilter { limit: 1000, ..HistoryFilter::default() };
        let mut tx = store.read(Scope::Tenant("checkout".to_owned())).await.unwrap();
        let executions = tx.executions(&looks).await.unwrap();
        drop(tx);
        store.close().await;
        let of_secrets = executions.iter().filter(|it| it.trigger == Trigger::SecretShown);
        assert!(
            of_secrets.clone().all(|execution| execution.outcome == ExecutionOutcome::InSync),
            "each is whole: {executions:#?}"
        );
        assert_eq!(of_secrets.count(), shown, "each is in both");
        match said {
            "" => silent.set(silent.get() + 1),
            said => assert_eq!((said, shown - told.get()), (&*password, 1)),
        }
        told.set(shown);
    };
    desk.visit(("@", &["secret", "get", SESSIONS, "user"]), async |_| "schema".to_owned(), check).await;
    assert!(silent.get() > 2, "{silent:?}");
    desk.office.did(&url, &["audit", "--verify"]);
    assert_eq!(desk.office.did(&url, &["secret", "get", SESSIONS, "user"]), password);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_killed_leaves_a_whole_file_or_none_of_that_name() {
    let desk = Desk::open();
    desk.make("schema").await;
    let url = desk.url("schema");
    desk.office.did(&url, &["apply"]);
    let before = desk.office.rows(&url);
    let file = desk.office.desk.folder().join("state.backup");
    let path = file.display().to_string();
    let copies = Cell::new(0);
    let check = async |_: &str, _: &str| {
        if !file.exists() {
            return;
        }
        copies.set(copies.get() + 1);
        let restored = desk.office.sqlite(&format!("copy{}", copies.get()));
        desk.office.did(&restored, &["db", "restore", &path]);
        assert_eq!(desk.office.rows(&restored), before);
        std::fs::remove_file(&file).unwrap();
    };
    desk.visit(("@", &["db", "backup", &path]), async |_| "schema".to_owned(), check).await;
    assert_eq!(desk.office.rows(&url), before, "the state is as it was");
    desk.office.did(&url, &["audit", "--verify"]);
    // What it had begun says so by its name, and is its owner's alone.
    let names = names_in(desk.office.desk.folder());
    let begun: Vec<&String> = names.iter().filter(|name| name.contains("state.backup")).collect();
    assert!(!begun.is_empty() && begun.iter().all(|name| name.ends_with(".unfinished")), "{names:?}");
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_whose_restore_or_move_is_killed_is_whole_where_it_goes_to_or_not_there() {
    let desk = Desk::open();
    desk.make("schema").await;
    let home = desk.office.sqlite("home");
    desk.office.did(&home, &["apply"]);
    let before = desk.office.rows(&home);
    let file = desk.office.desk.folder().join("state.backup").display().to_string();
    desk.office.did(&home, &["db", "backup", &file]);
    let restore: (&str, &[&str]) = ("@", &["db", "restore", &file]);
    let move_there: (&str, &[&str]) = (&home, &["db", "move", "--to", "@"]);
    for (name, (state, words)) in [("restored", restore), ("moved", move_there)] {
        let (there, empty) = (Cell::new(0), Cell::new(0));
        let prepare = async |last| {
            let database = format!("{name}_{last}");
            desk.make(&database).await;
            database
        };
        let check = async |database: &str, _: &str| {
            let url = desk.url(database);
            if state != "@" {
                // It may say that the state is there now.
                desk.office.did(state, &["db", "reopen"]);
            }
            // The same once more says what was left.
            let words: Vec<&str> = words.iter().map(|word| if *word == "@" { &url } else { *word }).collect();
            let again = desk.office.plumb(if state == "@" { &url } else { state }, &words);
            match again.code {
                0 => empty.set(empty.get() + 1),
                _ => {
                    assert!(again.stderr.contains("is not empty"), "{again:?}");
                    there.set(there.get() + 1);
                }
            }
            assert_eq!(desk.office.rows(&url), before);
            desk.office.did(&url, &["audit", "--verify"]);
            if state != "@" {
                desk.office.did(state, &["db", "reopen"]);
            }
        };
        desk.visit((state, words), prepare, check).await;
        assert!(there.get() > 1 && empty.get() > 2, "{there:?} were whole, {empty:?} empty");
        assert_eq!(desk.office.rows(&home), before, "it is left as it was");
    }
}

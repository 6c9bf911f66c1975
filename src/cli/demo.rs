//! `plumb demo`: the whole story by itself, in a temporary folder, on embedded parts.
//!
//! Nothing here is told that did not happen: each step waits for the reconciler's own events and checks what is live;
//! a step that does not happen ends the demo with an error.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use sqlx::{Connection, Row};
use tokio::sync::{mpsc, watch};

use crate::diag;
use crate::engine::schedule::{Looks, Schedule};
use crate::engine::{Engine, PreviewSource};
use crate::model::{Event, EventKind, Kind, ProposalStatus, ResourceKey};
use crate::web;

use super::args::Common;
use super::git::{commit_all, git};
use super::house::{self, House};
use super::init::{self, Places};
use super::output::{Paint, print};
use super::plan::plan_text;

/// How long one step may take before the demo gives up; each takes a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// The manifest that the story is about, in the tenant's repository.
const MANIFEST: &str = "environments/staging/orders.yaml";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// End by itself when the story is told, and remove the folder
    #[arg(long)]
    exit: bool,
}

/// Tells the story.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let folder = tempfile::Builder::new().prefix("plumb-demo-").tempdir()?;
    let mut story = Story::begin(folder.path(), common).await?;
    story.show_plan().await?;
    story.apply_first_commit().await?;
    story.commit_a_change().await?;
    story.change_by_hand().await?;
    story.merge_the_proposal().await?;
    story.break_a_commit().await?;
    story.end(args.exit).await?;
    if args.exit {
        folder.close()?;
    } else {
        // Kept for those who want to look around.
        eprintln!("the folder stays at {}", folder.keep().display());
    }
    Ok(0)
}

struct Story {
    paint: Paint,
    step: usize,
    places: Places,
    database: PathBuf,
    engine: Arc<Engine>,
    looks: Looks,
    events: mpsc::UnboundedReceiver<Event>,
    address: std::net::SocketAddr,
    stop: watch::Sender<bool>,
    /// Started by the first commit; until then nothing reconciles.
    schedule: Option<Schedule>,
    running: Vec<tokio::task::JoinHandle<()>>,
}

impl Story {
    async fn begin(folder: &Path, common: &Common) -> anyhow::Result<Self> {
        let paint = Paint::stdout(common);
        let places = init::make(&folder.join("git"))?;
        let platform = places.platform.join("platform.yaml");
        // A demo's audience waits; a platform's repositories do not mind ten seconds.
        let text = std::fs::read_to_string(&platform)?.replace("pollInterval: 10s", "pollInterval: 1s");
        std::fs::write(&platform, text)?;
        commit_all(&places.platform, "Poll every second")?;

        let data_dir = folder.join("plumb-data");
        let common = Common {
            platform: Some(places.platform.display().to_string()),
            platform_branch: None,
            data_dir: data_dir.clone(),
            // The story leaves nothing behind.
            database: None,
            tenant: None,
            ..common.clone()
        };
        let (heard, events) = mpsc::unbounded_channel();
        let listener = Arc::new(move |event: &Event| {
            // Nobody listens any more once the story is over.
            let _ = heard.send(event.clone());
        });
        let house = House::reconciling(&common, listener).await?;
        let (schedule, looks, ready) = Schedule::new(Arc::clone(&house.engine));
        let (stop, stopped) = watch::channel(false);
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let state = house::web_state(Arc::clone(&house.store), ready, looks.clone());
        let page = tokio::spawn(async move {
            let mut stopped = stopped;
            let until = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            web::serve(socket, state, until).await;
        });
        let story = Self {
            paint,
            step: 0,
            database: data_dir.join("databases/checkout_staging_orders.db"),
            places,
            engine: house.engine,
            looks,
            events,
            address,
            stop,
            schedule: Some(schedule),
            running: vec![page],
        };
        print(&format!(
            "{}\n\nTwo repositories, made from examples/starter:\n  {}   who the tenants are, where things live\n  {}   \
             what the team checkout wants\nThe status page: http://{}/\n",
            story.paint.bold("Plumb keeps what runs true to what is committed."),
            story.places.platform.display(),
            story.places.tenant.display(),
            story.address,
        ))?;
        Ok(story)
    }

    async fn show_plan(&mut self) -> anyhow::Result<()> {
        self.title("The team's repository asks for two databases. What would Plumb do?")?;
        self.show_file()?;
        let in_force = self.engine.platform().await?;
        let preview = self.engine.preview(&in_force, "checkout", &PreviewSource::Head).await?;
        ensure!(preview.plan.summary().create == 2, "the plan should create two databases: {:?}", preview.plan);
        self.command("plumb plan")?;
        print(&plan_text(&preview.plan, "main", self.paint))
    }

    async fn apply_first_commit(&mut self) -> anyhow::Result<()> {
        self.title("Plumb starts, and makes it so.")?;
        let schedule = self.schedule.take().context("the schedule runs already")?;
        let mut stopped = self.stop.subscribe();
        self.running.push(tokio::spawn(async move {
            let until = async {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            schedule.run(until).await;
        }));
        self.wait_for("the databases to be made", |kind| matches!(kind, EventKind::Recorded { .. })).await?;
        ensure!(self.live_user_version().await? == 7, "the live database should have user_version 7");
        print(&format!("{} is there, user_version 7.\n", self.database.display()))?;
        self.expect_in_sync().await?;
        print("A second look finds nothing to do.\n")
    }

    async fn commit_a_change(&mut self) -> anyhow::Result<()> {
        self.title("A commit becomes reality.")?;
        self.edit("userVersion: 7 ", "userVersion: 8 ")?;
        self.command("git commit -m 'Expect schema version 8'")?;
        let commit = commit_all(&self.places.tenant, "Expect schema version 8")?;
        print(&git(&self.places.tenant, &["show", "--format=", "--unified=0", &commit])?)?;
        self.wait_for("the change to be applied", |kind| matches!(kind, EventKind::StepDone { .. })).await?;
        self.wait_for("the change to be recorded", |kind| matches!(kind, EventKind::Recorded { .. })).await?;
        ensure!(self.live_user_version().await? == 8, "the live database should have user_version 8");
        print("\nApplied: the live database says user_version 8.\n")
    }

    async fn change_by_hand(&mut self) -> anyhow::Result<()> {
        self.title("Somebody changes the live database behind git's back.")?;
        self.command(&format!("sqlite3 {} 'PRAGMA user_version = 42'", self.database.display()))?;
        let mut connection = self.open_database().await?;
        sqlx::query("PRAGMA user_version = 42").execute(&mut connection).await?;
        connection.close().await?;
        ensure!(self.looks.ask(Some("checkout"), "demo"), "the schedule should know the tenant");
        let event = self.wait_for("the proposal", |kind| matches!(kind, EventKind::ProposalOpened { .. })).await?;
        let EventKind::ProposalOpened { branch, diff } = event.kind else { bail!("no proposal came") };
        ensure!(self.live_user_version().await? == 42, "the live value should be held, not overwritten");
        print(&format!(
            "\nPlumb does not overwrite it. It asks, on the branch {}:\n\n{}\n",
            self.paint.bold(&branch),
            self.colored(&diff)
        ))?;
        print("Merging the branch accepts the live value; deleting it puts git's back.\n")
    }

    async fn merge_the_proposal(&mut self) -> anyhow::Result<()> {
        self.title("The team accepts: they merge the branch.")?;
        let branch = self.key().drift_branch(false);
        self.command(&format!("git merge {branch}"))?;
        git(&self.places.tenant, &["merge", "--quiet", "--ff-only", &branch])?;
        let event = self
            .wait_for("the decision", |kind| {
                matches!(kind, EventKind::ProposalDecided { status: ProposalStatus::Accepted, .. })
            })
            .await?;
        drop(event);
        self.expect_in_sync().await?;
        ensure!(self.live_user_version().await? == 42, "the accepted value should stay");
        self.show_file()?;
        print("Everything is in plumb again. Only the one value changed; the comments are where they were.\n")
    }

    async fn break_a_commit(&mut self) -> anyhow::Result<()> {
        self.title("A commit that makes no sense is answered, and changes nothing.")?;
        self.edit("journalMode: wal ", "journalMode: fast ")?;
        commit_all(&self.places.tenant, "Make it fast")?;
        self.wait_for("the finding", |kind| matches!(kind, EventKind::Invalid { .. })).await?;
        let in_force = self.engine.platform().await?;
        let preview = self.engine.preview(&in_force, "checkout", &PreviewSource::Head).await?;
        ensure!(preview.desired.diagnostics.iter().any(|finding| finding.is_error()), "there should be a finding");
        ensure!(preview.plan.steps.is_empty(), "a broken commit should change nothing");
        self.command("plumb validate")?;
        let sources = &preview.sources;
        print(&diag::text(&preview.desired.diagnostics, &|file| sources.get(file).cloned(), self.paint.is_on()))?;
        self.command("git revert HEAD")?;
        self.edit("journalMode: fast ", "journalMode: wal ")?;
        commit_all(&self.places.tenant, "Revert \"Make it fast\"")?;
        self.wait_for("the repaired commit", |kind| matches!(kind, EventKind::Planned { .. })).await?;
        self.expect_in_sync().await?;
        print("Reverted, and in plumb.\n")
    }

    async fn end(mut self, exit: bool) -> anyhow::Result<()> {
        self.title("That is the story. The status page tells it too:")?;
        print(&format!("  http://{}/\n", self.address))?;
        if !exit {
            print("\nPlay on: commit to the team's repository, or change a live file. ctrl-c ends it.\n")?;
            tokio::signal::ctrl_c().await?;
        }
        self.stop.send_replace(true);
        for task in self.running.drain(..) {
            task.await.context("a part of the demo ended early")?;
        }
        Ok(())
    }

    fn title(&mut self, text: &str) -> anyhow::Result<()> {
        self.step += 1;
        print(&format!("\n{}\n", self.paint.bold(&format!("{}. {text}", self.step))))
    }

    fn command(&self, command: &str) -> anyhow::Result<()> {
        print(&format!("{}\n", self.paint.dim(&format!("$ {command}"))))
    }

    fn show_file(&self) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(self.places.tenant.join(MANIFEST))?;
        let indented: String = text.lines().map(|line| format!("    {line}\n")).collect();
        print(&format!("{}\n{indented}", self.paint.dim(&format!("  {MANIFEST}"))))
    }

    fn colored(&self, diff: &str) -> String {
        diff.lines()
            .map(|line| match line.as_bytes().first() {
                Some(b'+') => self.paint.green(line),
                Some(b'-') => self.paint.red(line),
                _ => line.to_owned(),
            })
            .map(|line| format!("    {line}\n"))
            .collect()
    }

    fn edit(&self, from: &str, to: &str) -> anyhow::Result<()> {
        let file = self.places.tenant.join(MANIFEST);
        let text = std::fs::read_to_string(&file)?;
        ensure!(text.contains(from), "{} should contain {from:?}", file.display());
        Ok(std::fs::write(&file, text.replace(from, to))?)
    }

    fn key(&self) -> ResourceKey {
        ResourceKey::new("checkout", "staging", Kind::Database, "orders")
    }

    async fn open_database(&self) -> anyhow::Result<sqlx::SqliteConnection> {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&self.database).busy_timeout(PATIENCE);
        Ok(sqlx::SqliteConnection::connect_with(&options).await?)
    }

    async fn live_user_version(&self) -> anyhow::Result<i64> {
        let mut connection = self.open_database().await?;
        let row = sqlx::query("PRAGMA user_version").fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(row.try_get(0)?)
    }

    /// Waits for an event of the story's database, or of the tenant as a whole.
    async fn wait_for(&mut self, what: &str, wanted: impl Fn(&EventKind) -> bool) -> anyhow::Result<Event> {
        let key = self.key();
        let found = async {
            while let Some(event) = self.events.recv().await {
                if let EventKind::StepFailed { message, .. } | EventKind::ProposalFailed { message, .. } = &event.kind {
                    bail!("while waiting for {what}: {message}");
                }
                if event.key.as_ref().is_none_or(|of| *of == key) && wanted(&event.kind) {
                    return Ok(event);
                }
            }
            bail!("the reconciler ended while waiting for {what}")
        };
        tokio::time::timeout(PATIENCE, found).await.with_context(|| format!("{what} did not come"))?
    }

    /// Looks once more, and expects nothing to do.
    async fn expect_in_sync(&mut self) -> anyhow::Result<()> {
        let in_force = self.engine.platform().await?;
        let preview = self.engine.preview(&in_force, "checkout", &PreviewSource::Head).await?;
        ensure!(preview.plan.is_in_sync(), "everything should be in plumb: {:?}", preview.plan);
        Ok(())
    }
}

//! The command line: one file a command, `args.rs` for what they share, `house.rs` for the wiring.
//!
//! What always holds: results go to stdout, all else to stderr; exit codes are those of the design, section 7.

mod apply;
mod args;
mod audit;
mod completions;
mod db;
mod demo;
mod doctor;
mod drift;
mod explain;
mod git;
mod history;
mod house;
mod init;
mod output;
mod plan;
mod policy;
mod progress;
mod read;
mod reconcile;
mod remote;
mod replay;
mod retry;
mod schema;
mod secret;
mod serve;
mod telemetry;
mod tenants;
mod tree;
mod validate;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use args::Common;

/// Plumb keeps what runs true to what is committed.
///
/// Teams commit YAML to their own git repositories; Plumb validates every commit, makes databases, caches and the rest
/// match it, watches them for drift, and answers drift with a proposal that a person decides.
///
/// Try `plumb demo` first: the whole story in a temporary folder, no server needed.
#[derive(Debug, Parser)]
#[command(name = "plumb", version, max_term_width = 100, disable_help_subcommand = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Start here:
  plumb demo                                   the whole story on embedded parts
  plumb init my-platform                       a platform repository and a first tenant
  plumb plan  --platform my-platform/platform  what would change
  plumb apply --platform my-platform/platform  make it so, once (for CI and cron)
  plumb serve --platform my-platform/platform  keep it so, with a status page

Secrets are no flags:
  PLUMB_PLATFORM_TOKEN  the token for the platform repository over https
  PLUMB_SECRET_KEY      the key of generated passwords, 32 bytes as base64 or hex; else <data-dir>/secret.key

What is logged: PLUMB_LOG, as in plumb=debug. Wrong usage exits with 2.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole story on embedded parts, in a temporary folder.
    Demo(demo::Args),
    /// Make a platform repository and a first tenant's repository to start from.
    Init(init::Args),
    /// Check manifests offline.
    ///
    /// Exits with 0 when there is no error (warnings are none), else with 1.
    Validate(validate::Args),
    /// Show what an apply would change.
    ///
    /// Changes nothing. The plan's id in the first line is what a commit trailer approves, where something is held.
    Plan(plan::Args),
    /// Make live what git says, once: for CI and cron.
    ///
    /// Opens and closes proposals too. Exits with 0 when everything is in sync afterwards, else with 1.
    Apply(apply::Args),
    /// Validate and plan on every save.
    Watch(watch::Args),
    /// Keep live what git says: poll, scan for drift, serve the status page.
    Serve(serve::Args),
    /// Scan for drift now, without changing anything.
    ///
    /// Exits with 0 for no drift, 1 for drift, 2 when something failed or could not be seen.
    Drift(drift::Args),
    /// List resources; or orphans, dead letters, providers.
    Get(read::GetArgs),
    /// Show one resource: conditions, desired and live values, events.
    Describe(read::DescribeArgs),
    /// Show how live differs from git, as of the last look.
    ///
    /// `plumb drift` looks now. Exits with 0 for no difference, 1 for a difference, 2 for an error.
    Diff(read::DiffArgs),
    /// Show what happened.
    Events(read::EventsArgs),
    /// List what was looked at: when, why, on which commit, and what came of it.
    History(history::HistoryArgs),
    /// Show one execution, event by event.
    ///
    /// Exits with 0 when it ended in sync, else with 1.
    Timeline(history::TimelineArgs),
    /// Show what two executions of a tenant did and found otherwise.
    ///
    /// Exits with 0 when they are the same, else with 1.
    Compare(history::CompareArgs),
    /// Make the plans of an execution again, from what was known then.
    ///
    /// Git, inventory, live systems and decisions are those of that time; nothing is looked at, and nothing is applied.
    /// With --at, another commit is planned on them: what would have come of it. Exits with 0 when the plans are those of
    /// then, else with 1; with --at always with 0.
    Replay(replay::Args),
    /// Show what depends on what, and how each stands.
    ///
    /// Exits with 0 when all is ready, else with 1.
    Tree(tree::Args),
    /// Say why a resource is not as git says: what it waits for, down to the root.
    ///
    /// Exits with 0 when it is as git says, else with 1.
    Explain(explain::Args),
    /// Try failed steps again now: one resource's, or all of a tenant's.
    ///
    /// A step that cannot work, or that failed ten times, is a dead letter: it is tried again after a new commit, when its
    /// provider is back after an outage, by `plumb apply`, and by this. `plumb get --dead-letters` lists them.
    ///
    /// A change that was undone (`plumb.dev/on-failure: rollback`) is done again after a new commit, and by this.
    Retry(retry::Args),
    /// Show who or what did what.
    ///
    /// Commits with their authors, approvals, decisions, changes, passwords that were shown, looks that were asked for, applies
    /// and retries by a person, `plumb db`, revisions of the platform, what was forgotten after its time. Each row's hash is
    /// over the row and the one before it, so that one that was changed or is missing shows, as a chain does that is missing
    /// whole: --verify looks.
    /// `-o json` prints one object a line, which is the export. Exits with 1 when a chain is broken.
    Audit(audit::Args),
    /// Show generated passwords.
    Secret(secret::Args),
    /// Ask the running server for a look now.
    Reconcile(reconcile::Args),
    /// Migrate, back up, restore or move the state database.
    Db(db::Args),
    /// Print the JSON Schema of a kind.
    Schema(schema::Args),
    /// Work with policies.
    Policy(policy::Args),
    /// Check the set-up: platform, repositories, providers, credentials.
    Doctor(doctor::Args),
    /// Print a completion script for a shell.
    Completions(completions::Args),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let command = Cli::command();
    let colors = args::colors_of_help(&command);
    let cli = Cli::from_arg_matches(&command.color(colors).get_matches()).unwrap_or_else(|error| error.exit());
    let cli = Cli { common: cli.common.without_empty(), ..cli };
    telemetry::start(&cli.common, matches!(cli.command, Command::Serve(_)));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the async runtime could not be started: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let on_error = cli.command.error_code();
    let code = match runtime.block_on(cli.command.run(&cli.common)) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => 0,
        Err(error) => {
            output::print_error(&error, &cli.common);
            on_error
        }
    };
    // A git or database call that hangs must not keep the program from ending.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// What commands exit with when they could not do their work.
const FAILED: u8 = 1;

impl Command {
    async fn run(self, common: &Common) -> anyhow::Result<u8> {
        match self {
            Self::Demo(args) => demo::run(args, common).await,
            Self::Init(args) => init::run(&args, common),
            Self::Validate(args) => validate::run(&args, common),
            Self::Plan(args) => plan::run(args, common).await,
            Self::Apply(args) => apply::run(args, common).await,
            Self::Watch(args) => watch::run(args, common).await,
            Self::Serve(args) => serve::run(args, common).await,
            Self::Drift(args) => drift::run(args, common).await,
            Self::Get(args) => read::get(args, common).await,
            Self::Describe(args) => read::describe(args, common).await,
            Self::Diff(args) => read::diff(args, common).await,
            Self::Events(args) => read::events(args, common).await,
            Self::History(args) => history::history(args, common).await,
            Self::Timeline(args) => history::timeline(args, common).await,
            Self::Compare(args) => history::compare(args, common).await,
            Self::Replay(args) => replay::run(args, common).await,
            Self::Tree(args) => tree::run(args, common).await,
            Self::Explain(args) => explain::run(args, common).await,
            Self::Retry(args) => retry::run(args, common).await,
            Self::Audit(args) => audit::run(args, common).await,
            Self::Secret(args) => secret::run(args, common).await,
            Self::Reconcile(args) => reconcile::run(args, common).await,
            Self::Db(args) => db::run(args, common).await,
            Self::Schema(args) => schema::run(&args, common),
            Self::Policy(args) => policy::run(args, common).await,
            Self::Doctor(args) => doctor::run(args, common).await,
            Self::Completions(args) => completions::run(&args),
        }
    }

    /// `diff` and `drift` keep 1 for "they differ".
    fn error_code(&self) -> u8 {
        match self {
            Self::Diff(_) | Self::Drift(_) => 2,
            _ => FAILED,
        }
    }
}

/// `plumb get | head` is no error.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

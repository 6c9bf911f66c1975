//! Flags that commands share. Each is a `PLUMB_*` variable too.

use std::path::PathBuf;

use anyhow::bail;
use clap::builder::{FalseyValueParser, TypedValueParser as _};
use clap::{Args, ValueEnum};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For programs, and for people who like it.
    Yaml,
    /// For people with wide terminals: more columns.
    Wide,
}

/// The common flags. The help shows no value of a variable that may hold a password, as addresses may.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// The platform repository: a URL, or a folder whose HEAD counts (never its working tree)
    #[arg(
        long,
        global = true,
        env = "PLUMB_PLATFORM",
        hide_env_values = true,
        value_name = "URL|DIR",
        help_heading = "Common"
    )]
    pub platform: Option<String>,

    /// The platform repository's branch [default: main; HEAD for a folder]
    #[arg(long, global = true, env = "PLUMB_PLATFORM_BRANCH", value_name = "BRANCH", help_heading = "Common")]
    pub platform_branch: Option<String>,

    /// Where state, mirrors and keys are kept
    #[arg(
        long,
        global = true,
        env = "PLUMB_DATA_DIR",
        value_name = "DIR",
        default_value = "plumb-data",
        help_heading = "Common"
    )]
    pub data_dir: PathBuf,

    /// The state database: postgres://login@host/database, its password in PGPASSWORD, or sqlite:DIR; plumb.db in the
    /// data directory by default
    #[arg(
        long,
        global = true,
        env = "PLUMB_DATABASE",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Common"
    )]
    pub database: Option<String>,

    /// Ask this running server, not the state database (get, describe, diff, explain, tree, history, timeline, compare,
    /// events, reconcile)
    #[arg(
        long,
        global = true,
        env = "PLUMB_SERVER",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Common"
    )]
    pub server: Option<String>,

    /// How results are printed
    #[arg(short, long, global = true, env = "PLUMB_OUTPUT", value_enum, default_value_t, help_heading = "Common")]
    pub output: Format,

    /// Only this tenant
    #[arg(short, long, global = true, env = "PLUMB_TENANT", value_name = "NAME", help_heading = "Common")]
    pub tenant: Option<String>,

    /// Only this environment
    #[arg(short, long, global = true, env = "PLUMB_ENVIRONMENT", value_name = "NAME", help_heading = "Common")]
    pub environment: Option<String>,

    /// Print results and errors only
    #[arg(
        short,
        long,
        global = true,
        env = "PLUMB_QUIET",
        value_parser = FalseyValueParser::new(),
        help_heading = "Common"
    )]
    pub quiet: bool,

    /// Tell more on stderr; twice for everything
    #[arg(
        short,
        long,
        global = true,
        env = "PLUMB_VERBOSE",
        action = clap::ArgAction::Count,
        help_heading = "Common"
    )]
    pub verbose: u8,

    /// No colours (NO_COLOR and TERM=dumb do the same)
    #[arg(
        long,
        global = true,
        env = NO_COLOR_VARIABLE,
        value_parser = FalseyValueParser::new(),
        help_heading = "Common"
    )]
    pub no_color: bool,
}

/// Stands for `--no-color`.
const NO_COLOR_VARIABLE: &str = "PLUMB_NO_COLOR";

/// Whether help, and what is said of wrong usage, has colours on a terminal: it is made before there is a [`Common`].
pub fn colors_of_help(command: &clap::Command) -> clap::ColorChoice {
    let is_set = |value: std::ffi::OsString| FalseyValueParser::new().parse_ref(command, None, &value).unwrap_or(true);
    let asked_not = std::env::args_os().any(|argument| argument == "--no-color")
        || std::env::var_os(NO_COLOR_VARIABLE).is_some_and(is_set);
    if asked_not { clap::ColorChoice::Never } else { clap::ColorChoice::Auto }
}

/// Where the state is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// In a file in this folder.
    Sqlite(PathBuf),
    /// In the database of this URL.
    Postgres(String),
}

impl Common {
    /// Refuses `--server` for a command that works on the state itself: `why` says so.
    pub fn expect_no_server(&self, why: &str) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.server.is_none(),
            "{why}: give --data-dir or --database where the server runs, not --server"
        );
        Ok(())
    }

    /// The tenant of a command that may also name it without the flag.
    pub fn tenant_or(&self, named: Option<String>) -> anyhow::Result<Option<String>> {
        match (named, &self.tenant) {
            (Some(named), Some(tenant)) if named != *tenant => {
                bail!("which tenant, {named} or {tenant}? Name it once: here, or with --tenant (PLUMB_TENANT)")
            }
            (named, tenant) => Ok(named.or_else(|| tenant.clone())),
        }
    }

    /// The same, where an empty variable (or value) is none: what scripts leave behind that unset by emptying.
    pub fn without_empty(self) -> Self {
        let some = |value: Option<String>| value.filter(|value| !value.is_empty());
        Self {
            platform: some(self.platform),
            platform_branch: some(self.platform_branch),
            database: some(self.database),
            server: some(self.server),
            tenant: some(self.tenant),
            environment: some(self.environment),
            ..self
        }
    }

    /// Whether a stream that `is_terminal` gets colours.
    pub fn colors(&self, is_terminal: bool) -> bool {
        let asked_not = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let cannot = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        is_terminal && !self.no_color && !asked_not && !cannot
    }

    /// The data directory, absolute: relative paths of embedded providers are relative to it.
    pub fn data_dir(&self) -> anyhow::Result<PathBuf> {
        Ok(std::path::absolute(&self.data_dir)?)
    }

    /// Where the state is.
    pub fn database(&self) -> anyhow::Result<Database> {
        match self.database.as_deref() {
            None => Ok(Database::Sqlite(self.data_dir()?)),
            Some(url) => Database::of(url, "--database"),
        }
    }
}

impl Database {
    /// The database that the value of a flag names.
    pub fn of(url: &str, flag: &str) -> anyhow::Result<Self> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        match url.strip_prefix("sqlite:").filter(|folder| !folder.is_empty()) {
            Some(folder) => {
                let folder = folder.strip_prefix("//").unwrap_or(folder);
                Ok(Self::Sqlite(std::path::absolute(folder)?))
            }
            None => bail!("{flag} is neither postgres://login@host/database nor sqlite:DIR"),
        }
    }

    /// How it may be shown: without a password.
    pub fn shown(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite:{}", folder.display()),
            Self::Postgres(url) => crate::store::postgres::without_password(url),
        }
    }
}

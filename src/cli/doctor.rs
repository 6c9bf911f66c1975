//! `plumb doctor`: checks the set-up from end to end and says what to do about each finding.

use std::process::Command;

use serde::Serialize;

use crate::engine::{Check, CheckResult, clocks_differ};
use crate::model::{Clock, SystemClock};
use crate::store::{Mode, Store, StoreError};

use super::args::Common;
use super::house::{self, House};
use super::output::{self, Paint, count};
use super::tenants;

#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Serialize)]
struct Line {
    what: String,
    ok: bool,
    message: String,
}

impl From<Check> for Line {
    fn from(check: Check) -> Self {
        let (ok, message) = match check.result {
            CheckResult::Good(message) => (true, message),
            CheckResult::Bad(message) => (false, message),
        };
        Self { what: check.what, ok, message }
    }
}

/// Checks. Exits with 0 when all is well.
pub async fn run(_: Args, common: &Common) -> anyhow::Result<u8> {
    let mut lines = vec![check_git(), check_data_dir(common), check_database(common).await];
    lines.extend(check_key(common).await);
    match platform_lines(common).await {
        Ok(more) => lines.extend(more),
        Err(error) => lines.push(bad("platform", format!("{error:#}"))),
    }
    let all_well = lines.iter().all(|line| line.ok);
    output::print_as(common, &lines, || {
        let paint = Paint::stdout(common);
        lines
            .iter()
            .map(|line| {
                let sign = if line.ok { paint.green("ok  ") } else { paint.red("bad ") };
                format!("{sign} {}: {}\n", line.what, output::readable(&line.message))
            })
            .collect()
    })?;
    Ok(u8::from(!all_well))
}

async fn platform_lines(common: &Common) -> anyhow::Result<Vec<Line>> {
    house::settings(common)?;
    let house = House::planning(common).await?;
    let in_force = tenants::platform_for_reading(&house.engine, common).await?;
    let mut lines = vec![match &in_force.rejected {
        None => good(
            "platform",
            format!(
                "{}, {}",
                count(in_force.platform.tenants.len(), "tenant"),
                count(in_force.platform.providers.len(), "provider")
            ),
        ),
        Some(commit) => bad(
            "platform",
            format!(
                "its head {commit} does not validate, an older revision is in force; `plumb validate` on it shows why"
            ),
        ),
    }];
    lines.extend(house.engine.check(&in_force).await.into_iter().map(Line::from));
    Ok(lines)
}

fn check_git() -> Line {
    match Command::new("git").arg("--version").output() {
        Ok(output) if output.status.success() => good("git", String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Ok(_) | Err(_) => bad("git", "the git program is needed for pushes; install it".to_owned()),
    }
}

fn check_data_dir(common: &Common) -> Line {
    match common.data_dir() {
        Ok(folder) if folder.is_dir() => {
            let probe = tempfile::Builder::new().prefix(".plumb-").tempfile_in(&folder);
            match probe {
                Ok(_) => good("data directory", folder.display().to_string()),
                Err(error) => bad("data directory", format!("{} cannot be written: {error}", folder.display())),
            }
        }
        Ok(folder) => good("data directory", format!("{} will be made", folder.display())),
        Err(error) => bad("data directory", error.to_string()),
    }
}

async fn check_database(common: &Common) -> Line {
    const WHAT: &str = "state database";
    let database = match common.database() {
        Ok(database) => database,
        Err(error) => return bad(WHAT, error.to_string()),
    };
    match house::open(&database, Mode::ReadOnly).await {
        Ok(store) => match wrong_with(store.as_ref()).await {
            None => good(WHAT, "is there, of this version".to_owned()),
            Some(wrong) => bad(WHAT, wrong),
        },
        Err(StoreError::Missing { .. }) => good(WHAT, "will be made".to_owned()),
        Err(error @ StoreError::Older { .. }) => good(WHAT, error.to_string()),
        Err(error) => bad(WHAT, format!("{:#}", anyhow::Error::from(error))),
    }
}

/// What keeps a state from being worked with as it is.
async fn wrong_with(store: &dyn Store) -> Option<String> {
    if let Ok(Some((place, at))) = store.moved().await {
        return Some(format!("the state was moved to {place} at {at}: give --database {place}"));
    }
    store.now().await.ok().and_then(|now| clocks_differ(SystemClock.now(), now))
}

/// The key of generated passwords: that it opens those which are stored. Nothing is said before there is any.
async fn check_key(common: &Common) -> Option<Line> {
    const WHAT: &str = "key of passwords";
    let store = house::open(&common.database().ok()?, Mode::ReadOnly).await.ok();
    match house::check_vault(common, store.as_deref()).await {
        Ok(key) => key.map(|_| good(WHAT, "is the one of this state".to_owned())),
        Err(error) => Some(bad(WHAT, format!("{error:#}"))),
    }
}

fn good(what: &str, message: String) -> Line {
    Line { what: what.to_owned(), ok: true, message }
}

fn bad(what: &str, message: String) -> Line {
    Line { what: what.to_owned(), ok: false, message }
}

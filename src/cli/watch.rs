//! `plumb watch`: validates and plans on every save.

use std::path::PathBuf;
use std::time::Duration;

use crate::engine::PreviewSource;
use crate::source::Watcher;

use super::args::{Common, Format};
use super::house::House;
use super::output::{self, Paint, print};
use super::{plan, tenants, validate};

/// How long the folder has to be quiet before it is looked at: an editor's save is several events.
const DEBOUNCE: Duration = Duration::from_millis(150);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The working copy of a tenant's repository
    dir: PathBuf,
}

/// Watches until ctrl-c. Plans where a platform is given, else only validates.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let mut watcher = Watcher::new(&args.dir, DEBOUNCE)?;
    if !common.quiet {
        eprintln!("watching {}; ctrl-c ends it", args.dir.display());
        if common.platform.is_none() {
            eprintln!("only validating; give --platform to see the plan too, and --tenant where it has several");
        }
    }
    loop {
        if let Err(error) = look(&args, common).await {
            // A half-written save is no reason to stop watching.
            output::print_error(&error, common);
        }
        tokio::select! {
            changed = watcher.changed() => {
                if changed.is_none() {
                    return Ok(0);
                }
            }
            stopped = tokio::signal::ctrl_c() => {
                stopped?;
                return Ok(0);
            }
        }
    }
}

async fn look(args: &Args, common: &Common) -> anyhow::Result<()> {
    if common.platform.is_none() {
        validate::look(std::slice::from_ref(&args.dir), common)?;
        return Ok(());
    }
    let house = House::planning(common).await?;
    let in_force = tenants::platform_for_reading(&house.engine, common).await?;
    if common.tenant.is_none() && in_force.platform.tenants.len() != 1 {
        // Whose folder it is nobody can tell.
        validate::look(std::slice::from_ref(&args.dir), common)?;
        return Ok(());
    }
    let tenant = tenants::only(&in_force, common)?;
    let preview = house.engine.preview(&in_force, &tenant, &PreviewSource::Folder(args.dir.clone())).await?;
    let result = plan::to_json(&preview.plan, &preview.desired);
    match common.output {
        // One line, and one document, a save, so that a program can read them as they come.
        Format::Json => print(&serde_json::to_string(&result)?),
        Format::Yaml => print(&format!("---\n{}", serde_yaml::to_string(&result)?)),
        Format::Text | Format::Wide => {
            let branch = tenants::branch_of(&in_force, &tenant);
            print(&plan::preview_text(&preview, branch, Paint::stdout(common)))
        }
    }
}

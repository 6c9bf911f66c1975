//! `plumb watch`: validates and plans on every save.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::engine::PreviewSource;
use crate::source::Watcher;

use super::args::Common;
use super::house::House;
use super::output::{self, Paint, print};
use super::{plan, validate};

/// How long the folder has to be quiet before it is looked at: an editor's save is several events.
const DEBOUNCE: Duration = Duration::from_millis(150);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The working copy of a tenant's repository
    dir: PathBuf,
}

/// Watches until ctrl-c. Plans where a platform and a tenant are given, else only validates.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let mut watcher =
        Watcher::new(&args.dir, DEBOUNCE).with_context(|| format!("{} cannot be watched", args.dir.display()))?;
    if !common.quiet {
        eprintln!("watching {}; ctrl-c ends it", args.dir.display());
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
    let (Some(_), Some(tenant)) = (&common.platform, &common.tenant) else {
        validate::look(std::slice::from_ref(&args.dir), common)?;
        return Ok(());
    };
    let house = House::planning(common).await?;
    let in_force = house.engine.platform_for_reading().await.map_err(|error| validate::explain(error, common))?;
    let preview = house.engine.preview(&in_force, tenant, &PreviewSource::Folder(args.dir.clone())).await?;
    match common.output {
        super::args::Format::Json => print(&serde_json::to_string(&plan::to_json(&preview.plan, &preview.desired))?),
        _ => print(&plan::preview_text(&preview, "main", Paint::stdout(common))),
    }
}

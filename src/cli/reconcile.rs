//! `plumb reconcile`: asks the running server for a look now.

use anyhow::bail;
use clap::builder::NonEmptyStringValueParser;

use super::args::Common;
use super::remote;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tenant; all, when left out
    #[arg(value_name = "TENANT", value_parser = NonEmptyStringValueParser::new())]
    of: Option<String>,
}

/// Asks.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let Some(server) = &common.server else {
        bail!("which server? Give --server http://127.0.0.1:8080 (or PLUMB_SERVER), or run `plumb apply` for one look");
    };
    let tenant = common.tenant_or(args.of)?;
    remote::ask_for_look(server, tenant.as_deref()).await?;
    if !common.quiet {
        eprintln!(
            "the server will look at {} now; `plumb events --server {server}` shows what it does",
            tenant.as_deref().unwrap_or("every tenant")
        );
    }
    Ok(0)
}

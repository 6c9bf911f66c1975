//! `plumb schema`: the JSON Schema of a kind, as editors use it.

use anyhow::bail;

use crate::validate::{DocumentKind, schema_for};

use super::args::Common;
use super::output;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kind, such as Database; lists the kinds when left out
    kind: Option<String>,
}

/// Prints the schema.
pub fn run(args: &Args, common: &Common) -> anyhow::Result<u8> {
    let kinds: Vec<&str> = DocumentKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let Some(kind) = &args.kind else {
        output::print_as(common, &kinds, || kinds.join("\n"))?;
        return Ok(0);
    };
    let Some(schema) = schema_for(kind) else {
        bail!("there is no kind {kind:?}; kinds are {}", kinds.join(", "));
    };
    output::print_as(common, &schema, || serde_json::to_string_pretty(&schema).unwrap_or_default())?;
    Ok(0)
}

//! `plumb secret get`: shows a password and records that it did.

use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Subcommand;
use secrecy::ExposeSecret;
use serde_json::json;

use crate::model::{Clock, EventKind, ExecutionOutcome, ResourceKey, Summary, SystemClock, Trigger};
use crate::store::sqlite::{Mode, SqliteStore};
use crate::store::{Scope, Store};

use super::args::Common;
use super::{house, output};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: SecretCommand,
}

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Show the password of a role, and record in the timeline that it was shown.
    Get {
        /// The resource: tenant/environment/Kind/name
        key: ResourceKey,
        /// The role, as in spec.roles; `user` for a Cache
        role: String,
    },
}

/// Shows the password.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    let SecretCommand::Get { key, role } = args.command;
    let store: Arc<dyn Store> = Arc::new(
        SqliteStore::open(common.data_dir()?, Mode::Append).await.context("the state database cannot be used")?,
    );
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let secrets = house::stored_secrets(common, Arc::clone(&store), Arc::clone(&clock)).await?;
    let Some(password) = secrets.reveal(&key, &role).await? else {
        bail!(
            "the password of role {role} of {key} is unknown here: there is no such role, or the state was lost. A new \
             value of the annotation plumb.dev/rotate makes new passwords"
        );
    };
    // Recorded first: a password is never shown without a trace.
    let mut tx = store.begin(Scope::Tenant(key.tenant.clone())).await?;
    let now = clock.now();
    let execution = tx.start_execution(&key.tenant, Trigger::CommandLine, None, now).await?;
    tx.append_event(execution, &key.tenant, Some(&key), now, &EventKind::SecretShown { role: role.clone() }).await?;
    tx.finish_execution(execution, ExecutionOutcome::InSync, None, None, Summary::default(), now).await?;
    tx.commit().await?;
    let shown = json!({"key": key, "role": role, "password": password.expose_secret()});
    output::print_as(common, &shown, || password.expose_secret().to_owned())?;
    Ok(0)
}

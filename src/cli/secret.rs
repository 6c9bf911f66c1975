//! `plumb secret get`: shows a password and records that it did.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::bail;
use clap::Subcommand;
use secrecy::ExposeSecret;
use serde_json::json;

use crate::engine::vault::{StoredSecrets, system_rng};
use crate::model::{Clock, EventKind, ExecutionOutcome, Record, ResourceKey, Summary, SystemClock, Trigger};
use crate::store::audit::{AuditAction, NewAudit};
use crate::store::{Mode, NewEvent, Scope};

use super::args::Common;
use super::{house, output};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: SecretCommand,
}

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Show the password of a role, and record in the timeline and the audit log that it was shown.
    Get {
        /// The resource: tenant/environment/Kind/name
        key: ResourceKey,
        /// The role, as in spec.roles; `user` for a Cache
        role: String,
    },
}

/// Shows the password.
pub async fn run(args: Args, common: &Common) -> anyhow::Result<u8> {
    common.expect_no_server("secret get needs the state database and its key")?;
    let SecretCommand::Get { key, role } = args.command;
    let store = house::existing_store(common, Mode::Append).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let vault = Arc::new(house::existing_vault(common)?);
    let secrets = StoredSecrets::open_to_reveal(Arc::clone(&store), vault, Arc::clone(&clock), system_rng()).await?;
    let record = store.read(Scope::Tenant(key.tenant.clone())).await?.record(&key).await?;
    // What is stored for a role that was never made, or was dropped since, opens nothing.
    if !record.as_ref().is_some_and(|record| roles(record).contains(&role)) {
        bail!(
            "{}. `plumb explain {key}` says what a role waits for that git asks for",
            why_no_role(&key, &role, record.as_ref())
        );
    }
    let Some(password) = secrets.reveal(&key, &role).await? else {
        bail!(
            "the password of role {role} of {key} is unknown here: the state that held it was lost, or somebody else made \
             it. The role keeps the one it has; a new value of the annotation plumb.dev/rotate makes new passwords"
        );
    };
    // Recorded first: a password is never shown without a trace.
    let mut tx = store.begin(Scope::Tenant(key.tenant.clone())).await?;
    let now = clock.now();
    let execution = tx.start_execution(&key.tenant, Trigger::SecretShown, None, now).await?;
    let shown = NewEvent { key: Some(key.clone()), at: now, kind: EventKind::SecretShown { role: role.clone() } };
    tx.append_event(execution, &key.tenant, shown).await?;
    let details = [("role".to_owned(), json!(role)), ("execution".to_owned(), json!(execution))].into();
    let (actor, action) = (house::person(), AuditAction::SecretShown);
    let audited = NewAudit { at: now, actor, action, key: Some(key.clone()), details };
    tx.append_audit(&key.tenant, &[audited]).await?;
    tx.finish_execution(execution, ExecutionOutcome::InSync, None, None, Summary::default(), now).await?;
    tx.commit().await?;
    let shown = json!({"key": key, "role": role, "password": password.expose_secret()});
    output::print_as(common, &shown, || password.expose_secret().to_owned())?;
    Ok(0)
}

/// The roles that a resource has, as of the last step on it.
fn roles(record: &Record) -> BTreeSet<String> {
    record.key.kind.roles(record.applied.paths())
}

/// Why there is no such role, and what there is.
fn why_no_role(key: &ResourceKey, role: &str, record: Option<&Record>) -> String {
    let Some(record) = record else {
        return format!("nothing is known of {key}; `plumb get` lists what is");
    };
    let roles = roles(record);
    let known: Vec<&str> = roles.iter().map(String::as_str).collect();
    match known[..] {
        [] => format!("{key} has no role, so there is no password"),
        _ => format!("{key} has no role {role}; it has {}", known.join(", ")),
    }
}

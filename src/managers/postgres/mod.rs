//! PostgreSQL, from version 13 on: databases with their roles.
//!
//! **What it manages**, for each Database: the database; the role that owns it, `{database}_owner`, without login; a
//! login role `{database}_{role}` for each role, with `read`, `readwrite` or `admin` access (see [`privileges`]);
//! extensions; the connection limit; and settings for every session of the database.
//!
//! **What its mark is**: the comments of the database, of the owner and of each login role. The owner is made, marked
//! as unfinished, in one transaction before the database, and a database without a comment that a marked owner owns
//! counts as marked. The owner's mark becomes whole in the same transaction as everything inside the database, so a
//! death in between leaves either an unfinished creation, which the next step finishes, or all of it. A whole owner
//! whose database is gone says that data was lost, an unfinished one that its deletion, or creation, was cut short. A
//! member of the owner can change the database's comment but not the owner's; where they disagree on whose it is, the
//! owner's counts.
//!
//! **What it leaves alone**: everything inside the databases that is not a privilege of a managed role; roles,
//! extensions and settings that no manifest speaks of; roles and databases with another's mark or none; sessions, none
//! of which is ever ended; passwords of roles that exist, unless new ones are asked for; memberships of managed roles
//! in other roles than the owner. Nothing is dropped with CASCADE; what a removed role owns goes to the owner first.
//!
//! **The login** needs CREATEDB and CREATEROLE, no more. It becomes a member of each owner and stays one, since that
//! is what lets it manage the database; it becomes a member of a login role only inside a transaction that needs it,
//! and only where it was none before. Before PostgreSQL 15 the schema `public` of a new database belongs to the
//! bootstrap superuser and lets everybody create in it, which such a login cannot take back.
//!
//! **Adoption** makes the owner own the database, which the login may only do as a member of the former owner. The
//! former owner becomes a member of the new one, so that it can do what it could; what it owns stays its own, and
//! CONNECT stays with PUBLIC.
//!
//! **Identity** is `system_identifier`, which every login may read. **Locks** are advisory ones in the maintenance
//! database, the one that the Provider's URL names: every Plumb of a platform has to name the same.

mod apply;
mod catalog;
mod change;
mod connection;
mod delete;
mod errors;
mod extensions;
mod names;
mod observe;
mod passwords;
mod privileges;
mod sql;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use async_trait::async_trait;
use sqlx::Row;

pub use names::{login_role, owner_role};

use self::connection::Server;
use self::errors::{Cause, Failure, code};
use crate::managers::{Cx, Endpoint, Found, ManagerError, Outcome, ResourceManager};
use crate::model::{Depth, Kind, Observation, ProviderIdentity, Reason, Step, Target};

/// A PostgreSQL server.
pub struct Postgres {
    server: Server,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("host", &self.server.host()).field("port", &self.server.port()).finish()
    }
}

/// The server at `endpoint`; connects when first used.
///
/// # Errors
/// When the address cannot be used: not of PostgreSQL, without a login, or with a password in it.
pub fn connect(endpoint: Endpoint) -> Result<Postgres, ManagerError> {
    Ok(Postgres { server: Server::new(&endpoint)? })
}

#[async_trait]
impl ResourceManager for Postgres {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Database]
    }

    async fn identity(&self) -> Result<Option<ProviderIdentity>, ManagerError> {
        const DOING: &str = "ask the server who it is";
        let mut lease = self.server.maintenance().await?;
        let query = sqlx::query("SELECT system_identifier::text FROM pg_control_system()");
        let rows = lease.session.rows(DOING, query).await.map_err(|failure: Failure| {
            if failure.is(code::INSUFFICIENT_PRIVILEGE) {
                let help = format!(
                    "have a superuser run GRANT EXECUTE ON FUNCTION pg_control_system() TO {} in the database {}",
                    sql::ident(self.server.login()),
                    sql::ident(self.server.maintenance_database()),
                );
                return failure.terminal(Reason::PermissionDenied, &help);
            }
            failure.into()
        })?;
        let identity = rows.first().map(|row| row.try_get(0)).transpose();
        let identity = identity.map_err(|error| lease.session.failure(DOING, Cause::Sql(error)))?;
        lease.give_back().await;
        Ok(identity.map(ProviderIdentity))
    }

    async fn observe(&self, targets: &[Target], depth: Depth, cx: &Cx<'_>) -> Result<Vec<Observation>, ManagerError> {
        observe::observe(&self.server, targets, depth, cx.platform).await
    }

    async fn discover(&self, _: &BTreeSet<String>, cx: &Cx<'_>) -> Result<Vec<Found>, ManagerError> {
        observe::discover(&self.server, cx.platform).await
    }

    async fn apply(&self, step: &Step, cx: &Cx<'_>) -> Result<Outcome, ManagerError> {
        apply::apply(&self.server, step, cx).await
    }

    fn outputs(&self, target: &Target) -> BTreeMap<String, String> {
        observe::outputs(&self.server, target)
    }
}

//! Deleting a database and its roles. Never with FORCE, never with CASCADE, and only the one that was planned for.

use sqlx::Row;

use super::apply::Work;
use super::catalog::{Catalog, DatabaseRow};
use super::connection::Session;
use super::errors::{Cause, code};
use super::observe::{ROLE, role_id};
use super::sql::{ident, idents, literal};
use crate::managers::{ManagerError, Outcome};
use crate::model::{Expect, Mark, Ownership, Reason};

/// Drops the database, then its login roles and its owner. Where the database is gone already, the roles that are left.
pub(super) async fn delete(work: &Work<'_>, session: &mut Session) -> Result<Outcome, ManagerError> {
    let catalog = work.read(session).await?;
    let name = &work.step.object_name;
    let mut roles: Vec<(i64, String)> = catalog
        .login_roles_of(name, work.cx.platform, &work.step.key)
        .map(|role| (role.oid, role.name.clone()))
        .collect();
    let owner = catalog.owner_of(name).filter(|owner| owner.is_ours(work.cx.platform, &work.step.key));
    // Last, so that while anything is left the owner is there to say so.
    roles.extend(owner.map(|owner| (owner.oid, owner.name.clone())));
    let oids: Vec<i64> = roles.iter().map(|(oid, _)| *oid).collect();
    let database = catalog.databases.get(name);
    match (database, &work.step.expect) {
        (Some(database), _) => check(work, &catalog, database)?,
        // Planned for roles that are left: they have to be those.
        (None, Expect::Marked(object))
            if object.0.starts_with(ROLE) && !oids.iter().any(|oid| role_id(*oid) == *object) =>
        {
            let message = format!("the roles of {name:?} are others than were planned for");
            return Err(ManagerError::Conflict { reason: Reason::Conflict, message });
        }
        (None, _) => {}
    }
    refuse_roles_held_elsewhere(session, Ending::Dropped, &oids, database.map_or(0, |database| database.oid)).await?;
    if let Some(database) = database {
        drop_database(work, session, &catalog, database).await?;
    }
    if !roles.is_empty() {
        let names = idents(roles.iter().map(|(_, name)| name));
        session.run(&format!("drop the roles of {name:?}"), format!("DROP ROLE {names}")).await?;
    }
    Ok(Outcome::default())
}

/// Whether it is the very database that the step means, and ours.
fn check(work: &Work<'_>, catalog: &Catalog, database: &DatabaseRow) -> Result<(), ManagerError> {
    let conflict = |reason, why: &str| {
        Err(ManagerError::Conflict { reason, message: format!("the database {:?} {why}", database.name) })
    };
    match &work.step.expect {
        Expect::Marked(wanted) if *wanted == database.object() => {}
        Expect::Marked(_) => return conflict(Reason::Conflict, "is another one than was planned for"),
        Expect::Absent | Expect::Unmarked(_) => return conflict(Reason::Conflict, "is there by now"),
    }
    match catalog.ownership(database) {
        Ownership::Marked(mark) if work.is_ours(&mark) => Ok(()),
        Ownership::Marked(_) => conflict(Reason::OwnedByOther, "bears another's mark"),
        Ownership::Unmarked => conflict(Reason::NotOwned, "bears no mark"),
    }
}

async fn drop_database(
    work: &Work<'_>,
    session: &mut Session,
    catalog: &Catalog,
    database: &DatabaseRow,
) -> Result<(), ManagerError> {
    let name = &database.name;
    let open = sessions(session, database.oid).await?;
    if open > 0 {
        return Err(in_use(name, open));
    }
    let owner = catalog.owner_of(name).filter(|owner| owner.is_ours(work.cx.platform, &work.step.key));
    if let Some(owner) = owner {
        // From here on the database's absence is meant: with the owner's mark whole, it would count as lost data (R8).
        let mark = owner.mark.clone().unwrap_or_else(|| work.step.mark.clone());
        let mark = Mark { unfinished: true, ..mark };
        let mut sql = format!("COMMENT ON ROLE {} IS {};\n", ident(&owner.name), literal(&mark.to_text()));
        if !owner.held_by_us {
            sql += &format!("GRANT {} TO CURRENT_USER;\n", ident(&owner.name));
        }
        session.run(&format!("mark {name:?} as being deleted"), sql).await?;
    }
    let dropped = session.run(&format!("drop the database {name:?}"), format!("DROP DATABASE {}", ident(name))).await;
    let Err(failure) = dropped else { return Ok(()) };
    if let Some(owner) = owner
        && let Some(mark) = &owner.mark
        && failure.is(code::OBJECT_IN_USE)
    {
        let sql = format!("COMMENT ON ROLE {} IS {}", ident(&owner.name), literal(&mark.to_text()));
        session.run(&format!("mark {name:?} as kept"), sql).await?;
        let open = sessions(session, database.oid).await?;
        return Err(in_use(name, open));
    }
    Err(failure.into())
}

fn in_use(name: &str, sessions: i64) -> ManagerError {
    let message = match sessions {
        0 => format!("the database {name:?} was in use; it is dropped when nobody is in it"),
        1 => format!("1 session is in the database {name:?}; it is dropped when nobody is in it"),
        more => format!("{more} sessions are in the database {name:?}; it is dropped when nobody is in it"),
    };
    ManagerError::retry(Reason::Conflict, message)
}

/// How many sessions of logins are in a database. Background workers have no login and give way by themselves.
async fn sessions(session: &mut Session, database: i64) -> Result<i64, ManagerError> {
    const DOING: &str = "count the sessions in the database";
    let query = sqlx::query("SELECT count(*) FROM pg_stat_activity WHERE datid::int8 = $1 AND usesysid IS NOT NULL")
        .bind(database);
    let rows = session.rows(DOING, query).await?;
    let count = rows.first().map_or(Ok(0), |row| row.try_get(0));
    Ok(count.map_err(|error| session.failure(DOING, Cause::Sql(error)))?)
}

/// What is about to be done to roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// They are dropped: they may hold nothing anywhere else.
    Dropped,
    /// What they own goes to the owner of their database; that would take other databases of theirs along.
    Reassigned,
}

/// Refuses to end what roles own or may do outside of their database: that is for a person to settle.
pub(super) async fn refuse_roles_held_elsewhere(
    session: &mut Session,
    ending: Ending,
    roles: &[i64],
    database: i64,
) -> Result<(), ManagerError> {
    const DOING: &str = "look for what the roles hold elsewhere";
    if roles.is_empty() {
        return Ok(());
    }
    // Memberships are no hindrance; they go with the role.
    let query = sqlx::query(
        "SELECT DISTINCT pg_get_userbyid(s.refobjid)::text AS role, \
                coalesce('the database ' || quote_ident(d.datname), pg_describe_object(s.classid, s.objid, 0)) AS place \
         FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid \
         WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid::int8 = ANY($1) AND s.dbid::int8 <> $2 \
         AND s.classid <> 'pg_auth_members'::regclass \
         AND NOT (s.dbid = 0 AND s.classid = 'pg_database'::regclass AND s.objid::int8 = $2) \
         AND ($3 OR (s.dbid = 0 AND s.deptype = 'o')) \
         ORDER BY 1, 2",
    )
    .bind(roles)
    .bind(match database {
        // No database has this oid: all that is found is elsewhere.
        0 => -1,
        oid => oid,
    })
    .bind(ending == Ending::Dropped);
    let rows = session.rows(DOING, query).await?;
    let read = |row: &sqlx::postgres::PgRow| -> Result<String, sqlx::Error> {
        let (role, place): (String, String) = (row.try_get("role")?, row.try_get("place")?);
        Ok(format!("{role} in {place}"))
    };
    let held: Result<Vec<String>, sqlx::Error> = rows.iter().map(read).collect();
    let held = held.map_err(|error| session.failure(DOING, Cause::Sql(error)))?;
    if held.is_empty() {
        return Ok(());
    }
    let message = format!(
        "roles to be {} hold something elsewhere: {}; reassign or revoke it there first",
        match ending {
            Ending::Dropped => "dropped",
            Ending::Reassigned => "changed",
        },
        held.join(", ")
    );
    Err(ManagerError::terminal(Reason::Rejected, message))
}

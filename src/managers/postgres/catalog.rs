//! What the shared catalogs tell: databases, roles and marks, for any number of targets in a few queries, read from
//! the maintenance database by any login.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::connection::Session;
use super::errors::{Cause, Failure};
use super::names::owner_role;
use crate::model::{Mark, ObjectId, Ownership, PlatformId, ResourceKey};

/// `datconnlimit` of a database whose `DROP DATABASE` was cut short: it can only be dropped.
const INVALID_DATABASE: i32 = -2;

/// A database.
#[derive(Clone, Debug)]
pub(super) struct DatabaseRow {
    pub name: String,
    pub oid: i64,
    pub connection_limit: i32,
    pub is_template: bool,
    pub owner: String,
    pub owner_oid: i64,
    pub owner_is_superuser: bool,
    pub comment: Option<Mark>,
    /// Privileges on the database given to each role by name of it: `CONNECT`, `CREATE`, ...; a star after one that
    /// may be passed on.
    pub granted: BTreeMap<i64, BTreeSet<String>>,
    /// Settings for every session of it, names as the server spells them.
    pub settings: Vec<(String, String)>,
}

impl DatabaseRow {
    /// What tells it from another database of the same name.
    pub fn object(&self) -> ObjectId {
        ObjectId(self.oid.to_string())
    }

    /// Whether a `DROP DATABASE` of it was cut short.
    pub fn is_half_dropped(&self) -> bool {
        self.connection_limit == INVALID_DATABASE
    }
}

/// A role.
#[derive(Clone, Debug)]
pub(super) struct RoleRow {
    pub name: String,
    pub oid: i64,
    pub can_login: bool,
    pub superuser: bool,
    pub mark: Option<Mark>,
    pub member_of: BTreeSet<i64>,
    /// Which role its sessions become, by database.
    pub becomes: BTreeMap<i64, String>,
    /// Whether our login already has its privileges.
    pub held_by_us: bool,
}

impl RoleRow {
    /// Whether it bears this key's mark.
    pub fn is_ours(&self, platform: &PlatformId, key: &ResourceKey) -> bool {
        self.mark.as_ref().is_some_and(|mark| is_of(mark, platform, key))
    }
}

/// Whether a mark is this key's.
pub(super) fn is_of(mark: &Mark, platform: &PlatformId, key: &ResourceKey) -> bool {
    mark.platform == *platform && mark.key == *key
}

/// What was read, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Catalog {
    pub databases: BTreeMap<String, DatabaseRow>,
    pub roles: BTreeMap<String, RoleRow>,
}

impl Catalog {
    /// The owning role of `database`, if it is there.
    pub fn owner_of(&self, database: &str) -> Option<&RoleRow> {
        self.roles.get(&owner_role(database))
    }

    /// Whose a database is: its comment says so, unless the owning role's mark says otherwise. The comment can be
    /// changed by whoever is a member of the owner; the mark on the role can not. While a database has no comment,
    /// being owned by a marked owner counts as its mark (R2).
    pub fn ownership(&self, database: &DatabaseRow) -> Ownership {
        let owner_mark = self
            .owner_of(&database.name)
            .filter(|owner| owner.oid == database.owner_oid)
            .and_then(|owner| owner.mark.as_ref());
        match (owner_mark, &database.comment) {
            (Some(owner), Some(comment)) if is_of(comment, &owner.platform, &owner.key) => {
                Ownership::Marked(comment.clone())
            }
            (Some(owner), _) => Ownership::Marked(owner.clone()),
            (None, Some(comment)) => Ownership::Marked(comment.clone()),
            (None, None) => Ownership::Unmarked,
        }
    }

    /// Roles with this key's mark, besides the owner of `database`.
    pub fn login_roles_of<'a>(
        &'a self,
        database: &str,
        platform: &'a PlatformId,
        key: &'a ResourceKey,
    ) -> impl Iterator<Item = &'a RoleRow> {
        let owner = owner_role(database);
        self.roles.values().filter(move |role| role.name != owner && role.is_ours(platform, key))
    }
}

/// The query for databases, with a condition on `d`.
macro_rules! databases_where {
    ($condition:literal) => {
        concat!(
            "SELECT d.datname::text AS name, d.oid::int8 AS oid, d.datconnlimit AS connection_limit, \
                    d.datistemplate AS is_template, d.datdba::int8 AS owner_oid, \
                    pg_get_userbyid(d.datdba)::text AS owner, \
                    coalesce((SELECT o.rolsuper FROM pg_roles o WHERE o.oid = d.datdba), false) AS owner_is_superuser, \
                    shobj_description(d.oid, 'pg_database') AS comment, \
                    ARRAY(SELECT a.grantee::int8::text || ':' || a.privilege_type \
                                 || CASE WHEN a.is_grantable THEN '*' ELSE '' END \
                          FROM aclexplode(d.datacl) a) AS granted, \
                    ARRAY(SELECT c FROM pg_db_role_setting s, unnest(s.setconfig) c \
                          WHERE s.setdatabase = d.oid AND s.setrole = 0) AS settings \
             FROM pg_database d WHERE ",
            $condition
        )
    };
}

/// The query for roles, with a condition on `r`. `becomes` is what `ALTER ROLE ... IN DATABASE ... SET role` left.
macro_rules! roles_where {
    ($condition:literal) => {
        concat!(
            "SELECT r.rolname::text AS name, r.oid::int8 AS oid, r.rolcanlogin AS can_login, \
                    r.rolsuper AS superuser, shobj_description(r.oid, 'pg_authid') AS comment, \
                    ARRAY(SELECT m.roleid::int8 FROM pg_auth_members m WHERE m.member = r.oid) AS member_of, \
                    ARRAY(SELECT s.setdatabase::int8::text || ':' || substr(c, 6) \
                          FROM pg_db_role_setting s, unnest(s.setconfig) c \
                          WHERE s.setrole = r.oid AND c LIKE 'role=%') AS becomes, \
                    pg_has_role(r.oid, 'USAGE') AS held_by_us \
             FROM pg_roles r WHERE ",
            $condition
        )
    };
}

/// The databases of these names.
pub(super) async fn read_databases(
    session: &mut Session,
    names: &[String],
) -> Result<BTreeMap<String, DatabaseRow>, Failure> {
    let query = sqlx::query(databases_where!("d.datname::text = ANY($1)")).bind(names);
    let rows = session.rows(LOOKING, query).await?;
    collect(session, &rows, database)
}

/// The roles of these names.
pub(super) async fn read_roles(session: &mut Session, names: &[String]) -> Result<BTreeMap<String, RoleRow>, Failure> {
    let query = sqlx::query(roles_where!("r.rolname::text = ANY($1)")).bind(names);
    let rows = session.rows(LOOKING, query).await?;
    collect(session, &rows, role)
}

/// The database of this name, the roles of these names, and every other role whose mark speaks of `key`.
pub(super) async fn read_key(
    session: &mut Session,
    database: &str,
    roles: &[String],
    key: &ResourceKey,
) -> Result<Catalog, Failure> {
    let databases = read_databases(session, &[database.to_owned()]).await?;
    let query = sqlx::query(roles_where!(
        "r.rolname::text = ANY($1) OR r.oid IN \
            (SELECT objoid FROM pg_shdescription WHERE classoid = 'pg_authid'::regclass \
             AND description LIKE 'plumb:%' AND strpos(description, $2) > 0)"
    ))
    .bind(roles)
    // As the marks' JSON spells it, quotes included.
    .bind(serde_json::Value::String(key.to_string()).to_string());
    let rows = session.rows(LOOKING, query).await?;
    Ok(Catalog { databases, roles: collect(session, &rows, role)? })
}

/// Every database and role with a mark, whosever.
pub(super) async fn read_marked(session: &mut Session) -> Result<Catalog, Failure> {
    // Owners of marked databases come too, so that ownership is judged as everywhere.
    let query = sqlx::query(roles_where!("shobj_description(r.oid, 'pg_authid') LIKE 'plumb:%'"));
    let rows = session.rows(LOOKING, query).await?;
    let roles = collect(session, &rows, role)?;
    let owners: Vec<i64> = roles.values().map(|role: &RoleRow| role.oid).collect();
    let query = sqlx::query(databases_where!(
        "d.datdba::int8 = ANY($1) OR shobj_description(d.oid, 'pg_database') LIKE 'plumb:%'"
    ))
    .bind(owners);
    let rows = session.rows(LOOKING, query).await?;
    Ok(Catalog { databases: collect(session, &rows, database)?, roles })
}

const LOOKING: &str = "look at databases and roles";

fn collect<T>(
    session: &Session,
    rows: &[PgRow],
    read: fn(&PgRow) -> Result<(String, T), sqlx::Error>,
) -> Result<BTreeMap<String, T>, Failure> {
    rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| session.failure(LOOKING, Cause::Sql(error)))
}

fn database(row: &PgRow) -> Result<(String, DatabaseRow), sqlx::Error> {
    let mut granted: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    for (grantee, privilege) in by_oid(row.try_get("granted")?) {
        granted.entry(grantee).or_default().insert(privilege);
    }
    let settings: Vec<String> = row.try_get("settings")?;
    let split = |setting: String| setting.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let found = DatabaseRow {
        name: row.try_get("name")?,
        oid: row.try_get("oid")?,
        connection_limit: row.try_get("connection_limit")?,
        is_template: row.try_get("is_template")?,
        owner: row.try_get("owner")?,
        owner_oid: row.try_get("owner_oid")?,
        owner_is_superuser: row.try_get("owner_is_superuser")?,
        comment: mark(row)?,
        granted,
        settings: settings.into_iter().filter_map(split).collect(),
    };
    Ok((found.name.clone(), found))
}

fn role(row: &PgRow) -> Result<(String, RoleRow), sqlx::Error> {
    let member_of: Vec<i64> = row.try_get("member_of")?;
    let found = RoleRow {
        name: row.try_get("name")?,
        oid: row.try_get("oid")?,
        can_login: row.try_get("can_login")?,
        superuser: row.try_get("superuser")?,
        mark: mark(row)?,
        member_of: member_of.into_iter().collect(),
        becomes: by_oid(row.try_get("becomes")?).collect(),
        held_by_us: row.try_get("held_by_us")?,
    };
    Ok((found.name.clone(), found))
}

fn mark(row: &PgRow) -> Result<Option<Mark>, sqlx::Error> {
    let comment: Option<String> = row.try_get("comment")?;
    Ok(comment.as_deref().and_then(Mark::from_text))
}

/// `oid:text`, as the queries put pairs into arrays.
fn by_oid(pairs: Vec<String>) -> impl Iterator<Item = (i64, String)> {
    pairs.into_iter().filter_map(|pair| {
        let (oid, text) = pair.split_once(':')?;
        Some((oid.parse().ok()?, text.to_owned()))
    })
}

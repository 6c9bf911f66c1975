//! What a role may do: which privileges each access means, which ones hold, and the statements that make them so.
//!
//! | access | on what the owner, the admins and the login's other roles own, and what owner and admins make later |
//! |---|---|
//! | `read` | tables and sequences: select; schemas: usage |
//! | `readwrite` | tables: select, insert, update, delete; sequences: all; functions: execute; schemas: usage |
//! | `admin` | nothing by itself: member of the owner, and its sessions in the database become the owner |
//!
//! Functions need no grant for `read`: PostgreSQL lets everybody execute them, and a team that takes that away from
//! everybody means it. Members of extensions keep the privileges the extension gave them.
//!
//! A role whose privileges are neither of these is observed as `custom`.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row;

use super::catalog::{DatabaseRow, RoleRow};
use super::connection::Session;
use super::errors::{Cause, Failure};
use super::names::owner_role;
use super::sql::{ident, idents, literal};
use crate::managers::ManagerError;
use crate::model::{Access, Reason};

/// How `access` of a role is observed when none of the three holds whole.
pub(super) const CUSTOM: &str = "custom";

/// How YAML spells an access.
pub(super) const fn spelled(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Readwrite => "readwrite",
        Access::Admin => "admin",
    }
}

/// The access that YAML spells so.
pub(super) fn access_of(text: &str) -> Result<Access, ManagerError> {
    [Access::Read, Access::Readwrite, Access::Admin].into_iter().find(|access| spelled(*access) == text).ok_or_else(
        || {
            let message = format!("{text:?} is not an access; one of read, readwrite, admin is");
            ManagerError::terminal(Reason::Rejected, message)
        },
    )
}

/// What the shared catalogs tell of a role's access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outer {
    /// Certain, whatever is inside the database.
    Is(&'static str),
    /// `read`, `readwrite` or something else: only the database itself tells.
    Inside,
}

/// What the shared catalogs tell of the access that `role` has to `database`.
pub(super) fn outer_access(role: &RoleRow, database: &DatabaseRow) -> Outer {
    let connects = database.granted.get(&role.oid).is_some_and(|granted| granted.iter().eq(["CONNECT"]));
    let sound = role.can_login && !role.superuser && connects;
    match (role.member_of.contains(&database.owner_oid), role.becomes.get(&database.oid)) {
        (true, Some(becomes)) if sound && *becomes == database.owner => Outer::Is(spelled(Access::Admin)),
        (false, None) if sound => Outer::Inside,
        (true, _) | (false, _) => Outer::Is(CUSTOM),
    }
}

/// A sort of object that privileges are given on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    Schemas,
    Tables,
    Sequences,
    Functions,
}

impl Sort {
    const ALL: [Sort; 4] = [Sort::Schemas, Sort::Tables, Sort::Sequences, Sort::Functions];

    /// Its letter in `pg_default_acl`.
    const fn letter(self) -> &'static str {
        match self {
            Sort::Schemas => "n",
            Sort::Tables => "r",
            Sort::Sequences => "S",
            Sort::Functions => "f",
        }
    }

    fn of_letter(letter: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sort| sort.letter() == letter)
    }

    /// As `ALTER DEFAULT PRIVILEGES` spells it.
    const fn plural(self) -> &'static str {
        match self {
            Sort::Schemas => "SCHEMAS",
            Sort::Tables => "TABLES",
            Sort::Sequences => "SEQUENCES",
            Sort::Functions => "FUNCTIONS",
        }
    }

    /// As `GRANT ... ON` spells it before names; a routine is a function or a procedure.
    const fn singular(self) -> &'static str {
        match self {
            Sort::Schemas => "SCHEMA",
            Sort::Tables => "TABLE",
            Sort::Sequences => "SEQUENCE",
            Sort::Functions => "ROUTINE",
        }
    }

    /// What `access` means on it, in the order of the alphabet.
    const fn privileges(self, access: Access) -> &'static [&'static str] {
        match (access, self) {
            (Access::Read | Access::Readwrite, Sort::Schemas) => &["USAGE"],
            (Access::Read, Sort::Tables | Sort::Sequences) => &["SELECT"],
            (Access::Read, Sort::Functions) | (Access::Admin, _) => &[],
            (Access::Readwrite, Sort::Tables) => &["DELETE", "INSERT", "SELECT", "UPDATE"],
            (Access::Readwrite, Sort::Sequences) => &["SELECT", "UPDATE", "USAGE"],
            (Access::Readwrite, Sort::Functions) => &["EXECUTE"],
        }
    }
}

/// What one role was found to have, for each distinct set of privileges on a sort of object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// On some object of that sort, or by default on later ones: these, separated by commas.
    On(Sort, String),
    /// It owns something in the database.
    Owns,
}

/// The access that is exactly what a role holds.
pub(super) fn inner_access(held: &[Held]) -> &'static str {
    let is_exactly = |access: &Access| {
        held.iter().all(|held| match held {
            Held::On(sort, privileges) => {
                let held: BTreeSet<&str> = privileges.split(',').filter(|privilege| !privilege.is_empty()).collect();
                held.iter().eq(sort.privileges(*access))
            }
            Held::Owns => false,
        })
    };
    [Access::Read, Access::Readwrite].iter().find(|access| is_exactly(access)).map_or(CUSTOM, |access| spelled(*access))
}

/// The objects that access covers, as a common table expression: `$1` are the oids of the owner and the admins. Also
/// what other roles own whose privileges our login has: after an adoption, the former owner's.
macro_rules! covered {
    ($rest:literal) => {
        concat!(
            "WITH schemas AS ( \
                SELECT n.oid, n.nspname, n.nspowner, n.nspacl FROM pg_namespace n \
                WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'), \
             everything AS ( \
                SELECT 'n' AS letter, 'pg_namespace'::regclass AS class, s.oid, s.nspowner AS owner, s.nspacl AS acl, \
                       quote_ident(s.nspname) AS name FROM schemas s \
                UNION ALL \
                SELECT CASE c.relkind WHEN 'S' THEN 'S' ELSE 'r' END, 'pg_class'::regclass, c.oid, c.relowner, c.relacl, \
                       quote_ident(s.nspname) || '.' || quote_ident(c.relname) \
                FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace WHERE c.relkind IN ('r','p','v','m','f','S') \
                UNION ALL \
                SELECT 'f', 'pg_proc'::regclass, p.oid, p.proowner, p.proacl, p.oid::regprocedure::text \
                FROM pg_proc p JOIN schemas s ON s.oid = p.pronamespace), \
             covered AS ( \
                SELECT e.* FROM everything e \
                WHERE (e.owner::int8 = ANY($1) OR pg_has_role(e.owner, 'USAGE') \
                       OR pg_get_userbyid(e.owner) = 'pg_database_owner') \
                AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = e.class AND d.objid = e.oid AND d.deptype = 'e')) ",
            $rest
        )
    };
}

/// What each of `roles` holds in the database of `session`; `creators` are the owner and the admins.
pub(super) async fn held(
    session: &mut Session,
    roles: &[i64],
    creators: &[i64],
) -> Result<BTreeMap<i64, Vec<Held>>, Failure> {
    const DOING: &str = "look at privileges";
    let query = sqlx::query(covered!(
        ", acls AS ( \
            SELECT letter, acl FROM covered \
            UNION ALL \
            SELECT l.letter, d.defaclacl FROM unnest($1) c(oid) CROSS JOIN unnest(ARRAY['n','r','S','f']) l(letter) \
            LEFT JOIN pg_default_acl d ON d.defaclrole::int8 = c.oid AND d.defaclnamespace = 0 \
                                       AND d.defaclobjtype::text = l.letter) \
         SELECT DISTINCT r.oid AS role, a.letter, p.privileges FROM unnest($2) r(oid) CROSS JOIN acls a \
         CROSS JOIN LATERAL ( \
            SELECT coalesce(string_agg(DISTINCT x.privilege_type || CASE WHEN x.is_grantable THEN '*' ELSE '' END, ','), '') \
                   AS privileges \
            FROM aclexplode(a.acl) x WHERE x.grantee::int8 = r.oid) p \
         UNION ALL \
         SELECT DISTINCT r.oid, 'owns', '' FROM unnest($2) r(oid) JOIN pg_shdepend d ON d.refobjid::int8 = r.oid \
         WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND d.classid <> 'pg_default_acl'::regclass \
         AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND NOT (d.classid = 'pg_class'::regclass \
                  AND EXISTS (SELECT FROM pg_class c WHERE c.oid = d.objid AND c.relpersistence = 't'))"
    ))
    .bind(creators)
    .bind(roles);
    let rows = session.rows(DOING, query).await?;
    let mut all: BTreeMap<i64, Vec<Held>> = BTreeMap::new();
    for row in &rows {
        let read = || -> Result<(i64, Held), sqlx::Error> {
            let letter: String = row.try_get("letter")?;
            let held = match Sort::of_letter(&letter) {
                Some(sort) => Held::On(sort, row.try_get("privileges")?),
                None => Held::Owns,
            };
            Ok((row.try_get("role")?, held))
        };
        let (role, held) = read().map_err(|error| session.failure(DOING, Cause::Sql(error)))?;
        all.entry(role).or_default().push(held);
    }
    Ok(all)
}

/// Names of the objects that access covers, quoted, by sort.
pub(super) type Covered = BTreeMap<Sort, Vec<String>>;

/// The objects that access covers in the database of `session`.
pub(super) async fn covered(session: &mut Session, creators: &[i64]) -> Result<Covered, Failure> {
    const DOING: &str = "list what the roles have access to";
    let rows = session.rows(DOING, sqlx::query(covered!("SELECT letter, name FROM covered")).bind(creators)).await?;
    let mut covered = Covered::new();
    for row in &rows {
        let read = || -> Result<(String, String), sqlx::Error> { Ok((row.try_get("letter")?, row.try_get("name")?)) };
        let (letter, name) = read().map_err(|error| session.failure(DOING, Cause::Sql(error)))?;
        if let Some(sort) = Sort::of_letter(&letter) {
            covered.entry(sort).or_default().push(name);
        }
    }
    Ok(covered)
}

/// A database, as statements name it, and who makes objects in it.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    pub database: String,
    /// The owning role and every admin: what they make later is covered by default privileges.
    pub creators: Vec<String>,
    /// What is there already.
    pub covered: Covered,
}

impl Ground {
    /// Takes from `role` every privilege that an access gives, in the database and on it.
    pub fn take(&self, role: &str) -> String {
        let grantee = ident(role);
        let mut sql = format!("REVOKE ALL ON DATABASE {} FROM {grantee};\n", ident(&self.database));
        for sort in Sort::ALL {
            if let Some(names) = self.names(sort) {
                sql += &format!("REVOKE ALL ON {} {names} FROM {grantee};\n", sort.singular());
            }
            sql += &self.by_default(&format!("REVOKE ALL ON {} FROM {grantee}", sort.plural()));
        }
        sql
    }

    /// Gives `role` what `access` means.
    pub fn give(&self, role: &str, access: Access) -> String {
        let (database, grantee) = (ident(&self.database), ident(role));
        let mut sql = format!("GRANT CONNECT ON DATABASE {database} TO {grantee};\n");
        if access == Access::Admin {
            let owner = owner_role(&self.database);
            sql += &format!("GRANT {} TO {grantee};\n", ident(&owner));
            // Its sessions become the owner, so that what they make is the owner's.
            sql += &format!("ALTER ROLE {grantee} IN DATABASE {database} SET role TO {};\n", literal(&owner));
        }
        sql + &self.grant(role, access)
    }

    /// Gives `role` the privileges of `access` inside the database, now and by default; harmless to repeat.
    pub fn grant(&self, role: &str, access: Access) -> String {
        let grantee = ident(role);
        let mut sql = String::new();
        for sort in Sort::ALL {
            let privileges = sort.privileges(access).join(", ");
            if privileges.is_empty() {
                continue;
            }
            if let Some(names) = self.names(sort) {
                sql += &format!("GRANT {privileges} ON {} {names} TO {grantee};\n", sort.singular());
            }
            sql += &self.by_default(&format!("GRANT {privileges} ON {} TO {grantee}", sort.plural()));
        }
        sql
    }

    /// Takes back what others get by default on objects that `creator` makes: it is no admin any more.
    pub fn make_nothing_shared(&self, creator: &str, others: &[String]) -> String {
        if others.is_empty() {
            return String::new();
        }
        let (creator, others) = (ident(creator), idents(others));
        Sort::ALL
            .iter()
            .map(|sort| {
                let sort = sort.plural();
                format!("ALTER DEFAULT PRIVILEGES FOR ROLE {creator} REVOKE ALL ON {sort} FROM {others};\n")
            })
            .collect()
    }

    fn by_default(&self, what: &str) -> String {
        format!("ALTER DEFAULT PRIVILEGES FOR ROLE {} {what};\n", idents(&self.creators))
    }

    /// Names come quoted from the server.
    fn names(&self, sort: Sort) -> Option<String> {
        self.covered.get(&sort).filter(|names| !names.is_empty()).map(|names| names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ground() -> Ground {
        let tables = vec!["public.t".to_owned(), "\"S\".\"a b\"".to_owned()];
        Ground {
            database: "d".to_owned(),
            creators: vec!["d_owner".to_owned(), "d_adm".to_owned()],
            covered: Covered::from([(Sort::Tables, tables)]),
        }
    }

    #[test]
    fn read_is_select_now_and_later() {
        let sql = ground().give("d_ro", Access::Read);
        assert!(sql.contains("GRANT SELECT ON TABLE public.t, \"S\".\"a b\" TO \"d_ro\";"), "{sql}");
        assert!(sql.contains("FOR ROLE \"d_owner\", \"d_adm\" GRANT SELECT ON TABLES TO \"d_ro\";"), "{sql}");
        assert!(!sql.contains("INSERT") && !sql.contains("EXECUTE") && !sql.contains("SET role"), "{sql}");
    }

    #[test]
    fn an_admin_is_a_member_that_becomes_the_owner() {
        let sql = ground().give("d_adm", Access::Admin);
        assert!(sql.contains("GRANT \"d_owner\" TO \"d_adm\";"), "{sql}");
        assert!(sql.contains("SET role TO 'd_owner';"), "{sql}");
        assert!(!sql.contains("SELECT"), "{sql}");
    }

    #[test]
    fn an_access_holds_only_when_it_holds_everywhere() {
        let on = |sort: Sort, privileges: &str| Held::On(sort, privileges.to_owned());
        let read = vec![
            on(Sort::Schemas, "USAGE"),
            on(Sort::Tables, "SELECT"),
            on(Sort::Sequences, "SELECT"),
            on(Sort::Functions, ""),
        ];
        assert_eq!(inner_access(&read), "read");
        let one_table_more = [read.clone(), vec![on(Sort::Tables, "INSERT,SELECT")]].concat();
        assert_eq!(inner_access(&one_table_more), CUSTOM);
        let one_table_less = [read.clone(), vec![on(Sort::Tables, "")]].concat();
        assert_eq!(inner_access(&one_table_less), CUSTOM);
        assert_eq!(inner_access(&[read, vec![Held::Owns]].concat()), CUSTOM);
        let readwrite = [
            on(Sort::Tables, "UPDATE,SELECT,INSERT,DELETE"),
            on(Sort::Sequences, "SELECT,UPDATE,USAGE"),
            on(Sort::Functions, "EXECUTE"),
        ];
        assert_eq!(inner_access(&readwrite), "readwrite");
    }
}

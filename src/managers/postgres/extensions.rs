//! Extensions. They are made as the database's owner where PostgreSQL trusts them to anybody who may create in the
//! database, and as our login where they need more; then it is the server's to allow or refuse.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::Row;

use super::connection::Session;
use super::errors::{Cause, Failure, code};
use super::names::{owner_role, refuse_long};
use super::sql::{ident, idents};
use crate::managers::ManagerError;
use crate::model::Reason;

/// Whom an extension can be made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    Owner,
    Login,
}

#[derive(Debug)]
struct Available {
    maker: Maker,
    requires: Vec<String>,
}

/// Makes `wanted` in the database that `session` is in, those first that others require.
pub(super) async fn create(session: &mut Session, database: &str, wanted: &[&str]) -> Result<(), ManagerError> {
    for name in wanted {
        refuse_long("extension", name)?;
    }
    let available = available(session, wanted).await?;
    for name in in_order(wanted, &available) {
        let doing = format!("create the extension {name:?} in {database:?}");
        let Some(extension) = available.get(name) else {
            let message =
                format!("could not {doing}: the server does not have it; its files are installed beside the server");
            return Err(ManagerError::terminal(Reason::Rejected, message));
        };
        let statement = format!("CREATE EXTENSION IF NOT EXISTS {}", ident(name));
        // Without a path there is no schema to put it into; what the path finds beyond that is not run.
        let sql = match extension.maker {
            Maker::Owner => format!(
                "SET LOCAL ROLE {}; SET LOCAL search_path TO public; {statement}; SET LOCAL ROLE NONE; \
                 SET LOCAL search_path TO pg_catalog",
                ident(&owner_role(database))
            ),
            Maker::Login => {
                format!("SET LOCAL search_path TO public; {statement}; SET LOCAL search_path TO pg_catalog")
            }
        };
        session.run(&doing, sql).await.map_err(|failure| match extension.maker {
            Maker::Login if failure.is(code::INSUFFICIENT_PRIVILEGE) => {
                let help =
                    format!("it needs a superuser: have one run {statement} in the database, and it counts as there");
                failure.terminal(Reason::Rejected, &help)
            }
            Maker::Login | Maker::Owner => failure.into(),
        })?;
    }
    Ok(())
}

/// Drops `unwanted`, unless something depends on them.
pub(super) async fn remove(session: &mut Session, database: &str, unwanted: &[&str]) -> Result<(), ManagerError> {
    let doing = format!("drop extensions of {database:?}");
    let sql = format!("DROP EXTENSION IF EXISTS {} RESTRICT", idents(unwanted));
    session.run(&doing, sql).await.map_err(|failure| {
        if failure.is(code::DEPENDENT_OBJECTS) {
            return failure
                .terminal(Reason::Rejected, "nothing is dropped along with it; drop what depends on it first");
        }
        failure.into()
    })
}

async fn available(session: &mut Session, names: &[&str]) -> Result<BTreeMap<String, Available>, Failure> {
    const DOING: &str = "look at available extensions";
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let query = sqlx::query(
        "SELECT v.name::text AS name, v.superuser AND NOT v.trusted AS needs_superuser, \
                coalesce(v.requires, '{}')::text[] AS requires \
         FROM pg_available_extensions a JOIN pg_available_extension_versions v \
         ON v.name = a.name AND v.version = a.default_version WHERE a.name::text = ANY($1)",
    )
    .bind(names);
    let rows = session.rows(DOING, query).await?;
    let read = |row: &sqlx::postgres::PgRow| -> Result<(String, Available), sqlx::Error> {
        let maker = if row.try_get("needs_superuser")? { Maker::Login } else { Maker::Owner };
        Ok((row.try_get("name")?, Available { maker, requires: row.try_get("requires")? }))
    };
    rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| session.failure(DOING, Cause::Sql(error)))
}

/// `wanted`, with what others of them require first.
fn in_order<'a>(wanted: &[&'a str], available: &BTreeMap<String, Available>) -> Vec<&'a str> {
    let mut waiting: BTreeSet<&str> = wanted.iter().copied().collect();
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let requires = |name: &str| available.get(name).map_or(&[][..], |extension| &extension.requires);
        let is_ready = |name: &&&str| !requires(name).iter().any(|required| waiting.contains(required.as_str()));
        // In a circle none is ready; then the server says what is wrong.
        let Some(next) = waiting.iter().find(is_ready).or_else(|| waiting.first()).copied() else { break };
        waiting.remove(next);
        ordered.push(next);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_require_comes_first() {
        let extension = |requires: &[&str]| Available {
            maker: Maker::Owner,
            requires: requires.iter().map(|name| (*name).to_owned()).collect(),
        };
        let available = BTreeMap::from([
            ("a".to_owned(), extension(&["z"])),
            ("b".to_owned(), extension(&[])),
            ("z".to_owned(), extension(&["elsewhere"])),
        ]);
        assert_eq!(in_order(&["a", "b", "z", "unheard-of"], &available), ["b", "unheard-of", "z", "a"]);
        let circle = BTreeMap::from([("a".to_owned(), extension(&["b"])), ("b".to_owned(), extension(&["a"]))]);
        assert_eq!(in_order(&["a", "b"], &circle), ["a", "b"]);
    }
}

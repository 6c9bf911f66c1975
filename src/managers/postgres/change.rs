//! Changing a database that is there: one transaction for everything, its marks included.
//!
//! What always holds: the transaction's last statements are the marks, so marks never say more than was done; the login
//! holds no membership of a login role after it that it did not hold before.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::apply::Work;
use super::catalog::{Catalog, DatabaseRow, RoleRow};
use super::connection::Session;
use super::delete::{self, Ending};
use super::errors::{Cause, code};
use super::extensions;
use super::names::{Field, Wanted, login_role, owner_role};
use super::passwords::{self, Verifier};
use super::privileges::{self, Ground, access_of, spelled};
use super::sql::{ident, idents, literal, setting_name, setting_value};
use crate::managers::ManagerError;
use crate::model::{Access, FieldPath, Live, Mark, Reason};

/// `CONNECTION LIMIT` of a database without one.
const UNLIMITED: i64 = -1;

/// Why a database is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It was just made, by this step or one that was cut short.
    Finish,
    /// Fields are to be others.
    Update,
    /// It is taken over.
    Adopt,
}

/// What a set of fields is to be; `None` is gone, or the server's default.
#[derive(Clone, Debug, Default)]
pub(super) struct Edits {
    limit: Option<i64>,
    settings: BTreeMap<String, Option<String>>,
    extensions: BTreeMap<String, Option<()>>,
    roles: BTreeMap<String, Option<Access>>,
    /// Roles of ours, by their names on the server, that nobody asks for any more.
    strangers: Vec<String>,
}

impl Edits {
    /// Reads fields and the values they are to have.
    pub fn of<'a>(fields: impl IntoIterator<Item = (&'a FieldPath, Option<&'a Value>)>) -> Result<Self, ManagerError> {
        let mut edits = Self::default();
        for (path, value) in fields {
            let bad = || rejected(format!("{path} cannot be {}", value.unwrap_or(&Value::Null)));
            let Some(field) = Field::parse(path) else {
                let message = format!("{path} is no field that PostgreSQL has");
                return Err(ManagerError::terminal(Reason::UnsupportedByProvider, message));
            };
            match (field, value) {
                (Field::ConnectionLimit, None) => edits.limit = Some(UNLIMITED),
                (Field::ConnectionLimit, Some(value)) => {
                    let limit = value.as_i64().filter(|limit| (UNLIMITED..=i64::from(i32::MAX)).contains(limit));
                    edits.limit = Some(limit.ok_or_else(bad)?);
                }
                (Field::Extension(name), None | Some(Value::Bool(false))) => drop(edits.extensions.insert(name, None)),
                (Field::Extension(name), Some(Value::Bool(true))) => drop(edits.extensions.insert(name, Some(()))),
                (Field::Access(role), None) => drop(edits.roles.insert(role, None)),
                (Field::Access(role), Some(Value::String(access))) => {
                    edits.roles.insert(role, Some(access_of(access)?));
                }
                (Field::Setting(name), None) => drop(edits.settings.insert(name, None)),
                (Field::Setting(name), Some(Value::String(text))) => {
                    edits.settings.insert(name, Some(text.clone()));
                }
                (Field::Extension(_) | Field::Access(_) | Field::Setting(_), Some(_)) => return Err(bad()),
            }
        }
        Ok(edits)
    }

    /// Takes out the removal of what git has under another spelling: to the server it is one role, and one setting.
    pub fn keep_respelled(&mut self, work: &Work<'_>) -> Result<(), ManagerError> {
        let database = &work.step.object_name;
        let desired = Wanted::of(work.step.desired.iter().map(|(path, _)| path));
        let on_server = |role: &String| login_role(database, role);
        let roles: BTreeSet<String> = desired.roles.iter().map(on_server).collect::<Result<_, _>>()?;
        self.roles.retain(|role, access| access.is_some() || !on_server(role).is_ok_and(|name| roles.contains(&name)));
        self.settings.retain(|name, value| value.is_some() || !desired.settings.contains_key(&name.to_lowercase()));
        Ok(())
    }

    /// Whether they need a connection into the database.
    pub fn is_inside(&self) -> bool {
        !(self.extensions.is_empty() && self.roles.is_empty() && self.strangers.is_empty())
    }

    /// Adds the removal of roles that an earlier creation or deletion left behind and that are wanted no more.
    pub fn remove_strangers(&mut self, work: &Work<'_>, catalog: &Catalog) -> Result<(), ManagerError> {
        let database = &work.step.object_name;
        let wanted: Result<BTreeSet<String>, ManagerError> =
            self.roles.keys().map(|role| login_role(database, role)).collect();
        let wanted = wanted?;
        let ours = catalog.login_roles_of(database, work.cx.platform, &work.step.key);
        self.strangers = ours.map(|role| role.name.clone()).filter(|name| !wanted.contains(name)).collect();
        Ok(())
    }

    /// Adds the roles that git sets and that are there without a mark.
    pub fn add_unmarked_roles(&mut self, work: &Work<'_>, catalog: &Catalog) -> Result<(), ManagerError> {
        let desired = Self::of(work.step.desired.iter().map(|(path, value)| (path, Some(value))))?;
        for (role, access) in desired.roles {
            let name = login_role(&work.step.object_name, &role)?;
            if catalog.roles.get(&name).is_some_and(|row| row.mark.is_none()) {
                self.roles.entry(role).or_insert(access);
            }
        }
        Ok(())
    }

    /// Drops those that are true already.
    pub fn drop_done(&mut self, live: &Live) {
        let text = |field: Field| live.fields.get(field.path().as_str()).and_then(Value::as_str).map(str::to_owned);
        let unknown = |field: Field| live.unknown_at(&field.path()).is_some();
        self.limit =
            self.limit.filter(|limit| live.fields.get("/spec/connectionLimit").and_then(Value::as_i64) != Some(*limit));
        self.settings.retain(|name, value| text(Field::Setting(name.clone())) != *value);
        self.extensions.retain(|name, wanted| {
            live.fields.get(Field::Extension(name.clone()).path().as_str()).is_some() != wanted.is_some()
        });
        self.roles.retain(|role, access| {
            let field = Field::Access(role.clone());
            unknown(field.clone()) || text(field).as_deref() != access.map(spelled)
        });
    }

    /// Whether they let more sessions into a database that limits them.
    pub fn raises_limit_of(&self, database: &DatabaseRow) -> bool {
        let now = i64::from(database.connection_limit);
        self.limit.is_some_and(|limit| now != UNLIMITED && (limit == UNLIMITED || limit > now))
    }

    /// Sets the connection limit, if it is among them.
    pub fn limit_statement(&self, database: &str) -> String {
        let statement = |limit| format!("ALTER DATABASE {} CONNECTION LIMIT {limit};\n", ident(database));
        self.limit.map(statement).unwrap_or_default()
    }

    fn setting_statements(&self, database: &str) -> Result<String, ManagerError> {
        let mut sql = String::new();
        let mut seen = BTreeSet::new();
        for (name, value) in &self.settings {
            if !seen.insert(name.to_lowercase()) {
                return Err(rejected(format!("the setting {name} is there twice, in different spellings")));
            }
            let what = match value {
                Some(value) => format!("SET {} TO {}", setting_name(name)?, setting_value(name, value)?),
                None => format!("RESET {}", setting_name(name)?),
            };
            sql += &format!("ALTER DATABASE {} {what};\n", ident(database));
        }
        Ok(sql)
    }
}

/// What becomes of one role.
enum Fate {
    /// It is made.
    Make(Access),
    /// It is ours and gets another access, or is to have the one it lost.
    Change(Access),
    /// It is nobody's and becomes ours.
    Adopt(Access),
    /// It is dropped.
    Remove,
}

impl Fate {
    /// The access it is to have.
    fn access(&self) -> Option<Access> {
        match self {
            Fate::Make(access) | Fate::Change(access) | Fate::Adopt(access) => Some(*access),
            Fate::Remove => None,
        }
    }
}

/// The fate of one role, by its names and as it is now.
struct Fated<'a> {
    /// As YAML calls it; `None` when nothing there does.
    role: Option<&'a str>,
    name: String,
    row: Option<&'a RoleRow>,
    fate: Fate,
}

/// A change of one database.
pub(super) struct Change<'a> {
    pub work: &'a Work<'a>,
    pub catalog: &'a Catalog,
    pub database: &'a DatabaseRow,
    pub mode: Mode,
    /// What was seen under the lock; nothing when the database was just made.
    pub live: Option<&'a Live>,
}

impl Change<'_> {
    /// Makes `edits` true and leaves the step's mark, in one transaction. `session` is in the database where the edits
    /// need that, else in the maintenance database.
    pub async fn carry_out(&self, session: &mut Session, edits: &Edits) -> Result<Vec<String>, ManagerError> {
        let name = &self.database.name;
        let settings = edits.setting_statements(name)?;
        let fates = self.fates(edits)?;
        let oids = |is_removed: bool| -> Vec<i64> {
            let fates = fates.iter().filter(|fated| fated.fate.access().is_none() == is_removed);
            fates.filter_map(|fated| fated.row.map(|row| row.oid)).collect()
        };
        let here = self.database.oid;
        delete::refuse_roles_held_elsewhere(session, Ending::Dropped, &oids(true), here).await?;
        delete::refuse_roles_held_elsewhere(session, Ending::Reassigned, &oids(false), here).await?;
        // Passwords are stored before the transaction begins, and so before any role exists (R12).
        let verifiers = self.verifiers(&fates).await?;

        session.run("begin", "BEGIN".to_owned()).await?;
        self.take_owner(session, &fates).await?;
        if self.mode == Mode::Finish {
            let sql = format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", ident(name));
            session.run("close the database to everybody", sql).await?;
        }
        if !fates.is_empty() {
            self.change_roles(session, &fates, &verifiers).await?;
        }
        self.rotate(session, &fates, &verifiers).await?;
        let dropped: Vec<&str> = chosen(&edits.extensions, |wanted| wanted.is_none());
        if !dropped.is_empty() {
            extensions::remove(session, name, &dropped).await?;
        }
        let made: Vec<&str> = chosen(&edits.extensions, |wanted| wanted.is_some());
        if !made.is_empty() {
            extensions::create(session, name, &made).await?;
        }
        if !settings.is_empty() {
            session.run(&format!("change settings of {name:?}"), settings).await.map_err(|failure| {
                if failure.is(code::INSUFFICIENT_PRIVILEGE) {
                    let login = ident(self.work.server.login());
                    let help = format!(
                        "a superuser can allow it with GRANT SET ON PARAMETER ... TO {login} from PostgreSQL 15 on"
                    );
                    return failure.terminal(Reason::Rejected, &help);
                }
                failure.into()
            })?;
        }
        let mark = literal(&self.work.step.mark.to_text());
        let sql = format!(
            "{}COMMENT ON DATABASE {} IS {mark};\nCOMMENT ON ROLE {} IS {mark};\nCOMMIT",
            edits.limit_statement(name),
            ident(name),
            ident(&owner_role(name)),
        );
        session.run(&format!("mark the database {name:?}"), sql).await?;
        Ok(self.notes(&fates))
    }

    /// What becomes of each role that the edits speak of.
    fn fates<'e>(&'e self, edits: &'e Edits) -> Result<Vec<Fated<'e>>, ManagerError> {
        let step = self.work.step;
        let mut names = BTreeSet::new();
        let mut fates = Vec::new();
        for (role, access) in &edits.roles {
            let name = login_role(&step.object_name, role)?;
            if !names.insert(name.clone()) {
                return Err(rejected(format!("two roles would be called {name:?}; change them one after the other")));
            }
            let row = self.catalog.roles.get(&name);
            let fate = match (row, access) {
                (None, None) => continue,
                (None, Some(access)) => Fate::Make(*access),
                (Some(row), access) if row.is_ours(self.work.cx.platform, &step.key) => {
                    access.map_or(Fate::Remove, Fate::Change)
                }
                (Some(row), Some(access)) if self.mode == Mode::Adopt && row.mark.is_none() => {
                    self.refuse_powerful(row)?;
                    Fate::Adopt(*access)
                }
                (Some(row), _) => {
                    let reason = if row.mark.is_some() { Reason::OwnedByOther } else { Reason::NotOwned };
                    let message = format!("the role {name:?} exists without this resource's mark; rename or drop it");
                    return Err(ManagerError::terminal(reason, message));
                }
            };
            fates.push(Fated { role: Some(role), name, row, fate });
        }
        for name in &edits.strangers {
            fates.push(Fated { role: None, name: name.clone(), row: self.catalog.roles.get(name), fate: Fate::Remove });
        }
        Ok(fates)
    }

    fn refuse_powerful(&self, row: &RoleRow) -> Result<(), ManagerError> {
        if row.superuser || row.name == self.work.server.login() {
            return Err(rejected(format!(
                "the role {:?} is the server's or Plumb's own and cannot be adopted",
                row.name
            )));
        }
        Ok(())
    }

    /// Verifiers for roles that are made, and for all that git sets when new passwords are asked for.
    async fn verifiers(&self, fates: &[Fated<'_>]) -> Result<BTreeMap<String, Verifier>, ManagerError> {
        let step = self.work.step;
        let made = fates.iter().filter(|fated| matches!(fated.fate, Fate::Make(_))).filter_map(|fated| fated.role);
        let mut roles: BTreeSet<String> = made.map(str::to_owned).collect();
        if step.rotate.is_some() {
            roles.extend(self.rotated(fates)?.into_iter().map(|(role, _)| role));
        }
        let roles = roles.iter().map(String::as_str);
        passwords::verifiers(self.work.cx, &step.key, roles, step.rotate.as_deref()).await
    }

    /// The roles that git sets, that are there and that are ours, by now: both their names.
    fn rotated(&self, fates: &[Fated<'_>]) -> Result<Vec<(String, String)>, ManagerError> {
        let step = self.work.step;
        let mut rotated = Vec::new();
        for role in Wanted::of(step.desired.iter().map(|(path, _)| path)).roles {
            let name = login_role(&step.object_name, &role)?;
            let Some(row) = self.catalog.roles.get(&name) else { continue };
            let adopted = fates.iter().any(|fated| fated.name == name && matches!(fated.fate, Fate::Adopt(_)));
            if adopted || row.is_ours(self.work.cx.platform, &step.key) {
                rotated.push((role, name));
            }
        }
        Ok(rotated)
    }

    async fn rotate(
        &self,
        session: &mut Session,
        fates: &[Fated<'_>],
        verifiers: &BTreeMap<String, Verifier>,
    ) -> Result<(), ManagerError> {
        if self.work.step.rotate.is_none() {
            return Ok(());
        }
        let mut sql = String::new();
        for (role, name) in self.rotated(fates)? {
            if let Some(verifier) = verifiers.get(&role) {
                sql += &format!("ALTER ROLE {} PASSWORD {};\n", ident(&name), literal(verifier.as_str()));
            }
        }
        if !sql.is_empty() {
            session.run("set new passwords", sql).await?;
        }
        Ok(())
    }

    /// Makes sure that the owner role is there, that the login is a member of it, and that it owns the database.
    async fn take_owner(&self, session: &mut Session, fates: &[Fated<'_>]) -> Result<(), ManagerError> {
        let database = &self.database.name;
        let owner = owner_role(database);
        let row = self.catalog.owner_of(database);
        if let Some(row) = row
            && !row.is_ours(self.work.cx.platform, &self.work.step.key)
        {
            if self.mode != Mode::Adopt || row.mark.is_some() {
                let reason = if row.mark.is_some() { Reason::OwnedByOther } else { Reason::NotOwned };
                let message = format!("the role {owner:?} exists without this resource's mark; rename or drop it");
                return Err(ManagerError::terminal(reason, message));
            }
            self.refuse_powerful(row)?;
        }
        let mut sql = String::new();
        if row.is_none() {
            sql += &format!("CREATE ROLE {} NOLOGIN;\n", ident(&owner));
        }
        if !row.is_some_and(|row| row.held_by_us) {
            sql += &format!("GRANT {} TO CURRENT_USER;\n", ident(&owner));
        }
        if self.database.owner != owner {
            sql += &format!("ALTER DATABASE {} OWNER TO {};\n", ident(database), ident(&owner));
            let former = &self.database.owner;
            // What the former owner could do it goes on doing, unless git now says what it may.
            let is_fated = fates.iter().any(|fated| fated.name == *former);
            if !self.database.owner_is_superuser && former != self.work.server.login() && !is_fated {
                sql += &format!("GRANT {} TO {};\n", ident(&owner), ident(former));
            }
        }
        if sql.is_empty() {
            return Ok(());
        }
        session.run(&format!("make {owner:?} the owner of {database:?}"), sql).await.map_err(|failure| {
            if failure.is(code::INSUFFICIENT_PRIVILEGE) {
                let login = ident(self.work.server.login());
                let help = format!("a superuser can allow it with GRANT {} TO {login}", ident(&self.database.owner));
                return failure.terminal(Reason::PermissionDenied, &help);
            }
            failure.into()
        })
    }

    /// Makes, changes and removes roles, and gives them their access.
    async fn change_roles(
        &self,
        session: &mut Session,
        fates: &[Fated<'_>],
        verifiers: &BTreeMap<String, Verifier>,
    ) -> Result<(), ManagerError> {
        let database = &self.database.name;
        let borrowed = self.borrowed(fates);
        let mut sql = String::new();
        for fated in fates {
            sql += &self.beginning(fated, verifiers);
        }
        if !borrowed.is_empty() {
            sql += &format!("GRANT {} TO CURRENT_USER;\n", idents(&borrowed));
        }
        for fated in fates {
            sql += &self.release(fated);
        }
        session.run(&format!("change roles of {database:?}"), sql).await.map_err(|failure| {
            if failure.is(code::DEPENDENT_OBJECTS) {
                return failure.terminal(Reason::Rejected, "what is left has to be given to somebody else first");
            }
            failure.into()
        })?;

        self.refuse_members_of_others(session, fates).await?;

        let mut sql = String::new();
        if fates.iter().any(|fated| fated.fate.access().is_some()) {
            sql += &self.grants(session, fates).await?;
        }
        let removed: BTreeSet<&str> =
            fates.iter().filter(|fated| fated.fate.access().is_none()).map(|fated| fated.name.as_str()).collect();
        let lent: Vec<&String> = borrowed.iter().filter(|name| !removed.contains(name.as_str())).collect();
        if !lent.is_empty() {
            sql += &format!("REVOKE {} FROM CURRENT_USER;\n", idents(lent));
        }
        if sql.is_empty() {
            return Ok(());
        }
        Ok(session.run(&format!("give the roles of {database:?} their access"), sql).await?)
    }

    /// From PostgreSQL 16 on, a membership can be taken back only by who gave it, and `REVOKE` by another does nothing
    /// but warn. A role that would stay a member of the owner has more than the access it is to have.
    async fn refuse_members_of_others(&self, session: &mut Session, fates: &[Fated<'_>]) -> Result<(), ManagerError> {
        const DOING: &str = "look at members of the owner";
        let former: Vec<i64> = fates
            .iter()
            .filter(|fated| fated.fate.access().is_some_and(|access| access != Access::Admin))
            .filter_map(|fated| fated.row.map(|row| row.oid))
            .collect();
        if former.is_empty() {
            return Ok(());
        }
        let query = sqlx::query(
            "SELECT pg_get_userbyid(m.member)::text, pg_get_userbyid(m.grantor)::text FROM pg_auth_members m \
             WHERE m.roleid = (SELECT oid FROM pg_roles WHERE rolname = $1) AND m.member::int8 = ANY($2) ORDER BY 1, 2",
        )
        .bind(owner_role(&self.database.name))
        .bind(former);
        let rows = session.rows(DOING, query).await?;
        let read = |row: &PgRow| -> Result<(String, String), sqlx::Error> { Ok((row.try_get(0)?, row.try_get(1)?)) };
        let Some((member, grantor)) =
            rows.first().map(read).transpose().map_err(|error| session.failure(DOING, Cause::Sql(error)))?
        else {
            return Ok(());
        };
        let (owner, member) = (ident(&owner_role(&self.database.name)), ident(&member));
        let message = format!(
            "the role {member} is a member of {owner} by a grant of {grantor:?}, which only that role or a superuser can \
             take back, with REVOKE {owner} FROM {member} GRANTED BY {}",
            ident(&grantor)
        );
        Err(ManagerError::terminal(Reason::PermissionDenied, message))
    }

    /// The roles whose privileges the login needs for the length of the transaction: those that are changed, whose
    /// objects go to the owner, and the admins, on whose behalf default privileges are set.
    fn borrowed(&self, fates: &[Fated<'_>]) -> BTreeSet<String> {
        let fated = fates.iter().filter(|fated| match (&fated.fate, fated.row) {
            (Fate::Make(access), _) => *access == Access::Admin,
            (Fate::Change(_) | Fate::Adopt(_) | Fate::Remove, row) => row.is_some_and(|row| !row.held_by_us),
        });
        let admins = self.admins().filter(|admin| !admin.held_by_us);
        fated.map(|fated| fated.name.clone()).chain(admins.map(|admin| admin.name.clone())).collect()
    }

    /// Our roles that are admins now.
    fn admins(&self) -> impl Iterator<Item = &RoleRow> {
        self.catalog
            .login_roles_of(&self.database.name, self.work.cx.platform, &self.work.step.key)
            .filter(|role| role.member_of.contains(&self.database.owner_oid))
    }

    /// What makes a role there and ours.
    fn beginning(&self, fated: &Fated<'_>, verifiers: &BTreeMap<String, Verifier>) -> String {
        let name = ident(&fated.name);
        let step = self.work.step;
        let mark = Mark {
            platform: self.work.cx.platform.clone(),
            key: step.key.clone(),
            hashes: BTreeMap::new(),
            unfinished: false,
        };
        let mark = format!("COMMENT ON ROLE {name} IS {};\n", literal(&mark.to_text()));
        match (&fated.fate, fated.role.and_then(|role| verifiers.get(role))) {
            (Fate::Make(_), Some(verifier)) => {
                format!("CREATE ROLE {name} LOGIN PASSWORD {};\n{mark}", literal(verifier.as_str()))
            }
            // Every role that is made has a verifier; one without could not be logged in to, and is safe.
            (Fate::Make(_), None) => format!("CREATE ROLE {name} LOGIN;\n{mark}"),
            (Fate::Adopt(_), _) => mark,
            (Fate::Change(_) | Fate::Remove, _) => String::new(),
        }
    }

    /// Takes from a role that was there what makes it more than a name: its objects go to the owner, and it is no
    /// member of the owner; one that is removed goes too.
    fn release(&self, fated: &Fated<'_>) -> String {
        let (name, owner) = (ident(&fated.name), ident(&owner_role(&self.database.name)));
        let reassign = format!("REASSIGN OWNED BY {name} TO {owner};\n");
        match (&fated.fate, fated.row) {
            (Fate::Make(_), _) | (_, None) => String::new(),
            // All it owned is the owner's by then: what DROP OWNED drops is its privileges.
            (Fate::Remove, Some(_)) => format!("{reassign}DROP OWNED BY {name};\nDROP ROLE {name};\n"),
            (Fate::Change(_) | Fate::Adopt(_), Some(row)) => {
                let mut sql = reassign;
                if row.member_of.contains(&self.database.owner_oid) {
                    sql += &format!("REVOKE {owner} FROM {name};\n");
                }
                if row.becomes.contains_key(&self.database.oid) {
                    sql += &format!("ALTER ROLE {name} IN DATABASE {} RESET role;\n", ident(&self.database.name));
                }
                if !row.can_login {
                    sql += &format!("ALTER ROLE {name} LOGIN;\n");
                }
                sql
            }
        }
    }

    /// The statements that give every role of `fates` its access, and other roles theirs to what new admins make.
    async fn grants(&self, session: &mut Session, fates: &[Fated<'_>]) -> Result<String, ManagerError> {
        let fate_of = |name: &str| fates.iter().find(|fated| fated.name == name);
        let staying: Vec<&RoleRow> = self.admins().filter(|admin| fate_of(&admin.name).is_none()).collect();
        let oids: Vec<i64> =
            std::iter::once(self.database.owner_oid).chain(staying.iter().map(|admin| admin.oid)).collect();
        let becoming = fates.iter().filter(|fated| fated.fate.access() == Some(Access::Admin));
        let becoming: Vec<String> = becoming.map(|fated| fated.name.clone()).collect();
        let creators = std::iter::once(owner_role(&self.database.name))
            .chain(staying.iter().map(|admin| admin.name.clone()))
            .chain(becoming.iter().cloned())
            .collect();
        let covered = privileges::covered(session, &oids).await?;
        let ground = Ground { database: self.database.name.clone(), creators, covered };

        let mut sql = String::new();
        for fated in fates {
            let Some(access) = fated.fate.access() else { continue };
            if fated.row.is_some() {
                sql += &ground.take(&fated.name);
            }
            sql += &ground.give(&fated.name, access);
        }
        for former in self.admins() {
            if fate_of(&former.name).and_then(|fated| fated.fate.access()).is_some_and(|access| access != Access::Admin)
            {
                sql += &ground.make_nothing_shared(&former.name, &self.others(&former.name, fates));
            }
        }
        if !becoming.is_empty() {
            for (name, access) in self.readers()? {
                if fate_of(&name).is_none() {
                    sql += &ground.grant(&name, access);
                }
            }
        }
        Ok(sql)
    }

    /// Our login roles that are there in the end, besides `name`.
    fn others(&self, name: &str, fates: &[Fated<'_>]) -> Vec<String> {
        let ours = self.catalog.login_roles_of(&self.database.name, self.work.cx.platform, &self.work.step.key);
        let removed = |other: &str| fates.iter().any(|fated| fated.name == other && matches!(fated.fate, Fate::Remove));
        ours.map(|role| role.name.clone()).filter(|other| other != name && !removed(other)).collect()
    }

    /// Roles whose access was seen to be `read` or `readwrite`, by their names on the server.
    fn readers(&self) -> Result<Vec<(String, Access)>, ManagerError> {
        let mut readers = Vec::new();
        let Some(live) = self.live else { return Ok(readers) };
        for (role, fields) in live.fields.members("/spec/roles") {
            match fields.get("access").and_then(|access| access.as_str()) {
                Some("read") => readers.push((login_role(&self.database.name, &role)?, Access::Read)),
                Some("readwrite") => readers.push((login_role(&self.database.name, &role)?, Access::Readwrite)),
                // Admins have what the owner has; what is custom is for a person to decide.
                Some(_) | None => {}
            }
        }
        Ok(readers)
    }

    fn notes(&self, fates: &[Fated<'_>]) -> Vec<String> {
        let adopted = fates.iter().filter(|fated| matches!(fated.fate, Fate::Adopt(_)));
        match self.work.step.rotate {
            Some(_) => Vec::new(),
            None => adopted
                .map(|fated| format!("the role {:?} keeps its password, which Plumb does not know", fated.name))
                .collect(),
        }
    }
}

fn chosen<T>(members: &BTreeMap<String, T>, is_chosen: impl Fn(&T) -> bool) -> Vec<&str> {
    members.iter().filter(|(_, member)| is_chosen(member)).map(|(name, _)| name.as_str()).collect()
}

fn rejected(message: String) -> ManagerError {
    ManagerError::terminal(Reason::Rejected, message)
}

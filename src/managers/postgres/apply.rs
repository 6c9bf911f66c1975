//! Doing a step: under a lock on the server, on exactly what the step expects to find (R13).

use sha2::{Digest, Sha256};

use super::catalog::{self, Catalog, DatabaseRow, is_of};
use super::change::{Change, Edits, Mode};
use super::connection::{Inside, Server, Session};
use super::delete;
use super::errors::code;
use super::names::{owner_role, refuse_long};
use super::observe::{InnerView, Look};
use super::sql::{ident, literal};
use crate::managers::{Cx, ManagerError, Outcome};
use crate::model::{
    Action, Expect, Live, Mark, ObjectId, Observation, Ownership, PlatformId, Reason, ResourceKey, Step, Target,
    Unknown,
};

/// Does one step.
pub(super) async fn apply(server: &Server, step: &Step, cx: &Cx<'_>) -> Result<Outcome, ManagerError> {
    refuse_long("database", &step.object_name)?;
    let fields = step.desired.iter().map(|(path, _)| path).chain(step.changes.iter().map(|change| &change.path));
    let target =
        Target { key: step.key.clone(), object_name: step.object_name.clone(), fields: fields.cloned().collect() };
    let work = Work { server, step, cx, target };
    let mut lease = server.maintenance().await?;
    let lock = lock_number(cx.platform, &step.key);
    take_lock(&mut lease.session, lock, &step.key).await?;
    // On failure the session is closed, and the lock goes with it.
    let outcome = work.run(&mut lease.session).await?;
    lease.session.unlock(lock).await?;
    lease.give_back().await;
    Ok(outcome)
}

/// The advisory lock of a key: the first eight bytes of a hash.
fn lock_number(platform: &PlatformId, key: &ResourceKey) -> i64 {
    let hash = Sha256::digest(format!("plumb\0{platform}\0{key}").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    i64::from_be_bytes(first)
}

async fn take_lock(session: &mut Session, lock: i64, key: &ResourceKey) -> Result<(), ManagerError> {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    session.lock(&format!("lock {key}"), lock).await.map_err(|failure| {
        if failure.is(LOCK_NOT_AVAILABLE) {
            return ManagerError::locked(failure.message("another plumb is at work on it"));
        }
        failure.into()
    })
}

/// What a step starts from.
enum Start<'a> {
    /// There is no database; there may be an owner of ours.
    Nothing,
    /// What a `DROP DATABASE` left of a database of ours.
    HalfDropped,
    /// A creation of ours that was cut short.
    Unfinished(&'a DatabaseRow),
    /// A database of ours.
    Whole(&'a DatabaseRow),
    /// Nobody's database, to be adopted.
    Unmarked(&'a DatabaseRow),
    /// All of the step was done before.
    Done,
}

/// One step at work.
pub(super) struct Work<'a> {
    pub server: &'a Server,
    pub step: &'a Step,
    pub cx: &'a Cx<'a>,
    pub target: Target,
}

impl Work<'_> {
    async fn run(&self, session: &mut Session) -> Result<Outcome, ManagerError> {
        match self.step.action {
            Action::Create | Action::Update | Action::Adopt => self.bring_about(session, &self.step.expect).await,
            Action::Delete => delete::delete(self, session).await,
            Action::Replace => {
                let deleted = delete::delete(self, session).await?;
                let made = self.bring_about(session, &Expect::Absent).await?;
                Ok(Outcome { notes: [deleted.notes, made.notes].concat() })
            }
        }
    }

    /// What the shared catalogs say of this step's database and its roles.
    pub async fn read(&self, session: &mut Session) -> Result<Catalog, ManagerError> {
        let roles = Look::new(&self.target, None).role_names();
        Ok(catalog::read_key(session, &self.step.object_name, &roles, &self.step.key).await?)
    }

    async fn bring_about(&self, session: &mut Session, expect: &Expect) -> Result<Outcome, ManagerError> {
        let catalog = self.read(session).await?;
        let notes = match self.start(&catalog, expect)? {
            Start::Done => Vec::new(),
            Start::Nothing => self.create(session, &catalog).await?,
            Start::HalfDropped => {
                let sql = format!("DROP DATABASE {}", ident(&self.step.object_name));
                session.run("drop what is left of the database", sql).await?;
                self.create(session, &catalog).await?
            }
            Start::Unfinished(database) => self.finish(session, &catalog, database).await?,
            Start::Whole(database) => self.alter(session, &catalog, database, Mode::Update).await?,
            Start::Unmarked(database) => {
                self.refuse_system_database(database)?;
                self.alter(session, &catalog, database, Mode::Adopt).await?
            }
        };
        Ok(Outcome { notes })
    }

    /// Whether the step's start is what it expects.
    fn start<'c>(&self, catalog: &'c Catalog, expect: &Expect) -> Result<Start<'c>, ManagerError> {
        let name = &self.step.object_name;
        let Some(database) = catalog.databases.get(name) else {
            return match expect {
                Expect::Absent => self.owner_is_free(catalog).map(|()| Start::Nothing),
                Expect::Marked(_) | Expect::Unmarked(_) => {
                    Err(ManagerError::conflict(format!("the database {name:?} is gone")))
                }
            };
        };
        let same = |wanted: &ObjectId| {
            if database.object() == *wanted {
                return Ok(());
            }
            Err(ManagerError::conflict(format!("the database {name:?} is another one than was planned for")))
        };
        match (expect, catalog.ownership(database)) {
            (_, Ownership::Marked(mark)) if !self.is_ours(&mark) => Err(ManagerError::Conflict {
                reason: Reason::OwnedByOther,
                message: format!("the database {name:?} bears the mark of {} (platform {})", mark.key, mark.platform),
            }),
            (Expect::Absent, Ownership::Marked(_)) if database.is_half_dropped() => Ok(Start::HalfDropped),
            (Expect::Absent, Ownership::Marked(mark)) if mark.unfinished => Ok(Start::Unfinished(database)),
            (Expect::Absent, Ownership::Marked(mark)) if mark == self.step.mark => Ok(Start::Done),
            (Expect::Absent, Ownership::Marked(_)) => {
                Err(ManagerError::conflict(format!("the database {name:?} exists by now")))
            }
            (Expect::Absent, Ownership::Unmarked) => Err(ManagerError::Conflict {
                reason: Reason::NotOwned,
                message: format!("a database {name:?} without Plumb's mark exists"),
            }),
            (Expect::Marked(wanted), Ownership::Marked(mark)) => {
                same(wanted)?;
                Ok(if mark.unfinished { Start::Unfinished(database) } else { Start::Whole(database) })
            }
            (Expect::Marked(_), Ownership::Unmarked) => {
                Err(ManagerError::conflict(format!("the database {name:?} has lost its mark")))
            }
            (Expect::Unmarked(wanted), Ownership::Unmarked) => same(wanted).map(|()| Start::Unmarked(database)),
            (Expect::Unmarked(wanted), Ownership::Marked(mark)) if mark == self.step.mark => {
                same(wanted).map(|()| Start::Done)
            }
            (Expect::Unmarked(_), Ownership::Marked(_)) => {
                Err(ManagerError::conflict(format!("the database {name:?} is marked by now")))
            }
        }
    }

    /// Whether a mark is this step's key's.
    pub fn is_ours(&self, mark: &Mark) -> bool {
        is_of(mark, self.cx.platform, &self.step.key)
    }

    /// Refuses to make a database whose owning role is somebody else's.
    fn owner_is_free(&self, catalog: &Catalog) -> Result<(), ManagerError> {
        let Some(owner) = catalog.owner_of(&self.step.object_name) else { return Ok(()) };
        match &owner.mark {
            Some(mark) if self.is_ours(mark) => Ok(()),
            Some(mark) => {
                let message =
                    format!("the role {:?} bears the mark of {} (platform {})", owner.name, mark.key, mark.platform);
                Err(ManagerError::terminal(Reason::OwnedByOther, message))
            }
            None => {
                let message = format!("the role {:?} exists without Plumb's mark; rename or drop it", owner.name);
                Err(ManagerError::terminal(Reason::NotOwned, message))
            }
        }
    }

    fn refuse_system_database(&self, database: &DatabaseRow) -> Result<(), ManagerError> {
        if database.is_template || database.name == self.server.maintenance_database() {
            let message = format!("{:?} is a database of the server's own and cannot be adopted", database.name);
            return Err(ManagerError::terminal(Reason::Rejected, message));
        }
        Ok(())
    }

    /// Makes the owner, marked, then the database, then everything else (R2).
    async fn create(&self, session: &mut Session, catalog: &Catalog) -> Result<Vec<String>, ManagerError> {
        let name = &self.step.object_name;
        let owner = owner_role(name);
        let mark = Mark { unfinished: true, ..self.step.mark.clone() };
        let mut sql = match catalog.owner_of(name) {
            Some(_) => String::new(),
            None => format!("CREATE ROLE {} NOLOGIN;\n", ident(&owner)),
        };
        sql += &format!("COMMENT ON ROLE {} IS {};\n", ident(&owner), literal(&mark.to_text()));
        if !catalog.owner_of(name).is_some_and(|owner| owner.held_by_us) {
            sql += &format!("GRANT {} TO CURRENT_USER;\n", ident(&owner));
        }
        session.run(&format!("make the owner of {name:?}"), sql).await?;
        let sql = format!("CREATE DATABASE {} OWNER {}", ident(name), ident(&owner));
        session.run(&format!("create the database {name:?}"), sql).await?;
        let catalog = self.read(session).await?;
        match self.start(&catalog, &Expect::Absent)? {
            Start::Unfinished(database) => self.finish(session, &catalog, database).await,
            Start::Nothing | Start::HalfDropped | Start::Whole(_) | Start::Unmarked(_) | Start::Done => {
                Err(ManagerError::conflict(format!("the database {name:?} was changed while it was made")))
            }
        }
    }

    /// Does all that git sets on a database that is not whole yet.
    async fn finish(
        &self,
        session: &mut Session,
        catalog: &Catalog,
        database: &DatabaseRow,
    ) -> Result<Vec<String>, ManagerError> {
        let mut edits = Edits::of(self.step.desired.iter().map(|(path, value)| (path, Some(value))))?;
        edits.remove_strangers(self, catalog)?;
        let change = Change { work: self, catalog, database, mode: Mode::Finish, live: None };
        if !edits.is_inside() {
            return change.carry_out(session, &edits).await;
        }
        let work = async {
            let mut inside = self.inside(database).await?;
            let notes = change.carry_out(&mut inside.session, &edits).await?;
            inside.close().await;
            Ok(notes)
        };
        session.meanwhile(work).await
    }

    /// Makes the step's changes on a database that is whole, after checking what they start from.
    async fn alter(
        &self,
        session: &mut Session,
        catalog: &Catalog,
        database: &DatabaseRow,
        mode: Mode,
    ) -> Result<Vec<String>, ManagerError> {
        let look = Look::new(&self.target, Some(database));
        let interpret = |inner| look.interpret(self.server, catalog, self.cx.platform, inner);
        let mut edits = Edits::of(self.step.changes.iter().map(|change| (&change.path, change.to.as_ref())))?;
        edits.keep_respelled(self)?;
        if mode == Mode::Adopt {
            edits.add_unmarked_roles(self, catalog)?;
        }
        let live = self.check(interpret(InnerView::NotLooked), mode)?;
        if !edits.is_inside() {
            edits.drop_done(&live);
            let change = Change { work: self, catalog, database, mode, live: Some(&live) };
            return change.carry_out(session, &edits).await;
        }
        if edits.raises_limit_of(database) {
            // A database that is full lets nobody in, and so could not be changed from inside.
            session.run("raise the connection limit", edits.limit_statement(&database.name)).await?;
        }
        let work = async {
            let mut inside = self.inside(database).await?;
            let inner = look.look_inside(&mut inside.session, catalog, database, self.cx.platform).await?;
            let live = self.check(interpret(InnerView::Seen(inner)), mode)?;
            edits.drop_done(&live);
            let change = Change { work: self, catalog, database, mode, live: Some(&live) };
            let notes = change.carry_out(&mut inside.session, &edits).await?;
            inside.close().await;
            Ok(notes)
        };
        session.meanwhile(work).await
    }

    async fn inside(&self, database: &DatabaseRow) -> Result<Inside<'_>, ManagerError> {
        let mut inside = self.server.database(&database.name).await.map_err(|failure| {
            if failure.is(code::INVALID_CATALOG_NAME) {
                return ManagerError::conflict(failure.message(""));
            }
            failure.into()
        })?;
        inside.session.expect_signs_of_life().await?;
        Ok(inside)
    }

    /// Compares what is live now with what each change was planned on. A value that already is what it is to be is
    /// from an attempt that was cut short.
    fn check(&self, seen: Observation, mode: Mode) -> Result<Box<Live>, ManagerError> {
        let live = match seen {
            Observation::Present(live) => live,
            Observation::Absent { .. } => return Err(ManagerError::conflict("the database is gone")),
            Observation::Unknown(Unknown { reason, message }) => return Err(ManagerError::terminal(reason, message)),
        };
        for change in &self.step.changes {
            if let Some(unknown) = live.unknown_at(&change.path) {
                match (unknown.reason, mode) {
                    // Looked at later, from inside; or a role that adoption takes over.
                    (Reason::NotObserved, _) | (Reason::NotOwned, Mode::Adopt) => continue,
                    (_, Mode::Adopt | Mode::Update | Mode::Finish) => {}
                }
                return Err(ManagerError::Conflict { reason: unknown.reason, message: unknown.message.clone() });
            }
            let now = live.fields.get(change.path.as_str());
            if now != change.from.as_ref() && now != change.to.as_ref() {
                let show = |value: Option<&serde_json::Value>| value.map_or("nothing".to_owned(), ToString::to_string);
                return Err(ManagerError::conflict(format!(
                    "{} is {} by now, and the plan was made on {}",
                    change.path,
                    show(now),
                    show(change.from.as_ref()),
                )));
            }
        }
        Ok(live)
    }
}

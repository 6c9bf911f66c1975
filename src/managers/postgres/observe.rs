//! Seeing: what is live, from the shared catalogs alone or from inside each database too.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt};
use sqlx::Row;

use super::catalog::{self, Catalog, DatabaseRow, RoleRow, is_of};
use super::connection::{Server, Session};
use super::errors::{Cause, Failure};
use super::names::{Field, Wanted, extensions_path, login_role, owner_role, refuse_long, role_path};
use super::privileges::{self, Held, Outer, spelled};
use crate::managers::{Found, ManagerError};
use crate::model::{
    Access, Depth, Fields, Live, Mark, ObjectId, Observation, Ownership, PlatformId, ProviderType, Reason, ResourceKey,
    Target, Unknown,
};

/// What only a connection into the database tells.
#[derive(Clone, Debug, Default)]
pub(super) struct Inner {
    /// By role oid.
    held: BTreeMap<i64, Vec<Held>>,
    /// Of the wanted extensions, those that are there.
    extensions: Vec<String>,
}

/// How much is known of the inside of a database.
pub(super) enum InnerView {
    Seen(Inner),
    NotLooked,
    Failed(Unknown),
}

/// Sees every target, in order.
pub(super) async fn observe(
    server: &Server,
    targets: &[Target],
    depth: Depth,
    platform: &PlatformId,
) -> Result<Vec<Observation>, ManagerError> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let mut lease = server.maintenance().await?;
    let names: Vec<String> = targets.iter().map(|target| target.object_name.clone()).collect();
    let databases = catalog::read_databases(&mut lease.session, &names).await?;
    let looks: Vec<Look> = targets.iter().map(|target| Look::new(target, databases.get(&target.object_name))).collect();
    let roles: Vec<String> = looks.iter().flat_map(Look::role_names).collect();
    let roles = catalog::read_roles(&mut lease.session, &roles).await?;
    lease.give_back().await;
    let catalog = Catalog { databases, roles };
    let mut sights = Vec::with_capacity(looks.len());
    for look in &looks {
        sights.push(look.see(server, &catalog, platform, depth));
    }
    Ok(stream::iter(sights).buffered(server.concurrency()).collect().await)
}

/// Every marked object of this platform: databases, and owners whose database is not there.
pub(super) async fn discover(server: &Server, platform: &PlatformId) -> Result<Vec<Found>, ManagerError> {
    let mut lease = server.maintenance().await?;
    let catalog = catalog::read_marked(&mut lease.session).await?;
    lease.give_back().await;
    let mut found: BTreeMap<(String, String), Found> = BTreeMap::new();
    let mut add = |mark: &Mark, object_name: &str, object: ObjectId| {
        if mark.platform == *platform {
            let entry = Found { mark: mark.clone(), object_name: object_name.to_owned(), object };
            found.entry((mark.key.to_string(), object_name.to_owned())).or_insert(entry);
        }
    };
    let name_of = |mark: &Mark| mark.key.object_name(ProviderType::Postgres.name_limit());
    for database in catalog.databases.values() {
        // Whoever owns a database may write any mark on it, and only its own is true. One that was renamed is found by
        // the mark on its owner.
        if let Ownership::Marked(mark) = catalog.ownership(database)
            && name_of(&mark) == database.name
        {
            add(&mark, &database.name, database.object());
        }
    }
    for role in catalog.roles.values() {
        let Some(mark) = &role.mark else { continue };
        let database = name_of(mark);
        if !catalog.databases.contains_key(&database) {
            // The owner is the last to be dropped; a login role whose owner is gone too is found by itself.
            let is_owner = role.name == owner_role(&database);
            if is_owner || !catalog.roles.contains_key(&owner_role(&database)) {
                add(mark, &database, role_object(role));
            }
        }
    }
    Ok(found.into_values().collect())
}

/// What stands for a database that is gone while roles of it are left.
pub(super) fn role_object(role: &RoleRow) -> ObjectId {
    role_id(role.oid)
}

/// The same, of a role by its oid.
pub(super) fn role_id(oid: i64) -> ObjectId {
    ObjectId(format!("{ROLE}{oid}"))
}

/// What tells a role from a database.
pub(super) const ROLE: &str = "role:";

/// One target, and the members to look for: those of the target, and those that the mark speaks of.
pub(super) struct Look<'a> {
    pub target: &'a Target,
    pub wanted: Wanted,
}

impl<'a> Look<'a> {
    /// A look at `target`, whose database, if there is one, is `database`.
    pub fn new(target: &'a Target, database: Option<&DatabaseRow>) -> Self {
        let marked = database.and_then(|database| database.comment.as_ref()).filter(|mark| mark.key == target.key);
        let marked = marked.into_iter().flat_map(|mark| mark.hashes.keys());
        Self { target, wanted: Wanted::of(target.fields.iter().chain(marked)) }
    }

    async fn see(&self, server: &Server, catalog: &Catalog, platform: &PlatformId, depth: Depth) -> Observation {
        if let Err(error) = refuse_long("database", &self.target.object_name) {
            return Observation::Unknown(Unknown::from(&error));
        }
        let inner = match depth {
            Depth::Shallow => InnerView::NotLooked,
            Depth::Deep => self.inside(server, catalog, platform).await,
        };
        self.interpret(server, catalog, platform, inner)
    }

    /// The names of the roles that matter.
    pub fn role_names(&self) -> Vec<String> {
        let database = &self.target.object_name;
        let logins = self.wanted.roles.iter().filter_map(|role| login_role(database, role).ok());
        std::iter::once(owner_role(database)).chain(logins).collect()
    }

    fn key(&self) -> &ResourceKey {
        &self.target.key
    }

    /// The wanted roles that are there, by the name YAML gives them.
    fn roles<'c>(&self, catalog: &'c Catalog) -> Vec<(&str, &'c RoleRow)> {
        let row = |role: &String| catalog.roles.get(&login_role(&self.target.object_name, role).ok()?);
        self.wanted.roles.iter().filter_map(|role| Some((role.as_str(), row(role)?))).collect()
    }

    /// Looks into the database, over a connection of its own, when something there is wanted and it is not another's.
    async fn inside(&self, server: &Server, catalog: &Catalog, platform: &PlatformId) -> InnerView {
        let Some(database) = catalog.databases.get(&self.target.object_name) else { return InnerView::NotLooked };
        let others = match catalog.ownership(database) {
            Ownership::Marked(mark) => !is_of(&mark, platform, self.key()),
            Ownership::Unmarked => false,
        };
        if others || database.is_half_dropped() || !self.wants_inside(catalog, database, platform) {
            return InnerView::NotLooked;
        }
        let looked = async {
            let mut inside = server.database(&database.name).await?;
            let inner = self.look_inside(&mut inside.session, catalog, database, platform).await;
            inside.close().await;
            inner
        };
        match looked.await {
            Ok(inner) => InnerView::Seen(inner),
            Err(failure) => InnerView::Failed(Unknown::from(&ManagerError::from(failure))),
        }
    }

    fn wants_inside(&self, catalog: &Catalog, database: &DatabaseRow, platform: &PlatformId) -> bool {
        !self.wanted.extensions.is_empty() || !self.inner_roles(catalog, database, platform).is_empty()
    }

    /// Our roles whose access only the inside tells.
    fn inner_roles(&self, catalog: &Catalog, database: &DatabaseRow, platform: &PlatformId) -> Vec<i64> {
        self.roles(catalog)
            .into_iter()
            .filter(|(_, role)| role.is_ours(platform, self.key()))
            .filter(|(_, role)| privileges::outer_access(role, database) == Outer::Inside)
            .map(|(_, role)| role.oid)
            .collect()
    }

    /// The oids of those whose objects our roles have access to: the owner and our admins.
    pub fn creators(&self, catalog: &Catalog, database: &DatabaseRow, platform: &PlatformId) -> Vec<i64> {
        let admins = catalog
            .login_roles_of(&database.name, platform, self.key())
            // One that is no whole admin is drift of its own field, and not of every other role's.
            .filter(|role| privileges::outer_access(role, database) == Outer::Is(spelled(Access::Admin)))
            .map(|role| role.oid);
        std::iter::once(database.owner_oid).chain(admins).collect()
    }

    /// Looks into the database that `session` is in.
    pub async fn look_inside(
        &self,
        session: &mut Session,
        catalog: &Catalog,
        database: &DatabaseRow,
        platform: &PlatformId,
    ) -> Result<Inner, Failure> {
        let mut inner = Inner::default();
        let roles = self.inner_roles(catalog, database, platform);
        if !roles.is_empty() {
            let creators = self.creators(catalog, database, platform);
            inner.held = privileges::held(session, &roles, &creators).await?;
        }
        if !self.wanted.extensions.is_empty() {
            const DOING: &str = "look at extensions";
            let names: Vec<String> = self.wanted.extensions.iter().cloned().collect();
            let query = sqlx::query("SELECT extname::text FROM pg_extension WHERE extname::text = ANY($1)").bind(names);
            let rows = session.rows(DOING, query).await?;
            let names: Result<Vec<String>, sqlx::Error> = rows.iter().map(|row| row.try_get(0)).collect();
            inner.extensions = names.map_err(|error| session.failure(DOING, Cause::Sql(error)))?;
        }
        Ok(inner)
    }

    /// What was seen, as the planner reads it.
    pub fn interpret(
        &self,
        server: &Server,
        catalog: &Catalog,
        platform: &PlatformId,
        inner: InnerView,
    ) -> Observation {
        let owner = catalog.owner_of(&self.target.object_name).filter(|owner| owner.is_ours(platform, self.key()));
        let owner_mark = owner.and_then(|owner| owner.mark.as_ref());
        let Some(database) = catalog.databases.get(&self.target.object_name) else {
            let lost = owner_mark.is_some_and(|mark| !mark.unfinished);
            return Observation::Absent { lost, left: owner.map(role_object) };
        };
        let ownership = catalog.ownership(database);
        let ours = matches!(&ownership, Ownership::Marked(mark) if is_of(mark, platform, self.key()));
        if database.is_half_dropped() {
            // Its data is gone already. One of ours is as good as absent; creation drops the rest of it first.
            return match owner_mark {
                Some(mark) if ours => Observation::Absent { lost: !mark.unfinished, left: Some(database.object()) },
                Some(_) | None => Observation::Unknown(Unknown::new(
                    Reason::Rejected,
                    format!("dropping the database {:?} was cut short; drop it again", database.name),
                )),
            };
        }
        let mut live = Live {
            object: database.object(),
            ownership,
            fields: Fields::new(),
            unknown: BTreeMap::new(),
            outputs: outputs(server, self.target),
        };
        live.fields.insert(Field::ConnectionLimit.path(), database.connection_limit);
        for (name, value) in &database.settings {
            for spelled in self.wanted.settings.get(&name.to_lowercase()).into_iter().flatten() {
                live.fields.insert(Field::Setting(spelled.clone()).path(), value.as_str());
            }
        }
        for (name, role) in self.roles(catalog) {
            self.add_role(&mut live, name, role, database, platform, &inner);
        }
        if !self.wanted.extensions.is_empty() {
            match &inner {
                InnerView::Seen(inner) => {
                    for name in &inner.extensions {
                        live.fields.insert(Field::Extension(name.clone()).path(), true);
                    }
                }
                InnerView::NotLooked => drop(live.unknown.insert(extensions_path(), not_observed())),
                InnerView::Failed(unknown) => drop(live.unknown.insert(extensions_path(), unknown.clone())),
            }
        }
        Observation::Present(Box::new(live))
    }

    fn add_role(
        &self,
        live: &mut Live,
        name: &str,
        role: &RoleRow,
        database: &DatabaseRow,
        platform: &PlatformId,
        inner: &InnerView,
    ) {
        if let Some(unknown) = self.not_ours(role, platform) {
            live.unknown.insert(role_path(name), unknown);
            return;
        }
        let access = match (privileges::outer_access(role, database), inner) {
            (Outer::Is(access), _) => access,
            (Outer::Inside, InnerView::Seen(inner)) => {
                privileges::inner_access(inner.held.get(&role.oid).map_or(&[], Vec::as_slice))
            }
            (Outer::Inside, InnerView::NotLooked) => {
                live.unknown.insert(Field::Access(name.to_owned()).path(), not_observed());
                return;
            }
            (Outer::Inside, InnerView::Failed(unknown)) => {
                live.unknown.insert(Field::Access(name.to_owned()).path(), unknown.clone());
                return;
            }
        };
        live.fields.insert(Field::Access(name.to_owned()).path(), access);
    }

    /// Why a role of a computed name is not this key's.
    fn not_ours(&self, role: &RoleRow, platform: &PlatformId) -> Option<Unknown> {
        match &role.mark {
            None => {
                let message = format!(
                    "the role {:?} exists without Plumb's mark and stays untouched; name it otherwise in the document, or \
                     drop or rename the one on the server",
                    role.name
                );
                Some(Unknown::new(Reason::NotOwned, message))
            }
            Some(mark) if !is_of(mark, platform, self.key()) => {
                let message = format!(
                    "the role {:?} bears the mark of {} (platform {}) and stays untouched; name it otherwise in the \
                     document",
                    role.name, mark.key, mark.platform
                );
                Some(Unknown::new(Reason::OwnedByOther, message))
            }
            Some(_) => None,
        }
    }
}

fn not_observed() -> Unknown {
    Unknown::new(Reason::NotObserved, "this pass looked at shared catalogs only")
}

/// Where an application finds the database.
pub(super) fn outputs(server: &Server, target: &Target) -> BTreeMap<String, String> {
    let mut outputs = BTreeMap::from([
        ("host".to_owned(), server.host()),
        ("port".to_owned(), server.port().to_string()),
        ("database".to_owned(), target.object_name.clone()),
    ]);
    for role in Wanted::of(&target.fields).roles {
        if let Ok(user) = login_role(&target.object_name, &role) {
            outputs.insert(format!("user/{role}"), user);
        }
    }
    outputs
}

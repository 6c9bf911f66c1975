//! The PostgreSQL manager against a real server, as a login with CREATEDB and CREATEROLE and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use plumb::managers::postgres::{Postgres, connect, login_role, owner_role};
use plumb::managers::{Cx, Endpoint, ManagerError, Outcome, ResourceManager, Secrets};
use plumb::model::{
    Action, Change, Depth, Expect, FieldPath, Fields, Kind, Live, Mark, ObjectId, Observation, Ownership, PlatformId,
    ProviderType, Reason, ResourceKey, Step, Target,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use crate::harness::postgres::PostgresServer;

/// How long a session that was ended may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keeps passwords as the engine does: made once for a rotation, the same ever after.
#[derive(Default)]
struct Vault {
    made: Mutex<BTreeMap<(String, String, String), String>>,
    broken: bool,
}

impl Vault {
    fn stored(&self, key: &ResourceKey, role: &str, rotation: &str) -> Option<String> {
        self.made.lock().unwrap().get(&(key.to_string(), role.to_owned(), rotation.to_owned())).cloned()
    }
}

#[async_trait]
impl Secrets for Vault {
    async fn password(
        &self,
        key: &ResourceKey,
        role: &str,
        rotation: Option<&str>,
    ) -> Result<SecretString, ManagerError> {
        if self.broken {
            return Err(ManagerError::retry(Reason::Internal, "the state store is full"));
        }
        let mut made = self.made.lock().unwrap();
        let number = made.len();
        let id = (key.to_string(), role.to_owned(), rotation.unwrap_or_default().to_owned());
        let password = made.entry(id).or_insert_with(|| format!("planted-secret-{number}-{key}-{role}"));
        Ok(SecretString::from(password.clone()))
    }
}

/// One test's corner of a server: its own tenant, so that tests do not meet.
struct World {
    server: &'static PostgresServer,
    manager: Postgres,
    platform: PlatformId,
    vault: Vault,
    key: ResourceKey,
    /// The database's name, where it is not the key's.
    named: Option<String>,
}

impl World {
    fn new(tenant: &str) -> Self {
        let server = PostgresServer::shared();
        Self {
            server,
            manager: connect(server.endpoint("pg-main")).unwrap(),
            platform: PlatformId("tests".to_owned()),
            vault: Vault::default(),
            key: ResourceKey::new(tenant, "staging", Kind::Database, "orders"),
            named: None,
        }
    }

    fn cx(&self) -> Cx<'_> {
        Cx { platform: &self.platform, secrets: &self.vault }
    }

    fn database(&self) -> String {
        self.named.clone().unwrap_or_else(|| self.key.object_name(63))
    }

    fn role(&self, role: &str) -> String {
        login_role(&self.database(), role).unwrap()
    }

    fn owner(&self) -> String {
        owner_role(&self.database())
    }

    fn mark(&self, desired: &Fields) -> Mark {
        Mark { platform: self.platform.clone(), key: self.key.clone(), hashes: desired.hashes(), unfinished: false }
    }

    fn step(&self, action: Action, expect: Expect, changes: Vec<Change>, desired: &Fields) -> Step {
        Step {
            key: self.key.clone(),
            action,
            provider: "pg-main".to_owned(),
            object_name: self.database(),
            expect,
            changes,
            desired: desired.clone(),
            mark: self.mark(desired),
            depends_on: Vec::new(),
            destructive: Vec::new(),
            rotate: None,
        }
    }

    fn creation(&self, desired: &Fields) -> Step {
        let changes = desired
            .iter()
            .map(|(path, value)| Change { path: path.clone(), from: None, to: Some(value.clone()) })
            .collect();
        self.step(Action::Create, Expect::Absent, changes, desired)
    }

    /// The step from what is live to `desired`, as the planner would make it.
    async fn update(&self, desired: &Fields, gone: &[&str]) -> Step {
        let wanted: BTreeSet<FieldPath> =
            desired.iter().map(|(path, _)| path.clone()).chain(gone.iter().map(|path| (*path).into())).collect();
        let live = self.live_of(wanted.clone()).await;
        let changes = wanted
            .into_iter()
            .map(|path| Change {
                from: live.fields.get(path.as_str()).cloned(),
                to: desired.get(path.as_str()).cloned(),
                path,
            })
            .filter(|change| change.from != change.to)
            .collect();
        self.step(Action::Update, Expect::Marked(live.object), changes, desired)
    }

    async fn deletion(&self) -> Step {
        let live = self.live_of(BTreeSet::new()).await;
        self.step(Action::Delete, Expect::Marked(live.object), Vec::new(), &Fields::new())
    }

    async fn apply(&self, step: &Step) -> Result<Outcome, ManagerError> {
        self.manager.apply(step, &self.cx()).await
    }

    /// Whoever has said goodbye to a database that is dropped may be in it for a moment still.
    async fn done(&self, step: &Step) -> Vec<String> {
        let began = Instant::now();
        loop {
            match self.apply(step).await {
                Err(ManagerError::Retry { reason: Reason::Conflict, .. })
                    if step.action == Action::Delete && began.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                done => return done.unwrap().notes,
            }
        }
    }

    async fn refused(&self, step: &Step) -> ManagerError {
        self.apply(step).await.unwrap_err()
    }

    async fn made(tenant: &str, desired: &Fields) -> Self {
        let world = Self::new(tenant);
        world.done(&world.creation(desired)).await;
        world
    }

    async fn observe_with(&self, paths: BTreeSet<FieldPath>, depth: Depth) -> Observation {
        let target = Target { key: self.key.clone(), object_name: self.database(), fields: paths };
        let mut seen = self.manager.observe(&[target], depth, &self.cx()).await.unwrap();
        assert_eq!(seen.len(), 1);
        seen.remove(0)
    }

    async fn observe(&self) -> Observation {
        self.observe_with(BTreeSet::new(), Depth::Deep).await
    }

    async fn live_of(&self, paths: BTreeSet<FieldPath>) -> Live {
        present(self.observe_with(paths, Depth::Deep).await)
    }

    async fn live(&self, desired: &Fields) -> Live {
        self.live_of(desired.iter().map(|(path, _)| path.clone()).collect()).await
    }

    async fn access(&self, role: &str) -> Option<Value> {
        let path = access(role);
        self.live_of(BTreeSet::from([path.as_str().into()])).await.fields.get(&path).cloned()
    }

    /// Logs in as an application does, with the password from the vault.
    async fn login(&self, role: &str) -> PgConnection {
        let password = self.vault.stored(&self.key, role, "").expect("a stored password");
        self.server.connect(&self.database(), &self.role(role), &password).await.unwrap()
    }

    async fn superuser(&self, sql: &str) {
        self.server.psql_in(&self.database(), sql).await;
    }

    async fn ask(&self, sql: &str) -> Option<String> {
        self.server.query("postgres", sql).await.first().and_then(|row| row.get(0))
    }

    async fn role_exists(&self, name: &str) -> bool {
        self.ask(&format!("SELECT rolname::text FROM pg_roles WHERE rolname = '{}'", name.replace('\'', "''")))
            .await
            .is_some()
    }

    /// What stands for the database where only its owner is left.
    async fn owner_object(&self) -> ObjectId {
        let oid = self.ask(&format!("SELECT oid::text FROM pg_roles WHERE rolname = '{}'", self.owner())).await;
        ObjectId(format!("role:{}", oid.expect("the owner is there")))
    }

    async fn database_exists(&self) -> bool {
        self.ask(&format!("SELECT datname::text FROM pg_database WHERE datname = '{}'", self.database()))
            .await
            .is_some()
    }
}

fn present(observation: Observation) -> Live {
    match observation {
        Observation::Present(live) => *live,
        other => panic!("not present: {other:?}"),
    }
}

fn access(role: &str) -> String {
    format!("/spec/roles/{role}/access")
}

fn fields(values: &[(&str, Value)]) -> Fields {
    values.iter().map(|(path, value)| (FieldPath::from(*path), value.clone())).collect()
}

/// All that a Database can have.
fn everything() -> Fields {
    fields(&[
        ("/spec/connectionLimit", json!(20)),
        ("/spec/extensions/pgcrypto", json!(true)),
        ("/spec/roles/adm/access", json!("admin")),
        ("/spec/roles/app/access", json!("readwrite")),
        ("/spec/roles/ro/access", json!("read")),
        ("/spec/settings/timezone", json!("Europe/Berlin")),
        ("/spec/settings/work_mem", json!("8MB")),
    ])
}

fn with(base: &Fields, path: &str, value: Value) -> Fields {
    let mut fields = base.clone();
    fields.insert(path, value);
    fields
}

fn without(base: &Fields, path: &str) -> Fields {
    base.iter().filter(|(at, _)| at.as_str() != path).map(|(at, value)| (at.clone(), value.clone())).collect()
}

async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), String> {
    match sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) => Err(error.code().unwrap_or_default().into_owned()),
        Err(error) => panic!("{sql}: {error}"),
    }
}

const DENIED: &str = "42501";

fn denied() -> Result<(), String> {
    Err(DENIED.to_owned())
}

#[tokio::test]
async fn a_database_is_made_as_git_says_and_seen_so() {
    let desired = everything();
    let world = World::made("pgmade", &desired).await;
    let live = world.live(&desired).await;
    assert_eq!(live.fields, desired);
    assert!(live.unknown.is_empty(), "{:?}", live.unknown);
    assert_eq!(live.ownership, Ownership::Marked(world.mark(&desired)));
    assert_eq!(live.outputs["database"], "pgmade_staging_orders");
    assert_eq!(live.outputs["user/app"], "pgmade_staging_orders_app");
    assert_eq!(live.outputs["port"], world.server.port().to_string());
    assert_eq!(live.outputs["host"], "127.0.0.1");
}

#[tokio::test]
async fn the_connection_limit_is_always_reported() {
    let world = World::made("pglimit", &Fields::new()).await;
    assert_eq!(world.live_of(BTreeSet::new()).await.fields, fields(&[("/spec/connectionLimit", json!(-1))]));
}

#[tokio::test]
async fn roles_can_do_what_their_access_says_with_what_is_made_later_too() {
    let world = World::made("pgaccess", &everything()).await;
    let (mut adm, mut app, mut ro) = (world.login("adm").await, world.login("app").await, world.login("ro").await);

    run(&mut adm, "CREATE SCHEMA shop; CREATE TABLE shop.t (id serial, v text); CREATE TABLE u (v text)")
        .await
        .unwrap();
    run(&mut adm, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'").await.unwrap();
    // An admin that stays itself makes its own objects; they are covered as well.
    run(&mut adm, "SET ROLE NONE; CREATE TABLE shop.by_admin (id serial, v text); RESET ROLE").await.unwrap();

    for table in ["shop.t", "shop.by_admin"] {
        assert_eq!(run(&mut app, &format!("INSERT INTO {table} (v) VALUES ('x')")).await, Ok(()), "{table}");
        assert_eq!(
            run(&mut app, &format!("UPDATE {table} SET v = 'y'; DELETE FROM {table} WHERE id < 0")).await,
            Ok(())
        );
        assert_eq!(run(&mut ro, &format!("SELECT * FROM {table}")).await, Ok(()), "{table}");
        assert_eq!(run(&mut ro, &format!("INSERT INTO {table} (v) VALUES ('x')")).await, denied(), "{table}");
        assert_eq!(run(&mut ro, &format!("SELECT nextval('{table}_id_seq')")).await, denied(), "{table}");
        assert_eq!(run(&mut app, &format!("DROP TABLE {table}")).await, denied(), "{table}");
    }
    assert_eq!(run(&mut app, "SELECT f()").await, Ok(()));
    assert_eq!(run(&mut app, "CREATE TABLE public.mine ()").await, denied());
    assert_eq!(run(&mut app, "CREATE TABLE shop.mine ()").await, denied());
    assert_eq!(run(&mut app, "CREATE SCHEMA mine").await, denied());
    let made_by = "SELECT tableowner::text FROM pg_tables WHERE tablename = 'u'";
    assert_eq!(world.server.query(&world.database(), made_by).await[0].get::<String, _>(0), world.owner());
    assert_eq!(world.live(&everything()).await.fields, everything());
}

#[tokio::test]
async fn nobody_else_may_connect_to_a_database_that_was_made_here() {
    let world = World::made("pgpublic", &everything()).await;
    world.server.psql("CREATE ROLE pgpublic_stranger LOGIN PASSWORD 'x'").await;
    let refused = world.server.connect(&world.database(), "pgpublic_stranger", "x").await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), DENIED);
}

#[tokio::test]
async fn the_login_is_no_member_of_login_roles_afterwards() {
    let desired = everything();
    let world = World::made("pgmember", &desired).await;
    world.done(&world.update(&with(&desired, &access("app"), json!("admin")), &[]).await).await;
    let held = format!(
        "SELECT string_agg(r.rolname, ',') FROM pg_roles r WHERE r.rolname LIKE '{}_%' AND pg_has_role('plumb', r.oid, 'USAGE')",
        world.database()
    );
    assert_eq!(world.ask(&held).await, Some(world.owner()));
}

#[tokio::test]
async fn every_field_that_drifts_is_seen() {
    let desired = everything();
    let world = World::made("pgdrift", &desired).await;
    let database = world.database();
    run(&mut world.login("adm").await, "CREATE TABLE t (v text)").await.unwrap();
    let (adm, app, ro) = (world.role("adm"), world.role("app"), world.role("ro"));
    let drifts: &[(String, String, &str, Option<Value>)] = &[
        (
            format!("ALTER DATABASE {database} CONNECTION LIMIT 3"),
            format!("ALTER DATABASE {database} CONNECTION LIMIT 20"),
            "/spec/connectionLimit",
            Some(json!(3)),
        ),
        (
            format!("ALTER DATABASE {database} SET work_mem TO '1GB'"),
            format!("ALTER DATABASE {database} SET work_mem TO '8MB'"),
            "/spec/settings/work_mem",
            Some(json!("1GB")),
        ),
        (
            format!("ALTER DATABASE {database} RESET timezone"),
            format!("ALTER DATABASE {database} SET timezone TO 'Europe/Berlin'"),
            "/spec/settings/timezone",
            None,
        ),
        (
            "DROP EXTENSION pgcrypto".to_owned(),
            "CREATE EXTENSION pgcrypto".to_owned(),
            "/spec/extensions/pgcrypto",
            None,
        ),
        (
            format!("REVOKE SELECT ON t FROM {ro}"),
            format!("GRANT SELECT ON t TO {ro}"),
            "/spec/roles/ro/access",
            Some(json!("custom")),
        ),
        (
            format!("GRANT INSERT ON t TO {ro}"),
            format!("REVOKE INSERT ON t FROM {ro}"),
            "/spec/roles/ro/access",
            Some(json!("custom")),
        ),
        (
            format!("GRANT CREATE ON DATABASE {database} TO {app}"),
            format!("REVOKE CREATE ON DATABASE {database} FROM {app}"),
            "/spec/roles/app/access",
            Some(json!("custom")),
        ),
        (
            format!("ALTER TABLE t OWNER TO {app}"),
            format!("ALTER TABLE t OWNER TO {}; GRANT SELECT, INSERT, UPDATE, DELETE ON t TO {app}", world.owner()),
            "/spec/roles/app/access",
            Some(json!("custom")),
        ),
        (
            format!("ALTER DEFAULT PRIVILEGES FOR ROLE {adm} REVOKE INSERT ON TABLES FROM {app}"),
            format!("ALTER DEFAULT PRIVILEGES FOR ROLE {adm} GRANT INSERT ON TABLES TO {app}"),
            "/spec/roles/app/access",
            Some(json!("custom")),
        ),
        (
            format!("ALTER ROLE {app} NOLOGIN"),
            format!("ALTER ROLE {app} LOGIN"),
            "/spec/roles/app/access",
            Some(json!("custom")),
        ),
        (
            format!("ALTER ROLE {adm} IN DATABASE {database} RESET role"),
            format!("ALTER ROLE {adm} IN DATABASE {database} SET role TO '{}'", world.owner()),
            "/spec/roles/adm/access",
            Some(json!("custom")),
        ),
    ];
    for (drift, back, path, value) in drifts {
        world.superuser(drift).await;
        let live = world.live(&desired).await;
        assert_eq!(live.fields.get(path), value.as_ref(), "{drift}");
        let expected =
            value.as_ref().map_or_else(|| without(&desired, path), |value| with(&desired, path, value.clone()));
        assert_eq!(live.fields, expected, "{drift}");
        world.superuser(back).await;
        assert_eq!(world.live(&desired).await.fields, desired, "{back}");
    }
}

#[tokio::test]
async fn each_field_is_changed_and_put_back() {
    let desired = everything();
    let world = World::made("pgupdate", &desired).await;
    let mut now = desired.clone();
    for (path, value) in [
        ("/spec/connectionLimit", json!(7)),
        ("/spec/settings/work_mem", json!("16MB")),
        ("/spec/settings/search_path", json!("App, public, \"$user\"")),
        ("/spec/extensions/citext", json!(true)),
        ("/spec/roles/app/access", json!("read")),
        ("/spec/roles/ro/access", json!("admin")),
        ("/spec/roles/adm/access", json!("readwrite")),
        ("/spec/roles/new/access", json!("read")),
    ] {
        now = with(&now, path, value);
        world.done(&world.update(&now, &[]).await).await;
        let live = world.live(&now).await;
        let expected = match now.get("/spec/settings/search_path") {
            Some(_) => with(&now, "/spec/settings/search_path", json!("app, public, \"$user\"")),
            None => now.clone(),
        };
        assert_eq!(live.fields, expected, "{path}");
        assert_eq!(live.ownership, Ownership::Marked(world.mark(&now)), "{path}");
    }
    let gone: Vec<&str> = now.0.keys().map(FieldPath::as_str).collect();
    let step = world.update(&Fields::new(), &gone).await;
    world.done(&step).await;
    let live = world.live(&now).await;
    assert_eq!(live.fields, fields(&[("/spec/connectionLimit", json!(-1))]));
    for role in ["adm", "app", "ro", "new"] {
        assert!(!world.role_exists(&world.role(role)).await, "{role}");
    }
}

#[tokio::test]
async fn changed_access_takes_what_no_longer_holds() {
    let desired = everything();
    let world = World::made("pgdemote", &desired).await;
    let mut adm = world.login("adm").await;
    run(&mut adm, "CREATE TABLE t (v text); SET ROLE NONE; CREATE TABLE mine (v text)").await.unwrap();
    drop(adm);
    let desired = with(&with(&desired, &access("app"), json!("read")), &access("adm"), json!("readwrite"));
    world.done(&world.update(&desired, &[]).await).await;

    let (mut app, mut adm) = (world.login("app").await, world.login("adm").await);
    assert_eq!(run(&mut app, "SELECT * FROM t").await, Ok(()));
    assert_eq!(run(&mut app, "INSERT INTO t VALUES ('x')").await, denied());
    assert_eq!(run(&mut adm, "INSERT INTO t VALUES ('x'); INSERT INTO mine VALUES ('x')").await, Ok(()));
    assert_eq!(run(&mut adm, "ALTER TABLE mine ADD COLUMN w text").await, denied());
    assert_eq!(run(&mut adm, "CREATE TABLE public.more ()").await, denied());
    assert_eq!(world.live(&desired).await.fields, desired);
}

#[tokio::test]
async fn what_an_admin_that_came_later_makes_is_covered_for_everybody() {
    let desired = without(&everything(), &access("adm"));
    let world = World::made("pglater", &desired).await;
    let desired = with(&desired, &access("late"), json!("admin"));
    world.done(&world.update(&desired, &[]).await).await;
    let mut late = world.login("late").await;
    run(&mut late, "SET ROLE NONE; CREATE TABLE t (v text)").await.unwrap();
    assert_eq!(run(&mut world.login("app").await, "INSERT INTO t VALUES ('x')").await, Ok(()));
    assert_eq!(run(&mut world.login("ro").await, "SELECT * FROM t").await, Ok(()));
    assert_eq!(world.live(&desired).await.fields, desired);
}

#[tokio::test]
async fn a_role_that_comes_later_has_access_to_what_is_there() {
    let desired = without(&everything(), &access("ro"));
    let world = World::made("pgexist", &desired).await;
    let mut adm = world.login("adm").await;
    run(&mut adm, "CREATE SCHEMA \"My \"\"S\"; CREATE TABLE \"My \"\"S\".\"T; x\" (v text); CREATE SEQUENCE s")
        .await
        .unwrap();
    run(&mut adm, "CREATE FUNCTION \"odd; name\"(a int, b text[]) RETURNS int LANGUAGE sql AS 'SELECT 1'")
        .await
        .unwrap();
    let desired = with(&with(&desired, &access("ro"), json!("read")), &access("more"), json!("readwrite"));
    world.done(&world.update(&desired, &[]).await).await;
    assert_eq!(run(&mut world.login("ro").await, "SELECT * FROM \"My \"\"S\".\"T; x\"").await, Ok(()));
    assert_eq!(run(&mut world.login("more").await, "SELECT nextval('s'), \"odd; name\"(1, '{}')").await, Ok(()));
    assert_eq!(world.live(&desired).await.fields, desired);
}

#[tokio::test]
async fn drifted_access_is_given_back() {
    let desired = everything();
    let world = World::made("pgback", &desired).await;
    run(&mut world.login("adm").await, "CREATE TABLE t (v text)").await.unwrap();
    let (app, ro) = (world.role("app"), world.role("ro"));
    world.superuser(&format!("REVOKE ALL ON t FROM {app}; GRANT ALL ON t TO {ro}; ALTER ROLE {app} NOLOGIN")).await;
    world.superuser(&format!("REVOKE CONNECT ON DATABASE {} FROM {ro}", world.database())).await;
    world.done(&world.update(&desired, &[]).await).await;
    assert_eq!(world.live(&desired).await.fields, desired);
    assert_eq!(run(&mut world.login("app").await, "INSERT INTO t VALUES ('x')").await, Ok(()));
    assert_eq!(run(&mut world.login("ro").await, "INSERT INTO t VALUES ('x')").await, denied());
}

#[tokio::test]
async fn a_membership_behind_our_back_is_taken_back_or_who_can_is_said() {
    let desired = everything();
    let world = World::made("pgmembers", &desired).await;
    let (owner, ro) = (world.owner(), world.role("ro"));
    world.superuser(&format!("GRANT {owner} TO {ro}")).await;
    let drifted = with(&desired, &access("ro"), json!("custom"));
    assert_eq!(world.live(&desired).await.fields, drifted, "and no other role is said to have drifted");
    let step = world.update(&desired, &[]).await;
    let version: i64 = world.ask("SHOW server_version_num").await.unwrap().parse().unwrap();
    if version >= 160_000 {
        let error = world.refused(&step).await;
        assert!(matches!(error, ManagerError::Terminal { reason: Reason::PermissionDenied, .. }), "{error:?}");
        assert!(error.to_string().contains("GRANTED BY \"postgres\""), "{error}");
        assert_eq!(world.live(&desired).await.fields, drifted);
        world.superuser(&format!("REVOKE {owner} FROM {ro}")).await;
    } else {
        world.done(&step).await;
    }
    assert_eq!(world.live(&desired).await.fields, desired);
}

#[tokio::test]
async fn a_shallow_look_says_what_it_did_not_look_at() {
    let desired = everything();
    let world = World::made("pgshallow", &desired).await;
    let paths: BTreeSet<FieldPath> = desired.iter().map(|(path, _)| path.clone()).collect();
    let live = present(world.observe_with(paths.clone(), Depth::Shallow).await);
    let seen =
        ["/spec/connectionLimit", "/spec/roles/adm/access", "/spec/settings/timezone", "/spec/settings/work_mem"];
    assert_eq!(live.fields.0.keys().map(FieldPath::as_str).collect::<Vec<_>>(), seen);
    for (path, value) in live.fields.iter() {
        assert_eq!(Some(value), desired.get(path.as_str()));
    }
    for path in ["/spec/extensions/pgcrypto", "/spec/roles/app/access", "/spec/roles/ro/access"] {
        assert_eq!(live.unknown_at(&path.into()).unwrap().reason, Reason::NotObserved, "{path}");
    }
    // A role that is gone is gone, however shallow the look.
    world.superuser(&format!("DROP OWNED BY {0}; DROP ROLE {0}", world.role("ro"))).await;
    let live = present(world.observe_with(paths, Depth::Shallow).await);
    assert_eq!(live.unknown_at(&"/spec/roles/ro/access".into()), None);
    assert_eq!(live.fields.get("/spec/roles/ro/access"), None);
}

#[tokio::test]
async fn many_targets_are_seen_at_once_and_in_order() {
    let world = World::made("pgmany", &everything()).await;
    let target = |name: &str| Target { key: world.key.clone(), object_name: name.to_owned(), fields: BTreeSet::new() };
    let long = "x".repeat(64);
    let targets = [target("pgmany_nothing"), target(&world.database()), target(&long), target("pgmany_neither")];
    let seen = world.manager.observe(&targets, Depth::Deep, &world.cx()).await.unwrap();
    assert_eq!(seen[0], Observation::Absent { lost: false, left: None });
    assert!(matches!(seen[1], Observation::Present(_)));
    assert!(matches!(&seen[2], Observation::Unknown(unknown) if unknown.reason == Reason::Rejected));
    assert_eq!(seen[3], Observation::Absent { lost: false, left: None });
    assert!(world.manager.observe(&[], Depth::Deep, &world.cx()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_removed_role_leaves_its_objects_to_the_owner() {
    let desired = everything();
    let world = World::made("pgremove", &desired).await;
    let mut adm = world.login("adm").await;
    run(&mut adm, "SET ROLE NONE; CREATE TABLE kept (v text); INSERT INTO kept VALUES ('data')").await.unwrap();
    drop(adm);
    let desired = without(&desired, &access("adm"));
    world.done(&world.update(&desired, &[&access("adm")]).await).await;
    assert!(!world.role_exists(&world.role("adm")).await);
    let kept = "SELECT v, tableowner::text FROM kept, pg_tables WHERE tablename = 'kept'";
    let row = world.server.query(&world.database(), kept).await.remove(0);
    assert_eq!((row.get::<String, _>(0), row.get::<String, _>(1)), ("data".to_owned(), world.owner()));
    assert_eq!(run(&mut world.login("app").await, "INSERT INTO kept VALUES ('more')").await, Ok(()));
    assert_eq!(world.live(&desired).await.fields, desired);
}

#[tokio::test]
async fn a_role_that_holds_something_in_another_database_is_kept_and_the_place_is_named() {
    let desired = everything();
    let world = World::made("pgheld", &desired).await;
    world.server.psql("CREATE TABLE pgheld_elsewhere ()").await;
    world.server.psql(&format!("GRANT SELECT ON pgheld_elsewhere TO {}", world.role("ro"))).await;
    let step = world.update(&without(&desired, &access("ro")), &[&access("ro")]).await;
    let error = world.refused(&step).await;
    assert_eq!(error.reason(), Reason::Rejected);
    assert!(error.to_string().contains("the database postgres"), "{error}");
    let error = world.refused(&world.deletion().await).await;
    assert!(matches!(error, ManagerError::Terminal { .. }) && error.to_string().contains("the database postgres"));
    assert_eq!(world.live(&desired).await.fields, desired);
    world.server.psql("DROP TABLE pgheld_elsewhere").await;
    world.done(&step).await;
    assert!(!world.role_exists(&world.role("ro")).await);
}

#[tokio::test]
async fn a_changed_role_never_takes_another_database_along() {
    let desired = everything();
    let world = World::made("pgtwo", &desired).await;
    world.server.psql(&format!("CREATE DATABASE pgtwo_other OWNER {}", world.role("ro"))).await;
    let step = world.update(&with(&desired, &access("ro"), json!("readwrite")), &[]).await;
    let error = world.refused(&step).await;
    assert!(matches!(error, ManagerError::Terminal { reason: Reason::Rejected, .. }), "{error:?}");
    assert!(error.to_string().contains("pgtwo_other"), "{error}");
    let owner = "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = 'pgtwo_other'";
    assert_eq!(world.ask(owner).await, Some(world.role("ro")));
}

#[tokio::test]
async fn an_extension_that_is_needed_is_not_dropped() {
    let desired = with(&everything(), "/spec/extensions/citext", json!(true));
    let world = World::made("pgext", &desired).await;
    run(&mut world.login("adm").await, "CREATE TABLE t (v citext)").await.unwrap();
    let step = world.update(&without(&desired, "/spec/extensions/citext"), &["/spec/extensions/citext"]).await;
    let error = world.refused(&step).await;
    assert!(matches!(error, ManagerError::Terminal { reason: Reason::Rejected, .. }), "{error:?}");
    assert!(error.to_string().contains("column v of table public.t depends on type public.citext"), "{error}");
    assert_eq!(world.live(&desired).await.fields, desired);
    run(&mut world.login("adm").await, "DROP TABLE t").await.unwrap();
    world.done(&step).await;
    assert_eq!(world.live(&desired).await.fields.get("/spec/extensions/citext"), None);
}

#[tokio::test]
async fn extensions_come_in_the_order_they_need_each_other() {
    let desired = fields(&[
        ("/spec/extensions/cube", json!(true)),
        ("/spec/extensions/earthdistance", json!(true)),
        ("/spec/connectionLimit", json!(-1)),
    ]);
    let world = World::made("pgorder", &fields(&[])).await;
    // earthdistance is of those that only a superuser may make.
    let error = world.refused(&world.update(&desired, &[]).await).await;
    assert!(error.to_string().contains("\"earthdistance\"") && error.to_string().contains("superuser"), "{error}");
    assert_eq!(error.reason(), Reason::Rejected);
    // Nothing of a change that was refused is left.
    assert_eq!(world.live(&desired).await.fields, fields(&[("/spec/connectionLimit", json!(-1))]));
    let error =
        world.refused(&world.update(&fields(&[("/spec/extensions/no\"; DROP TABLE x", json!(true))]), &[]).await).await;
    assert!(matches!(error, ManagerError::Terminal { reason: Reason::Rejected, .. }), "{error:?}");
    assert!(error.to_string().contains("the server does not have it"), "{error}");
}

#[tokio::test]
async fn a_deletion_takes_the_database_and_all_its_roles() {
    let world = World::made("pgdelete", &everything()).await;
    let step = world.deletion().await;
    world.done(&step).await;
    assert!(!world.database_exists().await);
    for role in [world.owner(), world.role("adm"), world.role("app"), world.role("ro")] {
        assert!(!world.role_exists(&role).await, "{role}");
    }
    assert_eq!(world.observe().await, Observation::Absent { lost: false, left: None });
    world.done(&step).await;
}

#[tokio::test]
async fn r13_another_database_of_the_same_name_is_not_deleted() {
    let desired = everything();
    let world = World::made("pgoid", &desired).await;
    let step = world.deletion().await;
    let database = world.database();
    let comment = world.mark(&desired).to_text();
    world.server.psql(&format!("DROP DATABASE {database}")).await;
    world.server.psql(&format!("CREATE DATABASE {database} OWNER {}", world.owner())).await;
    world.server.psql(&format!("COMMENT ON DATABASE {database} IS '{comment}'")).await;
    let error = world.refused(&step).await;
    assert!(matches!(error, ManagerError::Conflict { reason: Reason::Conflict, .. }), "{error:?}");
    assert!(world.database_exists().await);
}

#[tokio::test]
async fn r1_what_is_unmarked_or_anothers_is_never_touched() {
    let world = World::new("pgforeign");
    let database = world.database();
    world.server.psql(&format!("CREATE DATABASE {database}")).await;
    let live = world.live_of(BTreeSet::new()).await;
    assert_eq!(live.ownership, Ownership::Unmarked);
    let of = |error: ManagerError| matches!(error, ManagerError::Conflict { .. });
    let marked = Expect::Marked(live.object.clone());
    let other_mark = Mark { platform: PlatformId("somebody".to_owned()), ..world.mark(&everything()) };
    for comment in ["a person wrote this".to_owned(), other_mark.to_text()] {
        world.server.psql(&format!("COMMENT ON DATABASE {database} IS '{comment}'")).await;
        assert!(of(world.refused(&world.creation(&everything())).await), "{comment}");
        assert!(
            of(world.refused(&world.step(Action::Update, marked.clone(), vec![], &everything())).await),
            "{comment}"
        );
        assert!(
            of(world.refused(&world.step(Action::Delete, marked.clone(), vec![], &Fields::new())).await),
            "{comment}"
        );
    }
    let adoption = world.step(Action::Adopt, Expect::Unmarked(live.object), vec![], &Fields::new());
    assert_eq!(world.refused(&adoption).await.reason(), Reason::OwnedByOther);
    assert_eq!(world.live_of(BTreeSet::new()).await.ownership, Ownership::Marked(other_mark));
    assert!(!world.role_exists(&world.owner()).await);
}

#[tokio::test]
async fn a_role_of_a_computed_name_without_our_mark_is_left_alone() {
    let world = World::new("pgtaken");
    world.server.psql(&format!("CREATE ROLE {} PASSWORD 'theirs'", world.role("app"))).await;
    let error = world.refused(&world.creation(&everything())).await;
    assert!(matches!(error, ManagerError::Terminal { reason: Reason::NotOwned, .. }), "{error:?}");
    // The creation goes on once the role is out of the way.
    let desired = without(&everything(), &access("app"));
    world.done(&world.creation(&desired)).await;
    let live = world.live(&everything()).await;
    assert_eq!(live.unknown_at(&access("app").as_str().into()).unwrap().reason, Reason::NotOwned);
    let other = Mark { platform: PlatformId("somebody".to_owned()), ..world.mark(&desired) };
    world.server.psql(&format!("COMMENT ON ROLE {} IS '{}'", world.role("app"), other.to_text())).await;
    let live = world.live(&everything()).await;
    assert_eq!(live.unknown_at(&access("app").as_str().into()).unwrap().reason, Reason::OwnedByOther);
    let change = Change { path: access("app").as_str().into(), from: None, to: None };
    let step = world.step(Action::Update, Expect::Marked(live.object), vec![change], &desired);
    assert!(matches!(world.refused(&step).await, ManagerError::Conflict { reason: Reason::OwnedByOther, .. }));
    world.done(&world.deletion().await).await;
    assert!(world.role_exists(&world.role("app")).await, "a role that was never ours outlives the database");
}

#[tokio::test]
async fn an_owner_role_that_is_not_ours_stops_the_creation() {
    let world = World::new("pgowner");
    world.server.psql(&format!("CREATE ROLE {}", world.owner())).await;
    let error = world.refused(&world.creation(&everything())).await;
    assert!(matches!(error, ManagerError::Terminal { reason: Reason::NotOwned, .. }), "{error:?}");
    assert!(!world.database_exists().await);
}

#[tokio::test]
async fn a_change_that_was_planned_on_another_value_is_a_conflict() {
    let desired = everything();
    let world = World::made("pgfrom", &desired).await;
    for (drift, path, value) in [
        (format!("ALTER DATABASE {} CONNECTION LIMIT 5", world.database()), "/spec/connectionLimit", json!(30)),
        (
            format!("GRANT CREATE ON DATABASE {} TO {}", world.database(), world.role("ro")),
            "/spec/roles/ro/access",
            json!("admin"),
        ),
    ] {
        let desired = with(&desired, path, value);
        let step = world.update(&desired, &[]).await;
        world.superuser(&drift).await;
        let error = world.refused(&step).await;
        assert!(matches!(error, ManagerError::Conflict { reason: Reason::Conflict, .. }), "{error:?}");
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[tokio::test]
async fn applying_twice_changes_nothing_the_second_time() {
    let desired = everything();
    let world = World::new("pgtwice");
    let creation = world.creation(&desired);
    world.done(&creation).await;
    let passwords = "SELECT string_agg(rolpassword, ',' ORDER BY rolname) FROM pg_authid WHERE rolname LIKE 'pgtwice%'";
    let before = world.ask(passwords).await;
    world.done(&creation).await;
    let desired = with(&desired, &access("app"), json!("read"));
    let update = world.update(&desired, &[]).await;
    world.done(&update).await;
    world.done(&update).await;
    assert_eq!(world.live(&desired).await.fields, desired);
    assert_eq!(world.ask(passwords).await, before);
}

#[tokio::test]
async fn one_step_applied_by_two_at_the_same_time_is_done_once() {
    let desired = everything();
    let world = World::new("pgrace");
    let other = connect(world.server.endpoint("pg-main")).unwrap();
    let creation = world.creation(&desired);
    let cx = world.cx();
    let (one, two) = tokio::join!(world.manager.apply(&creation, &cx), other.apply(&creation, &cx));
    assert_eq!((one.unwrap(), two.unwrap()), (Outcome::default(), Outcome::default()));
    assert_eq!(world.live(&desired).await.fields, desired);
}

#[tokio::test]
async fn r2_a_creation_that_was_cut_short_is_finished_by_the_same_step() {
    let desired = everything();
    let world = World::new("pgcut");
    let (database, owner) = (world.database(), world.owner());
    let unfinished = Mark { unfinished: true, ..world.mark(&desired) };
    let mut plumb = world.server.connect("postgres", "plumb", world.server.login().1).await.unwrap();
    let sql = format!(
        "CREATE ROLE {owner}; COMMENT ON ROLE {owner} IS '{}'; GRANT {owner} TO CURRENT_USER",
        unfinished.to_text()
    );
    run(&mut plumb, &sql).await.unwrap();
    assert_eq!(world.observe().await, Observation::Absent { lost: false, left: Some(world.owner_object().await) });
    let found = world.manager.discover(&BTreeSet::new(), &world.cx()).await.unwrap();
    assert!(found.iter().any(|found| found.mark == unfinished && found.object_name == database));

    run(&mut plumb, &format!("CREATE DATABASE {database} OWNER {owner}")).await.unwrap();
    let live = world.live(&desired).await;
    assert_eq!(live.ownership, Ownership::Marked(unfinished));
    assert_eq!(live.fields, fields(&[("/spec/connectionLimit", json!(-1))]));

    world.done(&world.creation(&desired)).await;
    let live = world.live(&desired).await;
    assert_eq!((&live.fields, live.ownership), (&desired, Ownership::Marked(world.mark(&desired))));
    world.server.psql("CREATE ROLE pgcut_stranger LOGIN PASSWORD 'x'").await;
    assert!(world.server.connect(&database, "pgcut_stranger", "x").await.is_err());
}

#[tokio::test]
async fn r2_a_creation_whose_secrets_cannot_be_stored_leaves_no_role_that_can_log_in() {
    let desired = everything();
    let mut world = World::new("pgvault");
    world.vault.broken = true;
    let error = world.refused(&world.creation(&desired)).await;
    assert!(matches!(error, ManagerError::Retry { reason: Reason::Internal, .. }), "{error:?}");
    assert!(!world.role_exists(&world.role("app")).await);
    let live = world.live(&desired).await;
    assert!(matches!(&live.ownership, Ownership::Marked(mark) if mark.unfinished));
    world.vault.broken = false;
    // The planner may also see it as an update of what is there.
    let changes = world.creation(&desired).changes;
    world.done(&world.step(Action::Update, Expect::Marked(live.object), changes, &desired)).await;
    assert_eq!(world.live(&desired).await.fields, desired);
    world.login("app").await;
}

#[tokio::test]
async fn a_deletion_that_was_cut_short_is_found_and_finished() {
    let desired = everything();
    let world = World::made("pghalf", &desired).await;
    let step = world.deletion().await;
    let unfinished = Mark { unfinished: true, ..world.mark(&desired) };
    world.server.psql(&format!("COMMENT ON ROLE {} IS '{}'", world.owner(), unfinished.to_text())).await;
    world.server.psql(&format!("DROP DATABASE {}", world.database())).await;
    assert_eq!(world.observe().await, Observation::Absent { lost: false, left: Some(world.owner_object().await) });
    let found = world.manager.discover(&BTreeSet::new(), &world.cx()).await.unwrap();
    let found = found.iter().find(|found| found.mark.key == world.key).unwrap();
    assert_eq!(found.object_name, world.database());
    let by_discovery = world.step(Action::Delete, Expect::Marked(found.object.clone()), vec![], &Fields::new());
    world.done(&by_discovery).await;
    assert!(!world.role_exists(&world.owner()).await && !world.role_exists(&world.role("app")).await);
    world.done(&step).await;
    assert!(
        !world
            .manager
            .discover(&BTreeSet::new(), &world.cx())
            .await
            .unwrap()
            .iter()
            .any(|found| found.mark.key == world.key)
    );
}

#[tokio::test]
async fn r8_a_database_that_somebody_dropped_is_lost_and_can_be_made_again() {
    let desired = everything();
    let world = World::made("pglost", &desired).await;
    world.server.psql(&format!("DROP DATABASE {}", world.database())).await;
    assert_eq!(world.observe().await, Observation::Absent { lost: true, left: Some(world.owner_object().await) });
    world.done(&world.creation(&desired)).await;
    assert_eq!(world.live(&desired).await.fields, desired);
    world.login("app").await;
}

#[tokio::test]
async fn a_database_in_use_is_not_dropped_and_its_sessions_are_counted() {
    let desired = everything();
    let world = World::made("pgbusy", &desired).await;
    let step = world.deletion().await;
    let _one = world.login("app").await;
    let _two = world.login("ro").await;
    let error = world.refused(&step).await;
    assert!(matches!(error, ManagerError::Retry { .. }), "{error:?}");
    assert!(error.to_string().contains("2 sessions"), "{error}");
    assert_eq!(world.live(&desired).await.fields, desired);
}

#[tokio::test]
async fn a_mark_on_a_database_of_another_name_tells_of_no_object() {
    let world = World::new("pgnames");
    let (stranger, mark) = (format!("{}_by_hand", world.database()), world.mark(&everything()));
    world.server.psql(&format!("CREATE DATABASE {stranger}")).await;
    world.server.psql(&format!("COMMENT ON DATABASE {stranger} IS '{}'", mark.to_text())).await;
    let found = world.manager.discover(&BTreeSet::new(), &world.cx()).await.unwrap();
    assert!(!found.iter().any(|found| found.mark.key == world.key), "{found:#?}");
}

#[tokio::test]
async fn a_database_that_somebody_renamed_is_known_by_its_owner() {
    let world = World::made("pgrenamed", &everything()).await;
    world.server.psql(&format!("ALTER DATABASE {} RENAME TO pgrenamed_elsewhere", world.database())).await;
    assert_eq!(world.observe().await, Observation::Absent { lost: true, left: Some(world.owner_object().await) });
    let found = world.manager.discover(&BTreeSet::new(), &world.cx()).await.unwrap();
    let names: Vec<&str> =
        found.iter().filter(|found| found.mark.key == world.key).map(|found| found.object_name.as_str()).collect();
    assert_eq!(names, [world.database()]);
}

#[tokio::test]
async fn an_admin_cannot_make_a_database_somebody_elses_by_its_comment() {
    let desired = everything();
    let world = World::made("pgforge", &desired).await;
    let forged =
        Mark { key: ResourceKey::new("victim", "production", Kind::Database, "orders"), ..world.mark(&desired) };
    let sql = format!("COMMENT ON DATABASE {} IS '{}'", world.database(), forged.to_text());
    run(&mut world.login("adm").await, &sql).await.unwrap();
    assert_eq!(world.live(&desired).await.ownership, Ownership::Marked(world.mark(&desired)));
    run(&mut world.login("adm").await, &format!("COMMENT ON DATABASE {} IS 'ours'", world.database())).await.unwrap();
    assert_eq!(world.live(&desired).await.ownership, Ownership::Marked(world.mark(&desired)));
    assert!(
        !world
            .manager
            .discover(&BTreeSet::new(), &world.cx())
            .await
            .unwrap()
            .iter()
            .any(|found| found.mark.key == forged.key)
    );
}

#[tokio::test]
async fn what_a_database_sets_for_its_sessions_does_not_steer_ours() {
    let desired = everything();
    let world = World::made("pgsteer", &desired).await;
    let mut adm = world.login("adm").await;
    run(
        &mut adm,
        "CREATE SCHEMA evil; \
         CREATE FUNCTION evil.pg_has_role(oid, text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE ''evil''; END'; \
         CREATE FUNCTION evil.aclexplode(aclitem[]) RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE ''evil''; END'",
    )
    .await
    .unwrap();
    let database = world.database();
    for setting in [
        "search_path TO evil, pg_catalog".to_owned(),
        "default_transaction_read_only TO on".to_owned(),
        "standard_conforming_strings TO off".to_owned(),
        "statement_timeout TO '1ms'".to_owned(),
        format!("role TO {}", world.owner()),
    ] {
        run(&mut adm, &format!("ALTER DATABASE {database} SET {setting}")).await.unwrap();
    }
    assert_eq!(world.live(&desired).await.fields, desired);
    let desired = with(&with(&desired, &access("b"), json!("read")), "/spec/extensions/citext", json!(true));
    world.done(&world.update(&desired, &[]).await).await;
    assert_eq!(world.live(&desired).await.fields, desired);
}

#[tokio::test]
async fn adoption_needs_the_former_owners_leave_and_then_takes_nothing_away() {
    let world = World::new("pgadopt");
    let database = world.database();
    world.server.psql("CREATE ROLE pgadopt_legacy LOGIN PASSWORD 'legacy'").await;
    world.server.psql(&format!("CREATE ROLE {} LOGIN PASSWORD 'theirs'", world.role("app"))).await;
    world.server.psql("CREATE ROLE pgadopt_stranger LOGIN PASSWORD 'x'").await;
    world.server.psql(&format!("CREATE DATABASE {database} OWNER pgadopt_legacy")).await;
    let mut legacy = world.server.connect(&database, "pgadopt_legacy", "legacy").await.unwrap();
    run(&mut legacy, "CREATE TABLE t (v text); INSERT INTO t VALUES ('data')").await.unwrap();

    let desired = without(&everything(), "/spec/extensions/pgcrypto");
    let live = world.live(&desired).await;
    assert_eq!(live.ownership, Ownership::Unmarked);
    assert_eq!(live.unknown_at(&access("app").as_str().into()).unwrap().reason, Reason::NotOwned);
    let changes = desired
        .iter()
        .filter(|(path, _)| live.unknown_at(path).is_none())
        .map(|(path, value)| Change {
            path: path.clone(),
            from: live.fields.get(path.as_str()).cloned(),
            to: Some(value.clone()),
        })
        .collect();
    let step = world.step(Action::Adopt, Expect::Unmarked(live.object.clone()), changes, &desired);

    let login_holds_legacy = "SELECT pg_has_role('plumb', 'pgadopt_legacy', 'MEMBER')::text";
    assert_eq!(world.ask(login_holds_legacy).await.unwrap(), "false");
    let error = world.refused(&step).await;
    assert!(matches!(error, ManagerError::Terminal { reason: Reason::PermissionDenied, .. }), "{error:?}");
    assert!(error.to_string().contains("GRANT \"pgadopt_legacy\" TO \"plumb\""), "{error}");
    assert_eq!(world.live(&desired).await, live, "what was refused left no trace");
    assert!(!world.role_exists(&world.owner()).await);

    world.server.psql("GRANT pgadopt_legacy TO plumb").await;
    world.server.psql(&format!("GRANT {} TO plumb WITH ADMIN OPTION", world.role("app"))).await;
    let notes = world.done(&step).await;
    assert!(
        notes.iter().any(|note| note.contains(&world.role("app")) && note.contains("keeps its password")),
        "{notes:?}"
    );
    let adopted = world.live(&desired).await;
    assert_eq!((&adopted.fields, adopted.object), (&desired, live.object));
    assert_eq!(adopted.ownership, Ownership::Marked(world.mark(&desired)));
    assert_eq!(world.vault.stored(&world.key, "app", ""), None, "no password is made for a role that has one");

    // Everybody can still connect, the former owner can still do what it did, and its data is there for our roles.
    world.server.connect(&database, "pgadopt_stranger", "x").await.unwrap();
    run(&mut legacy, "CREATE TABLE later (v text); ALTER TABLE t ADD COLUMN w text").await.unwrap();
    let mut app = world.server.connect(&database, &world.role("app"), "theirs").await.unwrap();
    assert_eq!(run(&mut app, "INSERT INTO t VALUES ('more')").await, Ok(()));
    assert_eq!(run(&mut world.login("ro").await, "SELECT * FROM t").await, Ok(()));
    world.done(&step).await;
}

#[tokio::test]
async fn the_servers_own_databases_are_not_adopted() {
    let world = World::new("pgsystem");
    for name in ["postgres", "template1"] {
        let target = Target { key: world.key.clone(), object_name: name.to_owned(), fields: BTreeSet::new() };
        let live = present(world.manager.observe(&[target], Depth::Shallow, &world.cx()).await.unwrap().remove(0));
        let mut step = world.step(Action::Adopt, Expect::Unmarked(live.object), vec![], &Fields::new());
        step.object_name = name.to_owned();
        assert_eq!(world.refused(&step).await.reason(), Reason::Rejected, "{name}");
    }
}

#[tokio::test]
async fn hostile_names_and_values_stay_names_and_values() {
    let mut world = World::new("pghostile");
    world.named = Some("o\"; DROP ROLE plumb; -- \\'ß".to_owned());
    let desired = fields(&[
        ("/spec/roles/a\"; DROP ROLE plumb; --/access", json!("readwrite")),
        ("/spec/roles/b'\\'; SELECT pg_sleep(99)/access", json!("admin")),
        ("/spec/roles/größe 💾/access", json!("read")),
        ("/spec/settings/work_mem", json!("8MB")),
        ("/spec/connectionLimit", json!(-1)),
    ]);
    world.done(&world.creation(&desired)).await;
    assert_eq!(world.live(&desired).await.fields, desired);
    let mut admin = world.login("b'\\'; SELECT pg_sleep(99)").await;
    run(&mut admin, "CREATE TABLE t (v text)").await.unwrap();
    run(&mut world.login("a\"; DROP ROLE plumb; --").await, "INSERT INTO t VALUES ('x')").await.unwrap();
    drop(admin);
    assert!(world.role_exists("plumb").await);

    for (path, value, reason) in [
        ("/spec/settings/work_mem\" TO '1MB'; DROP ROLE plumb; --", "x", Reason::Rejected),
        ("/spec/settings/role", "postgres", Reason::Rejected),
        ("/spec/settings/Session_Authorization", "postgres", Reason::Rejected),
        ("/spec/settings/work_mem", "'; DROP ROLE plumb; --", Reason::Rejected),
        ("/spec/settings/work_mem", "\0", Reason::Rejected),
        ("/spec/settings/search_path", "a, \"b", Reason::Rejected),
        ("/spec/settings/log_statement", "all", Reason::Rejected),
        ("/spec/settings/shared_buffers", "1GB", Reason::Rejected),
        ("/spec/settings/no_such_setting", "1", Reason::Rejected),
        ("/spec/extensions/x\"; DROP ROLE plumb; --", "", Reason::Rejected),
        ("/spec/roles/owner/access", "admin", Reason::Rejected),
        ("/spec/roles/x/access", "superuser", Reason::Rejected),
        ("/spec/connectionLimit", "99999999999", Reason::Rejected),
        ("/spec/journalMode", "wal", Reason::UnsupportedByProvider),
    ] {
        let value = if value.is_empty() { json!(true) } else { json!(value) };
        let step = world.update(&with(&desired, path, value), &[]).await;
        let error = world.refused(&step).await;
        assert!(
            matches!(&error, ManagerError::Terminal { reason: found, .. } if *found == reason),
            "{path}: {error:?}"
        );
    }
    assert_eq!(world.live(&desired).await.fields, desired);
    assert!(world.role_exists("plumb").await);
    world.done(&world.deletion().await).await;
    assert!(!world.role_exists(&world.role("größe 💾")).await);
}

#[tokio::test]
async fn a_full_database_is_changed_all_the_same_when_its_limit_is_raised() {
    let desired = fields(&[("/spec/connectionLimit", json!(1)), ("/spec/roles/app/access", json!("readwrite"))]);
    let world = World::made("pgfull", &desired).await;
    let _app = world.login("app").await;
    let live = world.live(&desired).await;
    assert_eq!(live.fields, fields(&[("/spec/connectionLimit", json!(1))]));
    assert_eq!(live.unknown_at(&access("app").as_str().into()).unwrap().reason, Reason::ProviderUnreachable);
    let wanted = with(&with(&desired, "/spec/connectionLimit", json!(5)), &access("ro"), json!("read"));
    let changes = vec![
        Change { path: "/spec/connectionLimit".into(), from: Some(json!(1)), to: Some(json!(5)) },
        Change { path: access("ro").as_str().into(), from: None, to: Some(json!("read")) },
    ];
    world.done(&world.step(Action::Update, Expect::Marked(live.object), changes, &wanted)).await;
    assert_eq!(world.live(&wanted).await.fields, wanted);
}

#[tokio::test]
async fn r12_rotation_sets_new_passwords_and_is_the_same_on_retry() {
    let desired = everything();
    let world = World::made("pgrotate", &desired).await;
    let old = world.vault.stored(&world.key, "app", "").unwrap();
    let mut step = world.update(&desired, &[]).await;
    assert_eq!(step.changes, []);
    step.rotate = Some("2031-01".to_owned());
    world.done(&step).await;
    let new = world.vault.stored(&world.key, "app", "2031-01").unwrap();
    let refused = world.server.connect(&world.database(), &world.role("app"), &old).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "28P01");
    world.server.connect(&world.database(), &world.role("app"), &new).await.unwrap();
    world.done(&step).await;
    world.server.connect(&world.database(), &world.role("app"), &new).await.unwrap();
    let stored = world.ask(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{}'", world.role("app"))).await;
    assert!(stored.unwrap().starts_with("SCRAM-SHA-256$"));
}

#[tokio::test]
async fn a_login_that_may_only_read_sees_the_shared_catalogs_and_says_what_it_may_not_see() {
    let desired = everything();
    let world = World::made("pgreader", &desired).await;
    world.server.psql("CREATE ROLE pgreader_login LOGIN PASSWORD 'reader'").await;
    let endpoint = Endpoint {
        url: world.server.url().replace("plumb@", "pgreader_login@"),
        password: Some(SecretString::from("reader")),
        ..world.server.endpoint("pg-read")
    };
    let reader = connect(endpoint).unwrap();
    let paths = desired.iter().map(|(path, _)| path.clone()).collect();
    let target = Target { key: world.key.clone(), object_name: world.database(), fields: paths };
    let live = present(reader.observe(&[target], Depth::Deep, &world.cx()).await.unwrap().remove(0));
    assert_eq!(live.fields.get("/spec/connectionLimit"), Some(&json!(20)));
    assert_eq!(live.ownership, Ownership::Marked(world.mark(&desired)));
    let unknown = live.unknown_at(&access("ro").as_str().into()).unwrap();
    assert_eq!(unknown.reason, Reason::PermissionDenied, "{unknown:?}");
    assert_eq!(reader.identity().await.unwrap(), world.manager.identity().await.unwrap());
}

#[tokio::test]
async fn a_wrong_password_is_said_without_repeating_it() {
    let server = PostgresServer::shared();
    let endpoint =
        Endpoint { password: Some(SecretString::from("planted-wrong-password")), ..server.endpoint("pg-main") };
    let shown = format!("{endpoint:?}");
    let manager = connect(endpoint).unwrap();
    let error = manager.identity().await.unwrap_err();
    assert!(matches!(error, ManagerError::Terminal { reason: Reason::AuthenticationFailed, .. }), "{error:?}");
    assert!(error.to_string().contains("pg-main"), "{error}");
    for text in [format!("{error:?}"), format!("{manager:?}"), shown] {
        assert!(!text.contains("planted"), "{text}");
    }
}

#[tokio::test]
async fn the_identity_is_the_servers_own() {
    let world = World::new("pgidentity");
    let control = world.ask("SELECT system_identifier::text FROM pg_control_system()").await.unwrap();
    assert_eq!(world.manager.identity().await.unwrap().unwrap().0, control);
    let socket = Endpoint {
        url: format!(
            "postgres:///postgres?host={}&port={}&user=plumb",
            world.server.socket_folder().display(),
            world.server.port()
        ),
        ..world.server.endpoint("pg-socket")
    };
    assert_eq!(connect(socket).unwrap().identity().await.unwrap().unwrap().0, control);
}

#[tokio::test]
async fn a_server_that_is_down_or_slow_is_tried_again_and_nothing_hangs() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    /// A question, the look whether a kept connection still answers, and a loaded machine.
    const BOUND: Duration = Duration::from_secs(20);
    let server = PostgresServer::start();
    let platform = PlatformId("tests".to_owned());
    let vault = Vault::default();
    let cx = Cx { platform: &platform, secrets: &vault };
    let manager = connect(Endpoint { timeout: TIMEOUT, ..server.endpoint("pg-down") }).unwrap();
    let identity = manager.identity().await.unwrap();
    let key = ResourceKey::new("pgdown", "staging", Kind::Database, "orders");
    let target = Target { key: key.clone(), object_name: key.object_name(63), fields: BTreeSet::new() };

    server.stop();
    let error = manager.observe(std::slice::from_ref(&target), Depth::Deep, &cx).await.unwrap_err();
    assert!(matches!(error, ManagerError::Retry { reason: Reason::ProviderUnreachable, .. }), "{error:?}");
    server.restart();
    assert_eq!(manager.identity().await.unwrap(), identity, "the same server, over a new connection");

    server.pause();
    let started = Instant::now();
    let error = manager.observe(&[target], Depth::Deep, &cx).await.unwrap_err();
    assert!(matches!(error, ManagerError::Retry { reason: Reason::TimedOut, .. }), "{error:?}");
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    server.resume();
    assert_eq!(manager.identity().await.unwrap(), identity);
}

#[tokio::test]
async fn another_at_work_on_the_same_key_is_waited_for_and_then_said() {
    let world = World::made("pglock", &everything()).await;
    let step = world.update(&everything(), &[]).await;
    let slow = connect(world.server.endpoint("pg-main")).unwrap();
    // A table that changes its owner and that somebody keeps locked makes the first apply wait, with the key locked.
    let mut holder = world.login("adm").await;
    run(&mut holder, "SET ROLE NONE; CREATE TABLE t (v text)").await.unwrap();
    run(&mut holder, "BEGIN; LOCK TABLE t").await.unwrap();
    let waiting = world.update(&with(&everything(), &access("adm"), json!("read")), &[]).await;
    let hasty = connect(Endpoint { timeout: Duration::from_secs(1), ..world.server.endpoint("pg-main") }).unwrap();
    let cx = world.cx();
    let (first, second) = tokio::join!(slow.apply(&waiting, &cx), async {
        let held = "SELECT 'held' FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                    WHERE l.locktype = 'relation' AND NOT l.granted AND a.usename = 'plumb'";
        let deadline = Instant::now() + Duration::from_secs(20);
        while world.ask(held).await.is_none() {
            assert!(Instant::now() < deadline, "the first apply never waited");
        }
        let second = hasty.apply(&step, &cx).await;
        run(&mut holder, "COMMIT").await.unwrap();
        second
    });
    let error = second.unwrap_err();
    assert!(matches!(error, ManagerError::Retry { reason: Reason::Locked, .. }), "{error:?}");
    assert!(error.to_string().contains("another plumb is at work"), "{error}");
    assert_eq!(first.unwrap(), Outcome::default());
    assert_eq!(world.access("adm").await, Some(json!("read")));
}

#[tokio::test]
async fn no_password_is_in_anything_that_can_be_read() {
    let world = World::made("pgsecret", &everything()).await;
    let password = SecretString::from(world.vault.stored(&world.key, "app", "").unwrap());
    let step = world.update(&with(&everything(), "/spec/settings/log_statement", json!("all")), &[]).await;
    let error = world.refused(&step).await;
    let live = world.live(&everything()).await;
    let activity = "SELECT coalesce(string_agg(query, ';'), '') FROM pg_stat_activity";
    for text in [format!("{error:?}"), format!("{live:?}"), world.ask(activity).await.unwrap()] {
        assert!(!text.contains(password.expose_secret()), "{text}");
    }
    assert_eq!(world.manager.kinds(), [Kind::Database]);
    assert_eq!(ProviderType::Postgres.name_limit(), 63);
    assert_ne!(live.object, ObjectId(String::new()));
}

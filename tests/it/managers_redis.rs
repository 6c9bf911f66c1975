//! The Redis manager against a real server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use plumb::managers::redis::{Redis, connect};
use plumb::managers::{Cx, Endpoint, ManagerError, Outcome, ResourceManager, Secrets};
use plumb::model::{
    Action, Change, Depth, Expect, Kind, Live, Mark, ObjectId, Observation, Ownership, PlatformId, ProviderType,
    Reason, ResourceKey, Step, Target,
};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::harness::redis::{RedisOptions, RedisServer};

const ROOT_PASSWORD: &str = "root-secret-7f31";

/// Gives each role and rotation one password, and remembers which were asked for.
#[derive(Default)]
struct Vault(Mutex<Vec<(String, String)>>);

fn password_of(key: &ResourceKey, rotation: &str) -> String {
    format!("planted-{}-{rotation}", key.name)
}

#[async_trait]
impl Secrets for Vault {
    async fn password(
        &self,
        key: &ResourceKey,
        role: &str,
        rotation: Option<&str>,
    ) -> Result<SecretString, ManagerError> {
        assert_eq!(role, "user");
        let rotation = rotation.unwrap_or_default();
        self.0.lock().unwrap().push((key.name.clone(), rotation.to_owned()));
        Ok(password_of(key, rotation).into())
    }
}

struct Bench {
    server: RedisServer,
    manager: Redis,
    platform: PlatformId,
    vault: Vault,
}

impl Bench {
    fn new() -> Self {
        Self::with(true, Duration::from_secs(5))
    }

    fn with(aclfile: bool, timeout: Duration) -> Self {
        let server = RedisServer::start(RedisOptions { aclfile, password: Some(ROOT_PASSWORD.into()) });
        let manager = manager(&server.url("default"), ROOT_PASSWORD, timeout);
        Self { server, manager, platform: PlatformId("acme".into()), vault: Vault::default() }
    }

    fn cx(&self) -> Cx<'_> {
        Cx { platform: &self.platform, secrets: &self.vault }
    }

    /// What is seen when git speaks of the fields of `spec`.
    async fn see(&self, name: &str, spec: &Value) -> Observation {
        let mut seen = self.manager.observe(&[target(name, spec)], Depth::Deep, &self.cx()).await.unwrap();
        assert_eq!(seen.len(), 1);
        seen.remove(0)
    }

    async fn live(&self, name: &str, spec: &Value) -> Live {
        match self.see(name, spec).await {
            Observation::Present(live) => *live,
            other => panic!("{name} is not there: {other:?}"),
        }
    }

    async fn apply(&self, step: &Step) -> Result<Outcome, ManagerError> {
        self.manager.apply(step, &self.cx()).await
    }

    async fn create(&self, name: &str, spec: &Value) -> Live {
        let outcome = self.apply(&step(name, Action::Create, Expect::Absent, spec, None)).await.unwrap();
        assert_eq!(outcome, Outcome::default());
        self.live(name, spec).await
    }

    fn root(&self, arguments: &[&str]) -> String {
        self.server.cli(arguments)
    }

    fn app(&self, name: &str, arguments: &[&str]) -> String {
        self.server.cli_as(&user(name), &password_of(&key(name), ""), arguments)
    }

    fn passwords_asked_for(&self) -> usize {
        self.vault.0.lock().unwrap().len()
    }
}

fn manager(url: &str, password: &str, timeout: Duration) -> Redis {
    connect(endpoint(url, password, timeout)).unwrap()
}

fn endpoint(url: &str, password: &str, timeout: Duration) -> Endpoint {
    Endpoint {
        name: "cache".into(),
        provider_type: ProviderType::Redis,
        url: url.into(),
        password: Some(password.to_owned().into()),
        base_dir: "/".into(),
        max_concurrency: 8,
        timeout,
    }
}

fn key(name: &str) -> ResourceKey {
    ResourceKey::new("t", "e", Kind::Cache, name)
}

fn user(name: &str) -> String {
    format!("t_e_{name}")
}

fn target(name: &str, spec: &Value) -> Target {
    let fields = Kind::Cache.info().flatten(spec).iter().map(|(path, _)| path.clone()).collect();
    Target { key: key(name), object_name: user(name), fields }
}

/// A step that makes `spec` true of what is `live`, as a planner would write it.
fn step(name: &str, action: Action, expect: Expect, spec: &Value, live: Option<&Live>) -> Step {
    let desired = Kind::Cache.info().flatten(spec);
    let live_value = |path: &str| live.and_then(|live| live.fields.get(path));
    let changes = desired
        .iter()
        .filter(|(path, value)| live_value(path.as_str()) != Some(value))
        .map(|(path, value)| Change {
            path: path.clone(),
            from: live_value(path.as_str()).cloned(),
            to: Some(value.clone()),
        })
        .collect();
    Step {
        key: key(name),
        action,
        provider: "cache".into(),
        object_name: user(name),
        expect,
        changes,
        mark: Mark { platform: PlatformId("acme".into()), key: key(name), hashes: desired.hashes(), unfinished: false },
        desired,
        depends_on: vec![],
        destructive: vec![],
        rotate: None,
    }
}

fn on(name: &str, action: Action, spec: &Value, live: &Live) -> Step {
    let expect = match live.ownership {
        Ownership::Marked(_) => Expect::Marked(live.object.clone()),
        Ownership::Unmarked => Expect::Unmarked(live.object.clone()),
    };
    step(name, action, expect, spec, Some(live))
}

fn remove(step: &mut Step, path: &str, live: &Live) {
    step.changes.push(Change { path: path.into(), from: live.fields.get(path).cloned(), to: None });
}

fn assert_conflict(result: Result<Outcome, ManagerError>) {
    assert!(matches!(result, Err(ManagerError::Conflict { .. })), "{result:?}");
}

fn unknown(observation: Observation) -> (Reason, String) {
    match observation {
        Observation::Unknown(unknown) => (unknown.reason, unknown.message),
        other => panic!("seen: {other:?}"),
    }
}

fn prefix(live: &Live) -> &str {
    live.fields.get("/spec/keyPrefix").and_then(Value::as_str).unwrap()
}

fn assert_denied(answer: &str) {
    assert!(answer.starts_with("NOPERM"), "{answer}");
}

#[tokio::test]
async fn an_application_logs_in_and_keeps_to_its_prefix() {
    let bench = Bench::new();
    assert_eq!(bench.see("shop", &json!({})).await, Observation::Absent { lost: false, left: None });
    let live = bench.create("shop", &json!({})).await;
    assert_eq!(prefix(&live), "t_e_shop:");
    assert_eq!(
        live.outputs,
        BTreeMap::from(
            [
                ("host", "127.0.0.1"),
                ("port", &bench.server.port.to_string()),
                ("user", "t_e_shop"),
                ("keyPrefix", "t_e_shop:")
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
        )
    );
    assert_eq!(bench.manager.outputs(&target("shop", &json!({}))), live.outputs);

    let app = |arguments: &[&str]| bench.app("shop", arguments);
    assert_eq!(app(&["SET", "t_e_shop:a", "1"]), "OK");
    assert_eq!(app(&["GET", "t_e_shop:a"]), "1");
    assert_eq!(app(&["LPUSH", "t_e_shop:l", "1"]), "1");
    assert_eq!(app(&["PING"]), "PONG");
    assert_eq!(app(&["CLIENT", "SETNAME", "x"]), "OK");
    assert_eq!(app(&["SELECT", "0"]), "OK");
    assert!(app(&["HELLO", "3"]).contains("server"));
    assert!(app(&["CLIENT", "ID"]).parse::<u64>().is_ok());

    bench.root(&["SET", "t_e_other:a", "theirs"]);
    for forbidden in [
        &["GET", "t_e_other:a"][..],
        &["SET", "t_e_other:a", "mine"],
        &["COPY", "t_e_other:a", "t_e_shop:b"],
        &["RENAME", "t_e_shop:a", "t_e_other:a"],
        &["GET", "t_e_shop"],
        &["PUBLISH", "t_e_shop:c", "x"],
        &["FLUSHALL"],
        &["FLUSHDB"],
        &["SWAPDB", "0", "1"],
        &["CONFIG", "GET", "*"],
        &["ACL", "LIST"],
        &["ACL", "SETUSER", "t_e_shop", "~*"],
        &["KEYS", "*"],
        &["SCAN", "0"],
        &["RANDOMKEY"],
        &["INFO"],
        &["SHUTDOWN"],
        &["EVAL", "return 1", "0"],
        &["FUNCTION", "FLUSH"],
        &["FUNCTION", "LOAD", "#!lua name=x"],
        &["SCRIPT", "FLUSH"],
        &["CLIENT", "LIST"],
        &["MONITOR"],
        &["SORT", "t_e_shop:l"],
        &["RESTORE", "t_e_shop:r", "0", "x"],
        &["MIGRATE", "127.0.0.1", "1", "t_e_shop:a", "0", "1"],
        &["DEL", "plumb:lock:t_e_shop"],
    ] {
        assert_denied(&app(forbidden));
    }
    let wrong = bench.server.cli_as("t_e_shop", "guess", &["PING"]);
    assert!(wrong.contains("WRONGPASS"), "{wrong}");
}

#[tokio::test]
async fn an_ordinary_client_library_connects() {
    let bench = Bench::new();
    bench.create("shop", &json!({})).await;
    let url =
        format!("redis://t_e_shop:{}@127.0.0.1:{}/0?protocol=resp3", password_of(&key("shop"), ""), bench.server.port);
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let (set, got): (String, i64) = redis::pipe()
        .cmd("SET")
        .arg("t_e_shop:x")
        .arg(5)
        .cmd("GET")
        .arg("t_e_shop:x")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!((set.as_str(), got), ("OK", 5));
}

#[tokio::test]
async fn categories_are_given_and_taken_away() {
    let bench = Bench::new();
    let wide = json!({"keyPrefix": "shop:", "categories": ["read", "write", "pubsub", "scripting", "connection"]});
    let live = bench.create("shop", &wide).await;
    assert_eq!(live.fields, Kind::Cache.info().flatten(&wide));
    let app = |arguments: &[&str]| bench.app("shop", arguments);
    assert_eq!(app(&["EVAL", "return redis.call('SET', KEYS[1], 1)", "1", "shop:a"]), "OK");
    assert!(app(&["EVAL", "return redis.call('GET', 'other')", "0"]).contains("can't access"));
    assert_eq!(app(&["PUBLISH", "shop:c", "x"]), "0");
    assert_denied(&app(&["PUBLISH", "other:c", "x"]));
    for forbidden in [
        &["SCRIPT", "FLUSH"][..],
        &["FUNCTION", "DELETE", "x"],
        &["PUBSUB", "CHANNELS"],
        &["CLIENT", "TRACKING", "ON", "BCAST"],
        &["CLIENT", "KILL", "ID", "1"],
        &["CLIENT", "PAUSE", "1"],
    ] {
        assert_denied(&app(forbidden));
    }

    let narrow = json!({"keyPrefix": "shop:", "categories": ["read"]});
    let mut update = on("shop", Action::Update, &narrow, &live);
    for category in ["write", "pubsub", "scripting", "connection"] {
        remove(&mut update, &format!("/spec/categories/{category}"), &live);
    }
    assert_eq!(bench.apply(&update).await.unwrap(), Outcome::default());
    let live = bench.live("shop", &narrow).await;
    assert_eq!(live.fields, Kind::Cache.info().flatten(&narrow));
    assert_eq!(app(&["GET", "shop:a"]), "1");
    assert_denied(&app(&["SET", "shop:a", "2"]));

    // Git names none any more: the defaults, once.
    let bare = json!({"keyPrefix": "shop:"});
    let mut update = on("shop", Action::Update, &bare, &live);
    remove(&mut update, "/spec/categories/read", &live);
    let _ = bench.apply(&update).await.unwrap();
    assert_eq!(prefix(&bench.live("shop", &bare).await), "shop:");
    assert_eq!(app(&["SET", "shop:a", "2"]), "OK");

    // And when it names one again, the defaults go.
    let live = bench.live("shop", &bare).await;
    let named = json!({"keyPrefix": "shop:", "categories": ["hash"]});
    let _ = bench.apply(&on("shop", Action::Update, &named, &live)).await.unwrap();
    assert_eq!(bench.live("shop", &named).await.fields, Kind::Cache.info().flatten(&named));
    assert_denied(&app(&["SET", "shop:a", "3"]));
    assert_eq!(app(&["HSET", "shop:h", "a", "1"]), "1");
    assert_eq!(bench.passwords_asked_for(), 1, "an update leaves the password alone");
}

#[tokio::test]
async fn a_prefix_with_metacharacters_opens_nothing_else() {
    let bench = Bench::new();
    for (name, prefix_text, own, other) in [
        ("star", "a*", "a*x", "abx"),
        ("class", "[ab]:", "[ab]:x", "a:x"),
        ("any", "c?:", "c?:x", "cd:x"),
        ("back", "d\\", "d\\x", "dx"),
        ("tag", "{e}:", "{e}:x", "e:x"),
    ] {
        let live = bench.create(name, &json!({"keyPrefix": prefix_text})).await;
        assert_eq!(prefix(&live), prefix_text);
        assert_eq!(bench.app(name, &["SET", own, "1"]), "OK", "{prefix_text}");
        assert_denied(&bench.app(name, &["SET", other, "1"]));
    }
    for hostile in ["", "two words", "*\n", "ü", "tab\t", "p", "plumb:", "plumb:lock:t"] {
        let create = step("bad", Action::Create, Expect::Absent, &json!({"keyPrefix": hostile}), None);
        assert_eq!(bench.apply(&create).await.unwrap_err().reason(), Reason::UnsupportedByProvider, "{hostile:?}");
    }
    assert_eq!(bench.see("bad", &json!({})).await, Observation::Absent { lost: false, left: None });
}

#[tokio::test]
async fn hostile_names_and_the_servers_own_users_are_refused() {
    let bench = Bench::new();
    let before = bench.root(&["ACL", "GETUSER", "default"]);
    for name in ["default", "plumb_root_x", "two words", "", "x ~* +@all", "nul\0", "line\nuser evil on nopass"] {
        for (action, expect) in [
            (Action::Create, Expect::Absent),
            (Action::Adopt, Expect::Unmarked(ObjectId(format!("user:{name}")))),
            (Action::Delete, Expect::Marked(ObjectId("x".into()))),
        ] {
            let mut hostile = step("x", action, expect, &json!({}), None);
            hostile.object_name = name.into();
            assert_eq!(bench.apply(&hostile).await.unwrap_err().reason(), Reason::Rejected, "{name:?}");
        }
    }
    assert_eq!(bench.root(&["ACL", "GETUSER", "default"]), before);
    assert_eq!(bench.root(&["ACL", "USERS"]), "default");
    for name in ["a'b\"c", "#x", "-x", "~x", "(x"] {
        let mut odd = step("x", Action::Create, Expect::Absent, &json!({"keyPrefix": "x:"}), None);
        odd.object_name = name.into();
        let _ = bench.apply(&odd).await.unwrap();
        let aim = Target { object_name: name.into(), ..target("x", &json!({"keyPrefix": "x:"})) };
        let seen = bench.manager.observe(&[aim], Depth::Shallow, &bench.cx()).await.unwrap();
        assert!(matches!(&seen[..], [Observation::Present(live)] if prefix(live) == "x:"), "{name}: {seen:?}");
    }
}

#[tokio::test]
async fn rights_added_by_hand_are_drift_and_are_put_back() {
    let bench = Bench::new();
    let spec = json!({"keyPrefix": "shop:", "categories": ["read"]});
    bench.create("shop", &spec).await;
    for (rule, seen) in [
        ("~*", "shop: with ~* without ~shop:*"),
        ("~other:*", "shop: with ~other:*"),
        ("+config|get", "shop: with +config|get"),
        ("+@all", "shop: with +@all"),
        ("+@dangerous", "+@dangerous"),
        ("+@hash", "shop: with +@hash"),
        ("+@read", "shop: with +@read"),
        ("allchannels", "&*"),
        ("nopass", "shop: with nopass"),
        ("off", "shop: with off"),
        ("resetpass", "shop: with no password"),
        ("(~* +get)", "shop: with selectors"),
        ("%R~other:*", "shop: with %R~other:*"),
        ("skip-sanitize-payload", "skip-sanitize-payload"),
    ] {
        assert_eq!(bench.root(&["ACL", "SETUSER", "t_e_shop", rule]), "OK", "{rule}");
        let live = bench.live("shop", &spec).await;
        assert!(prefix(&live).contains(seen), "{rule}: {}", prefix(&live));
        let outcome = bench.apply(&on("shop", Action::Update, &spec, &live)).await.unwrap();
        assert_eq!(outcome.notes.len(), 1, "{rule}");
        assert_eq!(bench.live("shop", &spec).await.fields, Kind::Cache.info().flatten(&spec), "{rule}");
        assert_eq!(bench.app("shop", &["GET", "shop:a"]), "", "{rule}: the password is the stored one");
    }
}

#[tokio::test]
async fn rights_added_by_hand_never_read_as_in_plumb_where_git_sets_no_prefix() {
    let bench = Bench::new();
    let spec = json!({"categories": ["read"]});
    for spec in [json!({}), spec] {
        let name = if spec == json!({}) { "bare" } else { "named" };
        bench.create(name, &spec).await;
        for rule in ["~*", "+@all", "+@scripting", "+acl|list", "nopass"] {
            bench.root(&["ACL", "SETUSER", &user(name), rule]);
            let (reason, message) = unknown(bench.see(name, &spec).await);
            assert_eq!(reason, Reason::NotExpressible);
            assert!(message.contains("set keyPrefix"), "{message}");
            // The way out that the message names.
            let with_prefix = json!({"keyPrefix": format!("t_e_{name}:"), "categories": spec.get("categories")});
            let live = bench.live(name, &with_prefix).await;
            let _ = bench.apply(&on(name, Action::Update, &with_prefix, &live)).await.unwrap();
            bench.live(name, &with_prefix).await;
        }
        bench.root(&["ACL", "SETUSER", &user(name), "resetkeys", "~elsewhere:*"]);
        assert_eq!(unknown(bench.see(name, &spec).await).0, Reason::NotExpressible);
        bench.root(&["ACL", "SETUSER", &user(name), "resetchannels", "&elsewhere:*"]);
        assert_eq!(bench.live(name, &spec).await.ownership, Ownership::Unmarked, "its mark went with its patterns");
    }
}

#[tokio::test]
async fn what_is_held_stays_when_something_else_changes() {
    let bench = Bench::new();
    let spec = json!({"keyPrefix": "shop:", "categories": ["read"]});
    bench.create("shop", &spec).await;
    let by_hand = [["~held:*", "+config|get"], ["~*", "-get"], ["off", "allchannels"]];
    for rules in by_hand {
        bench.root(&[&["ACL", "SETUSER", "t_e_shop"][..], &rules].concat());
        leave_held_and_widen(&bench, &spec).await;
        let live = bench.live("shop", &spec).await;
        let _ = bench.apply(&on("shop", Action::Update, &spec, &live)).await.unwrap();
        assert_eq!(prefix(&bench.live("shop", &spec).await), "shop:");
    }
}

async fn leave_held_and_widen(bench: &Bench, spec: &Value) {
    let live = bench.live("shop", spec).await;
    let wider = json!({"keyPrefix": "shop:", "categories": ["read", "write"]});
    let mut update = on("shop", Action::Update, &wider, &live);
    update.changes.retain(|change| change.path.as_str() != "/spec/keyPrefix");
    assert_eq!(bench.apply(&update).await.unwrap(), Outcome::default());
    let after = bench.live("shop", &wider).await;
    assert_eq!(prefix(&after), prefix(&live));
    assert_eq!(after.object, live.object);
    assert_eq!(after.fields.get("/spec/categories/write"), Some(&json!(true)));
    // Back to where it was, still around what is held.
    let mut back = on("shop", Action::Update, spec, &after);
    back.changes.retain(|change| change.path.as_str() != "/spec/keyPrefix");
    remove(&mut back, "/spec/categories/write", &after);
    let _ = bench.apply(&back).await.unwrap();
    assert_eq!(bench.live("shop", spec).await.fields, live.fields);
}

#[tokio::test]
async fn r1_an_unmarked_user_is_shown_and_not_touched_until_it_is_adopted() {
    let bench = Bench::new();
    bench.root(&["ACL", "SETUSER", "t_e_shop", "on", ">theirs", "~old:*", "&*", "+@all"]);
    let before = bench.root(&["ACL", "GETUSER", "t_e_shop"]);
    let bare = json!({});
    let live = bench.live("shop", &bare).await;
    assert_eq!(live.ownership, Ownership::Unmarked);
    assert!(prefix(&live).starts_with("old: with "));
    assert_conflict(bench.apply(&step("shop", Action::Create, Expect::Absent, &bare, None)).await);
    for action in [Action::Update, Action::Replace, Action::Delete] {
        let expect = Expect::Marked(live.object.clone());
        assert_conflict(bench.apply(&step("shop", action, expect, &bare, Some(&live))).await);
    }
    let unsaid = bench.apply(&on("shop", Action::Adopt, &bare, &live)).await.unwrap_err();
    assert_eq!(unsaid.reason(), Reason::Rejected, "its keys are not taken away unasked");
    assert_eq!(bench.root(&["ACL", "GETUSER", "t_e_shop"]), before);

    let spec = json!({"keyPrefix": "old:"});
    let outcome = bench.apply(&on("shop", Action::Adopt, &spec, &live)).await.unwrap();
    assert_eq!(outcome.notes.len(), 1, "it says what it took away");
    let adopted = bench.live("shop", &spec).await;
    assert_eq!(prefix(&adopted), "old:");
    assert!(matches!(adopted.ownership, Ownership::Marked(_)));
    assert_eq!(bench.server.cli_as("t_e_shop", "theirs", &["SET", "old:a", "1"]), "OK", "its password stays");
    assert_eq!(bench.passwords_asked_for(), 0);
}

#[tokio::test]
async fn r1_a_user_with_anothers_mark_is_never_touched() {
    let bench = Bench::new();
    let live = bench.create("shop", &json!({})).await;
    let before = bench.root(&["ACL", "GETUSER", "t_e_shop"]);
    let stranger = PlatformId("stranger".into());
    let cx = Cx { platform: &stranger, secrets: &bench.vault };
    for action in [Action::Update, Action::Replace, Action::Delete] {
        let planned = on("shop", action, &json!({}), &live);
        assert_eq!(bench.manager.apply(&planned, &cx).await.unwrap_err().reason(), Reason::OwnedByOther);
        let mut other = planned;
        other.key = key("someone-else");
        assert_eq!(bench.apply(&other).await.unwrap_err().reason(), Reason::OwnedByOther);
    }
    let adopt = step("shop", Action::Adopt, Expect::Unmarked(live.object.clone()), &json!({}), None);
    assert_conflict(bench.apply(&adopt).await);
    assert_eq!(bench.root(&["ACL", "GETUSER", "t_e_shop"]), before);
    assert_eq!(bench.manager.discover(&BTreeSet::new(), &cx).await.unwrap(), vec![]);
    let found = bench.manager.discover(&BTreeSet::new(), &bench.cx()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].object_name.as_str(), &found[0].object), ("t_e_shop", &live.object));
}

#[tokio::test]
async fn r13_a_change_between_plan_and_apply_is_a_conflict() {
    let bench = Bench::new();
    let spec = json!({"keyPrefix": "shop:"});
    let live = bench.create("shop", &spec).await;
    let planned = on("shop", Action::Update, &json!({"keyPrefix": "new:"}), &live);
    bench.root(&["ACL", "SETUSER", "t_e_shop", "~more:*"]);
    assert_conflict(bench.apply(&planned).await);

    let live = bench.live("shop", &spec).await;
    let _ = bench.apply(&on("shop", Action::Delete, &json!({}), &live)).await.unwrap();
    assert_conflict(bench.apply(&planned).await);
    let second = bench.create("shop", &spec).await;
    assert_ne!(second.object, live.object);
    assert_conflict(bench.apply(&on("shop", Action::Delete, &json!({}), &live)).await);
    assert_eq!(bench.live("shop", &spec).await, second);
}

#[tokio::test]
async fn r13_a_lock_that_somebody_holds_on_to_is_not_waited_for_for_ever() {
    let bench = Bench::with(true, Duration::from_millis(300));
    bench.root(&["SET", "plumb:lock:t_e_shop", "somebody", "PX", "600000"]);
    let create = step("shop", Action::Create, Expect::Absent, &json!({}), None);
    let refused = bench.apply(&create).await.unwrap_err();
    assert!(matches!(refused, ManagerError::Retry { reason: Reason::Locked, .. }), "{refused:?}");
    assert_eq!(bench.root(&["GET", "plumb:lock:t_e_shop"]), "somebody");
    bench.root(&["DEL", "plumb:lock:t_e_shop"]);
    let _ = bench.apply(&create).await.unwrap();
    assert_eq!(bench.root(&["KEYS", "plumb:*"]), "", "no lock is left behind");
}

#[tokio::test]
async fn r13_of_two_creations_at_once_one_is_a_conflict() {
    let bench = Bench::new();
    let create = step("shop", Action::Create, Expect::Absent, &json!({}), None);
    let other = manager(&bench.server.url("default"), ROOT_PASSWORD, Duration::from_secs(5));
    let cx = bench.cx();
    let (one, two) = tokio::join!(bench.apply(&create), other.apply(&create, &cx));
    let (won, lost) = if one.is_ok() { (one, two) } else { (two, one) };
    assert!(won.is_ok(), "{won:?}");
    assert_conflict(lost);
    assert_eq!(bench.root(&["ACL", "USERS"]).lines().filter(|name| name.starts_with("plumb_root_")).count(), 1);
}

#[tokio::test]
async fn deleting_a_cache_removes_its_user_and_never_its_keys() {
    let bench = Bench::new();
    let live = bench.create("shop", &json!({})).await;
    assert_eq!(bench.app("shop", &["SET", "t_e_shop:a", "1"]), "OK");
    let _ = bench.apply(&on("shop", Action::Delete, &json!({}), &live)).await.unwrap();
    assert_eq!(bench.see("shop", &json!({})).await, Observation::Absent { lost: false, left: None });
    assert_eq!(bench.root(&["GET", "t_e_shop:a"]), "1");
    assert!(bench.app("shop", &["PING"]).contains("WRONGPASS"));
    assert!(!std::fs::read_to_string(bench.server.aclfile()).unwrap().contains("t_e_shop"));
}

#[tokio::test]
async fn a_replacement_is_a_new_object() {
    let bench = Bench::new();
    let live = bench.create("shop", &json!({})).await;
    let spec = json!({"keyPrefix": "new:", "categories": ["read"]});
    let _ = bench.apply(&on("shop", Action::Replace, &spec, &live)).await.unwrap();
    let replaced = bench.live("shop", &spec).await;
    assert_ne!(replaced.object, live.object);
    assert_eq!(replaced.fields, Kind::Cache.info().flatten(&spec));
    assert_eq!(bench.app("shop", &["GET", "new:a"]), "");
}

#[tokio::test]
async fn r12_a_rotation_sets_the_new_password_and_ends_the_old() {
    let bench = Bench::new();
    let live = bench.create("shop", &json!({})).await;
    let mut rotation = on("shop", Action::Update, &json!({}), &live);
    rotation.rotate = Some("2026-11".into());
    let _ = bench.apply(&rotation).await.unwrap();
    assert!(bench.app("shop", &["PING"]).contains("WRONGPASS"));
    let new = password_of(&key("shop"), "2026-11");
    assert_eq!(bench.server.cli_as("t_e_shop", &new, &["PING"]), "PONG");
    assert_eq!(bench.live("shop", &json!({})).await.object, live.object);
}

#[tokio::test]
async fn users_and_identity_survive_a_restart_where_there_is_an_aclfile() {
    let mut bench = Bench::new();
    assert_eq!(bench.manager.identity().await.unwrap(), None, "nothing establishes it yet");
    assert_eq!(bench.root(&["ACL", "USERS"]), "default", "asking wrote nothing");
    let live = bench.create("shop", &json!({})).await;
    let identity = bench.manager.identity().await.unwrap();
    assert!(identity.is_some());
    bench.server.restart();
    assert_eq!(bench.manager.identity().await.unwrap(), identity, "it reconnects");
    assert_eq!(bench.live("shop", &json!({})).await, live);
    assert_eq!(bench.app("shop", &["PING"]), "PONG");
}

#[tokio::test]
async fn without_an_aclfile_the_address_is_the_identity_and_lost_users_are_made_again() {
    let mut bench = Bench::with(false, Duration::from_secs(5));
    let identity = bench.manager.identity().await.unwrap().unwrap();
    assert_eq!(identity.0, format!("address:127.0.0.1:{}", bench.server.port));
    bench.create("shop", &json!({})).await;
    bench.server.restart();
    assert_eq!(bench.manager.identity().await.unwrap().unwrap(), identity);
    assert_eq!(bench.see("shop", &json!({})).await, Observation::Absent { lost: false, left: None });
    bench.create("shop", &json!({})).await;
    assert_eq!(bench.app("shop", &["PING"]), "PONG", "with the password it had");
}

#[tokio::test]
async fn r5_a_server_that_is_down_or_paused_is_an_error_in_time() {
    let mut bench = Bench::with(true, Duration::from_millis(500));
    let create = step("shop", Action::Create, Expect::Absent, &json!({}), None);
    let live = bench.create("cart", &json!({})).await;
    let start = Instant::now();

    bench.server.pause();
    let targets = [target("shop", &json!({}))];
    for error in [
        bench.manager.observe(&targets, Depth::Shallow, &bench.cx()).await.unwrap_err(),
        bench.manager.identity().await.unwrap_err(),
        bench.manager.discover(&BTreeSet::new(), &bench.cx()).await.unwrap_err(),
        bench.apply(&create).await.unwrap_err(),
    ] {
        assert!(matches!(error, ManagerError::Retry { reason: Reason::TimedOut, .. }), "{error:?}");
    }
    bench.server.resume();
    assert_eq!(bench.live("cart", &json!({})).await, live);

    bench.server.stop();
    for error in [
        bench.manager.observe(&targets, Depth::Shallow, &bench.cx()).await.unwrap_err(),
        bench.apply(&create).await.unwrap_err(),
    ] {
        assert!(matches!(error, ManagerError::Retry { reason: Reason::ProviderUnreachable, .. }), "{error:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    bench.server.restart();
    assert_eq!(bench.live("cart", &json!({})).await, live);
}

#[tokio::test]
async fn a_login_that_is_refused_or_may_not_says_so() {
    let bench = Bench::new();
    let wrong = manager(&bench.server.url("default"), "planted-wrong-password", Duration::from_secs(5));
    let error = wrong.identity().await.unwrap_err();
    assert_eq!(error.reason(), Reason::AuthenticationFailed);
    let none =
        connect(Endpoint { password: None, ..endpoint(&bench.server.url("default"), "", Duration::from_secs(5)) });
    assert_eq!(none.unwrap().identity().await.unwrap_err().reason(), Reason::AuthenticationFailed);

    bench.root(&["ACL", "SETUSER", "weak", "on", ">planted-weak", "~*", "+@all", "-acl|setuser"]);
    let weak = manager(&bench.server.url("weak"), "planted-weak", Duration::from_secs(5));
    let create = step("shop", Action::Create, Expect::Absent, &json!({}), None);
    assert_eq!(weak.apply(&create, &bench.cx()).await.unwrap_err().reason(), Reason::PermissionDenied);
    bench.root(&["ACL", "SETUSER", "weak", "-config"]);
    assert_eq!(weak.identity().await.unwrap_err().reason(), Reason::PermissionDenied);
}

#[tokio::test]
async fn no_password_is_in_any_error() {
    let mut bench = Bench::with(true, Duration::from_millis(500));
    let wrong = manager(&bench.server.url("default"), "planted-wrong-password", Duration::from_millis(500));
    let create = step("shop", Action::Create, Expect::Absent, &json!({}), None);
    let mut errors = vec![wrong.identity().await.unwrap_err(), wrong.apply(&create, &bench.cx()).await.unwrap_err()];
    // The server repeats the arguments of a command it refuses.
    bench.root(&["ACL", "SETUSER", "weak", "on", ">planted-weak", "~*", "+@all", "-acl|setuser"]);
    let weak = manager(&bench.server.url("weak"), "planted-weak", Duration::from_millis(500));
    errors.push(weak.apply(&create, &bench.cx()).await.unwrap_err());
    bench.server.pause();
    errors.push(bench.apply(&create).await.unwrap_err());
    bench.server.resume();
    bench.server.stop();
    errors.push(bench.apply(&create).await.unwrap_err());
    errors.push(
        connect(endpoint("redis://default:planted-in-url@h:1", "planted", Duration::from_secs(1))).err().unwrap(),
    );
    let hash = "a1b2c3".to_owned();
    for error in errors {
        let text = format!("{error} {error:?}");
        assert!(!text.contains("planted") && !text.contains(ROOT_PASSWORD) && !text.contains(&hash), "{text}");
    }
}

#[tokio::test]
async fn the_clear_password_never_reaches_the_server() {
    let bench = Bench::new();
    bench.create("shop", &json!({})).await;
    assert!(!std::fs::read_to_string(bench.server.aclfile()).unwrap().contains("planted"));
    assert!(!bench.root(&["ACL", "LOG"]).contains("planted"));
    bench.root(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    let live = bench.live("shop", &json!({})).await;
    let mut rotation = on("shop", Action::Update, &json!({}), &live);
    rotation.rotate = Some("again".into());
    let _ = bench.apply(&rotation).await.unwrap();
    assert!(!bench.root(&["SLOWLOG", "GET", "100"]).contains("planted"));
}

#[test]
fn a_url_that_names_no_server_is_refused() {
    for url in [
        "redis://",
        "http://h:1",
        "h:1",
        "redis://u:p@h",
        "redis://h/1",
        "redis://h?x=1",
        "redis://a%20b@h",
        "unix:///x",
    ] {
        let refused = connect(endpoint(url, "x", Duration::from_secs(1))).err().map(|error| error.reason());
        assert_eq!(refused, Some(Reason::Rejected), "{url}");
    }
    for (url, host, port) in
        [("redis://h", "h", "6379"), ("rediss://u@h:7000/0", "h", "7000"), ("redis://[::1]:1", "::1", "1")]
    {
        let outputs = manager(url, "x", Duration::from_secs(1)).outputs(&target("a", &json!({})));
        assert_eq!((outputs["host"].as_str(), outputs["port"].as_str()), (host, port));
    }
}

//! Bad input and bad days: each ends in a clear message, touches nothing it should not, and holds up nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plumb::engine::schedule::Schedule;
use plumb::engine::{Ask, EngineError, Report, Width};
use plumb::model::{
    ConditionStatus, ConditionType, Diagnostic, EventKind, ExecutionOutcome, ProposalStatus, Reason, Trigger,
};
use plumb::store::{HistoryFilter, Scope};
use sqlx::Row;
use tokio::runtime::Handle;

use crate::harness::git::{GitRepo, MergeHow};
use crate::harness::postgres::PostgresServer;
use crate::harness::redis::{RedisOptions, RedisServer};
use crate::harness::world::{FILES, World, contains, held, held_message, run_sql, unseen};

const ORDERS: &str = "checkout/staging/Database/orders";
const VERSION: &str = "PRAGMA user_version";
const BAD: &str = "environments/staging/bad.yaml";

/// A tenant with `orders` and `going`, which a later commit may delete, in plumb.
async fn world() -> World {
    let world = World::with_files().await;
    for name in ["orders", "going", "third"] {
        world.write_resource("staging", "Database", name, "plumb.dev/deletion: delete", "userVersion: 1");
    }
    world.tenant.commit("Add databases");
    world.in_sync().await;
    world
}

fn finding<'a>(report: &'a Report, file: &str) -> &'a Diagnostic {
    let found = report.desired.diagnostics.iter().find(|finding| finding.file == file);
    found.unwrap_or_else(|| panic!("nothing is said of {file}: {:#?}", report.desired.diagnostics))
}

/// Commits `bytes` beside a change of `orders` and the removal of `going`: the change is applied, the removal waits,
/// and there is a finding. Gives it.
async fn with_bad_file(bytes: &[u8]) -> Diagnostic {
    let world = world().await;
    world.tenant.write(BAD, bytes);
    world.write_resource("staging", "Database", "orders", "plumb.dev/deletion: delete", "userVersion: 2");
    world.tenant.remove("environments/staging/going.yaml");
    world.tenant.commit("Change, remove, and add something bad");
    let report = world.apply().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::Blocked, 1), "{:#?}", report.plan);
    assert_eq!(world.number("staging", "orders", VERSION).await, 2);
    assert_eq!(held(&report.plan, "checkout/staging/Database/going"), Some(Reason::UnreadableManifest));
    assert!(world.file("staging", "going").exists());
    assert!(world.events().iter().any(|event| matches!(&event.kind, EventKind::Invalid { file, .. } if file == BAD)));
    finding(&report, BAD).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_yaml_is_a_finding_with_its_line_and_others_go_on() {
    let finding = with_bad_file(b"apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: [unclosed\n").await;
    assert!(finding.is_error() && finding.span.is_some_and(|span| span.line >= 4), "{finding:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binary_file_is_a_finding_and_others_go_on() {
    let bytes: Vec<u8> = (0..=255).cycle().take(4096).collect();
    assert!(with_bad_file(&bytes).await.is_error());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_bomb_is_a_finding_and_others_go_on() {
    let mut bomb =
        "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {name: bomb}\nspec:\n  a0: &a0 [x, x]\n".to_owned();
    for level in 1..40 {
        bomb += &format!("  a{level}: &a{level} [*a{0}, *a{0}, *a{0}, *a{0}]\n", level - 1);
    }
    let finding = with_bad_file(bomb.as_bytes()).await;
    assert!(finding.is_error() && finding.span.is_some(), "{finding:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_100_mib_is_a_finding_and_others_go_on() {
    let finding = with_bad_file(&vec![b'#'; 100 * 1024 * 1024]).await;
    assert!(finding.message.contains("104857600"), "{finding:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_out_of_the_tree_is_a_finding_and_others_go_on() {
    let world = world().await;
    world.tenant.link(BAD, "/etc/passwd");
    world.write_resource("staging", "Database", "orders", "plumb.dev/deletion: delete", "userVersion: 2");
    world.tenant.commit("Look elsewhere");
    let report = world.apply().await;
    assert_eq!(report.done, 1);
    assert!(finding(&report, BAD).is_error());
}

/// What the execution of the last look came to.
async fn last_outcome(world: &World) -> ExecutionOutcome {
    let mut tx = world.store().read(Scope::Platform).await.unwrap();
    let newest = HistoryFilter { limit: 1, ..HistoryFilter::default() };
    tx.executions(&newest).await.unwrap()[0].outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_look_ends_though_its_failure_cannot_be_remembered() {
    let world = world().await;
    run_sql(
        &world.data().join("plumb.db"),
        "CREATE TRIGGER tenants_are_full BEFORE UPDATE ON tenants BEGIN SELECT RAISE(ABORT, 'full'); END",
    )
    .await;
    world.tenant.vanish();
    let error = world.try_apply().await.unwrap_err();
    assert!(matches!(error, EngineError::Source { .. }), "the first of them is told: {error:?}");
    assert_eq!(last_outcome(&world).await, ExecutionOutcome::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_ends_though_its_events_cannot_be_kept() {
    let world = world().await;
    run_sql(
        &world.data().join("plumb.db"),
        "CREATE TRIGGER events_are_full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'full'); END",
    )
    .await;
    let error = world.try_apply().await.unwrap_err();
    assert!(matches!(error, EngineError::Store(_)), "{error:?}");
    assert_eq!(last_outcome(&world).await, ExecutionOutcome::Interrupted);
}

/// Whether the store takes the tenant for one that is no longer in the platform.
async fn is_removed(world: &World) -> bool {
    let mut tx = world.store().read(Scope::Platform).await.unwrap();
    tx.tenants().await.unwrap()[&world.name].removed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_removed_during_its_look_stays_removed() {
    for commit in ["a change", "an empty tree, which holds deletions"] {
        let world = world().await;
        let in_force = world.in_force().await;
        match commit {
            "a change" => world.write_resource("staging", "Database", "another", "", ""),
            _ => ["orders", "going", "third"]
                .iter()
                .for_each(|name| world.tenant.remove(&format!("environments/staging/{name}.yaml"))),
        }
        world.tenant.commit(commit);
        let before = world.platform.head();
        world.platform.remove("tenants.yaml");
        world.platform.commit("Remove the tenant");
        let engine = Arc::clone(world.engine());
        world.on_event(move |event| {
            if matches!(event.kind, EventKind::SourceRead { .. }) {
                let platform = tokio::task::block_in_place(|| Handle::current().block_on(engine.platform()));
                assert!(platform.unwrap().platform.tenants.is_empty());
            }
        });
        let ask = Ask { trigger: Trigger::CommandLine, width: Width::Deep };
        world.engine().reconcile(&in_force, &world.name, ask).await.unwrap();
        assert!(is_removed(&world).await, "{commit}");
        world.on_event(|_| {});
        world.platform.reset(&before);
        world.platform.push_force();
        world.apply().await;
        assert!(!is_removed(&world).await, "{commit}: and comes back");
    }
}

/// A world with a resource on PostgreSQL and one in a file, both in plumb.
async fn on_both() -> World {
    let world = World::with_postgres(PostgresServer::shared()).await;
    world.write_database("staging", "orders", "connectionLimit: 20");
    world.write_database("staging", "file", "provider: files\nuserVersion: 1");
    world.tenant.commit("Add both");
    world.in_sync().await;
    world
}

/// Changes both; the one on PostgreSQL is unknown for `reason`, the other one is done.
async fn assert_only_the_file_goes_on(world: &World, reason: Reason) {
    world.write_database("staging", "orders", "connectionLimit: 30");
    world.write_database("staging", "file", "provider: files\nuserVersion: 2");
    world.tenant.commit("Change both");
    let report = world.apply().await;
    let key = world.key("staging/Database/orders");
    assert_eq!((report.done, unseen(&report.plan, &key)), (1, Some(reason)), "{:#?}", report.plan);
    assert!(report.wants_retry);
    let status = world.status(&key).await.unwrap();
    let ready = status.condition(ConditionType::Ready).unwrap();
    assert_eq!((ready.status, ready.reason), (ConditionStatus::Unknown, reason));
    assert_eq!(status.condition(ConditionType::Reconciling).unwrap().status, ConditionStatus::True);
    assert_eq!(world.number("staging", "file", VERSION).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_makes_one_provider_unknown_and_shows_up_nowhere() {
    let mut world = on_both().await;
    world.write_login("not-the-password-hunter2");
    assert_only_the_file_goes_on(&world, Reason::AuthenticationFailed).await;
    let told = format!("{:?}{:?}", world.events(), world.apply().await);
    assert!(!told.contains("hunter2"));
    world.stop();
    for arguments in [&["apply", "-vv"][..], &["doctor"], &["plan"], &["get", "-o", "json"], &["get", "--providers"]] {
        let output = world.plumb(arguments).env("PLUMB_LOG", "trace").output().unwrap();
        assert!(!contains(&output.stdout, b"hunter2") && !contains(&output.stderr, b"hunter2"), "{arguments:?}");
    }
    assert!(world.files_with("hunter2").is_empty());
    world.start().await;
    world.write_login(PostgresServer::shared().login().1);
    assert_eq!(world.in_sync().await, 1, "the rotated credential is picked up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_not_there_makes_one_provider_unknown() {
    let world = on_both().await;
    std::fs::remove_file(world.login_file()).unwrap();
    assert_only_the_file_goes_on(&world, Reason::CredentialMissing).await;
    let unknown = &world.apply().await.plan.unknown[0].1;
    assert!(unknown.message.contains("pg-password"), "{unknown:?}");
    world.write_login(PostgresServer::shared().login().1);
    assert_eq!(world.in_sync().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_silent_or_down_makes_one_provider_unknown() {
    let mut server = RedisServer::start(RedisOptions { aclfile: true, password: None });
    let redis = format!(
        "---\napiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: redis}}\nspec:\n  type: redis\n  url: {}\n  \
         timeout: 1s\n  serves: [{{kind: Cache}}]\n",
        server.url("default")
    );
    let world = World::new(&format!("{FILES}{redis}"), "[files, redis]").await;
    world.write_resource("staging", "Cache", "sessions", "", "categories: [read]");
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Add both");
    world.in_sync().await;
    server.pause();
    world.write_resource("staging", "Cache", "sessions", "", "categories: [read, write]");
    world.write_database("staging", "orders", "userVersion: 2");
    world.tenant.commit("Change both");
    let report = world.apply().await;
    let key = "checkout/staging/Cache/sessions";
    assert_eq!((report.done, unseen(&report.plan, key)), (1, Some(Reason::TimedOut)), "{:#?}", report.plan);
    server.resume();
    server.stop();
    // A cache is no data: its removal needs no approval. But nobody can say what is there.
    world.tenant.remove("environments/staging/sessions.yaml");
    world.tenant.commit("Remove the cache");
    let report = world.apply().await;
    assert_eq!(unseen(&report.plan, key), Some(Reason::ProviderUnreachable), "{:#?}", report.plan);
    assert_eq!(world.inventory().await.records.len(), 2);
    server.restart();
    // A user is kept in a file here, so it is there again after the restart, and goes now.
    assert_eq!(world.in_sync().await, 1);
    assert!(!server.cli(&["ACL", "USERS"]).contains("sessions"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_tries_again_by_itself_until_the_provider_is_back() {
    let world = world().await;
    let away = world.data().join("unmounted");
    std::fs::rename(world.databases(), &away).unwrap();
    world.write_resource("staging", "Database", "orders", "plumb.dev/deletion: delete", "userVersion: 2");
    world.tenant.commit("Change it");
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    world.on_event(move |event| {
        // The test may be over.
        let _ = told.send(event.kind.clone());
    });
    let (schedule, _looks, _ready) = Schedule::new(std::sync::Arc::clone(world.engine()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(schedule.run(async move {
        let _ = stopped.await;
    }));
    let until = async |heard: &mut tokio::sync::mpsc::UnboundedReceiver<EventKind>, wanted: fn(&EventKind) -> bool| {
        let found = async { while !wanted(&heard.recv().await.expect("the schedule runs")) {} };
        tokio::time::timeout(Duration::from_secs(60), found).await.expect("it happens within a minute");
    };
    until(&mut heard, |kind| matches!(kind, EventKind::Unknown { reason: Reason::ProviderIdentityChanged, .. })).await;
    std::fs::rename(&away, world.databases()).unwrap();
    until(&mut heard, |kind| matches!(kind, EventKind::StepDone { .. })).await;
    stop.send(()).unwrap();
    running.await.unwrap();
    assert_eq!(world.number("staging", "orders", VERSION).await, 2);
    let filter = plumb::store::HistoryFilter { limit: 10, ..Default::default() };
    let mut tx = world.store().read(plumb::store::Scope::Platform).await.unwrap();
    let executions = tx.executions(&filter).await.unwrap();
    assert!(executions.iter().any(|execution| execution.trigger == Trigger::Retry), "{executions:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_vanishes_changes_nothing_and_goes_on_when_it_is_back() {
    let world = world().await;
    world.tenant.vanish();
    world.events();
    let error = world.try_apply().await.unwrap_err();
    assert_eq!(error.reason(), Reason::SourceUnavailable);
    assert!(error.to_string().contains("tenant checkout"), "{error}");
    assert!(
        world
            .events()
            .iter()
            .any(|event| matches!(event.kind, EventKind::SourceFailed { reason: Reason::SourceUnavailable, .. }))
    );
    assert_eq!(world.inventory().await.records.len(), 3);
    world.tenant.come_back();
    assert_eq!(world.in_sync().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_branch_changes_nothing_and_goes_on_when_it_is_back() {
    let world = world().await;
    world.tenant.remote_git(&["update-ref", "-d", "refs/heads/main"]);
    let error = world.try_apply().await.unwrap_err();
    assert!(matches!(error, EngineError::BranchGone(_)) && error.to_string().contains("main"), "{error}");
    assert!(world.file("staging", "orders").exists());
    world.tenant.git(&["push", "--quiet", "origin", "HEAD:main"]);
    assert_eq!(world.in_sync().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_is_thrown_away_while_the_program_runs_is_made_again() {
    let world = world().await;
    world.in_sync().await;
    let mirrors = std::fs::read_dir(world.data().join("mirrors")).unwrap().map(|entry| entry.unwrap().path());
    for mirror in mirrors.filter(|path| path.is_dir()) {
        std::fs::remove_dir_all(mirror).unwrap();
    }
    // The history that was read is not there to be compared with either.
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.git(&["add", "--all"]);
    world.tenant.git(&["commit", "--quiet", "--amend", "--message", "Written anew"]);
    world.tenant.git(&["push", "--quiet", "--force", "origin", "HEAD:main"]);
    world.tenant.remote_git(&["reflog", "expire", "--expire=now", "--all"]);
    world.tenant.remote_git(&["gc", "--quiet", "--prune=now"]);
    assert_eq!(world.in_sync().await, 1);
    assert_eq!(world.number("staging", "orders", "PRAGMA user_version").await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_panics_is_begun_anew_and_what_it_had_read_is_not_taken_for_done() {
    let world = world().await;
    world.look(Width::Changed).await.unwrap();
    world.write_database("staging", "orders", "userVersion: 7");
    world.tenant.commit("Version seven");
    world.on_event(|event| assert!(!matches!(event.kind, EventKind::Planned { .. }), "at an unlucky moment"));
    let cut_short = world.look(Width::Changed).await.unwrap_err();
    assert!(matches!(cut_short, EngineError::Task), "{cut_short:?}");
    world.on_event(|_| {});
    assert_eq!(world.look(Width::Changed).await.unwrap().done, 1);
    assert_eq!(world.number("staging", "orders", VERSION).await, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tenants_at_once_do_not_wait_for_each_other_for_ever() {
    /// Twice as many as the store has readers, and more than the schedule looks at at once.
    const TENANTS: usize = 12;
    let world = World::with_files().await;
    let mut documents = String::new();
    let repositories: Vec<GitRepo> = (0..TENANTS).map(|_| GitRepo::new()).collect();
    for (number, repository) in repositories.iter().enumerate() {
        repository.write(
            "environments/staging/orders.yaml",
            "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {name: orders, labels: {owner: x}}\nspec: {userVersion: 1}\n",
        );
        repository.commit("Add orders");
        documents.push_str(&format!(
            "---\napiVersion: plumb.dev/v1\nkind: Tenant\nmetadata: {{name: team-{number}-x}}\nspec:\n  repository: {{url: \
             \"{}\"}}\n  environments: [staging]\n  providers: [files]\n",
            repository.url()
        ));
    }
    world.platform.write("more.yaml", documents);
    world.platform.commit("Many tenants");
    let in_force = world.in_force().await;
    let names: Vec<String> = (0..TENANTS).map(|number| format!("team-{number}-x")).collect();
    let ask = Ask { trigger: Trigger::Start, width: Width::Deep };
    let looks = futures::future::join_all(names.iter().map(|name| world.engine().reconcile(&in_force, name, ask)));
    // The store gives up after half a minute of waiting.
    let reports = tokio::time::timeout(Duration::from_secs(25), looks).await.expect("nobody waits for ever");
    assert_eq!(reports.into_iter().map(|report| report.unwrap().done).sum::<usize>(), TENANTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_repository_says_so_and_its_first_commit_works() {
    let world = World::with_files().await;
    let error = world.try_apply().await.unwrap_err();
    assert!(error.to_string().contains("no branch main"), "{error}");
    world.tenant.write("README.md", "Soon\n");
    world.tenant.commit("A first commit without any manifest");
    assert_eq!(world.in_sync().await, 0);
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Add orders");
    assert_eq!(world.in_sync().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_head_that_does_not_validate_leaves_the_last_good_one_in_force() {
    let mut world = world().await;
    let good = world.in_force().await.platform.commit.clone();
    let providers = world.platform.show("main:providers.yaml");
    world.platform.write("providers.yaml", providers.replace("type: sqlite", "type: sqlight"));
    let bad = world.platform.commit("Break the platform");
    for _ in 0..2 {
        let in_force = world.in_force().await;
        assert_eq!((&in_force.platform.commit, in_force.rejected.as_ref()), (&good, Some(&bad)));
        let finding = in_force.findings.iter().find(|finding| finding.file == "providers.yaml").unwrap();
        assert!(finding.is_error() && finding.span.is_some(), "{finding:#?}");
        let texts: BTreeSet<&String> = in_force.sources.keys().collect();
        let named: BTreeSet<&String> = in_force.findings.iter().map(|finding| &finding.file).collect();
        assert_eq!(texts, named, "the texts of what the findings are about, and no other");
        assert_eq!(world.in_sync().await, 0);
        world.restart().await;
    }
    world.platform.write("providers.yaml", providers);
    world.platform.commit("Mend it");
    assert_eq!(world.in_force().await.rejected, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_not_there_is_refused_with_the_names_of_those_that_are() {
    let world = world().await;
    let in_force = world.in_force().await;
    let ask = Ask { trigger: Trigger::CommandLine, width: Width::Deep };
    let error = world.engine().reconcile(&in_force, "chekout", ask).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no tenant \"chekout\"; the platform has checkout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_never_validated_is_an_error_with_its_findings() {
    let mut world = World::with_files().await;
    world.platform.write("providers.yaml", "kind: [\n");
    world.platform.commit("Break it");
    let Err(EngineError::NoPlatform { findings, .. }) = world.engine().platform().await else { panic!("a refusal") };
    assert!(findings.iter().any(|finding| finding.file == "providers.yaml"));
    world.stop();
    let output = world.plumb(&["apply"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(contains(&output.stderr, b"providers.yaml"), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_platform_id_is_refused_since_every_mark_bears_the_first() {
    let world = world().await;
    world.write_platform("id: renamed-platform");
    world.platform.commit("Rename the platform");
    let in_force = world.in_force().await;
    assert!(in_force.rejected.is_some());
    assert!(in_force.findings.iter().any(|f| f.help.as_ref().is_some_and(|help| help.contains("test-platform"))));
    assert_eq!(world.in_sync().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_removed_while_it_has_resources_deletes_and_forgets_nothing() {
    let world = world().await;
    let other = FILES.replace("name: files", "name: other").replace("sqlite:databases", "sqlite:elsewhere");
    world.platform.write("providers.yaml", other);
    world.write_tenant("providers: [other]");
    world.platform.commit("Take the provider away");
    // The resources name no provider, so they would now belong on the other one: nothing moves there.
    let report = world.apply().await;
    assert_eq!((report.done, held(&report.plan, ORDERS)), (0, Some(Reason::MoveRefused)), "{:#?}", report.plan);
    // Removed documents change nothing either: nobody can look at what is there.
    world.tenant.remove("environments/staging/going.yaml");
    world.tenant.commit("Remove going");
    let report = world.apply().await;
    let going = "checkout/staging/Database/going";
    assert_eq!((report.done, unseen(&report.plan, going)), (0, Some(Reason::ProviderMissing)), "{:#?}", report.plan);
    assert_eq!(world.inventory().await.records.len(), 3);
    world.platform.write("providers.yaml", FILES);
    world.write_tenant("providers: [files]");
    world.platform.commit("Bring it back");
    assert_eq!(world.in_sync().await, 1);
    assert!(!world.file("staging", "going").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_in_a_folder_of_a_shared_repository_has_branches_of_its_own() {
    let world = World::with_files().await;
    let url = world.tenant.url();
    world.write_tenant_spec(&format!(
        "repository: {{url: \"{url}\", path: teams/checkout}}\nenvironments: [staging]\nproviders: [files]"
    ));
    world.platform.commit("A shared repository");
    let file = "teams/checkout/orders.yaml";
    let text = "apiVersion: plumb.dev/v1\nkind: Database\nmetadata: {name: orders, labels: {owner: team}}\nspec:\n  \
                userVersion: 1  # ours\n";
    world.tenant.write(file, text);
    world.tenant.write("teams/billing/broken.yaml", "kind: [\n");
    world.tenant.commit("Two teams");
    assert_eq!(world.in_sync().await, 1, "the neighbour's broken file is not ours");
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    let branch = "plumb/drift/checkout/staging/database-orders";
    assert_eq!(world.proposal(ORDERS).await.unwrap().branch, branch);
    assert_eq!(world.tenant.show(&format!("{branch}:{file}")), text.replace("userVersion: 1 ", "userVersion: 42 "));
    world.tenant.merge(branch, MergeHow::Squash);
    assert_eq!(world.in_sync().await, 0);
    assert!(!world.tenant.branches().contains(&branch.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_environments_in_one_file_are_two_resources() {
    let world = World::with_files().await;
    let document = |environment: &str, version: u32| {
        format!(
            "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: orders\n  environment: {environment}\n  labels: \
             {{owner: team}}\nspec:\n  userVersion: {version}\n"
        )
    };
    let text = format!("{}---\n{}", document("staging", 1), document("production", 2));
    world.tenant.write("orders.yaml", &text);
    world.tenant.commit("Both at once");
    assert_eq!(world.in_sync().await, 2);
    world.by_hand("production", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    let branch = "plumb/drift/production/database-orders";
    assert_eq!(world.tenant.show(&format!("{branch}:orders.yaml")), text.replace("userVersion: 2", "userVersion: 42"));
    assert_eq!(world.number("staging", "orders", VERSION).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_holds_up_only_what_depends_on_it() {
    let server = PostgresServer::shared();
    let world = World::with_postgres(server).await;
    world.write_database("staging", "first", "extensions: [no_such_extension]");
    world.write_database("staging", "second", "dependsOn: [Database/first]");
    world.write_database("staging", "third", "connectionLimit: 5");
    world.tenant.commit("Three of them");
    let report = world.apply().await;
    assert_eq!((report.outcome, report.done), (ExecutionOutcome::Failed, 1), "{report:#?}");
    let (first, second) = (world.key("staging/Database/first"), world.key("staging/Database/second"));
    assert!(report.failed[&first.parse().unwrap()].1.contains("no_such_extension"));
    let status = world.status(&second).await.unwrap();
    let ready = status.condition(ConditionType::Ready).unwrap();
    assert_eq!(ready.reason, Reason::DependencyNotReady);
    assert!(ready.message.contains(&first), "{}", ready.message);
    let made = format!("SELECT 1 FROM pg_database WHERE datname = '{}'", world.object("staging", "second"));
    assert!(server.query("postgres", &made).await.is_empty());

    // The half-made one is finished once its document can be.
    world.write_database("staging", "first", "extensions: [pgcrypto]");
    world.tenant.commit("Ask for what there is");
    assert_eq!(world.in_sync().await, 2);
    assert_eq!(server.query("postgres", &made).await.len(), 1);
    let extension = "SELECT extname::text FROM pg_extension WHERE extname = 'pgcrypto'";
    let rows = server.query(&world.object("staging", "first"), extension).await;
    assert_eq!(rows[0].get::<String, _>(0), "pgcrypto");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_depends_on_something_that_is_held_waits_for_it() {
    let world = World::with_files().await;
    world.by_hand("staging", "first", "PRAGMA user_version = 3").await;
    world.write_database("staging", "first", "userVersion: 7");
    world.write_database("staging", "second", "userVersion: 1\ndependsOn: [Database/first]");
    world.write_database("staging", "third", "userVersion: 1");
    world.tenant.commit("Three of them");
    let report = world.apply().await;
    let second = "checkout/staging/Database/second";
    assert_eq!((report.done, held(&report.plan, second)), (1, Some(Reason::DependencyNotReady)), "{:#?}", report.plan);
    assert!(!world.file("staging", "second").exists());
    world.write_resource("staging", "Database", "first", "plumb.dev/adopt: \"true\"", "userVersion: 7");
    world.tenant.commit("Adopt the first");
    assert_eq!(world.apply().await.done, 2);
    assert!(world.file("staging", "second").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_quota_only_new_resources_wait_in_the_order_of_their_keys() {
    let world = World::with_files().await;
    world.write_tenant("providers: [files]\nquotas: {Database: 3}");
    world.platform.commit("Three are enough");
    world.write_database("staging", "zebra", "userVersion: 1");
    world.tenant.commit("Add one");
    world.in_sync().await;
    for name in ["a", "b", "c"] {
        world.write_database("staging", name, "userVersion: 1");
    }
    world.write_database("staging", "zebra", "userVersion: 2");
    world.tenant.commit("Add three");
    let report = world.apply().await;
    assert_eq!(report.done, 3, "{:#?}", report.plan);
    assert_eq!(held(&report.plan, "checkout/staging/Database/c"), Some(Reason::QuotaExceeded));
    assert!(!world.file("staging", "c").exists());
    assert_eq!(world.number("staging", "zebra", VERSION).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_the_window_nothing_is_changed_and_drift_is_seen() {
    let world = world().await;
    world.write_platform(
        "id: test-platform\nwindows:\n  - {mode: deny, schedule: \"* * * * *\", duration: 1h, environments: [staging]}",
    );
    world.platform.commit("Close staging");
    world.write_resource("staging", "Database", "orders", "plumb.dev/deletion: delete", "userVersion: 2");
    world.write_database("production", "ledger", "userVersion: 1");
    world.tenant.commit("Change staging, add to production");
    world.by_hand("staging", "third", "PRAGMA user_version = 42").await;
    let report = world.apply().await;
    assert_eq!((report.done, held(&report.plan, ORDERS)), (1, Some(Reason::WindowClosed)), "{:#?}", report.plan);
    assert!(held_message(&report.plan, ORDERS).contains("changes are closed until "));
    assert!(report.next_try.is_some());
    assert_eq!(world.number("staging", "orders", VERSION).await, 1);
    let third = world.proposal("checkout/staging/Database/third").await.unwrap();
    assert_eq!(third.status, ProposalStatus::Open, "a question changes nothing live");
    world.write_platform("id: test-platform");
    world.platform.commit("Open it");
    assert_eq!(world.apply().await.done, 1);
    assert_eq!(world.number("staging", "orders", VERSION).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_resource_is_looked_at_and_left_alone() {
    let world = world().await;
    world.write_resource("staging", "Database", "orders", "plumb.dev/suspend: \"true\"", "userVersion: 2");
    world.tenant.commit("Change and suspend it");
    world.by_hand("staging", "third", "PRAGMA user_version = 1").await;
    let report = world.apply().await;
    assert_eq!((report.done, held(&report.plan, ORDERS)), (0, Some(Reason::Suspended)), "{:#?}", report.plan);
    assert_eq!(world.number("staging", "orders", VERSION).await, 1);
    world.by_hand("staging", "orders", "PRAGMA user_version = 42").await;
    world.apply().await;
    assert!(world.proposal(ORDERS).await.is_none(), "nobody is asked meanwhile");
    assert_eq!(world.number("staging", "orders", VERSION).await, 42);
    // Nor does its removal delete it.
    world.tenant.remove("environments/staging/orders.yaml");
    world.tenant.commit("Remove it");
    assert_eq!(world.apply().await.done, 0);
    assert!(world.file("staging", "orders").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_repository_cannot_be_read_does_not_stop_the_others() {
    let mut world = World::with_files().await;
    let other = GitRepo::new();
    let tenant = world.platform.show("main:tenants.yaml");
    world.platform.write(
        "tenants.yaml",
        format!(
            "{tenant}---\n{}",
            tenant.replace("name: checkout", "name: aardvark").replace(&world.tenant.url(), &other.url())
        ),
    );
    world.platform.commit("A second tenant");
    other.vanish();
    world.write_database("staging", "orders", "userVersion: 1");
    world.tenant.commit("Add orders");
    world.stop();
    let output = world.plumb(&["apply"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(contains(&output.stderr, b"aardvark"), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(world.file("staging", "orders").exists());
}

/// Takes connections, and says nothing; gives its port.
async fn tarpit() -> u16 {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_that_hang_keep_no_other_waiting_nor_the_process_from_stopping() {
    // More than are polled, and more than are looked at, at once.
    const HANGING: usize = 2 * 8 + 1;
    const SOON: Duration = Duration::from_secs(30);
    let world = World::with_files().await;
    world.write_platform("id: test-platform\npollInterval: 200ms");
    let tenant = world.platform.show("main:tenants.yaml");
    let port = tarpit().await;
    let hanging = (0..HANGING).map(|number| {
        // Before the other in every order.
        let named = tenant.replace("name: checkout", &format!("name: a{number}"));
        named.replace(&world.tenant.url(), &format!("http://127.0.0.1:{port}/{number}.git"))
    });
    let hanging: Vec<String> = hanging.collect();
    world.platform.write("tenants.yaml", format!("{tenant}---\n{}", hanging.join("---\n")));
    world.platform.commit("Many tenants");
    let (done, mut is_done) = tokio::sync::mpsc::unbounded_channel();
    world.on_event(move |event| {
        if matches!(event.kind, EventKind::StepDone { .. }) {
            done.send(()).unwrap();
        }
    });
    let (schedule, _looks, _ready) = Schedule::new(Arc::clone(world.engine()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(schedule.run(async {
        stopped.await.unwrap();
    }));
    for (number, name) in ["orders", "carts", "reports"].into_iter().enumerate() {
        let began = Instant::now();
        world.write_database("staging", name, "userVersion: 1");
        world.tenant.commit("Add one more");
        tokio::time::timeout(SOON, is_done.recv()).await.expect("it waits for none of the others").unwrap();
        println!("commit {number} was applied after {:?}", began.elapsed());
    }
    stop.send(()).unwrap();
    tokio::time::timeout(SOON, serving).await.expect("it waits for none of them").unwrap();
    let places = world.store().places().await.unwrap();
    assert!(places.iter().all(|place| place.holder.is_none()), "all are given back: {places:?}");
}

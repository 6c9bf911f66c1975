//! The whole story on real PostgreSQL: from a first commit to an accepted drift.

use plumb::model::{Action, ConditionType, DriftMode, ExecutionOutcome, ProposalStatus, Reason};
use sqlx::{Connection, Row};
use tempfile::TempPath;

use crate::harness::git::MergeHow;
use crate::harness::postgres::PostgresServer;
use crate::harness::world::{World, parse};

const ORDERS: &str = "checkout/staging/Database/orders";
const MANIFEST: &str = "environments/staging/orders.yaml";

/// A world whose tenant lives on a PostgreSQL server of the test's own.
async fn world_on(server: &PostgresServer) -> (World, TempPath) {
    let password = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    std::fs::write(&password, server.login().1).unwrap();
    let provider = format!(
        "apiVersion: plumb.dev/v1\nkind: Provider\nmetadata: {{name: pg}}\nspec:\n  type: postgres\n  url: {}\n  \
         credentials: {{file: {}}}\n  serves: [{{kind: Database}}]\n",
        server.url(),
        password.display()
    );
    (World::new(&provider, "[pg]").await, password)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_becomes_a_database_and_drift_becomes_a_merged_proposal() {
    let server = PostgresServer::start();
    let (world, _password) = world_on(&server).await;

    // A team asks for a database.
    world.tenant.write(
        MANIFEST,
        "apiVersion: plumb.dev/v1\nkind: Database\nmetadata:\n  name: orders\n  environment: staging\n  labels: {owner: \
         team-checkout}\nspec:\n  # raised for the sale\n  connectionLimit: 20   # ask the dba before you raise it\n  \
         extensions: [pgcrypto]\n  roles:\n    - {name: app, access: readwrite}\n    - name: ro\n      access: read\n  \
         settings:\n    work_mem: 8MB\n",
    );
    world.tenant.commit("Add orders");

    // The plan says what will be done, and does nothing.
    let preview = world.plan().await;
    assert_eq!(preview.plan.steps.len(), 1, "{:#?}", preview.plan);
    assert_eq!(preview.plan.steps[0].action, Action::Create);
    assert!(
        server
            .query("postgres", "SELECT 1 FROM pg_database WHERE datname = 'checkout_staging_orders'")
            .await
            .is_empty()
    );

    // The apply does it, and a second one has nothing to do.
    let report = world.apply().await;
    assert_eq!(report.outcome, ExecutionOutcome::InSync, "{report:#?}");
    assert_eq!(report.plan.id, preview.plan.id, "what was shown is what was done");
    let again = world.apply().await;
    assert!(again.plan.is_in_sync() && again.done == 0, "{:#?}", again.plan);

    // An application logs in with the password that `secret get` shows, and may do what its role says.
    let shown = world.plumb(&["secret", "get", ORDERS, "app"]).output().unwrap();
    assert!(shown.status.success(), "{shown:?}");
    let password = String::from_utf8(shown.stdout).unwrap().trim_end().to_owned();
    let mut app =
        server.connect("checkout_staging_orders", "checkout_staging_orders_app", &password).await.expect("app logs in");
    server
        .psql_in("checkout_staging_orders", "SET ROLE checkout_staging_orders_owner; CREATE TABLE items (id int)")
        .await;
    sqlx::query("INSERT INTO items VALUES (7)").execute(&mut app).await.expect("readwrite writes to later tables");
    assert!(sqlx::query("CREATE TABLE mine (id int)").execute(&mut app).await.is_err(), "readwrite is not the schema");
    let read_password = world.password(ORDERS, "ro").await.unwrap();
    let mut reader = server
        .connect("checkout_staging_orders", "checkout_staging_orders_ro", &read_password)
        .await
        .expect("ro logs in");
    let row = sqlx::query("SELECT id FROM items").fetch_one(&mut reader).await.expect("read reads later tables");
    assert_eq!(row.get::<i32, _>(0), 7);
    assert!(sqlx::query("DELETE FROM items").execute(&mut reader).await.is_err());
    app.close().await.unwrap();
    reader.close().await.unwrap();

    // Somebody raises the limit by hand. It is held, and proposed.
    server.psql("ALTER DATABASE checkout_staging_orders CONNECTION LIMIT 50").await;
    let report = world.apply().await;
    assert_eq!(report.outcome, ExecutionOutcome::Blocked);
    assert_eq!(report.plan.drift.len(), 1);
    assert_eq!(report.plan.drift[0].mode, DriftMode::Propose);
    let proposal = world.proposal(ORDERS).await.expect("a proposal");
    assert_eq!(proposal.status, ProposalStatus::Open);
    assert_eq!(proposal.branch, "plumb/drift/staging/database-orders");
    assert_eq!(limit_of(&server).await, 50, "nothing is overwritten");
    let status = world.status(ORDERS).await.unwrap();
    assert_eq!(status.condition(ConditionType::Drifted).unwrap().reason, Reason::DriftProposed);

    // The branch is one commit that changes the one line, and keeps the comment.
    let before = world.tenant.show(&format!("main:{MANIFEST}"));
    let proposed = world.tenant.show(&format!("{}:{MANIFEST}", proposal.branch));
    assert_eq!(proposed, before.replace("connectionLimit: 20", "connectionLimit: 50"));
    assert_eq!(world.tenant.log(&proposal.branch).len(), world.tenant.log("main").len() + 1);

    // The team merges it, and everything is in plumb.
    world.tenant.merge(&proposal.branch, MergeHow::MergeCommit);
    let report = world.apply().await;
    assert_eq!(report.outcome, ExecutionOutcome::InSync, "{report:#?}");
    assert_eq!(report.done, 0, "what is live already is only recorded");
    assert_eq!(limit_of(&server).await, 50);
    assert!(world.proposal(ORDERS).await.is_none());
    assert!(!world.tenant.branches().contains(&proposal.branch), "Plumb deletes its own branch after the merge");
    assert!(world.plan().await.plan.is_in_sync());
    let record = &world.inventory().await.records[&parse(ORDERS)];
    assert_eq!(record.applied.get("/spec/connectionLimit"), Some(&50.into()));
}

async fn limit_of(server: &PostgresServer) -> i32 {
    let rows = server
        .query("postgres", "SELECT datconnlimit FROM pg_database WHERE datname = 'checkout_staging_orders'")
        .await;
    rows[0].get(0)
}

//! The server, asked over real HTTP.

mod fake;
mod sample;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use plumb::engine::view::{
    AttentionKind, CircuitState, DeadLetterView, EventView, ExecutionDetail, ExecutionView, Explanation, FieldState,
    OrphanKind, OrphanView, Overview, Page, ProposalView, ProviderView, ResourceDetail, ResourceView, StatusWord,
    TenantView,
};
use plumb::model::{Clock, Execution, ExecutionOutcome, Reason};
use plumb::web::{Limits, Look, Metrics, WebState, serve_within};
use reqwest::{Client, Method, Response, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use fake::{Data, FakeStore};

/// Every address that answers questions.
const READING: &[&str] = &[
    "/",
    "/style.css",
    "/health",
    "/ready",
    "/metrics",
    "/api/v1/overview",
    "/api/v1/tenants",
    "/api/v1/tenants/checkout",
    "/api/v1/resources",
    "/api/v1/resources/checkout/production/Database/orders",
    "/api/v1/resources/checkout/production/Database/orders/explain",
    "/api/v1/dead-letters",
    "/api/v1/proposals",
    "/api/v1/orphans",
    "/api/v1/providers",
    "/api/v1/executions",
    "/api/v1/executions/113",
    "/api/v1/events",
];

struct Stopped(DateTime<Utc>);

impl Clock for Stopped {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }
}

/// Remembers what was asked for; knows the tenant `checkout`.
#[derive(Default)]
struct Looks(Mutex<Vec<Option<String>>>);

impl Look for Looks {
    fn look(&self, tenant: Option<&str>, _: &str) -> bool {
        let known = tenant.is_none_or(|tenant| tenant == "checkout");
        if known {
            self.0.lock().unwrap().push(tenant.map(str::to_owned));
        }
        known
    }
}

struct Server {
    address: SocketAddr,
    client: Client,
    store: Arc<FakeStore>,
    ready: watch::Sender<bool>,
    looks: Arc<Looks>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

fn noon() -> DateTime<Utc> {
    "2026-03-14T12:00:00Z".parse().unwrap()
}

impl Server {
    async fn start() -> Self {
        Self::with(sample::platform(noon())).await
    }

    async fn with(data: Data) -> Self {
        Self::within(Limits::default(), data).await
    }

    async fn within(limits: Limits, data: Data) -> Self {
        // The client needs to know of TLS even where it speaks none; a second installation is refused, and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = Arc::new(FakeStore::new(data));
        let (ready, first_pass) = watch::channel(true);
        let looks = Arc::new(Looks::default());
        // Counters begin a day before the sample's executions.
        let started = Stopped(noon() - chrono::Duration::days(1));
        let state = WebState {
            store: store.clone(),
            clock: Arc::new(Stopped(noon())),
            ready: first_pass,
            look: looks.clone(),
            metrics: Arc::new(Metrics::new(&started)),
        };
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve_within(limits, listener, state, async { stopped.await.unwrap_or(()) }));
        let client = Client::builder().no_proxy().build().unwrap();
        Self { address, client, store, ready, looks, stop: Some(stop), served }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    async fn json<T: DeserializeOwned>(&self, path: &str) -> T {
        let response = self.get(path).await;
        let (status, body) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// The status of an error, and its two sentences.
    async fn refused(&self, response: Response) -> (StatusCode, String, String) {
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        assert_eq!(body.as_object().unwrap().len(), 2);
        (status, text("error"), text("help"))
    }

    /// Bytes as no client would send them; the first line of the answer.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
    }
}

#[tokio::test]
async fn the_overview_counts_everything_and_lists_what_waits_for_a_person() {
    let server = Server::start().await;
    let overview: Overview = server.json("/api/v1/overview").await;
    assert_eq!(overview.platform.unwrap().id.0, "acme-platform");
    let counts = overview.resources;
    assert_eq!(counts.total, 27);
    assert_eq!((counts.drifted, counts.stalled, counts.reconciling, counts.ready), (1, 5, 2, 19));
    assert_eq!(counts.not_ready + counts.unknown, 0);
    assert_eq!((overview.open_proposals, overview.orphans, overview.frozen, overview.retained), (1, 1, 1, 1));
    let tenants = overview.tenants;
    assert_eq!((tenants.total, tenants.ready, tenants.failing, tenants.held, tenants.removed), (5, 1, 1, 1, 1));
    let kinds: Vec<AttentionKind> = overview.attention.iter().map(|one| one.kind).collect();
    assert!(kinds.is_sorted(), "the most urgent come first: {kinds:?}");
    let held =
        overview.attention.iter().find(|one| one.key == Some(sample::key("billing/production/Database/payouts")));
    assert!(held.unwrap().help.as_ref().unwrap().contains("Plumb-Approve-Deletes: a41f09c27be3"));
    assert_eq!(overview.attention_total, overview.attention.len());
    assert_eq!(overview.last_execution.unwrap().execution.outcome, ExecutionOutcome::Running);
}

#[tokio::test]
async fn a_tenant_shows_its_repository_and_how_it_stands() {
    let server = Server::start().await;
    let tenants: Page<TenantView> = server.json("/api/v1/tenants").await;
    let names: Vec<&str> = tenants.items.iter().map(|tenant| tenant.tenant.as_str()).collect();
    assert_eq!(names, ["billing", "checkout", "identity", "legacy-intranet-and-wiki", "search"]);
    let billing: TenantView = server.json("/api/v1/tenants/billing").await;
    assert_eq!(billing, tenants.items[0], "one by one is what the list says");
    assert_eq!(billing.url, "https://git.example.net/acme/billing.git");
    assert_eq!(billing.held_plans[0].keys.len(), 3);
    assert_eq!((billing.findings[0].line, billing.findings[0].column), (Some(4), Some(3)));
    assert_eq!(billing.age_seconds, 41);
    assert_eq!(billing.environments.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["production", "staging"]);
    let (status, error, _) = server.refused(server.get("/api/v1/tenants/nobody").await).await;
    assert_eq!((status, error.as_str()), (StatusCode::NOT_FOUND, "there is no tenant \"nobody\""));
}

#[tokio::test]
async fn resources_are_filtered_by_all_that_is_asked() {
    let server = Server::start().await;
    for (filter, count) in [
        ("tenant=checkout", 7),
        ("tenant=checkout&environment=production", 3),
        ("kind=Cache", 2),
        ("kind=cache&environment=staging", 1),
        ("status=Drifted", 1),
        ("ready=Unknown", 1),
        ("ready=false&status=stalled", 5),
        ("text=POSTGIS", 1),
        ("text=sqlite-edge", 9),
        ("tenant=&status=&text=", 27),
        ("tenant=nobody", 0),
    ] {
        let page: Page<ResourceView> = server.json(&format!("/api/v1/resources?{filter}")).await;
        assert_eq!((page.items.len(), page.total), (count, Some(count)), "{filter}");
    }
    let page: Page<ResourceView> = server.json("/api/v1/resources?status=Drifted").await;
    let orders = &page.items[0];
    assert_eq!(orders.key, sample::key("checkout/production/Database/orders"));
    assert_eq!((orders.status, orders.age_seconds), (StatusWord::Drifted, Some(5400)));
    assert_eq!(orders.revision, format!("main@sha1:{}", sample::HEAD));
    assert_eq!(orders.outputs["host"], "pg-main.internal");
}

#[tokio::test]
async fn pages_of_resources_are_whole_and_do_not_overlap() {
    let server = Server::start().await;
    let all: Page<ResourceView> = server.json("/api/v1/resources").await;
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page: Page<ResourceView> = server.json(&format!("/api/v1/resources?limit=5&after={after}")).await;
        assert!(page.items.len() <= 5);
        assert_eq!(page.total, Some(27));
        seen.extend(page.items);
        let Some(next) = page.next else { break };
        after = next;
    }
    assert_eq!(seen, all.items);
}

#[tokio::test]
async fn a_resource_shows_git_live_and_applied_side_by_side() {
    let server = Server::start().await;
    let orders: ResourceDetail = server.json("/api/v1/resources/checkout/production/Database/orders").await;
    let off: Vec<(&str, FieldState)> = orders
        .rows
        .iter()
        .filter(|row| row.state != FieldState::Same)
        .map(|row| (row.path.as_str(), row.state))
        .collect();
    assert_eq!(off, [("/spec/connectionLimit", FieldState::Drifted), ("/spec/roles/ro/access", FieldState::Drifted)]);
    assert!(orders.diff.contains("-  connectionLimit: 20\n+  connectionLimit: 50\n"), "{}", orders.diff);
    assert_eq!(orders.record.unwrap().depends_on, [sample::key("checkout/production/Cache/sessions")]);
    let proposal = orders.proposal.unwrap();
    assert_eq!(proposal.decline.lines, ["git push origin --delete plumb/drift/production/database-orders"]);
    assert_eq!(proposal.url, "https://git.example.net/acme/checkout.git");
    assert!(orders.view.conditions.iter().all(|condition| !condition.explanation.is_empty()));
    assert_eq!(orders.events.len(), 2);

    let sessions: ResourceDetail = server.json("/api/v1/resources/checkout/production/Cache/sessions").await;
    assert_eq!(sessions.dependents, [sample::key("checkout/production/Database/orders")]);
    assert_eq!(sessions.diff, "");
}

#[tokio::test]
async fn what_could_not_be_seen_is_not_shown_as_a_difference() {
    let server = Server::start().await;
    let ledger: ResourceDetail = server.json("/api/v1/resources/billing/production/Database/ledger").await;
    assert!(ledger.rows.iter().all(|row| row.state == FieldState::Unknown));
    assert_eq!(ledger.view.until, Some(noon() + chrono::TimeDelta::seconds(40)), "it says when it goes on");
    assert_eq!(ledger.diff, "");
}

#[tokio::test]
async fn an_unknown_key_is_answered_with_how_to_find_keys() {
    let server = Server::start().await;
    for path in ["checkout/production/Database/nothing", "checkout/production/Nope/orders", "a/b/c/d"] {
        let (status, _, help) = server.refused(server.get(&format!("/api/v1/resources/{path}")).await).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert!(help.contains("/api/v1/resources"), "{help}");
    }
}

#[tokio::test]
async fn hostile_paths_and_filters_are_refused_and_the_server_goes_on() {
    let server = Server::start().await;
    let long = "x".repeat(6000);
    for (path, status) in [
        ("/api/v1/resources/..%2f..%2fetc/passwd/Database/x".to_owned(), StatusCode::NOT_FOUND),
        ("/api/v1/resources/a/b/Database/c%2Fd".to_owned(), StatusCode::NOT_FOUND),
        ("/api/v1/resources/a/b/Database/%00".to_owned(), StatusCode::NOT_FOUND),
        ("/api/v1/resources/a/b/Database/%0d%0aSet-Cookie:x".to_owned(), StatusCode::NOT_FOUND),
        ("/api/v1/resources/a/b/Database/%ff%fe".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/resources/a/b/Database/'%20OR%201=1;--".to_owned(), StatusCode::NOT_FOUND),
        (format!("/api/v1/resources/a/b/Database/{long}"), StatusCode::NOT_FOUND),
        ("/api/v1/resources/a/b/Database/<script>".to_owned(), StatusCode::NOT_FOUND),
        ("/api/v1/tenants/%F0%9F%92%A9".to_owned(), StatusCode::NOT_FOUND),
        ("/api/v1/tenants/%00".to_owned(), StatusCode::NOT_FOUND),
        ("/api/v1/resources?tenant=a%00".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/resources?environment=%00".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/resources?text=%1b".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/proposals?tenant=%00".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/orphans?tenant=%00".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/executions?tenant=%00".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/events?tenant=%00".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/executions/99999999999999999999999999".to_owned(), StatusCode::NOT_FOUND),
        ("/api/v1/executions/-1".to_owned(), StatusCode::NOT_FOUND),
        ("/api/v1/executions/1e3".to_owned(), StatusCode::NOT_FOUND),
        ("/api/v1/resources?kind=Nope".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/resources?ready=perhaps".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/resources?nonsense=1".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/resources?limit=-5".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/resources?limit=5&limit=6".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/resources?after=nonsense".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/events?key=a/b".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/events?before=99999999999999999999".to_owned(), StatusCode::BAD_REQUEST),
        ("/api/v1/nothing".to_owned(), StatusCode::NOT_FOUND),
        ("/api/v2/overview".to_owned(), StatusCode::NOT_FOUND),
        ("/../../etc/passwd".to_owned(), StatusCode::NOT_FOUND),
        ("/%2e%2e/Cargo.toml".to_owned(), StatusCode::NOT_FOUND),
    ] {
        let (answered, error, help) = server.refused(server.get(&path).await).await;
        assert_eq!(answered, status, "{path}: {error}");
        assert!(!error.is_empty() && !help.is_empty(), "{path}");
    }
    assert_eq!(server.get("/health").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn too_much_is_refused_before_it_is_read() {
    let server = Server::start().await;
    let path = format!("/api/v1/resources?text={}", "x".repeat(9000));
    assert_eq!(server.get(&path).await.status(), StatusCode::URI_TOO_LONG);
    let padded = server.client.get(server.url("/health")).header("x-padding", "y".repeat(40_000)).send().await.unwrap();
    assert_eq!(padded.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let flood = [b"GET /health HTTP/1.1\r\nx: ".as_slice(), &vec![b'z'; 200_000]].concat();
    assert!(server.raw(&flood).await.starts_with("HTTP/1.1 431"));
    assert!(server.raw(b"GET /\x00 HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert_eq!(server.get("/health").await.status(), StatusCode::OK);
}

/// So many of one tenant, that all ended well.
fn executions(count: i64) -> Vec<Execution> {
    let ended = |id: i64| Execution {
        id,
        tenant: "checkout".into(),
        trigger: plumb::model::Trigger::Poll,
        commit: None,
        plan: None,
        outcome: ExecutionOutcome::InSync,
        summary: plumb::model::Summary::default(),
        started_at: noon() - chrono::Duration::seconds(count - id),
        finished_at: Some(noon() - chrono::Duration::seconds(count - id)),
    };
    (1..=count).map(ended).collect()
}

#[tokio::test]
async fn the_longest_page_is_bounded_whatever_is_asked() {
    let data = Data { executions: executions(1500), ..Data::default() };
    let server = Server::with(data).await;
    let page: Page<ExecutionView> = server.json("/api/v1/executions?limit=4000000000").await;
    assert_eq!(page.items.len(), 1000);
    let next = page.next.unwrap();
    let rest: Page<ExecutionView> = server.json(&format!("/api/v1/executions?limit=1000&before={next}")).await;
    assert_eq!((rest.items.len(), rest.next), (500, None));
    assert_eq!(rest.items[0].execution.id, page.items[999].execution.id - 1);
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("plumb_executions_total{outcome=\"InSync\"} 1500"), "{metrics}");
}

#[tokio::test]
async fn a_timeline_tells_what_happened_in_order() {
    let server = Server::start().await;
    let failed: ExecutionDetail = server.json("/api/v1/executions/113").await;
    assert_eq!(failed.view.execution.outcome, ExecutionOutcome::Failed);
    assert_eq!(failed.view.duration_millis, Some(1843));
    assert!(failed.events.iter().map(|view| view.event.id).is_sorted());
    assert_eq!(failed.events[0].text, "Read commit 9f1c2ab4: 9 manifests, 2 changed");
    assert_eq!(failed.earlier, None);

    let newest: Page<EventView> = server.json("/api/v1/events?limit=3").await;
    let ids: Vec<i64> = newest.items.iter().map(|view| view.event.id).collect();
    assert_eq!(ids, [1009, 1008, 1007], "newest first");
    let older: Page<EventView> = server.json("/api/v1/events?limit=3&before=1007").await;
    assert_eq!(older.items[0].event.id, 1006);
    let of_one: Page<EventView> = server.json("/api/v1/events?key=checkout/staging/Database/carts").await;
    assert_eq!(of_one.items.len(), 2);
    let of_other: Page<EventView> = server.json("/api/v1/events?tenant=search").await;
    assert_eq!(of_other.items.len(), 0);
    let of_execution: Page<EventView> = server.json("/api/v1/events?execution=113").await;
    assert_eq!(of_execution.items.len(), 9);
}

#[tokio::test]
async fn proposals_say_how_they_are_decided_and_orphans_why_they_stay() {
    let server = Server::start().await;
    let proposals: Page<ProposalView> = server.json("/api/v1/proposals").await;
    assert_eq!(proposals.items.iter().map(|one| one.undecided).collect::<Vec<_>>(), [true, false]);
    assert_eq!(
        proposals.items[0].accept.lines,
        [
            "git fetch origin",
            "git switch main",
            "git pull --ff-only",
            "git merge origin/plumb/drift/production/database-orders",
            "git push origin main",
        ]
    );
    assert!(proposals.items[1].accept.lines.is_empty(), "there is nothing left to decide");
    let orphans: Page<OrphanView> = server.json("/api/v1/orphans").await;
    let kinds: Vec<OrphanKind> = orphans.items.iter().map(|one| one.kind).collect();
    assert_eq!(kinds, [OrphanKind::Orphaned, OrphanKind::Frozen, OrphanKind::Retained]);
    let mine: Page<OrphanView> = server.json("/api/v1/orphans?tenant=search").await;
    assert_eq!(mine.items.len(), 2);
}

#[tokio::test]
async fn providers_say_whether_they_answer_and_how_what_is_on_them_stands() {
    let server = Server::start().await;
    let providers: Page<ProviderView> = server.json("/api/v1/providers").await;
    let one = |name: &str| providers.items.iter().find(|one| one.provider == name).expect("it is listed").clone();
    let open = one("pg-ledger");
    assert_eq!((open.circuit, open.failures, open.reason), (CircuitState::Open, 6, Some(Reason::ProviderUnreachable)));
    assert_eq!((open.until, open.age_seconds), (Some(noon() + chrono::Duration::seconds(40)), Some(310)));
    assert_eq!(open.message, "pg-ledger:5432 did not accept a connection within 5s");
    assert_eq!((open.counts.total, open.counts.ready), (1, 0));
    // Silent, but not often enough in a row.
    let silent = one("redis-main");
    assert_eq!((silent.circuit, silent.failures, silent.until), (CircuitState::Closed, 1, None));
    let good = one("pg-main");
    assert_eq!((good.circuit, good.failures, good.reason, good.since), (CircuitState::Closed, 0, None, None));
    assert!(good.counts.total > 0 && good.message.is_empty());
    // The page shows the same.
    let overview: Overview = server.json("/api/v1/overview").await;
    assert_eq!(overview.providers, providers.items);
    // A tenant's are those that it has something on.
    let mine: Page<ProviderView> = server.json("/api/v1/providers?tenant=billing").await;
    let names: Vec<&str> = mine.items.iter().map(|one| one.provider.as_str()).collect();
    assert_eq!(names, ["pg-ledger", "pg-main"]);
    // Once its time has come one may ask it.
    let mut data = sample::platform(noon());
    data.circuits.get_mut("pg-ledger").unwrap().retry_at = Some(noon());
    let server = Server::with(data).await;
    let providers: Page<ProviderView> = server.json("/api/v1/providers").await;
    let half_open = providers.items.iter().find(|one| one.provider == "pg-ledger").unwrap();
    assert_eq!((half_open.circuit, half_open.until), (CircuitState::HalfOpen, None));
}

#[tokio::test]
async fn what_a_server_answers_reads_back_as_it_was() {
    async fn same<T: Serialize + DeserializeOwned>(server: &Server, path: &str) {
        let sent: Value = server.json(path).await;
        assert!(sent["items"].as_array().is_none_or(|items| !items.is_empty()), "{path} says nothing");
        let read: T = serde_json::from_value(sent.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), sent, "{path}");
    }
    let server = Server::start().await;
    same::<Overview>(&server, "/api/v1/overview").await;
    same::<Page<TenantView>>(&server, "/api/v1/tenants").await;
    same::<Page<ResourceView>>(&server, "/api/v1/resources").await;
    same::<ResourceDetail>(&server, "/api/v1/resources/checkout/production/Database/orders").await;
    same::<Explanation>(&server, "/api/v1/resources/checkout/staging/Database/reports/explain").await;
    same::<Page<DeadLetterView>>(&server, "/api/v1/dead-letters").await;
    same::<Page<ProposalView>>(&server, "/api/v1/proposals").await;
    same::<Page<OrphanView>>(&server, "/api/v1/orphans").await;
    same::<Page<ProviderView>>(&server, "/api/v1/providers").await;
    same::<Page<ExecutionView>>(&server, "/api/v1/executions").await;
    same::<ExecutionDetail>(&server, "/api/v1/executions/113").await;
    same::<Page<EventView>>(&server, "/api/v1/events").await;
}

#[tokio::test]
async fn no_answer_holds_the_password_of_a_repository() {
    let server = Server::start().await;
    for path in READING {
        let body = server.get(path).await.text().await.unwrap();
        assert!(!body.contains("hunter2"), "{path}");
    }
}

#[tokio::test]
async fn ready_waits_for_the_first_pass_and_for_the_store() {
    let server = Server::start().await;
    server.ready.send(false).unwrap();
    let (status, error, _) = server.refused(server.get("/ready").await).await;
    assert_eq!((status, error.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not every tenant has been looked at yet"));
    server.ready.send(true).unwrap();
    assert_eq!(server.get("/ready").await.status(), StatusCode::OK);
    server.store.set(None);
    let (status, error, _) = server.refused(server.get("/ready").await).await;
    assert_eq!((status, error.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "the state store does not answer"));
    assert_eq!(server.get("/health").await.status(), StatusCode::OK, "the process itself is up");
    assert_eq!(server.get("/api/v1/overview").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(server.get("/metrics").await.text().await.unwrap().contains("\nplumb_store_up 0\n"));
}

#[tokio::test]
async fn metrics_are_what_the_store_says_and_what_was_asked() {
    let server = Server::start().await;
    server.get("/api/v1/resources/a/b/Database/c").await;
    server.get("/api/v1/resources/a/b/Database/d").await;
    let response = server.get("/metrics").await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    let text = response.text().await.unwrap();
    for line in [
        "plumb_ready 1",
        "plumb_store_up 1",
        "plumb_resources{tenant=\"checkout\",condition=\"Ready\",status=\"False\"} 3",
        "plumb_drifted{tenant=\"checkout\"} 1",
        "plumb_drifted{tenant=\"search\"} 0",
        "plumb_open_proposals{tenant=\"checkout\"} 1",
        "plumb_orphans{tenant=\"search\"} 1",
        "plumb_circuit_open{provider=\"pg-ledger\"} 1",
        "plumb_circuit_open{provider=\"pg-main\"} 0",
        "plumb_circuit_failures{provider=\"pg-ledger\"} 6",
        "plumb_circuit_failures{provider=\"redis-main\"} 1",
        "plumb_executions_total{outcome=\"InSync\"} 12",
        "plumb_executions_total{outcome=\"Failed\"} 2",
        "plumb_last_execution_age_seconds{tenant=\"checkout\"} 2",
        "plumb_tenants{state=\"total\"} 5",
        "plumb_http_requests_total{method=\"GET\",route=\"/api/v1/resources/{tenant}/{environment}/{kind}/{name}\",status=\"404\"} 2",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("plumb_build_info{version=\""));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

#[tokio::test]
async fn a_password_that_was_shown_is_no_look() {
    let server = Server::start().await;
    let told = async || {
        let text = server.get("/metrics").await.text().await.unwrap();
        let is_of_looks = |line: &&str| {
            ["plumb_executions_total{", "plumb_last_execution_age_seconds{"].iter().any(|of| line.starts_with(of))
        };
        let metrics: Vec<String> = text.lines().filter(is_of_looks).map(str::to_owned).collect();
        let overview: Overview = server.json("/api/v1/overview").await;
        let tenant: TenantView = server.json("/api/v1/tenants/checkout").await;
        let looks = [overview.last_execution, tenant.last_execution].map(|look| look.unwrap().execution.id);
        (metrics, looks)
    };
    let before = told().await;
    let mut data = sample::platform(noon());
    let last = data.executions.iter().rfind(|execution| execution.tenant == "checkout").unwrap();
    let shown = Execution {
        id: data.executions.last().unwrap().id + 1,
        trigger: plumb::model::Trigger::SecretShown,
        outcome: ExecutionOutcome::InSync,
        started_at: noon(),
        finished_at: Some(noon()),
        ..last.clone()
    };
    data.executions.push(shown);
    server.store.set(Some(data));
    assert_eq!(told().await, before);
}

#[tokio::test]
async fn an_execution_is_counted_once_when_it_ends() {
    let server = Server::start().await;
    let failed = "plumb_executions_total{outcome=\"Failed\"}";
    let count = async || {
        let text = server.get("/metrics").await.text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(failed).map(str::trim).map(str::to_owned)).unwrap()
    };
    assert_eq!(count().await, "2");
    assert_eq!(count().await, "2", "a second scrape counts nothing twice");
    let mut data = sample::platform(noon());
    data.executions.last_mut().unwrap().outcome = ExecutionOutcome::Failed;
    server.store.set(Some(data));
    assert_eq!(count().await, "3", "the one that ran has ended");
    assert_eq!(count().await, "3");
}

#[tokio::test]
async fn an_execution_that_never_ends_does_not_make_every_scrape_long() {
    const PAGES_OF_RECENT_ONES: usize = 1500;
    let mut data = Data { executions: executions(5000), ..Data::default() };
    data.executions[0].outcome = ExecutionOutcome::Running;
    let server = Server::with(data.clone()).await;
    let scrape = async || server.get("/metrics").await.text().await.unwrap();
    assert!(scrape().await.contains("plumb_executions_total{outcome=\"InSync\"} 4999"));
    let before = server.store.seen().executions.load(Ordering::SeqCst);
    assert!(scrape().await.contains("plumb_executions_total{outcome=\"InSync\"} 4999"));
    let read = server.store.seen().executions.load(Ordering::SeqCst) - before;
    assert!(read < PAGES_OF_RECENT_ONES, "{read} were read again");
    data.executions[0].outcome = ExecutionOutcome::Failed;
    server.store.set(Some(data.clone()));
    assert!(scrape().await.contains("plumb_executions_total{outcome=\"Failed\"} 1"), "it is counted when it ends");
    data.executions.remove(0);
    server.store.set(Some(data));
    assert!(scrape().await.contains("plumb_executions_total{outcome=\"Failed\"} 1"));
}

#[tokio::test]
async fn few_whole_states_are_read_at_once_however_many_ask() {
    const MOST: usize = 2;
    let server = Server::start().await;
    let paths = ["/api/v1/resources", "/api/v1/overview", "/api/v1/tenants", "/api/v1/orphans", "/api/v1/proposals"];
    let asked = paths.iter().cycle().take(20).map(|path| server.get(path));
    for answer in futures::future::join_all(asked).await {
        assert_eq!(answer.status(), StatusCode::OK);
    }
    assert!(server.store.seen().most_inventories.load(Ordering::SeqCst) <= MOST);
}

#[tokio::test]
async fn one_resource_is_explained_without_the_whole_state() {
    let server = Server::start().await;
    for key in ["checkout/staging/Database/orders", "billing/production/Database/payouts"] {
        assert_eq!(server.get(&format!("/api/v1/resources/{key}/explain")).await.status(), StatusCode::OK, "{key}");
    }
    assert_eq!(server.store.seen().most_inventories.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_page_is_served_with_careful_headers_and_strong_tags() {
    let server = Server::start().await;
    let views = [
        "/",
        "/resources",
        "/tenants/checkout",
        "/resources/a/b/Database/c",
        "/proposals",
        "/orphans",
        "/executions/3",
    ];
    for path in views {
        let response = server.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let headers = response.headers();
        assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'self';"));
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(response.text().await.unwrap().contains("<plumb-app>"), "{path}");
    }
    for (path, content_type) in [
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/views/overview.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let response = server.get(path).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], content_type, "{path}");
        let tag = response.headers()[header::ETAG].clone();
        assert!(tag.to_str().unwrap().starts_with('"'), "a strong tag");
        let again = server.client.get(server.url(path)).header(header::IF_NONE_MATCH, &tag).send().await.unwrap();
        assert_eq!((again.status(), again.headers()[header::ETAG].clone()), (StatusCode::NOT_MODIFIED, tag), "{path}");
        assert!(again.bytes().await.unwrap().is_empty());
    }
    let api = server.get("/api/v1/overview").await;
    assert_eq!(api.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(api.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    let mistyped = server.client.get(server.url("/nothing")).header(header::ACCEPT, "text/html").send().await.unwrap();
    assert_eq!(mistyped.status(), StatusCode::NOT_FOUND);
    assert!(mistyped.text().await.unwrap().contains("<plumb-app>"), "a person gets the page");
}

#[tokio::test]
async fn nothing_can_be_written_but_the_wish_for_a_look() {
    let server = Server::start().await;
    let unknown = ["/nothing", "/api/v1/nothing", "/resources/a/b/Database/c"];
    for path in READING.iter().chain(&unknown) {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS, Method::TRACE] {
            let request =
                server.client.request(method.clone(), server.url(path)).header("x-plumb-request", "1").body("{}");
            let response = request.send().await.unwrap();
            assert_eq!(response.headers()[header::ALLOW], "GET, HEAD", "{method} {path}");
            assert_eq!(server.refused(response).await.0, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
    for path in ["/api/v1/reconcile", "/api/v1/tenants/checkout/reconcile"] {
        for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
            let response = server.client.request(method.clone(), server.url(path)).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(response.headers()[header::ALLOW], "POST");
        }
    }
    assert!(server.looks.0.lock().unwrap().is_empty());
    assert_eq!(server.client.head(server.url("/api/v1/overview")).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_look_is_asked_for_from_this_machine_and_on_purpose() {
    let server = Server::start().await;
    let ask = |path: &str, headers: &[(&str, &str)]| {
        let mut request = server.client.post(server.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send()
    };
    let one = "/api/v1/tenants/checkout/reconcile";
    let purpose = ("x-plumb-request", "1");
    for (headers, why) in [
        (vec![], "without the header"),
        (vec![("x-plumb-request", "0")], "with another value"),
        (vec![purpose, ("origin", "https://evil.example")], "from another site's page"),
        (vec![purpose, ("origin", "null")], "from a page of no origin"),
        (vec![purpose, ("host", "evil.example")], "through a name that was made to point here"),
        (vec![purpose, ("x-forwarded-for", "203.0.113.7")], "through a proxy"),
        (vec![purpose, ("forwarded", "for=203.0.113.7")], "through a proxy"),
    ] {
        let response = ask(one, &headers).await.unwrap();
        assert_eq!(server.refused(response).await.0, StatusCode::FORBIDDEN, "{why}");
    }
    assert!(server.looks.0.lock().unwrap().is_empty(), "nothing was marked");

    assert_eq!(ask(one, &[purpose]).await.unwrap().status(), StatusCode::ACCEPTED);
    let own = format!("http://{}", server.address);
    assert_eq!(ask(one, &[purpose, ("origin", &own)]).await.unwrap().status(), StatusCode::ACCEPTED);
    assert_eq!(ask("/api/v1/reconcile", &[purpose]).await.unwrap().status(), StatusCode::ACCEPTED);
    let response = ask("/api/v1/tenants/nobody/reconcile", &[purpose]).await.unwrap();
    assert_eq!(server.refused(response).await.0, StatusCode::NOT_FOUND);
    let checkout = Some("checkout".to_owned());
    assert_eq!(*server.looks.0.lock().unwrap(), [checkout.clone(), checkout, None]);
}

#[tokio::test]
async fn a_client_that_reads_no_answer_makes_room_for_others() {
    const LONGER_THAN_ANY_BOUND: Duration = Duration::from_secs(20);
    let limits = Limits { connections: 1, read_within: Duration::from_millis(200) };
    let server = Server::within(limits, Data::default()).await;
    let mut deaf = TcpStream::connect(server.address).await.unwrap();
    deaf.write_all(b"GET /app.js HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    // Asks until its connection is ended; meanwhile answers fill every buffer on the way.
    let asking = async { while deaf.write_all(b"GET /app.js HTTP/1.1\r\nhost: localhost\r\n\r\n").await.is_ok() {} };
    tokio::time::timeout(LONGER_THAN_ANY_BOUND, asking).await.expect("the server ends the connection");
    let answer = tokio::time::timeout(LONGER_THAN_ANY_BOUND, server.get("/health")).await.expect("there is room");
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_server_stops_though_a_client_keeps_its_connection() {
    const LONGER_THAN_GRACE: Duration = Duration::from_secs(20);
    let mut server = Server::start().await;
    // One idle connection that is kept, and one in the middle of its first line.
    assert_eq!(server.get("/health").await.status(), StatusCode::OK);
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(b"GET /hea").await.unwrap();
    server.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(LONGER_THAN_GRACE, &mut server.served).await.expect("it stops").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

//! Prometheus text: gauges derived from the store at each scrape, and counters of this process.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};
use std::sync::Mutex;

use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};

use super::WebState;
use crate::engine::view::{self, CircuitState, Gauges, ProviderView, ResourceGauge, TenantCounts};
use crate::model::{Clock, Execution, ExecutionOutcome};
use crate::store::{HistoryFilter, Scope, Store, StoreError};

/// How many executions are read at once while counting.
const EXECUTIONS_PAGE: u32 = 500;

/// The counters of this process.
pub struct Metrics {
    /// Executions are counted from here on: counters begin with the process.
    started: DateTime<Utc>,
    requests: Mutex<BTreeMap<(&'static str, String, u16), u64>>,
    executions: tokio::sync::Mutex<Executions>,
}

/// Ended executions, each counted once.
#[derive(Default)]
struct Executions {
    /// All with a number up to this were seen, or began before the process.
    seen_to: i64,
    /// Those of them that had not ended.
    running: BTreeSet<i64>,
    totals: BTreeMap<&'static str, u64>,
}

impl Metrics {
    /// Counters at zero, from now on.
    pub fn new(clock: &dyn Clock) -> Self {
        Self { started: clock.now(), requests: Mutex::default(), executions: tokio::sync::Mutex::default() }
    }

    pub(super) fn count_request(&self, method: &Method, route: String, status: StatusCode) {
        // Methods are the client's words; the few that mean anything are kept apart.
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            _ => "other",
        };
        let mut requests = self.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *requests.entry((method, route, status.as_u16())).or_default() += 1;
    }

    /// Counts the executions that ended since the last time.
    async fn count_executions(&self, store: &dyn Store) -> Result<BTreeMap<&'static str, u64>, StoreError> {
        let mut known = self.executions.lock().await;
        let mut tx = store.read(Scope::Platform).await?;
        let mut looked_at = Vec::new();
        // One that never ends costs a question of its own, and not all that came after it.
        for id in &known.running {
            let one = HistoryFilter { execution: Some(*id), limit: 1, ..HistoryFilter::default() };
            looked_at.extend(tx.executions(&one).await?);
        }
        let mut filter = HistoryFilter { limit: EXECUTIONS_PAGE, ..HistoryFilter::default() };
        loop {
            let page = tx.executions(&filter).await?;
            let is_full = page.len() >= EXECUTIONS_PAGE as usize;
            filter.before = page.last().map(|last| last.id);
            let is_new = |one: &Execution| one.id > known.seen_to && one.started_at >= self.started;
            let reached_known = !page.iter().all(is_new);
            looked_at.extend(page.into_iter().filter(is_new));
            if reached_known || !is_full {
                break;
            }
        }
        known.count(&looked_at);
        Ok(known.totals.clone())
    }
}

impl Executions {
    /// Counts those that ended, of all that ran at the last look and began since. Those that ran and are gone were
    /// forgotten with the history.
    fn count(&mut self, looked_at: &[Execution]) {
        self.running.clear();
        for execution in looked_at {
            self.seen_to = self.seen_to.max(execution.id);
            if !execution.trigger.is_look() {
                continue;
            }
            match outcome_name(execution.outcome) {
                None => drop(self.running.insert(execution.id)),
                Some(name) => *self.totals.entry(name).or_default() += 1,
            }
        }
    }
}

/// The label of an execution that ended; `None` while it runs.
fn outcome_name(outcome: ExecutionOutcome) -> Option<&'static str> {
    match outcome {
        ExecutionOutcome::Running => None,
        ExecutionOutcome::InSync => Some("InSync"),
        ExecutionOutcome::Blocked => Some("Blocked"),
        ExecutionOutcome::Failed => Some("Failed"),
        ExecutionOutcome::Interrupted => Some("Interrupted"),
    }
}

/// Metrics of the process are there even when the store is not.
pub(super) async fn scrape(State(web): State<WebState>) -> Response {
    let mut text = Text::default();
    text.family("plumb_build_info", "gauge", "The version of plumb.");
    text.sample("plumb_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.family("plumb_ready", "gauge", "Whether every tenant has been looked at, by this process or another.");
    text.sample("plumb_ready", &[], u8::from(*web.ready.borrow()));
    text.family("plumb_http_requests_total", "counter", "Requests by method, route and status.");
    let requests = web.metrics.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    for ((method, route, status), count) in &requests {
        let labels = [("method", *method), ("route", route), ("status", &status.to_string())];
        text.sample("plumb_http_requests_total", &labels, count);
    }
    let derived = async {
        let gauges = view::gauges(&*web.store, &*web.clock).await?;
        Ok::<_, StoreError>((gauges, web.metrics.count_executions(&*web.store).await?))
    };
    text.family("plumb_store_up", "gauge", "Whether the state store answers; without it only this process is shown.");
    match derived.await {
        Ok((gauges, executions)) => {
            text.sample("plumb_store_up", &[], 1);
            text.gauges(&gauges);
            text.executions(&executions);
        }
        Err(error) => {
            tracing::error!(%error, "the state store did not answer a scrape");
            text.sample("plumb_store_up", &[], 0);
        }
    }
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, content_type)], text.0).into_response()
}

/// The exposition format.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        if labels.is_empty() {
            return self.line(format_args!("{name} {value}"));
        }
        let labels: Vec<String> = labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        self.line(format_args!("{name}{{{}}} {value}", labels.join(",")));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("a string takes every write");
    }

    fn by_tenant(&mut self, name: &str, help: &str, values: &BTreeMap<String, impl Display>) {
        self.family(name, "gauge", help);
        for (tenant, value) in values {
            self.sample(name, &[("tenant", tenant)], value);
        }
    }

    fn gauges(&mut self, gauges: &Gauges) {
        let Gauges {
            resources,
            drifted,
            open_proposals,
            orphans,
            findings,
            last_execution_age_seconds,
            tenants: TenantCounts { total, ready, failing, held, removed },
            providers,
            platform_rejected,
        } = gauges;
        self.family("plumb_tenants", "gauge", "Tenants: all, and by how they stand.");
        for (state, count) in
            [("total", total), ("ready", ready), ("failing", failing), ("held", held), ("removed", removed)]
        {
            self.sample("plumb_tenants", &[("state", state)], count);
        }
        self.family("plumb_platform_rejected", "gauge", "Whether the platform repository's head does not validate.");
        self.sample("plumb_platform_rejected", &[], platform_rejected);
        self.family("plumb_resources", "gauge", "Resources by tenant, condition and its status.");
        for (ResourceGauge { tenant, condition, status }, count) in resources {
            let labels = [("tenant", tenant.as_str()), ("condition", &format!("{condition:?}")), ("status", status)];
            self.sample("plumb_resources", &labels, count);
        }
        self.by_tenant("plumb_drifted", "Resources whose live values differ from what was applied.", drifted);
        self.by_tenant("plumb_open_proposals", "Proposals that wait for a person.", open_proposals);
        self.by_tenant("plumb_orphans", "Marked objects that nobody asks for.", orphans);
        self.by_tenant("plumb_findings", "Findings at the head of each tenant's branch.", findings);
        self.by_tenant(
            "plumb_last_execution_age_seconds",
            "Seconds since each tenant's newest execution ended, or began if it runs.",
            last_execution_age_seconds,
        );
        self.circuits(providers);
    }

    fn circuits(&mut self, providers: &[ProviderView]) {
        self.family("plumb_circuit_open", "gauge", "Whether nobody asks a provider, but one now and then.");
        for ProviderView { provider, circuit, .. } in providers {
            let is_open = u8::from(*circuit != CircuitState::Closed);
            self.sample("plumb_circuit_open", &[("provider", provider)], is_open);
        }
        self.family("plumb_circuit_failures", "gauge", "How often in a row a provider did not answer.");
        for ProviderView { provider, failures, .. } in providers {
            self.sample("plumb_circuit_failures", &[("provider", provider)], failures);
        }
    }

    fn executions(&mut self, totals: &BTreeMap<&'static str, u64>) {
        self.family("plumb_executions_total", "counter", "Executions that ended since this process started.");
        for outcome in ["InSync", "Blocked", "Failed", "Interrupted"] {
            self.sample("plumb_executions_total", &[("outcome", outcome)], totals.get(outcome).unwrap_or(&0));
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let mut text = Text::default();
        text.sample("m", &[("tenant", "a\"} 1\nevil 2\\")], 3);
        assert_eq!(text.0, "m{tenant=\"a\\\"} 1\\nevil 2\\\\\"} 3\n");
    }
}

//! Asks a running server: its JSON API is the same read model that a local state database gives.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// How long a server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the API answers with when it cannot.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    help: String,
}

/// GETs `path` (below `/api/v1/`) with `query`.
pub async fn get<T: DeserializeOwned>(server: &str, path: &[&str], query: &[(&str, String)]) -> anyhow::Result<T> {
    let mut url = api(server, path)?;
    for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
        url.query_pairs_mut().append_pair(name, value);
    }
    let response = client()?.get(url).send().await.map_err(|error| silent(server, &error))?;
    read(server, response).await
}

/// Asks the server to look at a tenant, or at all, now.
pub async fn ask_for_look(server: &str, tenant: Option<&str>) -> anyhow::Result<()> {
    let url = match tenant {
        Some(tenant) => api(server, &["tenants", tenant, "reconcile"])?,
        None => api(server, &["reconcile"])?,
    };
    let sent = client()?.post(url).header("x-plumb-request", "1").send().await;
    let response = sent.map_err(|error| silent(server, &error))?;
    read::<serde_json::Value>(server, response).await.map(drop)
}

/// Why there is no answer: the innermost cause alone, the others say the same in other words.
fn silent(server: &str, error: &reqwest::Error) -> anyhow::Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    anyhow!("{server} does not answer ({cause}); is `plumb serve` running there?")
}

fn client() -> anyhow::Result<reqwest::Client> {
    crate::source::init_tls();
    Ok(reqwest::Client::builder().user_agent(concat!("plumb/", env!("CARGO_PKG_VERSION"))).timeout(TIMEOUT).build()?)
}

fn api(server: &str, path: &[&str]) -> anyhow::Result<url::Url> {
    let mut url: url::Url =
        server.parse().with_context(|| format!("--server {server:?} is no URL; write http://127.0.0.1:8080"))?;
    match url.path_segments_mut() {
        Ok(mut segments) => {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        Err(()) => bail!("--server {server:?} is no URL of a server; write http://127.0.0.1:8080"),
    }
    Ok(url)
}

async fn read<T: DeserializeOwned>(server: &str, response: reqwest::Response) -> anyhow::Result<T> {
    let status = response.status();
    let body = response.bytes().await.with_context(|| format!("{server} stopped answering"))?;
    if !status.is_success() {
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(Refusal { error, help }) => bail!("{error}\n  {help}"),
            Err(_) => bail!("{server} answers {status}; is it a plumb server?"),
        }
    }
    serde_json::from_slice(&body).with_context(|| format!("{server} answers something else than a plumb server would"))
}

//! The one thing a client may ask for that is not a question: that the engine looks at a tenant now.
//!
//! It only marks the tenant; what is done follows from git and the live systems, as ever. It is for this machine's
//! command line, so it is taken from loopback peers alone, never through a proxy, never on behalf of another site's
//! page: such a page cannot send the header without asking first, and a page whose name was made to point at this
//! machine still gives itself away by the host it names.

use std::net::{IpAddr, SocketAddr};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Serialize;

use super::WebState;
use super::api::unknown_tenant;
use super::error::ApiError;

/// Asks the engine for a look.
pub trait Look: Send + Sync {
    /// Marks `tenant`, or every tenant, as in need of a look, on behalf of `by`; false when there is no such tenant.
    fn look(&self, tenant: Option<&str>, by: &str) -> bool;
}

/// What a page of another site cannot send without a preflight request, which is refused.
const REQUEST_HEADER: &str = "x-plumb-request";
/// What proxies add: behind one, every peer would seem to be this machine.
const PROXY_HEADERS: &[&str] = &["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

/// How the command line calls itself to the server.
const COMMAND_LINE: &str = "plumb/";

/// A request from this machine, made on purpose.
pub(super) struct Local {
    /// Who asks, for the audit log.
    by: String,
}

impl<S: Sync> FromRequestParts<S> for Local {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        let local = peer.is_some_and(|ip| ip.to_canonical().is_loopback())
            && !PROXY_HEADERS.iter().any(|name| parts.headers.contains_key(*name))
            && names_this_machine(parts.uri.authority().map(Authority::as_str), &parts.headers);
        if !local {
            return Err(ApiError::forbidden(
                "a look can only be asked for on the machine that plumb runs on",
                "Run plumb reconcile there, or commit: every commit is seen by itself.",
            ));
        }
        if parts.headers.get(REQUEST_HEADER).is_none_or(|value| value != "1") {
            return Err(ApiError::forbidden(
                "the header X-Plumb-Request: 1 is missing",
                "It keeps pages of other sites from asking; send it, or use plumb reconcile.",
            ));
        }
        let agent = parts.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let by = match peer {
            Some(peer) if !agent.is_some_and(|agent| agent.starts_with(COMMAND_LINE)) => peer.to_string(),
            Some(_) | None => "command line".to_owned(),
        };
        Ok(Self { by })
    }
}

/// Whether the host, and the origin where there is one, are names of this machine that nobody else can give out.
fn names_this_machine(target: Option<&str>, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = target.or_else(|| text(header::HOST)).is_some_and(is_loopback);
    let origin = text(header::ORIGIN).is_none_or(|origin| origin.strip_prefix("http://").is_some_and(is_loopback));
    host && origin
}

fn is_loopback(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// That a look was asked for.
#[derive(Serialize)]
pub(super) struct Asked {
    /// The tenant; `null` is every tenant.
    tenant: Option<String>,
    asked: &'static str,
}

pub(super) async fn tenant(
    Local { by }: Local,
    State(web): State<WebState>,
    path: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<Asked>), ApiError> {
    let Path(name) = path.map_err(|rejection| {
        ApiError::bad_request(rejection.body_text(), "Percent-encode each part of the path as UTF-8.")
    })?;
    if !web.look.look(Some(&name), &by) {
        return Err(unknown_tenant(&name));
    }
    Ok(accepted(Some(name)))
}

pub(super) async fn everything(
    Local { by }: Local,
    State(web): State<WebState>,
) -> Result<(StatusCode, Json<Asked>), ApiError> {
    if !web.look.look(None, &by) {
        return Err(ApiError::unavailable("there is no tenant to look at yet", "Wait until GET /ready says ready."));
    }
    Ok(accepted(None))
}

fn accepted(tenant: Option<String>) -> (StatusCode, Json<Asked>) {
    (StatusCode::ACCEPTED, Json(Asked { tenant, asked: "a look now" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked_by(peer: &str) -> bool {
        let request = axum::http::Request::builder().header("host", "localhost").header(REQUEST_HEADER, "1");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        parts.extensions.insert(ConnectInfo(peer.parse::<SocketAddr>().unwrap()));
        Local::from_request_parts(&mut parts, &()).await.is_ok()
    }

    #[tokio::test]
    async fn only_peers_on_this_machine_may_ask() {
        for peer in ["127.0.0.1:5000", "[::1]:5000", "[::ffff:127.0.0.1]:5000"] {
            assert!(asked_by(peer).await, "{peer}");
        }
        for peer in ["10.0.0.7:5000", "[2001:db8::1]:5000", "[::ffff:10.0.0.7]:5000", "0.0.0.0:5000"] {
            assert!(!asked_by(peer).await, "{peer}");
        }
    }

    #[test]
    fn only_names_that_are_always_this_machine_count() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.8.8.8", "[::1]:8080"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[::2]"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}

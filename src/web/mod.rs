//! The status page, the API behind it, health and metrics.
//!
//! It changes nothing: writes go through git. The one route that is not a question, `POST .../reconcile`, only asks
//! the running engine to look at a tenant now, and only from this machine. All that is answered comes from
//! [`crate::engine::view`], read in snapshots that block no writer. Nothing a client sends is trusted: not the host it
//! names, not the length of what it sends, not the keys it asks for.

mod api;
mod assets;
mod error;
mod guard;
mod look;
mod metrics;
mod patience;
mod query;
mod server;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use tokio::sync::watch;

pub use look::Look;
pub use metrics::Metrics;
pub use query::MAX_LIMIT;
pub use server::{Limits, serve, serve_within};

use crate::model::Clock;
use crate::store::Store;

/// What the handlers work with.
#[derive(Clone)]
pub struct WebState {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    /// Turns true once every tenant has been looked at, by this process or another.
    pub ready: watch::Receiver<bool>,
    /// Asks the engine for a look.
    pub look: Arc<dyn Look>,
    pub metrics: Arc<Metrics>,
}

/// Every route. Peers are told apart by `ConnectInfo<SocketAddr>`, which [`serve`] gives.
pub fn router(state: WebState) -> Router {
    let api = Router::new()
        .route("/overview", get(api::overview))
        .route("/tenants", get(api::tenants))
        .route("/tenants/{tenant}", get(api::tenant))
        .route("/resources", get(api::resources))
        .route("/resources/{tenant}/{environment}/{kind}/{name}", get(api::resource))
        .route("/resources/{tenant}/{environment}/{kind}/{name}/explain", get(api::explain))
        .route("/proposals", get(api::proposals))
        .route("/orphans", get(api::orphans))
        .route("/providers", get(api::providers))
        .route("/dead-letters", get(api::dead_letters))
        .route("/executions", get(api::executions))
        .route("/executions/{id}", get(api::execution))
        .route("/events", get(api::events))
        .route("/reconcile", post(look::everything))
        .route("/tenants/{tenant}/reconcile", post(look::tenant));
    Router::new()
        .nest("/api/v1", api)
        .route("/health", get(api::health))
        .route("/ready", get(api::ready))
        .route("/metrics", get(metrics::scrape))
        .fallback(assets::page)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(from_fn(guard::limit))
        .layer(from_fn_with_state(state.clone(), guard::count))
        .layer(from_fn(guard::headers))
        .with_state(state)
}

//! The questions of the API. Each is one function of the read model, and JSON.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;

use super::WebState;
use super::error::ApiError;
use super::query::{self, Asked, EventQuery, ExecutionQuery, ResourceQuery, TenantQuery};
use crate::engine::view::{
    self, DeadLetterView, EventView, ExecutionDetail, ExecutionView, Explanation, OrphanView, Overview, Page,
    ProposalView, ProviderView, ResourceDetail, ResourceView, TenantView,
};
use crate::model::is_label;
use crate::store::Scope;

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) async fn overview(State(web): State<WebState>) -> Answer<Overview> {
    Ok(Json(view::overview(&*web.store, &*web.clock).await?))
}

pub(super) async fn tenants(State(web): State<WebState>) -> Answer<Page<TenantView>> {
    Ok(whole(view::tenants(&*web.store, &*web.clock).await?))
}

pub(super) async fn tenant(
    State(web): State<WebState>,
    path: Result<Path<String>, PathRejection>,
) -> Answer<TenantView> {
    let Path(name) = path.map_err(unreadable)?;
    // A name that no tenant can have is none that a database has to be asked about.
    let found = match is_label(&name) {
        true => view::tenant(&*web.store, &name, &*web.clock).await?,
        false => None,
    };
    found.map(Json).ok_or_else(|| unknown_tenant(&name))
}

pub(super) fn unknown_tenant(name: &str) -> ApiError {
    ApiError::not_found(
        format!("there is no tenant {name:?}"),
        "List the tenants with GET /api/v1/tenants; they are declared in the platform repository.",
    )
}

pub(super) async fn resources(
    State(web): State<WebState>,
    Asked(asked): Asked<ResourceQuery>,
) -> Answer<Page<ResourceView>> {
    let found = view::resources(&*web.store, &asked.filter()?, &*web.clock).await?;
    let total = found.len();
    let after = asked.after()?;
    let mut items: Vec<ResourceView> =
        found.into_iter().filter(|view| after.as_ref().is_none_or(|after| view.key > *after)).collect();
    let more = items.len() > asked.limit();
    items.truncate(asked.limit());
    let next = items.last().filter(|_| more).map(|last| last.key.to_string());
    Ok(Json(Page { items, total: Some(total), next }))
}

pub(super) async fn resource(
    State(web): State<WebState>,
    path: Result<Path<[String; 4]>, PathRejection>,
) -> Answer<ResourceDetail> {
    let Path(parts) = path.map_err(unreadable)?;
    let key = query::path_key(&parts)?;
    view::resource(&*web.store, &key, &*web.clock).await?.map(Json).ok_or_else(|| query::unknown_key(&key))
}

pub(super) async fn proposals(
    State(web): State<WebState>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Page<ProposalView>> {
    Ok(whole(view::proposals(&*web.store, asked.tenant()?.as_deref(), &*web.clock).await?))
}

pub(super) async fn orphans(State(web): State<WebState>, Asked(asked): Asked<TenantQuery>) -> Answer<Page<OrphanView>> {
    Ok(whole(view::orphans(&*web.store, asked.tenant()?.as_deref(), &*web.clock).await?))
}

pub(super) async fn providers(
    State(web): State<WebState>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Page<ProviderView>> {
    Ok(whole(view::providers(&*web.store, asked.tenant()?.as_deref(), &*web.clock).await?))
}

pub(super) async fn dead_letters(
    State(web): State<WebState>,
    Asked(asked): Asked<TenantQuery>,
) -> Answer<Page<DeadLetterView>> {
    Ok(whole(view::dead_letters(&*web.store, asked.tenant()?.as_deref(), &*web.clock).await?))
}

pub(super) async fn explain(
    State(web): State<WebState>,
    path: Result<Path<[String; 4]>, PathRejection>,
) -> Answer<Explanation> {
    let Path(parts) = path.map_err(unreadable)?;
    let key = query::path_key(&parts)?;
    view::explain(&*web.store, &key, &*web.clock).await?.map(Json).ok_or_else(|| query::unknown_key(&key))
}

pub(super) async fn executions(
    State(web): State<WebState>,
    Asked(asked): Asked<ExecutionQuery>,
) -> Answer<Page<ExecutionView>> {
    let filter = asked.filter()?;
    let items = view::executions(&*web.store, &filter, &*web.clock).await?;
    Ok(history(items, filter.limit, |view| view.execution.id))
}

pub(super) async fn execution(
    State(web): State<WebState>,
    path: Result<Path<String>, PathRejection>,
) -> Answer<ExecutionDetail> {
    let Path(id) = path.map_err(unreadable)?;
    let missing = || {
        ApiError::not_found(
            "there is no such execution",
            "List the executions with GET /api/v1/executions; old ones are forgotten after the platform's retention.",
        )
    };
    let id: i64 = id.parse().map_err(|_| missing())?;
    view::execution(&*web.store, id, &*web.clock).await?.map(Json).ok_or_else(missing)
}

pub(super) async fn events(State(web): State<WebState>, Asked(asked): Asked<EventQuery>) -> Answer<Page<EventView>> {
    let filter = asked.filter()?;
    let items = view::events(&*web.store, &filter, &*web.clock).await?;
    Ok(history(items, filter.limit, |view| view.event.id))
}

#[derive(Serialize)]
pub(super) struct Status {
    status: &'static str,
}

/// The process is up; nothing else is asked.
pub(super) async fn health() -> Json<Status> {
    Json(Status { status: "up" })
}

/// How long the store has to answer who asks whether all is ready: a service manager waits for seconds, and a store that
/// is away is waited for longer elsewhere.
const READY_WITHIN: Duration = Duration::from_secs(1);

/// The store answers, and every tenant was looked at once.
pub(super) async fn ready(State(web): State<WebState>) -> Answer<Status> {
    let asked = async {
        let mut tx = web.store.read(Scope::Platform).await?;
        tx.platform().await
    };
    match tokio::time::timeout(READY_WITHIN, asked).await {
        Ok(answered) => drop(answered?),
        Err(_) => {
            return Err(ApiError::unavailable(
                "the state store does not answer",
                "Wait: Plumb goes on by itself when it is back; its log has the cause.",
            ));
        }
    }
    if !*web.ready.borrow() {
        return Err(ApiError::unavailable(
            "not every tenant has been looked at yet",
            "Wait: GET /api/v1/tenants shows how far it is.",
        ));
    }
    Ok(Json(Status { status: "ready" }))
}

/// A path that is not UTF-8 once decoded.
fn unreadable(rejection: PathRejection) -> ApiError {
    ApiError::bad_request(rejection.body_text(), "Percent-encode each part of the path as UTF-8.")
}

fn whole<T>(items: Vec<T>) -> Json<Page<T>> {
    Json(Page { total: Some(items.len()), items, next: None })
}

/// A page of a list that is newest first; a full one may have another behind it.
fn history<T>(items: Vec<T>, limit: u32, id: impl Fn(&T) -> i64) -> Json<Page<T>> {
    let full = items.len() >= limit as usize;
    let next = items.last().filter(|_| full).map(|last| id(last).to_string());
    Json(Page { items, total: None, next })
}

//! What is answered when a question cannot be: `{"error", "help"}` with the status that fits.

use std::error::Error;

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::store::StoreError;

/// An answer that is no result.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    error: String,
    help: String,
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    help: &'a str,
}

impl ApiError {
    pub fn new(status: StatusCode, error: impl Into<String>, help: impl Into<String>) -> Self {
        Self { status, error: error.into(), help: help.into() }
    }

    pub fn bad_request(error: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, help)
    }

    pub fn not_found(error: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error, help)
    }

    pub fn forbidden(error: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, error, help)
    }

    pub fn unavailable(error: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, help)
    }
}

impl From<StoreError> for ApiError {
    /// The cause goes to the log: it may name paths and hosts that are not everybody's business.
    fn from(error: StoreError) -> Self {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        tracing::error!(%error, cause, "the state store did not answer a request");
        Self::unavailable("the state store does not answer", "Try again; Plumb's log has the cause.")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, error, help } = self;
        (status, Json(Body { error: &error, help: &help })).into_response()
    }
}

/// A route that is there, asked in a way that it is not for.
pub(super) async fn method_not_allowed(request: Request) -> Response {
    let allowed = if request.uri().path().ends_with("/reconcile") { "POST" } else { "GET, HEAD" };
    refuse_method(request.method().as_str(), allowed)
}

/// 405, with the methods that would do.
pub(super) fn refuse_method(method: &str, allowed: &'static str) -> Response {
    let error = ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} is not for this address; {allowed} is"),
        "The status page and its API only read. Changes are commits to the tenant's repository.",
    );
    let mut response = error.into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

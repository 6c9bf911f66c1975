//! What every request passes: limits, the count for metrics, and the headers that keep browsers careful.

use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::WebState;
use super::error::ApiError;

/// Longer than any key and every filter at once.
const MAX_URI: usize = 8 * 1024;
/// As much as common servers take.
const MAX_HEADERS: usize = 32 * 1024;
/// How long an answer may take: far longer than any snapshot, short enough that a sick store does not pile up.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Nothing from elsewhere is loaded, sent to, or may frame the page.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

static HEADERS: [(HeaderName, HeaderValue); 6] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// Refuses what is too long, and what takes too long.
pub(super) async fn limit(request: Request, next: Next) -> Response {
    let uri = request.uri().path_and_query().map_or(0, |uri| uri.as_str().len());
    if uri > MAX_URI {
        let error = ApiError::new(
            StatusCode::URI_TOO_LONG,
            format!("the address is longer than {MAX_URI} bytes"),
            "Ask with fewer or shorter filters.",
        );
        return error.into_response();
    }
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers > MAX_HEADERS {
        let error = ApiError::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            format!("the headers are longer than {MAX_HEADERS} bytes"),
            "Send fewer or shorter headers; Plumb needs no cookies.",
        );
        return error.into_response();
    }
    match tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            ApiError::unavailable("the answer took too long", "Try again; Plumb's log has the cause.").into_response()
        }
    }
}

/// Counts the request under its route, so that hostile paths make no new series.
pub(super) async fn count(State(web): State<WebState>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| "page".to_owned(), |route| route.as_str().to_owned());
    let response = next.run(request).await;
    web.metrics.count_request(&method, route, response.status());
    response
}

/// Adds the headers that every answer has. Answers are not to be kept, unless they say otherwise themselves.
pub(super) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in &HEADERS {
        headers.insert(name.clone(), value.clone());
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

//! What clients ask for: keys in paths, filters in queries. Read strictly, and answered with what would be right.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::engine::view::{EventFilter, ExecutionFilter, ResourceFilter, StatusWord};
use crate::model::{ConditionStatus, Kind, ResourceKey};

/// The longest page of a list: enough for a screen and a script, small enough to be made in no time.
pub const MAX_LIMIT: u32 = 1000;
/// The page of a history when none is asked for.
const DEFAULT_HISTORY: u32 = 50;
/// The longest key that is looked for; every part of a valid one is far shorter.
const MAX_KEY: usize = 512;

const KEY_HELP: &str = "A key is tenant/environment/Kind/name, like checkout/staging/Database/orders. List the keys \
                        with GET /api/v1/resources or plumb get.";

/// A query string read into `T`, or 400 with the reason.
pub(super) struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Query::try_from_uri(&parts.uri).map(|Query(asked)| Self(asked)).map_err(|rejection| {
            ApiError::bad_request(
                rejection.body_text(),
                "Each parameter is given at most once; the message names the one that is wrong.",
            )
        })
    }
}

/// `?tenant=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TenantQuery {
    tenant: String,
}

impl TenantQuery {
    pub fn tenant(&self) -> Result<Option<String>, ApiError> {
        given("tenant", &self.tenant)
    }
}

/// The filters of `/resources`. Empty ones filter nothing, as forms send them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ResourceQuery {
    tenant: String,
    environment: String,
    kind: String,
    ready: String,
    status: String,
    text: String,
    after: String,
    limit: Option<u32>,
}

impl ResourceQuery {
    pub fn filter(&self) -> Result<ResourceFilter, ApiError> {
        let ready = [ConditionStatus::True, ConditionStatus::False, ConditionStatus::Unknown];
        Ok(ResourceFilter {
            tenant: given("tenant", &self.tenant)?,
            environment: given("environment", &self.environment)?,
            kind: one_of("kind", &self.kind, Kind::ALL, |kind| kind.as_str())?,
            ready: one_of("ready", &self.ready, &ready, |ready| match ready {
                ConditionStatus::True => "True",
                ConditionStatus::False => "False",
                ConditionStatus::Unknown => "Unknown",
            })?,
            status: one_of("status", &self.status, StatusWord::ALL, |status| status.as_str())?,
            text: given("text", &self.text)?,
        })
    }

    /// The key that the last page ended with.
    pub fn after(&self) -> Result<Option<ResourceKey>, ApiError> {
        given("after", &self.after)?.map(|key| key_of(&key, ApiError::bad_request)).transpose()
    }

    pub fn limit(&self) -> usize {
        limit(self.limit, MAX_LIMIT) as usize
    }
}

/// The filters of `/executions`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ExecutionQuery {
    tenant: String,
    key: String,
    before: Option<i64>,
    limit: Option<u32>,
}

impl ExecutionQuery {
    pub fn filter(&self) -> Result<ExecutionFilter, ApiError> {
        let tenant = given("tenant", &self.tenant)?;
        let key = given("key", &self.key)?.map(|key| key_of(&key, ApiError::bad_request)).transpose()?;
        Ok(ExecutionFilter { tenant, key, before: self.before, limit: limit(self.limit, DEFAULT_HISTORY) })
    }
}

/// The filters of `/events`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EventQuery {
    tenant: String,
    environment: String,
    execution: Option<i64>,
    key: String,
    before: Option<i64>,
    limit: Option<u32>,
}

impl EventQuery {
    pub fn filter(&self) -> Result<EventFilter, ApiError> {
        let key = given("key", &self.key)?.map(|key| key_of(&key, ApiError::bad_request)).transpose()?;
        Ok(EventFilter {
            tenant: given("tenant", &self.tenant)?,
            environment: given("environment", &self.environment)?,
            execution: self.execution,
            key,
            before: self.before,
            limit: limit(self.limit, DEFAULT_HISTORY),
        })
    }
}

/// The key that a path names; anything else is not found.
pub(super) fn path_key(parts: &[String; 4]) -> Result<ResourceKey, ApiError> {
    key_of(&parts.join("/"), ApiError::not_found)
}

/// What is answered for a key of which nothing is known.
pub(super) fn unknown_key(key: &ResourceKey) -> ApiError {
    ApiError::not_found(format!("nothing is known of {key}"), KEY_HELP)
}

fn key_of(text: &str, refuse: impl Fn(String, &'static str) -> ApiError) -> Result<ResourceKey, ApiError> {
    if text.len() > MAX_KEY || text.chars().any(char::is_control) {
        return Err(refuse("this is not a key".to_owned(), KEY_HELP));
    }
    ResourceKey::from_str(text).map_err(|error| refuse(error.to_string(), KEY_HELP))
}

/// A filter that filters. No name holds what is not printed, and a database may refuse to be asked about it.
fn given(name: &str, text: &str) -> Result<Option<String>, ApiError> {
    if text.chars().any(char::is_control) {
        return Err(ApiError::bad_request(
            format!("{name} holds a control character"),
            "Names are small letters, digits and dashes.",
        ));
    }
    Ok(Some(text).filter(|text| !text.is_empty()).map(str::to_owned))
}

fn limit(asked: Option<u32>, default: u32) -> u32 {
    asked.unwrap_or(default).clamp(1, MAX_LIMIT)
}

fn one_of<T: Copy>(
    name: &str,
    text: &str,
    all: &[T],
    spelled: impl Fn(&T) -> &'static str,
) -> Result<Option<T>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let found = all.iter().find(|value| spelled(value).eq_ignore_ascii_case(text)).copied();
    found.map(Some).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(spelled).collect();
        ApiError::bad_request(
            format!("{name} is not one of its values"),
            format!("{name} is one of {}.", names.join(", ")),
        )
    })
}

//! The read model: what the status page, its API and the reading commands show.
//!
//! Every function reads one snapshot of the store and writes nothing; all that is shown derives from the inventory,
//! the statuses, the conversations and the timelines. No secret is ever part of a view, and addresses of
//! repositories are shown without their user or password. Views read back from their JSON, so that a command that
//! asks a server shows what one that opens the store shows.

mod attempt;
mod diff;
mod explain;
mod facts;
mod history;
mod look;
mod orphan;
mod overview;
mod proposal;
mod provider;
mod resource;
mod tenant;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use attempt::{DeadLetterView, LetterState, dead_letters};
pub use diff::{FieldRow, FieldState, document, unified};
pub(super) use explain::how_to_decide;
pub use explain::{Cause, Explanation, SubjectKind, explain};
pub use history::{
    EventFilter, EventView, ExecutionDetail, ExecutionFilter, ExecutionView, Level, describe, events, execution,
    executions,
};
pub use orphan::{OrphanKind, OrphanView, orphans};
pub use overview::{
    Attention, AttentionKind, Gauges, Overview, PlatformView, ResourceGauge, TenantCounts, gauges, overview,
};
pub use proposal::{Commands, ProposalView, proposals};
pub use provider::{CircuitState, ProviderView, providers};
pub use resource::{
    ConditionView, Counts, RecordView, ResourceDetail, ResourceFilter, ResourceView, StatusWord, resource, resources,
};
pub use tenant::{EnvironmentView, HeldPlanView, HoldView, TenantView, tenant, tenants};

use crate::model::{Diagnostic, Severity};

/// One page of a list, with what asks for the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    pub items: Vec<T>,
    /// How many there are on all pages, where that is known.
    pub total: Option<usize>,
    /// The cursor of the next page; `None` on the last.
    pub next: Option<String>,
}

/// A diagnostic, flat, as every face prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingView {
    pub code: String,
    pub severity: Severity,
    pub message: String,
    pub file: String,
    pub line: Option<usize>,
    pub column: Option<usize>,
    pub end_line: Option<usize>,
    pub end_column: Option<usize>,
    pub help: Option<String>,
}

impl From<&Diagnostic> for FindingView {
    fn from(diagnostic: &Diagnostic) -> Self {
        let Diagnostic { code, severity, message, file, span, help, related: _ } = diagnostic;
        Self {
            code: code.to_string(),
            severity: *severity,
            message: message.clone(),
            file: file.clone(),
            line: span.map(|span| span.line),
            column: span.map(|span| span.column),
            end_line: span.map(|span| span.end_line),
            end_column: span.map(|span| span.end_column),
            help: help.clone(),
        }
    }
}

/// Whole seconds from `since` to `now`; a time that is still to come is no time ago.
fn age_seconds(now: DateTime<Utc>, since: DateTime<Utc>) -> u64 {
    u64::try_from((now - since).num_seconds()).unwrap_or(0)
}

/// The address of a repository without whatever may be a secret in it: over http the user as well, since tokens
/// are given as users.
fn public_url(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return address.to_owned();
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    // An `@` in a password may stand unescaped: the host comes after the last one.
    let Some((user, host)) = authority.rsplit_once('@') else {
        return address.to_owned();
    };
    match user.split_once(':') {
        _ if scheme.starts_with("http") => format!("{scheme}://{host}{path}"),
        Some((name, _password)) => format!("{scheme}://{name}@{host}{path}"),
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_passwords_and_tokens() {
        for (address, shown) in [
            ("https://github.com/acme/checkout.git", "https://github.com/acme/checkout.git"),
            ("https://x-token:s3cret@github.com/acme/a.git", "https://github.com/acme/a.git"),
            ("https://s3cret@github.com/acme/a.git", "https://github.com/acme/a.git"),
            ("https://a:p@ss@github.com/acme/a.git", "https://github.com/acme/a.git"),
            ("ssh://git@host/acme.git", "ssh://git@host/acme.git"),
            ("ssh://git:pw@host/acme.git", "ssh://git@host/acme.git"),
            ("git@github.com:acme/a.git", "git@github.com:acme/a.git"),
            ("/srv/git/a@b.git", "/srv/git/a@b.git"),
        ] {
            assert_eq!(public_url(address), shown);
        }
    }

    #[test]
    fn a_clock_that_went_back_makes_no_negative_age() {
        let now = DateTime::<Utc>::UNIX_EPOCH;
        assert_eq!(age_seconds(now, now + chrono::Duration::seconds(5)), 0);
        assert_eq!(age_seconds(now + chrono::Duration::seconds(5), now), 5);
    }
}

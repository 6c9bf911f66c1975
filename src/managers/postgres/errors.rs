//! What the server's refusals mean: passing, lasting, or a target that changed.
//!
//! What always holds: no secret is in a message. The login's password is never part of a statement, roles' passwords
//! are sent as SCRAM verifiers only, and statements themselves are not repeated in messages.

use std::time::Duration;

use sqlx::postgres::PgDatabaseError;

use crate::managers::ManagerError;
use crate::model::Reason;

/// SQLSTATEs that decisions hang on.
pub(super) mod code {
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    pub const DEPENDENT_OBJECTS: &str = "2BP01";
    pub const OBJECT_IN_USE: &str = "55006";
    pub const INVALID_CATALOG_NAME: &str = "3D000";
}

/// One thing that was asked of the server and did not work.
#[derive(Debug, thiserror::Error)]
#[error("{provider}: could not {doing}")]
pub(super) struct Failure {
    /// The Provider's name.
    pub provider: String,
    /// What was being done, as in "could not ...".
    pub doing: String,
    #[source]
    pub cause: Cause,
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The statement holds a NUL, which PostgreSQL has no way to take.
    #[error("a name or value holds a NUL character")]
    Nul,
    /// The server, or the way to it.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
}

impl Failure {
    /// The server's error, when it is the server that refused.
    fn refusal(&self) -> Option<&PgDatabaseError> {
        match &self.cause {
            Cause::Sql(sqlx::Error::Database(error)) => error.try_downcast_ref::<PgDatabaseError>(),
            Cause::Sql(_) | Cause::Timeout(_) | Cause::Nul => None,
        }
    }

    /// Whether the server refused with this SQLSTATE.
    pub fn is(&self, code: &str) -> bool {
        self.refusal().is_some_and(|refusal| refusal.code() == code)
    }

    /// What the server said, its detail and hint, or why there was no answer.
    pub fn said(&self) -> String {
        match self.refusal() {
            Some(refusal) => {
                let more = [refusal.detail(), refusal.hint()].into_iter().flatten();
                std::iter::once(refusal.message()).chain(more).collect::<Vec<_>>().join("; ").replace('\n', ", ")
            }
            None => match &self.cause {
                Cause::Sql(sqlx::Error::Io(error)) => error.to_string(),
                cause => cause.to_string(),
            },
        }
    }

    /// The whole message, with `help` at its end.
    pub fn message(&self, help: &str) -> String {
        let help = if help.is_empty() { String::new() } else { format!("; {help}") };
        format!("{self}: {}{help}", self.said())
    }

    /// A failure that stays, for this reason and with this help.
    pub fn terminal(&self, reason: Reason, help: &str) -> ManagerError {
        ManagerError::terminal(reason, self.message(help))
    }
}

impl From<Failure> for ManagerError {
    fn from(failure: Failure) -> Self {
        let message = failure.message("");
        match &failure.cause {
            Cause::Timeout(_) => ManagerError::retry(Reason::TimedOut, message),
            Cause::Nul => ManagerError::terminal(Reason::Rejected, message),
            Cause::Sql(sqlx::Error::Database(_)) => match failure.refusal() {
                Some(refusal) => by_code(refusal.code(), message),
                None => ManagerError::retry(Reason::Internal, message),
            },
            Cause::Sql(sqlx::Error::Configuration(_)) => ManagerError::terminal(Reason::Rejected, message),
            Cause::Sql(sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_)) => {
                ManagerError::retry(Reason::ProviderUnreachable, message)
            }
            // What is left are answers of another shape than was asked for.
            Cause::Sql(_) => ManagerError::retry(Reason::Internal, message),
        }
    }
}

fn by_code(code: &str, message: String) -> ManagerError {
    match code {
        "28P01" | "28000" => ManagerError::terminal(Reason::AuthenticationFailed, message),
        code::INSUFFICIENT_PRIVILEGE => ManagerError::terminal(Reason::PermissionDenied, message),
        // Cancelled by statement_timeout, or a lock that was not given in time.
        "57014" | "55P03" => ManagerError::retry(Reason::TimedOut, message),
        // A standby, which a failover is about to make or has made the wrong one to talk to.
        "25006" => ManagerError::retry(Reason::ProviderUnreachable, message),
        // Deadlock, serialization, "tuple concurrently updated", in use: somebody else was at it at the same time.
        "40001" | "40P01" | "XX000" | code::OBJECT_IN_USE => ManagerError::retry(Reason::Conflict, message),
        // Made by somebody else since it was looked at; or this process was silent for so long that the server ended its
        // session, and with it the lock under which the target was looked at.
        "42710" | "42P04" | "25P03" | "57P05" => ManagerError::conflict(message),
        // Connections, resources, shutdown and start.
        _ if ["08", "53", "57"].iter().any(|class| code.starts_with(class)) => {
            ManagerError::retry(Reason::ProviderUnreachable, message)
        }
        _ => ManagerError::terminal(Reason::Rejected, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_passing_lasting_or_conflicts() {
        let of = |code: &str| by_code(code, String::new());
        assert!(matches!(of("28P01"), ManagerError::Terminal { reason: Reason::AuthenticationFailed, .. }));
        assert!(matches!(of("42501"), ManagerError::Terminal { reason: Reason::PermissionDenied, .. }));
        assert!(matches!(of("53300"), ManagerError::Retry { reason: Reason::ProviderUnreachable, .. }));
        assert!(matches!(of("57P03"), ManagerError::Retry { reason: Reason::ProviderUnreachable, .. }));
        assert!(matches!(of("57014"), ManagerError::Retry { reason: Reason::TimedOut, .. }));
        assert!(matches!(of("42P04"), ManagerError::Conflict { .. }));
        assert!(matches!(of("25P03"), ManagerError::Conflict { .. }), "the lock is lost");
        assert!(matches!(of("57P05"), ManagerError::Conflict { .. }), "the lock is lost");
        assert!(matches!(of("22023"), ManagerError::Terminal { reason: Reason::Rejected, .. }));
    }

    #[test]
    fn a_timeout_is_tried_again_and_says_what_was_done() {
        let failure = Failure {
            provider: "pg-main".to_owned(),
            doing: "create the database".to_owned(),
            cause: Cause::Timeout(Duration::from_secs(5)),
        };
        let error = ManagerError::from(failure);
        assert_eq!(error.to_string(), "pg-main: could not create the database: no answer within 5s");
        assert_eq!(error.reason(), Reason::TimedOut);
    }
}

//! What failures of Redis mean to a reconcile. Messages never hold a password or its hash.

use redis::{ErrorKind, RedisError};

use crate::managers::ManagerError;
use crate::model::Reason;

/// A failure of the server at `address` while it was asked to `what`.
pub(super) fn redis(what: &str, address: &str, error: &RedisError) -> ManagerError {
    if error.is_timeout() {
        return timed_out(what, address);
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => refused_login(address),
        ErrorKind::Io => {
            ManagerError::retry(Reason::ProviderUnreachable, format!("cannot {what} on redis {address}: {error}"))
        }
        ErrorKind::InvalidClientConfig => {
            ManagerError::terminal(Reason::Rejected, format!("cannot connect to redis {address}: {error}"))
        }
        _ => match error.clone().into_server_errors().as_deref() {
            // In a transaction, the first that was refused is why the rest was.
            Some([(_, refusal), ..]) => {
                coded(what, address, refusal.code(), &without_hashes(refusal.details().unwrap_or_default()))
            }
            Some([]) | None => coded(what, address, "", &without_hashes(&error.to_string())),
        },
    }
}

fn coded(what: &str, address: &str, code: &str, detail: &str) -> ManagerError {
    match code {
        "WRONGPASS" | "NOAUTH" => refused_login(address),
        "NOPERM" => ManagerError::terminal(
            Reason::PermissionDenied,
            format!("the login on redis {address} may not {what}: {detail}"),
        ),
        // It will be over, or another server of the same address will answer.
        "LOADING" | "BUSY" | "MASTERDOWN" | "READONLY" | "TRYAGAIN" | "CLUSTERDOWN" => ManagerError::retry(
            Reason::ProviderUnreachable,
            format!("redis {address} cannot {what} at the moment: {code} {detail}"),
        ),
        _ => ManagerError::terminal(Reason::Rejected, format!("redis {address} refused to {what}: {code} {detail}")),
    }
}

/// The server's words, with passwords and their hashes taken out: it repeats the argument it did not like.
pub(super) fn without_hashes(text: &str) -> String {
    text.split(' ')
        .map(|word| if word.contains(['#', '>', '<', '!']) { "(hidden)" } else { word })
        .collect::<Vec<_>>()
        .join(" ")
}

fn refused_login(address: &str) -> ManagerError {
    ManagerError::terminal(Reason::AuthenticationFailed, format!("redis {address} refused the login or its password"))
}

/// No answer in time.
pub(super) fn timed_out(what: &str, address: &str) -> ManagerError {
    ManagerError::retry(Reason::TimedOut, format!("redis {address} did not answer in time when asked to {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_that_the_server_repeats_is_hidden() {
        let said = "Error in ACL SETUSER modifier '#0123abcd': The password hash must be exactly 64 characters";
        assert_eq!(
            without_hashes(said),
            "Error in ACL SETUSER modifier (hidden) The password hash must be exactly 64 characters"
        );
    }

    #[test]
    fn what_a_server_says_has_one_meaning() {
        for (code, reason) in [
            ("WRONGPASS", Reason::AuthenticationFailed),
            ("NOAUTH", Reason::AuthenticationFailed),
            ("NOPERM", Reason::PermissionDenied),
            ("LOADING", Reason::ProviderUnreachable),
            ("ERR", Reason::Rejected),
        ] {
            assert_eq!(coded("list users", "h:1", code, "").reason(), reason, "{code}");
        }
    }
}

//! Passwords of roles (R12): asked for, and so stored, before the role exists; sent as SCRAM verifiers computed here.

use std::collections::BTreeMap;

use postgres_protocol::password::scram_sha_256;
use secrecy::ExposeSecret;

use crate::managers::{Cx, ManagerError};
use crate::model::{Reason, ResourceKey};

/// What the server gets instead of a password. Not `Debug`: it is enough to guess at the password offline.
pub(super) struct Verifier(String);

impl Verifier {
    /// The text that `PASSWORD` takes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Verifiers of the passwords of `roles`, by role.
pub(super) async fn verifiers(
    cx: &Cx<'_>,
    key: &ResourceKey,
    roles: impl IntoIterator<Item = &str>,
    rotation: Option<&str>,
) -> Result<BTreeMap<String, Verifier>, ManagerError> {
    let mut verifiers = BTreeMap::new();
    for role in roles {
        let password = cx.secrets.password(key, role, rotation).await?;
        // Thousands of rounds of hashing: not on a thread that others wait for.
        let hashed = tokio::task::spawn_blocking(move || scram_sha_256(password.expose_secret().as_bytes())).await;
        let hashed = hashed.map_err(|_| {
            ManagerError::retry(Reason::Internal, format!("the password of the role {role:?} could not be hashed"))
        })?;
        verifiers.insert(role.to_owned(), Verifier(hashed));
    }
    Ok(verifiers)
}

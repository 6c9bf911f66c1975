//! Turns references to credentials into secrets, at the last moment and never into text.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::model::CredentialRef;

/// Why a credential is not there.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The variable is not set, or is not text.
    #[error("the variable {0} is not set in Plumb's environment")]
    Variable(String),
    /// The file cannot be read.
    #[error("the credential file {path} cannot be read: {source}")]
    File { path: String, source: std::io::Error },
}

/// Reads what `reference` points to; `None` for no reference.
///
/// # Errors
/// When the variable or file is not there; the message names it and nothing else.
pub fn resolve(reference: Option<&CredentialRef>) -> Result<Option<SecretString>, CredentialError> {
    match reference {
        None => Ok(None),
        Some(CredentialRef::Env(name)) => match std::env::var(name) {
            Ok(value) => Ok(Some(SecretString::from(value))),
            Err(_) => Err(CredentialError::Variable(name.clone())),
        },
        Some(CredentialRef::File(path)) => match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned()))),
            Err(source) => Err(CredentialError::File { path: path.display().to_string(), source }),
        },
    }
}

/// A hash that tells one secret from another, so that a change is noticed and the secret need not be kept.
pub fn fingerprint(secret: Option<&SecretString>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    if let Some(secret) = secret {
        hasher.update([1]);
        hasher.update(secret.expose_secret());
    }
    hasher.finalize().into()
}

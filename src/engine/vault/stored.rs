//! The passwords of roles, kept in the store.

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use secrecy::SecretString;

use super::{SecureRng, Vault, VaultError, generate_password, key_id_of};
use crate::engine::passwords::Passwords;
use crate::managers::ManagerError;
use crate::model::{Clock, Lease, Reason, ResourceKey};
use crate::store::{Scope, Store, StoreError, StoredSecret, Tx};

/// Why a password could not be given.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The store failed.
    #[error("the store of passwords failed")]
    Store(#[from] StoreError),
    /// A stored password does not open, or would not.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A password that was stored a moment ago is not there.
    #[error("the password of role {role} of {key} was stored and is not in the store")]
    Vanished { key: ResourceKey, role: String },
}

/// Gives the passwords of roles, and makes those that are missing (R12).
pub struct StoredSecrets {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
    rng: Mutex<SecureRng>,
}

impl fmt::Debug for StoredSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSecrets").field("vault", &self.vault).finish_non_exhaustive()
    }
}

impl StoredSecrets {
    /// Ties a vault to a store, whose one key its key is from then on: before any password is stored, so that of two
    /// replicas that start with keys of their own one is refused.
    ///
    /// # Errors
    /// [`VaultError::AnotherKey`] or [`VaultError::WrongKey`] when the store's key is another.
    pub async fn open(
        store: Arc<dyn Store>,
        vault: Arc<Vault>,
        clock: Arc<dyn Clock>,
        rng: SecureRng,
    ) -> Result<Self, SecretsError> {
        if !knows_key(store.read(Scope::Platform).await?.as_mut(), &vault).await? {
            let mut tx = store.begin(Scope::Platform).await?;
            // Another may have been first since.
            if !knows_key(tx.as_mut(), &vault).await? {
                tx.put_secret_key_id(&vault.key_id().to_string()).await?;
            }
            tx.commit().await?;
        }
        Ok(Self { store, vault, clock, rng: Mutex::new(rng) })
    }

    /// The id of the key of a store, where it has one.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn key_of(store: &dyn Store) -> Result<Option<String>, SecretsError> {
        let mut tx = store.read(Scope::Platform).await?;
        if let Some(id) = tx.secret_key_id().await? {
            return Ok(Some(id));
        }
        let newest = tx.newest_secret().await?;
        Ok(newest.and_then(|secret| key_id_of(&secret.ciphertext)).map(|id| id.to_string()))
    }

    /// The same, for those who only reveal: nothing is written.
    ///
    /// # Errors
    /// As [`StoredSecrets::open`].
    pub async fn open_to_reveal(
        store: Arc<dyn Store>,
        vault: Arc<Vault>,
        clock: Arc<dyn Clock>,
        rng: SecureRng,
    ) -> Result<Self, SecretsError> {
        knows_key(store.read(Scope::Platform).await?.as_mut(), &vault).await?;
        Ok(Self { store, vault, clock, rng: Mutex::new(rng) })
    }

    /// The password that a role has, `None` when it is not known (R12: after a loss of the store).
    ///
    /// That is the one of the rotation which the inventory says was applied last. Where the inventory knows nothing of the
    /// resource, or there is none of that rotation, it is the newest.
    ///
    /// # Errors
    /// When the store fails or the password does not open.
    pub async fn reveal(&self, key: &ResourceKey, role: &str) -> Result<Option<SecretString>, SecretsError> {
        let mut tx = self.store.read(Scope::Tenant(key.tenant.clone())).await?;
        let secrets = tx.secrets(key, role).await?;
        let rotation = applied_rotation(tx.as_mut(), key).await?;
        let applied = rotation.and_then(|rotation| secrets.iter().find(|secret| secret.rotation == rotation));
        match applied.or(secrets.first()) {
            Some(secret) => Ok(Some(open_secret(&self.vault, secret)?)),
            None => Ok(None),
        }
    }

    /// The password of a role for a rotation; made and stored when there is none yet. Where none is asked for, since a role
    /// is made again or came later, it is the one of the rotation that was applied last: [`Self::reveal`] finds it by that.
    ///
    /// It begins a transaction of its own: the caller holds no writing one.
    ///
    /// # Errors
    /// When it could not be stored or opened.
    pub async fn password_of(
        &self,
        lease: &Lease,
        key: &ResourceKey,
        role: &str,
        rotation: Option<&str>,
    ) -> Result<SecretString, SecretsError> {
        let mut tx = self.store.read(Scope::Tenant(key.tenant.clone())).await?;
        let rotation = match rotation {
            Some(asked_for) => asked_for.to_owned(),
            None => applied_rotation(tx.as_mut(), key).await?.unwrap_or_else(|| FIRST.to_owned()),
        };
        let stored = tx.secrets(key, role).await?;
        drop(tx);
        match self.find(&stored, &rotation)? {
            Some(password) => Ok(password),
            None => self.make(lease, key, role, &rotation).await,
        }
    }

    /// Stores a new password, and gives the one that is stored then: when two make one at a time, both get the first.
    async fn make(
        &self,
        lease: &Lease,
        key: &ResourceKey,
        role: &str,
        rotation: &str,
    ) -> Result<SecretString, SecretsError> {
        let secret = StoredSecret {
            key: key.clone(),
            role: role.to_owned(),
            rotation: rotation.to_owned(),
            ciphertext: self.new_ciphertext(key, role, rotation)?,
            created_at: self.clock.now(),
        };
        let mut tx = self.store.begin(Scope::Leased(lease.clone())).await?;
        tx.put_secret(&secret).await?;
        let stored = tx.secrets(key, role).await?;
        let password = self
            .find(&stored, rotation)?
            .ok_or_else(|| SecretsError::Vanished { key: key.clone(), role: role.to_owned() })?;
        tx.commit().await?;
        Ok(password)
    }

    fn new_ciphertext(&self, key: &ResourceKey, role: &str, rotation: &str) -> Result<Vec<u8>, VaultError> {
        // An rng that a panic left behind is as random as before.
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let password = generate_password(rng.as_mut());
        self.vault.encrypt(rng.as_mut(), key, role, rotation, &password)
    }

    /// The password for `rotation` among all of a role. One of another key, for whatever rotation, is an error: a new
    /// password beside it would hide that the old ones cannot be read.
    fn find(&self, stored: &[StoredSecret], rotation: &str) -> Result<Option<SecretString>, VaultError> {
        for secret in stored {
            self.vault.expect_own(&secret.key, &secret.role, &secret.ciphertext)?;
        }
        stored
            .iter()
            .find(|secret| secret.rotation == rotation)
            .map(|secret| open_secret(&self.vault, secret))
            .transpose()
    }
}

/// The rotation of passwords that no value of `plumb.dev/rotate` asked for.
const FIRST: &str = "";

/// The rotation that was applied last to a resource of which the inventory knows.
async fn applied_rotation(tx: &mut dyn Tx, key: &ResourceKey) -> Result<Option<String>, StoreError> {
    let record = tx.record(key).await?;
    Ok(record.map(|record| record.annotations.rotate.unwrap_or_else(|| FIRST.to_owned())))
}

/// Whether the store knows which key its passwords are encrypted with; refuses a vault that has another.
async fn knows_key(tx: &mut dyn Tx, vault: &Vault) -> Result<bool, SecretsError> {
    if let Some(id) = tx.secret_key_id().await? {
        vault.expect_key(&id)?;
        return Ok(true);
    }
    // A state from before that was written down: its key is the one that opens what was stored last.
    if let Some(newest) = tx.newest_secret().await? {
        open_secret(vault, &newest)?;
    }
    Ok(false)
}

fn open_secret(vault: &Vault, secret: &StoredSecret) -> Result<SecretString, VaultError> {
    let StoredSecret { key, role, rotation, ciphertext, created_at: _ } = secret;
    vault.decrypt(key, role, rotation, ciphertext)
}

#[async_trait]
impl Passwords for StoredSecrets {
    async fn password(
        &self,
        lease: &Lease,
        key: &ResourceKey,
        role: &str,
        rotation: Option<&str>,
    ) -> Result<SecretString, ManagerError> {
        self.password_of(lease, key, role, rotation).await.map_err(|error| match &error {
            // The store may answer again: a full disk, a lock held too long.
            SecretsError::Store(_) | SecretsError::Vanished { .. } => {
                ManagerError::retry(Reason::Internal, with_causes(&error))
            }
            SecretsError::Vault(VaultError::WrongKey { .. }) => {
                ManagerError::terminal(Reason::CredentialMissing, with_causes(&error))
            }
            SecretsError::Vault(_) => ManagerError::terminal(Reason::Internal, with_causes(&error)),
        })
    }
}

/// An error and what caused it, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

//! Generated passwords (R12): made here, encrypted here, stored as ciphertext only.
//!
//! What always holds: a password is in the store, committed, before it is given to anybody; what is stored for a
//! rotation is never replaced; a ciphertext opens only under the key, for the resource, role and rotation that it was
//! made for; and a store has one key, whose id is in it before its first password: whoever comes with another is refused.
//!
//! A stored ciphertext is
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the version of this format, 1 |
//! | 4 | which key it was encrypted with: the beginning of a hash of that key |
//! | 24 | the nonce |
//! | the rest | XChaCha20-Poly1305, with all of the above and resource, role and rotation as associated data |

mod key;
mod stored;

use std::fmt;
use std::path::Path;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use rand::TryRngCore;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};

pub use self::key::KEY_FILE;
use self::key::KeyBytes;
pub use self::stored::{SecretsError, StoredSecrets};
use crate::model::ResourceKey;

/// The variable that may hold the key, base64 or hex; the command line reads it.
pub const KEY_VARIABLE: &str = "PLUMB_SECRET_KEY";

/// What keys, nonces and passwords are drawn from.
pub type SecureRng = Box<dyn rand::CryptoRng + Send>;

/// The operating system's randomness: what a running Plumb uses everywhere an rng is asked for.
pub fn system_rng() -> SecureRng {
    Box::new(rand::rngs::OsRng.unwrap_err())
}

/// The only version of the format so far.
const VERSION: u8 = 1;
const KEY_ID_LENGTH: usize = 4;
const NONCE_LENGTH: usize = 24;
const HEADER_LENGTH: usize = 1 + KEY_ID_LENGTH;

/// Long enough that nobody guesses it (186 bits), short enough to be pasted.
const PASSWORD_LENGTH: usize = 32;
/// Letters and digits that nobody takes for one another (no 0, O, 1, l, I) and that need no quoting anywhere.
const PASSWORD_ALPHABET: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// What to do about a file that cannot be made, where the error says so.
fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::FileTooLarge => {
            "; its disk is full: make room there, then try again"
        }
        _ => "",
    }
}

/// Why the vault could not.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The variable holds no key.
    #[error("{KEY_VARIABLE} is not a key: it takes 32 bytes as base64 or hex (`openssl rand -base64 32` makes one)")]
    BadVariable,
    /// The file holds no key.
    #[error("{path} is not a key: it takes 32 bytes as base64 or hex; put back the one that was there")]
    BadFile { path: String },
    /// Others can read the file.
    #[error("the key file {path} can be read or written by others; run `chmod 600 {path}`")]
    Exposed { path: String },
    /// There is no key, and none is to be made.
    #[error("there is no key at {path}, and {KEY_VARIABLE} is not set")]
    NoKey { path: String },
    /// There is no key, of a state that has one.
    #[error(
        "the passwords of this state are encrypted with key {needed}, and there is no key at {path}, nor in {KEY_VARIABLE}: all \
         that reconcile with one state share one key. Put key {needed} into {KEY_VARIABLE}, or its file back where it was. If \
         it is lost for good, move the state away (plumb.db, or the schema plumb): it is rebuilt and the roles keep their \
         passwords, which are then unknown"
    )]
    Missing { path: String, needed: String },
    /// The file cannot be read.
    #[error("the key file {path} cannot be read")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The file cannot be made.
    #[error("the key file {path} cannot be made{}", advice(source))]
    Make {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// A ciphertext of another key.
    #[error(
        "the password of role {role} of {key} was encrypted with key {needed}, and the key in use is {current}; put key \
         {needed} into {KEY_VARIABLE} or {KEY_FILE}. If it is lost for good, move plumb.db away: the state is rebuilt \
         and the roles keep their passwords, which are then unknown"
    )]
    WrongKey { key: ResourceKey, role: String, needed: KeyId, current: KeyId },
    /// A vault whose key is not the store's.
    #[error(
        "the passwords of this state are encrypted with key {needed}, and the key in use is {current}: all that reconcile \
         with one state share one key. Put key {needed} into {KEY_VARIABLE}, or its file {KEY_FILE} into the data \
         directory of each. If it is lost for good, move the state away (plumb.db, or the schema plumb): it is rebuilt \
         and the roles keep their passwords, which are then unknown"
    )]
    AnotherKey { needed: String, current: KeyId },
    /// A ciphertext of this key that does not open: changed, or made for something else.
    #[error("the stored password of role {role} of {key} was changed or belongs to something else")]
    Tampered { key: ResourceKey, role: String },
    /// A ciphertext of a format that this version does not know.
    #[error("the stored password of role {role} of {key} is in a format that this plumb does not know")]
    UnknownFormat { key: ResourceKey, role: String },
    /// The cipher refused; it does so only for texts of gigabytes.
    #[error("the password of role {role} of {key} could not be encrypted")]
    Encrypt { key: ResourceKey, role: String },
}

/// Which key: enough of a hash to tell keys apart, and no help in guessing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId([u8; KEY_ID_LENGTH]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

/// Encrypts and decrypts passwords. The key never leaves it.
pub struct Vault {
    cipher: XChaCha20Poly1305,
    id: KeyId,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Vault {
    /// The vault of a data directory: with the key in `variable` (what [`KEY_VARIABLE`] holds) where there is one,
    /// else with the key file, which is made when it is missing.
    ///
    /// # Errors
    /// When the key is unusable, or its file is open to others, or cannot be read or made.
    pub fn open(
        data_dir: &Path,
        variable: Option<SecretString>,
        rng: &mut dyn rand::CryptoRng,
    ) -> Result<Self, VaultError> {
        Ok(Self::with_key(&match variable {
            Some(text) => key::from_variable(&text)?,
            None => key::from_file_or_made(data_dir, rng)?,
        }))
    }

    /// The same, for those who only read: a missing key file is an error, and nothing is made.
    ///
    /// # Errors
    /// [`VaultError::NoKey`], and those of [`Vault::open`].
    pub fn open_existing(data_dir: &Path, variable: Option<SecretString>) -> Result<Self, VaultError> {
        Ok(Self::with_key(&match variable {
            Some(text) => key::from_variable(&text)?,
            None => key::from_file(data_dir)?,
        }))
    }

    /// The same, for a state whose passwords are encrypted with the key of that id.
    ///
    /// # Errors
    /// [`VaultError::Missing`] or [`VaultError::AnotherKey`], and those of [`Vault::open`].
    pub fn open_key(data_dir: &Path, variable: Option<SecretString>, id: &str) -> Result<Self, VaultError> {
        let vault = Self::open_existing(data_dir, variable).map_err(|error| match error {
            VaultError::NoKey { path } => VaultError::Missing { path, needed: id.to_owned() },
            other => other,
        })?;
        vault.expect_key(id)?;
        Ok(vault)
    }

    fn with_key(key: &KeyBytes) -> Self {
        Self { cipher: XChaCha20Poly1305::new(key.as_ref().into()), id: key::id_of(key) }
    }

    /// Which key this vault has.
    pub fn key_id(&self) -> KeyId {
        self.id
    }

    /// Refuses a store whose key has another id.
    fn expect_key(&self, id: &str) -> Result<(), VaultError> {
        match self.id.to_string() == id {
            true => Ok(()),
            false => Err(VaultError::AnotherKey { needed: id.to_owned(), current: self.id }),
        }
    }

    /// Encrypts the password of a role for a rotation.
    ///
    /// # Errors
    /// [`VaultError::Encrypt`].
    pub fn encrypt(
        &self,
        rng: &mut dyn rand::CryptoRng,
        key: &ResourceKey,
        role: &str,
        rotation: &str,
        plaintext: &SecretString,
    ) -> Result<Vec<u8>, VaultError> {
        // Random nonces of 24 bytes do not repeat in practice, so nothing has to be counted.
        let mut nonce = [0; NONCE_LENGTH];
        rng.fill_bytes(&mut nonce);
        let header = header(self.id);
        let aad = associated_data(&header, key, role, rotation);
        let payload = Payload { msg: plaintext.expose_secret().as_bytes(), aad: &aad };
        let sealed = self
            .cipher
            .encrypt(XNonce::from_slice(&nonce), payload)
            .map_err(|_| VaultError::Encrypt { key: key.clone(), role: role.to_owned() })?;
        Ok([header.as_slice(), &nonce, &sealed].concat())
    }

    /// Opens a ciphertext that was made for this role and rotation.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`], [`VaultError::Tampered`] or [`VaultError::UnknownFormat`].
    pub fn decrypt(
        &self,
        key: &ResourceKey,
        role: &str,
        rotation: &str,
        ciphertext: &[u8],
    ) -> Result<SecretString, VaultError> {
        self.expect_own(key, role, ciphertext)?;
        let tampered = || VaultError::Tampered { key: key.clone(), role: role.to_owned() };
        let (nonce, sealed) = ciphertext[HEADER_LENGTH..].split_first_chunk::<NONCE_LENGTH>().ok_or_else(tampered)?;
        let aad = associated_data(&header(self.id), key, role, rotation);
        let plaintext = self
            .cipher
            .decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: &aad })
            .map(Zeroizing::new)
            .map_err(|_| tampered())?;
        Ok(std::str::from_utf8(&plaintext).map_err(|_| tampered())?.into())
    }

    /// Refuses a ciphertext of another key or format, without opening it.
    fn expect_own(&self, key: &ResourceKey, role: &str, ciphertext: &[u8]) -> Result<(), VaultError> {
        let (key, role) = (key.clone(), role.to_owned());
        match ciphertext.split_first_chunk::<HEADER_LENGTH>() {
            None => Err(VaultError::Tampered { key, role }),
            Some(([version, ..], _)) if *version != VERSION => Err(VaultError::UnknownFormat { key, role }),
            Some(([_, id @ ..], _)) if KeyId(*id) != self.id => {
                Err(VaultError::WrongKey { key, role, needed: KeyId(*id), current: self.id })
            }
            Some(_) => Ok(()),
        }
    }
}

fn header(id: KeyId) -> [u8; HEADER_LENGTH] {
    let mut header = [VERSION; HEADER_LENGTH];
    header[1..].copy_from_slice(&id.0);
    header
}

/// Which key a ciphertext says it was encrypted with.
fn key_id_of(ciphertext: &[u8]) -> Option<KeyId> {
    match ciphertext.first_chunk::<HEADER_LENGTH>() {
        Some([VERSION, id @ ..]) => Some(KeyId(*id)),
        Some(_) | None => None,
    }
}

/// What a ciphertext is bound to. Each part is preceded by its length, so that no two sets of parts read the same.
fn associated_data(header: &[u8], key: &ResourceKey, role: &str, rotation: &str) -> Vec<u8> {
    let mut data = header.to_vec();
    for part in [key.to_string().as_str(), role, rotation] {
        data.extend_from_slice(&(part.len() as u64).to_le_bytes());
        data.extend_from_slice(part.as_bytes());
    }
    data
}

/// A new password. Every letter is equally likely: six random bits name one, and those that name none are drawn again.
pub fn generate_password(rng: &mut dyn rand::CryptoRng) -> SecretString {
    const SIX_BITS: u8 = 0b0011_1111;
    let mut password = Zeroizing::new(String::with_capacity(PASSWORD_LENGTH));
    let mut byte = Zeroizing::new([0_u8; 1]);
    while password.len() < PASSWORD_LENGTH {
        rng.fill_bytes(byte.as_mut());
        if let Some(letter) = PASSWORD_ALPHABET.get(usize::from(byte[0] & SIX_BITS)) {
            password.push(char::from(*letter));
        }
    }
    password.as_str().into()
}

#[cfg(test)]
mod tests;

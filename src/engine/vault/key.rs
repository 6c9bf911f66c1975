//! Where the key comes from: a variable, or a file for its owner alone.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::{KEY_ID_LENGTH, KeyId, VaultError};

/// The key file in the data directory.
pub const KEY_FILE: &str = "secret.key";

const KEY_LENGTH: usize = 32;
/// A key's text has at most 64 digits; what is longer is no key.
const LONGEST_TEXT: u64 = 256;

pub(super) type KeyBytes = Zeroizing<[u8; KEY_LENGTH]>;

/// Which key it is. Hashed with a purpose of its own, so that the result is good for nothing else.
pub(super) fn id_of(key: &KeyBytes) -> KeyId {
    let mut hash = Sha256::new();
    hash.update(b"plumb secret key id\0");
    hash.update(key.as_ref());
    let digest = hash.finalize();
    let mut id = [0; KEY_ID_LENGTH];
    id.copy_from_slice(&digest[..KEY_ID_LENGTH]);
    KeyId(id)
}

pub(super) fn from_variable(text: &SecretString) -> Result<KeyBytes, VaultError> {
    parse(text.expose_secret()).ok_or(VaultError::BadVariable)
}

pub(super) fn from_file(data_dir: &Path) -> Result<KeyBytes, VaultError> {
    let path = data_dir.join(KEY_FILE);
    let shown = path.display().to_string();
    match read(&path) {
        Ok(Some(key)) => key,
        Ok(None) => Err(VaultError::NoKey { path: shown }),
        Err(source) => Err(VaultError::Read { path: shown, source }),
    }
}

pub(super) fn from_file_or_made(data_dir: &Path, rng: &mut dyn rand::CryptoRng) -> Result<KeyBytes, VaultError> {
    match from_file(data_dir) {
        Err(VaultError::NoKey { path }) => {
            make(data_dir, rng).map_err(|source| VaultError::Make { path, source })?;
            // Read back: when two processes make the file at once, both go on with the one that is there.
            from_file(data_dir)
        }
        found => found,
    }
}

/// The key in a file; `None` when there is no file.
fn read(path: &Path) -> io::Result<Option<Result<KeyBytes, VaultError>>> {
    const OTHERS: u32 = 0o077;
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let shown = || path.display().to_string();
    if file.metadata()?.permissions().mode() & OTHERS != 0 {
        return Ok(Some(Err(VaultError::Exposed { path: shown() })));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(LONGEST_TEXT as usize));
    Read::by_ref(&mut file).take(LONGEST_TEXT).read_to_end(&mut text)?;
    let key = std::str::from_utf8(&text).ok().and_then(parse);
    Ok(Some(key.ok_or_else(|| VaultError::BadFile { path: shown() })))
}

/// Makes the file with a new key, whole or not at all, and never over one that is there.
fn make(data_dir: &Path, rng: &mut dyn rand::CryptoRng) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    let mut key = KeyBytes::default();
    rng.fill_bytes(key.as_mut());
    let text = Zeroizing::new(format!("{}\n", base64::engine::general_purpose::STANDARD.encode(key.as_ref())));

    // Its mode is 0600 from the start.
    let mut file = tempfile::Builder::new().prefix(".secret.key.").tempfile_in(data_dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(data_dir.join(KEY_FILE)) {
        Ok(_) => File::open(data_dir)?.sync_all(),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.error),
    }
}

/// 32 bytes as 64 hex digits, or as base64 of either alphabet, padded or not.
fn parse(text: &str) -> Option<KeyBytes> {
    let text = text.trim();
    let mut key = KeyBytes::default();
    if text.len() == 2 * KEY_LENGTH {
        return hex::decode_to_slice(text, key.as_mut()).ok().map(|()| key);
    }
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = [&STANDARD, &URL_SAFE]
        .into_iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, lenient).decode(text).ok().map(Zeroizing::new))?;
    let bytes: &[u8; KEY_LENGTH] = bytes.as_slice().try_into().ok()?;
    key.copy_from_slice(bytes);
    Some(key)
}

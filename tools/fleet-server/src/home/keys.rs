//! Files of a fleet's folder that nobody else may read: keys, tokens, the certificate's key.
//!
//! - In: a path. Out: a seed, a token, a text, or a new file of mode 600; never over one that is there.
//! - What others may read is refused before it is read.

use super::HomeError;
use crate::ports::{Chance, draw};
use crate::store::give_file;
use rcgen::{CertificateParams, KeyPair};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::fleet::link::is_host_name;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of a file that is read.
const PRIVATE_BYTES_MAX: u64 = 64 << 10;
/// Fewest bytes of a token: 16 letters at random are more than anybody tries.
pub(super) const TOKEN_BYTES_MIN: usize = 16;

pub(super) fn disk(path: &Path) -> impl Fn(io::Error) -> HomeError + '_ {
    move |source| HomeError::Disk { path: path.to_owned(), source }
}

/// A name of a host, one for all below it, or an address.
fn is_name(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || is_host_name(text.strip_prefix("*.").unwrap_or(text))
}

/// A certificate that nobody else speaks for: devices know it by its key.
pub(super) fn certificate(folder: &Path, names: &[String]) -> Result<(), HomeError> {
    if let Some(got) = names.iter().find(|name| !is_name(name)) {
        return Err(HomeError::HostName { got: got.chars().take(80).collect() });
    }
    let key = KeyPair::generate()?;
    let mut certificate = CertificateParams::new(names)?;
    // A device that knows a server by its key does not ask a calendar; others may.
    certificate.not_before = rcgen::date_time_ymd(1970, 1, 1);
    certificate.not_after = rcgen::date_time_ymd(2100, 1, 1);
    let certificate = certificate.self_signed(&key)?;
    secret(&folder.join("tls/key.pem"), &key.serialize_pem())?;
    secret(&folder.join("tls/cert.pem"), &certificate.pem())
}

/// Writes a file that only its owner may read, who is that of its folder.
pub(super) fn secret(path: &Path, text: &str) -> Result<(), HomeError> {
    written(path, text, path.parent())
}

/// The same; `folder`: whose owner it is given to.
fn written(path: &Path, text: &str, folder: Option<&Path>) -> Result<(), HomeError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(disk(path))?;
    folder.map_or(Ok(()), |folder| give_file(&file, folder)).map_err(disk(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(disk(path))
}

/// The text of a file that nobody else may read.
pub(super) fn private(path: &Path) -> Result<String, HomeError> {
    let found = fs::metadata(path).map_err(disk(path))?;
    let mode = found.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(HomeError::Mode { path: path.to_owned(), mode });
    }
    if !found.is_file() || found.len() > PRIVATE_BYTES_MAX {
        return Err(HomeError::Key { path: path.to_owned() });
    }
    fs::read_to_string(path).map_err(disk(path))
}

/// The seed of the key in a file.
///
/// # Errors
/// [`HomeError::Mode`], [`HomeError::Key`], [`HomeError::Disk`].
pub fn seed(path: &Path) -> Result<[u8; 32], HomeError> {
    let seed: Result<Hash, _> = private(path)?.trim().parse();
    seed.map(|seed| seed.0).map_err(|_| HomeError::Key { path: path.to_owned() })
}

/// The key in a file.
///
/// # Errors
/// As [`seed`].
pub fn key(path: &Path) -> Result<SecretKey, HomeError> {
    Ok(SecretKey::from_seed(&seed(path)?))
}

/// Keeps the seed of a key in a file that is not there yet.
///
/// # Errors
/// [`HomeError::Disk`]; what lies there is as it was.
pub fn keep_key(path: &Path, seed: &[u8; 32]) -> Result<(), HomeError> {
    written(path, &format!("{}\n", Hash(*seed)), None)
}

/// The same in a fleet's folder, whose owner it is given to.
///
/// # Errors
/// [`HomeError::Disk`]; what lies there is as it was.
pub fn keep_own_key(path: &Path, seed: &[u8; 32]) -> Result<(), HomeError> {
    secret(path, &format!("{}\n", Hash(*seed)))
}

/// Makes a key in a file that is not there yet.
///
/// # Errors
/// [`HomeError`]; what lies there is as it was.
pub fn new_key(path: &Path, chance: &dyn Chance) -> Result<SecretKey, HomeError> {
    let seed = draw(chance)?;
    keep_key(path, &seed)?;
    Ok(SecretKey::from_seed(&seed))
}

/// The token in a file that nobody else may read.
///
/// # Errors
/// [`HomeError::Mode`], [`HomeError::Token`], [`HomeError::Disk`].
pub fn token(path: &Path) -> Result<String, HomeError> {
    let text = private(path)?;
    let token = text.trim();
    let plain = token.bytes().all(|byte| byte.is_ascii_graphic());
    match token.len() >= TOKEN_BYTES_MIN && plain {
        true => Ok(token.to_owned()),
        false => Err(HomeError::Token { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_that_others_may_read_or_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        fs::write(&path, "ab".repeat(32)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(key(&path), Err(HomeError::Mode { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(key(&path).unwrap().public(), SecretKey::from_seed(&[0xab; 32]).public());
        fs::write(&path, "AB".repeat(32)).unwrap();
        assert!(matches!(key(&path), Err(HomeError::Key { .. })));
    }
}

//! The device's key: made once, from what the operating system alone can draw, and never shown.
//!
//! - In: 32 bytes of chance, or the bytes of a file. Out: a key that signs.
//! - The file is the owner's alone, as everything in the fleet's folder (`sapwood::ports::Disk`).
//! - Invariant: a key is on the disk before anybody hears of it.

use super::error::StoreError;
use super::sealed::Kind;
use sapwood_protocol::fleet::key::SecretKey;

pub(super) const KEY: Kind = Kind { name: "key", version: 1, bytes_max: 32 };

/// Bytes that nobody can guess.
///
/// # Errors
/// [`StoreError::Chance`] when the system has none.
pub(super) fn seed() -> Result<[u8; 32], StoreError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(StoreError::Chance)?;
    Ok(seed)
}

/// The key of a file.
pub(super) fn read(bytes: &[u8]) -> Result<SecretKey, StoreError> {
    let body = KEY.open(bytes)?;
    let seed = body.try_into();
    let seed: &[u8; 32] =
        seed.map_err(|_| StoreError::Damaged { file: KEY.name, problem: "it has no 32 bytes" })?;
    Ok(SecretKey::from_seed(seed))
}

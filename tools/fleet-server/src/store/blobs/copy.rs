//! All blobs of one place to another: a fleet moves.
//!
//! - What is there is not sent again, so that a copy that was cut off goes on; but everything is read
//!   where it came to, and has its hash there, before it counts.
//! - Never here: rows. Nobody may bring or sweep blobs meanwhile.

use super::Blobs;
use super::error::BlobError;
use sapwood_protocol::fleet::id::Hash;

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Blobs that are in both places.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that were there before.
    pub before: u64,
    /// Blobs that are damaged where they came from, and were not copied.
    pub damaged: Vec<Hash>,
}

/// Copies all blobs. `told`: called after each.
///
/// # Errors
/// [`BlobError`]; what was copied stays, and the next call goes on.
pub fn copy_all(
    from: &Blobs,
    to: &Blobs,
    mut told: impl FnMut(&Copied),
) -> Result<Copied, BlobError> {
    let mut copied = Copied::default();
    for first in 0..=u8::MAX {
        let mut all = from.older(first, u64::MAX)?;
        all.sort_unstable();
        for hash in all {
            copy_one(from, to, hash, &mut copied)?;
            told(&copied);
        }
    }
    Ok(copied)
}

fn copy_one(from: &Blobs, to: &Blobs, hash: Hash, copied: &mut Copied) -> Result<(), BlobError> {
    let is_there = to.has(hash)?;
    if !is_there {
        let bytes = match from.read(hash) {
            Err(BlobError::Damaged { .. }) => {
                copied.damaged.push(hash);
                return Ok(());
            }
            bytes => bytes?,
        };
        to.put(&bytes)?;
    }
    copied.bytes += to.check(hash)?.ok_or(BlobError::Gone { name: hash })?;
    copied.blobs += 1;
    copied.before += u64::from(is_there);
    Ok(())
}

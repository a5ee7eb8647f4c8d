//! The blobs of a fleet move: from its folder into a bucket, back, or into another bucket.
//!
//! - Nobody may have the book meanwhile: whoever has it may bring blobs, or let go of some.
//! - All are copied and read where they came to, then stores.toml names the new place, in one rename. The
//!   old ones stay. Cut at any moment, it can be said again.

use super::lock::locked;
use super::moved::{Alone, name};
use super::stores::{STORES, Stores};
use super::{HomeError, blobs, stores};
use crate::store::blobs::{Copied, copy_all};
use std::path::Path;

/// Moves the blobs of a folder into a bucket, or with none back into the folder. `told`: called after each.
///
/// # Errors
/// [`HomeError`]: it is served, or not all arrived; the fleet is where it was then.
pub fn carry(
    folder: &Path,
    bucket: Option<&str>,
    told: impl FnMut(&Copied),
) -> Result<Copied, HomeError> {
    let before = stores(folder)?;
    let after = Stores { blobs: bucket.map(str::to_owned), ..before.clone() };
    let path = folder.join(STORES);
    let after = after.checked().map_err(|source| HomeError::Stores { path, source })?;
    let _lock = locked(folder)?;
    if before.blobs == after.blobs {
        return Ok(Copied::default());
    }
    let _alone = Alone::open(folder, before.database.as_deref())?;
    let (from, to) = (blobs(folder, &before)?, blobs(folder, &after)?);
    to.probe()?;
    let copied = copy_all(&from, &to, told)?;
    name(folder, &after)?;
    Ok(copied)
}

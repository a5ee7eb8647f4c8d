//! What nobody needs any more: uploads of a month ago, and files that no row came to name.
//!
//! - Rows stay, so that what was given once is not given twice; only the files go.
//! - A file without a row is what a server left that was killed between the two.

use crate::home::Home;
use crate::store::blobs::BlobError;
use crate::store::{Book, BookError, Columns, Statement};
use sapwood_protocol::fleet::id::Hash;

/// For how long uploads are kept, so that a round can be merged again.
const KEPT_MS: u64 = 30 * 24 * 3_600_000;
/// Files of one sweep; the next one goes on.
const FILES_MAX: u64 = 100;
/// For how long a file may be without a row.
const ORPHAN_MS: u64 = 24 * 3_600_000;
/// How long one of the 256 folders of blobs is looked at, so that each has its turn in an hour.
const FOLDER_MS: u64 = 3_600_000 / 256;

#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Book(#[from] BookError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Lets go of what is over; what fails is told, and tried again.
pub(super) fn sweep(home: &Home, now_ms: u64) {
    let swept = old(home, now_ms).and_then(|()| orphans(home, now_ms));
    if let Err(error) = swept {
        tracing::error!(%error, "files that nobody needs are not removed");
    }
}

/// Uploads whose time is over.
fn old(home: &Home, now_ms: u64) -> Result<(), SweepError> {
    // What is an artifact too, to the byte, or was given again since, stays.
    let sql = "select distinct hash from upload where at < $1 and bytes is not null and state in (2, 3, 4)
        and not exists(select 1 from release where release.artifact = upload.hash)
        and not exists(select 1 from upload other where other.hash = upload.hash and other.at >= $1)
        limit $2";
    let until = now_ms.saturating_sub(KEPT_MS);
    for row in home.book.read(sql, &[until.into(), FILES_MAX.into()])? {
        let hash = Hash(Columns::of(row).array()?);
        home.blobs.remove(hash)?;
        let sql = "update upload set bytes = null where hash = $1 and at < $2";
        home.book.write(vec![Statement::any(sql, [hash.into(), until.into()])])?;
    }
    Ok(())
}

/// Files that no row names.
fn orphans(home: &Home, now_ms: u64) -> Result<(), SweepError> {
    let is_named = |hash: Hash| -> Result<bool, SweepError> {
        let sql = "select 1 from upload where hash = $1 and bytes is not null
            union all select 1 from round where result = $1
            union all select 1 from release where artifact = $1 limit 1";
        Ok(!home.book.read(sql, &[hash.into()])?.is_empty())
    };
    let first = (now_ms / FOLDER_MS % 256) as u8;
    for hash in home.blobs.older(first, now_ms.saturating_sub(ORPHAN_MS))? {
        if !is_named(hash)? {
            home.blobs.sweep(hash, || is_named(hash))?;
            tracing::info!(%hash, "a file that no row names is gone");
        }
    }
    Ok(())
}

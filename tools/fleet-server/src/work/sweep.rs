//! What nobody needs any more: uploads of a month ago.
//!
//! - Rows stay, so that what was given once is not given twice; only the files go.

use crate::home::Home;
use crate::store::{Book, BookError, Columns, Statement};
use sapwood_protocol::fleet::id::Hash;

/// For how long uploads are kept, so that a round can be merged again.
const KEPT_MS: u64 = 30 * 24 * 3_600_000;
/// Files of one sweep; the next one goes on.
const FILES_MAX: u64 = 100;

/// Lets go of uploads whose time is over.
pub(super) fn sweep(home: &Home, now_ms: u64) -> Result<(), BookError> {
    // What is an artifact too, to the byte, stays.
    let sql = "select distinct hash from upload where at < $1 and bytes is not null and state in (2, 3, 4)
        and not exists(select 1 from release where release.artifact = upload.hash)
        and not exists(select 1 from upload other where other.hash = upload.hash and other.at >= $1)
        limit $2";
    let until = now_ms.saturating_sub(KEPT_MS);
    for row in home.book.read(sql, &[until.into(), FILES_MAX.into()])? {
        let hash = Hash(Columns::of(row).array()?);
        if let Err(error) = home.blobs.remove(hash) {
            tracing::error!(%error, "an old upload is not removed");
            continue;
        }
        let sql = "update upload set bytes = null where hash = $1 and at < $2";
        home.book.write(vec![Statement::any(sql, [hash.into(), until.into()])])?;
    }
    Ok(())
}

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
/// Files of one sweep; the next one goes on. Few: rounds wait meanwhile, and each goes through the hands
/// of the server where it is kept elsewhere.
const FILES_MAX: u64 = 16;
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
    let settled = home.blobs.settle(now_ms, |hash| is_named(home, hash));
    let swept = settled.and_then(|()| old(home, now_ms)).and_then(|()| orphans(home, now_ms));
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
        // First the rows: what they let go of is an orphan, unless it is given again just now.
        let sql = "update upload set bytes = null where hash = $1 and at < $2";
        home.book.write(vec![Statement::any(sql, [hash.into(), until.into()])])?;
        let_go(home, hash)?;
    }
    Ok(())
}

/// Files that no row names.
fn orphans(home: &Home, now_ms: u64) -> Result<(), SweepError> {
    let turn = now_ms / FOLDER_MS;
    if !home.blobs.takes_turn(turn) {
        return Ok(());
    }
    let first = (turn % 256) as u8;
    for hash in home.blobs.older(first, now_ms.saturating_sub(ORPHAN_MS))? {
        if let_go(home, hash)? {
            tracing::info!(%hash, "a file that no row names is gone");
        }
    }
    Ok(())
}

/// Lets go of a file if no row names it; whether none did.
fn let_go(home: &Home, hash: Hash) -> Result<bool, SweepError> {
    let is_orphan = !is_named(home, hash)?;
    if is_orphan {
        home.blobs.sweep(hash, || is_named(home, hash))?;
    }
    Ok(is_orphan)
}

/// Whether a row needs a file.
fn is_named(home: &Home, hash: Hash) -> Result<bool, SweepError> {
    let sql = "select 1 from upload where hash = $1 and bytes is not null
        union all select 1 from round where result = $1
        union all select 1 from release where artifact = $1 limit 1";
    Ok(!home.book.read(sql, &[hash.into()])?.is_empty())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::home::{self, Wish};
    use crate::ports::SystemChance;
    use crate::store::{Row, Value};
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, UNIX_EPOCH};

    const NOW: u64 = 1_764_100_000_000;
    const HOUR_MS: u64 = 3_600_000;
    const DAY_MS: u64 = 24 * HOUR_MS;
    /// For how long the README says that a round can be merged again.
    const MONTH_MS: u64 = 30 * DAY_MS;

    fn made(place: &std::path::Path) -> Home {
        let folder = place.join("fleet");
        let wish = Wish { folder: &folder, name: "valves", tls: None, now_ms: NOW };
        home::init(&wish, &SystemChance).unwrap();
        Home::open(&folder).unwrap()
    }

    fn upload(device: u8, hash: Hash, at: u64) -> Statement {
        let sql = "insert into upload(round, device, artifact, state, hash, bytes, at)
            values (1, $1, $1, 3, $2, 5, $3)";
        Statement::one(sql, [vec![device; 16].into(), hash.into(), at.into()])
    }

    fn there(home: &Home, hash: Hash) -> bool {
        home.blobs.open_blob(hash).unwrap().is_some()
    }

    #[test]
    fn an_old_upload_that_is_an_artifact_too_or_was_given_again_stays() {
        let place = tempfile::tempdir().unwrap();
        let home = made(place.path());
        let [artifact, again, gone] =
            [b"artifact", b"again   ", b"gone    "].map(|bytes| home.blobs.put(bytes).unwrap());
        let release = "insert into release(cohort, sequence, role, artifact, bytes, statement, signatures, state,
            stage, since, expires) values ($1, 1, 2, $1, 8, $1, $1, 4, 5, 0, 0)";
        home.book
            .write(vec![
                upload(1, artifact, NOW - MONTH_MS - 1),
                upload(2, again, NOW - MONTH_MS - 1),
                upload(3, again, NOW - 1),
                upload(4, gone, NOW - MONTH_MS - 1),
                upload(5, home.blobs.put(b"new").unwrap(), NOW - MONTH_MS),
                Statement::one(release, [artifact.into()]),
            ])
            .unwrap();
        old(&home, NOW).unwrap();
        assert!(there(&home, artifact) && there(&home, again) && !there(&home, gone));
        assert!(there(&home, Hash::of(b"new")));
        old(&home, NOW + MONTH_MS).unwrap();
        assert!(there(&home, artifact) && !there(&home, again));
    }

    /// A file that was written at a time, and that no row names.
    fn file(home: &Home, bytes: &[u8], written_ms: u64) -> PathBuf {
        let name = home.blobs.put(bytes).unwrap().to_string();
        let path = home.folder.join("blobs").join(&name[..2]).join(&name);
        let written = UNIX_EPOCH + Duration::from_millis(written_ms);
        std::fs::File::open(&path).unwrap().set_modified(written).unwrap();
        path
    }

    /// As an operator is told: after a day, and no later than an hour more, by a look a second.
    #[test]
    fn what_no_row_names_goes_in_the_hour_after_its_first_day_and_what_is_new_never() {
        let place = tempfile::tempdir().unwrap();
        let home = made(place.path());
        let mut orphans_left: Vec<PathBuf> = (0..16_u8).map(|n| file(&home, &[n], NOW)).collect();
        let fresh = file(&home, b"fresh", NOW + 2 * HOUR_MS);
        let mut gone_ms = Vec::new();
        for second in 0..=26 * 3600 {
            let now_ms = NOW + 1000 * second;
            orphans(&home, now_ms).unwrap();
            orphans_left.retain(|path| {
                let is_there = path.exists();
                if !is_there {
                    gone_ms.push(now_ms - NOW);
                }
                is_there
            });
        }
        assert!(orphans_left.is_empty(), "{orphans_left:?}");
        let in_time = DAY_MS..=DAY_MS + HOUR_MS + 1000;
        assert!(gone_ms.iter().all(|gone| in_time.contains(gone)), "{gone_ms:?}");
        assert!(fresh.exists(), "it had its first day before it");
    }

    /// A look at a bucket costs something: one an hour, and not two.
    #[test]
    fn a_folder_is_looked_at_once_an_hour() {
        let place = tempfile::tempdir().unwrap();
        let home = made(place.path());
        let mut looks_ms = Vec::new();
        let mut path = file(&home, b"orphan", NOW - 2 * DAY_MS);
        for second in 0..5 * 3600 {
            orphans(&home, NOW + 1000 * second).unwrap();
            if !path.exists() {
                looks_ms.push(1000 * second);
                path = file(&home, b"orphan", NOW - 2 * DAY_MS);
            }
        }
        assert_eq!(looks_ms.len(), 5, "{looks_ms:?}");
        let apart = looks_ms.windows(2).map(|two| (two[1] - two[0]).abs_diff(HOUR_MS));
        assert!(apart.max() <= Some(1000), "{looks_ms:?}");
    }

    #[test]
    fn the_result_of_a_round_is_no_orphan() {
        let place = tempfile::tempdir().unwrap();
        let home = made(place.path());
        let [result, orphan] = [b"result", b"orphan"].map(|bytes| home.blobs.put(bytes).unwrap());
        let round = "insert into round(id, cohort, artifact, previous, state, quota, invited, stored, opened,
            deadline, seed, result) values (1, $1, $1, $1, 3, 1, 1, 1, 0, 0, $1, $1)";
        home.book.write(vec![Statement::one(round, [result.into()])]).unwrap();
        for bytes in [b"result", b"orphan"] {
            file(&home, bytes, NOW - DAY_MS - 1);
        }
        (0..3600).for_each(|second| orphans(&home, NOW + 1000 * second).unwrap());
        assert!(there(&home, result) && !there(&home, orphan));
    }

    /// A book of a fleet to which the same old file is given again, as soon as somebody has read.
    #[derive(Debug)]
    struct Meanwhile {
        book: Arc<dyn Book>,
        folder: Mutex<Option<PathBuf>>,
    }

    impl Book for Meanwhile {
        fn read(&self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, BookError> {
            let rows = self.book.read(sql, values);
            if let Some(folder) = self.folder.lock().unwrap().take() {
                let blobs = Home::open(&folder).unwrap().blobs;
                let hash = blobs.put(b"old").unwrap();
                self.book.write(vec![upload(2, hash, NOW)]).unwrap();
                blobs.see_to(hash, b"old").unwrap();
            }
            rows
        }

        fn write(&self, transaction: Vec<Statement>) -> Result<Vec<Vec<Row>>, BookError> {
            self.book.write(transaction)
        }
    }

    #[test]
    fn an_old_upload_that_is_given_again_while_it_goes_stays() {
        let place = tempfile::tempdir().unwrap();
        let mut home = made(place.path());
        let hash = home.blobs.put(b"old").unwrap();
        home.book.write(vec![upload(1, hash, NOW - MONTH_MS - 1)]).unwrap();
        let folder = Mutex::new(Some(home.folder.clone()));
        home.book = Arc::new(Meanwhile { book: home.book.clone(), folder });
        old(&home, NOW).unwrap();
        assert!(there(&home, hash));
    }
}

//! Files named by their BLAKE3: adapters as they came, and as they go out.
//!
//! - In: bytes on their way, then their hash. Out: a file under its name, whole, on disk.
//! - Invariant: what lies under a hash has it; nothing is ever changed there. Nothing is kept in a store
//!   before two creations of one name were seen to conflict in it.
//!
//! # What nobody names, and why none is lost
//! A sweep has no lock over those who bring files. Whoever brings one keeps it (A), writes the row that
//! names it (B), and then looks whether it is still there, and keeps it again if not (C). A sweep sees that
//! no row names a file, takes it away with a copy in hand (D), looks for a row once more (E), and puts the
//! copy back where there is one. Where B is before E, E sees the row. Where B is after E, C is after D, and
//! sees that the file is gone. The copy lies aside on this machine's disk until E is answered, through a
//! kill and a cut of power: [`Blobs::settle`] goes on with it. A bucket has no rename: there D is a copy,
//! then a deletion. Where the answer to that is lost, it may be done later than anybody knows, but not
//! later than a signed request is taken: the copy lies aside for 20 minutes, and is put back while a row
//! names what is gone. A file is not swept in its first day; that spares work, nothing above rests on it,
//! and so not on the clock of a store.

mod place; //   the address of a bucket
mod error; //   why not
mod content; // what is read
mod draft; //   files on their way
mod folder; //  files in their place
mod http; //    requests to a bucket
mod s3; //      objects in a bucket
mod cache; //   objects fetched lately
mod bucket; //  blobs as objects
mod copy; //    from one place to another

pub use content::Content;
pub use copy::{Copied, copy_all};
pub use draft::Draft;
pub use error::BlobError;
pub use place::{Credentials, Place, PlaceError};

use bucket::Bucket;
use draft::Drafts;
use error::disk;
use folder::{Folder, Taken};
use sapwood_protocol::fleet::id::Hash;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The folder of drafts in that of the blobs.
const DRAFTS: &str = "tmp";
/// The folder of what was fetched from a bucket.
const CACHE: &str = "cache";
/// How long what a sweep took lies aside at least, while it is not known that all is settled: longer than
/// the 15 minutes for which S3 takes a request after it was signed.
const ASIDE_MS: u64 = 20 * 60_000;

/// Where blobs are kept.
#[derive(Debug)]
pub struct Blobs {
    drafts: Drafts,
    kept: Kept,
    /// Whether the store was seen to refuse a second creation.
    is_strict: Mutex<bool>,
    /// The last turn of a sweep.
    turn: AtomicU64,
}

#[derive(Debug)]
enum Kept {
    Folder(Folder),
    Bucket(Box<Bucket>),
}

impl Blobs {
    /// The blobs under a folder, which is made if it is not there and can be.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn open(root: &Path) -> Result<Self, BlobError> {
        let (drafts, folder) = (Drafts::open(root.join(DRAFTS))?, Folder::new(root));
        Ok(Self::of(drafts, Kept::Folder(folder)))
    }

    /// The blobs in a bucket, of which nothing is asked yet. Drafts, and what was fetched lately, lie under
    /// a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn in_bucket(
        root: &Path,
        place: Place,
        credentials: &Credentials,
    ) -> Result<Self, BlobError> {
        let drafts = Drafts::open(root.join(DRAFTS))?;
        let bucket = Bucket::new(&root.join(CACHE), place, credentials)?;
        Ok(Self::of(drafts, Kept::Bucket(Box::new(bucket))))
    }

    fn of(drafts: Drafts, kept: Kept) -> Self {
        Self { drafts, kept, is_strict: Mutex::new(false), turn: AtomicU64::new(u64::MAX) }
    }

    /// Whether the store can be used, and refuses a second blob of one name; looked at once. Whoever begins
    /// to serve asks, and whoever keeps something first.
    ///
    /// # Errors
    /// [`BlobError`]; [`BlobError::Lax`] when it does not.
    pub fn probe(&self) -> Result<(), BlobError> {
        let mut is_strict = self.is_strict.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_strict {
            match &self.kept {
                Kept::Folder(folder) => folder.probe(&self.drafts)?,
                Kept::Bucket(bucket) => bucket.probe()?,
            }
            *is_strict = true;
        }
        Ok(())
    }

    /// Whether the store answers now: one look, and nothing is changed.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn reach(&self) -> Result<(), BlobError> {
        match &self.kept {
            // What a folder would say a draft in it says.
            Kept::Folder(_) => Ok(()),
            Kept::Bucket(bucket) => bucket.reach(),
        }
    }

    /// Removes what a server that died has left half written. Only for one who is alone here.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn clear_drafts(&self) -> Result<(), BlobError> {
        self.drafts.clear()
    }

    /// A new file to write.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn draft(&self) -> Result<Draft, BlobError> {
        self.drafts.new_draft()
    }

    /// Keeps what was written under its hash, durably.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn keep(&self, draft: &Draft, hash: Hash) -> Result<(), BlobError> {
        self.keep_file(&draft.path, hash)
    }

    fn keep_file(&self, file: &Path, hash: Hash) -> Result<(), BlobError> {
        self.probe()?;
        match &self.kept {
            Kept::Folder(folder) => folder.keep(file, hash),
            Kept::Bucket(bucket) => bucket.keep(file, hash),
        }
    }

    /// Keeps some bytes.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn put(&self, bytes: &[u8]) -> Result<Hash, BlobError> {
        let (hash, mut draft) = (Hash::of(bytes), self.draft()?);
        draft.write(bytes)?;
        self.keep(&draft, hash)?;
        Ok(hash)
    }

    /// Whether a blob is there.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn has(&self, hash: Hash) -> Result<bool, BlobError> {
        match &self.kept {
            Kept::Folder(folder) => folder.has(hash),
            Kept::Bucket(bucket) => bucket.has(hash),
        }
    }

    /// For whoever has written a row that names bytes which were put before: a sweep that did not know of
    /// it may have passed in between.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn see_to(&self, hash: Hash, bytes: &[u8]) -> Result<(), BlobError> {
        if self.has(hash)? { Ok(()) } else { self.put(bytes).map(drop) }
    }

    /// A blob's content and its length; none when there is none.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn open_blob(&self, hash: Hash) -> Result<Option<(Content, u64)>, BlobError> {
        let content = match &self.kept {
            Kept::Folder(folder) => folder.open(hash)?,
            Kept::Bucket(bucket) => bucket.open(hash, &self.drafts)?,
        };
        Ok(content.map(Content::measured))
    }

    /// The bytes of a blob, which are its own.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn read(&self, name: Hash) -> Result<Vec<u8>, BlobError> {
        let got = match self.read_once(name)? {
            Ok(bytes) => return Ok(bytes),
            Err(got) => got,
        };
        let Kept::Bucket(bucket) = &self.kept else {
            return Err(BlobError::Damaged { name, got });
        };
        // This machine's disk has changed what it fetched: once more.
        bucket.distrust(name);
        self.read_once(name)?.map_err(|got| BlobError::Damaged { name, got })
    }

    /// The bytes of a blob, or the hash of those that are there.
    fn read_once(&self, name: Hash) -> Result<Result<Vec<u8>, Hash>, BlobError> {
        let (mut content, _) = self.open_blob(name)?.ok_or(BlobError::Gone { name })?;
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(disk(Path::new(&name.to_string())))?;
        let got = Hash::of(&bytes);
        Ok(if got == name { Ok(bytes) } else { Err(got) })
    }

    /// Reads a blob where it is kept and counts its bytes, which are its own; none when there is none.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn check(&self, name: Hash) -> Result<Option<u64>, BlobError> {
        match &self.kept {
            Kept::Folder(folder) if !folder.has(name)? => Ok(None),
            Kept::Folder(_) => self.read(name).map(|bytes| Some(bytes.len() as u64)),
            Kept::Bucket(bucket) => bucket.check(name),
        }
    }

    /// Lets go of a blob, whoever names it; that it is not there is success.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn remove(&self, hash: Hash) -> Result<(), BlobError> {
        match &self.kept {
            Kept::Folder(folder) => folder.remove(hash),
            Kept::Bucket(bucket) => bucket.remove(hash),
        }
    }

    /// Blobs that were written before a time, ms since 1970, of those whose hash begins with a byte.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn older(&self, first: u8, until_ms: u64) -> Result<Vec<Hash>, BlobError> {
        match &self.kept {
            Kept::Folder(folder) => folder.older(first, until_ms),
            Kept::Bucket(bucket) => bucket.older(first, until_ms),
        }
    }

    /// Whether a turn of a sweep is another than the last: a list costs something in a bucket.
    pub fn takes_turn(&self, turn: u64) -> bool {
        self.turn.swap(turn, Ordering::Relaxed) != turn
    }

    /// Lets go of a blob that no row names, unless one does before it is gone.
    ///
    /// # Errors
    /// [`BlobError`]; those of `is_named`, then the blob is where it was.
    pub fn sweep<E: From<BlobError>>(
        &self,
        hash: Hash,
        is_named: impl Fn() -> Result<bool, E>,
    ) -> Result<(), E> {
        let aside = self.drafts.aside(hash);
        let taken = match &self.kept {
            Kept::Folder(folder) => folder.set_aside(hash, &aside)?,
            Kept::Bucket(bucket) => bucket.set_aside(hash, &aside, &self.drafts)?,
        };
        if matches!(taken, Taken::Absent) {
            return Ok(());
        }
        let stays = is_named();
        if !matches!(stays, Ok(false)) && aside.exists() {
            // Another may have brought it again in between.
            self.keep_file(&aside, hash)?;
        }
        if let Taken::Perhaps(error) = taken {
            return Err(error.into());
        }
        gone(fs::remove_file(&aside)).map_err(disk(&aside))?;
        stays.map(drop)
    }

    /// Goes on with what a sweep has had in hand when it was cut off.
    ///
    /// # Errors
    /// [`BlobError`]; those of `is_named`, then it lies where it did.
    pub fn settle<E: From<BlobError>>(
        &self,
        now_ms: u64,
        is_named: impl Fn(Hash) -> Result<bool, E>,
    ) -> Result<(), E> {
        for (hash, since_ms) in self.drafts.all_aside()? {
            let aside = self.drafts.aside(hash);
            if is_named(hash)? && !self.has(hash)? {
                self.keep_file(&aside, hash)?;
            }
            if since_ms.saturating_add(ASIDE_MS) < now_ms {
                gone(fs::remove_file(&aside)).map_err(disk(&aside))?;
            }
        }
        Ok(())
    }
}

/// The name of a blob, in a folder of those whose hash begins with the same byte.
fn name(hash: Hash) -> String {
    let name = hash.to_string();
    format!("{}/{name}", name.get(..2).unwrap_or_default())
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn what_is_kept_twice_is_there_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let hash = blobs.put(b"an adapter").unwrap();
        assert_eq!(blobs.put(b"an adapter").unwrap(), hash);
        assert_eq!(blobs.read(hash).unwrap(), b"an adapter");
        assert_eq!(blobs.open_blob(hash).unwrap().unwrap().1, 10);
        assert_eq!(fs::read_dir(folder.path().join(DRAFTS)).unwrap().count(), 0);
        let name = hash.to_string();
        fs::write(folder.path().join(&name[..2]).join(&name), "another").unwrap();
        assert!(matches!(blobs.read(hash), Err(BlobError::Damaged { .. })));
        blobs.remove(hash).unwrap();
        blobs.remove(hash).unwrap();
        assert!(matches!(blobs.read(hash), Err(BlobError::Gone { .. })));
        assert!(blobs.open_blob(hash).unwrap().is_none());
    }

    #[test]
    fn what_nobody_names_goes_and_what_somebody_names_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let hash = blobs.put(b"an adapter").unwrap();
        assert_eq!(blobs.older(hash.0[0], u64::MAX).unwrap(), [hash]);
        assert!(blobs.older(hash.0[0], 0).unwrap().is_empty());
        assert!(blobs.older(!hash.0[0], u64::MAX).unwrap().is_empty());
        blobs.sweep(hash, || Ok::<_, BlobError>(true)).unwrap();
        let failed = blobs.sweep(hash, || Err::<bool, _>(BlobError::Gone { name: hash }));
        assert!(failed.is_err() && blobs.read(hash).unwrap() == b"an adapter");
        blobs.sweep(hash, || Ok::<_, BlobError>(false)).unwrap();
        assert!(blobs.open_blob(hash).unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path().join(DRAFTS)).unwrap().count(), 0);
    }

    /// A sweep is killed between taking a file away and looking once more; a row has come in between.
    #[test]
    fn what_a_sweep_had_in_hand_when_it_was_killed_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let [named, orphan] = [b"named   ", b"orphan  "].map(|bytes| blobs.put(bytes).unwrap());
        for hash in [named, orphan] {
            let killed = || -> Result<bool, BlobError> { std::panic::panic_any("killed") };
            let swept = std::panic::AssertUnwindSafe(|| blobs.sweep(hash, killed));
            assert!(std::panic::catch_unwind(swept).is_err() && !blobs.has(hash).unwrap());
        }
        let blobs = Blobs::open(folder.path()).unwrap();
        blobs.clear_drafts().unwrap();
        blobs.settle(0, |hash| Ok::<_, BlobError>(hash == named)).unwrap();
        assert_eq!(blobs.read(named).unwrap(), b"named   ");
        assert!(!blobs.has(orphan).unwrap());
        blobs.settle(u64::MAX, |hash| Ok::<_, BlobError>(hash == named)).unwrap();
        assert_eq!(fs::read_dir(folder.path().join(DRAFTS)).unwrap().count(), 0);
        assert_eq!(blobs.read(named).unwrap(), b"named   ");
    }

    #[test]
    fn what_is_dropped_half_written_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let mut draft = blobs.draft().unwrap();
        draft.write(b"half").unwrap();
        drop(draft);
        std::mem::forget(blobs.draft().unwrap());
        assert_eq!(fs::read_dir(folder.path().join(DRAFTS)).unwrap().count(), 1);
        Blobs::open(folder.path()).unwrap().clear_drafts().unwrap();
        assert_eq!(fs::read_dir(folder.path().join(DRAFTS)).unwrap().count(), 0);
    }
}

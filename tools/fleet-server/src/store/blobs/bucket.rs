//! Blobs in a bucket: objects there, what was fetched lately here.
//!
//! ```text
//! PREFIX/ab/<hash>
//! ```
//! - Never here: whether two creations of one name conflict is asked in `mod.rs`, before anything is kept.

use super::cache::{Cache, Hashed};
use super::content::Content;
use super::draft::{Drafts, sync};
use super::error::{BlobError, disk};
use super::folder::Taken;
use super::place::{Credentials, Place};
use super::s3::{S3, Sink};
use sapwood_protocol::fleet::id::Hash;
use std::fs;
use std::path::Path;

/// A bucket with its cache.
#[derive(Debug)]
pub(super) struct Bucket {
    s3: S3,
    cache: Cache,
}

/// Bytes that are only counted.
pub(super) struct Counted(pub(super) u64);

impl Sink for Counted {
    fn clear(&mut self) -> Result<(), BlobError> {
        self.0 = 0;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.0 += bytes.len() as u64;
        Ok(())
    }
}

impl Bucket {
    pub(super) fn new(
        cache: &Path,
        place: Place,
        credentials: &Credentials,
    ) -> Result<Self, BlobError> {
        let cache = Cache::new(cache.to_owned(), place.cache_bytes);
        Ok(Self { s3: S3::new(place, credentials)?, cache })
    }

    /// Whether all is allowed, and two creations of one name conflict.
    pub(super) fn probe(&self) -> Result<(), BlobError> {
        self.s3.probe()
    }

    /// Whether it answers.
    pub(super) fn reach(&self) -> Result<(), BlobError> {
        self.s3.reach()
    }

    pub(super) fn keep(&self, file: &Path, hash: Hash) -> Result<(), BlobError> {
        let _room = self.s3.room(fs::metadata(file).map_err(disk(file))?.len());
        let bytes = fs::read(file).map_err(disk(file))?;
        self.s3.create(&super::name(hash), bytes)?;
        self.cache.offer(file, hash);
        Ok(())
    }

    pub(super) fn has(&self, hash: Hash) -> Result<bool, BlobError> {
        self.s3.has(&super::name(hash))
    }

    pub(super) fn open(&self, hash: Hash, drafts: &Drafts) -> Result<Option<Content>, BlobError> {
        self.cache.open(hash, &self.s3, drafts)
    }

    pub(super) fn distrust(&self, hash: Hash) {
        self.cache.distrust(hash);
    }

    /// Reads a blob from where it is kept, and counts its bytes; none when there is none.
    pub(super) fn check(&self, hash: Hash) -> Result<Option<u64>, BlobError> {
        let mut counted = Hashed { to: Counted(0), hasher: blake3::Hasher::new() };
        let is_there = self.s3.fetch(&super::name(hash), &mut counted)?;
        let got = Hash(*counted.hasher.finalize().as_bytes());
        match (is_there, got == hash) {
            (false, _) => Ok(None),
            (true, true) => Ok(Some(counted.to.0)),
            (true, false) => Err(BlobError::Damaged { name: hash, got }),
        }
    }

    pub(super) fn remove(&self, hash: Hash) -> Result<(), BlobError> {
        self.s3.delete(&super::name(hash))
    }

    pub(super) fn older(&self, first: u8, until_ms: u64) -> Result<Vec<Hash>, BlobError> {
        let all = self.s3.list(&format!("{first:02x}"))?;
        let older = all.into_iter().filter(|(_, written_ms)| *written_ms < until_ms);
        // What is no blob is somebody else's.
        Ok(older.filter_map(|(name, _)| name.parse().ok()).collect())
    }

    /// Lets go of a blob once a copy of it lies aside, durably.
    pub(super) fn set_aside(
        &self,
        hash: Hash,
        aside: &Path,
        drafts: &Drafts,
    ) -> Result<Taken, BlobError> {
        let name = super::name(hash);
        let mut copy = Hashed { to: drafts.new_draft()?, hasher: blake3::Hasher::new() };
        if !self.s3.fetch(&name, &mut copy)? {
            return Ok(Taken::Absent);
        }
        // What does not have the hash is not what anybody would have back.
        if copy.hasher.finalize().as_bytes() == &hash.0 {
            sync(&copy.to.path)?;
            fs::rename(&copy.to.path, aside).map_err(disk(aside))?;
            aside.parent().map_or(Ok(()), sync)?;
        }
        // One try: what was sent twice may take away what came in between.
        match self.s3.delete_once(&name) {
            Ok(()) => Ok(Taken::Surely),
            Err(error) => Ok(Taken::Perhaps(error)),
        }
    }
}

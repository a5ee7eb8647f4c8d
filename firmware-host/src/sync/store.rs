//! The fleet's folder: key, book, what comes in and what goes out, each whole or not there.
//!
//! - `key`, `book`: written beside and renamed, so that a power cut leaves the old or the new one.
//! - `incoming/HASH.part` grows as it comes and may be cut at any byte; `incoming/HASH` is whole and of
//!   that hash. `outgoing/HASH` is what was sent, or is about to be.
//! - Never here: the state folder, the network, what the bytes mean.

use super::book::{BOOK, Book};
use super::error::StoreError;
use super::key::{self, KEY};
use sapwood::ports::{Disk, Storage, StorageError, StorageResult};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::key::SecretKey;
use sapwood_protocol::limits::FLEET_ADAPTER_BYTES_MAX;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const INCOMING: &str = "incoming";
const OUTGOING: &str = "outgoing";
/// A key that the server may know already, and may not.
const NEXT_KEY: &str = "key.next";
/// Bytes that are read at once of a file that is checked.
const PIECE_BYTES: usize = 1 << 20;

/// Where the bytes of a new key come from.
type Seed = Arc<dyn Fn() -> Result<[u8; 32], StoreError> + Send + Sync>;

/// The folder.
#[derive(Clone)]
pub struct Store {
    disk: Arc<dyn Storage>,
    root: PathBuf,
    seed: Seed,
}

impl Store {
    /// Takes the folder for this process alone, and makes it where it is missing.
    ///
    /// # Errors
    /// [`StoreError::Disk`], also when another process has it.
    pub fn exclusive(root: &Path) -> Result<Self, StoreError> {
        Ok(Self::on(Arc::new(Disk::exclusive(root)?), root))
    }

    /// The folder as it is, for reading only; none where it is missing.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn look(root: &Path) -> Result<Option<Self>, StoreError> {
        match Disk::look(root) {
            Ok(disk) => Ok(Some(Self::on(Arc::new(disk), root))),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A folder on any disk, where `root` leads to it.
    pub fn on(disk: Arc<dyn Storage>, root: &Path) -> Self {
        Self { disk, root: root.to_path_buf(), seed: Arc::new(key::seed) }
    }

    /// The same, with keys that are the same in every run.
    #[cfg(any(test, feature = "faults"))]
    pub fn drawing(self, seed: impl Fn() -> [u8; 32] + Send + Sync + 'static) -> Self {
        Self { seed: Arc::new(move || Ok(seed())), ..self }
    }

    /// The folder's path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The book; none before the device was told of a fleet.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read, or says nothing that can be believed.
    pub fn book(&self) -> Result<Option<Book>, StoreError> {
        self.file(BOOK.name)?.map(|bytes| Book::read(&bytes)).transpose()
    }

    /// Replaces the book; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError`]: the old one or the new one is there.
    pub fn keep(&self, book: &Book) -> Result<(), StoreError> {
        Ok(self.publish(BOOK.name, &book.write()?)?)
    }

    /// The key; none before one was made.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn key(&self) -> Result<Option<SecretKey>, StoreError> {
        self.file(KEY.name)?.map(|bytes| key::read(&bytes)).transpose()
    }

    /// The key, made where there is none; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn key_or_new(&self) -> Result<SecretKey, StoreError> {
        match self.key()? {
            Some(key) => Ok(key),
            None => self.make_key(KEY.name),
        }
    }

    /// The key that is to take the key's place; none while no change is under way.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn next_key(&self) -> Result<Option<SecretKey>, StoreError> {
        self.file(NEXT_KEY)?.map(|bytes| key::read(&bytes)).transpose()
    }

    /// The same, made where there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn next_key_or_new(&self) -> Result<SecretKey, StoreError> {
        match self.next_key()? {
            Some(key) => Ok(key),
            None => self.make_key(NEXT_KEY),
        }
    }

    /// The next key takes the key's place.
    ///
    /// # Errors
    /// [`StoreError`]: one of both is the key, and the other is still there.
    pub(super) fn promote_key(&self) -> Result<(), StoreError> {
        self.disk.rename(NEXT_KEY, KEY.name)?;
        Ok(self.disk.sync_dir("")?)
    }

    fn make_key(&self, name: &str) -> Result<SecretKey, StoreError> {
        let seed = (self.seed)()?;
        self.publish(name, &KEY.seal(&seed))?;
        Ok(SecretKey::from_seed(&seed))
    }

    /// Forgets the fleet: book, files, keys, in this order.
    ///
    /// # Errors
    /// [`StoreError`]: what is left goes with the next try.
    pub(super) fn forget(&self) -> Result<(), StoreError> {
        self.remove(BOOK.name)?;
        self.disk.sync_dir("")?;
        self.sweep(None, None)?;
        for folder in [INCOMING, OUTGOING] {
            self.disk.remove_dir_all(folder).or_else(unless_missing)?;
        }
        self.remove(NEXT_KEY)?;
        self.remove(KEY.name)?;
        Ok(self.disk.sync_dir("")?)
    }

    /// Removes what nothing in the book names: files of statements and uploads that are over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn sweep(
        &self,
        incoming: Option<Hash>,
        outgoing: Option<Hash>,
    ) -> StorageResult<()> {
        for (folder, kept) in [(INCOMING, incoming), (OUTGOING, outgoing)] {
            let kept = kept.map(|hash| hash.to_string());
            let is_kept = |name: &str| {
                let name = name.strip_suffix(".part").unwrap_or(name);
                kept.as_deref() == Some(name)
            };
            for name in self.disk.list(folder)?.iter().filter(|name| !is_kept(name)) {
                self.remove(&format!("{folder}/{name}"))?;
            }
        }
        [BOOK.name, KEY.name, NEXT_KEY].iter().try_for_each(|name| self.remove(&beside(name)))
    }

    /// Keeps what is to be sent; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn put_outgoing(&self, hash: Hash, bytes: &[u8]) -> Result<(), StoreError> {
        self.disk.create_dir_all(OUTGOING)?;
        self.disk.sync_dir("")?;
        let name = format!("{OUTGOING}/{hash}");
        self.disk.write(&name, bytes)?;
        self.disk.sync(&name)?;
        Ok(self.disk.sync_dir(OUTGOING)?)
    }

    /// What was sent; none when it is not there or is not what it was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) fn outgoing(&self, hash: Hash) -> Result<Option<Vec<u8>>, StoreError> {
        let name = format!("{OUTGOING}/{hash}");
        match self.disk.len(&name)? {
            Some(bytes) if bytes <= FLEET_ADAPTER_BYTES_MAX => {
                let bytes = self.disk.read(&name)?;
                Ok(Some(bytes).filter(|bytes| Hash::of(bytes) == hash))
            }
            _ => Ok(None),
        }
    }

    /// Bytes of an artifact that have come.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(super) fn have(&self, artifact: Hash) -> StorageResult<u64> {
        Ok(self.disk.len(&part(artifact))?.unwrap_or(0))
    }

    /// Begins an artifact anew.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(super) fn begin(&self, artifact: Hash) -> StorageResult<()> {
        self.disk.create_dir_all(INCOMING)?;
        self.disk.write(&part(artifact), b"")
    }

    /// Adds what came.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(super) fn add(&self, artifact: Hash, offset: u64, bytes: &[u8]) -> StorageResult<()> {
        self.disk.write_at(&part(artifact), offset, bytes)
    }

    /// Lets go of what came of an artifact.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(super) fn drop_incoming(&self, artifact: Hash) -> StorageResult<()> {
        self.remove(&part(artifact))?;
        self.remove(&whole(artifact))
    }

    /// Looks through what came of an artifact, in pieces from its front; its hash at the end.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(super) fn look_through(
        &self,
        artifact: Hash,
        each: &mut dyn FnMut(&[u8]),
    ) -> StorageResult<Hash> {
        let is_whole = self.is_whole(artifact)?;
        let name = if is_whole { whole(artifact) } else { part(artifact) };
        let (mut left, mut offset) = (self.disk.len(&name)?.unwrap_or(0), 0);
        let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE_BYTES]);
        while left > 0 {
            let now = left.min(PIECE_BYTES as u64);
            let piece = &mut piece[..now as usize];
            self.disk.read_at(&name, offset, piece)?;
            hasher.update(piece);
            each(piece);
            (offset, left) = (offset + now, left - now);
        }
        Ok(Hash(*hasher.finalize().as_bytes()))
    }

    /// Calls what came whole and is right by its hash; durable when it returns.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(super) fn finish(&self, artifact: Hash) -> StorageResult<()> {
        self.disk.sync(&part(artifact))?;
        self.disk.rename(&part(artifact), &whole(artifact))?;
        self.disk.sync_dir(INCOMING)?;
        self.disk.sync_dir("")
    }

    /// Whether an artifact is here whole.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(super) fn is_whole(&self, artifact: Hash) -> StorageResult<bool> {
        Ok(self.disk.len(&whole(artifact))?.is_some())
    }

    /// Where it lies.
    pub(super) fn path(&self, artifact: Hash) -> PathBuf {
        self.root.join(whole(artifact))
    }

    fn file(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.disk.len(name)? {
            // The line in front included.
            Some(bytes) if bytes > 2 * BOOK.bytes_max as u64 => {
                let file = if name == BOOK.name { BOOK.name } else { KEY.name };
                Err(StoreError::Damaged { file, problem: "it is longer than any that is written" })
            }
            Some(_) => Ok(Some(self.disk.read(name)?)),
            None => Ok(None),
        }
    }

    /// Replaces a file: whole or not at all, durable when it returns.
    fn publish(&self, name: &str, bytes: &[u8]) -> StorageResult<()> {
        let new = beside(name);
        self.disk.write(&new, bytes)?;
        self.disk.sync(&new)?;
        self.disk.rename(&new, name)?;
        self.disk.sync_dir("")
    }

    fn remove(&self, name: &str) -> StorageResult<()> {
        self.disk.remove(name).or_else(unless_missing)
    }
}

fn unless_missing(error: StorageError) -> StorageResult<()> {
    if error.is_missing() { Ok(()) } else { Err(error) }
}

fn beside(name: &str) -> String {
    format!("{name}.new")
}

fn part(artifact: Hash) -> String {
    format!("{INCOMING}/{artifact}.part")
}

fn whole(artifact: Hash) -> String {
    format!("{INCOMING}/{artifact}")
}

impl From<StorageError> for StoreError {
    fn from(error: StorageError) -> Self {
        Self::Disk(error)
    }
}

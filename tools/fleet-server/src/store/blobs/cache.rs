//! What was fetched lately, on this machine's disk.
//!
//! ```text
//! cache/<hash>
//! ```
//! - In: a hash, and a bucket that has it. Out: its content, checked by its hash when it is fetched and when
//!   this process opens it first, and again whenever its file was written since.
//! - Two who ask for the same wait for one download. What was not opened for longest goes when there are
//!   more bytes than allowed. Several processes may have one folder.
//! - Whatever the disk says, what can be fetched is served: from memory then, as far as that goes.
//! - Invariant: nobody gets bytes that do not have the hash.

use super::content::Content;
use super::draft::{Draft, Drafts};
use super::error::{BlobError, disk};
use super::s3::{S3, Sink};
use crate::store::give_path;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::limits::FLEET_ADAPTER_BYTES_MAX;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

/// Bytes in memory at most, where the disk takes none.
const HELD_BYTES_MAX: u64 = 2 * FLEET_ADAPTER_BYTES_MAX;
const PIECE_BYTES: usize = 256 << 10;

/// The folder of what was fetched.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    bytes_max: u64,
    flights: Mutex<BTreeMap<Hash, Arc<Flight>>>,
    /// Files that were read and have their hash, as they were then.
    sound: Mutex<BTreeMap<Hash, Stamp>>,
    held: Mutex<BTreeMap<Hash, Weak<[u8]>>>,
}

/// What changes when a file is written: number, length, time in ns.
type Stamp = (u64, u64, i64, i64);

/// A download that others wait for.
#[derive(Debug, Default)]
struct Flight {
    ended: Mutex<Option<Result<bool, String>>>,
    told: Condvar,
}

/// Ends a flight, however it ends.
struct Landing<'a> {
    cache: &'a Cache,
    hash: Hash,
    flight: Arc<Flight>,
    /// Whether it was found.
    ended: Result<bool, String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    /// The cache in a folder, which is made when something is kept first.
    pub(super) fn new(folder: PathBuf, bytes_max: u64) -> Self {
        let (flights, sound, held) = Default::default();
        Self { folder, bytes_max, flights, sound, held }
    }

    /// A blob, from here or from the bucket; none when it is in neither.
    pub(super) fn open(
        &self,
        hash: Hash,
        s3: &S3,
        drafts: &Drafts,
    ) -> Result<Option<Content>, BlobError> {
        loop {
            if let Some(content) = self.there(hash) {
                return Ok(Some(content));
            }
            let mut landing = match self.take_off(hash) {
                Ok(landing) => landing,
                Err(flight) => match flight.wait().map_err(|told| BlobError::Shared { told })? {
                    true => continue,
                    false => return Ok(None),
                },
            };
            // Another may have landed between the look and the start.
            let found = match self.there(hash) {
                Some(content) => Ok(Some(content)),
                None => self.fetched(hash, s3, drafts),
            };
            landing.ended = match &found {
                Ok(found) => Ok(found.is_some()),
                Err(error) => Err(error.to_string()),
            };
            return found;
        }
    }

    /// What is on its way to the bucket may be asked for soon.
    pub(super) fn offer(&self, file: &Path, hash: Hash) {
        // Best effort: it can be fetched.
        let _ = self.add(file, hash).and_then(|()| self.trim(self.bytes_max));
    }

    fn take_off(&self, hash: Hash) -> Result<Landing<'_>, Arc<Flight>> {
        let mut flights = locked(&self.flights);
        if let Some(flight) = flights.get(&hash) {
            return Err(flight.clone());
        }
        let flight = Arc::<Flight>::default();
        flights.insert(hash, flight.clone());
        Ok(Landing { cache: self, hash, flight, ended: Err("a download broke off".to_owned()) })
    }

    fn fetched(&self, hash: Hash, s3: &S3, drafts: &Drafts) -> Result<Option<Content>, BlobError> {
        match self.to_disk(hash, s3, drafts) {
            Err(error @ BlobError::Disk { .. }) => {
                tracing::warn!(%error, "what is fetched is served from memory");
                if error.is_full() {
                    // Room for the next; what is open stays open.
                    let _ = self.trim(0);
                }
                self.to_memory(hash, s3)
            }
            other => other,
        }
    }

    fn to_disk(&self, hash: Hash, s3: &S3, drafts: &Drafts) -> Result<Option<Content>, BlobError> {
        let mut to = Hashed { to: drafts.new_draft()?, hasher: blake3::Hasher::new() };
        if !fetch(hash, s3, &mut to)? {
            return Ok(None);
        }
        let path = &to.to.path;
        let file = File::open(path).map_err(disk(path))?;
        if let Ok(stamp) = file.metadata().map(|found| stamp(&found)) {
            locked(&self.sound).insert(hash, stamp);
        }
        self.offer(path, hash);
        Content::of_file(file).map(Some).map_err(disk(path))
    }

    fn to_memory(&self, hash: Hash, s3: &S3) -> Result<Option<Content>, BlobError> {
        if self.held_bytes() >= HELD_BYTES_MAX {
            let source = io::Error::from(io::ErrorKind::StorageFull);
            return Err(BlobError::Disk { path: self.folder.clone(), source });
        }
        let mut to = Hashed { to: Vec::new(), hasher: blake3::Hasher::new() };
        if !fetch(hash, s3, &mut to)? {
            return Ok(None);
        }
        let bytes: Arc<[u8]> = to.to.into();
        locked(&self.held).insert(hash, Arc::downgrade(&bytes));
        Ok(Some(Content::of_memory(bytes)))
    }

    /// Bytes that somebody reads from memory.
    fn held_bytes(&self) -> u64 {
        let mut held = locked(&self.held);
        held.retain(|_, bytes| bytes.strong_count() > 0);
        held.values().filter_map(Weak::upgrade).map(|bytes| bytes.len() as u64).sum()
    }

    /// A blob that is here and sound.
    fn there(&self, hash: Hash) -> Option<Content> {
        if let Some(bytes) = locked(&self.held).get(&hash).and_then(Weak::upgrade) {
            return Some(Content::of_memory(bytes));
        }
        let path = self.folder.join(hash.to_string());
        let mut file = File::open(&path).ok()?;
        match self.is_sound(hash, &mut file) {
            Ok(true) => {
                // When it was used last; the time of its content stays.
                let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
                let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
                let _ =
                    futimens(&file, &Timestamps { last_access: now, last_modification: omitted });
                Content::of_file(file).ok()
            }
            Ok(false) | Err(_) => {
                tracing::warn!(%hash, "a damaged file of the cache is fetched again");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    fn is_sound(&self, hash: Hash, file: &mut File) -> io::Result<bool> {
        let stamp = stamp(&file.metadata()?);
        if locked(&self.sound).get(&hash) == Some(&stamp) {
            return Ok(true);
        }
        let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE_BYTES]);
        loop {
            match file.read(&mut piece)? {
                0 => break,
                count => hasher.update(&piece[..count]),
            };
        }
        file.seek(SeekFrom::Start(0))?;
        let is_sound = hasher.finalize().as_bytes() == &hash.0;
        if is_sound {
            locked(&self.sound).insert(hash, stamp);
        }
        Ok(is_sound)
    }

    /// Whoever reads a blob and finds another one.
    pub(super) fn distrust(&self, hash: Hash) {
        locked(&self.sound).remove(&hash);
    }

    fn add(&self, file: &Path, hash: Hash) -> Result<(), BlobError> {
        if !self.folder.is_dir() {
            fs::create_dir_all(&self.folder).map_err(disk(&self.folder))?;
            let root = self.folder.parent().unwrap_or(&self.folder);
            give_path(&self.folder, root).map_err(disk(&self.folder))?;
        }
        let place = self.folder.join(hash.to_string());
        match fs::hard_link(file, &place) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(disk(&place)(error)),
            _ => Ok(()),
        }
    }

    /// Removes what was not used for longest, until no more bytes are here than so many.
    fn trim(&self, bytes_max: u64) -> Result<(), BlobError> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(disk(&self.folder))? {
            let entry = entry.map_err(disk(&self.folder))?;
            // Another process may have removed it by now.
            let Ok(found) = entry.metadata() else { continue };
            let hash: Option<Hash> = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(hash) = hash {
                all.push(((found.atime(), found.atime_nsec()), found.len(), hash));
            }
        }
        all.sort_unstable();
        let mut bytes: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
        let mut sound = locked(&self.sound);
        for (_, length, hash) in all {
            if bytes <= bytes_max {
                break;
            }
            let _ = fs::remove_file(self.folder.join(hash.to_string()));
            sound.remove(&hash);
            bytes -= length;
        }
        Ok(())
    }
}

fn stamp(found: &fs::Metadata) -> Stamp {
    (found.ino(), found.len(), found.mtime(), found.mtime_nsec())
}

/// Fetches a blob that has its hash; another try where it has not, for lines lie more often than stores.
fn fetch<S: Sink>(hash: Hash, s3: &S3, to: &mut Hashed<S>) -> Result<bool, BlobError> {
    let name = super::name(hash);
    for is_last in [false, true] {
        if !s3.fetch(&name, to)? {
            return Ok(false);
        }
        let got = Hash(*to.hasher.finalize().as_bytes());
        if got == hash {
            return Ok(true);
        }
        if is_last {
            return Err(BlobError::Damaged { name: hash, got });
        }
    }
    Ok(false)
}

/// What is written is hashed.
pub(super) struct Hashed<S> {
    pub(super) to: S,
    pub(super) hasher: blake3::Hasher,
}

impl<S: Sink> Sink for Hashed<S> {
    fn clear(&mut self) -> Result<(), BlobError> {
        self.hasher.reset();
        self.to.clear()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.hasher.update(bytes);
        self.to.write(bytes)
    }
}

impl Sink for Draft {
    fn clear(&mut self) -> Result<(), BlobError> {
        self.empty()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        Self::write(self, bytes)
    }
}

impl Sink for Vec<u8> {
    fn clear(&mut self) -> Result<(), BlobError> {
        Self::clear(self);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

impl Flight {
    fn wait(&self) -> Result<bool, String> {
        let ended = locked(&self.ended);
        let ended = self.told.wait_while(ended, |ended| ended.is_none());
        ended.unwrap_or_else(PoisonError::into_inner).clone().unwrap_or(Ok(false))
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        locked(&self.cache.flights).remove(&self.hash);
        let ended = std::mem::replace(&mut self.ended, Ok(false));
        *locked(&self.flight.ended) = Some(ended);
        self.flight.told.notify_all();
    }
}

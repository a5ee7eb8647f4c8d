//! The inbox: samples that were acknowledged and that no job has learned yet.
//!
//! ```text
//! inbox/<number>   a segment: batches of JSON lines, the first of which is that sample
//! inbox/seen       hashes of the last samples; the number that the next will have
//! inbox/job        which samples the job under way takes
//! inbox/aside/     samples that no job could take in
//! inbox/damaged/   segments that were damaged, for a person to look into
//! ```
//! - In: JSON lines. Out: a receipt once they are durable; examples in order of arrival.
//! - A batch is taken in whole or not at all. A sample that was there already is dropped and counted.
//! - Bounded: what has no room is refused, never something else dropped for it.
//! - Which samples are learned is not known here: the state's manifest says up to which number, and
//!   moves with a commit. Recovery drops what lies below it.
//! - Numbers begin at 1, are never given twice and have no gaps but those of lost batches.
//! - Never here: sockets, clocks, tokens.

mod aside;
mod error;
mod job;
mod open;
mod seen;
mod segment;
#[cfg(test)]
mod tests;

pub use aside::Aside;
pub use error::InboxError;
pub use job::Job;
pub use open::Found;

use crate::intake::{self, Example, Sample};
use crate::ports::{Storage, StorageResult};
use sapwood_protocol::limits::{
    COUNT_MAX, INBOX_BATCH_BYTES_MAX, INBOX_DAMAGED_MAX, INBOX_HASHES_MAX, INBOX_SEGMENT_BYTES,
    RECORD_HEADER_BYTES,
};
use seen::Seen;
use segment::Batch;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const FOLDER: &str = "inbox";
const SEEN: &str = "inbox/seen";
const DAMAGED: &str = "inbox/damaged";
const NEW: &str = ".new";
/// How often a batch is read before it counts as lost: one error of a disk is not the last word.
const READS: u32 = 3;
/// Bytes of the shortest line that is an example, `{"text":"."}` without its end.
const LINE_BYTES_MIN: u64 = 10;
/// Most bytes of a segment: one batch may fill it, with a line end that it came without.
const SEGMENT_BYTES_MAX: u64 = INBOX_BATCH_BYTES_MAX + 1 + RECORD_HEADER_BYTES as u64;
/// Most bytes of the hashes.
const SEEN_BYTES_MAX: u64 = (RECORD_HEADER_BYTES + 8 * INBOX_HASHES_MAX) as u64;

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes, headers included; at most [`INBOX_BYTES_MAX`](sapwood_protocol::limits::INBOX_BYTES_MAX).
    pub bytes: u64,
    /// Samples; at most [`INBOX_SAMPLES_MAX`](sapwood_protocol::limits::INBOX_SAMPLES_MAX).
    pub samples: u64,
}

/// What became of a batch, which is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Samples taken in.
    pub accepted: u64,
    /// Samples that were there already.
    pub duplicates: u64,
    /// Number of the last sample that the inbox has ever taken in.
    pub last: u64,
}

/// What waits for a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Samples.
    pub samples: u64,
    /// Their bytes on disk.
    pub bytes: u64,
}

/// Samples for a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The samples with their numbers, in order of arrival.
    pub samples: Vec<(u64, Example)>,
    /// The number of the last of them.
    pub through: u64,
    /// Samples among them that could not be read any more, and are left out.
    pub lost: u64,
}

/// One file of batches.
#[derive(Debug, Default)]
struct Segment {
    first: u64,
    bytes: u64,
    /// The number behind its last where bytes of it belong to no sound batch: it is kept when nothing in
    /// it waits.
    damaged: Option<u64>,
    batches: Vec<Batch>,
}

impl Segment {
    fn path(&self) -> String {
        format!("{FOLDER}/{}", self.first)
    }
}

/// The inbox of a state folder.
pub struct Inbox {
    storage: Arc<dyn Storage>,
    bounds: Bounds,
    /// Oldest first; each holds a batch that waits, or is the one being written.
    segments: Vec<Segment>,
    /// Whether the last segment may grow: it ends with a sound batch of this process.
    open: bool,
    next: u64,
    learned: u64,
    seen: Seen,
    /// Bytes of the samples that were set aside, by their numbers.
    aside: BTreeMap<u64, u64>,
    aside_dropped: u64,
    found: Found,
    broken: bool,
}

impl Inbox {
    /// Whether a sync failed: nothing more is taken in until it is opened again.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// What opening found out of order.
    pub fn found(&self) -> Found {
        self.found
    }

    /// What waits for a job.
    pub fn waiting(&self) -> Waiting {
        let mut waiting = Waiting::default();
        for batch in self.batches() {
            let gone = (batch.first - 1).max(self.learned);
            waiting.samples += batch.last().saturating_sub(gone);
            waiting.bytes += batch.bytes;
        }
        waiting
    }

    /// How much may wait.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.segments.iter().flat_map(|segment| &segment.batches)
    }

    /// Takes in JSON lines, all or none; when it returns they are durable.
    ///
    /// # Errors
    /// [`InboxError`]; nothing of the batch is acknowledged, and after all but
    /// [`InboxError::Sync`] nothing of it is there.
    pub fn offer(&mut self, lines: &str) -> Result<Receipt, InboxError> {
        self.usable()?;
        if lines.len() as u64 > INBOX_BATCH_BYTES_MAX {
            return Err(InboxError::Large { got: lines.len() as u64, max: INBOX_BATCH_BYTES_MAX });
        }
        let samples = intake::samples(lines, "batch")?;
        self.offer_samples(&samples.iter().collect::<Vec<_>>())
    }

    /// Takes in samples that were read already, all or none; when it returns they are durable.
    ///
    /// # Errors
    /// As [`Inbox::offer`], but for lines that are none.
    pub fn offer_samples(&mut self, samples: &[&Sample]) -> Result<Receipt, InboxError> {
        self.usable()?;
        let bytes: usize = samples.iter().map(|sample| sample.line().len() + 1).sum();
        // The end of the last line is no part of what is counted.
        let bytes = bytes.saturating_sub(1) as u64;
        if bytes > INBOX_BATCH_BYTES_MAX {
            return Err(InboxError::Large { got: bytes, max: INBOX_BATCH_BYTES_MAX });
        }
        let (mut fresh, mut hashes) = (String::new(), BTreeSet::new());
        for sample in samples {
            let hash = hash(sample.example());
            if !self.seen.contains(hash) && hashes.insert(hash) {
                fresh.push_str(sample.line());
                fresh.push('\n');
            }
        }
        let (all, accepted) = (samples.len() as u64, hashes.len() as u64);
        match (all, accepted) {
            (0, _) => return Err(InboxError::Empty),
            (_, 0) => {}
            _ => self.write(&fresh, accepted)?,
        }
        hashes.into_iter().for_each(|hash| self.seen.insert(hash));
        Ok(Receipt { accepted, duplicates: all - accepted, last: self.next - 1 })
    }

    /// Makes a batch of `count` new samples durable.
    fn write(&mut self, lines: &str, count: u64) -> Result<(), InboxError> {
        let bytes = segment::encode(self.next, lines);
        self.room(bytes.len() as u64, count)?;
        let grows = self.open
            && self
                .segments
                .last()
                .is_some_and(|last| last.bytes + bytes.len() as u64 <= INBOX_SEGMENT_BYTES);
        // Whatever happens on the way, what comes later does not follow a batch that is not sound.
        self.open = false;
        let first =
            if grows { self.segments.last().map_or(self.next, |s| s.first) } else { self.next };
        let path = format!("{FOLDER}/{first}");
        let at = if grows { self.segments.last().map_or(0, |last| last.bytes) } else { 0 };
        if grows {
            self.storage.write_at(&path, at, &bytes)?;
        } else {
            self.storage.write(&path, &bytes)?;
        }
        self.promise(|storage| {
            storage.sync(&path)?;
            if grows { Ok(()) } else { storage.sync_dir(FOLDER) }
        })?;
        if !grows {
            self.segments.push(Segment { first, ..Segment::default() });
        }
        let batch = Batch { first: self.next, count, at, bytes: bytes.len() as u64 };
        if let Some(last) = self.segments.last_mut() {
            last.bytes = at + batch.bytes;
            last.batches.push(batch);
        }
        self.next += count;
        self.open = true;
        Ok(())
    }

    fn room(&self, bytes: u64, samples: u64) -> Result<(), InboxError> {
        let (waiting, bounds) = (self.waiting(), self.bounds);
        if bytes > bounds.bytes {
            return Err(InboxError::Large { got: bytes, max: bounds.bytes });
        }
        let numbers = COUNT_MAX.saturating_sub(self.next - 1);
        if waiting.bytes + bytes > bounds.bytes
            || waiting.samples + samples > bounds.samples
            || samples > numbers
        {
            return Err(InboxError::Full {
                samples: waiting.samples,
                samples_max: bounds.samples,
                bytes: waiting.bytes,
                bytes_max: bounds.bytes,
            });
        }
        Ok(())
    }

    /// The number of the last of the `most` oldest samples that wait; none when none waits.
    pub fn reach(&self, most: u64) -> Option<u64> {
        let (mut left, mut through) = (most, None);
        for batch in self.batches() {
            if left == 0 {
                break;
            }
            let before = (batch.first - 1).max(self.learned);
            let count = batch.last().saturating_sub(before).min(left);
            (left, through) = (left - count, Some(before + count));
        }
        through
    }

    /// The samples that wait up to number `through`, in order. Those that cannot be read any more are
    /// left out and counted.
    ///
    /// # Errors
    /// [`InboxError::Storage`] when the disk refuses for now.
    pub fn take(&self, through: u64) -> Result<Taken, InboxError> {
        let mut taken = Taken { through: self.learned, ..Taken::default() };
        for segment in &self.segments {
            for batch in &segment.batches {
                let first = batch.first.max(self.learned.saturating_add(1));
                let last = batch.last().min(through);
                if last < first {
                    return Ok(taken);
                }
                match self.sound(segment, batch)?.and_then(|bytes| segment::decode(&bytes)) {
                    Some((_, examples)) => {
                        let numbered = (batch.first..).zip(examples);
                        let ours = numbered.filter(|(number, _)| (first..=last).contains(number));
                        taken.samples.extend(ours);
                    }
                    None => taken.lost += last - first + 1,
                }
                taken.through = last;
            }
        }
        Ok(taken)
    }

    /// The bytes of a batch; none when they stay unreadable or unsound, however often it is tried.
    fn sound(&self, segment: &Segment, batch: &Batch) -> Result<Option<Vec<u8>>, InboxError> {
        for _ in 0..READS {
            let mut bytes = vec![0; usize::try_from(batch.bytes).unwrap_or(0)];
            match self.storage.read_at(&segment.path(), batch.at, &mut bytes) {
                Ok(()) => {}
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error.into()),
            }
            let found = segment::decode(&bytes);
            if found.is_some_and(|(header, _)| header.generation == batch.first) {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Lets go of the samples up to number `through`, which a commit or a rejection has taken.
    ///
    /// # Errors
    /// [`InboxError::Storage`], [`InboxError::Sync`]: the next start does what is left.
    pub fn forget(&mut self, through: u64) -> Result<(), InboxError> {
        self.usable()?;
        self.learned = self.learned.max(through);
        self.next = self.next.max(self.learned.saturating_add(1));
        let learned = self.learned;
        for segment in &mut self.segments {
            segment.batches.retain(|batch| batch.last() > learned);
        }
        self.let_go()?;
        self.end_job()
    }

    /// Removes the segments in which nothing waits.
    fn let_go(&mut self) -> Result<(), InboxError> {
        let gone = |segment: &Segment| segment.batches.is_empty();
        if !self.segments.iter().any(gone) {
            return Ok(());
        }
        // Hashes first: what is gone from the segments is known by them alone.
        self.publish(SEEN, &self.seen.encode(self.next))?;
        self.open &= !self.segments.last().is_none_or(gone);
        let damaged = self.segments.iter().filter(|segment| gone(segment));
        let damaged = damaged.filter_map(|segment| Some((segment.first, segment.damaged?)));
        let damaged: Vec<(u64, u64)> = damaged.collect();
        damaged.into_iter().try_for_each(|(first, next)| self.keep_damaged(first, next))?;
        let sound = |segment: &&Segment| gone(segment) && segment.damaged.is_none();
        for segment in self.segments.iter().filter(sound) {
            self.storage.remove(&segment.path())?;
        }
        self.segments.retain(|segment| !gone(segment));
        Ok(())
    }

    /// Keeps a damaged segment where a person may look into it; the oldest go for others.
    fn keep_damaged(&mut self, first: u64, next: u64) -> Result<(), InboxError> {
        self.storage.create_dir_all(DAMAGED)?;
        self.promise(|storage| storage.sync_dir(FOLDER))?;
        let names = self.storage.list(DAMAGED)?;
        let mut kept: Vec<(u64, u64)> = names.iter().filter_map(|n| open::range(n)).collect();
        kept.sort_unstable();
        let spare = (kept.len() + 1).saturating_sub(INBOX_DAMAGED_MAX);
        for (first, next) in kept.into_iter().take(spare) {
            self.storage.remove(&format!("{DAMAGED}/{first}-{next}"))?;
        }
        let to = format!("{DAMAGED}/{first}-{next}");
        self.storage.rename(&format!("{FOLDER}/{first}"), &to)?;
        self.promise(|storage| storage.sync_dir(DAMAGED))
    }

    /// Replaces a file, all at once and durably.
    fn publish(&mut self, path: &str, bytes: &[u8]) -> Result<(), InboxError> {
        let new = format!("{path}{NEW}");
        self.storage.write(&new, bytes)?;
        self.promise(|storage| storage.sync(&new))?;
        self.storage.rename(&new, path)?;
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        self.promise(|storage| storage.sync_dir(folder))
    }

    fn promise(
        &mut self,
        sync: impl FnOnce(&dyn Storage) -> StorageResult<()>,
    ) -> Result<(), InboxError> {
        sync(&*self.storage).map_err(|error| {
            self.broken = true;
            InboxError::Sync(error)
        })
    }

    fn usable(&self) -> Result<(), InboxError> {
        if self.broken { Err(InboxError::Broken) } else { Ok(()) }
    }
}

/// 64 bits that stand for an example.
fn hash(example: &Example) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&example.digest().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

/// A file whole, none when there is none, it is damaged, or longer than we write one.
fn read(storage: &dyn Storage, path: &str, most: u64) -> Result<Option<Vec<u8>>, InboxError> {
    if storage.len(path)?.is_none_or(|length| length > most) {
        return Ok(None);
    }
    match storage.read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_missing() || error.is_damage() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

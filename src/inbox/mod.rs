//! The inbox: samples that were acknowledged and that no job has learned yet.
//!
//! ```text
//! inbox/<number>   a segment: batches of JSON lines, the first of which is that sample
//! inbox/seen       hashes of the last samples; the number that the next will have
//! inbox/job        which samples the job under way takes
//! ```
//! - In: JSON lines. Out: a receipt once they are durable; examples in order of arrival.
//! - A batch is taken in whole or not at all. A sample that was there already is dropped and counted.
//! - Bounded: what has no room is refused, never something else dropped for it.
//! - Which samples are learned is not known here: the state's manifest says up to which number, and
//!   moves with a commit. Recovery drops what lies below it.
//! - Numbers begin at 1, are never given twice and have no gaps but those of lost batches.
//! - Never here: sockets, clocks, tokens.

mod error;
mod seen;
mod segment;
#[cfg(test)]
mod tests;

pub use error::InboxError;

use crate::intake::{self, Example};
use crate::ports::{Storage, StorageResult};
use sapwood_protocol::limits::{
    COUNT_MAX, INBOX_BATCH_BYTES_MAX, INBOX_BYTES_MAX, INBOX_HASHES_MAX, INBOX_SAMPLES_MAX,
    INBOX_SEGMENT_BYTES, RECORD_HEADER_BYTES,
};
use sapwood_protocol::record::{Header, Kind, UncheckedHeader};
use seen::Seen;
use segment::Batch;
use std::collections::BTreeSet;
use std::sync::Arc;

const FOLDER: &str = "inbox";
const SEEN: &str = "inbox/seen";
const JOB: &str = "inbox/job";
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
    /// Bytes, headers included; at most [`INBOX_BYTES_MAX`].
    pub bytes: u64,
    /// Samples; at most [`INBOX_SAMPLES_MAX`].
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

/// What opening the inbox found out of order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Bytes that belong to no sound batch: a write that was cut, or damage.
    pub passed_over_bytes: u64,
    /// Samples whose numbers are missing among those that wait: acknowledged once, damaged since.
    pub lost_samples: u64,
    /// Whether the hashes of samples that were learned are damaged: one of them that is sent again is
    /// taken in again.
    pub memory_lost: bool,
    /// Whether the note of the job under way is damaged: it begins anew, with all that waits.
    pub job_lost: bool,
}

/// Samples for a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The samples, in order of arrival.
    pub examples: Vec<Example>,
    /// The number of the last of them.
    pub through: u64,
    /// Samples among them that could not be read any more, and are left out.
    pub lost: u64,
}

/// The job under way, so that it meets the same samples after a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The number of its last sample.
    pub through: u64,
    /// How often it was started without getting further.
    pub attempts: u32,
    /// The step it had reached when it was started last.
    pub step: u64,
}

/// One file of batches.
#[derive(Debug)]
struct Segment {
    first: u64,
    bytes: u64,
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
    found: Found,
    broken: bool,
}

impl Inbox {
    /// Opens the inbox; samples up to number `learned` are gone.
    ///
    /// # Errors
    /// [`InboxError::Storage`], [`InboxError::Sync`]. Damage is no error: see [`Inbox::found`].
    pub fn open(
        storage: Arc<dyn Storage>,
        bounds: Bounds,
        learned: u64,
    ) -> Result<Self, InboxError> {
        let bytes = bounds.bytes.min(INBOX_BYTES_MAX);
        let bounds = Bounds { bytes, samples: bounds.samples.min(INBOX_SAMPLES_MAX) };
        if storage.list("")?.iter().all(|name| name != FOLDER) {
            storage.create_dir_all(FOLDER)?;
            storage.sync_dir("").map_err(InboxError::Sync)?;
        }
        let memory = read(&*storage, SEEN, SEEN_BYTES_MAX)?.and_then(|bytes| Seen::decode(&bytes));
        let memory_lost = memory.is_none() && storage.len(SEEN)?.is_some();
        let (seen, next) = memory.unwrap_or_default();
        let found = Found { memory_lost, ..Found::default() };
        let (segments, open, broken) = (Vec::new(), false, false);
        let next = next.max(learned.saturating_add(1));
        let mut inbox =
            Self { storage, bounds, segments, open, next, learned, seen, found, broken };
        inbox.find()?;
        inbox.found.job_lost = inbox.noted().is_none() && inbox.storage.len(JOB)?.is_some();
        Ok(inbox)
    }

    /// Reads every segment, removes those in which nothing waits.
    fn find(&mut self) -> Result<(), InboxError> {
        let names = self.storage.list(FOLDER)?;
        let numbers = names.iter().filter_map(|name| segment::number(name));
        let mut firsts: Vec<u64> = numbers.collect();
        firsts.sort_unstable();
        let mut expected = self.learned.saturating_add(1);
        for (at, &first) in firsts.iter().enumerate() {
            let until = firsts.get(at + 1).copied().unwrap_or(u64::MAX);
            self.find_segment(first, until, &mut expected)?;
        }
        self.next = self.next.max(expected);
        // Hashes that cannot be read now may be read at the next start: they are not replaced yet.
        if !self.found.memory_lost {
            self.let_go()?;
        }
        for left in names.iter().filter(|name| name.ends_with(NEW)) {
            // What cannot be removed now is no harm and is tried again at the next start.
            let _ = self.storage.remove(&format!("{FOLDER}/{left}"));
        }
        Ok(())
    }

    fn find_segment(
        &mut self,
        first: u64,
        until: u64,
        expected: &mut u64,
    ) -> Result<(), InboxError> {
        let mut segment = Segment { first, bytes: 0, batches: Vec::new() };
        let path = segment.path();
        let Some(bytes) = read(&*self.storage, &path, SEGMENT_BYTES_MAX)? else {
            // Its numbers are not known: none of them may be given again.
            let length = self.storage.len(&path)?.unwrap_or(0);
            self.found.passed_over_bytes += length;
            *expected = (*expected).max(first.saturating_add(length / LINE_BYTES_MIN));
            return Ok(());
        };
        let (seen, learned, found) = (&mut self.seen, self.learned, &mut self.found);
        let passed_over = segment::scan(&bytes, (first, until), |batch, examples| {
            examples.iter().for_each(|example| seen.insert(hash(example)));
            if batch.last() > learned {
                found.lost_samples += batch.first.saturating_sub(*expected);
                segment.batches.push(batch);
            }
            *expected = (*expected).max(batch.last().saturating_add(1));
        });
        found.passed_over_bytes += passed_over;
        segment.bytes = bytes.len() as u64;
        self.segments.push(segment);
        Ok(())
    }

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
        let examples = intake::lines(lines, "batch")?;
        let written = lines.lines().map(str::trim).filter(|line| !line.is_empty());
        let (mut fresh, mut hashes) = (String::new(), BTreeSet::new());
        for (example, line) in examples.iter().zip(written) {
            let hash = hash(example);
            if !self.seen.contains(hash) && hashes.insert(hash) {
                fresh.push_str(line);
                fresh.push('\n');
            }
        }
        let (all, accepted) = (examples.len() as u64, hashes.len() as u64);
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
            self.segments.push(Segment { first, bytes: 0, batches: Vec::new() });
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

    /// The oldest samples, whole batches until there are `most` of them or more, at least one batch
    /// where any waits; none beyond number `through`. A batch that cannot be read any more is left out.
    ///
    /// # Errors
    /// [`InboxError::Storage`] when the disk refuses for now.
    pub fn take(&self, most: u64, through: u64) -> Result<Taken, InboxError> {
        let mut taken = Taken { through: self.learned, ..Taken::default() };
        for segment in &self.segments {
            for batch in &segment.batches {
                if taken.examples.len() as u64 >= most || batch.last() > through {
                    return Ok(taken);
                }
                match self.examples(segment, batch)? {
                    Some(examples) => taken.examples.extend(examples),
                    None => taken.lost += batch.last() - (batch.first - 1).max(self.learned),
                }
                taken.through = batch.last();
            }
        }
        Ok(taken)
    }

    /// The samples of a batch that wait; none when it stays unreadable, however often it is tried.
    fn examples(
        &self,
        segment: &Segment,
        batch: &Batch,
    ) -> Result<Option<Vec<Example>>, InboxError> {
        let learned = self.learned.saturating_sub(batch.first.saturating_sub(1)) as usize;
        for _ in 0..READS {
            let mut bytes = vec![0; usize::try_from(batch.bytes).unwrap_or(0)];
            match self.storage.read_at(&segment.path(), batch.at, &mut bytes) {
                Ok(()) => {}
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error.into()),
            }
            let found = segment::decode(&bytes);
            if let Some((_, mut all)) = found.filter(|(header, _)| header.generation == batch.first)
            {
                return Ok(Some(all.split_off(learned.min(all.len()))));
            }
        }
        Ok(None)
    }

    /// The job under way, if one was begun and has not ended.
    pub fn job(&self) -> Option<Job> {
        self.noted().filter(|job| job.through > self.learned && job.through <= COUNT_MAX)
    }

    /// The job that was begun last.
    fn noted(&self) -> Option<Job> {
        let bytes = read(&*self.storage, JOB, SEEN_BYTES_MAX).ok().flatten()?;
        let header = UncheckedHeader::read(&bytes).ok()?.check(Kind::Job).ok()?;
        let payload = bytes.get(RECORD_HEADER_BYTES..)?;
        let sound = *blake3::hash(payload).as_bytes() == header.digest;
        let (step, attempts) = payload.split_first_chunk::<8>().filter(|_| sound)?;
        Some(Job {
            through: header.generation,
            attempts: u32::from_le_bytes(attempts.try_into().ok()?),
            step: u64::from_le_bytes(*step),
        })
    }

    /// Begins a job, or begins it again: what comes in from now on is another one's.
    ///
    /// # Errors
    /// [`InboxError::Storage`], [`InboxError::Sync`].
    pub fn begin(&mut self, job: Job) -> Result<(), InboxError> {
        self.usable()?;
        let payload = [&job.step.to_le_bytes()[..], &job.attempts.to_le_bytes()].concat();
        let header = Header {
            kind: Kind::Job,
            version: Kind::Job.version(),
            generation: job.through,
            length: payload.len() as u64,
            digest: *blake3::hash(&payload).as_bytes(),
        };
        self.open = false;
        self.publish(JOB, &[&header.encode()[..], &payload].concat())
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
        if self.storage.len(JOB)?.is_some() && self.job().is_none() {
            self.storage.remove(JOB)?;
        }
        Ok(())
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
        for segment in self.segments.iter().filter(|segment| gone(segment)) {
            self.storage.remove(&segment.path())?;
        }
        self.segments.retain(|segment| !gone(segment));
        Ok(())
    }

    /// Replaces a file, all at once and durably.
    fn publish(&mut self, path: &str, bytes: &[u8]) -> Result<(), InboxError> {
        let new = format!("{path}{NEW}");
        self.storage.write(&new, bytes)?;
        self.promise(|storage| storage.sync(&new))?;
        self.storage.rename(&new, path)?;
        self.promise(|storage| storage.sync_dir(FOLDER))
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

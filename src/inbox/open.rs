//! Opening an inbox: what is sound is found again, what is not is reported.

use super::job::JOB;
use super::seen::Seen;
use super::segment;
use super::{
    Bounds, FOLDER, Inbox, InboxError, LINE_BYTES_MIN, NEW, SEEN, SEEN_BYTES_MAX,
    SEGMENT_BYTES_MAX, Segment, hash, read,
};
use crate::ports::Storage;
use sapwood_protocol::limits::{INBOX_BYTES_MAX, INBOX_SAMPLES_MAX};
use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// Samples that were set aside and cannot be read any more; their files are left as they lie.
    pub aside_lost: u64,
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
        let memory = read(&*storage, SEEN, SEEN_BYTES_MAX)?;
        let memory = memory.and_then(|bytes| Seen::decode(&bytes));
        let memory_lost = memory.is_none() && storage.len(SEEN)?.is_some();
        let (seen, next) = memory.unwrap_or_default();
        let found = Found { memory_lost, ..Found::default() };
        let (segments, open, broken) = (Vec::new(), false, false);
        let next = next.max(learned.saturating_add(1));
        let (aside, aside_dropped) = (BTreeMap::new(), 0);
        let mut inbox = Self {
            storage,
            bounds,
            segments,
            open,
            next,
            learned,
            seen,
            aside,
            aside_dropped,
            found,
            broken,
        };
        inbox.find()?;
        inbox.find_aside()?;
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
}

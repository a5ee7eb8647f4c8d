//! Opening an inbox: what is sound is found again, what is not is reported.

use super::aside::ASIDE;
use super::job::JOB;
use super::seen::Seen;
use super::segment::{self, Piece};
use super::{
    Bounds, DAMAGED, FOLDER, Inbox, InboxError, LINE_BYTES_MIN, NEW, SEEN, SEEN_BYTES_MAX,
    SEGMENT_BYTES_MAX, Segment, hash, read,
};
use crate::ports::Storage;
use sapwood_protocol::limits::{INBOX_BYTES_MAX, INBOX_SAMPLES_MAX, RECORD_HEADER_BYTES};
use sapwood_protocol::record::{HeaderError, Kind, UncheckedHeader};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What opening the inbox found out of order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Bytes that belong to no sound batch: a write that was cut, or damage.
    pub passed_over_bytes: u64,
    /// Samples whose numbers are missing among those that wait: acknowledged once, damaged since.
    pub lost_samples: u64,
    /// Samples of damaged batches at the end of a segment, as far as they tell: they are lost if they were
    /// acknowledged, and a write that was cut may look like them. Their numbers are not given again.
    pub damaged_samples: u64,
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
    /// [`InboxError::Storage`], [`InboxError::Sync`], [`InboxError::Newer`]. Damage is no error: see
    /// [`Inbox::found`].
    pub fn open(
        storage: Arc<dyn Storage>,
        bounds: Bounds,
        learned: u64,
    ) -> Result<Self, InboxError> {
        Self::refuse_newer(&*storage)?;
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

    /// Refuses an inbox in which a later version has written a file, before anything is changed.
    ///
    /// # Errors
    /// [`InboxError::Newer`], [`InboxError::Storage`].
    pub fn refuse_newer(storage: &dyn Storage) -> Result<(), InboxError> {
        let named = |folder: &str, kind: Kind| -> Result<Vec<(String, Kind)>, InboxError> {
            let names = storage.list(folder)?;
            let ours = names.iter().filter(|name| segment::number(name).is_some());
            Ok(ours.map(|name| (format!("{folder}/{name}"), kind)).collect())
        };
        let files = [(SEEN.to_owned(), Kind::Seen), (JOB.to_owned(), Kind::Job)];
        let segments = named(FOLDER, Kind::Batch)?;
        for (path, kind) in files.into_iter().chain(segments).chain(named(ASIDE, Kind::Aside)?) {
            let mut head = [0; RECORD_HEADER_BYTES];
            match storage.read_at(&path, 0, &mut head) {
                Ok(()) => {}
                Err(error) if error.is_missing() || error.is_damage() => continue,
                Err(error) => return Err(error.into()),
            }
            let checked = UncheckedHeader::read(&head).and_then(|head| head.check(kind));
            if let Some(source) = checked.err().filter(HeaderError::is_newer) {
                return Err(InboxError::Newer { path, source });
            }
        }
        Ok(())
    }

    /// The number of the last sample that surely does not wait any more: for when nobody knows which
    /// ones were learned.
    ///
    /// # Errors
    /// [`InboxError::Storage`].
    pub fn learned_at_least(storage: &dyn Storage) -> Result<u64, InboxError> {
        let names = storage.list(FOLDER)?;
        let first = names.iter().filter_map(|name| segment::number(name)).min();
        let memory = read(storage, SEEN, SEEN_BYTES_MAX)?.and_then(|bytes| Seen::decode(&bytes));
        let next = first.unwrap_or_else(|| memory.map_or(1, |(_, next)| next));
        Ok(next.saturating_sub(1))
    }

    /// Reads every segment, removes those in which nothing waits.
    fn find(&mut self) -> Result<(), InboxError> {
        let names = self.storage.list(FOLDER)?;
        let numbers = names.iter().filter_map(|name| segment::number(name));
        let mut firsts: Vec<u64> = numbers.collect();
        firsts.sort_unstable();
        let mut expected = self.learned.saturating_add(1);
        let damaged = self.storage.list(DAMAGED)?;
        let mut skipped: Vec<(u64, u64)> = damaged.iter().filter_map(|n| range(n)).collect();
        skipped.sort_unstable();
        for (at, &first) in firsts.iter().enumerate() {
            let until = firsts.get(at + 1).copied().unwrap_or(u64::MAX);
            skip(&skipped, &mut expected);
            self.find_segment(first, until, &mut expected)?;
        }
        skip(&skipped, &mut expected);
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
        let mut segment = Segment { first, ..Segment::default() };
        let path = segment.path();
        let Some(bytes) = read(&*self.storage, &path, SEGMENT_BYTES_MAX)? else {
            // Its numbers are not known: none of them may be given again.
            let length = self.storage.len(&path)?.unwrap_or(0);
            self.found.passed_over_bytes += length;
            *expected = (*expected).max(first.saturating_add(length / LINE_BYTES_MIN));
            return Ok(());
        };
        let (seen, learned, found) = (&mut self.seen, self.learned, &mut self.found);
        let mut pending = 0;
        let passed_over = segment::scan(&bytes, (first, until), |piece| match piece {
            Piece::Sound(batch, examples) => {
                examples.iter().for_each(|example| seen.insert(hash(example)));
                // What stands before a sound batch was whole once, and acknowledged.
                found.lost_samples += std::mem::take(&mut pending);
                if batch.last() > learned {
                    found.lost_samples += batch.first.saturating_sub(*expected);
                    segment.batches.push(batch);
                }
                *expected = (*expected).max(batch.last().saturating_add(1));
            }
            Piece::Damaged { first, count } => {
                let next = first.saturating_add(count);
                pending += next.saturating_sub(*expected);
                *expected = next.max(*expected);
            }
        });
        found.damaged_samples += pending;
        found.passed_over_bytes += passed_over;
        segment.damaged = (passed_over > 0).then_some((*expected).max(first));
        segment.bytes = bytes.len() as u64;
        self.segments.push(segment);
        Ok(())
    }
}

/// The numbers that a segment among the damaged ones held, the second not included.
pub(super) fn range(name: &str) -> Option<(u64, u64)> {
    let (first, next) = name.split_once('-')?;
    Some((segment::number(first)?, segment::number(next)?))
}

/// Passes over numbers whose segments are among the damaged ones.
fn skip(ranges: &[(u64, u64)], expected: &mut u64) {
    for (first, next) in ranges {
        if (*first..*next).contains(expected) {
            *expected = *next;
        }
    }
}

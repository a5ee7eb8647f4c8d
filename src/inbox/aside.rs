//! Samples that were set aside: no job could take them in, and an operator may want to know why.
//!
//! ```text
//! inbox/aside/<number>   a record: the reason in one line, then the sample as it came
//! ```
//! - A sample that is set aside is known no more: it may be sent again.
//! - Bounded by [`INBOX_ASIDE_SAMPLES_MAX`] and [`INBOX_ASIDE_BYTES_MAX`]: the oldest go, and are
//!   counted.
//! - A sample is set aside first and let go of by the manifest then; a cut in between leaves it waiting
//!   as well, and the next job sets it aside again.

use super::{Inbox, InboxError, NEW, hash, read, segment};
use crate::intake;
use sapwood_protocol::limits::{
    INBOX_ASIDE_BYTES_MAX, INBOX_ASIDE_SAMPLES_MAX, INBOX_BATCH_BYTES_MAX, RECORD_HEADER_BYTES,
    VERDICT_BYTES_MAX,
};
use sapwood_protocol::record::{Header, Kind, UncheckedHeader};
use std::collections::BTreeMap;

/// Where they lie.
pub(super) const ASIDE: &str = "inbox/aside";
/// Most bytes of a record.
const RECORD_BYTES_MAX: u64 =
    INBOX_BATCH_BYTES_MAX + (VERDICT_BYTES_MAX + 1 + RECORD_HEADER_BYTES) as u64;

/// A sample that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Its number when it waited.
    pub number: u64,
    /// Why, in one line.
    pub reason: String,
    /// The line that it came as.
    pub line: String,
}

impl Aside {
    fn encode(&self) -> Vec<u8> {
        let payload = format!("{}\n{}", self.reason, self.line);
        let header = Header {
            kind: Kind::Aside,
            version: Kind::Aside.version(),
            generation: self.number,
            length: payload.len() as u64,
            digest: *blake3::hash(payload.as_bytes()).as_bytes(),
        };
        [&header.encode()[..], payload.as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let header = UncheckedHeader::read(bytes).ok()?.check(Kind::Aside).ok()?;
        let payload = bytes.get(RECORD_HEADER_BYTES..)?;
        let sound = *blake3::hash(payload).as_bytes() == header.digest;
        let (reason, line) =
            std::str::from_utf8(payload).ok().filter(|_| sound)?.split_once('\n')?;
        let number = header.generation;
        Some(Self { number, reason: reason.to_owned(), line: line.to_owned() })
    }

    fn path(number: u64) -> String {
        format!("{ASIDE}/{number}")
    }
}

impl Inbox {
    /// Numbers of the samples that were set aside.
    pub fn aside(&self) -> impl Iterator<Item = u64> {
        self.aside.keys().copied().filter(|number| *number <= self.learned)
    }

    /// Samples that were set aside and had to go for others, since the inbox was opened.
    pub fn aside_dropped(&self) -> u64 {
        self.aside_dropped
    }

    /// One of them; none when there is none of that number or its record is damaged.
    ///
    /// # Errors
    /// [`InboxError::Storage`].
    pub fn look_aside(&self, number: u64) -> Result<Option<Aside>, InboxError> {
        let bytes = read(&*self.storage, &Aside::path(number), RECORD_BYTES_MAX)?;
        Ok(bytes.and_then(|bytes| Aside::decode(&bytes)).filter(|found| found.number == number))
    }

    /// Keeps sample `number`, which waits, where no job takes it; it leaves the queue with a commit or a
    /// rejection like all others. False when it cannot be read any more.
    ///
    /// # Errors
    /// [`InboxError::Storage`], [`InboxError::Sync`].
    pub fn set_aside(&mut self, number: u64, reason: &str) -> Result<bool, InboxError> {
        self.usable()?;
        let Some(line) = self.line(number)? else { return Ok(false) };
        let reason: String = reason
            .chars()
            .map(|letter| if letter.is_control() { ' ' } else { letter })
            .take(VERDICT_BYTES_MAX / 4)
            .collect();
        self.forget_hash(&line);
        let bytes = Aside { number, reason, line }.encode();
        self.make_room_aside(bytes.len() as u64)?;
        if self.aside.is_empty() {
            self.storage.create_dir_all(ASIDE)?;
            self.promise(|storage| storage.sync_dir(super::FOLDER))?;
        }
        self.publish(&Aside::path(number), &bytes)?;
        self.aside.insert(number, bytes.len() as u64);
        Ok(true)
    }

    /// Puts a sample that was set aside at the end of those that wait; false when there is none.
    ///
    /// # Errors
    /// [`InboxError::Full`] and the like: it stays where it is.
    pub fn retry_aside(&mut self, number: u64) -> Result<bool, InboxError> {
        let Some(found) = self.look_aside(number)?.filter(|_| self.is_aside(number)) else {
            return Ok(false);
        };
        self.offer(&found.line)?;
        self.drop_aside(number)
    }

    /// Lets go of a sample that was set aside; false when there is none.
    ///
    /// # Errors
    /// [`InboxError::Storage`], [`InboxError::Sync`].
    pub fn drop_aside(&mut self, number: u64) -> Result<bool, InboxError> {
        self.usable()?;
        if !self.is_aside(number) {
            return Ok(false);
        }
        self.storage.remove(&Aside::path(number))?;
        self.aside.remove(&number);
        self.promise(|storage| storage.sync_dir(ASIDE))?;
        Ok(true)
    }

    fn is_aside(&self, number: u64) -> bool {
        number <= self.learned && self.aside.contains_key(&number)
    }

    /// Finds what was set aside; what cannot be read is left as it lies.
    pub(super) fn find_aside(&mut self) -> Result<(), InboxError> {
        for name in self.storage.list(ASIDE)? {
            if name.ends_with(NEW) {
                // What cannot be removed now is no harm and is tried again at the next start.
                let _ = self.storage.remove(&format!("{ASIDE}/{name}"));
            }
            let Some(number) = segment::number(&name) else { continue };
            let Some(found) = self.look_aside(number)? else {
                self.found.aside_lost += 1;
                continue;
            };
            let bytes = self.storage.len(&Aside::path(number))?.unwrap_or(0);
            self.aside.insert(number, bytes);
            self.forget_hash(&found.line);
        }
        Ok(())
    }

    fn forget_hash(&mut self, line: &str) {
        let examples = intake::lines(line, "aside").unwrap_or_default();
        examples.iter().for_each(|example| self.seen.remove(hash(example)));
    }

    fn make_room_aside(&mut self, bytes: u64) -> Result<(), InboxError> {
        let full = |aside: &BTreeMap<u64, u64>| {
            aside.len() >= INBOX_ASIDE_SAMPLES_MAX
                || aside.values().sum::<u64>() + bytes > INBOX_ASIDE_BYTES_MAX
        };
        while full(&self.aside)
            && let Some((oldest, _)) = self.aside.pop_first()
        {
            self.storage.remove(&Aside::path(oldest))?;
            self.aside_dropped += 1;
        }
        Ok(())
    }

    /// The line of a sample that waits.
    fn line(&self, number: u64) -> Result<Option<String>, InboxError> {
        let holds = |batch: &&super::Batch| (batch.first..=batch.last()).contains(&number);
        for segment in &self.segments {
            if let Some(batch) = segment.batches.iter().find(holds) {
                let bytes = self.sound(segment, batch)?.unwrap_or_default();
                let lines = bytes.get(RECORD_HEADER_BYTES..).unwrap_or_default();
                let mut lines = std::str::from_utf8(lines).unwrap_or_default().lines();
                let at = usize::try_from(number - batch.first).unwrap_or(usize::MAX);
                return Ok(lines.nth(at).map(ToOwned::to_owned));
            }
        }
        Ok(None)
    }
}

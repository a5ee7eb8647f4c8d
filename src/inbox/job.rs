//! The record of the job under way: which samples it takes, and what is known of those that end it.
//!
//! - `inbox/job` is there from before a job reads its first sample until it has ended, and longer while
//!   samples are under suspicion.
//! - Version 2 has [`Job::suspect`]; version 1 is read as without suspicion.

use super::{Inbox, InboxError, read};
use sapwood_protocol::limits::{COUNT_MAX, RECORD_HEADER_BYTES};
use sapwood_protocol::record::{Header, Kind, UncheckedHeader};

/// Its file.
pub(super) const JOB: &str = "inbox/job";
/// Most bytes that are read of it.
const JOB_BYTES_MAX: u64 = RECORD_HEADER_BYTES as u64 + 64;

/// The job under way, so that it meets the same samples after a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// The number of its last sample.
    pub through: u64,
    /// How often it was started without getting further.
    pub attempts: u32,
    /// The step it had reached when it was started last.
    pub step: u64,
    /// The last number of the smallest job that was brought down without getting further: what did it
    /// waits up to here, if it was a sample. 0 when nothing is suspected.
    pub suspect: u64,
}

impl Job {
    fn encode(self) -> Vec<u8> {
        let payload = [
            &self.step.to_le_bytes()[..],
            &self.attempts.to_le_bytes(),
            &self.suspect.to_le_bytes(),
        ]
        .concat();
        let header = Header {
            kind: Kind::Job,
            version: Kind::Job.version(),
            generation: self.through,
            length: payload.len() as u64,
            digest: *blake3::hash(&payload).as_bytes(),
        };
        [&header.encode()[..], &payload].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let header = UncheckedHeader::read(bytes).ok()?.check(Kind::Job).ok()?;
        let payload = bytes.get(RECORD_HEADER_BYTES..)?;
        let sound = *blake3::hash(payload).as_bytes() == header.digest;
        let (step, rest) = payload.split_first_chunk::<8>().filter(|_| sound)?;
        let (attempts, rest) = rest.split_first_chunk::<4>()?;
        let suspect = match header.version {
            1 => 0,
            _ => u64::from_le_bytes(rest.try_into().ok()?),
        };
        Some(Self {
            through: header.generation,
            attempts: u32::from_le_bytes(*attempts),
            step: u64::from_le_bytes(*step),
            suspect,
        })
    }
}

impl Inbox {
    /// The job under way, if one was begun and has not ended.
    pub fn job(&self) -> Option<Job> {
        self.noted().filter(|job| job.through > self.learned)
    }

    /// The number up to which waits what may bring a job down; none when nothing is suspected.
    pub fn suspect(&self) -> Option<u64> {
        self.noted().map(|job| job.suspect).filter(|suspect| *suspect > self.learned)
    }

    /// The record of the job that was begun last.
    pub(super) fn noted(&self) -> Option<Job> {
        let bytes = read(&*self.storage, JOB, JOB_BYTES_MAX).ok().flatten()?;
        Job::decode(&bytes).filter(|job| job.through.max(job.suspect) <= COUNT_MAX)
    }

    /// Begins a job, or begins it again: what comes in from now on is another one's.
    ///
    /// # Errors
    /// [`InboxError::Storage`], [`InboxError::Sync`].
    pub fn begin(&mut self, job: Job) -> Result<(), InboxError> {
        self.usable()?;
        self.open = false;
        self.publish(JOB, &job.encode())
    }

    /// Ends a job that was begun and has learned nothing: its samples wait as before.
    ///
    /// # Errors
    /// [`InboxError::Storage`], [`InboxError::Sync`].
    pub fn cancel(&mut self) -> Result<(), InboxError> {
        self.usable()?;
        let suspect = self.suspect().unwrap_or(0);
        self.publish(JOB, &Job { through: self.learned, suspect, ..Job::default() }.encode())
    }

    /// Removes the record once it says nothing any more.
    pub(super) fn end_job(&mut self) -> Result<(), InboxError> {
        if self.storage.len(JOB)?.is_some() && self.job().is_none() && self.suspect().is_none() {
            // One that comes back says nothing either.
            self.storage.remove(JOB)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_one_of_version_1_is_without_suspicion() {
        let job = Job { through: 9, attempts: 2, step: 40, suspect: 12 };
        assert_eq!(Job::decode(&job.encode()), Some(job));
        let payload = [&40_u64.to_le_bytes()[..], &2_u32.to_le_bytes()].concat();
        let header = Header {
            kind: Kind::Job,
            version: 1,
            generation: 9,
            length: payload.len() as u64,
            digest: *blake3::hash(&payload).as_bytes(),
        };
        let old = [&header.encode()[..], &payload].concat();
        assert_eq!(Job::decode(&old), Some(Job { suspect: 0, ..job }));
    }
}

//! Why the inbox did not do what it was asked.

use crate::intake::IntakeError;
use crate::ports::StorageError;
use sapwood_protocol::record::HeaderError;
use std::error::Error;

/// Why the inbox did not do what it was asked; what was acknowledged before is still there.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// A line that is no example.
    #[error("{0}; nothing of the batch was taken in")]
    Line(#[from] IntakeError),
    /// An example that the model could never learn, as the caller found.
    #[error("sample {number}: {source}; nothing of the batch was taken in")]
    Sample {
        /// Which of the batch, from 1.
        number: usize,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// No example at all.
    #[error("expected at least one line of JSON, got none")]
    Empty,
    /// More than is acknowledged at once.
    #[error(
        "a batch has {got} bytes, expected at most {max}: send it in parts; nothing was taken in"
    )]
    Large {
        /// Its bytes.
        got: u64,
        /// Most bytes.
        max: u64,
    },
    /// No room until a job has learned some of what waits.
    #[error(
        "the inbox is full: {samples} samples and {bytes} bytes wait, expected at most \
         {samples_max} and {bytes_max}; nothing was taken in, try again after the next job"
    )]
    Full {
        /// Samples that wait.
        samples: u64,
        /// Most samples.
        samples_max: u64,
        /// Bytes that wait.
        bytes: u64,
        /// Most bytes.
        bytes_max: u64,
    },
    /// The disk has no more than the next job needs.
    #[error(
        "the disk has {free} bytes free, expected the {needed} that the next job needs: nothing was \
         taken in (make room, or wait until what is in the inbox is learned)"
    )]
    Low {
        /// Free bytes.
        free: u64,
        /// Bytes that are kept for a job and its commit.
        needed: u64,
    },
    /// A file that a later version of this program wrote.
    #[error("{path}: {source}; nothing was changed")]
    Newer {
        /// The file.
        path: String,
        /// Both versions.
        source: HeaderError,
    },
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The disk could not promise that what was written is kept.
    #[error("{0}; the batch is not acknowledged, the inbox must be opened again")]
    Sync(StorageError),
    /// A sync failed before; what the system holds is unknown.
    #[error("the disk failed to sync before: expected the inbox to be opened again")]
    Broken,
}

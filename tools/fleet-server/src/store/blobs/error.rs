//! Why a blob was not kept, or not found: one line each, without a secret.

use super::place::PlaceError;
use sapwood_protocol::fleet::id::Hash;
use std::io;
use std::path::{Path, PathBuf};

/// Why a blob was not kept, or not found.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk.
    #[error("{path}: {source}; nothing that was kept has changed", path = path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What lies there is something else.
    #[error("blob {name} has BLAKE3 {got}: what keeps it has changed it, take it from a copy")]
    Damaged {
        /// What it is called.
        name: Hash,
        /// What it is.
        got: Hash,
    },
    /// Nothing lies there.
    #[error("blob {name} is not there, expected it since a row names it")]
    Gone {
        /// What it is called.
        name: Hash,
    },
    /// What a bucket is asked for, and does not do.
    #[error("{place}: {what}: {problem}; nothing that was kept has changed")]
    Store {
        /// The bucket.
        place: String,
        /// The request.
        what: String,
        /// What came of it.
        problem: String,
    },
    /// Somebody else has asked for the same, in vain.
    #[error("{told}")]
    Shared {
        /// What that one was told.
        told: String,
    },
    /// No address of a bucket, or nobody who may use it.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A store in which two can have one name.
    #[error("{place}: a second file of one name was not refused, expected a store that does")]
    Lax {
        /// The folder or the bucket.
        place: String,
    },
}

impl BlobError {
    /// Whether there is no room.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

pub(super) fn disk(path: &Path) -> impl Fn(io::Error) -> BlobError + '_ {
    move |source| BlobError::Disk { path: path.to_owned(), source }
}

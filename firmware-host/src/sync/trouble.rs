//! Whatever can go wrong in an act of the sync, in a line for people.

use super::error::{ExchangeError, StoreError};
use sapwood::ports::StorageError;
use sapwood_protocol::fleet::id::{DeviceId, FleetId, Hash};
use sapwood_protocol::fleet::signatures::SignaturesError;
use sapwood_protocol::fleet::statement::StatementError;
use sapwood_protocol::fleet::trust::TrustError;

/// Why an act came to nothing; what was installed and sent before stands.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server, or the way to it.
    #[error(transparent)]
    Exchange(ExchangeError),
    /// Nothing is known of the learner yet.
    #[error("the learner does not know yet what it adapts: it is asked again in a moment")]
    Unready,
    /// A server of another fleet.
    #[error("the server is of fleet {got}, expected {expected}")]
    Fleet { expected: FleetId, got: FleetId },
    /// A server that calls the device otherwise.
    #[error("the server calls this device {got}, expected {expected}")]
    Device { expected: DeviceId, got: DeviceId },
    /// A trust statement.
    #[error("{0}; the trust statement that was held stays")]
    Trust(#[from] TrustError),
    /// Signatures.
    #[error("{0}; nothing was taken")]
    Signatures(#[from] SignaturesError),
    /// The chain of trust does not come to its end.
    #[error("the server's trust statements lead to epoch {got}, expected {expected} as it says")]
    Chain { expected: u64, got: u64 },
    /// A statement.
    #[error("{0}; what is installed stays")]
    Statement(#[from] StatementError),
    /// The learner.
    #[error("the own part cannot be written: {0}; nothing was sent")]
    Learner(String),
    /// A receipt for something else.
    #[error("the server's receipt is {got}, expected {expected}, the hash of what was sent")]
    Receipt { expected: Hash, got: Hash },
    /// A file that is not what was signed.
    #[error("the artifact came with BLAKE3 {got}, expected {expected}; it was thrown away")]
    Spoiled { expected: Hash, got: Hash },
    /// No room.
    #[error("the disk has {free} bytes free, expected {needed} for the artifact: it waits")]
    Room { free: u64, needed: u64 },
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Self {
        Self::Store(StoreError::Disk(error))
    }
}

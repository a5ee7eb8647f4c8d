//! What can go wrong with a reservoir, and what still holds then.

use super::{Geometry, RecordError};
use crate::ports::StorageError;

/// Why the reservoir did not do what it was asked; what is committed still stands.
#[derive(Debug, thiserror::Error)]
pub enum ReservoirError {
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The head of the file does not hold, in neither of its copies.
    #[error("reservoir file: {0}")]
    Record(#[from] RecordError),
    /// The file is of other sizes than asked for.
    #[error(
        "reservoir has other sizes than the settings: expected {expected}, got {got}; it is unchanged \
         (use its own settings, or another --state)"
    )]
    Geometry {
        /// What the settings say.
        expected: Box<Geometry>,
        /// What the file says.
        got: Box<Geometry>,
    },
    /// A size beyond what any reservoir may have.
    #[error("reservoir {what} out of range: expected at most {limit}, got {got}")]
    Limit {
        /// Which size.
        what: &'static str,
        /// The most it may be.
        limit: u64,
        /// What it is.
        got: u64,
    },
    /// The byte budget is too small for one block.
    #[error(
        "--replay-bytes: {got} bytes hold no block, expected at least {least}; nothing was started"
    )]
    Budget {
        /// Bytes of the smallest file of these sizes.
        least: u64,
        /// The budget.
        got: u64,
    },
    /// A block that does not fit the sizes.
    #[error(
        "block does not fit the reservoir: expected {what} {expected}, got {got}; the reservoir is unchanged"
    )]
    Block {
        /// What is wrong with it.
        what: &'static str,
        /// The limit or the number it should be.
        expected: usize,
        /// What it is.
        got: usize,
    },
    /// Hidden states of another shape than the file keeps.
    #[error(
        "hidden states do not fit the reservoir: expected {expected:?} numbers, got {got:?}; the reservoir is unchanged"
    )]
    Hidden {
        /// T * D, or none where none are kept.
        expected: Option<usize>,
        /// How many came.
        got: Option<usize>,
    },
    /// Every free place is used by a staged block.
    #[error(
        "reservoir has no free place for a staged block: expected a checkpoint or a commit before; the reservoir is unchanged"
    )]
    NoRoom,
    /// A block that a later version wrote.
    #[error("reservoir slot {slot}: {source}; the reservoir is unchanged")]
    Newer {
        /// Its slot.
        slot: u32,
        /// Both versions.
        source: RecordError,
    },
    /// More blocks than one draw may ask for.
    #[error("draw of {got} blocks: expected at most {limit}")]
    Draw {
        /// The most.
        limit: usize,
        /// How many were asked for.
        got: usize,
    },
    /// A ledger that contradicts itself or the file.
    #[error("reservoir ledger names {what}: {got}")]
    Ledger {
        /// What is wrong.
        what: &'static str,
        /// The number that is.
        got: u64,
    },
}

impl ReservoirError {
    /// Whether the file is gone or cannot be read any more, as opposed to a disk that refuses for now, or to
    /// what a later version wrote.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_missing() || error.is_damage(),
            Self::Record(source) => !source.is_newer(),
            Self::Ledger { .. } => true,
            _ => false,
        }
    }
}

/// Why a held block was dropped.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Its bytes are damaged.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The disk cannot read it.
    #[error("the disk cannot read it")]
    Unreadable,
    /// Sound bytes, but of another block than the ledger names.
    #[error("it holds another block than the ledger names")]
    Other,
    /// A sound record whose block fits no reservoir of this geometry.
    #[error("{0}")]
    Content(String),
}

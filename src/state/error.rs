//! What can go wrong with a state folder, and what still holds then.

use crate::ports::StorageError;
use crate::reservoir::{RecordError, ReservoirError};

/// Why the state did not do what it was asked; the generation in use stays in use.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The disk could not promise that what was written is kept.
    #[error("{0}; the job must end, the next start finds the old generation or the new one")]
    Sync(StorageError),
    /// A sync failed before; what the system holds is unknown.
    #[error("the disk failed to sync before: expected the state to be opened again")]
    Broken,
    /// The reservoir.
    #[error(transparent)]
    Reservoir(#[from] ReservoirError),
    /// The file of the reservoir that a commit names.
    #[error(
        "{0}: the reservoir is lost, the generations are whole and nothing was changed \
         (`firmware-host recover --from-adapters` lets go of it, and a new one begins)"
    )]
    ReservoirLost(ReservoirError),
    /// A file's record does not hold.
    #[error("{path}: {source}")]
    Record {
        /// The file.
        path: String,
        /// What does not hold.
        source: RecordError,
    },
    /// A file is not the one that was committed.
    #[error("{path} is not what was committed: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// What differs.
        what: &'static str,
    },
    /// A manifest that contradicts itself.
    #[error("manifest names {what}: {got}")]
    Manifest {
        /// What is wrong.
        what: &'static str,
        /// The number that is.
        got: u64,
    },
    /// Neither manifest leads to a sound generation.
    #[error("no generation of the state folder is sound; nothing was changed: {reasons}")]
    NoSound {
        /// What was tried, and why it does not hold.
        reasons: String,
    },
    /// Generations, and no manifest.
    #[error(
        "the state folder holds generations {generations:?} and neither manifest.a nor manifest.b that \
         says which is in use; nothing was changed (`firmware-host recover --from-adapters` goes on \
         with the newest that is whole)"
    )]
    NoManifest {
        /// Their numbers.
        generations: Vec<u64>,
    },
    /// A manifest that can be read.
    #[error(
        "{name} can be read, and so can the reservoir: there is nothing to recover, and nothing was changed"
    )]
    NotLost {
        /// The file.
        name: &'static str,
    },
    /// A generation that is not kept.
    #[error("generation {number} is not kept: expected one of {known:?}")]
    Unknown {
        /// The one asked for.
        number: u64,
        /// Those kept.
        known: Vec<u64>,
    },
    /// There is no generation before the one in use.
    #[error(
        "no earlier generation is kept: nothing to roll back to; the one in use stays \
         (--to 0 is the bare base)"
    )]
    NothingBefore,
    /// A generation that nothing has confirmed yet.
    #[error(
        "generation {generation} is on trial: expected it to be confirmed or reverted first; nothing \
         was changed"
    )]
    OnTrial {
        /// Its number.
        generation: u64,
    },
    /// No generation waits to be confirmed.
    #[error(
        "no generation is on trial: there is nothing to confirm or to revert; nothing was changed"
    )]
    NoTrial,
    /// An offer that was taken before, or an older one.
    #[error("sequence {got} is not new: expected one above {taken}; nothing was changed")]
    Taken {
        /// The highest that was taken.
        taken: u64,
        /// The one that came.
        got: u64,
    },
    /// A layer without ranks of its own.
    #[error(
        "learner record: layer {layer} has {rank} ranks, {global} of them of a global adapter: \
         expected at least one of its own"
    )]
    Ranks {
        /// Index of the decoder layer.
        layer: u32,
        /// All of them.
        rank: u32,
        /// The global adapter's.
        global: u32,
    },
    /// Something too long to be kept.
    #[error("{what}: expected at most {limit}, got {got}; nothing was committed")]
    Limit {
        /// What.
        what: &'static str,
        /// The most.
        limit: u64,
        /// What came.
        got: u64,
    },
    /// A file name that could leave its folder.
    #[error(
        "{name:?} is no name for a file of an adapter: expected letters, digits, '.', '_', '-'"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Numbers of a learner that do not belong together.
    #[error("learner record: expected {expected} numbers of {what}, got {got}")]
    Learner {
        /// Which of them.
        what: &'static str,
        /// How many the adapter's shapes make.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// The record was made under other conditions.
    #[error(
        "the state was made with another {what}: expected {expected}, got {got}; it is unchanged \
         (go on as it was made, or choose another --state)"
    )]
    Differs {
        /// Which condition.
        what: String,
        /// The one in the record.
        expected: String,
        /// The one now.
        got: String,
    },
}

impl StateError {
    /// Whether the bytes are lost for good, as opposed to a disk that refuses for now, or to what a later
    /// version wrote.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_missing() || error.is_damage(),
            Self::Record { source, .. } | Self::Reservoir(ReservoirError::Record(source)) => {
                !source.is_newer()
            }
            Self::Damaged { .. } | Self::Manifest { .. } => true,
            Self::Learner { .. } | Self::Ranks { .. } => true,
            Self::Limit { .. } | Self::Name { .. } => true,
            Self::Reservoir(ReservoirError::Newer { .. }) => false,
            Self::Reservoir(ReservoirError::Storage(error)) => error.is_damage(),
            Self::Reservoir(_) => true,
            _ => false,
        }
    }
}

//! An operator's orders: guarded statements, each with a line in the audit log.
//!
//! - In: a fleet's folder, an order, a time. Out: what holds now, or why it is as it was.
//! - The program and a test give the same orders; a server may run beside them.

mod devices;
mod redo;
pub mod trust;
pub mod releases;
pub mod rounds;

pub use devices::{Invitation, Word, invite, say};

use crate::cohorts::PolicyError;
use crate::home::HomeError;
use crate::ports::ChanceError;
use crate::store::BookError;
use crate::store::blobs::BlobError;
use sapwood::adapter::AdapterError;
use sapwood_protocol::fleet::id::{DeviceId, Hash, IdError, PublicKey};
use sapwood_protocol::fleet::link::LinkError;
use sapwood_protocol::fleet::signatures::SignaturesError;
use sapwood_protocol::fleet::statement::StatementError;
use sapwood_protocol::fleet::trust::TrustError;

/// Who gave the orders that the log tells of.
const WHO: &str = "operator";

/// Why an order is not followed; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// There is no such thing.
    #[error("there is no {what} {name}; nothing was changed")]
    Unknown {
        /// What.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It is in a state from which this does not follow.
    #[error("{what} {name} is {got}, expected {expected}; nothing was changed")]
    State {
        /// What.
        what: &'static str,
        /// Its name.
        name: String,
        /// From which states this follows.
        expected: &'static str,
        /// Its state.
        got: String,
    },
    /// A device without a label.
    #[error("device {device} has no label from a token: say one with --label; nothing was changed")]
    Label {
        /// The device.
        device: DeviceId,
    },
    /// There are several.
    #[error("there are {count} cohorts: say which with --cohort; nothing was changed")]
    Which {
        /// How many.
        count: usize,
    },
    /// What it needs was let go of.
    #[error(
        "round {round} is older than 30 days: its uploads are gone, and it cannot be merged again"
    )]
    Gone {
        /// The round.
        round: u64,
    },
    /// What it needs is not where it should be.
    #[error(
        "blob {hash} of device {device} is not there: put it back from a copy, or say --without {device}; round {round} is as it was"
    )]
    Missing {
        /// The round.
        round: u64,
        /// Whose update it is.
        device: DeviceId,
        /// The file.
        hash: Hash,
    },
    /// What would be offered is offered already.
    #[error("sequence {sequence} offers artifact {artifact} already; nothing was changed")]
    Same {
        /// The newest release.
        sequence: u64,
        /// What it names.
        artifact: Hash,
    },
    /// One key in two roles: whoever has it has both.
    #[error(
        "key {key} would be {one} key and {other} key, expected another for each; nothing was changed"
    )]
    Shared {
        /// The key.
        key: PublicKey,
        /// A role.
        one: &'static str,
        /// Another.
        other: &'static str,
    },
    /// Somebody else gave orders at the same time.
    #[error(
        "it was changed by somebody else in between; look again, and say it again if it still holds"
    )]
    Lost,
    /// An address or a label.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A link that nobody could read.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A policy that is none.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Keys of a fleet that are none.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// An adapter.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A statement that nobody would take.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// How it is signed.
    #[error(transparent)]
    Signatures(#[from] SignaturesError),
    /// The folder.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The book.
    #[error(transparent)]
    Book(BookError),
    /// No chance.
    #[error(transparent)]
    Chance(#[from] ChanceError),
}

impl From<BookError> for OrderError {
    fn from(error: BookError) -> Self {
        if error.is_lost() { Self::Lost } else { Self::Book(error) }
    }
}

//! What the sync asks of the learner: a port, so that all of it is tested without one.
//!
//! - The learner never hears of servers: it tells what it has, and is given files that were checked.
//! - Never here: adapters as numbers, files of the state folder.

use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::message::{Facts, Installed, Outcome, Ready};
use std::path::PathBuf;

/// How the learner is now; cheap to ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// What it adapts.
    pub facts: Facts,
    /// Number of its last commit, 0 before the first.
    pub generation: u64,
    /// The global adapter that the last commit stands on.
    pub installed: Option<Installed>,
    /// Whether that is on trial.
    pub trial: bool,
    /// What it learned since, if that is worth an upload.
    pub ready: Option<Ready>,
    /// The last installs, oldest first.
    pub installs: Vec<Install>,
}

/// What became of a global adapter that the learner was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Install {
    /// Of its statement.
    pub sequence: u64,
    /// The adapter.
    pub artifact: Hash,
    /// How it ended; none while it is on trial.
    pub outcome: Option<Outcome>,
    /// Why, in a line.
    pub reason: String,
    /// Bits per byte on held-out text with what was there before.
    pub before: Option<f64>,
    /// The same with what was installed.
    pub after: Option<f64>,
}

/// What the learner lends: its own part, as a file for the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The global adapter that it goes on from, zeros before the first.
    pub from: Hash,
    /// Its rank.
    pub rank: u32,
    /// The file.
    pub bytes: Vec<u8>,
}

/// A global adapter for the learner: a file that is whole, of the right hash, signed for this device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Of its statement.
    pub sequence: u64,
    /// BLAKE3 of the file.
    pub artifact: Hash,
    /// The file.
    pub path: PathBuf,
}

/// The learner.
pub trait Learner: Send + Sync + 'static {
    /// How it is now; none until it knows what it adapts.
    fn view(&self) -> Option<View>;
    /// Its own part, as the last commit has it; none while there is nothing to lend. May take a second.
    ///
    /// # Errors
    /// Why it cannot be written, in a line.
    fn own_part(&self, cohort: CohortId) -> Result<Option<Part>, String>;
    /// Has it install an adapter at its next chance. What is given again changes nothing.
    fn install(&self, offered: Offered);
}

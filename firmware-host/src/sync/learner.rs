//! What the sync asks of the learner: a port, so that all of it is tested without one.
//!
//! - The learner never hears of servers: it tells what it has, and is given files that were checked.
//! - What a fleet hears is what came of its own releases: installs of another are none of its business,
//!   and their numbers would be taken for its own.
//! - Never here: adapters as numbers, files of the state folder.

use sapwood::state::{Global, Install, InstallOutcome, Series};
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
    /// The global adapter that the generation in use stands on.
    pub global: Option<Global>,
    /// Whether that is on trial.
    pub trial: bool,
    /// What was learned since it was installed, if anything was and nothing is on trial.
    pub ready: Option<Ready>,
    /// The last installs, oldest first.
    pub installs: Vec<Install>,
}

impl View {
    /// What a fleet sees of it, that knows its own series by `is_own`: neither installs of others, nor
    /// what the device stands on where that came from elsewhere, nor what was learned on top of that.
    pub(super) fn for_fleet(self, is_own: impl Fn(Option<Series>) -> bool) -> Self {
        let Self { global, trial, ready, mut installs, .. } = self;
        installs.retain(|install| is_own(install.series));
        let seen = global.and_then(|global| {
            let again = installs.iter().rfind(|install| {
                install.artifact == global.artifact && install.outcome == InstallOutcome::Confirmed
            });
            match again {
                // Offered once more while it was there, by this fleet: under its later number.
                Some(&Install { series, sequence, .. })
                    if sequence > global.sequence || !is_own(global.series) =>
                {
                    Some(Global { series, sequence, ..global })
                }
                _ => Some(global).filter(|global| is_own(global.series)),
            }
        });
        let is_elsewhere = global.is_some() && seen.is_none();
        Self {
            global: seen,
            trial: trial && !is_elsewhere,
            ready: ready.filter(|_| !is_elsewhere),
            installs,
            ..self
        }
    }

    /// What it stands on, in the words of the protocol.
    pub fn installed(&self) -> Option<Installed> {
        let Global { sequence, artifact, .. } = self.global?;
        Some(Installed { sequence, artifact: Hash(artifact) })
    }
}

/// How an install ended, in the words of the protocol; none while it is on trial.
pub(super) fn ended(install: &Install) -> Option<Outcome> {
    match install.outcome {
        InstallOutcome::Trialled => None,
        InstallOutcome::Confirmed => Some(Outcome::Confirmed),
        InstallOutcome::Reverted => Some(Outcome::Reverted),
        InstallOutcome::Declined => Some(Outcome::Declined),
        InstallOutcome::Failed => Some(Outcome::Failed),
    }
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
    /// The fleet and the cohort of its statement.
    pub series: Series,
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
    /// What it was given and has not begun is no longer to be installed.
    fn withdraw(&self);
    /// Where that artifact is on trial, the trial ends now: the generation before it returns.
    fn recall(&self, artifact: Hash);
}

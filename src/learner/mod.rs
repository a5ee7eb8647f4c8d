//! The learner: one job end to end, and the stream of jobs that experiments run.
//!
//! - In: a model folder, blocks, settings, a state folder. Out: a committed adapter, or a reason.
//! - The only stage that knows all others. Never here: the terminal, clocks, the tokenizer's files.

mod anchor;
mod choices;
mod course;
mod engines;
mod evaluate;
mod events;
mod feed;
mod fits;
mod heritage;
mod install;
mod job;
mod memory;
mod plan;
mod precision;
mod since;
mod settle;
mod start;
mod halt;
mod stream;
mod texts;

pub use anchor::{own_texts, whitening};
pub use choices::{Answers, accuracy};
pub use course::{Bench, Course, Cursor, StepReport};
pub use engines::{Engines, threads};
pub use evaluate::{HeldOut, Pulse, Seen};
pub use events::{Event, Score, Text, Who};
pub use feed::Feed;
pub use halt::{Halt, Rest};
pub use install::{Offered, install, look_again};
pub use job::{Listener, Material, Outcome, adapt};
pub use memory::{Memory, Serving, Tokens};
pub use plan::{Plan, for_base, line as plan_line, retain_for};
pub use precision::{multiplies_in_bf16, multiplies_in_whole_numbers, precision};
pub use settle::{Candidate, Fit, Rehearsal, Settling};
pub use stream::{Domains, Stream};

use crate::adapter::{AdapterError, Spec, Strength, Target};
use crate::base::{BaseError, Config};
use crate::generate::GenerateError;
use crate::head::HeadError;
use crate::reservoir::{Geometry, ReservoirError};
use crate::settings::{DOMAIN_BYTES_MAX, Settings, SettingsError};
use crate::state::StateError;
use crate::tokenise::TokeniseError;
use crate::train::TrainError;
use crate::trunk::TrunkError;
use sapwood_protocol::limits::RESERVOIR_ROOM_MAX;

/// Steps whose fresh blocks the reservoir can take in between two checkpoints.
const ROOM_STEPS: u32 = 16;

/// What can go wrong in a job.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The model folder.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The settings do not fit the model.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The trunk.
    #[error(transparent)]
    Trunk(#[from] TrunkError),
    /// The head.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The base could not write its own text.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// A step.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The reservoir.
    #[error(transparent)]
    Reservoir(#[from] ReservoirError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// An adapter's files.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenise(#[from] TokeniseError),
    /// Trunk and head together are not the model.
    #[error(
        "head over trunk differs from the whole model by {error:.1e} of its largest logit, \
         expected at most {tolerance:.0e}; nothing was started (export the model again with \
         `sapwood export`)"
    )]
    Probe {
        /// What was measured.
        error: f32,
        /// What is allowed.
        tolerance: f32,
    },
    /// Nothing to learn, or nothing to judge by.
    #[error("{name}: expected at least one block to learn and one held out; nothing was started")]
    NoData {
        /// Which data.
        name: String,
    },
    /// A domain that could not be named in a record.
    #[error(
        "--domain: expected a name of 1 to {DOMAIN_BYTES_MAX} bytes, got one of {got}; nothing was started"
    )]
    Domain {
        /// Bytes of its name, or of the path that it is known by.
        got: usize,
    },
    /// The listener said so between two batches of held-out text.
    #[error("the job was told to stop; its checkpoint, if it had one, is there")]
    Stopped,
    /// A global adapter that the device cannot stand on.
    #[error("the global adapter is another's: expected {expected}, got {got}; nothing was changed")]
    Foreign {
        /// What the device adapts.
        expected: String,
        /// What the global adapter does.
        got: String,
    },
    /// The global adapter that is there already.
    #[error(
        "this global adapter is installed already, as sequence {sequence}; nothing was changed"
    )]
    Installed {
        /// Of the one installed.
        sequence: u64,
    },
    /// A job that was interrupted stands on what is there now.
    #[error(
        "a job that was interrupted at its step {step} stands on the adapter in use: expected it to \
         end first (`sapwood adapt --resume`); nothing was changed"
    )]
    Interrupted {
        /// Where it goes on.
        step: u64,
    },
    /// An adapter that nobody could judge.
    #[error(
        "there is no text to judge the global adapter by: expected general text, or that of an earlier \
         job; nothing was changed"
    )]
    Unjudged,
    /// No multiple choice among the examples.
    #[error("expected lines of {{\"prompt\", \"choices\", \"answer\"}}, found none")]
    NoChoices,
    /// `--resume` without a checkpoint.
    #[error("there is no interrupted job to go on with; leave --resume out")]
    NothingToResume,
    /// The reservoir was made for smaller batches.
    #[error(
        "a step has {fresh} fresh blocks, expected at most {room}: the state's reservoir was made \
         for smaller batches (lower --batch-size, or choose another --state)"
    )]
    Room {
        /// Blocks of a batch times batches of a step.
        fresh: u32,
        /// Places that the reservoir keeps free.
        room: u32,
    },
    /// A stored hidden state of another size.
    #[error("a replayed hidden state has {got} numbers, expected {expected}; it was not used")]
    Hidden {
        /// Numbers of the block's `[T, D]`.
        expected: usize,
        /// Numbers stored.
        got: usize,
    },
    /// Numbers that no file of a state holds.
    #[error(
        "{what} of a job with these settings takes {got} bytes, expected at most {most}; nothing was \
         started (a lower --rank, fewer --num-layers or --target-modules help)"
    )]
    Large {
        /// Which file.
        what: &'static str,
        /// What it would take.
        got: u64,
        /// The most it may.
        most: u64,
    },
    /// More memory needed than there is.
    #[error(
        "the job needs about {needed} bytes of memory, {available} can be had; nothing was started (fewer --num-layers, a smaller --batch-size or --max-seq-length help)"
    )]
    Memory {
        /// The estimate.
        needed: u64,
        /// What the host says.
        available: u64,
    },
}

/// The adapter that the settings ask for: the top layers, the named targets.
///
/// # Errors
/// [`SettingsError::Range`] when the model has fewer layers.
pub fn spec(config: &Config, settings: &Settings) -> Result<Spec, LearnError> {
    let learning = settings.layers_of(config.layers)?;
    let targets: Vec<Target> =
        settings.target_modules.iter().filter_map(|name| Target::from_name(name)).collect();
    let strength = Strength { rank: settings.rank, alpha: settings.alpha as f32 };
    Ok(Spec::uniform(config, config.layers - learning..config.layers, &targets, strength))
}

/// The reservoir that the settings ask for: as many blocks as named, or as fit their bytes.
///
/// # Errors
/// [`ReservoirError::Budget`] when not one block fits; [`ReservoirError::Limit`].
pub fn geometry(config: &Config, settings: &Settings) -> Result<Geometry, LearnError> {
    let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (tokens_max, vocab) = (narrow(settings.max_seq_length), narrow(config.vocab));
    let hidden = settings.replay_hidden.then(|| narrow(config.hidden));
    let fresh = settings.fresh_blocks();
    let room = fresh.saturating_mul(ROOM_STEPS).min(RESERVOIR_ROOM_MAX).max(fresh);
    if let Some(bytes) = settings.replay_bytes {
        return Ok(Geometry::for_bytes(bytes, tokens_max, vocab, hidden, room)?);
    }
    let capacity = u32::try_from(settings.replay_blocks).unwrap_or(u32::MAX);
    let geometry = Geometry { capacity, tokens_max, vocab, hidden, room };
    geometry.check()?;
    Ok(geometry)
}

//! Why the trunk cannot be loaded or run.

use super::proof::DIFFERENCE_MAX;
use crate::base::BaseError;
use thiserror::Error;

/// Why the trunk cannot be loaded or run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrunkError {
    /// The base cannot be read, or the sequence is too long for it.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The tap lies above the last layer.
    #[error("the tap is {tap}, expected 0 to {layers}, the layers of the base")]
    Tap {
        /// Asked for.
        tap: usize,
        /// Layers of the base.
        layers: usize,
    },
    /// A batch without tokens.
    #[error("ids have shape [{batch}, {length}], expected at least one token")]
    Empty {
        /// Sequences.
        batch: usize,
        /// Tokens of each.
        length: usize,
    },
    /// An id that the vocabulary does not have.
    #[error("token {token} is not in the vocabulary of {vocab}; the tokenizer is of another model")]
    Token {
        /// The id.
        token: u32,
        /// Vocabulary size.
        vocab: usize,
    },
    /// The engine failed.
    #[error("tract cannot {doing}: {what}")]
    Engine {
        /// What was under way.
        doing: &'static str,
        /// What the engine said.
        what: String,
    },
    /// The optimised graph computes something else than the plain one.
    #[error(
        "the graph as it runs is off by {difference:e} of scale for {batch} x {length} tokens, \
         expected at most {DIFFERENCE_MAX:e}; this build cannot run this base"
    )]
    Miscompiled {
        /// Sequences of the probe.
        batch: usize,
        /// Tokens of each.
        length: usize,
        /// Largest difference over largest value.
        difference: f32,
    },
    /// Layers that another engine runs compute something else than tract's.
    #[error(
        "the trunk on this device is off by {difference:e} of scale for {batch} x {length} tokens, \
         expected at most {DIFFERENCE_MAX:e}; nothing was started (use --device cpu)"
    )]
    Differs {
        /// Sequences of the probe.
        batch: usize,
        /// Tokens of each.
        length: usize,
        /// Largest difference over largest value.
        difference: f32,
    },
    /// Layers that another engine runs failed.
    #[error("the device cannot run the trunk: {what}; use --device cpu")]
    Device {
        /// What the other engine said.
        what: String,
    },
    /// The threads could not be started.
    #[error("cannot start {threads} threads: {what}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        what: String,
    },
}

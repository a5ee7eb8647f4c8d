//! How well two adapters know the same text: the scorer of `sapwood eval`, over the resident base.
//!
//! - The layers below the adapters are run once for both.

use super::ModelError;
use crate::device::{Current, Served};
use sapwood::block::Block;
use sapwood::gate::Tally;
use sapwood::intake::Example;
use sapwood::learner::{HeldOut, LearnError};
use std::ops::ControlFlow;

/// Blocks that go through the layers together: the caller is asked between two such batches.
const BATCH: usize = 4;
/// Bytes of hidden states that are kept for the second adapter; beyond, the layers run again.
const HIDDEN_BYTES_MAX: usize = 32 << 20;

/// What each of two adapters makes of the texts of a request.
pub(super) fn texts(
    served: &Served,
    pair: [&Current; 2],
    texts: &[String],
    going: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<[Tally; 2], ModelError> {
    let examples: Vec<Example> = texts.iter().cloned().map(Example::Text).collect();
    let made = served.tokeniser.blocks(&examples, served.block_tokens, false, 0);
    let made = made.map_err(|error| ModelError::Prompt(Box::new(error)))?;
    blocks(served, pair, &made.blocks, going)
}

/// What each of two adapters makes of blocks.
pub(super) fn blocks(
    served: &Served,
    pair: [&Current; 2],
    blocks: &[Block],
    going: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<[Tally; 2], ModelError> {
    if blocks.is_empty() {
        return Err(ModelError::NoText);
    }
    let pulse = &mut || match going() {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(LearnError::Stopped),
    };
    let (trunk, head) = (&served.engines.trunk, &served.engines.head);
    let mut room = HIDDEN_BYTES_MAX;
    let held_out = HeldOut::within(trunk, blocks, BATCH, &mut room, pulse).map_err(failed)?;
    let mut score =
        |current: &Current| held_out.score(head, current.adapter.as_ref(), pulse).map_err(failed);
    Ok([score(pair[0])?, score(pair[1])?])
}

fn failed(error: LearnError) -> ModelError {
    match error {
        LearnError::Stopped => ModelError::Late,
        error => ModelError::Failed(Box::new(error)),
    }
}

//! Scores of the base or an adapter on held-out blocks.
//!
//! - In: blocks nobody learned from. Out: nats, bits per byte, perplexity.
//! - Between two batches the caller is asked whether to go on: held-out text may take a minute.
//! - Batches hold blocks of like length, so that little padding is computed.

use super::LearnError;
use super::feed::hidden;
use crate::adapter::Adapter;
use crate::block::Block;
use crate::gate::Tally;
use crate::head::{Group, Head};
use crate::trunk::Trunk;
use ndarray::Array3;

/// Asked between two batches; its error ends the work.
pub type Pulse<'p> = dyn FnMut() -> Result<(), LearnError> + 'p;

/// Held-out blocks with their hidden states, ready to be scored again and again.
pub struct HeldOut<'a> {
    batches: Vec<(Vec<&'a Block>, Array3<f32>)>,
}

impl<'a> HeldOut<'a> {
    /// Runs the trunk over `blocks`, `batch` at a time.
    ///
    /// # Errors
    /// [`LearnError::Trunk`] when the trunk fails; what `pulse` returns.
    pub fn new(
        trunk: &Trunk,
        blocks: &'a [Block],
        batch: usize,
        pulse: &mut Pulse<'_>,
    ) -> Result<Self, LearnError> {
        let mut sorted: Vec<&Block> = blocks.iter().collect();
        sorted.sort_by_key(|block| block.tokens.len());
        let batches: Result<Vec<_>, LearnError> = sorted
            .chunks(batch.max(1))
            .map(|blocks| {
                pulse()?;
                Ok((blocks.to_vec(), hidden(trunk, blocks)?))
            })
            .collect();
        Ok(Self { batches: batches? })
    }

    /// Whether there is nothing to score.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// What `adapter`, or the bare base, makes of the blocks.
    ///
    /// # Errors
    /// [`LearnError::Head`] when the adapter does not fit; what `pulse` returns.
    pub fn score(
        &self,
        head: &Head,
        adapter: Option<&Adapter>,
        pulse: &mut Pulse<'_>,
    ) -> Result<Tally, LearnError> {
        let mut total = Tally::default();
        for (blocks, hidden) in &self.batches {
            pulse()?;
            let nats = head.nats(adapter, &Group { blocks, hidden })?;
            blocks.iter().zip(nats).for_each(|(block, nats)| total.add(tally(block, nats)));
        }
        Ok(total)
    }
}

/// What `nats` over all labels of a block come to.
pub(super) fn tally(block: &Block, nats: f64) -> Tally {
    Tally { nats, tokens: block.labels() as u64, bytes: u64::from(block.bytes) }
}

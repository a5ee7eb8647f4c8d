//! Scores of the base or an adapter on held-out blocks.
//!
//! - In: blocks nobody learned from. Out: nats, bits per byte, perplexity.
//! - Batches hold blocks of like length, so that little padding is computed.

use super::LearnError;
use super::feed::hidden;
use crate::adapter::Adapter;
use crate::block::Block;
use crate::gate::Tally;
use crate::head::{Group, Head};
use crate::trunk::Trunk;
use ndarray::Array3;

/// Held-out blocks with their hidden states, ready to be scored again and again.
pub struct HeldOut<'a> {
    batches: Vec<(Vec<&'a Block>, Array3<f32>)>,
}

impl<'a> HeldOut<'a> {
    /// Runs the trunk over `blocks`, `batch` at a time.
    ///
    /// # Errors
    /// [`LearnError::Trunk`] when the trunk fails.
    pub fn new(trunk: &Trunk, blocks: &'a [Block], batch: usize) -> Result<Self, LearnError> {
        let mut sorted: Vec<&Block> = blocks.iter().collect();
        sorted.sort_by_key(|block| block.tokens.len());
        let batches: Result<Vec<_>, LearnError> = sorted
            .chunks(batch.max(1))
            .map(|blocks| Ok((blocks.to_vec(), hidden(trunk, blocks)?)))
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
    /// [`LearnError::Head`] when the adapter does not fit.
    pub fn score(&self, head: &Head, adapter: Option<&Adapter>) -> Result<Tally, LearnError> {
        let mut total = Tally::default();
        for (blocks, hidden) in &self.batches {
            let nats = head.nats(adapter, &Group { blocks, hidden })?;
            for (block, nats) in blocks.iter().zip(nats) {
                let (tokens, bytes) = (block.labels() as u64, u64::from(block.bytes));
                total.add(Tally { nats, tokens, bytes });
            }
        }
        Ok(total)
    }
}

//! Scores of the base or an adapter on held-out blocks.
//!
//! - In: blocks nobody learned from. Out: nats, bits per byte, perplexity.
//! - Between two batches the caller is asked whether to go on: held-out text may take a minute.
//! - Batches hold blocks of like length, so that little padding is computed.
//! - Hidden states are kept as far as there is room for them; the trunk runs again for the rest.

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
    trunk: &'a Trunk,
    batches: Vec<(Vec<&'a Block>, Option<Array3<f32>>)>,
}

impl<'a> HeldOut<'a> {
    /// Runs the trunk over `blocks`, `batch` at a time.
    ///
    /// # Errors
    /// [`LearnError::Trunk`] when the trunk fails; what `pulse` returns.
    pub fn new(
        trunk: &'a Trunk,
        blocks: &'a [Block],
        batch: usize,
        pulse: &mut Pulse<'_>,
    ) -> Result<Self, LearnError> {
        let mut room = usize::MAX;
        Self::within(trunk, blocks, batch, &mut room, pulse)
    }

    /// [`HeldOut::new`] that keeps at most `room` bytes of hidden states; what it keeps is taken from it.
    ///
    /// # Errors
    /// As [`HeldOut::new`].
    pub fn within(
        trunk: &'a Trunk,
        blocks: &'a [Block],
        batch: usize,
        room: &mut usize,
        pulse: &mut Pulse<'_>,
    ) -> Result<Self, LearnError> {
        let mut sorted: Vec<&Block> = blocks.iter().collect();
        sorted.sort_by_key(|block| block.tokens.len());
        let batches: Result<Vec<_>, LearnError> = sorted
            .chunks(batch.max(1))
            .map(|blocks| {
                pulse()?;
                let longest = blocks.iter().map(|block| block.tokens.len()).max().unwrap_or(0);
                let bytes = size_of::<f32>() * blocks.len() * longest * trunk.width();
                let Some(left) = room.checked_sub(bytes) else {
                    return Ok((blocks.to_vec(), None));
                };
                *room = left;
                Ok((blocks.to_vec(), Some(hidden(trunk, blocks)?)))
            })
            .collect();
        Ok(Self { trunk, batches: batches? })
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
        for (blocks, kept) in &self.batches {
            pulse()?;
            let nats = match kept {
                Some(hidden) => head.nats(adapter, &Group { blocks, hidden })?,
                None => {
                    head.nats(adapter, &Group { blocks, hidden: &hidden(self.trunk, blocks)? })?
                }
            };
            blocks.iter().zip(nats).for_each(|(block, nats)| total.add(tally(block, nats)));
        }
        Ok(total)
    }
}

/// What `nats` over all labels of a block come to.
pub(super) fn tally(block: &Block, nats: f64) -> Tally {
    Tally { nats, tokens: block.labels() as u64, bytes: u64::from(block.bytes) }
}

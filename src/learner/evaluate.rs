//! Scores of the base or an adapter on held-out blocks, and how its layers see them.
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
use crate::study::Features;
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

/// One row a block of what leaves a decoder layer.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The layer's index in the base.
    pub layer: usize,
    /// The mean over a block's tokens.
    pub mean: Features,
    /// Its last token's.
    pub last: Features,
}

impl HeldOut<'_> {
    /// What leaves every decoder layer of the head on the first `blocks_max` blocks or a few more, under
    /// `adapter` or of the bare base; the same blocks whoever sees them.
    ///
    /// # Errors
    /// As [`HeldOut::score`].
    pub fn features(
        &self,
        head: &Head,
        adapter: Option<&Adapter>,
        blocks_max: usize,
        pulse: &mut Pulse<'_>,
    ) -> Result<Vec<Seen>, LearnError> {
        let mut all: Vec<Seen> = Vec::new();
        let mut count = 0;
        for (blocks, kept) in &self.batches {
            if count >= blocks_max {
                break;
            }
            pulse()?;
            count += blocks.len();
            let again = kept.is_none().then(|| hidden(self.trunk, blocks)).transpose()?;
            let Some(hidden) = kept.as_ref().or(again.as_ref()) else { continue };
            let width = hidden.dim().2;
            head.each_layer(&Group { blocks, hidden }, adapter, &mut |layer, rows| {
                let at = all.iter().position(|seen| seen.layer == layer).unwrap_or(all.len());
                if at == all.len() {
                    let [mean, last] = [(); 2].map(|()| Features { values: Vec::new(), width });
                    all.push(Seen { layer, mean, last });
                }
                let Seen { mean, last, .. } = &mut all[at];
                let mut rows = rows;
                for block in blocks {
                    let (own, rest) = rows.split_at(block.tokens.len() * width);
                    mean.values.extend(mean_of(own, width));
                    last.values.extend_from_slice(&own[own.len().saturating_sub(width)..]);
                    rows = rest;
                }
            })?;
        }
        Ok(all)
    }
}

/// The mean of rows.
fn mean_of(rows: &[f32], width: usize) -> Vec<f32> {
    let count = (rows.len() / width.max(1)).max(1) as f64;
    let mut sums = vec![0.0; width];
    for row in rows.chunks_exact(width.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

/// What `nats` over all labels of a block come to.
pub(super) fn tally(block: &Block, nats: f64) -> Tally {
    Tally { nats, tokens: block.labels() as u64, bytes: u64::from(block.bytes) }
}

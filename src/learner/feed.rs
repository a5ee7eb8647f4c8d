//! Blocks on their way to the head: padded batches, hidden states at the tap, each computed once.
//!
//! - In: blocks. Out: `[B, T, D]` hidden states for them, T the longest block of the batch.
//! - The trunk runs once per block and job: its results are kept, as f32, up to a byte budget.
//! - All blocks of a batch that miss theirs go to the trunk at once.
//! - Invariant: a block's hidden state does not depend on the batch it came in, nor on the number of
//!   threads: a job that goes on after a cut must meet the same numbers.

use crate::block::Block;
use crate::trunk::{Trunk, TrunkError};
use ndarray::{Array2, Array3, Axis, s};

/// The trunk and what it has computed for a fixed list of blocks.
pub struct Feed<'a> {
    trunk: &'a Trunk,
    blocks: &'a [Block],
    kept: Vec<Option<Array2<f32>>>,
    bytes_left: usize,
}

impl<'a> Feed<'a> {
    /// A feed of `blocks` that keeps at most `bytes_max` bytes of hidden states.
    pub fn new(trunk: &'a Trunk, blocks: &'a [Block], bytes_max: usize) -> Self {
        Self { trunk, blocks, kept: vec![None; blocks.len()], bytes_left: bytes_max }
    }

    /// The blocks, in the order of their indices.
    pub fn blocks(&self) -> &'a [Block] {
        self.blocks
    }

    /// The blocks at `indices` and their hidden states, `[B, T, D]`.
    ///
    /// # Errors
    /// [`TrunkError`] when the trunk fails.
    pub fn batch(
        &mut self,
        indices: &[usize],
    ) -> Result<(Vec<&'a Block>, Array3<f32>), TrunkError> {
        let blocks: Vec<&Block> = indices.iter().map(|&index| &self.blocks[index]).collect();
        let missing: Vec<usize> =
            (0..indices.len()).filter(|&i| self.kept[indices[i]].is_none()).collect();
        let mut computed = Vec::new();
        if !missing.is_empty() {
            let wanted: Vec<&[u32]> = missing.iter().map(|&i| &*blocks[i].tokens).collect();
            computed = missing.into_iter().zip(self.trunk.hidden_of(&wanted)?).collect();
        }
        let longest = blocks.iter().map(|block| block.tokens.len()).max().unwrap_or(0);
        let mut batch = Array3::zeros((blocks.len(), longest, self.trunk.width()));
        let mut place = |i: usize, own: &Array2<f32>| {
            batch.slice_mut(s![i, ..own.len_of(Axis(0)), ..]).assign(own);
        };
        for (i, &index) in indices.iter().enumerate() {
            if let Some(own) = &self.kept[index] {
                place(i, own);
            }
        }
        for (i, own) in computed {
            place(i, &own);
            let bytes = own.len() * size_of::<f32>();
            if bytes <= self.bytes_left {
                self.bytes_left -= bytes;
                self.kept[indices[i]] = Some(own);
            }
        }
        Ok((blocks, batch))
    }
}

/// Hidden states at the tap of any blocks, `[B, T, D]`, T the longest; zeros past a block's end.
///
/// # Errors
/// [`TrunkError`] when the trunk fails.
pub(super) fn hidden(trunk: &Trunk, blocks: &[&Block]) -> Result<Array3<f32>, TrunkError> {
    let longest = blocks.iter().map(|block| block.tokens.len()).max().unwrap_or(0);
    let mut all = Array3::zeros((blocks.len(), longest, trunk.width()));
    let ids: Vec<&[u32]> = blocks.iter().map(|block| &*block.tokens).collect();
    for (row, own) in trunk.hidden_of(&ids)?.iter().enumerate() {
        all.slice_mut(s![row, ..own.len_of(Axis(0)), ..]).assign(own);
    }
    Ok(all)
}

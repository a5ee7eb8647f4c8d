//! The I-LoRA loss over a batch, its gradient for the fast adapter, and nats for evaluation.
//!
//! `L = f CE(fresh) + r CE(replay) + gamma * D(h(replay; fast), h(replay; slow))`, or CE(fresh)
//! alone without replay. CE: mean over labels of its group. f and r: the groups' parts of the blocks,
//! `f = n_fresh / (n_fresh + n_replay)`, `r = 1 - f`. D: `|h_fast - h_slow|^2 / |h_slow|^2`, mean over
//! the real positions of the replayed blocks, averaged over the compared layers; h is the residual
//! stream after a layer, before the final norm; the slow side carries no gradient.
//!
//! Source: I-LoRA, arXiv 2402.18865, section 4.2, where both groups have as many blocks, and D is the
//! plain mean of squares. That is another loss on every base: the root mean square of h is about 3 in
//! the shipped one, by what gamma did there, and 40 to 68 in SmolLM2-135M.

use crate::block::Block;
use crate::settings::EmbeddingLayers;
use ndarray::Array3;

/// Blocks and their hidden states at the tap.
#[derive(Clone, Copy)]
pub struct Group<'a> {
    /// The blocks, B of them.
    pub blocks: &'a [&'a Block],
    /// `[B, T, D]`, T at least the longest block; rows past a block's end hold finite padding.
    pub hidden: &'a Array3<f32>,
}

impl Group<'_> {
    /// Rows that predict a label, and the labels; `starts` has the first row of each block.
    pub(super) fn predictions(&self, starts: impl Iterator<Item = usize>) -> (Vec<u32>, Vec<u32>) {
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (block, start) in self.blocks.iter().zip(starts) {
            for t in 1..block.tokens.len() {
                if block.learn[t] {
                    rows.push((start + t - 1) as u32);
                    targets.push(block.tokens[t]);
                }
            }
        }
        (rows, targets)
    }

    /// The sum of each block's own nats, `[B]`, and how many they are; `nats` are those of all its labels.
    pub(super) fn sums(&self, nats: &[f32]) -> Vec<(f64, usize)> {
        let mut nats = nats.iter().copied().map(f64::from);
        let sum = |block: &&Block| {
            let labels = block.learn.iter().skip(1).filter(|&&learn| learn).count();
            (nats.by_ref().take(labels).sum(), labels)
        };
        self.blocks.iter().map(sum).collect()
    }

    /// The mean of each block's own nats, `[B]`, 0 without labels; `nats` are those of all its labels.
    pub(super) fn means(&self, nats: &[f32]) -> Vec<f32> {
        let means = self.sums(nats).into_iter().map(|(sum, labels)| sum / labels.max(1) as f64);
        means.map(|mean| mean as f32).collect()
    }
}

/// How far hidden states are from those that they are held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// The squared distance in parts of the squared length, mean over positions: 0.01 is a tenth of
    /// the length, on every base.
    Relative,
    /// The mean square over channels where slow is above fast, as the authors' public code has it.
    OneSided,
}

/// Added to a squared length before something is divided by it.
pub(super) const LENGTH_MIN: f32 = 1e-12;

/// What the step minimises besides cross-entropy.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    /// Weight of the distance, in nats; 0 leaves the slow forward out.
    pub gamma: f32,
    /// Which hidden states it compares.
    pub layers: EmbeddingLayers,
    /// How it is measured.
    pub distance: Distance,
}

/// The parts of one step's loss, in nats a label; the distance in its own unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Losses {
    /// CE of the fresh blocks.
    pub fresh: f32,
    /// CE of the replayed blocks, if any.
    pub replay: Option<f32>,
    /// Distance between fast and slow, if computed.
    pub embedding: Option<f32>,
    /// Divergence from the base on text of its own, if computed.
    pub anchor: Option<f32>,
    /// What was minimised.
    pub total: f32,
}

/// What a batch says of the fast adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient {
    /// The parts of its loss.
    pub losses: Losses,
    /// CE of every fresh block by itself, in nats a label, `[B]`; 0 for a block without labels.
    pub of_blocks: Vec<f32>,
    /// The gradient of `losses.total` for the adapter's flat values.
    pub values: Vec<f32>,
}

/// The weights of the cross-entropies of fresh and replayed blocks: the part of the blocks that each is.
pub(super) fn shares(fresh: &Group<'_>, replay: Option<&Group<'_>>) -> [f32; 2] {
    let count = |group: &Group<'_>| group.blocks.len() as f32;
    let (new, old) = (count(fresh), replay.map_or(0.0, count));
    let all = (new + old).max(1.0);
    [new / all, old / all]
}

//! One decoder layer on the CPU, by our own kernels: what trunk, step and texts run, and no other.
//!
//! - In: frozen weights of any storage, rows of the residual stream, LoRA factors or none; for a text
//!   the keys and values of what it has seen. Out: the next residual stream, in the same place; for a
//!   step that learns a tape, and the way back along it.
//! - Every buffer comes from a pool and goes back as soon as it is spent.
//! - Invariant: a number of the output is summed in one order, whatever rows are beside it and however
//!   many threads run, where `products` holds that of a product.
//! - Never here: embedding, lm_head, losses, candle, tract.
//!
//! Sources: RMSNorm arXiv 1910.07467, of heads arXiv 2010.04245; RoPE arXiv 2104.09864; SwiGLU arXiv
//! 2002.05202; GQA arXiv 2305.13245; the way back through attention is FlashAttention's, arXiv 2205.14135.

pub(crate) mod attention;
mod cache;
pub(crate) mod kernels;
mod head_norm;
mod lora;
mod tape;
mod weights;
mod layer;

pub(crate) use attention::{Sequences, Shape};
pub(crate) use cache::Past;
pub(crate) use layer::{Context, Layer, picked};
pub(crate) use lora::part;
pub(crate) use tape::Tape;
pub(crate) use weights::{Part, Weights};

use crate::base::Config;

/// RoPE's cosines and sines of every position, `[positions, head_dim / 2]` each.
pub(crate) struct Turns {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    pub(crate) positions: usize,
}

impl Turns {
    /// Those of positions 0 to `positions`.
    pub(crate) fn new(config: &Config, positions: usize) -> Self {
        let (cos, sin) = config.rope_tables(positions);
        Self { cos, sin, positions }
    }

    /// Cosines and sines from a position on.
    fn from(&self, first: usize) -> (&[f32], &[f32]) {
        let at = first * (self.cos.len() / self.positions.max(1));
        (&self.cos[at..], &self.sin[at..])
    }
}

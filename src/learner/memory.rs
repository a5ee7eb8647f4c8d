//! How much memory a job will take, before it starts.
//!
//! - In: the base's shape and the settings. Out: bytes, by what they are for.
//! - An upper estimate of what the engines allocate; `sapwood doctor` prints it.

use super::anchor;
use crate::adapter::Spec;
use crate::base::Config;
use crate::head;
use crate::settings::{Activations, HeadWeights, Settings};
use serde::Serialize;

/// Bytes a job needs, by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights of embedding and trunk in f32, as loading needs them; they are kept narrower.
    pub trunk: u64,
    /// Weights of the head, as they are kept.
    pub head: u64,
    /// Fast, slow, gradient, AdamW's two moments, and the roots that whiten.
    pub learners: u64,
    /// What the backward pass keeps of one batch, and its largest temporary buffers.
    pub step: u64,
    /// Hidden states of fresh blocks and of the base's own texts that the job may keep.
    pub hidden: u64,
}

/// Most bytes of hidden states that a job keeps of its fresh blocks.
pub(super) const HIDDEN_BYTES_MAX: u64 = 256 << 20;

impl Memory {
    /// The estimate for a model, an adapter of it and the settings; `blocks` fresh ones.
    pub fn estimate(config: &Config, spec: &Spec, settings: &Settings, blocks: u64) -> Self {
        let number = size_of::<f32>() as u64;
        let wide = |x: usize| x as u64;
        let (d, f, t) = (wide(config.hidden), wide(config.ffn), wide(settings.max_seq_length));
        let q = wide(config.heads * config.head_dim);
        let kv = wide(config.kv_heads * config.head_dim);
        let layer = d * q + 2 * d * kv + q * d + 3 * d * f + 2 * d;
        let learning = settings.layers_of(config.layers).unwrap_or(config.layers) as u64;
        let vocab = wide(config.vocab) * d;
        let rows = t * wide(settings.batch_size + settings.replay_batch_size);
        let kept = rows * (2 * d + 2 * q + 2 * kv + 2 * f + 2 + wide(config.heads));
        // `Auto` knows only when it sees the weights: at most f32.
        let weight = match settings.head_weights {
            HeadWeights::Auto | HeadWeights::F32 => 4,
            HeadWeights::Bf16 => 2,
            HeadWeights::Int8 => 1,
        };
        let tape = match settings.activations {
            Activations::F32 => number * learning * kept,
            Activations::Bf16 => number * (learning * kept / 2 + kept),
            Activations::Recompute => number * (learning * rows * d + kept),
        };
        let own = wide(settings.own_texts()) * t.min(wide(anchor::TOKENS_MAX));
        let kept_hidden = |tokens: u64| HIDDEN_BYTES_MAX.min(number * tokens * d);
        let is_whitened = settings.own_texts() > 0 && settings.whitening > 0.0;
        // The sums that they are made from stay until they are.
        let roots = if is_whitened { 2 * head::sum_bytes(spec) } else { 0 };
        let logits = wide(head::logit_rows(settings.activations)) * wide(config.vocab);
        let temporary = rows * (8 * d + 3 * f + q) + 2 * logits;
        Self {
            trunk: number * (vocab + (wide(config.layers) - learning) * layer),
            head: weight * (vocab + learning * layer) + number * (1 + 2 * learning) * d,
            learners: number * 6 * wide(spec.len()) + roots,
            step: tape + number * temporary,
            hidden: kept_hidden(blocks * t) + kept_hidden(own),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.trunk + self.head + self.learners + self.step + self.hidden
    }
}

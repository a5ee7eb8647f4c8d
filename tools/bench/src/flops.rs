//! Floating-point operations of a step that are matrix products, from its shape alone.
//!
//! A product `[m, k] [k, n]` is `2 m k n`. What a mode computes twice to save memory is not counted:
//! the figure is that of the work, and over the measured rate of products it bounds the time below.
//! - Attention is causal: `T (T + 1) / 2` of the `T x T` scores; two products forward, four back.
//! - A frozen linear layer has no gradient of its weight, the lowest learning layer none of its
//!   input: q, k and v there are forward only.

use crate::works::{BLOCKS, Kind, RANK, TARGETS, TOKENS, Work};
use anyhow::Result;
use sapwood::base::Config;

/// What the products of one measured unit come to.
pub(crate) fn of(work: &Work, config: &Config) -> Result<f64> {
    let learning = work.learning(config.layers)?;
    Ok(match work.kind {
        Kind::Trunk { layers, .. } => layers as f64 * forward(config, BLOCKS, TOKENS),
        Kind::Step { replay, .. } => {
            let below = (config.layers - learning) as f64 * forward(config, BLOCKS, TOKENS);
            below + step(config, learning, [BLOCKS, replay], TOKENS)
        }
    })
}

/// One frozen layer's forward pass.
fn forward(config: &Config, blocks: usize, tokens: usize) -> f64 {
    (blocks * tokens) as f64 * 2.0 * linear(config) + 2.0 * attention(config, blocks, tokens)
}

/// Numbers in the weights that read the layer's input: q, k and v.
fn inputs(config: &Config) -> f64 {
    (config.hidden * config.head_dim * (config.heads + 2 * config.kv_heads)) as f64
}

/// Numbers in all linear weights of a layer.
fn linear(config: &Config) -> f64 {
    let output = config.heads * config.head_dim * config.hidden;
    inputs(config) + (output + 3 * config.hidden * config.ffn) as f64
}

/// One of attention's products over all heads and positions that causality leaves.
fn attention(config: &Config, blocks: usize, tokens: usize) -> f64 {
    (blocks * config.heads * config.head_dim * tokens * (tokens + 1)) as f64
}

/// The top `layers`, the slow learner's pass over `replay` and lm_head, forward and back.
fn step(config: &Config, layers: usize, [fresh, replay]: [usize; 2], tokens: usize) -> f64 {
    let depth = layers as f64;
    let rows = ((fresh + replay) * tokens) as f64;
    let slow_rows = (replay * tokens) as f64;
    let labels = ((fresh + replay) * (tokens - 1)) as f64;
    let fans = TARGETS.map(|target| target.fans(config));
    let factors =
        (RANK * fans.iter().map(|(fan_in, fan_out)| fan_in + fan_out).sum::<usize>()) as f64;
    let readers = (RANK * fans.iter().map(|(fan_in, _)| fan_in).sum::<usize>()) as f64;

    let fast = depth * forward(config, fresh + replay, tokens);
    let slow = depth * forward(config, replay, tokens);
    let back = depth
        * (rows * 2.0 * linear(config) + 4.0 * attention(config, fresh + replay, tokens))
        - rows * 2.0 * inputs(config);
    // Forward once; back twice, to the factors and to what they read.
    let adapter = depth * 2.0 * factors * (3.0 * rows + slow_rows) - rows * 2.0 * readers;
    let above = 2.0 * 2.0 * labels * (config.hidden * config.vocab) as f64;
    fast + slow + back + adapter + above
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    /// D 4, one query and one key head of 4, MLP 8, V 10: 64 + 96 numbers a layer, 48 in q, k, v.
    fn tiny() -> Config {
        let text = r#"{"model_type": "llama", "hidden_size": 4, "num_hidden_layers": 2,
            "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 8,
            "vocab_size": 10, "max_position_embeddings": 16}"#;
        Config::parse(text, None).unwrap()
    }

    #[test]
    fn a_frozen_layer_is_two_operations_a_weight_and_half_the_scores_twice() {
        // 6 rows; one product of attention: 2 blocks, 4 channels, 3 * 4 / 2 scores, 2 operations.
        assert_eq!(forward(&tiny(), 2, 3), 6.0 * 2.0 * 160.0 + 2.0 * 96.0);
    }

    #[test]
    fn a_step_counts_what_was_counted_by_hand() {
        // One block of 3 tokens, one layer. Factors of q and v: 8 * (4 + 4) each, half read x.
        let (forward, back) = (3 * 2 * 160 + 2 * 48, 3 * 2 * (160 - 48) + 4 * 48);
        let (adapter, above) = (3 * 2 * 128 * 3 - 3 * 2 * 64, 2 * 2 * 2 * 40);
        let hand = f64::from(forward + back + adapter + above);
        assert_eq!(step(&tiny(), 1, [1, 0], 3), hand);
    }

    #[test]
    fn replay_adds_the_slow_pass_to_twice_the_work() {
        let one = step(&tiny(), 2, [1, 0], 3);
        let slow = 2.0 * (forward(&tiny(), 1, 3) + 2.0 * 128.0 * 3.0);
        assert_eq!(step(&tiny(), 2, [1, 1], 3), 2.0 * one + slow);
    }
}

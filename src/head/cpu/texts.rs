//! One text through all layers: a prompt at once, then token by token.
//!
//! - The weights are those that trunk and head learn with; a text has its keys, its values and scratch.
//! - Invariant: it takes no more memory than [`bytes`] said before it began.

use super::Cpu;
use crate::adapter::Adapter;
use crate::base::Config;
use crate::decoder::{Context, Layer, Past, Sequences, Shape, part};
use crate::products::Pool;
use crate::trunk::Trunk;

/// Most tokens of a prompt that go through the layers together: enough that packing the weights
/// costs little beside the products, few enough for memory.
const ROWS_MAX: usize = 256;

/// What is kept of a text.
pub(in crate::head) struct Text<'a> {
    adapter: Option<&'a Adapter>,
    /// Of every layer.
    past: Vec<Past>,
    seen: usize,
    /// The residual stream after the last layer and the last token, `[D]`.
    last: Vec<f32>,
    pool: Pool,
}

impl<'a> Text<'a> {
    /// An empty one of at most `tokens_max` tokens.
    pub(in crate::head) fn new(
        config: &Config,
        adapter: Option<&'a Adapter>,
        tokens_max: usize,
    ) -> Self {
        let shape = Shape::of(config);
        let past = (0..config.layers).map(|_| Past::new(tokens_max, &shape)).collect();
        Self { adapter, past, seen: 0, last: Vec::new(), pool: Pool::default() }
    }

    /// Most bytes of a text of `tokens` tokens: keys and values, and what one pass needs.
    pub(in crate::head) fn bytes(config: &Config, tokens: usize) -> u64 {
        let Config { layers, hidden, ffn, vocab, .. } = *config;
        let shape = Shape::of(config);
        let past = 2 * layers * shape.kv() * tokens;
        let row = 3 * hidden + shape.qkv() + shape.q() + 3 * ffn;
        // A pool's buffers are up to twice as long as what was asked for.
        let scratch = 2 * tokens.min(ROWS_MAX) * row + 2 * vocab;
        (size_of::<f32>() * (past + scratch)) as u64
    }
}

impl Cpu {
    /// Goes on with tokens whose embedding is `embedded`, `[n, D]`; layers below the tap are the trunk's.
    pub(in crate::head) fn extend(&self, trunk: &Trunk, text: &mut Text<'_>, embedded: &[f32]) {
        // One way into the threads in force, instead of one for every loop.
        rayon::scope(|_| {
            for rows in embedded.chunks(ROWS_MAX * self.hidden) {
                self.pass(trunk, text, rows);
            }
        });
    }

    /// The logits `[V]` of the token after the last; not a number before the first.
    pub(in crate::head) fn next(&self, text: &Text<'_>) -> Vec<f32> {
        if text.last.is_empty() {
            return vec![f32::NAN; self.lm_head.fans().1];
        }
        rayon::scope(|_| self.above().logits(&text.last))
    }

    /// Some rows through all layers.
    fn pass(&self, trunk: &Trunk, text: &mut Text<'_>, rows: &[f32]) {
        let Text { adapter, past, seen, last, pool } = text;
        let tokens = rows.len() / self.hidden;
        let sequences = Sequences::new([tokens]);
        let mut x = pool.copy(rows);
        let own = trunk.layers().iter().map(AsRef::as_ref).chain(&self.layers);
        for (index, (weights, past)) in own.zip(past).enumerate() {
            let (modules, span) = adapter.map_or((&[][..], 0..0), |a| part(a, index));
            let factors = adapter.map_or(&[][..], |adapter| &adapter.values[span]);
            let (turns, sequences) = (trunk.turns(), &sequences);
            let shape = self.shape;
            let layer = Layer { weights, turns, pool, modules, factors, shape, sequences };
            layer.forward(&mut x, None, Context::After { first: *seen, past });
        }
        *seen += tokens;
        last.clear();
        last.extend_from_slice(&x[x.len() - self.hidden..]);
        pool.give([x]);
        pool.settle();
    }
}

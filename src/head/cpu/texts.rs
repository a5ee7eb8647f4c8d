//! Texts abreast, of one length, through all layers: a prompt at once, then token by token.
//!
//! - The weights are those that trunk and head learn with; a text has its keys and its values, and all
//!   share scratch. One pass reads the weights once for the rows of all of them.
//! - Invariant: they take no more memory than [`Texts::bytes`] said before they began.

use super::Cpu;
use crate::adapter::Adapter;
use crate::base::Config;
use crate::decoder::{Context, Layer, Past, Sequences, Shape, part};
use crate::products::Pool;
use crate::trunk::Trunk;

/// Most rows of prompts that go through the layers together: enough that packing the weights
/// costs little beside the products, few enough for memory.
const ROWS_MAX: usize = 256;

/// What texts of one adapter have seen: keys and values of every layer.
pub(in crate::head) struct Seen(Vec<Past>);

impl Seen {
    /// Bytes that are taken.
    pub(in crate::head) fn bytes(&self) -> u64 {
        self.0.iter().map(Past::bytes).sum()
    }
}

/// What is kept of some texts.
pub(in crate::head) struct Texts<'a> {
    adapter: Option<&'a Adapter>,
    count: usize,
    /// Of every layer.
    past: Vec<Past>,
    seen: usize,
    /// The residual stream after the last layer and the last token, `[texts, D]`.
    last: Vec<f32>,
    pool: Pool,
}

impl<'a> Texts<'a> {
    /// `count` empty ones of at most `tokens_max` tokens each.
    pub(in crate::head) fn new(
        config: &Config,
        adapter: Option<&'a Adapter>,
        (count, tokens_max): (usize, usize),
    ) -> Self {
        let shape = Shape::of(config);
        let past = (0..config.layers).map(|_| Past::new(count, tokens_max, &shape)).collect();
        Self { adapter, count, past, seen: 0, last: Vec::new(), pool: Pool::default() }
    }

    /// One that goes on after the first `tokens` tokens of another's.
    pub(in crate::head) fn after(
        config: &Config,
        adapter: Option<&'a Adapter>,
        (seen, tokens): (&Seen, usize),
        tokens_max: usize,
    ) -> Self {
        let shape = Shape::of(config);
        let past = seen.0.iter().map(|past| past.beginning(tokens, tokens_max, &shape)).collect();
        Self { adapter, count: 1, past, seen: tokens, last: Vec::new(), pool: Pool::default() }
    }

    /// What was seen, in no more memory than it needs.
    pub(in crate::head) fn seen(&self, config: &Config) -> Seen {
        let (shape, seen) = (Shape::of(config), self.seen);
        Seen(self.past.iter().map(|past| past.beginning(seen, seen, &shape)).collect())
    }

    /// Lets go of all but those that stay, of `stays` `[texts]`.
    pub(in crate::head) fn retain(&mut self, stays: &[bool]) {
        self.past.iter_mut().for_each(|past| past.retain(stays));
        let last = self.last.chunks_exact((self.last.len() / self.count).max(1)).zip(stays);
        self.last = last.filter(|(_, stays)| **stays).flat_map(|(last, _)| last).copied().collect();
        self.count = stays.iter().filter(|&&stays| stays).count();
    }

    /// Most bytes of `texts` texts of `tokens` tokens: keys and values, and what one pass needs.
    pub(in crate::head) fn bytes(config: &Config, texts: usize, tokens: usize) -> u64 {
        let Config { layers, hidden, ffn, vocab, .. } = *config;
        let shape = Shape::of(config);
        let past = 2 * layers * shape.kv() * texts * tokens;
        let row = 3 * hidden + shape.qkv() + shape.q() + 3 * ffn;
        // A pool's buffers are up to twice as long as what was asked for.
        let scratch = 2 * (texts * tokens).min(ROWS_MAX.max(texts)) * row + 2 * texts * vocab;
        (size_of::<f32>() * (past + scratch)) as u64
    }
}

impl Cpu {
    /// Goes on with tokens whose embedding is `embedded`, `[texts, n, D]`; layers below the tap are the
    /// trunk's. `drawn`: whether they are the last ones drawn, one of each text.
    pub(in crate::head) fn extend(
        &self,
        trunk: &Trunk,
        texts: &mut Texts<'_>,
        (embedded, drawn): (&[f32], bool),
    ) {
        let d = self.hidden;
        let own = embedded.len() / texts.count;
        let some = d * (ROWS_MAX / texts.count).max(1);
        // One way into the threads in force, instead of one for every loop.
        rayon::scope(|_| {
            for first in (0..own).step_by(some) {
                let some = some.min(own - first);
                let mut rows = texts.pool.take(texts.count * some);
                let places = rows.chunks_exact_mut(some).zip(embedded.chunks_exact(own));
                places.for_each(|(rows, own)| rows.copy_from_slice(&own[first..][..some]));
                self.pass(trunk, texts, (rows, drawn));
            }
        });
    }

    /// The logits `[texts, V]` of the token after the last; not a number before the first.
    pub(in crate::head) fn next(&self, texts: &Texts<'_>) -> Vec<f32> {
        if texts.last.is_empty() {
            return vec![f32::NAN; texts.count * self.lm_head.fans().1];
        }
        rayon::scope(|_| self.above().logits(&texts.last))
    }

    /// Some rows `[texts, n, D]` through all layers.
    fn pass(&self, trunk: &Trunk, texts: &mut Texts<'_>, (mut x, drawn): (Vec<f32>, bool)) {
        let Texts { adapter, count, past, seen, last, pool } = texts;
        let (count, d) = (*count, self.hidden);
        let tokens = x.len() / d / count;
        let sequences = Sequences::new((0..count).map(|_| tokens));
        let own = trunk.layers().iter().map(AsRef::as_ref).chain(&self.layers);
        for (index, (weights, past)) in own.zip(past).enumerate() {
            let (modules, span) = adapter.map_or((&[][..], 0..0), |a| part(a, index));
            let factors = adapter.map_or(&[][..], |adapter| &adapter.values[span]);
            let (turns, sequences) = (trunk.turns(), &sequences);
            let shape = self.shape;
            let layer = Layer { weights, turns, pool, modules, factors, shape, sequences };
            layer.forward(&mut x, None, Context::After { first: *seen, past, drawn });
        }
        *seen += tokens;
        last.clear();
        x.chunks_exact(tokens * d).for_each(|own| last.extend_from_slice(&own[own.len() - d..]));
        pool.give([x]);
        pool.settle();
    }
}

//! Keys and values of the tokens that texts abreast have seen in one layer, and attention against them.
//!
//! - In: rotated queries and keys, and values, of the tokens that follow, as many of every text, text
//!   after text. Out: the attention's output.
//! - Memory is taken once, for as many tokens as a text may have; the system gives it page by page
//!   as it is written. What a text has goes with the text.
//! - Invariant: a number of the output is summed in one order at any number of threads and of texts.
//!
//! Source: GQA arXiv 2305.13245; the heads that share a key are one matrix.

use super::attention::{Shape, softmax_causal};
use crate::products::gemm::{Into, Threads, View, matmul};
use crate::products::wide;
use rayon::prelude::*;

/// Tokens whose queries are compared with the keys at a time.
const TILE: usize = 32;
/// Numbers of keys below which threads cost one token more than they save.
const ALONE_MAX: usize = 1 << 15;

/// Keys and values of one layer, text by text.
pub(crate) struct Past(Vec<One>);

/// Those of one text, `[kv_heads, tokens_max, head_dim]` each.
struct One {
    keys: Vec<f32>,
    values: Vec<f32>,
    tokens_max: usize,
}

impl Past {
    /// Room for `tokens_max` tokens of each of `texts` texts.
    pub(crate) fn new(texts: usize, tokens_max: usize, shape: &Shape) -> Self {
        let len = tokens_max * shape.kv();
        let one = |_| One { keys: vec![0.0; len], values: vec![0.0; len], tokens_max };
        Self((0..texts).map(one).collect())
    }

    /// Lets go of all texts but those that stay, of `stays` `[texts]`.
    pub(crate) fn retain(&mut self, stays: &[bool]) {
        let mut stays = stays.iter();
        self.0.retain(|_| stays.next().is_some_and(|&stays| stays));
    }

    /// The first `tokens` tokens of every text, with room for `tokens_max`.
    pub(crate) fn beginning(&self, tokens: usize, tokens_max: usize, shape: &Shape) -> Self {
        Self(self.0.iter().map(|text| text.beginning(tokens, tokens_max, shape)).collect())
    }

    /// Bytes that are taken.
    pub(crate) fn bytes(&self) -> u64 {
        let numbers: usize = self.0.iter().map(|text| text.keys.len() + text.values.len()).sum();
        (numbers * size_of::<f32>()) as u64
    }

    /// Keeps keys and values of rows `[texts, n, qkv]`, those of token `first` and the next.
    pub(crate) fn keep(&mut self, shape: &Shape, first: usize, qkv: &[f32]) {
        let own = qkv.len() / self.0.len().max(1);
        let texts = self.0.iter_mut().zip(qkv.chunks_exact(own.max(1)));
        texts.for_each(|(text, qkv)| text.keep(shape, first, qkv));
    }

    /// Attention of the queries in rows `[texts, n, qkv]`, whose keys are kept already, into
    /// `[texts, n, q]`.
    pub(crate) fn attend(&self, shape: &Shape, first: usize, qkv: &[f32], out: &mut [f32]) {
        let (width, q, stride) = (shape.head_dim, shape.q(), shape.qkv());
        let tokens = qkv.len() / stride / self.0.len().max(1);
        if tokens > 1 {
            let texts = out.par_chunks_mut(tokens * q).zip(qkv.par_chunks(tokens * stride));
            texts.zip(&self.0).for_each(|((out, qkv), text)| {
                let tiles = out.par_chunks_mut(TILE * q).zip(qkv.par_chunks(TILE * stride));
                tiles.enumerate().for_each(|(tile, (out, qkv))| {
                    let rows = qkv.len() / stride;
                    for head in 0..shape.heads {
                        let queries = View::new(&qkv[head * width..], rows, width, stride);
                        let key_head = head / shape.group();
                        let out = (&mut out[head * width..], q);
                        text.mix(
                            shape,
                            key_head,
                            queries,
                            |row| first + tile * TILE + row + 1,
                            out,
                        );
                    }
                });
            });
            return;
        }
        // The query heads of a key head lie side by side, and a row is those of all key heads.
        let group = shape.group() * width;
        let one = |place: usize, out: &mut [f32]| {
            let (text, head) = (place / shape.kv_heads, place % shape.kv_heads);
            let row = &qkv[text * stride + head * group..];
            let queries = View::dense(row, shape.group(), width);
            self.0[text].mix(shape, head, queries, |_| first + 1, (out, width));
        };
        if self.0.len() * (first + 1) * shape.kv() <= ALONE_MAX {
            out.chunks_mut(group).enumerate().for_each(|(place, out)| one(place, out));
        } else {
            out.par_chunks_mut(group).enumerate().for_each(|(place, out)| one(place, out));
        }
    }
}

impl One {
    fn beginning(&self, tokens: usize, tokens_max: usize, shape: &Shape) -> Self {
        let tokens = tokens.min(self.tokens_max).min(tokens_max);
        let copy = |from: &[f32]| {
            let mut to = vec![0.0; tokens_max * shape.kv()];
            for head in 0..shape.kv_heads {
                let [from_head, to_head] =
                    [self.tokens_max, tokens_max].map(|max| head * max * shape.head_dim);
                let len = tokens * shape.head_dim;
                to[to_head..][..len].copy_from_slice(&from[from_head..][..len]);
            }
            to
        };
        Self { keys: copy(&self.keys), values: copy(&self.values), tokens_max }
    }

    fn keep(&mut self, shape: &Shape, first: usize, qkv: &[f32]) {
        let (width, q, kv) = (shape.head_dim, shape.q(), shape.kv());
        for (t, row) in (first..self.tokens_max).zip(qkv.chunks_exact(shape.qkv())) {
            for head in 0..shape.kv_heads {
                let (from, to) = (head * width, (head * self.tokens_max + t) * width);
                self.keys[to..][..width].copy_from_slice(&row[q + from..][..width]);
                self.values[to..][..width].copy_from_slice(&row[q + kv + from..][..width]);
            }
        }
    }

    /// The mixture of values that rows of queries see; `seen` tells how many tokens a row sees, the
    /// last one the most.
    fn mix(
        &self,
        shape: &Shape,
        key_head: usize,
        queries: View<'_>,
        seen: impl Fn(usize) -> usize,
        (out, stride): (&mut [f32], usize),
    ) {
        let (rows, width) = queries.dims();
        let most = seen(rows - 1);
        let from = key_head * self.tokens_max * width;
        let keys = View::dense(&self.keys[from..], most, width).transposed();
        let values = View::dense(&self.values[from..], most, width);
        let mut scores = vec![0f32; rows * most];
        matmul(&mut scores, most, queries, keys, shape.scale(), Into::Replace, Threads::One);
        wide(
            #[inline(always)]
            || {
                for (row, scores) in scores.chunks_exact_mut(most).enumerate() {
                    softmax_causal(scores, seen(row));
                }
            },
        );
        let probabilities = View::dense(&scores, rows, most);
        matmul(out, stride, probabilities, values, 1.0, Into::Replace, Threads::One);
    }
}

//! Keys and values of the tokens that a text has seen in one layer, and attention against them.
//!
//! - In: rotated queries and keys, and values, of the tokens that follow. Out: the attention's output.
//! - Memory is taken once, for as many tokens as the text may have; the system gives it page by page
//!   as it is written.
//! - Invariant: a number of the output is summed in one order at any number of threads.
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

/// Keys and values of one layer, `[kv_heads, tokens_max, head_dim]` each.
pub(crate) struct Past {
    keys: Vec<f32>,
    values: Vec<f32>,
    tokens_max: usize,
}

impl Past {
    /// Room for `tokens_max` tokens.
    pub(crate) fn new(tokens_max: usize, shape: &Shape) -> Self {
        let len = tokens_max * shape.kv();
        Self { keys: vec![0.0; len], values: vec![0.0; len], tokens_max }
    }

    /// Keeps keys and values of rows `[N, qkv]`, those of token `first` and the next.
    pub(crate) fn keep(&mut self, shape: &Shape, first: usize, qkv: &[f32]) {
        let (width, q, kv) = (shape.head_dim, shape.q(), shape.kv());
        for (t, row) in (first..self.tokens_max).zip(qkv.chunks_exact(shape.qkv())) {
            for head in 0..shape.kv_heads {
                let (from, to) = (head * width, (head * self.tokens_max + t) * width);
                self.keys[to..][..width].copy_from_slice(&row[q + from..][..width]);
                self.values[to..][..width].copy_from_slice(&row[q + kv + from..][..width]);
            }
        }
    }

    /// Attention of the queries in rows `[N, qkv]`, whose keys are kept already, into `[N, q]`.
    pub(crate) fn attend(&self, shape: &Shape, first: usize, qkv: &[f32], out: &mut [f32]) {
        let (width, q, stride) = (shape.head_dim, shape.q(), shape.qkv());
        if qkv.len() > stride {
            let tiles = out.par_chunks_mut(TILE * q).zip(qkv.par_chunks(TILE * stride));
            tiles.enumerate().for_each(|(tile, (out, qkv))| {
                let rows = qkv.len() / stride;
                for head in 0..shape.heads {
                    let queries = View::new(&qkv[head * width..], rows, width, stride);
                    let key_head = head / shape.group();
                    let out = (&mut out[head * width..], q);
                    self.mix(shape, key_head, queries, |row| first + tile * TILE + row + 1, out);
                }
            });
            return;
        }
        let group = shape.group() * width;
        let one = |head: usize, out: &mut [f32]| {
            let queries = View::dense(&qkv[head * group..], shape.group(), width);
            self.mix(shape, head, queries, |_| first + 1, (out, width));
        };
        if (first + 1) * shape.kv() <= ALONE_MAX {
            out.chunks_mut(group).enumerate().for_each(|(head, out)| one(head, out));
        } else {
            out.par_chunks_mut(group).enumerate().for_each(|(head, out)| one(head, out));
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

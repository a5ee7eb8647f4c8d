//! RoPE and causal attention with grouped key heads on the CPU, forward and backward.
//!
//! - In: queries, keys and values side by side, `[N, qkv]`, N = B * T rows. Sequences run in parallel.
//! - Never more than `TILE` rows of scores a thread.
//! - Never here: candle, allocation of what outlives a call.
//!
//! Sources: RoPE arXiv 2104.09864; GQA arXiv 2305.13245; the backward pass from the saved
//! log-sum-exp is FlashAttention's, arXiv 2205.14135.

use super::kernels::{dot, exp, maximum, sum};
use crate::products::gemm::{Into, Threads, View, matmul};
use crate::products::{rows_per_task, wide};
use rayon::prelude::*;

/// Rows of queries whose scores are alive at a time.
const TILE: usize = 64;

/// The sizes of one attention call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Sequences B.
    pub(crate) batch: usize,
    /// Tokens of each, T.
    pub(crate) tokens: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads.
    pub(crate) kv_heads: usize,
    /// Width of a head.
    pub(crate) head_dim: usize,
}

impl Shape {
    /// Width of a row of queries, keys and values side by side.
    pub(crate) fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of a row of queries, and of the attention's output.
    pub(crate) fn q(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of a row of keys, and of values.
    pub(crate) fn kv(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads that share a key head.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// What scores are multiplied with.
    pub(crate) fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Which way RoPE turns: the backward pass turns back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// As the model does.
    Forward,
    /// The inverse, for gradients.
    Back,
}

/// Rotates the queries and keys of `qkv` `[N, qkv]` in place; `cos`, `sin` are `[>= T, head_dim / 2]`.
pub(crate) fn rope(qkv: &mut [f32], shape: &Shape, cos: &[f32], sin: &[f32], turn: Turn) {
    let (stride, width, half) = (shape.qkv(), shape.head_dim, shape.head_dim / 2);
    let rotated = (shape.heads + shape.kv_heads) * width;
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    let rows = rows_per_task(qkv.len() / stride);
    qkv.par_chunks_mut(rows * stride).enumerate().for_each(|(task, numbers)| {
        wide(
            #[inline(always)]
            || {
                for (row, numbers) in numbers.chunks_exact_mut(stride).enumerate() {
                    let at = (task * rows + row) % shape.tokens * half;
                    let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
                    for head in numbers[..rotated].chunks_exact_mut(width) {
                        let (low, high) = head.split_at_mut(half);
                        for i in 0..half {
                            let (a, b, s) = (low[i], high[i], sin[i] * sign);
                            low[i] = a * cos[i] - b * s;
                            high[i] = b * cos[i] + a * s;
                        }
                    }
                }
            },
        );
    });
}

/// Causal attention of rotated `qkv` `[N, qkv]` into `out` `[N, q]`; `lse` `[B, heads, T]` keeps
/// each row's log-sum-exp for the backward pass.
pub(crate) fn attention(shape: &Shape, qkv: &[f32], out: &mut [f32], lse: &mut [f32]) {
    let (t, stride, q_width, width) = (shape.tokens, shape.qkv(), shape.q(), shape.head_dim);
    out.par_chunks_exact_mut(t * q_width)
        .zip(lse.par_chunks_exact_mut(shape.heads * t))
        .zip(qkv.par_chunks_exact(t * stride))
        .for_each(|((out, lse), qkv)| {
            let mut scores = vec![0f32; TILE.min(t) * t];
            for (head, lse) in lse.chunks_exact_mut(t).enumerate() {
                let k = (shape.heads + head / shape.group()) * width;
                let v = k + shape.kv();
                for start in (0..t).step_by(TILE) {
                    let (rows, seen) = (TILE.min(t - start), (start + TILE).min(t));
                    let q = View::new(&qkv[start * stride + head * width..], rows, width, stride);
                    let keys = View::new(&qkv[k..], seen, width, stride).transposed();
                    matmul(&mut scores, seen, q, keys, shape.scale(), Into::Replace, Threads::One);
                    let tile = scores.chunks_exact_mut(seen).zip(&mut lse[start..start + rows]);
                    wide(
                        #[inline(always)]
                        || {
                            for (row, (scores, lse)) in tile.enumerate() {
                                *lse = softmax_causal(scores, start + row + 1);
                            }
                        },
                    );
                    let values = View::new(&qkv[v..], seen, width, stride);
                    let probabilities = View::dense(&scores, rows, seen);
                    let out = &mut out[start * q_width + head * width..];
                    matmul(out, q_width, probabilities, values, 1.0, Into::Replace, Threads::One);
                }
            }
        });
}

/// Turns the first `seen` scores into probabilities and the rest into zero; gives the log-sum-exp.
#[inline(always)]
pub(crate) fn softmax_causal(scores: &mut [f32], seen: usize) -> f32 {
    let (past, future) = scores.split_at_mut(seen);
    let highest = maximum(past);
    for score in &mut *past {
        *score = exp(*score - highest);
    }
    let total = sum(past);
    let share = 1.0 / total;
    for score in past {
        *score *= share;
    }
    future.fill(0.0);
    highest + total.ln()
}

/// Scores become probabilities; the slopes of these, slopes of the scores.
///
/// Two loops: in one, the compiler does not know that the slices do not overlap.
#[inline(always)]
fn softmax_backward_row(scores: &mut [f32], slopes: &mut [f32], lse: f32, along: f32, scale: f32) {
    for score in &mut *scores {
        *score = exp(*score - lse);
    }
    for (slope, score) in slopes.iter_mut().zip(scores) {
        *slope = *score * (*slope - along) * scale;
    }
}

/// The gradient `dqkv` of rotated `qkv`, from `dout` of the attention's output `out`.
pub(crate) fn attention_backward(
    shape: &Shape,
    qkv: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    dqkv: &mut [f32],
) {
    let (t, stride, q_width) = (shape.tokens, shape.qkv(), shape.q());
    dqkv.par_chunks_exact_mut(t * stride)
        .zip(qkv.par_chunks_exact(t * stride))
        .zip(out.par_chunks_exact(t * q_width).zip(dout.par_chunks_exact(t * q_width)))
        .zip(lse.par_chunks_exact(shape.heads * t))
        .for_each(|(((dqkv, qkv), (out, dout)), lse)| {
            dqkv.fill(0.0);
            let mut tile = vec![0f32; TILE.min(t) * t];
            let mut slopes = vec![0f32; TILE.min(t) * t];
            for head in 0..shape.heads {
                for start in (0..t).step_by(TILE) {
                    let sequence = Sequence { shape, qkv, out, dout, lse };
                    sequence.backward(head, start, &mut tile, &mut slopes, dqkv);
                }
            }
        });
}

/// What the backward pass of one sequence reads.
struct Sequence<'a> {
    shape: &'a Shape,
    qkv: &'a [f32],
    out: &'a [f32],
    dout: &'a [f32],
    lse: &'a [f32],
}

impl Sequence<'_> {
    /// Adds the gradients that flow through the scores of one head's tile of queries.
    fn backward(
        &self,
        head: usize,
        start: usize,
        tile: &mut [f32],
        slopes: &mut [f32],
        dqkv: &mut [f32],
    ) {
        let (t, stride, q_width) = (self.shape.tokens, self.shape.qkv(), self.shape.q());
        let (width, scale) = (self.shape.head_dim, self.shape.scale());
        let k = (self.shape.heads + head / self.shape.group()) * width;
        let v = k + self.shape.kv();
        let (rows, seen) = (TILE.min(t - start), (start + TILE).min(t));
        let q = start * stride + head * width;
        let o = start * q_width + head * width;
        let queries = View::new(&self.qkv[q..], rows, width, stride);
        let keys = View::new(&self.qkv[k..], seen, width, stride);
        let values = View::new(&self.qkv[v..], seen, width, stride);
        let douts = View::new(&self.dout[o..], rows, width, q_width);
        let one = Threads::One;
        matmul(tile, seen, queries, keys.transposed(), scale, Into::Replace, one);
        matmul(slopes, seen, douts, values.transposed(), 1.0, Into::Replace, one);
        wide(
            #[inline(always)]
            || {
                for row in 0..rows {
                    let at = o + row * q_width;
                    let along = dot(&self.out[at..at + width], &self.dout[at..at + width]);
                    let lse = self.lse[head * t + start + row];
                    let (row, past) = (row * seen..(row + 1) * seen, start + row + 1);
                    let (scores, future) = tile[row.clone()].split_at_mut(past);
                    let (slopes, unseen) = slopes[row].split_at_mut(past);
                    softmax_backward_row(scores, slopes, lse, along, scale);
                    future.fill(0.0);
                    unseen.fill(0.0);
                }
            },
        );
        let probabilities = View::dense(tile, rows, seen);
        let slopes = View::dense(slopes, rows, seen);
        matmul(&mut dqkv[v..], stride, probabilities.transposed(), douts, 1.0, Into::Add, one);
        matmul(&mut dqkv[q..], stride, slopes, keys, 1.0, Into::Replace, one);
        matmul(&mut dqkv[k..], stride, slopes.transposed(), queries, 1.0, Into::Add, one);
    }
}

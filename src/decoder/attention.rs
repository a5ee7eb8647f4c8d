//! RoPE and causal attention with grouped key heads, forward and backward.
//!
//! - In: queries, keys and values side by side, `[N, qkv]`, the N rows of some sequences one after the
//!   other. Sequences run in parallel, and none sees another.
//! - Never more than `TILE` rows of scores a thread.
//! - Never here: padding, masks, allocation of what outlives a call.

use super::Turns;
use super::kernels::{dot, exp, maximum, sum};
use crate::base::Config;
use crate::products::gemm::{Into, Threads, View, matmul};
use crate::products::wide;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of queries whose scores are alive at a time.
const TILE: usize = 64;

/// The sizes of a base's attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads.
    pub(crate) kv_heads: usize,
    /// Width of a head.
    pub(crate) head_dim: usize,
}

impl Shape {
    /// That of a base.
    pub(crate) fn of(config: &Config) -> Self {
        let Config { heads, kv_heads, head_dim, .. } = *config;
        Self { heads, kv_heads, head_dim }
    }

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

/// Sequences of any lengths, whose rows lie one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sequences {
    /// One past the last row of each.
    ends: Vec<usize>,
}

impl Sequences {
    /// Sequences of so many tokens each.
    pub(crate) fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut end = 0;
        let ends = lengths.into_iter().map(|length| {
            end += length;
            end
        });
        Self { ends: ends.collect() }
    }

    /// All rows N.
    pub(crate) fn rows(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The rows of each.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| start..end)
    }

    /// Numbers `[N, width]`, each sequence's own.
    fn split<'a>(&self, numbers: &'a [f32], width: usize) -> Vec<&'a [f32]> {
        self.iter().map(|rows| &numbers[rows.start * width..rows.end * width]).collect()
    }

    /// The same to be written.
    fn split_mut<'a>(&self, mut numbers: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let mut all = Vec::with_capacity(self.ends.len());
        for rows in self.iter() {
            let (own, rest) = numbers.split_at_mut(rows.len() * width);
            numbers = rest;
            all.push(own);
        }
        all
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

/// Rotates the queries and keys of `qkv` `[N, qkv]` in place, whose sequences begin at position `first`.
pub(crate) fn rope(
    qkv: &mut [f32],
    (shape, sequences): (&Shape, &Sequences),
    (turns, first): (&Turns, usize),
    turn: Turn,
) {
    let (stride, width, half) = (shape.qkv(), shape.head_dim, shape.head_dim / 2);
    let rotated = (shape.heads + shape.kv_heads) * width;
    let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
    let (cos, sin) = turns.from(first);
    sequences.split_mut(qkv, stride).into_par_iter().for_each(|rows| {
        wide(
            #[inline(always)]
            || {
                for (t, numbers) in rows.chunks_exact_mut(stride).enumerate() {
                    let (cos, sin) = (&cos[t * half..][..half], &sin[t * half..][..half]);
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

/// Causal attention of rotated `qkv` `[N, qkv]` into `out` `[N, q]`; `lse` `[N, heads]`, those of a
/// sequence `[heads, T]`, keeps each row's log-sum-exp for the backward pass.
pub(crate) fn attention(
    (shape, sequences): (&Shape, &Sequences),
    qkv: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (stride, q_width, width) = (shape.qkv(), shape.q(), shape.head_dim);
    let places = sequences.split_mut(out, q_width).into_par_iter();
    let places = places.zip(sequences.split_mut(lse, shape.heads));
    places.zip(sequences.split(qkv, stride)).for_each(|((out, lse), qkv)| {
        let t = qkv.len() / stride;
        let mut scores = vec![0f32; TILE.min(t) * t];
        for (head, lse) in lse.chunks_exact_mut(t.max(1)).enumerate() {
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

/// The gradient `dqkv` of rotated `qkv`, from `dout` of the attention's output `out`; that of the keys
/// stays zero where nobody `wants_keys`.
pub(crate) fn attention_backward(
    (shape, sequences): (&Shape, &Sequences),
    (qkv, out, lse): (&[f32], &[f32], &[f32]),
    dout: &[f32],
    dqkv: &mut [f32],
    wants_keys: bool,
) {
    let (stride, q_width) = (shape.qkv(), shape.q());
    let places = sequences.split_mut(dqkv, stride).into_par_iter();
    let read = sequences.split(out, q_width).into_par_iter().zip(sequences.split(dout, q_width));
    let read = read.zip(sequences.split(qkv, stride)).zip(sequences.split(lse, shape.heads));
    places.zip(read).for_each(|(dqkv, (((out, dout), qkv), lse))| {
        dqkv.fill(0.0);
        let t = qkv.len() / stride;
        let mut tile = vec![0f32; TILE.min(t) * t];
        let mut slopes = vec![0f32; TILE.min(t) * t];
        let sequence = Sequence { shape, qkv, out, dout, lse, wants_keys };
        for head in 0..shape.heads {
            for start in (0..t).step_by(TILE) {
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
    wants_keys: bool,
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
        let (stride, q_width) = (self.shape.qkv(), self.shape.q());
        let t = self.qkv.len() / stride;
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
        if self.wants_keys {
            matmul(&mut dqkv[k..], stride, slopes.transposed(), queries, 1.0, Into::Add, one);
        }
    }
}

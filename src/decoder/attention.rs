//! RoPE and causal attention with grouped key heads, forward and backward.
//!
//! - In: queries, keys and values side by side, `[N, qkv]`, the N rows of some sequences one after the
//!   other. Sequences run in parallel, forward their tiles too, and none sees another.
//! - The heads that share a key are one matrix (GQA arXiv 2305.13245), some tokens at a time: a thread has
//!   the scores of one such tile.
//! - Never here: padding, masks, allocation of what outlives a call.

use super::Turns;
use super::kernels::{dot, exp, maximum, sum};
use crate::base::Config;
use crate::products::gemm::{Into, View};
use crate::products::{near, wide};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a tile, about: two panels of the kernels, and enough that packing keys and values costs
/// little beside the products.
const ROWS: usize = 96;
/// Tokens of a tile: the fewer, the less is computed of what no row may see.
const TOKENS: Range<usize> = 16..64;

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

    /// Tokens of a tile.
    fn tokens(&self) -> usize {
        (ROWS / self.group()).clamp(TOKENS.start, TOKENS.end)
    }

    /// The tiles of some tokens, one for each key head.
    fn tiles(&self, tokens: Range<usize>) -> impl Iterator<Item = Tile> {
        (0..self.kv_heads).map(move |key_head| Tile { key_head, tokens: tokens.clone() })
    }

    /// Where a tile's keys and values stand in a row of `qkv`.
    fn places(&self, tile: &Tile) -> (usize, usize) {
        let k = self.q() + tile.key_head * self.head_dim;
        (k, k + self.kv())
    }

    /// The keys and values that a tile sees.
    fn pair<'a>(&self, tile: &Tile, qkv: &'a [f32]) -> [View<'a>; 2] {
        let (k, v) = self.places(tile);
        [k, v].map(|from| View::new(&qkv[from..], tile.seen(), self.head_dim, self.qkv()))
    }
}

/// Some tokens' queries that share a key head: a matrix whose rows are token by token the heads.
struct Tile {
    key_head: usize,
    tokens: Range<usize>,
}

impl Tile {
    fn rows(&self, shape: &Shape) -> usize {
        self.tokens.len() * shape.group()
    }

    /// Tokens that its last row sees.
    fn seen(&self) -> usize {
        self.tokens.end
    }

    /// The token of a row, counted from the tile's first, and the head.
    #[inline(always)]
    fn of(&self, shape: &Shape, row: usize) -> (usize, usize) {
        let group = shape.group();
        (row / group, self.key_head * group + row % group)
    }

    /// Where its part of each of its tokens' rows stands, counted from the first of these.
    fn spans(&self, shape: &Shape, stride: usize) -> impl Iterator<Item = Range<usize>> {
        let width = shape.group() * shape.head_dim;
        let first = self.key_head * width;
        (0..self.tokens.len()).map(move |token| {
            let from = token * stride + first;
            from..from + width
        })
    }

    /// Its rows of numbers that begin with its first token's, times `scale`.
    fn gather(&self, shape: &Shape, (from, stride): (&[f32], usize), scale: f32, rows: &mut [f32]) {
        let to = rows.chunks_exact_mut(shape.group() * shape.head_dim);
        for (span, rows) in self.spans(shape, stride).zip(to) {
            rows.iter_mut().zip(&from[span]).for_each(|(row, number)| *row = number * scale);
        }
    }

    /// Its rows to where they belong, times `scale`.
    fn scatter(&self, shape: &Shape, rows: &[f32], scale: f32, (to, stride): (&mut [f32], usize)) {
        let from = rows.chunks_exact(shape.group() * shape.head_dim);
        for (span, rows) in self.spans(shape, stride).zip(from) {
            to[span].iter_mut().zip(rows).for_each(|(number, row)| *number = row * scale);
        }
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

/// Causal attention of rotated `qkv` `[N, qkv]` into `out` `[N, q]`; `lse` `[N, heads]` keeps each row's
/// log-sum-exp for the backward pass.
pub(crate) fn attention(
    (shape, sequences): (&Shape, &Sequences),
    qkv: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (stride, q, heads, step) = (shape.qkv(), shape.q(), shape.heads, shape.tokens());
    let places = sequences.split_mut(out, q).into_iter().zip(sequences.split_mut(lse, heads));
    let tasks = places.zip(sequences.split(qkv, stride)).flat_map(|((out, lse), qkv)| {
        let tiles = out.chunks_mut(step * q).zip(lse.chunks_mut(step * heads));
        tiles.enumerate().map(move |(index, places)| (index * step, qkv, places))
    });
    let tasks: Vec<_> = tasks.collect();
    let scratch = || [const { Vec::new() }; 3];
    tasks.into_par_iter().for_each_init(scratch, |scratch, (start, qkv, (out, lse))| {
        let tokens = start..start + out.len() / q;
        let (width, rows, seen) = (shape.head_dim, tokens.len() * shape.group(), tokens.end);
        let [scores, queries, mixed] = scratch;
        let scores = at_least(scores, rows * seen);
        let [queries, mixed] = [queries, mixed].map(|own| at_least(own, rows * width));
        for tile in shape.tiles(tokens) {
            tile.gather(shape, (&qkv[start * stride..], stride), shape.scale(), queries);
            let [keys, values] = shape.pair(&tile, qkv);
            let queries = View::dense(queries, rows, width);
            near(scores, seen, queries, keys.transposed(), Into::Replace);
            wide(
                #[inline(always)]
                || {
                    for (row, scores) in scores.chunks_exact_mut(seen).enumerate() {
                        let (token, head) = tile.of(shape, row);
                        lse[token * heads + head] = softmax_causal(scores, start + token + 1);
                    }
                },
            );
            near(mixed, width, View::dense(scores, rows, seen), values, Into::Replace);
            tile.scatter(shape, mixed, 1.0, (out, q));
        }
    });
}

/// So many numbers of any value.
fn at_least(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    scratch.resize(scratch.len().max(len), 0.0);
    &mut scratch[..len]
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
fn softmax_backward_row(scores: &mut [f32], slopes: &mut [f32], lse: f32, along: f32) {
    for score in &mut *scores {
        *score = exp(*score - lse);
    }
    for (slope, score) in slopes.iter_mut().zip(scores) {
        *slope = *score * (*slope - along);
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
    let (stride, q) = (shape.qkv(), shape.q());
    let places = sequences.split_mut(dqkv, stride).into_par_iter();
    let read = sequences.split(out, q).into_par_iter().zip(sequences.split(dout, q));
    let read = read.zip(sequences.split(qkv, stride)).zip(sequences.split(lse, shape.heads));
    places.zip(read).for_each(|(dqkv, (((out, dout), qkv), lse))| {
        dqkv.fill(0.0);
        let t = qkv.len() / stride;
        let (step, width) = (shape.tokens().min(t), shape.head_dim);
        let most = step * shape.group();
        let [scores, slopes] = [0, 1].map(|_| vec![0f32; most * t]);
        let [queries, outs, douts] = [0, 1, 2].map(|_| vec![0f32; most * width]);
        let mut scratch = Scratch { scores, slopes, queries, outs, douts };
        let sequence = Sequence { shape, qkv, out, dout, lse, wants_keys };
        for start in (0..t).step_by(step.max(1)) {
            for tile in shape.tiles(start..t.min(start + step)) {
                sequence.backward(&tile, &mut scratch, dqkv);
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

/// What the backward pass of one tile writes on its way.
struct Scratch {
    /// Rows of the tile x tokens that it sees.
    scores: Vec<f32>,
    slopes: Vec<f32>,
    /// Rows of the tile x width of a head.
    queries: Vec<f32>,
    outs: Vec<f32>,
    douts: Vec<f32>,
}

impl Sequence<'_> {
    /// Adds the gradients that flow through the scores of one tile.
    fn backward(&self, tile: &Tile, scratch: &mut Scratch, dqkv: &mut [f32]) {
        let (shape, Scratch { scores, slopes, queries, outs, douts }) = (self.shape, scratch);
        let (stride, q, width) = (shape.qkv(), shape.q(), shape.head_dim);
        let (rows, seen, start) = (tile.rows(shape), tile.seen(), tile.tokens.start);
        let [queries, outs, douts] = [queries, outs, douts].map(|all| &mut all[..rows * width]);
        tile.gather(shape, (&self.qkv[start * stride..], stride), shape.scale(), queries);
        tile.gather(shape, (&self.out[start * q..], q), 1.0, outs);
        tile.gather(shape, (&self.dout[start * q..], q), 1.0, douts);
        let [keys, values] = shape.pair(tile, self.qkv);
        let dense = |numbers| View::dense(numbers, rows, width);
        near(scores, seen, dense(queries), keys.transposed(), Into::Replace);
        near(slopes, seen, dense(douts), values.transposed(), Into::Replace);
        wide(
            #[inline(always)]
            || {
                for row in 0..rows {
                    let (token, head) = tile.of(shape, row);
                    let token = start + token;
                    let own = row * width..(row + 1) * width;
                    let along = dot(&outs[own.clone()], &douts[own]);
                    let lse = self.lse[token * shape.heads + head];
                    let row = row * seen..(row + 1) * seen;
                    let (scores, future) = scores[row.clone()].split_at_mut(token + 1);
                    let (slopes, unseen) = slopes[row].split_at_mut(token + 1);
                    softmax_backward_row(scores, slopes, lse, along);
                    future.fill(0.0);
                    unseen.fill(0.0);
                }
            },
        );
        let [probabilities, slopes] = [scores, slopes].map(|all| View::dense(all, rows, seen));
        let (k, v) = shape.places(tile);
        near(&mut dqkv[v..], stride, probabilities.transposed(), dense(douts), Into::Add);
        if self.wants_keys {
            near(&mut dqkv[k..], stride, slopes.transposed(), dense(queries), Into::Add);
        }
        near(queries, width, slopes, keys, Into::Replace);
        tile.scatter(shape, queries, shape.scale(), (&mut dqkv[start * stride..], stride));
    }
}

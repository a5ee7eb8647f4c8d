//! The CPU kernels of the step: RMSNorm, RoPE, causal attention, SwiGLU, forward and backward.
//!
//! - Rows are tokens, row-major, f32; N = B * T rows. Every loop over rows is parallel (rayon) and
//!   runs on the widest vectors that the processor turns out to have (pulp); no build flags.
//! - Invariant: no fused multiply-add and no sum whose order depends on threads, so the loops give
//!   the same bits on every processor and at every number of threads.
//! - Attention never holds more than `TILE` rows of scores a thread.
//! - Never here: candle, allocation of what outlives a call.
//!
//! Sources: RMSNorm arXiv 1910.07467; RoPE arXiv 2104.09864; GQA arXiv 2305.13245; SwiGLU arXiv
//! 2002.05202; the attention backward from the saved log-sum-exp is FlashAttention's, 2205.14135.

use super::gemm::{Into, Threads, View, matmul};
use rayon::prelude::*;

/// Rows of queries whose scores are alive at a time.
const TILE: usize = 64;

/// Partial results a reduction keeps: four AVX2 registers hide the latency of an addition.
const LANES: usize = 32;

/// Rows a parallel task takes, so that small inputs still split.
fn rows_per_task(rows: usize) -> usize {
    rows.div_ceil(rayon::current_num_threads() * 4).max(1)
}

/// Runs loops as compiled for AVX2 where the processor has it; elsewhere as the target has it.
///
/// What `work` calls must be inlined, else it stays compiled for the target's oldest processor.
#[inline(always)]
fn wide<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = pulp::x86::V3::try_new() {
        return avx2.vectorize(work);
    }
    work()
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

#[inline(always)]
fn maximum(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    lanes.iter().fold(tail, |a, &b| a.max(b))
}

/// e^x to about 2 units in the last place on [-87, 88], clamped outside; loops of it vectorise.
///
/// Cephes' expf: split off a power of two, then a polynomial of degree 6.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons, not min and max: NaN passes both and so reaches the loss, which is checked.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let fraction = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_add(127) << 23;
    fraction * f32::from_bits(exponent & 0x7f80_0000)
}

/// `y = x / rms(x) * gain`; the factor `1 / rms` of each row goes to `inverse`.
pub(crate) fn rms_norm(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32], inverse: &mut [f32]) {
    let d = gain.len();
    let rows = rows_per_task(inverse.len());
    let tasks = y.par_chunks_mut(rows * d).zip(x.par_chunks(rows * d));
    tasks.zip(inverse.par_chunks_mut(rows)).for_each(|((y, x), inverse)| {
        wide(
            #[inline(always)]
            || {
                for ((y, x), inverse) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(inverse) {
                    *inverse = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
                    scale_row(x, *inverse, gain, y);
                }
            },
        );
    });
}

/// `y = x * inverse * gain`: the norm again, from the saved factor.
pub(crate) fn rms_norm_again(x: &[f32], gain: &[f32], inverse: &[f32], y: &mut [f32]) {
    let d = gain.len();
    let rows = rows_per_task(inverse.len());
    let tasks = y.par_chunks_mut(rows * d).zip(x.par_chunks(rows * d));
    tasks.zip(inverse.par_chunks(rows)).for_each(|((y, x), inverse)| {
        wide(
            #[inline(always)]
            || {
                for ((y, x), inverse) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(inverse) {
                    scale_row(x, *inverse, gain, y);
                }
            },
        );
    });
}

#[inline(always)]
fn scale_row(x: &[f32], inverse: f32, gain: &[f32], y: &mut [f32]) {
    for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
        *y = x * inverse * gain;
    }
}

/// `dx += ` the gradient of the norm's input, from `dy` of its output.
pub(crate) fn rms_norm_backward(
    dy: &[f32],
    x: &[f32],
    gain: &[f32],
    inverse: &[f32],
    dx: &mut [f32],
) {
    let d = gain.len();
    let rows = rows_per_task(inverse.len());
    let tasks = dx.par_chunks_mut(rows * d).zip(x.par_chunks(rows * d));
    let tasks = tasks.zip(dy.par_chunks(rows * d)).zip(inverse.par_chunks(rows));
    tasks.for_each(|(((dx, x), dy), inverse)| {
        let mut scaled = vec![0f32; d];
        wide(
            #[inline(always)]
            || {
                let rows = dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(dy.chunks_exact(d));
                for (((dx, x), dy), &s) in rows.zip(inverse) {
                    scale_row(dy, 1.0, gain, &mut scaled);
                    let along = dot(x, &scaled) * s * s * s / d as f32;
                    for ((dx, x), scaled) in dx.iter_mut().zip(x).zip(&scaled) {
                        *dx += s * scaled - along * x;
                    }
                }
            },
        );
    });
}

/// `h = silu(gate) * up`; `gate_up` is `[N, 2 F]`, `h` `[N, F]`.
pub(crate) fn swiglu(gate_up: &[f32], h: &mut [f32], f: usize) {
    let rows = rows_per_task(h.len() / f);
    let tasks = h.par_chunks_mut(rows * f).zip(gate_up.par_chunks(rows * 2 * f));
    tasks.for_each(|(h, gate_up)| {
        wide(
            #[inline(always)]
            || {
                for (h, gate_up) in h.chunks_exact_mut(f).zip(gate_up.chunks_exact(2 * f)) {
                    let (gate, up) = gate_up.split_at(f);
                    for ((h, gate), up) in h.iter_mut().zip(gate).zip(up) {
                        *h = gate / (1.0 + exp(-gate)) * up;
                    }
                }
            },
        );
    });
}

/// In place: `gate_up` becomes its own gradient, from `dh` of `h`.
pub(crate) fn swiglu_backward(gate_up: &mut [f32], dh: &[f32], f: usize) {
    let rows = rows_per_task(dh.len() / f);
    let tasks = gate_up.par_chunks_mut(rows * 2 * f).zip(dh.par_chunks(rows * f));
    tasks.for_each(|(gate_up, dh)| {
        wide(
            #[inline(always)]
            || {
                for (gate_up, dh) in gate_up.chunks_exact_mut(2 * f).zip(dh.chunks_exact(f)) {
                    let (gate, up) = gate_up.split_at_mut(f);
                    for ((gate, up), dh) in gate.iter_mut().zip(up).zip(dh) {
                        let sigmoid = 1.0 / (1.0 + exp(-*gate));
                        let silu = *gate * sigmoid;
                        *gate = dh * *up * (sigmoid + silu * (1.0 - sigmoid));
                        *up = dh * silu;
                    }
                }
            },
        );
    });
}

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

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn scale(&self) -> f32 {
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
fn softmax_causal(scores: &mut [f32], seen: usize) -> f32 {
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
                    for (score, slope) in scores.iter_mut().zip(slopes) {
                        *score = exp(*score - lse);
                        *slope = *score * (*slope - along) * scale;
                    }
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

/// Cross-entropy of rows of logits `[n, V]` against `targets` `[n]`, in nats, into `nats` `[n]`.
///
/// With `shares` `[n]`, each row of logits becomes its share of the gradient of its own nats.
pub(crate) fn cross_entropy(
    logits: &mut [f32],
    vocab: usize,
    targets: &[u32],
    shares: Option<&[f32]>,
    nats: &mut [f32],
) {
    let rows = logits.par_chunks_exact_mut(vocab).zip(targets).zip(nats).enumerate();
    rows.for_each(|(row, ((logits, &target), nats))| {
        let share = shares.map(|shares| shares[row]);
        wide(
            #[inline(always)]
            || *nats = cross_entropy_row(logits, target as usize, share),
        );
    });
}

#[inline(always)]
fn cross_entropy_row(logits: &mut [f32], target: usize, share: Option<f32>) -> f32 {
    let highest = maximum(logits);
    let chosen = logits[target];
    for logit in &mut *logits {
        *logit = exp(*logit - highest);
    }
    let total = sum(logits);
    if let Some(share) = share {
        let factor = share / total;
        for logit in &mut *logits {
            *logit *= factor;
        }
        logits[target] -= share;
    }
    total.ln() + highest - chosen
}
/// `slow - fast` becomes, in place of `slow` `[N, D]`, the gradient of `factor` times its squares
/// for `fast`; `squares` `[N]` gets each row's sum of squares.
///
/// Rows where `real` is false count for nothing; with `one_sided`, neither do negative distances.
pub(crate) fn squared_distance(
    slow: &mut [f32],
    fast: &[f32],
    real: &[bool],
    factor: f32,
    one_sided: bool,
    squares: &mut [f32],
) {
    let d = slow.len() / real.len().max(1);
    let floor = if one_sided { 0.0 } else { f32::NEG_INFINITY };
    let rows = slow.par_chunks_exact_mut(d.max(1)).zip(fast.par_chunks_exact(d.max(1)));
    rows.zip(real).zip(squares).for_each(|(((slow, fast), &real), squares)| {
        wide(
            #[inline(always)]
            || {
                for (slow, fast) in slow.iter_mut().zip(fast) {
                    let distance = *slow - fast;
                    *slow = if distance < floor { floor } else { distance };
                }
                *squares = if real { dot(slow, slow) } else { 0.0 };
                let slope = if real { -2.0 * factor } else { 0.0 };
                slow.iter_mut().for_each(|distance| *distance *= slope);
            },
        );
    });
}

//! The kernels of a layer's rows: RMSNorm and SwiGLU, forward and backward, and what others are made of.
//!
//! - Rows are tokens, row-major, f32; N = B * T rows. Every loop over rows is parallel (rayon) and
//!   runs on the widest vectors that the processor turns out to have (pulp); no build flags.
//! - Invariant: no fused multiply-add and no sum whose order depends on threads, so the loops give
//!   the same bits on every processor and at every number of threads.
//! - Never here: allocation of what outlives a call; attention (`attention.rs`), losses.
//!
//! Sources: RMSNorm arXiv 1910.07467; SwiGLU arXiv 2002.05202.

use crate::products::{rows_per_task, wide};
use half::bf16;
use rayon::prelude::*;

/// Partial results a reduction keeps: two AVX2 registers, and short rows leave few numbers over.
pub(crate) const LANES: usize = 16;

#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
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
pub(crate) fn sum(x: &[f32]) -> f32 {
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

/// The sum of `e^(x - highest)`.
#[inline(always)]
pub(crate) fn sum_of_exp(x: &[f32], highest: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += exp(chunk[i] - highest);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|x| exp(x - highest)).sum::<f32>()
}

#[inline(always)]
pub(crate) fn maximum(x: &[f32]) -> f32 {
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

/// Rounds to bf16, to the nearest, ties to even; what is not a number stays none.
pub(crate) fn narrow(wide_numbers: &[f32], narrow: &mut [bf16]) {
    let task = rows_per_task(narrow.len());
    narrow.par_chunks_mut(task).zip(wide_numbers.par_chunks(task)).for_each(|(narrow, numbers)| {
        wide(
            #[inline(always)]
            || {
                for (narrow, number) in narrow.iter_mut().zip(numbers) {
                    let bits = number.to_bits();
                    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
                    let quiet = bits | 0x0040_0000;
                    let bits = if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded };
                    *narrow = bf16::from_bits((bits >> 16) as u16);
                }
            },
        );
    });
}

/// bf16 as f32 again.
pub(crate) fn widen(narrow: &[bf16], wide_numbers: &mut [f32]) {
    let task = rows_per_task(narrow.len());
    wide_numbers.par_chunks_mut(task).zip(narrow.par_chunks(task)).for_each(|(numbers, narrow)| {
        wide(
            #[inline(always)]
            || {
                for (number, narrow) in numbers.iter_mut().zip(narrow) {
                    *number = f32::from_bits(u32::from(narrow.to_bits()) << 16);
                }
            },
        );
    });
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
        let (mut sigmoid, mut silu) = (vec![0f32; f], vec![0f32; f]);
        wide(
            #[inline(always)]
            || {
                for (gate_up, dh) in gate_up.chunks_exact_mut(2 * f).zip(dh.chunks_exact(f)) {
                    let (gate, up) = gate_up.split_at_mut(f);
                    swiglu_backward_row((gate, up), dh, (&mut sigmoid, &mut silu));
                }
            },
        );
    });
}

/// Four loops that write one slice each: with two, the compiler cannot rule out that they overlap
/// and vectorises nothing. `sigmoid` and `silu` are scratch, `[F]`.
#[inline(always)]
fn swiglu_backward_row(
    (gate, up): (&mut [f32], &mut [f32]),
    dh: &[f32],
    (sigmoid, silu): (&mut [f32], &mut [f32]),
) {
    for (sigmoid, gate) in sigmoid.iter_mut().zip(&*gate) {
        *sigmoid = 1.0 / (1.0 + exp(-gate));
    }
    for ((silu, gate), sigmoid) in silu.iter_mut().zip(&*gate).zip(&*sigmoid) {
        *silu = gate * sigmoid;
    }
    let slopes = sigmoid.iter().zip(&*silu).zip(dh);
    for ((gate, up), ((sigmoid, silu), dh)) in gate.iter_mut().zip(&*up).zip(slopes) {
        *gate = dh * up * (sigmoid + silu * (1.0 - sigmoid));
    }
    for ((up, dh), silu) in up.iter_mut().zip(dh).zip(&*silu) {
        *up = dh * silu;
    }
}

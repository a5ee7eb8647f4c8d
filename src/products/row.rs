//! One row times a frozen matrix, as a text needs it token by token: as fast as memory.
//!
//! - In: a row of f32, a frozen matrix of any storage. Out: a row of f32, replaced or added to.
//! - Every kept number is read once, in the order in which it lies, and widened in a register.
//!   Packing, which pays for many rows, would write the whole matrix again.
//! - Invariant: how a sum is split follows from the sizes alone, so that a number of the output is
//!   the same at any number of threads.
//! - Never here: rounding of the row; many rows (`panel`, `gemm`).

use super::frozen::Floats;
use super::gemm::Into;
use super::wide;
use half::bf16;
use rayon::prelude::*;

/// Most columns whose sums stay in the first-level cache; a matrix with no more is read from end to
/// end, of another one as many at a time.
const SUMS_MAX: usize = 4096;
/// Columns of a task where there are more.
const SPAN: usize = 2048;
/// Rows of which such a task reads a part at a time: short parts, one after the other, leave the
/// processor no time to fetch ahead.
const TOGETHER: usize = 8;
/// Parts of the depth that threads sum side by side.
const PIECES: usize = 8;
/// Numbers of a matrix below which threads cost more than they save.
const ALONE_MAX: usize = 1 << 16;
/// Rows of a task where every row is a sum.
const ROWS: usize = 64;
/// Numbers that are widened at a time where the compiler cannot do it on the way.
const NEAR: usize = 256;
/// Sums that a dot product keeps.
const LANES: usize = 16;

/// `out (+)= x W`: x `[in]`, W row-major `[in, out]`, out `[out]`.
///
/// # Panics
/// When the sizes differ: a bug of the caller, never of input.
pub(super) fn straight(x: &[f32], weight: Floats<'_>, out: &mut [f32], into: Into) {
    let width = out.len();
    assert_eq!(x.len() * width, weight.len(), "sizes differ");
    if into == Into::Replace {
        out.fill(0.0);
    }
    let (ins, factors) = sides(weight);
    let scaled = times(x, ins);
    let x = scaled.as_deref().unwrap_or(x);
    if width > SUMS_MAX {
        out.par_chunks_mut(SPAN).enumerate().for_each(|(task, out)| {
            let first = task * SPAN;
            let mut sums = [0f32; SPAN];
            let sums = &mut sums[..out.len()];
            wide(
                #[inline(always)]
                || across(x, weight, (width, first), sums),
            );
            add(out, sums, factors.map(|factors| &factors[first..]));
        });
        return;
    }
    let pieces = if weight.len() > ALONE_MAX { PIECES } else { 1 };
    let rows = x.len().div_ceil(pieces).max(1);
    let mut sums = vec![0f32; x.len().div_ceil(rows) * width];
    let sum = |(piece, sums): (usize, &mut [f32])| {
        let x = &x[piece * rows..x.len().min((piece + 1) * rows)];
        wide(
            #[inline(always)]
            || along(x, weight, piece * rows * width, sums),
        );
    };
    if pieces == 1 || rayon::current_num_threads() == 1 {
        sums.chunks_exact_mut(width.max(1)).enumerate().for_each(sum);
    } else {
        sums.par_chunks_exact_mut(width.max(1)).enumerate().for_each(sum);
    }
    sums.chunks_exact(width.max(1)).for_each(|sums| add(out, sums, factors));
}

/// `out (+)= x Wᵀ`: x `[out]`, W row-major `[in, out]`, out `[in]`.
///
/// # Panics
/// As [`straight`].
pub(super) fn turned(x: &[f32], weight: Floats<'_>, out: &mut [f32], into: Into) {
    let width = x.len();
    assert_eq!(width * out.len(), weight.len(), "sizes differ");
    let (ins, outs) = sides(weight);
    let scaled = times(x, outs);
    let x = scaled.as_deref().unwrap_or(x);
    out.par_chunks_mut(ROWS).enumerate().for_each(|(task, out)| {
        wide(
            #[inline(always)]
            || {
                for (row, out) in (task * ROWS..).zip(out) {
                    let before = if into == Into::Add { *out } else { 0.0 };
                    let sum = dot(x, weight, row * width);
                    *out = before + ins.map_or(sum, |ins| sum * ins[row]);
                }
            },
        );
    });
}

/// The scales of a matrix' rows and columns, where it has any.
fn sides(weight: Floats<'_>) -> (Option<&[f32]>, Option<&[f32]>) {
    match weight {
        Floats::Int8(_, scales) => (Some(&scales.ins), Some(&scales.outs)),
        _ => (None, None),
    }
}

fn times(x: &[f32], factors: Option<&[f32]>) -> Option<Vec<f32>> {
    factors.map(|factors| x.iter().zip(factors).map(|(x, factor)| x * factor).collect())
}

fn add(out: &mut [f32], sums: &[f32], factors: Option<&[f32]>) {
    match factors {
        Some(factors) => {
            let sums = sums.iter().zip(factors);
            out.iter_mut().zip(sums).for_each(|(out, (sum, factor))| *out += sum * factor);
        }
        None => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
    }
}

#[inline(always)]
fn of_bf16(number: bf16) -> f32 {
    f32::from_bits(u32::from(number.to_bits()) << 16)
}

/// Adds x times as many rows, which begin at number `at` and lie one after the other, to `sums`.
#[inline(always)]
fn along(x: &[f32], weight: Floats<'_>, at: usize, sums: &mut [f32]) {
    let span = at..at + x.len() * sums.len();
    match weight {
        Floats::F32(numbers) => one_by_one(x, &numbers[span], sums, |number| number),
        Floats::Bf16(numbers) => one_by_one(x, &numbers[span], sums, of_bf16),
        Floats::Int8(codes, _) => one_by_one(x, &codes[span], sums, f32::from),
        Floats::F16(_) => widened(x, weight, (sums.len(), at), sums),
    }
}

/// The same for columns from `first` on of rows that are longer.
#[inline(always)]
fn across(x: &[f32], weight: Floats<'_>, (width, first): (usize, usize), sums: &mut [f32]) {
    match weight {
        Floats::F32(numbers) => eight_by_eight(x, &numbers[first..], width, sums, |number| number),
        Floats::Bf16(numbers) => eight_by_eight(x, &numbers[first..], width, sums, of_bf16),
        Floats::Int8(codes, _) => eight_by_eight(x, &codes[first..], width, sums, f32::from),
        Floats::F16(_) => widened(x, weight, (width, first), sums),
    }
}

#[inline(always)]
fn one_by_one<T: Copy>(x: &[f32], rows: &[T], sums: &mut [f32], widen: impl Fn(T) -> f32) {
    for (x, row) in x.iter().zip(rows.chunks_exact(sums.len())) {
        for (sum, number) in sums.iter_mut().zip(row) {
            *sum += x * widen(*number);
        }
    }
}

#[inline(always)]
fn eight_by_eight<T: Copy>(
    x: &[f32],
    rows: &[T],
    width: usize,
    sums: &mut [f32],
    widen: impl Fn(T) -> f32 + Copy,
) {
    let whole = x.len() / TOGETHER * TOGETHER;
    for k in (0..whole).step_by(TOGETHER) {
        let x = &x[k..k + TOGETHER];
        let row = |i: usize| &rows[(k + i) * width..][..sums.len()];
        let (a, b, c, d) = (row(0), row(1), row(2), row(3));
        let (e, f, g, h) = (row(4), row(5), row(6), row(7));
        let rows = a.iter().zip(b).zip(c).zip(d).zip(e).zip(f).zip(g).zip(h);
        for (sum, (((((((a, b), c), d), e), f), g), h)) in sums.iter_mut().zip(rows) {
            let low = x[0] * widen(*a) + x[1] * widen(*b) + x[2] * widen(*c) + x[3] * widen(*d);
            let high = x[4] * widen(*e) + x[5] * widen(*f) + x[6] * widen(*g) + x[7] * widen(*h);
            *sum += low + high;
        }
    }
    for (x, k) in x[whole..].iter().zip(whole..) {
        let row = &rows[k * width..][..sums.len()];
        sums.iter_mut().zip(row).for_each(|(sum, number)| *sum += x * widen(*number));
    }
}

/// Either for numbers that only `half` widens fast.
#[inline(always)]
fn widened(x: &[f32], weight: Floats<'_>, (width, first): (usize, usize), sums: &mut [f32]) {
    let mut near = [0f32; NEAR];
    for (k, x) in x.iter().enumerate() {
        for (part, sums) in sums.chunks_mut(NEAR).enumerate() {
            let near = &mut near[..sums.len()];
            weight.widen(k * width + first + part * NEAR, near);
            sums.iter_mut().zip(near).for_each(|(sum, number)| *sum += x * *number);
        }
    }
}

/// The sum of x times as many numbers from `at` on; scales are not looked at.
#[inline(always)]
fn dot(x: &[f32], weight: Floats<'_>, at: usize) -> f32 {
    let span = at..at + x.len();
    match weight {
        Floats::F32(numbers) => lanes(x, &numbers[span], |number| number),
        Floats::Bf16(numbers) => lanes(x, &numbers[span], of_bf16),
        Floats::Int8(codes, _) => lanes(x, &codes[span], f32::from),
        Floats::F16(_) => {
            let mut near = [0f32; NEAR];
            let parts = x.chunks(NEAR).enumerate().map(|(part, x)| {
                let near = &mut near[..x.len()];
                weight.widen(at + part * NEAR, near);
                lanes(x, near, |number| number)
            });
            parts.sum()
        }
    }
}

#[inline(always)]
fn lanes<T: Copy>(x: &[f32], numbers: &[T], widen: impl Fn(T) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (numbers, rest) = numbers.as_chunks::<LANES>();
    for (x, numbers) in x.iter().zip(numbers) {
        for i in 0..LANES {
            sums[i] += x[i] * widen(numbers[i]);
        }
    }
    let rest: f32 = x_rest.iter().zip(rest).map(|(x, number)| x * widen(*number)).sum();
    sums.iter().sum::<f32>() + rest
}

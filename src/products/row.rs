//! One row times a frozen matrix, as a text needs it token by token: as fast as memory.
//!
//! - In: a row of f32, a frozen matrix of any storage. Out: a row of f32, replaced or added to.
//! - Every kept number is read once, in the order in which it lies, and widened in the first-level
//!   cache. Packing, which pays for many rows, would write the whole matrix again.
//! - Invariant: a number of the output is summed over the depth in order, at any number of threads.
//! - Never here: rounding of the row; many rows (`panel`, `gemm`).

use super::frozen::Floats;
use super::gemm::Into;
use super::wide;
use rayon::prelude::*;

/// Rows of the matrix that a pass over the sums takes: as many streams as processors prefetch well.
const TOGETHER: usize = 4;
/// Columns whose numbers are widened at a time.
const NEAR: usize = 256;
/// Most columns of a task: their sums stay in the first-level cache.
const COLUMNS_MAX: usize = 4 * NEAR;
/// Numbers of a matrix below which threads cost more than they save.
const ALONE_MAX: usize = 1 << 15;

/// `out (+)= x W`: x `[in]`, W row-major `[in, out]`, out `[out]`.
///
/// # Panics
/// When the sizes differ: a bug of the caller, never of input.
pub(super) fn product(x: &[f32], weight: Floats<'_>, out: &mut [f32], into: Into) {
    let width = out.len();
    assert_eq!(x.len() * width, weight.len(), "sizes differ");
    let columns = |(task, out): (usize, &mut [f32]), first: usize| {
        wide(
            #[inline(always)]
            || {
                if into == Into::Replace {
                    out.fill(0.0);
                }
                sums(x, weight, width, task * first, out);
            },
        );
    };
    let threads = rayon::current_num_threads();
    if threads == 1 || weight.len() <= ALONE_MAX {
        out.chunks_mut(COLUMNS_MAX).enumerate().for_each(|task| columns(task, COLUMNS_MAX));
        return;
    }
    let span = width.div_ceil(threads).next_multiple_of(NEAR).clamp(NEAR, COLUMNS_MAX);
    out.par_chunks_mut(span).enumerate().for_each(|task| columns(task, span));
}

/// Adds to `out` its columns of the product, which begin at `first`.
#[inline(always)]
fn sums(x: &[f32], weight: Floats<'_>, width: usize, first: usize, out: &mut [f32]) {
    let mut rows = [[0f32; NEAR]; TOGETHER];
    for (group, x) in x.chunks(TOGETHER).enumerate() {
        let mut factors = [0f32; TOGETHER];
        factors[..x.len()].copy_from_slice(x);
        for (near, out) in out.chunks_mut(NEAR).enumerate() {
            let column = first + near * NEAR;
            for (k, row) in rows.iter_mut().enumerate().take(x.len()) {
                let at = (group * TOGETHER + k) * width + column;
                weight.widen(at, &mut row[..out.len()]);
            }
            // What a shorter last group leaves in its rows is finite and counts nothing.
            let [a, b, c, d] = &rows;
            for ((((out, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *out = *out + factors[0] * a + factors[1] * b + factors[2] * c + factors[3] * d;
            }
        }
    }
}

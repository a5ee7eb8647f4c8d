//! Sums of products of thin matrices, the same bits on every processor.
//!
//! - In: rows of f32 or f64. Out: sums in f64; the product of two f32 is exact there.
//! - Invariant: a number is summed in the order of its terms, each product and each sum rounded by
//!   itself. No multiplication is fused with an addition and no sum is split by the width of a vector,
//!   so SSE2, AVX2 and a scalar loop agree to the last bit.

use pulp::Arch;

/// Rows of the left matrix that share what is loaded of the right one.
const TILE_ROWS: usize = 2;
/// Partial sums of an inner product, whatever the processor's vectors hold.
const LANES: usize = 8;

/// The instructions that the loops are compiled for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Processor(Arch);

impl Processor {
    /// The widest that this processor has.
    pub(super) fn widest() -> Self {
        Self(Arch::new())
    }

    /// What every processor of the target has.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self(Arch::Scalar)
    }

    /// Runs loops. What `work` calls must be inlined, else it stays compiled for the oldest processor.
    #[inline(always)]
    pub(super) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        self.0.dispatch(work)
    }
}

/// The left matrix of a product, `[rows, depth]`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a, L> {
    numbers: &'a [L],
    row_step: usize,
    depth_step: usize,
}

impl<'a, L> Left<'a, L> {
    /// `numbers`: `[rows, depth]`, row-major.
    pub(super) fn plain(numbers: &'a [L], depth: usize) -> Self {
        Self { numbers, row_step: depth, depth_step: 1 }
    }

    /// `numbers`: `[depth, rows]`, row-major.
    pub(super) fn transposed(numbers: &'a [L], rows: usize) -> Self {
        Self { numbers, row_step: 1, depth_step: rows }
    }
}

/// `sums += left right`; `right`: `[depth, width]`, `sums`: `[rows, width]`, `width` at least 1.
pub(super) fn add_product<L, R>(
    processor: Processor,
    sums: &mut [f64],
    left: Left<'_, L>,
    right: &[R],
    width: usize,
) where
    L: Copy + Into<f64>,
    R: Copy + Into<f64>,
{
    processor.run(
        #[inline(always)]
        || {
            let rows = sums.len() / width;
            let tiled = rows - rows % TILE_ROWS;
            for row in (0..tiled).step_by(TILE_ROWS) {
                band::<TILE_ROWS, L, R>(sums, left, right, (row, width));
            }
            for row in tiled..rows {
                band::<1, L, R>(sums, left, right, (row, width));
            }
        },
    );
}

/// `ROWS` rows of the sums, in tiles as wide as fit.
#[inline(always)]
fn band<const ROWS: usize, L: Copy + Into<f64>, R: Copy + Into<f64>>(
    sums: &mut [f64],
    left: Left<'_, L>,
    right: &[R],
    (row, width): (usize, usize),
) {
    let mut column = 0;
    while column < width {
        let at = (row, column, width);
        column += match width - column {
            16.. => tile::<ROWS, 16, L, R>(sums, left, right, at),
            8..16 => tile::<ROWS, 8, L, R>(sums, left, right, at),
            4..8 => tile::<ROWS, 4, L, R>(sums, left, right, at),
            _ => tile::<ROWS, 1, L, R>(sums, left, right, at),
        };
    }
}

/// `ROWS x COLUMNS` numbers, each over the whole depth; returns `COLUMNS`.
#[inline(always)]
fn tile<const ROWS: usize, const COLUMNS: usize, L: Copy + Into<f64>, R: Copy + Into<f64>>(
    sums: &mut [f64],
    left: Left<'_, L>,
    right: &[R],
    (row, column, width): (usize, usize, usize),
) -> usize {
    let mut tile = [[0.0; COLUMNS]; ROWS];
    for (depth, right) in right.chunks_exact(width).enumerate() {
        let Some(right) = right[column..].first_chunk::<COLUMNS>() else { break };
        let right = right.map(Into::into);
        let first = row * left.row_step + depth * left.depth_step;
        for (at, sums) in tile.iter_mut().enumerate() {
            let factor: f64 = left.numbers[first + at * left.row_step].into();
            for (sum, right) in sums.iter_mut().zip(&right) {
                *sum += factor * right;
            }
        }
    }
    for (at, tile) in tile.iter().enumerate() {
        let start = (row + at) * width + column;
        for (sum, more) in sums[start..start + COLUMNS].iter_mut().zip(tile) {
            *sum += more;
        }
    }
    COLUMNS
}

/// The inner product of two rows of equal length.
#[inline(always)]
pub(super) fn dot(left: &[f64], right: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let ((left, left_rest), (right, right_rest)) =
        (left.as_chunks::<LANES>(), right.as_chunks::<LANES>());
    for (left, right) in left.iter().zip(right) {
        for (lane, (left, right)) in lanes.iter_mut().zip(left.iter().zip(right)) {
            *lane += left * right;
        }
    }
    for (lane, (left, right)) in lanes.iter_mut().zip(left_rest.iter().zip(right_rest)) {
        *lane += left * right;
    }
    lanes.iter().sum()
}

/// `sums += factor * row`.
#[inline(always)]
pub(super) fn add_scaled(sums: &mut [f64], factor: f64, row: &[f64]) {
    for (sum, number) in sums.iter_mut().zip(row) {
        *sum += factor * number;
    }
}

/// `[rows, width]` as `[width, rows]`, in the place of what `turned` held.
pub(super) fn turn<T: Copy, U: From<T>>(numbers: &[T], width: usize, turned: &mut Vec<U>) {
    turned.clear();
    turned.reserve(numbers.len());
    for column in 0..width {
        turned.extend(numbers[column..].iter().step_by(width).map(|number| U::from(*number)));
    }
}

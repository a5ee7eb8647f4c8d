//! Products in bf16: weights that are kept in bf16 times rows rounded to it, with sums in f32.
//!
//! - An instruction multiplies and adds some numbers of the depth at a time: rows and panels hold these
//!   side by side, with zeros behind a depth that does not come out even. The weights are not rounded.
//! - Rows are rounded once a product, to the nearest and to even between two. What is not finite stays
//!   so, and what is nearer to 2^128 than to the largest bf16 becomes infinite.
//! - Sums are rounded as the instruction does: other kinds of processor give other last digits.

#[cfg(target_arch = "x86_64")]
use super::avx512_bf16 as kernel;
#[cfg(target_arch = "aarch64")]
use super::neon_bf16 as kernel;
use super::{COLUMNS, Out, Sides, Sizes, Tile, product};
use crate::products::frozen::Side;
use crate::products::gemm::View;
use crate::products::pool::Pool;
use crate::products::rows_per_task;
use half::bf16;
use kernel::STEP;
use rayon::prelude::*;
use std::ops::Range;

/// Numbers of four bytes that a depth takes.
fn words(depth: usize) -> usize {
    depth.div_ceil(STEP) * STEP / 2
}

/// Rows rounded to bf16.
pub(in crate::products) struct Halved {
    rows: usize,
    depth: usize,
    /// `[rows, words]`, the first number of a pair in its low half.
    pairs: Vec<f32>,
}

impl Halved {
    /// Rounds `rows`.
    pub(in crate::products) fn new(rows: View<'_>, pool: &Pool) -> Self {
        let (count, depth) = rows.dims();
        let (stride, task) = (words(depth), rows_per_task(count));
        let mut pairs = pool.take(count * stride);
        pairs.par_chunks_mut((task * stride).max(1)).enumerate().for_each(|(index, pairs)| {
            for (row, pairs) in (index * task..).zip(pairs.chunks_exact_mut(stride)) {
                // SAFETY: only built where the processor has these instructions.
                unsafe { kernel::round(rows.row(row), bytemuck::cast_slice_mut(pairs)) };
            }
        });
        Self { rows: count, depth, pairs }
    }

    /// Its buffer, for the pool.
    pub(in crate::products) fn buffer(self) -> Vec<f32> {
        self.pairs
    }
}

/// A frozen matrix, row-major, rows of `width` numbers.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    pub(super) numbers: &'a [u16],
    pub(super) width: usize,
}

/// Which part of the frozen matrix a panel gets.
pub(super) struct Part {
    pub(super) columns: Range<usize>,
    pub(super) depth: Range<usize>,
}

/// `rows x W` or `rows x Wᵀ`.
pub(in crate::products) struct Bf16<'a> {
    left: &'a Halved,
    right: Halves<'a>,
    side: Side,
}

impl<'a> Bf16<'a> {
    /// `right` is row-major `[in, out]`, rows of `width` = out numbers; `side` says how it is used.
    pub(in crate::products) fn new(
        left: &'a Halved,
        right: &'a [bf16],
        width: usize,
        side: Side,
    ) -> Self {
        Self { left, right: Halves { numbers: bytemuck::cast_slice(right), width }, side }
    }

    /// `out (+)= left x right`, `columns` of them.
    pub(in crate::products) fn product(&self, columns: usize, out: Out<'_>) {
        let (rows, depth) = (self.left.rows, self.left.depth);
        let (fan_in, fan_out) = match self.side {
            Side::Straight => (depth, columns),
            Side::Turned => (columns, depth),
        };
        let Halves { numbers, width } = self.right;
        assert!(width == fan_out && fan_in * fan_out == numbers.len(), "sizes differ");
        product(self, Sizes { rows, depth, columns }, out);
    }
}

impl Sides for Bf16<'_> {
    const DEPTH: usize = 1152;
    const STEP: usize = STEP;

    fn panel_len(depth: usize) -> usize {
        words(depth) * COLUMNS
    }

    fn pack(&self, columns: Range<usize>, depth: Range<usize>, panel: &mut [f32]) {
        let part = Part { columns, depth };
        // SAFETY: by building this type the caller vouches for the processor.
        unsafe {
            match self.side {
                Side::Straight => kernel::pack_straight(self.right, part, panel),
                Side::Turned => kernel::pack_turned(self.right, part, panel),
            }
        }
    }

    unsafe fn tile(&self, rows: Range<usize>, depth: Range<usize>, panel: &[f32], tile: &Tile) {
        let (steps, stride) = (depth.len().div_ceil(STEP), words(self.left.depth));
        assert!(panel.len() >= words(depth.len()) * COLUMNS, "the panel is too small");
        let first = rows.start * stride + depth.start / 2;
        let reach = (rows.len() - 1) * stride + words(depth.len());
        let left: &[u32] = bytemuck::cast_slice(&self.left.pairs[first..first + reach]);
        let left = (left.as_ptr(), stride, rows.len());
        // SAFETY: every number of these rows was checked, and the panel; the caller vouches for the tile
        // and, by building this type, for the processor.
        unsafe { kernel::tile(left, panel.as_ptr(), steps, tile) }
    }
}

//! Products in f32: rows of the left side are read where they lie, the frozen side is widened.

use super::right::Right;
use super::{COLUMNS, Floating, Out, Sides, Sizes, Tile, product};
use crate::products::frozen::{Floats, Side};
use crate::products::gemm::View;
use std::ops::Range;

/// `left [rows, depth] x W` or `x Wᵀ`.
pub(in crate::products) struct Float<'a> {
    left: View<'a>,
    right: Floats<'a>,
    side: Side,
    /// Numbers of a stored row of W.
    width: usize,
    kernel: Floating,
}

impl<'a> Float<'a> {
    /// `right` is row-major `[in, out]`, rows of `width` = out numbers; `side` says how it is used.
    pub(in crate::products) fn new(
        left: View<'a>,
        right: Floats<'a>,
        width: usize,
        side: Side,
    ) -> Self {
        Self { left, right, side, width, kernel: Floating::widest() }
    }

    /// The same with AVX2 whatever the processor has.
    #[cfg(all(test, target_arch = "x86_64"))]
    pub(in crate::products) fn with_avx2(self) -> Self {
        Self { kernel: Floating::Avx2, ..self }
    }

    /// `out (+)= left x right`, `columns` of them.
    pub(in crate::products) fn product(&self, columns: usize, out: Out<'_>) {
        let (rows, depth) = self.left.dims();
        let (fan_in, fan_out) = match self.side {
            Side::Straight => (depth, columns),
            Side::Turned => (columns, depth),
        };
        assert!(self.width == fan_out && fan_in * fan_out == self.right.len(), "sizes differ");
        product(self, Sizes { rows, depth, columns }, out);
    }
}

impl Sides for Float<'_> {
    const DEPTH: usize = 576;
    const STEP: usize = 1;

    fn panel_len(depth: usize) -> usize {
        depth * COLUMNS
    }

    fn pack(&self, columns: Range<usize>, depth: Range<usize>, panel: &mut [f32]) {
        let right = Right { width: self.width, side: self.side, columns, depth };
        self.kernel.pack(self.right, &right, panel);
    }

    unsafe fn tile(&self, rows: Range<usize>, depth: Range<usize>, panel: &[f32], tile: &Tile) {
        assert!(panel.len() >= depth.len() * COLUMNS, "the panel is too small");
        let (left, stride) = self.left.part(rows.clone(), depth.clone());
        let (left, panel, depth) = (left.as_ptr(), panel.as_ptr(), depth.len());
        // SAFETY: `part` holds every number of these rows and this depth; the panel was checked;
        // the caller vouches for the tile.
        unsafe { self.kernel.tile((left, stride, rows.len()), panel, depth, tile) };
    }
}

//! Products in f32: rows of the left side are read where they lie, the frozen side is widened.

use super::right::Right;
use super::{COLUMNS, Floating, Out, Rows, Sides, Sizes, Tile, product_on};
use crate::products::frozen::{Floats, Side};
use crate::products::gemm::{Threads, View};
use std::ops::Range;

/// `left [rows, depth] x W` or `x Wᵀ`.
pub(in crate::products) struct Float<'a> {
    left: View<'a>,
    right: Floats<'a>,
    side: Side,
    /// Numbers from one stored row of W to the next.
    width: usize,
    kernel: Floating,
}

impl<'a> Float<'a> {
    /// `right` is row-major, rows `width` numbers apart; `side` says how it is used.
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
    pub(in crate::products) fn product(&self, columns: usize, out: Out<'_>, threads: Threads) {
        let (rows, depth) = self.left.dims();
        let (stored, length) = match self.side {
            Side::Straight => (depth, columns),
            Side::Turned => (columns, depth),
        };
        let reach = stored.saturating_sub(1) * self.width + length;
        assert!(self.width >= length && reach <= self.right.len(), "sizes differ");
        product_on(threads, self, Sizes { rows, depth, columns }, out);
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
        let (stride, step) = self.left.strides();
        let first = match depth.len() {
            0 => std::ptr::null(),
            _ => self.left.part(rows.clone(), depth.clone()).as_ptr(),
        };
        let left = Rows { first, count: rows.len(), stride, step };
        // SAFETY: `part` holds every number of these rows and this depth; the panel was checked;
        // the caller vouches for the tile.
        unsafe { self.kernel.tile(left, panel.as_ptr(), depth.len(), tile) };
    }
}

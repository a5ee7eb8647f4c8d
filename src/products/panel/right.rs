//! Which part of the frozen matrix a panel of f32 gets, and how any processor packs it.

use super::COLUMNS;
use crate::products::frozen::{Floats, Side};
use std::ops::Range;

/// Rows and columns that are turned at a time: as many registers.
pub(super) const SQUARE: usize = 16;

/// Which part of the frozen matrix a panel gets.
pub(super) struct Right {
    pub(super) width: usize,
    pub(super) side: Side,
    pub(super) columns: Range<usize>,
    pub(super) depth: Range<usize>,
}

impl Right {
    /// Widens and packs, by loops that the compiler makes wide.
    #[inline(always)]
    pub(super) fn pack_plainly(&self, numbers: Floats<'_>, panel: &mut [f32]) {
        if self.side == Side::Straight {
            for (k, row) in self.depth.clone().zip(panel.chunks_exact_mut(COLUMNS)) {
                let (row, rest) = row.split_at_mut(self.columns.len());
                numbers.widen(k * self.width + self.columns.start, row);
                rest.fill(0.0);
            }
            return;
        }
        let mut rows = [[0f32; SQUARE]; COLUMNS];
        for at in (0..self.depth.len()).step_by(SQUARE) {
            let count = SQUARE.min(self.depth.len() - at);
            for (column, row) in self.columns.clone().zip(&mut rows) {
                let from = column * self.width + self.depth.start + at;
                numbers.widen(from, &mut row[..count]);
            }
            let panel = &mut panel[at * COLUMNS..][..count * COLUMNS];
            for (k, out) in panel.chunks_exact_mut(COLUMNS).enumerate() {
                out.iter_mut().zip(&rows).for_each(|(out, row)| *out = row[k]);
            }
        }
    }
}

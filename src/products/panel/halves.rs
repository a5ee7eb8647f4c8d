//! A tile in parts of four rows by 24 columns, for processors whose registers hold no more sums.

use super::{COLUMNS, Tile};
use std::ops::Range;

/// Rows of sums that fit the register file beside what they are made of.
pub(super) const ROWS: usize = 4;
/// Columns of sums; panels are the same 48 columns wide and are read in two halves.
pub(super) const HALF: usize = COLUMNS / 2;

/// The sums of a part.
pub(super) type Sums = [[f32; HALF]; ROWS];

/// Adds to a tile of `rows` rows what `sums` gives for some of them and for the columns from one on.
///
/// # Safety
/// The tile's numbers may be written and are nobody else's.
#[inline(always)]
pub(super) unsafe fn add(rows: usize, tile: &Tile, sums: impl Fn(Range<usize>, usize, &mut Sums)) {
    for first in (0..tile.columns).step_by(HALF) {
        let count = HALF.min(tile.columns - first);
        for row in (0..rows).step_by(ROWS) {
            let (part, mut done) = (row..rows.min(row + ROWS), [[0f32; HALF]; ROWS]);
            sums(part.clone(), first, &mut done);
            for (row, sums) in part.zip(&done) {
                // SAFETY: this row's columns of the tile, which nobody else holds.
                let out = unsafe {
                    let out = tile.out.add(row * tile.stride + first);
                    std::slice::from_raw_parts_mut(out, count)
                };
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = if tile.add { *out + sum } else { *sum };
                }
            }
        }
    }
}

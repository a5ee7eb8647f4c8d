//! Products in f32: rows of the left side are read where they lie, the frozen side is widened.

use super::super::frozen::{Floats, Side};
use super::super::gemm::View;
use super::{COLUMNS, Out, ROWS, Sides, Sizes, Tile, every_row, product};
use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_set1_ps, _mm512_setzero_ps,
};
use std::ops::Range;

/// Numbers of a frozen row that are turned at a time.
const TURNED: usize = 16;

/// `left [rows, depth] x W` or `x Wᵀ`.
pub(in super::super) struct Float<'a> {
    left: View<'a>,
    right: Floats<'a>,
    side: Side,
    /// Numbers of a stored row of W.
    width: usize,
}

impl<'a> Float<'a> {
    /// `right` is row-major `[in, out]`, rows of `width` = out numbers; `side` says how it is used.
    pub(in super::super) fn new(
        left: View<'a>,
        right: Floats<'a>,
        width: usize,
        side: Side,
    ) -> Self {
        Self { left, right, side, width }
    }

    /// `out (+)= left x right`, `columns` of them.
    pub(in super::super) fn product(&self, columns: usize, out: Out<'_>) {
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
        match self.side {
            Side::Straight => {
                for (k, row) in depth.zip(panel.chunks_exact_mut(COLUMNS)) {
                    let (row, rest) = row.split_at_mut(columns.len());
                    self.right.widen(k * self.width + columns.start, row);
                    rest.fill(0.0);
                }
            }
            Side::Turned => {
                let mut rows = [[0f32; TURNED]; COLUMNS];
                for at in (depth.start..depth.end).step_by(TURNED) {
                    let numbers = TURNED.min(depth.end - at);
                    for (column, row) in columns.clone().zip(&mut rows) {
                        self.right.widen(column * self.width + at, &mut row[..numbers]);
                    }
                    let panel = &mut panel[(at - depth.start) * COLUMNS..][..numbers * COLUMNS];
                    for (k, out) in panel.chunks_exact_mut(COLUMNS).enumerate() {
                        for (out, row) in out.iter_mut().zip(&rows) {
                            *out = row[k];
                        }
                    }
                }
            }
        }
    }

    unsafe fn tile(&self, rows: Range<usize>, depth: Range<usize>, panel: &[f32], tile: &Tile) {
        assert!(panel.len() >= depth.len() * COLUMNS, "the panel is too small");
        let (left, stride) = self.left.part(rows.clone(), depth.clone());
        let (left, panel, depth) = (left.as_ptr(), panel.as_ptr(), depth.len());
        // SAFETY: `part` holds every number of these rows and this depth; the panel was checked;
        // the caller vouches for the tile and, by building this type, for the processor.
        unsafe {
            match rows.len() {
                1 => columns::<1>(left, stride, panel, depth, tile),
                2 => columns::<2>(left, stride, panel, depth, tile),
                3 => columns::<3>(left, stride, panel, depth, tile),
                4 => columns::<4>(left, stride, panel, depth, tile),
                5 => columns::<5>(left, stride, panel, depth, tile),
                6 => columns::<6>(left, stride, panel, depth, tile),
                7 => columns::<7>(left, stride, panel, depth, tile),
                _ => columns::<ROWS>(left, stride, panel, depth, tile),
            }
        }
    }
}

/// Adds `R` rows x panel to a tile.
///
/// # Safety
/// The processor has AVX-512 F. `left` points to `R` rows of `depth` numbers, `stride` apart;
/// `panel` to `depth * COLUMNS`; the tile's numbers may be written and are nobody else's.
#[target_feature(enable = "avx512f")]
unsafe fn columns<const R: usize>(
    left: *const f32,
    stride: usize,
    panel: *const f32,
    depth: usize,
    tile: &Tile,
) {
    let mut sums = [[_mm512_setzero_ps(); 3]; R];
    for k in 0..depth {
        // SAFETY: k < depth; the caller vouches for the panel's depth * COLUMNS numbers.
        let columns = unsafe {
            let panel = panel.add(k * COLUMNS);
            [0, 16, 32].map(|from| _mm512_loadu_ps(panel.add(from)))
        };
        macro_rules! row {
            ($i:literal) => {
                if $i < R {
                    // SAFETY: row i of R, number k of depth.
                    let number = _mm512_set1_ps(unsafe { *left.add($i * stride + k) });
                    sums[$i][0] = _mm512_fmadd_ps(number, columns[0], sums[$i][0]);
                    sums[$i][1] = _mm512_fmadd_ps(number, columns[1], sums[$i][1]);
                    sums[$i][2] = _mm512_fmadd_ps(number, columns[2], sums[$i][2]);
                }
            };
        }
        every_row!(row);
    }
    let masks = tile.masks();
    macro_rules! store {
        ($i:literal) => {
            if $i < R {
                for part in 0..3 {
                    let out = tile.out.wrapping_add($i * tile.stride + 16 * part);
                    // SAFETY: the mask leaves only columns of the tile.
                    unsafe {
                        let before = match tile.add {
                            true => _mm512_maskz_loadu_ps(masks[part], out),
                            false => _mm512_setzero_ps(),
                        };
                        let sum = _mm512_add_ps(before, sums[$i][part]);
                        _mm512_mask_storeu_ps(out, masks[part], sum);
                    }
                }
            }
        };
    }
    every_row!(store);
}

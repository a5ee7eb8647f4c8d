//! The f32 kernel for processors with AVX2 and no AVX-512: four rows by 24 columns in registers.

use super::halves::{ROWS, Sums, add};
use super::{COLUMNS, Rows, Tile};
use std::arch::x86_64::{
    __m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

/// Adds rows x panel to a tile.
///
/// # Safety
/// The processor has AVX2 and FMA. The rows have `depth` numbers each; `panel` points to
/// `depth * COLUMNS`; the tile's numbers may be written and are nobody else's.
pub(super) unsafe fn tile(left: Rows, panel: *const f32, depth: usize, tile: &Tile) {
    // SAFETY: the rows and the half of the panel that the caller vouches for, as for the tile.
    unsafe {
        add(left.count, tile, |part, first, sums| {
            let first_row = left.first.wrapping_add(part.start * left.stride);
            let (left, panel) = (Rows { first: first_row, ..left }, panel.add(first));
            match part.len() {
                1 => columns::<1>(left, panel, depth, sums),
                2 => columns::<2>(left, panel, depth, sums),
                3 => columns::<3>(left, panel, depth, sums),
                _ => columns::<ROWS>(left, panel, depth, sums),
            }
        });
    }
}

/// The sums of `R` rows and half a panel.
///
/// # Safety
/// As [`tile`]; `depth` rows of the panel hold 24 numbers from `panel` on.
#[target_feature(enable = "avx2,fma")]
unsafe fn columns<const R: usize>(left: Rows, panel: *const f32, depth: usize, out: &mut Sums) {
    let Rows { first, stride, step, .. } = left;
    let mut sums = [[_mm256_setzero_ps(); 3]; R];
    for k in 0..depth {
        // SAFETY: k < depth; the caller vouches for half a row of the panel.
        let columns: [__m256; 3] = unsafe {
            let panel = panel.add(k * COLUMNS);
            [0, 8, 16].map(|from| _mm256_loadu_ps(panel.add(from)))
        };
        macro_rules! row {
            ($i:literal) => {
                if $i < R {
                    // SAFETY: row i of R, number k of depth.
                    let number = _mm256_set1_ps(unsafe { *first.add($i * stride + k * step) });
                    sums[$i][0] = _mm256_fmadd_ps(number, columns[0], sums[$i][0]);
                    sums[$i][1] = _mm256_fmadd_ps(number, columns[1], sums[$i][1]);
                    sums[$i][2] = _mm256_fmadd_ps(number, columns[2], sums[$i][2]);
                }
            };
        }
        row!(0);
        row!(1);
        row!(2);
        row!(3);
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        for (out, sum) in out.chunks_exact_mut(8).zip(sums) {
            // SAFETY: eight numbers.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *sum) };
        }
    }
}

//! The f32 kernel for processors with AVX2 and no AVX-512: four rows by 24 columns in registers.
//!
//! Panels are the same 48 columns wide and are read in two halves.

use super::{COLUMNS, Tile};
use std::arch::x86_64::{
    __m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

/// Rows of sums that fit the register file beside what they are made of.
const ROWS: usize = 4;
/// Columns of sums.
const HALF: usize = COLUMNS / 2;

/// Adds `rows` rows x panel to a tile.
///
/// # Safety
/// The processor has AVX2 and FMA. `left` points to `rows` rows of `depth` numbers, `stride` apart;
/// `panel` to `depth * COLUMNS`; the tile's numbers may be written and are nobody else's.
pub(super) unsafe fn tile(
    (left, stride, rows): (*const f32, usize, usize),
    panel: *const f32,
    depth: usize,
    tile: &Tile,
) {
    for first in (0..tile.columns).step_by(HALF) {
        for row in (0..rows).step_by(ROWS) {
            let mut sums = [[0f32; HALF]; ROWS];
            // SAFETY: the rows and the half of the panel that the caller vouches for.
            unsafe {
                let (left, panel) = (left.add(row * stride), panel.add(first));
                match rows - row {
                    1 => columns::<1>(left, stride, panel, depth, &mut sums),
                    2 => columns::<2>(left, stride, panel, depth, &mut sums),
                    3 => columns::<3>(left, stride, panel, depth, &mut sums),
                    _ => columns::<ROWS>(left, stride, panel, depth, &mut sums),
                }
            }
            let count = HALF.min(tile.columns - first);
            for (row, sums) in (row..rows).zip(&sums) {
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

/// The sums of `R` rows and half a panel.
///
/// # Safety
/// As [`tile`]; `depth` rows of the panel hold `HALF` numbers from `panel` on.
#[target_feature(enable = "avx2,fma")]
unsafe fn columns<const R: usize>(
    left: *const f32,
    stride: usize,
    panel: *const f32,
    depth: usize,
    out: &mut [[f32; HALF]; ROWS],
) {
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
                    let number = _mm256_set1_ps(unsafe { *left.add($i * stride + k) });
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

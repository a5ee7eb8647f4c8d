//! The f32 kernel for processors with AVX-512: eight rows by 48 columns in registers.

use super::right::{Right, SQUARE};
use super::{COLUMNS, ROWS, Rows, Tile};
use crate::products::frozen::{Floats, Side};
use std::arch::x86_64::{
    __m256i, __m512, _mm256_loadu_si256, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

/// Applies a macro to the literals 0 to 7: sums stay in registers only when every index is known.
macro_rules! every_row {
    ($row:ident) => {
        $row!(0);
        $row!(1);
        $row!(2);
        $row!(3);
        $row!(4);
        $row!(5);
        $row!(6);
        $row!(7);
    };
}
pub(super) use every_row;

/// Puts the first `R` rows of sums into a tile, or adds them to it: [`put`] for each.
macro_rules! put_rows {
    ($rows:ident, $sums:ident, $tile:expr) => {{
        macro_rules! store {
            ($i:literal) => {
                if $i < $rows {
                    $crate::products::panel::avx512::put($sums[$i], $i, $tile);
                }
            };
        }
        every_row!(store);
    }};
}
pub(super) use put_rows;

/// Which of 48 columns a tile has, 16 to a mask.
pub(super) fn masks(tile: &Tile) -> [u16; 3] {
    [0, 16, 32].map(|from| mask(tile.columns.saturating_sub(from)))
}

/// The first `count` of 16.
pub(super) fn mask(count: usize) -> u16 {
    if count < 16 { (1 << count) - 1 } else { u16::MAX }
}

/// Widens and packs.
#[target_feature(enable = "avx512f")]
pub(super) fn pack(numbers: Floats<'_>, right: &Right, panel: &mut [f32]) {
    match numbers {
        Floats::F32(numbers) => right.pack(panel, |at, count| {
            // SAFETY: the slice holds all that the mask leaves.
            unsafe { _mm512_maskz_loadu_ps(mask(count), numbers[at..at + count].as_ptr()) }
        }),
        Floats::Bf16(numbers) => right.pack(panel, |at, count| {
            let halves = some(bytemuck::cast_slice(&numbers[at..at + count]));
            let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves));
            _mm512_castsi512_ps(bits)
        }),
        Floats::F16(numbers) => right.pack(panel, |at, count| {
            _mm512_cvtph_ps(some(bytemuck::cast_slice(&numbers[at..at + count])))
        }),
        Floats::Int8(..) => right.pack(panel, |at, count| {
            let mut wide = [0f32; SQUARE];
            numbers.widen(at, &mut wide[..count]);
            // SAFETY: 16 numbers.
            unsafe { _mm512_loadu_ps(wide.as_ptr()) }
        }),
    }
}

/// Sixteen halves, zeros where there are fewer.
#[target_feature(enable = "avx512f")]
fn some(halves: &[u16]) -> __m256i {
    let mut all = [0u16; SQUARE];
    let all = match halves.len() {
        SQUARE => halves.as_ptr(),
        count => {
            all[..count].copy_from_slice(halves);
            all.as_ptr()
        }
    };
    // SAFETY: 16 halves either way.
    unsafe { _mm256_loadu_si256(all.cast()) }
}

impl Right {
    /// `load` gives up to 16 numbers of a row from a place on, zeros after them.
    #[target_feature(enable = "avx512f")]
    fn pack(&self, panel: &mut [f32], load: impl Fn(usize, usize) -> __m512) {
        let columns = self.columns.len();
        for first in (0..COLUMNS).step_by(SQUARE) {
            let count = SQUARE.min(columns.saturating_sub(first));
            let column = self.columns.start + first;
            if self.side == Side::Straight {
                for (k, out) in self.depth.clone().zip(panel.chunks_exact_mut(COLUMNS)) {
                    let numbers = match count {
                        0 => _mm512_setzero_ps(),
                        _ => load(k * self.width + column, count),
                    };
                    // SAFETY: the slicing leaves 16 numbers.
                    unsafe { _mm512_storeu_ps(out[first..][..SQUARE].as_mut_ptr(), numbers) };
                }
                continue;
            }
            for at in (0..self.depth.len()).step_by(SQUARE) {
                let numbers = SQUARE.min(self.depth.len() - at);
                let from = column * self.width + self.depth.start + at;
                let mut square = [_mm512_setzero_ps(); SQUARE];
                for (row, square) in square.iter_mut().enumerate().take(count) {
                    *square = load(from + row * self.width, numbers);
                }
                turn(&square, &mut panel[at * COLUMNS + first..], numbers);
            }
        }
    }
}

/// Adds rows x panel to a tile.
///
/// # Safety
/// The processor has AVX-512 F. The rows have `depth` numbers each; `panel` points to
/// `depth * COLUMNS`; the tile's numbers may be written and are nobody else's.
pub(super) unsafe fn tile(left: Rows, panel: *const f32, depth: usize, tile: &Tile) {
    // SAFETY: as the caller vouches.
    unsafe {
        match tile.columns.div_ceil(SQUARE) {
            1 => some_rows::<1>(left, panel, depth, tile),
            2 => some_rows::<2>(left, panel, depth, tile),
            _ => some_rows::<3>(left, panel, depth, tile),
        }
    }
}

/// The same to the first `C` times 16 columns.
///
/// # Safety
/// As [`tile`].
unsafe fn some_rows<const C: usize>(left: Rows, panel: *const f32, depth: usize, tile: &Tile) {
    // SAFETY: as the caller vouches.
    unsafe {
        match left.count {
            1 => columns::<1, C>(left, panel, depth, tile),
            2 => columns::<2, C>(left, panel, depth, tile),
            3 => columns::<3, C>(left, panel, depth, tile),
            4 => columns::<4, C>(left, panel, depth, tile),
            5 => columns::<5, C>(left, panel, depth, tile),
            6 => columns::<6, C>(left, panel, depth, tile),
            7 => columns::<7, C>(left, panel, depth, tile),
            _ => columns::<ROWS, C>(left, panel, depth, tile),
        }
    }
}

/// Writes the first `count` columns of a square as rows of a panel, `COLUMNS` apart.
///
/// Pairs, fours, then quarters of registers change places: 64 shuffles for 256 numbers.
#[target_feature(enable = "avx512f")]
pub(super) fn turn(rows: &[__m512; SQUARE], panel: &mut [f32], count: usize) {
    let pairs: [__m512; SQUARE] = std::array::from_fn(|i| match i % 2 {
        0 => _mm512_unpacklo_ps(rows[i], rows[i + 1]),
        _ => _mm512_unpackhi_ps(rows[i - 1], rows[i]),
    });
    let fours: [__m512; SQUARE] = std::array::from_fn(|i| {
        let (first, half) = (i / 4 * 4, i % 4 / 2);
        let low = _mm512_castps_pd(pairs[first + half]);
        let high = _mm512_castps_pd(pairs[first + half + 2]);
        _mm512_castpd_ps(match i % 2 {
            0 => _mm512_unpacklo_pd(low, high),
            _ => _mm512_unpackhi_pd(low, high),
        })
    });
    let quarters: [__m512; SQUARE] = std::array::from_fn(|i| {
        let (half, column) = (i / 8 * 8, i % 4);
        let (low, high) = (fours[half + column], fours[half + column + 4]);
        match i % 8 / 4 {
            0 => _mm512_shuffle_f32x4::<0x88>(low, high),
            _ => _mm512_shuffle_f32x4::<0xdd>(low, high),
        }
    });
    for (k, out) in panel.chunks_mut(COLUMNS).take(count).enumerate() {
        // Quarters 0 and 2 of the columns, or 1 and 3, lie in one register.
        let (low, high) = (quarters[k % 8], quarters[k % 8 + 8]);
        let row = match k / 8 {
            0 => _mm512_shuffle_f32x4::<0x88>(low, high),
            _ => _mm512_shuffle_f32x4::<0xdd>(low, high),
        };
        // SAFETY: the slicing leaves 16 numbers.
        unsafe { _mm512_storeu_ps(out[..SQUARE].as_mut_ptr(), row) };
    }
}

/// Adds `R` rows x `C` registers of a panel's columns to a tile.
///
/// # Safety
/// As [`tile`], of `R` rows.
#[target_feature(enable = "avx512f")]
unsafe fn columns<const R: usize, const C: usize>(
    left: Rows,
    panel: *const f32,
    depth: usize,
    tile: &Tile,
) {
    let Rows { first, stride, step, .. } = left;
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
                    let number = _mm512_set1_ps(unsafe { *first.add($i * stride + k * step) });
                    sums[$i][0] = _mm512_fmadd_ps(number, columns[0], sums[$i][0]);
                    if C > 1 {
                        sums[$i][1] = _mm512_fmadd_ps(number, columns[1], sums[$i][1]);
                    }
                    if C > 2 {
                        sums[$i][2] = _mm512_fmadd_ps(number, columns[2], sums[$i][2]);
                    }
                }
            };
        }
        every_row!(row);
    }
    // SAFETY: the caller vouches for the tile.
    unsafe { put_rows!(R, sums, tile) };
}

/// Puts sums into a row of a tile, or adds them to it.
///
/// # Safety
/// The processor has AVX-512 F; the tile has the row, which may be written and is nobody else's.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn put(sums: [__m512; 3], row: usize, tile: &Tile) {
    let masks = masks(tile);
    for part in 0..3 {
        let out = tile.out.wrapping_add(row * tile.stride + 16 * part);
        // SAFETY: the mask leaves only columns of the tile.
        unsafe {
            let before = match tile.add {
                true => _mm512_maskz_loadu_ps(masks[part], out),
                false => _mm512_setzero_ps(),
            };
            _mm512_mask_storeu_ps(out, masks[part], _mm512_add_ps(before, sums[part]));
        }
    }
}

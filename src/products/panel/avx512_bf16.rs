//! Products in bf16 with AVX-512 BF16: eight rows by 48 columns in registers.
//!
//! - The instruction multiplies two numbers of the depth at a time and adds both to a sum in f32.
//! - Of a pair it adds the second product first. It rounds both sums to the nearest and to even,
//!   whatever the thread has set, and takes numbers below 2^-126, of either side or of a sum, for zeros.

use super::avx512::{every_row, mask, put_rows, turn};
use super::bf16::{Halves, Part};
use super::{COLUMNS, ROWS, Tile};
use std::arch::x86_64::{
    __m256bh, __m256i, __m512bh, __m512i, _mm256_mask_storeu_epi16, _mm256_maskz_loadu_epi16,
    _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_dpbf16_ps,
    _mm512_loadu_si512, _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_ps, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32,
    _mm512_storeu_si512,
};

/// Numbers of the depth that one instruction multiplies and adds.
pub(super) const STEP: usize = 2;
/// Pairs of a register.
const SOME: usize = 16;

/// Rounds numbers to as many halves, zeros after them.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn round(numbers: &[f32], halves: &mut [u16]) {
    assert!(halves.len() >= numbers.len(), "a half each");
    for at in (0..halves.len()).step_by(SOME) {
        let (read, write) = (mask(numbers.len().saturating_sub(at)), mask(halves.len() - at));
        // SAFETY: the masks leave what lies in the slices; a register of halves has their bits.
        unsafe {
            let some = _mm512_maskz_loadu_ps(read, numbers.as_ptr().wrapping_add(at));
            let near: __m256i = std::mem::transmute::<__m256bh, _>(_mm512_cvtneps_pbh(some));
            _mm256_mask_storeu_epi16(halves.as_mut_ptr().wrapping_add(at).cast(), write, near);
        }
    }
}

/// Packs two rows of W at a time, the numbers of a column side by side.
///
/// # Safety
/// The processor has AVX-512 F, BW and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn pack_straight(right: Halves<'_>, part: Part, panel: &mut [f32]) {
    let Part { columns, depth } = part;
    let row = |k: usize| &right.numbers[k * right.width..][columns.clone()];
    let lines = panel.chunks_exact_mut(COLUMNS);
    for (k, line) in depth.clone().step_by(STEP).zip(lines) {
        let (even, odd) = (row(k), (k + 1 < depth.end).then(|| row(k + 1)));
        for at in (0..COLUMNS).step_by(SOME) {
            let mask = mask(columns.len().saturating_sub(at));
            // SAFETY: the mask leaves what lies in the row.
            let wide = |row: &[u16]| unsafe {
                let row = row.as_ptr().wrapping_add(at).cast();
                _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row))
            };
            let odd = odd.map_or(_mm512_setzero_si512(), wide);
            let pairs = _mm512_or_si512(wide(even), _mm512_slli_epi32::<16>(odd));
            // SAFETY: the slicing leaves 16 pairs.
            unsafe { _mm512_storeu_si512(line[at..][..SOME].as_mut_ptr().cast(), pairs) };
        }
    }
}

/// Packs rows of W as columns: their pairs lie side by side already.
///
/// # Safety
/// The processor has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn pack_turned(right: Halves<'_>, part: Part, panel: &mut [f32]) {
    let Part { columns, depth } = part;
    for first in (0..COLUMNS).step_by(SOME) {
        let count = SOME.min(columns.len().saturating_sub(first));
        for at in depth.clone().step_by(STEP * SOME) {
            let numbers = (STEP * SOME).min(depth.end - at);
            let mask = u32::MAX >> (STEP * SOME - numbers);
            let mut square = [_mm512_setzero_ps(); SOME];
            for (column, square) in (columns.start + first..).zip(&mut square[..count]) {
                let row = &right.numbers[column * right.width + at..][..numbers];
                // SAFETY: the mask leaves what lies in the row.
                let row = unsafe { _mm512_maskz_loadu_epi16(mask, row.as_ptr().cast()) };
                *square = _mm512_castsi512_ps(row);
            }
            let place = (at - depth.start) / STEP * COLUMNS + first;
            turn(&square, &mut panel[place..], numbers.div_ceil(STEP));
        }
    }
}

/// Adds `rows` rows x panel to a tile.
///
/// # Safety
/// The processor has AVX-512 F and BF16. `left` points to `rows` rows of `pairs`, `stride` apart;
/// `panel` to `pairs * COLUMNS`; the tile's numbers may be written and are nobody else's.
pub(super) unsafe fn tile(
    (left, stride, rows): (*const u32, usize, usize),
    panel: *const f32,
    pairs: usize,
    tile: &Tile,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        match rows {
            1 => columns::<1>(left, stride, panel, pairs, tile),
            2 => columns::<2>(left, stride, panel, pairs, tile),
            3 => columns::<3>(left, stride, panel, pairs, tile),
            4 => columns::<4>(left, stride, panel, pairs, tile),
            5 => columns::<5>(left, stride, panel, pairs, tile),
            6 => columns::<6>(left, stride, panel, pairs, tile),
            7 => columns::<7>(left, stride, panel, pairs, tile),
            _ => columns::<ROWS>(left, stride, panel, pairs, tile),
        }
    }
}

/// Adds `R` rows x panel to a tile.
///
/// # Safety
/// The processor has AVX-512 F and BF16. `left` points to `R` rows of `pairs`, `stride` apart; `panel`
/// to `pairs * COLUMNS`; the tile's numbers may be written and are nobody else's.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn columns<const R: usize>(
    left: *const u32,
    stride: usize,
    panel: *const f32,
    pairs: usize,
    tile: &Tile,
) {
    let mut sums = [[_mm512_setzero_ps(); 3]; R];
    for k in 0..pairs {
        // SAFETY: k < pairs; the caller vouches for the panel's pairs * COLUMNS of them.
        let columns = unsafe {
            let panel = panel.add(k * COLUMNS);
            [0, 16, 32].map(|from| halves(_mm512_loadu_si512(panel.add(from).cast())))
        };
        macro_rules! row {
            ($i:literal) => {
                if $i < R {
                    // SAFETY: row i of R, pair k of its pairs.
                    let pair = unsafe { *left.add($i * stride + k) };
                    let pair = halves(_mm512_set1_epi32(pair.cast_signed()));
                    sums[$i][0] = _mm512_dpbf16_ps(sums[$i][0], pair, columns[0]);
                    sums[$i][1] = _mm512_dpbf16_ps(sums[$i][1], pair, columns[1]);
                    sums[$i][2] = _mm512_dpbf16_ps(sums[$i][2], pair, columns[2]);
                }
            };
        }
        every_row!(row);
    }
    // SAFETY: the caller vouches for the tile.
    unsafe { put_rows!(R, sums, tile) };
}

/// A register of pairs as the instruction takes it.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn halves(pairs: __m512i) -> __m512bh {
    // SAFETY: as many bits, each of which means something.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(pairs) }
}

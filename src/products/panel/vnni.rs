//! The kernel in whole numbers for processors with AVX-512 VNNI: eight rows by 48 columns.
//!
//! The instruction multiplies unsigned by signed bytes: rows are kept with 128 added, and 128 times
//! the sum of a column's codes is taken away again.

use super::avx512::{every_row, masks, put};
use super::integer::LINE;
use super::rounded::STEP;
use super::{COLUMNS, ROWS, Tile};
use std::arch::x86_64::{
    __m128i, _mm_cvtsi32_si128, _mm_loadu_si128, _mm_storeu_si128, _mm_unpackhi_epi8,
    _mm_unpackhi_epi16, _mm_unpacklo_epi8, _mm_unpacklo_epi16, _mm512_cvtepi32_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_sll_epi32,
    _mm512_slli_epi32, _mm512_srai_epi32, _mm512_storeu_si512, _mm512_sub_epi32,
};

/// The kernel of products in whole numbers.
#[derive(Clone, Copy)]
pub(super) struct Integral;

impl Integral {
    /// The only one.
    pub(super) fn widest() -> Self {
        Self
    }

    /// Four rows of codes, 48 of each, become columns of four.
    pub(super) fn interleave(self, rows: [&[u8]; STEP], line: &mut [u8]) {
        // SAFETY: every x86-64 has SSE2.
        unsafe { interleave(rows, line) };
    }

    /// Ends the packing of a panel's lines, after which `lines` has one more: for the columns' sums.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VNNI.
    pub(super) unsafe fn complete(self, lines: &mut [u8]) {
        assert!(lines.len().is_multiple_of(LINE), "the panel has other lines");
        let (lines, sums) = lines.split_at_mut(lines.len() - LINE);
        // SAFETY: whole lines and a line for the sums; the caller vouches for the processor.
        unsafe { column_sums(lines, sums) };
    }

    /// Adds `rows` rows x panel to a tile.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VNNI. `left` points to `rows` rows of `steps * STEP` bytes,
    /// `stride` apart; `panel` to `steps + 2` lines; the tile may be written and is nobody else's.
    pub(super) unsafe fn tile(
        self,
        (left, stride, rows): (*const u8, usize, usize),
        scales: &[f32; ROWS],
        panel: *const u8,
        steps: usize,
        tile: &Tile,
    ) {
        // SAFETY: as the caller vouches.
        unsafe {
            match rows {
                1 => columns::<1>(left, stride, scales, panel, steps, tile),
                2 => columns::<2>(left, stride, scales, panel, steps, tile),
                3 => columns::<3>(left, stride, scales, panel, steps, tile),
                4 => columns::<4>(left, stride, scales, panel, steps, tile),
                5 => columns::<5>(left, stride, scales, panel, steps, tile),
                6 => columns::<6>(left, stride, scales, panel, steps, tile),
                7 => columns::<7>(left, stride, scales, panel, steps, tile),
                _ => columns::<ROWS>(left, stride, scales, panel, steps, tile),
            }
        }
    }

    /// Puts numbers times their columns of a panel, each with its place in the depth, into row `at`
    /// of a tile, before the rest is added: a sum that was stored just now is slow to be read again.
    ///
    /// # Safety
    /// The processor has AVX-512 F. The tile's row may be written and is nobody else's.
    pub(super) unsafe fn put_apart(
        self,
        apart: impl Iterator<Item = (f32, usize)>,
        panel: &[u8],
        steps: usize,
        tile: &Tile,
        at: usize,
    ) {
        // SAFETY: as the caller vouches.
        unsafe { put_apart(apart, panel, steps, tile, at) };
    }
}

/// Four rows of codes, 48 of each, become columns of four.
#[target_feature(enable = "sse2")]
fn interleave(rows: [&[u8]; STEP], line: &mut [u8]) {
    for at in (0..COLUMNS).step_by(16) {
        // SAFETY: 16 bytes of each row's 48, 64 of the line's 192, all checked by the slicing.
        let rows = rows.map(|row| unsafe { _mm_loadu_si128(row[at..at + 16].as_ptr().cast()) });
        let (low, high) =
            (_mm_unpacklo_epi8(rows[0], rows[1]), _mm_unpackhi_epi8(rows[0], rows[1]));
        let (low_2, high_2) =
            (_mm_unpacklo_epi8(rows[2], rows[3]), _mm_unpackhi_epi8(rows[2], rows[3]));
        let columns: [__m128i; 4] = [
            _mm_unpacklo_epi16(low, low_2),
            _mm_unpackhi_epi16(low, low_2),
            _mm_unpacklo_epi16(high, high_2),
            _mm_unpackhi_epi16(high, high_2),
        ];
        let line = &mut line[at * STEP..][..16 * STEP];
        for (columns, line) in columns.into_iter().zip(line.chunks_exact_mut(16)) {
            // SAFETY: 16 bytes of the line.
            unsafe { _mm_storeu_si128(line.as_mut_ptr().cast(), columns) };
        }
    }
}

/// The sum of every column's codes.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI; `lines` are whole, `sums` is one.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn column_sums(lines: &[u8], sums: &mut [u8]) {
    let ones = _mm512_set1_epi8(1);
    let mut total = [_mm512_setzero_si512(); 3];
    for line in lines.chunks_exact(LINE) {
        for (total, codes) in total.iter_mut().zip(line.chunks_exact(64)) {
            // SAFETY: 64 bytes.
            let codes = unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) };
            *total = _mm512_dpbusd_epi32(*total, ones, codes);
        }
    }
    for (sums, total) in sums.chunks_exact_mut(64).zip(total) {
        // SAFETY: 64 bytes.
        unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), total) };
    }
}

/// Adds `R` rows x panel to a tile.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI. `left` points to `R` rows of `steps * STEP` bytes,
/// `stride` apart; `panel` to `steps + 2` lines; the tile may be written and is nobody else's.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn columns<const R: usize>(
    left: *const u8,
    stride: usize,
    scales: &[f32; ROWS],
    panel: *const u8,
    steps: usize,
    tile: &Tile,
) {
    let mut sums = [[_mm512_setzero_si512(); 3]; R];
    for k in 0..steps {
        // SAFETY: k < steps, and the panel has that many lines of three registers.
        let columns = unsafe {
            let line = panel.add(k * LINE);
            [0, 64, 128].map(|from| _mm512_loadu_si512(line.add(from).cast()))
        };
        macro_rules! row {
            ($i:literal) => {
                if $i < R {
                    // SAFETY: row i of R, step k of its bytes.
                    let four =
                        unsafe { left.add($i * stride + k * STEP).cast::<i32>().read_unaligned() };
                    let four = _mm512_set1_epi32(four);
                    sums[$i][0] = _mm512_dpbusd_epi32(sums[$i][0], four, columns[0]);
                    sums[$i][1] = _mm512_dpbusd_epi32(sums[$i][1], four, columns[1]);
                    sums[$i][2] = _mm512_dpbusd_epi32(sums[$i][2], four, columns[2]);
                }
            };
        }
        every_row!(row);
    }
    // SAFETY: the two lines after the steps.
    let (shift, factors) = unsafe {
        let line = panel.add(steps * LINE);
        let sums = [0, 64, 128].map(|from| _mm512_loadu_si512(line.add(from).cast()));
        let factors = [0, 64, 128].map(|from| _mm512_loadu_ps(line.add(LINE + from).cast()));
        (sums.map(|sums| _mm512_slli_epi32::<7>(sums)), factors)
    };
    macro_rules! store {
        ($i:literal) => {
            if $i < R {
                let scale = _mm512_set1_ps(scales[$i]);
                let sums = [0, 1, 2].map(|part| {
                    let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[$i][part], shift[part]));
                    _mm512_mul_ps(sum, _mm512_mul_ps(scale, factors[part]))
                });
                // SAFETY: row i of R; the caller vouches for the tile.
                unsafe { put(sums, $i, tile) };
            }
        };
    }
    every_row!(store);
}

/// As [`Integral::put_apart`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f")]
unsafe fn put_apart(
    apart: impl Iterator<Item = (f32, usize)>,
    panel: &[u8],
    steps: usize,
    tile: &Tile,
    at: usize,
) {
    assert!(panel.len() >= (steps + 2) * LINE, "the panel is too small");
    let mut sums = [_mm512_setzero_ps(); 3];
    for (number, place) in apart {
        assert!(place < steps * STEP, "a place outside the block");
        let line = panel.as_ptr().wrapping_add(place / STEP * LINE);
        // The code's byte goes to the top of its four, then down again with its sign.
        let up = _mm_cvtsi32_si128(8 * (STEP - 1 - place % STEP) as i32);
        let number = _mm512_set1_ps(number);
        for (part, sum) in sums.iter_mut().enumerate() {
            // SAFETY: one of the panel's lines of three registers.
            let codes = unsafe { _mm512_loadu_si512(line.wrapping_add(64 * part).cast()) };
            let codes = _mm512_srai_epi32::<24>(_mm512_sll_epi32(codes, up));
            *sum = _mm512_fmadd_ps(number, _mm512_cvtepi32_ps(codes), *sum);
        }
    }
    let factors = panel.as_ptr().wrapping_add((steps + 1) * LINE);
    for ((part, sum), mask) in sums.into_iter().enumerate().zip(masks(tile)) {
        let out = tile.out.wrapping_add(at * tile.stride + 16 * part);
        // SAFETY: the panel's last line; the mask leaves only columns of the tile.
        unsafe {
            let factors = _mm512_loadu_ps(factors.wrapping_add(64 * part).cast());
            let before = match tile.add {
                true => _mm512_maskz_loadu_ps(mask, out),
                false => _mm512_setzero_ps(),
            };
            _mm512_mask_storeu_ps(out, mask, _mm512_fmadd_ps(sum, factors, before));
        }
    }
}

//! Products in whole numbers with AVX-512 VNNI: int8 weights times rows rounded to 8 bits.
//!
//! - The instruction multiplies unsigned by signed bytes: rows are kept with 128 added, and 128
//!   times the sum of a column's codes is taken away again.
//! - Sums of a block are exact; blocks are added in f32, and so are the products of numbers that
//!   are kept apart.
//! - The scales along the depth go into the rows before they are rounded, the others into the sums.

use super::rounded::{BLOCK, Quantised, REST_STEPS, STEP};
use super::{COLUMNS, Out, ROWS, Sides, Sizes, Tile, every_row, piece, product};
use crate::products::frozen::{Scales, Side};
use crate::products::gemm::Into;
use std::arch::x86_64::{
    __m128i, _mm_cvtsi32_si128, _mm_loadu_si128, _mm_storeu_si128, _mm_unpackhi_epi8,
    _mm_unpackhi_epi16, _mm_unpacklo_epi8, _mm_unpacklo_epi16, _mm512_add_ps, _mm512_cvtepi32_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_sll_epi32,
    _mm512_slli_epi32, _mm512_srai_epi32, _mm512_storeu_si512, _mm512_sub_epi32,
};
use std::ops::Range;

/// Bytes of a step of a panel, of the sums of its columns, and of their scales.
const LINE: usize = COLUMNS * STEP;

/// `rows x W` or `rows x Wᵀ` with W's codes; the scales along the depth are in the rows already.
pub(in crate::products) struct Integer<'a> {
    left: &'a Quantised,
    codes: &'a [i8],
    scales: &'a Scales,
    side: Side,
    /// Whether this multiplies what the first rounding left over.
    rest: bool,
}

impl<'a> Integer<'a> {
    /// `codes` is row-major `[in, out]`.
    pub(in crate::products) fn new(
        left: &'a Quantised,
        codes: &'a [i8],
        scales: &'a Scales,
        side: Side,
    ) -> Self {
        Self { left, codes, scales, side, rest: false }
    }

    /// `out (+)= left x right`, `columns` of them.
    pub(in crate::products) fn product(&self, columns: usize, out: Out<'_>) {
        let (rows, depth) = (self.left.rows, self.left.depth);
        let (fan_in, fan_out) = match self.side {
            Side::Straight => (depth, columns),
            Side::Turned => (columns, depth),
        };
        assert!(
            self.scales.fans() == (fan_in, fan_out) && fan_in * fan_out == self.codes.len(),
            "sizes differ"
        );
        let sizes = Sizes { rows, depth, columns };
        let Out { numbers, stride, into } = out;
        product(self, sizes, Out { numbers: &mut *numbers, stride, into });
        if !self.left.rest.is_empty() {
            let rest = Self { rest: true, ..*self };
            product(&rest, sizes, Out { numbers, stride, into: Into::Add });
        }
    }

    /// Packs codes `[STEP, COLUMNS]` at a time, the codes of a column side by side.
    fn pack_straight(&self, columns: Range<usize>, depth: Range<usize>, lines: &mut [u8]) {
        let width = self.scales.outs.len();
        let codes: &[u8] = bytemuck::cast_slice(self.codes);
        for (line, k) in lines.chunks_exact_mut(LINE).zip(depth.clone().step_by(STEP)) {
            if columns.len() == COLUMNS && k + STEP <= depth.end {
                let rows =
                    [0, 1, 2, 3].map(|i| &codes[(k + i) * width + columns.start..][..COLUMNS]);
                // SAFETY: every x86-64 has SSE2.
                unsafe { interleave(rows, line) };
                continue;
            }
            line.fill(0);
            for (i, k) in (k..depth.end.min(k + STEP)).enumerate() {
                let row = &codes[k * width..][columns.clone()];
                for (out, code) in line[i..].iter_mut().step_by(STEP).zip(row) {
                    *out = *code;
                }
            }
        }
    }

    /// Packs rows of W as columns: their codes lie side by side already.
    fn pack_turned(&self, columns: Range<usize>, depth: Range<usize>, lines: &mut [u8]) {
        let width = self.scales.outs.len();
        let codes: &[u8] = bytemuck::cast_slice(self.codes);
        if columns.len() < COLUMNS || !depth.len().is_multiple_of(STEP) {
            lines.fill(0);
        }
        let (lines, _) = lines.as_chunks_mut::<STEP>();
        for (place, column) in columns.enumerate() {
            let row = &codes[column * width..][depth.clone()];
            let (steps, rest) = row.as_chunks::<STEP>();
            let places = lines[place..].iter_mut().step_by(COLUMNS);
            places.zip(steps).for_each(|(line, step)| *line = *step);
            if !rest.is_empty() {
                lines[steps.len() * COLUMNS + place][..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

impl Sides for Integer<'_> {
    const DEPTH: usize = BLOCK;
    const STEP: usize = STEP;

    fn panel_len(depth: usize) -> usize {
        (depth.div_ceil(STEP) + 2) * LINE / size_of::<f32>()
    }

    fn pack(&self, columns: Range<usize>, depth: Range<usize>, panel: &mut [f32]) {
        let panel: &mut [u8] = bytemuck::cast_slice_mut(panel);
        let (lines, rest) = panel.split_at_mut(depth.len().div_ceil(STEP) * LINE);
        let (sums, factors) = rest.split_at_mut(LINE);
        match self.side {
            Side::Straight => self.pack_straight(columns.clone(), depth, lines),
            Side::Turned => self.pack_turned(columns.clone(), depth, lines),
        }
        assert!(lines.len() % LINE == 0 && sums.len() == LINE, "the panel is too small");
        // SAFETY: whole lines and a line for the sums; by building this type the caller vouches
        // for the processor.
        unsafe { column_sums(lines, sums) };
        let factors: &mut [f32] = bytemuck::cast_slice_mut(&mut factors[..LINE]);
        factors.fill(1.0);
        let scales = match self.side {
            Side::Straight => &self.scales.outs,
            Side::Turned => &self.scales.ins,
        };
        factors[..columns.len()].copy_from_slice(&scales[columns]);
    }

    unsafe fn tile(&self, rows: Range<usize>, depth: Range<usize>, panel: &[f32], tile: &Tile) {
        let panel: &[u8] = bytemuck::cast_slice(panel);
        let steps = depth.len().div_ceil(STEP);
        assert!(panel.len() >= (steps + 2) * LINE, "the panel is too small");
        let stride = self.left.stride();
        let (codes, step) = match self.rest {
            false => (&self.left.codes, 1.0),
            true => (&self.left.rest, 1.0 / REST_STEPS),
        };
        let bytes: &[u8] = bytemuck::cast_slice(codes);
        let first = rows.start * stride + depth.start;
        let reach = (rows.len() - 1) * stride + steps * STEP;
        let left = bytes[first..first + reach].as_ptr();
        let pieces = self.left.scales.len() / self.left.rows;
        let index = depth.start / piece::<Self>(self.left.depth);
        let mut scales = [0f32; ROWS];
        for (scale, row) in scales.iter_mut().zip(rows.clone()) {
            *scale = self.left.scales[row * pieces + index] * step;
        }
        let apart = |row: usize| self.left.apart(row * pieces + index);
        let far = rows.clone().any(|row| apart(row).next().is_some());
        if far {
            for (at, row) in rows.clone().enumerate() {
                // SAFETY: a row of the tile; the caller vouches for it as above.
                unsafe { put_apart(apart(row), panel, steps, tile, at) };
            }
        }
        let tile = &Tile { add: tile.add || far, ..*tile };
        let from = panel.as_ptr();
        // SAFETY: every byte of these rows and steps was checked; the caller vouches for the tile
        // and, by building this type, for the processor.
        unsafe {
            match rows.len() {
                1 => columns::<1>(left, stride, &scales, from, steps, tile),
                2 => columns::<2>(left, stride, &scales, from, steps, tile),
                3 => columns::<3>(left, stride, &scales, from, steps, tile),
                4 => columns::<4>(left, stride, &scales, from, steps, tile),
                5 => columns::<5>(left, stride, &scales, from, steps, tile),
                6 => columns::<6>(left, stride, &scales, from, steps, tile),
                7 => columns::<7>(left, stride, &scales, from, steps, tile),
                _ => columns::<ROWS>(left, stride, &scales, from, steps, tile),
            }
        }
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
    let masks = tile.masks();
    macro_rules! store {
        ($i:literal) => {
            if $i < R {
                let scale = _mm512_set1_ps(scales[$i]);
                for part in 0..3 {
                    let out = tile.out.wrapping_add($i * tile.stride + 16 * part);
                    let sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[$i][part], shift[part]));
                    let sum = _mm512_mul_ps(sum, _mm512_mul_ps(scale, factors[part]));
                    // SAFETY: the mask leaves only columns of the tile.
                    unsafe {
                        let before = match tile.add {
                            true => _mm512_maskz_loadu_ps(masks[part], out),
                            false => _mm512_setzero_ps(),
                        };
                        _mm512_mask_storeu_ps(out, masks[part], _mm512_add_ps(before, sum));
                    }
                }
            }
        };
    }
    every_row!(store);
}

/// Puts numbers times their columns of a panel, each with its place in the depth, into row `at` of a
/// tile, before the rest is added: a sum that was stored just now is slow to be read again.
///
/// # Safety
/// The processor has AVX-512 F. The tile's row may be written and is nobody else's.
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
    for ((part, sum), mask) in sums.into_iter().enumerate().zip(tile.masks()) {
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

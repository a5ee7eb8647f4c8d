//! Products in whole numbers with AVX-512 VNNI: int8 weights times rows rounded to 8 bits.
//!
//! - A row is rounded in blocks of the depth with a scale each, so that a large number spoils only
//!   its block. Sums of a block are exact; blocks are added in f32.
//! - The instruction multiplies unsigned by signed bytes: rows are kept with 128 added, and 128
//!   times the sum of a column's codes is taken away again.
//! - Where the depth is `out`, the scales of the outputs go into the rows before they are rounded.
//! - Rows whose small numbers count in sum are rounded twice: what the first rounding left over is
//!   rounded in turn, and both are multiplied.

use super::{COLUMNS, Out, ROWS, Sides, Sizes, Tile, every_row, mask, piece, product};
use crate::products::frozen::{CODE_MAX, Side};
use crate::products::gemm::{Into, View};
use crate::products::pool::Pool;
use crate::products::rows_per_task;
use rayon::prelude::*;
use std::arch::x86_64::{
    __m128i, _mm_loadu_si128, _mm_storeu_si128, _mm_unpackhi_epi8, _mm_unpackhi_epi16,
    _mm_unpacklo_epi8, _mm_unpacklo_epi16, _mm512_abs_ps, _mm512_add_epi32, _mm512_add_ps,
    _mm512_cvtepi32_ps, _mm512_cvtps_epi32, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_cvtepi32_storeu_epi8, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_ps,
    _mm512_reduce_max_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_storeu_si512, _mm512_sub_epi32, _mm512_sub_ps,
};
use std::ops::Range;

/// Codes of the depth that one instruction multiplies and adds.
const STEP: usize = 4;
/// Bytes of a step of a panel, of the sums of its columns, and of their scales.
const LINE: usize = COLUMNS * STEP;

/// Rows rounded to 8 bits.
pub(in crate::products) struct Quantised {
    rows: usize,
    depth: usize,
    /// `[rows, stride]` bytes, each a code plus 128; the stride is the depth rounded up to `STEP`.
    codes: Vec<f32>,
    /// What rounding left over, rounded in steps of 1/254 of the scale; empty when not wanted.
    rest: Vec<f32>,
    /// `[rows, pieces]`.
    scales: Vec<f32>,
}

/// How finely rows are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::products) enum Rounding {
    /// To 8 bits.
    Once,
    /// To 16 bits, for twice the work.
    Twice,
}

/// Steps of the second rounding in one of the first: a rest is half a step at most.
const REST_STEPS: f32 = 2.0 * CODE_MAX;

impl Quantised {
    /// Rounds `rows`, each number times the factor of its column where there are any.
    pub(in crate::products) fn new(
        rows: View<'_>,
        factors: Option<&[f32]>,
        rounding: Rounding,
        pool: &Pool,
    ) -> Self {
        let (count, depth) = rows.dims();
        let stride = depth.next_multiple_of(STEP);
        let step = piece::<Integer<'_>>(depth);
        let mut codes = pool.take((count * stride).div_ceil(size_of::<f32>()));
        let pieces = depth.div_ceil(step);
        let mut scales = pool.take(count * pieces);
        let task = rows_per_task(count);
        let mut rest = match rounding {
            Rounding::Once => Vec::new(),
            Rounding::Twice => pool.take(codes.len()),
        };
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut codes);
        let rests: &mut [u8] = bytemuck::cast_slice_mut(&mut rest);
        // Without rests every task gets none of them.
        let rest_task = if rests.is_empty() { 0 } else { task * stride };
        let mut rests = rests.chunks_mut(rest_task.max(1));
        let rests: Vec<&mut [u8]> =
            (0..count.div_ceil(task)).map(|_| rests.next().unwrap_or_default()).collect();
        bytes[..count * stride]
            .par_chunks_mut(task * stride)
            .zip(rests)
            .zip(scales.par_chunks_mut(task * pieces))
            .enumerate()
            .for_each(|(index, ((codes, rests), scales))| {
                let codes = codes.chunks_exact_mut(stride).zip(scales.chunks_exact_mut(pieces));
                let mut rests = rests.chunks_mut(stride);
                for (row, (codes, scales)) in (index * task..).zip(codes) {
                    let mut rest = rests.next().unwrap_or_default().chunks_mut(step);
                    let row = rows.row(row).chunks(step).enumerate();
                    for (((at, row), codes), scale) in row.zip(codes.chunks_mut(step)).zip(scales) {
                        let factors = factors.map(|factors| &factors[at * step..][..row.len()]);
                        let rest = rest.next().unwrap_or_default();
                        // SAFETY: only built where the processor has these instructions.
                        *scale = unsafe { round(row, factors, codes, rest) };
                    }
                }
            });
        Self { rows: count, depth, codes, rest, scales }
    }

    /// Its buffers, for the pool.
    pub(in crate::products) fn buffers(self) -> [Vec<f32>; 3] {
        [self.codes, self.rest, self.scales]
    }

    fn stride(&self) -> usize {
        self.depth.next_multiple_of(STEP)
    }
}

/// Rounds numbers, each times its factor, to codes plus 128 and gives their scale: not a number
/// when one of them is none. `codes` may be longer; what is over becomes zeros. `rest`, as long as
/// the codes or empty, gets what was left over, rounded and plus 128 too.
///
/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn round(
    numbers: &[f32],
    factors: Option<&[f32]>,
    codes: &mut [u8],
    rest: &mut [u8],
) -> f32 {
    assert!(rest.is_empty() || rest.len() == codes.len(), "a rest each or none");
    assert!(factors.is_none_or(|factors| factors.len() == numbers.len()), "a factor each");
    assert!(codes.len() >= numbers.len(), "a code each");
    let load = |at: usize| {
        let mask = mask(numbers.len() - at);
        // SAFETY: the mask leaves what lies in the slices; both are as long.
        unsafe {
            let some = _mm512_maskz_loadu_ps(mask, numbers.as_ptr().wrapping_add(at));
            match factors {
                Some(factors) => {
                    let factors = factors.as_ptr().wrapping_add(at);
                    _mm512_mul_ps(some, _mm512_maskz_loadu_ps(mask, factors))
                }
                None => some,
            }
        }
    };
    let (mut largest, mut taint) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for at in (0..numbers.len()).step_by(16) {
        let some = load(at);
        largest = _mm512_max_ps(_mm512_abs_ps(some), largest);
        taint = _mm512_fmadd_ps(some, _mm512_setzero_ps(), taint);
    }
    let largest = _mm512_reduce_max_ps(largest);
    let inverse = _mm512_set1_ps(if largest > 0.0 { CODE_MAX / largest } else { 0.0 });
    let (steps, shift) = (_mm512_set1_ps(REST_STEPS), _mm512_set1_epi32(128));
    for at in (0..numbers.len()).step_by(16) {
        let mask = mask(numbers.len() - at);
        let exact = _mm512_mul_ps(load(at), inverse);
        let near = _mm512_cvtps_epi32(exact);
        // SAFETY: the mask leaves what lies in `codes`, and in `rest` where there is any.
        unsafe {
            let out = codes.as_mut_ptr().wrapping_add(at).cast();
            _mm512_mask_cvtepi32_storeu_epi8(out, mask, _mm512_add_epi32(near, shift));
            if !rest.is_empty() {
                let left = _mm512_sub_ps(exact, _mm512_cvtepi32_ps(near));
                let left = _mm512_cvtps_epi32(_mm512_mul_ps(left, steps));
                let out = rest.as_mut_ptr().wrapping_add(at).cast();
                _mm512_mask_cvtepi32_storeu_epi8(out, mask, _mm512_add_epi32(left, shift));
            }
        }
    }
    codes[numbers.len()..].fill(128);
    if let Some(over) = rest.get_mut(numbers.len()..) {
        over.fill(128);
    }
    largest / CODE_MAX + _mm512_reduce_add_ps(taint)
}

/// `rows x W` or `rows x Wᵀ` with W's codes and the scales of its outputs.
pub(in crate::products) struct Integer<'a> {
    left: &'a Quantised,
    codes: &'a [i8],
    scales: &'a [f32],
    side: Side,
    /// Whether this multiplies what the first rounding left over.
    rest: bool,
}

impl<'a> Integer<'a> {
    /// `codes` is row-major `[in, out]`, `scales` `[out]`.
    pub(in crate::products) fn new(
        left: &'a Quantised,
        codes: &'a [i8],
        scales: &'a [f32],
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
            self.scales.len() == fan_out && fan_in * fan_out == self.codes.len(),
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
        let width = self.scales.len();
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
        let width = self.scales.len();
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
    const DEPTH: usize = 256;
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
        if self.side == Side::Straight {
            factors[..columns.len()].copy_from_slice(&self.scales[columns]);
        }
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
        let panel = panel.as_ptr();
        // SAFETY: every byte of these rows and steps was checked; the caller vouches for the tile
        // and, by building this type, for the processor.
        unsafe {
            match rows.len() {
                1 => columns::<1>(left, stride, &scales, panel, steps, tile),
                2 => columns::<2>(left, stride, &scales, panel, steps, tile),
                3 => columns::<3>(left, stride, &scales, panel, steps, tile),
                4 => columns::<4>(left, stride, &scales, panel, steps, tile),
                5 => columns::<5>(left, stride, &scales, panel, steps, tile),
                6 => columns::<6>(left, stride, &scales, panel, steps, tile),
                7 => columns::<7>(left, stride, &scales, panel, steps, tile),
                _ => columns::<ROWS>(left, stride, &scales, panel, steps, tile),
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

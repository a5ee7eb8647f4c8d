//! A few rows times a frozen matrix that is read as it lies, with AVX-512: eight rows by 48 columns in
//! registers, as in `avx512`, and no panel.
//!
//! - To pack is to read W, to write it in f32 and to read that again. It pays where many rows share a
//!   panel; of a few it costs as much as the sums.
//! - Rows of W lie farther apart than the processor fetches ahead by itself, so each is asked for while
//!   others are summed.
//! - Invariant: the bits are those of the packed product. A sum takes the same numbers in the same order, in
//!   the same parts of the depth.
//! - Never here: W turned, whose columns would have to be turned in registers; int8.

use super::avx512::{every_row, masks, put_rows};
use super::{COLUMNS, Float, Out, ROWS, Rows, Shared, Tile, panel_columns, piece, shares};
use crate::products::frozen::Floats;
use crate::products::gemm::{Into, View};
use half::{bf16, f16};
use rayon::prelude::*;
use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm256_maskz_loadu_epi16, _mm512_castsi512_ps,
    _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_slli_epi32,
};

/// Most rows: with more, widening W again for every eight of them comes to cost what packing it once does.
const ROWS_MAX: usize = 64;
/// How many rows of W are under way from memory.
const AHEAD: usize = 24;

/// `left [rows, depth] x W`.
pub(in crate::products) struct Few<'a> {
    left: View<'a>,
    right: Floats<'a>,
}

/// Numbers of W that lie in memory.
trait Number: Copy + Sync {
    /// Those of 16 that the mask leaves, in f32, zeros for the others.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW and VL; what the mask leaves can be read.
    unsafe fn load(from: *const Self, mask: u16) -> __m512;
}

impl Number for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(from: *const Self, mask: u16) -> __m512 {
        // SAFETY: as the caller vouches.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
}

impl Number for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(from: *const Self, mask: u16) -> __m512 {
        // SAFETY: as the caller vouches.
        let halves = unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }
}

impl Number for f16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(from: *const Self, mask: u16) -> __m512 {
        // SAFETY: as the caller vouches.
        _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) })
    }
}

impl<'a> Few<'a> {
    /// `right` is row-major `[in, out]`; none where the rows are many, or this processor or these numbers
    /// are served otherwise.
    pub(in crate::products) fn new(left: View<'a>, right: Floats<'a>) -> Option<Self> {
        let serves = left.dims().0 <= ROWS_MAX
            && !matches!(right, Floats::Int8(..))
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        serves.then_some(Self { left, right })
    }

    /// `out (+)= left x right`, `columns` of them, which are all that W has.
    ///
    /// # Panics
    /// When `out` does not hold the matrix, or sizes differ: a bug of the caller, never of input.
    pub(in crate::products) fn product(&self, columns: usize, out: Out<'_>) {
        match self.right {
            Floats::F32(numbers) => self.of(numbers, columns, out),
            Floats::Bf16(numbers) => self.of(numbers, columns, out),
            Floats::F16(numbers) => self.of(numbers, columns, out),
            Floats::Int8(..) => {}
        }
    }

    fn of<T: Number>(&self, right: &[T], columns: usize, out: Out<'_>) {
        let ((rows, depth), Out { numbers, stride, into }) = (self.left.dims(), out);
        assert_eq!(right.len(), depth * columns, "sizes differ");
        if rows == 0 || columns == 0 {
            return;
        }
        let reach = (rows - 1) * stride + columns;
        assert!(stride >= columns && reach <= numbers.len(), "the output is too small");
        let (place, step) = (&Shared(numbers.as_mut_ptr()), piece::<Float<'_>>(depth));
        let (row_stride, number_stride) = self.left.strides();
        let shares = shares(rows, columns.div_ceil(COLUMNS), rayon::current_num_threads());
        shares.into_par_iter().with_max_len(1).for_each(|share| {
            for start in (0..depth.max(1)).step_by(step) {
                let span = start..depth.min(start + step);
                for panel in share.panels.clone() {
                    let at = panel_columns(panel, columns);
                    let add = into == Into::Add || start > 0;
                    for row in share.rows.clone().step_by(ROWS) {
                        let count = ROWS.min(share.rows.end - row);
                        let first = match span.len() {
                            0 => std::ptr::null(),
                            _ => self.left.part(row..row + count, span.clone()).as_ptr(),
                        };
                        let left = Rows { first, count, stride: row_stride, step: number_stride };
                        let first = right.as_ptr().wrapping_add(start * columns + at.start);
                        let right = Lying { first, width: columns, depth: span.len() };
                        // SAFETY: row and first column lie in the output, as asserted above.
                        let out = unsafe { place.0.add(row * stride + at.start) };
                        let tile = Tile { out, stride, columns: at.len(), add };
                        // SAFETY: the processor was asked; `part` holds every number of the rows, and W
                        // those of these columns and this part of the depth, by its length; no two
                        // shares hold the same tile.
                        unsafe { sum(left, right, &tile) };
                    }
                }
            }
        });
    }
}

/// Some columns of part of the depth of W: rows that are `width` apart.
#[derive(Clone, Copy)]
struct Lying<T> {
    first: *const T,
    width: usize,
    depth: usize,
}

/// Adds rows x W to a tile.
///
/// # Safety
/// The processor has AVX-512 F, BW and VL. The rows have `right.depth` numbers each, at most `ROWS`; as many
/// rows of W have the tile's columns; the tile's numbers may be written and are nobody else's.
unsafe fn sum<T: Number>(left: Rows, right: Lying<T>, tile: &Tile) {
    // SAFETY: as the caller vouches.
    unsafe {
        match left.count {
            1 => columns::<T, 1>(left, right, tile),
            2 => columns::<T, 2>(left, right, tile),
            3 => columns::<T, 3>(left, right, tile),
            4 => columns::<T, 4>(left, right, tile),
            5 => columns::<T, 5>(left, right, tile),
            6 => columns::<T, 6>(left, right, tile),
            7 => columns::<T, 7>(left, right, tile),
            _ => columns::<T, ROWS>(left, right, tile),
        }
    }
}

/// Adds `R` rows x W to a tile.
///
/// # Safety
/// As [`sum`], of `R` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn columns<T: Number, const R: usize>(left: Rows, right: Lying<T>, tile: &Tile) {
    let Rows { first, stride, step, .. } = left;
    let (masks, next) = (masks(tile), right.first.wrapping_add(COLUMNS));
    let mut sums = [[_mm512_setzero_ps(); 3]; R];
    for k in 0..right.depth {
        // After the last row of these columns come those beside them.
        let ahead = match k + AHEAD < right.depth {
            true => right.first.wrapping_add((k + AHEAD) * right.width),
            false => next.wrapping_add((k + AHEAD - right.depth) * right.width),
        };
        // Asking for what is not there does nothing.
        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(COLUMNS - 1).cast());
        let row = right.first.wrapping_add(k * right.width);
        // SAFETY: row k < depth; the masks leave the tile's columns.
        let columns =
            unsafe { [0, 1, 2].map(|part| T::load(row.wrapping_add(16 * part), masks[part])) };
        macro_rules! row {
            ($i:literal) => {
                if $i < R {
                    // SAFETY: row i of R, number k of depth.
                    let number = _mm512_set1_ps(unsafe { *first.add($i * stride + k * step) });
                    sums[$i][0] = _mm512_fmadd_ps(number, columns[0], sums[$i][0]);
                    sums[$i][1] = _mm512_fmadd_ps(number, columns[1], sums[$i][1]);
                    sums[$i][2] = _mm512_fmadd_ps(number, columns[2], sums[$i][2]);
                }
            };
        }
        every_row!(row);
    }
    // SAFETY: the caller vouches for the tile.
    unsafe { put_rows!(R, sums, tile) };
}

//! Rows as the products in whole numbers want them: rounded to 8 bits.
//!
//! - A row is rounded in blocks of the depth with a scale each, so that a large number spoils only
//!   its block.
//! - Rows whose small numbers count in sum are rounded twice: what the first rounding left over is
//!   rounded in turn, and both are multiplied.

use super::{Integer, mask, piece};
use crate::products::frozen::CODE_MAX;
use crate::products::gemm::View;
use crate::products::pool::Pool;
use crate::products::rows_per_task;
use rayon::prelude::*;
use std::arch::x86_64::{
    _mm512_abs_ps, _mm512_add_epi32, _mm512_cvtepi32_ps, _mm512_cvtps_epi32, _mm512_fmadd_ps,
    _mm512_mask_cvtepi32_storeu_epi8, _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_mul_ps,
    _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_sub_ps,
};

/// Codes of the depth that one instruction multiplies and adds.
pub(super) const STEP: usize = 4;

/// Rows rounded to 8 bits.
pub(in crate::products) struct Quantised {
    pub(super) rows: usize,
    pub(super) depth: usize,
    /// `[rows, stride]` bytes, each a code plus 128; the stride is the depth rounded up to `STEP`.
    pub(super) codes: Vec<f32>,
    /// What rounding left over, rounded in steps of 1/254 of the scale; empty when not wanted.
    pub(super) rest: Vec<f32>,
    /// `[rows, pieces]`.
    pub(super) scales: Vec<f32>,
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
pub(super) const REST_STEPS: f32 = 2.0 * CODE_MAX;

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

    pub(super) fn stride(&self) -> usize {
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

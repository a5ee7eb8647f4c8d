//! The rounding of a block for processors with AVX-512, whose products are VNNI's.

use super::{BLOCK, Block, REST_STEPS, SHIFT, SOME, set_apart};
use crate::products::frozen::CODE_MAX;
use crate::products::panel::avx512::mask;
use std::arch::x86_64::{
    _CMP_GT_OQ, _mm512_abs_ps, _mm512_add_epi32, _mm512_cmp_ps_mask, _mm512_cvtepi32_ps,
    _mm512_cvtps_epi32, _mm512_fmadd_ps, _mm512_load_ps, _mm512_mask_cvtepi32_storeu_epi8,
    _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_ps,
    _mm512_reduce_max_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_store_ps,
    _mm512_sub_ps,
};

/// As [`super::round`], which has filled what is over.
///
/// # Safety
/// The processor has AVX-512 F. There are a factor and a code for each number, and a rest for each
/// code or none.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn round(
    numbers: &[f32],
    factors: &[f32],
    codes: &mut [u8],
    rest: &mut [u8],
    apart: &mut [f32],
) -> f32 {
    let mut block = Block([0.0; BLOCK]);
    let (mut largest, mut squares) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for (at, block) in (0..numbers.len()).step_by(SOME).zip(block.0.as_chunks_mut::<SOME>().0) {
        let mask = mask(numbers.len() - at);
        // SAFETY: the mask leaves what lies in the slices, both as long; a register of the block.
        unsafe {
            let some = _mm512_maskz_loadu_ps(mask, numbers.as_ptr().wrapping_add(at));
            let factors = _mm512_maskz_loadu_ps(mask, factors.as_ptr().wrapping_add(at));
            let some = _mm512_mul_ps(some, factors);
            largest = _mm512_max_ps(_mm512_abs_ps(some), largest);
            squares = _mm512_fmadd_ps(some, some, squares);
            _mm512_store_ps(block.as_mut_ptr(), some);
        }
    }
    let spread = (_mm512_reduce_max_ps(largest), _mm512_reduce_add_ps(squares));
    let largest = set_apart(
        &mut block,
        numbers.len(),
        spread,
        apart,
        |numbers, bound, pairs| move_over(numbers, bound, pairs),
        |numbers| self::spread(numbers),
    );
    let inverse = _mm512_set1_ps(if largest > 0.0 { CODE_MAX / largest } else { 0.0 });
    let (steps, shift) = (_mm512_set1_ps(REST_STEPS), _mm512_set1_epi32(SHIFT.into()));
    for (at, some) in (0..numbers.len()).step_by(SOME).zip(block.0.as_chunks::<SOME>().0) {
        let mask = mask(numbers.len() - at);
        // SAFETY: a register of the block; the mask leaves what lies in `codes`, and in `rest`
        // where there is any.
        unsafe {
            let exact = _mm512_mul_ps(_mm512_load_ps(some.as_ptr()), inverse);
            let near = _mm512_cvtps_epi32(exact);
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
    // The largest of some passes over what is no number; their sum does not.
    if spread.1.is_nan() { f32::NAN } else { largest / CODE_MAX }
}

/// Moves the numbers larger than a bound to `pairs`, each with its place, while there are any left.
#[target_feature(enable = "avx512f")]
fn move_over(numbers: &mut [f32], bound: f32, pairs: &mut std::slice::IterMut<'_, [f32; 2]>) {
    for (index, some) in numbers.as_chunks_mut::<SOME>().0.iter_mut().enumerate() {
        // SAFETY: a register of a block, which is aligned.
        let sizes = unsafe { _mm512_abs_ps(_mm512_load_ps(some.as_ptr())) };
        let mut over = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(sizes, _mm512_set1_ps(bound));
        while over != 0 {
            let Some(pair) = pairs.next() else { return };
            let at = over.trailing_zeros() as usize;
            *pair = [std::mem::take(&mut some[at]), (index * SOME + at) as f32];
            over &= over - 1;
        }
    }
}

/// The largest size, and the sum of squares, of whole registers of numbers.
#[target_feature(enable = "avx512f")]
fn spread(numbers: &[f32]) -> (f32, f32) {
    let (mut largest, mut squares) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for some in numbers.as_chunks::<SOME>().0 {
        // SAFETY: a register of a block, which is aligned.
        let some = unsafe { _mm512_load_ps(some.as_ptr()) };
        largest = _mm512_max_ps(_mm512_abs_ps(some), largest);
        squares = _mm512_fmadd_ps(some, some, squares);
    }
    (_mm512_reduce_max_ps(largest), _mm512_reduce_add_ps(squares))
}

//! The rounding of a block for processors with AVX-512, whose products are VNNI's.

use super::{BLOCK, Block, FAR, REST_STEPS, SOME};
use crate::products::frozen::CODE_MAX;
use crate::products::panel::avx512::mask;
use std::arch::x86_64::{
    _CMP_GT_OQ, _mm512_abs_ps, _mm512_add_epi32, _mm512_cmp_ps_mask, _mm512_cvtepi32_ps,
    _mm512_cvtps_epi32, _mm512_fmadd_ps, _mm512_load_ps, _mm512_mask_cvtepi32_storeu_epi8,
    _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_ps,
    _mm512_reduce_max_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_store_ps,
    _mm512_sub_ps,
};

/// Rounds numbers, each times its factor, to codes plus 128 and gives their scale: not a number
/// when one of them is none. `codes` may be longer; what is over becomes zeros. `rest`, as long as
/// the codes or empty, gets what was left over, rounded and plus 128 too; `apart` a block's list of
/// what is far above the others, of which the codes are zeros, or is empty and gets nothing.
///
/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn round(
    numbers: &[f32],
    factors: &[f32],
    codes: &mut [u8],
    rest: &mut [u8],
    apart: &mut [f32],
) -> f32 {
    assert!(rest.is_empty() || rest.len() == codes.len(), "a rest each or none");
    assert!(factors.len() == numbers.len() && numbers.len() <= BLOCK, "a factor each");
    assert!(codes.len() >= numbers.len(), "a code each");
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
    let largest = set_apart(&mut block, numbers.len(), spread, apart);
    let inverse = _mm512_set1_ps(if largest > 0.0 { CODE_MAX / largest } else { 0.0 });
    let (steps, shift) = (_mm512_set1_ps(REST_STEPS), _mm512_set1_epi32(128));
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
    codes[numbers.len()..].fill(128);
    if let Some(over) = rest.get_mut(numbers.len()..) {
        over.fill(128);
    }
    // The largest of some passes over what is no number; their sum does not.
    if spread.1.is_nan() { f32::NAN } else { largest / CODE_MAX }
}

/// Moves numbers far above the others from a block of `count` to its list, as long as there are any
/// and room for them; `spread` is its own, and what comes back is the largest size that stays.
#[target_feature(enable = "avx512f")]
fn set_apart(block: &mut Block, count: usize, mut spread: (f32, f32), list: &mut [f32]) -> f32 {
    let mut pairs = list.as_chunks_mut::<2>().0.iter_mut();
    let used = count.next_multiple_of(SOME);
    loop {
        let (largest, squares) = spread;
        let bound = FAR * (squares / count as f32).sqrt();
        if largest <= bound || bound.is_nan() || pairs.len() == 0 {
            break;
        }
        move_over(&mut block.0[..used], bound, &mut pairs);
        spread = self::spread(&block.0[..used]);
    }
    pairs.for_each(|pair| *pair = [0.0; 2]);
    spread.0
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

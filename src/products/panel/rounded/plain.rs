//! The rounding of a block in plain loops, which the compiler makes wide.
//!
//! - Invariant: the codes, scales and lists are those of AVX-512 to the bit: sums are fused and split
//!   in sixteen, and added up in the same order.

use super::{BLOCK, Block, REST_STEPS, SHIFT, SOME, set_apart};
use crate::products::frozen::CODE_MAX;

/// As [`super::round`], which has filled what is over.
pub(super) fn round(
    numbers: &[f32],
    factors: &[f32],
    codes: &mut [u8],
    rest: &mut [u8],
    apart: &mut [f32],
) -> f32 {
    let (mut block, count) = (Block([0.0; BLOCK]), numbers.len());
    for ((number, factor), out) in numbers.iter().zip(factors).zip(&mut block.0) {
        *out = number * factor;
    }
    let spread = spread(&block.0[..count.next_multiple_of(SOME)]);
    let largest = set_apart(&mut block, count, spread, apart, move_over, self::spread);
    let inverse = if largest > 0.0 { CODE_MAX / largest } else { 0.0 };
    // Numbers too small for that have no codes.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    // What is no number becomes 0.
    let near = |number: f32| (number * inverse).round_ties_even() as i32;
    for (number, code) in block.0.iter().zip(&mut codes[..count]) {
        *code = shifted(near(*number));
    }
    // As many as there are, or none.
    for ((number, rest), _) in block.0.iter().zip(rest).zip(numbers) {
        let left = (number * inverse - near(*number) as f32) * REST_STEPS;
        *rest = shifted(left.round_ties_even() as i32);
    }
    // The largest of some passes over what is no number; their sum does not.
    if spread.1.is_nan() { f32::NAN } else { largest / CODE_MAX }
}

fn shifted(code: i32) -> u8 {
    (code + i32::from(SHIFT)) as u8
}

fn move_over(numbers: &mut [f32], bound: f32, pairs: &mut std::slice::IterMut<'_, [f32; 2]>) {
    for (number, place) in numbers.iter_mut().zip(0u16..).filter(|(number, _)| number.abs() > bound)
    {
        let Some(pair) = pairs.next() else { return };
        *pair = [std::mem::take(number), place.into()];
    }
}

/// The largest size, and the sum of squares, of whole registers of numbers.
fn spread(numbers: &[f32]) -> (f32, f32) {
    let (mut largest, mut squares) = ([0f32; SOME], [0f32; SOME]);
    for some in numbers.as_chunks::<SOME>().0 {
        for i in 0..SOME {
            let size = some[i].abs();
            largest[i] = if size > largest[i] { size } else { largest[i] };
            squares[i] = some[i].mul_add(some[i], squares[i]);
        }
    }
    let eight: [f32; 8] = std::array::from_fn(|i| squares[i] + squares[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (largest.into_iter().fold(0.0, f32::max), (four[0] + four[2]) + (four[1] + four[3]))
}

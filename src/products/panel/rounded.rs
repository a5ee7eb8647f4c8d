//! Rows as the products in whole numbers want them: rounded to 8 bits.
//!
//! - A row is rounded in blocks of the depth with a scale each, so that a large number spoils only
//!   its block; and not even that where it is far above the rest: such numbers are kept apart, in
//!   f32, and the scale is that of the others. A trained model has a few such channels in most rows.
//! - Rows whose small numbers count in sum are rounded twice: what the first rounding left over is
//!   rounded in turn, and both are multiplied. Nothing is kept apart then.
//! - Invariant: what becomes of a number follows from its block alone.
//!
//! Source of keeping apart: LLM.int8(), arXiv 2208.07339, by channels there, by numbers here.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(test, not(target_arch = "x86_64")))]
mod plain;

use super::{Integer, piece};
use crate::products::frozen::CODE_MAX;
use crate::products::gemm::View;
use crate::products::pool::Pool;
use crate::products::rows_per_task;
use rayon::prelude::*;

/// Codes of the depth that one instruction multiplies and adds.
pub(super) const STEP: usize = 4;
/// Most numbers of a block.
pub(super) const BLOCK: usize = 256;
/// Most numbers of a block that are kept apart.
const APART_MAX: usize = 8;
/// Places of a block's list of them: each is a number and where it stands; a zero ends the list.
const APART: usize = 2 * APART_MAX;
/// How many times the root mean square of its block a number must be to be kept apart. Evenly spread
/// numbers reach 1.7, normal ones 3; with 6 three times as many are kept apart as with 8.
const FAR: f32 = 8.0;
/// What is added to a code where it is kept: VNNI multiplies unsigned by signed bytes, NEON signed ones.
pub(super) const SHIFT: u8 = if cfg!(target_arch = "x86_64") { 128 } else { 0 };
/// Numbers of a register of AVX-512. The sums of others are split alike, so that all get the same.
const SOME: usize = 16;

/// Rows rounded to 8 bits.
pub(in crate::products) struct Quantised {
    pub(super) rows: usize,
    pub(super) depth: usize,
    /// `[rows, stride]` bytes, each a code plus [`SHIFT`]; the stride is the depth rounded up to `STEP`.
    pub(super) codes: Vec<f32>,
    /// What rounding left over, rounded in steps of 1/254 of the scale; empty when not wanted.
    pub(super) rest: Vec<f32>,
    /// `[rows, pieces]`.
    pub(super) scales: Vec<f32>,
    /// `[rows, pieces, APART]`; empty where rows are rounded twice.
    apart: Vec<f32>,
}

/// How finely rows are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::products) enum Rounding {
    /// To 8 bits, but for numbers far above the rest of their block.
    Once,
    /// To 16 bits, for twice the work.
    Twice,
}

/// Steps of the second rounding in one of the first: a rest is half a step at most.
pub(super) const REST_STEPS: f32 = 2.0 * CODE_MAX;

impl Quantised {
    /// Rounds `rows`, each number times the factor of its column.
    pub(in crate::products) fn new(
        rows: View<'_>,
        factors: &[f32],
        rounding: Rounding,
        pool: &Pool,
    ) -> Self {
        let (count, depth) = rows.dims();
        let (stride, step) = (depth.next_multiple_of(STEP), piece::<Integer<'_>>(depth));
        let pieces = depth.div_ceil(step);
        let mut codes = pool.take((count * stride).div_ceil(size_of::<f32>()));
        let mut scales = pool.take(count * pieces);
        let (mut rest, mut apart) = match rounding {
            Rounding::Once => (Vec::new(), pool.take(count * pieces * APART)),
            Rounding::Twice => (pool.take(codes.len()), Vec::new()),
        };
        let task = rows_per_task(count);
        let tasks = count.div_ceil(task);
        let rests = parts(bytemuck::cast_slice_mut(&mut rest), task * stride, tasks);
        let aparts = parts(&mut apart, task * pieces * APART, tasks);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut codes);
        bytes[..count * stride]
            .par_chunks_mut(task * stride)
            .zip(scales.par_chunks_mut(task * pieces))
            .zip(rests.into_par_iter().zip(aparts))
            .enumerate()
            .for_each(|(index, ((codes, scales), (rests, aparts)))| {
                let (mut rests, mut aparts) =
                    (rests.chunks_mut(stride), aparts.chunks_mut(pieces * APART));
                let codes = codes.chunks_exact_mut(stride).zip(scales.chunks_exact_mut(pieces));
                for (row, (codes, scales)) in (index * task..).zip(codes) {
                    let rest = rests.next().unwrap_or_default();
                    let apart = aparts.next().unwrap_or_default();
                    let written = Row { codes, rest, scales, apart };
                    written.write(rows.row(row), factors, step);
                }
            });
        Self { rows: count, depth, codes, rest, scales, apart }
    }

    /// Its buffers, for the pool.
    pub(in crate::products) fn buffers(self) -> [Vec<f32>; 4] {
        [self.codes, self.rest, self.scales, self.apart]
    }

    pub(super) fn stride(&self) -> usize {
        self.depth.next_multiple_of(STEP)
    }

    /// What is kept apart of a block, `row * pieces + piece`, each with its place there.
    pub(super) fn apart(&self, block: usize) -> impl Iterator<Item = (f32, usize)> {
        let list = self.apart.get(block * APART..(block + 1) * APART).unwrap_or_default();
        let pairs = list.as_chunks::<2>().0.iter();
        let pairs = pairs.take_while(|[number, _]| *number != 0.0);
        pairs.map(|[number, place]| (*number, *place as usize))
    }
}

/// `count` parts of `len` numbers, the last one shorter; empty ones where there are no numbers.
fn parts<T>(numbers: &mut [T], len: usize, count: usize) -> Vec<&mut [T]> {
    let mut parts = numbers.chunks_mut(len.max(1));
    (0..count).map(|_| parts.next().unwrap_or_default()).collect()
}

/// Where a rounded row goes.
struct Row<'a> {
    codes: &'a mut [u8],
    rest: &'a mut [u8],
    scales: &'a mut [f32],
    apart: &'a mut [f32],
}

impl Row<'_> {
    /// Rounds `numbers` block by block, of `step` numbers each.
    fn write(self, numbers: &[f32], factors: &[f32], step: usize) {
        let (mut rests, mut aparts) = (self.rest.chunks_mut(step), self.apart.chunks_mut(APART));
        let blocks = numbers.chunks(step).zip(factors.chunks(step));
        let places = self.codes.chunks_mut(step).zip(self.scales);
        for ((numbers, factors), (codes, scale)) in blocks.zip(places) {
            let (rest, apart) =
                (rests.next().unwrap_or_default(), aparts.next().unwrap_or_default());
            *scale = round(numbers, factors, codes, rest, apart);
        }
    }
}

/// Rounds numbers, each times its factor, to codes plus [`SHIFT`] and gives their scale: not a number
/// when one of them is none. `codes` may be longer; what is over becomes zeros. `rest`, as long as
/// the codes or empty, gets what was left over, rounded and shifted too; `apart` a block's list of
/// what is far above the others, of which the codes are zeros, or is empty and gets nothing.
fn round(
    numbers: &[f32],
    factors: &[f32],
    codes: &mut [u8],
    rest: &mut [u8],
    apart: &mut [f32],
) -> f32 {
    assert!(rest.is_empty() || rest.len() == codes.len(), "a rest each or none");
    assert!(factors.len() == numbers.len() && numbers.len() <= BLOCK, "a factor each");
    assert!(codes.len() >= numbers.len(), "a code each");
    codes[numbers.len()..].fill(SHIFT);
    if let Some(over) = rest.get_mut(numbers.len()..) {
        over.fill(SHIFT);
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: rows are only rounded where the processor has these instructions; a factor and a code
    // each, as asserted.
    return unsafe { avx512::round(numbers, factors, codes, rest, apart) };
    #[cfg(not(target_arch = "x86_64"))]
    plain::round(numbers, factors, codes, rest, apart)
}

/// Moves numbers far above the others from a block of `count` to its list, as long as there are any
/// and room for them; `of_block` is its own spread, the largest size and the sum of squares, and what
/// comes back is the largest size that stays.
///
/// - `move_over` moves the numbers above a bound, each with its place, while there are places left.
#[inline(always)]
fn set_apart(
    block: &mut Block,
    count: usize,
    of_block: (f32, f32),
    list: &mut [f32],
    move_over: impl Fn(&mut [f32], f32, &mut std::slice::IterMut<'_, [f32; 2]>),
    spread: impl Fn(&[f32]) -> (f32, f32),
) -> f32 {
    let mut pairs = list.as_chunks_mut::<2>().0.iter_mut();
    let used = count.next_multiple_of(SOME);
    let (mut largest, mut squares) = of_block;
    loop {
        let bound = FAR * (squares / count as f32).sqrt();
        if largest <= bound || bound.is_nan() || pairs.len() == 0 {
            break;
        }
        move_over(&mut block.0[..used], bound, &mut pairs);
        (largest, squares) = spread(&block.0[..used]);
    }
    pairs.for_each(|pair| *pair = [0.0; 2]);
    largest
}

/// A block, in whole registers; zeros after its numbers.
#[repr(align(64))]
struct Block([f32; BLOCK]);

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(row: &[f32]) -> Quantised {
        let factors = vec![1.0; row.len()];
        let view = View::dense(row, 1, row.len());
        Quantised::new(view, &factors, Rounding::Once, &Pool::default())
    }

    /// Goal: what is kept apart leaves the codes and the scale that the others have without it.
    #[test]
    fn only_numbers_far_above_their_block_are_kept_apart() {
        if !super::super::whole_available() {
            return;
        }
        let even: Vec<f32> = (0..600).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let pieces = 600usize.div_ceil(BLOCK);
        let plain = rounded(&even);
        assert_eq!((0..pieces).map(|piece| plain.apart(piece).count()).sum::<usize>(), 0);
        let (mut zeroed, mut far) = (even.clone(), even);
        for place in [7, 190, 455] {
            (zeroed[place], far[place]) = (0.0, if place == 190 { -900.0 } else { 30.0 });
        }
        let (zeroed, far) = (rounded(&zeroed), rounded(&far));
        let codes = |row: &Quantised| bytemuck::cast_slice::<f32, u8>(&row.codes).to_vec();
        assert!(codes(&zeroed) == codes(&far) && zeroed.scales == far.scales);
        assert_eq!(far.apart(0).collect::<Vec<_>>(), [(-900.0, 190), (30.0, 7)]);
        assert_eq!(far.apart(1).count(), 0);
        assert_eq!(far.apart(2).collect::<Vec<_>>(), [(30.0, 55)]);
    }

    #[test]
    fn more_far_numbers_than_there_is_room_for_are_rounded_with_the_others() {
        if !super::super::whole_available() {
            return;
        }
        let mut row = vec![0.01f32; 256];
        (0..APART_MAX + 3).for_each(|i| row[i * 20] = 10f32.powi(i as i32));
        let rounded = rounded(&row);
        assert_eq!(rounded.apart(0).count(), APART_MAX);
        // Three are left, of 1, 10 and 100: the largest sets the scale.
        assert!((rounded.scales[0] - 100.0 / CODE_MAX).abs() < 1e-4, "{}", rounded.scales[0]);
    }

    /// Goal: rows are the same on every processor. Oracle: AVX-512's rounding.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn plain_loops_round_as_avx_512_does_to_the_bit() {
        if !super::super::whole_available() {
            return;
        }
        let noise = |i: usize| ((i * 7919 + i * i * 31) % 2003) as f32 / 1001.0 - 1.0;
        let kinds: [fn(usize, f32) -> f32; 10] = [
            |i, x| if i == 0 { 127.0 } else { (i as f32 - 127.5).min(127.0) * x.signum() },
            |_, x| x,
            |i, x| if i % 50 == 7 { 300.0 * x } else { x },
            |i, x| if i % 9 == 1 { x * 2f32.powi(i as i32 % 40) } else { x },
            |_, x| x * 1e-42,
            |_, x| x * 1e37,
            |i, x| if i == 3 { f32::NAN } else { x },
            |i, x| if i % 60 == 2 { f32::NEG_INFINITY } else { x },
            |i, x| if i % 64 == 0 { x } else { 0.0 },
            |_, _| 0.0,
        ];
        for (kind, len) in (0..kinds.len()).flat_map(|kind| (1..=BLOCK).map(move |len| (kind, len)))
        {
            let row: Vec<f32> = (0..len).map(|i| kinds[kind](i, noise(i + len))).collect();
            // The first kind is halves, half of which are rounded down.
            let factor = |i: usize| if kind == 0 { 1.0 } else { 1.0 + noise(3 * i) / 2.0 };
            let factors: Vec<f32> = (0..len).map(factor).collect();
            let stride = len.next_multiple_of(STEP);
            for (rests, places) in [(0, APART), (stride, 0)] {
                let fresh = || (vec![7u8; stride], vec![7u8; rests], vec![7f32; places]);
                let (mut codes, mut rest, mut apart) = fresh();
                // SAFETY: the processor was asked; a factor and a code each, and a rest or none.
                let scale =
                    unsafe { avx512::round(&row, &factors, &mut codes, &mut rest, &mut apart) };
                let wide = (scale.to_bits(), codes, rest, apart);
                let (mut codes, mut rest, mut apart) = fresh();
                let scale = plain::round(&row, &factors, &mut codes, &mut rest, &mut apart);
                let same = scale.to_bits() == wide.0 || scale.is_nan();
                assert!(same && scale.is_nan() == f32::from_bits(wide.0).is_nan(), "{kind}, {len}");
                assert!((codes, rest, apart) == (wide.1, wide.2, wide.3), "{kind}, {len}");
            }
        }
    }
}

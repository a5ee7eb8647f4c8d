//! The kernel in whole numbers for aarch64: four rows by 24 columns, with SDOT or with SMMLA.
//!
//! - SDOT, of `dotprod`, adds four products to each sum: a register of the panel is four columns of
//!   four codes, and four codes of a row are a lane.
//! - SMMLA, of `i8mm`, adds eight products to each of two rows by two columns: two lines of the
//!   panel become one of columns of eight codes.
//! - Sums of a block are whole numbers: both give the same. So does VNNI.
//!
//! The instructions are written out: their intrinsics are not stable in Rust 1.95.

use super::halves::{HALF, ROWS, Sums, add};
use super::integer::LINE;
use super::rounded::STEP;
use super::{COLUMNS, Tile};
use std::arch::aarch64::{
    int8x8_t, int8x16_t, int32x4_t, uint8x16x4_t, uint32x4x2_t, vcombine_s8, vcvtq_f32_s32,
    vdup_n_s32, vdupq_n_s32, vfmaq_n_f32, vld1_s8, vld1q_f32, vld1q_s8, vld1q_s32, vld1q_u8,
    vld1q_u32, vmulq_f32, vmulq_n_f32, vreinterpret_s8_s32, vreinterpretq_s8_s32,
    vreinterpretq_s32_s64, vreinterpretq_s64_s32, vset_lane_s32, vshlq_s32, vshrq_n_s32, vst1q_f32,
    vst2q_u32, vst4q_u8, vuzp1q_s32, vuzp2q_s32, vzip1q_s64, vzip2q_s64,
};
use std::arch::{asm, is_aarch64_feature_detected};

/// Numbers of four bytes in a register.
const SOME: usize = 4;
/// Registers of sums of a row.
const PARTS: usize = HALF / SOME;

/// Sums of a part in whole numbers.
type Whole = [[int32x4_t; PARTS]; ROWS];

/// Which instruction multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Integral {
    Dot,
    Matrix,
}

impl Integral {
    /// The one with most products that the processor has; it has SDOT where this serves.
    pub(super) fn widest() -> Self {
        if is_aarch64_feature_detected!("i8mm") { Self::Matrix } else { Self::Dot }
    }

    /// Four rows of codes, 48 of each, become columns of four.
    pub(super) fn interleave(self, rows: [&[u8]; STEP], line: &mut [u8]) {
        let lines = line.chunks_exact_mut(16 * STEP).zip((0..COLUMNS).step_by(16));
        for (line, at) in lines {
            let rows = rows.map(|row| &row[at..at + 16]);
            // SAFETY: 16 bytes of each row, 64 of the line; every aarch64 has NEON.
            unsafe {
                let rows = rows.map(|row| vld1q_u8(row.as_ptr()));
                vst4q_u8(line.as_mut_ptr(), uint8x16x4_t(rows[0], rows[1], rows[2], rows[3]));
            }
        }
    }

    /// Ends the packing of a panel's lines, after which `lines` has one more: for SMMLA two become one
    /// of twice the length.
    ///
    /// # Safety
    /// The processor is the one that was asked.
    pub(super) unsafe fn complete(self, lines: &mut [u8]) {
        if self == Self::Dot {
            return;
        }
        let spare = lines.len() - LINE;
        lines[spare..].fill(0);
        for pair in lines.chunks_exact_mut(2 * LINE) {
            // SAFETY: every aarch64 has NEON.
            unsafe { side_by_side(pair) };
        }
    }

    /// Puts numbers times their columns of a panel, each with its place in the depth, into row `at`
    /// of a tile, before the rest is added.
    ///
    /// # Safety
    /// The tile's row may be written and is nobody else's.
    pub(super) unsafe fn put_apart(
        self,
        apart: impl Iterator<Item = (f32, usize)>,
        panel: &[u8],
        steps: usize,
        tile: &Tile,
        at: usize,
    ) {
        assert!(panel.len() >= (steps + 2) * LINE, "the panel is too small");
        let mut sums = [0f32; COLUMNS];
        for (number, place) in apart {
            assert!(place < steps * STEP, "a place outside the block");
            // SAFETY: a place of the panel's lines; every aarch64 has NEON.
            unsafe { add_times(number, self, panel.as_ptr(), place, &mut sums) };
        }
        let factors = &panel[(steps + 1) * LINE..][..LINE];
        let factors: &[f32] = bytemuck::cast_slice(factors);
        // SAFETY: this row's columns of the tile, which nobody else holds.
        let out =
            unsafe { std::slice::from_raw_parts_mut(tile.out.add(at * tile.stride), tile.columns) };
        for (out, (sum, factor)) in out.iter_mut().zip(sums.iter().zip(factors)) {
            *out = sum.mul_add(*factor, if tile.add { *out } else { 0.0 });
        }
    }

    /// Adds `rows` rows x panel to a tile.
    ///
    /// # Safety
    /// The processor has the instruction. `left` points to `rows` rows of `steps * STEP` bytes,
    /// `stride` apart; `panel` to `steps + 2` lines, of which the last has the columns' factors;
    /// the tile may be written and is nobody else's.
    pub(super) unsafe fn tile(
        self,
        (left, stride, rows): (*const u8, usize, usize),
        scales: &[f32; super::ROWS],
        panel: *const u8,
        steps: usize,
        tile: &Tile,
    ) {
        // SAFETY: as the caller vouches; a row that is not there is the last one once more.
        unsafe {
            let factors = panel.add((steps + 1) * LINE).cast::<f32>();
            add(rows, tile, |part, first, out| {
                let last = part.end - 1;
                let rows = [0, 1, 2, 3].map(|i| (part.start + i).min(last));
                let rows = rows.map(|row| left.add(row * stride).cast::<i8>());
                let sums = match (self, part.len()) {
                    (Self::Dot, 1) => dots::<1>(rows, panel, first, steps),
                    (Self::Dot, 2) => dots::<2>(rows, panel, first, steps),
                    (Self::Dot, 3) => dots::<3>(rows, panel, first, steps),
                    (Self::Dot, _) => dots::<ROWS>(rows, panel, first, steps),
                    (Self::Matrix, 1 | 2) => squares::<1>(rows, panel, first, steps),
                    (Self::Matrix, _) => squares::<2>(rows, panel, first, steps),
                };
                scaled(&sums, &scales[part], factors.add(first), out);
            });
        }
    }
}

/// Two lines of columns of four codes become one of columns of eight.
#[target_feature(enable = "neon")]
fn side_by_side(lines: &mut [u8]) {
    let mut before = [0u8; 2 * LINE];
    before.copy_from_slice(lines);
    let (first, second) = before.split_at(LINE);
    let fours = first.chunks_exact(16).zip(second.chunks_exact(16));
    for ((first, second), eights) in fours.zip(lines.chunks_exact_mut(32)) {
        // SAFETY: a register of each line, two of both.
        unsafe {
            let fours = [first, second].map(|fours| vld1q_u32(fours.as_ptr().cast()));
            vst2q_u32(eights.as_mut_ptr().cast(), uint32x4x2_t(fours[0], fours[1]));
        }
    }
}

/// Adds a number times the codes of a place in the depth.
///
/// # Safety
/// `panel` has the line, or the pair of lines, of the place.
#[target_feature(enable = "neon")]
unsafe fn add_times(
    number: f32,
    kernel: Integral,
    panel: *const u8,
    place: usize,
    sums: &mut [f32; COLUMNS],
) {
    // The code's byte goes to the top of its four, then down again with its sign.
    let up = vdupq_n_s32(8 * (STEP - 1 - place % STEP) as i32);
    for (part, sums) in sums.as_chunks_mut::<SOME>().0.iter_mut().enumerate() {
        // SAFETY: registers of the line, or of the pair; four sums.
        unsafe {
            let fours = match kernel {
                Integral::Dot => vld1q_s32(panel.add(place / STEP * LINE + 16 * part).cast()),
                Integral::Matrix => {
                    let pair = panel.add(place / (2 * STEP) * 2 * LINE + 32 * part).cast::<i32>();
                    let (low, high) = (vld1q_s32(pair), vld1q_s32(pair.add(SOME)));
                    match place / STEP % 2 {
                        0 => vuzp1q_s32(low, high),
                        _ => vuzp2q_s32(low, high),
                    }
                }
            };
            let codes = vcvtq_f32_s32(vshrq_n_s32::<24>(vshlq_s32(fours, up)));
            let sum = vfmaq_n_f32(vld1q_f32(sums.as_ptr()), codes, number);
            vst1q_f32(sums.as_mut_ptr(), sum);
        }
    }
}

/// Sums times the scales of their rows and the factors of their columns.
///
/// # Safety
/// There are `HALF` factors.
#[target_feature(enable = "neon")]
unsafe fn scaled(sums: &Whole, scales: &[f32], factors: *const f32, out: &mut Sums) {
    for ((out, sums), scale) in out.iter_mut().zip(sums).zip(scales) {
        let parts = out.as_chunks_mut::<SOME>().0.iter_mut().zip(sums).enumerate();
        for (part, (out, sum)) in parts {
            // SAFETY: four of the factors; four numbers.
            unsafe {
                let factors = vmulq_n_f32(vld1q_f32(factors.add(SOME * part)), *scale);
                vst1q_f32(out.as_mut_ptr(), vmulq_f32(vcvtq_f32_s32(*sum), factors));
            }
        }
    }
}

/// Applies a macro to the numbers of all parts.
macro_rules! every_part {
    ($part:ident) => {
        $part!(0);
        $part!(1);
        $part!(2);
        $part!(3);
        $part!(4);
        $part!(5);
    };
}

/// The sums of `R` rows and half a panel, by SDOT.
///
/// # Safety
/// As [`Integral::tile`]; the rows are those that `R` says.
#[target_feature(enable = "neon,dotprod")]
unsafe fn dots<const R: usize>(
    rows: [*const i8; ROWS],
    panel: *const u8,
    first: usize,
    steps: usize,
) -> Whole {
    let mut sums = [[vdupq_n_s32(0); PARTS]; ROWS];
    let panel = panel.wrapping_add(first * STEP).cast::<i8>();
    /// Adds to the sums of every row what four of its codes, the lane, and a line give.
    macro_rules! line {
        ($step:expr, $codes:ident, $lane:literal) => {
            macro_rules! part {
                ($part:literal) => {
                    // SAFETY: a step of the panel, a register of its line.
                    let column = unsafe { vld1q_s8(panel.add($step * LINE + 16 * $part)) };
                    macro_rules! row {
                        ($i:literal) => {
                            if $i < R {
                                // SAFETY: reads and writes registers; the processor has `dotprod`.
                                unsafe {
                                    asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]",
                                        inout(vreg) sums[$i][$part], in(vreg) column,
                                        in(vreg) $codes[$i], const $lane,
                                        options(pure, nomem, nostack, preserves_flags));
                                }
                            }
                        };
                    }
                    row!(0);
                    row!(1);
                    row!(2);
                    row!(3);
                };
            }
            every_part!(part);
        };
    }
    let whole = steps / SOME * SOME;
    for step in (0..whole).step_by(SOME) {
        // SAFETY: 16 bytes of each row.
        let codes = rows.map(|row| unsafe { vld1q_s8(row.add(step * STEP)) });
        line!(step, codes, 0);
        line!(step + 1, codes, 1);
        line!(step + 2, codes, 2);
        line!(step + 3, codes, 3);
    }
    for step in whole..steps {
        let codes: [int8x16_t; ROWS] = rows.map(|row| {
            // SAFETY: four bytes of each row.
            let four = unsafe { row.add(step * STEP).cast::<i32>().read_unaligned() };
            vreinterpretq_s8_s32(vdupq_n_s32(four))
        });
        line!(step, codes, 0);
    }
    sums
}

/// The sums of `P` pairs of rows and half a panel, by SMMLA.
///
/// # Safety
/// As [`Integral::tile`]; the pairs are of rows that are there.
#[target_feature(enable = "neon,i8mm")]
unsafe fn squares<const P: usize>(
    rows: [*const i8; ROWS],
    panel: *const u8,
    first: usize,
    steps: usize,
) -> Whole {
    // Of each register the first half is the first row's sums of two columns.
    let mut sums = [[vdupq_n_s32(0); 2 * PARTS]; 2];
    let panel = panel.wrapping_add(first * 2 * STEP).cast::<i8>();
    macro_rules! line {
        ($pair:expr, $codes:ident) => {
            macro_rules! columns {
                ($at:literal) => {
                    // SAFETY: a pair of the panel's lines, a register of it.
                    let columns = unsafe { vld1q_s8(panel.add($pair * 2 * LINE + 16 * $at)) };
                    macro_rules! rows {
                        ($i:literal) => {
                            if $i < P {
                                // SAFETY: reads and writes registers; the processor has `i8mm`.
                                unsafe {
                                    asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
                                        inout(vreg) sums[$i][$at], in(vreg) $codes[$i],
                                        in(vreg) columns,
                                        options(pure, nomem, nostack, preserves_flags));
                                }
                            }
                        };
                    }
                    rows!(0);
                    rows!(1);
                };
            }
            every_part!(columns);
            columns!(6);
            columns!(7);
            columns!(8);
            columns!(9);
            columns!(10);
            columns!(11);
        };
    }
    let pairs = |eight: [int8x8_t; ROWS]| {
        [vcombine_s8(eight[0], eight[1]), vcombine_s8(eight[2], eight[3])]
    };
    for pair in 0..steps / 2 {
        // SAFETY: eight bytes of each row.
        let codes = pairs(rows.map(|row| unsafe { vld1_s8(row.add(pair * 2 * STEP)) }));
        line!(pair, codes);
    }
    if !steps.is_multiple_of(2) {
        let last = steps - 1;
        let codes = pairs(rows.map(|row| {
            // SAFETY: four bytes of each row; zeros stand for the others.
            let four = unsafe { row.add(last * STEP).cast::<i32>().read_unaligned() };
            vreinterpret_s8_s32(vset_lane_s32::<0>(four, vdup_n_s32(0)))
        }));
        line!(last / 2, codes);
    }
    let mut whole = [[vdupq_n_s32(0); PARTS]; ROWS];
    for (rows, sums) in whole.as_chunks_mut::<2>().0.iter_mut().zip(&sums) {
        for (part, two) in sums.as_chunks::<2>().0.iter().enumerate() {
            let [a, b] = two.map(|sums| vreinterpretq_s64_s32(sums));
            rows[0][part] = vreinterpretq_s32_s64(vzip1q_s64(a, b));
            rows[1][part] = vreinterpretq_s32_s64(vzip2q_s64(a, b));
        }
    }
    whole
}

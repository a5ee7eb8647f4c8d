//! The f32 kernel of aarch64, and what such a processor has: NEON always, whole numbers with
//! SDOT, SMMLA or neither.
//!
//! Four rows by 24 columns take 24 of 32 registers, four depths of each row another four: a number
//! of a row is a lane, and no register is filled with it.

use super::halves::{HALF, ROWS, Sums, add};
use super::right::Right;
use super::{COLUMNS, Rows, Tile};
use crate::products::frozen::{Floats, Side};
use half::f16;
use std::arch::aarch64::{
    float32x4_t, uint16x4_t, vdupq_n_f32, vfmaq_laneq_f32, vfmaq_n_f32, vld1_u16, vld1q_f32,
    vreinterpretq_f32_f64, vreinterpretq_f32_u32, vreinterpretq_f64_f32, vshll_n_u16, vst1q_f32,
    vtrn1q_f32, vtrn2q_f32, vzip1q_f64, vzip2q_f64,
};
use std::arch::{asm, is_aarch64_feature_detected};

/// Numbers of a register.
const SOME: usize = 4;

/// Whether this processor can run the products of this module in f32.
pub(in crate::products) fn available() -> bool {
    true
}

/// Whether it can run those in whole numbers.
pub(in crate::products) fn whole_available() -> bool {
    is_aarch64_feature_detected!("dotprod")
}

/// Whether it can run those in bf16.
pub(in crate::products) fn bf16_available() -> bool {
    is_aarch64_feature_detected!("bf16")
}

/// What of this processor chooses the kernels.
pub(in crate::products) fn kernels() -> String {
    format!("neon dotprod {} bf16 {}", whole_available(), bf16_available())
}

/// The kernel of products in f32.
#[derive(Clone, Copy)]
pub(super) struct Floating;

impl Floating {
    /// The only one.
    pub(super) fn widest() -> Self {
        Self
    }

    /// Widens and packs.
    pub(super) fn pack(self, numbers: Floats<'_>, right: &Right, panel: &mut [f32]) {
        // SAFETY: every aarch64 has NEON.
        unsafe { pack(numbers, right, panel) }
    }

    /// Adds rows x panel to a tile.
    ///
    /// # Safety
    /// The rows have `depth` numbers each; `panel` points to `depth * COLUMNS`; the tile's numbers may
    /// be written and are nobody else's.
    pub(super) unsafe fn tile(self, left: Rows, panel: *const f32, depth: usize, tile: &Tile) {
        // SAFETY: the rows and the half of the panel that the caller vouches for, as for the tile.
        unsafe {
            add(left.count, tile, |part, first, sums| {
                let first_row = left.first.wrapping_add(part.start * left.stride);
                let (left, panel) = (Rows { first: first_row, ..left }, panel.add(first));
                match part.len() {
                    1 => columns::<1>(left, panel, depth, sums),
                    2 => columns::<2>(left, panel, depth, sums),
                    3 => columns::<3>(left, panel, depth, sums),
                    _ => columns::<ROWS>(left, panel, depth, sums),
                }
            });
        }
    }
}

/// Numbers that are kept as f16, in f32: the instruction is one of NEON's own, and needs no FP16.
pub(in crate::products) fn widen_halves(numbers: &[f16], out: &mut [f32]) {
    // SAFETY: every aarch64 has NEON.
    unsafe { halves(numbers, out) }
}

#[target_feature(enable = "neon")]
fn halves(numbers: &[f16], out: &mut [f32]) {
    for (numbers, out) in numbers.chunks(SOME).zip(out.chunks_mut(SOME)) {
        let mut wide = [0f32; SOME];
        // SAFETY: four numbers.
        unsafe { vst1q_f32(wide.as_mut_ptr(), of_f16(some(bytemuck::cast_slice(numbers)))) };
        out.copy_from_slice(&wide[..out.len()]);
    }
}

#[target_feature(enable = "neon")]
fn of_f16(halves: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: reads and writes registers. The intrinsic wants a type that is not stable.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags));
    }
    wide
}

/// Four halves, zeros where there are fewer.
#[target_feature(enable = "neon")]
fn some(halves: &[u16]) -> uint16x4_t {
    let mut all = [0u16; SOME];
    let all = match halves.len() {
        SOME => halves,
        count => {
            all[..count].copy_from_slice(halves);
            &all
        }
    };
    // SAFETY: four halves either way.
    unsafe { vld1_u16(all.as_ptr()) }
}

/// Widens and packs.
#[target_feature(enable = "neon")]
fn pack(numbers: Floats<'_>, right: &Right, panel: &mut [f32]) {
    match numbers {
        Floats::F32(numbers) => right.pack(panel, |at, count| {
            let (numbers, mut all) = (&numbers[at..at + count], [0f32; SOME]);
            let numbers = match count {
                SOME => numbers,
                _ => {
                    all[..count].copy_from_slice(numbers);
                    &all
                }
            };
            // SAFETY: four numbers either way.
            unsafe { vld1q_f32(numbers.as_ptr()) }
        }),
        Floats::Bf16(numbers) => right.pack(panel, |at, count| {
            let halves = some(bytemuck::cast_slice(&numbers[at..at + count]));
            vreinterpretq_f32_u32(vshll_n_u16::<16>(halves))
        }),
        Floats::F16(numbers) => right
            .pack(panel, |at, count| of_f16(some(bytemuck::cast_slice(&numbers[at..at + count])))),
        Floats::Int8(..) => right.pack_plainly(numbers, panel),
    }
}

impl Right {
    /// `load` gives up to 4 numbers of a row from a place on, zeros after them.
    #[target_feature(enable = "neon")]
    fn pack(&self, panel: &mut [f32], load: impl Fn(usize, usize) -> float32x4_t) {
        let zeros = vdupq_n_f32(0.0);
        let count = |first: usize| SOME.min(self.columns.len().saturating_sub(first));
        if self.side == Side::Straight {
            for (k, out) in self.depth.clone().zip(panel.chunks_exact_mut(COLUMNS)) {
                let from = k * self.width + self.columns.start;
                for (out, first) in out.chunks_exact_mut(SOME).zip((0..COLUMNS).step_by(SOME)) {
                    let numbers = match count(first) {
                        0 => zeros,
                        count => load(from + first, count),
                    };
                    // SAFETY: four numbers.
                    unsafe { vst1q_f32(out.as_mut_ptr(), numbers) };
                }
            }
            return;
        }
        for first in (0..COLUMNS).step_by(SOME) {
            let from = (self.columns.start + first) * self.width + self.depth.start;
            for at in (0..self.depth.len()).step_by(SOME) {
                let numbers = SOME.min(self.depth.len() - at);
                let mut square = [zeros; SOME];
                for (row, square) in square.iter_mut().enumerate().take(count(first)) {
                    *square = load(from + at + row * self.width, numbers);
                }
                let lines = panel[at * COLUMNS..].chunks_mut(COLUMNS).take(numbers);
                for (out, column) in lines.zip(turned(square)) {
                    // SAFETY: the slicing leaves four numbers.
                    unsafe { vst1q_f32(out[first..][..SOME].as_mut_ptr(), column) };
                }
            }
        }
    }
}

/// The columns of a square.
#[target_feature(enable = "neon")]
fn turned(rows: [float32x4_t; SOME]) -> [float32x4_t; SOME] {
    let pair = |a: usize, b: usize| {
        let (even, odd) = (vtrn1q_f32(rows[a], rows[b]), vtrn2q_f32(rows[a], rows[b]));
        (vreinterpretq_f64_f32(even), vreinterpretq_f64_f32(odd))
    };
    let ((even, odd), (even_2, odd_2)) = (pair(0, 1), pair(2, 3));
    [
        vzip1q_f64(even, even_2),
        vzip1q_f64(odd, odd_2),
        vzip2q_f64(even, even_2),
        vzip2q_f64(odd, odd_2),
    ]
    .map(|column| vreinterpretq_f32_f64(column))
}

/// The sums of `R` rows and half a panel.
///
/// # Safety
/// As [`Floating::tile`]; `depth` rows of the panel hold `HALF` numbers from `panel` on.
#[target_feature(enable = "neon")]
unsafe fn columns<const R: usize>(left: Rows, panel: *const f32, depth: usize, out: &mut Sums) {
    let Rows { first, stride, step, .. } = left;
    let mut sums = [[vdupq_n_f32(0.0); HALF / SOME]; R];
    macro_rules! every_part {
        ($one:ident, $k:expr, $add:ident) => {
            $one!(0, $k, $add);
            $one!(1, $k, $add);
            $one!(2, $k, $add);
            $one!(3, $k, $add);
            $one!(4, $k, $add);
            $one!(5, $k, $add);
        };
    }
    macro_rules! part {
        ($part:literal, $k:expr, $add:ident) => {
            // SAFETY: k < depth; the caller vouches for half a row of the panel.
            let column = unsafe { vld1q_f32(panel.add($k * COLUMNS + $part * SOME)) };
            $add!(0, $part, column);
            $add!(1, $part, column);
            $add!(2, $part, column);
            $add!(3, $part, column);
        };
    }
    // Numbers of a row that do not lie side by side are taken one by one.
    let whole = if step == 1 { depth / SOME * SOME } else { 0 };
    for k in (0..whole).step_by(SOME) {
        let mut rows = [vdupq_n_f32(0.0); R];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: row i of R, four numbers of depth.
            *row = unsafe { vld1q_f32(first.add(i * stride + k)) };
        }
        macro_rules! depth {
            ($lane:literal) => {
                macro_rules! add {
                    ($i:literal, $part:literal, $column:ident) => {
                        if $i < R {
                            let sum = sums[$i][$part];
                            sums[$i][$part] = vfmaq_laneq_f32::<$lane>(sum, $column, rows[$i]);
                        }
                    };
                }
                every_part!(part, k + $lane, add);
            };
        }
        depth!(0);
        depth!(1);
        depth!(2);
        depth!(3);
    }
    for k in whole..depth {
        macro_rules! add {
            ($i:literal, $part:literal, $column:ident) => {
                if $i < R {
                    // SAFETY: row i of R, number k of depth.
                    let number = unsafe { *first.add($i * stride + k * step) };
                    sums[$i][$part] = vfmaq_n_f32(sums[$i][$part], $column, number);
                }
            };
        }
        every_part!(part, k, add);
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        for (out, sum) in out.chunks_exact_mut(SOME).zip(sums) {
            // SAFETY: four numbers.
            unsafe { vst1q_f32(out.as_mut_ptr(), *sum) };
        }
    }
}

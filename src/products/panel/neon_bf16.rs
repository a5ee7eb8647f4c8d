//! Products in bf16 with BFMMLA, of aarch64's `bf16`: four rows by 24 columns in registers.
//!
//! - The instruction adds four products to each of two rows by two columns: four numbers of a column lie
//!   side by side in a panel, as they do in a row.
//! - It rounds sums on its way to odd, and takes numbers below 2^-126 for zeros, unless the processor
//!   has been told otherwise.
//!
//! The instruction is written out: its intrinsic is not stable in Rust 1.95.

use super::bf16::{Halves, Part};
use super::halves::{HALF, ROWS, Sums, add};
use super::{COLUMNS, Tile};
use half::bf16;
use half::slice::HalfFloatSliceExt;
use std::arch::aarch64::{
    float32x4_t, uint16x8x4_t, vcombine_u16, vdupq_n_f32, vld1_u16, vld1q_u16,
    vreinterpretq_f32_f64, vreinterpretq_f64_f32, vst1q_f32, vst4q_u16, vzip1q_f64, vzip2q_f64,
};
use std::arch::asm;

/// Numbers of the depth that one instruction multiplies and adds.
pub(super) const STEP: usize = 4;
/// Columns that are packed at a time: a register of halves.
const SOME: usize = 8;
/// Halves of a panel's step.
const LINE: usize = STEP * COLUMNS;
/// Pairs of columns of a part.
const PAIRS: usize = HALF / 2;

/// Rounds numbers to as many halves, zeros after them.
///
/// # Safety
/// None is needed; other processors' need some.
pub(super) unsafe fn round(numbers: &[f32], halves: &mut [u16]) {
    let (own, rest) = halves.split_at_mut(numbers.len());
    bytemuck::cast_slice_mut::<u16, bf16>(own).convert_from_f32_slice(numbers);
    rest.fill(0);
}

/// Packs four rows of W at a time, the numbers of a column side by side.
///
/// # Safety
/// None is needed: every aarch64 has NEON.
pub(super) unsafe fn pack_straight(right: Halves<'_>, part: Part, panel: &mut [f32]) {
    let Part { columns, depth } = part;
    let lines = bytemuck::cast_slice_mut::<f32, u16>(panel).chunks_exact_mut(LINE);
    for (k, line) in depth.clone().step_by(STEP).zip(lines) {
        for (at, line) in (0..COLUMNS).step_by(SOME).zip(line.chunks_exact_mut(STEP * SOME)) {
            let count = SOME.min(columns.len().saturating_sub(at));
            let mut rows = [[0u16; SOME]; STEP];
            for (k, row) in (k..depth.end).zip(&mut rows) {
                let own = &right.numbers[k * right.width..][columns.clone()];
                row[..count].copy_from_slice(&own[own.len().min(at)..][..count]);
            }
            // SAFETY: eight halves of each row, 32 of the line.
            unsafe {
                let rows = rows.map(|row| vld1q_u16(row.as_ptr()));
                vst4q_u16(line.as_mut_ptr(), uint16x8x4_t(rows[0], rows[1], rows[2], rows[3]));
            }
        }
    }
}

/// Packs rows of W as columns: their numbers lie side by side already.
///
/// # Safety
/// None is needed.
pub(super) unsafe fn pack_turned(right: Halves<'_>, part: Part, panel: &mut [f32]) {
    let Part { columns, depth } = part;
    let panel = bytemuck::cast_slice_mut::<f32, u16>(panel);
    for at in 0..COLUMNS {
        let own: &[u16] = match columns.start + at {
            column if column < columns.end => &right.numbers[column * right.width..][depth.clone()],
            _ => &[],
        };
        let steps = panel.chunks_exact_mut(LINE).take(depth.len().div_ceil(STEP));
        for (step, line) in steps.enumerate() {
            let own = own.get(step * STEP..).unwrap_or_default();
            let count = STEP.min(own.len());
            let (filled, rest) = line[at * STEP..][..STEP].split_at_mut(count);
            filled.copy_from_slice(&own[..count]);
            rest.fill(0);
        }
    }
}

/// Adds `rows` rows x panel to a tile.
///
/// # Safety
/// The processor has `bf16`. `left` points to `rows` rows of `steps * STEP` halves, `stride` words
/// apart; `panel` to as many steps; the tile's numbers may be written and are nobody else's.
pub(super) unsafe fn tile(
    (left, stride, rows): (*const u32, usize, usize),
    panel: *const f32,
    steps: usize,
    tile: &Tile,
) {
    // SAFETY: as the caller vouches; a row that is not there is the last one once more.
    unsafe {
        add(rows, tile, |part, first, out| {
            let last = part.end - 1;
            let rows = [0, 1, 2, 3].map(|i| (part.start + i).min(last));
            let rows = rows.map(|row| left.add(row * stride).cast::<u16>());
            let panel = panel.cast::<u16>().add(first * STEP);
            match part.len() {
                1 | 2 => squares::<1>(rows, panel, steps, out),
                _ => squares::<2>(rows, panel, steps, out),
            }
        });
    }
}

/// The sums of `P` pairs of rows and half a panel.
///
/// # Safety
/// As [`tile`]; the pairs are of rows that are there.
#[target_feature(enable = "neon,bf16")]
unsafe fn squares<const P: usize>(
    rows: [*const u16; ROWS],
    panel: *const u16,
    steps: usize,
    out: &mut Sums,
) {
    // Of each register the first half is the first row's sums of two columns.
    let mut sums = [[vdupq_n_f32(0.0); PAIRS]; 2];
    for step in 0..steps {
        // SAFETY: four halves of each row.
        let fours = rows.map(|row| unsafe { vld1_u16(row.add(step * STEP)) });
        let left = [vcombine_u16(fours[0], fours[1]), vcombine_u16(fours[2], fours[3])];
        macro_rules! columns {
            ($at:literal) => {
                // SAFETY: a step of the panel, two of its columns.
                let columns = unsafe { vld1q_u16(panel.add(step * LINE + 2 * STEP * $at)) };
                macro_rules! rows {
                    ($i:literal) => {
                        if $i < P {
                            // SAFETY: reads and writes registers; the processor has `bf16`.
                            unsafe {
                                asm!("bfmmla {0:v}.4s, {1:v}.8h, {2:v}.8h",
                                    inout(vreg) sums[$i][$at], in(vreg) left[$i],
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
        columns!(0);
        columns!(1);
        columns!(2);
        columns!(3);
        columns!(4);
        columns!(5);
        columns!(6);
        columns!(7);
        columns!(8);
        columns!(9);
        columns!(10);
        columns!(11);
    }
    for (rows, sums) in out.as_chunks_mut::<2>().0.iter_mut().zip(&sums) {
        for (part, two) in sums.as_chunks::<2>().0.iter().enumerate() {
            let [a, b] = two.map(|sums| vreinterpretq_f64_f32(sums));
            let own: [float32x4_t; 2] =
                [vzip1q_f64(a, b), vzip2q_f64(a, b)].map(|sums| vreinterpretq_f32_f64(sums));
            for (row, own) in rows.iter_mut().zip(own) {
                // SAFETY: four of the row's sums.
                unsafe { vst1q_f32(row[4 * part..][..4].as_mut_ptr(), own) };
            }
        }
    }
}

//! Products with a frozen matrix by kernels of our own: the matrix is packed, panel by panel, into
//! numbers that the kernel reads in order, and widened or regrouped on the way.
//!
//! - In: rows of f32, a frozen matrix of any storage. Out: rows of f32, replaced or added to.
//! - Every thread packs into a scratch of its own, which it keeps; nothing else is allocated.
//! - Invariant: a number of the output is summed in one order at any number of threads.
//! - Here: what all processors share. Each file of a kernel says whose instructions it has.
//! - Never here: processors without a kernel (`gemm` serves them), what the numbers mean.
//!
//! Source of the blocking: Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication.
#![expect(unsafe_code, reason = "vector instructions and disjoint tiles of one output")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod few;
mod float;
mod halves;
mod bf16;
mod integer;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_bf16;
#[cfg(target_arch = "aarch64")]
mod neon_whole;
mod right;
mod rounded;
#[cfg(target_arch = "x86_64")]
mod vnni;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use bf16::{Bf16, Halved};
#[cfg(target_arch = "x86_64")]
pub(super) use few::Few;
pub(super) use float::Float;
pub(super) use integer::Integer;
#[cfg(target_arch = "aarch64")]
pub(super) use neon::{available, bf16_available, kernels, whole_available, widen_halves};
pub(super) use rounded::{Quantised, Rounding};
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{available, bf16_available, kernels, whole_available};

#[cfg(target_arch = "aarch64")]
use self::{neon::Floating, neon_whole::Integral};
#[cfg(target_arch = "x86_64")]
use self::{vnni::Integral, x86::Floating};
use super::gemm::{Into, Threads};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Rows of a tile: with three registers each, as many sums as fit the register file of AVX-512.
/// Others take a tile in parts (`halves`).
const ROWS: usize = 8;
/// Columns of a tile and of a panel: three of those registers.
const COLUMNS: usize = 48;
/// Numbers of a cache line.
const LINE: usize = 16;
/// Rows between two changes of panel, so that they stay in the second-level cache meanwhile.
const ROWS_NEAR: usize = 64;
/// Most panels a task packs before it computes; together they fit the second-level cache.
const PANELS_NEAR: usize = 4;

/// Where a product goes: row-major, rows `stride` apart.
pub(super) struct Out<'a> {
    pub(super) numbers: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) into: Into,
}

/// The sizes of a product: `[rows, depth] x [depth, columns]`.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) columns: usize,
}

/// Some rows of a left side in f32: number k of row i stands at `first + i * stride + k * step`.
#[derive(Clone, Copy)]
struct Rows {
    first: *const f32,
    count: usize,
    stride: usize,
    step: usize,
}

/// At most `ROWS` x `COLUMNS` numbers of the output.
struct Tile {
    out: *mut f32,
    stride: usize,
    columns: usize,
    /// Whether what stands there is added to.
    add: bool,
}

/// A product's two sides, as a kernel wants them.
trait Sides: Sync {
    /// Most numbers of the depth that are summed before the output is touched.
    const DEPTH: usize;
    /// The depth is split at multiples of this.
    const STEP: usize;

    /// Numbers of four bytes in a panel `depth` deep, a multiple of 16.
    fn panel_len(depth: usize) -> usize;

    /// Packs some columns of part of the depth.
    fn pack(&self, columns: Range<usize>, depth: Range<usize>, panel: &mut [f32]);

    /// Adds rows x panel to a tile.
    ///
    /// # Safety
    /// `panel` came from [`Sides::pack`] for this `depth`; `rows` are at most `ROWS`, all of the
    /// left side; the tile's numbers may be written and are nobody else's.
    unsafe fn tile(&self, rows: Range<usize>, depth: Range<usize>, panel: &[f32], tile: &Tile);
}

/// The output's numbers, to which tasks write disjoint tiles.
struct Shared(*mut f32);
// SAFETY: tasks cover disjoint rows and columns, and the borrow of the output outlives them all.
unsafe impl Sync for Shared {}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// One task's share of the output.
struct Share {
    rows: Range<usize>,
    panels: Range<usize>,
}

/// `out (+)= left x right`.
///
/// # Panics
/// When `out` does not hold the matrix: a bug of the caller, never of input.
fn product<S: Sides>(sides: &S, sizes: Sizes, out: Out<'_>) {
    product_on(Threads::All, sides, sizes, out);
}

/// The same on so many threads.
fn product_on<S: Sides>(threads: Threads, sides: &S, sizes: Sizes, out: Out<'_>) {
    let (Sizes { rows, depth, columns }, Out { numbers, stride, into }) = (sizes, out);
    if rows == 0 || columns == 0 {
        return;
    }
    let reach = (rows - 1) * stride + columns;
    assert!(stride >= columns && reach <= numbers.len(), "the output is too small");
    let place = Shared(numbers.as_mut_ptr());
    let keep = into == Into::Add;
    let step = piece::<S>(depth);
    let place = &place;
    let one = |share: Share| {
        SCRATCH.with_borrow_mut(|scratch| {
            let len = S::panel_len(step);
            scratch.resize(scratch.len().max(share.panels.len() * len + LINE), 0.0);
            // Registers are loaded fastest from whole cache lines.
            let skip = scratch.as_ptr().align_offset(64).min(LINE);
            let scratch = &mut scratch[skip..];
            for start in (0..depth.max(1)).step_by(step) {
                let span = start..depth.min(start + step);
                for (panel, scratch) in share.panels.clone().zip(scratch.chunks_exact_mut(len)) {
                    sides.pack(panel_columns(panel, columns), span.clone(), scratch);
                }
                for near in share.rows.clone().step_by(ROWS_NEAR) {
                    let near = near..share.rows.end.min(near + ROWS_NEAR);
                    for (panel, scratch) in share.panels.clone().zip(scratch.chunks_exact(len)) {
                        let at = panel_columns(panel, columns);
                        for row in near.clone().step_by(ROWS) {
                            // SAFETY: row and first column lie in the output, as asserted above.
                            let out_at = unsafe { place.0.add(row * stride + at.start) };
                            let (columns, add) = (at.len(), keep || start > 0);
                            let tile = Tile { out: out_at, stride, columns, add };
                            let rows = row..near.end.min(row + ROWS);
                            // SAFETY: packed above; no two shares hold the same tile.
                            unsafe { sides.tile(rows, span.clone(), scratch, &tile) };
                        }
                    }
                }
            }
        });
    };
    let panels = columns.div_ceil(COLUMNS);
    match threads {
        Threads::One => shares(rows, panels, 1).into_iter().for_each(one),
        Threads::All => {
            let shares = shares(rows, panels, rayon::current_num_threads());
            shares.into_par_iter().with_max_len(1).for_each(one);
        }
    }
}

/// How much of the depth is summed at a time: pieces of about the same length.
fn piece<S: Sides>(depth: usize) -> usize {
    let pieces = depth.div_ceil(S::DEPTH).max(1);
    depth.div_ceil(pieces).next_multiple_of(S::STEP).max(S::STEP)
}

fn panel_columns(panel: usize, columns: usize) -> Range<usize> {
    panel * COLUMNS..columns.min((panel + 1) * COLUMNS)
}

/// Splits rows and panels so that every thread gets a few shares; rows only when panels are few,
/// for every share of rows packs its panels again.
fn shares(rows: usize, panels: usize, threads: usize) -> Vec<Share> {
    let bands = match threads {
        1 => 1,
        _ => (2 * threads).div_ceil(panels).min(rows.div_ceil(ROWS_NEAR)),
    };
    let band = rows.div_ceil(bands).next_multiple_of(ROWS);
    let group = (panels / (4 * threads)).clamp(1, PANELS_NEAR);
    let mut shares = Vec::new();
    for first in (0..panels).step_by(group) {
        for row in (0..rows).step_by(band) {
            let rows = row..rows.min(row + band);
            shares.push(Share { rows, panels: first..panels.min(first + group) });
        }
    }
    shares
}

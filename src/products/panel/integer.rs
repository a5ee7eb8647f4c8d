//! Products in whole numbers: int8 weights times rows rounded to 8 bits.
//!
//! - Sums of a block are exact; blocks are added in f32, and so are the products of numbers that
//!   are kept apart.
//! - The scales along the depth go into the rows before they are rounded, the others into the sums.

use super::rounded::{BLOCK, Quantised, REST_STEPS, STEP};
use super::{COLUMNS, Integral, Out, ROWS, Sides, Sizes, Tile, piece, product};
use crate::products::frozen::{Scales, Side};
use crate::products::gemm::Into;
use std::ops::Range;

/// Bytes of a line of a panel: a step of the depth. A spare one follows, then the columns' factors.
pub(super) const LINE: usize = COLUMNS * STEP;

/// `rows x W` or `rows x Wᵀ` with W's codes; the scales along the depth are in the rows already.
pub(in crate::products) struct Integer<'a> {
    left: &'a Quantised,
    codes: &'a [i8],
    scales: &'a Scales,
    side: Side,
    /// Whether this multiplies what the first rounding left over.
    rest: bool,
    kernel: Integral,
}

impl<'a> Integer<'a> {
    /// `codes` is row-major `[in, out]`.
    pub(in crate::products) fn new(
        left: &'a Quantised,
        codes: &'a [i8],
        scales: &'a Scales,
        side: Side,
    ) -> Self {
        Self { left, codes, scales, side, rest: false, kernel: Integral::widest() }
    }

    /// The same with SDOT whatever the processor has.
    #[cfg(all(test, target_arch = "aarch64"))]
    pub(in crate::products) fn with_dot(self) -> Self {
        Self { kernel: Integral::Dot, ..self }
    }

    /// `out (+)= left x right`, `columns` of them.
    pub(in crate::products) fn product(&self, columns: usize, out: Out<'_>) {
        let (rows, depth) = (self.left.rows, self.left.depth);
        let (fan_in, fan_out) = match self.side {
            Side::Straight => (depth, columns),
            Side::Turned => (columns, depth),
        };
        assert!(
            self.scales.fans() == (fan_in, fan_out) && fan_in * fan_out == self.codes.len(),
            "sizes differ"
        );
        let sizes = Sizes { rows, depth, columns };
        let Out { numbers, stride, into } = out;
        product(self, sizes, Out { numbers: &mut *numbers, stride, into });
        if !self.left.rest.is_empty() {
            let rest = Self { rest: true, ..*self };
            product(&rest, sizes, Out { numbers, stride, into: Into::Add });
        }
    }

    /// Packs codes `[STEP, COLUMNS]` at a time, the codes of a column side by side.
    fn pack_straight(&self, columns: Range<usize>, depth: Range<usize>, lines: &mut [u8]) {
        let width = self.scales.outs.len();
        let codes: &[u8] = bytemuck::cast_slice(self.codes);
        for (line, k) in lines.chunks_exact_mut(LINE).zip(depth.clone().step_by(STEP)) {
            if columns.len() == COLUMNS && k + STEP <= depth.end {
                let rows =
                    [0, 1, 2, 3].map(|i| &codes[(k + i) * width + columns.start..][..COLUMNS]);
                self.kernel.interleave(rows, line);
                continue;
            }
            line.fill(0);
            for (i, k) in (k..depth.end.min(k + STEP)).enumerate() {
                let row = &codes[k * width..][columns.clone()];
                for (out, code) in line[i..].iter_mut().step_by(STEP).zip(row) {
                    *out = *code;
                }
            }
        }
    }

    /// Packs rows of W as columns: their codes lie side by side already.
    fn pack_turned(&self, columns: Range<usize>, depth: Range<usize>, lines: &mut [u8]) {
        let width = self.scales.outs.len();
        let codes: &[u8] = bytemuck::cast_slice(self.codes);
        if columns.len() < COLUMNS || !depth.len().is_multiple_of(STEP) {
            lines.fill(0);
        }
        let (lines, _) = lines.as_chunks_mut::<STEP>();
        for (place, column) in columns.enumerate() {
            let row = &codes[column * width..][depth.clone()];
            let (steps, rest) = row.as_chunks::<STEP>();
            let places = lines[place..].iter_mut().step_by(COLUMNS);
            places.zip(steps).for_each(|(line, step)| *line = *step);
            if !rest.is_empty() {
                lines[steps.len() * COLUMNS + place][..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

impl Sides for Integer<'_> {
    const DEPTH: usize = BLOCK;
    const STEP: usize = STEP;

    fn panel_len(depth: usize) -> usize {
        (depth.div_ceil(STEP) + 2) * LINE / size_of::<f32>()
    }

    fn pack(&self, columns: Range<usize>, depth: Range<usize>, panel: &mut [f32]) {
        let panel: &mut [u8] = bytemuck::cast_slice_mut(panel);
        let lines = depth.len().div_ceil(STEP) * LINE;
        let (with_spare, factors) = panel.split_at_mut(lines + LINE);
        match self.side {
            Side::Straight => self.pack_straight(columns.clone(), depth, &mut with_spare[..lines]),
            Side::Turned => self.pack_turned(columns.clone(), depth, &mut with_spare[..lines]),
        }
        // SAFETY: by building this type the caller vouches for the processor.
        unsafe { self.kernel.complete(with_spare) };
        let factors: &mut [f32] = bytemuck::cast_slice_mut(&mut factors[..LINE]);
        factors.fill(1.0);
        let scales = match self.side {
            Side::Straight => &self.scales.outs,
            Side::Turned => &self.scales.ins,
        };
        factors[..columns.len()].copy_from_slice(&scales[columns]);
    }

    unsafe fn tile(&self, rows: Range<usize>, depth: Range<usize>, panel: &[f32], tile: &Tile) {
        let panel: &[u8] = bytemuck::cast_slice(panel);
        let steps = depth.len().div_ceil(STEP);
        assert!(panel.len() >= (steps + 2) * LINE, "the panel is too small");
        let stride = self.left.stride();
        let (codes, step) = match self.rest {
            false => (&self.left.codes, 1.0),
            true => (&self.left.rest, 1.0 / REST_STEPS),
        };
        let bytes: &[u8] = bytemuck::cast_slice(codes);
        let first = rows.start * stride + depth.start;
        let reach = (rows.len() - 1) * stride + steps * STEP;
        let left = bytes[first..first + reach].as_ptr();
        let pieces = self.left.scales.len() / self.left.rows;
        let index = depth.start / piece::<Self>(self.left.depth);
        let mut scales = [0f32; ROWS];
        for (scale, row) in scales.iter_mut().zip(rows.clone()) {
            *scale = self.left.scales[row * pieces + index] * step;
        }
        let apart = |row: usize| self.left.apart(row * pieces + index);
        let far = rows.clone().any(|row| apart(row).next().is_some());
        if far {
            for (at, row) in rows.clone().enumerate() {
                // SAFETY: a row of the tile; the caller vouches for it as above.
                unsafe { self.kernel.put_apart(apart(row), panel, steps, tile, at) };
            }
        }
        let tile = &Tile { add: tile.add || far, ..*tile };
        let from = panel.as_ptr();
        // SAFETY: every byte of these rows and steps was checked; the caller vouches for the tile
        // and, by building this type, for the processor.
        unsafe { self.kernel.tile((left, stride, rows.len()), &scales, from, steps, tile) };
    }
}

//! Products in f32: rows of the left side are read where they lie, the frozen side is widened.

use super::avx2;
use super::{COLUMNS, Out, ROWS, Sides, Sizes, Tile, every_row, mask, product};
use crate::products::frozen::{Floats, Side};
use crate::products::gemm::View;
use crate::products::wide;
use std::arch::x86_64::{
    __m256i, __m512, _mm256_loadu_si256, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};
use std::ops::Range;

/// Rows and columns that are turned at a time: as many registers.
const SQUARE: usize = 16;

/// `left [rows, depth] x W` or `x Wᵀ`.
pub(in crate::products) struct Float<'a> {
    left: View<'a>,
    right: Floats<'a>,
    side: Side,
    /// Numbers of a stored row of W.
    width: usize,
    /// Whether to use AVX-512, else AVX2.
    wide: bool,
}

impl<'a> Float<'a> {
    /// `right` is row-major `[in, out]`, rows of `width` = out numbers; `side` says how it is used.
    pub(in crate::products) fn new(
        left: View<'a>,
        right: Floats<'a>,
        width: usize,
        side: Side,
    ) -> Self {
        Self { left, right, side, width, wide: is_x86_feature_detected!("avx512f") }
    }

    /// The same with AVX2 whatever the processor has.
    #[cfg(test)]
    pub(in crate::products) fn with_avx2(self) -> Self {
        Self { wide: false, ..self }
    }

    /// `out (+)= left x right`, `columns` of them.
    pub(in crate::products) fn product(&self, columns: usize, out: Out<'_>) {
        let (rows, depth) = self.left.dims();
        let (fan_in, fan_out) = match self.side {
            Side::Straight => (depth, columns),
            Side::Turned => (columns, depth),
        };
        assert!(self.width == fan_out && fan_in * fan_out == self.right.len(), "sizes differ");
        product(self, Sizes { rows, depth, columns }, out);
    }
}

impl Sides for Float<'_> {
    const DEPTH: usize = 576;
    const STEP: usize = 1;

    fn panel_len(depth: usize) -> usize {
        depth * COLUMNS
    }

    fn pack(&self, columns: Range<usize>, depth: Range<usize>, panel: &mut [f32]) {
        let right = Right { width: self.width, side: self.side, columns, depth };
        if self.wide {
            // SAFETY: the processor was asked.
            return unsafe { pack(self.right, &right, panel) };
        }
        wide(
            #[inline(always)]
            || right.pack_plainly(self.right, panel),
        );
    }

    unsafe fn tile(&self, rows: Range<usize>, depth: Range<usize>, panel: &[f32], tile: &Tile) {
        assert!(panel.len() >= depth.len() * COLUMNS, "the panel is too small");
        let (left, stride) = self.left.part(rows.clone(), depth.clone());
        let (left, panel, depth) = (left.as_ptr(), panel.as_ptr(), depth.len());
        // SAFETY: `part` holds every number of these rows and this depth; the panel was checked;
        // the caller vouches for the tile; the processor was asked, and has AVX2 at least.
        unsafe {
            if !self.wide {
                return avx2::tile((left, stride, rows.len()), panel, depth, tile);
            }
            match rows.len() {
                1 => columns::<1>(left, stride, panel, depth, tile),
                2 => columns::<2>(left, stride, panel, depth, tile),
                3 => columns::<3>(left, stride, panel, depth, tile),
                4 => columns::<4>(left, stride, panel, depth, tile),
                5 => columns::<5>(left, stride, panel, depth, tile),
                6 => columns::<6>(left, stride, panel, depth, tile),
                7 => columns::<7>(left, stride, panel, depth, tile),
                _ => columns::<ROWS>(left, stride, panel, depth, tile),
            }
        }
    }
}

/// Which part of the frozen matrix a panel gets.
struct Right {
    width: usize,
    side: Side,
    columns: Range<usize>,
    depth: Range<usize>,
}

/// Widens and packs.
#[target_feature(enable = "avx512f")]
fn pack(numbers: Floats<'_>, right: &Right, panel: &mut [f32]) {
    match numbers {
        Floats::F32(numbers) => right.pack(panel, |at, count| {
            // SAFETY: the slice holds all that the mask leaves.
            unsafe { _mm512_maskz_loadu_ps(mask(count), numbers[at..at + count].as_ptr()) }
        }),
        Floats::Bf16(numbers) => right.pack(panel, |at, count| {
            let halves = some(bytemuck::cast_slice(&numbers[at..at + count]));
            let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves));
            _mm512_castsi512_ps(bits)
        }),
        Floats::F16(numbers) => right.pack(panel, |at, count| {
            _mm512_cvtph_ps(some(bytemuck::cast_slice(&numbers[at..at + count])))
        }),
        Floats::Int8(..) => right.pack(panel, |at, count| {
            let mut wide = [0f32; SQUARE];
            numbers.widen(at, &mut wide[..count]);
            // SAFETY: 16 numbers.
            unsafe { _mm512_loadu_ps(wide.as_ptr()) }
        }),
    }
}

/// Sixteen halves, zeros where there are fewer.
#[target_feature(enable = "avx512f")]
fn some(halves: &[u16]) -> __m256i {
    let mut all = [0u16; SQUARE];
    let all = match halves.len() {
        SQUARE => halves.as_ptr(),
        count => {
            all[..count].copy_from_slice(halves);
            all.as_ptr()
        }
    };
    // SAFETY: 16 halves either way.
    unsafe { _mm256_loadu_si256(all.cast()) }
}

impl Right {
    /// `load` gives up to 16 numbers of a row from a place on, zeros after them.
    #[target_feature(enable = "avx512f")]
    fn pack(&self, panel: &mut [f32], load: impl Fn(usize, usize) -> __m512) {
        let columns = self.columns.len();
        for first in (0..COLUMNS).step_by(SQUARE) {
            let count = SQUARE.min(columns.saturating_sub(first));
            let column = self.columns.start + first;
            if self.side == Side::Straight {
                for (k, out) in self.depth.clone().zip(panel.chunks_exact_mut(COLUMNS)) {
                    let numbers = match count {
                        0 => _mm512_setzero_ps(),
                        _ => load(k * self.width + column, count),
                    };
                    // SAFETY: the slicing leaves 16 numbers.
                    unsafe { _mm512_storeu_ps(out[first..][..SQUARE].as_mut_ptr(), numbers) };
                }
                continue;
            }
            for at in (0..self.depth.len()).step_by(SQUARE) {
                let numbers = SQUARE.min(self.depth.len() - at);
                let from = column * self.width + self.depth.start + at;
                let mut square = [_mm512_setzero_ps(); SQUARE];
                for (row, square) in square.iter_mut().enumerate().take(count) {
                    *square = load(from + row * self.width, numbers);
                }
                turn(&square, &mut panel[at * COLUMNS + first..], numbers);
            }
        }
    }
}

impl Right {
    /// As [`Right::pack`], by loops that the compiler widens.
    #[inline(always)]
    fn pack_plainly(&self, numbers: Floats<'_>, panel: &mut [f32]) {
        if self.side == Side::Straight {
            for (k, row) in self.depth.clone().zip(panel.chunks_exact_mut(COLUMNS)) {
                let (row, rest) = row.split_at_mut(self.columns.len());
                numbers.widen(k * self.width + self.columns.start, row);
                rest.fill(0.0);
            }
            return;
        }
        let mut rows = [[0f32; SQUARE]; COLUMNS];
        for at in (0..self.depth.len()).step_by(SQUARE) {
            let count = SQUARE.min(self.depth.len() - at);
            for (column, row) in self.columns.clone().zip(&mut rows) {
                let from = column * self.width + self.depth.start + at;
                numbers.widen(from, &mut row[..count]);
            }
            let panel = &mut panel[at * COLUMNS..][..count * COLUMNS];
            for (k, out) in panel.chunks_exact_mut(COLUMNS).enumerate() {
                out.iter_mut().zip(&rows).for_each(|(out, row)| *out = row[k]);
            }
        }
    }
}

/// Writes the first `count` columns of a square as rows of a panel, `COLUMNS` apart.
///
/// Pairs, fours, then quarters of registers change places: 64 shuffles for 256 numbers.
#[target_feature(enable = "avx512f")]
fn turn(rows: &[__m512; SQUARE], panel: &mut [f32], count: usize) {
    let pairs: [__m512; SQUARE] = std::array::from_fn(|i| match i % 2 {
        0 => _mm512_unpacklo_ps(rows[i], rows[i + 1]),
        _ => _mm512_unpackhi_ps(rows[i - 1], rows[i]),
    });
    let fours: [__m512; SQUARE] = std::array::from_fn(|i| {
        let (first, half) = (i / 4 * 4, i % 4 / 2);
        let low = _mm512_castps_pd(pairs[first + half]);
        let high = _mm512_castps_pd(pairs[first + half + 2]);
        _mm512_castpd_ps(match i % 2 {
            0 => _mm512_unpacklo_pd(low, high),
            _ => _mm512_unpackhi_pd(low, high),
        })
    });
    let quarters: [__m512; SQUARE] = std::array::from_fn(|i| {
        let (half, column) = (i / 8 * 8, i % 4);
        let (low, high) = (fours[half + column], fours[half + column + 4]);
        match i % 8 / 4 {
            0 => _mm512_shuffle_f32x4::<0x88>(low, high),
            _ => _mm512_shuffle_f32x4::<0xdd>(low, high),
        }
    });
    for (k, out) in panel.chunks_mut(COLUMNS).take(count).enumerate() {
        // Quarters 0 and 2 of the columns, or 1 and 3, lie in one register.
        let (low, high) = (quarters[k % 8], quarters[k % 8 + 8]);
        let row = match k / 8 {
            0 => _mm512_shuffle_f32x4::<0x88>(low, high),
            _ => _mm512_shuffle_f32x4::<0xdd>(low, high),
        };
        // SAFETY: the slicing leaves 16 numbers.
        unsafe { _mm512_storeu_ps(out[..SQUARE].as_mut_ptr(), row) };
    }
}

/// Adds `R` rows x panel to a tile.
///
/// # Safety
/// The processor has AVX-512 F. `left` points to `R` rows of `depth` numbers, `stride` apart;
/// `panel` to `depth * COLUMNS`; the tile's numbers may be written and are nobody else's.
#[target_feature(enable = "avx512f")]
unsafe fn columns<const R: usize>(
    left: *const f32,
    stride: usize,
    panel: *const f32,
    depth: usize,
    tile: &Tile,
) {
    let mut sums = [[_mm512_setzero_ps(); 3]; R];
    for k in 0..depth {
        // SAFETY: k < depth; the caller vouches for the panel's depth * COLUMNS numbers.
        let columns = unsafe {
            let panel = panel.add(k * COLUMNS);
            [0, 16, 32].map(|from| _mm512_loadu_ps(panel.add(from)))
        };
        macro_rules! row {
            ($i:literal) => {
                if $i < R {
                    // SAFETY: row i of R, number k of depth.
                    let number = _mm512_set1_ps(unsafe { *left.add($i * stride + k) });
                    sums[$i][0] = _mm512_fmadd_ps(number, columns[0], sums[$i][0]);
                    sums[$i][1] = _mm512_fmadd_ps(number, columns[1], sums[$i][1]);
                    sums[$i][2] = _mm512_fmadd_ps(number, columns[2], sums[$i][2]);
                }
            };
        }
        every_row!(row);
    }
    let masks = tile.masks();
    macro_rules! store {
        ($i:literal) => {
            if $i < R {
                for part in 0..3 {
                    let out = tile.out.wrapping_add($i * tile.stride + 16 * part);
                    // SAFETY: the mask leaves only columns of the tile.
                    unsafe {
                        let before = match tile.add {
                            true => _mm512_maskz_loadu_ps(masks[part], out),
                            false => _mm512_setzero_ps(),
                        };
                        let sum = _mm512_add_ps(before, sums[$i][part]);
                        _mm512_mask_storeu_ps(out, masks[part], sum);
                    }
                }
            }
        };
    }
    every_row!(store);
}

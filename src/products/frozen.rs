//! A frozen weight matrix on the CPU, as wide as its numbers need, and its two products.
//!
//! - In: numbers `[in, out]` in f32 and how to keep them. Out: `x W` and `dy Wᵀ`, in f32.
//! - `Auto` keeps bf16 or f16 where every number survives it and the processor widens on the way
//!   (x86-64 with AVX2, aarch64), else f32: the results are the same. `Bf16` rounds; `Int8` keeps
//!   codes of -127..=127, one scale for each output and one for each input.
//! - On processors with AVX-512 VNNI or NEON's SDOT int8 multiplies whole numbers: the rows are
//!   rounded too, in blocks of 256 with a scale each, but for numbers far above the others. Elsewhere
//!   the codes are widened and multiplied in f32.
//! - At medium precision, on processors with AVX-512 BF16 or aarch64's BFMMLA, what is kept in bf16 is
//!   multiplied in bf16: the rows are rounded to it, the sums are f32. Whatever else is kept, and
//!   elsewhere, medium is highest. So is `auto`, which is for whoever knows all matrices to decide.
//! - Never here: LoRA, biases, which layer this is.

use super::gemm::{Into, Threads, View, matmul};
#[cfg(target_arch = "x86_64")]
use super::panel::Few;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::panel::{self, Bf16, Float, Halved, Integer, Out, Quantised, Rounding};
use super::pool::Pool;
use super::row;
use crate::settings::{HeadWeights, MatmulPrecision};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::sync::Arc;

/// Largest code of an int8 weight or row.
pub(super) const CODE_MAX: f32 = 127.0;
/// Columns that are widened at a time where no kernel does it on the way: the product packs its
/// left side for each of them.
const WIDE_AT_ONCE: usize = 256;
/// Columns that are compared at a time.
const SOME: usize = 64;

/// How a frozen matrix is kept, and multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) weights: HeadWeights,
    pub(crate) precision: MatmulPrecision,
}

/// A frozen matrix `[in, out]`; a copy shares the numbers.
#[derive(Clone)]
pub(crate) struct Frozen {
    /// Rows and columns of the numbers as they lie: in and out, or out and in when turned.
    stored: (usize, usize),
    turned: bool,
    precision: MatmulPrecision,
    numbers: Arc<Numbers>,
}

/// How the numbers are kept, row-major.
enum Numbers {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    /// A number is its code times the scales of its row and of its column.
    Int8 {
        codes: Vec<i8>,
        scales: Scales,
    },
}

/// What the codes of an int8 matrix are multiplied by.
pub(super) struct Scales {
    /// `[in]`
    pub(super) ins: Vec<f32>,
    /// `[out]`
    pub(super) outs: Vec<f32>,
}

impl Scales {
    /// In and out.
    pub(super) fn fans(&self) -> (usize, usize) {
        (self.ins.len(), self.outs.len())
    }
}

/// Which way a matrix is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// `x W`: the depth is `in`.
    Straight,
    /// `dy Wᵀ`: the depth is `out`.
    Turned,
}

/// Kept numbers that widen to f32 one by one.
#[derive(Clone, Copy)]
pub(super) enum Floats<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    Int8(&'a [i8], &'a Scales),
}

impl Floats<'_> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::F16(numbers) => numbers.len(),
            Self::Bf16(numbers) => numbers.len(),
            Self::Int8(codes, _) => codes.len(),
        }
    }

    /// The numbers from `at` on, in f32; they lie in one row.
    #[inline(always)]
    pub(super) fn widen(&self, at: usize, out: &mut [f32]) {
        let span = at..at + out.len();
        match self {
            Self::F32(numbers) => out.copy_from_slice(&numbers[span]),
            #[cfg(target_arch = "aarch64")]
            Self::F16(numbers) => panel::widen_halves(&numbers[span], out),
            #[cfg(not(target_arch = "aarch64"))]
            Self::F16(numbers) => numbers[span].convert_to_f32_slice(out),
            Self::Bf16(numbers) => {
                for (out, number) in out.iter_mut().zip(&numbers[span]) {
                    *out = f32::from_bits(u32::from(number.to_bits()) << 16);
                }
            }
            Self::Int8(codes, scales) => {
                let width = scales.outs.len();
                let (own, outs) = (scales.ins[at / width], &scales.outs[at % width..]);
                for ((out, &code), scale) in out.iter_mut().zip(&codes[span]).zip(outs) {
                    *out = f32::from(code) * (scale * own);
                }
            }
        }
    }
}

impl Side {
    /// How the numbers are used where the matrix is turned.
    fn of(self, turned: bool) -> Self {
        match (self, turned) {
            (side, false) => side,
            (Self::Straight, true) => Self::Turned,
            (Self::Turned, true) => Self::Straight,
        }
    }
}

impl Frozen {
    /// Keeps `numbers`, row-major `[in, out]`; `fans` are in and out.
    pub(crate) fn new(numbers: Vec<f32>, fans: (usize, usize), form: Form) -> Self {
        let (Form { weights, precision }, (fan_in, fan_out)) = (form, fans);
        assert_eq!(numbers.len(), fan_in * fan_out, "a weight of other sizes");
        let numbers = match weights {
            HeadWeights::Auto if super::one_order() => narrowest(numbers),
            HeadWeights::F32 | HeadWeights::Auto => Numbers::F32(numbers),
            HeadWeights::Bf16 => Numbers::Bf16(numbers.into_iter().map(bf16::from_f32).collect()),
            HeadWeights::Int8 => int8(&numbers, fan_out),
        };
        Self { stored: fans, turned: false, precision, numbers: Arc::new(numbers) }
    }

    /// The same numbers, shared, as the matrix `[out, in]`.
    pub(crate) fn turned(&self) -> Self {
        let numbers = Arc::clone(&self.numbers);
        Self { turned: !self.turned, numbers, ..*self }
    }

    /// The same numbers, multiplied otherwise.
    pub(crate) fn at(self, precision: MatmulPrecision) -> Self {
        Self { precision, ..self }
    }

    /// Whether rows are rounded to bf16 and multiplied in it.
    pub(crate) fn is_multiplied_in_bf16(&self) -> bool {
        self.halves().is_some()
    }

    /// The numbers, where they are multiplied in bf16.
    fn halves(&self) -> Option<&[bf16]> {
        match &*self.numbers {
            Numbers::Bf16(numbers) if self.precision == MatmulPrecision::Medium => {
                super::in_bf16().then_some(numbers)
            }
            _ => None,
        }
    }

    /// Whether every number is that of `other`, turned; neither is itself turned.
    pub(crate) fn is_turned(&self, other: &Self) -> bool {
        let (rows, columns) = self.stored;
        if other.stored != (columns, rows) {
            return false;
        }
        let (mut theirs, mut ours) = (vec![0f32; SOME * rows], [0f32; SOME]);
        let mut starts = (0..columns).step_by(SOME);
        starts.all(|start| {
            let count = SOME.min(columns - start);
            for (row, numbers) in (start..start + count).zip(theirs.chunks_exact_mut(rows.max(1))) {
                other.floats().widen(row * rows, numbers);
            }
            (0..rows).all(|row| {
                let ours = &mut ours[..count];
                self.floats().widen(row * columns + start, ours);
                let theirs = theirs[row..].iter().step_by(rows.max(1));
                ours.iter().zip(theirs).all(|(a, b)| a.to_bits() == b.to_bits())
            })
        })
    }

    /// In and out.
    pub(crate) fn fans(&self) -> (usize, usize) {
        let (rows, columns) = self.stored;
        if self.turned { (columns, rows) } else { (rows, columns) }
    }

    /// The numbers in f32, `[in, out]`.
    #[cfg(test)]
    pub(crate) fn widened(&self) -> Vec<f32> {
        let (rows, columns) = self.stored;
        let mut numbers = vec![0f32; rows * columns];
        for (row, numbers) in numbers.chunks_exact_mut(columns.max(1)).enumerate() {
            self.floats().widen(row * columns, numbers);
        }
        if self.turned {
            let column = |column| (0..rows).map(move |row| row * columns + column);
            return (0..columns).flat_map(column).map(|at| numbers[at]).collect();
        }
        numbers
    }

    /// As [`Frozen::backward`] for rows whose small numbers count in sum, as the slopes of logits do:
    /// where rows are rounded to 8 bits, they are rounded to 16. In bf16 each number keeps its own digits,
    /// and rounding once costs less than the rows of the way forward do.
    pub(crate) fn backward_finely(&self, dy: View<'_>, dx: &mut [f32], pool: &Pool) {
        self.product(Side::Turned, dy, (dx, self.fans().0, Into::Replace), true, pool);
    }

    /// Row `row` of the numbers as they lie, in f32.
    ///
    /// # Panics
    /// When there is no such row or `out` is not one long: a bug of the caller.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let (rows, columns) = self.stored;
        assert!(row < rows && out.len() == columns, "no such row");
        self.floats().widen(row * columns, out);
    }

    /// `out (+)= x W`: x `[rows, in]`; out `[rows, out]`, rows `stride` apart.
    pub(crate) fn forward(&self, x: View<'_>, out: (&mut [f32], usize, Into), pool: &Pool) {
        self.product(Side::Straight, x, out, false, pool);
    }

    /// `out (+)= x W` for a single row: x `[in]`, out `[out]`; the row is never rounded.
    ///
    /// The sums are not in the order of [`Frozen::forward`], which packs W for many rows.
    pub(crate) fn forward_row(&self, x: &[f32], out: &mut [f32], into: Into) {
        match self.turned {
            false => row::straight(x, self.floats(), out, into),
            true => row::turned(x, self.floats(), out, into),
        }
    }

    /// `dx (+)= dy Wᵀ`: dy `[rows, out]`; dx `[rows, in]` without gaps.
    pub(crate) fn backward(&self, dy: View<'_>, (dx, into): (&mut [f32], Into), pool: &Pool) {
        self.product(Side::Turned, dy, (dx, self.fans().0, into), false, pool);
    }

    fn floats(&self) -> Floats<'_> {
        match &*self.numbers {
            Numbers::F32(numbers) => Floats::F32(numbers),
            Numbers::F16(numbers) => Floats::F16(numbers),
            Numbers::Bf16(numbers) => Floats::Bf16(numbers),
            Numbers::Int8 { codes, scales } => Floats::Int8(codes, scales),
        }
    }

    fn product(
        &self,
        side: Side,
        left: View<'_>,
        (numbers, stride, into): (&mut [f32], usize, Into),
        #[cfg_attr(
            not(any(target_arch = "x86_64", target_arch = "aarch64")),
            expect(unused_variables, reason = "nothing else rounds rows")
        )]
        finely: bool,
        pool: &Pool,
    ) {
        let (fan_in, fan_out) = self.fans();
        let columns = if side == Side::Straight { fan_out } else { fan_in };
        let side = side.of(self.turned);
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if let Numbers::Int8 { codes, scales } = &*self.numbers
            && panel::whole_available()
        {
            let factors = if side == Side::Turned { &scales.outs } else { &scales.ins };
            let rounding = if finely { Rounding::Twice } else { Rounding::Once };
            let rows = Quantised::new(left, factors, rounding, pool);
            let out = Out { numbers, stride, into };
            Integer::new(&rows, codes, scales, side).product(columns, out);
            pool.give(rows.buffers());
            return;
        }
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if let Some(halves) = self.halves() {
            let rows = Halved::new(left, pool);
            let out = Out { numbers, stride, into };
            Bf16::new(&rows, halves, self.stored.1, side).product(columns, out);
            pool.give([rows.buffer()]);
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if side == Side::Straight
            && let Some(few) = Few::new(left, self.floats())
        {
            few.product(columns, Out { numbers, stride, into });
            return;
        }
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        if panel::available() {
            let out = Out { numbers, stride, into };
            Float::new(left, self.floats(), self.stored.1, side).product(
                columns,
                out,
                Threads::All,
            );
            return;
        }
        self.product_of_widened(side, left, (numbers, stride, into), pool);
    }

    /// The product by the `gemm` crate, from as many columns at a time as are worth widening; `side`
    /// is that of the numbers as they lie.
    fn product_of_widened(
        &self,
        side: Side,
        left: View<'_>,
        (out, stride, into): (&mut [f32], usize, Into),
        pool: &Pool,
    ) {
        let (all, (stored_rows, width)) = (Threads::All, self.stored);
        if let (Numbers::F32(numbers), _) = (&*self.numbers, side) {
            let weight = View::dense(numbers, stored_rows, width);
            let weight = if side == Side::Straight { weight } else { weight.transposed() };
            return matmul(out, stride, left, weight, 1.0, into, all);
        }
        let (depth, columns) = match side {
            Side::Straight => (stored_rows, width),
            Side::Turned => (width, stored_rows),
        };
        let most = WIDE_AT_ONCE.min(columns);
        let mut wide = pool.take(most * depth);
        for start in (0..columns).step_by(most.max(1)) {
            let count = most.min(columns - start);
            let wide = &mut wide[..count * depth];
            match side {
                Side::Straight => {
                    for (k, row) in wide.chunks_exact_mut(count).enumerate() {
                        self.floats().widen(k * width + start, row);
                    }
                }
                Side::Turned => {
                    for (row, wide) in (start..).zip(wide.chunks_exact_mut(depth)) {
                        self.floats().widen(row * width, wide);
                    }
                }
            }
            let right = match side {
                Side::Straight => View::dense(wide, depth, count),
                Side::Turned => View::dense(wide, count, depth).transposed(),
            };
            matmul(&mut out[start..], stride, left, right, 1.0, into, all);
        }
        pool.give([wide]);
    }
}

/// bf16 or f16 when every number survives it, else f32.
fn narrowest(numbers: Vec<f32>) -> Numbers {
    // A bf16 is an f32 without its low half.
    if numbers.iter().all(|number| number.to_bits() & 0xffff == 0) {
        return Numbers::Bf16(numbers.into_iter().map(bf16::from_f32).collect());
    }
    let mut narrow = vec![f16::ZERO; numbers.len()];
    narrow.convert_from_f32_slice(&numbers);
    let mut back = [0f32; 256];
    let same = narrow.chunks(256).zip(numbers.chunks(256)).all(|(narrow, numbers)| {
        let back = &mut back[..narrow.len()];
        narrow.convert_to_f32_slice(back);
        back.iter().zip(numbers).all(|(back, number)| back.to_bits() == number.to_bits())
    });
    if same { Numbers::F16(narrow) } else { Numbers::F32(numbers) }
}

/// Codes to the nearest, with the scale at which an output's largest weight is the largest code.
///
/// An input whose weights are all large would cost every output the digits of its other weights, so
/// the inputs have scales too: the root of the root mean square of their weights. The root, because
/// large weights often stand where large numbers come in, and must not lose all that others gain.
/// Source: SmoothQuant, arXiv 2211.10438, whose balance of 0.5 this is, from the weights alone.
fn int8(numbers: &[f32], fan_out: usize) -> Numbers {
    let rows = || numbers.chunks_exact(fan_out.max(1));
    let ins: Vec<f32> = rows().map(balance).collect();
    let mut outs = vec![0f32; fan_out];
    for (row, own) in rows().zip(&ins) {
        let inverse = 1.0 / own;
        outs.iter_mut()
            .zip(row)
            .for_each(|(scale, number)| *scale = scale.max(number.abs() * inverse));
    }
    outs.iter_mut().for_each(|scale| *scale /= CODE_MAX);
    let inverse: Vec<f32> =
        outs.iter().map(|&scale| if scale > 0.0 { 1.0 / scale } else { 0.0 }).collect();
    let codes = rows().zip(&ins).flat_map(|(row, own)| {
        let own = 1.0 / own;
        let codes = row.iter().zip(&inverse).map(move |(number, inverse)| number * own * inverse);
        codes.map(|code| code.round().clamp(-CODE_MAX, CODE_MAX) as i8)
    });
    Numbers::Int8 { codes: codes.collect(), scales: Scales { ins, outs } }
}

/// The scale of an input with these weights; 1 where they are all zeros, or one is no number.
fn balance(row: &[f32]) -> f32 {
    let squares: f32 = row.iter().map(|number| number * number).sum();
    let scale = (squares / row.len() as f32).sqrt().sqrt();
    if scale.is_normal() { scale } else { 1.0 }
}

#[cfg(test)]
mod tests;

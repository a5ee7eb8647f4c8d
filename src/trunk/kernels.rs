//! tract's own kernels as safe functions: a matrix product, a norm, a softmax, a gate.
//!
//! - In and out: f32, rows of tokens one after the other. The processor decides which kernels run.
//! - A product runs on the threads of tract's executor in force. Every number of it is one sum in
//!   the order of k, so that neither threads nor the other rows change a bit.
//! - Never here: what a layer is made of.
#![expect(unsafe_code, reason = "tract's product takes what it is told on trust; checked before")]

use tract_linalg::element_wise::ElementWise;
use tract_linalg::mmm::{AsInputValue, FusedSpec, MMMInputValue, MatMatMul, MmmDispatch, Query};
use tract_linalg::reduce::{MapReduce, Reduce};
use tract_linalg::routines::{Func, rms_norm_f32};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{TractErrorContext, ensure};

/// Numbers in the widest register, and the alignment of every tensor made here, in numbers.
pub(super) const LANES: usize = 16;

/// The kernel to take where it runs. tract's choice while T is a symbol is as fast within 4 %, its
/// cost model's is slower (EXPERIMENTS.md), and this one wastes nothing on T divisible by four.
const PREFERRED: &str = "avx512_mmm_f32_48x4";

/// The left operand of a product, packed.
#[derive(Clone, Debug)]
pub(super) struct Left(Box<dyn MMMInputValue>);

/// The right operand of a product, packed.
pub(super) struct Right(Box<dyn MMMInputValue>);

/// Multiplies matrices with one kernel, the same for all of a process.
#[derive(Clone, Debug)]
pub(super) struct Product(Box<dyn MatMatMul>);

impl Product {
    /// The product of this processor.
    pub(super) fn native() -> TractResult<Self> {
        let dispatch = MmmDispatch::native();
        if let Some(kernel) = dispatch.runnable().iter().find(|k| k.name() == PREFERRED) {
            return Ok(Self(kernel.clone()));
        }
        let query = Query::plain(f32::datum_type(), Some(1024), Some(1024), Some(128));
        let (kernel, packing, extractor) = dispatch.pick(&query).context("no product of f32")?;
        ensure!(packing == 0 && extractor.is_none(), "{kernel:?} wants its operands repacked");
        Ok(Self(kernel))
    }

    /// Packs a matrix of two axes, of which `inner` is summed over, as the left operand.
    pub(super) fn left(&self, x: &Tensor, inner: usize) -> TractResult<Left> {
        Ok(Left(self.0.packings()[0].0.prepare_one(x, inner, 1 - inner)?))
    }

    /// Packs a matrix `[n, k]` as the right operand.
    pub(super) fn right(&self, x: &Tensor) -> TractResult<Right> {
        Ok(Right(self.0.packings()[0].1.prepare_one(x, 1, 0)?))
    }

    /// `[n, m]`: sums over k of the first `m` of the left times the first `n` of the right.
    pub(super) fn of(&self, left: &Left, right: &Right, m: usize, n: usize) -> TractResult<Tensor> {
        let (left, right) = (&*left.0, &*right.0);
        let fits = left.mn() >= m && right.mn() >= n && left.k() == right.k();
        ensure!(fits, "{left} and {right} have no product of {n} x {m}");
        let sum = FusedSpec::AddMatMul {
            a: AsInputValue::Borrowed(left),
            b: AsInputValue::Borrowed(right),
            packing: 0,
        };
        let bytes = LANES * size_of::<f32>();
        // SAFETY: both operands were packed with packing 0 of this kernel (`native` gives one kernel
        // to the whole process) and hold at least m and n rows of the same k. The output is a fresh
        // tensor of exactly [n, m] f32 whose view outlives the run, and storing writes all of it.
        unsafe {
            let mut product = Tensor::uninitialized_aligned::<f32>(&[n, m], bytes)?;
            let store = self.0.c_view(Some(1), Some(0)).wrap(&product.view_mut());
            self.0.run(m, n, &[sum, FusedSpec::Store(store)])?;
            Ok(product)
        }
    }
}

/// `x / sqrt(mean(x^2) + epsilon) * gain` of every row, in place.
pub(super) fn norm(x: &mut [f32], gain: &[f32], epsilon: f32) -> TractResult<()> {
    let unit = rms_norm_f32()?;
    for row in x.chunks_exact_mut(gain.len()) {
        unit(row, epsilon);
        for (x, gain) in row.iter_mut().zip(gain) {
            *x *= gain;
        }
    }
    Ok(())
}

/// `h = silu(gate) * up`; `gate_up` is `[N, 2 F]`, `h` `[N, F]`.
pub(super) fn gate(gate_up: &[f32], h: &mut [f32], f: usize) -> TractResult<()> {
    for (h, gate_up) in h.chunks_exact_mut(f).zip(gate_up.chunks_exact(2 * f)) {
        h.copy_from_slice(&gate_up[..f]);
    }
    Func::Silu.ew_f32()?.run(h)?;
    for (h, gate_up) in h.chunks_exact_mut(f).zip(gate_up.chunks_exact(2 * f)) {
        h.iter_mut().zip(&gate_up[f..]).for_each(|(h, up)| *h *= up);
    }
    Ok(())
}

/// The three passes of a softmax.
pub(super) struct Softmax {
    maximum: Box<dyn Reduce<f32>>,
    exponential: Box<dyn MapReduce<f32, f32>>,
    times: Box<dyn ElementWise<f32, f32>>,
}

impl Softmax {
    /// The softmax of this processor.
    pub(super) fn native() -> TractResult<Self> {
        Ok(Self {
            maximum: Func::ReduceMax.reduce_f32()?,
            exponential: Func::Softmax2.map_reduce_f32()?,
            times: Func::MulByScalar.ew_f32_param()?,
        })
    }

    /// Turns the first `seen` scores of a row into probabilities and the rest into zero.
    ///
    /// Rows are a multiple of [`LANES`] long and aligned, or the order of sums would depend on where
    /// a row lies.
    pub(super) fn causal(&self, scores: &mut [f32], seen: usize) -> TractResult<()> {
        let (past, future) = scores.split_at_mut(seen.next_multiple_of(LANES));
        past[seen..].fill(f32::NEG_INFINITY);
        future.fill(0.0);
        let highest = self.maximum.run(past)?;
        let total = self.exponential.run_with_params(past, highest)?;
        self.times.run_with_params(past, total.recip())
    }
}

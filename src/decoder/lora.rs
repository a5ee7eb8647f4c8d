//! The factors of one adapted linear layer, and what they add to its output.
//!
//! - In: a layer's modules and flat factors, rows of its input. Out: `scale (x Aᵀ) Bᵀ`, added.
//! - Never here: gradients, the frozen weight.

use crate::adapter::{Adapter, Module, Target};
use crate::products::Pool;
use crate::products::gemm::{Into, Threads, View, matmul};
use std::ops::Range;

/// The modules of one layer, and where its factors lie in the adapter.
pub(crate) fn part(adapter: &Adapter, layer: usize) -> (&[Module], Range<usize>) {
    let modules = &adapter.spec.modules;
    let from = modules.partition_point(|module| module.layer < layer);
    let modules = &modules[from..modules.partition_point(|module| module.layer <= layer)];
    (
        modules,
        modules.first().map_or(0, |module| module.a.start)
            ..modules.last().map_or(0, |module| module.b.end),
    )
}

/// Where a module's A and B lie in the flat factors of its layer, whose modules are `modules`.
pub(crate) fn places(modules: &[Module], module: &Module) -> (Range<usize>, Range<usize>) {
    let start = modules[0].a.start;
    (module.a.start - start..module.a.end - start, module.b.start - start..module.b.end - start)
}

/// A and B of one module.
pub(crate) struct Lora<'a> {
    /// Which of the layer's modules it is.
    pub(crate) index: usize,
    pub(crate) module: &'a Module,
    /// `[r, in]`
    pub(crate) a: &'a [f32],
    /// `[out, r]`
    pub(crate) b: &'a [f32],
}

impl<'a> Lora<'a> {
    /// The factors of a target, if the layer adapts it; its modules and flat factors.
    pub(crate) fn of(modules: &'a [Module], factors: &'a [f32], target: Target) -> Option<Self> {
        let index = modules.iter().position(|module| module.target == target)?;
        let module = &modules[index];
        let (a, b) = places(modules, module);
        Some(Self { index, module, a: &factors[a], b: &factors[b] })
    }

    /// Adds `scale (x Aᵀ) Bᵀ` to `out`, rows `stride` apart; gives `x Aᵀ`, `[N, r]`.
    pub(crate) fn add(
        &self,
        input: View<'_>,
        (out, stride): (&mut [f32], usize),
        pool: &Pool,
    ) -> Vec<f32> {
        let Module { rank, fan_in, fan_out, scale, .. } = *self.module;
        let (rows, _) = input.dims();
        let mut thin = pool.take(rows * rank);
        let a = View::dense(self.a, rank, fan_in).transposed();
        matmul(&mut thin, rank, input, a, 1.0, Into::Replace, Threads::All);
        let b = View::dense(self.b, fan_out, rank).transposed();
        matmul(out, stride, View::dense(&thin, rows, rank), b, scale, Into::Add, Threads::All);
        thin
    }
}

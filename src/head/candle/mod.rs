//! The head by candle's ops and autograd: CUDA and Metal, and on a CPU the oracle of our own kernels.
//!
//! - Blocks are padded to one length, `[B, T, D]`; padding stands at the end of a sequence, so causal
//!   attention never sees it, and takes no part in losses.
//! - Everything is f32.
//! - This folder and the optimiser alone name candle.

mod backend;
mod weights;
mod layer;
mod below;
mod entropy;
mod step;
mod seen;
mod texts;

pub use backend::Backend;
pub use below::Below;
pub(super) use texts::{Past, Texts};

use super::{Group, HeadError};
use crate::adapter::{Adapter, Module};
use crate::base::{Base, Config};
use crate::decoder::part;
use candle_core::{Device, Tensor, Var};
use layer::Layer;
use ndarray::Array3;
use std::ops::Range;
use weights::{Rotary, Weights};

/// Layers tap..L with what stands above them, on a device.
pub(super) struct Candle {
    config: Config,
    tap: usize,
    device: Device,
    layers: Vec<Weights>,
    norm: Tensor,
    lm_head: Tensor,
    rotary: Rotary,
}

/// An adapter's numbers on the device: one tensor a layer, empty for layers without.
struct Factors {
    layers: Vec<(Vec<Module>, Tensor)>,
}

impl Candle {
    pub(super) fn load(
        base: &Base,
        tap: usize,
        backend: &Backend,
        positions: usize,
    ) -> Result<Self, HeadError> {
        let (config, device) = (base.config().clone(), backend.device().clone());
        let layers = (tap..config.layers).map(|index| Weights::load(base, index, &device));
        let candle = Self {
            tap,
            layers: layers.collect::<Result<_, _>>()?,
            norm: weights::tensor(base, "model.norm.weight", &device)?,
            lm_head: weights::tensor(base, "lm_head.weight", &device)?,
            rotary: Rotary::new(&config, positions, &device)?,
            device,
            config,
        };
        // CUDA orders work by thread: another one may use the head only when all has arrived.
        candle.device.synchronize()?;
        Ok(candle)
    }

    /// Most tokens of a sequence.
    pub(super) fn positions(&self) -> usize {
        self.rotary.positions
    }

    /// Moves an adapter's factors of some layers to the device; as variables when a gradient is
    /// wanted.
    fn factors(
        &self,
        adapter: Option<&Adapter>,
        of: Range<usize>,
        trainable: bool,
    ) -> Result<(Factors, Vec<Var>), HeadError> {
        let (mut layers, mut vars) = (Vec::new(), Vec::new());
        for index in of {
            let (modules, span) = adapter.map_or((&[][..], 0..0), |a| part(a, index));
            let numbers = adapter.map_or(&[][..], |adapter| &adapter.values[span]);
            // CUDA and Metal have no buffer without a byte: no factors are one number that nobody reads.
            let numbers = if numbers.is_empty() { &[0.0] } else { numbers };
            let values = Tensor::from_slice(numbers, numbers.len(), &self.device)?;
            let values = if trainable && !modules.is_empty() {
                let var = Var::from_tensor(&values)?;
                vars.push(var.clone());
                var.as_tensor().clone()
            } else {
                values
            };
            layers.push((modules.to_vec(), values));
        }
        Ok((Factors { layers }, vars))
    }

    /// The layers of the head.
    fn own(&self) -> Range<usize> {
        self.tap..self.config.layers
    }

    /// The residual stream after the last layer; `visit` sees that of each.
    fn forward(
        &self,
        x: &Tensor,
        factors: &Factors,
        mut visit: impl FnMut(usize, &Tensor) -> candle_core::Result<()>,
    ) -> candle_core::Result<Tensor> {
        let mut x = x.clone();
        let layers = self.layers.iter().zip(&factors.layers);
        for (index, (weights, (modules, values))) in layers.enumerate() {
            x = self.layer(weights, modules, values).forward(&x, 0, None)?;
            visit(index, &x)?;
        }
        Ok(x)
    }

    fn layer<'a>(
        &'a self,
        weights: &'a Weights,
        modules: &'a [Module],
        factors: &'a Tensor,
    ) -> Layer<'a> {
        Layer { config: &self.config, weights, rotary: &self.rotary, modules, factors }
    }

    /// The final norm of rows `[N, D]`.
    fn normed(&self, rows: &Tensor) -> candle_core::Result<Tensor> {
        layer::rms_norm(rows, &self.norm, self.config.norm_eps)
    }

    /// Logits of every row, `[B T, V]`.
    pub(super) fn logits(
        &self,
        adapter: Option<&Adapter>,
        group: &Group<'_>,
    ) -> Result<Vec<f32>, HeadError> {
        let normed = self.normed(&self.outputs(adapter, group)?)?;
        Ok(normed.matmul(&self.lm_head)?.flatten_all()?.to_vec1()?)
    }

    /// The residual stream above the layers, `[B * T, D]`; no gradient.
    fn outputs(&self, adapter: Option<&Adapter>, group: &Group<'_>) -> Result<Tensor, HeadError> {
        let (b, t, d) = group.hidden.dim();
        let (factors, _) = self.factors(adapter, self.own(), false)?;
        let x = tensor3(group.hidden, &self.device)?;
        Ok(self.forward(&x, &factors, |_, _| Ok(()))?.reshape((b * t, d))?)
    }
}

/// Hidden states `[B, T, D]` on a device.
fn tensor3(hidden: &Array3<f32>, device: &Device) -> candle_core::Result<Tensor> {
    let (b, t, d) = hidden.dim();
    match hidden.as_slice() {
        Some(numbers) => Tensor::from_slice(numbers, (b, t, d), device),
        None => Tensor::from_vec(hidden.iter().copied().collect(), (b, t, d), device),
    }
}

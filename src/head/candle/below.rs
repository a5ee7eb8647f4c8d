//! The trunk's layers on the head's device: layers 0..tap by candle's ops, frozen, without LoRA.
//!
//! - In: the embedding's output `[B, T, D]`, from tract. Out: the residual stream `[B, T, D]` at the
//!   tap. Both cross through host memory once a block.
//! - tract's own GPU runtimes cannot stand beside candle's: tract-cuda binds CUDA by loading, candle
//!   by linking, and one cudarc serves both. One code for CUDA and Metal, whose ops the head's step
//!   needs anyway, can also be held against tract on any machine.
//! - Never here: embedding, gradients, adapters. On the CPU tract runs the trunk; it is faster.

use super::layer::Layer;
use super::weights::{Rotary, Weights};
use super::{Backend, HeadError, tensor3};
use crate::base::{Base, Config};
use candle_core::{Device, Tensor};
use ndarray::Array3;

/// Layers 0..tap of the base, on a device.
pub struct Below {
    config: Config,
    device: Device,
    layers: Vec<Weights>,
    rotary: Rotary,
}

impl Below {
    /// Reads the layers below `tap`, at most L, to a device; `tokens_max` bounds every sequence.
    ///
    /// # Errors
    /// [`HeadError::Base`] when a weight is missing; [`HeadError::Length`] when `tokens_max` is
    /// more than the model's context.
    pub fn load(
        base: &Base,
        tap: usize,
        backend: &Backend,
        tokens_max: usize,
    ) -> Result<Self, HeadError> {
        let config = base.config().clone();
        if tokens_max > config.context {
            return Err(HeadError::Length { got: tokens_max, max: config.context });
        }
        let device = backend.device().clone();
        let layers: Result<Vec<_>, _> =
            (0..tap.min(config.layers)).map(|index| Weights::load(base, index, &device)).collect();
        let rotary = Rotary::new(&config, tokens_max, &device)?;
        // CUDA orders work by thread: another one may use the layers only when all has arrived.
        device.synchronize()?;
        Ok(Self { layers: layers?, rotary, device, config })
    }

    /// How many layers these are.
    pub(in crate::head) fn len(&self) -> usize {
        self.layers.len()
    }

    pub(super) fn layers(&self) -> &[Weights] {
        &self.layers
    }

    /// The residual stream at the tap of `embedded`, both `[B, T, D]`.
    ///
    /// # Errors
    /// [`HeadError::Length`] when the sequences are longer than `tokens_max`.
    pub fn hidden(&self, embedded: &Array3<f32>) -> Result<Array3<f32>, HeadError> {
        let shape = embedded.dim();
        let max = self.rotary.positions;
        if shape.1 > max {
            return Err(HeadError::Length { got: shape.1, max });
        }
        let mut x = tensor3(embedded, &self.device)?;
        let none = Tensor::zeros(1, candle_core::DType::F32, &self.device)?;
        for weights in &self.layers {
            let (config, rotary) = (&self.config, &self.rotary);
            let layer = Layer { config, weights, rotary, modules: &[], factors: &none };
            x = layer.forward(&x, 0, None)?;
        }
        let numbers = x.flatten_all()?.to_vec1()?;
        Array3::from_shape_vec(shape, numbers)
            .map_err(|error| candle_core::Error::Msg(error.to_string()).into())
    }
}

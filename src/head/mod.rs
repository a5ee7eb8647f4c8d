//! The head: layers tap..L with LoRA, the final norm and lm_head; its loss and gradient.
//!
//! - In: hidden states `[B, T, D]` at the tap, the blocks they belong to, one or two adapters.
//! - Out: losses, and the gradient of the fast adapter as one flat vector; or nats; or logits.
//! - For texts the head goes on with the trunk's weights to all layers (`decode.rs`).
//! - Never here: the optimiser (`train`), the trunk, files.
//! - Invariant: padding stands at the end of a sequence, so causal attention never sees it; it
//!   takes no part in cross-entropy or MSE either.
//!
//! Source: I-LoRA, arXiv 2402.18865. The CPU runs the step by hand, others candle's autograd.

mod attention;
mod below;
mod cache;
mod decode;
mod entropy;
mod fused;
mod kernels;
mod layer;
mod lora;
mod objective;
mod backend;
mod reference;
mod seen;
mod tape;

pub use crate::settings::EmbeddingLayers;
pub use backend::Backend;
pub use below::Below;
pub use decode::{Decoder, Session};
pub use objective::{Distance, Gradient, Group, Losses, Objective};
pub(crate) use seen::tiles;
pub use seen::{Seen, sum_bytes};

use crate::adapter::{Adapter, Module};
use crate::base::{Base, BaseError, Config};
use crate::products::Pool;
use crate::settings::{Activations, HeadWeights};
use crate::trunk::Trunk;
use candle_core::{Device, Tensor, Var};
use layer::{Kept, Layer, Rotary};
use reference::ReferenceLayer;
use std::ops::Range;

/// What can go wrong in the head.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// A weight could not be read.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The tensor library failed: out of memory, or a bug of ours.
    #[error("the tensor library failed: {0}; the adapter in use is unchanged")]
    Engine(#[from] candle_core::Error),
    /// A device that is not there.
    #[error("device {asked}: {why}; use --device cpu")]
    Device {
        /// What was asked for.
        asked: String,
        /// Why it cannot be had.
        why: String,
    },
    /// An adapter reaches below the tap or was made for other widths.
    #[error("the adapter does not fit: {what}; expected layers {from}..{to}")]
    Adapter {
        /// What does not fit.
        what: String,
        /// First layer of the head.
        from: usize,
        /// One past its last layer.
        to: usize,
    },
    /// Trunk and head that are no whole.
    #[error("{lower} layers lie below the head, expected {tap}, on the same device")]
    Apart {
        /// Layers at hand.
        lower: usize,
        /// First layer of the head.
        tap: usize,
    },
    /// More texts in one session than the device takes, or none.
    #[error("a session of {texts} texts, expected 1 to {max}")]
    Abreast {
        /// Texts asked for.
        texts: usize,
        /// Most texts.
        max: usize,
    },
    /// Sequences longer than what was made room for.
    #[error("{got} tokens do not fit, expected at most {max}")]
    Length {
        /// Tokens asked for.
        got: usize,
        /// Tokens possible.
        max: usize,
    },
}

/// Which code computes the layers, their loss and its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Our own kernels and a hand-written backward pass; CPU only.
    Fused,
    /// candle's own ops and autograd: any device, and the oracle of the other.
    Reference,
}

/// Rows of logits `[V]` that a step holds at a time.
pub fn logit_rows(activations: Activations) -> usize {
    entropy::rows_at_once(activations)
}

/// What the CPU's kernels keep in memory, and how; other devices keep f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The frozen linear weights.
    pub weights: HeadWeights,
    /// What the forward pass leaves for the backward pass.
    pub activations: Activations,
}

/// Layers tap..L of the base with all that stands above them, frozen.
pub struct Head {
    config: Config,
    tap: usize,
    device: Device,
    kernels: Kernels,
    activations: Activations,
    layers: Vec<Layer>,
    norm: Tensor,
    lm_head: Kept,
    rotary: Rotary,
    pool: Pool,
}

/// An adapter's numbers on the device: one tensor a layer of the head, empty for layers without.
struct Factors {
    layers: Vec<(Vec<Module>, Tensor)>,
}

impl Head {
    /// Reads layers `tap..L` of the base to a device; `tokens_max` bounds every later sequence.
    ///
    /// # Errors
    /// [`HeadError::Base`] when a weight is missing; [`HeadError::Length`] when `tokens_max` is
    /// more than the model's context.
    pub fn load(
        base: &Base,
        tap: usize,
        backend: &Backend,
        tokens_max: usize,
        keep: Keep,
    ) -> Result<Self, HeadError> {
        let kernels = if backend.is_cpu() { Kernels::Fused } else { Kernels::Reference };
        Self::load_for(kernels, base, tap, (backend, tokens_max), keep)
    }

    /// The same above a trunk's tap; where lm_head is the embedding that the trunk holds, and is to be
    /// kept as that is, both are one.
    ///
    /// # Errors
    /// As [`Head::load`].
    pub fn load_over(
        trunk: &Trunk,
        base: &Base,
        backend: &Backend,
        tokens_max: usize,
        keep: Keep,
    ) -> Result<Self, HeadError> {
        let mut head = Self::load(base, trunk.tap(), backend, tokens_max, keep)?;
        if let Kept::Frozen(lm_head) = &mut head.lm_head
            && keep.weights == HeadWeights::Auto
            && lm_head.is_turned(trunk.embedding())
        {
            *lm_head = trunk.embedding().turned();
        }
        Ok(head)
    }

    /// The same by candle's ops on any device, the CPU too: what a GPU runs, and the oracle of the
    /// CPU's own kernels.
    ///
    /// # Errors
    /// As [`Head::load`].
    pub fn load_reference(
        base: &Base,
        tap: usize,
        backend: &Backend,
        tokens_max: usize,
    ) -> Result<Self, HeadError> {
        Self::load_for(Kernels::Reference, base, tap, (backend, tokens_max), Keep::default())
    }

    fn load_for(
        kernels: Kernels,
        base: &Base,
        tap: usize,
        (backend, tokens_max): (&Backend, usize),
        keep: Keep,
    ) -> Result<Self, HeadError> {
        let config = base.config().clone();
        if tokens_max > config.context {
            return Err(HeadError::Length { got: tokens_max, max: config.context });
        }
        let device = backend.device().clone();
        let kept = (kernels == Kernels::Fused).then_some(keep.weights);
        let layers: Result<Vec<_>, _> =
            (tap..config.layers).map(|index| Layer::load(base, index, &device, kept)).collect();
        let head = Self {
            tap,
            kernels,
            activations: keep.activations,
            layers: layers?,
            norm: layer::tensor(base, "model.norm.weight", &device)?,
            lm_head: layer::matrix(base, "lm_head.weight", &device, kept)?,
            rotary: Rotary::new(&config, tokens_max, &device)?,
            pool: Pool::default(),
            device,
            config,
        };
        // CUDA orders work by thread: another one may use the head only when all has arrived.
        head.device.synchronize()?;
        Ok(head)
    }

    /// Chooses the code of a layer; [`Kernels::Fused`] is ignored where the weights are tensors.
    pub fn use_kernels(&mut self, kernels: Kernels) {
        let fused = matches!(self.lm_head, Kept::Frozen(_));
        self.kernels = if fused { kernels } else { Kernels::Reference };
    }

    /// The base's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The first layer of the head.
    pub fn tap(&self) -> usize {
        self.tap
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
        if let Some(adapter) = adapter {
            check(adapter, &self.config, of.clone())?;
        }
        for index in of {
            let (modules, span) = adapter.map_or((&[][..], 0..0), |a| lora::part(a, index));
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

    fn check(&self, adapter: &Adapter) -> Result<(), HeadError> {
        check(adapter, &self.config, self.own())
    }

    /// The residual stream after the last layer by candle's ops; `visit` sees that of each.
    fn forward(
        &self,
        x: &Tensor,
        factors: &Factors,
        mut visit: impl FnMut(usize, &Tensor) -> candle_core::Result<()>,
    ) -> candle_core::Result<Tensor> {
        let mut x = x.clone();
        let layers = self.layers.iter().zip(&factors.layers);
        for (index, (layer, (modules, values))) in layers.enumerate() {
            x = self.reference(layer, modules, values).forward(&x, 0, None)?;
            visit(index, &x)?;
        }
        Ok(x)
    }

    fn reference<'a>(
        &'a self,
        layer: &'a Layer,
        modules: &'a [Module],
        factors: &'a Tensor,
    ) -> ReferenceLayer<'a> {
        ReferenceLayer { config: &self.config, layer, rotary: &self.rotary, modules, factors }
    }

    /// The final norm of rows `[N, D]` by candle's ops.
    fn normed(&self, rows: &Tensor) -> candle_core::Result<Tensor> {
        reference::rms_norm(rows, &self.norm, self.config.norm_eps)
    }
}

/// Refuses an adapter of other widths or of other layers.
fn check(adapter: &Adapter, config: &Config, layers: Range<usize>) -> Result<(), HeadError> {
    for module in &adapter.spec.modules {
        let fans = module.target.fans(config);
        if !layers.contains(&module.layer) || fans != (module.fan_in, module.fan_out) {
            let what = format!("layer {} {} of {:?}", module.layer, module.target.module(), fans);
            return Err(HeadError::Adapter { what, from: layers.start, to: layers.end });
        }
    }
    Ok(())
}

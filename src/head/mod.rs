//! The head: layers tap..L with LoRA, the final norm and lm_head; its loss and gradient.
//!
//! - In: hidden states `[B, T, D]` at the tap, the blocks they belong to, one or two adapters.
//! - Out: losses, and the gradient of the fast adapter as one flat vector; or nats; or logits.
//! - For texts the head goes on with the trunk's weights to all layers (`texts.rs`).
//! - Two engines, one chosen when the head is loaded: `cpu/`, by hand over the layers of `decoder`, and
//!   `candle/`, by ops and autograd, for other devices and as the first one's oracle.
//! - Never here: the optimiser (`train`), the trunk, files.
//!
//! Source: I-LoRA, arXiv 2402.18865.

mod objective;
mod layers;
mod seen;
mod cpu;
mod candle;
mod texts;

pub use crate::settings::EmbeddingLayers;
pub use candle::{Backend, Below};
pub use objective::{Distance, Gradient, Group, Losses, Objective};
pub(crate) use seen::tiles;
pub use seen::{Seen, sum_bytes};
pub use texts::{Decoder, Kept, Session, session_bytes};

use crate::adapter::Adapter;
use crate::base::{Base, BaseError, Config};
use crate::settings::{Activations, HeadWeights, MatmulPrecision};
use crate::trunk::Trunk;
use candle::Candle;
use cpu::Cpu;
use ndarray::Array3;
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

/// Rows of logits `[V]` that a step holds at a time.
pub fn logit_rows(activations: Activations) -> usize {
    cpu::rows_at_once(activations)
}

/// What the CPU's kernels keep in memory, how, and how they multiply; other devices know f32 alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The frozen linear weights.
    pub weights: HeadWeights,
    /// How rows are multiplied with them.
    pub precision: MatmulPrecision,
    /// What the forward pass leaves for the backward pass.
    pub activations: Activations,
}

/// Layers tap..L of the base with all that stands above them, frozen.
pub struct Head {
    config: Config,
    tap: usize,
    engine: Engine,
}

/// Who computes.
enum Engine {
    Cpu(Box<Cpu>),
    Candle(Box<Candle>),
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
        Self::load_with(base, tap, backend, tokens_max, (keep, None))
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
        Self::load_with(base, trunk.tap(), backend, tokens_max, (keep, Some(trunk)))
    }

    fn load_with(
        base: &Base,
        tap: usize,
        backend: &Backend,
        tokens_max: usize,
        shared: (Keep, Option<&Trunk>),
    ) -> Result<Self, HeadError> {
        if !backend.is_cpu() {
            return Self::load_reference(base, tap, backend, tokens_max);
        }
        let config = checked(base, tokens_max)?;
        let engine = Engine::Cpu(Box::new(Cpu::load(base, tap, tokens_max, shared)?));
        Ok(Self { config, tap, engine })
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
        let config = checked(base, tokens_max)?;
        let engine = Engine::Candle(Box::new(Candle::load(base, tap, backend, tokens_max)?));
        Ok(Self { config, tap, engine })
    }

    /// The same weights, multiplied otherwise; candle's always in f32.
    #[must_use]
    pub fn at(self, precision: MatmulPrecision) -> Self {
        let engine = match self.engine {
            Engine::Cpu(cpu) => Engine::Cpu(Box::new(cpu.at(precision))),
            candle @ Engine::Candle(_) => candle,
        };
        Self { engine, ..self }
    }

    /// Whether all products with frozen matrices are in bf16, and whether any is.
    pub fn in_bf16(&self) -> [bool; 2] {
        match &self.engine {
            Engine::Cpu(cpu) => cpu.in_bf16(),
            Engine::Candle(_) => [false; 2],
        }
    }

    /// The base's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The first layer of the head.
    pub fn tap(&self) -> usize {
        self.tap
    }

    /// The losses of one batch and the gradient of their total for the fast adapter.
    ///
    /// `replay`: the replayed blocks and the slow adapter. A group without labels adds nothing.
    /// # Errors
    /// [`HeadError::Adapter`] when an adapter does not fit; [`HeadError::Length`] when a sequence
    /// is longer than the head was loaded for.
    pub fn gradient(
        &self,
        fast: &Adapter,
        fresh: &Group<'_>,
        replay: Option<(&Group<'_>, &Adapter)>,
        objective: &Objective,
    ) -> Result<Gradient, HeadError> {
        let tokens = fresh.hidden.dim().1.max(replay.map_or(0, |(group, _)| group.hidden.dim().1));
        self.check_length(tokens)?;
        self.check(fast)?;
        replay.map_or(Ok(()), |(_, slow)| self.check(slow))?;
        match &self.engine {
            Engine::Cpu(cpu) => Ok(cpu.gradient(fast, fresh, replay, objective)),
            Engine::Candle(candle) => candle.gradient(fast, fresh, replay, objective),
        }
    }

    /// `KL(base || fast)` of the predictions of every label of `group`, in nats a label, and the
    /// gradient of `weight` times it for the fast adapter.
    ///
    /// It holds fast to what the bare base says of text that it wrote itself.
    /// # Errors
    /// As [`Head::gradient`].
    pub fn anchor(
        &self,
        fast: &Adapter,
        group: &Group<'_>,
        weight: f32,
    ) -> Result<(f32, Vec<f32>), HeadError> {
        self.check_length(group.hidden.dim().1)?;
        self.check(fast)?;
        match &self.engine {
            Engine::Cpu(cpu) => Ok(cpu.anchor(fast, group, weight)),
            Engine::Candle(candle) => candle.anchor(fast, group, weight),
        }
    }

    /// The sum of nats over the labels of each block, `[B]`; no gradient.
    ///
    /// # Errors
    /// As [`Head::gradient`].
    pub fn nats(
        &self,
        adapter: Option<&Adapter>,
        group: &Group<'_>,
    ) -> Result<Vec<f64>, HeadError> {
        self.check_length(group.hidden.dim().1)?;
        adapter.map_or(Ok(()), |adapter| self.check(adapter))?;
        let nats = match &self.engine {
            Engine::Cpu(cpu) => cpu.nats(adapter, group),
            Engine::Candle(candle) => candle.nats(adapter, group)?,
        };
        Ok(group.sums(&nats).into_iter().map(|(sum, _)| sum).collect())
    }

    /// Logits of every position, `[B, T, V]`: for proofs and small inputs.
    ///
    /// # Errors
    /// As [`Head::gradient`].
    pub fn logits(
        &self,
        adapter: Option<&Adapter>,
        hidden: &Array3<f32>,
    ) -> Result<Array3<f32>, HeadError> {
        let (b, t, _) = hidden.dim();
        self.check_length(t)?;
        adapter.map_or(Ok(()), |adapter| self.check(adapter))?;
        let group = Group { blocks: &[], hidden };
        let logits = match &self.engine {
            Engine::Cpu(cpu) => cpu.logits(adapter, &group),
            Engine::Candle(candle) => candle.logits(adapter, &group)?,
        };
        Array3::from_shape_vec((b, t, self.config.vocab), logits)
            .map_err(|error| candle_core::Error::Msg(error.to_string()).into())
    }

    fn check(&self, adapter: &Adapter) -> Result<(), HeadError> {
        check(adapter, &self.config, self.tap..self.config.layers)
    }

    fn check_length(&self, tokens: usize) -> Result<(), HeadError> {
        let max = match &self.engine {
            Engine::Cpu(cpu) => cpu.positions(),
            Engine::Candle(candle) => candle.positions(),
        };
        if tokens > max { Err(HeadError::Length { got: tokens, max }) } else { Ok(()) }
    }
}

/// The configuration of a base whose context holds `tokens_max` tokens.
fn checked(base: &Base, tokens_max: usize) -> Result<Config, HeadError> {
    let config = base.config().clone();
    if tokens_max > config.context {
        return Err(HeadError::Length { got: tokens_max, max: config.context });
    }
    Ok(config)
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
